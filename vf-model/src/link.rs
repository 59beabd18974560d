//! One direction of a full-duplex wire: when each frame starts, ends and arrives. Never holds frames and never drops any.

use vf_packet::{FrameMeta, OnWire};

use crate::time::{BusyTime, Nanos, TimeLine};

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

    /// The same, which nothing enters before `at`.
    #[must_use]
    pub fn busy_until(config: LinkConfig, at: Nanos) -> Link {
        Link {
            line: TimeLine::busy_until(config.rate_bps, at),
            ..Link::new(config)
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

    /// Goes on with what the other has on it and has counted, and leaves it silent: another wire is behind the same transmitter now.
    pub fn take_over(&mut self, other: &mut Link) {
        let silent = Link::new(LinkConfig {
            rate_bps: other.rate_bps(),
            propagation: other.propagation,
        });
        let taken = std::mem::replace(other, silent);
        *self = Link {
            propagation: self.propagation,
            ..taken
        };
    }

    /// Time that frames have taken, gaps between frames included.
    #[must_use]
    pub fn busy_time(&self) -> BusyTime {
        self.line.busy_time()
    }

    /// Byte times of all frames so far, see [`OnWire`].
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
    use proptest::prelude::*;
    use vf_packet::Gso;

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
