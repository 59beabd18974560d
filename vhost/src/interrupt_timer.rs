//! The timer that spaces the interrupts of a hardware NIC's vector or event queue, which several rings may share. Whoever runs a ring tells it
//! the time, and whoever raises the interrupt starts it: a ring, or a driver that unmasks what has been waiting. Reads no clock.

use std::sync::atomic::{AtomicU64, Ordering};

/// No time yet.
const NEVER: u64 = u64::MAX;

/// See the module. Times are nanoseconds of one clock.
#[derive(Debug)]
pub struct InterruptTimer {
    /// When a ring last wanted to interrupt.
    now: AtomicU64,
    /// When an interrupt was last raised, as far as rings have told the time.
    started: AtomicU64,
}

impl Default for InterruptTimer {
    fn default() -> InterruptTimer {
        InterruptTimer {
            now: AtomicU64::new(NEVER),
            started: AtomicU64::new(NEVER),
        }
    }
}

impl InterruptTimer {
    /// When a ring that wants to interrupt `now` may do so, if there is to be so much time between two: now, or later.
    pub fn due(&self, now: u64, gap: u64) -> u64 {
        self.now.store(now, Ordering::Relaxed);
        match self.started.load(Ordering::Relaxed) {
            NEVER => now,
            started => now.max(started.saturating_add(gap)),
        }
    }

    /// The interrupt is raised: now, or between the last time that was told and now.
    pub fn start(&self) {
        let now = self.now.load(Ordering::Relaxed);
        self.started.store(now, Ordering::Relaxed);
    }

    /// The next interrupt waits for nothing.
    pub fn reset(&self) {
        self.started.store(NEVER, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_gap_is_since_the_last_interrupt_and_not_since_one_that_was_masked() {
        let timer = InterruptTimer::default();
        timer.start();
        assert_eq!(timer.due(5, 100), 5, "nobody knew the time");
        assert_eq!(timer.due(6, 100), 6, "it was masked");
        timer.start();
        assert_eq!((timer.due(7, 100), timer.due(200, 100)), (106, 200));
        // The driver has unmasked it some time later.
        timer.start();
        assert_eq!((timer.due(201, 100), timer.due(202, 0)), (300, 202));
        assert_eq!(timer.due(203, u64::MAX), u64::MAX);
        timer.reset();
        assert_eq!(timer.due(204, 100), 204);
    }
}
