//! The control queue of a network device (virtio 5.1.6.5): what the driver asks for, and the byte
//! that answers it.
//!
//! Reads and answers; to obey is the session's. A command that is not served is refused, a chain
//! that is no chain breaks this ring and nothing else.

#![expect(
    clippy::arithmetic_side_effects,
    reason = "bounded by the longest command"
)]
#![expect(
    clippy::cast_possible_truncation,
    reason = "cut to the width that the format has, or bounded before"
)]

mod command;

use virtio_bindings::virtio_net as net;

pub(crate) use self::command::{Asked, Rings};
pub use self::command::{CtrlCommand, MAX_MACS, RxMode};
pub use crate::coalescing::Coalescing;
use crate::device_queue::DeviceQueue;
use crate::error::RingError;
use crate::ring::{Segment, Token};
use crate::vring::Vring;

const OK: u8 = net::VIRTIO_NET_OK as u8;
const ERR: u8 = net::VIRTIO_NET_ERR as u8;

/// The device's end of a control virtqueue.
#[derive(Debug)]
pub(crate) struct ControlQueue {
    vring: Vring,
    /// The bytes of the command that was taken last.
    command: Vec<u8>,
    /// Where its answer goes, if it is not answered yet.
    segments: Vec<Segment>,
    /// Its chain.
    asked: Option<Token>,
}

impl ControlQueue {
    pub(crate) fn new(vring: Vring) -> ControlQueue {
        ControlQueue {
            vring,
            command: Vec::new(),
            segments: Vec::new(),
            asked: None,
        }
    }

    pub(crate) fn vring(&self) -> &Vring {
        &self.vring
    }

    /// Gives the ring back; a command that was not answered will be taken again.
    pub(crate) fn into_vring(mut self) -> Vring {
        self.vring.ring.rewind();
        self.vring
    }

    /// The next command, to be [answered](Self::answer) before the one after it is taken. `None`
    /// if there is none: then the driver kicks when there is.
    ///
    /// An error is the driver's. The ring is broken then, and has no more commands.
    pub(crate) fn next(&mut self) -> Result<Option<Asked>, RingError> {
        if self.vring.is_broken() {
            return Ok(None);
        }
        self.try_next().map_err(|error| self.vring.fail(error))
    }

    fn try_next(&mut self) -> Result<Option<Asked>, RingError> {
        let ring = &mut self.vring.ring;
        let taken = match ring.take()? {
            None if ring.set_notify(true)? => ring.take()?,
            taken => taken,
        };
        let Some(chain) = taken else {
            return Ok(None);
        };
        self.segments.clear();
        let len = ring.walk(chain, false, &mut self.segments)?;
        self.command.clear();
        let asked = match usize::try_from(len) {
            Ok(len) if len <= command::MAX_LEN && self.vring.enabled() => {
                self.read()?;
                Asked::parse(&self.command, self.vring.features())
            }
            _ => Asked::Nothing,
        };
        self.segments.clear();
        self.vring.ring.walk(chain, true, &mut self.segments)?;
        self.asked = Some(chain.token);
        Ok(Some(asked))
    }

    /// Copies the command, which is judged on this copy.
    fn read(&mut self) -> Result<(), RingError> {
        for segment in &self.segments {
            let (at, len) = (self.command.len(), segment.len as usize);
            self.command.resize(at + len, 0);
            let from = self.vring.ring.memory().slice(segment.gpa, len);
            let (_, to) = self.command.split_at_mut(at);
            from.ok_or(RingError::BufferOutside)?.copy_to(to);
        }
        Ok(())
    }

    /// Tells the driver whether its command was obeyed, and behind that what it wanted to know, as
    /// far as it left room.
    pub(crate) fn answer(&mut self, obeyed: bool, result: &[u8]) -> Result<(), RingError> {
        let Some(chain) = self.asked.take() else {
            return Ok(());
        };
        let ring = &mut self.vring.ring;
        let answer = [&[if obeyed { OK } else { ERR }], result].concat();
        let mut rest = answer.as_slice();
        for segment in &self.segments {
            let (now, later) = rest.split_at(rest.len().min(segment.len as usize));
            if let Some(to) = ring.memory().slice_mut(segment.gpa, now.len()) {
                to.copy_from(now);
            }
            rest = later;
        }
        ring.push_used(chain, (answer.len() - rest.len()) as u32);
        self.vring.flush();
        self.vring.fault().map_or(Ok(()), Err)
    }
}

#[cfg(test)]
mod tests;
