use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use core::net::IpAddr;

use crate::ObjectName;

/// Transport protocol of a service port, with its IANA number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum Protocol {
    /// TCP, 6
    Tcp,
    /// UDP, 17
    Udp,
    /// SCTP, 132
    Sctp,
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Protocol::Tcp => "TCP",
            Protocol::Udp => "UDP",
            Protocol::Sctp => "SCTP",
        })
    }
}

/// `spec.type`
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum ServiceType {
    /// Reachable inside the cluster.
    ClusterIp,
    /// Also on a port of every node.
    NodePort,
    /// Also on an address of a load balancer.
    LoadBalancer,
    /// A DNS alias; nothing to program.
    ExternalName,
}

/// `spec.internalTrafficPolicy` and `spec.externalTrafficPolicy`
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum TrafficPolicy {
    /// All endpoints.
    Cluster,
    /// Only endpoints on this node.
    Local,
}

/// IPVS scheduler asked for by `kube-router.io/service.scheduler`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum Scheduler {
    /// Round robin, the default.
    Rr,
    /// Weighted round robin (addition to kube-router).
    Wrr,
    /// Least connection.
    Lc,
    /// Weighted least connection (addition to kube-router).
    Wlc,
    /// Destination hashing.
    Dh,
    /// Source hashing.
    Sh,
    /// Maglev hashing.
    Mh,
}

/// One entry of `spec.ports`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct ServicePort {
    /// `name`; empty for the only port of a service.
    pub name: Arc<str>,
    /// `protocol`
    pub protocol: Protocol,
    /// `port`
    pub port: u16,
    /// `nodePort`
    pub node_port: Option<u16>,
}

/// Per-service answers to `--advertise-*`, from `kube-router.io/service.advertise.*`. `None`: the flag decides.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Advertise {
    /// `…advertise.clusterip`
    pub cluster_ip: Option<bool>,
    /// `…advertise.externalip`
    pub external_ip: Option<bool>,
    /// `…advertise.loadbalancerip`
    pub load_balancer_ip: Option<bool>,
}

/// `spec.ipFamilyPolicy`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum FamilyPolicy {
    /// One family.
    #[default]
    Single,
    /// Both where the cluster has both.
    Prefer,
    /// Both.
    Require,
}

/// What a service says of the addresses that a load balancer gives it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct LoadBalancerWish {
    /// `spec.loadBalancerClass`; `None`: whoever feels responsible.
    pub class: Option<Arc<str>>,
    /// `spec.ipFamilies`: whether each is IPv6, the primary family first.
    pub ipv6: Vec<bool>,
    /// `spec.ipFamilyPolicy`
    pub policy: FamilyPolicy,
    /// `spec.loadBalancerIP` and `kube-router.io/service.loadbalancer.ips` (ours): the addresses it asks for.
    pub requested: Vec<IpAddr>,
    /// `kube-router.io/service.loadbalancer.sharing-key` (ours): services with the same key may have one address.
    pub sharing_key: Option<Arc<str>>,
    /// `status.loadBalancer.ingress[].ip` where `ipMode` is `Proxy`.
    pub proxied_ips: Vec<IpAddr>,
}

/// `v1/Service`, with kube-router's annotations already read.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Service {
    /// Name of the service.
    pub name: ObjectName,
    /// `metadata.creationTimestamp` in seconds since 1970; of two services that claim one address and port the
    /// older wins.
    pub created_s: i64,
    /// `spec.type`
    pub service_type: ServiceType,
    /// `spec.clusterIPs` (or `clusterIP`), invalid and `None` entries left out. Empty: headless.
    pub cluster_ips: Vec<IpAddr>,
    /// `spec.externalIPs`
    pub external_ips: Vec<IpAddr>,
    /// `status.loadBalancer.ingress[].ip` where `ipMode` is not `Proxy`.
    pub load_balancer_ips: Vec<IpAddr>,
    /// `spec.ports`
    pub ports: Vec<ServicePort>,
    /// `spec.sessionAffinity: ClientIP`: the timeout in seconds (API default 10,800).
    pub session_affinity_s: Option<u32>,
    /// `spec.internalTrafficPolicy`
    pub internal_traffic_policy: TrafficPolicy,
    /// `spec.externalTrafficPolicy`
    pub external_traffic_policy: TrafficPolicy,
    /// `spec.healthCheckNodePort`
    pub health_check_node_port: Option<u16>,
    /// The label `service.kubernetes.io/service-proxy-name` names another proxy: the service is not ours.
    pub foreign_proxy: bool,
    /// The label `service.kubernetes.io/headless` is present.
    pub headless_label: bool,
    /// `kube-router.io/service.scheduler`
    pub scheduler: Scheduler,
    /// `kube-router.io/service.schedflags: flag-1`: fall back to another server when the chosen one is not available
    /// (`mh-fallback`, `sh-fallback`).
    pub sched_fallback: bool,
    /// `kube-router.io/service.schedflags: flag-2`: hash the source port too (`mh-port`, `sh-port`).
    pub sched_port: bool,
    /// `kube-router.io/service.dsr: tunnel`
    pub dsr_tunnel: bool,
    /// `kube-router.io/service.hairpin`
    pub hairpin: bool,
    /// `kube-router.io/service.hairpin.externalips`
    pub hairpin_external_ips: bool,
    /// `kube-router.io/service.local: "true"`
    pub local: bool,
    /// `kube-router.io/service.skiplbips`
    pub skip_lb_ips: bool,
    /// `kube-router.io/service.advertise.*`
    pub advertise: Advertise,
    /// What it says of addresses of type LoadBalancer that are to be given to it.
    pub wish: LoadBalancerWish,
}

impl Service {
    /// A service of type ClusterIP that says nothing of itself.
    pub const fn new(name: ObjectName) -> Self {
        Service {
            name,
            created_s: 0,
            service_type: ServiceType::ClusterIp,
            cluster_ips: Vec::new(),
            external_ips: Vec::new(),
            load_balancer_ips: Vec::new(),
            ports: Vec::new(),
            session_affinity_s: None,
            internal_traffic_policy: TrafficPolicy::Cluster,
            external_traffic_policy: TrafficPolicy::Cluster,
            health_check_node_port: None,
            foreign_proxy: false,
            headless_label: false,
            scheduler: Scheduler::Rr,
            sched_fallback: false,
            sched_port: false,
            dsr_tunnel: false,
            hairpin: false,
            hairpin_external_ips: false,
            local: false,
            skip_lb_ips: false,
            advertise: Advertise { cluster_ip: None, external_ip: None, load_balancer_ip: None },
            wish: LoadBalancerWish {
                class: None,
                ipv6: Vec::new(),
                policy: FamilyPolicy::Single,
                requested: Vec::new(),
                sharing_key: None,
                proxied_ips: Vec::new(),
            },
        }
    }
}
