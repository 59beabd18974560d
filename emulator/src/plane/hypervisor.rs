//! The mediated path of one host: one hypervisor CPU that copies every frame out of the sender's ring into its own
//! buffer, bridges it, and copies it into the receiver's ring or hands it to the PF. Work is charged to a CPU budget when
//! there is one (the 2009 cost model); then the next piece of work starts only when the CPU is free again.
//! Never reads a clock, never blocks a guest: what does not fit is dropped and counted.

use vf_model::{
    BridgePort, CostModel, CpuBudget, DropReason, Header, HypervisorModel, Judge, MacAddr, Nanos,
    Verdict, VfIndex, VfSet,
};
use vf_vhost::frame::{FrameBuf, TagEdit};
use vf_vhost::ring::Fence;
use vf_vhost::vring::Vring;

use super::backlog::{BACKLOG, Backlog, Waiting};
use super::kicks::Kicks;
use super::load::Load;
use super::mirror::Mirror;
use super::owner::Plane;
use super::pf::PfEnd;
use super::pool::Pool;
use super::port::{
    Delivery, HeldBack, Notified, RingBroken, RxPort, Slot, TxPort, bytes_of, is_rx, meta,
};
use super::traffic::{PairTraffic, PerQueue};
use crate::watch::{Direction, Port};

/// Pieces of work between two notifications to a guest.
const BATCH: usize = 16;
/// Pieces of work in one round.
const ROUND: usize = 64;

/// One host's hypervisor and the vifs it serves.
pub struct Hypervisor {
    /// The bridge and the policies that judge every frame.
    pub model: HypervisorModel,
    tx: Vec<TxPort>,
    rx: Vec<RxPort>,
    pf: PfEnd,
    pool: Pool,
    mirror: Mirror,
    cpu: Option<Cpu>,
    current: Option<Job>,
    /// Whether the last piece of work came from the PF: the next comes from a vif, if one has any.
    last_was_pf: bool,
    cursor: usize,
    since_flush: usize,
    touched: VfSet,
    held: HeldBack,
    notified: Notified,
    broken: Vec<RingBroken>,
    kicks: Kicks,
    load: Load,
}

/// The cost of work and the CPU that pays for it.
struct Cpu {
    cost: CostModel,
    budget: CpuBudget,
}

/// A frame in the hypervisor's own buffer, being worked on.
struct Job {
    from: BridgePort,
    frame: FrameBuf,
}

impl Hypervisor {
    /// A hypervisor without rings. With a cost model its CPU is charged for every piece of work.
    #[must_use]
    pub fn new(
        model: HypervisorModel,
        vfs: usize,
        pf: PfEnd,
        pool: Pool,
        cost: Option<CostModel>,
    ) -> Hypervisor {
        Hypervisor {
            model,
            tx: std::iter::repeat_with(TxPort::default).take(vfs).collect(),
            rx: std::iter::repeat_with(RxPort::default).take(vfs).collect(),
            pf,
            pool,
            mirror: Mirror::default(),
            cpu: cost.map(|cost| Cpu {
                cost,
                budget: CpuBudget::new(cost.hz),
            }),
            current: None,
            last_was_pf: false,
            cursor: 0,
            since_flush: 0,
            touched: VfSet::default(),
            held: HeldBack::default(),
            notified: Notified::default(),
            broken: Vec::new(),
            kicks: Kicks::default(),
            load: Load::default(),
        }
    }

    /// Takes over a ring of a VF whose path is mediated.
    pub fn attach(&mut self, vf: VfIndex, vring: Vring) {
        self.kicks.add(&vring);
        if is_rx(vring.index()) {
            self.rx[vf.index()].attach(vring);
        } else {
            self.tx[vf.index()].attach(vring);
        }
    }

    /// Gives a ring up; afterwards nobody here touches it.
    pub fn detach(&mut self, vf: VfIndex, ring: u32) -> Option<Vring> {
        let vring = if is_rx(ring) {
            self.rx[vf.index()].detach(ring)
        } else {
            self.tx[vf.index()].detach(ring)
        }?;
        self.kicks.remove(&vring);
        Some(vring)
    }

    /// The indices of the rings held for a VF.
    #[must_use]
    pub fn rings(&self, vf: VfIndex) -> Vec<u32> {
        let tx = self.tx[vf.index()].queues.iter().map(|s| s.queue.vring());
        let rx = self.rx[vf.index()].queues.iter().map(|s| s.queue.vring());
        tx.chain(rx).map(Vring::index).collect()
    }

    fn busy_until(&self) -> Nanos {
        self.cpu
            .as_ref()
            .map_or(Nanos(0), |cpu| cpu.budget.busy_until())
    }

    /// Time that the CPU has been charged for up to `now`; `None` without a cost model.
    #[must_use]
    pub fn charged(&self, now: Nanos) -> Option<Nanos> {
        self.cpu.as_ref().map(|cpu| cpu.budget.busy(now))
    }

    fn charge(&mut self, now: Nanos, job: &Job) {
        if let Some(cpu) = &mut self.cpu {
            let cycles = match job.from {
                BridgePort::Vif(_) => cpu.cost.tx_cycles(job.frame.len()),
                BridgePort::Pf => cpu.cost.rx_cycles(job.frame.len()),
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
        self.last_was_pf = job.from == BridgePort::Pf;
        Some(job)
    }

    fn take_from_pf(&mut self) -> Option<Job> {
        self.pf.receive().map(|frame| Job {
            from: BridgePort::Pf,
            frame,
        })
    }

    fn take_from_vifs(&mut self, now: Nanos) -> Option<Job> {
        let vifs = self.tx.len();
        for step in 0..vifs {
            let i = (self.cursor + step) % vifs;
            if self.tx[i].queues.is_empty() {
                continue;
            }
            let vf = VfIndex::from(i);
            if self.model.tx_ready_at(vf, now) > now {
                continue;
            }
            if let Some(frame) = self.take_from_vif(now, vf) {
                self.cursor = (i + 1) % vifs;
                return Some(Job {
                    from: BridgePort::Vif(vf),
                    frame,
                });
            }
        }
        None
    }

    fn take_from_vif(&mut self, now: Nanos, vf: VfIndex) -> Option<FrameBuf> {
        let mut bad = 0;
        let port = &mut self.tx[vf.index()];
        let queues = port.queues.len();
        for _ in 0..queues {
            let q = port.cursor % queues;
            port.cursor = (q + 1) % queues;
            let slot = &mut port.queues[q];
            while !slot.broken && bad < BATCH {
                // On a disabled ring there is nothing to take, only to throw away.
                let taken = slot.discard(now).and_then(|frames| {
                    for _ in 0..frames {
                        self.touched.insert(vf);
                        self.model.count_tx_drop(vf, DropReason::RingDisabled);
                    }
                    slot.queue.fetch()
                });
                match taken.map(|_| slot.queue.fetched().first()) {
                    Ok(None) => break,
                    Ok(Some(frame)) if frame.fault().is_some() => {
                        bad += 1;
                        self.touched.insert(vf);
                        self.model.count_tx_drop(vf, DropReason::BadHeader);
                        slot.queue.complete(1);
                    }
                    Ok(Some(frame)) => {
                        self.touched.insert(vf);
                        let ring = slot.queue.vring().index();
                        port.traffic.of_ring(ring).add(frame.len());
                        let mut copy = self.pool.take();
                        slot.queue.copy_to(frame, &mut copy);
                        self.load.copies += 1;
                        slot.queue.complete(1);
                        let mirror = &mut self.mirror;
                        mirror.add(Port::Vf(vf), Direction::Tx, &copy, TagEdit::Keep);
                        return Some(copy);
                    }
                    Err(why) => {
                        slot.broken = true;
                        let ring = slot.queue.vring().index();
                        self.broken.push(RingBroken { vf, ring, why });
                    }
                }
            }
        }
        None
    }

    /// Bridges a frame and copies it out. So many may wait for a guest's buffers.
    fn finish(&mut self, now: Nanos, job: Job, limit: usize) {
        self.since_flush += 1;
        let Job { from, mut frame } = job;
        let m = meta(frame.len(), &frame.hdr);
        let verdict = self.model.ingress(now, from, frame.head(), &m);
        if !verdict.vfs.is_empty() {
            self.deliver_to_vifs(&verdict, &frame, limit);
        }
        if !verdict.pf {
            self.pool.give(frame);
            return;
        }
        if let Some(tag) = verdict.insert {
            frame.edit(TagEdit::Insert(tag.to_bytes()));
        }
        if let Err(lost) = self.pf.send(frame) {
            self.model.count_pf_drop(DropReason::PfQueueFull);
            self.pool.give(lost);
        }
    }

    fn deliver_to_vifs(&mut self, verdict: &Verdict, frame: &FrameBuf, limit: usize) {
        let Ok(header) = Header::parse(frame.head()) else {
            return; // the model has judged it, so it parses
        };
        for vf in verdict.vfs.iter() {
            let edit = self.model.egress_edit(verdict.insert, vf);
            let len = edit.len_of(frame.len());
            let edit = bytes_of(edit);
            let port = &mut self.rx[vf.index()];
            let queue = match port.in_use() {
                0 | 1 => 0,
                in_use => self.model.rss(vf).queue(frame.head(), in_use),
            };
            let delivery = if port.backlog.is_empty() {
                port.deliver(queue, frame, edit, len)
            } else {
                // In order behind those that wait already.
                Delivery::Dropped(DropReason::NoRxBuffer)
            };
            match delivery {
                Delivery::Done => {
                    self.mirror.add(Port::Vf(vf), Direction::Rx, frame, edit);
                    self.model.count_delivered(vf, header.dst, len);
                    self.load.copies += 1;
                    self.touched.insert(vf);
                }
                Delivery::Dropped(DropReason::NoRxBuffer) if port.backlog.len() < limit => {
                    let frame = self.pool.copy(frame);
                    port.backlog.push(Waiting {
                        frame,
                        edit,
                        len,
                        queue,
                    });
                }
                Delivery::Dropped(reason) => self.model.count_rx_drop(vf, reason),
                Delivery::Broken(ring, why) => {
                    self.model.count_rx_drop(vf, DropReason::RingBroken);
                    self.broken.push(RingBroken { vf, ring, why });
                }
            }
        }
    }

    /// Gives the guests what waits for their buffers.
    fn drain_backlogs(&mut self, now: Nanos) -> usize {
        let mut moved = 0;
        for (i, port) in self.rx.iter_mut().enumerate() {
            let vf = VfIndex::from(i);
            while let Some((waiting, delivery)) = port.next_waiting(now) {
                moved += 1;
                let Waiting {
                    frame, edit, len, ..
                } = waiting;
                match delivery {
                    Delivery::Done => {
                        self.mirror.add(Port::Vf(vf), Direction::Rx, &frame, edit);
                        let dst = MacAddr::of_frame(frame.head());
                        self.model.count_delivered(vf, dst, len);
                        self.load.copies += 1;
                        self.touched.insert(vf);
                    }
                    Delivery::Dropped(reason) => self.model.count_rx_drop(vf, reason),
                    Delivery::Broken(ring, why) => {
                        self.model.count_rx_drop(vf, DropReason::RingBroken);
                        self.broken.push(RingBroken { vf, ring, why });
                    }
                }
                self.pool.give(frame);
            }
        }
        moved
    }

    /// Publishes what was used and notifies each guest at most once a ring; each notification costs CPU.
    fn flush(&mut self, now: Nanos) {
        self.since_flush = 0;
        let touched = std::mem::take(&mut self.touched);
        for vf in touched.iter() {
            let tx = self.tx[vf.index()].queues.iter_mut();
            tx.for_each(|slot| slot.queue.publish());
            let rx = self.rx[vf.index()].queues.iter_mut();
            rx.for_each(|slot| slot.queue.publish());
        }
        if touched.is_empty() && self.held.due.is_none_or(|due| due > now) {
            return;
        }
        let held = std::mem::take(&mut self.held);
        let fence = Fence::after_publishing();
        for vf in touched.union(held.rx).union(held.tx).iter() {
            let tx = self.tx[vf.index()].call(now, &fence, &mut self.load);
            let rx = self.rx[vf.index()].call(now, &fence, &mut self.load);
            if self.held.note(vf, |held| &mut held.tx, tx) {
                self.notified.tx.insert(vf);
            }
            if self.held.note(vf, |held| &mut held.rx, rx) {
                self.notified.rx.insert(vf);
            }
            let notified = tx.made + rx.made;
            if let (1.., Some(cpu)) = (notified, &mut self.cpu) {
                let cycles = cpu.cost.notification_cycles();
                cpu.budget.charge(now, cycles * notified);
            }
        }
    }

    /// Handles every frame the NIC has handed over, whatever it costs: for a switch of paths, which must find the
    /// queues empty. The CPU is charged all the same, and so many frames may wait for a guest's buffers.
    pub(super) fn drain_pf(&mut self, now: Nanos, limit: usize) -> usize {
        let mut moved = self.drain_backlogs(now);
        if let Some(job) = self.current.take() {
            self.finish(now, job, limit);
            moved += 1;
        }
        while let Some(job) = self.take_from_pf() {
            self.charge(now, &job);
            self.finish(now, job, limit);
            moved += 1;
        }
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

    /// Gives up the frames that wait for buffers of `vf`; they are counted as its drops.
    pub fn drop_backlog(&mut self, vf: VfIndex, reason: DropReason) {
        for frame in self.rx[vf.index()].backlog.drain() {
            self.model.count_rx_drop(vf, reason);
            self.pool.give(frame);
        }
    }

    /// The frames that wait for buffers of `vf`, to be given with its rings to whoever gets those.
    pub(super) fn backlog(&mut self, vf: VfIndex) -> &mut Backlog {
        &mut self.rx[vf.index()].backlog
    }

    /// The drivers that have been, or would have been, notified since the last call.
    pub fn take_notified(&mut self) -> Notified {
        std::mem::take(&mut self.notified)
    }

    /// What has passed the ports of the mediated path, for those who watch.
    pub fn mirror_mut(&mut self) -> &mut Mirror {
        &mut self.mirror
    }

    /// What has passed each queue pair of a VF here.
    #[must_use]
    pub fn traffic(&self, vf: VfIndex) -> Vec<PairTraffic> {
        PerQueue::pairs(&self.rx[vf.index()].traffic, &self.tx[vf.index()].traffic)
    }

    /// What its thread has done.
    #[must_use]
    pub fn load(&self) -> &Load {
        &self.load
    }

    /// The PF's end, to connect it.
    pub fn pf_mut(&mut self) -> &mut PfEnd {
        &mut self.pf
    }
}

impl Plane for Hypervisor {
    /// As much work as the CPU budget allows.
    fn poll(&mut self, now: Nanos) -> usize {
        let mut moved = self.drain_backlogs(now);
        for _ in 0..ROUND {
            if self.busy_until() > now {
                break;
            }
            if let Some(job) = self.current.take() {
                self.finish(now, job, BACKLOG);
                moved += 1;
            }
            let Some(job) = self.take_job(now) else {
                break;
            };
            self.charge(now, &job);
            self.current = Some(job);
        }
        if self.current.is_none() || self.since_flush >= BATCH {
            self.flush(now);
        }
        self.load.count_burst(moved)
    }

    fn next(&mut self, now: Nanos) -> Option<Nanos> {
        // A CPU that has just notified somebody is busy without a frame in hand, and more may wait behind that.
        let free = self.busy_until();
        if self.current.is_some() || free > now {
            return Some(free);
        }
        let limited = self.tx.iter().enumerate();
        let limited = limited
            .filter(|(_, port)| !port.queues.is_empty())
            .map(|(i, _)| self.model.tx_ready_at(VfIndex::from(i), now))
            .min_by_key(|ready| if *ready > now { ready.0 } else { u64::MAX });
        let disabled = self.tx.iter_mut().flat_map(|port| &mut port.queues);
        let disabled = disabled.filter_map(Slot::discard_at);
        let waiting = self.rx.iter().filter_map(|port| port.backlog.due());
        // What is past has been tried; it waits for a kick.
        let times = limited
            .into_iter()
            .chain(disabled)
            .chain(waiting)
            .chain(self.held.due);
        times.filter(|at| *at > now).min()
    }

    fn arm(&mut self, now: Nanos) -> bool {
        let mut work = self.pf.has_input();
        for (i, port) in self.tx.iter_mut().enumerate() {
            let waits = self.model.tx_ready_at(VfIndex::from(i), now) > now;
            for slot in port.queues.iter_mut().filter(|s| !s.broken) {
                work |= slot.queue.set_notify(true) && !waits;
            }
        }
        for port in self.rx.iter_mut().filter(|p| !p.backlog.is_empty()) {
            work |= port.set_notify(true);
        }
        work
    }

    fn disarm(&mut self) {
        for port in &mut self.tx {
            for slot in port.queues.iter_mut().filter(|s| !s.broken) {
                slot.queue.set_notify(false);
            }
        }
        for port in &mut self.rx {
            port.set_notify(false);
        }
    }

    fn take_broken(&mut self) -> Vec<RingBroken> {
        std::mem::take(&mut self.broken)
    }

    fn connect(&mut self, registry: mio::Registry) {
        self.kicks.connect(registry);
    }

    fn load_mut(&mut self) -> &mut Load {
        &mut self.load
    }
}
