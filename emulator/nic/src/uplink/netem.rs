//! Impairments of what leaves a port: a transmitter and a queue in front of an uplink, which are there while the port is impaired,
//! so that one that is not pays nothing.
//!
//! A frame is impaired when the transmitter has sent it, as if in the cable: one that is lost has taken its time of the link,
//! and the port's share-out of the link is the same as without. Each direction of a wire is impaired where it is sent, or where it
//! comes in. Never looks at a frame that has arrived.

#[cfg(test)]
mod tests;

use std::sync::Arc;

use vf_model::{Link, LinkConfig, Nanos, NetemSpec, OnWire};

use super::transmitter::Transmitter;
use super::{Lost, TxFrame, TxRoom, Uplink};
use crate::netem::{Counters, NetemQueue, Place};
use crate::queue::{Frame, Pool};

/// Time of the link that frames may take which are due and find it busy, since more of them came together than went in.
/// While it is more the port waits, as for any busy link.
const BUNCHED: Nanos = Nanos(200_000);

/// See the module. Each method is that of the [`Uplink`] that it is in front of, which it is given.
pub(crate) struct Netem {
    queue: NetemQueue<OnWire>,
    /// The port's: the frames that are impaired come out of it.
    transmitter: Transmitter,
    /// Byte times of what is due that there may be before the port waits.
    most_due_bytes: u64,
    /// What is handed over next.
    burst: Vec<TxFrame>,
}

impl Netem {
    /// Impairs what is sent to `uplink`, and goes on where its transmitter is; `slack` is how far ahead of now a transmitter may be
    /// filled.
    pub(crate) fn new(
        uplink: &mut dyn Uplink,
        spec: Arc<NetemSpec>,
        place: Place,
        slack: Nanos,
        counters: Counters,
    ) -> Netem {
        let config = LinkConfig {
            rate_bps: uplink.link().rate_bps(),
            propagation: Nanos(0),
        };
        let mut transmitter = Transmitter::new(config, slack);
        transmitter.take_over(uplink.link_mut());
        Netem {
            queue: NetemQueue::new(spec, place, counters),
            transmitter,
            most_due_bytes: config.rate_bps / 8 * BUNCHED.0 / 1_000_000_000,
            burst: Vec::new(),
        }
    }

    /// Impairs by other words from now on, or nothing, and lets go what is held back.
    pub(crate) fn change(&mut self, spec: Option<&Arc<NetemSpec>>) {
        self.queue.change(spec);
    }

    /// Whether it has nothing to do any more.
    pub(crate) fn is_over(&self) -> bool {
        self.queue.is_over()
    }

    /// Gives the uplink its transmitter back.
    pub(crate) fn leave(&mut self, uplink: &mut dyn Uplink) {
        uplink.link_mut().take_over(self.transmitter.link_mut());
    }

    /// Hands over what is due, as far as there is room.
    fn release(&mut self, uplink: &mut dyn Uplink, now: Nanos, pool: &Pool, lost: &mut Lost<'_>) {
        self.queue.look(now);
        let mut room = uplink.tx_room(now, pool, lost);
        while room.any()
            && let Some((frame, on_wire)) = self.queue.pop()
        {
            room.take(on_wire.bytes);
            self.burst.push(TxFrame { frame, on_wire });
        }
        if !self.burst.is_empty() {
            uplink.tx_burst(now, &mut self.burst, pool, lost);
        }
    }

    /// Whether the port has to wait for what is due.
    fn is_bunched(&self) -> bool {
        self.queue.due_bytes() > self.most_due_bytes
    }

    pub(crate) fn tx_room(
        &mut self,
        uplink: &mut dyn Uplink,
        now: Nanos,
        pool: &Pool,
        lost: &mut Lost<'_>,
    ) -> TxRoom {
        self.release(uplink, now, pool, lost);
        let frames = if self.is_bunched() { 0 } else { usize::MAX };
        self.transmitter.room(now, frames)
    }

    pub(crate) fn tx_room_at(&mut self, uplink: &mut dyn Uplink) -> Option<Nanos> {
        match self.is_bunched() {
            true => uplink.tx_room_at(),
            false => Some(self.transmitter.room_at()),
        }
    }

    pub(crate) fn tx_burst(
        &mut self,
        uplink: &mut dyn Uplink,
        now: Nanos,
        frames: &mut Vec<TxFrame>,
        pool: &Pool,
        lost: &mut Lost<'_>,
    ) {
        let start = self.transmitter.start(now);
        for TxFrame { frame, on_wire } in frames.drain(..) {
            let start = self.transmitter.put(start, on_wire).start;
            let mut lose = |why, frame: Frame| {
                lost(why, &frame);
                pool.give(frame);
            };
            let queue = &mut self.queue;
            queue.put_any(
                start,
                frame,
                on_wire,
                |of_segment| of_segment,
                pool,
                &mut lose,
            );
        }
        self.transmitter.sent(now);
        self.release(uplink, now, pool, lost);
    }

    /// When something of what is held back goes on.
    pub(crate) fn next(&mut self, uplink: &mut dyn Uplink) -> Option<Nanos> {
        match self.queue.first() {
            None => self.queue.next(),
            Some(_) => uplink.tx_room_at(),
        }
    }

    pub(crate) fn slept(&mut self) {
        self.transmitter.slept();
    }

    pub(crate) fn link(&self) -> &Link {
        self.transmitter.link()
    }
}
