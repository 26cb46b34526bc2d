//! Tunnels between nodes, the ports they arrive at, and routes into them: the same outcomes and tables.
//!
//! Left out: a tunnel whose name is another's device that somebody makes in the middle of a case.

use std::net::IpAddr;

use fairway_backend_route::RouteBackend;
use fairway_backend_route::setup::Setup;
use fairway_desired::{
    Family, Link, LinkKind, LinkValue, MAIN_TABLE, NextHop, OVERLAY_TABLE, Op, PROTO_KUBE_ROUTER, Route, RouteKey,
    RouteKind, RouteValue, Tunnel, receive_port,
};
use proptest::prelude::*;
use proptest::sample::select;

use crate::planes::{both, cases, host, ip, mostly, net, op, same};

#[derive(Clone, Debug)]
enum Step {
    Link(Vec<Op<Link>>),
    Route(Vec<Op<Route>>),
}

/// Our two addresses and one that is not ours, in each family; other nodes, and what is no node.
const LOCALS: [&str; 4] = ["192.168.1.1", "192.168.1.1", "192.168.1.2", "fd00::1"];
const REMOTES: [&str; 6] = ["192.168.3.3", "192.168.3.4", "192.168.12.1", "fd00:3::3", "fd00:3::4", "0.0.0.0"];
/// What kube-router left, and what is somebody else's.
const OLD: &str = "tun-8305f44e90d";
const THEIRS: &str = "office";

fn tunnel_op() -> impl Strategy<Value = Op<Link>> {
    let port = select(vec![None, None, Some(5555u16)]);
    let ends = (select(LOCALS.to_vec()), select(REMOTES.to_vec()), port, prop::bool::weighted(0.9));
    let name = prop_oneof![8 => Just(None), 1 => select(vec![OLD, THEIRS, "tun-c0a80303", "kube-dummy-if", ""]).prop_map(Some)];
    (ends, name, mostly()).prop_map(|((local, remote, port, up), name, put)| {
        let tunnel = Tunnel { local: ip(local), remote: ip(remote), port };
        let name = name.map_or_else(|| Tunnel::name(tunnel.remote), Into::into);
        op::<Link>(name, LinkValue { kind: LinkKind::Tunnel(tunnel), up, mtu: None }, put)
    })
}

fn port_op() -> impl Strategy<Value = Op<Link>> {
    // The last is a name of another port.
    let port = (select(vec![Family::V4, Family::V6]), select(vec![5555u16, 5556]), prop::bool::weighted(0.1), mostly());
    port.prop_map(|(family, port, wrong, put)| {
        let (name, value) = receive_port(family, port);
        op::<Link>(if wrong { "gue/1/ipv4".into() } else { name }, value, put)
    })
}

fn route_op() -> impl Strategy<Value = Op<Route>> {
    let prefix = select(vec!["11.0.3.0/24", "192.168.3.3/32", "fd00:11::/64", "fd00:3::3/128"]);
    let dev = prop_oneof![
        8 => select(REMOTES[..5].to_vec()).prop_map(|remote| Tunnel::name(ip(remote))),
        1 => select(vec![OLD, THEIRS, "eth1", "tun-nobody"]).prop_map(Into::into),
    ];
    let src = select(vec![None, Some("192.168.1.1"), Some("fd00::1"), Some("192.168.7.7")]);
    (prefix, dev, src, select(vec![MAIN_TABLE, OVERLAY_TABLE]), mostly()).prop_map(|(prefix, dev, src, table, put)| {
        let prefix = net(prefix);
        let src = src.map(ip).filter(|src| src.is_ipv6() == prefix.addr().is_ipv6());
        let next_hops = vec![NextHop { via: None, dev: Some(dev), weight: 1 }];
        let value = RouteValue { kind: RouteKind::Unicast, protocol: PROTO_KUBE_ROUTER, src, next_hops };
        op::<Route>(RouteKey { prefix, table, metric: 0 }, value, put)
    })
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => prop::collection::vec(tunnel_op(), 1..5).prop_map(Step::Link),
        1 => prop::collection::vec(port_op(), 1..4).prop_map(Step::Link),
        3 => prop::collection::vec(route_op(), 1..5).prop_map(Step::Route),
    ]
}

#[test]
fn overlay() {
    let tunnel = |local: &str, remote: &str| Tunnel { local: ip(local), remote: ip(remote), port: None };
    let offered = RouteBackend::new().unwrap().offers(LinkKind::Tunnel(tunnel("192.168.1.1", "192.168.3.3")));
    if offered != Ok(true) {
        println!("skipped: the kernel has no tunnels: module ipip is missing");
        return;
    }
    cases(40, prop::collection::vec(step(), 1..12), |steps| {
        let mut setup = Setup::new().unwrap();
        setup.set_up("lo", true).unwrap();
        setup.add("eth1", LinkKind::Dummy).unwrap();
        setup.set_up("eth1", true).unwrap();
        let (mut fabric, host) = host();
        let kernel = fabric.kernel_mut(host);
        for address in ["192.168.1.1/24", "192.168.1.2/24", "fd00::1/64"] {
            setup.add_address("eth1", net(address)).unwrap();
            kernel.add_address("eth1", net(address));
        }
        for (name, tunnel) in
            [(OLD, tunnel("192.168.1.1", "192.168.12.1")), (THEIRS, tunnel("192.168.1.2", "192.168.3.4"))]
        {
            let (IpAddr::V4(local), IpAddr::V4(remote)) = (tunnel.local, tunnel.remote) else { unreachable!("IPv4") };
            setup.add_ipip(name, local, remote).unwrap();
            setup.set_up(name, true).unwrap();
            kernel.add_tunnel_to(name, tunnel).unwrap();
        }
        let mut real = RouteBackend::new().unwrap().with_overlay_port(5556);
        for step in &steps {
            match step {
                Step::Link(ops) => both::<Link>(&mut real, kernel, ops, true)?,
                Step::Route(ops) => both::<Route>(&mut real, kernel, ops, true)?,
            }
            same::<Link>(&mut real, kernel)?;
            same::<Route>(&mut real, kernel)?;
        }
        Ok(())
    });
}
