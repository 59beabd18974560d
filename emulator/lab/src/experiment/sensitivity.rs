//! How far the mediated figure depends on the two numbers that were chosen so that it is that of 2009: interrupt moderation and
//! the scale of the hypervisor's costs. Short runs of the experiment with other values of one and the plan's value of the other,
//! with embedded guests on the virtual clock, on as many threads as there are CPUs. Never fits anything.

use std::num::NonZeroUsize;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use vf_model::{CostModel, Nanos, Path};

use super::error::ExperimentError;
use super::outcome::{Sensitivity, SensitivityPoint};
use super::plan::{ExperimentPlan, Guests};
use super::run_virtual;

/// How long each run measures.
const WINDOW: Nanos = Nanos(100_000_000);
/// Moderations to try in microseconds, beside the plan's.
const MODERATIONS: [u64; 5] = [10, 20, 40, 80, 200];
/// Scales to try, as thousandths of the plan's.
const SCALES: [u64; 5] = [800, 900, 1000, 1100, 1250];

/// Runs the plan with other values of either number.
pub(super) fn run(plan: &ExperimentPlan) -> Result<Sensitivity, ExperimentError> {
    let mut moderations = MODERATIONS.map(|us| Nanos(us * 1000)).to_vec();
    moderations.push(plan.moderation);
    moderations.sort_unstable();
    moderations.dedup();
    let short = ExperimentPlan {
        guests: Guests::Embedded,
        measure: WINDOW.min(plan.measure),
        ..plan.clone()
    };
    let with_moderation = moderations.iter().map(|moderation| ExperimentPlan {
        moderation: *moderation,
        ..short.clone()
    });
    let scaled = SCALES.map(|per_mille| plan.cost.scale_per_mille * per_mille / 1000);
    let with_scale = scaled.iter().map(|scale| ExperimentPlan {
        cost: CostModel {
            scale_per_mille: *scale,
            ..plan.cost
        },
        ..short.clone()
    });
    let plans: Vec<_> = with_moderation.chain(with_scale).collect();
    let mut totals = run_all(&plans)?.into_iter();
    let mut point = |value: f64, chosen| SensitivityPoint {
        value,
        total_mbps: totals.next().unwrap_or_default(),
        chosen,
    };
    Ok(Sensitivity {
        seconds: short.measure.0 as f64 / 1e9,
        moderation_us: moderations
            .iter()
            .map(|at| point(at.0 as f64 / 1e3, *at == plan.moderation))
            .collect(),
        cost_scale: scaled
            .iter()
            .map(|at| point(*at as f64 / 1e3, *at == plan.cost.scale_per_mille))
            .collect(),
    })
}

/// What each plan's mediated path carries.
fn run_all(plans: &[ExperimentPlan]) -> Result<Vec<f64>, ExperimentError> {
    let next = AtomicUsize::new(0);
    let done = Mutex::new(Vec::new());
    let work = || {
        while let Some((at, plan)) = {
            let at = next.fetch_add(1, Ordering::Relaxed);
            plans.get(at).map(|plan| (at, plan))
        } {
            let result = run_virtual(plan, Path::Mediated, &mut |_| ());
            let mut done = done.lock().unwrap_or_else(|broken| broken.into_inner());
            done.push((at, result.map(|result| result.total_mbps)));
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
    std::thread::scope(|scope| {
        for _ in 0..threads.min(plans.len()) {
            scope.spawn(work);
        }
    });
    let mut done = done
        .into_inner()
        .unwrap_or_else(|broken| broken.into_inner());
    done.sort_by_key(|(at, _)| *at);
    done.into_iter().map(|(_, result)| result).collect()
}
