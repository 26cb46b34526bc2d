//! Two machines and a bad network between them.
#![allow(clippy::unwrap_used, reason = "a test may fail")]
#![allow(clippy::needless_range_loop, reason = "a machine is known by its number")]

mod common;

use std::net::SocketAddr;
use std::time::Duration;

use common::{MS, Pair, Treatment, address, packet, settings};
use fairway_bfd::{Bfd, Event, Input, Output, PORT, Payload, Settings, State};
use proptest::prelude::*;

const SECOND: Duration = Duration::from_secs(1);

fn good(delay: Duration) -> impl FnMut(usize) -> Treatment {
    move |_| Treatment { lost: false, twice: false, delay }
}

/// What the network does, drawn from a seed.
fn bad(seed: u64, loss: [u32; 2], twice: u32, longest: Duration) -> impl FnMut(usize) -> Treatment {
    let mut rng = oorandom::Rand32::new(seed);
    move |from| Treatment {
        lost: rng.rand_range(0..100) < loss[from],
        twice: rng.rand_range(0..100) < twice,
        // Half of it, as a second copy takes twice as long.
        delay: longest * rng.rand_range(1..1000) / 2000,
    }
}

/// Times in ms, multiplier.
fn wish() -> impl Strategy<Value = (u32, u32, u8)> {
    (20u32..400, 20u32..400, 2u8..6)
}

fn wanted(machine: usize, (tx, rx, multiplier): (u32, u32, u8)) -> Settings {
    settings(address(machine), tx, rx, multiplier)
}

#[test]
fn they_meet_in_little_more_than_a_round_trip() {
    let mut pair = Pair::new(1, [Duration::ZERO, Duration::from_secs(77)]);
    let mut net = good(MS);
    for machine in 0..2 {
        pair.set(machine, wanted(machine, (100, 100, 3)), &mut net);
    }
    while pair.step(20 * MS, &mut net) {}
    assert!(pair.up(0) && pair.up(1));
    while pair.step(60 * SECOND, &mut net) {}
    assert_eq!(pair.events.len(), 2, "{:?}", pair.events);
    for machine in 0..2 {
        let view = pair.view(machine);
        assert_eq!((view.tx_interval, view.detection_time), (Some(100 * MS), 300 * MS));
        let last = pair.sent[machine].last().unwrap().1;
        assert!(!last.poll && !last.last, "what was to be agreed on is agreed on");
        // 60 s at 75 to 100 ms each.
        assert!((600..830).contains(&pair.sent[machine].len()), "{}", pair.sent[machine].len());
    }
}

#[test]
fn a_cut_is_noticed_within_the_detection_time_and_mended() {
    let mut pair = Pair::new(3, [Duration::ZERO; 2]);
    let mut net = good(MS);
    for machine in 0..2 {
        pair.set(machine, wanted(machine, (100, 100, 3)), &mut net);
    }
    while pair.step(5 * SECOND, &mut net) {}
    pair.events.clear();
    while pair.step(5 * SECOND + 302 * MS, &mut |_| Treatment { lost: true, twice: false, delay: MS }) {}
    let failed = |e: &(Duration, usize, Event)| matches!(e.2, Event::Down { failure: true, .. });
    assert_eq!(pair.events.iter().filter(|e| failed(e)).count(), 2, "{:?}", pair.events);
    while pair.step(8 * SECOND, &mut net) {}
    assert!(pair.up(0) && pair.up(1));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    /// Safety while the network is bad; liveness when it is good again.
    #[test]
    fn one_is_not_up_alone_for_long_and_both_come_up_in_the_end(
        seed in any::<u64>(),
        loss in prop::array::uniform2(0u32..95),
        twice in 0u32..50,
        longest_ms in 1u32..80,
        wishes in prop::array::uniform2(wish()),
        epochs in prop::array::uniform2(0u64..1_000_000),
    ) {
        let longest = longest_ms * MS;
        let mut pair = Pair::new(seed, epochs.map(Duration::from_millis));
        let mut net = bad(seed, loss, twice, longest);
        for machine in 0..2 {
            pair.set(machine, wanted(machine, wishes[machine]), &mut net);
        }
        // Since when exactly one is up, and the longest patience of either in that time.
        let mut alone: Option<(Duration, Duration)> = None;
        let trouble = 60 * SECOND;
        while pair.step(trouble, &mut net) {
            let patience = pair.view(0).detection_time + pair.view(1).detection_time;
            if pair.up(0) == pair.up(1) {
                alone = None;
                continue;
            }
            let (since, most) = alone.get_or_insert((pair.now, patience));
            *most = patience.max(*most);
            // The one that is not up says so, or is silent; what it said before may be under way.
            let limit = *most + 2 * longest;
            prop_assert!(pair.now - *since <= limit, "alone since {since:?}, now {:?}, limit {limit:?}", pair.now);
        }
        // What is under way arrives; detection times of the slow pace run out at most once; two rounds at that pace.
        let mut net = good(MS);
        let calm = trouble + longest + 6 * SECOND + 4 * SECOND;
        while pair.step(calm, &mut net) {}
        prop_assert!(pair.up(0) && pair.up(1), "{:?} {:?}", pair.view(0), pair.view(1));
        pair.events.clear();
        while pair.step(calm + 20 * SECOND, &mut net) {}
        prop_assert_eq!(&pair.events, &vec![]);
        for machine in 0..2 {
            let (ours, theirs) = (wishes[machine], wishes[1 - machine]);
            let view = pair.view(machine);
            prop_assert_eq!(view.tx_interval, Some(ours.0.max(theirs.1) * MS));
            prop_assert_eq!(view.detection_time, theirs.0.max(ours.1) * MS * u32::from(theirs.2));
        }
    }

    /// Changes of timers on either side, at any time, also in the middle of each other: nobody goes down, and in the
    /// end what is agreed on is what both want.
    #[test]
    fn timers_change_without_a_flap(
        seed in any::<u64>(),
        delay_ms in 1u32..5,
        first in prop::array::uniform2(wish()),
        changes in prop::collection::vec((0usize..2, wish(), 0u64..600), 1..20),
    ) {
        let mut pair = Pair::new(seed, [Duration::ZERO, Duration::from_secs(3)]);
        let mut net = good(delay_ms * MS);
        let mut wishes = first;
        for machine in 0..2 {
            pair.set(machine, wanted(machine, wishes[machine]), &mut net);
        }
        while pair.step(5 * SECOND, &mut net) {}
        prop_assert!(pair.up(0) && pair.up(1));
        pair.events.clear();
        for (machine, wish, pause) in changes {
            wishes[machine] = wish;
            pair.set(machine, wanted(machine, wish), &mut net);
            let end = pair.now + Duration::from_millis(pause);
            while pair.step(end, &mut net) {}
        }
        let end = pair.now + 5 * SECOND;
        while pair.step(end, &mut net) {}
        prop_assert_eq!(&pair.events, &vec![], "nobody went down");
        for machine in 0..2 {
            let (ours, theirs) = (wishes[machine], wishes[1 - machine]);
            let view = pair.view(machine);
            prop_assert_eq!(view.tx_interval, Some(ours.0.max(theirs.1) * MS));
            prop_assert_eq!(view.detection_time, theirs.0.max(ours.1) * MS * u32::from(theirs.2));
            prop_assert!(!pair.sent[machine].last().unwrap().1.poll);
        }
    }

    /// Anything may be handed in: no panic, no deadline that stays in the past, a bounded answer, the same each time.
    #[test]
    fn any_input_is_survived(seed in any::<u64>(), steps in prop::collection::vec(step(), 0..80)) {
        let run = || -> Vec<Output> {
            let mut bfd = Bfd::new(seed);
            let mut now = SECOND;
            let mut said = vec![];
            for step in &steps {
                match step {
                    Step::Wait(ms) => now += Duration::from_millis(*ms),
                    Step::Set(peer, settings) => bfd.set(now, peer_of(*peer), *settings).unwrap(),
                    Step::Hear { from, port, ttl, name, bytes } => {
                        let mut bytes = bytes.clone();
                        let view = bfd.session(peer_of(*from));
                        if let (true, Some(view), Some(place)) = (*name, view, bytes.get_mut(8..12)) {
                            place.copy_from_slice(&view.discriminator.to_be_bytes());
                        }
                        let local = SocketAddr::new(address(0), *port);
                        let remote = SocketAddr::new(peer_of(*from), 49_152);
                        bfd.handle(now, Input::Received { local, remote, ttl: *ttl, payload: Payload::new(&bytes) });
                    }
                    Step::NotOpen(peer) => bfd.handle(now, Input::NotOpen { peer: peer_of(*peer) }),
                    Step::NotListening(port) => bfd.handle(now, Input::NotListening { port: *port }),
                }
                let before = said.len();
                said.extend(std::iter::from_fn(|| bfd.poll()));
                assert!(said.len() - before <= 6, "{:?}", &said[before..]);
                bfd.handle(now, Input::Tick);
                said.extend(std::iter::from_fn(|| bfd.poll()));
                assert!(bfd.deadline().is_none_or(|at| at > now));
            }
            said
        };
        let first = run();
        prop_assert_eq!(&first, &run());
        let mut open = std::collections::BTreeSet::new();
        for output in first {
            match output {
                Output::Open { peer, .. } => drop(open.insert(peer)),
                Output::Close { peer } => prop_assert!(open.remove(&peer)),
                Output::Send { peer, .. } => prop_assert!(open.contains(&peer), "no socket for {}", peer),
                _ => {}
            }
        }
    }
}

fn peer_of(n: u8) -> std::net::IpAddr {
    std::net::Ipv4Addr::new(10, 0, 0, 2 + n).into()
}

#[derive(Clone, Debug)]
enum Step {
    Wait(u64),
    Set(u8, Option<Settings>),
    Hear { from: u8, port: u16, ttl: u8, name: bool, bytes: Vec<u8> },
    NotOpen(u8),
    NotListening(u16),
}

fn step() -> impl Strategy<Value = Step> {
    let states = prop_oneof![Just(State::AdminDown), Just(State::Down), Just(State::Init), Just(State::Up)];
    let said = (states, any::<[bool; 3]>(), any::<[u32; 2]>(), 1u8..).prop_map(|(state, bits, times, multiplier)| {
        let mut packet = packet(state, 0);
        [packet.poll, packet.last, packet.demand] = bits;
        // Mostly times in which something happens.
        [packet.desired_min_tx_us, packet.required_min_rx_us] =
            times.map(|t| if t % 4 == 0 { t } else { t % 2_000_000 });
        packet.multiplier = multiplier;
        packet.encode().to_vec()
    });
    let bytes = prop_oneof![4 => said, 1 => prop::collection::vec(any::<u8>(), 0..60)];
    let times = prop_oneof![0u32..2_000_000, any::<u32>()];
    let settings =
        (times.clone(), times, any::<u8>(), 0u8..4, any::<bool>()).prop_map(|(tx, rx, multiplier, hops, other)| {
            Settings {
                local: Some(if other { std::net::Ipv4Addr::new(10, 0, 0, 99).into() } else { address(0) }),
                port: PORT,
                hops,
                desired_min_tx_us: tx,
                required_min_rx_us: rx,
                multiplier,
            }
        });
    prop_oneof![
        3 => (0u64..3_000).prop_map(Step::Wait),
        2 => (0u8..3, prop::option::weighted(0.8, settings)).prop_map(|(n, s)| Step::Set(n, s)),
        8 => (0u8..3, prop_oneof![4 => Just(PORT), 1 => Just(4784u16)], prop_oneof![4 => Just(255u8), 1 => any::<u8>()], any::<bool>(), bytes)
            .prop_map(|(from, port, ttl, name, bytes)| Step::Hear { from, port, ttl, name, bytes }),
        1 => (0u8..3).prop_map(Step::NotOpen),
        1 => prop_oneof![Just(PORT), Just(4784)].prop_map(Step::NotListening),
    ]
}
