//! The socket of a VF: for a front end of vhost-user, for a client of vfio-user, or for the PCI bus of User-Mode Linux. What is alike in them is
//! here. Makes no decision.

use std::io;
use std::os::fd::BorrowedFd;
use std::time::Instant;

use mio::{Registry, Token};
use vf_model::VfIndex;
use vf_pci::slot::Slot;
use vf_pci::{pcidev, vfio_user};
use vf_vhost::endpoint::{BindError, DeviceConfig, Endpoint, SessionRefusal};
use vf_vhost::features::ProtocolFeatures;

use super::{NicInstance, Vf};
use crate::config::VfSettings;

/// See the module.
#[derive(Debug)]
pub enum VfSocket {
    /// Of a virtio device: vhost-user.
    VhostUser(Box<Endpoint>),
    /// Of a PCI function with registers: vfio-user.
    VfioUser(Box<vfio_user::endpoint::Endpoint>),
    /// Of the same, on the PCI bus of User-Mode Linux: vhost-user.
    Pcidev(Box<pcidev::endpoint::Endpoint>),
}

impl From<Endpoint> for VfSocket {
    fn from(endpoint: Endpoint) -> VfSocket {
        VfSocket::VhostUser(Box::new(endpoint))
    }
}

impl From<vfio_user::endpoint::Endpoint> for VfSocket {
    fn from(endpoint: vfio_user::endpoint::Endpoint) -> VfSocket {
        VfSocket::VfioUser(Box::new(endpoint))
    }
}

impl VfSocket {
    /// Has `registry` report `token` when something comes.
    ///
    /// # Errors
    /// The process or the system has too many open files.
    pub fn register(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        match self {
            VfSocket::VhostUser(endpoint) => endpoint.register(registry, token),
            VfSocket::VfioUser(endpoint) => endpoint.register(registry, token),
            VfSocket::Pcidev(endpoint) => endpoint.register(registry, token),
        }
    }

    /// When it is to be served even if nothing comes.
    #[must_use]
    pub fn next_timer(&self) -> Option<Instant> {
        match self {
            VfSocket::VhostUser(endpoint) => endpoint.next_timer(),
            VfSocket::VfioUser(endpoint) => endpoint.next_timer(),
            VfSocket::Pcidev(endpoint) => endpoint.next_timer(),
        }
    }

    /// Whether somebody is served.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        match self {
            VfSocket::VhostUser(endpoint) => endpoint.is_connected(),
            VfSocket::VfioUser(endpoint) => endpoint.is_connected(),
            VfSocket::Pcidev(endpoint) => endpoint.is_connected(),
        }
    }

    /// Sessions begun so far.
    #[must_use]
    pub fn sessions(&self) -> u64 {
        match self {
            VfSocket::VhostUser(endpoint) => endpoint.sessions(),
            VfSocket::VfioUser(endpoint) => endpoint.sessions(),
            VfSocket::Pcidev(endpoint) => endpoint.sessions(),
        }
    }

    /// The function behind it, if the VF is hardware to its guest.
    #[must_use]
    pub fn slot(&self) -> Option<&Slot> {
        match self {
            VfSocket::VhostUser(_) => None,
            VfSocket::VfioUser(endpoint) => Some(endpoint.slot()),
            VfSocket::Pcidev(endpoint) => Some(endpoint.slot()),
        }
    }

    /// Requests refused so far.
    #[must_use]
    pub fn refusals(&self) -> u64 {
        match self {
            VfSocket::VhostUser(endpoint) => endpoint.refusals(),
            VfSocket::VfioUser(endpoint) => endpoint.refusals(),
            VfSocket::Pcidev(endpoint) => endpoint.refusals(),
        }
    }
}

/// Kicks and calls that are messages, for whoever serves sockets on a clock of its own.
impl VfSocket {
    /// Waits for a guest of User-Mode Linux on a VF's socket.
    ///
    /// # Errors
    /// As of [`Endpoint::listen`].
    pub fn in_band(vf: &VfSettings, mut device: DeviceConfig) -> Result<VfSocket, BindError> {
        device.protocol_features |= ProtocolFeatures::INBAND_NOTIFICATIONS;
        Ok(match vf.device.function(device.queue_pairs) {
            None => Endpoint::listen(&vf.socket, device)?.into(),
            Some(function) => {
                let (path, name) = (&vf.socket, device.name);
                let endpoint = pcidev::endpoint::Endpoint::listen(path, name, function, true)?;
                VfSocket::Pcidev(Box::new(endpoint))
            }
        })
    }

    /// The socket on which something to [`NicInstance::poll`] for may arrive.
    #[must_use]
    pub fn socket(&self) -> Option<BorrowedFd<'_>> {
        match self {
            VfSocket::VhostUser(endpoint) => endpoint.socket(),
            VfSocket::Pcidev(endpoint) => endpoint.socket(),
            VfSocket::VfioUser(_) => None,
        }
    }

    /// The socket on which something to [`NicInstance::hear_replies`] for may arrive.
    #[must_use]
    pub fn awaited_reply(&self) -> Option<BorrowedFd<'_>> {
        match self {
            VfSocket::VhostUser(endpoint) => endpoint.awaited_reply(),
            VfSocket::Pcidev(endpoint) => endpoint.awaited_reply(),
            VfSocket::VfioUser(_) => None,
        }
    }

    /// Whether a call has still to be answered.
    #[must_use]
    pub fn awaits_reply(&self) -> bool {
        match self {
            VfSocket::VhostUser(endpoint) => endpoint.awaits_reply(),
            VfSocket::Pcidev(endpoint) => endpoint.awaits_reply(),
            VfSocket::VfioUser(_) => false,
        }
    }

    /// Whether a kick waits to be taken care of.
    #[must_use]
    pub fn is_kicked(&self) -> bool {
        match self {
            VfSocket::VhostUser(endpoint) => endpoint.kick().is_some(),
            VfSocket::Pcidev(endpoint) => endpoint.kick().is_some(),
            VfSocket::VfioUser(_) => false,
        }
    }
}

impl Vf {
    /// Its socket, if that is for front ends of vhost-user.
    #[must_use]
    pub fn endpoint(&self) -> Option<&Endpoint> {
        match &self.socket {
            Some(VfSocket::VhostUser(endpoint)) => Some(endpoint),
            _ => None,
        }
    }

    /// Takes its socket away, and keeps what that has counted.
    pub(super) fn drop_socket(&mut self) {
        self.before = [self.sessions(), self.refusals()];
        self.socket = None;
    }

    /// Sessions begun so far, on any of its sockets.
    #[must_use]
    pub fn sessions(&self) -> u64 {
        let now = self.socket.as_ref().map_or(0, VfSocket::sessions);
        self.before[0].saturating_add(now)
    }

    /// Requests refused so far, likewise.
    #[must_use]
    pub fn refusals(&self) -> u64 {
        let now = self.socket.as_ref().map_or(0, VfSocket::refusals);
        self.before[1].saturating_add(now)
    }
}

impl NicInstance {
    /// Serves a VF's socket, whatever it is for.
    pub fn poll(&mut self, vf: VfIndex, now: Instant) {
        match self.attended(vf) {
            Some((VfSocket::VhostUser(endpoint), mut device)) => endpoint.poll(now, &mut device),
            Some((VfSocket::VfioUser(endpoint), mut device)) => endpoint.poll(now, &mut device),
            Some((VfSocket::Pcidev(endpoint), mut device)) => endpoint.poll(now, &mut device),
            None => {}
        }
    }

    /// Ends the session of a VF, if there is one.
    pub fn close_session(&mut self, vf: VfIndex) {
        let now = Instant::now();
        match self.attended(vf) {
            Some((VfSocket::VhostUser(endpoint), mut device)) => {
                endpoint.close_session(SessionRefusal::Closed, now, &mut device);
            }
            Some((VfSocket::VfioUser(endpoint), mut device)) => {
                endpoint.close_session(now, &mut device);
            }
            Some((VfSocket::Pcidev(endpoint), mut device)) => {
                endpoint.close_session(now, &mut device);
            }
            None => {}
        }
    }

    /// Tells the function on a VF that its NIC is another one for its driver, or `restart`s it; whether there is a function.
    pub(super) fn tell_function(&mut self, vf: VfIndex, restart: bool) -> bool {
        match self.attended(vf) {
            Some((VfSocket::VfioUser(endpoint), mut device)) => match restart {
                true => endpoint.reset(&mut device),
                false => endpoint.changed(&mut device),
            },
            Some((VfSocket::Pcidev(endpoint), mut device)) => match restart {
                true => endpoint.restart(&mut device),
                false => endpoint.changed(&mut device),
            },
            Some((VfSocket::VhostUser(_), _)) | None => return false,
        }
        true
    }

    /// Does what a kick in band asks for of a function, behind which the NIC has work.
    pub fn obey_kick(&mut self, vf: VfIndex) {
        if let Some((VfSocket::Pcidev(endpoint), mut device)) = self.attended(vf) {
            endpoint.obey(&mut device);
        }
    }

    /// Lets whoever kicked in band go on.
    pub fn acknowledge_kick(&mut self, vf: VfIndex, now: Instant) {
        match self.attended(vf) {
            Some((VfSocket::VhostUser(endpoint), mut device)) => {
                endpoint.acknowledge_kick(now, &mut device);
            }
            Some((VfSocket::Pcidev(endpoint), mut device)) => {
                endpoint.acknowledge_kick(now, &mut device);
            }
            Some((VfSocket::VfioUser(_), _)) | None => {}
        }
    }

    /// Takes answers to calls, and nothing else.
    pub fn hear_replies(&mut self, vf: VfIndex, now: Instant) {
        match self.attended(vf) {
            Some((VfSocket::VhostUser(endpoint), mut device)) => {
                endpoint.hear_replies(now, &mut device);
            }
            Some((VfSocket::Pcidev(endpoint), mut device)) => {
                endpoint.hear_replies(now, &mut device);
            }
            Some((VfSocket::VfioUser(_), _)) | None => {}
        }
    }

    /// Whether the function on a VF interrupts its guest.
    #[must_use]
    pub fn wants_call(&self, vf: VfIndex) -> bool {
        let socket = self.vfs.get(vf.index()).and_then(|vf| vf.socket.as_ref());
        matches!(socket, Some(VfSocket::Pcidev(endpoint)) if endpoint.wants_call())
    }

    /// Interrupts the guest on a VF in band, for this ring if it has virtqueues; whether it is called.
    pub fn call(&mut self, vf: VfIndex, ring: u32) -> bool {
        match self.attended(vf) {
            Some((VfSocket::VhostUser(endpoint), _)) => endpoint.call(ring),
            Some((VfSocket::Pcidev(endpoint), _)) => {
                endpoint.call();
                endpoint.awaits_reply()
            }
            Some((VfSocket::VfioUser(_), _)) | None => false,
        }
    }

    /// Whether somebody is served on a VF's socket.
    #[must_use]
    pub fn is_connected(&self, vf: VfIndex) -> bool {
        let socket = self
            .vfs
            .get(vf.index())
            .and_then(|place| place.socket.as_ref());
        socket.is_some_and(VfSocket::is_connected)
    }
}
