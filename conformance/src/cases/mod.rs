//! The cases, by group. Ids are for ever: a case that changes its meaning gets a new one.

mod control;
mod memory;
mod net;
mod protocol;
mod ring;
mod robust;

use crate::case::Case;

/// All cases in the order they are run.
pub fn all() -> impl Iterator<Item = &'static Case> {
    [
        protocol::CASES,
        memory::CASES,
        ring::CASES,
        net::CASES,
        control::CASES,
        robust::CASES,
    ]
    .into_iter()
    .flatten()
}

/// The cases whose id contains one of `filters`; without filters all.
pub fn matching(filters: &[String]) -> Vec<&'static Case> {
    let wanted = |case: &&Case| {
        filters.is_empty()
            || filters
                .iter()
                .any(|filter| case.id.contains(filter.as_str()))
    };
    all().filter(wanted).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_unique_and_carry_their_group() {
        let mut ids: Vec<_> = all().map(|case| case.id).collect();
        assert!(ids.iter().all(|id| id.split('/').count() == 2));
        ids.sort_unstable();
        let count = ids.len();
        ids.dedup();
        assert_eq!(ids.len(), count);
    }

    #[test]
    fn filters_choose_groups_and_single_cases() {
        let chosen = matching(&["ring/".into(), "net/mrg-spread".into()]);
        assert!(
            chosen
                .iter()
                .all(|c| c.id.starts_with("ring/") || c.id == "net/mrg-spread")
        );
        assert!(chosen.len() > 2 && chosen.len() < all().count());
        assert_eq!(matching(&[]).len(), all().count());
    }
}
