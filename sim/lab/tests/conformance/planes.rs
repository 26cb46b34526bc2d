//! The same ops give the same outcomes and the same tables.
//!
//! Sequences of batches are generated, with values that are right and wrong, and with keys that somebody else has. Each
//! batch goes to both kernels; then every outcome and every table is compared. Each case has a network namespace of its
//! own.
//!
//! Stated deviations, which the generators leave out:
//! - Rules of one priority differ in their mark: a deletion without a selector deletes the first rule there is.
//! - `kube-dummy-if` is set down by nobody. Linux drops IPv6 addresses and routes of an interface that goes down.
//! - A local route is written only for an address that is there, as the agent does: Linux routes others as well, but
//!   forgets and keeps them by rules that depend on the order in which addresses came.
//! - Real servers are local or remote unicast addresses; Linux asks its routing table what an address is.
//! - nftables refuses a chain, set or rule for reasons of its own order (`EBUSY`, `ENOENT`, `EINVAL`, `EOPNOTSUPP`) that
//!   are all one to us: the transaction is refused. The numbers are not compared there.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::net::IpAddr;
use std::time::Duration;

use fairway_backend_filter::FilterBackend;
use fairway_backend_ipvs::IpvsBackend;
use fairway_backend_route::RouteBackend;
use fairway_backend_route::setup::Setup;
use fairway_desired::filter::{
    self, Action, Base, CtState, Datum, Field, FieldType, Hook, IcmpKind, Match, Set, Verdict,
};
use fairway_desired::ipvs::{self, Forwarding, RealServer, RealServerKey, Scheduler, VirtualServer, VirtualServerKey};
use fairway_desired::{
    Addr, AddrKey, AddrValue, Backend, Family, Filter, Ipvs, LOCAL_TABLE, Link, LinkKind, LinkValue, MAIN_TABLE,
    NextHop, Op, Outcome, PROTO_KERNEL, PROTO_KUBE_ROUTER, Plane, Protocol, Route, RouteKey, RouteKind, RouteValue,
    Rule, RuleKey, RuleValue, Sysctl,
};
use fairway_kernel::{Fabric, HostId, Kernel};
use ipnet::IpNet;
use nix::sched::{CloneFlags, unshare};
use proptest::prelude::*;
use proptest::sample::select;
use proptest::test_runner::{Config, FileFailurePersistence, TestCaseError, TestRunner};

pub(crate) fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

pub(crate) fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

/// Runs so many generated cases, or says why not. Failing seeds are kept beside this file where that can be written.
pub(crate) fn cases<S: Strategy>(
    count: u32,
    strategy: S,
    case: impl Fn(S::Value) -> Result<(), TestCaseError> + Send + Sync,
) where
    S::Value: Send + Debug + Clone,
{
    let supported = std::thread::scope(|scope| scope.spawn(supported).join().unwrap());
    if let Err(why) = supported {
        println!("skipped: {why}");
        return;
    }
    let kept = FileFailurePersistence::WithSource("regressions");
    let config =
        Config { cases: count, failure_persistence: Some(Box::new(kept)), ..Config::with_source_file(file!()) };
    let config = match std::env::var("PROPTEST_CASES").ok().and_then(|n| n.parse().ok()) {
        Some(cases) => Config { cases, ..config },
        None => config,
    };
    let result = TestRunner::new(config).run(&strategy, |value| {
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                unshare(CloneFlags::CLONE_NEWNET).unwrap();
                case(value)
            });
            thread.join().unwrap_or_else(|_| Err(TestCaseError::fail("a panic, see above")))
        })
    });
    if let Err(error) = result {
        panic!("{error}");
    }
}

/// Whether this kernel can play.
fn supported() -> Result<(), String> {
    unshare(CloneFlags::CLONE_NEWNET).map_err(|error| format!("no network namespace: {error}"))?;
    IpvsBackend::new().map_err(|error| error.to_string())?;
    FilterBackend::new().map_err(|error| error.to_string())?;
    match RouteBackend::new().map_err(|error| error.to_string())?.offers(LinkKind::Dummy) {
        Ok(true) => Ok(()),
        Ok(false) => Err("the kernel has no dummy interfaces: module dummy is missing".into()),
        Err(fault) => Err(format!("{fault:?}")),
    }
}

/// `EINVAL` and the like for a transaction are one refusal.
fn blurred(outcomes: &[Outcome]) -> Vec<Outcome> {
    outcomes.iter().map(|o| if matches!(o, Outcome::Refused(_)) { Outcome::Refused(0) } else { *o }).collect()
}

/// Applies a batch to both and compares the outcomes.
pub(crate) fn both<P: Plane>(
    real: &mut impl Backend<P>,
    simulated: &mut Kernel,
    ops: &[Op<P>],
    numbers: bool,
) -> Result<(), TestCaseError>
where
    Kernel: Backend<P>,
{
    // A batch names a key once, as those of the reconciler do.
    let mut named = BTreeSet::new();
    let ops: Vec<Op<P>> = ops.iter().filter(|op| named.insert(op.key().clone())).cloned().collect();
    let ops = ops.as_slice();
    let truth = real.apply(ops).unwrap();
    let guess = Backend::<P>::apply(simulated, ops).unwrap();
    let (truth, guess) = if numbers { (truth, guess) } else { (blurred(&truth), blurred(&guess)) };
    for ((op, truth), guess) in ops.iter().zip(&truth).zip(&guess) {
        prop_assert_eq!(truth, guess, "real and simulated outcome of {:?}", op);
    }
    Ok(())
}

/// Compares the tables.
pub(crate) fn same<P: Plane>(real: &mut impl Backend<P>, simulated: &mut Kernel) -> Result<(), TestCaseError>
where
    Kernel: Backend<P>,
{
    let truth = real.observe().unwrap();
    let guess = Backend::<P>::observe(simulated).unwrap();
    let only = |a: &BTreeMap<P::Key, P::Value>, b: &BTreeMap<P::Key, P::Value>| -> Vec<String> {
        a.iter().filter(|(k, v)| b.get(*k) != Some(*v)).map(|(k, v)| format!("{k:?}: {v:?}")).collect()
    };
    let (more, less) = (only(&truth, &guess), only(&guess, &truth));
    prop_assert!(more.is_empty() && less.is_empty(), "only real: {:#?}\nonly simulated: {:#?}", more, less);
    Ok(())
}

pub(crate) fn host() -> (Fabric, HostId) {
    let mut fabric = Fabric::new(1);
    let lan = fabric.add_lan("lan", Duration::from_micros(100));
    let host = fabric.add_host("host");
    fabric.attach(host, "eth1", lan);
    (fabric, host)
}

/// A batch of put and delete.
pub(crate) fn op<P: Plane>(key: P::Key, value: P::Value, put: bool) -> Op<P> {
    if put { Op::Put(key, value) } else { Op::Del(key) }
}

pub(crate) fn mostly() -> impl Strategy<Value = bool> {
    prop::bool::weighted(0.7)
}

// ---------------------------------------------------------------- links, addresses, routes, rules

#[derive(Clone, Debug)]
enum Step {
    Link(Vec<Op<Link>>),
    Addr(Vec<Op<Addr>>),
    Route(Vec<Op<Route>>),
    Rule(Vec<Op<Rule>>),
    Sysctl(Vec<Op<Sysctl>>),
}

fn link_op() -> impl Strategy<Value = Op<Link>> {
    let dummy = Just(LinkValue { kind: LinkKind::Dummy, up: true, mtu: None });
    // Too small and too large for a bridge; a dummy takes any.
    let mtu = select(vec![None, None, Some(1400), Some(1500), Some(60), Some(70_000)]);
    let bridge = (any::<bool>(), mtu).prop_map(|(up, mtu)| LinkValue { kind: LinkKind::Bridge, up, mtu });
    let plain = (select(vec!["kube-dummy-if", "kube-dummy-if", "eth1", "", "a-name-that-is-too-long"]), dummy.clone());
    let bridged = (Just("kube-bridge"), bridge);
    let wrong = (Just("kube-bridge"), dummy);
    (prop_oneof![6 => plain, 4 => bridged, 1 => wrong], mostly())
        .prop_map(|((name, value), put)| op::<Link>(name.into(), value, put))
}

fn addr_op() -> impl Strategy<Value = Op<Addr>> {
    let address = select(vec![
        "10.0.0.2/32",
        "10.0.0.3/32",
        "10.0.0.4/24",
        "fd00:2::2/128",
        "fd00:2::3/128",
        "0.0.0.0/32",
        "224.0.0.1/32",
    ]);
    let ours = (address, select(vec!["kube-dummy-if", "kube-dummy-if", "kube-dummy-if", "nobody"]));
    let theirs = Just(("192.168.1.1/24", "eth1"));
    (prop_oneof![8 => ours, 1 => theirs], mostly()).prop_map(|((address, link), put)| {
        op::<Addr>(AddrKey { address: net(address), link: link.into() }, AddrValue, put)
    })
}

fn hops(v6: bool) -> impl Strategy<Value = Vec<NextHop>> {
    // IPv4 goes by way of IPv6 neighbours, too.
    let via = if v6 {
        vec!["fd00::2", "fd00::3", "fd00::4"]
    } else {
        vec!["192.168.1.2", "192.168.1.3", "192.168.1.4", "fd00::2", "fd00::3"]
    };
    let hop =
        (select(via), select(vec![None, Some("eth1")]), 1u16..3).prop_map(|(via, dev, weight)| (via, dev, weight));
    prop::collection::vec(hop, 1..4).prop_map(|hops| {
        let mut by_via: BTreeMap<&str, (Option<&str>, u16)> = BTreeMap::new();
        for (via, dev, weight) in hops {
            by_via.insert(via, (dev, weight));
        }
        let single = by_via.len() == 1;
        let mut hops: Vec<NextHop> = by_via
            .into_iter()
            .map(|(via, (dev, weight))| NextHop {
                via: Some(ip(via)),
                dev: dev.map(Into::into),
                // The weight of a single next hop means nothing, and Linux keeps none.
                weight: if single { 1 } else { weight },
            })
            .collect();
        hops.sort();
        hops
    })
}

fn route_op() -> impl Strategy<Value = Op<Route>> {
    let unicast = prop::bool::ANY.prop_flat_map(|v6| {
        let prefixes = if v6 {
            vec!["fd00:10::/64", "fd00:11::1/128", "::/0"]
        } else {
            vec!["10.10.0.0/24", "10.11.0.1/32", "0.0.0.0/0"]
        };
        (select(prefixes), select(vec![0u32, 20]), hops(v6), select(vec![MAIN_TABLE, 78]))
    });
    let unicast = unicast.prop_map(|(prefix, metric, next_hops, table)| {
        let value = RouteValue { kind: RouteKind::Unicast, protocol: PROTO_KUBE_ROUTER, src: None, next_hops };
        (RouteKey { prefix: net(prefix), table, metric }, value)
    });
    let bare = |kind| RouteValue { kind, protocol: PROTO_KUBE_ROUTER, src: None, next_hops: vec![] };
    let silent =
        (select(vec!["10.12.0.0/24", "fd00:12::/64"]), select(vec![RouteKind::Blackhole, RouteKind::Unreachable]))
            .prop_map(move |(prefix, kind)| {
                (RouteKey { prefix: net(prefix), table: MAIN_TABLE, metric: 0 }, bare(kind))
            });
    let wrong = select(vec![
        // Nobody is there, no such interface, a family that does not go, no next hop at all, somebody else's.
        ("10.13.0.0/24", Some("172.16.0.1"), None),
        ("10.13.0.0/24", Some("192.168.1.2"), Some("nobody")),
        ("10.13.0.0/24", Some("fd00:ffff::2"), None),
        ("10.13.0.0/24", Some("fd00::1"), None),
        ("fd00:13::/64", Some("192.168.1.2"), None),
        ("10.13.0.0/24", None, None),
        ("fd00:13::/64", None, None),
        ("fd00:13::/64", Some("fd00:ffff::2"), None),
        ("fd00:13::/64", Some("fd00::2"), Some("nobody")),
        ("10.99.0.0/24", Some("192.168.1.2"), None),
    ]);
    let wrong = wrong.prop_map(|(prefix, via, dev): (&str, Option<&str>, Option<&str>)| {
        let next_hops = match (via, dev) {
            (None, None) => vec![],
            (via, dev) => vec![NextHop { via: via.map(ip), dev: dev.map(Into::into), weight: 1 }],
        };
        let value = RouteValue { kind: RouteKind::Unicast, protocol: PROTO_KUBE_ROUTER, src: None, next_hops };
        (RouteKey { prefix: net(prefix), table: MAIN_TABLE, metric: 0 }, value)
    });
    let source = prop_oneof![3 => Just(None), 1 => Just(Some("192.168.1.1")), 1 => Just(Some("9.9.9.9"))];
    let with_source = (unicast, source).prop_map(|((key, value), src)| {
        let src = src.map(ip).filter(|src| src.is_ipv6() == key.prefix.addr().is_ipv6());
        (key, RouteValue { src, ..value })
    });
    (prop_oneof![6 => with_source, 1 => silent, 2 => wrong], mostly())
        .prop_map(|((key, value), put)| op::<Route>(key, value, put))
}

fn rule_op() -> impl Strategy<Value = Op<Rule>> {
    let family = select(vec![Family::V4, Family::V6]);
    // To Linux a selector that is not given matches any in a deletion; so the sources go with the marks.
    let from = select(vec![Some("10.1.0.0/16"), Some("fd00:1::/64"), Some("10.1.0.1/16")]);
    (
        family,
        select(vec![32764u32, 32765, 100]),
        select(vec![Some(7u32), Some(8)]),
        from,
        select(vec![78u32, 79, 300, 0]),
        mostly(),
    )
        .prop_map(|(family, priority, mark, from, table, put)| {
            let from = from.map(net).filter(|_| mark == Some(8));
            op::<Rule>(RuleKey { family, priority, from, to: None, mark }, RuleValue { table }, put)
        })
}

fn sysctl_op() -> impl Strategy<Value = Op<Sysctl>> {
    let path = select(vec![
        "net/ipv4/ip_forward",
        "net/ipv4/fib_multipath_hash_policy",
        "net/ipv4/vs/conntrack",
        "net/ipv4/vs/sloppy_tcp",
        "net/ipv6/conf/all/forwarding",
        "net/ipv4/no_such_thing",
        "net/ipv4/conf/all/rp_filter",
    ]);
    (path, 0i64..2, mostly()).prop_map(|(path, value, put)| op::<Sysctl>(path.into(), value, put))
}

fn step() -> impl Strategy<Value = Step> {
    let many = 1..6;
    prop_oneof![
        1 => prop::collection::vec(link_op(), 1..3).prop_map(Step::Link),
        3 => prop::collection::vec(addr_op(), many.clone()).prop_map(Step::Addr),
        4 => prop::collection::vec(route_op(), many.clone()).prop_map(Step::Route),
        2 => prop::collection::vec(rule_op(), many).prop_map(Step::Rule),
        1 => prop::collection::vec(sysctl_op(), 1..3).prop_map(Step::Sysctl),
    ]
}

/// The services of an agent: an address on the dummy, and a local route for it.
fn service(address: &str, present: bool, src: Option<&str>) -> [Step; 2] {
    let prefix = net(address);
    let key = RouteKey { prefix, table: LOCAL_TABLE, metric: 0 };
    let next_hops = vec![NextHop { via: None, dev: Some("kube-dummy-if".into()), weight: 1 }];
    let value = RouteValue { kind: RouteKind::Local, protocol: PROTO_KERNEL, src: src.map(ip), next_hops };
    let addr =
        Step::Addr(vec![op::<Addr>(AddrKey { address: prefix, link: "kube-dummy-if".into() }, AddrValue, present)]);
    let route = Step::Route(vec![op::<Route>(key, value, present)]);
    if present { [addr, route] } else { [route, addr] }
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let served =
        (select(vec![("10.0.0.7/32", "192.168.1.1"), ("fd00:2::7/128", "fd00::1")]), prop::bool::weighted(0.6))
            .prop_map(|((address, src), present)| service(address, present, Some(src)).to_vec());
    let any = prop_oneof![3 => step().prop_map(|step| vec![step]), 1 => served];
    prop::collection::vec(any, 1..14).prop_map(|steps| {
        let first =
            Step::Link(vec![Op::Put("kube-dummy-if".into(), LinkValue { kind: LinkKind::Dummy, up: true, mtu: None })]);
        [first].into_iter().chain(steps.into_iter().flatten()).collect()
    })
}

#[test]
fn routing() {
    cases(48, steps(), |steps| {
        for parameter in ["accept_dad", "dad_transmits"] {
            for scope in ["all", "default"] {
                std::fs::write(format!("/proc/sys/net/ipv6/conf/{scope}/{parameter}"), "0").unwrap();
            }
        }
        let foreign = RouteValue {
            kind: RouteKind::Unicast,
            protocol: 3,
            src: None,
            next_hops: vec![NextHop { via: Some(ip("192.168.1.9")), dev: Some("eth1".into()), weight: 1 }],
        };
        let foreign_key = RouteKey { prefix: net("10.99.0.0/24"), table: MAIN_TABLE, metric: 0 };
        let mut setup = Setup::new().unwrap();
        setup.set_up("lo", true).unwrap();
        setup.add("eth1", LinkKind::Dummy).unwrap();
        setup.set_up("eth1", true).unwrap();
        let (mut fabric, host) = host();
        let kernel = fabric.kernel_mut(host);
        for address in ["192.168.1.1/24", "fd00::1/64"] {
            setup.add_address("eth1", net(address)).unwrap();
            kernel.add_address("eth1", net(address));
        }
        setup.add_route(foreign_key.clone(), foreign.clone()).unwrap();
        kernel.add_route(foreign_key, foreign).unwrap();
        let mut real = RouteBackend::new().unwrap();
        for step in &steps {
            match step {
                Step::Link(ops) => both::<Link>(&mut real, kernel, ops, true)?,
                Step::Addr(ops) => both::<Addr>(&mut real, kernel, ops, true)?,
                Step::Route(ops) => both::<Route>(&mut real, kernel, ops, true)?,
                Step::Rule(ops) => both::<Rule>(&mut real, kernel, ops, true)?,
                Step::Sysctl(ops) => both::<Sysctl>(&mut real, kernel, ops, true)?,
            }
            same::<Link>(&mut real, kernel)?;
            same::<Addr>(&mut real, kernel)?;
            same::<Route>(&mut real, kernel)?;
            same::<Rule>(&mut real, kernel)?;
            for (path, value) in Backend::<Sysctl>::observe(&mut real).unwrap() {
                prop_assert_eq!(kernel.sysctl(&path), Some(value), "{}", path);
            }
        }
        Ok(())
    });
}

// ---------------------------------------------------------------- IPVS

fn server() -> impl Strategy<Value = VirtualServerKey> {
    let by_address = (
        select(vec!["10.96.0.1", "10.96.0.2", "fd00:96::1"]),
        select(vec![80u16, 443]),
        select(vec![Protocol::Tcp, Protocol::Udp]),
    )
        .prop_map(|(address, port, protocol)| VirtualServerKey::Address { address: ip(address), port, protocol });
    let by_mark = (select(vec![Family::V4, Family::V6]), 1u32..3)
        .prop_map(|(family, mark)| VirtualServerKey::Mark { family, mark });
    prop_oneof![3 => by_address, 1 => by_mark]
}

fn ipvs_op() -> impl Strategy<Value = Op<Ipvs>> {
    let schedulers =
        [Scheduler::Rr, Scheduler::Wrr, Scheduler::Lc, Scheduler::Wlc, Scheduler::Dh, Scheduler::Sh, Scheduler::Mh];
    let value =
        (select(schedulers.to_vec()), any::<bool>(), any::<bool>(), select(vec![None, Some(60u32), Some(10800)]))
            .prop_map(|(scheduler, fallback, hash_port, persistence_s)| VirtualServer {
                scheduler,
                fallback,
                hash_port,
                persistence_s,
            });
    let whole = (server(), value, mostly())
        .prop_map(|(server, value, put)| op::<Ipvs>(ipvs::Key { server, real: None }, ipvs::Value::Server(value), put));
    let real = (
        server(),
        select(vec!["10.244.1.2", "10.244.1.3", "fd00:244::2"]),
        select(vec![8080u16, 8081]),
        0u32..3,
        select(vec![Forwarding::Masquerade, Forwarding::Tunnel]),
        mostly(),
    );
    let real = real.prop_map(|(server, address, port, weight, forwarding, put)| {
        let family = match &server {
            VirtualServerKey::Address { address, .. } => Family::of(*address),
            VirtualServerKey::Mark { family, .. } => *family,
        };
        let address = match (family, Family::of(ip(address))) {
            (Family::V4, Family::V6) => ip("10.244.1.4"),
            (Family::V6, Family::V4) => ip("fd00:244::3"),
            _ => ip(address),
        };
        let key = ipvs::Key { server, real: Some(RealServerKey { address, port }) };
        op::<Ipvs>(key, ipvs::Value::Real(RealServer { weight, forwarding }), put)
    });
    prop_oneof![2 => whole, 3 => real]
}

#[test]
fn virtual_servers() {
    cases(48, prop::collection::vec(prop::collection::vec(ipvs_op(), 1..12), 1..8), |batches| {
        Setup::new().unwrap().set_up("lo", true).unwrap();
        let (mut fabric, host) = host();
        let kernel = fabric.kernel_mut(host);
        let mut real = IpvsBackend::new().unwrap();
        for ops in &batches {
            both::<Ipvs>(&mut real, kernel, ops, true)?;
            same::<Ipvs>(&mut real, kernel)?;
        }
        Ok(())
    });
}

// ---------------------------------------------------------------- nftables

const SERVICE: [Field; 3] = [Field::Daddr, Field::Protocol, Field::Dport];

fn declaration(name: &str) -> Set {
    let (v4, v6) = (FieldType::Addr(Family::V4), FieldType::Addr(Family::V6));
    let (fields, interval, verdicts) = match name {
        "services4" => (vec![v4, FieldType::Protocol, FieldType::Port], false, false),
        "pods4" => (vec![v4], true, false),
        "pods6" => (vec![v6], true, false),
        "ips6" => (vec![v6], false, false),
        _ => (vec![v4, FieldType::Protocol, FieldType::Port], false, true),
    };
    Set { fields, interval, verdicts }
}

fn verdict() -> impl Strategy<Value = Verdict> {
    prop_oneof![
        Just(Verdict::Accept),
        Just(Verdict::Drop),
        Just(Verdict::Return),
        select(vec!["side", "other"]).prop_map(|name| Verdict::Jump(name.into())),
        select(vec!["side", "other"]).prop_map(|name| Verdict::Goto(name.into())),
    ]
}

fn filter_rule() -> impl Strategy<Value = filter::Rule> {
    let condition = prop_oneof![
        any::<bool>().prop_map(|negate| Match::InSet { fields: SERVICE.to_vec(), set: "services4".into(), negate }),
        any::<bool>().prop_map(|negate| Match::InSet { fields: vec![Field::Saddr], set: "pods4".into(), negate }),
        any::<bool>().prop_map(|negate| Match::InSet { fields: vec![Field::Daddr], set: "ips6".into(), negate }),
        (any::<bool>(), 1u32..4).prop_map(|(negate, value)| Match::Mark { mask: 0xff, value, negate }),
        select(vec![Family::V4, Family::V6]).prop_map(Match::Family),
        select(vec![Protocol::Tcp, Protocol::Udp, Protocol::Sctp]).prop_map(Match::Protocol),
        Just(Match::Icmp(vec![IcmpKind::EchoRequest, IcmpKind::Neighbour])),
        select(vec!["eth1", "kube-bridge"]).prop_map(|link| Match::InputLink(link.into())),
        Just(Match::CtState(vec![CtState::Established, CtState::Related])),
    ];
    let action = prop_oneof![
        3 => verdict().prop_map(Action::Verdict),
        1 => Just(Action::Verdict(Verdict::Reject)),
        1 => (1u32..4).prop_map(|value| Action::SetMark { mask: 0xff, value }),
        1 => Just(Action::VerdictMap { fields: SERVICE.to_vec(), map: "map4".into() }),
    ];
    (prop::collection::vec(condition, 0..3), action).prop_map(|(matches, action)| filter::Rule { matches, action })
}

fn filter_op() -> impl Strategy<Value = Op<Filter>> {
    let set = select(vec!["services4", "pods4", "pods6", "ips6", "map4"])
        .prop_map(|name| (filter::Key::Set(name.into()), filter::Value::Set(declaration(name))));
    let chain = select(vec![
        ("input", Some((Hook::Input, 0))),
        ("forward", Some((Hook::Forward, -5))),
        ("side", None),
        ("other", None),
    ])
    .prop_map(|(name, base)| {
        let base = base.map(|(hook, priority)| Base { hook, nat: false, priority });
        (filter::Key::Chain(name.into()), filter::Value::Chain(base))
    });
    let service = |n: u8| vec![Datum::Addr([10, 96, 0, n].into()), Datum::Protocol(Protocol::Tcp), Datum::Port(80)];
    let element = prop_oneof![
        (1u8..4).prop_map(move |n| ("services4", service(n), None)),
        select(vec!["11.0.1.0/24", "11.0.2.0/24", "11.0.3.0/25"]).prop_map(|n| (
            "pods4",
            vec![Datum::Net(net(n))],
            None
        )),
        Just(("pods6", vec![Datum::Net(net("fd00:11::/64"))], None)),
        Just(("ips6", vec![Datum::Addr(ip("fd00:96::1"))], None)),
        ((1u8..4), verdict()).prop_map(move |(n, verdict)| ("map4", service(n), Some(verdict))),
    ];
    let element = element.prop_map(|(name, element, verdict)| {
        (filter::Key::Element(name.into(), element), filter::Value::Element(verdict))
    });
    let rules = (select(vec!["input", "forward", "side", "other"]), prop::collection::vec(filter_rule(), 1..4))
        .prop_map(|(name, rules)| (filter::Key::Rules(name.into()), filter::Value::Rules(rules)));
    (prop_oneof![2 => set, 2 => chain, 4 => element, 2 => rules], prop::bool::weighted(0.8))
        .prop_map(|((key, value), put)| op::<Filter>(key, value, put))
}

/// Everything that rules name, so that most batches are right.
fn declared() -> Vec<Op<Filter>> {
    let sets = ["services4", "pods4", "pods6", "ips6", "map4"]
        .map(|name| Op::Put(filter::Key::Set(name.into()), filter::Value::Set(declaration(name))));
    let chains = ["side", "other"].map(|name| Op::Put(filter::Key::Chain(name.into()), filter::Value::Chain(None)));
    sets.into_iter().chain(chains).collect()
}

#[test]
fn packet_filter() {
    cases(48, prop::collection::vec(prop::collection::vec(filter_op(), 1..8), 1..8), |batches| {
        let (mut fabric, host) = host();
        let kernel = fabric.kernel_mut(host);
        let mut real = FilterBackend::new().unwrap();
        both::<Filter>(&mut real, kernel, &declared(), false)?;
        for ops in &batches {
            both::<Filter>(&mut real, kernel, ops, false)?;
            same::<Filter>(&mut real, kernel)?;
        }
        Ok(())
    });
}
