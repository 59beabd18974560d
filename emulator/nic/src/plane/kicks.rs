//! The kick descriptors a sleeping plane waits on. Registers and deregisters; never reads a descriptor (edge-triggered).

use mio::unix::SourceFd;
use mio::{Interest, Registry};
use std::os::fd::{AsFd, AsRawFd};
use vf_vhost::vring::Vring;

use crate::uplink::ARRIVAL;

/// Where kicks are waited for; nowhere on the virtual clock.
#[derive(Default)]
pub(super) struct Kicks(Option<Registry>);

impl Kicks {
    /// Waits through this registry from now on.
    pub(super) fn connect(&mut self, registry: Registry) {
        self.0 = Some(registry);
    }

    /// Starts to wait for the ring's kicks.
    pub(super) fn add(&self, vring: &Vring) {
        let (Some(registry), Some(kick)) = (&self.0, vring.kick_fd()) else {
            return;
        };
        let fd = kick.as_fd().as_raw_fd();
        if let Err(error) = registry.register(&mut SourceFd(&fd), ARRIVAL, Interest::READABLE) {
            tracing::warn!(%error, "cannot wait for the kicks of ring {}", vring.index());
        }
    }

    /// Stops waiting, before the descriptor may be closed by somebody else.
    pub(super) fn remove(&self, vring: &Vring) {
        let (Some(registry), Some(kick)) = (&self.0, vring.kick_fd()) else {
            return;
        };
        let fd = kick.as_fd().as_raw_fd();
        // It was registered by `add`, or that failure has been logged.
        let _ = registry.deregister(&mut SourceFd(&fd));
    }
}
