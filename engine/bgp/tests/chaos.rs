//! Any inputs in any order: no panic, and what comes out keeps the driver's contract.
#![allow(clippy::unwrap_used, reason = "a test may fail")]

mod common;
#[path = "common/script.rs"]
mod script;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use common::{del, dynamic, global, ip, member, network, peer, policy, statement};
use fairway_bgp::wire::{Message, RouteRefresh, Update};
use fairway_bgp::{ConnId, Input, Output, Speaker};
use fairway_desired::bgp::Direction;
use fairway_desired::{Bgp, Op};
use ipnet::IpNet;
use proptest::prelude::*;
use script::{FOUR, announce, attributes, notification, open, ours};

#[derive(Clone, Debug)]
enum Step {
    /// Of all dials and accepted connections so far, this one.
    Connected(usize),
    Failed(usize),
    Closed(usize),
    Say(usize, usize),
    Noise(usize, Vec<u8>),
    Accept(u8),
    /// Accepted, OPEN and KEEPALIVE: without help sessions hardly ever come up.
    Up(u8, bool),
    Tick(u64),
    Reset(u8),
    Shutdown,
    Config(usize, bool),
}

fn step() -> impl Strategy<Value = Step> {
    let conn = 0usize..6;
    prop_oneof![
        6 => conn.clone().prop_map(Step::Connected),
        1 => conn.clone().prop_map(Step::Failed),
        1 => conn.clone().prop_map(Step::Closed),
        24 => (conn.clone(), 0usize..12).prop_map(|(c, m)| Step::Say(c, m)),
        12 => (0usize..3, 3usize..10).prop_map(|(c, m)| Step::Say(c, m)),
        1 => (conn, prop::collection::vec(any::<u8>(), 0..40)).prop_map(|(c, b)| Step::Noise(c, b)),
        6 => (1u8..6).prop_map(Step::Accept),
        6 => (1u8..6, any::<bool>()).prop_map(|(n, internal)| Step::Up(n, internal)),
        3 => (0u64..8_000).prop_map(Step::Tick),
        1 => (1u8..6).prop_map(Step::Reset),
        1 => prop::bool::weighted(0.1).prop_map(|b| if b { Step::Shutdown } else { Step::Tick(1) }),
        6 => (0usize..9, prop::bool::weighted(0.7)).prop_map(|(c, on)| Step::Config(c, on)),
    ]
}

fn config(which: usize) -> Op<Bgp> {
    match which {
        0 => global(65100, 100, 4),
        1 => global(65101, 101, 1),
        2 => peer("10.0.0.1", 65001),
        3 => peer("10.0.0.1", 65100),
        4 => dynamic("10.0.0.0/24", &[65001, 65100]),
        5 => network("10.9.0.0/24", "10.0.0.100"),
        6 => member("set", "10.9.0.0/16"),
        7 => policy(Direction::Import, vec![statement(Some("set"), None, false)], true),
        _ => policy(Direction::Export, vec![statement(Some("set"), None, true)], false),
    }
}

fn message(which: usize) -> Message {
    match which {
        0 | 1 => Message::Open(open(65001, 1)),
        2 => Message::Open(open(65100, 200)),
        3..=5 => Message::Keepalive,
        6 => announce(attributes(&[65001]), "10.0.0.7", &["10.9.0.0/24", "10.8.0.0/24"]),
        7 => announce(attributes(&[65001, 65001]), "10.0.0.8", &["10.9.0.0/24"]),
        8 => Message::Update(Update {
            withdrawn: vec!["10.9.0.0/24".parse::<IpNet>().unwrap().into()],
            ..Update::default()
        }),
        9 => Message::RouteRefresh(RouteRefresh { afi: 1, subtype: 0, safi: 1 }),
        10 => Message::Open(open(65003, 3)),
        _ => notification(6, 2),
    }
}

/// The driver's view of one speaker.
struct Driver {
    speaker: Speaker,
    now: Duration,
    /// All connections ever, and whether the speaker still has each.
    conns: Vec<ConnId>,
    open: BTreeMap<ConnId, bool>,
    learned: BTreeMap<IpNet, Vec<IpAddr>>,
    accepted: u64,
    shut_down: bool,
    trace: Vec<Output>,
}

impl Driver {
    fn drain(&mut self) {
        while let Some(output) = self.speaker.poll() {
            self.trace.push(output.clone());
            match output {
                Output::Connect { conn, .. } => {
                    assert!(!self.shut_down, "no dial after shutdown");
                    assert_eq!(self.open.insert(conn, true), None, "a name is used once");
                    self.conns.push(conn);
                }
                Output::Send { conn, bytes } => {
                    assert_eq!(self.open.get(&conn), Some(&true), "nothing is sent on {conn:?}");
                    let mut rest = &bytes[..];
                    assert!(!rest.is_empty());
                    while !rest.is_empty() {
                        let (_, len) = Message::decode(rest, FOUR).unwrap().unwrap();
                        rest = &rest[len..];
                    }
                }
                Output::Close { conn } => {
                    self.open.insert(conn, false);
                }
                Output::Learned(l) => {
                    let old = self.learned.insert(l.prefix, l.next_hops.clone()).unwrap_or_default();
                    assert_ne!(old, l.next_hops, "no news about {}", l.prefix);
                }
                Output::Drain { .. }
                | Output::Limit { .. }
                | Output::Password { .. }
                | Output::Listen { .. }
                | Output::Watch { .. }
                | Output::Event(_) => {}
            }
        }
        assert!(self.speaker.deadline().is_none_or(|at| at > self.now), "a deadline that is past stays");
        let used: BTreeMap<IpNet, Vec<IpAddr>> =
            self.learned.iter().filter(|(_, hops)| !hops.is_empty()).map(|(p, h)| (*p, h.clone())).collect();
        let mut rib: BTreeMap<IpNet, Vec<IpAddr>> = BTreeMap::new();
        for path in self.speaker.rib(fairway_desired::Family::V4) {
            if path.multipath && path.from.is_some() {
                rib.entry(path.prefix).or_default().push(path.next_hop);
            }
        }
        rib.values_mut().for_each(|hops| {
            hops.sort();
            hops.dedup();
        });
        assert_eq!(used, rib, "what was told is what is used");
    }

    fn input(&mut self, input: Input) {
        self.speaker.handle(self.now, input);
        self.drain();
    }

    fn step(&mut self, step: &Step) {
        let conn = |d: &Self, i: usize| d.conns.iter().rev().nth(i).copied();
        let remote = |n: u8| SocketAddr::new(ip(&format!("10.0.0.{n}")), 179);
        let local = SocketAddr::new(ours(), 179);
        let context = FOUR;
        match step {
            Step::Connected(i) => {
                if let Some(conn) = conn(self, *i) {
                    self.input(Input::Connected { conn, local, remote: remote(1) });
                }
            }
            Step::Failed(i) | Step::Closed(i) => {
                if let Some(conn) = conn(self, *i) {
                    let failed = matches!(step, Step::Failed(_));
                    self.open.insert(conn, false);
                    self.input(if failed { Input::ConnectFailed { conn } } else { Input::Closed { conn } });
                }
            }
            Step::Say(i, m) => {
                if let Some(conn) = conn(self, *i) {
                    let bytes = message(*m).encode(context).unwrap();
                    self.input(Input::Received { conn, bytes });
                }
            }
            Step::Noise(i, bytes) => {
                if let Some(conn) = conn(self, *i) {
                    self.input(Input::Received { conn, bytes: bytes.clone() });
                }
            }
            Step::Accept(n) => {
                self.accepted += 1;
                let conn = ConnId::In(self.accepted);
                self.conns.push(conn);
                self.open.insert(conn, true);
                self.input(Input::Accepted { conn, local, remote: remote(*n) });
            }
            Step::Up(n, internal) => {
                self.step(&Step::Accept(*n));
                let asn = if *internal { 65100 } else { 65001 };
                let Some(conn) = conn(self, 0) else { return };
                for message in [Message::Open(open(asn, *n)), Message::Keepalive] {
                    self.input(Input::Received { conn, bytes: message.encode(context).unwrap() });
                }
            }
            Step::Tick(ms) => {
                self.now += Duration::from_millis(*ms);
                self.input(Input::Tick);
            }
            Step::Reset(n) => self.input(Input::ResetPeer { peer: remote(*n).ip(), message: String::new() }),
            Step::Shutdown => {
                self.shut_down = true;
                self.input(Input::Shutdown { message: String::new() });
                assert!(self.open.values().all(|open| !open), "all is closed");
            }
            Step::Config(which, on) => {
                let op = config(*which);
                self.speaker.apply(self.now, &[if *on { op } else { del(&op) }]);
                self.drain();
            }
        }
    }
}

fn run(steps: &[Step]) -> Driver {
    let mut driver = Driver {
        speaker: Speaker::new(3),
        now: Duration::from_secs(5),
        conns: vec![],
        open: BTreeMap::new(),
        learned: BTreeMap::new(),
        accepted: 0,
        shut_down: false,
        trace: vec![],
    };
    driver.speaker.apply(driver.now, &[config(0), config(2), config(4)]);
    driver.drain();
    for step in steps {
        driver.step(step);
    }
    driver
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn the_contract_holds_whatever_happens(steps in prop::collection::vec(step(), 0..120)) {
        let first = run(&steps);
        prop_assert_eq!(first.trace, run(&steps).trace, "the same inputs give the same outputs");
    }
}
