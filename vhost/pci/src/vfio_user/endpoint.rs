//! The socket of one PCI function: waits for a vfio-user client, for ever, and serves one at a time.
//!
//! Never blocks. [`Endpoint::poll`] does what can be done and returns; with [`Endpoint::register`] a mio event says when to call it
//! again. Whatever a client sends, the worst that happens is that its session ends with one warning, and the next client is served. A
//! second client that connects while one is served is turned away at once, but not before all that the first one has sent is read: one that has
//! died is never in the way of its successor.

use std::io;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use thiserror::Error;
use vf_vhost::change_limiter::ChangeLimiter;
use vf_vhost::channel::{Channel, Received};
use vf_vhost::closer::{Aside, Closer, Full, Room};
use vf_vhost::endpoint::{MESSAGES_A_TURN, TURN};
pub use vf_vhost::error::{BindError, SessionRefusal};
use vf_vhost::listener::Listener;
use vf_vhost::rest::Rest;

use super::message::{Header, MAX_FDS};
use super::session::{CommandRefusal, Outcome, Session, SessionEnd};
use crate::counted::Counted;
use crate::function::{Function, Host};
use crate::slot::Slot;

/// How long the next client has to wait after a failure to accept one.
const PAUSE: Duration = Duration::from_secs(1);

/// How often registers are looked at that drivers write without a message: a queue that is enabled there starts so much later at most.
const LOOK: Duration = Duration::from_millis(1);

/// Why a session ended, if its client did not hang up.
#[derive(Debug, Error)]
pub enum EndReason {
    /// What came is no message, or the socket failed; or it was closed here.
    #[error(transparent)]
    Socket(#[from] SessionRefusal),
    /// There is no going on with what the client said.
    #[error(transparent)]
    Session(#[from] SessionEnd),
}

/// What happened to a session; for log lines and figures.
#[derive(Debug)]
pub enum SessionEvent<'a> {
    /// A client has connected.
    Connected,
    /// A command was refused; the session goes on.
    Refused {
        /// Why.
        what: &'a CommandRefusal,
    },
    /// The session is over, and all queues of the function have been stopped.
    Disconnected {
        /// `None`: the client hung up.
        why: Option<&'a EndReason>,
    },
}

/// The NIC behind a socket: what the function asks it, and who hears what happens.
pub trait Attendant: Host {
    /// Hears what happens.
    fn session(&mut self, event: SessionEvent<'_>);
}

#[derive(Debug)]
struct Connection {
    channel: Channel<Header>,
    session: Session,
    refused: bool,
    turned_away: bool,
    /// Whether it has been said that the function cannot reach the guest's memory.
    said_unshared: bool,
}

/// See the module. [`Endpoint::close_session`] before dropping it, or the NIC keeps the queues.
#[derive(Debug)]
pub struct Endpoint {
    /// Who it is, in log lines.
    name: String,
    slot: Slot,
    listener: Listener,
    connection: Option<Connection>,
    /// A client that connected while another was served.
    successor: Option<Aside<UnixStream>>,
    /// Closes what clients have sent.
    closer: Closer,
    /// Whether there is no room for more of that.
    full: Option<Full>,
    registration: Option<(Registry, Token)>,
    retry_at: Option<Instant>,
    /// How long nobody is served after a client that has held up a thread.
    rest: Rest,
    changes: ChangeLimiter,
    sessions: u64,
    refusals: u64,
    /// Whether drivers may map registers.
    shares: bool,
    /// When to look at those of this driver, if it may.
    look_at: Option<Instant>,
}

impl Endpoint {
    /// Waits for clients of `function` at `path`. A stale socket file is replaced; the file is removed when the endpoint is dropped.
    ///
    /// # Errors
    /// Somebody listens there, something else is there, or the path cannot be used.
    pub fn listen(
        path: &Path,
        name: String,
        function: Box<dyn Function>,
    ) -> Result<Endpoint, BindError> {
        Ok(Endpoint {
            name,
            slot: Slot::new(function),
            listener: Listener::bind(path)?,
            connection: None,
            successor: None,
            closer: Closer::default(),
            full: None,
            registration: None,
            retry_at: None,
            rest: Rest::default(),
            changes: ChangeLimiter::default(),
            sessions: 0,
            refusals: 0,
            shares: false,
            look_at: None,
        })
    }

    /// Lets the drivers that come write registers without a message, tails of rings among them, if the function has such registers. Whoever has
    /// its queues is not woken by them then, so this is for one who never sleeps.
    pub fn share_registers(&mut self) {
        self.shares = true;
    }

    /// Lets clients of other users connect ([`Listener::widen`]).
    ///
    /// # Errors
    /// The kernel's.
    pub fn widen(&self, mode: u32, group: Option<u32>) -> io::Result<()> {
        self.listener.widen(mode, group)
    }

    /// Has `registry` report `token` when there is something to [`Endpoint::poll`] for. Poll once after this.
    ///
    /// # Errors
    /// The process or the system has too many open files.
    pub fn register(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        let registry = registry.try_clone()?;
        for fd in self.sockets() {
            registry.register(&mut SourceFd(&fd), token, Interest::READABLE)?;
        }
        self.registration = Some((registry, token));
        Ok(())
    }

    fn sockets(&self) -> impl Iterator<Item = RawFd> + use<> {
        let channel = self.connection.as_ref();
        let channel = channel.map(|connection| connection.channel.as_raw_fd());
        std::iter::once(self.listener.as_raw_fd()).chain(channel)
    }

    /// When to [`Endpoint::poll`] even if no event comes.
    #[must_use]
    pub fn next_timer(&self) -> Option<Instant> {
        match self.connection {
            None => self.retry_at,
            Some(ref connection) => {
                let room = self.full.map(|full| full.ask_at);
                let under_way = connection.session.under_way().map(|_| Instant::now());
                let waits = self.changes.held_back().or(room);
                waits.or(under_way).or(self.look_at)
            }
        }
    }

    /// Serves what the client sent, ends the session if it hung up or misbehaved, and looks for the next one.
    pub fn poll(&mut self, now: Instant, host: &mut dyn Attendant) {
        if self.serve_clients(now, host) {
            self.rearm();
        }
        if self.look_at.is_some_and(|at| at <= now) && !self.changes.holds_back(now) {
            let mut counted = Counted {
                host,
                changes: &mut self.changes,
                now,
            };
            self.slot.look(&mut counted);
            self.look_at = now.checked_add(LOOK);
        }
    }

    /// Ends the session, if there is one; the next client is welcome at once.
    pub fn close_session(&mut self, now: Instant, host: &mut dyn Attendant) {
        self.close(Some(SessionRefusal::Closed.into()), now, host);
        self.rearm();
    }

    /// Tells the driver that its NIC is another one from now on, if there is a driver.
    pub fn changed(&mut self, host: &mut dyn Attendant) {
        if self.connection.is_some() {
            self.slot.changed(host);
        }
    }

    /// Resets the function behind its registers ([`Slot::restart`]).
    pub fn reset(&mut self, host: &mut dyn Attendant) {
        if self.connection.is_some() {
            self.slot.restart(host);
        }
    }

    /// The function and what is around it.
    #[must_use]
    pub fn slot(&self) -> &Slot {
        &self.slot
    }

    /// The socket file.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.listener.path()
    }

    /// Whether a client is served.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.connection.is_some()
    }

    /// Sessions begun so far.
    #[must_use]
    pub fn sessions(&self) -> u64 {
        self.sessions
    }

    /// Commands refused so far, and sessions ended for what their client did.
    #[must_use]
    pub fn refusals(&self) -> u64 {
        self.refusals
    }

    /// Serves clients, one after the other; `true` if they may have sent yet more.
    fn serve_clients(&mut self, now: Instant, host: &mut dyn Attendant) -> bool {
        for _ in 0..MESSAGES_A_TURN {
            if self.connection.is_some() && self.serve(now, host) {
                break;
            }
            if !self.admit(now, host) {
                return false;
            }
            if now.elapsed() > TURN {
                break;
            }
        }
        true
    }

    /// Serves the client, or ends its session; `true` if it may have sent yet more. Of a message of several writes each counts as one.
    fn serve(&mut self, now: Instant, host: &mut dyn Attendant) -> bool {
        for served in 0..MESSAGES_A_TURN {
            if self.changes.holds_back(now) {
                return false;
            }
            if served > 0 && now.elapsed() > TURN {
                return true;
            }
            match self.closer.room(Instant::now(), &mut self.full) {
                Room::Enough => {}
                Room::None => return false,
                Room::Never => {
                    self.close(Some(SessionRefusal::TooManyDescriptors.into()), now, host);
                    return false;
                }
            }
            match self.serve_one(now, host) {
                Ok(Received::Message(..)) => {}
                Ok(Received::Nothing) => return false,
                Ok(Received::HungUp) => {
                    self.close(None, now, host);
                    return false;
                }
                Err(why) => {
                    self.close(Some(why), now, host);
                    return false;
                }
            }
        }
        true
    }

    fn serve_one(
        &mut self,
        now: Instant,
        host: &mut dyn Attendant,
    ) -> Result<Received<()>, EndReason> {
        let Some(connection) = &mut self.connection else {
            return Ok(Received::Nothing);
        };
        // Whoever has its queues may have found out that its memory has vanished.
        connection.session.check_shared(&self.slot)?;
        let mut counted = Counted {
            host,
            changes: &mut self.changes,
            now,
        };
        let session = &mut connection.session;
        let slot = &mut self.slot;
        let (header, outcome) = match session.under_way() {
            Some(header) => (header, session.go_on(slot, &mut counted)?),
            None => {
                let (header, payload, fds) = match connection.channel.receive()? {
                    Received::Message(header, payload, fds) => (header, payload, fds),
                    Received::Nothing => return Ok(Received::Nothing),
                    Received::HungUp => return Ok(Received::HungUp),
                };
                if fds.len() > MAX_FDS {
                    return Err(SessionRefusal::TooManyDescriptors.into());
                }
                let outcome = session.receive(&header, &payload, fds, slot, &mut counted)?;
                (header, outcome)
            }
        };
        let Outcome {
            reply,
            file,
            refused,
        } = outcome;
        for memory in session.take_gone() {
            self.closer.let_go(Box::new(memory));
        }
        if let Some(what) = refused {
            self.refusals = self.refusals.saturating_add(1);
            let device = self.name.as_str();
            if std::mem::replace(&mut connection.refused, true) {
                tracing::debug!(device, command = header.command, %what, "command refused");
            } else {
                tracing::warn!(device, command = header.command, %what, "command refused");
            }
            host.session(SessionEvent::Refused { what: &what });
        }
        if let Some(reply) = reply {
            let file = file.as_ref().map(|file| file.as_fd());
            connection.channel.send_with(&reply, file)?;
        }
        let unshared = slot.is_bus_master() && connection.session.shares_nothing();
        if unshared && !std::mem::replace(&mut connection.said_unshared, true) {
            let device = self.name.as_str();
            tracing::warn!(
                device,
                "the client does not share its guest's memory, so no frame reaches it: give QEMU a memory-backend-memfd with share=on"
            );
        }
        // What it shares may have been used just now.
        connection.session.check_shared(&self.slot)?;
        Ok(Received::Message((), Vec::new(), Vec::new()))
    }

    fn close(&mut self, why: Option<EndReason>, now: Instant, host: &mut dyn Attendant) {
        let Some(connection) = self.connection.take() else {
            return;
        };
        if let Some((registry, _)) = &self.registration {
            let _ = registry.deregister(&mut SourceFd(&connection.channel.as_raw_fd()));
        }
        // However it ended: whoever raised its interrupts until now may have been held up.
        let why = connection
            .session
            .check_shared(&self.slot)
            .err()
            .map(Into::into)
            .or(why);
        let before = self.slot.power_on(host);
        self.closer.let_go(Box::new(before));
        self.look_at = None;
        let blocked = matches!(why, Some(EndReason::Session(SessionEnd::Blocks)));
        self.retry_at = blocked.then(|| self.rest.until(now));
        let device = self.name.as_str();
        match &why {
            None => tracing::info!(device, "client hung up"),
            Some(EndReason::Socket(SessionRefusal::Closed)) => {
                tracing::info!(device, "session closed")
            }
            Some(why) => {
                self.refusals = self.refusals.saturating_add(1);
                tracing::warn!(device, %why, "session closed");
            }
        }
        host.session(SessionEvent::Disconnected { why: why.as_ref() });
    }

    /// Looks for a client; `true` if there is one that makes another look at the socket worthwhile.
    fn admit(&mut self, now: Instant, host: &mut dyn Attendant) -> bool {
        if let Some(connection) = &mut self.connection {
            // Whoever connected before all was read from the one that is served may be its successor; by now that one would be seen to
            // have hung up.
            if self.successor.take().is_some()
                && !std::mem::replace(&mut connection.turned_away, true)
            {
                let device = self.name.as_str();
                tracing::warn!(device, "a second client was turned away");
            }
            if !self.closer.is_full() {
                let next = self.listener.accept().unwrap_or(None);
                self.successor = next.map(|stream| Aside::new(stream, &self.closer));
            }
            return self.successor.is_some();
        }
        if self.retry_at.is_some_and(|at| now < at) {
            return false;
        }
        if self.closer.is_full() {
            self.retry_at = Some(after(now));
            return false;
        }
        self.retry_at = None;
        let next = self.successor.take();
        let found = next.map_or_else(
            || self.listener.accept(),
            |next| Ok(Some(next.into_inner())),
        );
        match found.and_then(|stream| stream.map(|stream| self.watched(stream)).transpose()) {
            Ok(None) => false,
            Ok(Some(channel)) => {
                self.begin(channel, now, host);
                true
            }
            Err(why) => {
                tracing::warn!(device = self.name.as_str(), %why, "cannot serve a client, trying again");
                self.retry_at = Some(after(now));
                false
            }
        }
    }

    fn watched(&self, stream: UnixStream) -> io::Result<Channel<Header>> {
        let channel = Channel::new(stream, &self.closer)?;
        if let Some((registry, token)) = &self.registration {
            let fd = channel.as_raw_fd();
            registry.register(&mut SourceFd(&fd), *token, Interest::READABLE)?;
        }
        Ok(channel)
    }

    fn begin(&mut self, channel: Channel<Header>, now: Instant, host: &mut dyn Attendant) {
        self.sessions = self.sessions.saturating_add(1);
        self.connection = Some(Connection {
            channel,
            session: Session::default(),
            refused: false,
            turned_away: false,
            said_unshared: false,
        });
        self.full = None;
        drop(self.slot.power_on(host));
        let device = self.name.as_str();
        tracing::info!(device, "client connected");
        host.session(SessionEvent::Connected);
        if self.shares {
            match self.slot.share() {
                Ok(()) => self.look_at = self.slot.shared().and(now.checked_add(LOOK)),
                Err(why) => tracing::warn!(device, %why, "this client's doorbells are messages"),
            }
        }
    }

    /// Has mio report again what was left undone: it tells of each arrival once.
    fn rearm(&self) {
        if let Some((registry, token)) = &self.registration {
            for fd in self.sockets() {
                let _ = registry.reregister(&mut SourceFd(&fd), *token, Interest::READABLE);
            }
        }
    }
}

/// When to try again what cannot be done now.
fn after(now: Instant) -> Instant {
    now.checked_add(PAUSE).unwrap_or(now)
}

#[cfg(test)]
mod tests;
