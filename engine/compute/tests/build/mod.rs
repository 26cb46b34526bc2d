//! Small objects, and sequences of changes to a small universe of them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use fairway_desired::{Interface, Learned};
use fairway_objects::*;
use ipnet::IpNet;
use proptest::prelude::*;

pub(crate) fn ip(text: &str) -> IpAddr {
    text.parse().unwrap_or_else(|_| panic!("{text} is no address"))
}

pub(crate) fn net(text: &str) -> IpNet {
    text.parse().unwrap_or_else(|_| panic!("{text} is no prefix"))
}

pub(crate) fn put(object: Object) -> Delta {
    Delta::Put { object, notices: vec![] }
}

pub(crate) fn config() -> NodeConfig {
    NodeConfig {
        advertise_cluster_ip: true,
        advertise_external_ip: true,
        cluster_asn: Some(65001),
        peers: vec![BgpPeer::new(ip("192.168.1.201"), 65002)],
        service_cluster_ip_range: vec![net("12.0.0.0/16")],
        service_external_ip_range: vec![net("10.0.0.0/24")],
        overlay: None,
        cni_file: Some("/etc/cni/net.d/10-kuberouter.conflist".into()),
        ..NodeConfig::new("n1")
    }
}

pub(crate) fn router() -> NodeConfig {
    NodeConfig::router(
        "r1",
        RouterConfig {
            asn: 65002,
            router_id: [192, 168, 1, 201].into(),
            accept: vec![(net("192.168.1.0/24"), vec![65001])],
            import_reject: vec![net("192.168.0.0/16")],
            networks: vec![],
            addresses: vec![ip("192.168.1.201")],
            peers: vec![],
            sessions: RouterSessions::default(),
        },
    )
}

pub(crate) fn node_object(name: &str, number: u8) -> Node {
    Node {
        internal_ips: vec![IpAddr::from([192, 168, 1, number])],
        pod_cidrs: vec![net(&format!("11.0.{number}.0/24"))],
        ..Node::new(ObjectName::cluster(name))
    }
}

pub(crate) fn node(name: &str, number: u8) -> Object {
    Object::Node(Arc::new(node_object(name, number)))
}

pub(crate) fn service(name: &str, change: impl FnOnce(&mut Service)) -> Object {
    let mut service = Service {
        created_s: 1,
        cluster_ips: vec![ip("12.0.0.1")],
        ports: vec![ServicePort { name: "http".into(), protocol: Protocol::Tcp, port: 80, node_port: None }],
        ..Service::new(ObjectName::new("default", name))
    };
    change(&mut service);
    Object::Service(Arc::new(service))
}

/// ready, serving, terminating
pub(crate) type Conditions = (bool, bool, bool);
pub(crate) const READY: Conditions = (true, true, false);
pub(crate) const NOT_READY: Conditions = (false, false, false);
pub(crate) const TERMINATING: Conditions = (false, true, true);

pub(crate) fn slice(service: &str, endpoints: &[(&str, &str, Conditions)]) -> Object {
    Object::EndpointSlice(Arc::new(EndpointSlice {
        name: ObjectName::new("default", &format!("{service}-1")),
        service: service.into(),
        ports: vec![EndpointPort { name: "http".into(), protocol: Protocol::Tcp, port: 8080 }],
        endpoints: endpoints
            .iter()
            .map(|(address, node, (ready, serving, terminating))| Endpoint {
                address: ip(address),
                ready: *ready,
                serving: *serving,
                terminating: *terminating,
                node: Some((*node).into()),
            })
            .collect(),
    }))
}

/// One step of a history.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    Delta(Delta),
    Learned(Learned),
    Interface(&'static str, Option<Interface>),
    Flush,
}

/// What a history leaves.
#[derive(Debug, Default)]
pub(crate) struct Model {
    pub(crate) objects: BTreeMap<ObjectKey, Object>,
    pub(crate) learned: BTreeMap<IpNet, Vec<IpAddr>>,
    pub(crate) interfaces: Option<BTreeMap<Arc<str>, Interface>>,
    stale: BTreeMap<Kind, BTreeSet<ObjectKey>>,
}

impl Model {
    pub(crate) fn handle(&mut self, delta: &Delta) {
        match delta {
            Delta::Put { object, .. } => {
                let key = object.key();
                self.seen(&key);
                self.objects.insert(key, object.clone());
            }
            Delta::Invalid { key, .. } => {
                self.seen(key);
                self.objects.remove(key);
            }
            Delta::Del(key) => {
                self.seen(key);
                self.objects.remove(key);
            }
            Delta::Relist(kind) => {
                let known = self.objects.keys().filter(|k| k.kind == *kind).cloned().collect();
                self.stale.insert(*kind, known);
            }
            Delta::Listed(kind) => {
                for key in self.stale.remove(kind).unwrap_or_default() {
                    self.objects.remove(&key);
                }
            }
        }
    }

    fn seen(&mut self, key: &ObjectKey) {
        if let Some(stale) = self.stale.get_mut(&key.kind) {
            stale.remove(key);
        }
    }
}

fn some_node() -> impl Strategy<Value = Object> {
    let moved = prop_oneof![4 => Just(0u8), 1 => 1u8..4];
    let asn = prop::option::of(64512u32..64514);
    (0u8..3, moved, any::<bool>(), asn, any::<bool>(), prop::bool::weighted(0.2)).prop_map(
        |(n, moved, v6, asn, cidr, around)| {
            let mut node = node_object(&format!("n{}", n + 1), n + 1 + moved * 10);
            if v6 {
                node.internal_ips.push(ip(&format!("fd00::{}", n + 1)));
            }
            if moved == 3 {
                node.internal_ips.clear();
            }
            if !cidr {
                node.pod_cidrs = vec![net("11.0.9.0/24")];
            }
            if around {
                node.pod_cidrs.push(net("11.0.0.0/16"));
            }
            node.asn = asn;
            Object::Node(Arc::new(node))
        },
    )
}

fn address() -> impl Strategy<Value = IpAddr> {
    prop::sample::select(vec!["10.0.0.2", "10.0.0.3", "172.16.0.1", "12.0.0.9", "fd00::a00:2"]).prop_map(ip)
}

fn some_service() -> impl Strategy<Value = Object> {
    let flags = prop::collection::vec(prop::bool::weighted(0.2), 8);
    (
        0u8..4,
        0i64..3,
        prop::collection::vec(prop::sample::select(vec!["12.0.0.1", "12.0.0.2", "fd00:4000::1"]), 0..3),
        prop::collection::vec(address(), 0..3),
        flags,
        prop::option::of(30000u16..30002),
        80u16..82,
    )
        .prop_map(|(n, created_s, cluster_ips, external_ips, flags, node_port, port)| {
            service(&format!("s{n}"), |s| {
                s.created_s = created_s;
                s.cluster_ips = cluster_ips.into_iter().map(ip).collect();
                s.external_ips = external_ips;
                s.ports[0].node_port = node_port;
                s.ports[0].port = port;
                if flags[0] {
                    s.external_traffic_policy = TrafficPolicy::Local;
                }
                if flags[1] {
                    s.internal_traffic_policy = TrafficPolicy::Local;
                }
                s.local = flags[2];
                s.hairpin = flags[3];
                if flags[4] {
                    // A tunnel needs port and target port to be the same.
                    s.dsr_tunnel = true;
                    s.ports[0].port = if port == 80 { 8080 } else { port };
                }
                s.foreign_proxy = flags[5];
                if flags[6] {
                    s.session_affinity_s = Some(60);
                }
                if flags[7] {
                    s.advertise.external_ip = Some(false);
                }
            })
        })
}

fn some_slice() -> impl Strategy<Value = Object> {
    let endpoint = (
        prop::sample::select(vec!["11.0.1.5", "11.0.2.5", "11.0.3.5", "fd00::5"]),
        prop::sample::select(vec!["n1", "n2"]),
        prop::sample::select(vec![READY, NOT_READY, TERMINATING]),
    );
    // A slice may change the service it belongs to.
    (0u8..5, 0u8..4, prop::collection::vec(endpoint, 0..4)).prop_map(|(n, of, endpoints)| {
        let Object::EndpointSlice(made) = slice(&format!("s{of}"), &endpoints) else { unreachable!("a slice") };
        let name = ObjectName::new("default", &format!("slice-{n}"));
        Object::EndpointSlice(Arc::new(EndpointSlice { name, ..(*made).clone() }))
    })
}

fn some_object() -> impl Strategy<Value = Object> {
    prop_oneof![1 => some_node(), 3 => some_service(), 3 => some_slice()]
}

pub(crate) fn some_overlay() -> impl Strategy<Value = Option<Overlay>> {
    prop::option::of((any::<bool>(), any::<bool>()).prop_map(|(full, udp)| Overlay { full, port: udp.then_some(5555) }))
}

/// An interface with this address, given with the length of its prefix.
pub(crate) fn interface(address: &str, up: bool, carrier: bool) -> Interface {
    let net = net(address);
    Interface { up, carrier, mtu: 1500, addresses: vec![net.addr()], on_link: vec![net.trunc()] }
}

pub(crate) fn step() -> impl Strategy<Value = Step> {
    let address = prop::sample::select(vec!["192.168.1.1/24", "192.168.1.3/32", "192.168.0.1/16", "10.0.0.1/24"]);
    let mtu = prop::sample::select(vec![0, 1400, 1500]);
    let interface = (prop::sample::select(vec!["eth1", "eth2"]), address, mtu, any::<(bool, bool, bool)>()).prop_map(
        |(name, address, mtu, (there, up, carrier))| {
            Step::Interface(name, there.then(|| Interface { mtu, ..interface(address, up, carrier) }))
        },
    );
    let learned = (
        prop::sample::select(vec!["11.0.2.0/24", "11.0.9.0/24", "10.9.0.0/16", "fd00:11::/64"]),
        prop::collection::btree_set(
            prop::sample::select(vec!["192.168.1.2", "192.168.1.3", "192.168.1.13", "fd00::2"]),
            0..3,
        ),
    )
        .prop_map(|(prefix, hops)| {
            Step::Learned(Learned { prefix: net(prefix), next_hops: hops.into_iter().map(ip).collect() })
        });
    prop_oneof![
        8 => some_object().prop_map(|o| Step::Delta(put(o))),
        2 => some_object().prop_map(|o| Step::Delta(Delta::Del(o.key()))),
        // An invalid object brings its own notice, which no computation repeats; here it only vanishes.
        1 => some_object().prop_map(|o| Step::Delta(Delta::Invalid { key: o.key(), notices: vec![] })),
        1 => prop::sample::select(Kind::ALL.to_vec()).prop_map(|k| Step::Delta(Delta::Relist(k))),
        1 => prop::sample::select(Kind::ALL.to_vec()).prop_map(|k| Step::Delta(Delta::Listed(k))),
        2 => learned,
        1 => interface,
        4 => Just(Step::Flush),
    ]
}
