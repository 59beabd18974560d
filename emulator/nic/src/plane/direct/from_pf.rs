//! What the hypervisor hands over through the PF, with the verdict that it was given there. Never judges a frame again.

use vf_model::{Judge, Nanos, OnWire, Onward, Verdict};
use vf_vhost::frame::TagEdit;
use vf_vhost::rx::BURST_EFFORT;

use super::super::captures::Passing;
use super::super::port::meta;
use super::super::receivers::{FrameSource, ROUND_BYTES, copied};
use super::{BURST, DirectPlane};
use crate::queue::{Frame, PfFrame, PfItem};
use crate::watch::{Direction, Port};

impl DirectPlane {
    /// The PF's flow.
    pub(super) fn pf_flow(&self) -> usize {
        self.ports.tx.len()
    }

    pub(super) fn poll_pf(&mut self, now: Nanos, force: bool) -> usize {
        let mut moved = 0;
        if let Some(frame) = self.parked_pf.take() {
            self.parked_pf = self.send_or_return(now, frame, force, true);
            if self.parked_pf.is_some() {
                return 0;
            }
            moved += 1;
        }
        let enough = self.ports.rx.effort + BURST_EFFORT;
        let mut bytes = 0;
        while force || moved < BURST && bytes < ROUND_BYTES && self.ports.rx.effort < enough {
            let PfFrame { frame, onward } = match self.out.pf.receive() {
                None => break,
                Some(PfItem::Frame(frame)) => frame,
                Some(PfItem::Marker(number)) => {
                    self.marker_back(now, number);
                    moved += 1;
                    continue;
                }
                Some(PfItem::Announced(mac)) => {
                    self.nic.may_be_local(mac);
                    moved += 1;
                    continue;
                }
            };
            moved += 1;
            let m = meta(frame.len(), &frame.offload);
            bytes += copied(&m, onward.vfs.len());
            let verdict = self.nic.from_pf(&onward, frame.head(), &m);
            if self.ports.rx.captures.is_on() {
                let passing = Passing {
                    port: Port::Pf,
                    direction: Direction::Tx,
                    queue: None,
                    frame: FrameSource::Private(&frame),
                    edit: TagEdit::Keep,
                    verdict: Some(&verdict),
                    drop: None,
                };
                let rx = &self.ports.rx;
                rx.captures.see(self.nic.policy(), &rx.pool, &passing);
            }
            self.parked_pf = self.dispatch(now, frame, &verdict, &onward, force);
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
        onward: &Onward,
        force: bool,
    ) -> Option<Frame> {
        let tagging = onward.tagging;
        let rx = &mut self.ports.rx;
        let others = self.out.foreign(verdict.vfs);
        if !verdict.vfs.is_empty() {
            let source = FrameSource::Private(&frame);
            let own = verdict.vfs.difference(others);
            rx.deliver_to_vfs(&mut self.nic, own, tagging, source);
            if !others.is_empty() {
                self.out
                    .hand_over(&mut self.nic, rx, onward.from, source, others, tagging);
            }
        }
        let source = FrameSource::Private(&frame);
        if !verdict.wire || self.out.is_unplugged(&mut self.nic, rx, source, None) {
            rx.pool.give(frame);
            return None;
        }
        if self.sorts_pf() {
            self.send_sorted(now, onward.from, frame, force);
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
        let on_wire = OnWire::of(&meta(frame.len(), &frame.offload));
        let egress = &mut self.out.egress;
        if waits {
            egress.leave(pf);
        }
        if !force && !egress.may_send(pf, on_wire.bytes) {
            egress.wait(pf);
            return Some(frame);
        }
        egress.send(
            now,
            &mut self.nic,
            &mut self.ports.rx,
            pf,
            frame.into(),
            on_wire,
        );
        None
    }
}
