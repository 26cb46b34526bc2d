use alloc::vec::Vec;
use core::fmt;

use fairway_desired::{Fault, Op, Outcome, Plane, Table};

/// What a driver tells a [`crate::Reconciler`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input<P: Plane> {
    /// The answer to [`Request::Observe`]. Ignored if none is in flight.
    Observed(Result<Table<P>, Fault>),
    /// The answer to [`Request::Apply`]: one outcome per op. Ignored if none is in flight.
    Applied(Result<Vec<Outcome>, Fault>),
    /// Time passed.
    Tick,
}

/// What a driver should do. At most one request is in flight; each is answered by exactly one [`Input`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request<P: Plane> {
    /// Read the whole table.
    Observe,
    /// Apply these ops in order: puts ascending, then deletes descending.
    Apply(Vec<Op<P>>),
}

/// Whether a key must wait.
pub type Hold<'a, P> = &'a dyn Fn(&<P as Plane>::Key) -> bool;

/// What may be applied now. Observing is always allowed.
pub struct Allow<'a, P: Plane> {
    /// Puts may be sent.
    pub puts: bool,
    /// Deletes may be sent.
    pub deletes: bool,
    /// Keys for which this is true must wait, puts and deletes alike.
    pub hold: Option<Hold<'a, P>>,
}

impl<P: Plane> Allow<'_, P> {
    /// Everything may be applied.
    pub const ALL: Self = Allow { puts: true, deletes: true, hold: None };
    /// Puts may be applied.
    pub const PUTS: Self = Allow { puts: true, deletes: false, hold: None };
    /// Nothing may be applied.
    pub const NONE: Self = Allow { puts: false, deletes: false, hold: None };

    pub(crate) fn held(&self, key: &P::Key) -> bool {
        self.hold.is_some_and(|hold| hold(key))
    }
}

impl<P: Plane> fmt::Debug for Allow<'_, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Allow")
            .field("puts", &self.puts)
            .field("deletes", &self.deletes)
            .field("hold", &self.hold.is_some())
            .finish()
    }
}
