//! Attributes that many routes share are stored once.

use alloc::sync::Arc;
use core::hash::{Hash, Hasher};
use core::net::IpAddr;

use hashbrown::HashTable;

use crate::wire::Attributes;

/// Attributes with their next hop, as routes hold them. Two that are equal are the same object, so equality is
/// [`Arc::ptr_eq`].
pub(crate) type Shared = Arc<Interned>;

/// What a [`Shared`] holds.
#[derive(Debug)]
pub(crate) struct Interned {
    pub(crate) attributes: Attributes,
    pub(crate) next_hop: IpAddr,
    /// Order of birth. Sorting by it is the same in every run, which sorting by address is not.
    pub(crate) id: u64,
    /// Length of the AS path, for the decision.
    pub(crate) path_len: u32,
    hash: u64,
}

/// All that are in use, and some that were until lately.
#[derive(Debug, Default)]
pub(crate) struct Interner {
    table: HashTable<Shared>,
    next: u64,
    /// When the table has this size, those that are not in use are dropped.
    sweep_at: usize,
}

/// Fewer are not worth a sweep.
const SWEEP_MIN: usize = 1024;

impl Interner {
    /// The next hops of all that are in use, often several times.
    pub(crate) fn next_hops(&self) -> impl Iterator<Item = IpAddr> {
        self.table.iter().map(|shared| shared.next_hop)
    }

    pub(crate) fn intern(&mut self, attributes: Arc<Attributes>, next_hop: IpAddr) -> Shared {
        let mut hasher = Mixer(0);
        attributes.hash(&mut hasher);
        next_hop.hash(&mut hasher);
        let hash = hasher.finish();
        let same = |s: &Shared| s.hash == hash && s.next_hop == next_hop && s.attributes == *attributes;
        if let Some(known) = self.table.find(hash, same) {
            return known.clone();
        }
        if self.table.len() >= self.sweep_at {
            self.table.retain(|s| Arc::strong_count(s) > 1);
            self.sweep_at = SWEEP_MIN.max(self.table.len() * 2);
        }
        let path_len = attributes.as_path.len() as u32;
        let attributes = Arc::unwrap_or_clone(attributes);
        let new = Arc::new(Interned { attributes, next_hop, id: self.next, path_len, hash });
        self.next += 1;
        self.table.insert_unique(hash, new.clone(), |s| s.hash);
        new
    }
}

/// Multiplies and rotates. Who can make collisions on purpose is a BGP neighbour, and hurts only itself: its own
/// updates become slow.
struct Mixer(u64);

impl Mixer {
    const fn mix(&mut self, word: u64) {
        self.0 = (self.0.rotate_left(5) ^ word).wrapping_mul(0x517c_c1b7_2722_0a95);
    }
}

impl Hasher for Mixer {
    fn write(&mut self, bytes: &[u8]) {
        let (words, rest) = bytes.as_chunks::<8>();
        for word in words {
            self.mix(u64::from_le_bytes(*word));
        }
        for byte in rest {
            self.mix(u64::from(*byte));
        }
    }

    fn write_u8(&mut self, n: u8) {
        self.mix(u64::from(n));
    }

    fn write_u32(&mut self, n: u32) {
        self.mix(u64::from(n));
    }

    fn write_u64(&mut self, n: u64) {
        self.mix(n);
    }

    fn write_usize(&mut self, n: usize) {
        self.mix(n as u64);
    }

    fn finish(&self) -> u64 {
        // The table looks at the upper bits, the last multiplication left the best ones there.
        self.0 ^ (self.0 >> 32)
    }
}
