//! What BFD means for a session: whom to watch, and what happens when it fails (RFC 5882).
#![allow(clippy::unwrap_used, reason = "a test may fail")]

mod common;
#[path = "common/script.rs"]
mod script;

use std::net::SocketAddr;

use common::{dynamic, global, ip, net, peer_value, secs};
use fairway_bgp::wire::{Capability, Message, Notification, Open, RestartFamily};
use fairway_bgp::{ConnId, Event, Input, SessionState, Watch};
use fairway_desired::bgp::{Bfd, Distance, GracefulRestart, Key, Peer, Value};
use fairway_desired::{Bgp, Op};
use script::{Out, Script, announce, attributes, notification, open, ours};

const PEER: &str = "10.0.0.1";
const BFD: Bfd = Bfd { port: 3784, desired_min_tx_ms: 300, required_min_rx_ms: 200, multiplier: 3 };

fn configured(change: impl FnOnce(&mut Peer)) -> Op<Bgp> {
    let mut value = peer_value(65001);
    value.local = Some(ours());
    value.session.bfd = Some(BFD);
    change(&mut value);
    Op::Put(Key::Peer(ip(PEER)), Value::Peer(value))
}

fn watch(hops: u8) -> Option<Watch> {
    Some(Watch { bfd: BFD, local: Some(ours()), hops })
}

/// The neighbour connects to us and brings the session up.
fn up(s: &mut Script, open: &Open) -> ConnId {
    let (conn, outs) = s.up(ip(PEER), open);
    assert!(!outs.is_empty());
    s.say(conn, &announce(attributes(&[65001]), PEER, &["10.9.0.0/24"]));
    assert_eq!(s.speaker.neighbors()[0].state, SessionState::Established);
    assert_eq!(s.speaker.lookup(net("10.9.0.0/24")).len(), 1);
    conn
}

#[test]
fn a_configured_neighbour_is_watched_as_long_as_we_talk_to_it() {
    let mut s = Script::new();
    s.apply(&[configured(|_| ())]);
    assert_eq!(s.watches, [], "we are nobody yet");
    s.apply(&[global(65100, 100, 4)]);
    let peer = ip(PEER);
    assert_eq!(s.watches, [(peer, watch(1))]);
    s.apply(&[configured(|p| p.session.bfd = Some(Bfd { multiplier: 5, ..BFD }))]);
    let slower = Watch { bfd: Bfd { multiplier: 5, ..BFD }, ..watch(1).unwrap() };
    assert_eq!(s.watches[1..], [(peer, Some(slower))]);
    s.apply(&[configured(|_| ())]);
    s.watches.clear();
    let enable = |enabled| Input::EnablePeer { peer, enabled, message: String::new() };
    s.input(enable(false));
    s.input(enable(true));
    assert_eq!(s.watches, [(peer, None), (peer, watch(1))]);
    s.watches.clear();
    s.apply(&[configured(|p| p.session.bfd = None)]);
    s.apply(&[configured(|_| ())]);
    s.apply(&[Op::Del(Key::Peer(peer))]);
    assert_eq!(s.watches, [(peer, None), (peer, watch(1)), (peer, None)]);
    s.apply(&[configured(|_| ())]);
    s.watches.clear();
    s.input(Input::Shutdown { message: String::new() });
    assert_eq!(s.watches, [(peer, None)]);
}

#[test]
fn how_far_a_neighbour_may_be() {
    let cases = [
        (Distance::Default, 1),
        (Distance::Multihop(1), 1),
        (Distance::Multihop(2), 255),
        (Distance::Security(1), 1),
        (Distance::Security(3), 3),
    ];
    for (distance, hops) in cases {
        let mut s = Script::new();
        s.apply(&[global(65100, 100, 4), configured(|p| p.session.distance = distance)]);
        assert_eq!(s.watches, [(ip(PEER), watch(hops))], "{distance:?}");
    }
}

#[test]
fn one_of_a_range_is_watched_while_it_is_connected() {
    let mut s = Script::new();
    let Op::Put(key, Value::Dynamic(mut value)) = dynamic("10.0.0.0/24", &[65001]) else { panic!() };
    value.session.bfd = Some(BFD);
    s.apply(&[global(65100, 100, 4), Op::Put(key, Value::Dynamic(value))]);
    assert_eq!(s.watches, []);
    let (conn, _) = s.accept(ip(PEER));
    assert_eq!(s.watches, [(ip(PEER), watch(1))], "before there is a session");
    s.say(conn, &Message::Open(open(65001, 1)));
    s.say(conn, &Message::Keepalive);
    assert_eq!(s.watches.len(), 1);
    s.input(Input::Closed { conn });
    assert_eq!(s.watches[1..], [(ip(PEER), None)]);
}

#[test]
fn a_failure_ends_the_session_and_its_routes_at_once() {
    let mut s = Script::new();
    s.apply(&[global(65100, 100, 4), configured(|p| p.passive = true)]);
    // It has never been up: nothing to end.
    assert_eq!(s.input(Input::BfdDown(ip(PEER))), []);
    let conn = up(&mut s, &open(65001, 1));
    let outs = s.input(Input::BfdDown(ip(PEER)));
    assert_eq!(outs, [Out::Say(conn, notification(6, 10)), Out::Close(conn)]);
    assert_eq!(s.speaker.lookup(net("10.9.0.0/24")), []);
    assert!(matches!(s.events.last(), Some(Event::Down { reason, .. }) if reason.contains("BFD")), "{:?}", s.events);
    // The session does not wait for BFD to come up again.
    up(&mut s, &open(65001, 1));
}

/// An OPEN with graceful restart, over NOTIFICATION too (RFC 8538).
fn restarting_open() -> Open {
    let mut open = open(65001, 1);
    open.capabilities.push(Capability::GracefulRestart {
        restarted: false,
        notification: true,
        time_s: 120,
        families: vec![RestartFamily { afi: 1, safi: 1, forwarding: true }],
    });
    open
}

/// RFC 5882 section 4.3.2: our BFD shares the fate of BGP.
#[test]
fn with_graceful_restart_a_failure_ends_what_stands_and_nothing_that_restarts() {
    let mut s = Script::new();
    let restart = GracefulRestart { time_s: 90, defer_s: 10, long_lived_s: 0 };
    let change = |p: &mut Peer| {
        p.passive = true;
        p.session.graceful_restart = Some(restart);
    };
    s.apply(&[global(65100, 100, 4), configured(change)]);
    let prefix = net("10.9.0.0/24");
    // The session stands: forwarding is broken, and a restart is not what it looks like. Both sides drop the routes,
    // the other one because of Hard Reset.
    let conn = up(&mut s, &restarting_open());
    let outs = s.input(Input::BfdDown(ip(PEER)));
    let hard = Notification::hard_reset(&Notification { code: 6, subcode: 10, data: vec![] });
    assert_eq!(outs, [Out::Say(conn, Message::Notification(hard)), Out::Close(conn)]);
    assert_eq!(s.speaker.lookup(prefix), []);
    // It restarts: its BFD goes as well, and that says nothing.
    let conn = up(&mut s, &restarting_open());
    s.input(Input::Closed { conn });
    assert!(s.speaker.lookup(prefix)[0].stale);
    s.input(Input::BfdDown(ip(PEER)));
    assert!(s.speaker.lookup(prefix)[0].stale, "kept");
    s.now += secs(60);
    s.input(Input::Tick);
    assert!(s.speaker.lookup(prefix)[0].stale, "as long as it asked for");
}

#[test]
fn without_an_address_of_ours_the_kernel_chooses() {
    let mut s = Script::new();
    let outs = s.apply(&[global(65100, 100, 4), configured(|p| p.local = None)]);
    let Some(Out::Dial(conn, remote)) = outs.last().cloned() else { panic!("{outs:?}") };
    s.input(Input::Connected { conn, local: SocketAddr::new(ours(), 4000), remote });
    let any = Watch { local: None, ..watch(1).unwrap() };
    assert_eq!(s.watches, [(ip(PEER), Some(any))], "the same before and after the dial");
}
