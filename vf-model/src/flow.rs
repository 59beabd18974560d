//! The flow that a frame belongs to: addresses, protocol and ports of an IPv4 or IPv6 packet, for filters on flows and for
//! choosing among a VF's queues. Never panics and never follows more than a few extension headers.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::frame::{Header, be16};

/// Most IPv6 extension headers that are walked.
const MAX_EXTENSIONS: usize = 8;
/// How far into a packet is looked, so that the same is found on both paths: a tag that was put in on the way moves the
/// packet's end out of a head of fixed length.
const DEPTH: usize = 96;
/// Bytes of a frame that decide where it goes: addresses, two tags, type and the beginning of the packet.
pub const HEAD_LEN: usize = 22 + DEPTH;

/// Addresses, protocol and ports of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct FlowKey {
    /// Source address.
    pub(crate) src: IpAddr,
    /// Destination address.
    pub(crate) dst: IpAddr,
    /// The protocol behind the IP header and its extensions.
    pub(crate) protocol: u8,
    /// Source and destination port of TCP and UDP. Fragments have none, for all must go the same way although only the
    /// first knows.
    pub(crate) ports: Option<(u16, u16)>,
}

const TCP: u8 = 6;
const UDP: u8 = 17;

impl Header {
    /// The flow of an IP packet, from the same bytes that the header was parsed from.
    #[inline]
    pub(crate) fn flow(&self, head: &[u8]) -> Option<FlowKey> {
        let packet = head.get(usize::from(self.l3_offset)..)?;
        let packet = packet.get(..DEPTH).unwrap_or(packet);
        match self.ethertype {
            0x0800 => ipv4(packet),
            0x86dd => ipv6(packet),
            _ => None,
        }
    }
}

fn ipv4(packet: &[u8]) -> Option<FlowKey> {
    let header = packet.first_chunk::<20>()?;
    let header_len = usize::from(header[0] & 0xf) * 4;
    if header[0] >> 4 != 4 || header_len < 20 {
        return None;
    }
    let [.., a, b, c, d, e, f, g, h] = *header;
    let protocol = header[9];
    // RFC 791: more-fragments bit and offset.
    let fragment = u16::from_be_bytes([header[6], header[7]]) & 0x3fff != 0;
    let payload = packet.get(header_len..).unwrap_or(&[]);
    Some(FlowKey {
        src: Ipv4Addr::new(a, b, c, d).into(),
        dst: Ipv4Addr::new(e, f, g, h).into(),
        protocol,
        ports: match fragment {
            true => None,
            false => ports(protocol, payload),
        },
    })
}

fn ipv6(packet: &[u8]) -> Option<FlowKey> {
    let header = packet.first_chunk::<40>()?;
    if header[0] >> 4 != 6 {
        return None;
    }
    let src: [u8; 16] = *packet.get(8..)?.first_chunk()?;
    let dst: [u8; 16] = *packet.get(24..)?.first_chunk()?;
    let mut protocol = header[6];
    let mut payload = &packet[40..];
    let mut fragment = false;
    for _ in 0..MAX_EXTENSIONS {
        // RFC 8200 4: hop-by-hop, routing, fragment, destination options; RFC 4302: authentication.
        let &[next, length, ..] = payload else {
            break;
        };
        let size = match protocol {
            0 | 43 | 60 => 8 + 8 * usize::from(length),
            51 => 8 + 4 * usize::from(length),
            44 => {
                // An atomic fragment (offset 0, nothing follows) is a whole packet, RFC 6946.
                fragment |= be16(payload, 2)? & 0xfff9 != 0;
                8
            }
            _ => break,
        };
        protocol = next;
        payload = payload.get(size..).unwrap_or(&[]);
    }
    Some(FlowKey {
        src: Ipv6Addr::from(src).into(),
        dst: Ipv6Addr::from(dst).into(),
        protocol,
        ports: match fragment {
            true => None,
            false => ports(protocol, payload),
        },
    })
}

fn ports(protocol: u8, payload: &[u8]) -> Option<(u16, u16)> {
    matches!(protocol, TCP | UDP).then_some(())?;
    Some((be16(payload, 0)?, be16(payload, 2)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn frame(ethertype: u16, payload: &[u8]) -> Vec<u8> {
        let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
        frame.extend(ethertype.to_be_bytes());
        frame.extend(payload);
        frame
    }

    fn udp4(fragment: [u8; 2]) -> Vec<u8> {
        let mut packet = vec![0x45, 0, 0, 28, 0, 0];
        packet.extend(fragment);
        packet.extend([64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
        packet.extend([0x12, 0x34, 0x56, 0x78, 0, 8, 0, 0]);
        frame(0x800, &packet)
    }

    fn udp6(extensions: &[u8], first: u8) -> Vec<u8> {
        let mut packet = vec![0x60, 0, 0, 0, 0, 8, first, 64];
        packet.extend([0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
        packet.extend([0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2]);
        packet.extend(extensions);
        packet.extend([0x12, 0x34, 0x56, 0x78, 0, 8, 0, 0]);
        frame(0x86dd, &packet)
    }

    fn flow(frame: &[u8]) -> FlowKey {
        Header::parse(frame).unwrap().flow(frame).unwrap()
    }

    #[test]
    fn ipv4_flow_and_fragments() {
        let whole = flow(&udp4([0x40, 0]));
        assert_eq!(whole.src, IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1)));
        assert_eq!(whole.dst, IpAddr::V4(Ipv4Addr::new(10, 0, 0, 2)));
        assert_eq!((whole.protocol, whole.ports), (17, Some((0x1234, 0x5678))));
        let (first, later) = (udp4([0x20, 0]), udp4([0, 1]));
        assert_eq!(flow(&first).ports, None);
        assert_eq!(flow(&first), flow(&later));
    }

    #[test]
    fn ipv6_extensions_are_walked() {
        let plain = flow(&udp6(&[], 17));
        assert_eq!((plain.protocol, plain.ports), (17, Some((0x1234, 0x5678))));
        let mut chain = vec![60, 0, 0, 0, 0, 0, 0, 0]; // hop-by-hop, then destination options of 16 bytes
        chain.extend([17, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(flow(&udp6(&chain, 0)), plain);
        let fragment = flow(&udp6(&[17, 0, 0, 1, 0, 0, 0, 1], 44));
        assert_eq!((fragment.protocol, fragment.ports), (17, None));
        let atomic = flow(&udp6(&[17, 0, 0, 0, 0, 0, 0, 1], 44));
        assert_eq!(atomic, plain);
    }

    #[test]
    fn only_tcp_and_udp_have_ports_and_only_whole_ones() {
        let whole = udp4([0, 0]);
        assert_eq!(flow(&whole[..37]).ports, None);
        let mut icmp = whole.clone();
        icmp[23] = 1;
        assert_eq!(flow(&icmp).ports, None);
        let mut arp = whole;
        arp[13] = 6;
        assert_eq!(Header::parse(&arp).unwrap().flow(&arp), None);
    }

    proptest! {
        #[test]
        fn any_bytes_have_a_flow_or_none(
            ethertype in prop_oneof![Just(0x800u16), Just(0x86dd), Just(0x806), any::<u16>()],
            first in prop_oneof![Just(0x45u8), Just(0x4f), Just(0x60), any::<u8>()],
            next in prop_oneof![Just(0u8), Just(43), Just(44), Just(51), Just(60)],
            mut payload in proptest::collection::vec(any::<u8>(), 0..120),
        ) {
            if let Some(byte) = payload.first_mut() { *byte = first; }
            if let Some(byte) = payload.get_mut(6) { *byte = next; }
            let frame = frame(ethertype, &payload);
            if let Ok(header) = Header::parse(&frame) {
                let _ = header.flow(&frame);
            }
        }
    }
}
