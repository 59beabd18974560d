//! Where the headers of a TCP frame are. Looks at a private copy of a frame's first bytes, and never behind them.

use crate::{Header, IpHeader, PROTO_TCP};

/// Where the headers of a frame are that carries a whole TCP packet, and that may be cut into several: it is no fragment, no
/// authentication header vouches for it, and its headers say where it goes in the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TcpLayout {
    /// IPv6, else IPv4.
    pub v6: bool,
    /// Offset of the IP header.
    pub ip: usize,
    /// Offset of the address that the TCP checksum takes for the destination.
    pub dst: usize,
    /// Offset of the TCP header.
    pub tcp: usize,
    /// Offset of the first payload byte; the headers up to here were all in the parsed bytes.
    pub payload: usize,
}

impl TcpLayout {
    /// Offset of the checksum in a TCP header.
    pub const CHECKSUM: usize = 16;

    /// Parses Ethernet, at most two VLAN tags, IPv4 or IPv6 with options, and TCP; `None` unless all of it is there and
    /// inside `head`.
    #[inline]
    #[must_use]
    pub fn parse(head: &[u8]) -> Option<TcpLayout> {
        let link = Header::parse(head).ok()?;
        let ip = usize::from(link.l3_offset);
        let header = IpHeader::parse(link.ethertype, head.get(ip..)?)?;
        if header.protocol != PROTO_TCP || header.fragment || header.authenticated {
            return None;
        }
        let tcp = ip + header.transport;
        let tcp_len = usize::from(head.get(tcp + 12)? >> 4) * 4;
        let payload = tcp + tcp_len;
        let dst = ip + header.final_dst?;
        (tcp_len >= 20 && payload <= head.len()).then_some(TcpLayout {
            v6: header.v6,
            ip,
            dst,
            tcp,
            payload,
        })
    }
}
