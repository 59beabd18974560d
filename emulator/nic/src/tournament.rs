//! A tournament tree: a fixed number of leaves, each with a key, of which the least is found in one step and any is changed
//! in as many steps as the tree is high. Pure; it never knows what a key means.

/// A key for each leaf; the greatest value of `K` that is given to [`Tournament::new`] marks a leaf that does not compete.
#[derive(Clone, Debug)]
pub struct Tournament<K> {
    absent: K,
    /// Each node is the lesser of its two children: the root is at 1, the children of `n` are at `2n` and `2n + 1`, and the
    /// leaves are the second half.
    nodes: Vec<K>,
}

impl<K: Copy + Ord> Tournament<K> {
    /// A tree of at least so many leaves, none of which competes. `absent` is greater than every key.
    pub fn new(absent: K, leaves: usize) -> Tournament<K> {
        Tournament {
            absent,
            nodes: vec![absent; 2 * leaves.next_power_of_two()],
        }
    }

    /// How many leaves there are.
    pub fn leaves(&self) -> usize {
        self.nodes.len() / 2
    }

    /// Makes room for at least so many leaves; the keys stay where they are.
    pub fn grow(&mut self, leaves: usize) {
        if leaves <= self.leaves() {
            return;
        }
        let keys = self.nodes.split_off(self.leaves());
        *self = Tournament::new(self.absent, leaves);
        for (leaf, key) in keys.into_iter().enumerate() {
            self.set(leaf, key);
        }
    }

    /// The key of a leaf; the absent one if it does not compete.
    #[inline]
    pub fn get(&self, leaf: usize) -> K {
        self.nodes[self.leaves() + leaf]
    }

    /// Gives a leaf another key.
    #[inline]
    pub fn set(&mut self, leaf: usize, key: K) {
        let mut node = self.leaves() + leaf;
        if self.nodes[node] == key {
            return;
        }
        self.nodes[node] = key;
        while node > 1 {
            let lesser = self.nodes[node].min(self.nodes[node ^ 1]);
            node /= 2;
            if self.nodes[node] == lesser {
                break; // nothing changes further up
            }
            self.nodes[node] = lesser;
        }
    }

    /// Takes a leaf out of the competition.
    #[inline]
    pub fn remove(&mut self, leaf: usize) {
        self.set(leaf, self.absent);
    }

    /// The least key, if any leaf competes.
    #[inline]
    pub fn least(&self) -> Option<K> {
        let least = *self.nodes.get(1)?;
        (least != self.absent).then_some(least)
    }

    /// The least key of all leaves but one.
    pub fn least_but(&self, leaf: usize) -> Option<K> {
        let mut node = self.leaves() + leaf;
        let mut least = self.absent;
        while node > 1 {
            least = least.min(self.nodes[node ^ 1]);
            node /= 2;
        }
        (least != self.absent).then_some(least)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_tree_says_what_a_look_at_every_leaf_would_say(
            steps in prop::collection::vec((0..40usize, prop::option::of(0..20u32)), 1..200),
        ) {
            let mut tree = Tournament::new(u32::MAX, 1);
            let mut keys = vec![None; 40];
            for (leaf, key) in steps {
                tree.grow(leaf + 1);
                match key {
                    Some(key) => tree.set(leaf, key),
                    None => tree.remove(leaf),
                }
                keys[leaf] = key;
                prop_assert_eq!(tree.least(), keys.iter().flatten().min().copied());
                let others = keys.iter().enumerate().filter(|(other, _)| *other != leaf);
                prop_assert_eq!(tree.least_but(leaf), others.filter_map(|(_, key)| *key).min());
                prop_assert_eq!(tree.get(leaf), key.unwrap_or(u32::MAX));
            }
        }
    }
}
