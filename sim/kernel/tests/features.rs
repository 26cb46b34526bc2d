//! One director and three real servers on a LAN: each feature by what becomes of connections.
#![allow(clippy::unwrap_used, reason = "a helper that fails fails its test")]

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use fairway_desired::filter::{self, Action, Base, CtState, Datum, Field, FieldType, Hook, Match, Verdict};
use fairway_desired::ipvs::{self, Forwarding, RealServer, RealServerKey, Scheduler, VirtualServer, VirtualServerKey};
use fairway_desired::{
    Addr, AddrKey, AddrValue, Backend, Family, Filter, Ipvs, Link, LinkKind, LinkValue, MAIN_TABLE, NextHop, Op,
    Outcome, Plane, Protocol, Route, RouteKey, RouteKind, RouteValue, Rule, RuleKey, RuleValue, Table,
};
use fairway_kernel::{Connect, Fabric, Failure, HostId, Kernel};
use ipnet::IpNet;
use proptest::prelude::*;

const NOW: Duration = Duration::from_secs(10);
const VIP4: &str = "10.96.0.1";
const VIP6: &str = "fd00:96::1";

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

fn apply<P: Plane>(kernel: &mut Kernel, ops: &[Op<P>])
where
    Kernel: Backend<P>,
{
    let outcomes = Backend::<P>::apply(kernel, ops).unwrap();
    assert!(outcomes.iter().all(|o| *o == Outcome::Done), "{outcomes:?} for {ops:?}");
}

fn route(via: &[&str]) -> RouteValue {
    let next_hops = via.iter().map(|v| NextHop { via: Some(ip(v)), dev: None, weight: 1 }).collect();
    RouteValue { kind: RouteKind::Unicast, protocol: 17, src: None, next_hops }
}

fn key(prefix: &str, table: u32) -> RouteKey {
    RouteKey { prefix: net(prefix), table, metric: 0 }
}

/// client --outside-- director --inside-- s1, s2, s3
struct Lab {
    fabric: Fabric,
    client: HostId,
    director: HostId,
    servers: Vec<HostId>,
}

fn lab() -> Lab {
    let mut fabric = Fabric::new(1);
    let outside = fabric.add_lan("outside", Duration::from_micros(100));
    let inside = fabric.add_lan("inside", Duration::from_micros(100));
    let client = fabric.add_host("client");
    let director = fabric.add_host("director");
    fabric.attach(client, "eth1", outside);
    fabric.attach(director, "eth1", outside);
    fabric.attach(director, "eth2", inside);
    let kernel = fabric.kernel_mut(client);
    kernel.add_address("eth1", net("172.16.0.2/24"));
    kernel.add_address("eth1", net("fd00:172::2/64"));
    kernel.add_route(key("0.0.0.0/0", MAIN_TABLE), route(&["172.16.0.1"])).unwrap();
    kernel.add_route(key("::/0", MAIN_TABLE), route(&["fd00:172::1"])).unwrap();
    let kernel = fabric.kernel_mut(director);
    for (link, address) in
        [("eth1", "172.16.0.1/24"), ("eth1", "fd00:172::1/64"), ("eth2", "10.0.0.1/24"), ("eth2", "fd00:10::1/64")]
    {
        kernel.add_address(link, net(address));
    }
    for path in [
        "net/ipv4/ip_forward",
        "net/ipv6/conf/all/forwarding",
        "net/ipv4/vs/conntrack",
        "net/ipv4/vs/expire_nodest_conn",
    ] {
        kernel.set_sysctl(path, 1).unwrap();
    }
    apply::<Link>(kernel, &[Op::Put("kube-dummy-if".into(), LinkValue { kind: LinkKind::Dummy, up: true, mtu: None })]);
    for vip in [VIP4, VIP6] {
        apply::<Addr>(kernel, &[Op::Put(AddrKey { address: ip(vip).into(), link: "kube-dummy-if".into() }, AddrValue)]);
    }
    let mut servers = vec![];
    for n in 1..=3 {
        let name = format!("s{n}");
        let server = fabric.add_host(&name);
        fabric.attach(server, "eth1", inside);
        let kernel = fabric.kernel_mut(server);
        kernel.add_address("eth1", net(&format!("10.0.0.1{n}/24")));
        kernel.add_address("eth1", net(&format!("fd00:10::1{n}/64")));
        kernel.add_route(key("0.0.0.0/0", MAIN_TABLE), route(&["10.0.0.1"])).unwrap();
        kernel.add_route(key("::/0", MAIN_TABLE), route(&["fd00:10::1"])).unwrap();
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            fabric.listen(server, protocol, None, 80, &name).unwrap();
        }
        servers.push(server);
    }
    Lab { fabric, client, director, servers }
}

fn virtual_server(vip: &str, protocol: Protocol) -> VirtualServerKey {
    VirtualServerKey::Address { address: ip(vip), port: 80, protocol }
}

fn plain(scheduler: Scheduler) -> VirtualServer {
    VirtualServer { scheduler, fallback: false, hash_port: false, persistence_s: None }
}

fn reals(server: &VirtualServerKey, v6: bool, weights: &[u32], forwarding: Forwarding) -> Vec<Op<Ipvs>> {
    let real = |(n, weight): (usize, &u32)| {
        let address = if v6 { format!("fd00:10::1{}", n + 1) } else { format!("10.0.0.1{}", n + 1) };
        let key = ipvs::Key { server: server.clone(), real: Some(RealServerKey { address: ip(&address), port: 80 }) };
        Op::Put(key, ipvs::Value::Real(RealServer { weight: *weight, forwarding }))
    };
    weights.iter().enumerate().map(real).collect()
}

fn serve(kernel: &mut Kernel, key: &VirtualServerKey, value: VirtualServer, weights: &[u32]) {
    let v6 = matches!(key, VirtualServerKey::Address { address: IpAddr::V6(_), .. });
    let mut ops = vec![Op::Put(ipvs::Key { server: key.clone(), real: None }, ipvs::Value::Server(value))];
    ops.extend(reals(key, v6, weights, Forwarding::Masquerade));
    apply(kernel, &ops);
}

fn request(from: HostId, to: &str, port: u16, protocol: Protocol) -> Connect {
    Connect { from, owner: "test".into(), src: None, sport: None, to: ip(to), port, protocol }
}

/// Connections one after the other, counted by server; they stay open if `keep`.
fn count(lab: &mut Lab, to: &str, n: u32, keep: bool) -> BTreeMap<String, u32> {
    let mut counts = BTreeMap::new();
    for _ in 0..n {
        let attempt = lab.fabric.connect(NOW, &request(lab.client, to, 80, Protocol::Tcp));
        let connected = attempt.result.unwrap_or_else(|f| panic!("{f:?}: {}", attempt.reason));
        *counts.entry(connected.server_owner.clone()).or_default() += 1;
        if !keep {
            lab.fabric.close(NOW, connected.flow);
        }
    }
    counts
}

fn shares(counts: &BTreeMap<String, u32>) -> Vec<u32> {
    ["s1", "s2", "s3"].map(|s| counts.get(s).copied().unwrap_or(0)).to_vec()
}

#[test]
fn schedulers_distribute_by_weight_as_the_kernels_do() {
    use Scheduler::{Dh, Lc, Mh, Rr, Sh, Wlc, Wrr};
    let cases: [(Scheduler, [u32; 3], bool, &str); 10] = [
        (Rr, [1, 1, 1], false, "20 20 20"),
        (Rr, [1, 5, 1], false, "20 20 20"),
        (Rr, [1, 0, 1], false, "30 0 30"),
        (Wrr, [1, 2, 3], false, "10 20 30"),
        (Lc, [1, 1, 1], true, "20 20 20"),
        (Wlc, [1, 2, 3], true, "10 20 30"),
        (Wlc, [1, 1, 0], true, "30 30 0"),
        (Sh, [1, 1, 1], false, "one"),
        (Dh, [1, 1, 1], false, "one"),
        (Mh, [1, 1, 1], false, "one"),
    ];
    for (scheduler, weights, keep, expected) in cases {
        let mut lab = lab();
        let key = virtual_server(VIP4, Protocol::Tcp);
        serve(lab.fabric.kernel_mut(lab.director), &key, plain(scheduler), &weights);
        let counts = count(&mut lab, VIP4, 60, keep);
        let seen = shares(&counts);
        let text = seen.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
        let one = seen.iter().filter(|n| **n > 0).count() == 1;
        assert!(text == expected || (expected == "one" && one), "{scheduler:?} {weights:?}: {text}, not {expected}");
    }
}

#[test]
fn hashing_the_port_spreads_one_client_and_fallback_passes_over_a_quiet_server() {
    for scheduler in [Scheduler::Sh, Scheduler::Mh] {
        let mut lab = lab();
        let key = virtual_server(VIP4, Protocol::Tcp);
        let value = VirtualServer { hash_port: true, ..plain(scheduler) };
        serve(lab.fabric.kernel_mut(lab.director), &key, value.clone(), &[1, 1, 1]);
        let counts = count(&mut lab, VIP4, 300, false);
        assert!(shares(&counts).iter().all(|n| (50..150).contains(n)), "{scheduler:?}: {counts:?}");
        // A server of weight 0: without fallback its share is refused, with it the others take it over.
        apply(lab.fabric.kernel_mut(lab.director), &reals(&key, false, &[0], Forwarding::Masquerade));
        let refused = |lab: &mut Lab| {
            (0..200)
                .filter(|_| lab.fabric.connect(NOW, &request(lab.client, VIP4, 80, Protocol::Tcp)).result.is_err())
                .count()
        };
        // Maglev and source hashing build their tables without servers of weight 0, or with them; fallback covers both.
        let value = VirtualServer { fallback: true, ..value };
        let op = Op::Put(ipvs::Key { server: key.clone(), real: None }, ipvs::Value::Server(value));
        apply::<Ipvs>(lab.fabric.kernel_mut(lab.director), &[op]);
        assert_eq!(refused(&mut lab), 0, "{scheduler:?}");
    }
}

#[test]
fn maglev_chooses_the_same_server_on_every_director() {
    let choose = |seed: u64, order: [u32; 3]| {
        let mut lab = lab();
        lab.fabric
            .kernel_mut(lab.director)
            .set_sysctl("net/ipv4/vs/sloppy_tcp", i64::try_from(seed % 2).unwrap())
            .unwrap();
        let key = virtual_server(VIP4, Protocol::Tcp);
        let value = VirtualServer { hash_port: true, ..plain(Scheduler::Mh) };
        serve(lab.fabric.kernel_mut(lab.director), &key, value, &order);
        (40_000..40_050u16)
            .map(|sport| {
                let connect = Connect { sport: Some(sport), ..request(lab.client, VIP4, 80, Protocol::Tcp) };
                lab.fabric.connect(NOW, &connect).result.unwrap().server_owner
            })
            .collect::<Vec<_>>()
    };
    assert_eq!(choose(1, [1, 1, 1]), choose(2, [1, 1, 1]));
}

#[test]
fn a_persistent_client_keeps_its_server_until_its_time_is_over() {
    let mut lab = lab();
    let key = virtual_server(VIP4, Protocol::Tcp);
    let value = VirtualServer { persistence_s: Some(300), ..plain(Scheduler::Rr) };
    serve(lab.fabric.kernel_mut(lab.director), &key, value, &[1, 1, 1]);
    assert_eq!(count(&mut lab, VIP4, 20, false).len(), 1);
    let later = NOW + Duration::from_secs(2000);
    let first = lab.fabric.connect(later, &request(lab.client, VIP4, 80, Protocol::Tcp)).result.unwrap().server_owner;
    let again = lab.fabric.connect(later, &request(lab.client, VIP4, 80, Protocol::Tcp)).result.unwrap().server_owner;
    assert_eq!(first, again);
    // The server goes: the client gets another one.
    let n: usize = first[1..].parse().unwrap();
    let gone = ipvs::Key { server: key, real: Some(RealServerKey { address: ip(&format!("10.0.0.1{n}")), port: 80 }) };
    apply::<Ipvs>(lab.fabric.kernel_mut(lab.director), &[Op::Del(gone)]);
    let other = lab.fabric.connect(later, &request(lab.client, VIP4, 80, Protocol::Tcp)).result.unwrap().server_owner;
    assert_ne!(first, other);
}

#[test]
fn timeouts_of_connections_can_be_set() {
    for (after, remembered) in [(None, true), (Some(20), false)] {
        let mut lab = lab();
        let key = virtual_server(VIP4, Protocol::Udp);
        serve(lab.fabric.kernel_mut(lab.director), &key, plain(Scheduler::Rr), &[1, 1, 1]);
        let director = lab.fabric.kernel_mut(lab.director);
        assert!(director.set_sysctl("ipvs/timeout-udp", 0).is_err());
        if let Some(seconds) = after {
            director.set_sysctl("ipvs/timeout-udp", seconds).unwrap();
        }
        lab.fabric.datagram(NOW, &request(lab.client, VIP4, 80, Protocol::Udp)).result.unwrap();
        // Whoever comes later finds what is left of the first.
        let later = NOW + Duration::from_secs(30);
        lab.fabric.datagram(later, &request(lab.client, VIP4, 80, Protocol::Udp)).result.unwrap();
        let servers = lab.fabric.kernel_mut(lab.director).virtual_servers();
        let known: u64 = servers.iter().flat_map(|s| &s.real_servers).map(|real| real.inactive).sum();
        assert_eq!(known, 1 + u64::from(remembered), "{after:?}");
    }
}

#[test]
fn datagrams_and_ipv6_go_the_same_way() {
    for (vip, protocol) in [(VIP4, Protocol::Udp), (VIP6, Protocol::Tcp), (VIP6, Protocol::Udp)] {
        let mut lab = lab();
        serve(lab.fabric.kernel_mut(lab.director), &virtual_server(vip, protocol), plain(Scheduler::Rr), &[1, 1, 1]);
        let mut owners = BTreeSet::new();
        for _ in 0..3 {
            let wish = request(lab.client, vip, 80, protocol);
            let attempt = if protocol == Protocol::Udp {
                lab.fabric.datagram(NOW, &wish)
            } else {
                lab.fabric.connect(NOW, &wish)
            };
            let connected = attempt.result.unwrap_or_else(|f| panic!("{vip} {protocol:?}: {f:?} {}", attempt.reason));
            assert!(connected.source_seen.ip() == ip("172.16.0.2") || connected.source_seen.ip() == ip("fd00:172::2"));
            owners.insert(connected.server_owner);
        }
        assert_eq!(owners.len(), 3, "{vip} {protocol:?}");
    }
}

#[test]
fn a_tunnel_keeps_the_clients_address_and_the_answer_goes_straight_back() {
    let mut lab = lab();
    let key = virtual_server(VIP4, Protocol::Tcp);
    let mut ops =
        vec![Op::Put(ipvs::Key { server: key.clone(), real: None }, ipvs::Value::Server(plain(Scheduler::Rr)))];
    ops.extend(reals(&key, false, &[1, 1, 1], Forwarding::Tunnel));
    apply(lab.fabric.kernel_mut(lab.director), &ops);
    let attempt = lab.fabric.connect(NOW, &request(lab.client, VIP4, 80, Protocol::Tcp));
    assert_eq!(attempt.result, Err(Failure::NoAnswer));
    assert!(attempt.reason.contains("no tunnel device"), "{}", attempt.reason);
    for server in lab.servers.clone() {
        let kernel = lab.fabric.kernel_mut(server);
        kernel.add_tunnel("tunl0");
        kernel.add_address("tunl0", ip(VIP4).into());
    }
    // The director has the address too, so it takes the answer for a martian (kube-router removes it there).
    let attempt = lab.fabric.connect(NOW, &request(lab.client, VIP4, 80, Protocol::Tcp));
    assert!(attempt.reason.contains("martian"), "{}", attempt.reason);
    // Without the address on the director, a firewall mark leads packets to IPVS.
    let director = lab.fabric.kernel_mut(lab.director);
    apply::<Addr>(director, &[Op::Del(AddrKey { address: ip(VIP4).into(), link: "kube-dummy-if".into() })]);
    let local = RouteValue {
        kind: RouteKind::Local,
        protocol: 17,
        src: None,
        next_hops: vec![NextHop { via: None, dev: Some("lo".into()), weight: 1 }],
    };
    apply::<Route>(director, &[Op::Put(key_in_table("0.0.0.0/0", 78), local)]);
    let rule = RuleKey { family: Family::V4, priority: 32764, from: None, to: None, mark: Some(77) };
    apply::<Rule>(director, &[Op::Put(rule, RuleValue { table: 78 })]);
    mark_packets(director, 77);
    let marked = VirtualServerKey::Mark { family: Family::V4, mark: 77 };
    let mut ops =
        vec![Op::Put(ipvs::Key { server: marked.clone(), real: None }, ipvs::Value::Server(plain(Scheduler::Rr)))];
    ops.extend(reals(&marked, false, &[1, 1, 1], Forwarding::Tunnel));
    apply(director, &ops);
    let mut owners = BTreeSet::new();
    for _ in 0..6 {
        let attempt = lab.fabric.connect(NOW, &request(lab.client, VIP4, 80, Protocol::Tcp));
        let connected = attempt.result.unwrap_or_else(|f| panic!("{f:?}: {}", attempt.reason));
        assert_eq!((connected.source_seen.ip(), connected.destination_seen), (ip("172.16.0.2"), (ip(VIP4), 80).into()));
        owners.insert(connected.server_owner);
    }
    assert_eq!(owners.len(), 3);
}

fn key_in_table(prefix: &str, table: u32) -> RouteKey {
    key(prefix, table)
}

fn chain(name: &str, hook: Hook, priority: i32, rules: Vec<filter::Rule>) -> [Op<Filter>; 2] {
    [
        Op::Put(filter::Key::Chain(name.into()), filter::Value::Chain(Some(Base { hook, nat: false, priority }))),
        Op::Put(filter::Key::Rules(name.into()), filter::Value::Rules(rules)),
    ]
}

/// Everything to the IPv4 service address and port 80 gets a mark.
fn mark_packets(kernel: &mut Kernel, mark: u32) {
    let fields = vec![FieldType::Addr(Family::V4), FieldType::Port];
    let set = filter::Value::Set(filter::Set { fields, interval: false, verdicts: false });
    let element = vec![Datum::Addr(ip(VIP4)), Datum::Port(80)];
    let matches = vec![Match::InSet { fields: vec![Field::Daddr, Field::Dport], set: "marked".into(), negate: false }];
    let rule = filter::Rule { matches, action: Action::SetMark { mask: u32::MAX, value: mark } };
    let mut ops = vec![
        Op::Put(filter::Key::Set("marked".into()), set),
        Op::Put(filter::Key::Element("marked".into(), element), filter::Value::Element(None)),
    ];
    ops.extend(chain("mark", Hook::Prerouting, -150, vec![rule]));
    apply(kernel, &ops);
}

#[test]
fn routes_rules_and_metrics_decide_in_the_kernels_order() {
    let mut lab = lab();
    let (client, director) = (lab.client, lab.director);
    let outcome = |lab: &mut Lab| {
        let attempt = lab.fabric.connect(NOW, &request(client, "10.0.0.11", 80, Protocol::Tcp));
        attempt.result.map(|c| c.server_owner).map_err(|f| (f, attempt.reason))
    };
    assert_eq!(outcome(&mut lab).unwrap(), "s1");
    let special = |kind| RouteValue { kind, protocol: 17, src: None, next_hops: vec![] };
    let kernel = lab.fabric.kernel_mut(director);
    apply::<Route>(kernel, &[Op::Put(key("10.0.0.11/32", MAIN_TABLE), special(RouteKind::Unreachable))]);
    assert_eq!(outcome(&mut lab).unwrap_err().0, Failure::Unreachable, "the longest prefix counts");
    let kernel = lab.fabric.kernel_mut(director);
    apply::<Route>(kernel, &[Op::Put(key("10.0.0.11/32", MAIN_TABLE), special(RouteKind::Blackhole))]);
    assert_eq!(outcome(&mut lab).unwrap_err().0, Failure::NoAnswer);
    let direct = RouteValue {
        next_hops: vec![NextHop { via: None, dev: Some("eth2".into()), weight: 1 }],
        ..special(RouteKind::Unicast)
    };
    let kernel = lab.fabric.kernel_mut(director);
    apply::<Route>(
        kernel,
        &[
            Op::Put(RouteKey { metric: 5, ..key("10.0.0.11/32", MAIN_TABLE) }, direct.clone()),
            Op::Put(key("10.0.0.11/32", 78), direct),
        ],
    );
    assert!(outcome(&mut lab).is_err(), "the lower metric counts");
    let by_source =
        RuleKey { family: Family::V4, priority: 32764, from: Some(net("172.16.0.0/24")), to: None, mark: None };
    apply::<Rule>(lab.fabric.kernel_mut(director), &[Op::Put(by_source.clone(), RuleValue { table: 78 })]);
    assert_eq!(outcome(&mut lab).unwrap(), "s1", "a rule before main");
    apply::<Rule>(lab.fabric.kernel_mut(director), &[Op::Del(by_source)]);
    apply::<Route>(lab.fabric.kernel_mut(director), &[Op::Del(key("10.0.0.11/32", MAIN_TABLE))]);
    assert_eq!(outcome(&mut lab).unwrap(), "s1", "the higher metric is left");
}

#[test]
fn forwarding_and_rp_filter_are_switches() {
    let mut lab = lab();
    let (client, director) = (lab.client, lab.director);
    let reason = |lab: &mut Lab, src: Option<&str>| {
        let wish = Connect { src: src.map(ip), ..request(client, "10.0.0.11", 80, Protocol::Tcp) };
        lab.fabric.connect(NOW, &wish).reason
    };
    lab.fabric.kernel_mut(director).set_sysctl("net/ipv4/ip_forward", 0).unwrap();
    assert!(reason(&mut lab, None).contains("does not forward"));
    lab.fabric.kernel_mut(director).set_sysctl("net/ipv4/ip_forward", 1).unwrap();
    assert_eq!(reason(&mut lab, None), "");
    // A source that belongs behind the other interface.
    for (mode, dropped) in [(0, false), (1, true), (2, false)] {
        lab.fabric.kernel_mut(director).set_sysctl("net/ipv4/conf/all/rp_filter", mode).unwrap();
        let said = reason(&mut lab, Some("10.0.0.99"));
        assert_eq!(said.contains("rp_filter"), dropped, "rp_filter {mode}: {said}");
    }
}

#[test]
fn verdicts_end_connections_in_their_own_ways() {
    let any = |verdict| {
        vec![filter::Rule { matches: vec![Match::Protocol(Protocol::Tcp)], action: Action::Verdict(verdict) }]
    };
    for (verdict, expected) in [
        (Verdict::Accept, None),
        (Verdict::Drop, Some(Failure::NoAnswer)),
        (Verdict::Reject, Some(Failure::Refused)),
        (Verdict::Return, None),
    ] {
        let mut lab = lab();
        apply(lab.fabric.kernel_mut(lab.director), &chain("f", Hook::Forward, 0, any(verdict.clone())));
        let attempt = lab.fabric.connect(NOW, &request(lab.client, "10.0.0.11", 80, Protocol::Tcp));
        assert_eq!(attempt.result.err(), expected, "{verdict:?}: {}", attempt.reason);
    }
}

#[test]
fn a_verdict_map_chooses_a_chain_and_established_connections_pass() {
    let mut lab = lab();
    let v4 = FieldType::Addr(Family::V4);
    let map = filter::Value::Set(filter::Set { fields: vec![v4], interval: false, verdicts: true });
    let verdict = |v| filter::Rule { matches: vec![], action: Action::Verdict(v) };
    let rules = vec![
        filter::Rule {
            matches: vec![Match::CtState(vec![CtState::Established])],
            action: Action::Verdict(Verdict::Accept),
        },
        filter::Rule { matches: vec![], action: Action::VerdictMap { fields: vec![Field::Daddr], map: "pods".into() } },
    ];
    let mut ops = vec![
        Op::Put(filter::Key::Set("pods".into()), map),
        Op::Put(filter::Key::Chain("closed".into()), filter::Value::Chain(None)),
        Op::Put(filter::Key::Rules("closed".into()), filter::Value::Rules(vec![verdict(Verdict::Reject)])),
    ];
    ops.extend(chain("f", Hook::Forward, 0, rules));
    apply(lab.fabric.kernel_mut(lab.director), &ops);
    let open = lab.fabric.connect(NOW, &request(lab.client, "10.0.0.11", 80, Protocol::Tcp)).result.unwrap();
    let element = filter::Key::Element("pods".into(), vec![Datum::Addr(ip("10.0.0.11"))]);
    let jump = filter::Value::Element(Some(Verdict::Jump("closed".into())));
    apply::<Filter>(lab.fabric.kernel_mut(lab.director), &[Op::Put(element, jump)]);
    let to = |lab: &mut Lab, address: &str| {
        lab.fabric.connect(NOW, &request(lab.client, address, 80, Protocol::Tcp)).result.err()
    };
    assert_eq!(to(&mut lab, "10.0.0.11"), Some(Failure::Refused));
    assert_eq!(to(&mut lab, "10.0.0.12"), None);
    assert!(lab.fabric.send(NOW, open.flow, true).is_ok(), "what was open goes on");
}

#[test]
fn arp_ignore_decides_whether_a_service_address_is_answered_on_the_wire() {
    for (mode, reached) in [(0, true), (1, false)] {
        let mut lab = lab();
        lab.fabric.kernel_mut(lab.director).set_sysctl("net/ipv4/conf/all/arp_ignore", mode).unwrap();
        fabric_listen(&mut lab);
        // The client believes the address to be on its own wire.
        let direct =
            RouteValue { next_hops: vec![NextHop { via: None, dev: Some("eth1".into()), weight: 1 }], ..route(&[]) };
        lab.fabric.kernel_mut(lab.client).add_route(key("10.96.0.1/32", MAIN_TABLE), direct).unwrap();
        let attempt = lab.fabric.connect(NOW, &request(lab.client, VIP4, 22, Protocol::Tcp));
        assert_eq!(attempt.result.is_ok(), reached, "arp_ignore {mode}: {}", attempt.reason);
    }
}

fn fabric_listen(lab: &mut Lab) {
    lab.fabric.listen(lab.director, Protocol::Tcp, None, 22, "sshd").unwrap();
}

#[test]
fn the_hash_policy_decides_whether_one_pair_of_hosts_uses_all_next_hops() {
    for (policy, spread) in [(0, false), (1, true)] {
        let mut lab = lab();
        let kernel = lab.fabric.kernel_mut(lab.director);
        kernel.set_sysctl("net/ipv4/fib_multipath_hash_policy", policy).unwrap();
        apply::<Route>(
            kernel,
            &[Op::Put(key("10.7.0.0/16", MAIN_TABLE), route(&["10.0.0.11", "10.0.0.12", "10.0.0.13"]))],
        );
        for server in lab.servers.clone() {
            lab.fabric.kernel_mut(server).add_address("lo", net("10.7.0.1/32"));
        }
        let counts = count(&mut lab, "10.7.0.1", 90, false);
        let all = shares(&counts).iter().all(|n| *n > 10);
        assert_eq!(all, spread, "policy {policy}: {counts:?}");
        assert!(spread || counts.len() == 1, "{counts:?}");
    }
}

fn any_route() -> impl Strategy<Value = Op<Route>> {
    let prefix = prop::sample::select(vec!["10.7.0.0/16", "10.7.1.0/24", "10.7.1.1/32", "0.0.0.0/0", "fd07::/64"]);
    let via = prop::sample::subsequence(vec!["10.0.0.11", "10.0.0.12", "10.9.9.9"], 0..3);
    (prefix, via, 0u32..2, any::<bool>()).prop_map(|(prefix, via, metric, put)| {
        let key = RouteKey { metric, ..key(prefix, MAIN_TABLE) };
        if put { Op::Put(key, route(&via)) } else { Op::Del(key) }
    })
}

fn any_ipvs() -> impl Strategy<Value = Op<Ipvs>> {
    (
        0u16..3,
        prop::option::of(1u8..4),
        any::<bool>(),
        0u32..3,
        prop::sample::select(vec![Scheduler::Rr, Scheduler::Sh, Scheduler::Mh, Scheduler::Wlc]),
    )
        .prop_map(|(port, real, put, weight, scheduler)| {
            let server = VirtualServerKey::Address { address: ip(VIP4), port: 80 + port, protocol: Protocol::Tcp };
            let real = real.map(|n| RealServerKey { address: ip(&format!("10.0.0.1{n}")), port: 80 });
            let value = match real {
                None => ipvs::Value::Server(plain(scheduler)),
                Some(_) => ipvs::Value::Real(RealServer { weight, forwarding: Forwarding::Masquerade }),
            };
            let key = ipvs::Key { server, real };
            if put { Op::Put(key, value) } else { Op::Del(key) }
        })
}

/// What a table becomes by the ops that the kernel says it did.
fn follow<P: Plane>(table: &mut Table<P>, ops: &[Op<P>], outcomes: &[Outcome])
where
    P::Key: Ord,
{
    for (op, outcome) in ops.iter().zip(outcomes) {
        match (op, outcome) {
            (Op::Put(key, value), Outcome::Done) => {
                table.insert(key.clone(), value.clone());
            }
            (Op::Del(key), Outcome::Done) => {
                table.remove(key);
            }
            _ => {}
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

    #[test]
    fn what_was_done_is_what_is_observed(
        routes in prop::collection::vec(any_route(), 0..20),
        servers in prop::collection::vec(any_ipvs(), 0..30),
    ) {
        let mut lab = lab();
        let kernel = lab.fabric.kernel_mut(lab.director);
        let mut expected: Table<Route> = Backend::<Route>::observe(kernel).unwrap();
        let outcomes = Backend::<Route>::apply(kernel, &routes).unwrap();
        follow::<Route>(&mut expected, &routes, &outcomes);
        prop_assert_eq!(Backend::<Route>::observe(kernel).unwrap(), expected);
        let mut expected: Table<Ipvs> = Table::<Ipvs>::new();
        for op in &servers {
            let outcome = Backend::<Ipvs>::apply(kernel, std::slice::from_ref(op)).unwrap();
            follow::<Ipvs>(&mut expected, std::slice::from_ref(op), &outcome);
            if let (Op::Del(ipvs::Key { server, real: None }), Outcome::Done) = (op, outcome[0]) {
                expected.retain(|k, _| k.server != *server);
            }
        }
        prop_assert_eq!(Backend::<Ipvs>::observe(kernel).unwrap(), expected);
    }

    #[test]
    fn every_connection_has_one_fate_and_a_trace_leaves_nothing(
        routes in prop::collection::vec(any_route(), 0..8),
        servers in prop::collection::vec(any_ipvs(), 0..12),
        sysctls in prop::collection::vec((prop::sample::select(vec![
            "net/ipv4/ip_forward", "net/ipv4/vs/conntrack", "net/ipv4/conf/all/rp_filter", "net/ipv4/conf/all/arp_ignore",
            "net/ipv4/vs/expire_nodest_conn", "net/ipv4/fib_multipath_hash_policy"]), 0i64..3), 0..6),
        to in prop::sample::select(vec![VIP4, "10.0.0.11", "10.7.1.1", "172.16.0.1", "203.0.113.9", "127.0.0.1", VIP6]),
        from in 0usize..3,
        udp in any::<bool>(),
    ) {
        let mut lab = lab();
        let kernel = lab.fabric.kernel_mut(lab.director);
        for (path, value) in sysctls {
            prop_assert!(kernel.set_sysctl(path, value).is_ok());
        }
        drop(Backend::<Route>::apply(kernel, &routes));
        drop(Backend::<Ipvs>::apply(kernel, &servers));
        let from = [lab.client, lab.director, lab.servers[0]][from];
        let wish = request(from, to, 80, if udp { Protocol::Udp } else { Protocol::Tcp });
        let mut twin = lab.fabric.clone();
        let trace = lab.fabric.trace(NOW, &wish);
        let go = |fabric: &mut Fabric| if udp { fabric.datagram(NOW, &wish) } else { fabric.connect(NOW, &wish) };
        let (traced, untraced) = (go(&mut lab.fabric), go(&mut twin));
        prop_assert_eq!(&traced.result, &untraced.result, "the trace changed something");
        prop_assert_eq!(trace.delivered(), traced.result.is_ok());
        prop_assert_eq!(traced.result.is_ok(), traced.reason.is_empty());
        prop_assert!(!trace.to_string().is_empty());
    }
}
