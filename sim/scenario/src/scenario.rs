//! What a scenario file says before its steps: hosts, wires, timing, flags, objects.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;

use crate::source::{At, Source};
use crate::step::Step;

/// A checked scenario. Every name in it exists, every address lies in the subnet of its LAN, every file was read.
#[derive(Debug, Clone)]
pub struct Scenario {
    /// The file it came from.
    pub source: Arc<Source>,
    /// Short name, shown in every report.
    pub name: String,
    /// Free text.
    pub description: Option<String>,
    /// Features a stage must offer; without one of them the scenario is skipped.
    pub needs: Vec<String>,
    /// Hosts and the LANs between them.
    pub topology: Topology,
    /// Addresses the API server gives to services.
    pub services: Services,
    /// How fast the parts of the cluster that are not ours react.
    pub timing: Timing,
    /// Command line of the node agent, kube-router's own flags, for every node.
    pub flags: Vec<At<String>>,
    /// Kubernetes objects that exist from the start.
    pub objects: Vec<Objects>,
    /// What happens and what is expected, in order.
    pub steps: Vec<Step>,
}

/// Hosts and the LANs between them.
#[derive(Debug, Clone, Default)]
pub struct Topology {
    /// Broadcast domains by name.
    pub lans: BTreeMap<String, Lan>,
    /// Cluster nodes by name; each runs one agent.
    pub nodes: BTreeMap<String, Node>,
    /// BGP routers outside the cluster by name.
    pub routers: BTreeMap<String, Router>,
    /// Plain hosts that make connections, by name.
    pub testers: BTreeMap<String, Tester>,
}

/// One broadcast domain.
#[derive(Debug, Clone)]
pub struct Lan {
    /// Subnets in use on it; the prefix length of an address comes from here.
    pub subnets: Vec<IpNet>,
    /// Time a packet takes to cross it, one way.
    pub latency: Duration,
}

/// A cluster node.
#[derive(Debug, Clone)]
pub struct Node {
    /// Addresses by LAN.
    pub addresses: BTreeMap<String, Vec<IpAddr>>,
    /// Addresses for its pods (`spec.podCIDRs`).
    pub pod_cidrs: Vec<IpNet>,
    /// Agent flags of this node, after the common ones.
    pub flags: Vec<At<String>>,
    /// Labels of the Node object.
    pub labels: BTreeMap<String, String>,
    /// Annotations of the Node object.
    pub annotations: BTreeMap<String, String>,
    /// Where its default route points.
    pub gateways: Gateways,
}

/// A program that speaks BGP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Software {
    /// Our own agent.
    Fairway,
    /// GoBGP.
    Gobgp,
    /// BIRD 2.
    Bird,
    /// FRRouting.
    Frr,
    /// ExaBGP.
    Exabgp,
}

impl Software {
    /// All of them with their names in the file.
    pub const NAMES: &'static [(&'static str, Software)] = &[
        ("fairway", Software::Fairway),
        ("gobgp", Software::Gobgp),
        ("bird", Software::Bird),
        ("frr", Software::Frr),
        ("exabgp", Software::Exabgp),
    ];

    /// Its name in the file.
    pub fn as_str(self) -> &'static str {
        Self::NAMES.iter().find(|(_, software)| *software == self).map_or("", |(name, _)| name)
    }
}

/// A router outside the cluster: a BGP speaker that accepts sessions from anyone on its LANs with an AS number it
/// knows, and puts what it learns into its kernel with ECMP.
#[derive(Debug, Clone)]
pub struct Router {
    /// Who plays it where there is a choice; `None`: whoever the run says.
    pub software: Option<Software>,
    /// Neighbours that it knows by address, with their AS numbers.
    pub peers: BTreeMap<IpAddr, u32>,
    /// Own prefixes to announce.
    pub networks: Vec<IpNet>,
    /// What its sessions have in common.
    pub sessions: Sessions,
    /// Addresses by LAN.
    pub addresses: BTreeMap<String, Vec<IpAddr>>,
    /// Its AS number.
    pub asn: u32,
    /// AS numbers of peers it accepts; none of them means nobody.
    pub accept: Vec<u32>,
    /// Prefixes it refuses on import: the prefix itself and everything inside.
    pub reject: Vec<IpNet>,
    /// Where its default route points.
    pub gateways: Gateways,
}

/// What all sessions of a router have in common.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sessions {
    /// It dials none of `peers`.
    pub passive: bool,
    /// TCP MD5 with `peers`.
    pub password: Option<String>,
    /// IPv4 prefixes are exchanged.
    pub ipv4: bool,
    /// IPv6 prefixes are exchanged.
    pub ipv6: bool,
    /// It takes several paths of a prefix (ADD-PATH).
    pub add_path_receive: bool,
    /// It sends so many paths of a prefix; 0: only the best one.
    pub add_path_send: u8,
    /// Graceful restart: how long others keep its routes.
    pub graceful_restart: Option<Duration>,
    /// Prefixes of a family that it takes from a neighbour.
    pub max_prefixes: Option<MaxPrefixes>,
    /// Neighbours of its own AS are its clients.
    pub reflector: bool,
    /// IPv4 prefixes may have IPv6 next hops.
    pub extended_next_hop: bool,
    /// Packets of neighbours must come from the link (TTL 255).
    pub ttl_security: bool,
    /// Its neighbours are watched by BFD.
    pub bfd: Option<Bfd>,
}

impl Default for Sessions {
    fn default() -> Self {
        Sessions {
            passive: false,
            password: None,
            ipv4: true,
            ipv6: true,
            add_path_receive: false,
            add_path_send: 0,
            graceful_restart: None,
            max_prefixes: None,
            reflector: false,
            extended_next_hop: false,
            ttl_security: false,
            bfd: None,
        }
    }
}

/// How a router watches its peers by BFD.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bfd {
    /// Time between packets, in both directions.
    pub interval: Duration,
    /// Packets that may be lost in a row.
    pub multiplier: u8,
}

/// A limit of prefixes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MaxPrefixes {
    /// That many are taken; one more ends the session.
    pub limit: u32,
    /// After that time it may come again; `None`: when it is reset by hand.
    pub restart: Option<Duration>,
}

/// A plain host.
#[derive(Debug, Clone)]
pub struct Tester {
    /// Addresses by LAN.
    pub addresses: BTreeMap<String, Vec<IpAddr>>,
    /// Where its default route points.
    pub gateways: Gateways,
    /// TCP ports on which an mconnect server answers.
    pub serves: Vec<u16>,
}

/// Where the default route of a host points. More than one gateway is ECMP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Gateways {
    /// All routers that share a LAN with the host.
    Routers,
    /// No default route.
    None,
    /// These hosts.
    Names(Vec<String>),
}

/// Addresses the API server gives to services.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Services {
    /// Service cluster IP ranges, the primary family first.
    pub cidrs: Vec<IpNet>,
}

/// How fast the parts of the cluster that are not ours react. Each range is drawn from the seed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Timing {
    /// From a change in the API server to the agent's watch.
    pub watch_lag: Range,
    /// From a pod being scheduled to it running.
    pub pod_start: Range,
    /// From a pod's readiness changing to its EndpointSlice saying so.
    pub probe: Range,
    /// From the last heartbeat of a node to its condition `Ready=Unknown` (kube-controller-manager
    /// `--node-monitor-grace-period`).
    pub node_grace: Duration,
    /// From `Ready=Unknown` to its pods being deleted (`tolerationSeconds` of the default tolerations).
    pub eviction: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        let ms = Duration::from_millis;
        Timing {
            watch_lag: Range { min: ms(5), max: ms(60) },
            pod_start: Range { min: ms(200), max: ms(1000) },
            probe: Range { min: ms(100), max: ms(500) },
            node_grace: Duration::from_secs(40),
            eviction: Duration::from_secs(300),
        }
    }
}

/// A time drawn between two bounds, both included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range {
    /// Shortest.
    pub min: Duration,
    /// Longest, not below `min`.
    pub max: Duration,
}

/// Kubernetes objects of one file or one inline mapping.
#[derive(Debug, Clone)]
pub struct Objects {
    /// File name as written, or `file:line` of the inline mapping.
    pub name: String,
    /// YAML, possibly several documents.
    pub yaml: String,
}

impl Topology {
    /// Addresses of a host of any kind, by LAN.
    pub fn addresses(&self, host: &str) -> Option<&BTreeMap<String, Vec<IpAddr>>> {
        let node = self.nodes.get(host).map(|node| &node.addresses);
        let router = || self.routers.get(host).map(|router| &router.addresses);
        let tester = || self.testers.get(host).map(|tester| &tester.addresses);
        node.or_else(router).or_else(tester)
    }

    /// Names of all hosts: nodes, then routers, then testers.
    pub fn hosts(&self) -> impl Iterator<Item = &String> {
        self.nodes.keys().chain(self.routers.keys()).chain(self.testers.keys())
    }

    /// The host that has this address.
    pub fn host_of(&self, address: IpAddr) -> Option<&str> {
        let has = |host: &&String| {
            self.addresses(host).is_some_and(|lans| lans.values().any(|addresses| addresses.contains(&address)))
        };
        self.hosts().find(has).map(String::as_str)
    }

    /// Prefix length of an address: that of the subnet of the LAN it lies in, else the whole address.
    pub fn prefix_len(&self, lan: &str, address: IpAddr) -> u8 {
        let subnets = self.lans.get(lan).map(|lan| lan.subnets.as_slice()).unwrap_or_default();
        let length = subnets.iter().find(|subnet| subnet.contains(&address)).map(IpNet::prefix_len);
        length.unwrap_or(if address.is_ipv4() { 32 } else { 128 })
    }

    /// Gateways of a host, resolved to `(gateway, LAN shared with it)`; empty means no default route.
    pub fn gateways(&self, host: &str) -> Vec<(String, String)> {
        let own = |host: &str| {
            let node = self.nodes.get(host).map(|node| &node.gateways);
            let router = || self.routers.get(host).map(|router| &router.gateways);
            let tester = || self.testers.get(host).map(|tester| &tester.gateways);
            node.or_else(router).or_else(tester)
        };
        let names: Vec<&String> = match own(host) {
            None | Some(Gateways::None) => Vec::new(),
            Some(Gateways::Routers) => self.routers.keys().collect(),
            Some(Gateways::Names(names)) => names.iter().collect(),
        };
        let Some(lans) = self.addresses(host) else { return Vec::new() };
        let shared = |gateway: &str| {
            let theirs = self.addresses(gateway)?;
            lans.keys().find(|lan| theirs.contains_key(*lan)).cloned()
        };
        let others = names.into_iter().filter(|name| name.as_str() != host);
        others.filter_map(|name| Some((name.clone(), shared(name)?))).collect()
    }
}
