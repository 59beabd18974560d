//! A wire that frames have to wait for: when it takes them, and who gets how much of it.

use vf_model::{RxMode, VfRequest};

use super::*;

#[test]
fn small_frames_get_the_same_share_of_the_wire_as_long_ones() {
    // Frame by frame, and as many at once as a worker puts ahead on the wall clock.
    for slack in [Nanos(0), Nanos(40_000)] {
        let mut bench = Bench::new(&[Path::Direct; 3], slack);
        let lengths = [1514, 60, 500];
        for step in 1..=100 {
            for (vm, len) in bench.vms.iter_mut().zip(lengths) {
                while vm.send_on(0, BEYOND, len) {}
            }
            // A worker on the wall clock looks now and then only.
            bench.now = Nanos(step * 10_000);
            bench.settle();
        }
        // What each sends in its first burst, before any of them has to wait, counts for nobody.
        let first = if slack > Nanos(0) { 3 * 32 } else { 64 };
        let arrived = bench.arrived.split_off(first);
        let shares = by_sender(&arrived);
        let third = arrived.iter().map(|f| f.len() + 24).sum::<usize>() / 3;
        for (vf, len) in lengths.into_iter().enumerate() {
            let bytes = shares[&mac(vf)].len() * (len + 24);
            assert!(bytes.abs_diff(third) < 5000, "vf {vf}: {bytes} of {third}");
        }
        let long = arrived.chunk_by(|a, b| a.len() == b.len());
        let in_a_row = long.filter(|run| run[0].len() == 1514).map(<[_]>::len);
        assert_eq!(in_a_row.max(), Some(1), "nobody waits for a burst");
    }
}

#[test]
fn receivers_are_told_of_a_frame_that_still_waits_for_the_wire() {
    let mut bench = Bench::bare(&[Path::Direct; 2], Nanos(0), None);
    let config = NetConfig {
        features: NetConfig::PLAIN,
        ..NetConfig::default()
    };
    (0..2).for_each(|vf| bench.start(vf, &config));
    assert!(bench.vms[0].send_on(0, BEYOND, 1514));
    bench.worker.poll(bench.now);
    bench.worker.take_notified();
    assert!(bench.vms[0].send(BROADCAST));
    bench.worker.poll(bench.now);
    assert!(bench.worker.is_blocked(VfIndex(0)));
    assert_eq!(bench.vms[1].receive(), 1);
    assert!(bench.worker.take_notified().rx.contains(VfIndex(1)));
}

#[test]
fn what_the_wire_brings_does_not_make_a_round_look_at_every_idle_guest() {
    let mut bench = Bench::new(&[Path::Direct; 8], ENDLESS);
    let poll = mio::Poll::new().unwrap();
    bench.worker.connect(poll.registry().try_clone().unwrap());
    for _ in 0..1000 {
        assert_eq!(bench.worker.poll(bench.now), 0);
    }
    assert!(bench.vms.iter_mut().all(|vm| vm.send(BEYOND)));
    bench.send_from_far(private(frame(mac(0), BEYOND, 0, 60)));
    bench.now += MS;
    assert_eq!(
        bench.worker.poll(bench.now),
        1 + 2,
        "two idle guests a round"
    );
}

#[test]
fn long_frames_of_one_guest_leave_the_others_their_part_of_a_round() {
    let mut bench = Bench::bare(&[Path::Direct; 3], ENDLESS, None);
    for vf in 0..3 {
        let config = NetConfig {
            mtu: 9000,
            ..queue_of(256)
        };
        bench.start(vf, &config);
    }
    for _ in 0..32 {
        assert!(bench.vms[0].send_on(0, mac(2), 9000) && bench.vms[1].send(mac(2)));
    }
    bench.worker.poll(bench.now);
    let left = [0, 1].map(|vf| bench.vms[vf].outstanding(0));
    assert_eq!(left, [24, 0], "64 KiB of one, and all of the other");
}

#[test]
fn frames_arrive_when_a_ten_gigabit_wire_brings_them() {
    let (mut near, mut far) = WireEnd::pair(LinkConfig::default(), ENDLESS);
    let mut tenths = 0;
    for len in [60, 60, 60, 1514, 14, 9014, 60] {
        let frame = private(frame(BEYOND, MAC_BASE, 0, len));
        send(&mut near, Nanos(0), frame.clone());
        // Padded to 60 bytes; FCS, preamble and gap; 0.8 ns a byte; 100 m of fibre.
        tenths += (frame.len().max(60) + 24) * 8;
        let arrival = Nanos(u64::from(tenths.div_ceil(10)) + 500);
        assert_eq!(far.next(), Some(arrival));
        assert_eq!(receive(&mut far, Nanos(arrival.0 - 1)), []);
        assert_eq!(receive(&mut far, arrival), [frame]);
        assert_eq!(far.next(), None);
    }
}

#[test]
fn a_hairpin_brings_back_what_it_is_sent() {
    let mut end = WireEnd::hairpin(LinkConfig::default(), Nanos(0));
    let frame = private(frame(BEYOND, MAC_BASE, 0, 60));
    send(&mut end, Nanos(0), frame.clone());
    // 67.2 ns on the wire, and 100 m of fibre there and back.
    assert_eq!(end.next(), Some(Nanos(68 + 1000)));
    assert_eq!(receive(&mut end, Nanos(1067)), []);
    assert_eq!(receive(&mut end, Nanos(1068)), [frame]);
    assert_eq!(end.to_string(), "hairpin");
}

#[test]
fn frames_shorter_than_the_least_are_filled_up_on_the_wire_and_nowhere_else() {
    for (workers, path) in [(1, Path::Direct), (2, Path::Direct), (1, Path::Mediated)] {
        let mut bench = Bench::with_workers(workers, &[path; 2], Nanos(0), None);
        (0..2).for_each(|vf| bench.start(vf, &queue_of(16)));
        for len in [20, 59, 60, 61] {
            assert!(bench.vms[1].send_on(0, BEYOND, len));
        }
        assert!(bench.vms[1].send_on(0, mac(0), 20));
        bench.run_until(MS);
        let lengths: Vec<_> = bench.arrived.iter().map(Vec::len).collect();
        assert_eq!(lengths, [60, 60, 60, 61], "{workers} workers, {path}");
        let padded = [frame(BEYOND, mac(1), 0, 20), vec![0; 40]].concat();
        assert_eq!(bench.arrived[0], padded);
        let wire = bench.sum(Nic::wire_counters);
        assert_eq!((wire.tx_packets, wire.tx_bytes), (4, 241));
        bench.vms[0].receive();
        assert_eq!(bench.vms[0].got, [frame(mac(0), mac(1), 4, 20)]);
    }
}

#[test]
fn a_wire_without_slack_takes_a_frame_when_the_last_has_left() {
    let (mut near, _far) = WireEnd::pair(LinkConfig::default(), Nanos(0));
    assert_eq!(near.tx_room_at(), Some(Nanos(0)));
    let frame = private(frame(BEYOND, MAC_BASE, 0, 60));
    send(&mut near, Nanos(7), frame.clone());
    // 67.2 ns, rounded down: one that follows at once has no gap before it.
    assert_eq!(near.tx_room_at(), Some(Nanos(74)));
    assert!(!tx_room(&mut near, Nanos(73)).any());
    assert!(tx_room(&mut near, Nanos(74)).any());
}

#[test]
fn what_cannot_wait_for_room_in_the_fibre_arrives_all_the_same() {
    let (mut near, mut far) = WireEnd::pair(LinkConfig::default(), ENDLESS);
    for n in 0..10_000 {
        let frame = private(frame(BEYOND, MAC_BASE, n, 60));
        send(&mut near, Nanos(0), frame.clone());
    }
    assert!(!tx_room(&mut near, Nanos(0)).any());
    assert_eq!(near.tx_room_at(), None);
    let mut arrived = Vec::new();
    while arrived.len() < 10_000 {
        let before = arrived.len();
        arrived.extend(receive(&mut far, LATE).into_iter().map(|f| f.data));
        assert!(
            arrived.len() > before,
            "the fibre is filled again at a look"
        );
        near.next();
    }
    let sent: Vec<_> = (0..10_000)
        .map(|n| private(frame(BEYOND, MAC_BASE, n, 60)).data)
        .collect();
    assert!(arrived == sent, "in order");
    assert!(tx_room(&mut near, Nanos(0)).any());
}

#[test]
fn a_full_fibre_takes_a_frame_again_when_the_receiver_has_taken_one() {
    let (mut near, mut far) = WireEnd::pair(LinkConfig::default(), ENDLESS);
    let mut sent = 0;
    let mut fill = |near: &mut WireEnd| {
        while tx_room(near, Nanos(0)).any() {
            assert!(near.tx_room_at().is_some());
            let frame = private(frame(BEYOND, MAC_BASE, sent, 60));
            send(near, Nanos(0), frame.clone());
            sent += 1;
        }
        assert_eq!(near.tx_room_at(), None, "nobody knows when");
        sent
    };
    let full = fill(&mut near);
    assert_eq!(full, 4096);
    // The sender's thread may sleep, so it is woken.
    let mut poll = mio::Poll::new().unwrap();
    let bell = Doorbell::new(mio::Waker::new(poll.registry(), mio::Token(0)).unwrap());
    bell.going_to_sleep();
    far.set_peer(bell);
    let arrival = far.next().unwrap();
    let mut one = Arrivals::default();
    far.rx_burst(arrival, 1, &Pool::new(1), &mut one);
    assert_eq!(one.frames.len(), 1);
    let mut events = mio::Events::with_capacity(1);
    let at_once = Some(std::time::Duration::ZERO);
    poll.poll(&mut events, at_once).unwrap();
    assert!(!events.is_empty());
    assert!(tx_room(&mut near, Nanos(0)).any());
    assert_eq!(near.tx_room_at(), Some(Nanos(0)));
    assert_eq!(fill(&mut near), full + 1);
    // Nothing that was sent is lost.
    let arrived = receive(&mut far, LATE).into_iter().map(|f| f.data);
    let numbers = by_sender(&arrived.collect::<Vec<_>>());
    assert_eq!(numbers[&MAC_BASE], (1..=full).collect::<Vec<_>>());
}

/// What could not wait is put on a full wire when the other end has taken something, though nothing else waits that would ask for room.
#[test]
fn what_was_forced_onto_a_full_wire_is_come_back_for() {
    let (mut near, mut far) = WireEnd::pair(LinkConfig::default(), ENDLESS);
    let bell = |poll: &mio::Poll| {
        let bell = Doorbell::new(mio::Waker::new(poll.registry(), mio::Token(0)).unwrap());
        bell.going_to_sleep();
        bell
    };
    let rung = |poll: &mut mio::Poll| {
        let mut events = mio::Events::with_capacity(1);
        let at_once = Some(std::time::Duration::ZERO);
        poll.poll(&mut events, at_once).unwrap();
        !events.is_empty()
    };
    let (mut of_near, mut of_far) = (mio::Poll::new().unwrap(), mio::Poll::new().unwrap());
    for n in 0..5000 {
        send(&mut near, Nanos(0), private(frame(BEYOND, MAC_BASE, n, 60)));
    }
    far.set_peer(bell(&of_near));
    near.set_peer(bell(&of_far));
    near.next();
    assert!(!rung(&mut of_far), "there was no room");
    let mut some = Arrivals::default();
    far.rx_burst(LATE, 1000, &Pool::new(1), &mut some);
    assert!(rung(&mut of_near));
    near.next();
    assert!(rung(&mut of_far));
    assert_eq!(some.frames.len() + receive(&mut far, LATE).len(), 5000);
}

/// All that may be on the way from one end: the bound of the wire and what cannot wait for it.
const MOST_ON_THE_WAY: usize = (8 + 24) << 20;

#[test]
fn what_cannot_wait_is_bounded_in_bytes_and_the_rest_is_lost_by_name() {
    let (mut near, mut far) = WireEnd::pair(LinkConfig::default(), ENDLESS);
    let frame = private(frame(BEYOND, MAC_BASE, 0, 9000));
    let on_wire = OnWire::of(&meta(frame.len(), &frame.offload));
    let mut lost = Vec::new();
    let sent = 10_000;
    for _ in 0..sent {
        let mut frames = vec![TxFrame {
            frame: frame.clone(),
            on_wire,
        }];
        near.tx_burst(Nanos(0), &mut frames, &Pool::new(1), &mut |why, _| {
            lost.push(why)
        });
    }
    assert!(
        lost.iter()
            .all(|reason| *reason == DropReason::WireQueueFull)
    );
    let kept = sent - lost.len();
    assert!(kept * 9000 <= MOST_ON_THE_WAY + 2 * 9000, "{kept}");
    assert!(kept * 9000 > MOST_ON_THE_WAY - 2 * 9000, "{kept}");
    let mut arrived = 0;
    while arrived < kept {
        arrived += receive(&mut far, LATE).len();
        near.next();
    }
    assert!(tx_room(&mut near, Nanos(0)).any(), "there is room again");
}

#[test]
fn a_guest_that_gives_commands_puts_no_more_on_the_wire_than_it_carries() {
    let mut bench = Bench::bare(&[Path::Mediated, Path::Direct], Nanos(0), None);
    for vf in 0..2 {
        let config = NetConfig {
            mtu: 9000,
            ..queue_of(256)
        };
        bench.start(vf, &config);
    }
    let mut victim = Vec::new();
    for step in 1..=200u64 {
        while bench.vms[0].send_on(0, BEYOND, 9000) {}
        while bench.vms[1].send_on(0, BEYOND, 1000) {}
        for on in [true, false] {
            let mode = RxMode {
                allmulti: on,
                ..RxMode::default()
            };
            let request = VfRequest::RxMode(mode);
            let policy = bench.policies.load();
            let policy = policy.with_request(VfIndex(0), &request).unwrap().policy;
            bench.policies.publish(policy);
        }
        bench.run_until(Nanos(step * 100_000));
        victim.push(by_sender(&bench.arrived)[&mac(1)].len() * 1024);
    }
    let wire = bench.sum(Nic::wire_counters);
    let carried = 200 * 100_000 * 10 / 8;
    assert!(wire.tx_bytes < carried + 20_000, "{}", wire.tx_bytes);
    let share = *victim.last().unwrap() as f64 / carried as f64;
    assert!((0.45..0.55).contains(&share), "the other VF's: {share}");
}

#[test]
fn a_thread_that_comes_late_makes_up_for_it_and_for_no_more() {
    let slack = Nanos(30_000);
    let (mut near, mut far) = WireEnd::pair(LinkConfig::default(), slack);
    let frame = private(frame(BEYOND, MAC_BASE, 0, 1514));
    let on_wire = OnWire::of(&meta(frame.len(), &frame.offload));
    // The thread looks each microsecond, but for 2 ms in the middle, and then fills the transmitter in bursts.
    let mut sent = 0;
    let mut fill = |near: &mut WireEnd, now: Nanos| {
        let mut room = tx_room(near, now);
        let mut frames = Vec::new();
        while room.any() && frames.len() < 32 {
            room.take(on_wire.bytes);
            frames.push(TxFrame {
                frame: frame.clone(),
                on_wire,
            });
        }
        sent += frames.len();
        near.tx_burst(now, &mut frames, &Pool::new(1), &mut |why, _| {
            panic!("{why}")
        });
        sent
    };
    let mut arrived = 0;
    let mut looks: Vec<u64> = (1_000..2_000).chain(4_000..5_000).collect();
    looks.dedup();
    for now in looks.into_iter().map(|us| Nanos(us * 1000)) {
        fill(&mut near, now);
        arrived += receive(&mut far, now).len();
        let carried = (now.0 - 1_000_000 + 10_000) * 10 / 8 / 1538;
        assert!(arrived as u64 <= carried, "{arrived} of {carried} at {now}");
    }
    let carried = 4_000_000 * 10 / 8 / 1538;
    assert!(arrived > carried - 8, "{arrived} of {carried}");
}

#[test]
fn a_transmitter_that_had_nothing_to_send_has_not_been_late() {
    let (mut near, mut far) = WireEnd::pair(LinkConfig::default(), Nanos(30_000));
    let frame = private(frame(BEYOND, MAC_BASE, 0, 1514));
    for us in 0..1_000 {
        tx_room(&mut near, Nanos(us * 1000));
    }
    // 2 ms later there is something: it was not there before.
    let now = Nanos(3_000_000);
    tx_room(&mut near, now);
    for _ in 0..100 {
        send(&mut near, now, frame.clone());
    }
    let at_once = receive(&mut far, now).len();
    assert!(at_once <= 9, "those of 10 us: {at_once}");
    near.slept();
    let later = Nanos(9_000_000);
    receive(&mut far, later);
    tx_room(&mut near, later);
    send(&mut near, later, frame);
    assert_eq!(receive(&mut far, later).len(), 0, "a sleep is no lateness");
}

#[test]
fn frames_of_a_wire_that_was_looked_at_late_wait_for_buffers_that_a_guest_had_no_time_to_post() {
    for late in [Nanos(0), Nanos(1_000_000)] {
        let mut bench = Bench::bare(&[Path::Direct], Nanos(30_000), None);
        bench.start(0, &queue_of(8));
        for number in 0..20 {
            bench.send_from_far(private(frame(mac(0), BEYOND, number, 60)));
        }
        // All are there after 2 us.
        bench.now += Nanos(2_000) + late;
        bench.settle();
        bench.vms[0].receive();
        bench.settle();
        bench.vms[0].receive();
        bench.settle();
        let got = bench.vms[0].receive();
        let dropped = bench.drops().iter().map(|(_, n)| *n).sum::<u64>();
        assert_eq!(
            (got, dropped),
            if late > Nanos(0) { (20, 0) } else { (8, 12) }
        );
        // A guest that takes nothing gains no more than the time that was lost.
        bench.now += Nanos(20_000_000);
        for number in 0..20 {
            bench.send_from_far(private(frame(mac(0), BEYOND, number, 60)));
        }
        bench.settle();
        bench.now += Nanos(3_000);
        bench.settle();
        let dropped_now = bench.drops().iter().map(|(_, n)| *n).sum::<u64>();
        assert_eq!(dropped_now - dropped, 12);
    }
}

/// A guest with so many queue pairs.
fn with_queues(queue_pairs: u16) -> NetConfig {
    NetConfig {
        queue_pairs,
        ..queue_of(64)
    }
}

#[test]
fn a_queue_that_waits_for_the_wire_holds_none_of_the_others() {
    // With the port, and with a queue to the worker that has it.
    for (workers, vf) in [(1, 0), (2, 1)] {
        let mut bench = Bench::with_workers(workers, &[Path::Direct; 2], Nanos(0), None);
        (0..2).for_each(|vf| bench.start(vf, &with_queues(2)));
        let to = 1 - vf;
        let now = bench.now;
        while bench.vms[vf].outstanding(0) == 0 {
            assert!(bench.vms[vf].send_on(0, BEYOND, 1514));
            bench.worker_of_vf(vf).poll(now);
            bench.worker.poll(now);
        }
        assert!(bench.vms[vf].send_on(0, mac(to), 1514), "behind it");
        for n in 1..=200 {
            assert!(bench.vms[vf].send_on(1, mac(to), 60));
            while bench.worker_of_vf(vf).poll(now) + bench.worker_of_vf(to).poll(now) > 0 {
                bench.vms[to].receive();
            }
            assert_eq!(bench.vms[to].receive(), n, "{workers} workers");
        }
        assert_eq!(bench.vms[vf].outstanding(1), 0);
        let waits = bench.vms[vf].outstanding(0);
        assert!(waits > 0, "the wire has taken no more meanwhile");
        // Nothing is left that could be done now, nor is anybody asked for kicks of the ring that waits.
        assert!(!bench.worker_of_vf(vf).arm(now));
        bench.vms[vf].send_on(1, mac(to), 60);
        assert!(bench.worker_of_vf(vf).arm(now), "but of the other");
        bench.run_until(MS);
        assert_eq!(bench.vms[to].receive(), 202);
        assert_eq!(bench.vms[vf].outstanding(0), 0);
        assert_eq!(bench.drops(), []);
    }
}

#[test]
fn a_vf_has_one_share_of_the_wire_however_many_queues_it_has_and_they_share_it() {
    for (workers, slack) in [(1, Nanos(0)), (1, Nanos(40_000)), (2, Nanos(40_000))] {
        let mut bench = Bench::with_workers(workers, &[Path::Direct; 3], slack, None);
        let queues = [1, 4, 2];
        for (vf, queues) in queues.into_iter().enumerate() {
            bench.start(vf, &with_queues(queues));
        }
        // Which queue a frame was in is its length.
        let length = |queue: usize| 500 + queue;
        for step in 1..=200 {
            for (vm, queues) in bench.vms.iter_mut().zip(queues) {
                for queue in 0..usize::from(queues) {
                    while vm.send_on(queue, BEYOND, length(queue)) {}
                }
            }
            let now = Nanos(step * 10_000);
            match slack {
                Nanos(0) => bench.run_until(now),
                // A worker on the wall clock looks now and then only.
                _ => {
                    bench.now = now;
                    bench.settle();
                }
            }
        }
        let arrived = bench.arrived.split_off(700);
        let mut shares: BTreeMap<(MacAddr, usize), Vec<u32>> = BTreeMap::new();
        for (src, frames) in arrived
            .chunk_by(|a, b| a.len() == b.len())
            .flat_map(by_sender_of)
        {
            shares.entry(src).or_default().extend(frames);
        }
        for (vf, queues) in queues.into_iter().enumerate() {
            for queue in 0..usize::from(queues) {
                let numbers = &shares[&(mac(vf), length(queue))];
                assert!(numbers.is_sorted(), "vf {vf} queue {queue}");
                let share = numbers.len() * 3 * usize::from(queues);
                let apart = share.abs_diff(arrived.len());
                assert!(
                    apart < arrived.len() / 20,
                    "vf {vf} queue {queue} of {workers} workers: {share} of {}",
                    arrived.len()
                );
            }
        }
    }
}

/// The numbers of frames of one length, with who sent them.
fn by_sender_of(frames: &[Vec<u8>]) -> Vec<((MacAddr, usize), Vec<u32>)> {
    let len = frames.first().map_or(0, Vec::len);
    let by_sender = by_sender(frames).into_iter();
    by_sender
        .map(|(src, numbers)| ((src, len), numbers))
        .collect()
}

#[test]
fn a_ring_that_stops_takes_its_waiting_frame_along_and_leaves_those_of_the_others() {
    let mut bench = Bench::bare(&[Path::Direct], Nanos(0), None);
    bench.start(0, &with_queues(3));
    bench.vms[0].send_on(0, BEYOND, 100);
    bench.settle();
    for queue in 0..3 {
        for _ in 0..2 {
            bench.vms[0].send_on(queue, BEYOND, 500 + queue);
        }
    }
    bench.settle();
    assert!(bench.worker.is_blocked(VfIndex(0)));
    let ring = bench.worker.detach(bench.now, VfIndex(0), 3).unwrap();
    assert!(bench.worker.is_blocked(VfIndex(0)), "the others still wait");
    assert_eq!(
        [0, 1, 2].map(|queue| bench.vms[0].outstanding(queue)),
        [2, 1, 2]
    );
    bench.worker.attach(VfIndex(0), ring);
    assert!(bench.worker.is_blocked(VfIndex(0)), "it goes first");
    bench.run_until(MS);
    let lengths: Vec<_> = bench.arrived.iter().map(Vec::len).collect();
    assert_eq!(lengths, [100, 501, 500, 502, 501, 500, 502]);
    assert_eq!(
        [0, 1, 2].map(|queue| bench.vms[0].outstanding(queue)),
        [0; 3]
    );
}

/// What waits for the wire in a ring that stops goes when it is its turn, not when its front end wants it.
#[test]
fn who_stops_its_rings_has_no_more_of_the_wire() {
    const PAIRS: usize = 8;
    for workers in [1, 2] {
        let mut bench = Bench::with_workers(workers, &[Path::Direct; 2], Nanos(0), None);
        let many = NetConfig {
            queue_pairs: PAIRS as u16,
            ..queue_of(16)
        };
        bench.start(0, &many);
        bench.start(1, &queue_of(64));
        let byte_times = Nanos((1500 + 24) * 8 / 10);
        for _ in 0..300 {
            for pair in 0..PAIRS {
                while bench.vms[0].send_on(pair, BEYOND, 1500) {}
            }
            while bench.vms[1].send_on(0, BEYOND, 1500) {}
            bench.settle();
            for pair in 0..PAIRS as u32 {
                let now = bench.now;
                let plane = bench.worker_of_vf(0);
                let ring = plane.detach(now, VfIndex(0), 2 * pair + 1).unwrap();
                plane.attach(VfIndex(0), ring);
            }
            bench.settle();
            bench.now += byte_times;
        }
        let sent = by_sender(&bench.arrived);
        let [many, one] = [0, 1].map(|vf| sent[&mac(vf)].len());
        assert!(many.abs_diff(one) < 20, "{many} and {one} of {workers}");
        assert!(many + one <= 301, "the wire carries no more");
        assert!(bench.drops().is_empty(), "{:?}", bench.drops());
    }
}
