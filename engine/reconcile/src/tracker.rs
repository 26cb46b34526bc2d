use alloc::collections::BTreeSet;

use fairway_desired::{Op, Plane, Table};

/// What a plane should be, what it is, and the keys where the two differ.
///
/// ```text
///        desired           actual
///     +-----------+-----+-----------+
///     |   puts    | eq  |  deletes  |
///     |    +------+-----+----+      |
///     |    | value differs   |      |
///     +----+--(puts)---------+------+
/// ```
///
/// The difference is maintained at each write and never searched for: a change costs a look-up, whatever the size
/// of the tables. Where [`Plane::SWEEP`] is false, an actual entry that nobody desires is no difference.
#[derive(Clone, Debug)]
pub struct Tracker<P: Plane> {
    desired: Table<P>,
    actual: Table<P>,
    /// Desired, and actual lacks the entry or has another value.
    puts: BTreeSet<P::Key>,
    /// Actual and not desired.
    deletes: BTreeSet<P::Key>,
}

impl<P: Plane> Default for Tracker<P> {
    fn default() -> Self {
        Self::new()
    }
}

impl<P: Plane> Tracker<P> {
    /// Two empty tables.
    pub const fn new() -> Self {
        Tracker {
            desired: Table::<P>::new(),
            actual: Table::<P>::new(),
            puts: BTreeSet::new(),
            deletes: BTreeSet::new(),
        }
    }

    /// What should be.
    pub const fn desired(&self) -> &Table<P> {
        &self.desired
    }

    /// What is, as far as known.
    pub const fn actual(&self) -> &Table<P> {
        &self.actual
    }

    /// Changes what should be. Returns whether it did change.
    pub fn set_desired(&mut self, op: Op<P>) -> bool {
        match op {
            Op::Put(key, value) => {
                if self.desired.get(&key) == Some(&value) {
                    return false;
                }
                self.desired.insert(key.clone(), value);
                self.compare(&key);
            }
            Op::Del(key) => {
                if self.desired.remove(&key).is_none() {
                    return false;
                }
                self.compare(&key);
            }
        }
        true
    }

    /// Notes what is: the entry's value, or that there is none.
    pub fn set_actual(&mut self, key: &P::Key, value: Option<P::Value>) {
        match value {
            Some(value) => self.actual.insert(key.clone(), value),
            None => self.actual.remove(key),
        };
        self.compare(key);
    }

    /// Notes all that is.
    pub fn replace_actual(&mut self, actual: Table<P>) {
        self.actual = actual;
        self.puts =
            self.desired.iter().filter(|(k, v)| self.actual.get(k) != Some(v)).map(|(k, _)| k.clone()).collect();
        self.deletes.clear();
        if P::SWEEP {
            self.deletes = self.actual.keys().filter(|k| !self.desired.contains_key(k)).cloned().collect();
        }
    }

    fn compare(&mut self, key: &P::Key) {
        let (desired, actual) = (self.desired.get(key), self.actual.get(key));
        set(&mut self.puts, key, desired.is_some() && desired != actual);
        set(&mut self.deletes, key, P::SWEEP && desired.is_none() && actual.is_some());
    }

    /// Entries to put, ascending: dependencies first.
    pub fn puts(&self) -> impl DoubleEndedIterator<Item = (&P::Key, &P::Value)> {
        self.puts.iter().filter_map(|key| self.desired.get_key_value(key))
    }

    /// Entries to delete, descending: dependents first.
    pub fn deletes(&self) -> impl DoubleEndedIterator<Item = &P::Key> {
        self.deletes.iter().rev()
    }

    /// How many entries are to be put.
    pub fn puts_len(&self) -> usize {
        self.puts.len()
    }

    /// How many entries are to be deleted.
    pub fn deletes_len(&self) -> usize {
        self.deletes.len()
    }

    /// How many entries differ.
    pub fn len(&self) -> usize {
        self.puts.len() + self.deletes.len()
    }

    /// Whether nothing differs.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether the entry is as it should be, which may be that there is none.
    pub fn in_sync(&self, key: &P::Key) -> bool {
        !self.puts.contains(key) && !self.deletes.contains(key)
    }
}

fn set<K: Ord + Clone>(keys: &mut BTreeSet<K>, key: &K, member: bool) {
    if !member {
        keys.remove(key);
    } else if !keys.contains(key) {
        keys.insert(key.clone());
    }
}
