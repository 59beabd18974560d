//! What the streams of an experiment carry, from the frames that pass its receivers' VFs and nothing else: no word of a
//! guest is believed. Whatever else than TCP passes does not count.

use std::cell::RefCell;
use std::rc::Rc;

use smoltcp::wire::{TcpOption, TcpPacket, TcpSeqNumber};
use vf_model::VfIndex;
use vf_nic::watch::{Direction, Port, Seen};

use crate::segment::Segment;
use crate::virtual_hosts::Watcher;

/// What one stream has carried so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Carried {
    /// Payload bytes that have reached the receiver, each byte of the stream once.
    pub(super) received: u64,
    /// Segments with payload that have reached it; a super-frame is as many as the wire would carry.
    pub(super) data_frames: u64,
    /// ACKs without payload that it has sent.
    pub(super) ack_frames: u64,
    /// Whether a segment had a timestamp.
    pub(super) timestamps: bool,
}

/// The streams of an experiment by pair, each with its receiver. Clones share it.
#[derive(Clone, Debug)]
pub(super) struct FlowMeter(Rc<RefCell<Vec<Stream>>>);

#[derive(Debug, Default)]
struct Stream {
    /// Index of the host where it is received.
    receiver: usize,
    carried: Carried,
    /// The connections of the pair: a tool may have one of its own beside the stream.
    connections: Vec<(Ports, Received)>,
}

/// Source and destination, as the receiver gets them.
type Ports = (u16, u16);

impl FlowMeter {
    /// For streams that are received on these hosts, in the order of VFs.
    pub(super) fn new(receivers: impl Iterator<Item = usize>) -> FlowMeter {
        let stream = |receiver| Stream {
            receiver,
            ..Stream::default()
        };
        FlowMeter(Rc::new(RefCell::new(receivers.map(stream).collect())))
    }

    /// What has it see all frames.
    pub(super) fn watcher(&self) -> Watcher {
        let meter = self.clone();
        Box::new(move |seen| {
            if let Port::Vf(vf) = seen.port {
                meter.frame(vf, seen);
            }
        })
    }

    /// What the streams have carried so far.
    pub(super) fn carried(&self) -> Vec<Carried> {
        let streams = self.0.borrow();
        streams.iter().map(|stream| stream.carried).collect()
    }

    fn frame(&self, vf: VfIndex, seen: &Seen<'_>) {
        let mut streams = self.0.borrow_mut();
        let Some(stream) = streams.get_mut(vf.index()) else {
            return;
        };
        if stream.receiver != seen.host {
            return;
        }
        if let Some(segment) = Segment::of(seen) {
            stream.segment(&segment, seen.direction);
        }
    }
}

impl Stream {
    fn segment(&mut self, segment: &Segment<'_>, direction: Direction) {
        let Segment {
            tcp, len, count, ..
        } = segment;
        let opens_or_closes = tcp.syn() || tcp.fin() || tcp.rst();
        match direction {
            Direction::Tx if *len == 0 && !opens_or_closes => self.carried.ack_frames += 1,
            Direction::Rx if *len > 0 => {
                self.carried.data_frames += count;
                self.carried.timestamps |= has_timestamp(tcp);
                let ports = (tcp.src_port(), tcp.dst_port());
                self.carried.received += self.connection(ports).add(tcp.seq_number(), *len);
            }
            _ => {}
        }
    }

    fn connection(&mut self, ports: Ports) -> &mut Received {
        let known = self.connections.iter().position(|(of, _)| *of == ports);
        let at = known.unwrap_or_else(|| {
            self.connections.push((ports, Received::default()));
            self.connections.len() - 1
        });
        &mut self.connections[at].1
    }
}

fn has_timestamp(packet: &TcpPacket<&[u8]>) -> bool {
    let mut options = packet.options();
    while let Ok((rest, option)) = TcpOption::parse(options) {
        match option {
            TcpOption::EndOfList => return false,
            TcpOption::TimeStamp { .. } => return true,
            _ if rest.is_empty() => return false,
            _ => options = rest,
        }
    }
    false
}

/// Which bytes of one connection have been seen: ranges in the order of the stream that do not touch each other.
#[derive(Debug, Default)]
struct Received {
    /// Where the first segment that was seen began; a position of 2^32 in the ranges.
    start: Option<TcpSeqNumber>,
    ranges: Vec<(u64, u64)>,
}

/// Room in front of the first segment that was seen, which need not be the stream's first.
const START: u64 = 1 << 32;

impl Received {
    /// How many of the bytes of this segment are new.
    fn add(&mut self, seq: TcpSeqNumber, len: usize) -> u64 {
        let from = self.position(seq);
        let to = from + len as u64;
        // Nearly always behind all others.
        let first = self.ranges.partition_point(|(_, end)| *end < from);
        let last = self.ranges.partition_point(|(begin, _)| *begin <= to);
        let touched = &self.ranges[first..last];
        let known: u64 = touched.iter().map(|(begin, end)| end - begin).sum();
        let begin = touched.first().map_or(from, |range| range.0.min(from));
        let end = touched.last().map_or(to, |range| range.1.max(to));
        self.ranges.splice(first..last, [(begin, end)]);
        end - begin - known
    }

    /// Where a segment is in the stream: sequence numbers wrap, and it is near the last one.
    fn position(&mut self, seq: TcpSeqNumber) -> u64 {
        let start = *self.start.get_or_insert(seq);
        let last = self.ranges.last().map_or(START, |range| range.1);
        let offset = |seq: TcpSeqNumber| seq.0.wrapping_sub(start.0) as u32;
        let ahead = offset(seq).wrapping_sub(last as u32) as i32;
        last.saturating_add_signed(ahead.into())
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use proptest::prelude::*;
    use vf_model::{Gso, HEAD_LEN, Nanos};

    const RECEIVER: usize = 1;

    /// A TCP packet in a frame.
    pub(in crate::experiment) fn frame(
        ports: Ports,
        seq: u32,
        flags: u8,
        options: &[u8],
        payload: usize,
    ) -> Vec<u8> {
        let ip_len = 20 + 20 + options.len() + payload;
        let mut frame = vec![0; 14];
        frame[12] = 8;
        frame.extend([0x45, 0]);
        frame.extend((ip_len as u16).to_be_bytes());
        frame.extend([0, 0, 0x40, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
        frame.extend(ports.0.to_be_bytes());
        frame.extend(ports.1.to_be_bytes());
        frame.extend(seq.to_be_bytes());
        frame.extend([0; 4]);
        frame.extend([((20 + options.len()) as u8) << 2, flags]);
        frame.extend([0; 6]);
        frame.extend(options);
        frame.resize(frame.len() + payload, 0xaa);
        frame.resize(frame.len().max(60), 0); // padding is no payload
        frame
    }

    const ACK: u8 = 0x10;
    const SYN: u8 = 0x02;
    const TIMESTAMP: [u8; 12] = [1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2];

    fn show(meter: &FlowMeter, direction: Direction, frame: &[u8], gso: Option<u16>) {
        let gso = gso.map(|size| Gso {
            size,
            header_len: 54,
        });
        meter.frame(VfIndex(0), &seen(RECEIVER, direction, frame, gso));
    }

    /// No more of it than its head.
    fn seen(host: usize, direction: Direction, frame: &[u8], gso: Option<Gso>) -> Seen<'_> {
        Seen {
            at: Nanos(0),
            host,
            port: Port::Vf(VfIndex(0)),
            direction,
            frame: &frame[..frame.len().min(HEAD_LEN)],
            len: frame.len(),
            xxh3: 0,
            gso,
        }
    }

    #[test]
    fn counts_what_arrives_and_what_is_acknowledged() {
        let meter = FlowMeter::new([RECEIVER].into_iter());
        show(&meter, Direction::Rx, &frame((1, 2), 99, SYN, &[], 0), None);
        show(
            &meter,
            Direction::Rx,
            &frame((1, 2), 100, ACK, &[], 1000),
            None,
        );
        show(
            &meter,
            Direction::Rx,
            &frame((1, 2), 100, ACK, &[], 1000),
            None,
        );
        show(
            &meter,
            Direction::Rx,
            &frame((1, 2), 1100, ACK, &[], 2500),
            Some(1000),
        );
        show(&meter, Direction::Rx, &frame((3, 2), 5, ACK, &[], 7), None);
        show(
            &meter,
            Direction::Tx,
            &frame((2, 1), 0, SYN | ACK, &[], 0),
            None,
        );
        show(&meter, Direction::Tx, &frame((2, 1), 1, ACK, &[], 0), None);
        // What its peer sees is not counted again.
        let sent = frame((1, 2), 100, ACK, &[], 1000);
        meter.frame(VfIndex(0), &seen(0, Direction::Tx, &sent, None));
        let want = Carried {
            received: 1000 + 2500 + 7,
            data_frames: 1 + 1 + 3 + 1,
            ack_frames: 1,
            timestamps: false,
        };
        assert_eq!(meter.carried(), [want]);
    }

    #[test]
    fn sees_timestamps() {
        let meter = FlowMeter::new([RECEIVER].into_iter());
        let sack_and_no_timestamp = [1, 1, 5, 10, 0, 0, 0, 1, 0, 0, 0, 2];
        let plain = frame((1, 2), 0, ACK, &sack_and_no_timestamp, 10);
        show(&meter, Direction::Rx, &plain, None);
        assert!(!meter.carried()[0].timestamps);
        show(
            &meter,
            Direction::Rx,
            &frame((1, 2), 10, ACK, &TIMESTAMP, 10),
            None,
        );
        assert!(meter.carried()[0].timestamps);
    }

    #[test]
    fn is_not_put_out_by_nonsense() {
        let meter = FlowMeter::new([RECEIVER].into_iter());
        let whole = frame((1, 2), 0, ACK, &TIMESTAMP, 100);
        for len in 0..whole.len() {
            show(&meter, Direction::Rx, &whole[..len], None);
            let mut odd = whole.clone();
            odd[len] = 0xff;
            show(&meter, Direction::Rx, &odd, Some(0));
        }
        meter.frame(VfIndex(9), &seen(RECEIVER, Direction::Rx, &whole, None));
    }

    proptest! {
        #[test]
        fn every_byte_counts_once(
            start: u32,
            segments in proptest::collection::vec((0u32..3000, 1usize..200), 1..60),
        ) {
            let mut seen = Received::default();
            let mut bytes = std::collections::BTreeSet::new();
            for (at, len) in segments {
                let new = (at..).take(len).filter(|byte| bytes.insert(*byte)).count();
                let seq = TcpSeqNumber(start.wrapping_add(at) as i32);
                prop_assert_eq!(seen.add(seq, len), new as u64);
            }
        }
    }

    #[test]
    fn sequence_numbers_wrap() {
        let mut seen = Received::default();
        let mut total = 0;
        for n in 0..9000u32 {
            let seq = TcpSeqNumber(n.wrapping_mul(1 << 20) as i32);
            total += seen.add(seq, 1 << 20);
        }
        assert_eq!(total, 9000 << 20);
        assert_eq!(seen.ranges.len(), 1);
    }
}
