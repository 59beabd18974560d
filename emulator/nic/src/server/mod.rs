//! `vfnic run`: builds the hosts, serves every VF's socket and the control socket from one thread, and stops cleanly.
//! Moves no frame itself.

mod access;
mod build;
mod error;
mod far_ends;
mod handover;
mod nics;
pub mod ready;
mod share;
mod sockets;
mod taps;
mod tokens;
mod turns;

use std::collections::BTreeSet;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded, unbounded};
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token, Waker};
use rustix::process::{Resource, Rlimit};
use vf_model::{FastEvent, Nanos, VfIndex};
use vf_vhost::listener::Listener;
use vf_vhost::watchdog;
use vf_vhost::watchdog::thread_time;

use self::access::Access;
use self::build::build_hosts;
pub use self::error::RunError;
use self::error::system;
use self::far_ends::FarEnds;
pub use self::handover::Belongings;
use self::handover::restore;
use self::nics::OnWallClock;
use self::share::TimeShare;
use self::sockets::{Sockets, listen};
use self::taps::open_taps;
use self::tokens::{CTL, LINKS, OBSERVERS, QMP, SIGNAL, VF, VFS, WAKE};
use self::turns::VfTurns;
use crate::capture::event::Happening;
use crate::clock::Clock;
use crate::config::{Config, SocketAccess};
use crate::control::clients::{Answer, Bounds, Clients};
use crate::control::{Dispatcher, Nics};
use crate::handover::Taken;
use crate::instance::NicInstance;
use crate::metrics::ScrapeSocket;
use crate::sandbox::{Role, Sandbox};
use crate::state_file::{StateFile, StateWriter};
use crate::thread::{News, Polling, RingBroken};

/// What path `auto` could learn from and has not yet. More is lost, and seen again with later frames.
const EVENTS: usize = 256;

/// A running set of NICs.
pub struct Server {
    poll: Poll,
    hosts: Vec<NicInstance>,
    /// What VFs have had of this thread, by host and VF.
    shares: Vec<Vec<VfTurns>>,
    links: FarEnds,
    clients: Clients,
    /// The socket of scrapers.
    metrics: Option<ScrapeSocket>,
    /// Those who may not change anything.
    observers: Option<Clients>,
    /// What they have had of this thread together.
    observers_had: TimeShare,
    /// Those who wait for more of it.
    late_observers: BTreeSet<Token>,
    dispatcher: Dispatcher,
    broken: Receiver<(usize, RingBroken)>,
    events: Receiver<(usize, FastEvent)>,
    signals: Option<UnixStream>,
    epoch: Instant,
    waker: Arc<Waker>,
    /// Who may connect to sockets of VFs.
    access: Access,
    /// How workers wait for frames.
    polling: Polling,
    /// Who writes down what commands change, if somebody does.
    state: Option<StateWriter>,
    /// Without that nothing is handed over.
    belongings: Option<Belongings>,
    /// Who has everything now.
    successor: Option<UnixStream>,
}

impl Server {
    /// Builds everything the configuration asks for and listens. Threads that are started for that are in the `sandbox` if it is
    /// on; the caller's own is to [go there](Sandbox::confine) before it [runs](Server::run) this.
    ///
    /// # Errors
    /// [`RunError`]; what had been made is removed again.
    pub fn start(config: Config, sandbox: Sandbox) -> Result<Server, RunError> {
        Server::begin(config, sandbox, None)
    }

    fn begin(
        config: Config,
        sandbox: Sandbox,
        mut taken: Option<&mut Taken>,
    ) -> Result<Server, RunError> {
        raise_descriptor_limit();
        // It outlives all sessions, and is to be in the sandbox though the first of them may begin before this thread is.
        let watched = watchdog::start_with(move || sandbox.confine(Role::Quiet));
        if let Err(error) = watched {
            tracing::warn!(%error, "no thread sees to it that nobody waits for a front end");
        }
        ready::make_socket_dir(&config.socket_dir)?;
        let poll = Poll::new().map_err(system("epoll"))?;
        let waker = Waker::new(poll.registry(), WAKE).map_err(system("eventfd"))?;
        let (to, broken) = unbounded();
        let (learn, events) = bounded(EVENTS);
        let waker = Arc::new(waker);
        let reporter = Reporter {
            to,
            learn,
            waker: Arc::clone(&waker),
        };
        let epoch = Instant::now();
        let access = Access::of(&config.access)?;
        let polling = config.poll;
        let (mut hosts, ends) =
            build_hosts(&config, epoch, &reporter, sandbox, taken.as_deref_mut())?;
        let mut links = FarEnds::new(ends, poll.registry(), LINKS).map_err(system("netlink"))?;
        links.make_alike(&mut hosts);
        for (h, host) in hosts.iter_mut().enumerate() {
            let sockets = Sockets {
                registry: poll.registry(),
                access,
                polling,
            };
            if let Some(taken) = taken.as_deref_mut() {
                restore(h, host, taken, sockets)?;
            }
            listen(h, host, sockets)?;
            open_taps(host, sandbox)?;
        }
        // Last of all: who can ask is answered, and finds every VF's socket.
        let mut ask = |path: &Path, access: Access, tokens| {
            let listener = match taken.as_deref_mut() {
                Some(taken) => {
                    let socket = taken.descriptor();
                    let listener = socket.and_then(|socket| Listener::adopt(socket, path));
                    listener.map_err(system("control socket"))?
                }
                None => {
                    let listener = Listener::bind(path).map_err(RunError::Ctl)?;
                    access.widen(path, |mode, group| listener.widen(mode, group))?;
                    listener
                }
            };
            let bounds = match tokens == OBSERVERS {
                true => Bounds::OBSERVERS,
                false => Bounds::ADMINISTRATORS,
            };
            Clients::new(listener, poll.registry(), tokens, bounds).map_err(system("epoll"))
        };
        let observers = config.observe.as_deref();
        let observers = observers
            .map(|path| ask(path, access, OBSERVERS))
            .transpose()?;
        let administrators = Access::of(&SocketAccess {
            mode: None,
            group: config.ctl_group.clone(),
        })?;
        let clients = ask(&config.ctl_socket(), administrators, CTL)?;
        let metrics = match (taken, &config.metrics) {
            // Nobody is answered before the process is its own.
            (Some(taken), Some(address)) => {
                let socket = taken.descriptor();
                let socket = socket.and_then(|socket| ScrapeSocket::adopt(address, socket));
                Some(socket.map_err(system("metrics"))?)
            }
            (None, Some(address)) => {
                let socket = ScrapeSocket::bind(address)?;
                if let ScrapeSocket::Unix(listener) = &socket {
                    access.widen(listener.path(), |mode, group| listener.widen(mode, group))?;
                }
                let serves = socket.serve(&config.ctl_socket(), sandbox);
                serves.map_err(system("thread"))?;
                Some(socket)
            }
            (_, None) => None,
        };
        let turns = |host: &NicInstance| vec![VfTurns::default(); host.vfs.len()];
        Ok(Server {
            poll,
            shares: hosts.iter().map(turns).collect(),
            hosts,
            links,
            clients,
            metrics,
            observers,
            observers_had: TimeShare::default(),
            late_observers: BTreeSet::new(),
            dispatcher: Dispatcher::new(config),
            broken,
            events,
            signals: None,
            epoch,
            waker,
            access,
            polling,
            state: None,
            belongings: None,
            successor: None,
        })
    }

    /// Has what commands change from now on written down before they are answered.
    ///
    /// # Errors
    /// The system's.
    pub fn keep_state(&mut self, file: StateFile) -> Result<(), RunError> {
        let writer = file.start(Arc::clone(&self.waker));
        let writer = writer.map_err(system("thread"))?;
        self.dispatcher.keep(writer.kept().clone());
        self.state = Some(writer);
        Ok(())
    }

    /// Has what another process could not write down be written now.
    pub fn write_state(&mut self) {
        let policies = self.hosts.iter().map(NicInstance::policy).collect();
        if let Some(state) = &mut self.state {
            state.write(self.dispatcher.config(), policies);
        }
    }

    /// Ends [`Server::run`] when something arrives on `signals`.
    ///
    /// # Errors
    /// The system's.
    pub fn stop_on(&mut self, signals: UnixStream) -> Result<(), RunError> {
        signals.set_nonblocking(true).map_err(system("signals"))?;
        let fd = signals.as_raw_fd();
        self.poll
            .registry()
            .register(&mut SourceFd(&fd), SIGNAL, Interest::READABLE)
            .map_err(system("signals"))?;
        self.signals = Some(signals);
        Ok(())
    }

    /// The NICs.
    #[must_use]
    pub fn hosts(&self) -> &[NicInstance] {
        &self.hosts
    }

    /// Time since the data path started.
    #[must_use]
    pub fn now(&self) -> Nanos {
        Clock::Wall(self.epoch).now()
    }

    /// Serves until a signal says stop.
    ///
    /// # Errors
    /// The system's.
    pub fn run(&mut self) -> Result<(), RunError> {
        self.look_at_all();
        while self.step(None)? {}
        Ok(())
    }

    /// Waits for at most `limit` and serves what came; false when it is time to stop.
    ///
    /// # Errors
    /// The system's.
    pub fn step(&mut self, limit: Option<Duration>) -> Result<bool, RunError> {
        let now = Instant::now();
        let vfs = self.hosts.iter().map(|host| &host.vfs).zip(&self.shares);
        let due = vfs
            .flat_map(|(vfs, turns)| vfs.iter().zip(turns))
            .flat_map(|(vf, turns)| {
                let monitor = turns.hears(vf.monitor.as_ref());
                turns.next(vf.socket.as_ref()).into_iter().chain(monitor)
            })
            .chain(self.clients.next_timer())
            .chain(self.observers.as_ref().and_then(Clients::next_timer))
            .chain(self.next_late_observer(now))
            .chain(self.next_flap())
            .min()
            .map(|at| at.saturating_duration_since(now));
        let timeout = match (due, limit) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
        let mut events = Events::with_capacity(256);
        match self.poll.poll(&mut events, timeout) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => return Ok(true),
            other => other.map_err(system("epoll"))?,
        }
        for event in &events {
            match event.token() {
                SIGNAL => return Ok(false),
                WAKE => {
                    self.hear_of_broken_rings();
                    self.learn();
                    if let Some(state) = &self.state {
                        let progress = state.kept().progress();
                        self.clients.keep(progress, self.poll.registry());
                    }
                }
                LINKS => {
                    self.links.hear();
                    self.links.make_alike(&mut self.hosts);
                }
                Token(t) if CTL.contains(&t) => {
                    let now = self.now();
                    let Server {
                        clients,
                        links,
                        hosts,
                        dispatcher,
                        poll,
                        state,
                        access,
                        polling,
                        ..
                    } = self;
                    let mut nics = OnWallClock {
                        now,
                        hosts,
                        links,
                        sockets: Sockets {
                            registry: poll.registry(),
                            access: *access,
                            polling: *polling,
                        },
                        changed: false,
                        brought: Vec::new(),
                        asked_by: None,
                        wants_all: None,
                    };
                    clients.serve(Token(t), poll.registry(), |request, brought| {
                        (nics.brought, nics.asked_by) = (brought.fds, brought.user);
                        let Ok(response) = dispatcher.answer(&mut nics, request);
                        let mut change = 0;
                        if std::mem::take(&mut nics.changed)
                            && let Some(state) = state
                        {
                            let policies = nics.nics().map(|nic| nic.policy()).collect();
                            change = state.write(dispatcher.config(), policies);
                        }
                        Answer {
                            response,
                            change,
                            takeover: dispatcher.take_takeover(),
                        }
                    });
                    if let Some(successor) = nics.wants_all.take()
                        && self.hand_over(successor)
                    {
                        return Ok(false);
                    }
                }
                Token(t) if OBSERVERS.contains(&t) => self.answer_observers(Token(t)),
                Token(t) if t >= QMP => {
                    let vf = VfIndex::from((t - QMP) % VFS);
                    self.hear((t - QMP) / VFS, vf);
                }
                Token(t) => {
                    let vf = VfIndex::from((t - VF) % VFS);
                    self.serve((t - VF) / VFS, vf);
                }
            }
        }
        if due.is_some() {
            let both = [Some(&mut self.clients), self.observers.as_mut()];
            for clients in both.into_iter().flatten() {
                clients.retry(self.poll.registry());
            }
            self.retry();
            self.flap();
            for token in std::mem::take(&mut self.late_observers) {
                self.answer_observers(token);
            }
        }
        Ok(true)
    }

    fn next_late_observer(&self, now: Instant) -> Option<Instant> {
        let waits = !self.late_observers.is_empty();
        waits.then(|| self.observers_had.waits_until(now).unwrap_or(now))
    }

    /// When the next cable comes out of its port or goes in again.
    fn next_flap(&self) -> Option<Instant> {
        let next = self.hosts.iter().filter_map(NicInstance::flap_at).min()?;
        Some(self.epoch + Duration::from_nanos(next.0))
    }

    /// Takes cables out and puts them in that are to be so now.
    fn flap(&mut self) {
        for h in 0..self.hosts.len() {
            let Some(host) = self.hosts.get_mut(h) else {
                continue;
            };
            let policy = host.flap_due().map(|command| host.policy().with(&command));
            let Some(Ok(policy)) = policy else { continue };
            let up = policy.carrier();
            host.set_policy(policy);
            host.tell(|| Happening::Carrier { up });
            if let Some(peer) = host.peer
                && let Ok([near, far]) = self.hosts.get_disjoint_mut([h, peer])
            {
                near.share_carrier(far);
            }
            self.links.make_alike(&mut self.hosts);
        }
    }

    fn answer_observers(&mut self, token: Token) {
        if self.observers_had.waits_until(Instant::now()).is_some() {
            self.late_observers.insert(token);
            return;
        }
        let before = thread_time();
        let now = self.now();
        let Some(observers) = &mut self.observers else {
            return;
        };
        let mut nics = OnWallClock {
            now,
            hosts: &mut self.hosts,
            links: &mut self.links,
            sockets: Sockets {
                registry: self.poll.registry(),
                access: self.access,
                polling: self.polling,
            },
            changed: false,
            brought: Vec::new(),
            asked_by: None,
            wants_all: None,
        };
        observers.serve(token, self.poll.registry(), |request, _| {
            let Ok(response) = self.dispatcher.answer_observer(&mut nics, request);
            Answer {
                takeover: self.dispatcher.take_takeover(),
                ..response.into()
            }
        });
        let took = thread_time().saturating_sub(before);
        self.observers_had.count(Instant::now(), took);
    }

    /// Serves the socket of a VF, now or when it is its turn.
    fn serve(&mut self, h: usize, vf: VfIndex) {
        let turns = self.shares.get_mut(h);
        let turns = turns.and_then(|vfs| vfs.get_mut(vf.index()));
        let (Some(host), Some(turns)) = (self.hosts.get_mut(h), turns) else {
            return;
        };
        let began = Instant::now();
        if !turns.may_be_served(began) {
            return;
        }
        let before = thread_time();
        host.poll(vf, began);
        turns.count(before);
    }

    /// Hears the monitor of a VF, now or when it is the VF's turn.
    fn hear(&mut self, h: usize, vf: VfIndex) {
        let turns = self.shares.get_mut(h);
        let turns = turns.and_then(|vfs| vfs.get_mut(vf.index()));
        let (Some(host), Some(turns)) = (self.hosts.get_mut(h), turns) else {
            return;
        };
        let began = Instant::now();
        if !turns.may_be_heard(began) {
            return;
        }
        let before = thread_time();
        host.hear_monitor(vf, began);
        turns.count(before);
    }

    /// Serves the sockets and monitors that are due for another attempt to connect.
    fn retry(&mut self) {
        let now = Instant::now();
        for h in 0..self.hosts.len() {
            for i in 0..self.hosts[h].vfs.len() {
                let socket = self.hosts[h].vfs[i].socket.as_ref();
                if self.shares[h][i].next(socket).is_some_and(|at| at <= now) {
                    self.serve(h, VfIndex::from(i));
                }
                let monitor = self.hosts[h].vfs[i].monitor.as_ref();
                if self.shares[h][i].hears(monitor).is_some_and(|at| at <= now) {
                    self.hear(h, VfIndex::from(i));
                }
            }
        }
    }

    /// Has path `auto` learn from what planes have seen, all at once and so much at a time.
    fn learn(&mut self) {
        let events: Vec<_> = self.events.try_iter().take(EVENTS).collect();
        for (h, host) in self.hosts.iter_mut().enumerate() {
            let of_host = events.iter().filter(|(host, _)| *host == h);
            let of_host: Vec<_> = of_host.map(|(_, event)| *event).collect();
            if !of_host.is_empty() {
                host.learn(&of_host);
            }
        }
    }

    fn hear_of_broken_rings(&mut self) {
        while let Ok((h, broken)) = self.broken.try_recv() {
            self.tell_of_broken(h, &broken);
            // A session whose memory has vanished ends here.
            self.serve(h, broken.vf);
        }
    }

    fn tell_of_broken(&self, h: usize, broken: &RingBroken) {
        let RingBroken { vf, ring, why } = *broken;
        if let Some(host) = self.hosts.get(h) {
            let device = format!("{} {vf}", host.settings.name);
            tracing::warn!(device, ring, %why, "ring is broken until its driver restarts it");
            let why = why.to_string();
            host.tell(|| Happening::RingBroken {
                vf: vf.0,
                ring,
                why,
            });
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        for host in &mut self.hosts {
            for i in 0..host.vfs.len() {
                host.close_session(VfIndex::from(i));
            }
        }
    }
}

/// Carries news from the planes' threads to the control thread.
#[derive(Clone)]
struct Reporter {
    to: Sender<(usize, RingBroken)>,
    learn: Sender<(usize, FastEvent)>,
    waker: Arc<Waker>,
}

impl Reporter {
    /// What a thread says of its planes, each of one of these hosts. Never waits.
    fn of(&self, hosts: Vec<usize>) -> impl Fn(usize, News) + Send + 'static {
        let Reporter { to, learn, waker } = self.clone();
        move |plane, news| {
            let Some(host) = hosts.get(plane) else { return };
            // These fail only when the control thread has gone, and the second when it has enough to learn from.
            let _ = match news {
                News::Broken(broken) => to.send((*host, broken)).is_ok(),
                News::Fast(event) => learn.try_send((*host, event)).is_ok(),
            };
            let _ = waker.wake();
        }
    }
}

/// Every guest brings half a dozen descriptors and more; the usual soft limit is too low for many VFs.
pub fn raise_descriptor_limit() {
    let limit = rustix::process::getrlimit(Resource::Nofile);
    let wanted = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    // If it is refused, a front end's descriptors will be, one session at a time.
    let _ = rustix::process::setrlimit(Resource::Nofile, wanted);
}
