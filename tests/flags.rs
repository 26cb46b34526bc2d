//! Every flag has a test of its effect: this is the list of them. A flag without an entry fails, as does an entry whose
//! test or scenario is gone, and a flag without effect of which `fairway flags --diff-kube-router` does not say so.
//! That each flag that works reaches the agent's configuration is a test of `src/flags/tests.rs`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

use serde_json::Value;

/// What proves that a flag does what it says.
#[derive(Clone, Copy)]
enum Proof {
    /// A test: the file and the function.
    Test(&'static str, &'static str),
    /// A test of a branch that is not merged yet: as soon as its file is there, it counts.
    Soon(&'static str, &'static str),
    /// A scenario that has the flag.
    Scenario(&'static str),
    /// It has no effect, and the comparison with kube-router says so.
    Nothing,
}

use Proof::{Nothing, Scenario, Soon, Test};

/// A row of the table in which each flag changes the desired state.
const COMPUTE: Proof = Test("engine/compute/tests/flags.rs", "each_flag_changes_what_it_is_about");
const BFD: Proof = Scenario("scenarios/bgp/bfd.yaml");
const DAEMON: Proof =
    Test("tests/node.rs", "a_node_of_manifests_peers_with_gobgpd_follows_edits_and_drains_before_it_ends");
const CLUSTER: Proof = Test("tests/node.rs", "a_node_of_a_cluster_follows_kubectl_and_outlives_its_api_server");
const REACHES: Proof = Test("src/flags/tests.rs", "every_flag_that_works_reaches_the_configuration");
const PORTS: Proof =
    Test("backends/node/tests/ports.rs", "a_scrape_has_services_and_neighbours_and_health_checks_are_answered");
const PERIODS: Proof = Test("engine/agent/tests/node.rs", "planes_are_looked_at_at_least_as_often_as_the_periods_say");
const RESTART: Proof = Scenario("scenarios/interop/graceful-restart.yaml");
const CLEANUP: Proof =
    Soon("tests/operate.rs", "a_cleanup_says_what_it_removes_and_the_second_one_that_nothing_is_left");
const RECORD: Proof =
    Soon("tests/operate.rs", "a_recorded_daemon_is_played_again_identically_and_its_passwords_are_not_in_it");

const PROOFS: &[(&str, Proof)] = &[
    ("advertise-cluster-ip", COMPUTE),
    ("advertise-external-ip", COMPUTE),
    ("advertise-loadbalancer-ip", COMPUTE),
    ("advertise-pod-cidr", COMPUTE),
    ("auto-mtu", Test("engine/compute/tests/pods.rs", "the_bridge_and_the_file_have_the_mtu_of_the_nodes_interface")),
    ("bfd-desired-min-tx-interval", BFD),
    ("bfd-detection-multiplier", BFD),
    ("bfd-port", Test("engine/agent/tests/node.rs", "over_several_hops_the_port_is_another")),
    ("bfd-required-min-rx-interval", BFD),
    ("bgp-drain-time", DAEMON),
    ("bgp-graceful-restart", RESTART),
    ("bgp-graceful-restart-deferral-time", COMPUTE),
    ("bgp-graceful-restart-time", RESTART),
    ("bgp-holdtime", COMPUTE),
    ("bgp-import-default-route", Scenario("scenarios/routes/foreign-and-default.yaml")),
    ("bgp-long-lived-stale-time", COMPUTE),
    ("bgp-multipath-relax", Test("engine/bgp/tests/options.rs", "multipath_may_be_relaxed_or_strict")),
    ("bgp-port", COMPUTE),
    ("bgp-route-metric", Scenario("scenarios/routes/foreign-and-default.yaml")),
    (
        "cache-sync-timeout",
        Test("tests/node.rs", "a_node_gives_up_on_a_server_that_does_not_answer_in_time_and_says_what_is_missing"),
    ),
    ("cleanup-config", CLEANUP),
    ("cluster-asn", COMPUTE),
    ("cluster-cidr", Nothing),
    ("config", Test("src/flags/sources.rs", "the_command_line_goes_before_the_environment_and_that_before_the_file")),
    ("config-sync-period", Nothing),
    ("disable-source-dest-check", Nothing),
    ("dry-run", Soon("tests/operate.rs", "a_dry_run_is_printed_and_nothing_is_changed")),
    ("enable-bfd", BFD),
    ("enable-cni", Test("engine/compute/tests/pods.rs", "without_cni_or_router_nothing_of_it_is_ours")),
    ("enable-ibgp", COMPUTE),
    ("enable-ipv4", COMPUTE),
    ("enable-ipv6", COMPUTE),
    ("enable-overlay", Test("engine/compute/tests/overlay/mod.rs", "without_an_overlay_there_is_nothing_of_it")),
    ("enable-pod-egress", Scenario("scenarios/routes/pod-egress.yaml")),
    ("enable-pprof", Test("backends/node/tests/pprof.rs", "a_profile_says_where_the_time_goes")),
    ("excluded-cidrs", Test("engine/agent/tests/node.rs", "excluded_cidrs_are_left_alone")),
    ("from-kube-router", CLEANUP),
    ("gobgp-admin-address", Test("src/flags/tests.rs", "the_admin_port_listens_as_kube_router_has_it")),
    ("gobgp-admin-port", Test("src/flags/tests.rs", "the_admin_port_listens_as_kube_router_has_it")),
    ("hairpin-mode", COMPUTE),
    ("health-addr", REACHES),
    ("health-port", DAEMON),
    ("hostname-override", DAEMON),
    ("injected-routes-sync-period", PERIODS),
    ("iptables-sync-period", Nothing),
    ("ipvs-graceful-period", Nothing),
    ("ipvs-graceful-termination", Nothing),
    ("ipvs-permit-all", COMPUTE),
    ("ipvs-sync-period", PERIODS),
    ("kubeconfig", Test("tests/node.rs", "a_node_bears_a_server_that_lies_and_fails")),
    ("loadbalancer-default-class", Test("engine/publish/tests/allocator.rs", "classes_types_and_the_default_class")),
    ("loadbalancer-ip-range", COMPUTE),
    (
        "loadbalancer-sync-period",
        Test("engine/publish/tests/publisher.rs", "a_status_that_is_refused_is_tried_again_every_sync_period"),
    ),
    ("manifests", DAEMON),
    ("masquerade-all", COMPUTE),
    ("master", CLUSTER),
    ("metrics-addr", PORTS),
    ("metrics-path", PORTS),
    ("metrics-port", DAEMON),
    ("netpol-default-deny", Nothing),
    (
        "nodeport-bindon-all-ip",
        Test("engine/compute/tests/compute.rs", "node_ports_are_on_every_address_of_the_node_if_asked"),
    ),
    ("nodes-full-mesh", COMPUTE),
    ("output", Soon("tests/operate.rs", "a_dry_run_is_printed_and_nothing_is_changed")),
    ("overlay-encap", Scenario("scenarios/overlay/full-and-udp.yaml")),
    ("overlay-encap-port", Scenario("scenarios/overlay/full-and-udp.yaml")),
    ("overlay-type", Scenario("scenarios/overlay/full-and-udp.yaml")),
    ("override-nexthop", COMPUTE),
    ("peer-router-asns", DAEMON),
    ("peer-router-ips", COMPUTE),
    ("peer-router-multihop-ttl", COMPUTE),
    ("peer-router-passwords", COMPUTE),
    ("peer-router-passwords-file", REACHES),
    ("peer-router-ports", COMPUTE),
    ("proc-sys", Test("tests/node.rs", "the_shipped_manifests_give_a_daemon_what_it_needs_and_no_more")),
    ("record", RECORD),
    ("record-limit", RECORD),
    ("router-id", COMPUTE),
    ("routes-sync-period", PERIODS),
    ("run-firewall", Nothing),
    ("run-loadbalancer", Scenario("scenarios/loadbalancer/address-given.yaml")),
    ("run-router", COMPUTE),
    ("run-service-proxy", COMPUTE),
    ("runtime-endpoint", Test("backends/cri/tests/runtime.rs", "pods_are_found_and_asked_about_once")),
    ("service-cluster-ip-range", COMPUTE),
    ("service-external-ip-range", COMPUTE),
    (
        "service-node-port-range",
        Test("engine/compute/tests/compute.rs", "a_node_port_outside_the_range_is_said_if_there_is_one"),
    ),
    ("service-tcp-timeout", PORTS),
    ("service-tcpfin-timeout", COMPUTE),
    ("service-udp-timeout", PORTS),
    ("strict-external-ip-validation", COMPUTE),
    ("use-nftables-for-netpol", Nothing),
    ("v", DAEMON),
];

/// Flags that have no row of their own name in the table of `engine/compute`: how they are called there.
const TOGETHER: &[(&str, &str)] = &[
    ("bgp-graceful-restart-deferral-time", "bgp-graceful-restart"),
    ("bgp-long-lived-stale-time", "bgp-graceful-restart"),
];

fn json(args: &[&str]) -> Value {
    let output = Command::new(env!("CARGO_BIN_EXE_fairway")).args(args).output().expect("the program starts");
    serde_json::from_slice(&output.stdout).expect("JSON")
}

fn names(rows: &Value) -> BTreeSet<String> {
    rows.as_array().expect("a list").iter().filter_map(|row| row["flag"].as_str()).map(String::from).collect()
}

#[test]
fn every_flag_has_a_test_of_its_effect() {
    let all = names(&json(&["flags", "-o", "json"])["flags"]);
    let compared = json(&["flags", "--diff-kube-router", "-o", "json"]);
    let without: BTreeSet<String> = compared["differences"]
        .as_array()
        .expect("a list")
        .iter()
        .filter(|row| row["difference"] == "not-built" || row["difference"] == "accepted")
        .filter_map(|row| row["flag"].as_str().map(String::from))
        .collect();
    let proofs: BTreeMap<&str, Proof> = PROOFS.iter().copied().collect();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    let read = |file: &str| std::fs::read_to_string(folder.join(file)).unwrap_or_default();
    let mut wrong = vec![];
    for flag in &all {
        let mut say = |what: String| wrong.push(format!("--{flag}: {what}"));
        let Some(proof) = proofs.get(flag.as_str()) else {
            say("no proof of its effect in tests/flags.rs".into());
            continue;
        };
        match proof {
            Nothing if !without.contains(flag) => say("it has an effect by now: name its test".into()),
            Nothing => {}
            _ if without.contains(flag) => say("a test of its effect, and `fairway flags` says it has none".into()),
            Scenario(file) if !read(file).contains(&format!("--{flag}")) => say(format!("{file} does not have it")),
            Scenario(_) => {}
            Soon(file, _) if !folder.join(file).exists() => {}
            Test(file, function) | Soon(file, function) => {
                let text = read(file);
                if !text.contains(&format!("fn {function}(")) {
                    say(format!("{file} has no test {function}"));
                }
                let called = TOGETHER.iter().find(|(name, _)| name == flag).map_or(flag.as_str(), |(_, called)| called);
                if *file == "engine/compute/tests/flags.rs" && !text.contains(&format!("\"{called}\"")) {
                    say(format!("{file} has no row for it"));
                }
            }
        }
    }
    wrong.extend(proofs.keys().filter(|flag| !all.contains(**flag)).map(|flag| format!("--{flag}: no such flag")));
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
