//! When the control thread looks at what a VF's front end and its monitor say, by the time that it has had of the thread. Never looks itself.

use std::time::{Duration, Instant};

use vf_vhost::watchdog::thread_time;

use super::share::TimeShare;
use crate::instance::VfSocket;
use crate::qmp::Monitor;

/// A VF's turns on the control thread.
#[derive(Clone, Copy, Default)]
pub(super) struct VfTurns {
    share: TimeShare,
    /// When it has another one, if something has come that waits for that.
    waits_until: Option<Instant>,
    /// The same of what its monitor has said.
    hears_at: Option<Instant>,
}

impl VfTurns {
    /// Whether its socket is to be served now, and not later.
    pub(super) fn may_be_served(&mut self, now: Instant) -> bool {
        self.waits_until = self.share.waits_until(now);
        self.waits_until.is_none()
    }

    /// The same of its monitor.
    pub(super) fn may_be_heard(&mut self, now: Instant) -> bool {
        self.hears_at = self.share.waits_until(now);
        self.hears_at.is_none()
    }

    /// When to serve the VF's socket though nothing comes.
    pub(super) fn next(&self, socket: Option<&VfSocket>) -> Option<Instant> {
        let timer = || socket.and_then(VfSocket::next_timer);
        self.waits_until.or_else(timer)
    }

    /// When to hear its monitor though nothing comes.
    pub(super) fn hears(&self, monitor: Option<&Monitor>) -> Option<Instant> {
        self.hears_at
            .or_else(|| monitor.and_then(Monitor::next_timer))
    }

    /// Counts a turn that began when the thread had had so much time.
    pub(super) fn count(&mut self, before: Duration) {
        let took = thread_time().saturating_sub(before);
        self.share.count(Instant::now(), took);
    }
}
