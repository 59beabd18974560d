//! How long a plane's thread looks for work before it sleeps. To wake a thread takes 50 us, and several times that if its
//! CPU has gone to sleep, too, or is a virtual one; who has just slept for less would have been better off looking on, and
//! does so next time (as KVM polls before it halts). Never reads a clock.

use std::time::Duration;

use crate::config::Polling;

/// About what a wake-up costs.
const LEAST: Duration = Duration::from_micros(50);
/// For so long a CPU is kept busy, after the last frame, for the sake of the next.
const MOST: Duration = Duration::from_millis(1);

/// See the module.
#[derive(Debug)]
pub(super) struct Spin {
    least: Duration,
    most: Duration,
    window: Duration,
}

impl Spin {
    /// As the user has asked for.
    pub(super) fn new(polling: Polling) -> Spin {
        let (least, most) = match polling {
            Polling::Always => (Duration::MAX, Duration::MAX),
            Polling::Adaptive => (LEAST, MOST),
            Polling::Never => (Duration::ZERO, Duration::ZERO),
        };
        Spin {
            least,
            most,
            window: least,
        }
    }

    /// How long a thread finds no work before it sleeps.
    pub(super) fn window(&self) -> Duration {
        self.window
    }

    /// It has slept for so long, until something came.
    pub(super) fn slept(&mut self, took: Duration) {
        self.window = match took < self.most {
            true => self.window.saturating_mul(2).min(self.most),
            false => self.least,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_sleeps_make_it_look_longer_and_a_long_one_ends_that() {
        let mut spin = Spin::new(Polling::Adaptive);
        let short = Duration::from_micros(300);
        let mut windows = Vec::new();
        for took in [short, short, short, short, short, short, MOST, short] {
            spin.slept(took);
            windows.push(spin.window().as_micros());
        }
        assert_eq!(windows, [100, 200, 400, 800, 1000, 1000, 50, 100]);
    }

    #[test]
    fn always_and_never_mean_it() {
        for (polling, window) in [
            (Polling::Always, Duration::MAX),
            (Polling::Never, Duration::ZERO),
        ] {
            let mut spin = Spin::new(polling);
            for took in [0, 1, 10_000].map(Duration::from_millis) {
                spin.slept(took);
                assert_eq!(spin.window(), window);
            }
        }
    }
}
