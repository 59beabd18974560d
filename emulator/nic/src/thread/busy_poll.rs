//! How long a plane's thread looks for work before it sleeps. To wake a thread takes 50 us, and several times that if its
//! CPU has gone to sleep, too, or is a virtual one. So while work comes less than a millisecond apart, the thread looks on
//! for so long (as KVM polls before it halts). Never reads a clock.

use std::time::Duration;

/// How a thread waits for frames.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Polling {
    /// It looks for work without end: the least latency, for a CPU of its own.
    Always,
    /// It looks for work while there is some and a little longer, then sleeps.
    #[default]
    Adaptive,
    /// It sleeps as soon as there is no work.
    Never,
}

/// About what a wake-up costs.
const LEAST: Duration = Duration::from_micros(50);
/// For so long a CPU is kept busy, after the last frame, for the sake of the next.
const MOST: Duration = Duration::from_millis(1);

/// See the module.
#[derive(Debug)]
pub(super) struct BusyPoll {
    least: Duration,
    most: Duration,
    window: Duration,
}

impl BusyPoll {
    /// As the user has asked for.
    pub(super) fn new(polling: Polling) -> BusyPoll {
        let (least, most) = match polling {
            Polling::Always => (Duration::MAX, Duration::MAX),
            Polling::Adaptive => (LEAST, MOST),
            Polling::Never => (Duration::ZERO, Duration::ZERO),
        };
        BusyPoll {
            least,
            most,
            window: least,
        }
    }

    /// How long a thread finds no work before it sleeps.
    pub(super) fn window(&self) -> Duration {
        self.window
    }

    /// When work is due sooner than that it is not worth a sleep.
    pub(super) fn least(&self) -> Duration {
        self.least
    }

    /// Work was found after a sleep, and there had been none for so long in all. What was due at a known time need not be
    /// looked for.
    pub(super) fn slept(&mut self, without_work: Duration, timed: bool) {
        if without_work >= self.most {
            self.window = (self.window / 2).max(self.least);
        } else if !timed {
            self.window = self.window.saturating_mul(2).min(self.most);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_soon_after_a_sleep_makes_it_look_longer_and_late_work_less_long() {
        let mut busy_poll = BusyPoll::new(Polling::Adaptive);
        let soon = MOST - Duration::from_nanos(1);
        let mut after = |gaps: &[Duration]| {
            let windows = gaps.iter().map(|gap| {
                busy_poll.slept(*gap, false);
                busy_poll.window().as_micros()
            });
            windows.collect::<Vec<_>>()
        };
        assert_eq!(after(&[soon; 6]), [100, 200, 400, 800, 1000, 1000]);
        assert_eq!(after(&[MOST, soon]), [500, 1000]);
        assert_eq!(after(&[MOST; 6]), [500, 250, 125, 62, 50, 50]);
    }

    #[test]
    fn what_is_due_at_a_known_time_is_not_looked_for() {
        let mut busy_poll = BusyPoll::new(Polling::Adaptive);
        busy_poll.slept(MOST / 2, true);
        assert_eq!(busy_poll.window(), LEAST);
        busy_poll.slept(MOST / 2, false);
        busy_poll.slept(MOST, true);
        assert_eq!(busy_poll.window(), LEAST);
        assert_eq!(busy_poll.least(), LEAST);
    }

    #[test]
    fn always_and_never_mean_it() {
        for (polling, window) in [
            (Polling::Always, Duration::MAX),
            (Polling::Never, Duration::ZERO),
        ] {
            let mut busy_poll = BusyPoll::new(polling);
            for without_work in [0, 1, 10_000].map(Duration::from_millis) {
                busy_poll.slept(without_work, false);
                assert_eq!((busy_poll.window(), busy_poll.least()), (window, window));
            }
        }
    }
}
