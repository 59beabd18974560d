//! Impairments and flapping links of a NIC that runs.

use std::time::{Duration, Instant};

use crate::emulator::{BACK_TO_BACK, Emulator, wait_for};
use crate::port::Port;

#[test]
fn impairments_come_and_go_while_traffic_runs_and_are_shown_and_kept() {
    let mut emulator = Emulator::with_config(BACK_TO_BACK);
    let [mut a, mut b] =
        ["a-vf0.sock", "b-vf0.sock"].map(|socket| Port::open(&emulator.path(socket)));
    emulator.does("link set dev a delay 30ms");
    emulator.does("link set dev b ingress duplicate 100%");
    let frame = a.frame(b.mac, 60);
    let sent = Instant::now();
    a.send(&frame);
    b.gets(&frame);
    assert!(sent.elapsed() >= Duration::from_millis(30));
    b.gets(&frame);
    emulator.does("link set dev a netem none");
    emulator.does("link set dev b both none");
    for path in ["direct", "mediated"] {
        emulator.does(&format!("--nic b vf 0 set path {path}"));
        emulator.does("--nic b vf 0 set netem ingress loss 100%");
        let lost = a.frame(b.mac, 60);
        a.send(&lost);
        b.never_gets(&lost);
        emulator.does("--nic b vf 0 set netem ingress none");
        let frame = a.frame(b.mac, 61);
        a.send(&frame);
        b.gets(&frame);
    }
    assert_eq!(emulator.vf(1, 0).total.rx_drops["netem_loss"], 2);
    emulator.does("link set dev a loss gemodel 1% 10% seed 7");
    emulator.does("--nic b vf 0 set delay 1ms 100us distribution pareto");
    let words = |emulator: &Emulator| {
        let show = emulator.show();
        let [a, b] = &show.nics[..] else {
            panic!("two NICs")
        };
        (
            a.netem["egress"].clone(),
            a.uplink.clone(),
            b.vfs[0].netem["egress"].clone(),
        )
    };
    let said = words(&emulator);
    assert_eq!(said.0, "loss gemodel 1% 10% 100% 0% seed 7");
    assert_eq!(said.1, format!("wire netem {}", said.0));
    assert_eq!(said.2, "delay 1ms 100us distribution pareto");
    emulator.kill();
    emulator.restart();
    assert_eq!(words(&emulator), said);
    let refused = emulator.vfnic(&["link", "set", "dev", "a", "delay", "10min"]);
    let text = String::from_utf8(refused.stderr).unwrap();
    assert!(
        text.contains("delay '10min': a number with s, ms, us or ns"),
        "{text}"
    );
}

#[test]
fn a_flapping_link_is_seen_at_both_ends() {
    let emulator = Emulator::with_config(BACK_TO_BACK);
    emulator.does("link set dev a flap up 50ms down 50ms");
    for up in [false, true, false] {
        wait_for("the carrier changes", || {
            let show = emulator.show();
            (show.nics.iter().all(|nic| nic.link.up == up)).then_some(())
        });
    }
    emulator.does("link set dev a flap none");
    let show = emulator.show();
    assert!(
        show.nics
            .iter()
            .all(|nic| nic.link.up && nic.flap.is_none())
    );
    emulator.does("link set dev a carrier off");
    assert!(emulator.show().nics.iter().all(|nic| !nic.link.carrier));
}

#[test]
fn a_cable_that_is_taken_out_while_it_flaps_stays_out() {
    let emulator = Emulator::with_config(BACK_TO_BACK);
    emulator.does("link set dev a flap up 30ms down 10ms");
    emulator.does("link set dev a carrier off");
    for _ in 0..20 {
        std::thread::sleep(std::time::Duration::from_millis(10));
        assert!(emulator.show().nics.iter().all(|nic| !nic.link.carrier));
    }
    let saved = String::from_utf8(emulator.vfnic(&["save"]).stdout).unwrap();
    assert!(
        saved.contains("carrier = false") && !saved.contains("flap"),
        "{saved}"
    );
}
