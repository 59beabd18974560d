//! An endpoint that another process goes on with: its listening socket, and its front end in the middle of a session. See
//! [`session`](crate::session) for what is saved of that. Sends nothing to that process.

use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Instant;

use serde::{Deserialize, Serialize};

use super::{Connection, Device, DeviceConfig, Endpoint, Role, SessionRefusal};
use crate::channel::Channel;
use crate::listener::Listener;
use crate::session::{Descriptors, SavedSession, Session, next};

/// What is to be known of an endpoint whose rings do not run.
#[derive(Debug, Serialize, Deserialize)]
pub struct SavedEndpoint {
    listens: bool,
    connection: Option<SavedConnection>,
    mtu: u16,
    sessions: u64,
    refusals: u64,
}

#[derive(Debug, Serialize, Deserialize)]
struct SavedConnection {
    session: SavedSession,
    /// The message so far, and how many descriptors have come with it.
    bytes: Vec<u8>,
    fds: usize,
    refused: bool,
    /// All descriptors of the connection: whatever becomes of it, what follows is another one's.
    all_fds: usize,
}

impl Endpoint {
    /// Takes all rings of its front end from the device, which gets none until it [goes on](Endpoint::go_on).
    pub fn pause(&mut self, now: Instant, dev: &mut dyn Device) {
        self.change(now, dev, Session::pause);
    }

    /// Gives the device the rings that can run: all is this process', whichever had it. [`Endpoint::poll`] is to follow.
    pub fn go_on(&mut self, now: Instant, dev: &mut dyn Device) {
        if let Role::Server(listener) = &mut self.role {
            listener.own();
        }
        if let Some(connection) = &mut self.connection {
            connection.channel.own();
        }
        self.change(now, dev, Session::go_on);
    }

    fn change(&mut self, now: Instant, dev: &mut dyn Device, change: fn(&mut Session)) {
        let Some(connection) = &mut self.connection else {
            return;
        };
        change(&mut connection.session);
        if let Err(why) = self.act(now, dev) {
            self.close(Some(why), now, dev);
        }
    }

    /// What there is of an endpoint that is paused; its descriptors are added to `fds`.
    pub fn save<'a>(&'a self, fds: &mut Vec<BorrowedFd<'a>>) -> SavedEndpoint {
        let listener = match &self.role {
            Role::Server(listener) => Some(listener.as_fd()),
            Role::Client(_) | Role::Single(_) => None,
        };
        fds.extend(listener);
        let connection = self.connection.as_ref().map(|connection| {
            let (bytes, held) = connection.channel.save();
            let mut own = vec![connection.channel.as_fd()];
            own.extend(held.iter().map(AsFd::as_fd));
            let session = connection.session.save(&mut own);
            let all_fds = own.len();
            fds.append(&mut own);
            SavedConnection {
                session,
                bytes: bytes.to_owned(),
                fds: held.len(),
                refused: connection.refused,
                all_fds,
            }
        });
        SavedEndpoint {
            listens: listener.is_some(),
            connection,
            mtu: self.config.mtu,
            sessions: self.sessions,
            refusals: self.refusals,
        }
    }

    /// The same endpoint at `path`, paused, with the descriptors that were saved with it. A session that cannot go on because of what its front end has
    /// done since (its memory is shorter now, say) ends, and is no reason for others not to.
    ///
    /// # Errors
    /// This device is not what the session is with: as of [`Session::restore`].
    pub fn restore(
        path: impl Into<PathBuf>,
        config: DeviceConfig,
        saved: SavedEndpoint,
        fds: Descriptors<'_>,
    ) -> Result<Endpoint, SessionRefusal> {
        let path = path.into();
        let role = match saved.listens {
            true => {
                let listener = Listener::adopt(next(fds)?, &path);
                Role::Server(listener.map_err(SessionRefusal::Socket)?)
            }
            false => Role::Client(path),
        };
        let mut endpoint = Endpoint::new(role, config);
        (endpoint.sessions, endpoint.refusals) = (saved.sessions, saved.refusals);
        if let Some(connection) = saved.connection {
            // What this front end has been told; the next one is told what holds by then.
            endpoint.config.mtu = saved.mtu;
            let own = (0..connection.all_fds).map(|_| next(fds));
            let mut own = own.collect::<Result<Vec<_>, _>>()?.into_iter();
            match endpoint.restore_connection(connection, &mut own) {
                Ok(connection) => endpoint.connection = Some(connection),
                Err(
                    why @ (SessionRefusal::Features(_)
                    | SessionRefusal::ProtocolFeatures(_)
                    | SessionRefusal::NoSuchRing(_)),
                ) => return Err(why),
                Err(why) => {
                    endpoint.refusals += 1;
                    endpoint.config.mtu = endpoint.mtu;
                    let device = endpoint.config.name.as_str();
                    tracing::warn!(device, %why, "session closed, as it cannot be handed over");
                }
            }
        }
        Ok(endpoint)
    }

    fn restore_connection(
        &self,
        saved: SavedConnection,
        fds: Descriptors<'_>,
    ) -> Result<Connection, SessionRefusal> {
        let stream = UnixStream::from(next(fds)?);
        let held = (0..saved.fds).map(|_| next(fds));
        let held = held.collect::<Result<_, _>>()?;
        Ok(Connection {
            channel: Channel::restore(stream, saved.bytes, held, &self.closer)?,
            session: Session::restore(&self.config, &self.space, saved.session, fds)?,
            control_kick: None,
            first_kicks: Vec::new(),
            kick: None,
            refused: saved.refused,
            turned_away: false,
        })
    }

    /// Whether the guest is being migrated: what the device writes is logged.
    pub fn is_logging(&self) -> bool {
        let connection = self.connection.as_ref();
        connection.is_some_and(|connection| connection.session.is_logging())
    }
}
