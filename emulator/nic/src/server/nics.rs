//! The NICs as requests at the control socket find them, on this machine's clock. Reads no request.

use std::convert::Infallible;
use std::ops::Deref;
use std::os::fd::OwnedFd;
use std::os::unix::net::{SocketAddr, UnixStream};

use rustix::process::Uid;
use vf_model::{Nanos, VfIndex};
use vf_vhost::closer::Aside;
use vf_vhost::tap;

use super::far_ends::FarEnds;
use super::sockets::{Sockets, new_sockets, serve_socket};
use crate::control::{Change, Nics};
use crate::instance::NicInstance;
use crate::sandbox::Sandbox;
use crate::tap_port::TapDevice;

/// The NICs as requests find them: planes go on by themselves, and take a new policy when they see it.
pub(super) struct OnWallClock<'a> {
    pub(super) now: Nanos,
    pub(super) hosts: &'a mut [NicInstance],
    pub(super) links: &'a mut FarEnds,
    /// For new VFs.
    pub(super) sockets: Sockets<'a>,
    /// Whether a command has changed something.
    pub(super) changed: bool,
    /// Descriptors that have come with the request.
    pub(super) brought: Vec<Aside<OwnedFd>>,
    /// Whose process it is, if that is known.
    pub(super) asked_by: Option<Uid>,
    /// Who is to have everything.
    pub(super) wants_all: Option<UnixStream>,
}

impl Nics for OnWallClock<'_> {
    type Error = Infallible;

    fn now(&self) -> Nanos {
        self.now
    }

    fn nics(&self) -> impl Iterator<Item = impl Deref<Target = NicInstance>> {
        self.hosts.iter()
    }

    fn change(&mut self, changes: Vec<Change>) -> Result<Result<Vec<String>, String>, Infallible> {
        let mut sockets = Vec::new();
        for Change { nic, policy, .. } in &changes {
            if let Some(host) = self.hosts.get(*nic) {
                match new_sockets(*nic, host, policy, self.sockets) {
                    Ok(new) => sockets.extend(new.into_iter().map(|(vf, new)| (*nic, vf, new))),
                    Err(why) => return Ok(Err(format!("{}: {why}", host.settings.name))),
                }
            }
        }
        self.changed = true;
        let mut notes = Vec::new();
        for Change {
            nic, policy, said, ..
        } in changes
        {
            if let Some(host) = self.hosts.get_mut(nic) {
                notes.extend(host.set_policy(policy));
                let device = host.settings.name.as_str();
                tracing::info!(device, "{said}");
                if let Some(peer) = host.peer
                    && let Ok([near, far]) = self.hosts.get_disjoint_mut([nic, peer])
                {
                    notes.extend(near.share_carrier(far));
                }
            }
        }
        for (nic, vf, socket) in sockets {
            if let Some(host) = self.hosts.get_mut(nic) {
                serve_socket(host, vf, socket);
            }
        }
        self.links.make_alike(self.hosts);
        Ok(Ok(notes))
    }

    fn set_tap(&mut self, nic: usize, vf: VfIndex, tap: Option<TapDevice>) -> Result<(), String> {
        let host = self.hosts.get_mut(nic).ok_or("there is no such NIC")?;
        match tap {
            Some(tap) => {
                let queues = std::mem::take(&mut self.brought);
                if queues.is_empty() || !queues.iter().all(|queue| tap::is_device(&**queue)) {
                    return Err("no descriptor of a tap device has come along".to_owned());
                }
                let queues = queues.into_iter().map(Aside::into_inner).collect();
                // The thread is started by this one, and so in its sandbox.
                host.attach_tap(vf, tap, queues, Sandbox::Off)?;
            }
            None => host.detach_tap(vf),
        }
        self.changed = true;
        Ok(())
    }

    fn hand_over(&mut self) -> Result<(), String> {
        let brought = self.brought.pop();
        let brought = brought.ok_or("no socket has come along on which it could be sent")?;
        // Who may change settings has not got guests' memory, and not root either: whoever goes on would be root from then on. A socket's other end
        // that is not the asker's may be anybody's, if it has a name by which to connect.
        let stream = UnixStream::from(brought.into_inner());
        let peer = rustix::net::sockopt::socket_peercred(&stream).map(|peer| peer.uid);
        let own = rustix::process::geteuid();
        let names = [stream.local_addr(), stream.peer_addr()];
        let is_pair = names
            .iter()
            .all(|name| name.as_ref().is_ok_and(SocketAddr::is_unnamed));
        if [self.asked_by, peer.ok()] != [Some(own); 2] || !is_pair {
            return Err(format!(
                "only its own user can go on where it is: run this as user {own}"
            ));
        }
        if let Some(what) = self.hosts.iter().find_map(NicInstance::keeps_back) {
            return Err(format!(
                "{what} cannot be handed over to another process: restart this one"
            ));
        }
        self.wants_all = Some(stream);
        Ok(())
    }
}
