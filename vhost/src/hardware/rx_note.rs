//! What a NIC says of a received frame beside its bytes. Read from the frame's private head. Never touches guest memory.

use std::fmt;

use vf_packet::checksum::Sum;
use vf_packet::{Header, IpHeader, PROTO_SCTP, PROTO_TCP, PROTO_UDP, PartialChecksum};

use crate::frame::TagEdit;

/// See the module. One word: a core that has put a whole together of parts cannot read it before all that it wrote earlier has
/// reached memory, the payload of frames among it.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct RxNote(u64);

/// Of the word: the tag's control information is below, whether there is one, whether checksums are right, the two kinds, whether
/// there is a hash and ports are in it, how many tags there are and whether an IPv4 header is wrong; the hash is its upper half.
const TAGGED: u64 = 1 << 16;
const CHECKED: u64 = 1 << 17;
const NETWORK: u32 = 18;
const TRANSPORT: u32 = 20;
const HASHED: u64 = 1 << 22;
const PORTS: u64 = 1 << 23;
const TAGS: u32 = 24;
const BAD_IP: u64 = 1 << 26;
const HASH: u32 = 32;

impl RxNote {
    /// The version of IP, what is in the packet, whether the checksums of both are known to be right (if not, nobody has looked), and
    /// the control information of an 802.1Q tag that was taken out of the frame.
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

    /// Whether the checksums of both are known to be right. If not, nobody has looked.
    #[must_use]
    #[inline]
    pub fn checked(self) -> bool {
        self.0 & CHECKED != 0
    }

    /// VLAN tags in front of the packet, 2 at most, if its [headers are looked at](super::DescriptorFormat::checks_headers).
    #[must_use]
    #[inline]
    pub fn tags(self) -> u8 {
        (self.0 >> TAGS & 3) as u8
    }

    /// Whether the packet has an IPv4 header whose checksum is wrong, if its [headers are looked at](super::DescriptorFormat::checks_headers).
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
    /// What there is to say of a frame that starts with `head`, whose checksums are `checked` or not.
    #[must_use]
    pub(crate) fn of(head: &[u8], checked: bool, vlan: Option<u16>) -> RxNote {
        let (network, transport) = kinds(head).unwrap_or_default();
        RxNote::new(network, transport, checked, vlan)
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

fn kinds(head: &[u8]) -> Option<(Network, Transport)> {
    let link = Header::parse(head).ok()?;
    let ip = IpHeader::parse(link.ethertype, head.get(usize::from(link.l3_offset)..)?)?;
    let network = if ip.v6 { Network::Ipv6 } else { Network::Ipv4 };
    let transport = match ip.protocol {
        _ if ip.fragment => Transport::Other,
        PROTO_TCP => Transport::Tcp,
        PROTO_UDP => Transport::Udp,
        PROTO_SCTP => Transport::Sctp,
        _ => Transport::Other,
    };
    Some((network, transport))
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
