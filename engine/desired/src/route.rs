use alloc::sync::Arc;
use alloc::vec::Vec;
use core::net::IpAddr;

use ipnet::IpNet;

use crate::{Family, Plane, PlaneId};

/// `RT_TABLE_MAIN`
pub const MAIN_TABLE: u32 = 254;
/// `RT_TABLE_LOCAL`
pub const LOCAL_TABLE: u32 = 255;
/// `RTPROT_KERNEL`
pub const PROTO_KERNEL: u8 = 2;
/// The route protocol kube-router marks its routes with (shown as `proto 17`).
pub const PROTO_KUBE_ROUTER: u8 = 17;

/// Routes. Ours are those of protocol [`PROTO_KUBE_ROUTER`], and `local` routes on `kube-dummy-if` in table `local`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Route;

impl Plane for Route {
    const ID: PlaneId = PlaneId::Route;
    type Key = RouteKey;
    type Value = RouteValue;
}

/// What identifies a route. The destination comes first in the order.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct RouteKey {
    /// Destination, host bits cleared.
    pub prefix: IpNet,
    /// Routing table.
    pub table: u32,
    /// Metric (priority); 0 is the kernel's default for IPv4.
    pub metric: u32,
}

/// What a route does.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct RouteValue {
    /// Unicast, local, …
    pub kind: RouteKind,
    /// `RTPROT_*`
    pub protocol: u8,
    /// Preferred source address.
    pub src: Option<IpAddr>,
    /// Next hops, sorted; several make an ECMP route. Empty only for kinds that need none.
    pub next_hops: Vec<NextHop>,
}

/// `RTN_*`
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum RouteKind {
    /// Forward to a next hop.
    Unicast,
    /// Deliver to this host.
    Local,
    /// Drop silently.
    Blackhole,
    /// Refuse with ICMP host unreachable.
    Unreachable,
}

/// One next hop. At least one of the fields is given.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct NextHop {
    /// Gateway.
    pub via: Option<IpAddr>,
    /// Output interface; without it the kernel finds the one whose subnet holds the gateway.
    pub dev: Option<Arc<str>>,
    /// Weight of 1 or more, as `ip route` shows it.
    pub weight: u16,
}

/// Policy routing rules. Ours have one of our priorities (kube-router's: 32764 and 32765), or lead to
/// [`OVERLAY_TABLE`](crate::OVERLAY_TABLE), for which kube-router lets the kernel choose the priority.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Rule;

impl Plane for Rule {
    const ID: PlaneId = PlaneId::Rule;
    type Key = RuleKey;
    type Value = RuleValue;
}

/// What a rule selects; rules are looked up in ascending priority.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct RuleKey {
    /// Family the rule is for.
    pub family: Family,
    /// Priority, lower first.
    pub priority: u32,
    /// `from`
    pub from: Option<IpNet>,
    /// `to`
    pub to: Option<IpNet>,
    /// `fwmark` (exact).
    pub mark: Option<u32>,
}

/// What a rule does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct RuleValue {
    /// `lookup TABLE`
    pub table: u32,
}

/// A route that BGP learned, on its way to the kernel; also its end.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Learned {
    /// Destination.
    pub prefix: IpNet,
    /// Next hops of the best paths, sorted, no duplicates. Empty: no path any more.
    pub next_hops: Vec<IpAddr>,
}
