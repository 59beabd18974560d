//! Checksums and segmentation that a driver leaves to the device: TCP and UDP over IPv4 and IPv6, in all lengths, for receivers that take
//! them and for those that do not. What becomes of them in a switch, and however they lie in memory, is in `segments`.

use crate::bench::{Bench, DEADLINE, Link, with, without};
use crate::case::{Case, Level, Need};
use crate::cases::packets::{
    IP_OPTIONS, L2, TAG, TCP, TCP_HEADER, TCP_OPTIONS, UDP, behind_tag, ip_sum, is_formed,
    is_right, is_summed, packet, with_ip_options, with_tcp_options,
};
use crate::verdict::{Failure, Seen, ensure, ensure_text};
use vf_guest::net::{
    GSO_NONE, GSO_TCPV4, GSO_TCPV6, HDR_NEEDS_CSUM, NetConfig, NetHeader, feature,
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
/// Payload of a segment.
pub(super) const MSS: usize = 1400;
/// The longest frame without a tag where the mtu is the usual one, in bytes.
const LONGEST: usize = 1514;
/// Bytes of all headers of TCP over IPv4, and what is said of a segment whose checksum is not complete.
const HEADERS: usize = L2 + 20 + TCP_HEADER;
const WRONG_SUM: &str = "a segment with a wrong checksum";

pub(super) const CASES: &[Case] = &[
    Case {
        id: "net/partial-csum-kinds",
        level: Level::Should,
        needs: &[Need::Peer, CSUM],
        source: "V 5.1.9.4.1, 5.1.9.2",
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
        source: "V 5.1.9.4.1, 5.1.9.2",
        sent: "Super-frames of TCP over IPv4 of 1401 to 65,000 bytes to a driver without GUEST_TSO4.",
        expected: "Segments, or nothing; never what is still to be segmented. They have at most gso_size and right headers, in order and without a gap, and should have complete checksums.",
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
        source: "V 5.1.9.4.1, 5.1.9.2",
        sent: "Super-frames of TCP over IPv6 of 1401 to 65,000 bytes to a driver without GUEST_TSO6.",
        expected: "Segments, or nothing; never what is still to be segmented. They have at most gso_size and right headers, in order and without a gap, and should have complete checksums.",
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
        source: "V 5.1.9.4.1, 5.1.9.2",
        sent: "Super-frames of UDP of 1401 to 60,000 bytes to a driver without GUEST_USO4 and 6, over IPv4 and IPv6.",
        expected: "Datagrams, or nothing; never what is still to be segmented. They have gso_size, the last one the rest, and right headers, in order, and should have complete checksums.",
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
        source: "V 5.1.9.4.1, 5.1.9.2",
        sent: "Super-frames of up to 65,000 bytes to a driver with GUEST_TSO4, with MRG_RXBUF and without.",
        expected: "What arrives is whole and marked as such, or segments, of the payload that was sent, in order; a checksum is marked as partial, or should be right.",
        run: |bench| whole(bench, false),
    },
    Case {
        id: "net/tso6-to-tso6-peer",
        level: Level::Must,
        needs: &[Need::Peer, TSO6, TAKES_TSO6],
        source: "V 5.1.9.4.1, 5.1.9.2",
        sent: "Super-frames of up to 65,000 bytes over IPv6 to a driver with GUEST_TSO6, with MRG_RXBUF and without.",
        expected: "What arrives is whole and marked as such, or segments, of the payload that was sent, in order; a checksum is marked as partial, or should be right.",
        run: |bench| whole(bench, true),
    },
    Case {
        id: "net/tso-options",
        level: Level::Must,
        needs: &[Need::Peer, TSO4],
        source: "V 5.1.9.4.1, 5.1.9.2; RFC 7323 3.2",
        sent: "A super-frame whose TCP header has options, as nearly all have (timestamps), to a driver without GUEST_TSO4.",
        expected: "Segments, or nothing; never what is still to be segmented. They have at most gso_size, the options and right headers, and should have complete checksums.",
        run: |bench| {
            const AT: usize = L2 + 20 + TCP_HEADER;
            let mut link = bench.link_of(&with(NetConfig::TSO), &without(NetConfig::CHECKSUM))?;
            let (hdr, frame) = with_tcp_options(packet(&link, false, TCP, 11_000, MSS));
            let notes = link.notes();
            let got = segments(&mut link, &hdr, &frame, 11_000, |segment, hdr| {
                none_to_cut(hdr)?;
                let options = segment.get(AT..AT + 12);
                ensure_text(
                    options == Some(&TCP_OPTIONS[..]) && is_formed(segment),
                    format_args!("a segment of {} bytes: {options:02x?}", segment.len()),
                )?;
                ensure_text(
                    segment.len() <= AT + 12 + MSS,
                    format_args!("a segment of {} bytes", segment.len()),
                )?;
                notes.ought(Level::Should, is_summed(segment), WRONG_SUM);
                Ok(())
            })?;
            all_or_nothing(got)
        },
    },
    Case {
        id: "net/tso-tagged",
        level: Level::Must,
        needs: &[Need::Peer, TSO4],
        source: "V 5.1.9.4.1, 5.1.9.2; IEEE 802.1Q-2018 9.3",
        sent: "A super-frame behind a VLAN tag to a driver without GUEST_TSO4.",
        expected: "Segments, or nothing; never what is still to be segmented. They have at most gso_size, the same tag and right headers, and should have complete checksums.",
        run: |bench| {
            let mut link = bench.link_of(&with(NetConfig::TSO), &without(NetConfig::CHECKSUM))?;
            let (hdr, frame) = behind_tag(packet(&link, false, TCP, 11_000, MSS), TAG);
            let notes = link.notes();
            let got = segments(&mut link, &hdr, &frame, 11_000, |segment, hdr| {
                none_to_cut(hdr)?;
                let tag = segment.get(12..16);
                let mut inner = segment.to_vec();
                inner.drain(12..segment.len().min(16));
                ensure_text(
                    tag == Some(&TAG[..]) && is_formed(&inner) && inner.len() <= HEADERS + MSS,
                    format_args!(
                        "a segment of {} bytes with the tag {tag:02x?}",
                        segment.len()
                    ),
                )?;
                notes.ought(Level::Should, is_summed(&inner), WRONG_SUM);
                Ok(())
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
        source: "V 5.1.9.4.1, 5.1.9.2; RFC 791 3.1",
        sent: "A super-frame whose IPv4 header has options (router alert), to a driver without GUEST_TSO4.",
        expected: "Segments, or nothing; never what is still to be segmented. They have at most gso_size, the options and right headers, and should have complete checksums.",
        run: |bench| {
            const AT: usize = L2 + 20;
            let mut link = bench.link_of(&with(NetConfig::TSO), &without(NetConfig::CHECKSUM))?;
            let (hdr, frame) = with_ip_options(packet(&link, false, TCP, 11_000, MSS));
            let got = segments(&mut link, &hdr, &frame, 11_000, |segment, hdr| {
                none_to_cut(hdr)?;
                let header = segment.get(L2..AT + 4).unwrap_or_default();
                // The sum over a header that has its own sum in it is all ones.
                ensure_text(
                    header.ends_with(&IP_OPTIONS) && vf_guest::checksum::sum(header) == 0xffff,
                    format_args!("a segment's IPv4 header is {header:02x?}"),
                )?;
                ensure_text(
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
        let notes = link.notes();
        for len in [MSS + 1, 20_000, 65_000] {
            let (hdr, frame) = packet(&link, v6, TCP, len, MSS);
            let headers = frame.len() - len;
            let mut end = 0;
            segments(&mut link, &hdr, &frame, len, |bytes, hdr| {
                let size = hdr.gso_size;
                ensure(
                    hdr.gso_type == GSO_NONE
                        || hdr.gso_type == gso && (1..=MSS).contains(&usize::from(size)),
                    format_args!(
                        "{} bytes with gso_type {}, gso_size {size}",
                        bytes.len(),
                        hdr.gso_type
                    ),
                )?;
                ensure_text(
                    hdr.gso_type != GSO_NONE || bytes.len() <= LONGEST,
                    format_args!("{} bytes that are not to be segmented", bytes.len()),
                )?;
                let at = (usize::from(hdr.csum_start), hdr.csum_offset);
                let marked = hdr.flags & HDR_NEEDS_CSUM != 0;
                ensure(
                    is_right(bytes) || !marked || at == (l4, 16),
                    format_args!("a checksum to be completed at {at:?}, and TCP begins at {l4}"),
                )?;
                // That one which is not marked is right no MUST says.
                notes.ought(
                    Level::Should,
                    is_right(bytes) || marked,
                    "a wrong checksum, which is not marked as partial",
                );
                let seq = bytes.get(l4 + 4..l4 + 8).and_then(|seq| seq.first_chunk());
                let from = seq.map_or(0, |seq| u32::from_be_bytes(*seq) as usize);
                let piece = bytes.get(headers..).unwrap_or_default();
                let sent = frame.get(headers + from..headers + from + piece.len());
                ensure_text(
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
    let notes = link.notes();
    let headers = frame.len() - len;
    let mut end = 0;
    while end < len {
        let Some(segment) = link.receive(DEADLINE)? else {
            break;
        };
        let bytes = segment.bytes();
        none_to_cut(&segment.hdr)?;
        // What is no longer than any frame need not be cut, if nothing says that it still is to be.
        let whole = bytes.len() == frame.len() && bytes.len() <= LONGEST;
        ensure_text(
            whole || (headers..=headers + MSS).contains(&bytes.len()),
            format_args!("a segment of {} bytes", bytes.len()),
        )?;
        ensure_text(
            is_formed(bytes),
            format_args!("a segment of {len} bytes: wrong lengths, or a wrong checksum of IPv4's"),
        )?;
        notes.ought(Level::Should, is_summed(bytes), WRONG_SUM);
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
        ensure_text(
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

/// Checks that a driver which takes no super-frames gets none (virtio 5.1.9.4.1). What segments are like the document says without MUST, and
/// that their checksums are complete with SHOULD.
fn none_to_cut(hdr: &NetHeader) -> Result<(), Failure> {
    let kind = hdr.gso_type;
    ensure(kind == GSO_NONE, format_args!("gso_type is {kind}"))
}

/// The next frame between the ports: its header's flags and its bytes.
fn next(link: &mut Link, what: &str) -> Result<(u8, Vec<u8>), Failure> {
    match link.receive(DEADLINE)? {
        Some(frame) => Ok((frame.hdr.flags, frame.bytes().to_vec())),
        None => Err(Failure::Wrong(format!("{what}: it did not arrive"))),
    }
}
