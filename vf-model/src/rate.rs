//! The limits on what a VF sends: a token bucket that says when the next frame may be taken, whose owner holds it back, and storm
//! control, which says that a frame is one too many. Never drops one.

use crate::time::{Nanos, TimeLine};
use crate::vf::Mbps;

/// How far a sender may run ahead of its rate.
const BURST: Nanos = Nanos(1_000_000);

/// A token bucket of one millisecond, kept as the time at which it would be full again. A frame may be taken while the
/// bucket is not empty, whatever its size, so that what passes in any time `t` is at most `rate * (t + 1 ms)` and one frame.
#[derive(Clone, Debug)]
pub struct TokenBucket {
    line: TimeLine,
    /// When the time of the last frame began, and its bits.
    last: (Nanos, u64),
}

impl TokenBucket {
    /// A full bucket. A rate of zero is no rate at all: nothing passes after the first frame.
    #[must_use]
    pub fn new(rate: Mbps) -> TokenBucket {
        TokenBucket {
            line: TimeLine::new(rate.bps()),
            last: (Nanos(0), 0),
        }
    }

    /// The same bucket with another rate: what was taken out has still to flow back, the last frame, which may be a long one that
    /// overdrew it, at the new rate.
    #[must_use]
    pub(crate) fn with_rate(&self, rate: Mbps) -> TokenBucket {
        let (start, bits) = self.last;
        let mut line = TimeLine::busy_until(rate.bps(), start);
        line.push(start, bits);
        let last = self.last;
        TokenBucket { line, last }
    }

    /// The earliest time the next frame may be taken; not after the present if it may be taken now.
    #[must_use]
    pub fn ready_at(&self) -> Nanos {
        self.line.done_at().saturating_sub(BURST)
    }

    /// Takes a frame of this many wire bytes out of the bucket.
    pub fn take(&mut self, now: Nanos, wire_bytes: u64) {
        let bits = wire_bytes.saturating_mul(8);
        self.last = (self.line.push(now, bits), bits);
    }
}

/// How many frames in a row storm control lets pass: those of so much of a second,
const STORM: Nanos = Nanos(100_000_000);
/// and no more than half of the ring that most drivers have: more at once take the buffers for what else comes.
const AT_ONCE: u64 = 128;

/// Storm control of one VF, or of the wire: how many of its frames are flooded, a token bucket of a tenth of a second or [`AT_ONCE`] frames.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct StormControl {
    /// When the bucket is full again.
    full_at: Nanos,
}

impl StormControl {
    /// Whether a super-frame is more than ever may pass at once.
    pub(crate) fn is_too_much(segments: u64) -> bool {
        segments > AT_ONCE
    }

    /// Whether one more is not too many, at so many frames a second. It may be several at once, the segments of a super-frame; the first decides
    /// for all of them, and what is too much is owed. More than ever may pass at once do not.
    pub(crate) fn allows(&mut self, now: Nanos, pps: u32, segments: u64) -> bool {
        let interval = 1_000_000_000 / u64::from(pps.max(1));
        let full_at = self.full_at.max(now);
        let bucket = STORM.0.min(interval * AT_ONCE).max(interval);
        let allowed = !Self::is_too_much(segments) && full_at.0 - now.0 <= bucket - interval;
        if allowed {
            self.full_at = full_at + Nanos(interval.saturating_mul(segments.max(1)));
        }
        allowed
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_steady_sender_gets_its_rate() {
        let mut bucket = TokenBucket::new(Mbps(1000));
        let mut now = Nanos(0);
        let mut bytes = 0;
        while now < Nanos(1_000_000_000) {
            bucket.take(now, 1538);
            bytes += 1538;
            now = now.max(bucket.ready_at());
        }
        let burst = 125_000;
        assert!(
            (125_000_000..=125_000_000 + burst + 2 * 1538).contains(&bytes),
            "{bytes}"
        );
    }

    #[test]
    fn a_long_frame_at_a_low_rate_does_not_hold_up_a_higher_one() {
        let mut bucket = TokenBucket::new(Mbps(10));
        bucket.take(Nanos(0), 65_000);
        // 52 ms, and a millisecond of that may be owed.
        assert_eq!(bucket.ready_at(), Nanos(51_000_000));
        assert_eq!(bucket.with_rate(Mbps(1000)).ready_at(), Nanos(0));
        assert_eq!(bucket.with_rate(Mbps(100)).ready_at(), Nanos(4_200_000));
        // Nor does a change fill the bucket: all that was taken before the last frame is still owed.
        let mut bucket = TokenBucket::new(Mbps(1000));
        while bucket.ready_at() == Nanos(0) {
            bucket.take(Nanos(0), 1250);
        }
        for rate in [500, 1000, 2000, 1000] {
            bucket = bucket.with_rate(Mbps(rate));
        }
        assert!(bucket.ready_at() >= Nanos(9_000), "{}", bucket.ready_at());
    }

    #[test]
    fn storm_control_passes_so_many_a_second_and_a_tenth_of_that_or_128_at_once() {
        for pps in [1, 10, 1000, 100_000] {
            let mut storm = StormControl::default();
            let at_once = (0..200_000)
                .filter(|_| storm.allows(Nanos(7), pps, 1))
                .count();
            assert_eq!(at_once, (pps / 10).clamp(1, 128) as usize);
            let mut passed = 0;
            for us in 0..2_000_000 {
                passed += u32::from(storm.allows(Nanos(7 + us * 1000), pps, 1));
            }
            assert!((2 * pps - 1..=2 * pps).contains(&passed), "{pps}: {passed}");
        }
    }

    proptest! {
        #[test]
        fn never_more_than_the_rate_over_any_time(
            mbps in 1u32..100_000,
            frames in proptest::collection::vec(
                (prop_oneof![4 => Just(0), 1 => 0u64..3_000_000], 84u64..70_000),
                1..60,
            ),
        ) {
            let mut bucket = TokenBucket::new(Mbps(mbps));
            let mut now = Nanos(0);
            let mut taken = Vec::new();
            for (wait, bytes) in frames {
                now = now.max(bucket.ready_at()) + Nanos(wait);
                bucket.take(now, bytes);
                taken.push((now.0, bytes));
            }
            for first in 0..taken.len() {
                for last in first..taken.len() {
                    // All but the last frame: that one may overdraw the bucket.
                    let bits: u64 = taken[first..last].iter().map(|t| t.1 * 8).sum();
                    let time = taken[last].0 - taken[first].0 + BURST.0;
                    let most = u128::from(time) * u128::from(mbps) / 1000;
                    prop_assert!(u128::from(bits) <= most + 1, "{bits} bits in {time} ns");
                }
            }
        }
    }
}
