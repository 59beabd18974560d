//! What a frame carries: ARP, or the flow of an IPv4 or IPv6 packet. Only for choosing among a VF's queues and for showing;
//! nothing is dropped for what is found here. Never panics and never follows more than a few extension headers.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::frame::{Header, be16};

/// Most IPv6 extension headers that are walked.
const MAX_EXTENSIONS: usize = 8;
/// How far into a packet a filter looks, so that it finds the same on both paths: a tag that was put in on the way moves
/// the packet's end out of a head of fixed length.
const FILTER_DEPTH: usize = 96;
/// Bytes of a frame that decide who receives it: addresses, two tags, type and the beginning of the packet.
pub const HEAD_LEN: usize = 22 + FILTER_DEPTH;

/// Addresses, protocol and ports of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FlowKey {
    /// Source address.
    pub src: IpAddr,
    /// Destination address.
    pub dst: IpAddr,
    /// The protocol behind the IP header and its extensions.
    pub protocol: u8,
    /// Source and destination port of TCP and UDP; for ICMP echo the identifier twice. Zeros for everything else and
    /// for fragments, all of which must go the same way although only the first knows.
    pub ports: (u16, u16),
}

/// What lies behind the Ethernet header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum L3 {
    /// An ARP packet for IPv4.
    Arp {
        /// 1 asks, 2 answers.
        operation: u16,
        /// Whose address is told.
        sender: Ipv4Addr,
        /// Whose address is asked for, or who is told.
        target: Ipv4Addr,
    },
    /// An IPv4 or IPv6 packet.
    Ip(FlowKey),
    /// Anything else, and packets that end within their header.
    Other,
}

const ICMP: u8 = 1;
const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMPV6: u8 = 58;

impl Header {
    /// Looks behind the Ethernet header, at the same bytes that it was parsed from.
    #[must_use]
    pub fn l3(&self, head: &[u8]) -> L3 {
        let packet = head.get(usize::from(self.l3_offset)..).unwrap_or(&[]);
        match self.ethertype {
            0x0800 => ipv4(packet),
            0x86dd => ipv6(packet),
            0x0806 => arp(packet),
            _ => None,
        }
        .unwrap_or(L3::Other)
    }

    /// The flow that a filter can match, if there is one.
    #[inline]
    pub(crate) fn flow(&self, head: &[u8]) -> Option<FlowKey> {
        let end = usize::from(self.l3_offset) + FILTER_DEPTH;
        match self.l3(head.get(..end).unwrap_or(head)) {
            L3::Ip(flow) => Some(flow),
            L3::Arp { .. } | L3::Other => None,
        }
    }

    /// A hash of the flow: equal for all frames of a flow, fragments of a packet included. Of the MAC addresses and the
    /// type if there is no flow.
    #[must_use]
    pub fn flow_hash(&self, head: &[u8]) -> u32 {
        let mut state = 0;
        match self.l3(head) {
            L3::Ip(flow) => {
                for address in [flow.src, flow.dst] {
                    let wide = match address {
                        IpAddr::V4(v4) => u128::from(v4.to_bits()),
                        IpAddr::V6(v6) => v6.to_bits(),
                    };
                    state = mix(state, (wide >> 64) as u64);
                    state = mix(state, wide as u64);
                }
                let ports = u64::from(flow.ports.0) << 16 | u64::from(flow.ports.1);
                state = mix(state, u64::from(flow.protocol) << 32 | ports);
            }
            L3::Arp { .. } | L3::Other => {
                state = mix(state, self.dst.to_u64());
                state = mix(state, self.src.to_u64() ^ u64::from(self.ethertype) << 48);
            }
        }
        (state >> 32) as u32
    }
}

fn mix(state: u64, word: u64) -> u64 {
    let x = (state ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (x ^ x >> 32).wrapping_mul(0xd6e8_feb8_6659_fd93)
}

fn arp(packet: &[u8]) -> Option<L3> {
    // RFC 826: Ethernet and IPv4 addresses of 6 and 4 bytes.
    if packet.get(..6)? != [0, 1, 8, 0, 6, 4] {
        return None;
    }
    let address = |at| {
        packet
            .get(at..)?
            .first_chunk::<4>()
            .map(|b| Ipv4Addr::from(*b))
    };
    Some(L3::Arp {
        operation: be16(packet, 6)?,
        sender: address(14)?,
        target: address(24)?,
    })
}

fn ipv4(packet: &[u8]) -> Option<L3> {
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
    Some(L3::Ip(FlowKey {
        src: Ipv4Addr::new(a, b, c, d).into(),
        dst: Ipv4Addr::new(e, f, g, h).into(),
        protocol,
        ports: if fragment {
            (0, 0)
        } else {
            ports(protocol, payload)
        },
    }))
}

fn ipv6(packet: &[u8]) -> Option<L3> {
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
    Some(L3::Ip(FlowKey {
        src: Ipv6Addr::from(src).into(),
        dst: Ipv6Addr::from(dst).into(),
        protocol,
        ports: if fragment {
            (0, 0)
        } else {
            ports(protocol, payload)
        },
    }))
}

fn ports(protocol: u8, payload: &[u8]) -> (u16, u16) {
    let at = |at| be16(payload, at).unwrap_or(0);
    match (protocol, payload.first()) {
        (TCP | UDP, _) => (at(0), at(2)),
        // RFC 792, RFC 4443: echo request and reply carry an identifier.
        (ICMP, Some(0 | 8)) | (ICMPV6, Some(128 | 129)) => (at(4), at(4)),
        _ => (0, 0),
    }
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

    fn l3(frame: &[u8]) -> L3 {
        Header::parse(frame).unwrap().l3(frame)
    }

    fn hash(frame: &[u8]) -> u32 {
        Header::parse(frame).unwrap().flow_hash(frame)
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
        match l3(frame) {
            L3::Ip(flow) => flow,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn ipv4_flow_and_fragments() {
        let whole = flow(&udp4([0x40, 0]));
        assert_eq!(whole.src, IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1)));
        assert_eq!(whole.dst, IpAddr::V4(Ipv4Addr::new(10, 0, 0, 2)));
        assert_eq!((whole.protocol, whole.ports), (17, (0x1234, 0x5678)));
        let (first, later) = (udp4([0x20, 0]), udp4([0, 1]));
        assert_eq!(flow(&first).ports, (0, 0));
        assert_eq!(hash(&first), hash(&later));
        assert_ne!(hash(&udp4([0, 0])), hash(&first));
    }

    #[test]
    fn ipv6_extensions_are_walked() {
        let plain = flow(&udp6(&[], 17));
        assert_eq!((plain.protocol, plain.ports), (17, (0x1234, 0x5678)));
        let mut chain = vec![60, 0, 0, 0, 0, 0, 0, 0]; // hop-by-hop, then destination options of 16 bytes
        chain.extend([17, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(flow(&udp6(&chain, 0)), plain);
        let fragment = flow(&udp6(&[17, 0, 0, 1, 0, 0, 0, 1], 44));
        assert_eq!((fragment.protocol, fragment.ports), (17, (0, 0)));
        let atomic = flow(&udp6(&[17, 0, 0, 0, 0, 0, 0, 1], 44));
        assert_eq!(atomic, plain);
    }

    #[test]
    fn arp_is_read() {
        let mut packet = vec![0, 1, 8, 0, 6, 4, 0, 1, 2, 0, 0, 0, 0, 2, 10, 0, 0, 2];
        packet.extend([0, 0, 0, 0, 0, 0, 10, 0, 0, 1]);
        assert_eq!(
            l3(&frame(0x806, &packet)),
            L3::Arp {
                operation: 1,
                sender: Ipv4Addr::new(10, 0, 0, 2),
                target: Ipv4Addr::new(10, 0, 0, 1),
            }
        );
        assert_eq!(l3(&frame(0x806, &packet[..27])), L3::Other);
    }

    #[test]
    fn echo_keeps_its_queue() {
        let mut packet = udp4([0, 0]).split_off(14);
        packet[9] = 1;
        packet[20..28].copy_from_slice(&[8, 0, 0, 0, 0xab, 0xcd, 0, 1]);
        let request = frame(0x800, &packet);
        assert_eq!(flow(&request).ports, (0xabcd, 0xabcd));
    }

    #[test]
    fn flows_spread_over_queues() {
        let mut hits = [0; 4];
        for port in 0u16..1000 {
            let mut frame = udp4([0, 0]);
            frame[34..36].copy_from_slice(&port.to_be_bytes());
            hits[hash(&frame) as usize % 4] += 1;
        }
        assert!(hits.iter().all(|&h| (180..320).contains(&h)), "{hits:?}");
    }

    proptest! {
        #[test]
        fn any_bytes_have_a_hash(
            ethertype in prop_oneof![Just(0x800u16), Just(0x86dd), Just(0x806), any::<u16>()],
            first in prop_oneof![Just(0x45u8), Just(0x4f), Just(0x60), any::<u8>()],
            next in prop_oneof![Just(0u8), Just(43), Just(44), Just(51), Just(60)],
            mut payload in proptest::collection::vec(any::<u8>(), 0..120),
        ) {
            if let Some(byte) = payload.first_mut() { *byte = first; }
            if let Some(byte) = payload.get_mut(6) { *byte = next; }
            let frame = frame(ethertype, &payload);
            if let Ok(header) = Header::parse(&frame) {
                prop_assert_eq!(header.flow_hash(&frame), header.flow_hash(&frame));
            }
        }
    }
}
