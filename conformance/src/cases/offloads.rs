//! Checksums and segmentation that a driver leaves to the device: TCP and UDP over IPv4 and IPv6, in all lengths, for receivers that take
//! them and for those that do not.

use crate::bench::{Bench, DEADLINE, Link, with, without};
use crate::case::{Case, Level, Need};
use crate::verdict::{Failure, Seen, ensure};
use vf_guest::net::{
    GSO_NONE, GSO_TCPV4, GSO_TCPV6, GSO_UDP_L4, HDR_NEEDS_CSUM, NetConfig, NetHeader, feature,
};

const CSUM: Need = Need::Feature(feature::CSUM, "CSUM");
const TSO4: Need = Need::Feature(feature::HOST_TSO4 | feature::CSUM, "HOST_TSO4");
const TSO6: Need = Need::Feature(feature::HOST_TSO6 | feature::CSUM, "HOST_TSO6");
const USO: Need = Need::Feature(feature::HOST_USO | feature::CSUM, "HOST_USO");
const TAKES_TSO4: Need = Need::Feature(feature::GUEST_TSO4 | feature::GUEST_CSUM, "GUEST_TSO4");
const TCP: u8 = 6;
const UDP: u8 = 17;
/// Payload of a segment.
const MSS: usize = 1400;
/// Bytes of an Ethernet header, and of one of TCP's.
const L2: usize = 14;
const TCP_HEADER: usize = 20;

pub(super) const CASES: &[Case] = &[
    Case {
        id: "net/partial-csum-kinds",
        level: Level::Should,
        needs: &[Need::Peer, CSUM],
        source: "V 5.1.9.2.2, 5.1.9.4.1",
        sent: "Frames with NEEDS_CSUM to a driver without GUEST_CSUM: TCP and UDP, over IPv4 and IPv6, with payloads of even and odd length.",
        expected: "Their checksums are complete, flags are 0, the payload is as it was.",
        run: |bench| {
            let plain = without(NetConfig::CHECKSUM);
            let mut link = bench.link_of(&NetConfig::default(), &plain)?;
            for v6 in [false, true] {
                for protocol in [TCP, UDP] {
                    for len in [1, 2, 333, 1000, 1401] {
                        let (hdr, frame) = packet(&link, v6, protocol, len, 0);
                        link.send_with(&hdr, &frame)?;
                        let what = format!("protocol {protocol}, IPv6: {v6}, {len} bytes");
                        let (flags, got) = next(&mut link, &what)?;
                        ensure(flags == 0, format_args!("{what}: flags {flags}"))?;
                        ensure(is_right(&got), format_args!("{what}: a wrong checksum"))?;
                        ensure(
                            got.len() == frame.len() && got.ends_with(&frame[frame.len() - len..]),
                            format_args!("{what}: the payload changed"),
                        )?;
                    }
                }
            }
            Ok(Seen::Conforms)
        },
    },
    Case {
        id: "net/tso-every-size",
        level: Level::Must,
        needs: &[Need::Peer, TSO4],
        source: "V 5.1.9.2.2, 5.1.9.4.1",
        sent: "Super-frames of TCP over IPv4 of 1401 to 65,000 bytes to a driver without GUEST_TSO4.",
        expected: "Segments of at most gso_size with right headers, in order and without a gap, or nothing; never the super-frame.",
        run: |bench| {
            let features = NetConfig::TSO;
            for len in [MSS + 1, 2 * MSS, 11_000, 20_001, 40_000, 65_000] {
                cut(bench, features, false, TCP, len)?;
            }
            Ok(Seen::Conforms)
        },
    },
    Case {
        id: "net/tso6-to-plain-peer",
        level: Level::Must,
        needs: &[Need::Peer, TSO6],
        source: "V 5.1.9.2.2, 5.1.9.4.1",
        sent: "Super-frames of TCP over IPv6 of 1401 to 65,000 bytes to a driver without GUEST_TSO6.",
        expected: "Segments of at most gso_size with right headers, in order and without a gap, or nothing; never the super-frame.",
        run: |bench| {
            for len in [MSS + 1, 11_000, 65_000] {
                cut(bench, feature::HOST_TSO6, true, TCP, len)?;
            }
            Ok(Seen::Conforms)
        },
    },
    Case {
        id: "net/uso-to-plain-peer",
        level: Level::Must,
        needs: &[Need::Peer, USO],
        source: "V 5.1.9.2.2, 5.1.9.4.1",
        sent: "Super-frames of UDP of 1401 to 60,000 bytes to a driver without GUEST_USO4 and 6, over IPv4 and IPv6.",
        expected: "Datagrams of gso_size, the last of the rest, each with right headers, in order, or nothing; never the super-frame.",
        run: |bench| {
            for v6 in [false, true] {
                for len in [MSS + 1, 11_000, 60_000] {
                    cut(bench, feature::HOST_USO, v6, UDP, len)?;
                }
            }
            Ok(Seen::Conforms)
        },
    },
    Case {
        id: "net/tso-to-tso-peer",
        level: Level::Must,
        needs: &[Need::Peer, TSO4, TAKES_TSO4],
        source: "V 5.1.9.4.1",
        sent: "Super-frames of up to 65,000 bytes to a driver with GUEST_TSO4, with MRG_RXBUF and without.",
        expected: "Whole and marked as such, or in segments with right headers; the payload without a gap.",
        run: |bench| {
            for off in [0, feature::MRG_RXBUF] {
                let config = NetConfig {
                    features: with(NetConfig::TSO).features & !off,
                    ..NetConfig::default()
                };
                let mut link = bench.link(&config)?;
                for len in [MSS + 1, 20_000, 65_000] {
                    let (hdr, frame) = packet(&link, false, TCP, len, MSS);
                    link.send_with(&hdr, &frame)?;
                    let payload = &frame[frame.len() - len..];
                    let mut got = Vec::new();
                    while got.len() < len {
                        let Some(came) = link.receive(DEADLINE)? else {
                            break;
                        };
                        let (bytes, hdr) = (came.bytes(), came.hdr);
                        ensure(
                            bytes.len() <= 1514 || hdr.gso_type == GSO_TCPV4 && hdr.gso_size > 0,
                            format_args!("{} bytes with gso_type {}", bytes.len(), hdr.gso_type),
                        )?;
                        ensure(
                            is_right(bytes) || hdr.flags & HDR_NEEDS_CSUM != 0,
                            "a wrong checksum, which is not marked as partial",
                        )?;
                        got.extend_from_slice(
                            bytes.get(L2 + 20 + TCP_HEADER..).unwrap_or_default(),
                        );
                    }
                    ensure(
                        got == payload,
                        format_args!("{} of {len} bytes arrived as they were", got.len()),
                    )?;
                }
            }
            Ok(Seen::Conforms)
        },
    },
];

/// Sends a super-frame to a driver that takes none and checks what comes of it.
fn cut(bench: &Bench, features: u64, v6: bool, protocol: u8, len: usize) -> Result<(), Failure> {
    let mut link = bench.link_of(&with(features), &without(NetConfig::CHECKSUM))?;
    let (hdr, frame) = packet(&link, v6, protocol, len, MSS);
    link.send_with(&hdr, &frame)?;
    let headers = frame.len() - len;
    let mut got: Vec<u8> = Vec::new();
    while got.len() < len {
        let Some(segment) = link.receive(DEADLINE)? else {
            break;
        };
        let (bytes, gso_type) = (segment.bytes(), segment.hdr.gso_type);
        ensure(
            bytes.len() <= headers + MSS && gso_type == GSO_NONE,
            format_args!("{} bytes with gso_type {gso_type}", bytes.len()),
        )?;
        ensure(
            is_right(bytes),
            format_args!("a segment of {len} bytes: wrong lengths or checksums"),
        )?;
        if protocol == TCP {
            let at = headers - TCP_HEADER + 4;
            let seq = bytes[at..at + 4]
                .iter()
                .fold(0, |sum, byte| sum << 8 | usize::from(*byte));
            ensure(
                seq == got.len(),
                format_args!("sequence number {seq} after {} bytes", got.len()),
            )?;
        }
        got.extend_from_slice(&bytes[headers..]);
    }
    // Dropped whole is allowed: a super-frame must only not arrive as one.
    ensure(
        got.is_empty() || got == frame[headers..],
        format_args!("{} of {len} bytes arrived as they were", got.len()),
    )
}

/// The next frame between the ports: its header's flags and its bytes.
fn next(link: &mut Link, what: &str) -> Result<(u8, Vec<u8>), Failure> {
    match link.receive(DEADLINE)? {
        Some(frame) => Ok((frame.hdr.flags, frame.bytes().to_vec())),
        None => Err(Failure::Wrong(format!("{what}: it did not arrive"))),
    }
}

/// A packet with a partial checksum, and its header: of a super-frame if there is a segment size.
fn packet(link: &Link, v6: bool, protocol: u8, len: usize, mss: usize) -> (NetHeader, Vec<u8>) {
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
fn pseudo(frame: &[u8], l4: usize) -> u16 {
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
fn is_right(frame: &[u8]) -> bool {
    let word = |at: usize| usize::from(frame[at]) << 8 | usize::from(frame[at + 1]);
    let least = if word(12) == 0x86dd { 40 } else { 20 };
    if frame.len() < L2 + least + 8 {
        return false;
    }
    let (l4, protocol, ip_right) = match word(12) {
        0x86dd => (
            L2 + 40,
            frame[L2 + 6],
            word(L2 + 4) == frame.len() - L2 - 40,
        ),
        0x0800 => {
            let sum = vf_guest::checksum::sum(&frame[L2..L2 + 20]);
            let right = word(L2 + 2) == frame.len() - L2 && sum == 0xffff;
            (L2 + 20, frame[L2 + 9], right)
        }
        _ => return false,
    };
    let udp_right = protocol != UDP || word(l4 + 4) == frame.len() - l4;
    let sum = vf_guest::checksum::sum(&frame[l4..]);
    let total = u32::from(sum) + u32::from(pseudo(frame, l4));
    let folded = (total & 0xffff) + (total >> 16);
    ip_right && udp_right && folded == 0xffff
}
