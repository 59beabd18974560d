//! `vfnic why`: what becomes of a frame, asked of a NIC that runs.

use std::fs::File;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use pcap_file::pcap::{PcapPacket, PcapWriter};
use vfnic::control::why::Why;

use crate::emulator::{Emulator, vfnic};

fn ask(emulator: &Emulator, words: &str) -> std::process::Output {
    let ctl = emulator.ctl();
    let words = words.split_whitespace();
    let args = ["--ctl", ctl.to_str().unwrap(), "why"].into_iter();
    vfnic(&args.chain(words).collect::<Vec<_>>())
}

fn says(emulator: &Emulator, words: &str) -> String {
    let output = ask(emulator, words);
    assert!(output.status.success(), "{words}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

fn json(emulator: &Emulator, words: &str) -> Why {
    serde_json::from_str(&says(emulator, &format!("{words} --json"))).unwrap()
}

#[test]
fn the_rule_that_decides_is_named() {
    let emulator = Emulator::start(&["--vfs", "3"]);
    let text = says(&emulator, "from vf0 dst vf1");
    assert!(
        text.contains("is an address of vf1\nvf1 gets it on the direct path"),
        "{text}"
    );

    emulator.does("vf 1 set path mediated vlan 100");
    emulator.does("vf 0 set spoofchk on");
    let text = says(&emulator, "from vf0 dst vf1");
    assert!(text.contains("which is not in this VLAN"), "{text}");
    let why = json(&emulator, "from wire dst vf1 vlan 100");
    assert_eq!(why.vfs.iter().map(|vf| vf.vf).collect::<Vec<_>>(), [1]);
    assert!(
        why.steps
            .iter()
            .any(|step| step.contains("mediated path, without its outer tag")),
        "{why:?}"
    );
    let why = json(&emulator, "from vf0 src vf2 dst broadcast");
    assert_eq!(why.drop.as_deref(), Some("spoofed_mac"));
    assert!(
        why.steps
            .iter()
            .any(|step| step.contains("is no address of vf0")),
        "{why:?}"
    );

    emulator.does("filter add flow-type tcp4 dst-ip 10.0.0.1 dst-port 80 vf 0");
    emulator.does("filter add flow-type ether proto 0x0800 action drop");
    let text = says(&emulator, "from vf0 dst vf2 tcp dst-ip 10.0.0.1 dport 80");
    let (passed_over, matches) = text.split_once("a filter matches: ").unwrap();
    assert!(
        passed_over.contains("passed over") && passed_over.contains("dst-port 80 vf 0"),
        "{text}"
    );
    assert!(
        matches.starts_with("flow-type ether proto 0x0800 action drop"),
        "{text}"
    );
    assert!(matches.contains("\ndropped: filtered. A filter"), "{text}");

    // Nothing has been counted.
    let nic = &emulator.show().nics[0];
    assert!(nic.vfs.iter().all(|vf| vf.total.tx_drops.is_empty()));
}

#[test]
fn the_frames_of_a_capture_are_asked_about_one_by_one() {
    let emulator = Emulator::start(&[]);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("two.pcap");
    let mut capture = PcapWriter::new(File::create(&path).unwrap()).unwrap();
    for dst in [[0xff; 6], [2, 0, 0, 0, 0, 9]] {
        let mut frame = [&dst[..], &[2, 0, 0, 0, 0, 7], &[8, 0]].concat();
        frame.resize(60, 0);
        let packet = PcapPacket::new(Duration::ZERO, 1514, &frame);
        capture.write_packet(&packet).unwrap();
    }
    drop(capture);
    let words = |path: &Path| format!("--pcap {} from wire", path.display());
    let text = says(&emulator, &words(&path));
    assert!(
        text.starts_with("packet 1, 1514 bytes\n") && text.contains("\npacket 2,"),
        "{text}"
    );
    let second = says(&emulator, &format!("{} --packet 2", words(&path)));
    assert!(
        !second.contains("packet 1") && second.contains("no VF in this VLAN has"),
        "{second}"
    );

    let mut piped = Command::new(env!("CARGO_BIN_EXE_vfnic"));
    let ctl = emulator.ctl();
    let piped = piped
        .args(["--ctl", ctl.to_str().unwrap(), "why", "--pcap", "-"])
        .args(["from", "wire"])
        .stdin(File::open(&path).unwrap())
        .output()
        .unwrap();
    assert_eq!(String::from_utf8(piped.stdout).unwrap(), text);

    let each = says(&emulator, &format!("{} --json", words(&path)));
    let each: Vec<serde_json::Value> = each
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!((each.len(), &each[1]["packet"]), (2, &2.into()));

    let none = dir.path().join("none.pcap");
    std::fs::write(&none, "no capture").unwrap();
    for (words, says) in [
        (
            format!("{} --packet 3", words(&path)),
            "there are 2 packets",
        ),
        (format!("{} dst vf1", words(&path)), "'dst': the frames are"),
        (words(&none), "none.pcap"),
        (words(&dir.path().join("missing")), "missing"),
        ("from vf9 dst vf0".to_owned(), "0 to 1"),
        ("from vf0 dts vf1".to_owned(), "'dts'"),
    ] {
        let output = ask(&emulator, &words);
        let line = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{words}: {line}");
        assert!(
            line.lines().count() == 1 && line.contains(says),
            "{words}: {line}"
        );
    }
}

/// As `vfnic capture` has it of a guest with TSO.
#[test]
fn a_super_frame_of_a_capture_is_asked_about_as_one() {
    let emulator = Emulator::start(&[]);
    let vf = |n| emulator.vf(0, n).state.mac;
    let byte = |digits: &str| u8::from_str_radix(digits, 16).unwrap();
    let mut frame = Vec::new();
    for mac in [vf(1), vf(0)] {
        frame.extend(mac.split(':').map(byte));
    }
    frame.extend([8, 0, 0x45, 0]);
    frame.resize(20_000, 0);
    (frame[23], frame[46]) = (6, 0x50);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("tso.pcap");
    let mut capture = PcapWriter::new(File::create(&path).unwrap()).unwrap();
    let packet = PcapPacket::new(Duration::ZERO, 20_000, &frame);
    capture.write_packet(&packet).unwrap();
    drop(capture);
    let said = says(&emulator, &format!("--pcap {} from vf0", path.display()));
    assert!(
        said.contains("a super-frame") && said.contains("segments of 1460 bytes"),
        "{said}"
    );
    assert!(
        said.contains("vf1 gets it") && !said.contains("oversize"),
        "{said}"
    );
    let said = says(
        &emulator,
        &format!("--pcap {} from vf0 gso 0", path.display()),
    );
    assert!(said.contains("oversize"), "{said}");
}

#[test]
fn what_a_frame_meets_behind_the_rules_is_said() {
    let emulator = Emulator::start(&["--vfs", "2"]);
    // Nothing is plugged into its port.
    let why = json(&emulator, "from vf0 dst 52:54:00:00:00:07 tcp dport 80");
    assert_eq!((why.wire, why.drop.as_deref()), (false, Some("no_uplink")));
    let said = why.steps.join("\n");
    assert!(said.contains("nothing is plugged into the port"), "{said}");
    let why = json(&emulator, "from vf0 dst broadcast");
    assert_eq!((why.wire, &why.drop, why.vfs.len()), (false, &None, 1));

    // Nobody is on the VFs.
    emulator.does("vf 1 set netem ingress loss 100%");
    emulator.does("vf 0 set netem egress delay 10ms");
    emulator.does("link set netem egress delay 20ms");
    let said = says(&emulator, "from vf0 dst vf1");
    for line in [
        "no driver is attached to vf1 now: dropped there: not_attached",
        "what vf1 receives is impaired, and may be late, lost or another one: netem ingress loss 100%",
        "what vf0 sends is impaired, and may be late, lost or another one: netem egress delay 10ms",
    ] {
        assert!(said.contains(line), "{said}");
    }
    assert!(!said.contains("20ms"), "{said}");
}

#[test]
fn an_egress_filter_is_named_and_can_be_pasted_back() {
    let emulator = Emulator::start(&["--vfs", "2"]);
    emulator.does("filter add egress vf 0 flow-type tcp4 dst-port 25 action drop");
    let why = json(&emulator, "from vf0 dst broadcast tcp dport 25");
    assert_eq!(why.drop.as_deref(), Some("egress_filtered"));
    let ctl = emulator.ctl();
    let show = ["--ctl", ctl.to_str().unwrap(), "filter", "show"];
    let shown = String::from_utf8(vfnic(&show).stdout).unwrap();
    let line = shown.trim_end().split("  #").next().unwrap();
    assert!(
        why.steps.iter().any(|step| step.contains(line)),
        "{line}: {why:?}"
    );
    emulator.does("filter flush");
    emulator.does(&format!("filter add {line}"));
    let again = String::from_utf8(vfnic(&show).stdout).unwrap();
    assert_eq!(again, shown);
    let why = json(&emulator, "from vf1 dst broadcast tcp dport 25");
    assert_eq!(why.drop, None);
}
