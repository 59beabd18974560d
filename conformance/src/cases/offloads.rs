//! Checksums and segmentation that a driver leaves to the device: TCP and UDP over IPv4 and IPv6, in all lengths, for receivers that take
//! them and for those that do not.

use crate::bench::{Bench, DEADLINE, Link, with, without};
use crate::case::{Case, Level, Need};
use crate::verdict::{Failure, Seen, ensure};
use vf_guest::net::{
    GSO_NONE, GSO_TCPV4, GSO_TCPV6, GSO_UDP_L4, HDR_NEEDS_CSUM, NetConfig, NetHeader, feature,
};

pub(super) const CSUM: Need = Need::Feature(feature::CSUM, "CSUM");
pub(super) const TSO4: Need = Need::Feature(feature::HOST_TSO4 | feature::CSUM, "HOST_TSO4");
pub(super) const TSO6: Need = Need::Feature(feature::HOST_TSO6 | feature::CSUM, "HOST_TSO6");
const USO: Need = Need::Feature(feature::HOST_USO | feature::CSUM, "HOST_USO");
const TAKES_TSO6: Need = Need::Feature(feature::GUEST_TSO6 | feature::GUEST_CSUM, "GUEST_TSO6");
pub(super) const TAKES_TSO4: Need =
    Need::Feature(feature::GUEST_TSO4 | feature::GUEST_CSUM, "GUEST_TSO4");
/// `VIRTIO_NET_F_GUEST_ECN` and `VIRTIO_NET_F_HOST_ECN`, and what says of a super-frame that it has CWR.
const GUEST_ECN: u64 = 1 << 9;
const HOST_ECN: u64 = 1 << 13;
const GSO_ECN: u8 = 0x80;
const ECN: Need = Need::Feature(HOST_ECN, "HOST_ECN");
const TAKES_ECN: Need = Need::Feature(GUEST_ECN, "GUEST_ECN");
/// Where the flags of TCP over IPv4 are, and CWR of them.
pub(super) const TCP_FLAGS: usize = L2 + 20 + 13;
pub(super) const CWR: u8 = 0x80;
pub(super) const TCP: u8 = 6;
const UDP: u8 = 17;
/// Payload of a segment.
pub(super) const MSS: usize = 1400;
/// Bytes of an Ethernet header, and of one of TCP's.
pub(super) const L2: usize = 14;
pub(super) const TCP_HEADER: usize = 20;
/// A VLAN tag, and options: a router alert of IPv4's, time stamps of TCP's.
pub(super) const TAG: [u8; 4] = [0x81, 0, 0x60, 5];
const IP_OPTIONS: [u8; 4] = [0x94, 4, 0, 0];
const TCP_OPTIONS: [u8; 12] = [1, 1, 8, 10, 0xaa, 1, 2, 3, 0xbb, 4, 5, 6];

pub(super) const CASES: &[Case] = &[
    Case {
        id: "net/partial-csum-kinds",
        level: Level::Should,
        needs: &[Need::Peer, CSUM],
        source: "V 5.1.9.2.2, 5.1.9.4.1",
        sent: "Frames with NEEDS_CSUM to a driver without GUEST_CSUM: TCP and UDP, over IPv4 and IPv6, with payloads of even and odd length, and without any, where the checksum is the last thing in the frame.",
        expected: "Their checksums are complete, flags are 0, the payload is as it was.",
        run: |bench| {
            let plain = without(NetConfig::CHECKSUM);
            let mut link = bench.link_of(&NetConfig::default(), &plain)?;
            for v6 in [false, true] {
                for protocol in [TCP, UDP] {
                    for len in [0, 1, 2, 333, 1000, 1401] {
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
        id: "net/csum-zero-udp",
        level: Level::Should,
        needs: &[Need::Peer, CSUM],
        source: "V 5.1.9.4.1; RFC 768, RFC 8200 8.1",
        sent: "UDP packets over IPv4 and IPv6 with NEEDS_CSUM whose checksum turns out to be 0, to a driver without GUEST_CSUM.",
        expected: "It is sent as 0xffff: 0 says that there is none, and a packet over IPv6 with 0 is dropped by whoever gets it.",
        run: |bench| {
            let plain = without(NetConfig::CHECKSUM);
            let mut link = bench.link_of(&NetConfig::default(), &plain)?;
            for v6 in [false, true] {
                let (hdr, mut frame) = packet(&link, v6, UDP, 64, 0);
                let (end, l4) = (frame.len(), usize::from(hdr.csum_start));
                // The last word of the payload is what is missing to all ones.
                frame[end - 2..].fill(0);
                let missing = !vf_guest::checksum::sum(&frame[l4..]);
                frame[end - 2..].copy_from_slice(&missing.to_be_bytes());
                link.send_with(&hdr, &frame)?;
                let what = format!("IPv6: {v6}");
                let (_, got) = next(&mut link, &what)?;
                let checksum = got.get(l4 + 6..l4 + 8).unwrap_or_default();
                ensure(
                    checksum == [0xff; 2] && is_right(&got),
                    format_args!("{what}: its checksum is {checksum:02x?}"),
                )?;
            }
            Ok(Seen::Conforms)
        },
    },
    Case {
        id: "net/tso-ids",
        level: Level::Text,
        needs: &[Need::Peer, TSO4],
        source: "V 5.1.9.2; RFC 6864 4.3",
        sent: "A super-frame of TCP over IPv4 without \"don't fragment\", to a driver without GUEST_TSO4.",
        expected: "No two segments have the same identification: they may be fragmented on their way, and fragments of two packets must not be taken for one's.",
        run: |bench| {
            let mut link = bench.link_of(&with(NetConfig::TSO), &without(NetConfig::CHECKSUM))?;
            let (hdr, mut frame) = packet(&link, false, TCP, 11_000, MSS);
            // Flags and offset.
            frame[L2 + 6] = 0;
            ip_sum(&mut frame);
            let mut ids = Vec::new();
            segments(&mut link, &hdr, &frame, 11_000, |segment, _| {
                ids.extend(segment.get(L2 + 4..L2 + 6).map(<[u8]>::to_vec));
                Ok(())
            })?;
            let count = ids.len();
            ids.sort_unstable();
            ids.dedup();
            ensure(
                ids.len() == count,
                format_args!("{count} segments have {} identifications", ids.len()),
            )?;
            Ok(if count == 0 {
                Seen::Tolerated
            } else {
                Seen::Conforms
            })
        },
    },
    Case {
        id: "net/tso-ecn",
        level: Level::Text,
        needs: &[Need::Peer, TSO4, ECN],
        source: "V 5.1.9.2; RFC 3168 6.1.2",
        sent: "A super-frame with CWR and GSO_ECN to a driver without GUEST_TSO4.",
        expected: "Of the segments the first has CWR and no other: it says once that the sender has slowed down.",
        run: |bench| {
            let mut at = 0;
            with_cwr(bench, &without(NetConfig::CHECKSUM), |segment, _| {
                let cwr = has_cwr(segment);
                at += 1;
                ensure(
                    cwr == (at == 1),
                    format_args!("segment {at} has CWR: {cwr}"),
                )
            })
        },
    },
    Case {
        id: "net/ecn-described",
        level: Level::Must,
        needs: &[Need::Peer, TSO4, TAKES_TSO4, ECN, TAKES_ECN],
        source: "V 5.1.9.4.1",
        sent: "A super-frame with CWR and GSO_ECN to a driver with GUEST_TSO4 and GUEST_ECN.",
        expected: "What arrives to be segmented and has CWR has GSO_ECN in gso_type.",
        run: |bench| {
            with_cwr(bench, &with(NetConfig::TSO | GUEST_ECN), |segment, hdr| {
                ensure(
                    hdr.gso_type == GSO_NONE || !has_cwr(segment) || hdr.gso_type & GSO_ECN != 0,
                    format_args!("gso_type is {:#x}", hdr.gso_type),
                )
            })
        },
    },
    Case {
        id: "net/ecn-to-plain-peer",
        level: Level::Should,
        needs: &[Need::Peer, TSO4, TAKES_TSO4, ECN],
        source: "V 5.1.9.4.1",
        sent: "A super-frame with CWR and GSO_ECN to a driver with GUEST_TSO4 and without GUEST_ECN.",
        expected: "Nothing with CWR arrives that is still to be segmented.",
        run: |bench| {
            with_cwr(bench, &with(NetConfig::TSO), |segment, hdr| {
                ensure(
                    hdr.gso_type == GSO_NONE || !has_cwr(segment),
                    format_args!("{} bytes with gso_type {:#x}", segment.len(), hdr.gso_type),
                )
            })
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
        id: "net/tso-each-alone",
        level: Level::Text,
        needs: &[Need::Peer, TSO4, TSO6],
        source: "V 5.1.3.1, 5.1.9.2",
        sent: "A super-frame over IPv4 by a driver with HOST_TSO4 alone, one over IPv6 by one with HOST_TSO6 alone, and both by one with both, to a driver that takes neither.",
        expected: "What arrives in segments with both arrives with the one alone, too: neither feature needs the other.",
        run: |bench| {
            const LEN: usize = 11_000;
            let both = feature::HOST_TSO4 | feature::HOST_TSO6;
            let mut seen = Seen::Tolerated;
            for (v6, alone) in [(false, feature::HOST_TSO4), (true, feature::HOST_TSO6)] {
                let arrives = |features: u64| {
                    let mut link = bench.link_of(&with(features), &without(NetConfig::CHECKSUM))?;
                    let (hdr, frame) = packet(&link, v6, TCP, LEN, MSS);
                    segments(&mut link, &hdr, &frame, LEN, |_, _| Ok(()))
                };
                if arrives(both)? == LEN {
                    seen = Seen::Conforms;
                    let mut got = arrives(alone)?;
                    for _ in 0..2 {
                        // A network may lose a segment.
                        got = got.max(if got < LEN { arrives(alone)? } else { LEN });
                    }
                    ensure(
                        got == LEN,
                        format_args!("IPv6: {v6}: {got} of {LEN} bytes arrived with one feature"),
                    )?;
                }
            }
            Ok(seen)
        },
    },
    Case {
        id: "net/tso-to-tso-peer",
        level: Level::Must,
        needs: &[Need::Peer, TSO4, TAKES_TSO4],
        source: "V 5.1.9.4.1",
        sent: "Super-frames of up to 65,000 bytes to a driver with GUEST_TSO4, with MRG_RXBUF and without.",
        expected: "What arrives is whole and marked as such, or segments with right headers, in order.",
        run: |bench| whole(bench, false),
    },
    Case {
        id: "net/tso6-to-tso6-peer",
        level: Level::Must,
        needs: &[Need::Peer, TSO6, TAKES_TSO6],
        source: "V 5.1.9.4.1",
        sent: "Super-frames of up to 65,000 bytes over IPv6 to a driver with GUEST_TSO6, with MRG_RXBUF and without.",
        expected: "What arrives is whole and marked as such, or segments with right headers, in order.",
        run: |bench| whole(bench, true),
    },
    Case {
        id: "net/tso-options",
        level: Level::Must,
        needs: &[Need::Peer, TSO4],
        source: "V 5.1.9.2.2, 5.1.9.4.1; RFC 7323 3.2",
        sent: "A super-frame whose TCP header has options, as nearly all have (timestamps), to a driver without GUEST_TSO4.",
        expected: "Segments of at most gso_size that have the options, each with right headers, or nothing.",
        run: |bench| {
            const AT: usize = L2 + 20 + TCP_HEADER;
            let mut link = bench.link_of(&with(NetConfig::TSO), &without(NetConfig::CHECKSUM))?;
            let (hdr, frame) = with_tcp_options(packet(&link, false, TCP, 11_000, MSS));
            let got = segments(&mut link, &hdr, &frame, 11_000, |segment, _| {
                let options = segment.get(AT..AT + 12);
                ensure(
                    options == Some(&TCP_OPTIONS[..]) && is_right(segment),
                    format_args!("a segment of {} bytes: {options:02x?}", segment.len()),
                )?;
                ensure(
                    segment.len() <= AT + 12 + MSS,
                    format_args!("a segment of {} bytes", segment.len()),
                )
            })?;
            all_or_nothing(got)
        },
    },
    Case {
        id: "net/tso-tagged",
        level: Level::Must,
        needs: &[Need::Peer, TSO4],
        source: "V 5.1.9.2.2, 5.1.9.4.1; IEEE 802.1Q-2018 9.3",
        sent: "A super-frame behind a VLAN tag to a driver without GUEST_TSO4.",
        expected: "Segments of at most gso_size behind the same tag, each with right headers, or nothing.",
        run: |bench| {
            let mut link = bench.link_of(&with(NetConfig::TSO), &without(NetConfig::CHECKSUM))?;
            let (hdr, frame) = behind_tag(packet(&link, false, TCP, 11_000, MSS), TAG);
            let got = segments(&mut link, &hdr, &frame, 11_000, |segment, _| {
                let tag = segment.get(12..16);
                let mut inner = segment.to_vec();
                inner.drain(12..segment.len().min(16));
                ensure(
                    tag == Some(&TAG[..]) && is_right(&inner),
                    format_args!(
                        "a segment of {} bytes with the tag {tag:02x?}",
                        segment.len()
                    ),
                )
            })?;
            all_or_nothing(got)
        },
    },
    Case {
        id: "net/tso-kind-not-taken",
        level: Level::Must,
        needs: &[Need::Peer, TSO4, TSO6, TAKES_TSO4, TAKES_TSO6],
        source: "V 5.1.9.4.1",
        sent: "A super-frame over IPv6 to a driver with GUEST_TSO4 alone, and one over IPv4 to a driver with GUEST_TSO6 alone.",
        expected: "Segments, or nothing: a device MUST NOT use the gso_type that was not accepted.",
        run: |bench| {
            const LEN: usize = 11_000;
            let mut seen = Seen::Conforms;
            for (v6, taken) in [(true, feature::GUEST_TSO4), (false, feature::GUEST_TSO6)] {
                let sender = with(feature::HOST_TSO4 | feature::HOST_TSO6);
                let mut link = bench.link_of(&sender, &with(taken))?;
                let (hdr, frame) = packet(&link, v6, TCP, LEN, MSS);
                let got = segments(&mut link, &hdr, &frame, LEN, |bytes, hdr| {
                    ensure(
                        hdr.gso_type == GSO_NONE,
                        format_args!("{} bytes with gso_type {}", bytes.len(), hdr.gso_type),
                    )
                })?;
                if got != LEN {
                    seen = all_or_nothing(got)?;
                }
            }
            Ok(seen)
        },
    },
    Case {
        id: "net/tso-ip-options",
        level: Level::Must,
        needs: &[Need::Peer, TSO4],
        source: "V 5.1.9.2.2, 5.1.9.4.1; RFC 791 3.1",
        sent: "A super-frame whose IPv4 header has options (router alert), to a driver without GUEST_TSO4.",
        expected: "Segments of at most gso_size that have the options, each with right headers, or nothing.",
        run: |bench| {
            const AT: usize = L2 + 20;
            let mut link = bench.link_of(&with(NetConfig::TSO), &without(NetConfig::CHECKSUM))?;
            let (hdr, frame) = with_ip_options(packet(&link, false, TCP, 11_000, MSS));
            let got = segments(&mut link, &hdr, &frame, 11_000, |segment, _| {
                let header = segment.get(L2..AT + 4).unwrap_or_default();
                // The sum over a header that has its own sum in it is all ones.
                ensure(
                    header.ends_with(&IP_OPTIONS) && vf_guest::checksum::sum(header) == 0xffff,
                    format_args!("a segment's IPv4 header is {header:02x?}"),
                )?;
                ensure(
                    segment.len() <= AT + 4 + TCP_HEADER + MSS,
                    format_args!("a segment of {} bytes", segment.len()),
                )
            })?;
            all_or_nothing(got)
        },
    },
];

/// Sends super-frames to a driver that takes them, and checks what comes of them.
fn whole(bench: &Bench, v6: bool) -> Result<Seen, Failure> {
    let (features, gso, l4) = match v6 {
        true => (feature::HOST_TSO6 | feature::GUEST_TSO6, GSO_TCPV6, L2 + 40),
        false => (NetConfig::TSO, GSO_TCPV4, L2 + 20),
    };
    let mut seen = Seen::Conforms;
    for off in [0, feature::MRG_RXBUF] {
        let config = NetConfig {
            features: with(features).features & !off,
            ..NetConfig::default()
        };
        let mut link = bench.link(&config)?;
        for len in [MSS + 1, 20_000, 65_000] {
            let (hdr, frame) = packet(&link, v6, TCP, len, MSS);
            let headers = frame.len() - len;
            let mut end = 0;
            segments(&mut link, &hdr, &frame, len, |bytes, hdr| {
                let size = hdr.gso_size;
                ensure(
                    bytes.len() <= 1514
                        || hdr.gso_type == gso && (1..=MSS).contains(&usize::from(size)),
                    format_args!(
                        "{} bytes with gso_type {}, gso_size {size}",
                        bytes.len(),
                        hdr.gso_type
                    ),
                )?;
                let at = (usize::from(hdr.csum_start), hdr.csum_offset);
                ensure(
                    is_right(bytes) || hdr.flags & HDR_NEEDS_CSUM != 0 && at == (l4, 16),
                    "a wrong checksum, which is not marked as partial",
                )?;
                let seq = bytes.get(l4 + 4..l4 + 8).and_then(|seq| seq.first_chunk());
                let from = seq.map_or(0, |seq| u32::from_be_bytes(*seq) as usize);
                let piece = bytes.get(headers..).unwrap_or_default();
                let sent = frame.get(headers + from..headers + from + piece.len());
                ensure(
                    from >= end && sent == Some(piece),
                    format_args!(
                        "{} bytes from {from} on after {end} of {len}, which were not sent so",
                        piece.len()
                    ),
                )?;
                end = from + piece.len();
                Ok(())
            })?;
            if end < len {
                // What is lost no text says.
                seen = Seen::Tolerated;
            }
        }
    }
    Ok(seen)
}

/// A super-frame of 11,000 bytes that a driver does not take is cut; what of it is lost no text says.
pub(super) fn all_or_nothing(got: usize) -> Result<Seen, Failure> {
    Ok(match got {
        11_000 => Seen::Conforms,
        _ => Seen::Tolerated,
    })
}

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

/// Sends a TCP super-frame and has what comes of it looked at, until its whole payload is there or nothing more comes.
pub(super) fn segments(
    link: &mut Link,
    hdr: &NetHeader,
    frame: &[u8],
    len: usize,
    mut look: impl FnMut(&[u8], &NetHeader) -> Result<(), Failure>,
) -> Result<usize, Failure> {
    link.send_with(hdr, frame)?;
    let headers = frame.len() - len;
    let mut got = 0;
    while got < len {
        let Some(segment) = link.receive(DEADLINE)? else {
            break;
        };
        look(segment.bytes(), &segment.hdr)?;
        got += segment.bytes().len().saturating_sub(headers);
    }
    Ok(got)
}

/// The same of one with CWR.
fn with_cwr(
    bench: &Bench,
    receiver: &NetConfig,
    look: impl FnMut(&[u8], &NetHeader) -> Result<(), Failure>,
) -> Result<Seen, Failure> {
    let mut link = bench.link_of(&with(NetConfig::TSO | HOST_ECN), receiver)?;
    let (hdr, mut frame) = packet(&link, false, TCP, 11_000, MSS);
    frame[TCP_FLAGS] |= CWR;
    let hdr = NetHeader {
        gso_type: hdr.gso_type | GSO_ECN,
        ..hdr
    };
    all_or_nothing(segments(&mut link, &hdr, &frame, 11_000, look)?)
}

fn has_cwr(frame: &[u8]) -> bool {
    frame.get(TCP_FLAGS).is_some_and(|flags| flags & CWR != 0)
}

/// Sends a super-frame to a driver that takes none and checks what comes of it. That all of it does no text says.
fn cut(bench: &Bench, features: u64, v6: bool, protocol: u8, len: usize) -> Result<(), Failure> {
    let mut link = bench.link_of(&with(features), &without(NetConfig::CHECKSUM))?;
    let (hdr, frame) = packet(&link, v6, protocol, len, MSS);
    link.send_with(&hdr, &frame)?;
    let headers = frame.len() - len;
    let mut end = 0;
    while end < len {
        let Some(segment) = link.receive(DEADLINE)? else {
            break;
        };
        let (bytes, gso_type) = (segment.bytes(), segment.hdr.gso_type);
        ensure(
            (headers..=headers + MSS).contains(&bytes.len()) && gso_type == GSO_NONE,
            format_args!("{} bytes with gso_type {gso_type}", bytes.len()),
        )?;
        ensure(
            is_right(bytes),
            format_args!("a segment of {len} bytes: wrong lengths or checksums"),
        )?;
        let payload = &bytes[headers..];
        let at = headers - TCP_HEADER + 4;
        let from = match protocol {
            TCP => bytes[at..at + 4]
                .iter()
                .fold(0, |sum, byte| sum << 8 | usize::from(*byte)),
            // A datagram says nothing of where it belongs: the next place where it fits.
            _ => (end..len)
                .step_by(MSS)
                .find(|from| frame[headers + from..].starts_with(payload))
                .unwrap_or(len),
        };
        ensure(
            from >= end
                && frame.get(headers + from..headers + from + payload.len()) == Some(payload),
            format_args!(
                "{} bytes for place {from} after {end} of {len}",
                payload.len()
            ),
        )?;
        end = from + payload.len();
    }
    Ok(())
}

/// The next frame between the ports: its header's flags and its bytes.
fn next(link: &mut Link, what: &str) -> Result<(u8, Vec<u8>), Failure> {
    match link.receive(DEADLINE)? {
        Some(frame) => Ok((frame.hdr.flags, frame.bytes().to_vec())),
        None => Err(Failure::Wrong(format!("{what}: it did not arrive"))),
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
