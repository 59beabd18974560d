//! The highest rate without more than some loss, by binary search (RFC 2544 26.1).
//!
//! Pure: says which rate to try next, and is told what was lost. What it finds has been tried
//! again and found good each time, so that one lucky trial is no result.

/// How close the result is to the rate that fails, as a share of the highest rate.
const RESOLUTION: f64 = 0.01;
/// Times that a rate is tried again before it is the result.
const VERIFICATIONS: u32 = 2;

/// A search that has not ended.
#[derive(Debug, Clone)]
pub(super) struct Search {
    highest: f64,
    allowed: f64,
    /// Highest rate that was good, or is hoped to be.
    low: f64,
    /// Lowest rate that failed.
    high: Option<f64>,
    verified: u32,
}

impl Search {
    /// Between 0 and `highest` frames a second, for a loss of at most `allowed` (0 to 1).
    pub(super) fn new(highest: f64, allowed: f64) -> Search {
        Search {
            highest,
            allowed,
            low: 0.0,
            high: None,
            verified: 0,
        }
    }

    /// The rate to try next; `None` when it is over.
    pub(super) fn next(&self) -> Option<f64> {
        if self.verified == VERIFICATIONS {
            return None;
        }
        match self.high {
            None => Some(self.highest),
            Some(high) if high - self.low > RESOLUTION * self.highest * 1.01 => {
                Some((self.low + high) / 2.0)
            }
            Some(_) => (self.low > 0.0).then_some(self.low),
        }
    }

    /// What share of the frames was lost at a rate that [`Search::next`] said.
    pub(super) fn record(&mut self, rate: f64, loss: f64) {
        if loss > self.allowed {
            if rate <= self.low {
                self.low = (rate - 2.0 * RESOLUTION * self.highest).max(0.0);
            }
            self.high = Some(rate);
            self.verified = 0;
        } else if rate == self.low {
            self.verified += 1;
        } else {
            self.low = rate;
            self.verified = 0;
        }
    }

    /// What was found: 0 when every rate failed.
    pub(super) fn found(&self) -> f64 {
        if self.verified == VERIFICATIONS {
            self.low
        } else {
            0.0
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Searches a back end that loses `loss(rate, trial)`; the result and the number of trials.
    fn search(highest: f64, allowed: f64, mut loss: impl FnMut(f64, u32) -> f64) -> (f64, u32) {
        let mut search = Search::new(highest, allowed);
        let mut trials = 0;
        while let Some(rate) = search.next() {
            search.record(rate, loss(rate, trials));
            trials += 1;
            assert!(trials < 1000, "no end: {search:?}");
        }
        (search.found(), trials)
    }

    proptest! {
        #[test]
        fn a_back_end_with_a_limit_is_measured(limit in 0.05f64..1.5, allowed in 0.0f64..0.01) {
            let (found, trials) = search(1e6, allowed, |rate, _| (1.0 - limit * 1e6 / rate).max(0.0));
            let reach = (limit / (1.0 - allowed)).min(1.0);
            prop_assert!(found <= reach * 1e6 * 1.000001);
            prop_assert!(found >= (reach - 2.0 * RESOLUTION) * 1e6, "{found}");
            prop_assert!(trials <= 12);
        }

        /// Losses by chance end no search in a rate above the limit, and every search ends.
        #[test]
        fn a_rate_that_fails_again_is_no_result(limit in 0.0f64..1.0, luck: u64) {
            let (found, _) = search(1.0, 0.0, |rate, trial| {
                let unlucky = luck.rotate_left(trial * 7) & 3 == 0;
                if rate > limit || unlucky { 1.0 } else { 0.0 }
            });
            prop_assert!(found <= limit);
        }
    }

    #[test]
    fn what_loses_everything_has_no_rate() {
        assert_eq!(search(1e6, 0.0, |_, _| 1.0).0, 0.0);
        assert_eq!(search(1e6, 0.0, |_, _| 0.0), (1e6, 3));
    }
}
