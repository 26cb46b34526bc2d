//! Tunnels between two hosts that a router joins which knows nothing of what is behind them.
#![allow(clippy::unwrap_used, reason = "a helper that fails fails its test")]

use std::net::IpAddr;
use std::time::Duration;

use fairway_desired::{
    Backend, Family, Link, LinkKind, LinkValue, MAIN_TABLE, NextHop, Op, Outcome, PROTO_KUBE_ROUTER, Plane, Protocol,
    Route, RouteKey, RouteKind, RouteValue, Rule, RuleKey, RuleValue, Tunnel, receive_port,
};
use fairway_kernel::{Connect, Fabric, HostId, Kernel};
use ipnet::IpNet;

const NOW: Duration = Duration::from_secs(10);
const REFUSED_EXISTS: Outcome = Outcome::Refused(17);
const REFUSED_INVALID: Outcome = Outcome::Refused(22);

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

fn apply<P: Plane>(kernel: &mut Kernel, ops: &[Op<P>]) -> Vec<Outcome>
where
    Kernel: Backend<P>,
{
    Backend::<P>::apply(kernel, ops).unwrap()
}

fn tunnel(local: &str, remote: &str, port: Option<u16>) -> Tunnel {
    Tunnel { local: ip(local), remote: ip(remote), port }
}

fn named(name: &str, tunnel: Tunnel) -> Op<Link> {
    Op::Put(name.into(), LinkValue { kind: LinkKind::Tunnel(tunnel), up: true, mtu: None })
}

fn put(tunnel: Tunnel) -> Op<Link> {
    named(&Tunnel::name(tunnel.remote), tunnel)
}

fn into(prefix: &str, table: u32, remote: &str) -> Op<Route> {
    let next_hops = vec![NextHop { via: None, dev: Some(Tunnel::name(ip(remote))), weight: 1 }];
    let value = RouteValue { kind: RouteKind::Unicast, protocol: PROTO_KUBE_ROUTER, src: None, next_hops };
    Op::Put(RouteKey { prefix: net(prefix), table, metric: 0 }, value)
}

/// a --one-- router --two-- b; `a` has 11.0.1.1 and fd00:11:1::1 besides, `b` 11.0.2.1 and fd00:11:2::1.
struct Pair {
    fabric: Fabric,
    a: HostId,
    b: HostId,
}

fn pair() -> Pair {
    let mut fabric = Fabric::new(1);
    let router = fabric.add_host("router");
    let mut host = |n: u8, lan: &str| {
        let lan = fabric.add_lan(lan, Duration::from_micros(100));
        let host = fabric.add_host(if n == 1 { "a" } else { "b" });
        let there = format!("eth{n}");
        fabric.attach(host, "eth1", lan);
        fabric.attach(router, &there, lan);
        for (on, link, last) in [(host, "eth1", 1), (router, there.as_str(), 200)] {
            fabric.kernel_mut(on).add_address(link, net(&format!("192.168.{n}.{last}/24")));
            fabric.kernel_mut(on).add_address(link, net(&format!("fd00:{n}::{last}/64")));
        }
        let kernel = fabric.kernel_mut(host);
        kernel.add_bridge("kube-bridge");
        kernel.add_address("kube-bridge", net(&format!("11.0.{n}.1/24")));
        kernel.add_address("kube-bridge", net(&format!("fd00:11:{n}::1/64")));
        for (prefix, via) in [("0.0.0.0/0", format!("192.168.{n}.200")), ("::/0", format!("fd00:{n}::200"))] {
            let next_hops = vec![NextHop { via: Some(ip(&via)), dev: None, weight: 1 }];
            let value = RouteValue { kind: RouteKind::Unicast, protocol: 4, src: None, next_hops };
            kernel.add_route(RouteKey { prefix: net(prefix), table: MAIN_TABLE, metric: 0 }, value).unwrap();
        }
        fabric.listen(host, Protocol::Tcp, None, 80, "it").unwrap();
        host
    };
    let (a, b) = (host(1, "one"), host(2, "two"));
    for path in ["net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"] {
        fabric.kernel_mut(router).set_sysctl(path, 1).unwrap();
    }
    Pair { fabric, a, b }
}

impl Pair {
    /// The tunnels of both ends, and routes into them.
    fn join(&mut self, family: Family, port: Option<u16>) {
        for (host, n, other) in [(self.a, 1, 2), (self.b, 2, 1)] {
            let (local, remote, prefix) = match family {
                Family::V4 => ("192.168.N.1", "192.168.M.1", "11.0.M.0/24"),
                Family::V6 => ("fd00:N::1", "fd00:M::1", "fd00:11:M::/64"),
            };
            let text = |text: &str| text.replace('N', &format!("{n}")).replace('M', &format!("{other}"));
            let ops = [put(tunnel(&text(local), &text(remote), port))];
            let kernel = self.fabric.kernel_mut(host);
            assert_eq!(apply(kernel, &ops), [Outcome::Done]);
            assert_eq!(apply(kernel, &[into(&text(prefix), MAIN_TABLE, &text(remote))]), [Outcome::Done]);
        }
    }

    /// What becomes of a connection from `a`.
    fn connect(&mut self, src: &str, to: &str) -> Result<(), String> {
        let request = Connect {
            from: self.a,
            owner: "test".into(),
            src: Some(ip(src)),
            sport: None,
            to: ip(to),
            port: 80,
            protocol: Protocol::Tcp,
        };
        let attempt = self.fabric.connect(NOW, &request);
        let connected = attempt.result.map_err(|_| attempt.reason)?;
        self.fabric.close(NOW, connected.flow);
        Ok(())
    }

    fn on(&mut self, host: HostId) -> &mut Kernel {
        self.fabric.kernel_mut(host)
    }
}

#[test]
fn a_tunnel_carries_what_the_router_does_not_know() {
    for (family, src, to) in [(Family::V4, "11.0.1.1", "11.0.2.1"), (Family::V6, "fd00:11:1::1", "fd00:11:2::1")] {
        let mut pair = pair();
        assert!(pair.connect(src, to).is_err());
        pair.join(family, None);
        assert_eq!(pair.connect(src, to), Ok(()));
        // One end alone: the other takes no packets of a tunnel that it does not have.
        let b = pair.b;
        let remote = if family == Family::V4 { "192.168.1.1" } else { "fd00:1::1" };
        assert_eq!(apply(pair.on(b), &[Op::<Link>::Del(Tunnel::name(ip(remote)))]), [Outcome::Done]);
        assert!(pair.connect(src, to).unwrap_err().contains("no tunnel device takes"));
    }
}

#[test]
fn udp_needs_a_port_at_the_other_end() {
    for (family, src, to) in [(Family::V4, "11.0.1.1", "11.0.2.1"), (Family::V6, "fd00:11:1::1", "fd00:11:2::1")] {
        let mut pair = pair();
        pair.join(family, Some(5555));
        assert!(pair.connect(src, to).unwrap_err().contains("no tunnel listens on UDP port 5555"));
        let (name, value) = receive_port(family, 5555);
        for host in [pair.a, pair.b] {
            assert_eq!(apply(pair.on(host), &[Op::<Link>::Put(name.clone(), value.clone())]), [Outcome::Done]);
        }
        assert_eq!(pair.connect(src, to), Ok(()));
        // One of two nodes was changed already: what was taken out of UDP is any packet of the tunnel.
        let a = pair.a;
        let plain = if family == Family::V4 {
            tunnel("192.168.1.1", "192.168.2.1", None)
        } else {
            tunnel("fd00:1::1", "fd00:2::1", None)
        };
        assert_eq!(apply(pair.on(a), &[put(plain)]), [Outcome::Done]);
        assert_eq!(pair.connect(src, to), Ok(()));
    }
}

#[test]
fn a_node_is_reached_through_its_table_and_not_by_way_of_the_tunnel_itself() {
    let mut pair = pair();
    pair.join(Family::V4, None);
    let a = pair.a;
    let rule = RuleKey { family: Family::V4, priority: 32765, from: Some(net("11.0.1.0/24")), to: None, mark: None };
    assert_eq!(apply(pair.on(a), &[Op::<Rule>::Put(rule, RuleValue { table: 77 })]), [Outcome::Done]);
    assert_eq!(apply(pair.on(a), &[into("192.168.2.1/32", 77, "192.168.2.1")]), [Outcome::Done]);
    assert_eq!(pair.connect("11.0.1.1", "192.168.2.1"), Ok(()));
    assert_eq!(pair.connect("192.168.1.1", "192.168.2.1"), Ok(()), "the node itself goes by the main table");
    assert_eq!(apply(pair.on(a), &[into("192.168.2.1/32", MAIN_TABLE, "192.168.2.1")]), [Outcome::Done]);
    assert!(pair.connect("11.0.1.1", "11.0.2.1").unwrap_err().contains("through the tunnel itself"));
}

#[test]
fn an_interface_that_is_renamed_keeps_its_routes() {
    let mut pair = pair();
    pair.join(Family::V4, None);
    let (a, new) = (pair.a, tunnel("192.168.1.1", "192.168.2.1", None));
    // As kube-router has it.
    let kernel = pair.on(a);
    assert_eq!(apply(kernel, &[Op::<Link>::Del(Tunnel::name(new.remote))]), [Outcome::Done]);
    kernel.add_tunnel_to("tun-8305f44e90d", new).unwrap();
    let next_hops = vec![NextHop { via: None, dev: Some("tun-8305f44e90d".into()), weight: 1 }];
    let value = RouteValue { kind: RouteKind::Unicast, protocol: PROTO_KUBE_ROUTER, src: None, next_hops };
    let key = RouteKey { prefix: net("11.0.2.0/24"), table: MAIN_TABLE, metric: 0 };
    kernel.add_route(key.clone(), value).unwrap();
    assert_eq!(pair.connect("11.0.1.1", "11.0.2.1"), Ok(()));
    let kernel = pair.on(a);
    assert_eq!(apply(kernel, &[put(new)]), [Outcome::Done]);
    let routes = Backend::<Route>::observe(kernel).unwrap();
    assert_eq!(routes[&key].next_hops[0].dev.as_deref(), Some("tun-c0a80201"));
    assert_eq!(pair.connect("11.0.1.1", "11.0.2.1"), Ok(()));
}

#[test]
fn what_linux_refuses() {
    let mut pair = pair();
    let a = pair.a;
    let kernel = pair.on(a);
    let to = |remote: &str| tunnel("192.168.1.1", remote, None);
    kernel.add_tunnel_to("office", to("192.168.12.1")).unwrap();
    kernel.add_tunnel_to("tun-c0a80303", to("192.168.9.9")).unwrap();
    assert_eq!(kernel.add_tunnel_to("other", to("192.168.9.9")), Err(17), "one tunnel between two addresses");
    let ops = [put(to("192.168.12.1")), put(to("192.168.3.3")), named("tun-c0a80304", to("192.168.3.3"))];
    assert_eq!(apply(kernel, &ops), [REFUSED_EXISTS, Outcome::Foreign, REFUSED_INVALID]);
    assert_eq!(apply(kernel, &[Op::<Link>::Del("tun-c0a80303".into())]), [Outcome::Foreign]);
    assert_eq!(apply(kernel, &[into("11.0.9.0/24", MAIN_TABLE, "192.168.77.7")]), [Outcome::Refused(19)], "no device");
    let (name, value) = receive_port(Family::V4, 5555);
    let ops =
        [Op::<Link>::Put("gue/1/ipv4".into(), value.clone()), Op::Put(name.clone(), value), Op::Del(name.clone())];
    assert_eq!(apply(kernel, &ops), [REFUSED_INVALID, Outcome::Done, Outcome::Done]);
    assert_eq!(apply(kernel, &[Op::<Link>::Del(name)]), [Outcome::Gone]);
    let left: Vec<String> = Backend::<Link>::observe(kernel).unwrap().keys().map(ToString::to_string).collect();
    assert_eq!(left, ["kube-bridge"], "the bridge of pods alone is ours");
}
