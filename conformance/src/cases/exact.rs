//! What fits just so: frames that fill their receive buffer to the last byte, and super-frames whose last segment is as long as the others.
//! Never judges what does not fit.

use std::time::Instant;

use crate::bench::{Bench, DEADLINE, with, without};
use crate::case::{Case, Level, Need};
use crate::cases::offloads::{MSS, TCP_FLAGS, TSO4, TSO6};
use crate::cases::packets::{L2, TCP, TCP_HEADER, packet};
use crate::verdict::{Failure, Seen, ensure};
use vf_guest::net::{NetConfig, feature};

/// The last of a stream.
const FIN_PSH: u8 = 0x09;
/// How often what a network may lose is sent.
const TRIES: usize = 3;

pub(super) const CASES: &[Case] = &[
    Case {
        id: "net/rx-exact-fit",
        level: Level::Model,
        needs: &[Need::Delivery],
        source: "V 2.7.4.1 Message Framing, 5.1.9.3 (buffers should be longer, and need not)",
        sent: "Frames of some 1460 bytes, or as long as the mtu allows that is told, into receive buffers that they fill to the last byte, of 1, 2, 3 and 7 descriptors; with MRG_RXBUF and without.",
        expected: "They arrive: what is as long as a frame is long enough, however it is cut.",
        run: |bench| {
            // Buffers of the suite's are as long as a multiple of this.
            const STEP: usize = 64;
            let most = bench.mtu().map_or(1500, usize::from).min(1500) + L2 + 12;
            let buffer = most / STEP * STEP;
            for off in [0, feature::MRG_RXBUF] {
                for rx_pieces in [1, 2, 3, 7] {
                    let sender = without(off);
                    let receiver = NetConfig {
                        rx_pieces,
                        rx_buffer: Some(buffer as u32),
                        ..sender.clone()
                    };
                    let mut link = bench.link_of(&sender, &receiver)?;
                    let len = buffer - link.receiver().header_len();
                    for _ in 0..3 {
                        let frame = link.frame(len);
                        link.send(&frame)?;
                        let came = link.arrives(&frame, DEADLINE)?;
                        ensure(
                            came,
                            format_args!(
                                "{len} bytes did not arrive in a buffer for them of {rx_pieces} descriptors (MRG_RXBUF: {})",
                                off == 0
                            ),
                        )?;
                    }
                }
            }
            Ok(Seen::Conforms)
        },
    },
    Case {
        id: "net/tso-exact-multiple",
        level: Level::Text,
        needs: &[Need::Peer, TSO4],
        source: "V 5.1.9.2; RFC 9293 3.1",
        sent: "Super-frames of TCP over IPv4, and over IPv6 where that is offered, of two to five segments of the same length, with FIN and PSH, to a driver that takes none; and a plain frame behind each. Where some are lost, again, three times at most.",
        expected: "So many segments and none without payload, of which the last one has FIN and PSH.",
        run: |bench| {
            for v6 in [false, true] {
                if v6 && !TSO6.met(bench) {
                    continue;
                }
                for segments in 2..=5 {
                    exact_multiple(bench, v6, segments)?;
                }
            }
            Ok(Seen::Conforms)
        },
    },
];

fn exact_multiple(bench: &Bench, v6: bool, segments: usize) -> Result<(), Failure> {
    let sends = match v6 {
        true => feature::HOST_TSO6,
        false => feature::HOST_TSO4,
    };
    // Without extension headers and options.
    let tcp_flags = TCP_FLAGS + if v6 { 20 } else { 0 };
    let headers = tcp_flags - 13 + TCP_HEADER;
    let mut link = bench.link_of(&with(sends), &without(NetConfig::CHECKSUM))?;
    for _ in 0..TRIES {
        let (hdr, mut frame) = packet(&link, v6, TCP, segments * MSS, MSS);
        frame[tcp_flags] |= FIN_PSH;
        link.send_with(&hdr, &frame)?;
        let last = link.frame(100);
        link.send(&last)?;
        let mut came = Vec::new();
        let deadline = Instant::now() + DEADLINE;
        while let Some(got) = link.receive(deadline.saturating_duration_since(Instant::now()))? {
            if got.bytes() == last {
                break;
            }
            came.push(got.bytes().to_vec());
        }
        let empty = came.iter().filter(|segment| segment.len() <= headers);
        let empty = empty.count();
        ensure(
            empty == 0 && came.len() <= segments,
            format_args!(
                "of {segments} times {MSS} bytes (IPv6: {v6}) {} segments came, {empty} without payload",
                came.len()
            ),
        )?;
        if came.len() < segments {
            continue;
        }
        for (n, segment) in came.iter().enumerate() {
            let ends = segment[tcp_flags] & FIN_PSH;
            let wanted = if n + 1 == segments { FIN_PSH } else { 0 };
            ensure(
                ends == wanted,
                format_args!("segment {n} of {segments} (IPv6: {v6}) has FIN and PSH {ends:#x}"),
            )?;
        }
        break;
    }
    // That all of it arrives no text says.
    Ok(())
}
