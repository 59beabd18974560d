//! A function on the PCI bus of User-Mode Linux: its slot, and the two queues by which the kernel reaches it and is interrupted. Knows no
//! socket and no session.

use vf_vhost::eventfd::EventFd;
use vf_vhost::message_queue::MessageQueue;
use vf_vhost::ring::RingError;
use vf_vhost::vring::Vring;

use super::message::{Access, Command, MAX_LEN, Space, msi, piece};
use crate::function::{Function, Host};
use crate::slot::Slot;

/// The queue of the kernel's accesses.
pub const COMMANDS: u32 = 0;
/// The queue of the device's interrupts.
pub const INTERRUPTS: u32 = 1;

/// Writes after which the kernel is called so that it takes their buffers back, a part of the 256 that it has.
pub(super) const UNCALLED: u32 = 64;

/// What obeying has come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Obeyed {
    /// There is no message.
    Nothing,
    /// One access of a message that means several.
    Part,
    /// All that was left of a message.
    Message,
}

/// See the module.
#[derive(Debug)]
pub struct Pcidev {
    pub(super) slot: Slot,
    pub(super) commands: Option<MessageQueue>,
    pub(super) interrupts: Option<MessageQueue>,
    /// What wakes the thread that waits for vectors, if one does; else they are looked at in turn.
    pub(super) bells: Vec<EventFd>,
    /// Writes since the kernel was last called.
    pub(super) uncalled: u32,
    answer: Vec<u8>,
    /// Of a message that is obeyed in part, how many bytes have been.
    under_way: Option<usize>,
}

impl Pcidev {
    /// A device with this function, and without a guest.
    #[must_use]
    pub fn new(function: Box<dyn Function>) -> Pcidev {
        Pcidev {
            slot: Slot::new(function),
            commands: None,
            interrupts: None,
            bells: Vec::new(),
            uncalled: 0,
            answer: Vec::new(),
            under_way: None,
        }
    }

    /// The function and what is around it.
    pub fn slot_mut(&mut self) -> &mut Slot {
        &mut self.slot
    }

    /// Takes one of the two queues over; of another ring nothing is known.
    pub fn start(&mut self, ring: Vring) {
        match ring.index() {
            COMMANDS => {
                self.under_way = None;
                self.commands = Some(MessageQueue::new(ring));
            }
            INTERRUPTS => self.interrupts = Some(MessageQueue::new(ring)),
            _ => {}
        }
    }

    /// Gives a queue up.
    pub fn stop(&mut self, ring: u32) -> Option<Vring> {
        let queue = match ring {
            COMMANDS => self.commands.take(),
            INTERRUPTS => self.interrupts.take(),
            _ => None,
        };
        queue.map(MessageQueue::into_vring)
    }

    /// Vectors wake the thread that waits for them, if one does.
    pub(super) fn connect_vectors(&self) {
        for (vector, bell) in (0..).zip(&self.bells) {
            self.slot.vectors().wake(vector, bell.clone());
        }
    }

    /// As after power-on: without a guest.
    pub(super) fn power_on(&mut self, nic: &mut dyn Host) {
        drop(self.slot.power_on(nic));
        self.connect_vectors();
    }

    /// Obeys the next message of the kernel, or goes on with it, by one access to the function, which may have other queues then: a message may
    /// be hundreds of accesses, and each of them dear.
    ///
    /// # Errors
    /// The kernel has broken the queue.
    pub fn obey(&mut self, nic: &mut dyn Host) -> Result<Obeyed, RingError> {
        let Some(commands) = &mut self.commands else {
            return Ok(Obeyed::Nothing);
        };
        let done = match self.under_way {
            Some(done) => done,
            None if commands.take(MAX_LEN)? => {
                self.answer.clear();
                0
            }
            None => return Ok(Obeyed::Nothing),
        };
        self.under_way = match Command::parse(commands.message()) {
            Some(command) => execute(&mut self.slot, command, done, &mut self.answer, nic),
            None => {
                tracing::debug!("a message of a PCI bus that is none");
                None
            }
        };
        if self.under_way.is_some() {
            return Ok(Obeyed::Part);
        }
        commands.answer(&self.answer)?;
        // What the kernel waits for, it looks for by itself, and sees what went before.
        self.uncalled = match commands.room() {
            0 => self.uncalled.saturating_add(1),
            _ => 0,
        };
        Ok(Obeyed::Message)
    }

    /// Whether a vector has been raised of which the kernel can be told.
    pub(super) fn has_interrupt(&self) -> bool {
        let vectors = self.slot.vectors();
        let mut all = 0..self.slot.identity().msix.vectors;
        all.any(|n| vectors.is_pending(n) && self.slot.msix_message(n).is_some())
    }

    /// Writes a message for each vector that has been raised and leads somewhere; whether the kernel is to be called for that.
    ///
    /// # Errors
    /// The kernel has broken the queue.
    pub fn interrupt(&mut self) -> Result<bool, RingError> {
        // Whoever raises one after this wakes the thread again.
        for bell in &self.bells {
            bell.drain();
        }
        let Pcidev {
            slot,
            interrupts: Some(queue),
            ..
        } = self
        else {
            return Ok(false);
        };
        let mut told = false;
        for n in 0..slot.identity().msix.vectors {
            let raised = slot.vectors().is_pending(n);
            let Some((address, data)) = slot.msix_message(n).filter(|_| raised) else {
                continue;
            };
            if !queue.take(0)? {
                // It is told when the kernel has given a buffer.
                break;
            }
            // What is raised from here on is another one.
            slot.vectors().take_pending(n);
            queue.answer(&msi(address, data))?;
            told = true;
        }
        Ok(told && queue.call()?)
    }
}

/// Does the next access of what the kernel wants, `done` bytes of which have been, and answers what it reads; how many bytes have been then, if
/// more are to be. What there is no answer to reads as ones.
fn execute(
    slot: &mut Slot,
    command: Command<'_>,
    done: usize,
    answer: &mut Vec<u8>,
    nic: &mut dyn Host,
) -> Option<usize> {
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
    if done >= len {
        return None;
    }
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
    (end < len).then_some(end)
}

/// An offset in configuration space; outside of it, if it does not fit.
fn index(offset: u64) -> usize {
    usize::try_from(offset).unwrap_or(usize::MAX)
}
