//! The server's part of a hand-over ([`handover`](crate::handover)): everything stands still, is sent, and goes on at the other end or here.
//! Whoever else has asked for something waits that long. Never decides who may ask.

use std::mem;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use mio::Token;
use vf_model::VfIndex;
use vf_vhost::vring::Vring;

use super::Server;
use super::error::{RunError, system};
use super::sockets::Sockets;
use super::tokens::{VF, VFS};
use crate::clock::Clock;
use crate::handover::{self, Document, SavedState, Taken};
use crate::instance::NicInstance;
use crate::plane::WaitingFrame;
use crate::sandbox::Sandbox;
use crate::uplink::Position;

/// How long frames may be on their way when everything is to stand still: on a wire it is some microseconds.
const SETTLES: Duration = Duration::from_secs(1);
/// How long a state may take to be on the disk.
const WRITTEN: Duration = Duration::from_secs(2);

/// What stands still.
struct Still {
    /// Since when.
    since: Duration,
    /// The frames that wait for guests, by NIC.
    waiting: Vec<Vec<WaitingFrame>>,
    /// How far what is plugged into ports has come, by NIC.
    positions: Vec<Option<Position>>,
    /// What is plugged into ports, of those NICs where that is a descriptor.
    uplinks: Vec<OwnedFd>,
}

/// What of this process is not the server's, but is handed over with it.
#[derive(Debug)]
pub struct Belongings {
    /// The file that says that all is ready, which is locked.
    pub ready: OwnedFd,
    /// Where it logs to.
    pub log: OwnedFd,
    /// Where what commands change is kept, and the lock on that if it is not the folder of the sockets.
    pub state: Option<(SavedState, Option<OwnedFd>)>,
}

impl Server {
    /// Hands over to whoever asks for it from now on.
    pub fn keep_ready(&mut self, belongings: Belongings) {
        self.belongings = Some(belongings);
    }

    /// Everything of a process that runs, which stands still until [`Server::go_on`].
    ///
    /// # Errors
    /// [`RunError`]; that process is to be [told](Taken::refuse) then.
    pub fn take_over(taken: &mut Taken, sandbox: Sandbox) -> Result<Server, RunError> {
        let config = taken.config.clone();
        Server::begin(config, sandbox, Some(taken))
    }

    /// Has guests go on that another process has handed over, for good.
    pub fn go_on(&mut self, taken: &Taken) {
        self.clients.own();
        if let Some(observers) = &mut self.observers {
            observers.own();
        }
        if let Some(metrics) = &mut self.metrics {
            metrics.own();
        }
        let mut bytes = &*taken.frames;
        let nics = self.hosts.iter().zip(&taken.document.nics);
        let waiting = nics.map(|(host, saved)| host.restore_waiting(saved, &mut bytes));
        let waiting = waiting.collect();
        self.resume(waiting);
        let stood = handover::monotonic().saturating_sub(taken.document.still_since);
        tracing::info!("goes on where another process was; guests stood still for {stood:.1?}");
    }

    /// Goes on with what guests do not wait for.
    pub fn settle_in(&mut self, sandbox: Sandbox) {
        let ctl = self.dispatcher.config().ctl_socket();
        let serves = self
            .metrics
            .as_ref()
            .map(|metrics| metrics.serve(&ctl, sandbox));
        if let Some(Err(error)) = serves {
            tracing::error!("no metrics until a restart: {error}");
        }
    }

    /// Whether everything has been handed over. Nothing here is to be dropped then, as files and connections are the other process': it
    /// is waited for until that has told the service manager.
    pub fn has_handed_over(&self) -> bool {
        let Some(successor) = &self.successor else {
            return false;
        };
        handover::wait_for_end(successor);
        true
    }

    /// Hands everything over to the process at the other end, or goes on as if nobody had asked; whether it has.
    pub(super) fn hand_over(&mut self, successor: UnixStream) -> bool {
        match self.try_to_hand_over(&successor) {
            Ok(()) => {
                tracing::info!("handed over to another process");
                if let Some(state) = &self.state {
                    state.leave();
                }
                self.successor = Some(successor);
                true
            }
            Err(why) => {
                tracing::warn!("cannot hand over, and goes on: {why}");
                false
            }
        }
    }

    fn try_to_hand_over(&mut self, successor: &UnixStream) -> Result<(), String> {
        // Nobody hears of them later.
        self.hear_of_broken_rings();
        self.wait_for_state()?;
        if let Some(state) = &self.state {
            // What they have asked for holds in the other process.
            self.clients.keep_and_leave(state.kept().progress());
        }
        let policies = self.hosts.iter().map(|host| host.policy().saved());
        let policies: Vec<_> = policies.collect();
        let config = self.dispatcher.config().saved(&policies)?;
        let still = self.pause()?;
        let sent = self.send(successor, config, &still);
        let gone = sent.and_then(|()| handover::go(successor).map_err(|error| error.to_string()));
        if gone.is_err() {
            self.resume(still.waiting);
            self.look_at_all();
        }
        gone
    }

    /// What commands have changed is on the disk before another process goes on with the file.
    fn wait_for_state(&self) -> Result<(), String> {
        let end = Instant::now() + WRITTEN;
        let waits = || self.state.as_ref().is_some_and(|state| state.is_behind());
        while waits() {
            if Instant::now() > end {
                return Err("the state is not on the disk yet".to_owned());
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    /// Takes all rings from planes and pauses all sessions, when no frame is on its way; the frames that wait for guests.
    fn pause(&mut self) -> Result<Still, String> {
        let clock = Clock::Wall(self.epoch);
        let end = Instant::now() + SETTLES;
        let since = handover::monotonic();
        let mut planes: Vec<_> = self.hosts.iter().map(NicInstance::hold).collect();
        let taken = planes.iter_mut().map(|nic| nic.detach(clock.now(), false));
        let mut rings: Vec<Vec<(VfIndex, Vring)>> = taken.collect();
        let mut under_way = true;
        while under_way && Instant::now() < end {
            under_way = false;
            for nic in &mut planes {
                under_way |= nic.settle(clock.now());
            }
        }
        let uplinks = planes.iter().filter_map(|nic| nic.uplink().transpose());
        let uplinks: Result<Vec<_>, _> = uplinks.collect();
        let why = match (&uplinks, under_way) {
            (Err(error), _) => Some(error.to_string()),
            (Ok(_), true) => Some(format!(
                "frames are still on their way after {SETTLES:?} (impairments, or a rate of the mediated path's CPU)"
            )),
            (Ok(_), false) => None,
        };
        if let Some(why) = why {
            for (nic, rings) in planes.iter_mut().zip(rings) {
                nic.attach(clock.now(), rings, Vec::new());
            }
            return Err(why);
        }
        let positions = planes.iter().map(|nic| nic.position(clock.now()));
        let positions = positions.collect();
        let mut waiting = Vec::new();
        for (nic, rings) in planes.iter_mut().zip(&mut rings) {
            rings.extend(nic.detach(clock.now(), true));
            waiting.push(nic.take_waiting());
        }
        let broken: Vec<_> = planes.iter_mut().map(|nic| nic.take_broken()).collect();
        drop(planes);
        for (h, broken) in broken.into_iter().enumerate() {
            broken
                .iter()
                .for_each(|broken| self.tell_of_broken(h, broken));
        }
        for (host, rings) in self.hosts.iter_mut().zip(rings) {
            host.pause(rings);
        }
        let uplinks = uplinks.unwrap_or_default();
        Ok(Still {
            since,
            waiting,
            positions,
            uplinks,
        })
    }

    /// Has all sessions go on, and gives planes their rings at once: nobody sends to a guest that is not there yet.
    fn resume(&mut self, waiting: Vec<Vec<WaitingFrame>>) {
        let clock = Clock::Wall(self.epoch);
        let rings: Vec<_> = self.hosts.iter_mut().map(NicInstance::resume).collect();
        let mut planes: Vec<_> = self.hosts.iter().map(NicInstance::hold).collect();
        let all = planes.iter_mut().zip(rings).zip(waiting);
        for ((nic, rings), waiting) in all {
            nic.attach(clock.now(), rings, waiting);
        }
    }

    /// Serves each socket once: what has come meanwhile is told of once.
    pub(super) fn look_at_all(&mut self) {
        for h in 0..self.hosts.len() {
            for i in 0..self.hosts[h].vfs.len() {
                self.serve(h, VfIndex::from(i));
            }
        }
    }

    fn send(&self, successor: &UnixStream, config: String, still: &Still) -> Result<(), String> {
        let belongings = self.belongings.as_ref();
        let Belongings { ready, log, state } = belongings.ok_or("it is not ready itself")?;
        let mut fds: Vec<BorrowedFd<'_>> = vec![ready.as_fd(), log.as_fd()];
        let lock = state.as_ref().and_then(|(_, lock)| lock.as_ref());
        fds.extend(lock.map(AsFd::as_fd));
        fds.extend(still.uplinks.iter().map(AsFd::as_fd));
        let mut bytes = Vec::new();
        let nics = self.hosts.iter().zip(&still.waiting).zip(&still.positions);
        let nics = nics.map(|((host, waiting), position)| {
            let mut nic = host.save(waiting, &mut bytes, &mut fds);
            nic.position = *position;
            nic
        });
        let nics = nics.collect();
        fds.extend(self.observers.as_ref().map(|observers| observers.socket()));
        fds.push(self.clients.socket());
        fds.extend(self.metrics.as_ref().map(AsFd::as_fd));
        let kept = self.state.as_ref().map(|state| state.kept().progress());
        let document = Document {
            config,
            state: state.as_ref().map(|(state, _)| SavedState {
                unwritten: kept.is_some_and(|kept| kept.why_not.is_some()),
                ..state.clone()
            }),
            nics,
            still_since: still.since,
        };
        handover::send(successor, &document, &bytes, &fds)
    }
}

/// A host as another process has had it, its sessions paused.
pub(super) fn restore(
    h: usize,
    host: &mut NicInstance,
    taken: &mut Taken,
    sockets: Sockets<'_>,
) -> Result<(), RunError> {
    let Some(saved) = taken.document.nics.get_mut(h) else {
        return Ok(());
    };
    let foreign = |what: String, why: String| RunError::TakeOver { what, why };
    let restored = host.restore(saved);
    restored.map_err(|why| foreign(host.settings.name.clone(), why))?;
    let mut vfs = mem::take(&mut saved.vfs);
    for (i, saved) in vfs.iter_mut().enumerate().take(host.vfs.len()) {
        let vf = VfIndex::from(i);
        let socket = host.restore_socket(vf, saved, taken);
        let socket = socket
            .map_err(|why| foreign(format!("{} {vf}", host.settings.name), why.to_string()))?;
        if let Some(mut socket) = socket {
            socket
                .register(sockets.registry, Token(VF + h * VFS + i))
                .map_err(system("epoll"))?;
            host.vfs[i].socket = Some(socket);
        }
    }
    Ok(())
}
