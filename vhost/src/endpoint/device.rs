//! Who runs the rings of a device, and what is told of its sessions. Knows nothing of sockets.

use crate::control::CtrlCommand;
use crate::error::SessionRefusal;
use crate::features::VirtioFeatures;
use crate::vring::Vring;

/// What happened to a session; for log lines and figures.
#[derive(Debug)]
#[non_exhaustive]
pub enum SessionEvent<'a> {
    /// A front end has connected.
    Connected,
    /// The driver has acknowledged these virtio features.
    Negotiated {
        /// The feature bits.
        features: VirtioFeatures,
    },
    /// The driver has a control queue from now on, and these virtio features. It has asked for
    /// nothing; what one before it asked for is past since [`SessionEvent::Negotiated`],
    /// [`SessionEvent::Reset`] or [`SessionEvent::Disconnected`].
    Controlled {
        /// The feature bits.
        features: VirtioFeatures,
    },
    /// The driver has agreed to this MTU, that of the device or less (VIRTIO_NET_F_MTU): it is not to be given anything longer
    /// (virtio 5.1.4.1). Follows [`SessionEvent::Negotiated`] and [`SessionEvent::Controlled`].
    Mtu(u16),
    /// The front end has reset the device; its rings have been stopped.
    Reset,
    /// Whether what the device writes is logged from now on: the guest is being migrated. Past, too, with
    /// [`SessionEvent::Disconnected`].
    Logging(bool),
    /// The guest with this station address has migrated to here, and others are to know of it (vhost-user SEND_RARP).
    Announce([u8; 6]),
    /// A request was refused; the session goes on unless [`SessionEvent::Disconnected`] follows.
    Refused {
        /// Why.
        what: &'a SessionRefusal,
    },
    /// The session is over, and all its rings have been stopped.
    Disconnected {
        /// `None`: the front end hung up.
        why: Option<&'a SessionRefusal>,
    },
}

/// Who runs the rings of a device.
pub trait Device {
    /// These rings may run from now on. Whether frames flow is in [`Vring::enabled`]: a disabled
    /// transmit ring is drained and its frames discarded, a disabled receive ring gets none.
    fn start_rings(&mut self, rings: Vec<Vring>);

    /// Takes rings back, in this order; nobody touches them when this returns. `None` for one that is gone,
    /// because it was broken.
    fn stop_rings(&mut self, rings: &[u32]) -> Vec<Option<Vring>>;

    /// Whether the driver may give one more command that has rings stopped for a moment: others' are held up by it, too.
    fn allows(&mut self) -> bool;

    /// Does what the driver asks for; `false` if it may not have it, and then nothing has changed.
    fn command(&mut self, command: &CtrlCommand) -> bool;

    /// Hears what happens.
    fn session(&mut self, event: SessionEvent<'_>);
}
