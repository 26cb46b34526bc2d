//! Graceful restart (RFC 4724, 8538), its long-lived form (RFC 9494), and leaving without loss (RFC 8326).
#![allow(clippy::unwrap_used, reason = "a test may fail")]

#[path = "common/script.rs"]
mod script;

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use fairway_bgp::wire::{Attributes, Capability, Message, Notification, Open, RestartFamily, StaleFamily};
use fairway_bgp::{ConnId, Event, Input};
use fairway_desired::bgp::{Global, GracefulRestart, Key, Network, Session, Value};
use fairway_desired::{Bgp, Family, Op};
use script::{
    OWN_AS, Out, Script, announce, announce6, attributes, end_of_rib, neighbor, notifications, open, plain, updates,
};

const PEER: &str = "10.0.0.1";
const OTHER: &str = "10.0.0.2";

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn secs(s: u64) -> Duration {
    Duration::from_secs(s)
}

fn graceful(session: &mut Session) {
    session.graceful_restart = Some(GracefulRestart { time_s: 120, defer_s: 60, long_lived_s: 0 });
}

fn long_lived(session: &mut Session) {
    session.graceful_restart = Some(GracefulRestart { time_s: 120, defer_s: 60, long_lived_s: 600 });
}

/// What the other side says of graceful restart.
#[derive(Clone, Copy)]
struct Says {
    restarted: bool,
    notification: bool,
    time_s: u16,
    /// IPv4 and IPv6: in the capability, and with the forwarding bit.
    families: [Option<bool>; 2],
    long_lived_s: u32,
}

/// Before it restarted.
const FIRST: Says =
    Says { restarted: false, notification: true, time_s: 30, families: [Some(false), Some(false)], long_lived_s: 0 };

/// When it is back.
const BACK: Says = Says { restarted: true, families: [Some(true), Some(true)], ..FIRST };

fn opens(asn: u32, id: u8, says: Says) -> Open {
    let families = [1u16, 2].into_iter().zip(says.families);
    let families: Vec<RestartFamily> =
        families.filter_map(|(afi, f)| f.map(|forwarding| RestartFamily { afi, safi: 1, forwarding })).collect();
    let stale =
        |f: &RestartFamily| StaleFamily { afi: f.afi, safi: 1, forwarding: f.forwarding, time_s: says.long_lived_s };
    let long_lived = Capability::LongLived(families.iter().map(stale).collect());
    let mut open = open(asn, id);
    let Says { restarted, notification, time_s, long_lived_s, .. } = says;
    open.capabilities.push(Capability::GracefulRestart { restarted, notification, time_s, families });
    if long_lived_s > 0 {
        open.capabilities.push(long_lived);
    }
    open
}

const ALL: [&str; 4] = ["10.8.0.0/24", "10.9.0.0/24", "fd00:8::/64", "fd00:9::/64"];
const STALE: [&str; 4] = ["10.8.0.0/24 stale", "10.9.0.0/24 stale", "fd00:8::/64 stale", "fd00:9::/64 stale"];

/// A neighbour with two routes of each family, and one that hears of them.
fn filled(change: fn(&mut Session), says: Says) -> (Script, ConnId, ConnId) {
    let mut s = Script::with(&[neighbor(PEER, 65001, change), neighbor(OTHER, 65002, plain)]);
    let (conn, _) = s.up(ip(PEER), &opens(65001, 1, says));
    let (other, _) = s.up(ip(OTHER), &open(65002, 2));
    s.say(conn, &announce(attributes(&[65001]), PEER, &ALL[..2]));
    s.say(conn, &announce6(attributes(&[65001]), "fd00::1", &ALL[2..]));
    assert_eq!(s.routes(), ALL);
    (s, conn, other)
}

#[test]
fn routes_of_a_lost_neighbour_stay_for_the_time_it_asked_for() {
    let (mut s, conn, _) = filled(graceful, FIRST);
    s.learned.clear();
    assert_eq!(s.lose(conn), [], "nobody is told anything");
    assert_eq!(s.routes(), STALE);
    assert_eq!(s.learned, [], "the kernel neither");
    assert!(s.speaker.neighbors()[0].stale);
    assert_eq!(s.speaker.adj_in(ip(PEER)).len(), 4);
    let kept = Event::Retained { peer: ip(PEER), routes: 2, time_s: 30, long_lived: false };
    assert_eq!(s.events[s.events.len() - 2..], [kept.clone(), kept]);
    s.wait(secs(29));
    assert_eq!(s.routes(), STALE);
    s.wait(secs(1));
    assert_eq!(s.routes(), [""; 0]);
    assert_eq!(s.learned.iter().filter(|l| l.next_hops.is_empty()).count(), 4);
    assert!(!s.speaker.neighbors()[0].stale);
    assert_eq!(s.speaker.adj_out(ip(OTHER)), []);
}

#[test]
fn end_of_rib_ends_what_was_not_sent_again_family_by_family() {
    let (mut s, conn, _) = filled(graceful, FIRST);
    s.lose(conn);
    s.wait(secs(20));
    let (conn, _) = s.up(ip(PEER), &opens(65001, 1, BACK));
    assert_eq!(s.routes(), STALE);
    // Its return ends the first time limit.
    s.wait(secs(20));
    s.learned.clear();
    s.say(conn, &announce(attributes(&[65001]), PEER, &["10.9.0.0/24"]));
    assert_eq!(s.learned, [], "the same again is no news");
    assert_eq!(s.routes()[..2], ["10.8.0.0/24 stale", "10.9.0.0/24"]);
    s.say(conn, &end_of_rib(Family::V4));
    assert_eq!(s.routes(), ["10.9.0.0/24", "fd00:8::/64 stale", "fd00:9::/64 stale"]);
    assert_eq!(s.events.last(), Some(&Event::Swept { peer: ip(PEER), routes: 1 }));
    s.say(conn, &announce6(attributes(&[65001]), "fd00::1", &["fd00:8::/64"]));
    s.say(conn, &end_of_rib(Family::V6));
    assert_eq!(s.routes(), ["10.9.0.0/24", "fd00:8::/64"]);
    s.wait(secs(60));
    assert_eq!(s.routes(), ["10.9.0.0/24", "fd00:8::/64"]);
}

#[test]
fn a_neighbour_that_never_says_end_of_rib_does_not_keep_its_stale_routes() {
    let (mut s, conn, _) = filled(graceful, FIRST);
    s.lose(conn);
    let (conn, _) = s.up(ip(PEER), &opens(65001, 1, BACK));
    s.say(conn, &announce(attributes(&[65001]), PEER, &["10.9.0.0/24"]));
    s.wait(secs(59));
    assert_eq!(s.routes().len(), 4);
    s.wait(secs(2));
    assert_eq!(s.routes(), ["10.9.0.0/24"]);
}

#[test]
fn only_what_the_neighbour_kept_forwarding_is_kept_when_it_is_back() {
    let v4_only = [Some(true), None];
    let table = [
        ("forwarding preserved", opens(65001, 1, BACK), &STALE[..]),
        ("of no family", opens(65001, 1, Says { families: [Some(false), Some(false)], ..BACK }), &[]),
        ("of IPv4", opens(65001, 1, Says { families: [Some(true), Some(false)], ..BACK }), &STALE[..2]),
        ("IPv6 is no more in it", opens(65001, 1, Says { families: v4_only, ..BACK }), &STALE[..2]),
        ("no capability", open(65001, 1), &[]),
    ];
    for (what, open, left) in table {
        let (mut s, conn, _) = filled(graceful, FIRST);
        s.lose(conn);
        s.up(ip(PEER), &open);
        assert_eq!(s.routes(), left, "{what}");
    }
}

#[test]
fn how_a_session_ends_decides_whether_its_routes_stay() {
    type End = fn(&mut Script, ConnId);
    let lost: End = |s, conn| drop(s.lose(conn));
    let error: End = |s, conn| drop(s.say(conn, &script::notification(6, 4)));
    let hard: End = |s, conn| {
        let inner = Notification::administrative(2, "bye");
        s.say(conn, &Message::Notification(Notification::hard_reset(&inner)));
    };
    let garbage: End = |s, conn| drop(s.input(Input::Received { conn, bytes: vec![0; 19] }));
    let silence: End = |s, _| {
        s.now += secs(90);
        s.input(Input::Tick);
    };
    let reset: End = |s, _| drop(s.input(Input::ResetPeer { peer: ip(PEER), message: String::new() }));
    let disabled: End =
        |s, _| drop(s.input(Input::EnablePeer { peer: ip(PEER), enabled: false, message: String::new() }));
    let bfd: End = |s, _| drop(s.input(Input::BfdDown(ip(PEER))));
    let no_n = Says { notification: false, ..FIRST };
    for (what, end, says, kept) in [
        ("lost", lost, FIRST, true),
        ("lost, without N", lost, no_n, true),
        ("NOTIFICATION", error, FIRST, true),
        ("NOTIFICATION, without N", error, no_n, false),
        ("Hard Reset", hard, FIRST, false),
        ("an error of theirs", garbage, FIRST, true),
        ("an error of theirs, without N", garbage, no_n, false),
        ("hold timer", silence, FIRST, true),
        ("hold timer, without N", silence, no_n, false),
        ("our reset", reset, FIRST, false),
        ("turned off", disabled, FIRST, false),
        ("BFD", bfd, FIRST, false),
    ] {
        let (mut s, conn, _) = filled(graceful, says);
        end(&mut s, conn);
        assert_eq!(s.routes(), if kept { &STALE[..] } else { &[] }, "{what}");
    }
    // And whoever has no graceful restart, on either side, loses them in any case.
    for (change, says) in [(plain as fn(&mut Session), opens(65001, 1, FIRST)), (graceful, open(65001, 1))] {
        let mut s = Script::with(&[neighbor(PEER, 65001, change)]);
        let (conn, _) = s.up(ip(PEER), &says);
        s.say(conn, &announce(attributes(&[65001]), PEER, &ALL[..2]));
        s.lose(conn);
        assert_eq!(s.routes(), [""; 0]);
    }
}

/// RFC 8538 section 3.1: who would keep our routes over a NOTIFICATION is told that this one is meant.
#[test]
fn what_we_mean_for_good_is_a_hard_reset() {
    for (says, code) in [(FIRST, (6, 9)), (Says { notification: false, ..FIRST }, (6, 4))] {
        let (mut s, conn, _) = filled(graceful, says);
        let outs = s.input(Input::ResetPeer { peer: ip(PEER), message: "new cable".into() });
        let [n] = &notifications(&outs, conn)[..] else { panic!("{outs:?}") };
        assert_eq!((n.code, n.subcode), code);
        assert_eq!(n.message().as_deref(), Some("new cable"));
        let data = if code == (6, 9) { &n.data[..2] } else { &[6, 4] };
        assert_eq!(data, [6, 4]);
    }
}

#[test]
fn a_second_loss_starts_the_time_anew_and_another_as_a_stranger() {
    let (mut s, conn, _) = filled(graceful, FIRST);
    s.lose(conn);
    s.wait(secs(25));
    let (conn, _) = s.up(ip(PEER), &opens(65001, 1, BACK));
    s.say(conn, &announce(attributes(&[65001]), PEER, &["10.9.0.0/24"]));
    s.lose(conn);
    s.wait(secs(25));
    assert_eq!(s.routes(), STALE);
    s.wait(secs(6));
    assert_eq!(s.routes(), [""; 0]);
    // A neighbour that is removed while it is away takes its routes along.
    let (mut s, conn, _) = filled(graceful, FIRST);
    s.lose(conn);
    s.apply(&[Op::Del(Key::Peer(ip(PEER)))]);
    assert_eq!(s.routes(), [""; 0]);
}

const LLGR_STALE: u32 = 0xffff_0006;
const NO_LLGR: u32 = 0xffff_0007;

#[test]
fn long_lived_stale_routes_are_the_last_resort() {
    let says = Says { long_lived_s: 300, ..FIRST };
    let (mut s, conn, _) = filled(long_lived, says);
    // One route that is not to be kept for long.
    s.say(conn, &announce(Attributes { communities: vec![NO_LLGR], ..attributes(&[65001]) }, PEER, &["10.7.0.0/24"]));
    // An internal neighbour hears of all; one that knows RFC 9494, too.
    let third = neighbor("10.0.0.3", 65003, long_lived);
    s.apply(&[neighbor("10.0.0.4", OWN_AS, plain), third]);
    let (internal, _) = s.up(ip("10.0.0.4"), &open(OWN_AS, 4));
    let (aware, _) = s.up(ip("10.0.0.3"), &opens(65003, 3, says));
    assert_eq!(s.speaker.adj_out(ip(OTHER)).len(), 5);
    s.lose(conn);
    s.wait(secs(29));
    assert_eq!(s.routes().len(), 5);
    let outs = s.wait(secs(1));
    assert_eq!(s.routes(), STALE, "all but the one with NO_LLGR");
    let rib = s.speaker.rib(Family::V4);
    assert!(rib.iter().all(|p| p.attributes.communities == [LLGR_STALE]));
    assert_eq!(s.speaker.adj_out(ip(OTHER)), [], "who does not know RFC 9494 is told that they are gone");
    for conn in [internal, aware] {
        let told = updates(&outs, conn);
        let communities: Vec<_> =
            told.iter().filter_map(|u| Some(u.attributes.as_ref()?.communities.clone())).collect();
        assert_eq!(communities, [[LLGR_STALE], [LLGR_STALE]], "{told:?}");
    }
    assert_eq!(s.learned.iter().rev().find(|l| l.prefix.to_string() == ALL[0]).unwrap().next_hops, [ip(PEER)]);
    // A worse path from elsewhere is better than that.
    s.context.add_path = fairway_desired::bgp::Families::default();
    s.say(internal, &announce(attributes(&[65009, 65009, 65009, 65009]), "10.0.0.4", &[ALL[0]]));
    assert_eq!(s.speaker.lookup(ALL[0].parse().unwrap())[0].from, Some(ip("10.0.0.4")));
    assert_eq!(s.learned.last().unwrap().next_hops, [ip("10.0.0.4")]);
    // The smaller of both sides' times counts: theirs is 300, ours 600.
    let keepalive = |s: &mut Script| {
        for conn in [internal, aware] {
            s.say(conn, &Message::Keepalive);
        }
    };
    for _ in 0..9 {
        s.wait(secs(30));
        keepalive(&mut s);
    }
    s.wait(secs(29));
    assert_eq!(s.routes().iter().filter(|r| r.ends_with("stale")).count(), 4);
    s.wait(secs(2));
    assert_eq!(s.routes(), [ALL[0]]);
}

#[test]
fn a_long_lived_route_that_is_sent_again_is_as_good_as_new() {
    let says = Says { long_lived_s: 300, ..FIRST };
    let (mut s, conn, _) = filled(long_lived, says);
    s.lose(conn);
    s.wait(secs(40));
    assert_eq!(s.speaker.rib(Family::V4)[0].attributes.communities, [LLGR_STALE]);
    let (conn, _) = s.up(ip(PEER), &opens(65001, 1, Says { long_lived_s: 300, ..BACK }));
    s.say(conn, &announce(attributes(&[65001]), PEER, &ALL[..1]));
    s.say(conn, &end_of_rib(Family::V4));
    let rib = s.speaker.rib(Family::V4);
    assert_eq!(rib.len(), 1);
    assert_eq!((rib[0].attributes.communities.len(), rib[0].stale), (0, false));
    assert_eq!(s.speaker.adj_out(ip(OTHER)).iter().filter(|p| p.prefix.addr().is_ipv4()).count(), 1);
}

/// The graceful restart capability of our OPEN: R, N, seconds, and the F bits.
fn said(outs: &[Out]) -> Option<(bool, bool, u16, Vec<bool>)> {
    outs.iter().find_map(|o| match o {
        Out::Say(_, Message::Open(open)) => open.capabilities.iter().find_map(|c| match c {
            Capability::GracefulRestart { restarted, notification, time_s, families } => {
                Some((*restarted, *notification, *time_s, families.iter().map(|f| f.forwarding).collect()))
            }
            _ => None,
        }),
        _ => None,
    })
}

/// A speaker that came back, with what it advertises.
fn returned(ops: &[Op<Bgp>]) -> Script {
    let mut s = Script::new();
    s.input(Input::Restarted);
    s.apply(&[script::own()]);
    s.apply(ops);
    s
}

fn originate(prefix: &str) -> Op<Bgp> {
    Op::Put(Key::Network(prefix.parse().unwrap()), Value::Network(Network { next_hop: script::ours() }))
}

#[test]
fn the_restart_bit_is_set_once_and_only_after_a_restart() {
    let no = Some((false, true, 120, vec![false, false]));
    let yes = Some((true, true, 120, vec![true, true]));
    let gr = || neighbor(PEER, 65001, graceful);
    let (_, outs) = Script::with(&[gr()]).accept(ip(PEER));
    assert_eq!(said(&outs), no);
    let (_, outs) = Script::with(&[neighbor(PEER, 65001, plain)]).accept(ip(PEER));
    assert_eq!(said(&outs), None);
    for complete_first in [false, true] {
        let mut s = returned(&[gr(), neighbor(OTHER, 65002, graceful)]);
        if complete_first {
            s.input(Input::Complete);
        }
        let (conn, outs) = s.accept(ip(PEER));
        assert_eq!(said(&outs), yes, "complete first: {complete_first}");
        // A connection that comes to nothing changes nothing.
        s.lose(conn);
        let (conn, outs) = s.accept(ip(PEER));
        assert_eq!(said(&outs), yes);
        s.say(conn, &Message::Open(opens(65001, 1, FIRST)));
        s.say(conn, &Message::Keepalive);
        // The next session is not the first after the restart, but forwarding never ended (RFC 8538 section 4.1).
        s.lose(conn);
        let (_, outs) = s.accept(ip(PEER));
        assert_eq!(said(&outs), Some((false, true, 120, vec![true, true])), "complete first: {complete_first}");
        // Another neighbour may come later; but when its time is over, it has forgotten our routes.
        s.wait(secs(100));
        assert_eq!(said(&s.accept(ip(OTHER)).1), yes);
        s.wait(secs(21));
        assert_eq!(said(&s.accept(ip(OTHER)).1), no);
    }
}

/// Families whose End-of-RIB was sent on a connection.
fn ends(outs: &[Out], on: ConnId) -> Vec<Family> {
    updates(outs, on).iter().filter_map(fairway_bgp::wire::Update::is_end_of_rib).collect()
}

const BOTH: [Family; 2] = [Family::V4, Family::V6];

#[test]
fn after_a_restart_routes_leave_at_once_and_end_of_rib_when_all_is_said() {
    let mut s = returned(&[
        neighbor(PEER, 65001, graceful),
        neighbor(OTHER, 65002, graceful),
        neighbor("10.0.0.3", 65003, plain),
        originate("10.1.0.0/24"),
    ]);
    let (conn, outs) = s.up(ip(PEER), &opens(65001, 1, FIRST));
    assert_eq!(updates(&outs, conn).len(), 1, "the route, but not the end: {outs:?}");
    let (other, _) = s.up(ip(OTHER), &opens(65002, 2, FIRST));
    // One without graceful restart is not waited for.
    let (third, outs) = s.up(ip("10.0.0.3"), &open(65003, 3));
    assert_eq!(updates(&outs, third).len(), 1, "{outs:?}");
    let outs = s.say(conn, &announce(attributes(&[65001]), PEER, &["10.9.0.0/24"]));
    assert_eq!(updates(&outs, other).len(), 1, "routes of others pass at once");
    for family in BOTH {
        assert_eq!(s.say(conn, &end_of_rib(family)), []);
        assert_eq!(s.say(other, &end_of_rib(family)), []);
    }
    // What we advertise ourselves is still to come.
    let outs = s.apply(&[originate("10.2.0.0/24")]);
    assert_eq!((updates(&outs, conn).len(), ends(&outs, conn)), (1, vec![]));
    let outs = s.input(Input::Complete);
    for conn in [conn, other, third] {
        assert_eq!(ends(&outs, conn), BOTH);
        assert_eq!(updates(&outs, conn).len(), 2);
    }
    assert_eq!(s.input(Input::Complete), [], "once");
}

/// A reflector would otherwise let the first of its clients forget what the others are about to say.
#[test]
fn end_of_rib_waits_for_neighbours_that_are_on_their_way() {
    let dialed = |address: &str, asn| {
        let Op::Put(key, Value::Peer(mut peer)) = neighbor(address, asn, graceful) else { panic!() };
        peer.passive = false;
        Op::Put(key, Value::Peer(peer))
    };
    let mut s = Script::new();
    s.input(Input::Restarted);
    s.apply(&[script::own()]);
    let outs = s.apply(&[dialed(PEER, 65001), dialed(OTHER, 65002), dialed("10.0.0.3", 65003)]);
    let [Out::Dial(first, _), Out::Dial(second, _), Out::Dial(dead, _)] = outs[..] else { panic!("{outs:?}") };
    s.input(Input::Complete);
    let up = |s: &mut Script, conn, asn, id, says| {
        s.connect(conn);
        s.say(conn, &Message::Open(opens(asn, id, says)));
        s.say(conn, &Message::Keepalive)
    };
    assert_eq!(up(&mut s, first, 65001, 1, FIRST), []);
    for family in BOTH {
        assert_eq!(s.say(first, &end_of_rib(family)), [], "two others are still on their way");
    }
    assert_eq!(up(&mut s, second, 65002, 2, FIRST), []);
    let outs = s.say(second, &announce(attributes(&[65002]), OTHER, &["10.9.0.0/24"]));
    assert_eq!(updates(&outs, first).len(), 1);
    for family in BOTH {
        assert_eq!(s.say(second, &end_of_rib(family)), []);
    }
    // The third does not answer. That is known as soon as the first dial fails, and is waited for no longer.
    let outs = s.input(Input::ConnectFailed { conn: dead });
    assert_eq!((ends(&outs, first), ends(&outs, second)), (BOTH.to_vec(), BOTH.to_vec()));
}

#[test]
fn the_wait_after_a_restart_is_bounded_and_the_dead_are_not_waited_for() {
    // PEER is up when our configuration is complete; of OTHER more below.
    let begin = || {
        let mut s = returned(&[neighbor(PEER, 65001, graceful), neighbor(OTHER, 65002, graceful)]);
        let (conn, _) = s.up(ip(PEER), &opens(65001, 1, FIRST));
        (s, conn)
    };
    // It never comes.
    let (mut s, conn) = begin();
    s.input(Input::Complete);
    assert_eq!(s.say(conn, &end_of_rib(Family::V4)), []);
    let outs = s.say(conn, &end_of_rib(Family::V6));
    assert_eq!(ends(&outs, conn), BOTH);
    // It comes, and dies before its End-of-RIB.
    let (mut s, conn) = begin();
    let (other, _) = s.up(ip(OTHER), &opens(65002, 2, FIRST));
    s.input(Input::Complete);
    for family in BOTH {
        assert_eq!(s.say(conn, &end_of_rib(family)), []);
    }
    let outs = s.lose(other);
    assert_eq!(ends(&outs, conn), BOTH);
    // It comes, and never says End-of-RIB.
    let (mut s, conn) = begin();
    let (other, _) = s.up(ip(OTHER), &opens(65002, 2, FIRST));
    s.input(Input::Complete);
    assert_eq!(ends(&s.wait(secs(59)), conn), []);
    let outs = s.wait(secs(1));
    assert_eq!((ends(&outs, conn), ends(&outs, other)), (BOTH.to_vec(), BOTH.to_vec()));
    // Our configuration is never complete.
    let (mut s, conn) = begin();
    for family in BOTH {
        assert_eq!(s.say(conn, &end_of_rib(family)), []);
    }
    assert_eq!(ends(&s.wait(secs(60)), conn), BOTH);
    // It restarts itself, so it waits for us (RFC 4724 section 4.1).
    let (mut s, conn) = begin();
    let (other, _) = s.up(ip(OTHER), &opens(65002, 2, BACK));
    for family in BOTH {
        assert_eq!(s.say(conn, &end_of_rib(family)), []);
    }
    assert_eq!(ends(&s.input(Input::Complete), other), BOTH);
}

#[test]
fn leaving_for_a_moment_is_silent_only_towards_those_who_keep_our_routes() {
    let mut s = Script::with(&[
        neighbor(PEER, 65001, graceful),
        neighbor(OTHER, 65002, graceful),
        neighbor("10.0.0.3", 65003, plain),
    ]);
    let (knows, _) = s.up(ip(PEER), &opens(65001, 1, FIRST));
    let (does_not, _) = s.up(ip(OTHER), &open(65002, 2));
    let (third, _) = s.up(ip("10.0.0.3"), &open(65003, 3));
    let outs = s.input(Input::Leave);
    assert_eq!(notifications(&outs, knows), []);
    for conn in [does_not, third] {
        let said: Vec<_> = notifications(&outs, conn).iter().map(|n| (n.code, n.subcode)).collect();
        assert_eq!(said, [(6, 2)]);
    }
    let closed: Vec<_> = outs.iter().filter(|o| matches!(o, Out::Close(_))).collect();
    assert_eq!(closed.len(), 3);
    let (conn, outs) = s.accept(ip(PEER));
    assert_eq!(outs, [Out::Say(conn, script::notification(6, 5)), Out::Close(conn)]);
}

const GRACEFUL_SHUTDOWN: u32 = 0xffff_0000;

#[test]
fn going_away_is_announced_and_believed() {
    let quiet = Global::new(OWN_AS, Ipv4Addr::new(10, 0, 0, 100), 179, 4);
    let going = Global { graceful_shutdown: true, ..quiet.clone() };
    let global = |g: &Global| Op::Put(Key::Global, Value::Global(g.clone()));
    type Go = fn(&mut Script, Op<Bgp>) -> Vec<Out>;
    let cordon: Go = |s, op| s.apply(&[op]);
    let drain: Go = |s, _| s.input(Input::Drain);
    for (go, comes_back) in [(cordon, true), (drain, false)] {
        let mut s = Script::with(&[
            neighbor(PEER, 65001, plain),
            neighbor("10.0.0.4", OWN_AS, plain),
            originate("10.1.0.0/24"),
        ]);
        let (external, _) = s.up(ip(PEER), &open(65001, 1));
        let (internal, _) = s.up(ip("10.0.0.4"), &open(OWN_AS, 4));
        let told = |outs: &[Out], conn| {
            let updates = updates(outs, conn);
            let [update] = &updates[..] else { panic!("{updates:?}") };
            let a = update.attributes.as_ref().unwrap();
            (a.communities.clone(), a.local_pref)
        };
        let outs = go(&mut s, global(&going));
        assert_eq!(told(&outs, external), (vec![GRACEFUL_SHUTDOWN], None));
        assert_eq!(told(&outs, internal), (vec![], Some(0)));
        // New routes, too.
        let outs = s.apply(&[originate("10.2.0.0/24")]);
        assert_eq!(told(&outs, external), (vec![GRACEFUL_SHUTDOWN], None));
        if comes_back {
            let outs = s.apply(&[global(&quiet)]);
            assert_eq!(told(&outs, external), (vec![], None));
            assert_eq!(told(&outs, internal), (vec![], Some(100)));
        }
    }
    // Received from outside: the last choice. From inside, LOCAL_PREF says so already.
    let mut s = Script::with(&[neighbor(PEER, 65001, plain), neighbor("10.0.0.4", OWN_AS, plain)]);
    let (external, _) = s.up(ip(PEER), &open(65001, 1));
    let (internal, _) = s.up(ip("10.0.0.4"), &open(OWN_AS, 4));
    let leaving = |path: &[u32]| Attributes { communities: vec![GRACEFUL_SHUTDOWN], ..attributes(path) };
    s.say(external, &announce(leaving(&[65001]), PEER, &["10.9.0.0/24"]));
    s.say(internal, &announce(leaving(&[65009]), "10.0.0.4", &["10.8.0.0/24"]));
    let prefs: Vec<_> = s.speaker.rib(Family::V4).iter().map(|p| p.attributes.local_pref).collect();
    assert_eq!(prefs, [None, Some(0)]);
}

/// RFC 4724 section 5: the old connection of a neighbour that lost power is still there when it is back.
#[test]
fn a_neighbour_that_restarted_replaces_its_old_session_and_keeps_its_routes() {
    let (mut s, old, other) = filled(graceful, FIRST);
    s.wait(secs(20));
    let (new, _) = s.accept(ip(PEER));
    let outs = s.say(new, &Message::Open(opens(65001, 1, BACK)));
    assert!(outs.contains(&Out::Close(old)) && notifications(&outs, old).is_empty(), "{outs:?}");
    assert_eq!(s.routes(), STALE);
    let outs = s.say(new, &Message::Keepalive);
    assert!(updates(&outs, other).is_empty(), "nobody hears of it");
    s.say(new, &announce(attributes(&[65001]), PEER, &ALL[..1]));
    s.say(new, &end_of_rib(Family::V4));
    s.say(new, &end_of_rib(Family::V6));
    assert_eq!(s.routes(), [ALL[0]]);
}

#[test]
fn who_did_not_restart_or_knows_no_graceful_restart_replaces_nothing() {
    type Case = (fn(&mut Session), Says, u64);
    let cases: [Case; 3] = [(graceful, FIRST, 20), (plain, BACK, 20), (graceful, BACK, 1)];
    for (change, says, age) in cases {
        let (mut s, old, _) = filled(change, FIRST);
        s.wait(secs(age));
        let (new, _) = s.accept(ip(PEER));
        let outs = s.say(new, &Message::Open(opens(65001, 1, says)));
        assert!(outs.contains(&Out::Close(new)) && !outs.contains(&Out::Close(old)), "{outs:?}");
        assert_eq!(s.routes(), ALL);
    }
}
