//! How long one VF's turn on a thread may be.

use super::*;

#[test]
fn a_vf_with_many_rings_has_no_longer_turn_than_one_with_one() {
    const PAIRS: usize = 8;
    let mut bench = Bench::bare(&[Path::Direct; 3], ENDLESS, None);
    let many = NetConfig {
        queue_pairs: PAIRS as u16,
        ..queue_of(64)
    };
    bench.start(0, &many);
    bench.start(1, &queue_of(64));
    bench.start(2, &queue_of(256));
    for _ in 0..32 {
        for pair in 0..PAIRS {
            assert!(bench.vms[0].send_on(pair, mac(2), 60));
        }
        assert!(bench.vms[1].send(mac(2)));
    }
    let mut sent = [0; 2];
    for round in 1..=PAIRS {
        bench.worker.poll(bench.now);
        bench.vms[2].receive();
        let left: u16 = (0..PAIRS).map(|pair| bench.vms[0].outstanding(pair)).sum();
        sent = [32 * PAIRS as u16 - left, 32 - bench.vms[1].outstanding(0)];
        assert!(sent[0] <= 32 * round as u16, "{sent:?} in {round} rounds");
    }
    // All of its rings have had their turns by then.
    assert_eq!(sent, [32 * PAIRS as u16, 32]);
}

/// What waits in a ring that is disabled goes nowhere, in turns as long as those of what goes somewhere, and all of it for one kick:
/// each turn is followed by another, on whichever path and whatever is done to what its VF sends.
#[test]
fn what_is_thrown_away_takes_turns_too() {
    for path in [Path::Direct, Path::Mediated] {
        for netem in [None, Some("vf 0 set netem delay 1ms")] {
            let mut bench = Bench::bare(&[path; 2], ENDLESS, None);
            netem.into_iter().for_each(|words| bench.command(words));
            let mut vm = Vm::new(0, &queue_of(256));
            for index in 0..2 {
                bench.attach(0, vm.vring(index, index == 0));
            }
            bench.vms.push(vm);
            bench.start(1, &queue_of(256));
            for _ in 0..200 {
                assert!(bench.vms[0].send(mac(1)));
            }
            // It may just be about to be enabled.
            bench.settle();
            assert_eq!(bench.vms[0].outstanding(0), 200);
            bench.now.0 += 1_000_000_000;
            let mut left = vec![];
            let mut moved = true;
            while moved {
                moved = bench.worker.poll(bench.now) + bench.hypervisor.poll(bench.now) > 0;
                left.push(bench.vms[0].outstanding(0));
            }
            assert_eq!(left, [168, 136, 104, 72, 40, 8, 0, 0], "{path} {netem:?}");
            let dropped = bench.counters(0).tx_drops.get(DropReason::RingDisabled);
            assert_eq!(dropped, 200);
        }
    }
}

/// A thread that was about to sleep goes on with what one kick was for.
#[test]
fn who_throws_away_does_not_sleep_before_the_end() {
    for path in [Path::Direct, Path::Mediated] {
        let mut bench = Bench::bare(&[path; 2], ENDLESS, None);
        let mut vm = Vm::new(0, &queue_of(256));
        for index in 0..2 {
            bench.attach(0, vm.vring(index, index == 0));
        }
        bench.vms.push(vm);
        for _ in 0..64 {
            assert!(bench.vms[0].send(mac(1)));
        }
        bench.settle();
        bench.now.0 += 1_000_000_000;
        let planes: [&mut dyn Plane; 2] = [&mut bench.worker, &mut bench.hypervisor];
        let now = bench.now;
        let armed = planes.map(|plane| {
            plane.poll(now);
            plane.arm(now)
        });
        let want = [path == Path::Direct, path == Path::Mediated];
        assert_eq!(armed, want, "half of it is there");
    }
}

/// Who has sent a frame is given it back, and its receiver is called, at the end of a round that others' super-frames do not make long.
#[test]
fn a_mediated_guest_is_answered_at_the_end_of_the_round_whatever_others_send() {
    // Cut into as many segments as may be, or copied as it is.
    for (features, size) in [(NetConfig::PLAIN, 32), (NetConfig::TSO, 1448)] {
        let mut bench = Bench::bare(&[Path::Mediated; 4], ENDLESS, None);
        let config = NetConfig {
            features: NetConfig::PLAIN | NetConfig::CHECKSUM | NetConfig::TSO,
            ..queue_of(256)
        };
        bench.start(0, &config);
        let taker = NetConfig {
            features: NetConfig::PLAIN | NetConfig::CHECKSUM | features,
            queue_size: 1024,
            ..config
        };
        bench.start(1, &taker);
        (2..4).for_each(|vf| bench.start(vf, &queue_of(256)));
        let mut sent = super_frames::Sent::new(false, 0, 60_000, size);
        sent.data[..6].copy_from_slice(&mac(1).0);
        for _ in 0..64 {
            let vm = &mut bench.vms[0].net;
            assert!(vm.send(0, &sent.header(), &sent.data).unwrap());
        }
        bench.vms[0].net.kick();
        bench.vms[2].send(mac(3));
        // It may come behind the first super-frame, and not be reached in the first round.
        let mut rounds = 0;
        let mut called = false;
        while bench.vms[2].outstanding(0) > 0 || !called {
            rounds += 1;
            bench.hypervisor.poll(bench.now);
            called |= bench.hypervisor.take_notified().rx.contains(VfIndex(3));
            let taken = 64 - bench.vms[0].outstanding(0);
            assert!(taken < 12, "{taken} super-frames in {rounds} rounds");
            assert!(rounds <= 2, "{rounds} rounds");
        }
        assert_eq!(bench.vms[3].receive(), 1);
    }
}

/// What an impaired VF has sent goes on when it is due, in turns as long as those of what comes out of a ring.
#[test]
fn what_was_held_back_takes_turns_too() {
    let mut bench = Bench::bare(&[Path::Direct; 9], ENDLESS, None);
    let config = NetConfig {
        features: NetConfig::PLAIN | NetConfig::CHECKSUM | NetConfig::TSO,
        ..queue_of(256)
    };
    bench.start(0, &config);
    (1..9).for_each(|vf| bench.start(vf, &queue_of(1024)));
    bench.command("vf 0 set delay 5ms");
    // In turn to each of those who take them in 938 pieces.
    let mut sent = super_frames::Sent::new(false, 0, 60_000, 64);
    for n in 0..64 {
        sent.data[..6].copy_from_slice(&mac(1 + n % 8).0);
        let vm = &mut bench.vms[0].net;
        assert!(vm.send(0, &sent.header(), &sent.data).unwrap());
    }
    bench.vms[0].net.kick();
    bench.run_until(MS);
    assert_eq!(bench.vms[0].outstanding(0), 0, "all are held back");
    bench.now = Nanos(10 * MS.0);
    let mut before = bench.worker.effort();
    while bench.worker.poll(bench.now) > 0 {
        let effort = bench.worker.effort() - before;
        assert!(effort < 4096 + 2048, "{effort} segments in a round");
        before += effort;
        (1..9).for_each(|vf| _ = bench.vms[vf].receive());
    }
    let got = bench.vms.iter().map(|vm| vm.got.len()).sum::<usize>();
    assert_eq!(got, 64 * 938);
}

/// The other end of the wire is no VF, and has no limit of its own: what it sends to all is copied for all in rounds that leave guests
/// their turns, wherever the receivers are, and arrives in order.
#[test]
fn what_the_wire_brings_for_many_takes_turns_on_every_path() {
    const VFS: usize = 16;
    let mut too_long = Vec::new();
    for (workers, path) in [(1, Path::Direct), (2, Path::Direct), (1, Path::Mediated)] {
        let mut bench = Bench::with_workers(workers, &[path; VFS], ENDLESS, None);
        (0..VFS).for_each(|vf| bench.start(vf, &queue_of(256)));
        for n in 0..64 {
            bench.send_from_far(private(frame(BROADCAST, BEYOND, n, 1514)));
        }
        bench.now += MS;
        // The last VF is another worker's, if there is another.
        let mut rounds = Vec::new();
        while bench.vms[VFS - 1].got.len() < 64 {
            assert!(rounds.len() < 64, "{workers} workers, {path}: {rounds:?}");
            let before = bench.vms[VFS - 1].got.len();
            match (workers, path) {
                (1, Path::Direct) => assert!(bench.worker.poll(bench.now) > 0),
                _ => while bench.worker.poll(bench.now) > 0 {},
            }
            bench.others.iter_mut().for_each(|other| {
                other.poll(bench.now);
            });
            bench.hypervisor.poll(bench.now);
            rounds.push(bench.vms[VFS - 1].receive() - before);
        }
        // Of 1538 bytes for each receiver, up to 256 KiB.
        let most = match workers {
            1 => 11,
            _ => 22,
        };
        if rounds.iter().any(|frames| *frames > most) {
            too_long.push(format!("{workers} workers, {path}: {rounds:?}"));
        }
        for vm in &mut bench.vms {
            vm.receive();
            assert_eq!(by_sender(&vm.got), [(BEYOND, count(64))].into());
        }
        assert_eq!(bench.drops(), []);
    }
    assert!(too_long.is_empty(), "{too_long:#?}");
}

/// The same of what a guest on the mediated path sends to all who are on the direct one.
#[test]
fn what_the_hypervisor_hands_down_for_many_takes_turns_too() {
    const VFS: usize = 16;
    let mut paths = [Path::Direct; VFS];
    paths[0] = Path::Mediated;
    let mut bench = Bench::new(&paths, ENDLESS);
    for _ in 0..32 {
        assert!(bench.vms[0].send_on(0, BROADCAST, 1514));
    }
    while bench.hypervisor.poll(bench.now) > 0 {}
    let mut got = Vec::new();
    while bench.worker.poll(bench.now) > 0 {
        got.push(bench.vms[VFS - 1].receive());
    }
    assert_eq!(got, [12, 24, 32], "fifteen of them get each");
}

/// A run of super-frames to one VF that takes none was given up as soon as a round was long enough, and the rest was lost.
#[test]
fn super_frames_from_the_wire_wait_for_the_next_round_and_are_not_lost() {
    let mut bench = Bench::bare(&[Path::Direct; 2], ENDLESS, None);
    bench.start(0, &queue_of(256));
    // There is room for all of them.
    bench.start(1, &queue_of(8192));
    for _ in 0..12 {
        bench.send_from_far(switching::super_frame(1, 500, 32));
    }
    bench.now += MS;
    // Another's frame goes on in each round.
    let mut rounds = 0;
    while bench.vms[1].got.len() < 12 * 500 {
        rounds += 1;
        assert!(bench.vms[0].send(BEYOND));
        assert!(bench.worker.poll(bench.now) > 0, "{rounds} rounds");
        assert_eq!(bench.vms[0].outstanding(0), 0);
        bench.vms[1].receive();
    }
    assert_eq!(rounds, 3);
    assert_eq!(bench.drops(), []);
}

/// Nothing wakes a thread for what it has taken from the uplink already.
#[test]
fn who_has_not_delivered_all_that_came_does_not_sleep_and_is_not_done() {
    let mut bench = Bench::bare(&[Path::Direct; 16], ENDLESS, None);
    (0..16).for_each(|vf| bench.start(vf, &queue_of(256)));
    for n in 0..20 {
        bench.send_from_far(private(frame(BROADCAST, BEYOND, n, 1514)));
    }
    bench.now += MS;
    bench.worker.poll(bench.now);
    assert!(bench.worker.arm(bench.now));
    bench.worker.disarm();
    assert_eq!(bench.worker.next(bench.now), Some(bench.now));
    assert!(bench.worker.is_under_way());
    bench.worker.poll(bench.now);
    assert!(!bench.worker.arm(bench.now));
    assert!(!bench.worker.is_under_way());
    assert_eq!(bench.vms[15].receive(), 20);
}
