//! The kick descriptors a sleeping plane waits on. Registers and deregisters; never reads a descriptor (edge-triggered).

use mio::unix::SourceFd;
use mio::{Interest, Registry};
use std::os::fd::{AsFd, AsRawFd, RawFd};
use vf_model::Nanos;
use vf_vhost::vring::Vring;

use crate::uplink::ARRIVAL;

/// How often rings without a kick descriptor are looked at by a plane that sleeps.
pub(super) const POLLED: Nanos = Nanos(200_000);

/// Where kicks are waited for; nowhere on the virtual clock.
#[derive(Default)]
pub(super) struct Kicks {
    registry: Option<Registry>,
    /// Rings whose drivers have nothing to kick with, and those whose kicks cannot be waited for.
    polled: usize,
    /// The descriptors of those.
    unheard: Vec<RawFd>,
}

impl Kicks {
    /// Waits through this registry from now on.
    pub(super) fn connect(&mut self, registry: Registry) {
        self.registry = Some(registry);
    }

    /// Whether there are rings of which nobody says when there is something in them, so that whoever sleeps is to look now and
    /// then (vhost-user SET_VRING_KICK: polling is used without a descriptor). On the virtual clock the calendar looks.
    pub(super) fn must_poll(&self) -> bool {
        self.polled > 0 && self.registry.is_some()
    }

    /// Starts to wait for the ring's kicks.
    pub(super) fn add(&mut self, vring: &Vring) {
        let Some(kick) = vring.kick_fd() else {
            self.polled += 1;
            return;
        };
        let Some(registry) = &self.registry else {
            return;
        };
        let fd = kick.as_fd().as_raw_fd();
        if let Err(error) = registry.register(&mut SourceFd(&fd), ARRIVAL, Interest::READABLE) {
            // The system has no more watches for this user, for one.
            let ring = vring.index();
            tracing::warn!(%error, "cannot wait for the kicks of ring {ring}: it is looked at 5000 times a second");
            self.unheard.push(fd);
            self.polled += 1;
        }
    }

    /// Stops waiting, before the descriptor may be closed by somebody else.
    pub(super) fn remove(&mut self, vring: &Vring) {
        let Some(kick) = vring.kick_fd() else {
            self.polled = self.polled.saturating_sub(1);
            return;
        };
        let Some(registry) = &self.registry else {
            return;
        };
        let fd = kick.as_fd().as_raw_fd();
        if let Some(at) = self.unheard.iter().position(|unheard| *unheard == fd) {
            self.unheard.swap_remove(at);
            self.polled = self.polled.saturating_sub(1);
            return;
        }
        // It was registered by `add`.
        let _ = registry.deregister(&mut SourceFd(&fd));
    }
}
