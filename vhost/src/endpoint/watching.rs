//! What an endpoint has mio report to it: sockets, and the kicks that nobody else waits for. Reads no message.

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::time::Instant;

use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};

use super::{Connection, Device, Endpoint, Role};
use crate::error::SessionRefusal;
use crate::eventfd::EventFd;

impl Endpoint {
    /// Starts the rings that were kicked for the first time. Who does not [`Endpoint::register`] is not told of kicks, and has
    /// them at once.
    pub(super) fn start_kicked(
        &mut self,
        now: Instant,
        dev: &mut dyn Device,
    ) -> Result<(), SessionRefusal> {
        let told = self.registration.is_some();
        let Some(connection) = &mut self.connection else {
            return Ok(());
        };
        let unkicked = connection.session.unkicked();
        let kicked: Vec<u32> = unkicked
            .filter(|(_, kick)| !told || kick.is_pending())
            .map(|(ring, _)| ring)
            .collect();
        for ring in kicked {
            if let Some(connection) = &mut self.connection {
                connection.session.kicked(ring);
            }
            self.act(now, dev)?;
        }
        Ok(())
    }

    /// Has mio report the first kicks of the rings that wait for them.
    pub(super) fn watch_first_kicks(&mut self) {
        let (Some((registry, token)), Some(connection)) =
            (&self.registration, &mut self.connection)
        else {
            return;
        };
        let Connection {
            session,
            first_kicks,
            ..
        } = connection;
        let same = |a: &EventFd, b: &EventFd| a.as_raw_fd() == b.as_raw_fd();
        first_kicks.retain(|kick| {
            let waits = session.unkicked().any(|(_, unkicked)| same(kick, unkicked));
            if !waits {
                unwatch(registry, Some(kick.clone()));
            }
            waits
        });
        for (_, unkicked) in session.unkicked() {
            if first_kicks.iter().any(|kick| same(kick, unkicked)) {
                continue;
            }
            match watch(registry, unkicked.as_raw_fd(), *token) {
                Ok(()) => first_kicks.push(unkicked.clone()),
                Err(why) => {
                    let device = self.config.name.as_str();
                    tracing::warn!(device, %why, "cannot wait for the first kick of a ring");
                }
            }
        }
    }

    /// Has mio report the kick of the control queue that runs, and no other.
    pub(super) fn watch_control(&mut self) {
        let (Some((registry, token)), Some(connection)) =
            (&self.registration, &mut self.connection)
        else {
            return;
        };
        let kick = connection.session.control_kick();
        let fd = |kick: &EventFd| kick.as_raw_fd();
        if kick.map(fd) == connection.control_kick.as_ref().map(fd) {
            return;
        }
        let kick = kick.cloned();
        unwatch(registry, connection.control_kick.take());
        match kick
            .as_ref()
            .map_or(Ok(()), |kick| watch(registry, fd(kick), *token))
        {
            Ok(()) => connection.control_kick = kick,
            Err(why) => {
                let device = self.config.name.as_str();
                tracing::warn!(device, %why, "cannot wait for the control queue");
            }
        }
    }

    /// Has mio report again what was left undone: it tells of each arrival once.
    pub(super) fn rearm(&self) {
        let Some((registry, token)) = &self.registration else {
            return;
        };
        let listener = match &self.role {
            Role::Server(listener) => Some(listener.as_raw_fd()),
            _ => None,
        };
        let channel = self
            .connection
            .as_ref()
            .map(|connection| connection.channel.as_raw_fd());
        for fd in [listener, channel].into_iter().flatten() {
            let _ = registry.reregister(&mut SourceFd(&fd), *token, Interest::READABLE);
        }
    }
}

pub(super) fn watch(registry: &Registry, fd: RawFd, token: Token) -> io::Result<()> {
    registry.register(&mut SourceFd(&fd), token, Interest::READABLE)
}

/// To close it would not do: the front end has the same open file.
pub(super) fn unwatch(registry: &Registry, kick: Option<EventFd>) {
    if let Some(kick) = kick {
        let _ = registry.deregister(&mut SourceFd(&kick.as_raw_fd()));
    }
}
