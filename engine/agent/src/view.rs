//! What an operator sees of an agent, as plain data.

use alloc::string::String;
use alloc::vec::Vec;

use fairway_desired::{Bgp, Fault, Op, Outcome, PlaneId, bgp};
use fairway_reconcile::{Latency, Stats};

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
    /// From the arrival of an object's change to the kernel's word that it is in place.
    pub latency: Latency,
    /// Why it does not work at all.
    pub fault: Option<Fault>,
}

/// How often the speaker was told of networks to announce, and not to announce any more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Announced {
    /// Addresses of services.
    pub addresses: u64,
    /// Addresses of services that were taken back.
    pub withdrawn_addresses: u64,
    /// Prefixes of pods.
    pub prefixes: u64,
}

impl Announced {
    pub(crate) fn count(&mut self, ops: &[Op<Bgp>], outcomes: &[Outcome]) {
        for (op, _) in ops.iter().zip(outcomes).filter(|(_, outcome)| **outcome == Outcome::Done) {
            let bgp::Key::Network(prefix) = op.key() else { continue };
            match (prefix.prefix_len() == prefix.max_prefix_len(), op) {
                (true, Op::Put(..)) => self.addresses += 1,
                (true, Op::Del(_)) => self.withdrawn_addresses += 1,
                (false, Op::Put(..)) => self.prefixes += 1,
                (false, Op::Del(_)) => {}
            }
        }
    }
}
