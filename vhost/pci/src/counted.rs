//! A NIC whose queues' starts and stops are counted: they take the thread that runs them, and others' queues with them, some
//! microseconds each time. Whoever serves a guest stops for a while when there were too many. Never refuses one.

use std::sync::Arc;
use std::time::Instant;

use vf_model::{Counters, MailboxRequest, Policy, VfIndex};
use vf_vhost::change_limiter::ChangeLimiter;
use vf_vhost::error::RingError;
use vf_vhost::vring::Vring;

use crate::function::{Host, NotGranted};

/// See the module.
pub(crate) struct Counted<'a> {
    pub(crate) host: &'a mut dyn Host,
    pub(crate) changes: &'a mut ChangeLimiter,
    pub(crate) now: Instant,
}

impl Host for Counted<'_> {
    fn start_queues(&mut self, queues: Vec<Vring>) {
        self.changes.count(self.now);
        self.host.start_queues(queues);
    }

    fn stop_queues(&mut self, queues: &[u32]) -> Vec<Option<Vring>> {
        self.changes.count(self.now);
        self.host.stop_queues(queues)
    }

    fn cannot_run(&mut self, queue: u32, why: &RingError) {
        self.host.cannot_run(queue, why);
    }

    fn request(&mut self, request: &MailboxRequest) -> Result<(), NotGranted> {
        self.host.request(request)
    }

    fn policy(&self) -> Arc<Policy> {
        self.host.policy()
    }

    fn vf(&self) -> VfIndex {
        self.host.vf()
    }

    fn speed_mbps(&self) -> u32 {
        self.host.speed_mbps()
    }

    fn counters(&self) -> Counters {
        self.host.counters()
    }
}
