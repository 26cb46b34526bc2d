//! What reports contain.

use fairway_scenario::{Outcome, StepOutcome, Verdict, junit, summary_line};

fn outcome(name: &str, result: Verdict) -> Outcome {
    let failed = matches!(result, Verdict::Fail | Verdict::Error);
    let step = StepOutcome {
        title: "mconnect from vm-201".to_owned(),
        result: if result == Verdict::Skip { Verdict::Skip } else { result },
        place: "seed/a.yaml:7:5".to_owned(),
        expected: failed.then(|| "0 failed connects".to_owned()),
        seen: failed.then(|| "3 failed & \u{1b}[1m<lost>\u{1b}[0m".to_owned()),
        at_ms: 31_250,
    };
    Outcome {
        name: name.to_owned(),
        file: "seed/a.yaml".to_owned(),
        stage: "memory".to_owned(),
        seed: 42,
        result,
        reason: (result != Verdict::Pass).then(|| "because".to_owned()),
        virtual_ms: 31_250,
        real_ms: 43,
        steps: vec![step],
        trace_hash: Some(0xfeed_0000_0000_0001),
        reproduce: "fairway run seed/a.yaml --stage memory --seed 42".to_owned(),
    }
}

#[test]
fn summary_lines() {
    let line = |result| summary_line(&outcome("seed", result));
    assert_eq!(line(Verdict::Pass), "PASS  seed  (virtual 31.2s, real 43ms, seed 42)");
    assert_eq!(line(Verdict::Skip), "SKIP  seed  (because)");
    let fail = "FAIL  seed  (virtual 31.2s, real 43ms, seed 42)\n      because\n      again: fairway run seed/a.yaml --stage memory --seed 42";
    assert_eq!(line(Verdict::Fail), fail);
    assert_eq!(line(Verdict::Error), fail.replace("FAIL", "ERROR"));
}

#[test]
fn json_is_for_programs() {
    let json = serde_json::to_value(outcome("seed", Verdict::Fail)).unwrap();
    assert_eq!(json["result"], "fail");
    assert_eq!(json["virtual_ms"], 31_250);
    assert_eq!(json["trace_hash"], "feed000000000001");
    assert_eq!(json["steps"][0]["expected"], "0 failed connects");
    assert_eq!(json["steps"][0]["at_ms"], 31_250);
    let json = serde_json::to_value(outcome("seed", Verdict::Pass)).unwrap();
    assert_eq!(json["result"], "pass");
    assert_eq!(json.get("reason"), None);
    assert_eq!(json["steps"][0].get("seen"), None);
}

#[test]
fn junit_has_one_suite_per_file_and_one_case_per_run() {
    let mut outcomes: Vec<Outcome> =
        [("good", Verdict::Pass), ("bad", Verdict::Fail), ("left out", Verdict::Skip), ("broken", Verdict::Error)]
            .map(|(name, result)| outcome(name, result))
            .to_vec();
    outcomes[3].file = "bgp/b.yaml".to_owned();
    let xml = junit(&outcomes);
    let expected = r#"<?xml version="1.0" encoding="UTF-8"?>
<testsuites name="fairway" tests="4" skipped="1" failures="1" errors="1">
    <testsuite name="bgp/b.yaml" tests="1" skipped="0" errors="1" failures="0">
        <testcase name="broken [seed 42]" classname="memory.bgp/b" assertions="1" time="0.043">
            <error message="because">seed/a.yaml:7:5
expected: 0 failed connects
seen: 3 failed &amp; &lt;lost&gt;
again: fairway run seed/a.yaml --stage memory --seed 42</error>
        </testcase>
    </testsuite>
    <testsuite name="seed/a.yaml" tests="3" skipped="1" errors="0" failures="1">
        <testcase name="good [seed 42]" classname="memory.seed/a" assertions="1" time="0.043"/>
        <testcase name="bad [seed 42]" classname="memory.seed/a" assertions="1" time="0.043">
            <failure message="because">seed/a.yaml:7:5
expected: 0 failed connects
seen: 3 failed &amp; &lt;lost&gt;
again: fairway run seed/a.yaml --stage memory --seed 42</failure>
        </testcase>
        <testcase name="left out [seed 42]" classname="memory.seed/a" assertions="0" time="0.043">
            <skipped message="because"/>
        </testcase>
    </testsuite>
</testsuites>
"#;
    assert_eq!(xml, expected);
}
