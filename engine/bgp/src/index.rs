//! Numbers by key, in order: a sorted list in leaves. It takes little more than keys and numbers do.

use alloc::vec::Vec;
use core::ops::RangeInclusive;

/// Entries of a leaf at most.
const LEAF: usize = 256;

/// A sorted map to numbers.
#[derive(Debug)]
pub(crate) struct Index<K> {
    /// The first key of each leaf; the first leaf counts from the beginning of all.
    firsts: Vec<K>,
    /// No leaf is empty.
    leaves: Vec<Leaf<K>>,
    /// The leaf last used: keys come in runs.
    last: usize,
}

#[derive(Debug)]
struct Leaf<K> {
    keys: Vec<K>,
    ids: Vec<u32>,
}

impl<K> Default for Index<K> {
    fn default() -> Self {
        Self { firsts: Vec::new(), leaves: Vec::new(), last: 0 }
    }
}

impl<K: Copy + Ord> Leaf<K> {
    fn insert(&mut self, at: usize, key: K, id: u32) {
        self.keys.insert(at, key);
        self.ids.insert(at, id);
    }

    fn split_off(&mut self, at: usize) -> Leaf<K> {
        let mut split = Leaf { keys: Vec::with_capacity(LEAF), ids: Vec::with_capacity(LEAF) };
        split.keys.extend(self.keys.drain(at..));
        split.ids.extend(self.ids.drain(at..));
        split
    }
}

impl<K: Copy + Ord> Index<K> {
    /// The leaf where a key is or would be.
    fn leaf_of(&self, key: &K) -> usize {
        let here = |leaf: usize| {
            self.firsts.get(leaf).is_some_and(|first| first <= key)
                && self.firsts.get(leaf + 1).is_none_or(|next| key < next)
        };
        if here(self.last) {
            return self.last;
        }
        self.firsts.partition_point(|first| first <= key).saturating_sub(1)
    }

    pub(crate) fn get(&self, key: &K) -> Option<u32> {
        let leaf = self.leaves.get(self.leaf_of(key))?;
        leaf.ids.get(leaf.keys.binary_search(key).ok()?).copied()
    }

    /// The number of a key; a new key gets this one.
    pub(crate) fn get_or_insert(&mut self, key: K, id: u32) -> u32 {
        let at = self.leaf_of(&key);
        self.last = at;
        let ends = at + 1 == self.leaves.len();
        let Some(leaf) = self.leaves.get_mut(at) else {
            self.firsts.push(key);
            self.leaves.push(Leaf { keys: alloc::vec![key], ids: alloc::vec![id] });
            return id;
        };
        let place = match leaf.keys.binary_search(&key) {
            Ok(known) => return leaf.ids.get(known).copied().unwrap_or(id),
            Err(place) => place,
        };
        if leaf.keys.len() < LEAF {
            leaf.insert(place, key, id);
            if place == 0 {
                self.firsts[at] = key;
            }
            return id;
        }
        // What comes in order leaves full leaves behind.
        let half = if ends && place == LEAF { LEAF } else { LEAF / 2 };
        let mut split = leaf.split_off(half);
        if place >= half {
            split.insert(place - half, key, id);
            self.last = at + 1;
        } else {
            leaf.insert(place, key, id);
            if place == 0 {
                self.firsts[at] = key;
            }
        }
        self.firsts.insert(at + 1, split.keys[0]);
        self.leaves.insert(at + 1, split);
        id
    }

    pub(crate) fn remove(&mut self, key: &K) {
        let at = self.leaf_of(key);
        let Some(leaf) = self.leaves.get_mut(at) else { return };
        let Ok(place) = leaf.keys.binary_search(key) else { return };
        leaf.keys.remove(place);
        leaf.ids.remove(place);
        self.last = at;
        match leaf.keys.first() {
            Some(first) => self.firsts[at] = *first,
            None => {
                self.leaves.remove(at);
                self.firsts.remove(at);
                return;
            }
        }
        // Leaves that became small are joined, so that their number follows that of the entries.
        let small = leaf.keys.len() < LEAF / 4;
        if small && self.leaves.get(at + 1).is_some_and(|next| next.keys.len() < LEAF / 2) {
            let mut next = self.leaves.remove(at + 1);
            self.firsts.remove(at + 1);
            self.leaves[at].keys.append(&mut next.keys);
            self.leaves[at].ids.append(&mut next.ids);
        }
    }

    /// All numbers, in the order of their keys.
    pub(crate) fn ids(&self) -> impl Iterator<Item = u32> {
        self.leaves.iter().flat_map(|leaf| &leaf.ids).copied()
    }

    /// The numbers of keys in a range, in order.
    pub(crate) fn range(&self, range: RangeInclusive<K>) -> impl Iterator<Item = u32> {
        let (from, to) = range.into_inner();
        let leaves = self.leaves.get(self.leaf_of(&from)..).unwrap_or_default();
        leaves
            .iter()
            .flat_map(|leaf| leaf.keys.iter().zip(&leaf.ids))
            .skip_while(move |(key, _)| **key < from)
            .take_while(move |(key, _)| **key <= to)
            .map(|(_, id)| *id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::collections::BTreeMap;
    use proptest::prelude::*;

    /// Keys few enough that they meet, in number enough that leaves split and join.
    fn steps() -> impl Strategy<Value = Vec<(u16, bool)>> {
        prop::collection::vec((0..2000u16, prop::bool::weighted(0.7)), 0..4000)
    }

    fn check(index: &Index<u16>, model: &BTreeMap<u16, u32>) {
        assert!(index.ids().eq(model.values().copied()));
        for (from, to) in [(0, 0), (0, 2000), (500, 1500), (777, 777), (1999, 5000)] {
            assert!(index.range(from..=to).eq(model.range(from..=to).map(|(_, id)| *id)));
        }
        assert!(index.leaves.iter().all(|l| !l.keys.is_empty() && l.keys.len() <= LEAF));
        assert!(index.leaves.iter().zip(&index.firsts).all(|(l, first)| l.keys.first() == Some(first)));
    }

    proptest! {
        #[test]
        fn it_is_a_sorted_map(steps in steps(), ascending in 0..3000u16) {
            let (mut index, mut model) = (Index::default(), BTreeMap::new());
            for key in 0..ascending {
                index.get_or_insert(key, u32::from(key));
                model.insert(key, u32::from(key));
            }
            check(&index, &model);
            for (i, (key, put)) in steps.into_iter().enumerate() {
                let id = 10_000 + i as u32;
                if put {
                    prop_assert_eq!(index.get_or_insert(key, id), *model.entry(key).or_insert(id));
                } else {
                    index.remove(&key);
                    model.remove(&key);
                }
                prop_assert_eq!(index.get(&key), model.get(&key).copied());
            }
            check(&index, &model);
            for key in (0..3000).rev() {
                index.remove(&key);
            }
            prop_assert!(index.leaves.is_empty() && index.firsts.is_empty());
        }
    }
}
