//! Runs a plan: guests do their jobs, commands are given at their times, readings are taken, frames are captured and
//! digested. The same for all kinds of guests.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use vf_guest::frontend::FrontendError;
use vf_model::{Command, Nanos, Refusal, VfIndex};

use super::capture::{CaptureError, Captures};
use super::embedded::Embedded;
use super::linux::Linux;
use super::outcome::{Outcome, outcome};
use super::plan::{GuestKind, Plan, Work};
use super::reading::Reading;
use super::traffic::{JobTraffic, Traffic};
use crate::linux::{ImageError, LaunchError};
use crate::timetravel::SimulationError;
use crate::watch::{Detail, Digest, Seen, Watcher};
use crate::world::World;

/// Intervals that a run is shown in.
pub(super) const SAMPLES: u64 = 60;

/// What the command line says beside the file.
#[derive(Debug, Default)]
pub struct Options {
    /// Where captures go; `None`: there are none.
    pub out: Option<PathBuf>,
    /// Where the image of Linux guests is; `None`: the one that was built last.
    pub image: Option<PathBuf>,
    /// Linux guests are ended when something arrives here.
    pub stop: Option<UnixStream>,
}

/// Why a scenario did not run to its end.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// A capture cannot be written.
    #[error("{0}")]
    Capture(#[from] CaptureError),
    /// There are no Linux guests.
    #[error("{0}")]
    Image(#[from] ImageError),
    /// A Linux guest cannot be started.
    #[error("{0}")]
    Launch(#[from] LaunchError),
    /// A Linux guest broke the rules.
    #[error("{0}")]
    Simulation(#[from] SimulationError),
    /// Something basic is refused.
    #[error("{what}: {source}")]
    System {
        /// What was tried.
        what: &'static str,
        /// Why not.
        source: std::io::Error,
    },
    /// The NIC refuses a setting that the plan has tried: a bug of ours.
    #[error("{0}: {1}")]
    Policy(VfIndex, Refusal),
    /// A guest cannot attach to its VF: a bug of ours.
    #[error("a guest cannot attach to its VF: {0}")]
    Guest(#[from] FrontendError),
}

impl RunError {
    /// Whether what the user said is at fault, and nothing has run.
    #[must_use]
    pub fn is_usage(&self) -> bool {
        matches!(self, RunError::Image(_))
    }
}

/// Whoever plays the guests.
pub(super) trait Guests {
    /// The hosts.
    fn world(&self) -> &World;
    /// Shows `watcher` every frame from now on, at least in this detail.
    fn watch(&mut self, detail: Detail, watcher: Watcher);
    /// Applies a command at a time.
    fn at(&mut self, when: Nanos, nic: usize, command: Command);
    /// Lets time pass.
    fn run_until(&mut self, until: Nanos) -> Result<(), RunError>;
    /// Ends the guests and says how their jobs went.
    fn finish(self: Box<Self>) -> Ended;
}

/// How guests ended.
#[derive(Debug, Default)]
pub(super) struct Ended {
    /// In the order of the plan.
    pub(super) jobs: Vec<JobEnd>,
    /// Guests that did not survive, commands that were refused: a line each.
    pub(super) faults: Vec<String>,
}

/// How a job ended.
#[derive(Clone, Debug, Default)]
pub(super) struct JobEnd {
    /// `None`: it has not ended.
    pub(super) exit: Option<i32>,
    /// What it printed.
    pub(super) output: String,
}

/// All that was measured.
pub(super) struct Record {
    /// By time.
    pub(super) readings: Vec<Reading>,
    pub(super) traffic: Vec<JobTraffic>,
    pub(super) exits: Vec<Option<i32>>,
}

impl Record {
    /// The reading that was taken at a time for which one was planned.
    pub(super) fn at(&self, time: Nanos) -> &Reading {
        let at = self.readings.partition_point(|reading| reading.at < time);
        &self.readings[at.min(self.readings.len() - 1)]
    }
}

/// Who looks at every frame.
struct Observer {
    traffic: Traffic,
    captures: Option<Captures>,
}

impl Observer {
    fn add(&mut self, seen: &Seen<'_>) {
        self.traffic.add(seen);
        if let Some(captures) = &mut self.captures {
            captures.add(seen);
        }
    }
}

/// Runs a scenario. `progress` hears how far it is, 0 to 1.
///
/// # Errors
/// [`RunError`]. A promise that is not kept is no error, but in the [`Outcome`].
pub fn run(
    plan: &Plan,
    options: Options,
    mut progress: impl FnMut(f64),
) -> Result<Outcome, RunError> {
    let mut guests: Box<dyn Guests> = match plan.kind {
        GuestKind::Embedded => Box::new(Embedded::new(plan)?),
        GuestKind::Linux => Box::new(Linux::new(plan, options.image.as_deref(), options.stop)?),
    };
    let captures = options
        .out
        .as_deref()
        .map(|dir: &Path| Captures::create(dir, plan));
    let observer = Rc::new(RefCell::new(Observer {
        traffic: Traffic::new(plan),
        captures: captures.transpose()?,
    }));
    let digest = Digest::default();
    guests.watch(Detail::Head, digest.watcher());
    let watching = Rc::clone(&observer);
    let watcher = Box::new(move |seen: &Seen<'_>| watching.borrow_mut().add(seen));
    guests.watch(Detail::Whole, watcher);
    for event in &plan.events {
        guests.at(event.at, event.nic, event.command.clone());
    }
    let mut readings = Vec::new();
    for at in reading_times(plan) {
        guests.run_until(at)?;
        let mut reading = Reading::take(guests.world(), observer.borrow().traffic.jobs());
        reading.at = at;
        readings.push(reading);
        progress(at.0 as f64 / plan.until.0 as f64);
    }
    let mut ended = guests.finish();
    let (traffic, captures) = {
        let mut observer = observer.borrow_mut();
        (observer.traffic.jobs().to_vec(), observer.captures.take())
    };
    let captures = captures.map(Captures::finish).transpose()?;
    for ((job, traffic), end) in plan.jobs.iter().zip(&traffic).zip(&mut ended.jobs) {
        // As ping(8) has it: guests in this process do not look at replies themselves.
        if matches!(job.work, Work::Ping { .. }) && traffic.echoes.is_empty() {
            end.exit = end.exit.map(|_| 1);
        }
    }
    let record = Record {
        readings,
        traffic,
        exits: ended.jobs.iter().map(|job| job.exit).collect(),
    };
    Ok(outcome(
        plan,
        &record,
        ended,
        digest.value(),
        captures.unwrap_or_default(),
    ))
}

/// When readings are taken: in equal steps for the eye, and where expectations begin and end.
fn reading_times(plan: &Plan) -> BTreeSet<Nanos> {
    let bounds = plan.expectations.iter().flat_map(|e| [e.from, e.to]);
    let steps = (0..=SAMPLES).map(|n| sample_time(plan, n));
    steps.chain(bounds).collect()
}

/// The end of the `n`th interval.
pub(super) fn sample_time(plan: &Plan, n: u64) -> Nanos {
    let at = u128::from(plan.until.0) * u128::from(n) / u128::from(SAMPLES);
    Nanos(u64::try_from(at).unwrap_or(u64::MAX))
}
