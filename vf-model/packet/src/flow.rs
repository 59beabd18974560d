//! The flow that a frame belongs to: addresses, protocol and ports of an IPv4 or IPv6 packet, for filters on flows and for
//! choosing among a VF's queues. Never looks behind the first [`HEAD_LEN`] bytes of a frame.

use std::net::IpAddr;

use crate::{ETHERTYPE_IPV4, Header, IpHeader, PROTO_TCP, PROTO_UDP, be16, is_vlan_tpid};

/// How far into a packet is looked, so that the same is found on both paths: a tag that was put in on the way moves the
/// packet's end out of a head of fixed length. A multiple of four, as all IP headers are long: none of their fields is halved.
const DEPTH: usize = 96;
/// Bytes of a frame that decide where it goes: addresses, two tags, type and the beginning of the packet.
pub const HEAD_LEN: usize = 22 + DEPTH;

/// Addresses, protocol and ports of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FlowKey {
    /// Source address.
    pub src: IpAddr,
    /// Destination address.
    pub dst: IpAddr,
    /// The protocol behind the IP header and its extensions.
    pub protocol: u8,
    /// Source and destination port of TCP and UDP, if it [has some](IpHeader::ports).
    pub ports: Option<(u16, u16)>,
}

impl Header {
    /// What decisions look at of the packet behind this header, from the same bytes that the header was parsed from: whoever reads
    /// more or less of it may find another packet.
    #[inline]
    #[must_use]
    pub fn packet<'a>(&self, head: &'a [u8]) -> &'a [u8] {
        let packet = head.get(usize::from(self.l3_offset)..).unwrap_or_default();
        packet.get(..DEPTH).unwrap_or(packet)
    }

    /// The flow of an IP packet, from the same bytes that the header was parsed from.
    #[inline]
    #[must_use]
    pub fn flow(&self, head: &[u8]) -> Option<FlowKey> {
        let packet = self.packet(head);
        let ip = IpHeader::parse(self.ethertype, packet)?;
        let (src, dst) = if ip.v6 {
            let src: [u8; 16] = *packet.get(8..)?.first_chunk()?;
            let dst: [u8; 16] = *packet.get(24..)?.first_chunk()?;
            (IpAddr::from(src), IpAddr::from(dst))
        } else {
            let src: [u8; 4] = *packet.get(12..)?.first_chunk()?;
            let dst: [u8; 4] = *packet.get(16..)?.first_chunk()?;
            (IpAddr::from(src), IpAddr::from(dst))
        };
        Some(FlowKey {
            src,
            dst,
            protocol: ip.protocol,
            ports: match ip.protocol {
                PROTO_TCP | PROTO_UDP => ip.ports(packet),
                _ => None,
            },
        })
    }
}

/// An IPv4 packet without options behind at most one tag, as nearly all are: the same of it as [`Header::flow`] says, read a
/// piece at a time, so that a port that nobody asks for ends the reading.
#[derive(Clone, Copy, Debug)]
pub struct PlainIpv4<'a>(&'a [u8; 24]);

impl<'a> PlainIpv4<'a> {
    /// The packet in the frame that begins with these bytes, if it is of this kind and 24 bytes of it are there.
    #[inline]
    #[must_use]
    pub fn of_frame(head: &'a [u8]) -> Option<PlainIpv4<'a>> {
        let behind = |tag: usize| head.get(14 + tag..)?.first_chunk::<24>();
        let (ethertype, packet) = match be16(head, 12) {
            Some(tpid) if is_vlan_tpid(tpid) => (be16(head, 16), behind(4)),
            ethertype => (ethertype, behind(0)),
        };
        let packet = packet.filter(|_| ethertype == Some(ETHERTYPE_IPV4))?;
        (packet[0] == 0x45).then_some(PlainIpv4(packet))
    }

    /// The destination port, if it has ports at all.
    #[inline]
    #[must_use]
    pub fn dst_port(self) -> u16 {
        u16::from_be_bytes([self.0[22], self.0[23]])
    }

    /// The source port, if it has ports at all.
    #[inline]
    #[must_use]
    pub fn src_port(self) -> u16 {
        u16::from_be_bytes([self.0[20], self.0[21]])
    }

    /// Whether it has ports: it is TCP's or UDP's, no fragment, and does not end before them.
    #[inline]
    #[must_use]
    pub fn has_ports(self) -> bool {
        let whole = u16::from_be_bytes([self.0[6], self.0[7]]) & 0x3fff == 0;
        let ends_before = matches!(u16::from_be_bytes([self.0[2], self.0[3]]), 1..24);
        whole && !ends_before && matches!(self.0[9], PROTO_TCP | PROTO_UDP)
    }

    /// The protocol.
    #[inline]
    #[must_use]
    pub fn protocol(self) -> u8 {
        self.0[9]
    }

    /// Source address as a number.
    #[inline]
    #[must_use]
    pub fn src(self) -> u32 {
        self.be32(12)
    }

    /// Destination address as a number.
    #[inline]
    #[must_use]
    pub fn dst(self) -> u32 {
        self.be32(16)
    }

    #[inline]
    fn be32(self, at: usize) -> u32 {
        u32::from_be_bytes([0, 1, 2, 3].map(|i| self.0[at + i]))
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use proptest::prelude::*;

    use super::*;

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
        let length = extensions.len() as u8 + 8;
        let mut packet = vec![0x60, 0, 0, 0, 0, length, first, 64];
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
        // What is behind the length that a packet states is padding; a super-frame's may be zero.
        for (v6, at, fixed) in [(false, 17, 20), (true, 19, 0)] {
            for (length, has) in [
                (fixed, v6),
                (fixed + 3, false),
                (fixed + 4, true),
                (0, true),
            ] {
                let mut padded = if v6 { udp6(&[], 17) } else { udp4([0, 0]) };
                padded[at] = length;
                let ports = Some((0x1234, 0x5678)).filter(|_| has);
                assert_eq!(flow(&padded).ports, ports, "{v6} {length}");
                let plain = PlainIpv4::of_frame(&padded);
                assert!(
                    plain.is_none_or(|plain| plain.has_ports() == has),
                    "{length}"
                );
            }
        }
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
