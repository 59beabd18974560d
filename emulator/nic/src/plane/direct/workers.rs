//! The direct path of a NIC on several threads: a plane each, which hands frames for the others' VFs over to them, and those for
//! the wire to the one that has the port. Never touches another worker's rings.

use vf_model::{Judge, Lane, Nanos, OnWire, Onward, VfIndex};
use vf_vhost::rx::BURST_EFFORT;

use super::super::egress::Egress;
use super::super::policy_cell::PolicyCell;
use super::super::port::meta;
use super::super::receivers::{FrameSource, ROUND_BYTES, Receivers, copied};
use super::{BURST, DirectPlane};
use crate::queue::{CrossQueues, Doorbell, ForPort, PfEnd, Pool, port_queues};
use crate::uplink::Uplink;

impl DirectPlane {
    /// The workers of a NIC: each has a replica of its model and will have the rings of the VFs that are
    /// [its](crate::queue::worker_of). The first has the port and hears the hypervisor.
    #[must_use]
    pub fn team(
        policies: &PolicyCell,
        workers: usize,
        pf: PfEnd,
        uplink: Option<Box<dyn Uplink>>,
        pool: &Pool,
    ) -> Vec<DirectPlane> {
        if workers <= 1 {
            return vec![DirectPlane::new(policies, pf, uplink, pool.clone())];
        }
        let vfs = policies.load().vf_count();
        let (rx, txs) = port_queues(vfs, workers);
        let plugged = uplink.is_some();
        let others = txs.into_iter().map(|tx| {
            let egress = match plugged {
                true => Egress::Remote(tx),
                false => Egress::Unplugged,
            };
            let mut worker = DirectPlane::with_egress(policies, pf.sender(), egress, pool.clone());
            worker.nic.without_port();
            worker
        });
        let others: Vec<_> = others.collect();
        let first = DirectPlane {
            from_workers: Some(rx),
            ..DirectPlane::new(policies, pf, uplink, pool.clone())
        };
        let mut team: Vec<_> = std::iter::once(first).chain(others).collect();
        for (worker, queues) in team.iter_mut().zip(CrossQueues::mesh(vfs, workers)) {
            worker.out.workers = Some(queues);
        }
        team
    }

    /// Names the threads of all workers of the NIC, in order, to be woken for what is handed to them.
    pub fn set_peers(&mut self, bells: &[Doorbell]) {
        if let Some(workers) = &mut self.out.workers {
            workers.set_peers(bells);
        }
        if let Some(from_workers) = &mut self.from_workers {
            from_workers.set_peers(bells);
        }
        if let (Egress::Remote(queue), Some(first)) = (&mut self.out.egress, bells.first()) {
            queue.set_peer(first.clone());
        }
    }

    /// Whether another worker has the rings of a VF, and only its frames for the port come here.
    #[inline]
    pub(super) fn is_remote(&self, vf: VfIndex) -> bool {
        self.from_workers.as_ref().is_some_and(|q| q.serves(vf))
    }

    /// Whether frames of a VF of another worker wait here for the port, and not for a word of the hypervisor's.
    pub(super) fn waits_elsewhere(&self, vf: VfIndex) -> bool {
        let from_workers = self.from_workers.as_ref();
        from_workers.is_some_and(|from| from.waiting().contains(vf))
            && !self.waiting.rings.contains(vf)
    }

    /// Delivers what other workers have left here, so many frames of each at most; how many.
    pub(super) fn poll_workers(&mut self, limit: usize) -> usize {
        let mut moved = 0;
        let peers = self.out.workers.as_ref().map_or(0, CrossQueues::peers);
        for peer in 0..peers {
            let (mut burst, mut bytes) = (0, 0);
            let enough = self.ports.rx.effort + BURST_EFFORT;
            while burst < limit
                && (bytes < ROUND_BYTES && self.ports.rx.effort < enough || limit == usize::MAX)
                && let Some(crossing) = self.out.workers.as_ref().and_then(|w| w.take(peer))
            {
                let m = meta(crossing.frame.len(), &crossing.frame.offload);
                bytes += copied(&m, crossing.vfs.len());
                let source = FrameSource::Private(&crossing.frame);
                let rx = &mut self.ports.rx;
                rx.deliver_to_vfs(&mut self.nic, crossing.vfs, crossing.tagging, source);
                rx.pool.give(crossing.frame);
                burst += 1;
            }
            moved += self.ports.rx.load.count_burst(burst);
        }
        moved
    }

    /// What another worker has left of a VF of its own, as far as it is its turn, or all but what waits for its flow to change
    /// paths. What of a VF on path `auto` is not on the fast path goes up to the hypervisor from here.
    pub(super) fn poll_remote(&mut self, now: Nanos, vf: VfIndex, force: bool) -> usize {
        let Some(from_workers) = &mut self.from_workers else {
            return 0;
        };
        let flow = vf.index();
        let egress = &mut self.out.egress;
        egress.leave(flow);
        if self.waiting.rings.contains(vf) {
            return 0;
        }
        let mut moved = 0;
        let enough = self.ports.rx.effort + BURST_EFFORT;
        let spent = |moved, rx: &Receivers| moved >= BURST || rx.effort >= enough;
        // The longest frame that does not count as one of several in a visit.
        while force || !spent(moved, &self.ports.rx) && self.out.egress.may_send(flow, 1) {
            let held = self.waiting.take_remote(vf);
            let held = held.map(|frame| ForPort {
                frame,
                undecided: true,
            });
            let Some(left) = held.or_else(|| from_workers.take(vf)) else {
                break;
            };
            let frame = left.frame;
            if left.undecided {
                match self.nic.lane_sent(vf, frame.head(), frame.len()) {
                    Lane::Fast => {}
                    Lane::Slow => {
                        let onward = Onward {
                            wire: true,
                            from: Some(vf),
                            tagging: self.nic.tagging(None),
                            ..Onward::default()
                        };
                        let rx = &mut self.ports.rx;
                        self.out.hand_on(&mut self.nic, rx, frame, onward);
                        moved += 1;
                        continue;
                    }
                    Lane::Wait => {
                        self.waiting.hold_remote(vf, frame);
                        break;
                    }
                }
            }
            let on_wire = OnWire::of(&meta(frame.len(), &frame.offload));
            let egress = &mut self.out.egress;
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
}
