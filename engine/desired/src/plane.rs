use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt::Debug;

/// One kind of kernel state: a keyed table.
pub trait Plane: Clone + Copy + Debug + PartialEq + Eq + 'static {
    /// Which plane this is; its order is the rank.
    const ID: PlaneId;
    /// Whether entries that are ours but not desired are deleted. False where there is nothing to delete: a
    /// sysctl that is no longer desired keeps its value.
    const SWEEP: bool = true;
    /// What identifies an entry. The order is the dependency order inside the plane.
    type Key: Ord + Clone + Debug;
    /// The whole of what the entry should be.
    type Value: Eq + Clone + Debug;
}

/// The planes, in rank order: built up in this order, torn down in reverse.
///
/// The firewall stands before traffic can flow, and an address is announced only after the data plane behind it
/// works and withdrawn before that is removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum PlaneId {
    /// [`crate::Sysctl`]
    Sysctl,
    /// [`crate::Link`]
    Link,
    /// [`crate::Addr`]
    Addr,
    /// [`crate::Filter`]
    Filter,
    /// [`crate::Rule`]
    Rule,
    /// [`crate::Route`]
    Route,
    /// [`crate::Pod`]
    Pod,
    /// [`crate::Ipvs`]
    Ipvs,
    /// [`crate::File`]
    File,
    /// [`crate::Bgp`]
    Bgp,
}

impl PlaneId {
    /// Every plane in rank order.
    pub const ALL: [PlaneId; 10] = [
        PlaneId::Sysctl,
        PlaneId::Link,
        PlaneId::Addr,
        PlaneId::Filter,
        PlaneId::Rule,
        PlaneId::Route,
        PlaneId::Pod,
        PlaneId::Ipvs,
        PlaneId::File,
        PlaneId::Bgp,
    ];

    /// Lower-case name, as used in logs, metrics and notices.
    pub const fn as_str(self) -> &'static str {
        match self {
            PlaneId::Sysctl => "sysctl",
            PlaneId::Link => "link",
            PlaneId::Addr => "addr",
            PlaneId::Filter => "filter",
            PlaneId::Rule => "rule",
            PlaneId::Route => "route",
            PlaneId::Pod => "pod",
            PlaneId::Ipvs => "ipvs",
            PlaneId::File => "file",
            PlaneId::Bgp => "bgp",
        }
    }
}

/// All entries of a plane that are ours.
pub type Table<P> = BTreeMap<<P as Plane>::Key, <P as Plane>::Value>;

/// One change to a plane. Whole values, idempotent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op<P: Plane> {
    /// The entry exists with exactly this value.
    Put(P::Key, P::Value),
    /// The entry does not exist.
    Del(P::Key),
}

impl<P: Plane> Op<P> {
    /// The key the op is about.
    pub const fn key(&self) -> &P::Key {
        match self {
            Op::Put(key, _) | Op::Del(key) => key,
        }
    }
}

/// What became of one op.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum Outcome {
    /// Applied.
    Done,
    /// A delete of something that was not there.
    Gone,
    /// The kernel could not do it now (`EBUSY`, `EAGAIN`, a dependency not there yet). Try again later.
    Busy,
    /// An entry with this key exists and is not ours. Left alone.
    Foreign,
    /// Refused with this errno. Trying again is useless until the desired value changes.
    Refused(i32),
}

/// Why a whole call failed. Nothing is known about its ops.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum Fault {
    /// A dump was interrupted by concurrent changes (`NLM_F_DUMP_INTR`). Observe again.
    Interrupted,
    /// The socket was lost or overrun (`ENOBUFS`). Observe again.
    Lost,
    /// No permission.
    Denied,
    /// The kernel lacks this feature; the text names the module or option.
    Unsupported(String),
}

/// What applies a plane's state to a kernel, real or simulated.
///
/// Synchronous on purpose, and without decisions: it does what the ops say, in the order given, and reports.
pub trait Backend<P: Plane> {
    /// Reads every entry that is ours.
    ///
    /// # Errors
    /// A [`Fault`] if the table could not be read as a whole.
    fn observe(&mut self) -> Result<Table<P>, Fault>;

    /// Applies ops in order and reports one outcome for each. A failed op does not stop the others, except in
    /// planes whose kernel interface is one transaction (Filter): there all fail or none.
    ///
    /// # Errors
    /// A [`Fault`] if nothing is known about what was applied.
    fn apply(&mut self, ops: &[Op<P>]) -> Result<Vec<Outcome>, Fault>;
}
