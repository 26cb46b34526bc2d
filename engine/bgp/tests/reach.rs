//! Links that fail: next hops that are excluded, sessions that end with their link.
#![allow(clippy::unwrap_used, reason = "a test may fail")]

mod common;

use std::net::IpAddr;

use common::*;
use fairway_bgp::{Event, Input};
use fairway_desired::bgp::{Distance, GracefulRestart, Key, Peer, Session, Value};
use fairway_desired::{Bgp, Op};

/// What a speaker is told of its links.
fn links(all: &[(&str, bool)]) -> Input {
    Input::OnLink(all.iter().map(|(prefix, works)| (net(prefix), *works)).collect())
}

fn configured(address: &str, asn: u32, change: impl FnOnce(&mut Session)) -> Op<Bgp> {
    let mut session = Session::new(9, BOTH);
    change(&mut session);
    Op::Put(Key::Peer(ip(address)), Value::Peer(Peer::new(asn, session)))
}

/// Node 0 in the middle, with a neighbour on each of two links.
fn middle(asns: [u32; 2], change: impl Fn(&mut Session)) -> Net {
    let mut net = Net::new(1, &["10.0.1.1", "10.0.1.2", "10.0.2.2"]);
    let peers = [configured("10.0.1.2", asns[0], &change), configured("10.0.2.2", asns[1], &change)];
    net.apply(0, &[global(65001, 1, 8), peers[0].clone(), peers[1].clone()]);
    for (node, (asn, hop)) in [(asns[0], "10.0.1.2"), (asns[1], "10.0.2.2")].into_iter().enumerate() {
        let node = node + 1;
        let back = configured("10.0.1.1", 65001, &change);
        net.apply(node, &[global(asn, node as u8 + 1, 8), back, network("10.9.0.0/16", hop)]);
    }
    net.run(secs(3));
    assert_eq!(net.established(0), 2);
    net
}

#[test]
fn a_next_hop_on_a_broken_link_is_excluded_and_comes_back() {
    // Internal neighbours: sessions may find another way, so they stay.
    let mut net = middle([65001, 65001], |_| {});
    let both: [IpAddr; 2] = ["10.0.1.2", "10.0.2.2"].map(ip);
    net.input(0, links(&[("10.0.1.0/24", true), ("10.0.2.0/24", true)]));
    assert_eq!(net.learned(0, "10.9.0.0/16"), both);
    net.input(0, links(&[("10.0.1.0/24", true), ("10.0.2.0/24", false)]));
    assert_eq!(net.learned(0, "10.9.0.0/16"), both[..1]);
    assert_eq!(net.established(0), 2, "internal");
    let explanation = net.nodes[0].speaker.explain(common::net("10.9.0.0/16")).unwrap();
    let why: Vec<&String> = explanation.paths.iter().map(|(_, why)| why).collect();
    assert!(why[1].contains("the link to its next hop 10.0.2.2 is down"), "{why:?}");
    // A route that arrives while the link is broken is excluded as well.
    net.apply(2, &[network("10.8.0.0/16", "10.0.2.2"), network("10.7.0.0/16", "172.16.0.9")]);
    net.run(secs(1));
    assert_eq!(net.learned(0, "10.8.0.0/16"), Vec::<IpAddr>::new());
    assert_eq!(net.learned(0, "10.7.0.0/16"), [ip("172.16.0.9")], "of what is on no link nothing is known");
    // Another link to the same prefix serves as well.
    net.input(0, links(&[("10.0.1.0/24", true), ("10.0.2.0/24", false), ("10.0.0.0/16", true)]));
    assert_eq!(net.learned(0, "10.9.0.0/16"), both);
    net.input(0, links(&[("10.0.1.0/24", false), ("10.0.2.0/24", false)]));
    assert_eq!(net.learned(0, "10.9.0.0/16"), Vec::<IpAddr>::new());
    net.input(0, links(&[("10.0.1.0/24", true), ("10.0.2.0/24", true)]));
    assert_eq!(net.learned(0, "10.9.0.0/16"), both);
    assert_eq!(net.learned(0, "10.8.0.0/16"), both[1..]);
}

#[test]
fn an_excluded_route_is_not_advertised() {
    let mut net = middle([65002, 65001], |_| {});
    net.apply(2, &[network("10.8.0.0/16", "10.0.2.2")]);
    net.run(secs(1));
    let told = |net: &Net| {
        let paths = net.nodes[0].speaker.adj_out(ip("10.0.1.2"));
        paths.iter().filter(|path| path.prefix == common::net("10.8.0.0/16")).count()
    };
    assert_eq!(told(&net), 1);
    net.input(0, links(&[("10.0.1.0/24", true), ("10.0.2.0/24", false)]));
    assert_eq!(told(&net), 0);
    net.run(secs(1));
    assert_eq!(net.learned(1, "10.8.0.0/16"), Vec::<IpAddr>::new());
    net.input(0, links(&[("10.0.1.0/24", true), ("10.0.2.0/24", true)]));
    net.run(secs(1));
    assert_eq!(net.learned(1, "10.8.0.0/16").len(), 1);
}

#[test]
fn an_external_session_ends_with_its_link_and_is_dialed_when_it_is_back() {
    let mut net = middle([65002, 65003], |_| {});
    net.nodes[0].events.clear();
    net.input(0, links(&[("10.0.1.0/24", true), ("10.0.2.0/24", false)]));
    assert_eq!(net.established(0), 1);
    let reason = "the link to it is down".to_string();
    assert_eq!(net.nodes[0].events, [Event::Down { peer: ip("10.0.2.2"), reason }]);
    assert_eq!(net.learned(0, "10.9.0.0/16"), [ip("10.0.1.2")]);
    // It is in vain for long, so pauses have grown.
    net.cut(0, 2);
    net.run(secs(60));
    assert_eq!(net.established(0), 1);
    net.heal(0, 2);
    net.input(0, links(&[("10.0.1.0/24", true), ("10.0.2.0/24", true)]));
    net.run(secs(1));
    assert_eq!(net.established(0), 2);
    assert_eq!(net.learned(0, "10.9.0.0/16").len(), 2);
}

#[test]
fn a_session_over_several_hops_may_find_another_way() {
    let mut net = middle([65002, 65003], |session| session.distance = Distance::Multihop(3));
    net.input(0, links(&[("10.0.1.0/24", true), ("10.0.2.0/24", false)]));
    assert_eq!(net.established(0), 2);
    assert_eq!(net.learned(0, "10.9.0.0/16"), [ip("10.0.1.2")], "but its routes are of no use");
}

#[test]
fn with_graceful_restart_routes_are_kept_but_not_used_over_a_broken_link() {
    let restart = GracefulRestart { time_s: 120, defer_s: 10, long_lived_s: 0 };
    let mut net = middle([65002, 65003], |session| session.graceful_restart = Some(restart));
    net.input(0, links(&[("10.0.1.0/24", true), ("10.0.2.0/24", false)]));
    assert_eq!(net.established(0), 1);
    assert_eq!(net.learned(0, "10.9.0.0/16"), [ip("10.0.1.2")]);
    assert_eq!(net.nodes[0].speaker.adj_in(ip("10.0.2.2")).len(), 1, "kept");
    net.input(0, links(&[("10.0.1.0/24", true), ("10.0.2.0/24", true)]));
    net.run(secs(20));
    assert_eq!(net.established(0), 2);
    assert_eq!(net.learned(0, "10.9.0.0/16").len(), 2);
}
