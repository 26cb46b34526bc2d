//! The overlay: which next hops get a tunnel, and what leads into it.

use std::collections::BTreeMap;
use std::sync::Arc;

use fairway_compute::{Changes, Compute};
use fairway_desired::{Interface, Learned, LinkKind, OVERLAY_TABLE, Op, RouteValue, Tunnel};
use fairway_objects::*;

use crate::build::*;

const SUBNET: Overlay = Overlay { full: false, port: None };
const FULL: Overlay = Overlay { full: true, port: None };
const UDP: Overlay = Overlay { full: false, port: Some(5555) };

/// Node n1 at 192.168.1.1 and fd00:1::1, of one subnet with n2; n3 is in another one, and all their pods are known.
struct Cluster {
    compute: Compute,
}

fn with_ips(name: &str, number: u8, ips: &[&str]) -> Object {
    let internal_ips = ips.iter().map(|text| ip(text)).collect();
    let mut node = Node { internal_ips, ..node_object(name, number) };
    node.pod_cidrs.push(net(&format!("fd00:11:{number}::/64")));
    Object::Node(Arc::new(node))
}

fn eth1() -> Interface {
    Interface {
        up: true,
        carrier: true,
        addresses: vec![ip("192.168.1.1"), ip("fd00:1::1")],
        on_link: vec![net("192.168.1.0/24"), net("fd00:1::/64")],
        mtu: 1500,
    }
}

impl Cluster {
    fn new(overlay: Option<Overlay>) -> Cluster {
        let mut compute = Compute::new(NodeConfig { overlay, enable_ipv6: true, ..config() });
        compute.interfaces([("eth1".into(), eth1())].into());
        for object in [
            with_ips("n1", 1, &["192.168.1.1", "fd00:1::1"]),
            with_ips("n2", 2, &["192.168.1.2", "fd00:1::2"]),
            with_ips("n3", 3, &["192.168.3.3", "fd00:3::3"]),
        ] {
            compute.handle(put(object));
        }
        let mut cluster = Cluster { compute };
        cluster.learn("11.0.2.0/24", &["192.168.1.2"]);
        cluster.learn("11.0.3.0/24", &["192.168.3.3"]);
        cluster.learn("fd00:11:2::/64", &["fd00:1::2"]);
        cluster.learn("fd00:11:3::/64", &["fd00:3::3"]);
        cluster.learn("10.9.0.0/16", &["192.168.9.9"]);
        cluster.compute.flush();
        cluster
    }

    fn learn(&mut self, prefix: &str, hops: &[&str]) {
        let next_hops = hops.iter().map(|hop| ip(hop)).collect();
        self.compute.learned(Learned { prefix: net(prefix), next_hops });
    }

    fn flush(&mut self) -> Changes {
        self.compute.flush()
    }

    /// Routes of ours in a table, as `ip route` says it.
    fn routes(&self, table: u32) -> BTreeMap<String, String> {
        let text = |value: &RouteValue| {
            let hop = |hop: &fairway_desired::NextHop| match (&hop.via, &hop.dev) {
                (Some(via), _) => format!("via {via}"),
                (None, dev) => format!("dev {}", dev.as_deref().unwrap_or("?")),
            };
            let hops: Vec<String> = value.next_hops.iter().map(hop).collect();
            let src = value.src.map(|src| format!(" src {src}")).unwrap_or_default();
            format!("{}{src}", hops.join(" "))
        };
        let routes = self.compute.desired().route;
        routes.iter().filter(|(key, _)| key.table == table).map(|(k, v)| (k.prefix.to_string(), text(v))).collect()
    }

    /// Tunnels and ports.
    fn links(&self) -> Vec<String> {
        let text = |(name, value): (&Arc<str>, &fairway_desired::LinkValue)| match &value.kind {
            LinkKind::Tunnel(Tunnel { local, remote, port }) => Some(format!("{name} {local} {remote} {port:?}")),
            LinkKind::ReceivePort { .. } => Some(name.to_string()),
            _ => None,
        };
        self.compute.desired().link.iter().filter_map(text).collect()
    }

    fn rules(&self) -> Vec<String> {
        let ours = self.compute.desired().rule;
        let ours = ours.iter().filter(|(_, value)| value.table == OVERLAY_TABLE);
        ours.filter_map(|(key, _)| Some(format!("{} {}", key.priority, key.from?))).collect()
    }
}

fn map<const N: usize>(pairs: [(&str, &str); N]) -> BTreeMap<String, String> {
    pairs.map(|(key, value)| (key.into(), value.into())).into()
}

const MAIN: u32 = 254;
const N3: &str = "tun-c0a80303";

fn name(remote: &str) -> String {
    Tunnel::name(ip(remote)).to_string()
}

#[test]
fn nodes_of_another_subnet_are_reached_through_a_tunnel() {
    let cluster = Cluster::new(Some(SUBNET));
    let six = name("fd00:3::3");
    let routes = map([
        ("11.0.2.0/24", "via 192.168.1.2"),
        ("11.0.3.0/24", "dev tun-c0a80303 src 192.168.1.1"),
        ("fd00:11:2::/64", "via fd00:1::2"),
        ("fd00:11:3::/64", &format!("dev {six} src fd00:1::1")),
    ]);
    assert_eq!(cluster.routes(MAIN), routes, "what a router that is no node announces is as without an overlay");
    assert_eq!(
        cluster.routes(OVERLAY_TABLE),
        map([("192.168.3.3/32", "dev tun-c0a80303"), ("fd00:3::3/128", &format!("dev {six}"))])
    );
    assert_eq!(cluster.rules(), ["32765 11.0.1.0/24", "32765 fd00:11:1::/64"]);
    let mut links = vec![format!("{N3} 192.168.1.1 192.168.3.3 None"), format!("{six} fd00:1::1 fd00:3::3 None")];
    links.sort();
    assert_eq!(cluster.links(), links);
}

#[test]
fn full_means_nodes_of_this_subnet_too_and_udp_needs_a_port() {
    let cluster = Cluster::new(Some(FULL));
    let routes = cluster.routes(MAIN);
    assert_eq!(routes["11.0.2.0/24"], "dev tun-c0a80102 src 192.168.1.1");
    assert!(!routes.contains_key("10.9.0.0/16"), "no node, no tunnel");
    assert_eq!(cluster.links().len(), 4);
    let cluster = Cluster::new(Some(UDP));
    let links = cluster.links();
    assert_eq!(links[..2], ["gue/5555/ipv4", "gue/5555/ipv6"], "before any tunnel");
    assert!(links.contains(&format!("{N3} 192.168.1.1 192.168.3.3 Some(5555)")), "{links:?}");
}

#[test]
fn without_an_overlay_there_is_nothing_of_it() {
    let cluster = Cluster::new(None);
    assert_eq!(cluster.routes(MAIN), map([("11.0.2.0/24", "via 192.168.1.2"), ("fd00:11:2::/64", "via fd00:1::2")]));
    assert!(cluster.links().is_empty() && cluster.rules().is_empty() && cluster.routes(OVERLAY_TABLE).is_empty());
}

#[test]
fn a_tunnel_lives_as_long_as_something_is_behind_it_and_costs_what_it_carries() {
    let mut cluster = Cluster::new(Some(SUBNET));
    for n in 0..100 {
        cluster.learn(&format!("11.1.{n}.0/24"), &["192.168.3.3"]);
    }
    let changes = cluster.flush();
    assert_eq!(
        (changes.rendered, changes.ops.link.len(), changes.ops.route.len()),
        (100, 0, 100),
        "one tunnel for all"
    );
    cluster.learn("11.0.3.0/24", &[]);
    assert_eq!(cluster.flush().ops.total(), 1);
    for n in 0..100 {
        cluster.learn(&format!("11.1.{n}.0/24"), &[]);
    }
    let changes = cluster.flush();
    assert_eq!(changes.ops.link, [Op::Del(N3.into())]);
    assert_eq!(changes.ops.route.len(), 101, "with the route of table 77");
    // Somebody else's change renders nothing here.
    cluster.learn("11.0.2.0/24", &[]);
    assert_eq!(cluster.flush().rendered, 1);
}

#[test]
fn only_nodes_are_ends_of_tunnels() {
    let mut cluster = Cluster::new(Some(SUBNET));
    cluster.compute.handle(Delta::Del(with_ips("n3", 3, &[]).key()));
    cluster.flush();
    assert!(cluster.links().is_empty());
    assert!(!cluster.routes(MAIN).contains_key("11.0.3.0/24"));
    // The next hop of what is known already is a node now; two nodes may even say so.
    cluster.compute.handle(put(with_ips("n8", 8, &["192.168.9.9"])));
    cluster.compute.handle(put(with_ips("n9", 9, &["192.168.9.9"])));
    cluster.flush();
    assert_eq!(cluster.routes(MAIN)["10.9.0.0/16"], "dev tun-c0a80909 src 192.168.1.1");
    cluster.compute.handle(Delta::Del(with_ips("n8", 8, &[]).key()));
    assert!(cluster.flush().ops.link.is_empty(), "n9 still has it");
    cluster.compute.handle(put(with_ips("n9", 9, &["192.168.9.8"])));
    cluster.flush();
    assert!(!cluster.routes(MAIN).contains_key("10.9.0.0/16"));
}

#[test]
fn an_address_of_ours_changes() {
    let mut cluster = Cluster::new(Some(SUBNET));
    let moved = Interface { addresses: vec![ip("192.168.1.7"), ip("fd00:1::1")], ..eth1() };
    let doubted = cluster.compute.interface(&"eth1".into(), Some(moved.clone()));
    let doubted: Vec<String> = doubted.iter().map(|key| key.prefix.to_string()).collect();
    assert_eq!(doubted, ["11.0.3.0/24"], "the kernel dropped the route with its source");
    cluster.compute.handle(put(with_ips("n1", 1, &["192.168.1.7", "fd00:1::1"])));
    cluster.flush();
    assert!(cluster.links().contains(&format!("{N3} 192.168.1.7 192.168.3.3 None")), "{:?}", cluster.links());
    assert_eq!(cluster.routes(MAIN)["11.0.3.0/24"], "dev tun-c0a80303 src 192.168.1.7");
    assert!(cluster.compute.interface(&"eth1".into(), Some(moved)).is_empty());
}

#[test]
fn a_subnet_that_comes_makes_a_tunnel_needless() {
    let mut cluster = Cluster::new(Some(SUBNET));
    let eth2 = interface("192.168.3.1/24", true, true);
    cluster.compute.interface(&"eth2".into(), Some(eth2));
    let changes = cluster.flush();
    assert_eq!(changes.ops.link, [Op::Del(N3.into())]);
    assert_eq!(cluster.routes(MAIN)["11.0.3.0/24"], "via 192.168.3.3");
    // Without carrier it is still in our subnet, and a tunnel would go the same way.
    cluster.compute.interface(&"eth2".into(), Some(interface("192.168.3.1/24", true, false)));
    cluster.flush();
    assert!(!cluster.routes(MAIN).contains_key("11.0.3.0/24") && !cluster.links().contains(&N3.to_string()));
}

#[test]
fn names_are_short_and_those_of_ipv4_never_meet() {
    // With kube-router both of the first two are tun-8305f44e90d.
    let all = ["192.168.12.1", "192.168.1.21", "10.1.1.11", "10.1.11.1", "10.11.1.1", "fd00::1", "fd00::2", "fd01::1"];
    let names: std::collections::BTreeSet<String> = all.iter().map(|text| name(text)).collect();
    assert_eq!(names.len(), all.len());
    assert!(names.iter().all(|name| name.len() <= 15 && Tunnel::may_be(name)), "{names:?}");
    assert_eq!(name("192.168.12.1"), "tun-c0a80c01");
    assert!(Tunnel::is_ours("tun-c0a80c01", ip("192.168.12.1")));
    assert!(!Tunnel::is_ours("tun-c0a80c01", ip("192.168.1.21")), "somebody else has this name");
    assert!(Tunnel::is_ours("tun-8305f44e90d", ip("192.168.1.21")), "kube-router's");
    for foreign in ["tun0", "tunl0", "tun-office", "tun-8305f44e90D", "kube-dummy-if"] {
        assert!(!Tunnel::is_ours(foreign, ip("192.168.1.21")) && !Tunnel::may_be(foreign));
    }
    assert!(!Tunnel::is_ours("tun-8305f44e90d", ip("0.0.0.0")), "it leads nowhere");
}

/// Two addresses of one hash, found by running the hash backwards.
const TWINS: [&str; 2] = ["fd00:9::1", "fd00:9::8977:a268:184:bd1e"];

#[test]
fn of_two_ipv6_nodes_with_one_name_the_lower_has_it() {
    assert_eq!(name(TWINS[0]), name(TWINS[1]));
    let tunnel = name(TWINS[0]);
    let mut cluster = Cluster::new(Some(SUBNET));
    cluster.compute.handle(put(with_ips("n8", 8, &[TWINS[0]])));
    cluster.compute.handle(put(with_ips("n9", 9, &[TWINS[1]])));
    cluster.learn("fd00:11:9::/64", &[TWINS[1]]);
    cluster.flush();
    assert_eq!(cluster.routes(MAIN)["fd00:11:9::/64"], format!("dev {tunnel} src fd00:1::1"));
    cluster.learn("fd00:11:8::/64", &[TWINS[0]]);
    let notices = cluster.flush().notices;
    assert!(format!("{notices:?}").contains(&format!("the tunnel to {} would have the name of that to", TWINS[1])));
    assert!(!cluster.routes(MAIN).contains_key("fd00:11:9::/64"), "better nowhere than to the wrong node");
    assert_eq!(cluster.routes(MAIN)["fd00:11:8::/64"], format!("dev {tunnel} src fd00:1::1"));
    assert!(cluster.links().contains(&format!("{tunnel} fd00:1::1 {} None", TWINS[0])));
    cluster.learn("fd00:11:8::/64", &[]);
    let notices = cluster.flush().notices;
    assert!(matches!(notices[..], [NoticeChange::Cleared(_)]), "{notices:?}");
    assert_eq!(cluster.routes(MAIN)["fd00:11:9::/64"], format!("dev {tunnel} src fd00:1::1"));
}

#[test]
fn ipv4_goes_through_ipv6_but_not_the_other_way() {
    let mut cluster = Cluster::new(Some(SUBNET));
    cluster.learn("11.0.30.0/24", &["fd00:3::3"]);
    cluster.learn("fd00:11:30::/64", &["192.168.3.3"]);
    cluster.flush();
    assert_eq!(cluster.routes(MAIN)["11.0.30.0/24"], format!("dev {} src 192.168.1.1", name("fd00:3::3")));
    assert!(!cluster.routes(MAIN).contains_key("fd00:11:30::/64"));
}
