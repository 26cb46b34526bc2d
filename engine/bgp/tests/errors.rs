//! Broken UPDATEs, attribute by attribute, as RFC 7606 wants them: what becomes of the route, of the session, and what
//! the operator reads.
#![allow(clippy::unwrap_used, reason = "a test may fail")]

#[path = "common/script.rs"]
mod script;

use std::net::IpAddr;
use std::time::Duration;

use fairway_bgp::wire::{Capability, Message, Open};
use fairway_bgp::{ConnId, Event, Input, SessionState};
use fairway_desired::Family;
use fairway_desired::bgp::{GracefulRestart, Session};
use script::{OWN_AS, Script, announce, announce6, attributes, neighbor, notifications, open, plain};

const PEER: &str = "10.0.0.1";

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn hex(text: &str) -> Vec<u8> {
    let digits: String = text.split_whitespace().collect();
    (0..digits.len() / 2).map(|i| u8::from_str_radix(&digits[2 * i..2 * i + 2], 16).unwrap()).collect()
}

/// An UPDATE: withdrawn prefixes, attributes, prefixes.
fn update(withdrawn: &str, attributes: &str, nlri: &str) -> Vec<u8> {
    let mut out = vec![0xff; 16];
    let (withdrawn, attributes, nlri) = (hex(withdrawn), hex(attributes), hex(nlri));
    let len = 19 + 4 + withdrawn.len() + attributes.len() + nlri.len();
    out.extend((len as u16).to_be_bytes());
    out.push(2);
    out.extend((withdrawn.len() as u16).to_be_bytes());
    out.extend(withdrawn);
    out.extend((attributes.len() as u16).to_be_bytes());
    out.extend(attributes);
    out.extend(nlri);
    out
}

/// What is to happen.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fate {
    /// As if nothing were wrong.
    Good,
    /// The attribute is passed over, the route stays, and the operator is told.
    Discard,
    /// The routes of the message are gone, and the operator is told.
    Withdraw,
    /// The session ends with this subcode of UPDATE Message Error.
    Reset(u8),
}
use Fate::{Discard, Good, Reset, Withdraw};

const ORIGIN: &str = "400101 00";
const EXTERNAL_PATH: &str = "400206 0201 0000fde9";
const INTERNAL_PATH: &str = "400200";
const HOP: &str = "400304 0a000001";
/// By this the new route differs from the old one.
const MED: &str = "800404 0000004d";

/// A session with a route to 10.8.0.0/24 and one to 10.9.0.0/24.
fn begin(asn: u32) -> (Script, ConnId) {
    let mut s = Script::with(&[neighbor(PEER, asn, plain)]);
    let (conn, _) = s.up(ip(PEER), &open(asn, 1));
    let path: &[u32] = if asn == OWN_AS { &[] } else { &[asn] };
    s.say(conn, &announce(attributes(path), PEER, &["10.8.0.0/24", "10.9.0.0/24"]));
    assert_eq!(s.routes(), ["10.8.0.0/24", "10.9.0.0/24"]);
    s.events.clear();
    (s, conn)
}

/// Sends bytes and sees what became of 10.9.0.0/24 and of the session.
fn fate(s: &mut Script, conn: ConnId, bytes: Vec<u8>) -> (Fate, Vec<Event>) {
    let outs = s.input(Input::Received { conn, bytes });
    let ended = notifications(&outs, conn);
    if let [n] = &ended[..] {
        assert_eq!(n.code, 3);
        assert_eq!(s.routes(), [""; 0]);
        return (Reset(n.subcode), vec![]);
    }
    assert_eq!(outs, []);
    assert_eq!(s.state(PEER), SessionState::Established);
    let rib = s.speaker.rib(Family::V4);
    let what = match &rib[..] {
        [a] if a.prefix.to_string() == "10.8.0.0/24" => Withdraw,
        [_, b] if b.attributes.med == Some(77) => {
            let discarded = s.events.iter().any(|e| matches!(e, Event::Discarded { .. }));
            if discarded { Discard } else { Good }
        }
        _ => panic!("{rib:?}"),
    };
    assert_eq!(s.events.iter().any(|e| matches!(e, Event::Malformed { .. })), what == Withdraw);
    (what, std::mem::take(&mut s.events))
}

/// The attribute in place of a good one with the same code, or beside them all: its fate from an external and from an
/// internal neighbour.
const BROKEN: &[(&str, Fate, Fate)] = &[
    // ORIGIN (section 7.1)
    ("400100", Withdraw, Withdraw),
    ("400102 0000", Withdraw, Withdraw),
    ("400101 03", Withdraw, Withdraw),
    ("c00101 00", Withdraw, Withdraw),
    // AS_PATH (7.2): segment type, confederation, too long, too short, no AS, AS 0
    ("400206 0501 0000fde9", Withdraw, Withdraw),
    ("400206 0301 0000fde9", Withdraw, Withdraw),
    ("400206 0202 0000fde9", Withdraw, Withdraw),
    ("400207 0201 0000fde9 02", Withdraw, Withdraw),
    ("400202 0200", Withdraw, Withdraw),
    ("40020a 0202 0000fde9 00000000", Withdraw, Withdraw),
    ("c00206 0201 0000fde9", Withdraw, Withdraw),
    // NEXT_HOP (7.3)
    ("400303 0a0000", Withdraw, Withdraw),
    ("400305 0a00000100", Withdraw, Withdraw),
    ("400304 00000000", Withdraw, Withdraw),
    ("400304 e0000001", Withdraw, Withdraw),
    ("400304 ffffffff", Withdraw, Withdraw),
    ("c00304 0a000001", Withdraw, Withdraw),
    // MULTI_EXIT_DISC (7.4)
    ("800400", Withdraw, Withdraw),
    ("800403 000001", Withdraw, Withdraw),
    ("400404 0000004d", Withdraw, Withdraw),
    // LOCAL_PREF (7.5): not for external neighbours to say
    ("400503 000001", Good, Withdraw),
    ("400500", Good, Withdraw),
    ("c00504 00000064", Good, Withdraw),
    ("400504 00000064", Good, Good),
    // ATOMIC_AGGREGATE (7.6)
    ("400601 00", Discard, Discard),
    ("400600", Good, Good),
    // AGGREGATOR (7.7), and AS 0 in it (RFC 7607)
    ("c00706 fde9 0a000001", Discard, Discard),
    ("c00700", Discard, Discard),
    ("c00708 00000000 0a000001", Discard, Discard),
    ("c00708 0000fde9 0a000001", Good, Good),
    // COMMUNITIES (7.8)
    ("c00800", Withdraw, Withdraw),
    ("c00806 fde90001 fde9", Withdraw, Withdraw),
    ("800804 fde90001", Withdraw, Withdraw),
    // ORIGINATOR_ID (7.9)
    ("800903 0a0000", Good, Withdraw),
    ("800904 0a000009", Good, Good),
    // CLUSTER_LIST (7.10)
    ("800a05 0a00000900", Good, Withdraw),
    ("800a00", Good, Withdraw),
    ("800a04 0a000009", Good, Good),
    // MP_REACH_NLRI (7.11) and MP_UNREACH_NLRI (7.12): nobody knows which routes it is about
    ("800e05 0002 01 08 00", Reset(9), Reset(9)),
    ("800e03 0002 01", Reset(9), Reset(9)),
    ("800f02 0002", Reset(9), Reset(9)),
    ("800f05 0002 01 81 00", Reset(9), Reset(9)),
    ("c00f03 0002 01", Reset(4), Reset(4)),
    ("800f03 0002 01 800f03 0002 01", Reset(1), Reset(1)),
    ("800f30 0002 01", Reset(5), Reset(5)),
    // A family that is not ours: nothing to us
    ("800f07 0001 80 18 0a0000", Good, Good),
    // EXTENDED COMMUNITIES (7.14)
    ("c01000", Withdraw, Withdraw),
    ("c01007 00020000000000", Withdraw, Withdraw),
    ("c01008 0002fde900000064", Good, Good),
    // AS4_PATH and AS4_AGGREGATOR (RFC 6793 section 6): nothing to us, good or bad
    ("c01106 0201 0000fde9", Good, Good),
    ("c01103 020100", Good, Good),
    ("c01208 0000fde9 0a000001", Good, Good),
    // LARGE_COMMUNITY (RFC 8092 section 5)
    ("c02000", Withdraw, Withdraw),
    ("c0200b 0000fde9 00000001 000000", Withdraw, Withdraw),
    // The same attribute twice (3 g): the first one counts
    ("400101 00 400101 02", Discard, Discard),
    ("c00804 fde90001 c00803 000000", Discard, Discard),
    // Unknown: well-known ones cannot be, optional ones can
    ("401e01 00", Reset(2), Reset(2)),
    ("806201 00", Good, Good),
    ("c06300", Good, Good),
    // The list ends inside an attribute (section 4)
    ("c0", Withdraw, Withdraw),
    ("c063", Withdraw, Withdraw),
    ("c06304 0000", Withdraw, Withdraw),
    ("d06301", Withdraw, Withdraw),
];

#[test]
fn each_broken_attribute_has_its_fate() {
    for (broken, external, internal) in BROKEN {
        for (asn, path, expected) in [(65001, EXTERNAL_PATH, external), (OWN_AS, INTERNAL_PATH, internal)] {
            let (mut s, conn) = begin(asn);
            let code = broken.get(2..4).unwrap_or_default();
            let good = [ORIGIN, path, HOP, MED].into_iter().filter(|a| a[2..4] != *code);
            let list: String = good.chain([*broken]).collect();
            let (got, events) = fate(&mut s, conn, update("", &list, "18 0a0900"));
            assert_eq!(got, *expected, "{broken} from AS {asn}");
            if got == Discard {
                let attribute = u8::from_str_radix(code, 16).unwrap();
                assert_eq!(events, [Event::Discarded { peer: ip(PEER), attribute }]);
                // Once is enough.
                let (_, events) = fate(&mut s, conn, update("", &list, "18 0a0900"));
                assert_eq!(events, []);
            }
        }
    }
}

#[test]
fn a_missing_mandatory_attribute_withdraws() {
    for missing in ["01", "02", "03"] {
        let (mut s, conn) = begin(65001);
        let list: String = [ORIGIN, EXTERNAL_PATH, HOP, MED].into_iter().filter(|a| &a[2..4] != missing).collect();
        assert_eq!(fate(&mut s, conn, update("", &list, "18 0a0900")).0, Withdraw, "{missing}");
    }
}

#[test]
fn the_routes_of_mp_reach_are_withdrawn_too() {
    let (mut s, conn) = begin(65001);
    s.say(conn, &announce6(attributes(&[65001]), "fd00::1", &["fd00:9::/64", "fd00:8::/64"]));
    let reach = "800e1e 0002 01 10 fd000000000000000000000000000001 00 40 fd00000900000000";
    let bytes = update("", &format!("{reach} 400101 07 {EXTERNAL_PATH}"), "");
    assert_eq!(s.input(Input::Received { conn, bytes }), []);
    assert_eq!(s.routes(), ["10.8.0.0/24", "10.9.0.0/24", "fd00:8::/64"]);
    // IPv4 and IPv6 in one message.
    s.say(conn, &announce6(attributes(&[65001]), "fd00::1", &["fd00:9::/64"]));
    let bytes = update("", &format!("{reach} 400101 07 {EXTERNAL_PATH} {HOP}"), "18 0a0900");
    assert_eq!(s.input(Input::Received { conn, bytes }), []);
    assert_eq!(s.routes(), ["10.8.0.0/24", "fd00:8::/64"]);
}

#[test]
fn prefixes_that_cannot_be_read_end_the_session() {
    let good = [ORIGIN, EXTERNAL_PATH, HOP].concat();
    for (withdrawn, nlri) in [("", "21 0a09000000"), ("", "18 0a09"), ("21 0a09000000", ""), ("18 0a09", "")] {
        let (mut s, conn) = begin(65001);
        assert_eq!(fate(&mut s, conn, update(withdrawn, &good, nlri)).0, Reset(10), "{withdrawn} {nlri}");
    }
    // Lengths that point behind the message.
    for (at, value) in [(19, 0xffff_u16), (21, 0xffff)] {
        let (mut s, conn) = begin(65001);
        let mut bytes = update("", &good, "18 0a0900");
        bytes[at..at + 2].copy_from_slice(&value.to_be_bytes());
        assert_eq!(fate(&mut s, conn, bytes).0, Reset(1));
    }
    // Bits behind the length do not matter.
    let (mut s, conn) = begin(65001);
    let bytes = update("", &[&good, MED].concat(), "18 0a0900 16 0a0aff");
    s.input(Input::Received { conn, bytes });
    assert_eq!(s.routes(), ["10.8.0.0/24", "10.9.0.0/24", "10.10.252.0/22"]);
}

/// RFC 7606 section 5.2: without prefixes it is not known what a broken attribute is about, so nothing can be withdrawn.
#[test]
fn a_broken_attribute_without_prefixes_ends_the_session() {
    for broken in ["400101 03", "c00803 000000", "c06304 0000"] {
        let (mut s, conn) = begin(65001);
        let list = [EXTERNAL_PATH, broken].concat();
        let outs = s.input(Input::Received { conn, bytes: update("18 0a0800", &list, "") });
        let n = &notifications(&outs, conn)[0];
        assert_eq!((n.code, n.subcode), (3, 1), "{broken}");
    }
    // One that would only be passed over does not.
    let (mut s, conn) = begin(65001);
    assert_eq!(s.input(Input::Received { conn, bytes: update("18 0a0800", "400601 00", "") }), []);
    assert_eq!(s.routes(), ["10.9.0.0/24"]);
    // Nor one beside routes of a family that is not ours.
    let (mut s, conn) = begin(65001);
    let list = format!("800e0d 0001 80 04 0a000001 00 18 0a0000 {EXTERNAL_PATH} 400101 03");
    assert_eq!(s.input(Input::Received { conn, bytes: update("", &list, "") }), []);
    assert_eq!(s.routes(), ["10.8.0.0/24", "10.9.0.0/24"]);
}

/// RFC 4724 section 2: each family has its own mark. That of another family is not that of IPv4.
#[test]
fn the_end_of_another_familys_rib_is_not_ours() {
    let graceful = |s: &mut Session| {
        s.graceful_restart = Some(GracefulRestart { time_s: 120, defer_s: 60, long_lived_s: 0 });
    };
    let with_gr = |restarted: bool| {
        let mut open: Open = open(65001, 1);
        let families = vec![fairway_bgp::wire::RestartFamily { afi: 1, safi: 1, forwarding: true }];
        let capability = Capability::GracefulRestart { restarted, notification: true, time_s: 100, families };
        open.capabilities.push(capability);
        open
    };
    let mut s = Script::with(&[neighbor(PEER, 65001, graceful)]);
    let (conn, _) = s.up(ip(PEER), &with_gr(false));
    s.say(conn, &announce(attributes(&[65001]), PEER, &["10.9.0.0/24"]));
    s.lose(conn);
    s.now += Duration::from_secs(1);
    let (conn, _) = s.up(ip(PEER), &with_gr(true));
    for other in ["800f03 0001 80", "800f03 0019 41", "800f03 0002 01", "800f07 0001 80 18 0a0000"] {
        s.input(Input::Received { conn, bytes: update("", other, "") });
        assert_eq!(s.routes(), ["10.9.0.0/24 stale"], "{other}");
    }
    s.input(Input::Received { conn, bytes: update("", "", "") });
    assert_eq!(s.routes(), [""; 0]);
}

#[test]
fn the_first_as_may_be_any_and_ours_makes_a_loop() {
    let (mut s, conn) = begin(65001);
    s.say(conn, &announce(attributes(&[65009]), PEER, &["10.7.0.0/24"]));
    assert_eq!(s.routes().len(), 3, "route servers do not show their AS");
    s.say(conn, &announce(attributes(&[65001, OWN_AS]), PEER, &["10.9.0.0/24"]));
    assert_eq!(s.routes(), ["10.7.0.0/24", "10.8.0.0/24"], "a loop takes the place of what was good");
    assert_eq!(s.speaker.adj_in(ip(PEER)).len(), 3);
    assert_eq!(s.say(conn, &Message::Keepalive), []);
}
