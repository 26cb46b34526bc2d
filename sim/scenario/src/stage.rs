//! What a stage can be asked. A stage is a place where a scenario is played: simulated hosts, network namespaces, VMs.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use ipnet::IpNet;

use crate::fault::Fault;
use crate::scenario::Software;
use crate::step::{Origin, Protocol, Target};

/// Why a stage did not do what it was asked. A scenario ends with `error` then, which is not the same as `fail`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StageError {
    /// The stage has no such ability.
    #[error("this stage cannot do that: {0}")]
    Unsupported(String),
    /// A host, object or load by that name does not exist (now).
    #[error("not found: {0}")]
    NotFound(String),
    /// The world said no: an object no document of which could be read, a pod on a dead node.
    #[error("{0}")]
    Refused(String),
}

/// A place where a scenario is played.
pub trait Stage {
    /// Name of the stage, as `--stage` takes it: `memory`, `netns`, ...
    fn name(&self) -> &'static str;
    /// What the stage offers, to be held against `needs`.
    fn features(&self) -> Vec<String>;
    /// Time since the start, virtual or real.
    fn now(&self) -> Duration;
    /// Lets time pass until something happened or `limit` (since the start) is reached; returns the new now. In
    /// memory this is one batch of events, so a poll after each call sees every state.
    fn advance(&mut self, limit: Duration) -> Duration;
    /// Creates or updates objects; lines like `service/mconnect created`. Invalid documents become notices or lines,
    /// not a failure, unless nothing could be read at all. `file` is for messages.
    fn apply(&mut self, file: &str, yaml: &str) -> Result<Vec<String>, StageError>;
    /// Deletes one object.
    fn delete(&mut self, kind: &str, namespace: &str, name: &str) -> Result<(), StageError>;
    /// Sets the replicas of a Deployment.
    fn scale(&mut self, namespace: &str, deployment: &str, replicas: u32) -> Result<(), StageError>;
    /// JSON merge patch (RFC 7386) of one object.
    fn patch(&mut self, kind: &str, namespace: &str, name: &str, merge: &serde_json::Value) -> Result<(), StageError>;
    /// Makes something go wrong (or right again); says in one line what was done.
    fn fault(&mut self, fault: &Fault) -> Result<String, StageError>;
    /// BGP neighbours of a node or router.
    fn neighbors(&mut self, host: &str) -> Result<Vec<Neighbor>, StageError>;
    /// BFD sessions of a node or router.
    fn bfd(&mut self, host: &str) -> Result<Vec<BfdSession>, StageError> {
        Err(StageError::Unsupported(format!("looking at BFD on {host}")))
    }
    /// The CNI configuration of a node; `None`: there is none.
    fn cni(&mut self, host: &str) -> Result<Option<CniConfig>, StageError> {
        Err(StageError::Unsupported(format!("looking at the CNI configuration of {host}")))
    }
    /// BGP paths of one family of a node or router.
    fn rib(&mut self, host: &str, ipv6: bool) -> Result<Vec<RibPath>, StageError>;
    /// What the host's own BGP tool prints of neighbours or paths: the command, and its output. `None` if it has none; then
    /// the rows of [`Stage::neighbors`] and [`Stage::rib`] are printed as gobgp would.
    fn bgp_tool(&mut self, host: &str, show: BgpShow) -> Result<Option<(String, String)>, StageError> {
        let _ = (host, show);
        Ok(None)
    }
    /// Types a command in a shell on a host, if the host runs that software, whose tool the command is.
    fn ask(&mut self, host: &str, software: Software, run: &str) -> Result<Answer, StageError> {
        let _ = (host, software, run);
        let why = format!("on stage {} hosts run no programs", self.name());
        Ok(Answer::NotAsked(why))
    }
    /// The main routing table of one family of any host.
    fn routes(&mut self, host: &str, ipv6: bool) -> Result<Vec<Route>, StageError>;
    /// IPVS of a node.
    fn virtual_servers(&mut self, host: &str) -> Result<Vec<VirtualServer>, StageError>;
    /// IPVS of a node, as `ipvsadm -Ln` prints it.
    fn show_virtual_servers(&mut self, host: &str) -> Result<String, StageError>;
    /// Endpoints of a service as the EndpointSlices have them.
    fn endpoints(&mut self, namespace: &str, service: &str) -> Result<Vec<EndpointState>, StageError>;
    /// Notices that stand now, of all nodes.
    fn notices(&mut self) -> Vec<NoticeLine>;
    /// Whether a node's agent has heard everything and has nothing left to do.
    fn in_sync(&mut self, host: &str) -> Result<bool, StageError>;
    /// The address a target means now: the cluster IP of a service, the address of a pod. Needed where a condition
    /// names a service; a stage that knows only addresses may leave it out.
    fn resolve(&mut self, target: &Target) -> Result<SocketAddr, StageError> {
        match target {
            Target::Socket(address) => Ok(*address),
            Target::Service { .. } | Target::Pod { .. } => Err(StageError::Unsupported(format!("resolve {target}"))),
        }
    }
    /// Runs mconnect to its end; time passes.
    fn mconnect(&mut self, request: &MconnectRequest) -> Result<LoadResult, StageError>;
    /// Starts a background load.
    fn load_start(&mut self, request: &LoadRequest) -> Result<(), StageError>;
    /// Counters of a background load since the last take, which are then reset.
    fn load_take(&mut self, name: &str) -> Result<LoadResult, StageError>;
    /// Ends a background load; counters of its whole life.
    fn load_stop(&mut self, name: &str) -> Result<LoadResult, StageError>;
    /// Sends one packet and tells its way.
    fn trace(&mut self, request: &TraceRequest) -> Result<TraceResult, StageError>;
    /// Hash over everything that happened, if the stage is deterministic.
    fn trace_hash(&self) -> Option<u64>;
}

/// What came of a question to a host's tool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// What it printed.
    Printed(String),
    /// Nobody was asked, and why.
    NotAsked(String),
}

/// What a BGP tool is asked to print.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BgpShow {
    /// The neighbours.
    Neighbors,
    /// Paths of one family, to one prefix if one is given.
    Rib {
        /// IPv6 instead of IPv4.
        ipv6: bool,
        /// The prefix, exactly.
        to: Option<IpNet>,
    },
}

/// One row of `gobgp neighbor`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Neighbor {
    /// Address of the peer.
    pub address: IpAddr,
    /// AS number of the peer.
    pub asn: u32,
    /// `Establ`, `Active`, `Idle`, `Connect`, `OpenSent`, `OpenConfirm`.
    pub state: String,
    /// How long the session has been up (or down); `None` if it never was.
    pub since: Option<Duration>,
    /// Paths received.
    pub received: u64,
    /// Paths left after the import policy.
    pub accepted: u64,
    /// Why the last session or attempt ended, if the speaker tells.
    pub reason: Option<String>,
}

/// One BFD session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BfdSession {
    /// Address of the peer.
    pub address: IpAddr,
    /// `AdminDown`, `Down`, `Init`, `Up`.
    pub state: String,
}

/// What a CNI configuration says of pods.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CniConfig {
    /// `ipam.ranges` of the bridge.
    pub ranges: Vec<IpNet>,
    /// Its `mtu`.
    pub mtu: Option<u32>,
}

/// One row of `gobgp global rib`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RibPath {
    /// Destination.
    pub prefix: IpNet,
    /// Next hop; the unspecified address for own paths.
    pub next_hop: IpAddr,
    /// AS numbers, nearest first.
    pub as_path: Vec<u32>,
    /// Whether this is a path in use.
    pub best: bool,
    /// How long it is there.
    pub age: Duration,
    /// Other attributes as gobgp prints them: `[{Origin: ?}]`.
    pub attrs: String,
}

/// One route.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// Destination.
    pub prefix: IpNet,
    /// As `ip route` prints it; several lines for ECMP.
    pub text: String,
    /// Gateways; empty for a connected route.
    pub next_hops: Vec<IpAddr>,
    /// `rtm_protocol`.
    pub protocol: u8,
}

/// One IPVS virtual server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VirtualServer {
    /// Address and port.
    pub address: SocketAddr,
    /// `tcp`, `udp` or `sctp`.
    pub protocol: String,
    /// IPVS scheduler: `rr`, `mh`, ...
    pub scheduler: String,
    /// Whether clients stick to a real server.
    pub persistent: bool,
    /// Where connections go.
    pub real_servers: Vec<RealServer>,
}

/// One IPVS real server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RealServer {
    /// Address and port.
    pub address: SocketAddr,
    /// Weight; 0 takes no new connections.
    pub weight: u32,
    /// `ActiveConn` of `ipvsadm`.
    pub active: u64,
    /// `InActConn` of `ipvsadm`.
    pub inactive: u64,
}

/// One endpoint of a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointState {
    /// Pod name, empty if the endpoint is not a pod.
    pub pod: String,
    /// Node name.
    pub node: String,
    /// Address.
    pub address: IpAddr,
    /// Condition `ready`.
    pub ready: bool,
}

/// A notice an agent has standing: something it was told and cannot do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NoticeLine {
    /// Node whose agent says it.
    pub host: String,
    /// Object: `Service default/bad`.
    pub subject: String,
    /// Path of the field: `spec.externalIPs[0]`; empty for the whole object.
    pub field: String,
    /// What is wrong.
    pub reason: String,
}

/// One run of mconnect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MconnectRequest {
    /// Where it runs.
    pub from: Origin,
    /// Where it connects to.
    pub address: Target,
    /// Connections (`-nconn`).
    pub nconn: u32,
    /// UDP instead of TCP (`-udp`).
    pub udp: bool,
    /// Block to take source addresses from (`-srccidr`).
    pub srccidr: Option<IpNet>,
    /// Deadline of the whole run (`-timeout`); `None` = 2 s + 1 ms per connection.
    pub timeout: Option<Duration>,
    /// Connections in flight (`-maxconcurrent`).
    pub max_concurrent: u32,
    /// Keep connections open (`-keep`).
    pub keep: bool,
}

/// A background load.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoadRequest {
    /// Name by which it is measured and stopped.
    pub name: String,
    /// Where it runs.
    pub from: Origin,
    /// Where it connects to.
    pub address: Target,
    /// UDP instead of TCP.
    pub udp: bool,
    /// Block to take source addresses from.
    pub srccidr: Option<IpNet>,
    /// What it does.
    pub mode: LoadMode,
    /// How long one connect or one read may take before it counts as failed.
    pub timeout: Duration,
}

/// What a background load does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LoadMode {
    /// This many new connections per second, each read once and closed.
    Rate(u32),
    /// This many long-lived connections that send every 100 ms and are not replaced when they break.
    Keep(u32),
}

/// What a load saw.
#[derive(Debug, Clone)]
pub struct LoadResult {
    /// Counters, with answers by host name of the server.
    pub report: fairway_mconnect::Report,
    /// Answers by node on which the server ran.
    pub by_node: BTreeMap<String, u64>,
    /// Client addresses as the servers saw them.
    pub sources_seen: BTreeMap<IpAddr, u64>,
    /// The first few failures: when (since the start) and why.
    pub failures: Vec<(Duration, String)>,
}

/// One packet to be followed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TraceRequest {
    /// Where it starts.
    pub from: Origin,
    /// Where it should go.
    pub to: Target,
    /// Its protocol.
    pub protocol: Protocol,
}

/// The way of one packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TraceResult {
    /// The walk, line by line.
    pub text: String,
    /// Whether it arrived at a socket.
    pub delivered: bool,
    /// Hosts it passed, in order.
    pub through: Vec<String>,
}
