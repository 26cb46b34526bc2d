use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::net::{IpAddr, Ipv4Addr};

use ipnet::IpNet;

use crate::ObjectName;

/// `v1/Namespace`
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Namespace {
    /// Name of the namespace.
    pub name: ObjectName,
    /// `metadata.labels`
    pub labels: BTreeMap<Arc<str>, Arc<str>>,
}

/// `v1/Node`, with kube-router's annotations already read.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Node {
    /// Name of the node.
    pub name: ObjectName,
    /// `status.addresses` of type InternalIP, in order.
    pub internal_ips: Vec<IpAddr>,
    /// `status.addresses` of type ExternalIP, in order.
    pub external_ips: Vec<IpAddr>,
    /// Pod CIDRs from one documented order of sources: `kube-router.io/pod-cidr`, `kube-router.io/pod-cidrs`,
    /// `spec.podCIDRs`, `spec.podCIDR`. The first that is present wins.
    pub pod_cidrs: Vec<IpNet>,
    /// `kube-router.io/node.asn`
    pub asn: Option<u32>,
    /// `kube-router.io/node.bgp.communities`, each as 32 bits.
    pub communities: Vec<u32>,
    /// Large ones of the same list, as `65001:1:2` (RFC 8092).
    pub large_communities: Vec<[u32; 3]>,
    /// Extended ones of the same list, as `rt:65001:100` or `soo:65001:100` (RFC 4360), in wire order.
    pub ext_communities: Vec<[u8; 8]>,
    /// `kube-router.io/path-prepend.as` and `.repeat-n`
    pub path_prepend: Option<(u32, u8)>,
    /// `kube-router.io/node.bgp.customimportreject`
    pub import_reject: Vec<IpNet>,
    /// `kube-router.io/peers` or `peer.ips` and its companions; used only without `--peer-router-ips`.
    pub peers: Vec<crate::BgpPeer>,
    /// Items of `kube-router.io/peers` whose `remoteip` is a prefix.
    pub peer_ranges: Vec<crate::BgpPeerRange>,
    /// `kube-router.io/rr.server` or `kube-router.io/rr.client`
    pub reflector: Option<Reflector>,
    /// `kube-router.io/bgp-local-addresses`: where BGP is answered; empty: on every address.
    pub bgp_local_addresses: Vec<IpAddr>,
    /// `spec.unschedulable`: the node is cordoned.
    pub unschedulable: bool,
}

/// Part of a node in route reflection (RFC 4456). A cluster id is given as a number or as an IPv4 address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum Reflector {
    /// It reflects, and has this cluster id.
    Server(Ipv4Addr),
    /// It has sessions with reflectors only.
    Client(Ipv4Addr),
}

impl Node {
    /// A node that says nothing of itself.
    pub const fn new(name: ObjectName) -> Self {
        Node {
            name,
            internal_ips: Vec::new(),
            external_ips: Vec::new(),
            pod_cidrs: Vec::new(),
            asn: None,
            communities: Vec::new(),
            large_communities: Vec::new(),
            ext_communities: Vec::new(),
            path_prepend: None,
            import_reject: Vec::new(),
            peers: Vec::new(),
            peer_ranges: Vec::new(),
            reflector: None,
            bgp_local_addresses: Vec::new(),
            unschedulable: false,
        }
    }

    /// kube-router's primary address: the first InternalIP, else the first ExternalIP.
    pub fn primary_ip(&self) -> Option<IpAddr> {
        self.internal_ips.first().or(self.external_ips.first()).copied()
    }

    /// The best address of a family: the primary one if of that family, else the first internal, else the first
    /// external one of it.
    pub fn best_ip(&self, ipv6: bool) -> Option<IpAddr> {
        self.internal_ips.iter().chain(&self.external_ips).find(|a| a.is_ipv6() == ipv6).copied()
    }
}
