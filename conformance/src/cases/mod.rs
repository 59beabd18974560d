//! The cases, by group. Ids are for ever: a case that changes its meaning gets a new one. No case is here itself.

mod bursts;
mod by_hand;
mod chain;
mod clauses;
mod clauses_net;
mod coalescing;
mod control;
mod exact;
mod filter;
mod filter_kinds;
mod filters_beside;
mod flooding;
mod life;
mod memory;
mod migration;
mod neighbours;
mod net;
mod notifications;
mod offloads;
mod on_paths;
mod packets;
mod path_changes;
mod paths;
mod places;
mod protocol;
mod receive_filter;
mod ring;
mod ring_states;
mod robust;
mod segments;
mod session;
mod set_up_again;
mod shapes;
mod switching;
mod traffic;
mod vf;
mod vf_state;

use crate::case::Case;

/// All cases in the order they are run.
pub fn all() -> impl Iterator<Item = &'static Case> {
    [
        protocol::CASES,
        ring_states::CASES,
        session::CASES,
        set_up_again::CASES,
        memory::CASES,
        migration::CASES,
        ring::CASES,
        notifications::CASES,
        places::CASES,
        chain::CASES,
        net::CASES,
        clauses_net::CASES,
        offloads::CASES,
        segments::CASES,
        exact::CASES,
        traffic::CASES,
        shapes::CASES,
        bursts::CASES,
        control::CASES,
        receive_filter::CASES,
        coalescing::CASES,
        robust::CASES,
        life::CASES,
        clauses::CASES,
        vf::CASES,
        vf_state::CASES,
        filter::CASES,
        filter_kinds::CASES,
        filters_beside::CASES,
        switching::CASES,
        flooding::CASES,
        neighbours::CASES,
        paths::CASES,
        on_paths::CASES,
        path_changes::CASES,
    ]
    .into_iter()
    .flatten()
}

/// The cases that one of `patterns` names: a whole id, or a part of ids. Without patterns all.
pub fn matching(patterns: &[String]) -> Vec<&'static Case> {
    all()
        .filter(|case| patterns.is_empty() || patterns.iter().any(|p| names(p, case)))
        .collect()
}

/// Whether `pattern` names `case`: a whole id names one case, and anything else those whose id it is a part of.
pub fn names(pattern: &str, case: &Case) -> bool {
    if all().any(|case| case.id == pattern) {
        case.id == pattern
    } else {
        case.id.contains(pattern)
    }
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
    fn each_case_says_what_is_sent_and_expected() {
        for case in all() {
            for text in [case.sent, case.expected, case.source] {
                assert!(text.len() > 3, "{}: {text:?}", case.id);
            }
            assert!(
                case.sent.ends_with('.') && case.expected.ends_with(['.', ')']),
                "{}",
                case.id
            );
        }
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
        // The beginning of other ids, too.
        let one = matching(&["ring/indirect".into()]);
        assert_eq!(one.len(), 1);
    }
}
