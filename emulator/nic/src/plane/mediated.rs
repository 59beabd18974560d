//! The mediated path of one host: one hypervisor CPU that copies every frame out of the sender's ring into its own
//! buffer, bridges it, and copies it into the receiver's ring or hands it to the PF. Work is charged to a CPU budget when
//! there is one (the 2009 cost model); then the next piece of work starts only when the CPU is free again.
//! Never reads a clock, never blocks a guest: what does not fit is dropped and counted.

use std::sync::Arc;

use vf_model::{
    CostModel, CpuBudget, DropReason, HypervisorModel, Judge, Nanos, Onward, Policy, Tagging,
    Verdict, VfIndex, VfSet, wire_bytes,
};
use vf_vhost::frame::TagEdit;
use vf_vhost::rx::BURST_EFFORT;
use vf_vhost::vring::Vring;

use super::backlog::Backlog;
use super::captures::{Captures, Passing};
use super::guarantees::Guarantees;
use super::mirror::Mirror;
use super::policy_cell::{PolicyCell, PolicySubscriber};
use super::port::{FIRST_TX_RING, Notified, meta, queue_pair, reason};
use super::ports::{Fetched, Held, VfPorts};
use super::receivers::{FrameSource, Patience, ROUND_BYTES, copied};
use super::rings::Rings;
use super::statistics::MediatedStatistics;
use super::traffic::Traffic;
use crate::queue::{Frame, Pool};
use crate::queue::{PfEnd, PfFrame, PfItem};
use crate::thread::LiveLoad;
use crate::thread::News;
use crate::thread::Plane;
use crate::watch::{Direction, Port};

/// Pieces of work between two notifications to a guest.
const BATCH: usize = 16;
/// Pieces of work in one round, unless they are long.
const ROUND: usize = 64;

/// One host's hypervisor and the vifs it serves.
pub struct MediatedPlane {
    /// The bridge and the policies that judge every frame.
    pub model: HypervisorModel,
    policies: PolicySubscriber,
    ports: VfPorts,
    pf: PfEnd,
    cpu: Option<Cpu>,
    current: Option<Job>,
    guarantees: Guarantees,
    /// Whether the last piece of work came from the PF: the next comes from a vif, if one has any.
    last_was_pf: bool,
    /// The vif that is first asked for the next piece of work.
    cursor: usize,
    /// Vifs that are asked in this round. One that had nothing is not asked again in it, so that a frame of a busy one does not cost
    /// a look at each of those that are active and quiet.
    asked: VfSet,
    /// Frames of disabled rings that have been thrown away in this round. More of them may wait for the next one.
    discarded: usize,
    since_flush: usize,
    /// What the round's work takes on a wire, in bytes.
    copied: u64,
    /// VFs on path `auto` that were given frames by way of the NIC since then: to tell them costs as much as other guests.
    given_back: VfSet,
}

/// The cost of work and the CPU that pays for it.
struct Cpu {
    cost: CostModel,
    budget: CpuBudget,
}

/// A frame in the hypervisor's own buffer, being worked on.
struct Job {
    from: JobSource,
    frame: Frame,
}

/// Where a frame comes from.
enum JobSource {
    /// A mediated guest, from this queue pair; it has not been judged yet.
    Vif(VfIndex, u16),
    /// The NIC, which has judged it. What of it is for VFs whose rings it has goes back there: a NIC without a switch leaves
    /// that to the hypervisor, and so does the slow path of VFs on path `auto`.
    Pf(Onward),
    /// A mediated guest; it has been judged, and its copies for other guests are being paid for.
    Judged(Box<Decided>),
}

/// What is to become of a frame, whatever the policy says when it is done.
struct Decided {
    verdict: Verdict,
    tagging: Tagging,
    onward: Onward,
}

impl MediatedPlane {
    /// A hypervisor without rings. With a cost model its CPU is charged for every piece of work.
    #[must_use]
    pub fn new(
        policies: &PolicyCell,
        pf: PfEnd,
        pool: Pool,
        cost: Option<CostModel>,
    ) -> MediatedPlane {
        let policy = policies.load();
        let mut guarantees = Guarantees::default();
        guarantees.adopt(&policy);
        let mut ports = VfPorts::new(policy.vf_count(), Patience::Always, pool);
        ports.adopt(&policy);
        MediatedPlane {
            guarantees,
            policies: policies.subscribe(),
            ports,
            model: HypervisorModel::new(policy),
            pf,
            cpu: cost.map(|cost| Cpu {
                cost,
                budget: CpuBudget::new(cost.hz),
            }),
            current: None,
            last_was_pf: false,
            cursor: 0,
            asked: VfSet::default(),
            discarded: 0,
            since_flush: 0,
            copied: 0,
            given_back: VfSet::default(),
        }
    }

    /// Judges by the policy that was published last from now on.
    #[inline]
    fn look_for_policy(&mut self) {
        if self.policies.update(&mut self.model) {
            self.adopted();
        }
    }

    /// Judges by this policy from now on.
    pub(super) fn adopt(&mut self, policy: Arc<Policy>) {
        self.model.adopt(policy);
        self.adopted();
    }

    fn adopted(&mut self) {
        self.guarantees.adopt(self.model.policy());
        self.ports.adopt(self.model.policy());
    }

    /// Which NIC of its process it is, so that the same seed gives each other impairments.
    pub fn set_place(&mut self, nic: usize) {
        self.ports.set_nic(nic);
    }

    /// What is held back of what a VF sends and receives, to be given with its rings to whoever gets those.
    pub(super) fn take_impaired(&mut self, vf: VfIndex) -> Held {
        self.ports.take_impaired(vf)
    }

    /// The same, from who had them.
    pub(super) fn give_impaired(&mut self, vf: VfIndex, held: Held) {
        self.ports.give_impaired(vf, held);
    }

    /// The indices of the rings held for a VF.
    #[must_use]
    pub fn rings(&self, vf: VfIndex) -> Vec<u32> {
        self.ports.rings(vf)
    }

    /// Whether frames are here that go on by themselves: those that wait for a guest's buffers do not.
    pub(super) fn is_under_way(&self) -> bool {
        self.current.is_some() || self.pf.has_input() || self.ports.holds_back()
    }

    /// How many VFs there can be.
    pub(super) fn policy_vfs(&self) -> usize {
        self.model.policy().vf_count()
    }

    /// Whether a VF is on the mediated path.
    pub(super) fn is_mediated(&self, vf: VfIndex) -> bool {
        self.model.policy().mediated().contains(vf)
    }

    fn busy_until(&self) -> Nanos {
        self.cpu
            .as_ref()
            .map_or(Nanos(0), |cpu| cpu.budget.busy_until())
    }

    /// What it counts, to be read while it does.
    #[must_use]
    pub fn statistics(&self) -> MediatedStatistics {
        MediatedStatistics {
            plane: self.ports.statistics(&self.model),
            charged: self.cpu.as_ref().map(|cpu| cpu.budget.busy_time()),
            bridge: self.model.bridge().published(),
        }
    }

    /// What has to be paid for before the job can go on: the copy out of the sender's ring, or one into the ring of each
    /// receiver here.
    fn charge(&mut self, now: Nanos, job: &Job) {
        if let Some(cpu) = &mut self.cpu {
            let len = job.frame.len();
            let copies = |copies: usize| cpu.cost.rx_cycles(len) * copies as u64;
            let auto = self.model.policy().auto();
            let cycles = match &job.from {
                JobSource::Vif(..) => cpu.cost.tx_cycles(len),
                // The slow path of a VF costs what the mediated path does, although the NIC has its rings.
                JobSource::Pf(onward) if onward.from.is_some_and(|vf| auto.contains(vf)) => {
                    cpu.cost.tx_cycles(len) + copies(onward.vfs.len())
                }
                JobSource::Pf(onward) => copies(onward.vfs.len()),
                JobSource::Judged(decided) => copies(self.model.copies(&decided.verdict)),
            };
            cpu.budget.charge(now, cycles);
        }
    }

    /// The next frame to work on, copied into the hypervisor's own buffer: the PF and the vifs take turns, and so do
    /// the vifs among themselves.
    fn take_job(&mut self, now: Nanos) -> Option<Job> {
        let job = if self.last_was_pf {
            self.take_from_vifs(now).or_else(|| self.take_from_pf())
        } else {
            self.take_from_pf().or_else(|| self.take_from_vifs(now))
        }?;
        self.last_was_pf = matches!(job.from, JobSource::Pf(_));
        Some(job)
    }

    fn take_from_pf(&mut self) -> Option<Job> {
        loop {
            match self.pf.receive()? {
                PfItem::Frame(PfFrame { frame, onward }) => {
                    if self.ports.rx.mirror.is_on() {
                        self.show(&frame, &onward);
                    }
                    let from = JobSource::Pf(onward);
                    return Some(Job { from, frame });
                }
                // All that came before it has gone on. There is always room for it: it is the only one.
                PfItem::Marker(number) => {
                    self.pf.send_marker(number);
                }
                PfItem::Announced(_) => {} // is told by this side only
            }
        }
    }

    /// Shows what takes the slow path of VFs on path `auto`.
    fn show(&mut self, frame: &Frame, onward: &Onward) {
        let auto = self.model.policy().auto();
        let direction = match onward.from {
            Some(vf) if auto.contains(vf) => Direction::Tx,
            _ if !onward.vfs.intersection(auto).is_empty() => Direction::Rx,
            _ => return,
        };
        let mirror = &mut self.ports.rx.mirror;
        mirror.add(Port::Pf, direction, frame, TagEdit::Keep);
    }

    /// The next frame of a vif that had work lately: those that have had less than is guaranteed to them first, and else the vifs
    /// in turn.
    fn take_from_vifs(&mut self, now: Nanos) -> Option<Job> {
        loop {
            let due = self.guarantees.due(now).intersection(self.asked);
            let vfs = if due.is_empty() { self.asked } else { due };
            let vf = vfs.first_from(self.cursor)?;
            let Some((frame, pair)) = self.take_from_vif(now, vf) else {
                self.asked.remove(vf);
                continue;
            };
            if due.contains(vf) {
                let m = meta(frame.len(), &frame.offload);
                self.guarantees.take(now, vf, wire_bytes(&m));
            }
            self.cursor = vf.index() + 1;
            self.ports.active.had_work(vf);
            let from = JobSource::Vif(vf, pair);
            return Some(Job { from, frame });
        }
    }

    /// Has those vifs be asked in the round that begins that had work lately.
    fn begin_asking(&mut self) {
        self.ports.active.begin_round();
        self.asked = self.ports.active.active();
        if !self.ports.impaired.vfs().is_empty() {
            // What was held back goes on though the rings that it came from are gone.
            self.asked = self.asked.union(self.ports.impaired.waiting());
        }
    }

    /// Finds out which of a few idle vifs have work again.
    fn look_at_idle(&mut self, work: bool) {
        for _ in 0..self.ports.active.idle_looks(work) {
            let Some(vf) = self.ports.active.next_idle() else {
                break;
            };
            let mut queues = self.ports.tx[vf.index()].queues.iter_mut();
            if queues.any(|slot| !slot.broken && slot.queue.has_work()) {
                self.ports.active.had_work(vf);
            }
        }
    }

    /// Has vifs be asked that have something due of what is held back.
    fn find_due(&mut self, now: Nanos) {
        let vfs = *self.ports.impaired.vfs();
        for vf in vfs.iter() {
            let queue = self.ports.impaired.of(vf);
            let due = queue.and_then(|queue| {
                queue.look(now);
                queue.first().map(|_| ())
            });
            if due.is_some() {
                self.ports.active.had_work(vf);
            }
            self.ports.impaired.end(vf);
        }
    }

    /// Takes what a transmit ring holds; whether there are frames now that go on.
    fn fetch(&mut self, now: Nanos, vf: VfIndex, q: usize) -> bool {
        match self.ports.fetch(now, &mut self.model, vf, q) {
            Fetched::Frames(frames) => frames > 0,
            Fetched::Discarded(frames) => {
                if frames > 0 {
                    self.discarded += frames;
                    self.ports.active.had_work(vf);
                }
                false
            }
        }
    }

    /// The next frame that is due of what an impaired vif has sent.
    fn take_impaired_from(&mut self, now: Nanos, vf: VfIndex) -> Option<(Frame, u16)> {
        let queues = match self.ports.impaired.waits(vf) {
            true => 0, // more is left to its guest for now
            false => self.ports.tx[vf.index()].queues.len(),
        };
        for q in 0..queues {
            if self.fetch(now, vf, q) {
                self.ports.impair(now, &mut self.model, vf, q);
            }
        }
        let queue = self.ports.impaired.of(vf)?;
        queue.look(now);
        let (frame, ring) = queue.pop()?;
        let mirror = &mut self.ports.rx.mirror;
        mirror.add(Port::Vf(vf), Direction::Tx, &frame, TagEdit::Keep);
        Some((frame, queue_pair(ring)))
    }

    /// The next frame of a vif, and the queue pair that it comes from.
    fn take_from_vif(&mut self, now: Nanos, vf: VfIndex) -> Option<(Frame, u16)> {
        if self.model.tx_ready_at(vf, now) > now {
            return None;
        }
        if self.ports.impaired.vfs().contains(vf) {
            return self.take_impaired_from(now, vf);
        }
        let queues = self.ports.tx[vf.index()].queues.len();
        let mut bad = 0;
        for _ in 0..queues {
            let q = self.ports.tx[vf.index()].cursor % queues;
            self.ports.tx[vf.index()].cursor = (q + 1) % queues;
            while bad < BATCH && self.fetch(now, vf, q) {
                let port = &mut self.ports.tx[vf.index()];
                let slot = &mut port.queues[q];
                let Some(frame) = slot.queue.fetched().first() else {
                    break;
                };
                self.ports.tx_needs_call.insert(vf);
                if let Some(fault) = frame.fault() {
                    bad += 1;
                    let pair = queue_pair(slot.queue.vring().index());
                    let (rx, policy) = (&self.ports.rx, self.model.policy());
                    rx.captures
                        .no_frame(policy, &rx.pool, vf, pair, reason(fault));
                    self.model.count_tx_drop(vf, reason(fault));
                    slot.queue.complete(1);
                    continue;
                }
                let ring = slot.queue.vring().index();
                let (packets, bytes) = (1, frame.len().into());
                port.traffic.add(ring, Traffic { packets, bytes });
                let rx = &mut self.ports.rx;
                let copy = FrameSource::Guest(&slot.queue, frame).copy(&rx.pool);
                rx.load.copies.add(1);
                slot.queue.complete(1);
                rx.mirror
                    .add(Port::Vf(vf), Direction::Tx, &copy, TagEdit::Keep);
                return Some((copy, queue_pair(ring)));
            }
        }
        None
    }

    /// Bridges a frame and copies it out. Gives it back if copies for guests here have to be paid for first.
    fn finish(&mut self, now: Nanos, job: Job) -> Option<Job> {
        let Job { from, mut frame } = job;
        let m = meta(frame.len(), &frame.offload);
        let decided = match from {
            JobSource::Vif(vf, pair) => {
                // It came after the round had begun, perhaps after a command that its sender was told of.
                self.look_for_policy();
                let verdict = self.model.ingress(now, vf, frame.head(), &m);
                let port = (Port::Vf(vf), Direction::Tx, Some(pair));
                self.capture(port, &frame, Some(&verdict), verdict.drop);
                let decided = Decided {
                    tagging: self.model.tagging(verdict.insert),
                    onward: self.model.policy().onward(&verdict),
                    verdict,
                };
                if self.cpu.is_some() && self.model.copies(&verdict) > 0 {
                    let from = JobSource::Judged(Box::new(decided));
                    let job = Job { from, frame };
                    self.charge(now, &job);
                    return Some(job);
                }
                decided
            }
            JobSource::Pf(onward) => {
                let verdict = self.model.from_pf(now, &onward, frame.head(), &m);
                let port = (Port::Pf, Direction::Rx, None);
                self.capture(port, &frame, Some(&verdict), verdict.drop);
                Decided {
                    tagging: onward.tagging,
                    onward: onward.back_to(verdict.beyond),
                    verdict,
                }
            }
            JobSource::Judged(decided) => *decided,
        };
        let Decided {
            verdict,
            tagging,
            onward,
        } = decided;
        if let Some(mac) = self.model.take_announced() {
            self.pf.announce(mac);
        }
        self.since_flush += 1;
        self.copied += copied(&m, verdict.vfs.len() + usize::from(verdict.pf));
        let rx = &mut self.ports.rx;
        if !verdict.vfs.is_empty() {
            let source = FrameSource::Private(&frame);
            rx.deliver_to_vfs(&mut self.model, verdict.vfs, tagging, source);
        }
        if !verdict.pf {
            rx.pool.give(frame);
            return None;
        }
        let auto = self.model.policy().auto();
        self.given_back = self.given_back.union(onward.vfs.intersection(auto));
        if let Some(tag) = verdict.insert {
            frame.edit(TagEdit::Insert(tag.to_bytes()));
        }
        if let Err(lost) = self.pf.send(frame, onward) {
            let reason = DropReason::PfQueueFull;
            let port = (Port::Pf, Direction::Tx, None);
            self.capture(port, &lost, None, Some(reason));
            self.model.count_pf_drop(reason);
            self.ports.rx.pool.give(lost);
        }
        None
    }

    /// Shows a frame in the hypervisor's buffer to those who capture this port.
    #[inline]
    fn capture(
        &self,
        (port, direction, queue): (Port, Direction, Option<u16>),
        frame: &Frame,
        verdict: Option<&Verdict>,
        drop: Option<DropReason>,
    ) {
        let rx = &self.ports.rx;
        if rx.captures.is_on() {
            let passing = Passing {
                port,
                direction,
                queue,
                frame: FrameSource::Private(frame),
                edit: TagEdit::Keep,
                verdict,
                drop,
            };
            rx.captures.see(self.model.policy(), &rx.pool, &passing);
        }
    }

    /// Publishes what was used and notifies each guest at most once a ring; each notification costs CPU.
    fn flush(&mut self, now: Nanos) {
        self.since_flush = 0;
        self.ports.publish();
        let made = self.ports.flush(now) + std::mem::take(&mut self.given_back).len() as u64;
        if let (1.., Some(cpu)) = (made, &mut self.cpu) {
            let cycles = cpu.cost.notification_cycles();
            cpu.budget.charge(now, cycles * made);
        }
    }

    /// Handles every frame the NIC has handed over, whatever it costs: for a switch of paths, which must find the queues
    /// empty. The CPU is charged all the same. More wait for the guests' buffers than usual.
    pub(super) fn drain_pf(&mut self, now: Nanos) -> usize {
        self.ports.rx.begin_round(now);
        self.ports.rx.at_switch = true;
        let mut moved = self.ports.rx.drain_backlogs(now, &mut self.model);
        while let Some(job) = self.current.take() {
            self.current = self.finish(now, job);
            moved += usize::from(self.current.is_none());
        }
        while let Some(job) = self.take_from_pf() {
            self.charge(now, &job);
            self.finish(now, job); // what the NIC hands over is paid for by now
            moved += 1;
        }
        self.ports.rx.at_switch = false;
        self.flush(now);
        moved
    }

    /// Whether the CPU has nothing to do at present, so that new work should wake it.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.current.is_none()
    }

    /// Whether frames from the NIC wait that could be handled now.
    #[must_use]
    pub fn has_input(&self) -> bool {
        self.is_idle() && self.pf.has_input()
    }

    /// The frames that wait for buffers of `vf`, to be given with its rings to whoever gets those.
    pub(super) fn take_backlog(&mut self, vf: VfIndex) -> Backlog {
        self.ports.rx.take_backlog(vf)
    }

    /// What waited for buffers of `vf` on the other path.
    pub(super) fn give_backlog(&mut self, now: Nanos, vf: VfIndex, backlog: Backlog) {
        self.ports.rx.give_backlog(now, vf, backlog);
    }

    /// The drivers that have been, or would have been, notified since the last call.
    pub fn take_notified(&mut self) -> Notified {
        self.ports.take_notified()
    }

    /// What has passed the ports of the mediated path, for those who watch.
    pub fn mirror_mut(&mut self) -> &mut Mirror {
        &mut self.ports.rx.mirror
    }

    /// Where its frame buffers come from.
    #[must_use]
    pub fn pool(&self) -> &Pool {
        &self.ports.rx.pool
    }

    /// Who captures frames of the mediated path.
    pub fn captures_mut(&mut self) -> &mut Captures {
        &mut self.ports.rx.captures
    }

    /// The PF's end, to connect it.
    pub fn pf_mut(&mut self) -> &mut PfEnd {
        &mut self.pf
    }
}

impl Rings for MediatedPlane {
    fn attach(&mut self, vf: VfIndex, vring: Vring) {
        self.ports.attach(vf, vring);
    }

    fn detach(&mut self, _: Nanos, vf: VfIndex, ring: u32) -> Option<Vring> {
        self.ports.detach(vf, ring)
    }

    fn begin_change(&mut self, vf: VfIndex) {
        self.ports.rx.begin_change(vf);
    }

    fn end_change(&mut self, vf: VfIndex) {
        self.ports.rx.end_change(vf);
    }

    fn drop_backlog(&mut self, vf: VfIndex, reason: DropReason) {
        self.ports.rx.drop_backlog(&mut self.model, vf, reason);
    }

    fn send(&mut self, now: Nanos, vf: VfIndex, frame: &[u8]) {
        self.ports.rx.begin_round(now);
        let frame = self.ports.rx.pool.frame(frame);
        let from = JobSource::Vif(vf, queue_pair(FIRST_TX_RING));
        let mut job = Some(Job { from, frame });
        while let Some(next) = job {
            job = self.finish(now, next);
        }
        self.flush(now);
    }
}

impl Plane for MediatedPlane {
    /// As much work as the CPU budget allows.
    fn poll(&mut self, now: Nanos) -> usize {
        self.look_for_policy();
        self.ports.rx.begin_round(now);
        if !self.ports.impaired.vfs().is_empty() {
            self.find_due(now);
        }
        self.begin_asking();
        let mut moved = self.ports.rx.drain_backlogs(now, &mut self.model);
        let mut left = ROUND;
        self.copied = 0;
        let enough = self.ports.rx.effort + BURST_EFFORT;
        let ends = |left, copied, effort| left == 0 || copied >= ROUND_BYTES || effort >= enough;
        while !ends(left, self.copied, self.ports.rx.effort) && self.busy_until() <= now {
            left -= 1;
            if let Some(job) = self.current.take() {
                self.current = self.finish(now, job);
                if self.current.is_some() {
                    continue;
                }
                moved += 1;
            }
            let Some(job) = self.take_job(now) else {
                break;
            };
            self.charge(now, &job);
            self.current = Some(job);
        }
        moved += std::mem::take(&mut self.discarded);
        self.look_at_idle(moved > 0);
        // While a CPU has to be waited for, more is delivered before guests are told, as by a busy hypervisor.
        if self.current.is_none() || self.since_flush >= BATCH || self.busy_until() <= now {
            self.flush(now);
        }
        self.ports.rx.load.count_burst(moved)
    }

    fn next(&mut self, now: Nanos) -> Option<Nanos> {
        // A CPU that has just notified somebody is busy without a frame in hand, and more may wait behind that.
        let free = self.busy_until();
        if self.current.is_some() || free > now {
            return Some(free);
        }
        let next = self.ports.next(now, &self.model, VfSet::default());
        next.filter(|at| *at > now)
    }

    fn arm(&mut self, now: Nanos) -> bool {
        // One that was published since the last round, when this thread did not look asleep, woke nobody.
        let work = self.pf.has_input() | self.policies.has_new(&self.model);
        work | self.ports.arm(now, &self.model, |_, _| false)
    }

    fn disarm(&mut self) {
        self.ports.disarm();
    }

    fn take_news(&mut self) -> Vec<News> {
        News::of(self.ports.take_broken(), self.model.take_events())
    }

    fn connect(&mut self, registry: mio::Registry) {
        self.ports.connect(registry);
    }

    fn load(&self) -> &LiveLoad {
        &self.ports.rx.load
    }
}
