//! A wire that frames have to wait for: when it takes them, and who gets how much of it.

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
    bench.adapter.poll(bench.now);
    bench.adapter.take_notified();
    assert!(bench.vms[0].send(BROADCAST));
    bench.adapter.poll(bench.now);
    assert!(bench.adapter.is_parked(VfIndex(0)));
    assert_eq!(bench.vms[1].receive(), 1);
    assert!(bench.adapter.take_notified().rx.contains(VfIndex(1)));
}

#[test]
fn what_the_wire_brings_does_not_make_a_round_look_at_every_idle_guest() {
    let mut bench = Bench::new(&[Path::Direct; 8], ENDLESS);
    let poll = mio::Poll::new().unwrap();
    bench.adapter.connect(poll.registry().try_clone().unwrap());
    for _ in 0..1000 {
        assert_eq!(bench.adapter.poll(bench.now), 0);
    }
    assert!(bench.vms.iter_mut().all(|vm| vm.send(BEYOND)));
    bench.send_from_far(private(frame(mac(0), BEYOND, 0, 60)));
    bench.now += MS;
    assert_eq!(
        bench.adapter.poll(bench.now),
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
    bench.adapter.poll(bench.now);
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
        assert_eq!(far.next_arrival(), Some(arrival));
        assert_eq!(receive(&mut far, Nanos(arrival.0 - 1)), []);
        assert_eq!(receive(&mut far, arrival), [frame]);
        assert_eq!(far.next_arrival(), None);
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
    assert!(!near.tx_room(Nanos(73)).any());
    assert!(near.tx_room(Nanos(74)).any());
}

#[test]
fn what_cannot_wait_for_room_in_the_fibre_arrives_all_the_same() {
    let (mut near, mut far) = WireEnd::pair(LinkConfig::default(), ENDLESS);
    for n in 0..10_000 {
        let frame = private(frame(BEYOND, MAC_BASE, n, 60));
        send(&mut near, Nanos(0), frame.clone());
    }
    assert!(!near.tx_room(Nanos(0)).any());
    assert_eq!(near.tx_room_at(), None);
    let mut arrived = Vec::new();
    while arrived.len() < 10_000 {
        let before = arrived.len();
        arrived.extend(receive(&mut far, LATE).into_iter().map(|f| f.data));
        assert!(
            arrived.len() > before,
            "the fibre is filled again at a look"
        );
        near.next_arrival();
    }
    let sent: Vec<_> = (0..10_000)
        .map(|n| private(frame(BEYOND, MAC_BASE, n, 60)).data)
        .collect();
    assert!(arrived == sent, "in order");
    assert!(near.tx_room(Nanos(0)).any());
}

#[test]
fn a_full_fibre_takes_a_frame_again_when_the_receiver_has_taken_one() {
    let (mut near, mut far) = WireEnd::pair(LinkConfig::default(), ENDLESS);
    let mut sent = 0;
    let mut fill = |near: &mut WireEnd| {
        while near.tx_room(Nanos(0)).any() {
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
    let arrival = far.next_arrival().unwrap();
    let mut one = Arrivals::default();
    far.rx_burst(arrival, 1, &Pool::new(1), &mut one);
    assert_eq!(one.frames.len(), 1);
    let mut events = mio::Events::with_capacity(1);
    let at_once = Some(std::time::Duration::ZERO);
    poll.poll(&mut events, at_once).unwrap();
    assert!(!events.is_empty());
    assert!(near.tx_room(Nanos(0)).any());
    assert_eq!(near.tx_room_at(), Some(Nanos(0)));
    assert_eq!(fill(&mut near), full + 1);
    // Nothing that was sent is lost.
    let arrived = receive(&mut far, LATE).into_iter().map(|f| f.data);
    let numbers = by_sender(&arrived.collect::<Vec<_>>());
    assert_eq!(numbers[&MAC_BASE], (1..=full).collect::<Vec<_>>());
}
