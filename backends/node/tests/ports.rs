//! What a running node says at its ports: a scrape with services, traffic and a neighbour, read by the parser of
//! Prometheus' own Python client, and the health checks of services. On a real IPVS, so mostly in a guest; where that or
//! the parser is missing the test says so and passes.
#![allow(clippy::unwrap_used, reason = "a test may fail")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::process::{Command as Program, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use fairway_agent::Input;
use fairway_backend_ipvs::{IpvsBackend, Timeouts};
use fairway_backend_route::setup::Setup;
use fairway_node::{Command, Node, RealKernel, Start};
use fairway_objects::{BgpPeer, Delta, Kind, NodeConfig, NoticeChange};
use nix::sched::{CloneFlags, setns, unshare};
use serde_json::{Value, json};

const LIMIT: Duration = Duration::from_secs(20);
const PYTHON: &str = "/usr/bin/python3";
const METRICS: u16 = 8080;
const HEALTH: u16 = 20244;
/// Port of a `Local` service's health check, and one that somebody else has at first.
const CHECKS: [u16; 2] = [31000, 31001];

/// Reads a scrape from its input and writes each sample as a line of JSON.
const PARSER: &str = r#"
import json, sys
from prometheus_client.parser import text_string_to_metric_families
for family in text_string_to_metric_families(sys.stdin.read()):
    for s in family.samples:
        print(json.dumps({"family": family.name, "type": family.type, "help": family.documentation,
                          "name": s.name, "labels": s.labels, "value": str(s.value)}))
"#;

#[derive(Debug)]
struct Sample {
    kind: String,
    labels: BTreeMap<String, String>,
    value: f64,
}

/// A scrape, as Prometheus understands it: samples by their names.
fn parse(text: &str) -> BTreeMap<String, Vec<Sample>> {
    let mut program = Program::new(PYTHON);
    let mut child = program
        .args(["-c", PARSER])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let input = text.to_string();
    let writer = std::thread::spawn(move || stdin.write_all(input.as_bytes()));
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap().unwrap();
    assert!(output.status.success(), "{}\n{text}", String::from_utf8_lossy(&output.stderr));
    let mut samples: BTreeMap<String, Vec<Sample>> = BTreeMap::new();
    for line in String::from_utf8(output.stdout).unwrap().lines() {
        let value: Value = serde_json::from_str(line).unwrap();
        assert_ne!(value["help"], "", "{line}");
        let labels = value["labels"].as_object().unwrap();
        samples.entry(value["name"].as_str().unwrap().into()).or_default().push(Sample {
            kind: value["type"].as_str().unwrap().into(),
            labels: labels.iter().map(|(k, v)| (k.clone(), v.as_str().unwrap().into())).collect(),
            value: value["value"].as_str().unwrap().parse().unwrap(),
        });
    }
    samples
}

/// Gets a page and returns status, head and body.
fn get(port: u16, path: &str) -> Option<(u16, String, String)> {
    let address = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port);
    let mut stream = TcpStream::connect_timeout(&address, LIMIT).ok()?;
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n").ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    let (head, body) = text.split_once("\r\n\r\n")?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    Some((status, head.to_ascii_lowercase(), body.to_string()))
}

fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let limit = Instant::now() + LIMIT;
    while !holds() {
        assert!(Instant::now() < limit, "never {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn node_object() -> Value {
    json!({
        "apiVersion": "v1", "kind": "Node", "metadata": {"name": "node"},
        "spec": {"podCIDR": "10.1.1.0/24", "podCIDRs": ["10.1.1.0/24"]},
        "status": {"addresses": [{"type": "InternalIP", "address": "192.168.0.1"}]},
    })
}

fn service(name: &str, address: &str, change: Value) -> Value {
    let mut service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": "shop"},
        "spec": {"type": "ClusterIP", "clusterIP": address, "clusterIPs": [address], "ports": [{"port": 5001}]},
    });
    for (field, value) in change.as_object().unwrap() {
        match field.as_str() {
            "annotations" => service["metadata"]["annotations"] = value.clone(),
            field => service["spec"][field] = value.clone(),
        }
    }
    service
}

fn slice(name: &str, endpoints: &[&str]) -> Value {
    let endpoints: Vec<Value> = endpoints
        .iter()
        .map(|address| json!({"addresses": [address], "conditions": {"ready": true}, "nodeName": "node"}))
        .collect();
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {
            "name": format!("{name}-1"), "namespace": "shop", "labels": {"kubernetes.io/service-name": name},
        },
        "endpoints": endpoints, "ports": [{"name": "", "protocol": "TCP", "port": 5001}],
    })
}

fn tell(node: &Node, delta: Delta) {
    node.send(Command::Input(Input::Delta(delta))).unwrap();
}

fn put(node: &Node, object: &Value) {
    tell(node, fairway_decode::decode(object).unwrap());
}

/// Why the test cannot run here.
fn missing() -> Option<String> {
    unshare(CloneFlags::CLONE_NEWNET).map_err(|error| format!("no network namespace: {error}")).err().or_else(|| {
        let parser = Program::new(PYTHON).args(["-c", "import prometheus_client"]).stderr(Stdio::null()).status();
        let config = NodeConfig::new("node");
        if !parser.is_ok_and(|status| status.success()) {
            Some("no parser: Debian's python3-prometheus-client".into())
        } else if let Err(error) = RealKernel::open(&config) {
            Some(error.to_string())
        } else {
            IpvsBackend::new().unwrap().traffic().err().map(|fault| format!("IPVS: {fault:?}"))
        }
    })
}

#[test]
fn a_scrape_has_services_and_neighbours_and_health_checks_are_answered() {
    // In a thread of its own, whose namespace goes with it.
    std::thread::spawn(|| match missing() {
        Some(reason) => println!("skipped: {reason}"),
        None => play(),
    })
    .join()
    .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
}

fn play() {
    let space = File::open("/proc/thread-self/ns/net").unwrap();
    let mut setup = Setup::new().unwrap();
    setup.set_up("lo", true).unwrap();
    setup.add_bridge("eth0").unwrap();
    setup.set_up("eth0", true).unwrap();
    setup.add_address("eth0", "192.168.0.1/24".parse().unwrap()).unwrap();
    let taken = TcpListener::bind(("::", CHECKS[1])).unwrap();
    let notices: Arc<Mutex<BTreeSet<String>>> = Arc::default();
    let standing = Arc::clone(&notices);
    let config = NodeConfig {
        cluster_asn: Some(65001),
        advertise_cluster_ip: true,
        strict_external_ip_validation: false,
        ipvs_timeouts_s: [777, 0, 55],
        peers: vec![BgpPeer::new(IpAddr::V4(Ipv4Addr::new(192, 168, 0, 9)), 65009)],
        health: Some(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), HEALTH)),
        metrics: Some((SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), METRICS), "/metrics".into())),
        ..NodeConfig::new("node")
    };
    let node = Node::start(Start {
        config,
        seed: 1,
        epoch: Instant::now(),
        enter: Box::new(move || Ok(setns(space.as_fd(), CloneFlags::CLONE_NEWNET)?)),
        open: Box::new(|config| RealKernel::open(config).map_err(|error| error.to_string())),
        notices: Box::new(move |change| {
            let mut standing = standing.lock().unwrap();
            match change {
                NoticeChange::Raised(notice) => standing.insert(notice.to_string()),
                NoticeChange::Cleared(notice) => standing.remove(&notice.to_string()),
            };
        }),
        events: Box::new(|_| {}),
    })
    .unwrap();
    let notice = |text: &str| notices.lock().unwrap().iter().any(|notice| notice.contains(text));
    let local = |name: &str, port: u16| {
        json!({
            "type": "LoadBalancer", "externalTrafficPolicy": "Local", "healthCheckNodePort": port,
            "ports": [{"port": 5001, "nodePort": port + 100}], "name": name,
        })
    };
    let dsr = json!({"externalIPs": ["10.0.0.9"], "annotations": {"kube-router.io/service.dsr": "tunnel"}});
    let objects = [
        node_object(),
        service("web", "10.96.0.10", json!({})),
        slice("web", &["192.168.0.1"]),
        service("front", "10.96.0.20", local("front", CHECKS[0])),
        slice("front", &["192.168.0.1", "10.1.1.8"]),
        service("other", "10.96.0.30", local("other", CHECKS[1])),
        service("direct", "10.96.0.40", dsr),
        slice("direct", &["10.1.1.9"]),
    ];
    // Nobody answers for services before all of them are known.
    assert_eq!(get(CHECKS[0], "/"), None);
    // Alive, and not ready.
    assert_eq!(get(HEALTH, "/healthz").map(|(status, _, body)| (status, body)), Some((200, "OK\n".into())));
    let (status, _, body) = get(HEALTH, "/readyz").unwrap();
    assert_eq!((status, body.as_str()), (503, "not every kind of object was listed yet\n"));
    for kind in Kind::ALL {
        tell(&node, Delta::Relist(kind));
    }
    objects.iter().for_each(|object| put(&node, object));
    for kind in Kind::ALL {
        tell(&node, Delta::Listed(kind));
    }
    let has = |text: &str| get(METRICS, "/metrics").is_some_and(|(_, _, body)| body.contains(text));
    until("in sync", || has("kube_router_plane_pending_ops{plane=\"ipvs\"} 0") && has("service_name=\"web\""));

    let Timeouts { tcp_s, tcp_fin_s, udp_s } = IpvsBackend::new().unwrap().timeouts().unwrap();
    assert_eq!((tcp_s, tcp_fin_s, udp_s), (777, 120, 55), "the second is the kernel's own");

    // One plane does not work here: there is no container runtime that knows the pod of the service with a tunnel.
    let (status, _, body) = get(HEALTH, "/readyz").unwrap();
    assert!(status == 503 && body.starts_with("plane pod: not supported: direct server return: "), "{body}");

    // Traffic: ten connections, each with an answer.
    let server = TcpListener::bind(("192.168.0.1", 5001)).unwrap();
    for _ in 0..10 {
        let mut client = TcpStream::connect(("10.96.0.10", 5001)).unwrap();
        let (mut accepted, _) = server.accept().unwrap();
        accepted.write_all(b"answer").unwrap();
        drop(accepted);
        let mut text = String::new();
        client.read_to_string(&mut text).unwrap();
        assert_eq!(text, "answer");
    }
    // A change of an endpoint, from the watch to the kernel: one real server by address and one by mark.
    put(&node, &slice("direct", &["10.1.1.9", "10.1.1.10"]));
    until("the change is in the kernel", || has("kube_router_plane_programming_seconds_count{plane=\"ipvs\"} 2"));

    // The kernel adds its counters up every two seconds.
    let counted = "kube_router_service_total_connections{svc_namespace=\"shop\",service_name=\"web\",\
                   service_vip=\"10.96.0.10\",protocol=\"tcp\",port=\"5001\"} 10\n";
    until("counted", || has(counted));

    let (status, head, body) = get(METRICS, "/metrics").unwrap();
    assert!(status == 200 && head.contains("content-type: text/plain; version=0.0.4"), "{head}");
    let samples = parse(&body);
    let of = |name: &str, labels: &[(&str, &str)]| {
        let fits = |s: &&Sample| labels.iter().all(|(key, value)| s.labels.get(*key).is_some_and(|v| v == value));
        assert!(body.lines().any(|line| line.starts_with(name)), "no {name}");
        // The parser calls every counter as OpenMetrics would.
        let all = samples.get(name).or_else(|| samples.get(&format!("{name}_total")));
        let found: Vec<&Sample> = all.into_iter().flatten().filter(fits).collect();
        assert_eq!(found.len(), 1, "{name} {labels:?}: {found:?}\n{body}");
        (found[0].kind.clone(), found[0].value)
    };
    let web = [
        ("svc_namespace", "shop"),
        ("service_name", "web"),
        ("service_vip", "10.96.0.10"),
        ("protocol", "tcp"),
        ("port", "5001"),
    ];
    assert_eq!(of("kube_router_service_total_connections", &web), ("counter".into(), 10.0), "{body}");
    for (name, at_least) in [("packets_in", 30.0), ("packets_out", 20.0), ("bytes_in", 1500.0), ("bytes_out", 1000.0)] {
        let (kind, value) = of(&format!("kube_router_service_{name}"), &web);
        assert!(kind == "counter" && value >= at_least, "{name} {kind} {value}");
    }
    for name in ["cps", "pps_in", "pps_out", "bps_in", "bps_out"] {
        assert_eq!(of(&format!("kube_router_service_{name}"), &web).0, "gauge");
    }
    // By firewall mark, and by node port.
    of("kube_router_service_total_connections", &[("service_name", "direct"), ("service_vip", "10.0.0.9")]);
    of(
        "kube_router_service_total_connections",
        &[("service_name", "front"), ("service_vip", "192.168.0.1"), ("port", "31100")],
    );
    assert_eq!(of("kube_router_controller_ipvs_services", &[]), ("gauge".into(), 7.0), "{body}");
    for (name, labels) in [
        ("controller_ipvs_services_sync_time_count", &[][..]),
        ("controller_ipvs_metrics_export_time_count", &[]),
        ("host_routes_sync_time_count", &[]),
        ("controller_routes_sync_time_count", &[]),
        ("controller_bgp_internal_peers_sync_time_count", &[]),
        ("plane_programming_seconds_count", &[("plane", "ipvs")]),
        ("plane_programming_seconds_count", &[("plane", "pod")]),
    ] {
        let (kind, value) = of(&format!("kube_router_{name}"), labels);
        let at_least = if labels.contains(&("plane", "pod")) { 0.0 } else { 1.0 };
        assert!(kind == "histogram" && value >= at_least, "{name} {kind} {value}\n{body}");
    }
    let bounds: Vec<&str> =
        samples["kube_router_controller_ipvs_services_sync_time_bucket"].iter().map(|s| &*s.labels["le"]).collect();
    assert_eq!(bounds, ["0.005", "0.01", "0.025", "0.05", "0.1", "0.25", "0.5", "1", "2.5", "5", "10", "+Inf"]);
    let peer = [("address", "192.168.0.9"), ("asn", "65009"), ("type", "external")];
    assert_eq!(of("kube_router_bgp_peer_info", &peer), ("gauge".into(), 1.0));
    for (kind, count) in [("advertise-vip", 4.0), ("withdraw-vip", 0.0), ("pod-route", 1.0)] {
        let sent = of("kube_router_controller_bgp_advertisements_sent", &[("type", kind)]);
        assert_eq!(sent, ("counter".into(), count), "{kind}");
    }
    for (name, kind) in [
        ("build_info", "gauge"),
        ("host_routes_synced", "gauge"),
        ("host_routes_added", "counter"),
        ("host_routes_removed", "counter"),
        ("controller_bgp_advertisements_received", "counter"),
    ] {
        assert_eq!(of(&format!("kube_router_{name}"), &[]).0, kind, "{name}");
    }
    for name in ["pending_ops", "parked_keys", "failures_total", "last_success_timestamp_seconds"] {
        of(&format!("kube_router_plane_{name}"), &[("plane", "ipvs")]);
    }
    assert!(of("process_resident_memory_bytes", &[]).1 > 1e6 && of("process_cpu_seconds_total", &[]).1 >= 0.0);

    // Health checks: two endpoints, on any path; none of a service without; a port that is taken is said and tried again.
    until("an answer", || get(CHECKS[0], "/").is_some());
    let (status, head, body) = get(CHECKS[0], "/any/path").unwrap();
    assert!(status == 200 && head.contains("x-load-balancing-endpoint-weight: 2"), "{head}");
    let wanted = json!({
        "service": {"namespace": "shop", "name": "front"}, "localEndpoints": 2, "serviceProxyHealthy": true,
    });
    assert_eq!(serde_json::from_str::<Value>(&body).unwrap(), wanted);
    put(&node, &slice("front", &[]));
    until("no endpoint", || get(CHECKS[0], "/healthz").is_some_and(|(status, ..)| status == 503));
    until("said", || notice("port 31001 is not answered: Address already in use"));
    drop(taken);
    until("answered", || get(CHECKS[1], "/").is_some_and(|(status, ..)| status == 503));
    until("taken back", || !notice("31001"));
    for object in ["front", "other"] {
        let key = fairway_decode::key_of(&service(object, "10.96.0.20", json!({}))).unwrap();
        tell(&node, Delta::Del(key));
    }
    until("closed", || CHECKS.iter().all(|port| get(*port, "/").is_none()));
    node.end(Command::Shutdown).unwrap();
}
