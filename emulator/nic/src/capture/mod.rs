//! Captures of a NIC that runs: what somebody wants to see of its frames and events, and the bounded queue in which planes leave
//! copies for the thread that writes them. A plane never waits for a reader: what does not fit is counted as not captured.

pub mod event;
pub mod form;
pub mod lines;
pub mod paths;
mod pcapng;
pub mod read;
mod rule;
pub mod words;
pub mod writer;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use vf_model::{
    DropReason, FrameMatch, FrameMeta, HEAD_LEN, Nanos, Path, Policy, Source, Verdict, VfIndex,
};
use vf_vhost::frame::FrameBuf;

use self::event::Event;
use crate::queue::{Doorbell, Frame, FrameQueue, Pool, cost};
use crate::watch::{Direction, Port};

/// Frames and events that wait to be written.
const QUEUE: usize = 16 * 1024;
/// Bytes that wait in all captures of a NIC.
const BUDGET: u64 = 64 << 20;
/// What an event counts as against that.
const EVENT_BYTES: u64 = 256;

/// What a capture wants to see.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    /// The ports, each once; they are the capture's interfaces, in this order.
    pub ports: Vec<Port>,
    /// Whether only frames that are dropped are wanted.
    pub drops_only: bool,
    /// Whether events are wanted beside frames.
    pub events: bool,
    /// Bytes of each frame at most; 0 is all of them.
    pub snaplen: u32,
    /// Only frames like this.
    pub only: Option<FrameMatch>,
    /// Only frames that are judged at their port, each with the policy that it is judged by, and so many a second of a port at most.
    pub judged: Option<u32>,
    /// Whether an observer asks: what those have is counted for itself.
    pub observer: bool,
}

/// A frame as it passed a port, or was dropped there, with what was said of it.
#[derive(Debug)]
pub struct Captured {
    /// When, by the clock of its NIC.
    pub at: Nanos,
    /// Where.
    pub port: Port,
    /// Which way: as the guest sees it, as the NIC sees its wire, and as the hypervisor sees the PF.
    pub direction: Direction,
    /// The path of a VF's frame.
    pub path: Option<Path>,
    /// Which of the VF's queue pairs, counted from 0.
    pub queue: Option<u16>,
    /// Its bytes as they passed the port, [`Wanted::snaplen`] of them at most, but as many at least as a judge looks at. None of a
    /// frame that is none.
    pub frame: Frame,
    /// How long it is.
    pub len: u32,
    /// How many of its port had not been captured when it was.
    pub missed: u64,
    /// What was said of it, if it was judged here: where it enters the NIC.
    pub verdict: Option<Verdict>,
    /// Why it goes no further, if it does not.
    pub drop: Option<DropReason>,
    /// What it was judged by, if it was judged here and dropped.
    pub policy: Option<Arc<Policy>>,
}

impl Captured {
    /// Where it enters the NIC, if it does so here.
    #[must_use]
    pub fn source(&self) -> Option<Source> {
        match (self.port, self.direction) {
            (Port::Vf(vf), Direction::Tx) => Some(Source::Vf(vf)),
            (Port::Wire, Direction::Rx) => Some(Source::Wire),
            _ => None,
        }
    }

    /// What a judge needs to know of it beside its first bytes.
    #[must_use]
    pub fn meta(&self) -> FrameMeta {
        FrameMeta {
            len: self.len,
            gso: self.frame.offload.gso(),
        }
    }
}

/// What there is to be written.
#[derive(Debug)]
pub enum Item {
    /// A frame.
    Frame(Captured),
    /// Something has happened.
    Event(Event),
}

/// Bytes that wait in all captures of a NIC together. Each may have as many as are left: one that nobody reads half of all, two a third
/// each, and so those that are read always find room.
#[derive(Clone, Default)]
pub struct Budget(Arc<AtomicU64>);

impl Budget {
    /// Whether a capture that has so many may have more.
    fn has_room(&self, held: u64) -> bool {
        held < BUDGET.saturating_sub(self.0.load(Ordering::Relaxed))
    }

    /// Whether nothing waits.
    #[cfg(test)]
    pub(crate) fn is_unused(&self) -> bool {
        self.0.load(Ordering::Relaxed) == 0
    }

    fn take(&self, bytes: u64) {
        self.0.fetch_add(bytes, Ordering::Relaxed);
    }

    fn give(&self, bytes: u64) {
        self.0.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// See the module. Planes and whoever tells of events fill its queue, one thread empties it: theirs is the only lasting hold on it, so
/// that a plane that sleeps keeps nothing of one that is gone.
pub struct Capture {
    wanted: Wanted,
    /// The interface of each VF, and behind the last one those of wire and PF.
    interfaces: Vec<Option<usize>>,
    queue: FrameQueue<Item>,
    budget: Budget,
    /// By interface, and behind the last one events.
    missed: Vec<AtomicU64>,
    /// By interface: when the next frame is wanted, if only so many a second are.
    due: Vec<AtomicU64>,
    closed: AtomicBool,
    bell: Doorbell,
    pool: Pool,
}

impl Capture {
    /// A capture of a NIC with so many VFs; `bell` wakes the thread that writes what it sees.
    #[must_use]
    pub fn new(
        wanted: Wanted,
        vfs: usize,
        bell: Doorbell,
        pool: Pool,
        budget: Budget,
    ) -> Arc<Capture> {
        let mut interfaces = vec![None; vfs + 2];
        for (n, port) in wanted.ports.iter().enumerate() {
            if let Some(interface) = interfaces.get_mut(place(*port, vfs)) {
                *interface = Some(n);
            }
        }
        Arc::new(Capture {
            missed: (0..=wanted.ports.len())
                .map(|_| AtomicU64::new(0))
                .collect(),
            due: wanted.ports.iter().map(|_| AtomicU64::new(0)).collect(),
            wanted,
            interfaces,
            queue: FrameQueue::new(QUEUE, BUDGET),
            budget,
            closed: AtomicBool::new(false),
            bell,
            pool,
        })
    }

    /// What it wants to see.
    #[must_use]
    pub fn wanted(&self) -> &Wanted {
        &self.wanted
    }

    /// Which interface of the capture a port is, if it is one.
    #[must_use]
    pub fn interface(&self, port: Port) -> Option<usize> {
        let vfs = self.interfaces.len() - 2;
        self.interfaces.get(place(port, vfs)).copied().flatten()
    }

    /// Whether a frame at this port, one of the capture's interfaces, is wanted now. `judged`: it is judged there.
    pub(crate) fn wants_now(&self, interface: usize, judged: bool, now: Nanos) -> bool {
        let Some(rate) = self.wanted.judged else {
            return true;
        };
        let Some(due) = self.due.get(interface).filter(|_| judged) else {
            return false;
        };
        // Each port has one thread that shows its frames, or two at a switch of paths: one too many is no harm.
        let wanted = due.load(Ordering::Relaxed) <= now.0;
        if wanted {
            let next = now.0.saturating_add(1_000_000_000 / u64::from(rate.max(1)));
            due.store(next, Ordering::Relaxed);
        }
        wanted
    }

    /// How many bytes of a frame are kept, those for a judge included.
    pub(crate) fn kept(&self) -> usize {
        match self.wanted.snaplen {
            0 => usize::MAX,
            most => (most as usize).max(HEAD_LEN),
        }
    }

    /// Leaves a frame to be written; it is counted as not captured if too many wait already.
    pub(crate) fn push(&self, mut captured: Captured) {
        let port = captured.port;
        captured.missed = self
            .missed_of(port)
            .map_or(0, |n| n.load(Ordering::Relaxed));
        let wanted = self.wanted.only.as_ref();
        if wanted.is_some_and(|only| !only.has(captured.frame.head())) {
            self.pool.give(captured.frame);
            return;
        }
        if !self.leave(held(&captured.frame), Item::Frame(captured)) {
            self.miss(port, 1);
        }
    }

    /// Leaves what counts as so many bytes, if there is room for it; whether there is.
    fn leave(&self, bytes: u64, item: Item) -> bool {
        if !self.budget.has_room(self.queue.bytes()) {
            self.recycle(item);
            return false;
        }
        self.budget.take(bytes);
        match self.queue.push(bytes, item) {
            Ok(()) => {
                self.bell.ring();
                true
            }
            Err(item) => {
                self.budget.give(bytes);
                self.recycle(item);
                false
            }
        }
    }

    /// Tells of an event, if there is room.
    pub(crate) fn tell(&self, event: Event) {
        if !self.wanted.events {
            return;
        }
        if !self.leave(EVENT_BYTES, Item::Event(event))
            && let Some(events) = self.missed.last()
        {
            events.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Counts frames of a port that passed unseen.
    pub(crate) fn miss(&self, port: Port, frames: u64) {
        if let Some(missed) = self.missed_of(port) {
            missed.fetch_add(frames, Ordering::Relaxed);
        }
    }

    fn missed_of(&self, port: Port) -> Option<&AtomicU64> {
        self.interface(port).and_then(|n| self.missed.get(n))
    }

    /// What is to be written next.
    #[must_use]
    pub fn take(&self) -> Option<Item> {
        let (item, _) = self.queue.pop()?;
        self.budget.give(match &item {
            Item::Frame(captured) => held(&captured.frame),
            Item::Event(_) => EVENT_BYTES,
        });
        Some(item)
    }

    /// Throws away what is to be written.
    pub(crate) fn clear(&self) {
        while let Some(item) = self.take() {
            self.recycle(item);
        }
    }

    /// Whether nothing is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Takes back the buffer of what has been written.
    pub fn recycle(&self, item: Item) {
        if let Item::Frame(captured) = item {
            self.pool.give(captured.frame);
        }
    }

    /// How many frames of each interface have not been captured since the beginning; behind them, how many events.
    pub fn missed(&self) -> impl Iterator<Item = u64> + '_ {
        self.missed.iter().map(|n| n.load(Ordering::Relaxed))
    }

    /// Wants nothing more: planes forget it in their next round.
    pub fn close(&self) {
        self.closed.store(true, Ordering::Relaxed);
    }

    /// Whether nobody writes any more what it sees.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Relaxed)
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        self.clear();
    }
}

/// Bytes that a frame holds while it waits: its buffer may have had a longer one before.
fn held(frame: &FrameBuf) -> u64 {
    cost(frame).max(frame.data.capacity() as u64)
}

/// The place of a port among all of a NIC with so many VFs.
fn place(port: Port, vfs: usize) -> usize {
    match port {
        Port::Vf(vf) if vf.index() < vfs => vf.index(),
        Port::Vf(_) => usize::MAX,
        Port::Wire => vfs,
        Port::Pf => vfs + 1,
    }
}

/// All ports of a NIC with so many VFs.
#[must_use]
pub fn all_ports(vfs: usize) -> Vec<Port> {
    let vfs = (0..vfs).map(|vf| Port::Vf(VfIndex::from(vf)));
    vfs.chain([Port::Wire, Port::Pf]).collect()
}
