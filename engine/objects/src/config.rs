use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;
use core::net::{IpAddr, Ipv4Addr};

use ipnet::IpNet;

/// One external BGP neighbour, from `--peer-router-*` or a Node annotation.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct BgpPeer {
    /// Address of the neighbour (`--peer-router-ips`).
    pub address: IpAddr,
    /// Its autonomous system (`--peer-router-asns`).
    pub asn: u32,
    /// TCP port (`--peer-router-ports`, default 179).
    pub port: u16,
    /// TCP MD5 password, decoded (`--peer-router-passwords`).
    pub password: Option<String>,
    /// Our address of the session; `None`: the node's best address of the peer's family.
    pub local: Option<IpAddr>,
}

/// `--router-id`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RouterIdSource {
    /// Not given: the primary IPv4 address of the node.
    PrimaryIpv4,
    /// `generate`: FNV-1a 32 over the bytes of the primary address.
    Generate,
    /// A dotted quad.
    Fixed(Ipv4Addr),
}

/// Configuration of a host that is only a router: no Kubernetes objects, dynamic neighbours.
///
/// The lab's routers and the simulator's run this.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouterConfig {
    /// Own autonomous system.
    pub asn: u32,
    /// BGP identifier.
    pub router_id: Ipv4Addr,
    /// Dynamic (passive) neighbours: any source address in the prefix with one of the ASes is accepted.
    pub accept: Vec<(IpNet, Vec<u32>)>,
    /// Prefixes refused on import: equal or more specific.
    pub import_reject: Vec<IpNet>,
    /// Own prefixes to announce.
    pub networks: Vec<IpNet>,
    /// Own addresses, one per family at most: the next hop for `networks`.
    pub addresses: Vec<IpAddr>,
}

/// What this daemon is on its host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Role {
    /// A node of a Kubernetes cluster.
    Node,
    /// A router beside the cluster.
    Router(RouterConfig),
}

/// The daemon's configuration, one field per kube-router flag. Defaults are kube-router's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeConfig {
    /// Node or router.
    pub role: Role,
    /// Name of the Node object (`--hostname-override`, `NODE_NAME`, host name).
    pub node_name: Arc<str>,
    /// `--run-router`
    pub run_router: bool,
    /// `--run-service-proxy`
    pub run_service_proxy: bool,
    /// `--enable-ipv4`
    pub enable_ipv4: bool,
    /// `--enable-ipv6`
    pub enable_ipv6: bool,
    /// `--enable-ibgp`
    pub enable_ibgp: bool,
    /// `--nodes-full-mesh`
    pub nodes_full_mesh: bool,
    /// `--advertise-cluster-ip`
    pub advertise_cluster_ip: bool,
    /// `--advertise-external-ip`
    pub advertise_external_ip: bool,
    /// `--advertise-loadbalancer-ip`
    pub advertise_load_balancer_ip: bool,
    /// `--advertise-pod-cidr`
    pub advertise_pod_cidr: bool,
    /// `--cluster-asn`; `None` means 64512.
    pub cluster_asn: Option<u32>,
    /// `--peer-router-ips` with `-asns`, `-ports`, `-passwords`
    pub peers: Vec<BgpPeer>,
    /// `--bgp-port`
    pub bgp_port: u16,
    /// `--bgp-holdtime` in seconds; external peers only.
    pub bgp_hold_s: u16,
    /// `--router-id`
    pub router_id: RouterIdSource,
    /// `--override-nexthop`
    pub override_next_hop: bool,
    /// `--peer-router-multihop-ttl`; in effect from 2.
    pub multihop_ttl: u8,
    /// `--hairpin-mode`
    pub hairpin_mode: bool,
    /// `--masquerade-all`
    pub masquerade_all: bool,
    /// `--ipvs-permit-all`: protect the service addresses.
    pub ipvs_permit_all: bool,
    /// `--excluded-cidrs`: virtual servers in these are not ours.
    pub excluded_cidrs: Vec<IpNet>,
    /// `--service-cluster-ip-range`
    pub service_cluster_ip_range: Vec<IpNet>,
    /// `--service-external-ip-range`
    pub service_external_ip_range: Vec<IpNet>,
    /// `--loadbalancer-ip-range`
    pub load_balancer_ip_range: Vec<IpNet>,
    /// `--strict-external-ip-validation`
    pub strict_external_ip_validation: bool,
}

impl NodeConfig {
    /// kube-router's defaults for a node of this name.
    pub fn new(node_name: &str) -> Self {
        NodeConfig {
            role: Role::Node,
            node_name: node_name.into(),
            run_router: true,
            run_service_proxy: true,
            enable_ipv4: true,
            enable_ipv6: false,
            enable_ibgp: true,
            nodes_full_mesh: true,
            advertise_cluster_ip: false,
            advertise_external_ip: false,
            advertise_load_balancer_ip: false,
            advertise_pod_cidr: true,
            cluster_asn: None,
            peers: vec![],
            bgp_port: 179,
            bgp_hold_s: 90,
            router_id: RouterIdSource::PrimaryIpv4,
            override_next_hop: false,
            multihop_ttl: 0,
            hairpin_mode: false,
            masquerade_all: false,
            ipvs_permit_all: true,
            excluded_cidrs: vec![],
            service_cluster_ip_range: vec![IpNet::new_assert(IpAddr::V4(Ipv4Addr::new(10, 96, 0, 0)), 12)],
            service_external_ip_range: vec![],
            load_balancer_ip_range: vec![],
            strict_external_ip_validation: true,
        }
    }

    /// A router's configuration: the same daemon without Kubernetes, for both families.
    pub fn router(host_name: &str, router: RouterConfig) -> Self {
        NodeConfig { role: Role::Router(router), run_service_proxy: false, enable_ipv6: true, ..Self::new(host_name) }
    }
}
