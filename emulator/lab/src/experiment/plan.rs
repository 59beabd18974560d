//! What to run: the 2009 experiment unless told otherwise. Runs nothing.

use std::fmt;

use clap::ValueEnum;
use serde::Serialize;
use vf_model::{CostModel, LinkConfig, Nanos, NetemSpec, Profile};
use vf_nic::config::{DeviceKind, Offloads};

use super::outcome::PlanView;
use crate::linux::Image;

/// Guests of a pair get addresses in 10.0.0.0/16, so at most this many pairs.
pub const MAX_PAIRS: u16 = 64;

/// Intervals that a run is plotted in.
pub(super) const SAMPLES: u64 = 40;

/// Which clock to run on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClockMode {
    /// Simulated time.
    Virtual,
    /// This machine's.
    Wall,
}

impl fmt::Display for ClockMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl ClockMode {
    /// Its word.
    pub(super) fn name(self) -> &'static str {
        match self {
            ClockMode::Virtual => "virtual",
            ClockMode::Wall => "wall",
        }
    }
}

/// Who talks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Guests {
    /// A TCP of this process' own.
    Embedded,
    /// Linux kernels, on the virtual clock.
    Linux {
        /// What they boot from.
        image: Image,
        /// What they run.
        tool: Tool,
    },
}

impl Guests {
    /// As the outcome says it.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Guests::Embedded => "embedded",
            Guests::Linux { .. } => "linux",
        }
    }
}

/// What makes the streams of Linux guests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Tool {
    /// iperf3, a stream without an end
    #[default]
    Iperf3,
    /// netperf's TCP_STREAM, where the image has it
    Netperf,
}

/// The parameters of an experiment.
#[derive(Clone, Debug)]
pub struct ExperimentPlan {
    /// Who talks.
    pub guests: Guests,
    /// Whether path `auto` is run, too.
    pub auto: bool,
    /// Seed of sequence numbers and start times.
    pub seed: u64,
    /// Streams from A to B, each between two guests of its own.
    pub a_to_b: u16,
    /// Streams from B to A.
    pub b_to_a: u16,
    /// The guests' MTU.
    pub mtu: u16,
    /// The wire between the hosts.
    pub link: LinkConfig,
    /// What becomes of frames on it, in both directions.
    pub netem: Option<NetemSpec>,
    /// How long to measure.
    pub measure: Nanos,
    /// How long to let TCP settle first.
    pub warm_up: Nanos,
    /// Receive window of a stream of embedded guests, in bytes; Linux has its own way.
    pub window: usize,
    /// What the NICs are like.
    pub profile: Profile,
    /// What guests leave to the NIC.
    pub offloads: Offloads,
    /// What Linux guests find on their VF.
    pub device: DeviceKind,
    /// Least time between two interrupts of a VF.
    pub moderation: Nanos,
    /// The cost of the hypervisor's work.
    pub cost: CostModel,
    /// Whether to find out how far the mediated figure depends on moderation and cost.
    pub sensitivity: bool,
}

impl Default for ExperimentPlan {
    fn default() -> ExperimentPlan {
        ExperimentPlan {
            guests: Guests::Embedded,
            auto: false,
            seed: 0,
            a_to_b: 4,
            b_to_a: 4,
            mtu: 1500,
            link: LinkConfig::default(),
            netem: None,
            measure: Nanos(2_000_000_000),
            warm_up: Nanos(200_000_000),
            window: 256 * 1024,
            profile: Profile::Generic,
            offloads: Offloads::Csum,
            device: DeviceKind::Virtio,
            moderation: Nanos(40_000),
            cost: CostModel::default(),
            sensitivity: false,
        }
    }
}

impl ExperimentPlan {
    /// Pairs of guests.
    #[must_use]
    pub fn pairs(&self) -> u16 {
        self.a_to_b + self.b_to_a
    }

    /// As the outcome shows it.
    #[must_use]
    pub fn view(&self) -> PlanView {
        PlanView {
            a_to_b_streams: self.a_to_b,
            b_to_a_streams: self.b_to_a,
            mtu: self.mtu,
            rate_mbps: self.link.rate_bps as f64 / 1e6,
            propagation_ns: self.link.propagation.0,
            netem: self.netem.as_ref().map(ToString::to_string),
            seconds: self.measure.0 as f64 / 1e9,
            warm_up_seconds: self.warm_up.0 as f64 / 1e9,
            tool: match self.guests {
                Guests::Embedded => None,
                Guests::Linux { tool, .. } => Some(tool),
            },
            window: matches!(self.guests, Guests::Embedded).then_some(self.window),
            profile: self.profile,
            offloads: self.offloads,
            device: self.device,
            interrupt_moderation_ns: self.moderation.0,
        }
    }
}
