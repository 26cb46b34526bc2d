//! What can go wrong in a scenario.

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;

use crate::text::show_duration;

/// Kinds of kernel state, in their order of building up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Plane {
    /// Kernel parameters.
    Sysctl,
    /// Links.
    Link,
    /// Addresses.
    Addr,
    /// Packet filter.
    Filter,
    /// Policy routing rules.
    Rule,
    /// Routes.
    Route,
    /// Virtual servers.
    Ipvs,
}

impl Plane {
    /// All planes with their names in the file.
    pub const NAMES: &'static [(&'static str, Plane)] = &[
        ("sysctl", Plane::Sysctl),
        ("link", Plane::Link),
        ("addr", Plane::Addr),
        ("filter", Plane::Filter),
        ("rule", Plane::Rule),
        ("route", Plane::Route),
        ("ipvs", Plane::Ipvs),
    ];

    /// Its name in the file.
    pub fn as_str(self) -> &'static str {
        Self::NAMES.iter().find(|(_, plane)| *plane == self).map_or("", |(name, _)| name)
    }
}

/// How calls into a kernel fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KernelFail {
    /// A dump is interrupted (EINTR).
    Interrupted,
    /// Answers are lost (ENOBUFS).
    Lost,
    /// The kernel is busy (EBUSY).
    Busy,
}

impl KernelFail {
    /// All of them with their names in the file.
    pub const NAMES: &'static [(&'static str, KernelFail)] =
        &[("interrupted", KernelFail::Interrupted), ("lost", KernelFail::Lost), ("busy", KernelFail::Busy)];

    /// Its name in the file.
    pub fn as_str(self) -> &'static str {
        Self::NAMES.iter().find(|(_, fail)| *fail == self).map_or("", |(name, _)| name)
    }
}

/// Which pods. Everything given must match.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodPick {
    /// Namespace.
    pub namespace: String,
    /// Node they run on.
    pub on: Option<String>,
    /// Beginning of the name.
    pub name: Option<String>,
    /// At most this many, by name; all if absent.
    pub count: Option<usize>,
}

/// What an API server does on a bad day. Chances are in per cent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Misbehaviour {
    /// Everything it says comes so much later.
    pub slow: Duration,
    /// Each watch tells of changes up to so much later than the others.
    pub reorder: Duration,
    /// A connection is cut.
    pub disconnect: u32,
    /// A list shows an older state.
    pub stale: u32,
    /// An event of a watch comes twice.
    pub duplicate: u32,
    /// 429 Too Many Requests.
    pub too_many: u32,
    /// 500 Internal Server Error.
    pub internal: u32,
    /// A watch is answered 410 Gone.
    pub gone: u32,
}

/// What happens to the API server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ApiServer {
    /// Its process is gone; what it stores is not.
    Unreachable,
    /// It is there again.
    Reachable,
    /// Every watch is cut, and the history that it would go on from is forgotten (410).
    Compacted,
    /// It misbehaves from now on.
    Misbehaves(Misbehaviour),
}

impl ApiServer {
    /// What can be said in one word.
    pub const WORDS: &'static [(&'static str, ApiServer)] = &[
        ("reachable", ApiServer::Reachable),
        ("unreachable", ApiServer::Unreachable),
        ("compacted", ApiServer::Compacted),
        ("behaves", ApiServer::Misbehaves(Misbehaviour::NONE)),
    ];
}

impl Misbehaviour {
    /// A server that behaves.
    pub const NONE: Misbehaviour = Misbehaviour {
        slow: Duration::ZERO,
        reorder: Duration::ZERO,
        disconnect: 0,
        stale: 0,
        duplicate: 0,
        too_many: 0,
        internal: 0,
        gone: 0,
    };
}

impl fmt::Display for Misbehaviour {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let times = [("slow", self.slow), ("reorder", self.reorder)];
        let times = times.into_iter().filter(|(_, time)| !time.is_zero());
        let chances = [
            ("disconnect", self.disconnect),
            ("stale", self.stale),
            ("duplicate", self.duplicate),
            ("429", self.too_many),
            ("500", self.internal),
            ("410", self.gone),
        ];
        let chances = chances.into_iter().filter(|(_, chance)| *chance > 0);
        let times = times.map(|(name, time)| format!("{name} {}", show_duration(time)));
        let parts: Vec<String> = times.chain(chances.map(|(name, chance)| format!("{name} {chance} %"))).collect();
        f.write_str(&parts.join(", "))
    }
}

impl fmt::Display for ApiServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ApiServer::Unreachable => f.write_str("the API server cannot be reached"),
            ApiServer::Reachable => f.write_str("the API server can be reached"),
            ApiServer::Compacted => f.write_str("the API server cuts all watches and forgets its history"),
            ApiServer::Misbehaves(Misbehaviour::NONE) => f.write_str("the API server behaves"),
            ApiServer::Misbehaves(how) => write!(f, "the API server misbehaves: {how}"),
        }
    }
}

/// Something that goes wrong, or right again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// Something happens to the API server.
    ApiServer(ApiServer),
    /// The kubelet of a node makes its Node object, as the topology has it.
    RegisterNode(String),
    /// The daemon of a node or router dies without a word (SIGKILL); the kernel keeps its state.
    KillAgent(String),
    /// The daemon of a node or router starts.
    StartAgent(String),
    /// The daemon of a node or router ends in order and starts again, as in an upgrade.
    RestartAgent(String),
    /// A host loses its link to a LAN.
    Cut {
        /// Host.
        host: String,
        /// LAN.
        lan: String,
    },
    /// The link is there again.
    Heal {
        /// Host.
        host: String,
        /// LAN.
        lan: String,
    },
    /// Somebody sets a host's interface down (`ip link set down`); the kernel drops what depends on it.
    LinkDown {
        /// Host.
        host: String,
        /// LAN.
        lan: String,
    },
    /// Somebody sets it up again, with the addresses and default routes it had.
    LinkUp {
        /// Host.
        host: String,
        /// LAN.
        lan: String,
    },
    /// The cable of a host's interface is pulled out: the kernel sees that the carrier is lost, and keeps its routes.
    Unplug {
        /// Host.
        host: String,
        /// LAN.
        lan: String,
    },
    /// The cable is back.
    Plug {
        /// Host.
        host: String,
        /// LAN.
        lan: String,
    },
    /// Somebody else adds a route (protocol `static`), metric 0.
    AddRoute {
        /// Host.
        on: String,
        /// Destination.
        to: IpNet,
        /// Gateway.
        via: IpAddr,
    },
    /// That route is deleted again.
    DeleteRoute {
        /// Host.
        on: String,
        /// Destination.
        to: IpNet,
    },
    /// A host gets one more address on its link to a LAN.
    AddAddress {
        /// Host.
        host: String,
        /// LAN.
        lan: String,
        /// Address, with the length of its prefix.
        address: IpNet,
    },
    /// Somebody gives an interface another name; it stays up, with its routes.
    RenameLink {
        /// Host.
        on: String,
        /// Its name.
        from: String,
        /// Its name from then on.
        to: String,
    },
    /// A host stops at once, its kernel state is gone.
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
    /// Pods are deleted; their Deployment makes new ones.
    DeletePod(PodPick),
    /// Pods fail their readiness probe.
    NotReady(PodPick),
    /// Pods pass their readiness probe again.
    Ready(PodPick),
    /// A BGP session is reset.
    FlapBgp {
        /// Node or router on which it is reset.
        on: String,
        /// Address of the peer.
        peer: IpAddr,
    },
    /// A BGP session is shut down by its operator, until `AdminUp`.
    AdminDown {
        /// Node or router on which it is shut down.
        on: String,
        /// Address of the peer.
        peer: IpAddr,
        /// For the operator of the other side.
        message: String,
    },
    /// A BGP session that was shut down may come again.
    AdminUp {
        /// Node or router.
        on: String,
        /// Address of the peer.
        peer: IpAddr,
    },
    /// The import policy of a router changes while it runs.
    Policy {
        /// Router.
        on: String,
        /// Prefixes it refuses from now on, each one itself and everything inside.
        reject: Vec<IpNet>,
    },
    /// Calls into the kernel of a node fail.
    Kernel {
        /// Node.
        on: String,
        /// Which calls.
        plane: Plane,
        /// How.
        fail: KernelFail,
        /// How often.
        times: u32,
    },
    /// Someone deletes our state from the kernel of a node behind the agent's back.
    Tamper {
        /// Node.
        on: String,
        /// Which state.
        plane: Plane,
    },
}

impl fmt::Display for PodPick {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.count {
            Some(1) => f.write_str("one pod")?,
            Some(count) => write!(f, "{count} pods")?,
            None => f.write_str("all pods")?,
        }
        write!(f, " {}/{}*", self.namespace, self.name.as_deref().unwrap_or_default())?;
        match &self.on {
            Some(node) => write!(f, " on {node}"),
            None => Ok(()),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::ApiServer(what) => what.fmt(f),
            Fault::RegisterNode(node) => write!(f, "register node {node}"),
            Fault::KillAgent(node) => write!(f, "kill the agent on {node}"),
            Fault::StartAgent(node) => write!(f, "start the agent on {node}"),
            Fault::RestartAgent(node) => write!(f, "restart the agent on {node}"),
            Fault::Cut { host, lan } => write!(f, "cut {host} from {lan}"),
            Fault::Heal { host, lan } => write!(f, "heal the link of {host} to {lan}"),
            Fault::LinkDown { host, lan } => write!(f, "set the interface of {host} on {lan} down"),
            Fault::LinkUp { host, lan } => write!(f, "set the interface of {host} on {lan} up"),
            Fault::Unplug { host, lan } => write!(f, "unplug {host} from {lan}"),
            Fault::Plug { host, lan } => write!(f, "plug {host} into {lan}"),
            Fault::AddRoute { on, to, via } => write!(f, "somebody adds a route to {to} via {via} on {on}"),
            Fault::DeleteRoute { on, to } => write!(f, "somebody deletes the route to {to} on {on}"),
            Fault::AddAddress { host, lan, address } => write!(f, "{host} gets the address {address} on {lan}"),
            Fault::RenameLink { on, from, to } => write!(f, "somebody renames {from} to {to} on {on}"),
            Fault::PowerOff(host) => write!(f, "power off {host}"),
            Fault::PowerOn(host) => write!(f, "power on {host}"),
            Fault::Drain(node) => write!(f, "drain {node}"),
            Fault::Cordon(node) => write!(f, "cordon {node}"),
            Fault::Uncordon(node) => write!(f, "uncordon {node}"),
            Fault::DeleteNode(node) => write!(f, "delete node {node}"),
            Fault::DeletePod(pods) => write!(f, "delete {pods}"),
            Fault::NotReady(pods) => write!(f, "{pods} become not ready"),
            Fault::Ready(pods) => write!(f, "{pods} become ready"),
            Fault::FlapBgp { on, peer } => write!(f, "reset the BGP session of {on} with {peer}"),
            Fault::AdminDown { on, peer, .. } => write!(f, "shut down the BGP session of {on} with {peer}"),
            Fault::AdminUp { on, peer } => write!(f, "let the BGP session of {on} with {peer} come again"),
            Fault::Policy { on, reject } if reject.is_empty() => write!(f, "{on} refuses no prefixes any more"),
            Fault::Policy { on, reject } => {
                let list: Vec<String> = reject.iter().map(IpNet::to_string).collect();
                write!(f, "{on} refuses {} from now on", list.join(", "))
            }
            Fault::Kernel { on, plane, fail, times } => {
                write!(f, "{} calls for {} on {on} fail: {}", times, plane.as_str(), fail.as_str())
            }
            Fault::Tamper { on, plane } => write!(f, "delete {} state on {on} by hand", plane.as_str()),
        }
    }
}
