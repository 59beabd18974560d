//! Switches of paths under load, and guests that have no buffers for what comes.

use super::*;
use vf_model::{Gso, PartialChecksum, Segmentation};

/// A TCP/IPv4 super-frame for VF `vf`.
pub(super) fn super_frame(vf: usize, segments: usize, size: u16) -> Frame {
    let mut data = frame(mac(vf), BEYOND, 0, 54 + segments * usize::from(size));
    data[12..16].copy_from_slice(&[0x08, 0x00, 0x45, 0]);
    data[16..18].copy_from_slice(&((40 + segments * usize::from(size)) as u16).to_be_bytes());
    data[18..24].copy_from_slice(&[0, 0, 0, 0, 64, 6]);
    data[46] = 5 << 4; // a TCP header of five words
    let gso = Gso {
        header_len: 54,
        size,
    };
    let checksum = PartialChecksum {
        start: 34,
        offset: 16,
    };
    let segmentation = Segmentation {
        v6: false,
        ecn: false,
        gso,
    };
    let offload = Offload::new(Some(checksum), Some(segmentation));
    Box::new(FrameBuf { offload, data })
}

#[test]
fn a_super_frame_that_never_fits_does_not_block_those_behind_it_for_ever() {
    let mut bench = Bench::bare(&[Path::Mediated], Nanos(0), None);
    let takes_it_whole = NetConfig {
        features: NetConfig::PLAIN | NetConfig::CHECKSUM | NetConfig::TSO,
        ..queue_of(8)
    };
    bench.start(0, &takes_it_whole);
    bench.send_from_far(super_frame(0, 40, 1400));
    for number in 0..5 {
        bench.send_from_far(private(frame(mac(0), BEYOND, number, 60)));
    }
    let first = bench.worker.next(bench.now).unwrap();
    let patience = Nanos(100 * MS.0);
    bench.run_until(MS);
    assert_eq!(bench.hypervisor.next(bench.now), Some(first + patience));
    bench.run_until(Nanos((first + patience).0 - 1));
    assert_eq!(bench.vms[0].receive(), 0, "in order behind the first");
    bench.run_until(first + patience);
    assert_eq!(bench.vms[0].receive(), 5);
    assert_eq!(by_sender(&bench.vms[0].got)[&BEYOND], count(5));
    assert_eq!(bench.drops(), [(DropReason::NoRxBuffer, 1)]);

    // One that fits is given whole.
    bench.send_from_far(super_frame(0, 4, 1400));
    bench.run_until(Nanos(200 * MS.0));
    assert_eq!(bench.vms[0].receive(), 5 + 1);
    assert_eq!(bench.drops(), [(DropReason::NoRxBuffer, 1)]);
}

#[test]
fn a_switch_to_the_direct_path_loses_nothing_for_which_there_are_buffers() {
    let mut bench = Bench::bare(&[Path::Mediated], Nanos(0), None);
    bench.start(0, &queue_of(8));
    for number in 0..14 {
        bench.send_from_far(private(frame(mac(0), BEYOND, number, 60)));
    }
    bench.run_until(MS);
    assert_eq!(bench.vms[0].receive(), 8);
    bench.command("vf 0 set path direct");
    assert_eq!(bench.vms[0].receive(), 14);
    bench.send_from_far(private(frame(mac(0), BEYOND, 14, 60)));
    bench.run_until(Nanos(2 * MS.0));
    assert_eq!(bench.vms[0].receive(), 15);
    assert_eq!(by_sender(&bench.vms[0].got)[&BEYOND], count(15));
    assert_eq!(bench.drops(), []);
}

#[test]
fn what_waits_for_buffers_at_a_switch_is_given_as_they_come_and_before_what_comes_then() {
    let mut bench = Bench::bare(&[Path::Mediated; 2], Nanos(0), None);
    bench.start(0, &queue_of(8));
    bench.start(1, &queue_of(256));
    // A ring, a backlog, and three too many.
    for number in 0..8 + 512 + 3 {
        bench.send_from_far(private(frame(mac(0), BEYOND, number, 60)));
    }
    bench.run_until(Nanos(200 * MS.0));
    assert_eq!(bench.drops(), [(DropReason::NoRxBuffer, 3)]);
    bench.command("vf 0 set path direct");
    for _ in 0..20 {
        assert!(bench.vms[1].send(mac(0)));
    }
    bench.settle();
    assert!(
        bench.worker.next(bench.now).is_none(),
        "it waits for a kick"
    );
    for _ in 0..10 {
        bench.vms[0].receive();
        bench.settle();
    }
    // Neither is it lost in a switch back and forth.
    bench.command("vf 0 set path mediated");
    bench.command("vf 0 set path direct");
    loop {
        bench.vms[0].receive();
        if bench.worker.poll(bench.now) == 0 {
            break;
        }
    }
    let got = by_sender(&bench.vms[0].got);
    assert_eq!(got[&BEYOND], count(8 + 512));
    assert_eq!(got[&mac(1)], count(20));
    let senders = bench.vms[0].got.iter().map(|f| f[6..12].to_vec());
    let senders: Vec<_> = senders.collect();
    assert!(senders.is_sorted_by_key(|src| src == &mac(1).0), "in order");
    assert_eq!(bench.drops(), [(DropReason::NoRxBuffer, 3)]);
    // From now on a frame without a buffer is dropped, as by a NIC.
    bench.run_until(Nanos(400 * MS.0));
    for _ in 0..20 {
        bench.vms[1].send(mac(0));
    }
    bench.settle();
    assert_eq!(bench.drops(), [(DropReason::NoRxBuffer, 3 + 12)]);
}

#[test]
fn a_switch_of_another_vf_leaves_those_that_wait_for_the_port_their_turn() {
    use Path::{Direct, Mediated};
    for workers in [1, 2] {
        let paths = [Mediated, Direct, Direct, Direct];
        let mut bench = Bench::with_workers(workers, &paths, Nanos(0), None);
        (0..paths.len()).for_each(|vf| bench.start(vf, &queue_of(256)));
        // What is guaranteed to a VF has it, too, wait in a queue of its own.
        bench.command("vf 0 set min_tx_rate 1");
        for _ in 0..200 {
            (0..3).for_each(|vf| assert!(bench.vms[vf].send(BEYOND)));
        }
        for _ in 0..4 {
            bench.hypervisor.poll(bench.now);
            bench.others.iter_mut().for_each(|other| {
                other.poll(bench.now);
            });
            bench.worker.poll(bench.now);
        }
        bench.command("vf 3 set path mediated");
        bench.run_until(LATE);
        let sent = [0, 1, 2].map(|vf| (mac(vf), count(200)));
        assert_eq!(by_sender(&bench.arrived), sent.into(), "{workers} workers");
    }
}

#[test]
fn a_switch_with_full_queues_loses_and_reorders_nothing() {
    use Path::{Direct, Mediated};
    let mut bench = Bench::new(&[Direct, Mediated, Direct], ENDLESS);
    // VF 0 fills the fibre, and one of its frames has to wait.
    while !bench.worker.is_blocked(VfIndex(0)) {
        bench.vms[0].send(BEYOND);
        bench.worker.poll(bench.now);
    }
    for _ in 0..32 {
        bench.vms[0].send(BEYOND);
    }
    // VF 1 fills its share of the PF's way down: one frame more has been taken off it and waits for the wire.
    for _ in 0..=(PF_RING * 8).div_ceil(9) {
        assert!(bench.vms[1].send(BEYOND));
        while bench.hypervisor.poll(bench.now) > 0 {}
        bench.worker.poll(bench.now);
    }
    let more = private(frame(BEYOND, mac(1), 0, 60));
    let from = Onward {
        from: Some(VfIndex(1)),
        ..to_wire()
    };
    assert!(
        bench.hypervisor.pf_mut().send(more, from).is_err(),
        "it is full"
    );
    // VF 2 puts some on the way up.
    for _ in 0..100 {
        bench.vms[2].send(mac(1));
    }
    while bench.worker.poll(bench.now) > 0 {}
    assert!(bench.hypervisor.has_input());

    let empty = |bench: &mut Bench| {
        assert!(!bench.hypervisor.pf_mut().has_input());
        assert!(!bench.worker.pf_mut().has_input());
        assert_eq!(bench.worker.drain(bench.now), 0, "nor is one parked");
    };
    bench.command("vf 0 set path mediated");
    empty(&mut bench);
    assert_eq!(bench.vms[1].receive(), 100);
    // What VF 0 still had goes the other way, and is there when it is switched back.
    while bench.hypervisor.poll(bench.now) > 0 {}
    assert!(bench.worker.has_pf_input());
    bench.command("vf 0 set path direct");
    empty(&mut bench);
    bench.vms[0].send(BEYOND);
    bench.run_until(LATE);

    let sent = [0, 1].map(|vf| (mac(vf), count(bench.vms[vf].sent as usize)));
    assert_eq!(by_sender(&bench.arrived), sent.into());
    assert_eq!(by_sender(&bench.vms[1].got)[&mac(2)], count(100));
    assert_eq!(bench.drops(), []);
    assert_eq!([0, 1, 2].map(|vf| bench.vms[vf].outstanding(0)), [0; 3]);
}

#[test]
fn what_waits_between_the_planes_is_not_judged_by_newer_rules() {
    use Path::{Direct, Mediated};
    for (from, to) in [(0, 1), (1, 0)] {
        let mut bench = Bench::new(&[Direct, Mediated], ENDLESS);
        let send = |bench: &mut Bench| bench.vms[from].send(mac(to));
        send(&mut bench);
        match from {
            0 => assert!(bench.worker.poll(bench.now) > 0),
            _ => while bench.hypervisor.poll(bench.now) > 0 {},
        }
        assert_eq!(bench.vms[to].receive(), 0, "it is on its way");
        // Now it would not get there, nor look the same.
        bench.command(&format!("vf {to} set vlan 5"));
        bench.settle();
        assert_eq!(bench.vms[to].receive(), 1);
        assert_eq!(bench.vms[to].got[0].len(), 60, "no tag was taken out of it");
        send(&mut bench);
        bench.run_until(MS);
        assert_eq!(bench.vms[to].receive(), 1, "no more");
        assert_eq!(bench.arrived.len(), 1, "beyond the wire somebody has it");
        assert_eq!(bench.drops(), []);
    }
}

#[test]
fn for_a_guest_that_takes_nothing_no_more_wait_than_for_a_while_after_a_switch() {
    let mut bench = Bench::bare(&[Path::Mediated, Path::Direct], Nanos(0), None);
    bench.start(0, &queue_of(8));
    bench.start(1, &queue_of(256));
    bench.command("vf 0 set path direct");
    let send = |bench: &mut Bench| {
        for _ in 0..20 {
            assert!(bench.vms[1].send(mac(0)));
        }
        bench.settle();
        bench.drops()
    };
    assert_eq!(send(&mut bench), [], "8 are in its ring, and 12 wait");
    bench.now += Nanos(100 * MS.0);
    bench.settle();
    assert_eq!(send(&mut bench), [(DropReason::NoRxBuffer, 20)]);
    while bench.vms[0].receive() < 20 {
        assert!(bench.worker.poll(bench.now) > 0, "what waits is kept");
    }
    assert_eq!(by_sender(&bench.vms[0].got)[&mac(1)], count(20));
}

#[test]
fn while_the_rings_of_one_vf_change_its_frames_wait_and_others_go_on() {
    for path in [Path::Direct, Path::Mediated] {
        let mut bench = Bench::new(&[path; 3], Nanos(0));
        let changed = VfIndex(0);
        for round in 1..=3 {
            let mut vrings = Vec::new();
            let now = bench.now;
            bench.with_rings(path, |plane| {
                plane.begin_change(changed);
                vrings.extend((0..2).filter_map(|ring| plane.detach(now, changed, ring)));
            });
            assert_eq!(vrings.len(), 2);
            for _ in 0..20 {
                bench.vms[1].send(mac(0));
                bench.vms[1].send(mac(2));
            }
            bench.settle();
            assert_eq!(bench.vms[2].receive(), 20 * round, "others go on");
            bench.with_rings(path, |plane| {
                vrings
                    .drain(..)
                    .for_each(|vring| plane.attach(changed, vring));
                plane.end_change(changed);
            });
            bench.settle();
            bench.vms[0].receive();
            assert_eq!(by_sender(&bench.vms[0].got)[&mac(1)], {
                let sent = count(40 * round);
                sent.into_iter().step_by(2).collect::<Vec<_>>()
            });
            assert_eq!(bench.drops(), []);
        }

        // Where no rings come back, what has waited is dropped, and nothing waits any more.
        let now = bench.now;
        bench.with_rings(path, |plane| {
            plane.begin_change(changed);
            (0..2).for_each(|ring| drop(plane.detach(now, changed, ring)));
        });
        bench.vms[1].send(mac(0));
        bench.settle();
        assert_eq!(bench.drops(), []);
        bench.with_rings(path, |plane| plane.end_change(changed));
        bench.vms[1].send(mac(0));
        bench.settle();
        assert_eq!(bench.drops(), [(DropReason::NotAttached, 2)]);
    }
}

#[test]
fn a_guest_with_few_buffers_gets_the_segments_of_a_super_frame_that_fit() {
    for path in [Path::Direct, Path::Mediated] {
        let mut bench = Bench::bare(&[path], Nanos(0), None);
        bench.start(0, &queue_of(8));
        for round in 1..=10 {
            bench.send_from_far(super_frame(0, 9, 100));
            bench.run_until(Nanos(bench.now.0 + MS.0));
            let got = bench.vms[0].receive();
            match path {
                Path::Direct | Path::Auto => {
                    assert_eq!(got, 8 * round, "a NIC keeps nothing back");
                    let drops = bench.drops();
                    assert_eq!(drops, [(DropReason::NoRxBuffer, round as u64)]);
                }
                Path::Mediated => {
                    assert_eq!(got, 9 * round - 1, "the last waits");
                    bench.run_until(Nanos(bench.now.0 + MS.0));
                    assert_eq!(bench.vms[0].receive(), 9 * round);
                    assert_eq!(bench.drops(), []);
                }
            }
        }
        let numbers = |frame: &Vec<u8>| u32::from_be_bytes(frame[38..42].try_into().unwrap());
        let got: Vec<_> = bench.vms[0].got.iter().map(numbers).collect();
        let all = |_| (0..9).map(|segment| segment * 100);
        let mut sent: Vec<u32> = (0..10).flat_map(all).collect();
        if path == Path::Direct {
            sent.retain(|&number| number < 800);
        }
        assert_eq!(got, sent);
    }
}

#[test]
fn a_ring_that_is_given_up_before_its_error_was_met_is_told_of_once() {
    for path in [Path::Direct, Path::Mediated] {
        let mut bench = Bench::bare(&[path], Nanos(0), None);
        bench.start(0, &queue_of(16));
        bench.settle();
        let queue = &bench.vms[0].net.tx_ring(0).queue;
        queue.as_split().unwrap().set_avail_idx(30_000);
        // What a plane does before it sleeps is a look at the ring.
        assert_ne!(bench.worker.arm(bench.now), bench.hypervisor.arm(bench.now));
        let now = bench.now;
        let mut told = Vec::new();
        for _ in 0..2 {
            bench.with_rings(path, |plane| {
                let vring = plane.detach(now, VfIndex(0), 1).unwrap();
                assert!(vring.is_broken(), "{path:?}");
                plane.attach(VfIndex(0), vring);
            });
            bench.worker.poll(now);
            bench.hypervisor.poll(now);
            told.extend(bench.worker.take_news());
            told.extend(bench.hypervisor.take_news());
        }
        let told = told.iter().map(|news| match news {
            News::Broken(broken) => (broken.vf, broken.ring),
            News::Fast(_) => panic!("{path:?}: no frame has passed"),
        });
        assert_eq!(told.collect::<Vec<_>>(), [(VfIndex(0), 1)], "{path:?}");
    }
}

#[test]
fn a_ring_that_breaks_when_planes_are_held_is_told_of_by_who_holds_them() {
    let mut bench = Bench::bare(&[Path::Direct, Path::Mediated], Nanos(0), None);
    (0..2).for_each(|vf| bench.start(vf, &queue_of(16)));
    bench.settle();
    for vm in &mut bench.vms {
        let queue = &vm.net.tx_ring(0).queue;
        queue.as_split().unwrap().set_avail_idx(30_000);
    }
    let now = bench.now;
    assert!(bench.worker.arm(now) && bench.hypervisor.arm(now));
    let mut planes = HeldPlanes {
        workers: vec![&mut bench.worker],
        hypervisor: &mut bench.hypervisor,
    };
    let rings = planes.detach(now, false);
    assert!(rings.iter().all(|(_, vring)| vring.is_broken()));
    let broken = planes.take_broken();
    let of: Vec<_> = broken
        .iter()
        .map(|broken| (broken.vf, broken.ring))
        .collect();
    assert_eq!(of, [(VfIndex(0), 1), (VfIndex(1), 1)]);
    assert!(planes.take_broken().is_empty());
}

#[test]
fn no_plane_sleeps_over_an_error_that_it_has_not_met() {
    for (path, enabled) in [
        (Path::Direct, true),
        (Path::Mediated, true),
        (Path::Direct, false),
        (Path::Mediated, false),
    ] {
        let mut bench = Bench::bare(&[path], Nanos(0), None);
        let mut vm = Vm::new(0, &queue_of(16));
        for index in 0..2 {
            let vring = vm.vring(index, enabled);
            bench.attach(0, vring);
        }
        bench.settle();
        let queue = &vm.net.tx_ring(0).queue;
        queue.as_split().unwrap().set_avail_idx(30_000);
        let now = bench.now;
        // The first look breaks the ring, as one in a round may have done.
        for _ in 0..2 {
            let work = bench.worker.arm(now) | bench.hypervisor.arm(now);
            assert!(work, "{path:?} {enabled}");
        }
        bench.worker.poll(now);
        bench.hypervisor.poll(now);
        let told = bench.worker.take_news().len() + bench.hypervisor.take_news().len();
        assert_eq!(told, 1, "{path:?} {enabled}");
        assert!(!bench.worker.arm(now) && !bench.hypervisor.arm(now));
    }
}
