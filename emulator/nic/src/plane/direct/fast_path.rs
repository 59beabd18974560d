//! Path `auto` on the NIC's plane: frames that wait until their flow has changed to the fast path, and the marker that they wait
//! for. Decides nothing: the model says who waits, for which marker, and where to then.

use vf_model::{DropReason, FastKey, Judge, Lane, Nanos, Onward, Verdict, VfSet};

use super::super::captures::Passing;
use super::super::port::bytes_of;
use super::super::receivers::FrameSource;
use super::DirectPlane;
use super::waiting::Held;
use crate::queue::Frame;
use crate::watch::{Direction, Port};

/// How soon a marker is sent again that the hypervisor's queue had no room for.
const AGAIN: Nanos = Nanos(10_000);

impl DirectPlane {
    /// A new policy is in force: what waits for a flow that is no longer changing goes on, and a marker follows for those that
    /// begin to.
    pub(super) fn adopted(&mut self, now: Nanos) -> usize {
        self.out.egress.adopt(self.nic.policy());
        self.ports.adopt(self.nic.policy());
        let moved = self.release();
        self.send_marker(now);
        moved
    }

    /// Sends the marker that somebody waits for.
    pub(super) fn send_marker(&mut self, now: Nanos) {
        self.waiting.marker_at = None;
        if let Some(number) = self.nic.marker_to_send() {
            match self.out.pf.send_marker(number) {
                true => self.nic.marker_sent(),
                false => self.waiting.marker_at = Some(now + AGAIN),
            }
        }
    }

    /// The marker has come back: all that was sent up before it is in the guests' rings, or on its way out.
    pub(super) fn marker_back(&mut self, now: Nanos, number: u64) {
        self.nic.marker_back(number);
        self.release();
        self.send_marker(now);
    }

    /// Lets those go on that need not wait any longer; how many.
    fn release(&mut self) -> usize {
        while let Some(vf) = self.waiting.rings.pop() {
            // Whether its frame still waits is found out when it is looked at.
            match self.is_remote(vf) {
                true => self.out.egress.wait(vf.index()),
                false => self.ports.active.had_work(vf),
            }
        }
        let mut moved = 0;
        for held in std::mem::take(&mut self.waiting.held) {
            let lane = self.nic.lane_of(held.vf, held.key);
            if lane == Lane::Wait {
                self.waiting.held.push_back(held);
                continue;
            }
            moved += 1;
            self.let_go(held, lane);
        }
        moved
    }

    fn let_go(&mut self, held: Held, lane: Lane) {
        let Held {
            vf, frame, tagging, ..
        } = held;
        self.waiting.give_buffers(vf, &frame);
        self.nic.count_released(vf, lane, frame.head(), frame.len());
        let vfs = [vf].into_iter().collect();
        let rx = &mut self.ports.rx;
        if lane == Lane::Slow {
            let onward = Onward {
                vfs,
                tagging,
                ..Onward::default()
            };
            self.out.hand_on(&mut self.nic, rx, frame, onward);
            return;
        }
        let source = FrameSource::Private(&frame);
        if self.out.is_foreign(vf) {
            self.out
                .hand_over(&mut self.nic, rx, None, source, vfs, tagging);
        } else {
            rx.deliver_to_vfs(&mut self.nic, vfs, tagging, source);
        }
        rx.pool.give(frame);
    }

    /// Keeps copies of a frame from the wire for those of its receivers whose flow is changing; the others, who get it now.
    pub(super) fn hold(&mut self, frame: &Frame, verdict: &Verdict) -> VfSet {
        let Some(key) = FastKey::of_frame(frame.head()) else {
            return verdict.vfs;
        };
        let mut others = verdict.vfs;
        let tagging = self.nic.tagging(verdict.insert);
        for vf in verdict.vfs.iter() {
            if self.nic.lane_of(vf, key) != Lane::Wait {
                if self.nic.policy().auto().contains(vf) {
                    let (head, len) = (frame.head(), frame.len());
                    self.nic.count_released(vf, Lane::Fast, head, len);
                }
                continue;
            }
            others.remove(vf);
            let limit = self.nic.policy().vf(vf).limits.buffers();
            if !self.waiting.take_buffers(vf, frame, limit) {
                let passing = Passing {
                    port: Port::Vf(vf),
                    direction: Direction::Rx,
                    queue: None,
                    frame: FrameSource::Private(frame),
                    edit: bytes_of(tagging.edit(vf)),
                    verdict: None,
                    drop: Some(DropReason::FastPathBusy),
                };
                let rx = &self.ports.rx;
                rx.captures.see(self.nic.policy(), &rx.pool, &passing);
                self.nic.count_busy(vf);
                continue;
            }
            self.nic.count_waited(vf);
            let frame = self.ports.rx.pool.copy(frame);
            self.waiting.held.push_back(Held {
                vf,
                key,
                frame,
                tagging,
            });
        }
        others
    }
}
