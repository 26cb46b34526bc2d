//! Speakers wired together: what they agree on, and what must never be said.
#![allow(clippy::unwrap_used, reason = "a test may fail")]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use common::*;
use fairway_bgp::{Event, Input, SessionState};
use fairway_desired::Family;
use fairway_desired::bgp::{
    Community, Direction, Dynamic, Families, GracefulRestart, Key, Modify, Peer, Session, Value,
};
use fairway_desired::{Bgp, Op};
use ipnet::IpNet;
use proptest::prelude::*;

const NODES: [&str; 4] = ["10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.4"];

/// The seed scenario's shape: a router (index 0) with dynamic neighbours, and nodes that dial it.
fn star(seed: u64, nodes: usize) -> Net {
    let mut addresses = vec!["10.0.0.201"];
    addresses.extend(&NODES[..nodes]);
    let mut net = Net::new(seed, &addresses);
    net.apply(0, &[global(65002, 201, 8), dynamic("10.0.0.0/24", &[65001])]);
    for i in 1..=nodes {
        net.apply(i, &[global(65001, i as u8, 1), peer("10.0.0.201", 65002)]);
    }
    net
}

#[test]
fn four_equal_paths_give_four_next_hops_and_a_dead_peer_leaves_three() {
    let mut net = star(1, 4);
    for i in 1..=4 {
        net.apply(i, &[network("10.9.0.2/32", NODES[i - 1])]);
    }
    net.run(secs(3));
    assert_eq!(net.established(0), 4);
    assert_eq!(net.learned(0, "10.9.0.2/32"), NODES.map(ip));
    let view = net.neighbor(0, "10.0.0.3").unwrap();
    assert!(view.dynamic);
    assert_eq!((view.asn, view.received, view.accepted, view.hold_s), (65001, 1, 1, 9));
    // AS 65001 would see a loop in its own path, so it is not told.
    assert_eq!(net.nodes[0].speaker.adj_out(ip("10.0.0.1")), []);
    assert_eq!(net.learned(1, "10.9.0.2/32"), Vec::<IpAddr>::new());
    let rib = net.nodes[0].speaker.rib(Family::V4);
    assert_eq!(rib.len(), 4);
    assert!(rib.iter().all(|p| p.multipath && p.as_path() == [65001]));
    assert_eq!(rib.iter().filter(|p| p.best).count(), 1);

    // Node 3 falls silent: its hold timer takes it out.
    net.cut(0, 3);
    net.run(secs(10));
    assert_eq!(net.learned(0, "10.9.0.2/32"), ["10.0.0.1", "10.0.0.2", "10.0.0.4"].map(ip));
    assert!(net.neighbor(0, "10.0.0.3").is_none(), "a dynamic neighbour goes with its session");
    assert!(net.nodes[0].events.contains(&Event::Down { peer: ip("10.0.0.3"), reason: "hold timer expired".into() }));

    net.heal(0, 3);
    net.run(secs(40));
    assert_eq!(net.learned(0, "10.9.0.2/32"), NODES.map(ip));

    // Fewer paths at once, then more again.
    net.apply(0, &[global(65002, 201, 2)]);
    assert_eq!(net.learned(0, "10.9.0.2/32").len(), 2);
    net.apply(0, &[global(65002, 201, 8)]);
    assert_eq!(net.established(0), 4, "no session was reset");
    // A path of our own: the learned ones are not in use.
    net.apply(0, &[network("10.9.0.2/32", "10.0.0.201")]);
    assert_eq!(net.learned(0, "10.9.0.2/32"), Vec::<IpAddr>::new());
    net.apply(0, &[Op::Del(Key::Network("10.9.0.2/32".parse().unwrap()))]);
    assert_eq!(net.learned(0, "10.9.0.2/32").len(), 4);
}

#[test]
fn a_dynamic_neighbour_with_a_wrong_as_is_told_so_and_keeps_trying() {
    let mut net = Net::new(2, &["10.0.0.201", "10.0.0.1"]);
    net.apply(0, &[global(65002, 201, 8), dynamic("10.0.0.0/24", &[65001])]);
    net.apply(1, &[global(65009, 1, 1), peer("10.0.0.201", 65002)]);
    net.run(secs(20));
    assert_eq!(net.established(0), 0);
    assert!(net.nodes[0].speaker.neighbors().is_empty());
    let told: Vec<_> = net.nodes[0].events.iter().map(ToString::to_string).collect();
    assert!(told[0].ends_with("peer says AS 65009, configured 65001"), "{told:?}");
    let view = net.neighbor(1, "10.0.0.201").unwrap();
    assert_eq!(view.last_error.as_deref(), Some("peer sent Bad Peer AS (2/2)"));
    let failed = net.nodes[1].events.iter().filter(|e| matches!(e, Event::Failed { .. })).count();
    assert_eq!(failed, 1, "one reason is told once: {:?}", net.nodes[1].events);
    // The range accepts it now.
    net.apply(0, &[dynamic("10.0.0.0/24", &[65001, 65009])]);
    net.run(secs(31));
    assert_eq!(net.established(0), 1);
    // Narrowing the list to others ends it, widening it does not.
    net.apply(0, &[dynamic("10.0.0.0/24", &[65009])]);
    assert_eq!(net.established(0), 1);
    net.apply(0, &[dynamic("10.0.0.0/24", &[65001])]);
    assert_eq!(net.established(0), 0);
}

#[test]
fn both_sides_dial_and_one_session_stands() {
    for seed in 0..60 {
        let mut net = Net::new(seed, &["10.0.0.1", "10.0.0.2"]);
        net.max_delay_ms = 1 + (seed as u32 * 37) % 400;
        net.apply(0, &[global(65001, 1, 1), peer("10.0.0.2", 65002), network("10.1.0.0/24", "10.0.0.1")]);
        net.apply(1, &[global(65002, 2, 1), peer("10.0.0.1", 65001), network("10.2.0.0/24", "10.0.0.2")]);
        net.run(secs(60));
        assert_eq!((net.established(0), net.established(1)), (1, 1), "seed {seed}: {:#?}", net.log);
        assert_eq!(net.learned(0, "10.2.0.0/24"), [ip("10.0.0.2")]);
        assert_eq!(net.learned(1, "10.1.0.0/24"), [ip("10.0.0.1")]);
        let since = net.neighbor(0, "10.0.0.2").unwrap().since;
        net.run(secs(100));
        assert_eq!(net.neighbor(0, "10.0.0.2").unwrap().since, since, "seed {seed}: the session flapped");
    }
}

#[test]
fn an_ibgp_mesh_with_two_external_routers_converges() {
    let mut addresses = NODES.to_vec();
    addresses.extend(["10.0.0.201", "10.0.0.202"]);
    let mut net = Net::new(5, &addresses);
    for (i, own) in NODES.iter().enumerate() {
        let mut ops = vec![global(65001, i as u8 + 1, 2)];
        ops.extend(NODES.iter().filter(|other| *other != own).map(|other| peer(other, 65001)));
        ops.extend(["10.0.0.201", "10.0.0.202"].map(|r| peer(r, 65002)));
        ops.push(network(&format!("10.1.{i}.0/24"), own));
        net.apply(i, &ops);
    }
    for (i, own) in ["10.0.0.201", "10.0.0.202"].into_iter().enumerate() {
        let other = if i == 0 { "10.0.0.202" } else { "10.0.0.201" };
        net.apply(
            4 + i,
            &[
                global(65002, 201 + i as u8, 4),
                dynamic("10.0.0.0/24", &[65001]),
                peer(other, 65002),
                network(&format!("10.2.{i}.0/24"), own),
                network("0.0.0.0/0", own),
            ],
        );
    }
    net.run(secs(60));
    for i in 0..4 {
        assert_eq!(net.established(i), 5, "{:#?}", net.log);
        for j in (0..4).filter(|j| *j != i) {
            // iBGP keeps the next hop, and an own AS in the path keeps what the routers echo out.
            assert_eq!(net.learned(i, &format!("10.1.{j}.0/24")), [ip(NODES[j])]);
        }
        assert_eq!(net.learned(i, "0.0.0.0/0"), ["10.0.0.201", "10.0.0.202"].map(ip));
        // Via router 201 directly, or over its iBGP neighbour 202, which external neighbours see as equally far.
        assert_eq!(net.learned(i, "10.2.0.0/24"), ["10.0.0.201", "10.0.0.202"].map(ip));
    }
    for i in 4..6 {
        assert_eq!(net.established(i), 5);
        for (j, node) in NODES.iter().enumerate() {
            // The node itself; the others do not pass iBGP routes on to each other but do to externals.
            assert!(net.learned(i, &format!("10.1.{j}.0/24")).contains(&ip(node)));
        }
        assert_eq!(net.learned(i, "0.0.0.0/0"), Vec::<IpAddr>::new());
    }
    let quiet = net.updates;
    net.run(secs(120));
    assert_eq!(net.updates, quiet, "nothing changes, nothing is said");

    // An internal neighbour that dies takes its route with it, everywhere.
    for i in (0..6).filter(|i| *i != 3) {
        net.cut(3, i);
    }
    net.run(secs(12));
    for i in [0, 1, 2, 4, 5] {
        assert_eq!(net.learned(i, "10.1.3.0/24"), Vec::<IpAddr>::new(), "node {i}");
    }
}

#[test]
fn ipv6_routes_travel_over_an_ipv4_session() {
    let mut net = star(7, 2);
    net.apply(0, &[dynamic("10.0.0.0/24", &[65001, 65003]), network("fd00:9::/64", "fd00::201")]);
    net.apply(1, &[network("fd00:1::/64", "fd00::1")]);
    net.apply(2, &[global(65003, 2, 1)]);
    net.run(secs(5));
    assert_eq!(net.learned(0, "fd00:1::/64"), [ip("fd00::1")]);
    assert_eq!(net.learned(1, "fd00:9::/64"), [ip("fd00::201")]);
    // Re-advertised externally, the router is the next hop, by the address its own networks have.
    assert_eq!(net.learned(2, "fd00:1::/64"), [ip("fd00::201")]);
    // Without such an address the learned one stays.
    net.apply(0, &[Op::Del(Key::Network("fd00:9::/64".parse().unwrap()))]);
    net.run(secs(1));
    assert_eq!(net.learned(2, "fd00:1::/64"), [ip("fd00::1")]);
}

#[test]
fn ipv4_routes_have_ipv6_next_hops_where_both_sides_take_them() {
    let mut net = Net::new(7, &["fd00::201", "fd00::1", "fd00::2"]);
    let session = |extended_next_hop| Session { extended_next_hop, ..Session::new(9, Families::ALL) };
    let dynamic = Dynamic { asns: vec![], session: session(true) };
    net.apply(
        0,
        &[global(65002, 201, 8), Op::Put(Key::Dynamic("fd00::/64".parse().unwrap()), Value::Dynamic(dynamic))],
    );
    net.apply(0, &[network("10.2.0.0/16", "10.0.0.201")]);
    for (i, extended) in [(1, true), (2, false)] {
        let peer = Value::Peer(Peer::new(65002, session(extended)));
        net.apply(i, &[global(65000 + i as u32 * 10, i as u8, 1), Op::Put(Key::Peer(ip("fd00::201")), peer)]);
        net.apply(i, &[network(&format!("10.{i}0.0.0/16"), &format!("10.0.0.{i}"))]);
    }
    net.run(secs(5));
    // Own networks, in both directions, and what is passed on.
    assert_eq!(net.learned(0, "10.10.0.0/16"), [ip("fd00::1")]);
    assert_eq!(net.learned(1, "10.2.0.0/16"), [ip("fd00::201")]);
    assert_eq!(net.learned(1, "10.20.0.0/16"), [ip("fd00::201")]);
    // Whoever did not say that he takes them gets what he can take.
    assert_eq!(net.learned(0, "10.20.0.0/16"), [ip("10.0.0.2")]);
    assert_eq!(net.learned(2, "10.2.0.0/16"), [ip("10.0.0.201")]);
    assert_eq!(net.learned(2, "10.10.0.0/16"), [ip("10.0.0.201")]);
}

#[test]
fn export_changes_are_made_for_matching_neighbours_only() {
    let mut net = star(8, 2);
    let mut s = statement(Some("vips"), Some("external"), true);
    s.modify = Modify {
        prepend: Some((65001, 2)),
        next_hop_self: true,
        communities: vec![Community::Standard(0xfde9_0001)],
        ..Modify::default()
    };
    let external =
        Op::Put(Key::NeighborMember("external".into(), "10.0.0.201/32".parse().unwrap()), Value::NeighborMember);
    net.apply(
        1,
        &[
            member("vips", "10.9.0.0/24"),
            external.clone(),
            policy(Direction::Export, vec![s], false),
            network("10.9.0.2/32", "10.7.7.7"),
            network("10.8.0.2/32", "10.0.0.1"),
        ],
    );
    net.run(secs(3));
    let rib = net.nodes[0].speaker.rib(Family::V4);
    assert_eq!(rib.len(), 1);
    assert_eq!(rib[0].as_path(), [65001, 65001, 65001]);
    assert_eq!(rib[0].next_hop, ip("10.0.0.1"));
    assert_eq!(rib[0].attributes.communities, [0xfde9_0001]);
    assert_eq!(net.nodes[1].speaker.adj_out(ip("10.0.0.201")).len(), 1);
    // The neighbour leaves the set: an empty set matches nothing.
    net.apply(1, &[del(&external)]);
    net.run(secs(1));
    assert_eq!(net.nodes[0].speaker.rib(Family::V4), []);
}

#[test]
fn one_changed_route_is_one_message_and_many_are_packed() {
    let mut net = star(9, 1);
    net.run(secs(3));
    let before = net.updates;
    let many: Vec<Op<Bgp>> =
        (0..1000).map(|i| network(&format!("10.{}.{}.0/24", 20 + i / 250, i % 250), "10.0.0.1")).collect();
    net.apply(1, &many);
    net.run(secs(1));
    assert_eq!(net.neighbor(0, "10.0.0.1").unwrap().accepted, 1000);
    assert_eq!(net.updates - before, 1, "4 octets each: 1000 fit into one message of 4096");
    net.apply(1, &[network("10.20.7.0/24", "10.0.0.9")]);
    net.run(secs(1));
    assert_eq!(net.updates - before, 2);
    net.apply(1, &[network("10.20.7.0/24", "10.0.0.9")]);
    net.run(secs(1));
    assert_eq!(net.updates - before, 2, "the same again is not news");
    net.apply(1, &many.iter().map(del).collect::<Vec<_>>());
    net.run(secs(1));
    assert_eq!(net.updates - before, 3);
    assert!(net.nodes[0].learned.is_empty());
}

#[test]
fn a_configuration_that_is_lost_and_back_needs_no_new_port() {
    let mut net = star(3, 1);
    net.run(secs(3));
    assert_eq!((net.established(0), net.nodes[1].port), (1, Some(179)));
    net.nodes[1].port = None;
    net.apply(1, &[Op::Del(Key::Global)]);
    net.run(secs(3));
    assert_eq!(net.established(0), 0);
    net.apply(1, &[global(65001, 1, 1)]);
    assert_eq!(net.nodes[1].port, None, "it listens already");
    net.apply(
        1,
        &[Op::Put(Key::Global, Value::Global(fairway_desired::bgp::Global::new(65001, [10, 0, 0, 1].into(), 1790, 1)))],
    );
    assert_eq!(net.nodes[1].port, Some(1790));
    net.run(secs(40));
    assert_eq!(net.established(0), 1);
}

#[test]
fn shutdown_and_reset_say_so() {
    let mut net = star(10, 2);
    net.run(secs(3));
    net.input(1, Input::ResetPeer { peer: ip("10.0.0.201"), message: String::new() });
    net.run(secs(1));
    let reset = Event::Down { peer: ip("10.0.0.1"), reason: "peer sent Administrative Reset (6/4)".into() };
    assert!(net.nodes[0].events.contains(&reset));
    net.run(secs(2));
    assert_eq!(net.established(0), 2, "it comes back");
    net.input(2, Input::Shutdown { message: "maintenance".into() });
    net.run(secs(100));
    let down =
        Event::Down { peer: ip("10.0.0.2"), reason: "peer sent Administrative Shutdown (6/2): \"maintenance\"".into() };
    assert!(net.nodes[0].events.contains(&down));
    assert_eq!(net.neighbor(2, "10.0.0.201").unwrap().state, SessionState::Idle);
    assert_eq!(net.established(0), 1);
    net.apply(1, &[Op::Del(Key::Peer(ip("10.0.0.201")))]);
    net.run(secs(100));
    let gone = Event::Down { peer: ip("10.0.0.1"), reason: "peer sent Peer De-configured (6/3)".into() };
    assert!(net.nodes[0].events.contains(&gone));
    assert!(net.nodes[1].speaker.neighbors().is_empty());
}

#[test]
fn a_changed_peer_is_reset_and_an_equal_one_is_not() {
    let mut net = star(11, 1);
    net.run(secs(3));
    let since = net.neighbor(1, "10.0.0.201").unwrap().since;
    net.apply(1, &[peer("10.0.0.201", 65002), global(65001, 1, 7)]);
    net.run(secs(3));
    assert_eq!(net.neighbor(1, "10.0.0.201").unwrap().since, since);
    let mut value = peer_value(65002);
    value.session.hold_s = 6;
    net.apply(1, &[Op::Put(Key::Peer(ip("10.0.0.201")), Value::Peer(value))]);
    net.run(secs(3));
    assert_ne!(net.neighbor(1, "10.0.0.201").unwrap().since, since);
    assert_eq!(net.neighbor(0, "10.0.0.1").unwrap().hold_s, 6);
    let down = Event::Down { peer: ip("10.0.0.1"), reason: "peer sent Other Configuration Change (6/6)".into() };
    assert!(net.nodes[0].events.contains(&down));
}

/// With graceful restart on both sides, a connection that breaks is nobody else's business: forwarding goes on.
#[test]
fn a_broken_connection_between_two_that_know_graceful_restart_is_not_heard_of() {
    for graceful in [true, false] {
        let mut net = Net::new(13, &["10.0.0.1", "10.0.0.2", "10.0.0.3"]);
        let peer = |address: &str, asn| {
            let mut value = peer_value(asn);
            let gr = GracefulRestart { time_s: 60, defer_s: 30, long_lived_s: 0 };
            value.session.graceful_restart = graceful.then_some(gr);
            Op::Put(Key::Peer(ip(address)), Value::Peer(value))
        };
        net.apply(0, &[global(65001, 1, 1), peer("10.0.0.2", 65002), network("10.1.0.0/24", "10.0.0.1")]);
        net.apply(1, &[global(65002, 2, 1), peer("10.0.0.1", 65001), peer("10.0.0.3", 65003)]);
        net.apply(2, &[global(65003, 3, 1), peer("10.0.0.2", 65002), network("10.3.0.0/24", "10.0.0.3")]);
        net.run(secs(10));
        net.sever(0, 1);
        let before = net.nodes[2].speaker.neighbors()[0].got.update;
        net.run(secs(10));
        assert_eq!(net.established(1), 2, "{:#?}", net.log);
        let heard = net.nodes[2].speaker.neighbors()[0].got.update - before;
        assert_eq!(heard, if graceful { 0 } else { 2 });
        assert_eq!(net.learned(2, "10.1.0.0/24"), [ip("10.0.0.2")]);
        assert_eq!(net.learned(0, "10.3.0.0/24"), [ip("10.0.0.2")]);
    }
}

#[derive(Clone, Debug)]
enum Step {
    Network(usize, u8, bool),
    Vip(usize, u8, bool),
    Reject(u8, bool),
    Cut(usize),
    Heal(usize),
    Sever(usize),
    Reset(usize),
    Hold(usize, u16),
    MaxPaths(u8),
    Wait(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let node = 1usize..4;
    let prefix = 0u8..6;
    prop_oneof![
        4 => (node.clone(), prefix.clone(), any::<bool>()).prop_map(|(n, p, on)| Step::Network(n, p, on)),
        4 => (node.clone(), prefix.clone(), prop::bool::weighted(0.7)).prop_map(|(n, p, on)| Step::Vip(n, p, on)),
        2 => (prefix, any::<bool>()).prop_map(|(p, on)| Step::Reject(p, on)),
        1 => node.clone().prop_map(Step::Cut),
        1 => node.clone().prop_map(Step::Heal),
        1 => node.clone().prop_map(Step::Sever),
        1 => node.clone().prop_map(Step::Reset),
        1 => (node, 3u16..20).prop_map(|(n, h)| Step::Hold(n, h)),
        1 => (1u8..5).prop_map(Step::MaxPaths),
        4 => (1u64..4000).prop_map(Step::Wait),
    ]
}

fn prefix(p: u8) -> String {
    // Some inside each other, and one of the other family.
    ["10.9.0.0/24", "10.9.0.1/32", "10.9.0.2/32", "10.8.0.0/16", "fd00:9::/64", "fd00:9::1/128"][usize::from(p)].into()
}

fn hop(node: usize, p: u8) -> String {
    if p >= 4 { format!("fd00::{node}") } else { format!("10.0.0.{node}") }
}

/// Exact member: only this prefix.
fn exact(set: &str, p: u8) -> Op<Bgp> {
    let prefix: IpNet = prefix(p).parse().unwrap();
    let len = prefix.prefix_len();
    Op::Put(Key::PrefixMember(set.into(), prefix), Value::PrefixMember { min: len, max: len })
}

fn put(on: bool, op: Op<Bgp>) -> Op<Bgp> {
    if on { op } else { del(&op) }
}

/// A few seconds' worth. Raise it to hunt.
const CASES: u32 = 64;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(CASES))]

    /// Nodes of three ASes around a router that both sides may dial. Whatever happens, nothing outside a node's set
    /// `vips` is ever announced by it, and after everything healed all agree with a simple reference.
    #[test]
    fn views_agree_after_healing(seed in any::<u64>(), both_dial in any::<bool>(), delay in 1u32..300,
                                 steps in prop::collection::vec(step(), 0..40)) {
        let mut net = Net::new(seed, &["10.0.0.201", "10.0.0.1", "10.0.0.2", "10.0.0.3"]);
        net.max_delay_ms = delay;
        net.watch = Some(Box::new(|node, _, update| {
            if node.address == ip("10.0.0.201") {
                return;
            }
            let table = node.speaker.observe();
            let reaches = update.reach.iter().chain(update.mp_reach.iter().map(|(_, r)| r));
            for p in reaches.flat_map(|r| &r.prefixes) {
                assert!(table.contains_key(&Key::PrefixMember("vips".into(), p.prefix)), "{p:?} is not to be announced");
            }
        }));
        let mut router = vec![
            policy(Direction::Import, vec![statement(Some("bad"), None, false)], true),
            global(65100, 201, 4),
        ];
        for i in 1..4u32 {
            if both_dial {
                router.push(peer(NODES[i as usize - 1], 65000 + i));
            }
        }
        if !both_dial {
            router.push(dynamic("10.0.0.0/24", &[65001, 65002, 65003]));
        }
        net.apply(0, &router);
        for i in 1..4usize {
            net.apply(i, &[
                policy(Direction::Export, vec![statement(Some("vips"), None, true)], false),
                global(65000 + i as u32, i as u8, 4),
                peer("10.0.0.201", 65100),
            ]);
        }
        let mut networks = BTreeSet::new();
        let mut vips = BTreeSet::new();
        let mut rejects = BTreeSet::new();
        let mut max_paths = 4;
        let set = |s: &mut BTreeSet<(usize, u8)>, n, p, on| if on { s.insert((n, p)) } else { s.remove(&(n, p)) };
        for step in steps {
            match step {
                Step::Network(n, p, on) => {
                    set(&mut networks, n, p, on);
                    net.apply(n, &[put(on, network(&prefix(p), &hop(n, p)))]);
                }
                Step::Vip(n, p, on) => {
                    set(&mut vips, n, p, on);
                    net.apply(n, &[put(on, exact("vips", p))]);
                }
                Step::Reject(p, on) => {
                    set(&mut rejects, 0, p, on);
                    net.apply(0, &[put(on, exact("bad", p))]);
                }
                Step::Cut(n) => net.cut(0, n),
                Step::Heal(n) => net.heal(0, n),
                Step::Sever(n) => net.sever(0, n),
                Step::Reset(n) => net.input(0, Input::ResetPeer { peer: ip(NODES[n - 1]), message: String::new() }),
                Step::Hold(n, hold_s) => {
                    let mut value = peer_value(65100);
                    value.session.hold_s = hold_s;
                    net.apply(n, &[Op::Put(Key::Peer(ip("10.0.0.201")), Value::Peer(value))]);
                }
                Step::MaxPaths(max) => {
                    max_paths = max;
                    net.apply(0, &[global(65100, 201, max)]);
                }
                Step::Wait(ms) => net.run(std::time::Duration::from_millis(ms)),
            }
        }
        for n in 1..4 {
            net.heal(0, n);
        }
        // A connection that was cut before its OPEN is given up after 4 minutes.
        net.run(secs(400));
        prop_assert_eq!(net.established(0), 3, "{:#?}", net.log);

        let mut expected: Vec<BTreeMap<IpNet, Vec<IpAddr>>> = vec![BTreeMap::new(); 4];
        for p in 0..6u8 {
            let sources: Vec<usize> = (1..4)
                .filter(|n| networks.contains(&(*n, p)) && vips.contains(&(*n, p)) && !rejects.contains(&(0, p)))
                .collect();
            let Some(best) = sources.first() else { continue };
            let destination: IpNet = prefix(p).parse().unwrap();
            let hops = sources.iter().take(max_paths.into()).map(|n| ip(&hop(*n, p))).collect();
            expected[0].insert(destination, hops);
            for (n, expected) in expected.iter_mut().enumerate().skip(1) {
                if n != *best && !networks.contains(&(n, p)) {
                    // The router has no IPv6 address, so there the node's stays.
                    let via = if p >= 4 { hop(*best, p) } else { "10.0.0.201".into() };
                    expected.insert(destination, vec![ip(&via)]);
                }
            }
        }
        for (node, expected) in net.nodes.iter().zip(&expected) {
            prop_assert_eq!(&node.learned, expected, "at {}", node.address);
        }
        for n in 1..4 {
            let (here, there) = (net.neighbor(n, "10.0.0.201").unwrap(), net.neighbor(0, NODES[n - 1]).unwrap());
            prop_assert_eq!(here.advertised, there.received);
            prop_assert_eq!(here.received, there.advertised);
            let view = net.nodes[n].speaker.rib(Family::V4).len() + net.nodes[n].speaker.rib(Family::V6).len();
            let own = networks.iter().filter(|(m, _)| *m == n).count();
            prop_assert_eq!(view, own + here.accepted);
        }
    }
}
