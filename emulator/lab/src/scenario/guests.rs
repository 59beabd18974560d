//! What a run asks of whoever plays the guests, how guests end, and why a run does not. Plays none.

use vf_guest::frontend::FrontendError;
use vf_model::{Command, Nanos, Refusal, VfIndex};
use vf_nic::watch::Detail;

use super::capture::CaptureError;
use super::plan::FrontEnd;
use crate::linux::{ImageError, LaunchError};
use crate::timetravel::SimulationError;
use crate::virtual_hosts::{VirtualHosts, Watcher};

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
    fn world(&self) -> &VirtualHosts;
    /// Shows `watcher` every frame from now on, at least in this detail.
    fn watch(&mut self, detail: Detail, watcher: Watcher);
    /// Applies a command at a time.
    fn at(&mut self, when: Nanos, nic: usize, command: Command);
    /// Has the front end of the guest of this index do something, now.
    fn front_end(&mut self, guest: usize, does: FrontEnd) -> Result<(), RunError>;
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
