//! How long a device serves nobody after a front end has made a thread wait that serves others, too: longer each time that it comes
//! again, so that what a front end can take of that thread's time gets less the more often it tries. Never reads a clock.

#![expect(
    clippy::arithmetic_side_effects,
    reason = "instants, and durations of some minutes"
)]

use std::time::{Duration, Instant};

/// The first rest. The wait before it takes 10 to 20 ms.
const FIRST: Duration = Duration::from_secs(1);
/// The longest one: what is taken of the thread then is less than one part in 3000.
const LONGEST: Duration = Duration::from_secs(64);
/// How long nobody has to wait for it to begin with the first one again.
const FORGIVEN: Duration = Duration::from_secs(300);

/// What came of the waits so far.
#[derive(Debug, Default)]
pub struct Rest {
    /// The rest after the last wait, and when that was.
    last: Option<(Duration, Instant)>,
}

impl Rest {
    /// A front end has made a thread wait: until when the next one has to.
    pub fn until(&mut self, now: Instant) -> Instant {
        let long = match self.last {
            Some((long, at)) if now < at + FORGIVEN => (2 * long).min(LONGEST),
            _ => FIRST,
        };
        self.last = Some((long, now));
        now + long
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_makes_threads_wait_again_and_again_rests_longer_each_time() {
        let began = Instant::now();
        let (mut rest, mut now) = (Rest::default(), began);
        let mut rests = Vec::new();
        for _ in 0..8 {
            let until = rest.until(now);
            rests.push((until - now).as_secs());
            now = until;
        }
        assert_eq!(rests, [1, 2, 4, 8, 16, 32, 64, 64]);
        // Eight waits of 20 ms in more than three minutes.
        assert!((now - began).as_secs() > 180);
        // It is forgotten in the end.
        now += FORGIVEN;
        assert_eq!(rest.until(now) - now, FIRST);
        assert_eq!(rest.until(now) - now, 2 * FIRST);
    }
}
