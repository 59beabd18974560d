//! Impairments and flapping links of a NIC that runs.

use std::time::{Duration, Instant};

use vfnic::control::show::ShowNetem;

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

/// A copy that the NIC makes is no frame of the guest's, and whoever compares their counters finds it.
#[test]
fn what_impairments_do_to_a_vf_is_counted_by_direction_on_each_path() {
    const FRAMES: u64 = 40;
    let mut emulator = Emulator::with_config(BACK_TO_BACK);
    let [mut a, mut b] =
        ["a-vf0.sock", "b-vf0.sock"].map(|socket| Port::open(&emulator.path(socket)));
    assert!(emulator.vf(0, 0).netem_counters.is_empty());
    emulator.does("--nic a vf 0 set netem duplicate 50% seed 4");
    emulator.does("--nic b vf 0 set netem ingress delay 1ms corrupt 100% reorder 50% seed 4");
    let mut sent = 0;
    for path in ["direct", "mediated", "direct"] {
        for nic in ["a", "b"] {
            emulator.does(&format!("--nic {nic} vf 0 set path {path}"));
        }
        for _ in 0..FRAMES {
            let frame = a.frame(b.mac, 60);
            a.send(&frame);
            // It comes with another bit.
            wait_for("the frame", || b.poll().map(drop));
        }
        sent += FRAMES;
        wait_for("all are counted", || {
            let vf = emulator.vf(0, 0);
            let sent_twice = vf.netem_counters["egress"].duplicated;
            (vf.total.tx_packets == sent + sent_twice).then_some(())
        });
    }
    let (of_a, of_b) = (emulator.vf(0, 0), emulator.vf(1, 0));
    let sent_twice = of_a.netem_counters["egress"].duplicated;
    assert!(
        (sent / 3..sent * 2 / 3).contains(&sent_twice),
        "{sent_twice}"
    );
    assert_eq!(of_a.netem_counters["ingress"], ShowNetem::default());
    let got = of_b.netem_counters["ingress"];
    assert_eq!(got.corrupted, sent + sent_twice);
    assert!(got.reordered > sent / 4, "{got:?}");
    emulator.does("--nic a vf 0 set netem both loss 100%");
    let lost = a.frame(b.mac, 60);
    a.send(&lost);
    wait_for("it is lost", || {
        (emulator.vf(0, 0).netem_counters["egress"].lost == 1).then_some(())
    });
    // What was counted stays when nothing is impaired any more, in the document and in the metrics, and over an upgrade.
    emulator.does("--nic a vf 0 set netem none");
    emulator.does("--nic b vf 0 set netem none");
    let counted = |emulator: &Emulator| {
        let show = emulator.show();
        let of = |nic: usize| show.nics[nic].vfs[0].netem_counters.clone();
        (of(0), of(1))
    };
    let before = counted(&emulator);
    assert_eq!(before.0["egress"].duplicated, sent_twice);
    let page = String::from_utf8(emulator.vfnic(&["show", "--openmetrics"]).stdout).unwrap();
    for (event, n) in [("duplicated", sent_twice), ("lost", 1)] {
        let labels = format!("nic=\"a\",vf=\"0\",direction=\"egress\",event=\"{event}\"");
        let line = format!("vfnic_vf_netem_packets_total{{{labels}}} {n}\n");
        assert!(page.contains(&line), "{page}");
    }
    assert!(!page.contains("vf=\"1\",direction"), "{page}");
    let said = String::from_utf8(emulator.vfnic(&["show"]).stdout).unwrap();
    let line = format!("      netem     egress duplicated {sent_twice}\n");
    assert!(said.contains(&line), "{said}");
    emulator.upgrade();
    assert_eq!(counted(&emulator), before);
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
