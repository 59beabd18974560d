//! The hash of its flow that a NIC tells of each received frame (RSS), as the NIC's policy has it now. Chooses no queue.

use std::sync::Arc;

use arc_swap::ArcSwapOption;
use vf_model::Rss;
use vf_vhost::hardware::RxHash;

use crate::function::Host;

/// See the module. What a function has said last holds for all its rings, on whatever thread they are.
#[derive(Debug, Default)]
pub(crate) struct FlowHash(ArcSwapOption<Rss>);

impl FlowHash {
    /// The hash that spreads the flows of the function's VF is told from now on, or none.
    pub(crate) fn set(&self, told: bool, host: &dyn Host) {
        let rss = told.then(|| Arc::new(host.policy().rss(host.vf()).clone()));
        self.0.store(rss);
    }

    /// Whether one is told.
    pub(crate) fn is_told(&self) -> bool {
        self.0.load().is_some()
    }

    /// That of a frame that begins with `head`; none of what is not IP.
    pub(crate) fn of(&self, head: &[u8]) -> Option<RxHash> {
        let rss = self.0.load();
        let (value, flow) = rss.as_ref()?.hash(head)?;
        Some(RxHash {
            value,
            ports: flow.ports.is_some(),
        })
    }
}
