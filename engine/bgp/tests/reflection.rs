//! Route reflection (RFC 4456): who is told what by whom, and what keeps it from going round in circles.
#![allow(clippy::unwrap_used, reason = "a test may fail")]

#[path = "common/script.rs"]
mod script;

use std::net::{IpAddr, Ipv4Addr};

use fairway_bgp::ConnId;
use fairway_bgp::wire::{Attributes, Update};
use fairway_desired::Family;
use fairway_desired::bgp::{Community, Direction, Global, Key, Modify, Network, Policy, Session, Statement, Value};
use fairway_desired::{Bgp, Op};
use script::{OWN_AS, Out, Script, announce, attributes, neighbor, open, ours, plain, updates, withdraw};

const PREFIX: &str = "10.9.0.0/24";
/// Two clients, two other internal neighbours, one external one.
const CLIENTS: [&str; 2] = ["10.0.0.1", "10.0.0.2"];
const OTHERS: [&str; 2] = ["10.0.0.3", "10.0.0.4"];
const EXTERNAL: &str = "10.0.0.5";

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn id(last: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 0, 0, last)
}

fn client(session: &mut Session) {
    session.reflector_client = true;
}

fn global(cluster_id: Option<Ipv4Addr>) -> Op<Bgp> {
    Op::Put(Key::Global, Value::Global(Global { cluster_id, ..Global::new(OWN_AS, id(100), 179, 4) }))
}

/// The reflector, and its connections in the order of the addresses.
fn reflector() -> (Script, Vec<ConnId>) {
    let mut ops: Vec<Op<Bgp>> = CLIENTS.map(|a| neighbor(a, OWN_AS, client)).into();
    ops.extend(OTHERS.map(|a| neighbor(a, OWN_AS, plain)));
    ops.push(neighbor(EXTERNAL, 65005, plain));
    let mut s = Script::with(&ops);
    let conns =
        (1..6).map(|n| s.up(ip(&format!("10.0.0.{n}")), &open(if n == 5 { 65005 } else { OWN_AS }, n)).0).collect();
    (s, conns)
}

/// Neighbours, by their number, that were sent an UPDATE.
fn heard(outs: &[Out], conns: &[ConnId]) -> Vec<usize> {
    (1..6).filter(|n| !updates(outs, conns[n - 1]).is_empty()).collect()
}

fn internal() -> Attributes {
    Attributes { local_pref: Some(100), ..attributes(&[65009]) }
}

fn one(outs: &[Out], conn: ConnId) -> (Attributes, IpAddr) {
    let updates = updates(outs, conn);
    let [Update { attributes: Some(a), reach: Some(reach), .. }] = &updates[..] else { panic!("{updates:?}") };
    (a.as_ref().clone(), reach.next_hop)
}

#[test]
fn who_is_told_of_whose_routes() {
    // RFC 4456 section 6, and the iBGP rule of RFC 4271 section 9.2.1 for the rest.
    for (from, to) in [(1, vec![2, 3, 4, 5]), (3, vec![1, 2, 5]), (5, vec![1, 2, 3, 4])] {
        let (mut s, conns) = reflector();
        let attributes = if from == 5 { attributes(&[65005]) } else { internal() };
        let hop = format!("10.0.0.{from}");
        let outs = s.say(conns[from - 1], &announce(attributes, &hop, &[PREFIX]));
        assert_eq!(heard(&outs, &conns), to, "from {from}");
        let outs = s.say(conns[from - 1], &withdraw(&[PREFIX]));
        assert_eq!(heard(&outs, &conns), to, "who was told is told that it is gone");
    }
    // Our own go to all.
    let (mut s, conns) = reflector();
    let own = Op::Put(Key::Network("10.1.0.0/24".parse().unwrap()), Value::Network(Network { next_hop: ours() }));
    assert_eq!(heard(&s.apply(&[own]), &conns), [1, 2, 3, 4, 5]);
}

#[test]
fn what_a_reflected_route_looks_like() {
    let (mut s, conns) = reflector();
    let outs = s.say(conns[0], &announce(internal(), "10.0.0.1", &[PREFIX]));
    // The client's identifier, our cluster, which is our identifier by default; nothing else changes.
    let expected = Attributes { originator: Some(id(1)), cluster_list: vec![id(100)], ..internal() };
    for conn in [conns[1], conns[2]] {
        assert_eq!(one(&outs, conn), (expected.clone(), ip("10.0.0.1")));
    }
    // Outside, nobody sees that.
    let (a, hop) = one(&outs, conns[4]);
    assert_eq!((a.originator, a.cluster_list, hop), (None, vec![], ours()));
    assert_eq!(a.as_path.flatten(), [OWN_AS, 65009]);
    // Reflected once before: who brought it in stays, the list grows at the front.
    let again = Attributes { originator: Some(id(77)), cluster_list: vec![id(8), id(9)], ..internal() };
    let outs = s.say(conns[0], &announce(again, "10.0.0.77", &["10.8.0.0/24"]));
    let (a, hop) = one(&outs, conns[3]);
    assert_eq!((a.originator, a.cluster_list), (Some(id(77)), vec![id(100), id(8), id(9)]));
    assert_eq!(hop, ip("10.0.0.77"));
    // From outside to inside is no reflection.
    let outs = s.say(conns[4], &announce(attributes(&[65005]), EXTERNAL, &["10.7.0.0/24"]));
    let (a, _) = one(&outs, conns[0]);
    assert_eq!((a.originator, a.cluster_list), (None, vec![]));
}

#[test]
fn loops_are_broken() {
    let (mut s, conns) = reflector();
    s.apply(&[global(Some(id(200)))]);
    let say = |s: &mut Script, originator, clusters: &[u8]| {
        let a = Attributes { originator, cluster_list: clusters.iter().map(|c| id(*c)).collect(), ..internal() };
        s.say(conns[0], &announce(a, "10.0.0.1", &[PREFIX]));
        (s.routes().len(), s.speaker.adj_in(ip("10.0.0.1")).len())
    };
    assert_eq!(say(&mut s, Some(id(100)), &[]), (0, 1), "we brought it in");
    assert_eq!(say(&mut s, Some(id(1)), &[7, 200, 8]), (0, 1), "it came through our cluster");
    let why: Vec<_> = s.speaker.explain(PREFIX.parse().unwrap()).unwrap().paths.into_iter().map(|p| p.1).collect();
    assert_eq!(why, ["refused: our cluster 10.0.0.200 is in its CLUSTER_LIST (RFC 4456 section 8)"]);
    // Our identifier is not our cluster any more.
    assert_eq!(say(&mut s, Some(id(1)), &[100]), (1, 1));
    assert_eq!(say(&mut s, Some(id(1)), &[200]), (0, 1));
    // Another cluster from now on: no session is reset, and the route is judged again.
    s.apply(&[global(Some(id(201)))]);
    assert_eq!(s.routes(), [PREFIX]);
    assert_eq!(s.told("10.0.0.2", PREFIX)[0].attributes.cluster_list, [id(201), id(200)]);
    s.apply(&[global(Some(id(200)))]);
    assert_eq!(s.routes(), [""; 0]);
    assert_eq!(s.told("10.0.0.2", PREFIX), []);
    // External neighbours have no say in this.
    let a = Attributes { originator: Some(id(100)), cluster_list: vec![id(200)], ..attributes(&[65005]) };
    s.say(conns[4], &announce(a, EXTERNAL, &[PREFIX]));
    assert_eq!(s.routes(), [PREFIX]);
}

#[test]
fn the_originator_and_the_shorter_cluster_list_decide() {
    let (mut s, conns) = reflector();
    let path = |originator: Option<u8>, clusters: &[u8]| Attributes {
        originator: originator.map(id),
        cluster_list: clusters.iter().map(|c| id(*c)).collect(),
        ..internal()
    };
    // RFC 4456 section 9: the originator stands in for the neighbour's identifier ...
    s.say(conns[0], &announce(path(Some(50), &[7]), "10.0.1.1", &[PREFIX]));
    s.say(conns[1], &announce(path(Some(40), &[7]), "10.0.1.2", &[PREFIX]));
    let order = |s: &Script| -> Vec<_> { s.speaker.rib(Family::V4).iter().map(|p| p.from.unwrap()).collect() };
    assert_eq!(order(&s), [CLIENTS[1], CLIENTS[0]].map(ip));
    // ... then the list counts ...
    s.say(conns[1], &announce(path(Some(50), &[7, 8]), "10.0.1.2", &[PREFIX]));
    assert_eq!(order(&s), CLIENTS.map(ip));
    s.say(conns[0], &announce(path(Some(50), &[7, 8, 9]), "10.0.1.1", &[PREFIX]));
    assert_eq!(order(&s), [CLIENTS[1], CLIENTS[0]].map(ip));
    // ... then the address.
    s.say(conns[1], &announce(path(Some(50), &[7, 8, 10]), "10.0.1.2", &[PREFIX]));
    assert_eq!(order(&s), CLIENTS.map(ip));
}

#[test]
fn a_neighbour_becomes_a_client_without_a_reset() {
    let (mut s, conns) = reflector();
    s.say(conns[2], &announce(internal(), "10.0.0.3", &[PREFIX]));
    assert_eq!(s.told(OTHERS[1], PREFIX), []);
    let outs = s.apply(&[neighbor(OTHERS[1], OWN_AS, client)]);
    assert_eq!(heard(&outs, &conns), [4]);
    assert!(!outs.iter().any(|o| matches!(o, Out::Close(_))));
    let outs = s.apply(&[neighbor(OTHERS[1], OWN_AS, plain)]);
    assert_eq!(heard(&outs, &conns), [4]);
    assert_eq!(s.told(OTHERS[1], PREFIX), []);
    // The one that the route comes from, too: now all may know.
    let outs = s.apply(&[neighbor(OTHERS[0], OWN_AS, client)]);
    assert_eq!(heard(&outs, &conns), [4]);
    assert_eq!(s.told(OTHERS[1], PREFIX).len(), 1);
}

#[test]
fn export_policies_hold_on_reflectors() {
    let (mut s, conns) = reflector();
    let change = Modify {
        next_hop_self: true,
        communities: vec![Community::Standard(77)],
        med: Some(5),
        local_pref: Some(300),
        ..Modify::default()
    };
    let statement = |name: &str, prefix_set: Option<&str>, accept, modify| Statement {
        name: name.into(),
        prefix_set: prefix_set.map(Into::into),
        accept,
        modify,
        ..Statement::default()
    };
    let policy = Policy {
        statements: vec![
            statement("secret", Some("secret"), false, Modify::default()),
            statement("all", None, true, change),
        ],
        default_accept: false,
    };
    let member = Op::Put(
        Key::PrefixMember("secret".into(), "10.8.0.0/16".parse().unwrap()),
        Value::PrefixMember { min: 16, max: 32 },
    );
    s.apply(&[Op::Put(Key::Policy(Direction::Export), Value::Policy(policy)), member]);
    let outs = s.say(conns[0], &announce(internal(), "10.0.0.1", &["10.8.1.0/24"]));
    assert_eq!(heard(&outs, &conns), [0; 0]);
    let outs = s.say(conns[0], &announce(internal(), "10.0.0.1", &[PREFIX]));
    let (a, hop) = one(&outs, conns[1]);
    assert_eq!((a.med, a.local_pref, a.communities, hop), (Some(5), Some(300), vec![77], ours()));
    assert_eq!((a.originator, a.cluster_list), (Some(id(1)), vec![id(100)]));
}
