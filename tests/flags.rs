//! Every flag has a test of its effect: this is the list of them. A flag without an entry fails, as does an entry whose
//! test or scenario is gone, and a flag without effect of which `fairway flags --diff-kube-router` does not say so.
//! That each flag that works reaches the agent's configuration is a test of `src/flags.rs`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

use serde_json::Value;

/// What proves that a flag does what it says.
enum Proof {
    /// A test: the file and the function.
    Test(&'static str, &'static str),
    /// A scenario that has the flag.
    Scenario(&'static str),
    /// It has no effect, and the comparison with kube-router says so.
    None,
}

use Proof::{None, Scenario, Test};

/// A row of the table in which each flag changes the desired state.
const COMPUTE: Proof = Test("engine/compute/tests/flags.rs", "each_flag_changes_what_it_is_about");
const BFD: Proof = Scenario("scenarios/bgp/bfd.yaml");
const DAEMON: Proof =
    Test("tests/node.rs", "a_node_of_manifests_peers_with_gobgpd_follows_edits_and_drains_before_it_ends");
const CLUSTER: Proof = Test("tests/node.rs", "a_node_of_a_cluster_follows_kubectl_and_outlives_its_api_server");
const PORTS: Proof =
    Test("backends/node/tests/ports.rs", "a_scrape_has_services_and_neighbours_and_health_checks_are_answered");
const PERIODS: Proof = Test("engine/agent/tests/node.rs", "planes_are_looked_at_at_least_as_often_as_the_periods_say");
