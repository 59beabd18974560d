//! What a NIC says of a received frame beside its bytes. Read from the frame's private head.

use vf_packet::{Header, IpHeader, PROTO_TCP, PROTO_UDP};

use crate::frame::TagEdit;

/// See the module.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RxNote {
    /// The version of IP.
    pub network: Network,
    /// What is in the packet.
    pub transport: Transport,
    /// Whether the checksums of both are known to be right. If not, nobody has looked.
    pub checked: bool,
    /// The control information of an 802.1Q tag that was taken out of the frame.
    pub vlan: Option<u16>,
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
}

const TPID: [u8; 2] = [0x81, 0];

impl RxNote {
    /// What there is to say of a frame that starts with `head`, whose checksums are `checked` or not.
    #[must_use]
    pub(crate) fn of(head: &[u8], checked: bool, vlan: Option<u16>) -> RxNote {
        let mut note = RxNote {
            checked,
            vlan,
            ..RxNote::default()
        };
        let Ok(link) = Header::parse(head) else {
            return note;
        };
        let packet = head.get(usize::from(link.l3_offset)..).unwrap_or_default();
        let Some(ip) = IpHeader::parse(link.ethertype, packet) else {
            return note;
        };
        note.network = if ip.v6 { Network::Ipv6 } else { Network::Ipv4 };
        note.transport = match ip.protocol {
            _ if ip.fragment => Transport::Other,
            PROTO_TCP => Transport::Tcp,
            PROTO_UDP => Transport::Udp,
            _ => Transport::Other,
        };
        note
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
