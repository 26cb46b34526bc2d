//! Manifests as users write them, and what is said about mistakes in them.

use fairway_decode::{DecodeError, decode};
use fairway_objects::{Delta, Object, Protocol, Scheduler, Service, ServiceType, TrafficPolicy};
use proptest::prelude::*;
use serde_json::{Value, json};

fn read(value: &Value) -> (Object, Vec<String>) {
    match decode(value).expect("a watched object") {
        Delta::Put { object, notices } => (object, notices.iter().map(ToString::to_string).collect()),
        other => panic!("{other:?}"),
    }
}

fn invalid(value: &Value) -> String {
    match decode(value).expect("a watched object") {
        Delta::Invalid { notices, .. } => notices[0].to_string(),
        other => panic!("{other:?}"),
    }
}

fn service(change: impl FnOnce(&mut Value)) -> Value {
    let mut value = json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": "web", "namespace": "shop", "creationTimestamp": "2026-01-01T00:00:05Z"},
        "spec": {"clusterIP": "10.96.0.7", "clusterIPs": ["10.96.0.7"], "selector": {"app": "web"},
                 "ports": [{"name": "http", "port": 80, "targetPort": 8080}]},
    });
    change(&mut value);
    value
}

fn as_service(value: &Value) -> (Service, Vec<String>) {
    let (object, notices) = read(value);
    let Object::Service(service) = object else { panic!("{object:?}") };
    ((*service).clone(), notices)
}

#[test]
fn a_plain_service_has_the_defaults_of_the_api() {
    let (s, notices) = as_service(&service(|_| {}));
    assert_eq!(notices, Vec::<String>::new());
    assert_eq!((s.name.to_string().as_str(), s.created_s), ("shop/web", 1_767_225_605));
    assert_eq!((s.service_type, s.scheduler, s.session_affinity_s), (ServiceType::ClusterIp, Scheduler::Rr, None));
    assert_eq!(
        (s.internal_traffic_policy, s.external_traffic_policy),
        (TrafficPolicy::Cluster, TrafficPolicy::Cluster)
    );
    assert_eq!((s.ports[0].port, s.ports[0].protocol, s.ports[0].node_port), (80, Protocol::Tcp, None));
    assert_eq!(s.advertise.cluster_ip, None);
}

#[test]
fn a_mistake_in_one_field_is_said_with_its_path_and_the_rest_works() {
    type Case = (fn(&mut Value), &'static str);
    let cases: [Case; 12] = [
        (
            |v| v["spec"]["externalIPs"] = json!(["10.0.0.999", "10.0.0.2"]),
            "spec.externalIPs[0]: `10.0.0.999` is not an IP",
        ),
        (
            |v| v["metadata"]["annotations"] = json!({"kube-router.io/service.scheduler": "fastest"}),
            "metadata.annotations[kube-router.io/service.scheduler]: `fastest` is none of rr",
        ),
        (|v| v["metadata"]["annotations"] = json!({"kube-router.io/service.schedflags": "flag-1, flag-9"}), "`flag-9`"),
        (|v| v["metadata"]["annotations"] = json!({"kube-router.io/service.dsr": "yes"}), "`yes` is not `tunnel`"),
        (|v| v["metadata"]["annotations"] = json!({"kube-router.io/service.local": "True"}), "`True` is neither"),
        (
            |v| v["metadata"]["annotations"] = json!({"kube-router.io/service.advertise.clusterip": "on"}),
            "`on` is not a boolean",
        ),
        (|v| v["spec"]["ports"][0]["port"] = json!(70000), "spec.ports[0].port: 70000 is not a port"),
        (|v| v["spec"]["ports"][0]["protocol"] = json!("ICMP"), "spec.ports[0].protocol: `ICMP`"),
        (|v| v["spec"]["sessionAffinity"] = json!("Cookie"), "spec.sessionAffinity: `Cookie`"),
        (|v| v["spec"]["externalTrafficPolicy"] = json!("Near"), "spec.externalTrafficPolicy: `Near`"),
        (|v| v["spec"]["clusterIPs"] = json!(["10.96.0.7", "x"]), "spec.clusterIPs[1]: `x`"),
        (
            |v| v["status"] = json!({"loadBalancer": {"ingress": [{"ip": "1.2.3"}]}}),
            "status.loadBalancer.ingress[0].ip: `1.2.3`",
        ),
    ];
    for (change, expected) in cases {
        let (s, notices) = as_service(&service(change));
        assert_eq!(notices.len(), 1, "{expected}: {notices:?}");
        assert!(notices[0].starts_with("Service shop/web: ") && notices[0].contains(expected), "{notices:?}");
        assert_eq!(s.cluster_ips.len(), 1, "{expected}");
    }
}

#[test]
fn annotations_are_read_as_kube_router_reads_them() {
    let (s, notices) = as_service(&service(|v| {
        v["metadata"]["annotations"] = json!({
            "kube-router.io/service.scheduler": "mh", "kube-router.io/service.schedflags": "flag-1,flag-2",
            "kube-router.io/service.hairpin": "false", "kube-router.io/service.advertise.externalip": "F",
            "kube-router.io/service.advertise.clusterip": "1", "kube-router.io/service.skiplbips": "",
            "kube-router.io/service.dsr": "tunnel", "kube-router.io/service.local": "true"});
        v["metadata"]["labels"] = json!({"service.kubernetes.io/service-proxy-name": "other"});
        v["spec"]["sessionAffinity"] = json!("ClientIP");
    }));
    assert_eq!(notices, Vec::<String>::new());
    assert_eq!((s.scheduler, s.sched_fallback, s.sched_port), (Scheduler::Mh, true, true));
    assert!(s.hairpin && s.skip_lb_ips && s.dsr_tunnel && s.local && s.foreign_proxy);
    assert_eq!((s.advertise.cluster_ip, s.advertise.external_ip), (Some(true), Some(false)));
    assert_eq!(s.session_affinity_s, Some(10_800));
}

#[test]
fn a_structural_mistake_makes_the_object_absent_and_names_the_path() {
    let text = invalid(&service(|v| v["spec"]["ports"][0]["port"] = json!("lots")));
    assert!(text.starts_with("Service shop/web: spec.ports[0].port: "), "{text}");
    let text = invalid(&service(|v| v["spec"]["type"] = json!("Anycast")));
    assert!(text.contains("spec.type: `Anycast`"), "{text}");
}

fn slice(change: impl FnOnce(&mut Value)) -> Value {
    let mut value = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {"name": "web-1", "namespace": "shop", "labels": {"kubernetes.io/service-name": "web"}},
        "addressType": "IPv4", "ports": [{"name": "http", "port": 8080}],
        "endpoints": [
            {"addresses": ["10.1.0.5", "10.1.0.6"], "nodeName": "n1"},
            {"addresses": ["10.1.0.7"], "conditions": {"ready": false}},
            {"addresses": ["10.1.0.8"], "conditions": {"ready": false, "serving": true, "terminating": true}},
        ],
    });
    change(&mut value);
    value
}

#[test]
fn endpoint_conditions_follow_the_api_contract() {
    let (object, notices) = read(&slice(|_| {}));
    let Object::EndpointSlice(s) = object else { panic!("{object:?}") };
    assert_eq!(notices, Vec::<String>::new());
    let seen: Vec<_> = s.endpoints.iter().map(|e| (e.address.to_string(), e.ready, e.serving, e.terminating)).collect();
    assert_eq!(
        seen,
        [
            ("10.1.0.5".to_string(), true, true, false),
            ("10.1.0.7".into(), false, false, false),
            ("10.1.0.8".into(), false, true, true),
        ]
    );
    assert_eq!(s.endpoints[0].node.as_deref(), Some("n1"));
}

#[test]
fn slices_that_belong_to_nobody_or_have_no_family_are_invalid() {
    assert!(invalid(&slice(|v| v["metadata"]["labels"] = json!({}))).contains("kubernetes.io/service-name"));
    assert!(invalid(&slice(|v| v["addressType"] = json!("FQDN"))).contains("addressType: `FQDN`"));
    let (_, notices) = read(&slice(|v| v["ports"] = json!([{"name": "all"}])));
    assert!(notices[0].contains("ports[0].port: missing"), "{notices:?}");
}

fn node(annotations: Value) -> (fairway_objects::Node, Vec<String>) {
    let (object, notices) = read(&json!({
        "apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1", "annotations": annotations},
        "spec": {"podCIDR": "10.1.0.0/24", "podCIDRs": ["10.1.0.0/24", "fd00:1::/64"]},
        "status": {"addresses": [{"type": "Hostname", "address": "n1"}, {"type": "InternalIP", "address": "192.168.1.1"},
                                 {"type": "ExternalIP", "address": "1.2.3.4"}]},
    }));
    let Object::Node(node) = object else { panic!("{object:?}") };
    ((*node).clone(), notices)
}

#[test]
fn a_nodes_pod_cidrs_have_one_order_of_sources() {
    let cidrs = |annotations| node(annotations).0.pod_cidrs.iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(cidrs(json!({})), ["10.1.0.0/24", "fd00:1::/64"]);
    assert_eq!(cidrs(json!({"kube-router.io/pod-cidrs": "10.2.0.0/24, 10.3.0.0/24"})), ["10.2.0.0/24", "10.3.0.0/24"]);
    let both = json!({"kube-router.io/pod-cidrs": "10.2.0.0/24", "kube-router.io/pod-cidr": "10.4.0.0/24"});
    assert_eq!(cidrs(both), ["10.4.0.0/24"]);
}

#[test]
fn a_source_of_pod_cidrs_without_a_good_item_counts_as_absent() {
    let read_node = |annotations: Value, spec: Value| {
        let (object, notices) = read(&json!({
            "apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1", "annotations": annotations}, "spec": spec,
        }));
        let Object::Node(node) = object else { panic!("{object:?}") };
        (node.pod_cidrs.iter().map(ToString::to_string).collect::<Vec<_>>(), notices)
    };
    let (one, many) = ("kube-router.io/pod-cidr", "kube-router.io/pod-cidrs");
    let spec = json!({"podCIDR": "10.1.0.0/24", "podCIDRs": ["10.1.0.0/24", "fd00:1::/64"]});
    type Case<'a> = (Value, Value, &'a [&'a str], usize);
    let cases: [Case<'_>; 9] = [
        (json!({one: " 10.4.0.0/24 "}), spec.clone(), &["10.4.0.0/24"], 0),
        (json!({one: "10.4.0.0"}), spec.clone(), &["10.1.0.0/24", "fd00:1::/64"], 1),
        (json!({one: "", many: " , "}), spec.clone(), &["10.1.0.0/24", "fd00:1::/64"], 0),
        (json!({one: "bad", many: "10.5.0.0/24 ,worse, fd05::/64"}), spec.clone(), &["10.5.0.0/24", "fd05::/64"], 2),
        (json!({many: "10.5.0.7/24,10.5.0.9/24"}), spec, &["10.5.0.0/24"], 0),
        (json!({}), json!({"podCIDR": "10.1.0.0/24", "podCIDRs": ["nonsense"]}), &["10.1.0.0/24"], 1),
        (json!({}), json!({"podCIDR": " 10.1.0.0/24 ", "podCIDRs": [""]}), &["10.1.0.0/24"], 0),
        (json!({}), json!({"podCIDR": "10.1/24"}), &[], 1),
        (json!({}), json!({}), &[], 0),
    ];
    for (annotations, spec, wanted, mistakes) in cases {
        let (found, notices) = read_node(annotations.clone(), spec.clone());
        assert_eq!(found, wanted, "{annotations} {spec}");
        assert_eq!(notices.len(), mistakes, "{annotations} {spec}: {notices:?}");
    }
}

#[test]
fn bgp_annotations_of_a_node() {
    let (n, notices) = node(json!({
        "kube-router.io/node.asn": "0xfde9",
        "kube-router.io/node.bgp.communities": "65001:100,no-export, 42,65536:1",
        "kube-router.io/path-prepend.as": "65001", "kube-router.io/path-prepend.repeat-n": "3",
        "kube-router.io/node.bgp.customimportreject": "10.0.0.0/16, fd00::/8, nonsense",
        "kube-router.io/peers": "- {remoteip: 192.168.1.201, remoteasn: 65002, password: c2VjcmV0}\n- {remoteip: 192.168.1.202}\n",
    }));
    assert_eq!(n.asn, Some(65001));
    assert_eq!(n.communities, [65001 << 16 | 100, 0xffff_ff01, 42]);
    assert_eq!(n.path_prepend, Some((65001, 3)));
    assert_eq!(n.import_reject.len(), 2);
    assert_eq!(n.peers.len(), 1, "{:?}", n.peers);
    assert_eq!((n.peers[0].asn, n.peers[0].password.as_deref()), (65002, Some("secret")));
    assert_eq!(notices.len(), 3, "{notices:?}");
    for piece in ["`65536:1` is not a community", "`nonsense` is not a CIDR", "peers][1]: remoteasn is missing"] {
        assert!(notices.iter().any(|n| n.contains(piece)), "no {piece} in {notices:?}");
    }
}

#[test]
fn the_older_peer_lists_must_have_one_length() {
    let (n, notices) = node(json!({
        "kube-router.io/peer.ips": "192.168.1.201,192.168.1.202", "kube-router.io/peer.asns": "65002,65003",
        "kube-router.io/peer.ports": "179,1790"}));
    assert_eq!(notices, Vec::<String>::new());
    assert_eq!(n.peers.iter().map(|p| (p.asn, p.port)).collect::<Vec<_>>(), [(65002, 179), (65003, 1790)]);
    let (n, notices) =
        node(json!({"kube-router.io/peer.ips": "192.168.1.201", "kube-router.io/peer.asns": "65002,65003"}));
    assert!(n.peers.is_empty() && notices[0].contains("2 entries for 1 peers"), "{notices:?}");
}

/// What a node's BGP annotations come to, as short text.
fn bgp(n: &fairway_objects::Node) -> Vec<String> {
    let mut said = vec![];
    said.extend(n.asn.map(|asn| format!("as {asn}")));
    said.extend(n.reflector.map(|reflector| format!("{reflector:?}")));
    said.extend(n.path_prepend.map(|(asn, times)| format!("prepend {asn} x{times}")));
    said.extend(n.communities.iter().map(|c| format!("community {}:{}", c >> 16, c & 0xffff)));
    said.extend(n.large_communities.iter().map(|c| format!("large {}:{}:{}", c[0], c[1], c[2])));
    said.extend(n.ext_communities.iter().map(|c| format!("extended {c:02x?}")));
    said.extend(n.import_reject.iter().map(|net| format!("reject {net}")));
    said.extend(n.bgp_local_addresses.iter().map(|ip| format!("at {ip}")));
    said.extend(n.peers.iter().map(|p| {
        let mut text = format!("peer {} AS {}", p.address, p.asn);
        if p.port != 179 {
            text += &format!(" port {}", p.port);
        }
        text += &p.local.map(|l| format!(" from {l}")).unwrap_or_default();
        text += &p.password.as_ref().map(|p| format!(" password {p}")).unwrap_or_default();
        if p.options.passive {
            text += " passive";
        }
        text
    }));
    said.extend(n.peer_ranges.iter().map(|r| format!("peers {} AS {}", r.range, r.asn)));
    said
}

/// Line by line what kube-router's documentation and code say of the annotations on nodes: what is right, what is
/// wrong and how that is said. What is wrong hides nothing else.
#[test]
fn every_bgp_annotation_of_a_node() {
    type Case = (&'static [(&'static str, &'static str)], &'static [&'static str], &'static [&'static str]);
    let cases: &[Case] = &[
        // Numbers are Go's: decimal, hexadecimal, octal.
        (&[("node.asn", "64512")], &["as 64512"], &[]),
        (&[("node.asn", "4200000000")], &["as 4200000000"], &[]),
        (&[("node.asn", "0xfde8")], &["as 65000"], &[]),
        (&[("node.asn", "010")], &["as 8"], &[]),
        (&[("node.asn", "65001.1")], &[], &["[kube-router.io/node.asn]: `65001.1` is not a number"]),
        (&[("node.asn", "4294967296")], &[], &["node.asn]: `4294967296` is not a number of 32 bits"]),
        (&[("node.asn", "0")], &[], &["node.asn]: 0 is reserved"]),
        // Cluster ids: numbers and addresses. A server is no client.
        (&[("rr.server", "42")], &["Server(0.0.0.42)"], &[]),
        (&[("rr.server", "10.0.0.1")], &["Server(10.0.0.1)"], &[]),
        (&[("rr.client", "42")], &["Client(0.0.0.42)"], &[]),
        (&[("rr.client", "10.0.0.1"), ("rr.server", "10.0.0.2")], &["Server(10.0.0.2)"], &[]),
        (&[("rr.server", "fd00::1")], &[], &["rr.server]: `fd00::1` is no cluster id"]),
        (&[("rr.client", "0")], &[], &["rr.client]: `0` is no cluster id"]),
        (&[("path-prepend.as", "65001"), ("path-prepend.repeat-n", "5")], &["prepend 65001 x5"], &[]),
        (&[("path-prepend.as", "65001")], &[], &["path-prepend.as]: kube-router.io/path-prepend.repeat-n is missing"]),
        (&[("path-prepend.repeat-n", "5")], &[], &["repeat-n]: kube-router.io/path-prepend.as is missing"]),
        (&[("path-prepend.as", "65001"), ("path-prepend.repeat-n", "256")], &[], &["`256` is not a number of 1-255"]),
        (&[("path-prepend.as", "65001"), ("path-prepend.repeat-n", "0")], &[], &["`0` is not a number of 1-255"]),
        (&[("path-prepend.as", "0"), ("path-prepend.repeat-n", "1")], &[], &["path-prepend.as]: 0 is reserved"]),
        // Communities of all kinds; one that is wrong is left out.
        (
            &[("node.bgp.communities", "65001:100, no-export,4259840100,65001:1:2,rt:65001:7,oops")],
            &[
                "community 65001:100",
                "community 65535:65281",
                "community 65000:100",
                "large 65001:1:2",
                "extended [00, 02, fd, e9, 00, 00, 00, 07]",
            ],
            &["node.bgp.communities]: `oops` is not a community"],
        ),
        // Both families in one list; one bad entry costs itself only.
        (
            &[("node.bgp.customimportreject", "10.0.0.0/16, fd00::/8 ,10.0.0.0/33")],
            &["reject 10.0.0.0/16", "reject fd00::/8"],
            &["customimportreject]: `10.0.0.0/33` is not a CIDR"],
        ),
        (
            &[("bgp-local-addresses", "192.168.1.1, fd00::1,eth0")],
            &["at 192.168.1.1", "at fd00::1"],
            &["bgp-local-addresses]: `eth0` is not an IP address"],
        ),
        // The lists of the older form.
        (
            &[
                ("peer.ips", "192.168.1.201,fd00::201"),
                ("peer.asns", "65002,65003"),
                ("peer.ports", "179,1790"),
                ("peer.passwords", ",c2VjcmV0"),
                ("peer.localips", "192.168.1.1,"),
            ],
            &["peer 192.168.1.201 AS 65002 from 192.168.1.1", "peer fd00::201 AS 65003 port 1790 password secret"],
            &[],
        ),
        (
            &[("peer.ips", "192.168.1.201,192.168.1.202"), ("peer.asns", "65002,65003"), ("peer.ports", "179,")],
            &["peer 192.168.1.201 AS 65002"],
            &["peer.ips][1]: `` is not a port"],
        ),
        (&[("peer.ips", "192.168.1.201")], &[], &["peer.ips]: kube-router.io/peer.asns is missing; no peers"]),
        (&[("peer.asns", "65002")], &[], &["peer.asns]: kube-router.io/peer.ips is missing; no peers"]),
        (
            &[("peer.ips", "192.168.1.201"), ("peer.asns", "65002"), ("peer.localips", "a,b")],
            &[],
            &["peer.localips]: 2 entries for 1 peers; no peers"],
        ),
        (
            &[("peer.ips", "192.168.1.201,b"), ("peer.asns", "65002,65002"), ("peer.passwords", "%,")],
            &[],
            &["peer.ips][0]: the password is not base64", "peer.ips][1]: `b` is not an IP address"],
        ),
        // The newer form, which wins.
        (
            &[("peers", "[{remoteip: 192.168.1.201, remoteasn: 65002}]"), ("peer.ips", "b"), ("peer.asns", "c")],
            &["peer 192.168.1.201 AS 65002"],
            &[],
        ),
        (
            &[(
                "peers",
                "[{remoteip: 'fd00::201', remoteasn: 65002, localip: 'fd00::1', password: c2VjcmV0, port: 1790, passive: true}]",
            )],
            &["peer fd00::201 AS 65002 port 1790 from fd00::1 password secret passive"],
            &[],
        ),
        (&[("peers", "not: [a list")], &[], &["peers]: not a YAML list of peers"]),
        (
            &[("peers", "[{remoteip: a, remoteasn: 65002}, {remoteip: 192.168.1.202, remoteasn: 65002}]")],
            &["peer 192.168.1.202 AS 65002"],
            &["peers][0]: `a` is not an IP address"],
        ),
        (&[("peers", "[{remoteasn: 65002}]")], &[], &["peers][0]: remoteip is missing"]),
        (&[("peers", "[{remoteip: 192.168.1.201}]")], &[], &["peers][0]: remoteasn is missing"]),
        (&[("peers", "[{remoteip: 192.168.1.201, remoteasn: 64000}]")], &[], &["peers][0]: remoteasn is reserved"]),
        (&[("peers", "[{remoteip: 192.168.1.201, remoteasn: many}]")], &[], &["peers][0]: invalid type"]),
        (&[("peers", "[{remoteip: 192.168.1.201, remoteasn: 65002, port: 0}]")], &[], &["peers][0]: port is 1-65535"]),
        (
            &[("peers", "[{remoteip: 192.168.1.201, remoteasn: 65002, password: '%'}]")],
            &[],
            &["password is not base64"],
        ),
        (&[("peers", "[{remoteip: 192.168.1.201, remoteasn: 65002, holdtime: 2}]")], &[], &["holdtime is 0, or 3"]),
        (
            &[("peers", "[{remoteip: 192.168.1.201, remoteasn: 65002, multihopttl: 3, ttlsecurity: 2}]")],
            &[],
            &["multihopttl and ttlsecurity exclude each other"],
        ),
        // A range of neighbours that dial.
        (
            &[("peers", "[{remoteip: 192.168.1.0/24, remoteasn: 65002, holdtime: 9}]")],
            &["peers 192.168.1.0/24 AS 65002"],
            &[],
        ),
        (
            &[("peers", "[{remoteip: 'fd00::5/64', remoteasn: 65002, password: c2VjcmV0}]")],
            &["peers fd00::/64 AS 65002"],
            &["peers][0]: password has no meaning for a range"],
        ),
        (
            &[("peers", "[{remoteip: 192.168.1.0/33, remoteasn: 65002}]")],
            &[],
            &["peers][0]: `192.168.1.0/33` is not an IP address or prefix"],
        ),
        // A key that is misspelt is said, and the peer stays.
        (
            &[("peers", "[{remoteip: 192.168.1.201, remoteasn: 65002, holdTime: 9, bfd: {enable: true}}]")],
            &["peer 192.168.1.201 AS 65002"],
            &["peers][0]: there is no key `holdTime`; ignored", "there is no key `bfd.enable`; ignored"],
        ),
    ];
    for (annotations, expected, complaints) in cases {
        let all: serde_json::Map<String, Value> =
            annotations.iter().map(|(name, value)| (format!("kube-router.io/{name}"), json!(value))).collect();
        let (n, notices) = node(all.into());
        assert_eq!(bgp(&n), *expected, "{annotations:?}: {notices:?}");
        assert_eq!(notices.len(), complaints.len(), "{annotations:?}: {notices:?}");
        for complaint in *complaints {
            let said =
                |notice: &String| notice.starts_with("Node n1: metadata.annotations[") && notice.contains(complaint);
            assert!(notices.iter().any(said), "{annotations:?}: no {complaint} in {notices:?}");
        }
    }
}

#[test]
fn what_is_no_watched_object_is_an_error_of_its_own() {
    assert_eq!(decode(&json!([])), Err(DecodeError::NotAnObject));
    let other = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "x"}});
    assert_eq!(decode(&other), Err(DecodeError::UnwatchedKind("ConfigMap".into())));
    assert!(matches!(decode(&json!({"apiVersion": "v1", "kind": "Pod"})), Err(DecodeError::NoName(_))));
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        "[a-z0-9.:/,=-]{0,12}".prop_map(Value::from),
        prop::sample::select(vec!["10.0.0.1", "fd00::1", "10.0.0.0/8", "TCP", "Local", "ClientIP", "IPv6"])
            .prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 24, 4, |inner| {
        let keys = vec![
            "addresses",
            "conditions",
            "ready",
            "port",
            "ports",
            "ip",
            "ingress",
            "name",
            "type",
            "timeoutSeconds",
        ];
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::vec((prop::sample::select(keys), inner), 0..4)
                .prop_map(|m| Value::Object(m.into_iter().map(|(k, v)| (k.to_string(), v)).collect())),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn whatever_stands_in_a_field_there_is_an_answer(
        what in 0usize..3,
        path in prop::sample::select(vec![
            "/spec", "/spec/ports", "/spec/ports/0", "/spec/ports/0/port", "/spec/clusterIPs", "/spec/externalIPs",
            "/spec/sessionAffinityConfig", "/status", "/status/loadBalancer", "/metadata/annotations", "/metadata/labels",
            "/endpoints", "/endpoints/0", "/endpoints/0/addresses", "/endpoints/0/conditions", "/ports", "/addressType",
        ]),
        junk in any_json(),
        words in prop::collection::btree_map(
            prop::sample::select(vec!["service.scheduler", "service.schedflags", "node.asn", "peers", "peer.ips", "peer.asns",
                "peer.passwords", "node.bgp.communities", "path-prepend.as", "path-prepend.repeat-n", "pod-cidrs"]),
            "[ -~]{0,16}", 0..4),
    ) {
        let mut value = match what {
            0 => service(|v| v["status"] = json!({"loadBalancer": {}})),
            1 => slice(|_| {}),
            _ => json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n"}, "spec": {}, "status": {}}),
        };
        value["metadata"]["annotations"] =
            Value::Object(words.into_iter().map(|(k, v)| (format!("kube-router.io/{k}"), v.into())).collect());
        if let Some(field) = value.pointer_mut(path) {
            *field = junk;
        }
        // A name that is junk is the only error left.
        match decode(&value) {
            Ok(Delta::Put { object, notices }) => {
                for notice in &notices {
                    prop_assert!(!notice.reason.is_empty() && !notice.field.is_empty(), "{}: {notice:?}", object.key());
                }
            }
            Ok(Delta::Invalid { notices, .. }) => prop_assert!(!notices.is_empty()),
            other => prop_assert!(false, "{other:?}"),
        }
    }

    #[test]
    fn arbitrary_json_never_panics(value in any_json()) {
        prop_assert!(decode(&value).is_err());
    }
}
