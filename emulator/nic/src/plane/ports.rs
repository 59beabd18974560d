//! The rings of the VFs that a plane owns, once for both paths: who has them, which of them are looked at, what is published
//! and who is called. Never judges a frame.

use std::sync::Arc;

use vf_model::{DropReason, Judge, Nanos, Policy, VfIndex, VfSet};
use vf_vhost::frame::TagEdit;
use vf_vhost::ring::Fence;
use vf_vhost::rx::{BURST_EFFORT, EFFORTLESS};
use vf_vhost::vring::Vring;

use super::active_set::ActiveSet;
use super::captures::Passing;
use super::impaired::VfNetem;
use super::kicks::{Kicks, POLLED};
use super::port::{HeldBack, Notified, TxPort, is_rx, queue_pair, reason};
use super::receivers::{FrameSource, Patience, Receivers};
use super::statistics::PlaneStatistics;
use super::traffic::Traffic;
use crate::netem::NetemQueue;
use crate::queue::{Frame, Pool};
use crate::thread::RingBroken;
use crate::watch::{Direction, Port};

/// See the module.
pub(super) struct VfPorts {
    /// The transmit rings, by VF.
    pub(super) tx: Vec<TxPort>,
    pub(super) rx: Receivers,
    /// What is held back of what VFs send, each frame with the index of its ring.
    pub(super) impaired: VfNetem<u32>,
    /// By which it is impaired.
    policy: Option<Arc<Policy>>,
    pub(super) active: ActiveSet,
    /// VFs of whose transmit rings something was used and their driver has not been told.
    pub(super) tx_needs_call: VfSet,
    held: HeldBack,
    notified: Notified,
    kicks: Kicks,
}

/// What is held back of what a VF sends, and of what it is to get.
pub(super) type Held = (
    Option<Box<NetemQueue<u32>>>,
    Option<Box<NetemQueue<vf_model::TagEdit>>>,
);

/// What there was in a transmit ring.
pub(super) enum Fetched {
    /// So many frames, none perhaps.
    Frames(usize),
    /// So many that were thrown away, since the ring is disabled.
    Discarded(usize),
}

impl VfPorts {
    pub(super) fn new(vfs: usize, patience: Patience, pool: Pool) -> VfPorts {
        VfPorts {
            tx: std::iter::repeat_with(TxPort::default).take(vfs).collect(),
            rx: Receivers::new(vfs, patience, pool),
            impaired: VfNetem::of_sent(vfs),
            policy: None,
            active: ActiveSet::default(),
            tx_needs_call: VfSet::default(),
            held: HeldBack::default(),
            notified: Notified::default(),
            kicks: Kicks::default(),
        }
    }

    /// Which NIC of its process it is.
    pub(super) fn set_nic(&mut self, nic: usize) {
        self.impaired.set_nic(nic);
        self.rx.set_nic(nic);
        if let Some(policy) = self.policy.take() {
            // Nothing has passed yet: what is impaired begins with the numbers of that NIC.
            for vf in (0..self.tx.len()).map(VfIndex::from) {
                self.impaired.take(vf);
                self.rx.take_impaired(vf);
            }
            self.adopt(&policy);
        }
    }

    /// Impairs what passes VFs as a policy says.
    pub(super) fn adopt(&mut self, policy: &Arc<Policy>) {
        let same = |last: &Arc<Policy>| last.has_same_vfs(policy);
        if !self.policy.as_ref().is_some_and(same) {
            self.impaired.adopt(policy);
            self.rx.adopt(policy);
            self.policy = Some(Arc::clone(policy));
        }
    }

    /// What is held back of a VF, to be given with its rings to whoever gets those.
    pub(super) fn take_impaired(&mut self, vf: VfIndex) -> Held {
        (self.impaired.take(vf), self.rx.take_impaired(vf))
    }

    /// The same, from who had them.
    pub(super) fn give_impaired(&mut self, vf: VfIndex, (sent, received): Held) {
        self.impaired.give(vf, sent);
        self.rx.give_impaired(vf, received);
    }

    /// Takes the frames that have been fetched from a transmit ring of an impaired VF; how many.
    pub(super) fn impair(
        &mut self,
        now: Nanos,
        model: &mut impl Judge,
        vf: VfIndex,
        q: usize,
    ) -> usize {
        let (Some(held), Some(slot)) =
            (self.impaired.of(vf), self.tx[vf.index()].queues.get_mut(q))
        else {
            return 0;
        };
        let ring = slot.queue.vring().index();
        let (rx, pair) = (&mut self.rx, queue_pair(ring));
        let (mut taken, mut done) = (Traffic::default(), 0);
        let enough = rx.effort + BURST_EFFORT;
        for frame in slot.queue.fetched() {
            if rx.effort >= enough {
                break;
            }
            done += 1;
            if let Some(fault) = frame.fault() {
                let fault = reason(fault);
                rx.captures
                    .no_frame(model.policy(), &rx.pool, vf, pair, fault);
                model.count_tx_drop(vf, fault);
                continue;
            }
            taken.add(frame.len());
            rx.load.copies.add(1);
            let copy = FrameSource::Guest(&slot.queue, frame).copy(&rx.pool);
            let mut lose = |why, frame: Frame| {
                let passing = Passing {
                    port: Port::Vf(vf),
                    direction: Direction::Tx,
                    queue: Some(pair),
                    frame: FrameSource::Private(&frame),
                    edit: TagEdit::Keep,
                    verdict: None,
                    drop: Some(why),
                };
                rx.captures.see(model.policy(), &rx.pool, &passing);
                model.count_tx_drop(vf, why);
                rx.pool.give(frame);
            };
            let segments = held.put_any(now, copy, ring, |_| ring, &rx.pool, &mut lose);
            rx.effort += segments.saturating_sub(EFFORTLESS);
        }
        slot.queue.complete(done);
        slot.queue.publish();
        self.tx[vf.index()].traffic.add(ring, taken);
        if done > 0 {
            self.tx_needs_call.insert(vf);
        }
        done
    }

    /// Takes over a ring.
    pub(super) fn attach(&mut self, vf: VfIndex, mut vring: Vring) {
        self.kicks.add(&vring);
        if let Some(why) = vring.news() {
            let ring = vring.index();
            self.rx.broken.push(RingBroken { vf, ring, why });
        }
        if vring.needs_call() {
            match is_rx(vring.index()) {
                true => self.rx.needs_call.insert(vf),
                false => self.tx_needs_call.insert(vf),
            }
        }
        if is_rx(vring.index()) {
            self.rx.ports[vf.index()].attach(vring);
        } else {
            self.tx[vf.index()].attach(vring);
            self.active.attach(vf);
        }
    }

    /// Gives a ring up; afterwards nobody here touches it.
    pub(super) fn detach(&mut self, vf: VfIndex, ring: u32) -> Option<Vring> {
        let (mut vring, known) = if is_rx(ring) {
            self.rx.ports[vf.index()].detach(ring)
        } else {
            self.tx[vf.index()].detach(ring)
        }?;
        // A look whether there is work can break a ring, and this can come before the work that would have met the error.
        if let Some(why) = vring.news().filter(|_| !known) {
            self.rx.broken.push(RingBroken { vf, ring, why });
        }
        self.kicks.remove(&vring);
        if self.tx[vf.index()].queues.is_empty() {
            self.active.detach(vf);
        }
        Some(vring)
    }

    /// The indices of the rings held for a VF.
    pub(super) fn rings(&self, vf: VfIndex) -> Vec<u32> {
        let tx = self.tx[vf.index()].queues.iter().map(|s| s.queue.vring());
        let rx = &self.rx.ports[vf.index()].queues;
        let rx = rx.iter().map(|s| s.queue.vring());
        tx.chain(rx).map(Vring::index).collect()
    }

    /// What is counted here and by the plane's model, to be read while it is.
    pub(super) fn statistics(&self, model: &impl Judge) -> PlaneStatistics {
        let ports = self.rx.ports.iter().zip(&self.tx);
        let traffic = ports.map(|(rx, tx)| [Arc::clone(&rx.traffic), Arc::clone(&tx.traffic)]);
        let sent = self.impaired.counters().iter();
        let netem = sent.zip(self.rx.impaired_counters());
        let netem = netem.map(|(sent, received)| [sent.clone(), received.clone()]);
        PlaneStatistics {
            model: model.published(),
            load: Arc::clone(&self.rx.load),
            traffic: traffic.collect(),
            netem: netem.collect(),
        }
    }

    /// Takes what a transmit ring holds, if nothing is left of the last time. What waits on a disabled ring goes nowhere.
    #[inline]
    pub(super) fn fetch(
        &mut self,
        now: Nanos,
        model: &mut impl Judge,
        vf: VfIndex,
        queue: usize,
    ) -> Fetched {
        let slot = &mut self.tx[vf.index()].queues[queue];
        if slot.broken {
            return Fetched::Frames(0);
        }
        let vring = slot.queue.vring();
        let fetched = match vring.enabled() || vring.is_broken() {
            true => slot.queue.fetch().map(Fetched::Frames),
            false => slot.discard(now).map(|n| Fetched::Discarded(n as usize)),
        };
        match fetched {
            Ok(Fetched::Discarded(frames @ 1..)) => {
                for _ in 0..frames {
                    model.count_tx_drop(vf, DropReason::RingDisabled);
                }
                self.rx.captures.miss(vf, frames as u64);
                slot.queue.publish();
                self.tx_needs_call.insert(vf);
                Fetched::Discarded(frames)
            }
            Ok(fetched) => fetched,
            Err(why) => {
                slot.broken = true;
                let ring = slot.queue.vring().index();
                self.rx.broken.push(RingBroken { vf, ring, why });
                Fetched::Frames(0)
            }
        }
    }

    /// Whether anything was used that a driver has not been told of and may be now.
    pub(super) fn has_calls(&self, now: Nanos) -> bool {
        !self.tx_needs_call.is_empty()
            || !self.rx.needs_call.is_empty()
            || !self.rx.dirty.is_empty()
            || self.held.due.is_some_and(|due| due <= now)
    }

    /// Shows drivers what was used of their rings.
    pub(super) fn publish(&mut self) {
        self.rx.publish();
        for vf in self.tx_needs_call.iter() {
            let queues = self.tx[vf.index()].queues.iter_mut();
            queues.for_each(|slot| slot.queue.publish());
        }
    }

    /// Notifies each driver at most once a ring of what was published, later if it wants that; how many notifications that
    /// were.
    pub(super) fn flush(&mut self, now: Nanos) -> u64 {
        if self.held.due.is_some_and(|due| due <= now) {
            let held = std::mem::take(&mut self.held);
            self.rx.needs_call = self.rx.needs_call.union(held.rx);
            self.tx_needs_call = self.tx_needs_call.union(held.tx);
        }
        if self.rx.needs_call.is_empty() && self.tx_needs_call.is_empty() {
            return 0;
        }
        let fence = Fence::after_publishing();
        let mut made = 0;
        while let Some(vf) = self.rx.needs_call.pop() {
            let calls = self.rx.ports[vf.index()].call(now, &fence, &self.rx.load);
            made += calls.made;
            if calls.broken {
                self.note_broken(vf);
            }
            if self.held.note(vf, |held| &mut held.rx, calls) {
                self.notified.rx.insert(vf);
            }
        }
        while let Some(vf) = self.tx_needs_call.pop() {
            let calls = self.tx[vf.index()].call(now, &fence, &self.rx.load);
            made += calls.made;
            if calls.broken {
                self.note_broken(vf);
            }
            if self.held.note(vf, |held| &mut held.tx, calls) {
                self.notified.tx.insert(vf);
            }
        }
        made
    }

    /// Notes which rings of a VF turned out to be broken when its driver was shown what was used of them.
    #[cold]
    fn note_broken(&mut self, vf: VfIndex) {
        let broken = &mut self.rx.broken;
        let mut note = |slot: &mut bool, vring: &Vring| {
            if let Some(why) = vring.fault().filter(|_| !std::mem::replace(slot, true)) {
                let ring = vring.index();
                broken.push(RingBroken { vf, ring, why });
            }
        };
        for slot in &mut self.rx.ports[vf.index()].queues {
            note(&mut slot.broken, slot.queue.vring());
        }
        for slot in &mut self.tx[vf.index()].queues {
            note(&mut slot.broken, slot.queue.vring());
        }
    }

    /// The drivers that have been, or would have been, notified since the last call.
    pub(super) fn take_notified(&mut self) -> Notified {
        std::mem::take(&mut self.notified)
    }

    /// When a ring has work again without anybody's doing. `blocked` VFs are not taken from whatever their rate.
    pub(super) fn next(&mut self, now: Nanos, model: &impl Judge, blocked: VfSet) -> Option<Nanos> {
        let mut next = self.held.due;
        // A time that is past has been tried, and waits for a kick.
        let mut sooner = |at: Nanos| {
            if at > now {
                next = Some(next.map_or(at, |n| n.min(at)));
            }
        };
        if self.kicks.must_poll() {
            sooner(now + POLLED);
        }
        self.impaired.next().map(&mut sooner);
        self.rx.impaired_next().map(&mut sooner);
        for vf in self.rx.patient().iter() {
            self.rx.ports[vf.index()].backlog.due().map(&mut sooner);
        }
        for vf in self.active.attached().iter() {
            let queues = &mut self.tx[vf.index()].queues;
            for at in queues.iter_mut().filter_map(|slot| slot.discard_at()) {
                sooner(at);
            }
            if !blocked.contains(vf) {
                sooner(model.tx_ready_at(vf, now));
            }
        }
        // What is due of a VF that has no ring any more waits for its rate, too.
        for vf in self.impaired.waiting().difference(blocked).iter() {
            sooner(model.tx_ready_at(vf, now));
        }
        next
    }

    /// Asks for kicks, but not for rings that are `held` (of a VF, by index) or VFs beyond their rate: those are looked at again
    /// when they may go on. True if there is work after all.
    pub(super) fn arm(
        &mut self,
        now: Nanos,
        model: &impl Judge,
        held: impl Fn(VfIndex, u32) -> bool,
    ) -> bool {
        let mut work = false;
        for vf in self.active.attached().iter() {
            let waits = model.tx_ready_at(vf, now) > now;
            let queues = self.tx[vf.index()].queues.iter_mut();
            let mut found = false;
            for slot in queues.filter(|slot| !slot.broken) {
                let waits = waits || held(vf, slot.queue.vring().index());
                // The look that broke a ring may have been the last of its round: the error has still to be met.
                let broken = !waits && slot.queue.vring().is_broken();
                found |= broken || slot.queue.set_notify(!waits);
            }
            if found {
                // The next round looks at it.
                self.active.had_work(vf);
                work = true;
            }
        }
        for vf in self.rx.patient().iter() {
            work |= self.rx.ports[vf.index()].set_notify(true);
        }
        work
    }

    /// Says that kicks are not needed.
    pub(super) fn disarm(&mut self) {
        for vf in self.active.attached().iter() {
            let queues = self.tx[vf.index()].queues.iter_mut();
            for slot in queues.filter(|slot| !slot.broken) {
                slot.queue.set_notify(false);
            }
        }
        for vf in self.rx.patient().iter() {
            self.rx.ports[vf.index()].set_notify(false);
        }
    }

    /// Whether frames of impaired VFs are held back.
    pub(super) fn holds_back(&self) -> bool {
        !self.impaired.is_empty() || self.rx.holds_back()
    }

    /// Waits for kicks through `registry` from now on.
    pub(super) fn connect(&mut self, registry: mio::Registry) {
        self.kicks.connect(registry);
        self.active.enable_sparse_polling();
    }

    /// Rings found broken since the last call.
    pub(super) fn take_broken(&mut self) -> Vec<RingBroken> {
        std::mem::take(&mut self.rx.broken)
    }
}
