//! Why a configuration cannot be used. Only says so; what is checked where is in the other files.

use std::path::PathBuf;

use vf_model::{MacAddr, MtuError, Profile, Refusal, VfIndex};

use super::cpu::{MAX_THREADS, MAX_WORKERS};
use crate::plane::MAX_QUEUE_PAIRS;

/// Why a configuration cannot be used. Each says what to change.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is not TOML, or says something unknown.
    #[error("{path}: {what}")]
    Parse {
        /// The file.
        path: PathBuf,
        /// One line: where and what.
        what: String,
    },
    /// A number of VFs out of range.
    #[error("{nic}: vfs = {vfs}: a NIC of profile {profile} has 1 to {} VFs", profile.max_vfs())]
    VfCount {
        /// The NIC.
        nic: String,
        /// What was asked for.
        vfs: u16,
        /// What it is like.
        profile: Profile,
    },
    /// A number of threads out of range.
    #[error("threads = {0}: there are 1 to {MAX_THREADS}")]
    Threads(u16),
    /// A number of workers out of range.
    #[error(
        "{nic}: workers = {workers}: a NIC has 1 to {MAX_WORKERS} workers, and no more than VFs, of which it has {vfs}"
    )]
    Workers {
        /// The NIC.
        nic: String,
        /// What was asked for.
        workers: u16,
        /// How many VFs it has.
        vfs: u16,
    },
    /// A number of queue pairs out of range.
    #[error("{nic}: queue_pairs = {pairs}: a VF has 1 to {MAX_QUEUE_PAIRS} queue pairs")]
    QueuePairs {
        /// The NIC.
        nic: String,
        /// What was asked for.
        pairs: u16,
    },
    /// An MTU out of range.
    #[error("{nic}: {why}")]
    Mtu {
        /// The NIC.
        nic: String,
        /// What was asked for.
        why: MtuError,
    },
    /// A multicast or zero base address, or one that runs over for the last VF.
    #[error(
        "{nic}: mac_base = {mac}: needs to be a unicast address with room for {vfs} VFs in its last three bytes"
    )]
    MacBase {
        /// The NIC.
        nic: String,
        /// What was asked for.
        mac: MacAddr,
        /// How many VFs.
        vfs: u16,
    },
    /// A name that cannot be part of a file name, stands for something else in commands, or is used twice.
    #[error(
        "nic name '{0}': names are letters, digits, '_' and, but in front, '-'; they differ from each other and from vf, wire, pf and flow-type"
    )]
    Name(String),
    /// No NIC at all.
    #[error("the file names no [[nic]]")]
    NoNic,
    /// A `[[nic.vf]]` without such a VF.
    #[error("{nic}: [[nic.vf]] index = {index}: the VFs are 0 to {last}, each at most once")]
    VfIndex {
        /// The NIC.
        nic: String,
        /// What was named.
        index: u16,
        /// The last one there is.
        last: u16,
    },
    /// A monitor of a VF that there is not.
    #[error("--qmp {vf}={}: the VFs of {nic} are 0 to {last}", path.display())]
    Qmp {
        /// The NIC.
        nic: String,
        /// The VF that was named.
        vf: u16,
        /// The monitor.
        path: PathBuf,
        /// The last VF there is.
        last: u16,
    },
    /// A setting of a VF that the NIC does not take.
    #[error("{nic} {vf}: {refusal}")]
    Setting {
        /// The NIC.
        nic: String,
        /// Which VF.
        vf: VfIndex,
        /// The key.
        key: &'static str,
        /// What is wrong with its value.
        refusal: Refusal,
    },
    /// A value that is none.
    #[error("{nic}: {key}: {source}")]
    Value {
        /// The NIC.
        nic: String,
        /// The key.
        key: &'static str,
        /// What is wrong with its value.
        source: Box<ConfigError>,
    },
    /// What the NIC does not take of what is said of it in words of commands.
    #[error("{nic}{}: {key}: {refusal}", vf.map_or_else(String::new, |vf| format!(" vf{vf}")))]
    Switch {
        /// The NIC.
        nic: String,
        /// Which VF, if it is said of one.
        vf: Option<u16>,
        /// The key.
        key: &'static str,
        /// What is wrong with its value.
        refusal: Refusal,
    },
    /// A filter that is none, or that the NIC does not take.
    #[error("{nic}: filters, '{words}': {refusal}")]
    Filter {
        /// The NIC.
        nic: String,
        /// What was said.
        words: String,
        /// What is wrong with it.
        refusal: Refusal,
    },
    /// A device that such a VF cannot be.
    #[error("{nic} vf{index}: {why}")]
    Device {
        /// The NIC.
        nic: String,
        /// Which VF.
        index: usize,
        /// What is wrong with it.
        why: String,
    },
    /// An uplink beside another.
    #[error("{nic}: {why}")]
    Uplink {
        /// The NIC.
        nic: String,
        /// What is wrong with it.
        why: String,
    },
    /// A wire to nowhere.
    #[error("[[wire]] between = [\"{a}\", \"{b}\"]: {why}")]
    Wire {
        /// One end.
        a: String,
        /// The other.
        b: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// A rate that cannot be read.
    #[error("rate '{0}': a number of bits a second with k, M, G or T, such as 10G, 1M to 10T")]
    Rate(String),
    /// Two VFs on one socket, or one on that of commands.
    #[error("socket {0} is used twice: it is of one VF, or the control socket")]
    Socket(PathBuf),
    /// What is wrong with what a file says.
    #[error("{path}: {source}")]
    InFile {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: Box<ConfigError>,
    },
    /// What is wrong with a section of the file.
    #[error("line {line}: {source}")]
    Section {
        /// Where that is said, or where the section begins.
        line: usize,
        /// What is wrong.
        source: Box<ConfigError>,
    },
}

impl ConfigError {
    /// The VF whose section it is about, if it is about one.
    pub(super) fn vf(&self) -> Option<u16> {
        match self {
            ConfigError::VfIndex { index, .. } => Some(*index),
            ConfigError::Device { index, .. } => u16::try_from(*index).ok(),
            ConfigError::Setting { vf, .. } => Some(vf.0.into()),
            ConfigError::Switch { vf, .. } => *vf,
            _ => None,
        }
    }

    /// The key of a section that it is about, if it is about one.
    pub(super) fn key(&self) -> Option<&'static str> {
        Some(match self {
            ConfigError::VfCount { .. } => "vfs",
            ConfigError::Workers { .. } => "workers",
            ConfigError::QueuePairs { .. } => "queue_pairs",
            ConfigError::Mtu { .. } => "mtu",
            ConfigError::MacBase { .. } => "mac_base",
            ConfigError::Name(_) => "name",
            ConfigError::Filter { .. } => "filters",
            ConfigError::Uplink { .. } => "uplink",
            ConfigError::VfIndex { .. } => "index",
            ConfigError::Rate(_) => "rate",
            ConfigError::Wire { .. } => "between",
            ConfigError::Switch { key, .. }
            | ConfigError::Setting { key, .. }
            | ConfigError::Value { key, .. } => key,
            _ => return None,
        })
    }
}
