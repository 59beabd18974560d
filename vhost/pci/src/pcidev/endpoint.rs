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
use vf_vhost::control::CtrlCommand;
use vf_vhost::endpoint::{Device, DeviceConfig, SessionEvent};
pub use vf_vhost::error::{BindError, SessionRefusal};
use vf_vhost::eventfd::EventFd;
use vf_vhost::features::{ProtocolFeatures, VirtioFeatures};
use vf_vhost::message_queue::MessageQueue;
use vf_vhost::ring::RingError;
use vf_vhost::vring::Vring;

use super::message::{Access, Command, MAX_LEN, Space, msi, piece};
use crate::function::{Function, Host};
use crate::slot::Slot;

/// The queue of the kernel's accesses.
const COMMANDS: u32 = 0;
/// The queue of the device's interrupts.
const INTERRUPTS: u32 = 1;

/// Writes after which the kernel is called so that it takes their buffers back, a part of the 256 that it has.
const UNCALLED: u32 = 64;

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
    vhost: vf_vhost::endpoint::Endpoint,
    device: Pcidev,
    /// Whether kicks and calls are messages.
    in_band: bool,
    registration: Option<(Registry, Token)>,
    /// The kicks that are registered.
    kicks: Vec<EventFd>,
}

/// What is behind the session.
#[derive(Debug)]
struct Pcidev {
    slot: Slot,
    commands: Option<MessageQueue>,
    interrupts: Option<MessageQueue>,
    /// What vectors lead to, where a thread waits for them; else they are looked at in turn.
    bells: Vec<EventFd>,
    /// Vectors that were raised and are not told yet, by number.
    raised: Vec<bool>,
    /// Writes since the kernel was last called.
    uncalled: u32,
    /// Whether messages were left for the next time.
    more: bool,
    answer: Vec<u8>,
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
        let mut config = DeviceConfig::new(name, [0; 6], 1);
        // Feature bits of a network device would be taken for those of this one.
        config.features = VirtioFeatures::VERSION_1
            | VirtioFeatures::INDIRECT_DESC
            | VirtioFeatures::PROTOCOL_FEATURES;
        if in_band {
            config.protocol_features |= ProtocolFeatures::INBAND_NOTIFICATIONS;
        }
        let slot = Slot::new(function);
        let vectors = slot.vectors().len();
        Ok(Endpoint {
            vhost: vf_vhost::endpoint::Endpoint::listen(path, config)?,
            device: Pcidev {
                slot,
                commands: None,
                interrupts: None,
                bells: Vec::new(),
                raised: vec![false; vectors],
                uncalled: 0,
                more: false,
                answer: Vec::new(),
            },
            in_band,
            registration: None,
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
        let bells = (0..self.device.raised.len()).map(|_| EventFd::new());
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
        if self.device.more {
            return Some(Instant::now());
        }
        self.vhost.next_timer()
    }

    /// Serves the guest: its session, what its kernel accesses, and the function's interrupts.
    pub fn poll(&mut self, now: Instant, nic: &mut dyn Attendant) {
        self.session(nic, |vhost, device| vhost.poll(now, device));
        if self.registration.is_some() {
            self.watch_kicks();
            for kick in &self.kicks {
                kick.drain();
            }
            self.obey(nic);
            self.call();
        }
    }

    /// Obeys what the kernel asks for by now. The function may have other queues then.
    pub fn obey(&mut self, nic: &mut dyn Attendant) {
        let nic: &mut dyn Host = nic;
        if let Err(why) = self.device.obey(nic) {
            tracing::warn!(%why, "broken queue of a PCI device");
        }
    }

    /// Whether the kernel is to be [called](Self::call): the function interrupts it, or it is to take buffers back.
    #[must_use]
    pub fn wants_call(&self) -> bool {
        self.device.has_interrupt() || self.device.uncalled >= UNCALLED
    }

    /// Tells the kernel of interrupts and calls it; it is to be heard until it has [answered](Self::awaits_reply) if calls are messages.
    pub fn call(&mut self) {
        self.device.collect();
        match self.device.tell() {
            Ok(true) => {
                self.vhost.call(INTERRUPTS);
            }
            Ok(false) => {}
            Err(why) => tracing::warn!(%why, "broken queue of a PCI device"),
        }
        // Behind a call fd, the queue says by itself whether the kernel wants to know.
        let called = match self.in_band {
            true => self.device.uncalled >= UNCALLED && self.vhost.call(COMMANDS),
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
                    tracing::warn!(%why, "cannot wait for a kick");
                }
            }
        }
        self.kicks = kicks;
    }
}

impl Pcidev {
    /// Vectors lead to where a thread waits, if one does.
    fn connect_vectors(&self) {
        for (vector, bell) in (0..).zip(&self.bells) {
            self.slot.vectors().set(vector, Some(bell.clone()));
        }
    }

    /// As after power-on: without a guest.
    fn power_on(&mut self, nic: &mut dyn Host) {
        self.slot.power_on(nic);
        self.raised.fill(false);
        self.connect_vectors();
    }

    fn obey(&mut self, nic: &mut dyn Host) -> Result<(), RingError> {
        let Pcidev {
            slot,
            commands: Some(commands),
            uncalled,
            more,
            answer,
            ..
        } = self
        else {
            return Ok(());
        };
        *more = false;
        for n in 0.. {
            if n == BUDGET {
                *more = true;
                break;
            }
            if !commands.take(MAX_LEN)? {
                break;
            }
            answer.clear();
            match Command::parse(commands.message()) {
                Some(command) => execute(slot, command, answer, nic),
                None => tracing::debug!("a message of a PCI bus that is none"),
            }
            commands.answer(answer)?;
            // What the kernel waits for, it looks for by itself, and sees what went before.
            *uncalled = match commands.room() {
                0 => uncalled.saturating_add(1),
                _ => 0,
            };
        }
        Ok(())
    }

    /// Whether a vector has been raised of which the kernel can be told.
    fn has_interrupt(&self) -> bool {
        let vectors = self.slot.vectors();
        let mut noted = (0..).zip(&self.raised);
        noted.any(|(n, &noted)| {
            (noted || vectors.is_pending(n)) && self.slot.msix_message(n).is_some()
        })
    }

    /// Notes which vectors have been raised.
    fn collect(&mut self) {
        let vectors = Arc::clone(self.slot.vectors());
        for (n, raised) in (0..).zip(&mut self.raised) {
            *raised |= vectors.take_pending(n);
        }
        for (bell, raised) in self.bells.iter().zip(&mut self.raised) {
            *raised |= bell.drain();
        }
    }

    /// Writes a message for each vector that has been raised and leads somewhere; whether the kernel is to be called for that.
    fn tell(&mut self) -> Result<bool, RingError> {
        let Pcidev {
            slot,
            interrupts: Some(queue),
            raised,
            ..
        } = self
        else {
            return Ok(false);
        };
        let mut told = false;
        for (n, raised) in (0..).zip(raised) {
            let Some((address, data)) = slot.msix_message(n).filter(|_| *raised) else {
                continue;
            };
            if !queue.take(0)? {
                // It is told when the kernel has given a buffer.
                break;
            }
            queue.answer(&msi(address, data))?;
            (*raised, told) = (false, true);
        }
        Ok(told && queue.call()?)
    }
}

/// Does what the kernel wants, and answers what it reads. What there is no answer to reads as ones.
fn execute(slot: &mut Slot, command: Command<'_>, answer: &mut Vec<u8>, nic: &mut dyn Host) {
    let Command {
        space,
        offset,
        access,
    } = command;
    let (len, data) = match access {
        Access::Read(len) => {
            answer.resize(len, 0xff);
            (len, None)
        }
        Access::Write(data) => (data.len(), Some(data)),
        Access::Fill(_, len) => (len, None),
    };
    let fill = match access {
        Access::Fill(byte, _) => Some([byte; 8]),
        Access::Read(_) | Access::Write(_) => None,
    };
    let mut done = 0;
    while done < len {
        let at = offset.wrapping_add(done as u64);
        let n = piece(at, len.saturating_sub(done));
        let end = done.saturating_add(n);
        let written = match (&fill, data) {
            (Some(bytes), _) => bytes.get(..n),
            (None, Some(data)) => data.get(done..end),
            (None, None) => None,
        };
        match (space, written, answer.get_mut(done..end)) {
            (Space::Config, Some(bytes), _) => slot.write_config(index(at), bytes, nic),
            (Space::Config, None, Some(read)) => slot.read_config(index(at), read),
            (Space::Bar(bar), Some(bytes), _) => {
                // A write that goes nowhere is lost, as on a bus.
                let _ = slot.write_bar(bar, at, bytes, nic);
            }
            (Space::Bar(bar), None, Some(read)) => {
                if slot.read_bar(bar, at, read, nic).is_err() {
                    read.fill(0xff);
                }
            }
            (_, None, None) => {}
        }
        done = end;
    }
}

/// An offset in configuration space; outside of it, if it does not fit.
fn index(offset: u64) -> usize {
    usize::try_from(offset).unwrap_or(usize::MAX)
}

impl Device for Attended<'_> {
    fn start_rings(&mut self, rings: Vec<Vring>) {
        for ring in rings {
            let memory = Arc::clone(ring.memory());
            self.device.slot.set_memory(memory, self.nic);
            match ring.index() {
                COMMANDS => self.device.commands = Some(MessageQueue::new(ring)),
                INTERRUPTS => self.device.interrupts = Some(MessageQueue::new(ring)),
                _ => {}
            }
        }
    }

    fn stop_rings(&mut self, rings: &[u32]) -> Vec<Option<Vring>> {
        // The guest's memory may go with its rings.
        self.device.slot.set_memory(Arc::default(), self.nic);
        let stop = |ring: &u32| {
            let queue = match *ring {
                COMMANDS => self.device.commands.take(),
                INTERRUPTS => self.device.interrupts.take(),
                _ => None,
            };
            queue.map(MessageQueue::into_vring)
        };
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
