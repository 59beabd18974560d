//! Time as a number, and a time line that work is put on one piece after the other. Never reads a clock.

use std::fmt;
use std::ops::{Add, AddAssign};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::counter::{Counter, Shared};

/// Nanoseconds since an epoch of the caller's choice, or a duration in nanoseconds.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Nanos(pub u64);

impl Nanos {
    /// The time from `earlier` to `self`; zero if `earlier` is later.
    #[must_use]
    pub fn saturating_sub(self, earlier: Nanos) -> Nanos {
        Nanos(self.0.saturating_sub(earlier.0))
    }
}

impl Add for Nanos {
    type Output = Nanos;
    /// Saturates at the end of time, 584 years after the epoch.
    fn add(self, other: Nanos) -> Nanos {
        Nanos(self.0.saturating_add(other.0))
    }
}

impl AddAssign for Nanos {
    fn add_assign(&mut self, other: Nanos) {
        *self = *self + other;
    }
}

impl fmt::Display for Nanos {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ns", self.0)
    }
}

const NANOS_PER_SECOND: u64 = 1_000_000_000;

/// Something that does `rate` units of work a second, one piece after the other. Exact: the fraction of a nanosecond that
/// a piece ends in is carried over to the next.
#[derive(Clone, Debug)]
pub(crate) struct TimeLine {
    rate: u64,
    /// The end of the last piece is so many `rate`ths of a nanosecond after [`Work::at`].
    part: u64,
    /// The last piece that was divided by the rate: its units, and the nanoseconds and the rest that they come to. Pieces of
    /// one length follow each other.
    known: (u64, u64, u64),
    work: Shared<Work>,
}

/// The work on a time line.
#[derive(Clone, Debug, Default)]
struct Work {
    /// The end of the last piece, in nanoseconds, rounded down.
    at: Counter,
    /// Units of all pieces: bits last for 58 years at 10 Gb/s.
    done: Counter,
}

/// Time spent working, for any thread to read while more work is added.
#[derive(Clone, Debug)]
pub struct BusyTime {
    rate: u64,
    work: Arc<Work>,
}

impl BusyTime {
    /// Time spent up to `now`, rounded down. Exact for `now` at or after the last piece of work, but while that is being
    /// added it may be missing.
    #[must_use]
    pub fn until(&self, now: Nanos) -> Nanos {
        let done = u128::from(self.work.done.get()) * u128::from(NANOS_PER_SECOND);
        let total = u64::try_from(done / u128::from(self.rate)).unwrap_or(u64::MAX);
        Nanos(total.saturating_sub(self.work.at.get().saturating_sub(now.0)))
    }
}

impl TimeLine {
    /// An idle line. A rate of zero counts as one.
    pub(crate) fn new(rate: u64) -> TimeLine {
        TimeLine {
            rate: rate.max(1),
            part: 0,
            known: (0, 0, 0),
            work: Shared::default(),
        }
    }

    /// A line that has work until `at`, none of which is counted.
    pub(crate) fn busy_until(rate: u64, at: Nanos) -> TimeLine {
        let line = TimeLine::new(rate);
        line.work.at.set(at.0);
        line
    }

    /// Units a second.
    pub(crate) fn rate(&self) -> u64 {
        self.rate
    }

    /// Puts `units` of work behind what is there, not before `now`; returns its start, rounded down.
    pub(crate) fn push(&mut self, now: Nanos, units: u64) -> Nanos {
        let mut start = self.work.at.get();
        if now.0 > start {
            start = now.0;
            self.part = 0;
        }
        let done = self.work.done.get().saturating_add(units);
        if self.known.0 != units {
            self.known = match units.checked_mul(NANOS_PER_SECOND) {
                Some(n) => (units, n / self.rate, n % self.rate),
                None => self.divide_large(units),
            };
        }
        let (_, mut whole, rest) = self.known;
        // Both parts are less than the rate.
        let mut part = u128::from(self.part) + u128::from(rest);
        if part >= u128::from(self.rate) {
            part -= u128::from(self.rate);
            whole = whole.saturating_add(1);
        }
        let part = part as u64;
        self.work.at.set(start.saturating_add(whole));
        self.work.done.set(done);
        self.part = part;
        Nanos(start)
    }

    #[cold]
    fn divide_large(&self, units: u64) -> (u64, u64, u64) {
        let n = u128::from(units) * u128::from(NANOS_PER_SECOND);
        let rate = u128::from(self.rate);
        let whole = u64::try_from(n / rate).unwrap_or(u64::MAX);
        (units, whole, u64::try_from(n % rate).unwrap_or(0))
    }

    /// The end of the last piece, rounded down: work pushed at that time starts without a gap.
    pub(crate) fn free_at(&self) -> Nanos {
        Nanos(self.work.at.get())
    }

    /// The end of the last piece, rounded up: by then it is done.
    pub(crate) fn done_at(&self) -> Nanos {
        Nanos(self.work.at.get().saturating_add(u64::from(self.part > 0)))
    }

    /// Time spent working.
    pub(crate) fn busy_time(&self) -> BusyTime {
        BusyTime {
            rate: self.rate,
            work: self.work.reader(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fractions_are_carried_over() {
        let mut line = TimeLine::new(3);
        for _ in 0..3 {
            line.push(Nanos(0), 1);
        }
        assert_eq!(line.done_at(), Nanos(1_000_000_000));
        line.push(Nanos(0), 1);
        assert_eq!(line.free_at(), Nanos(1_333_333_333));
        assert_eq!(line.done_at(), Nanos(1_333_333_334));
    }

    #[test]
    fn work_starts_when_it_comes_or_when_the_line_is_free() {
        let mut line = TimeLine::new(1_000_000_000);
        assert_eq!(line.push(Nanos(50), 100), Nanos(50));
        assert_eq!(line.push(Nanos(60), 100), Nanos(150));
        assert_eq!(line.push(Nanos(1000), 1), Nanos(1000));
        assert_eq!(line.busy_time().until(Nanos(2000)), Nanos(201));
    }

    #[test]
    fn busy_leaves_out_what_lies_ahead() {
        let mut line = TimeLine::new(1_000_000_000);
        line.push(Nanos(0), 1000);
        assert_eq!(line.busy_time().until(Nanos(0)), Nanos(0));
        assert_eq!(line.busy_time().until(Nanos(400)), Nanos(400));
        assert_eq!(line.busy_time().until(Nanos(5000)), Nanos(1000));
    }

    #[test]
    fn nothing_overflows() {
        let mut line = TimeLine::new(0);
        line.push(Nanos(u64::MAX), u64::MAX);
        line.push(Nanos(u64::MAX), u64::MAX);
        assert_eq!(line.done_at(), Nanos(u64::MAX));
        assert_eq!(line.busy_time().until(Nanos(u64::MAX)), Nanos(u64::MAX));
    }
}
