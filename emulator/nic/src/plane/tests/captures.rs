//! Captures that are attached to planes: what they see is what is counted, frame by frame, and is what guests get.

use proptest::collection::vec;
use proptest::sample::select;

use super::*;
use crate::capture::{Budget, Capture, Captured, Item, Wanted, all_ports};
use crate::watch::{Direction, Port};

impl Bench {
    /// Captures from now on.
    fn capture(&mut self, wanted: Wanted) -> Arc<Capture> {
        self.capture_within(wanted, Budget::default())
    }

    /// The same beside others that have this budget.
    fn capture_within(&mut self, wanted: Wanted, budget: Budget) -> Arc<Capture> {
        let poll = mio::Poll::new().unwrap();
        let bell = Doorbell::new(mio::Waker::new(poll.registry(), mio::Token(0)).unwrap());
        let vfs = self.policies.load().vf_count();
        let capture = Capture::new(wanted, vfs, bell, Pool::new(1), budget);
        let workers = std::iter::once(&mut self.worker).chain(&mut self.others);
        for worker in workers {
            worker.captures_mut().attach(&capture);
        }
        self.hypervisor.captures_mut().attach(&capture);
        capture
    }

    fn capture_all(&mut self) -> Arc<Capture> {
        let ports = all_ports(self.policies.load().vf_count());
        self.capture(Wanted {
            ports,
            ..Wanted::default()
        })
    }
}

fn frames(capture: &Capture) -> Vec<Captured> {
    let items = std::iter::from_fn(|| capture.take());
    let frames = items.filter_map(|item| match item {
        Item::Frame(frame) => Some(frame),
        Item::Event(_) => None,
    });
    frames.collect()
}

/// How many frames of a port went this way, and how many were dropped there, by reason.
fn seen(frames: &[Captured], port: Port, direction: Direction) -> (u64, Vec<(DropReason, u64)>) {
    let here = frames
        .iter()
        .filter(|frame| (frame.port, frame.direction) == (port, direction));
    let mut passed = 0;
    let mut drops = BTreeMap::new();
    for frame in here {
        match frame.drop {
            None => passed += 1,
            Some(reason) => *drops.entry(reason.to_string()).or_default() += 1,
        }
    }
    let by_reason = DropReason::all();
    let by_reason = by_reason.filter_map(|why| Some((why, *drops.get(&why.to_string())?)));
    (passed, by_reason.collect())
}

/// What a guest does, or is done to it.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// It sends a frame to a VF, to all, beyond the wire, or as somebody else.
    Send(usize, To, usize),
    /// Something comes from the wire, for a VF or for nobody.
    Arrive(usize, usize),
    /// A driver's header makes no sense.
    Bad(usize),
    /// It takes what it has received.
    Receive(usize),
    Switch(usize, Path),
    Settle,
}

#[derive(Clone, Copy, Debug)]
enum To {
    Vf(usize),
    All,
    Beyond,
    Spoofed,
}

const VFS: usize = 4;

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let to = prop_oneof![
        4 => (0..VFS).prop_map(To::Vf),
        1 => Just(To::All),
        2 => Just(To::Beyond),
        1 => Just(To::Spoofed),
    ];
    let len = select(vec![60, 61, 600, 1514]);
    let paths = vec![Path::Direct, Path::Mediated, Path::Auto];
    let step = prop_oneof![
        8 => (0..VFS, to, len.clone()).prop_map(|(vf, to, len)| Step::Send(vf, to, len)),
        3 => (0..=VFS, len).prop_map(|(vf, len)| Step::Arrive(vf, len)),
        1 => (0..VFS).prop_map(Step::Bad),
        2 => (0..VFS).prop_map(Step::Receive),
        1 => (0..VFS, select(paths)).prop_map(|(vf, path)| Step::Switch(vf, path)),
        2 => Just(Step::Settle),
    ];
    vec(step, 1..120)
}

fn run(bench: &mut Bench, steps: &[Step]) {
    for step in steps {
        match *step {
            Step::Send(vf, to, len) => {
                let vm = &mut bench.vms[vf];
                match to {
                    To::Vf(to) => vm.send_on(0, mac(to), len),
                    To::All => vm.send_on(0, BROADCAST, len),
                    To::Beyond => vm.send_on(0, BEYOND, len),
                    To::Spoofed => {
                        let frame = frame(mac(0), BEYOND, 0, len);
                        vm.net.send(0, &NetHeader::default(), &frame).unwrap()
                    }
                };
            }
            Step::Arrive(vf, len) => {
                bench.send_from_far(private(frame(mac(vf), BEYOND, 0, len)));
            }
            Step::Bad(vf) => {
                let bad = NetHeader {
                    gso_type: 0x7f,
                    ..NetHeader::default()
                };
                let frame = frame(mac(0), mac(vf), 0, 60);
                bench.vms[vf].net.send(0, &bad, &frame).unwrap();
            }
            Step::Receive(vf) => {
                bench.vms[vf].receive();
            }
            Step::Switch(vf, path) => bench.command(&format!("vf {vf} set path {path}")),
            Step::Settle => bench.settle(),
        }
    }
    bench.run_until(LATE);
    bench.vms.iter_mut().for_each(|vm| {
        vm.receive();
    });
}

/// Rings of a few buffers, so that some frames find none.
fn bench(workers: usize) -> Bench {
    let mut bench = Bench::with_workers(workers, &[Path::Direct; VFS], Nanos(0), None);
    (0..VFS).for_each(|vf| bench.start(vf, &queue_of(8)));
    bench.command("vf 1 set vlan 7");
    bench.command("vf 2 set vlan 7 spoofchk on");
    bench.command("vf 3 set path mediated");
    bench
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Each frame that is counted at a port is captured there once, with the reason if it is dropped; and a guest gets what is
    /// captured.
    #[test]
    fn what_is_captured_is_what_is_counted(workers in 1..=2usize, steps in steps()) {
        let mut bench = bench(workers);
        let capture = bench.capture_all();
        run(&mut bench, &steps);
        let frames = frames(&capture);
        prop_assert_eq!(capture.missed().sum::<u64>(), 0);
        for vf in 0..VFS {
            let counters = bench.counters(vf);
            let port = Port::Vf(VfIndex::from(vf));
            let drops = |drops: &vf_model::Drops| drops.iter().collect::<Vec<_>>();
            let sent = (counters.tx_packets, drops(&counters.tx_drops));
            prop_assert_eq!(seen(&frames, port, Direction::Tx), sent, "vf {} tx", vf);
            let received = (counters.rx_packets, drops(&counters.rx_drops));
            prop_assert_eq!(seen(&frames, port, Direction::Rx), received, "vf {} rx", vf);
            let got = frames.iter().filter(|frame| {
                (frame.port, frame.direction, frame.drop) == (port, Direction::Rx, None)
            });
            let mut got: Vec<_> = got.map(|frame| frame.frame.data.clone()).collect();
            let mut vm = bench.vms[vf].got.clone();
            got.sort();
            vm.sort();
            prop_assert_eq!(got, vm);
        }
        let wire = bench.sum(Nic::wire_counters);
        let (arrived, drops) = seen(&frames, Port::Wire, Direction::Rx);
        prop_assert_eq!((arrived, drops), (wire.rx_packets, wire.rx_drops.iter().collect()));
        let (left, _) = seen(&frames, Port::Wire, Direction::Tx);
        prop_assert_eq!(left, wire.tx_packets);
        let pf = bench.hypervisor.model.pf_counters();
        let (up, _) = seen(&frames, Port::Pf, Direction::Rx);
        let (down, _) = seen(&frames, Port::Pf, Direction::Tx);
        prop_assert_eq!((up, down), (pf.rx_packets, pf.tx_packets));
    }

    /// Captured or not, the same frames reach the same guests, and the same is counted.
    #[test]
    fn to_capture_changes_nothing(workers in 1..=2usize, steps in steps()) {
        let outcome = |capture: bool| {
            let mut bench = bench(workers);
            if capture {
                bench.capture_all();
            }
            run(&mut bench, &steps);
            let got: Vec<_> = bench.vms.iter().map(|vm| vm.got.clone()).collect();
            (got, bench.arrived.clone(), bench.drops())
        };
        prop_assert_eq!(outcome(true), outcome(false));
    }
}

#[test]
fn a_frame_says_its_path_queue_and_verdict() {
    let mut bench = bench(1);
    let capture = bench.capture(Wanted {
        ports: vec![Port::Vf(VfIndex(0))],
        ..Wanted::default()
    });
    for path in [Path::Direct, Path::Mediated] {
        bench.command(&format!("vf 0 set path {path}"));
        bench.vms[0].send(mac(3));
        bench.run_until(Nanos(bench.now.0 + MS.0));
        let frames = frames(&capture);
        let [frame] = frames.as_slice() else {
            panic!("{frames:?}");
        };
        assert_eq!((frame.path, frame.queue), (Some(path), Some(0)));
        let verdict = frame.verdict.unwrap();
        let reached = verdict.vfs.union(verdict.beyond);
        assert_eq!(reached, [VfIndex(3)].into_iter().collect());
    }
}

#[test]
fn only_drops_are_seen_if_no_more_is_wanted_and_the_filter_that_made_one_is_known() {
    let mut bench = bench(1);
    bench.command("filter add flow-type ether proto 0x88b5 action drop");
    let capture = bench.capture(Wanted {
        ports: all_ports(VFS),
        drops_only: true,
        ..Wanted::default()
    });
    bench.vms[0].send(mac(3));
    bench.vms[0].send(BEYOND);
    bench.run_until(MS);
    let frames = frames(&capture);
    let [frame] = frames.as_slice() else {
        panic!("{frames:?}");
    };
    assert_eq!(frame.drop, Some(DropReason::Filtered));
    let policy = frame.policy.as_ref().unwrap();
    let head = frame.frame.head();
    let why = policy.why(frame.source().unwrap(), head, &frame.meta());
    assert_eq!(why.verdict.drop, frame.drop);
}

#[test]
fn what_does_not_fit_is_counted_and_costs_no_frame() {
    let mut bench = bench(1);
    let capture = bench.capture(Wanted {
        ports: vec![Port::Wire, Port::Vf(VfIndex(0))],
        ..Wanted::default()
    });
    let sent = 20_000;
    for _ in 0..sent {
        while !bench.vms[0].send(mac(3)) {
            bench.settle();
            bench.vms[3].receive();
        }
    }
    bench.run_until(LATE);
    let missed: Vec<_> = capture.missed().collect();
    let seen = frames(&capture).len() as u64;
    assert!(seen >= 16_000, "{seen}");
    assert_eq!(missed, [0, sent - seen, 0]);
    assert_eq!(bench.counters(0).tx_packets, sent);
}

#[test]
fn a_capture_that_is_closed_is_forgotten_and_snaplen_leaves_the_length() {
    let mut bench = bench(1);
    let capture = bench.capture(Wanted {
        ports: vec![Port::Vf(VfIndex(1))],
        snaplen: 20,
        ..Wanted::default()
    });
    bench.vms[2].send_on(0, mac(1), 1000);
    bench.settle();
    let frames = frames(&capture);
    assert_eq!((frames.len(), frames[0].len), (1, 1000));
    assert!(frames[0].frame.data.len() < 1000);
    // Only whoever empties it and this test have it.
    capture.close();
    bench.settle();
    assert_eq!(Arc::strong_count(&capture), 1);
}

#[test]
fn captures_that_nobody_reads_leave_room_to_one_that_is_read_and_nothing_when_they_are_gone() {
    let mut bench = bench(1);
    let budget = Budget::default();
    let wanted = || Wanted {
        ports: vec![Port::Vf(VfIndex(1))],
        ..Wanted::default()
    };
    let unread = [0; 3].map(|_| bench.capture_within(wanted(), budget.clone()));
    let read = bench.capture_within(wanted(), budget.clone());
    let mut seen = 0;
    for _ in 0..20_000 {
        bench.vms[2].send(mac(1));
        bench.settle();
        bench.vms[1].receive();
        bench.vms[1].got.clear();
        seen += frames(&read).len();
    }
    assert_eq!((seen, read.missed().next()), (20_000, Some(0)));
    let missed = unread.iter().map(|capture| capture.missed().next());
    let missed: Vec<_> = missed.flatten().collect();
    // A quarter of 64 MiB each, in frames that count as 2048 bytes.
    let had = 20_000 - (64 << 20) / 4 / 2048;
    assert!(
        missed.iter().all(|missed| missed.abs_diff(had) < 3),
        "{missed:?}"
    );
    // No plane has another round.
    let gone = unread.map(|capture| {
        let weak = Arc::downgrade(&capture);
        drop(capture);
        weak.upgrade().is_none()
    });
    assert_eq!(gone, [true; 3]);
    assert!(budget.is_unused());
}

/// Of what its sender keeps in its memory no more is copied than is kept: 16,384 super-frames that count as 2048 bytes would be a GiB.
#[test]
fn of_a_long_frame_that_is_dropped_no_more_is_held_than_is_kept() {
    let tso = NetConfig {
        features: NetConfig::PLAIN | NetConfig::CHECKSUM | NetConfig::TSO,
        ..queue_of(256)
    };
    for path in [Path::Direct, Path::Mediated] {
        let mut bench = Bench::bare(&[path], ENDLESS, None);
        bench.start(0, &tso);
        let budget = Budget::default();
        let wanted = Wanted {
            ports: all_ports(1),
            drops_only: true,
            snaplen: 128,
            ..Wanted::default()
        };
        let capture = bench.capture_within(wanted, budget.clone());
        let mut data = vf_packet::testing::super_frame(false, 0, 60_000);
        data[..6].copy_from_slice(&BEYOND.0);
        data[6..12].copy_from_slice(&mac(7).0);
        let header = NetHeader {
            flags: 1,
            gso_type: 1,
            hdr_len: 66,
            gso_size: 1448,
            csum_start: 34,
            csum_offset: 16,
            num_buffers: 0,
        };
        for _ in 0..10 {
            assert!(bench.vms[0].net.send(0, &header, &data).unwrap());
        }
        bench.vms[0].net.kick();
        bench.run_until(MS);
        let frames = frames(&capture);
        assert_eq!(frames.len(), 10, "{path}");
        for frame in &frames {
            assert_eq!(frame.drop, Some(DropReason::SpoofedMac));
            assert_eq!(frame.len as usize, data.len());
            assert_eq!(frame.frame.data[..128], data[..128]);
            assert!(frame.frame.data.capacity() <= 4096, "{path}");
        }
        assert!(budget.is_unused());
    }
}
