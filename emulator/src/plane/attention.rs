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
    /// The idle ones that have not had their turn yet.
    turn: VfSet,
    sparing: bool,
}

impl Attention {
    /// Spares idle VFs from now on; until then everyone is looked at in each round, as on the virtual clock, where a round
    /// takes no time.
    pub(super) fn spare(&mut self) {
        self.sparing = true;
    }

    /// The VF has rings to look at.
    pub(super) fn attach(&mut self, vf: VfIndex) {
        self.attached.insert(vf);
        self.busy.insert(vf);
    }

    /// It has none any more.
    pub(super) fn detach(&mut self, vf: VfIndex) {
        self.attached.remove(vf);
    }

    /// All that have rings.
    pub(super) fn attached(&self) -> VfSet {
        self.attached
    }

    /// There was work of this VF, or there will be when something lets it go on.
    pub(super) fn had_work(&mut self, vf: VfIndex) {
        self.busy.insert(vf);
    }

    /// Those to look at in the next round.
    pub(super) fn round(&mut self) -> VfSet {
        if !self.sparing {
            return self.attached;
        }
        self.round = (self.round + 1) % LATELY;
        if self.round == 0 {
            self.before = std::mem::take(&mut self.busy);
        }
        let busy = self.busy.union(self.before);
        if self.turn.is_empty() {
            self.turn = self.attached.difference(busy);
        }
        let idle: VfSet = self.turn.iter().take(IDLE_LOOKS).collect();
        self.turn = self.turn.difference(idle);
        busy.union(idle).intersection(self.attached)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

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
                busy.iter().for_each(|vf| attention.had_work(vf));
                attention.round();
            }
            detached.iter().for_each(|vf| attention.detach(VfIndex(*vf)));
            let all: VfSet = attached.into_iter().filter(|vf| !detached.contains(vf)).map(VfIndex).collect();
            prop_assert_eq!(attention.attached(), all);
            let mut seen = VfSet::default();
            for _ in 0..256 / IDLE_LOOKS + 2 {
                busy.iter().for_each(|vf| attention.had_work(vf));
                let looks = attention.round();
                prop_assert!(busy.intersection(all).difference(looks).is_empty());
                prop_assert!(looks.difference(all).is_empty());
                seen = seen.union(looks);
            }
            prop_assert_eq!(seen, all);
        }
    }

    #[test]
    fn a_round_costs_what_the_busy_ones_cost() {
        let mut attention = Attention::default();
        (0..64).for_each(|vf| attention.attach(VfIndex(vf)));
        assert_eq!(attention.round().len(), 64, "the virtual clock sees all");
        attention.spare();
        let mut looks = VfSet::default();
        for _ in 0..=2 * LATELY {
            attention.had_work(VfIndex(3));
            looks = attention.round();
        }
        assert!(looks.contains(VfIndex(3)));
        assert_eq!(looks.len(), 1 + IDLE_LOOKS);
    }
}
