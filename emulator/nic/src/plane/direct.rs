//! The direct path of one NIC, or a worker's share of it: guest ring -> NIC -> guest ring or wire, run to completion by one
//! owner.
//! Decides nothing itself: every frame is judged by the model on a private copy of its first bytes, and those bytes are
//! the ones delivered. Never holds a lock, never waits, never reads a clock.

use vf_model::{
    DropReason, Hop, Judge, Nanos, Nic, OnWire, Source, Tagging, To, Verdict, VfIndex, VfSet,
    VlanTag,
};
use vf_vhost::frame::TagEdit;
use vf_vhost::vring::Vring;

use super::backlog::{BACKLOG_BYTES, Backlog};
use super::egress::Egress;
use super::mirror::Mirror;
use super::outside::{Fetch, Outside, Run, insertion, outgoing};
use super::policy_cell::{PolicyCell, PolicySubscriber};
use super::port::{Notified, meta};
use super::ports::{Fetched, VfPorts};
use super::receivers::{FrameSource, Patience};
use super::rings::Rings;
use super::statistics::{DirectStatistics, UplinkStatistics};
use super::traffic::Traffic;
use crate::queue::CrossQueues;
use crate::queue::Doorbell;
use crate::queue::{Frame, Pool};
use crate::queue::{PfEnd, PfFrame};
use crate::queue::{PortQueueRx, port_queues};
use crate::thread::LiveLoad;
use crate::thread::Plane;
use crate::thread::RingBroken;
use crate::uplink::{Arrivals, Uplink};
use crate::watch::{Direction, Port};

/// Frames taken from one queue before the next one gets its turn, or bytes: super-frames are long.
const BURST: usize = 32;
const BURST_BYTES: u64 = 64 * 1024;
/// A frame from the uplink is late if the plane looks for it so long after it arrived.
const LATE: Nanos = Nanos(20_000);
/// The longest time for which a guest is given more buffers' time for that.
const LATE_MOST: Nanos = Nanos(10_000_000);

/// The NIC of one host and everything that is attached to it directly, or to one of its workers.
pub struct DirectPlane {
    /// The model that judges every frame.
    pub nic: Nic,
    policies: PolicySubscriber,
    ports: VfPorts,
    /// By VF: a frame that has been judged and waits for the wire, the first that its ring has fetched.
    parked: Vec<Option<Parked>>,
    /// The VFs that have one.
    parked_vfs: VfSet,
    parked_pf: Option<Frame>,
    out: Outside,
    arrivals: Arrivals,
    /// What other workers have for the port, if it is here and there are others.
    from_workers: Option<PortQueueRx>,
    /// The flow that is first in the next round, a VF or behind the last VF the PF.
    cursor: usize,
}

struct Parked {
    /// Index of the ring it came from.
    ring: u32,
    insert: Option<VlanTag>,
}

impl DirectPlane {
    /// A NIC without attached rings.
    #[must_use]
    pub fn new(
        policies: &PolicyCell,
        pf: PfEnd,
        uplink: Option<Box<dyn Uplink>>,
        pool: Pool,
    ) -> DirectPlane {
        let egress = Egress::new(uplink, policies.load().vf_count(), &pool);
        DirectPlane::with_egress(policies, pf, egress, pool)
    }

    fn with_egress(policies: &PolicyCell, pf: PfEnd, egress: Egress, pool: Pool) -> DirectPlane {
        let nic = Nic::new(policies.load());
        let vfs = nic.policy().vf_count();
        DirectPlane {
            nic,
            policies: policies.subscribe(),
            ports: VfPorts::new(vfs, Patience::Granted, pool),
            parked: std::iter::repeat_with(|| None).take(vfs).collect(),
            parked_vfs: VfSet::default(),
            parked_pf: None,
            out: Outside {
                egress,
                pf,
                workers: None,
            },
            arrivals: Arrivals::default(),
            from_workers: None,
            cursor: 0,
        }
    }

    /// The workers of a NIC: each has a replica of its model and will have the rings of the VFs that are
    /// [its](crate::queue::worker_of). The first has the port and hears the hypervisor.
    #[must_use]
    pub fn team(
        policies: &PolicyCell,
        workers: usize,
        pf: PfEnd,
        uplink: Option<Box<dyn Uplink>>,
        pool: &Pool,
    ) -> Vec<DirectPlane> {
        if workers <= 1 {
            return vec![DirectPlane::new(policies, pf, uplink, pool.clone())];
        }
        let vfs = policies.load().vf_count();
        let (rx, txs) = port_queues(vfs, workers);
        let plugged = uplink.is_some();
        let others = txs.into_iter().map(|tx| {
            let egress = match plugged {
                true => Egress::Remote(tx),
                false => Egress::Unplugged,
            };
            DirectPlane::with_egress(policies, pf.sender(), egress, pool.clone())
        });
        let others: Vec<_> = others.collect();
        let first = DirectPlane {
            from_workers: Some(rx),
            ..DirectPlane::new(policies, pf, uplink, pool.clone())
        };
        let mut team: Vec<_> = std::iter::once(first).chain(others).collect();
        for (worker, queues) in team.iter_mut().zip(CrossQueues::mesh(vfs, workers)) {
            worker.out.workers = Some(queues);
        }
        team
    }

    /// Names the threads of all workers of the NIC, in order, to be woken for what is handed to them.
    pub fn set_peers(&mut self, bells: &[Doorbell]) {
        if let Some(workers) = &mut self.out.workers {
            workers.set_peers(bells);
        }
        if let Some(from_workers) = &mut self.from_workers {
            from_workers.set_peers(bells);
        }
        if let (Egress::Remote(queue), Some(first)) = (&mut self.out.egress, bells.first()) {
            queue.set_peer(first.clone());
        }
    }

    /// What waits for buffers of `vf` now that its path becomes direct.
    pub(super) fn give_backlog(&mut self, now: Nanos, vf: VfIndex, backlog: Backlog) {
        self.ports.rx.give_backlog(now, vf, backlog);
    }

    /// What of that still waits.
    pub(super) fn take_backlog(&mut self, vf: VfIndex) -> Backlog {
        self.ports.rx.take_backlog(vf)
    }

    /// The indices of the rings held for a VF.
    #[must_use]
    pub fn rings(&self, vf: VfIndex) -> Vec<u32> {
        self.ports.rings(vf)
    }

    /// The drivers that have been, or would have been, notified since the last call.
    pub fn take_notified(&mut self) -> Notified {
        self.ports.take_notified()
    }

    /// What it counts, to be read while it does.
    #[must_use]
    pub fn statistics(&self) -> DirectStatistics {
        DirectStatistics {
            plane: self.ports.statistics(&self.nic),
            wire: self.nic.published_wire(),
            uplink: self.out.egress.uplink().map(UplinkStatistics::of),
        }
    }

    /// The PF's end, to connect it.
    pub fn pf_mut(&mut self) -> &mut PfEnd {
        &mut self.out.pf
    }

    /// What has passed the ports of the direct path, for those who watch.
    pub fn mirror_mut(&mut self) -> &mut Mirror {
        &mut self.ports.rx.mirror
    }

    /// Whether frames from the hypervisor wait that could be handled now.
    #[must_use]
    pub fn has_pf_input(&self) -> bool {
        self.parked_pf.is_none() && self.out.pf.has_input()
    }

    /// Whether a frame of `vf` waits for the wire, so that nothing more is taken from it for now.
    #[must_use]
    pub fn is_parked(&self, vf: VfIndex) -> bool {
        self.parked_vfs.contains(vf)
    }

    /// Handles every frame that the hypervisor and other workers have handed over, even if the wire has to run ahead for it:
    /// for a switch of paths, which must find the queues empty.
    pub fn drain(&mut self, now: Nanos) -> usize {
        self.out.egress.begin_round(now);
        let mut moved = self.poll_workers(usize::MAX);
        if let Some(from_workers) = &mut self.from_workers {
            from_workers.look();
            for vf in from_workers.waiting().iter() {
                moved += self.poll_remote(now, vf, true);
            }
        }
        moved += self.poll_pf(now, true);
        self.flush(now);
        moved
    }

    /// Delivers what the uplink has brought. A plane that looks late gives the guests as much more time to post buffers:
    /// a NIC would have used those that they posted meanwhile.
    fn poll_uplink(&mut self, now: Nanos) -> usize {
        self.out.egress.receive(now, 2 * BURST, &mut self.arrivals);
        if self.arrivals.frames.is_empty() && self.arrivals.dropped.is_empty() {
            return 0;
        }
        let mut arrivals = std::mem::take(&mut self.arrivals);
        for reason in arrivals.dropped.drain(..) {
            self.nic.count_wire_drop(reason);
        }
        let moved = arrivals.frames.len();
        if moved > 0 {
            let late = arrivals.since.take().map(|at| now.saturating_sub(at));
            let late = late.filter(|late| *late > LATE);
            self.deliver_arrivals(now, &arrivals.frames, late);
            self.ports.rx.pool.give_all(arrivals.frames.drain(..));
        }
        self.arrivals = arrivals;
        moved
    }

    fn deliver_arrivals(&mut self, now: Nanos, frames: &[Frame], late: Option<Nanos>) {
        let watched = self.ports.rx.mirror.is_on();
        let mut run: Option<Run> = None;
        for (n, frame) in frames.iter().enumerate() {
            let m = meta(frame.len(), &frame.hdr);
            if watched {
                let mirror = &mut self.ports.rx.mirror;
                mirror.add(Port::Wire, Direction::Rx, frame, TagEdit::Keep);
            } else if let Some(hop) = self.nic.ingress_again(now, Source::Wire, frame.head(), &m)
                && let To::Vf(to) = hop.to
            {
                if let Some(late) = late {
                    let until = now + late.min(LATE_MOST);
                    self.ports.rx.grant(to, BACKLOG_BYTES, until);
                }
                let port = &self.ports.rx.ports[to.index()];
                let queue = port.queue_of(&self.nic, to, frame.head());
                let insert = hop.insert;
                if run.is_none_or(|run| (run.to, run.insert, run.queue) != (to, insert, queue)) {
                    if let Some(run) = run.take() {
                        self.deliver_private_run(run, &frames[run.from..n]);
                    }
                    run = Some(Run {
                        to,
                        insert,
                        queue,
                        from: n,
                    });
                }
                continue;
            }
            if let Some(run) = run.take() {
                self.deliver_private_run(run, &frames[run.from..n]);
            }
            let verdict = self.nic.ingress(now, Source::Wire, frame.head(), &m);
            if let Some(late) = late {
                for vf in verdict.vfs.iter() {
                    let until = now + late.min(LATE_MOST);
                    self.ports.rx.grant(vf, BACKLOG_BYTES, until);
                }
            }
            let source = FrameSource::Private(frame);
            let others = self.out.foreign(verdict.vfs);
            let own = verdict.vfs.difference(others);
            let rx = &mut self.ports.rx;
            let tagging = self.nic.tagging(verdict.insert);
            rx.deliver_to_vfs(&mut self.nic, own, tagging, source);
            if !others.is_empty() {
                self.out
                    .hand_over(&mut self.nic, rx, source, others, tagging);
            }
            if verdict.pf {
                let mut copy = rx.pool.copy(frame);
                copy.edit(insertion(verdict.insert));
                self.out.hand_up(&mut self.nic, rx, copy, &verdict);
            }
        }
        if let Some(run) = run {
            self.deliver_private_run(run, &frames[run.from..]);
        }
        self.ports.rx.publish();
    }

    /// Delivers frames in private memory that go to one VF.
    fn deliver_private_run(&mut self, run: Run, frames: &[Frame]) {
        let rx = &mut self.ports.rx;
        if self.out.is_foreign(run.to) {
            let to = [run.to].into_iter().collect();
            let tagging = self.nic.tagging(run.insert);
            for frame in frames {
                let source = FrameSource::Private(frame);
                self.out.hand_over(&mut self.nic, rx, source, to, tagging);
            }
            return;
        }
        rx.deliver_run(&mut self.nic, run.to, run.insert, run.queue, frames);
    }

    /// The PF's flow.
    fn pf_flow(&self) -> usize {
        self.ports.tx.len()
    }

    fn poll_pf(&mut self, now: Nanos, force: bool) -> usize {
        let mut moved = 0;
        if let Some(frame) = self.parked_pf.take() {
            self.parked_pf = self.send_or_return(now, frame, force, true);
            if self.parked_pf.is_some() {
                return 0;
            }
            moved += 1;
        }
        while force || moved < BURST {
            let Some(PfFrame { frame, onward }) = self.out.pf.receive() else {
                break;
            };
            moved += 1;
            let m = meta(frame.len(), &frame.hdr);
            let verdict = self.nic.from_pf(&onward, frame.head(), &m);
            self.parked_pf = self.dispatch(now, frame, &verdict, onward.tagging, force);
            if self.parked_pf.is_some() {
                break;
            }
        }
        moved
    }

    /// Sends a frame of the PF wherever the verdict says. Gives it back if only the wire is left to do and the wire cannot
    /// take it now.
    fn dispatch(
        &mut self,
        now: Nanos,
        frame: Frame,
        verdict: &Verdict,
        tagging: Tagging,
        force: bool,
    ) -> Option<Frame> {
        let rx = &mut self.ports.rx;
        let others = self.out.foreign(verdict.vfs);
        if !verdict.vfs.is_empty() {
            let source = FrameSource::Private(&frame);
            let own = verdict.vfs.difference(others);
            rx.deliver_to_vfs(&mut self.nic, own, tagging, source);
            if !others.is_empty() {
                self.out
                    .hand_over(&mut self.nic, rx, source, others, tagging);
            }
        }
        if !verdict.wire || self.out.is_unplugged(&mut self.nic) {
            rx.pool.give(frame);
            return None;
        }
        self.send_or_return(now, frame, force, false)
    }

    /// Sends a frame of the PF, or gives it back if the wire cannot take it now and it may wait.
    fn send_or_return(
        &mut self,
        now: Nanos,
        frame: Frame,
        force: bool,
        waits: bool,
    ) -> Option<Frame> {
        let pf = self.pf_flow();
        let on_wire = OnWire::of(&meta(frame.len(), &frame.hdr));
        let egress = &mut self.out.egress;
        if waits {
            egress.leave(pf);
        }
        if !force && !egress.may_send(pf, on_wire.bytes) {
            egress.wait(pf);
            return Some(frame);
        }
        egress.send(now, &mut self.nic, pf, frame, on_wire);
        None
    }

    /// Serves the flows that wait for the wire, in the order of their shares.
    fn poll_waiting(&mut self, now: Nanos) -> usize {
        let mut moved = 0;
        for _ in 0..BURST {
            let Some(flow) = self.out.egress.visit_next() else {
                break;
            };
            if flow == self.pf_flow() {
                let burst = self.poll_pf(now, false);
                moved += self.ports.rx.load.count_burst(burst);
            } else {
                let vf = VfIndex::from(flow);
                moved += self.poll_vf(now, vf);
                if !self.is_parked(vf) {
                    // There may be more behind its burst, which waits in turn with the others'.
                    moved += self.poll_vf(now, vf);
                }
            }
        }
        moved
    }

    /// Serves the flows that wait for the wire, and then the VFs that had work lately and the PF, each round from another on.
    fn poll_flows(&mut self, now: Nanos) -> usize {
        self.ports.active.begin_round();
        let mut moved = 0;
        if self.out.egress.is_anyone_waiting() {
            moved += self.poll_waiting(now);
        }
        // With the port here, those that wait have been served. Without it each VF has a queue of its own to the port.
        if !self.parked_vfs.is_empty() && matches!(self.out.egress, Egress::Port(_)) {
            let active = self.ports.active.active().difference(self.parked_vfs);
            let (before, first) = active.split_at(self.cursor);
            for vf in first.iter() {
                moved += self.poll_vf(now, vf);
            }
            let burst = self.poll_pf(now, false);
            moved += self.ports.rx.load.count_burst(burst);
            for vf in before.iter() {
                moved += self.poll_vf(now, vf);
            }
        } else {
            let first = self.ports.active.before(self.cursor);
            let mut n = first;
            while let Some(vf) = self.ports.active.nth(n) {
                moved += self.poll_vf(now, vf);
                n += 1;
            }
            let burst = self.poll_pf(now, false);
            moved += self.ports.rx.load.count_burst(burst);
            for n in 0..first {
                if let Some(vf) = self.ports.active.nth(n) {
                    moved += self.poll_vf(now, vf);
                }
            }
        }
        if moved > 0 {
            let flows = self.pf_flow();
            self.cursor = if self.cursor < flows {
                self.cursor + 1
            } else {
                0
            };
        }
        moved
    }

    /// Looks at a few of the VFs that had no work lately.
    fn poll_idle(&mut self, now: Nanos, work: bool) -> usize {
        let mut moved = 0;
        for _ in 0..self.ports.active.idle_looks(work) {
            if let Some(vf) = self.ports.active.next_idle() {
                moved += self.poll_vf(now, vf);
            }
        }
        moved
    }

    /// Delivers what other workers have left here, so many frames of each at most; how many.
    fn poll_workers(&mut self, limit: usize) -> usize {
        let mut moved = 0;
        let peers = self.out.workers.as_ref().map_or(0, CrossQueues::peers);
        for peer in 0..peers {
            let mut burst = 0;
            while burst < limit
                && let Some(crossing) = self.out.workers.as_ref().and_then(|w| w.take(peer))
            {
                let source = FrameSource::Private(&crossing.frame);
                let rx = &mut self.ports.rx;
                rx.deliver_to_vfs(&mut self.nic, crossing.vfs, crossing.tagging, source);
                rx.pool.give(crossing.frame);
                burst += 1;
            }
            moved += self.ports.rx.load.count_burst(burst);
        }
        moved
    }

    /// What another worker has left of a VF of its own, as far as it is its turn, or all.
    fn poll_remote(&mut self, now: Nanos, vf: VfIndex, force: bool) -> usize {
        let Some(from_workers) = &mut self.from_workers else {
            return 0;
        };
        let flow = vf.index();
        let egress = &mut self.out.egress;
        egress.leave(flow);
        let mut moved = 0;
        // The longest frame that does not count as one of several in a visit.
        while force || moved < BURST && egress.may_send(flow, 1) {
            let Some(frame) = from_workers.take(vf) else {
                break;
            };
            let on_wire = OnWire::of(&meta(frame.len(), &frame.hdr));
            egress.send(now, &mut self.nic, flow, frame, on_wire);
            moved += 1;
        }
        if from_workers.waiting().contains(vf) {
            egress.wait(flow);
        }
        self.ports.rx.load.count_burst(moved)
    }

    fn poll_vf(&mut self, now: Nanos, vf: VfIndex) -> usize {
        let i = vf.index();
        if self.from_workers.as_ref().is_some_and(|q| q.serves(vf)) {
            return self.poll_remote(now, vf, false);
        }
        let mut moved = 0;
        if self.is_parked(vf) {
            self.ports.active.had_work(vf);
            if !self.out.egress.may_go(i) {
                return 0;
            }
            self.unpark(now, vf);
            moved += 1;
        }
        let queues = self.ports.tx[i].queues.len();
        for _ in 0..queues {
            let q = self.ports.tx[i].cursor;
            let burst = self.poll_queue(now, vf, q);
            moved += self.ports.rx.load.count_burst(burst);
            if self.is_parked(vf) {
                break;
            }
            self.ports.tx[i].cursor = if q + 1 < queues { q + 1 } else { 0 };
        }
        if moved > 0 {
            self.ports.active.had_work(vf);
        }
        moved
    }

    /// A burst from one transmit ring; ends early when a frame has to wait for the wire.
    fn poll_queue(&mut self, now: Nanos, vf: VfIndex, q: usize) -> usize {
        match self.ports.fetch(now, &mut self.nic, vf, q) {
            Fetched::Frames(0) => return 0,
            Fetched::Frames(_) => {}
            Fetched::Discarded(frames) => return frames,
        }
        let port = &mut self.ports.tx[vf.index()];
        let slot = &mut port.queues[q];
        let queue = &slot.queue;
        let ring = queue.vring().index();
        let (nic, rx, out) = (&mut self.nic, &mut self.ports.rx, &mut self.out);
        let watched = rx.mirror.is_on();
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
                    out.deliver_run(nic, rx, queue, run, done);
                }
                nic.count_tx_drop(vf, DropReason::BadHeader);
                done += 1;
                continue;
            }
            sent.add(frame.len());
            let from = Fetch { vf, queue, frame };
            let m = meta(frame.len(), frame.hdr());
            if !watched && let Some(hop) = nic.ingress_again(now, Source::Vf(vf), frame.head(), &m)
            {
                let Hop { to, insert } = hop;
                match to {
                    To::Vf(to) => {
                        let at = rx.ports[to.index()].queue_of(nic, to, frame.head());
                        if run.is_none_or(|run| (run.to, run.insert, run.queue) != (to, insert, at))
                        {
                            if let Some(run) = run {
                                out.deliver_run(nic, rx, queue, run, done);
                            }
                            run = Some(Run {
                                to,
                                insert,
                                queue: at,
                                from: done,
                            });
                        }
                    }
                    To::Wire => {
                        if let Some(run) = run.take() {
                            out.deliver_run(nic, rx, queue, run, done);
                        }
                        if !out.send(now, nic, rx, from, insert) {
                            self.parked_vfs.insert(vf);
                            self.parked[vf.index()] = Some(Parked { ring, insert });
                            break;
                        }
                    }
                }
                done += 1;
                continue;
            }
            let verdict = nic.ingress(now, Source::Vf(vf), frame.head(), &m);
            if let Some(run) = run.take() {
                out.deliver_run(nic, rx, queue, run, done);
            }
            if !out.forward(now, nic, rx, from, &verdict) {
                let insert = verdict.insert;
                self.parked_vfs.insert(vf);
                self.parked[vf.index()] = Some(Parked { ring, insert });
                break;
            }
            done += 1;
        }
        if let Some(run) = run {
            out.deliver_run(nic, rx, queue, run, done);
        }
        port.traffic.add(ring, sent);
        rx.publish();
        slot.queue.complete(done);
        slot.queue.publish();
        if done > 0 {
            self.ports.tx_needs_call.insert(vf);
        }
        done
    }

    /// Sends the frame of `vf` that waits for the wire; the VF behind it is next.
    fn unpark(&mut self, now: Nanos, vf: VfIndex) {
        let Some(parked) = self.parked[vf.index()].take() else {
            return;
        };
        self.parked_vfs.remove(vf);
        self.out.egress.leave(vf.index());
        let mut queues = self.ports.tx[vf.index()].queues.iter_mut();
        let Some(slot) = queues.find(|s| s.queue.vring().index() == parked.ring) else {
            return; // a ring is not detached with a frame of its own parked
        };
        let Some(frame) = slot.queue.fetched().first() else {
            return;
        };
        let rx = &mut self.ports.rx;
        let copy = outgoing(rx, &slot.queue, frame, parked.insert);
        let on_wire = OnWire::of(&meta(copy.len(), &copy.hdr));
        self.out
            .egress
            .send(now, &mut self.nic, vf.index(), copy, on_wire);
        slot.queue.complete(1);
        slot.queue.publish();
        self.ports.tx_needs_call.insert(vf);
    }

    /// Publishes what else was used in this round, and notifies each driver at most once a ring, later if it wants that.
    fn flush(&mut self, now: Nanos) {
        self.ports.rx.publish();
        self.out.egress.flush(now, &mut self.nic);
        if let Some(workers) = &mut self.out.workers {
            workers.tell();
        }
        self.ports.flush(now);
    }
}

impl Rings for DirectPlane {
    fn attach(&mut self, vf: VfIndex, vring: Vring) {
        self.ports.attach(vf, vring);
    }

    fn detach(&mut self, now: Nanos, vf: VfIndex, ring: u32) -> Option<Vring> {
        if self.parked[vf.index()]
            .as_ref()
            .is_some_and(|parked| parked.ring == ring)
        {
            self.unpark(now, vf);
            self.out.egress.flush(now, &mut self.nic);
        }
        self.ports.detach(vf, ring)
    }

    fn begin_change(&mut self, vf: VfIndex) {
        self.ports.rx.begin_change(vf);
    }

    fn end_change(&mut self, vf: VfIndex) {
        self.ports.rx.end_change(vf);
    }

    fn drop_backlog(&mut self, vf: VfIndex, reason: DropReason) {
        self.ports.rx.drop_backlog(&mut self.nic, vf, reason);
    }
}

impl Plane for DirectPlane {
    /// What has arrived from the wire, from the hypervisor and from the guests, each within a budget.
    fn poll(&mut self, now: Nanos) -> usize {
        self.policies.update(&mut self.nic);
        self.out.egress.begin_round(now);
        let arrived = self.poll_uplink(now);
        let mut moved = self.ports.rx.load.count_burst(arrived);
        if !self.ports.rx.patient().is_empty() {
            moved += self.ports.rx.drain_backlogs(now, &mut self.nic);
        }
        if self.out.workers.is_some() {
            moved += self.poll_workers(BURST);
        }
        let left = self.from_workers.as_mut().map(PortQueueRx::look);
        moved += self.poll_flows(now);
        for vf in left.unwrap_or_default().iter() {
            moved += self.poll_vf(now, vf);
        }
        moved += self.poll_idle(now, moved > 0);
        if moved > 0 || self.out.workers.is_some() || self.ports.has_calls(now) {
            self.flush(now);
        }
        moved
    }

    fn next(&mut self, now: Nanos) -> Option<Nanos> {
        let mut next = self.out.egress.next();
        let mut sooner = |at: Nanos| next = Some(next.map_or(at, |n: Nanos| n.min(at)));
        let ports = self.ports.next(now, &self.nic, self.parked_vfs);
        ports.map(&mut sooner);
        // Without the port, nobody knows when; its worker rings when there is room.
        if matches!(self.out.egress, Egress::Remote(_))
            && let mut parked = self.parked_vfs.iter()
            && parked.any(|vf| self.out.egress.may_go(vf.index()))
        {
            sooner(now);
        }
        next
    }

    fn arm(&mut self, now: Nanos) -> bool {
        let mut work = self.has_pf_input();
        work |= self
            .out
            .workers
            .as_ref()
            .is_some_and(CrossQueues::has_input);
        work |= self
            .from_workers
            .as_ref()
            .is_some_and(PortQueueRx::has_input);
        work | self.ports.arm(now, &self.nic, self.parked_vfs)
    }

    fn disarm(&mut self) {
        self.out.egress.slept();
        self.ports.disarm();
    }

    fn take_broken(&mut self) -> Vec<RingBroken> {
        self.ports.take_broken()
    }

    fn connect(&mut self, registry: mio::Registry) {
        self.out.egress.register(&registry);
        self.ports.connect(registry);
    }

    fn load(&self) -> &LiveLoad {
        &self.ports.rx.load
    }
}
