//! What frames from VF to VF take inside a NIC, on the virtual clock.

use super::*;

/// A nanosecond a byte, and a microsecond behind that.
const LOOPBACK: LinkConfig = LinkConfig {
    rate_bps: 8_000_000_000,
    propagation: Nanos(1_000),
};

fn bench(queues: &[u16]) -> Bench {
    let mut bench = Bench::bare(&vec![Path::Direct; queues.len()], Nanos(0), None);
    bench.worker.set_loopback(LOOPBACK);
    for (vf, queue_pairs) in queues.iter().enumerate() {
        let config = NetConfig {
            queue_pairs: *queue_pairs,
            ..queue_of(256)
        };
        bench.start(vf, &config);
    }
    bench
}

#[test]
fn frames_take_their_length_at_the_rate_and_the_latency() {
    let mut bench = bench(&[1, 1, 1]);
    for _ in 0..3 {
        assert!(bench.vms[0].send_on(0, mac(1), 1000));
    }
    for (at, frames) in [
        (0, 0),
        (1999, 0),
        (2000, 1),
        (2999, 1),
        (3000, 2),
        (4000, 3),
    ] {
        bench.run_until(Nanos(at));
        assert_eq!(bench.vms[1].receive(), frames, "at {at} ns");
    }
    // Each copy is written by itself, and the wire has none of it to carry.
    bench.now = MS;
    assert!(bench.vms[0].send_on(0, BROADCAST, 1000));
    bench.run_until(Nanos(MS.0 + 2999));
    assert_eq!([1, 2].map(|vf| bench.vms[vf].receive()), [3, 0]);
    bench.run_until(Nanos(MS.0 + 3000));
    assert_eq!([1, 2].map(|vf| bench.vms[vf].receive()), [4, 1]);
    assert_eq!(bench.arrived.len(), 1);
    assert_eq!(bench.worker.next(bench.now), None);
    assert_eq!(bench.drops(), []);
}

#[test]
fn a_vf_has_one_share_of_the_bus_and_its_other_queues_go_on_to_the_wire() {
    let mut bench = bench(&[2, 1, 1]);
    for step in 1..=100 {
        for pair in 0..2 {
            while bench.vms[0].send_on(pair, mac(2), 1000 + pair) {}
        }
        while bench.vms[1].send_on(0, mac(2), 250) {}
        bench.run_until(Nanos(step * 10_000));
        bench.vms[2].receive();
    }
    let bytes = |vf: usize, len: usize| {
        let its = |frame: &&Vec<u8>| frame[6..12] == mac(vf).0 && frame.len() == len;
        bench.vms[2].got.iter().filter(its).count() * len
    };
    let shares = [bytes(0, 1000), bytes(0, 1001), bytes(1, 250)];
    for (share, wanted) in shares.into_iter().zip([250_000, 250_000, 500_000]) {
        assert!(share.abs_diff(wanted) < wanted / 50, "{shares:?}");
    }
    assert!(!bench.worker.arm(bench.now), "what waits is nobody's kick");
    let mut bench = self::bench(&[2, 1]);
    for _ in 0..100 {
        bench.vms[0].send_on(0, mac(1), 1000);
    }
    bench.vms[0].send_on(1, BEYOND, 60);
    bench.run_until(Nanos(10_000));
    assert!(bench.vms[0].outstanding(0) > 80);
    assert_eq!(bench.arrived.len(), 1);
}

#[test]
fn a_switch_of_paths_overtakes_nothing_that_is_inside() {
    let mut bench = bench(&[1, 1]);
    for n in 0..20 {
        for _ in 0..10 {
            bench.vms[0].send_on(0, mac(1), 1000);
        }
        let now = Nanos(bench.now.0 + 1500);
        bench.run_until(now);
        let (vf, path) = ([0, 1][n / 2 % 2], ["mediated", "direct"][n % 2]);
        bench.command(&format!("vf {vf} set path {path}"));
        bench.vms[1].receive();
    }
    bench.run_until(MS);
    bench.vms[1].receive();
    assert_eq!(by_sender(&bench.vms[1].got)[&mac(0)], count(200));
    assert_eq!(bench.drops(), []);
}
