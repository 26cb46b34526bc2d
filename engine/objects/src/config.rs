use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;
use core::net::{IpAddr, Ipv4Addr, SocketAddr};
use core::time::Duration;

use ipnet::IpNet;

/// One external BGP neighbour, from `--peer-router-*` or a Node annotation.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
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
    /// Failure detection (`--enable-bfd` and its companions, or `bfd` of the annotation).
    pub bfd: Option<BfdConfig>,
    /// What kube-router has no words for.
    pub options: PeerOptions,
}

impl BgpPeer {
    /// A neighbour on the standard port, without anything special.
    pub fn new(address: IpAddr, asn: u32) -> Self {
        BgpPeer { address, asn, port: 179, password: None, local: None, bfd: None, options: PeerOptions::default() }
    }
}

/// Neighbours that connect to us from a range of addresses, from a Node annotation. We dial none of them.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct BgpPeerRange {
    /// Where they connect from.
    pub range: IpNet,
    /// Their autonomous system.
    pub asn: u32,
    /// Failure detection.
    pub bfd: Option<BfdConfig>,
    /// As for a single one.
    pub options: PeerOptions,
}

/// BFD with a neighbour (RFC 5880). Intervals in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct BfdConfig {
    /// `--bfd-port`: UDP port of the other side.
    pub port: u16,
    /// `--bfd-desired-min-tx-interval`
    pub desired_min_tx_ms: u32,
    /// `--bfd-required-min-rx-interval`
    pub required_min_rx_ms: u32,
    /// `--bfd-detection-multiplier`
    pub multiplier: u8,
}

impl Default for BfdConfig {
    fn default() -> Self {
        BfdConfig { port: 3784, desired_min_tx_ms: 1000, required_min_rx_ms: 1000, multiplier: 3 }
    }
}

/// More of a neighbour: our own keys in an item of `kube-router.io/peers`.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct PeerOptions {
    /// `holdtime`: seconds; `None`: `--bgp-holdtime`.
    pub hold_s: Option<u16>,
    /// `passive`: we do not dial.
    pub passive: bool,
    /// `multihopttl`; `None`: `--peer-router-multihop-ttl`.
    pub multihop_ttl: Option<u8>,
    /// `ttlsecurity`: hops that its packets may have crossed, and this one (RFC 5082); 1 is the link.
    pub ttl_security: Option<u8>,
    /// `localasn`: the AS that we show it.
    pub local_as: Option<u32>,
    /// `allowasin`: how often our own AS may be in a path.
    pub allow_own_as: u8,
    /// `maxprefixes`: per family.
    pub max_prefixes: Option<u32>,
    /// `maxprefixesrestart`: seconds until it may come again; `None`: when it is reset by hand.
    pub max_prefixes_restart_s: Option<u32>,
    /// `addpath.receive` (RFC 7911)
    pub add_path_receive: bool,
    /// `addpath.send`: paths of each prefix; 0: off.
    pub add_path_send: u8,
    /// `extendednexthop` (RFC 8950)
    pub extended_next_hop: bool,
}

/// `--bgp-graceful-restart` and its companions (RFC 4724).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct GracefulRestart {
    /// `--bgp-graceful-restart-time` in seconds; at most 4095.
    pub time_s: u16,
    /// `--bgp-graceful-restart-deferral-time` in seconds.
    pub defer_s: u32,
    /// `--bgp-long-lived-stale-time` in seconds (RFC 9494); 0: off. Ours.
    pub long_lived_s: u32,
}

/// `--router-id`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum RouterIdSource {
    /// Not given: the primary IPv4 address of the node.
    PrimaryIpv4,
    /// `generate`: FNV-1a 32 over the bytes of the primary address.
    Generate,
    /// A dotted quad.
    Fixed(Ipv4Addr),
}

/// Configuration of a host that is only a router: no Kubernetes objects.
///
/// The lab's routers and the simulator's run this.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
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
    /// Own addresses: the first of a family is the next hop for `networks`.
    pub addresses: Vec<IpAddr>,
    /// Neighbours known by address.
    pub peers: Vec<RouterPeer>,
    /// What all its sessions have in common.
    pub sessions: RouterSessions,
}

/// A neighbour that a router knows by address.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct RouterPeer {
    /// Its address.
    pub address: IpAddr,
    /// Its autonomous system.
    pub asn: u32,
    /// TCP MD5 password.
    pub password: Option<String>,
}

/// What all sessions of a router have in common.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct RouterSessions {
    /// IPv4 prefixes are exchanged.
    pub ipv4: bool,
    /// IPv6 prefixes are exchanged.
    pub ipv6: bool,
    /// Neighbours of its own autonomous system are clients to which it reflects (RFC 4456).
    pub reflector: bool,
    /// Failure detection.
    pub bfd: Option<BfdConfig>,
    /// What a node can say of a neighbour, too.
    pub options: PeerOptions,
}

impl Default for RouterSessions {
    fn default() -> Self {
        RouterSessions { ipv4: true, ipv6: true, reflector: false, bfd: None, options: PeerOptions::default() }
    }
}

/// `--run-loadbalancer` and its companions: this daemon may give addresses to services.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct LoadBalancerConfig {
    /// `--loadbalancer-default-class`: services without a class are ours as well.
    pub default_class: bool,
    /// `--loadbalancer-sync-period` in ms: how often everything is looked at again, and what was refused tried again.
    pub sync_period_ms: u64,
    /// `POD_NAMESPACE`: where the Lease is.
    pub lease_namespace: Arc<str>,
    /// `POD_NAME`: who we are in the election.
    pub identity: Arc<str>,
}

/// What this daemon is on its host.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum Role {
    /// A node of a Kubernetes cluster.
    Node,
    /// A router beside the cluster.
    Router(RouterConfig),
}

/// Tunnels between nodes.
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Overlay {
    /// `--overlay-type=full`: to all other nodes, not only to those of other subnets.
    pub full: bool,
    /// `--overlay-encap=fou`: through UDP, to this port (`--overlay-encap-port`). `None`: IP in IP.
    pub port: Option<u16>,
}

/// The daemon's configuration, one field per kube-router flag. Defaults are kube-router's.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
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
    /// `--bgp-graceful-restart`
    pub graceful_restart: Option<GracefulRestart>,
    /// `--bgp-import-default-route`: default routes of external neighbours are taken. Ours; kube-router rejects them.
    pub import_default_route: bool,
    /// `--bgp-multipath-relax`: paths of equal length through other ASes are used together. Ours; kube-router uses one.
    pub multipath_relax: bool,
    /// `--bgp-route-metric`: metric of learned routes in the kernel. Ours; kube-router has none.
    pub route_metric: u32,
    /// `--enable-overlay` and its companions; `None`: no tunnels.
    pub overlay: Option<Overlay>,
    /// `--overlay-encap-port`: the UDP port of tunnels. It is known to be ours without an overlay, too.
    pub overlay_port: u16,
    /// `--gobgp-admin-address` and `--gobgp-admin-port`: where the `gobgp` client is answered.
    pub admin: Vec<SocketAddr>,
    /// `--health-addr` and `--health-port`: where the kubelet's probes are answered; `None`: nowhere.
    pub health: Option<SocketAddr>,
    /// `--metrics-addr`, `--metrics-port` and `--metrics-path`: where Prometheus is answered; `None`: nowhere.
    pub metrics: Option<(SocketAddr, String)>,
    /// `--enable-pprof`: a CPU profile is taken for whoever asks at localhost.
    pub pprof: bool,
    /// `--nodeport-bindon-all-ip`: node ports on every address of the node.
    pub node_port_on_all: bool,
    /// `--service-node-port-range`, if it was given: others are worth a notice.
    pub node_port_range: Option<(u16, u16)>,
    /// `--service-tcp-timeout`, `--service-tcpfin-timeout` and `--service-udp-timeout` in seconds; 0: as it is.
    pub ipvs_timeouts_s: [u64; 3],
    /// `--ipvs-sync-period`: the planes of the proxy are looked at at least so often.
    pub ipvs_sync: Duration,
    /// The shorter of `--routes-sync-period` and `--injected-routes-sync-period`, of routes and rules.
    pub routes_sync: Duration,
    /// `--enable-cni`: the bridge of pods and the CNI configuration are kept.
    pub enable_cni: bool,
    /// The CNI configuration (`KUBE_ROUTER_CNI_CONF_FILE`), an absolute path; `None`: there is none to keep.
    pub cni_file: Option<Arc<str>>,
    /// `--auto-mtu`: pods get the MTU of the node's interface, less what the overlay needs.
    pub auto_mtu: bool,
    /// `--enable-pod-egress`: what pods send out of the cluster is masqueraded.
    pub enable_pod_egress: bool,
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
    /// `--run-loadbalancer`
    pub load_balancer: Option<LoadBalancerConfig>,
    /// Notices about Kubernetes' objects become Events: there is an API server that takes them.
    pub events: bool,
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
            graceful_restart: None,
            import_default_route: false,
            multipath_relax: true,
            route_metric: 0,
            overlay: Some(Overlay::default()),
            overlay_port: 5555,
            admin: vec![],
            health: None,
            metrics: None,
            pprof: false,
            node_port_on_all: false,
            node_port_range: None,
            ipvs_timeouts_s: [0; 3],
            ipvs_sync: Duration::from_secs(300),
            routes_sync: Duration::from_secs(60),
            enable_cni: true,
            cni_file: None,
            auto_mtu: true,
            enable_pod_egress: true,
            hairpin_mode: false,
            masquerade_all: false,
            ipvs_permit_all: true,
            excluded_cidrs: vec![],
            service_cluster_ip_range: vec![IpNet::new_assert(IpAddr::V4(Ipv4Addr::new(10, 96, 0, 0)), 12)],
            service_external_ip_range: vec![],
            load_balancer_ip_range: vec![],
            strict_external_ip_validation: true,
            load_balancer: None,
            events: false,
        }
    }

    /// A router's configuration: the same daemon without Kubernetes, for both families.
    pub fn router(host_name: &str, router: RouterConfig) -> Self {
        NodeConfig { role: Role::Router(router), run_service_proxy: false, enable_ipv6: true, ..Self::new(host_name) }
    }
}
