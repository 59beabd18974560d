//! What guests send on the direct path: bursts off their transmit rings, and the frame of each VF that waits for the wire, parked
//! as the first of its ring. Decides nothing: the model judges, `outside` and `receivers` deliver.

use vf_model::{Hop, Judge, Nanos, OnWire, Source, To, VfIndex};
use vf_vhost::rx::BURST_EFFORT;

use super::super::outside::{Fetch, Run, outgoing};
use super::super::port::{meta, reason};
use super::super::ports::Fetched;
use super::super::traffic::Traffic;
use super::{BURST_BYTES, DirectPlane, Parked};

impl DirectPlane {
    pub(super) fn poll_vf(&mut self, now: Nanos, vf: VfIndex) -> usize {
        let i = vf.index();
        if self.from_workers.as_ref().is_some_and(|q| q.serves(vf)) {
            return self.poll_remote(now, vf, false);
        }
        if self.waiting.rings.contains(vf) {
            return 0;
        }
        let mut moved = 0;
        if self.is_parked(vf) {
            self.ports.active.had_work(vf);
            if !self.out.egress.may_go(i) {
                return 0;
            }
            self.unpark(now, vf);
            moved += 1;
        }
        let queues = self.ports.tx[i].queues.len();
        let enough = self.ports.rx.effort + BURST_EFFORT;
        for _ in 0..queues {
            let q = self.ports.tx[i].cursor;
            let burst = self.poll_queue(now, vf, q, enough);
            moved += self.ports.rx.load.count_burst(burst);
            if self.is_blocked(vf) {
                break;
            }
            self.ports.tx[i].cursor = if q + 1 < queues { q + 1 } else { 0 };
            if self.ports.rx.effort >= enough {
                break;
            }
        }
        if moved > 0 {
            self.ports.active.had_work(vf);
        }
        moved
    }

    /// A burst from one transmit ring; ends early when a frame has to wait for the wire, or when deliveries have been `enough`
    /// effort: then the rest waits for the next round, and others have their turn.
    fn poll_queue(&mut self, now: Nanos, vf: VfIndex, q: usize, enough: u64) -> usize {
        match self.ports.fetch(now, &mut self.nic, vf, q) {
            Fetched::Frames(0) => return 0,
            Fetched::Frames(_) => {}
            Fetched::Discarded(frames) => return frames,
        }
        let port = &mut self.ports.tx[vf.index()];
        let slot = &mut port.queues[q];
        let queue = &slot.queue;
        let ring = queue.vring().index();
        let (nic, rx, out) = (&mut self.nic, &mut self.ports.rx, &mut self.out);
        let watched = rx.mirror.is_on();
        let auto = nic.has_fast_path() && nic.policy().auto().contains(vf);
        let mut sent = Traffic::default();
        let mut run: Option<Run> = None;
        let mut done = 0;
        for frame in queue.fetched() {
            let spent = sent.bytes >= BURST_BYTES || rx.effort >= enough;
            if spent || nic.tx_ready_at(vf, now) > now {
                break;
            }
            if let Some(fault) = frame.fault() {
                // What was fetched before it goes; nothing behind it is taken for its neighbour.
                if let Some(run) = run.take() {
                    out.deliver_run(nic, rx, queue, run, done);
                }
                nic.count_tx_drop(vf, reason(fault));
                done += 1;
                continue;
            }
            if auto && nic.must_wait(vf, frame.head()) {
                self.waiting.rings.insert(vf);
                break;
            }
            sent.add(frame.len());
            let from = Fetch { vf, queue, frame };
            let m = meta(frame.len(), frame.offload());
            if !watched && let Some(hop) = nic.ingress_again(now, Source::Vf(vf), frame.head(), &m)
            {
                let Hop { to, insert } = hop;
                match to {
                    To::Vf(to) => {
                        let at = rx.ports[to.index()].queue_of(nic, to, frame.head());
                        if run.is_none_or(|run| (run.to, run.insert, run.queue) != (to, insert, at))
                        {
                            if let Some(run) = run {
                                out.deliver_run(nic, rx, queue, run, done);
                            }
                            run = Some(Run {
                                to,
                                insert,
                                queue: at,
                                from: done,
                            });
                        }
                    }
                    To::Wire => {
                        if let Some(run) = run.take() {
                            out.deliver_run(nic, rx, queue, run, done);
                        }
                        if !out.send(now, nic, rx, from, insert) {
                            self.parked_vfs.insert(vf);
                            self.parked[vf.index()] = Some(Parked { ring, insert });
                            break;
                        }
                    }
                }
                done += 1;
                continue;
            }
            let verdict = nic.ingress(now, Source::Vf(vf), frame.head(), &m);
            if let Some(run) = run.take() {
                out.deliver_run(nic, rx, queue, run, done);
            }
            if !out.forward(now, nic, rx, from, &verdict) {
                let insert = verdict.insert;
                self.parked_vfs.insert(vf);
                self.parked[vf.index()] = Some(Parked { ring, insert });
                break;
            }
            done += 1;
        }
        if let Some(run) = run {
            out.deliver_run(nic, rx, queue, run, done);
        }
        port.traffic.add(ring, sent);
        rx.publish();
        slot.queue.complete(done);
        slot.queue.publish();
        if done > 0 {
            self.ports.tx_needs_call.insert(vf);
        }
        done
    }

    /// Sends the frame of `vf` that waits for the wire; the VF behind it is next.
    pub(super) fn unpark(&mut self, now: Nanos, vf: VfIndex) {
        let Some(parked) = self.parked[vf.index()].take() else {
            return;
        };
        self.parked_vfs.remove(vf);
        self.out.egress.leave(vf.index());
        let mut queues = self.ports.tx[vf.index()].queues.iter_mut();
        let Some(slot) = queues.find(|s| s.queue.vring().index() == parked.ring) else {
            return; // a ring is not detached with a frame of its own parked
        };
        let Some(frame) = slot.queue.fetched().first() else {
            return;
        };
        let rx = &mut self.ports.rx;
        let copy = outgoing(rx, &slot.queue, frame, parked.insert);
        let on_wire = OnWire::of(&meta(copy.len(), &copy.offload));
        self.out
            .egress
            .send(now, &mut self.nic, vf.index(), copy, on_wire);
        slot.queue.complete(1);
        slot.queue.publish();
        self.ports.tx_needs_call.insert(vf);
    }
}
