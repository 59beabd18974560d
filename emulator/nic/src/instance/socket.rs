//! The socket of a VF: for a front end of vhost-user, or for a client of vfio-user. Which of the two is as its device is; what is alike in both is
//! here. Makes no decision.

use std::io;
use std::time::Instant;

use mio::{Registry, Token};
use vf_model::VfIndex;
use vf_pci::vfio_user;
use vf_vhost::endpoint::{Endpoint, SessionRefusal};

use super::{NicInstance, Vf};

/// See the module.
#[derive(Debug)]
pub enum VfSocket {
    /// Of a virtio device: vhost-user.
    VhostUser(Box<Endpoint>),
    /// Of a PCI function with registers: vfio-user.
    VfioUser(Box<vfio_user::endpoint::Endpoint>),
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
        }
    }

    /// When it is to be served even if nothing comes.
    #[must_use]
    pub fn next_timer(&self) -> Option<Instant> {
        match self {
            VfSocket::VhostUser(endpoint) => endpoint.next_timer(),
            VfSocket::VfioUser(endpoint) => endpoint.next_timer(),
        }
    }

    /// Whether somebody is served.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        match self {
            VfSocket::VhostUser(endpoint) => endpoint.is_connected(),
            VfSocket::VfioUser(endpoint) => endpoint.is_connected(),
        }
    }

    /// Sessions begun so far.
    #[must_use]
    pub fn sessions(&self) -> u64 {
        match self {
            VfSocket::VhostUser(endpoint) => endpoint.sessions(),
            VfSocket::VfioUser(endpoint) => endpoint.sessions(),
        }
    }

    /// Requests refused so far.
    #[must_use]
    pub fn refusals(&self) -> u64 {
        match self {
            VfSocket::VhostUser(endpoint) => endpoint.refusals(),
            VfSocket::VfioUser(endpoint) => endpoint.refusals(),
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

    /// The same, to be changed.
    pub fn endpoint_mut(&mut self) -> Option<&mut Endpoint> {
        match &mut self.socket {
            Some(VfSocket::VhostUser(endpoint)) => Some(endpoint),
            _ => None,
        }
    }

    /// Its socket, if that is for clients of vfio-user.
    #[must_use]
    pub fn function(&self) -> Option<&vfio_user::endpoint::Endpoint> {
        match &self.socket {
            Some(VfSocket::VfioUser(endpoint)) => Some(endpoint),
            _ => None,
        }
    }
}

impl NicInstance {
    /// Serves a VF's socket, whatever it is for.
    pub fn poll(&mut self, vf: VfIndex, now: Instant) {
        if self
            .serve(vf, |endpoint, device| endpoint.poll(now, device))
            .is_none()
        {
            self.serve_function(vf, |endpoint, device| endpoint.poll(now, device));
        }
    }

    /// Ends the session of a VF, if there is one.
    pub fn close_session(&mut self, vf: VfIndex) {
        let now = Instant::now();
        let closed = self.serve(vf, |endpoint, device| {
            endpoint.close_session(SessionRefusal::Closed, now, device);
        });
        if closed.is_none() {
            self.serve_function(vf, |endpoint, device| endpoint.close_session(now, device));
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
