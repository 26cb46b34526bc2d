//! Faults.

use schemars::JsonSchema;

use super::{Cidr, OneOrMany};

/// Something that goes wrong, or right again.
#[derive(JsonSchema)]
#[schemars(rename_all = "camelCase")]
pub(super) enum Fault {
    /// Something happens to the API server.
    ApiServer(ApiServer),
    /// The kubelet of a node makes its Node object, as the topology has it.
    RegisterNode(String),
    /// The daemon of a node or router dies without a word; the kernel keeps its state.
    KillAgent(String),
    /// The daemon of a node or router starts.
    StartAgent(String),
    /// The daemon of a node or router ends in order and starts again, as in an upgrade.
    RestartAgent(String),
    /// A host loses its link to a LAN.
    Cut(Link),
    /// The link is there again.
    Heal(Link),
    /// Somebody sets a host's interface down; the kernel drops what depends on it.
    LinkDown(Link),
    /// Somebody sets it up again, with the addresses and default routes it had.
    LinkUp(Link),
    /// The cable is pulled out: the kernel sees that the carrier is lost, and keeps its routes.
    Unplug(Link),
    /// The cable is back.
    Plug(Link),
    /// Somebody else adds a route.
    AddRoute(ForeignRoute),
    /// That route is deleted again.
    DeleteRoute(ForeignDestination),
    /// A host gets one more address on its link to a LAN.
    AddAddress(Address),
    /// Somebody gives an interface another name; it stays up, with its routes.
    RenameLink(Rename),
    /// A host stops at once.
    PowerOff(String),
    /// A host boots.
    PowerOn(String),
    /// A node is cordoned and its pods are evicted.
    Drain(String),
    /// No new pods on a node.
    Cordon(String),
    /// New pods on a node again.
    Uncordon(String),
    /// The Node object is deleted.
    DeleteNode(String),
    /// Pods are deleted.
    DeletePod(Pods),
    /// Pods fail their readiness probe.
    NotReady(Pods),
    /// Pods pass their readiness probe again.
    Ready(Pods),
    /// A BGP session is reset.
    FlapBgp(Session),
    /// A BGP session is shut down by its operator, until `adminUp`.
    AdminDown(Shutdown),
    /// A BGP session that was shut down may come again.
    AdminUp(Session),
    /// The import policy of a router changes while it runs.
    Policy(Policy),
    /// Calls into the kernel of a node fail.
    Kernel(KernelFault),
    /// Someone deletes our state from the kernel of a node behind the agent's back.
    Tamper(Tamper),
}

/// What happens to the API server.
#[derive(JsonSchema)]
#[schemars(untagged)]
pub(super) enum ApiServer {
    /// In one word.
    Word(ApiServerWord),
    /// It misbehaves from now on.
    Misbehaves(Misbehaviour),
}

/// What happens to the API server, in one word.
#[derive(JsonSchema)]
#[schemars(rename_all = "lowercase")]
pub(super) enum ApiServerWord {
    /// It is there again.
    Reachable,
    /// Its process is gone; what it stores is not.
    Unreachable,
    /// Every watch is cut, and the history that it would go on from is forgotten (410).
    Compacted,
    /// Its misbehaviour ends.
    Behaves,
}

/// What an API server does on a bad day. Chances are in per cent.
#[derive(JsonSchema)]
#[schemars(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Misbehaviour {
    /// Everything it says comes so much later.
    slow: Option<super::Duration>,
    /// Each watch tells of changes up to so much later than the others.
    reorder: Option<super::Duration>,
    /// A connection is cut.
    disconnect: Option<u8>,
    /// A list shows an older state.
    stale: Option<u8>,
    /// An event of a watch comes twice.
    duplicate: Option<u8>,
    /// 429 Too Many Requests.
    too_many_requests: Option<u8>,
    /// 500 Internal Server Error.
    internal_error: Option<u8>,
    /// A watch is answered 410 Gone.
    gone: Option<u8>,
}

/// The link of a host to a LAN.
#[derive(JsonSchema)]
#[schemars(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Link {
    /// Host.
    host: String,
    /// LAN.
    lan: String,
}

/// One more address.
#[derive(JsonSchema)]
#[schemars(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Address {
    /// Host.
    host: String,
    /// LAN.
    lan: String,
    /// An address of one of its subnets.
    address: String,
}

/// An interface and its new name.
#[derive(JsonSchema)]
#[schemars(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Rename {
    /// Host.
    on: String,
    /// Name of the interface.
    from: String,
    /// Its new name.
    to: String,
}

/// A route that is not ours: protocol `static`, metric 0.
#[derive(JsonSchema)]
#[schemars(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct ForeignRoute {
    /// Host.
    on: String,
    /// Destination, as a prefix.
    to: String,
    /// Gateway.
    via: String,
}

/// A destination of somebody else's route.
#[derive(JsonSchema)]
#[schemars(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct ForeignDestination {
    /// Host.
    on: String,
    /// Destination, as a prefix.
    to: String,
}

/// Pods: all that match.
#[derive(JsonSchema)]
#[schemars(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Pods {
    /// Node they run on.
    on: Option<String>,
    /// Beginning of the name.
    name: Option<String>,
    /// At most this many, by name.
    count: Option<u32>,
    /// Namespace; default `default`.
    namespace: Option<String>,
}

/// A BGP session.
#[derive(JsonSchema)]
#[schemars(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Session {
    /// Node or router on which it is reset.
    on: String,
    /// The peer: its address, or a host.
    peer: String,
}

/// A BGP session, and what its operator says.
#[derive(JsonSchema)]
#[schemars(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Shutdown {
    /// Node or router on which it is shut down.
    on: String,
    /// The peer: its address, or a host.
    peer: String,
    /// For the operator of the other side (RFC 9003).
    message: Option<String>,
}

/// An import policy.
#[derive(JsonSchema)]
#[schemars(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Policy {
    /// Router.
    on: String,
    /// Prefixes it refuses from now on, each one itself and everything inside; an empty list refuses nothing.
    reject: OneOrMany<Cidr>,
}

/// Failing calls into a kernel.
#[derive(JsonSchema)]
#[schemars(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct KernelFault {
    /// Node.
    on: String,
    /// Which calls: `sysctl`, `link`, `addr`, `filter`, `rule`, `route`, `ipvs`.
    plane: String,
    /// How: `interrupted` (EINTR in a dump), `lost` (ENOBUFS), `busy` (EBUSY).
    fail: String,
    /// How often; default 1.
    times: Option<u32>,
}

/// State deleted by hand.
#[derive(JsonSchema)]
#[schemars(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Tamper {
    /// Node.
    on: String,
    /// Which state: `addresses`, `virtual-servers`, `routes`, `rules`, `links`, or the name of a plane.
    delete: String,
}
