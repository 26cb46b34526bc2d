//! Two routers, four nodes, four pods and a service address.
#![allow(clippy::unwrap_used, reason = "a helper that fails fails its test")]

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use fairway_desired::filter::{self, Action, Base, Datum, Field, FieldType, Hook, Match};
use fairway_desired::ipvs::{self, Forwarding, RealServer, RealServerKey, Scheduler, VirtualServer, VirtualServerKey};
use fairway_desired::{
    Addr, AddrKey, AddrValue, Backend, Family, Fault, Filter, Ipvs, LOCAL_TABLE, Link, LinkKind, LinkValue, MAIN_TABLE,
    NextHop, Op, Outcome, PROTO_KUBE_ROUTER, PlaneId, Protocol, Route, RouteKey, RouteKind, RouteValue,
};
use fairway_kernel::{Connect, Fabric, Failure, HostId, Injected, Kernel};
use ipnet::IpNet;

const DUMMY: &str = "kube-dummy-if";
const MARK: u32 = 0x4000;

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

struct Net {
    fabric: Fabric,
    client: HostId,
    routers: Vec<HostId>,
    nodes: Vec<HostId>,
    pods: Vec<HostId>,
}

fn vip() -> VirtualServerKey {
    VirtualServerKey::Address { address: ip("10.96.0.1"), port: 80, protocol: Protocol::Tcp }
}

fn real(n: usize) -> RealServerKey {
    RealServerKey { address: ip(&format!("10.244.{n}.2")), port: 8080 }
}

fn route(kernel: &mut Kernel, prefix: &str, via: &[&str], protocol: u8) {
    let next_hops = via.iter().map(|v| NextHop { via: Some(ip(v)), dev: None, weight: 1 }).collect();
    let value = RouteValue { kind: RouteKind::Unicast, protocol, src: None, next_hops };
    kernel.add_route(RouteKey { prefix: net(prefix), table: MAIN_TABLE, metric: 0 }, value).unwrap();
}

fn all_done(outcomes: Result<Vec<Outcome>, Fault>) {
    let outcomes = outcomes.unwrap();
    assert!(outcomes.iter().all(|o| *o == Outcome::Done), "{outcomes:?}");
}

fn put_real(n: usize, weight: u32) -> Op<Ipvs> {
    let value = RealServer { weight, forwarding: Forwarding::Masquerade };
    Op::Put(ipvs::Key { server: vip(), real: Some(real(n)) }, ipvs::Value::Real(value))
}

fn firewall(own: &str) -> Vec<Op<Filter>> {
    let v4 = FieldType::Addr(Family::V4);
    let plain = |fields, interval| filter::Value::Set(filter::Set { fields, interval, verdicts: false });
    let set = |fields: &[Field], set: &str, negate| Match::InSet { fields: fields.to_vec(), set: set.into(), negate };
    let service = [Field::Daddr, Field::Protocol, Field::Dport];
    let mark = filter::Rule {
        matches: vec![set(&service, "services", false), set(&[Field::Saddr], "local", true)],
        action: Action::SetMark { mask: MARK, value: MARK },
    };
    let masquerade = filter::Rule {
        matches: vec![Match::Mark { mask: MARK, value: MARK, negate: false }, set(&[Field::Daddr], "local", true)],
        action: Action::Masquerade,
    };
    let hairpin = filter::Rule {
        matches: vec![set(&[Field::Saddr, Field::Daddr], "hairpin", false)],
        action: Action::Masquerade,
    };
    let element = |set: &str, data| Op::Put(filter::Key::Element(set.into(), data), filter::Value::Element(None));
    let mut ops = vec![
        Op::Put(filter::Key::Set("services".into()), plain(vec![v4, FieldType::Protocol, FieldType::Port], false)),
        Op::Put(filter::Key::Set("local".into()), plain(vec![v4], true)),
        Op::Put(filter::Key::Set("hairpin".into()), plain(vec![v4, v4], false)),
    ];
    let chains = [
        ("mark-in", Hook::Prerouting, false, -150, vec![mark.clone()]),
        ("mark-out", Hook::Output, false, -150, vec![mark]),
        ("nat", Hook::Postrouting, true, 100, vec![masquerade, hairpin]),
    ];
    for (name, hook, nat, priority, rules) in chains {
        let base = filter::Value::Chain(Some(Base { hook, nat, priority }));
        ops.push(Op::Put(filter::Key::Chain(name.into()), base));
        ops.push(Op::Put(filter::Key::Rules(name.into()), filter::Value::Rules(rules)));
    }
    ops.push(element("local", vec![Datum::Net(net(own))]));
    ops.push(element("services", vec![Datum::Addr(ip("10.96.0.1")), Datum::Protocol(Protocol::Tcp), Datum::Port(80)]));
    for n in 1..=4 {
        let pod = Datum::Addr(real(n).address);
        ops.push(element("hairpin", vec![pod.clone(), pod]));
    }
    ops
}

fn network(reals: &[usize]) -> Net {
    let mut fabric = Fabric::new(7);
    let outside = fabric.add_lan("outside", Duration::from_millis(1));
    let inside = fabric.add_lan("inside", Duration::from_micros(100));
    let client = fabric.add_host("client");
    fabric.attach(client, "eth1", outside);
    let mut routers = vec![];
    for n in 1..=2 {
        let router = fabric.add_host(&format!("r{n}"));
        fabric.attach(router, "eth1", outside);
        fabric.attach(router, "eth2", inside);
        let kernel = fabric.kernel_mut(router);
        kernel.add_address("eth1", net(&format!("172.16.0.{n}/24")));
        kernel.add_address("eth2", net(&format!("10.0.0.{n}/24")));
        for path in ["net/ipv4/ip_forward", "net/ipv4/fib_multipath_hash_policy"] {
            kernel.set_sysctl(path, 1).unwrap();
        }
        route(kernel, "10.96.0.0/16", &["10.0.0.11", "10.0.0.12", "10.0.0.13", "10.0.0.14"], PROTO_KUBE_ROUTER);
        routers.push(router);
    }
    let kernel = fabric.kernel_mut(client);
    kernel.add_address("eth1", net("172.16.0.100/24"));
    kernel.set_sysctl("net/ipv4/fib_multipath_hash_policy", 1).unwrap();
    route(kernel, "0.0.0.0/0", &["172.16.0.1", "172.16.0.2"], 3);
    let (mut nodes, mut pods) = (vec![], vec![]);
    for n in 1..=4 {
        let node = fabric.add_host(&format!("n{n}"));
        fabric.attach(node, "eth1", inside);
        let pod = fabric.add_host(&format!("pod{n}"));
        fabric.veth(node, "veth1", pod, "eth0");
        let kernel = fabric.kernel_mut(node);
        kernel.add_address("eth1", net(&format!("10.0.0.{}/24", 10 + n)));
        kernel.add_bridge("kube-bridge");
        kernel.add_address("kube-bridge", net(&format!("10.244.{n}.1/24")));
        kernel.enslave("veth1", "kube-bridge", true);
        route(kernel, "0.0.0.0/0", &["10.0.0.1"], 3);
        for path in [
            "net/ipv4/ip_forward",
            "net/ipv4/vs/conntrack",
            "net/ipv4/vs/expire_nodest_conn",
            "net/ipv4/conf/all/arp_ignore",
            "net/bridge/bridge-nf-call-iptables",
        ] {
            kernel.set_sysctl(path, 1).unwrap();
        }
        let link = LinkValue { kind: LinkKind::Dummy, up: true, mtu: None };
        all_done(Backend::<Link>::apply(kernel, &[Op::Put(DUMMY.into(), link)]));
        let address = AddrKey { address: net("10.96.0.1/32"), link: DUMMY.into() };
        all_done(Backend::<Addr>::apply(kernel, &[Op::Put(address, AddrValue)]));
        let local = RouteValue {
            kind: RouteKind::Local,
            protocol: 2,
            src: Some(ip(&format!("10.0.0.{}", 10 + n))),
            next_hops: vec![NextHop { via: None, dev: Some(DUMMY.into()), weight: 1 }],
        };
        let key = RouteKey { prefix: net("10.96.0.1/32"), table: LOCAL_TABLE, metric: 0 };
        all_done(Backend::<Route>::apply(kernel, &[Op::Put(key, local)]));
        all_done(Backend::<Filter>::apply(kernel, &firewall(&format!("10.244.{n}.0/24"))));
        for other in (1..=4).filter(|o| *o != n) {
            route(kernel, &format!("10.244.{other}.0/24"), &[&format!("10.0.0.{}", 10 + other)], PROTO_KUBE_ROUTER);
        }
        let server = VirtualServer { scheduler: Scheduler::Rr, fallback: false, hash_port: false, persistence_s: None };
        let mut ops = vec![Op::Put(ipvs::Key { server: vip(), real: None }, ipvs::Value::Server(server))];
        ops.extend(reals.iter().map(|r| put_real(*r, 1)));
        all_done(Backend::<Ipvs>::apply(kernel, &ops));
        let kernel = fabric.kernel_mut(pod);
        kernel.add_address("eth0", net(&format!("10.244.{n}.2/24")));
        route(kernel, "0.0.0.0/0", &[&format!("10.244.{n}.1")], 3);
        fabric.listen(pod, Protocol::Tcp, None, 8080, &format!("pod{n}")).unwrap();
        nodes.push(node);
        pods.push(pod);
    }
    Net { fabric, client, routers, nodes, pods }
}

fn to_vip(from: HostId) -> Connect {
    Connect {
        from,
        owner: "test".into(),
        src: None,
        sport: None,
        to: ip("10.96.0.1"),
        port: 80,
        protocol: Protocol::Tcp,
    }
}

const NOW: Duration = Duration::from_secs(1);

#[test]
fn four_hundred_connections_spread_over_all_pods() {
    let Net { mut fabric, client, routers, .. } = network(&[1, 2, 3, 4]);
    let (mut by_pod, mut by_router) = (BTreeMap::<String, u32>::new(), BTreeMap::<HostId, u32>::new());
    for _ in 0..400 {
        let attempt = fabric.connect(NOW, &to_vip(client));
        let connected = attempt.result.unwrap_or_else(|f| panic!("{f:?}: {}", attempt.reason));
        assert!(attempt.latency >= Duration::from_millis(2), "{:?}", attempt.latency);
        *by_pod.entry(connected.server_owner.clone()).or_default() += 1;
        *by_router.entry(attempt.path[1]).or_default() += 1;
        assert!(fabric.send(NOW, connected.flow, true).is_ok());
        assert!(fabric.send(NOW, connected.flow, false).is_ok());
    }
    assert!(by_pod.len() == 4 && by_pod.values().all(|n| (90..=110).contains(n)), "{by_pod:?}");
    assert!(routers.iter().all(|r| (160..=240).contains(&by_router[r])), "{by_router:?}");
}

#[test]
fn counts_follow_connections() {
    let Net { mut fabric, nodes, .. } = network(&[1, 2]);
    let flow = fabric.connect(NOW, &to_vip(nodes[0])).result.unwrap().flow;
    let count = |fabric: &mut Fabric| {
        let views = fabric.kernel_mut(nodes[0]).virtual_servers();
        let sum = |f: fn(&fairway_kernel::RealServerView) -> u64| views[0].real_servers.iter().map(f).sum::<u64>();
        (sum(|r| r.active), sum(|r| r.inactive))
    };
    assert_eq!(count(&mut fabric), (1, 0));
    let text = fabric.kernel_mut(nodes[0]).show_virtual_servers();
    assert!(text.contains("TCP  10.96.0.1:80 rr\n  -> 10.244.1.2:8080"), "{text}");
    fabric.close(NOW, flow);
    assert_eq!(count(&mut fabric), (0, 1));
    let later = NOW + Duration::from_secs(130);
    fabric.close(later, flow);
    assert_eq!(count(&mut fabric), (0, 0));
}

#[test]
fn hairpin_and_neighbours_on_one_bridge() {
    let Net { mut fabric, nodes, pods, .. } = network(&[1]);
    let attempt = fabric.connect(NOW, &to_vip(pods[0]));
    let connected = attempt.result.unwrap_or_else(|f| panic!("{f:?}: {}", attempt.reason));
    assert_eq!(connected.source_seen.ip(), ip("10.244.1.1"), "masqueraded");
    // Another pod on the node of the only real server: the answer comes over the bridge and is rewritten there.
    let other = fabric.add_host("other");
    fabric.veth(nodes[0], "veth2", other, "eth0");
    fabric.kernel_mut(nodes[0]).enslave("veth2", "kube-bridge", true);
    let kernel = fabric.kernel_mut(other);
    kernel.add_address("eth0", net("10.244.1.3/24"));
    route(kernel, "0.0.0.0/0", &["10.244.1.1"], 3);
    let attempt = fabric.connect(NOW, &to_vip(other));
    let connected = attempt.result.unwrap_or_else(|f| panic!("{f:?}: {}", attempt.reason));
    assert_eq!(connected.source_seen.ip(), ip("10.244.1.3"), "not masqueraded");
    fabric.kernel_mut(nodes[0]).set_sysctl("net/bridge/bridge-nf-call-iptables", 0).unwrap();
    let attempt = fabric.connect(NOW, &to_vip(other));
    assert_eq!(attempt.result, Err(Failure::NoAnswer), "the answer goes past IPVS");
    assert!(fabric.trace(NOW, &to_vip(other)).to_string().contains("10.244.1.2:8080"));
}

#[test]
fn refused_without_real_servers_and_with_weight_zero() {
    let Net { mut fabric, client, nodes, pods, .. } = network(&[]);
    for from in [client, nodes[0], pods[0]] {
        let attempt = fabric.connect(NOW, &to_vip(from));
        assert_eq!(attempt.result, Err(Failure::Refused), "{}", attempt.reason);
    }
    all_done(Backend::<Ipvs>::apply(fabric.kernel_mut(nodes[0]), &[put_real(1, 0)]));
    assert_eq!(fabric.connect(NOW, &to_vip(pods[0])).result, Err(Failure::Refused));
    all_done(Backend::<Ipvs>::apply(fabric.kernel_mut(nodes[0]), &[put_real(1, 1)]));
    assert!(fabric.connect(NOW, &to_vip(pods[0])).result.is_ok());
    // Nobody listens in the pod: its reset comes back through IPVS.
    fabric.kill(pods[0], "pod1");
    assert_eq!(fabric.connect(NOW, &to_vip(nodes[0])).result, Err(Failure::Refused));
}

#[test]
fn a_connection_to_a_deleted_real_server_is_reset() {
    let Net { mut fabric, client, nodes, .. } = network(&[1]);
    let flow = fabric.connect(NOW, &to_vip(client)).result.unwrap().flow;
    for node in nodes {
        let del = Op::Del(ipvs::Key { server: vip(), real: Some(real(1)) });
        all_done(Backend::<Ipvs>::apply(fabric.kernel_mut(node), &[del]));
    }
    assert_eq!(fabric.send(NOW, flow, true), Err(Failure::NoAnswer), "the packet itself is dropped");
    assert_eq!(fabric.send(NOW, flow, true), Err(Failure::Reset), "the next finds nobody");
}

#[test]
fn a_killed_process_resets_its_peers() {
    let Net { mut fabric, client, pods, .. } = network(&[2]);
    let flow = fabric.connect(NOW, &to_vip(client)).result.unwrap().flow;
    assert_eq!(fabric.kill(pods[1], "pod2"), [flow]);
    fabric.remove_host(pods[1]);
    assert_eq!(fabric.send(NOW, flow, true), Err(Failure::Reset));
    let silent = fabric.connect(NOW, &to_vip(client));
    assert_eq!(silent.result, Err(Failure::NoAnswer), "{}", silent.reason);
}

#[test]
fn losing_one_of_four_next_hops_moves_about_half() {
    let Net { mut fabric, routers, .. } = network(&[1]);
    let paths = |fabric: &Fabric| -> Vec<HostId> {
        let attempt = |sport| {
            let request = Connect { sport: Some(sport), ..to_vip(routers[0]) };
            fabric.trace(NOW, &request).through()[1]
        };
        (20_000..20_400).map(attempt).collect()
    };
    let before = paths(&fabric);
    let kernel = fabric.kernel_mut(routers[0]);
    route(kernel, "10.96.0.0/16", &["10.0.0.12", "10.0.0.13", "10.0.0.14"], PROTO_KUBE_ROUTER);
    let after = paths(&fabric);
    let moved = before.iter().zip(&after).filter(|(a, b)| a != b).count();
    assert!((160..=240).contains(&moved), "{moved} of 400 moved");
}

#[test]
fn a_trace_changes_nothing() {
    let Net { fabric, client, .. } = network(&[1, 2, 3, 4]);
    let before = format!("{fabric:?}");
    let trace = fabric.trace(NOW, &to_vip(client));
    assert!(trace.delivered(), "{trace}");
    assert!([4, 5].contains(&trace.through().len()), "{trace}");
    assert_eq!(before, format!("{fabric:?}"));
}

#[test]
fn a_cut_cable_is_silent_until_it_is_mended() {
    let Net { mut fabric, client, .. } = network(&[1]);
    fabric.cut(client, "eth1");
    assert_eq!(fabric.connect(NOW, &to_vip(client)).result, Err(Failure::NoAnswer));
    fabric.heal(client, "eth1");
    assert!(fabric.connect(NOW, &to_vip(client)).result.is_ok());
}

#[test]
fn links_go_down_as_in_linux() {
    let mut fabric = Fabric::new(1);
    let (lan, other) = (fabric.add_lan("a", Duration::ZERO), fabric.add_lan("b", Duration::ZERO));
    let host = fabric.add_host("host");
    fabric.attach(host, "eth1", lan);
    fabric.attach(host, "eth2", other);
    let kernel = fabric.kernel_mut(host);
    for (link, address) in
        [("eth1", "10.0.1.1/24"), ("eth2", "10.0.2.1/24"), ("eth1", "fd00:1::1/64"), ("eth2", "fd00:2::1/64")]
    {
        kernel.add_address(link, net(address));
    }
    route(kernel, "10.9.0.0/16", &["10.0.1.2", "10.0.2.2"], PROTO_KUBE_ROUTER);
    route(kernel, "10.8.0.0/16", &["10.0.1.2"], PROTO_KUBE_ROUTER);
    route(kernel, "fd09::/32", &["fd00:1::2", "fd00:2::2"], PROTO_KUBE_ROUTER);
    route(kernel, "fd08::/32", &["fd00:1::2"], PROTO_KUBE_ROUTER);
    let main = |kernel: &Kernel| -> Vec<String> {
        let main = kernel.routes().filter(|(key, _)| key.table == MAIN_TABLE);
        main.map(|(key, value)| format!("{} {}", key.prefix, value.next_hops.len())).collect()
    };
    let all = main(kernel);
    assert_eq!(all.len(), 8);
    kernel.set_carrier("eth1", false);
    assert_eq!(main(kernel), all, "without carrier everything stays");
    let eth1 = kernel.interfaces()["eth1"].clone();
    assert!(eth1.up && !eth1.carrier && eth1.addresses.len() == 2 && eth1.on_link.len() == 2);
    kernel.set_carrier("eth1", true);
    kernel.set_up("eth1", false);
    // What has another way keeps a dead next hop; IPv6 addresses go.
    assert_eq!(main(kernel), ["10.0.2.0/24 1", "10.9.0.0/16 2", "fd00:2::/64 1", "fd09::/32 2"]);
    assert_eq!(kernel.interfaces()["eth1"].addresses, [net("10.0.1.1/24").addr()]);
    kernel.set_up("eth1", true);
    assert_eq!(main(kernel), ["10.0.1.0/24 1", "10.0.2.0/24 1", "10.9.0.0/16 2", "fd00:2::/64 1", "fd09::/32 2"]);
}

#[test]
fn backends_answer_as_linux_does() {
    let Net { mut fabric, nodes, .. } = network(&[1]);
    let kernel = fabric.kernel_mut(nodes[0]);
    let table = Backend::<Filter>::observe(kernel).unwrap();
    let dangling = vec![filter::Rule {
        matches: vec![Match::InSet { fields: vec![Field::Daddr], set: "none".into(), negate: false }],
        action: Action::Masquerade,
    }];
    let ops = [
        Op::Put(filter::Key::Chain("x".into()), filter::Value::Chain(None)),
        Op::Put(filter::Key::Rules("x".into()), filter::Value::Rules(dangling)),
    ];
    assert_eq!(Backend::<Filter>::apply(kernel, &ops).unwrap(), [Outcome::Refused(2); 2]);
    assert_eq!(Backend::<Filter>::observe(kernel).unwrap(), table);
    let put = |prefix: &str, via: &str, dev: Option<&str>| {
        let hop = NextHop { via: Some(ip(via)), dev: dev.map(Into::into), weight: 1 };
        let value = RouteValue { kind: RouteKind::Unicast, protocol: 17, src: None, next_hops: vec![hop] };
        Op::<Route>::Put(RouteKey { prefix: net(prefix), table: MAIN_TABLE, metric: 0 }, value)
    };
    let ops = [
        put("1.0.0.0/8", "9.9.9.9", Some("eth1")),
        put("1.0.0.0/8", "10.0.0.1", Some("eth9")),
        put("10.0.0.0/24", "10.0.0.1", None),
        put("1.0.0.0/8", "10.0.0.1", None),
    ];
    let expected = [Outcome::Refused(101), Outcome::Refused(19), Outcome::Foreign, Outcome::Done];
    assert_eq!(Backend::<Route>::apply(kernel, &ops).unwrap(), expected);
    assert!(kernel.show_routes(false).contains("1.0.0.0/8 via 10.0.0.1 dev eth1 proto 17\n"));
    let before = kernel.mutations(PlaneId::Route);
    kernel.inject(PlaneId::Route, Injected::Busy, 1);
    kernel.inject(PlaneId::Route, Injected::Interrupted, 1);
    assert_eq!(Backend::<Route>::observe(kernel), Err(Fault::Interrupted));
    assert_eq!(Backend::<Route>::apply(kernel, &ops[3..]).unwrap(), [Outcome::Busy]);
    assert_eq!(kernel.mutations(PlaneId::Route), before);
    let local = Backend::<Route>::observe(kernel).unwrap();
    assert!(local.keys().any(|k| k.table == LOCAL_TABLE && k.prefix == net("10.96.0.1/32")), "{local:?}");
    let address = AddrKey { address: net("10.0.0.11/24"), link: "eth1".into() };
    assert_eq!(Backend::<Addr>::apply(kernel, &[Op::Del(address)]).unwrap(), [Outcome::Foreign]);
}

#[test]
fn a_node_reaches_its_own_pod_and_others_by_the_service() {
    let Net { mut fabric, nodes, .. } = network(&[1, 2]);
    for _ in 0..4 {
        let attempt = fabric.connect(NOW, &to_vip(nodes[0]));
        let connected = attempt.result.unwrap_or_else(|f| panic!("{f:?}: {}", attempt.reason));
        assert!(matches!(connected.local, SocketAddr::V4(a) if a.ip().octets() == [10, 0, 0, 11]));
    }
}

#[test]
fn a_datagram_is_posted_with_a_ttl_and_loses_one_at_each_router() {
    let mut fabric = Fabric::new(4);
    let [near, router, far] = ["near", "router", "far"].map(|name| fabric.add_host(name));
    let lan = fabric.add_lan("lan", Duration::from_millis(1));
    let other = fabric.add_lan("other", Duration::from_millis(2));
    for (host, link, lan, address) in [
        (near, "eth1", lan, "10.0.0.1/24"),
        (router, "eth1", lan, "10.0.0.9/24"),
        (router, "eth2", other, "10.0.1.9/24"),
        (far, "eth1", other, "10.0.1.1/24"),
    ] {
        fabric.attach(host, link, lan);
        fabric.kernel_mut(host).add_address(link, net(address));
    }
    fabric.kernel_mut(router).set_sysctl("net/ipv4/ip_forward", 1).unwrap();
    route(fabric.kernel_mut(near), "10.0.1.0/24", &["10.0.0.9"], 3);
    let post = |fabric: &mut Fabric, to: &str, ttl| {
        let from = Connect {
            from: near,
            owner: "sender".into(),
            src: Some(ip("10.0.0.1")),
            sport: Some(50_000),
            to: ip(to),
            port: 3784,
            protocol: Protocol::Udp,
        };
        fabric.post(Duration::ZERO, &from, ttl)
    };
    assert_eq!(post(&mut fabric, "10.0.0.9", 255), None, "nobody listens");
    for host in [router, far] {
        fabric.listen(host, Protocol::Udp, None, 3784, "receiver").unwrap();
    }
    let posted = post(&mut fabric, "10.0.0.9", 255).unwrap();
    assert_eq!((posted.host, posted.owner.as_str(), posted.ttl), (router, "receiver", 255));
    assert_eq!((posted.source, posted.destination), ((ip("10.0.0.1"), 50_000).into(), (ip("10.0.0.9"), 3784).into()));
    assert_eq!(posted.latency, Duration::from_millis(1));
    // No way back is needed: nobody answers.
    let posted = post(&mut fabric, "10.0.1.1", 255).unwrap();
    assert_eq!((posted.host, posted.ttl, posted.latency), (far, 254, Duration::from_millis(3)));
    assert_eq!(post(&mut fabric, "10.0.1.1", 1), None, "its time is over");
    fabric.cut(far, "eth1");
    assert_eq!(post(&mut fabric, "10.0.1.1", 255), None, "a cable is cut");
    fabric.unlisten(router, Protocol::Udp, 3784, "somebody else");
    assert!(post(&mut fabric, "10.0.0.9", 255).is_some());
    fabric.unlisten(router, Protocol::Udp, 3784, "receiver");
    assert_eq!(post(&mut fabric, "10.0.0.9", 255), None);
    fabric.listen(router, Protocol::Udp, None, 3784, "receiver").unwrap();
    assert!(post(&mut fabric, "10.0.0.9", 255).is_some(), "the port is free again");
}
