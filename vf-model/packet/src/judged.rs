//! How far into a frame decisions look. Never makes one.

use crate::ip::{ETHERTYPE_IPV4, ETHERTYPE_IPV6, IpHeader, PROTO_SCTP, PROTO_TCP, PROTO_UDP};
use crate::{HEAD_MAX, Header};

/// Source and destination port.
const PORTS: usize = 4;

/// Bytes at the start of a frame, of which these are the first, that decide who may send it and who receives it: its Ethernet header and tags, its
/// IP header with all extension headers, and its ports. What is judged must be what is delivered, so nothing may write there afterwards: a
/// checksum is completed behind them, or not at all. They are all of `head` where a packet says that it is IP and is none as far as is
/// looked: a byte more could make one of it.
#[must_use]
pub fn judged_len(head: &[u8]) -> usize {
    let head = head.get(..HEAD_MAX).unwrap_or(head);
    let Ok(header) = Header::parse(head) else {
        return head.len();
    };
    let at = usize::from(header.l3_offset);
    let packet = header.packet(head);
    let Some(ip) = IpHeader::parse(header.ethertype, packet) else {
        return match header.ethertype {
            ETHERTYPE_IPV4 | ETHERTYPE_IPV6 => head.len(),
            _ => at,
        };
    };
    let has_ports = matches!(ip.protocol, PROTO_TCP | PROTO_UDP | PROTO_SCTP);
    let ports = has_ports && ip.ports(packet).is_some();
    at + ip.transport + if ports { PORTS } else { 0 }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::checksum::complete;

    const UDP: [u8; 46] = [
        2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 0x08, 0, // to, from, IPv4
        0x45, 0, 0, 32, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2, // IPv4
        3, 232, 0, 80, 0, 12, 0, 0, 1, 2, 3, 4, // UDP
    ];

    #[test]
    fn ports_are_judged_and_what_is_behind_them_is_not() {
        assert_eq!(judged_len(&UDP), 38);
        let tagged = [&UDP[..12], &[0x81, 0, 0, 5], &UDP[12..]].concat();
        assert_eq!(judged_len(&tagged), 42);
        let mut icmp = UDP;
        icmp[23] = 1;
        assert_eq!(judged_len(&icmp), 34);
        let mut fragment = UDP;
        fragment[21] = 100;
        assert_eq!(judged_len(&fragment), 34, "a later fragment has none");
        let mut other = UDP;
        other[12] = 0x88;
        assert_eq!(judged_len(&other), 14);
        assert_eq!(judged_len(&UDP[..10]), 10);
        let mut none = UDP;
        none[14] = 0x15;
        assert_eq!(judged_len(&none), 46, "its version could be written");
        assert_eq!(judged_len(&UDP[..33]), 33, "no whole IP header");
    }

    /// An IPv6 packet in which these extension headers (which, and how long) are, and another of this kind behind them.
    fn extended(chain: &[(u8, usize)], last: u8) -> Vec<u8> {
        let kinds = chain.iter().map(|(kind, _)| *kind).chain([last]);
        let kinds: Vec<_> = kinds.collect();
        let mut frame = UDP[..12].to_vec();
        frame.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, 200, kinds[0], 64]);
        frame.extend((0..32).map(|n| 0x20 + n));
        for ((kind, size), next) in chain.iter().zip(&kinds[1..]) {
            let length = match kind {
                51 => size / 4 - 2,
                _ => size / 8 - 1,
            };
            let at = frame.len();
            frame.extend([*next, length as u8]);
            frame.resize(at + size, 0);
        }
        frame.extend([17, 0]);
        frame
    }

    /// A fragment header of which two bytes are in the first 128 of the frame, and none in what is looked at.
    #[test]
    fn addresses_are_judged_wherever_extension_headers_end() {
        for size in (8..=88).step_by(8) {
            let mut frame = extended(&[(60, size)], 44);
            frame.resize(200, 0);
            for len in 54..frame.len() {
                assert!(judged_len(&frame[..len]) >= 54, "{size} {len}");
            }
        }
    }

    proptest! {
        /// The same where the end of what is looked at, or of the frame, is in one of several extension headers.
        #[test]
        fn what_is_written_behind_extension_headers_is_read_by_nobody(
            chain in prop::collection::vec(
                (prop::sample::select(vec![0u8, 43, 51, 60]), 1usize..10),
                0..3,
            ),
            last in prop::sample::select(vec![6u8, 17, 43, 44, 51, 60]),
            rest in prop::collection::vec(any::<u8>(), 0..120),
            field in 14usize..140,
            before in 0usize..8,
        ) {
            let chain: Vec<_> = chain.into_iter().map(|(kind, units)| (kind, 8 * units)).collect();
            let mut bytes = extended(&chain, last);
            bytes.extend(rest);
            prop_assume!(field >= judged_len(&bytes));
            let read = |bytes: &[u8]| {
                let head = &bytes[..bytes.len().min(HEAD_MAX)];
                let header = Header::parse(head).ok();
                (header, header.and_then(|header| header.flow(head)))
            };
            let was = read(&bytes);
            if complete(&mut bytes, (field - before) as u16, before as u16).is_ok() {
                prop_assert_eq!(read(&bytes), was);
            }
        }

        /// Whoever completes a checksum behind them leaves all that is read of a frame as it was.
        #[test]
        fn what_is_written_behind_them_is_read_by_nobody(
            mut bytes in prop::collection::vec(any::<u8>(), 14..160),
            kind in prop::sample::select(vec![0x0800u16, 0x86dd, 0x8100, 0x88a8, 0x0806]),
            version in prop::sample::select(vec![0x45u8, 0x46, 0x60]),
            protocol in prop::sample::select(vec![0u8, 6, 17, 43, 44, 60, 132, 1]),
            start in 0u16..160,
            offset in 0u16..40,
        ) {
            bytes[12..14].copy_from_slice(&kind.to_be_bytes());
            for (at, byte) in [(14, version), (20, protocol), (23, protocol)] {
                if let Some(to) = bytes.get_mut(at) {
                    *to = byte;
                }
            }
            let field = usize::from(start) + usize::from(offset);
            prop_assume!(field >= judged_len(&bytes));
            let head = |bytes: &[u8]| bytes[..bytes.len().min(HEAD_MAX)].to_vec();
            let before = head(&bytes);
            let read = |head: &[u8]| {
                let header = Header::parse(head).ok();
                (header, header.and_then(|header| header.flow(head)))
            };
            if complete(&mut bytes, start, offset).is_ok() {
                prop_assert_eq!(read(&head(&bytes)), read(&before));
            }
        }
    }
}
