//! Start-time fair queueing of the wire (Goyal, Vin, Cheng, SIGCOMM 1996): each flow, a VF or the PF, gets the same share of
//! the wire's time whatever the length of its frames, and a flow that has had less than its share lately goes first. Finding
//! the next flow takes O(log flows). Never touches a frame.

use crate::tournament::Tournament;

/// Start tag and flow of one that waits; the lesser goes first.
type Tag = (u64, usize);

/// See the module.
pub(super) struct FairQueue {
    /// By flow: its finish tag, the byte times that it has sent on the common scale of virtual time.
    finish: Vec<u64>,
    /// Virtual time: the start tag of the frame that was sent last.
    now: u64,
    waiting: Tournament<Tag>,
    /// Byte times that a flow may send in one visit before the next flow is looked at.
    quantum: u64,
    /// The flow that is visited and what is left of its quantum.
    visit: (usize, u64),
}

impl FairQueue {
    /// A queue of so many flows. With a quantum a flow that is visited sends several short frames in a row, so that a visit
    /// is worth its cost; without, flows alternate frame by frame.
    pub(super) fn new(flows: usize, quantum: u64) -> FairQueue {
        FairQueue {
            finish: vec![0; flows],
            now: 0,
            waiting: Tournament::new((u64::MAX, usize::MAX), flows),
            quantum,
            visit: (0, 0),
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
    pub(super) fn may_send(&self, flow: usize, wire_bytes: u64) -> bool {
        let Some(first) = self.waiting.least() else {
            return true;
        };
        (self.finish[flow].max(self.now), flow) < first
            || self.visit.0 == flow && wire_bytes <= self.visit.1
    }

    /// A frame of the flow that occupies the wire for so many byte times is sent.
    pub(super) fn charge(&mut self, flow: usize, wire_bytes: u64) {
        let start = self.finish[flow].max(self.now);
        // A visit may take a flow ahead of those that wait; time does not follow it there, or they would lose their share.
        let least = self
            .waiting
            .least()
            .map_or(start, |(tag, _)| tag.min(start));
        self.now = self.now.max(least);
        self.finish[flow] = start + wire_bytes;
        if self.visit.0 == flow {
            self.visit.1 = self.visit.1.saturating_sub(wire_bytes);
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
