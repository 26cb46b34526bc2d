//! The API server with a kubelet that does as told: what a cluster does by itself, and what watchers hear of it.

use std::collections::BTreeMap;
use std::time::Duration;

use fairway_api::{Action, Api, ApiConfig, Misbehaviour, NodeSpec, Output, WatcherId};
use fairway_objects::{Delta, Kind, Object, ObjectKey};
use proptest::prelude::*;
use serde_json::{Value, json};

const MANIFEST: &str = include_str!("../../../scenarios/seed/mconnect.yaml");
const DUAL: &str = include_str!("../../../scenarios/seed/mconnect-dual-stack.yaml");

/// What a watcher believes.
#[derive(Debug, Default)]
struct View {
    objects: BTreeMap<ObjectKey, Object>,
    stale: BTreeMap<Kind, Vec<ObjectKey>>,
    listed: usize,
}

impl View {
    fn handle(&mut self, delta: Delta) {
        match delta {
            Delta::Put { object, .. } => {
                let key = object.key();
                self.stale.values_mut().for_each(|s| s.retain(|k| *k != key));
                self.objects.insert(key, object);
            }
            Delta::Invalid { key, .. } | Delta::Del(key) => {
                self.objects.remove(&key);
            }
            Delta::Relist(kind) => {
                let known = self.objects.keys().filter(|k| k.kind == kind).cloned().collect();
                self.stale.insert(kind, known);
            }
            Delta::Listed(kind) => {
                self.listed += 1;
                for key in self.stale.remove(&kind).unwrap_or_default() {
                    self.objects.remove(&key);
                }
            }
        }
    }
}

struct Cluster {
    api: Api,
    now: Duration,
    views: BTreeMap<WatcherId, View>,
    stops: Vec<(Duration, String, String)>,
    log: Vec<String>,
}

impl Cluster {
    fn new(nodes: u8, seed: u64) -> Self {
        let cidrs = ["12.0.0.0/16", "fd00:4000::/112"].map(|c| c.parse().expect("a CIDR"));
        let config =
            ApiConfig { service_cidrs: cidrs.to_vec(), node_grace_s: 10, eviction_s: 20, ..ApiConfig::default() };
        let mut cluster = Cluster {
            api: Api::new(config, seed),
            now: Duration::ZERO,
            views: BTreeMap::new(),
            stops: vec![],
            log: vec![],
        };
        for n in 1..=nodes {
            cluster.api.register_node(
                cluster.now,
                NodeSpec {
                    name: format!("n{n}"),
                    internal_ips: vec![[192, 168, 1, n].into()],
                    pod_cidrs: vec![
                        format!("11.0.{n}.0/24").parse().expect("a CIDR"),
                        format!("fd00:{n}::/64").parse().expect("a CIDR"),
                    ],
                },
            );
        }
        cluster
    }

    fn watch(&mut self, node: &str) -> WatcherId {
        let id = self.api.watch(self.now, node);
        self.views.insert(id, View::default());
        id
    }

    fn drain(&mut self) {
        while let Some(output) = self.api.poll() {
            self.log.push(format!("{:?} {output:?}", self.now));
            match output {
                Output::Deliver { watcher, deltas } => {
                    if let Some(view) = self.views.get_mut(&watcher) {
                        deltas.into_iter().for_each(|d| view.handle(d));
                    }
                }
                Output::StartPod(start) => self.api.pod_started(self.now, &start.namespace, &start.name),
                Output::StopPod { namespace, name, grace, .. } => self.stops.push((self.now + grace, namespace, name)),
            }
        }
    }

    /// Lets time pass.
    fn pass(&mut self, seconds: u64) {
        let end = self.now + Duration::from_secs(seconds);
        self.drain();
        loop {
            let stop = self.stops.iter().map(|(at, ..)| *at).min();
            let next = self.api.deadline().into_iter().chain(stop).min().filter(|at| *at <= end);
            let Some(at) = next else { break };
            self.now = self.now.max(at);
            self.api.handle(self.now);
            let due: Vec<_> = self.stops.iter().filter(|(at, ..)| *at <= self.now).cloned().collect();
            self.stops.retain(|(at, ..)| *at > self.now);
            for (_, namespace, name) in due {
                self.api.pod_stopped(self.now, &namespace, &name);
            }
            self.drain();
        }
        self.now = end;
    }

    /// Endpoints of mconnect: node, ready, serving, terminating.
    fn endpoints(&self, family: &str) -> Vec<(String, bool, bool, bool)> {
        let slices = self.api.list("EndpointSlice").filter(|s| {
            s.pointer("/metadata/labels/kubernetes.io~1service-name") == Some(&json!("mconnect"))
                && s["addressType"] == json!(family)
        });
        let mut found: Vec<_> = slices
            .flat_map(|s| s["endpoints"].as_array().cloned().unwrap_or_default())
            .map(|e| {
                let is = |c: &str| e["conditions"][c] == json!(true);
                (e["nodeName"].as_str().unwrap_or_default().to_string(), is("ready"), is("serving"), is("terminating"))
            })
            .collect();
        found.sort();
        found
    }

    fn ready(&self) -> Vec<String> {
        self.endpoints("IPv4").into_iter().filter(|e| e.1).map(|e| e.0).collect()
    }

    fn pod_on(&self, node: &str) -> String {
        let pod = self.api.list("Pod").find(|p| p["spec"]["nodeName"] == json!(node)).expect("a pod there");
        pod["metadata"]["name"].as_str().expect("a name").to_string()
    }
}

fn up(seed: u64) -> Cluster {
    let mut cluster = Cluster::new(4, seed);
    let applied = cluster.api.apply(cluster.now, MANIFEST);
    let said: Vec<String> = applied.into_iter().map(|a| a.expect("valid").to_string()).collect();
    assert_eq!(
        said,
        ["service/mconnect created", "service/mconnect-udp created", "deployment/mconnect-deployment created"]
    );
    cluster.pass(5);
    cluster
}

#[test]
fn the_seed_manifest_becomes_a_pod_on_each_node_and_ready_endpoints() {
    let cluster = up(1);
    assert_eq!(cluster.ready(), ["n1", "n2", "n3", "n4"]);
    let service = cluster.api.get("Service", "default", "mconnect").expect("stored");
    assert_eq!(service["spec"]["clusterIP"], json!("12.0.0.2"));
    assert_eq!(service["spec"]["ports"][0]["targetPort"], json!(5001));
    let udp = cluster.api.get("Service", "default", "mconnect-udp").expect("stored");
    assert_eq!(udp["spec"]["clusterIP"], json!("12.0.0.3"), "two services have two addresses");
    let ips: Vec<&str> = cluster.api.list("Pod").filter_map(|p| p["status"]["podIP"].as_str()).collect();
    assert_eq!(ips.len(), 4);
    assert!(ips.contains(&"11.0.1.2"), "the first address is the gateway's: {ips:?}");
}

#[test]
fn dual_stack_services_have_slices_of_both_families() {
    let mut cluster = Cluster::new(4, 2);
    assert!(cluster.api.apply(cluster.now, DUAL).iter().all(Result::is_ok));
    cluster.pass(5);
    assert_eq!(cluster.endpoints("IPv4").len(), 4);
    assert_eq!(cluster.endpoints("IPv6").len(), 4);
    let service = cluster.api.get("Service", "default", "mconnect").expect("stored");
    assert_eq!(service["spec"]["clusterIPs"], json!(["12.0.0.2", "fd00:4000::2"]));
}

#[test]
fn a_pod_that_fails_its_probe_stays_an_endpoint_that_is_not_ready() {
    let mut cluster = up(3);
    let pod = cluster.pod_on("n2");
    cluster.api.pod_ready(cluster.now, "default", &pod, false);
    assert_eq!(cluster.ready(), ["n1", "n3", "n4"]);
    assert!(cluster.endpoints("IPv4").contains(&("n2".into(), false, false, false)));
    cluster.api.pod_ready(cluster.now, "default", &pod, true);
    assert_eq!(cluster.ready().len(), 4);
}

#[test]
fn a_drained_pod_terminates_while_its_replacement_starts_elsewhere() {
    let mut cluster = up(4);
    cluster.api.drain(cluster.now, "n2").expect("a node");
    assert!(cluster.endpoints("IPv4").contains(&("n2".into(), false, true, true)), "{:?}", cluster.endpoints("IPv4"));
    cluster.pass(5);
    assert_eq!(cluster.ready().len(), 4);
    assert!(!cluster.ready().contains(&"n2".to_string()));
    cluster.pass(30);
    assert_eq!(cluster.endpoints("IPv4").len(), 4, "stopped after its grace period");
    cluster.api.cordon(cluster.now, "n2", false).expect("a node");
    cluster.api.scale(cluster.now, "default", "mconnect-deployment", 5).expect("a deployment");
    cluster.pass(5);
    assert!(cluster.ready().contains(&"n2".to_string()), "the emptiest node gets the next pod");
}

#[test]
fn a_dead_node_is_noticed_after_its_grace_and_emptied_after_the_eviction_time() {
    let mut cluster = up(5);
    cluster.api.kubelet(cluster.now, "n3", false);
    cluster.pass(9);
    assert_eq!((cluster.ready().len(), cluster.api.node_condition("n3")), (4, Some("True")));
    cluster.pass(2);
    assert_eq!(
        (cluster.ready(), cluster.api.node_condition("n3")),
        (vec!["n1".into(), "n2".into(), "n4".into()], Some("Unknown"))
    );
    cluster.pass(25);
    assert_eq!(cluster.ready().len(), 4, "replaced");
    assert!(!cluster.ready().contains(&"n3".to_string()));
    cluster.api.kubelet(cluster.now, "n3", true);
    assert_eq!(cluster.api.node_condition("n3"), Some("True"));
}

#[test]
fn a_deleted_service_has_no_slices_and_a_selectorless_one_gets_none() {
    let mut cluster = up(6);
    cluster.api.delete(cluster.now, "Service", "default", "mconnect").expect("there");
    assert_eq!(cluster.endpoints("IPv4"), []);
    assert!(cluster.api.delete(cluster.now, "Service", "default", "mconnect").is_err());
    let manual = "apiVersion: v1\nkind: Service\nmetadata: {name: mconnect}\nspec: {ports: [{port: 1}]}\n";
    assert!(cluster.api.apply(cluster.now, manual)[0].is_ok());
    assert_eq!(cluster.api.list("EndpointSlice").count(), 1, "only that of mconnect-udp");
}

#[test]
fn applying_again_changes_nothing_and_what_a_manifest_leaves_out_is_removed() {
    let mut cluster = up(7);
    let again = cluster.api.apply(cluster.now, MANIFEST);
    assert!(again.iter().all(|a| a.as_ref().is_ok_and(|a| a.action == Action::Unchanged)), "{again:?}");
    let shorter = MANIFEST.replace("  externalIPs:\n    - 10.0.0.2\n", "");
    let changed = cluster.api.apply(cluster.now, &shorter);
    assert_eq!(changed[0].as_ref().map(|a| a.action), Ok(Action::Configured));
    let service = cluster.api.get("Service", "default", "mconnect").expect("stored");
    assert_eq!(service["spec"].get("externalIPs"), None);
    assert_eq!(service["spec"]["clusterIP"], json!("12.0.0.2"), "what the server added stays");
}

#[test]
fn a_bad_document_is_named_and_hides_no_other() {
    let mut cluster = Cluster::new(1, 8);
    let text = "kind: Service\nmetadata: {name: a}\n---\n# only a remark\n---\napiVersion: v1\nkind: Service\nmetadata: {name: b}\nspec: [\n---\n\
                apiVersion: v1\nkind: Service\nmetadata: {name: c}\nspec: {ports: [{port: 1}]}\n";
    let results = cluster.api.apply(cluster.now, text);
    let said: Vec<String> =
        results.iter().map(|r| r.as_ref().map_or_else(ToString::to_string, ToString::to_string)).collect();
    assert_eq!(said.len(), 3, "{said:?}");
    assert!(said[0].starts_with("document 1 (line 1) Service/a: `apiVersion` is missing"), "{said:?}");
    assert!(said[1].starts_with("document 2 (line "), "{said:?}");
    assert_eq!(said[2], "service/c created");
}

#[test]
fn a_watcher_gets_lists_first_and_pods_of_its_node_only() {
    let mut cluster = up(9);
    let id = cluster.watch("n2");
    cluster.pass(1);
    let view = &cluster.views[&id];
    assert_eq!(view.listed, Kind::ALL.len());
    let pods: Vec<_> = view.objects.keys().filter(|k| k.kind == Kind::Pod).collect();
    assert_eq!(pods.len(), 1, "{pods:?}");
    assert_eq!(view.objects.keys().filter(|k| k.kind == Kind::Node).count(), 4);
}

#[derive(Clone, Debug)]
enum Call {
    Scale(u32),
    Drain(u8),
    Uncordon(u8),
    Kubelet(u8, bool),
    Probe(u8, bool),
    DeletePod(u8),
    External(u8),
    DeleteService,
    Apply,
    Rewatch(u8),
    Pass(u64),
}

fn call() -> impl Strategy<Value = Call> {
    prop_oneof![
        (0u32..8).prop_map(Call::Scale),
        (1u8..4).prop_map(Call::Drain),
        (1u8..4).prop_map(Call::Uncordon),
        (1u8..4, any::<bool>()).prop_map(|(n, a)| Call::Kubelet(n, a)),
        (0u8..8, any::<bool>()).prop_map(|(n, r)| Call::Probe(n, r)),
        (0u8..8).prop_map(Call::DeletePod),
        (1u8..250).prop_map(Call::External),
        Just(Call::DeleteService),
        Just(Call::Apply),
        (1u8..4).prop_map(Call::Rewatch),
        (0u64..20).prop_map(Call::Pass),
    ]
}

/// Plays calls on a cluster of three nodes that are all watched.
fn play(seed: u64, calls: &[Call]) -> Cluster {
    let mut cluster = Cluster::new(3, seed);
    let mut watchers: BTreeMap<u8, WatcherId> = (1..4).map(|n| (n, cluster.watch(&format!("n{n}")))).collect();
    cluster.api.apply(cluster.now, MANIFEST);
    for call in calls {
        let now = cluster.now;
        let pod = |cluster: &Cluster, n: u8| {
            let pods: Vec<String> =
                cluster.api.list("Pod").filter_map(|p| p["metadata"]["name"].as_str().map(String::from)).collect();
            (!pods.is_empty()).then(|| pods[usize::from(n) % pods.len()].clone())
        };
        // A call about something that is gone is refused, which is part of the game.
        match call {
            Call::Scale(n) => drop(cluster.api.scale(now, "default", "mconnect-deployment", *n)),
            Call::Drain(n) => drop(cluster.api.drain(now, &format!("n{n}"))),
            Call::Uncordon(n) => drop(cluster.api.cordon(now, &format!("n{n}"), false)),
            Call::Kubelet(n, alive) => cluster.api.kubelet(now, &format!("n{n}"), *alive),
            Call::Probe(n, ready) => {
                if let Some(pod) = pod(&cluster, *n) {
                    cluster.api.pod_ready(now, "default", &pod, *ready);
                }
            }
            Call::DeletePod(n) => {
                if let Some(pod) = pod(&cluster, *n) {
                    drop(cluster.api.delete(now, "Pod", "default", &pod));
                }
            }
            Call::External(n) => {
                let patch = json!({"spec": {"externalIPs": [format!("10.0.0.{n}")]}});
                drop(cluster.api.patch_json(now, "Service", "default", "mconnect", patch));
            }
            Call::DeleteService => drop(cluster.api.delete(now, "Service", "default", "mconnect")),
            Call::Apply => drop(cluster.api.apply(now, MANIFEST)),
            Call::Rewatch(n) => {
                if let Some(old) = watchers.remove(n) {
                    cluster.api.unwatch(old);
                    cluster.views.remove(&old);
                }
                watchers.insert(*n, cluster.watch(&format!("n{n}")));
            }
            Call::Pass(s) => cluster.pass(*s),
        }
        cluster.drain();
    }
    cluster.pass(120);
    cluster
}

/// What the store would tell a watcher on a node.
fn truth(cluster: &Cluster, node: &str) -> BTreeMap<ObjectKey, Object> {
    let objects = Kind::ALL.iter().flat_map(|kind| cluster.api.list(kind.as_str()));
    let seen = objects.filter(|o: &&Value| o["kind"] != json!("Pod") || o["spec"]["nodeName"] == json!(node));
    seen.filter_map(|o| match fairway_decode::decode(o) {
        Ok(Delta::Put { object, .. }) => Some((object.key(), object)),
        _ => None,
    })
    .collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn every_watcher_ends_up_with_the_truth(seed in any::<u64>(), calls in prop::collection::vec(call(), 0..30)) {
        let cluster = play(seed, &calls);
        for (n, view) in cluster.views.values().enumerate() {
            let matching = (1..4).any(|node| truth(&cluster, &format!("n{node}")) == view.objects);
            prop_assert!(matching, "watcher {n} sees {:?}", view.objects.keys().collect::<Vec<_>>());
            prop_assert!(view.listed >= Kind::ALL.len());
        }
        // Deployments get what they want while any node takes pods.
        let open = cluster.api.list("Node").any(|n| {
            n["spec"].get("unschedulable").is_none() && n["status"]["conditions"][0]["status"] == json!("True")
        });
        let wanted = cluster.api.get("Deployment", "default", "mconnect-deployment").map(|d| d["spec"]["replicas"].clone());
        if open {
            let pods = cluster.api.list("Pod").filter(|p| p["metadata"].get("deletionGracePeriodSeconds").is_none()).count();
            prop_assert_eq!(wanted, Some(json!(pods)));
        }
    }

    #[test]
    fn the_same_seed_gives_the_same_history(seed in any::<u64>(), calls in prop::collection::vec(call(), 0..10)) {
        prop_assert_eq!(play(seed, &calls).log, play(seed, &calls).log);
    }
}

/// Whatever a watcher believes is what the store has.
fn knows_everything(cluster: &Cluster, id: WatcherId) -> bool {
    let view = &cluster.views[&id];
    let known = |kind: Kind| view.objects.keys().filter(|k| k.kind == kind).count();
    let fresh = view.stale.is_empty() && cluster.api.up_to_date(id);
    fresh
        && [Kind::Node, Kind::Service, Kind::EndpointSlice]
            .iter()
            .all(|kind| known(*kind) == cluster.api.list(kind.as_str()).count())
}

#[test]
fn a_watcher_without_a_server_hears_nothing_and_then_what_it_missed() {
    for compacted in [false, true] {
        let mut cluster = Cluster::new(2, 5);
        let early = cluster.watch("n1");
        cluster.pass(1);
        assert!(knows_everything(&cluster, early));
        let lists = cluster.views[&early].listed;
        cluster.api.reachable(cluster.now, false);
        let late = cluster.watch("n2");
        assert!(cluster.api.apply(cluster.now, MANIFEST).iter().all(Result::is_ok));
        cluster.pass(3600);
        assert!(cluster.api.cut_off(cluster.now, early) && cluster.api.cut_off(cluster.now, late));
        assert_eq!(cluster.views[&late].listed, 0);
        assert!(!cluster.api.up_to_date(early), "services were added");
        assert!(!cluster.views[&early].objects.keys().any(|k| k.kind == Kind::Service));
        if compacted {
            cluster.api.cut_and_compact(cluster.now);
        }
        cluster.api.reachable(cluster.now, true);
        assert!(cluster.api.cut_off(cluster.now, early), "it does not know yet");
        cluster.pass(40);
        for id in [early, late] {
            assert!(!cluster.api.cut_off(cluster.now, id) && knows_everything(&cluster, id), "{compacted} {id:?}");
        }
        let again = cluster.views[&early].listed - lists;
        assert_eq!(again > 0, compacted, "who finds the history gone lists anew, nobody else");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Whatever the server does on a bad day, in the end its watchers know what is true.
    #[test]
    fn misbehaviour_leaves_nothing_wrong(
        seed in any::<u64>(),
        days in prop::collection::vec((0u8..5, 0.0..1.0f64, 0.0..0.6f64, 0u64..20), 1..8),
    ) {
        let mut cluster = Cluster::new(3, seed);
        cluster.api.keep_history(100);
        let id = cluster.watch("n1");
        prop_assert!(cluster.api.apply(cluster.now, MANIFEST).iter().all(Result::is_ok));
        for (n, (what, often, refused, seconds)) in days.into_iter().enumerate() {
            match what {
                0 => cluster.api.reachable(cluster.now, false),
                1 => cluster.api.reachable(cluster.now, true),
                2 => cluster.api.cut_and_compact(cluster.now),
                _ => cluster.api.misbehave(Misbehaviour {
                    slow: Duration::from_millis(50),
                    reorder: Duration::from_secs(1),
                    disconnect: refused,
                    stale: often,
                    duplicate: often,
                    too_many: refused,
                    internal: refused,
                    gone: refused,
                }),
            }
            let replicas = u32::try_from(n % 4).unwrap_or_default();
            cluster.api.scale(cluster.now, "", "mconnect-deployment", replicas).expect("scaled");
            cluster.pass(seconds);
        }
        cluster.api.reachable(cluster.now, true);
        cluster.api.misbehave(Misbehaviour::default());
        cluster.pass(120);
        prop_assert!(knows_everything(&cluster, id), "{:?}", cluster.views[&id]);
        let told: Vec<&Object> = cluster.views[&id].objects.values().collect();
        for slice in cluster.api.list("EndpointSlice") {
            let is = fairway_decode::decode(slice).ok();
            let known = told.iter().any(|o| matches!(&is, Some(Delta::Put { object, .. }) if object == *o));
            prop_assert!(known, "{slice}");
        }
    }
}
