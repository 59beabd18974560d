//! An IPv4 or IPv6 header with all that follows it up to the transport header. Never reads what is behind that but its ports.
//!
//! The length that the header states decides nothing but whether there are ports: a super-frame's may be zero (virtio 5.1.9.2.2
//! has the device know it from the frame), and a super-frame and its segments are one flow.

use crate::be16;

/// The EtherType of IPv4.
pub const ETHERTYPE_IPV4: u16 = 0x0800;
/// The EtherType of IPv6.
pub const ETHERTYPE_IPV6: u16 = 0x86dd;
/// The protocol number of TCP.
pub const PROTO_TCP: u8 = 6;
/// The protocol number of UDP.
pub const PROTO_UDP: u8 = 17;
/// The protocol number of SCTP.
pub const PROTO_SCTP: u8 = 132;

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;
const DESTINATION: u8 = 60;

/// Most IPv6 extension headers that are walked.
const MAX_EXTENSIONS: usize = 8;

/// Where an IP header and its extension headers end, and what they say of what follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IpHeader {
    /// IPv6, else IPv4.
    pub v6: bool,
    /// The protocol behind the IP header and its extension headers.
    pub protocol: u8,
    /// Offset of the transport header from the IP header; it need not lie within the bytes that were read.
    pub transport: usize,
    /// Whether this is a part of a packet only. An atomic fragment is a whole packet (RFC 6946).
    pub fragment: bool,
    /// Offset of the address, from the IP header, that transport checksums take for the destination: the last one of a routing
    /// header that is not yet used up (RFC 8200 8.1). `None` if that is of a kind that does not say it.
    pub final_dst: Option<usize>,
    /// Whether an authentication header (RFC 4302) vouches for the bytes, so that no other may be made of them.
    pub authenticated: bool,
    /// Where the packet ends by the length that it states; `None` if it states none. What is behind it is padding.
    pub end: Option<usize>,
}

impl IpHeader {
    /// Reads the header of a packet from its first bytes; `ethertype` says which version it is. `None` if it is of another
    /// version or no IP packet at all, or if the fixed part of the header or a fragment header is not all there.
    #[inline]
    #[must_use]
    pub fn parse(ethertype: u16, packet: &[u8]) -> Option<IpHeader> {
        match ethertype {
            ETHERTYPE_IPV4 => ipv4(packet),
            ETHERTYPE_IPV6 => ipv6(packet),
            _ => None,
        }
    }

    /// Source and destination port of a packet of TCP, UDP or SCTP. A fragment has none, for all must go the same way although only the
    /// first knows, and neither has a packet that ends before them: what is behind its end is padding.
    #[inline]
    #[must_use]
    pub fn ports(&self, packet: &[u8]) -> Option<(u16, u16)> {
        let ends_before = self.end.is_some_and(|end| end < self.transport + 4);
        if self.fragment || ends_before {
            return None;
        }
        be16(packet, self.transport).zip(be16(packet, self.transport + 2))
    }
}

/// Where a packet ends that says so.
#[inline]
fn end(fixed: usize, stated: [u8; 2]) -> Option<usize> {
    let stated = usize::from(u16::from_be_bytes(stated));
    (stated > 0).then_some(fixed + stated)
}

#[inline]
fn ipv4(packet: &[u8]) -> Option<IpHeader> {
    let header = packet.first_chunk::<20>()?;
    let transport = usize::from(header[0] & 0xf) * 4;
    (header[0] >> 4 == 4 && transport >= 20).then_some(IpHeader {
        v6: false,
        protocol: header[9],
        transport,
        // RFC 791 3.1: the more-fragments bit and the offset.
        fragment: u16::from_be_bytes([header[6], header[7]]) & 0x3fff != 0,
        final_dst: Some(16),
        authenticated: header[9] == AUTHENTICATION,
        end: end(0, [header[2], header[3]]),
    })
}

#[inline]
fn ipv6(packet: &[u8]) -> Option<IpHeader> {
    let header = packet.first_chunk::<40>()?;
    if header[0] >> 4 != 6 {
        return None;
    }
    let mut ip = IpHeader {
        v6: true,
        protocol: header[6],
        transport: 40,
        fragment: false,
        final_dst: Some(24),
        authenticated: false,
        end: end(40, [header[4], header[5]]),
    };
    for _ in 0..MAX_EXTENSIONS {
        let Some(&[next, length, ..]) = packet.get(ip.transport..) else {
            break;
        };
        // RFC 8200 4.2: lengths are without the first 8 bytes; RFC 4302 2.2: in words of 4 bytes, without two of them.
        let size = match ip.protocol {
            HOP_BY_HOP | DESTINATION => 8 + 8 * usize::from(length),
            ROUTING => {
                let size = 8 + 8 * usize::from(length);
                match packet.get(ip.transport + 2..ip.transport + 4) {
                    Some([_, 0]) => {}
                    // RFC 5095 and RFC 6275: the last address of the list; RFC 8754: its first.
                    Some([0 | 2, _]) if length >= 2 => {
                        ip.final_dst = Some(ip.transport + size - 16)
                    }
                    Some([4, _]) if length >= 2 => ip.final_dst = Some(ip.transport + 8),
                    _ => ip.final_dst = None,
                }
                size
            }
            AUTHENTICATION => {
                ip.authenticated = true;
                8 + 4 * usize::from(length)
            }
            FRAGMENT => {
                ip.fragment |= be16(packet, ip.transport + 2)? & 0xfff9 != 0;
                8
            }
            _ => break,
        };
        ip.protocol = next;
        ip.transport += size;
    }
    Some(ip)
}
