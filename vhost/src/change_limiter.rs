//! How often a front end may have its rings stopped and started, its MTU agreed or its guest announced: that takes the thread which
//! runs its rings, and others' with them, some microseconds each time. Never reads a clock.

#![expect(
    clippy::arithmetic_side_effects,
    reason = "an instant and a duration of some seconds"
)]

use std::time::{Duration, Instant};

/// The time in which one change is all right in the long run.
const EVERY: Duration = Duration::from_millis(1);
/// Changes that are all right at once: a guest with many queues sets all of them up, is killed, and comes back some times.
const AT_ONCE: u32 = 2048;

/// A leaky bucket of the changes that one socket has asked for, over all its sessions.
#[derive(Debug, Default)]
pub struct ChangeLimiter {
    /// When the bucket is empty again.
    empty_at: Option<Instant>,
    held_back: Option<Instant>,
}

impl ChangeLimiter {
    /// Counts a change, which is made in any case.
    pub fn count(&mut self, now: Instant) {
        let from = self.empty_at.map_or(now, |at| at.max(now));
        self.empty_at = Some(from + EVERY);
    }

    /// Whether nothing more of the front end is to be served for the time being.
    pub fn holds_back(&mut self, now: Instant) -> bool {
        let until = self.empty_at.and_then(|at| at.checked_sub(EVERY * AT_ONCE));
        self.held_back = until.filter(|&until| now < until);
        self.held_back.is_some()
    }

    /// When to ask again, if the last answer was that it is held back.
    pub fn held_back(&self) -> Option<Instant> {
        self.held_back
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_changes_at_once_are_all_right_and_as_many_as_one_likes_are_not() {
        let start = Instant::now();
        let mut limiter = ChangeLimiter::default();
        let mut made = 0;
        while !limiter.holds_back(start) {
            limiter.count(start);
            made += 1;
        }
        assert_eq!(made, AT_ONCE + 1);
        assert_eq!(limiter.held_back(), Some(start + EVERY));

        // Second after second, whoever asks when it is told to gets one change each time.
        for n in 1..=3000 {
            let now = start + EVERY * n;
            assert!(!limiter.holds_back(now), "{n}");
            limiter.count(now);
            assert!(limiter.holds_back(now), "{n}");
        }

        // What was not used comes back, but no more than once.
        let later = start + EVERY * 100 * AT_ONCE;
        for _ in 0..=AT_ONCE {
            assert!(!limiter.holds_back(later));
            limiter.count(later);
        }
        assert!(limiter.holds_back(later));
    }
}
