//! The queues of one VF that a plane owns: attaching, detaching, steering. Never judges a frame.

use std::sync::Arc;

use vf_model::{DropReason, FrameMeta, Judge, Nanos, Offload, VfIndex, VfSet};
use vf_vhost::frame::{FrameBuf, TagEdit};
use vf_vhost::net_hdr::{FrameFault, HEAD_MAX};
use vf_vhost::ring::{Fence, RingError};
use vf_vhost::rx::{RxOutcome, RxQueue};
use vf_vhost::tx::{TxFrame, TxQueue};
use vf_vhost::vring::Vring;

use super::backlog::Backlog;
use super::moderation::{Gap, Moderation};
use super::traffic::{PerQueue, Traffic};
use crate::queue::Frame;
use crate::thread::LiveLoad;

// What is copied out of a guest before a frame is judged is all that the model looks at.
const _: () = assert!(HEAD_MAX >= vf_model::HEAD_LEN);

/// A queue and whether its driver has broken it.
pub(super) struct Slot<Q> {
    /// The ring.
    pub(super) queue: Q,
    /// No more work is done on a broken ring until the front end restarts it.
    pub(super) broken: bool,
    /// When this plane first found the ring disabled.
    disabled_since: Option<Nanos>,
    /// How its driver is told of what was used, if no interrupt that it shares has a timer of its own.
    line: Moderation,
}

/// A ring of either direction.
pub(super) trait Queue {
    fn vring(&self) -> &Vring;
    fn call(&mut self, fence: &Fence) -> Option<bool>;
}

impl Queue for TxQueue {
    fn vring(&self) -> &Vring {
        TxQueue::vring(self)
    }
    fn call(&mut self, fence: &Fence) -> Option<bool> {
        TxQueue::call(self, fence)
    }
}

impl Queue for RxQueue {
    fn vring(&self) -> &Vring {
        RxQueue::vring(self)
    }
    fn call(&mut self, fence: &Fence) -> Option<bool> {
        RxQueue::call(self, fence)
    }
}

/// How long a disabled transmit ring keeps its frames: a front end that enables its rings a moment after its driver has
/// sent (DPDK's does not wait for us in between) loses nothing.
const DISCARD_AFTER: Nanos = Nanos(100_000_000);

/// Drivers to be interrupted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Notified {
    /// For what they have received.
    pub rx: VfSet,
    /// For what they have sent.
    pub tx: VfSet,
}

/// Calls of a VF's rings that have been made, and those that have not.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Calls {
    /// Made.
    pub(super) made: u64,
    /// When the first is due that the driver wants later.
    pub(super) due: Option<Nanos>,
    /// Whether a ring turned out to be broken.
    pub(super) broken: bool,
}

/// VFs whose drivers want to be told later of what has been published.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct HeldBack {
    /// Of what they have received.
    pub(super) rx: VfSet,
    /// Of what was taken from them.
    pub(super) tx: VfSet,
    /// When the first is due.
    pub(super) due: Option<Nanos>,
}

/// The transmit rings of one VF, driver to device.
#[derive(Default)]
pub(super) struct TxPort {
    /// The rings, in the order of their index.
    pub(super) queues: Vec<Slot<TxQueue>>,
    /// Which queue is served next.
    pub(super) cursor: usize,
    /// What was taken from each.
    pub(super) traffic: Arc<PerQueue>,
}

/// The receive rings of one VF, device to driver.
#[derive(Default)]
pub(super) struct RxPort {
    /// The rings, in the order of their index.
    pub(super) queues: Vec<Slot<RxQueue>>,
    /// What was delivered to each.
    pub(super) traffic: Arc<PerQueue>,
    /// What waits for buffers, before anything else that comes.
    pub(super) backlog: Backlog,
    /// How much may wait, and until when.
    pub(super) patient_bytes: u64,
    pub(super) patient_until: Nanos,
    /// Whether its front end changes its rings just now, some of which may be gone for a moment.
    pub(super) changing: bool,
    /// Whether what it is to get is impaired.
    pub(super) impaired: bool,
    /// Of a VF of hardware, whose filters and tables name queues by their numbers whichever run: one more than the highest number since it had a queue.
    /// Those of virtio go by their place among the queues in use.
    numbers: u16,
    /// What deliveries have cost beyond what any may, and nobody has looked at.
    effort: u64,
}

/// The queue pair that a ring with this index is of.
pub(super) fn queue_pair(index: u32) -> u16 {
    u16::try_from(index / 2).unwrap_or(u16::MAX)
}

/// A VF's first ring of the driver-to-device kind.
pub(super) const FIRST_TX_RING: u32 = 1;

/// Whether a ring with this index is one of the device-to-driver kind (virtio 5.1.2: receiveq1, transmitq1, ...).
pub(super) fn is_rx(index: u32) -> bool {
    index.is_multiple_of(2)
}

impl TxPort {
    /// Takes the ring over.
    pub(super) fn attach(&mut self, vring: Vring) {
        let at = self
            .queues
            .partition_point(|s| s.queue.vring().index() < vring.index());
        self.traffic.attach(vring.index());
        let broken = vring.is_broken();
        let mut queue = TxQueue::new(vring);
        queue.set_notify(false);
        self.queues.insert(at, Slot::new(queue, broken));
    }

    /// Tells the driver what of its frames has been taken, unless that is to wait.
    pub(super) fn call(&mut self, now: Nanos, fence: &Fence, load: &LiveLoad) -> Calls {
        call(&mut self.queues, &self.traffic, now, fence, load)
    }

    /// Gives the ring up, and says whether it was known to be broken.
    pub(super) fn detach(&mut self, index: u32) -> Option<(Vring, bool)> {
        self.cursor = 0;
        let mut slot = take(&mut self.queues, index)?;
        slot.queue.flush();
        Some((slot.queue.into_vring(), slot.broken))
    }
}

impl RxPort {
    /// Takes the ring over.
    pub(super) fn attach(&mut self, vring: Vring) {
        let at = self
            .queues
            .partition_point(|s| s.queue.vring().index() < vring.index());
        self.traffic.attach(vring.index());
        if vring.is_hardware() {
            let number = queue_pair(vring.index());
            self.numbers = self.numbers.max(number.saturating_add(1));
        }
        let broken = vring.is_broken();
        let mut queue = RxQueue::new(vring);
        queue.set_notify(false);
        self.queues.insert(at, Slot::new(queue, broken));
    }

    /// Gives the ring up, and says whether it was known to be broken.
    pub(super) fn detach(&mut self, index: u32) -> Option<(Vring, bool)> {
        let mut slot = take(&mut self.queues, index)?;
        if self.queues.is_empty() {
            self.numbers = 0;
        }
        slot.queue.flush();
        Some((slot.queue.into_vring(), slot.broken))
    }

    /// Whether all that it is to get goes to one queue.
    #[inline(always)]
    pub(super) fn has_one_queue(&self) -> bool {
        self.queues.len() <= 1 && self.numbers <= 1
    }

    /// Tells the driver what it has received, unless that is to wait.
    pub(super) fn call(&mut self, now: Nanos, fence: &Fence, load: &LiveLoad) -> Calls {
        call(&mut self.queues, &self.traffic, now, fence, load)
    }

    /// Which of the queues in use a frame to `vf`, whose port this is, belongs in. Always inline: most have one.
    #[inline(always)]
    pub(super) fn queue_of(&self, model: &impl Judge, vf: VfIndex, head: &[u8]) -> u16 {
        match self.has_one_queue() {
            true => 0,
            false => self.queue_of_several(model, vf, head),
        }
    }

    /// The same where flows are spread over the queues that the driver has enabled.
    fn queue_of_several(&self, model: &impl Judge, vf: VfIndex, head: &[u8]) -> u16 {
        if self.numbers > 0 {
            return model.queue(vf, head, self.numbers);
        }
        match self.queues.iter().filter(|s| usable(s)).count() as u16 {
            0 | 1 => 0,
            in_use => model.queue(vf, head, in_use),
        }
    }

    /// The `queue`th of the queues in use, or the first if there are no longer so many; of a VF of hardware the one with that number, if it runs.
    #[inline]
    fn steer(&mut self, queue: u16) -> Option<&mut Slot<RxQueue>> {
        if self.numbers > 1 {
            let mut queues = self.queues.iter_mut();
            return queues.find(|s| usable(s) && queue_pair(s.queue.vring().index()) == queue);
        }
        let in_use = || (0..).zip(&self.queues).filter(|(_, s)| usable(s));
        let at = in_use().nth(queue.into()).or_else(|| in_use().next())?.0;
        self.queues.get_mut::<usize>(at)
    }

    /// Asks the driver for kicks when it adds buffers, or for none; true if it has added some meanwhile.
    pub(super) fn set_notify(&mut self, on: bool) -> bool {
        let mut added = false;
        for slot in self.queues.iter_mut().filter(|s| !s.broken) {
            added |= slot.queue.set_notify(on);
        }
        added
    }

    /// Whether any ring has a buffer.
    pub(super) fn has_room(&mut self) -> bool {
        let mut usable = self.queues.iter_mut().filter(|s| usable(s));
        usable.any(|s| s.queue.has_room())
    }

    /// What deliveries have cost since this was last asked, beyond what any may: see [`RxQueue::effort`].
    #[inline]
    pub(super) fn take_effort(&mut self) -> u64 {
        std::mem::take(&mut self.effort)
    }

    /// Whether nothing waits, nor will.
    pub(super) fn is_content(&self) -> bool {
        let waits = !self.backlog.is_empty() || self.patient_bytes > 0;
        !waits && !self.changing && !self.impaired
    }

    /// Why no ring of the VF can receive.
    fn no_ring(&self) -> Delivery {
        Delivery::Dropped(if self.changing {
            DropReason::NoRxBuffer
        } else if self.queues.is_empty() {
            DropReason::NotAttached
        } else if self.queues.iter().any(|s| s.broken) {
            DropReason::RingBroken
        } else {
            DropReason::RingDisabled
        })
    }

    /// Copies a frame out of private memory into the VF, where it will be `len` bytes long. The VF has the first `done`
    /// segments of it.
    pub(super) fn deliver(
        &mut self,
        queue: u16,
        frame: &FrameBuf,
        edit: TagEdit,
        len: u32,
        done: u32,
    ) -> Delivery {
        self.settle(queue, len, |q| q.deliver_from_segment(frame, edit, done))
    }

    /// Copies frames straight out of the sender's memory into the VF, until one of them cannot be delivered: how many
    /// were, and what became of that one.
    #[inline]
    pub(super) fn deliver_from(
        &mut self,
        queue: u16,
        tx: &TxQueue,
        frames: &[TxFrame],
        edit: vf_model::TagEdit,
    ) -> (Traffic, Option<Delivery>) {
        let lens = frames.iter().map(|frame| edit.len_of(frame.len()));
        self.deliver_burst(queue, lens, |to| {
            to.deliver_from(tx, frames, bytes_of(edit))
        })
    }

    /// The same of frames in private memory.
    #[inline]
    pub(super) fn deliver_all(
        &mut self,
        queue: u16,
        frames: &[Frame],
        edit: vf_model::TagEdit,
    ) -> (Traffic, Option<Delivery>) {
        let lens = frames.iter().map(|frame| edit.len_of(frame.len()));
        self.deliver_burst(queue, lens, |to| to.deliver_all(frames, bytes_of(edit)))
    }

    /// Inline, so that a result of several words is not put together in memory: a core waits for such a whole.
    #[inline(always)]
    fn deliver_burst(
        &mut self,
        queue: u16,
        lens: impl Iterator<Item = u32>,
        deliver: impl FnOnce(&mut RxQueue) -> Result<(usize, Option<RxOutcome>), RingError>,
    ) -> (Traffic, Option<Delivery>) {
        let mut traffic = Traffic::default();
        let Some(slot) = self.steer(queue) else {
            return (traffic, Some(self.no_ring()));
        };
        let ring = slot.queue.vring().index();
        let before = slot.queue.effort();
        let delivered = deliver(&mut slot.queue);
        let effort = slot.queue.effort() - before;
        let (done, then) = match delivered {
            Ok((done, then)) => (done, then.map(Delivery::of)),
            Err(why) => {
                slot.broken = true;
                (0, Some(Delivery::Broken(ring, why)))
            }
        };
        self.effort += effort;
        lens.take(done).for_each(|len| traffic.add(len));
        self.traffic.add(ring, traffic);
        (traffic, then)
    }

    #[inline]
    fn settle(
        &mut self,
        queue: u16,
        len: u32,
        deliver: impl FnOnce(&mut RxQueue) -> Result<RxOutcome, RingError>,
    ) -> Delivery {
        let Some(slot) = self.steer(queue) else {
            return self.no_ring();
        };
        let ring = slot.queue.vring().index();
        let before = slot.queue.effort();
        let delivered = deliver(&mut slot.queue);
        let effort = slot.queue.effort() - before;
        let delivery = match delivered {
            Ok(outcome) => {
                if outcome == RxOutcome::Delivered {
                    let (packets, bytes) = (1, len.into());
                    self.traffic.add(ring, Traffic { packets, bytes });
                }
                Delivery::of(outcome)
            }
            Err(why) => {
                slot.broken = true;
                Delivery::Broken(ring, why)
            }
        };
        self.effort += effort;
        delivery
    }
}

impl HeldBack {
    /// Keeps what is due later of a VF in mind; whether its driver has been told of anything.
    pub(super) fn note(
        &mut self,
        vf: VfIndex,
        which: fn(&mut HeldBack) -> &mut VfSet,
        calls: Calls,
    ) -> bool {
        if let Some(due) = calls.due {
            which(self).insert(vf);
            self.due = Some(self.due.map_or(due, |first| first.min(due)));
        }
        calls.made > 0
    }
}

fn call<Q: Queue>(
    queues: &mut [Slot<Q>],
    traffic: &PerQueue,
    now: Nanos,
    fence: &Fence,
    load: &LiveLoad,
) -> Calls {
    let mut calls = Calls::default();
    for slot in queues.iter_mut().filter(|slot| !slot.broken) {
        let packets = traffic.packets(slot.queue.vring().index());
        match slot.call(now, packets, fence, load) {
            Ok(called) => calls.made += u64::from(called),
            Err(due) => calls.due = Some(calls.due.map_or(due, |first| first.min(due))),
        }
        calls.broken |= slot.queue.vring().is_broken();
    }
    calls
}

/// Takes out the ring with this index.
fn take<Q: Queue>(queues: &mut Vec<Slot<Q>>, index: u32) -> Option<Slot<Q>> {
    let at = queues
        .iter()
        .position(|s| s.queue.vring().index() == index)?;
    Some(queues.remove(at))
}

fn usable(slot: &Slot<RxQueue>) -> bool {
    !slot.broken && slot.queue.vring().enabled()
}

impl<Q> Slot<Q> {
    fn new(queue: Q, broken: bool) -> Slot<Q> {
        Slot {
            queue,
            broken,
            disabled_since: None,
            line: Moderation::default(),
        }
    }
}

impl<Q: Queue> Slot<Q> {
    /// Tells the driver of what was published if it wants to know, or says when it is to be told. A ring without a call
    /// descriptor is told of by whoever runs its driver, who then holds that back.
    fn call(
        &mut self,
        now: Nanos,
        packets: u64,
        fence: &Fence,
        load: &LiveLoad,
    ) -> Result<bool, Nanos> {
        let vring = self.queue.vring();
        let moderated = vring.calls() && vring.coalescing().max_usecs > 0;
        if moderated && vring.needs_call() {
            let gap: Gap = vring.coalescing().into();
            let due = match vring.timer() {
                Some(timer) => Nanos(timer.due(now.0, gap.time.0)),
                None => self.line.due(now, gap, packets),
            };
            if due > now {
                return Err(due);
            }
        }
        let called = load.count_flush(self.queue.call(fence));
        if moderated && called {
            self.line.raise(now, packets);
        }
        Ok(called)
    }
}

impl Slot<TxQueue> {
    /// Throws away what waits on a disabled ring, once it has been disabled for long enough; how many frames that was.
    pub(super) fn discard(&mut self, now: Nanos) -> Result<u32, RingError> {
        if self.queue.vring().enabled() {
            return Ok(0);
        }
        let since = *self.disabled_since.get_or_insert(now);
        if now < since + DISCARD_AFTER {
            return Ok(0);
        }
        self.queue.discard()
    }

    /// When [`Slot::discard`] will have something to do, if it is known to.
    pub(super) fn discard_at(&mut self) -> Option<Nanos> {
        let since = self.disabled_since?;
        let waits = !self.broken && !self.queue.vring().enabled() && self.queue.has_work();
        waits.then_some(since + DISCARD_AFTER)
    }
}

/// What became of a frame at the receiver.
#[derive(Debug)]
pub(super) enum Delivery {
    /// It is in the receiver's ring.
    Done,
    /// It is not, for this reason; still to be counted.
    Dropped(DropReason),
    /// So many segments of a super-frame are, and there is no buffer for the next.
    Partial(u32),
    /// The driver broke its ring (index, how), and the frame is lost with it.
    Broken(u32, RingError),
}

impl Delivery {
    /// Why the frame is lost, if it is.
    pub(super) fn drop(&self) -> Option<DropReason> {
        match self {
            Delivery::Done => None,
            Delivery::Dropped(reason) => Some(*reason),
            Delivery::Partial(_) => Some(DropReason::NoRxBuffer),
            Delivery::Broken(..) => Some(DropReason::RingBroken),
        }
    }

    fn of(outcome: RxOutcome) -> Delivery {
        match outcome {
            RxOutcome::Delivered => Delivery::Done,
            RxOutcome::NoBuffer => Delivery::Dropped(DropReason::NoRxBuffer),
            RxOutcome::Partial(segments) => Delivery::Partial(segments),
            RxOutcome::TooBig => Delivery::Dropped(DropReason::RxTooSmall),
            RxOutcome::TooManySegments => Delivery::Dropped(DropReason::TooManySegments),
            RxOutcome::BadFrame => Delivery::Dropped(DropReason::BadHeader),
        }
    }
}

/// The model's tag edit as the bytes that it puts in.
pub(super) fn bytes_of(edit: vf_model::TagEdit) -> TagEdit {
    match edit {
        vf_model::TagEdit::Keep => TagEdit::Keep,
        vf_model::TagEdit::Insert(tag) => TagEdit::Insert(tag.to_bytes()),
        vf_model::TagEdit::Strip => TagEdit::Strip,
    }
}

/// Why a frame is dropped that is none.
pub(super) fn reason(fault: FrameFault) -> DropReason {
    match fault {
        FrameFault::Runt => DropReason::Runt,
        FrameFault::Oversize => DropReason::Oversize,
        FrameFault::HeadersTooLong => DropReason::HeadersTooLong,
        FrameFault::TooManySegments => DropReason::TooManySegments,
        _ => DropReason::BadHeader,
    }
}

/// What the model needs to know of a frame beside its first bytes. `offload` has been checked when the frame was taken.
#[inline]
pub(super) fn meta(len: u32, offload: &Offload) -> FrameMeta {
    // Nearly all are this, and the rest of the way is short for them.
    if offload.is_none() {
        return FrameMeta { len, gso: None };
    }
    meta_of_offload(len, offload)
}

#[inline(never)]
fn meta_of_offload(len: u32, offload: &Offload) -> FrameMeta {
    let gso = offload.gso();
    FrameMeta { len, gso }
}

#[cfg(test)]
mod tests {
    use vf_vhost::control::Coalescing;
    use vf_vhost::hardware::{
        Completion, Decoded, DescriptorFormat, DescriptorTable, Doorbell, HardwareConfig,
        TxRequest, TxState,
    };
    use vf_vhost::interrupt_timer::InterruptTimer;
    use vf_vhost::memory::{GuestMemory, RegionSpec};

    use super::*;

    /// Descriptors that are an address, of buffers of 2 KiB.
    #[derive(Debug)]
    struct Plain;

    impl DescriptorFormat for Plain {
        fn descriptor_size(&self) -> usize {
            8
        }
        fn decode(&self, gpa: u64, _: u64, _: &mut TxState) -> Decoded {
            Decoded::Buffer {
                gpa,
                len: 2048,
                last: true,
                report: true,
                asks: false,
            }
        }
        fn request(&self, _: [u64; 2], _: &mut TxState) -> TxRequest {
            TxRequest::default()
        }
        fn complete(&mut self, _: &DescriptorTable<'_>, _: &[Completion]) -> Result<(), RingError> {
            Ok(())
        }
        fn raise(&mut self) -> bool {
            false
        }
        fn coalescing(&self) -> Coalescing {
            Coalescing::default()
        }
        fn timer(&self) -> Option<&InterruptTimer> {
            None
        }
    }

    fn ring(number: u32) -> Vring {
        let fd = rustix::fs::memfd_create("guest", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
        rustix::fs::ftruncate(&fd, 0x1_0000).unwrap();
        let spec = RegionSpec {
            guest_addr: 0,
            size: 0x1_0000,
            user_addr: 0,
            mmap_offset: 0,
        };
        let memory = GuestMemory::map(vec![(spec, fd)]).unwrap();
        let config = HardwareConfig {
            index: 2 * number,
            size: 16,
            tables: vec![0x8000],
            base: 0,
        };
        let doorbell = Arc::new(Doorbell::new().unwrap());
        doorbell.ring(8);
        Vring::hardware(&config, memory, Box::new(Plain), doorbell).unwrap()
    }

    /// As DPDK stops one of several (`port 0 rxq 1 stop`): what is for it is lost, and what is for those behind it stays theirs.
    #[test]
    fn a_queue_of_hardware_that_is_stopped_moves_no_other() {
        let mut port = RxPort::default();
        (0..3).for_each(|number| port.attach(ring(number)));
        let frame = FrameBuf {
            data: vec![2; 60],
            ..FrameBuf::default()
        };
        let deliver = |port: &mut RxPort, queue| {
            let before: Vec<_> = (0..3).map(|at| port.traffic.packets(2 * at)).collect();
            let delivery = port.deliver(queue, &frame, TagEdit::Keep, 60, 0);
            let got = (0..3).map(|at| port.traffic.packets(2 * at) - before[at as usize]);
            (delivery.drop(), got.collect::<Vec<_>>())
        };
        assert_eq!(deliver(&mut port, 2), (None, vec![0, 0, 1]));
        drop(port.detach(2));
        assert_eq!(deliver(&mut port, 2), (None, vec![0, 0, 1]));
        assert_eq!(deliver(&mut port, 0), (None, vec![1, 0, 0]));
        let lost = (Some(DropReason::RingDisabled), vec![0; 3]);
        assert_eq!(deliver(&mut port, 1), lost);
        drop(port.detach(4));
        assert_eq!(
            deliver(&mut port, 2),
            lost,
            "the last one that runs is no other"
        );
        assert!(!port.has_one_queue());
        drop(port.detach(0));
        port.attach(ring(0));
        assert!(port.has_one_queue());
    }
}
