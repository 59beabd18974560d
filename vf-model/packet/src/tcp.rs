//! Where the headers of a TCP frame are. Looks at a private copy of a frame's first bytes, and never behind them.

use crate::{Header, IpHeader, PROTO_TCP, be16, is_vlan_tpid};

/// Why there is no [`TcpLayout`] of some bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LayoutError {
    /// They are no TCP packet, or none that may be cut into several.
    NotTcp,
    /// The headers go on behind them.
    Beyond,
}

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

    /// Among the flags of a TCP header: the congestion window has been reduced (RFC 3168).
    pub const CWR: u8 = 0x80;

    /// Parses Ethernet, VLAN tags, IPv4 or IPv6 with options, and TCP. All tags are stepped over, however many there are: what decides on
    /// a frame takes a third one for payload, but a super-frame in a port VLAN is cut behind that and two of its own.
    ///
    /// # Errors
    /// Not all of it is there, or it goes on behind `head`.
    #[inline]
    pub fn parse(head: &[u8]) -> Result<TcpLayout, LayoutError> {
        let not_tcp = LayoutError::NotTcp;
        let link = Header::parse(head).map_err(|_| not_tcp)?;
        let (mut ip, mut ethertype) = (usize::from(link.l3_offset), link.ethertype);
        while is_vlan_tpid(ethertype) {
            ethertype = be16(head, ip + 2).ok_or(LayoutError::Beyond)?;
            ip += 4;
        }
        let packet = head.get(ip..).ok_or(not_tcp)?;
        let header = IpHeader::parse(ethertype, packet).ok_or(not_tcp)?;
        if header.fragment || header.authenticated {
            return Err(not_tcp);
        }
        let tcp = ip + header.transport;
        // What ends within its extension headers has not said yet what it carries.
        let offset = head.get(tcp + 12).ok_or(LayoutError::Beyond)?;
        if header.protocol != PROTO_TCP {
            return Err(not_tcp);
        }
        let tcp_len = usize::from(offset >> 4) * 4;
        let payload = tcp + tcp_len;
        let dst = ip + header.final_dst.ok_or(not_tcp)?;
        if tcp_len < 20 {
            return Err(not_tcp);
        }
        if payload > head.len() {
            return Err(LayoutError::Beyond);
        }
        Ok(TcpLayout {
            v6: header.v6,
            ip,
            dst,
            tcp,
            payload,
        })
    }
}
