//! How the NIC's switch forwards, said in the words of bridge(8) to a NIC that runs, shows in what passes, on either path.

use crate::control::command;
use crate::emulator::{BACK_TO_BACK, Emulator, vfnic};
use crate::port::{BROADCAST, Port, pass};

/// One NIC with three VFs, whose port is at a bridge that gives everything back.
const HAIRPIN: &str = "[[nic]]\nname = 'a'\nvfs = 3\nuplink = 'hairpin'\n";

fn ports<const N: usize>(emulator: &Emulator, names: [&str; N]) -> [Port; N] {
    names.map(|name| Port::open(&emulator.path(name)))
}

/// Frames that have left on the wire of the first NIC.
fn sent(emulator: &Emulator) -> u64 {
    emulator.show().nics[0].link.counters.tx_packets
}

/// What `vfnic` prints.
fn says(emulator: &Emulator, words: &str) -> String {
    let words: Vec<_> = words.split(' ').collect();
    let output = emulator.vfnic(&words);
    assert!(output.status.success(), "{words:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn hwmode_vepa_sends_everything_to_the_adjacent_bridge() {
    let emulator = Emulator::with_config(HAIRPIN);
    let [mut a, mut b, mut c] = ports(&emulator, ["a-vf0.sock", "a-vf1.sock", "a-vf2.sock"]);
    for paths in [
        ["direct", "direct"],
        ["mediated", "mediated"],
        ["direct", "mediated"],
    ] {
        for (vf, path) in paths.into_iter().enumerate() {
            command(&emulator, &format!("a vf {vf} set path {path}"));
        }
        emulator.does("bridge link set dev a hwmode veb");
        let before = sent(&emulator);
        pass(&mut a, &mut b);
        assert_eq!(sent(&emulator), before, "{paths:?}: a VEB keeps it");

        emulator.does("bridge link set dev a hwmode vepa");
        assert_eq!(
            says(&emulator, "bridge link show"),
            "a: up mtu 9216 hwmode vepa\n"
        );
        pass(&mut a, &mut b);
        assert_eq!(
            sent(&emulator),
            before + 4,
            "{paths:?}: a VEPA sends it to the bridge"
        );
        // What it gives back of a group comes to everybody once, and not to who sent it.
        let frame = a.frame(BROADCAST, 100);
        a.send(&frame);
        for port in [&mut b, &mut c] {
            port.gets(&frame);
            port.never_gets(&frame);
        }
        a.never_gets(&frame);
    }
}

#[test]
fn hwmode_floating_keeps_vfs_together_without_a_cable() {
    let emulator = Emulator::with_config(BACK_TO_BACK);
    let [mut a0, mut a1, mut b0] = ports(&emulator, ["a-vf0.sock", "a-vf1.sock", "b-vf0.sock"]);
    emulator.does("bridge link set dev a hwmode floating");
    for path in ["direct", "mediated"] {
        command(&emulator, &format!("a vf 0-1 set path {path}"));
        let frame = a0.frame(b0.mac, 100);
        a0.send(&frame);
        b0.never_gets(&frame);
        emulator.does("link set dev b down");
        pass(&mut a0, &mut a1);
        emulator.does("link set dev b up");
        // A VEB stops with its link.
        emulator.does("bridge link set dev a hwmode veb");
        pass(&mut a0, &mut b0);
        emulator.does("link set dev b down");
        let frame = a0.frame(a1.mac, 100);
        a0.send(&frame);
        a1.never_gets(&frame);
        emulator.does("link set dev b up");
        emulator.does("bridge link set dev a hwmode floating");
    }
}

#[test]
fn a_station_on_the_bridge_is_reached_once_the_switch_is_told_of_it() {
    let emulator = Emulator::with_config(BACK_TO_BACK);
    let [mut vm, mut tap, mut far] = ports(&emulator, ["a-vf0.sock", "a-vf1.sock", "b-vf0.sock"]);
    command(&emulator, "a vf 1 set bridge on");
    let mac = tap.mac.map(|byte| format!("{byte:02x}")).join(":");
    for path in ["direct", "mediated"] {
        command(&emulator, &format!("a vf 0 set path {path}"));
        // The tap is heard by all, and answered by those on the wire.
        let frame = tap.frame(BROADCAST, 100);
        tap.send(&frame);
        vm.gets(&frame);
        far.gets(&frame);
        pass(&mut tap, &mut far);
        let frame = tap.frame(vm.mac, 100);
        tap.send(&frame);
        vm.gets(&frame);
        // By the VF's guest it is not: the frame is on the wire.
        let (frame, before) = (vm.frame(tap.mac, 100), sent(&emulator));
        vm.send(&frame);
        tap.never_gets(&frame);
        assert_eq!(sent(&emulator), before + 1);

        emulator.does(&format!("bridge fdb add {mac} dev a self"));
        assert_eq!(
            says(&emulator, "--nic a bridge fdb show"),
            format!("{mac} dev a self permanent\n")
        );
        pass(&mut vm, &mut tap);
        assert_eq!(sent(&emulator), before + 1);
        // For one VLAN it holds in that VLAN.
        emulator.does(&format!("bridge fdb del {mac} dev a"));
        emulator.does(&format!("fdb add {mac} dev a vlan 5"));
        vm.send(&frame);
        tap.never_gets(&frame);
        let shown = says(&emulator, "bridge fdb show dev a");
        assert_eq!(shown, format!("{mac} dev a vlan 5 self permanent\n"));
        // A line that is shown can be put behind the words that undo it.
        emulator.does(&format!("bridge fdb del {}", shown.trim()));
        assert_eq!(says(&emulator, "bridge fdb show"), "");
    }
}

#[test]
fn a_mirror_shows_another_vf_what_passes_and_not_what_is_dropped() {
    let emulator = Emulator::with_config(&BACK_TO_BACK.replacen("'a'", "'a'\nvfs = 3", 1));
    let [mut a0, mut a1, mut sniffer, mut b0] = ports(
        &emulator,
        ["a-vf0.sock", "a-vf1.sock", "a-vf2.sock", "b-vf0.sock"],
    );
    for path in ["direct", "mediated"] {
        command(&emulator, &format!("a vf 0-1 set path {path}"));
        emulator.does("link set dev a vf 0 mirror 2");
        // What it sends to a sibling and to the wire, and what it receives from both.
        for peer in [&mut a1, &mut b0] {
            let frame = a0.frame(peer.mac, 100);
            a0.send(&frame);
            peer.gets(&frame);
            sniffer.gets(&frame);
            let frame = peer.frame(a0.mac, 100);
            peer.send(&frame);
            a0.gets(&frame);
            sniffer.gets(&frame);
            sniffer.never_gets(&frame);
        }
        // What is dropped as spoofed is not seen, nor what is between others.
        let mut spoofed = a0.frame(a1.mac, 100);
        spoofed[11] ^= 0x40;
        a0.send(&spoofed);
        let others = b0.frame(a1.mac, 100);
        b0.send(&others);
        a1.gets(&others);
        for frame in [&spoofed, &others] {
            sniffer.never_gets(frame);
        }
        emulator.does("--nic a vf 0 mirror none");
        let frame = a0.frame(a1.mac, 100);
        a0.send(&frame);
        a1.gets(&frame);
        sniffer.never_gets(&frame);
    }
}

#[test]
fn a_batch_has_the_words_of_bridge_and_a_mistake_in_them_is_named() {
    let emulator = Emulator::with_config(BACK_TO_BACK);
    let file = emulator.path("batch");
    let all = "bridge link set dev a hwmode vepa\n\
               bridge fdb add 02:00:00:00:00:99 dev b vlan 7 self\n\
               --nic b fdb add 02:00:00:00:00:98\n";
    std::fs::write(&file, all).unwrap();
    emulator.does(&format!("batch {}", file.display()));
    assert_eq!(
        says(&emulator, "bridge link"),
        "a: up mtu 9216 hwmode vepa\nb: up mtu 9216 hwmode veb\n"
    );
    assert_eq!(
        says(&emulator, "bridge fdb show dev b"),
        "02:00:00:00:00:98 dev b self permanent\n02:00:00:00:00:99 dev b vlan 7 self permanent\n"
    );
    for (words, says) in [
        (
            "bridge link set hwmode vepa",
            "which NIC? say --nic with one of: a, b",
        ),
        (
            "--nic a bridge link set dev b hwmode vepa",
            "--nic a and dev b: a command is for one NIC",
        ),
        (
            "bridge link set dev c hwmode vepa",
            "no NIC 'c': there is a, b",
        ),
        ("bridge fdb show dev c", "no NIC 'c': there is a, b"),
        (
            "bridge fdb shwo",
            "fdb 'shwo': did you mean 'show'? add, del or show",
        ),
    ] {
        let words: Vec<_> = words.split(' ').collect();
        let output = emulator.vfnic(&words);
        assert_eq!(output.status.code(), Some(2), "{words:?}");
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(said.contains(says), "{words:?}: {said}");
    }
    let output = vfnic(&["bridge"]);
    assert_eq!(output.status.code(), Some(2));
}
