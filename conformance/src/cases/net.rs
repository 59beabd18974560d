//! virtio-net: headers, merged buffers, offloads between ports that differ. Segmentation in all its kinds is in `offloads` and `segments`.

use std::time::Duration;

use vm_memory::Bytes;

use crate::bench::{Bench, DEADLINE, Delivery, Link, QUIET, with, without};
use crate::case::{Case, Level, Need};
use crate::cases::by_hand::send_cut_with;
use crate::cases::clauses::started;
use crate::cases::ring_states::to_sender;
use crate::verdict::{Failure, Seen, ensure, ensure_text};
use vf_guest::checksum::TcpFrame;
use vf_guest::net::{
    GSO_NONE, GSO_TCPV4, HDR_DATA_VALID, HDR_NEEDS_CSUM, NetConfig, NetHeader, feature,
};

const F30: Need = Need::Feature(feature::PROTOCOL_FEATURES, "protocol features");
const MRG: Need = Need::Feature(feature::MRG_RXBUF, "MRG_RXBUF");
const CSUM: Need = Need::Feature(feature::CSUM, "CSUM");
const TSO: Need = Need::Feature(feature::HOST_TSO4 | feature::CSUM, "HOST_TSO4");

/// Where the TCP flags are in the frames here.
const TCP_FLAGS: usize = 34 + 13;
const FIN: u8 = 0x01;
const PSH: u8 = 0x08;

pub(super) const CASES: &[Case] = &[
    Case {
        id: "net/hdr-len-matrix",
        level: Level::Text,
        needs: &[],
        source: "V 5.1.9 Device Operation; CVE-2023-6693",
        sent: "A frame with MRG_RXBUF and one without.",
        expected: "Both arrive: the header has 12 bytes with VERSION_1 in any case.",
        run: |bench| {
            for off in [0, feature::MRG_RXBUF] {
                let mut link = bench.link(&without(off))?;
                let frame = link.frame(400);
                link.pass(&frame)?;
            }
            Ok(Seen::Conforms)
        },
    },
    Case {
        id: "net/num-buffers-one",
        level: Level::Must,
        needs: &[Need::Delivery],
        source: "V 5.1.9.3.2, 5.1.9.4.1",
        sent: "A frame into buffers that hold it, with MRG_RXBUF and without.",
        expected: "num_buffers is 1 in both.",
        run: |bench| {
            for off in [0, feature::MRG_RXBUF] {
                let mut link = bench.link(&without(off))?;
                let frame = link.frame(400);
                link.send(&frame)?;
                let hdr = link.expect(&frame)?;
                ensure(
                    hdr.num_buffers == 1,
                    format_args!("num_buffers is {}", hdr.num_buffers),
                )?;
            }
            Ok(Seen::Conforms)
        },
    },
    Case {
        id: "net/mrg-spread",
        level: Level::Must,
        needs: &[Need::Delivery, MRG],
        source: "V 5.1.9.4.1",
        sent: "Frames into buffers of 256 bytes with MRG_RXBUF, with IN_ORDER and without.",
        expected: "As few buffers as hold it, num_buffers of them.",
        run: |bench| {
            // In order, a driver may take for granted what it is told of the buffers before the last.
            for off in [0, feature::IN_ORDER] {
                let mut config = small_buffers();
                config.features &= !off;
                let mut link = bench.link(&config)?;
                for len in [60, 244, 245, 500, 1514] {
                    let frame = link.frame(len);
                    link.send(&frame)?;
                    let hdr = link.expect(&frame)?;
                    let len = frame.len();
                    let least = (len + 12).div_ceil(256) as u16;
                    ensure(
                        hdr.num_buffers == least,
                        format_args!("{} buffers for {len} bytes", hdr.num_buffers),
                    )?;
                }
            }
            Ok(Seen::Conforms)
        },
    },
    Case {
        id: "net/flags-zero-no-guest-csum",
        level: Level::Must,
        needs: &[Need::Delivery],
        source: "V 5.1.9.4.1",
        sent: "A frame to a driver without GUEST_CSUM.",
        expected: "flags and gso_type are 0.",
        run: |bench| {
            let mut link = bench.link(&without(NetConfig::CHECKSUM))?;
            let frame = link.frame(400);
            link.send(&frame)?;
            let hdr = link.expect(&frame)?;
            ensure(hdr.flags == 0, format_args!("flags {}", hdr.flags))?;
            ensure(
                hdr.gso_type == GSO_NONE,
                format_args!("gso_type {}", hdr.gso_type),
            )?;
            Ok(Seen::Conforms)
        },
    },
    Case {
        id: "net/partial-csum-vf-to-vf",
        level: Level::Should,
        needs: &[Need::Peer, CSUM],
        source: "V 5.1.9.2.2, 5.1.9.4.1",
        sent: "A frame with NEEDS_CSUM to a driver without GUEST_CSUM.",
        expected: "Its TCP checksum is complete, flags are 0, the payload is as it was.",
        run: |bench| {
            let plain = without(NetConfig::CHECKSUM);
            let mut link = bench.link_of(&NetConfig::default(), &plain)?;
            let (hdr, frame, payload) = tcp(&link, 1000, GSO_NONE);
            link.send_with(&hdr, &frame)?;
            let (flags, got) = next(&mut link)?;
            ensure(flags == 0, format_args!("flags {flags}"))?;
            let tcp = TcpFrame::parse(&got);
            ensure(
                tcp.is_some_and(|tcp| tcp.verify(&got)),
                "the checksum was not completed",
            )?;
            ensure(got.ends_with(&payload), "the payload changed")?;
            Ok(Seen::Conforms)
        },
    },
    Case {
        id: "net/partial-csum-kept-or-completed",
        level: Level::Must,
        needs: &[Need::Delivery, CSUM],
        source: "V 5.1.9.4.1",
        sent: "A frame with NEEDS_CSUM to a driver with GUEST_CSUM.",
        expected: "Still marked, with the same csum_start and csum_offset, and as it was, or complete.",
        run: |bench| {
            let mut link = bench.link(&NetConfig::default())?;
            let (hdr, frame, payload) = tcp(&link, 1000, GSO_NONE);
            link.send_with(&hdr, &frame)?;
            let sent = hdr;
            let Some(came) = link.receive(DEADLINE)? else {
                return Err(Failure::Wrong("the frame did not arrive".into()));
            };
            let (hdr, got) = (came.hdr, came.bytes().to_vec());
            let flags = hdr.flags;
            let tcp = TcpFrame::parse(&got);
            let right = tcp.is_some_and(|tcp| tcp.verify(&got));
            let place = (hdr.csum_start, hdr.csum_offset) == (sent.csum_start, sent.csum_offset);
            let partial = flags & HDR_NEEDS_CSUM != 0 && place && got == frame;
            ensure(
                right || partial,
                format_args!("flags {flags}, and the checksum is neither partial nor right"),
            )?;
            ensure(
                right || flags & HDR_DATA_VALID == 0,
                "a wrong checksum was vouched for",
            )?;
            ensure(got.ends_with(&payload), "the payload changed")?;
            Ok(Seen::Conforms)
        },
    },
    Case {
        id: "net/tso-to-plain-peer",
        level: Level::Must,
        needs: &[Need::Peer, TSO],
        source: "V 5.1.9.4.1, 5.1.9.2",
        sent: "A super-frame of 10,000 bytes to a driver without GUEST_TSO4.",
        expected: "Segments, or nothing; never what is still to be segmented. They have at most 1514 bytes and right IP and TCP headers, in order, and should have complete checksums.",
        run: |bench| cut(bench, &without(NetConfig::CHECKSUM), 0),
    },
    Case {
        id: "net/tso-to-checksum-peer",
        level: Level::Must,
        needs: &[Need::Peer, TSO],
        source: "V 5.1.9.4.1, 5.1.9.2",
        sent: "A super-frame of 10,000 bytes to a driver with GUEST_CSUM and without GUEST_TSO4.",
        expected: "Segments, or nothing; never what is still to be segmented. They have at most 1514 bytes and right IP and TCP headers, in order, and should have complete checksums.",
        run: |bench| cut(bench, &NetConfig::default(), 0),
    },
    Case {
        id: "net/tso-flags",
        level: Level::Text,
        needs: &[Need::Peer, TSO],
        source: "V 5.1.9.2; RFC 9293 3.1",
        sent: "A super-frame of 10,000 bytes with FIN and PSH set.",
        expected: "Only the last segment has them: the stream ends there.",
        run: |bench| cut(bench, &without(NetConfig::CHECKSUM), FIN | PSH),
    },
    Case {
        id: "net/every-length",
        level: Level::Text,
        needs: &[Need::Delivery],
        source: "V 5.1.9.2, 5.1.9.4",
        sent: "Frames of every length from 1390 to 1514 bytes, and of every seventh from 60 on.",
        expected: "Each arrives as it was, to the last byte.",
        run: |bench| {
            let mut link = bench.link(&NetConfig::default())?;
            for len in (60..1390).step_by(7).chain(1390..=1514) {
                let frame = link.frame(len);
                link.pass(&frame)?;
            }
            Ok(Seen::Conforms)
        },
    },
    Case {
        id: "net/rx-writes-inside",
        level: Level::Text,
        needs: &[Need::Delivery],
        source: "V 2.7.8 The Virtqueue Used Ring",
        sent: "Frames that fill a receive buffer of 256 bytes to its end, beside buffers full of a pattern.",
        expected: "Not a byte of any buffer changes that was not given back.",
        run: |bench| {
            // Others may use the buffers as soon as the ring runs.
            let (mut front, mut net) = bench.negotiated(&small_buffers())?;
            let memory = net.memory().clone();
            let (ring, header) = (net.rx_ring(0), 12);
            let len = ring.buffer_len() as usize;
            let buffers: Vec<u64> = (0..8).map(|head| ring.buffer_addr(head)).collect();
            for at in &buffers {
                let slice = memory.slice(*at, len);
                let put = slice.is_some_and(|s| s.write_slice(&pattern(len), 0).is_ok());
                ensure(put, "memory of our own cannot be written")?;
            }
            front.set_features(net.features())?;
            front.set_memory(net.memory().regions())?;
            started(&mut net, front)?;
            let mut link = bench.link_from(net, &NetConfig::default())?;
            for frames in 1..=4 {
                let frame = match link.rx {
                    Some(_) => to_sender(&mut link, len - header)?,
                    None => {
                        let frame = link.frame(len - header);
                        link.send(&frame)?;
                        frame
                    }
                };
                let came = link.returned(DEADLINE, |came| came == frame)?;
                ensure(came, format_args!("frame {frames} did not arrive"))?;
                for (head, at) in buffers.iter().enumerate().skip(frames) {
                    let mut bytes = vec![0; len];
                    let slice = memory.slice(*at, len);
                    let got = slice.is_some_and(|s| s.read_slice(&mut bytes, 0).is_ok());
                    ensure(got, "memory of our own cannot be read")?;
                    let wrong = bytes.iter().zip(pattern(len)).position(|(a, b)| *a != b);
                    if let Some(wrong) = wrong {
                        // Somebody else's frame may be in it, and is given back by now or soon.
                        std::thread::sleep(QUIET);
                        let used = link.tx.rx_ring(0).queue.given_back();
                        ensure(
                            head < used.into(),
                            format_args!(
                                "byte {wrong} of buffer {head} changed after {frames} frames"
                            ),
                        )?;
                    }
                }
            }
            Ok(Seen::Conforms)
        },
    },
    Case {
        id: "net/rx-too-big-no-mrg",
        level: Level::Hard,
        needs: &[Need::Delivery],
        source: "CVE-2015-7295",
        sent: "A frame of 1000 bytes into buffers of 256 without MRG_RXBUF.",
        expected: "Contained; and usually it does not arrive, not even in part.",
        run: |bench| {
            let config = NetConfig {
                rx_buffer: Some(256),
                ..without(feature::MRG_RXBUF)
            };
            let mut link = bench.link(&config)?;
            let big = link.frame(1000);
            link.send(&big)?;
            let came = link.receive(QUIET)?.map(|frame| frame.bytes().len());
            // A driver without MRG_RXBUF MUST have larger buffers: no text says what becomes of those who do not.
            link.notes().ought(
                Level::Model,
                came.is_none(),
                format_args!("{} bytes of it arrived", came.unwrap_or_default()),
            );
            drop(link);
            bench.contained(Ok(()))
        },
    },
    Case {
        id: "net/every-pair-served",
        level: Level::Must,
        needs: &[Need::Feature(feature::MQ, "MQ"), Need::Pairs(2), Need::Peer],
        source: "VU Ring states; VU SET_VRING_ENABLE; microvm.nix #553",
        sent: "Frames of many flows, in turn from the first and the second pair of rings, without a control queue.",
        expected: "Each arrives in one of the receiver's two pairs.",
        run: |bench| {
            const PAIRS: u16 = 2;
            let mut link = bench.link(&NetConfig {
                queue_pairs: PAIRS,
                ..NetConfig::default()
            })?;
            // Whichever the driver of the sender takes, and wherever the device puts it: nothing stays behind.
            for flow in 0..32 {
                let frame = link.frame_of_flow(flow);
                let pair = usize::from(flow % PAIRS);
                ensure(
                    link.tx.send(pair, &NetHeader::default(), &frame)?,
                    "the send ring stays full",
                )?;
                link.tx.kick();
                link.arrives_on(&frame, PAIRS.into())?;
                link.tx.tx_room(pair)?;
            }
            Ok(Seen::Conforms)
        },
    },
    Case {
        id: "net/rx-resume-after-full",
        level: Level::Text,
        needs: &[Need::Delivery],
        source: "V 5.1.9.3; CVE-2020-16843",
        sent: "200 frames into a receive ring of 64, three times, each emptied afterwards.",
        expected: "A frame passes each time after the ring was emptied: the back end notices new buffers.",
        run: |bench| {
            let config = NetConfig {
                queue_size: 64,
                ..NetConfig::default()
            };
            let mut link = bench.link(&config)?;
            for _ in 0..3 {
                // More than the receive ring holds, before anybody looks.
                for _ in 0..200 {
                    let frame = link.frame(100);
                    link.send(&frame)?;
                    std::thread::sleep(Duration::from_micros(50));
                }
                link.sent()?;
                while link.receive(Duration::from_millis(20))?.is_some() {}
                let frame = link.frame(100);
                link.pass(&frame)?;
            }
            Ok(Seen::Conforms)
        },
    },
    Case {
        id: "net/tx-disabled-discards",
        level: Level::Must,
        needs: &[F30],
        source: "VU Ring states",
        sent: "A frame in a send ring that is disabled, which is then enabled.",
        expected: "The frame is given back and not forwarded, then or later; the next one passes.",
        run: |bench| {
            let mut link = bench.link(&NetConfig::default())?;
            enable(&mut link, 1, false)?;
            bench.settle();
            let discarded = link.frame(100);
            link.send(&discarded)?;
            link.sent()?;
            enable(&mut link, 1, true)?;
            bench.settle();
            link.expect_nothing(&discarded)?;
            let frame = link.frame(100);
            link.pass(&frame)?;
            Ok(Seen::Conforms)
        },
    },
    Case {
        id: "net/rx-disabled-silent",
        level: Level::Must,
        needs: &[F30, Need::Delivery],
        source: "VU Ring states",
        sent: "A frame to a receive ring that is disabled.",
        expected: "None of its buffers is used. Enabled again, it receives.",
        run: |bench| {
            let mut link = bench.link(&NetConfig::default())?;
            let receiver = link.receiver();
            if let Some(front) = receiver.frontend() {
                front.set_vring_enable(0, false)?;
            }
            bench.settle();
            let before = link.receiver().rx_ring(0).queue.given_back();
            let lost = link.frame(100);
            link.send(&lost)?;
            std::thread::sleep(QUIET);
            let after = link.receiver().rx_ring(0).queue.given_back();
            ensure(before == after, "a disabled receive ring was filled")?;
            if let Some(front) = link.receiver().frontend() {
                front.set_vring_enable(0, true)?;
            }
            bench.settle();
            let frame = link.frame(100);
            link.pass(&frame)?;
            Ok(Seen::Conforms)
        },
    },
    Case {
        id: "net/unknown-flags-ignored",
        level: Level::Must,
        needs: &[],
        source: "V 5.1.9.2.2",
        sent: "A frame whose header has those flags set that no version of the document has: bits 6 and 7.",
        expected: "It arrives: a device MUST ignore flag bits that it does not recognise.",
        run: |bench| {
            let mut link = bench.link(&NetConfig::default())?;
            let frame = link.frame(200);
            let hdr = NetHeader {
                flags: 0xc0,
                ..NetHeader::default()
            };
            link.send_with(&hdr, &frame)?;
            link.sent()?;
            link.expect(&frame)?;
            Ok(Seen::Conforms)
        },
    },
    Case {
        id: "net/csum-fields-ignored-when-unset",
        level: Level::Must,
        needs: &[],
        source: "V 5.1.9.2.2",
        sent: "A frame without NEEDS_CSUM and with 0xffff in gso_size, csum_start and csum_offset.",
        expected: "It arrives as it was: those fields mean nothing then.",
        run: |bench| {
            let mut link = bench.link(&NetConfig::default())?;
            let frame = link.frame(200);
            let hdr = NetHeader {
                gso_size: 0xffff,
                csum_start: 0xffff,
                csum_offset: 0xffff,
                ..NetHeader::default()
            };
            link.send_with(&hdr, &frame)?;
            link.sent()?;
            link.expect(&frame)?;
            Ok(Seen::Conforms)
        },
    },
    Case {
        id: "net/csum-start-past-end",
        level: Level::Hard,
        needs: &[CSUM],
        source: "V 5.1.9.2.2; CVE-2024-11614",
        sent: "Frames with NEEDS_CSUM and offsets outside the frame.",
        expected: "Contained; nothing arrives whose header says the same.",
        run: |bench| {
            for (csum_start, csum_offset) in [(0xffff, 16), (199, 0), (34, 0xffff), (0, 0)] {
                bad_header(
                    bench,
                    NetHeader {
                        flags: HDR_NEEDS_CSUM,
                        csum_start,
                        csum_offset,
                        ..NetHeader::default()
                    },
                    146,
                )?;
            }
            Ok(Seen::Tolerated)
        },
    },
    Case {
        id: "net/gso-size-zero",
        level: Level::Hard,
        needs: &[TSO],
        source: "V 5.1.9.2.2",
        sent: "TCP frames with gso_size 0 and 1, an unknown gso_type, and a header length that lies.",
        expected: "Contained; and nothing longer than the mtu allows that the receiver has been told.",
        run: |bench| {
            for (gso_type, gso_size, hdr_len) in
                [(1, 0, 54), (1, 1, 0), (0x7f, 100, 54), (1, 100, 0xffff)]
            {
                bad_header(
                    bench,
                    NetHeader {
                        flags: HDR_NEEDS_CSUM,
                        gso_type,
                        gso_size,
                        hdr_len,
                        csum_start: 34,
                        csum_offset: 16,
                        num_buffers: 0,
                    },
                    3000,
                )?;
            }
            Ok(Seen::Tolerated)
        },
    },
    Case {
        id: "net/runt",
        level: Level::Hard,
        needs: &[],
        source: "model; V 5.1.9.2",
        sent: "Frames of 0 to 13 bytes.",
        expected: "Contained, and the next frame passes.",
        run: |bench| {
            let mut link = bench.link(&NetConfig::default())?;
            for len in 0..14 {
                let runt = link.frame(18)[..len].to_vec();
                link.send(&runt)?;
            }
            link.sent()?;
            let frame = link.frame(100);
            link.pass(&frame)?;
            Ok(Seen::Tolerated)
        },
    },
    Case {
        id: "net/shortest",
        level: Level::Model,
        needs: &[Need::Peer],
        source: "V 5.1.9.2 (a buffer has a whole frame, however short); IEEE 802.3-2022 3.2 (addresses and a type; a NIC pads what it puts on a wire)",
        sent: "Frames of 14 to 17 bytes: addresses, a type, and three bytes at most.",
        expected: "They arrive, as they were or filled up.",
        run: |bench| {
            let mut link = bench.link(&NetConfig::default())?;
            for len in 14..=17 {
                let frame = link.frame(18)[..len].to_vec();
                link.send(&frame)?;
                let came = link.receive(DEADLINE)?;
                ensure(
                    came.is_some_and(|came| came.bytes().starts_with(&frame)),
                    format_args!("a frame of {len} bytes did not arrive"),
                )?;
            }
            Ok(Seen::Conforms)
        },
    },
];

/// Sends a super-frame with these TCP flags besides ACK to a driver that takes none, and puts the segments together.
fn cut(bench: &Bench, receiver: &NetConfig, tcp_flags: u8) -> Result<Seen, Failure> {
    let mut link = bench.link_of(&with(NetConfig::TSO), receiver)?;
    let (hdr, mut frame, payload) = tcp(&link, 10_000, GSO_TCPV4);
    frame[TCP_FLAGS] |= tcp_flags;
    link.send_with(&hdr, &frame)?;
    let notes = link.notes();
    let mut end = 0;
    while end < payload.len() {
        let Some(segment) = link.receive(DEADLINE)? else {
            break;
        };
        let (bytes, hdr) = (segment.bytes(), segment.hdr);
        ensure(
            hdr.gso_type == GSO_NONE,
            format_args!(
                "a frame of {} bytes, gso_type {}",
                bytes.len(),
                hdr.gso_type
            ),
        )?;
        ensure_text(
            bytes.len() <= 1514,
            format_args!("a segment of {} bytes", bytes.len()),
        )?;
        let Some(tcp) = TcpFrame::parse(bytes) else {
            return Err(Failure::Wrong("a segment is no TCP frame".into()).at(Level::Text));
        };
        ensure_text(
            vf_guest::checksum::sum(&bytes[14..tcp.l4]) == 0xffff,
            "the checksum of a segment's IPv4 header is wrong",
        )?;
        notes.ought(
            Level::Should,
            hdr.flags & HDR_NEEDS_CSUM != 0 || tcp.verify(bytes),
            "a segment's checksum is wrong",
        );
        let word = |at: usize| [bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]];
        let seq = u32::from_be_bytes(word(tcp.l4 + 4)) as usize;
        let piece = &bytes[tcp.payload..tcp.l4 + tcp.l4_len];
        ensure_text(
            seq >= end && payload.get(seq..seq + piece.len()) == Some(piece),
            format_args!(
                "{} bytes with sequence number {seq} after {end}, which were not sent so",
                piece.len()
            ),
        )?;
        end = seq + piece.len();
        let wanted = match end < payload.len() {
            true => 0,
            false => tcp_flags,
        };
        let flags = bytes[TCP_FLAGS] & (FIN | PSH);
        ensure_text(
            flags == wanted,
            format_args!(
                "FIN and PSH are {flags:#x} with {} bytes to come",
                payload.len() - end
            ),
        )?;
    }
    if end < payload.len() {
        // What is lost no text says, if only it does not arrive as a super-frame.
        return Ok(Seen::Tolerated);
    }
    Ok(Seen::Conforms)
}

/// What buffers are full of that nobody may write to: no two bytes in a row are alike.
fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i * 31 + 7) as u8).collect()
}

fn small_buffers() -> NetConfig {
    NetConfig {
        rx_buffer: Some(256),
        ..NetConfig::default()
    }
}

fn enable(link: &mut Link, ring: u32, enable: bool) -> Result<(), Failure> {
    match link.tx.frontend() {
        Some(front) => Ok(front.set_vring_enable(ring, enable)?),
        None => Ok(()),
    }
}

/// Sends a TCP frame with a header that lies to a driver that takes no super-frames, and checks that none comes of it.
fn bad_header(bench: &Bench, hdr: NetHeader, payload: usize) -> Result<Seen, Failure> {
    let mut link = bench.link_of(&with(NetConfig::TSO), &NetConfig::default())?;
    let (_, frame, _) = tcp(&link, payload, GSO_TCPV4);
    let longest = link.longest();
    // What the header says is no frame that a driver may send in any case.
    send_cut_with(&mut link, &hdr, &frame, &[], false)?;
    while let Some(came) = link.receive(Duration::from_millis(20))? {
        let (len, gso_type) = (came.bytes().len(), came.hdr.gso_type);
        let allowed = gso_type != GSO_NONE || longest.is_none_or(|longest| len <= longest);
        ensure(
            allowed || bench.delivery() != Delivery::Peer,
            format_args!("{len} bytes arrived, gso_type {gso_type}"),
        )?;
        // Who hands a checksum on to be completed says where it is.
        let field = usize::from(came.hdr.csum_start) + usize::from(came.hdr.csum_offset) + 2;
        let partial = came.hdr.flags & HDR_NEEDS_CSUM != 0;
        ensure(
            !partial || field <= len || bench.delivery() != Delivery::Peer,
            format_args!("{len} bytes arrived whose checksum ends at byte {field}"),
        )?;
    }
    drop(link);
    bench.contained(Ok(()))
}

/// The next frame between the ports: its header's flags and its bytes.
fn next(link: &mut Link) -> Result<(u8, Vec<u8>), Failure> {
    match link.receive(DEADLINE)? {
        Some(frame) => Ok((frame.hdr.flags, frame.bytes().to_vec())),
        None => Err(Failure::Wrong("the frame did not arrive".into())),
    }
}

/// A TCP/IPv4 frame with a partial checksum: header, frame, payload. Sequence number 0.
pub(super) fn tcp(link: &Link, len: usize, gso_type: u8) -> (NetHeader, Vec<u8>, Vec<u8>) {
    let payload: Vec<u8> = (0..len).map(|i| (i * 7 + i / 256) as u8).collect();
    let mut frame = [&link.dst[..], &link.src, &[8, 0]].concat();
    let mut ip = [0; 20];
    ip[0] = 0x45;
    ip[2..4].copy_from_slice(&((40 + len) as u16).to_be_bytes());
    (ip[8], ip[9]) = (64, 6);
    ip[12..20].copy_from_slice(&[10, 0, 0, 1, 10, 0, 0, 2]);
    let check = !vf_guest::checksum::sum(&ip);
    ip[10..12].copy_from_slice(&check.to_be_bytes());
    frame.extend(ip);
    let mut tcp = [0; 20];
    tcp[..4].copy_from_slice(&[0x13, 0x88, 0x13, 0x89]);
    tcp[12..14].copy_from_slice(&[0x50, 0x10]);
    frame.extend(tcp);
    frame.extend(&payload);
    if let Some(found) = TcpFrame::parse(&frame) {
        frame[50..52].copy_from_slice(&found.pseudo.to_be_bytes());
    }
    let hdr = NetHeader {
        flags: HDR_NEEDS_CSUM,
        gso_type,
        gso_size: if gso_type == GSO_NONE { 0 } else { 1460 },
        hdr_len: if gso_type == GSO_NONE { 0 } else { 54 },
        csum_start: 34,
        csum_offset: 16,
        num_buffers: 0,
    };
    (hdr, frame, payload)
}
