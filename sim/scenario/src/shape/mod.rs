//! The shape of the file as it is written, for editors and for `fairway schema`.
//!
//! These types are never filled: the reader works on a tree to report all mistakes at once. A test holds both against
//! each other, key by key.
#![expect(dead_code, reason = "only their JSON schema is used")]

mod expect;
mod fault;

use std::collections::BTreeMap;

use schemars::{JsonSchema, schema_for};

use expect::{Expect, Show, Until};
use fault::Fault;

/// JSON schema (2020-12) of a scenario file.
pub fn json_schema() -> serde_json::Value {
    schema_for!(Scenario).to_value()
}

/// One item or a list of them.
#[derive(JsonSchema)]
#[schemars(untagged, inline)]
enum OneOrMany<T> {
    /// One.
    One(T),
    /// Several.
    Many(Vec<T>),
}

/// A duration: `5ms`, `10s`, `1m30s`.
#[derive(JsonSchema)]
struct Duration(#[schemars(regex(pattern = r"^(0|([0-9]+(\.[0-9]+)?(ns|us|µs|ms|s|m|h))+)$"))] String);

/// A range of durations, drawn from the seed: `5ms..60ms`, or one duration.
#[derive(JsonSchema)]
struct DurationRange(String);

/// A number, exact (`4`) or bounded (`2..4`, `2..` at least, `..4` at most, `{min: 2, max: 4}`).
#[derive(JsonSchema)]
#[schemars(untagged)]
enum Count {
    /// Exactly this.
    Exact(u64),
    /// `2..4`, `2..`, `..4`.
    Text(String),
    /// Bounds.
    Bounds(Bounds),
}

/// Bounds of a count, both included.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
struct Bounds {
    /// Smallest.
    min: Option<u32>,
    /// Largest.
    max: Option<u32>,
}

/// An IPv4 or IPv6 address.
#[derive(JsonSchema)]
struct Address(String);

/// A block of addresses: `192.168.1.0/24`, `fd00::/64`.
#[derive(JsonSchema)]
struct Cidr(String);

/// Where a connection goes: `10.0.0.2:5001`, `[fd00::a00:2]:5001`, `vm-001:30001` (first address of a host),
/// `service:default/mconnect:5001` (its cluster IP; `service6:` for IPv6) or `pod:default/mconnect:5001` (first pod
/// whose name begins so; `pod6:` for IPv6).
#[derive(JsonSchema)]
struct Target(String);

/// Kubernetes objects: the path of a YAML file, relative to the scenario, or the object itself.
#[derive(JsonSchema)]
#[schemars(untagged)]
enum Objects {
    /// File.
    File(String),
    /// Inline object.
    Inline(BTreeMap<String, serde_json::Value>),
}

/// A cluster, what happens to it and what should be seen.
#[derive(JsonSchema)]
#[schemars(rename_all = "camelCase", deny_unknown_fields)]
struct Scenario {
    /// Short name, shown in every report.
    name: String,
    /// Free text.
    description: Option<String>,
    /// Features a stage must offer (`ipvs`, ...); without one of them the scenario is skipped.
    needs: Option<OneOrMany<String>>,
    /// Hosts and the LANs between them.
    topology: Topology,
    /// Addresses the API server gives to services.
    services: Option<Services>,
    /// How fast the parts of the cluster that are not ours react.
    timing: Option<Timing>,
    /// Command line of the node agent (kube-router's flags), for every node.
    flags: Option<OneOrMany<String>>,
    /// Kubernetes objects that exist from the start.
    objects: Option<OneOrMany<Objects>>,
    /// What happens and what is expected, in order.
    steps: Vec<Step>,
}

/// Hosts and the LANs between them.
#[derive(JsonSchema)]
#[schemars(rename_all = "camelCase", deny_unknown_fields)]
struct Topology {
    /// Broadcast domains by name.
    lans: Option<BTreeMap<String, Lan>>,
    /// Cluster nodes by name; each runs one agent.
    nodes: Option<BTreeMap<String, Node>>,
    /// BGP routers outside the cluster by name.
    routers: Option<BTreeMap<String, Router>>,
    /// Plain hosts that make connections, by name.
    testers: Option<BTreeMap<String, Tester>>,
}

/// One broadcast domain.
#[derive(JsonSchema)]
#[schemars(rename_all = "camelCase", deny_unknown_fields)]
struct Lan {
    /// Subnets in use on it; addresses of hosts take their prefix length from here.
    subnets: OneOrMany<Cidr>,
    /// Time a packet takes to cross it, one way; default 200us.
    latency: Option<Duration>,
}

/// A cluster node. Keys other than those listed are names of LANs, with one address or a list of them.
#[derive(JsonSchema)]
#[schemars(rename_all = "camelCase")]
struct Node {
    /// Addresses for its pods.
    #[schemars(rename = "podCIDR")]
    pod_cidr: Option<Cidr>,
    /// Addresses for its pods, one block per family.
    #[schemars(rename = "podCIDRs")]
    pod_cidrs: Option<OneOrMany<Cidr>>,
    /// Flags of this node's agent, after the common ones.
    flags: Option<OneOrMany<String>>,
    /// Labels of the Node object.
    labels: Option<BTreeMap<String, String>>,
    /// Annotations of the Node object.
    annotations: Option<BTreeMap<String, String>>,
    /// Where its default route points: `routers` (default; all on a shared LAN, ECMP), `none`, or hosts.
    gateways: Option<OneOrMany<String>>,
    /// Addresses by LAN.
    #[schemars(flatten)]
    addresses: BTreeMap<String, OneOrMany<Address>>,
}

/// A program that speaks BGP.
#[derive(JsonSchema)]
#[schemars(rename_all = "lowercase")]
enum Software {
    Fairway,
    Gobgp,
    Bird,
    Frr,
    Exabgp,
}

/// An IP family.
#[derive(JsonSchema)]
#[schemars(rename_all = "lowercase")]
enum Family {
    Ipv4,
    Ipv6,
}

/// Several paths of a prefix (RFC 7911).
#[derive(JsonSchema)]
#[schemars(rename_all = "camelCase", deny_unknown_fields)]
struct AddPath {
    /// It takes them.
    receive: Option<bool>,
    /// It sends so many; default 0: only the best one.
    send: Option<u8>,
}

/// A limit of prefixes of each family.
#[derive(JsonSchema)]
#[schemars(rename_all = "camelCase", deny_unknown_fields)]
struct MaxPrefixes {
    /// So many are taken; one more ends the session.
    limit: u32,
    /// After that time the session may come again; absent: when it is reset by hand.
    restart: Option<Duration>,
}

/// A BGP router outside the cluster: waits for sessions and puts what it learns into its kernel with ECMP. Keys other
/// than those listed are names of LANs, with one address or a list of them.
#[derive(JsonSchema)]
#[schemars(rename_all = "camelCase")]
struct Router {
    /// Who plays it on a stage with a real kernel, whatever `--routers` says. In memory it is always our own agent.
    software: Option<Software>,
    /// Its AS number.
    asn: u32,
    /// Neighbours that it knows and dials, by address or host, with their AS numbers.
    peers: Option<BTreeMap<String, u32>>,
    /// It dials none of `peers`.
    passive: Option<bool>,
    /// TCP MD5 password (RFC 2385) of the sessions with `peers`.
    password: Option<String>,
    /// Families of its sessions; default both.
    families: Option<OneOrMany<Family>>,
    /// Own prefixes to announce.
    networks: Option<OneOrMany<Cidr>>,
    /// Several paths of a prefix (RFC 7911).
    add_path: Option<AddPath>,
    /// Graceful restart (RFC 4724): how long others shall keep its routes.
    graceful_restart: Option<Duration>,
    /// A limit of prefixes for each neighbour.
    max_prefixes: Option<MaxPrefixes>,
    /// Neighbours of its own AS are its clients (RFC 4456).
    reflector: Option<bool>,
    /// IPv4 prefixes may have IPv6 next hops (RFC 8950).
    extended_next_hop: Option<bool>,
    /// Packets of neighbours must come from the link, with TTL 255 (RFC 5082).
    ttl_security: Option<bool>,
    /// AS numbers of peers it accepts; none of them means nobody.
    accept: Option<OneOrMany<u32>>,
    /// Prefixes it refuses on import: each one itself and everything inside.
    reject: Option<OneOrMany<Cidr>>,
    /// It watches its peers by BFD; nodes need `--enable-bfd` for it.
    bfd: Option<Bfd>,
    /// Where its default route points: `none` (default), `routers`, or hosts.
    gateways: Option<OneOrMany<String>>,
    /// Addresses by LAN.
    #[schemars(flatten)]
    addresses: BTreeMap<String, OneOrMany<Address>>,
}

/// How a router watches its peers by BFD.
#[derive(JsonSchema)]
#[schemars(rename_all = "camelCase", deny_unknown_fields)]
struct Bfd {
    /// Time between packets, in whole milliseconds; default 1s.
    interval: Option<Duration>,
    /// Packets that may be lost in a row; default 3.
    multiplier: Option<u8>,
}

/// A plain host. Keys other than those listed are names of LANs, with one address or a list of them.
#[derive(JsonSchema)]
#[schemars(rename_all = "camelCase")]
struct Tester {
    /// Where its default route points: `routers` (default; all on a shared LAN, ECMP), `none`, or hosts.
    gateways: Option<OneOrMany<String>>,
    /// TCP ports on which an mconnect server answers with the name of the host.
    serves: Option<OneOrMany<u16>>,
    /// Addresses by LAN.
    #[schemars(flatten)]
    addresses: BTreeMap<String, OneOrMany<Address>>,
}

/// Addresses the API server gives to services.
#[derive(JsonSchema)]
#[schemars(rename_all = "camelCase", deny_unknown_fields)]
struct Services {
    /// Service cluster IP ranges, primary family first; default 10.96.0.0/12, and fd00:4000::/112 where the topology
    /// has IPv6.
    cidrs: OneOrMany<Cidr>,
}

/// How fast the parts of the cluster that are not ours react.
#[derive(JsonSchema)]
#[schemars(rename_all = "camelCase", deny_unknown_fields)]
struct Timing {
    /// From a change in the API server to the agent's watch; default 5ms..60ms.
    watch_lag: Option<DurationRange>,
    /// From a pod being scheduled to it running; default 200ms..1s.
    pod_start: Option<DurationRange>,
    /// From a pod's readiness changing to its EndpointSlice saying so; default 100ms..500ms.
    probe: Option<DurationRange>,
    /// From the last heartbeat of a node to its condition `Ready=Unknown`; default 40s.
    node_grace: Option<Duration>,
    /// From `Ready=Unknown` to its pods being deleted; default 300s.
    eviction: Option<Duration>,
}

/// One step: exactly one action. `expect` is an action of its own, or judges what mconnect, measure, stop or trace
/// gave; `show` is an action of its own, or prints after another one.
#[derive(JsonSchema)]
#[schemars(rename_all = "camelCase", deny_unknown_fields)]
struct Step {
    /// Name for reports.
    name: Option<String>,
    /// Sentence printed above the step.
    title: Option<String>,
    /// Lets time pass until all conditions hold at once.
    until: Option<Until>,
    /// What should hold now, or what should come out of the action beside it.
    expect: Option<Expect>,
    /// Prints state like the usual tools.
    show: Option<Show>,
    /// Runs mconnect to its end.
    mconnect: Option<Mconnect>,
    /// Starts a background load.
    load: Option<Load>,
    /// Resets the counters of a load, lets time pass, judges.
    measure: Option<Measure>,
    /// Ends the load of this name; `expect` judges its whole life.
    stop: Option<String>,
    /// Lets time pass.
    pass: Option<Duration>,
    /// Creates or updates objects.
    apply: Option<OneOrMany<Objects>>,
    /// Deletes an object.
    delete: Option<Delete>,
    /// Sets the replicas of a Deployment.
    scale: Option<Scale>,
    /// Changes an object (JSON merge patch, RFC 7386).
    patch: Option<Patch>,
    /// Makes something go wrong, or right again.
    fault: Option<Fault>,
    /// Follows one packet.
    trace: Option<Trace>,
    /// Asks a host's own tool.
    ask: Option<Ask>,
}

/// A question to the tool of a router or node, judged by the text it prints. Played where the host runs that software,
/// passed over elsewhere.
#[derive(JsonSchema)]
#[schemars(rename_all = "camelCase", deny_unknown_fields)]
struct Ask {
    /// Node or router.
    on: String,
    /// The software that has the tool; default that of the router, `fairway` on a node.
    r#as: Option<Software>,
    /// What is typed in a shell: `birdc show protocols all`, `vtysh -c 'show bgp summary'`, `gobgp neighbor`.
    run: String,
    /// Texts that are printed.
    contains: Option<OneOrMany<String>>,
    /// Regular expressions of which each matches; `^` and `$` are the ends of a line.
    matches: Option<OneOrMany<String>>,
    /// Texts that are not printed.
    absent: Option<OneOrMany<String>>,
    /// How long to wait for all that; default: it holds now.
    within: Option<Duration>,
}

/// Where a connection starts: a host, or a pod.
#[derive(JsonSchema)]
#[schemars(untagged)]
enum From {
    /// Node, router or tester.
    Host(String),
    /// A pod.
    Pod(Pod),
}

/// A pod: the `index`-th, by name, of those that match.
#[derive(JsonSchema)]
#[schemars(rename_all = "camelCase", deny_unknown_fields)]
struct Pod {
    /// Node it runs on.
    pod_on: Option<String>,
    /// Beginning of its name.
    pod: Option<String>,
    /// Which of the matching ones; default 0.
    index: Option<u32>,
    /// Namespace; default `default`.
    namespace: Option<String>,
}

/// One run of mconnect.
#[derive(JsonSchema)]
#[schemars(rename_all = "camelCase", deny_unknown_fields)]
struct Mconnect {
    /// Where it runs.
    from: From,
    /// Where it connects to.
    address: Target,
    /// Connections; default 1.
    nconn: Option<u32>,
    /// UDP instead of TCP.
    udp: Option<bool>,
    /// Block to take source addresses from.
    srccidr: Option<Cidr>,
    /// Deadline of the whole run; default 2 s and 1 ms per connection.
    timeout: Option<Duration>,
    /// Connections in flight; default 64.
    #[schemars(rename = "maxconcurrent")]
    max_concurrent: Option<u32>,
    /// Keep connections open.
    keep: Option<bool>,
}

/// A background load: one of `rate` and `keep`.
#[derive(JsonSchema)]
#[schemars(rename_all = "camelCase", deny_unknown_fields)]
struct Load {
    /// Name by which it is measured and stopped.
    r#as: String,
    /// Where it runs.
    from: From,
    /// Where it connects to.
    address: Target,
    /// UDP instead of TCP.
    udp: Option<bool>,
    /// Block to take source addresses from.
    srccidr: Option<Cidr>,
    /// How long one connect or read may take; default 1s.
    timeout: Option<Duration>,
    /// New connections per second.
    rate: Option<u32>,
    /// Long-lived connections that send every 100 ms.
    keep: Option<u32>,
}

/// A span of a load.
#[derive(JsonSchema)]
#[schemars(rename_all = "camelCase", deny_unknown_fields)]
struct Measure {
    /// The load.
    load: String,
    /// How long.
    r#for: Duration,
}

/// An object.
#[derive(JsonSchema)]
#[schemars(rename_all = "camelCase", deny_unknown_fields)]
struct Delete {
    /// `Service`, `Deployment`, ...
    kind: String,
    /// Namespace; default `default`.
    namespace: Option<String>,
    /// Name, or `namespace/name`.
    name: String,
}

/// How many pods.
#[derive(JsonSchema)]
#[schemars(rename_all = "camelCase", deny_unknown_fields)]
struct Scale {
    /// Namespace; default `default`.
    namespace: Option<String>,
    /// Name, or `namespace/name`.
    deployment: String,
    /// Wanted pods.
    replicas: u32,
}

/// A change of an object.
#[derive(JsonSchema)]
#[schemars(rename_all = "camelCase", deny_unknown_fields)]
struct Patch {
    /// `Service`, `Node`, ...
    kind: String,
    /// Namespace; default `default`.
    namespace: Option<String>,
    /// Name, or `namespace/name`.
    name: String,
    /// What to merge; `null` removes a field.
    merge: BTreeMap<String, serde_json::Value>,
}

/// One packet.
#[derive(JsonSchema)]
#[schemars(rename_all = "camelCase", deny_unknown_fields)]
struct Trace {
    /// Where it starts.
    from: From,
    /// Where it should go.
    to: Target,
    /// Protocol; default tcp.
    protocol: Option<Protocol>,
}

/// Transport protocol.
#[derive(JsonSchema)]
#[schemars(rename_all = "lowercase")]
enum Protocol {
    Tcp,
    Udp,
    Sctp,
}
