//! Whose frame goes on the wire next when several wait for it: each seat gets the same share of its time, whatever the size
//! of its frames, and who has had less than its share lately goes first. Start-time fair queueing (Goyal, Vin, Cheng, SIGCOMM
//! 1996): as deficit round robin shares it, without a quantum that long frames would have to save up for. Never
//! touches a frame.

/// See the module. A seat is a VF or the PF.
#[derive(Default)]
pub(super) struct Turns {
    /// By seat: the bytes that it has sent, on a common scale.
    sent: Vec<u64>,
    /// Where on that scale the wire is: where the last frame began.
    at: u64,
    waiting: Vec<usize>,
}

impl Turns {
    /// Turns of so many seats.
    pub(super) fn new(seats: usize) -> Turns {
        Turns {
            sent: vec![0; seats],
            ..Turns::default()
        }
    }

    /// The seat has a frame for the wire, which does not take it now.
    pub(super) fn wait(&mut self, seat: usize) {
        // A share that was not used is lost.
        self.sent[seat] = self.sent[seat].max(self.at);
        if !self.waiting.contains(&seat) {
            self.waiting.push(seat);
        }
    }

    /// It has none any more, or it is about to go.
    pub(super) fn leave(&mut self, seat: usize) {
        self.waiting.retain(|waiting| *waiting != seat);
    }

    /// Whether anyone waits.
    pub(super) fn is_anyone_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Who of those that wait is next.
    pub(super) fn next(&self) -> Option<usize> {
        let waiting = self.waiting.iter().copied();
        waiting.min_by_key(|seat| (self.sent[*seat], *seat))
    }

    /// Whether nobody waits who comes before this seat, which does not.
    pub(super) fn is_next(&self, seat: usize) -> bool {
        let own = (self.sent[seat].max(self.at), seat);
        self.waiting
            .iter()
            .all(|other| own < (self.sent[*other], *other))
    }

    /// A frame of the seat that occupies the wire for so many byte times goes out.
    pub(super) fn went(&mut self, seat: usize, wire_bytes: u64) {
        let start = self.sent[seat].max(self.at);
        self.at = start;
        self.sent[seat] = start + wire_bytes;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What each seat has sent after `frames` frames of these lengths, if all wait all the time.
    fn shares(lengths: &[u64], frames: usize) -> Vec<u64> {
        let mut turns = Turns::new(lengths.len());
        let mut sent = vec![0; lengths.len()];
        (0..lengths.len()).for_each(|seat| turns.wait(seat));
        for _ in 0..frames {
            let seat = turns.next().unwrap();
            turns.leave(seat);
            turns.went(seat, lengths[seat]);
            sent[seat] += lengths[seat];
            turns.wait(seat);
        }
        sent
    }

    proptest! {
        /// No two that always wait are ever further apart than a frame of each.
        #[test]
        fn who_waits_gets_the_same_share(
            lengths in prop::collection::vec(84u64..70_000, 2..20),
            frames in 0usize..500,
        ) {
            let sent = shares(&lengths, frames);
            for (a, len_a) in sent.iter().zip(&lengths) {
                for (b, len_b) in sent.iter().zip(&lengths) {
                    prop_assert!(a.abs_diff(*b) <= len_a + len_b, "{sent:?}");
                }
            }
        }
    }

    #[test]
    fn an_idle_seat_saves_nothing_up_and_is_served_at_once() {
        let mut turns = Turns::new(3);
        turns.wait(0);
        for _ in 0..1000 {
            turns.leave(0);
            turns.went(0, 1538);
            turns.wait(0);
        }
        assert!(turns.is_next(1) && turns.is_next(2), "nobody has had less");
        turns.wait(1);
        assert_eq!(turns.next(), Some(1));
        turns.leave(1);
        turns.went(1, 1538);
        turns.wait(1);
        assert_eq!(turns.next(), Some(0), "as if it had never been idle");
        assert!(!turns.is_next(1) && turns.is_next(2));
    }
}
