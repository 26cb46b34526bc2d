//! IPVS schedulers.

use fairway_desired::ipvs::{RealServerKey, Scheduler, VirtualServerKey};

use crate::ipvs::{Counts, Server};
use crate::packet::Tuple;
use crate::route::{mix, mix_ip};

/// Buckets of source and destination hashing (`IP_VS_SH_TAB_BITS`: 8).
const BUCKETS: usize = 256;
/// Buckets of Maglev hashing (`IP_VS_MH_TAB_BITS`: 12 selects this prime).
const MAGLEV: usize = 4093;
/// The constants that the kernel's Maglev hashes with: the same on every host.
const MAGLEV_SEEDS: (u64, u64) = (2_654_435_761, 2_654_446_892);

/// What a scheduler remembers.
#[derive(Clone, Debug, Default)]
pub(crate) struct Cursor {
    /// The real server that was taken last, by index.
    last: Option<usize>,
    /// `wrr`'s current weight.
    weight: u32,
    /// Buckets of the hashing schedulers; empty: to be built.
    table: Vec<usize>,
}

impl Cursor {
    pub(crate) fn stale(&mut self) {
        self.table.clear();
    }

    /// A real server was removed: the one before it was the last one taken.
    pub(crate) fn removed(&mut self, index: usize) {
        self.table.clear();
        self.last = match self.last {
            Some(last) if last >= index => last.checked_sub(1),
            last => last,
        };
    }
}

impl Server {
    /// Chooses a real server for a new connection.
    pub(crate) fn pick(&mut self, key: &VirtualServerKey, tuple: Tuple, counts: &Counts) -> Option<RealServerKey> {
        let index = match self.value.scheduler {
            Scheduler::Rr => self.round_robin(),
            Scheduler::Wrr => self.weighted_round_robin(),
            Scheduler::Lc => self.least(key, counts, false),
            Scheduler::Wlc => self.least(key, counts, true),
            Scheduler::Dh | Scheduler::Sh | Scheduler::Mh => self.hashed(tuple),
        }?;
        self.reals.get(index).map(|(key, _)| key.clone())
    }

    fn weight(&self, index: usize) -> u32 {
        self.reals.get(index).map_or(0, |(_, r)| r.weight)
    }

    fn round_robin(&mut self) -> Option<usize> {
        let n = self.reals.len();
        let start = self.cursor.last.map_or(0, |l| l + 1);
        let index = (0..n).map(|i| (start + i) % n).find(|i| self.weight(*i) > 0)?;
        self.cursor.last = Some(index);
        Some(index)
    }

    fn weighted_round_robin(&mut self) -> Option<usize> {
        let n = self.reals.len();
        let max = self.reals.iter().map(|(_, r)| r.weight).max().filter(|m| *m > 0)?;
        let step = self.gcd();
        let mut at = self.cursor.last;
        // Every weight level is passed at most once per round.
        for _ in 0..=(n as u64) * (u64::from(max / step) + 1) {
            let next = at.map_or(0, |l| l + 1);
            let next = if next >= n || at.is_none() {
                let lower = self.cursor.weight.min(max);
                self.cursor.weight = if lower <= step { max } else { lower - step };
                0
            } else {
                next
            };
            at = Some(next);
            if self.weight(next) >= self.cursor.weight {
                self.cursor.last = at;
                return at;
            }
        }
        None
    }

    fn gcd(&self) -> u32 {
        fn gcd(a: u32, b: u32) -> u32 {
            if b == 0 { a } else { gcd(b, a % b) }
        }
        self.reals.iter().map(|(_, r)| r.weight).fold(0, gcd).max(1)
    }

    fn least(&self, server: &VirtualServerKey, counts: &Counts, weighted: bool) -> Option<usize> {
        let load = |index: &usize| {
            let (key, real) = &self.reals[*index];
            let (active, inactive) = counts.get(&(server.clone(), key.clone())).copied().unwrap_or_default();
            (active * 256 + inactive, u64::from(if weighted { real.weight } else { 1 }))
        };
        let candidates = (0..self.reals.len()).filter(|i| self.weight(*i) > 0);
        // a/x < b/y without division.
        candidates.min_by(|a, b| {
            let ((a, x), (b, y)) = (load(a), load(b));
            (u128::from(a) * u128::from(y)).cmp(&(u128::from(b) * u128::from(x)))
        })
    }

    fn hashed(&mut self, tuple: Tuple) -> Option<usize> {
        if self.reals.is_empty() {
            return None;
        }
        if self.cursor.table.is_empty() {
            self.cursor.table = match self.value.scheduler {
                Scheduler::Mh => self.maglev(),
                Scheduler::Sh => self.weighted_buckets(),
                _ => (0..BUCKETS).map(|i| i % self.reals.len()).collect(),
            };
        }
        let table = &self.cursor.table;
        let end = if self.value.scheduler == Scheduler::Dh { tuple.dst } else { tuple.src };
        let port = if self.value.hash_port && self.value.scheduler != Scheduler::Dh { end.port() } else { 0 };
        let hash = |offset: u64| {
            let start = mix_ip(MAGLEV_SEEDS.0, end.ip());
            let size = table.len().max(1) as u64;
            (mix(start ^ mix(u64::from(port) << 16 | offset)) % size) as usize
        };
        let tries = if self.value.fallback { table.len() as u64 } else { 1 };
        (0..tries).filter_map(|offset| table.get(hash(offset)).copied()).find(|i| self.weight(*i) > 0)
    }

    fn weighted_buckets(&self) -> Vec<usize> {
        let step = self.gcd();
        let turns: Vec<usize> = self
            .reals
            .iter()
            .enumerate()
            .flat_map(|(i, (_, r))| std::iter::repeat_n(i, (r.weight / step).min(BUCKETS as u32) as usize))
            .collect();
        if turns.is_empty() {
            return vec![0; BUCKETS];
        }
        (0..BUCKETS).map(|i| turns[i % turns.len()]).collect()
    }

    /// Fills the table as Maglev does: every real server takes the next free bucket of its own permutation, as often
    /// per turn as its weight says.
    fn maglev(&self) -> Vec<usize> {
        let step = self.gcd();
        let size = MAGLEV as u64;
        // Large weights are scaled down, so that no real server fills the table in one turn.
        let max = self.reals.iter().map(|(_, r)| r.weight / step).max().unwrap_or(0);
        let shift = (32 - max.leading_zeros()).saturating_sub(6);
        let turns = |weight: u32| ((weight / step) >> shift).max(u32::from(weight > 0));
        let mut next: Vec<(u64, u64, u32)> = self
            .reals
            .iter()
            .map(|(key, real)| {
                let hash = |seed| mix(mix_ip(mix(seed), key.address) ^ u64::from(key.port));
                let offset = hash(MAGLEV_SEEDS.0) % size;
                let skip = hash(MAGLEV_SEEDS.1) % (size - 1) + 1;
                (offset, skip, turns(real.weight))
            })
            .collect();
        if next.iter().all(|(_, _, turns)| *turns == 0) {
            return vec![0; MAGLEV];
        }
        let mut table = vec![usize::MAX; MAGLEV];
        let mut left = MAGLEV;
        while left > 0 {
            for (index, (at, skip, turns)) in next.iter_mut().enumerate() {
                for _ in 0..*turns {
                    while left > 0 && table[*at as usize] != usize::MAX {
                        *at = (*at + *skip) % size;
                    }
                    if left == 0 {
                        break;
                    }
                    table[*at as usize] = index;
                    left -= 1;
                }
            }
        }
        table
    }
}
