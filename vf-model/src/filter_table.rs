//! The filters of a NIC: which there is room for, which of two with the same match stays, and what each is called. There is
//! one filter for a match, as in the driver of the NIC that this one is like (Linux's sfc): a filter of a higher priority takes
//! the place of a lower one, and one that took the place of an automatic one gives it back when it goes. What frames are
//! looked up in is derived from it ([`crate::filter_index`]). A copy of the table shares with it all that does not change.

use std::cmp::Ordering;

use vf_packet::{Header, Vlan, VlanTag};

use crate::cow_map::seed;
use crate::filter_fields::MatchFlags;
use crate::filter_index::{Actions, FrameActions, Index};
use crate::filter_space::MAX_COMBINATIONS;
use crate::filter_spec::{
    FilterAction, FilterId, FilterMatch, FilterPriority, FilterSpec, MatchError, NumberedFilter,
    QueueChoice,
};
use crate::filter_store::{Found, Held, Place, Row, Store, TableUse};
use crate::number_set::NumberSet;
use crate::profile::{FieldRoom, Profile, Rows, TableKind};
use crate::rule::{CounterId, Rule, next_generation};
use crate::vf::VfIndex;

/// Why the table does not take a filter, or has none to give up.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TableError {
    /// No frame can match it.
    #[error(transparent)]
    Match(#[from] MatchError),
    /// The NIC has a filter with this match and priority (EEXIST).
    #[error(
        "filter {0} priority {1}: EEXIST, it is there already: delete it first or say filter replace"
    )]
    Exists(FilterMatch, FilterPriority),
    /// The NIC has a filter with this match of a higher priority (EPERM).
    #[error(
        "filter {matches} priority {priority}: EPERM, one of priority {holder} is there, which a lower one does not replace"
    )]
    Held {
        /// Its match.
        matches: FilterMatch,
        /// Its priority.
        holder: FilterPriority,
        /// That of the one that is refused.
        priority: FilterPriority,
    },
    /// The NIC has no filter with this match (ENOENT).
    #[error("filter {0} priority {1}: ENOENT, there is no such filter")]
    NotFound(FilterMatch, FilterPriority),
    /// The NIC has a filter with this match, but of another priority (ENOENT).
    #[error(
        "filter {matches} priority {priority}: ENOENT, the one that is there has priority {holder}"
    )]
    OtherPriority {
        /// Its match.
        matches: FilterMatch,
        /// Its priority.
        holder: FilterPriority,
        /// The one that was named.
        priority: FilterPriority,
    },
    /// No filter of the NIC has this id.
    #[error("filter {0}: ENOENT, no filter has this id; filter show says them")]
    NoSuchId(FilterId),
    /// The NIC chooses the rows of its filters itself, or has fewer rows.
    #[error("loc {id}: {}", match rows {
        0 => format!("a NIC of profile {profile} chooses the row of a filter itself"),
        rows => format!("rows are 0 to {}", rows - 1),
    })]
    Location {
        /// Where the filter was to be.
        id: FilterId,
        /// What the NIC is like.
        profile: Profile,
        /// How many rows software can choose from.
        rows: usize,
    },
    /// The NIC does not look at these fields together.
    #[error(
        "filter {matches}: a NIC of profile {profile} looks at {} and no others together, without masks",
        possible.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
    )]
    Combination {
        /// What the NIC is like.
        profile: Profile,
        /// What was to be looked at.
        matches: FilterMatch,
        /// What can be.
        possible: &'static [MatchFlags],
    },
    /// No filter of such a NIC does that.
    #[error(
        "{action}: no filter of a NIC of profile {profile} does that (see vfnic profile show {profile})"
    )]
    NoAction {
        /// What.
        action: FilterAction,
        /// What the NIC is like.
        profile: Profile,
    },
    /// A filter on what VFs send that only says what is not to be sent.
    #[error(
        "action drop: a VF of profile {0} sends only what its egress filters let out, once it has one: say action pass"
    )]
    AllowsOnly(Profile),
    /// Filters look at as many combinations of fields as they can.
    #[error(
        "filter {matches}: filters look at {MAX_COMBINATIONS} other combinations of fields and masks, as many as there may be; use one of those, or delete all filters of one"
    )]
    Combinations {
        /// What was to be looked at.
        matches: FilterMatch,
    },
    /// The row is another filter's.
    #[error("loc {id}: filter {there} is there, delete it first")]
    RowTaken {
        /// Which row.
        id: FilterId,
        /// What the filter in it matches.
        there: FilterMatch,
    },
    /// No room for another filter (EBUSY).
    #[error("EBUSY, the filter table is full: {room} filters, delete one first")]
    Full {
        /// How many filters the table holds.
        room: usize,
    },
    /// None of the rows is free in which the NIC would find the filter (EBUSY).
    #[error(
        "EBUSY, the filter table is full for filter {matches} priority {priority}: {used} of {rows} rows are used, among them the first {depth} that it could lie in; delete some first{}",
        match priority { FilterPriority::Hint => ", or give it another priority: a hint is not looked far for", _ => "" }
    )]
    NoRow {
        /// What it matches.
        matches: FilterMatch,
        /// How much it is worth.
        priority: FilterPriority,
        /// How many rows were looked at.
        depth: u16,
        /// Rows in use.
        used: usize,
        /// Rows there are for its kind.
        rows: usize,
    },
    /// No room for another filter of its kind in the table of a NIC with this profile, or no such filters at all.
    #[error("filter: a NIC of profile {profile} holds {room} of the kind {matches}")]
    KindFull {
        /// What the NIC is like.
        profile: Profile,
        /// Of the kind that is meant.
        matches: FilterMatch,
        /// How many it holds.
        room: usize,
    },
}

/// The filters of a NIC.
#[derive(Clone, Debug)]
pub struct FilterTable {
    profile: Profile,
    store: Store,
    /// How many filters there are.
    len: usize,
    /// How many of each kind.
    used: [usize; Rows::COUNT],
    /// Whether a filter chooses a queue, or did since the table was empty.
    chooses_queues: bool,
    /// Whether a filter has frames go over the PF, or did since the table was empty.
    hands_up: bool,
    /// Places in which filters are counted, and the last generation of them.
    counters: NumberSet,
    generation: u32,
    index: Index,
}

/// How a filter is put in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Insert {
    /// Whether in place of one with the same match and priority.
    pub(crate) replace: bool,
    /// In which row, and in place of what is there: what ethtool calls `loc`.
    pub(crate) loc: Option<FilterId>,
}

impl FilterTable {
    /// The empty table of a NIC.
    pub(crate) fn new(profile: Profile) -> FilterTable {
        let seed = seed();
        let store = Store::new(profile.silicon().table, seed);
        let rows = store.uses().iter().map(|table| table.rows).sum();
        FilterTable {
            profile,
            store,
            len: 0,
            used: [0; Rows::COUNT],
            chooses_queues: false,
            hands_up: false,
            counters: NumberSet::new(rows),
            generation: 0,
            index: Index::new(seed),
        }
    }

    /// The same without filters.
    pub(crate) fn emptied(&self) -> FilterTable {
        FilterTable {
            generation: self.generation,
            ..FilterTable::new(self.profile)
        }
    }

    /// Which NIC's table it is like.
    pub(crate) fn profile(&self) -> Profile {
        self.profile
    }

    /// How many filters it holds.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it holds none.
    #[must_use]
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// How full the NIC's tables are.
    #[must_use]
    pub fn uses(&self) -> Vec<TableUse> {
        self.store.uses()
    }

    /// The filters: those that win first, and behind one that has displaced an automatic one that. Sorts them all.
    pub fn iter(&self) -> impl Iterator<Item = FilterSpec> + use<> {
        self.numbered().map(|filter| filter.spec)
    }

    /// The same with their ids.
    pub fn numbered(&self) -> impl Iterator<Item = NumberedFilter> + use<> {
        let rows = self.store.rows().into_iter();
        let rows = rows.map(|(place, row)| (self.in_force(place, &row), row.held.over_auto));
        let mut rows: Vec<_> = rows.collect();
        rows.sort_unstable_by_key(|(filter, _)| (filter.spec.matches, filter.id));
        rows.into_iter().flat_map(|(in_force, over_auto)| {
            let waits = over_auto.map(|action| NumberedFilter {
                id: None,
                spec: FilterSpec {
                    matches: in_force.spec.matches,
                    action,
                    priority: FilterPriority::Auto,
                },
            });
            std::iter::once(in_force).chain(waits)
        })
    }

    fn in_force(&self, place: Place, row: &Row) -> NumberedFilter {
        let Row { matches, held } = *row;
        NumberedFilter {
            id: Some(self.store.id(&matches, place)),
            spec: FilterSpec {
                matches,
                action: held.action,
                priority: held.priority,
            },
        }
    }

    /// The filter whose frames are counted there.
    pub(crate) fn counted(&self, counter: CounterId) -> Option<NumberedFilter> {
        let mut rows = self.store.rows().into_iter();
        let is_it = |(_, row): &(Place, Row)| row.held.counter == counter;
        rows.find(is_it)
            .map(|(place, row)| self.in_force(place, &row))
    }

    /// Where the frames are counted that this filter decides on, if it is in force.
    pub(crate) fn counter(&self, spec: &FilterSpec) -> Option<CounterId> {
        let (_, held) = self.store.search(&spec.matches, spec.priority).held?;
        let in_force = (held.action, held.priority) == (spec.action, spec.priority);
        in_force.then_some(held.counter)
    }

    /// A place for the frames of a filter that comes into force, in place of the one that was perhaps.
    fn count_anew(&mut self, was: Option<CounterId>) -> CounterId {
        self.count_no_more(was);
        let Some(place) = self.counters.free() else {
            return CounterId::NONE;
        };
        self.counters.set(place, true);
        CounterId::of_table(place, next_generation(&mut self.generation))
    }

    fn count_no_more(&mut self, was: Option<CounterId>) {
        if let Some(was) = was.filter(|was| *was != CounterId::NONE) {
            self.counters.set(was.place().into(), false);
        }
    }

    /// Whether software chooses the rows of its filters.
    pub(crate) fn has_numbered_rows(&self) -> bool {
        self.store.numbered_rows() > 0
    }

    /// Whether it has this filter, in force or waiting.
    pub(crate) fn holds(&self, spec: &FilterSpec) -> bool {
        let held = self.store.search(&spec.matches, spec.priority).held;
        held.is_some_and(|(_, held)| {
            let in_force = (held.action, held.priority) == (spec.action, spec.priority);
            in_force || held.over_auto == Some(spec.action)
        })
    }

    pub(crate) fn insert(&mut self, spec: &FilterSpec, how: Insert) -> Result<(), TableError> {
        let FilterSpec {
            matches,
            action,
            priority,
        } = *spec;
        spec.check()?;
        let allows_only = self.profile.silicon().egress_allows_only;
        if allows_only && matches.is_egress() && action == FilterAction::Drop {
            return Err(TableError::AllowsOnly(self.profile));
        }
        if matches!(action, FilterAction::Mirror(_)) && !self.profile.silicon().filters_mirror {
            let profile = self.profile;
            return Err(TableError::NoAction { action, profile });
        }
        let loc = how.loc.map(|id| self.row(id, &matches)).transpose()?;
        let Found { held, free } = self.store.search(&matches, priority);
        let Some((place, holder)) = held else {
            let place = self.room_for(spec, loc.or(free))?;
            self.len += 1;
            self.used[Rows::of(&matches) as usize] += 1;
            let held = Held {
                action,
                priority,
                over_auto: None,
                counter: self.count_anew(None),
            };
            self.set(place, None, &matches, Some(held));
            return Ok(());
        };
        let mut held = Held {
            action,
            priority,
            over_auto: holder.over_auto,
            counter: holder.counter,
        };
        match priority.cmp(&holder.priority) {
            // It does not come in the way of one that was given: it waits, where the driver has it wait.
            Ordering::Less
                if priority == FilterPriority::Auto
                    && !self.profile.silicon().refuses_auto_below =>
            {
                if holder.over_auto.is_some() && !how.replace {
                    // Another waits there: without the one that was given, that would be in the way.
                    return Err(TableError::Exists(matches, priority));
                }
                let over_auto = Some(action);
                held = Held {
                    over_auto,
                    ..holder
                };
            }
            Ordering::Less => {
                return Err(TableError::Held {
                    matches,
                    holder: holder.priority,
                    priority,
                });
            }
            Ordering::Equal if !how.replace => {
                return Err(TableError::Exists(matches, priority));
            }
            Ordering::Greater if holder.priority == FilterPriority::Auto => {
                held.over_auto = Some(holder.action);
            }
            Ordering::Equal | Ordering::Greater => {}
        }
        if priority >= holder.priority {
            held.counter = self.count_anew(Some(holder.counter));
        }
        self.set(
            loc.or(free).unwrap_or(place),
            Some(place),
            &matches,
            Some(held),
        );
        Ok(())
    }

    /// The row that software calls so, for a filter with this match.
    fn row(&self, id: FilterId, matches: &FilterMatch) -> Result<Place, TableError> {
        let place = self.store.numbered(id).ok_or(TableError::Location {
            id,
            profile: self.profile,
            rows: self.store.numbered_rows(),
        })?;
        match self.store.at(id) {
            Some(there) if there != *matches => Err(TableError::RowTaken { id, there }),
            _ => Ok(place),
        }
    }

    /// A row for a new filter.
    fn room_for(&self, spec: &FilterSpec, free: Option<Place>) -> Result<Place, TableError> {
        let FilterSpec {
            matches, priority, ..
        } = *spec;
        let rows = Rows::of(&matches);
        let silicon = self.profile.silicon();
        let (used, room) = (self.used[rows as usize], silicon.room(rows));
        if room == 0 || free.is_some() && used >= room {
            return Err(TableError::KindFull {
                profile: self.profile,
                matches,
                room,
            });
        }
        let combines = match matches {
            FilterMatch::Fields(_) => silicon.fields,
            FilterMatch::Egress { .. } => silicon.egress,
            _ => FieldRoom::None,
        };
        match combines {
            FieldRoom::Any if !self.index.has_turn_for(&matches) => {
                return Err(TableError::Combinations { matches });
            }
            FieldRoom::Listed(possible)
                if !matches.fields().is_plain() || !possible.contains(&matches.flags()) =>
            {
                return Err(TableError::Combination {
                    profile: self.profile,
                    matches,
                    possible,
                });
            }
            _ => {}
        }
        free.ok_or_else(|| match self.store.depth_for(priority) {
            None => TableError::Full { room: self.len },
            Some(depth) => TableError::NoRow {
                matches,
                priority,
                depth,
                used: match silicon.table {
                    TableKind::Ef10 => self.len,
                    _ => used,
                },
                rows: room,
            },
        })
    }

    /// Takes out a filter; the automatic one whose place it has taken comes back.
    pub(crate) fn remove(
        &mut self,
        matches: &FilterMatch,
        priority: FilterPriority,
    ) -> Result<(), TableError> {
        let found = self.store.search(matches, priority);
        let (place, holder) = found.held.ok_or(TableError::NotFound(*matches, priority))?;
        let left = match holder.over_auto {
            // The one that waits is taken out.
            Some(_) if priority == FilterPriority::Auto => Some(Held {
                over_auto: None,
                ..holder
            }),
            _ if priority != holder.priority => {
                return Err(TableError::OtherPriority {
                    matches: *matches,
                    holder: holder.priority,
                    priority,
                });
            }
            over_auto => over_auto.map(|action| Held {
                action,
                priority: FilterPriority::Auto,
                over_auto: None,
                counter: self.count_anew(Some(holder.counter)),
            }),
        };
        if left.is_none() {
            self.count_no_more(Some(holder.counter));
            self.len -= 1;
            self.used[Rows::of(matches) as usize] -= 1;
        }
        self.set(place, Some(place), matches, left);
        Ok(())
    }

    /// What the filter with this id and priority matches.
    pub(crate) fn named(
        &self,
        id: FilterId,
        priority: FilterPriority,
    ) -> Result<FilterMatch, TableError> {
        let matches = self.store.at(id).ok_or(TableError::NoSuchId(id))?;
        match self.store.search(&matches, priority).held {
            Some((_, held)) if held.priority != priority => Err(TableError::OtherPriority {
                matches,
                holder: held.priority,
                priority,
            }),
            _ => Ok(matches),
        }
    }

    /// Sets what is in the table for a match, in another row than so far perhaps, and what frames find.
    fn set(
        &mut self,
        place: Place,
        was_in: Option<Place>,
        matches: &FilterMatch,
        held: Option<Held>,
    ) {
        self.store.put(place, was_in, matches, held);
        let chooses = |held: Held| held.action.queue_choice().is_some();
        self.chooses_queues = self.len > 0 && (self.chooses_queues || held.is_some_and(chooses));
        let hands_up = |held: Held| held.action == FilterAction::Mediated;
        self.hands_up = self.len > 0 && (self.hands_up || held.is_some_and(hands_up));
        let rule = |held: Held| Rule {
            action: held.action,
            counter: held.counter,
        };
        self.index.set(matches, held.map(rule));
    }

    /// Whether frames may go over the PF by one of them: then what takes it out puts frames on the direct path.
    pub(crate) fn hands_up(&self) -> bool {
        self.hands_up
    }

    /// What filters on flows say of a frame, which is in this port VLAN of its sender.
    #[inline(always)]
    pub(crate) fn flow_actions(
        &self,
        head: &[u8],
        sender: Option<VfIndex>,
        port_vlan: impl FnOnce() -> Option<VlanTag>,
    ) -> Actions {
        self.index.flow_actions(head, sender, port_vlan)
    }

    /// Whether they say nothing for sure.
    #[inline(always)]
    pub(crate) fn is_silent(&self, head: &[u8]) -> bool {
        self.index.is_silent(head)
    }

    /// Whether there are filters on what VFs send.
    #[inline]
    pub(crate) fn judges_sent(&self) -> bool {
        self.index.judges_sent()
    }

    /// What the first filter on what VFs send says that matches a frame of this one in `vlan`.
    pub(crate) fn find_sent(
        &self,
        vf: VfIndex,
        header: &Header,
        flow: FrameActions,
        vlan: Vlan,
    ) -> Option<Rule> {
        self.index.find_sent(vf, header, flow, vlan)
    }

    /// Whether the VF sends only what a filter lets out: it has one, on a NIC where that means it.
    pub(crate) fn sends_only_listed(&self, vf: VfIndex) -> bool {
        self.profile.silicon().egress_allows_only && self.index.names_sender(vf)
    }

    /// What the first filter says that matches a frame in `vlan` and is not passed over, filters on flows given and those
    /// on unknown stations left out.
    #[inline]
    pub(crate) fn find(
        &self,
        header: &Header,
        flow: FrameActions,
        vlan: Vlan,
        takes: impl FnMut(&Rule) -> bool,
    ) -> Option<Rule> {
        self.index.find(header, flow, vlan, takes)
    }

    /// What the filter says of the queue which gives a frame to this VF, if it says anything.
    #[inline]
    pub(crate) fn queue(&self, vf: VfIndex, head: &[u8]) -> Option<QueueChoice> {
        match self.chooses_queues {
            false => None,
            true => self.queue_named(vf, head),
        }
    }

    /// No filter that says which queue looks at VLANs, so it does not matter which tags the frame has by now.
    #[inline(never)]
    fn queue_named(&self, vf: VfIndex, head: &[u8]) -> Option<QueueChoice> {
        let header = Header::parse(head).ok()?;
        let flow = self.flow_actions(head, None, || None).of(head);
        // One that only says which way the frame takes leaves the queue to the VF.
        let decides =
            |rule: &Rule| rule.action.vf() == Some(vf) || rule.action == FilterAction::Mediated;
        let rule = self.find(&header, flow, header.vlan(), decides)?;
        rule.action.queue_choice()
    }

    /// What is said about stations that nobody has.
    pub(crate) fn unknown_unicast(&self) -> Option<Rule> {
        self.index.unknown_unicast()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::filter_spec::{FlowEnd, Transport};
    use crate::profile::MAX_TABLE_FILTERS;
    use proptest::collection::vec;
    use proptest::prelude::*;
    use proptest::sample::select;
    use std::net::{IpAddr, Ipv4Addr};
    use vf_packet::MacAddr;

    fn spec(words: &str) -> FilterSpec {
        words.parse().unwrap()
    }

    fn found(table: &FilterTable, dst: [u8; 6]) -> Option<String> {
        let mut head = [dst, [2, 0, 0, 0, 0, 9]].concat();
        head.extend([0x88, 0xb5]);
        let header = Header::parse(&head).unwrap();
        let flow = table.flow_actions(&head, None, || None).of(&head);
        let rule = table.find(&header, flow, Vlan::NONE, |_| true);
        rule.map(|rule| rule.action.to_string())
    }

    fn add(table: &mut FilterTable, words: &str) -> Result<(), String> {
        let inserted = table.insert(&spec(words), Insert::default());
        inserted.map_err(|refusal| refusal.to_string())
    }

    const MATCH: &str = "flow-type ether dst 02:00:00:00:00:01";
    const TABLES: [Profile; 3] = [Profile::Generic, Profile::Siena, Profile::Ef10];

    /// One filter for a match. Equals are refused unless one is to replace the other, lower ones always, higher ones replace.
    #[test]
    fn of_two_filters_with_one_match_the_higher_priority_stays() {
        for profile in TABLES {
            let mut table = FilterTable::new(profile);
            let of = |vf, priority| format!("{MATCH} vf {vf} priority {priority}");
            for (vf, priority, says) in [
                (1, "hint", ""),
                (2, "hint", "EEXIST"),
                (2, "manual", ""),
                (3, "hint", "EPERM, one of priority manual is there"),
                (3, "manual", "EEXIST"),
                (4, "required", ""),
                (5, "manual", "EPERM, one of priority required is there"),
            ] {
                let was = found(&table, [2, 0, 0, 0, 0, 1]);
                let refused = add(&mut table, &of(vf, priority)).err().unwrap_or_default();
                match says {
                    "" => assert_eq!(refused, ""),
                    says => assert!(refused.contains(says), "{profile}: {refused}"),
                }
                let now = found(&table, [2, 0, 0, 0, 0, 1]);
                assert_eq!(
                    now,
                    if says.is_empty() {
                        Some(format!("vf {vf}"))
                    } else {
                        was
                    }
                );
                assert_eq!(table.len(), 1);
            }
            let replace = Insert {
                replace: true,
                loc: None,
            };
            table.insert(&spec(&of(6, "required")), replace).unwrap();
            assert_eq!(found(&table, [2, 0, 0, 0, 0, 1]), Some("vf 6".to_owned()));
            let lower = table.insert(&spec(&of(7, "auto")), replace);
            assert_eq!(
                lower.is_err(),
                profile == Profile::Siena,
                "as the driver of each"
            );
            // The one that is taken out is named by its priority.
            let matches = spec(&of(0, "hint")).matches;
            let other = table.remove(&matches, FilterPriority::Hint).unwrap_err();
            assert!(
                other.to_string().ends_with("has priority required"),
                "{other}"
            );
            table.remove(&matches, FilterPriority::Required).unwrap();
        }
    }

    #[test]
    fn an_automatic_filter_is_back_when_the_one_in_its_place_is_gone() {
        for profile in TABLES {
            let mut table = FilterTable::new(profile);
            let matches = spec(&format!("{MATCH} vf 0")).matches;
            let in_force = |table: &FilterTable| found(table, [2, 0, 0, 0, 0, 1]);
            add(&mut table, &format!("{MATCH} vf 1 priority hint")).unwrap();
            add(&mut table, &format!("{MATCH} vf 2 priority auto")).unwrap();
            add(&mut table, &format!("{MATCH} vf 3")).unwrap();
            add(&mut table, &format!("{MATCH} vf 4 priority required")).unwrap();
            assert_eq!(
                (in_force(&table).unwrap(), table.len()),
                ("vf 4".to_owned(), 1)
            );
            let shown: Vec<_> = table
                .numbered()
                .map(|f| (f.id.is_some(), f.spec.to_string()))
                .collect();
            assert_eq!(shown[0], (true, format!("{MATCH} vf 4 priority required")));
            assert_eq!(shown[1], (false, format!("{MATCH} vf 2 priority auto")));
            table.remove(&matches, FilterPriority::Required).unwrap();
            assert_eq!(
                (in_force(&table).unwrap(), table.len()),
                ("vf 2".to_owned(), 1)
            );
            // The one that waits can be taken out as well, and what was a hint is not remembered.
            add(&mut table, &format!("{MATCH} vf 3")).unwrap();
            table.remove(&matches, FilterPriority::Auto).unwrap();
            table.remove(&matches, FilterPriority::Manual).unwrap();
            assert_eq!((in_force(&table), table.len()), (None, 0));
        }
    }

    /// Else a driver would lose its filter to another driver's, who takes that out for its own.
    #[test]
    fn of_two_automatic_filters_the_first_waits_beneath_the_one_in_its_place() {
        // The driver of the others has none wait.
        let wait = |profile: &Profile| !profile.silicon().refuses_auto_below;
        for profile in TABLES.into_iter().filter(wait) {
            let mut table = FilterTable::new(profile);
            add(&mut table, &format!("{MATCH} vf 3")).unwrap();
            add(&mut table, &format!("{MATCH} vf 1 priority auto")).unwrap();
            let refusal = add(&mut table, &format!("{MATCH} vf 2 priority auto")).unwrap_err();
            assert!(refusal.contains("EEXIST"), "{refusal}");
            let matches = spec(&format!("{MATCH} vf 0")).matches;
            table.remove(&matches, FilterPriority::Manual).unwrap();
            let in_force = found(&table, [2, 0, 0, 0, 0, 1]);
            assert_eq!(in_force.as_deref(), Some("vf 1"));
        }
    }

    /// Filters on random flows, as far as the table takes them.
    fn fill(
        profile: Profile,
        priority: FilterPriority,
        seed: u64,
    ) -> (FilterTable, FilterSpec, TableError) {
        let mut table = FilterTable::new(profile);
        let mut random = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut next = || {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            random
        };
        loop {
            let [ip, port] = [next() as u32, 1 | next() as u16 as u32];
            let local = FlowEnd {
                ip: Ipv4Addr::from_bits(ip).into(),
                port: port as u16,
            };
            let [ip, port] = [next() as u32, 1 | next() as u16 as u32];
            let remote = FlowEnd {
                ip: Ipv4Addr::from_bits(ip).into(),
                port: port as u16,
            };
            let spec = FilterSpec {
                matches: FilterMatch::Full {
                    transport: Transport::Tcp,
                    local,
                    remote,
                },
                action: FilterAction::Drop,
                priority,
            };
            if let Err(refused) = table.insert(&spec, Insert::default()) {
                return (table, spec, refused);
            }
        }
    }

    /// A table is full for a hint much sooner than for what somebody has asked for, and never to its last row.
    #[test]
    fn a_hashed_table_refuses_long_before_its_last_row_is_taken() {
        for seed in 1..=8 {
            let (table, spec, refused) = fill(Profile::Siena, FilterPriority::Manual, seed);
            let full = table.len() as f64 / 8192.;
            assert!((0.95..0.99).contains(&full), "seed {seed}: {full}");
            let says = format!(
                "{} of 8192 rows are used, among them the first 200 that",
                table.len()
            );
            assert!(refused.to_string().contains(&says), "{refused}");
            assert_eq!(table.uses()[0].used, table.len());
            assert_eq!(table.index_finds(&spec), None);
            let (table, _, refused) = fill(Profile::Siena, FilterPriority::Hint, seed);
            let full = table.len() as f64 / 8192.;
            assert!((0.20..0.39).contains(&full), "seed {seed}: {full}");
            assert!(
                refused.to_string().contains("a hint is not looked far for"),
                "{refused}"
            );
            assert!(table.uses()[0].depths[0].limit <= 6);
        }
        // Falcon has another bank.
        let (table, ..) = fill(Profile::Falcon, FilterPriority::Manual, 1);
        assert!(table.len() as f64 > 0.95 * 16384., "{}", table.len());
    }

    /// Search limits only grow, until nothing is left; what lies deep moves up when it is put in anew.
    #[test]
    fn a_limit_shrinks_when_the_table_is_empty_and_not_before() {
        let (mut table, ..) = fill(Profile::Siena, FilterPriority::Manual, 3);
        let limit = |table: &FilterTable| table.uses()[0].depths.first().map(|d| d.deepest);
        let deepest = limit(&table).unwrap();
        assert!(deepest > 100);
        let all: Vec<FilterSpec> = table.iter().collect();
        let (last, others) = all.split_last().unwrap();
        for spec in others {
            table.remove(&spec.matches, spec.priority).unwrap();
        }
        assert_eq!((limit(&table), table.len()), (Some(deepest), 1));
        assert_eq!(table.index_finds(last), Some(FilterAction::Drop));
        let id = |table: &FilterTable| table.numbered().next().unwrap().id;
        let (deep, replace) = (
            id(&table),
            Insert {
                replace: true,
                loc: None,
            },
        );
        table.insert(last, replace).unwrap();
        let up = id(&table);
        table.insert(last, replace).unwrap();
        assert_eq!(up, id(&table));
        // Of some eight thousand, not all lie in the row where they are looked for first; this one does now.
        let first = table
            .store
            .search(&last.matches, FilterPriority::Manual)
            .held
            .unwrap()
            .0;
        assert_eq!(first.spot.depth, 1, "moved from {deep:?} to {up:?}");
        table.remove(&last.matches, last.priority).unwrap();
        assert_eq!((limit(&table), table.is_empty()), (None, true));
    }

    #[test]
    fn ids_sort_as_filters_win_and_name_them() {
        for profile in TABLES.into_iter().chain([Profile::Falcon]) {
            let mut table = FilterTable::new(profile);
            for words in [
                "flow-type ether dst unknown-multicast vf 1",
                "flow-type ether dst 02:00:00:00:00:01 vf 1",
                "flow-type tcp4 dst-ip 10.0.0.1 dst-port 80 vf 1",
                "flow-type ether dst 02:00:00:00:00:01 vlan 7 vf 1",
                "flow-type udp4 dst-ip 10.0.0.1 dst-port 80 src-ip 10.0.0.2 src-port 5 vf 1",
                "egress vf 1 flow-type ether src 02:00:00:00:00:01 action pass",
                "egress vf 1 flow-type ether src 02:00:00:00:00:01 vlan 7 action pass",
            ] {
                let added = add(&mut table, words);
                let lacks = profile == Profile::Falcon
                    || profile == Profile::Ef10 && words.starts_with("egress");
                assert_eq!(added.is_ok(), !lacks || words.contains("p4"), "{added:?}");
            }
            let all: Vec<_> = table.numbered().collect();
            let ids: Vec<FilterId> = all.iter().map(|filter| filter.id.unwrap()).collect();
            // Where software numbers the rows, an id is the row's number and says nothing of who wins.
            match profile {
                Profile::Generic => assert_eq!(
                    ids.iter()
                        .map(|id| id.0)
                        .collect::<std::collections::BTreeSet<_>>(),
                    (0..7).collect()
                ),
                _ => assert!(ids.is_sorted(), "{ids:?}"),
            }
            for (filter, id) in all.iter().zip(ids) {
                let wrong = table.named(id, FilterPriority::Hint).unwrap_err();
                assert!(
                    wrong.to_string().ends_with("has priority manual"),
                    "{wrong}"
                );
                let matches = table.named(id, FilterPriority::Manual).unwrap();
                assert_eq!(matches, filter.spec.matches);
                table.remove(&matches, FilterPriority::Manual).unwrap();
                assert_eq!(
                    table.named(id, FilterPriority::Manual),
                    Err(TableError::NoSuchId(id))
                );
            }
            assert!(table.is_empty());
        }
        // What Linux calls the known filter of the hash: precedence 1 << 13 | row 3914.
        let mut table = FilterTable::new(Profile::Siena);
        add(
            &mut table,
            "flow-type tcp4 dst-ip 10.0.0.1 dst-port 5001 vf 0",
        )
        .unwrap();
        assert_eq!(
            table.numbered().next().unwrap().id,
            Some(FilterId(1 << 13 | 3914))
        );
    }

    #[test]
    fn software_chooses_a_row_where_it_may() {
        let mut table = FilterTable::new(Profile::Generic);
        let at = |row| Insert {
            loc: Some(FilterId(row)),
            replace: false,
        };
        let nth = |n| spec(&format!("flow-type ether proto {} vf 1", 0x9000 + n));
        table.insert(&nth(1), at(1)).unwrap();
        table.insert(&nth(2), Insert::default()).unwrap();
        table.insert(&nth(3), Insert::default()).unwrap();
        table.insert(&nth(4), at(8191)).unwrap();
        let rows: Vec<u32> = table
            .numbered()
            .map(|filter| filter.id.unwrap().0)
            .collect();
        assert_eq!(rows, [1, 0, 2, 8191]);
        let taken = table.insert(&nth(5), at(1)).unwrap_err().to_string();
        assert!(
            taken.starts_with("loc 1: filter flow-type ether proto 0x9001 is there"),
            "{taken}"
        );
        let beyond = table.insert(&nth(5), at(8192)).unwrap_err().to_string();
        assert_eq!(beyond, "loc 8192: rows are 0 to 8191");
        let first = table.named(FilterId(0), FilterPriority::Manual).unwrap();
        table.remove(&first, FilterPriority::Manual).unwrap();
        table.insert(&nth(5), Insert::default()).unwrap();
        assert_eq!(table.store.at(FilterId(0)), Some(nth(5).matches));
        // In another row with a higher priority: it leaves the one where it was.
        let required = FilterSpec {
            priority: FilterPriority::Required,
            ..nth(5)
        };
        table.insert(&required, at(9)).unwrap();
        assert_eq!(
            (table.store.at(FilterId(0)), table.store.at(FilterId(9))),
            (None, Some(nth(5).matches))
        );
        assert_eq!((table.len(), table.uses()[0].used), (4, 4));
        for profile in [Profile::Siena, Profile::Ef10] {
            let mut table = FilterTable::new(profile);
            let refused = table
                .insert(&spec(&format!("{MATCH} vf 1")), at(3))
                .unwrap_err();
            assert!(
                refused
                    .to_string()
                    .contains("chooses the row of a filter itself"),
                "{refused}"
            );
        }
    }

    /// Every combination of fields costs every frame a probe, so there are not many; filters of one cost no more than one.
    #[test]
    fn filters_look_at_so_many_combinations_of_fields_at_a_time() {
        let mut table = FilterTable::new(Profile::Generic);
        let nth = |n: usize| format!("flow-type ip4 dst-ip 10.0.0.0/{} vf 1", n + 1);
        for n in 0..MAX_COMBINATIONS {
            add(&mut table, &nth(n)).unwrap();
        }
        let refused = add(&mut table, &nth(MAX_COMBINATIONS)).unwrap_err();
        assert!(
            refused.contains("filters look at 16 other combinations"),
            "{refused}"
        );
        // Others of a combination in use, and kinds that have an index of their own, go on.
        for words in [
            "ip4 dst-ip 192.168.0.0/16 vf 1",
            "tcp4 dst-ip 10.0.0.1 dst-port 1 vf 1",
        ] {
            add(&mut table, &format!("flow-type {words}")).unwrap();
        }
        let first = spec(&nth(0)).matches;
        table.remove(&first, FilterPriority::Manual).unwrap();
        add(&mut table, &nth(MAX_COMBINATIONS)).unwrap();
        for filter in table.iter().collect::<Vec<_>>() {
            table.remove(&filter.matches, filter.priority).unwrap();
        }
        assert!(table.is_empty() && table.index.has_turn_for(&first));
    }

    #[test]
    fn a_nic_looks_at_what_its_profile_says() {
        for (profile, words, says) in [
            (Profile::Ef10, "ip4 dst-ip 10.0.0.1", ""),
            (Profile::Ef10, "udp6 src-ip fd00::1 dst-ip fd00::2", ""),
            (
                Profile::Ef10,
                "ether dst 02:00:00:00:00:01 vlan 3 inner-vlan 4",
                "",
            ),
            (
                Profile::Ef10,
                "ether vlan 3",
                "profile ef10 looks at dst-port+src-port+dst-ip",
            ),
            (
                Profile::Ef10,
                "ip4 dst-ip 10.0.0.0/8",
                "together, without masks",
            ),
            (
                Profile::Siena,
                "ip4 dst-ip 10.0.0.1",
                "profile siena holds 0 of the kind",
            ),
            (
                Profile::Ixgbe,
                "ip4 dst-ip 10.0.0.1",
                "profile ixgbe holds 0 of the kind",
            ),
            (Profile::Generic, "ether vlan 3 src 02:00:00:00:00:01", ""),
            (Profile::Generic, "tcp4 src-port 0", "ports are 1 to 65535"),
            (
                Profile::Generic,
                "ether dst 01:80:c2:00:00:00 vlan 3 inner-vlan 4",
                "no filter sees it",
            ),
            (
                Profile::Generic,
                "ether dst 01:80:c2:00:00:00 m 00:00:00:00:00:ff",
                "",
            ),
            (
                Profile::Generic,
                "ether src 02:00:00:00:00:01 m ff:ff:ff:ff:ff:ff",
                "one bit at least that matters",
            ),
            (
                Profile::Generic,
                "ether proto 0x8808 vlan 3",
                "never passes a switch",
            ),
        ] {
            let added = add(
                &mut FilterTable::new(profile),
                &format!("flow-type {words} vf 1"),
            );
            match says {
                "" => assert_eq!(added, Ok(()), "{words}"),
                says => assert!(
                    added.clone().unwrap_err().contains(says),
                    "{words}: {added:?}"
                ),
            }
        }
    }

    impl FilterTable {
        /// What a frame of the flow of `spec` finds in the index.
        fn index_finds(&self, spec: &FilterSpec) -> Option<FilterAction> {
            let FilterMatch::Full {
                transport,
                local,
                remote,
            } = spec.matches
            else {
                panic!("a flow")
            };
            let (IpAddr::V4(to), IpAddr::V4(from)) = (local.ip, remote.ip) else {
                panic!("IPv4")
            };
            let mut head = vec![
                2,
                0,
                0,
                0,
                0,
                1,
                2,
                0,
                0,
                0,
                0,
                2,
                8,
                0,
                0x45,
                0,
                0,
                40,
                0,
                0,
                0,
                0,
                64,
                transport.protocol(),
                0,
                0,
            ];
            head.extend([from.octets(), to.octets()].concat());
            head.extend([remote.port.to_be_bytes(), local.port.to_be_bytes()].concat());
            head.resize(60, 0);
            let flow = self.flow_actions(&head, None, || None);
            flow.first(|_| true).map(|rule| rule.action)
        }

        /// What the NIC finds in its rows: it probes for what each kind of filter would be that matches, the first kind first.
        fn rows_find(&self, head: &[u8], vlan: Vlan) -> Option<FilterAction> {
            let header = Header::parse(head).unwrap();
            let mut candidates = Vec::new();
            if let Some(flow) = header.flow(head)
                && let Some((from, to)) = flow.ports
            {
                let transport = [Transport::Tcp, Transport::Udp]
                    .into_iter()
                    .find(|t| t.protocol() == flow.protocol)
                    .unwrap();
                let local = FlowEnd {
                    ip: flow.dst,
                    port: to,
                };
                let remote = FlowEnd {
                    ip: flow.src,
                    port: from,
                };
                candidates.push(FilterMatch::Full {
                    transport,
                    local,
                    remote,
                });
                candidates.push(FilterMatch::Local { transport, local });
            }
            if let Ok(vid) = vf_packet::Vid::new(vlan.to_u16()) {
                candidates.push(FilterMatch::MacVlan {
                    mac: header.dst,
                    vid,
                });
            }
            candidates.push(FilterMatch::Mac(header.dst));
            candidates.push(FilterMatch::EtherType(header.ethertype));
            if header.dst.is_multicast() && !header.dst.is_broadcast() {
                candidates.push(FilterMatch::UnknownMulticast);
            }
            let mut rows = candidates
                .iter()
                .map(|matches| self.store.search(matches, FilterPriority::Hint).held);
            rows.find_map(|held| Some(held?.1.action))
        }
    }

    proptest! {
        /// The rows decide what is admitted and the index what becomes of a frame: they never disagree.
        #[test]
        fn what_the_rows_hold_is_what_frames_find(
            profile in select(vec![Profile::Falcon, Profile::Siena, Profile::Ef10, Profile::Generic]),
            changes in vec((0u8..4, 0u16..40, 0u8..5, 0usize..4, any::<bool>()), 1..200),
        ) {
            let priorities = [FilterPriority::Hint, FilterPriority::Auto, FilterPriority::Manual, FilterPriority::Required];
            let mac = |n: u16| MacAddr([2 | (n % 2) as u8, 0, 0, 0, 0, 0]).offset(u32::from(n % 5));
            let words = |kind, n: u16| match kind {
                0 => format!("tcp4 dst-ip 10.0.0.{} dst-port {} src-ip 10.0.1.1 src-port 9", n % 4 + 1, n % 3 + 1),
                1 => format!("tcp4 dst-ip 10.0.0.{} dst-port {}", n % 4 + 1, n % 3 + 1),
                2 if n.is_multiple_of(7) => "ether dst unknown-multicast".to_owned(),
                2 => format!("ether dst {}", mac(n)),
                _ => format!("ether dst {} vlan 3", mac(n)),
            };
            let mut table = FilterTable::new(profile);
            for (kind, n, vf, priority, keep) in changes {
                let FilterSpec { matches, action, .. } = spec(&format!("flow-type {} vf {vf}", words(kind, n)));
                let priority = priorities[priority];
                let _ = match keep {
                    true => table.insert(&FilterSpec { matches, action, priority }, Insert { replace: n.is_multiple_of(2), loc: None }),
                    false => table.remove(&matches, priority),
                };
            }
            for n in 0u16..40 {
                let mut head = [mac(n).0, [2, 0, 0, 0, 0, 9]].concat();
                let vlan = match n % 3 {
                    0 => Vlan::NONE,
                    _ => {
                        head.extend([0x81, 0, 0, 3]);
                        Vlan::of_vid(vf_packet::Vid::new(3).unwrap())
                    }
                };
                head.extend([8, 0, 0x45, 0, 0, 40, 0, 0, 0, 0, 64, 6, 0, 0, 10, 0, 1, 1]);
                head.extend([10, 0, 0, (n % 6) as u8, 0, if n > 20 { 9 } else { 8 }, 0, (n % 5) as u8]);
                head.resize(64, 0);
                let header = Header::parse(&head).unwrap();
                let by_index = table.find(&header, table.flow_actions(&head, None, || None).of(&head), vlan, |_| true);
                prop_assert_eq!(by_index.map(|rule| rule.action), table.rows_find(&head, vlan));
            }
            let listed: usize = table.numbered().filter(|filter| filter.id.is_some()).count();
            prop_assert_eq!(listed, table.len());
            prop_assert_eq!(table.uses().iter().map(|table| table.used).sum::<usize>(), table.len());
        }
    }

    #[test]
    fn a_table_holds_so_many_and_nothing_twice() {
        let mut table = FilterTable::new(Profile::Generic);
        let nth = |n| {
            let mac = MacAddr([2, 0, 0, 0, 0, 0]).offset(n);
            spec(&format!("flow-type ether dst {mac} action drop"))
        };
        for n in 0..MAX_TABLE_FILTERS {
            table.insert(&nth(n as u32), Insert::default()).unwrap();
        }
        let full = table
            .insert(&nth(MAX_TABLE_FILTERS as u32), Insert::default())
            .unwrap_err();
        assert_eq!(
            full.to_string(),
            "EBUSY, the filter table is full: 8192 filters, delete one first"
        );
        let again = table
            .insert(&nth(7), Insert::default())
            .unwrap_err()
            .to_string();
        assert!(
            again.contains("dst 02:00:00:00:00:07 priority manual: EEXIST, it is there already"),
            "{again}"
        );
        table
            .remove(&nth(7).matches, FilterPriority::Manual)
            .unwrap();
        let gone = table
            .remove(&nth(7).matches, FilterPriority::Manual)
            .unwrap_err();
        assert!(
            gone.to_string().ends_with("there is no such filter"),
            "{gone}"
        );
        table
            .insert(&nth(MAX_TABLE_FILTERS as u32), Insert::default())
            .unwrap();
    }

    #[test]
    fn what_no_frame_can_match_is_refused() {
        let mut table = FilterTable::new(Profile::Generic);
        for (words, says) in [
            (
                "flow-type tcp4 dst-ip 10.0.0.1 dst-port 0 vf 1",
                "ports are 1 to 65535",
            ),
            (
                "flow-type ether dst 00:00:00:00:00:00 vf 1",
                "other than zero",
            ),
            ("flow-type ether proto 0x5ff vf 1", "0x600 or more"),
        ] {
            let refusal = add(&mut table, words).unwrap_err();
            assert!(refusal.contains(says), "{words}: {refusal}");
        }
        assert!(table.is_empty());
    }
}
