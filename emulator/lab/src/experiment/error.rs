//! Why an experiment cannot be run. Says nothing of what one has measured.

use vf_guest::frontend::FrontendError;
use vf_model::{Refusal, VfIndex};
use vf_nic::server::RunError;

use crate::linux::LaunchError;
use crate::timetravel::SimulationError;

/// Why an experiment cannot be run.
#[derive(Debug, thiserror::Error)]
pub enum ExperimentError {
    /// No socket can be made.
    #[error("cannot make a socket: {0}")]
    Socket(std::io::Error),
    /// A guest cannot attach to its VF: a bug of ours.
    #[error("a guest cannot attach to its VF: {0}")]
    Guest(FrontendError),
    /// The NIC refuses a setting of the experiment.
    #[error("{0}: {1}")]
    Policy(VfIndex, Refusal),
    /// The NICs cannot be run.
    #[error("{0}")]
    Run(#[from] RunError),
    /// A guest found fault with the device, or broke the rules of the clock.
    #[error("a guest gave up: {0}")]
    Fault(String),
    /// There is no place for the guests' files.
    #[error("a folder for guests: {0}")]
    Folder(std::io::Error),
    /// A Linux guest cannot be started.
    #[error("{0}")]
    Launch(#[from] LaunchError),
    /// The virtual clock cannot go on.
    #[error("{0}")]
    Simulation(#[from] SimulationError),
    /// A Linux guest was done before the measurement was.
    #[error("guest {guest} has ended with code {code}: {last}")]
    Script {
        /// Its name.
        guest: String,
        /// Its script's exit code.
        code: u8,
        /// The last line that the script printed.
        last: String,
    },
}
