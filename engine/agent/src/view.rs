//! What an operator sees of an agent, as plain data.

use alloc::string::String;
use alloc::vec::Vec;

use fairway_desired::{Fault, Outcome, PlaneId};
use fairway_reconcile::Stats;

/// One plane.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlaneView {
    /// Which.
    pub plane: PlaneId,
    /// This configuration uses it.
    pub in_use: bool,
    /// It was read, and nothing is to be done that could be done.
    pub settled: bool,
    /// Entries that should be there.
    pub desired: usize,
    /// Entries to be written.
    pub pending_puts: usize,
    /// Entries to be deleted.
    pub pending_deletes: usize,
    /// Keys that were refused, or are taken by something that is not ours.
    pub parked: Vec<(String, Outcome)>,
    /// What became of the requests so far.
    pub stats: Stats,
    /// Why it does not work at all.
    pub fault: Option<Fault>,
}
