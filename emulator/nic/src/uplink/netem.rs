//! Impairments of what leaves a port, as Linux's netem has them (tc-netem(8), `net/sched/sch_netem.c`): delay with jitter, loss,
//! duplication, corruption, reordering; seeded, and the same on every machine where the time is. They are put between a port
//! and what is plugged into it when that is opened, so that a port without any pays nothing.
//!
//! A frame is impaired when the transmitter has sent it, as if in the cable: one that is lost has taken its time of the link,
//! and the port's share-out of the link is the same as without. Each direction of a wire is impaired where it is sent. Never
//! holds more than its limits, and never looks at a frame that has arrived.

mod chance;
#[cfg(test)]
mod tests;
mod words;

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::Arc;

use vf_model::{Counter, DropReason, FrameMeta, Link, LinkConfig, Nanos, OnWire};
use vf_packet::checksum::complete;
use vf_packet::{Offload, PartialChecksum, Segmenter};

use self::chance::{Chance, Correlated, Numbers};
use super::transmitter::Transmitter;
use super::{Arrivals, Statistic, TxFrame, TxRoom, Uplink};
use crate::queue::{Frame, Pool, cost};

pub use words::{NetemError, NetemSpec, Odds, Percent};

/// Time of the link that frames may take which are due and find it busy, since more of them came together than went in.
/// While it is more the port waits, as for any busy link.
const BUNCHED: Nanos = Nanos(200_000);

/// See the module.
pub(super) struct Netem {
    inner: Box<dyn Uplink>,
    spec: NetemSpec,
    /// The port's: the frames that are impaired come out of it.
    transmitter: Transmitter,
    loss: Chance,
    duplicate: Chance,
    corrupt: Chance,
    reorder: Chance,
    delay: Correlated,
    /// Which bit of a frame is turned over.
    place: Numbers,
    /// Frames since one was reordered.
    since_reorder: u32,
    /// By the time when they are due, and then in order.
    held: BTreeMap<(Nanos, u64), TxFrame>,
    /// Those that are due.
    due: VecDeque<TxFrame>,
    /// Byte times of those.
    due_bytes: u64,
    /// Of them what there may be before the port waits.
    most_due_bytes: u64,
    /// Memory of all that are here.
    memory: u64,
    /// Frames that have been held.
    serial: u64,
    /// What is handed over next.
    burst: Vec<TxFrame>,
    counters: Counters,
}

/// What has been done to frames that went on.
#[derive(Default)]
struct Counters {
    duplicated: Arc<Counter>,
    corrupted: Arc<Counter>,
    reordered: Arc<Counter>,
}

impl Netem {
    /// Impairs what is sent to `inner`. `port` tells apart ports whose random numbers begin with the same seed; `slack` is how
    /// far ahead of now a transmitter may be filled.
    pub(super) fn new(inner: Box<dyn Uplink>, spec: NetemSpec, port: usize, slack: Nanos) -> Netem {
        let config = LinkConfig {
            rate_bps: inner.link().rate_bps(),
            propagation: Nanos(0),
        };
        let seed = spec.seed.unwrap_or(0);
        // Six streams of numbers a port.
        let numbers = |n: u64| Numbers::new(seed, 8 * port as u64 + n);
        Netem {
            transmitter: Transmitter::new(config, slack),
            loss: Chance::new(spec.loss, numbers(0)),
            duplicate: Chance::new(spec.duplicate, numbers(1)),
            corrupt: Chance::new(spec.corrupt, numbers(2)),
            reorder: Chance::new(spec.reorder, numbers(3)),
            delay: Correlated::new(spec.delay_correlation, numbers(4)),
            place: numbers(5),
            since_reorder: 0,
            held: BTreeMap::new(),
            due: VecDeque::new(),
            due_bytes: 0,
            most_due_bytes: config.rate_bps / 8 * BUNCHED.0 / 1_000_000_000,
            memory: 0,
            serial: 0,
            burst: Vec::new(),
            counters: Counters::default(),
            inner,
            spec,
        }
    }

    /// A frame has come out of the port.
    fn impair(
        &mut self,
        start: Nanos,
        sent: TxFrame,
        pool: &Pool,
        lost: &mut dyn FnMut(DropReason),
    ) {
        match (self.duplicate.happens(), self.loss.happens()) {
            (false, true) => return lose(sent, DropReason::NetemLoss, pool, lost),
            (true, false) => {
                let frame = pool.copy(&sent.frame);
                let copy = TxFrame { frame, ..sent };
                self.counters.duplicated.add(1);
                match self.loss.happens() {
                    true => lose(copy, DropReason::NetemLoss, pool, lost),
                    false => self.hold(start, copy, pool, lost),
                }
            }
            // Of one that is lost and goes twice, one goes.
            (true, true) | (false, false) => {}
        }
        self.hold(start, sent, pool, lost);
    }

    /// A frame is on its way that will not be lost.
    fn hold(
        &mut self,
        start: Nanos,
        mut sent: TxFrame,
        pool: &Pool,
        lost: &mut dyn FnMut(DropReason),
    ) {
        if self.corrupt.happens() && self.turn_a_bit_over(&mut sent.frame) {
            self.counters.corrupted.add(1);
        }
        let frames = self.held.len() + self.due.len();
        if frames >= self.spec.limit || self.memory >= self.spec.memory_limit {
            return lose(sent, DropReason::NetemLimit, pool, lost);
        }
        self.memory += cost(&sent.frame);
        let (delay, jitter) = (self.spec.delay.0, self.spec.jitter.0);
        if delay == 0 && jitter == 0 {
            return self.push_due(sent);
        }
        if self.since_reorder >= self.spec.gap - 1 && self.reorder.happens() {
            self.since_reorder = 0;
            self.counters.reordered.add(1);
            return self.push_due(sent);
        }
        self.since_reorder = self.since_reorder.saturating_add(1);
        let at = start + Nanos(self.delay.time(delay, jitter));
        self.held.insert((at, self.serial), sent);
        self.serial += 1;
    }

    fn push_due(&mut self, frame: TxFrame) {
        self.due_bytes += frame.on_wire.bytes;
        self.due.push_back(frame);
    }

    /// Whether it worked: a frame that other hardware was to finish is finished first, so that nobody takes it for right.
    fn turn_a_bit_over(&mut self, frame: &mut Frame) -> bool {
        if frame.offload.gso().is_some() {
            return false;
        }
        if let Some(PartialChecksum { start, offset }) = frame.offload.checksum()
            && complete(&mut frame.data, start, offset).is_err()
        {
            return false;
        }
        frame.offload = Offload::default();
        let bit = self.place.below(8 * frame.data.len() as u64);
        let byte = usize::try_from(bit / 8)
            .ok()
            .and_then(|at| frame.data.get_mut(at));
        byte.map(|byte| *byte ^= 1 << (bit % 8)).is_some()
    }

    /// Hands over what is due, as far as there is room.
    fn release(&mut self, now: Nanos, pool: &Pool, lost: &mut dyn FnMut(DropReason)) {
        while let Some(first) = self.held.first_entry()
            && first.key().0 <= now
        {
            let frame = first.remove();
            self.push_due(frame);
        }
        let mut room = self.inner.tx_room(now, pool, lost);
        while room.any()
            && let Some(frame) = self.due.pop_front()
        {
            room.take(frame.on_wire.bytes);
            self.due_bytes -= frame.on_wire.bytes;
            self.memory -= cost(&frame.frame);
            self.burst.push(frame);
        }
        if !self.burst.is_empty() {
            self.inner.tx_burst(now, &mut self.burst, pool, lost);
        }
    }

    /// Whether the port has to wait for what is due.
    fn is_bunched(&self) -> bool {
        self.due_bytes > self.most_due_bytes
    }
}

/// A frame goes nowhere.
fn lose(sent: TxFrame, why: DropReason, pool: &Pool, lost: &mut dyn FnMut(DropReason)) {
    lost(why);
    pool.give(sent.frame);
}

/// The frames that a super-frame is on the wire; any other frame is itself.
fn segments(sent: TxFrame, pool: &Pool, mut each: impl FnMut(TxFrame)) {
    let gso = sent.frame.offload.gso();
    let cutter = gso.and_then(|gso| Segmenter::new(&sent.frame.data, gso.size));
    let Some(mut cutter) = cutter else {
        return each(sent);
    };
    while let Some((header, payload)) = cutter.next_segment() {
        let mut frame = pool.take(header.len() + payload.len());
        frame.offload = Offload::default();
        frame.data.clear();
        frame.data.extend_from_slice(header);
        frame.data.extend_from_slice(payload);
        let meta = FrameMeta {
            len: frame.len(),
            gso: None,
        };
        let on_wire = OnWire::of(&meta);
        each(TxFrame { frame, on_wire });
    }
    pool.give(sent.frame);
}

impl Uplink for Netem {
    fn tx_room(&mut self, now: Nanos, pool: &Pool, lost: &mut dyn FnMut(DropReason)) -> TxRoom {
        self.release(now, pool, lost);
        let frames = if self.is_bunched() { 0 } else { usize::MAX };
        self.transmitter.room(now, frames)
    }

    fn tx_room_at(&mut self) -> Option<Nanos> {
        match self.is_bunched() {
            true => self.inner.tx_room_at(),
            false => Some(self.transmitter.room_at()),
        }
    }

    fn tx_burst(
        &mut self,
        now: Nanos,
        frames: &mut Vec<TxFrame>,
        pool: &Pool,
        lost: &mut dyn FnMut(DropReason),
    ) {
        let start = self.transmitter.start(now);
        for sent in frames.drain(..) {
            let start = self.transmitter.put(start, sent.on_wire).start;
            match self.spec.tells_frames_apart() {
                true => segments(sent, pool, |segment| {
                    self.impair(start, segment, pool, lost)
                }),
                false => self.hold(start, sent, pool, lost),
            }
        }
        self.transmitter.sent(now);
        self.release(now, pool, lost);
    }

    fn rx_burst(&mut self, now: Nanos, limit: usize, pool: &Pool, arrivals: &mut Arrivals) {
        self.inner.rx_burst(now, limit, pool, arrivals);
    }

    fn next(&mut self) -> Option<Nanos> {
        let own = match self.due.is_empty() {
            true => self.held.first_key_value().map(|((at, _), _)| *at),
            false => self.inner.tx_room_at(),
        };
        self.inner.next().into_iter().chain(own).min()
    }

    fn slept(&mut self) {
        self.transmitter.slept();
        self.inner.slept();
    }

    fn register(&self, registry: &mio::Registry) {
        self.inner.register(registry);
    }

    fn link(&self) -> &Link {
        self.transmitter.link()
    }

    fn statistics(&self) -> Vec<Statistic> {
        let Counters {
            duplicated,
            corrupted,
            reordered,
        } = &self.counters;
        let own = [
            ("netem_duplicated", duplicated),
            ("netem_corrupted", corrupted),
            ("netem_reordered", reordered),
        ];
        let own = own.map(|(name, counter)| (name, Arc::clone(counter)));
        self.inner.statistics().into_iter().chain(own).collect()
    }
}

impl fmt::Display for Netem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} netem {}", self.inner, self.spec)
    }
}
