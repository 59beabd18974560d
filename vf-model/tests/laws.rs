//! The laws of the NIC and the hypervisor's bridge together, on one host, with random VFs, policies, filters and frames.

// Helpers of tests, too, may unwrap.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use proptest::test_runner::FileFailurePersistence;
use vf_model::{
    BothPaths, BridgePort, Command, Counters, DriverAction, DropReason, FilterAction, FilterMatch,
    FilterOp, FilterSpec, FlowEnd, FrameMeta, GroupHash, Header, Hop, HypervisorModel, Judge,
    LinkSetting, MAX_FRAME, MacAddr, MatchFields, Mtu, Nanos, Nic, NicConfig, Onward, Path, Policy,
    Privileges, Profile, Refusal, RxMode, Source, Step, SwitchMode, TagEdit, To, Transport,
    UnknownIn, Verdict, VfIndex, VfLinkState, VfRequest, VfSetting, Vid, VlanProto, VlanTag,
};

const VFS: u8 = 4;
/// How many frames each rule set is tried with.
const FRAMES: usize = 10_000;
const BASE: MacAddr = MacAddr([2, 0, 0, 0, 0, 0]);

/// One host: every frame is carried between the two planes until nobody has it any more.
struct Host {
    /// What both planes judge by.
    policy: Arc<Policy>,
    nic: Nic,
    hypervisor: HypervisorModel,
    now: Nanos,
    /// Bytes of each frame that the model is not shown.
    beyond: u32,
    /// Addresses that a driver has listed and that another VF had then.
    taken: BTreeSet<(VfIndex, MacAddr)>,
    /// MTUs to which drivers have agreed.
    agreed: BTreeMap<VfIndex, Mtu>,
}

/// A frame on its way over the PF.
struct Crossing {
    /// To the plane of this path.
    to: Path,
    onward: Onward,
    bytes: Vec<u8>,
}

/// What changes a NIC.
#[derive(Clone, Debug)]
enum Act {
    /// The administrator.
    Admin(Command),
    /// The driver of a VF.
    Driver(VfIndex, VfRequest),
}

impl From<Command> for Act {
    fn from(command: Command) -> Act {
        Act::Admin(command)
    }
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Outcome {
    vfs: BTreeMap<u8, Vec<u8>>,
    wire: Option<Vec<u8>>,
    /// The verdict's drop reasons along the way.
    drops: Vec<DropReason>,
}

fn edited(bytes: &[u8], edit: TagEdit) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    match edit {
        TagEdit::Keep => {}
        TagEdit::Insert(tag) => drop(bytes.splice(12..12, tag.to_bytes())),
        TagEdit::Strip => drop(bytes.drain(12..16)),
    }
    bytes
}

fn inserted(bytes: &[u8], tag: Option<VlanTag>) -> Vec<u8> {
    edited(bytes, tag.map_or(TagEdit::Keep, TagEdit::Insert))
}

/// Frames are shown to the model by their first bytes; this one goes on for `beyond` bytes.
fn meta(bytes: &[u8], beyond: u32) -> FrameMeta {
    FrameMeta {
        len: bytes.len() as u32 + beyond,
        gso: None,
    }
}

/// The path of the plane that has the rings of a VF on this path.
fn home(path: Path) -> Path {
    match path {
        Path::Auto => Path::Direct,
        path => path,
    }
}

impl Host {
    fn new(acts: &[Act], paths: &[Path]) -> Host {
        Host::like(Profile::Generic, acts, paths)
    }

    fn like(profile: Profile, acts: &[Act], paths: &[Path]) -> Host {
        let config = NicConfig {
            vfs: VFS.into(),
            mac_base: BASE,
            profile,
        };
        let policy = Arc::new(Policy::new(config));
        let mut host = Host {
            nic: Nic::new(Arc::clone(&policy)),
            hypervisor: HypervisorModel::new(Arc::clone(&policy)),
            policy,
            now: Nanos(0),
            beyond: 0,
            taken: BTreeSet::new(),
            agreed: BTreeMap::new(),
        };
        for act in acts {
            let _ = host.act(act);
        }
        host.set_paths(paths);
        host
    }

    fn set_paths(&mut self, paths: &[Path]) {
        for (vf, path) in paths.iter().enumerate() {
            let settings = vec![VfSetting::Path(*path)];
            let vf = VfIndex::from(vf);
            self.act(
                &Command::SetVf {
                    vfs: vf.into(),
                    settings,
                }
                .into(),
            )
            .unwrap();
        }
    }

    fn act(&mut self, act: &Act) -> Result<(), Refusal> {
        let policy = match act {
            Act::Admin(command) => self.policy.with(command),
            Act::Driver(vf, request) => {
                let granted = self.policy.with_request(*vf, request);
                granted.map(|granted| granted.policy)
            }
        };
        let before = Arc::clone(&self.policy);
        self.adopt(Arc::new(policy?));
        if let Act::Driver(vf, VfRequest::Reset { .. } | VfRequest::MacTable { .. }) = act {
            self.taken.retain(|(by, _)| by != vf);
        }
        match act {
            Act::Driver(vf, VfRequest::Reset { .. }) => drop(self.agreed.remove(vf)),
            Act::Driver(vf, VfRequest::Mtu(mtu)) => drop(self.agreed.insert(*vf, *mtu)),
            _ => {}
        }
        if let Act::Driver(vf, VfRequest::MacTable { unicast, .. }) = act {
            let has = |other: VfIndex, mac: &MacAddr| {
                before.mac(other) == *mac
                    || before.in_force(other).unicast.contains(mac)
                    || before.filters(other).macs().iter().any(|(m, _)| m == mac)
            };
            let others = || (0..VFS).map(VfIndex).filter(|other| other != vf);
            let taken = unicast
                .iter()
                .filter(|mac| others().any(|other| has(other, mac)));
            self.taken.extend(taken.map(|mac| (*vf, *mac)));
        }
        Ok(())
    }

    fn adopt(&mut self, policy: Arc<Policy>) {
        let moved: Vec<VfIndex> = (0..VFS)
            .map(VfIndex)
            .filter(|vf| self.policy.vf(*vf).path != policy.vf(*vf).path)
            .collect();
        self.nic.adopt(Arc::clone(&policy));
        self.hypervisor.adopt(Arc::clone(&policy));
        self.policy = policy;
        for vf in moved {
            match home(self.policy.vf(vf).path) {
                Path::Mediated => self.hypervisor.take_limit(vf, &self.nic),
                _ => self.nic.take_limit(vf, &self.hypervisor),
            }
        }
        self.pass_markers();
    }

    /// Nothing is on its way between the planes.
    fn pass_markers(&mut self) {
        while let Some(marker) = self.nic.marker_to_send() {
            self.nic.marker_sent();
            self.nic.marker_back(marker);
        }
    }

    /// Path `auto` learns from what has passed.
    fn learn(&mut self) {
        if let Some(mac) = self.hypervisor.take_announced() {
            self.nic.may_be_local(mac);
        }
        let mut events = self.hypervisor.take_events();
        events.extend(self.nic.take_events());
        if let Some(policy) = self.policy.with_events(&events) {
            self.adopt(Arc::new(policy));
        }
        self.pass_markers();
    }

    fn send(&mut self, source: Source, bytes: &[u8]) -> Outcome {
        let (mut outcome, crossing) = self.enter(source, bytes);
        if let Some(crossing) = crossing {
            self.cross(crossing, &mut outcome);
        }
        self.learn();
        outcome
    }

    /// A frame on the plane where it enters the host; what of it crosses the PF.
    fn enter(&mut self, source: Source, bytes: &[u8]) -> (Outcome, Option<Crossing>) {
        let mut outcome = Outcome::default();
        let meta = meta(bytes, self.beyond);
        let crossing = match source {
            Source::Vf(vf) if self.policy.vf(vf).path == Path::Mediated => {
                let verdict = self.hypervisor.ingress(self.now, vf, bytes, &meta);
                let wire = Verdict {
                    wire: false,
                    ..verdict
                };
                self.deliver(Path::Mediated, &wire, bytes, &mut outcome);
                (Path::Direct, verdict)
            }
            _ => {
                let verdict = self.nic.ingress(self.now, source, bytes, &meta);
                self.deliver(Path::Direct, &verdict, bytes, &mut outcome);
                (Path::Mediated, verdict)
            }
        };
        let (to, verdict) = crossing;
        let why = self.policy.why(source, bytes, &meta);
        // What the bridge on the PF has learned is no part of the policy.
        if (0..VFS).all(|vf| !self.policy.vf(VfIndex(vf)).bridge) {
            // Nor is what the NIC of path `auto` knows of a flow: that is no question of who receives it.
            let said = |verdict: &Verdict| match self.policy.auto().is_empty() {
                true => *verdict,
                false => Verdict {
                    vfs: verdict.vfs.union(verdict.beyond),
                    wire: verdict.wire || verdict.wire_beyond,
                    insert: verdict.insert,
                    drop: verdict.drop,
                    ..Verdict::default()
                },
            };
            assert_eq!(said(&why.verdict), said(&verdict), "{:#?}", why.steps);
        }
        let goes_on = !verdict.vfs.is_empty() || verdict.pf || verdict.wire;
        assert_eq!(verdict.drop.is_none(), goes_on, "{verdict:?}");
        let crossing = verdict.pf.then(|| Crossing {
            to,
            onward: verdict.onward(&self.policy),
            bytes: inserted(bytes, verdict.insert),
        });
        (outcome, crossing)
    }

    /// A frame that comes over the PF.
    fn cross(&mut self, crossing: Crossing, outcome: &mut Outcome) {
        let Crossing { to, onward, bytes } = crossing;
        let meta = meta(&bytes, self.beyond);
        let verdict = match to {
            Path::Mediated => self.hypervisor.from_pf(self.now, &onward, &bytes, &meta),
            _ => self.nic.from_pf(&onward, &bytes, &meta),
        };
        if verdict.pf {
            let auto = !self.policy.auto().is_empty();
            assert!(
                to == Path::Mediated && (has_no_switch(&self.policy) || auto || onward.held),
                "back to where it came from"
            );
            let crossing = Crossing {
                to: Path::Direct,
                onward: onward.back_to(verdict.beyond),
                bytes: bytes.clone(),
            };
            self.cross(crossing, outcome);
        }
        outcome.drops.extend(verdict.drop);
        for vf in verdict.vfs.iter() {
            self.deliver_to(to, vf, edited(&bytes, onward.tagging.edit(vf)), outcome);
        }
        if verdict.wire && to == Path::Direct {
            assert_eq!(outcome.wire.replace(bytes), None, "a duplicate");
        }
    }

    fn deliver(&mut self, on: Path, verdict: &Verdict, bytes: &[u8], outcome: &mut Outcome) {
        outcome.drops.extend(verdict.drop);
        let tagging = self.policy.tagging(verdict.insert);
        for vf in verdict.vfs.iter() {
            assert_eq!(home(self.policy.vf(vf).path), on);
            self.deliver_to(on, vf, edited(bytes, tagging.edit(vf)), outcome);
        }
        if verdict.wire {
            let copy = inserted(bytes, verdict.insert);
            assert_eq!(outcome.wire.replace(copy), None, "a duplicate");
        }
    }

    fn deliver_to(&mut self, on: Path, vf: VfIndex, copy: Vec<u8>, outcome: &mut Outcome) {
        let (dst, len) = (MacAddr::of_frame(&copy), copy.len() as u32 + self.beyond);
        match on {
            Path::Mediated => self.hypervisor.count_delivered(vf, dst, len),
            _ => self.nic.count_delivered(vf, dst, len),
        }
        assert_eq!(outcome.vfs.insert(vf.0, copy), None, "a duplicate");
    }

    fn counters(&self, vf: VfIndex) -> Counters {
        let mut sum = self.nic.counters(vf);
        sum += &self.hypervisor.counters(vf);
        sum
    }

    /// Every drop counted anywhere.
    fn drops(&self) -> u64 {
        DropReason::all().map(|why| self.drops_for(why)).sum()
    }

    fn drops_for(&self, why: DropReason) -> u64 {
        let vfs = (0..VFS).map(|i| self.counters(VfIndex(i)));
        let others = [
            self.nic.pf_counters(),
            self.nic.wire_counters(),
            self.hypervisor.pf_counters(),
        ];
        vfs.chain(others)
            .map(|c| c.rx_drops.get(why) + c.tx_drops.get(why))
            .sum()
    }
}

/// The transport and both ends of a frame of those that [`any_frame`] makes.
fn flow_of(bytes: &[u8]) -> Option<(Transport, FlowEnd, FlowEnd)> {
    let word = |at: usize| u16::from_be_bytes([bytes[at], bytes[at + 1]]);
    let mut at = 12;
    while at < 20 && matches!(word(at), 0x8100 | 0x88a8 | 0x9100) {
        at += 4;
    }
    let ip = at + 2;
    let v4 = |at: usize| IpAddr::from(<[u8; 4]>::try_from(&bytes[at..at + 4]).unwrap());
    let v6 = |at: usize| IpAddr::from(<[u8; 16]>::try_from(&bytes[at..at + 16]).unwrap());
    let (protocol, src, dst, l4) = match (word(at), bytes[ip]) {
        (0x800, 0x45) if word(ip + 6) & 0x3fff == 0 => {
            (bytes[ip + 9], v4(ip + 12), v4(ip + 16), ip + 20)
        }
        (0x86dd, 0x60) => (bytes[ip + 6], v6(ip + 8), v6(ip + 24), ip + 40),
        _ => return None,
    };
    let transport = [Transport::Tcp, Transport::Udp];
    let transport = transport.into_iter().find(|t| t.protocol() == protocol)?;
    let end = |ip, at| FlowEnd { ip, port: word(at) };
    Some((transport, end(dst, l4 + 2), end(src, l4)))
}

/// Protocol, source and destination, and ports.
type Packet = (u8, IpAddr, IpAddr, Option<(u16, u16)>);

/// What filters look at in a packet of those that [`any_frame`] makes.
fn packet_of(bytes: &[u8]) -> Option<Packet> {
    let word = |at: usize| u16::from_be_bytes([bytes[at], bytes[at + 1]]);
    let mut at = 12;
    while at < 20 && matches!(word(at), 0x8100 | 0x88a8 | 0x9100) {
        at += 4;
    }
    let ip = at + 2;
    let v4 = |at: usize| IpAddr::from(<[u8; 4]>::try_from(&bytes[at..at + 4]).unwrap());
    let v6 = |at: usize| IpAddr::from(<[u8; 16]>::try_from(&bytes[at..at + 16]).unwrap());
    let ports = |protocol, l4| {
        [6, 17, 132]
            .contains(&protocol)
            .then(|| (word(l4), word(l4 + 2)))
    };
    match (word(at), bytes[ip]) {
        (0x800, 0x45) => {
            let (protocol, whole) = (bytes[ip + 9], word(ip + 6) & 0x3fff == 0);
            let ports = ports(protocol, ip + 20).filter(|_| whole);
            Some((protocol, v4(ip + 12), v4(ip + 16), ports))
        }
        (0x86dd, 0x60) => {
            let protocol = bytes[ip + 6];
            Some((protocol, v6(ip + 8), v6(ip + 24), ports(protocol, ip + 40)))
        }
        _ => None,
    }
}

/// Whether each field that there is matches.
fn has_fields(fields: &MatchFields, bytes: &[u8], tag: Option<(u16, u16)>) -> bool {
    let header = Header::parse(bytes).unwrap();
    let packet = packet_of(bytes);
    let inner = header.tags.as_slice().get(1).map(|tag| tag.vid());
    let ports = packet.and_then(|(_, _, _, ports)| ports);
    fields.dst.is_none_or(|mac| mac.has(header.dst))
        && fields.src.is_none_or(|mac| mac.has(header.src))
        && fields
            .vlan
            .is_none_or(|vlan| vlan.tag().map(|t| (t.tpid, t.vid())) == tag)
        && fields.inner_vlan.is_none_or(|vid| inner == Some(vid.get()))
        && fields
            .ethertype
            .is_none_or(|proto| proto == header.ethertype)
        && fields
            .protocol
            .is_none_or(|protocol| packet.is_some_and(|p| p.0 == protocol))
        && fields
            .src_ip
            .is_none_or(|ip| packet.is_some_and(|p| ip.has(p.1)))
        && fields
            .dst_ip
            .is_none_or(|ip| packet.is_some_and(|p| ip.has(p.2)))
        && fields
            .src_port
            .is_none_or(|port| ports.is_some_and(|p| p.0 == port))
        && fields
            .dst_port
            .is_none_or(|port| ports.is_some_and(|p| p.1 == port))
}

/// How a filter ranks, from its words alone: which fields it names, in the documented order, and then how much of them.
fn rank(spec: &FilterSpec) -> (Vec<bool>, Vec<u32>) {
    let words = spec.matches.to_string();
    let words: Vec<&str> = words.split(' ').collect();
    let value = |key: &str| {
        let at = words.iter().position(|word| *word == key)?;
        words.get(at + 1).copied()
    };
    let dst = value("dst").or(value("dst-mac"));
    let unknown = |what: &str| dst == Some(what);
    let flow_type = value("flow-type").unwrap();
    let fields = vec![
        value("dst-port").is_some(),
        value("src-port").is_some(),
        value("dst-ip").is_some(),
        value("src-ip").is_some(),
        value("l4proto").is_some() || !["ether", "ip4", "ip6"].contains(&flow_type),
        dst.is_some_and(|dst| !dst.starts_with("unknown")),
        value("src").or(value("src-mac")).is_some(),
        value("vlan").is_some(),
        value("inner-vlan").is_some(),
        value("proto").is_some() || flow_type != "ether",
        unknown("unknown-multicast"),
        unknown("unknown-unicast"),
    ];
    let prefix = |key: &str| match value(key)?.split_once('/') {
        Some((_, len)) => len.parse::<u32>().ok(),
        None => Some(u32::MAX),
    };
    let mac = |keys: [&str; 2]| {
        let at = words.iter().position(|word| keys.contains(word))?;
        match words.get(at + 2) {
            Some(&"m") => {
                let free: MacAddr = words[at + 3].parse().unwrap();
                Some(48 - free.0.map(u8::count_ones).iter().sum::<u32>())
            }
            _ => Some(48),
        }
    };
    let much = [
        prefix("dst-ip"),
        prefix("src-ip"),
        mac(["dst", "dst-mac"]),
        mac(["src", "src-mac"]),
    ];
    (fields, much.map(Option::unwrap_or_default).to_vec())
}

/// Every filter in turn: the first in force that matches a frame with this tag and does not send it to a VF that takes no
/// part in the frame's VLAN, and whom those before it have it copied to.
fn steered(
    policy: &Policy,
    bytes: &[u8],
    tag: Option<(u16, u16)>,
    unknown_unicast: bool,
    receives: impl Fn(VfIndex) -> bool,
) -> (Option<FilterSpec>, Vec<VfIndex>) {
    let dst = MacAddr(bytes[..6].try_into().unwrap());
    let flow = flow_of(bytes);
    let ethertype = Header::parse(bytes).unwrap().ethertype;
    let mut specs: Vec<FilterSpec> = policy.filter_table().iter().collect();
    specs.sort_by_key(|s| std::cmp::Reverse((rank(s), s.priority)));
    specs.dedup_by_key(|s| s.matches);
    let matches = |spec: &FilterSpec| match spec.matches {
        FilterMatch::Full {
            transport,
            local,
            remote,
        } => flow == Some((transport, local, remote)),
        FilterMatch::Local { transport, local } => {
            flow.is_some_and(|(t, l, _)| (t, l) == (transport, local))
        }
        FilterMatch::MacVlan { mac, vid } => mac == dst && tag == Some((0x8100, vid.get())),
        FilterMatch::Mac(mac) => mac == dst,
        FilterMatch::EtherType(proto) => proto == ethertype,
        FilterMatch::UnknownMulticast => dst.is_multicast() && !dst.is_broadcast(),
        FilterMatch::UnknownUnicast => unknown_unicast,
        FilterMatch::Fields(fields) => has_fields(&fields, bytes, tag),
        FilterMatch::Egress { .. } => false,
    };
    let applies = |spec: &FilterSpec| match spec.action {
        FilterAction::Drop | FilterAction::Pass | FilterAction::Mediated => true,
        FilterAction::Vf(vf)
        | FilterAction::Queue(vf, _)
        | FilterAction::Context(vf, _)
        | FilterAction::Mirror(vf) => receives(vf),
    };
    let mut copies = Vec::new();
    for spec in specs.into_iter().filter(|s| matches(s) && applies(s)) {
        match spec.action {
            FilterAction::Mirror(vf) => copies.push(vf),
            _ => return (Some(spec), copies),
        }
    }
    (None, copies)
}

/// What the filters on what a VF sends say of a frame with this tag: whether it may leave.
fn lets_out(policy: &Policy, vf: VfIndex, bytes: &[u8], tag: Option<(u16, u16)>) -> bool {
    let mut specs: Vec<_> = policy
        .filter_table()
        .iter()
        .filter_map(|spec| match spec.matches {
            FilterMatch::Egress { sender, fields } => Some((sender, fields, spec)),
            _ => None,
        })
        .collect();
    specs.sort_by_key(|(sender, _, s)| std::cmp::Reverse((sender.is_some(), rank(s), s.priority)));
    let named = specs.iter().any(|(sender, ..)| *sender == Some(vf));
    let first = specs.iter().find(|(sender, fields, _)| {
        sender.is_none_or(|sender| sender == vf) && has_fields(fields, bytes, tag)
    });
    match first {
        Some((.., spec)) => spec.action == FilterAction::Pass,
        None => policy.profile() != Profile::Siena || !named,
    }
}

/// What the documentation promises, one VF at a time and without any table: who gets which bytes.
fn promised(host: &Host, source: Source, bytes: &[u8]) -> (BTreeMap<u8, Vec<u8>>, Option<Vec<u8>>) {
    let policy = &*host.policy;
    let nothing = (BTreeMap::new(), None);
    let mac = |at: usize| MacAddr(bytes[at..at + 6].try_into().unwrap());
    let (dst, src) = (mac(0), mac(6));
    let tag_of = |bytes: &[u8]| match u16::from_be_bytes([bytes[12], bytes[13]]) {
        tpid @ (0x8100 | 0x88a8 | 0x9100) => {
            Some((tpid, u16::from_be_bytes([bytes[14], bytes[15]]) & 0xfff))
        }
        _ => None,
    };
    if dst.is_reserved() {
        return nothing;
    }
    let mut on_the_way = bytes.to_vec();
    let takes_part = |vf: VfIndex, tag: Option<(u16, u16)>| {
        let tag = tag.filter(|(_, vid)| *vid != 0);
        match policy.vf(vf).port_vlan {
            Some(port) => tag == Some((port.proto.tpid(), port.vid.get())),
            None => match tag {
                None => true,
                Some((tpid, vid)) => {
                    let vlans = policy.filters(vf).vlans();
                    vlans.is_empty() || tpid == 0x8100 && vlans.iter().any(|v| v.get() == vid)
                }
            },
        }
    };
    let asked = |vf: VfIndex| policy.asked(vf);
    let trusted = |vf: VfIndex| policy.vf(vf).trust;
    let may =
        |vf: VfIndex, privilege| trusted(vf) || policy.vf(vf).privileges().contains(privilege);
    let chooses = |vf: VfIndex| may(vf, Privileges::CHANGE_MAC) || !policy.vf(vf).mac_set;
    let own = |vf: VfIndex| {
        let chosen = asked(vf).mac.filter(|_| chooses(vf));
        chosen.unwrap_or(policy.vf(vf).mac)
    };
    let discreet = [
        Profile::Falcon,
        Profile::Siena,
        Profile::Igb,
        Profile::Ixgbe,
    ]
    .contains(&policy.profile());
    let promisc =
        |vf: VfIndex| asked(vf).mode.promisc && may(vf, Privileges::PROMISCUOUS) && !discreet;
    let receives = |vf: VfIndex, tag: Option<(u16, u16)>| {
        let wanted = match (tag, &asked(vf).vlans) {
            (Some((0x8100, vid)), Some(vlans)) if vid != 0 => {
                promisc(vf)
                    || policy.vf(vf).port_vlan.is_some()
                    || vlans.iter().any(|v| v.get() == vid)
            }
            _ => true,
        };
        wanted && takes_part(vf, tag)
    };
    let further = |vf: VfIndex| {
        let room = match policy.profile() {
            Profile::Falcon | Profile::Siena => 0,
            Profile::Ef10 => 32,
            Profile::Igb => 16,
            _ => 1024,
        };
        let allowed = move |mac: &&MacAddr| {
            let free = !host.taken.contains(&(vf, **mac)) && chooses(vf);
            trusted(vf) || policy.vf(vf).mac == **mac || free
        };
        let asked = asked(vf).unicast.iter().filter(allowed);
        let room = if trusted(vf) { room } else { room.min(16) };
        asked.take(if may(vf, Privileges::UNICAST) {
            room
        } else {
            0
        })
    };
    let has =
        |vf: VfIndex, mac: MacAddr, tag: Option<(u16, u16)>| {
            own(vf) == mac
                || further(vf).any(|m| *m == mac)
                || policy.filters(vf).macs().iter().any(|(m, vlan)| {
                    *m == mac && vlan.is_none_or(|v| tag == Some((0x8100, v.get())))
                })
        };
    let unknown_in = |vf: VfIndex, tag: Option<(u16, u16)>, multicast: bool| {
        let named = |u: &UnknownIn| u.multicast == multicast && tag == Some((0x8100, u.vid.get()));
        policy.vf(vf).port_vlan.is_none() && asked(vf).unknown_in.iter().any(named)
    };
    let hashed = |vf: VfIndex, dst: MacAddr, room: usize| {
        // Bits 36 to 47, the last byte's first.
        let bits = dst
            .0
            .iter()
            .rev()
            .fold(0u64, |all, byte| all << 8 | u64::from(*byte))
            >> 36;
        let hashes = asked(vf).group_hashes.iter().take(room);
        hashes.into_iter().any(|hash| u64::from(hash.get()) == bits)
    };
    let wants = |vf: VfIndex, dst: MacAddr, tag: Option<(u16, u16)>| {
        let mode = asked(vf).mode;
        let few = !trusted(vf) || matches!(policy.profile(), Profile::Igb | Profile::Ixgbe);
        let room = if few { 30 } else { 1024 };
        let listed = |groups: &Vec<MacAddr>| groups.iter().take(room).any(|group| *group == dst);
        promisc(vf)
            || if dst.is_broadcast() {
                !mode.nobcast && may(vf, Privileges::BROADCAST)
            } else if dst.is_multicast() {
                let all = mode.allmulti || unknown_in(vf, tag, true);
                let all = all && may(vf, Privileges::ALL_MULTICAST);
                let subscribed = may(vf, Privileges::MULTICAST)
                    && (asked(vf).multicast.as_ref().is_none_or(listed) || hashed(vf, dst, room));
                !mode.nomulti && (all || subscribed)
            } else {
                !mode.nouni
            }
    };
    let mode = policy.switch_mode();
    let port_up = policy.link_up() && mode != SwitchMode::Floating;
    let up = |vf: VfIndex| match policy.vf(vf).state {
        VfLinkState::Auto => policy.link_up() || mode == SwitchMode::Floating,
        VfLinkState::Enable => true,
        VfLinkState::Disable => false,
    };
    // An MTU counts what is behind the Ethernet header and its tags, which are two at most.
    let header = Header::parse(bytes).unwrap();
    let tags = header.tags.as_slice().len() as u32;
    let payload = bytes.len() as u32 + host.beyond - 14 - 4 * tags;
    let fits = |mtu: Mtu| mtu == Mtu::MAX || payload <= u32::from(mtu.get());
    let sends = |vf: VfIndex| policy.vf(vf).mtu.unwrap_or(policy.mtu());
    let takes_len = |vf: VfIndex| fits(sends(vf)) && host.agreed.get(&vf).is_none_or(|m| fits(*m));
    match source {
        Source::Vf(vf) => {
            let sender = policy.vf(vf);
            if !up(vf) || !fits(sends(vf)) {
                return nothing;
            }
            if let Some(port) = sender.port_vlan {
                let one_tag = matches!(policy.profile(), Profile::Igb | Profile::Ixgbe)
                    && port.proto == VlanProto::Dot1Q;
                if one_tag && tag_of(bytes).is_some_and(|(_, vid)| vid != 0) {
                    return nothing;
                }
                on_the_way.splice(12..12, port.tag().to_bytes());
            }
            let tag = tag_of(&on_the_way);
            // Further addresses of the driver's end the check, and nobody is told.
            let ended = policy.profile() == Profile::Ixgbe && further(vf).next().is_some();
            if sender.spoofchk && !ended && !(has(vf, src, tag) && takes_part(vf, tag)) {
                return nothing;
            }
            if !lets_out(policy, vf, &on_the_way, tag) {
                return nothing;
            }
        }
        Source::Wire if !port_up || !fits(policy.mtu()) => return nothing,
        Source::Wire => {}
    }
    let tag = tag_of(&on_the_way);
    let group = dst.is_multicast();
    let mirrored = |reached: BTreeMap<u8, Vec<u8>>, wire: bool, copies: &[VfIndex]| {
        let mut all = reached.clone();
        let wire = wire && fits(policy.mtu());
        let copies = copies.iter().filter(|_| wire || !reached.is_empty());
        for to in copies.filter(|to| source != Source::Vf(**to) && up(**to) && takes_len(**to)) {
            let hidden = policy.vf(*to).port_vlan.is_some();
            let copy = edited(
                &on_the_way,
                if hidden {
                    TagEdit::Strip
                } else {
                    TagEdit::Keep
                },
            );
            all.insert(to.0, copy);
        }
        for vf in (0..VFS).map(VfIndex) {
            let passed = reached.contains_key(&vf.0)
                || source == Source::Vf(vf) && (wire || !reached.is_empty());
            let to = policy.vf(vf).mirror.filter(|_| passed);
            if let Some(to) = to.filter(|to| source != Source::Vf(*to) && up(*to) && takes_len(*to))
            {
                all.insert(to.0, on_the_way.clone());
            }
        }
        (all, wire.then(|| on_the_way.clone()))
    };
    if mode == SwitchMode::Vepa && source != Source::Wire {
        return mirrored(BTreeMap::new(), port_up, &[]);
    }
    let all = || (0..VFS).map(VfIndex).filter(|vf| receives(*vf, tag));
    let behind_pf = policy.stations_behind_pf().iter().any(|entry| {
        let in_vlan = |v: Vid| tag == Some((0x8100, v.get()));
        entry.mac == dst && entry.vlan.is_none_or(in_vlan)
    });
    let known = behind_pf || all().any(|vf| !group && has(vf, dst, tag));
    let from_wire = source == Source::Wire;
    let may_get = |vf: VfIndex| source != Source::Vf(vf) && up(vf);
    let reflected = |vf| group && from_wire && mode == SwitchMode::Vepa && has(vf, src, tag);
    let by_switch = |vf: VfIndex| {
        let alluni = asked(vf).mode.alluni || unknown_in(vf, tag, false);
        let alluni = alluni && may(vf, Privileges::PROMISCUOUS) && !discreet;
        let for_it = if group || known {
            group || has(vf, dst, tag)
        } else {
            from_wire && (promisc(vf) || alluni)
        };
        for_it && wants(vf, dst, tag) && !reflected(vf)
    };
    // Filters are asked about what the NIC receives: from the wire, or what its switch, if it has one, gives to somebody here.
    let switched = !has_no_switch(policy) && all().any(|vf| by_switch(vf) && may_get(vf));
    let received = from_wire || switched;
    let unknown = from_wire && !group && !known;
    let takes = |vf| receives(vf, tag) && source != Source::Vf(vf);
    let (filter, copies) = match received {
        true => steered(policy, &on_the_way, tag, unknown, takes),
        false => (None, Vec::new()),
    };
    let only = filter.is_some_and(|spec| spec.matches != FilterMatch::UnknownUnicast);
    let to = |vf: VfIndex| match filter.map(|spec| spec.action) {
        Some(FilterAction::Drop | FilterAction::Pass | FilterAction::Mirror(_)) => false,
        Some(FilterAction::Vf(to) | FilterAction::Queue(to, _) | FilterAction::Context(to, _)) => {
            to == vf || !only && by_switch(vf)
        }
        // It says which way, not to whom.
        Some(FilterAction::Mediated) | None => by_switch(vf),
    };
    let wire = !from_wire && port_up && (group || !known);
    let vfs: BTreeMap<_, _> = all()
        .filter(|vf| to(*vf) && may_get(*vf) && takes_len(*vf))
        .map(|vf| {
            let mut copy = on_the_way.clone();
            if policy.vf(vf).port_vlan.is_some() {
                copy.drain(12..16);
            }
            (vf.0, copy)
        })
        .collect();
    mirrored(vfs, wire, &copies)
}

fn has_no_switch(policy: &Policy) -> bool {
    matches!(policy.profile(), Profile::Falcon | Profile::Siena)
}

fn sets_mirror(command: &Command) -> bool {
    let Command::SetVf { settings, .. } = command else {
        return false;
    };
    settings.iter().any(|s| matches!(s, VfSetting::Mirror(_)))
}

fn parse(words: &str) -> Command {
    let words: Vec<&str> = words.split(' ').collect();
    Command::parse(&words).unwrap()
}

fn any_mac() -> impl Strategy<Value = String> {
    (0..VFS + 4).prop_map(|i| BASE.offset(i.into()).to_string())
}

fn any_command() -> impl Strategy<Value = Command> {
    let vid = || select(vec![10, 20, 30]);
    let words = prop_oneof![
        4 => (0u16..3, select(vec!["802.1Q", "802.1Q", "802.1ad"]), 0..8)
            .prop_map(|(v, proto, qos)| match v * 10 {
                0 => "set vlan 0".to_owned(),
                v => format!("set vlan {v} proto {proto} qos {qos}"),
            }),
        3 => vid().prop_map(|v| format!("vlan add {v}")),
        1 => vid().prop_map(|v| format!("vlan del {v}")),
        2 => any_mac().prop_map(|m| format!("mac add {m}")),
        2 => (any_mac(), vid()).prop_map(|(m, v)| format!("mac add {m} vlan {v}")),
        1 => any_mac().prop_map(|m| format!("mac del {m}")),
        1 => any_mac().prop_map(|m| format!("set mac {m}")),
        3 => select(vec!["on", "off"]).prop_map(|s| format!("set spoofchk {s}")),
        3 => select(vec!["on", "on", "off"]).prop_map(|s| format!("set trust {s}")),
        1 => select(vec!["new", "1 equal 2", "1 delete"]).prop_map(|op| format!("rss context {op}")),
        2 => select(vec!["+PROMISCUOUS", "+ALL_MULTICAST,-UNICAST", "-MULTICAST,-BROADCAST", "+CHANGE_MAC", "UNICAST,BROADCAST,MAC_SPOOFING_TX"])
            .prop_map(|p| format!("set privilege {p}")),
        2 => select(vec!["auto", "enable", "disable"]).prop_map(|s| format!("set state {s}")),
        1 => select(vec!["0", "1", "2", "none"]).prop_map(|to| format!("set mirror {to}")),
        2 => select(vec![0, 68, 72, 76, 9216]).prop_map(|mtu| format!("set mtu {mtu}")),
    ];
    prop_oneof![
        12 => (0..VFS, words).prop_map(|(vf, words)| parse(&format!("vf {vf} {words}"))),
        1 => any::<bool>().prop_map(|up| Command::SetLink(vec![LinkSetting::Up(up)])),
        1 => select(vec![68, 72, 9216]).prop_map(|mtu| Command::SetLink(vec![LinkSetting::Mtu(mtu)])),
        2 => select(SwitchMode::ALL.to_vec()).prop_map(Command::SetSwitchMode),
        1 => (any_mac(), select(vec!["", " vlan 10"])).prop_map(|(m, v)| parse(&format!("fdb add {m}{v} self"))),
        8 => any_filter_command(),
    ]
}

fn any_filter_command() -> impl Strategy<Value = Command> {
    let ip4 = || (1u8..4).prop_map(|i| format!("10.0.0.{i}"));
    let ip6 = || (1u8..4).prop_map(|i| format!("fd00::{i}"));
    let port = || 80u16..82;
    let flow = |transport: &'static str, ip: BoxedStrategy<String>| {
        (ip.clone(), port(), proptest::option::of((ip, port()))).prop_map(
            move |(dst, port, remote)| {
                let local = format!("flow-type {transport} dst-ip {dst} dst-port {port}");
                match remote {
                    None => local,
                    Some((src, port)) => format!("{local} src-ip {src} src-port {port}"),
                }
            },
        )
    };
    let station = || prop_oneof![3 => any_mac(), 1 => Just("01:00:5e:00:00:01".to_owned()), 1 => Just(MacAddr::BROADCAST.to_string())];
    let matches = prop_oneof![
        4 => flow("tcp4", ip4().boxed()),
        2 => flow("udp4", ip4().boxed()),
        2 => flow("tcp6", ip6().boxed()),
        3 => station().prop_map(|m| format!("flow-type ether dst {m}")),
        3 => (station(), select(vec![10, 20, 30])).prop_map(|(m, v)| format!("flow-type ether vlan {v} dst {m}")),
        1 => select(vec!["0x800", "0x86dd", "0x8100"]).prop_map(|p| format!("flow-type ether proto {p}")),
        2 => select(vec!["unicast", "multicast"]).prop_map(|u| format!("flow-type ether dst unknown-{u}")),
    ];
    let matches = prop_oneof![3 => matches.boxed(), 2 => any_fields()].boxed();
    let priority = select(vec!["", " priority hint", " priority required"]);
    let action = prop_oneof![
        1 => Just("action drop".to_owned()),
        3 => (0..VFS).prop_map(|vf| format!("vf {vf}")),
        1 => (0..VFS, 0u8..4).prop_map(|(vf, queue)| format!("vf {vf} action {queue}")),
        1 => (0..VFS).prop_map(|vf| format!("vf {vf} context 1")),
        1 => (0..VFS).prop_map(|vf| format!("mirror {vf}")),
        2 => Just("action mediated".to_owned()),
    ];
    let sender = || prop_oneof![1 => Just("egress".to_owned()), 3 => (0..VFS).prop_map(|vf| format!("egress vf {vf}"))];
    let source = (any_mac(), select(vec!["", " vlan 10", " vlan 20"]))
        .prop_map(|(mac, vlan)| format!("flow-type ether src {mac}{vlan}"));
    let sent = (sender(), prop_oneof![source.boxed(), any_fields()])
        .prop_map(|(s, m)| format!("{s} {m}"))
        .boxed();
    let verdict = select(vec!["pass", "drop"]);
    prop_oneof![
        20 => (matches.clone(), action, priority.clone())
            .prop_map(|(m, a, p)| parse(&format!("filter add {m} {a}{p}"))),
        6 => (sent.clone(), verdict, priority.clone())
            .prop_map(|(m, a, p)| parse(&format!("filter add {m} action {a}{p}"))),
        1 => (sent, priority.clone()).prop_map(|(m, p)| parse(&format!("filter del {m}{p}"))),
        4 => (matches, priority).prop_map(|(m, p)| parse(&format!("filter del {m}{p}"))),
        1 => Just(Command::FlushFilters),
    ]
}

/// Words for any fields of frames, alone or together.
fn any_fields() -> BoxedStrategy<String> {
    let some = |words: BoxedStrategy<String>| proptest::option::of(words);
    let of = |key: &'static str, values: Vec<&'static str>| {
        some(
            select(values)
                .prop_map(move |value| format!(" {key} {value}"))
                .boxed(),
        )
    };
    let masks = || select(vec!["", " m 00:00:00:00:00:01", " m fe:ff:ff:ff:ff:ff"]);
    let mac = move |key: &'static str| {
        some(
            (any_mac(), masks())
                .prop_map(move |(mac, mask)| format!(" {key} {mac}{mask}"))
                .boxed(),
        )
    };
    let vlans = vec!["10", "20", "20 vlan-etype 0x88a8", "10 vlan-etype 0x9100"];
    let link = (of("vlan", vlans), of("inner-vlan", vec!["10", "20"]));
    let ether = (mac("dst"), mac("src"), of("proto", vec!["0x800", "0x86dd"])).prop_map(
        |(dst, src, proto)| {
            format!(
                "flow-type ether{}",
                [dst, src, proto].map(Option::unwrap_or_default).concat()
            )
        },
    );
    let ips = |key| {
        of(
            key,
            vec!["10.0.0.1", "10.0.0.2/31", "10.0.0.0/8", "10.0.0.2"],
        )
    };
    let packet = (
        select(vec!["ip4", "tcp4", "udp4", "sctp4", "tcp6"]),
        ips("dst-ip"),
        ips("src-ip"),
        (
            of("dst-port", vec!["80", "81"]),
            of("src-port", vec!["80", "81"]),
        ),
        of("l4proto", vec!["1", "6", "17"]),
        mac("dst-mac"),
    )
        .prop_map(|(flow_type, dst, src, (to, from), protocol, mac)| {
            let is_ip = flow_type == "ip4";
            let v4 = |ip: Option<String>| match (flow_type, ip) {
                ("tcp6", Some(ip)) => Some(
                    ip.replace("10.0.0.", "fd00::")
                        .replace("/8", "/16")
                        .replace("/31", "/127"),
                ),
                (_, ip) => ip,
            };
            let l4 = [
                to.filter(|_| !is_ip),
                from.filter(|_| !is_ip),
                protocol.filter(|_| is_ip),
            ];
            let all = [v4(dst), v4(src), mac].into_iter().chain(l4).flatten();
            format!("flow-type {flow_type}{}", all.collect::<String>())
        });
    (prop_oneof![ether, packet], link)
        .prop_map(|(words, (vlan, inner))| {
            let link = [vlan, inner].map(Option::unwrap_or_default);
            format!("{words}{}", link.concat())
        })
        .prop_filter("no field", |words| words != "flow-type ether")
        .boxed()
}

fn group(i: u32) -> MacAddr {
    MacAddr([1, 0, 0x5e, 0, 0, 0]).offset(i)
}

fn any_group() -> impl Strategy<Value = MacAddr> {
    (0u32..3).prop_map(group)
}

fn any_driver_action() -> impl Strategy<Value = DriverAction> {
    select(vec![
        DriverAction::Receive,
        DriverAction::Drop,
        DriverAction::Queue(1),
    ])
}

/// Numbers below `of`, some of them and in any order.
fn any_list(of: u32, len: std::ops::Range<usize>) -> impl Strategy<Value = Vec<u32>> {
    prop::sample::subsequence((0..of).collect::<Vec<_>>(), len).prop_shuffle()
}

fn any_request() -> impl Strategy<Value = VfRequest> {
    let mac = || (0..VFS + 6).prop_map(|i| BASE.offset(i.into()));
    let vid = || select(vec![10, 20, 30]).prop_map(|vid| Vid::new(vid).unwrap());
    let mode = vec(any::<bool>(), 6).prop_map(|flags| RxMode {
        promisc: flags[0],
        allmulti: flags[1],
        alluni: flags[2],
        nomulti: flags[3] && flags[0],
        nouni: flags[4] && flags[1],
        nobcast: flags[5],
    });
    prop_oneof![
        2 => any::<(bool, bool)>().prop_map(|(lists_groups, lists_vlans)| VfRequest::Reset {
            lists_groups,
            lists_vlans,
        }),
        2 => mac().prop_map(VfRequest::Mac),
        1 => select(vec![68, 76]).prop_map(|mtu| VfRequest::Mtu(Mtu::new(mtu).unwrap())),
        3 => mode.prop_map(VfRequest::RxMode),
        3 => (vec(mac(), 0..4), vec(any_group(), 0..4)).prop_map(|(unicast, multicast)| {
            VfRequest::MacTable { unicast, multicast }
        }),
        // More than fit, in any order: which are in force depends on it.
        1 => (any_list(40, 0..24), any_list(36, 0..36)).prop_map(|(stations, groups)| {
            VfRequest::MacTable {
                unicast: stations.into_iter().map(|i| BASE.offset(i)).collect(),
                multicast: groups.into_iter().map(group).collect(),
            }
        }),
        2 => vec(any_group().prop_map(GroupHash::of), 0..40).prop_map(VfRequest::GroupHashes),
        3 => vid().prop_map(VfRequest::VlanAdd),
        1 => vid().prop_map(VfRequest::VlanDel),
        2 => vec((vid(), any::<bool>()), 0..4).prop_map(|all| {
            let all = all.into_iter().map(|(vid, multicast)| UnknownIn { vid, multicast });
            VfRequest::UnknownIn(all.collect())
        }),
    ]
}

fn any_act() -> impl Strategy<Value = Act> {
    prop_oneof![
        any_command().prop_map(Act::Admin),
        (0..VFS, any_request()).prop_map(|(vf, request)| Act::Driver(VfIndex(vf), request)),
    ]
}

fn any_change() -> impl Strategy<Value = Act> {
    prop_oneof![any_act(), any_filter_command().prop_map(Act::Admin)]
}

fn any_paths() -> impl Strategy<Value = Vec<Path>> {
    let all = vec![Path::Direct, Path::Mediated, Path::Auto];
    vec(select(all), usize::from(VFS))
}

fn any_source() -> impl Strategy<Value = Source> {
    prop_oneof![
        4 => (0..VFS).prop_map(|vf| Source::Vf(VfIndex(vf))),
        1 => Just(Source::Wire),
    ]
}

fn any_frame() -> impl Strategy<Value = Vec<u8>> {
    let known = || (0..VFS + 6).prop_map(|i| BASE.offset(i.into()));
    let group = select(vec![
        MacAddr::BROADCAST,
        MacAddr([1, 0, 0x5e, 0, 0, 1]),
        MacAddr([1, 0, 0x5e, 0, 0, 2]),
        MacAddr([1, 0x80, 0xc2, 0, 0, 0x0e]),
    ]);
    let tag = (
        select(vec![0x8100u16, 0x8100, 0x88a8, 0x9100]),
        select(vec![0u16, 10, 20, 30, 4095]),
        0u16..16,
    );
    let tags = prop_oneof![3 => Just(Vec::new()), 2 => vec(tag, 1..4)];
    let to = prop_oneof![3 => known(), 2 => group];
    (to, known(), tags, any_packet()).prop_map(|(dst, src, tags, packet)| {
        let mut frame = [dst.0, src.0].concat();
        for (tpid, vid, high) in tags {
            frame.extend(tpid.to_be_bytes());
            frame.extend((high << 12 | vid).to_be_bytes());
        }
        frame.extend(packet);
        frame.resize(frame.len().max(60), 0x5a);
        frame
    })
}

/// A type and what it announces: a flow, a fragment of one, or nothing known.
fn any_packet() -> impl Strategy<Value = Vec<u8>> {
    let ends = || (1u8..4, 1u8..4, 80u16..82, 80u16..82);
    let protocol = || select(vec![6u8, 6, 17, 1, 132]);
    let v4 = (ends(), protocol(), any::<bool>()).prop_map(|((src, dst, from, to), l4, whole)| {
        let mut packet = vec![
            8,
            0,
            0x45,
            0,
            0,
            40,
            0,
            0,
            u8::from(!whole) << 5,
            0,
            64,
            l4,
            0,
            0,
        ];
        packet.extend([10, 0, 0, src, 10, 0, 0, dst]);
        packet.extend(from.to_be_bytes());
        packet.extend(to.to_be_bytes());
        packet
    });
    let v6 = (ends(), protocol()).prop_map(|((src, dst, from, to), l4)| {
        let mut packet = vec![0x86, 0xdd, 0x60, 0, 0, 0, 0, 20, l4, 64];
        for last in [src, dst] {
            packet.extend([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, last]);
        }
        packet.extend(from.to_be_bytes());
        packet.extend(to.to_be_bytes());
        packet
    });
    prop_oneof![2 => Just(vec![8, 0]), 3 => v4, 1 => v6]
}

/// Time between frames; bridges forget after 300 s.
fn any_gap() -> impl Strategy<Value = Nanos> {
    select(vec![0, 0, 0, 1, 299, 300]).prop_map(|s| Nanos(s * 1_000_000_000))
}

/// A frame whose sender owns its source address, so that most of them get past the checks.
fn any_traffic() -> impl Strategy<Value = (Source, Vec<u8>)> {
    (any_source(), any_frame(), any::<bool>()).prop_map(|(source, mut frame, own)| {
        if let (Source::Vf(vf), true) = (source, own) {
            frame[6..12].copy_from_slice(&BASE.offset(vf.0.into()).0);
        }
        (source, frame)
    })
}

fn frame(dst: u32, src: u32) -> Vec<u8> {
    let mut frame = [BASE.offset(dst).0, BASE.offset(src).0].concat();
    frame.extend([8, 0]);
    frame.resize(60, 0x5a);
    frame
}

/// VF 2 may spoof and says that it has the addresses of VF 1 and of a station on the wire.
#[test]
fn a_learned_address_takes_nothing_from_its_owner() {
    let free = parse("vf 2 set spoofchk off");
    let mut host = Host::new(&[free.into()], &[Path::Mediated; VFS as usize]);
    let bridge = |host: &Host| host.hypervisor.bridge().stats(host.now);
    host.send(Source::Vf(VfIndex(1)), &frame(0, 1));
    host.send(Source::Wire, &frame(0, 9));
    assert_eq!((bridge(&host).learned, bridge(&host).overruled), (2, 0));
    for stolen in [1, 9] {
        host.send(Source::Vf(VfIndex(2)), &frame(0, stolen));
        let learned = host.hypervisor.bridge().entries(host.now);
        let at: Vec<_> = learned.filter(|e| e.mac == BASE.offset(stolen)).collect();
        assert_eq!(at[0].port, BridgePort::Vif(VfIndex(2)), "for all to see");
    }
    assert_eq!(bridge(&host).moved, 2);
    assert_eq!(
        bridge(&host).floods,
        0,
        "VF 0 has not been heard yet, and is the only one that takes them"
    );
    let outcome = host.send(Source::Vf(VfIndex(0)), &frame(1, 0));
    assert_eq!(outcome.vfs.into_keys().collect::<Vec<_>>(), [1]);
    let outcome = host.send(Source::Vf(VfIndex(0)), &frame(9, 0));
    assert!(outcome.vfs.is_empty() && outcome.wire.is_some());
    assert_eq!(bridge(&host).overruled, 2);
    host.send(Source::Vf(VfIndex(1)), &frame(0, 1));
    host.send(Source::Vf(VfIndex(0)), &frame(1, 0));
    assert_eq!(bridge(&host).overruled, 2, "heard where it belongs again");
    assert_eq!(bridge(&host).floods, 0);
    host.send(
        Source::Vf(VfIndex(0)),
        &[&MacAddr::BROADCAST.0[..], &frame(1, 0)[6..]].concat(),
    );
    assert_eq!(bridge(&host).floods, 1, "to all others and the wire");
}

/// A bridge in a guest, whose stations speak through its VF. The hypervisor's bridge hears where they are; what they get is what the
/// VF's filters say, on either path.
#[test]
fn a_station_behind_a_vf_gets_what_the_vfs_filters_say_on_either_path() {
    for paths in [[Path::Direct; 4], [Path::Mediated; 4]] {
        let acts = ["vf 1 set spoofchk off", "vf 1 set trust on"].map(|words| parse(words).into());
        let mut host = Host::new(&acts, &paths);
        let station = BASE.offset(77);
        host.send(Source::Vf(VfIndex(1)), &frame(0, 77));
        let heard = host
            .hypervisor
            .bridge()
            .entries(host.now)
            .find(|entry| entry.mac == station);
        assert_eq!(heard.is_some(), paths[1] == Path::Mediated);
        let outcome = host.send(Source::Vf(VfIndex(0)), &frame(77, 0));
        assert!(
            outcome.vfs.is_empty() && outcome.wire.is_some(),
            "as the NIC's switch has it"
        );
        host.act(&parse(&format!("vf 1 mac add {station}")).into())
            .unwrap();
        let outcome = host.send(Source::Vf(VfIndex(0)), &frame(77, 0));
        assert_eq!(outcome.vfs.into_keys().collect::<Vec<_>>(), [1]);
        assert!(outcome.wire.is_none());
        let stats = host.hypervisor.bridge().stats(host.now);
        assert_eq!(
            stats.overruled,
            u64::from(paths[1] == Path::Mediated),
            "before it was named"
        );
        assert_eq!(stats.floods, 0);
    }
}

/// A NIC without a switch sends to the wire only. What guests of its host send each other is the hypervisor's to deliver,
/// whichever path they are on, and no filter of the NIC sees it.
#[test]
fn guests_of_a_host_talk_over_the_hypervisor_where_the_nic_has_no_switch() {
    let both = || [Path::Direct, Path::Mediated].into_iter();
    let paths = both().flat_map(|a| both().map(move |b| [a, b]));
    for (profile, paths) in [Profile::Falcon, Profile::Siena]
        .into_iter()
        .flat_map(|p| paths.clone().map(move |b| (p, b)))
    {
        let mut host = Host::like(profile, &[], &paths);
        let (vf0, vf1) = (VfIndex(0), VfIndex(1));
        let drop = "filter add flow-type tcp4 dst-ip 10.0.0.9 dst-port 80 action drop";
        host.act(&parse(drop).into()).unwrap();
        for (dst, here) in [
            (BASE.offset(1), true),
            (BASE.offset(77), false),
            (MacAddr::BROADCAST, true),
        ] {
            let frame = flow_frame(dst, BASE);
            let verdict =
                host.nic
                    .clone()
                    .ingress(host.now, Source::Vf(vf0), &frame, &meta(&frame, 0));
            if paths[0] == Path::Direct {
                assert!(verdict.vfs.is_empty(), "the NIC switches nothing");
                assert_eq!((verdict.pf, verdict.beyond.contains(vf1)), (here, here));
            }
            let outcome = host.send(Source::Vf(vf0), &frame);
            assert_eq!(
                outcome.vfs.contains_key(&1),
                here,
                "{profile} {paths:?} {dst}"
            );
            assert!(!outcome.vfs.contains_key(&0));
            assert_eq!(outcome.wire.is_some(), dst != BASE.offset(1));
        }
        let outcome = host.send(Source::Wire, &flow_frame(BASE.offset(1), BASE.offset(9)));
        assert_eq!(outcome.drops, [DropReason::Filtered], "this the NIC sees");
    }
}

/// A guest in a port VLAN has a world of VLANs of its own inside it: 802.1ad on every NIC, and double 802.1Q where the family
/// does it. A tag that carries a priority only is in the port VLAN like no tag at all.
#[test]
fn the_guests_own_tags_pass_inside_its_port_vlan() {
    let tags_of = |bytes: &[u8]| {
        let header = Header::parse(bytes).unwrap();
        header
            .tags
            .as_slice()
            .iter()
            .map(|tag| (tag.tpid, tag.vid()))
            .collect::<Vec<_>>()
    };
    for (profile, proto) in
        Profile::all().flat_map(|p| ["802.1Q", "802.1ad"].map(|proto| (p, proto)))
    {
        let ports = (0..2).map(|vf| parse(&format!("vf {vf} set vlan 100 proto {proto}")).into());
        let acts: Vec<Act> = ports.collect();
        let Ok(()) = Host::like(profile, &[], &[]).act(&acts[0]) else {
            continue; // its drivers have no such port VLAN
        };
        let tpid = if proto == "802.1Q" { 0x8100 } else { 0x88a8 };
        let one_tag = matches!(profile, Profile::Igb | Profile::Ixgbe);
        let stacks = !one_tag || proto == "802.1ad";
        for paths in [[Path::Direct; 4], [Path::Mediated; 4]] {
            let mut host = Host::like(profile, &acts, &paths);
            for own in [
                None,
                Some((0u16, 5u16)),
                Some((30, 0)),
                Some((100, 0)),
                Some((200, 3)),
            ] {
                let mut sent = frame(0, 0);
                sent[..6].copy_from_slice(&MacAddr::BROADCAST.0);
                if let Some((vid, priority)) = own {
                    let [a, b] = (priority << 13 | vid).to_be_bytes();
                    sent.splice(12..12, [0x81, 0, a, b]);
                }
                let what = format!("{profile} {proto} {own:?}");
                let inside = tags_of(&sent);
                let passes = stacks || own.is_none_or(|(vid, _)| vid == 0);
                let outcome = host.send(Source::Vf(VfIndex(0)), &sent);
                if !passes {
                    assert_eq!(outcome.drops, [DropReason::TaggedOnPortVlan], "{what}");
                    continue;
                }
                // The sibling in the port VLAN gets what was sent, the wire and the trunks see the tag in front.
                let on_wire = outcome.wire.unwrap();
                assert_eq!(outcome.vfs[&1], sent, "{what}");
                assert_eq!(outcome.vfs[&2], on_wire, "{what}");
                assert_eq!(
                    tags_of(&on_wire),
                    [&[(tpid, 100)], &inside[..]].concat(),
                    "{what}"
                );
                // And back.
                let outcome = host.send(Source::Wire, &on_wire);
                assert_eq!(outcome.vfs[&0], sent, "{what}");
            }
        }
    }
}

/// Filters of every kind that match a frame to `dst` of [`flow_frame`].
fn filters_on(dst: MacAddr) -> Vec<String> {
    let local = "flow-type tcp4 dst-ip 10.0.0.9 dst-port 80";
    let mut matches = vec![
        local.to_owned(),
        format!("{local} src-ip 10.0.0.2 src-port 5000"),
        format!("flow-type ether dst {dst}"),
        format!("flow-type ether dst {dst} vlan 10"),
        "flow-type ether proto 0x800".to_owned(),
    ];
    if dst.is_multicast() && !dst.is_broadcast() {
        matches.push("flow-type ether dst unknown-multicast".to_owned());
    }
    matches
}

/// A segment of a TCP flow to 10.0.0.9, port 80, in VLAN 10 as 802.1Q has it.
fn flow_frame(dst: MacAddr, src: MacAddr) -> Vec<u8> {
    let mut frame = [dst.0, src.0].concat();
    frame.extend([
        0x81, 0, 0, 10, 8, 0, 0x45, 0, 0, 40, 0, 0, 0, 0, 64, 6, 0, 0,
    ]);
    frame.extend([10, 0, 0, 2, 10, 0, 0, 9, 0x13, 0x88, 0, 80]);
    frame.resize(64, 0);
    frame
}

/// A filter judges what is received. A VF that talks to somebody beyond the wire does not notice it, whatever the filter
/// matches and says; between VFs of the NIC, the receiver's side is filtered; of a frame to a group both happen.
#[test]
fn a_receive_filter_says_nothing_about_what_a_vf_sends() {
    let paths = [[Path::Direct; 4], [Path::Mediated; 4]];
    let profiles = Profile::all().filter(|p| !matches!(p, Profile::Falcon | Profile::Siena));
    for (profile, paths) in profiles.flat_map(|p| paths.map(|paths| (p, paths))) {
        for dst in [
            BASE.offset(77),
            BASE.offset(2),
            MacAddr::BROADCAST,
            MacAddr([1, 0, 0x5e, 0, 0, 1]),
        ] {
            for (matches, action) in filters_on(dst)
                .into_iter()
                .flat_map(|m| ["action drop", "vf 1", "vf 0"].map(|a| (m.clone(), a)))
            {
                let mut host = Host::like(profile, &[], &paths);
                let add = parse(&format!("filter add {matches} {action}"));
                if host.act(&add.into()).is_err() {
                    continue; // not a filter of this family
                }
                let outcome = host.send(Source::Vf(VfIndex(0)), &flow_frame(dst, BASE));
                let (known, group) = (dst == BASE.offset(2), dst.is_multicast());
                let expected: &[u8] = match action {
                    _ if !known && !group => &[],
                    "vf 1" => &[1],
                    "action drop" => &[],
                    _ if group => &[1, 2, 3],
                    _ => &[2],
                };
                let what = format!("{profile} {matches} {action}");
                assert_eq!(
                    outcome.vfs.keys().copied().collect::<Vec<_>>(),
                    expected,
                    "{what}"
                );
                assert_eq!(outcome.wire.is_some(), !known, "{what}");
                // From the wire it is received by nobody else.
                let outcome = host.send(Source::Wire, &flow_frame(dst, BASE.offset(9)));
                let expected: &[u8] = match action {
                    "action drop" => &[],
                    "vf 1" => &[1],
                    _ => &[0],
                };
                assert_eq!(
                    outcome.vfs.keys().copied().collect::<Vec<_>>(),
                    expected,
                    "{what}"
                );
            }
        }
    }
}

#[test]
fn a_vf_that_leaves_the_bridge_is_forgotten() {
    let mut host = Host::new(&[], &[Path::Mediated; VFS as usize]);
    host.send(Source::Vf(VfIndex(1)), &frame(0, 1));
    host.set_paths(&[Path::Mediated, Path::Direct]);
    assert_eq!(host.hypervisor.bridge().entries(host.now).count(), 0);
    assert_eq!(host.hypervisor.bridge().stats(host.now).flushed, 1);
    host.send(Source::Vf(VfIndex(1)), &frame(0, 1));
    let learned: Vec<_> = host.hypervisor.bridge().entries(host.now).collect();
    assert_eq!((learned.len(), learned[0].port), (1, BridgePort::Pf));
}

#[test]
fn a_train_of_frames_is_known_by_its_first() {
    let mut host = Host::new(&[], &[Path::Direct; 4]);
    let (vf, to) = (VfIndex(0), VfIndex(1));
    let (frame, beyond) = (frame(1, 0), frame(77, 0));
    let meta = meta(&frame, 0);
    let again = |host: &mut Host, frame: &[u8]| {
        host.nic
            .ingress_again(host.now, Source::Vf(vf), frame, &meta)
    };
    let hop = |to| Some(Hop { to, insert: None });
    assert_eq!(again(&mut host, &frame), None, "not before it was judged");
    for frame in [&frame, &beyond] {
        host.nic.ingress(host.now, Source::Vf(vf), frame, &meta);
    }
    assert_eq!(again(&mut host, &frame), hop(To::Vf(to)));
    assert_eq!(again(&mut host, &beyond), hop(To::Wire));
    assert_eq!(host.nic.wire_counters().tx_packets, 2);
    assert_eq!(again(&mut host, &frame), hop(To::Vf(to)));
    assert_eq!(host.nic.counters(vf).tx_packets, 5);
    let settings = vec![VfSetting::Path(Path::Mediated)];
    host.act(
        &Command::SetVf {
            vfs: to.into(),
            settings,
        }
        .into(),
    )
    .unwrap();
    assert_eq!(again(&mut host, &frame), None, "it no longer holds");
}

#[test]
fn a_limit_goes_on_whatever_else_changes() {
    for path in [Path::Direct, Path::Mediated, Path::Auto] {
        let mut host = Host::new(&[], &[path]);
        let vf = VfIndex(0);
        let ready = |host: &Host| match path {
            Path::Mediated => host.hypervisor.tx_ready_at(vf, host.now),
            _ => host.nic.tx_ready_at(vf, host.now),
        };
        host.act(&parse("vf 0 set max_tx_rate 1").into()).unwrap();
        for _ in 0..10 {
            host.send(Source::Vf(vf), &frame(1, 0));
        }
        let held = ready(&host);
        assert!(held > host.now);
        for words in [
            "vf 0 set trust on",
            "vf 1 set max_tx_rate 5",
            "filter add flow-type ether proto 0x88b5 vf 1",
        ] {
            host.act(&parse(words).into()).unwrap();
            assert_eq!(ready(&host), held, "{words}");
        }
        // Neither another rate nor another path lends it anything, however often they change.
        for rate in [2, 1] {
            host.act(&parse(&format!("vf 0 set max_tx_rate {rate}")).into())
                .unwrap();
            // The last frame takes its time at the new rate: 84 byte times, half as long at twice the rate.
            let sooner = Nanos(84 * 8000 - 84 * 8000 / rate);
            assert_eq!(ready(&host) + sooner, held, "{rate}");
        }
        for other in [Path::Mediated, Path::Direct, Path::Auto, path] {
            host.set_paths(&[other]);
            let ready = match other {
                Path::Mediated => host.hypervisor.tx_ready_at(vf, host.now),
                _ => host.nic.tx_ready_at(vf, host.now),
            };
            assert_eq!(ready, held, "{other}");
        }
        host.act(&parse("vf 0 set max_tx_rate 0").into()).unwrap();
        assert_eq!(ready(&host), host.now, "no limit, nothing held");
    }
}

#[test]
fn the_spoof_check_is_of_address_and_vlan_together_and_off_is_off() {
    let tagged = |vid: u8, src: u32| {
        let mut frame = frame(77, src);
        frame.splice(12..12, [0x81, 0, 0, vid]);
        frame
    };
    let acts: Vec<Act> = [
        "vf 0 mac add 02:00:00:00:00:09 vlan 20",
        "vf 0 vlan add 20",
        "vf 0 vlan add 30",
    ]
    .map(|words| parse(words).into())
    .into();
    for path in [Path::Direct, Path::Mediated] {
        let mut host = Host::new(&acts, &[path]);
        let sent = |host: &mut Host, frame: &[u8]| host.send(Source::Vf(VfIndex(0)), frame).drops;
        assert_eq!(sent(&mut host, &tagged(20, 9)), []);
        assert_eq!(sent(&mut host, &tagged(30, 9)), [DropReason::SpoofedMac]);
        assert_eq!(sent(&mut host, &frame(77, 9)), [DropReason::SpoofedMac]);
        assert_eq!(sent(&mut host, &tagged(30, 0)), []);
        assert_eq!(sent(&mut host, &tagged(40, 0)), [DropReason::VlanFiltered]);
        host.act(&parse("vf 0 set spoofchk off").into()).unwrap();
        for frame in [tagged(30, 9), tagged(40, 0), tagged(40, 9), frame(77, 9)] {
            assert_eq!(sent(&mut host, &frame), []);
        }
    }
}

/// C.3 #1 of what users report: a guest on a Linux bridge over the PF and a guest on a VF of the same port cannot talk.
#[test]
fn a_station_behind_the_pf_hears_a_vf_once_the_switch_is_told_of_it() {
    let (vf, station) = (VfIndex(0), VfIndex(1));
    let from = |source: VfIndex| Source::Vf(source);
    for path in [Path::Direct, Path::Mediated] {
        let mut host = Host::new(&[parse("vf 1 set bridge on").into()], &[path]);
        let reached = |outcome: &Outcome| {
            let vfs = outcome.vfs.keys().copied().collect::<Vec<_>>();
            (vfs, outcome.wire.is_some())
        };
        let mut broadcast = frame(0, 0);
        broadcast[..6].copy_from_slice(&MacAddr::BROADCAST.0);
        // Its ARP request is heard everywhere, and the answer finds the VF, whose address the NIC knows.
        assert_eq!(
            reached(&host.send(from(vf), &broadcast)),
            (vec![1, 2, 3], true)
        );
        assert_eq!(
            reached(&host.send(from(station), &frame(0, 1))),
            (vec![0], false)
        );
        // What it sends then goes to the wire, and a station beyond it is heard by both.
        let to_station = frame(1, 0);
        assert_eq!(reached(&host.send(from(vf), &to_station)), (vec![], true));
        assert_eq!(
            reached(&host.send(Source::Wire, &frame(1, 9))),
            (vec![1], false)
        );
        host.act(&parse(&format!("fdb add {} self", BASE.offset(1))).into())
            .unwrap();
        assert_eq!(reached(&host.send(from(vf), &to_station)), (vec![1], false));
        // Or the adjacent bridge gives it back.
        host.act(&parse(&format!("fdb del {} self", BASE.offset(1))).into())
            .unwrap();
        host.act(&parse("link set hwmode vepa").into()).unwrap();
        assert_eq!(reached(&host.send(from(vf), &to_station)), (vec![], true));
        assert_eq!(
            reached(&host.send(Source::Wire, &to_station)),
            (vec![1], false)
        );
    }
}

/// The bridge learns which of its stations has an address; the NIC has been told of neither.
#[test]
fn stations_on_a_bridge_reach_each_other_without_the_nic() {
    let on = ["vf 2 set bridge on", "vf 3 set bridge on"].map(|words| parse(words).into());
    let mut host = Host::new(&on, &[]);
    let station = |n: u8| Source::Vf(VfIndex(n));
    let mut broadcast = frame(0, 3);
    broadcast[..6].copy_from_slice(&MacAddr::BROADCAST.0);
    assert_eq!(host.send(station(3), &broadcast).vfs.len(), 3);
    let learned = host.send(station(2), &frame(3, 2));
    assert_eq!(
        (learned.vfs.keys().collect::<Vec<_>>(), learned.wire),
        (vec![&3], None)
    );
    // Once it is heard from beyond the port, it is not given back there, nor to those it is not at.
    assert_eq!(host.send(Source::Wire, &frame(77, 3)).vfs.len(), 2);
    let gone = host.send(Source::Wire, &frame(3, 9));
    assert_eq!(
        (gone.vfs.len(), gone.drops),
        (0, vec![DropReason::NoReceiver])
    );
}

/// ixgbe_set_vf_macvlan_msg ends anti-spoofing for a VF that it gives a filter to, while `ip link` goes on to show it as on.
#[test]
fn a_vf_of_ixgbe_with_further_addresses_may_send_from_any() {
    for (profile, passes) in [(Profile::Ixgbe, true), (Profile::I40e, false)] {
        let mut host = Host::like(profile, &[], &[]);
        let spoofed = |host: &mut Host| host.send(Source::Vf(VfIndex(0)), &frame(1, 99)).drops;
        assert_eq!(spoofed(&mut host), [DropReason::SpoofedMac]);
        let table = VfRequest::MacTable {
            unicast: vec![BASE.offset(50)],
            multicast: Vec::new(),
        };
        host.act(&Act::Driver(VfIndex(0), table)).unwrap();
        assert_eq!(spoofed(&mut host).is_empty(), passes, "{profile}");
        assert!(host.policy.vf(VfIndex(0)).spoofchk, "what is shown");
    }
}

#[test]
fn hwmode_decides_what_passes_the_port() {
    for (mode, link, from_vf, from_wire) in [
        ("veb", "up", (true, false), true),
        ("veb", "down", (false, false), false),
        ("vepa", "up", (false, true), true),
        ("vepa", "down", (false, false), false),
        ("floating", "up", (true, false), false),
        ("floating", "down", (true, false), false),
    ] {
        for paths in [[Path::Direct; 4], [Path::Mediated; 4]] {
            let words = [
                format!("link set hwmode {mode}"),
                format!("link set {link}"),
            ];
            let acts: Vec<Act> = words.iter().map(|words| parse(words).into()).collect();
            let mut host = Host::new(&acts, &paths);
            let sent = host.send(Source::Vf(VfIndex(0)), &frame(1, 0));
            let what = format!("{mode} {link} {paths:?}");
            assert_eq!(
                (!sent.vfs.is_empty(), sent.wire.is_some()),
                from_vf,
                "{what}"
            );
            let came = host.send(Source::Wire, &frame(1, 9));
            assert_eq!(!came.vfs.is_empty(), from_wire, "{what}");
        }
    }
    let host = |profile| Host::like(profile, &[], &[]);
    let refused = host(Profile::Ixgbe).act(&parse("link set hwmode floating").into());
    let says = refused.unwrap_err().to_string();
    assert!(
        says.starts_with("hwmode floating: ixgbe has veb, vepa"),
        "{says}"
    );
    assert!(
        host(Profile::Siena)
            .act(&parse("link set hwmode veb").into())
            .is_err()
    );
    assert_eq!(host(Profile::Siena).policy.switch_mode(), SwitchMode::None);
}

#[test]
fn what_the_adjacent_bridge_reflects_is_kept_from_its_sender() {
    let mut broadcast = frame(0, 0);
    broadcast[..6].copy_from_slice(&MacAddr::BROADCAST.0);
    for (mode, heard) in [("vepa", vec![1, 2, 3]), ("veb", vec![0, 1, 2, 3])] {
        let mode = parse(&format!("link set hwmode {mode}"));
        let mut host = Host::new(&[mode.into()], &[]);
        let reflected = host.send(Source::Wire, &broadcast);
        assert_eq!(reflected.vfs.into_keys().collect::<Vec<_>>(), heard);
    }
}

/// C.2 #14: what is dropped where it is sent, or reaches nobody, is not mirrored.
#[test]
fn a_mirror_shows_what_passes_and_nothing_else() {
    for paths in [[Path::Direct; 4], [Path::Mediated; 4]] {
        let mut host = Host::new(&[parse("vf 0 set mirror 3").into()], &paths);
        let seen = |outcome: &Outcome| outcome.vfs.contains_key(&3);
        assert!(seen(&host.send(Source::Vf(VfIndex(0)), &frame(1, 0))));
        assert!(seen(&host.send(Source::Vf(VfIndex(1)), &frame(0, 1))));
        assert!(seen(&host.send(Source::Wire, &frame(0, 9))));
        assert!(!seen(&host.send(Source::Vf(VfIndex(1)), &frame(2, 1))));
        assert!(
            !seen(&host.send(Source::Vf(VfIndex(0)), &frame(1, 9))),
            "spoofed"
        );
        host.act(&parse("link set down").into()).unwrap();
        host.act(&parse("vf 0 set state enable").into()).unwrap();
        host.act(&parse("vf 3 set state enable").into()).unwrap();
        assert!(
            !seen(&host.send(Source::Vf(VfIndex(0)), &frame(77, 0))),
            "nowhere"
        );
        for wrong in [
            "vf 0 set mirror 0",
            "vf 0 set mirror 9",
            "vf 3 set vlan 10",
            "vf 3 set bridge on",
        ] {
            assert!(host.act(&parse(wrong).into()).is_err(), "{wrong}");
        }
    }
}

/// The hypervisor, too, forgets what it has said of frames when the policy changes.
#[test]
fn the_mediated_path_forgets_its_verdicts_with_the_policy() {
    let mut host = Host::new(&[], &[Path::Mediated; VFS as usize]);
    let (from, sent) = (Source::Vf(VfIndex(0)), frame(1, 0));
    for _ in 0..2 {
        assert_eq!(host.send(from, &sent).vfs.len(), 1);
    }
    host.act(&parse("vf 1 set vlan 10").into()).unwrap();
    assert!(host.send(from, &sent).vfs.is_empty());
}

/// A station on the PF's bridge is asked for its MTU of the frame as it was sent, whichever path the sender is on: the port VLAN's
/// tag is none of the frame's length, even where it is a third.
#[test]
fn a_station_behind_the_pf_gets_what_fits_it_on_either_path() {
    let acts = ["link set mtu 68", "vf 0 set vlan 10", "vf 3 set bridge on"];
    let acts = acts.map(|words| parse(words).into());
    let mut sent = [MacAddr::BROADCAST.0, BASE.0].concat();
    sent.extend([0x81, 0, 0, 0, 0x81, 0, 0, 0, 8, 0]);
    for (len, fits) in [(22 + 68, true), (22 + 69, false)] {
        sent.resize(len, 0x5a);
        for path in [Path::Direct, Path::Mediated] {
            let mut host = Host::new(&acts, &[path]);
            let outcome = host.send(Source::Vf(VfIndex(0)), &sent);
            assert_eq!(outcome.vfs.contains_key(&3), fits, "{len} {path:?}");
        }
    }
}

/// A filter on what a VF sends stops it wherever it goes, to a sibling as to the wire, and says nothing about what it receives.
#[test]
fn an_egress_filter_judges_what_a_vf_sends_on_either_path() {
    for path in [Path::Direct, Path::Mediated, Path::Auto] {
        let mut host = Host::new(&[], &[path; VFS as usize]);
        for words in [
            "filter add egress flow-type ip4 l4proto 6 action drop",
            "filter add egress vf 2 flow-type ether vlan 10 action pass",
        ] {
            host.act(&parse(words).into()).unwrap();
        }
        for dst in [BASE.offset(1), BASE.offset(77), MacAddr::BROADCAST] {
            let outcome = host.send(Source::Vf(VfIndex(0)), &flow_frame(dst, BASE));
            assert_eq!(outcome.drops, [DropReason::EgressFiltered], "{path} {dst}");
            assert!(outcome.vfs.is_empty() && outcome.wire.is_none());
            // The filter that names the sender goes first, though it looks at less.
            let outcome = host.send(Source::Vf(VfIndex(2)), &flow_frame(dst, BASE.offset(2)));
            assert!(outcome.drops.is_empty(), "{path} {dst}");
        }
        let dropped = host.counters(VfIndex(0)).tx_drops;
        assert_eq!(dropped.get(DropReason::EgressFiltered), 3);
        let back = flow_frame(BASE, BASE.offset(77));
        assert!(host.send(Source::Wire, &back).vfs.contains_key(&0));
    }
}

/// siena's table of source addresses says what a VF may send, for those that have a row in it.
#[test]
fn a_vf_of_siena_with_egress_filters_sends_nothing_else() {
    for path in [Path::Direct, Path::Mediated] {
        let mut host = Host::like(Profile::Siena, &[], &[path; VFS as usize]);
        let drop = "filter add egress vf 0 flow-type ether src 02:00:00:00:00:00 action drop";
        let refused = host.act(&parse(drop).into()).unwrap_err().to_string();
        assert!(refused.contains("say action pass"), "{refused}");
        for words in [
            "vf 0 set spoofchk off",
            "filter add egress vf 0 flow-type ether src 02:00:00:00:00:05 action pass",
        ] {
            host.act(&parse(words).into()).unwrap();
        }
        let mut sent = |vf: u8, src| {
            let source = Source::Vf(VfIndex(vf));
            let outcome = host.send(source, &frame(77, src));
            let why = host
                .policy
                .why(source, &frame(77, src), &meta(&frame(77, src), 0));
            (
                outcome.drops,
                why.steps.contains(&Step::NotListed(VfIndex(0))),
            )
        };
        assert_eq!(sent(0, 5), (vec![], false));
        assert_eq!(sent(0, 0), (vec![DropReason::EgressFiltered], true));
        assert_eq!(sent(1, 1), (vec![], false), "it has no row");
        let del = "filter del egress vf 0 flow-type ether src 02:00:00:00:00:05";
        host.act(&parse(del).into()).unwrap();
        assert!(
            host.send(Source::Vf(VfIndex(0)), &frame(77, 0))
                .drops
                .is_empty()
        );
    }
}

/// A filter that mirrors gives a VF a copy of what it matches and decides nothing: the next one does. What that drops is not copied.
#[test]
fn a_filter_that_mirrors_decides_nothing_and_copies_nothing_that_is_dropped() {
    let mirror = "filter add flow-type tcp4 dst-ip 10.0.0.9 dst-port 80 mirror 3";
    for path in [Path::Direct, Path::Mediated, Path::Auto] {
        let mut host = Host::new(&[parse(mirror).into()], &[path; VFS as usize]);
        let gets = |host: &mut Host, source, dst, src| {
            let sent = flow_frame(dst, src);
            let steps = host.policy.why(source, &sent, &meta(&sent, 0)).steps;
            let asked = steps.iter().any(|step| matches!(step, Step::Copied { .. }));
            let outcome = host.send(source, &sent);
            assert!(explains(&steps, &outcome), "{steps:#?}");
            (outcome.vfs.into_keys().collect::<Vec<_>>(), asked)
        };
        let (wire, sibling) = (Source::Wire, Source::Vf(VfIndex(0)));
        let [far, to] = [BASE.offset(77), BASE.offset(1)];
        assert_eq!(gets(&mut host, wire, to, far), (vec![1, 3], true), "{path}");
        assert_eq!(gets(&mut host, sibling, to, BASE), (vec![1, 3], true));
        // Nobody here receives what leaves on the wire, and what nobody receives is not copied.
        assert_eq!(gets(&mut host, sibling, far, BASE), (vec![], false));
        assert_eq!(gets(&mut host, wire, far, BASE.offset(78)), (vec![], true));
        // The next filter that matches is asked.
        host.act(&parse("filter add flow-type ether proto 0x0800 vf 2").into())
            .unwrap();
        assert_eq!(gets(&mut host, wire, to, far), (vec![2, 3], true));
        host.act(&parse("filter replace flow-type ether proto 0x0800 action drop").into())
            .unwrap();
        assert_eq!(gets(&mut host, wire, to, far), (vec![], true));
        // Passed over where its VF is not in the VLAN.
        host.act(&parse("vf 3 vlan add 20").into()).unwrap();
        assert_eq!(gets(&mut host, wire, to, far), (vec![], false));
    }
    let ef10 = Host::like(Profile::Ef10, &[], &[]).act(&parse(mirror).into());
    assert!(
        ef10.unwrap_err()
            .to_string()
            .contains("no filter of a NIC of profile ef10 does that")
    );
}

/// A filter that says which way a frame takes says nothing of who gets it, on any path, and path `auto` learns nothing from what
/// it has go that way; nor does it count on what it had learned before.
#[test]
fn a_filter_that_hands_frames_up_changes_their_way_and_not_their_receivers() {
    let (vf0, vf1) = (VfIndex(0), VfIndex(1));
    let words = "flow-type tcp4 dst-ip 10.0.0.9 dst-port 80";
    for path in [Path::Direct, Path::Mediated, Path::Auto] {
        for (source, from) in [(Source::Wire, BASE.offset(9)), (Source::Vf(vf0), BASE)] {
            let frame = flow_frame(BASE.offset(1), from);
            let mut host = Host::new(&[], &[path; VFS as usize]);
            let plain = host.send(source, &frame);
            host.send(source, &frame);
            let learned = host.policy.learned_by(vf1).count();
            let fast = path == Path::Auto && source == Source::Wire;
            assert_eq!(learned, usize::from(fast), "{path} {source:?}");
            let before = Arc::clone(&host.policy);
            let hand_up = parse(&format!("filter add {words} action mediated"));
            host.act(&hand_up.into()).unwrap();
            assert!(!host.policy.moves_frames(&before), "nothing gets faster");
            let ingress = |nic: &Nic| {
                let mut nic = nic.clone();
                nic.ingress(Nanos(0), source, &frame, &meta(&frame, 0))
            };
            if path != Path::Mediated {
                let verdict = ingress(&host.nic);
                assert!(verdict.vfs.is_empty() && verdict.pf && !verdict.waits);
                assert!(verdict.beyond.contains(vf1));
            }
            for _ in 0..3 {
                assert_eq!(host.send(source, &frame), plain, "{path} {source:?}");
            }
            // Of this flow nothing is learned while the filter is there.
            assert_eq!(host.policy.learned_by(vf1).count(), 0);
            let steps = host.policy.why(source, &frame, &meta(&frame, 0)).steps;
            let said = |step: &Step| step.to_string().contains("action mediated");
            if path != Path::Mediated || source == Source::Wire {
                assert!(steps.iter().any(said), "{steps:#?}");
            }
            assert!(
                !steps
                    .iter()
                    .any(|step| matches!(step, Step::AutoReceiver { fast: true, .. }))
            );
            // Taken out, it puts the flow on the direct path, behind what is on the other.
            let before = Arc::clone(&host.policy);
            host.act(&parse(&format!("filter del {words}")).into())
                .unwrap();
            assert!(host.policy.moves_frames(&before));
            assert_eq!(host.send(source, &frame), plain);
            if path == Path::Direct {
                assert!(!ingress(&host.nic).pf);
            }
        }
    }
    // A flow that has not been seen before the filter came is not learned, although a filter on it would have a row.
    let mut host = Host::new(&[], &[Path::Auto; VFS as usize]);
    let hand_up = parse("filter add flow-type ether proto 0x800 action mediated");
    host.act(&hand_up.into()).unwrap();
    for _ in 0..3 {
        host.send(Source::Wire, &flow_frame(BASE.offset(1), BASE.offset(9)));
    }
    assert_eq!(host.policy.learned_by(vf1).count(), 0);
}

/// A filter gives a VF frames by a table of queues of its own, and other frames of the VF's go by the VF's own table.
#[test]
fn a_filter_spreads_what_it_matches_by_the_context_that_it_names() {
    let mut host = Host::new(&[], &[Path::Direct; VFS as usize]);
    let vf1 = VfIndex(1);
    for words in [
        "vf 1 rss weight 1",
        "vf 1 rss context new weight 0 0 1 1",
        "filter add flow-type tcp4 dst-ip 10.0.0.9 dst-port 80 vf 1 context 1",
    ] {
        host.act(&parse(words).into()).unwrap();
    }
    let flow = |port: u16, to: u8| {
        let mut frame = flow_frame(BASE.offset(1), BASE.offset(9));
        frame[38..40].copy_from_slice(&port.to_be_bytes());
        frame[41] = to;
        frame
    };
    let queues = |host: &Host, to: u8| -> BTreeSet<u16> {
        (1000..1100)
            .map(|port| host.nic.queue(vf1, &flow(port, to), 4))
            .collect()
    };
    assert_eq!(queues(&host, 80), BTreeSet::from([2, 3]));
    assert_eq!(queues(&host, 81), BTreeSet::from([0]));
    assert_eq!(
        host.hypervisor.queue(vf1, &flow(1000, 80), 4),
        host.nic.queue(vf1, &flow(1000, 80), 4)
    );
    // A filter that names a queue has that one, whatever the tables say.
    let one = "filter add flow-type tcp4 dst-ip 10.0.0.9 dst-port 82 vf 1 action 3";
    host.act(&parse(one).into()).unwrap();
    assert_eq!(queues(&host, 82), BTreeSet::from([3]));
    // A guest that uses fewer has numbers that wrap around.
    assert_eq!(host.nic.queue(vf1, &flow(1000, 80), 1), 0);
    host.act(&parse("vf 1 rss context 1 weight 0 1").into())
        .unwrap();
    assert_eq!(queues(&host, 80), BTreeSet::from([1]));
    let refused =
        |host: &mut Host, words: &str| host.act(&parse(words).into()).unwrap_err().to_string();
    assert!(
        refused(&mut host, "vf 1 rss context 1 delete").contains("in use by filter flow-type tcp4")
    );
    host.act(&parse("filter flush").into()).unwrap();
    host.act(&parse("vf 1 rss context 1 delete").into())
        .unwrap();
    let again = "filter add flow-type tcp4 dst-ip 10.0.0.9 dst-port 80 vf 1 context 1";
    assert!(refused(&mut host, again).contains("context 1: there is none"));
}

/// EF10: what is unknown is unknown in each VLAN for itself, and a filter of a driver on packets takes frames from others with the
/// privilege INSECURE_FILTERS only.
#[test]
fn a_drivers_filter_on_packets_or_on_what_is_unknown_takes_what_its_privileges_allow() {
    let mut host = Host::like(Profile::Ef10, &[], &[Path::Direct; VFS as usize]);
    let vf0 = VfIndex(0);
    let act = |host: &mut Host, words: &str| host.act(&parse(words).into());
    act(&mut host, "vf 0 request reset groups").unwrap();
    let tagged = |vid: u8| {
        let mut frame = flow_frame(BASE.offset(77), BASE.offset(9));
        frame[15] = vid;
        frame
    };
    let gets = |host: &mut Host, frame: &[u8]| host.send(Source::Wire, frame).vfs.contains_key(&0);
    let unknown = "vf 0 request filter add flow-type ether dst unknown-unicast vlan 10";
    assert!(
        act(&mut host, unknown)
            .unwrap_err()
            .to_string()
            .contains("EPERM")
    );
    act(&mut host, "vf 0 privilege +PROMISCUOUS,+ALL_MULTICAST").unwrap();
    act(&mut host, unknown).unwrap();
    assert!(gets(&mut host, &tagged(10)) && !gets(&mut host, &tagged(11)));
    assert!(
        act(&mut host, unknown)
            .unwrap_err()
            .to_string()
            .contains("there already")
    );
    let group = |vid: u8| {
        let mut frame = tagged(vid);
        frame[..6].copy_from_slice(&group(2).0);
        frame
    };
    assert!(!gets(&mut host, &group(10)));
    act(
        &mut host,
        "vf 0 request filter add flow-type ether dst unknown-multicast vlan 10",
    )
    .unwrap();
    assert!(gets(&mut host, &group(10)) && !gets(&mut host, &group(11)));
    // The privilege goes, and what it allowed with it.
    act(&mut host, "vf 0 privilege -PROMISCUOUS,-ALL_MULTICAST").unwrap();
    assert!(!gets(&mut host, &tagged(10)) && !gets(&mut host, &group(10)));
    act(
        &mut host,
        "vf 0 request filter del flow-type ether dst unknown-unicast vlan 10",
    )
    .unwrap();

    let theirs = flow_frame(BASE.offset(1), BASE.offset(9));
    let mine = flow_frame(BASE, BASE.offset(9));
    let packets = "flow-type tcp4 dst-ip 10.0.0.9 dst-port 80";
    act(&mut host, &format!("vf 0 request filter add {packets}")).unwrap();
    assert!(
        !gets(&mut host, &theirs) && gets(&mut host, &mine),
        "auto-qualified"
    );
    assert_eq!(host.policy.filter_table().len(), 0);
    act(&mut host, "vf 0 privilege +INSECURE_FILTERS").unwrap();
    assert!(gets(&mut host, &theirs), "whoever has the address");
    assert_eq!(
        host.policy.saved().filters,
        Vec::<String>::new(),
        "it is the driver's"
    );
    // The administrator's goes before it, and it comes back.
    act(&mut host, &format!("filter add {packets} vf 2")).unwrap();
    assert!(!gets(&mut host, &theirs));
    act(&mut host, &format!("filter del {packets}")).unwrap();
    assert!(gets(&mut host, &theirs));
    // Another's driver has no second one, and nobody else's takes it out.
    act(&mut host, "vf 2 privilege +INSECURE_FILTERS").unwrap();
    let second = act(&mut host, &format!("vf 2 request filter add {packets}"));
    assert!(second.unwrap_err().to_string().contains("is there already"));
    assert!(act(&mut host, &format!("vf 2 request filter del {packets}")).is_err());
    assert!(gets(&mut host, &theirs));
    // It goes with its driver.
    host.act(&Act::Driver(
        vf0,
        VfRequest::Reset {
            lists_groups: true,
            lists_vlans: false,
        },
    ))
    .unwrap();
    assert!(!gets(&mut host, &theirs));
    assert_eq!(host.policy.filter_table().len(), 0);
    act(&mut host, &format!("vf 0 request filter add {packets}")).unwrap();
    act(&mut host, "vf 0 privilege -INSECURE_FILTERS").unwrap();
    assert!(!gets(&mut host, &theirs) && gets(&mut host, &mine));
}

/// `ethtool -N ... action -1` and `action N` in a guest: of what its VF receives, and of nobody else's.
#[test]
fn a_driver_without_privileges_drops_and_steers_what_is_for_its_vf() {
    let mut host = Host::like(Profile::Ef10, &[], &[Path::Direct; VFS as usize]);
    let act = |host: &mut Host, words: &str| host.act(&parse(words).into());
    let (mine, theirs) = (
        flow_frame(BASE, BASE.offset(9)),
        flow_frame(BASE.offset(1), BASE.offset(9)),
    );
    let packets = "flow-type tcp4 dst-ip 10.0.0.9 dst-port 80";
    assert!(host.send(Source::Wire, &mine).vfs.contains_key(&0));
    act(
        &mut host,
        &format!("vf 0 request filter add {packets} action -1"),
    )
    .unwrap();
    let outcome = host.send(Source::Wire, &mine);
    assert!(outcome.vfs.is_empty());
    assert_eq!(outcome.drops, [DropReason::Filtered]);
    assert_eq!(
        host.counters(VfIndex(0)).rx_drops.get(DropReason::Filtered),
        1
    );
    assert!(host.send(Source::Wire, &theirs).vfs.contains_key(&1));
    // What has no port 80 passes, however often the other kind was asked for.
    let mut other = mine.clone();
    let at = other.len() - 1;
    let port = other.windows(2).rposition(|w| w == [0, 80]).unwrap_or(at);
    other[port + 1] = 81;
    assert!(host.send(Source::Wire, &other).vfs.contains_key(&0));
    assert!(host.send(Source::Wire, &mine).vfs.is_empty());
    // By address and by type, too.
    act(
        &mut host,
        "vf 0 request filter add flow-type ether dst 02:00:00:00:00:00 action drop",
    )
    .unwrap();
    assert!(host.send(Source::Wire, &other).vfs.is_empty());
    act(
        &mut host,
        "vf 0 request filter del flow-type ether dst 02:00:00:00:00:00",
    )
    .unwrap();
    assert!(host.send(Source::Wire, &other).vfs.contains_key(&0));
    act(&mut host, &format!("vf 0 request filter del {packets}")).unwrap();
    assert!(host.send(Source::Wire, &mine).vfs.contains_key(&0));

    let queue = |host: &Host, frame: &[u8]| host.nic.queue(VfIndex(0), frame, 4);
    for wanted in 0..4 {
        act(
            &mut host,
            &format!("vf 0 request filter add {packets} action {wanted}"),
        )
        .unwrap();
        assert_eq!(queue(&host, &mine), wanted);
        // The administrator's word goes first.
        act(&mut host, &format!("filter add {packets} vf 0 action 3")).unwrap();
        assert_eq!(queue(&host, &mine), 3);
        act(&mut host, &format!("filter del {packets}")).unwrap();
        act(&mut host, &format!("vf 0 request filter del {packets}")).unwrap();
    }
    let refused = |host: &mut Host, words: &str| act(host, words).unwrap_err().to_string();
    let unknown = "vf 0 request filter add flow-type ether dst unknown-unicast action drop";
    assert!(refused(&mut host, unknown).contains("leave out action"));
    let many = "vf 0 request filter add flow-type ip4 dst-ip 10.0.0.0/8 action drop";
    assert!(refused(&mut host, many).contains("without masks"));
    // It goes with its driver.
    act(
        &mut host,
        &format!("vf 0 request filter add {packets} action drop"),
    )
    .unwrap();
    act(&mut host, "vf 0 request reset").unwrap();
    assert!(host.send(Source::Wire, &mine).vfs.contains_key(&0));
    assert!(host.policy.driver_filters(VfIndex(0)).is_empty());
}

/// Whether an explanation says what comes out, and says each of it.
fn explains(steps: &[Step], outcome: &Outcome) -> bool {
    let gets = steps.iter().filter_map(|step| match step {
        Step::Gets { vf, .. } => Some(vf.0),
        _ => None,
    });
    let dropped = steps.iter().filter_map(|step| match step {
        Step::Dropped(reason) => Some(*reason),
        _ => None,
    });
    let named = steps.iter().all(|step| match step {
        Step::Egress { action, rule }
        | Step::Copied { action, rule }
        | Step::Filter { action, rule }
        | Step::PassedOver { action, rule } => rule.is_some_and(|rule| rule.spec.action == *action),
        _ => true,
    });
    named
        && gets.eq(outcome.vfs.keys().copied())
        && dropped.eq(outcome.drops.iter().copied())
        && steps.iter().any(|step| matches!(step, Step::Wire(_))) == outcome.wire.is_some()
}

proptest! {
    // So many rule sets of each profile, and so many frames with each of them.
    #![proptest_config(ProptestConfig {
        cases: 100,
        failure_persistence: Some(Box::new(FileFailurePersistence::Direct("proptest-regressions/laws.txt"))),
        max_shrink_iters: 2000,
        ..ProptestConfig::default()
    })]

    #[test]
    fn why_says_what_both_paths_do_and_what_is_promised(
        acts in vec(any_act(), 1..40),
        paths in any_paths(),
        traffic in vec(any_traffic(), FRAMES),
    ) {
        for profile in Profile::all() {
            let mut host = Host::like(profile, &acts, &paths);
            let other_paths = paths.iter().map(|path| match path {
                Path::Direct => Path::Mediated,
                Path::Mediated => Path::Auto,
                Path::Auto => Path::Direct,
            });
            let mut other = Host::like(profile, &acts, &other_paths.collect::<Vec<_>>());
            for (source, frame) in &traffic {
                let outcome = host.send(*source, frame);
                prop_assert_eq!(&outcome, &other.send(*source, frame));
                let (vfs, wire) = promised(&host, *source, frame);
                prop_assert_eq!((&outcome.vfs, &outcome.wire), (&vfs, &wire));
                let steps = host.policy.why(*source, frame, &meta(frame, 0)).steps;
                prop_assert!(explains(&steps, &outcome), "{:#?} but {:?}", steps, outcome);
            }
        }
    }
}

#[test]
fn what_a_filter_hands_up_is_no_mismatch() {
    let unknown = "filter add flow-type ether dst unknown-unicast vf 0";
    let handed_up = "filter add flow-type udp4 dst-ip 10.0.0.1 dst-port 80 action mediated";
    let frame = |port: u8| {
        let udp = [
            8, 0, 69, 0, 0, 40, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 3, 10, 0, 0, 1, 0, 81, 0, port,
        ];
        let mut frame = [&[2, 0, 0, 0, 0, 5, 2, 0, 0, 0, 0, 4][..], &udp].concat();
        frame.resize(60, 0);
        frame
    };
    for path in [Path::Direct, Path::Mediated] {
        let mut host = Host::new(
            &[parse(unknown).into(), parse(handed_up).into()],
            &[path; VFS as usize],
        );
        assert!(host.send(Source::Wire, &frame(80)).vfs.is_empty(), "{path}");
        assert!(
            host.send(Source::Wire, &frame(81)).vfs.contains_key(&0),
            "{path}"
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 2000,
        // Beside those of the unit tests, which a test outside `src` does not find by itself.
        failure_persistence: Some(Box::new(FileFailurePersistence::Direct("proptest-regressions/laws.txt"))),
        ..ProptestConfig::default()
    })]

    #[test]
    fn golden_rule_paths_do_not_change_who_gets_what(
        acts in vec(any_act(), 0..16),
        paths in any_paths(),
        other_paths in any_paths(),
        traffic in vec((any_gap(), proptest::option::weighted(0.2, any_paths()), any_traffic()), 1..16),
        beyond in select(vec![0, 0, 20, 24, 28, 32, MAX_FRAME - 64, MAX_FRAME - 60, MAX_FRAME - 59]),
        profile in select(Profile::all().collect::<Vec<_>>()),
    ) {
        let mut host = Host::like(profile, &acts, &paths);
        let mut other = Host::like(profile, &acts, &other_paths);
        (host.beyond, other.beyond) = (beyond, beyond);
        for (gap, switched, (source, frame)) in traffic {
            host.now += gap;
            other.now = host.now;
            other.set_paths(&switched.unwrap_or_default());
            // Path `auto` learns from the first and takes another path with the next.
            host.send(source, &frame);
            other.send(source, &frame);
            let outcome = host.send(source, &frame);
            prop_assert_eq!(&outcome, &other.send(source, &frame));
            // What `vfnic check paths` asks of frames that pass says so, too.
            let both = BothPaths::of(&host.policy).unwrap();
            let said = host.policy.why(source, &frame, &meta(&frame, beyond)).verdict;
            let differ = both.difference(source, &frame, &meta(&frame, beyond), Some(&said));
            prop_assert_eq!(differ, None);
            let (vfs, wire) = if meta(&frame, beyond).len > MAX_FRAME {
                Default::default()
            } else {
                promised(&host, source, &frame)
            };
            prop_assert_eq!(&outcome.vfs, &vfs);
            prop_assert_eq!(&outcome.wire, &wire);
        }
        for vf in (0..VFS).map(VfIndex) {
            prop_assert_eq!(host.counters(vf), other.counters(vf));
        }
        // What the port's MTU does not let through is counted where that is found out.
        let port = |host: &Host| {
            let (wire, pf) = (host.nic.wire_counters(), host.hypervisor.pf_counters());
            let mtu = DropReason::MtuExceeded;
            let unfit = wire.tx_drops.get(mtu) + pf.tx_drops.get(mtu);
            let tx = [wire.tx_packets, wire.tx_bytes, wire.tx_multicast, wire.tx_broadcast];
            (tx, unfit, wire.rx_packets, wire.rx_bytes, wire.rx_drops)
        };
        prop_assert_eq!(port(&host), port(&other));
    }

    /// A station on the PF's bridge sees and is seen the same, whichever paths the VFs take.
    #[test]
    fn golden_rule_holds_beside_stations_behind_the_pf(
        mut acts in vec(any_act(), 0..12),
        known in any::<bool>(),
        paths in any_paths(),
        other_paths in any_paths(),
        traffic in vec(any_traffic(), 1..16),
        beyond in select(vec![0, 24]),
        profile in select(Profile::all().collect::<Vec<_>>()),
    ) {
        acts.retain(|act| !matches!(act, Act::Admin(command) if sets_mirror(command)));
        let station = VfIndex(VFS - 1);
        let stations = |paths: Vec<Path>| {
            let mut host = Host::like(profile, &acts, &[]);
            host.set_paths(&paths[..usize::from(VFS - 2)]);
            for vf in [VFS - 2, station.0] {
                host.act(&parse(&format!("vf {vf} set bridge on")).into()).unwrap();
            }
            if known {
                let _ = host.act(&parse(&format!("fdb add {} self", BASE.offset(station.0.into()))).into());
            }
            host
        };
        let (mut host, mut other) = (stations(paths), stations(other_paths));
        (host.beyond, other.beyond) = (beyond, beyond);
        for (source, frame) in traffic {
            let (outcome, others) = (host.send(source, &frame), other.send(source, &frame));
            prop_assert_eq!(&outcome.vfs, &others.vfs);
            prop_assert_eq!(&outcome.wire, &others.wire);
            let Source::Vf(from) = source else { continue };
            prop_assert!(!outcome.vfs.contains_key(&from.0));
        }
        for vf in (0..VFS).map(VfIndex) {
            prop_assert_eq!(host.counters(vf), other.counters(vf));
        }
    }

    #[test]
    fn what_was_said_before_is_said_again_only_while_it_holds(
        traffic in any_traffic(),
        packets in vec(any_packet(), 1..4),
        paths in any_paths(),
        turns in vec((proptest::option::weighted(0.3, any_change()), any::<prop::sample::Index>(), select(vec![0, 0, 24, 28])), 1..40),
    ) {
        let (source, frame) = traffic;
        let with = |packet: Vec<u8>| [&frame[..12], &packet].concat();
        let frames: Vec<_> = packets.into_iter().map(with).chain([frame.clone()]).collect();
        let mut host = Host::new(&[], &paths);
        for (act, pick, beyond) in turns {
            if let Some(act) = act {
                // Refused or not: what counts is what is said afterwards.
                let _ = host.act(&act);
            }
            let frame = pick.get(&frames);
            let mut forgetful = host.nic.clone();
            let link = Command::SetLink(vec![LinkSetting::Up(host.policy.link_up())]);
            forgetful.adopt(Arc::new(host.policy.with(&link).unwrap()));
            let meta = meta(frame, beyond);
            let from = match source {
                Source::Vf(vf) => Some(vf),
                Source::Wire => None,
            };
            let verdict = match host.nic.ingress_again(host.now, source, frame, &meta) {
                Some(Hop { to: To::Vf(to), insert }) => Verdict {
                    vfs: [to].into_iter().collect(),
                    insert,
                    from,
                    ..Verdict::default()
                },
                Some(Hop { to: To::Wire, insert }) => Verdict {
                    wire: true,
                    insert,
                    from,
                    ..Verdict::default()
                },
                None => host.nic.ingress(host.now, source, frame, &meta),
            };
            prop_assert_eq!(verdict, forgetful.ingress(host.now, source, frame, &meta));
            prop_assert_eq!(host.nic.wire_counters(), forgetful.wire_counters());
            prop_assert_eq!(host.nic.pf_counters(), forgetful.pf_counters());
            for vf in (0..VFS).map(VfIndex) {
                prop_assert_eq!(host.nic.counters(vf), forgetful.counters(vf));
            }
        }
    }

    #[test]
    fn conservation_every_frame_arrives_or_is_counted_once(
        acts in vec(any_act(), 0..16),
        paths in any_paths(),
        traffic in vec(any_traffic(), 1..8),
        beyond in select(vec![0, 24, 28]),
    ) {
        let mut host = Host::new(&acts, &paths);
        host.beyond = beyond;
        for (source, frame) in &traffic {
            let (before, copies) = (host.drops(), host.drops_for(DropReason::MtuExceeded));
            let outcome = host.send(*source, frame);
            let arrived = !outcome.vfs.is_empty() || outcome.wire.is_some();
            // Of copies each that is too long for its receiver, and no other.
            let copies = host.drops_for(DropReason::MtuExceeded) - copies;
            let counted = if copies > 0 { copies } else { u64::from(!arrived) };
            prop_assert_eq!(host.drops() - before, counted);
            prop_assert_eq!(outcome.drops.len(), usize::from(!arrived));
        }
        for vf in (0..VFS).map(VfIndex) {
            let sent = traffic.iter().filter(|(s, _)| *s == Source::Vf(vf)).count() as u64;
            let counters = host.counters(vf);
            prop_assert_eq!(counters.tx_packets + counters.tx_drops.total(), sent);
        }
        let arrived = traffic.iter().filter(|(s, _)| *s == Source::Wire).count() as u64;
        let wire = host.nic.wire_counters();
        prop_assert_eq!(wire.rx_packets + wire.rx_drops.total(), arrived);
    }

    #[test]
    fn isolation_and_no_self_delivery(
        mut acts in vec(any_act(), 0..8),
        asked in vec((0..VFS, any_request()), 0..8),
        paths in any_paths(),
        traffic in vec(any_traffic(), 1..8),
    ) {
        acts.retain(|act| {
            // A mirror shows one VF what another sees: that is what it is for.
            let filter = |c: &Command| match c {
                Command::VfFilterAdd { .. } | Command::VfFilterDel { .. } => true,
                command => sets_mirror(command),
            };
            !matches!(act, Act::Admin(command) if filter(command))
        });
        let vlans = [100, 100, 200];
        for (vf, vlan) in vlans.iter().enumerate() {
            acts.push(parse(&format!("vf {vf} set vlan {vlan}")).into());
        }
        acts.extend(asked.into_iter().map(|(vf, request)| Act::Driver(VfIndex(vf), request)));
        let mut host = Host::new(&acts, &paths);
        for (source, frame) in traffic {
            let outcome = host.send(source, &frame);
            let Source::Vf(from) = source else { continue };
            prop_assert!(!outcome.vfs.contains_key(&from.0), "its own frame");
            for to in outcome.vfs.keys() {
                let vlan = |vf: u8| vlans.get(usize::from(vf));
                prop_assert!(from.0 == 3 || *to == 3 || vlan(from.0) == vlan(*to), "{from} to {to}");
            }
        }
    }

    /// Whatever filters the driver of a VF puts in that nobody has given a privilege, no other VF gets less or more than before,
    /// and it gets nothing that is for another: an address is one VF's, a group any number's, and what is unknown a privilege.
    #[test]
    fn a_drivers_filter_takes_nothing_that_is_not_addressed_to_its_vf(
        mut acts in vec(any_act(), 0..12),
        ops in vec((any::<bool>(), any_driver_action(), select(vec![None, Some(10), Some(20)]), prop_oneof![
            any_mac(), any_mac(), any_group().prop_map(|g| g.to_string()), Just(MacAddr::BROADCAST.to_string()),
            Just("unknown-unicast".to_owned()), Just("unknown-multicast".to_owned()), Just("packets".to_owned()),
        ]), 1..6),
        vf in 0..VFS,
        traffic in vec(any_traffic(), 1..8),
        profile in select(vec![Profile::Ef10, Profile::Generic]),
    ) {
        // What it may have is for the administrator to say, and so is what a mirror shows.
        let says_more = |command: &Command| match command {
            Command::SetVf { settings, .. } => settings.iter().any(|s| {
                matches!(s, VfSetting::Trust(_) | VfSetting::Privilege(_) | VfSetting::Mirror(_))
            }),
            Command::FilterInsert(spec) => matches!(spec.action, FilterAction::Mirror(_)),
            _ => false,
        };
        acts.retain(|act| !matches!(act, Act::Admin(command) if says_more(command)));
        let driver = VfIndex(vf);
        // One that lists its groups, as those do that put in filters.
        let (lists_groups, lists_vlans) = (true, false);
        acts.push(Act::Driver(driver, VfRequest::Reset { lists_groups, lists_vlans }));
        let mut host = Host::like(profile, &acts, &[]);
        for (add, action, vlan, dst) in ops {
            let unknown = dst.starts_with("unknown");
            let vlan = vlan.filter(|_| unknown).map(|vid| Vid::new(vid).unwrap());
            let matches = match dst.as_str() {
                "packets" => "flow-type tcp4 dst-ip 10.0.0.1 dst-port 80 action drop".to_owned(),
                dst => format!("flow-type ether dst {dst} action drop"),
            };
            let matches = matches.parse::<FilterSpec>().unwrap().matches;
            let mut before = Host::like(profile, &acts, &[]);
            before.adopt(Arc::clone(&host.policy));
            match host.policy.with_filter_op(driver, &FilterOp { add, matches, vlan, action }) {
                Ok(policy) => host.adopt(Arc::new(policy)),
                Err(_) => continue,
            }
            prop_assert!(!add || !unknown, "EPERM");
            for (source, frame) in traffic.iter().filter(|(source, _)| *source != Source::Vf(driver)) {
                let (mut was, mut is) = (before.send(*source, frame), host.send(*source, frame));
                let [had, has] = [was.vfs.remove(&vf), is.vfs.remove(&vf)];
                let to = MacAddr(frame[..6].try_into().unwrap());
                let named = to.to_string() == dst;
                // In VEPA mode what comes back from the adjacent bridge is its own.
                let own = MacAddr(frame[6..12].try_into().unwrap()).to_string() == dst;
                // What it drops, or dropped until now, is the only difference that a filter makes to frames that are for it anyway.
                let dropped = if add { has.is_none() } else { had.is_none() };
                let drops = dropped && (!add || action == DriverAction::Drop);
                prop_assert!(named || own || drops || had == has, "it has asked for {dst}");
                let others = (0..VFS).map(VfIndex).filter(|w| *w != driver);
                let mut others = others.filter(|w| host.policy.mac(*w) == to || host.policy.in_force(*w).unicast.contains(&to)
                    || host.policy.filters(*w).macs().iter().any(|(m, _)| *m == to));
                // Two may have the same address, by the administrator's word: then either may drop what it gets.
                prop_assert!(to.is_multicast() || own || others.next().is_none() || had == has || drops, "it is another's");
                // A station that nobody had is the VF's now, so others that receive what is unknown do not get it, nor the wire.
                if to.is_multicast() || !named {
                    prop_assert_eq!((was.vfs, was.wire), (is.vfs, is.wire));
                }
            }
        }
    }

    /// What drivers drop or have in one of their queues they do on either path, and it is counted there; nobody else notices.
    #[test]
    fn golden_rule_holds_for_filters_of_drivers(
        acts in vec(any_act(), 0..8),
        ops in vec((0..VFS, any_fields(), any_driver_action()), 1..8),
        paths in any_paths(),
        other_paths in any_paths(),
        traffic in vec(any_traffic(), 1..12),
        profile in select(vec![Profile::Ef10, Profile::Generic]),
    ) {
        let mut host = Host::like(profile, &acts, &paths);
        let mut other = Host::like(profile, &acts, &other_paths);
        for host in [&mut host, &mut other] {
            for (vf, fields, action) in &ops {
                let spec: Result<FilterSpec, _> = format!("{fields} action drop").parse();
                let Ok(FilterSpec { matches, .. }) = spec else { continue };
                // An address is one that the VF has from then on.
                if matches!(matches, FilterMatch::Mac(_)) && *action == DriverAction::Receive {
                    continue;
                }
                let op = FilterOp { add: true, matches, vlan: None, action: *action };
                if let Ok(policy) = host.policy.with_filter_op(VfIndex(*vf), &op) {
                    host.adopt(Arc::new(policy));
                }
            }
        }
        let mut without = Host::like(profile, &acts, &paths);
        for (source, frame) in traffic {
            for host in [&mut host, &mut other, &mut without] {
                host.send(source, &frame);
            }
            let outcome = host.send(source, &frame);
            prop_assert_eq!(&outcome, &other.send(source, &frame));
            let both = BothPaths::of(&host.policy).unwrap();
            let why = host.policy.why(source, &frame, &meta(&frame, 0));
            prop_assert_eq!(both.difference(source, &frame, &meta(&frame, 0), Some(&why.verdict)), None);
            let dropped = why.steps.iter().filter_map(|step| match step {
                Step::DriverDrops(vf) => Some(vf.0),
                _ => None,
            });
            let dropped: BTreeSet<u8> = dropped.collect();
            // In the table they are as those of the administrator are.
            let in_table = (0..VFS).any(|vf| host.policy.driver_filters(VfIndex(vf)).iter().any(|f| f.is_in_table()));
            if !in_table {
                let mut expected = without.send(source, &frame);
                expected.vfs.retain(|vf, _| !dropped.contains(vf));
                prop_assert_eq!((outcome.vfs, outcome.wire), (expected.vfs, expected.wire));
            }
        }
        for vf in (0..VFS).map(VfIndex) {
            prop_assert_eq!(host.counters(vf), other.counters(vf));
        }
    }

    #[test]
    fn spoof_check_is_total(
        acts in vec(any_act(), 0..16),
        paths in any_paths(),
        vf in 0..VFS,
        mut frame in any_frame(),
        src: [u8; 6],
    ) {
        let mut host = Host::new(&acts, &paths);
        host.act(&parse(&format!("vf {vf} set spoofchk on state enable")).into()).unwrap();
        frame[6..12].copy_from_slice(&src);
        let vf = VfIndex(vf);
        let own = host.policy.mac(vf).0 == src
            || host.policy.in_force(vf).unicast.iter().any(|m| m.0 == src)
            || host.policy.filters(vf).macs().iter().any(|(m, _)| m.0 == src);
        prop_assume!(!own);
        let outcome = host.send(Source::Vf(vf), &frame);
        prop_assert!(outcome.vfs.is_empty() && outcome.wire.is_none());
        let reserved = MacAddr(frame[..6].try_into().unwrap()).is_reserved();
        let why = if reserved { DropReason::ReservedMulticast } else { DropReason::SpoofedMac };
        prop_assert_eq!(outcome.drops, [why]);
    }

    #[test]
    fn a_refused_command_changes_nothing(
        acts in vec(any_act(), 0..24),
        traffic in vec(any_traffic(), 1..8),
    ) {
        let mut host = Host::new(&[], &[]);
        let mut accepted = Vec::new();
        for act in acts {
            if host.act(&act).is_ok() {
                accepted.push(act);
            }
        }
        let mut other = Host::new(&accepted, &[]);
        for vf in (0..VFS).map(VfIndex) {
            prop_assert_eq!(host.policy.vf(vf), other.policy.vf(vf));
            prop_assert_eq!(host.policy.filters(vf), other.policy.filters(vf));
            prop_assert_eq!(host.policy.asked(vf), other.policy.asked(vf));
            prop_assert_eq!(host.policy.in_force(vf), other.policy.in_force(vf));
        }
        for (source, frame) in traffic {
            let judge = |nic: &mut Nic| nic.ingress(Nanos(0), source, &frame, &meta(&frame, 0));
            prop_assert_eq!(judge(&mut host.nic), judge(&mut other.nic));
        }
    }

    /// Whatever is changed while a frame is on its way over the PF, on either side of which the planes take the change at
    /// times of their own: it goes where the policy said by which it was judged, and the next one where the new policy says.
    #[test]
    fn a_frame_between_the_planes_is_not_judged_again(
        acts in vec(any_act(), 0..16),
        change in any_change(),
        paths in any_paths(),
        traffic in vec(any_traffic(), 1..8),
    ) {
        for (source, frame) in traffic {
            let mut host = Host::new(&acts, &paths);
            let before = promised(&host, source, &frame);
            let (mut outcome, crossing) = host.enter(source, &frame);
            let _ = host.act(&change);
            if let Some(crossing) = crossing {
                host.cross(crossing, &mut outcome);
            }
            prop_assert_eq!((outcome.vfs, outcome.wire), before);
            let after = host.send(source, &frame);
            prop_assert_eq!((after.vfs, after.wire), promised(&host, source, &frame));
        }
    }

    #[test]
    fn a_batch_is_its_commands_one_by_one_or_nothing(
        commands in vec(any_command(), 0..24),
        refused in any::<bool>(),
        traffic in vec(any_traffic(), 1..8),
    ) {
        let fresh = Host::new(&[], &[]).policy;
        let mut one_by_one = fresh.clone();
        let mut accepted = Vec::new();
        let mut first_refused = None;
        for (at, command) in commands.iter().enumerate() {
            match one_by_one.with(command) {
                Ok(policy) => {
                    one_by_one = Arc::new(policy);
                    accepted.push(command.clone());
                }
                Err(why) => first_refused = first_refused.or(Some((at, why))),
            }
        }
        if refused && let Some((at, why)) = first_refused {
            let all = fresh.with_all(&commands).unwrap_err();
            prop_assert_eq!((all.at, all.why), (at, why));
            prop_assert_eq!(fresh.version(), Host::new(&[], &[]).policy.version());
        }
        let batch = Arc::new(fresh.with_all(&accepted).unwrap());
        prop_assert_eq!(batch.version() - fresh.version(), u64::from(!accepted.is_empty()));
        let filters = |policy: &Policy| policy.filter_table().iter().collect::<Vec<_>>();
        prop_assert_eq!(filters(&batch), filters(&one_by_one));
        prop_assert!(filters(&fresh).is_empty(), "what was there before is as it was");
        for vf in (0..VFS).map(VfIndex) {
            prop_assert_eq!(batch.vf(vf), one_by_one.vf(vf));
            prop_assert_eq!(batch.filters(vf), one_by_one.filters(vf));
            prop_assert_eq!(batch.in_force(vf), one_by_one.in_force(vf));
        }
        let [mut one, mut other] = [one_by_one, batch].map(Nic::new);
        for (source, frame) in traffic {
            let judge = |nic: &mut Nic| nic.ingress(Nanos(0), source, &frame, &meta(&frame, 0));
            prop_assert_eq!(judge(&mut one), judge(&mut other));
        }
    }

    #[test]
    fn replicas_that_adopt_at_other_times_say_the_same_of_the_same_policy(
        acts in vec(any_act(), 1..24),
        missed in vec(any::<bool>(), 24),
        paths in any_paths(),
        traffic in vec(any_traffic(), 1..8),
    ) {
        let mut host = Host::new(&[], &paths);
        let mut replica = host.nic.clone();
        for (act, missed) in acts.iter().zip(missed) {
            let _ = host.act(act);
            // Busy elsewhere: it sees only the next one.
            if !missed {
                replica.adopt(Arc::clone(&host.policy));
            }
            for (source, frame) in &traffic {
                let meta = meta(frame, 0);
                host.nic.ingress(Nanos(0), *source, frame, &meta);
                replica.ingress(Nanos(0), *source, frame, &meta);
            }
        }
        replica.adopt(Arc::clone(&host.policy));
        let mut fresh = Nic::new(Arc::clone(&host.policy));
        for (source, frame) in &traffic {
            let judge = |nic: &mut Nic| nic.ingress(Nanos(0), *source, frame, &meta(frame, 0));
            let verdict = judge(&mut host.nic);
            prop_assert_eq!(judge(&mut replica), verdict);
            prop_assert_eq!(judge(&mut fresh), verdict);
        }
    }

    #[test]
    fn no_bytes_panic(
        head in vec(any::<u8>(), 0..40),
        len: u32,
        gso in proptest::option::of((any::<u16>(), any::<u16>())),
        source in any_source(),
        paths in any_paths(),
    ) {
        let mut host = Host::new(&[], &paths);
        let gso = gso.map(|(header_len, size)| vf_model::Gso { header_len, size });
        let meta = FrameMeta { len, gso };
        let verdict = host.nic.ingress(Nanos(0), source, &head, &meta);
        if len > 65_557 {
            prop_assert!(verdict.drop.is_some());
        }
    }
}
