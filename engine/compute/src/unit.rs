//! Units of computation, and what one claims.

use alloc::collections::BTreeSet;
use core::net::IpAddr;

use fairway_desired::{Addr, Bgp, File, Filter, Ipvs, Link, Pod, Route, Rule, Sysctl, Table};
use fairway_objects::{Notice, ObjectName};
use ipnet::IpNet;

/// What is rendered as one. The order is that of ownership: of two units that claim one key the lower wins.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Unit {
    /// The node itself: base rules, BGP, policies.
    Global,
    /// The pod network of this node: its bridge and the CNI configuration.
    Pods,
    /// A service; the older one is lower.
    Service {
        /// `creationTimestamp`
        created_s: i64,
        /// Name.
        name: ObjectName,
    },
    /// Another node of the mesh.
    Node(ObjectName),
    /// The tunnel to a next hop of learned routes.
    Tunnel(IpAddr),
    /// A route BGP learned.
    Learned(IpNet),
}

/// What one unit wants.
#[derive(Clone, Debug, Default)]
pub(crate) struct Claims {
    pub(crate) sysctl: Table<Sysctl>,
    pub(crate) link: Table<Link>,
    pub(crate) addr: Table<Addr>,
    pub(crate) filter: Table<Filter>,
    pub(crate) rule: Table<Rule>,
    pub(crate) pod: Table<Pod>,
    pub(crate) route: Table<Route>,
    pub(crate) ipvs: Table<Ipvs>,
    pub(crate) file: Table<File>,
    pub(crate) bgp: Table<Bgp>,
    pub(crate) notices: BTreeSet<Notice>,
}
