//! Conditions, and what loads and packets should give.

use std::collections::BTreeMap;

use schemars::JsonSchema;

use super::{Address, Cidr, Count, Duration, OneOrMany, Target};

/// Conditions and a limit.
#[derive(JsonSchema)]
#[schemars(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Until {
    /// Longest wait.
    within: Duration,
    /// BGP sessions, by host.
    bgp: Option<OneOrMany<BTreeMap<String, Bgp>>>,
    /// One BGP session.
    neighbor: Option<OneOrMany<Neighbor>>,
    /// BGP paths to a prefix.
    rib: Option<OneOrMany<Rib>>,
    /// A route in a kernel.
    route: Option<OneOrMany<Route>>,
    /// Endpoints of a service.
    endpoints: Option<OneOrMany<Endpoints>>,
    /// An IPVS virtual server.
    virtual_server: Option<OneOrMany<VirtualServer>>,
    /// The CNI configuration of a node.
    cni: Option<OneOrMany<Cni>>,
    /// Notices that should stand; an empty list means none at all.
    notices: Option<OneOrMany<Notice>>,
    /// Nodes whose agents have nothing left to do.
    insync: Option<OneOrMany<String>>,
}

/// What should hold now, come out of a load, or become of a packet.
#[derive(JsonSchema)]
#[schemars(untagged)]
#[expect(clippy::large_enum_variant, reason = "never made")]
pub(super) enum Expect {
    /// For a step of its own.
    Conditions(Conditions),
    /// For mconnect, measure and stop.
    Load(LoadExpect),
    /// For trace.
    Trace(TraceExpect),
}

/// Conditions.
#[derive(JsonSchema)]
#[schemars(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Conditions {
    /// BGP sessions, by host.
    bgp: Option<OneOrMany<BTreeMap<String, Bgp>>>,
    /// One BGP session.
    neighbor: Option<OneOrMany<Neighbor>>,
    /// BGP paths to a prefix.
    rib: Option<OneOrMany<Rib>>,
    /// A route in a kernel.
    route: Option<OneOrMany<Route>>,
    /// Endpoints of a service.
    endpoints: Option<OneOrMany<Endpoints>>,
    /// An IPVS virtual server.
    virtual_server: Option<OneOrMany<VirtualServer>>,
    /// The CNI configuration of a node.
    cni: Option<OneOrMany<Cni>>,
    /// Notices that should stand; an empty list means none at all.
    notices: Option<OneOrMany<Notice>>,
    /// Nodes whose agents have nothing left to do.
    insync: Option<OneOrMany<String>>,
}

/// BGP sessions of a node or router.
#[derive(JsonSchema)]
#[schemars(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Bgp {
    /// Sessions in state Established.
    established: Option<Count>,
    /// Neighbours in any state.
    neighbors: Option<Count>,
    /// Paths accepted from all neighbours together.
    accepted: Option<Count>,
    /// BFD sessions in state Up.
    bfd: Option<Count>,
}

/// One BGP session as one side of it sees it.
#[derive(JsonSchema)]
#[schemars(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Neighbor {
    /// Node or router.
    on: String,
    /// The other side: its address, or a host.
    peer: String,
    /// Whether the session is up.
    up: Option<bool>,
    /// Paths received.
    received: Option<Count>,
    /// Paths left after the import policy.
    accepted: Option<Count>,
    /// Text in the reason for the end of the last session or attempt; of our own agent only.
    because: Option<String>,
}

/// BGP paths to a prefix.
#[derive(JsonSchema)]
#[schemars(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Rib {
    /// Node or router.
    on: String,
    /// Destination, exactly.
    prefix: Cidr,
    /// Paths to it.
    paths: Count,
    /// Counts only paths with this next hop.
    via: Option<Address>,
    /// Counts only paths that end with these AS numbers, the origin last.
    as_path: Option<OneOrMany<u32>>,
}

/// A route in a kernel.
#[derive(JsonSchema)]
#[schemars(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Route {
    /// Any host.
    on: String,
    /// Destination, exactly.
    to: Cidr,
    /// Gateways; 0 means no such route, a connected route counts as 1.
    nexthops: Count,
    /// Only routes of this protocol count: 17 are ours, 4 are `static`.
    protocol: Option<u8>,
}

/// Endpoints of a service.
#[derive(JsonSchema)]
#[schemars(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Endpoints {
    /// Name, or `namespace/name`.
    service: String,
    /// Namespace; default `default`.
    namespace: Option<String>,
    /// Endpoints that are ready.
    ready: Option<Count>,
    /// Endpoints in any state.
    total: Option<Count>,
}

/// An IPVS virtual server.
#[derive(JsonSchema)]
#[schemars(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct VirtualServer {
    /// Node.
    on: String,
    /// Address and port.
    address: Target,
    /// Protocol; default tcp.
    protocol: Option<super::Protocol>,
    /// Whether it should be there at all; default true.
    present: Option<bool>,
    /// Real servers of any weight.
    real_servers: Option<Count>,
    /// Real servers of weight above 0.
    active: Option<Count>,
    /// Scheduler: `rr`, `mh`, ...
    scheduler: Option<String>,
    /// Whether clients stick to a real server.
    persistent: Option<bool>,
}

/// The CNI configuration of a node.
#[derive(JsonSchema)]
#[schemars(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Cni {
    /// Node.
    on: String,
    /// The networks from which pods get addresses, all of them and in this order.
    ranges: Option<OneOrMany<Cidr>>,
    /// Largest packet of pods, octets.
    mtu: Option<Count>,
}

/// A notice to look for. What is given must match.
#[derive(JsonSchema)]
#[schemars(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Notice {
    /// Node whose agent says it.
    on: Option<String>,
    /// Object, exactly: `Service default/bad`.
    subject: Option<String>,
    /// Field, exactly: `spec.externalIPs[0]`.
    field: Option<String>,
    /// Text inside the reason.
    contains: Option<String>,
    /// Whether it should stand (default) or must not.
    present: Option<bool>,
}

/// What to print.
#[derive(JsonSchema)]
#[schemars(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Show {
    /// `gobgp neighbor` on these hosts.
    neighbors: Option<OneOrMany<String>>,
    /// `gobgp global rib` on these hosts.
    rib: Option<OneOrMany<String>>,
    /// `ip route` on these hosts.
    routes: Option<OneOrMany<String>>,
    /// `ipvsadm -Ln` on these nodes.
    virtual_servers: Option<OneOrMany<String>>,
    /// Endpoints of these services.
    endpoints: Option<OneOrMany<String>>,
    /// Standing notices.
    notices: Option<bool>,
    /// Narrows `rib` and `routes` to this destination.
    to: Option<Cidr>,
    /// IPv6 tables instead of IPv4.
    ipv6: Option<bool>,
}

/// What should come out of a load.
#[derive(JsonSchema)]
#[schemars(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct LoadExpect {
    /// Connections that could not be made.
    failed_connects: Option<Count>,
    /// Connections that were made and gave no answer.
    failed_reads: Option<Count>,
    /// Both together.
    failed: Option<Count>,
    /// Both together, at least.
    failed_at_least: Option<u32>,
    /// Connections attempted.
    connects: Option<Count>,
    /// Servers that answered.
    hosts: Option<Count>,
    /// How evenly the answers are spread over the servers that answered; give `hosts` as well.
    spread: Option<Spread>,
    /// Answers by pod name or its beginning.
    exactly: Option<BTreeMap<String, Count>>,
    /// Answers by node the pod runs on.
    by_node: Option<BTreeMap<String, Count>>,
    /// Client addresses as the servers saw them: `client`, `node`, `pod`, addresses or blocks.
    source_seen: Option<OneOrMany<String>>,
    /// Only pods on these nodes answer.
    only_on: Option<OneOrMany<String>>,
    /// No pod on these nodes answers.
    not_on: Option<OneOrMany<String>>,
}

/// How evenly answers are spread.
#[derive(JsonSchema)]
#[schemars(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Spread {
    /// Largest difference from the mean, in per cent of the mean.
    even_within: u32,
}

/// What should become of a packet.
#[derive(JsonSchema)]
#[schemars(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct TraceExpect {
    /// Whether it arrives.
    delivered: Option<bool>,
    /// Hosts it passes, in this order, others in between allowed.
    through: Option<OneOrMany<String>>,
    /// Text in the walk.
    contains: Option<OneOrMany<String>>,
}
