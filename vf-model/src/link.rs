//! One direction of a full-duplex wire: when each frame starts, ends and arrives. Never holds frames and never drops any.

use crate::frame::FrameMeta;
use crate::time::{Nanos, TimeLine};

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

/// Byte times that a frame, or all segments of a super-frame, take on a wire: padding, FCS, preamble and gap included.
#[must_use]
pub fn wire_bytes(meta: &FrameMeta) -> u64 {
    charge(meta).0
}

/// Wire bytes and frames on the wire.
fn charge(meta: &FrameMeta) -> (u64, u64) {
    let one = |len: u64| len.max(MIN_FRAME) + OVERHEAD;
    let Some((gso, payload)) = meta.cut() else {
        return (one(u64::from(meta.len)), 1);
    };
    let (header, size) = (u64::from(gso.header_len), u64::from(gso.size));
    let full = u64::from(payload) / size;
    let rest = u64::from(payload) % size;
    let tail = if rest > 0 { one(header + rest) } else { 0 };
    (full * one(header + size) + tail, full + u64::from(rest > 0))
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

    /// When the next frame may start, rounded down: one that is transmitted then follows without a gap.
    #[must_use]
    pub fn free_at(&self) -> Nanos {
        self.line.free_at()
    }

    /// Puts a frame on the wire, behind those that are on it already.
    pub fn transmit(&mut self, now: Nanos, meta: &FrameMeta) -> Departure {
        let (bytes, segments) = charge(meta);
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

    /// Time that frames have taken up to `now`, gaps between frames included.
    #[must_use]
    pub fn busy(&self, now: Nanos) -> Nanos {
        self.line.busy(now)
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
