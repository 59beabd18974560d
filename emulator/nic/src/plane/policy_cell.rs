//! Where the policy of a NIC is published: the control thread puts in a new one, and each plane takes it behind its next look for
//! frames: a frame that was sent after a policy was published is judged by that policy, or by a newer one. Nobody waits for anybody, and to find
//! nothing new costs a plane one load.

use std::sync::Arc;

use arc_swap::{ArcSwap, Cache};
use vf_model::{Judge, Policy};

/// The policy in force. All copies of it are the same cell.
#[derive(Clone, Debug)]
pub struct PolicyCell(Arc<ArcSwap<Policy>>);

impl PolicyCell {
    /// A cell with a policy in it.
    #[must_use]
    pub fn new(policy: Arc<Policy>) -> PolicyCell {
        PolicyCell(Arc::new(ArcSwap::new(policy)))
    }

    /// The policy that was published last.
    #[must_use]
    pub fn load(&self) -> Arc<Policy> {
        self.0.load_full()
    }

    /// Has all planes judge what they find from now on by this policy. Made of the one that is in force: only one thread may
    /// make new ones.
    pub fn publish(&self, policy: Policy) -> Arc<Policy> {
        let policy = Arc::new(policy);
        self.0.store(Arc::clone(&policy));
        policy
    }

    /// A plane's view of the cell.
    #[must_use]
    pub fn subscribe(&self) -> PolicySubscriber {
        PolicySubscriber(Cache::new(Arc::clone(&self.0)))
    }
}

/// A plane's view of the policy in force.
pub struct PolicySubscriber(Cache<Arc<ArcSwap<Policy>>, Arc<Policy>>);

impl PolicySubscriber {
    /// Has a plane's model judge by the policy that was published last; whether that is another than before.
    #[inline]
    pub fn update(&mut self, model: &mut impl Judge) -> bool {
        let policy = self.0.load();
        let new = !Arc::ptr_eq(policy, model.policy());
        if new {
            model.adopt(Arc::clone(policy));
        }
        new
    }

    /// Whether a policy was published that the plane's model does not judge by yet.
    pub fn has_new(&mut self, model: &impl Judge) -> bool {
        !Arc::ptr_eq(self.0.load(), model.policy())
    }
}
