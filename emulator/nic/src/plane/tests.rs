//! Both planes of a host on one thread, with guests that move raw frames. Time is an argument: nothing here waits.

use std::collections::BTreeMap;
use std::os::fd::AsFd;
use std::sync::Arc;

use proptest::prelude::*;
use vf_guest::net::{NetConfig, NetDevice, NetHeader, Notify, RxFrame};
use vf_model::{
    Command, CostModel, Counters, DropReason, Judge, LinkConfig, MacAddr, Nanos, Nic, NicConfig,
    Offload, OnWire, Onward, Path, Policy, Profile, Refusal, VfIndex,
};
use vf_vhost::control::Coalescing;
use vf_vhost::eventfd::EventFd;
use vf_vhost::frame::FrameBuf;
use vf_vhost::memory::{GuestMemory, RegionSpec};
use vf_vhost::vring::{Vring, VringConfig};

use super::port::meta;
use super::*;
use crate::queue::*;
use crate::thread::*;
use crate::uplink::{Arrivals, TxFrame, TxRoom, Uplink, WireEnd};

mod announced;
mod auto;
mod captures;
mod coalescing;
mod hardware;
mod impaired;
mod kicks;
mod loopback;
mod policy;
mod super_frames;
mod switching;
mod turns;
mod wire;
mod workers;

const MAC_BASE: MacAddr = MacAddr([2, 0, 0, 0, 0, 0]);
/// A station somewhere beyond the wire.
const BEYOND: MacAddr = MacAddr([2, 0, 0, 1, 0, 0]);
const BROADCAST: MacAddr = MacAddr([0xff; 6]);
const MS: Nanos = Nanos(1_000_000);
/// Any number of frames may be put on the link at once.
const ENDLESS: Nanos = Nanos(u64::MAX / 2);
/// The end of every run.
const LATE: Nanos = Nanos(10_000_000_000);

fn mac(vf: usize) -> MacAddr {
    MAC_BASE.offset(vf as u32)
}

/// A frame with a number in it.
fn frame(dst: MacAddr, src: MacAddr, number: u32, len: usize) -> Vec<u8> {
    let mut frame = [&dst.0[..], &src.0, &[0x88, 0xb5], &number.to_be_bytes()].concat();
    frame.resize(len, 0);
    frame
}

fn private(data: Vec<u8>) -> Frame {
    Box::new(FrameBuf {
        offload: Offload::default(),
        data,
    })
}

/// Puts a frame on the wire, whether or not it takes one now.
fn send(end: &mut WireEnd, now: Nanos, frame: Frame) {
    let on_wire = OnWire::of(&meta(frame.len(), &frame.offload));
    let mut frames = vec![TxFrame { frame, on_wire }];
    end.tx_burst(now, &mut frames, &Pool::new(1), &mut |reason, _| {
        panic!("{reason}")
    });
}

/// How much a wire takes.
fn tx_room(end: &mut WireEnd, now: Nanos) -> TxRoom {
    end.tx_room(now, &Pool::new(1), &mut |reason, _| panic!("{reason}"))
}

/// All that has arrived.
fn receive(end: &mut WireEnd, now: Nanos) -> Vec<Frame> {
    let mut arrivals = Arrivals::default();
    end.rx_burst(now, usize::MAX, &Pool::new(1), &mut arrivals);
    arrivals.frames
}

/// The numbers of the frames of each sender, in their order.
fn by_sender<'a>(frames: impl IntoIterator<Item = &'a Vec<u8>>) -> BTreeMap<MacAddr, Vec<u32>> {
    let mut numbers: BTreeMap<MacAddr, Vec<u32>> = BTreeMap::new();
    for frame in frames {
        let src = MacAddr(frame[6..12].try_into().unwrap());
        let number = u32::from_be_bytes(frame[14..18].try_into().unwrap());
        numbers.entry(src).or_default().push(number);
    }
    numbers
}

/// A guest whose rings are handed to a plane without a session.
struct Vm {
    net: NetDevice,
    memory: Arc<GuestMemory>,
    mac: MacAddr,
    coalescing: Coalescing,
    sent: u32,
    got: Vec<Vec<u8>>,
}

impl Vm {
    fn new(vf: usize, config: &NetConfig) -> Vm {
        let net = NetDevice::detached(u64::MAX, config).unwrap();
        let regions = net.memory().regions().iter().map(|region| {
            let layout = region.layout();
            let spec = RegionSpec {
                guest_addr: layout.guest_addr,
                size: layout.size,
                user_addr: layout.user_addr,
                mmap_offset: layout.mmap_offset,
            };
            (spec, region.dup_fd().unwrap())
        });
        Vm {
            memory: GuestMemory::map(regions.collect()).unwrap(),
            net,
            mac: mac(vf),
            coalescing: Coalescing::default(),
            sent: 0,
            got: Vec::new(),
        }
    }

    /// The device's end of ring `index`.
    fn vring(&mut self, index: u32, enabled: bool) -> Vring {
        let features = vf_vhost::features::VirtioFeatures::from_bits_retain(self.net.features());
        let ring = match index % 2 {
            0 => self.net.rx_ring(index as usize / 2),
            _ => self.net.tx_ring(index as usize / 2),
        };
        let layout = ring.queue.layout();
        let config = VringConfig {
            index,
            size: layout.size,
            desc: layout.desc,
            avail: layout.avail,
            used: layout.used,
            base: 0,
            told: false,
            features,
            enabled,
            coalescing: self.coalescing,
        };
        let ours = |theirs: Option<&vf_guest::eventfd::EventFd>| {
            let fd = theirs?.as_fd().try_clone_to_owned().unwrap();
            Some(EventFd::from_fd(fd).unwrap())
        };
        let (kick, call) = (ours(ring.kick.as_ref()), ours(ring.call.as_ref()));
        Vring::new(config, Arc::clone(&self.memory), kick, call, None).unwrap()
    }

    /// Sends the next frame; false when the ring is full.
    fn send_on(&mut self, pair: usize, dst: MacAddr, len: usize) -> bool {
        let frame = frame(dst, self.mac, self.sent, len);
        let taken = self.net.send(pair, &NetHeader::default(), &frame).unwrap();
        self.net.kick();
        self.sent += u32::from(taken);
        taken
    }

    fn send(&mut self, dst: MacAddr) -> bool {
        self.send_on(0, dst, 60)
    }

    /// Takes what has arrived into `got` and posts the buffers again; how many frames it has now.
    fn receive(&mut self) -> usize {
        let mut got = RxFrame::default();
        while self.net.recv(0, &mut got).unwrap() {
            self.got.push(got.bytes().to_vec());
        }
        self.net.kick();
        self.got.len()
    }

    /// Frames that the device has not given back.
    fn outstanding(&mut self, pair: usize) -> u16 {
        self.net.tx_room(pair).unwrap();
        self.net.tx_ring(pair).queue.outstanding()
    }
}

/// One host with its guests, and the far end of its wire.
struct Bench {
    worker: DirectPlane,
    /// Those of the NIC's other workers.
    others: Vec<DirectPlane>,
    hypervisor: MediatedPlane,
    policies: PolicyCell,
    far: WireEnd,
    vms: Vec<Vm>,
    now: Nanos,
    /// What has come out of the wire.
    arrived: Vec<Vec<u8>>,
}

fn queue_of(queue_size: u16) -> NetConfig {
    NetConfig {
        queue_size,
        notify: Notify::Polled,
        features: NetConfig::PLAIN,
        ..NetConfig::default()
    }
}

impl Bench {
    /// A host with a guest on each of these paths and a wire.
    fn new(paths: &[Path], slack: Nanos) -> Bench {
        let mut bench = Bench::bare(paths, slack, None);
        for vf in 0..paths.len() {
            bench.start(vf, &queue_of(256));
        }
        bench
    }

    /// A host without guests.
    fn bare(paths: &[Path], slack: Nanos, cost: Option<CostModel>) -> Bench {
        Bench::with_workers(1, paths, slack, cost)
    }

    /// A host with so many workers and without guests.
    fn with_workers(
        workers: usize,
        paths: &[Path],
        slack: Nanos,
        cost: Option<CostModel>,
    ) -> Bench {
        Bench::like(Profile::Generic, workers, paths, slack, cost)
    }

    fn like(
        profile: Profile,
        workers: usize,
        paths: &[Path],
        slack: Nanos,
        cost: Option<CostModel>,
    ) -> Bench {
        let config = NicConfig {
            vfs: paths.len() as u16,
            mac_base: MAC_BASE,
            profile,
        };
        let (nic_end, hypervisor_end) = PfEnd::pair();
        let (near, far) = WireEnd::pair(LinkConfig::default(), slack);
        let pool = Pool::new(64);
        let policies = PolicyCell::new(Arc::new(Policy::new(config)));
        let mut others =
            DirectPlane::team(&policies, workers, nic_end, Some(Box::new(near)), &pool);
        let mut bench = Bench {
            worker: others.remove(0),
            others,
            hypervisor: MediatedPlane::new(&policies, hypervisor_end, pool, cost),
            policies,
            far,
            vms: Vec::new(),
            now: Nanos(0),
            arrived: Vec::new(),
        };
        for (vf, path) in paths.iter().enumerate() {
            bench.command(&format!("vf {vf} set path {path}"));
        }
        bench
    }

    /// The same without a wire.
    fn without_uplink(paths: &[Path]) -> Bench {
        let mut bench = Bench::bare(paths, Nanos(0), None);
        let (nic_end, hypervisor_end) = PfEnd::pair();
        bench.worker = DirectPlane::new(&bench.policies, nic_end, None, Pool::new(64));
        *bench.hypervisor.pf_mut() = hypervisor_end;
        for vf in 0..paths.len() {
            bench.start(vf, &queue_of(256));
        }
        bench
    }

    /// Attaches the next guest.
    fn start(&mut self, vf: usize, config: &NetConfig) {
        let mut vm = Vm::new(vf, config);
        for index in 0..vm.net.rings() {
            self.attach(vf, vm.vring(index, true));
        }
        assert_eq!(vf, self.vms.len());
        self.vms.push(vm);
    }

    /// The plane of the worker that serves a VF.
    fn worker_of_vf(&mut self, vf: usize) -> &mut DirectPlane {
        match worker_of(VfIndex::from(vf), 1 + self.others.len()) {
            0 => &mut self.worker,
            other => &mut self.others[other - 1],
        }
    }

    /// The first worker or the hypervisor, for whoever moves rings.
    fn with_rings(&mut self, path: Path, change: impl FnOnce(&mut dyn Rings)) {
        match path {
            Path::Direct | Path::Auto => change(&mut self.worker),
            Path::Mediated => change(&mut self.hypervisor),
        }
    }

    fn attach(&mut self, vf: usize, vring: Vring) {
        let at = vf;
        let vf = VfIndex::from(vf);
        match self.policies.load().vf(vf).path {
            Path::Direct | Path::Auto => self.worker_of_vf(at).attach(vf, vring),
            Path::Mediated => self.hypervisor.attach(vf, vring),
        }
    }

    fn command(&mut self, words: &str) {
        let words: Vec<_> = words.split(' ').collect();
        self.apply(&Command::parse(&words).unwrap()).unwrap();
    }

    fn apply(&mut self, command: &Command) -> Result<(), Refusal> {
        let before = self.policies.load();
        let policy = before.with(command)?;
        if !policy.moves_frames(&before) {
            self.policies.publish(policy);
            return Ok(());
        }
        let workers = std::iter::once(&mut self.worker).chain(&mut self.others);
        let mut workers: Vec<_> = workers.collect();
        let (policies, hypervisor) = (&self.policies, &mut self.hypervisor);
        switch_paths(self.now, &mut workers, hypervisor, policies, policy);
        Ok(())
    }

    /// Path `auto` learns from what has passed; whether it has.
    fn learn(&mut self) -> bool {
        let news = [self.worker.take_news(), self.hypervisor.take_news()];
        let events = news.into_iter().flatten().filter_map(|news| match news {
            News::Fast(event) => Some(event),
            News::Broken(_) => None,
        });
        let policy = self.policies.load();
        let policy = policy.with_events(&events.collect::<Vec<_>>());
        policy.map(|policy| self.policies.publish(policy)).is_some()
    }

    /// Everything that can happen now; the far end takes what has arrived.
    fn settle(&mut self) {
        loop {
            let mut moved = self.worker.poll(self.now) + self.hypervisor.poll(self.now);
            let others = self.others.iter_mut();
            moved += others.map(|other| other.poll(self.now)).sum::<usize>();
            for frame in receive(&mut self.far, self.now) {
                self.arrived.push(frame.data);
                moved += 1;
            }
            moved += usize::from(self.learn());
            if moved == 0 {
                return;
            }
        }
    }

    /// Everything that happens until `limit`.
    fn run_until(&mut self, limit: Nanos) {
        loop {
            self.settle();
            let next = [
                self.worker.next(self.now),
                self.hypervisor.next(self.now),
                self.far.next(),
            ];
            let others = self.others.iter_mut().map(|other| other.next(self.now));
            match next.into_iter().chain(others).flatten().min() {
                Some(at) if at <= limit => {
                    assert!(at > self.now, "all that was due has been done");
                    self.now = at;
                }
                _ => break,
            }
        }
        self.now = limit;
    }

    /// Sends from the far end.
    fn send_from_far(&mut self, frame: Frame) {
        self.far.slept();
        tx_room(&mut self.far, self.now);
        send(&mut self.far, self.now, frame);
    }

    /// All counters that there are of VF `vf`.
    fn counters(&self, vf: usize) -> Counters {
        let mut sum = self.sum(|nic| nic.counters(VfIndex::from(vf)));
        sum += &self.hypervisor.model.counters(VfIndex::from(vf));
        sum
    }

    /// What the replicas of all workers have counted.
    fn sum(&self, of: impl Fn(&Nic) -> Counters) -> Counters {
        let mut sum = of(&self.worker.nic);
        for other in &self.others {
            sum += &of(&other.nic);
        }
        sum
    }

    /// Frames that were dropped, anywhere.
    fn drops(&self) -> Vec<(DropReason, u64)> {
        let vfs = (0..self.worker.nic.policy().vf_count()).map(|vf| self.counters(vf));
        let queues = [
            self.sum(Nic::pf_counters),
            self.sum(Nic::wire_counters),
            self.hypervisor.model.pf_counters(),
        ];
        let all = vfs.chain(queues);
        let drops = all.flat_map(|c| [c.rx_drops, c.tx_drops]);
        drops.flat_map(|d| d.iter().collect::<Vec<_>>()).collect()
    }
}

fn count(n: usize) -> Vec<u32> {
    (0..n as u32).collect()
}

#[test]
fn a_frame_with_a_bad_header_is_not_delivered_with_its_neighbours() {
    let mut bench = Bench::new(&[Path::Direct; 2], Nanos(0));
    let bad = NetHeader {
        gso_type: 0x7f,
        ..NetHeader::default()
    };
    // The first is judged alone; those behind it go the same way without another look at the policy.
    for _ in 0..3 {
        bench.vms[0].send(mac(1));
    }
    let spoofed = frame(mac(1), BEYOND, 0, 60);
    assert!(bench.vms[0].net.send(0, &bad, &spoofed).unwrap());
    bench.vms[0].send(mac(1));
    bench.run_until(MS);
    assert_eq!(bench.vms[1].receive(), 4);
    let got = by_sender(&bench.vms[1].got);
    assert_eq!(got, [(mac(0), count(4))].into());
    assert_eq!(bench.drops(), [(DropReason::BadHeader, 1)]);
    assert_eq!(bench.vms[0].outstanding(0), 0);
}

/// Has every receive buffer of a guest be an indirect table of 1024 descriptors in which there is next to nothing: where its
/// buffers for sending are.
fn post_crumbs(vm: &mut Vm, bytes: u32) {
    let table = vm.net.tx_ring(0).buffer_addr(0).next_multiple_of(16);
    let at = table + 16 * 1024;
    let entry = |n: u16| vf_guest::driver::Desc {
        addr: at,
        len: if n == 0 { bytes } else { u32::from(n == 1023) },
        flags: 2 | u16::from(n < 1023),
        next: n + 1,
    };
    let queue = &vm.net.rx_ring(0).queue;
    queue.write_table(table, &(0..1024).map(entry).collect::<Vec<_>>());
    let bomb = vf_guest::driver::Desc {
        addr: table,
        len: 16 * 1024,
        flags: 4,
        next: 0,
    };
    for index in 0..queue.layout().size {
        queue.as_split().unwrap().set_desc(index, bomb);
    }
}

#[test]
fn a_receive_chain_bomb_costs_others_no_more_than_a_bounded_part_of_a_round() {
    for (bytes, patient) in [(12, false), (1600, false), (12, true), (1600, true)] {
        let mut bench = Bench::bare(&[Path::Direct; 4], Nanos(0), None);
        (0..4).for_each(|vf| bench.start(vf, &queue_of(1024)));
        post_crumbs(&mut bench.vms[1], bytes);
        if patient {
            // What comes for it would wait for buffers.
            bench.worker.begin_change(VfIndex(1));
        }
        for _ in 0..200 {
            bench.vms[0].send_on(0, mac(1), 1500);
            bench.vms[2].send_on(0, mac(3), 1500);
        }
        for round in 1.. {
            let before = bench.worker.effort();
            bench.worker.poll(bench.now);
            let effort = bench.worker.effort() - before;
            // A turn ends when it has been 4096 descriptors, and so does a burst in it; the last frame may be 2047 more.
            assert!(effort < 2 * 4096 + 2048, "{effort} descriptors in a round");
            let got = bench.vms[3].receive();
            assert!(got >= 200.min(32 * (round - 1)), "{got} by round {round}");
            if bench.vms[0].outstanding(0) == 0 {
                break;
            }
        }
        assert_eq!(bench.vms[3].receive(), 200);
        // What finds no room is counted.
        let counters = bench.worker.nic.counters(VfIndex(1));
        let lost = counters.rx_drops.get(DropReason::RxTooSmall);
        assert_eq!(counters.rx_packets + lost, 200);
        assert_eq!(lost == 200, bytes == 12);
    }
}

#[test]
fn what_is_too_short_for_a_frame_is_counted_as_that() {
    for path in [Path::Direct, Path::Mediated] {
        let mut bench = Bench::new(&[path], Nanos(0));
        for len in [0, 5, 13] {
            let header = NetHeader::default();
            assert!(bench.vms[0].net.send(0, &header, &[7; 13][..len]).unwrap());
        }
        bench.vms[0].net.kick();
        bench.run_until(MS);
        assert_eq!(bench.drops(), [(DropReason::Runt, 3)], "{path}");
    }
}

/// Whoever it goes to, and whether or not that takes super-frames: each segment may be work for others.
#[test]
fn a_super_frame_of_more_segments_than_any_stack_makes_is_its_senders_drop() {
    let tso = NetConfig {
        features: NetConfig::PLAIN | NetConfig::CHECKSUM | NetConfig::TSO,
        ..queue_of(256)
    };
    for path in [Path::Direct, Path::Mediated] {
        let mut bench = Bench::bare(&[path; 3], ENDLESS, None);
        bench.start(0, &tso);
        bench.start(1, &queue_of(256));
        bench.start(2, &tso);
        // Segments of 1 to 7 bytes, 2049 and 2048 segments.
        for (gso_size, payload) in [(1, 2000), (7, 2000), (9, 18_433), (9, 18_432)] {
            for to in [mac(1), mac(2), BEYOND] {
                let mut data = vf_packet::testing::super_frame(false, 0, payload);
                data[..6].copy_from_slice(&to.0);
                data[6..12].copy_from_slice(&mac(0).0);
                let header = NetHeader {
                    flags: 1,
                    gso_type: 1,
                    hdr_len: 66,
                    gso_size,
                    csum_start: 34,
                    csum_offset: 16,
                    num_buffers: 0,
                };
                assert!(bench.vms[0].net.send(0, &header, &data).unwrap());
                bench.vms[0].net.kick();
            }
        }
        bench.run_until(MS);
        let drops = bench.counters(0).tx_drops;
        assert_eq!(drops.get(DropReason::TooManySegments), 9, "{path}");
        assert_eq!(drops.iter().count(), 1);
        assert_eq!(bench.vms[2].receive(), 1, "who takes it whole gets it");
        assert_eq!(bench.arrived.len(), 1);
        assert_eq!(bench.vms[1].receive(), 256, "as far as there are buffers");
    }
}

#[test]
fn a_parked_frame_goes_back_to_its_ring_when_another_comes_before_it() {
    let config = NetConfig {
        queue_pairs: 2,
        ..queue_of(16)
    };
    let mut bench = Bench::bare(&[Path::Direct], Nanos(0), None);
    bench.start(0, &config);
    let ring = bench.worker.detach(bench.now, VfIndex(0), 1).unwrap();
    for _ in 0..2 {
        bench.vms[0].send_on(1, BEYOND, 60);
    }
    bench.settle();
    assert!(bench.worker.is_blocked(VfIndex(0)));
    assert_eq!(bench.vms[0].outstanding(1), 1);
    bench.worker.attach(VfIndex(0), ring);
    bench.vms[0].send_on(0, BEYOND, 60);
    let free = bench.worker.next(bench.now).unwrap();
    bench.now = free;
    bench.worker.poll(free);
    assert_eq!(bench.vms[0].outstanding(1), 0, "the parked frame's");
    bench.run_until(MS);
    assert_eq!(bench.vms[0].outstanding(0), 0);
    assert_eq!(by_sender(&bench.arrived)[&mac(0)], count(3));
}

/// A UDP/IPv4 frame to VF 0 from a port of a station beyond the wire.
fn udp(port: u16) -> Vec<u8> {
    let mut data = frame(mac(0), BEYOND, 0, 60);
    data[12..16].copy_from_slice(&[0x08, 0x00, 0x45, 0]);
    data[23] = 17;
    data[34..36].copy_from_slice(&port.to_be_bytes());
    data
}

/// A queue that a filter names goes before the table that flows are spread by, on either path.
#[test]
fn a_filter_chooses_the_queue_that_it_names() {
    let vf = VfIndex(0);
    for path in [Path::Direct, Path::Mediated] {
        let mut bench = Bench::bare(&[path], Nanos(0), None);
        let config = NetConfig {
            queue_pairs: 3,
            ..queue_of(128)
        };
        bench.start(0, &config);
        bench.command("vf 0 rss weight 1");
        bench.command("filter add flow-type udp4 src-port 7 vf 0 action 1");
        // The guest has three queues.
        bench.command("filter add flow-type udp4 src-port 8 vf 0 action 5");
        // One that names none goes before one that does.
        bench.command("filter add flow-type udp4 src-port 9 vf 0");
        bench.command("filter add flow-type ip4 l4proto 17 vf 0 action 2");
        let mut expected = vec![PairTraffic::default(); 3];
        for (source, queue) in [(7, 1), (8, 5 % 3), (9, 0), (10, 2)] {
            let rx = &mut expected[queue].rx;
            (rx.packets, rx.bytes) = (rx.packets + 1, rx.bytes + 60);
            bench.send_from_far(private(udp(source)));
        }
        bench.run_until(Nanos(bench.now.0 + MS.0));
        bench.vms[0].receive();
        let traffic = match path {
            Path::Direct | Path::Auto => bench.worker.statistics().plane.traffic(vf),
            Path::Mediated => bench.hypervisor.statistics().plane.traffic(vf),
        };
        assert_eq!(traffic, expected, "{path}");
    }
}

#[test]
fn flows_are_spread_by_the_table_over_the_queues_in_use_on_either_path() {
    let vf = VfIndex(0);
    for path in [Path::Direct, Path::Mediated] {
        let mut bench = Bench::bare(&[path], Nanos(0), None);
        let config = NetConfig {
            queue_pairs: 3,
            ..queue_of(128)
        };
        bench.start(0, &config);
        bench.command("vf 0 rss weight 1 0 3");
        let mut expected = vec![PairTraffic::default(); 3];
        for in_use in [3, 2] {
            for port in 0..100 {
                let frame = udp(port);
                let queue = bench.policies.load().rss(vf).queue(&frame, in_use);
                let rx = &mut expected[usize::from(queue)].rx;
                (rx.packets, rx.bytes) = (rx.packets + 1, rx.bytes + 60);
                bench.send_from_far(private(frame));
            }
            bench.run_until(Nanos(bench.now.0 + MS.0));
            bench.vms[0].receive();
            assert_eq!(bench.counters(0).rx_drops.total(), 0);
            let traffic = match path {
                Path::Direct | Path::Auto => bench.worker.statistics().plane.traffic(vf),
                Path::Mediated => bench.hypervisor.statistics().plane.traffic(vf),
            };
            assert_eq!(traffic, expected);
            // The guest goes on with two.
            match path {
                Path::Direct | Path::Auto => bench.worker.detach(bench.now, vf, 4),
                Path::Mediated => bench.hypervisor.detach(bench.now, vf, 4),
            };
        }
        let [first, second, third] = expected[..] else {
            unreachable!()
        };
        assert_eq!(first.rx.packets + third.rx.packets, 200);
        assert_eq!(second.rx.packets, 0, "of no weight, and 2 wraps to 0");
        assert!(third.rx.packets > 50, "{third:?}");
    }
}

#[test]
fn a_disabled_ring_keeps_its_frames_for_a_while_and_lets_its_plane_sleep() {
    for path in [Path::Direct, Path::Mediated] {
        let mut bench = Bench::bare(&[path], Nanos(0), None);
        let config = NetConfig {
            notify: Notify::EventFd,
            ..queue_of(16)
        };
        let mut vm = Vm::new(0, &config);
        bench.attach(0, vm.vring(1, false));
        let kick = |vm: &mut Vm| vm.net.tx_ring(0).kick.as_ref().unwrap().signal();
        let plane: &mut dyn Plane = match path {
            Path::Direct | Path::Auto => &mut bench.worker,
            Path::Mediated => &mut bench.hypervisor,
        };
        let (start, end) = (MS, Nanos(101 * MS.0));
        plane.poll(start);
        assert_eq!(plane.next(start), None, "it holds nothing");
        for _ in 0..3 {
            vm.send(BEYOND);
        }
        kick(&mut vm);
        for now in [start, Nanos(end.0 - 1)] {
            assert_eq!(plane.poll(now), 0);
            assert_eq!(plane.next(now), Some(end));
            assert!(!plane.arm(now));
            plane.disarm();
            assert_eq!(vm.outstanding(0), 3);
        }
        plane.poll(end);
        assert_eq!(vm.outstanding(0), 0);
        // It has been started: what comes later may come while its driver is asked for no kicks.
        let later = Nanos(150 * MS.0);
        vm.send(BEYOND);
        while vm.net.tx_ring(0).kick.as_ref().unwrap().drain() > 0 {}
        plane.poll(later);
        assert_eq!(vm.outstanding(0), 0);
        assert_eq!(plane.next(later), None);
        assert!(!plane.arm(later));
        assert_eq!(bench.drops(), [(DropReason::RingDisabled, 4)]);
    }
}

/// Nanoseconds for everything, whatever the length of a frame.
const ROUND_COST: CostModel = CostModel {
    hz: 1_000_000_000,
    cycles_per_frame_tx: 1000,
    cycles_per_frame_rx: 2000,
    millicycles_per_byte_tx: 0,
    millicycles_per_byte_rx: 0,
    cycles_per_notification: 500,
    scale_per_mille: 1000,
};

#[test]
fn a_cpu_that_has_just_notified_says_when_it_is_free() {
    let mut bench = Bench::bare(&[Path::Mediated; 2], Nanos(0), Some(ROUND_COST));
    bench.start(0, &queue_of(256));
    bench.start(1, &queue_of(256));
    bench.vms[0].send(mac(1));
    let hypervisor = &mut bench.hypervisor;
    hypervisor.poll(Nanos(0));
    assert_eq!(hypervisor.next(Nanos(0)), Some(Nanos(1000)));
    assert_eq!(bench.vms[1].receive(), 0, "not before it is done");
    // The copy for the receiver takes its time as well.
    hypervisor.poll(Nanos(1000));
    assert_eq!(hypervisor.next(Nanos(1000)), Some(Nanos(3000)));
    assert_eq!(bench.vms[1].receive(), 0, "not before it is done");
    // Done, and both drivers are told: of the frame sent and of the frame received.
    hypervisor.poll(Nanos(3000));
    assert_eq!(bench.vms[1].receive(), 1);
    assert_eq!(bench.vms[0].outstanding(0), 0);
    assert!(hypervisor.is_idle());
    assert_eq!(hypervisor.next(Nanos(3000)), Some(Nanos(4000)));
    // What comes now waits for that.
    bench.vms[0].send(mac(1));
    assert_eq!(hypervisor.poll(Nanos(3999)), 0);
    assert!(hypervisor.is_idle());
    hypervisor.poll(Nanos(4000));
    assert_eq!(hypervisor.next(Nanos(4000)), Some(Nanos(5000)));
}

#[test]
fn every_copy_of_a_frame_is_charged() {
    const GUESTS: usize = 16;
    let free = CostModel {
        cycles_per_notification: 0,
        ..ROUND_COST
    };
    // To the wire, to a guest, to everybody; and from the wire to a guest and to everybody.
    for (from_wire, to, ns) in [
        (false, BEYOND, 1000),
        (false, mac(1), 1000 + 2000),
        (false, BROADCAST, 1000 + 15 * 2000),
        (true, mac(1), 2000),
        (true, BROADCAST, 16 * 2000),
    ] {
        let mut bench = Bench::bare(&[Path::Mediated; GUESTS], Nanos(0), Some(free));
        (0..GUESTS).for_each(|vf| bench.start(vf, &queue_of(16)));
        match from_wire {
            true => bench.send_from_far(private(frame(to, BEYOND, 0, 60))),
            false => assert!(bench.vms[0].send(to)),
        }
        bench.run_until(MS);
        let charged = bench.hypervisor.statistics().charged.unwrap();
        assert_eq!(
            charged.until(MS),
            Nanos(ns),
            "{to}, from the wire: {from_wire}"
        );
        let got: usize = bench.vms.iter_mut().map(Vm::receive).sum();
        assert_eq!(
            got + bench.arrived.len(),
            if to == BROADCAST { 16 } else { 1 }
        );
    }
}

/// What the hypervisor says of a frame that leaves on the wire.
fn to_wire() -> Onward {
    Onward {
        wire: true,
        ..Onward::default()
    }
}

#[test]
fn a_cpu_with_work_is_never_idle() {
    let mut bench = Bench::bare(&[Path::Mediated; 2], Nanos(0), Some(ROUND_COST));
    bench.start(0, &queue_of(256));
    bench.start(1, &queue_of(256));
    for number in 0..100 {
        bench.vms[0].send(mac(1));
        bench.vms[1].send(mac(0));
        let from_nic = private(frame(mac(1), BEYOND, number, 60));
        let onward = Onward {
            vfs: [VfIndex(1)].into_iter().collect(),
            ..Onward::default()
        };
        bench.worker.pf_mut().send(from_nic, onward).unwrap();
    }
    let charged = bench.hypervisor.statistics().charged.unwrap();
    let done = loop {
        bench.hypervisor.poll(bench.now);
        for vm in &mut bench.vms {
            vm.receive();
            vm.net.arm(true);
        }
        assert_eq!(charged.until(bench.now), bench.now);
        let Some(next) = bench.hypervisor.next(bench.now) else {
            break bench.now;
        };
        assert!(next > bench.now);
        bench.now = next;
    };
    // 200 frames of guests, 100 of the NIC, and the notifications.
    assert_eq!([0, 1].map(|vf| bench.vms[vf].got.len()), [100, 200]);
    assert!(done > Nanos(800_000) && done < Nanos(880_000), "{done}");
    assert_eq!(bench.drops(), []);
}

#[test]
fn without_an_uplink_each_frame_that_would_leave_is_counted_once() {
    let mut bench = Bench::without_uplink(&[Path::Direct, Path::Mediated]);
    bench.vms[0].send(BEYOND);
    bench.vms[0].send(BROADCAST);
    bench.vms[1].send(BEYOND);
    bench.vms[1].send(BROADCAST);
    bench.vms[0].send(mac(1));
    bench.vms[1].send(mac(0));
    bench.run_until(MS);
    assert_eq!(bench.drops(), [(DropReason::NoUplink, 4)]);
    assert_eq!(bench.worker.nic.wire_counters().tx_packets, 4);
    assert_eq!([0, 1].map(|vf| bench.vms[vf].receive()), [2, 2]);
    assert_eq!([0, 1].map(|vf| bench.vms[vf].outstanding(0)), [0, 0]);
}

const VFS: usize = 3;

/// Something that happens to a host.
#[derive(Clone, Debug)]
enum Event {
    /// A guest (or, after the last, the far end) sends frames to a guest, to beyond the wire, or to everybody.
    Send {
        from: usize,
        to: usize,
        len: usize,
        frames: usize,
        /// From an address that is not its own.
        spoofed: bool,
    },
    /// A guest takes what has arrived and posts buffers again.
    Receive(usize),
    Switch(usize, Path),
    Pass(u64),
}

#[test]
fn a_nic_without_a_switch_leaves_what_guests_send_each_other_to_the_hypervisor() {
    let paths = [Path::Direct, Path::Direct, Path::Mediated];
    for workers in [1, 2] {
        let mut bench = Bench::like(Profile::Siena, workers, &paths, ENDLESS, None);
        for vf in 0..paths.len() {
            bench.start(vf, &queue_of(256));
        }
        let mut sent = [Vec::new(), Vec::new(), Vec::new()];
        for n in 0..20u32 {
            for to in [mac(1), mac(2), BEYOND, BROADCAST] {
                for (vf, here) in [(1, to == mac(1)), (2, to == mac(2))] {
                    if here || to == BROADCAST {
                        sent[vf].push(bench.vms[0].sent);
                    }
                }
                if to == BEYOND || to == BROADCAST {
                    sent[0].push(bench.vms[0].sent);
                }
                assert!(bench.vms[0].send(to));
            }
            if n == 10 {
                // A switch of paths loses nothing of what goes up and comes down again.
                bench.command("vf 1 set path mediated");
                bench.command("vf 1 set path direct");
            }
            bench.settle();
        }
        bench.run_until(LATE);
        for vf in [1, 2] {
            bench.vms[vf].receive();
            let got = by_sender(&bench.vms[vf].got);
            assert_eq!(got[&mac(0)], sent[vf], "vf{vf}, {workers} workers");
        }
        assert_eq!(by_sender(&bench.arrived)[&mac(0)], sent[0]);
        let handed_up = bench.sum(|nic| nic.pf_counters()).rx_packets;
        assert_eq!(handed_up, 60, "all but what is for the wire alone");
        assert_eq!(bench.drops(), []);
    }
}

fn any_path() -> impl Strategy<Value = Path> {
    prop_oneof![Just(Path::Direct), Just(Path::Mediated), Just(Path::Auto)]
}

fn any_event() -> impl Strategy<Value = Event> {
    let send = (0..=VFS, 0..=VFS + 1, 60..1514usize, 1..40usize, 0..10);
    prop_oneof![
        6 => send.prop_map(|(from, to, len, frames, spoofed)| Event::Send {
            from, to, len, frames, spoofed: spoofed == 0
        }),
        2 => (0..VFS).prop_map(Event::Receive),
        1 => (0..VFS, any_path()).prop_map(|(vf, path)| Event::Switch(vf, path)),
        3 => (0..20_000u64).prop_map(Event::Pass),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]
    #[test]
    fn every_frame_is_received_or_counted(
        workers in 1..=VFS,
        paths in proptest::collection::vec(any_path(), VFS),
        costs in any::<bool>(),
        events in proptest::collection::vec(any_event(), 1..60),
    ) {
        let costs = costs.then(CostModel::default);
        let mut bench = Bench::with_workers(workers, &paths, Nanos(0), costs);
        for vf in 0..VFS {
            bench.start(vf, &queue_of(16));
        }
        // Copies that are to come out somewhere.
        let mut due = 0;
        let mut from_far = 0;
        for event in events {
            match event {
                Event::Send { from, to, len, frames, spoofed } => {
                    let dst = [mac(0), mac(1), mac(2), BEYOND, BROADCAST][to];
                    for _ in 0..frames {
                        if from == VFS {
                            bench.send_from_far(private(frame(dst, BEYOND, 0, len)));
                            from_far += 1;
                        } else {
                            let vm = &mut bench.vms[from];
                            vm.mac = if spoofed { BEYOND } else { mac(from) };
                            if !vm.send_on(0, dst, len) {
                                break;
                            }
                        }
                        // A broadcast goes to the two other guests and to the wire, or from there to all three.
                        due += match dst {
                            BROADCAST if !spoofed || from == VFS => 3,
                            _ => 1,
                        };
                    }
                }
                Event::Receive(vf) => {
                    bench.vms[vf].receive();
                }
                Event::Switch(vf, path) => bench.command(&format!("vf {vf} set path {path}")),
                Event::Pass(ns) => bench.run_until(bench.now + Nanos(ns)),
            }
        }
        let mut received = 0;
        while bench.now < LATE {
            bench.run_until(bench.now + MS);
            let now: usize = bench.vms.iter_mut().map(Vm::receive).sum();
            if now == received {
                bench.now = LATE;
            }
            received = now;
        }
        bench.settle();
        for vf in 0..VFS {
            let counters = bench.counters(vf);
            let vm = &mut bench.vms[vf];
            prop_assert_eq!(vm.outstanding(0), 0);
            prop_assert_eq!(u64::from(vm.sent), counters.tx_packets + counters.tx_drops.total());
            prop_assert_eq!(vm.got.len() as u64, counters.rx_packets);
        }
        let wire = bench.sum(Nic::wire_counters);
        prop_assert_eq!(bench.arrived.len() as u64, wire.tx_packets - wire.tx_drops.total());
        prop_assert_eq!(from_far, wire.rx_packets + wire.rx_drops.total());
        let drops: u64 = bench.drops().iter().map(|(_, n)| n).sum();
        let received = (received + bench.arrived.len()) as u64;
        prop_assert_eq!(due, received + drops, "drops: {:?}", bench.drops());
    }
}
