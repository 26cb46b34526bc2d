//! One machine against a neighbour that the test plays.
#![allow(clippy::unwrap_used, reason = "a test may fail")]

mod common;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use common::{MS, MULTIHOP, Side, ip, ours, packet, settings, theirs};
use fairway_bfd::State::{AdminDown, Down, Init, Up};
use fairway_bfd::{
    Bfd, Diagnostic, Dropped, Event, Input, Output, PORT, Packet, Payload, SESSIONS_MAX, Settings, State,
};

const SECOND: Duration = Duration::from_secs(1);

fn side() -> Side {
    Side::new(settings(ours(), 100, 100, 3))
}

fn up(side: &mut Side) -> u32 {
    side.bring(Up);
    assert_eq!(side.view().state, Up);
    side.discriminator()
}

fn failed(peer: std::net::IpAddr, diagnostic: Diagnostic) -> Event {
    Event::Down { peer, diagnostic, failure: true }
}

/// RFC 5880 section 6.2 as a table: state, what is heard, state, our diagnostic, events.
#[test]
fn the_state_machine() {
    let wished = Event::Down { peer: theirs(), diagnostic: Diagnostic::NEIGHBOR_DOWN, failure: false };
    let down = failed(theirs(), Diagnostic::NEIGHBOR_DOWN);
    let came = Event::Up { peer: theirs() };
    let table: [(State, State, State, u8, &[Event]); 12] = [
        (Down, AdminDown, Down, 0, &[]),
        (Down, Down, Init, 0, &[]),
        (Down, Init, Up, 0, &[came]),
        (Down, Up, Down, 0, &[]),
        (Init, AdminDown, Down, 3, &[]),
        (Init, Down, Init, 0, &[]),
        (Init, Init, Up, 0, &[came]),
        (Init, Up, Up, 0, &[came]),
        (Up, AdminDown, Down, 3, &[wished]),
        (Up, Down, Down, 3, &[down]),
        (Up, Init, Up, 0, &[]),
        (Up, Up, Up, 0, &[]),
    ];
    for (before, heard, after, diagnostic, events) in table {
        let mut side = side();
        side.bring(before);
        let discriminator = side.discriminator();
        side.hear(&packet(heard, discriminator));
        let view = side.view();
        let case = format!("{before} hears {heard}");
        assert_eq!((view.state, view.diagnostic.code()), (after, diagnostic), "{case}");
        assert_eq!(side.events, events, "{case}");
        assert_eq!(view.remote_state, heard, "{case}");
        // A change is said at once.
        let said: Vec<State> = side.sent.iter().map(|p| p.state).collect();
        assert_eq!(said, if before == after { vec![] } else { vec![after] }, "{case}");
    }
}

#[test]
fn told_to_be_down_it_does_not_listen() {
    for heard in [AdminDown, Down, Init, Up] {
        let mut side = side();
        let discriminator = side.discriminator();
        up(&mut side);
        side.set(None);
        assert_eq!(side.sent.last().map(|p| (p.state, p.diagnostic)), Some((AdminDown, Diagnostic::ADMIN_DOWN)));
        assert_eq!(side.bfd.session(theirs()), None);
        side.sent.clear();
        side.hear(&packet(heard, discriminator));
        assert_eq!((side.sent.len(), side.events.len()), (0, 0));
    }
}

#[test]
fn silence_ends_it_after_the_detection_time() {
    // Theirs: multiplier 3, 100 ms wanted. Ours: takes one each 200 ms.
    let mut side = Side::new(settings(ours(), 100, 200, 5));
    up(&mut side);
    assert_eq!(side.view().detection_time, 600 * MS);
    side.wait(600 * MS - Duration::from_micros(1));
    assert_eq!((side.view().state, side.events.len()), (Up, 0));
    side.wait(Duration::from_micros(1));
    assert_eq!(side.events, [failed(theirs(), Diagnostic::EXPIRED)]);
    let last = *side.sent.last().unwrap();
    assert_eq!((last.state, last.diagnostic, last.your_discriminator), (Down, Diagnostic::EXPIRED, 0));
    let again = side.discriminator();
    side.hear(&packet(Down, again));
    side.hear(&packet(Up, again));
    assert_eq!(side.events[1..], [Event::Up { peer: theirs() }]);
}

#[test]
fn silence_in_init_is_no_failure() {
    let mut side = side();
    side.bring(Init);
    side.wait(10 * SECOND);
    assert_eq!((side.view().state, side.view().diagnostic), (Down, Diagnostic::EXPIRED));
    assert_eq!(side.events, []);
}

#[test]
fn each_packet_starts_the_detection_time_again() {
    let mut side = side();
    let discriminator = up(&mut side);
    for _ in 0..50 {
        side.wait(299 * MS);
        side.hear(&packet(Up, discriminator));
    }
    assert_eq!(side.events, []);
    // A driver that comes late hands in what waits first.
    side.now += 5 * SECOND;
    side.hear(&packet(Up, discriminator));
    side.input(Input::Tick);
    assert_eq!(side.events, []);
}

#[test]
fn packets_are_a_second_apart_until_it_is_up() {
    let mut side = side();
    side.wait(60 * SECOND);
    // 60 at the longest interval, a third more at the shortest.
    assert!((60..=81).contains(&side.sent.len()), "{}", side.sent.len());
    assert!(side.sent.iter().all(|p| p.desired_min_tx_us == 1_000_000 && p.required_min_rx_us == 100_000));
    let discriminator = up(&mut side);
    for _ in 0..60 {
        side.hear(&packet(Up, discriminator));
        side.wait(100 * MS);
    }
    assert!((60..=81).contains(&side.sent.len()), "{}", side.sent.len());
    assert!(side.sent.iter().all(|p| p.desired_min_tx_us == 100_000));
}

/// Pauses between the packets of a session that is up, as permille of the interval agreed on.
fn pauses(multiplier: u8) -> Vec<u128> {
    let mut side = Side::new(settings(ours(), 100, 100, multiplier));
    let discriminator = up(&mut side);
    let mut at = vec![];
    while at.len() < 1000 {
        side.hear(&packet(Up, discriminator));
        side.now = side.bfd.deadline().unwrap();
        let before = side.sent.len();
        side.input(Input::Tick);
        at.extend((before..side.sent.len()).map(|_| side.now));
    }
    at.windows(2).map(|pair| (pair[1] - pair[0]).as_micros() / 100).collect()
}

#[test]
fn jitter_is_a_quarter_and_keeps_off_the_end_when_one_packet_counts() {
    let many = pauses(3);
    assert!(many.iter().all(|p| (750..=1000).contains(p)));
    assert!(many.iter().any(|p| *p > 980) && many.iter().any(|p| *p < 770), "all of the range is used");
    let one = pauses(1);
    assert!(one.iter().all(|p| (750..=900).contains(p)));
    assert!(one.iter().any(|p| *p > 880) && one.iter().any(|p| *p < 770));
}

#[test]
fn the_slower_wish_is_the_interval() {
    let mut side = side();
    let discriminator = up(&mut side);
    assert_eq!(side.view().tx_interval, Some(100 * MS));
    side.hear(&Packet { required_min_rx_us: 400_000, ..packet(Up, discriminator) });
    assert_eq!(side.view().tx_interval, Some(400 * MS));
    // Faster again: the next packet may not wait for the old interval.
    side.wait(150 * MS);
    side.sent.clear();
    side.hear(&Packet { required_min_rx_us: 100_000, ..packet(Up, discriminator) });
    assert_eq!(side.sent.len(), 1);
}

#[test]
fn who_wants_no_packets_gets_none_but_answers() {
    let mut side = side();
    let discriminator = up(&mut side);
    side.hear(&Packet { required_min_rx_us: 0, multiplier: 200, ..packet(Up, discriminator) });
    side.sent.clear();
    side.wait(10 * SECOND);
    assert_eq!(side.sent, []);
    assert_eq!(side.view().tx_interval, None);
    side.hear(&Packet { required_min_rx_us: 0, poll: true, ..packet(Up, discriminator) });
    assert_eq!(side.sent.iter().map(|p| (p.poll, p.last)).collect::<Vec<_>>(), [(false, true)]);
    // Whoever comes after it may want some.
    side.wait(10 * SECOND);
    assert_eq!(side.view().state, Down);
    assert!(side.sent.len() > 5);
}

#[test]
fn a_demand_for_silence_is_respected_while_both_are_up() {
    let mut side = side();
    let discriminator = up(&mut side);
    side.hear(&Packet { last: true, ..packet(Up, discriminator) });
    side.sent.clear();
    for _ in 0..20 {
        side.hear(&Packet { demand: true, ..packet(Up, discriminator) });
        side.wait(100 * MS);
    }
    assert_eq!(side.sent, []);
    // A change of ours is agreed on all the same.
    side.set(Some(settings(ours(), 300, 100, 3)));
    assert!(side.sent.iter().any(|p| p.poll && p.desired_min_tx_us == 300_000));
    side.sent.clear();
    side.hear(&Packet { demand: true, ..packet(Down, discriminator) });
    assert_eq!(side.sent.iter().map(|p| p.state).collect::<Vec<_>>(), [Down]);
}

#[test]
fn a_poll_is_answered_at_once_and_never_with_a_poll() {
    let mut side = side();
    let discriminator = up(&mut side);
    // We have a poll of our own under way: the interval went from 1 s to 100 ms.
    side.hear(&Packet { poll: true, ..packet(Up, discriminator) });
    assert_eq!(side.sent.iter().map(|p| (p.poll, p.last)).collect::<Vec<_>>(), [(false, true)]);
    side.sent.clear();
    side.wait(100 * MS);
    assert_eq!(side.sent.iter().map(|p| (p.poll, p.last)).collect::<Vec<_>>(), [(true, false)]);
    side.hear(&Packet { last: true, ..packet(Up, discriminator) });
    side.sent.clear();
    side.wait(100 * MS);
    assert!(!side.sent.is_empty() && side.sent.iter().all(|p| !p.poll && !p.last));
}

#[test]
fn what_would_end_it_early_waits_for_the_answer() {
    let mut side = side();
    let discriminator = up(&mut side);
    let last = Packet { last: true, ..packet(Up, discriminator) };
    side.hear(&last);
    // Slower sending and a shorter patience are said at once, and count later.
    side.set(Some(settings(ours(), 500, 20, 3)));
    let said = *side.sent.last().unwrap();
    assert_eq!((said.poll, said.desired_min_tx_us, said.required_min_rx_us), (true, 500_000, 20_000));
    assert_eq!((side.view().tx_interval, side.view().rx_interval), (Some(100 * MS), 100 * MS));
    // It changes again while it waits: the answer may be to the first question.
    side.set(Some(settings(ours(), 700, 20, 3)));
    side.hear(&last);
    assert_eq!(side.view().tx_interval, Some(100 * MS));
    side.sent.clear();
    side.wait(100 * MS);
    assert!(side.sent.iter().all(|p| p.poll && p.desired_min_tx_us == 700_000));
    side.hear(&Packet { desired_min_tx_us: 10_000, ..last });
    assert_eq!((side.view().tx_interval, side.view().rx_interval), (Some(700 * MS), 20 * MS));
}

#[test]
fn what_helps_counts_at_once() {
    let mut side = Side::new(settings(ours(), 500, 100, 3));
    let discriminator = up(&mut side);
    side.hear(&Packet { last: true, ..packet(Up, discriminator) });
    side.sent.clear();
    side.set(Some(settings(ours(), 100, 400, 3)));
    assert_eq!((side.view().tx_interval, side.view().detection_time), (Some(100 * MS), 1200 * MS));
    assert!(side.sent.iter().all(|p| p.poll));
}

#[test]
fn on_the_link_only_255_will_do() {
    let local = SocketAddr::new(ours(), PORT);
    let remote = SocketAddr::new(theirs(), 50_000);
    for ttl in [0, 1, 64, 254] {
        let mut side = side();
        side.hear_from(remote, local, ttl, &packet(Down, 0).encode());
        assert_eq!(side.view().state, Down, "TTL {ttl}");
        assert_eq!(side.bfd.dropped(), Dropped { astray: 1, ..Dropped::default() });
    }
    let mut side = side();
    side.hear_from(remote, SocketAddr::new(ours(), MULTIHOP), 255, &packet(Down, 0).encode());
    assert_eq!(side.view().state, Down, "the port of several hops");
    // Not in the name of a discriminator either.
    up(&mut side);
    let known = packet(Down, side.discriminator()).encode();
    side.hear_from(remote, local, 254, &known);
    side.hear_from(remote, SocketAddr::new(ours(), MULTIHOP), 255, &known);
    assert_eq!(side.view().state, Up);
}

#[test]
fn over_several_hops_the_ttl_may_be_lower() {
    let multi = |hops| Settings { hops, port: MULTIHOP, ..settings(ours(), 100, 100, 3) };
    let local = SocketAddr::new(ours(), MULTIHOP);
    let remote = SocketAddr::new(theirs(), 50_000);
    for (hops, ttl, state) in [(3, 253, Init), (3, 252, Down), (255, 1, Init), (255, 0, Down)] {
        let mut side = Side::new(multi(hops));
        assert_eq!(side.rest[0], Output::Listen { port: MULTIHOP });
        side.hear_from(remote, local, ttl, &packet(Down, 0).encode());
        assert_eq!(side.view().state, state, "{hops} hops, TTL {ttl}");
        assert!(side.view().multihop);
        side.hear_from(remote, SocketAddr::new(ours(), PORT), 255, &packet(Down, 0).encode());
        assert_eq!(side.view().state, state, "the port of one hop");
    }
}

#[test]
fn a_packet_finds_its_session() {
    let mut side = side();
    let local = SocketAddr::new(ours(), PORT);
    let stranger = SocketAddr::new(ip("10.0.0.9"), 50_000);
    let unknown = |side: &Side| side.bfd.dropped().unknown;
    // By addresses, as long as it names nobody.
    side.hear_from(stranger, local, 255, &packet(Down, 0).encode());
    assert_eq!(unknown(&side), 1);
    // Who is further than Down knows our name.
    for state in [Init, Up] {
        side.hear(&packet(state, 0));
    }
    assert_eq!((unknown(&side), side.view().state), (3, Down));
    side.hear_from(SocketAddr::new(theirs(), 1), SocketAddr::new(ip("10.9.9.9"), PORT), 255, &packet(Down, 0).encode());
    assert_eq!((side.bfd.dropped().astray, side.view().state), (1, Down), "another address of ours");
    // IPv4 in IPv6's clothes.
    let mapped = SocketAddr::new(ip("::ffff:10.0.0.2"), 1);
    side.hear_from(mapped, SocketAddr::new(ip("::ffff:10.0.0.1"), PORT), 255, &packet(Down, 0).encode());
    assert_eq!(side.view().state, Init);
    // By discriminator alone, once it names one (section 6.3).
    let discriminator = side.discriminator();
    side.hear(&packet(Up, discriminator ^ 1));
    assert_eq!((unknown(&side), side.view().state), (4, Init));
    side.hear_from(stranger, local, 255, &packet(Up, discriminator).encode());
    assert_eq!(side.view().state, Up);
    side.hear_bytes(b"hello");
    assert_eq!(side.bfd.dropped().malformed, 1);
}

#[test]
fn what_the_driver_is_asked_for() {
    let mut side = side();
    let [Output::Listen { port: PORT }, Output::Open { peer, local, source_port, remote }] = side.rest[..] else {
        panic!("{:?}", side.rest)
    };
    assert_eq!((peer, local, remote), (theirs(), Some(ours()), SocketAddr::new(theirs(), PORT)));
    assert!((49_152..=65_535).contains(&source_port));
    assert_eq!(side.sent.len(), 1, "the first packet leaves at once");
    side.rest.clear();
    side.sent.clear();
    // The port is taken: another one, in a moment; until then nothing is sent.
    side.input(Input::NotOpen { peer });
    side.wait(999 * MS);
    assert_eq!((side.sent.len(), side.rest.len()), (0, 0));
    side.wait(2 * MS);
    let [Output::Open { source_port: other, .. }] = side.rest[..] else { panic!("{:?}", side.rest) };
    assert_ne!(other, source_port);
    assert!(!side.sent.is_empty());
    side.input(Input::NotListening { port: PORT });
    side.rest.clear();
    side.wait(SECOND);
    assert_eq!(side.rest, [Output::Listen { port: PORT }]);
    side.rest.clear();
    side.set(None);
    assert_eq!(side.rest, [Output::Close { peer }, Output::Unlisten { port: PORT }], "nobody heard of it");
    assert_eq!(side.bfd.deadline(), None);
    side.input(Input::NotOpen { peer });
    side.input(Input::NotListening { port: PORT });
    assert_eq!(side.bfd.deadline(), None);
}

#[test]
fn a_session_says_goodbye_for_a_detection_time() {
    let mut side = side();
    up(&mut side);
    side.set(None);
    side.wait(299 * MS);
    assert_eq!(side.rest, []);
    side.wait(MS);
    assert_eq!(side.rest, [Output::Close { peer: theirs() }, Output::Unlisten { port: PORT }]);
    assert_eq!(side.events, [], "it was our wish");
    assert_eq!(side.bfd.deadline(), None);
}

#[test]
fn a_goodbye_can_be_taken_back() {
    let mut side = side();
    let discriminator = up(&mut side);
    side.set(None);
    side.set(Some(settings(ours(), 100, 100, 3)));
    side.wait(10 * SECOND);
    assert_eq!((side.discriminator(), side.view().state), (discriminator, Down));
    assert_eq!(side.rest, []);
    side.bring(Up);
    assert_eq!(side.view().state, Up);
}

#[test]
fn other_addresses_are_another_session() {
    let mut side = side();
    let discriminator = up(&mut side);
    side.set(Some(settings(ip("10.0.0.7"), 100, 100, 3)));
    assert_ne!(side.discriminator(), discriminator);
    assert_eq!(side.view().state, Down);
    assert_eq!(side.sent[0].state, AdminDown, "the old one says goodbye");
    assert_eq!(side.events, []);
    side.hear(&packet(Up, discriminator));
    assert_eq!(side.bfd.dropped().unknown, 1);
}

#[test]
fn sessions_are_bounded_and_do_not_share_names() {
    let mut bfd = Bfd::new(5);
    let peer = |n: u32| std::net::IpAddr::V4(std::net::Ipv4Addr::from(0x0a00_0000 + n));
    let wanted = Some(settings(ours(), 100, 100, 3));
    for n in 0..SESSIONS_MAX as u32 {
        bfd.set(Duration::ZERO, peer(n), wanted).unwrap();
    }
    let mut ports = BTreeSet::new();
    while let Some(output) = bfd.poll() {
        if let Output::Open { source_port, .. } = output {
            assert!(ports.insert(source_port));
        }
    }
    assert_eq!(ports.len(), SESSIONS_MAX);
    let names: BTreeSet<u32> = bfd.sessions().map(|s| s.discriminator).collect();
    assert_eq!(names.len(), SESSIONS_MAX);
    assert!(bfd.set(Duration::ZERO, peer(9_999_999), wanted).is_err());
    bfd.set(Duration::ZERO, peer(3), None).unwrap();
    bfd.set(Duration::ZERO, peer(9_999_999), wanted).unwrap();
    assert!(bfd.set(Duration::ZERO, peer(4), wanted).is_ok(), "one that is there may change");
}

#[test]
fn a_neighbour_that_came_back_is_met_again() {
    let mut side = side();
    up(&mut side);
    // Another run of it, with another discriminator, which thinks that nothing is there yet.
    let fresh = |state, yours| Packet { my_discriminator: 99, ..packet(state, yours) };
    side.hear(&fresh(Down, 0));
    assert_eq!(side.events, [failed(theirs(), Diagnostic::NEIGHBOR_DOWN)]);
    side.hear(&fresh(Down, 0));
    side.hear(&fresh(Up, side.discriminator()));
    assert_eq!((side.view().state, side.view().remote_discriminator), (Up, 99));
}

#[test]
fn a_payload_may_be_longer_than_a_packet() {
    let mut side = side();
    let mut bytes = packet(Down, 0).encode().to_vec();
    bytes.extend([0; 1000]);
    side.hear_bytes(&bytes);
    assert_eq!(side.view().state, Init);
    assert!(format!("{:?}", Payload::new(b"?")).contains("shorter"));
}
