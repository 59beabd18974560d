//! Where the filters of a NIC lie: in the hashed rows of a Solarflare NIC, or in rows that software numbers. Says whether
//! there is room and what a filter's id is. Never looks at a frame, and knows no priority but for how hard it is worth
//! looking for a row.

use std::hash::{Hash, Hasher};

use crate::cow_map::{CowMap, Fold};
use crate::farch::{FarchTables, farch_filter};
use crate::filter_fields::MatchFlags;
use crate::filter_spec::{FilterAction, FilterId, FilterMatch, FilterPriority};
use crate::hash_rows::{HashRows, Probe, Search, Spot};
use crate::number_set::NumberSet;
use crate::profile::{MAX_TABLE_FILTERS, TableKind};
use crate::rule::CounterId;

/// Rows of the table that Linux's sfc driver keeps of an EF10 NIC's filters (mcdi_filters.c).
pub(crate) const EF10_ROWS: usize = 16384;
/// How deep it looks in it.
const EF10_DEEPEST: u16 = 200;

/// A filter but for its match, and what it has displaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Held {
    pub(crate) action: FilterAction,
    pub(crate) priority: FilterPriority,
    /// What a filter of priority auto said whose place this one has taken: it comes back when this one goes.
    pub(crate) over_auto: Option<FilterAction>,
    /// Where the frames are counted that it decides on.
    pub(crate) counter: CounterId,
}

/// A filter in its row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Row {
    pub(crate) matches: FilterMatch,
    pub(crate) held: Held,
}

/// A row of one of a NIC's tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) table: u8,
    pub(crate) spot: Spot,
}

/// What a search has come to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Found {
    /// The filter with that match.
    pub(crate) held: Option<(Place, Held)>,
    /// A free row in which it could lie, in front of its own if it has one.
    pub(crate) free: Option<Place>,
}

/// How full a table of the NIC is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableUse {
    /// Which.
    pub name: &'static str,
    /// Rows there are.
    pub rows: usize,
    /// Rows in use.
    pub used: usize,
    /// How deep the hardware searches, for each kind of filter that it does for.
    pub depths: Vec<SearchDepth>,
}

/// How deep the filters of one kind lie, and how deep the hardware therefore looks for them: it shrinks only when the table
/// has become empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SearchDepth {
    /// Which kind.
    pub kind: &'static str,
    /// The deepest row that one has been put into, counted from 1.
    pub deepest: u16,
    /// What the hardware is told.
    pub limit: u16,
}

impl Place {
    pub(crate) fn new(table: u8, spot: Spot) -> Place {
        Place { table, spot }
    }
}

impl Found {
    pub(crate) fn of(table: u8, search: Search<Row>) -> Found {
        let place = |spot| Place::new(table, spot);
        Found {
            held: search.held.map(|(spot, row)| (place(spot), row.held)),
            free: search.free.map(place),
        }
    }

    pub(crate) fn held(place: Place, held: Held) -> Found {
        Found {
            held: Some((place, held)),
            free: None,
        }
    }

    pub(crate) fn free(place: Place) -> Found {
        Found {
            held: None,
            free: Some(place),
        }
    }

    /// What two banks have, the first of them first.
    pub(crate) fn or(self, next: Found) -> Found {
        Found {
            held: self.held.or(next.held),
            free: self.free.or(next.free),
        }
    }
}

/// See the module.
#[derive(Clone, Debug)]
pub(crate) enum Store {
    Farch(FarchTables),
    Ef10(HashRows<Row, 1>),
    Numbered(NumberedRows),
}

/// Rows whose numbers are software's to choose, as with ethtool's `loc`.
#[derive(Clone, Debug)]
pub(crate) struct NumberedRows {
    by_match: CowMap<FilterMatch, (Held, u32)>,
    used: usize,
    rows: NumberSet,
}

impl NumberedRows {
    fn new(seed: u64) -> NumberedRows {
        NumberedRows {
            by_match: CowMap::new(seed),
            used: 0,
            rows: NumberSet::new(MAX_TABLE_FILTERS),
        }
    }

    fn put(&mut self, row: u32, matches: &FilterMatch, held: Option<Held>) {
        let was = self.by_match.put(*matches, held.map(|held| (held, row)));
        self.used = self.used + usize::from(held.is_some()) - usize::from(was);
        self.rows.set(row, held.is_some());
    }
}

/// What an EF10 NIC's firmware can look at together, in the order in which it does.
pub(crate) const EF10_COMBINATIONS: &[MatchFlags] = &[
    MatchFlags::FULL,
    MatchFlags::LOCAL,
    MatchFlags::DST_IP
        .union(MatchFlags::SRC_IP)
        .union(MatchFlags::IP_PROTO)
        .union(MatchFlags::ETHER_TYPE),
    MatchFlags::DST_IP
        .union(MatchFlags::SRC_IP)
        .union(MatchFlags::ETHER_TYPE),
    MatchFlags::DST_IP
        .union(MatchFlags::IP_PROTO)
        .union(MatchFlags::ETHER_TYPE),
    MatchFlags::DST_IP.union(MatchFlags::ETHER_TYPE),
    MatchFlags::IP_PROTO.union(MatchFlags::ETHER_TYPE),
    MatchFlags::MAC_VLAN.union(MatchFlags::INNER_VID),
    MatchFlags::MAC_VLAN,
    MatchFlags::DST_MAC,
    MatchFlags::ETHER_TYPE,
    MatchFlags::UNKNOWN_MULTICAST,
    MatchFlags::UNKNOWN_UNICAST,
];

/// Where what a filter looks at is among those.
fn ef10_precedence(matches: &FilterMatch) -> u32 {
    let flags = matches.flags();
    let mut all = EF10_COMBINATIONS.iter().zip(0..);
    all.find(|(listed, _)| **listed == flags)
        .map_or(0, |(_, at)| at)
}

fn ef10_probe(matches: &FilterMatch) -> Probe {
    let mut hasher = Fold::new(0);
    matches.hash(&mut hasher);
    Probe {
        start: hasher.finish() as u32,
        step: 1,
        kind: 0,
    }
}

impl Store {
    pub(crate) fn new(kind: TableKind, seed: u64) -> Store {
        match kind {
            TableKind::Farch { ip_banks, mac } => Store::Farch(FarchTables::new(ip_banks, mac)),
            TableKind::Ef10 => Store::Ef10(HashRows::new(EF10_ROWS)),
            TableKind::Numbered => Store::Numbered(NumberedRows::new(seed)),
        }
    }

    /// The filter with this match, and a row for one.
    pub(crate) fn search(&self, matches: &FilterMatch, priority: FilterPriority) -> Found {
        match self {
            Store::Farch(tables) => tables.search(matches, priority),
            Store::Ef10(rows) => {
                let is_it = |row: &Row| row.matches == *matches;
                Found::of(0, rows.search(ef10_probe(matches), EF10_DEEPEST, is_it))
            }
            Store::Numbered(rows) => match rows.by_match.get(matches) {
                Some((held, row)) => Found::held(numbered(row), held),
                None => rows
                    .rows
                    .free()
                    .map_or_else(Found::default, |row| Found::free(numbered(row))),
            },
        }
    }

    /// Fills a row that a search has found, or clears it. What was in another row so far leaves that.
    pub(crate) fn put(
        &mut self,
        place: Place,
        was_in: Option<Place>,
        matches: &FilterMatch,
        held: Option<Held>,
    ) {
        let leaves = was_in
            .filter(|was_in| (was_in.table, was_in.spot.row) != (place.table, place.spot.row));
        let row = held.map(|held| Row {
            matches: *matches,
            held,
        });
        match self {
            Store::Farch(tables) => {
                tables.put(place, matches, held);
                if let Some(place) = leaves {
                    tables.put(place, matches, None);
                }
            }
            Store::Ef10(rows) => {
                rows.put(place.spot, 0, row);
                if let Some(place) = leaves {
                    rows.put(place.spot, 0, None);
                }
            }
            Store::Numbered(rows) => {
                if let Some(place) = leaves {
                    rows.put(place.spot.row, matches, None);
                }
                rows.put(place.spot.row, matches, held);
            }
        }
    }

    /// The row that software calls so; `None` if the NIC chooses its rows itself, or has none of that number.
    pub(crate) fn numbered(&self, id: FilterId) -> Option<Place> {
        match self {
            Store::Numbered(_) if (id.0 as usize) < MAX_TABLE_FILTERS => Some(numbered(id.0)),
            _ => None,
        }
    }

    /// How many rows software can choose from.
    pub(crate) fn numbered_rows(&self) -> usize {
        match self {
            Store::Numbered(_) => MAX_TABLE_FILTERS,
            _ => 0,
        }
    }

    /// The id of a filter in this place: where the NIC chooses the rows, filters that win have the lower ids.
    pub(crate) fn id(&self, matches: &FilterMatch, place: Place) -> FilterId {
        FilterId(match self {
            Store::Farch(tables) => {
                let precedence = farch_filter(matches).map_or(0, |(of, _)| of.precedence());
                precedence << tables.index_bits() | tables.index(place)
            }
            Store::Ef10(_) => {
                ef10_precedence(matches) << EF10_ROWS.trailing_zeros() | place.spot.row
            }
            Store::Numbered(_) => place.spot.row,
        })
    }

    /// The match of the filter with this id.
    pub(crate) fn at(&self, id: FilterId) -> Option<FilterMatch> {
        let split = |bits: u32| (id.0 >> bits, id.0 & ((1 << bits) - 1));
        match self {
            Store::Farch(tables) => {
                let (precedence, index) = split(tables.index_bits());
                tables.at(precedence, index)
            }
            Store::Ef10(rows) => {
                let (precedence, row) = split(EF10_ROWS.trailing_zeros());
                let row = rows.get(row)?;
                (ef10_precedence(&row.matches) == precedence).then_some(row.matches)
            }
            Store::Numbered(rows) if rows.rows.is_taken(id.0) => {
                let mut all = rows.by_match.iter();
                all.find_map(|(matches, (_, row))| (*row == id.0).then_some(*matches))
            }
            Store::Numbered(_) => None,
        }
    }

    /// All filters with their places, in no order.
    pub(crate) fn rows(&self) -> Vec<(Place, Row)> {
        match self {
            Store::Farch(tables) => tables.iter().collect(),
            Store::Ef10(rows) => {
                let rows = rows.iter();
                rows.map(|(row, held)| (numbered(row), held)).collect()
            }
            Store::Numbered(rows) => {
                let rows = rows.by_match.iter();
                rows.map(|(matches, (held, row))| {
                    let (matches, held) = (*matches, *held);
                    (numbered(*row), Row { matches, held })
                })
                .collect()
            }
        }
    }

    /// How deep a row is looked for, if that is why there is none.
    pub(crate) fn depth_for(&self, priority: FilterPriority) -> Option<u16> {
        match self {
            Store::Farch(_) => Some(FarchTables::depth_for(priority)),
            Store::Ef10(_) => Some(EF10_DEEPEST),
            Store::Numbered(_) => None,
        }
    }

    /// How full its tables are.
    pub(crate) fn uses(&self) -> Vec<TableUse> {
        match self {
            Store::Farch(tables) => tables.uses(),
            Store::Ef10(rows) => {
                let deepest = rows.limit(0);
                let depth = SearchDepth {
                    kind: "any",
                    deepest,
                    limit: EF10_DEEPEST,
                };
                vec![TableUse {
                    name: "rx",
                    rows: rows.rows(),
                    used: rows.used(),
                    depths: vec![depth].into_iter().filter(|_| deepest > 0).collect(),
                }]
            }
            Store::Numbered(rows) => vec![TableUse {
                name: "all",
                rows: MAX_TABLE_FILTERS,
                used: rows.used,
                depths: Vec::new(),
            }],
        }
    }
}

/// A row of the only table that there is.
fn numbered(row: u32) -> Place {
    Place::new(0, Spot { row, depth: 0 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ef10_lists_what_it_looks_at_in_the_order_in_which_all_filters_win() {
        assert!(EF10_COMBINATIONS.is_sorted_by(|first, next| first > next));
    }
}
