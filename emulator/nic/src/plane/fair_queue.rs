//! Start-time fair queueing of the wire (Goyal, Vin, Cheng, SIGCOMM 1996): each flow, a VF or the PF, gets the same share of
//! the wire's time whatever the length of its frames, and a flow that has had less than its share lately goes first. Finding
//! the next flow takes O(log flows). Flows may have guarantees: then each gets what is guaranteed to it of the wire's rate, and what is
//! guaranteed to none of those that have frames is shared equally among them. Never touches a frame.

use crate::tournament::Tournament;

/// Virtual time that a byte takes, so that the tags of flows with much weight are exact enough.
const BYTE: u64 = 16;
/// Virtual time begins anew when it is this late: a flow of little weight takes much of it, and 64 bits are minutes then.
const LATE: u64 = 1 << 62;

/// Where all of the rate is guaranteed, the others still share a part in so many of it. With much less a single frame of theirs would take
/// seconds of virtual time, and they would be held back for long after the guarantees are used no more.
const LEAST: u64 = 1000;

/// Start tag and flow of one that waits; the lesser goes first.
type Tag = (u64, usize);

/// See the module.
pub(super) struct FairQueue {
    /// By flow: its finish tag, the byte times that it has sent on the common scale of virtual time.
    finish: Vec<u64>,
    /// If there are any.
    guarantees: Option<Guarantees>,
    /// Virtual time: the start tag of the frame that was sent last.
    now: u64,
    waiting: Tournament<Tag>,
    /// Byte times that a flow may send in one visit before the next flow is looked at.
    quantum: u64,
    /// The flow that is visited and what is left of its quantum.
    visit: (usize, u64),
}

/// What is guaranteed to flows, and which of that is asked for now.
struct Guarantees {
    /// By flow, in a unit of the rate.
    of: Vec<u64>,
    /// What the wire has to give.
    rate: u64,
    /// How many flows wait, and what is guaranteed to all of these together.
    waiting: u64,
    of_waiting: u64,
}

impl Guarantees {
    /// What a flow gets of the rate beside those that wait, of which it is one or not.
    fn part(&self, flow: usize, waits: bool) -> u64 {
        let own = self.of.get(flow).copied().unwrap_or(0);
        let (senders, promised) = match waits {
            true => (self.waiting, self.of_waiting),
            false => (self.waiting + 1, self.of_waiting + own),
        };
        let spare = self.rate.saturating_sub(promised).max(self.rate / LEAST);
        (own + spare / senders).max(1)
    }
}

impl FairQueue {
    /// A queue of so many flows. With a quantum a flow that is visited sends several short frames in a row, so that a visit
    /// is worth its cost; without, flows alternate frame by frame.
    pub(super) fn new(flows: usize, quantum: u64) -> FairQueue {
        FairQueue {
            finish: vec![0; flows],
            guarantees: None,
            now: 0,
            waiting: Tournament::new((u64::MAX, usize::MAX), flows),
            quantum,
            visit: (0, 0),
        }
    }

    /// Keeps a guarantee for each flow of the wire's rate, in the same unit; without, all have the same.
    pub(super) fn set_guarantees(&mut self, guarantees: Option<(Vec<u64>, u64)>) {
        self.guarantees = guarantees.map(|(of, rate)| Guarantees {
            of,
            rate,
            waiting: 0,
            of_waiting: 0,
        });
        for flow in 0..self.finish.len() {
            if self.waits(flow) {
                self.count(flow, true);
            }
        }
    }

    /// Whether anything is guaranteed to flows.
    pub(super) fn is_weighted(&self) -> bool {
        self.guarantees.is_some()
    }

    #[inline]
    fn waits(&self, flow: usize) -> bool {
        self.waiting.get(flow).1 == flow
    }

    /// Counts a flow among those that wait, or no longer.
    #[inline]
    fn count(&mut self, flow: usize, waits: bool) {
        if let Some(guarantees) = &mut self.guarantees {
            let own = guarantees.of.get(flow).copied().unwrap_or(0);
            let Guarantees {
                waiting,
                of_waiting,
                ..
            } = guarantees;
            (*waiting, *of_waiting) = match waits {
                true => (*waiting + 1, *of_waiting + own),
                false => (*waiting - 1, *of_waiting - own),
            };
        }
    }

    /// Virtual time that the flow's frame takes: the less, the more it gets of the rate.
    #[inline]
    fn cost(&self, flow: usize, wire_bytes: u64) -> u64 {
        let bytes = wire_bytes * BYTE;
        match &self.guarantees {
            None => bytes,
            Some(guarantees) => {
                let part = guarantees.part(flow, self.waits(flow));
                bytes.saturating_mul(guarantees.rate) / part
            }
        }
    }

    /// The flow has a frame that the wire does not take now.
    pub(super) fn wait(&mut self, flow: usize) {
        // A share that was not used is lost.
        self.finish[flow] = self.finish[flow].max(self.now);
        if self.guarantees.is_some() && !self.waits(flow) {
            self.count(flow, true);
        }
        self.waiting.set(flow, (self.finish[flow], flow));
        self.end_visit(flow);
    }

    /// The flow has no frame that waits any more.
    pub(super) fn leave(&mut self, flow: usize) {
        if self.guarantees.is_some() && self.waits(flow) {
            self.count(flow, false);
        }
        self.waiting.remove(flow);
    }

    /// Whether any flow waits.
    pub(super) fn is_anyone_waiting(&self) -> bool {
        self.waiting.least().is_some()
    }

    /// The flow that is next of those that wait.
    pub(super) fn next(&self) -> Option<usize> {
        self.waiting.least().map(|(_, flow)| flow)
    }

    /// Begins a visit of a flow: it may send a quantum.
    pub(super) fn visit(&mut self, flow: usize) {
        self.visit = (flow, self.quantum);
    }

    fn end_visit(&mut self, flow: usize) {
        if self.visit.0 == flow {
            self.visit.1 = 0;
        }
    }

    /// Whether a flow that does not wait may send a frame of so many byte times now: no flow that waits comes before it, or the
    /// frame belongs to its visit.
    #[inline]
    pub(super) fn may_send(&self, flow: usize, wire_bytes: u64) -> bool {
        let Some(first) = self.waiting.least() else {
            return true;
        };
        (self.finish[flow].max(self.now), flow) < first
            || self.visit.0 == flow && wire_bytes <= self.visit.1
    }

    /// A frame of the flow that occupies the wire for so many byte times is sent.
    #[inline]
    pub(super) fn charge(&mut self, flow: usize, wire_bytes: u64) {
        let start = self.finish[flow].max(self.now);
        // A visit may take a flow ahead of those that wait; time does not follow it there, or they would lose their share.
        let least = self
            .waiting
            .least()
            .map_or(start, |(tag, _)| tag.min(start));
        self.now = self.now.max(least);
        if self.now > LATE {
            self.begin_anew();
        }
        let start = self.finish[flow].max(self.now);
        self.finish[flow] = start + self.cost(flow, wire_bytes);
        if self.visit.0 == flow {
            self.visit.1 = self.visit.1.saturating_sub(wire_bytes);
        }
    }

    /// Calls this moment of virtual time 0. A flow that has finished before has as much as one that finishes now.
    #[cold]
    fn begin_anew(&mut self) {
        let now = std::mem::take(&mut self.now);
        for (flow, finish) in self.finish.iter_mut().enumerate() {
            *finish = finish.saturating_sub(now);
            let (tag, of) = self.waiting.get(flow);
            if of == flow {
                self.waiting.set(flow, (tag.saturating_sub(now), flow));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What each flow has sent after so many visits, if all have frames of these lengths all the time.
    fn shares(lengths: &[u64], quantum: u64, visits: usize) -> Vec<u64> {
        let mut queue = FairQueue::new(lengths.len(), quantum);
        let lengths: Vec<_> = lengths.iter().copied().enumerate().collect();
        send(&mut queue, &lengths, visits)
    }

    /// The same of these flows, each with its length, and no others.
    fn send(queue: &mut FairQueue, flows: &[(usize, u64)], visits: usize) -> Vec<u64> {
        let mut sent = vec![0; queue.finish.len()];
        let mut lengths = sent.clone();
        for (flow, length) in flows {
            lengths[*flow] = *length;
            queue.wait(*flow);
        }
        for _ in 0..visits {
            let flow = queue.next().unwrap();
            queue.visit(flow);
            queue.leave(flow);
            loop {
                queue.charge(flow, lengths[flow]);
                sent[flow] += lengths[flow];
                if !queue.is_anyone_waiting() || !queue.may_send(flow, lengths[flow]) {
                    break;
                }
            }
            queue.wait(flow);
        }
        flows.iter().for_each(|(flow, _)| queue.leave(*flow));
        sent
    }

    proptest! {
        /// No two flows that always wait are ever further apart than a frame of each, or a quantum.
        #[test]
        fn flows_that_wait_get_the_same_share(
            lengths in prop::collection::vec(84u64..70_000, 2..20),
            quantum in prop_oneof![Just(0), 0u64..4000],
            visits in 0usize..500,
        ) {
            let sent = shares(&lengths, quantum, visits);
            for (a, len_a) in sent.iter().zip(&lengths) {
                for (b, len_b) in sent.iter().zip(&lengths) {
                    let bound = len_a.max(&quantum) + len_b.max(&quantum);
                    prop_assert!(a.abs_diff(*b) <= bound, "{sent:?}");
                }
            }
        }

        /// Each sender without a guarantee gets an equal part of what is guaranteed to no sender, each with one gets it and that part on
        /// top, within 5 %, whatever the length of anybody's frames, and whoever has sent before.
        #[test]
        fn guarantees_are_kept_and_the_rest_is_shared_by_those_that_send(
            flows in prop::collection::vec((84u64..1539, prop_oneof![Just(0), 300u64..3000], any::<bool>(), any::<bool>()), 2..20),
            idle in 0usize..100,
            quantum in prop_oneof![Just(0), Just(1538u64)],
        ) {
            let rate = 10_000.max(flows.iter().map(|flow| flow.1).sum());
            let idle = std::iter::repeat_n(0, idle);
            let of: Vec<u64> = flows.iter().map(|flow| flow.1).chain(idle).collect();
            let mut queue = FairQueue::new(of.len(), quantum);
            queue.set_guarantees(Some((of.clone(), rate)));
            let flows = flows.iter().enumerate();
            let before = flows.clone().filter(|(_, flow)| flow.3).map(|(n, flow)| (n, flow.0));
            let before: Vec<_> = before.collect();
            let now = flows.filter(|(_, flow)| flow.2).map(|(n, flow)| (n, flow.0));
            let now: Vec<_> = now.collect();
            if !before.is_empty() {
                let _ = send(&mut queue, &before, 1000);
            }
            prop_assume!(!now.is_empty());
            // What is left of before.
            let _ = send(&mut queue, &now, 20_000);
            let sent = send(&mut queue, &now, 20_000);
            let all: u64 = sent.iter().sum();
            let promised: u64 = now.iter().map(|(flow, _)| of[*flow]).sum();
            let spare = (rate - promised) / now.len() as u64;
            for (flow, _) in &now {
                let due = (of[*flow] + spare) * all / rate;
                let least = (due * 95 / 100).saturating_sub(2 * 1538);
                prop_assert!(sent[*flow] >= least, "flow {flow}: {} of {due}", sent[*flow]);
            }
        }
    }

    #[test]
    fn what_idle_flows_do_not_use_is_shared_equally() {
        for vfs in [2, 8, 128] {
            let mut of = vec![0; vfs + 1];
            of[0] = 4000;
            let mut queue = FairQueue::new(vfs + 1, 1538);
            queue.set_guarantees(Some((of, 10_000)));
            let sent = send(&mut queue, &[(0, 1538), (1, 1538)], 10_000);
            let part = 10_000 * sent[1] / (sent[0] + sent[1]);
            assert!((2950..3050).contains(&part), "{vfs} VFs: {part}");
        }
    }

    #[test]
    fn a_guarantee_that_is_used_no_more_holds_nobody_back() {
        let mut queue = FairQueue::new(4, 0);
        queue.set_guarantees(Some((vec![10_000_000, 0, 0, 0], 10_000_000)));
        send(&mut queue, &[(0, 1538), (1, 1538), (2, 1538)], 10_000);
        // Some milliseconds of a 10G wire later.
        let sent = send(&mut queue, &[(1, 1538), (2, 1538), (3, 1538)], 10_000);
        assert!(
            sent.iter().skip(1).all(|sent| *sent > 2000 * 1538),
            "{sent:?}"
        );
    }

    #[test]
    fn a_guarantee_holds_however_long_another_flow_had_the_wire() {
        let mut queue = FairQueue::new(2, 0);
        queue.set_guarantees(Some((vec![0, 10_000_000], 10_000_000)));
        // To the end of 64 bits of virtual time, and frames beyond that.
        (queue.finish[0], queue.now) = (LATE - (1 << 34), LATE - (1 << 34));
        (0..1_000_000).for_each(|_| queue.charge(0, 1538));
        assert!(queue.now < 1 << 40, "it has begun anew");
        (0..2).for_each(|flow| queue.wait(flow));
        let mut sent = [0; 2];
        for _ in 0..1000 {
            let flow = queue.next().unwrap();
            queue.leave(flow);
            queue.charge(flow, 1538);
            sent[flow] += 1;
            queue.wait(flow);
        }
        assert!(sent[1] >= 999, "{sent:?}");
    }

    #[test]
    fn an_idle_flow_saves_nothing_up_and_is_served_at_once() {
        let mut queue = FairQueue::new(3, 0);
        queue.wait(0);
        for _ in 0..1000 {
            queue.leave(0);
            queue.charge(0, 1538);
            queue.wait(0);
        }
        assert!(
            queue.may_send(1, 84) && queue.may_send(2, 84),
            "they have sent less"
        );
        queue.wait(1);
        assert_eq!(queue.next(), Some(1));
        queue.leave(1);
        queue.charge(1, 1538);
        queue.wait(1);
        assert_eq!(queue.next(), Some(0), "as if flow 1 had never been idle");
        assert!(!queue.may_send(1, 84) && queue.may_send(2, 84));
    }

    #[test]
    fn a_visit_is_worth_a_quantum_and_ends_when_the_flow_waits() {
        let mut queue = FairQueue::new(2, 1538);
        queue.wait(0);
        queue.wait(1);
        queue.visit(0);
        queue.leave(0);
        let mut sent = 0;
        while queue.may_send(0, 84) {
            queue.charge(0, 84);
            sent += 1;
        }
        assert_eq!(sent, 18, "as many as are as long as one of 1538");
        queue.visit(0);
        queue.wait(0);
        queue.leave(0);
        assert!(!queue.may_send(0, 84));
    }
}
