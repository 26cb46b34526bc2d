//! The program as a user meets it: exit statuses, messages, reports.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn fairway(args: &[&str]) -> Output {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    Command::new(env!("CARGO_BIN_EXE_fairway")).args(args).current_dir(root).output().expect("the program starts")
}

fn out(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn err(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A scenario next to the seed's manifest, with `change` made to its text.
fn changed(name: &str, change: impl Fn(String) -> String) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    std::fs::create_dir_all(&folder).expect("a folder for the test");
    for file in ["mconnect.yaml", "mconnect-bgp.yaml"] {
        let text = std::fs::read_to_string(root.join("scenarios/seed").join(file)).expect("the seed");
        let text = if file == "mconnect-bgp.yaml" { change(text) } else { text };
        std::fs::write(folder.join(file), text).expect("write");
    }
    folder.join("mconnect-bgp.yaml")
}

const SEED: &str = "scenarios/seed/mconnect-bgp.yaml";

#[test]
fn the_seed_scenario_prints_what_the_tools_would_and_passes() {
    let output = fairway(&["run", SEED]);
    let text = out(&output);
    assert_eq!(output.status.code(), Some(0), "{text}{}", err(&output));
    for piece in [
        "vm-201$ gobgp neighbor",
        "192.168.1.4 65001",
        "Establ",
        "vm-201$ gobgp global rib",
        "*> 10.0.0.2/32",
        "nexthop via 192.168.1.4",
        "mconnect -address 10.0.0.2:5001 -nconn 400",
        "Failed connects; 0",
        "Failed reads; 0",
        "PASS",
        "seed 42",
    ] {
        assert!(text.contains(piece), "no `{piece}` in:\n{text}");
    }
}

#[test]
fn the_same_seed_gives_the_same_run_across_processes_and_another_seed_another() {
    let hash = |seed: &str| {
        let output = fairway(&["run", SEED, "--output", "json", "--seed", seed]);
        let json: serde_json::Value = serde_json::from_str(&out(&output)).expect("one JSON document");
        assert_eq!(json["result"], "pass", "{json:#}");
        json["trace_hash"].as_str().expect("a hash").to_string()
    };
    let first = hash("7");
    assert_eq!(first, hash("7"));
    assert_ne!(first, hash("8"));
}

#[test]
fn a_failed_expectation_says_what_was_seen_and_how_to_repeat_it() {
    let file = changed("fails", |t| t.replace("paths: 4", "paths: 5"));
    let output = fairway(&["run", file.to_str().expect("utf-8"), "--seed", "9"]);
    let text = out(&output);
    assert_eq!(output.status.code(), Some(1), "{text}");
    for piece in ["expected", "seen", "FAIL", "fairway run", "--stage memory --seed 9"] {
        assert!(text.contains(piece), "no `{piece}` in:\n{text}");
    }
}

#[test]
fn a_typo_is_shown_with_its_place_and_the_nearest_key() {
    let file = changed("typo", |t| t.replace("nconn: 400", "nconnn: 400"));
    for command in ["run", "check"] {
        let output = fairway(&[command, file.to_str().expect("utf-8")]);
        let text = err(&output);
        assert_eq!(output.status.code(), Some(2), "{text}");
        for piece in ["mconnect-bgp.yaml:", "nconnn", "^^^^^^", "`nconn`"] {
            assert!(text.contains(piece), "no `{piece}` in:\n{text}");
        }
    }
}

#[test]
fn a_wrong_flag_in_a_scenario_is_shown_with_its_place() {
    let file = changed("flag", |t| t.replace("--advertise-cluster-ip\n", "--advertise-cluster-ipp\n"));
    let output = fairway(&["check", file.to_str().expect("utf-8")]);
    let text = err(&output);
    assert_eq!(output.status.code(), Some(2), "{text}");
    assert!(text.contains("mconnect-bgp.yaml:") && text.contains("--advertise-cluster-ip"), "{text}");
}

#[test]
fn broken_yaml_and_missing_files_are_exit_2() {
    let file = changed("broken", |t| t.replace("topology:", "topology: ]"));
    assert_eq!(fairway(&["run", file.to_str().expect("utf-8")]).status.code(), Some(2));
    let output = fairway(&["run", "scenarios/none.yaml"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(err(&output).contains("scenarios/none.yaml"), "{}", err(&output));
    assert_eq!(fairway(&["run"]).status.code(), Some(2));
    assert_eq!(fairway(&["runn"]).status.code(), Some(2));
}

#[test]
fn a_trace_explains_the_way_of_one_packet() {
    let output = fairway(&["run", SEED, "--trace", "{from: vm-221, to: \"10.0.0.2:5001\"}"]);
    let text = out(&output);
    assert_eq!(output.status.code(), Some(0), "{text}");
    for piece in ["vm-221", "10.0.0.2", "ipvs", "delivered"] {
        assert!(text.to_lowercase().contains(piece), "no `{piece}` in:\n{text}");
    }
    let output = fairway(&["run", SEED, "--trace", "{fro: vm-221}"]);
    assert_eq!(output.status.code(), Some(2), "{}", err(&output));
}

#[test]
fn many_runs_are_summed_up_and_reported_to_ci() {
    let report = Path::new(env!("CARGO_TARGET_TMPDIR")).join("junit/report.xml");
    let output = fairway(&[
        "run",
        "scenarios/services/conflict.yaml",
        SEED,
        "--seeds",
        "3",
        "--jobs",
        "2",
        "--quiet",
        "--junit",
        report.to_str().expect("utf-8"),
    ]);
    let text = out(&output);
    assert_eq!(output.status.code(), Some(0), "{text}");
    assert_eq!(text.lines().filter(|l| l.starts_with("PASS")).count(), 6, "{text}");
    assert!(text.ends_with("6 passed, 0 failed, 0 skipped\n"), "{text}");
    let xml = std::fs::read_to_string(report).expect("the report");
    assert_eq!(xml.matches("<testcase").count(), 6, "{xml}");
}

#[test]
fn every_scenario_of_the_catalogue_is_valid_and_listed() {
    let output = fairway(&["check", "scenarios"]);
    assert_eq!(output.status.code(), Some(0), "{}", err(&output));
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let list = std::fs::read_to_string(root.join("docs/scenarios.md")).expect("the catalogue");
    for line in out(&output).lines() {
        let file = line.split(": ok").next().expect("a file name").trim_start_matches("scenarios/");
        assert!(list.contains(&format!("`{file}`")), "docs/scenarios.md does not list {file}");
    }
}

#[test]
fn the_schema_is_json_and_describes_itself() {
    let output = fairway(&["schema"]);
    let schema: serde_json::Value = serde_json::from_str(&out(&output)).expect("JSON");
    assert!(schema["properties"]["topology"].is_object(), "{schema:#}");
    assert!(schema["properties"]["steps"]["description"].is_string(), "{schema:#}");
}

#[test]
fn mconnect_is_there_by_subcommand_and_by_name() {
    let output = fairway(&["mconnect", "-version"]);
    assert_eq!(output.status.code(), Some(0), "{}", err(&output));
    assert_eq!(fairway(&["mconnect", "-nosuchflag"]).status.code(), Some(2));
    let link = Path::new(env!("CARGO_TARGET_TMPDIR")).join("mconnect");
    let _absent = std::fs::remove_file(&link);
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_fairway"), &link).expect("a link");
    let by_name = Command::new(&link).arg("-version").output().expect("it starts");
    assert_eq!(by_name.status.code(), Some(0));
    assert_eq!(by_name.stdout, output.stdout);
}

#[test]
fn the_flags_are_shown_grouped_and_compared_with_kube_routers() {
    let help = fairway(&["node", "--help"]);
    assert_eq!(help.status.code(), Some(0));
    for piece in ["General:", "Router (BGP):", "Service proxy:", "--bgp-holdtime <DURATION>", "[default: 1m30s]"] {
        assert!(out(&help).contains(piece), "no {piece:?} in {}", out(&help));
    }
    let table = out(&fairway(&["flags", "--diff-kube-router"]));
    for piece in ["Only here: 13 of", "--manifests", "Not built yet:", "Of older versions:"] {
        assert!(table.contains(piece), "no {piece:?} in {table}");
    }
    let json = out(&fairway(&["flags", "--diff-kube-router", "--output", "json"]));
    let json: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    let rows = json["differences"].as_array().expect("a list");
    let ours: Vec<_> = rows.iter().filter(|r| r["difference"] == "ours").filter_map(|r| r["flag"].as_str()).collect();
    assert!(ours.contains(&"config") && ours.contains(&"bgp-drain-time"), "{ours:?}");
    // kube-router 2.11 has 79 flags, --help and --version among them.
    let json: serde_json::Value = serde_json::from_str(&out(&fairway(&["flags", "-o", "json"]))).expect("JSON");
    let all = json["flags"].as_array().expect("a list").len();
    let older = rows.iter().filter(|r| r["difference"] == "accepted").count();
    assert_eq!(all - ours.len() - older + 2, 79);
}

#[test]
fn completions_and_manual_pages_know_the_daemons_flags() {
    for shell in ["bash", "zsh", "fish"] {
        let script = out(&fairway(&["completions", shell]));
        assert!(script.contains("peer-router-ips") && script.contains("diff-kube-router"), "{shell}: {script}");
    }
    let page = out(&fairway(&["man", "node"]));
    assert!(page.contains(".TH") && page.contains("peer\\-router\\-ips"), "{page}");
    assert!(out(&fairway(&["man"])).contains("fairway\\-node"), "{}", out(&fairway(&["man"])));
    assert_eq!(fairway(&["man", "nothing"]).status.code(), Some(2));
}

#[test]
fn words_that_are_no_text_are_refused() {
    use std::os::unix::ffi::OsStrExt;
    let word = std::ffi::OsStr::from_bytes(b"--hostname-override=\xff");
    let output =
        Command::new(env!("CARGO_BIN_EXE_fairway")).arg("node").arg(word).output().expect("the program starts");
    assert_eq!(output.status.code(), Some(2));
    assert!(err(&output).contains("is not UTF-8"), "{}", err(&output));
}

#[test]
fn plugins_are_copied_where_the_node_has_none() {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("cni-{}", std::process::id()));
    let (from, to) = (folder.join("from"), folder.join("to"));
    for folder in [&from, &to] {
        std::fs::create_dir_all(folder).expect("a folder");
    }
    std::fs::write(from.join("bridge"), "new").expect("write");
    std::fs::write(from.join("loopback"), "new").expect("write");
    std::fs::write(to.join("loopback"), "old").expect("write");
    let [from, to] = [&from, &to].map(|path| path.to_str().expect("UTF-8").to_string());
    let read = |name: &str| std::fs::read_to_string(format!("{to}/{name}")).expect("a plugin");
    let install = |more: &[&str]| fairway(&[&["cni-install", "--from", &from, "--to", &to], more].concat());
    let output = install(&[]);
    assert_eq!(output.status.code(), Some(0), "{}", err(&output));
    assert_eq!(out(&output), format!("{to}/bridge: copied\n{to}/loopback: is there already\n"));
    assert_eq!((read("bridge").as_str(), read("loopback").as_str()), ("new", "old"));
    use std::os::unix::fs::PermissionsExt;
    let mode = std::fs::metadata(format!("{to}/bridge")).expect("a plugin").permissions().mode();
    assert_eq!(mode & 0o777, 0o755);
    assert_eq!(out(&install(&["--replace"])), format!("{to}/bridge: copied\n{to}/loopback: copied\n"));
    assert_eq!(read("loopback"), "new");
    assert_eq!(std::fs::read_dir(&to).expect("a folder").count(), 2, "nothing else is left there");
    let output = fairway(&["cni-install", "--from", &from, "--to", &format!("{to}/nowhere")]);
    assert_eq!(output.status.code(), Some(1));
    assert!(err(&output).contains("nowhere/bridge: No such file"), "{}", err(&output));
    std::fs::remove_dir_all(&folder).expect("the folder goes");
}
