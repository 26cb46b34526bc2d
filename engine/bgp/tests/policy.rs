//! Policies: what they match, what they change, and how little is said when they change.
#![allow(clippy::unwrap_used, reason = "a test may fail")]

#[path = "common/script.rs"]
mod script;

use std::net::IpAddr;

use fairway_bgp::wire::{Attributes, Update};
use fairway_bgp::{ConnId, SessionState};
use fairway_desired::bgp::{Community, Direction, Key, Modify, Network, Policy, Statement, Value};
use fairway_desired::{Bgp, Family, Op};
use ipnet::IpNet;
use script::{OWN_AS, Out, Script, announce, attributes, neighbor, open, ours, plain, updates};

const EXTERNAL: &str = "10.0.0.1";
const OTHER: &str = "10.0.0.2";
const INTERNAL: &str = "10.0.0.3";

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

fn member(set: &str, prefix: &str, min: u8, max: u8) -> Op<Bgp> {
    Op::Put(Key::PrefixMember(set.into(), net(prefix)), Value::PrefixMember { min, max })
}

fn in_set(set: &str, range: &str) -> Op<Bgp> {
    Op::Put(Key::NeighborMember(set.into(), net(range)), Value::NeighborMember)
}

fn del(op: &Op<Bgp>) -> Op<Bgp> {
    Op::Del(op.key().clone())
}

fn policy(direction: Direction, default_accept: bool, statements: &[Statement]) -> Op<Bgp> {
    let statements = statements.to_vec();
    Op::Put(Key::Policy(direction), Value::Policy(Policy { statements, default_accept }))
}

fn accept(name: &str) -> Statement {
    Statement { name: name.into(), accept: true, ..Statement::default() }
}

fn reject(name: &str) -> Statement {
    Statement { name: name.into(), ..Statement::default() }
}

fn originate(prefix: &str) -> Op<Bgp> {
    Op::Put(Key::Network(net(prefix)), Value::Network(Network { next_hop: ip("10.7.7.7") }))
}

/// Two external neighbours and an internal one, up, in this order.
fn begin() -> (Script, Vec<ConnId>) {
    let mut s = Script::with(&[
        neighbor(EXTERNAL, 65001, plain),
        neighbor(OTHER, 65002, plain),
        neighbor(INTERNAL, OWN_AS, plain),
    ]);
    let conns = [(EXTERNAL, 65001, 1), (OTHER, 65002, 2), (INTERNAL, OWN_AS, 3)];
    let conns = conns.map(|(address, asn, id)| s.up(ip(address), &open(asn, id)).0);
    (s, conns.into())
}

/// Prefixes announced and withdrawn on a connection.
fn said(outs: &[Out], conn: ConnId) -> (Vec<String>, Vec<String>) {
    let text = |list: Vec<fairway_bgp::wire::Nlri>| list.iter().map(|n| n.prefix.to_string()).collect::<Vec<_>>();
    let mut new = vec![];
    let mut gone = vec![];
    for Update { withdrawn, reach, mp_reach, mp_unreach, .. } in updates(outs, conn) {
        new.extend(reach.into_iter().chain(mp_reach.map(|(_, r)| r)).flat_map(|r| text(r.prefixes)));
        gone.extend(text(withdrawn));
        gone.extend(text(mp_unreach.map(|(_, p)| p).unwrap_or_default()));
    }
    (new, gone)
}

#[test]
fn what_a_statement_changes() {
    let standard = |c| Community::Standard(c);
    let (large, extended) = ([OWN_AS, 1, 2], [0, 2, 0xff, 0, 0, 0, 0, 9]);
    let received = Attributes {
        communities: vec![1, 2],
        large_communities: vec![[9, 9, 9]],
        ext_communities: vec![[0, 2, 1, 1, 1, 1, 1, 1]],
        med: Some(7),
        ..attributes(&[65001, 65009])
    };
    type Check = fn(&Attributes) -> String;
    let text: Check = |a| {
        format!(
            "{:?} {:?} {:?} {} {} {}",
            a.as_path.flatten(),
            a.med,
            a.local_pref,
            a.communities.iter().map(ToString::to_string).collect::<Vec<_>>().join("+"),
            a.large_communities.len(),
            a.ext_communities.len()
        )
    };
    // The change; on import, what the Loc-RIB has; on export, what an external and an internal neighbour hear.
    let table = [
        (
            Modify::default(),
            "[65001, 65009] Some(7) None 1+2 1 1",
            "[65100, 65001, 65009] None None 1+2 1 1",
            "[65001, 65009] Some(7) Some(100) 1+2 1 1",
        ),
        (
            Modify { prepend: Some((OWN_AS, 2)), ..Modify::default() },
            "[65100, 65100, 65001, 65009] Some(7) None 1+2 1 1",
            "[65100, 65100, 65100, 65001, 65009] None None 1+2 1 1",
            "[65100, 65100, 65001, 65009] Some(7) Some(100) 1+2 1 1",
        ),
        (
            Modify { med: Some(50), local_pref: Some(300), ..Modify::default() },
            "[65001, 65009] Some(50) Some(300) 1+2 1 1",
            "[65100, 65001, 65009] Some(50) None 1+2 1 1",
            "[65001, 65009] Some(50) Some(300) 1+2 1 1",
        ),
        (
            Modify {
                communities: vec![standard(3), standard(1), Community::Large(large), Community::Extended(extended)],
                remove_communities: vec![standard(2), standard(9)],
                ..Modify::default()
            },
            "[65001, 65009] Some(7) None 1+3 2 2",
            "[65100, 65001, 65009] None None 1+3 2 2",
            "[65001, 65009] Some(7) Some(100) 1+3 2 2",
        ),
        (
            Modify {
                communities: vec![standard(2)],
                remove_communities: vec![
                    standard(2),
                    Community::Large([9, 9, 9]),
                    Community::Extended([0, 2, 1, 1, 1, 1, 1, 1]),
                ],
                ..Modify::default()
            },
            "[65001, 65009] Some(7) None 1+2 0 0",
            "[65100, 65001, 65009] None None 1+2 0 0",
            "[65001, 65009] Some(7) Some(100) 1+2 0 0",
        ),
    ];
    for (modify, imported, external, internal) in table {
        let statement = Statement { modify, ..accept("change") };
        let (mut s, conns) = begin();
        s.apply(&[policy(Direction::Import, false, std::slice::from_ref(&statement))]);
        s.say(conns[0], &announce(received.clone(), EXTERNAL, &["10.9.0.0/24"]));
        assert_eq!(text(&s.speaker.rib(Family::V4)[0].attributes), imported);
        assert_eq!(text(&s.speaker.adj_in(ip(EXTERNAL))[0].attributes), text(&received), "before policy");
        let (mut s, conns) = begin();
        s.apply(&[policy(Direction::Export, false, &[statement])]);
        s.say(conns[0], &announce(received.clone(), EXTERNAL, &["10.9.0.0/24"]));
        assert_eq!(text(&s.told(OTHER, "10.9.0.0/24")[0].attributes), external);
        assert_eq!(text(&s.told(INTERNAL, "10.9.0.0/24")[0].attributes), internal);
        assert_eq!(text(&s.speaker.rib(Family::V4)[0].attributes), text(&received), "the Loc-RIB has it as it came");
    }
}

/// RFC 4360 section 6.
#[test]
fn extended_communities_that_are_not_transitive_stay_inside() {
    let (inside, outside) = ([0x43, 0, 0, 0, 0, 0, 0, 1], [3, 0, 0, 0, 0, 0, 0, 1]);
    let (mut s, conns) = begin();
    let route = Attributes { ext_communities: vec![inside, outside], ..attributes(&[65001]) };
    s.say(conns[0], &announce(route, EXTERNAL, &["10.9.0.0/24"]));
    let told = |s: &Script, to: &str| s.told(to, "10.9.0.0/24")[0].attributes.ext_communities.clone();
    assert_eq!((told(&s, INTERNAL), told(&s, OTHER)), (vec![inside, outside], vec![outside]));
    // Unless our own policy says it to this neighbour.
    let modify = Modify { communities: vec![Community::Extended(inside)], ..Modify::default() };
    s.apply(&[policy(Direction::Export, false, &[Statement { modify, ..accept("say") }])]);
    assert_eq!(told(&s, OTHER), [outside, inside]);
}

#[test]
fn next_hop_self() {
    let change = Statement { modify: Modify { next_hop_self: true, ..Modify::default() }, ..accept("hop") };
    for with in [false, true] {
        let (mut s, conns) = begin();
        if with {
            s.apply(&[policy(Direction::Export, false, std::slice::from_ref(&change))]);
        }
        s.apply(&[originate("10.1.0.0/24")]);
        s.say(conns[0], &announce(attributes(&[65001]), EXTERNAL, &["10.9.0.0/24"]));
        let hop = |to: &str, prefix: &str| s.told(to, prefix)[0].next_hop;
        // Learned routes leave to external neighbours with our address in any case.
        assert_eq!(hop(OTHER, "10.9.0.0/24"), ours());
        assert_eq!(hop(INTERNAL, "10.9.0.0/24"), if with { ours() } else { ip(EXTERNAL) });
        for to in [OTHER, INTERNAL] {
            assert_eq!(hop(to, "10.1.0.0/24"), if with { ours() } else { ip("10.7.7.7") });
        }
    }
    // On import: the neighbour's routes lead to our own address.
    let (mut s, conns) = begin();
    s.apply(&[policy(Direction::Import, false, &[change])]);
    s.say(conns[0], &announce(attributes(&[65001]), EXTERNAL, &["10.9.0.0/24"]));
    assert_eq!(s.learned.last().unwrap().next_hops, [ours()]);
}

#[test]
fn what_a_statement_matches() {
    let standard = vec![Community::Standard(1), Community::Standard(77)];
    let large = vec![Community::Large([65001, 1, 1])];
    let extended = vec![Community::Extended([0, 2, 0, 0, 0, 0, 0, 1])];
    let prefixes = |set: &str| Statement { prefix_set: Some(set.into()), ..accept("s") };
    let neighbors = |set: &str| Statement { neighbor_set: Some(set.into()), ..accept("s") };
    let communities = |list: &[Community]| Statement { communities: list.to_vec(), ..accept("s") };
    let both = |set: &str, list: &[Community]| Statement { prefix_set: Some(set.into()), ..communities(list) };
    let sets = [
        member("exact", "10.9.0.0/24", 24, 24),
        member("inside", "10.0.0.0/8", 24, 26),
        member("elsewhere", "10.8.0.0/16", 16, 32),
        member("longer", "10.9.0.0/24", 25, 32),
        in_set("it", "10.0.0.1/32"),
        in_set("range", "10.0.0.0/24"),
        in_set("others", "10.0.0.2/32"),
    ];
    let route = Attributes {
        communities: vec![1, 2],
        large_communities: vec![[65001, 1, 1]],
        ext_communities: vec![[0, 2, 0, 0, 0, 0, 0, 1]],
        ..attributes(&[65001])
    };
    for (statement, matches) in [
        (accept("any"), true),
        (prefixes("exact"), true),
        (prefixes("inside"), true),
        (prefixes("elsewhere"), false),
        (prefixes("longer"), false),
        (prefixes("no such set"), false),
        (neighbors("it"), true),
        (neighbors("range"), true),
        (neighbors("others"), false),
        (neighbors("no such set"), false),
        (communities(&standard), true),
        (communities(&standard[1..]), false),
        (communities(&large), true),
        (communities(&[Community::Large([65001, 1, 2])]), false),
        (communities(&extended), true),
        (communities(&[Community::Extended([0; 8])]), false),
        (both("exact", &standard), true),
        (both("exact", &standard[1..]), false),
        (both("elsewhere", &standard), false),
    ] {
        for accepts in [true, false] {
            // On import, the neighbour is where the route comes from.
            let statement = Statement { accept: accepts, ..statement.clone() };
            let (mut s, conns) = begin();
            s.apply(&sets);
            s.apply(&[policy(Direction::Import, !accepts, std::slice::from_ref(&statement))]);
            s.say(conns[0], &announce(route.clone(), EXTERNAL, &["10.9.0.0/24"]));
            assert_eq!(s.routes().len(), usize::from(matches == accepts), "{statement:?}");
            // On export, where it goes to.
            let (mut s, conns) = begin();
            s.apply(&sets);
            s.apply(&[policy(Direction::Export, !accepts, std::slice::from_ref(&statement))]);
            s.say(conns[1], &announce(Attributes { ..route.clone() }, OTHER, &["10.9.0.0/24"]));
            // The route has AS 65001 in its path, so only the internal neighbour shows it; it is in no set of one.
            let told = s.told(INTERNAL, "10.9.0.0/24").len();
            let one = statement.neighbor_set.as_deref() == Some("it");
            assert_eq!(told, usize::from((matches && !one) == accepts), "{statement:?}");
        }
    }
}

#[test]
fn the_first_statement_that_matches_decides() {
    let set = |name: &str, set: &str, accept| Statement {
        name: name.into(),
        prefix_set: Some(set.into()),
        accept,
        ..Statement::default()
    };
    let (mut s, _) = begin();
    s.apply(&[
        member("a", "10.9.0.0/16", 16, 32),
        member("b", "10.0.0.0/8", 8, 32),
        policy(Direction::Export, false, &[set("first", "a", true), set("second", "b", false), accept("third")]),
        originate("10.9.1.0/24"),
        originate("10.8.1.0/24"),
        originate("192.168.0.0/24"),
    ]);
    let told: Vec<_> = s.speaker.adj_out(ip(OTHER)).iter().map(|p| p.prefix.to_string()).collect();
    assert_eq!(told, ["10.9.1.0/24", "192.168.0.0/24"]);
    let why = |prefix: &str| s.speaker.explain(net(prefix)).unwrap().neighbors[1].2.clone();
    assert_eq!(why("10.9.1.0/24"), "statement first of the export policy accepts it");
    assert_eq!(why("10.8.1.0/24"), "statement second of the export policy rejects it");
    assert_eq!(why("192.168.0.0/24"), "statement third of the export policy accepts it");
}

#[test]
fn a_change_of_policy_says_what_changed_and_no_more() {
    let vips = Statement { prefix_set: Some("vips".into()), neighbor_set: Some("external".into()), ..accept("vips") };
    let (mut s, conns) = begin();
    let external = in_set("external", "10.0.0.1/32");
    let mut ops = vec![policy(Direction::Export, false, std::slice::from_ref(&vips)), external.clone()];
    ops.extend((0..100).map(|i| originate(&format!("10.9.{i}.0/24"))));
    ops.extend((0..50).map(|i| member("vips", &format!("10.9.{i}.0/24"), 24, 24)));
    s.apply(&ops);
    assert_eq!(s.speaker.adj_out(ip(EXTERNAL)).len(), 50);
    let none: (Vec<String>, Vec<String>) = (vec![], vec![]);
    // One more member: one prefix, to the one it is for.
    let sixty = member("vips", "10.9.60.0/24", 24, 24);
    let outs = s.apply(std::slice::from_ref(&sixty));
    assert_eq!(said(&outs, conns[0]), (vec!["10.9.60.0/24".to_string()], vec![]));
    assert_eq!((said(&outs, conns[1]), said(&outs, conns[2])), (none.clone(), none.clone()));
    let outs = s.apply(&[del(&sixty)]);
    assert_eq!(said(&outs, conns[0]), (vec![], vec!["10.9.60.0/24".to_string()]));
    // A set that no statement names, a member that covers nothing, the same once more: nothing.
    for op in [member("other", "10.9.60.0/24", 24, 24), member("vips", "10.8.0.0/16", 16, 32), external.clone()] {
        assert_eq!(s.apply(&[op]), []);
    }
    // Another name, the same effect.
    let renamed = Statement { name: "renamed".into(), ..vips.clone() };
    assert_eq!(s.apply(&[policy(Direction::Export, false, &[renamed])]), []);
    // There and back in one call.
    assert_eq!(s.apply(&[sixty.clone(), del(&sixty)]), []);
    // A neighbour more: to it only, all that it may know; then it leaves.
    let other = in_set("external", "10.0.0.2/31");
    let outs = s.apply(std::slice::from_ref(&other));
    assert_eq!(said(&outs, conns[1]).0.len(), 50);
    assert_eq!((said(&outs, conns[0]), said(&outs, conns[2]).0.len()), (none.clone(), 50));
    assert_eq!(updates(&outs, conns[1]).len(), 1, "in one message");
    let outs = s.apply(&[del(&other)]);
    assert_eq!((said(&outs, conns[1]).1.len(), said(&outs, conns[0])), (50, none.clone()));
    // Without any members: nobody.
    let outs = s.apply(&[del(&external)]);
    assert_eq!(said(&outs, conns[0]).1.len(), 50);
    assert_eq!(s.speaker.adj_out(ip(EXTERNAL)), []);
    // Without a policy: everything to everyone.
    s.apply(&[Op::Del(Key::Policy(Direction::Export))]);
    assert_eq!(s.speaker.adj_out(ip(INTERNAL)).len(), 100);
}

#[test]
fn a_change_of_import_needs_no_help_from_the_neighbour() {
    let bad = Statement { prefix_set: Some("bad".into()), ..reject("bad") };
    let (mut s, conns) = begin();
    s.apply(&[policy(Direction::Import, true, &[bad])]);
    let prefixes: Vec<String> = (0..100).map(|i| format!("10.9.{i}.0/24")).collect();
    let list: Vec<&str> = prefixes.iter().map(String::as_str).collect();
    s.say(conns[0], &announce(attributes(&[65001]), EXTERNAL, &list));
    s.learned.clear();
    let seven = member("bad", "10.9.7.0/24", 24, 24);
    let outs = s.apply(std::slice::from_ref(&seven));
    assert_eq!(said(&outs, conns[1]), (vec![], vec!["10.9.7.0/24".to_string()]));
    assert_eq!(outs.len(), 2, "one message to each of the two others: {outs:?}");
    assert_eq!(s.learned.len(), 1);
    assert_eq!(s.speaker.adj_in(ip(EXTERNAL)).len(), 100);
    assert_eq!(s.speaker.neighbors()[0].accepted, 99);
    let outs = s.apply(&[del(&seven)]);
    assert_eq!(said(&outs, conns[1]), (vec!["10.9.7.0/24".to_string()], vec![]));
    // Preference by neighbour, at once.
    s.say(conns[1], &announce(attributes(&[65002]), OTHER, &["10.9.1.0/24"]));
    let best = |s: &Script| s.speaker.lookup(net("10.9.1.0/24"))[0].from;
    assert_eq!(best(&s), Some(ip(EXTERNAL)));
    let prefer = Statement {
        neighbor_set: Some("better".into()),
        modify: Modify { local_pref: Some(200), ..Modify::default() },
        ..accept("prefer")
    };
    s.apply(&[policy(Direction::Import, true, &[prefer])]);
    assert_eq!(best(&s), Some(ip(EXTERNAL)));
    s.apply(&[in_set("better", "10.0.0.2/32")]);
    assert_eq!(best(&s), Some(ip(OTHER)));
    for address in [EXTERNAL, OTHER, INTERNAL] {
        assert_eq!(s.state(address), SessionState::Established);
    }
}

/// A neighbour that does not read is not told, when it reads again, what policy has forbidden since.
#[test]
fn what_waits_for_a_slow_neighbour_is_dropped_when_policy_forbids_it() {
    let mut s = Script::with(&[neighbor(EXTERNAL, 65001, plain)]);
    let (slow, _) = s.up(ip(EXTERNAL), &open(65001, 1));
    // Different next hops, so that nothing is packed and the window closes.
    let ops: Vec<Op<Bgp>> = (0..20_000u32)
        .map(|i| {
            let (prefix, hop) = (0x0b00_0000 + (i << 8), 0x0a01_0000 + i);
            let key = Key::Network(format!("{}/24", std::net::Ipv4Addr::from(prefix)).parse().unwrap());
            Op::Put(key, Value::Network(Network { next_hop: std::net::Ipv4Addr::from(hop).into() }))
        })
        .collect();
    s.apply(&ops);
    assert_eq!(s.drains, [slow]);
    let few = Statement { prefix_set: Some("few".into()), neighbor_set: Some("us".into()), ..accept("few") };
    let sets = [member("few", "11.0.0.0/24", 24, 24), in_set("us", "10.0.0.0/24")];
    let mut outs = s.apply(&[&[policy(Direction::Export, false, &[few])], &sets[..]].concat());
    while !s.drains.is_empty() {
        s.drains.clear();
        outs.extend(s.input(fairway_bgp::Input::Drained { conn: slow }));
    }
    let announced = said(&outs, slow).0;
    assert!(announced.iter().all(|p| p == "11.0.0.0/24"), "{announced:?}");
    assert_eq!(s.speaker.adj_out(ip(EXTERNAL)).len(), 1);
}

/// The state in between is never seen: one call with several ops says only what holds at its end.
#[test]
fn what_changes_together_is_said_together() {
    let vips = Statement { prefix_set: Some("vips".into()), neighbor_set: Some("external".into()), ..accept("vips") };
    let (one, two) = (member("vips", "10.9.1.0/24", 24, 24), member("vips", "10.9.2.0/24", 24, 24));
    let begin = || {
        // Of one AS, so they can share an Adj-RIB-Out.
        let mut s = Script::with(&[neighbor(EXTERNAL, 65001, plain), neighbor(OTHER, 65001, plain)]);
        let conns = [(EXTERNAL, 1), (OTHER, 2)].map(|(address, id)| s.up(ip(address), &open(65001, id)).0);
        s.apply(&[
            policy(Direction::Export, false, std::slice::from_ref(&vips)),
            in_set("external", "10.0.0.1/32"),
            originate("10.9.1.0/24"),
            originate("10.9.2.0/24"),
            one.clone(),
        ]);
        (s, conns)
    };
    // A neighbour joins the set in the call in which the prefixes change: it never hears of the old one.
    let join = in_set("external", "10.0.0.2/32");
    for ops in [[join.clone(), two.clone(), del(&one)], [two.clone(), del(&one), join.clone()]] {
        let (mut s, conns) = begin();
        let outs = s.apply(&ops);
        assert_eq!(said(&outs, conns[1]), (vec!["10.9.2.0/24".to_string()], vec![]));
        assert_eq!(said(&outs, conns[0]), (vec!["10.9.2.0/24".to_string()], vec!["10.9.1.0/24".to_string()]));
    }
    // A policy comes together with what it forbids.
    let mut s = Script::with(&[neighbor(EXTERNAL, 65001, plain), member("bad", "10.9.1.0/24", 24, 24)]);
    s.up(ip(EXTERNAL), &open(65001, 1));
    let bad = Statement { prefix_set: Some("bad".into()), ..reject("bad") };
    assert_eq!(s.apply(&[policy(Direction::Export, true, &[bad]), originate("10.9.1.0/24")]), []);
    // It joins and leaves.
    let (mut s, _) = begin();
    assert_eq!(s.apply(&[join.clone(), del(&join)]), []);
    // Its settings change in a call that also changes what it may be told.
    let (mut s, conns) = begin();
    let changed = neighbor(OTHER, 65001, |s| s.allow_own_as = 1);
    let outs = s.apply(&[join, changed, two, del(&one)]);
    assert_eq!(said(&outs, conns[1]), (vec!["10.9.2.0/24".to_string()], vec![]));
    // Import: a route that is refused at the end is not learned in between.
    let (mut s, conns) = begin();
    let bad = Statement { prefix_set: Some("bad".into()), ..reject("bad") };
    s.apply(&[policy(Direction::Import, true, &[bad])]);
    s.say(conns[0], &announce(attributes(&[65001, OWN_AS]), EXTERNAL, &["10.9.9.0/24"]));
    s.learned.clear();
    let changed = neighbor(EXTERNAL, 65001, |s| s.allow_own_as = 1);
    s.apply(&[changed, member("bad", "10.9.9.0/24", 24, 24)]);
    assert_eq!(s.learned, []);
    assert_eq!(s.routes(), ["10.9.1.0/24", "10.9.2.0/24"]);
}
