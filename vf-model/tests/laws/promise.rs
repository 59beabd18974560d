//! What the documentation promises, said plainly and without any table of the model: who receives which bytes. Knows the model by what is set only.

use std::collections::BTreeMap;
use std::net::IpAddr;

use vf_model::{
    DriverAction, FilterAction, FilterMatch, FilterPriority, FilterSpec, FlowEnd, Header, MacAddr,
    MatchFields, Mtu, Policy, Privileges, Profile, Source, SwitchMode, TagEdit, Transport,
    UnknownIn, VfIndex, VfLinkState, Vid, VlanProto,
};

use crate::VFS;
use crate::host::{Host, edited};

/// The transport and both ends of a frame of those that [`crate::any::any_frame`] makes.
pub(crate) fn flow_of(bytes: &[u8]) -> Option<(Transport, FlowEnd, FlowEnd)> {
    let (protocol, src, dst, ports) = packet_of(bytes)?;
    let transport = [Transport::Tcp, Transport::Udp];
    let transport = transport.into_iter().find(|t| t.protocol() == protocol)?;
    let (from, to) = ports?;
    let end = |ip, port| FlowEnd { ip, port };
    Some((transport, end(dst, to), end(src, from)))
}

/// Protocol, source and destination, and ports.
pub(crate) type Packet = (u8, IpAddr, IpAddr, Option<(u16, u16)>);

/// What filters look at in a packet of those that [`crate::any::any_frame`] makes.
pub(crate) fn packet_of(bytes: &[u8]) -> Option<Packet> {
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
        (0x800, 0x45 | 0x46) => {
            let (protocol, whole) = (bytes[ip + 9], word(ip + 6) & 0x3fff == 0);
            let l4 = ip + usize::from(bytes[ip] & 0xf) * 4;
            let ports = ports(protocol, l4).filter(|_| whole);
            Some((protocol, v4(ip + 12), v4(ip + 16), ports))
        }
        (0x86dd, 0x60) => {
            let (protocol, l4) = match bytes[ip + 6] {
                0 => (bytes[ip + 40], ip + 48),
                protocol => (protocol, ip + 40),
            };
            Some((protocol, v6(ip + 8), v6(ip + 24), ports(protocol, l4)))
        }
        _ => None,
    }
}

/// Whether each field that there is matches.
pub(crate) fn has_fields(fields: &MatchFields, bytes: &[u8], tag: Option<(u16, u16)>) -> bool {
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
pub(crate) fn rank(spec: &FilterSpec) -> (Vec<bool>, Vec<u32>) {
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

/// Whether a frame with this tag, to a station that nobody has or not, is one of those that a filter is on.
fn is_met(
    matches: &FilterMatch,
    bytes: &[u8],
    tag: Option<(u16, u16)>,
    unknown_unicast: bool,
) -> bool {
    let dst = MacAddr(bytes[..6].try_into().unwrap());
    match *matches {
        FilterMatch::Full {
            transport,
            local,
            remote,
        } => flow_of(bytes) == Some((transport, local, remote)),
        FilterMatch::Local { transport, local } => {
            flow_of(bytes).is_some_and(|(t, l, _)| (t, l) == (transport, local))
        }
        FilterMatch::MacVlan { mac, vid } => mac == dst && tag == Some((0x8100, vid.get())),
        FilterMatch::Mac(mac) => mac == dst,
        FilterMatch::EtherType(proto) => proto == Header::parse(bytes).unwrap().ethertype,
        FilterMatch::UnknownMulticast => dst.is_multicast() && !dst.is_broadcast(),
        FilterMatch::UnknownUnicast => unknown_unicast,
        FilterMatch::Fields(fields) => has_fields(&fields, bytes, tag),
        FilterMatch::Egress { .. } => false,
    }
}

/// Whether the first of the filters that are a driver's own drops a frame that its VF receives.
fn driver_drops(policy: &Policy, vf: VfIndex, bytes: &[u8], tag: Option<(u16, u16)>) -> bool {
    let filters = policy
        .driver_filters(vf)
        .iter()
        .filter(|f| !f.is_in_table());
    let mut met: Vec<_> = filters
        .filter(|filter| is_met(&filter.matches(), bytes, tag, false))
        .collect();
    met.sort_by_key(|filter| {
        std::cmp::Reverse(rank(&FilterSpec {
            matches: filter.matches(),
            action: FilterAction::Drop,
            priority: FilterPriority::Auto,
        }))
    });
    met.first()
        .is_some_and(|filter| filter.action() == DriverAction::Drop)
}

/// Every filter in turn: the first in force that matches a frame with this tag and does not send it to a VF that takes no
/// part in the frame's VLAN, and whom those before it have it copied to.
pub(crate) fn steered(
    policy: &Policy,
    bytes: &[u8],
    tag: Option<(u16, u16)>,
    unknown_unicast: bool,
    receives: impl Fn(VfIndex) -> bool,
) -> (Option<FilterSpec>, Vec<VfIndex>) {
    let mut specs: Vec<FilterSpec> = policy.filter_table().iter().collect();
    specs.sort_by_key(|s| std::cmp::Reverse((rank(s), s.priority)));
    specs.dedup_by_key(|s| s.matches);
    let matches = |spec: &FilterSpec| is_met(&spec.matches, bytes, tag, unknown_unicast);
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
pub(crate) fn lets_out(
    policy: &Policy,
    vf: VfIndex,
    bytes: &[u8],
    tag: Option<(u16, u16)>,
) -> bool {
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
pub(crate) fn promised(
    host: &Host,
    source: Source,
    bytes: &[u8],
) -> (BTreeMap<u8, Vec<u8>>, Option<Vec<u8>>) {
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
    let header = Header::parse(bytes).unwrap();
    if dst.is_reserved() || header.ethertype == 0x8808 {
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
        let free = |mac: &MacAddr| !host.taken.contains(&(vf, *mac));
        let chosen = asked(vf).mac;
        let chosen = chosen.filter(|mac| trusted(vf) || chooses(vf) && free(mac));
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
        let shared = policy.profile() == Profile::I40e;
        let room = match (few, shared) {
            (false, _) => 1024,
            (true, false) => 30,
            (true, true) => 16,
        };
        // Further addresses and groups lie in one table there.
        let taken = if shared { further(vf).count() } else { 0 };
        let listed =
            |groups: &Vec<MacAddr>| groups.iter().take(room - taken).any(|group| *group == dst);
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
    // An MTU counts what is behind the Ethernet header and its tags, which are two at most and a port VLAN's from elsewhere, and of a
    // super-frame a segment.
    let tagged = source == Source::Wire && matches!(header.ethertype, 0x8100 | 0x88a8 | 0x9100);
    let tags = header.tags.as_slice().len() as u32 + u32::from(tagged);
    let segment = host.cut.map_or(u32::MAX, u32::from);
    let payload = bytes.len() as u32 + host.beyond.min(segment) - 14 - 4 * tags;
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
            let intel = matches!(
                policy.profile(),
                Profile::Igb | Profile::Ixgbe | Profile::I40e
            );
            let in_vlan = takes_part(vf, tag) && (!intel || receives(vf, tag));
            if sender.spoofchk && !ended && !(has(vf, src, tag) && in_vlan) {
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
        all.retain(|vf, _| !driver_drops(policy, VfIndex(*vf), &on_the_way, tag));
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
    let flooded = from_wire && (group || !known);
    let reflected = |vf| flooded && mode == SwitchMode::Vepa && has(vf, src, tag);
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

pub(crate) fn has_no_switch(policy: &Policy) -> bool {
    matches!(policy.profile(), Profile::Falcon | Profile::Siena)
}
