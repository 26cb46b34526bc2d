//! What each flag means, for people: help, man page and completions.

use clap::Command;
use clap::builder::StyledStr;

use super::{Effect, FLAGS, PROCESS_BUILT, Syntax, arg};

/// Where a flag stands in the help.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Group {
    General,
    Kubernetes,
    Router,
    ServiceProxy,
    Firewall,
    Overlay,
    LoadBalancer,
    Health,
    Ours,
    Older,
}

use Group::{Firewall, General, Health, Kubernetes, LoadBalancer, Older, Ours, Overlay, Router, ServiceProxy};

impl Group {
    const ALL: [Group; 10] =
        [General, Kubernetes, Router, ServiceProxy, Firewall, Overlay, LoadBalancer, Health, Ours, Older];

    const fn title(self) -> &'static str {
        match self {
            General => "General",
            Kubernetes => "Kubernetes",
            Router => "Router (BGP)",
            ServiceProxy => "Service proxy",
            Firewall => "Firewall (network policies)",
            Overlay => "Pod network and overlay (CNI)",
            LoadBalancer => "LoadBalancer addresses",
            Health => "Health and metrics",
            Ours => "Only in fairway",
            Older => "Of older manifests, without effect",
        }
    }
}

/// Flags that kube-router does not have.
pub(super) const OURS: &[&str] = &[
    "bgp-drain-time",
    "bgp-import-default-route",
    "bgp-long-lived-stale-time",
    "bgp-multipath-relax",
    "bgp-route-metric",
    "config",
    "dry-run",
    "from-kube-router",
    "manifests",
    "output",
    "proc-sys",
    "record",
    "record-limit",
];

/// name, group, meaning
const ABOUT: &[(&str, Group, &str)] = &[
    (
        "advertise-cluster-ip",
        Router,
        "Announce the cluster IPs of services to BGP neighbours; a service's annotation goes before this",
    ),
    ("advertise-external-ip", Router, "Announce the external IPs of services; a service's annotation goes before this"),
    (
        "advertise-loadbalancer-ip",
        Router,
        "Announce the addresses a load balancer gave to services; a service's annotation goes before this",
    ),
    (
        "advertise-pod-cidr",
        Router,
        "Announce this node's pod CIDRs to neighbours outside the cluster; nodes always tell each other",
    ),
    ("auto-mtu", Overlay, "Take the MTU of pods from the node's interface, less what the overlay needs"),
    ("bfd-desired-min-tx-interval", Router, "Least time between BFD packets that we send, in milliseconds (1-4294967)"),
    ("bfd-detection-multiplier", Router, "So many BFD packets may be missed before a neighbour counts as down (1-255)"),
    ("bfd-port", Router, "UDP port of the neighbours' BFD (1-65535)"),
    (
        "bfd-required-min-rx-interval",
        Router,
        "Least time between BFD packets that we can take, in milliseconds (1-4294967)",
    ),
    (
        "bgp-drain-time",
        Ours,
        "On SIGTERM neighbours are asked to go around this node for so long before sessions end; 0s: not at all",
    ),
    ("bgp-graceful-restart", Router, "Neighbours keep our routes while the daemon is restarted (RFC 4724)"),
    (
        "bgp-graceful-restart-deferral-time",
        Router,
        "After a restart, the longest wait for neighbours before routes are chosen (1s-18h)",
    ),
    ("bgp-graceful-restart-time", Router, "Neighbours keep our routes for so long (1s-4095s)"),
    ("bgp-holdtime", Router, "A neighbour outside the cluster that is silent for so long is down (3s-65535s)"),
    ("bgp-import-default-route", Ours, "Take default routes from neighbours outside the cluster"),
    (
        "bgp-long-lived-stale-time",
        Ours,
        "With graceful restart: keep stale routes for so much longer, as last resort (RFC 9494); 0s: not",
    ),
    (
        "bgp-multipath-relax",
        Ours,
        "Use routes together whose AS paths are equally long; otherwise only those with the same AS path",
    ),
    ("bgp-port", Router, "TCP port where BGP listens, and of other nodes (1-65535)"),
    ("bgp-route-metric", Ours, "Metric of learned routes in the kernel (0-4294967295)"),
    (
        "cache-sync-timeout",
        Kubernetes,
        "How long the first lists of the API server may take before the daemon gives up and ends",
    ),
    ("cleanup-config", General, "Remove from this node what the daemon made, and end"),
    ("cluster-asn", Router, "AS of all nodes: 64512-65535 or 4200000000-4294967294; 0 stands for 64512"),
    ("cluster-cidr", Older, "Had been the range of pods; the Node object says it today"),
    (
        "config",
        Ours,
        "YAML file with flags: their names as keys; the command line and FAIRWAY_<FLAG> in the environment go before it",
    ),
    ("config-sync-period", Older, "Had been how often the API server was asked; it is watched today"),
    (
        "disable-source-dest-check",
        Overlay,
        "No effect: on AWS switch the source/destination check of the instances off yourself",
    ),
    (
        "dry-run",
        Ours,
        "Print what the daemon would change on this node, and end; nothing is changed, nobody is spoken to",
    ),
    ("enable-bfd", Router, "Detect failures of the neighbours of --peer-router-ips with BFD (RFC 5880)"),
    ("enable-cni", Overlay, "Write the CNI configuration and keep the bridge of pods"),
    ("enable-ibgp", Router, "Peer with the other nodes"),
    ("enable-ipv4", General, "IPv4 services, routes and rules"),
    ("enable-ipv6", General, "IPv6 services, routes and rules"),
    ("enable-overlay", Overlay, "Tunnels to nodes that are in another subnet"),
    ("enable-pod-egress", Overlay, "Masquerade what pods send out of the cluster"),
    ("enable-pprof", Health, "Answer profilers on port 6060 of localhost: /debug/pprof/"),
    ("excluded-cidrs", ServiceProxy, "Virtual servers with addresses in these are somebody else's and are left alone"),
    ("from-kube-router", Ours, "With --cleanup-config: remove as well what kube-router left"),
    ("gobgp-admin-address", Router, "Address where the gobgp client is answered; what is no address means loopback"),
    ("gobgp-admin-port", Router, "TCP port where the gobgp client is answered (0-65535); 0: nowhere"),
    (
        "hairpin-mode",
        ServiceProxy,
        "Pods may reach themselves through any service; a service's annotation does it for one",
    ),
    ("health-addr", Health, "Address where /healthz is answered; empty: all"),
    ("health-port", Health, "TCP port where /healthz is answered (0-65535); 0: nowhere"),
    (
        "hostname-override",
        Kubernetes,
        "Name of this node's Node object; else NODE_NAME in the environment, else the host's name",
    ),
    (
        "injected-routes-sync-period",
        Router,
        "Routes are compared with the kernel at least so often; here once a minute at most (1s-)",
    ),
    ("iptables-sync-period", Firewall, "How often network policies are compared with the kernel"),
    (
        "ipvs-graceful-period",
        ServiceProxy,
        "How long a removed endpoint may go on with its connections where its pod does not say it",
    ),
    ("ipvs-graceful-termination", ServiceProxy, "Let connections to removed endpoints go on until they end"),
    ("ipvs-permit-all", ServiceProxy, "At service addresses only the ports of services and ICMP get through"),
    (
        "ipvs-sync-period",
        ServiceProxy,
        "The proxy's planes are compared with the kernel at least so often; here once a minute at most (1s-)",
    ),
    (
        "kubeconfig",
        Kubernetes,
        "File that says where the API server is and who we are; without it and --master the daemon is a pod",
    ),
    (
        "loadbalancer-default-class",
        LoadBalancer,
        "Give addresses also to services whose class is `default` or none; otherwise only to class `kube-router`",
    ),
    (
        "loadbalancer-ip-range",
        LoadBalancer,
        "Addresses to give to services, and with strict validation all that are accepted from others",
    ),
    (
        "loadbalancer-sync-period",
        LoadBalancer,
        "How often all services are looked at again, and what the API server refused is tried again",
    ),
    ("manifests", Ours, "A folder of manifests in place of a cluster; edits take effect"),
    ("masquerade-all", ServiceProxy, "Masquerade all connections to services"),
    ("master", Kubernetes, "URL of the API server; goes before that of --kubeconfig"),
    ("metrics-addr", Health, "Address where metrics are answered; empty: all"),
    ("metrics-path", Health, "Path of the metrics"),
    ("metrics-port", Health, "TCP port where metrics are answered (0-65535); 0: nowhere"),
    ("netpol-default-deny", Firewall, "Deny pods everything that no policy allows, from their first moment"),
    (
        "nodeport-bindon-all-ip",
        ServiceProxy,
        "Node ports on every address of the node, not only its Kubernetes addresses",
    ),
    (
        "nodes-full-mesh",
        Router,
        "Every node peers with every other; without it only those of one AS (annotation kube-router.io/node.asn)",
    ),
    ("output", Ours, "Form of what --dry-run and --cleanup-config print: text or json"),
    ("overlay-encap", Overlay, "Kind of tunnel: ipip or fou"),
    ("overlay-encap-port", Overlay, "UDP port of fou tunnels (1024-65535)"),
    ("overlay-type", Overlay, "Tunnels to nodes of other subnets (subnet) or to all (full)"),
    ("override-nexthop", Router, "Be the next hop ourselves of all we announce to neighbours outside the cluster"),
    ("peer-router-asns", Router, "Their AS, one for each of --peer-router-ips"),
    (
        "peer-router-ips",
        Router,
        "Neighbours outside the cluster of every node; with these, peers in annotations do not count",
    ),
    ("peer-router-multihop-ttl", Router, "They may be so many hops away (0-255); in effect from 2"),
    ("peer-router-passwords", Router, "Their TCP MD5 passwords in base64, one for each or none"),
    (
        "peer-router-passwords-file",
        Router,
        "File with one line of such passwords; --peer-router-passwords goes before it",
    ),
    ("peer-router-ports", Router, "Their TCP ports, one for each or none (179)"),
    (
        "proc-sys",
        Ours,
        "Folder of the kernel's parameters; a container that is not privileged has them read-only, and mounts them elsewhere",
    ),
    (
        "record",
        Ours,
        "Write everything that the daemon is told into this file, for `fairway replay`; without passwords",
    ),
    ("record-limit", Ours, "Recording ends when the file has so many MiB (1-1048576); the daemon goes on"),
    (
        "router-id",
        Router,
        "BGP identifier: an IPv4 address, or `generate` to make it of the node's address; empty: the node's IPv4 address",
    ),
    ("routes-sync-period", Router, "As --injected-routes-sync-period; the shorter of both counts"),
    ("run-firewall", Firewall, "Network policies"),
    (
        "run-loadbalancer",
        LoadBalancer,
        "Give addresses to services of type LoadBalancer; of all daemons with this flag one does, by a Lease",
    ),
    ("run-router", Router, "BGP and routes"),
    ("run-service-proxy", ServiceProxy, "Services, in IPVS"),
    ("runtime-endpoint", ServiceProxy, "Socket of the container runtime, for direct server return: unix:///PATH"),
    ("service-cluster-ip-range", ServiceProxy, "Ranges of cluster IPs; external addresses in them are refused"),
    (
        "service-external-ip-range",
        ServiceProxy,
        "With strict validation: external IPs of services are accepted in these only",
    ),
    ("service-node-port-range", ServiceProxy, "Ports of node ports, as LOW-HIGH; a service with another gets a notice"),
    (
        "service-tcp-timeout",
        ServiceProxy,
        "IPVS forgets a silent TCP connection after so long; 0s: as the system has it",
    ),
    ("service-tcpfin-timeout", ServiceProxy, "The same after a FIN; 0s: as the system has it"),
    ("service-udp-timeout", ServiceProxy, "The same of UDP; 0s: as the system has it"),
    (
        "strict-external-ip-validation",
        ServiceProxy,
        "External and load balancer addresses count only in the ranges given for them",
    ),
    ("use-nftables-for-netpol", Firewall, "kube-router's choice of nftables for policies; here everything is nftables"),
    ("v", General, "How much is logged: 1 changes of objects, 2 requests to the kernel, 3 each entry of them"),
];

/// What a flag means.
pub(super) fn text(name: &str) -> &'static str {
    ABOUT.iter().find(|(known, ..)| *known == name).map_or("", |(.., text)| text)
}

/// The flags with their help, as a command of this name.
pub(crate) fn command(name: &'static str) -> Command {
    let mut command = Command::new(name)
        .version(env!("CARGO_PKG_VERSION"))
        .about("The node daemon: service proxy and router of a Kubernetes node, with kube-router's command line")
        .override_usage(format!("{name} [FLAGS]"))
        .max_term_width(100);
    for group in Group::ALL {
        for &(flag, of, _) in ABOUT {
            if of == group
                && let Some(row) = FLAGS.iter().find(|row| row.0 == flag)
            {
                command = command.arg(documented(row, group.title()));
            }
        }
    }
    command
}

/// A flag with its help.
fn documented(row: &super::Flag, heading: &'static str) -> clap::Arg {
    let &(name, syntax, default, effect) = row;
    let value = match syntax {
        Syntax::Bool => "true|false",
        Syntax::Text => "TEXT",
        Syntax::Number(..) => "NUMBER",
        Syntax::ClusterAsn => "AS",
        Syntax::Asns => "AS,...",
        Syntax::Ips => "IP,...",
        Syntax::Cidrs => "CIDR,...",
        Syntax::Texts => "TEXT,...",
        Syntax::Choice(_) => "WORD",
        Syntax::Seconds | Syntax::Period => "DURATION",
        Syntax::PortRange => "LOW-HIGH",
        Syntax::HttpPath => "PATH",
        Syntax::UnixSocket => "SOCKET",
        Syntax::RouterId => "IP|generate",
    };
    let mut help = text(name).to_string();
    match effect {
        Effect::Only(only) => help += &format!(" (not built yet: only {only} is accepted)"),
        Effect::Process if !PROCESS_BUILT.contains(&name) => help += " (not built yet: no effect)",
        _ => {}
    }
    if !default.is_empty() {
        help += &format!(" [default: {default}]");
    }
    arg(row).help(help).help_heading(heading).value_name(value).hide_default_value(true).hide_possible_values(true)
}

/// All flags, grouped.
pub(crate) fn help() -> String {
    let styled: StyledStr = command("fairway node").render_help();
    styled.to_string()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_flag_is_explained_once() {
        let known: BTreeSet<&str> = FLAGS.iter().map(|row| row.0).collect();
        let told: BTreeSet<&str> = ABOUT.iter().map(|row| row.0).collect();
        assert_eq!(known, told);
        assert_eq!(ABOUT.len(), told.len());
        for (name, group, _) in ABOUT {
            assert_eq!(*group == Ours, OURS.contains(name), "{name}");
            let gone = FLAGS.iter().any(|row| row.0 == *name && row.3 == Effect::Gone);
            assert_eq!(*group == Older, gone, "{name}");
        }
    }

    #[test]
    fn the_help_is_grouped_and_says_defaults() {
        let text = help();
        let at = |needle: &str| text.find(needle).unwrap_or_else(|| panic!("no {needle:?} in {text}"));
        assert!(at("General:") < at("Kubernetes:") && at("Kubernetes:") < at("Router (BGP):"), "{text}");
        assert!(at("--bgp-port <NUMBER>") > at("Router (BGP):"), "{text}");
        assert!(text.contains("[default: 1m30s]"), "{text}");
        assert!(at("--help") > 0 && at("--version") > 0);
    }
}
