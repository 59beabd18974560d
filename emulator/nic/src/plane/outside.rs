//! Where the frames of the direct path go that do not go to a VF of the plane itself: out of the port, up to the hypervisor, to
//! other workers of the NIC. Does what a verdict says; never judges a frame.

use vf_model::{
    DropReason, Judge, Nanos, Nic, OnWire, Onward, Tagging, Verdict, VfIndex, VfSet, VlanTag,
};
use vf_vhost::frame::TagEdit;
use vf_vhost::tx::{TxFrame, TxQueue};

use super::captures::Passing;
use super::direct::loopback::{Loopback, Looped};
use super::egress::Egress;
use super::port::{bytes_of, meta, queue_pair};
use super::receivers::{FrameSource, Receivers};
use crate::queue::{CrossQueues, ForPort, Frame, PfEnd};
use crate::watch::{Direction, Port};

/// A frame of a guest, in its memory.
#[derive(Clone, Copy)]
pub(super) struct Fetch<'a> {
    pub(super) vf: VfIndex,
    pub(super) queue: &'a TxQueue,
    pub(super) frame: &'a TxFrame,
}

/// Where frames go that do not go to a VF here.
pub(super) struct Outside {
    pub(super) egress: Egress,
    pub(super) pf: PfEnd,
    /// The way to the other workers of the NIC, if there are any.
    pub(super) workers: Option<CrossQueues>,
    /// What frames from VF to VF pass, if they take time.
    pub(super) loopback: Option<Box<Loopback>>,
}

/// A frame that has been judged and waits for the wire in no ring.
pub(super) struct Stuck {
    pub(super) frame: ForPort,
    pub(super) on_wire: OnWire,
}

/// Frames one after the other that go to one queue of one VF and nowhere else.
#[derive(Clone, Copy)]
pub(super) struct Run {
    pub(super) to: VfIndex,
    pub(super) insert: Option<VlanTag>,
    pub(super) queue: u16,
    /// The first of them.
    pub(super) from: usize,
}

/// The model's tag as the four bytes that go on the wire.
pub(super) fn insertion(tag: Option<VlanTag>) -> TagEdit {
    tag.map_or(TagEdit::Keep, |t| TagEdit::Insert(t.to_bytes()))
}

/// What a guest's frame takes on the wire with this tag in front.
#[inline]
pub(super) fn on_wire(frame: &TxFrame, insert: Option<VlanTag>) -> OnWire {
    let mut m = meta(frame.len(), frame.offload());
    if insert.is_some() {
        m = vf_model::FrameMeta {
            len: m.len + 4,
            gso: m.gso.map(|gso| vf_model::Gso {
                header_len: gso.header_len + 4,
                ..gso
            }),
        };
    }
    OnWire::of(&m)
}

/// A private copy of a guest's frame, as it goes on to the wire or the PF.
#[inline]
pub(super) fn outgoing(
    rx: &mut Receivers,
    source: FrameSource<'_>,
    insert: Option<VlanTag>,
) -> Frame {
    let mut copy = source.copy(&rx.pool);
    copy.edit(insertion(insert));
    rx.load.copies.add(1);
    copy
}

impl Outside {
    /// Whether nothing is plugged into the port; a frame that was to leave there is counted as dropped then.
    pub(super) fn is_unplugged(
        &self,
        nic: &mut Nic,
        rx: &Receivers,
        frame: FrameSource<'_>,
        insert: Option<VlanTag>,
    ) -> bool {
        let unplugged = matches!(self.egress, Egress::Unplugged);
        if unplugged {
            let passing = Passing {
                port: Port::Wire,
                direction: Direction::Tx,
                queue: None,
                frame,
                edit: insertion(insert),
                verdict: None,
                drop: Some(DropReason::NoUplink),
            };
            rx.captures.see(nic.policy(), &rx.pool, &passing);
            nic.count_wire_drop(DropReason::NoUplink);
        }
        unplugged
    }

    /// Whether another worker serves the VF.
    #[inline]
    pub(super) fn is_foreign(&self, vf: VfIndex) -> bool {
        matches!(&self.workers, Some(workers) if !workers.own().contains(vf))
    }

    /// Those of `vfs` that other workers serve.
    pub(super) fn foreign(&self, vfs: VfSet) -> VfSet {
        let others = |workers: &CrossQueues| vfs.difference(workers.own());
        self.workers.as_ref().map(others).unwrap_or_default()
    }

    /// Whether a frame of this ring waits for the NIC's own bus.
    #[inline]
    pub(super) fn loopback_holds(&self, vf: VfIndex, ring: u32) -> bool {
        let loopback = self.loopback.as_ref();
        loopback.is_some_and(|loopback| loopback.holds(vf, ring))
    }

    /// Leaves a frame, of a VF or from outside, to the workers that serve these VFs; what does not fit is their drop.
    pub(super) fn hand_over(
        &mut self,
        nic: &mut Nic,
        rx: &mut Receivers,
        from: Option<VfIndex>,
        source: FrameSource<'_>,
        vfs: VfSet,
        tagging: Tagging,
    ) {
        let Some(workers) = &mut self.workers else {
            return; // then all VFs are served here
        };
        let copy = source.copy(&rx.pool);
        rx.load.copies.add(1);
        rx.load.handed_over.add(1);
        for vf in workers.give(from, copy, vfs, tagging, &rx.pool).iter() {
            let passing = Passing {
                port: Port::Vf(vf),
                direction: Direction::Rx,
                queue: None,
                frame: source,
                edit: bytes_of(tagging.edit(vf)),
                verdict: None,
                drop: Some(DropReason::WorkerQueueFull),
            };
            rx.captures.see(nic.policy(), &rx.pool, &passing);
            nic.count_rx_drop(vf, DropReason::WorkerQueueFull);
        }
    }

    pub(super) fn hand_up(
        &mut self,
        nic: &mut Nic,
        rx: &mut Receivers,
        frame: Frame,
        verdict: &Verdict,
    ) {
        let onward = nic.policy().onward(verdict);
        self.hand_on(nic, rx, frame, onward);
    }

    /// Leaves a frame to the hypervisor, with what is left to do with it.
    pub(super) fn hand_on(
        &mut self,
        nic: &mut Nic,
        rx: &mut Receivers,
        frame: Frame,
        onward: Onward,
    ) {
        if let Err(lost) = self.pf.send(frame, onward) {
            let passing = Passing {
                port: Port::Pf,
                direction: Direction::Rx,
                queue: None,
                frame: FrameSource::Private(&lost),
                edit: TagEdit::Keep,
                verdict: None,
                drop: Some(DropReason::HypervisorQueueFull),
            };
            rx.captures.see(nic.policy(), &rx.pool, &passing);
            nic.count_pf_drop(DropReason::HypervisorQueueFull);
            rx.pool.give(lost);
        }
    }

    /// Delivers the frames that were fetched from a VF's queue, from the run's first up to `end`.
    #[inline]
    pub(super) fn deliver_run(
        &mut self,
        nic: &mut Nic,
        rx: &mut Receivers,
        (from, queue): (VfIndex, &TxQueue),
        run: Run,
        end: usize,
    ) {
        let frames = queue.fetched().get(run.from..end).unwrap_or_default();
        if self.is_foreign(run.to) {
            let to = [run.to].into_iter().collect();
            let tagging = nic.tagging(run.insert);
            for frame in frames {
                let source = FrameSource::Guest(queue, frame);
                self.hand_over(nic, rx, Some(from), source, to, tagging);
            }
            return;
        }
        rx.deliver_fetched(nic, run.to, run.insert, run.queue, queue, frames);
    }

    /// Sends a guest's frame, or the private copy of it that `source` is, to the wire; false if it has to wait for that.
    #[inline(always)]
    pub(super) fn send(
        &mut self,
        now: Nanos,
        nic: &mut Nic,
        rx: &mut Receivers,
        Fetch { vf, frame, .. }: Fetch<'_>,
        source: FrameSource<'_>,
        insert: Option<VlanTag>,
    ) -> bool {
        if self.is_unplugged(nic, rx, source, insert) {
            if nic.leaves_to_port(vf) {
                nic.count_wire_tx(frame.head(), frame.len());
            }
            return true;
        }
        let on_wire = on_wire(frame, insert);
        if !self.egress.may_send(vf.index(), on_wire.bytes) {
            self.egress.wait(vf.index());
            return false;
        }
        let copy = outgoing(rx, source, insert);
        let copy = ForPort {
            frame: copy,
            undecided: nic.leaves_to_port(vf),
        };
        self.egress.send(now, nic, rx, vf.index(), copy, on_wire);
        true
    }

    /// Sends a guest's frame wherever the verdict says. All who get it, or see it, get the same, whatever the guest does meanwhile.
    ///
    /// # Errors
    /// It has to wait for the wire; with a copy of it if others have got it.
    pub(super) fn forward(
        &mut self,
        now: Nanos,
        nic: &mut Nic,
        rx: &mut Receivers,
        from: Fetch<'_>,
        verdict: &Verdict,
    ) -> Result<(), Option<Frame>> {
        let Fetch { vf, queue, frame } = from;
        let mut source = FrameSource::Guest(queue, frame);
        let watched = rx.mirror.is_on() || rx.captures.wants(Port::Vf(vf));
        let others = verdict.vfs.len() + usize::from(verdict.pf);
        let several = others + usize::from(verdict.wire) > 1;
        let copy = (watched || several).then(|| source.copy(&rx.pool));
        if let Some(copy) = &copy {
            if watched {
                let mirror = &mut rx.mirror;
                mirror.add(Port::Vf(vf), Direction::Tx, copy, TagEdit::Keep);
            }
            source = FrameSource::Private(copy);
        }
        if rx.captures.is_on() {
            let passing = Passing {
                port: Port::Vf(vf),
                direction: Direction::Tx,
                queue: Some(queue_pair(queue.vring().index())),
                frame: source,
                edit: TagEdit::Keep,
                verdict: Some(verdict),
                drop: verdict.drop,
            };
            rx.captures.see(nic.policy(), &rx.pool, &passing);
        }
        if let (false, Some(loopback)) = (verdict.vfs.is_empty(), &mut self.loopback) {
            let looped = Looped {
                ring: queue.vring().index(),
                frame: source.copy(&rx.pool),
                to: verdict.vfs,
                tagging: nic.tagging(verdict.insert),
            };
            rx.load.copies.add(1);
            loopback.take(now, vf, looped);
        } else if !verdict.vfs.is_empty() {
            let others = self.foreign(verdict.vfs);
            let own = verdict.vfs.difference(others);
            let tagging = nic.tagging(verdict.insert);
            rx.deliver_to_vfs(nic, own, tagging, source);
            if !others.is_empty() {
                self.hand_over(nic, rx, Some(vf), source, others, tagging);
            }
        }
        if verdict.pf {
            let copy = outgoing(rx, source, verdict.insert);
            self.hand_up(nic, rx, copy, verdict);
        }
        let sent = !verdict.wire || self.send(now, nic, rx, from, source, verdict.insert);
        if !sent {
            return Err(copy.filter(|_| several));
        }
        rx.pool.give_all(copy.into_iter());
        Ok(())
    }
}
