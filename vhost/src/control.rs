//! The control queue of a network device (virtio 5.1.6.5): what the driver asks for, and the byte
//! that answers it.
//!
//! Reads and answers; to obey is the session's. A command that is not served is refused, a chain
//! that is no chain breaks this ring and nothing else.

use virtio_bindings::virtio_net as net;

use crate::ring::{RingError, Segment, Token};
use crate::vring::Vring;

const MQ: u8 = net::VIRTIO_NET_CTRL_MQ as u8;
const VQ_PAIRS_SET: u8 = net::VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET as u8;
const OK: u8 = net::VIRTIO_NET_OK as u8;
const ERR: u8 = net::VIRTIO_NET_ERR as u8;

/// What a driver asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Command {
    /// Use so many pairs of rings from now on.
    QueuePairs(u16),
    /// Something that is not served, or asked on a ring that is not enabled.
    Other,
}

/// The device's end of a control virtqueue.
#[derive(Debug)]
pub(crate) struct ControlQueue {
    vring: Vring,
    segments: Vec<Segment>,
    /// The chain of the command that is not answered yet, and the address of its answer.
    asked: Option<(Token, Option<u64>)>,
}

impl ControlQueue {
    pub(crate) fn new(vring: Vring) -> ControlQueue {
        ControlQueue {
            vring,
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
    pub(crate) fn next(&mut self) -> Result<Option<Command>, RingError> {
        if self.vring.is_broken() {
            return Ok(None);
        }
        self.try_next().map_err(|error| self.vring.fail(error))
    }

    fn try_next(&mut self) -> Result<Option<Command>, RingError> {
        let ring = &mut self.vring.ring;
        let taken = match ring.take()? {
            None if ring.set_notify(true)? => ring.take()?,
            taken => taken,
        };
        let Some(chain) = taken else {
            return Ok(None);
        };
        self.segments.clear();
        let asked = ring.walk(chain, false, &mut self.segments)?;
        let command = match (asked, self.read()?) {
            (4, [MQ, VQ_PAIRS_SET, low, high]) if self.vring.enabled() => {
                Command::QueuePairs(u16::from_le_bytes([low, high]))
            }
            _ => Command::Other,
        };
        self.segments.clear();
        self.vring.ring.walk(chain, true, &mut self.segments)?;
        let answer = self.segments.first().map(|segment| segment.gpa);
        self.asked = Some((chain.token, answer));
        Ok(Some(command))
    }

    /// The first bytes of the command, zeros behind its end.
    fn read(&self) -> Result<[u8; 4], RingError> {
        let mut command = [0; 4];
        let mut to = command.as_mut_slice();
        for segment in &self.segments {
            let n = to.len().min(segment.len as usize);
            let (now, later) = to.split_at_mut(n);
            let from = self.vring.ring.memory().slice(segment.gpa, n);
            from.ok_or(RingError::BufferOutside)?.copy_to(now);
            to = later;
        }
        Ok(command)
    }

    /// Tells the driver whether its command was obeyed, if it left room for that.
    pub(crate) fn answer(&mut self, obeyed: bool) -> Result<(), RingError> {
        let Some((chain, answer)) = self.asked.take() else {
            return Ok(());
        };
        let ring = &mut self.vring.ring;
        if let Some(byte) = answer.and_then(|gpa| ring.memory().slice(gpa, 1)) {
            byte.copy_from(&[if obeyed { OK } else { ERR }]);
        }
        ring.push_used(chain, answer.is_some().into());
        self.vring.flush();
        self.vring.fault().map_or(Ok(()), Err)
    }
}

#[cfg(test)]
mod tests;
