//! The way out of a NIC: the scheduler in front of its port, which gives each VF and the PF the same share of the uplink, and
//! for a worker without the port the queues to the one that has it. Frames wait in their rings, not here; they leave in
//! bursts. Never judges a frame.

use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use vf_model::{DropReason, Impairments, Judge, Nanos, Nic, OnWire, Policy, VfIndex};
use vf_packet::MIN_FRAME;
use vf_vhost::frame::{FrameBuf, TagEdit};
use vf_vhost::rx::EFFORTLESS;

use super::captures::Passing;
use super::fair_queue::FairQueue;
use super::receivers::{FrameSource, Receivers};
use super::statistics::UplinkStatistics;
use super::wire_capture::Captured;
use crate::netem::{Counters, NetemQueue, Place};
use crate::queue::PortQueueTx;
use crate::queue::{ForPort, Pool};
use crate::uplink::{Arrivals, Lost, Netem, Position, TxFrame, TxRoom, Uplink};
use crate::watch;

/// Frames that are handed to the uplink at a time.
const BURST: usize = 64;
/// Byte times that a VF sends in a row while others wait, if the transmitter is filled ahead: those of one long frame.
const QUANTUM: u64 = 1538;

/// Where the frames of a plane go that leave its NIC. A flow is the index of a VF, or behind the last one the PF.
pub(super) enum Egress {
    /// Nothing is plugged into the port.
    Unplugged,
    /// The port is here.
    Port(Box<Port>),
    /// The port is with another worker.
    Remote(PortQueueTx),
}

/// The port and its scheduler.
pub(super) struct Port {
    uplink: Box<dyn Uplink>,
    /// Impairs what is sent, while anything does.
    netem: Option<Box<Netem>>,
    /// The same of what comes.
    ingress: Option<Box<NetemQueue<()>>>,
    /// What those have done.
    impaired: Counters,
    place: Place,
    /// How far ahead of now the transmitter may be filled.
    slack: Nanos,
    queue: FairQueue,
    room: TxRoom,
    staged: Vec<TxFrame>,
    pool: Pool,
    /// By which it is shared.
    policy: Option<Arc<Policy>>,
    /// What comes is left where it is.
    is_deaf: bool,
}

impl Egress {
    /// A port with this uplink, or without one, for so many VFs.
    pub(super) fn new(uplink: Option<Box<dyn Uplink>>, vfs: usize, pool: &Pool) -> Egress {
        let Some(mut uplink) = uplink else {
            return Egress::Unplugged;
        };
        // On the virtual clock a transmitter is never filled ahead, and VFs alternate frame by frame.
        // Nothing has been sent that could be lost.
        let ahead = uplink.tx_room(Nanos(0), pool, &mut |_, _| {}).wire_bytes > 1;
        Egress::Port(Box::new(Port {
            uplink,
            netem: None,
            ingress: None,
            impaired: Counters::default(),
            place: Place::default(),
            slack: Nanos(0),
            queue: FairQueue::new(vfs + 1, if ahead { QUANTUM } else { 0 }),
            room: TxRoom::default(),
            staged: Vec::with_capacity(BURST),
            pool: pool.clone(),
            policy: None,
            is_deaf: false,
        }))
    }

    /// Has VFs share the port as this policy wants it: each has what is guaranteed to it and an equal part of the rest.
    pub(super) fn adopt(&mut self, policy: &Arc<Policy>) {
        if let Egress::Port(port) = self
            && port
                .policy
                .as_ref()
                .is_none_or(|last| !last.has_same_vfs(policy))
        {
            port.policy = Some(Arc::clone(policy));
            port.impair(policy.netem());
            let rate = port.uplink.link().rate_bps();
            port.queue.set_guarantees(guarantees(policy, rate));
        }
    }

    /// Whether flows have different parts of the port here.
    pub(super) fn is_weighted(&self) -> bool {
        matches!(self, Egress::Port(port) if port.queue.is_weighted())
    }

    /// Where impairments of the port have their random numbers from, and how far ahead of now its transmitter may be filled.
    pub(super) fn set_place(&mut self, place: Place, slack: Nanos) {
        if let Egress::Port(port) = self {
            (port.place, port.slack) = (place, slack);
            // Nothing has passed yet.
            port.unimpair();
            port.ingress = None;
            if let Some(policy) = port.policy.clone() {
                port.impair(policy.netem());
            }
        }
    }

    /// What the port counts, if it is here.
    pub(super) fn statistics(&self) -> Option<UplinkStatistics> {
        match self {
            Egress::Port(port) => {
                let link = port.netem.as_ref().map(|netem| netem.link());
                let mut statistics = UplinkStatistics::of(&*port.uplink, link);
                statistics.others.extend(port.impaired.statistics());
                Some(statistics)
            }
            Egress::Unplugged | Egress::Remote(_) => None,
        }
    }

    /// Begins a round at `now`.
    pub(super) fn begin_round(&mut self, now: Nanos, nic: &mut Nic, rx: &Receivers) {
        if let Egress::Port(port) = self {
            let Port {
                uplink,
                netem,
                room,
                pool,
                ..
            } = &mut **port;
            with_captures(&mut **uplink, nic, rx, |uplink, lost| {
                *room = match netem {
                    None => uplink.tx_room(now, pool, lost),
                    Some(netem) => netem.tx_room(uplink, now, pool, lost),
                };
            });
            if port.netem.as_ref().is_some_and(|netem| netem.is_over()) {
                port.unimpair();
            }
        }
    }

    /// Whether a frame of so many byte times of this flow, none of which waits, may be sent: the uplink takes it, and no
    /// flow that waits comes first.
    #[inline]
    pub(super) fn may_send(&self, flow: usize, wire_bytes: u64) -> bool {
        match self {
            Egress::Port(port) => port.room.any() && port.queue.may_send(flow, wire_bytes),
            Egress::Remote(queue) => queue.can_send(VfIndex::from(flow)),
            Egress::Unplugged => true,
        }
    }

    /// Whether the frame of this flow that waits may be sent.
    pub(super) fn may_go(&self, flow: usize) -> bool {
        match self {
            Egress::Port(port) => port.room.any() && port.queue.next() == Some(flow),
            Egress::Remote(queue) => queue.can_send(VfIndex::from(flow)),
            Egress::Unplugged => true,
        }
    }

    /// The flow has a frame that has to wait.
    pub(super) fn wait(&mut self, flow: usize) {
        if let Egress::Port(port) = self {
            port.queue.wait(flow);
        }
    }

    /// The flow has no frame that waits.
    pub(super) fn leave(&mut self, flow: usize) {
        if let Egress::Port(port) = self {
            port.queue.leave(flow);
        }
    }

    /// The flow that is to be served next of those that wait, if the uplink takes anything; its visit begins.
    pub(super) fn visit_next(&mut self) -> Option<usize> {
        let Egress::Port(port) = self else {
            return None;
        };
        let flow = port.queue.next().filter(|_| port.room.any())?;
        port.queue.visit(flow);
        Some(flow)
    }

    /// Whether any flow waits for the port here.
    pub(super) fn is_anyone_waiting(&self) -> bool {
        matches!(self, Egress::Port(port) if port.queue.is_anyone_waiting())
    }

    /// Sends a frame, at the latest at the end of the round. The port fills a short one up, as IEEE 802.3 wants it, but for one that
    /// is to be cut, of which all that is behind the headers is taken for TCP's.
    #[inline(always)]
    pub(super) fn send(
        &mut self,
        now: Nanos,
        nic: &mut Nic,
        rx: &mut Receivers,
        flow: usize,
        frame: ForPort,
        on_wire: OnWire,
    ) {
        match self {
            Egress::Port(port) => {
                if port.netem.is_some() || port.uplink.cuts() {
                    rx.effort += on_wire.segments.saturating_sub(EFFORTLESS);
                }
                let ForPort { mut frame, .. } = frame;
                if frame.len() < MIN_FRAME && frame.offload.gso().is_none() {
                    frame.data.resize(MIN_FRAME as usize, 0);
                }
                port.queue.charge(flow, on_wire.bytes);
                port.room.take(on_wire.bytes);
                port.staged.push(TxFrame { frame, on_wire });
                if port.staged.len() >= BURST {
                    port.flush(now, nic, rx);
                }
            }
            Egress::Remote(queue) => {
                if let Err(ForPort { frame, undecided }) = queue.send(VfIndex::from(flow), frame) {
                    if undecided {
                        nic.count_wire_tx(frame.head(), frame.len());
                    }
                    capture(nic.policy(), rx, &frame, Some(DropReason::WireQueueFull));
                    nic.count_wire_drop(DropReason::WireQueueFull);
                }
            }
            // Frames that would leave are dropped where that is found out.
            Egress::Unplugged => {}
        }
    }

    /// Hands over what has been sent, and tells who has to be told.
    pub(super) fn flush(&mut self, now: Nanos, nic: &mut Nic, rx: &Receivers) {
        match self {
            Egress::Port(port) => port.flush(now, nic, rx),
            Egress::Remote(queue) => queue.tell(),
            Egress::Unplugged => {}
        }
    }

    /// Adds what has arrived.
    pub(super) fn receive(&mut self, now: Nanos, limit: usize, arrivals: &mut Arrivals) {
        if let Egress::Port(port) = self {
            if !port.is_deaf {
                port.uplink.rx_burst(now, limit, &port.pool, arrivals);
            }
            if let Some(ingress) = &mut port.ingress {
                pass(ingress, now, limit, &port.pool, arrivals);
                if ingress.is_over() {
                    port.ingress = None;
                }
            }
        }
    }

    /// Leaves what comes from outside the process where another one finds it, or takes it again.
    pub(super) fn set_deaf(&mut self, now: Nanos, deaf: bool) {
        if let Egress::Port(port) = self {
            let uplink = &port.uplink;
            let can_wait = uplink.descriptor().is_some() || uplink.position(now).is_some();
            port.is_deaf = deaf && can_wait;
        }
    }

    /// What another process needs to go on with what is plugged in, if that is known.
    pub(super) fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Egress::Port(port) => port.uplink.descriptor(),
            Egress::Unplugged | Egress::Remote(_) => None,
        }
    }

    /// How far what is plugged in has come with what it plays, if it does.
    pub(super) fn position(&self, now: Nanos) -> Option<Position> {
        match self {
            Egress::Port(port) => port.uplink.position(now),
            Egress::Unplugged | Egress::Remote(_) => None,
        }
    }

    /// When the uplink has something to do, if that is known.
    pub(super) fn next(&mut self) -> Option<Nanos> {
        match self {
            Egress::Port(port) => {
                let uplink = &mut *port.uplink;
                let waits = port.queue.is_anyone_waiting();
                // What comes when nobody takes it is not to be waited for.
                let work = (!port.is_deaf).then(|| uplink.next()).flatten();
                let (held, room) = match &mut port.netem {
                    None => (None, waits.then(|| uplink.tx_room_at())),
                    Some(netem) => (netem.next(uplink), waits.then(|| netem.tx_room_at(uplink))),
                };
                let room = room.flatten();
                let rest = uplink.is_sending().then_some(Nanos(0));
                let come = port
                    .ingress
                    .as_ref()
                    .and_then(|ingress| match ingress.first() {
                        Some(_) => Some(Nanos(0)), // there was no room for it in the last round
                        None => ingress.next(),
                    });
                work.into_iter()
                    .chain(held)
                    .chain(room)
                    .chain(rest)
                    .chain(come)
                    .min()
            }
            Egress::Remote(queue) => {
                queue.tell(); // the port's worker has rung because there is room, or something else happens
                None
            }
            Egress::Unplugged => None,
        }
    }

    /// The plane's thread has slept.
    pub(super) fn slept(&mut self) {
        if let Egress::Port(port) = self {
            port.uplink.slept();
            if let Some(netem) = &mut port.netem {
                netem.slept();
            }
        }
    }

    /// Lets `registry` wake its poller when something arrives from outside the process.
    pub(super) fn register(&self, registry: &mio::Registry) {
        if let Egress::Port(port) = self {
            port.uplink.register(registry);
        }
    }
}

/// Shows a frame that leaves on the wire, or was to, to those who capture that.
pub(super) fn capture(
    policy: &Arc<Policy>,
    rx: &Receivers,
    frame: &FrameBuf,
    drop: Option<DropReason>,
) {
    rx.captures.see(policy, &rx.pool, &at_wire(frame, drop));
}

/// The same as a frame at a port.
pub(super) fn at_wire(frame: &FrameBuf, drop: Option<DropReason>) -> Passing<'_> {
    Passing {
        port: watch::Port::Wire,
        direction: watch::Direction::Tx,
        queue: None,
        frame: FrameSource::Private(frame),
        edit: TagEdit::Keep,
        verdict: None,
        drop,
    }
}

/// Has something done with the uplink, which shows what it sends to those who capture that, if anybody does, and with what is to be told of frames that go nowhere.
#[inline]
fn with_captures(
    uplink: &mut dyn Uplink,
    nic: &mut Nic,
    rx: &Receivers,
    does: impl FnOnce(&mut dyn Uplink, &mut Lost<'_>),
) {
    let is_shown = AtomicBool::new(false);
    if !rx.captures.wants(watch::Port::Wire) {
        return does(uplink, &mut |reason, frame| {
            lose(nic, rx, reason, frame, &is_shown);
        });
    }
    let policy = &Arc::clone(nic.policy());
    let mut captured = Captured {
        uplink,
        policy,
        captures: &rx.captures,
        is_shown: &is_shown,
    };
    does(&mut captured, &mut |reason, frame| {
        lose(nic, rx, reason, frame, &is_shown);
    });
}

/// What is guaranteed to each VF and to the PF, and the rate of which that is, in kb/s; `None` if nothing is guaranteed to any. A VF has
/// its own whichever path it takes; the PF, which has none, is for stations that are no VFs.
fn guarantees(policy: &Policy, rate_bps: u64) -> Option<(Vec<u64>, u64)> {
    let vfs = (0..policy.vf_count()).map(VfIndex::from);
    let guarantee = |vf| policy.vf(vf).min_tx_rate.map_or(0, |min| min.bps() / 1000);
    let guarantees: Vec<u64> = vfs.map(guarantee).chain([0]).collect();
    let any = guarantees.iter().any(|guarantee| *guarantee > 0);
    any.then_some((guarantees, rate_bps / 1000))
}

/// Impairs what has come by now, and gives what is due of it, so many frames at most.
fn pass(
    ingress: &mut NetemQueue<()>,
    now: Nanos,
    limit: usize,
    pool: &Pool,
    arrivals: &mut Arrivals,
) {
    let Arrivals {
        frames,
        since,
        dropped,
    } = arrivals;
    // Netem counts from when the frames arrived. `since` is empty then: what netem gives out comes when it is due, and is not late.
    let start = since.take().unwrap_or(now);
    let mut lose = |why, frame| dropped.push((why, frame));
    for frame in frames.drain(..) {
        ingress.put_any(start, frame, (), |_| (), pool, &mut lose);
    }
    ingress.look(now);
    while frames.len() < limit
        && let Some((frame, ())) = ingress.pop()
    {
        frames.push(frame);
    }
}

/// A frame that was to go out on the wire goes nowhere. Those who capture all that leaves may have been shown it.
#[cold]
fn lose(
    nic: &mut Nic,
    rx: &Receivers,
    reason: DropReason,
    frame: &FrameBuf,
    is_shown: &AtomicBool,
) {
    let passing = at_wire(frame, Some(reason));
    match is_shown.load(Ordering::Relaxed) {
        true => rx.captures.see_drop(nic.policy(), &rx.pool, &passing),
        false => rx.captures.see(nic.policy(), &rx.pool, &passing),
    }
    nic.count_wire_drop(reason);
}

impl Port {
    #[inline]
    fn flush(&mut self, now: Nanos, nic: &mut Nic, rx: &Receivers) {
        if !self.staged.is_empty() {
            let Port {
                uplink,
                netem,
                staged,
                pool,
                ..
            } = self;
            with_captures(&mut **uplink, nic, rx, |uplink, lost| match netem {
                None => uplink.tx_burst(now, staged, pool, lost),
                Some(netem) => netem.tx_burst(uplink, now, staged, pool, lost),
            });
        }
    }

    /// Impairs what passes as it is said from now on. What is held back is not lost.
    fn impair(&mut self, said: &Impairments) {
        match (&mut self.netem, &said.egress) {
            (None, None) => {}
            (Some(netem), spec) => netem.change(spec.as_ref()),
            (none, Some(spec)) => {
                let (spec, counters) = (Arc::clone(spec), self.impaired.clone());
                let uplink = &mut *self.uplink;
                let netem = Netem::new(uplink, spec, self.place, self.slack, counters);
                *none = Some(Box::new(netem));
            }
        }
        let place = Place {
            port: self.place.port + 1,
            ..self.place
        };
        let come = &mut self.ingress;
        NetemQueue::adapt(come, said.ingress.as_ref(), place, &self.impaired);
    }

    /// What is sent is impaired no longer, and nothing is held back.
    fn unimpair(&mut self) {
        if let Some(mut netem) = self.netem.take() {
            netem.leave(&mut *self.uplink);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vf_model::{Command, MacAddr, NicConfig, Profile};

    #[test]
    fn what_is_guaranteed_to_a_vf_is_so_on_whichever_path() {
        let policy = Policy::new(NicConfig {
            vfs: 3,
            mac_base: MacAddr([2, 0, 0, 0, 0, 0]),
            profile: Profile::Generic,
        });
        let with = |policy: &Policy, words: &str| {
            let words: Vec<_> = words.split(' ').collect();
            policy.with(&Command::parse(&words).unwrap()).unwrap()
        };
        assert_eq!(guarantees(&policy, 10_000_000_000), None);
        let policy = with(&policy, "vf 1 set min_tx_rate 4000");
        let policy = with(&policy, "vf 2 set min_tx_rate 2000 path mediated");
        assert_eq!(
            guarantees(&policy, 10_000_000_000),
            Some((vec![0, 4_000_000, 2_000_000, 0], 10_000_000))
        );
    }
}
