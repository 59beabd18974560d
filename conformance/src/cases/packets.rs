//! Packets of TCP and UDP over IP that a driver leaves something to do at, and what is right about one that comes of it. Sends nothing.

use crate::link::Link;
use vf_guest::net::{GSO_NONE, GSO_TCPV4, GSO_TCPV6, GSO_UDP_L4, HDR_NEEDS_CSUM, NetHeader};

/// Protocols of IP.
pub(super) const TCP: u8 = 6;
pub(super) const UDP: u8 = 17;
/// Bytes of an Ethernet header, and of one of TCP's.
pub(super) const L2: usize = 14;
pub(super) const TCP_HEADER: usize = 20;
/// A VLAN tag, and options: a router alert of IPv4's, time stamps of TCP's.
pub(super) const TAG: [u8; 4] = [0x81, 0, 0x60, 5];
pub(super) const IP_OPTIONS: [u8; 4] = [0x94, 4, 0, 0];
pub(super) const TCP_OPTIONS: [u8; 12] = [1, 1, 8, 10, 0xaa, 1, 2, 3, 0xbb, 4, 5, 6];

/// Makes the checksum of an IPv4 header right.
pub(super) fn ip_sum(frame: &mut [u8]) {
    frame[L2 + 10..L2 + 12].fill(0);
    let sum = !vf_guest::checksum::sum(&frame[L2..L2 + 20]);
    frame[L2 + 10..L2 + 12].copy_from_slice(&sum.to_be_bytes());
}

/// The same packet with a tag behind its addresses.
pub(super) fn behind_tag(
    (hdr, mut frame): (NetHeader, Vec<u8>),
    tag: [u8; 4],
) -> (NetHeader, Vec<u8>) {
    frame.splice(12..12, tag);
    (moved(hdr, 4), frame)
}

/// The same over IPv4 with time stamps in its TCP header, as nearly all have them.
pub(super) fn with_tcp_options((hdr, mut frame): (NetHeader, Vec<u8>)) -> (NetHeader, Vec<u8>) {
    const AT: usize = L2 + 20 + TCP_HEADER;
    frame.splice(AT..AT, TCP_OPTIONS);
    frame[AT - TCP_HEADER + 12] = 0x80;
    let total = (frame.len() - L2) as u16;
    frame[L2 + 2..L2 + 4].copy_from_slice(&total.to_be_bytes());
    ip_sum(&mut frame);
    let partial = pseudo(&frame, L2 + 20).to_be_bytes();
    frame[L2 + 36..L2 + 38].copy_from_slice(&partial);
    let hdr_len = hdr.hdr_len + TCP_OPTIONS.len() as u16;
    (NetHeader { hdr_len, ..hdr }, frame)
}

/// The same over IPv4 with a router alert in its IP header.
pub(super) fn with_ip_options((hdr, mut frame): (NetHeader, Vec<u8>)) -> (NetHeader, Vec<u8>) {
    const AT: usize = L2 + 20;
    frame.splice(AT..AT, IP_OPTIONS);
    frame[L2] = 0x46;
    let total = (frame.len() - L2) as u16;
    frame[L2 + 2..L2 + 4].copy_from_slice(&total.to_be_bytes());
    frame[L2 + 10..L2 + 12].fill(0);
    let sum = !vf_guest::checksum::sum(&frame[L2..AT + 4]);
    frame[L2 + 10..L2 + 12].copy_from_slice(&sum.to_be_bytes());
    (moved(hdr, 4), frame)
}

/// A header whose packet has grown in front of its transport header.
pub(super) fn moved(hdr: NetHeader, by: u16) -> NetHeader {
    NetHeader {
        hdr_len: if hdr.gso_type == GSO_NONE {
            hdr.hdr_len
        } else {
            hdr.hdr_len + by
        },
        csum_start: hdr.csum_start + by,
        ..hdr
    }
}

/// A packet with a partial checksum, and its header: of a super-frame if there is a segment size.
pub(super) fn packet(
    link: &Link,
    v6: bool,
    protocol: u8,
    len: usize,
    mss: usize,
) -> (NetHeader, Vec<u8>) {
    let l4_header = if protocol == TCP { TCP_HEADER } else { 8 };
    let l4_len = l4_header + len;
    let kind: [u8; 2] = if v6 { [0x86, 0xdd] } else { [8, 0] };
    let mut frame = [&link.dst[..], &link.src, &kind].concat();
    match v6 {
        true => {
            frame.extend([0x60, 0, 0, 0]);
            frame.extend((l4_len as u16).to_be_bytes());
            frame.extend([protocol, 64]);
            for last in [1, 2] {
                frame.extend([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, last]);
            }
        }
        false => {
            let mut ip = [
                0x45, 0, 0, 0, 0, 7, 0x40, 0, 64, protocol, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2,
            ];
            ip[2..4].copy_from_slice(&((20 + l4_len) as u16).to_be_bytes());
            let sum = !vf_guest::checksum::sum(&ip);
            ip[10..12].copy_from_slice(&sum.to_be_bytes());
            frame.extend(ip);
        }
    }
    let l4 = frame.len();
    frame.extend([0x13, 0x88, 0x13, 0x89]);
    match protocol {
        TCP => frame.extend([0, 0, 0, 0, 0, 0, 0, 0, 0x50, 0x10, 0xff, 0xff, 0, 0, 0, 0]),
        _ => {
            frame.extend((l4_len as u16).to_be_bytes());
            frame.extend([0, 0]);
        }
    }
    frame.extend((0..len).map(|i| (i * 7 + i / 256) as u8));
    let csum_offset = if protocol == TCP { 16 } else { 6 };
    let partial = pseudo(&frame, l4).to_be_bytes();
    frame[l4 + csum_offset..l4 + csum_offset + 2].copy_from_slice(&partial);
    let gso_type = match (mss, protocol, v6) {
        (0, ..) => GSO_NONE,
        (_, UDP, _) => GSO_UDP_L4,
        (.., true) => GSO_TCPV6,
        (.., false) => GSO_TCPV4,
    };
    let hdr = NetHeader {
        flags: HDR_NEEDS_CSUM,
        gso_type,
        gso_size: mss as u16,
        hdr_len: if mss == 0 { 0 } else { (l4 + l4_header) as u16 },
        csum_start: l4 as u16,
        csum_offset: csum_offset as u16,
        num_buffers: 0,
    };
    (hdr, frame)
}

/// The sum over the pseudo-header of what is behind `l4`.
pub(super) fn pseudo(frame: &[u8], l4: usize) -> u16 {
    let v6 = frame[12] == 0x86;
    let (addresses, protocol) = match v6 {
        true => (&frame[L2 + 8..L2 + 40], frame[L2 + 6]),
        false => (&frame[L2 + 12..L2 + 20], frame[L2 + 9]),
    };
    let len = (frame.len() - l4) as u32;
    let words = [addresses, &len.to_be_bytes(), &[0, 0, 0, protocol]].concat();
    vf_guest::checksum::sum(&words)
}

/// Whether the lengths and checksums of a packet's IP and TCP or UDP headers are right.
pub(super) fn is_right(frame: &[u8]) -> bool {
    is_formed(frame) && is_summed(frame)
}

/// Where the transport header of a packet over IP begins, if it has one without options and extension headers before it.
fn transport(frame: &[u8]) -> Option<usize> {
    let least = match frame.get(12..14) {
        Some([0x86, 0xdd]) => 40,
        Some([8, 0]) => 20,
        _ => return None,
    };
    (frame.len() >= L2 + least + 8).then_some(L2 + least)
}

/// Whether the lengths of a packet's IP and UDP headers are right, and IPv4's checksum.
pub(super) fn is_formed(frame: &[u8]) -> bool {
    let word = |at: usize| usize::from(frame[at]) << 8 | usize::from(frame[at + 1]);
    let Some(l4) = transport(frame) else {
        return false;
    };
    let (protocol, ip_right) = match l4 - L2 {
        40 => (frame[L2 + 6], word(L2 + 4) == frame.len() - l4),
        _ => {
            let sum = vf_guest::checksum::sum(&frame[L2..l4]);
            let right = word(L2 + 2) == frame.len() - L2 && sum == 0xffff;
            (frame[L2 + 9], right)
        }
    };
    ip_right && (protocol != UDP || word(l4 + 4) == frame.len() - l4)
}

/// Whether the checksum of a packet's TCP or UDP header is right.
pub(super) fn is_summed(frame: &[u8]) -> bool {
    transport(frame).is_some_and(|l4| {
        let sum = vf_guest::checksum::sum(&frame[l4..]);
        let total = u32::from(sum) + u32::from(pseudo(frame, l4));
        (total & 0xffff) + (total >> 16) == 0xffff
    })
}
