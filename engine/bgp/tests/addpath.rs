//! ADD-PATH (RFC 7911): several paths of a prefix, in either direction.
#![allow(clippy::unwrap_used, reason = "a test may fail")]

#[path = "common/script.rs"]
mod script;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use fairway_bgp::ConnId;
use fairway_bgp::wire::{Attributes, Capability, Context, Message, Nlri, Open, Reach, Update};
use fairway_desired::bgp::{AddPath, Families, Session};
use fairway_desired::{Bgp, Family, Op};
use ipnet::IpNet;
use proptest::prelude::*;
use script::{FOUR, Out, Script, announce, attributes, neighbor, open, plain, updates, withdraw};

const PEER: &str = "10.0.0.1";
const PREFIX: &str = "10.9.0.0/24";

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn offers(receive: bool, send: u8) -> impl Fn(&mut Session) {
    move |s| s.add_path = AddPath { receive, send }
}

/// The other side's OPEN with a mode for each family: 1 receive, 2 send, 3 both; 0: not in the capability.
fn opens(asn: u32, id: u8, modes: [u8; 2]) -> Open {
    let mut open = open(asn, id);
    let list: Vec<(u16, u8, u8)> =
        [1u16, 2].into_iter().zip(modes).filter(|(_, m)| *m > 0).map(|(afi, m)| (afi, 1, m)).collect();
    if !list.is_empty() {
        open.capabilities.push(Capability::AddPath(list));
    }
    open
}

fn paths(v4: bool, v6: bool) -> Context {
    Context { add_path: Families { v4, v6 }, ..FOUR }
}

fn nlri(prefix: &str, path_id: u32) -> Nlri {
    Nlri { prefix: prefix.parse().unwrap(), path_id }
}

fn several(list: &[(u32, &str)], attributes: Attributes, next_hop: &str) -> Message {
    let prefixes = list.iter().map(|(id, prefix)| nlri(prefix, *id)).collect();
    let reach = Reach { next_hop: ip(next_hop), prefixes };
    Message::Update(Update { attributes: Some(Arc::new(attributes)), reach: Some(reach), ..Update::default() })
}

fn network(prefix: &str, next_hop: &str) -> Op<Bgp> {
    let value = fairway_desired::bgp::Network { next_hop: ip(next_hop) };
    Op::Put(fairway_desired::bgp::Key::Network(prefix.parse().unwrap()), fairway_desired::bgp::Value::Network(value))
}

#[test]
fn what_we_offer() {
    for (receive, send, mode) in [(false, 0, 0), (true, 0, 1), (false, 3, 2), (true, 3, 3)] {
        let mut s = Script::with(&[neighbor(PEER, 65001, offers(receive, send))]);
        let (_, outs) = s.accept(ip(PEER));
        let Out::Say(_, Message::Open(open)) = &outs[0] else { panic!("{outs:?}") };
        let said = open.capabilities.iter().find_map(|c| match c {
            Capability::AddPath(list) => Some(list.clone()),
            _ => None,
        });
        assert_eq!(said, (mode > 0).then(|| vec![(1, 1, mode), (2, 1, mode)]));
    }
}

/// Identifiers are on the wire in one direction if one side offered to send and the other to receive, for each family
/// by itself (RFC 7911 section 4).
#[test]
fn what_is_agreed_on() {
    for (receive, send) in [(false, 0), (true, 0), (false, 2), (true, 2)] {
        for theirs in 0..5u8 {
            for other_family in [0, 3] {
                let mut s = Script::with(&[
                    neighbor(PEER, 65001, offers(receive, send)),
                    network("10.1.0.0/24", "10.0.0.100"),
                    network("fd00:1::/64", "fd00::100"),
                ]);
                let context = |bit: u8, ours: bool| {
                    // 4 is no mode, so it offers nothing.
                    let agrees = |mode: u8| ours && mode < 4 && mode & bit != 0;
                    paths(agrees(theirs), agrees(other_family))
                };
                s.context = context(1, send > 0);
                let (conn, outs) = s.up(ip(PEER), &opens(65001, 1, [theirs, other_family]));
                let what = format!("ours {receive} {send}, theirs {theirs} {other_family}");
                let got: Vec<Nlri> = updates(&outs, conn)
                    .into_iter()
                    .flat_map(|u| u.reach.into_iter().chain(u.mp_reach.map(|(_, r)| r)))
                    .flat_map(|r| r.prefixes)
                    .collect();
                let numbers: Vec<(String, bool)> = got.iter().map(|n| (n.prefix.to_string(), n.path_id != 0)).collect();
                let expected = [
                    ("10.1.0.0/24".to_string(), s.context.add_path.v4),
                    ("fd00:1::/64".to_string(), s.context.add_path.v6),
                ];
                assert_eq!(numbers, expected, "{what}");
                // The other direction.
                s.context = context(2, receive);
                let id = if s.context.add_path.v4 { 7 } else { 0 };
                s.say(conn, &several(&[(id, PREFIX)], attributes(&[65001]), PEER));
                let rib = s.speaker.adj_in(ip(PEER));
                assert_eq!(
                    rib.iter().map(|p| (p.prefix.to_string(), p.path_id)).collect::<Vec<_>>(),
                    [(PREFIX.to_string(), id)]
                );
            }
        }
    }
}

#[test]
fn several_paths_of_one_neighbour() {
    let mut s = Script::with(&[neighbor(PEER, 65001, offers(true, 0)), neighbor("10.0.0.2", 65002, plain)]);
    let (conn, _) = s.up(ip(PEER), &opens(65001, 1, [2, 2]));
    let (other, _) = s.up(ip("10.0.0.2"), &open(65002, 2));
    let told = |s: &Script| -> Vec<Vec<u32>> { s.told("10.0.0.2", PREFIX).iter().map(|p| p.as_path()).collect() };
    s.contexts.insert(conn, (FOUR, paths(true, true)));
    let say = |s: &mut Script, message: Message| s.say(conn, &message);
    say(&mut s, several(&[(1, PREFIX)], attributes(&[65001, 65009]), "10.0.1.1"));
    say(&mut s, several(&[(2, PREFIX)], attributes(&[65001, 65008]), "10.0.1.2"));
    let outs = say(&mut s, several(&[(9, PREFIX)], attributes(&[65001]), "10.0.1.3"));
    assert_eq!(updates(&outs, other).len(), 1);
    assert_eq!(s.routes(), [PREFIX; 3]);
    assert_eq!(s.learned.last().unwrap().next_hops, [ip("10.0.1.3")]);
    assert_eq!(told(&s), [vec![65100, 65001]]);
    // The best is gone: the other two are equal.
    say(&mut s, Message::Update(Update { withdrawn: vec![nlri(PREFIX, 9)], ..Update::default() }));
    assert_eq!(s.learned.last().unwrap().next_hops, ["10.0.1.1", "10.0.1.2"].map(ip));
    assert_eq!(told(&s), [vec![65100, 65001, 65009]]);
    // An identifier that is used again takes the place of its path; one that is unknown is nobody's.
    say(&mut s, several(&[(1, PREFIX)], attributes(&[65001, 65007, 65006]), "10.0.1.4"));
    say(&mut s, Message::Update(Update { withdrawn: vec![nlri(PREFIX, 33)], ..Update::default() }));
    assert_eq!(s.learned.last().unwrap().next_hops, [ip("10.0.1.2")]);
    let view = &s.speaker.neighbors()[0];
    assert_eq!((view.received, view.accepted), (2, 2));
    let outs = s.lose(conn);
    assert_eq!(updates(&outs, other).len(), 1);
    assert_eq!(s.routes(), [""; 0]);
}

/// A network with a neighbour that gets two paths of each prefix, and three that have some.
fn fan(paths_sent: u8) -> (Script, ConnId, Vec<ConnId>) {
    let mut s = Script::with(&[
        neighbor("10.0.0.9", 65009, offers(false, paths_sent)),
        neighbor("10.0.0.1", 65001, plain),
        neighbor("10.0.0.2", 65002, plain),
        neighbor("10.0.0.3", 65003, plain),
    ]);
    let (reader, _) = s.up(ip("10.0.0.9"), &opens(65009, 9, [1, 1]));
    s.contexts.insert(reader, (paths(true, true), FOUR));
    let conns = (1..4).map(|n| s.up(ip(&format!("10.0.0.{n}")), &open(65000 + u32::from(n), n)).0).collect();
    (s, reader, conns)
}

#[test]
fn so_many_paths_as_were_offered_are_sent_the_best_ones() {
    let (mut s, reader, conns) = fan(2);
    let path = |n: usize| attributes(&vec![65000 + n as u32; n]);
    let mut view: BTreeMap<Nlri, Vec<u32>> = BTreeMap::new();
    let mut read = |updates: Vec<Update>| {
        for update in &updates {
            for gone in &update.withdrawn {
                assert!(view.remove(gone).is_some(), "{gone:?} was never announced");
            }
            for new in update.reach.iter().flat_map(|r| &r.prefixes) {
                view.insert(*new, update.attributes.as_ref().unwrap().as_path.flatten());
            }
        }
        let ids: BTreeSet<u32> = view.keys().map(|n| n.path_id).collect();
        assert!(ids.len() == view.len() && !ids.contains(&0));
        let mut lengths: Vec<usize> = view.values().map(|p| p.len() - 1).collect();
        lengths.sort();
        (lengths, updates.len())
    };
    assert_eq!(read(updates(&s.say(conns[2], &announce(path(3), "10.0.0.3", &[PREFIX])), reader)), (vec![3], 1));
    assert_eq!(read(updates(&s.say(conns[1], &announce(path(2), "10.0.0.2", &[PREFIX])), reader)), (vec![2, 3], 1));
    // A better one pushes out the third.
    assert_eq!(read(updates(&s.say(conns[0], &announce(path(1), "10.0.0.1", &[PREFIX])), reader)).0, [1, 2]);
    // The third changes: not said.
    assert_eq!(read(updates(&s.say(conns[2], &announce(path(4), "10.0.0.3", &[PREFIX])), reader)), (vec![1, 2], 0));
    // The best goes: the third comes in.
    assert_eq!(read(updates(&s.say(conns[0], &withdraw(&[PREFIX])), reader)).0, [2, 4]);
    assert_eq!(read(updates(&s.say(conns[1], &withdraw(&[PREFIX])), reader)), (vec![4], 1));
    assert_eq!(read(updates(&s.say(conns[2], &withdraw(&[PREFIX])), reader)), (vec![], 1));
}

#[derive(Clone, Debug)]
enum Step {
    /// Neighbour, prefix, path length.
    Put(usize, u8, usize),
    Del(usize, u8),
    Lose(usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0usize..3, 0u8..3, 1usize..5).prop_map(|(n, p, len)| Step::Put(n, p, len)),
        3 => (0usize..3, 0u8..3).prop_map(|(n, p)| Step::Del(n, p)),
        1 => (0usize..3).prop_map(Step::Lose),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    /// What a reader that gets several paths believes is exactly the best of what there is.
    #[test]
    fn a_reader_of_several_paths_knows_the_best(count in 1u8..4, steps in prop::collection::vec(step(), 1..40)) {
        let (mut s, reader, mut conns) = fan(count);
        let mut truth: BTreeMap<(IpNet, usize), usize> = BTreeMap::new();
        let mut view: BTreeMap<Nlri, Vec<u32>> = BTreeMap::new();
        let prefix = |p: u8| -> IpNet { format!("10.{p}.0.0/16").parse().unwrap() };
        for step in steps {
            let outs = match step {
                Step::Put(n, p, len) => {
                    truth.insert((prefix(p), n), len);
                    let a = attributes(&vec![65001 + n as u32; len]);
                    s.say(conns[n], &announce(a, &format!("10.0.0.{}", n + 1), &[&prefix(p).to_string()]))
                }
                Step::Del(n, p) => {
                    truth.remove(&(prefix(p), n));
                    s.say(conns[n], &withdraw(&[&prefix(p).to_string()]))
                }
                Step::Lose(n) => {
                    truth.retain(|(_, m), _| *m != n);
                    let outs = s.lose(conns[n]);
                    conns[n] = s.up(ip(&format!("10.0.0.{}", n + 1)), &open(65001 + n as u32, n as u8 + 1)).0;
                    outs
                }
            };
            for update in updates(&outs, reader) {
                for gone in update.withdrawn {
                    prop_assert!(view.remove(&gone).is_some());
                }
                for new in update.reach.iter().flat_map(|r| &r.prefixes) {
                    view.insert(*new, update.attributes.as_ref().unwrap().as_path.flatten());
                }
            }
            for p in 0..3 {
                // Shortest first, then the lower identifier, which is the neighbour's number.
                let mut best: Vec<(usize, usize)> =
                    truth.iter().filter(|((q, _), _)| *q == prefix(p)).map(|((_, n), len)| (*len, *n)).collect();
                best.sort();
                best.truncate(count.into());
                let mut expected: Vec<Vec<u32>> = best
                    .into_iter()
                    .map(|(len, n)| std::iter::once(65100).chain(vec![65001 + n as u32; len]).collect())
                    .collect();
                let mut got: Vec<Vec<u32>> =
                    view.iter().filter(|(n, _)| n.prefix == prefix(p)).map(|(_, path)| path.clone()).collect();
                expected.sort();
                got.sort();
                prop_assert_eq!(got, expected);
            }
        }
        prop_assert_eq!(s.speaker.adj_out(ip("10.0.0.9")).len(), view.len());
        prop_assert_eq!(s.speaker.rib(Family::V4).len(), truth.len());
    }
}
