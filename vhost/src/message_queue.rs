//! A queue of messages: each chain is what the driver says and room for the answer. The control queue of a network device is one,
//! and so are the queues by which User-Mode Linux reaches a PCI device. Knows no message.

#![expect(
    clippy::arithmetic_side_effects,
    reason = "bounded by the longest message"
)]
#![expect(
    clippy::cast_possible_truncation,
    reason = "cut to the width that the format has, or bounded before"
)]

use std::sync::Arc;

use crate::chain::{Fence, Segment, Token};
use crate::device_queue::DeviceQueue;
use crate::error::RingError;
use crate::memory::GuestMemory;
use crate::vring::Vring;

/// The device's end of a queue of messages; see the module.
#[derive(Debug)]
pub struct MessageQueue {
    pub(crate) vring: Vring,
    /// The bytes of the message that was taken last.
    message: Vec<u8>,
    /// Where its answer goes, if it is not answered yet.
    segments: Vec<Segment>,
    room: u64,
    /// Its chain.
    taken: Option<Token>,
}

impl MessageQueue {
    /// The queue on `vring`.
    #[must_use]
    pub fn new(vring: Vring) -> MessageQueue {
        MessageQueue {
            vring,
            message: Vec::new(),
            segments: Vec::new(),
            room: 0,
            taken: None,
        }
    }

    /// The ring below.
    #[must_use]
    pub fn vring(&self) -> &Vring {
        &self.vring
    }

    /// The memory of whoever is at the other end.
    #[must_use]
    pub fn memory(&self) -> &Arc<GuestMemory> {
        self.vring.memory()
    }

    /// Gives the ring back; a message that was not answered will be taken again.
    #[must_use]
    pub fn into_vring(mut self) -> Vring {
        self.vring.ring.rewind();
        self.vring
    }

    /// Takes the next message, to be [answered](Self::answer) before the one after it is taken; whether there is one. If there is
    /// none, the driver kicks when there is. Of one that is longer than `most` bytes, or came while the ring was disabled, nothing is read.
    ///
    /// # Errors
    /// The driver's. The ring is broken then, and has no more messages.
    pub fn take(&mut self, most: usize) -> Result<bool, RingError> {
        if self.vring.is_broken() {
            return Ok(false);
        }
        self.try_take(most).map_err(|error| self.vring.fail(error))
    }

    fn try_take(&mut self, most: usize) -> Result<bool, RingError> {
        let ring = &mut self.vring.ring;
        let taken = match ring.take()? {
            None if ring.set_notify(true)? => ring.take()?,
            taken => taken,
        };
        let Some(chain) = taken else {
            return Ok(false);
        };
        self.segments.clear();
        let len = ring.walk(chain, false, &mut self.segments)?;
        self.message.clear();
        if usize::try_from(len).is_ok_and(|len| len <= most) && self.vring.enabled() {
            self.read()?;
        }
        self.segments.clear();
        self.room = self.vring.ring.walk(chain, true, &mut self.segments)?;
        self.taken = Some(chain.token);
        Ok(true)
    }

    /// Copies the message, which is judged on this copy.
    fn read(&mut self) -> Result<(), RingError> {
        for segment in &self.segments {
            let (at, len) = (self.message.len(), segment.len as usize);
            self.message.resize(at + len, 0);
            let from = self.vring.ring.memory().slice(segment.gpa, len);
            let (_, to) = self.message.split_at_mut(at);
            from.ok_or(RingError::BufferOutside)?.copy_to(to);
        }
        Ok(())
    }

    /// The message that was taken last; empty if it was not read.
    #[must_use]
    pub fn message(&self) -> &[u8] {
        &self.message
    }

    /// Bytes that there is room for in its answer.
    #[must_use]
    pub fn room(&self) -> u64 {
        self.room
    }

    /// Answers the message that was taken last, as far as the driver left room. [`call`](Self::call) is to follow.
    ///
    /// # Errors
    /// As of [`take`](Self::take).
    pub fn answer(&mut self, answer: &[u8]) -> Result<(), RingError> {
        let Some(chain) = self.taken.take() else {
            return Ok(());
        };
        let ring = &mut self.vring.ring;
        let mut rest = answer;
        for segment in &self.segments {
            let (now, later) = rest.split_at(rest.len().min(segment.len as usize));
            if let Some(to) = ring.memory().slice_mut(segment.gpa, now.len()) {
                to.copy_from(now);
            }
            rest = later;
        }
        ring.push_used(chain, (answer.len() - rest.len()) as u32);
        self.vring.publish();
        self.vring.fault().map_or(Ok(()), Err)
    }

    /// Signals the call fd if anything was answered that the driver wants to know of; whether it does, also if there is no call fd.
    ///
    /// # Errors
    /// As of [`take`](Self::take).
    pub fn call(&mut self) -> Result<bool, RingError> {
        let wanted = self.vring.call(&Fence::after_publishing());
        self.vring
            .fault()
            .map_or(Ok(wanted.unwrap_or_default()), Err)
    }
}
