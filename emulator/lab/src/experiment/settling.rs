//! When a run has settled, so that it can be measured: TCP has left slow start, and what bounds the run is used up. Looks at
//! what is measured in equal steps from the start of the streams; never at a clock.

use vf_model::Nanos;

use super::measure::{self, Reading};
use super::plan::ExperimentPlan;

/// Steps that the shortest warm-up has.
const STEPS: u64 = 4;
/// Steps of the longest one; what has not settled by then is measured all the same, and the outcome says so.
const MOST: usize = 100;
/// How far the rates of two steps may be apart if something is used up in both.
const NEAR: f64 = 0.03;
/// Steps in a row whose rates have to be as good as the same if nothing is.
const LEVEL: usize = 10;
/// As good as the same.
const SAME: f64 = 0.01;

/// A run that is being looked at.
pub(super) struct WarmUp<'a> {
    plan: &'a ExperimentPlan,
    readings: Vec<Reading>,
    begin: Nanos,
}

/// How a warm-up has ended.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct WarmedUp {
    /// How long it took, in seconds.
    pub(super) seconds: f64,
    /// Whether rates have settled in that time.
    pub(super) settled: bool,
}

impl<'a> WarmUp<'a> {
    /// Of a run whose streams start now.
    pub(super) fn new(plan: &'a ExperimentPlan, now: Reading) -> WarmUp<'a> {
        WarmUp {
            plan,
            begin: now.at(),
            readings: vec![now],
        }
    }

    /// When to look next; the end of the warm-up if it is over.
    pub(super) fn next(&self) -> Result<Nanos, WarmedUp> {
        let steps = self.readings.len() - 1;
        let step = (self.plan.warm_up.0 / STEPS).max(1);
        let settled = steps as u64 >= STEPS && self.has_settled();
        if settled || steps >= MOST {
            let seconds = (step * steps as u64) as f64 / 1e9;
            return Err(WarmedUp { seconds, settled });
        }
        Ok(self.begin + Nanos(step * (steps as u64 + 1)))
    }

    /// What was seen at [`WarmUp::next`].
    pub(super) fn look(&mut self, now: Reading) {
        self.readings.push(now);
    }

    /// Two steps in a row in which the hypervisor, or every direction of the wire that carries data, was used up and whose
    /// rates are within 3 % of each other; or ten whose rates are within 1 %. A direction that has streams and carries nothing has not
    /// settled: they wait for their retransmission timers.
    fn has_settled(&self) -> bool {
        let steps: Vec<_> = self
            .readings
            .windows(2)
            .map(|pair| measure::step(self.plan, &pair[0], &pair[1]))
            .collect();
        let within = |count: usize, apart: f64| {
            let last = steps.len().checked_sub(count).map(|from| &steps[from..]);
            last.is_some_and(|last| {
                let streams = [self.plan.a_to_b, self.plan.b_to_a];
                streams.into_iter().enumerate().all(|(direction, streams)| {
                    let rates = last.iter().map(|step| step.mbps[direction]);
                    let most = rates.clone().fold(0.0, f64::max);
                    let least = rates.fold(f64::INFINITY, f64::min);
                    (streams == 0 || most > 0.0) && least >= most * (1.0 - apart)
                })
            })
        };
        let full = steps.iter().rev().take(2).all(|step| step.used_up);
        (full && within(2, NEAR)) || within(LEVEL, SAME)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::experiment::measure::Meters;

    /// How many steps a warm-up of one stream has that receives so many bytes in each, and whether it has settled then.
    fn warm_up(bytes: impl Fn(usize) -> u64) -> (usize, bool) {
        let plan = ExperimentPlan {
            a_to_b: 1,
            b_to_a: 0,
            ..ExperimentPlan::default()
        };
        let reading = |at: Nanos, received: u64| {
            let mut meters = Meters::new(at);
            meters.pair(received, 0, 0);
            meters.reading()
        };
        let mut warm_up = WarmUp::new(&plan, reading(Nanos(0), 0));
        let (mut steps, mut received) = (0, 0);
        loop {
            match warm_up.next() {
                Ok(at) => {
                    received += bytes(steps);
                    steps += 1;
                    warm_up.look(reading(at, received));
                }
                Err(ended) => return (steps, ended.settled),
            }
        }
    }

    #[test]
    fn a_run_has_settled_when_it_gets_no_faster() {
        assert_eq!(warm_up(|_| 1000), (LEVEL, true));
        // As in slow start: twice as fast in each of eight steps.
        assert_eq!(warm_up(|step| 1000 << step.min(8)), (8 + LEVEL, true));
        let neither = |step: usize| 1000 + 100 * (step as u64 % 2);
        assert_eq!(warm_up(neither), (MOST, false));
    }

    #[test]
    fn streams_that_wait_for_their_timers_have_not_settled() {
        let lost_a_window = |step: usize| if step < 3 { 1000 } else { 0 };
        assert_eq!(warm_up(lost_a_window), (MOST, false));
    }
}
