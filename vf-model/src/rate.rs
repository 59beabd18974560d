//! The limit on what a VF sends: a token bucket that says when the next frame may be taken. Never drops; who asks holds the
//! frame back.

use crate::time::{Nanos, TimeLine};
use crate::vf::Mbps;

/// How far a sender may run ahead of its rate.
const BURST: Nanos = Nanos(1_000_000);

/// A token bucket of one millisecond, kept as the time at which it would be full again. A frame may be taken while the
/// bucket is not empty, whatever its size, so that what passes in any time `t` is at most `rate * (t + 1 ms)` and one frame.
#[derive(Clone, Debug)]
pub struct TokenBucket {
    line: TimeLine,
}

impl TokenBucket {
    /// A full bucket. A rate of zero is no rate at all: nothing passes after the first frame.
    #[must_use]
    pub fn new(rate: Mbps) -> TokenBucket {
        TokenBucket {
            line: TimeLine::new(rate.bps()),
        }
    }

    /// The earliest time the next frame may be taken; not after the present if it may be taken now.
    #[must_use]
    pub fn ready_at(&self) -> Nanos {
        self.line.done_at().saturating_sub(BURST)
    }

    /// Takes a frame of this many wire bytes out of the bucket.
    pub fn take(&mut self, now: Nanos, wire_bytes: u64) {
        self.line.push(now, wire_bytes.saturating_mul(8));
    }
}
