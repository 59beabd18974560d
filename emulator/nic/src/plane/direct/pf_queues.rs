//! Frames from the PF that wait for the wire while rates are guaranteed: a queue for each VF on the mediated path and one for the
//! PF's own, since what is guaranteed to a VF does not depend on its path. Bounded, so that a guest which sends more than its
//! share loses its own frames. Without guarantees the PF is one flow, and its frames wait in the order in which they came.

use std::collections::VecDeque;

use vf_model::{DropReason, Judge, Nanos, OnWire, VfIndex};
use vf_vhost::rx::BURST_EFFORT;

use super::super::egress::capture;
use super::super::port::meta;
use super::{BURST, DirectPlane};
use crate::queue::{Frame, VF_QUEUE, VF_QUEUE_BYTES, cost};

/// See the module. A flow is the index of a VF, or behind the last one the PF.
pub(super) struct PfQueues {
    of: Vec<VecDeque<Frame>>,
    bytes: Vec<u64>,
    /// Frames in all queues.
    frames: usize,
}

impl PfQueues {
    pub(super) fn new(flows: usize) -> PfQueues {
        PfQueues {
            of: std::iter::repeat_with(VecDeque::new).take(flows).collect(),
            bytes: vec![0; flows],
            frames: 0,
        }
    }

    /// Whether no frame waits here.
    pub(super) fn is_empty(&self) -> bool {
        self.frames == 0
    }

    /// Whether frames of a flow wait here.
    pub(super) fn waits(&self, flow: usize) -> bool {
        self.frames > 0 && self.of.get(flow).is_some_and(|queue| !queue.is_empty())
    }

    /// Adds a frame behind those of its flow, or gives it back if there are too many.
    fn push(&mut self, flow: usize, frame: Frame) -> Result<(), Frame> {
        let (Some(queue), Some(bytes)) = (self.of.get_mut(flow), self.bytes.get_mut(flow)) else {
            return Err(frame); // there is a queue for every flow
        };
        if queue.len() >= VF_QUEUE || *bytes >= VF_QUEUE_BYTES {
            return Err(frame);
        }
        *bytes += cost(&frame);
        self.frames += 1;
        queue.push_back(frame);
        Ok(())
    }

    /// The first frame of a flow, if it may go that takes so many byte times.
    fn pop(&mut self, flow: usize, may_go: impl Fn(u64) -> bool) -> Option<(Frame, OnWire)> {
        let queue = self.of.get_mut(flow)?;
        let on_wire = on_wire(queue.front()?);
        if !may_go(on_wire.bytes) {
            return None;
        }
        let frame = queue.pop_front()?;
        self.frames -= 1;
        if let Some(bytes) = self.bytes.get_mut(flow) {
            *bytes -= cost(&frame);
        }
        Some((frame, on_wire))
    }
}

fn on_wire(frame: &Frame) -> OnWire {
    OnWire::of(&meta(frame.len(), &frame.offload))
}

impl DirectPlane {
    /// Whether frames of the PF wait for the wire by VF.
    pub(super) fn sorts_pf(&self) -> bool {
        self.out.egress.is_weighted() || !self.pf_queues.is_empty()
    }

    /// Sends a frame of the PF that this guest of the host has sent, if one has, or leaves it to wait for the wire.
    pub(super) fn send_sorted(
        &mut self,
        now: Nanos,
        from: Option<VfIndex>,
        frame: Frame,
        force: bool,
    ) {
        let mediated = self.nic.policy().mediated();
        let from = from.filter(|vf| mediated.contains(*vf));
        let flow = from.map_or(self.pf_flow(), VfIndex::index);
        let on_wire = on_wire(&frame);
        let egress = &mut self.out.egress;
        let waits = self.pf_queues.waits(flow) || !egress.may_send(flow, on_wire.bytes);
        if force || !waits {
            egress.send(
                now,
                &mut self.nic,
                &mut self.ports.rx,
                flow,
                frame.into(),
                on_wire,
            );
            return;
        }
        match self.pf_queues.push(flow, frame) {
            Ok(()) => egress.wait(flow),
            Err(lost) => {
                let drop = Some(DropReason::WireQueueFull);
                capture(self.nic.policy(), &self.ports.rx, &lost, drop);
                self.nic.count_wire_drop(DropReason::WireQueueFull);
                self.ports.rx.pool.give(lost);
            }
        }
    }

    /// Sends what waits here of a flow, as far as it is its turn, or all.
    pub(super) fn poll_sorted(&mut self, now: Nanos, flow: usize, force: bool) -> usize {
        let egress = &mut self.out.egress;
        egress.leave(flow);
        let mut moved = 0;
        let enough = self.ports.rx.effort + BURST_EFFORT;
        while force || moved < BURST && self.ports.rx.effort < enough {
            let may_go = |bytes| force || egress.may_send(flow, bytes);
            let Some((frame, on_wire)) = self.pf_queues.pop(flow, may_go) else {
                break;
            };
            egress.send(
                now,
                &mut self.nic,
                &mut self.ports.rx,
                flow,
                frame.into(),
                on_wire,
            );
            moved += 1;
        }
        if self.waits_for_port(flow) {
            self.out.egress.wait(flow);
        }
        self.ports.rx.load.count_burst(moved)
    }

    /// Sends all that waits here. What else waits of these flows and of others has its turn as before.
    pub(super) fn drain_sorted(&mut self, now: Nanos) -> usize {
        if self.pf_queues.is_empty() {
            return 0;
        }
        (0..=self.pf_flow())
            .map(|flow| match self.pf_queues.waits(flow) {
                true => self.poll_sorted(now, flow, true),
                false => 0,
            })
            .sum()
    }

    /// Whether anything of a flow waits for the port, wherever it does: here, in a ring, in no ring any more, at another worker, or
    /// as the PF's own.
    pub(super) fn waits_for_port(&self, flow: usize) -> bool {
        if self.pf_queues.waits(flow) {
            return true;
        }
        if flow == self.pf_flow() {
            return self.parked_pf.is_some();
        }
        let vf = VfIndex::from(flow);
        self.parked.vfs().contains(vf) || self.is_stuck(flow) || self.waits_elsewhere(vf)
    }
}
