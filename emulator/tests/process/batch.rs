//! Several commands at once: all of them or none.

use std::fmt::Write as _;
use std::io::Write as _;
use std::process::{Command, Stdio};

use vfnic::control::{NicCommand, Request, Response, ask};

use crate::emulator::{BACK_TO_BACK, Emulator};

/// Carries out a batch from a file, in the way that `how` spells it; its error, if there is one, on one line.
fn batch(emulator: &Emulator, how: &str, text: &str) -> Result<(), String> {
    let file = emulator.path("commands");
    std::fs::write(&file, text).unwrap();
    let output = emulator.vfnic(&[how, file.to_str().unwrap()]);
    let said = String::from_utf8(output.stderr).unwrap();
    if output.status.success() {
        assert_eq!(said, "");
        return Ok(());
    }
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert_eq!(said.lines().count(), 1, "{said}");
    Err(said)
}

#[test]
fn a_batch_is_carried_out_in_order_however_it_is_spelled() {
    let emulator = Emulator::with_config(BACK_TO_BACK);
    for (how, vlan) in [
        ("batch", "10"),
        ("-b", "11"),
        ("--batch", "12"),
        ("-batch", "13"),
    ] {
        let text = format!(
            "# both NICs\n\n--nic a vf 0 set vlan 5 # not for long\n--nic b vf 1 set vlan {vlan}\n--nic a vf 0 set vlan {vlan}\n"
        );
        batch(&emulator, how, &text).unwrap();
        for (nic, vf) in [(0, 0), (1, 1)] {
            assert_eq!(emulator.vf(nic, vf).settings["vlan"], vlan, "{how}");
        }
    }
    // What names no NIC is for that of the command line, and a batch may come from a pipe.
    let ctl = emulator.ctl();
    let mut tool = Command::new(env!("CARGO_BIN_EXE_vfnic"))
        .args(["--ctl", ctl.to_str().unwrap(), "--nic", "b", "batch", "-"])
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    tool.stdin
        .take()
        .unwrap()
        .write_all(b"vf 0 set trust on\nlink set down\n")
        .unwrap();
    assert!(tool.wait().unwrap().success());
    let show = emulator.show();
    assert_eq!(show.nics[1].vfs[0].settings["trust"], "on");
    assert!(!show.nics[1].link.up);
    // An empty one is done, whether anybody runs or not.
    batch(&emulator, "batch", "# nothing\n").unwrap();
}

#[test]
fn a_batch_with_one_bad_line_changes_nothing_and_names_it() {
    let emulator = Emulator::with_config(BACK_TO_BACK);
    let settings = || {
        let show = emulator.show();
        let vfs = show.nics.iter().flat_map(|nic| &nic.vfs);
        let settings: Vec<_> = vfs
            .map(|vf| (vf.settings.clone(), vf.path.clone()))
            .collect();
        (
            settings,
            show.nics
                .iter()
                .map(|nic| (nic.filters, nic.link.up))
                .collect::<Vec<_>>(),
        )
    };
    let before = settings();
    // On both NICs, and with rings that would have to move.
    let good = "--nic a vf 0 set trust on path mediated\n--nic b link set down\n--nic b vf 1 set vlan 7\n--nic a filter add flow-type ether proto 0x88b5 vf 1\n";
    for (bad, line, says) in [
        (
            "--nic b vf 9 set trust on",
            6,
            "vf 9 set trust on: vf9: the VFs of this NIC are 0 to 1 (no line of it is in force)",
        ),
        ("--nic a vf 1 set qos 3", 6, "set vlan first"),
        ("--nic c link set up", 6, "no NIC 'c': there is a, b"),
        ("link set up", 6, "which NIC? say --nic with one of: a, b"),
        (
            "--nic a filter del flow-type ether proto 0x88b6",
            6,
            "no line of it is in force",
        ),
        // Known to be wrong before anybody is asked.
        (
            "--nic a vf 0 set state up",
            6,
            "state 'up': auto, enable or disable",
        ),
    ] {
        for after in ["", "--nic a vf 0 set qos 9\n"] {
            let error = batch(&emulator, "batch", &format!("{good}\n{bad}\n{after}")).unwrap_err();
            assert!(
                error.contains(&format!("commands:{line}: ")) && error.contains(says),
                "{bad}: {error}"
            );
            assert_eq!(settings(), before, "{bad}");
        }
    }
    batch(&emulator, "batch", good).unwrap();
    assert_ne!(settings(), before);
}

#[test]
fn a_batch_fills_a_table_and_one_that_overfills_it_adds_nothing() {
    let emulator = Emulator::start(&[]);
    let filters = |n: std::ops::Range<u32>| {
        n.fold(String::new(), |mut text, n| {
            let (high, low) = (n / 256, n % 256);
            writeln!(text, "filter add flow-type tcp4 src-ip 10.8.{high}.{low} dst-ip 10.7.{high}.{low} src-port 80 dst-port 80 vf 1").unwrap();
            text
        })
    };
    let error = batch(&emulator, "batch", &filters(0..8193)).unwrap_err();
    assert!(error.contains("commands:8193: filter add"), "{error}");
    assert_eq!(emulator.show().nics[0].filters, 0);
    batch(&emulator, "batch", &filters(0..8192)).unwrap();
    assert_eq!(emulator.show().nics[0].filters, 8192);
    // Those that have gone make room for others within one batch.
    batch(
        &emulator,
        "batch",
        &format!("filter flush\n{}", filters(8192..16384)),
    )
    .unwrap();
    assert_eq!(emulator.show().nics[0].filters, 8192);
    // What would be cut off on its way is not sent, and a batch that is no text is none.
    let error = batch(&emulator, "batch", &"#".repeat(5 << 20)).unwrap_err();
    assert!(error.contains("split it"), "{error}");
    let words = vec!["x".repeat(64); 1 << 16];
    let request = Request::Batch {
        commands: vec![NicCommand { nic: None, words }],
    };
    let error = ask(&emulator.ctl(), &request).unwrap_err().to_string();
    assert!(error.contains("split it"), "{error}");
    let Response::Show(show) = ask(&emulator.ctl(), &Request::Show).unwrap() else {
        panic!("no show");
    };
    assert_eq!(show.nics[0].filters, 8192);
}
