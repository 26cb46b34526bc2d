//! Work and messages at scale, as counts. The large sizes, with times and memory, are in `benches/benches/bgp_scale.rs`.
#![allow(clippy::unwrap_used, reason = "a test may fail")]

#[path = "common/fabric.rs"]
#[allow(clippy::disallowed_types, reason = "nothing depends on an order of it, and it is many")]
mod fabric;

use std::time::Duration;

use fabric::{Fabric, Sent, address, graceful, mesh, network, pods, racks, reflected, session};
use fairway_desired::bgp::Key;
use fairway_desired::{Family, Op};

const SECOND: Duration = Duration::from_secs(1);

/// A change that has been heard everywhere: what was sent for it.
fn change(fabric: &mut Fabric, node: usize, op: &Op<fairway_desired::Bgp>) -> Sent {
    let before = fabric.sent;
    fabric.apply(node, std::slice::from_ref(op));
    fabric.run(SECOND);
    let mut sent = fabric.sent.since(before);
    (sent.keepalives, sent.octets) = (0, 0);
    sent
}

const NOTHING: Sent = Sent { opens: 0, updates: 0, notifications: 0, keepalives: 0, octets: 0, learned: 0 };

#[test]
fn in_a_mesh_a_change_costs_a_message_for_each_neighbour() {
    const N: usize = 40;
    let mut fabric = mesh(N);
    fabric.run(SECOND * 20);
    assert_eq!(fabric.sessions(), N * (N - 1) / 2);
    for n in 0..N {
        assert_eq!(fabric.prefixes(n), N);
    }
    // Each tells each its one prefix once, and End-of-RIB, which the first flush may already carry.
    let pairs = (N * (N - 1)) as u64;
    assert_eq!((fabric.sent.updates, fabric.sent.learned), (2 * pairs, pairs));
    let flap = change(&mut fabric, 7, &Op::Del(Key::Network(pods(7))));
    let expected = Sent { updates: N as u64 - 1, learned: N as u64 - 1, ..NOTHING };
    assert_eq!(flap, expected, "gone: as many messages as neighbours, whatever the number of prefixes");
    assert_eq!(change(&mut fabric, 7, &network(pods(7), 7)), expected, "back");
    assert_eq!(change(&mut fabric, 7, &network(pods(7), 7)), NOTHING, "the same again");
    // A thousand at once are a message or two, not a thousand.
    let many: Vec<_> = (1000..2000).map(|n| network(pods(n), 7)).collect();
    let before = fabric.sent;
    fabric.apply(7, &many);
    fabric.run(SECOND);
    let sent = fabric.sent.since(before);
    assert_eq!((sent.updates, sent.learned), (N as u64 - 1, 1000 * (N as u64 - 1)));
    // And the cost of one more does not grow with them.
    assert_eq!(change(&mut fabric, 7, &Op::Del(Key::Network(pods(7)))), expected);
}

#[test]
fn through_reflectors_a_change_costs_a_message_for_each_session() {
    let (nodes, reflectors) = (104, 4);
    let mut fabric = reflected(nodes, reflectors);
    fabric.run(SECOND * 20);
    assert_eq!(fabric.sessions(), reflectors * (reflectors - 1) / 2 + reflectors * (nodes - reflectors));
    for n in 0..nodes {
        assert_eq!(fabric.prefixes(n), nodes, "node {n}");
    }
    // A client tells its reflectors; each of them tells everybody else.
    let told = reflectors + reflectors * (nodes - 2);
    for op in [Op::Del(Key::Network(pods(50))), network(pods(50), 50)] {
        let sent = change(&mut fabric, 50, &op);
        assert_eq!(sent, Sent { updates: told as u64, learned: nodes as u64 - 1, ..NOTHING });
    }
    // Four paths to each, one next hop.
    let rib = fabric.speaker(60).lookup(pods(50));
    assert_eq!(rib.len(), reflectors);
    assert!(rib.iter().all(|p| p.next_hop == address(50)));
}

#[test]
fn a_flapping_rack_is_heard_of_once_and_with_graceful_restart_not_at_all() {
    for (session, graceful) in [(session as fn() -> _, false), (graceful, true)] {
        let mut net = racks(8, 5, session);
        net.fabric.run(SECOND * 60);
        let nodes = net.racks * net.per_rack;
        let sessions = nodes + 2 * net.racks;
        assert_eq!(net.fabric.sessions(), sessions);
        let far = net.fabric.speaker(nodes - 1).rib(Family::V4).len();
        assert_eq!(far, nodes - net.per_rack + 1, "own AS in the path hides the rack's others");
        // What nodes of other racks have heard so far.
        let heard = |net: &fabric::Racks| -> u64 {
            (net.per_rack..nodes).map(|n| net.fabric.speaker(n).neighbors()[0].got.update).sum()
        };
        let (before, quiet) = (heard(&net), net.fabric.sent);
        net.fabric.sever(net.router(0));
        net.fabric.run(SECOND * 60);
        assert_eq!(net.fabric.sessions(), sessions);
        assert_eq!(net.fabric.speaker(nodes - 1).rib(Family::V4).len(), far);
        let sent = net.fabric.sent.since(quiet);
        let elsewhere = heard(&net) - before;
        if graceful {
            assert_eq!((elsewhere, sent.learned), (0, 0), "nobody else heard of it, and no route changed anywhere");
        } else {
            // Once that they are gone; their return in as many messages as there are sessions that come back one after
            // the other, and each of them twice where the other spine is heard a moment later.
            let others = (nodes - net.per_rack) as u64;
            assert!((2 * others..=(1 + 2 * net.per_rack as u64) * others).contains(&elsewhere), "{elsewhere}");
        }
    }
}
