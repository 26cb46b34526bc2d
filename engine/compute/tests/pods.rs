//! The pod network of a node: the bridge, the CNI configuration, MTUs, and what pods send out of the cluster.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use fairway_compute::{BRIDGE, Compute, overlay_overhead};
use fairway_desired::filter::{Action, Datum, Field, Key, Match, Value};
use fairway_desired::{FileValue, Interface, LinkKind, LinkValue};
use fairway_objects::{Delta, Kind, Node, NodeConfig, NoticeChange, Object, ObjectKey, ObjectName, Overlay};
use ipnet::IpNet;

const FILE: &str = "/etc/cni/net.d/10-kuberouter.conflist";

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn nets(texts: &[&str]) -> Vec<IpNet> {
    texts.iter().map(|text| text.parse().expect("a prefix")).collect()
}

fn config() -> NodeConfig {
    NodeConfig { overlay: None, enable_ipv6: true, cni_file: Some(FILE.into()), ..NodeConfig::new("n1") }
}

fn put(name: &str, addresses: &[&str], pod_cidrs: &[&str]) -> Delta {
    let node = Node {
        internal_ips: addresses.iter().map(|text| ip(text)).collect(),
        pod_cidrs: nets(pod_cidrs),
        ..Node::new(ObjectName::cluster(name))
    };
    Delta::Put { object: Object::Node(Arc::new(node)), notices: vec![] }
}

fn interfaces(all: &[(&str, &str, u32)]) -> BTreeMap<Arc<str>, Interface> {
    let interface = |(name, address, mtu): &(&str, &str, u32)| {
        let net: IpNet = address.parse().expect("an address with its prefix");
        let (addresses, on_link) = (vec![net.addr()], vec![net.trunc()]);
        (Arc::from(*name), Interface { up: true, carrier: true, mtu: *mtu, addresses, on_link })
    };
    all.iter().map(interface).collect()
}

fn started(config: NodeConfig, deltas: Vec<Delta>) -> (Compute, Vec<String>) {
    let mut compute = Compute::new(config);
    deltas.into_iter().for_each(|delta| compute.handle(delta));
    compute.handle(Delta::Listed(Kind::Node));
    compute.interfaces(interfaces(&[("eth1", "192.168.1.1/24", 1500), ("eth2", "10.9.0.1/24", 9000)]));
    let notices = notices(compute.flush().notices);
    (compute, notices)
}

fn notices(changes: Vec<NoticeChange>) -> Vec<String> {
    let text = |change: &NoticeChange| match change {
        NoticeChange::Raised(notice) => Some(notice.to_string()),
        NoticeChange::Cleared(_) => None,
    };
    changes.iter().filter_map(text).collect()
}

fn bridge(compute: &Compute) -> Option<LinkValue> {
    compute.desired().link.get(BRIDGE).cloned()
}

fn file(compute: &Compute) -> Option<FileValue> {
    compute.desired().file.get(FILE).cloned()
}

/// What is in the sets of pod CIDRs and of node addresses.
fn sets(compute: &Compute) -> (Vec<String>, Vec<String>) {
    let of = |name: &str| {
        let desired = compute.desired();
        let elements = desired.filter.keys().filter_map(|key| match key {
            Key::Element(set, element) if set.starts_with(name) => match &element[..] {
                [Datum::Net(net)] => Some(net.to_string()),
                [Datum::Addr(address)] => Some(address.to_string()),
                other => panic!("{other:?}"),
            },
            _ => None,
        });
        elements.collect()
    };
    (of("pod-subnets"), of("node-ips"))
}

#[test]
fn the_bridge_and_the_file_have_the_mtu_of_the_nodes_interface() {
    let own = put("n1", &["192.168.1.1", "fd00::1"], &["10.1.0.0/24", "fd01::/64"]);
    let (mut compute, said) = started(config(), vec![own]);
    let value = |mtu| LinkValue { kind: LinkKind::Bridge, up: true, mtu };
    let written = |mtu| FileValue { ranges: nets(&["10.1.0.0/24", "fd01::/64"]), mtu };
    assert_eq!((bridge(&compute), file(&compute)), (Some(value(Some(1500))), Some(written(Some(1500)))));
    assert_eq!(said, Vec::<String>::new());
    // It changes with the interface, and another interface is of no interest.
    compute.interface(&"eth2".into(), interfaces(&[("eth2", "10.9.0.1/24", 1400)]).remove("eth2"));
    assert_eq!(compute.flush().rendered, 0);
    compute.interface(&"eth1".into(), interfaces(&[("eth1", "192.168.1.1/24", 1400)]).remove("eth1"));
    assert_eq!(compute.flush().rendered, 1);
    assert_eq!((bridge(&compute), file(&compute)), (Some(value(Some(1400))), Some(written(Some(1400)))));
    // An address that is nowhere says nothing of an MTU.
    compute.interface(&"eth1".into(), None);
    let said = notices(compute.flush().notices);
    assert_eq!(
        said,
        [
            "Node n1: status.addresses: the primary address 192.168.1.1 is on no interface; the MTU of pods is left as it is"
        ]
    );
    assert_eq!((bridge(&compute), file(&compute)), (Some(value(None)), Some(written(None))));
    let (compute, said) = started(
        NodeConfig { auto_mtu: false, ..config() },
        vec![put("n1", &["192.168.7.1", "fd00::1"], &["10.1.0.0/24", "fd01::/64"])],
    );
    assert_eq!((bridge(&compute), file(&compute)), (Some(value(None)), Some(written(None))));
    assert_eq!(said, Vec::<String>::new());
}

#[test]
fn an_overlay_takes_its_headers_from_the_mtu() {
    let with = |overlay| NodeConfig { overlay, ..config() };
    let (ipip, fou) = (Overlay::default(), Overlay { port: Some(5555), ..Overlay::default() });
    let cases = [(None, 0, 0), (Some(ipip), 20, 40), (Some(fou), 32, 52)];
    for (overlay, v4, v6) in cases {
        let config = with(overlay);
        assert_eq!((overlay_overhead(&config, false), overlay_overhead(&config, true)), (v4, v6), "{overlay:?}");
        let (compute, _) = started(config, vec![put("n1", &["192.168.1.1"], &["10.1.0.0/24"])]);
        assert_eq!(bridge(&compute).and_then(|bridge| bridge.mtu), Some(1500 - v4), "{overlay:?}");
    }
    // The tunnels have the family of the nodes' primary addresses, whatever pods have.
    let mut compute = Compute::new(with(Some(ipip)));
    compute.handle(put("n1", &["fd00::1", "192.168.1.1"], &["10.1.0.0/24"]));
    compute.interfaces(interfaces(&[("eth1", "192.168.1.1/24", 1500), ("eth2", "fd00::1/64", 1600)]));
    compute.flush();
    assert_eq!(bridge(&compute).and_then(|bridge| bridge.mtu), Some(1560));
    // What a bridge cannot have is not asked of it.
    compute.interfaces(interfaces(&[("eth2", "fd00::1/64", 70)]));
    compute.flush();
    assert_eq!(bridge(&compute).and_then(|bridge| bridge.mtu), Some(68));
}

#[test]
fn ranges_follow_the_nodes_pod_cidrs_and_the_enabled_families() {
    let ranges = |config: NodeConfig, cidrs: &[&str]| {
        let (compute, said) = started(config, vec![put("n1", &["192.168.1.1"], cidrs)]);
        let ranges = file(&compute).map(|file| file.ranges.iter().map(ToString::to_string).collect::<Vec<_>>());
        (ranges.unwrap_or_default(), said)
    };
    assert_eq!(ranges(config(), &["fd01::/64", "10.1.0.0/24"]).0, ["fd01::/64", "10.1.0.0/24"]);
    let v4_only = || NodeConfig { enable_ipv6: false, ..config() };
    assert_eq!(ranges(v4_only(), &["fd01::/64", "10.1.0.0/24"]).0, ["10.1.0.0/24"]);
    // One inside another would give a pod two addresses of one network.
    assert_eq!(ranges(config(), &["10.1.0.0/24", "10.1.0.0/16", "10.1.0.0/24"]).0, ["10.1.0.0/16"]);
    let (none, said) = ranges(v4_only(), &["fd01::/64"]);
    assert_eq!(none, Vec::<String>::new());
    let wanted = format!("Node n1: spec.podCIDRs: no pod CIDR of an enabled family; {FILE} is left as it is");
    assert_eq!(said, [wanted]);
    // The node moved: what it had is gone.
    let (mut compute, _) = started(config(), vec![put("n1", &["192.168.1.1"], &["10.1.0.0/24"])]);
    compute.handle(put("n1", &["192.168.1.1"], &["10.2.0.0/24"]));
    assert_eq!(compute.flush().ops.file.len(), 1);
    assert_eq!(file(&compute).map(|file| file.ranges), Some(nets(&["10.2.0.0/24"])));
}

#[test]
fn without_cni_or_router_nothing_of_it_is_ours() {
    let own = || vec![put("n1", &["192.168.1.1"], &["10.1.0.0/24"])];
    for config in [NodeConfig { enable_cni: false, ..config() }, NodeConfig { run_router: false, ..config() }] {
        let (compute, _) = started(config, own());
        assert_eq!((bridge(&compute), file(&compute)), (None, None));
    }
    let (compute, _) = started(NodeConfig { cni_file: None, ..config() }, own());
    assert_eq!((bridge(&compute).is_some(), file(&compute)), (true, None));
    // The bridge does not depend on the object: pods hang on it.
    let (compute, _) = started(config(), vec![]);
    assert_eq!((bridge(&compute).is_some(), file(&compute)), (true, None));
}

#[test]
fn pods_are_masqueraded_to_what_is_neither_a_pod_nor_a_node() {
    let nodes = vec![
        put("n1", &["192.168.1.1", "fd00::1"], &["10.1.0.0/24", "fd01::/64"]),
        put("n2", &["192.168.1.2"], &["10.2.0.0/24"]),
    ];
    let (mut compute, _) = started(config(), nodes.clone());
    let (subnets, addresses) = sets(&compute);
    assert_eq!(subnets, ["10.1.0.0/24", "10.2.0.0/24", "fd01::/64"]);
    assert_eq!(addresses, ["192.168.1.1", "192.168.1.2", "fd00::1"]);
    let desired = compute.desired();
    let Some(Value::Rules(rules)) = desired.filter.get(&Key::Rules("pod-egress".into())) else {
        panic!("no rules of pod egress")
    };
    let said: Vec<Vec<(Field, String, bool)>> = rules
        .iter()
        .map(|rule| {
            assert_eq!(rule.action, Action::Masquerade);
            let of = |condition: &Match| match condition {
                Match::InSet { fields, set, negate } => (fields[0], set.to_string(), *negate),
                other => panic!("{other:?}"),
            };
            rule.matches.iter().map(of).collect()
        })
        .collect();
    let rule = |family: &str| {
        vec![
            (Field::Saddr, format!("pod-subnets{family}"), false),
            (Field::Daddr, format!("pod-subnets{family}"), true),
            (Field::Daddr, format!("node-ips{family}"), true),
        ]
    };
    assert_eq!(said, [rule("4"), rule("6")]);
    // A node that comes or goes changes its own elements, at once.
    compute.handle(put("n3", &["192.168.1.3"], &["10.3.0.0/24"]));
    let changes = compute.flush();
    assert_eq!((changes.rendered, changes.ops.filter.len()), (1, 2), "{:?}", changes.ops.filter);
    compute.handle(Delta::Del(ObjectKey { kind: Kind::Node, name: ObjectName::cluster("n2") }));
    assert_eq!(compute.flush().ops.filter.len(), 2);
    assert_eq!(
        sets(&compute),
        (
            ["10.1.0.0/24", "10.3.0.0/24", "fd01::/64"].map(String::from).into(),
            ["192.168.1.1", "192.168.1.3", "fd00::1"].map(String::from).into(),
        )
    );
    for config in [NodeConfig { enable_pod_egress: false, ..config() }, NodeConfig { run_router: false, ..config() }] {
        let (compute, _) = started(config, nodes.clone());
        assert_eq!(sets(&compute), (vec![], vec![]));
        assert!(!compute.desired().filter.contains_key(&Key::Chain("pod-egress".into())));
    }
}

#[test]
fn a_pod_cidr_inside_another_nodes_is_in_the_set_once() {
    let (mut compute, _) = started(
        config(),
        vec![
            put("n1", &["192.168.1.1"], &["10.1.0.0/24"]),
            put("n2", &["192.168.1.2"], &["10.0.0.0/8"]),
            put("n3", &["192.168.1.3"], &["10.1.0.0/24"]),
        ],
    );
    assert_eq!(sets(&compute).0, ["10.0.0.0/8"]);
    // When the one around goes, the others stand for themselves; and back.
    compute.handle(put("n2", &["192.168.1.2"], &["10.2.0.0/24"]));
    compute.flush();
    assert_eq!(sets(&compute).0, ["10.1.0.0/24", "10.2.0.0/24"]);
    compute.handle(put("n2", &["192.168.1.2"], &["10.0.0.0/8"]));
    compute.flush();
    assert_eq!(sets(&compute).0, ["10.0.0.0/8"]);
    compute.handle(Delta::Del(ObjectKey { kind: Kind::Node, name: ObjectName::cluster("n2") }));
    compute.handle(Delta::Del(ObjectKey { kind: Kind::Node, name: ObjectName::cluster("n3") }));
    compute.flush();
    assert_eq!(sets(&compute).0, ["10.1.0.0/24"]);
}
