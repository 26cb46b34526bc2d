//! The steps of a scenario: what happens and what is expected.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use ipnet::IpNet;
use regex_lite::Regex;

use crate::fault::Fault;
use crate::scenario::{Objects, Software};
use crate::source::{At, Span};
use crate::stage::{LoadRequest, MconnectRequest, TraceRequest};

/// One step.
#[derive(Debug, Clone)]
pub struct Step {
    /// Name, for reports of machines.
    pub name: Option<String>,
    /// Sentence for people, printed above the step.
    pub title: Option<String>,
    /// What to do.
    pub action: Action,
    /// What to print after it.
    pub show: Option<Show>,
    /// The key of the action in the file.
    pub span: Span,
}

/// What a step does.
#[derive(Debug, Clone)]
pub enum Action {
    /// Lets time pass until all conditions hold.
    Until {
        /// Longest wait.
        within: Duration,
        /// What should hold at the same time.
        conditions: Conditions,
    },
    /// All conditions hold now.
    Expect(Conditions),
    /// Prints state like the usual tools.
    Show(Show),
    /// Runs mconnect to its end.
    Mconnect {
        /// What to run.
        request: MconnectRequest,
        /// What should come out.
        expect: LoadExpect,
    },
    /// Starts a background load.
    Load(LoadRequest),
    /// Resets the counters of a load, lets time pass, judges.
    Measure {
        /// The load.
        load: String,
        /// How long.
        duration: Duration,
        /// What should come out.
        expect: LoadExpect,
    },
    /// Ends a load and judges its whole life.
    Stop {
        /// The load.
        load: String,
        /// What should come out.
        expect: LoadExpect,
    },
    /// Lets time pass.
    Pass(Duration),
    /// Creates or updates objects.
    Apply(Vec<Objects>),
    /// Deletes an object.
    Delete {
        /// `Service`, `Deployment`, ...
        kind: String,
        /// Namespace; ignored for kinds that have none.
        namespace: String,
        /// Name.
        name: String,
    },
    /// Sets the replicas of a Deployment.
    Scale {
        /// Namespace.
        namespace: String,
        /// Name of the Deployment.
        deployment: String,
        /// Wanted pods.
        replicas: u32,
    },
    /// JSON merge patch (RFC 7386) of an object.
    Patch {
        /// `Service`, `Node`, ...
        kind: String,
        /// Namespace; ignored for kinds that have none.
        namespace: String,
        /// Name.
        name: String,
        /// What to merge.
        merge: serde_json::Value,
    },
    /// Makes something go wrong, or right again.
    Fault(Fault),
    /// Follows one packet.
    Trace {
        /// The packet.
        request: TraceRequest,
        /// What should become of it.
        expect: TraceExpect,
    },
    /// Asks a host's own tool.
    Ask(Ask),
}

/// A question to the tool of a host, and what its answer should be.
#[derive(Debug, Clone)]
pub struct Ask {
    /// Node or router.
    pub on: String,
    /// The software that has the tool. Where the host runs another one, nobody is asked.
    pub software: Software,
    /// What is typed in a shell.
    pub run: String,
    /// Texts that are printed.
    pub contains: Vec<String>,
    /// Regular expressions of which each matches.
    pub matches: Vec<Regex>,
    /// Texts that are not printed.
    pub absent: Vec<String>,
    /// How long to wait for all that.
    pub within: Duration,
}

/// Conditions that should hold at the same time.
pub type Conditions = Vec<At<Condition>>;

/// One thing that can be seen from outside.
#[derive(Debug, Clone, PartialEq)]
pub enum Condition {
    /// BGP sessions of a host.
    Bgp(BgpCondition),
    /// One BGP session.
    Neighbor(NeighborCondition),
    /// BGP paths to a prefix.
    Rib(RibCondition),
    /// A route in a kernel.
    Route(RouteCondition),
    /// Endpoints of a service.
    Endpoints(EndpointsCondition),
    /// An IPVS virtual server.
    VirtualServer(VirtualServerCondition),
    /// The CNI configuration of a node.
    Cni(CniCondition),
    /// A standing notice.
    Notice(NoticeCondition),
    /// No notice stands at all.
    NoNotices,
    /// The agent of a node has nothing left to do.
    InSync(String),
}

/// A number that may be exact or bounded: `4`, `2..4`, `2..`, `..4`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Count {
    /// Smallest.
    pub min: u64,
    /// Largest; `None` is no bound.
    pub max: Option<u64>,
}

impl Count {
    /// Exactly `n`.
    pub fn exactly(n: u64) -> Self {
        Count { min: n, max: Some(n) }
    }

    /// Whether `n` is within the bounds.
    pub fn holds(&self, n: u64) -> bool {
        n >= self.min && self.max.is_none_or(|max| n <= max)
    }
}

impl fmt::Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.min, self.max) {
            (min, Some(max)) if min == max => write!(f, "{min}"),
            (0, Some(max)) => write!(f, "at most {max}"),
            (min, Some(max)) => write!(f, "{min} to {max}"),
            (min, None) => write!(f, "at least {min}"),
        }
    }
}

/// BGP sessions of a node or router.
#[derive(Debug, Clone, PartialEq)]
pub struct BgpCondition {
    /// Node or router.
    pub on: String,
    /// Sessions in state Established.
    pub established: Option<Count>,
    /// Neighbours in any state.
    pub neighbors: Option<Count>,
    /// Paths accepted from all neighbours together.
    pub accepted: Option<Count>,
    /// BFD sessions in state Up.
    pub bfd: Option<Count>,
}

/// One BGP session as one side of it sees it.
#[derive(Debug, Clone, PartialEq)]
pub struct NeighborCondition {
    /// Node or router.
    pub on: String,
    /// Address of the other side.
    pub peer: IpAddr,
    /// Whether it is Established.
    pub up: Option<bool>,
    /// Paths received.
    pub received: Option<Count>,
    /// Paths left after the import policy.
    pub accepted: Option<Count>,
    /// Text in the reason for the end of the last session or attempt.
    pub because: Option<String>,
}

/// BGP paths to a prefix.
#[derive(Debug, Clone, PartialEq)]
pub struct RibCondition {
    /// Node or router.
    pub on: String,
    /// Destination, exactly.
    pub prefix: IpNet,
    /// Paths to it.
    pub paths: Count,
    /// Counts only paths with this next hop.
    pub via: Option<IpAddr>,
    /// Counts only paths that end with these AS numbers.
    pub as_path: Vec<u32>,
}

/// A route in the kernel of a host.
#[derive(Debug, Clone, PartialEq)]
pub struct RouteCondition {
    /// Any host.
    pub on: String,
    /// Destination, exactly.
    pub to: IpNet,
    /// Gateways of it; 0 is satisfied when there is no such route. A connected route counts as one.
    pub next_hops: Count,
    /// Only a route of this protocol (`RTPROT_*`) counts.
    pub protocol: Option<u8>,
}

/// Endpoints of a service.
#[derive(Debug, Clone, PartialEq)]
pub struct EndpointsCondition {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub service: String,
    /// Endpoints that are ready.
    pub ready: Option<Count>,
    /// Endpoints in any state.
    pub total: Option<Count>,
}

/// An IPVS virtual server.
#[derive(Debug, Clone, PartialEq)]
pub struct VirtualServerCondition {
    /// Node.
    pub on: String,
    /// Address and port.
    pub address: Target,
    /// Protocol.
    pub protocol: Protocol,
    /// Whether it should be there at all.
    pub present: bool,
    /// Real servers of any weight.
    pub real_servers: Option<Count>,
    /// Real servers of weight above 0.
    pub active: Option<Count>,
    /// Scheduler.
    pub scheduler: Option<String>,
    /// Whether clients stick to a real server.
    pub persistent: Option<bool>,
}

/// What a CNI configuration should say.
#[derive(Debug, Clone, PartialEq)]
pub struct CniCondition {
    /// Node.
    pub on: String,
    /// The networks from which pods get addresses, all of them and in this order.
    pub ranges: Option<Vec<IpNet>>,
    /// Largest packet of pods, octets.
    pub mtu: Option<Count>,
}

/// A notice to look for among the standing ones.
#[derive(Debug, Clone, PartialEq)]
pub struct NoticeCondition {
    /// Node whose agent should say it; any if absent.
    pub on: Option<String>,
    /// Object, exactly.
    pub subject: Option<String>,
    /// Field, exactly.
    pub field: Option<String>,
    /// Text inside the reason.
    pub contains: Option<String>,
    /// Whether it should stand (true) or must not (false).
    pub present: bool,
}

/// What to print.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Show {
    /// `gobgp neighbor` on these hosts.
    pub neighbors: Vec<String>,
    /// `gobgp global rib` on these hosts.
    pub rib: Vec<String>,
    /// `ip route` on these hosts.
    pub routes: Vec<String>,
    /// `ipvsadm -Ln` on these nodes.
    pub virtual_servers: Vec<String>,
    /// `kubectl get endpointslices`, in short: `(namespace, service)`.
    pub endpoints: Vec<(String, String)>,
    /// Standing notices of all nodes.
    pub notices: bool,
    /// Narrows `rib` and `routes` to this destination; also chooses the family.
    pub to: Option<IpNet>,
    /// IPv6 tables instead of IPv4.
    pub ipv6: bool,
}

/// Where a connection starts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// A host: node, router or tester.
    Host(String),
    /// A pod: the `index`-th, by name, of those that match.
    Pod {
        /// Namespace.
        namespace: String,
        /// Beginning of the name; empty matches every pod.
        name: String,
        /// Node it runs on.
        on: Option<String>,
        /// Which of the matching ones, from 0.
        index: usize,
    },
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Host(host) => f.write_str(host),
            Origin::Pod { name, on, index, .. } => {
                write!(f, "pod")?;
                if !name.is_empty() {
                    write!(f, " {name}*")?;
                }
                if let Some(node) = on {
                    write!(f, " on {node}")?;
                }
                if *index > 0 { write!(f, " #{index}") } else { Ok(()) }
            }
        }
    }
}

/// Where a connection goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// An address.
    Socket(SocketAddr),
    /// The cluster IP of a service, written `service:default/mconnect:5001` (`service6:` for its IPv6 address).
    Service {
        /// Namespace.
        namespace: String,
        /// Name.
        name: String,
        /// Port.
        port: u16,
        /// Its IPv6 cluster IP.
        ipv6: bool,
    },
    /// The address of the first pod, by name, whose name begins so, written `pod:default/mconnect:5001` (`pod6:`).
    Pod {
        /// Namespace.
        namespace: String,
        /// Beginning of the name.
        name: String,
        /// Port.
        port: u16,
        /// Its IPv6 address.
        ipv6: bool,
    },
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let six = |ipv6: &bool| if *ipv6 { "6" } else { "" };
        match self {
            Target::Socket(address) => write!(f, "{address}"),
            Target::Service { namespace, name, port, ipv6 } => {
                write!(f, "service{}:{namespace}/{name}:{port}", six(ipv6))
            }
            Target::Pod { namespace, name, port, ipv6 } => write!(f, "pod{}:{namespace}/{name}:{port}", six(ipv6)),
        }
    }
}

/// Transport protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

impl Protocol {
    /// `tcp`, `udp` or `sctp`.
    pub fn as_str(self) -> &'static str {
        match self {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
            Protocol::Sctp => "sctp",
        }
    }
}

/// What should come out of a load. What is absent is not judged.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct LoadExpect {
    /// Connections that could not be made.
    pub failed_connects: Option<Count>,
    /// Connections that were made and gave no answer.
    pub failed_reads: Option<Count>,
    /// Both together.
    pub failed: Option<Count>,
    /// Connections attempted.
    pub connects: Option<Count>,
    /// Servers that answered.
    pub hosts: Option<Count>,
    /// Answers of each server differ from the mean by at most this many per cent.
    pub even_within: Option<f64>,
    /// Answers by server (pod name or its beginning).
    pub exactly: BTreeMap<String, Count>,
    /// Answers by node the server runs on.
    pub by_node: BTreeMap<String, Count>,
    /// Client addresses as the servers saw them: each must match one of these.
    pub source_seen: Vec<SourceMatch>,
    /// Servers run on these nodes only.
    pub only_on: Vec<String>,
    /// Servers run on none of these nodes.
    pub not_on: Vec<String>,
}

/// An address a server may see as its client's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SourceMatch {
    /// The client's own.
    Client,
    /// An address of any node, that of its pod bridge (first of the pod CIDR) included.
    Node,
    /// Any pod address.
    Pod,
    /// Inside this block.
    Block(IpNet),
}

/// What should become of a packet.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TraceExpect {
    /// Whether it arrives.
    pub delivered: Option<bool>,
    /// Hosts it passes, in this order, others in between allowed.
    pub through: Vec<String>,
    /// Text in the walk.
    pub contains: Vec<String>,
}
