//! Where the frames of the direct path go: into guests' receive rings, up to the hypervisor, out on the wire. Does what a
//! verdict says; never judges a frame.

use vf_model::{
    DropReason, Hop, Judge, MacAddr, Nanos, Nic, Verdict, VfIndex, VfSet, VlanTag, wire_bytes,
};
use vf_vhost::frame::{FrameBuf, TagEdit};
use vf_vhost::tx::{TxFrame, TxQueue};

use super::backlog::Waiting;
use super::handover::Handover;
use super::load::Load;
use super::mirror::Mirror;
use super::pf::PfEnd;
use super::pool::Pool;
use super::port::{Delivery, Notified, RingBroken, RxPort, bytes_of, meta};
use super::turns::Turns;
use super::uplink::Uplink;
use crate::watch::{Direction, Port};

/// Frames fetched one after the other that go to one queue of one VF and nowhere else.
#[derive(Clone, Copy)]
pub(super) struct Run {
    pub(super) hop: Hop,
    pub(super) queue: u16,
    /// The first of them.
    pub(super) from: usize,
}

/// Where frames go, apart from where they come from, so that both can be borrowed at once.
pub(super) struct Sinks {
    pub(super) rx: Vec<RxPort>,
    /// Received something that is not published yet.
    pub(super) touched: VfSet,
    /// Received something that is, and of which the driver has not been told.
    pub(super) untold: VfSet,
    /// VFs whose path has become direct a moment ago: a frame for which there is no buffer still waits.
    pub(super) lenient: VfSet,
    /// Until when.
    pub(super) lenient_until: Nanos,
    /// How many may wait: none any more after that.
    pub(super) lenient_limit: usize,
    pub(super) notified: Notified,
    pub(super) pf: PfEnd,
    pub(super) uplink: Uplink,
    /// Of the VFs, and behind the last of them of the PF.
    pub(super) turns: Turns,
    pub(super) pool: Pool,
    pub(super) mirror: Mirror,
    pub(super) broken: Vec<RingBroken>,
    pub(super) load: Load,
    /// The way to the other workers of the NIC, if there are any.
    pub(super) handover: Option<Handover>,
}

/// A frame, wherever it is.
enum Origin<'a> {
    /// In the sender's memory.
    Guest(&'a TxQueue, &'a TxFrame),
    /// In ours.
    Private(&'a FrameBuf),
}

impl Origin<'_> {
    fn head(&self) -> &[u8] {
        match self {
            Origin::Guest(_, frame) => frame.head(),
            Origin::Private(frame) => frame.head(),
        }
    }

    fn len(&self) -> u32 {
        match self {
            Origin::Guest(_, frame) => frame.len(),
            Origin::Private(frame) => frame.len(),
        }
    }

    /// A copy of it as it is.
    fn copy(&self, pool: &Pool) -> FrameBuf {
        match self {
            Origin::Guest(tx, frame) => {
                let mut copy = pool.take();
                tx.copy_to(frame, &mut copy);
                copy
            }
            Origin::Private(frame) => pool.copy(frame),
        }
    }
}

/// The model's tag as the four bytes that go on the wire.
fn insertion(tag: Option<VlanTag>) -> TagEdit {
    tag.map_or(TagEdit::Keep, |t| TagEdit::Insert(t.to_bytes()))
}

impl Sinks {
    /// Delivers the fetched frames from the run's first up to `end`.
    pub(super) fn deliver_run(&mut self, nic: &mut Nic, tx: &TxQueue, run: Run, end: usize) {
        let to = run.hop.to;
        let mut frames = tx.fetched().get(run.from..end).unwrap_or_default();
        if let Some(handover) = &self.handover
            && !handover.own().contains(to)
        {
            return self.hand_over_run(nic, tx, run.hop, frames);
        }
        if self.lenient.contains(to) {
            for frame in frames {
                let vfs = [to].into_iter().collect();
                self.deliver_to_vfs(nic, vfs, run.hop.insert, &Origin::Guest(tx, frame));
            }
            return;
        }
        let edit = nic.egress_edit(run.hop.insert, to);
        while !frames.is_empty() {
            let port = &mut self.rx[to.index()];
            let (traffic, then) = port.deliver_from(run.queue, tx, frames, edit);
            let done = traffic.packets as usize;
            if done > 0 {
                nic.count_delivered_run(to, traffic.packets, traffic.bytes);
                self.load.copies += traffic.packets;
                self.touched.insert(to);
            }
            if let Some(delivery) = then {
                self.settle(nic, to, delivery);
            }
            frames = frames.get(done + 1..).unwrap_or_default();
        }
    }

    /// Leaves frames to the one worker that serves their one receiver.
    #[inline(never)]
    fn hand_over_run(&mut self, nic: &mut Nic, tx: &TxQueue, hop: Hop, frames: &[TxFrame]) {
        let to = [hop.to].into_iter().collect();
        for frame in frames {
            self.hand_over(nic, &Origin::Guest(tx, frame), to, hop.insert);
        }
    }

    /// Leaves a frame to the workers that serve these VFs; what does not fit is their drop.
    fn hand_over(
        &mut self,
        nic: &mut Nic,
        origin: &Origin<'_>,
        vfs: VfSet,
        insert: Option<VlanTag>,
    ) {
        let copy = origin.copy(&self.pool);
        self.load.copies += 1;
        self.give(nic, copy, vfs, insert);
    }

    fn give(&mut self, nic: &mut Nic, frame: FrameBuf, vfs: VfSet, insert: Option<VlanTag>) {
        let Some(handover) = &mut self.handover else {
            return; // then all VFs are served here
        };
        self.load.handed_over += 1;
        for vf in handover.give(frame, vfs, insert, &self.pool).iter() {
            nic.count_rx_drop(vf, DropReason::WorkerQueueFull);
        }
    }

    /// Those of `vfs` that other workers serve.
    fn foreign(&self, vfs: VfSet) -> VfSet {
        let others = |handover: &Handover| vfs.difference(handover.own());
        self.handover.as_ref().map(others).unwrap_or_default()
    }

    /// Delivers what other workers have left here, so many frames of each at most; how many.
    pub(super) fn poll_handover(&mut self, nic: &mut Nic, limit: usize) -> usize {
        let mut moved = 0;
        let peers = self.handover.as_ref().map_or(0, Handover::peers);
        for peer in 0..peers {
            let mut burst = 0;
            while burst < limit
                && let Some(parcel) = self.handover.as_ref().and_then(|h| h.take(peer))
            {
                let origin = Origin::Private(&parcel.frame);
                self.deliver_to_vfs(nic, parcel.vfs, parcel.insert, &origin);
                self.pool.give(parcel.frame);
                burst += 1;
            }
            moved += self.load.count_burst(burst);
        }
        moved
    }

    /// Gives guests what waits for their buffers.
    pub(super) fn drain_backlogs(&mut self, now: Nanos, nic: &mut Nic) -> usize {
        let mut moved = 0;
        if now >= self.lenient_until {
            self.lenient_limit = 0;
        }
        for vf in self.lenient.iter() {
            while let Some((waiting, delivery)) = self.rx[vf.index()].next_waiting(now) {
                moved += 1;
                let Waiting {
                    frame, edit, len, ..
                } = waiting;
                if let Delivery::Done = delivery {
                    self.mirror.add(Port::Vf(vf), Direction::Rx, &frame, edit);
                    nic.count_delivered(vf, MacAddr::of_frame(frame.head()), len);
                    self.load.copies += 1;
                    self.touched.insert(vf);
                } else {
                    self.settle(nic, vf, delivery);
                }
                self.pool.give(frame);
            }
            if self.rx[vf.index()].backlog.is_empty() && self.lenient_limit == 0 {
                self.lenient.remove(vf);
            }
        }
        moved
    }

    /// Shows receivers what they have been given. They may wait for it, so not at the end of a round but as soon as a burst
    /// is done.
    #[inline]
    pub(super) fn publish(&mut self) {
        while let Some(vf) = self.touched.pop() {
            let queues = self.rx[vf.index()].queues.iter_mut();
            queues.for_each(|slot| slot.queue.publish());
            self.untold.insert(vf);
        }
    }

    /// Tells the other workers of what has been left for them.
    pub(super) fn tell(&mut self) {
        if let Some(handover) = &mut self.handover {
            handover.tell();
            if let Uplink::Relay(relay) = &mut self.uplink {
                relay.tell();
            }
        }
    }

    /// Counts a frame that was not delivered.
    fn settle(&mut self, nic: &mut Nic, vf: VfIndex, delivery: Delivery) {
        match delivery {
            Delivery::Done => {}
            Delivery::Dropped(reason) => nic.count_rx_drop(vf, reason),
            Delivery::Broken(ring, why) => {
                nic.count_rx_drop(vf, DropReason::RingBroken);
                self.broken.push(RingBroken { vf, ring, why });
            }
        }
    }

    /// Sends a guest's frame wherever the verdict says; false if it has to wait for the wire.
    pub(super) fn forward(
        &mut self,
        now: Nanos,
        nic: &mut Nic,
        vf: VfIndex,
        tx: &TxQueue,
        frame: &TxFrame,
        verdict: &Verdict,
    ) -> bool {
        let mut origin = Origin::Guest(tx, frame);
        let mut watched = FrameBuf::default();
        if self.mirror.is_on() {
            // What is shown is what is delivered, whatever the guest does meanwhile.
            watched = self.pool.take();
            tx.copy_to(frame, &mut watched);
            let mirror = &mut self.mirror;
            mirror.add(Port::Vf(vf), Direction::Tx, &watched, TagEdit::Keep);
            origin = Origin::Private(&watched);
        }
        if !verdict.vfs.is_empty() {
            let others = self.foreign(verdict.vfs);
            let own = verdict.vfs.difference(others);
            self.deliver_to_vfs(nic, own, verdict.insert, &origin);
            if !others.is_empty() {
                self.hand_over(nic, &origin, others, verdict.insert);
            }
        }
        if self.mirror.is_on() {
            self.pool.give(watched);
        }
        if verdict.pf {
            let copy = self.copy_of(tx, frame, verdict.insert);
            self.hand_up(nic, copy);
        }
        if !verdict.wire || self.is_unplugged(nic) {
            return true;
        }
        if !self.may_send(now, vf.index()) {
            return false;
        }
        let copy = self.copy_of(tx, frame, verdict.insert);
        self.send_on_wire(now, nic, vf.index(), copy);
        true
    }

    /// Delivers to these VFs, all of them served here; what fails there is that VF's drop.
    fn deliver_to_vfs(
        &mut self,
        nic: &mut Nic,
        vfs: VfSet,
        insert: Option<VlanTag>,
        origin: &Origin<'_>,
    ) {
        let (head, len) = (origin.head(), origin.len());
        let dst = MacAddr::of_frame(head);
        for vf in vfs.iter() {
            let port = &mut self.rx[vf.index()];
            let edit = nic.egress_edit(insert, vf);
            let queue = port.queue_of(nic, vf, head);
            let (tag, len) = (bytes_of(edit), edit.len_of(len));
            let delivery = match origin {
                _ if self.lenient.contains(vf) && !(port.backlog.is_empty() && port.has_room()) => {
                    if port.backlog.len() >= self.lenient_limit {
                        nic.count_rx_drop(vf, DropReason::NoRxBuffer);
                        continue;
                    }
                    port.backlog.push(Waiting {
                        frame: origin.copy(&self.pool),
                        edit: tag,
                        len,
                        queue,
                    });
                    self.load.copies += 1;
                    continue;
                }
                Origin::Guest(tx, frame) => {
                    let frame = std::slice::from_ref(*frame);
                    let (_, then) = port.deliver_from(queue, tx, frame, edit);
                    then.unwrap_or(Delivery::Done)
                }
                Origin::Private(frame) => port.deliver(queue, frame, tag, len),
            };
            if let Delivery::Done = delivery {
                if let Origin::Private(frame) = origin {
                    self.mirror.add(Port::Vf(vf), Direction::Rx, frame, tag);
                }
                nic.count_delivered(vf, dst, len);
                self.load.copies += 1;
                self.touched.insert(vf);
            } else {
                self.settle(nic, vf, delivery);
            }
        }
    }

    /// A private copy of a guest's frame, as it goes on.
    pub(super) fn copy_of(
        &mut self,
        tx: &TxQueue,
        frame: &TxFrame,
        insert: Option<VlanTag>,
    ) -> FrameBuf {
        let mut copy = Origin::Guest(tx, frame).copy(&self.pool);
        copy.edit(insertion(insert));
        self.load.copies += 1;
        copy
    }

    /// Sends a frame in private memory wherever the verdict says. Gives it back if only the wire is left to do and the
    /// wire cannot take it now.
    pub(super) fn dispatch(
        &mut self,
        now: Nanos,
        nic: &mut Nic,
        mut frame: FrameBuf,
        verdict: &Verdict,
        force: bool,
    ) -> Option<FrameBuf> {
        if !verdict.vfs.is_empty() {
            let others = self.foreign(verdict.vfs);
            let origin = Origin::Private(&frame);
            self.deliver_to_vfs(nic, verdict.vfs.difference(others), verdict.insert, &origin);
            if !others.is_empty() && !verdict.pf && !verdict.wire {
                self.give(nic, frame, others, verdict.insert);
                return None;
            }
            if !others.is_empty() {
                self.hand_over(nic, &origin, others, verdict.insert);
            }
        }
        if verdict.pf || verdict.wire {
            frame.edit(insertion(verdict.insert));
        }
        let wire = verdict.wire && !self.is_unplugged(nic);
        match (verdict.pf, wire) {
            (false, false) => self.pool.give(frame),
            (true, false) => self.hand_up(nic, frame),
            (false, true) => return self.send_or_return(now, nic, frame, force),
            (true, true) => {
                let copy = self.pool.copy(&frame);
                self.hand_up(nic, copy);
                return self.send_or_return(now, nic, frame, force);
            }
        }
        None
    }

    /// Whether nothing is plugged into the port; a frame that was to leave there is counted as dropped then.
    fn is_unplugged(&self, nic: &mut Nic) -> bool {
        let unplugged = matches!(self.uplink, Uplink::None);
        if unplugged {
            nic.count_wire_drop(DropReason::NoUplink);
        }
        unplugged
    }

    /// Whether the wire takes a frame of this seat now: nobody waits who comes before it. Without the port, its worker sees
    /// to that.
    pub(super) fn may_send(&self, now: Nanos, seat: usize) -> bool {
        match &self.uplink {
            Uplink::Relay(relay) => relay.can_send(VfIndex::from(seat)),
            uplink => uplink.can_send(now) && self.turns.is_next(seat),
        }
    }

    /// The same of a frame that has waited.
    pub(super) fn may_go(&self, now: Nanos, seat: usize) -> bool {
        match &self.uplink {
            Uplink::Relay(relay) => relay.can_send(VfIndex::from(seat)),
            uplink => uplink.can_send(now) && self.turns.next() == Some(seat),
        }
    }

    /// The seat has a frame that has to wait.
    pub(super) fn wait(&mut self, seat: usize) {
        if !matches!(self.uplink, Uplink::Relay(_)) {
            self.turns.wait(seat);
        }
    }

    /// Sends a frame of the PF, or gives it back if the wire cannot take it now and it may wait.
    pub(super) fn send_or_return(
        &mut self,
        now: Nanos,
        nic: &mut Nic,
        frame: FrameBuf,
        force: bool,
    ) -> Option<FrameBuf> {
        let pf = self.rx.len();
        self.turns.leave(pf);
        if !force && !self.may_send(now, pf) {
            self.turns.wait(pf);
            return Some(frame);
        }
        self.send_on_wire(now, nic, pf, frame);
        None
    }

    pub(super) fn send_on_wire(&mut self, now: Nanos, nic: &mut Nic, seat: usize, frame: FrameBuf) {
        if let Uplink::Relay(relay) = &mut self.uplink {
            relay.send(VfIndex::from(seat), frame);
            return;
        }
        let m = meta(frame.len(), &frame.hdr);
        self.turns.went(seat, wire_bytes(&m));
        if let Err(reason) = self.uplink.send(now, frame, &m, &self.pool) {
            nic.count_wire_drop(reason);
        }
    }

    fn hand_up(&mut self, nic: &mut Nic, frame: FrameBuf) {
        if let Err(lost) = self.pf.send(frame) {
            nic.count_pf_drop(DropReason::HypervisorQueueFull);
            self.pool.give(lost);
        }
    }
}
