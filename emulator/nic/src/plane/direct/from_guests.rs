//! What guests send on the direct path: bursts off their transmit rings. What has to wait for the wire is left to `parked`. Decides
//! nothing: the model judges, `outside` and `receivers` deliver.

use vf_model::{Hop, Judge, Nanos, Source, To, VfIndex};
use vf_vhost::rx::BURST_EFFORT;

use super::super::outside::{Fetch, Run};
use super::super::port::{meta, queue_pair, reason};
use super::super::ports::Fetched;
use super::super::receivers::FrameSource;
use super::super::traffic::Traffic;
use super::parked::Parked;
use super::{BURST, BURST_BYTES, DirectPlane};
use crate::watch::Port;

impl DirectPlane {
    pub(super) fn poll_vf(&mut self, now: Nanos, vf: VfIndex) -> usize {
        let i = vf.index();
        if self.is_remote(vf) {
            return self.poll_remote(now, vf, false);
        }
        let mut moved = 0;
        let mut holds = self.parked.vfs().contains(vf);
        if holds {
            moved += self.poll_parked(now, vf);
            holds = self.parked.vfs().contains(vf);
        }
        if self.is_blocked(vf) {
            return moved;
        }
        holds |= self.out.loopback.is_some();
        let queues = self.ports.tx[i].queues.len();
        let enough = self.ports.rx.effort + BURST_EFFORT;
        self.turn_bytes = 0;
        for _ in 0..queues {
            let q = self.ports.tx[i].cursor;
            if !holds || !self.is_held(vf, q) {
                let burst = self.poll_queue(now, vf, q, enough);
                moved += self.ports.rx.load.count_burst(burst);
            }
            self.ports.tx[i].cursor = if q + 1 < queues { q + 1 } else { 0 };
            // A turn is as long for a VF with one ring as for one with many, whose rings take turns in theirs.
            let spent = moved >= BURST || self.turn_bytes >= BURST_BYTES;
            if spent || self.ports.rx.effort >= enough || self.waiting.rings.contains(vf) {
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
    #[inline]
    pub(super) fn poll_queue(&mut self, now: Nanos, vf: VfIndex, q: usize, enough: u64) -> usize {
        // Most looks find nothing, and are kept short: the next frame of another VF waits for them.
        match self.ports.fetch(now, &mut self.nic, vf, q) {
            Fetched::Frames(0) => 0,
            Fetched::Frames(_) => self.send_fetched(now, vf, q, enough),
            Fetched::Discarded(frames) => frames,
        }
    }

    /// What has been fetched from the ring.
    fn send_fetched(&mut self, now: Nanos, vf: VfIndex, q: usize, enough: u64) -> usize {
        let released = self.look_for_policy(now);
        if self.ports.impaired.vfs().contains(vf) {
            return released + self.impair(now, vf, q);
        }
        let port = &mut self.ports.tx[vf.index()];
        let rings = port.queues.len();
        let slot = &mut port.queues[q];
        let queue = &slot.queue;
        let ring = queue.vring().index();
        let (nic, rx, out) = (&mut self.nic, &mut self.ports.rx, &mut self.out);
        let watched = rx.mirror.is_on() || rx.captures.wants(Port::Vf(vf));
        let one_by_one = watched || out.loopback.is_some();
        let auto = nic.has_fast_path() && nic.policy().auto().contains(vf);
        let undecided = nic.leaves_to_port(vf);
        let limited = nic.is_limited(vf);
        let mut sent = Traffic::default();
        let mut run: Option<Run> = None;
        let mut one_queue = false;
        let mut done = 0;
        for frame in queue.fetched() {
            let spent = sent.bytes >= BURST_BYTES || rx.effort >= enough;
            if spent || limited && nic.tx_ready_at(vf, now) > now {
                break;
            }
            if let Some(fault) = frame.fault() {
                // What was fetched before it goes; nothing behind it is taken for its neighbour.
                if let Some(run) = run.take() {
                    out.deliver_run(nic, rx, (vf, queue), run, done);
                }
                let (policy, pair) = (nic.policy(), queue_pair(ring));
                rx.captures
                    .no_frame(policy, &rx.pool, vf, pair, reason(fault));
                nic.count_tx_drop(vf, reason(fault));
                done += 1;
                continue;
            }
            if auto && nic.must_wait(vf, frame.head()) {
                self.waiting.rings.insert(vf);
                break;
            }
            sent.add(frame.len());
            let m = meta(frame.len(), frame.offload());
            if !one_by_one
                && let Some(again) = nic.ingress_again(now, Source::Vf(vf), frame.head(), &m)
            {
                let Hop { to, insert } = again.hop;
                match to {
                    // To the same VF as the frame before it, which has one queue: the run goes on.
                    To::Vf(_) if again.repeated && one_queue && run.is_some() => {}
                    To::Vf(to) => {
                        let port = &rx.ports[to.index()];
                        let at = port.queue_of(nic, to, frame.head());
                        one_queue = port.has_one_queue();
                        if run.is_none_or(|run| (run.to, run.insert, run.queue) != (to, insert, at))
                        {
                            if let Some(run) = run {
                                out.deliver_run(nic, rx, (vf, queue), run, done);
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
                            out.deliver_run(nic, rx, (vf, queue), run, done);
                        }
                        let source = FrameSource::Guest(queue, frame);
                        if !out.send(now, nic, rx, Fetch { vf, queue, frame }, source, insert) {
                            self.parked.park(
                                vf,
                                Parked {
                                    ring,
                                    insert,
                                    undecided,
                                    copy: None,
                                },
                                rings,
                            );
                            break;
                        }
                    }
                }
                done += 1;
                continue;
            }
            let verdict = nic.ingress(now, Source::Vf(vf), frame.head(), &m);
            if let Some(run) = run.take() {
                out.deliver_run(nic, rx, (vf, queue), run, done);
            }
            if let Err(copy) = out.forward(now, nic, rx, Fetch { vf, queue, frame }, &verdict) {
                let insert = verdict.insert;
                self.parked.park(
                    vf,
                    Parked {
                        ring,
                        insert,
                        undecided,
                        copy,
                    },
                    rings,
                );
                break;
            }
            done += 1;
            if out.loopback_holds(vf, ring) {
                break;
            }
        }
        if let Some(run) = run {
            out.deliver_run(nic, rx, (vf, queue), run, done);
        }
        self.turn_bytes += sent.bytes;
        port.traffic.add(ring, sent);
        rx.publish();
        slot.queue.complete(done);
        slot.queue.publish();
        if done > 0 {
            self.ports.tx_needs_call.insert(vf);
        }
        released + done
    }
}
