//! An experiment run several times: with other seeds, other numbers of streams, other MTUs. On the virtual clock with embedded
//! guests the runs share out the machine's CPUs, since none of their figures depends on it. Changes nothing in how one is run.

use std::num::NonZero;
use std::os::unix::net::UnixStream;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde::Serialize;
use vf_model::Profile;
use vf_nic::config::{DeviceKind, Offloads};

use super::{
    ClockMode, ExperimentError, ExperimentOutcome, ExperimentPlan, Guests, PathResult, run,
};
use crate::provenance::Provenance;

/// Several runs.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Series {
    /// What made it, if somebody has said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub made_by: Option<Provenance>,
    /// The runs, in the order of their plans.
    pub runs: Vec<ExperimentOutcome>,
}

/// What the paths of one setting came to, over all its seeds.
#[derive(Clone, Debug, PartialEq)]
pub struct Setting<'a> {
    /// Streams from A to B and from B to A.
    pub streams: (u16, u16),
    /// The guests' MTU.
    pub mtu: u16,
    /// Its runs.
    pub runs: Vec<&'a ExperimentOutcome>,
}

/// A figure over several runs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Figure {
    /// The mean.
    pub mean: f64,
    /// The least.
    pub least: f64,
    /// The most.
    pub most: f64,
}

impl Figure {
    fn of(values: &[f64]) -> Option<Figure> {
        let count = NonZero::new(values.len())?;
        Some(Figure {
            mean: values.iter().sum::<f64>() / count.get() as f64,
            least: values.iter().copied().fold(f64::INFINITY, f64::min),
            most: values.iter().copied().fold(f64::NEG_INFINITY, f64::max),
        })
    }
}

impl<'a> Setting<'a> {
    /// The results of a path on a clock.
    pub fn results(&self, clock: &str, path: &str) -> Vec<&'a PathResult> {
        let results = self.runs.iter().flat_map(|run| &run.results);
        results
            .filter(|r| r.clock == clock && r.path == path)
            .collect()
    }

    /// Payload of a path, both ways, in Mb/s.
    pub fn total(&self, clock: &str, path: &str) -> Option<Figure> {
        let results = self.results(clock, path);
        Figure::of(&results.iter().map(|r| r.total_mbps).collect::<Vec<_>>())
    }

    /// What the wire allows, in Mb/s.
    pub fn theory(&self) -> Option<f64> {
        let theory: Vec<_> = self.runs.iter().map(|run| run.theory.total_mbps).collect();
        Figure::of(&theory).map(|figure| figure.mean)
    }
}

impl Series {
    /// Its settings, in the order in which they first ran.
    #[must_use]
    pub fn settings(&self) -> Vec<Setting<'_>> {
        let mut settings: Vec<Setting<'_>> = Vec::new();
        for run in &self.runs {
            let streams = (run.plan.a_to_b_streams, run.plan.b_to_a_streams);
            let mtu = run.plan.mtu;
            match settings
                .iter_mut()
                .find(|s| (s.streams, s.mtu) == (streams, mtu))
            {
                Some(setting) => setting.runs.push(run),
                None => settings.push(Setting {
                    streams,
                    mtu,
                    runs: vec![run],
                }),
            }
        }
        settings
    }

    /// The clocks and paths that were run, in their order.
    #[must_use]
    pub fn paths(&self) -> Vec<(&str, &str)> {
        let results = self.runs.first().map(|run| &run.results);
        let results = results.into_iter().flatten();
        results
            .map(|r| (r.clock.as_str(), r.path.as_str()))
            .collect()
    }

    /// A row for each path of each run, in words that a spreadsheet or a data frame takes as columns.
    #[must_use]
    pub fn rows(&self) -> Vec<Row<'_>> {
        let rows = self.runs.iter().flat_map(|run| {
            run.results.iter().map(|result| Row {
                guests: &run.guests,
                a_to_b_streams: run.plan.a_to_b_streams,
                b_to_a_streams: run.plan.b_to_a_streams,
                mtu: run.plan.mtu,
                seed: run.seed,
                profile: run.plan.profile,
                offloads: run.plan.offloads,
                device: run.plan.device,
                rate_mbps: run.plan.rate_mbps,
                netem: run.plan.netem.as_deref(),
                window: run.plan.window,
                interrupt_moderation_ns: run.plan.interrupt_moderation_ns,
                seconds: run.plan.seconds,
                clock: &result.clock,
                path: &result.path,
                a_to_b_mbps: result.a_to_b_mbps,
                b_to_a_mbps: result.b_to_a_mbps,
                total_mbps: result.total_mbps,
                theory_mbps: run.theory.total_mbps,
                link_utilisation: result.link_utilisation,
                hypervisor_cpu: result.hypervisor_cpu,
                bottleneck: &result.bottleneck,
                spread: result.spread,
                starved: result.starved,
                segments_per_ack: result.segments_per_ack,
                settled: result.settled,
                digest: result.digest.as_deref(),
                made_by: {
                    // A run that stands alone says it itself.
                    let made_by = self.made_by.as_ref().or(run.made_by.as_ref());
                    made_by.map(ToString::to_string)
                },
            })
        });
        rows.collect()
    }
}

/// One path of one run; what the fields mean is said at [`PathResult`].
#[derive(Clone, Debug, PartialEq, Serialize)]
#[allow(missing_docs)]
pub struct Row<'a> {
    pub guests: &'a str,
    pub a_to_b_streams: u16,
    pub b_to_a_streams: u16,
    pub mtu: u16,
    pub seed: u64,
    pub profile: Profile,
    pub offloads: Offloads,
    pub device: DeviceKind,
    pub rate_mbps: f64,
    pub netem: Option<&'a str>,
    pub window: Option<usize>,
    pub interrupt_moderation_ns: u64,
    pub seconds: f64,
    pub clock: &'a str,
    pub path: &'a str,
    pub a_to_b_mbps: f64,
    pub b_to_a_mbps: f64,
    pub total_mbps: f64,
    pub theory_mbps: f64,
    pub link_utilisation: f64,
    pub hypervisor_cpu: f64,
    pub bottleneck: &'a str,
    pub spread: Option<f64>,
    pub starved: usize,
    pub segments_per_ack: f64,
    pub settled: bool,
    pub digest: Option<&'a str>,
    pub made_by: Option<String>,
}

/// Runs all of `plans`, each on each of `clocks`. `progress` hears how many of them are done.
///
/// # Errors
/// The first [`ExperimentError`].
pub fn run_all(
    plans: &[ExperimentPlan],
    clocks: &[ClockMode],
    stop: Option<&UnixStream>,
    progress: impl Fn(usize) + Sync,
) -> Result<Series, ExperimentError> {
    let alone = |plan: &ExperimentPlan| {
        plan.guests != Guests::Embedded || clocks.contains(&ClockMode::Wall)
    };
    let threads = match plans.iter().any(alone) {
        true => 1,
        false => std::thread::available_parallelism().map_or(1, NonZero::get),
    };
    let (next, done) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let outcomes = Mutex::new(Vec::new());
    let work = || {
        while let n = next.fetch_add(1, Ordering::Relaxed)
            && let Some(plan) = plans.get(n)
        {
            let outcome = run(plan, clocks, stop, |_, _, _| {});
            let failed = outcome.is_err();
            let mut outcomes = outcomes
                .lock()
                .unwrap_or_else(std::sync::PoisonError::into_inner);
            outcomes.push((n, outcome));
            drop(outcomes);
            if failed {
                next.store(plans.len(), Ordering::Relaxed);
            }
            progress(done.fetch_add(1, Ordering::Relaxed) + 1);
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..threads.min(plans.len()) {
            scope.spawn(work);
        }
        work();
    });
    let mut outcomes = outcomes
        .into_inner()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    outcomes.sort_by_key(|(n, _)| *n);
    let runs: Result<_, _> = outcomes.into_iter().map(|(_, outcome)| outcome).collect();
    Ok(Series {
        made_by: None,
        runs: runs?,
    })
}
