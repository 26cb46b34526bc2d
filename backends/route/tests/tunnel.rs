//! Tunnels to other nodes on a real kernel, as `ip` sees them. Each test has a network namespace of its own; where the
//! kernel has no tunnels they are skipped, so these are for the guest.
#![allow(clippy::unwrap_used, reason = "a helper that fails fails its test")]

use std::net::IpAddr;
use std::process::Command;

use fairway_backend_route::setup::Setup;
use fairway_backend_route::{Monitor, RouteBackend};
use fairway_desired::{
    Backend, Family, KernelEvent, Link, LinkKind, LinkValue, MAIN_TABLE, NextHop, Op, Outcome, PROTO_KUBE_ROUTER,
    PlaneId, Route, RouteKey, RouteKind, RouteValue, Rule, RuleKey, RuleValue, Tunnel, receive_port,
};
use nix::sched::{CloneFlags, unshare};

/// The network namespace of a test: `eth1` with 192.168.1.1/24 and fd00:1::1/64, a default route of each family.
struct Place {
    ours: RouteBackend,
    theirs: Setup,
}

fn alone(test: fn(Place)) {
    let thread = std::thread::spawn(move || {
        if let Err(error) = unshare(CloneFlags::CLONE_NEWNET) {
            println!("skipped: no network namespace: {error}");
            return;
        }
        let mut ours = RouteBackend::new().unwrap();
        let tunnel = LinkKind::Tunnel(tunnel("192.168.1.1", "192.168.3.3", None));
        if !ours.offers(tunnel).unwrap() {
            println!("skipped: the kernel has no tunnels: module ipip is missing");
            return;
        }
        let mut theirs = Setup::new().unwrap();
        theirs.set_up("lo", true).unwrap();
        theirs.add_veth("eth1", "far1", None).unwrap();
        for address in ["192.168.1.1/24", "192.168.1.7/24", "fd00:1::1/64"] {
            theirs.add_address("eth1", address.parse().unwrap()).unwrap();
        }
        for link in ["eth1", "far1"] {
            theirs.set_up(link, true).unwrap();
        }
        said("ip route add default via 192.168.1.200");
        said("ip -6 route add default via fd00:1::200");
        test(Place { ours, theirs });
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

/// What a command prints in the namespace of this thread, blanks made one.
fn said(command: &str) -> String {
    let mut words = command.split(' ');
    let output = Command::new(words.next().unwrap()).args(words).output().unwrap();
    assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).split_whitespace().collect::<Vec<_>>().join(" ")
}

fn has(text: &str, pieces: &[&str]) {
    for piece in pieces {
        assert!(text.contains(piece), "no `{piece}` in: {text}");
    }
}

fn index(link: &str) -> String {
    said(&format!("ip -o link show {link}")).split(':').next().unwrap().to_string()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn tunnel(local: &str, remote: &str, port: Option<u16>) -> Tunnel {
    Tunnel { local: ip(local), remote: ip(remote), port }
}

fn put(tunnel: Tunnel) -> Op<Link> {
    Op::Put(Tunnel::name(tunnel.remote), LinkValue { kind: LinkKind::Tunnel(tunnel), up: true, mtu: None })
}

fn route(prefix: &str, table: u32, dev: &str, src: Option<&str>) -> (RouteKey, RouteValue) {
    let next_hops = vec![NextHop { via: None, dev: Some(dev.into()), weight: 1 }];
    let value = RouteValue { kind: RouteKind::Unicast, protocol: PROTO_KUBE_ROUTER, src: src.map(ip), next_hops };
    (RouteKey { prefix: prefix.parse().unwrap(), table, metric: 0 }, value)
}

impl Place {
    fn apply<P: fairway_desired::Plane>(&mut self, ops: &[Op<P>]) -> Vec<Outcome>
    where
        RouteBackend: Backend<P>,
    {
        Backend::<P>::apply(&mut self.ours, ops).unwrap()
    }

    /// Ours, as a process sees it that has just started.
    fn observed(&self) -> Vec<(String, LinkValue)> {
        let table = Backend::<Link>::observe(&mut RouteBackend::new().unwrap()).unwrap();
        table.into_iter().map(|(name, value)| (name.to_string(), value)).collect()
    }
}

#[test]
fn tunnels_of_both_families_come_change_and_go() {
    alone(|mut place| {
        let four = tunnel("192.168.1.1", "192.168.3.3", None);
        let six = tunnel("fd00:1::1", "fd00:3::3", None);
        let six_name = Tunnel::name(six.remote);
        assert_eq!(place.apply(&[put(four), put(six)]), [Outcome::Done; 2]);
        // Twice is once.
        assert_eq!(place.apply(&[put(four), put(six)]), [Outcome::Done; 2]);
        has(&said("ip -d link show tun-c0a80303"), &["mtu 1480", "UP", "ipip", "remote 192.168.3.3 local 192.168.1.1"]);
        has(
            &said(&format!("ip -d link show {six_name}")),
            &["mtu 1460", "UP", "ip6tnl any remote fd00:3::3 local fd00:1::1", "encaplimit none"],
        );
        let value = |tunnel| LinkValue { kind: LinkKind::Tunnel(tunnel), up: true, mtu: None };
        let mut both = vec![("tun-c0a80303".to_string(), value(four)), (six_name.to_string(), value(six))];
        both.sort();
        assert_eq!(place.observed(), both);

        // Routes lead there, and stay while the tunnel becomes another one.
        let (key, main) = route("11.0.3.0/24", MAIN_TABLE, "tun-c0a80303", Some("192.168.1.1"));
        let (near, table) = route("192.168.3.3/32", 77, "tun-c0a80303", None);
        assert_eq!(place.apply::<Route>(&[Op::Put(near, table), Op::Put(key, main)]), [Outcome::Done; 2]);
        let encapsulated = [four, six].map(|tunnel| Tunnel { port: Some(5555), ..tunnel });
        assert_eq!(place.apply(&encapsulated.map(put)), [Outcome::Done; 2]);
        has(&said("ip -d link show tun-c0a80303"), &["mtu 1468", "encap gue encap-sport auto encap-dport 5555"]);
        has(
            &said(&format!("ip -d link show {six_name}")),
            &["mtu 1448", "encap gue encap-sport auto encap-dport 5555"],
        );
        let moved = Tunnel { local: ip("192.168.1.7"), ..four };
        assert_eq!(place.apply(&[put(moved)]), [Outcome::Done]);
        let text = said("ip -d link show tun-c0a80303");
        has(&text, &["mtu 1480", "remote 192.168.3.3 local 192.168.1.7"]);
        assert!(!text.contains("encap gue"), "{text}");
        has(
            &said("ip route show table all"),
            &[
                "11.0.3.0/24 dev tun-c0a80303 proto 17 scope link src 192.168.1.1",
                "192.168.3.3 dev tun-c0a80303 table 77 proto 17 scope link",
            ],
        );
        // Set down by somebody: a difference.
        place.theirs.set_up("tun-c0a80303", false).unwrap();
        assert!(place.observed().contains(&("tun-c0a80303".into(), LinkValue { up: false, ..value(moved) })));
        assert_eq!(place.apply(&[put(moved)]), [Outcome::Done]);

        let delete = |name: &str| Op::<Link>::Del(name.into());
        assert_eq!(place.apply(&[delete("tun-c0a80303"), delete(&six_name)]), [Outcome::Done; 2]);
        assert_eq!(place.apply(&[delete("tun-c0a80303")]), [Outcome::Gone]);
        assert_eq!(place.observed(), []);
        // A name that was another interface before: the route goes into the new one.
        assert_eq!(place.apply(&[put(four)]), [Outcome::Done]);
        let (key, value) = route("11.0.3.0/24", MAIN_TABLE, "tun-c0a80303", Some("192.168.1.1"));
        assert_eq!(place.apply::<Route>(&[Op::Put(key, value)]), [Outcome::Done]);
        has(&said("ip route"), &["11.0.3.0/24 dev tun-c0a80303"]);
    });
}

#[test]
fn what_kube_router_left_becomes_ours_without_a_gap() {
    alone(|mut place| {
        // Both nodes have this name with kube-router, and whoever came first has the interface.
        said("ip link add tun-8305f44e90d type ipip local 192.168.1.1 remote 192.168.12.1");
        said("ip link set tun-8305f44e90d up");
        said("ip route add 11.0.12.0/24 dev tun-8305f44e90d src 192.168.1.1 proto 17");
        said("ip route add 11.0.21.0/24 dev tun-8305f44e90d src 192.168.1.1 proto 17");
        said("ip link add tun-00000000abc type ip6tnl mode ip6ip6 local fd00:1::1 remote fd00:3::3");
        said("ip link set tun-00000000abc up");
        let before = index("tun-8305f44e90d");
        let old: Vec<String> = place.observed().into_iter().map(|(name, _)| name).collect();
        assert_eq!(old, ["tun-00000000abc", "tun-8305f44e90d"], "ours to keep or to delete");

        Backend::<Link>::observe(&mut place.ours).unwrap();
        let first = tunnel("192.168.1.1", "192.168.12.1", None);
        let second = tunnel("192.168.1.1", "192.168.1.21", None);
        let six = tunnel("fd00:1::1", "fd00:3::3", None);
        assert_eq!(place.apply(&[put(second), put(first), put(six)]), [Outcome::Done; 3]);
        // The same interface under another name: no route was lost, no packet either.
        assert_eq!(index("tun-c0a80c01"), before);
        has(&said("ip route"), &["11.0.12.0/24 dev tun-c0a80c01", "11.0.21.0/24 dev tun-c0a80c01"]);
        has(&said("ip -d link show tun-c0a80115"), &["remote 192.168.1.21"]);
        let name = Tunnel::name(six.remote);
        has(&said(&format!("ip -d link show {name}")), &["ip6tnl any", "encaplimit none", "mtu 1460"]);
        let (key, value) = route("11.0.21.0/24", MAIN_TABLE, "tun-c0a80115", Some("192.168.1.1"));
        Backend::<Route>::observe(&mut place.ours).unwrap();
        assert_eq!(place.apply::<Route>(&[Op::Put(key, value)]), [Outcome::Done]);
        // What it was called before is not there any more.
        let gone = ["tun-00000000abc", "tun-8305f44e90d"].map(|name| Op::<Link>::Del(name.into()));
        assert_eq!(place.apply(&gone), [Outcome::Gone; 2]);
        has(&said("ip route"), &["11.0.12.0/24 dev tun-c0a80c01", "11.0.21.0/24 dev tun-c0a80115"]);
        assert_eq!(place.observed().len(), 3);
    });
}

#[test]
fn what_is_somebody_elses_is_left_alone() {
    alone(|mut place| {
        // Our name, but it leads elsewhere; our ends, but another name.
        said("ip link add tun-c0a80303 type ipip local 192.168.1.1 remote 192.168.9.9");
        said("ip link add office type ipip local 192.168.1.1 remote 192.168.12.1");
        said("ip link add tun-c0a80105 type dummy");
        let ops = ["192.168.3.3", "192.168.12.1", "192.168.1.5"].map(|remote| put(tunnel("192.168.1.1", remote, None)));
        assert_eq!(place.apply(&ops), [Outcome::Foreign, Outcome::Refused(17), Outcome::Foreign]);
        assert_eq!(place.observed(), []);
        assert_eq!(place.apply(&[Op::<Link>::Del("tun-c0a80303".into())]), [Outcome::Foreign]);
        has(&said("ip -d link show tun-c0a80303"), &["remote 192.168.9.9"]);
        // What cannot be.
        let wrong = |name: &str, tunnel| {
            Op::<Link>::Put(name.into(), LinkValue { kind: LinkKind::Tunnel(tunnel), up: true, mtu: None })
        };
        let ops = [
            wrong("tun-c0a80304", tunnel("192.168.1.1", "192.168.3.3", None)),
            wrong("tun-c0a80304", tunnel("fd00:1::1", "192.168.3.4", None)),
            wrong("tun-00000000", tunnel("192.168.1.1", "0.0.0.0", None)),
        ];
        assert_eq!(place.apply(&ops), [Outcome::Refused(22); 3]);
    });
}

#[test]
fn ports_are_opened_closed_and_told_apart() {
    alone(|mut place| {
        let port = |family, port| {
            let (name, value) = receive_port(family, port);
            Op::<Link>::Put(name, value)
        };
        let ops = [port(Family::V4, 5555), port(Family::V6, 5555)];
        assert_eq!(place.apply(&ops), [Outcome::Done; 2]);
        assert_eq!(place.apply(&ops), [Outcome::Done; 2], "twice is once");
        let text = said("ip fou show") + " " + &said("ip -6 fou show");
        has(&text, &["port 5555 gue", "port 5555 gue -6"]);
        let names: Vec<String> = place.observed().into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["gue/5555/ipv4", "gue/5555/ipv6"]);
        // Others may have such ports: only that of the flag is ours, and what we opened.
        said("ip fou add port 6080 gue");
        assert_eq!(place.observed().len(), 2);
        let table = RouteBackend::new().unwrap().with_overlay_port(6080);
        let table = Backend::<Link>::observe(&mut { table }).unwrap();
        assert_eq!(table.keys().map(|name| name.to_string()).collect::<Vec<_>>(), ["gue/6080/ipv4"]);
        // Taken by something else.
        said("ip fou add port 7000 ipproto 4");
        let _socket = std::net::UdpSocket::bind("0.0.0.0:7001").unwrap();
        let ops = [
            port(Family::V4, 7000),
            port(Family::V4, 7001),
            Op::Put("gue/1/ipv4".into(), receive_port(Family::V4, 2).1),
        ];
        assert_eq!(place.apply(&ops), [Outcome::Foreign, Outcome::Refused(98), Outcome::Refused(22)]);
        let gone =
            [Op::<Link>::Del("gue/5555/ipv4".into()), Op::Del("gue/5555/ipv6".into()), Op::Del("gue/5555/ipv6".into())];
        assert_eq!(place.apply(&gone), [Outcome::Done, Outcome::Done, Outcome::Gone]);
        assert_eq!(place.observed(), []);
    });
}

#[test]
fn rules_of_the_overlay_are_ours_at_any_priority() {
    alone(|mut place| {
        said("ip rule add from 11.0.1.0/24 lookup 77");
        let mut fresh = RouteBackend::new().unwrap();
        let left = Backend::<Rule>::observe(&mut fresh).unwrap();
        let [(old, RuleValue { table: 77 })] = &left.into_iter().collect::<Vec<_>>()[..] else { panic!("not there") };
        let new = RuleKey { priority: 32765, ..old.clone() };
        let ops = [Op::Put(new.clone(), RuleValue { table: 77 }), Op::Del(RuleKey { priority: old.priority, ..new })];
        let outcomes = place.apply::<Rule>(&ops[..1]);
        assert_eq!(outcomes, [Outcome::Done]);
        if old.priority != 32765 {
            assert_eq!(place.apply::<Rule>(&ops[1..]), [Outcome::Done]);
        }
        assert_eq!(said("ip rule show table 77"), "32765: from 11.0.1.0/24 lookup 77");
    });
}

#[test]
fn a_tunnel_that_somebody_deletes_is_told_of() {
    alone(|mut place| {
        let mut monitor = Monitor::open(&place.ours).unwrap();
        let mut told = move || {
            let (events, _) = monitor.read(usize::MAX).unwrap();
            events.contains(&KernelEvent::Changed(PlaneId::Link))
        };
        told();
        for remote in ["192.168.3.3", "192.168.3.4"] {
            assert_eq!(place.apply(&[put(tunnel("192.168.1.1", remote, None))]), [Outcome::Done]);
        }
        assert_eq!(place.apply(&[Op::<Link>::Del("tun-c0a80304".into())]), [Outcome::Done]);
        assert!(!told(), "our own doing");
        said("ip link set tun-c0a80303 down");
        assert!(told());
        assert_eq!(place.apply(&[put(tunnel("192.168.1.1", "192.168.3.3", None))]), [Outcome::Done]);
        said("ip link del tun-c0a80303");
        assert!(told());
    });
}
