//! Compute through its public behaviour: tables of what objects mean, and incremental equals from scratch.

mod build;
mod overlay;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use build::*;
use fairway_compute::{Changes, Compute, Desired, Ops, from_scratch};
use fairway_desired::{Interface, Learned, Op, Plane, RouteValue, Table, bgp, filter, ipvs};
use fairway_objects::{
    BfdConfig, BgpPeer, Delta, Kind, NodeConfig, Notice, NoticeChange, Object, ObjectKey, PeerOptions, Role,
    RouterConfig, RouterPeer, Scheduler, Service, TrafficPolicy,
};
use proptest::prelude::*;

fn feed(compute: &mut Compute, objects: impl IntoIterator<Item = Object>) -> Changes {
    for object in objects {
        compute.handle(put(object));
    }
    compute.flush()
}

fn computed(config: NodeConfig, objects: Vec<Object>) -> (Desired, BTreeSet<String>) {
    let mut compute = Compute::new(config);
    compute.handle(Delta::Listed(Kind::Node));
    let changes = feed(&mut compute, objects);
    let raised = changes.notices.into_iter().map(|n| match n {
        NoticeChange::Raised(n) => n.to_string(),
        NoticeChange::Cleared(n) => panic!("cleared what never stood: {n}"),
    });
    (compute.desired(), raised.collect())
}

/// Virtual servers and their real servers as short text.
fn servers(desired: &Desired) -> BTreeMap<String, Vec<String>> {
    let mut out: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for key in desired.ipvs.keys() {
        let server = match &key.server {
            ipvs::VirtualServerKey::Address { address, port, protocol } => format!("{address}:{port}/{protocol:?}"),
            ipvs::VirtualServerKey::Mark { mark, .. } => format!("fwmark {mark}"),
        };
        let reals = out.entry(server).or_default();
        reals.extend(key.real.iter().map(|r| format!("{}:{}", r.address, r.port)));
    }
    out
}

fn networks(desired: &Desired) -> BTreeSet<String> {
    desired.bgp.keys().filter_map(|k| if let bgp::Key::Network(n) = k { Some(n.to_string()) } else { None }).collect()
}

fn peers(desired: &Desired) -> BTreeSet<String> {
    let peer = |(k, v): (&bgp::Key, &bgp::Value)| match (k, v) {
        (bgp::Key::Peer(a), bgp::Value::Peer(p)) => Some(format!("{a} AS{}", p.asn)),
        _ => None,
    };
    desired.bgp.iter().filter_map(peer).collect()
}

fn elements(desired: &Desired, set: &str) -> usize {
    desired.filter.keys().filter(|k| matches!(k, filter::Key::Element(name, _) if &**name == set)).count()
}

#[test]
fn a_service_becomes_virtual_servers_addresses_and_announcements() {
    let (desired, notices) = computed(
        config(),
        vec![
            node("n1", 1),
            node("n2", 2),
            service("web", |s| s.external_ips = vec![ip("10.0.0.2")]),
            slice("web", &[("11.0.1.5", "n1", READY), ("11.0.2.5", "n2", READY), ("11.0.2.6", "n2", NOT_READY)]),
        ],
    );
    assert_eq!(notices, BTreeSet::new());
    let reals = vec!["11.0.1.5:8080".to_string(), "11.0.2.5:8080".into()];
    assert_eq!(
        servers(&desired),
        [("10.0.0.2:80/Tcp".to_string(), reals.clone()), ("12.0.0.1:80/Tcp".into(), reals)].into()
    );
    assert_eq!(networks(&desired), ["10.0.0.2/32", "11.0.1.0/24", "12.0.0.1/32"].map(String::from).into());
    assert_eq!(peers(&desired), ["192.168.1.2 AS65001", "192.168.1.201 AS65002"].map(String::from).into());
    let addresses: Vec<String> = desired.addr.keys().map(|k| format!("{} {}", k.address, k.link)).collect();
    assert_eq!(addresses, ["10.0.0.2/32 kube-dummy-if", "12.0.0.1/32 kube-dummy-if"]);
    for route in desired.route.values() {
        assert_eq!(route.src, Some(ip("192.168.1.1")), "local clients use the node's own address");
    }
    assert_eq!((elements(&desired, "services4"), elements(&desired, "service-ips4")), (2, 2));
}

#[test]
fn endpoints_follow_the_api_contract() {
    type Case = (&'static str, Vec<(&'static str, &'static str, Conditions)>, &'static [&'static str]);
    let cases: [Case; 4] = [
        ("only ready ones", vec![("11.0.1.5", "n1", READY), ("11.0.1.6", "n1", TERMINATING)], &["11.0.1.5:8080"]),
        ("terminating ones when none is ready", vec![("11.0.1.6", "n1", TERMINATING)], &["11.0.1.6:8080"]),
        ("never what is not ready", vec![("11.0.1.6", "n1", NOT_READY)], &[]),
        ("no other family", vec![("fd00::5", "n1", READY)], &[]),
    ];
    for (what, endpoints, expected) in cases {
        let (desired, _) = computed(config(), vec![node("n1", 1), service("web", |_| {}), slice("web", &endpoints)]);
        assert_eq!(servers(&desired)["12.0.0.1:80/Tcp"], expected, "{what}");
    }
}

#[test]
fn local_policies_keep_to_local_endpoints() {
    let objects = |external, internal, local| {
        vec![
            node("n1", 1),
            service("web", |s| {
                s.external_ips = vec![ip("10.0.0.2")];
                s.external_traffic_policy = external;
                s.internal_traffic_policy = internal;
                s.local = local;
            }),
            slice("web", &[("11.0.2.5", "n2", READY)]),
        ]
    };
    use TrafficPolicy::{Cluster, Local};
    for (external, internal, annotation, cluster_reals, external_reals) in [
        (Cluster, Cluster, false, 1, 1),
        (Local, Cluster, false, 1, 0),
        (Cluster, Local, false, 0, 1),
        (Cluster, Local, true, 1, 0),
    ] {
        let (desired, _) = computed(config(), objects(external, internal, annotation));
        let found = servers(&desired);
        let case = format!("external {external:?} internal {internal:?} annotation {annotation}");
        assert_eq!(found["12.0.0.1:80/Tcp"].len(), cluster_reals, "{case}");
        assert_eq!(found["10.0.0.2:80/Tcp"].len(), external_reals, "{case}");
        // What would find nobody is not announced.
        assert_eq!(networks(&desired).contains("10.0.0.2/32"), external_reals == 1, "{case}");
        assert_eq!(networks(&desired).contains("12.0.0.1/32"), cluster_reals == 1, "{case}");
    }
}

#[test]
fn what_is_refused_is_said_with_its_field_and_hides_nothing() {
    let external = |addresses: &[&str]| {
        let addresses: Vec<_> = addresses.iter().map(|a| ip(a)).collect();
        vec![node("n1", 1), service("web", move |s| s.external_ips = addresses)]
    };
    let (desired, notices) = computed(config(), external(&["172.16.0.1", "10.0.0.2", "12.0.0.77"]));
    assert!(servers(&desired).contains_key("10.0.0.2:80/Tcp"));
    assert_eq!(servers(&desired).len(), 2);
    let notices: Vec<String> = notices.into_iter().collect();
    assert_eq!(notices.len(), 2, "{notices:?}");
    assert!(notices[0].contains("Service default/web: spec.externalIPs[0]: 172.16.0.1 is outside"), "{notices:?}");
    assert!(notices[1].contains("spec.externalIPs[2]: 12.0.0.77 is inside --service-cluster-ip-range"), "{notices:?}");
    let unset = NodeConfig { service_external_ip_range: vec![], ..config() };
    let (desired, notices) = computed(unset, external(&["10.0.0.2"]));
    assert_eq!(servers(&desired).len(), 1);
    assert!(notices.iter().any(|n| n.contains("--service-external-ip-range is not set")), "{notices:?}");
    let off = NodeConfig { strict_external_ip_validation: false, ..config() };
    assert_eq!(servers(&computed(off, external(&["172.16.0.1"])).0).len(), 2);
}

#[test]
fn services_that_are_not_ours_are_left_alone() {
    let skips: [fn(&mut Service); 4] = [
        |s| s.foreign_proxy = true,
        |s| s.headless_label = true,
        |s| s.cluster_ips.clear(),
        |s| s.service_type = fairway_objects::ServiceType::ExternalName,
    ];
    for skip in skips {
        let (desired, _) = computed(config(), vec![node("n1", 1), service("web", skip)]);
        assert!(desired.ipvs.is_empty() && desired.addr.is_empty(), "{:?}", desired.ipvs);
        assert_eq!(networks(&desired), ["11.0.1.0/24".to_string()].into(), "not announced either");
    }
}

#[test]
fn the_older_of_two_claimants_has_the_address_and_the_other_takes_over() {
    let claim = |name: &str, created_s| {
        service(name, move |s| {
            s.created_s = created_s;
            s.cluster_ips = vec![ip(if created_s == 1 { "12.0.0.1" } else { "12.0.0.2" })];
            s.external_ips = vec![ip("10.0.0.2")];
            s.scheduler = if created_s == 1 { Scheduler::Lc } else { Scheduler::Sh };
        })
    };
    let mut compute = Compute::new(config());
    feed(&mut compute, [node("n1", 1), claim("late", 2), slice("late", &[("11.0.2.9", "n2", READY)])]);
    let changes = feed(&mut compute, [claim("early", 1), slice("early", &[("11.0.1.5", "n1", READY)])]);
    assert_eq!(servers(&compute.desired())["10.0.0.2:80/Tcp"], ["11.0.1.5:8080"]);
    let said: Vec<String> = changes.notices.iter().map(|n| format!("{n:?}")).collect();
    assert!(said.len() == 1 && said[0].contains("Raised") && said[0].contains("early"), "{said:?}");
    // More claims and changes of the loser do not disturb the winner.
    let changes = feed(&mut compute, [slice("late", &[("11.0.2.8", "n2", READY)])]);
    let touched = changes.ops.ipvs.iter().any(|op| format!("{op:?}").contains("10.0.0.2"));
    assert!(!touched, "{:?}", changes.ops.ipvs);
    compute.handle(Delta::Del(ObjectKey::new(Kind::Service, "default", "early")));
    let changes = compute.flush();
    assert_eq!(servers(&compute.desired())["10.0.0.2:80/Tcp"], ["11.0.2.8:8080"]);
    assert!(changes.notices.iter().any(|n| matches!(n, NoticeChange::Cleared(_))), "{:?}", changes.notices);
}

#[test]
fn one_endpoint_change_renders_one_unit_of_a_thousand_services() {
    let mut compute = Compute::new(config());
    let mut objects = vec![node("n1", 1)];
    for n in 0..1000u32 {
        let name = format!("svc-{n}");
        objects.push(service(&name, move |s| s.cluster_ips = vec![std::net::Ipv4Addr::from(0x0c00_1000 + n).into()]));
        objects.push(slice(&name, &[("11.0.1.5", "n1", READY)]));
    }
    let first = feed(&mut compute, objects);
    assert!(first.rendered >= 1000);
    let changes = feed(&mut compute, [slice("svc-500", &[("11.0.1.5", "n1", READY), ("11.0.2.5", "n2", READY)])]);
    assert_eq!((changes.rendered, changes.ops.total()), (1, 1), "{:?}", changes.ops);
    let same = feed(&mut compute, [slice("svc-500", &[("11.0.1.5", "n1", READY), ("11.0.2.5", "n2", READY)])]);
    assert_eq!((same.rendered, same.ops.total()), (0, 0), "an object that says nothing new costs nothing");
    let node_without_us = feed(&mut compute, [node("n2", 2)]);
    assert_eq!(node_without_us.rendered, 1, "another node concerns one session");
}

#[test]
fn direct_server_return_has_a_mark_and_no_address_on_the_node() {
    let objects = |change: fn(&mut Service)| {
        vec![
            node("n1", 1),
            node("n2", 2),
            service("web", |s| {
                s.external_ips = vec![ip("10.0.0.3")];
                s.dsr_tunnel = true;
                s.scheduler = Scheduler::Mh;
                s.sched_port = true;
                s.ports[0].port = 8080;
                change(s);
            }),
            slice("web", &[("11.0.1.5", "n1", READY), ("11.0.2.5", "n2", READY)]),
        ]
    };
    let (desired, notices) = computed(config(), objects(|_| {}));
    assert_eq!(notices, BTreeSet::new());
    let reals = vec!["11.0.1.5:8080".to_string(), "11.0.2.5:8080".into()];
    let all = servers(&desired);
    // FNV-1a of 10.0.0.3-tcp-8080 in 14 bits.
    assert_eq!(all.get("fwmark 5992"), Some(&reals), "{all:?}");
    assert!(!all.contains_key("10.0.0.3:8080/Tcp"), "{all:?}");
    let tunnels = desired.ipvs.iter().filter(|(key, value)| {
        let tunnel = matches!(value, ipvs::Value::Real(real) if real.forwarding == ipvs::Forwarding::Tunnel);
        tunnel && matches!(key.server, ipvs::VirtualServerKey::Mark { .. })
    });
    assert_eq!(tunnels.count(), 2);
    assert_eq!(desired.addr.keys().map(|k| k.address.to_string()).collect::<Vec<_>>(), ["12.0.0.1/32"]);
    let pods: Vec<String> = desired.pod.keys().map(|k| format!("{} in {}", k.address, k.pod)).collect();
    assert_eq!(pods, ["10.0.0.3 in 11.0.1.5"], "only the pod on this node");
    let rules: Vec<_> = desired.rule.iter().map(|(k, v)| (k.priority, k.mark, v.table)).collect();
    assert_eq!(rules, [(32764, Some(5992), 78)]);
    assert!(desired.route.keys().any(|k| k.table == 78 && k.prefix.prefix_len() == 0));
    assert_eq!((elements(&desired, "dsr4"), elements(&desired, "dsr-ips4")), (1, 1));
    assert_eq!(desired.sysctl.get("net/ipv4/vs/sloppy_tcp"), Some(&1));
    assert!(networks(&desired).contains("10.0.0.3/32"));
    // What a tunnel cannot do is done as ever, and said.
    let (desired, notices) = computed(config(), objects(|s| s.ports[0].port = 80));
    assert!(servers(&desired).contains_key("10.0.0.3:80/Tcp"));
    assert!(desired.pod.is_empty() && desired.rule.is_empty());
    assert!(notices.iter().any(|n| n.contains("a tunnel cannot change port 80 to 8080")), "{notices:?}");
}

#[test]
fn every_virtual_server_has_an_owner_that_can_be_named() {
    let mut compute = Compute::new(config());
    let dsr = service("dsr", |s| {
        (s.created_s, s.cluster_ips, s.external_ips) = (2, vec![ip("12.0.0.2")], vec![ip("10.0.0.3")]);
        s.dsr_tunnel = true;
        s.ports[0].port = 8080;
    });
    // Wants what the others have.
    let late = service("late", |s| (s.created_s, s.external_ips) = (3, vec![ip("10.0.0.3")]));
    feed(&mut compute, [node("n1", 1), service("web", |_| {}), dsr, slice("dsr", &[("11.0.1.5", "n1", READY)]), late]);
    let owned = |compute: &Compute| -> Vec<String> {
        compute.owned(None).map(|o| format!("{} {}:{} {:?}", o.service, o.address, o.port, o.protocol)).collect()
    };
    let wanted = [
        "default/late 10.0.0.3:80 Tcp",
        "default/dsr 10.0.0.3:8080 Tcp",
        "default/web 12.0.0.1:80 Tcp",
        "default/dsr 12.0.0.2:8080 Tcp",
        "default/dsr 10.0.0.3:8080 Tcp",
    ];
    assert_eq!(owned(&compute), wanted);
    // In pages, and as many as there are in the kernel or more.
    let mut paged = vec![];
    let mut after = None;
    loop {
        let Some(one) = compute.owned(after.as_ref()).next() else { break };
        after = Some(one.key.clone());
        paged.push(one);
    }
    assert_eq!(paged, compute.owned(None).collect::<Vec<_>>());
    let all: BTreeSet<_> = paged.into_iter().map(|owned| owned.key).collect();
    assert!(compute.desired().ipvs.keys().all(|key| all.contains(&key.server)));
    compute.handle(Delta::Del(service("dsr", |_| {}).key()));
    compute.handle(Delta::Del(service("web", |_| {}).key()));
    compute.flush();
    assert_eq!(owned(&compute), ["default/late 10.0.0.3:80 Tcp", "default/late 12.0.0.1:80 Tcp"]);
}

#[test]
fn node_ports_are_on_every_address_of_the_node_if_asked() {
    let with = |address: &str, more: &str| {
        let mut one = interface(address, true, true);
        one.addresses.push(ip(more));
        one
    };
    let objects = || {
        let ported = service("web", |s| s.ports[0].node_port = Some(30080));
        [node("n1", 1), ported, slice("web", &[("11.0.1.5", "n1", READY)])]
    };
    let ports = |compute: &Compute| -> Vec<String> {
        servers(&compute.desired()).into_keys().filter(|server| server.contains(":30080")).collect()
    };
    let mut compute = Compute::new(NodeConfig { node_port_on_all: true, ..config() });
    compute.handle(Delta::Listed(Kind::Node));
    let eth0 = with("192.168.1.1/24", "10.9.9.9");
    let named: [(&str, Interface); 4] = [
        ("eth0", eth0.clone()),
        ("lo", interface("127.0.0.1/8", true, true)),
        ("kube-bridge", interface("11.0.1.1/24", true, true)),
        ("eth1", with("169.254.1.1/16", "fd00::1")),
    ];
    compute.interfaces(named.into_iter().map(|(name, interface)| (name.into(), interface)).collect());
    feed(&mut compute, objects());
    assert_eq!(ports(&compute), ["10.9.9.9:30080/Tcp", "192.168.1.1:30080/Tcp"], "one family, no loopback, no bridge");
    // They come and go with the addresses, and nothing else is rendered for it.
    compute.interface(&"eth2".into(), Some(interface("10.8.8.8/24", true, true)));
    assert_eq!(compute.flush().rendered, 1);
    assert!(ports(&compute).contains(&"10.8.8.8:30080/Tcp".to_string()));
    compute.interface(&"eth2".into(), None);
    compute.flush();
    assert_eq!(ports(&compute).len(), 2);
    let mut compute = Compute::new(config());
    compute.handle(Delta::Listed(Kind::Node));
    compute.interfaces([("eth0".into(), eth0)].into());
    feed(&mut compute, objects());
    assert_eq!(ports(&compute), ["192.168.1.1:30080/Tcp"]);
}

#[test]
fn a_node_port_outside_the_range_is_said_if_there_is_one() {
    let said = |node_port_range| {
        let ported = service("web", |s| s.ports[0].node_port = Some(29999));
        let (desired, notices) = computed(NodeConfig { node_port_range, ..config() }, vec![node("n1", 1), ported]);
        assert!(servers(&desired).contains_key("192.168.1.1:29999/Tcp"), "it is served all the same");
        notices.into_iter().collect::<Vec<_>>()
    };
    assert_eq!(said(None), <[String; 0]>::default());
    assert_eq!(said(Some((29999, 30010))), <[String; 0]>::default());
    let notices = said(Some((30000, 30010)));
    assert!(notices.len() == 1 && notices[0].contains("spec.ports[0].nodePort"), "{notices:?}");
    assert!(notices[0].contains("29999 is outside --service-node-port-range 30000-30010"), "{notices:?}");
}

#[test]
fn timeouts_of_connections_are_parameters_if_they_are_given() {
    let timeouts = |config: NodeConfig| -> Vec<(String, i64)> {
        let (desired, _) = computed(config, vec![node("n1", 1)]);
        desired.sysctl.into_iter().filter(|(key, _)| key.contains("timeout")).map(|(k, v)| (k.to_string(), v)).collect()
    };
    assert_eq!(timeouts(config()), []);
    let given = NodeConfig { ipvs_timeouts_s: [600, 0, 30], ..config() };
    assert_eq!(timeouts(given.clone()), [("ipvs/timeout-tcp".into(), 600), ("ipvs/timeout-udp".into(), 30)]);
    assert_eq!(timeouts(NodeConfig { run_service_proxy: false, ..given }), []);
}

#[test]
fn health_checks_count_ready_endpoints_of_this_node() {
    let check = |s: &mut Service| {
        (s.external_traffic_policy, s.health_check_node_port) = (TrafficPolicy::Local, Some(31000));
    };
    let checks = |objects: Vec<Object>| {
        let mut compute = Compute::new(config());
        feed(&mut compute, objects);
        assert_eq!(compute.health_checks(), [], "not before all is known");
        Kind::ALL.into_iter().for_each(|kind| compute.handle(Delta::Listed(kind)));
        compute.flush();
        let all = compute.health_checks();
        all.iter().map(|c| format!("{} {} {}", c.port, c.service, c.local_endpoints)).collect::<Vec<_>>()
    };
    let endpoints = [
        ("11.0.1.5", "n1", READY),
        ("11.0.1.6", "n1", TERMINATING),
        ("11.0.1.7", "n1", NOT_READY),
        ("11.0.2.5", "n2", READY),
    ];
    let web = |change: fn(&mut Service)| vec![node("n1", 1), service("web", change), slice("web", &endpoints)];
    assert_eq!(checks(web(|_| {})), <[&str; 0]>::default());
    assert_eq!(checks(web(check)), ["31000 default/web 1"]);
    assert_eq!(checks(web(|s| s.health_check_node_port = Some(31000))), <[&str; 0]>::default());
    // The older of two has the port.
    let mut two = web(check);
    two.push(service("young", |s| {
        check(s);
        (s.created_s, s.cluster_ips) = (9, vec![ip("12.0.0.9")]);
    }));
    assert_eq!(checks(two), ["31000 default/web 1"]);
    // Each change has a new number, and nothing else has.
    let mut compute = Compute::new(config());
    feed(&mut compute, web(check));
    let version = compute.health_version();
    feed(&mut compute, [slice("web", &[("11.0.1.5", "n1", READY), ("11.0.2.5", "n2", READY)])]);
    assert_eq!(compute.health_version(), version);
    feed(&mut compute, [slice("web", &[])]);
    assert!(compute.health_version() > version);
    compute.handle(Delta::Del(service("web", |_| {}).key()));
    compute.flush();
    Kind::ALL.into_iter().for_each(|kind| compute.handle(Delta::Listed(kind)));
    assert_eq!(compute.health_checks(), []);
}

#[test]
fn nothing_may_be_deleted_before_every_kind_was_listed() {
    let mut compute = Compute::new(config());
    for kind in [Kind::Node, Kind::Service] {
        compute.handle(Delta::Listed(kind));
        assert!(!compute.synced());
    }
    compute.handle(Delta::Listed(Kind::EndpointSlice));
    assert!(compute.synced());
    assert!(Compute::new(router()).synced(), "a router waits for nobody");
}

#[test]
fn a_relist_sweeps_what_it_does_not_mention() {
    let mut compute = Compute::new(config());
    feed(&mut compute, [node("n1", 1), service("a", |_| {}), service("b", |s| s.cluster_ips = vec![ip("12.0.0.2")])]);
    compute.handle(Delta::Relist(Kind::Service));
    compute.handle(put(service("a", |_| {})));
    compute.handle(Delta::Listed(Kind::Service));
    compute.flush();
    assert_eq!(servers(&compute.desired()).into_keys().collect::<Vec<_>>(), ["12.0.0.1:80/Tcp"]);
}

#[test]
fn without_its_node_object_nothing_is_served_and_the_reason_is_said() {
    let (desired, notices) = computed(config(), vec![node("n2", 2), service("web", |_| {})]);
    assert!(desired.ipvs.is_empty() && networks(&desired).is_empty() && peers(&desired).is_empty());
    assert!(notices.len() == 1 && notices.iter().all(|n| n.starts_with("Node n1: ")), "{notices:?}");
}

#[test]
fn a_bad_peer_hides_no_other() {
    let mut bad = config();
    let mut own = bad.peers[0].clone();
    own.address = ip("192.168.1.1");
    let mut other_family = bad.peers[0].clone();
    other_family.address = ip("fd00::201");
    let twice = bad.peers[0].clone();
    bad.peers.extend([own, other_family, twice]);
    let (desired, notices) = computed(bad, vec![node("n1", 1)]);
    assert_eq!(peers(&desired), ["192.168.1.201 AS65002".to_string()].into());
    assert_eq!(notices.len(), 3, "{notices:?}");
}

#[test]
fn an_address_that_the_node_has_anyway_stays_the_nodes() {
    let off = NodeConfig { strict_external_ip_validation: false, ..config() };
    let (desired, _) = computed(
        off,
        vec![
            node("n1", 1),
            service("web", |s| s.external_ips = vec![ip("192.168.1.1")]),
            slice("web", &[("11.0.1.5", "n1", READY)]),
        ],
    );
    assert_eq!(servers(&desired)["192.168.1.1:80/Tcp"], ["11.0.1.5:8080"]);
    assert_eq!(elements(&desired, "service-ips4"), 1, "only the cluster IP: the node's other ports are no service");
    assert!(desired.addr.keys().all(|k| k.address.addr() != ip("192.168.1.1")));
    assert!(!networks(&desired).contains("192.168.1.1/32"));
}

#[test]
fn a_local_address_is_not_announced_for_a_port_that_another_service_has() {
    let late = service("late", |s| {
        s.created_s = 2;
        s.cluster_ips = vec![ip("12.0.0.2")];
        s.external_ips = vec![ip("10.0.0.2")];
        s.external_traffic_policy = TrafficPolicy::Local;
        s.hairpin = true;
    });
    let early = service("early", |s| {
        s.external_ips = vec![ip("10.0.0.2")];
        s.external_traffic_policy = TrafficPolicy::Local;
    });
    let lost = slice("late", &[("11.0.1.9", "n1", READY)]);
    let (desired, _) = computed(config(), vec![node("n1", 1), early, late, lost]);
    assert!(!networks(&desired).contains("10.0.0.2/32"), "{:?}", networks(&desired));
}

#[test]
fn addresses_of_a_family_that_is_off_are_skipped_without_a_word() {
    let (desired, notices) = computed(
        config(),
        vec![node("n1", 1), service("web", |s| s.external_ips = vec![ip("fd00::99"), ip("10.0.0.2")])],
    );
    assert_eq!((servers(&desired).len(), notices.len()), (2, 0), "{notices:?}");
}

#[test]
fn learned_routes_become_ecmp_routes_of_our_protocol() {
    let mut compute = Compute::new(router());
    compute.flush();
    let prefix = "10.0.0.2/32".parse().expect("a prefix");
    compute.learned(Learned { prefix, next_hops: vec![ip("192.168.1.2"), ip("192.168.1.1")] });
    let changes = compute.flush();
    let [Op::Put(key, value)] = &changes.ops.route[..] else { panic!("{:?}", changes.ops.route) };
    assert_eq!((key.prefix, value.protocol, value.next_hops.len()), (prefix, 17, 2));
    compute.learned(Learned { prefix, next_hops: vec![] });
    compute.learned(Learned { prefix, next_hops: vec![ip("192.168.1.1"), ip("192.168.1.2")] });
    assert!(compute.flush().ops.is_empty(), "a change that was undone is no change");
    compute.learned(Learned { prefix, next_hops: vec![] });
    assert_eq!(compute.flush().ops.route, [Op::Del(key.clone())]);
}

/// Destinations in the kernel with the last octets of their next hops.
fn routes(compute: &Compute) -> BTreeMap<String, Vec<String>> {
    let hops = |value: &RouteValue| value.next_hops.iter().filter_map(|hop| Some(hop.via?.to_string())).collect();
    compute.desired().route.iter().map(|(key, value)| (key.prefix.to_string(), hops(value))).collect()
}

fn learn(compute: &mut Compute, prefix: &str, hops: &[&str]) {
    let next_hops = hops.iter().map(|hop| ip(hop)).collect();
    compute.learned(Learned { prefix: prefix.parse().expect("a prefix"), next_hops });
}

#[test]
fn only_next_hops_on_a_link_that_works_get_into_the_kernel() {
    let mut compute = Compute::new(router());
    let (eth1, eth2): (Arc<str>, Arc<str>) = ("eth1".into(), "eth2".into());
    learn(&mut compute, "10.1.0.0/16", &["192.168.1.2", "192.168.2.2"]);
    learn(&mut compute, "10.2.0.0/16", &["192.168.1.2"]);
    learn(&mut compute, "10.3.0.0/16", &["172.16.0.1"]);
    learn(&mut compute, "fd00:1::/64", &["fd00::2", "fe80::2"]);
    compute.flush();
    assert_eq!(routes(&compute).len(), 4, "as long as nobody tells of interfaces");
    let six = Interface {
        addresses: vec![ip("fd00::1")],
        on_link: vec![net("fd00::/64")],
        ..interface("192.168.2.1/24", true, true)
    };
    compute.interfaces([(eth1.clone(), interface("192.168.1.1/24", true, true)), (eth2.clone(), six)].into());
    compute.flush();
    let all: BTreeMap<String, Vec<String>> = [
        ("10.1.0.0/16".into(), vec!["192.168.1.2".into()]),
        ("10.2.0.0/16".into(), vec!["192.168.1.2".into()]),
        ("fd00:1::/64".into(), vec!["fd00::2".into()]),
    ]
    .into();
    assert_eq!(routes(&compute), all, "not through a router, nor to a link-local address without its link");

    // ECMP grows and shrinks with its links, and only what depends on a link is rendered.
    compute.interface(&eth2, Some(interface("192.168.2.1/24", true, true)));
    assert_eq!(compute.flush().rendered, 2, "10.1.0.0/16 and fd00:1::/64");
    assert_eq!(routes(&compute)["10.1.0.0/16"], ["192.168.1.2", "192.168.2.2"]);
    let dropped = compute.interface(&eth2, Some(interface("192.168.2.1/24", true, false)));
    assert_eq!(dropped, [], "a kernel keeps routes when the carrier is lost");
    assert_eq!(compute.flush().rendered, 1);
    assert_eq!(routes(&compute)["10.1.0.0/16"], ["192.168.1.2"]);
    let dropped = compute.interface(&eth1, Some(interface("192.168.1.1/24", false, false)));
    let dropped: Vec<String> = dropped.iter().map(|key| key.prefix.to_string()).collect();
    assert_eq!(dropped, ["10.1.0.0/16", "10.2.0.0/16"]);
    assert_eq!(compute.on_link(), [(net("192.168.1.0/24"), false), (net("192.168.2.0/24"), false)]);
    assert_eq!(compute.flush().ops.route.len(), 2, "both are gone");
    assert!(routes(&compute).is_empty());
    compute.interface(&eth1, Some(interface("192.168.1.1/24", true, true)));
    compute.interface(&eth2, Some(interface("192.168.2.1/24", true, true)));
    compute.flush();
    assert_eq!(routes(&compute)["10.1.0.0/16"], ["192.168.1.2", "192.168.2.2"]);
    assert_eq!(routes(&compute)["10.2.0.0/16"], ["192.168.1.2"]);
}

#[test]
fn a_next_hop_that_is_our_own_address_is_none() {
    let mut compute = Compute::new(router());
    learn(&mut compute, "10.1.0.0/16", &["192.168.1.1", "192.168.1.2"]);
    compute.interface(&"eth1".into(), Some(interface("192.168.1.1/24", true, true)));
    compute.flush();
    assert_eq!(routes(&compute)["10.1.0.0/16"], ["192.168.1.2"]);
}

#[test]
fn whoever_was_on_a_link_that_is_down_is_nowhere_else() {
    let mut compute = Compute::new(router());
    let (eth1, eth2): (Arc<str>, Arc<str>) = ("eth1".into(), "eth2".into());
    let bare = |up| Interface { up, carrier: up, ..Interface::default() };
    compute.interface(&eth1, Some(interface("fd00::1/64", true, true)));
    // IPv6 takes the addresses of an interface that is set down away, in the same breath or later.
    compute.interface(&eth1, Some(bare(false)));
    assert_eq!(compute.on_link(), [(net("fd00::/64"), false)]);
    compute.interface(&eth1, Some(bare(false)));
    compute.interface(&eth1, None);
    assert_eq!(compute.on_link(), [(net("fd00::/64"), false)]);
    compute.interface(&eth2, Some(interface("fd00::7/64", true, true)));
    assert_eq!(compute.on_link(), [(net("fd00::/64"), false), (net("fd00::/64"), true)], "another link to the same");
    compute.interface(&eth2, None);
    compute.interface(&eth1, Some(bare(true)));
    assert_eq!(compute.on_link(), [], "it is up again, without the prefix");
}

#[test]
fn a_router_has_the_sessions_it_is_told_and_they_change_while_it_runs() {
    let config = router();
    let Role::Router(mut router) = config.role.clone() else { panic!("not a router") };
    let mut compute = Compute::new(config);
    let before = compute.flush();
    assert!(before.ops.bgp.len() > 3, "{:?}", before.ops.bgp);
    router.peers = vec![
        RouterPeer { address: ip("192.168.1.9"), asn: 65002, password: Some("secret".into()) },
        RouterPeer { address: ip("192.168.1.8"), asn: 65001, password: None },
    ];
    router.sessions.reflector = true;
    router.sessions.ipv6 = false;
    router.sessions.options = PeerOptions { passive: true, ttl_security: Some(1), ..PeerOptions::default() };
    router.import_reject = vec!["10.9.0.0/16".parse().expect("a prefix")];
    compute.set_router(router.clone());
    let changes = compute.flush();
    let desired = compute.desired().bgp;
    let peer = |address: &str| match desired.get(&bgp::Key::Peer(ip(address))) {
        Some(bgp::Value::Peer(peer)) => peer.clone(),
        other => panic!("{address}: {other:?}"),
    };
    let (own, other) = (peer("192.168.1.9"), peer("192.168.1.8"));
    assert_eq!((own.asn, own.password.as_deref(), own.passive), (65002, Some("secret"), true));
    assert_eq!(own.session.families, bgp::Families { v4: true, v6: false });
    assert_eq!(own.session.distance, bgp::Distance::Security(1));
    assert!(own.session.reflector_client && !other.session.reflector_client, "only its own AS is reflected to");
    let members =
        |op: &&Op<bgp::Bgp>| matches!(op, Op::Put(bgp::Key::PrefixMember(..), _) | Op::Del(bgp::Key::PrefixMember(..)));
    assert_eq!(changes.ops.bgp.iter().filter(members).count(), 2, "one prefix comes, one goes: {:?}", changes.ops.bgp);
    compute.set_router(router);
    assert!(compute.flush().ops.is_empty(), "nothing changed");
    // A node is none.
    let mut node = Compute::new(build::config());
    node.flush();
    node.set_router(RouterConfig {
        asn: 1,
        ..match build::router().role {
            Role::Router(r) => r,
            Role::Node => panic!(),
        }
    });
    assert!(node.flush().ops.is_empty());
}

#[test]
fn a_range_of_neighbours_is_external_and_nodes_inside_are_not() {
    let range = |range: &str| fairway_objects::BgpPeerRange {
        range: net(range),
        asn: 65_002,
        bfd: None,
        options: PeerOptions { hold_s: Some(9), passive: true, ..Default::default() },
    };
    let Object::Node(made) = node("n1", 1) else { unreachable!("a node") };
    let ranges = vec![range("192.168.1.0/24"), range("192.168.1.0/24"), range("fd00::/64")];
    let own = Object::Node(Arc::new(fairway_objects::Node { peer_ranges: ranges, ..(*made).clone() }));
    let annotated = NodeConfig { peers: vec![], ..config() };
    let (desired, notices) = computed(annotated, vec![own.clone(), node("n2", 2)]);
    assert_eq!(notices, ["Node n1: BGP peers 192.168.1.0/24: listed twice; the first entry counts".to_string()].into());
    for prefix in ["192.168.1.0/24", "fd00::/64"] {
        let Some(bgp::Value::Dynamic(dynamic)) = desired.bgp.get(&bgp::Key::Dynamic(net(prefix))) else {
            panic!("no {prefix}")
        };
        assert_eq!((dynamic.asns.as_slice(), dynamic.session.hold_s), (&[65_002][..], 9));
    }
    assert!(desired.bgp.contains_key(&bgp::Key::NeighborMember("externalpeerset".into(), net("192.168.1.0/24"))));
    // Node n2 is inside the range: own service addresses are kept from it before they are given to the range.
    let Some(bgp::Value::Policy(export)) = desired.bgp.get(&bgp::Key::Policy(bgp::Direction::Export)) else {
        panic!("no export policy")
    };
    let at = |name: &str| export.statements.iter().position(|s| &*s.name == name);
    let kept = at("servicevipsdefinedsetiBGPpeerset").expect("a statement");
    assert!(!export.statements[kept].accept && Some(kept) < at("servicevipsdefinedsetexternalpeerset"));
    let mut names: Vec<&str> = export.statements.iter().map(|s| &*s.name).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), export.statements.len(), "names are unique");
    // Flags and annotations are not mixed.
    let (desired, _) = computed(config(), vec![own]);
    assert!(!desired.bgp.keys().any(|key| matches!(key, bgp::Key::Dynamic(_))));
}

#[test]
fn nodes_that_cannot_talk_are_named() {
    let with = |name: &str, address: &str| {
        let Object::Node(made) = node(name, 2) else { unreachable!("a node") };
        Object::Node(Arc::new(fairway_objects::Node { internal_ips: vec![ip(address)], ..(*made).clone() }))
    };
    let objects = vec![node("n1", 1), with("n2", "fd00::2"), with("n3", "192.168.1.1"), with("n4", "192.168.1.4")];
    let (desired, notices) = computed(config(), objects);
    assert_eq!(peers(&desired), ["192.168.1.201 AS65002", "192.168.1.4 AS65001"].map(String::from).into());
    let notices: Vec<String> = notices.into_iter().collect();
    assert_eq!(
        notices,
        [
            "Node n2: status.addresses: fd00::2 is of another family than this node's 192.168.1.1; no BGP session with it",
            "Node n3: status.addresses: 192.168.1.1 is this node's own address, too; no BGP session with it",
        ]
    );
}

#[test]
fn policies_have_kube_routers_shape() {
    let (desired, _) = computed(NodeConfig { advertise_pod_cidr: false, ..config() }, vec![node("n1", 1)]);
    let Some(bgp::Value::Policy(export)) = desired.bgp.get(&bgp::Key::Policy(bgp::Direction::Export)) else {
        panic!("no export policy")
    };
    let names: BTreeSet<&str> = export.statements.iter().map(|s| &*s.name).collect();
    assert!(names.contains("podcidrdefinedsetiBGPpeerset"), "pods go to the mesh, whatever the flag says: {names:?}");
    assert!(names.contains("servicevipsdefinedsetexternalpeerset"), "{names:?}");
    assert!(!names.contains("podcidrdefinedsetexternalpeerset"), "{names:?}");
    assert!(!export.default_accept);
    let Some(bgp::Value::Policy(import)) = desired.bgp.get(&bgp::Key::Policy(bgp::Direction::Import)) else {
        panic!("no import policy")
    };
    assert!(import.default_accept && import.statements.iter().all(|s| !s.accept));
}

#[test]
fn bfd_of_peers_and_of_those_who_connect_to_a_router() {
    let wanted = bgp::Bfd { port: 3784, desired_min_tx_ms: 100, required_min_rx_ms: 200, multiplier: 4 };
    let bfd = Some(BfdConfig { port: 3784, desired_min_tx_ms: 100, required_min_rx_ms: 200, multiplier: 4 });
    let peers = vec![BgpPeer { bfd, ..BgpPeer::new(ip("192.168.1.201"), 65002) }];
    let (desired, _) = computed(NodeConfig { peers, ..config() }, vec![node("n1", 1), node("n2", 2)]);
    let of = |address: &str| match desired.bgp.get(&bgp::Key::Peer(ip(address))) {
        Some(bgp::Value::Peer(peer)) => peer.session.bfd,
        other => panic!("{other:?}"),
    };
    assert_eq!(of("192.168.1.201"), Some(wanted));
    assert_eq!(of("192.168.1.2"), None, "as in kube-router, nodes do not watch each other");
    let mut watching = router();
    let Role::Router(config) = &mut watching.role else { panic!("not a router") };
    config.sessions.bfd = bfd;
    config.peers = vec![RouterPeer { address: ip("192.168.1.7"), asn: 65007, password: None }];
    let (desired, _) = computed(watching, vec![]);
    let sessions = desired.bgp.values().filter_map(|value| match value {
        bgp::Value::Dynamic(dynamic) => Some(dynamic.session.bfd),
        bgp::Value::Peer(peer) => Some(peer.session.bfd),
        _ => None,
    });
    assert_eq!(sessions.collect::<Vec<_>>(), [Some(wanted), Some(wanted)]);
}

/// Applies ops to a table and checks that none is redundant.
fn apply<P: Plane>(table: &mut Table<P>, ops: Vec<Op<P>>) -> Result<(), TestCaseError> {
    for op in ops {
        match op {
            Op::Put(key, value) => {
                prop_assert!(table.get(&key) != Some(&value), "put of what is there: {key:?}");
                table.insert(key, value);
            }
            Op::Del(key) => prop_assert!(table.remove(&key).is_some(), "delete of nothing: {key:?}"),
        }
    }
    Ok(())
}

fn apply_all(desired: &mut Desired, ops: Ops) -> Result<(), TestCaseError> {
    apply(&mut desired.sysctl, ops.sysctl)?;
    apply(&mut desired.link, ops.link)?;
    apply(&mut desired.addr, ops.addr)?;
    apply(&mut desired.filter, ops.filter)?;
    apply(&mut desired.rule, ops.rule)?;
    apply(&mut desired.pod, ops.pod)?;
    apply(&mut desired.route, ops.route)?;
    apply(&mut desired.ipvs, ops.ipvs)?;
    apply(&mut desired.file, ops.file)?;
    apply(&mut desired.bgp, ops.bgp)
}

fn apply_notices(standing: &mut BTreeSet<Notice>, changes: Vec<NoticeChange>) -> Result<(), TestCaseError> {
    for change in changes {
        match change {
            NoticeChange::Raised(n) => prop_assert!(standing.insert(n.clone()), "raised twice: {n}"),
            NoticeChange::Cleared(n) => prop_assert!(standing.remove(&n), "cleared without standing: {n}"),
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    #[test]
    fn incremental_equals_from_scratch(
        steps in prop::collection::vec(step(), 1..60), mesh in any::<bool>(), overlay in some_overlay(),
    ) {
        let config = NodeConfig { nodes_full_mesh: mesh, hairpin_mode: mesh, node_port_on_all: mesh, enable_ipv6: true, overlay, ..config() };
        let mut compute = Compute::new(config.clone());
        let mut applied = Desired::default();
        let mut standing = BTreeSet::new();
        let mut model = Model::default();
        for step in steps {
            match step {
                Step::Flush => {
                    let changes = compute.flush();
                    apply_all(&mut applied, changes.ops)?;
                    apply_notices(&mut standing, changes.notices)?;
                }
                Step::Delta(delta) => {
                    model.handle(&delta);
                    compute.handle(delta);
                }
                Step::Learned(learned) => {
                    model.learned.insert(learned.prefix, learned.next_hops.clone());
                    compute.learned(learned);
                }
                Step::Interface(name, now) => {
                    let all = model.interfaces.get_or_insert_default();
                    match &now {
                        Some(now) => drop(all.insert(name.into(), now.clone())),
                        None => drop(all.remove(name)),
                    }
                    compute.interface(&name.into(), now);
                }
            }
        }
        // A list that never ended says nothing yet.
        for kind in Kind::ALL {
            model.handle(&Delta::Listed(kind));
            compute.handle(Delta::Listed(kind));
        }
        let changes = compute.flush();
        apply_all(&mut applied, changes.ops)?;
        apply_notices(&mut standing, changes.notices)?;
        let interfaces = model.interfaces.as_ref();
        let (desired, notices) =
            from_scratch(&config, model.objects.values().cloned(), model.learned.clone(), interfaces);
        prop_assert_eq!(&applied, &desired);
        prop_assert_eq!(&compute.desired(), &desired);
        prop_assert_eq!(&standing, &notices);
        prop_assert!(compute.flush().ops.is_empty());
        // Taking everything back leaves what an empty cluster has.
        for key in model.objects.into_keys() {
            compute.handle(Delta::Del(key));
        }
        for prefix in model.learned.into_keys() {
            compute.learned(Learned { prefix, next_hops: vec![] });
        }
        apply_all(&mut applied, compute.flush().ops)?;
        prop_assert_eq!(&applied, &from_scratch(&config, [], [], None).0);
    }
}
