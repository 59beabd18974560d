//! The account of one run: what was sent, came, came late or twice, and where the time went.
//!
//! Pure but for the clock it is given. Frames are told apart by their tags. Moves no frame,
//! and never says who held the rate down: that is `record`'s.

use hdrhistogram::Histogram;

use super::plan::{LoadPlan, Mode, Touch};
use super::port::Arrival;
use super::sequence::Sequences;

/// Longest latency that is told from longer ones, in nanoseconds.
const LONGEST: u64 = 4_000_000_000;

/// A clock in nanoseconds.
pub(crate) type Clock<'a> = &'a dyn Fn() -> u64;

#[derive(Debug, Default, Clone, Copy)]
struct Count {
    sent: u64,
    received: u64,
    bytes: u64,
    bursts: u64,
    short: u64,
    busy: u64,
    idle: u64,
}

/// What one run found.
#[derive(Debug, Clone)]
pub(crate) struct Measured {
    /// Seconds that were measured.
    pub(crate) seconds: f64,
    /// Frames sent in that time.
    pub(crate) sent: u64,
    /// Frames received in that time.
    pub(crate) received: u64,
    /// Bytes received in that time.
    pub(crate) bytes: u64,
    /// Frames sent in all.
    pub(crate) all_sent: u64,
    /// Of those, frames that never came.
    pub(crate) lost: u64,
    /// Frames that came after one with a higher number.
    pub(crate) reordered: u64,
    /// Frames that came again.
    pub(crate) duplicates: u64,
    /// Frames that are none of this run, or came where they should not.
    pub(crate) foreign: u64,
    /// Frames with another length or content than they were sent with.
    pub(crate) bad: u64,
    /// Share of the bursts that did not fit into the send ring.
    pub(crate) ring_full: f64,
    /// Share of the time in which nothing could be sent or received.
    pub(crate) idle: f64,
    /// Frames received on the port that got fewest, as a share of those on the port that got most,
    /// of the ports that frames were sent to.
    pub(crate) fairness: f64,
    /// Frames that went the way between even and odd ports that fewer went, as a share of all: 1 when all go one way.
    pub(crate) weaker_way: f64,
    /// Generator's busy time a frame sent or received, in nanoseconds.
    pub(crate) busy_ns: f64,
    /// Latencies or round trips in nanoseconds.
    pub(crate) latency: Histogram<u64>,
}

/// The account while the run lasts.
pub(crate) struct Account<'a> {
    clock: Clock<'a>,
    /// Where the frames of each port go.
    to: Vec<Option<usize>>,
    size: u32,
    flows: usize,
    /// Whether frames are told apart by their tags.
    tagged: bool,
    /// Whether the time each frame took is wanted.
    timed: bool,
    /// When measuring begins, after the warm-up, and how long it goes on.
    begin_at: u64,
    length: u64,
    /// When the burst that is being received was looked at: the clock is read once a burst.
    burst_at: Option<u64>,
    sequences: Sequences,
    latency: Histogram<u64>,
    count: Count,
    /// Frames received on each port while it is measured.
    by_port: Vec<u64>,
    foreign: u64,
    bad: u64,
    begun: Option<(u64, Count)>,
    ended: (u64, Count),
}

impl<'a> Account<'a> {
    /// The account of a run that begins now.
    pub(crate) fn new(plan: &LoadPlan, clock: Clock<'a>) -> Account<'a> {
        let latency = Histogram::new_with_bounds(1, LONGEST, 3);
        Account {
            clock,
            to: (0..plan.ports)
                .map(|port| plan.mode.destination(port, plan.ports))
                .collect(),
            size: plan.size as u32,
            flows: plan.flows as usize,
            tagged: plan.touch != Touch::None && plan.mode != Mode::Sink,
            timed: plan.rate.is_some() && plan.mode != Mode::Pingpong,
            begin_at: clock() + plan.warm_up.as_nanos() as u64,
            length: plan.seconds.as_nanos() as u64,
            burst_at: None,
            sequences: Sequences::new(plan.ports * plan.flows as usize),
            latency: latency.expect("the bounds are valid"),
            count: Count::default(),
            by_port: vec![0; plan.ports],
            foreign: 0,
            bad: 0,
            begun: None,
            ended: (0, Count::default()),
        }
    }

    /// A burst of `want` frames was offered and `n` had room.
    #[inline]
    pub(crate) fn sent(&mut self, want: u16, n: u16) {
        self.count.bursts += 1;
        self.count.short += u64::from(n < want);
        self.count.sent += u64::from(n);
    }

    /// What follows was received later than what was before.
    #[inline]
    pub(crate) fn next_burst(&mut self) {
        self.burst_at = None;
    }

    /// A frame has come to port `port`.
    #[inline]
    pub(crate) fn see(&mut self, port: usize, arrival: Arrival) {
        if self.tagged {
            let Some(tag) = arrival.tag else {
                self.foreign += 1;
                return;
            };
            let from = usize::from(tag.port);
            if self.to.get(from) != Some(&Some(port)) || tag.flow as usize >= self.flows {
                self.foreign += 1;
                return;
            }
            self.sequences
                .see(from * self.flows + tag.flow as usize, tag.seq);
            if self.timed && self.begun.is_some() {
                let at = *self.burst_at.get_or_insert_with(|| (self.clock)());
                let took = (at as u32).wrapping_sub(tag.sent);
                self.latency.saturating_record(took.into());
            }
            self.bad += u64::from(arrival.len != self.size || !arrival.intact);
        }
        self.by_port[port] += u64::from(self.begun.is_some());
        self.count.received += 1;
        self.count.bytes += u64::from(arrival.len);
    }

    /// Frames received so far.
    #[inline]
    pub(crate) fn received(&self) -> u64 {
        self.count.received
    }

    /// A frame sent at `begin` was back at `end`.
    pub(crate) fn round_trip(&mut self, begin: u64, end: u64) {
        if self.begun.is_some() {
            self.latency.saturating_record(end - begin);
        }
    }

    /// Time has passed, in which something was done or not; false when it is over.
    #[inline]
    pub(crate) fn passed(&mut self, from: u64, to: u64, worked: bool) -> bool {
        if worked {
            self.count.busy += to - from;
        } else {
            self.count.idle += to - from;
        }
        match self.begun {
            None if to >= self.begin_at => self.begun = Some((to, self.count)),
            Some((begun, _)) if to - begun >= self.length => {
                self.ended = (to, self.count);
                return false;
            }
            _ => {}
        }
        true
    }

    fn weaker_way(&self) -> f64 {
        let way = |parity: usize| {
            let ports = (parity..self.to.len()).step_by(2);
            let mut addressed = ports
                .filter(|port| self.to.contains(&Some(*port)))
                .peekable();
            addressed
                .peek()
                .is_some()
                .then(|| addressed.map(|port| self.by_port[port]).sum::<u64>())
        };
        match (way(0), way(1)) {
            (Some(a), Some(b)) => a.min(b) as f64 / (a + b).max(1) as f64,
            _ => 1.0,
        }
    }

    /// What was found.
    pub(crate) fn measured(self) -> Measured {
        let (begun, from) = self.begun.unwrap_or_default();
        let (ended, to) = self.ended;
        let share = |part: u64, all: u64| part as f64 / all.max(1) as f64;
        let (sent, received) = (to.sent - from.sent, to.received - from.received);
        let (busy, idle) = (to.busy - from.busy, to.idle - from.idle);
        let duplicates = self.sequences.duplicates();
        let came = self.count.received - duplicates;
        let addressed = |port: &usize| self.to.contains(&Some(*port));
        let got = || {
            (0..self.to.len())
                .filter(addressed)
                .map(|port| self.by_port[port])
        };
        Measured {
            seconds: (ended - begun) as f64 / 1e9,
            sent,
            received,
            bytes: to.bytes - from.bytes,
            all_sent: self.count.sent,
            lost: self.count.sent.saturating_sub(came),
            reordered: self.sequences.reordered(),
            duplicates,
            foreign: self.foreign,
            bad: self.bad,
            ring_full: share(to.short - from.short, to.bursts - from.bursts),
            idle: share(idle, busy + idle),
            fairness: match got().max() {
                Some(most) if most > 0 => share(got().min().unwrap_or(0), most),
                _ => 1.0, // nobody got more than another
            },
            weaker_way: self.weaker_way(),
            busy_ns: share(busy, sent + received),
            latency: self.latency,
        }
    }
}
