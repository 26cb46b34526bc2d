//! Programming a real kernel, each figure as a ratio to the usual tool in the same kernel. Not criterion: every fill needs
//! an empty kernel of its own, and is long enough to be timed once.
//!
//! Run it in a guest with `make bench-kernel`. Every measurement has a fresh network namespace.
#![allow(clippy::unwrap_used, reason = "a benchmark that fails shall stop")]

use std::fmt::Write as _;
use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use fairway_backend_filter::FilterBackend;
use fairway_backend_ipvs::IpvsBackend;
use fairway_backend_route::RouteBackend;
use fairway_backend_route::setup::Setup;
use fairway_desired::filter::{self, Datum, Field, FieldType, Match, Rule, Set, Verdict};
use fairway_desired::ipvs::{self, Forwarding, RealServer, RealServerKey, Scheduler, VirtualServer, VirtualServerKey};
use fairway_desired::{
    Backend, Family, Filter, Ipvs, LinkKind, MAIN_TABLE, NextHop, Op, Outcome, Plane, Protocol, Route, RouteKey,
    RouteKind, RouteValue,
};
use fairway_netlink::{Message, Protocol as Netlink, Socket, generic_family};
use ipnet::IpNet;
use nix::sched::{CloneFlags, unshare};

/// Ops in one call, as the reconciler sends them.
const BATCH: usize = 1_000;
const REALS: u32 = 4;
/// Single changes that are averaged.
const CHANGES: u32 = 200;

/// Runs something in a network namespace of its own.
fn alone<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    std::thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace: run as root, or in a guest");
        let mut setup = Setup::new().unwrap();
        setup.set_up("lo", true).unwrap();
        work()
    })
    .join()
    .unwrap()
}

fn timed(work: impl FnOnce()) -> Duration {
    let start = Instant::now();
    work();
    start.elapsed()
}

/// Feeds a program and times it from start to end.
fn tool(program: &str, arguments: &[&str], input: &str) -> Duration {
    timed(|| {
        let mut child = Command::new(program)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| panic!("{program}: {error}"));
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        assert!(child.wait().unwrap().success(), "{program} failed");
    })
}

fn apply<P: Plane>(backend: &mut impl Backend<P>, ops: &[Op<P>], batch: usize) {
    for part in ops.chunks(batch) {
        let outcomes = backend.apply(part).unwrap();
        assert!(outcomes.iter().all(|outcome| *outcome == Outcome::Done), "{:?}", outcomes.first());
    }
}

fn row(what: &str, ours: Duration, theirs: Duration, tool: &str, aim: &str) {
    let ratio = theirs.as_secs_f64() / ours.as_secs_f64();
    println!("| {what} | {} | {} ({tool}) | {ratio:.1} | {aim} |", show(ours), show(theirs));
}

fn show(time: Duration) -> String {
    match time.as_micros() {
        0..10_000 => format!("{} µs", time.as_micros()),
        _ => format!("{} ms", time.as_millis()),
    }
}

// ---------------------------------------------------------------- IPVS

fn virtual_ip(n: u32) -> Ipv4Addr {
    Ipv4Addr::from(0x0a60_0000 + n + 1)
}

fn real_ip(n: u32, real: u32) -> Ipv4Addr {
    Ipv4Addr::from(0x0b00_0000 + n * REALS + real + 1)
}

fn server(n: u32) -> VirtualServerKey {
    VirtualServerKey::Address { address: virtual_ip(n).into(), port: 80, protocol: Protocol::Tcp }
}

fn put_real(n: u32, address: Ipv4Addr) -> Op<Ipvs> {
    let key = ipvs::Key { server: server(n), real: Some(RealServerKey { address: address.into(), port: 8080 }) };
    Op::Put(key, ipvs::Value::Real(RealServer { weight: 1, forwarding: Forwarding::Masquerade }))
}

fn services(count: u32) -> Vec<Op<Ipvs>> {
    let one = |n| {
        let value = VirtualServer { scheduler: Scheduler::Rr, fallback: false, hash_port: false, persistence_s: None };
        let put = Op::Put(ipvs::Key { server: server(n), real: None }, ipvs::Value::Server(value));
        [put].into_iter().chain((0..REALS).map(move |real| put_real(n, real_ip(n, real))))
    };
    (0..count).flat_map(one).collect()
}

fn ipvsadm_text(count: u32) -> String {
    let mut text = String::new();
    for n in 0..count {
        let vip = virtual_ip(n);
        let _ = writeln!(text, "-A -t {vip}:80 -s rr");
        for real in 0..REALS {
            let _ = writeln!(text, "-a -t {vip}:80 -r {}:8080 -m -w 1", real_ip(n, real));
        }
    }
    text
}

/// The least that must be said: attributes of `include/uapi/linux/ip_vs.h`, nothing looked at twice.
fn minimal(count: u32) -> Duration {
    fn address(message: &mut Message, kind: u16, ip: Ipv4Addr) {
        let mut bytes = [0; 16];
        bytes[..4].copy_from_slice(&ip.octets());
        message.bytes(kind, &bytes);
    }
    fn key(message: &mut Message, n: u32) {
        message.u16(1, 2).u16(2, 6);
        address(message, 3, virtual_ip(n));
        message.be16(4, 80);
    }
    let mut socket = Socket::open(Netlink::Generic).unwrap();
    let family = generic_family(&mut socket, "IPVS").unwrap().unwrap();
    timed(|| {
        let mut messages = vec![];
        for n in 0..count {
            let mut message = Message::generic(family, 0, 1, 1);
            message.nested(1, |m| {
                key(m, n);
                m.text(6, "rr").bytes(7, &[0, 0, 0, 0, 255, 255, 255, 255]).u32(8, 0).u32(9, u32::MAX);
            });
            messages.push(message);
            for real in 0..REALS {
                let mut message = Message::generic(family, 0, 5, 1);
                message.nested(1, |m| key(m, n));
                message.nested(2, |m| {
                    address(m, 1, real_ip(n, real));
                    m.be16(2, 8080).u32(3, 0).u32(4, 1).u32(5, 0).u32(6, 0).u16(11, 2);
                });
                messages.push(message);
            }
        }
        for result in socket.requests(messages).unwrap() {
            result.unwrap();
        }
    })
}

/// Average of adding a real server and of taking it away again.
fn change(backend: &mut IpvsBackend, n: u32) -> Duration {
    let more = Ipv4Addr::new(12, 0, 0, 1);
    let Op::Put(key, _) = put_real(n, more) else { return Duration::ZERO };
    let both = timed(|| {
        for _ in 0..CHANGES / 2 {
            apply(backend, &[put_real(n, more)], 1);
            apply(backend, &[Op::<Ipvs>::Del(key.clone())], 1);
        }
    });
    both / CHANGES
}

fn ipvs() {
    for count in [1_000, 5_000, 10_000] {
        let ours = alone(move || {
            let mut backend = IpvsBackend::new().unwrap();
            let ops = services(count);
            timed(|| apply(&mut backend, &ops, BATCH))
        });
        let theirs = alone(move || tool("ipvsadm", &["-R"], &ipvsadm_text(count)));
        let least = alone(move || minimal(count));
        row(&format!("{count} services × {REALS} real servers, empty table"), ours, theirs, "`ipvsadm -R`", "≥ 8");
        row(&format!("{count} services × {REALS}, against the least"), ours, least, "minimal loop", "≥ 0.83");
    }
    let empty = alone(|| {
        let mut backend = IpvsBackend::new().unwrap();
        apply(&mut backend, &services(1), BATCH);
        change(&mut backend, 0)
    });
    let (full, observed, saved) = alone(|| {
        let mut backend = IpvsBackend::new().unwrap();
        apply(&mut backend, &services(10_000), BATCH);
        let full = change(&mut backend, 5_000);
        let observed = timed(|| assert_eq!(Backend::<Ipvs>::observe(&mut backend).unwrap().len(), 50_000));
        (full, observed, tool("ipvsadm", &["-Sn"], ""))
    });
    row("one endpoint, 10,000 services there", full, empty, "the same, 1 service there", "< 1 ms, ≥ 0.67");
    row("observing 10,000 services × 4", observed, saved, "`ipvsadm -Sn`", "≥ 5");
}

// ---------------------------------------------------------------- nftables

const ELEMENTS: u32 = 50_000;
const ENTRIES: u32 = 10_000;

fn put_address(n: u32) -> Op<Filter> {
    let element = vec![Datum::Addr(Ipv4Addr::from(0x0a00_0000 + n + 1).into())];
    Op::Put(filter::Key::Element("big".into(), element), filter::Value::Element(None))
}

fn put_entry(n: u32) -> Op<Filter> {
    let element =
        vec![Datum::Addr(Ipv4Addr::from(0x0b00_0000 + n + 1).into()), Datum::Protocol(Protocol::Tcp), Datum::Port(80)];
    Op::Put(filter::Key::Element("map".into(), element), filter::Value::Element(Some(Verdict::Accept)))
}

fn ruleset() -> Vec<Op<Filter>> {
    let v4 = FieldType::Addr(Family::V4);
    let set = |fields, verdicts| filter::Value::Set(Set { fields, interval: false, verdicts });
    let base = filter::Base { hook: filter::Hook::Forward, nat: false, priority: 0 };
    let in_big = Match::InSet { fields: vec![Field::Daddr], set: "big".into(), negate: false };
    let rules = vec![
        Rule { matches: vec![in_big], action: filter::Action::Verdict(Verdict::Accept) },
        Rule {
            matches: vec![],
            action: filter::Action::VerdictMap {
                fields: vec![Field::Daddr, Field::Protocol, Field::Dport],
                map: "map".into(),
            },
        },
    ];
    let mut ops = vec![
        Op::Put(filter::Key::Set("big".into()), set(vec![v4], false)),
        Op::Put(filter::Key::Set("map".into()), set(vec![v4, FieldType::Protocol, FieldType::Port], true)),
        Op::Put(filter::Key::Chain("forward".into()), filter::Value::Chain(Some(base))),
    ];
    ops.extend((0..ELEMENTS).map(put_address));
    ops.extend((0..ENTRIES).map(put_entry));
    ops.push(Op::Put(filter::Key::Rules("forward".into()), filter::Value::Rules(rules)));
    ops
}

fn nft_text() -> String {
    let list = |count: u32, one: &dyn Fn(u32) -> String| (0..count).map(one).collect::<Vec<_>>().join(", ");
    let big = list(ELEMENTS, &|n| Ipv4Addr::from(0x0a00_0000 + n + 1).to_string());
    let map = list(ENTRIES, &|n| format!("{} . tcp . 80 : accept", Ipv4Addr::from(0x0b00_0000 + n + 1)));
    format!(
        "table inet other {{\n set big {{ type ipv4_addr; elements = {{ {big} }}; }}\n \
         map entries {{ type ipv4_addr . inet_proto . inet_service : verdict; elements = {{ {map} }}; }}\n \
         chain forward {{ type filter hook forward priority 0; ip daddr @big accept; \
         ip daddr . meta l4proto . th dport vmap @entries; }}\n}}\n"
    )
}

fn nftables() {
    let (fill, one) = alone(|| {
        let mut backend = FilterBackend::new().unwrap();
        let ops = ruleset();
        let fill = timed(|| apply(&mut backend, &ops, usize::MAX));
        let both = timed(|| {
            for n in 0..CHANGES {
                apply(&mut backend, &[put_address(ELEMENTS + n)], 1);
            }
        });
        (fill, both / CHANGES)
    });
    let (their_fill, their_one) = alone(|| {
        let fill = tool("nft", &["-f", "-"], &nft_text());
        let all: Duration = (0..10)
            .map(|n| {
                let ip = Ipv4Addr::from(0x0a00_0000 + ELEMENTS + n + 1);
                tool("nft", &["-f", "-"], &format!("add element inet other big {{ {ip} }}\n"))
            })
            .sum();
        (fill, all / 10)
    });
    row("50,000 set elements and 10,000 verdict map entries", fill, their_fill, "`nft -f`", "≥ 3");
    row("one element more", one, their_one, "`nft -f`", "< 1 ms");
}

// ---------------------------------------------------------------- routes

const ROUTES: u32 = 10_000;

fn routes() {
    fn wire() {
        let mut setup = Setup::new().unwrap();
        setup.add("eth1", LinkKind::Dummy).unwrap();
        setup.set_up("eth1", true).unwrap();
        setup.add_address("eth1", "192.168.1.1/24".parse().unwrap()).unwrap();
    }
    let prefix = |n: u32| Ipv4Addr::from(0x0a00_0000 + n + 1);
    let ours = alone(move || {
        wire();
        let mut backend = RouteBackend::new().unwrap();
        let via: IpAddr = [192, 168, 1, 2].into();
        let put = |n| {
            let next_hops = vec![NextHop { via: Some(via), dev: None, weight: 1 }];
            Op::<Route>::Put(
                RouteKey { prefix: IpNet::from(IpAddr::from(prefix(n))), table: MAIN_TABLE, metric: 0 },
                RouteValue { kind: RouteKind::Unicast, protocol: 17, src: None, next_hops },
            )
        };
        let ops: Vec<Op<Route>> = (0..ROUTES).map(put).collect();
        timed(|| apply(&mut backend, &ops, BATCH))
    });
    let theirs = alone(move || {
        wire();
        let mut text = String::new();
        for n in 0..ROUTES {
            let _ = writeln!(text, "route add {} via 192.168.1.2 proto 17", prefix(n));
        }
        tool("ip", &["-batch", "-"], &text)
    });
    row("10,000 routes", ours, theirs, "`ip -batch`", "≥ 2");
}

fn main() {
    println!("| what | ours | theirs | times faster | aim |\n|---|---|---|---|---|");
    ipvs();
    nftables();
    routes();
}
