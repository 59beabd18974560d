//! Filters on fields of packets that the driver of a VF puts into a NIC such as EF10, as ef_vi and Onload do in a guest, and `ethtool
//! -N`. With the privilege INSECURE_FILTERS such a filter lies in the NIC's table and takes frames to whichever address. Without it the
//! firmware adds the VF's own address to what it matches ("Filter will be auto-qualified with vPort MAC address", says Solarflare's driver
//! for ESXi): then it is asked when it is known that the VF receives a frame, and says in which queue, or that it is dropped.
//! The administrator's filters go before those in the table, which come back when they go: they have the priority auto. Never judges a
//! frame.

use super::{Changed, Policy};
use crate::cow_map::seed;
use crate::driver_filter::{DriverFilter, FilterOp};
use crate::entry::Entry;
use crate::filter_spec::{FilterMatch, FilterPriority, FilterSpec};
use crate::filter_table::{Insert, TableError};
use crate::privilege::Privileges;
use crate::profile::FieldRoom;
use crate::refusal::Refusal;
use crate::rule::{CounterId, PLACES_A_DRIVER, next_generation};
use crate::vf::VfIndex;

/// Most of a VF: it does not fill the NIC's table.
const MAX_DRIVER_FILTERS: usize = PLACES_A_DRIVER as usize;

impl Policy {
    /// Filters on packets that the driver of a VF has put in, in the order in which it did.
    #[must_use]
    pub fn driver_filters(&self, vf: VfIndex) -> &[DriverFilter] {
        &self.entry(vf).driver_filters
    }

    /// Where the frames are counted that a filter of the driver of a VF decides on, wherever it lies.
    #[must_use]
    pub fn driver_filter_counter(&self, vf: VfIndex, filter: &DriverFilter) -> Option<CounterId> {
        match filter.in_table {
            true => self.filter_table.counter(&filter.spec(vf)),
            false => Some(filter.counter),
        }
    }

    /// Puts in a filter on packets of a driver or takes it out.
    pub(super) fn driver_filter(&mut self, vf: VfIndex, op: &FilterOp) -> Result<Changed, Refusal> {
        let matches = op.matches;
        matches.check()?;
        let listed = &self.existing(vf)?.driver_filters;
        let known: Vec<_> = listed.iter().map(|filter| filter.matches).collect();
        op.listed(&matches, &known)?;
        if !op.add {
            return self.drop_driver_filters(vf, |filter| *filter == matches);
        }
        if known.len() >= MAX_DRIVER_FILTERS {
            return Err(Refusal::DriverFilters(MAX_DRIVER_FILTERS));
        }
        let taken: Vec<_> = listed.iter().map(|filter| filter.counter.place()).collect();
        let place = (0..PLACES_A_DRIVER).find(|place| !taken.contains(place));
        let generation = next_generation(&mut self.own_counters);
        let filter = DriverFilter {
            matches,
            action: op.action,
            in_table: self.may_take_any(vf),
            counter: place.map_or(CounterId::NONE, |place| {
                CounterId::of_driver(vf.0, place, generation)
            }),
        };
        filter.spec(vf).check()?;
        let changed = match filter.in_table {
            true => self.insert(&filter.spec(vf), Insert::default())?,
            false => {
                self.check_combination(&matches)?;
                self.set_own(vf, &filter, true)?
            }
        };
        self.entry_mut(vf)?.driver_filters.push(filter);
        Ok(changed)
    }

    /// Takes out those of a driver that are meant.
    pub(super) fn drop_driver_filters(
        &mut self,
        vf: VfIndex,
        meant: impl Fn(&FilterMatch) -> bool,
    ) -> Result<Changed, Refusal> {
        let mut changed = Changed::Flows;
        let all = self.existing(vf)?.driver_filters.clone();
        for filter in all.iter().filter(|filter| meant(&filter.matches)) {
            let done = match filter.in_table {
                true => self.remove_filter(&filter.matches, FilterPriority::Auto)?,
                false => self.set_own(vf, filter, false)?,
            };
            changed = changed.max(done);
        }
        if !all.is_empty() {
            let filters = &mut self.entry_mut(vf)?.driver_filters;
            filters.retain(|filter| !meant(&filter.matches));
        }
        Ok(changed)
    }

    /// Has those of a driver in the table if its VF may take any frame, and no longer if it may not. One whose row is another's by
    /// now stays out.
    pub(super) fn settle_driver_filters(&mut self, vf: VfIndex) -> Result<(), Refusal> {
        let may = self.may_take_any(vf);
        let all = self.existing(vf)?.driver_filters.clone();
        let mut settled = all.clone();
        for filter in &mut settled {
            if filter.in_table == may {
                continue;
            }
            // There may be no room for it, and the administrator may have taken it out.
            let moved = match may {
                true => self.insert(&filter.spec(vf), Insert::default()),
                false => self.remove_filter(&filter.matches, FilterPriority::Auto),
            };
            if moved.is_ok() {
                self.set_own(vf, filter, !may)?;
                filter.in_table = may;
            }
        }
        if settled != all {
            self.entry_mut(vf)?.driver_filters = settled;
        }
        Ok(())
    }

    /// Has a filter asked that does not lie in the table, or no longer.
    fn set_own(
        &mut self,
        vf: VfIndex,
        filter: &DriverFilter,
        on: bool,
    ) -> Result<Changed, Refusal> {
        let rule = on.then(|| filter.rule(vf));
        let entry = self.entry_mut(vf)?;
        entry.own_filters.set(seed(), &filter.matches, rule);
        let any = !entry.own_filters.is_empty();
        match any {
            true => self.lookup.own_filters.insert(vf),
            false => self.lookup.own_filters.remove(vf),
        }
        // What has been said of frames that it now matches no longer holds.
        Ok(Changed::Verdicts)
    }

    /// The NIC looks at these fields together.
    fn check_combination(&self, matches: &FilterMatch) -> Result<(), TableError> {
        match self.silicon.fields {
            FieldRoom::Listed(possible)
                if !matches.fields().is_plain() || !possible.contains(&matches.flags()) =>
            {
                Err(TableError::Combination {
                    profile: self.profile(),
                    matches: *matches,
                    possible,
                })
            }
            _ => Ok(()),
        }
    }

    /// The filters of drivers with this match have gone from the table with whatever took them out.
    pub(super) fn forget_driver_filters(&mut self, gone: impl Fn(&FilterMatch) -> bool) {
        let has = |filter: &DriverFilter| filter.in_table && gone(&filter.matches);
        for vf in (0..self.num_vfs()).map(VfIndex::from) {
            if self.entry(vf).driver_filters.iter().any(has)
                && let Ok(entry) = self.entry_mut(vf)
            {
                entry.driver_filters.retain(|filter| !has(filter));
            }
        }
    }

    /// Whether a filter of the table is a driver's, and none of what the administrator has said.
    pub(super) fn is_drivers(&self, spec: &FilterSpec) -> bool {
        let has = |vf: VfIndex, entry: &Entry| {
            let mut filters = entry.driver_filters.iter();
            filters.any(|filter| filter.in_table && filter.spec(vf) == *spec)
        };
        let of = |vf| self.existing(vf).is_ok_and(|entry| has(vf, entry));
        spec.priority == FilterPriority::Auto
            && match spec.action.vf() {
                Some(vf) => of(vf),
                None => (0..self.num_vfs()).map(VfIndex::from).any(of),
            }
    }

    fn may_take_any(&self, vf: VfIndex) -> bool {
        self.vf(vf).may(Privileges::INSECURE_FILTERS)
    }
}
