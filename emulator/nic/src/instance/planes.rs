//! The planes of a NIC before anybody owns them. Moves no ring.

use std::sync::Arc;

use vf_model::{LinkConfig, Nanos, Refusal, VfIndex};

use crate::config::{NicSettings, initial_policy};
use crate::plane::{DirectPlane, MediatedPlane, PolicyCell};
use crate::queue::{PfEnd, Pool};
use crate::uplink::Uplink;

/// The planes of a host, before anybody owns them.
pub struct Planes {
    /// The direct path, by worker.
    pub workers: Vec<DirectPlane>,
    /// The mediated path.
    pub hypervisor: MediatedPlane,
    /// What they judge by.
    pub policies: PolicyCell,
}

impl Planes {
    /// Planes for a NIC with its initial policies, without rings.
    ///
    /// # Errors
    /// The refusal of an initial setting, with its VF.
    pub fn new(
        settings: &NicSettings,
        workers: usize,
        uplink: Option<Box<dyn Uplink>>,
        pool: &Pool,
        cost: Option<vf_model::CostModel>,
    ) -> Result<Planes, (VfIndex, Refusal)> {
        let rate = uplink.as_ref().map(|uplink| uplink.link().rate_bps());
        let rate = rate.unwrap_or(LinkConfig::default().rate_bps);
        let refused = |refusal| (VfIndex::default(), refusal);
        let policy = initial_policy(settings)?.with_port_rate(rate);
        let policies = PolicyCell::new(Arc::new(policy.map_err(refused)?));
        let (nic_end, hypervisor_end) = PfEnd::pair();
        Ok(Planes {
            workers: DirectPlane::team(&policies, workers, nic_end, uplink, pool),
            hypervisor: MediatedPlane::new(&policies, hypervisor_end, pool.clone(), cost),
            policies,
        })
    }
}

impl Planes {
    /// Which NIC of its process it is, so that the same seed gives each other impairments; `slack` is how far ahead of now its
    /// transmitter may be filled.
    pub fn set_place(&mut self, nic: usize, slack: Nanos) {
        let workers = self.workers.iter_mut();
        workers.for_each(|worker| worker.set_place(nic, slack));
        self.hypervisor.set_place(nic);
    }
}
