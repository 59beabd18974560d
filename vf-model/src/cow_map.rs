//! A hash map whose copy shares what it has in common with the original: its entries lie in a fixed number of chunks, and a
//! change copies the one it falls into, once for each copy of the map. So a table of thousands of filters is published anew
//! for the price of a few kilobytes. Found in one probe of flat memory like any hash table; persistent maps made of trees
//! take several. The hash is seeded, for guests choose some of the keys. Never allocates while looking up.

use std::hash::{BuildHasher, Hash, Hasher, RandomState};
use std::sync::Arc;

/// A power of two. More of them make the list of chunks longer to copy, fewer the chunks.
const CHUNKS: usize = 64;

type Chunk<K, V> = Arc<[Option<(K, V)>]>;

/// See the module.
#[derive(Clone, Debug)]
pub(crate) struct CowMap<K, V> {
    seed: u64,
    len: usize,
    /// None while the map is empty. Each chunk is a table of open addressing, half empty at most.
    chunks: Option<Arc<[Chunk<K, V>]>>,
}

/// A number that nobody can foresee and that is another in every run.
pub(crate) fn seed() -> u64 {
    RandomState::new().hash_one(0)
}

/// A hash by folded multiplication.
#[derive(Clone, Copy)]
pub(crate) struct Fold(u64);

impl Fold {
    #[inline]
    pub(crate) fn new(seed: u64) -> Fold {
        Fold(seed)
    }
}

impl Hasher for Fold {
    #[inline]
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.write_u64(u64::from_le_bytes(word));
        }
    }

    #[inline]
    fn write_u64(&mut self, word: u64) {
        // Both halves of the product depend on all bits of the word.
        let product = u128::from(self.0 ^ word ^ 0x2437_7300_8ab4_13c5) * 0x9e37_79b9_7f4a_7c15;
        self.0 = (product ^ product >> 64) as u64;
    }

    #[inline]
    fn write_u128(&mut self, word: u128) {
        self.write_u64(word as u64);
        self.write_u64((word >> 64) as u64);
    }

    #[inline]
    fn write_u32(&mut self, word: u32) {
        self.write_u64(word.into());
    }

    #[inline]
    fn write_u16(&mut self, word: u16) {
        self.write_u64(word.into());
    }
}

impl<K: Copy + Eq + Hash, V: Copy> CowMap<K, V> {
    pub(crate) fn new(seed: u64) -> CowMap<K, V> {
        CowMap {
            seed,
            len: 0,
            chunks: None,
        }
    }

    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.chunks.is_none()
    }

    #[inline]
    fn hash(&self, key: &K) -> u64 {
        let mut hasher = Fold::new(self.seed);
        key.hash(&mut hasher);
        hasher.finish()
    }

    #[inline]
    pub(crate) fn get(&self, key: &K) -> Option<V> {
        let chunks = self.chunks.as_deref()?;
        let hash = self.hash(key);
        let chunk = chunks.get(chunk_of(hash))?;
        let mask = chunk.len().wrapping_sub(1);
        let mut at = hash as usize & mask;
        loop {
            match chunk.get(at)? {
                Some((k, value)) if k == key => return Some(*value),
                Some(_) => at = (at + 1) & mask,
                None => return None,
            }
        }
    }

    /// Puts in a value, or takes it out, and says whether there was one.
    pub(crate) fn put(&mut self, key: K, value: Option<V>) -> bool {
        let was = self.get(&key).is_some();
        let hash = self.hash(&key);
        let seed = self.seed;
        match value {
            None if !was => return false,
            None if self.len == 1 => {
                (self.len, self.chunks) = (0, None);
                return true;
            }
            None => self.len -= 1,
            Some(_) => self.len += usize::from(!was),
        }
        let chunks = self
            .chunks
            .get_or_insert_with(|| vec![Chunk::<K, V>::default(); CHUNKS].into());
        let Some(chunk) = Arc::make_mut(chunks).get_mut(chunk_of(hash)) else {
            return was; // there are as many as can be named
        };
        match value {
            Some(value) if was => {
                let slots = Arc::make_mut(chunk).iter_mut().flatten();
                if let Some(slot) = slots.into_iter().find(|(k, _)| *k == key) {
                    slot.1 = value;
                }
            }
            Some(value) => {
                let used = chunk.iter().flatten().count();
                if 2 * (used + 1) > chunk.len() {
                    let old = chunk.iter().flatten().copied();
                    *chunk = chunk_with(seed, 2 * chunk.len().max(2), old);
                }
                insert(seed, Arc::make_mut(chunk), (key, value));
            }
            None => {
                let rest = chunk.iter().flatten().filter(|(k, _)| *k != key).copied();
                *chunk = chunk_with(seed, chunk.len(), rest);
            }
        }
        was
    }

    /// All entries, in no order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &(K, V)> {
        let chunks = self.chunks.as_deref().unwrap_or_default().iter();
        chunks.flat_map(|chunk| chunk.iter().flatten())
    }
}

#[inline]
fn chunk_of(hash: u64) -> usize {
    (hash >> 32) as usize % CHUNKS
}

/// A chunk of this size, a power of two that is more than twice the number of its entries.
fn chunk_with<K: Copy + Hash, V: Copy>(
    seed: u64,
    size: usize,
    entries: impl Iterator<Item = (K, V)>,
) -> Chunk<K, V> {
    let mut slots = vec![None; size];
    entries.for_each(|entry| insert(seed, &mut slots, entry));
    slots.into()
}

/// Puts an entry whose key is not there into slots one of which at least is free.
fn insert<K: Copy + Hash, V: Copy>(seed: u64, slots: &mut [Option<(K, V)>], entry: (K, V)) {
    let mut hasher = Fold::new(seed);
    entry.0.hash(&mut hasher);
    let start = hasher.finish() as usize & slots.len().wrapping_sub(1);
    let (before, from) = slots.split_at_mut(start.min(slots.len()));
    let mut free = from.iter_mut().chain(before).filter(|slot| slot.is_none());
    if let Some(slot) = free.next() {
        *slot = Some(entry);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    proptest! {
        #[test]
        fn each_copy_is_a_map_of_its_own(
            changes in proptest::collection::vec((0u16..300, proptest::option::weighted(0.7, any::<u8>()), any::<bool>()), 0..600),
        ) {
            let mut map = CowMap::new(seed());
            let mut model = BTreeMap::new();
            let mut kept = Vec::new();
            for (key, value, keep) in changes {
                if keep && kept.len() < 4 {
                    kept.push((map.clone(), model.clone()));
                }
                let was = match value {
                    Some(value) => model.insert(key, value),
                    None => model.remove(&key),
                };
                prop_assert_eq!(map.put(key, value), was.is_some());
            }
            kept.push((map, model));
            for (map, model) in kept {
                prop_assert_eq!(map.is_empty(), model.is_empty());
                prop_assert_eq!(map.iter().copied().collect::<BTreeMap<_, _>>(), model.clone());
                for key in 0..300 {
                    prop_assert_eq!(map.get(&key), model.get(&key).copied());
                }
            }
        }
    }

    #[test]
    fn a_copy_shares_all_but_the_chunk_that_changes() {
        let mut map = CowMap::new(1);
        for key in 0..8192u64 {
            map.put(key, Some(key));
        }
        let copy = map.clone();
        map.put(1, None);
        map.put(1, Some(2));
        let [old, new] = [&copy, &map].map(|map| map.chunks.as_deref().unwrap());
        let shared = old.iter().zip(new).filter(|(a, b)| Arc::ptr_eq(a, b));
        assert_eq!(shared.count(), CHUNKS - 1);
    }
}
