//! The direct path of one NIC, or a worker's share of it: guest ring -> NIC -> guest ring or wire, run to completion by one
//! owner.
//! Decides nothing itself: every frame is judged by the model on a private copy of its first bytes, and those bytes are
//! the ones delivered. Never holds a lock, never waits, never reads a clock.

use vf_model::{DropReason, Judge, Nanos, Nic, Source, VfIndex, VfSet, VlanTag};
use vf_vhost::frame::{FrameBuf, TagEdit};
use vf_vhost::ring::Fence;
use vf_vhost::vring::Vring;

use super::attention::Attention;
use super::backlog::{BACKLOG_AT_SWITCH, Backlog, PATIENCE};
use super::doorbell::Doorbell;
use super::handover::Handover;
use super::kicks::Kicks;
use super::load::Load;
use super::mirror::Mirror;
use super::owner::Plane;
use super::pf::PfEnd;
use super::pool::Pool;
use super::port::{HeldBack, Notified, RingBroken, RxPort, TxPort, is_rx, meta};
use super::relay::{Relayed, relays};
use super::sinks::{Run, Sinks};
use super::traffic::{PairTraffic, PerQueue, Traffic};
use super::turns::Turns;
use super::uplink::Uplink;
use crate::watch::{Direction, Port};

/// Frames taken from one queue before the next one gets its turn, or bytes: super-frames are long.
const BURST: usize = 32;
const BURST_BYTES: u64 = 64 * 1024;

/// The NIC of one host and everything that is attached to it directly, or to one of its workers.
pub struct Adapter {
    /// The model that judges every frame.
    pub nic: Nic,
    tx: Vec<TxPort>,
    /// By VF: a frame that has been judged and waits for the wire, the first that its ring has fetched.
    parked: Vec<Option<Parked>>,
    parked_pf: Option<FrameBuf>,
    sinks: Sinks,
    /// What other workers have for the port, if it is here and there are others.
    relayed: Option<Relayed>,
    /// The seat that is first in the next round, a VF or behind the last VF the PF.
    cursor: usize,
    attention: Attention,
    touched: VfSet,
    held: HeldBack,
    kicks: Kicks,
}

struct Parked {
    /// Index of the ring it came from.
    ring: u32,
    insert: Option<VlanTag>,
}

impl Adapter {
    /// A NIC without attached rings.
    #[must_use]
    pub fn new(nic: Nic, pf: PfEnd, uplink: Uplink, pool: Pool) -> Adapter {
        let vfs = nic.policy().vf_count();
        Adapter {
            nic,
            tx: std::iter::repeat_with(TxPort::default).take(vfs).collect(),
            parked: std::iter::repeat_with(|| None).take(vfs).collect(),
            parked_pf: None,
            sinks: Sinks {
                rx: std::iter::repeat_with(RxPort::default).take(vfs).collect(),
                touched: VfSet::default(),
                untold: VfSet::default(),
                lenient: VfSet::default(),
                lenient_until: Nanos(0),
                lenient_limit: 0,
                notified: Notified::default(),
                pf,
                uplink,
                turns: Turns::new(vfs + 1),
                pool,
                mirror: Mirror::default(),
                broken: Vec::new(),
                load: Load::default(),
                handover: None,
            },
            relayed: None,
            cursor: 0,
            attention: Attention::default(),
            touched: VfSet::default(),
            held: HeldBack::default(),
            kicks: Kicks::default(),
        }
    }

    /// The workers of a NIC: each has a replica of its model and will have the rings of the VFs that are
    /// [its](super::worker_of). The first has the port and hears the hypervisor.
    #[must_use]
    pub fn team(nic: Nic, workers: usize, pf: PfEnd, uplink: Uplink, pool: &Pool) -> Vec<Adapter> {
        if workers <= 1 {
            return vec![Adapter::new(nic, pf, uplink, pool.clone())];
        }
        let vfs = nic.policy().vf_count();
        let (relayed, relays) = relays(vfs, workers);
        let plugged = !matches!(uplink, Uplink::None);
        let others = relays.into_iter().map(|relay| {
            let uplink = match plugged {
                true => Uplink::Relay(relay),
                false => Uplink::None,
            };
            Adapter::new(nic.clone(), pf.sender(), uplink, pool.clone())
        });
        let others: Vec<_> = others.collect();
        let first = Adapter {
            relayed: Some(relayed),
            ..Adapter::new(nic, pf, uplink, pool.clone())
        };
        let mut team: Vec<_> = std::iter::once(first).chain(others).collect();
        for (adapter, handover) in team.iter_mut().zip(Handover::mesh(vfs, workers)) {
            adapter.sinks.handover = Some(handover);
        }
        team
    }

    /// Names the threads of all workers of the NIC, in order, to be woken for what is handed to them.
    pub fn set_peers(&mut self, bells: &[Doorbell]) {
        if let Some(handover) = &mut self.sinks.handover {
            handover.set_peers(bells);
        }
        if let Some(relayed) = &mut self.relayed {
            relayed.set_peers(bells);
        }
        if let (Uplink::Relay(relay), Some(first)) = (&mut self.sinks.uplink, bells.first()) {
            relay.set_peer(first.clone());
        }
    }

    /// Takes over a ring of a VF whose path is direct.
    pub fn attach(&mut self, vf: VfIndex, vring: Vring) {
        self.kicks.add(&vring);
        if is_rx(vring.index()) {
            self.sinks.rx[vf.index()].attach(vring);
        } else {
            self.tx[vf.index()].attach(vring);
            self.attention.attach(vf);
        }
    }

    /// Gives a ring up; afterwards nobody here touches it.
    pub fn detach(&mut self, now: Nanos, vf: VfIndex, ring: u32) -> Option<Vring> {
        let vring = if is_rx(ring) {
            self.sinks.rx[vf.index()].detach(ring)?
        } else {
            self.unpark(now, vf);
            self.tx[vf.index()].detach(ring)?
        };
        self.kicks.remove(&vring);
        if self.tx[vf.index()].queues.is_empty() {
            self.attention.detach(vf);
        }
        Some(vring)
    }

    /// What waits for buffers of `vf` now that its path becomes direct, to be delivered before anything else. Its guest is
    /// given the same time to find its pace: until then what has no buffer waits, too.
    pub(super) fn give_backlog(&mut self, now: Nanos, vf: VfIndex, backlog: Backlog) {
        self.sinks.lenient.insert(vf);
        self.sinks.lenient_until = now + PATIENCE;
        self.sinks.lenient_limit = BACKLOG_AT_SWITCH;
        self.sinks.rx[vf.index()].backlog = backlog;
    }

    /// What of that still waits.
    pub(super) fn take_backlog(&mut self, vf: VfIndex) -> Backlog {
        self.sinks.lenient.remove(vf);
        std::mem::take(&mut self.sinks.rx[vf.index()].backlog)
    }

    /// Gives up the frames that wait for buffers of `vf`; they are counted as its drops.
    pub fn drop_backlog(&mut self, vf: VfIndex, reason: DropReason) {
        for frame in self.take_backlog(vf).drain() {
            self.nic.count_rx_drop(vf, reason);
            self.sinks.pool.give(frame);
        }
    }

    /// The indices of the rings held for a VF.
    #[must_use]
    pub fn rings(&self, vf: VfIndex) -> Vec<u32> {
        let tx = self.tx[vf.index()].queues.iter().map(|s| s.queue.vring());
        let rx = self.sinks.rx[vf.index()]
            .queues
            .iter()
            .map(|s| s.queue.vring());
        tx.chain(rx).map(Vring::index).collect()
    }

    /// The drivers that have been, or would have been, notified since the last call.
    pub fn take_notified(&mut self) -> Notified {
        std::mem::take(&mut self.sinks.notified)
    }

    /// What has passed each queue pair of a VF here.
    #[must_use]
    pub fn traffic(&self, vf: VfIndex) -> Vec<PairTraffic> {
        let rx = &self.sinks.rx[vf.index()].traffic;
        PerQueue::pairs(rx, &self.tx[vf.index()].traffic)
    }

    /// What its thread has done.
    #[must_use]
    pub fn load(&self) -> &Load {
        &self.sinks.load
    }

    /// The uplink, for its counters.
    #[must_use]
    pub fn uplink(&self) -> &Uplink {
        &self.sinks.uplink
    }

    /// The uplink, to connect it.
    pub fn uplink_mut(&mut self) -> &mut Uplink {
        &mut self.sinks.uplink
    }

    /// The PF's end, to connect it.
    pub fn pf_mut(&mut self) -> &mut PfEnd {
        &mut self.sinks.pf
    }

    /// What has passed the ports of the direct path, for those who watch.
    pub fn mirror_mut(&mut self) -> &mut Mirror {
        &mut self.sinks.mirror
    }

    /// Whether frames from the hypervisor wait that could be handled now.
    #[must_use]
    pub fn has_pf_input(&self) -> bool {
        self.parked_pf.is_none() && self.sinks.pf.has_input()
    }

    /// Whether a frame of `vf` waits for the wire, so that nothing more is taken from it for now.
    #[must_use]
    pub fn is_parked(&self, vf: VfIndex) -> bool {
        self.parked[vf.index()].is_some()
    }

    /// Handles every frame that the hypervisor and other workers have handed over, even if the wire has to run ahead for it:
    /// for a switch of paths, which must find the queues empty.
    pub fn drain(&mut self, now: Nanos) -> usize {
        let mut moved = self.sinks.poll_handover(&mut self.nic, usize::MAX);
        if let Some(relayed) = &mut self.relayed {
            relayed.look();
            for vf in relayed.waiting().iter() {
                moved += self.poll_relayed(now, vf, true);
            }
        }
        moved += self.poll_pf(now, true);
        self.flush(now);
        moved
    }

    fn poll_uplink(&mut self, now: Nanos) -> usize {
        let mut moved = 0;
        while moved < 2 * BURST {
            let frame = match self.sinks.uplink.receive(now, &self.sinks.pool) {
                None => break,
                Some(Ok(frame)) => frame,
                Some(Err(reason)) => {
                    self.nic.count_wire_drop(reason);
                    moved += 1;
                    continue;
                }
            };
            moved += 1;
            let mirror = &mut self.sinks.mirror;
            mirror.add(Port::Wire, Direction::Rx, &frame, TagEdit::Keep);
            let m = meta(frame.len(), &frame.hdr);
            let verdict = self.nic.ingress(now, Source::Wire, frame.head(), &m);
            self.sinks
                .dispatch(now, &mut self.nic, frame, &verdict, false);
        }
        moved
    }

    /// The PF's seat.
    fn pf_seat(&self) -> usize {
        self.tx.len()
    }

    fn poll_pf(&mut self, now: Nanos, force: bool) -> usize {
        let mut moved = 0;
        if let Some(frame) = self.parked_pf.take() {
            self.parked_pf = self.sinks.send_or_return(now, &mut self.nic, frame, force);
            if self.parked_pf.is_some() {
                return 0;
            }
            moved += 1;
        }
        while force || moved < BURST {
            let Some(frame) = self.sinks.pf.receive() else {
                break;
            };
            moved += 1;
            let m = meta(frame.len(), &frame.hdr);
            let verdict = self.nic.ingress(now, Source::Pf, frame.head(), &m);
            self.parked_pf = self
                .sinks
                .dispatch(now, &mut self.nic, frame, &verdict, force);
            if self.parked_pf.is_some() {
                break;
            }
        }
        moved
    }

    /// Serves those who wait for the wire, by their turns.
    fn poll_waiting(&mut self, now: Nanos) -> usize {
        let mut moved = 0;
        for _ in 0..BURST {
            if !self.sinks.uplink.can_send(now) {
                break;
            }
            let Some(seat) = self.sinks.turns.next() else {
                break;
            };
            if seat == self.pf_seat() {
                let burst = self.poll_pf(now, false);
                moved += self.sinks.load.count_burst(burst);
            } else {
                let vf = VfIndex::from(seat);
                moved += self.poll_vf(now, vf);
                if !self.is_parked(vf) {
                    // There may be more behind its burst, which waits in turn with the others'.
                    moved += self.poll_vf(now, vf);
                }
            }
        }
        moved
    }

    /// Serves those who wait for the wire, and then the VFs that had work lately and the PF, each round from another on.
    fn poll_seats(&mut self, now: Nanos) -> usize {
        self.attention.round();
        let mut moved = 0;
        if self.sinks.turns.is_anyone_waiting() {
            moved += self.poll_waiting(now);
        }
        let first = self.attention.lively_before(self.cursor);
        let mut n = first;
        while let Some(vf) = self.attention.lively(n) {
            moved += self.poll_vf(now, vf);
            n += 1;
        }
        let burst = self.poll_pf(now, false);
        moved += self.sinks.load.count_burst(burst);
        for n in 0..first {
            if let Some(vf) = self.attention.lively(n) {
                moved += self.poll_vf(now, vf);
            }
        }
        if moved > 0 {
            let seats = self.pf_seat();
            self.cursor = if self.cursor < seats {
                self.cursor + 1
            } else {
                0
            };
        }
        moved
    }

    /// Looks at a few of the VFs that had no work lately, or at all of them.
    fn poll_idle(&mut self, now: Nanos, all: bool) -> usize {
        let mut moved = 0;
        for _ in 0..self.attention.idle_looks(all) {
            if let Some(vf) = self.attention.next_idle() {
                moved += self.poll_vf(now, vf);
            }
        }
        moved
    }

    /// What another worker has left of a VF of its own, as far as it is its turn, or all.
    fn poll_relayed(&mut self, now: Nanos, vf: VfIndex, force: bool) -> usize {
        let Some(relayed) = &mut self.relayed else {
            return 0;
        };
        let seat = vf.index();
        self.sinks.turns.leave(seat);
        let mut moved = 0;
        while force || moved < BURST && self.sinks.may_send(now, seat) {
            let Some(frame) = relayed.take(vf) else {
                break;
            };
            self.sinks.send_on_wire(now, &mut self.nic, seat, frame);
            moved += 1;
        }
        if relayed.waiting().contains(vf) {
            self.sinks.turns.wait(seat);
        }
        self.sinks.load.count_burst(moved)
    }

    fn poll_vf(&mut self, now: Nanos, vf: VfIndex) -> usize {
        let i = vf.index();
        if self.relayed.as_ref().is_some_and(|r| r.serves(vf)) {
            return self.poll_relayed(now, vf, false);
        }
        let mut moved = 0;
        if self.parked[i].is_some() {
            self.attention.had_work(vf);
            if !self.sinks.may_go(now, i) {
                return 0;
            }
            self.unpark(now, vf);
            moved += 1;
        }
        let queues = self.tx[i].queues.len();
        for _ in 0..queues {
            let q = self.tx[i].cursor;
            let burst = self.poll_queue(now, vf, q);
            moved += self.sinks.load.count_burst(burst);
            if self.parked[i].is_some() {
                break;
            }
            self.tx[i].cursor = if q + 1 < queues { q + 1 } else { 0 };
        }
        if moved > 0 {
            self.attention.had_work(vf);
        }
        moved
    }

    /// A burst from one transmit ring; ends early when a frame has to wait for the wire.
    fn poll_queue(&mut self, now: Nanos, vf: VfIndex, q: usize) -> usize {
        let port = &mut self.tx[vf.index()];
        let slot = &mut port.queues[q];
        if slot.broken {
            return 0;
        }
        if !slot.queue.vring().enabled() {
            return self.discard(now, vf, q);
        }
        let ring = slot.queue.vring().index();
        match slot.queue.fetch() {
            Ok(0) => return 0,
            Ok(_) => {}
            Err(why) => {
                slot.broken = true;
                self.sinks.broken.push(RingBroken { vf, ring, why });
                return 0;
            }
        }
        let queue = &slot.queue;
        let (nic, sinks) = (&mut self.nic, &mut self.sinks);
        let watched = sinks.mirror.is_on();
        let mut sent = Traffic::default();
        let mut run: Option<Run> = None;
        let mut done = 0;
        for frame in queue.fetched() {
            if sent.bytes >= BURST_BYTES || nic.tx_ready_at(vf, now) > now {
                break;
            }
            if frame.fault().is_some() {
                // What was fetched before it goes; nothing behind it is taken for its neighbour.
                if let Some(run) = run.take() {
                    sinks.deliver_run(nic, queue, run, done);
                }
                nic.count_tx_drop(vf, DropReason::BadHeader);
                done += 1;
                continue;
            }
            sent.add(frame.len());
            let m = meta(frame.len(), frame.hdr());
            if !watched && let Some(hop) = nic.ingress_again(now, vf, frame.head(), &m) {
                let to = sinks.rx[hop.to.index()].queue_of(nic, hop.to, frame.head());
                if run.is_none_or(|run| (run.hop, run.queue) != (hop, to)) {
                    if let Some(run) = run {
                        sinks.deliver_run(nic, queue, run, done);
                    }
                    run = Some(Run {
                        hop,
                        queue: to,
                        from: done,
                    });
                }
                done += 1;
                continue;
            }
            let verdict = nic.ingress(now, Source::Vf(vf), frame.head(), &m);
            if let Some(run) = run.take() {
                sinks.deliver_run(nic, queue, run, done);
            }
            if !sinks.forward(now, nic, vf, queue, frame, &verdict) {
                let insert = verdict.insert;
                sinks.wait(vf.index());
                self.parked[vf.index()] = Some(Parked { ring, insert });
                break;
            }
            done += 1;
        }
        if let Some(run) = run {
            sinks.deliver_run(nic, queue, run, done);
        }
        sinks.publish();
        slot.queue.complete(done);
        slot.queue.publish();
        *port.traffic.of_ring(ring) += sent;
        if done > 0 {
            self.touched.insert(vf);
        }
        done
    }

    /// What a guest sends on a disabled ring goes nowhere.
    fn discard(&mut self, now: Nanos, vf: VfIndex, q: usize) -> usize {
        let slot = &mut self.tx[vf.index()].queues[q];
        match slot.discard(now) {
            Ok(0) => 0,
            Ok(frames) => {
                slot.queue.publish();
                for _ in 0..frames {
                    self.nic.count_tx_drop(vf, DropReason::RingDisabled);
                }
                self.touched.insert(vf);
                frames as usize
            }
            Err(why) => {
                slot.broken = true;
                let ring = slot.queue.vring().index();
                self.sinks.broken.push(RingBroken { vf, ring, why });
                0
            }
        }
    }

    /// Sends the frame of `vf` that waits for the wire; the VF behind it is next.
    fn unpark(&mut self, now: Nanos, vf: VfIndex) {
        let Some(parked) = self.parked[vf.index()].take() else {
            return;
        };
        self.sinks.turns.leave(vf.index());
        let mut queues = self.tx[vf.index()].queues.iter_mut();
        let Some(slot) = queues.find(|s| s.queue.vring().index() == parked.ring) else {
            return; // a ring is not detached with a frame of its own parked
        };
        let Some(frame) = slot.queue.fetched().first() else {
            return;
        };
        let copy = self.sinks.copy_of(&slot.queue, frame, parked.insert);
        self.sinks
            .send_on_wire(now, &mut self.nic, vf.index(), copy);
        slot.queue.complete(1);
        slot.queue.publish();
        self.touched.insert(vf);
    }

    /// Publishes what else was used in this round, and notifies each driver at most once a ring, later if it wants that.
    fn flush(&mut self, now: Nanos) {
        self.sinks.publish();
        self.sinks.tell();
        if self.held.due.is_some_and(|due| due <= now) {
            let held = std::mem::take(&mut self.held);
            self.sinks.untold = self.sinks.untold.union(held.rx);
            self.touched = self.touched.union(held.tx);
        }
        let Sinks {
            rx,
            load,
            notified,
            untold,
            ..
        } = &mut self.sinks;
        if untold.is_empty() && self.touched.is_empty() {
            return;
        }
        let fence = Fence::after_publishing();
        while let Some(vf) = untold.pop() {
            let calls = rx[vf.index()].call(now, &fence, load);
            if self.held.note(vf, |held| &mut held.rx, calls) {
                notified.rx.insert(vf);
            }
        }
        while let Some(vf) = self.touched.pop() {
            let calls = self.tx[vf.index()].call(now, &fence, load);
            if self.held.note(vf, |held| &mut held.tx, calls) {
                notified.tx.insert(vf);
            }
        }
    }
}

impl Plane for Adapter {
    /// What has arrived from the wire, from the hypervisor and from the guests, each within a budget.
    fn poll(&mut self, now: Nanos) -> usize {
        let arrived = self.poll_uplink(now);
        let mut moved = self.sinks.load.count_burst(arrived);
        if !self.sinks.lenient.is_empty() {
            moved += self.sinks.drain_backlogs(now, &mut self.nic);
        }
        if self.sinks.handover.is_some() {
            moved += self.sinks.poll_handover(&mut self.nic, BURST);
        }
        let left = self.relayed.as_mut().map(Relayed::look);
        moved += self.poll_seats(now);
        for vf in left.unwrap_or_default().iter() {
            moved += self.poll_vf(now, vf);
        }
        // Before it counts as idle, everybody has been looked at.
        moved += self.poll_idle(now, moved == 0);
        let untold = !self.touched.is_empty() || !self.sinks.untold.is_empty();
        let due = self.held.due.is_some_and(|due| due <= now);
        if moved > 0 || untold || due || self.sinks.handover.is_some() {
            self.flush(now);
        }
        moved
    }

    fn next(&mut self, now: Nanos) -> Option<Nanos> {
        let mut next = self.sinks.uplink.next_arrival();
        let mut sooner = |at: Nanos| next = Some(next.map_or(at, |n: Nanos| n.min(at)));
        self.held.due.map(&mut sooner);
        for vf in self.sinks.lenient.iter() {
            let due = self.sinks.rx[vf.index()].backlog.due();
            // What is past has been tried; it waits for a kick.
            due.filter(|at| *at > now).map(&mut sooner);
        }
        let attached = self.attention.attached();
        if self.sinks.turns.is_anyone_waiting() {
            self.sinks.uplink.can_send_at().map(&mut sooner);
        }
        for vf in attached.iter() {
            // Without the port, nobody knows when; its worker rings when there is room.
            if self.is_parked(vf) && self.sinks.may_go(now, vf.index()) {
                sooner(now);
            }
            for slot in &mut self.tx[vf.index()].queues {
                // A time that is past waits for the kick.
                slot.discard_at().filter(|at| *at > now).map(&mut sooner);
            }
            let ready = self.nic.tx_ready_at(vf, now);
            if ready > now && !self.is_parked(vf) {
                sooner(ready);
            }
        }
        next
    }

    fn arm(&mut self, now: Nanos) -> bool {
        let mut work = self.has_pf_input();
        work |= self
            .sinks
            .handover
            .as_ref()
            .is_some_and(Handover::has_input);
        work |= self.relayed.as_ref().is_some_and(Relayed::has_input);
        for (i, port) in self.tx.iter_mut().enumerate() {
            let waits =
                self.parked[i].is_some() || self.nic.tx_ready_at(VfIndex::from(i), now) > now;
            for slot in port.queues.iter_mut().filter(|s| !s.broken) {
                // What waits for the wire or for its rate is looked at again when it may go on.
                work |= slot.queue.set_notify(!waits);
            }
        }
        for vf in self.sinks.lenient.iter() {
            work |= self.sinks.rx[vf.index()].set_notify(true);
        }
        work
    }

    fn disarm(&mut self) {
        for port in &mut self.tx {
            for slot in port.queues.iter_mut().filter(|s| !s.broken) {
                slot.queue.set_notify(false);
            }
        }
        for vf in self.sinks.lenient.iter() {
            self.sinks.rx[vf.index()].set_notify(false);
        }
    }

    fn take_broken(&mut self) -> Vec<RingBroken> {
        std::mem::take(&mut self.sinks.broken)
    }

    fn connect(&mut self, registry: mio::Registry) {
        self.sinks.uplink.register(&registry);
        self.kicks.connect(registry);
        self.attention.spare();
    }

    fn load_mut(&mut self) -> &mut Load {
        &mut self.sinks.load
    }
}
