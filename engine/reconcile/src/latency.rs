use crate::Time;

/// Upper ends of the buckets, in microseconds: half a millisecond to a minute.
const BOUNDS_US: [u64; BUCKETS] = [
    500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000, 5_000_000,
    10_000_000, 30_000_000, 60_000_000,
];
const BUCKETS: usize = 16;

/// How long changes took from the moment somebody heard of their cause until the kernel said that they are done: a
/// histogram.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Latency {
    /// Not cumulative; what took longer than the last bound is only in `len`.
    counts: [u64; BUCKETS],
    len: u64,
    sum: Time,
}

impl Latency {
    /// Counts one change.
    pub(crate) fn observe(&mut self, took: Time) {
        self.len += 1;
        self.sum = self.sum.saturating_add(took);
        let bound = |us: &u64| took <= Time::from_micros(*us);
        if let Some(count) = BOUNDS_US.iter().position(bound).and_then(|at| self.counts.get_mut(at)) {
            *count += 1;
        }
    }

    /// The buckets: the upper end of each, and how many changes took no longer.
    pub fn buckets(&self) -> impl Iterator<Item = (Time, u64)> {
        let cumulative = self.counts.iter().scan(0, |sum, count| {
            *sum += count;
            Some(*sum)
        });
        BOUNDS_US.iter().map(|us| Time::from_micros(*us)).zip(cumulative)
    }

    /// How many changes were counted.
    pub const fn len(&self) -> u64 {
        self.len
    }

    /// Whether none was counted.
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// How long all of them took together.
    pub const fn sum(&self) -> Time {
        self.sum
    }
}
