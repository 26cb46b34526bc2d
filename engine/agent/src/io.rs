//! What goes in and what comes out.

use alloc::boxed::Box;
use alloc::vec::Vec;

use fairway_bfd as bfd;
use fairway_bgp as bgp;
use fairway_desired::{
    Addr, Fault, File, Filter, Ipvs, KernelEvent, Link, Op, Outcome, Plane, PlaneId, Pod, Route, Rule, Sysctl, Table,
};
use fairway_objects::{Delta, NoticeChange, RouterConfig};
use fairway_publish as publish;

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum Input {
    /// The API server says something. Deltas handed in without a poll in between are computed together.
    Delta(Delta),
    /// The answer to [`Output::Observe`].
    Observed(Observation),
    /// The answer to [`Output::Apply`].
    Applied(Applied),
    /// The kernel says something without being asked. Nobody has to tell: without it every next hop counts as on a link
    /// that works, and changes by somebody else are found when a plane is read again.
    Kernel(KernelEvent),
    /// Something about BGP's connections, or an operator's request to reset a neighbour.
    Bgp(bgp::Input),
    /// Something about BFD's packets. The deadline of a detection time counts when the agent is told of it
    /// ([`Input::Tick`]), so a driver that comes late hands in packets that wait before that.
    Bfd(bfd::Input),
    /// The answer to [`Output::Api`].
    Api(publish::Answer),
    /// The configuration of a router changed, while it runs. A node takes no notice of it.
    Router(Box<RouterConfig>),
    /// The deadline passed, or the agent was just made.
    Tick,
    /// The daemon will end soon: neighbours are asked to find ways around this node (RFC 8326).
    Drain,
    /// The daemon ends: sessions are closed, with Cease, or with graceful restart without a word, so that neighbours
    /// keep our routes. The kernel keeps what it has. Nothing is applied afterwards.
    Shutdown,
}

/// What to do. `Observe` and `Apply` want an answer; [`crate::serve`] gives it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Read the whole table of a plane. Never [`PlaneId::Bgp`].
    Observe(PlaneId),
    /// Apply ops in order.
    Apply(Batch),
    /// About BGP's connections, or for the log. Never `Learned` or `Watch`.
    Bgp(bgp::Output),
    /// About BFD's packets, or for the log.
    Bfd(bfd::Output),
    /// Ask the API server, or write to it; wants an answer.
    Api(publish::Request),
    /// A notice begins or ceases to stand.
    Notice(NoticeChange),
}

/// A table that was read. BGP is missing: its backend is the speaker inside the agent.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum Observation {
    /// Of plane [`Sysctl`].
    Sysctl(Result<Table<Sysctl>, Fault>),
    /// Of plane [`Link`].
    Link(Result<Table<Link>, Fault>),
    /// Of plane [`Addr`].
    Addr(Result<Table<Addr>, Fault>),
    /// Of plane [`Filter`].
    Filter(Result<Table<Filter>, Fault>),
    /// Of plane [`Rule`].
    Rule(Result<Table<Rule>, Fault>),
    /// Of plane [`Route`].
    Route(Result<Table<Route>, Fault>),
    /// Of plane [`Pod`].
    Pod(Result<Table<Pod>, Fault>),
    /// Of plane [`Ipvs`].
    Ipvs(Result<Table<Ipvs>, Fault>),
    /// Of plane [`File`].
    File(Result<Table<File>, Fault>),
}

/// What became of the ops of a [`Batch`], one outcome each.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum Applied {
    /// Of plane [`Sysctl`].
    Sysctl(Result<Vec<Outcome>, Fault>),
    /// Of plane [`Link`].
    Link(Result<Vec<Outcome>, Fault>),
    /// Of plane [`Addr`].
    Addr(Result<Vec<Outcome>, Fault>),
    /// Of plane [`Filter`].
    Filter(Result<Vec<Outcome>, Fault>),
    /// Of plane [`Rule`].
    Rule(Result<Vec<Outcome>, Fault>),
    /// Of plane [`Route`].
    Route(Result<Vec<Outcome>, Fault>),
    /// Of plane [`Pod`].
    Pod(Result<Vec<Outcome>, Fault>),
    /// Of plane [`Ipvs`].
    Ipvs(Result<Vec<Outcome>, Fault>),
    /// Of plane [`File`].
    File(Result<Vec<Outcome>, Fault>),
}

/// Ops of one plane, to be applied in order. Never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Batch {
    /// Of plane [`Sysctl`].
    Sysctl(Vec<Op<Sysctl>>),
    /// Of plane [`Link`].
    Link(Vec<Op<Link>>),
    /// Of plane [`Addr`].
    Addr(Vec<Op<Addr>>),
    /// Of plane [`Filter`].
    Filter(Vec<Op<Filter>>),
    /// Of plane [`Rule`].
    Rule(Vec<Op<Rule>>),
    /// Of plane [`Route`].
    Route(Vec<Op<Route>>),
    /// Of plane [`Pod`].
    Pod(Vec<Op<Pod>>),
    /// Of plane [`Ipvs`].
    Ipvs(Vec<Op<Ipvs>>),
    /// Of plane [`File`].
    File(Vec<Op<File>>),
}

/// A plane whose backend is outside the agent.
pub(crate) trait KernelPlane: Plane {
    fn batch(ops: Vec<Op<Self>>) -> Batch;
    /// The table, if it is of this plane.
    fn observation(answer: Observation) -> Option<Result<Table<Self>, Fault>>;
    /// The outcomes, if they are of this plane.
    fn outcomes(answer: Applied) -> Option<Result<Vec<Outcome>, Fault>>;
}

/// What the three enums have in common, one line per plane.
macro_rules! kernel_planes {
    ($($plane:ident),*) => {
        $(impl KernelPlane for $plane {
            fn batch(ops: Vec<Op<Self>>) -> Batch {
                Batch::$plane(ops)
            }

            fn observation(answer: Observation) -> Option<Result<Table<Self>, Fault>> {
                match answer {
                    Observation::$plane(table) => Some(table),
                    _ => None,
                }
            }

            fn outcomes(answer: Applied) -> Option<Result<Vec<Outcome>, Fault>> {
                match answer {
                    Applied::$plane(outcomes) => Some(outcomes),
                    _ => None,
                }
            }
        })*

        impl Batch {
            /// Whose ops they are.
            pub const fn plane(&self) -> PlaneId {
                match self { $(Batch::$plane(_) => PlaneId::$plane),* }
            }

            /// How many ops.
            pub const fn len(&self) -> usize {
                match self { $(Batch::$plane(ops) => ops.len()),* }
            }
        }

        impl Observation {
            /// Whose table it is.
            pub const fn plane(&self) -> PlaneId {
                match self { $(Observation::$plane(_) => PlaneId::$plane),* }
            }
        }

        impl Applied {
            /// Whose ops they were.
            pub const fn plane(&self) -> PlaneId {
                match self { $(Applied::$plane(_) => PlaneId::$plane),* }
            }
        }
    };
}

kernel_planes!(Sysctl, Link, Addr, Filter, Rule, Route, Pod, Ipvs, File);

impl Batch {
    /// Whether there are no ops; never true of a batch that an agent asks for.
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
