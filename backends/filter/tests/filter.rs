//! The backend on a real kernel, with `nft` as witness. Each test has a network namespace of its own; without root or
//! nftables the tests say `skipped` and pass.
#![allow(clippy::unwrap_used, reason = "a helper that fails fails its test")]

use std::net::UdpSocket;
use std::process::Command;

use fairway_backend_filter::{FilterBackend, OpenError};
use fairway_backend_route::setup::Setup;
use fairway_desired::filter::{
    Action, Base, CtState, Datum, Field, FieldType, Hook, IcmpKind, Key, Match, Rule, Set, Value, Verdict,
};
use fairway_desired::{Backend, Family, Filter, Op, Outcome, Protocol, Table};
use nix::sched::{CloneFlags, unshare};

fn alone(test: fn(FilterBackend)) {
    let thread = std::thread::spawn(move || {
        if let Err(error) = unshare(CloneFlags::CLONE_NEWNET) {
            println!("skipped: no network namespace: {error}");
            return;
        }
        Setup::new().unwrap().set_up("lo", true).unwrap();
        match FilterBackend::new() {
            Ok(backend) => test(backend),
            Err(error @ OpenError::Unsupported) => println!("skipped: {error}"),
            Err(error) => panic!("{error}"),
        }
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

/// What `nft` prints in the namespace of this thread, blanks made one.
fn nft(command: &str) -> String {
    let output = Command::new("nft").args(command.split(' ')).output().unwrap();
    assert!(output.status.success(), "nft {command}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).split_whitespace().collect::<Vec<_>>().join(" ")
}

fn done(backend: &mut FilterBackend, ops: &[Op<Filter>]) {
    let outcomes = backend.apply(ops).unwrap();
    for (op, outcome) in ops.iter().zip(&outcomes) {
        assert_eq!(*outcome, Outcome::Done, "{op:?}");
    }
}

fn table(ops: &[Op<Filter>]) -> Table<Filter> {
    let entry = |op: &Op<Filter>| match op {
        Op::Put(key, value) => Some((key.clone(), value.clone())),
        Op::Del(_) => None,
    };
    ops.iter().filter_map(entry).collect()
}

fn set(name: &str, fields: &[FieldType], interval: bool, verdicts: bool) -> Op<Filter> {
    Op::Put(Key::Set(name.into()), Value::Set(Set { fields: fields.to_vec(), interval, verdicts }))
}

fn element(name: &str, datums: Vec<Datum>, verdict: Option<Verdict>) -> Op<Filter> {
    Op::Put(Key::Element(name.into(), datums), Value::Element(verdict))
}

fn chain(name: &str, base: Option<(Hook, bool, i32)>) -> Op<Filter> {
    let base = base.map(|(hook, nat, priority)| Base { hook, nat, priority });
    Op::Put(Key::Chain(name.into()), Value::Chain(base))
}

fn rules(name: &str, rules: Vec<Rule>) -> Op<Filter> {
    Op::Put(Key::Rules(name.into()), Value::Rules(rules))
}

fn rule(matches: Vec<Match>, action: Action) -> Rule {
    Rule { matches, action }
}

fn in_set(fields: &[Field], set: &str, negate: bool) -> Match {
    Match::InSet { fields: fields.to_vec(), set: set.into(), negate }
}

fn net(text: &str) -> Datum {
    Datum::Net(text.parse().unwrap())
}

fn ip(text: &str) -> Datum {
    Datum::Addr(text.parse().unwrap())
}

const V4: FieldType = FieldType::Addr(Family::V4);
const V6: FieldType = FieldType::Addr(Family::V6);
const SERVICE: [Field; 3] = [Field::Daddr, Field::Protocol, Field::Dport];
const ACCEPT: Action = Action::Verdict(Verdict::Accept);

/// Something of every kind.
fn everything() -> Vec<Op<Filter>> {
    let service = |address, port| vec![ip(address), Datum::Protocol(Protocol::Tcp), Datum::Port(port)];
    vec![
        set("services4", &[V4, FieldType::Protocol, FieldType::Port], false, false),
        set("services6", &[V6, FieldType::Protocol, FieldType::Port], false, false),
        set("pods4", &[V4], true, false),
        set("pods6", &[V6], true, false),
        set("pairs4", &[V4, V4], false, false),
        set("ports", &[FieldType::Port], false, false),
        set("map4", &[V4, FieldType::Protocol, FieldType::Port], false, true),
        set("empty", &[FieldType::Protocol], false, false),
        chain("before", Some((Hook::Prerouting, false, -150))),
        chain("input", Some((Hook::Input, false, 0))),
        chain("forward", Some((Hook::Forward, false, 10))),
        chain("nat", Some((Hook::Postrouting, true, 100))),
        chain("dsr-7", None),
        chain("other", None),
        element("services4", service("10.96.0.1", 80), None),
        element("services4", service("10.96.0.2", 443), None),
        element("services6", service("fd00:96::1", 80), None),
        element("pods4", vec![net("11.0.1.0/24")], None),
        element("pods4", vec![net("11.0.2.0/24")], None),
        element("pods4", vec![net("255.255.255.0/24")], None),
        element("pods6", vec![net("::/0")], None),
        element("pairs4", vec![ip("11.0.1.2"), ip("11.0.1.2")], None),
        element("ports", vec![Datum::Port(5001)], None),
        element("map4", service("10.0.0.3", 5001), Some(Verdict::Jump("dsr-7".into()))),
        element("map4", service("10.0.0.4", 5001), Some(Verdict::Drop)),
        rules(
            "before",
            vec![
                rule(
                    vec![in_set(&SERVICE, "services4", false), in_set(&[Field::Saddr], "pods4", true)],
                    Action::SetMark { mask: 0x4000, value: 0x4000 },
                ),
                rule(vec![], Action::VerdictMap { fields: SERVICE.to_vec(), map: "map4".into() }),
                rule(vec![in_set(&SERVICE, "services6", true), in_set(&[Field::Sport], "ports", true)], ACCEPT),
            ],
        ),
        rules(
            "input",
            vec![
                rule(
                    vec![
                        Match::Icmp(vec![
                            IcmpKind::EchoRequest,
                            IcmpKind::EchoReply,
                            IcmpKind::Unreachable,
                            IcmpKind::TimeExceeded,
                            IcmpKind::Neighbour,
                        ]),
                        Match::Family(Family::V6),
                    ],
                    ACCEPT,
                ),
                rule(vec![Match::CtState(vec![CtState::Established, CtState::Related])], ACCEPT),
                rule(vec![Match::CtState(vec![CtState::New, CtState::Invalid])], Action::Verdict(Verdict::Return)),
                rule(
                    vec![Match::Family(Family::V4), in_set(&[Field::Daddr], "pods4", false)],
                    Action::Verdict(Verdict::Reject),
                ),
            ],
        ),
        rules(
            "forward",
            vec![
                rule(
                    vec![Match::InputLink("eth1".into()), Match::OutputLink("kube-bridge".into())],
                    Action::Verdict(Verdict::Goto("other".into())),
                ),
                rule(vec![Match::Protocol(Protocol::Udp)], Action::Verdict(Verdict::Drop)),
                rule(vec![], Action::Verdict(Verdict::Jump("other".into()))),
            ],
        ),
        rules(
            "nat",
            vec![
                rule(
                    vec![
                        Match::Mark { mask: 0x4000, value: 0x4000, negate: false },
                        Match::Family(Family::V4),
                        in_set(&[Field::Daddr], "pods4", true),
                    ],
                    Action::Masquerade,
                ),
                rule(vec![in_set(&[Field::Saddr, Field::Daddr], "pairs4", false)], Action::Masquerade),
            ],
        ),
        rules("dsr-7", vec![rule(vec![], Action::SetMark { mask: u32::MAX, value: 7 })]),
        rules(
            "other",
            vec![rule(vec![Match::Mark { mask: 0xff, value: 1, negate: true }], Action::Verdict(Verdict::Accept))],
        ),
    ]
}

#[test]
fn everything_reads_back_and_nft_shows_what_is_meant() {
    alone(|mut backend| {
        let ops = everything();
        assert!(backend.observe().unwrap().is_empty());
        done(&mut backend, &ops);
        assert_eq!(backend.observe().unwrap(), table(&ops));
        // One that knows nothing writes the same again and changes nothing.
        let mut other = FilterBackend::new().unwrap();
        done(&mut other, &ops);
        assert_eq!(other.observe().unwrap(), table(&ops));
        let listed = nft("-n list table inet fairway");
        for piece in [
            "set services4 { type ipv4_addr . inet_proto . inet_service",
            "10.96.0.1 . 6 . 80",
            "set pods4 { type ipv4_addr flags interval elements = { 11.0.1.0/24, 11.0.2.0/24, 255.255.255.0/24 }",
            "map map4 { type ipv4_addr . inet_proto . inet_service : verdict",
            "10.0.0.3 . 6 . 5001 : jump dsr-7",
            "chain before { type filter hook prerouting priority -150; policy accept;",
            "ip daddr . meta l4proto . th dport @services4 ip saddr != @pods4 meta mark set meta mark | 0x00004000",
            "ip daddr . meta l4proto . th dport vmap @map4",
            "chain forward { type filter hook forward priority 10; policy accept; iifname \"eth1\" oifname \"kube-bridge\" goto other",
            "chain nat { type nat hook postrouting priority 100; policy accept;",
            "ip daddr != @pods4 masquerade fully-random",
            "meta nfproto 2 ip daddr @pods4 reject",
            "chain dsr-7 { meta mark set meta mark & 0x00000007 | 0x00000007 }",
        ] {
            assert!(listed.contains(piece), "no `{piece}` in:\n{listed}");
        }
        let dels: Vec<Op<Filter>> = table(&ops).into_keys().rev().map(Op::Del).collect();
        done(&mut backend, &dels);
        assert!(backend.observe().unwrap().is_empty());
    });
}

#[test]
fn one_bad_op_and_nothing_happens() {
    alone(|mut backend| {
        let good = [set("ports", &[FieldType::Port], false, false), chain("input", Some((Hook::Input, false, 0)))];
        done(&mut backend, &good);
        let bad = [
            element("ports", vec![Datum::Port(80)], None),
            rules("input", vec![rule(vec![], Action::Verdict(Verdict::Jump("nowhere".into())))]),
        ];
        let outcomes = backend.apply(&bad).unwrap();
        assert!(outcomes.iter().all(|outcome| matches!(outcome, Outcome::Refused(_))), "{outcomes:?}");
        assert_eq!(backend.observe().unwrap(), table(&good));
    });
}

#[test]
fn values_change() {
    alone(|mut backend| {
        let ops = everything();
        done(&mut backend, &ops);
        let changes = [
            element(
                "map4",
                vec![ip("10.0.0.4"), Datum::Protocol(Protocol::Tcp), Datum::Port(5001)],
                Some(Verdict::Accept),
            ),
            chain("input", Some((Hook::Input, false, 5))),
            rules("other", vec![rule(vec![], ACCEPT)]),
            set("empty", &[FieldType::Port], false, false),
        ];
        done(&mut backend, &changes);
        let mut expected = table(&ops);
        expected.extend(table(&changes));
        assert_eq!(backend.observe().unwrap(), expected);
        // A set that holds something is not made anew.
        let refused = backend.apply(&[set("ports", &[FieldType::Protocol], false, false)]).unwrap();
        assert_eq!(refused, [Outcome::Refused(16)]);
    });
}

#[test]
fn what_others_do_is_seen_and_what_is_theirs_is_left() {
    alone(|mut backend| {
        nft("add table inet other");
        nft("add chain inet other input { type filter hook input priority 0 ; }");
        nft("add rule inet other input tcp dport 22 accept");
        let theirs = nft("list table inet other");
        let ops = everything();
        done(&mut backend, &ops);
        // Somebody writes into our table: by rules that we can express, and by one that we cannot.
        nft("add rule inet fairway other ip ttl 1 drop");
        nft("delete element inet fairway ports { 5001 }");
        let seen = backend.observe().unwrap();
        assert_ne!(seen.get(&Key::Rules("other".into())), table(&ops).get(&Key::Rules("other".into())));
        assert!(!seen.contains_key(&Key::Element("ports".into(), vec![Datum::Port(5001)])));
        done(&mut backend, &ops);
        assert_eq!(backend.observe().unwrap(), table(&ops));
        // Now unseen: a deletion of what is gone, and our whole table away.
        nft("delete element inet fairway ports { 5001 }");
        let gone = Op::Del(Key::Element("ports".into(), vec![Datum::Port(5001)]));
        assert_eq!(backend.apply(&[gone]).unwrap(), [Outcome::Gone]);
        nft("delete table inet fairway");
        let outcomes = backend.apply(&[element("ports", vec![Datum::Port(1)], None)]).unwrap();
        assert_eq!(outcomes, [Outcome::Refused(2)], "its set went with the table");
        assert_eq!(nft("list table inet other"), theirs);
    });
}

#[test]
fn connections_are_deleted_by_where_they_went() {
    alone(|mut backend| {
        // Somebody must ask for connection tracking.
        done(
            &mut backend,
            &[
                chain("input", Some((Hook::Input, false, 0))),
                rules("input", vec![rule(vec![Match::CtState(vec![CtState::New])], ACCEPT)]),
            ],
        );
        let server = UdpSocket::bind("127.0.0.1:5001").unwrap();
        let to = server.local_addr().unwrap();
        for _ in 0..3 {
            UdpSocket::bind("127.0.0.1:0").unwrap().send_to(b"Hello", to).unwrap();
        }
        UdpSocket::bind("127.0.0.1:0").unwrap().send_to(b"Hello", "127.0.0.1:5002").unwrap();
        assert_eq!(backend.delete_connections(Protocol::Tcp, to).unwrap(), 0);
        assert_eq!(backend.delete_connections(Protocol::Udp, to).unwrap(), 3);
        assert_eq!(backend.delete_connections(Protocol::Udp, to).unwrap(), 0);
    });
}
