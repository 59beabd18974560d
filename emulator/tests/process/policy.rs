//! What an administrator sets shows in what passes, on either path.

use std::time::Instant;

use crate::blocking::negotiated;
use crate::control::command;
use crate::emulator::{BACK_TO_BACK, Emulator, drops, wait_for};
use crate::port::{BROADCAST, Port, pass};

/// Two ports on NIC a, two on NIC b.
fn bench() -> (Emulator, [Port; 4]) {
    let emulator = Emulator::with_config(BACK_TO_BACK);
    let ports = ["a-vf0.sock", "a-vf1.sock", "b-vf0.sock", "b-vf1.sock"]
        .map(|name| Port::open(&emulator.path(name)));
    (emulator, ports)
}

/// Puts all four VFs on one path.
fn all(emulator: &Emulator, path: &str) {
    for vf in ["a vf 0", "a vf 1", "b vf 0", "b vf 1"] {
        command(emulator, &format!("{vf} set path {path}"));
    }
}

fn dropped(emulator: &Emulator, nic: usize, vf: usize, reason: &str) -> u64 {
    let drops = drops(&emulator.vf(nic, vf).total);
    drops
        .iter()
        .filter(|(r, _)| r == reason)
        .map(|(_, n)| n)
        .sum()
}

/// Waits until one frame more than before is counted, which may be after it was looked for in vain.
#[track_caller]
fn drops_one(emulator: &Emulator, nic: usize, vf: usize, reason: &str, before: u64) {
    wait_for("a drop is counted", || {
        (dropped(emulator, nic, vf, reason) > before).then_some(())
    });
    assert_eq!(dropped(emulator, nic, vf, reason), before + 1, "{reason}");
}

/// `frame` with an 802.1Q tag.
fn tagged(frame: &[u8], vid: u16) -> Vec<u8> {
    let tag = [&[0x81, 0][..], &vid.to_be_bytes()].concat();
    [&frame[..12], &tag, &frame[12..]].concat()
}

#[test]
fn port_vlans_part_and_join_across_the_wire() {
    let (emulator, [mut a0, mut a1, mut b0, mut b1]) = bench();
    command(&emulator, "a vf 0 set vlan 10 qos 3");
    command(&emulator, "b vf 0 set vlan 10");
    for paths in [
        ["direct", "direct"],
        ["mediated", "mediated"],
        ["direct", "mediated"],
        ["mediated", "direct"],
    ] {
        for (nic, path) in ["a", "b"].iter().zip(paths) {
            for vf in 0..2 {
                command(&emulator, &format!("{nic} vf {vf} set path {path}"));
            }
        }
        // Members of VLAN 10 see each other's frames without a tag; the others see them with it.
        pass(&mut a0, &mut b0);
        let frame = a0.frame(BROADCAST, 300);
        a0.send(&frame);
        b0.gets(&frame);
        let mut seen = tagged(&frame, 3 << 13 | 10);
        a1.gets(&seen);
        b1.gets(&seen);
        // The untagged world does not reach into the VLAN, not even by address.
        let frame = a1.frame(b0.mac, 100);
        a1.send(&frame);
        b0.never_gets(&frame);
        let frame = b1.frame(BROADCAST, 100);
        b1.send(&frame);
        a1.gets(&frame);
        a0.never_gets(&frame);
        // With the right tag it does.
        let frame = a1.frame(b0.mac, 100);
        seen = tagged(&frame, 10);
        a1.send(&seen);
        b0.gets(&frame);
        // What members tag themselves stays inside the VLAN, whatever its number.
        let frame = a0.frame(b0.mac, 100);
        for vid in [0, 10, 30] {
            seen = tagged(&frame, vid);
            a0.send(&seen);
            b0.gets(&seen);
        }
    }
    // Without it, all is as it was.
    command(&emulator, "a vf 0 set vlan 0");
    command(&emulator, "b vf 0 set vlan 0");
    pass(&mut a0, &mut a1);
    pass(&mut b0, &mut a1);
}

#[test]
fn spoof_checks_on_either_path() {
    let (emulator, [mut a0, mut a1, mut b0, _]) = bench();
    for path in ["direct", "mediated"] {
        all(&emulator, path);
        for to in [&mut a1, &mut b0] {
            let mut frame = a0.frame(to.mac, 100);
            frame[11] ^= 0x40;
            let before = dropped(&emulator, 0, 0, "spoofed_mac");
            a0.send(&frame);
            to.never_gets(&frame);
            drops_one(&emulator, 0, 0, "spoofed_mac", before);
            command(&emulator, "a vf 0 set spoofchk off");
            a0.send(&frame);
            to.gets(&frame);
            command(&emulator, "a vf 0 set spoofchk on");
            pass(&mut a0, to);
        }
    }
}

#[test]
fn link_states_on_either_path() {
    let (emulator, [mut a0, mut a1, mut b0, _]) = bench();
    for path in ["direct", "mediated"] {
        all(&emulator, path);
        command(&emulator, "a vf 0 set state disable");
        let frame = a0.frame(a1.mac, 100);
        a0.send(&frame);
        a1.never_gets(&frame);
        let frame = a1.frame(a0.mac, 100);
        a1.send(&frame);
        a0.never_gets(&frame);
        assert!(dropped(&emulator, 0, 0, "vf_disabled") > 0);
        command(&emulator, "a vf 0 set state auto");
        pass(&mut a0, &mut a1);

        // The cable is pulled: nothing crosses, and VFs in state auto have no link at all.
        command(&emulator, "a link set down");
        let frame = a0.frame(b0.mac, 100);
        a0.send(&frame);
        b0.never_gets(&frame);
        let frame = b0.frame(a0.mac, 100);
        b0.send(&frame);
        a0.never_gets(&frame);
        assert!(dropped(&emulator, 0, 0, "link_down") > 0);
        command(&emulator, "a vf 0 set state enable");
        command(&emulator, "a vf 1 set state enable");
        pass(&mut a0, &mut a1);
        let frame = a0.frame(b0.mac, 100);
        a0.send(&frame);
        b0.never_gets(&frame);
        command(&emulator, "a link set up");
        command(&emulator, "a vf 0 set state auto");
        command(&emulator, "a vf 1 set state auto");
        pass(&mut a0, &mut b0);

        // Pulled at the other end it carries nothing at this one either.
        command(&emulator, "b link set down");
        let links = emulator.show().nics.into_iter().map(|nic| nic.link);
        let links: Vec<_> = links.map(|link| (link.up, link.carrier)).collect();
        assert_eq!(links, [(false, false), (false, true)]);
        let before = dropped(&emulator, 0, 0, "no_carrier");
        let frame = a0.frame(b0.mac, 100);
        a0.send(&frame);
        b0.never_gets(&frame);
        drops_one(&emulator, 0, 0, "no_carrier", before);
        command(&emulator, "b link set up");
        pass(&mut a0, &mut b0);
    }
}

#[test]
fn rate_limits_hold_senders_back_on_either_path() {
    const MBPS: f64 = 40.0;
    const FRAMES: u32 = 400;
    let (emulator, [mut a0, mut a1, mut b0, _]) = bench();
    for path in ["direct", "mediated"] {
        all(&emulator, path);
        command(&emulator, &format!("a vf 0 set max_tx_rate {MBPS}"));
        for to in [&mut a1, &mut b0] {
            let before = emulator.vf(0, 0).total.tx_packets;
            let began = Instant::now();
            for _ in 0..FRAMES {
                let frame = a0.frame(to.mac, 1514);
                a0.send(&frame);
                while to.poll().is_some() {}
            }
            wait_for("all are sent", || {
                let sent = emulator.vf(0, 0).total.tx_packets - before;
                (sent == u64::from(FRAMES)).then_some(())
            });
            // A lower bound on time is an upper bound on speed: it holds on the slowest machine. Besides a millisecond's
            // worth that may go ahead, the last frame may overdraw.
            let least = f64::from(FRAMES - 1) * 1538.0 * 8.0 / (MBPS * 1e6) - 0.001;
            let took = began.elapsed().as_secs_f64();
            assert!(took > least, "{took} s for what takes {least} s");
            while to.poll().is_some() {}
        }
        command(&emulator, "a vf 0 set max_tx_rate 0");
        // Held back, not dropped.
        assert_eq!(drops(&emulator.vf(0, 0).total), []);
    }
}

#[test]
fn filters_bring_frames_to_other_addresses() {
    let (emulator, [mut a0, mut a1, mut b0, _]) = bench();
    let other = [0x02, 0, 0, 0, 0, 0x99];
    for path in ["direct", "mediated"] {
        all(&emulator, path);
        for from in [&mut a1, &mut b0] {
            let frame = from.frame(other, 100);
            from.send(&frame);
            a0.never_gets(&frame);
            command(&emulator, "a vf 0 mac add 02:00:00:00:00:99");
            from.send(&frame);
            a0.gets(&frame);
            command(&emulator, "a vf 0 mac del 02:00:00:00:00:99");
            from.send(&frame);
            a0.never_gets(&frame);
        }
    }
}

#[test]
fn the_table_judges_what_is_received_on_either_path() {
    let (emulator, [mut a0, mut a1, mut b0, _]) = bench();
    for path in ["direct", "mediated"] {
        all(&emulator, path);
        // The ports' own type, to a VF that has not got the address.
        emulator.does("--nic a filter add flow-type ether proto 0x88b5 vf 0");
        let frame = b0.frame([0x02, 0, 0, 0, 0, 0x99], 100);
        b0.send(&frame);
        a0.gets(&frame);
        // It says nothing about what a VF sends to somebody beyond the wire.
        let frame = a1.frame(b0.mac, 100);
        a1.send(&frame);
        b0.gets(&frame);
        a0.never_gets(&frame);
        emulator
            .does("--nic a filter add flow-type ether proto 0x88b5 action drop priority required");
        assert_eq!(
            emulator.show().nics[0].filters,
            1,
            "it took the other's place"
        );
        let frame = a1.frame(a0.mac, 100);
        let before = dropped(&emulator, 0, 1, "filtered");
        a1.send(&frame);
        a0.never_gets(&frame);
        drops_one(&emulator, 0, 1, "filtered", before);
        let frame = a1.frame(b0.mac, 100);
        a1.send(&frame);
        b0.gets(&frame);
        let shown = emulator.vfnic(&["--nic", "a", "filter", "show"]).stdout;
        for filter in String::from_utf8(shown).unwrap().lines() {
            let spec: vf_model::FilterSpec = filter.parse().unwrap();
            let matches = spec.matches.to_string();
            emulator.does(&format!(
                "--nic a filter del {matches} priority {}",
                spec.priority
            ));
        }
        pass(&mut a1, &mut a0);
        pass(&mut b0, &mut a1);
    }
}

#[test]
fn what_is_for_a_vf_without_a_guest_is_counted_as_that() {
    let emulator = Emulator::start(&[]);
    let mut port = Port::open(&emulator.path("vf0.sock"));
    for path in ["direct", "mediated"] {
        for vf in 0..2 {
            command(&emulator, &format!("nic0 vf {vf} set path {path}"));
        }
        let before = dropped(&emulator, 0, 1, "not_attached");
        let frame = port.frame(BROADCAST, 100);
        port.send(&frame);
        wait_for("the frame is counted", || {
            (dropped(&emulator, 0, 1, "not_attached") == before + 1).then_some(())
        });
    }
    let all = drops(&emulator.vf(0, 1).total);
    assert_eq!(all, [("not_attached".to_owned(), 2)]);
}

/// What is longer than an MTU is dropped by whose it exceeds: the sender, the port on its way out and in, the receiver, and of a
/// group by each for itself.
#[test]
fn mtus_on_either_path() {
    let (emulator, [mut a0, mut a1, mut b0, _]) = bench();
    let at_port = |nic: usize, way: &str| {
        let nic = &emulator.show().nics[nic];
        let ports = [&nic.link.counters, &nic.pf];
        let drops = ports.map(|port| {
            if way == "rx" {
                &port.rx_drops
            } else {
                &port.tx_drops
            }
        });
        drops
            .iter()
            .filter_map(|drops| drops.get("mtu_exceeded"))
            .sum::<u64>()
    };
    let at_vf = |nic, vf| dropped(&emulator, nic, vf, "mtu_exceeded");
    for path in ["direct", "mediated"] {
        all(&emulator, path);
        // The sender's: a tag is no payload.
        command(&emulator, "a vf 0 set mtu 1000");
        let (fits, long) = (a0.frame(a1.mac, 1014), a0.frame(a1.mac, 1015));
        let before = at_vf(0, 0);
        a0.send(&long);
        a0.send(&fits);
        a1.gets(&fits);
        let fits = tagged(&fits, 5);
        a0.send(&fits);
        a1.gets(&fits);
        assert_eq!(at_vf(0, 0), before + 1);
        // The receiver's, once as the only one and once as one of a group.
        let long = a1.frame(a0.mac, 1015);
        a1.send(&long);
        a0.never_gets(&long);
        let long = a1.frame(BROADCAST, 1015);
        a1.send(&long);
        b0.gets(&long);
        a0.never_gets(&long);
        assert_eq!(at_vf(0, 0), before + 3);
        // The port's.
        command(&emulator, "a link set mtu 600");
        command(&emulator, "a vf 0-1 mtu 1400");
        let (out, back) = (at_port(0, "tx"), at_port(0, "rx"));
        let long = a0.frame(a1.mac, 1414);
        a0.send(&long);
        a1.gets(&long);
        let long = a0.frame(b0.mac, 615);
        a0.send(&long);
        b0.never_gets(&long);
        let long = b0.frame(a0.mac, 615);
        b0.send(&long);
        a0.never_gets(&long);
        assert_eq!((at_port(0, "tx"), at_port(0, "rx")), (out + 1, back + 1));
        let vf = emulator.vf(0, 1);
        assert_eq!((vf.mtu, emulator.show().nics[0].link.mtu), (1400, 600));
        let fits = a0.frame(b0.mac, 614);
        a0.send(&fits);
        b0.gets(&fits);
        command(&emulator, "a vf 0-1 mtu 0");
        assert_eq!(emulator.vf(0, 1).mtu, 600);
        command(&emulator, "a link set mtu 9216");
        // Their drivers were told 1500 when they came, and agreed.
        let (fits, long) = (a0.frame(a1.mac, 1514), a0.frame(a1.mac, 1515));
        a0.send(&long);
        a0.send(&fits);
        a1.gets(&fits);
        a1.never_gets(&long);
        assert_eq!(emulator.vf(0, 1).mtu, 1500);
    }
}

/// The front end of a VF that is reset connects again and finds it as its administrator has left it.
#[test]
fn a_reset_closes_the_session_and_keeps_what_was_set() {
    let (emulator, [a0, mut a1, ..]) = bench();
    command(&emulator, "a vf 0 set trust on mtu 1400");
    command(&emulator, "a vf 0 request vlan add 5");
    assert_eq!(emulator.vf(0, 0).asked["vlans"], "5");
    let sessions = emulator.vf(0, 0).sessions;
    command(&emulator, "a vf 0 reset");
    let gone = wait_for("the end of the session", || {
        let vf = emulator.vf(0, 0);
        (!vf.connected).then_some(vf)
    });
    assert_eq!(gone.rings, 0);
    drop(a0);
    let mut a0 = Port::open(&emulator.path("a-vf0.sock"));
    let vf = emulator.vf(0, 0);
    assert_eq!(vf.sessions, sessions + 1);
    assert!(vf.asked.is_empty() && vf.settings["trust"] == "on");
    assert_eq!(a0.net.config_space().mtu, 1400, "what was set meanwhile");
    let frame = a1.frame(a0.mac, 1400);
    a1.send(&frame);
    a0.gets(&frame);
}

/// The mailbox of a VF whose front end answers its control queue itself, with what the PF answers.
#[test]
fn requests_over_the_mailbox_are_answered_and_take_effect() {
    let (emulator, [mut a0, mut a1, mut b0, _]) = bench();
    let asks = |words: &str| {
        let words = format!("--nic a vf {words}");
        let args: Vec<&str> = words.split_whitespace().collect();
        let output = emulator.vfnic(&args);
        assert!(output.status.success(), "{words}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let says = |words: &str, answer: &str| {
        let said = asks(words);
        assert!(said.contains(answer), "{words}: {said}");
    };
    says("0 request link", "vf0: up");
    command(&emulator, "a vf 0 set state disable");
    says("0-1 request link", "vf0: down\nvf1: up");
    command(&emulator, "a vf 0 set state auto query_rss on");
    says("0 request rss", "vf0: hkey 6d:5a:");
    // A further address, which is the VF's from then on.
    let other = [0x02, 0, 0, 0, 0, 0x99];
    for path in ["direct", "mediated"] {
        all(&emulator, path);
        says("0 request macvlan 02:00:00:00:00:99", "vf0: yes");
        for from in [&mut a1, &mut b0] {
            let frame = from.frame(other, 100);
            from.send(&frame);
            a0.gets(&frame);
        }
        says("0 request macvlan", "vf0: yes");
        let frame = a1.frame(other, 100);
        a1.send(&frame);
        a0.never_gets(&frame);
        // Its driver takes no more than this.
        says("0 request mtu 1000", "vf0: yes");
        let long = a1.frame(a0.mac, 1015);
        a1.send(&long);
        a0.never_gets(&long);
        assert_eq!(emulator.vf(0, 0).mtu, 1000);
        says("0 request mtu 1500", "vf0: yes");
        // It says yes and shows it nothing that is for others, until the VF is trusted.
        let unknown = [0x02, 0, 0, 0, 0, 0x77];
        says(
            "0 request promisc on",
            "vf0: yes, but a VF without trust receives only what is for it",
        );
        let frame = b0.frame(unknown, 100);
        b0.send(&frame);
        a0.never_gets(&frame);
        command(&emulator, "a vf 0 set trust on");
        let frame = b0.frame(unknown, 100);
        b0.send(&frame);
        a0.gets(&frame);
        command(&emulator, "a vf 0 set trust off");
        says("0 request promisc off", "vf0: yes");
    }
    // What is asked for is the same words as what is shown of it.
    says("0 request vlan add 5", "vf0: yes");
    assert_eq!(emulator.vf(0, 0).asked["vlans"], "5");
    says("0 request reset", "vf0: yes");
    assert!(emulator.vf(0, 0).asked.is_empty());
}

/// The address that a driver has chosen is not its VF's any more when the administrator does not trust it with that.
#[test]
fn a_driver_reads_the_address_that_its_vf_has() {
    let emulator = Emulator::with_config(BACK_TO_BACK);
    let mut frontend = negotiated(&emulator.path("a-vf0.sock"));
    let [own, chosen, other] = [0x10, 0x77, 0x20].map(|last| vec![2, 0, 0, 0, 0, last]);
    for (words, reads) in [
        ("set mac 02:00:00:00:00:10 trust on", &own),
        ("request mac 02:00:00:00:00:77", &chosen),
        ("set trust off", &own),
        ("set trust on", &chosen),
        ("set mac 02:00:00:00:00:20", &other),
        ("request mac 02:00:00:00:00:77", &chosen),
        ("request reset", &other),
    ] {
        command(&emulator, &format!("a vf 0 {words}"));
        assert_eq!(&frontend.get_config(0, 6).unwrap(), reads, "{words}");
    }
}
