//! Which VFs a worker looks at in a round: those that had work lately, and a few of the others in turn, so that a round costs
//! what the busy VFs cost, however many are attached. Never forgets an attached VF: each is looked at within a bounded number
//! of rounds.

use vf_model::{VfIndex, VfSet};

/// Rounds in which a VF without work becomes an idle one.
const LATELY: u32 = 256;
/// Idle VFs looked at in a round.
const IDLE_LOOKS: usize = 2;

/// See the module.
#[derive(Default)]
pub(super) struct Attention {
    attached: VfSet,
    /// Had work in this period of [`LATELY`] rounds.
    busy: VfSet,
    /// Had work in the period before.
    before: VfSet,
    round: u32,
    /// Those that had work in either period, in order.
    lively: Vec<VfIndex>,
    /// Those that had not.
    idle: Vec<VfIndex>,
    /// Which of them is looked at next.
    turn: usize,
    /// Who is lively has changed.
    stale: bool,
    sparing: bool,
}

impl Attention {
    /// Spares idle VFs from now on; until then everyone is lively, as on the virtual clock, where a round takes no time.
    pub(super) fn spare(&mut self) {
        (self.sparing, self.stale) = (true, true);
    }

    /// The VF has rings to look at.
    pub(super) fn attach(&mut self, vf: VfIndex) {
        self.attached.insert(vf);
        self.busy.insert(vf);
        self.stale = true;
    }

    /// It has none any more.
    pub(super) fn detach(&mut self, vf: VfIndex) {
        self.attached.remove(vf);
        self.stale = true;
    }

    /// All that have rings.
    pub(super) fn attached(&self) -> VfSet {
        self.attached
    }

    /// There was work of this VF, or there will be when something lets it go on.
    #[inline]
    pub(super) fn had_work(&mut self, vf: VfIndex) {
        if !self.busy.contains(vf) {
            self.busy.insert(vf);
            self.stale |= !self.before.contains(vf);
        }
    }

    /// Begins a round. During it, nobody changes sides.
    #[inline]
    pub(super) fn round(&mut self) {
        if self.sparing {
            self.round += 1;
            if self.round == LATELY {
                self.before = std::mem::take(&mut self.busy);
                (self.round, self.stale) = (0, true);
            }
        }
        if self.stale {
            self.sort();
        }
    }

    fn sort(&mut self) {
        self.stale = false;
        let lively = match self.sparing {
            true => self.attached.intersection(self.busy.union(self.before)),
            false => self.attached,
        };
        let next = self.idle.get(self.turn).copied();
        self.lively.clear();
        self.lively.extend(lively.iter());
        self.idle.clear();
        self.idle.extend(self.attached.difference(lively).iter());
        // Who comes and goes costs nobody his turn.
        self.turn = next.map_or(0, |next| self.idle.partition_point(|vf| *vf < next));
    }

    /// The `n`th of the VFs that are looked at in each round.
    #[inline]
    pub(super) fn lively(&self, n: usize) -> Option<VfIndex> {
        self.lively.get(n).copied()
    }

    /// How many of those come before `seat`.
    #[inline]
    pub(super) fn lively_before(&self, seat: usize) -> usize {
        self.lively.partition_point(|vf| vf.index() < seat)
    }

    /// How many others to look at in this round: all of them if nobody else had work, a few otherwise.
    #[inline]
    pub(super) fn idle_looks(&self, all: bool) -> usize {
        let most = if all { usize::MAX } else { IDLE_LOOKS };
        self.idle.len().min(most)
    }

    /// The next of the others.
    #[inline]
    pub(super) fn next_idle(&mut self) -> Option<VfIndex> {
        if self.turn >= self.idle.len() {
            self.turn = 0;
        }
        self.turn += 1;
        self.idle.get(self.turn - 1).copied()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Whom a round looks at in which those of `work` have work, and it is found as they are looked at.
    fn round(attention: &mut Attention, work: VfSet) -> VfSet {
        attention.round();
        let mut looks: VfSet = (0..).map_while(|n| attention.lively(n)).collect();
        let all = looks.intersection(work).is_empty();
        let idle = (0..attention.idle_looks(all)).filter_map(|_| attention.next_idle());
        looks = looks.union(idle.collect());
        for vf in looks.intersection(work).iter() {
            attention.had_work(vf);
        }
        looks
    }

    proptest! {
        /// Who has work is looked at in every round, and everybody else often enough.
        #[test]
        fn nobody_is_forgotten(
            attached in prop::collection::vec(any::<u8>(), 1..256),
            detached in prop::collection::vec(any::<u8>(), 0..64),
            busy in prop::collection::vec(any::<u8>(), 0..8),
            rounds in 0..2 * LATELY,
        ) {
            let mut attention = Attention::default();
            attention.spare();
            attached.iter().for_each(|vf| attention.attach(VfIndex(*vf)));
            let busy: VfSet = busy.into_iter().map(VfIndex).collect();
            for _ in 0..rounds {
                round(&mut attention, busy);
            }
            detached.iter().for_each(|vf| attention.detach(VfIndex(*vf)));
            let all: VfSet = attached.into_iter().filter(|vf| !detached.contains(vf)).map(VfIndex).collect();
            prop_assert_eq!(attention.attached(), all);
            let mut seen = VfSet::default();
            for _ in 0..256 / IDLE_LOOKS + 2 {
                let looks = round(&mut attention, busy);
                prop_assert!(busy.intersection(all).difference(looks).is_empty());
                prop_assert!(looks.difference(all).is_empty());
                seen = seen.union(looks);
            }
            prop_assert_eq!(seen, all);
        }

        /// Whoever else becomes busy or idle meanwhile.
        #[test]
        fn nobody_loses_his_turn(talk in prop::collection::vec(0u8..32, 40)) {
            let mut attention = Attention::default();
            attention.spare();
            (0..33).for_each(|vf| attention.attach(VfIndex(vf)));
            let mut last = [0; 32];
            // One is always busy, so that never all are looked at, and others have something to say now and then.
            let busy = [VfIndex(32)].into_iter().collect();
            let mut work = VfSet::default();
            for now in 0..40 * talk.len() {
                if now % 40 == 0 && let Some(vf) = talk.get(now / 40) {
                    work.insert(VfIndex(*vf));
                }
                let looks = round(&mut attention, work.union(busy));
                work = work.difference(looks);
                for vf in looks.iter().take_while(|vf| vf.0 < 32) {
                    last[vf.index()] = now;
                }
                prop_assert!(last.iter().all(|last| now - last <= 32 / IDLE_LOOKS), "{last:?} at {now}");
            }
        }
    }

    #[test]
    fn a_round_costs_what_the_busy_ones_cost() {
        let mut attention = Attention::default();
        (0..64).for_each(|vf| attention.attach(VfIndex(vf)));
        let busy = [VfIndex(3)].into_iter().collect();
        for _ in 0..=2 * LATELY {
            assert_eq!(
                round(&mut attention, busy).len(),
                64,
                "the virtual clock sees all"
            );
        }
        attention.spare();
        let mut looks = VfSet::default();
        for _ in 0..=2 * LATELY {
            looks = round(&mut attention, busy);
        }
        assert!(looks.contains(VfIndex(3)));
        assert_eq!(looks.len(), 1 + IDLE_LOOKS);
        let nobody = VfSet::default();
        assert_eq!(
            round(&mut attention, nobody).len(),
            64,
            "before it counts as idle"
        );
        assert_eq!(attention.lively_before(3), 0);
        assert_eq!(attention.lively_before(4), 1);
    }
}
