//! What of a policy path `auto` has learned, and how: within each VF's quotas, and giving way to all other filters. Never says who
//! receives a frame.

use vf_packet::MacAddr;

use super::{Changed, Policy};
use crate::filter_spec::NumberedFilter;
use crate::filter_spec::{FilterMatch, FilterPriority};
use crate::filter_table::{FilterTable, Insert, TableError};
use crate::learned::{FastEvent, FastKey, Learned, LearnedFilter, LearnedStats};
use crate::rule::CounterId;
use crate::vf::{VfIndex, VfSet};

impl Policy {
    /// All of the NIC's own filters: those, and the ones that path `auto` has learned.
    #[must_use]
    pub fn all_filters(&self) -> &FilterTable {
        self.with_learned.as_ref().unwrap_or(&self.filter_table)
    }

    /// Where the frames are counted that a filter of the NIC decides on. None are of one that waits, and none of a learned one, which
    /// decides nothing but the way.
    #[must_use]
    pub fn filter_counter(&self, filter: &NumberedFilter) -> Option<CounterId> {
        filter.id?;
        self.filter_table.counter(&filter.spec)
    }

    /// VFs on path `auto`.
    #[must_use]
    #[inline]
    pub fn auto(&self) -> VfSet {
        self.lookup.auto
    }

    pub(crate) fn learned(&self) -> &Learned {
        &self.learned
    }

    /// What a VF has learned on path `auto`: flows first, each kind in order.
    pub fn learned_by(&self, vf: VfIndex) -> impl Iterator<Item = FastKey> + '_ {
        let of_kind = move |groups| self.learned.of_vf(vf, groups);
        of_kind(false).chain(of_kind(true))
    }

    /// How often a VF's learned filters have come and gone.
    #[must_use]
    pub fn learned_stats(&self, vf: VfIndex) -> LearnedStats {
        self.learned.stats(vf)
    }

    /// Whether planes that go from `before` to this policy must deliver first what they have handed each other: rings move, or
    /// frames take the fast path that were on the slow one. Learned flows do that by themselves.
    #[must_use]
    pub fn moves_frames(&self, before: &Policy) -> bool {
        let left = before.auto().difference(self.auto());
        self.mediated() != before.mediated() || !left.is_empty() || self.steered != before.steered
    }

    /// Whether a VF may learn this from a frame to `dst` that it receives, and has not.
    pub(crate) fn may_learn(&self, vf: VfIndex, key: FastKey, dst: MacAddr) -> bool {
        let own = match key {
            FastKey::Flow { .. } => self.entry(vf).claims(dst),
            FastKey::Group(_) => true,
        };
        own && self.may_have(vf, key) && !self.learned.has(key, vf)
    }

    /// Whether a learned filter is of use.
    fn may_have(&self, vf: VfIndex, key: FastKey) -> bool {
        let fast = self.auto().contains(vf)
            && !self.migrating.contains(vf)
            && self.link_up_for(vf)
            && self.link_up();
        let listed = match key {
            FastKey::Flow { .. } => true,
            FastKey::Group(mac) => self.entry(vf).rx.lists(mac),
        };
        fast && listed
    }

    /// What it becomes when path `auto` learns from this; `None` if it learns nothing. Within its quotas a VF takes nothing
    /// from others, and a filter that the NIC's table has no room for is not learned.
    #[must_use]
    pub fn with_events(&self, events: &[FastEvent]) -> Option<Policy> {
        let mut policy = self.clone();
        for event in events {
            match *event {
                FastEvent::Learn { vf, key } => policy.learn(vf, key),
                FastEvent::Stale { vf, key } if policy.learned.has(key, vf) => {
                    policy.forget(key, vf);
                    policy.learned.count(vf, |stats| stats.stale += 1);
                }
                FastEvent::Stale { .. } => {}
            }
        }
        if policy.learned.is_same(&self.learned) {
            return None;
        }
        policy.publish(Some(Changed::Flows));
        Some(policy)
    }

    /// What it becomes when the migration of a VF's guest begins or is over; `None` if that is nothing new. All flows of one on path
    /// `auto` take the slow path meanwhile.
    #[must_use]
    pub fn with_migrating(&self, vf: VfIndex, migrating: bool) -> Option<Policy> {
        if self.migrating.contains(vf) == migrating {
            return None;
        }
        let mut policy = self.clone();
        match migrating {
            true => policy.migrating.insert(vf),
            false => policy.migrating.remove(vf),
        }
        policy.prune();
        policy.publish(Some(Changed::Flows));
        Some(policy)
    }

    fn learn(&mut self, vf: VfIndex, key: FastKey) {
        let known = self.existing(vf).is_err() || self.learned.has(key, vf);
        if known || !self.may_have(vf, key) {
            return;
        }
        let limits = self.vf(vf).limits;
        let groups = matches!(key, FastKey::Group(_));
        let used = self.learned.of_vf(vf, groups).count();
        let before = self.clone();
        match key {
            FastKey::Group(_) if used >= usize::from(limits.max_mcasts) => return,
            FastKey::Flow { .. } if limits.max_filters == 0 => return,
            FastKey::Flow { .. } => {
                // An address that has moved from one guest to another has its flows at one of them only.
                if let Some(other) = self.learned.of_key(key).first().map(|filter| filter.vf) {
                    self.forget(key, other);
                }
                if used >= usize::from(limits.max_filters) {
                    self.evict(vf);
                }
            }
            FastKey::Group(_) => {}
        }
        if let Some(spec) = key.filter(vf) {
            let table = self
                .with_learned
                .get_or_insert_with(|| before.filter_table.clone());
            if table.insert(&spec, Insert::default()).is_err() {
                *self = before;
                return;
            }
        }
        self.learned.add(key, vf);
    }

    fn evict(&mut self, vf: VfIndex) {
        if let Some(key) = self.learned.draw(vf) {
            self.forget(key, vf);
            self.learned.count(vf, |stats| stats.evicted += 1);
        }
    }

    fn forget(&mut self, key: FastKey, vf: VfIndex) {
        self.learned.remove(key, vf);
        if let (Some(spec), Some(table)) = (key.filter(vf), &mut self.with_learned) {
            // Whoever else has taken it out has done the same.
            let _ = table.remove(&spec.matches, spec.priority);
        }
    }

    pub(super) fn forget_all(&mut self) {
        while let Some(LearnedFilter { key, vf, .. }) = self.learned.filters().first().copied() {
            self.learned.remove(key, vf);
        }
        self.with_learned = None;
    }

    /// Forgets what is of no more use, and what is more than quotas allow.
    pub(super) fn prune(&mut self) {
        let kept = self.learned.filters().to_vec();
        for LearnedFilter { key, vf, .. } in kept {
            if !self.may_have(vf, key) {
                self.forget(key, vf);
            }
        }
        for vf in self.auto().iter() {
            let limits = self.vf(vf).limits;
            while self.learned.of_vf(vf, false).count() > usize::from(limits.max_filters) {
                self.evict(vf);
            }
            let groups = self.learned.of_vf(vf, true).skip(limits.max_mcasts.into());
            for key in groups.collect::<Vec<_>>() {
                self.forget(key, vf);
            }
        }
    }

    /// Changes the whole table as those filters were changed that are not learned. What is learned gives way to all others.
    pub(super) fn change_whole_table(
        &mut self,
        change: impl FnOnce(&mut FilterTable) -> Result<(), TableError>,
    ) {
        if let Some(table) = &mut self.with_learned
            && change(table).is_err()
        {
            self.forget_all();
        }
    }

    /// Takes out a learned filter that the administrator names.
    pub(super) fn remove_learned(
        &mut self,
        matches: &FilterMatch,
        priority: FilterPriority,
    ) -> Option<Changed> {
        let named = priority == FilterPriority::Hint && self.forget_match(matches);
        named.then_some(Changed::Flows)
    }

    /// Forgets the learned filter with this match; whether there was one.
    pub(super) fn forget_match(&mut self, matches: &FilterMatch) -> bool {
        let is_meant = |filter: &&LearnedFilter| {
            let spec = filter.key.filter(filter.vf);
            spec.is_some_and(|spec| spec.matches == *matches)
        };
        let meant = self.learned.filters().iter().find(is_meant).copied();
        if let Some(LearnedFilter { key, vf, .. }) = meant {
            self.forget(key, vf);
        }
        meant.is_some()
    }
}
