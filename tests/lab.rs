//! The stages with a real kernel, as a user meets them. What this machine's kernel cannot do is skipped in words.
#![allow(clippy::unwrap_used, reason = "a helper that fails fails its test")]

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// A scenario that needs namespaces and nothing else.
const PLAIN: &str = "scenarios/routes/pod-to-pod.yaml";

fn fairway() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_fairway"));
    command.current_dir(env!("CARGO_MANIFEST_DIR"));
    command
}

/// Whether namespaces are to be had; says why not.
fn namespaces() -> bool {
    let output = fairway().args(["run", PLAIN, "--stage", "netns", "--quiet"]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    let refused = said.contains("cannot make namespaces");
    if refused {
        println!("skipped: {said}");
    }
    !refused
}

/// Processes whose command line names this file, by number.
fn processes(of: &str) -> Vec<String> {
    let mut found = vec![];
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let command = std::fs::read(Path::new("/proc").join(&name).join("cmdline")).unwrap_or_default();
        if name.bytes().all(|b| b.is_ascii_digit()) && String::from_utf8_lossy(&command).contains(of) {
            found.push(name);
        }
    }
    found
}

#[test]
fn a_scenario_plays_in_namespaces_and_reports_as_in_memory() {
    if !namespaces() {
        return;
    }
    let output = fairway().args(["run", PLAIN, "--stage", "netns", "--output", "json"]).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let outcome: serde_json::Value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
    assert_eq!((&outcome["result"], &outcome["stage"]), (&"pass".into(), &"netns".into()), "{text}");
    assert!(output.status.success());
}

#[test]
fn what_the_kernel_lacks_is_named_and_skips() {
    if !namespaces() {
        return;
    }
    let run = |list: &str| {
        let arguments = ["run", "scenarios/services/node-port.yaml", "--stage", "netns", "--quiet", "--may-skip", list];
        fairway().args(arguments).output().unwrap()
    };
    let output = run("scenarios/may-skip.txt");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}");
    if text.starts_with("PASS") {
        println!("skipped: this kernel lacks nothing");
        return;
    }
    assert!(text.contains("module ") && text.contains(" is missing"), "{text}");
    // A skip that nobody expects is a failure.
    let output = run("/dev/null");
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("node-port.yaml"));
}

#[test]
fn nothing_is_left_when_the_lab_is_killed() {
    if !namespaces() {
        return;
    }
    // Names this run among all processes.
    let witness = format!("fairway-test-{}", std::process::id());
    let mut child = fairway()
        .args(["run", PLAIN, "--stage", "netns", "--witness", &witness])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    lines.find(|line| line.as_ref().is_ok_and(|line| line.contains("every node peers"))).unwrap().unwrap();
    assert!(processes(&witness).len() >= 2, "the lab runs in a process of its own");
    child.kill().unwrap();
    child.wait().unwrap();
    let limit = Instant::now() + Duration::from_secs(10);
    while !processes(&witness).is_empty() {
        assert!(Instant::now() < limit, "still there: {:?}", processes(&witness));
        std::thread::sleep(Duration::from_millis(50));
    }
}
