//! What to run: the 2009 experiment unless told otherwise.

use vf_model::{CostModel, LinkConfig, Nanos};

use super::outcome::PlanView;

/// Guests of a pair get addresses in 10.0.0.0/16, so at most this many pairs.
pub const MAX_PAIRS: u16 = 64;

/// The parameters of an experiment.
#[derive(Clone, Debug)]
pub struct Plan {
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
    /// How long to measure.
    pub measure: Nanos,
    /// How long to let TCP settle first.
    pub warm_up: Nanos,
    /// Receive window of a stream, in bytes.
    pub window: usize,
    /// Whether guests leave segmentation to the NIC.
    pub tso: bool,
    /// Least time between two interrupts of a VF.
    pub moderation: Nanos,
    /// The cost of the hypervisor's work.
    pub cost: CostModel,
}

impl Default for Plan {
    fn default() -> Plan {
        Plan {
            seed: 0,
            a_to_b: 4,
            b_to_a: 4,
            mtu: 1500,
            link: LinkConfig::default(),
            measure: Nanos(2_000_000_000),
            warm_up: Nanos(200_000_000),
            window: 256 * 1024,
            tso: false,
            moderation: Nanos(20_000),
            cost: CostModel::default(),
        }
    }
}

impl Plan {
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
            seconds: self.measure.0 as f64 / 1e9,
            warm_up_seconds: self.warm_up.0 as f64 / 1e9,
            window: self.window,
            tso: self.tso,
            interrupt_moderation_ns: self.moderation.0,
        }
    }
}
