//! All that was measured in a run. Measures nothing itself.

use vf_model::Nanos;

use super::plan::ScenarioPlan;
use super::reading::Reading;
use super::traffic::JobTraffic;

/// Intervals that a run is shown in.
pub(super) const SAMPLES: u64 = 60;

/// All that was measured.
pub(super) struct Record {
    /// By time.
    pub(super) readings: Vec<Reading>,
    pub(super) traffic: Vec<JobTraffic>,
    pub(super) exits: Vec<Option<i32>>,
    /// Who has received each frame of the plan, in order.
    pub(super) receivers: Vec<Vec<String>>,
}

impl Record {
    /// The reading that was taken at a time for which one was planned.
    pub(super) fn at(&self, time: Nanos) -> &Reading {
        let at = self.readings.partition_point(|reading| reading.at < time);
        &self.readings[at.min(self.readings.len() - 1)]
    }
}

/// The end of the `n`th interval.
pub(super) fn sample_time(plan: &ScenarioPlan, n: u64) -> Nanos {
    let at = u128::from(plan.until.0) * u128::from(n) / u128::from(SAMPLES);
    Nanos(u64::try_from(at).unwrap_or(u64::MAX))
}
