//! The control queue of a network device (virtio 5.1.6.5): what the driver asks for, and the byte
//! that answers it.
//!
//! Reads and answers; to obey is the session's. A command that is not served is refused, a chain
//! that is no chain breaks this ring and nothing else.

#![expect(
    clippy::cast_possible_truncation,
    reason = "cut to the width that the format has"
)]

mod command;

use virtio_bindings::virtio_net as net;

pub(crate) use self::command::{Asked, Rings};
pub use self::command::{CtrlCommand, MAX_MACS, RxMode};
pub use crate::coalescing::Coalescing;
use crate::error::RingError;
use crate::message_queue::MessageQueue;
use crate::vring::Vring;

const OK: u8 = net::VIRTIO_NET_OK as u8;
const ERR: u8 = net::VIRTIO_NET_ERR as u8;

/// The device's end of a control virtqueue.
#[derive(Debug)]
pub(crate) struct ControlQueue {
    queue: MessageQueue,
}

impl ControlQueue {
    pub(crate) fn new(vring: Vring) -> ControlQueue {
        ControlQueue {
            queue: MessageQueue::new(vring),
        }
    }

    pub(crate) fn vring(&self) -> &Vring {
        self.queue.vring()
    }

    /// Gives the ring back; a command that was not answered will be taken again.
    pub(crate) fn into_vring(self) -> Vring {
        self.queue.into_vring()
    }

    /// The next command, to be [answered](Self::answer) before the one after it is taken. `None`
    /// if there is none: then the driver kicks when there is.
    ///
    /// An error is the driver's. The ring is broken then, and has no more commands.
    pub(crate) fn next(&mut self) -> Result<Option<Asked>, RingError> {
        if !self.queue.take(command::MAX_LEN)? {
            return Ok(None);
        }
        Ok(Some(match self.queue.message() {
            [] => Asked::Nothing,
            command => Asked::parse(command, self.vring().features()),
        }))
    }

    /// Tells the driver whether its command was obeyed, and behind that what it wanted to know, as
    /// far as it left room.
    pub(crate) fn answer(&mut self, obeyed: bool, result: &[u8]) -> Result<(), RingError> {
        let answer = [&[if obeyed { OK } else { ERR }], result].concat();
        self.queue.answer(&answer)?;
        self.call()
    }

    /// Calls a driver that waits for what was answered, perhaps by a process that was killed before it could call.
    ///
    /// # Errors
    /// The ring is broken.
    pub(crate) fn call(&mut self) -> Result<(), RingError> {
        self.queue.call().map(drop)
    }
}

#[cfg(test)]
mod tests;
