//! What becomes of super-frames and partial checksums on their way: that they arrive at all, however they lie in memory and whatever
//! headers they have, what segments keep of them, and what a switch's tags do to them. Each kind of offload by itself is in
//! `offloads`.

use std::time::Duration;

use crate::bench::{Bench, DEADLINE, Link, QUIET, with, without};
use crate::case::{Case, Level, Need};
use crate::cases::by_hand::{send_cut, send_cut_with};
use crate::cases::offloads::{
    CSUM, CWR, MSS, TAKES_TSO4, TCP_FLAGS, TSO4, TSO6, all_or_nothing, segments,
};
use crate::cases::packets::{
    L2, TAG, TCP, TCP_HEADER, behind_tag, ip_sum, is_right, moved, packet, pseudo, with_ip_options,
    with_tcp_options,
};
use crate::cases::vf::{ADMIN, tagged};
use crate::verdict::{Failure, Seen, ensure};
use vf_guest::net::{GSO_NONE, GSO_TCPV4, HDR_NEEDS_CSUM, NetConfig, NetHeader, RxFrame, feature};

/// How often what a network may lose is sent.
const TRIES: usize = 3;
const ECE: u8 = 0x40;
/// IPv6 hop-by-hop (RFC 8200 4.3) and destination options (4.6), and routing (4.4).
const HOP_BY_HOP: u8 = 0;
const DESTINATION: u8 = 60;
const ROUTING: u8 = 43;
/// The tag of the port VLAN that VFs are put into.
const PORT: u16 = 100;

pub(super) const CASES: &[Case] = &[
    Case {
        id: "net/tso-arrives",
        level: Level::Model,
        needs: &[Need::Peer, TSO4],
        source: "V 5.1.3 (HOST_TSO4: the device can receive it); IEEE 802.1Q-2018 6.5.2 (frame loss)",
        sent: "Super-frames of TCP of 100 to 65,000 bytes with segments of 1400 and 536, over IPv4 and IPv6, also behind a tag, with options of IP and TCP and with CWR, to drivers that take none, with GUEST_CSUM and without, and to such that do, with MRG_RXBUF and without; three times at most.",
        expected: "All of each arrives: a driver whose device offers to take them sends nothing else, and its connection stands still if they are dropped.",
        run: |bench| {
            let sender = with(offered(bench));
            let takes = feature::GUEST_TSO4 | feature::GUEST_TSO6;
            for receiver in [
                NetConfig::default(),
                without(NetConfig::CHECKSUM),
                with(takes),
                NetConfig {
                    features: with(takes).features & !feature::MRG_RXBUF,
                    ..NetConfig::default()
                },
            ] {
                let mut link = bench.link_of(&sender, &receiver)?;
                for v6 in versions(bench) {
                    for mss in [MSS, 536] {
                        for len in [100, MSS, MSS + 1, 20_000, 65_000] {
                            let made = packet(&link, v6, TCP, len, mss);
                            arrives(&mut link, &made, len)?;
                        }
                    }
                    let made = packet(&link, v6, TCP, 11_000, MSS);
                    arrives(&mut link, &behind_tag(made, TAG), 11_000)?;
                }
                let made = |link: &Link| packet(link, false, TCP, 11_000, MSS);
                let options = with_tcp_options(made(&link));
                arrives(&mut link, &options, 11_000)?;
                let options = with_ip_options(made(&link));
                arrives(&mut link, &options, 11_000)?;
                let mut slower = made(&link);
                slower.1[TCP_FLAGS] |= CWR;
                arrives(&mut link, &slower, 11_000)?;
            }
            Ok(Seen::Conforms)
        },
    },
    Case {
        id: "net/tso-longest",
        level: Level::Model,
        needs: &[Need::Peer, TSO4],
        source: "V 5.1.3 (HOST_TSO4: the device can receive it); RFC 791 3.1 (Total Length has 16 bits)",
        sent: "A super-frame whose IPv4 packet has 65,535 bytes, without a tag, with one and with two, to a driver that takes none; three times at most.",
        expected: "All of it arrives: tags are no part of the packet.",
        run: |bench| {
            const LEN: usize = 65_535 - 20 - TCP_HEADER;
            let plain = without(NetConfig::CHECKSUM);
            let mut link = bench.link_of(&with(NetConfig::TSO), &plain)?;
            let mut made = packet(&link, false, TCP, LEN, MSS);
            arrives(&mut link, &made, LEN)?;
            for tag in [TAG, [0x88, 0xa8, 0, 6]] {
                made = behind_tag(made, tag);
                arrives(&mut link, &made, LEN)?;
            }
            Ok(Seen::Conforms)
        },
    },
    Case {
        id: "net/tso6-extension",
        level: Level::Model,
        needs: &[Need::Peer, TSO6],
        source: "V 5.1.3 (HOST_TSO6: the device can receive it); RFC 8200 4",
        sent: "Super-frames of TCP over IPv6 behind destination and hop-by-hop options of 16 bytes, and behind routing headers of one and of five addresses, all of the way behind it and not, to a driver that takes none; three times at most.",
        expected: "All of each arrives, each segment behind the same headers and with a right checksum: over the last address of the way.",
        run: |bench| {
            let plain = without(NetConfig::CHECKSUM);
            let mut link = bench.link_of(&with(feature::HOST_TSO6), &plain)?;
            let padding = [&[TCP, 1, 1, 12][..], &[0; 12]].concat();
            // All of the way lies behind: no segments are left.
            let mobile = [&[TCP, 2, 2, 0, 0, 0, 0, 0][..], &[0xfd; 16]].concat();
            let segment = [&[TCP, 10, 4, 0, 4, 0, 0, 0][..], &[0xfd; 80]].concat();
            // And with one left, of which the address is the last.
            let (mut mobile_left, mut segment_left) = (mobile.clone(), segment.clone());
            (mobile_left[3], segment_left[3]) = (1, 1);
            for (kind, header, last) in [
                (DESTINATION, padding.clone(), None),
                (HOP_BY_HOP, padding, None),
                (ROUTING, mobile, None),
                (ROUTING, segment, None),
                (ROUTING, mobile_left, Some([0xfd; 16])),
                (ROUTING, segment_left, Some([0xfd; 16])),
            ] {
                // Short enough for an mtu of 1500 behind any of them.
                let (hdr, mut frame) = packet(&link, true, TCP, 11_000, 1200);
                const TO: std::ops::Range<usize> = L2 + 24..L2 + 40;
                if let Some(last) = last {
                    let l4 = usize::from(hdr.csum_start);
                    let next = frame[TO].to_vec();
                    frame[TO].copy_from_slice(&last);
                    let partial = pseudo(&frame, l4).to_be_bytes();
                    frame[l4 + 16..l4 + 18].copy_from_slice(&partial);
                    frame[TO].copy_from_slice(&next);
                }
                let made = behind_extension(hdr, frame, kind, &header);
                arrives_looked_at(&mut link, &made, 11_000, |bytes| {
                    let mut inner = bytes.to_vec();
                    let at = L2 + 40;
                    let same = bytes.get(at..at + header.len()) == Some(&header[..]);
                    ensure(same, "a segment has lost its extension header")?;
                    inner.drain(at..at + header.len());
                    inner[L2 + 6] = TCP;
                    if let Some(last) = last {
                        inner[TO].copy_from_slice(&last);
                    }
                    let rest = (inner.len() - at) as u16;
                    inner[L2 + 4..L2 + 6].copy_from_slice(&rest.to_be_bytes());
                    let length = bytes.len() - at;
                    ensure(
                        bytes[L2 + 4..L2 + 6] == (length as u16).to_be_bytes() && is_right(&inner),
                        "a segment with a wrong length or checksum",
                    )
                })?;
            }
            Ok(Seen::Conforms)
        },
    },
    Case {
        id: "net/tso-headers-kept",
        level: Level::Text,
        needs: &[Need::Peer, TSO4],
        source: "V 5.1.9.2; RFC 9293 3.1, RFC 3168 6.1.2",
        sent: "Super-frames with an acknowledgement number, ECE, a hop limit, a traffic class and, over IPv6, a flow label, to a driver that takes none.",
        expected: "Each segment has all of that: of the headers only lengths, the identification, checksums, the sequence number, FIN, PSH and CWR may differ.",
        run: |bench| {
            let sender = with(offered(bench));
            let mut link = bench.link_of(&sender, &without(NetConfig::CHECKSUM))?;
            let mut seen = Seen::Tolerated;
            for v6 in versions(bench) {
                let (hdr, mut frame) = packet(&link, v6, TCP, 11_000, MSS);
                let l4 = usize::from(hdr.csum_start);
                frame[l4 + 8..l4 + 12].copy_from_slice(&[1, 2, 3, 4]);
                frame[l4 + 13] |= ECE;
                match v6 {
                    true => {
                        frame[L2..L2 + 4].copy_from_slice(&[0x62, 0x8a, 0xbc, 0xde]);
                        frame[L2 + 7] = 61;
                    }
                    false => {
                        (frame[L2 + 1], frame[L2 + 8]) = (0x28, 61);
                        ip_sum(&mut frame);
                    }
                }
                let headers = alike(&frame, v6, l4);
                let got = segments(&mut link, &hdr, &frame, 11_000, |segment, _| {
                    let now = alike(segment, v6, l4);
                    ensure(
                        now == headers,
                        format_args!(
                            "IPv6: {v6}: headers {now:02x?} of a segment, and {headers:02x?} of the super-frame"
                        ),
                    )
                })?;
                if let Seen::Conforms = all_or_nothing(got)? {
                    seen = Seen::Conforms;
                }
            }
            Ok(seen)
        },
    },
    Case {
        id: "net/offloads-scattered",
        level: Level::Must,
        needs: &[Need::Peer, TSO4],
        source: "V 2.7.4.1, 5.1.9.4.1",
        sent: "Frames with NEEDS_CSUM and super-frames of 11,000 and 65,000 bytes in many descriptors, as Linux sends them, and in indirect tables, over IPv4 and IPv6, to a driver without offloads, one with GUEST_CSUM and one with GUEST_TSO4.",
        expected: "What arrives has the payload that was sent, with right checksums or such as are to be completed, if what is sent in one piece has: a device MUST NOT assume how buffers are cut.",
        run: scattered,
    },
    Case {
        id: "switch/broadcast-scattered",
        level: Level::Model,
        needs: &[ADMIN, Need::Peer, Need::Onlooker],
        source: "V 2.7.4.1; IEEE 802.1Q-2018 8.8 (each port of the VLAN once)",
        sent: "Broadcasts of 1400 bytes in 100 descriptors each.",
        expected: "Both other ports get them as they were.",
        run: |bench| {
            let mut link = bench.link(&NetConfig::default())?;
            let mut onlooker = bench.onlooker(&NetConfig::default())?;
            let cuts: Vec<usize> = (1..100).map(|piece| piece * 1412 / 100).collect();
            for _ in 0..4 {
                let mut frame = link.frame(1400);
                frame[..6].fill(0xff);
                send_cut(&mut link, &frame, &cuts, false)?;
                link.sent()?;
                link.expect(&frame)?;
                let seen = onlooker.sees(&frame, 1)?;
                ensure(seen == 1, format_args!("a third VF got it {seen} times"))?;
            }
            Ok(Seen::Conforms)
        },
    },
    Case {
        id: "vf/port-vlan-offloads",
        level: Level::Model,
        needs: &[ADMIN, Need::Peer, CSUM, TSO4, TAKES_TSO4],
        source: "ip-link(8) vf vlan; V 5.1.9.4.1",
        sent: "A frame with NEEDS_CSUM and a super-frame from a VF in port VLAN 100 to one without, and tagged to one in it, to drivers without offloads, with GUEST_CSUM and with GUEST_TSO4; and a frame of 1514 bytes into buffers of 64.",
        expected: "They arrive with the tag, or without it; checksums and segments are right, or csum_start and hdr_len are where the tag has moved the headers.",
        run: |bench| {
            for inserts in [true, false] {
                let (tags, plain) = if inserts { (0, 1) } else { (1, 0) };
                bench.administer(&format!("vf {tags} vlan {PORT}"))?;
                bench.administer(&format!("vf {plain} vlan 0"))?;
                through_port_vlan(bench, inserts)?;
            }
            Ok(Seen::Conforms)
        },
    },
    Case {
        id: "path/segments-wait",
        level: Level::Model,
        needs: &[ADMIN, Need::Peer, TSO4],
        source: "IEEE 802.1Q-2018 6.5.3 (order), 6.5.4 (duplication)",
        sent: "On the mediated path, super-frames of 30 segments to a receiver with eight buffers, which takes one at a time.",
        expected: "The sequence numbers of what arrives only rise: no segment comes twice, whatever waits for buffers; and of each super-frame the first alone has CWR.",
        run: |bench| {
            for vf in 0..2 {
                bench.administer(&format!("vf {vf} path mediated"))?;
            }
            let receiver = NetConfig {
                queue_size: 8,
                ..without(NetConfig::CHECKSUM)
            };
            let mut link = bench.link_of(&with(NetConfig::TSO), &receiver)?;
            for _ in 0..5 {
                let (hdr, mut frame) = packet(&link, false, TCP, 30 * MSS, MSS);
                frame[TCP_FLAGS] |= CWR;
                link.send_with(&hdr, &frame)?;
                let mut last = None;
                while let Some(segment) = link.receive(2 * QUIET)? {
                    let at = L2 + 20 + 4;
                    let seq = segment.bytes().get(at..at + 4).map(<[u8]>::to_vec);
                    ensure(
                        seq > last,
                        format_args!("sequence number {seq:02x?} after {last:02x?}"),
                    )?;
                    let slower = segment.bytes().get(TCP_FLAGS).copied().unwrap_or_default();
                    ensure(
                        last.is_none() || slower & CWR == 0,
                        format_args!("a segment with sequence number {seq:02x?} has CWR again"),
                    )?;
                    last = seq;
                    std::thread::sleep(Duration::from_millis(1));
                }
                ensure(last.is_some(), "no segment arrived")?;
            }
            Ok(Seen::Conforms)
        },
    },
    Case {
        id: "path/buffers-awaited",
        level: Level::Model,
        needs: &[ADMIN, Need::Peer],
        source: "V 2.7.10.2, 2.8.14 (a device asks for the kicks that it needs)",
        sent: "On the mediated path, eight times eight frames to a receiver with four buffers, which kicks only when it is asked to; with EVENT_IDX and without.",
        expected: "Once it has taken what came, what waited for its buffers comes within 50 ms.",
        run: |bench| {
            for vf in 0..2 {
                bench.administer(&format!("vf {vf} path mediated"))?;
            }
            for off in [0, feature::EVENT_IDX] {
                let receiver = NetConfig {
                    queue_size: 4,
                    ..without(off)
                };
                let mut link = bench.link_of(&NetConfig::default(), &receiver)?;
                awaited(&mut link)?;
            }
            Ok(Seen::Conforms)
        },
    },
    Case {
        id: "net/tso-sequence-wraps",
        level: Level::Text,
        needs: &[Need::Peer, TSO4],
        source: "V 5.1.9.2; RFC 9293 3.4 (sequence numbers are modulo 2^32)",
        sent: "A super-frame whose sequence number is 3000 below 2^32, over IPv4 and IPv6, to a driver that takes none.",
        expected: "Each segment has the number of its first byte: behind 2^32 - 1 comes 0.",
        run: |bench| {
            const FIRST: u32 = u32::MAX - 2999;
            let sender = with(offered(bench));
            let mut link = bench.link_of(&sender, &without(NetConfig::CHECKSUM))?;
            let mut seen = Seen::Tolerated;
            for v6 in versions(bench) {
                let (hdr, mut frame) = packet(&link, v6, TCP, 11_000, MSS);
                let at = usize::from(hdr.csum_start) + 4;
                frame[at..at + 4].copy_from_slice(&FIRST.to_be_bytes());
                let headers = frame.len() - 11_000;
                let payload = frame[headers..].to_vec();
                let got = segments(&mut link, &hdr, &frame, 11_000, |segment, _| {
                    let number = segment
                        .get(at..at + 4)
                        .and_then(|number| number.first_chunk());
                    let number = number.map_or(0, |number| u32::from_be_bytes(*number));
                    let from = number.wrapping_sub(FIRST) as usize;
                    let piece = segment.get(headers..).unwrap_or_default();
                    ensure(
                        payload
                            .get(from..)
                            .is_some_and(|rest| rest.starts_with(piece)),
                        format_args!(
                            "a segment with sequence number {number:#x} of a super-frame with {FIRST:#x}"
                        ),
                    )
                })?;
                if let Seen::Conforms = all_or_nothing(got)? {
                    seen = Seen::Conforms;
                }
            }
            Ok(seen)
        },
    },
    Case {
        id: "net/tso-small-segments",
        level: Level::Model,
        needs: &[Need::Peer, TSO4],
        source: "V 5.1.3 (HOST_TSO4: the device can receive it); Linux tcp_min_snd_mss (48 bytes)",
        sent: "Super-frames of TCP of 20,000 bytes with segments of 88 and of 48, to a driver that takes none and has posted 1024 buffers; three times at most.",
        expected: "All of each arrives: on a path of small packets a connection has nothing else to send.",
        run: |bench| {
            let mut link = bench.link_of(&with(NetConfig::TSO), &many_buffers())?;
            for mss in [88, 48] {
                let made = packet(&link, false, TCP, 20_000, mss);
                arrives(&mut link, &made, 20_000)?;
            }
            Ok(Seen::Conforms)
        },
    },
    Case {
        id: "net/tso-in-burst",
        level: Level::Model,
        needs: &[Need::Peer, TSO4],
        source: "V 5.1.3 (HOST_TSO4: the device can receive it); IEEE 802.1Q-2018 6.5.2 (frame loss), 6.5.3",
        sent: "Four super-frames of TCP of 10,000 bytes with segments of 100 and a single kick, to a driver that takes none and has posted 1024 buffers; three times at most.",
        expected: "All of them arrive, in their order.",
        run: tso_in_burst,
    },
];

/// Features of a sender of super-frames of all kinds that the subject takes.
fn offered(bench: &Bench) -> u64 {
    NetConfig::TSO & !feature::GUEST_TSO4 | bench.features() & feature::HOST_TSO6
}

/// Over which versions of IP there can be super-frames.
fn versions(bench: &Bench) -> impl Iterator<Item = bool> {
    let v6 = bench.features() & feature::HOST_TSO6 != 0;
    [false, true].into_iter().filter(move |kind| v6 || !kind)
}

/// Sends a super-frame until all of its payload has arrived, three times at most.
fn arrives(link: &mut Link, made: &(NetHeader, Vec<u8>), len: usize) -> Result<(), Failure> {
    arrives_looked_at(link, made, len, |_| Ok(()))
}

fn arrives_looked_at(
    link: &mut Link,
    (hdr, frame): &(NetHeader, Vec<u8>),
    len: usize,
    look: impl Fn(&[u8]) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let headers = frame.len() - len;
    let mut most = 0;
    for _ in 0..TRIES {
        // It may be longer than a buffer of the ring: nothing else is in those behind that.
        send_cut_with(link, hdr, frame, &[], false)?;
        link.sent()?;
        let mut got = Vec::new();
        while got.len() < len
            && let Some(segment) = link.receive(DEADLINE)?
        {
            look(segment.bytes())?;
            got.extend_from_slice(segment.bytes().get(headers..).unwrap_or_default());
        }
        if got == frame[headers..] {
            return Ok(());
        }
        most = most.max(got.len());
        while link.receive(QUIET)?.is_some() {}
    }
    Err(Failure::Wrong(format!(
        "{most} of {len} bytes behind {headers} bytes of headers arrived in segments of {}, in the best of {TRIES} tries",
        hdr.gso_size
    )))
}

/// The same super-frame over IPv6 with an extension header.
fn behind_extension(
    hdr: NetHeader,
    mut frame: Vec<u8>,
    kind: u8,
    header: &[u8],
) -> (NetHeader, Vec<u8>) {
    let at = L2 + 40;
    frame.splice(at..at, header.iter().copied());
    frame[L2 + 6] = kind;
    let rest = (frame.len() - at) as u16;
    frame[L2 + 4..L2 + 6].copy_from_slice(&rest.to_be_bytes());
    (moved(hdr, header.len() as u16), frame)
}

/// The headers of a segment without what differs from segment to segment.
fn alike(segment: &[u8], v6: bool, l4: usize) -> Vec<u8> {
    let mut headers = segment.get(..l4 + TCP_HEADER).unwrap_or_default().to_vec();
    let differing: &[(usize, usize)] = match v6 {
        true => &[(4, 6)],
        false => &[(2, 6), (10, 12)],
    };
    let ip = differing.iter().map(|(from, to)| (L2 + from, L2 + to));
    for (from, to) in ip.chain([(l4 + 4, l4 + 8), (l4 + 16, l4 + 18)]) {
        if let Some(bytes) = headers.get_mut(from..to) {
            bytes.fill(0);
        }
    }
    if let Some(flags) = headers.get_mut(l4 + 13) {
        *flags &= !(CWR | 0x09);
    }
    headers
}

fn scattered(bench: &Bench) -> Result<Seen, Failure> {
    let sender = with(offered(bench) | feature::INDIRECT_DESC);
    let takers = [
        without(NetConfig::CHECKSUM),
        NetConfig::default(),
        with(NetConfig::TSO),
    ];
    let mut seen = Seen::Tolerated;
    for receiver in takers {
        let mut link = bench.link_of(&sender, &receiver)?;
        let tables = link.tx.has(feature::INDIRECT_DESC);
        for v6 in versions(bench) {
            for (len, mss) in [(1333, 0), (11_000, MSS), (65_000, MSS)] {
                // In one piece: what is wrong then as well has nothing to do with pieces.
                let (hdr, frame) = packet(&link, v6, TCP, len, mss);
                send_cut_with(&mut link, &hdr, &frame, &[], false)?;
                link.sent()?;
                let whole = pieces_of(&mut link, &hdr, &frame, len);
                if whole.is_err() {
                    while link.receive(QUIET)?.is_some() {}
                }
                for indirect in [false, true] {
                    let (hdr, frame) = packet(&link, v6, TCP, len, mss);
                    let headers = frame.len() - len;
                    // The header, the headers, and pages of payload, or odd pieces of it.
                    let step = if mss == 0 { 301 } else { 4096 };
                    let pages = (12 + headers + step..12 + frame.len()).step_by(step);
                    let cuts: Vec<usize> = [12, 12 + headers].into_iter().chain(pages).collect();
                    send_cut_with(&mut link, &hdr, &frame, &cuts, indirect && tables)?;
                    link.sent()?;
                    let got = pieces_of(&mut link, &hdr, &frame, len);
                    let got = got.map_err(|failure| match whole {
                        Ok(_) => failure,
                        Err(_) => failure.at(Level::Should),
                    })?;
                    if got == len {
                        seen = Seen::Conforms;
                    }
                }
            }
        }
    }
    Ok(seen)
}

/// How much of a packet's payload arrives, in however many frames, each of which has to be right.
fn pieces_of(
    link: &mut Link,
    sent: &NetHeader,
    frame: &[u8],
    len: usize,
) -> Result<usize, Failure> {
    let headers = frame.len() - len;
    let mut got = 0;
    while got < len
        && let Some(came) = link.receive(DEADLINE)?
    {
        right_or_marked(came, sent, headers, 0)?;
        let at = usize::from(sent.csum_start) + 4;
        let bytes = came.bytes();
        let seq = bytes
            .get(at..at + 4)
            .and_then(|seq| seq.first_chunk())
            .map_or(0, |seq| u32::from_be_bytes(*seq) as usize);
        let payload = bytes.get(headers..).unwrap_or_default();
        let from = headers + seq;
        ensure(
            !payload.is_empty() && frame.get(from..from + payload.len()) == Some(payload),
            format_args!(
                "{} bytes of payload from {seq} on are not those of {len} that were sent",
                payload.len()
            ),
        )?;
        got += payload.len();
    }
    Ok(got)
}

/// Checks that a frame is right as it is, or says truly where its checksum and headers are: `by` bytes behind where they were.
fn right_or_marked(
    came: &RxFrame,
    sent: &NetHeader,
    headers: usize,
    by: i16,
) -> Result<(), Failure> {
    let (hdr, bytes) = (came.hdr, came.bytes());
    let mut inner = bytes.to_vec();
    if bytes.get(12..14) == Some(&[0x81, 0]) {
        inner.drain(12..16);
    }
    let place = (hdr.csum_start, hdr.csum_offset);
    let partial = hdr.flags & HDR_NEEDS_CSUM != 0
        && place == (sent.csum_start.saturating_add_signed(by), sent.csum_offset);
    ensure(
        partial || is_right(&inner),
        format_args!(
            "{} bytes with flags {} and the checksum at {place:?}, which are not right as they are",
            bytes.len(),
            hdr.flags
        ),
    )?;
    let described = hdr.gso_type == GSO_TCPV4 || hdr.gso_type == sent.gso_type;
    let least = headers.saturating_add_signed(by.into());
    ensure(
        hdr.gso_type == GSO_NONE || described && usize::from(hdr.hdr_len) >= least,
        format_args!(
            "gso_type {} with hdr_len {}, where the headers have {least} bytes",
            hdr.gso_type, hdr.hdr_len
        ),
    )
}

/// Frames into port VLAN 100 or out of it.
fn through_port_vlan(bench: &Bench, inserts: bool) -> Result<(), Failure> {
    const LEN: usize = 11_000;
    let by: i16 = if inserts { 4 } else { -4 };
    let tag = [0x81, 0, 0, PORT as u8];
    for receiver in [
        without(NetConfig::CHECKSUM),
        NetConfig::default(),
        with(NetConfig::TSO),
    ] {
        let mut link = bench.link_of(&with(NetConfig::TSO), &receiver)?;
        for (len, mss) in [(1000, 0), (LEN, MSS)] {
            let made = packet(&link, false, TCP, len, mss);
            let made = if inserts { made } else { behind_tag(made, tag) };
            let (hdr, frame) = &made;
            let headers = frame.len() - len;
            link.send_with(hdr, frame)?;
            let mut got = 0;
            while got < len
                && let Some(came) = link.receive(DEADLINE)?
            {
                let has_tag = came.bytes().get(12..16) == Some(&tag);
                ensure(
                    has_tag == inserts,
                    format_args!("it came with a tag: {has_tag}"),
                )?;
                right_or_marked(came, hdr, headers, by)?;
                let before = headers.saturating_add_signed(by.into());
                got += came.bytes().len().saturating_sub(before);
            }
            ensure(got == len, format_args!("{got} of {len} bytes arrived"))?;
        }
    }
    let small = NetConfig {
        rx_buffer: Some(64),
        ..NetConfig::default()
    };
    let mut link = bench.link_of(&NetConfig::default(), &small)?;
    if link.receiver().has(feature::MRG_RXBUF) {
        let frame = link.frame(1514);
        let with_tag = tagged(&frame, 0x8100, PORT);
        let (sent, expected) = match inserts {
            true => (frame, with_tag),
            false => (with_tag, frame),
        };
        link.send(&sent)?;
        link.expect(&expected)?;
    }
    Ok(())
}

/// Eight times more frames than the receiver has buffers for.
fn awaited(link: &mut Link) -> Result<(), Failure> {
    /// Frames at a time, and how long those that waited may take: half of what our own NIC has them wait.
    const FRAMES: usize = 8;
    const SOON: Duration = Duration::from_millis(50);
    let (mut waited, mut late) = (0, 0);
    for _ in 0..FRAMES {
        let frames: Vec<_> = (0..FRAMES).map(|_| link.frame(100)).collect();
        for frame in &frames {
            link.send(frame)?;
        }
        link.sent()?;
        // All that is idle sleeps by now.
        std::thread::sleep(SOON / 2);
        let mut came = 0;
        while came < FRAMES && link.receive(SOON)?.is_some() {
            came += 1;
        }
        waited += came.saturating_sub(4);
        late += usize::from(came < FRAMES);
        while link.receive(2 * QUIET)?.is_some() {}
    }
    // What a machine holds up now and then is no rule.
    ensure(
        waited > 0 && late <= FRAMES / 2,
        format_args!(
            "{waited} frames that waited came; of {FRAMES} times {late} times not all did within {SOON:?}"
        ),
    )
}

/// A driver that takes no super-frames, with room for the segments of some.
fn many_buffers() -> NetConfig {
    NetConfig {
        queue_size: 1024,
        ..without(NetConfig::CHECKSUM)
    }
}

fn tso_in_burst(bench: &Bench) -> Result<Seen, Failure> {
    const LEN: usize = 10_000;
    let mut link = bench.link_of(&with(NetConfig::TSO), &many_buffers())?;
    let (hdr, frame) = packet(&link, false, TCP, LEN, 100);
    let headers = frame.len() - LEN;
    let mut most = 0;
    for _ in 0..TRIES {
        let mut sent = Vec::new();
        for n in 0..4 {
            let mut frame = frame.clone();
            // No two of them are alike.
            frame[headers..].iter_mut().for_each(|byte| *byte ^= n);
            sent.extend_from_slice(&frame[headers..]);
            let placed = link.tx.send(0, &hdr, &frame)?;
            ensure(placed, "the send ring is full")?;
        }
        link.tx.kick();
        link.sent()?;
        let mut got = Vec::new();
        while got.len() < sent.len()
            && let Some(segment) = link.receive(DEADLINE)?
        {
            got.extend_from_slice(segment.bytes().get(headers..).unwrap_or_default());
        }
        if got == sent {
            return Ok(Seen::Conforms);
        }
        most = most.max(got.len());
        while link.receive(QUIET)?.is_some() {}
    }
    Err(Failure::Wrong(format!(
        "{most} bytes of 4 times {LEN} arrived, or in another order, in the best of {TRIES} tries"
    )))
}
