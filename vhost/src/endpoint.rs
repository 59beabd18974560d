//! The socket of one device: waits for a front end or goes to one, for ever, and serves one at a
//! time.
//!
//! Never blocks. [`Endpoint::poll`] does what can be done and returns; with [`Endpoint::register`]
//! a mio event says when to call it again, without it a loop may call it at will. Whatever a front
//! end sends, the worst that happens is that its session ends with one warning, and the next front
//! end is served.
//!
//! A second front end that connects while one is served is turned away at once: its connection is
//! closed, so that it reports an error rather than waits. Before that, all that the first one sent
//! is read, so that one which has died is never in the way of its successor; nor is one that gave us
//! its own end of the connection, for no descriptor is kept that could hold that.

#![expect(
    clippy::arithmetic_side_effects,
    reason = "an instant and a duration of some seconds, and small counts"
)]

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use mio::unix::SourceFd;
use mio::{Registry, Token};

mod device;
mod handover;
mod watching;

pub use self::device::{Device, SessionEvent};
pub use self::handover::SavedEndpoint;
use self::watching::{unwatch, watch};
use crate::change_limiter::ChangeLimiter;
use crate::channel::{Channel, Received};
use crate::closer::{Aside, Closer, Full, Room};
use crate::control::Coalescing;
pub use crate::error::{BindError, SessionRefusal};
use crate::eventfd::EventFd;
use crate::features::VirtioFeatures;
pub use crate::limits::{MESSAGES_A_TURN, TURN};
use crate::listener::{self, Listener};
use crate::memory::AddressSpace;
use crate::message::Header;
use crate::rest::Rest;
use crate::session::{Action, Session};
pub use crate::session::{Descriptors, DeviceConfig};

/// First and greatest time between two attempts to connect.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(1));

/// How long the next front end has to wait while descriptors of those before it are being closed.
const WHILE_CLOSING: Duration = Duration::from_secs(1);

/// Where front ends come from.
#[derive(Debug)]
enum Role {
    /// They come to us.
    Server(Listener),
    /// We go to where one listens.
    Client(PathBuf),
    /// There is this one, and no other.
    Single(Option<UnixStream>),
}

#[derive(Debug)]
struct Connection {
    channel: Channel<Header>,
    session: Session,
    /// The kick of the control queue that is registered.
    control_kick: Option<EventFd>,
    /// The kicks of rings that wait for their first one, which are registered.
    first_kicks: Vec<EventFd>,
    /// The driver waits for this reply to its kick of this ring.
    kick: Option<(u32, Option<Vec<u8>>)>,
    refused: bool,
    turned_away: bool,
}

/// See the module. [`Endpoint::close_session`] before dropping it, or the device keeps its rings.
#[derive(Debug)]
pub struct Endpoint {
    config: DeviceConfig,
    /// The MTU that the next front end is told.
    mtu: u16,
    role: Role,
    connection: Option<Connection>,
    /// A front end that connected while another was served.
    successor: Option<Aside<UnixStream>>,
    /// Closes what front ends have sent.
    closer: Closer,
    /// Whether there is no room for more of what takes its time to be closed.
    full: Option<Full>,
    /// What is mapped for its front ends.
    space: Arc<AddressSpace>,
    registration: Option<(Registry, Token)>,
    retry_at: Option<Instant>,
    /// After front ends that have held up a thread: others use that, too.
    rest: Rest,
    changes: ChangeLimiter,
    backoff: Duration,
    waiting: bool,
    sessions: u64,
    refusals: u64,
}

impl Endpoint {
    /// Waits for front ends at `path`. A stale socket file is replaced; the file is removed when
    /// the endpoint is dropped.
    ///
    /// # Errors
    /// Somebody listens there, something else is there, or the path cannot be used.
    pub fn listen(path: impl AsRef<Path>, config: DeviceConfig) -> Result<Endpoint, BindError> {
        Ok(Endpoint::new(
            Role::Server(Listener::bind(path.as_ref())?),
            config,
        ))
    }

    /// Lets front ends of other users connect ([`Listener::widen`]).
    ///
    /// # Errors
    /// The kernel's.
    pub fn widen(&self, mode: u32, group: Option<u32>) -> io::Result<()> {
        match &self.role {
            Role::Server(listener) => listener.widen(mode, group),
            Role::Client(_) | Role::Single(_) => Ok(()),
        }
    }

    /// Goes to the front end that listens at `path`, now and whenever the session is over.
    pub fn connect(path: impl Into<PathBuf>, config: DeviceConfig) -> Endpoint {
        Endpoint::new(Role::Client(path.into()), config)
    }

    /// Serves the front end at the other end of `stream`, and no other.
    pub fn from_stream(stream: UnixStream, config: DeviceConfig) -> Endpoint {
        Endpoint::new(Role::Single(Some(stream)), config)
    }

    fn new(role: Role, config: DeviceConfig) -> Endpoint {
        Endpoint {
            mtu: config.mtu,
            config,
            role,
            connection: None,
            successor: None,
            closer: Closer::default(),
            full: None,
            space: Arc::default(),
            registration: None,
            retry_at: None,
            rest: Rest::default(),
            changes: ChangeLimiter::default(),
            backoff: BACKOFF.0,
            waiting: false,
            sessions: 0,
            refusals: 0,
        }
    }

    /// Has `registry` report `token` when there is something to [`Endpoint::poll`] for. Poll once
    /// after this.
    ///
    /// # Errors
    /// The process or the system has too many open files.
    pub fn register(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        let registry = registry.try_clone()?;
        if let Role::Server(listener) = &self.role {
            watch(&registry, listener.as_raw_fd(), token)?;
        }
        if let Some(connection) = &self.connection {
            watch(&registry, connection.channel.as_raw_fd(), token)?;
        }
        self.registration = Some((registry, token));
        self.watch_control();
        Ok(())
    }

    /// When to [`Endpoint::poll`] even if no event comes.
    pub fn next_timer(&self) -> Option<Instant> {
        match self.connection {
            None => self.retry_at,
            Some(_) => {
                let room = self.full.map(|full| full.ask_at);
                self.changes.held_back().or(room)
            }
        }
    }

    /// Serves what the front end sent and what the driver put on the control queue, ends the session
    /// if the front end hung up or misbehaved, and looks for the next one. `now` is for the time
    /// between attempts to connect.
    pub fn poll(&mut self, now: Instant, dev: &mut dyn Device) {
        if self.serve_front_ends(now, dev) {
            self.rearm();
        }
        // First the kicks, then the queues: what comes later will be told.
        self.watch_first_kicks();
        let kicked = self.start_kicked(now, dev);
        self.watch_first_kicks();
        self.watch_control();
        if let Err(why) = kicked.and_then(|()| self.serve_control(now, dev)) {
            self.close(Some(why), now, dev);
            self.rearm();
        }
    }

    /// The ring that the driver kicked in band. It waits, and nothing more of it is served, until
    /// [`Endpoint::acknowledge_kick`].
    pub fn kick(&self) -> Option<u32> {
        Some(self.connection.as_ref()?.kick.as_ref()?.0)
    }

    /// Lets the driver go on after a kick: all that it made available has been taken care of.
    pub fn acknowledge_kick(&mut self, now: Instant, dev: &mut dyn Device) {
        let Some(connection) = &mut self.connection else {
            return;
        };
        let reply = connection.kick.take().and_then(|(_, reply)| reply);
        if let Some(reply) = reply
            && let Err(why) = connection.channel.send(&reply)
        {
            self.close(Some(why), now, dev);
        }
    }

    /// Calls the driver in band for a ring: whoever runs it knows whether it wants that. `false` if
    /// it is not called so. Then [`Endpoint::hear_replies`] until it has
    /// [answered](Endpoint::awaits_reply).
    pub fn call(&mut self, ring: u32) -> bool {
        self.connection
            .as_mut()
            .is_some_and(|connection| connection.session.call(ring))
    }

    /// Takes the front end's answers to our requests, as [`Endpoint::poll`] does, and nothing else.
    pub fn hear_replies(&mut self, now: Instant, dev: &mut dyn Device) {
        let connection = self.connection.as_mut();
        let heard = connection.map(|connection| {
            let heard = connection.session.hear_replies();
            let_go(&mut connection.session, &self.closer);
            heard
        });
        if let Some(Err(why)) = heard {
            self.close(Some(why), now, dev);
        }
    }

    /// Whether the front end has still to answer a request of ours.
    pub fn awaits_reply(&self) -> bool {
        self.connection
            .as_ref()
            .is_some_and(|connection| connection.session.awaited_reply().is_some())
    }

    /// The socket on which something to [`Endpoint::poll`] for may arrive; for callers that do not
    /// [`Endpoint::register`].
    pub fn socket(&self) -> Option<BorrowedFd<'_>> {
        match (&self.connection, &self.role) {
            (Some(connection), _) => connection
                .kick
                .is_none()
                .then(|| connection.channel.as_fd()),
            (None, Role::Server(listener)) => Some(listener.as_fd()),
            (None, _) => None,
        }
    }

    /// The socket on which something to [`Endpoint::hear_replies`] for may arrive.
    pub fn awaited_reply(&self) -> Option<BorrowedFd<'_>> {
        self.connection.as_ref()?.session.awaited_reply()
    }

    /// Ends the session, if there is one; the next front end is welcome at once.
    pub fn close_session(&mut self, why: SessionRefusal, now: Instant, dev: &mut dyn Device) {
        self.close(Some(why), now, dev);
        self.rearm();
    }

    /// Shows the guest a carrier or none: `true` if its front end could be told. A front end that
    /// does not take its configuration from us (QEMU) sees only sockets open and close.
    pub fn set_link_up(&mut self, up: bool) -> bool {
        self.config.link_up = up;
        self.announce()
    }

    /// Changes the station address, which a driver reads when it starts, unless it has `chosen` another one that is in force: `true` if its
    /// front end could be told.
    pub fn set_mac(&mut self, mac: [u8; 6], chosen: Option<[u8; 6]>) -> bool {
        self.config.mac = mac;
        if let Some(connection) = &mut self.connection {
            connection.session.set_chosen_mac(chosen);
        }
        self.announce()
    }

    /// Changes the MTU that drivers are told: `false` if the one of a front end that is connected goes on with the old one, as
    /// an MTU is not changed once it has been told (virtio 5.1.4.1).
    pub fn set_mtu(&mut self, mtu: u16) -> bool {
        self.mtu = mtu;
        if self.connection.is_none() {
            self.config.mtu = mtu;
        }
        self.config.mtu == mtu
    }

    /// How long calls of a ring are to be held back, if the driver has said; whoever runs the ring
    /// does that.
    pub fn coalescing(&self, ring: u32) -> Option<Coalescing> {
        self.connection.as_ref()?.session.coalescing(ring)
    }

    /// What the device is at present.
    pub fn config(&self) -> &DeviceConfig {
        &self.config
    }

    /// The socket file, if there is one.
    pub fn path(&self) -> Option<&Path> {
        match &self.role {
            Role::Server(listener) => Some(listener.path()),
            Role::Client(path) => Some(path),
            Role::Single(_) => None,
        }
    }

    /// Whether a front end is served.
    pub fn is_connected(&self) -> bool {
        self.connection.is_some()
    }

    /// The virtio features the driver has acknowledged, if it has.
    pub fn features(&self) -> Option<VirtioFeatures> {
        self.connection.as_ref()?.session.features()
    }

    /// Bytes of guest memory that the front end has shared.
    pub fn guest_memory(&self) -> u64 {
        let connection = self.connection.as_ref();
        connection.map_or(0, |connection| connection.session.memory().bytes())
    }

    /// Sessions begun so far.
    pub fn sessions(&self) -> u64 {
        self.sessions
    }

    /// Requests refused so far, those included that ended their session.
    pub fn refusals(&self) -> u64 {
        self.refusals
    }

    /// Serves front ends, one after the other; `true` if they may have sent yet more.
    fn serve_front_ends(&mut self, now: Instant, dev: &mut dyn Device) -> bool {
        for _ in 0..MESSAGES_A_TURN {
            if self.connection.is_some() && self.serve(now, dev) {
                break;
            }
            // While a driver waits for its kick to be looked at, the next front end can wait, too.
            if self.kick().is_some() || !self.admit(now, dev) {
                return false;
            }
            if now.elapsed() > TURN {
                break;
            }
        }
        true
    }

    fn serve_control(&mut self, now: Instant, dev: &mut dyn Device) -> Result<(), SessionRefusal> {
        let Some(connection) = &mut self.connection else {
            return Ok(());
        };
        connection.session.serve_control();
        self.act(now, dev)?;
        // The driver is called on this thread, too.
        let connection = self.connection.as_ref();
        connection.map_or(Ok(()), |connection| connection.session.check_shared())
    }

    /// Does what the session says.
    fn act(&mut self, now: Instant, dev: &mut dyn Device) -> Result<(), SessionRefusal> {
        let Some(connection) = &mut self.connection else {
            return Ok(());
        };
        let Connection {
            session, channel, ..
        } = connection;
        let device = self.config.name.as_str();
        while let Some(action) = session.poll(&self.config) {
            match action {
                Action::Stop(rings) => {
                    self.changes.count(now);
                    session.stopped(dev.stop_rings(&rings));
                }
                Action::Start(rings) => {
                    self.changes.count(now);
                    dev.start_rings(rings);
                }
                Action::CtrlCommand(command) => {
                    session.decided(dev.command(&command));
                    // Some are dear where there are many VFs.
                    if now.elapsed() > TURN {
                        session.end_turn();
                    }
                }
                Action::Allow => session.decided(dev.allows()),
                Action::Negotiated(features) => {
                    dev.session(SessionEvent::Negotiated { features });
                    agree_mtu(session, &self.config, dev);
                }
                Action::Controlled(features) => {
                    dev.session(SessionEvent::Controlled { features });
                    agree_mtu(session, &self.config, dev);
                }
                Action::Mtu => {
                    self.changes.count(now);
                    agree_mtu(session, &self.config, dev);
                }
                Action::Reset => dev.session(SessionEvent::Reset),
                Action::Logging(on) => {
                    tracing::info!(device, on, "dirty log");
                    dev.session(SessionEvent::Logging(on));
                }
                Action::Announce(mac) => {
                    self.changes.count(now);
                    dev.session(SessionEvent::Announce(mac));
                }
                Action::ControlBroken(why) => {
                    tracing::warn!(device, %why, "broken control queue");
                }
                Action::Reply(bytes) => channel.send(&bytes)?,
                Action::Kicked { ring, reply } => connection.kick = Some((ring, reply)),
                Action::Refused(request, what) => {
                    self.refusals += 1;
                    if std::mem::replace(&mut connection.refused, true) {
                        tracing::debug!(device, request, %what, "request refused");
                    } else {
                        tracing::warn!(device, request, %what, "request refused");
                    }
                    dev.session(SessionEvent::Refused { what: &what });
                }
                Action::Close(why) => return Err(why),
            }
        }
        let_go(session, &self.closer);
        Ok(())
    }

    /// Serves the front end, or ends its session; `true` if it may have sent yet more.
    fn serve(&mut self, now: Instant, dev: &mut dyn Device) -> bool {
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
                    self.close(Some(SessionRefusal::TooManyDescriptors), now, dev);
                    return false;
                }
            }
            match self.serve_one(now, dev) {
                Ok(Received::Message(..)) => {}
                Ok(Received::Nothing) => return false,
                Ok(Received::HungUp) => {
                    self.close(None, now, dev);
                    return false;
                }
                Err(why) => {
                    self.close(Some(why), now, dev);
                    return false;
                }
            }
        }
        true
    }

    fn serve_one(
        &mut self,
        now: Instant,
        dev: &mut dyn Device,
    ) -> Result<Received<Header>, SessionRefusal> {
        let Some(connection) = &mut self.connection else {
            return Ok(Received::Nothing);
        };
        connection.session.check_shared()?;
        connection.session.hear_replies()?;
        if connection.kick.is_some() {
            return Ok(Received::Nothing);
        }
        match connection.channel.receive()? {
            Received::Message(header, payload, fds) => {
                let session = &mut connection.session;
                session.receive(&self.config, header, &payload, fds);
                self.act(now, dev)?;
                self.start_kicked(now, dev)?;
                Ok(Received::Message(header, payload, Vec::new()))
            }
            other => Ok(other),
        }
    }

    fn close(&mut self, why: Option<SessionRefusal>, now: Instant, dev: &mut dyn Device) {
        let Some(mut connection) = self.connection.take() else {
            return;
        };
        self.backoff = if connection.session.features().is_some() {
            BACKOFF.0
        } else {
            (self.backoff * 2).min(BACKOFF.1)
        };
        if let Some((registry, _)) = &self.registration {
            unwatch(registry, connection.control_kick.take());
            let _ = registry.deregister(&mut SourceFd(&connection.channel.as_raw_fd()));
            for kick in connection.first_kicks.drain(..) {
                unwatch(registry, Some(kick));
            }
        }
        connection.session.end();
        while let Some(action) = connection.session.poll(&self.config) {
            if let Action::Stop(rings) = action {
                connection.session.stopped(dev.stop_rings(&rings));
            }
        }
        let_go(&mut connection.session, &self.closer);
        // However it ended: whoever had its rings until now may have been held up.
        let why = connection.session.check_shared().err().or(why);
        self.retry_at = match (&why, &self.role) {
            (Some(SessionRefusal::Blocks), _) => Some(self.rest.until(now)),
            (_, Role::Client(_)) => Some(now + self.backoff),
            _ => None,
        };
        let device = self.config.name.as_str();
        match &why {
            None => tracing::info!(device, "front end hung up"),
            Some(SessionRefusal::Closed) => tracing::info!(device, "session closed"),
            Some(why) => {
                self.refusals += 1;
                tracing::warn!(device, %why, "session closed");
            }
        }
        dev.session(SessionEvent::Disconnected { why: why.as_ref() });
    }

    /// Looks for a front end; `true` if there is one that makes another look at the socket
    /// worthwhile.
    fn admit(&mut self, now: Instant, dev: &mut dyn Device) -> bool {
        if let Some(connection) = &mut self.connection {
            // Whoever connected before all was read from the one that is served may be its
            // successor; by now that one would be seen to have hung up.
            if self.successor.take().is_some()
                && !std::mem::replace(&mut connection.turned_away, true)
            {
                let device = self.config.name.as_str();
                tracing::warn!(device, "a second front end was turned away");
            }
            if let Role::Server(listener) = &self.role
                && !self.closer.is_full()
            {
                let next = listener.accept().unwrap_or(None);
                self.successor = next.map(|stream| Aside::new(stream, &self.closer));
            }
            return self.successor.is_some();
        }
        if self.retry_at.is_some_and(|at| now < at) {
            return false;
        }
        if self.closer.is_full() {
            self.retry_at = Some(now + WHILE_CLOSING);
            return false;
        }
        self.retry_at = None;
        let found = match &mut self.role {
            Role::Server(listener) => self
                .successor
                .take()
                .map_or_else(|| listener.accept(), |next| Ok(Some(next.into_inner()))),
            Role::Client(path) => listener::connect(path).map(Some),
            Role::Single(stream) => Ok(stream.take()),
        };
        match found.and_then(|stream| stream.map(|stream| self.watched(stream)).transpose()) {
            Ok(None) => false,
            Ok(Some(channel)) => {
                self.begin(channel, dev);
                true
            }
            Err(why) => {
                let device = self.config.name.as_str();
                if !std::mem::replace(&mut self.waiting, true) {
                    tracing::info!(device, %why, "no front end yet, trying again");
                }
                self.retry_at = Some(now + self.backoff);
                self.backoff = (self.backoff * 2).min(BACKOFF.1);
                false
            }
        }
    }

    fn watched(&self, stream: UnixStream) -> io::Result<Channel<Header>> {
        let channel = Channel::new(stream, &self.closer)?;
        if let Some((registry, token)) = &self.registration {
            watch(registry, channel.as_raw_fd(), *token)?;
        }
        Ok(channel)
    }

    fn begin(&mut self, channel: Channel<Header>, dev: &mut dyn Device) {
        self.sessions += 1;
        self.waiting = false;
        self.full = None;
        self.config.mtu = self.mtu;
        let session = Session::of(&self.config, &self.space);
        self.connection = Some(Connection {
            channel,
            session,
            control_kick: None,
            first_kicks: Vec::new(),
            kick: None,
            refused: false,
            turned_away: false,
        });
        tracing::info!(device = self.config.name.as_str(), "front end connected");
        dev.session(SessionEvent::Connected);
    }

    /// Sends CONFIG_CHANGE_MSG to a front end that takes it.
    fn announce(&mut self) -> bool {
        self.connection
            .as_mut()
            .is_some_and(|connection| connection.session.announce())
    }
}

/// Has the device know the MTU to which the driver has agreed, if it has.
fn agree_mtu(session: &Session, config: &DeviceConfig, dev: &mut dyn Device) {
    if let Some(mtu) = session.agreed_mtu(config) {
        dev.session(SessionEvent::Mtu(mtu));
    }
}

/// Has what is a guest's no more given back where nobody waits for it.
fn let_go(session: &mut Session, closer: &Closer) {
    for gone in session.take_gone() {
        closer.let_go(gone);
    }
}
