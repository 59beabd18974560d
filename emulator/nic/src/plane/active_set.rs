//! The VFs that a plane looks at in each round: those that had work lately, and a few of the others in turn, so that a round
//! costs what the busy VFs cost, however many are attached. Never forgets an attached VF: each is looked at within a bounded
//! number of rounds.

use vf_model::{VfIndex, VfSet};

/// Rounds without work after which a VF becomes an idle one.
const PERIOD: u32 = 256;
/// Idle VFs looked at in a round in which another VF had work.
const IDLE_LOOKS: usize = 2;
/// The same in a round without work. Not all of them, or the next frame of a busy VF would wait for that.
const IDLE_LOOKS_WITHOUT_WORK: usize = 8;

/// See the module.
#[derive(Default)]
pub(super) struct ActiveSet {
    attached: VfSet,
    /// VFs that had work in this period of [`PERIOD`] rounds.
    busy: VfSet,
    /// VFs that had work in the period before.
    before: VfSet,
    round: u32,
    /// VFs that had work in either period.
    active: VfSet,
    /// What was attached when they were last sorted.
    sorted: VfSet,
    /// The same in order: few of them are found sooner in a list.
    list: Vec<VfIndex>,
    /// An index, and how many of them are below it.
    below: (usize, usize),
    /// Attached VFs that had none.
    idle: Vec<VfIndex>,
    /// The index in `idle` of the VF that is looked at next.
    turn: usize,
    /// Whether `active` and `idle` have to be computed again.
    stale: bool,
    sparse: bool,
}

impl ActiveSet {
    /// Looks at few idle VFs a round from now on. Until then every attached VF is active, as on the virtual clock, where a
    /// round takes no time.
    pub(super) fn enable_sparse_polling(&mut self) {
        (self.sparse, self.stale) = (true, true);
    }

    /// The VF has transmit rings to look at.
    pub(super) fn attach(&mut self, vf: VfIndex) {
        self.attached.insert(vf);
        self.busy.insert(vf);
        self.stale = true;
    }

    /// The VF has none any more.
    pub(super) fn detach(&mut self, vf: VfIndex) {
        self.attached.remove(vf);
        self.stale = true;
    }

    /// All VFs that have transmit rings.
    pub(super) fn attached(&self) -> VfSet {
        self.attached
    }

    /// The VF had work, or will have when something lets it go on.
    #[inline]
    pub(super) fn had_work(&mut self, vf: VfIndex) {
        if !self.busy.contains(vf) {
            self.busy.insert(vf);
            self.stale |= !self.before.contains(vf);
        }
    }

    /// Begins a round. During it, the active VFs stay the same.
    #[inline]
    pub(super) fn begin_round(&mut self) {
        if self.sparse {
            self.round += 1;
            if self.round == PERIOD {
                self.before = std::mem::take(&mut self.busy);
                (self.round, self.stale) = (0, true);
            }
        }
        if self.stale {
            self.sort();
        }
    }

    /// The active VFs.
    #[inline]
    pub(super) fn active(&self) -> VfSet {
        self.active
    }

    /// The `n`th of them.
    #[inline]
    pub(super) fn nth(&self, n: usize) -> Option<VfIndex> {
        self.list.get(n).copied()
    }

    /// How many of them have an index below this, which is seldom another than the last time.
    #[inline]
    pub(super) fn before(&mut self, index: usize) -> usize {
        if self.below.0 != index {
            self.below = (index, self.list.partition_point(|vf| vf.index() < index));
        }
        self.below.1
    }

    fn sort(&mut self) {
        self.stale = false;
        let active = match self.sparse {
            true => self.attached.intersection(self.busy.union(self.before)),
            false => self.attached,
        };
        // Often nothing has changed. Then the list is not made anew, which costs as much as there are idle VFs.
        if active == self.active && self.attached == self.sorted {
            return;
        }
        (self.active, self.sorted) = (active, self.attached);
        self.list.clear();
        self.list.extend(self.active.iter());
        self.below = (0, 0);
        let next = self.idle.get(self.turn).copied();
        self.idle.clear();
        self.idle
            .extend(self.attached.difference(self.active).iter());
        // The VF whose turn it was keeps its turn.
        self.turn = next.map_or(0, |next| self.idle.partition_point(|vf| *vf < next));
    }

    /// How many idle VFs to look at in this round: more if no active VF had work.
    #[inline]
    pub(super) fn idle_looks(&self, work: bool) -> usize {
        let most = match work {
            true => IDLE_LOOKS,
            false => IDLE_LOOKS_WITHOUT_WORK,
        };
        self.idle.len().min(most)
    }

    /// The next idle VF.
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
    fn round(active: &mut ActiveSet, work: VfSet) -> VfSet {
        active.begin_round();
        let mut looks = active.active();
        let list: VfSet = (0..).map_while(|n| active.nth(n)).collect();
        assert_eq!(list, looks);
        let found = !looks.intersection(work).is_empty();
        let idle = (0..active.idle_looks(found)).filter_map(|_| active.next_idle());
        looks = looks.union(idle.collect());
        for vf in looks.intersection(work).iter() {
            active.had_work(vf);
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
            rounds in 0..2 * PERIOD,
        ) {
            let mut active = ActiveSet::default();
            active.enable_sparse_polling();
            attached.iter().for_each(|vf| active.attach(VfIndex(*vf)));
            let busy: VfSet = busy.into_iter().map(VfIndex).collect();
            for _ in 0..rounds {
                round(&mut active, busy);
            }
            detached.iter().for_each(|vf| active.detach(VfIndex(*vf)));
            let all: VfSet = attached.into_iter().filter(|vf| !detached.contains(vf)).map(VfIndex).collect();
            prop_assert_eq!(active.attached(), all);
            let mut seen = VfSet::default();
            for _ in 0..256 / IDLE_LOOKS + 2 {
                let looks = round(&mut active, busy);
                prop_assert!(busy.intersection(all).difference(looks).is_empty());
                prop_assert!(looks.difference(all).is_empty());
                seen = seen.union(looks);
            }
            prop_assert_eq!(seen, all);
        }

        /// Whoever else becomes busy or idle meanwhile.
        #[test]
        fn nobody_loses_his_turn(talk in prop::collection::vec(0u8..32, 40)) {
            let mut active = ActiveSet::default();
            active.enable_sparse_polling();
            (0..33).for_each(|vf| active.attach(VfIndex(vf)));
            let mut last = [0; 32];
            // One is always busy, so that never all are looked at, and others have something to say now and then.
            let busy = [VfIndex(32)].into_iter().collect();
            let mut work = VfSet::default();
            for now in 0..40 * talk.len() {
                if now % 40 == 0 && let Some(vf) = talk.get(now / 40) {
                    work.insert(VfIndex(*vf));
                }
                let looks = round(&mut active, work.union(busy));
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
        let mut active = ActiveSet::default();
        (0..64).for_each(|vf| active.attach(VfIndex(vf)));
        let busy = [VfIndex(3)].into_iter().collect();
        for _ in 0..=2 * PERIOD {
            assert_eq!(
                round(&mut active, busy).len(),
                64,
                "the virtual clock sees all"
            );
        }
        active.enable_sparse_polling();
        let mut looks = VfSet::default();
        for _ in 0..=2 * PERIOD {
            looks = round(&mut active, busy);
        }
        assert!(looks.contains(VfIndex(3)));
        assert_eq!(looks.len(), 1 + IDLE_LOOKS);
        let nobody = VfSet::default();
        assert_eq!(
            round(&mut active, nobody).len(),
            1 + IDLE_LOOKS_WITHOUT_WORK,
            "the next frame of the active one is not kept waiting"
        );
    }
}
