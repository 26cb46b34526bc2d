//! Benchmarks on one ladder of sizes.
//!
//! This crate holds what the benches share: clusters of a given size as objects, and scenarios of a given size as text.
//! Figures are reported in `docs/performance.md` and never asserted; counts are asserted in the crates' own tests.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use fairway_objects::{
    Delta, Endpoint, EndpointPort, EndpointSlice, Kind, Node, NodeConfig, Object, ObjectName, Protocol, Service,
    ServicePort,
};

fn name(text: String) -> ObjectName {
    ObjectName::new("default", &text)
}

/// The configuration of the node whose state is computed: proxy and router, like the seed scenario.
pub fn config() -> NodeConfig {
    NodeConfig { advertise_cluster_ip: true, cluster_asn: Some(65001), ..NodeConfig::new("node-0") }
}

/// A put without notices.
pub fn put(object: Object) -> Delta {
    Delta::Put { object, notices: vec![] }
}

/// Nodes `node-0`, … with addresses 192.168.0.0/16 and pod CIDRs.
pub fn nodes(count: u16) -> impl Iterator<Item = Delta> {
    (0..count).map(|n| {
        let [high, low] = n.to_be_bytes();
        let pod_cidr = ipnet::IpNet::new_assert(IpAddr::V4(Ipv4Addr::new(11, high, low, 0)), 24);
        put(Object::Node(Arc::new(Node {
            internal_ips: vec![Ipv4Addr::new(192, 168, high, low.max(1)).into()],
            pod_cidrs: vec![pod_cidr],
            ..Node::new(ObjectName::cluster(&format!("node-{n}")))
        })))
    })
}

/// Service number `n` with one TCP port.
pub fn service(n: u32) -> Delta {
    let [_, a, b, c] = n.to_be_bytes();
    put(Object::Service(Arc::new(Service {
        created_s: n.into(),
        cluster_ips: vec![Ipv4Addr::new(10, 96 + a, b, c).into()],
        ports: vec![ServicePort { name: "http".into(), protocol: Protocol::Tcp, port: 80, node_port: None }],
        ..Service::new(name(format!("svc-{n}")))
    })))
}

/// The slice of service `n` with this many endpoints, of which the first may be not ready.
pub fn slice(n: u32, endpoints: u32, first_ready: bool) -> Delta {
    let list = (0..endpoints)
        .map(|e| Endpoint {
            address: Ipv4Addr::from(0x0b00_0000 + n.wrapping_mul(endpoints).wrapping_add(e) + 2).into(),
            ready: e > 0 || first_ready,
            serving: e > 0 || first_ready,
            terminating: false,
            node: Some(format!("node-{}", e % 100).into()),
        })
        .collect();
    put(Object::EndpointSlice(Arc::new(EndpointSlice {
        name: name(format!("svc-{n}-abc")),
        service: format!("svc-{n}").into(),
        ports: vec![EndpointPort { name: "http".into(), protocol: Protocol::Tcp, port: 8080 }],
        endpoints: list,
    })))
}

/// Everything of a cluster: nodes, services, slices, and the ends of the lists.
pub fn cluster(services: u32, endpoints: u32) -> Vec<Delta> {
    let mut deltas: Vec<Delta> = nodes(100).collect();
    deltas.extend((0..services).flat_map(|n| [service(n), slice(n, endpoints, true)]));
    deltas.extend(Kind::ALL.map(Delta::Listed));
    deltas
}

/// A scenario of `nodes` nodes, one router and 400 connections. The mesh between the nodes is off, since it alone
/// would be half a million sessions at 1,000 nodes; pod routes go through the router.
pub fn wide_scenario(nodes: u16) -> String {
    let mut text = String::from(
        "name: wide\nneeds: [ipvs]\ntopology:\n  lans:\n    cluster: {subnets: [192.168.0.0/16], latency: 100us}\n  nodes:\n",
    );
    for n in 1..=nodes {
        let [high, low] = (n + 256).to_be_bytes();
        // Writing to a String cannot fail.
        let _ = writeln!(text, "    n{n}: {{cluster: 192.168.{high}.{low}, podCIDR: 11.{high}.{low}.0/24}}");
    }
    text.push_str(
        r#"  routers:
    r1: {cluster: 192.168.0.1, asn: 65002, accept: [65001], reject: [192.168.0.0/16]}
services: {cidrs: [12.0.0.0/16]}
flags:
  - --run-firewall=false
  - --enable-overlay=false
  - --enable-pod-egress=false
  - --enable-ibgp=false
  - --advertise-external-ip
  - --peer-router-ips=192.168.0.1
  - --peer-router-asns=65002
  - --cluster-asn=65001
  - --service-cluster-ip-range=12.0.0.0/16
  - --service-external-ip-range=10.0.0.0/24
objects: [mconnect.yaml]
steps:
"#,
    );
    let _ = writeln!(
        text,
        "  - until: {{within: 60s, bgp: {{r1: {{established: {nodes}}}}}, endpoints: {{service: mconnect, ready: 4}}, \
         route: {{on: r1, to: 10.0.0.2/32, nexthops: {}}}}}",
        nodes.min(64)
    );
    text.push_str(
        "  - pass: 1s\n  - mconnect: {from: r1, address: \"10.0.0.2:5001\", nconn: 400}\n    \
         expect: {failedConnects: 0, failedReads: 0, hosts: 4}\n",
    );
    text
}
