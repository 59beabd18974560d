//! Start-time fair queueing of the wire (Goyal, Vin, Cheng, SIGCOMM 1996): each flow, a VF or the PF, gets the same share of
//! the wire's time whatever the length of its frames, and a flow that has had less than its share lately goes first. Finding
//! the next flow takes O(log flows). Flows may have weights: then each gets its part of the wire's time. Never touches a frame.

use crate::tournament::Tournament;

/// Virtual time that a byte takes, so that the tags of flows with much weight are exact enough.
const BYTE: u64 = 16;
/// Virtual time begins anew when it is this late: a flow of little weight takes much of it, and 64 bits are minutes then.
const LATE: u64 = 1 << 62;

/// Start tag and flow of one that waits; the lesser goes first.
type Tag = (u64, usize);

/// See the module.
pub(super) struct FairQueue {
    /// By flow: its finish tag, the byte times that it has sent on the common scale of virtual time.
    finish: Vec<u64>,
    /// By flow, if they are not all the same.
    weights: Option<Weights>,
    /// Virtual time: the start tag of the frame that was sent last.
    now: u64,
    waiting: Tournament<Tag>,
    /// Byte times that a flow may send in one visit before the next flow is looked at.
    quantum: u64,
    /// The flow that is visited and what is left of its quantum.
    visit: (usize, u64),
}

struct Weights {
    of: Vec<u64>,
    mean: u64,
}

impl FairQueue {
    /// A queue of so many flows. With a quantum a flow that is visited sends several short frames in a row, so that a visit
    /// is worth its cost; without, flows alternate frame by frame.
    pub(super) fn new(flows: usize, quantum: u64) -> FairQueue {
        FairQueue {
            finish: vec![0; flows],
            weights: None,
            now: 0,
            waiting: Tournament::new((u64::MAX, usize::MAX), flows),
            quantum,
            visit: (0, 0),
        }
    }

    /// Gives each flow a part of the wire's time in the ratio of these weights, none of which is 0; without, all the same.
    pub(super) fn set_weights(&mut self, weights: Option<Vec<u64>>) {
        self.weights = weights.map(|of| {
            let mean = of.iter().sum::<u64>() / of.len().max(1) as u64;
            Weights { of, mean }
        });
    }

    /// Whether flows have weights.
    pub(super) fn is_weighted(&self) -> bool {
        self.weights.is_some()
    }

    /// Virtual time that the flow's frame takes.
    #[inline]
    fn cost(&self, flow: usize, wire_bytes: u64) -> u64 {
        let bytes = wire_bytes * BYTE;
        match &self.weights {
            None => bytes,
            Some(Weights { of, mean }) => bytes * mean / of.get(flow).copied().unwrap_or(1).max(1),
        }
    }

    /// The flow has a frame that the wire does not take now.
    pub(super) fn wait(&mut self, flow: usize) {
        // A share that was not used is lost.
        self.finish[flow] = self.finish[flow].max(self.now);
        self.waiting.set(flow, (self.finish[flow], flow));
        self.end_visit(flow);
    }

    /// The flow has no frame that waits any more.
    pub(super) fn leave(&mut self, flow: usize) {
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
        weighted(lengths, None, quantum, visits)
    }

    fn weighted(
        lengths: &[u64],
        weights: Option<Vec<u64>>,
        quantum: u64,
        visits: usize,
    ) -> Vec<u64> {
        let mut queue = FairQueue::new(lengths.len(), quantum);
        queue.set_weights(weights);
        let mut sent = vec![0; lengths.len()];
        (0..lengths.len()).for_each(|flow| queue.wait(flow));
        for _ in 0..visits {
            let flow = queue.next().unwrap();
            queue.visit(flow);
            queue.leave(flow);
            loop {
                queue.charge(flow, lengths[flow]);
                sent[flow] += lengths[flow];
                if !queue.may_send(flow, lengths[flow]) {
                    break;
                }
            }
            queue.wait(flow);
        }
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
    }

    #[test]
    fn a_guarantee_holds_however_long_another_flow_had_the_wire() {
        let mut queue = FairQueue::new(2, 0);
        queue.set_weights(Some(vec![1, 10_000_000]));
        // What a 10G wire sends in some minutes, to the end of 64 bits of virtual time, and frames beyond that.
        (0..214).for_each(|_| queue.charge(0, 1 << 30));
        (0..1_000_000).for_each(|_| queue.charge(0, 1538));
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

    proptest! {
        /// Under overload each gets its part within 5 %, whatever the length of its frames and of everyone else's.
        #[test]
        fn weights_are_kept(
            flows in prop::collection::vec((84u64..1539, 500u64..5000), 2..20),
            quantum in prop_oneof![Just(0), Just(1538u64)],
        ) {
            let (lengths, weights): (Vec<_>, Vec<_>) = flows.into_iter().unzip();
            let sent = weighted(&lengths, Some(weights.clone()), quantum, 100_000);
            let [all, sum] = [&sent, &weights].map(|of| of.iter().sum::<u64>() as f64);
            for (sent, weight) in sent.iter().zip(&weights) {
                let got = *sent as f64 / all * sum / *weight as f64;
                prop_assert!((0.95..1.05).contains(&got), "{got}");
            }
        }
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
