//! Time that frames from VF to VF take inside a NIC, on the virtual clock: what its bus lets through, shared by the VFs as the wire
//! is, and the latency of a DMA read and a write. Frames of the wire and of the PF do not pass here. Without it, as on the wall
//! clock, where this machine's own time is what counts, such frames are delivered at once. Never judges a frame.

use std::collections::VecDeque;

use vf_model::{Link, LinkConfig, Nanos, OnWire, Tagging, VfIndex, VfSet};

use super::super::fair_queue::FairQueue;
use crate::queue::Frame;

/// See the module.
pub(crate) struct Loopback {
    link: Link,
    queue: FairQueue,
    /// By VF, the frames that wait for the bus, one of each ring at most.
    waiting: Vec<VecDeque<Looped>>,
    /// When each is there, in that order.
    on_its_way: VecDeque<(Nanos, Looped)>,
}

/// A frame that has been judged.
pub(crate) struct Looped {
    /// Index of the ring that it came from.
    pub(crate) ring: u32,
    pub(crate) frame: Frame,
    pub(crate) to: VfSet,
    pub(crate) tagging: Tagging,
}

impl Looped {
    /// Each copy crosses the bus.
    fn bytes(&self) -> u64 {
        u64::from(self.frame.len()) * self.to.len() as u64
    }
}

impl Loopback {
    pub(super) fn new(config: LinkConfig, vfs: usize) -> Loopback {
        Loopback {
            link: Link::new(config),
            queue: FairQueue::new(vfs, 0),
            waiting: std::iter::repeat_with(VecDeque::new).take(vfs).collect(),
            on_its_way: VecDeque::new(),
        }
    }

    /// Takes a frame of a VF, whose ring has no other that waits.
    pub(crate) fn take(&mut self, now: Nanos, vf: VfIndex, looped: Looped) {
        if let Some(waiting) = self.waiting.get_mut(vf.index()) {
            waiting.push_back(looped);
            self.queue.wait(vf.index());
        }
        self.start(now);
    }

    /// Whether a frame of this ring waits.
    pub(crate) fn holds(&self, vf: VfIndex, ring: u32) -> bool {
        let waiting = self.waiting.get(vf.index());
        waiting.is_some_and(|waiting| waiting.iter().any(|looped| looped.ring == ring))
    }

    /// Has frames begin that wait, as far as the bus is free; how many.
    pub(super) fn start(&mut self, now: Nanos) -> usize {
        let mut started = 0;
        while self.link.free_at() <= now && self.start_next(now) {
            started += 1;
        }
        started
    }

    pub(super) fn start_next(&mut self, now: Nanos) -> bool {
        let Some(flow) = self.queue.next() else {
            return false;
        };
        self.queue.leave(flow);
        let Some(waiting) = self.waiting.get_mut(flow) else {
            return false;
        };
        let Some(looped) = waiting.pop_front() else {
            return false;
        };
        let bytes = looped.bytes();
        let arrival = self.link.put(now, OnWire { bytes, segments: 1 }).arrival;
        self.queue.charge(flow, bytes);
        if !waiting.is_empty() {
            self.queue.wait(flow);
        }
        self.on_its_way.push_back((arrival, looped));
        true
    }

    /// The next frame that is there by now.
    pub(super) fn arrived(&mut self, now: Nanos) -> Option<Looped> {
        let (arrival, _) = self.on_its_way.front()?;
        match *arrival <= now {
            true => self.on_its_way.pop_front().map(|(_, looped)| looped),
            false => None,
        }
    }

    /// When there is something to do.
    pub(super) fn next(&self) -> Option<Nanos> {
        let arrival = self.on_its_way.front().map(|(arrival, _)| *arrival);
        let start = self.queue.is_anyone_waiting().then(|| self.link.free_at());
        arrival.into_iter().chain(start).min()
    }
}
