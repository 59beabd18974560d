//! Where the headers of a TCP frame are. Looks at a private copy of a frame's first bytes, and never behind them.

use vf_packet::{be16, is_vlan_tpid};

/// Where the headers of a TCP frame are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TcpLayout {
    /// IPv6, else IPv4.
    pub(crate) v6: bool,
    /// Offset of the IP header.
    pub(crate) ip: usize,
    /// Offset of the TCP header.
    pub(crate) tcp: usize,
    /// Offset of the first payload byte; the headers up to here were all in the parsed bytes.
    pub(crate) payload: usize,
}

const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_IPV6: u16 = 0x86dd;
/// The protocol number of TCP.
pub(crate) const PROTO_TCP: u8 = 6;

impl TcpLayout {
    /// Offset of the checksum in a TCP header.
    pub(crate) const CHECKSUM: usize = 16;

    /// Parses Ethernet, at most two VLAN tags, IPv4 or IPv6 with options that are not fragments,
    /// and TCP; `None` unless all of it is there and inside `head`.
    pub(crate) fn parse(head: &[u8]) -> Option<TcpLayout> {
        let mut at = 12;
        let mut ethertype = be16(head, at)?;
        for _ in 0..2 {
            if is_vlan_tpid(ethertype) {
                at += 4;
                ethertype = be16(head, at)?;
            }
        }
        let ip = at + 2;
        let (v6, tcp) = match ethertype {
            ETHERTYPE_IPV4 => (false, tcp_in_ipv4(head, ip)?),
            ETHERTYPE_IPV6 => (true, tcp_in_ipv6(head, ip)?),
            _ => return None,
        };
        let tcp_len = usize::from(head.get(tcp + 12)? >> 4) * 4;
        let payload = tcp + tcp_len;
        (tcp_len >= 20 && payload <= head.len()).then_some(TcpLayout {
            v6,
            ip,
            tcp,
            payload,
        })
    }
}

fn tcp_in_ipv4(head: &[u8], ip: usize) -> Option<usize> {
    let first = *head.get(ip)?;
    let len = usize::from(first & 15) * 4;
    let fragment = be16(head, ip + 6)? & 0x3fff;
    (first >> 4 == 4 && len >= 20 && fragment == 0 && *head.get(ip + 9)? == PROTO_TCP)
        .then_some(ip + len)
}

fn tcp_in_ipv6(head: &[u8], ip: usize) -> Option<usize> {
    const HOP_BY_HOP: u8 = 0;
    const ROUTING: u8 = 43;
    const DESTINATION: u8 = 60;
    if head.get(ip)? >> 4 != 6 {
        return None;
    }
    let mut next = *head.get(ip + 6)?;
    let mut at = ip + 40;
    // Each round moves `at` on by 8 or more, so the end of `head` ends it.
    while matches!(next, HOP_BY_HOP | ROUTING | DESTINATION) {
        next = *head.get(at)?;
        at += (usize::from(*head.get(at + 1)?) + 1) * 8;
    }
    (next == PROTO_TCP).then_some(at)
}
