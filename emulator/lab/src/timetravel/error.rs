//! Why a simulation cannot start or go on. Says nothing of a guest that is left out: that is a fault, and the run goes on.

use std::io;
use std::process::ExitStatus;

use vf_model::{Nanos, Refusal, VfIndex};
use vf_nic::server::RunError;
use vf_vhost::endpoint::BindError;

use crate::virtual_hosts::MeasuredCpu;

/// Why a simulation cannot start or go on.
#[derive(Debug, thiserror::Error)]
pub enum SimulationError {
    /// The calendar's socket cannot be made.
    #[error("calendar: {0}")]
    Calendar(BindError),
    /// A VF's socket cannot be made.
    #[error("{0}")]
    Socket(#[from] BindError),
    /// The control socket cannot be made.
    #[error("{0}")]
    Control(#[from] RunError),
    /// A hypervisor that takes no time.
    #[error(transparent)]
    Cpu(#[from] MeasuredCpu),
    /// Something that lives in real time.
    #[error("{nic}: {what} cannot be on the virtual clock")]
    RealTime {
        /// The NIC.
        nic: String,
        /// What.
        what: &'static str,
    },
    /// An initial setting is refused.
    #[error("{nic} {vf}: {refusal}")]
    Policy {
        /// The NIC.
        nic: String,
        /// The VF.
        vf: VfIndex,
        /// Why.
        refusal: Refusal,
    },
    /// Guests are missing.
    #[error("{have} of {want} guests have come in {seconds} s{missing}")]
    Missing {
        /// Those who have come.
        have: usize,
        /// Those who should have.
        want: u16,
        /// How long they had.
        seconds: u64,
        /// What is known of the others, as the end of the line.
        missing: String,
    },
    /// A guest that this process has started has exited before all had come.
    #[error("guest {guest} has ended before it was told to start: {status}")]
    Early {
        /// Its name.
        guest: String,
        /// How.
        status: ExitStatus,
    },
    /// A guest has ended or broken the rules before all had come.
    #[error("{0}")]
    Fault(String),
    /// Two guests have the same ID.
    #[error("two guests have the ID {0}: say time-travel=ext:ID:SOCKET with another for each")]
    SameId(u64),
    /// Nothing will ever happen again.
    #[error("guest {guest} sleeps for ever: nothing is left to happen at {now} of virtual time")]
    Asleep {
        /// Its name, or its ID.
        guest: String,
        /// Since when.
        now: Nanos,
    },
    /// The user has had enough.
    #[error("stopped")]
    Stopped,
    /// The system refuses something basic.
    #[error("{what}: {source}")]
    System {
        /// What was tried.
        what: &'static str,
        /// Why.
        source: io::Error,
    },
}

impl SimulationError {
    /// Whether the user's words are at fault rather than a guest or the machine.
    #[must_use]
    pub fn is_usage(&self) -> bool {
        use SimulationError as E;
        if let E::Control(error) = self {
            return error.is_usage();
        }
        matches!(
            self,
            E::Calendar(_) | E::Socket(_) | E::Cpu(_) | E::RealTime { .. } | E::Policy { .. }
        )
    }
}

pub(super) fn system(what: &'static str) -> impl Fn(io::Error) -> SimulationError {
    move |source| SimulationError::System { what, source }
}
