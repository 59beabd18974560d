//! What can be wrong with a scenario file, each on one line that says where and what to change. Finds none of it.

use std::fmt;
use std::path::PathBuf;

use vf_model::{Profile, Refusal, VfIndex};
use vf_nic::config::{ConfigError, DeviceKind};

use crate::virtual_hosts::MeasuredCpu;

/// Why a scenario cannot be run. One line that says where and what to change.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The file cannot be read.
    #[error(
        "cannot read {path}: {source}{}; 'vfnic scenario list' shows those that come with it",
        meant.map_or_else(String::new, |name| format!(": did you mean '{name}'?"))
    )]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
        /// The one of those that come with it which was probably meant.
        meant: Option<&'static str>,
    },
    /// The file is not TOML, or says something unknown.
    #[error("{path}: {what}")]
    Parse {
        /// The file.
        path: PathBuf,
        /// Where and what.
        what: String,
    },
    /// NICs or wires are wrong.
    #[error("{path}: {source}")]
    Config {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: Box<ConfigError>,
    },
    /// A section is wrong.
    #[error("{path}: line {line}: {mistake}")]
    Section {
        /// The file.
        path: PathBuf,
        /// Where the section begins.
        line: usize,
        /// What is wrong.
        mistake: ScenarioError,
    },
    /// The whole is wrong.
    #[error("{path}: {mistake}")]
    Whole {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        mistake: ScenarioError,
    },
}

/// What is wrong with a section.
#[derive(Debug, thiserror::Error)]
pub enum ScenarioError {
    /// A hypervisor that takes no time.
    #[error(transparent)]
    Cpu(#[from] MeasuredCpu),
    /// A NIC with more VFs than one of the family that it is to be like instead.
    #[error("{nic} has {vfs} VFs, and a NIC of profile {profile} 1 to {}", profile.max_vfs())]
    VfCount {
        /// The NIC.
        nic: String,
        /// How many it has in the file.
        vfs: usize,
        /// What it is to be like.
        profile: Profile,
    },
    /// A VF of hardware that a NIC of the family has not that it is to be like instead.
    #[error("{nic} {vf}: device {device}: {why}")]
    Device {
        /// The NIC.
        nic: String,
        /// The VF.
        vf: VfIndex,
        /// What it is in the file.
        device: DeviceKind,
        /// Why not, and what to change.
        why: String,
    },
    /// A name that nothing has.
    #[error("{what} '{name}': there are {known}")]
    NoSuch {
        /// What it was meant to be.
        what: &'static str,
        /// The name.
        name: String,
        /// Those that there are.
        known: String,
    },
    /// A name or place that something else has.
    #[error("{what} '{name}' is there already: {advice}")]
    Twice {
        /// What it is.
        what: &'static str,
        /// The name.
        name: String,
        /// What to do.
        advice: &'static str,
    },
    /// A value that cannot be.
    #[error("{key} = {got}: {allowed}")]
    Value {
        /// The key.
        key: &'static str,
        /// Its value.
        got: String,
        /// What is allowed.
        allowed: &'static str,
    },
    /// A figure that a job has not.
    #[error("{key} of {job}: {why}")]
    NoFigure {
        /// The figure.
        key: &'static str,
        /// The job.
        job: String,
        /// Why not, and what to do.
        why: &'static str,
    },
    /// Something that belongs there is not, or too much is.
    #[error("{0}")]
    Needs(&'static str),
    /// A command that cannot be read or is refused by the NIC.
    #[error("{0}")]
    Refused(#[from] Refusal),
    /// A setting of a VF that is refused.
    #[error("{nic} {vf}: {refusal}")]
    Policy {
        /// The NIC.
        nic: String,
        /// The VF.
        vf: VfIndex,
        /// Why.
        refusal: Refusal,
    },
}

pub(super) fn value(
    key: &'static str,
    got: impl fmt::Display,
    allowed: &'static str,
) -> ScenarioError {
    ScenarioError::Value {
        key,
        got: got.to_string().replace(char::is_control, " "),
        allowed,
    }
}
