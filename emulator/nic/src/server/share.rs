//! How much of the control thread's time one VF may have: what its front end and its driver say is looked at for a part of the
//! time, and waits for the rest of it, however much and however dear that is. Never reads a clock.

use std::time::{Duration, Instant};

/// The part of the time that a VF has in the long run: one in so many.
const ONE_IN: u32 = 5;
/// What it may have at once: guests with many queues start, die and come back.
const AT_ONCE: Duration = Duration::from_millis(200);

/// A leaky bucket of time.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct TimeShare {
    /// When all that it has had is made up for.
    even_at: Option<Instant>,
}

impl TimeShare {
    /// Counts a turn that has just ended.
    pub(super) fn count(&mut self, now: Instant, took: Duration) {
        let began = now.checked_sub(took).unwrap_or(now);
        let from = self.even_at.map_or(began, |at| at.max(began));
        self.even_at = Some(from + took * ONE_IN);
    }

    /// When it may have another turn, if not now.
    pub(super) fn waits_until(&self, now: Instant) -> Option<Instant> {
        let at = self.even_at?.checked_sub(AT_ONCE * (ONE_IN - 1))?;
        (at > now).then_some(at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vf_has_a_fifth_of_the_time_in_the_long_run_and_a_start_up_at_once() {
        let start = Instant::now();
        let turn = Duration::from_millis(1);
        let (mut share, mut now, mut had) = (TimeShare::default(), start, Duration::ZERO);
        while share.waits_until(now).is_none() {
            now += turn;
            had += turn;
            share.count(now, turn);
        }
        assert!(had >= AT_ONCE && had < AT_ONCE * 2, "{had:?}");
        let (from, before) = (now, had);
        while now < from + Duration::from_secs(100) {
            match share.waits_until(now) {
                Some(at) => now = at,
                None => {
                    now += turn;
                    had += turn;
                    share.count(now, turn);
                }
            }
        }
        let part = (had - before).as_secs_f64() / (now - from).as_secs_f64();
        assert!((0.19..0.21).contains(&part), "{part}");
        // What it has not had for a while it may have at once, and no more than that.
        let later = now + Duration::from_secs(3600);
        assert_eq!(share.waits_until(later), None);
        share.count(later, AT_ONCE + turn);
        assert!(share.waits_until(later).is_some());
    }
}
