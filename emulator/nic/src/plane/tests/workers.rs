//! Several workers of one NIC, polled in turn: frames change workers and nobody can tell.

use proptest::collection::vec;

use super::*;

/// A host with so many workers and a guest on each VF, all direct.
fn bench(workers: usize, vfs: usize, slack: Nanos) -> Bench {
    let mut bench = Bench::with_workers(workers, &vec![Path::Direct; vfs], slack, None);
    for vf in 0..vfs {
        bench.start(vf, &queue_of(256));
    }
    bench
}

/// A doorbell of a thread that sleeps, and how to tell whether it has been rung.
fn sleeper() -> (Doorbell, impl FnMut() -> bool) {
    let mut poll = mio::Poll::new().unwrap();
    let bell = Doorbell::new(mio::Waker::new(poll.registry(), mio::Token(0)).unwrap());
    bell.going_to_sleep();
    let asleep = bell.clone();
    let rung = move || {
        let mut events = mio::Events::with_capacity(1);
        let at_once = Some(std::time::Duration::ZERO);
        poll.poll(&mut events, at_once).unwrap();
        asleep.going_to_sleep();
        !events.is_empty()
    };
    (bell, rung)
}

#[test]
fn frames_between_workers_arrive_in_order_and_are_counted_once() {
    let mut bench = bench(2, 2, ENDLESS);
    for _ in 0..5 {
        for _ in 0..100 {
            bench.vms[0].send(mac(1));
            bench.vms[1].send(mac(0));
        }
        bench.settle();
        bench.vms.iter_mut().for_each(|vm| {
            vm.receive();
        });
    }
    for (to, from) in [(0, 1), (1, 0)] {
        assert_eq!(by_sender(&bench.vms[to].got)[&mac(from)], count(500));
        let counters = bench.counters(to);
        assert_eq!((counters.rx_packets, counters.tx_packets), (500, 500));
        assert_eq!((counters.rx_bytes, counters.tx_bytes), (30_000, 30_000));
        assert_eq!(bench.vms[to].outstanding(0), 0);
    }
    let received = bench.others[0].nic.counters(VfIndex(1));
    assert_eq!(received.rx_packets, 500, "counted where it is delivered");
    let loads = [bench.worker.load(), bench.others[0].load()];
    assert_eq!(loads.map(|load| load.handed_over.get()), [500, 500]);
    assert_eq!(bench.drops(), []);
}

#[test]
fn a_group_frame_reaches_everybody_on_every_worker_once() {
    for workers in 1..=4 {
        let mut bench = bench(workers, 5, ENDLESS);
        bench.vms[3].send(BROADCAST);
        bench.send_from_far(private(frame(BROADCAST, BEYOND, 0, 60)));
        bench.run_until(MS);
        for vf in 0..5 {
            bench.vms[vf].receive();
            let mut expected = BTreeMap::from([(BEYOND, vec![0])]);
            if vf != 3 {
                expected.insert(mac(3), vec![0]);
            }
            assert_eq!(by_sender(&bench.vms[vf].got), expected, "vf {vf}");
        }
        assert_eq!(by_sender(&bench.arrived), [(mac(3), vec![0])].into());
        assert_eq!(bench.sum(Nic::wire_counters).tx_broadcast, 1);
        assert_eq!(bench.drops(), []);
    }
}

#[test]
fn what_a_worker_cannot_take_is_the_receivers_drop() {
    let mut bench = bench(2, 2, ENDLESS);
    let more = 100;
    while bench.vms[0].sent < (QUEUE / 2 + more) as u32 {
        bench.vms[0].send(mac(1));
        bench.worker.poll(bench.now); // the other worker is busy with something else
    }
    while bench.worker.poll(bench.now) > 0 {}
    let dropped = [(DropReason::WorkerQueueFull, more as u64)];
    assert_eq!(bench.drops(), dropped);
    let drops = bench.counters(1).rx_drops;
    assert_eq!(drops.get(DropReason::WorkerQueueFull), more as u64);
    assert_eq!(bench.vms[0].outstanding(0), 0, "the sender is not held up");
    while bench.vms[1].receive() < QUEUE / 2 {
        assert!(bench.others[0].poll(bench.now) > 0);
    }
    bench.settle();
    assert_eq!(by_sender(&bench.vms[1].got)[&mac(0)], count(QUEUE / 2));
    assert_eq!(bench.drops(), dropped);
}

#[test]
fn a_neighbour_that_floods_leaves_others_room_between_workers() {
    let mut bench = bench(2, 6, ENDLESS);
    // VFs 0, 2 and 4 are the first worker's; the other one is busy with something else.
    let send = |bench: &mut Bench, from: usize, to: usize| {
        bench.vms[from].send(mac(to));
        while bench.worker.poll(bench.now) > 0 {}
    };
    for _ in 0..2 * QUEUE {
        send(&mut bench, 0, 1);
        send(&mut bench, 2, 1);
    }
    let victims = QUEUE / 8;
    for _ in 0..victims {
        send(&mut bench, 4, 3);
    }
    let lost = |bench: &Bench, vf| bench.counters(vf).rx_drops.get(DropReason::WorkerQueueFull);
    assert!(lost(&bench, 1) > 0, "there is no room for all of that");
    assert_eq!(lost(&bench, 3), 0);
    let arrive = |bench: &mut Bench| {
        while bench.others[0].poll(bench.now) > 0 {
            bench.vms[1].receive();
            bench.vms[3].receive();
        }
        [1, 3].map(|vf| by_sender(&bench.vms[vf].got))
    };
    let [flooded, spared] = arrive(&mut bench);
    assert_eq!(spared[&mac(4)], count(victims));
    let of = |from| flooded[&mac(from)].len();
    assert!(of(0).abs_diff(of(2)) <= 1, "{} and {}", of(0), of(2));
    assert!((QUEUE / 3 - 1..QUEUE / 2).contains(&of(0)), "{}", of(0));
    // What is empty is all anybody's again.
    for _ in 0..QUEUE / 2 {
        send(&mut bench, 2, 1);
    }
    let before = lost(&bench, 1);
    let [again, _] = arrive(&mut bench);
    assert_eq!(again[&mac(2)].len(), of(2) + QUEUE / 2);
    assert_eq!(lost(&bench, 1), before);
    assert_eq!(bench.drops(), [(DropReason::WorkerQueueFull, before)]);
}

#[test]
fn a_worker_takes_a_burst_from_each_other_in_turn() {
    let mut bench = bench(3, 3, ENDLESS);
    for _ in 0..100 {
        bench.vms[1].send(mac(0));
        bench.vms[2].send(mac(0));
        bench.vms[0].send(mac(1));
    }
    for other in &mut bench.others {
        while other.poll(bench.now) > 0 {}
    }
    bench.worker.poll(bench.now);
    bench.vms[0].receive();
    let got = by_sender(&bench.vms[0].got);
    assert_eq!(got[&mac(1)].len(), got[&mac(2)].len());
    assert!(got[&mac(1)].len() < 100);
    assert!(bench.vms[0].outstanding(0) < 100, "its own have their turn");
    bench.settle();
    assert_eq!(bench.drops(), []);
}

#[test]
fn a_busy_wire_holds_up_the_vfs_of_every_worker_and_drops_nothing() {
    let mut bench = bench(2, 2, Nanos(0));
    while !bench.others[0].is_blocked(VfIndex(1)) {
        bench.vms[1].send(BEYOND);
        bench.others[0].poll(bench.now);
    }
    assert_eq!(bench.vms[1].sent as usize, VF_QUEUE + 1);
    assert_eq!(bench.vms[1].outstanding(0), 1, "it waits in its ring");
    let now = bench.now;
    assert_eq!(bench.others[0].next(now), None, "nobody knows how long");
    for _ in 0..50 {
        bench.vms[1].send(BEYOND);
        bench.vms[0].send(mac(1));
        bench.vms[0].send(BEYOND);
    }
    bench.run_until(MS);
    let sent = [0, 1].map(|vf| (mac(vf), bench.vms[vf].sent));
    let arrived = by_sender(&bench.arrived);
    assert_eq!(arrived[&sent[1].0], count(sent[1].1 as usize));
    assert_eq!(arrived[&sent[0].0].len(), 50);
    assert_eq!(bench.vms[1].receive(), 50);
    assert_eq!(bench.drops(), []);
}

#[test]
fn vfs_of_all_workers_and_the_pf_get_the_same_share_of_the_wire() {
    for workers in 1..=4 {
        // One worker has more VFs than another.
        let mut bench = bench(workers, 5, Nanos(0));
        let pf = MacAddr([2, 0, 0, 2, 0, 0]);
        for step in 1..=50 {
            for vm in &mut bench.vms {
                while vm.send(BEYOND) {}
            }
            let pf_frame = || private(frame(BEYOND, pf, 0, 60));
            while bench
                .hypervisor
                .pf_mut()
                .send(pf_frame(), to_wire())
                .is_ok()
            {}
            bench.run_until(Nanos(step * 10_000));
        }
        let slots = bench.arrived.len();
        assert!(slots > 7000, "{slots}");
        let shares = by_sender(&bench.arrived);
        assert_eq!(shares.len(), 6);
        for (sender, frames) in shares {
            let share = frames.len() as f64 * 6.0 / slots as f64;
            assert!((0.9..=1.1).contains(&share), "{sender}: {share}");
        }
    }
}

#[test]
fn small_frames_get_the_same_share_as_long_ones_of_another_worker() {
    // As many at once as a worker puts ahead on the wall clock.
    let mut bench = bench(3, 3, Nanos(40_000));
    let lengths = [60, 1514, 500];
    for step in 1..=100 {
        for (vm, len) in bench.vms.iter_mut().zip(lengths) {
            while vm.send_on(0, BEYOND, len) {}
        }
        // A worker on the wall clock looks now and then only.
        bench.now = Nanos(step * 10_000);
        bench.settle();
    }
    let arrived = bench.arrived.split_off(600);
    let shares = by_sender(&arrived);
    let third = arrived.iter().map(|f| f.len() + 24).sum::<usize>() / 3;
    for (vf, len) in lengths.into_iter().enumerate() {
        let bytes = shares[&mac(vf)].len() * (len + 24);
        assert!(
            bytes.abs_diff(third) < third / 20,
            "vf {vf}: {bytes} of {third}"
        );
    }
}

#[test]
fn who_sleeps_is_woken_by_what_is_left_for_it_and_by_room() {
    let mut bench = bench(2, 2, Nanos(0));
    let (first, mut first_rung) = sleeper();
    let (second, mut second_rung) = sleeper();
    let bells = [first, second];
    bench.worker.set_peers(&bells);
    bench.others[0].set_peers(&bells);
    bench.settle();
    let now = bench.now;
    let (first, second) = (&mut bench.worker, &mut bench.others[0]);
    assert!(!first.arm(now) && !second.arm(now));

    bench.vms[0].send(mac(1));
    first.poll(now);
    assert!(second_rung() && !first_rung());
    assert!(second.arm(now), "it must not sleep");
    second.poll(now);
    assert!(!second.arm(now));

    bench.vms[1].send(BEYOND);
    second.poll(now);
    assert!(first_rung() && !second_rung());
    assert!(first.arm(now), "it must not sleep");
    first.poll(now);
    assert!(!first.arm(now));
    assert!(!second_rung(), "there was room all the time");

    while !second.is_blocked(VfIndex(1)) {
        bench.vms[1].send(BEYOND);
        second.poll(now);
    }
    assert!(first_rung());
    first.poll(now); // finds the wire busy, and that frames wait
    assert!(!first.arm(now), "the wire says when");
    assert!(!second_rung());
    let free = first.next(now).unwrap();
    assert_eq!(second.next(now), None);
    first.poll(free);
    assert!(second_rung());
    assert_eq!(second.next(free), Some(free), "it must not sleep");
    second.poll(free);
    assert!(!second.is_blocked(VfIndex(1)));
}

#[test]
fn a_switch_with_full_queues_between_workers_loses_and_reorders_nothing() {
    let mut bench = bench(3, 4, ENDLESS);
    bench.command("vf 0 set path mediated");
    // VF 1's worker waits for the port's; one frame has to wait in its ring, and more are behind it.
    while !bench.worker_of_vf(1).is_blocked(VfIndex(1)) {
        bench.vms[1].send(BEYOND);
        let now = bench.now;
        bench.worker_of_vf(1).poll(now);
    }
    for _ in 0..20 {
        bench.vms[1].send(BEYOND);
    }
    // From VF 2 some are on their way to VF 1, VF 3 and, over the PF, VF 0.
    for _ in 0..60 {
        bench.vms[2].send(mac(1));
        bench.vms[2].send(mac(3));
        bench.vms[2].send(mac(0));
    }
    let now = bench.now;
    while bench.worker_of_vf(2).poll(now) > 0 {}
    bench.command("vf 1 set path mediated");
    let left = bench.others.iter_mut().map(|other| other.drain(now));
    let left = left.sum::<usize>() + bench.worker.drain(now);
    assert_eq!(left, 0, "nor is one on its way to the port");
    assert_eq!(bench.vms[1].receive(), 60, "it had buffers for them");
    assert_eq!(bench.vms[3].receive(), 60);
    bench.command("vf 2 set path mediated");
    for _ in 0..60 {
        bench.vms[2].send(mac(1));
    }
    while bench.hypervisor.poll(now) > 0 {}
    bench.command("vf 1 set path direct");
    bench.vms[1].send(BEYOND);
    bench.run_until(LATE);
    bench.vms.iter_mut().for_each(|vm| {
        vm.receive();
    });
    let sent = bench.vms[1].sent as usize;
    assert_eq!(by_sender(&bench.arrived), [(mac(1), count(sent))].into());
    let numbers = |vm: &Vm| by_sender(&vm.got)[&mac(2)].clone();
    let to_each = |n| (0..60u32).map(move |i| 3 * i + n);
    let more = 180..240;
    assert_eq!(numbers(&bench.vms[0]), to_each(2).collect::<Vec<_>>());
    assert_eq!(
        numbers(&bench.vms[1]),
        to_each(0).chain(more).collect::<Vec<_>>()
    );
    assert_eq!(numbers(&bench.vms[3]), to_each(1).collect::<Vec<_>>());
    assert_eq!(bench.drops(), []);
    assert_eq!([0, 1, 2, 3].map(|vf| bench.vms[vf].outstanding(0)), [0; 4]);
}

#[test]
fn a_ring_that_stops_leaves_its_waiting_frame_to_the_port() {
    let mut bench = bench(2, 2, ENDLESS);
    let now = bench.now;
    while !bench.others[0].is_blocked(VfIndex(1)) {
        bench.vms[1].send(BEYOND);
        bench.others[0].poll(now);
    }
    let ring = bench.others[0].detach(now, VfIndex(1), 1).unwrap();
    assert_eq!(bench.vms[1].outstanding(0), 0);
    bench.others[0].attach(VfIndex(1), ring);
    bench.vms[1].send(BEYOND);
    bench.run_until(MS);
    let sent = bench.vms[1].sent as usize;
    assert_eq!(sent, VF_QUEUE + 2);
    assert_eq!(by_sender(&bench.arrived)[&mac(1)], count(sent));
}

#[test]
fn without_an_uplink_every_worker_counts_what_would_leave() {
    let config = NicConfig {
        vfs: 2,
        mac_base: MAC_BASE,
        profile: Profile::Generic,
    };
    let pool = Pool::new(64);
    let policies = PolicyCell::new(Arc::new(Policy::new(config)));
    let team = DirectPlane::team(&policies, 2, PfEnd::pair().0, None, &pool);
    let mut bench = Bench::bare(&[Path::Direct; 2], Nanos(0), None);
    let [first, second] = <[DirectPlane; 2]>::try_from(team).ok().unwrap();
    (bench.worker, bench.others) = (first, vec![second]);
    for vf in 0..2 {
        bench.start(vf, &queue_of(16));
        bench.vms[vf].send(BEYOND);
        bench.vms[vf].send(BROADCAST);
    }
    bench.run_until(MS);
    assert_eq!(bench.drops(), [(DropReason::NoUplink, 4)]);
    assert_eq!([0, 1].map(|vf| bench.vms[vf].receive()), [1, 1]);
}

#[test]
fn what_waits_for_another_worker_is_not_judged_by_newer_rules() {
    let mut bench = bench(2, 2, ENDLESS);
    bench.vms[0].send(mac(1));
    bench.worker.poll(bench.now);
    bench.command("vf 1 set vlan 5");
    bench.settle();
    assert_eq!(bench.vms[1].receive(), 1);
    assert_eq!(bench.vms[1].got[0].len(), 60, "no tag was taken out of it");
    bench.vms[0].send(mac(1));
    bench.settle();
    assert_eq!(bench.vms[1].receive(), 1, "no more");
    assert_eq!(bench.drops(), []);
}

/// Settings that change who gets what, and how it looks.
const POLICIES: [&str; 12] = [
    "vf 0 set vlan 5",
    "vf 1 set vlan 5 qos 3",
    "vf 2 set vlan 5",
    "vf 2 set vlan 0",
    "vf 1 set spoofchk off",
    "vf 2 set state disable",
    "vf 3 set state enable",
    "vf 0 set path mediated",
    "vf 1 set path mediated",
    "vf 1 set path direct",
    "filter add flow-type ether dst 02:00:00:01:00:00 vf 3",
    "filter add flow-type ether dst unknown-multicast action drop",
];

/// Frames of one sender to one of many destinations, or a command.
#[derive(Clone, Debug)]
enum Step {
    Command(usize),
    Send {
        from: usize,
        to: usize,
        tagged: bool,
        spoofed: bool,
        len: usize,
        frames: usize,
    },
}

fn any_step() -> impl Strategy<Value = Step> {
    let send = (0..5usize, 0..7usize, 0..4, 0..8, 60..1514usize, 1..40usize);
    prop_oneof![
        1 => (0..POLICIES.len()).prop_map(Step::Command),
        4 => send.prop_map(|(from, to, tagged, spoofed, len, frames)| Step::Send {
            from, to, tagged: tagged == 0, spoofed: spoofed == 0, len, frames
        }),
    ]
}

/// What of each sender each guest and the far end get, and what was counted.
type Deliveries = (Vec<BTreeMap<MacAddr, Vec<Vec<u8>>>>, Vec<Counters>);

fn deliveries(workers: usize, steps: &[Step]) -> Deliveries {
    let mut bench = bench(workers, 4, ENDLESS);
    let mut number = 0;
    for step in steps {
        match step {
            Step::Command(n) => {
                let words: Vec<_> = POLICIES[*n].split(' ').collect();
                let command = Command::parse(&words).unwrap();
                // A filter that is there already is refused.
                let _ = bench.apply(&command);
            }
            Step::Send {
                from,
                to,
                tagged,
                spoofed,
                len,
                frames,
            } => {
                let group = MacAddr([1, 0, 0x5e, 0, 0, 1]);
                let to = [mac(0), mac(1), mac(2), mac(3), BEYOND, BROADCAST, group][*to];
                let own = [mac(0), mac(1), mac(2), mac(3), BEYOND][*from];
                let src = if *spoofed { mac(9) } else { own };
                for _ in 0..*frames {
                    let mut data = frame(to, src, number, *len);
                    number += 1;
                    if *tagged {
                        data.splice(12..12, [0x81, 0, 0, 5]);
                    }
                    match bench.vms.get_mut(*from) {
                        None => bench.send_from_far(private(data)),
                        Some(vm) => {
                            let header = NetHeader::default();
                            assert!(vm.net.send(0, &header, &data).unwrap());
                            vm.net.kick();
                        }
                    }
                }
            }
        }
        bench.run_until(bench.now + MS);
        for vm in &mut bench.vms {
            vm.receive();
            vm.net.tx_room(0).unwrap();
        }
    }
    let by_source = |frames: &[Vec<u8>]| {
        let mut all: BTreeMap<MacAddr, Vec<Vec<u8>>> = BTreeMap::new();
        for frame in frames {
            let src = MacAddr(frame[6..12].try_into().unwrap());
            all.entry(src).or_default().push(frame.clone());
        }
        all
    };
    let got = bench.vms.iter().map(|vm| by_source(&vm.got));
    let got = got.chain([by_source(&bench.arrived)]).collect();
    let counters = (0..4).map(|vf| bench.counters(vf));
    let queues = [bench.sum(Nic::pf_counters), bench.sum(Nic::wire_counters)];
    (got, counters.chain(queues).collect())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn any_number_of_workers_delivers_the_same(steps in vec(any_step(), 1..25)) {
        let one = deliveries(1, &steps);
        for workers in 2..=4 {
            prop_assert_eq!(&deliveries(workers, &steps), &one, "{} workers", workers);
        }
    }
}
