//! What the uplink has brought, judged as coming from the wire, as much in a round as leaves guests their turns. Never waits for a
//! guest's buffers, but for the time by which the plane itself came late.

use vf_model::{DropReason, Judge, Nanos, Source, To, Verdict};
use vf_vhost::frame::TagEdit;
use vf_vhost::rx::BURST_EFFORT;

use super::super::backlog::BACKLOG_BYTES;
use super::super::captures::Passing;
use super::super::outside::{Run, insertion};
use super::super::port::meta;
use super::super::receivers::{FrameSource, ROUND_BYTES, copied};
use super::{BURST, DirectPlane};
use crate::queue::Frame;
use crate::watch::{Direction, Port};

/// A frame from the uplink is late if the plane looks for it so long after it arrived.
const LATE: Nanos = Nanos(20_000);
/// The longest time for which a guest is given more buffers' time for that.
const LATE_MOST: Nanos = Nanos(10_000_000);

impl DirectPlane {
    /// Delivers what the uplink has brought. A plane that looks late gives the guests as much more time to post buffers:
    /// a NIC would have used those that they posted meanwhile. What would take too long in one round, since it is long or many get it,
    /// goes on in the next, before anything else is taken from the uplink.
    pub(super) fn poll_uplink(&mut self, now: Nanos) -> usize {
        if self.arrivals.frames.is_empty() {
            self.out.egress.receive(now, 2 * BURST, &mut self.arrivals);
        }
        if self.arrivals.frames.is_empty() && self.arrivals.dropped.is_empty() {
            return 0;
        }
        let released = self.look_for_policy(now);
        let mut arrivals = std::mem::take(&mut self.arrivals);
        for (reason, frame) in arrivals.dropped.drain(..) {
            self.capture(&frame, None, Some(reason));
            self.nic.count_wire_rx_drop(reason);
            self.ports.rx.pool.give(frame);
        }
        let mut moved = 0;
        if !arrivals.frames.is_empty() {
            let late = arrivals.since.map(|at| now.saturating_sub(at));
            let late = late.filter(|late| *late > LATE);
            moved = self.deliver_arrivals(now, &arrivals.frames, late);
            self.ports.rx.pool.give_all(arrivals.frames.drain(..moved));
        }
        if arrivals.frames.is_empty() {
            arrivals.since = None;
        }
        self.arrivals = arrivals;
        released + moved
    }

    /// Delivers frames that have come, in order, until the round is long enough; how many.
    fn deliver_arrivals(&mut self, now: Nanos, frames: &[Frame], late: Option<Nanos>) -> usize {
        let rx = &self.ports.rx;
        let enough = rx.effort + BURST_EFFORT;
        let mut bytes = 0;
        let mut end = frames.len();
        let (watched, captured) = (rx.mirror.is_on(), rx.captures.wants(Port::Wire));
        let mut run: Option<Run> = None;
        for (n, frame) in frames.iter().enumerate() {
            if bytes >= ROUND_BYTES || self.ports.rx.effort >= enough {
                end = n;
                break;
            }
            let m = meta(frame.len(), &frame.offload);
            if watched {
                let mirror = &mut self.ports.rx.mirror;
                mirror.add(Port::Wire, Direction::Rx, frame, TagEdit::Keep);
            } else if !captured
                && let Some(again) = self.nic.ingress_again(now, Source::Wire, frame.head(), &m)
                && let To::Vf(to) = again.hop.to
            {
                bytes += copied(&m, 1);
                let port = &self.ports.rx.ports[to.index()];
                let queue = port.queue_of(&self.nic, to, frame.head());
                let insert = again.hop.insert;
                if run.is_none_or(|run| (run.to, run.insert, run.queue) != (to, insert, queue)) {
                    if let Some(run) = run.take() {
                        self.deliver_private_run(run, &frames[run.from..n]);
                    }
                    if let Some(late) = late {
                        let until = now + late.min(LATE_MOST);
                        self.ports.rx.grant(to, BACKLOG_BYTES, until);
                    }
                    run = Some(Run {
                        to,
                        insert,
                        queue,
                        from: n,
                    });
                }
                continue;
            }
            if let Some(run) = run.take() {
                self.deliver_private_run(run, &frames[run.from..n]);
            }
            let verdict = self.nic.ingress(now, Source::Wire, frame.head(), &m);
            self.capture(frame, Some(&verdict), verdict.drop);
            bytes += copied(&m, verdict.vfs.len() + usize::from(verdict.pf));
            if let Some(late) = late {
                for vf in verdict.vfs.iter() {
                    let until = now + late.min(LATE_MOST);
                    self.ports.rx.grant(vf, BACKLOG_BYTES, until);
                }
            }
            let vfs = match verdict.waits {
                true => self.hold(frame, &verdict),
                false => verdict.vfs,
            };
            let source = FrameSource::Private(frame);
            let others = self.out.foreign(vfs);
            let own = vfs.difference(others);
            let rx = &mut self.ports.rx;
            let tagging = self.nic.tagging(verdict.insert);
            rx.deliver_to_vfs(&mut self.nic, own, tagging, source);
            if !others.is_empty() {
                self.out
                    .hand_over(&mut self.nic, rx, None, source, others, tagging);
            }
            if verdict.pf {
                let mut copy = rx.pool.copy(frame);
                copy.edit(insertion(verdict.insert));
                self.out.hand_up(&mut self.nic, rx, copy, &verdict);
            }
        }
        if let Some(run) = run {
            self.deliver_private_run(run, &frames[run.from..end]);
        }
        self.ports.rx.publish();
        end
    }

    /// Shows a frame that has come to those who capture what comes.
    fn capture(&self, frame: &Frame, verdict: Option<&Verdict>, drop: Option<DropReason>) {
        let captures = &self.ports.rx.captures;
        if captures.is_on() {
            let passing = Passing {
                port: Port::Wire,
                direction: Direction::Rx,
                queue: None,
                frame: FrameSource::Private(frame),
                edit: TagEdit::Keep,
                verdict,
                drop,
            };
            captures.see(self.nic.policy(), &self.ports.rx.pool, &passing);
        }
    }

    /// Delivers frames in private memory that go to one VF.
    fn deliver_private_run(&mut self, run: Run, frames: &[Frame]) {
        let rx = &mut self.ports.rx;
        if self.out.is_foreign(run.to) {
            let to = [run.to].into_iter().collect();
            let tagging = self.nic.tagging(run.insert);
            for frame in frames {
                let source = FrameSource::Private(frame);
                self.out
                    .hand_over(&mut self.nic, rx, None, source, to, tagging);
            }
            return;
        }
        rx.deliver_run(&mut self.nic, run.to, run.insert, run.queue, frames);
    }
}
