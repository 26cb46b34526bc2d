use crate::Time;

/// What became of a plane's requests since the start, for metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Entries written.
    pub puts: u64,
    /// Entries deleted.
    pub deletes: u64,
    /// Ops refused, or over an entry that is not ours.
    pub refused: u64,
    /// Ops answered with busy, each of which is tried again.
    pub busy: u64,
    /// Requests that failed as a whole.
    pub faults: u64,
    /// Tables read.
    pub observations: u64,
    /// When a request last succeeded.
    pub succeeded_at: Option<Time>,
}
