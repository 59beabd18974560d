//! The direct path of one NIC, or a worker's share of it: guest ring -> NIC -> guest ring or wire, run to completion by one
//! owner.
//! Decides nothing itself: every frame is judged by the model on a private copy of its first bytes, and those bytes are
//! the ones delivered. Never holds a lock, never waits, never reads a clock.

mod fast_path;
mod from_guests;
mod from_pf;
mod from_uplink;
mod impaired;
pub(super) mod loopback;
mod parked;
mod pf_queues;
mod waiting;
mod workers;

use self::loopback::Loopback;
use self::parked::ParkedFrames;
use self::pf_queues::PfQueues;
use self::waiting::Waiting;
use std::collections::{BTreeMap, VecDeque};
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use vf_model::{DropReason, Judge, LinkConfig, Nanos, Nic, Policy, VfIndex, VfSet};
use vf_vhost::vring::Vring;

use super::backlog::Backlog;
use super::captures::Captures;
use super::egress::Egress;
use super::mirror::Mirror;
use super::outside::{Outside, Stuck};
use super::policy_cell::{PolicyCell, PolicySubscriber};
use super::port::{FIRST_TX_RING, Notified};
use super::ports::{Held, VfPorts};
use super::receivers::{FrameSource, Patience};
use super::rings::Rings;
use super::statistics::DirectStatistics;
use crate::netem::Place;
use crate::queue::{CrossQueues, Frame, PfEnd, Pool, PortQueueRx};
use crate::thread::{LiveLoad, News, Plane};
use crate::uplink::{Arrivals, Position, Uplink};

/// Frames taken from one queue before the next one gets its turn, or bytes: super-frames are long.
const BURST: usize = 32;
const BURST_BYTES: u64 = 64 * 1024;

/// The NIC of one host and everything that is attached to it directly, or to one of its workers.
pub struct DirectPlane {
    /// The model that judges every frame.
    pub nic: Nic,
    policies: PolicySubscriber,
    ports: VfPorts,
    /// Frames of VFs that wait for the wire.
    parked: ParkedFrames,
    parked_pf: Option<Frame>,
    /// Those that wait by VF.
    pf_queues: PfQueues,
    out: Outside,
    /// What the uplink has brought and the round had no time for.
    arrivals: Arrivals,
    /// What other workers have for the port, if it is here and there are others.
    from_workers: Option<PortQueueRx>,
    /// Frames of VFs on path `auto` that wait until their flow has changed to the fast path.
    waiting: Waiting,
    /// Frames of VFs that have been judged and wait for the wire in no ring. Nothing is taken from their rings before they have gone.
    stuck: BTreeMap<VfIndex, VecDeque<Stuck>>,
    /// The flow that is first in the next round, a VF or behind the last VF the PF.
    cursor: usize,
    /// Bytes that the VF whose turn it is has sent in it.
    turn_bytes: u64,
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

    fn with_egress(
        policies: &PolicyCell,
        pf: PfEnd,
        mut egress: Egress,
        pool: Pool,
    ) -> DirectPlane {
        let nic = Nic::new(policies.load());
        egress.adopt(nic.policy());
        let vfs = nic.policy().vf_count();
        let mut ports = VfPorts::new(vfs, Patience::Granted, pool);
        ports.adopt(nic.policy());
        DirectPlane {
            nic,
            policies: policies.subscribe(),
            ports,
            parked: ParkedFrames::new(vfs),
            parked_pf: None,
            pf_queues: PfQueues::new(vfs + 1),
            out: Outside {
                egress,
                pf,
                workers: None,
                loopback: None,
            },
            arrivals: Arrivals::default(),
            from_workers: None,
            waiting: Waiting::default(),
            stuck: BTreeMap::new(),
            cursor: 0,
            turn_bytes: 0,
        }
    }

    /// Judges by the policy that was published last from now on; how many frames go on that waited for it. Asked again behind each look
    /// into a ring or at the uplink: who has been told that his command is obeyed may send a frame at once, and that is to find the
    /// command in force, though this round began before it.
    #[inline]
    fn look_for_policy(&mut self, now: Nanos) -> usize {
        match self.policies.update(&mut self.nic) {
            true => self.adopted(now),
            false => 0,
        }
    }

    /// Which NIC of its process it is, so that the same seed gives each other impairments; `slack` is how far ahead of now the port's
    /// transmitter may be filled.
    pub fn set_place(&mut self, nic: usize, slack: Nanos) {
        let place = Place { nic, port: 0 };
        self.out.egress.set_place(place, slack);
        self.ports.set_nic(nic);
    }

    /// Judges by this policy from now on, and shares the port as it says.
    pub(super) fn adopt(&mut self, policy: Arc<Policy>) {
        self.nic.adopt(policy);
        self.out.egress.adopt(self.nic.policy());
        self.ports.adopt(self.nic.policy());
    }

    /// What is held back of what a VF sends and receives, to be given with its rings to whoever gets those.
    pub(super) fn take_impaired(&mut self, vf: VfIndex) -> Held {
        self.ports.take_impaired(vf)
    }

    /// The same, from who had them.
    pub(super) fn give_impaired(&mut self, vf: VfIndex, held: Held) {
        self.ports.give_impaired(vf, held);
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
            fast: self.nic.published_fast(),
            uplink: self.out.egress.statistics(),
        }
    }

    /// What deliveries have cost beyond what any may.
    #[cfg(test)]
    pub(super) fn effort(&self) -> u64 {
        self.ports.rx.effort
    }

    /// The PF's end, to connect it.
    pub fn pf_mut(&mut self) -> &mut PfEnd {
        &mut self.out.pf
    }

    /// What has passed the ports of the direct path, for those who watch.
    pub fn mirror_mut(&mut self) -> &mut Mirror {
        &mut self.ports.rx.mirror
    }

    /// Who captures frames of the direct path.
    pub fn captures_mut(&mut self) -> &mut Captures {
        &mut self.ports.rx.captures
    }

    /// Whether frames from the hypervisor wait that could be handled now.
    #[must_use]
    pub fn has_pf_input(&self) -> bool {
        self.parked_pf.is_none() && self.out.pf.has_input()
    }

    /// Whether nothing is taken from `vf` for now, since a frame of it waits in each of its rings, in none of them, or for its flow.
    #[must_use]
    pub fn is_blocked(&self, vf: VfIndex) -> bool {
        self.parked.stuck().contains(vf)
            || self.waiting.rings.contains(vf)
            || self.is_stuck(vf.index())
    }

    /// VFs of which nothing is taken for now.
    fn blocked(&self) -> VfSet {
        self.parked.stuck().union(self.waiting.rings)
    }

    /// Handles every frame that the hypervisor and other workers have handed over, even if the wire has to run ahead for it:
    /// for a switch of paths, which must find the queues empty.
    pub fn drain(&mut self, now: Nanos) -> usize {
        self.ports.rx.begin_round(now);
        self.out
            .egress
            .begin_round(now, &mut self.nic, &self.ports.rx);
        let mut moved = self.poll_workers(usize::MAX);
        if let Some(from_workers) = &mut self.from_workers {
            from_workers.look();
            let held = self.waiting.remote();
            for vf in from_workers.waiting().union(held).iter() {
                moved += self.poll_remote(now, vf, true);
            }
        }
        moved += self.drain_stuck(now) + self.drain_sorted(now) + self.poll_pf(now, true);
        moved += self.poll_loopback(now, true);
        self.send_marker(now);
        self.flush(now);
        // While a marker is to be sent or on its way the plane is not empty: it counts as work.
        moved + usize::from(self.nic.is_marker_due())
    }

    /// Has frames from VF to VF take the time of this rate and propagation from now on. For the virtual clock, which has one
    /// worker.
    pub fn set_loopback(&mut self, config: LinkConfig) {
        self.out.loopback = Some(Box::new(Loopback::new(config, self.ports.tx.len())));
    }

    /// Delivers what has come through the NIC by now, or all that is inside if `all`; how many frames have begun and ended.
    fn poll_loopback(&mut self, now: Nanos, all: bool) -> usize {
        let mut moved = 0;
        if let Some(loopback) = &mut self.out.loopback {
            moved += loopback.start(now);
            while all && loopback.start_next(now) {
                moved += 1;
            }
        }
        let by = if all { Nanos(u64::MAX) } else { now };
        while let Some(looped) = self.out.loopback.as_mut().and_then(|l| l.arrived(by)) {
            let rx = &mut self.ports.rx;
            let source = FrameSource::Private(&looped.frame);
            rx.deliver_to_vfs(&mut self.nic, looped.to, looped.tagging, source);
            rx.pool.give(looped.frame);
            moved += 1;
        }
        moved
    }

    /// Leaves what comes from outside the process where another one finds it, or takes it again.
    pub(crate) fn set_deaf(&mut self, now: Nanos, deaf: bool) {
        self.out.egress.set_deaf(now, deaf);
    }

    /// How far what is plugged into the port has come, if that is here and plays something.
    pub(super) fn position(&self, now: Nanos) -> Option<Position> {
        self.out.egress.position(now)
    }

    /// What another process needs to go on with what is plugged into the port, if that is here.
    pub(super) fn uplink(&self) -> Option<BorrowedFd<'_>> {
        self.out.egress.descriptor()
    }

    /// Whether frames are here that go on by themselves: those that wait for a guest's buffers do not.
    pub(super) fn is_under_way(&mut self) -> bool {
        self.nic.is_marker_due()
            || self.has_pf_input()
            || self.parked_pf.is_some()
            || !self.stuck.is_empty()
            || !self.arrivals.frames.is_empty()
            || self.ports.holds_back()
            || self.out.egress.next().is_some()
    }

    /// Serves the flows that wait for the wire, in the order of their shares.
    fn poll_waiting(&mut self, now: Nanos) -> usize {
        let mut moved = 0;
        for _ in 0..BURST {
            let Some(flow) = self.out.egress.visit_next() else {
                break;
            };
            if self.pf_queues.waits(flow) {
                moved += self.poll_sorted(now, flow, false);
            } else if self.is_stuck(flow) {
                moved += self.poll_stuck(now, VfIndex::from(flow), false);
            } else if flow == self.pf_flow() {
                let burst = self.poll_pf(now, false);
                moved += self.ports.rx.load.count_burst(burst);
            } else {
                let vf = VfIndex::from(flow);
                moved += match self.is_remote(vf) {
                    true => self.poll_remote(now, vf, false),
                    false => self.poll_parked(now, vf),
                };
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
        if !self.parked.stuck().is_empty() && matches!(self.out.egress, Egress::Port(_)) {
            let active = self.ports.active.active().difference(*self.parked.stuck());
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

    /// Publishes what else was used in this round, and notifies each driver at most once a ring, later if it wants that.
    fn flush(&mut self, now: Nanos) {
        self.ports.rx.publish();
        self.out.egress.flush(now, &mut self.nic, &self.ports.rx);
        if let Some(workers) = &mut self.out.workers {
            workers.tell();
        }
        self.ports.flush(now);
    }
}

impl Rings for DirectPlane {
    fn attach(&mut self, vf: VfIndex, vring: Vring) {
        self.ports.attach(vf, vring);
        self.parked.note(vf, self.ports.tx[vf.index()].queues.len());
    }

    fn detach(&mut self, _: Nanos, vf: VfIndex, ring: u32) -> Option<Vring> {
        self.unpark_ring(vf, ring);
        let vring = self.ports.detach(vf, ring);
        self.parked.note(vf, self.ports.tx[vf.index()].queues.len());
        vring
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

    fn send(&mut self, now: Nanos, vf: VfIndex, frame: &[u8]) {
        self.look_for_policy(now);
        self.ports.rx.begin_round(now);
        self.out
            .egress
            .begin_round(now, &mut self.nic, &self.ports.rx);
        let frame = self.ports.rx.pool.frame(frame);
        self.send_on(now, vf, FIRST_TX_RING, frame);
        self.flush(now);
    }
}

impl Plane for DirectPlane {
    /// What has arrived from the wire, from the hypervisor and from the guests, each within a budget.
    fn poll(&mut self, now: Nanos) -> usize {
        self.ports.rx.begin_round(now);
        self.out
            .egress
            .begin_round(now, &mut self.nic, &self.ports.rx);
        let released = self.look_for_policy(now);
        let arrived = self.poll_uplink(now);
        let mut moved = self.ports.rx.load.count_burst(arrived) + released;
        if !self.ports.rx.patient().is_empty() {
            moved += self.ports.rx.drain_backlogs(now, &mut self.nic);
        }
        if self.out.workers.is_some() {
            moved += self.poll_workers(BURST);
        }
        if self.out.loopback.is_some() {
            moved += self.poll_loopback(now, false);
        }
        if !self.ports.impaired.vfs().is_empty() || !self.stuck.is_empty() {
            moved += self.poll_impaired(now);
        }
        let left = self.from_workers.as_mut().map(PortQueueRx::look);
        moved += self.poll_flows(now);
        if let Some(left) = left {
            for vf in left.iter() {
                moved += self.poll_vf(now, vf);
            }
        }
        moved += self.poll_idle(now, moved > 0);
        if self.nic.has_fast_path() {
            self.send_marker(now);
        }
        if moved > 0 || self.out.workers.is_some() || self.ports.has_calls(now) {
            self.flush(now);
        }
        moved
    }

    fn next(&mut self, now: Nanos) -> Option<Nanos> {
        let mut next = self.out.egress.next();
        let mut sooner = |at: Nanos| next = Some(next.map_or(at, |n: Nanos| n.min(at)));
        let ports = self.ports.next(now, &self.nic, self.blocked());
        ports.map(&mut sooner);
        self.waiting.next().map(&mut sooner);
        if !self.arrivals.frames.is_empty() {
            sooner(now);
        }
        let loopback = self.out.loopback.as_ref();
        loopback.and_then(|l| l.next()).map(&mut sooner);
        // Without the port, nobody knows when; its worker rings when there is room.
        if matches!(self.out.egress, Egress::Remote(_))
            && let mut parked = self.parked.vfs().iter().chain(self.stuck.keys().copied())
            && parked.any(|vf| self.out.egress.may_go(vf.index()))
        {
            sooner(now);
        }
        next
    }

    fn arm(&mut self, now: Nanos) -> bool {
        // One that was published since the last round, when this thread did not look asleep, woke nobody.
        let mut work = self.has_pf_input() | self.policies.has_new(&self.nic);
        work |= !self.arrivals.frames.is_empty();
        work |= self
            .out
            .workers
            .as_ref()
            .is_some_and(CrossQueues::has_input);
        work |= self
            .from_workers
            .as_ref()
            .is_some_and(PortQueueRx::has_input);
        let (parked, out, waiting) = (&self.parked, &self.out, self.waiting.rings);
        let impaired = &self.ports.impaired;
        let due = impaired.vfs().iter().filter(|vf| impaired.waits(*vf));
        let behind: VfSet = due.chain(self.stuck.keys().copied()).collect();
        let held = |vf, ring| {
            waiting.contains(vf)
                || behind.contains(vf)
                || parked.holds(vf, ring)
                || out.loopback_holds(vf, ring)
        };
        work | self.ports.arm(now, &self.nic, held)
    }

    fn disarm(&mut self) {
        self.out.egress.slept();
        self.ports.disarm();
    }

    fn take_news(&mut self) -> Vec<News> {
        News::of(self.ports.take_broken(), self.nic.take_events())
    }

    fn connect(&mut self, registry: mio::Registry) {
        self.out.egress.register(&registry);
        self.ports.connect(registry);
    }

    fn load(&self) -> &LiveLoad {
        &self.ports.rx.load
    }
}
