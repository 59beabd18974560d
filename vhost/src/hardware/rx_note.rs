//! What a NIC says of a received frame beside its bytes. Read from the frame's private head. Never touches guest memory.

use std::fmt;

use vf_packet::checksum::{PieceSum, Sum};
use vf_packet::{Header, IpHeader, PROTO_SCTP, PROTO_TCP, PROTO_UDP, PartialChecksum};

use crate::frame::TagEdit;

/// See the module. One word: a core that has put a whole together of parts cannot read it before all that it wrote earlier has
/// reached memory, the payload of frames among it.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct RxNote(u64);

/// Of the word: the tag's control information is below, whether there is one, whether somebody vouches for checksums, the two kinds, whether
/// there is a hash and ports are in it, how many tags there are and whether an IPv4 header is wrong, what else the packet is, and whether the
/// checksum of what it carries was found to be right or wrong; the hash is its upper half.
const TAGGED: u64 = 1 << 16;
const CHECKED: u64 = 1 << 17;
const NETWORK: u32 = 18;
const TRANSPORT: u32 = 20;
const HASHED: u64 = 1 << 22;
const PORTS: u64 = 1 << 23;
const TAGS: u32 = 24;
const BAD_IP: u64 = 1 << 26;
const EXTENDED: u64 = 1 << 27;
const PART: u64 = 1 << 28;
const ARP: u64 = 1 << 29;
const RIGHT: u64 = 1 << 30;
const WRONG: u64 = 1 << 31;
const HASH: u32 = 32;

impl RxNote {
    /// The version of IP, what is in the packet, whether somebody vouches for the checksums of both, and the control information of an 802.1Q tag that
    /// was taken out of the frame.
    #[must_use]
    #[inline]
    pub fn new(network: Network, transport: Transport, checked: bool, vlan: Option<u16>) -> RxNote {
        let kinds = (network as u64) << NETWORK | (transport as u64) << TRANSPORT;
        let checked = if checked { CHECKED } else { 0 };
        let vlan = vlan.map_or(0, |vlan| TAGGED | u64::from(vlan));
        RxNote(kinds | checked | vlan)
    }

    /// The same note, and the hash of the frame's flow if there is one.
    #[must_use]
    #[inline]
    pub fn with_hash(self, hash: Option<RxHash>) -> RxNote {
        let Some(RxHash { value, ports }) = hash else {
            return self;
        };
        let ports = if ports { PORTS } else { 0 };
        RxNote(self.0 | HASHED | ports | u64::from(value) << HASH)
    }

    /// The hash of its flow, if the NIC makes one and the frame is IP.
    #[must_use]
    #[inline]
    pub fn hash(self) -> Option<RxHash> {
        (self.0 & HASHED != 0).then_some(RxHash {
            value: (self.0 >> HASH) as u32,
            ports: self.0 & PORTS != 0,
        })
    }

    /// The version of IP.
    #[must_use]
    #[inline]
    pub fn network(self) -> Network {
        match self.0 >> NETWORK & 3 {
            1 => Network::Ipv4,
            2 => Network::Ipv6,
            _ => Network::Other,
        }
    }

    /// What is in the packet.
    #[must_use]
    #[inline]
    pub fn transport(self) -> Transport {
        match self.0 >> TRANSPORT & 3 {
            1 => Transport::Tcp,
            2 => Transport::Udp,
            3 => Transport::Sctp,
            _ => Transport::Other,
        }
    }

    /// Whether somebody vouches for the checksums of both: who has made them here.
    #[must_use]
    #[inline]
    pub fn checked(self) -> bool {
        self.0 & CHECKED != 0
    }

    /// Whether the checksum of the TCP or UDP packet is right; `None` if that is not known: it has none, is a part of a packet, or its
    /// [checksums are not looked at](super::DescriptorFormat::checks_sums).
    #[must_use]
    #[inline]
    pub fn transport_is_right(self) -> Option<bool> {
        match self.0 & (CHECKED | RIGHT | WRONG) {
            0 => None,
            known => Some(known & WRONG == 0),
        }
    }

    /// Whether there is more to the IP header than its fixed part: options or extension headers.
    #[must_use]
    #[inline]
    pub fn has_extensions(self) -> bool {
        self.0 & EXTENDED != 0
    }

    /// Whether it is a part of a packet.
    #[must_use]
    #[inline]
    pub fn is_fragment(self) -> bool {
        self.0 & PART != 0
    }

    /// Whether it is no IP packet but one of ARP.
    #[must_use]
    #[inline]
    pub fn is_arp(self) -> bool {
        self.0 & ARP != 0
    }

    /// VLAN tags in front of the packet, 2 at most, if its [checksums are looked at](super::DescriptorFormat::checks_sums).
    #[must_use]
    #[inline]
    pub fn tags(self) -> u8 {
        (self.0 >> TAGS & 3) as u8
    }

    /// Whether the packet has an IPv4 header whose checksum is wrong, if its [checksums are looked at](super::DescriptorFormat::checks_sums).
    #[must_use]
    #[inline]
    pub fn has_bad_ip_checksum(self) -> bool {
        self.0 & BAD_IP != 0
    }

    /// The control information of an 802.1Q tag that was taken out of the frame.
    #[must_use]
    #[inline]
    pub fn vlan(self) -> Option<u16> {
        u16::try_from(self.0 & 0xffff)
            .ok()
            .filter(|_| self.0 & TAGGED != 0)
    }
}

impl fmt::Debug for RxNote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RxNote")
            .field("network", &self.network())
            .field("transport", &self.transport())
            .field("checked", &self.checked())
            .field("vlan", &self.vlan())
            .field("hash", &self.hash())
            .field("tags", &self.tags())
            .field("has_bad_ip_checksum", &self.has_bad_ip_checksum())
            .field("transport_is_right", &self.transport_is_right())
            .field("has_extensions", &self.has_extensions())
            .field("is_fragment", &self.is_fragment())
            .field("is_arp", &self.is_arp())
            .finish()
    }
}

/// The hash by which flows are spread over queues (RSS).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RxHash {
    /// The hash.
    pub value: u32,
    /// Whether it is of the ports as well as of the addresses.
    pub ports: bool,
}

/// A version of IP.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Network {
    /// Something else.
    #[default]
    Other,
    /// IPv4.
    Ipv4,
    /// IPv6.
    Ipv6,
}

/// The EtherType of ARP.
const ETHERTYPE_ARP: u16 = 0x0806;

/// What a packet carries.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Transport {
    /// Something else, or a part of a packet.
    #[default]
    Other,
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

const TPID: [u8; 2] = [0x81, 0];

impl RxNote {
    /// What there is to say of a frame that starts with `head`, whose checksums somebody vouches for or not.
    #[must_use]
    pub(crate) fn of(head: &[u8], checked: bool, vlan: Option<u16>) -> RxNote {
        let (network, transport, more) = kinds(head).unwrap_or_default();
        RxNote(RxNote::new(network, transport, checked, vlan).0 | more)
    }

    /// The same note, and that the checksum of what the packet carries was found to be right or wrong.
    #[must_use]
    pub(crate) fn with_transport(self, is_right: bool) -> RxNote {
        RxNote(self.0 | if is_right { RIGHT } else { WRONG })
    }

    /// The same note, and what there is to say of the headers of the frame, which starts with `head` and gets this edit.
    #[must_use]
    pub(crate) fn with_headers(self, head: &[u8], edit: TagEdit) -> RxNote {
        let Ok(link) = Header::parse(head) else {
            return self;
        };
        let tags = link.tags.as_slice().len();
        let tags = match edit {
            TagEdit::Insert(_) => tags.saturating_add(1).min(2),
            TagEdit::Strip => tags.saturating_sub(1),
            _ => tags,
        };
        let unchecked = self.network() == Network::Ipv4 && !self.checked();
        let packet = head.get(usize::from(link.l3_offset)..);
        let bad = unchecked && !packet.is_some_and(is_summed_up);
        RxNote(self.0 | (tags as u64) << TAGS | if bad { BAD_IP } else { 0 })
    }
}

/// Whether the checksum of the IPv4 header that a packet begins with is right.
fn is_summed_up(packet: &[u8]) -> bool {
    let words = packet.first().map_or(0, |first| usize::from(first & 0xf));
    let header = packet.get(..words.saturating_mul(4)).filter(|_| words >= 5);
    header.is_some_and(|header| Sum::default().with(header).checksum() == 0)
}

/// Whether who has made the checksum of this frame that begins at `start` has made that of what the packet carries, and not of what is in a
/// packet within it, and the header of the packet is right as well: then both are.
pub(crate) fn vouches(frame: &[u8], checksum: PartialChecksum) -> bool {
    let of_packet = || {
        let link = Header::parse(frame).ok()?;
        let packet = frame.get(usize::from(link.l3_offset)..)?;
        let ip = IpHeader::parse(link.ethertype, packet)?;
        let field = match ip.protocol {
            _ if ip.fragment => return None,
            PROTO_TCP => 16,
            PROTO_UDP => 6,
            _ => return None,
        };
        let start = usize::from(link.l3_offset).saturating_add(ip.transport);
        let made = (usize::from(checksum.start), checksum.offset);
        Some(made == (start, field) && (ip.v6 || is_summed_up(packet)))
    };
    of_packet().unwrap_or(false)
}

/// The kinds of a packet, and the bits of what else it is.
fn kinds(head: &[u8]) -> Option<(Network, Transport, u64)> {
    let link = Header::parse(head).ok()?;
    if link.ethertype == ETHERTYPE_ARP {
        return Some((Network::Other, Transport::Other, ARP));
    }
    let ip = IpHeader::parse(link.ethertype, head.get(usize::from(link.l3_offset)..)?)?;
    let fixed = if ip.v6 { 40 } else { 20 };
    let extended = if ip.transport > fixed { EXTENDED } else { 0 };
    let part = if ip.fragment { PART } else { 0 };
    let network = if ip.v6 { Network::Ipv6 } else { Network::Ipv4 };
    let transport = match ip.protocol {
        _ if ip.fragment => Transport::Other,
        PROTO_TCP => Transport::Tcp,
        PROTO_UDP => Transport::Udp,
        PROTO_SCTP => Transport::Sctp,
        _ => Transport::Other,
    };
    Some((network, transport, extended | part))
}

/// The checksum of the TCP or UDP packet in a frame for which nobody vouches, as a NIC looks whether it is right: begun with its head, and to go on
/// with what is behind that.
#[derive(Debug)]
pub(crate) struct TransportSum {
    sum: PieceSum,
    /// Bytes of the packet that are not summed up yet.
    left: usize,
}

impl TransportSum {
    /// Of a frame of `len` bytes that begins with `head`. None if there is no such packet or only a part of one, if it is not all there or has no
    /// checksum, and if its own length is another than that of the IP packet leaves for it.
    pub(crate) fn of(head: &[u8], len: usize) -> Option<TransportSum> {
        let link = Header::parse(head).ok()?;
        let l3 = usize::from(link.l3_offset);
        let packet = head.get(l3..)?;
        let ip = IpHeader::parse(link.ethertype, packet)?;
        let (end, dst) = (ip.end?, ip.final_dst?);
        if ip.fragment || l3.checked_add(end)? > len {
            return None;
        }
        let length = u16::try_from(end.checked_sub(ip.transport)?).ok()?;
        let header = packet.get(ip.transport..)?;
        match (ip.protocol, header) {
            (PROTO_TCP, [_, _, ..]) if length >= 20 && header.len() >= 20 => {}
            (PROTO_UDP, [_, _, _, _, a, b, c, d, ..])
                if [*c, *d] != [0, 0] && u16::from_be_bytes([*a, *b]) == length => {}
            _ => return None,
        }
        let (src, size): (usize, usize) = if ip.v6 { (8, 16) } else { (12, 4) };
        let mut sum = PieceSum::default();
        sum.add(packet.get(src..src.checked_add(size)?)?);
        sum.add(packet.get(dst..dst.checked_add(size)?)?);
        sum.add(&[0, ip.protocol]);
        sum.add(&length.to_be_bytes());
        let left = usize::from(length);
        let mut begun = TransportSum { sum, left };
        begun.add(header);
        Some(begun)
    }

    /// Whether there is more of the packet.
    pub(crate) fn goes_on(&self) -> bool {
        self.left > 0
    }

    /// Goes on with what comes next in the frame; what is behind the packet does not count.
    pub(crate) fn add(&mut self, bytes: &[u8]) {
        let bytes = bytes.get(..self.left).unwrap_or(bytes);
        self.sum.add(bytes);
        self.left = self.left.saturating_sub(bytes.len());
    }

    /// Whether the checksum is right. Of one that was not all there nothing was found.
    pub(crate) fn is_right(&self) -> Option<bool> {
        // As a checksum of zero is written.
        (!self.goes_on()).then(|| self.sum.checksum() == 0xffff)
    }
}

/// What becomes of the edit of a frame that starts with `head` if the tag that it then has is taken out, and that tag. One behind a
/// tag that is taken out anyway stays in the frame.
pub(crate) fn strip(edit: TagEdit, head: &[u8]) -> (TagEdit, Option<u16>) {
    match (edit, head) {
        (TagEdit::Insert([0x81, 0, tci @ ..]), _) => (TagEdit::Keep, Some(u16::from_be_bytes(tci))),
        (TagEdit::Keep, head) => match head.get(12..18) {
            Some(&[a, b, c, d, ..]) if [a, b] == TPID => {
                (TagEdit::Strip, Some(u16::from_be_bytes([c, d])))
            }
            _ => (edit, None),
        },
        _ => (edit, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_says_what_it_was_made_of() {
        let networks = [Network::Other, Network::Ipv4, Network::Ipv6];
        let transports = [Transport::Sctp, Transport::Udp, Transport::Tcp];
        for (network, transport) in networks.into_iter().zip(transports) {
            for checked in [false, true] {
                for vlan in [None, Some(0), Some(1), Some(u16::MAX)] {
                    for (hash, ports) in [(None, false), (Some(0), true), (Some(u32::MAX), false)] {
                        let hash = hash.map(|value| RxHash { value, ports });
                        let note = RxNote::new(network, transport, checked, vlan).with_hash(hash);
                        let said = (note.network(), note.transport());
                        assert_eq!(said, (network, transport));
                        assert_eq!((note.checked(), note.vlan()), (checked, vlan));
                        assert_eq!(note.hash(), hash);
                    }
                }
            }
        }
        assert_eq!(RxNote::default(), RxNote::of(&[], false, None));
    }

    #[test]
    fn what_is_said_of_headers_is_what_they_are() {
        let ip = [
            0x45, 0, 0, 20, 0, 0, 0, 0, 64, 17, 0x66, 0xd7, 10, 0, 0, 1, 10, 0, 0, 2,
        ];
        let frame = |tags: usize| {
            let mut frame = vec![0; 12];
            frame.extend([0x81, 0, 0, 5].repeat(tags));
            frame.extend([8, 0]);
            frame.extend(ip);
            frame
        };
        let insert = TagEdit::Insert([0x81, 0, 0, 7]);
        for (tags, edit, then) in [
            (0, TagEdit::Keep, 0),
            (1, TagEdit::Keep, 1),
            (2, TagEdit::Keep, 2),
            (0, insert, 1),
            (2, insert, 2),
            (1, TagEdit::Strip, 0),
        ] {
            let mut head = frame(tags);
            let said = |head: &[u8], checked| {
                let note = RxNote::of(head, checked, None).with_headers(head, edit);
                (note.tags(), note.has_bad_ip_checksum())
            };
            assert_eq!(said(&head, false), (then, false), "{tags} {edit:?}");
            *head.last_mut().unwrap() = 3;
            assert_eq!(said(&head, false), (then, true));
            assert_eq!(said(&head, true), (then, false), "somebody vouches for it");
        }
        let none = RxNote::default();
        assert_eq!(none.with_headers(&[0; 9], TagEdit::Keep), none);
    }

    #[test]
    fn what_else_a_packet_is_is_told() {
        let frame = |ethertype: [u8; 2], packet: &[u8]| {
            let head = [&[2; 12], &ethertype[..], packet].concat();
            let note = RxNote::of(&head, false, None);
            assert_eq!(note.transport_is_right(), None);
            (note.has_extensions(), note.is_fragment(), note.is_arp())
        };
        let mut v4 = [0; 40];
        (v4[0], v4[9]) = (0x45, 17);
        assert_eq!(frame([8, 0], &v4), (false, false, false));
        v4[0] = 0x46;
        assert_eq!(frame([8, 0], &v4), (true, false, false));
        v4[6] = 0x20;
        assert_eq!(frame([8, 0], &v4), (true, true, false));
        assert_eq!(frame([8, 6], &v4), (false, false, true));
        let mut v6 = [0; 60];
        v6[0] = 0x60;
        // Hop-by-hop options, and UDP behind them.
        (v6[6], v6[40]) = (0, 17);
        assert_eq!(frame([0x86, 0xdd], &v6), (true, false, false));
    }

    /// UDP over IPv4 with 90 bytes behind the head, the last two of them padding.
    #[test]
    fn a_checksum_is_looked_at_without_what_is_behind_its_packet() {
        let mut frame = [&[2; 12][..], &[8, 0, 0x45, 0, 0, 130]].concat();
        frame.extend([0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
        frame.extend([0, 53, 0, 53, 0, 110, 0, 0]);
        frame.extend((0..102).map(|n| n as u8));
        let (end, field) = (frame.len(), 40);
        assert_eq!(end, 144);
        let found = vf_packet::partial_checksum(&mut frame, 144)
            .unwrap()
            .unwrap();
        let made = found.partial;
        vf_packet::checksum::complete(&mut frame, made.start, made.offset).unwrap();
        frame.extend([0xaa, 0xbb]);
        let found = |frame: &[u8], head: usize, cut: usize| {
            let mut sum = TransportSum::of(&frame[..head], frame.len())?;
            assert_eq!(sum.goes_on(), head < end);
            for piece in frame[head..].chunks(cut) {
                sum.add(piece);
            }
            sum.is_right()
        };
        for (head, cut) in [(144, 1), (146, 1), (54, 7), (54, 64), (55, 64), (100, 33)] {
            assert_eq!(found(&frame, head, cut), Some(true), "{head} {cut}");
            let mut wrong = frame.clone();
            wrong[143] ^= 1;
            assert_eq!(found(&wrong, head, cut), Some(false), "{head} {cut}");
        }
        let left_out = TransportSum::of(&frame[..54], frame.len()).unwrap();
        assert_eq!(left_out.is_right(), None, "not all of it");
        // Too short for its packet; without a checksum; another length than the packet's; a part of one.
        assert_eq!(found(&frame[..143], 54, 64), None);
        for (at, bytes) in [(field, [0, 0]), (field - 2, [0, 109]), (20, [0x20, 0])] {
            let mut other = frame.clone();
            other[at..at + 2].copy_from_slice(&bytes);
            assert_eq!(found(&other, 54, 64), None, "{at}");
        }
        let note = RxNote::of(&frame, false, None);
        assert_eq!(note.with_transport(true).transport_is_right(), Some(true));
        assert_eq!(note.with_transport(false).transport_is_right(), Some(false));
        let vouched = RxNote::of(&frame, true, None);
        assert_eq!(vouched.transport_is_right(), Some(true));
    }

    #[test]
    fn a_tag_is_told_once() {
        let plain = [0u8; 60];
        let mut tagged = plain;
        tagged[12..18].copy_from_slice(&[0x81, 0, 0x20, 5, 8, 0]);
        let insert = TagEdit::Insert([0x81, 0, 0, 7]);
        let other = TagEdit::Insert([0x88, 0xa8, 0, 7]);
        for (edit, head, then) in [
            (TagEdit::Keep, &plain[..], (TagEdit::Keep, None)),
            (TagEdit::Keep, &tagged, (TagEdit::Strip, Some(0x2005))),
            (TagEdit::Keep, &tagged[..17], (TagEdit::Keep, None)),
            (insert, &plain, (TagEdit::Keep, Some(7))),
            (insert, &tagged, (TagEdit::Keep, Some(7))),
            (other, &plain, (other, None)),
            (TagEdit::Strip, &tagged, (TagEdit::Strip, None)),
        ] {
            assert_eq!(strip(edit, head), then, "{edit:?}");
        }
    }
}
