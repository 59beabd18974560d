//! One direction of a full-duplex wire: when each frame starts, ends and arrives. Never holds frames and never drops any.

use crate::frame::FrameMeta;
use crate::time::{BusyTime, Nanos, TimeLine};

/// Shortest frame without FCS; shorter ones are padded (IEEE 802.3 3.2.8).
const MIN_FRAME: u64 = 60;
/// Frame check sequence, preamble with start delimiter, and inter-packet gap.
const OVERHEAD: u64 = 4 + 8 + 12;

/// How fast a wire is and how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkConfig {
    /// Bits a second.
    pub rate_bps: u64,
    /// Time from the end of a frame at one end to its arrival at the other.
    pub propagation: Nanos,
}

impl Default for LinkConfig {
    /// 10GBASE-R over 100 m of fibre.
    fn default() -> LinkConfig {
        LinkConfig {
            rate_bps: 10_000_000_000,
            propagation: Nanos(500),
        }
    }
}

/// What a frame, or all segments of a super-frame, take of a wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OnWire {
    /// Byte times: padding, FCS, preamble and gap included.
    pub bytes: u64,
    /// Frames on the wire, a super-frame as its segments.
    pub segments: u64,
}

impl OnWire {
    /// What a frame takes.
    #[must_use]
    #[inline]
    pub fn of(meta: &FrameMeta) -> OnWire {
        let one = |len: u64| len.max(MIN_FRAME) + OVERHEAD;
        let Some((gso, payload)) = meta.cut() else {
            return OnWire {
                bytes: one(u64::from(meta.len)),
                segments: 1,
            };
        };
        let (header, size) = (u64::from(gso.header_len), u64::from(gso.size));
        let full = u64::from(payload) / size;
        let rest = u64::from(payload) % size;
        let tail = if rest > 0 { one(header + rest) } else { 0 };
        OnWire {
            bytes: full * one(header + size) + tail,
            segments: full + u64::from(rest > 0),
        }
    }
}

/// Byte times that a frame, or all segments of a super-frame, take on a wire: padding, FCS, preamble and gap included.
#[must_use]
#[inline]
pub fn wire_bytes(meta: &FrameMeta) -> u64 {
    OnWire::of(meta).bytes
}

/// When a frame is on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Departure {
    /// Its first bit leaves, rounded down.
    pub start: Nanos,
    /// The next frame may start, rounded up.
    pub end: Nanos,
    /// All of it is at the other end.
    pub arrival: Nanos,
}

/// One direction of a wire.
#[derive(Clone, Debug)]
pub struct Link {
    line: TimeLine,
    propagation: Nanos,
    bytes: u64,
    frames: u64,
    segments: u64,
}

impl Link {
    /// A silent wire. A rate of zero counts as 1 bit/s.
    #[must_use]
    pub fn new(config: LinkConfig) -> Link {
        Link {
            line: TimeLine::new(config.rate_bps),
            propagation: config.propagation,
            bytes: 0,
            frames: 0,
            segments: 0,
        }
    }

    /// Bits a second.
    #[must_use]
    pub fn rate_bps(&self) -> u64 {
        self.line.rate()
    }

    /// When the next frame may start, rounded down: one that is transmitted then follows without a gap.
    #[must_use]
    pub fn free_at(&self) -> Nanos {
        self.line.free_at()
    }

    /// Puts a frame on the wire, behind those that are on it already.
    pub fn transmit(&mut self, now: Nanos, meta: &FrameMeta) -> Departure {
        self.put(now, OnWire::of(meta))
    }

    /// The same of a frame of which is known what it takes.
    #[inline]
    pub fn put(&mut self, now: Nanos, on_wire: OnWire) -> Departure {
        let OnWire { bytes, segments } = on_wire;
        self.bytes += bytes;
        self.frames += 1;
        self.segments += segments;
        let start = self.line.push(now, bytes * 8);
        let end = self.line.done_at();
        Departure {
            start,
            end,
            arrival: end + self.propagation,
        }
    }

    /// Time that frames have taken, gaps between frames included.
    #[must_use]
    pub fn busy_time(&self) -> BusyTime {
        self.line.busy_time()
    }

    /// Byte times of all frames so far, see [`wire_bytes`].
    #[must_use]
    pub fn wire_bytes(&self) -> u64 {
        self.bytes
    }

    /// Frames handed over, a super-frame as one.
    #[must_use]
    pub fn frames(&self) -> u64 {
        self.frames
    }

    /// Frames on the wire, a super-frame as its segments.
    #[must_use]
    pub fn segments(&self) -> u64 {
        self.segments
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::Gso;
    use proptest::prelude::*;

    fn plain(len: u32) -> FrameMeta {
        FrameMeta { len, gso: None }
    }

    fn super_frame(len: u32, header_len: u16, size: u16) -> FrameMeta {
        let gso = Some(Gso { header_len, size });
        FrameMeta { len, gso }
    }

    #[test]
    fn frame_times_at_ten_gigabit() {
        // Sizes with FCS; ten frames, so that tenths of a nanosecond show.
        for (size, tenths) in [
            (64, 672),
            (128, 1184),
            (512, 4256),
            (1518, 12304),
            (9018, 72304),
        ] {
            let mut link = Link::new(LinkConfig::default());
            let mut last = None;
            for _ in 0..10 {
                last = Some(link.transmit(Nanos(0), &plain(size - 4)));
            }
            let last = last.unwrap();
            assert_eq!(last.end, Nanos(tenths), "{size}");
            assert_eq!(last.arrival, Nanos(tenths + 500));
            assert_eq!(link.busy_time().until(last.end), Nanos(tenths));
        }
    }

    #[test]
    fn short_frames_are_padded() {
        assert_eq!(wire_bytes(&plain(14)), 84);
        assert_eq!(wire_bytes(&plain(60)), 84);
        assert_eq!(wire_bytes(&plain(61)), 85);
    }

    #[test]
    fn a_frame_waits_for_the_one_before() {
        let mut link = Link::new(LinkConfig::default());
        link.transmit(Nanos(100), &plain(60));
        assert_eq!(link.free_at(), Nanos(167));
        let second = link.transmit(Nanos(150), &plain(60));
        assert_eq!((second.start, second.end), (Nanos(167), Nanos(235)));
        let third = link.transmit(Nanos(10_000), &plain(60));
        assert_eq!(third.start, Nanos(10_000));
        assert_eq!(
            (link.frames(), link.segments(), link.wire_bytes()),
            (3, 3, 252)
        );
    }

    #[test]
    fn a_super_frame_is_the_sum_of_its_segments() {
        let mut link = Link::new(LinkConfig::default());
        link.transmit(Nanos(0), &super_frame(66 + 3 * 1448 + 1, 66, 1448));
        assert_eq!((link.frames(), link.segments()), (1, 4));
        assert_eq!(link.wire_bytes(), 3 * 1538 + 67 + 24);
    }

    proptest! {
        #[test]
        fn segments_sum_up(header in 14u16..200, size in 1u16..9000, payload in 0u32..65536) {
            let meta = super_frame(u32::from(header) + payload, header, size);
            let mut left = payload;
            let mut sum = 0;
            loop {
                let segment = left.min(size.into());
                sum += wire_bytes(&plain(u32::from(header) + segment));
                left -= segment;
                if left == 0 {
                    break;
                }
            }
            prop_assert_eq!(wire_bytes(&meta), sum);
        }

        #[test]
        fn the_wire_is_never_faster_than_its_rate(
            rate in 1_000_000u64..400_000_000_000,
            frames in proptest::collection::vec((0u64..5000, 14u32..9000), 1..100),
        ) {
            let mut link = Link::new(LinkConfig { rate_bps: rate, propagation: Nanos(0) });
            let (mut now, mut end) = (Nanos(0), Nanos(0));
            for (gap, len) in frames {
                now += Nanos(gap);
                let departure = link.transmit(now, &plain(len));
                prop_assert!(departure.start >= now && departure.start.0 + 1 >= end.0);
                prop_assert!(departure.end > departure.start);
                end = departure.end;
            }
            let exact = u128::from(link.wire_bytes()) * 8 * 1_000_000_000 / u128::from(rate);
            prop_assert_eq!(u128::from(link.busy_time().until(end).0), exact);
            prop_assert!(u128::from(end.0) >= exact);
        }
    }
}
