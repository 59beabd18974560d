//! What a frame is looked up in: one hash probe for each family of kinds in use, however many filters there are. Filters that
//! differ only in how much they match lie in one family, the wide match in front: a frame to a local port that no filter names
//! is done with after one probe. A copy of the index shares with it all that does not change. Never allocates while looking up,
//! and gives the same answers in every run. Knows neither rows nor priorities; that is [`crate::FilterTable`].

use std::hash::Hash;
use std::net::IpAddr;
use std::sync::Arc;

use vf_packet::{Header, PlainIpv4, Vlan, VlanTag};

use crate::cow_map::CowMap;
use crate::filter_fields::FieldWords;
use crate::filter_space::{MAX_COMBINATIONS, Spaces, Turn};
use crate::filter_spec::{FilterAction, FilterMatch};
use crate::rule::Rule;
use crate::vf::VfIndex;

/// The filter in force for each match.
#[derive(Clone, Debug)]
pub(crate) struct Index {
    v4: Family<Local4, End4>,
    /// Local ports that a filter in `v4` names.
    ports4: Ports,
    v6: Family<Local6, End6>,
    macs: Family<u64, u16>,
    ethertypes: CowMap<u16, Rule>,
    unknown_multicast: Option<Rule>,
    unknown_unicast: Option<Rule>,
    /// All others on what is received.
    spaces: Arc<Spaces>,
    /// Those on what VFs send.
    egress: Arc<Spaces>,
    /// How many of those name a sender.
    senders: CowMap<VfIndex, u32>,
    /// Whether there are any; said here, where every frame looks, as is what follows.
    judges_sent: bool,
    /// Whether one of those two looks behind the Ethernet header.
    looks_at_packets: bool,
    /// Whether any filter does.
    looks_at_flows: bool,
    seed: u64,
}

/// Filters on a wide key, and on that and a further key together.
#[derive(Clone, Debug)]
struct Family<W, N> {
    wide: CowMap<W, Wide>,
    narrow: CowMap<(W, N), Rule>,
}

/// A set of ports, a bit for each; empty until the first is put in. It only ever saves a probe: a port stays in it until no
/// filter on IPv4 flows is left.
#[derive(Clone, Debug, Default)]
struct Ports(Arc<[u64]>);

#[derive(Clone, Copy, Debug, Default)]
struct Wide {
    rule: Option<Rule>,
    /// How many filters go on from here.
    narrower: u32,
}

/// What the filters of a family say of a frame: the one that matches more goes first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Actions {
    narrow: Option<Rule>,
    wide: Option<Rule>,
    /// Whether filters on other fields of its packet match it, too: those are asked in turn.
    more: bool,
}

/// The same with the first bytes of the frame that it is said of, for the judge.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct FrameActions<'a> {
    actions: Actions,
    head: &'a [u8],
}

/// IPv4 address, port and protocol.
type Local4 = u64;
/// IPv4 address and port.
type End4 = u64;
/// IPv6 address; port and protocol.
type Local6 = (u128, u32);
/// IPv6 address and port.
type End6 = (u128, u16);

impl Ports {
    fn insert(&mut self, port: u16) {
        if self.contains(port) {
            return;
        }
        if self.0.is_empty() {
            self.0 = vec![0; 1 << 10].into();
        }
        if let Some(word) = Arc::make_mut(&mut self.0).get_mut(usize::from(port) / 64) {
            *word |= 1 << (port % 64);
        }
    }

    #[inline]
    fn contains(&self, port: u16) -> bool {
        let word = self.0.get(usize::from(port) / 64);
        word.is_some_and(|word| word >> (port % 64) & 1 == 1)
    }
}

impl<'a> FrameActions<'a> {
    /// The first bytes of the frame.
    pub(crate) fn head(&self) -> &'a [u8] {
        self.head
    }
}

impl Actions {
    /// With the first bytes of the frame that they were said of.
    #[inline]
    pub(crate) fn of(self, head: &[u8]) -> FrameActions<'_> {
        FrameActions {
            actions: self,
            head,
        }
    }

    /// The first that is not passed over.
    #[inline]
    pub(crate) fn first(self, mut takes: impl FnMut(&Rule) -> bool) -> Option<Rule> {
        self.narrow
            .filter(&mut takes)
            .or_else(|| self.wide.filter(&mut takes))
    }

    /// The filter that matches more, or the one that matches less.
    pub(crate) fn rule(&self, narrow: bool) -> Option<&Rule> {
        match narrow {
            true => self.narrow.as_ref(),
            false => self.wide.as_ref(),
        }
    }

    /// A number of at most 20 bits that no actions have by which others receive it; `None` if there is more to be asked.
    #[inline]
    pub(crate) fn code(self) -> Option<u64> {
        if self.more {
            return None;
        }
        let code = |rule: Option<Rule>| match rule.map(|rule| rule.action) {
            None => 0,
            Some(FilterAction::Drop | FilterAction::Pass) => 1,
            Some(
                FilterAction::Vf(vf) | FilterAction::Queue(vf, _) | FilterAction::Context(vf, _),
            ) => 2 + u64::from(vf.0),
            Some(FilterAction::Mirror(vf)) => 258 + u64::from(vf.0),
            Some(FilterAction::Mediated) => 514,
        };
        Some(code(self.narrow) << 10 | code(self.wide))
    }
}

impl Index {
    pub(crate) fn new(seed: u64) -> Index {
        Index {
            v4: Family::new(seed),
            ports4: Ports::default(),
            v6: Family::new(seed),
            macs: Family::new(seed),
            ethertypes: CowMap::new(seed),
            unknown_multicast: None,
            unknown_unicast: None,
            spaces: Arc::default(),
            egress: Arc::default(),
            senders: CowMap::new(seed),
            judges_sent: false,
            looks_at_packets: false,
            looks_at_flows: false,
            seed,
        }
    }

    /// Puts in what is said of frames with this match now, or takes it out.
    pub(crate) fn set(&mut self, matches: &FilterMatch, rule: Option<Rule>) {
        let Index {
            v4,
            ports4,
            v6,
            macs,
            ethertypes,
            unknown_multicast,
            unknown_unicast,
            spaces,
            egress,
            senders,
            judges_sent,
            looks_at_packets,
            looks_at_flows,
            seed,
        } = self;
        match *matches {
            FilterMatch::Full {
                transport,
                local,
                remote,
            } => match (local.ip, remote.ip) {
                (IpAddr::V4(l), IpAddr::V4(r)) => {
                    ports4.insert(local.port);
                    let wide = local4(l.to_bits(), local.port, transport.protocol());
                    v4.set_narrow(wide, end4(r.to_bits(), remote.port), rule);
                }
                (IpAddr::V6(l), IpAddr::V6(r)) => {
                    let wide = local6(l.to_bits(), local.port, transport.protocol());
                    v6.set_narrow(wide, (r.to_bits(), remote.port), rule);
                }
                _ => {} // refused by the check of the match
            },
            FilterMatch::Local { transport, local } => match local.ip {
                IpAddr::V4(ip) => {
                    ports4.insert(local.port);
                    v4.set(local4(ip.to_bits(), local.port, transport.protocol()), rule);
                }
                IpAddr::V6(ip) => {
                    v6.set(local6(ip.to_bits(), local.port, transport.protocol()), rule)
                }
            },
            FilterMatch::MacVlan { mac, vid } => {
                macs.set_narrow(mac.to_u64(), Vlan::of_vid(vid).to_u16(), rule);
            }
            FilterMatch::Mac(mac) => macs.set(mac.to_u64(), rule),
            FilterMatch::EtherType(proto) => {
                ethertypes.put(proto, rule);
            }
            FilterMatch::UnknownMulticast => *unknown_multicast = rule,
            FilterMatch::UnknownUnicast => *unknown_unicast = rule,
            FilterMatch::Fields(_) => {
                Arc::make_mut(spaces).set(*seed, matches, rule);
            }
            FilterMatch::Egress { sender, .. } => {
                let was = Arc::make_mut(egress).set(*seed, matches, rule);
                if let Some(vf) = sender {
                    let named = senders.get(&vf).unwrap_or_default();
                    let named = named + u32::from(rule.is_some()) - u32::from(was);
                    senders.put(vf, (named > 0).then_some(named));
                }
                *judges_sent = !egress.is_empty();
            }
        }
        *looks_at_packets = spaces.looks_at_packets() || egress.looks_at_packets();
        *looks_at_flows = *looks_at_packets || !v4.is_empty() || !v6.is_empty();
        if v4.is_empty() {
            *ports4 = Ports::default();
        }
    }

    /// What filters on flows say of a frame.
    #[inline(always)]
    pub(crate) fn flow_actions(
        &self,
        head: &[u8],
        sender: Option<VfIndex>,
        port_vlan: impl FnOnce() -> Option<VlanTag>,
    ) -> Actions {
        match self.is_silent(head) {
            true => Actions::default(),
            false => self.look_at_flow(head, sender, port_vlan),
        }
    }

    /// Whether filters on flows say nothing of a frame for sure.
    #[inline(always)]
    pub(crate) fn is_silent(&self, head: &[u8]) -> bool {
        !self.looks_at_flows || !self.looks_at_packets && self.is_unnamed(head)
    }

    /// Whether it is to a local port that no filter names, as nearly all are.
    #[inline(always)]
    fn is_unnamed(&self, head: &[u8]) -> bool {
        matches!(plain_flow4(head, &self.ports4), Plain::Unnamed)
    }

    #[inline(never)]
    fn look_at_flow(
        &self,
        head: &[u8],
        sender: Option<VfIndex>,
        port_vlan: impl FnOnce() -> Option<VlanTag>,
    ) -> Actions {
        let actions = self.indexed_flow_actions(head);
        if self.looks_at_packets && self.meets_packet(head, sender, port_vlan()) {
            let more = true;
            return Actions { more, ..actions };
        }
        actions
    }

    /// Whether a filter on other fields of a packet matches.
    #[inline(never)]
    fn meets_packet(
        &self,
        head: &[u8],
        sender: Option<VfIndex>,
        port_vlan: Option<VlanTag>,
    ) -> bool {
        let Ok(header) = Header::parse(head) else {
            return false;
        };
        let header = port_vlan.map_or(header, |tag| header.behind(tag));
        let words = FieldWords::of_header(&header, header.vlan());
        let words = words.with_packet(head);
        let Some(words) = words else {
            return false;
        };
        let sent = |vf| self.egress.meets_packet(&words.sent_by(vf));
        self.spaces.meets_packet(&words) || sender.is_some_and(sent)
    }

    /// Whether frames may be looked up by these fields: others are already, or there is room for another turn.
    pub(crate) fn has_turn_for(&self, matches: &FilterMatch) -> bool {
        let spaces = match matches.is_egress() {
            true => &self.egress,
            false => &self.spaces,
        };
        spaces.len() < MAX_COMBINATIONS || spaces.has_combination(matches)
    }

    /// Whether there are filters on what VFs send.
    #[inline]
    pub(crate) fn judges_sent(&self) -> bool {
        self.judges_sent
    }

    /// Whether one of them names this sender.
    pub(crate) fn names_sender(&self, vf: VfIndex) -> bool {
        self.senders.get(&vf).is_some()
    }

    /// What the first of them says of a frame that a VF sends in this VLAN.
    pub(crate) fn find_sent(
        &self,
        vf: VfIndex,
        header: &Header,
        flow: FrameActions,
        vlan: Vlan,
    ) -> Option<Rule> {
        let link = FieldWords::of_header(header, vlan).sent_by(vf);
        let more = flow.actions.more.then_some(flow.head);
        let packet = more.and_then(|head| link.with_packet(head));
        self.egress.find(&packet.unwrap_or(link), packet.is_some())
    }

    #[inline]
    fn indexed_flow_actions(&self, head: &[u8]) -> Actions {
        let Index { v4, v6, ports4, .. } = self;
        if v4.is_empty() && v6.is_empty() {
            return Actions::default();
        }
        match plain_flow4(head, ports4) {
            Plain::Unnamed => Actions::default(),
            Plain::Flow(local, remote) => v4.get(local, || remote),
            Plain::No => self.any_flow(head).unwrap_or_default(),
        }
    }

    /// What the first filter says that matches a frame in `vlan` and is not passed over, filters on flows given and those
    /// on unknown stations left out.
    #[inline]
    pub(crate) fn find(
        &self,
        header: &Header,
        flow: FrameActions,
        vlan: Vlan,
        mut takes: impl FnMut(&Rule) -> bool,
    ) -> Option<Rule> {
        if !self.spaces.is_empty() {
            return self.find_in_turn(header, flow, vlan, takes);
        }
        let by_mac = || self.macs.get(header.dst.to_u64(), || vlan.to_u16());
        let by_type = || self.ethertypes.get(&header.ethertype);
        let to_group = header.dst.is_multicast() && !header.dst.is_broadcast();
        let unknown = || self.unknown_multicast.filter(|_| to_group);
        flow.actions
            .first(&mut takes)
            .or_else(|| by_mac().first(&mut takes))
            .or_else(|| by_type().filter(&mut takes))
            .or_else(|| unknown().filter(&mut takes))
    }

    /// The same where there are filters on other fields: each kind and each combination in its turn.
    #[inline(never)]
    fn find_in_turn(
        &self,
        header: &Header,
        flow: FrameActions,
        vlan: Vlan,
        mut takes: impl FnMut(&Rule) -> bool,
    ) -> Option<Rule> {
        let link = FieldWords::of_header(header, vlan);
        let more = flow.actions.more.then_some(flow.head);
        let packet = more.and_then(|head| link.with_packet(head));
        let words = packet.unwrap_or(link);
        let macs = self.macs.get(header.dst.to_u64(), || vlan.to_u16());
        let to_group = header.dst.is_multicast() && !header.dst.is_broadcast();
        let mut turns = self.spaces.turns().iter();
        turns.find_map(|turn| {
            let rule = match *turn {
                Turn::Space(at) => self.spaces.get(at, &words, packet.is_some()),
                Turn::Flow => flow.actions.narrow,
                Turn::Local => flow.actions.wide,
                Turn::MacVlan => macs.narrow,
                Turn::Mac => macs.wide,
                Turn::EtherType => self.ethertypes.get(&header.ethertype),
                Turn::UnknownMulticast => self.unknown_multicast.filter(|_| to_group),
            };
            rule.filter(&mut takes)
        })
    }

    /// What is said about stations that nobody has.
    pub(crate) fn unknown_unicast(&self) -> Option<Rule> {
        self.unknown_unicast
    }

    #[inline(never)]
    fn any_flow(&self, head: &[u8]) -> Option<Actions> {
        let flow = Header::parse(head).ok()?.flow(head)?;
        let (src, dst) = flow.ports?;
        match (flow.dst, flow.src) {
            (IpAddr::V4(local), IpAddr::V4(remote)) => Some(
                self.v4
                    .get(local4(local.to_bits(), dst, flow.protocol), || {
                        end4(remote.to_bits(), src)
                    }),
            ),
            (IpAddr::V6(local), IpAddr::V6(remote)) => Some(
                self.v6
                    .get(local6(local.to_bits(), dst, flow.protocol), || {
                        (remote.to_bits(), src)
                    }),
            ),
            _ => None,
        }
    }
}

/// A frame as [`plain_flow4`] sees it.
enum Plain {
    /// To a port that no filter names, if it has ports at all.
    Unnamed,
    /// This flow.
    Flow(Local4, End4),
    /// Something else.
    No,
}

/// The flow of a whole IPv4 packet of TCP or UDP without options behind at most one tag: of nearly all there are.
#[inline(always)]
fn plain_flow4(head: &[u8], named: &Ports) -> Plain {
    let Some(packet) = PlainIpv4::of_frame(head) else {
        return Plain::No;
    };
    if !named.contains(packet.dst_port()) {
        return Plain::Unnamed;
    }
    if !packet.has_ports() {
        return Plain::No;
    }
    let local = local4(packet.dst(), packet.dst_port(), packet.protocol());
    Plain::Flow(local, end4(packet.src(), packet.src_port()))
}

fn local4(ip: u32, port: u16, protocol: u8) -> Local4 {
    u64::from(ip) << 32 | u64::from(port) << 8 | u64::from(protocol)
}

fn end4(ip: u32, port: u16) -> End4 {
    u64::from(ip) << 16 | u64::from(port)
}

fn local6(ip: u128, port: u16, protocol: u8) -> Local6 {
    (ip, u32::from(port) << 8 | u32::from(protocol))
}

impl<W: Copy + Hash + Eq, N: Copy + Hash + Eq> Family<W, N> {
    fn new(seed: u64) -> Family<W, N> {
        Family {
            wide: CowMap::new(seed),
            narrow: CowMap::new(seed),
        }
    }

    #[inline]
    fn is_empty(&self) -> bool {
        self.wide.is_empty()
    }

    fn set(&mut self, key: W, rule: Option<Rule>) {
        self.change(key, |wide| wide.rule = rule);
    }

    fn set_narrow(&mut self, key: W, further: N, rule: Option<Rule>) {
        let was = self.narrow.put((key, further), rule);
        self.change(key, |wide| {
            wide.narrower = wide.narrower + u32::from(rule.is_some()) - u32::from(was);
        });
    }

    fn change(&mut self, key: W, change: impl FnOnce(&mut Wide)) {
        let mut wide = self.wide.get(&key).unwrap_or_default();
        change(&mut wide);
        let empty = wide.rule.is_none() && wide.narrower == 0;
        self.wide.put(key, (!empty).then_some(wide));
    }

    #[inline]
    fn get(&self, key: W, further: impl FnOnce() -> N) -> Actions {
        let Some(wide) = self.wide.get(&key) else {
            return Actions::default();
        };
        Actions {
            narrow: match wide.narrower {
                0 => None,
                _ => self.narrow.get(&(key, further())),
            },
            wide: wide.rule,
            more: false,
        }
    }
}
