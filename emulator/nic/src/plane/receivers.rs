//! The receiving side of the VFs of a plane: their receive rings and what waits for their buffers, once for both paths.
//! Delivers what has been judged and counts it; never judges a frame.

mod held_back;

use std::sync::Arc;

use vf_model::{
    DropReason, FrameMeta, Judge, MacAddr, Nanos, Path, TagEdit, Tagging, VfIndex, VfSet, VlanTag,
    wire_bytes,
};
use vf_vhost::frame::FrameBuf;
use vf_vhost::rx::BURST_EFFORT;
use vf_vhost::tx::{TxFrame, TxQueue};

use super::backlog::{
    BACKLOG_AT_SWITCH, BACKLOG_BYTES, BACKLOGS_BYTES, Backlog, PATIENCE, Waiting,
};
use super::captures::{Captures, Passing};
use super::impaired::VfNetem;
use super::mirror::Mirror;
use super::port::{Delivery, RxPort, bytes_of};
use super::traffic::Traffic;
use crate::queue::cost;
use crate::queue::{Frame, Pool};
use crate::thread::LiveLoad;
use crate::thread::RingBroken;
use crate::watch::{Direction, Port};

/// A frame, wherever it is.
#[derive(Clone, Copy)]
pub(super) enum FrameSource<'a> {
    /// In the sender's memory.
    Guest(&'a TxQueue, &'a TxFrame),
    /// In ours.
    Private(&'a FrameBuf),
}

impl FrameSource<'_> {
    pub(super) fn head(&self) -> &[u8] {
        match self {
            FrameSource::Guest(_, frame) => frame.head(),
            FrameSource::Private(frame) => frame.head(),
        }
    }

    pub(super) fn len(&self) -> u32 {
        match self {
            FrameSource::Guest(_, frame) => frame.len(),
            FrameSource::Private(frame) => frame.len(),
        }
    }

    /// Whether something of it is left to others: to cut it, or to make its checksum.
    pub(super) fn is_unfinished(&self) -> bool {
        let offload = match self {
            FrameSource::Guest(_, frame) => frame.offload(),
            FrameSource::Private(frame) => &frame.offload,
        };
        offload.gso().is_some() || offload.checksum().is_some()
    }

    /// A copy of it as it is.
    pub(super) fn copy(&self, pool: &Pool) -> Frame {
        match self {
            FrameSource::Guest(tx, frame) => {
                let mut copy = pool.take(frame.len() as usize);
                tx.copy_to(frame, &mut copy);
                copy
            }
            FrameSource::Private(frame) => pool.copy(frame),
        }
    }

    /// A copy of its first bytes, so many at most.
    pub(super) fn copy_first(&self, pool: &Pool, most: usize) -> Frame {
        match self {
            FrameSource::Guest(tx, frame) => {
                let mut copy = pool.take(most.min(frame.len() as usize));
                tx.copy_first_to(frame, most, &mut copy);
                copy
            }
            FrameSource::Private(frame) => {
                let kept = frame.data.get(..most).unwrap_or(&frame.data);
                let mut copy = pool.take(kept.len());
                copy.offload = frame.offload;
                copy.data.clear();
                copy.data.extend_from_slice(kept);
                copy
            }
        }
    }
}

/// What copies of frames that come from the wire, from another worker or over the PF may take on a wire, in bytes, before others have
/// their turn: what has been delivered is shown to its receivers then, however long others' frames are and however many get them.
pub(super) const ROUND_BYTES: u64 = 256 * 1024;

/// What the copies of a frame for so many receivers take on a wire, in bytes. Of a super-frame each segment counts with its headers, as
/// whoever takes no super-frames gets them.
#[inline]
pub(super) fn copied(m: &FrameMeta, receivers: usize) -> u64 {
    wire_bytes(m).saturating_mul(receivers.max(1) as u64)
}

/// Whose frames wait when there is no buffer for them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Patience {
    /// Everybody's, as in a hypervisor.
    Always,
    /// Nobody's but for a while those of single VFs, as in a NIC.
    Granted,
}

/// See the module.
pub(super) struct Receivers {
    pub(super) ports: Vec<RxPort>,
    /// VFs that have received something that is not published yet.
    pub(super) dirty: VfSet,
    /// VFs that have been shown something of which their driver has not been told.
    pub(super) needs_call: VfSet,
    patience: Patience,
    /// VFs whose frames wait for buffers, or may.
    patient: VfSet,
    /// Bytes of all that waits.
    waiting: u64,
    /// Whether a switch of paths empties queues into the backlogs just now.
    pub(super) at_switch: bool,
    pub(super) broken: Vec<RingBroken>,
    /// What all deliveries have cost beyond what any may: who sees it grow by [`BURST_EFFORT`] leaves the rest for later.
    pub(super) effort: u64,
    pub(super) load: Arc<LiveLoad>,
    pub(super) pool: Pool,
    pub(super) mirror: Mirror,
    pub(super) captures: Captures,
    /// What is held back of what VFs are to get, each frame with how it is changed for its VF.
    impaired: VfNetem<TagEdit>,
    /// When the plane's round began.
    now: Nanos,
}

impl Receivers {
    pub(super) fn new(vfs: usize, patience: Patience, pool: Pool) -> Receivers {
        Receivers {
            ports: std::iter::repeat_with(RxPort::default).take(vfs).collect(),
            dirty: VfSet::default(),
            needs_call: VfSet::default(),
            patience,
            patient: VfSet::default(),
            waiting: 0,
            at_switch: false,
            broken: Vec::new(),
            effort: 0,
            load: Arc::default(),
            pool,
            mirror: Mirror::default(),
            captures: Captures::new(match patience {
                Patience::Always => Path::Mediated,
                Patience::Granted => Path::Direct,
            }),
            impaired: VfNetem::of_received(vfs),
            now: Nanos(0),
        }
    }

    /// Begins a round of the plane.
    #[inline]
    pub(super) fn begin_round(&mut self, now: Nanos) {
        self.now = now;
        self.captures.begin_round(now);
    }

    /// Whether frames of a VF without buffers wait, or might.
    #[inline]
    pub(super) fn is_patient(&self, vf: VfIndex) -> bool {
        self.patience == Patience::Always || self.patient.contains(vf)
    }

    /// Has frames wait that find no buffer of `vf`, up to so many bytes and until then.
    pub(super) fn grant(&mut self, vf: VfIndex, limit: u64, until: Nanos) {
        self.patient.insert(vf);
        let port = &mut self.ports[vf.index()];
        port.patient_until = port.patient_until.max(until);
        port.patient_bytes = port.patient_bytes.max(limit);
    }

    /// What waits for buffers of `vf` now that its rings come here, to be delivered before anything else. Its guest is
    /// given the same time to find its pace: until then what has no buffer waits, too.
    pub(super) fn give_backlog(&mut self, now: Nanos, vf: VfIndex, backlog: Backlog) {
        self.waiting += backlog.bytes();
        self.ports[vf.index()].backlog = backlog;
        self.patient.insert(vf);
        if self.patience == Patience::Granted {
            self.grant(vf, BACKLOG_AT_SWITCH, now + PATIENCE);
        }
    }

    /// What of that still waits.
    pub(super) fn take_backlog(&mut self, vf: VfIndex) -> Backlog {
        let port = &mut self.ports[vf.index()];
        if !port.impaired {
            self.patient.remove(vf);
        }
        (port.patient_until, port.patient_bytes) = (Nanos(0), 0);
        let backlog = std::mem::take(&mut port.backlog);
        self.waiting -= backlog.bytes();
        backlog
    }

    /// Bytes that may wait for the buffers of a VF.
    fn limit(&self, vf: VfIndex) -> u64 {
        let port = &self.ports[vf.index()];
        match self.patience {
            Patience::Always if self.at_switch => BACKLOG_AT_SWITCH,
            Patience::Always => BACKLOG_BYTES,
            Patience::Granted if port.changing => port.patient_bytes.max(BACKLOG_BYTES),
            Patience::Granted => port.patient_bytes,
        }
    }

    /// Has what comes for `vf` wait while its front end changes its rings.
    pub(super) fn begin_change(&mut self, vf: VfIndex) {
        self.ports[vf.index()].changing = true;
        self.patient.insert(vf);
    }

    /// The rings are as they are to be; if there are none, what has waited is dropped.
    pub(super) fn end_change(&mut self, vf: VfIndex) {
        let port = &mut self.ports[vf.index()];
        port.changing = false;
        if port.is_content() {
            self.patient.remove(vf);
        }
    }

    /// Delivers to these VFs; what fails there is that VF's drop, or waits.
    pub(super) fn deliver_to_vfs(
        &mut self,
        model: &mut impl Judge,
        vfs: VfSet,
        tagging: Tagging,
        source: FrameSource<'_>,
    ) {
        for vf in vfs.iter() {
            self.deliver(model, vf, tagging.edit(vf), source);
        }
    }

    #[inline]
    pub(super) fn deliver(
        &mut self,
        model: &mut impl Judge,
        vf: VfIndex,
        edit: TagEdit,
        source: FrameSource<'_>,
    ) {
        if self.ports[vf.index()].impaired {
            return self.impair(model, vf, edit, source);
        }
        self.deliver_now(model, vf, edit, source);
    }

    #[inline]
    fn deliver_now(
        &mut self,
        model: &mut impl Judge,
        vf: VfIndex,
        edit: TagEdit,
        source: FrameSource<'_>,
    ) {
        if self.captures.wants(Port::Vf(vf))
            && let FrameSource::Guest(..) = source
        {
            // What is shown is what is delivered, whatever the sender does meanwhile.
            let copy = source.copy(&self.pool);
            self.deliver_now(model, vf, edit, FrameSource::Private(&copy));
            self.pool.give(copy);
            return;
        }
        let head = source.head();
        let port = &mut self.ports[vf.index()];
        let queue = port.queue_of(model, vf, head);
        let (tag, len) = (bytes_of(edit), edit.len_of(source.len()));
        let delivery = match source {
            // In order behind the frames that wait already.
            _ if !port.backlog.is_empty() => Delivery::Dropped(DropReason::NoRxBuffer),
            FrameSource::Guest(tx, frame) => {
                let frame = std::slice::from_ref(frame);
                let (_, then) = port.deliver_from(queue, tx, frame, edit);
                then.unwrap_or(Delivery::Done)
            }
            FrameSource::Private(frame) => port.deliver(queue, frame, tag, len, 0),
        };
        self.effort += port.take_effort();
        match delivery {
            Delivery::Done => {
                if let FrameSource::Private(frame) = source {
                    self.mirror.add(Port::Vf(vf), Direction::Rx, frame, tag);
                }
                self.capture(model, vf, queue, source, tag, None);
                self.delivered(model, vf, MacAddr::of_frame(head), len);
            }
            Delivery::Dropped(DropReason::NoRxBuffer) if self.is_patient(vf) => {
                self.wait(model, vf, edit, source, 0);
            }
            Delivery::Partial(segments) if self.is_patient(vf) => {
                self.dirty.insert(vf);
                self.wait(model, vf, edit, source, segments);
            }
            failed => {
                self.capture(model, vf, queue, source, tag, failed.drop());
                self.settle(model, vf, failed);
            }
        }
    }

    /// Shows a frame to a VF to those who capture its port.
    #[inline]
    fn capture(
        &self,
        model: &impl Judge,
        vf: VfIndex,
        queue: u16,
        frame: FrameSource<'_>,
        edit: vf_vhost::frame::TagEdit,
        drop: Option<DropReason>,
    ) {
        if self.captures.is_on() {
            let passing = Passing {
                port: Port::Vf(vf),
                direction: Direction::Rx,
                queue: Some(queue),
                frame,
                edit,
                verdict: None,
                drop,
            };
            self.captures.see(model.policy(), &self.pool, &passing);
        }
    }

    /// Shows a frame that waits for buffers of a VF no longer.
    fn capture_waiting(
        &self,
        model: &impl Judge,
        vf: VfIndex,
        waiting: &Waiting,
        drop: Option<DropReason>,
    ) {
        let Waiting {
            frame, edit, queue, ..
        } = waiting;
        let source = FrameSource::Private(frame);
        self.capture(model, vf, *queue, source, *edit, drop);
    }

    /// Has a frame wait, of which the VF has so many segments.
    fn wait(
        &mut self,
        model: &mut impl Judge,
        vf: VfIndex,
        edit: vf_model::TagEdit,
        source: FrameSource<'_>,
        segments: u32,
    ) {
        let queue = self.ports[vf.index()].queue_of(model, vf, source.head());
        let (edit, len) = (bytes_of(edit), edit.len_of(source.len()));
        self.load.copies.add(1);
        let waiting = Waiting {
            frame: source.copy(&self.pool),
            edit,
            len,
            queue,
            segments,
        };
        self.keep(model, vf, waiting);
    }

    /// Delivers fetched frames of a guest to one queue of one VF.
    #[inline]
    pub(super) fn deliver_fetched(
        &mut self,
        model: &mut impl Judge,
        to: VfIndex,
        insert: Option<VlanTag>,
        queue: u16,
        tx: &TxQueue,
        frames: &[TxFrame],
    ) {
        let edit = model.tagging(insert).edit(to);
        let enough = self.effort + BURST_EFFORT;
        if self.is_patient(to) || self.captures.wants(Port::Vf(to)) {
            let frames = frames.iter().map(|frame| FrameSource::Guest(tx, frame));
            self.deliver_each(model, to, queue, edit, frames, enough);
            return;
        }
        let mut frames = frames;
        while !frames.is_empty() {
            if self.effort >= enough {
                let frames = frames.iter().map(|frame| FrameSource::Guest(tx, frame));
                self.give_up(model, to, queue, edit, frames);
                break;
            }
            let port = &mut self.ports[to.index()];
            let (traffic, then) = port.deliver_from(queue, tx, frames, edit);
            self.effort += port.take_effort();
            if let Some(failed) = &then
                && let Some(frame) = frames.get(traffic.packets as usize)
            {
                let frame = FrameSource::Guest(tx, frame);
                self.capture(model, to, queue, frame, bytes_of(edit), failed.drop());
            }
            let done = self.delivered_run(model, to, traffic, then);
            frames = frames.get(done..).unwrap_or_default();
        }
    }

    /// Delivers frames in private memory to one queue of one VF.
    #[inline]
    pub(super) fn deliver_run(
        &mut self,
        model: &mut impl Judge,
        to: VfIndex,
        insert: Option<VlanTag>,
        queue: u16,
        frames: &[Frame],
    ) {
        let edit = model.tagging(insert).edit(to);
        let mut frames = frames;
        let enough = self.effort + BURST_EFFORT;
        while !frames.is_empty() {
            if self.effort >= enough {
                let frames = frames.iter().map(|frame| FrameSource::Private(frame));
                self.give_up(model, to, queue, edit, frames);
                return;
            }
            if self.captures.wants(Port::Vf(to)) {
                break;
            }
            let port = &mut self.ports[to.index()];
            if port.impaired || !port.backlog.is_empty() {
                break;
            }
            let (traffic, then) = port.deliver_all(queue, frames, edit);
            self.effort += port.take_effort();
            if let Some(Delivery::Dropped(DropReason::NoRxBuffer)) = then
                && self.is_patient(to)
            {
                self.delivered_run(model, to, traffic, None);
                frames = frames.get(traffic.packets as usize..).unwrap_or_default();
                break;
            }
            if let Some(Delivery::Partial(segments)) = then
                && self.is_patient(to)
                && let Some(frame) = frames.get(traffic.packets as usize)
            {
                self.dirty.insert(to);
                let done = self.delivered_run(model, to, traffic, None);
                self.wait(model, to, edit, FrameSource::Private(frame), segments);
                frames = frames.get(done + 1..).unwrap_or_default();
                break;
            }
            if let Some(failed) = &then
                && let Some(frame) = frames.get(traffic.packets as usize)
            {
                let frame = FrameSource::Private(frame);
                self.capture(model, to, queue, frame, bytes_of(edit), failed.drop());
            }
            let done = self.delivered_run(model, to, traffic, then);
            frames = frames.get(done..).unwrap_or_default();
        }
        let frames = frames.iter().map(|frame| FrameSource::Private(frame));
        self.deliver_each(model, to, queue, edit, frames, enough);
    }

    /// Delivers the frames of a burst one by one, until the receiver has cost `enough`.
    fn deliver_each<'a>(
        &mut self,
        model: &mut impl Judge,
        to: VfIndex,
        queue: u16,
        edit: TagEdit,
        mut frames: impl Iterator<Item = FrameSource<'a>>,
        enough: u64,
    ) {
        while self.effort < enough
            && let Some(frame) = frames.next()
        {
            self.deliver(model, to, edit, frame);
        }
        self.give_up(model, to, queue, edit, frames);
    }

    /// Drops the rest of a burst to a receiver whose buffers take too long to fill.
    #[cold]
    fn give_up<'a>(
        &mut self,
        model: &mut impl Judge,
        to: VfIndex,
        queue: u16,
        edit: TagEdit,
        frames: impl Iterator<Item = FrameSource<'a>>,
    ) {
        let reason = DropReason::RxTooSmall;
        for frame in frames {
            self.capture(model, to, queue, frame, bytes_of(edit), Some(reason));
            model.count_rx_drop(to, reason);
        }
    }

    /// Counts what a burst has come to: how many frames need not be looked at again.
    #[inline]
    fn delivered_run(
        &mut self,
        model: &mut impl Judge,
        to: VfIndex,
        traffic: Traffic,
        then: Option<Delivery>,
    ) -> usize {
        if traffic.packets > 0 {
            model.count_delivered_run(to, traffic.packets, traffic.bytes);
            self.load.copies.add(traffic.packets);
            self.dirty.insert(to);
        }
        let failed = usize::from(then.is_some());
        if let Some(delivery) = then {
            self.settle(model, to, delivery);
        }
        traffic.packets as usize + failed
    }

    /// Has a frame wait, or drops it if too many bytes do.
    fn keep(&mut self, model: &mut impl Judge, vf: VfIndex, waiting: Waiting) {
        let bytes = cost(&waiting.frame);
        let limit = self.limit(vf);
        let port = &mut self.ports[vf.index()];
        if port.backlog.bytes() + bytes > limit || self.waiting + bytes > BACKLOGS_BYTES {
            self.capture_waiting(model, vf, &waiting, Some(DropReason::NoRxBuffer));
            self.pool.give(waiting.frame);
            model.count_rx_drop(vf, DropReason::NoRxBuffer);
            return;
        }
        self.waiting += bytes;
        port.backlog.push(waiting);
        self.patient.insert(vf);
    }

    /// Counts a frame that was delivered.
    #[inline]
    fn delivered(&mut self, model: &mut impl Judge, vf: VfIndex, dst: MacAddr, len: u32) {
        model.count_delivered(vf, dst, len);
        self.load.copies.add(1);
        self.dirty.insert(vf);
    }

    /// Counts a frame that was not delivered.
    pub(super) fn settle(&mut self, model: &mut impl Judge, vf: VfIndex, delivery: Delivery) {
        if let Some(reason) = delivery.drop() {
            model.count_rx_drop(vf, reason);
        }
        match delivery {
            Delivery::Done | Delivery::Dropped(_) => {}
            Delivery::Partial(_) => self.dirty.insert(vf),
            Delivery::Broken(ring, why) => self.broken.push(RingBroken { vf, ring, why }),
        }
    }

    /// Gives guests what waits for their buffers; how many frames no longer wait.
    pub(super) fn drain_backlogs(&mut self, now: Nanos, model: &mut impl Judge) -> usize {
        let mut moved = 0;
        if !self.impaired.vfs().is_empty() {
            moved += self.release(model);
        }
        for vf in self.patient.iter() {
            let port = &mut self.ports[vf.index()];
            if now >= port.patient_until {
                port.patient_bytes = 0;
            }
            let mut progress = false;
            let enough = self.effort + BURST_EFFORT;
            while self.effort < enough {
                let port = &mut self.ports[vf.index()];
                let next = port.next_waiting(now, &mut progress);
                self.effort += port.take_effort();
                let Some((waiting, delivery)) = next else {
                    break;
                };
                moved += 1;
                self.capture_waiting(model, vf, &waiting, delivery.drop());
                let Waiting {
                    frame, edit, len, ..
                } = waiting;
                self.waiting -= cost(&frame);
                if let Delivery::Done = delivery {
                    self.mirror.add(Port::Vf(vf), Direction::Rx, &frame, edit);
                    self.delivered(model, vf, MacAddr::of_frame(frame.head()), len);
                } else {
                    self.settle(model, vf, delivery);
                }
                self.pool.give(frame);
            }
            if progress {
                self.dirty.insert(vf);
            }
            if self.ports[vf.index()].is_content() {
                self.patient.remove(vf);
            }
        }
        moved
    }

    /// Gives up the frames that wait for buffers of `vf`; they are counted as its drops.
    pub(super) fn drop_backlog(&mut self, model: &mut impl Judge, vf: VfIndex, reason: DropReason) {
        for waiting in self.take_backlog(vf).drain() {
            self.capture_waiting(model, vf, &waiting, Some(reason));
            model.count_rx_drop(vf, reason);
            self.pool.give(waiting.frame);
        }
    }

    /// VFs whose frames wait for buffers, or may.
    pub(super) fn patient(&self) -> VfSet {
        self.patient
    }

    /// Shows receivers what they have been given. They may wait for it, so not at the end of a round but as soon as a burst
    /// is done.
    #[inline]
    pub(super) fn publish(&mut self) {
        while let Some(vf) = self.dirty.pop() {
            let queues = self.ports[vf.index()].queues.iter_mut();
            queues.for_each(|slot| slot.queue.publish());
            self.needs_call.insert(vf);
        }
    }
}
