//! Impairments of ports and of VFs, on each path, as they come, change and go.

use super::*;

const PATHS: [Path; 3] = [Path::Direct, Path::Mediated, Path::Auto];
const US: u64 = 1000;

fn numbers(frames: &[Vec<u8>]) -> Vec<u32> {
    let number = |frame: &Vec<u8>| u32::from_be_bytes(frame[14..18].try_into().unwrap());
    frames.iter().map(number).collect()
}

/// Two guests on paths, the first of which sends so many frames to `to`, one in ten microseconds.
fn sent(workers: usize, paths: &[Path], said: &[&str], to: MacAddr, frames: u64) -> Bench {
    let mut bench = Bench::with_workers(workers, paths, Nanos(0), None);
    (0..paths.len()).for_each(|vf| bench.start(vf, &queue_of(256)));
    said.iter().for_each(|words| bench.command(words));
    for n in 0..frames {
        assert!(bench.vms[0].send(to));
        bench.run_until(Nanos((n + 1) * 10 * US));
        bench.vms[1].receive();
    }
    bench.run_until(LATE);
    bench.vms[1].receive();
    bench
}

#[test]
fn frames_of_a_vf_are_lost_alike_on_each_path_and_counted() {
    let mut seen = Vec::new();
    for (words, tx) in [
        ("vf 0 set delay 1ms 300us loss 20% seed 3", true),
        ("vf 1 set ingress delay 1ms 300us loss 20% seed 3", false),
    ] {
        for (workers, path) in [
            (1, Path::Direct),
            (1, Path::Mediated),
            (1, Path::Auto),
            (2, Path::Direct),
        ] {
            let bench = sent(workers, &[path; 2], &[words], mac(1), 300);
            let got = numbers(&bench.vms[1].got);
            let lost = 300 - got.len() as u64;
            assert!((40..80).contains(&lost), "{path}: {lost}");
            let counters = bench.counters(usize::from(!tx));
            let drops = if tx {
                counters.tx_drops
            } else {
                counters.rx_drops
            };
            assert_eq!(drops.get(DropReason::NetemLoss), lost);
            assert_eq!(bench.drops(), [(DropReason::NetemLoss, lost)]);
            // Jitter is more than a gap: some have overtaken others.
            assert!(!got.is_sorted());
            seen.push((tx, got));
        }
    }
    for same in [&seen[..4], &seen[4..]] {
        assert!(same.iter().all(|other| *other == same[0]));
    }
    // Another seed loses others, and so do the other direction's numbers.
    let words = "vf 0 set delay 1ms 300us loss 20% seed 4";
    let other = sent(1, &[Path::Direct; 2], &[words], mac(1), 300);
    assert_ne!(numbers(&other.vms[1].got), seen[0].1);
    assert_ne!(seen[0].1, seen[4].1);
}

#[test]
fn what_is_held_back_comes_when_it_is_due() {
    for path in PATHS {
        for words in ["vf 0 set delay 5ms", "vf 1 set ingress delay 5ms"] {
            let mut bench = Bench::new(&[path; 2], Nanos(0));
            bench.command(words);
            bench.vms[0].send(mac(1));
            bench.run_until(Nanos(4_999_999));
            assert_eq!(bench.vms[1].receive(), 0, "{path} {words}");
            assert_eq!(bench.vms[0].outstanding(0), 0, "its guest has it back");
            bench.run_until(Nanos(5_000_000));
            assert_eq!(bench.vms[1].receive(), 1, "{path} {words}");
        }
    }
}

#[test]
fn what_is_held_back_goes_on_though_the_ring_that_it_came_from_is_gone() {
    for path in PATHS {
        // A rate that a frame of 1500 bytes takes 12 ms of, or a delay.
        for words in ["vf 0 set delay 5ms", "vf 0 set max_tx_rate 1"] {
            let mut bench = Bench::new(&[path; 2], Nanos(0));
            bench.command("vf 0 set delay 1ms");
            bench.command(words);
            for _ in 0..5 {
                bench.vms[0].send_on(0, mac(1), 1500);
            }
            bench.run_until(Nanos(2_000_000));
            assert_eq!(bench.vms[0].outstanding(0), 0, "all are out of the ring");
            let now = bench.now;
            bench.with_rings(path, |plane| {
                plane.detach(now, VfIndex(0), 1).unwrap();
            });
            let under_way = match path {
                Path::Mediated => bench.hypervisor.is_under_way(),
                _ => bench.worker.is_under_way(),
            };
            assert!(under_way, "{path} {words}: no other process has them");
            bench.run_until(LATE);
            assert_eq!(bench.vms[1].receive(), 5, "{path} {words}");
            assert!(!bench.hypervisor.is_under_way() && !bench.worker.is_under_way());
        }
    }
}

#[test]
fn a_port_is_impaired_in_each_direction_while_it_is_said() {
    let mut bench = Bench::new(&[Path::Direct], Nanos(0));
    let mut number = 0;
    let mut exchange = |bench: &mut Bench| {
        let (at, before) = (bench.now, (bench.arrived.len(), bench.vms[0].got.len()));
        bench.vms[0].send(BEYOND);
        bench.send_from_far(private(frame(mac(0), BEYOND, number, 60)));
        number += 1;
        let mut times = (None, None);
        for _ in 0..4000 {
            bench.run_until(Nanos(bench.now.0 + US));
            bench.vms[0].receive();
            let elapsed = (bench.now.0 - at.0) / US;
            if bench.arrived.len() > before.0 {
                times.0.get_or_insert(elapsed);
            }
            if bench.vms[0].got.len() > before.1 {
                times.1.get_or_insert(elapsed);
            }
        }
        times
    };
    assert_eq!(exchange(&mut bench), (Some(1), Some(1)));
    bench.command("link set delay 1ms");
    assert_eq!(exchange(&mut bench), (Some(1001), Some(1)));
    bench.command("link set ingress delay 2ms");
    assert_eq!(exchange(&mut bench), (Some(1001), Some(2001)));
    bench.command("link set netem none");
    assert_eq!(exchange(&mut bench), (Some(1), Some(1)));
    bench.command("link set both loss 100%");
    assert_eq!(exchange(&mut bench), (None, None));
    let wire = bench.worker.nic.wire_counters();
    for drops in [wire.tx_drops, wire.rx_drops] {
        assert_eq!(drops.get(DropReason::NetemLoss), 1);
    }
    bench.command("link set both none");
    assert_eq!(exchange(&mut bench), (Some(1), Some(1)));
}

#[test]
fn frames_keep_their_order_when_impairments_end_and_when_paths_change() {
    for (workers, to) in [(1, mac(1)), (1, BEYOND), (2, mac(1)), (2, BEYOND)] {
        let mut bench = Bench::with_workers(workers, &[Path::Direct; 2], Nanos(0), None);
        (0..2).for_each(|vf| bench.start(vf, &queue_of(256)));
        let changes = [
            "vf 0 set delay 100us",
            "vf 0 set path mediated",
            "vf 1 set ingress delay 70us",
            "vf 1 set path mediated",
            "vf 0 set path direct",
            "vf 0 set netem none",
            "link set delay 50us",
            "vf 1 set path direct",
            "vf 1 set netem both none",
            "link set netem none",
            "vf 0 set delay 100us",
            "vf 0 set path auto",
            "vf 0 set path direct",
            "vf 0 set netem none",
        ];
        for n in 0..280 {
            if n % 20 == 0 {
                bench.command(changes[n / 20]);
            }
            assert!(bench.vms[0].send(to));
            bench.run_until(Nanos(bench.now.0 + 3 * US));
            bench.vms[1].receive();
        }
        bench.run_until(LATE);
        bench.vms[1].receive();
        let got = if to == BEYOND {
            &bench.arrived
        } else {
            &bench.vms[1].got
        };
        let got = by_sender(got).remove(&mac(0)).unwrap();
        assert_eq!(got, count(280), "{workers} workers to {to}");
        assert_eq!(bench.drops(), []);
        // Nothing is left that would cost frames a detour.
        assert!(bench.worker.take_impaired(VfIndex(0)).0.is_none());
        assert!(bench.hypervisor.take_impaired(VfIndex(1)).1.is_none());
    }
}

#[test]
fn what_is_more_than_a_limit_is_dropped_and_a_guest_still_sees_its_rate() {
    for path in [Path::Direct, Path::Mediated] {
        let said = ["vf 0 set netem rate 8mbit limit 5"];
        let mut bench = sent(1, &[path; 2], &said, mac(1), 40);
        let dropped = 40 - bench.vms[1].got.len() as u64;
        assert!(dropped > 20, "{path}: {dropped}");
        assert_eq!(bench.drops(), [(DropReason::NetemLimit, dropped)]);
        // Frames wait in the ring for the rate of the VF, but for those that are held back.
        bench.command("vf 0 set delay 1us");
        bench.command("vf 0 set max_tx_rate 10");
        for _ in 0..2 {
            while bench.vms[0].send_on(0, mac(1), 1500) {}
            bench.run_until(Nanos(bench.now.0 + MS.0));
        }
        assert!(bench.vms[0].outstanding(0) > 100, "{path}");
    }
}

#[test]
fn impaired_vfs_share_the_wire_with_others() {
    for workers in [1, 2] {
        let mut bench = Bench::with_workers(workers, &[Path::Direct; 2], Nanos(0), None);
        (0..2).for_each(|vf| bench.start(vf, &queue_of(256)));
        bench.command("vf 0 set delay 20us 5us");
        for step in 1..=100 {
            for vf in 0..2 {
                while bench.vms[vf].send_on(0, BEYOND, 1000) {}
            }
            bench.run_until(Nanos(step * 20 * US));
        }
        let of = |vf: usize| {
            bench
                .arrived
                .iter()
                .filter(|frame| frame[6..12] == mac(vf).0)
                .count()
        };
        let (impaired, other) = (of(0), of(1));
        // A port without slack alternates between them.
        assert!(
            impaired.abs_diff(other) < other / 5,
            "{workers} workers: {impaired} {other}"
        );
    }
}

/// As the turn of any other VF does.
#[test]
fn a_turn_of_what_is_due_ends_after_so_many_bytes() {
    let mut bench = Bench::new(&[Path::Direct; 2], Nanos(0));
    bench.command("vf 0 set delay 100us");
    for _ in 0..60 {
        assert!(bench.vms[0].send_on(0, mac(1), 1514));
    }
    bench.run_until(Nanos(90 * US));
    for so_far in [44, 60] {
        bench.worker.poll(MS);
        assert_eq!(bench.vms[1].receive(), so_far);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Whatever is said, each frame that was sent or doubled arrives or is counted, and it comes to an end.
    #[test]
    fn frames_of_impaired_vfs_arrive_or_are_counted(
        said in proptest::collection::vec((0..8usize, 0..3usize, 1..40u64), 1..12),
        workers in 1..3usize,
    ) {
        let mut bench = Bench::with_workers(workers, &[Path::Direct, Path::Mediated], Nanos(0), None);
        (0..2).for_each(|vf| bench.start(vf, &queue_of(256)));
        let words = [
            "delay 50us 40us loss 10%", "loss gemodel 20% 30%", "netem rate 100mbit limit 20", "netem none",
            "delay 20us reorder 50% corrupt 1%", "ingress delay 30us 10us", "ingress loss 30%", "both none",
        ];
        let mut sent = 0;
        for (word, whom, frames) in said {
            let whom = ["vf 0 set", "vf 1 set", "link set"][whom];
            bench.command(&format!("{whom} {}", words[word]));
            for n in 0..frames {
                let to = [mac(1), BEYOND][n as usize % 2];
                sent += u64::from(bench.vms[0].send(to));
                sent += u64::from(bench.vms[1].send(mac(0)));
                bench.run_until(Nanos(bench.now.0 + 5 * US));
                bench.vms.iter_mut().for_each(|vm| _ = vm.receive());
            }
        }
        bench.run_until(LATE);
        bench.vms.iter_mut().for_each(|vm| _ = vm.receive());
        let got = bench.arrived.len() + bench.vms.iter().map(|vm| vm.got.len()).sum::<usize>();
        // A frame with a bit turned over may go to several, or to nobody.
        let corrupt = sent / 20;
        let dropped: u64 = bench.drops().iter().map(|(_, n)| n).sum();
        prop_assert!((got as u64 + dropped).abs_diff(sent) <= corrupt, "{} of {sent}: {:?}", got, bench.drops());
    }
}
