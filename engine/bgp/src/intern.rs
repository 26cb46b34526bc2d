//! Attributes that many routes share are stored once.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::hash::{Hash, Hasher};
use core::net::IpAddr;
use core::num::NonZeroU32;
use core::ops::Index;

use hashbrown::HashTable;

use crate::wire::Attributes;

/// Attributes with their next hop, as routes hold them: a name of four octets. Two that are equal have the same name.
///
/// Names are not counted. From time to time all that are in use are marked, and the others become free; nobody keeps a
/// name over that but those who are asked for theirs ([`Interner::begin_sweep`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Shared(NonZeroU32);

impl Shared {
    fn new(index: usize) -> Self {
        // There are not as many attributes as names: memory ends long before.
        Self(NonZeroU32::new(index as u32 + 1).unwrap_or(NonZeroU32::MAX))
    }

    const fn index(self) -> usize {
        self.0.get() as usize - 1
    }
}

/// What a [`Shared`] stands for.
#[derive(Debug)]
pub(crate) struct Interned {
    pub(crate) attributes: Attributes,
    pub(crate) next_hop: IpAddr,
    /// Length of the AS path, for the decision.
    pub(crate) path_len: u32,
    hash: u64,
}

/// All that are in use, and some that were until lately.
#[derive(Debug, Default)]
pub(crate) struct Interner {
    all: Vec<Option<Interned>>,
    free: Vec<u32>,
    names: HashTable<Shared>,
    /// New ones since the last sweep.
    new: usize,
    /// Those that the last sweep left.
    left: usize,
}

/// Fewer new ones are not worth a sweep.
const SWEEP_MIN: usize = 1024;
/// A sweep looks at everything that can have a name; it pays if there is a new one for so many of these.
const SWEEP_RATIO: usize = 32;

impl Interner {
    /// The next hops of all that are in use, often several times.
    pub(crate) fn next_hops(&self) -> impl Iterator<Item = IpAddr> {
        self.all.iter().flatten().map(|shared| shared.next_hop)
    }

    pub(crate) fn intern(&mut self, attributes: Arc<Attributes>, next_hop: IpAddr) -> Shared {
        let mut hasher = Mixer(0);
        attributes.hash(&mut hasher);
        next_hop.hash(&mut hasher);
        let hash = hasher.finish();
        let all = &self.all;
        let known = self.names.find(hash, |name| {
            all.get(name.index())
                .and_then(Option::as_ref)
                .is_some_and(|s| s.hash == hash && s.next_hop == next_hop && s.attributes == *attributes)
        });
        if let Some(known) = known {
            return *known;
        }
        let path_len = attributes.as_path.len() as u32;
        let attributes = Arc::unwrap_or_clone(attributes);
        let interned = Some(Interned { attributes, next_hop, path_len, hash });
        let name = match self.free.pop() {
            Some(index) => {
                self.all[index as usize] = interned;
                Shared::new(index as usize)
            }
            None => {
                self.all.push(interned);
                Shared::new(self.all.len() - 1)
            }
        };
        self.new += 1;
        let all = &self.all;
        let hash_of = |name: &Shared| all.get(name.index()).and_then(Option::as_ref).map_or(0, |s| s.hash);
        self.names.insert_unique(hash, name, hash_of);
        name
    }

    /// Whether a sweep is worth while, when so many can have a name.
    pub(crate) fn wants_sweep(&self, holders: usize) -> bool {
        self.new > SWEEP_MIN.max(self.left).max(holders / SWEEP_RATIO)
    }

    /// Begins a sweep: everybody who has a name marks it.
    pub(crate) fn begin_sweep(&self) -> Marks {
        Marks(alloc::vec![false; self.all.len()])
    }

    /// Names that nobody marked become free.
    pub(crate) fn end_sweep(&mut self, marks: &Marks) {
        let all = &mut self.all;
        let free = &mut self.free;
        self.names.retain(|name| {
            let index = name.index();
            let used = marks.0.get(index).copied().unwrap_or(true);
            if !used && let Some(unused) = all.get_mut(index) {
                *unused = None;
                free.push(index as u32);
            }
            used
        });
        self.new = 0;
        self.left = self.names.len();
    }
}

impl Index<Shared> for Interner {
    type Output = Interned;

    fn index(&self, name: Shared) -> &Interned {
        // A name stands for attributes as long as somebody has it: that is what sweeps are about.
        self.all[name.index()].as_ref().expect("a name in use")
    }
}

/// Names that are in use.
pub(crate) struct Marks(Vec<bool>);

impl Marks {
    pub(crate) fn mark(&mut self, name: Option<Shared>) {
        if let Some(mark) = name.and_then(|name| self.0.get_mut(name.index())) {
            *mark = true;
        }
    }
}

/// Multiplies and rotates. Who can make collisions on purpose is a BGP neighbour, and hurts only itself: its own
/// updates become slow.
#[derive(Debug, Default)]
pub(crate) struct Mixer(u64);

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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::AsPath;
    use core::net::Ipv4Addr;

    use alloc::vec;

    fn attributes(asn: u32) -> Arc<Attributes> {
        Arc::new(Attributes { as_path: AsPath::sequence(&[asn]), ..Attributes::own() })
    }

    #[test]
    fn equal_attributes_have_one_name_until_nobody_has_it() {
        let mut interner = Interner::default();
        let (hop, other) = (IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1)), IpAddr::V4(Ipv4Addr::new(10, 0, 0, 2)));
        let kept: Vec<Shared> = (1..=10).map(|asn| interner.intern(attributes(asn), hop)).collect();
        assert_eq!(interner.intern(attributes(3), hop), kept[2]);
        assert_ne!(interner.intern(attributes(3), other), kept[2]);
        let mut asn = 1000;
        while !interner.wants_sweep(0) {
            interner.intern(attributes(asn), hop);
            asn += 1;
        }
        assert_eq!(asn, 1000 + SWEEP_MIN as u32 + 1 - 11, "a sweep pays when enough are new");
        assert!(!interner.wants_sweep(SWEEP_RATIO * (SWEEP_MIN + 1)), "not where a sweep costs more");
        let mut marks = interner.begin_sweep();
        kept.iter().for_each(|name| marks.mark(Some(*name)));
        interner.end_sweep(&marks);
        assert_eq!(interner.names.len(), kept.len());
        for (asn, name) in (1..).zip(&kept) {
            assert_eq!((interner[*name].attributes.as_path.flatten(), interner[*name].next_hop), (vec![asn], hop));
            assert_eq!(interner.intern(attributes(asn), hop), *name);
        }
        // The places of the others are used again.
        let places = interner.all.len();
        for asn in 0..1000 {
            interner.intern(attributes(5000 + asn), other);
        }
        assert_eq!(interner.all.len(), places);
    }
}
