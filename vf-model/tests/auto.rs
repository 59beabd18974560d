//! Path `auto`: what it learns and forgets, within which quotas, and that no flow is reordered when it changes paths.

// Helpers of tests, too, may unwrap.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use proptest::test_runner::FileFailurePersistence;
use vf_model::{
    Again, Command, FastEvent, FastKey, FrameMeta, HypervisorModel, Judge, Lane, MacAddr, Nanos,
    Nic, NicConfig, Onward, Policy, Profile, RxMode, Source, Verdict, VfIndex, VfRequest,
};

const VFS: u8 = 4;
const BASE: MacAddr = MacAddr([2, 0, 0, 0, 0, 0]);
const REMOTE: u8 = 200;

fn command(words: &str) -> Command {
    Command::parse(&words.split_whitespace().collect::<Vec<_>>()).unwrap()
}

fn policy(profile: Profile, paths: [&str; VFS as usize]) -> Policy {
    let policy = Policy::new(NicConfig {
        vfs: VFS.into(),
        mac_base: BASE,
        profile,
    });
    let set = |(vf, path)| command(&format!("vf {vf} set path {path}"));
    let commands: Vec<_> = paths.iter().enumerate().map(set).collect();
    policy.with_all(&commands).unwrap()
}

fn station(n: u8) -> MacAddr {
    BASE.offset(n.into())
}

/// A UDP frame between stations, whose addresses are 10.0.0.N, with a number in it.
fn udp(to: u8, from: u8, port: u16, number: u32) -> Vec<u8> {
    let mut frame = [station(to).0, station(from).0].concat();
    frame.extend([8, 0, 0x45, 0, 0, 46, 0, 0, 0, 0, 64, 17, 0, 0]);
    frame.extend([10, 0, 0, from, 10, 0, 0, to]);
    frame.extend([0x9c, 0x40]);
    frame.extend(port.to_be_bytes());
    frame.extend([0; 4]);
    frame.extend(number.to_be_bytes());
    frame.resize(60, 0);
    frame
}

/// A gratuitous ARP reply that one station sends and that announces another's address, or its own.
fn announcement(from: u8, of: u8) -> Vec<u8> {
    let mut arp = MacAddr::BROADCAST.0.to_vec();
    arp.extend(station(from).0);
    arp.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, 2]);
    arp.extend(station(of).0);
    arp.extend([10, 0, 0, of]);
    arp.extend([0xff; 6]);
    arp.extend([10, 0, 0, of]);
    arp.resize(60, 0);
    arp
}

fn number(frame: &[u8]) -> u32 {
    u32::from_be_bytes(frame[42..46].try_into().unwrap())
}

/// Sender, receiver (the wire's stations as [`REMOTE`]) and port.
type Flow = (u8, u8, u16);

fn flow(frame: &[u8]) -> Flow {
    (
        frame[11],
        frame[5],
        u16::from_be_bytes([frame[36], frame[37]]),
    )
}

fn meta(frame: &[u8]) -> FrameMeta {
    FrameMeta {
        len: frame.len() as u32,
        gso: None,
    }
}

/// What crosses the PF.
enum Item {
    Frame(Onward, Vec<u8>),
    Marker(u64),
}

struct Held {
    vf: VfIndex,
    key: FastKey,
    onward: Onward,
    frame: Vec<u8>,
}

/// A host whose parts run when they are told to.
struct Host {
    policy: Arc<Policy>,
    nic: Nic,
    hypervisor: HypervisorModel,
    up: VecDeque<Item>,
    down: VecDeque<Item>,
    rings: [VecDeque<Vec<u8>>; VFS as usize],
    held: Vec<Held>,
    events: Vec<FastEvent>,
    /// What has arrived: by flow and receiver, the numbers in order.
    arrived: BTreeMap<(Flow, u8), Vec<u32>>,
    /// Frames that went straight through the NIC.
    fast: u64,
}

impl Host {
    fn new(policy: Policy) -> Host {
        let policy = Arc::new(policy);
        Host {
            nic: Nic::new(Arc::clone(&policy)),
            hypervisor: HypervisorModel::new(Arc::clone(&policy)),
            policy,
            up: VecDeque::new(),
            down: VecDeque::new(),
            rings: Default::default(),
            held: Vec::new(),
            events: Vec::new(),
            arrived: BTreeMap::new(),
            fast: 0,
        }
    }

    fn arrive(&mut self, at: u8, frame: &[u8]) {
        let numbers = self.arrived.entry((flow(frame), at)).or_default();
        numbers.push(number(frame));
    }

    fn set(&mut self, words: &str) {
        self.policy = Arc::new(self.policy.with(&command(words)).unwrap());
    }

    /// Carries out on the NIC what it has said of a frame.
    fn carry_out(&mut self, verdict: &Verdict, frame: &[u8]) {
        for vf in verdict.vfs.iter() {
            let key = FastKey::of_frame(frame);
            let lane = key.map_or(Lane::Slow, |key| self.nic.lane_of(vf, key));
            if !verdict.waits || lane != Lane::Wait {
                self.arrive(vf.0, frame);
                self.fast += u64::from(self.nic.policy().auto().contains(vf));
                continue;
            }
            let onward = Onward {
                vfs: [vf].into_iter().collect(),
                ..Onward::default()
            };
            let key = key.unwrap();
            let frame = frame.to_vec();
            self.held.push(Held {
                vf,
                key,
                onward,
                frame,
            });
        }
        if verdict.pf {
            let onward = self.nic.policy().onward(verdict);
            self.up.push_back(Item::Frame(onward, frame.to_vec()));
        }
        if verdict.wire {
            self.fast += 1;
            self.arrive(REMOTE, frame);
        }
    }

    fn judge(&mut self, source: Source, frame: &[u8]) {
        let verdict = match self
            .nic
            .ingress_again(Nanos(0), source, frame, &meta(frame))
        {
            Some(Again { hop, .. }) => {
                let mut verdict = Verdict::default();
                match hop.to {
                    vf_model::To::Vf(vf) => verdict.vfs.insert(vf),
                    vf_model::To::Wire => verdict.wire = true,
                }
                verdict
            }
            None => self.nic.ingress(Nanos(0), source, frame, &meta(frame)),
        };
        self.carry_out(&verdict, frame);
        self.events.extend(self.nic.take_events());
    }

    /// The NIC looks at the policy, at what waits, at a frame of each ring, and at so much from the hypervisor.
    fn run_nic(&mut self, items: usize) {
        if !Arc::ptr_eq(&self.policy, self.nic.policy()) {
            self.nic.adopt(Arc::clone(&self.policy));
            self.release();
        }
        self.send_marker();
        for _ in 0..items {
            match self.down.pop_front() {
                None => break,
                Some(Item::Marker(number)) => {
                    self.nic.marker_back(number);
                    self.release();
                }
                Some(Item::Frame(onward, frame)) => {
                    let verdict = self.nic.from_pf(&onward, &frame, &meta(&frame));
                    verdict.vfs.iter().for_each(|vf| self.arrive(vf.0, &frame));
                    if verdict.wire {
                        self.arrive(REMOTE, &frame);
                    }
                }
            }
        }
        for vf in (0..VFS).map(VfIndex) {
            let mediated = self.nic.policy().mediated().contains(vf);
            let Some(frame) = self.rings[vf.index()].front() else {
                continue;
            };
            if !mediated && !self.nic.must_wait(vf, frame) {
                let frame = self.rings[vf.index()].pop_front().unwrap();
                self.judge(Source::Vf(vf), &frame);
            }
        }
        self.send_marker();
    }

    fn send_marker(&mut self) {
        if let Some(marker) = self.nic.marker_to_send() {
            self.nic.marker_sent();
            self.up.push_back(Item::Marker(marker));
        }
    }

    fn release(&mut self) {
        for held in std::mem::take(&mut self.held) {
            match self.nic.lane_of(held.vf, held.key) {
                Lane::Wait => self.held.push(held),
                Lane::Fast => {
                    self.fast += 1;
                    self.arrive(held.vf.0, &held.frame);
                }
                Lane::Slow => self.up.push_back(Item::Frame(held.onward, held.frame)),
            }
        }
    }

    fn run_hypervisor(&mut self) {
        if !Arc::ptr_eq(&self.policy, self.hypervisor.policy()) {
            self.hypervisor.adopt(Arc::clone(&self.policy));
        }
        match self.up.pop_front() {
            Some(Item::Marker(number)) => self.down.push_back(Item::Marker(number)),
            Some(Item::Frame(onward, frame)) => {
                let verdict = self
                    .hypervisor
                    .from_pf(Nanos(0), &onward, &frame, &meta(&frame));
                verdict.vfs.iter().for_each(|vf| self.arrive(vf.0, &frame));
                if verdict.pf {
                    let onward = onward.back_to(verdict.beyond);
                    self.down.push_back(Item::Frame(onward, frame));
                }
            }
            None => {}
        }
        for vf in self.hypervisor.policy().mediated().iter() {
            if let Some(frame) = self.rings[vf.index()].pop_front() {
                let verdict = self.hypervisor.ingress(Nanos(0), vf, &frame, &meta(&frame));
                verdict.vfs.iter().for_each(|vf| self.arrive(vf.0, &frame));
                if verdict.pf {
                    let onward = self.hypervisor.policy().onward(&verdict);
                    self.down.push_back(Item::Frame(onward, frame));
                }
            }
        }
        if let Some(mac) = self.hypervisor.take_announced() {
            self.nic.may_be_local(mac);
        }
        self.events.extend(self.hypervisor.take_events());
    }

    fn learn(&mut self) {
        if let Some(policy) = self.policy.with_events(&std::mem::take(&mut self.events)) {
            self.policy = Arc::new(policy);
        }
    }

    /// Everybody runs until nobody has anything left.
    fn settle(&mut self) {
        for _ in 0..10_000 {
            self.run_nic(usize::MAX);
            self.run_hypervisor();
            self.learn();
            let quiet = self.up.is_empty() && self.down.is_empty() && self.held.is_empty();
            if quiet && self.rings.iter().all(VecDeque::is_empty) {
                return;
            }
        }
        panic!("something waits for good");
    }

    fn wire(&mut self, frame: &[u8]) {
        self.judge(Source::Wire, frame);
        self.settle();
    }

    fn send(&mut self, vf: u8, frame: Vec<u8>) {
        self.rings[usize::from(vf)].push_back(frame);
        self.settle();
    }

    fn learned(&self, vf: u8) -> usize {
        self.policy.learned_by(VfIndex(vf)).count()
    }

    fn counters(&self, vf: u8) -> vf_model::FastCounters {
        self.nic.published_fast().vf(VfIndex(vf))
    }
}

const AUTO: [&str; 4] = ["auto"; 4];

#[test]
fn the_first_frame_of_a_flow_goes_the_slow_way_and_the_next_ones_do_not() {
    for profile in [Profile::Falcon, Profile::Siena, Profile::Generic] {
        let mut host = Host::new(policy(profile, AUTO));
        host.wire(&udp(0, REMOTE, 80, 0));
        assert_eq!((host.fast, host.learned(0)), (0, 1), "{profile}");
        let shown: Vec<_> = host
            .policy
            .all_filters()
            .iter()
            .map(|f| f.to_string())
            .collect();
        assert_eq!(
            shown,
            ["flow-type udp4 dst-ip 10.0.0.0 dst-port 80 vf 0 priority hint"]
        );
        // Not even a request to the sender goes the fast way before something has come that way.
        host.send(0, udp(REMOTE, 0, 40_000, 0));
        assert_eq!(host.fast, 0);
        host.wire(&udp(0, REMOTE, 80, 1));
        assert_eq!(host.fast, 1);
        host.send(0, udp(REMOTE, 0, 40_000, 1));
        assert_eq!(host.fast, 2);
        let counters = host.counters(0);
        assert_eq!(
            (counters.fastpath_rx_packets, counters.slowpath_rx_packets),
            (1, 1)
        );
        assert_eq!(
            (counters.fastpath_tx_packets, counters.slowpath_tx_packets),
            (1, 1)
        );
        assert_eq!(counters.forwarded_macs, 1);
        // Other ports and other VFs have learned nothing.
        host.wire(&udp(0, REMOTE, 81, 0));
        host.wire(&udp(1, REMOTE, 80, 0));
        assert_eq!(host.fast, 2);
        // What is neither TCP nor UDP stays on the slow path, however often it comes.
        for _ in 0..3 {
            let mut icmp = udp(0, REMOTE, 80, 0);
            icmp[23] = 1;
            host.wire(&icmp);
            icmp[..12].copy_from_slice(&[station(REMOTE).0, station(0).0].concat());
            host.send(0, icmp);
        }
        assert_eq!(host.fast, 2);
    }
}

#[test]
fn guests_of_one_host_talk_over_the_slow_path() {
    for profile in [Profile::Falcon, Profile::Generic] {
        for paths in [AUTO, ["auto", "direct", "mediated", "auto"]] {
            let mut host = Host::new(policy(profile, paths));
            for n in 0..3 {
                for to in 1..VFS {
                    host.send(0, udp(to, 0, 80, n));
                    host.send(to, udp(0, to, 80, n));
                }
            }
            for peer in 1..VFS {
                assert_eq!(host.arrived[&((0, peer, 80), peer)], [0, 1, 2]);
                assert_eq!(host.arrived[&((peer, 0, 80), 0)], [0, 1, 2]);
            }
            assert_eq!((host.fast, host.learned(0)), (0, 0), "{profile} {paths:?}");
        }
    }
}

#[test]
fn quotas_are_each_vfs_own_and_change_at_once() {
    let mut host = Host::new(policy(Profile::Falcon, AUTO));
    for port in 1..=20 {
        host.wire(&udp(0, REMOTE, port, 0));
        host.wire(&udp(1, REMOTE, port.min(5), 0));
    }
    assert_eq!((host.learned(0), host.learned(1)), (8, 5));
    assert_eq!(host.policy.learned_stats(VfIndex(0)).evicted, 12);
    assert_eq!(host.policy.learned_stats(VfIndex(1)).evicted, 0);
    assert_eq!(host.policy.all_filters().len(), 13);
    assert!(host.policy.filter_table().is_empty());
    host.set("vf 0 set max_filters 2");
    assert_eq!((host.learned(0), host.learned(1)), (2, 5));
    assert_eq!(host.policy.all_filters().len(), 7);
    host.set("vf 0 set max_filters 0");
    host.settle();
    host.wire(&udp(0, REMOTE, 99, 0));
    assert_eq!(host.learned(0), 0);
}

#[test]
fn groups_that_are_listed_take_the_fast_path_as_far_as_the_quota_goes() {
    let group = |n: u8| MacAddr([1, 0, 0x5e, 0, 0, n]);
    let mut host = Host::new(policy(Profile::Falcon, AUTO));
    let lists = VfRequest::Reset {
        lists_groups: true,
        lists_vlans: false,
    };
    let table = VfRequest::MacTable {
        unicast: Vec::new(),
        multicast: (0..10).map(group).collect(),
    };
    for request in [&lists, &table] {
        host.policy = Arc::new(
            host.policy
                .with_request(VfIndex(0), request)
                .unwrap()
                .policy,
        );
    }
    host.settle();
    let to_group = |n, number| {
        let mut frame = udp(0, REMOTE, 80, number);
        frame[..6].copy_from_slice(&group(n).0);
        frame
    };
    for number in 0..2 {
        for n in 0..10 {
            host.wire(&to_group(n, number));
        }
    }
    assert_eq!(
        (host.learned(0), host.counters(0).fastpath_rx_packets),
        (8, 8)
    );
    assert_eq!(host.learned(1), 0, "gets all groups, and has listed none");
    assert_eq!(host.arrived[&((REMOTE, 9, 80), 0)], [0, 1]);
    let fewer = VfRequest::MacTable {
        unicast: Vec::new(),
        multicast: vec![group(3), group(9)],
    };
    host.policy = Arc::new(host.policy.with_request(VfIndex(0), &fewer).unwrap().policy);
    assert_eq!(host.learned(0), 1);
    host.settle();
    host.wire(&to_group(9, 2));
    assert_eq!(host.learned(0), 2);
    let all = VfRequest::RxMode(RxMode {
        nomulti: true,
        ..RxMode::default()
    });
    host.policy = Arc::new(host.policy.with_request(VfIndex(0), &all).unwrap().policy);
    assert_eq!(host.learned(0), 0);
}

#[test]
fn a_filter_that_matches_somebody_elses_frame_is_stale() {
    let mut host = Host::new(policy(Profile::Falcon, AUTO));
    host.wire(&udp(0, REMOTE, 80, 0));
    host.wire(&udp(0, REMOTE, 81, 0));
    assert_eq!(host.learned(0), 2);
    // The address is VF 1's now.
    let mut moved = udp(0, REMOTE, 80, 1);
    moved[5] = 1;
    host.wire(&moved);
    assert_eq!(host.arrived[&((REMOTE, 1, 80), 1)], [1], "who it is for");
    assert_eq!((host.learned(0), host.learned(1)), (1, 1));
    assert_eq!(host.policy.learned_stats(VfIndex(0)).stale, 1);
    assert_eq!(host.fast, 0);
    moved[45] = 2;
    host.wire(&moved);
    assert_eq!(host.fast, 1);
}

#[test]
fn an_address_that_is_announced_here_is_reached_by_the_slow_path() {
    let mut host = Host::new(policy(Profile::Falcon, AUTO));
    let mut number = 0;
    let mut both = |host: &mut Host| {
        let before = host.fast;
        host.wire(&udp(0, REMOTE, 80, number));
        host.send(0, udp(REMOTE, 0, 80, number));
        number += 1;
        host.fast - before
    };
    assert_eq!(both(&mut host), 0);
    assert_eq!(both(&mut host), 2);
    assert_eq!(both(&mut host), 2);
    host.set("vf 1 set spoofchk off");
    host.settle();
    both(&mut host);
    assert_eq!(both(&mut host), 2);
    host.send(1, announcement(REMOTE, REMOTE));
    assert_eq!(host.counters(0).forwarded_macs, 0);
    let before = host.fast;
    host.send(0, udp(REMOTE, 0, 80, 100));
    assert_eq!(host.fast, before, "it may be local");
    assert_eq!(
        both(&mut host),
        2,
        "it is not: it was heard on the fast path"
    );
}

/// The modes that drivers ask for as they like, and what a guest says in another's name, leave others the fast path.
#[test]
fn what_one_guest_says_takes_the_fast_path_from_no_other() {
    let mut host = Host::new(policy(Profile::Falcon, AUTO));
    for number in 0..2 {
        host.wire(&udp(0, REMOTE, 80, number));
        host.send(0, udp(REMOTE, 0, 80, number));
    }
    let takes_it = |host: &mut Host| {
        let before = host.fast;
        host.send(0, udp(REMOTE, 0, 80, 9));
        host.fast > before
    };
    assert!(takes_it(&mut host));
    for words in ["allmulti on", "multicast 01:00:5e:01:02:03", "allmulti off"] {
        host.set(&format!("vf 1 request {words}"));
        assert!(takes_it(&mut host), "{words}");
    }
    host.send(1, announcement(1, REMOTE));
    assert!(takes_it(&mut host), "its own address is another");
    // But a VF that has the address is here.
    host.set(&format!("vf 1 set mac {}", station(REMOTE)));
    assert!(!takes_it(&mut host));
}

#[test]
fn without_a_link_all_is_forgotten_and_learned_again_with_one() {
    let mut host = Host::new(policy(Profile::Falcon, AUTO));
    for n in 0..2 {
        host.wire(&udp(0, REMOTE, 80, n));
    }
    host.send(0, udp(REMOTE, 0, 80, 0));
    assert_eq!((host.learned(0), host.fast), (1, 2));
    host.set("link set down");
    assert_eq!(host.learned(0), 0);
    assert!(host.policy.all_filters().is_empty());
    host.settle();
    assert_eq!(host.counters(0).forwarded_macs, 0);
    host.set("link set up");
    host.settle();
    host.wire(&udp(0, REMOTE, 80, 2));
    host.send(0, udp(REMOTE, 0, 80, 1));
    assert_eq!(host.fast, 2, "on the slow path");
    host.wire(&udp(0, REMOTE, 80, 3));
    host.send(0, udp(REMOTE, 0, 80, 2));
    assert_eq!(host.fast, 4);
    assert_eq!(host.arrived[&((REMOTE, 0, 80), 0)], [0, 1, 2, 3]);
    assert_eq!(host.arrived[&((0, REMOTE, 80), REMOTE)], [0, 1, 2]);
    host.set("vf 0 set path direct");
    assert_eq!(host.learned(0), 0, "on no other path");
}

#[test]
fn a_guest_that_is_migrated_takes_the_slow_path_until_it_is_not() {
    let mut host = Host::new(policy(Profile::Falcon, AUTO));
    let migrating = |host: &mut Host, is| {
        host.policy = Arc::new(host.policy.with_migrating(VfIndex(0), is).unwrap());
        assert!(host.policy.with_migrating(VfIndex(0), is).is_none());
        host.settle();
    };
    for n in 0..2 {
        host.wire(&udp(0, REMOTE, 80, n));
        host.wire(&udp(1, REMOTE, 80, n));
    }
    assert_eq!((host.learned(0), host.learned(1), host.fast), (1, 1, 2));
    migrating(&mut host, true);
    for n in 2..5 {
        host.wire(&udp(0, REMOTE, 80, n));
    }
    assert_eq!((host.learned(0), host.learned(1), host.fast), (0, 1, 2));
    migrating(&mut host, false);
    for n in 5..7 {
        host.wire(&udp(0, REMOTE, 80, n));
    }
    assert_eq!((host.learned(0), host.fast), (1, 3));
    assert_eq!(host.arrived[&((REMOTE, 0, 80), 0)], [0, 1, 2, 3, 4, 5, 6]);
}

#[test]
fn the_administrators_filters_go_first_and_a_full_table_leaves_flows_slow() {
    let mut host = Host::new(policy(Profile::Falcon, AUTO));
    // Steered by hand: fast at once, and to whom it says.
    host.set("filter add flow-type udp4 dst-ip 10.0.0.0 dst-port 80 vf 1");
    host.settle();
    host.wire(&udp(0, REMOTE, 80, 0));
    assert_eq!((host.fast, host.learned(0), host.learned(1)), (1, 0, 0));
    assert_eq!(host.arrived[&((REMOTE, 0, 80), 1)], [0]);
    // Learned, and then named by the administrator: by the same words, or for one peer only.
    host.wire(&udp(0, REMOTE, 81, 0));
    assert_eq!(host.learned(0), 1);
    host.set("filter add flow-type udp4 src-ip 10.0.0.200 src-port 40000 dst-ip 10.0.0.0 dst-port 81 action drop");
    host.settle();
    host.wire(&udp(0, REMOTE, 81, 1));
    assert_eq!(host.arrived[&((REMOTE, 0, 81), 0)], [0]);
    let words = "flow-type udp4 dst-ip 10.0.0.0 dst-port 81 priority hint";
    host.set(&format!("filter del {words}"));
    assert_eq!((host.learned(0), host.policy.all_filters().len()), (0, 2));
    // Learned, and then given another VF by hand: there is one filter for a match.
    host.wire(&udp(0, REMOTE, 82, 0));
    assert_eq!((host.learned(0), host.policy.all_filters().len()), (1, 3));
    host.set("filter add flow-type udp4 dst-ip 10.0.0.0 dst-port 82 vf 1");
    assert_eq!((host.learned(0), host.policy.all_filters().len()), (0, 3));
    host.settle();
    host.wire(&udp(0, REMOTE, 82, 1));
    assert_eq!(host.arrived[&((REMOTE, 0, 82), 1)], [1]);
    host.set("filter del flow-type udp4 dst-ip 10.0.0.0 dst-port 82");
    assert_eq!(host.policy.all_filters().len(), 2);
    // Full.
    let mut full = (*host.policy).clone();
    for n in 0..20_000 {
        let words = format!(
            "filter add flow-type tcp4 dst-ip 10.9.{}.{} dst-port 9 vf 2",
            n / 256,
            n % 256
        );
        // A hashed table has rows left after the first refusal.
        if let Ok(next) = full.with(&command(&words)) {
            full = next;
        }
    }
    host.policy = Arc::new(full);
    host.settle();
    for n in 0..3 {
        host.wire(&udp(0, REMOTE, 90, n));
    }
    assert_eq!(host.learned(0), 0);
    assert_eq!(host.arrived[&((REMOTE, 0, 90), 0)], [0, 1, 2]);
}

/// What happens to a host whose guests talk.
#[derive(Clone, Debug)]
enum Step {
    Wire(Flow),
    Guest(Flow),
    Nic(usize),
    Hypervisor,
    Learn,
    /// Something that ends the fast path of some flows.
    Set(&'static str),
    Stale(u8, u16),
    Announce,
}

fn any_step() -> impl Strategy<Value = Step> {
    let from_wire = (0..2u8, 80..83u16).prop_map(|(to, port)| (REMOTE, to, port));
    let pairs = vec![
        (0, REMOTE),
        (1, REMOTE),
        (0, 1),
        (2, 0),
        (3, 0),
        (0, 3),
        (0, 2),
    ];
    let from_guest = (select(pairs), 80..82u16).prop_map(|((from, to), port)| (from, to, port));
    prop_oneof![
        8 => from_wire.prop_map(Step::Wire),
        8 => from_guest.prop_map(Step::Guest),
        8 => (0..3usize).prop_map(Step::Nic),
        8 => Just(Step::Hypervisor),
        4 => Just(Step::Learn),
        1 => select(vec![
            "vf 0 set max_filters 1", "vf 0 set max_filters 8", "vf 0 set max_tx_rate 0", "filter flush",
        ]).prop_map(Step::Set),
        1 => (0..2u8, 80..83u16).prop_map(|(vf, port)| Step::Stale(vf, port)),
        1 => Just(Step::Announce),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 1500,
        // Beside those of the unit tests, which a test outside `src` does not find by itself.
        failure_persistence: Some(Box::new(FileFailurePersistence::Direct("proptest-regressions/auto.txt"))),
        ..ProptestConfig::default()
    })]

    /// Whoever runs when, and whatever is learned and forgotten meanwhile: all arrives, and each flow in order.
    #[test]
    fn a_flow_that_changes_paths_is_not_reordered_and_loses_nothing(
        steps in vec(any_step(), 1..250),
        profile in select(vec![Profile::Falcon, Profile::Generic]),
    ) {
        let mut host = Host::new(policy(profile, ["auto", "auto", "direct", "mediated"]));
        let mut sent = BTreeMap::<Flow, u32>::new();
        let mut next = |(from, to, port): Flow| {
            let number = sent.entry((from, to, port)).or_default();
            *number += 1;
            udp(to, from, port, *number - 1)
        };
        for step in steps {
            match step {
                Step::Wire(flow) => host.judge(Source::Wire, &next(flow)),
                Step::Guest(flow) => host.rings[usize::from(flow.0)].push_back(next(flow)),
                Step::Nic(items) => host.run_nic(items),
                Step::Hypervisor => host.run_hypervisor(),
                Step::Learn => host.learn(),
                Step::Set(words) => host.set(words),
                Step::Stale(vf, port) => host.events.push(FastEvent::Stale {
                    vf: VfIndex(vf),
                    key: FastKey::of_frame(&udp(vf, REMOTE, port, 0)).unwrap(),
                }),
                Step::Announce => host.nic.may_be_local(station(REMOTE)),
            }
        }
        host.settle();
        for (flow, count) in sent {
            let arrived = &host.arrived[&(flow, flow.1)];
            prop_assert_eq!(arrived, &(0..count).collect::<Vec<_>>(), "{:?}", flow);
        }
    }
}
