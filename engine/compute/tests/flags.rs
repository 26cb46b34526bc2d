//! What a flag changes in the desired state, and that it changes that: one row for each flag whose effect is all in what
//! a node should have.

#[allow(dead_code, reason = "the other file of tests uses the rest")]
mod build;

use std::collections::BTreeSet;

use build::*;
use fairway_compute::{Compute, Desired};
use fairway_objects::{BfdConfig, BgpPeer, Delta, GracefulRestart, Kind, NodeConfig, Object, RouterIdSource};

/// All entries, each as a line.
fn lines(desired: &Desired) -> BTreeSet<String> {
    let mut lines = BTreeSet::new();
    macro_rules! add {
        ($($plane:ident),*) => {
            $(lines.extend(desired.$plane.iter().map(|(k, v)| format!("{} {k:?} = {v:?}", stringify!($plane))));)*
        };
    }
    add!(sysctl, link, addr, filter, rule, pod, route, ipvs, bgp);
    lines
}

fn desired(config: NodeConfig) -> BTreeSet<String> {
    let mut six = node_object("n1", 1);
    six.internal_ips.push(ip("fd00:1::1"));
    let objects = [
        Object::Node(six.into()),
        node("n2", 2),
        service("web", |s| {
            s.cluster_ips = vec![ip("12.0.0.1"), ip("fd00:2::1")];
            s.external_ips = vec![ip("10.0.0.2"), ip("10.5.0.2")];
            s.load_balancer_ips = vec![ip("10.1.0.2")];
            s.service_type = fairway_objects::ServiceType::LoadBalancer;
        }),
        slice("web", &[("11.0.1.5", "n1", READY)]),
    ];
    let mut compute = Compute::new(config);
    compute.handle(Delta::Listed(Kind::Node));
    objects.into_iter().for_each(|object| compute.handle(put(object)));
    compute.flush();
    lines(&compute.desired())
}

/// A flag, its change, and the parts of a line that comes (`+`) or goes (`-`) with it.
type Row = (&'static str, fn(&mut NodeConfig), &'static str, &'static [&'static str]);

const ROWS: &[Row] = &[
    ("advertise-cluster-ip", |c| c.advertise_cluster_ip = false, "-", &["bgp Network(12.0.0.1/32)"]),
    ("advertise-external-ip", |c| c.advertise_external_ip = false, "-", &["bgp Network(10.0.0.2/32)"]),
    ("advertise-loadbalancer-ip", |c| c.advertise_load_balancer_ip = true, "+", &["bgp Network(10.1.0.2/32)"]),
    (
        "advertise-pod-cidr",
        |c| c.advertise_pod_cidr = false,
        "-",
        &["bgp Policy(Export)", "podcidrdefinedsetexternalpeerset"],
    ),
    (
        "bfd",
        |c| c.peers[0].bfd = Some(BfdConfig { port: 4000, desired_min_tx_ms: 7, required_min_rx_ms: 8, multiplier: 9 }),
        "+",
        &["bgp Peer", "192.168.1.201", "port: 4000", "desired_min_tx_ms: 7", "required_min_rx_ms: 8", "multiplier: 9"],
    ),
    (
        "bgp-graceful-restart",
        |c| c.graceful_restart = Some(GracefulRestart { time_s: 77, defer_s: 78, long_lived_s: 79 }),
        "+",
        &["bgp Peer", "time_s: 77", "defer_s: 78", "long_lived_s: 79"],
    ),
    ("bgp-holdtime", |c| c.bgp_hold_s = 33, "+", &["bgp Peer", "192.168.1.201", "hold_s: 33"]),
    (
        "bgp-import-default-route",
        |c| c.import_default_route = true,
        "-",
        &["bgp Policy(Import)", "defaultroutedefinedsetallpeerset"],
    ),
    ("bgp-multipath-relax", |c| c.multipath_relax = false, "+", &["bgp Global", "multipath_relax: false"]),
    ("bgp-port", |c| c.bgp_port = 1179, "+", &["bgp Global", "port: 1179"]),
    ("cluster-asn", |c| c.cluster_asn = Some(65009), "+", &["bgp Global", "asn: 65009"]),
    ("enable-ibgp", |c| c.enable_ibgp = false, "-", &["bgp Peer", "192.168.1.2"]),
    ("enable-ipv4", |c| c.enable_ipv4 = false, "-", &["ipvs", "12.0.0.1"]),
    ("enable-ipv6", |c| c.enable_ipv6 = true, "+", &["ipvs", "fd00:2::1"]),
    ("hairpin-mode", |c| c.hairpin_mode = true, "+", &["filter Element(\"hairpin4\"", "11.0.1.5"]),
    ("ipvs-permit-all", |c| c.ipvs_permit_all = false, "-", &["filter Chain(\"protect\")"]),
    ("loadbalancer-ip-range", |c| c.load_balancer_ip_range = vec![net("10.9.0.0/24")], "-", &["ipvs", "10.1.0.2"]),
    ("masquerade-all", |c| c.masquerade_all = true, "-", &["filter Rules(\"masquerade\")", "local-pods4"]),
    ("nodes-full-mesh", |c| c.nodes_full_mesh = false, "-", &["bgp Peer", "192.168.1.2"]),
    ("override-nexthop", |c| c.override_next_hop = true, "+", &["bgp Policy(Export)", "next_hop_self: true"]),
    (
        "peer-router-ips",
        |c| c.peers.push(BgpPeer::new(ip("192.168.1.202"), 65002)),
        "+",
        &["bgp Peer", "192.168.1.202"],
    ),
    ("peer-router-multihop-ttl", |c| c.multihop_ttl = 5, "+", &["bgp Peer", "192.168.1.201", "Multihop(5)"]),
    ("peer-router-passwords", |c| c.peers[0].password = Some("secret".into()), "+", &["bgp Peer", "Some(\"secret\")"]),
    ("peer-router-ports", |c| c.peers[0].port = 1790, "+", &["bgp Peer", "192.168.1.201", "port: 1790"]),
    (
        "router-id",
        |c| c.router_id = RouterIdSource::Fixed([9, 9, 9, 9].into()),
        "+",
        &["bgp Global", "router_id: 9.9.9.9"],
    ),
    ("run-router", |c| c.run_router = false, "-", &["bgp Global"]),
    ("run-service-proxy", |c| c.run_service_proxy = false, "-", &["ipvs", "12.0.0.1"]),
    ("service-cluster-ip-range", |c| c.service_cluster_ip_range = vec![net("10.0.0.0/16")], "-", &["ipvs", "10.0.0.2"]),
    ("service-external-ip-range", |c| c.service_external_ip_range.push(net("10.5.0.0/24")), "+", &["ipvs", "10.5.0.2"]),
    ("service-tcp-timeout", |c| c.ipvs_timeouts_s[0] = 7, "+", &["sysctl \"ipvs/timeout-tcp\" = 7"]),
    ("service-tcpfin-timeout", |c| c.ipvs_timeouts_s[1] = 7, "+", &["sysctl \"ipvs/timeout-tcpfin\" = 7"]),
    ("service-udp-timeout", |c| c.ipvs_timeouts_s[2] = 7, "+", &["sysctl \"ipvs/timeout-udp\" = 7"]),
    ("strict-external-ip-validation", |c| c.strict_external_ip_validation = false, "+", &["ipvs", "10.5.0.2"]),
];

#[test]
fn each_flag_changes_what_it_is_about() {
    let base = NodeConfig { load_balancer_ip_range: vec![net("10.1.0.0/24")], ..config() };
    let before = desired(base.clone());
    let mut wrong = vec![];
    for (flag, change, sign, parts) in ROWS {
        let mut config = base.clone();
        change(&mut config);
        let after = desired(config);
        let changed: Vec<&String> =
            if *sign == "+" { after.difference(&before).collect() } else { before.difference(&after).collect() };
        if !changed.iter().any(|line| parts.iter().all(|part| line.contains(part))) {
            wrong.push(format!("--{flag}: no line {sign} with {parts:?} among {changed:#?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
