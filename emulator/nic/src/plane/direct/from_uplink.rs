//! What the uplink has brought, judged as coming from the wire. Never waits for a guest's buffers, but for the time by which the
//! plane itself came late.

use vf_model::{DropReason, Judge, Nanos, Source, To, Verdict};
use vf_vhost::frame::TagEdit;

use super::super::backlog::BACKLOG_BYTES;
use super::super::captures::Passing;
use super::super::outside::{Run, insertion};
use super::super::port::meta;
use super::super::receivers::FrameSource;
use super::{BURST, DirectPlane};
use crate::queue::Frame;
use crate::watch::{Direction, Port};

/// A frame from the uplink is late if the plane looks for it so long after it arrived.
const LATE: Nanos = Nanos(20_000);
/// The longest time for which a guest is given more buffers' time for that.
const LATE_MOST: Nanos = Nanos(10_000_000);

impl DirectPlane {
    /// Delivers what the uplink has brought. A plane that looks late gives the guests as much more time to post buffers:
    /// a NIC would have used those that they posted meanwhile.
    pub(super) fn poll_uplink(&mut self, now: Nanos) -> usize {
        self.out.egress.receive(now, 2 * BURST, &mut self.arrivals);
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
        let moved = arrivals.frames.len();
        if moved > 0 {
            let late = arrivals.since.take().map(|at| now.saturating_sub(at));
            let late = late.filter(|late| *late > LATE);
            self.deliver_arrivals(now, &arrivals.frames, late);
            self.ports.rx.pool.give_all(arrivals.frames.drain(..));
        }
        self.arrivals = arrivals;
        released + moved
    }

    fn deliver_arrivals(&mut self, now: Nanos, frames: &[Frame], late: Option<Nanos>) {
        let rx = &self.ports.rx;
        let (watched, captured) = (rx.mirror.is_on(), rx.captures.wants(Port::Wire));
        let mut run: Option<Run> = None;
        for (n, frame) in frames.iter().enumerate() {
            let m = meta(frame.len(), &frame.offload);
            if watched {
                let mirror = &mut self.ports.rx.mirror;
                mirror.add(Port::Wire, Direction::Rx, frame, TagEdit::Keep);
            } else if !captured
                && let Some(again) = self.nic.ingress_again(now, Source::Wire, frame.head(), &m)
                && let To::Vf(to) = again.hop.to
            {
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
            self.deliver_private_run(run, &frames[run.from..]);
        }
        self.ports.rx.publish();
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
