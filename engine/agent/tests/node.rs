//! One node against a kernel of tables.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use common::*;
use fairway_agent::{Agent, Batch, Input, Output, bfd, bgp};
use fairway_desired::{
    AddrValue, Interface, KernelEvent, LinkKind, LinkValue, MAIN_TABLE, NextHop, OVERLAY_TABLE, Op, Outcome,
    PROTO_KUBE_ROUTER, PlaneId, RouteKey, RouteKind, RouteValue, Tunnel, ipvs,
};
use fairway_objects::{Delta, Kind, Node, NodeConfig, Object, Overlay, RouterConfig, RouterSessions, Scheduler};
use proptest::prelude::*;

fn started(config: NodeConfig, kernel: Kernel, objects: &[Object]) -> Host {
    let mut host = Host::new(config, kernel);
    host.input([Input::Tick]);
    for kind in Kind::ALL {
        let of_kind: Vec<Input> = objects.iter().filter(|o| o.kind() == kind).cloned().map(put).collect();
        host.input([Input::Delta(Delta::Relist(kind))]);
        host.input(of_kind);
        host.input([Input::Delta(Delta::Listed(kind))]);
    }
    host
}

#[test]
fn built_up_in_rank_order_and_announced_last() {
    let host = started(config(), Kernel::default(), &cluster());
    assert!(host.agent.in_sync(), "{:?}", host.agent);
    let runs = host.kernel.runs();
    assert!(runs.is_sorted() && runs.iter().all(|(_, put)| *put), "{runs:?}");
    assert!(runs.contains(&(PlaneId::Link, true)) && runs.contains(&(PlaneId::Ipvs, true)), "{runs:?}");
    assert!(host.announced.iter().all(|(_, networks)| networks.is_empty()));
    assert!(host.networks().contains("10.0.0.1/32") && host.networks().contains("10.0.0.2/32"));
    assert_eq!(host.agent.parked(), []);
}

#[test]
fn programming_latency_counts_changes_after_the_first_lists_from_their_arrival() {
    let mut host = started(config(), Kernel::default(), &cluster());
    let latency = |host: &Host| {
        let planes = host.agent.planes();
        let of = |id| planes.iter().find(|plane| plane.plane == id).map(|plane| plane.latency).unwrap();
        (of(PlaneId::Ipvs), of(PlaneId::Addr))
    };
    assert!(latency(&host).0.is_empty(), "what was listed at first is no change");
    host.now += Duration::from_secs(5);
    host.agent.arrived(host.now - Duration::from_millis(3));
    host.input([put(slice(1, &[1, 2, 7]))]);
    let (ipvs, addr) = latency(&host);
    // The endpoint is one of a cluster IP and of an external one.
    assert_eq!((ipvs.len(), ipvs.sum(), addr.len()), (2, Duration::from_millis(6), 0));
    // Another look at the kernel is nothing that was heard.
    host.agent.resync();
    host.drain();
    assert_eq!(latency(&host).0.len(), 2);
    let announced = host.agent.announced();
    assert_eq!((announced.addresses, announced.withdrawn_addresses, announced.prefixes), (2, 0, 1));
    host.input([del(&service(2, Scheduler::Rr))]);
    assert_eq!(host.agent.announced().withdrawn_addresses, 1);
}

#[test]
fn planes_are_looked_at_at_least_as_often_as_the_periods_say() {
    let second = Duration::from_secs(1);
    let looks = |proxy: u64, routes: u64| {
        let (ipvs_sync, routes_sync) = (second * proxy as u32, second * routes as u32);
        let mut host = started(NodeConfig { ipvs_sync, routes_sync, ..config() }, Kernel::default(), &cluster());
        let count = |host: &Host, plane| {
            host.agent.planes().iter().find(|view| view.plane == plane).map(|view| view.stats.observations).unwrap()
        };
        let before = (count(&host, PlaneId::Ipvs), count(&host, PlaneId::Route));
        for _ in 0..300 {
            host.now += second;
            host.input([Input::Tick]);
        }
        (count(&host, PlaneId::Ipvs) - before.0, count(&host, PlaneId::Route) - before.1)
    };
    // In 300 s.
    let (ipvs, route) = looks(300, 60);
    assert!((3..=7).contains(&ipvs) && (5..=9).contains(&route), "once a minute, or so: {ipvs}, {route}");
    let (ipvs, route) = looks(10, 300);
    assert!((30..=50).contains(&ipvs) && (3..=7).contains(&route), "{ipvs}, {route}");
    let (ipvs, route) = looks(0, 5);
    assert!((200..=300).contains(&ipvs) && (60..=100).contains(&route), "never more than each second: {ipvs}, {route}");
}

#[test]
fn torn_down_in_reverse_and_withdrawn_first() {
    let mut host = started(config(), Kernel::default(), &cluster());
    host.kernel.log.clear();
    host.announced.clear();
    host.input([del(&service(2, Scheduler::Rr)), del(&slice(2, &[3, 4]))]);
    assert!(host.agent.in_sync());
    let runs: Vec<PlaneId> = host.kernel.runs().into_iter().filter(|(_, put)| !put).map(|(plane, _)| plane).collect();
    assert!(runs.len() > 2 && runs.is_sorted_by(|a, b| a > b), "{runs:?}");
    assert!(!host.networks().contains("10.0.0.2/32") && host.networks().contains("10.0.0.1/32"));
    assert!(host.announced.iter().all(|(_, networks)| !networks.contains("10.0.0.2/32")), "{:?}", host.announced);
    assert!(!host.kernel.ipvs.keys().any(|key| format!("{key:?}").contains("10.0.0.2")));
}

#[test]
fn nothing_is_applied_before_all_is_listed() {
    let objects = cluster();
    let full = started(config(), Kernel::default(), &objects).kernel;
    let mut host = Host::new(config(), Kernel { log: vec![], ..full.clone() });
    host.input([Input::Tick]);
    host.input(objects.iter().cloned().map(put));
    host.input([Input::Delta(Delta::Listed(Kind::Service))]);
    host.run_until(Duration::from_secs(300));
    assert_eq!(host.kernel.log, []);
    assert!(!host.agent.in_sync());
    host.input(listed());
    // The lists were empty, so now all of it goes.
    assert!(host.kernel.ipvs.is_empty() && host.kernel.addr.is_empty());
}

#[test]
fn a_restart_touches_nothing_that_is_right() {
    let objects = cluster();
    let mut full = started(config(), Kernel::default(), &objects).kernel;
    full.log.clear();
    let mut host = started(config(), full.clone(), &objects);
    host.run_until(Duration::from_secs(600));
    assert!(host.agent.in_sync());
    assert_eq!(host.kernel.log, []);

    // And what is wrong, and only that, is put right.
    let (stray, value) = (full.addr.keys().next().unwrap().clone(), AddrValue);
    let missing = full.ipvs.keys().next_back().unwrap().clone();
    full.ipvs.remove(&missing);
    let mut extra = stray.clone();
    extra.address = "10.0.0.99/32".parse().unwrap();
    full.addr.insert(extra.clone(), value);
    let host = started(config(), full, &objects);
    let mut log: Vec<(PlaneId, bool)> = host.kernel.log.iter().map(|(plane, put, _)| (*plane, *put)).collect();
    log.sort_unstable();
    assert_eq!(log, [(PlaneId::Addr, false), (PlaneId::Ipvs, true)]);
}

#[test]
fn tampering_is_repaired() {
    let mut host = started(config(), Kernel::default(), &cluster());
    let before = host.kernel.clone();
    host.kernel.ipvs.clear();
    host.kernel.filter.clear();
    host.kernel.log.clear();
    host.run_until(Duration::from_secs(200));
    assert!(host.agent.in_sync());
    assert_eq!(host.kernel.tables(), before.tables());
    assert!(host.kernel.log.iter().all(|(plane, put, _)| [PlaneId::Ipvs, PlaneId::Filter].contains(plane) && *put));
    host.kernel.addr.clear();
    host.agent.resync();
    host.drain();
    assert_eq!(host.kernel.tables(), before.tables());
}

#[test]
fn one_refused_key_is_reported_held_back_and_healed() {
    let mut host = started(config(), Kernel { refuse: Some(ip("10.0.0.1")), ..Kernel::default() }, &cluster());
    host.run_until(Duration::from_secs(100));
    assert!(host.agent.in_sync(), "parked keys are allowed");
    let wanted = "kernel ipvs 10.0.0.1:5001/TCP: refused: errno 22";
    assert!(host.notices.contains(wanted), "{:?}", host.notices);
    let parked = host.agent.parked();
    assert!(parked.contains(&(PlaneId::Ipvs, "10.0.0.1:5001/TCP".into(), Outcome::Refused(22))), "{parked:?}");
    assert!(parked.iter().all(|(_, key, _)| key.starts_with("10.0.0.1:")), "{parked:?}");
    let networks = host.networks();
    assert!(!networks.contains("10.0.0.1/32") && networks.contains("10.0.0.2/32"), "{networks:?}");
    host.kernel.refuse = None;
    host.run_until(Duration::from_secs(300));
    assert_eq!((host.agent.parked(), host.notices.len()), (vec![], 0), "{:?}", host.notices);
    assert!(host.networks().contains("10.0.0.1/32"));
}

#[test]
fn an_address_that_is_not_in_place_is_not_announced() {
    let host = started(config(), Kernel { refuse_addr: Some(ip("10.0.0.2")), ..Kernel::default() }, &cluster());
    assert!(host.agent.in_sync());
    assert!(
        host.notices.contains("kernel addr 10.0.0.2/32 dev kube-dummy-if: refused: errno 99"),
        "{:?}",
        host.notices
    );
    assert!(host.networks().contains("10.0.0.1/32") && !host.networks().contains("10.0.0.2/32"));
}

#[test]
fn excluded_cidrs_are_left_alone() {
    let foreign = ipvs::Key {
        server: ipvs::VirtualServerKey::Address {
            address: ip("172.16.0.1"),
            port: 80,
            protocol: fairway_desired::Protocol::Tcp,
        },
        real: None,
    };
    let value = started(config(), Kernel::default(), &cluster()).kernel.ipvs.values().next().unwrap().clone();
    let kernel = Kernel { ipvs: [(foreign.clone(), value)].into(), ..Kernel::default() };
    let excluded = vec!["172.16.0.0/16".parse().unwrap(), "10.0.0.2/32".parse().unwrap()];
    let host = started(NodeConfig { excluded_cidrs: excluded, ..config() }, kernel.clone(), &cluster());
    assert!(host.kernel.ipvs.contains_key(&foreign));
    assert!(host.notices.contains("kernel ipvs 10.0.0.2:5001/TCP: not ours, left alone"), "{:?}", host.notices);
    assert!(!host.networks().contains("10.0.0.2/32"));
    let host = started(config(), kernel.clone(), &cluster());
    assert!(!host.kernel.ipvs.contains_key(&foreign), "without the flag the whole table is ours");
    let host = started(NodeConfig { run_service_proxy: false, ..config() }, kernel.clone(), &cluster());
    assert!(host.agent.in_sync());
    assert_eq!(host.kernel.ipvs, kernel.ipvs, "without the service proxy it is not");
}

/// Answers are withheld: requests to different planes are in flight together, and gates hold meanwhile.
#[test]
fn higher_planes_wait_for_answers() {
    let mut agent = Agent::new(config(), 1);
    let mut kernel = Kernel::default();
    let now = Duration::ZERO;
    cluster().into_iter().map(put).chain(Kind::ALL.map(|kind| Input::Delta(Delta::Listed(kind)))).for_each(|input| {
        agent.handle(now, input);
    });
    let mut requests: Vec<Output> = std::iter::from_fn(|| agent.poll()).collect();
    let observed: Vec<&Output> = requests.iter().filter(|o| matches!(o, Output::Observe(_))).collect();
    assert_eq!(observed.len(), 8, "all at once");
    // The last answer first: nothing can be applied while the planes below are not known.
    requests.retain(|o| matches!(o, Output::Observe(_)));
    while let Some(request) = requests.pop() {
        let last = requests.is_empty();
        agent.handle(now, fairway_agent::serve(request, &mut kernel).unwrap());
        let more: Vec<Output> = std::iter::from_fn(|| agent.poll()).collect();
        let planes: Vec<PlaneId> =
            more.iter().filter_map(|o| if let Output::Apply(batch) = o { Some(batch.plane()) } else { None }).collect();
        assert_eq!(planes, if last { vec![PlaneId::Sysctl] } else { vec![] });
        if last {
            let Some(Output::Apply(Batch::Sysctl(ops))) = more.iter().find(|o| matches!(o, Output::Apply(_))) else {
                panic!("{more:?}");
            };
            assert!(ops.len() > 1 && ops.iter().all(|op| matches!(op, Op::Put(..))));
        }
    }
}

#[test]
fn shutdown_leaves_the_kernel_as_it_is() {
    let mut host = started(config(), Kernel::default(), &cluster());
    let before = host.kernel.clone();
    host.input([Input::Shutdown]);
    host.input([del(&service(1, Scheduler::Rr)), Input::Tick]);
    host.run_until(Duration::from_secs(1_000));
    assert_eq!(host.kernel.tables(), before.tables());
    assert_eq!(host.kernel.log.len(), before.log.len());
}

fn learned(prefix: &str) -> (RouteKey, RouteValue) {
    let key = RouteKey { prefix: prefix.parse().unwrap(), table: MAIN_TABLE, metric: 0 };
    let next_hops = vec![NextHop { via: Some(ip("192.168.1.9")), dev: None, weight: 1 }];
    (key, RouteValue { kind: RouteKind::Unicast, protocol: PROTO_KUBE_ROUTER, src: None, next_hops })
}

#[test]
fn inherited_routes_stay_until_sessions_had_their_chance() {
    let (key, value) = learned("11.0.9.0/24");
    let kernel = || Kernel { route: [(key.clone(), value.clone())].into(), ..Kernel::default() };
    let config = NodeConfig { peers: vec![peer("192.168.1.201", 65_002)], ..config() };
    let mut host = started(config, kernel(), &cluster());
    host.run_until(Duration::from_secs(80));
    assert!(host.kernel.route.contains_key(&key), "the peer may still come");
    host.run_until(Duration::from_secs(100));
    assert!(!host.kernel.route.contains_key(&key), "it did not");
    assert!(host.agent.in_sync());
    // Nobody to wait for.
    let host = started(common::config(), kernel(), &cluster());
    assert!(!host.kernel.route.contains_key(&key));
}

#[test]
fn a_kernel_without_tunnels_lacks_the_overlay_and_nothing_else() {
    let config = NodeConfig { overlay: Some(Overlay { full: false, port: Some(5555) }), ..config() };
    let kernel = Kernel { refuse_link: Some("gue/"), ..Kernel::default() };
    let host = started(config, kernel, &cluster());
    let notices: Vec<String> = host.agent.notices().map(ToString::to_string).collect();
    let said =
        |text: &&String| text.contains("link gue/5555/ipv4") && text.contains("module fou (for IPv6 fou6) is missing");
    assert!(notices.iter().any(|text| said(&text)), "{notices:?}");
    assert!(host.kernel.link.contains_key("kube-dummy-if") && host.kernel.ipvs.len() == 12, "{:?}", host.kernel.ipvs);
}

#[test]
fn inherited_tunnels_stay_with_their_routes_and_orphans_go_at_once() {
    let tunnel = |remote: &str| {
        let tunnel = Tunnel { local: ip("192.168.1.1"), remote: ip(remote), port: None };
        (Tunnel::name(tunnel.remote), LinkValue { kind: LinkKind::Tunnel(tunnel), up: true, mtu: None })
    };
    let (used, orphan) = (tunnel("192.168.9.9"), tunnel("192.168.9.8"));
    let dev = |key: RouteKey| {
        let next_hops = vec![NextHop { via: None, dev: Some(used.0.clone()), weight: 1 }];
        let value = RouteValue { kind: RouteKind::Unicast, protocol: PROTO_KUBE_ROUTER, src: None, next_hops };
        (key, value)
    };
    let main = dev(learned("11.0.9.0/24").0);
    let near = dev(RouteKey { table: OVERLAY_TABLE, ..learned("192.168.9.9/32").0 });
    let kernel = || Kernel {
        link: [used.clone(), orphan.clone()].into(),
        route: [main.clone(), near.clone()].into(),
        ..Kernel::default()
    };
    let config = NodeConfig { peers: vec![peer("192.168.1.201", 65_002)], ..config() };
    let mut host = started(config, kernel(), &cluster());
    host.run_until(Duration::from_secs(80));
    assert!(host.kernel.link.contains_key(&used.0) && host.kernel.route.contains_key(&near.0), "as long as its routes");
    assert!(!host.kernel.link.contains_key(&orphan.0), "nothing leads there");
    host.run_until(Duration::from_secs(100));
    assert!(!host.kernel.link.contains_key(&used.0) && !host.kernel.route.contains_key(&main.0));
    // The route before the tunnel: it would be gone without a word.
    let gone = |key: &str| host.kernel.log.iter().position(|(_, put, text)| !put && text.contains(key));
    assert!(gone("11.0.9.0/24") < gone(&used.0), "{:?}", host.kernel.log);
    assert!(host.agent.in_sync());
}

fn router(number: u8, networks: &[&str]) -> NodeConfig {
    let router = RouterConfig {
        asn: 65_000 + u32::from(number),
        router_id: [192, 168, 1, number].into(),
        accept: vec![("192.168.1.0/24".parse().unwrap(), vec![64_512])],
        import_reject: vec![],
        networks: networks.iter().map(|n| n.parse().unwrap()).collect(),
        addresses: vec![ip(&format!("192.168.1.{number}"))],
        peers: vec![],
        sessions: RouterSessions::default(),
    };
    NodeConfig::router("vm-201", router)
}

/// Two hosts and a wire. Connections are numbered by the dialing side's id; nothing is lost or reordered.
struct Wire {
    hosts: [Host; 2],
    addresses: [&'static str; 2],
    /// (dialing host, its connection, the other side's connection)
    links: Vec<(usize, bgp::ConnId, bgp::ConnId)>,
}

impl Wire {
    /// Carries everything that waits to be carried. Returns whether there was anything.
    fn carry(&mut self) -> bool {
        let mut any = false;
        for from in 0..2 {
            let to = 1 - from;
            for output in std::mem::take(&mut self.hosts[from].bgp) {
                any = true;
                let here = ip(self.addresses[from]);
                match output {
                    bgp::Output::Connect { conn, remote, .. } if remote.ip() == ip(self.addresses[to]) => {
                        let other = bgp::ConnId::In(self.links.len() as u64);
                        self.links.push((from, conn, other));
                        let local = (here, 40_000).into();
                        self.hosts[to].input([Input::Bgp(bgp::Input::Accepted {
                            conn: other,
                            local: remote,
                            remote: local,
                        })]);
                        self.hosts[from].input([Input::Bgp(bgp::Input::Connected { conn, local, remote })]);
                    }
                    bgp::Output::Connect { conn, .. } => {
                        self.hosts[from].input([Input::Bgp(bgp::Input::ConnectFailed { conn })]);
                    }
                    bgp::Output::Send { conn, bytes } => {
                        if let Some(conn) = self.far_end(from, conn) {
                            let bytes = bytes.to_vec();
                            self.hosts[to].input([Input::Bgp(bgp::Input::Received { conn, bytes })]);
                        }
                    }
                    bgp::Output::Close { conn } => {
                        if let Some(conn) = self.far_end(from, conn) {
                            self.hosts[to].input([Input::Bgp(bgp::Input::Closed { conn })]);
                        }
                    }
                    bgp::Output::Listen { .. }
                    | bgp::Output::Watch { .. }
                    | bgp::Output::Drain { .. }
                    | bgp::Output::Limit { .. }
                    | bgp::Output::Password { .. }
                    | bgp::Output::Learned(_)
                    | bgp::Output::Event(_) => {}
                }
            }
        }
        any
    }

    fn far_end(&self, host: usize, conn: bgp::ConnId) -> Option<bgp::ConnId> {
        let (_, out, incoming) =
            self.links.iter().find(|(dialer, out, incoming)| conn == if *dialer == host { *out } else { *incoming })?;
        Some(if conn == *out { *incoming } else { *out })
    }

    fn run_until(&mut self, end: Duration) {
        let mut now = self.hosts[0].now;
        loop {
            self.hosts.iter_mut().for_each(Host::drain);
            while self.carry() {}
            let next = self.hosts.iter().filter_map(|h| h.agent.deadline()).min().unwrap_or(end);
            let over = next > end;
            now = now.max(next.min(end));
            for host in &mut self.hosts {
                host.now = now;
                host.input([Input::Tick]);
            }
            if over {
                while self.carry() {}
                return;
            }
        }
    }
}

#[test]
fn two_agents_exchange_routes() {
    let config = NodeConfig { peers: vec![peer("192.168.1.201", 65_201)], ..config() };
    let (stale, value) = learned("11.0.9.0/24");
    let (again, _) = learned("20.0.0.0/8");
    let kernel = Kernel { route: [(stale.clone(), value.clone()), (again.clone(), value)].into(), ..Kernel::default() };
    let node = started(config, kernel, &cluster());
    let mut router = Host::new(router(201, &["20.0.0.0/8"]), Kernel::default());
    router.input([Input::Tick]);
    let mut wire = Wire { hosts: [node, router], addresses: ["192.168.1.1", "192.168.1.201"], links: vec![] };
    wire.run_until(Duration::from_secs(30));
    for host in &wire.hosts {
        let neighbors = host.agent.speaker().neighbors();
        assert_eq!(neighbors.iter().map(|n| n.state).collect::<Vec<_>>(), [bgp::SessionState::Established]);
        assert!(host.agent.in_sync(), "{:?}", host.agent);
    }
    let via = |host: &Host, prefix: &str| {
        let key = RouteKey { prefix: prefix.parse().unwrap(), table: MAIN_TABLE, metric: 0 };
        host.kernel.route.get(&key).map(|value| value.next_hops.iter().filter_map(|n| n.via).collect::<Vec<_>>())
    };
    assert_eq!(via(&wire.hosts[1], "10.0.0.1/32"), Some(vec![ip("192.168.1.1")]));
    assert_eq!(via(&wire.hosts[1], "10.0.0.2/32"), Some(vec![ip("192.168.1.1")]));
    assert_eq!(via(&wire.hosts[0], "20.0.0.0/8"), Some(vec![ip("192.168.1.201")]));
    assert!(!wire.hosts[0].kernel.route.contains_key(&stale), "the only peer had its say");
    let touched =
        |key: &RouteKey, put: bool| wire.hosts[0].kernel.log.contains(&(PlaneId::Route, put, format!("{key:?}")));
    assert!(touched(&again, true) && !touched(&again, false), "corrected, never removed");

    wire.hosts[0].input([del(&service(2, Scheduler::Rr))]);
    wire.run_until(Duration::from_secs(60));
    assert_eq!(via(&wire.hosts[1], "10.0.0.2/32"), None);
    assert!(via(&wire.hosts[1], "10.0.0.1/32").is_some());

    wire.hosts[0].input([Input::Shutdown]);
    wire.run_until(Duration::from_secs(61));
    assert_eq!(via(&wire.hosts[1], "10.0.0.1/32"), None, "withdrawn with the session");
    assert!(via(&wire.hosts[0], "20.0.0.0/8").is_some(), "the data plane stays");
}

#[derive(Clone, Debug)]
enum Step {
    Put(Object),
    Del(Object),
    Relist(Kind),
    Listed(Kind),
    Drain,
    Advance(u32),
    Tamper(u8),
}

fn object() -> impl Strategy<Value = Object> {
    prop_oneof![
        1 => Just(node("vm-001", "192.168.1.1", "11.0.1.0/24")),
        1 => Just(node("vm-002", "192.168.1.2", "11.0.2.0/24")),
        4 => (1..5_u8, any::<bool>()).prop_map(|(n, sh)| service(n, if sh { Scheduler::Sh } else { Scheduler::Rr })),
        4 => (1..5_u8, prop::collection::btree_set(1..9_u8, 0..4))
            .prop_map(|(n, endpoints)| slice(n, &endpoints.into_iter().collect::<Vec<_>>())),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let kind = || prop::sample::select(Kind::ALL.as_slice());
    prop_oneof![
        8 => object().prop_map(Step::Put),
        3 => object().prop_map(Step::Del),
        1 => kind().prop_map(Step::Relist),
        2 => kind().prop_map(Step::Listed),
        6 => Just(Step::Drain),
        3 => (0..40_000_u32).prop_map(Step::Advance),
        1 => (0..4_u8).prop_map(Step::Tamper),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    /// Any history and any faults: in the end the kernel has what the objects that are left call for.
    #[test]
    fn converges(seed: u64, listed_first: bool, steps in prop::collection::vec(step(), 0..80)) {
        let kernel = Kernel { faults: Some(oorandom::Rand32::new(seed)), ..Kernel::default() };
        let mut host = Host::new(config(), kernel);
        if listed_first {
            host.input(listed());
        }
        for step in steps {
            match step {
                Step::Put(object) => host.agent.handle(host.now, put(object)),
                Step::Del(object) => host.agent.handle(host.now, del(&object)),
                Step::Relist(kind) => host.agent.handle(host.now, Input::Delta(Delta::Relist(kind))),
                Step::Listed(kind) => host.agent.handle(host.now, Input::Delta(Delta::Listed(kind))),
                Step::Drain => host.drain(),
                Step::Advance(ms) => {
                    host.now += Duration::from_millis(ms.into());
                    host.input([Input::Tick]);
                }
                Step::Tamper(plane) => {
                    host.drain();
                    match plane {
                        0 => drop(host.kernel.addr.pop_first()),
                        1 => drop(host.kernel.filter.pop_first()),
                        2 => drop(host.kernel.route.pop_first()),
                        _ => drop(host.kernel.ipvs.pop_last()),
                    }
                    // The kernel asserts that no op is needless, so the agent has to see the change before it acts.
                    let faults = host.kernel.faults.take();
                    host.agent.resync();
                    host.drain();
                    host.kernel.faults = faults;
                }
            }
        }
        host.kernel.faults = None;
        let last = [node("vm-001", "192.168.1.1", "11.0.1.0/24"), service(1, Scheduler::Rr), slice(1, &[1, 2])];
        host.input(Kind::ALL.map(|kind| Input::Delta(Delta::Relist(kind))));
        host.input(last.iter().cloned().map(put));
        host.input(Kind::ALL.map(|kind| Input::Delta(Delta::Listed(kind))));
        let end = host.now + Duration::from_secs(300);
        host.run_until(end);
        prop_assert!(host.agent.in_sync(), "{:?}", host.agent);
        prop_assert_eq!(host.agent.parked(), vec![]);
        let (desired, _) = fairway_compute::from_scratch(&config(), last, [], None);
        prop_assert_eq!(&host.kernel.link, &desired.link);
        prop_assert_eq!(&host.kernel.addr, &desired.addr);
        prop_assert_eq!(&host.kernel.filter, &desired.filter);
        prop_assert_eq!(&host.kernel.rule, &desired.rule);
        prop_assert_eq!(&host.kernel.route, &desired.route);
        prop_assert_eq!(&host.kernel.pod, &desired.pod);
        prop_assert_eq!(&host.kernel.ipvs, &desired.ipvs);
        prop_assert_eq!(host.agent.speaker().observe(), desired.bgp);
        prop_assert!(desired.sysctl.iter().all(|(key, value)| host.kernel.sysctl.get(key) == Some(value)));
        // Nothing is left to do.
        let ops = host.kernel.log.len();
        host.agent.resync();
        host.drain();
        prop_assert_eq!(host.kernel.log.len(), ops);
    }
}

/// The node's link to the router, as its kernel tells of it.
fn eth1(up: bool) -> Input {
    let interface = Interface {
        up,
        carrier: up,
        mtu: 1500,
        addresses: vec![ip("192.168.1.1")],
        on_link: vec!["192.168.1.0/24".parse().unwrap()],
    };
    Input::Kernel(KernelEvent::Interface("eth1".into(), Some(interface)))
}

/// A node that learned 20.0.0.0/8 from an internal neighbour, so that its session survives its link.
fn learner() -> (Wire, RouteKey) {
    let config = NodeConfig { peers: vec![peer("192.168.1.201", 65_201)], cluster_asn: Some(65_201), ..config() };
    let mut router = router(201, &["20.0.0.0/8"]);
    if let fairway_objects::Role::Router(router) = &mut router.role {
        router.accept = vec![("192.168.1.0/24".parse().unwrap(), vec![65_201])];
    }
    let mut node = started(config, Kernel::default(), &cluster());
    node.input([eth1(true)]);
    let mut router = Host::new(router, Kernel::default());
    router.input([Input::Tick]);
    let mut wire = Wire { hosts: [node, router], addresses: ["192.168.1.1", "192.168.1.201"], links: vec![] };
    wire.run_until(Duration::from_secs(10));
    let (key, _) = learned("20.0.0.0/8");
    assert!(wire.hosts[0].kernel.route.contains_key(&key));
    (wire, key)
}

#[test]
fn a_learned_route_goes_and_comes_with_its_link() {
    let (mut wire, key) = learner();
    let node = &mut wire.hosts[0];
    let observed = node.observed;
    // Set down: the kernel drops the route by itself, and says nothing about it.
    node.kernel.route.remove(&key);
    node.input([eth1(false)]);
    assert!(!node.kernel.route.contains_key(&key));
    assert_eq!(node.agent.speaker().neighbors()[0].accepted, 0, "the speaker knows, too");
    node.input([eth1(true)]);
    assert!(node.kernel.route.contains_key(&key));
    // Down and up again before anybody looked.
    node.kernel.route.remove(&key);
    node.agent.handle(node.now, eth1(false));
    node.input([eth1(true)]);
    assert!(node.kernel.route.contains_key(&key));
    assert_eq!(node.observed, observed, "no table was read for that");
}

#[test]
fn a_route_that_somebody_deletes_is_back_at_once() {
    let (mut wire, key) = learner();
    let node = &mut wire.hosts[0];
    let start = node.now;
    node.kernel.route.remove(&key);
    node.input([Input::Kernel(KernelEvent::Changed(PlaneId::Route))]);
    node.run_until(start + Duration::from_millis(100));
    assert!(node.kernel.route.contains_key(&key));
    // Whoever goes on is answered once a second.
    let observed = node.observed;
    for n in 1..=50 {
        node.input([Input::Kernel(KernelEvent::Changed(PlaneId::Route))]);
        node.run_until(start + Duration::from_millis(100 * n));
    }
    assert!(node.observed - observed <= 6, "{}", node.observed - observed);
}

/// The node with one neighbour, whose object can be edited.
struct Edited {
    wire: Wire,
    node: Node,
}

impl Edited {
    fn new() -> Edited {
        let node = Node {
            internal_ips: vec![ip("192.168.1.1")],
            pod_cidrs: vec!["11.0.1.0/24".parse().unwrap()],
            peers: vec![peer("192.168.1.201", 65_201)],
            ..Node::new(fairway_objects::ObjectName::cluster("vm-001"))
        };
        let mut objects = cluster();
        objects[0] = Object::Node(Arc::new(node.clone()));
        let config = NodeConfig { enable_ipv6: true, ..config() };
        let mut router = Host::new(router(201, &["20.0.0.0/8", "20.1.0.0/16"]), Kernel::default());
        router.input([Input::Tick]);
        let hosts = [started(config, Kernel::default(), &objects), router];
        let mut edited =
            Edited { wire: Wire { hosts, addresses: ["192.168.1.1", "192.168.1.201"], links: vec![] }, node };
        edited.pass(30);
        assert_eq!(edited.sessions(), 1);
        edited
    }

    fn pass(&mut self, seconds: u64) {
        let end = self.wire.hosts[0].now + Duration::from_secs(seconds);
        self.wire.run_until(end);
    }

    /// How often the session came up so far; it is up.
    fn sessions(&self) -> u32 {
        let neighbors = self.wire.hosts[0].agent.speaker().neighbors();
        let [neighbor] = &neighbors[..] else { panic!("{neighbors:?}") };
        assert_eq!(neighbor.state, bgp::SessionState::Established, "{:?}", neighbor.last_error);
        neighbor.established
    }

    /// Edits the object and returns whether the session was reset.
    fn edit(&mut self, change: impl FnOnce(&mut Node)) -> bool {
        let before = self.sessions();
        change(&mut self.node);
        self.wire.hosts[0].input([put(Object::Node(Arc::new(self.node.clone())))]);
        self.pass(30);
        assert!(self.wire.hosts[0].agent.in_sync());
        self.sessions() != before
    }

    /// What the router has of the first service's address: AS path, communities, next hop.
    fn announced(&self) -> (Vec<u32>, Vec<u32>, IpAddr) {
        let paths = self.wire.hosts[1].agent.speaker().lookup("10.0.0.1/32".parse().unwrap());
        let path = paths.first().expect("announced");
        (path.as_path(), path.attributes.communities.clone(), path.next_hop)
    }

    fn learned(&self) -> usize {
        self.wire.hosts[0].kernel.route.values().filter(|value| value.protocol == PROTO_KUBE_ROUTER).count()
    }
}

#[test]
fn what_is_said_to_a_neighbour_changes_under_its_session() {
    let mut edited = Edited::new();
    assert_eq!(edited.announced(), (vec![64_512], vec![], ip("192.168.1.1")));
    assert_eq!(edited.learned(), 2);
    assert!(!edited.edit(|node| node.communities = vec![65_001 << 16 | 100]));
    assert_eq!(edited.announced().1, [65_001 << 16 | 100]);
    assert!(!edited.edit(|node| node.path_prepend = Some((65_009, 2))));
    assert_eq!(edited.announced().0, [65_009, 65_009, 64_512]);
    assert!(!edited.edit(|node| node.import_reject = vec!["20.1.0.0/16".parse().unwrap()]));
    assert_eq!(edited.learned(), 1, "what is refused leaves the kernel");
    assert!(!edited.edit(|node| node.unschedulable = true));
    assert_eq!(edited.announced().1, [65_001 << 16 | 100, 0xffff_0000]);
    assert!(!edited.edit(|node| node.pod_cidrs = vec!["11.0.2.0/24".parse().unwrap()]));
    assert!(!edited.edit(|node| node.peers[0].options.max_prefixes = Some(100)));
    assert!(!edited.edit(|node| {
        *node = Node {
            communities: vec![],
            path_prepend: None,
            import_reject: vec![],
            unschedulable: false,
            ..node.clone()
        };
    }));
    assert_eq!(edited.announced(), (vec![64_512], vec![], ip("192.168.1.1")));
    assert_eq!(edited.learned(), 2);
}

#[test]
fn a_session_is_reset_where_the_protocol_needs_it() {
    let mut edited = Edited::new();
    assert!(edited.edit(|node| node.peers[0].password = Some("secret".into())), "TCP");
    assert!(!edited.edit(|node| node.peers[0].local = Some(ip("192.168.1.1"))), "it was that address already");
    assert!(edited.edit(|node| node.peers[0].local = Some(ip("192.168.1.7"))), "TCP");
    assert!(edited.edit(|node| node.peers[0].options.hold_s = Some(30)), "OPEN");
    assert!(edited.edit(|node| node.internal_ips.push(ip("fd00::1"))), "another family");
    assert!(edited.edit(|node| node.internal_ips[0] = ip("192.168.1.3")), "another identifier");
    assert_eq!(edited.announced().2, ip("192.168.1.3"));
    // A neighbour in another AS is another neighbour, and ours does not come up as such.
    edited.node.peers[0].asn = 65_202;
    let node = Object::Node(Arc::new(edited.node.clone()));
    edited.wire.hosts[0].input([put(node)]);
    edited.pass(10);
    let neighbors = edited.wire.hosts[0].agent.speaker().neighbors();
    assert_ne!(neighbors[0].state, bgp::SessionState::Established);
    assert_eq!(edited.learned(), 0);
    edited.node.peers[0].asn = 65_201;
    let node = Object::Node(Arc::new(edited.node.clone()));
    edited.wire.hosts[0].input([put(node)]);
    edited.pass(40);
    assert_eq!(edited.learned(), 2);
}

#[test]
fn a_neighbour_that_is_wrong_or_gone_disturbs_no_other() {
    let mut edited = Edited::new();
    let wrong = |node: &mut Node| {
        node.peers.push(peer("192.168.1.1", 65_202));
        node.peers.push(peer("192.168.1.201", 65_203));
        node.peers.push(fairway_objects::BgpPeer { local: Some(ip("fd00::1")), ..peer("192.168.1.202", 65_202) });
    };
    assert!(!edited.edit(wrong));
    let notices: Vec<String> = edited.wire.hosts[0].notices.iter().cloned().collect();
    let expected = [
        "Node vm-001: BGP peer 192.168.1.1: this is the node's own address",
        "Node vm-001: BGP peer 192.168.1.201: listed twice; the first entry counts",
        "Node vm-001: BGP peer 192.168.1.202: the local address is of another family",
    ];
    for expected in expected {
        assert!(notices.iter().any(|notice| notice == expected), "no {expected} in {notices:?}");
    }
    assert!(!edited.edit(|node| node.peers.truncate(1)));
    assert!(!edited.wire.hosts[0].notices.iter().any(|notice| notice.contains("BGP peer")));
}

/// Whom BFD speaks to, and what it says.
fn bfd_said(host: &mut Host) -> Vec<bfd::Packet> {
    let said = std::mem::take(&mut host.bfd).into_iter().filter_map(|output| match output {
        bfd::Output::Send { bytes, .. } => Some(bfd::Packet::decode(&bytes).unwrap()),
        _ => None,
    });
    said.collect()
}

fn watched() -> NodeConfig {
    let mut watched = peer("192.168.1.201", 65_201);
    watched.bfd =
        Some(fairway_objects::BfdConfig { port: 3784, desired_min_tx_ms: 100, required_min_rx_ms: 100, multiplier: 3 });
    NodeConfig { peers: vec![watched], ..config() }
}

/// The router says something by BFD.
fn bfd_hear(host: &mut Host, state: bfd::State) {
    let view = host.agent.bfd().session(ip("192.168.1.201")).unwrap();
    let packet = bfd::Packet {
        diagnostic: bfd::Diagnostic::NONE,
        state,
        poll: false,
        last: false,
        control_plane_independent: false,
        demand: false,
        multiplier: 3,
        my_discriminator: 5,
        your_discriminator: view.discriminator,
        desired_min_tx_us: 100_000,
        required_min_rx_us: 100_000,
        required_min_echo_rx_us: 0,
    };
    host.input([Input::Bfd(bfd::Input::Received {
        local: (ip("192.168.1.1"), bfd::PORT).into(),
        remote: (ip("192.168.1.201"), 50_000).into(),
        ttl: 255,
        payload: bfd::Payload::new(&packet.encode()),
    })]);
}

#[test]
fn a_bfd_session_that_fails_ends_the_bgp_session_within_the_detection_time() {
    let router = router(201, &["10.1.0.0/24"]);
    let hosts = [started(watched(), Kernel::default(), &cluster()), started(router, Kernel::default(), &[])];
    let mut wire = Wire { hosts, addresses: ["192.168.1.1", "192.168.1.201"], links: vec![] };
    let node = &mut wire.hosts[0];
    let opened: Vec<&bfd::Output> = node.bfd.iter().take(2).collect();
    let [bfd::Output::Listen { port: 3784 }, bfd::Output::Open { peer, local, remote, .. }] = opened[..] else {
        panic!("{opened:?}")
    };
    assert_eq!((*peer, *local), (ip("192.168.1.201"), Some(ip("192.168.1.1"))));
    assert_eq!(*remote, (ip("192.168.1.201"), 3784).into());
    assert_eq!(bfd_said(node).iter().map(|p| p.state).collect::<Vec<_>>(), [bfd::State::Down]);
    wire.run_until(Duration::from_secs(5));
    let established =
        |wire: &Wire| wire.hosts[0].agent.speaker().neighbors()[0].state == bgp::SessionState::Established;
    assert!(established(&wire), "BGP does not wait for BFD, which has heard nothing");
    let prefix = "10.1.0.0/24".parse().unwrap();
    let key = RouteKey { prefix, table: MAIN_TABLE, metric: 0 };
    assert!(wire.hosts[0].kernel.route.contains_key(&key));
    let node = &mut wire.hosts[0];
    bfd_hear(node, bfd::State::Down);
    bfd_hear(node, bfd::State::Up);
    assert_eq!(node.agent.bfd().session(ip("192.168.1.201")).unwrap().state, bfd::State::Up);
    // AdminDown is no failure, and neither is what follows.
    bfd_hear(node, bfd::State::AdminDown);
    assert!(established(&wire));
    let node = &mut wire.hosts[0];
    bfd_hear(node, bfd::State::Down);
    bfd_hear(node, bfd::State::Up);
    let up = node.now;
    node.run_until(up + Duration::from_millis(299));
    assert!(established(&wire));
    let node = &mut wire.hosts[0];
    node.run_until(up + Duration::from_millis(300));
    assert!(!established(&wire));
    assert!(!wire.hosts[0].kernel.route.contains_key(&key), "and the routes are gone");
    // The neighbour is told so with Cease 6/10.
    let said = wire.hosts[0]
        .bgp
        .iter()
        .any(|output| matches!(output, bgp::Output::Send { bytes, .. } if bytes[18..] == [3, 6, 10]));
    assert!(said, "{:?}", wire.hosts[0].bgp);
    wire.run_until(Duration::from_secs(25));
    assert!(established(&wire), "it comes again without BFD");
}

#[test]
fn shutting_down_says_admin_down_and_a_neighbour_without_bfd_has_none() {
    let mut host = started(watched(), Kernel::default(), &cluster());
    bfd_hear(&mut host, bfd::State::Down);
    bfd_said(&mut host);
    host.input([Input::Shutdown]);
    assert_eq!(bfd_said(&mut host).iter().map(|p| p.state).collect::<Vec<_>>(), [bfd::State::AdminDown]);
    host.run_until(host.now + Duration::from_secs(10));
    assert_eq!(
        host.bfd[host.bfd.len() - 2..],
        [bfd::Output::Close { peer: ip("192.168.1.201") }, bfd::Output::Unlisten { port: bfd::PORT }]
    );
    let plain = NodeConfig { peers: vec![peer("192.168.1.201", 65_201)], ..config() };
    let host = started(plain, Kernel::default(), &cluster());
    assert_eq!((host.bfd.len(), host.agent.bfd().sessions().count()), (0, 0));
}

#[test]
fn over_several_hops_the_port_is_another() {
    for (ttl, port, expected) in [(3, 3784, 4784), (3, 4000, 4000), (1, 3784, 3784)] {
        let mut config = watched();
        config.peers[0].options.multihop_ttl = Some(ttl);
        config.peers[0].bfd.as_mut().unwrap().port = port;
        let host = started(config, Kernel::default(), &cluster());
        let remote = host.bfd.iter().find_map(|output| match output {
            bfd::Output::Open { remote, .. } => Some(remote.port()),
            _ => None,
        });
        assert_eq!(remote, Some(expected));
    }
}

#[test]
fn neighbours_beyond_the_bound_are_told_of_and_wait_for_room() {
    let mut config = watched();
    let first = config.peers[0].clone();
    let many = bfd::SESSIONS_MAX as u32 + 2;
    config.peers = (0..many)
        .map(|n| fairway_objects::BgpPeer {
            address: std::net::Ipv4Addr::from(0x0b00_0000 + n).into(),
            ..first.clone()
        })
        .collect();
    let mut host = started(config, Kernel::default(), &cluster());
    assert_eq!(host.agent.bfd().sessions().count(), bfd::SESSIONS_MAX);
    let standing = |host: &Host| host.notices.iter().filter(|n| n.contains("BFD sessions already")).count();
    assert_eq!(standing(&host), 2, "{:?}", host.notices);
    let disable = bgp::Input::EnablePeer { peer: ip("11.0.0.7"), enabled: false, message: String::new() };
    host.input([Input::Bgp(disable)]);
    assert_eq!((host.agent.bfd().sessions().count(), standing(&host)), (bfd::SESSIONS_MAX, 1));
}
