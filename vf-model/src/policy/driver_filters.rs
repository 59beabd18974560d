//! Filters on fields of packets that the driver of a VF puts into a NIC such as EF10, as ef_vi and Onload do in a guest. With the
//! privilege INSECURE_FILTERS such a filter lies in the NIC's table and takes frames to whichever address. Without it the firmware
//! adds the VF's own address to what it matches ("Filter will be auto-qualified with vPort MAC address", says Solarflare's driver
//! for ESXi): then it gives the VF what it has anyway, and has no row here. The administrator's filters go before it, and it comes
//! back when they go: it has the priority auto. Never judges a frame.

use super::{Changed, FilterOp, Policy};
use crate::filter_spec::{FilterAction, FilterMatch, FilterPriority, FilterSpec};
use crate::filter_table::Insert;
use crate::privilege::Privileges;
use crate::refusal::Refusal;
use crate::vf::VfIndex;

/// Most of a VF: it does not fill the NIC's table.
const MAX_DRIVER_FILTERS: usize = 64;

/// A filter of a driver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct DriverFilter {
    matches: FilterMatch,
    /// Whether it lies in the NIC's table.
    in_table: bool,
}

impl Policy {
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
        let in_table = self.may_take_any(vf);
        let changed = match in_table {
            true => self.insert(&driver_spec(vf, matches), Insert::default())?,
            false => Changed::Flows,
        };
        let filter = DriverFilter { matches, in_table };
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
            if filter.in_table {
                changed = changed.max(self.remove_filter(&filter.matches, FilterPriority::Auto)?);
            }
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
        let settled: Vec<_> = all
            .iter()
            .map(|filter| {
                let DriverFilter { matches, in_table } = *filter;
                let in_table = match (in_table, may) {
                    (false, true) => {
                        let spec = driver_spec(vf, matches);
                        self.insert(&spec, Insert::default()).is_ok()
                    }
                    (true, false) => self.remove_filter(&matches, FilterPriority::Auto).is_err(),
                    (same, _) => same,
                };
                DriverFilter { matches, in_table }
            })
            .collect();
        if settled != all {
            self.entry_mut(vf)?.driver_filters = settled;
        }
        Ok(())
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
        let own = |filter: &DriverFilter| filter.in_table && filter.matches == spec.matches;
        spec.priority == FilterPriority::Auto
            && spec.action.vf().is_some_and(|vf| {
                self.existing(vf)
                    .is_ok_and(|entry| entry.driver_filters.iter().any(own))
            })
    }

    fn may_take_any(&self, vf: VfIndex) -> bool {
        self.vf(vf).may(Privileges::INSECURE_FILTERS)
    }
}

fn driver_spec(vf: VfIndex, matches: FilterMatch) -> FilterSpec {
    FilterSpec {
        matches,
        action: FilterAction::Vf(vf),
        priority: FilterPriority::Auto,
    }
}
