//! What can be set for a neighbour, and how sessions end on purpose.
#![allow(clippy::unwrap_used, reason = "a test may fail")]

#[path = "common/script.rs"]
mod script;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use fairway_bgp::wire::{
    AsPath, Attributes, Capability, Context, Message, Notification, Open, RouteRefresh, UnknownAttribute, Update,
};
use fairway_bgp::{ConnId, Event, Input, Output, SessionState, Speaker};
use fairway_desired::bgp::{
    AddPath, Bfd, Distance, Dynamic, Families, Global, GracefulRestart, Key, MaxPrefixes, Network, Peer, Session, Value,
};
use fairway_desired::{Bgp, Family, Op};
use script::{
    FOUR, OWN_AS, Out, Script, announce, announce6, attributes, end_of_rib, neighbor, notification, notifications,
    open, ours, plain, updates,
};

const PEER: &str = "10.0.0.1";
const OTHER: &str = "10.0.0.2";

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn secs(s: u64) -> Duration {
    Duration::from_secs(s)
}

/// A neighbour that we dial.
fn dialed(address: &str, asn: u32, change: impl FnOnce(&mut Peer)) -> Op<Bgp> {
    let mut peer = Peer::new(asn, Session::new(90, Families::ALL));
    change(&mut peer);
    Op::Put(Key::Peer(ip(address)), Value::Peer(peer))
}

fn range(net: &str, asns: &[u32], change: impl FnOnce(&mut Session)) -> Op<Bgp> {
    let mut session = Session::new(90, Families::ALL);
    change(&mut session);
    Op::Put(Key::Dynamic(net.parse().unwrap()), Value::Dynamic(Dynamic { asns: asns.to_vec(), session }))
}

fn network(prefix: &str, next_hop: &str) -> Op<Bgp> {
    Op::Put(Key::Network(prefix.parse().unwrap()), Value::Network(Network { next_hop: ip(next_hop) }))
}

fn opening(outs: &[Out]) -> Open {
    let of = |o: &Out| match o {
        Out::Say(_, Message::Open(open)) => Some(open.clone()),
        _ => None,
    };
    outs.iter().find_map(of).expect("an OPEN")
}

#[test]
fn hold_times_are_each_neighbours_own() {
    let mut s = Script::with(&[
        neighbor(PEER, 65001, |s| s.hold_s = 30),
        neighbor(OTHER, 65002, |s| s.hold_s = 180),
        neighbor("10.0.0.3", 65003, |s| s.hold_s = 0),
    ]);
    for (address, asn, id, offered, agreed) in
        [(PEER, 65001, 1, 30, 30), (OTHER, 65002, 2, 180, 90), ("10.0.0.3", 65003, 3, 0, 0)]
    {
        let (conn, outs) = s.accept(ip(address));
        assert_eq!(opening(&outs).hold_s, offered);
        s.say(conn, &Message::Open(open(asn, id)));
        s.say(conn, &Message::Keepalive);
        let view = s.speaker.neighbors().into_iter().find(|n| n.address == ip(address)).unwrap();
        assert_eq!((view.state, view.hold_s), (SessionState::Established, agreed));
    }
}

/// RFC 5082 and multihop: the TTL of our packets and the lowest of theirs, for who dials and who is dialed.
#[test]
fn how_far_a_neighbour_may_be() {
    for (distance, external, internal) in [
        (Distance::Default, (Some(1), None), (None, None)),
        (Distance::Multihop(5), (Some(5), None), (None, None)),
        (Distance::Security(1), (Some(255), Some(255)), (Some(255), Some(255))),
        (Distance::Security(3), (Some(255), Some(253)), (Some(255), Some(253))),
        (Distance::Security(255), (Some(255), Some(1)), (Some(255), Some(1))),
    ] {
        for (asn, expected) in [(65001, external), (OWN_AS, internal)] {
            let mut s = Script::with(&[dialed(PEER, asn, |p| p.session.distance = distance)]);
            let (_, ttl, min) = s.ttls.pop().unwrap();
            assert_eq!((ttl, min), expected, "dialing, {distance:?} to AS {asn}");
            s.accept(ip(PEER));
            let told = s.ttls.pop().map_or((None, None), |(_, ttl, min)| (ttl, min));
            assert_eq!(told, expected, "accepting, {distance:?} from AS {asn}");
        }
    }
}

#[test]
fn words_for_the_other_operator() {
    // RFC 9003 section 2: at most 255 octets, never half a character.
    let long = "é".repeat(200);
    for (message, expected) in [("", None), ("new cables", Some("new cables")), (long.as_str(), Some(&long[..254]))] {
        let mut s = Script::with(&[neighbor(PEER, 65001, plain)]);
        let (conn, _) = s.up(ip(PEER), &open(65001, 1));
        let outs = s.input(Input::Shutdown { message: message.into() });
        let n = &notifications(&outs, conn)[0];
        assert_eq!((n.code, n.subcode, n.message().as_deref()), (6, 2, expected));
        assert_eq!(n.data.len(), expected.map_or(0, |m| m.len() + 1));
    }
    // Theirs ends up in the log; what a terminal would obey does not.
    for (data, shown) in [
        (vec![], "peer sent Administrative Shutdown (6/2)".to_string()),
        (b"\x04moin".to_vec(), "peer sent Administrative Shutdown (6/2): \"moin\"".into()),
        (b"\x05a\x1b[2J".to_vec(), "peer sent Administrative Shutdown (6/2): \"a [2J\"".into()),
        (b"\x02\xff\xfe".to_vec(), "peer sent Administrative Shutdown (6/2): \"\u{fffd}\u{fffd}\"".into()),
        (b"\x09short".to_vec(), "peer sent Administrative Shutdown (6/2)".into()),
        (b"\0".to_vec(), "peer sent Administrative Shutdown (6/2)".into()),
    ] {
        let mut s = Script::with(&[neighbor(PEER, 65001, plain)]);
        let (conn, _) = s.up(ip(PEER), &open(65001, 1));
        s.say(conn, &Message::Notification(Notification { code: 6, subcode: 2, data }));
        assert_eq!(s.speaker.neighbors()[0].last_error, Some(shown));
    }
}

/// RFC 4486: why a session ends, as the other side reads it.
#[test]
fn each_end_has_its_subcode() {
    type End = fn(&mut Script) -> Vec<Out>;
    let table: [(&str, u8, End); 12] = [
        ("shutdown", 2, |s| s.input(Input::Shutdown { message: String::new() })),
        ("leave, without graceful restart", 2, |s| s.input(Input::Leave)),
        ("turned off", 2, |s| s.input(Input::EnablePeer { peer: ip(PEER), enabled: false, message: String::new() })),
        ("peer deleted", 3, |s| s.apply(&[Op::Del(Key::Peer(ip(PEER)))])),
        ("speaker deleted", 3, |s| s.apply(&[Op::Del(Key::Global)])),
        ("reset", 4, |s| s.input(Input::ResetPeer { peer: ip(PEER), message: String::new() })),
        ("another AS", 6, |s| s.apply(&[neighbor(PEER, 65009, plain)])),
        ("another hold time", 6, |s| s.apply(&[neighbor(PEER, 65001, |s| s.hold_s = 30)])),
        ("another own AS", 6, |s| {
            let global = Global::new(65101, Ipv4Addr::new(10, 0, 0, 100), 179, 4);
            s.apply(&[Op::Put(Key::Global, Value::Global(global))])
        }),
        ("another identifier", 6, |s| {
            let global = Global::new(OWN_AS, Ipv4Addr::new(10, 0, 0, 101), 179, 4);
            s.apply(&[Op::Put(Key::Global, Value::Global(global))])
        }),
        ("BFD", 10, |s| s.input(Input::BfdDown(ip(PEER)))),
        ("too many prefixes", 1, |s| {
            s.apply(&[neighbor(PEER, 65001, limit(1, 100, None))]);
            let message = announce(attributes(&[65001]), PEER, &["10.9.0.0/24", "10.8.0.0/24"]);
            s.say(ConnId::In(1), &message)
        }),
    ];
    for (what, subcode, end) in table {
        let mut s = Script::with(&[neighbor(PEER, 65001, plain)]);
        let (conn, _) = s.up(ip(PEER), &open(65001, 1));
        let outs = end(&mut s);
        let said: Vec<_> = notifications(&outs, conn).iter().map(|n| (n.code, n.subcode)).collect();
        assert_eq!(said, [(6, subcode)], "{what}");
        assert!(outs.contains(&Out::Close(conn)), "{what}");
    }
    // Ranges.
    for (subcode, op) in [
        (3, Op::Del(Key::Dynamic("10.0.0.0/24".parse().unwrap()))),
        (6, range("10.0.0.0/24", &[65002], plain)),
        (6, range("10.0.0.0/24", &[65001], |s| s.hold_s = 30)),
    ] {
        let mut s = Script::with(&[range("10.0.0.0/24", &[65001], plain)]);
        let (conn, _) = s.up(ip(PEER), &open(65001, 1));
        let outs = s.apply(&[op]);
        assert_eq!(outs, [Out::Say(conn, notification(6, subcode)), Out::Close(conn)]);
        assert!(s.speaker.neighbors().is_empty());
    }
}

#[test]
fn what_can_change_under_a_session() {
    let gr = GracefulRestart { time_s: 120, defer_s: 60, long_lived_s: 0 };
    let bfd = Bfd { port: 3784, desired_min_tx_ms: 100, required_min_rx_ms: 100, multiplier: 3 };
    type Change = Box<dyn Fn(&mut Peer)>;
    let table: Vec<(&str, bool, Change)> = vec![
        ("nothing", true, Box::new(|_| {})),
        ("port", true, Box::new(|p| p.port = 1179)),
        ("passive", true, Box::new(|p| p.passive = !p.passive)),
        ("allow own AS", true, Box::new(|p| p.session.allow_own_as = 2)),
        ("max prefixes", true, Box::new(|p| limit(10, 75, None)(&mut p.session))),
        ("reflector client", true, Box::new(|p| p.session.reflector_client = true)),
        ("BFD", true, Box::new(move |p| p.session.bfd = Some(bfd))),
        ("AS", false, Box::new(|p| p.asn = 65002)),
        ("local address", false, Box::new(|p| p.local = Some(ours()))),
        ("password", false, Box::new(|p| p.password = Some("secret".into()))),
        ("hold time", false, Box::new(|p| p.session.hold_s = 9)),
        ("families", false, Box::new(|p| p.session.families.v6 = false)),
        ("distance", false, Box::new(|p| script::far(&mut p.session))),
        ("local AS", false, Box::new(|p| p.session.local_as = Some(65101))),
        ("ADD-PATH", false, Box::new(|p| p.session.add_path = AddPath { receive: true, send: 0 })),
        ("RFC 8950", false, Box::new(|p| p.session.extended_next_hop = true)),
        ("graceful restart", false, Box::new(move |p| p.session.graceful_restart = Some(gr))),
    ];
    for (what, stays, change) in table {
        let mut s = Script::with(&[dialed(PEER, 65001, |_| {})]);
        let (conn, _) = s.up(ip(PEER), &open(65001, 1));
        s.say(conn, &announce(attributes(&[65001]), PEER, &["10.9.0.0/24"]));
        let outs = s.apply(&[dialed(PEER, 65001, &*change)]);
        if stays {
            assert_eq!(outs, [], "{what}");
            assert_eq!(s.routes().len(), 1, "{what}");
            continue;
        }
        assert_eq!(outs[..2], [Out::Say(conn, notification(6, 6)), Out::Close(conn)], "{what}");
        let Out::Dial(again, _) = outs[2] else { panic!("{what}: dialed again at once: {outs:?}") };
        assert_eq!(s.routes(), [""; 0], "{what}");
        // With the settings of now.
        let expected = s.connect(again);
        let mut fresh = Script::with(&[dialed(PEER, 65001, &*change)]);
        let dial = fresh.speaker.neighbors()[0].state;
        assert_eq!(dial, SessionState::Connect);
        assert_eq!(opening(&expected), opening(&fresh.connect(ConnId::Out(0))), "{what}");
    }
}

fn limit(limit: u32, warn_percent: u8, restart_s: Option<u32>) -> impl Fn(&mut Session) {
    move |s| s.max_prefixes = Some(MaxPrefixes { limit, warn_percent, restart_s })
}

fn prefixes(count: usize) -> Vec<String> {
    (0..count).map(|i| format!("10.9.{i}.0/24")).collect()
}

#[test]
fn a_neighbour_that_sends_too_much_is_warned_about_and_then_left() {
    for restart_s in [None, Some(300)] {
        let mut s = Script::with(&[dialed(PEER, 65001, |p| limit(10, 80, restart_s)(&mut p.session))]);
        let (conn, _) = s.up(ip(PEER), &open(65001, 1));
        let list = prefixes(11);
        let list: Vec<&str> = list.iter().map(String::as_str).collect();
        let warnings = |s: &Script| s.events.iter().filter(|e| matches!(e, Event::NearLimit { .. })).count();
        let say = |s: &mut Script, list: &[&str]| s.say(conn, &announce(attributes(&[65001]), PEER, list));
        say(&mut s, &list[..7]);
        assert_eq!(warnings(&s), 0);
        say(&mut s, &list[7..8]);
        assert_eq!(s.events.last(), Some(&Event::NearLimit { peer: ip(PEER), received: 8, limit: 10 }));
        // The same prefixes again are no more prefixes, and what is withdrawn makes room.
        say(&mut s, &list[..10]);
        s.say(conn, &script::withdraw(&list[..1]));
        say(&mut s, &list[10..11]);
        assert_eq!((warnings(&s), s.state(PEER)), (1, SessionState::Established));
        // Each family by itself.
        s.say(conn, &announce6(attributes(&[65001]), "fd00::1", &["fd00:9::/64"]));
        assert_eq!(s.state(PEER), SessionState::Established);
        let outs = say(&mut s, &list[..1]);
        // RFC 4486 section 4: the family and the limit.
        let n = Notification { code: 6, subcode: 1, data: vec![0, 1, 1, 0, 0, 0, 10] };
        assert_eq!(outs, [Out::Say(conn, Message::Notification(n)), Out::Close(conn)]);
        assert_eq!((s.routes(), s.state(PEER)), (vec![], SessionState::Idle));
        // It is neither dialed nor accepted.
        let (again, outs) = s.accept(ip(PEER));
        assert_eq!(outs, [Out::Say(again, notification(6, 5)), Out::Close(again)]);
        match restart_s {
            Some(_) => {
                assert_eq!(s.wait(secs(299)), []);
                assert!(matches!(s.wait(secs(1))[..], [Out::Dial(..)]));
                assert!(matches!(s.accept(ip(PEER)).1[..], [Out::Say(_, Message::Open(_))]));
            }
            None => {
                assert_eq!(s.speaker.deadline(), None);
                let outs = s.input(Input::ResetPeer { peer: ip(PEER), message: String::new() });
                assert!(matches!(outs[..], [Out::Dial(..)]), "{outs:?}");
            }
        }
    }
}

#[test]
fn another_limit_holds_at_once() {
    let mut s = Script::with(&[neighbor(PEER, 65001, limit(10, 100, None))]);
    let (conn, _) = s.up(ip(PEER), &open(65001, 1));
    let list = prefixes(8);
    let list: Vec<&str> = list.iter().map(String::as_str).collect();
    s.say(conn, &announce(attributes(&[65001]), PEER, &list));
    s.apply(&[neighbor(PEER, 65001, limit(20, 50, None))]);
    assert_eq!((s.state(PEER), s.events.len()), (SessionState::Established, 1));
    let outs = s.apply(&[neighbor(PEER, 65001, limit(5, 100, None))]);
    assert_eq!(notifications(&outs, conn).iter().map(|n| n.subcode).collect::<Vec<_>>(), [1]);
    // A new limit frees it.
    s.apply(&[neighbor(PEER, 65001, limit(9, 100, None))]);
    assert!(matches!(s.accept(ip(PEER)).1[..], [Out::Say(_, Message::Open(_))]));
}

/// The limit of a dynamic neighbour holds although it is forgotten with its session.
#[test]
fn a_dynamic_neighbour_that_sent_too_much_stays_out() {
    let mut s = Script::with(&[range("10.0.0.0/24", &[], limit(1, 100, Some(60)))]);
    let (conn, _) = s.up(ip(PEER), &open(65001, 1));
    s.say(conn, &announce(attributes(&[65001]), PEER, &["10.9.0.0/24", "10.8.0.0/24"]));
    let (again, outs) = s.accept(ip(PEER));
    assert_eq!(outs, [Out::Say(again, notification(6, 5)), Out::Close(again)]);
    assert!(matches!(s.accept(ip(OTHER)).1[..], [Out::Say(_, Message::Open(_))]), "others are welcome");
    s.wait(secs(60));
    assert!(matches!(s.accept(ip(PEER)).1[..], [Out::Say(_, Message::Open(_))]));
}

#[test]
fn our_own_as_may_occur_so_often() {
    let mut s = Script::with(&[neighbor(PEER, 65001, plain)]);
    let (conn, _) = s.up(ip(PEER), &open(65001, 1));
    for (prefix, path) in [
        ("10.0.0.0/24", vec![65001]),
        ("10.1.0.0/24", vec![65001, OWN_AS]),
        ("10.2.0.0/24", vec![65001, OWN_AS, 65009, OWN_AS]),
    ] {
        s.say(conn, &announce(attributes(&path), PEER, &[prefix]));
    }
    for (allowed, accepted) in [(0, 1), (1, 2), (2, 3), (3, 3), (1, 2), (0, 1)] {
        s.apply(&[neighbor(PEER, 65001, |s| s.allow_own_as = allowed)]);
        assert_eq!((s.routes().len(), s.state(PEER)), (accepted, SessionState::Established), "{allowed}");
    }
}

#[test]
fn another_as_than_our_own_can_be_shown() {
    let mut s = Script::with(&[
        neighbor(PEER, 65001, |s| s.local_as = Some(4_200_000_000)),
        neighbor(OTHER, 65002, plain),
        // Internal by its number, but we are not of its AS.
        neighbor("10.0.0.3", OWN_AS, |s| s.local_as = Some(65101)),
        network("10.1.0.0/24", "10.0.0.100"),
    ]);
    let (conn, outs) = s.accept(ip(PEER));
    let said = opening(&outs);
    assert_eq!((said.asn2, said.asn()), (23456, 4_200_000_000));
    s.say(conn, &Message::Open(open(65001, 1)));
    let outs = s.say(conn, &Message::Keepalive);
    assert_eq!(updates(&outs, conn)[0].attributes.as_ref().unwrap().as_path.flatten(), [4_200_000_000]);
    let (other, _) = s.up(ip(OTHER), &open(65002, 2));
    let (third, outs) = s.up(ip("10.0.0.3"), &open(OWN_AS, 3));
    let told = updates(&outs, third)[0].attributes.clone().unwrap();
    assert_eq!((told.as_path.flatten(), told.local_pref), (vec![65101], None));
    // Either of our numbers makes a loop.
    for (path, good) in [(vec![65001], true), (vec![65001, OWN_AS], false), (vec![65001, 4_200_000_000], false)] {
        s.say(conn, &announce(attributes(&path), PEER, &["10.9.0.0/24"]));
        assert_eq!(s.routes().len(), 1 + usize::from(good), "{path:?}");
    }
    // The other neighbour's loop is another: it was never shown that number.
    s.say(other, &announce(attributes(&[65002, 4_200_000_000]), OTHER, &["10.8.0.0/24"]));
    assert_eq!(s.routes(), ["10.1.0.0/24", "10.8.0.0/24"]);
}

#[test]
fn passwords_are_told_before_the_connection_and_never_shown() {
    let with = |p: Option<&str>| dialed(PEER, 65001, |peer| peer.password = p.map(Into::into));
    let mut s = Script::with(&[with(Some("one"))]);
    s.apply(&[with(Some("one"))]);
    s.apply(&[with(Some("two"))]);
    s.apply(&[with(None)]);
    s.apply(&[with(Some("three"))]);
    s.apply(&[Op::Del(Key::Peer(ip(PEER)))]);
    let told: Vec<_> = s.passwords.iter().map(|(_, p)| p.as_deref()).collect();
    assert_eq!(told, [Some("one"), Some("two"), None, Some("three"), None]);

    let mut speaker = Speaker::new(1);
    speaker.apply(Duration::ZERO, &[script::own(), with(Some("tell nobody"))]);
    let outs: Vec<Output> = core::iter::from_fn(|| speaker.poll()).collect();
    let at = |f: fn(&Output) -> bool| outs.iter().position(f).unwrap();
    assert!(at(|o| matches!(o, Output::Password { .. })) < at(|o| matches!(o, Output::Connect { .. })));
    assert!(outs.iter().any(|o| matches!(o, Output::Connect { password: Some(p), .. } if p == "tell nobody")));
    assert!(!format!("{outs:?}").contains("tell nobody"));
}

#[test]
fn only_our_chosen_addresses_may_be_connected_to() {
    let listen = |list: &[&str]| {
        let mut global = Global::new(OWN_AS, Ipv4Addr::new(10, 0, 0, 100), 179, 4);
        global.listen = list.iter().map(|a| ip(a)).collect();
        Op::Put(Key::Global, Value::Global(global))
    };
    let mut s = Script::with(&[neighbor(PEER, 65001, plain)]);
    for (list, welcome) in [(vec![], true), (vec!["10.0.0.100"], true), (vec!["10.0.0.101", "fd00::1"], false)] {
        s.apply(&[listen(&list)]);
        let (conn, outs) = s.accept(ip(PEER));
        assert_eq!(matches!(outs[0], Out::Say(_, Message::Open(_))), welcome, "{list:?}");
        s.lose(conn);
    }
}

#[test]
fn a_neighbour_can_be_turned_off_and_on() {
    let mut s = Script::with(&[dialed(PEER, 65001, |_| {})]);
    let enable = |s: &mut Script, enabled| s.input(Input::EnablePeer { peer: ip(PEER), enabled, message: "x".into() });
    let outs = enable(&mut s, false);
    assert_eq!(outs, [Out::Close(ConnId::Out(0))], "the dial is given up");
    assert_eq!((s.state(PEER), s.speaker.deadline()), (SessionState::Idle, None));
    assert!(matches!(s.accept(ip(PEER)).1[..], [Out::Say(_, Message::Notification(_)), Out::Close(_)]));
    // Configuration does not turn it on.
    assert_eq!(s.apply(&[dialed(PEER, 65002, |_| {})]), []);
    assert_eq!(enable(&mut s, false), []);
    assert!(matches!(enable(&mut s, true)[..], [Out::Dial(..)]));
    assert_eq!(enable(&mut s, true), []);
}

#[test]
fn the_narrowest_range_is_a_dynamic_neighbours_own() {
    let mut s = Script::with(&[
        range("10.0.0.0/16", &[], |s| s.hold_s = 30),
        range("10.0.0.0/24", &[65001], |s| s.hold_s = 60),
        range("fd00::/64", &[], plain),
        neighbor("10.0.0.9", 65009, |s| s.hold_s = 9),
    ]);
    for (address, hold_s) in [("10.0.0.1", 60), ("10.0.7.1", 30), ("fd00::7", 90), ("10.0.0.9", 9)] {
        assert_eq!(opening(&s.accept(ip(address)).1).hold_s, hold_s, "{address}");
    }
    // Any AS, where none is named.
    assert!(matches!(s.up(ip("10.0.8.1"), &open(4_200_000_007, 8)).1[0], Out::Say(_, Message::Update(_))));
    // Configured ones with AS 0: any, too.
    let mut s = Script::with(&[neighbor(PEER, 0, plain)]);
    s.up(ip(PEER), &open(65077, 1));
    assert_eq!(s.speaker.neighbors()[0].asn, 65077);
    // But not AS 0 itself (RFC 7607 section 2).
    let mut s = Script::with(&[neighbor(PEER, 0, plain)]);
    let (conn, _) = s.accept(ip(PEER));
    let outs = s.say(conn, &Message::Open(open(0, 1)));
    assert_eq!(outs, [Out::Say(conn, notification(2, 2)), Out::Close(conn)]);
}

#[test]
fn longer_messages_only_where_both_want_them() {
    let big = Attributes {
        unknown: vec![UnknownAttribute { code: 99, partial: true, value: vec![7; 5000] }],
        ..attributes(&[65001])
    };
    let long = Context { extended_messages: true, ..FOUR };
    let message = announce(big, PEER, &["10.9.0.0/24"]);
    let bytes = message.encode(long).unwrap();
    let mut can = open(65001, 1);
    can.capabilities.push(Capability::ExtendedMessage);
    let mut other_can = open(65002, 2);
    other_can.capabilities.push(Capability::ExtendedMessage);
    let mut s = Script::with(&[
        neighbor(PEER, 65001, plain),
        neighbor(OTHER, 65002, plain),
        neighbor("10.0.0.3", 65003, plain),
    ]);
    let (conn, _) = s.up(ip(PEER), &can);
    let (other, _) = s.up(ip(OTHER), &other_can);
    let (short, _) = s.up(ip("10.0.0.3"), &open(65003, 3));
    s.contexts.insert(other, (long, FOUR));
    let outs = s.input(Input::Received { conn, bytes: bytes.clone() });
    assert_eq!(s.routes(), ["10.9.0.0/24"]);
    assert_eq!(updates(&outs, other).len(), 1);
    // RFC 4271 section 9.2: what fits into no message is not advertised, and the rest goes on.
    assert!(updates(&outs, short).iter().all(|u| u.reach.is_none()), "{outs:?}");
    let outs = s.say(other, &announce(attributes(&[65002]), OTHER, &["10.8.0.0/24"]));
    assert_eq!(updates(&outs, short).len(), 1);
    // It takes the place of one that fitted: the old one is gone there.
    s.say(conn, &announce(attributes(&[65001]), PEER, &["10.7.0.0/24"]));
    let bytes = announce(
        Attributes {
            unknown: vec![UnknownAttribute { code: 99, partial: true, value: vec![8; 5000] }],
            ..attributes(&[65001])
        },
        PEER,
        &["10.7.0.0/24"],
    )
    .encode(long)
    .unwrap();
    let outs = s.input(Input::Received { conn, bytes: bytes.clone() });
    assert_eq!(updates(&outs, short)[0].withdrawn.len(), 1);
    // Without the capability a longer message is an error.
    let mut s = Script::with(&[neighbor(PEER, 65001, plain)]);
    let (conn, _) = s.up(ip(PEER), &open(65001, 1));
    let outs = s.input(Input::Received { conn, bytes });
    assert_eq!((notifications(&outs, conn)[0].code, notifications(&outs, conn)[0].subcode), (1, 2));
}

/// An IPv4 route with an IPv6 next hop.
fn over_ipv6(attributes: Attributes, next_hop: &str, prefix: &str) -> Message {
    let prefixes = vec![prefix.parse::<ipnet::IpNet>().unwrap().into()];
    let reach = fairway_bgp::wire::Reach { next_hop: ip(next_hop), prefixes };
    let attributes = Some(std::sync::Arc::new(attributes));
    Message::Update(Update { attributes, mp_reach: Some((Family::V4, reach)), ..Update::default() })
}

/// RFC 8950.
#[test]
fn ipv4_routes_over_ipv6() {
    let wants = |s: &mut Session| s.extended_next_hop = true;
    let mut can = open(65001, 1);
    can.capabilities.push(Capability::ExtendedNextHop(vec![(1, 1, 2)]));
    for (change, says, agreed) in [
        (&wants as &dyn Fn(&mut Session), can.clone(), true),
        (&wants, open(65001, 1), false),
        (&plain, can.clone(), false),
    ] {
        let mut s = Script::with(&[
            neighbor(PEER, 65001, change),
            neighbor(OTHER, 65002, plain),
            range("10.0.0.0/24", &[], plain),
        ]);
        let (conn, outs) = s.accept(ip(PEER));
        let offered = opening(&outs).capabilities.contains(&Capability::ExtendedNextHop(vec![(1, 1, 2)]));
        assert!(offered || !agreed);
        s.say(conn, &Message::Open(says));
        s.say(conn, &Message::Keepalive);
        let (other, _) = s.up(ip(OTHER), &open(65002, 2));
        let outs = s.say(conn, &over_ipv6(attributes(&[65001]), "fd00::1", "10.9.0.0/24"));
        // Taken in any case: what the octets say is clear.
        assert_eq!(s.learned.last().unwrap().next_hops, [ip("fd00::1")]);
        // Externally we are the next hop ourselves, over IPv4.
        assert_eq!(updates(&outs, other)[0].reach.as_ref().unwrap().next_hop, ours());
        // Internally the next hop would stay, but that neighbour does not understand it.
        s.up(ip("10.0.0.7"), &open(OWN_AS, 7));
        assert_eq!(s.told("10.0.0.7", "10.9.0.0/24"), []);
    }
    // With an internal neighbour that did agree, the next hop is kept.
    let mut s = Script::with(&[
        neighbor(PEER, OWN_AS, |s| {
            s.extended_next_hop = true;
            s.reflector_client = true;
        }),
        neighbor(OTHER, OWN_AS, |s| s.extended_next_hop = true),
    ]);
    let says = |id| {
        let mut open = open(OWN_AS, id);
        open.capabilities.push(Capability::ExtendedNextHop(vec![(1, 1, 2)]));
        open
    };
    let (conn, _) = s.up(ip(PEER), &says(1));
    let (other, _) = s.up(ip(OTHER), &says(2));
    let route = Attributes { local_pref: Some(100), ..attributes(&[]) };
    let outs = s.say(conn, &over_ipv6(route, "fd00::1", "10.9.0.0/24"));
    let told = updates(&outs, other);
    assert_eq!(told[0].mp_reach.as_ref().unwrap().1.next_hop, ip("fd00::1"));
}

fn refresh(afi: u16, subtype: u8) -> Message {
    Message::RouteRefresh(RouteRefresh { afi, subtype, safi: 1 })
}

/// RFC 7313: answers are marked for who understands the marks, and its own marks mean that the rest is gone.
#[test]
fn enhanced_route_refresh() {
    let mut knows = open(65001, 1);
    knows.capabilities.push(Capability::EnhancedRefresh);
    let mut s = Script::with(&[
        neighbor(PEER, 65001, plain),
        neighbor(OTHER, 65002, plain),
        network("10.1.0.0/24", "10.0.0.100"),
    ]);
    let (conn, _) = s.up(ip(PEER), &knows);
    let (old, _) = s.up(ip(OTHER), &open(65002, 2));
    let outs = s.say(conn, &refresh(1, 0));
    let [Out::Say(_, begin), Out::Say(_, Message::Update(update)), Out::Say(_, end)] = &outs[..] else {
        panic!("{outs:?}")
    };
    assert_eq!((begin, end, update.reach.is_some()), (&refresh(1, 1), &refresh(1, 2), true));
    // Nothing of that family: the marks alone. And nobody takes it for End-of-RIB.
    assert_eq!(s.say(conn, &refresh(2, 0)), [Out::Say(conn, refresh(2, 1)), Out::Say(conn, refresh(2, 2))]);
    let outs = s.say(old, &refresh(1, 0));
    assert!(matches!(outs[..], [Out::Say(_, Message::Update(_))]));
    assert_eq!(s.say(old, &refresh(2, 0)), []);
    // Theirs.
    s.say(conn, &announce(attributes(&[65001]), PEER, &["10.8.0.0/24", "10.9.0.0/24"]));
    s.learned.clear();
    s.say(conn, &refresh(1, 1));
    assert_eq!(s.routes(), ["10.1.0.0/24", "10.8.0.0/24 stale", "10.9.0.0/24 stale"]);
    s.say(conn, &announce(attributes(&[65001]), PEER, &["10.9.0.0/24"]));
    s.say(conn, &refresh(1, 2));
    assert_eq!(s.routes(), ["10.1.0.0/24", "10.9.0.0/24"]);
    assert_eq!(s.learned.len(), 1, "only what is gone is news");
    // An end without a begin, a family that is not ours, an unknown subtype: nothing.
    for message in [refresh(1, 2), refresh(25, 1), refresh(1, 7)] {
        assert_eq!(s.say(conn, &message), []);
        assert_eq!(s.routes().len(), 2);
    }
    // A message of the wrong length (section 5).
    let mut bytes = vec![0xff; 16];
    bytes.extend([0, 22, 5, 0, 1, 0]);
    let outs = s.input(Input::Received { conn, bytes: bytes.clone() });
    assert_eq!(notifications(&outs, conn), [Notification { code: 7, subcode: 1, data: bytes }]);
}

#[test]
fn a_family_that_is_not_negotiated_is_not_exchanged() {
    let mut s = Script::with(&[
        neighbor(PEER, 65001, |s| s.families = Families { v4: true, v6: false }),
        neighbor(OTHER, 65002, plain),
        network("10.1.0.0/24", "10.0.0.100"),
        network("fd00:1::/64", "fd00::100"),
    ]);
    let (conn, outs) = s.up(ip(PEER), &open(65001, 1));
    assert_eq!(updates(&outs, conn).len(), 2, "one route and one End-of-RIB: {outs:?}");
    s.say(conn, &announce6(attributes(&[65001]), "fd00::1", &["fd00:9::/64"]));
    assert_eq!(s.routes(), ["10.1.0.0/24", "fd00:1::/64"]);
    assert_eq!(s.say(conn, &refresh(2, 0)), []);
    // They only want IPv6.
    let mut six = open(65002, 2);
    six.capabilities.remove(0);
    let (other, outs) = s.up(ip(OTHER), &six);
    let told = updates(&outs, other);
    assert!(told.iter().all(|u| u.reach.is_none() && u.is_end_of_rib() != Some(Family::V4)), "{told:?}");
    assert_eq!(s.speaker.adj_out(ip(OTHER)).len(), 1);
}

#[test]
fn soft_reset_by_hand() {
    let mut s = Script::with(&[neighbor(PEER, 65001, plain), network("10.1.0.0/24", "10.0.0.100")]);
    let (conn, _) = s.up(ip(PEER), &open(65001, 1));
    s.say(conn, &announce(attributes(&[65001]), PEER, &["10.9.0.0/24"]));
    s.learned.clear();
    assert_eq!(s.input(Input::Refresh { peer: ip(PEER), import: true, export: false }), []);
    let outs = s.input(Input::Refresh { peer: ip(PEER), import: true, export: true });
    assert_eq!((updates(&outs, conn).len(), s.learned.len()), (1, 0));
    assert_eq!(s.input(Input::Refresh { peer: ip("10.0.0.77"), import: true, export: true }), []);
}

/// A neighbour that does not read is not sent more and more.
#[test]
fn what_waits_for_a_slow_neighbour_is_bounded() {
    let mut s = Script::with(&[neighbor(PEER, 65001, plain), neighbor(OTHER, 65001, plain)]);
    let (slow, _) = s.up(ip(PEER), &open(65001, 1));
    let (fast, _) = s.up(ip(OTHER), &open(65001, 2));
    let octets = |outs: &[Out], conn| -> usize {
        let len = |o: &Out| match o {
            Out::Say(c, m) if *c == conn => m.encode(FOUR).unwrap().len(),
            _ => 0,
        };
        outs.iter().map(len).sum()
    };
    // Different next hops, so that nothing is packed: 20,000 messages.
    let ops = |round: u32| -> Vec<Op<Bgp>> {
        let prefix = |i: u32| format!("{}/24", Ipv4Addr::from(0x0b00_0000 + (i << 8)));
        let hop = |i: u32| Ipv4Addr::from(0x0a01_0000 + i).to_string();
        (0..20_000).map(|i| network(&prefix(i), &hop(i + round))).collect()
    };
    let mut sent = 0;
    for round in 0..3 {
        let outs = s.apply(&ops(round));
        sent += octets(&outs, slow);
        assert!(octets(&outs, fast) > 0);
        while s.drains.contains(&fast) {
            s.drains.retain(|c| *c != fast);
            s.input(Input::Drained { conn: fast });
        }
    }
    assert!(sent < 1 << 20, "{sent} octets were sent to a neighbour that took none");
    assert_eq!(s.drains, [slow]);
    assert_eq!(s.speaker.adj_out(ip(PEER)).len(), 20_000);
    // It takes them at last: each prefix once, with its last next hop, however often it changed.
    let mut view = std::collections::BTreeMap::new();
    let mut count = 0;
    while s.drains.contains(&slow) {
        s.drains.retain(|c| *c != slow);
        for update in updates(&s.input(Input::Drained { conn: slow }), slow) {
            let reach = update.reach.unwrap();
            count += reach.prefixes.len();
            view.extend(reach.prefixes.iter().map(|n| (n.prefix, reach.next_hop)));
        }
    }
    assert!(count <= 20_000, "{count}");
    let told: std::collections::BTreeMap<_, _> =
        s.speaker.adj_out(ip(PEER)).iter().map(|p| (p.prefix, p.next_hop)).collect();
    assert!(view.iter().all(|(prefix, hop)| told.get(prefix) == Some(hop)));
    assert!(view.len() > 10_000);
}

/// RFC 4271 section 10: those who start together do not dial together.
#[test]
fn retries_are_spread() {
    let mut firsts = std::collections::BTreeSet::new();
    for seed in 0..50 {
        let mut speaker = Speaker::new(seed);
        let now = secs(10);
        speaker.apply(now, &[script::own(), dialed(PEER, 65001, |_| {})]);
        speaker.handle(now, Input::ConnectFailed { conn: ConnId::Out(0) });
        let pause = speaker.deadline().unwrap() - now;
        assert!((Duration::from_millis(750)..=secs(1)).contains(&pause), "{pause:?}");
        firsts.insert(pause);
    }
    assert!(firsts.len() > 40, "{}", firsts.len());
}

#[test]
fn a_failed_session_is_dialed_again_and_a_good_one_shortens_the_pause() {
    let mut s = Script::with(&[dialed(PEER, 65001, |_| {})]);
    for n in 0..6 {
        s.input(Input::ConnectFailed { conn: ConnId::Out(n) });
        let outs = s.tick();
        assert!(matches!(outs[..], [Out::Dial(ConnId::Out(next), _)] if next == n + 1), "{outs:?}");
    }
    // A session that never gets further than OPEN counts as a failure, too.
    s.connect(ConnId::Out(6));
    s.say(ConnId::Out(6), &notification(2, 2));
    let pause = s.speaker.deadline().unwrap() - s.now;
    assert!(pause > secs(20), "{pause:?}");
    let (conn, _) = s.up(ip(PEER), &open(65001, 1));
    s.lose(conn);
    let pause = s.speaker.deadline().unwrap() - s.now;
    assert!(pause <= secs(1), "{pause:?}");
}

/// A connection from a configured neighbour is taken while we wait for the next dial, and in place of an older one of
/// its own that came to nothing.
#[test]
fn a_new_connection_of_the_other_side_replaces_its_older_one() {
    let mut s = Script::with(&[dialed(PEER, 65001, |p| p.passive = true)]);
    let (first, _) = s.accept(ip(PEER));
    let (second, outs) = s.accept(ip(PEER));
    assert!(outs.contains(&Out::Close(first)), "{outs:?}");
    assert_eq!(notifications(&outs, first), [Notification { code: 6, subcode: 7, data: vec![] }]);
    s.say(second, &Message::Open(open(65001, 1)));
    s.say(second, &Message::Keepalive);
    assert_eq!(s.state(PEER), SessionState::Established);
    // The name of a connection is used once.
    let local = SocketAddr::new(ours(), 179);
    let again = Input::Accepted { conn: second, local, remote: SocketAddr::new(ip(PEER), 5) };
    assert_eq!(s.input(again), []);
}

#[test]
fn equal_identifiers_are_fine_between_ases_and_not_inside_one() {
    // RFC 6286 section 2.1
    let mut s = Script::with(&[neighbor(PEER, 65001, plain), neighbor(OTHER, OWN_AS, plain)]);
    let (conn, _) = s.up(ip(PEER), &open(65001, 100));
    assert_eq!(s.state(PEER), SessionState::Established);
    s.say(conn, &end_of_rib(Family::V4));
    let (conn, _) = s.accept(ip(OTHER));
    let outs = s.say(conn, &Message::Open(open(OWN_AS, 100)));
    assert_eq!(outs, [Out::Say(conn, notification(2, 3)), Out::Close(conn)]);
    // Between ASes, the higher AS decides a collision (section 2.3).
    for (asn, ours_stays) in [(65001, true), (65200, false)] {
        let mut s = Script::with(&[dialed(PEER, asn, |_| {})]);
        let out = ConnId::Out(0);
        s.connect(out);
        let (inward, _) = s.accept(ip(PEER));
        s.say(out, &Message::Open(open(asn, 100)));
        let outs = s.say(inward, &Message::Open(open(asn, 100)));
        let lost = if ours_stays { inward } else { out };
        assert_eq!(notifications(&outs, lost).len(), 1, "{outs:?}");
        assert!(outs.contains(&Out::Close(lost)));
    }
}

/// RFC 6793: an old speaker sees AS_TRANS, and the numbers come back out of AS4_PATH.
#[test]
fn paths_through_old_speakers() {
    let mut s = Script::with(&[neighbor(PEER, 23456, plain), neighbor(OTHER, 65002, plain)]);
    let two = Context { four_octet_as: false, ..FOUR };
    let old = Open { capabilities: vec![], ..open(4_200_000_001, 1) };
    let (conn, _) = s.up(ip(PEER), &old);
    let (other, _) = s.up(ip(OTHER), &open(65002, 2));
    s.contexts.insert(conn, (two, two));
    let path = AsPath::sequence(&[4_200_000_001, 65009, 4_200_000_002]);
    let outs = s.say(conn, &announce(Attributes { as_path: path, ..attributes(&[]) }, PEER, &["10.9.0.0/24"]));
    let told = updates(&outs, other)[0].attributes.clone().unwrap();
    assert_eq!(told.as_path.flatten(), [OWN_AS, 4_200_000_001, 65009, 4_200_000_002]);
}

/// Equal cost by the length of AS paths, or only by the same AS path; changed while sessions stand.
#[test]
fn multipath_may_be_relaxed_or_strict() {
    let peers = [(PEER, 65001), (OTHER, 65002), ("10.0.0.3", 65001)];
    let mut s = Script::with(&peers.map(|(address, asn)| neighbor(address, asn, plain)));
    for (i, (address, asn)) in (1u8..).zip(peers) {
        let (conn, _) = s.up(ip(address), &open(asn, i));
        s.say(conn, &announce(attributes(&[asn]), address, &["10.9.0.0/24"]));
    }
    let hops = |s: &Script| s.learned.last().map(|l| l.next_hops.clone()).unwrap_or_default();
    assert_eq!(hops(&s), [ip(PEER), ip(OTHER), ip("10.0.0.3")]);
    let Op::Put(key, Value::Global(relaxed)) = script::own() else { panic!("the speaker itself") };
    let strict = Global { multipath_relax: false, ..relaxed.clone() };
    s.apply(&[Op::Put(key.clone(), Value::Global(strict))]);
    assert_eq!(hops(&s), [ip(PEER), ip("10.0.0.3")]);
    s.apply(&[Op::Put(key, Value::Global(relaxed))]);
    assert_eq!(hops(&s).len(), 3);
    assert!(peers.iter().all(|(address, _)| s.state(address) == SessionState::Established));
}
