//! What people are told of a NIC that runs: `show`, again and again, and what starts a guest.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use crate::emulator::{BACK_TO_BACK, Emulator};

fn said(emulator: &Emulator, words: &str) -> String {
    let args: Vec<_> = words.split_whitespace().collect();
    let output = emulator.vfnic(&args);
    assert!(output.status.success(), "{words}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

fn refused(emulator: &Emulator, words: &str) -> String {
    let args: Vec<_> = words.split_whitespace().collect();
    let output = emulator.vfnic(&args);
    assert_eq!(output.status.code(), Some(2), "{words}: {output:?}");
    String::from_utf8(output.stderr).unwrap()
}

#[test]
fn show_is_for_people_and_its_json_for_programs() {
    let emulator = Emulator::with_config(BACK_TO_BACK);
    emulator.does("--nic a filter add flow-type ether proto 0x88b5 vf 1");
    emulator.does("--nic b vf 1 set trust on");
    let overview = said(&emulator, "show");
    assert_eq!(overview.matches("2 VFs never had a guest").count(), 2);
    assert!(said(&emulator, "show all").contains("vf 1  direct  waiting"));
    let one = said(&emulator, "--nic b show vf 1");
    assert!(
        one.starts_with("vf 1 ") && one.contains("trust on"),
        "{one}"
    );
    assert_eq!(one.matches("link up").count(), 1, "{one}");
    assert_eq!(said(&emulator, "show drops"), "nothing was dropped\n");
    let rules = said(&emulator, "show rules");
    assert!(
        rules.starts_with(
            "a:\n      id         hits  filter\n       0            0  flow-type ether proto 0x88b5"
        ),
        "{rules}"
    );
    let json: serde_json::Value =
        serde_json::from_str(&said(&emulator, "show vf 1 --json")).unwrap();
    assert_eq!(json["version"], 1);
    assert_eq!(json["nics"][1]["vfs"][0]["vf"], 1);
    let rules: serde_json::Value =
        serde_json::from_str(&said(&emulator, "show rules --json")).unwrap();
    assert_eq!(
        (&rules[0]["nic"], &rules[0]["id"], &rules[0]["hits"]),
        (&"a".into(), &0.into(), &0.into())
    );
    assert!(refused(&emulator, "show vf 2").contains("a has 0 to 1"));
}

#[test]
fn whoever_watches_waits_for_a_vfnic_that_is_restarted() {
    let mut emulator = Emulator::start(&[]);
    let ctl = emulator.ctl();
    let mut watch = Command::new(env!("CARGO_BIN_EXE_vfnic"))
        .arg("--ctl")
        .arg(&ctl)
        .args(["show", "--watch", "0.1"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(watch.stdout.take().unwrap()).lines();
    let mut comes = |what: &str| {
        // It says something all the time: a line that does not come ends the test by the harness's patience, not this one's.
        let found = lines
            .by_ref()
            .take(1000)
            .any(|line| line.unwrap().contains(what));
        assert!(found, "{what}");
    };
    comes("NIC     PORT");
    comes("nic0    wire");
    emulator.kill();
    comes("waiting for vfnic at");
    emulator.restart();
    comes("nic0    wire");
    // Nobody reads any more.
    drop(lines);
    assert!(watch.wait().unwrap().success());
}

#[test]
fn what_starts_a_guest_names_its_socket_and_its_address() {
    let emulator = Emulator::with_config(BACK_TO_BACK);
    let vf = emulator.vf(1, 1);
    for of in ["qemu", "libvirt", "cloud-hypervisor", "testpmd"] {
        let said = said(&emulator, &format!("guest 1 --nic b --for {of}"));
        assert!(
            said.contains("b-vf1.sock") && said.contains(&vf.state.mac),
            "{of}: {said}"
        );
    }
    assert!(refused(&emulator, "guest 1").contains("--nic"));
    assert!(refused(&emulator, "guest 2 --nic a").contains("0 to 1"));
    assert!(refused(&emulator, "guest 1 --nic a --queues 9").contains("8 queue pairs"));
}

#[test]
fn two_nics_on_a_machine_have_addresses_of_their_own_which_they_keep() {
    let (mut a, b) = (Emulator::start(&[]), Emulator::start(&[]));
    let mac = |emulator: &Emulator| emulator.vf(0, 0).state.permanent_mac;
    let first = mac(&a);
    assert_ne!(first, mac(&b));
    a.terminate("nothing");
    a.restart();
    assert_eq!(mac(&a), first);
}
