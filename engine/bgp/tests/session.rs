//! The state machine, message by message.
#![allow(clippy::unwrap_used, reason = "a test may fail")]

mod common;
#[path = "common/script.rs"]
mod script;

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use common::{del, dynamic, global, ip, network, peer, peer_value, policy, secs};
use fairway_bgp::wire::{Capability, Message, Open, RouteRefresh, UnknownAttribute, Update};
use fairway_bgp::{ConnId, Event, Input, SessionState};
use fairway_desired::bgp::{Direction, Families, Key, Value};
use fairway_desired::{Family, Learned, Op, Outcome};
use script::{Out, Script, announce, attributes, notification, open, ours};

const PEER: &str = "10.0.0.1";

/// AS 65100 with identifier 10.0.0.100; the neighbour 10.0.0.1 is AS 65001 with a hold time of 9 s.
fn script() -> (Script, ConnId) {
    let mut s = Script::new();
    let outs = s.apply(&[global(65100, 100, 4), peer(PEER, 65001)]);
    let [Out::Listen(179), Out::Dial(conn, remote)] = outs[..] else { panic!("dial at once: {outs:?}") };
    assert_eq!(remote.to_string(), "10.0.0.1:179");
    (s, conn)
}

fn connect(s: &mut Script, conn: ConnId) -> Vec<Out> {
    s.input(Input::Connected {
        conn,
        local: std::net::SocketAddr::new(ours(), 40000),
        remote: "10.0.0.1:179".parse().unwrap(),
    })
}

/// The session is up; the connection.
fn established() -> (Script, ConnId) {
    let (mut s, conn) = script();
    connect(&mut s, conn);
    s.say(conn, &Message::Open(open(65001, 1)));
    s.say(conn, &Message::Keepalive);
    assert_eq!(state(&s), SessionState::Established);
    (s, conn)
}

fn state(s: &Script) -> SessionState {
    s.speaker.neighbors()[0].state
}

#[test]
fn a_session_comes_up() {
    let (mut s, conn) = script();
    assert_eq!(state(&s), SessionState::Connect);
    let outs = connect(&mut s, conn);
    let expected = Open {
        asn2: 65100,
        hold_s: 9,
        router_id: Ipv4Addr::new(10, 0, 0, 100),
        capabilities: vec![
            Capability::Multiprotocol { afi: 1, safi: 1 },
            Capability::Multiprotocol { afi: 2, safi: 1 },
            Capability::RouteRefresh,
            Capability::ExtendedMessage,
            Capability::FourOctetAs(65100),
            Capability::EnhancedRefresh,
        ],
    };
    assert_eq!(outs, [Out::Say(conn, Message::Open(expected))]);
    assert_eq!(state(&s), SessionState::OpenSent);
    assert_eq!(s.say(conn, &Message::Open(open(65001, 1))), [Out::Say(conn, Message::Keepalive)]);
    assert_eq!(state(&s), SessionState::OpenConfirm);
    let outs = s.say(conn, &Message::Keepalive);
    let end = |family| Out::Say(conn, Message::Update(Update::end_of_rib(family)));
    assert_eq!(outs, [end(Family::V4), end(Family::V6)]);
    assert_eq!(s.events, [Event::Established { peer: ip(PEER), asn: 65001 }]);
    let view = &s.speaker.neighbors()[0];
    assert_eq!((view.hold_s, view.since, view.router_id), (9, Some(secs(1000)), Some(Ipv4Addr::new(10, 0, 0, 1))));
}

#[test]
fn bytes_may_come_one_by_one_or_all_at_once() {
    let (mut s, conn) = script();
    connect(&mut s, conn);
    let mut bytes = Message::Open(open(65001, 1)).encode(s.context).unwrap();
    bytes.extend(Message::Keepalive.encode(s.context).unwrap());
    bytes.extend(announce(attributes(&[65001]), PEER, &["10.9.0.0/24"]).encode(s.context).unwrap());
    let mut single = Script::new();
    single.apply(&[global(65100, 100, 4), peer(PEER, 65001)]);
    connect(&mut single, conn);
    for byte in &bytes {
        single.input(Input::Received { conn, bytes: vec![*byte] });
    }
    s.input(Input::Received { conn, bytes });
    assert_eq!(s.learned, [Learned { prefix: "10.9.0.0/24".parse().unwrap(), next_hops: vec![ip(PEER)] }]);
    assert_eq!((s.events, s.learned), (single.events, single.learned));
}

#[test]
fn a_message_in_the_wrong_state_ends_the_connection() {
    let open = Message::Open(open(65001, 1));
    let update = Message::Update(Update::default());
    let refresh = Message::RouteRefresh(RouteRefresh { afi: 1, subtype: 0, safi: 1 });
    // How far the session is, the message, and RFC 6608's subcode.
    let table = [
        (0, &Message::Keepalive, 1),
        (0, &update, 1),
        (0, &refresh, 1),
        (1, &open, 2),
        (1, &update, 2),
        (1, &refresh, 2),
        (2, &open, 3),
    ];
    for (steps, message, subcode) in table {
        let (mut s, conn) = script();
        connect(&mut s, conn);
        for step in [&open, &Message::Keepalive].into_iter().take(steps) {
            s.say(conn, step);
        }
        let outs = s.say(conn, message);
        assert_eq!(outs, [Out::Say(conn, notification(5, subcode)), Out::Close(conn)], "{steps} {message:?}");
        assert_eq!(state(&s), SessionState::Active);
    }
}

#[test]
fn an_unacceptable_open_is_answered() {
    let good = open(65001, 1);
    let id = |a, b, c, d| Open { router_id: Ipv4Addr::new(a, b, c, d), ..good.clone() };
    let families = vec![Capability::Multiprotocol { afi: 25, safi: 65 }, Capability::FourOctetAs(65001)];
    let v4_and_v6 = vec![1, 4, 0, 1, 0, 1, 1, 4, 0, 2, 0, 1];
    for (open, subcode, data) in [
        (open(65003, 1), 2, vec![]),
        (id(0, 0, 0, 0), 3, vec![]),
        (id(224, 0, 0, 1), 3, vec![]),
        (Open { hold_s: 1, ..good.clone() }, 6, vec![]),
        (Open { hold_s: 2, ..good.clone() }, 6, vec![]),
        (Open { capabilities: families, ..good.clone() }, 7, v4_and_v6),
    ] {
        let (mut s, conn) = script();
        connect(&mut s, conn);
        let outs = s.say(conn, &Message::Open(open.clone()));
        let Out::Say(_, Message::Notification(n)) = &outs[0] else { panic!("{outs:?}") };
        assert_eq!((n.code, n.subcode, n.data.clone()), (2, subcode, data), "{open:?}");
        assert_eq!(outs[1..], [Out::Close(conn)]);
        if subcode == 2 {
            let text = s.events[0].to_string();
            assert_eq!(text, "no BGP session with 10.0.0.1: peer says AS 65003, configured 65001");
        }
    }
}

#[test]
fn broken_bytes_are_answered_and_the_routes_go() {
    let (mut s, conn) = established();
    s.say(conn, &announce(attributes(&[65001]), PEER, &["10.9.0.0/24"]));
    let outs = s.input(Input::Received { conn, bytes: vec![0; 19] });
    assert_eq!(outs, [Out::Say(conn, notification(1, 1)), Out::Close(conn)]);
    assert_eq!(s.learned.last().unwrap().next_hops, Vec::<IpAddr>::new());
    assert_eq!(s.speaker.rib(Family::V4), []);
    let reason = "sent Connection Not Synchronized (1/1)".into();
    assert_eq!(s.events.last(), Some(&Event::Down { peer: ip(PEER), reason }));
    // What is still under way on a dead connection has no effect.
    assert_eq!(s.say(conn, &Message::Keepalive), []);
    assert_eq!(s.input(Input::Closed { conn }), []);
}

#[test]
fn timers_of_an_established_session() {
    let (mut s, conn) = established();
    let mut pauses = vec![];
    for _ in 0..3 {
        let before = s.now;
        assert_eq!(s.tick(), [Out::Say(conn, Message::Keepalive)]);
        pauses.push(s.now - before);
    }
    // A third of the hold time, or up to a quarter less (RFC 4271 sections 4.4 and 10).
    assert!(pauses.iter().all(|p| (Duration::from_millis(2250)..=secs(3)).contains(p)), "{pauses:?}");
    assert!(pauses[0] != pauses[1] && pauses[1] != pauses[2]);
    // The other side is heard now, so its time is over after 9 s.
    s.say(conn, &Message::Keepalive);
    let heard = s.now;
    loop {
        let outs = s.tick();
        if outs != [Out::Say(conn, Message::Keepalive)] {
            assert_eq!(outs, [Out::Say(conn, notification(4, 0)), Out::Close(conn)]);
            break;
        }
    }
    assert_eq!(s.now - heard, secs(9));
    assert_eq!(s.events.last(), Some(&Event::Down { peer: ip(PEER), reason: "hold timer expired".into() }));
    assert_eq!(s.speaker.neighbors()[0].since, Some(s.now));
}

#[test]
fn the_smaller_hold_time_counts_and_zero_means_none() {
    let (mut s, conn) = script();
    connect(&mut s, conn);
    s.say(conn, &Message::Open(Open { hold_s: 3, ..open(65001, 1) }));
    s.say(conn, &Message::Keepalive);
    let before = s.now;
    s.tick();
    assert!((Duration::from_millis(750)..=secs(1)).contains(&(s.now - before)));
    let (mut s, conn) = script();
    connect(&mut s, conn);
    s.say(conn, &Message::Open(Open { hold_s: 0, ..open(65001, 1) }));
    s.say(conn, &Message::Keepalive);
    assert_eq!(state(&s), SessionState::Established);
    assert_eq!(s.speaker.deadline(), None);
}

#[test]
fn a_silent_other_side_is_given_four_minutes_for_its_open() {
    let (mut s, conn) = script();
    connect(&mut s, conn);
    let before = s.now;
    assert_eq!(s.tick(), [Out::Say(conn, notification(4, 0)), Out::Close(conn)]);
    assert_eq!(s.now - before, secs(240));
}

#[test]
fn dialing_goes_on_for_ever_with_growing_pauses() {
    let (mut s, mut conn) = script();
    let mut pauses = vec![];
    for _ in 0..40 {
        assert_eq!(s.input(Input::ConnectFailed { conn }), []);
        assert_eq!(state(&s), SessionState::Active);
        let before = s.now;
        let [Out::Dial(next, _)] = s.tick()[..] else { panic!() };
        assert_ne!(next, conn);
        conn = next;
        pauses.push(s.now - before);
    }
    assert!((secs(0)..=secs(1)).contains(&pauses[0]), "{pauses:?}");
    assert!(pauses[1] > pauses[0]);
    assert!(pauses[10..].iter().all(|p| (secs(22)..=secs(30)).contains(p)), "{pauses:?}");
    assert_eq!(s.events.len(), 1);
    // A dial without an answer is given up.
    let before = s.now;
    assert_eq!(s.tick()[0], Out::Close(conn));
    assert_eq!(s.now - before, secs(30));
    // An answer that comes later is not left hanging.
    assert_eq!(connect(&mut s, conn), [Out::Close(conn)]);
}

#[test]
fn collisions_are_decided_by_the_identifier() {
    // Ours is 10.0.0.100: against a lower one our own connection stays, against a higher one theirs.
    for (id, ours_stays) in [(1, true), (200, false)] {
        for open_on_ours_first in [true, false] {
            let (mut s, out) = script();
            connect(&mut s, out);
            let (inward, _) = s.accept(ip(PEER));
            let open = Message::Open(open(65001, id));
            let (first, second) = if open_on_ours_first { (out, inward) } else { (inward, out) };
            assert_eq!(s.say(first, &open), [Out::Say(first, Message::Keepalive)]);
            let (kept, lost) = if ours_stays { (out, inward) } else { (inward, out) };
            let mut outs = s.say(second, &open);
            let mut expected = vec![Out::Say(lost, notification(6, 7)), Out::Close(lost)];
            if kept == second {
                expected.push(Out::Say(kept, Message::Keepalive));
            }
            outs.sort_by_key(|o| matches!(o, Out::Say(_, Message::Keepalive)));
            assert_eq!(outs, expected, "{id} {open_on_ours_first}");
            s.say(kept, &Message::Keepalive);
            assert_eq!(state(&s), SessionState::Established);
            assert_eq!(s.events, [Event::Established { peer: ip(PEER), asn: 65001 }]);
            // The session that is up wins against whoever comes later.
            let (late, _) = s.accept(ip(PEER));
            assert_eq!(s.say(late, &open), [Out::Say(late, notification(6, 7)), Out::Close(late)]);
            assert_eq!(state(&s), SessionState::Established);
        }
    }
}

#[test]
fn a_dial_is_given_up_when_the_other_side_was_faster() {
    let (mut s, out) = script();
    let (_, outs) = s.up(ip(PEER), &open(65001, 1));
    assert!(outs.contains(&Out::Close(out)), "{outs:?}");
    assert_eq!(state(&s), SessionState::Established);
}

#[test]
fn strangers_are_rejected() {
    let (mut s, _) = script();
    let (conn, outs) = s.accept(ip("10.0.0.77"));
    assert_eq!(outs, [Out::Say(conn, notification(6, 5)), Out::Close(conn)]);
    assert_eq!(s.events, [Event::Rejected { source: ip("10.0.0.77") }]);
    s.apply(&[dynamic("10.0.0.64/26", &[65001])]);
    let (conn, outs) = s.accept("::ffff:10.0.0.77".parse().unwrap());
    assert!(matches!(outs[..], [Out::Say(_, Message::Open(_))]));
    s.say(conn, &Message::Open(open(65001, 77)));
    s.say(conn, &Message::Keepalive);
    let view = s.speaker.neighbors().pop().unwrap();
    assert_eq!((view.address, view.dynamic, view.state), (ip("10.0.0.77"), true, SessionState::Established));
    s.input(Input::Closed { conn });
    assert_eq!(s.speaker.neighbors().len(), 1, "a dynamic neighbour goes with its session");
    s.input(Input::Shutdown { message: String::new() });
    let (conn, outs) = s.accept(ip("10.0.0.77"));
    assert_eq!(outs, [Out::Say(conn, notification(6, 5)), Out::Close(conn)]);
    assert_eq!(s.speaker.deadline(), None);
}

#[test]
fn broken_attributes_withdraw_routes_and_keep_the_session() {
    let (mut s, conn) = established();
    s.say(conn, &announce(attributes(&[65001]), PEER, &["10.9.0.0/24", "10.9.1.0/24"]));
    // The same prefix again, with ORIGIN 9.
    let mut bytes = announce(attributes(&[65001]), PEER, &["10.9.0.0/24"]).encode(s.context).unwrap();
    let at = bytes.windows(3).position(|w| w == [0x40, 1, 1]).unwrap();
    bytes[at + 3] = 9;
    assert_eq!(s.input(Input::Received { conn, bytes }), []);
    assert_eq!(state(&s), SessionState::Established);
    let last = s.learned.last().unwrap();
    assert_eq!((last.prefix.to_string(), last.next_hops.len()), ("10.9.0.0/24".into(), 0));
    assert_eq!(s.speaker.rib(Family::V4).len(), 1);
    assert!(matches!(s.events.last(), Some(Event::Malformed { .. })));
}

#[test]
fn a_route_refresh_brings_the_routes_again() {
    let (mut s, conn) = established();
    s.apply(&[network("10.1.0.0/24", "10.0.0.100"), network("fd00:1::/64", "fd00::100")]);
    let refresh = |afi, subtype| Message::RouteRefresh(RouteRefresh { afi, subtype, safi: 1 });
    let outs = s.say(conn, &refresh(1, 0));
    assert_eq!(outs, [Out::Say(conn, announce(attributes(&[65100]), "10.0.0.100", &["10.1.0.0/24"]))]);
    let outs = s.say(conn, &refresh(2, 0));
    assert!(matches!(&outs[..], [Out::Say(_, Message::Update(Update { mp_reach: Some(_), .. }))]), "{outs:?}");
    assert_eq!(s.say(conn, &refresh(1, 1)), []);
    assert_eq!(s.say(conn, &refresh(25, 0)), []);
}

#[test]
fn what_is_passed_on_and_how() {
    let mut s = Script::new();
    s.apply(&[global(65100, 100, 4), dynamic("10.0.0.0/24", &[65001, 65002, 65100])]);
    let (external, _) = s.up(ip("10.0.0.1"), &open(65001, 1));
    let (other, _) = s.up(ip("10.0.0.2"), &open(65002, 2));
    let (internal, _) = s.up(ip("10.0.0.3"), &open(65100, 3));
    let (internal2, _) = s.up(ip("10.0.0.4"), &open(65100, 4));

    let mut a = attributes(&[65001]);
    a.local_pref = Some(500);
    a.med = Some(7);
    a.unknown = vec![UnknownAttribute { code: 99, partial: false, value: vec![0; 12] }];
    let outs = s.say(external, &announce(a.clone(), "10.0.0.1", &["10.9.0.0/24"]));
    a.unknown[0].partial = true;
    let mut outward = a.clone();
    outward.as_path.prepend(65100, 1);
    (outward.local_pref, outward.med) = (None, None);
    let mut inward = a;
    inward.local_pref = Some(100);
    let expected = [
        Out::Say(other, announce(outward, "10.0.0.100", &["10.9.0.0/24"])),
        Out::Say(internal, announce(inward.clone(), "10.0.0.1", &["10.9.0.0/24"])),
        Out::Say(internal2, announce(inward, "10.0.0.1", &["10.9.0.0/24"])),
    ];
    assert_eq!(outs, expected);

    // From an internal neighbour to external ones only.
    let mut a = attributes(&[]);
    a.local_pref = Some(100);
    let outs = s.say(internal, &announce(a.clone(), "10.0.0.3", &["10.8.0.0/24"]));
    let to: Vec<bool> = outs.iter().map(|o| matches!(o, Out::Say(c, _) if *c == external || *c == other)).collect();
    assert_eq!(to, [true, true], "{outs:?}");

    // NO_EXPORT stays inside, NO_ADVERTISE stays here; both are used.
    let mut no_export = attributes(&[65001]);
    no_export.communities = vec![0xffff_ff01];
    assert_eq!(s.say(external, &announce(no_export, "10.0.0.1", &["10.7.0.0/24"])).len(), 2);
    let mut no_advertise = attributes(&[65001]);
    no_advertise.communities = vec![0xffff_ff02];
    assert_eq!(s.say(external, &announce(no_advertise, "10.0.0.1", &["10.6.0.0/24"])), []);
    assert_eq!(s.learned.len(), 4);

    // Loops, and routes by way of ourselves, are not used.
    s.say(external, &announce(attributes(&[65001, 65100]), "10.0.0.1", &["10.5.0.0/24"]));
    s.say(external, &announce(attributes(&[65001]), "10.0.0.100", &["10.4.0.0/24"]));
    assert_eq!(s.learned.len(), 4);
    let view = &s.speaker.neighbors()[0];
    assert_eq!((view.received, view.accepted), (5, 3));
}

#[test]
fn an_old_speaker_gets_two_octets() {
    let (mut s, conn) = script();
    s.apply(&[global(4_200_000_100, 100, 4)]);
    let [Out::Dial(dialed, _)] = s.apply(&[del(&peer(PEER, 0)), peer(PEER, 65001)])[1..] else { panic!() };
    assert_ne!(conn, dialed);
    connect(&mut s, dialed);
    s.context.four_octet_as = false;
    let old = Open { capabilities: vec![], ..open(65001, 1) };
    s.say(dialed, &Message::Open(old));
    s.say(dialed, &Message::Keepalive);
    let outs = s.apply(&[network("10.1.0.0/24", "10.0.0.100"), network("fd00:1::/64", "fd00::100")]);
    // AS4_PATH is merged by our own decoder; IPv6 is not for a speaker without the capability.
    assert_eq!(outs, [Out::Say(dialed, announce(attributes(&[4_200_000_100]), "10.0.0.100", &["10.1.0.0/24"]))]);
}

#[test]
fn import_policy_is_evaluated_again() {
    let (mut s, conn) = established();
    s.say(conn, &announce(attributes(&[65001]), PEER, &["10.9.0.0/24", "10.9.0.1/32", "10.8.0.0/16"]));
    let used = |s: &Script| s.speaker.rib(Family::V4).iter().map(|p| p.prefix.to_string()).collect::<Vec<_>>();
    assert_eq!(used(&s).len(), 3);
    s.apply(&[policy(Direction::Import, vec![common::statement(Some("bad"), None, false)], true)]);
    assert_eq!(used(&s).len(), 3, "an unknown set matches nothing");
    let bad = common::member("bad", "10.9.0.0/24");
    s.learned.clear();
    s.apply(std::slice::from_ref(&bad));
    assert_eq!(used(&s), ["10.8.0.0/16"]);
    assert_eq!(s.learned.len(), 2);
    assert_eq!(s.speaker.neighbors()[0].accepted, 1);
    s.apply(&[del(&bad)]);
    assert_eq!(used(&s).len(), 3);
    s.apply(&[policy(Direction::Import, vec![], false)]);
    assert_eq!(used(&s).len(), 0);
    s.apply(&[Op::Del(Key::Policy(Direction::Import))]);
    assert_eq!(used(&s).len(), 3);
    assert_eq!(state(&s), SessionState::Established);
}

#[test]
fn what_was_applied_is_observed_and_nonsense_is_refused() {
    let (mut s, _) = script();
    let none = Families { v4: false, v6: false };
    let peer_with = |f: fn(&mut fairway_desired::bgp::Peer)| {
        let mut value = peer_value(65001);
        f(&mut value);
        Op::Put(Key::Peer(ip(PEER)), Value::Peer(value))
    };
    let mut without = peer_value(65001);
    without.session.families = none;
    let before = s.speaker.observe();
    let ops = [
        peer_with(|p| p.session.hold_s = 2),
        peer_with(|p| p.session.local_as = Some(0)),
        Op::Put(Key::Peer(ip(PEER)), Value::Peer(without)),
        Op::Put(Key::Global, Value::NeighborMember),
        network("10.0.0.1/24", "10.0.0.1"),
        network("10.0.0.0/24", "fd00::1"),
    ];
    assert_eq!(s.speaker.apply(s.now, &ops), [Outcome::Refused(22); 6]);
    assert_eq!(s.speaker.observe(), before);
    assert_eq!(s.speaker.poll(), None);
    let good = network("10.0.0.0/24", "10.0.0.1");
    assert_eq!(s.speaker.apply(s.now, &[good.clone(), good.clone()]), [Outcome::Done; 2]);
    assert!(s.speaker.observe().contains_key(good.key()));
    assert_eq!(s.speaker.apply(s.now, &[del(&good), del(&good)]), [Outcome::Done, Outcome::Gone]);
    // Everything deleted leaves nothing.
    let all: Vec<_> = s.speaker.observe().into_keys().rev().map(Op::Del).collect();
    s.apply(&all);
    assert!(s.speaker.observe().is_empty());
    assert!(s.speaker.neighbors().is_empty());
    assert_eq!(s.speaker.deadline(), None);
    s.now += Duration::from_secs(1);
    assert_eq!(s.input(Input::Tick), []);
}
