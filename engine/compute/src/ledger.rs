//! Who claims what: one table per plane, from which only net changes leave.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;

use fairway_desired::{Op, Plane, Table};

/// Claims of all owners to the keys of one plane.
///
/// Several owners may claim one key; the lowest owner's value counts. When it goes the next one's does. A key whose
/// claims change and change back between two drains yields nothing.
#[derive(Clone, Debug)]
pub(crate) struct Ledger<P: Plane, O> {
    claims: BTreeMap<P::Key, BTreeMap<O, P::Value>>,
    by_owner: BTreeMap<O, BTreeSet<P::Key>>,
    /// What was told, for keys that may have changed since.
    touched: BTreeMap<P::Key, Option<P::Value>>,
}

impl<P: Plane, O: Ord + Clone> Default for Ledger<P, O> {
    fn default() -> Self {
        Ledger { claims: BTreeMap::new(), by_owner: BTreeMap::new(), touched: BTreeMap::new() }
    }
}

impl<P: Plane, O: Ord + Clone> Ledger<P, O> {
    fn value(&self, key: &P::Key) -> Option<&P::Value> {
        self.claims.get(key)?.first_key_value().map(|(_, value)| value)
    }

    fn touch(&mut self, key: &P::Key) {
        if !self.touched.contains_key(key) {
            let told = self.value(key).cloned();
            self.touched.insert(key.clone(), told);
        }
    }

    /// From now on the owner claims exactly this.
    pub(crate) fn set(&mut self, owner: &O, claims: Table<P>) {
        let old = self.by_owner.remove(owner).unwrap_or_default();
        for key in old.iter().filter(|key| !claims.contains_key(*key)) {
            self.touch(key);
            if let Some(owners) = self.claims.get_mut(key) {
                owners.remove(owner);
                if owners.is_empty() {
                    self.claims.remove(key);
                }
            }
        }
        if claims.is_empty() {
            return;
        }
        let keys: BTreeSet<P::Key> = claims.keys().cloned().collect();
        for (key, value) in claims {
            let same = self.claims.get(&key).and_then(|owners| owners.get(owner)) == Some(&value);
            if !same {
                self.touch(&key);
                self.claims.entry(key).or_default().insert(owner.clone(), value);
            }
        }
        self.by_owner.insert(owner.clone(), keys);
    }

    /// The net changes since the last drain, deletes and puts by key.
    pub(crate) fn drain(&mut self) -> Vec<Op<P>> {
        let touched = core::mem::take(&mut self.touched);
        touched
            .into_iter()
            .filter_map(|(key, told)| match (told, self.value(&key)) {
                (Some(told), Some(now)) if told == *now => None,
                (_, Some(now)) => Some(Op::Put(key, now.clone())),
                (Some(_), None) => Some(Op::Del(key)),
                (None, None) => None,
            })
            .collect()
    }

    /// Everything that counts now.
    pub(crate) fn table(&self) -> Table<P> {
        self.claims.iter().filter_map(|(k, o)| Some((k.clone(), o.first_key_value()?.1.clone()))).collect()
    }
}
