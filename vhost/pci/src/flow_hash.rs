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

    /// What a ring knows of it.
    pub(crate) fn of_ring(self: &Arc<FlowHash>) -> RingHash {
        RingHash {
            function: Arc::clone(self),
            now: None,
        }
    }
}

/// What a ring knows of its function's.
#[derive(Debug)]
pub(crate) struct RingHash {
    function: Arc<FlowHash>,
    now: Option<Arc<Rss>>,
}

impl RingHash {
    /// Looks what is told from now on; whether any hash is.
    pub(crate) fn update(&mut self) -> bool {
        self.now = self.function.0.load_full();
        self.now.is_some()
    }

    /// That of a frame that begins with `head`; none of what is not IP.
    pub(crate) fn of(&self, head: &[u8]) -> Option<RxHash> {
        let (value, flow) = self.now.as_ref()?.hash(head)?;
        Some(RxHash {
            value,
            ports: flow.ports.is_some(),
        })
    }
}
