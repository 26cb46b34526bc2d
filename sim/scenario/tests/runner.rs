//! The runner against a stage with a script.

#![allow(clippy::unwrap_used, reason = "test code")]

mod common;
#[path = "common/fake.rs"]
mod fake;

use std::collections::BTreeMap;
use std::time::Duration;

use common::good;
use fairway_scenario::{NoticeLine, Outcome, RunOptions, Stage as _, TextSink, Verdict, run, summary_line};
use fake::Fake;

/// A scenario with these steps.
fn scenario(steps: &str) -> fairway_scenario::Scenario {
    let head = &common::EVERYTHING[..common::EVERYTHING.find("steps:\n").unwrap()];
    good(&format!("{head}steps:\n{steps}"))
}

/// Runs steps; the outcome and what was printed.
fn play(fake: &mut Fake, steps: &str) -> (Outcome, String) {
    let mut sink = TextSink::new(Vec::new());
    let outcome = run(&scenario(steps), fake, &RunOptions { seed: 42 }, &mut sink);
    (outcome, String::from_utf8(sink.finish().unwrap()).unwrap())
}

/// Expected and seen of the step that failed.
fn failure(fake: &mut Fake, steps: &str) -> (String, String) {
    let (outcome, text) = play(fake, steps);
    assert_eq!(outcome.result, Verdict::Fail, "{text}");
    let step = outcome.failed_step().unwrap();
    (step.expected.clone().unwrap(), step.seen.clone().unwrap())
}

fn ready() -> Fake {
    Fake { now: Duration::from_secs(10), ..Fake::new() }
}

#[test]
fn until_waits_for_all_conditions() {
    let mut fake = Fake::new();
    let (outcome, text) = play(
        &mut fake,
        "  - until: {within: 30s, bgp: {vm-201: {established: 4}}, rib: {on: vm-201, prefix: 10.0.0.2/32, paths: 2}, \
         route: {on: vm-201, to: 10.0.0.2/32, nexthops: 2}, endpoints: {service: mconnect, ready: 1, total: 2}, \
         virtualServer: {on: vm-001, address: 10.0.0.2:5001, realServers: 2, active: 1, scheduler: rr, persistent: false}, \
         notices: [], insync: vm-001}\n",
    );
    assert_eq!(outcome.result, Verdict::Pass, "{text}");
    // The first event at or after 3 s.
    assert_eq!(outcome.virtual_ms, 3500);
    assert_eq!(fake.advances, 5);
    assert!(text.contains("holds after 3.5s"), "{text}");
}

#[test]
fn until_fails_at_its_limit_and_says_what_else_is_missing() {
    let steps = "  - until: {within: 2s, bgp: {vm-201: {established: 4}}, insync: vm-001}\n  - pass: 1s\n";
    let (outcome, text) = play(&mut Fake::new(), steps);
    assert_eq!(outcome.result, Verdict::Fail);
    assert_eq!(outcome.virtual_ms, 2000);
    let step = &outcome.steps[0];
    assert_eq!(step.expected.as_deref(), Some("4 established BGP sessions on vm-201 within 2.0s"));
    let states = "1 (192.168.1.4 Active, 192.168.1.3 Active, 192.168.1.2 Active, 192.168.1.1 Establ)";
    let sync = "also expected the agent on vm-001 in sync: it still has work to do";
    assert_eq!(step.seen.as_deref(), Some(format!("{states}\n{sync}").as_str()));
    assert_eq!(step.place, "test.yaml:48:31", "the condition, not the step");
    assert_eq!(outcome.steps[1].result, Verdict::Skip);
    assert!(text.contains("failed at test.yaml:48:31"), "{text}");
    assert!(summary_line(&outcome).ends_with("again: fairway run test.yaml --stage fake --seed 42"), "{outcome:?}");
}

#[test]
fn waiting_asks_for_what_is_missing() {
    let mut fake = Fake::new();
    let (outcome, _) = play(&mut fake, "  - until: {within: 30s, bgp: {vm-201: {established: 1..}}, insync: vm-001}\n");
    assert_eq!(outcome.result, Verdict::Pass);
    // BGP holds from the start: asked at the beginning, and once more when the rest holds too.
    assert_eq!((fake.advances, fake.asked), (5, 2));
}

#[test]
fn each_condition_can_fail() {
    let cases = [
        ("bgp: {vm-201: {established: 3}}", "3 established BGP sessions on vm-201", "4 ("),
        ("bgp: {vm-201: {neighbors: 5..}}", "at least 5 BGP neighbours on vm-201", "4 ("),
        ("bgp: {vm-201: {accepted: ..7}}", "at most 7 accepted BGP paths on vm-201", "8 ("),
        (
            "bgp: {vm-201: {bfd: 3}}",
            "3 BFD sessions up on vm-201",
            "2 (192.168.1.1 Up, 192.168.1.2 Up, 192.168.1.3 Down)",
        ),
        ("rib: {on: vm-201, prefix: 10.0.0.2/32, paths: 1}", "1 BGP path to 10.0.0.2/32 on vm-201", "2 (192.168.1.2, "),
        (
            "rib: {on: vm-201, prefix: 10.0.0.3/32, paths: 1..}",
            "at least 1 BGP paths to 10.0.0.3/32",
            "none; vm-201 has 2",
        ),
        (
            "rib: {on: vm-201, prefix: 10.0.0.2/32, paths: 2, via: 192.168.1.2}",
            "2 BGP paths to 10.0.0.2/32 on vm-201 by way of 192.168.1.2",
            "1 (192.168.1.2)",
        ),
        (
            "rib: {on: vm-201, prefix: 10.0.0.2/32, paths: 2, asPath: [65002, 65001]}",
            "with AS path 65002 65001",
            "none, but 192.168.1.2 [65001], 192.168.1.1 [65001]",
        ),
        (
            "neighbor: {on: vm-201, peer: vm-001, up: false}",
            "the BGP session of vm-201 with 192.168.1.1 not up",
            "Establ, 2 paths received, 2 accepted",
        ),
        ("neighbor: {on: vm-201, peer: 192.168.1.9, up: true}", "with 192.168.1.9 up", "no such neighbour"),
        ("neighbor: {on: vm-201, peer: vm-001, received: 3}", "with 3 received paths", "2 paths received"),
        ("neighbor: {on: vm-201, peer: vm-001, accepted: ..1}", "with at most 1 accepted", "2 accepted"),
        (
            "neighbor: {on: vm-201, peer: vm-002, because: Hold}",
            "ended because of \"Hold\"",
            "last end: peer sent Cease",
        ),
        (
            "route: {on: vm-201, to: 10.0.0.2/32, nexthops: 0}",
            "no route to 10.0.0.2/32 on vm-201",
            "10.0.0.2 proto bgp",
        ),
        (
            "route: {on: vm-201, to: 10.0.0.3/32, nexthops: 4}",
            "a route to 10.0.0.3/32 with 4 next hops",
            "no such route",
        ),
        (
            "endpoints: {service: mconnect, ready: 2}",
            "2 ready endpoints of service default/mconnect",
            "1 ready of 2 (11.",
        ),
        ("endpoints: {service: mconnect, total: 1}", "1 endpoint of service default/mconnect", "1 ready of 2 (11."),
        (
            "virtualServer: {on: vm-001, address: 10.0.0.3:5001}",
            "virtual server tcp 10.0.0.3:5001",
            "TCP 10.0.0.2:5001",
        ),
        (
            "virtualServer: {on: vm-001, address: 10.0.0.2:5001, protocol: udp}",
            "virtual server udp 10.0.0.2",
            "TCP 10.0",
        ),
        ("virtualServer: {on: vm-001, address: 10.0.0.2:5001, present: false}", "no virtual server tcp", "rr, 2 real"),
        ("virtualServer: {on: vm-001, address: 10.0.0.2:5001, realServers: 4}", "with 4 real servers", "rr, 2 real"),
        (
            "virtualServer: {on: vm-001, address: 10.0.0.2:5001, active: 2}",
            "of weight above 0",
            "11.0.1.2:5001 weight 0",
        ),
        ("virtualServer: {on: vm-001, address: 10.0.0.2:5001, scheduler: mh}", "with scheduler mh", "rr, 2 real"),
        ("virtualServer: {on: vm-001, address: 10.0.0.2:5001, persistent: true}", "with persistence", "rr, 2 real"),
        ("notices: []", "no notices", "vm-001: Service default/bad spec.x: nonsense"),
        ("notices: [{subject: Service default/good}]", "a notice about Service default/good", "vm-001: Service"),
        ("notices: {contains: nonsense, present: false}", "no notice that says \"nonsense\"", "vm-001: Service"),
        ("notices: {on: vm-002, field: spec.x}", "a notice on vm-002 in spec.x", "vm-001: Service"),
    ];
    for (condition, expected, seen) in cases {
        let mut fake = ready();
        let line = |text: &str| text.to_owned();
        let (subject, field) = (line("Service default/bad"), line("spec.x"));
        fake.standing.push(NoticeLine { host: line("vm-001"), subject, field, reason: line("nonsense") });
        let (e, s) = failure(&mut fake, &format!("  - expect: {{{condition}}}\n"));
        assert!(e.contains(expected) && s.contains(seen), "{condition}\n  expected: {e}\n  seen: {s}");
    }
    // The same notice, looked for rightly.
    let mut fake = ready();
    fake.standing.push(NoticeLine {
        host: "vm-001".into(),
        subject: "S".into(),
        field: "f".into(),
        reason: "so it is".into(),
    });
    let (outcome, text) = play(
        &mut fake,
        "  - expect: {notices: [{on: vm-001, subject: S, field: f, contains: it}, {subject: T, present: false}]}\n",
    );
    assert_eq!(outcome.result, Verdict::Pass, "{text}");
}

#[test]
fn a_load_is_judged_by_everything_it_shows() {
    let cases = [
        ("failedConnects: 0", "0 failed connects", "3 failed connects"),
        ("failed: {max: 2}", "at most 2 failed connections", "at 10.2s: no answer to SYN"),
        ("failedAtLeast: 5", "at least 5 failed connections", "3 failed connections"),
        ("connects: 400", "400 connects", "293 connects"),
        ("hosts: 5", "5 answering hosts", "4 answering hosts"),
        ("spread: {evenWithin: 20}", "evenly within 20 %", "86.2 % away from the mean 72.5: mconnect-deployment-1 100"),
        ("exactly: {mconnect-deployment-4: 11}", "11 answers from mconnect-deployment-4", "10 (all:"),
        ("exactly: {mconnect: ..200}", "at most 200 answers from mconnect", "290 (all:"),
        ("byNode: {vm-003: 100}", "100 answers from pods on vm-003", "80 (all: vm-001 100"),
        ("onlyOn: [vm-001]", "answers from pods on vm-001 only", "vm-001 100, vm-002 100"),
        ("notOn: [vm-003]", "no answers from pods on vm-003", "vm-001 100, vm-002 100"),
        ("sourceSeen: node", "servers see connections from a node only", "192.168.1.201 (400)"),
        ("sourceSeen: [pod, 10.0.0.0/8]", "from a pod or 10.0.0.0/8 only", "192.168.1.201 (400)"),
    ];
    for (expect, expected, seen) in cases {
        let mut fake = ready();
        fake.failed_connects = 3;
        fake.answers.insert("mconnect-deployment-3".to_owned(), 80);
        fake.answers.insert("mconnect-deployment-4".to_owned(), 10);
        let step =
            format!("  - mconnect: {{from: vm-201, address: 10.0.0.2:5001, nconn: 400}}\n    expect: {{{expect}}}\n");
        let (e, s) = failure(&mut fake, &step);
        assert!(e.contains(expected) && s.contains(seen), "{expect}\n  expected: {e}\n  seen: {s}");
    }
}

#[test]
fn a_good_load_passes() {
    let (outcome, text) = play(
        &mut ready(),
        "  - mconnect: {from: vm-201, address: 10.0.0.2:5001, nconn: 400}\n    expect: {failedConnects: 0, failedReads: 0, \
         connects: 400, hosts: 4, spread: {evenWithin: 0}, exactly: {mconnect-deployment-1: 100, mconnect: 400}, \
         byNode: {vm-001: 100}, sourceSeen: client}\n    show: {neighbors: vm-201}\n",
    );
    assert_eq!(outcome.result, Verdict::Pass, "{text}");
    assert!(text.contains("vm-201$ mconnect -address 10.0.0.2:5001 -nconn 400\nFailed connects; 0\n"), "{text}");
    assert!(text.contains("vm-201$ gobgp neighbor\n"), "{text}");
}

#[test]
fn nothing_answered_is_not_an_even_spread() {
    let mut fake = ready();
    (fake.answers, fake.sources) = (BTreeMap::new(), BTreeMap::new());
    let step = "  - mconnect: {from: vm-201, address: 10.0.0.2:5001}\n    expect: {spread: {evenWithin: 20}, sourceSeen: client}\n";
    let (expected, seen) = failure(&mut fake, step);
    assert_eq!(expected.lines().count(), 2, "{expected}");
    assert_eq!(seen, "no answers\nno connection reached a server");
}

#[test]
fn a_measurement_covers_its_own_time_only() {
    let steps = |n: u32| {
        format!(
            "  - load: {{as: a, from: vm-221, address: 10.0.0.2:5001, rate: 1}}\n  - pass: 7s\n  - measure: {{load: a, for: 5s}}\n    \
             expect: {{exactly: {{mconnect: {n}}}}}\n  - stop: a\n    expect: {{connects: 400}}\n"
        )
    };
    let (outcome, text) = play(&mut ready(), &steps(5));
    assert_eq!(outcome.result, Verdict::Pass, "{text}");
    assert_eq!(outcome.steps.last().unwrap().at_ms, 22_000);
    let (expected, seen) = failure(&mut ready(), &steps(12));
    assert_eq!((expected.as_str(), seen.as_str()), ("12 answers from mconnect", "5 (all: mconnect-deployment-1 5)"));
}

#[test]
fn a_packet_is_judged() {
    let step = |expect: &str| format!("  - trace: {{from: vm-221, to: 10.0.0.2:5001}}\n    expect: {{{expect}}}\n");
    let good = "delivered: false, through: [vm-221, vm-001], contains: [dropped, rule 3]";
    assert_eq!(play(&mut ready(), &step(good)).0.result, Verdict::Pass);
    let cases = [
        (
            "delivered: true",
            "a tcp packet from vm-221 to 10.0.0.2:5001 is delivered",
            "it is not delivered\nvm-001: dropped",
        ),
        ("through: [vm-001, vm-201]", "goes through vm-001, vm-201", "it goes through vm-221, vm-201, vm-001"),
        ("contains: accepted", "the walk says \"accepted\"", "it does not"),
    ];
    for (expect, expected, seen) in cases {
        let (e, s) = failure(&mut ready(), &step(expect));
        assert!(e.contains(expected) && s.contains(seen), "{expect}\n  expected: {e}\n  seen: {s}");
    }
}

#[test]
fn the_tables_look_like_those_of_the_tools() {
    let (_, text) = play(
        &mut ready(),
        "  - show: {neighbors: vm-201, rib: vm-201, routes: vm-201, virtualServers: vm-001, notices: true, to: 10.0.0.2/32}\n  \
         - show: {rib: vm-201, ipv6: true}\n",
    );
    let expected = "
[  10.0s] show
vm-201$ gobgp neighbor
Peer           AS  Up/Down State       |#Received  Accepted
192.168.1.1 65001 00:00:04 Establ      |        2         2
192.168.1.2 65001 00:00:04 Establ      |        2         2
192.168.1.3 65001 00:00:04 Establ      |        2         2
192.168.1.4 65001 00:00:04 Establ      |        2         2
vm-201$ gobgp global rib 10.0.0.2/32
   Network              Next Hop             AS_PATH              Age        Attrs
*> 10.0.0.2/32          192.168.1.2          65001                00:00:02   [{Origin: ?}]
*  10.0.0.2/32          192.168.1.1          65001                00:00:02   [{Origin: ?}]
vm-201$ ip route show 10.0.0.2
10.0.0.2 proto bgp
\tnexthop via 192.168.1.1 dev eth1
\tnexthop via 192.168.1.2 dev eth1
vm-001$ ipvsadm -Ln
IP Virtual Server
fairway$ notices
none

[  10.0s] show
vm-201$ gobgp global rib -a ipv6
Network not in table
";
    assert_eq!(text, expected);
}

#[test]
fn changes_reach_the_stage_as_written() {
    let mut fake = ready();
    let (outcome, text) = play(
        &mut fake,
        "  - apply: [mconnect.yaml, {kind: Service, metadata: {name: late}}]\n  - delete: {kind: Service, name: late}\n  \
         - scale: {deployment: mconnect-deployment, replicas: 3}\n  - patch: {kind: Service, name: other/bad, merge: {spec: {a: null}}}\n  \
         - fault: {flapBgp: {on: vm-201, peer: vm-001}}\n  - fault: {deletePod: {on: vm-002, count: 1}}\n",
    );
    assert_eq!(outcome.result, Verdict::Pass, "{text}");
    let expected = [
        "apply mconnect.yaml",
        "apply test.yaml:48",
        "delete Service default/late",
        "scale default/mconnect-deployment 3",
        "patch Service other/bad {\"spec\":{\"a\":null}}",
        "fault reset the BGP session of vm-201 with 192.168.1.1",
        "fault delete one pod default/* on vm-002",
    ];
    assert_eq!(fake.log, expected);
}

#[test]
fn services_by_name_and_hosts_that_are_down_are_answers() {
    let steps = "  - until: {within: 9s, bgp: {vm-003: {established: 4}}, \
                 virtualServer: {on: vm-001, address: service:default/mconnect:5001}}\n  \
                 - expect: {virtualServer: {on: vm-001, address: service:other/bad:5001, present: false}}\n  \
                 - expect: {endpoints: {service: other/bad, total: 0}}\n  \
                 - mconnect: {from: vm-201, address: service:default/mconnect:5001}\n";
    let (outcome, text) = play(&mut Fake::new(), steps);
    assert_eq!(outcome.result, Verdict::Pass, "{text}");
    assert!(text.contains("vm-201$ mconnect -address 10.0.0.2:5001 -nconn 1\n"), "{text}");
    let (expected, seen) = failure(&mut Fake::new(), "  - expect: {bgp: {vm-003: {established: 4}}}\n");
    assert_eq!((expected.as_str(), seen.as_str()), ("BGP on vm-003 can be looked at", "no agent runs on vm-003"));
    let (expected, _) =
        failure(&mut ready(), "  - expect: {virtualServer: {on: vm-001, address: service:other/bad:5001}}\n");
    assert_eq!(expected, "virtual server tcp service:other/bad:5001 on vm-001");
    let (outcome, _) = play(&mut ready(), "  - expect: {virtualServer: {on: vm-001, address: pod:default/a:5001}}\n");
    assert_eq!(outcome.result, Verdict::Error);
}

#[test]
fn what_a_stage_cannot_do_is_an_error_not_a_failure() {
    let mut fake = Fake { refuse: true, ..ready() };
    let (outcome, _) = play(&mut fake, "  - fault: {killAgent: vm-003}\n");
    assert_eq!(outcome.result, Verdict::Error);
    let reason = "test.yaml:48:5: this stage cannot do that: kill the agent on vm-003";
    assert_eq!(outcome.reason.as_deref(), Some(reason));
}

#[test]
fn a_tool_is_asked_until_it_says_what_is_wanted() {
    let ask = |rest: &str| format!("  - ask: {{on: vm-201, as: bird, run: birdc show protocols, {rest}}}\n");
    let mut fake = Fake::new();
    let (outcome, text) = play(&mut fake, &ask("contains: up, matches: \"^name1 +BGP\", absent: down, within: 10s"));
    assert_eq!(outcome.result, Verdict::Pass, "{text}");
    // Before 3 s the tool fails, which is an answer like any other.
    assert_eq!(outcome.virtual_ms, 3500);
    assert!(text.contains("vm-201$ birdc show protocols\nname1 BGP up\n"), "{text}");
    let cases = [
        ("contains: [up, other]", "prints \"other\""),
        ("matches: [\"^BGP\"]", "prints what matches `^BGP`"),
        ("absent: Passive", "prints no \"Passive\""),
        ("absent: Passive, within: 2s", "prints no \"Passive\" within 2.0s"),
    ];
    for (rest, expected) in cases {
        let (e, s) = failure(&mut ready(), &ask(rest));
        assert!(e.ends_with(expected) && s.starts_with("name1"), "{rest}: {e}; {s}");
    }
    let (e, s) = failure(&mut Fake::new(), &ask("contains: up"));
    assert!(e.ends_with("prints something") && s == "birdc: no such socket", "{e}; {s}");
    // Where another software runs nobody is asked, and the report says so.
    let (outcome, text) = play(&mut ready(), "  - ask: {on: vm-201, run: vtysh -c x, contains: y}\n");
    assert_eq!(outcome.result, Verdict::Pass, "{text}");
    assert!(text.contains("not asked: vm-201 runs bird, not frr"), "{text}");
}

#[test]
fn a_stage_whose_time_stands_still_ends_the_run() {
    let mut fake = Fake { stuck: true, ..Fake::new() };
    let (outcome, _) = play(&mut fake, "  - pass: 1s\n");
    assert_eq!(outcome.result, Verdict::Error);
    assert!(outcome.reason.unwrap().contains("does not let time pass"));
}

#[test]
fn a_missing_feature_skips() {
    let text = common::EVERYTHING.replace("needs: [ipvs]", "needs: [ipvs, dsr, nft]");
    let mut fake = Fake::new();
    let outcome = run(&good(&text), &mut fake, &RunOptions { seed: 1 }, &mut fairway_scenario::Silent);
    assert_eq!(outcome.result, Verdict::Skip);
    assert_eq!(summary_line(&outcome), "SKIP  everything  (stage fake does not offer dsr, nft)");
    assert_eq!((fake.advances, fake.log.len()), (0, 0));
    assert_eq!(fake.now(), Duration::ZERO);
}

#[test]
fn a_writer_that_breaks_is_told_at_the_end() {
    struct Full;
    impl std::io::Write for Full {
        fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
            Err(std::io::ErrorKind::StorageFull.into())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let mut sink = TextSink::new(Full);
    let outcome = run(&scenario("  - pass: 1s\n"), &mut ready(), &RunOptions::default(), &mut sink);
    assert_eq!(outcome.result, Verdict::Pass);
    assert!(sink.finish().is_err());
}

#[test]
fn an_hour_of_virtual_time_is_less_on_a_stage_where_time_is_real() {
    for (virtual_time, seconds) in [(true, 3610), (false, 40)] {
        let mut fake = Fake { virtual_time, ..ready() };
        let steps = "  - load: {as: a, from: vm-221, address: 10.0.0.2:5001, rate: 1}\n  - pass: {virtual: 50m, real: 20s}\n  \
                     - measure: {load: a, for: {virtual: 10m, real: 10s}}\n";
        let (outcome, text) = play(&mut fake, steps);
        assert_eq!(outcome.result, Verdict::Pass, "{text}");
        assert_eq!(outcome.virtual_ms, seconds * 1000, "{text}");
        assert!(text.contains("pass 50m00s (real time: 20.0s)"), "{text}");
    }
}
