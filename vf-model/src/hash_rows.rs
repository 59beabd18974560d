//! A table of rows in hardware that is searched by double hashing, no deeper than a limit that grows with what is put in:
//! a full table is not one without a free row but one whose free rows are too deep (Linux's sfc, farch.c and
//! mcdi_filters.c). A copy shares with the table all rows but those of the chunks that change. Knows neither filters nor
//! frames.

use std::sync::Arc;

/// Rows that are copied together when one of them changes; a power of two.
const CHUNK: usize = 128;

type Chunk<T> = Arc<[Option<T>]>;

/// Where a key is looked for: in `start`, then each `step` rows further on, around the end of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Probe {
    pub(crate) start: u32,
    /// Odd, so that all rows are visited before one is seen twice.
    pub(crate) step: u32,
    /// Which search limit the key has.
    pub(crate) kind: usize,
}

/// A row, and as the how many-th it is looked at, counted from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Spot {
    pub(crate) row: u32,
    pub(crate) depth: u16,
}

/// What a search has come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Search<T> {
    /// What was looked for.
    pub(crate) held: Option<(Spot, T)>,
    /// The first free row before it, or at all.
    pub(crate) free: Option<Spot>,
}

/// See the module. The number of rows is a power of two.
#[derive(Clone, Debug)]
pub(crate) struct HashRows<T, const KINDS: usize> {
    chunks: Arc<[Chunk<T>]>,
    used: usize,
    /// How deep what is in the table lies at most, by kind.
    limits: [u16; KINDS],
}

impl<T: Copy, const KINDS: usize> HashRows<T, KINDS> {
    /// An empty table of at least so many rows.
    pub(crate) fn new(rows: usize) -> HashRows<T, KINDS> {
        let chunks = (rows / CHUNK).max(1).next_power_of_two();
        HashRows {
            chunks: vec![Chunk::default(); chunks].into(),
            used: 0,
            limits: [0; KINDS],
        }
    }

    pub(crate) fn rows(&self) -> usize {
        self.chunks.len() * CHUNK
    }

    /// How many rows are in use.
    pub(crate) fn used(&self) -> usize {
        self.used
    }

    /// How deep a key of this kind is looked for.
    pub(crate) fn limit(&self, kind: usize) -> u16 {
        self.limits.get(kind).copied().unwrap_or_default()
    }

    pub(crate) fn get(&self, row: u32) -> Option<T> {
        let row = row as usize;
        *self.chunks.get(row / CHUNK)?.get(row % CHUNK)?
    }

    /// Looks for what `is_it` knows within the limit of its kind, and for a free row as deep as `deepest`.
    pub(crate) fn search(
        &self,
        probe: Probe,
        deepest: u16,
        is_it: impl Fn(&T) -> bool,
    ) -> Search<T> {
        let mask = self.rows() as u32 - 1;
        let limit = self.limit(probe.kind);
        let (mut free, mut row) = (None, probe.start & mask);
        for depth in 1..=limit.max(deepest) {
            let spot = Spot { row, depth };
            match self.get(row) {
                Some(held) if is_it(&held) => {
                    let held = Some((spot, held));
                    return Search { held, free };
                }
                None if free.is_none() && depth <= deepest => free = Some(spot),
                _ => {}
            }
            if free.is_some() && depth >= limit {
                break;
            }
            row = row.wrapping_add(probe.step) & mask;
        }
        Search { held: None, free }
    }

    /// Fills a row, or clears it. Limits shrink only when the table has become empty: nobody knows what else lies so deep.
    pub(crate) fn put(&mut self, spot: Spot, kind: usize, value: Option<T>) {
        let row = spot.row as usize;
        let Some(chunk) = Arc::make_mut(&mut self.chunks).get_mut(row / CHUNK) else {
            return; // no search names such a row
        };
        if chunk.is_empty() {
            *chunk = vec![None; CHUNK].into();
        }
        let Some(slot) = Arc::make_mut(chunk).get_mut(row % CHUNK) else {
            return; // the chunk has CHUNK rows
        };
        self.used = self.used + usize::from(value.is_some()) - usize::from(slot.is_some());
        *slot = value;
        match self.limits.get_mut(kind) {
            _ if self.used == 0 => self.limits = [0; KINDS],
            Some(limit) if value.is_some() => *limit = spot.depth.max(*limit),
            _ => {}
        }
    }

    /// The rows in use.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u32, T)> {
        let chunks = self.chunks.iter().enumerate();
        chunks.flat_map(|(chunk, rows)| {
            let rows = rows.iter().enumerate();
            rows.filter_map(move |(row, held)| Some(((chunk * CHUNK + row) as u32, (*held)?)))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn probe(key: u16) -> Probe {
        Probe {
            start: u32::from(key % 7) * 40,
            step: u32::from(key % 3) * 2 + 1,
            kind: usize::from(key % 2),
        }
    }

    proptest! {
        /// Whatever is put in and taken out, and however often rows are free in front of others.
        #[test]
        fn what_is_put_in_is_found_and_copies_do_not_change(
            changes in proptest::collection::vec((0u16..200, any::<bool>()), 0..600),
        ) {
            let mut table: HashRows<(u16, usize), 2> = HashRows::new(128);
            let mut model = BTreeMap::new();
            let mut copies = Vec::new();
            for (at, (key, add)) in changes.into_iter().enumerate() {
                let search = table.search(probe(key), 20, |(k, _)| *k == key);
                prop_assert_eq!(search.held.map(|(_, v)| v), model.get(&key).map(|at| (key, *at)));
                let kind = probe(key).kind;
                match (add, search.held, search.free) {
                    (true, None, Some(free)) => {
                        table.put(free, kind, Some((key, at)));
                        model.insert(key, at);
                    }
                    (false, Some((spot, _)), _) => {
                        table.put(spot, kind, None);
                        model.remove(&key);
                    }
                    _ => {}
                }
                if at % 100 == 50 {
                    copies.push((table.clone(), model.clone()));
                }
            }
            copies.push((table, model));
            for (table, model) in copies {
                prop_assert_eq!(table.used(), model.len());
                let all: BTreeMap<_, _> = table.iter().map(|(_, held)| held).collect();
                prop_assert_eq!(all, model);
                prop_assert_eq!(table.limits == [0; 2], table.used() == 0);
            }
        }
    }
}
