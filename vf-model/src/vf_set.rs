//! Which VF of its NIC: one, a range of them as commands name it, and sets of them. Knows nothing of what is said about a VF.

use std::fmt;

use serde::Serialize;

/// Most VFs a NIC can have.
pub const MAX_VFS: u16 = 256;

/// Which VF of its NIC, counted from 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct VfIndex(pub u8);

impl VfIndex {
    /// As an index into a table of VFs.
    #[must_use]
    #[inline]
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

impl From<usize> for VfIndex {
    /// Numbers above 255 become 255: no NIC has more than [`MAX_VFS`] VFs.
    fn from(index: usize) -> VfIndex {
        VfIndex(u8::try_from(index).unwrap_or(u8::MAX))
    }
}

impl fmt::Display for VfIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "vf{}", self.0)
    }
}

/// VFs that a command names: one, or all from one to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VfRange {
    /// The first.
    pub first: VfIndex,
    /// The last, not before the first.
    pub last: VfIndex,
}

impl VfRange {
    /// The VFs, in order.
    pub fn iter(self) -> impl Iterator<Item = VfIndex> {
        (self.first.0..=self.last.0).map(VfIndex)
    }
}

impl From<VfIndex> for VfRange {
    fn from(vf: VfIndex) -> VfRange {
        VfRange {
            first: vf,
            last: vf,
        }
    }
}

impl fmt::Display for VfRange {
    /// As commands have it: `3`, `0-7`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let VfRange { first, last } = self;
        match first == last {
            true => first.0.fmt(f),
            false => write!(f, "{}-{}", first.0, last.0),
        }
    }
}

/// A set of VFs of one NIC.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct VfSet([u64; 4]);

impl VfSet {
    /// Adds a VF.
    #[inline]
    pub fn insert(&mut self, vf: VfIndex) {
        // Each word is written, so that a copy that follows at once does not wait for a part of it.
        for (i, word) in self.0.iter_mut().enumerate() {
            *word |= u64::from(i == vf.index() / 64) << (vf.0 % 64);
        }
    }

    /// Takes a VF out.
    #[inline]
    pub fn remove(&mut self, vf: VfIndex) {
        for (i, word) in self.0.iter_mut().enumerate() {
            *word &= !(u64::from(i == vf.index() / 64) << (vf.0 % 64));
        }
    }

    /// Whether a VF is in it.
    #[must_use]
    #[inline]
    pub fn contains(&self, vf: VfIndex) -> bool {
        self.0[vf.index() / 64] >> (vf.0 % 64) & 1 == 1
    }

    /// Whether no VF is in it.
    #[must_use]
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(|word| *word == 0)
    }

    /// The VF in it, if there is exactly one.
    #[must_use]
    #[inline]
    pub fn only(&self) -> Option<VfIndex> {
        let at = self.0.iter().position(|word| *word != 0)?;
        let (word, rest) = self.0[at..].split_first()?;
        let one = word.is_power_of_two() && rest.iter().all(|word| *word == 0);
        one.then(|| VfIndex::from(at * 64 + word.trailing_zeros() as usize))
    }

    /// How many VFs are in it.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.iter().map(|word| word.count_ones() as usize).sum()
    }

    /// Takes the first VF out, word by word: a core that has just written one of them would have to wait for a copy of all.
    #[inline]
    pub fn pop(&mut self) -> Option<VfIndex> {
        let (at, word) = (0..).zip(&mut self.0).find(|(_, word)| **word != 0)?;
        let bit = word.trailing_zeros() as usize;
        *word &= *word - 1;
        Some(VfIndex::from(at * 64 + bit))
    }

    /// The VFs in it, in order.
    #[inline]
    pub fn iter(&self) -> impl Iterator<Item = VfIndex> + use<> {
        let words = self.0;
        let (mut at, mut word) = (0, words[0]);
        std::iter::from_fn(move || {
            while word == 0 {
                at += 1;
                word = *words.get(at)?;
            }
            let bit = word.trailing_zeros() as usize;
            word &= word - 1;
            Some(VfIndex::from(at * 64 + bit))
        })
    }

    /// The first VF in it from this index on, and else the first of all: whose turn it is.
    #[must_use]
    #[inline]
    pub fn first_from(&self, index: usize) -> Option<VfIndex> {
        let from = |least: usize| {
            let words = (0..).zip(self.0).map(|(i, word)| {
                let mask = match least.saturating_sub(i * 64) {
                    bits @ 0..64 => u64::MAX << bits,
                    _ => 0,
                };
                (i, word & mask)
            });
            let (i, word) = words.into_iter().find(|(_, word)| *word != 0)?;
            Some(VfIndex::from(i * 64 + word.trailing_zeros() as usize))
        };
        from(index).or_else(|| from(0))
    }

    /// The VFs before the one with this index, and the others.
    #[must_use]
    #[inline]
    pub fn split_at(mut self, index: usize) -> (VfSet, VfSet) {
        let mut before = self;
        for (i, (low, high)) in before.0.iter_mut().zip(&mut self.0).enumerate() {
            let mask = match index.saturating_sub(i * 64) {
                bits @ 0..64 => (1 << bits) - 1,
                _ => u64::MAX,
            };
            *low &= mask;
            *high &= !mask;
        }
        (before, self)
    }

    /// The VFs in either.
    #[must_use]
    #[inline]
    pub fn union(mut self, other: VfSet) -> VfSet {
        for (word, o) in self.0.iter_mut().zip(other.0) {
            *word |= o;
        }
        self
    }

    /// The VFs in both.
    #[must_use]
    #[inline]
    pub fn intersection(mut self, other: VfSet) -> VfSet {
        for (word, o) in self.0.iter_mut().zip(other.0) {
            *word &= o;
        }
        self
    }

    /// The VFs in this and not in the other.
    #[must_use]
    #[inline]
    pub fn difference(mut self, other: VfSet) -> VfSet {
        for (word, o) in self.0.iter_mut().zip(other.0) {
            *word &= !o;
        }
        self
    }
}

impl FromIterator<VfIndex> for VfSet {
    fn from_iter<I: IntoIterator<Item = VfIndex>>(vfs: I) -> VfSet {
        let mut set = VfSet::default();
        for vf in vfs {
            set.insert(vf);
        }
        set
    }
}

impl fmt::Debug for VfSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter().map(|vf| vf.0)).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        #[test]
        fn a_set_is_a_set(a: BTreeSet<u8>, b: BTreeSet<u8>) {
            let set = |from: &BTreeSet<u8>| from.iter().map(|i| VfIndex(*i)).collect::<VfSet>();
            let list = |set: VfSet| set.iter().map(|vf| vf.0).collect::<BTreeSet<u8>>();
            prop_assert_eq!(list(set(&a)), a.clone());
            prop_assert_eq!(set(&a).len(), a.len());
            prop_assert_eq!(set(&a).only(), a.iter().next().filter(|_| a.len() == 1).map(|vf| VfIndex(*vf)));
            prop_assert_eq!(list(set(&a).union(set(&b))), &a | &b);
            prop_assert_eq!(list(set(&a).intersection(set(&b))), &a & &b);
            prop_assert_eq!(list(set(&a).difference(set(&b))), &a - &b);
            for at in [0, 1, 63, 64, 65, 128, 200, 255, 256, 300] {
                let (before, others) = set(&a).split_at(at);
                prop_assert_eq!(list(before), a.iter().copied().filter(|i| usize::from(*i) < at).collect::<BTreeSet<_>>());
                prop_assert_eq!(before.union(others), set(&a));
                let turn = a.iter().find(|i| usize::from(**i) >= at).or(a.first());
                prop_assert_eq!(set(&a).first_from(at), turn.map(|i| VfIndex(*i)));
                prop_assert!(before.intersection(others).is_empty());
            }
            let mut popped = set(&a);
            let order: Vec<u8> = std::iter::from_fn(|| popped.pop()).map(|vf| vf.0).collect();
            prop_assert_eq!(order, a.iter().copied().collect::<Vec<_>>());
            let mut without = set(&a);
            for i in &b {
                prop_assert_eq!(set(&a).contains(VfIndex(*i)), a.contains(i));
                without.remove(VfIndex(*i));
            }
            prop_assert_eq!(without, set(&a).difference(set(&b)));
            prop_assert_eq!(without.is_empty(), a.is_subset(&b));
        }
    }
}
