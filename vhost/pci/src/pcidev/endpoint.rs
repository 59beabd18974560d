//! The socket of one PCI function for User-Mode Linux: a vhost-user session of two queues with the function behind it.
//!
//! Never blocks. The kernel does not wait for what it writes, and takes the buffers of that back when it is called: it is called now and
//! then, or it would run out of them.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use vf_vhost::change_limiter::ChangeLimiter;
use vf_vhost::control::CtrlCommand;
use vf_vhost::endpoint::{Device, DeviceConfig, SessionEvent, TURN};
pub use vf_vhost::error::{BindError, SessionRefusal};
use vf_vhost::eventfd::EventFd;
use vf_vhost::features::{ProtocolFeatures, VirtioFeatures};
use vf_vhost::message_queue::MessageQueue;
use vf_vhost::ring::RingError;
use vf_vhost::vring::Vring;

use super::device::{COMMANDS, INTERRUPTS, Obeyed, Pcidev, UNCALLED};
use crate::counted::Counted;
use crate::function::{Function, Host};
use crate::slot::Slot;

/// Messages that are obeyed at a time: other devices share the thread.
const BUDGET: u32 = 256;

/// The NIC behind a socket: what the function asks it, and who hears what happens.
pub trait Attendant: Host {
    /// Hears what happens to the session.
    fn session(&mut self, event: SessionEvent<'_>);
}

/// See the module. [`Endpoint::close_session`] before dropping it, or the NIC keeps the queues.
#[derive(Debug)]
pub struct Endpoint {
    /// Who it is, in log lines.
    name: String,
    vhost: vf_vhost::endpoint::Endpoint,
    device: Pcidev,
    /// Whether kicks and calls are messages.
    in_band: bool,
    registration: Option<(Registry, Token)>,
    /// Whether messages were left for the next time.
    more: bool,
    changes: ChangeLimiter,
    /// The kicks that are registered.
    kicks: Vec<EventFd>,
}

/// The device as its session sees it.
struct Attended<'a> {
    device: &'a mut Pcidev,
    nic: &'a mut dyn Attendant,
}

impl Endpoint {
    /// Waits for guests of `function` at `path`. A stale socket file is replaced; the file is removed when the endpoint is dropped.
    /// With `in_band` kicks and calls are messages: whoever serves it [obeys](Self::obey) each kick and acknowledges it, and
    /// [calls](Self::call).
    ///
    /// # Errors
    /// Somebody listens there, something else is there, or the path cannot be used.
    pub fn listen(
        path: &Path,
        name: String,
        function: Box<dyn Function>,
        in_band: bool,
    ) -> Result<Endpoint, BindError> {
        let mut config = DeviceConfig::new(name.clone(), [0; 6], 1);
        // Feature bits of a network device would be taken for those of this one.
        config.features = VirtioFeatures::VERSION_1
            | VirtioFeatures::INDIRECT_DESC
            | VirtioFeatures::PROTOCOL_FEATURES;
        if in_band {
            config.protocol_features |= ProtocolFeatures::INBAND_NOTIFICATIONS;
        }
        Ok(Endpoint {
            name,
            vhost: vf_vhost::endpoint::Endpoint::listen(path, config)?,
            device: Pcidev::new(function),
            in_band,
            registration: None,
            more: false,
            changes: ChangeLimiter::default(),
            kicks: Vec::new(),
        })
    }

    /// Lets guests of other users connect.
    ///
    /// # Errors
    /// The kernel's.
    pub fn widen(&self, mode: u32, group: Option<u32>) -> io::Result<()> {
        self.vhost.widen(mode, group)
    }

    /// Has `registry` report `token` when there is something to [`Endpoint::poll`] for, an interrupt of the function among it. Poll once
    /// after this.
    ///
    /// # Errors
    /// The process or the system has too many open files.
    pub fn register(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        self.vhost.register(registry, token)?;
        let bells = (0..self.slot().vectors().len()).map(|_| EventFd::new());
        self.device.bells = bells.collect::<Result<_, _>>()?;
        for bell in &self.device.bells {
            let fd = bell.as_raw_fd();
            registry.register(&mut SourceFd(&fd), token, Interest::READABLE)?;
        }
        self.device.connect_vectors();
        self.registration = Some((registry.try_clone()?, token));
        Ok(())
    }

    /// When to [`Endpoint::poll`] even if no event comes.
    #[must_use]
    pub fn next_timer(&self) -> Option<Instant> {
        if self.more {
            return Some(Instant::now());
        }
        let timers = [self.vhost.next_timer(), self.changes.held_back()];
        timers.into_iter().flatten().min()
    }

    /// Serves the guest: its session, what its kernel accesses, and the function's interrupts.
    pub fn poll(&mut self, now: Instant, nic: &mut dyn Attendant) {
        self.session(nic, |vhost, device| vhost.poll(now, device));
        if self.registration.is_some() {
            self.watch_kicks();
            for kick in &self.kicks {
                kick.drain();
            }
            self.obey_in_turn(now, nic);
            self.call();
        }
    }

    /// Obeys what the kernel asks for by now, up to [`BUDGET`] messages and for a [`TURN`], and none while too many changes of queues hold it
    /// back. What is left of a message comes in the next turn.
    fn obey_in_turn(&mut self, now: Instant, nic: &mut dyn Attendant) {
        self.more = true;
        let (mut left, mut obeyed) = (BUDGET, false);
        while left > 0 && !(obeyed && now.elapsed() > TURN) {
            let held_back = self.changes.holds_back(now);
            let host = &mut *nic;
            let changes = &mut self.changes;
            let mut counted = Counted { host, changes, now };
            let what = match held_back {
                true => Obeyed::Nothing,
                false => obey_one(&mut self.device, &self.name, &mut counted),
            };
            match what {
                Obeyed::Nothing => {
                    self.more = false;
                    break;
                }
                Obeyed::Part => {}
                Obeyed::Message => left = left.saturating_sub(1),
            }
            obeyed = true;
        }
    }

    /// Obeys what the kernel asks for by now on the virtual clock, which stands still until that is done: nobody else waits for changes of its
    /// queues, which are not limited. The function may have other queues then.
    pub fn obey(&mut self, nic: &mut dyn Attendant) {
        let mut left = BUDGET;
        while left > 0 {
            match obey_one(&mut self.device, &self.name, nic) {
                Obeyed::Nothing => break,
                Obeyed::Part => {}
                Obeyed::Message => left = left.saturating_sub(1),
            }
        }
    }

    /// Whether the kernel is to be [called](Self::call): the function interrupts it, or it is to take buffers back.
    #[must_use]
    pub fn wants_call(&self) -> bool {
        self.device.has_interrupt() || self.device.uncalled >= UNCALLED
    }

    /// Tells the kernel of interrupts and calls it; it is to be heard until it has [answered](Self::awaits_reply) if calls are messages.
    pub fn call(&mut self) {
        match self.device.interrupt() {
            Ok(true) => {
                self.vhost.call(INTERRUPTS);
            }
            Ok(false) => {}
            Err(why) => broken(&self.name, &why),
        }
        // Nobody waits for a call of a read, and it may come while an interrupt reads: Linux's handler of it takes that answer away.
        if self.device.uncalled < UNCALLED {
            return;
        }
        // Behind a call fd, the queue says by itself whether the kernel wants to know.
        let called = match self.in_band {
            true => self.vhost.call(COMMANDS),
            false => {
                let called = self.device.commands.as_mut().map(MessageQueue::call);
                called == Some(Ok(true))
            }
        };
        if called {
            self.device.uncalled = 0;
        }
    }

    /// Tells the function that its NIC is another one for its driver.
    pub fn changed(&mut self, nic: &mut dyn Attendant) {
        self.device.slot.changed(nic);
    }

    /// Resets what is behind the registers, as an administrator of the NIC does.
    pub fn restart(&mut self, nic: &mut dyn Attendant) {
        self.device.slot.restart(nic);
    }

    /// The queue that the kernel kicked in band. It waits, and nothing more of it is served, until [`Endpoint::acknowledge_kick`].
    #[must_use]
    pub fn kick(&self) -> Option<u32> {
        self.vhost.kick()
    }

    /// Lets the kernel go on behind its kick.
    pub fn acknowledge_kick(&mut self, now: Instant, nic: &mut dyn Attendant) {
        self.session(nic, |vhost, device| vhost.acknowledge_kick(now, device));
    }

    /// Takes the kernel's answers to calls, and nothing else.
    pub fn hear_replies(&mut self, now: Instant, nic: &mut dyn Attendant) {
        self.session(nic, |vhost, device| vhost.hear_replies(now, device));
    }

    /// Whether the kernel has still to answer a call.
    #[must_use]
    pub fn awaits_reply(&self) -> bool {
        self.vhost.awaits_reply()
    }

    /// The socket on which something to [`Endpoint::hear_replies`] for may arrive.
    #[must_use]
    pub fn awaited_reply(&self) -> Option<BorrowedFd<'_>> {
        self.vhost.awaited_reply()
    }

    /// The socket on which something to [`Endpoint::poll`] for may arrive.
    #[must_use]
    pub fn socket(&self) -> Option<BorrowedFd<'_>> {
        self.vhost.socket()
    }

    /// Ends the session, if there is one.
    pub fn close_session(&mut self, now: Instant, nic: &mut dyn Attendant) {
        self.session(nic, |vhost, device| {
            vhost.close_session(SessionRefusal::Closed, now, device);
        });
    }

    /// The function and what is around it.
    #[must_use]
    pub fn slot(&self) -> &Slot {
        &self.device.slot
    }

    /// Whether a guest is served.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.vhost.is_connected()
    }

    /// Sessions begun so far.
    #[must_use]
    pub fn sessions(&self) -> u64 {
        self.vhost.sessions()
    }

    /// Requests refused so far.
    #[must_use]
    pub fn refusals(&self) -> u64 {
        self.vhost.refusals()
    }

    fn session<R>(
        &mut self,
        nic: &mut dyn Attendant,
        serve: impl FnOnce(&mut vf_vhost::endpoint::Endpoint, &mut dyn Device) -> R,
    ) -> R {
        let device = &mut self.device;
        serve(&mut self.vhost, &mut Attended { device, nic })
    }

    /// Waits for the kicks of the queues that there are now.
    fn watch_kicks(&mut self) {
        let queues = [&self.device.commands, &self.device.interrupts];
        let kicks = queues.into_iter().flatten();
        let kicks: Vec<_> = kicks.filter_map(|q| q.vring().kick_fd().cloned()).collect();
        let same = |(a, b): (&EventFd, &EventFd)| a.as_raw_fd() == b.as_raw_fd();
        if kicks.len() == self.kicks.len() && kicks.iter().zip(&self.kicks).all(same) {
            return;
        }
        if let Some((registry, token)) = &self.registration {
            for kick in self.kicks.drain(..) {
                // It may be gone.
                let _ = registry.deregister(&mut SourceFd(&kick.as_raw_fd()));
            }
            for kick in &kicks {
                let fd = kick.as_raw_fd();
                if let Err(why) = registry.register(&mut SourceFd(&fd), *token, Interest::READABLE)
                {
                    tracing::warn!(device = self.name.as_str(), %why, "cannot wait for a kick");
                }
            }
        }
        self.kicks = kicks;
    }
}

/// Obeys the next message of the kernel, or goes on with it; there is none on a queue that it has broken.
fn obey_one(device: &mut Pcidev, name: &str, nic: &mut dyn Host) -> Obeyed {
    device.obey(nic).unwrap_or_else(|why| {
        broken(name, &why);
        Obeyed::Nothing
    })
}

fn broken(device: &str, why: &RingError) {
    tracing::warn!(device, %why, "broken queue of a PCI device");
}

impl Device for Attended<'_> {
    fn start_rings(&mut self, rings: Vec<Vring>) {
        for ring in rings {
            let memory = Arc::clone(ring.memory());
            drop(self.device.slot.set_memory(memory, self.nic));
            self.device.start(ring);
        }
    }

    fn stop_rings(&mut self, rings: &[u32]) -> Vec<Option<Vring>> {
        // The guest's memory may go with its rings; the session has it as well, and gives it back.
        let none = self.device.slot.no_memory();
        drop(self.device.slot.set_memory(none, self.nic));
        let stop = |ring: &u32| self.device.stop(*ring);
        rings.iter().map(stop).collect()
    }

    fn allows(&mut self) -> bool {
        true
    }

    fn command(&mut self, _: &CtrlCommand) -> bool {
        false
    }

    fn session(&mut self, event: SessionEvent<'_>) {
        match event {
            SessionEvent::Connected | SessionEvent::Disconnected { .. } | SessionEvent::Reset => {
                self.device.power_on(self.nic);
            }
            // Those are of the bus, and not of a network device.
            SessionEvent::Negotiated { .. }
            | SessionEvent::Controlled { .. }
            | SessionEvent::Mtu(_) => return,
            _ => {}
        }
        self.nic.session(event);
    }
}

#[cfg(test)]
mod tests;
