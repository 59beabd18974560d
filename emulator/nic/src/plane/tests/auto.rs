//! Path `auto` on planes: flows change paths while frames of them are everywhere.

use super::*;
use vf_model::FastCounters;

/// A UDP frame with a number in it; stations have the addresses 10.0.0.N.
fn udp(dst: MacAddr, src: MacAddr, port: u16, number: u32) -> Vec<u8> {
    let mut frame = [dst.0, src.0].concat();
    frame.extend([8, 0, 0x45, 0, 0, 46, 0, 0, 0, 0, 64, 17, 0, 0]);
    frame.extend([10, 0, 0, src.0[5], 10, 0, 0, dst.0[5]]);
    frame.extend([0x9c, 0x40]);
    frame.extend(port.to_be_bytes());
    frame.extend([0; 4]);
    frame.extend(number.to_be_bytes());
    frame.resize(60, 0);
    frame
}

/// Sender, receiver and port of such a frame.
type Flow = (MacAddr, MacAddr, u16);

fn flow(frame: &[u8]) -> (Flow, u32) {
    let mac = |at: usize| MacAddr(frame[at..at + 6].try_into().unwrap());
    let port = u16::from_be_bytes([frame[36], frame[37]]);
    let number = u32::from_be_bytes(frame[42..46].try_into().unwrap());
    ((mac(6), mac(0), port), number)
}

impl Vm {
    fn send_udp(&mut self, frame: &[u8]) -> bool {
        let taken = self.net.send(0, &NetHeader::default(), frame).unwrap();
        self.net.kick();
        taken
    }
}

fn fast(bench: &Bench, vf: u8) -> FastCounters {
    let mut sum = FastCounters::default();
    for worker in std::iter::once(&bench.worker).chain(&bench.others) {
        sum += worker.nic.published_fast().vf(VfIndex(vf));
    }
    sum
}

#[test]
fn a_flow_is_on_the_slow_path_until_it_is_learned_and_its_frames_wait_for_the_change() {
    let costs = CostModel::default();
    let mut bench = Bench::like(Profile::Falcon, 1, &[Path::Auto], Nanos(0), Some(costs));
    bench.start(0, &queue_of(256));
    // The first of them is with the hypervisor still while the others come.
    for number in 0..20 {
        bench.send_from_far(private(udp(mac(0), BEYOND, 80, number)));
    }
    bench.run_until(MS);
    let counted = fast(&bench, 0);
    assert_eq!(
        counted.fastpath_rx_packets + counted.slowpath_rx_packets,
        20
    );
    assert!(counted.slowpath_rx_packets >= 1, "{counted:?}");
    assert!(counted.waited >= 1, "{counted:?}");
    assert_eq!(counted.fastpath_rx_packets, counted.waited);
    for number in 20..25 {
        bench.send_from_far(private(udp(mac(0), BEYOND, 80, number)));
    }
    bench.run_until(Nanos(2 * MS.0));
    let later = fast(&bench, 0);
    assert_eq!(later.fastpath_rx_packets, counted.fastpath_rx_packets + 5);
    assert_eq!(
        (later.forwarded_macs, later.waited, later.busy),
        (1, counted.waited, 0)
    );
    assert_eq!(bench.vms[0].receive(), 25);
    let numbers = bench.vms[0].got.iter().map(|frame| flow(frame).1);
    assert!(numbers.eq(0..25));
    // The answers go straight to the wire, and what is neither TCP nor UDP does not.
    assert!(bench.vms[0].send_udp(&udp(BEYOND, mac(0), 40_000, 0)));
    let mut ping = udp(BEYOND, mac(0), 40_000, 1);
    ping[23] = 1;
    assert!(bench.vms[0].send_udp(&ping));
    bench.run_until(Nanos(3 * MS.0));
    let counted = fast(&bench, 0);
    assert_eq!(
        (counted.fastpath_tx_packets, counted.slowpath_tx_packets),
        (1, 1)
    );
    assert_eq!(bench.arrived.len(), 2);
    assert_eq!(bench.drops(), []);
}

/// With the hypervisor there are always frames of the flow, which the next ones would overtake on the fast path.
#[test]
fn what_a_vf_sends_waits_in_its_ring_while_its_flow_changes() {
    const ON_THEIR_WAY: usize = 100;
    let mut bench = Bench::like(
        Profile::Falcon,
        1,
        &[Path::Auto],
        Nanos(0),
        Some(ROUND_COST),
    );
    bench.start(0, &queue_of(256));
    let (mut sent, mut waited) = (0, 0);
    for step in 0..2000 {
        if step % 100 == 99 {
            bench.send_from_far(private(udp(mac(0), BEYOND, 80, step)));
        }
        while sent as usize - bench.arrived.len() < ON_THEIR_WAY {
            assert!(bench.vms[0].send_udp(&udp(BEYOND, mac(0), 4000, sent)));
            sent += 1;
        }
        bench.run_until(Nanos(bench.now.0 + 1000));
        waited = waited.max(bench.vms[0].outstanding(0));
        bench.vms[0].receive();
    }
    bench.run_until(LATE);
    let counted = fast(&bench, 0);
    assert!(counted.slowpath_tx_packets > 100, "{counted:?}");
    assert!(counted.fastpath_tx_packets > 100, "{counted:?}");
    assert!(usize::from(waited) > ON_THEIR_WAY / 2, "{waited}");
    assert!(bench.arrived.iter().map(|frame| flow(frame).1).eq(0..sent));
    assert_eq!(bench.drops(), []);
}

/// VF 1 is another worker's than the port, which decides.
#[test]
fn what_a_vf_sends_is_on_the_fast_path_whichever_worker_has_it() {
    let costs = CostModel::default();
    let mut bench = Bench::like(Profile::Falcon, 2, &[Path::Auto; 2], Nanos(0), Some(costs));
    bench.start(0, &queue_of(256));
    bench.start(1, &queue_of(256));
    let mut sent = [0; 2];
    for step in 0..100 {
        for (vf, sent) in sent.iter_mut().enumerate() {
            // Answers to what is heard, which begins later, and a ping in between.
            if step > 20 {
                bench.send_from_far(private(udp(mac(vf), BEYOND, 80, step)));
            }
            for _ in 0..3 {
                let frame = udp(BEYOND, mac(vf), 4000, *sent);
                *sent += u32::from(bench.vms[vf].send_udp(&frame));
            }
            let mut ping = udp(BEYOND, mac(vf), 0, step);
            ping[23] = 1;
            assert!(bench.vms[vf].send_udp(&ping));
        }
        bench.run_until(Nanos(bench.now.0 + 20_000));
        bench.vms.iter_mut().for_each(|vm| {
            vm.receive();
        });
    }
    bench.run_until(LATE);
    for vf in 0..2 {
        let counted = fast(&bench, vf);
        assert_eq!(
            counted.fastpath_tx_packets + counted.slowpath_tx_packets,
            400
        );
        assert!(counted.fastpath_tx_packets > 200, "{vf}: {counted:?}");
        assert!(counted.slowpath_tx_packets >= 100 + 60, "{vf}: {counted:?}");
        let of_flow = bench.arrived.iter().map(|frame| flow(frame));
        let of_flow = of_flow.filter(|(flow, _)| *flow == (mac(usize::from(vf)), BEYOND, 4000));
        assert!(
            of_flow.map(|(_, number)| number).eq(0..300),
            "in order, and all"
        );
    }
    assert_eq!(bench.sum(Nic::wire_counters).tx_packets, 800, "each once");
    assert_eq!(bench.drops(), []);
}

/// They wait between the worker that has judged them and the one that has the port.
#[test]
fn what_waits_for_the_port_while_its_vf_changes_paths_is_counted_once() {
    for (before, after) in [(Path::Direct, "auto"), (Path::Auto, "direct")] {
        let mut bench = Bench::with_workers(2, &[before; 2], Nanos(0), None);
        bench.start(0, &queue_of(64));
        bench.start(1, &queue_of(64));
        for number in 0..14 {
            for vf in 0..2 {
                let frame = udp(BEYOND, mac(vf), 4000, number);
                assert!(bench.vms[vf].send_udp(&frame));
            }
        }
        bench.run_until(bench.now + Nanos(100));
        bench.command(&format!("vf 1 set path {after}"));
        bench.run_until(LATE);
        bench.settle();
        let sent = bench.sum(Nic::wire_counters).tx_packets;
        assert_eq!((bench.arrived.len(), sent), (28, 28), "to {after}");
    }
}

#[test]
fn frames_wait_in_as_many_buffers_as_the_vf_may_have() {
    let slow = CostModel {
        hz: 2_660_000,
        ..CostModel::default()
    };
    let mut bench = Bench::like(Profile::Falcon, 1, &[Path::Auto; 2], Nanos(0), Some(slow));
    bench.command("vf 0 set max_buf_pages 8");
    bench.start(0, &queue_of(256));
    bench.start(1, &queue_of(256));
    for number in 0..2 {
        bench.send_from_far(private(udp(mac(0), BEYOND, 80, number)));
    }
    // The hypervisor takes 0.7 ms for a frame. It has learned from the first, and the marker is behind the second.
    bench.run_until(MS);
    for number in 2..20 {
        bench.send_from_far(private(udp(mac(0), BEYOND, 80, number)));
        bench.send_from_far(private(udp(mac(1), BEYOND, 80, number)));
    }
    bench.run_until(Nanos(200 * MS.0));
    bench.vms[0].receive();
    let counted = fast(&bench, 0);
    assert_eq!((counted.waited, counted.busy), (8, 10));
    let numbers: Vec<_> = bench.vms[0].got.iter().map(|frame| flow(frame).1).collect();
    assert_eq!(numbers, (0..10).collect::<Vec<_>>());
    assert_eq!(bench.drops(), [(DropReason::FastPathBusy, 10)]);
    assert_eq!(bench.vms[1].receive(), 18, "who does not share its quota");
}

#[derive(Clone, Debug)]
enum Event {
    Wire(usize, u16, u32),
    Guest(usize, usize, u16, u32),
    Receive(usize),
    Command(&'static str),
    Switch(usize, Path),
    Pass(u64),
}

fn any_event() -> impl Strategy<Value = Event> {
    let commands = vec![
        "filter flush",
        "vf 0 set max_filters 1",
        "vf 0 set max_filters 8",
        "vf 1 set max_tx_rate 0",
        "filter add flow-type udp4 dst-ip 10.0.0.0 dst-port 81 vf 0",
    ];
    prop_oneof![
        6 => (0..2usize, 80..83u16, 1..12u32).prop_map(|(to, port, n)| Event::Wire(to, port, n)),
        6 => (0..VFS, 0..=VFS, 80..82u16, 1..8u32)
            .prop_map(|(from, to, port, n)| Event::Guest(from, to, port, n)),
        3 => (0..VFS).prop_map(Event::Receive),
        1 => proptest::sample::select(commands).prop_map(Event::Command),
        1 => (0..VFS, any_path()).prop_map(|(vf, path)| Event::Switch(vf, path)),
        6 => (0..30_000u64).prop_map(Event::Pass),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    /// Whatever is learned and forgotten, whatever path whose rings take and whoever has no buffers: a flow is never reordered,
    /// and what does not arrive is counted.
    #[test]
    fn flows_keep_their_order_when_they_change_paths(
        workers in 1..=2usize,
        paths in proptest::collection::vec(any_path(), VFS),
        profile in proptest::sample::select(vec![Profile::Falcon, Profile::Generic]),
        costs in any::<bool>(),
        events in proptest::collection::vec(any_event(), 1..80),
    ) {
        let costs = costs.then(CostModel::default);
        let mut bench = Bench::like(profile, workers, &paths, Nanos(0), costs);
        for vf in 0..VFS {
            bench.start(vf, &queue_of(32));
        }
        let mut sent = BTreeMap::<Flow, u32>::new();
        for event in events {
            let (from, to, port, frames) = match event {
                Event::Wire(to, port, frames) => (VFS, to, port, frames),
                Event::Guest(from, to, ..) if from == to => continue,
                Event::Guest(from, to, port, frames) => (from, to, port, frames),
                Event::Receive(vf) => {
                    bench.vms[vf].receive();
                    continue;
                }
                Event::Command(words) => {
                    // There already, perhaps.
                    let words: Vec<_> = words.split(' ').collect();
                    let _ = bench.apply(&Command::parse(&words).unwrap());
                    continue;
                }
                Event::Switch(vf, path) => {
                    bench.command(&format!("vf {vf} set path {path}"));
                    continue;
                }
                Event::Pass(ns) => {
                    bench.run_until(bench.now + Nanos(ns));
                    continue;
                }
            };
            let station = |n: usize| if n == VFS { BEYOND } else { mac(n) };
            let (src, dst) = (station(from), station(to));
            for _ in 0..frames {
                let number = sent.entry((src, dst, port)).or_default();
                let frame = udp(dst, src, port, *number);
                if from == VFS {
                    bench.send_from_far(private(frame));
                } else if !bench.vms[from].send_udp(&frame) {
                    break;
                }
                *number += 1;
            }
        }
        for _ in 0..200 {
            bench.run_until(bench.now + MS);
            for vm in &mut bench.vms {
                vm.receive();
            }
        }
        let mut received = 0;
        let guests = bench.vms.iter().map(|vm| &vm.got);
        for frames in guests.chain([&bench.arrived]) {
            received += frames.len() as u32;
            let mut last = BTreeMap::new();
            for (flow, number) in frames.iter().map(|frame| flow(frame)) {
                let before = last.insert(flow, number);
                prop_assert!(before.is_none_or(|before| before < number), "{:?}: {:?}, {}", flow, before, number);
            }
        }
        let drops: u64 = bench.drops().iter().map(|(_, n)| n).sum();
        let sent: u32 = sent.values().sum();
        prop_assert_eq!(u64::from(sent), u64::from(received) + drops, "{:?}", bench.drops());
    }
}
