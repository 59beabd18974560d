//! What impaired VFs send on the direct path: out of their rings at once, held back, and judged when it is due. Decides nothing: the
//! model judges, `outside` and `receivers` deliver.

use std::collections::VecDeque;

use vf_model::{DropReason, Judge, Nanos, OnWire, Source, VfIndex, VfSet};
use vf_vhost::frame::TagEdit;
use vf_vhost::rx::BURST_EFFORT;

use super::super::captures::Passing;
use super::super::egress::capture;
use super::super::outside::{Stuck, insertion};
use super::super::port::{meta, queue_pair};
use super::super::receivers::FrameSource;
use super::loopback::Looped;
use super::{BURST_BYTES, DirectPlane};
use crate::queue::{ForPort, Frame};
use crate::watch::{Direction, Port};

/// Frames of a VF in a round at most.
const BURST: usize = 64;

/// Frames of a VF that wait for the wire in no ring, at most, when one more is sent in its name.
const STUCK: usize = 64;

impl DirectPlane {
    /// Whether a frame of this flow waits for the wire that is in no ring any more.
    pub(super) fn is_stuck(&self, flow: usize) -> bool {
        !self.stuck.is_empty() && self.stuck.contains_key(&VfIndex::from(flow))
    }

    /// Takes what has been fetched from a ring of an impaired VF; how many frames. While one of them waits for the wire, or for its
    /// VF's rate, its guest is to see that.
    #[cold]
    pub(super) fn impair(&mut self, now: Nanos, vf: VfIndex, q: usize) -> usize {
        if self.stuck.contains_key(&vf) || self.ports.impaired.waits(vf) {
            return 0;
        }
        self.ports.impair(now, &mut self.nic, vf, q)
    }

    /// Lets go what waits for the wire in no ring, and what is due of what impaired VFs have sent; how many frames.
    pub(super) fn poll_impaired(&mut self, now: Nanos) -> usize {
        let mut moved = 0;
        let impaired = *self.ports.impaired.vfs();
        let stuck: VfSet = self.stuck.keys().copied().collect();
        for vf in impaired.union(stuck).iter() {
            moved += match self.stuck.contains_key(&vf) {
                true if self.out.egress.may_go(vf.index()) => self.poll_stuck(now, vf, false),
                true => 0,
                false => self.release_sent(now, vf),
            };
            if impaired.contains(vf) && !self.stuck.contains_key(&vf) {
                self.ports.impaired.end(vf);
            }
        }
        self.ports.rx.load.count_burst(moved)
    }

    /// Sends what of a VF waits for the wire in no ring, as far as it is its turn, or all.
    pub(super) fn poll_stuck(&mut self, now: Nanos, vf: VfIndex, force: bool) -> usize {
        let flow = vf.index();
        let (nic, rx) = (&mut self.nic, &mut self.ports.rx);
        let egress = &mut self.out.egress;
        egress.leave(flow);
        let enough = rx.effort + BURST_EFFORT;
        let mut moved = 0;
        while let Some(stuck) = self.stuck.get_mut(&vf)
            && let Some(first) = stuck.front()
            && (force || rx.effort < enough && egress.may_send(flow, first.on_wire.bytes))
            && let Some(Stuck { frame, on_wire }) = stuck.pop_front()
        {
            if stuck.is_empty() {
                self.stuck.remove(&vf);
            }
            egress.send(now, nic, rx, flow, frame, on_wire);
            moved += 1;
        }
        if moved > 0 {
            self.ports.active.had_work(vf);
        }
        if self.waits_for_port(flow) {
            self.out.egress.wait(flow);
        }
        moved
    }

    /// Sends it now, since the VF goes on elsewhere.
    pub(in super::super) fn send_stuck(&mut self, now: Nanos, vf: VfIndex) {
        self.poll_stuck(now, vf, true);
        let rx = &self.ports.rx;
        self.out.egress.flush(now, &mut self.nic, rx);
    }

    /// Sends all of them.
    pub(super) fn drain_stuck(&mut self, now: Nanos) -> usize {
        let vfs: Vec<_> = self.stuck.keys().copied().collect();
        vfs.into_iter()
            .map(|vf| self.poll_stuck(now, vf, true))
            .sum()
    }

    fn release_sent(&mut self, now: Nanos, vf: VfIndex) -> usize {
        if let Some(queue) = self.ports.impaired.of(vf) {
            queue.look(now);
        }
        let auto = self.nic.has_fast_path() && self.nic.policy().auto().contains(vf);
        let enough = self.ports.rx.effort + BURST_EFFORT;
        let (mut moved, mut bytes) = (0, 0);
        while moved < BURST
            && bytes < BURST_BYTES
            && self.ports.rx.effort < enough
            && !self.stuck.contains_key(&vf)
        {
            let Some(queue) = self.ports.impaired.of(vf) else {
                break;
            };
            let waits = |(frame, ring): &(Frame, u32)| {
                self.nic.tx_ready_at(vf, now) > now
                    || auto && self.nic.must_wait(vf, frame.head())
                    || self.out.loopback_holds(vf, *ring)
            };
            if queue.first().is_none_or(waits) {
                break;
            }
            let Some((frame, ring)) = queue.pop() else {
                break;
            };
            bytes += u64::from(frame.len());
            self.send_on(now, vf, ring, frame);
            moved += 1;
        }
        if moved > 0 {
            self.ports.rx.publish();
        }
        moved
    }

    /// A frame of a VF that is in no ring any more is where it would have been taken from its ring otherwise.
    pub(super) fn send_on(&mut self, now: Nanos, vf: VfIndex, ring: u32, mut frame: Frame) {
        let m = meta(frame.len(), &frame.offload);
        let verdict = self.nic.ingress(now, Source::Vf(vf), frame.head(), &m);
        let (nic, rx, out) = (&mut self.nic, &mut self.ports.rx, &mut self.out);
        rx.mirror
            .add(Port::Vf(vf), Direction::Tx, &frame, TagEdit::Keep);
        let source = FrameSource::Private(&frame);
        if rx.captures.is_on() {
            let passing = Passing {
                port: Port::Vf(vf),
                direction: Direction::Tx,
                queue: Some(queue_pair(ring)),
                frame: source,
                edit: TagEdit::Keep,
                verdict: Some(&verdict),
                drop: verdict.drop,
            };
            rx.captures.see(nic.policy(), &rx.pool, &passing);
        }
        let tagging = nic.tagging(verdict.insert);
        if let (false, Some(loopback)) = (verdict.vfs.is_empty(), &mut out.loopback) {
            let looped = Looped {
                ring,
                frame: rx.pool.copy(&frame),
                to: verdict.vfs,
                tagging,
            };
            loopback.take(now, vf, looped);
        } else if !verdict.vfs.is_empty() {
            let others = out.foreign(verdict.vfs);
            rx.deliver_to_vfs(nic, verdict.vfs.difference(others), tagging, source);
            if !others.is_empty() {
                out.hand_over(nic, rx, Some(vf), source, others, tagging);
            }
        }
        if verdict.pf {
            let mut copy = rx.pool.copy(&frame);
            copy.edit(insertion(verdict.insert));
            out.hand_up(nic, rx, copy, &verdict);
        }
        let undecided = nic.leaves_to_port(vf);
        if !verdict.wire {
            rx.pool.give(frame);
        } else if out.is_unplugged(nic, rx, source, verdict.insert) {
            if undecided {
                nic.count_wire_tx(frame.head(), frame.len());
            }
            rx.pool.give(frame);
        } else {
            frame.edit(insertion(verdict.insert));
            let on_wire = OnWire::of(&meta(frame.len(), &frame.offload));
            let frame = ForPort { frame, undecided };
            let flow = vf.index();
            let behind = self.stuck.get(&vf).map_or(0, VecDeque::len);
            let waits = behind > 0 || self.parked.vfs().contains(vf);
            if !waits && out.egress.may_send(flow, on_wire.bytes) {
                out.egress.send(now, nic, rx, flow, frame, on_wire);
            } else if behind < STUCK {
                out.egress.wait(flow);
                let stuck = self.stuck.entry(vf).or_default();
                stuck.push_back(Stuck { frame, on_wire });
            } else {
                capture(
                    nic.policy(),
                    rx,
                    &frame.frame,
                    Some(DropReason::WireQueueFull),
                );
                nic.count_wire_drop(DropReason::WireQueueFull);
                rx.pool.give(frame.frame);
            }
        }
    }
}
