//! What a filter looks at, field by field: which fields ([`MatchFlags`]), with which masks, and their values. Filters that
//! look at the same bits are one combination, found with one hash probe. Never looks at a filter's action or priority.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::net::IpAddr;

use bitflags::bitflags;
use vf_packet::{
    ETHERTYPE_IPV4, ETHERTYPE_IPV6, Header, IpHeader, MacAddr, PROTO_SCTP, PROTO_TCP, PROTO_UDP,
    Vid, Vlan,
};

use crate::filter_spec::{
    FAMILIES, FilterMatch, FlowEnd, MatchError, NOT_ZERO, PORTS, RESERVED, Transport,
};
use crate::vf::VfIndex;

bitflags! {
    /// The fields that a filter looks at. Their order is the order in which filters win: of two that match a frame the one
    /// wins that looks at the first field, from [`SENDER`](Self::SENDER) on, at which the other does not look.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
    pub struct MatchFlags: u16 {
        /// Which VF sends it.
        const SENDER = 1 << 12;
        /// Destination port.
        const DST_PORT = 1 << 11;
        /// Source port.
        const SRC_PORT = 1 << 10;
        /// Destination address of an IP packet.
        const DST_IP = 1 << 9;
        /// Source address of an IP packet.
        const SRC_IP = 1 << 8;
        /// The protocol behind the IP header and its extensions.
        const IP_PROTO = 1 << 7;
        /// Destination address.
        const DST_MAC = 1 << 6;
        /// Source address.
        const SRC_MAC = 1 << 5;
        /// The VLAN that the frame is in, by its outer tag or a port VLAN.
        const OUTER_VID = 1 << 4;
        /// The VLAN id of the second tag.
        const INNER_VID = 1 << 3;
        /// The type behind the tags; a filter on IP packets looks at it, too.
        const ETHER_TYPE = 1 << 2;
        /// Whether it is for a group that no other filter names.
        const UNKNOWN_MULTICAST = 1 << 1;
        /// Whether it is for a station that nobody has.
        const UNKNOWN_UNICAST = 1;
    }
}

impl MatchFlags {
    /// What is behind the Ethernet header.
    pub(crate) const FLOW: MatchFlags = MatchFlags::DST_PORT
        .union(MatchFlags::SRC_PORT)
        .union(MatchFlags::DST_IP)
        .union(MatchFlags::SRC_IP)
        .union(MatchFlags::IP_PROTO);
    /// One flow.
    pub(crate) const FULL: MatchFlags = MatchFlags::FLOW.union(MatchFlags::ETHER_TYPE);
    /// Its local end.
    pub(crate) const LOCAL: MatchFlags = MatchFlags::DST_PORT
        .union(MatchFlags::DST_IP)
        .union(MatchFlags::IP_PROTO)
        .union(MatchFlags::ETHER_TYPE);
    /// An address in a VLAN.
    pub(crate) const MAC_VLAN: MatchFlags = MatchFlags::DST_MAC.union(MatchFlags::OUTER_VID);
}

impl fmt::Display for MatchFlags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const NAMES: [(MatchFlags, &str); 13] = [
            (MatchFlags::SENDER, "vf"),
            (MatchFlags::DST_PORT, "dst-port"),
            (MatchFlags::SRC_PORT, "src-port"),
            (MatchFlags::DST_IP, "dst-ip"),
            (MatchFlags::SRC_IP, "src-ip"),
            (MatchFlags::IP_PROTO, "l4proto"),
            (MatchFlags::DST_MAC, "dst"),
            (MatchFlags::SRC_MAC, "src"),
            (MatchFlags::OUTER_VID, "vlan"),
            (MatchFlags::INNER_VID, "inner-vlan"),
            (MatchFlags::ETHER_TYPE, "proto"),
            (MatchFlags::UNKNOWN_MULTICAST, "unknown-multicast"),
            (MatchFlags::UNKNOWN_UNICAST, "unknown-unicast"),
        ];
        let mut plus = "";
        for (_, name) in NAMES.iter().filter(|(flag, _)| self.contains(*flag)) {
            write!(f, "{plus}{name}")?;
            plus = "+";
        }
        Ok(())
    }
}

/// A MAC address, of which only some bits matter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct MacMask {
    mac: MacAddr,
    /// The bits that matter.
    mask: MacAddr,
}

impl MacMask {
    /// The address itself.
    #[must_use]
    pub fn exact(mac: MacAddr) -> MacMask {
        MacMask::new(mac, MacAddr([0xff; 6]))
    }

    /// All addresses that are like this one in the bits that are set in `mask`.
    #[must_use]
    pub fn new(mac: MacAddr, mask: MacAddr) -> MacMask {
        let kept = std::array::from_fn(|i| mac.0[i] & mask.0[i]);
        MacMask {
            mac: MacAddr(kept),
            mask,
        }
    }

    /// Whether an address is one of those.
    #[must_use]
    pub fn has(&self, mac: MacAddr) -> bool {
        MacMask::new(mac, self.mask) == *self
    }

    /// The address, without the bits that do not matter.
    pub(crate) fn address(&self) -> MacAddr {
        self.mac
    }

    fn is_exact(&self) -> bool {
        self.mask == MacAddr([0xff; 6])
    }
}

impl fmt::Display for MacMask {
    /// With what ethtool calls its mask: the bits that do not matter.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.mac.fmt(f)?;
        match self.is_exact() {
            true => Ok(()),
            false => write!(f, " m {}", MacAddr(self.mask.0.map(|byte| !byte))),
        }
    }
}

/// An IP address, or all that begin with the same bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct IpPrefix {
    ip: IpAddr,
    len: u8,
}

impl IpPrefix {
    /// The address itself.
    #[must_use]
    pub fn exact(ip: IpAddr) -> IpPrefix {
        let len = if ip.is_ipv4() { 32 } else { 128 };
        IpPrefix { ip, len }
    }

    /// All addresses that begin with the first `len` bits of `ip`; `None` if it has not so many, or none is asked for.
    #[must_use]
    pub fn new(ip: IpAddr, len: u8) -> Option<IpPrefix> {
        let exact = IpPrefix::exact(ip);
        let prefix = IpPrefix { ip, len };
        let mask = prefix.mask();
        let ip = match ip {
            IpAddr::V4(ip) => IpAddr::V4((ip.to_bits() & mask as u32).into()),
            IpAddr::V6(ip) => IpAddr::V6((ip.to_bits() & mask).into()),
        };
        (1..=exact.len)
            .contains(&len)
            .then_some(IpPrefix { ip, len })
    }

    /// Whether an address begins so.
    #[must_use]
    pub fn has(&self, ip: IpAddr) -> bool {
        ip.is_ipv4() == self.ip.is_ipv4() && IpPrefix::new(ip, self.len) == Some(*self)
    }

    /// How many bits matter.
    pub(crate) fn len(&self) -> u8 {
        self.len
    }

    pub(crate) fn is_ipv4(&self) -> bool {
        self.ip.is_ipv4()
    }

    /// The bits that matter.
    fn mask(&self) -> u128 {
        let width = if self.ip.is_ipv4() { 32 } else { 128 };
        let all = u128::MAX >> (128 - width);
        all & !all.checked_shr(self.len.into()).unwrap_or(0)
    }

    fn bits(&self) -> u128 {
        bits(self.ip)
    }

    fn is_exact(&self) -> bool {
        IpPrefix::exact(self.ip) == *self
    }
}

impl fmt::Display for IpPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.ip.fmt(f)?;
        match self.is_exact() {
            true => Ok(()),
            false => write!(f, "/{}", self.len),
        }
    }
}

fn ethertype_of(ip: IpAddr) -> u16 {
    match ip {
        IpAddr::V4(_) => ETHERTYPE_IPV4,
        IpAddr::V6(_) => ETHERTYPE_IPV6,
    }
}

fn bits(ip: IpAddr) -> u128 {
    match ip {
        IpAddr::V4(ip) => ip.to_bits().into(),
        IpAddr::V6(ip) => ip.to_bits(),
    }
}

/// What a filter matches, field by field; a field that is not there matches everything. [`FilterMatch::of`] makes a match of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct MatchFields {
    /// Destination address.
    pub dst: Option<MacMask>,
    /// Source address.
    pub src: Option<MacMask>,
    /// The VLAN that the frame is in, a port VLAN included.
    pub vlan: Option<Vlan>,
    /// VLAN id of the second tag, whatever its kind.
    pub inner_vlan: Option<Vid>,
    /// Type behind the tags; that of IPv4 or IPv6 if there is any of the fields below.
    pub ethertype: Option<u16>,
    /// Protocol behind the IP header and its extensions; TCP, UDP or SCTP if there are ports.
    pub protocol: Option<u8>,
    /// Source address of an IP packet.
    pub src_ip: Option<IpPrefix>,
    /// Destination address of an IP packet.
    pub dst_ip: Option<IpPrefix>,
    /// Source port. Fragments have none.
    pub src_port: Option<u16>,
    /// Destination port.
    pub dst_port: Option<u16>,
}

/// The bits of a frame that filters look at: destination and VLAN; source and inner VLAN; who sends it, type, protocol and
/// ports; source and destination of an IP packet in two words each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct FieldWords(pub(crate) [u64; 7]);

impl Hash for FieldWords {
    /// Most combinations leave most words empty.
    fn hash<H: Hasher>(&self, state: &mut H) {
        for (word, turn) in self.0.iter().zip((0..).step_by(9)) {
            if *word != 0 {
                state.write_u64(word.rotate_left(turn));
            }
        }
    }
}

impl FieldWords {
    #[inline]
    pub(crate) fn masked(&self, mask: &FieldWords) -> FieldWords {
        FieldWords(std::array::from_fn(|i| self.0[i] & mask.0[i]))
    }

    fn with_ips(mut self, src: u128, dst: u128) -> FieldWords {
        let halves = |ip: u128| [(ip >> 64) as u64, ip as u64];
        let [.., a, b, c, d] = &mut self.0;
        ([*a, *b], [*c, *d]) = (halves(src), halves(dst));
        self
    }

    /// The words of a frame with this header in this VLAN, without what is behind the header.
    pub(crate) fn of_header(header: &Header, vlan: Vlan) -> FieldWords {
        let inner = header.tags.as_slice().get(1).map_or(0, |tag| tag.vid());
        FieldWords([
            header.dst.to_u64() << 16 | u64::from(vlan.to_u16()),
            header.src.to_u64() << 16 | u64::from(inner),
            u64::from(header.ethertype) << 40,
            0,
            0,
            0,
            0,
        ])
    }

    /// The same of a frame that this VF sends.
    pub(crate) fn sent_by(mut self, vf: VfIndex) -> FieldWords {
        self.0[2] |= u64::from(vf.0) << SENDER_SHIFT;
        self
    }

    /// The same with the IP packet that follows the header of the frame with these first bytes; `None` if none does.
    pub(crate) fn with_packet(self, head: &[u8]) -> Option<FieldWords> {
        let header = Header::parse(head).ok()?;
        let packet = header.packet(head);
        let ip = IpHeader::parse(header.ethertype, packet)?;
        let (src, dst) = match ip.v6 {
            false => {
                let at = |at: usize| Some(u32::from_be_bytes(*packet.get(at..)?.first_chunk()?));
                (at(12)?.into(), at(16)?.into())
            }
            true => {
                let at = |at: usize| Some(u128::from_be_bytes(*packet.get(at..)?.first_chunk()?));
                (at(8)?, at(24)?)
            }
        };
        let ports = match ip.protocol {
            PROTO_TCP | PROTO_UDP | PROTO_SCTP => ip.ports(packet).unwrap_or_default(),
            _ => (0, 0),
        };
        let mut words = self.with_ips(src, dst);
        words.0[2] |= u64::from(ip.protocol) << 32 | u64::from(ports.0) << 16 | u64::from(ports.1);
        Some(words)
    }
}

/// Where the sender is in its word.
const SENDER_SHIFT: u32 = 56;

/// Which bits filters look at: those that look at the same are found with one probe. The one that is less wins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Combination {
    flags: std::cmp::Reverse<MatchFlags>,
    /// How many bits of IP and MAC addresses: more go first.
    bits: std::cmp::Reverse<[u32; 4]>,
    mask: FieldWords,
}

impl Combination {
    pub(crate) fn flags(&self) -> MatchFlags {
        self.flags.0
    }

    pub(crate) fn mask(&self) -> &FieldWords {
        &self.mask
    }

    /// The same fields of a frame without masks.
    pub(crate) fn of_flags(flags: MatchFlags) -> Combination {
        Combination {
            flags: std::cmp::Reverse(flags),
            bits: std::cmp::Reverse([u32::MAX; 4]),
            mask: FieldWords::default(),
        }
    }
}

impl MatchFields {
    /// Which fields there are.
    #[must_use]
    pub fn flags(&self) -> MatchFlags {
        let mut flags = MatchFlags::empty();
        flags.set(MatchFlags::DST_PORT, self.dst_port.is_some());
        flags.set(MatchFlags::SRC_PORT, self.src_port.is_some());
        flags.set(MatchFlags::DST_IP, self.dst_ip.is_some());
        flags.set(MatchFlags::SRC_IP, self.src_ip.is_some());
        flags.set(MatchFlags::IP_PROTO, self.protocol.is_some());
        flags.set(MatchFlags::DST_MAC, self.dst.is_some());
        flags.set(MatchFlags::SRC_MAC, self.src.is_some());
        flags.set(MatchFlags::OUTER_VID, self.vlan.is_some());
        flags.set(MatchFlags::INNER_VID, self.inner_vlan.is_some());
        flags.set(MatchFlags::ETHER_TYPE, self.ethertype.is_some());
        flags
    }

    /// Whether no address has a mask.
    pub(crate) fn is_exact(&self) -> bool {
        let macs = [self.dst, self.src];
        let ips = [self.dst_ip, self.src_ip];
        macs.iter().flatten().all(MacMask::is_exact) && ips.iter().flatten().all(IpPrefix::is_exact)
    }

    /// Whether no address has a mask, and the VLAN is one of 802.1Q.
    pub(crate) fn is_plain(&self) -> bool {
        self.is_exact() && self.vlan.is_none_or(|vlan| !vlan.is_service())
    }

    /// Which bits it looks at, and what they are.
    pub(crate) fn combination(&self) -> (Combination, FieldWords) {
        let mac =
            |mac: Option<MacMask>| mac.map_or((0, 0), |mac| (mac.mask.to_u64(), mac.mac.to_u64()));
        let ip = |ip: Option<IpPrefix>| ip.map_or((0, 0), |ip| (ip.mask(), ip.bits()));
        let whole = |field: Option<u16>| field.map_or((0, 0), |v| (0xffff, u64::from(v)));
        let (dst, src) = (mac(self.dst), mac(self.src));
        let (src_ip, dst_ip) = (ip(self.src_ip), ip(self.dst_ip));
        let vlan = whole(self.vlan.map(Vlan::to_u16));
        let inner = whole(self.inner_vlan.map(Vid::get));
        let ethertype = whole(self.ethertype);
        let protocol = self.protocol.map_or((0, 0), |p| (0xff, u64::from(p)));
        let (from, to) = (whole(self.src_port), whole(self.dst_port));
        let words = |pick: fn((u64, u64)) -> u64, src_ip, dst_ip| {
            FieldWords([
                pick(dst) << 16 | pick(vlan),
                pick(src) << 16 | pick(inner),
                pick(ethertype) << 40 | pick(protocol) << 32 | pick(from) << 16 | pick(to),
                0,
                0,
                0,
                0,
            ])
            .with_ips(src_ip, dst_ip)
        };
        let bits = [
            dst_ip.0.count_ones(),
            src_ip.0.count_ones(),
            dst.0.count_ones(),
            src.0.count_ones(),
        ];
        let combination = Combination {
            flags: std::cmp::Reverse(self.flags()),
            bits: std::cmp::Reverse(bits),
            mask: words(|(mask, _)| mask, src_ip.0, dst_ip.0),
        };
        (combination, words(|(_, value)| value, src_ip.1, dst_ip.1))
    }

    /// # Errors
    /// [`MatchError`] if no frame could match, or all.
    pub(crate) fn check(&self) -> Result<(), MatchError> {
        let ports = [self.src_port, self.dst_port];
        let exact = |mac: Option<MacMask>| mac.filter(MacMask::is_exact).map(|mac| mac.mac);
        if self.flags().is_empty() {
            return Err(MatchError("a filter looks at one field at least"));
        }
        if ports.iter().flatten().any(|port| *port == 0) {
            return Err(MatchError(PORTS));
        }
        if [self.dst, self.src]
            .iter()
            .flatten()
            .any(|mac| mac.mask.0 == [0; 6])
        {
            return Err(MatchError("a mask leaves one bit at least that matters"));
        }
        if exact(self.dst).is_some_and(|mac| mac.0 == [0; 6]) {
            return Err(MatchError(NOT_ZERO));
        }
        if exact(self.dst).is_some_and(MacAddr::is_reserved) {
            return Err(MatchError(RESERVED));
        }
        let version = |ip: IpPrefix| ethertype_of(ip.ip);
        let ips = [self.src_ip, self.dst_ip].into_iter().flatten();
        let is_ip = matches!(self.ethertype, Some(ETHERTYPE_IPV4 | ETHERTYPE_IPV6));
        if ips.clone().any(|ip| self.ethertype != Some(version(ip)))
            || self.flags().intersects(MatchFlags::FLOW) && !is_ip
        {
            return Err(MatchError(FAMILIES));
        }
        let has_ports = matches!(self.protocol, Some(PROTO_TCP | PROTO_UDP | PROTO_SCTP));
        if ports.iter().flatten().next().is_some() && !has_ports {
            return Err(MatchError("ports are those of TCP, UDP and SCTP"));
        }
        match self.ethertype {
            Some(proto) => FilterMatch::EtherType(proto).check(),
            None => Ok(()),
        }
    }
}

impl FilterMatch {
    /// The match that looks at these fields: one of the kinds that NICs have tables for, if it is one.
    #[must_use]
    pub fn of(fields: MatchFields) -> FilterMatch {
        let other = FilterMatch::Fields(fields);
        if !fields.is_exact() {
            return other;
        }
        let transport = [Transport::Tcp, Transport::Udp];
        let mut transport = transport
            .into_iter()
            .filter(|t| Some(t.protocol()) == fields.protocol);
        let transport = transport.next();
        let end = |ip: Option<IpPrefix>, port: Option<u16>| {
            let ip = ip?.ip;
            (fields.ethertype == Some(ethertype_of(ip))).then_some(FlowEnd { ip, port: port? })
        };
        let local = end(fields.dst_ip, fields.dst_port);
        let remote = end(fields.src_ip, fields.src_port);
        let vid = fields.vlan.and_then(|vlan| Vid::new(vlan.to_u16()).ok());
        let kind = match fields.flags() {
            MatchFlags::FULL => {
                transport
                    .zip(local)
                    .zip(remote)
                    .map(|((transport, local), remote)| FilterMatch::Full {
                        transport,
                        local,
                        remote,
                    })
            }
            MatchFlags::LOCAL => transport
                .zip(local)
                .map(|(transport, local)| FilterMatch::Local { transport, local }),
            MatchFlags::MAC_VLAN => fields
                .dst
                .zip(vid)
                .map(|(dst, vid)| FilterMatch::MacVlan { mac: dst.mac, vid }),
            MatchFlags::DST_MAC => fields.dst.map(|dst| FilterMatch::Mac(dst.mac)),
            MatchFlags::ETHER_TYPE => fields.ethertype.map(FilterMatch::EtherType),
            _ => None,
        };
        kind.unwrap_or(other)
    }

    /// The fields that it looks at; none if it is about what is unknown.
    #[must_use]
    pub fn fields(&self) -> MatchFields {
        let none = MatchFields::default();
        let version = |ip: IpAddr| Some(ethertype_of(ip));
        let local_end = |transport: &Transport, local: &FlowEnd| MatchFields {
            ethertype: version(local.ip),
            protocol: Some(transport.protocol()),
            dst_ip: Some(IpPrefix::exact(local.ip)),
            dst_port: Some(local.port),
            ..none
        };
        match self {
            FilterMatch::Fields(fields) | FilterMatch::Egress { fields, .. } => *fields,
            FilterMatch::Full {
                transport,
                local,
                remote,
            } => MatchFields {
                src_ip: Some(IpPrefix::exact(remote.ip)),
                src_port: Some(remote.port),
                ..local_end(transport, local)
            },
            FilterMatch::Local { transport, local } => local_end(transport, local),
            FilterMatch::MacVlan { mac, vid } => MatchFields {
                dst: Some(MacMask::exact(*mac)),
                vlan: Some(Vlan::of_vid(*vid)),
                ..none
            },
            FilterMatch::Mac(mac) => MatchFields {
                dst: Some(MacMask::exact(*mac)),
                ..none
            },
            FilterMatch::EtherType(proto) => MatchFields {
                ethertype: Some(*proto),
                ..none
            },
            FilterMatch::UnknownMulticast | FilterMatch::UnknownUnicast => none,
        }
    }

    /// Which fields it looks at.
    #[must_use]
    pub fn flags(&self) -> MatchFlags {
        match self {
            FilterMatch::UnknownMulticast => MatchFlags::UNKNOWN_MULTICAST,
            FilterMatch::UnknownUnicast => MatchFlags::UNKNOWN_UNICAST,
            FilterMatch::Full { .. } => MatchFlags::FULL,
            FilterMatch::Local { .. } => MatchFlags::LOCAL,
            FilterMatch::MacVlan { .. } => MatchFlags::MAC_VLAN,
            FilterMatch::Mac(_) => MatchFlags::DST_MAC,
            FilterMatch::EtherType(_) => MatchFlags::ETHER_TYPE,
            FilterMatch::Fields(fields) => fields.flags(),
            FilterMatch::Egress { sender, fields } => {
                let named = sender.map_or(MatchFlags::empty(), |_| MatchFlags::SENDER);
                fields.flags().union(named)
            }
        }
    }

    /// Whether it is about what VFs send.
    #[must_use]
    pub fn is_egress(&self) -> bool {
        matches!(self, FilterMatch::Egress { .. })
    }

    /// Which bits it looks at, and what they are.
    pub(crate) fn combination(&self) -> (Combination, FieldWords) {
        let (mut combination, mut words) = self.fields().combination();
        combination.flags = std::cmp::Reverse(self.flags());
        if let FilterMatch::Egress {
            sender: Some(vf), ..
        } = self
        {
            combination.mask = combination.mask.sent_by(VfIndex(u8::MAX));
            words = words.sent_by(*vf);
        }
        (combination, words)
    }
}

impl Ord for FilterMatch {
    /// Those that win go first, and those on what VFs send, which nothing else wins against, last.
    fn cmp(&self, other: &FilterMatch) -> std::cmp::Ordering {
        let order = |matches: &FilterMatch| (matches.is_egress(), matches.combination());
        order(self).cmp(&order(other))
    }
}

impl PartialOrd for FilterMatch {
    fn partial_cmp(&self, other: &FilterMatch) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
