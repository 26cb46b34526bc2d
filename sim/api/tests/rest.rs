//! The REST verbs and the history: whoever replays the changes from any version has what is there.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use fairway_api::{Api, ApiConfig, ApiError, Change, DeleteOptions, Gone, Output, Part};
use proptest::prelude::*;
use serde_json::{Value, json};

const KINDS: [&str; 6] = ["Deployment", "EndpointSlice", "Namespace", "Node", "Pod", "Service"];

type Names = BTreeMap<(String, String), Arc<Value>>;

struct Cluster {
    api: Api,
    now: Duration,
}

impl Cluster {
    fn new(history: usize) -> Cluster {
        let config = ApiConfig { adopt_nodes: true, ..ApiConfig::default() };
        let mut api = Api::new(config, 7);
        api.keep_history(history);
        Cluster { api, now: Duration::ZERO }
    }

    fn create(&mut self, kind: &str, object: Value) -> Result<Arc<Value>, ApiError> {
        self.api.create(self.now, kind, "", object, false)
    }

    /// Time passes, and the kubelets do what is asked of them.
    fn run(&mut self, ms: u64) {
        let until = self.now + Duration::from_millis(ms);
        loop {
            while let Some(output) = self.api.poll() {
                match output {
                    Output::StartPod(start) => self.api.pod_started(self.now, &start.namespace, &start.name),
                    Output::StopPod { namespace, name, .. } => self.api.pod_stopped(self.now, &namespace, &name),
                    Output::Deliver { .. } => {}
                }
            }
            match self.api.deadline().filter(|at| *at <= until) {
                Some(at) => self.now = self.now.max(at),
                None => break,
            }
            self.api.handle(self.now);
        }
        self.now = until;
    }

    fn list(&self, kind: &str) -> Names {
        named(self.api.objects(kind, ""))
    }
}

fn named(objects: impl IntoIterator<Item = Arc<Value>>) -> Names {
    let text = |o: &Value, path: &str| o.pointer(path).and_then(Value::as_str).unwrap_or_default().to_string();
    objects.into_iter().map(|o| ((text(&o, "/metadata/namespace"), text(&o, "/metadata/name")), o)).collect()
}

fn node(name: &str, n: u8) -> Value {
    let cidr = format!("11.0.{n}.0/24");
    json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}, "spec": {"podCIDR": cidr, "podCIDRs": [cidr]}})
}

fn deployment(name: &str, replicas: u8) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name},
        "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": name}}, "template": {
            "metadata": {"labels": {"app": name}}, "spec": {"containers": [{"name": "c", "image": "x"}]}}},
    })
}

fn service(name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": name},
        "spec": {"selector": {"app": name}, "ports": [{"port": 80}]},
    })
}

#[derive(Clone, Debug)]
enum Op {
    Node(u8),
    Deployment(u8, u8),
    Service(u8),
    Scale(u8, u8),
    Delete(&'static str, u8),
    Run(u16),
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        (0..3u8).prop_map(Op::Node),
        (0..2u8, 0..4u8).prop_map(|(name, replicas)| Op::Deployment(name, replicas)),
        (0..2u8).prop_map(Op::Service),
        (0..2u8, 0..5u8).prop_map(|(name, replicas)| Op::Scale(name, replicas)),
        (prop::sample::select(&["Node", "Deployment", "Service", "Pod"][..]), 0..3u8)
            .prop_map(|(k, n)| Op::Delete(k, n)),
        (0..2000u16).prop_map(Op::Run),
    ]
}

impl Cluster {
    fn act(&mut self, op: &Op) {
        let now = self.now;
        // What is there already, or is not there, is refused; that is no matter here.
        let _refused = match *op {
            Op::Node(n) => self.create("Node", node(&format!("x{n}"), n + 1)).map(drop),
            Op::Deployment(n, replicas) => self.create("Deployment", deployment(&format!("x{n}"), replicas)).map(drop),
            Op::Service(n) => self.create("Service", service(&format!("x{n}"))).map(drop),
            Op::Scale(n, replicas) => self.api.scale(now, "default", &format!("x{n}"), replicas.into()),
            Op::Delete("Pod", n) => match self.list("Pod").keys().nth(n.into()) {
                Some((ns, name)) => self.api.delete_with(now, ("Pod", ns, name), &DeleteOptions::default()).map(drop),
                None => Ok(()),
            },
            Op::Delete(kind, n) => {
                self.api.delete_with(now, (kind, "", &format!("x{n}")), &DeleteOptions::default()).map(drop)
            }
            Op::Run(ms) => {
                self.run(ms.into());
                Ok(())
            }
        };
    }
}

fn replay(view: &mut Names, changes: &[Change]) {
    for change in changes {
        let key = (change.namespace.clone(), change.name.clone());
        assert_eq!(view.get(&key), change.before.as_ref(), "what was before {change:?}");
        if change.deleted {
            view.remove(&key);
        } else {
            view.insert(key, change.after.clone());
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn replaying_from_any_version_gives_what_is_there(ops in proptest::collection::vec(op(), 1..40)) {
        let mut cluster = Cluster::new(100_000);
        let mut seen: Vec<(u64, Vec<Names>)> = vec![];
        for op in &ops {
            seen.push((cluster.api.version(), KINDS.iter().map(|k| cluster.list(k)).collect()));
            cluster.act(op);
        }
        for (version, lists) in seen {
            for (kind, list) in KINDS.iter().zip(lists) {
                let changes: Vec<Change> =
                    cluster.api.changes_since(kind, version).expect("all is remembered").cloned().collect();
                prop_assert!(changes.is_sorted_by_key(|c| c.version), "each has its own version, in order");
                prop_assert!(changes.iter().all(|c| c.version > version));
                prop_assert_eq!(&named(cluster.api.objects_at(kind, "", version).expect("a state")), &list);
                let mut view = list;
                replay(&mut view, &changes);
                prop_assert_eq!(view, cluster.list(kind), "{}", kind);
            }
        }
        // Deleting everything leaves nothing but the namespaces.
        for n in 0..3 {
            for kind in ["Service", "Deployment", "Node"] {
                cluster.act(&Op::Delete(kind, n));
            }
        }
        cluster.run(60_000);
        for kind in ["Deployment", "EndpointSlice", "Node", "Pod", "Service"] {
            prop_assert_eq!(cluster.list(kind), Names::new(), "{}", kind);
        }
    }
}

#[test]
fn the_history_is_bounded() {
    let mut cluster = Cluster::new(2);
    let start = cluster.api.version();
    for n in 0..3 {
        cluster.create("Service", service(&format!("s{n}"))).expect("created");
    }
    let since = |cluster: &Cluster, kind: &str, version| {
        cluster.api.changes_since(kind, version).map(|c| c.map(|c| c.name.clone()).collect::<Vec<_>>())
    };
    let made: Vec<u64> = cluster.api.objects("Service", "").map(|o| version(&o)).collect();
    assert_eq!(since(&cluster, "Service", made[0]), Ok(vec!["s1".into(), "s2".into()]));
    assert_eq!(since(&cluster, "Service", start), Err(Gone { asked: start, oldest: made[0] }));
    // Each kind has its own.
    assert_eq!(since(&cluster, "Node", start), Ok(vec![]));
    cluster.api.compact();
    assert!(since(&cluster, "Node", start).is_err());
    assert_eq!(since(&cluster, "Service", cluster.api.version()), Ok(vec![]));
}

fn version(object: &Value) -> u64 {
    object["metadata"]["resourceVersion"].as_str().and_then(|v| v.parse().ok()).expect("a version")
}

#[test]
fn a_deployment_reports_its_pods() {
    let mut cluster = Cluster::new(100);
    cluster.create("Deployment", deployment("web", 2)).expect("created");
    let status = |cluster: &Cluster| cluster.api.get("Deployment", "", "web").expect("it is there")["status"].clone();
    let available = |cluster: &Cluster| status(cluster)["conditions"][0]["status"].clone();
    assert_eq!((&status(&cluster)["replicas"], available(&cluster)), (&json!(2), json!("False")));
    // Pods wait for a node.
    cluster.run(10_000);
    assert_eq!(status(&cluster).get("readyReplicas"), None);
    cluster.create("Node", node("n", 1)).expect("created");
    cluster.run(10_000);
    assert_eq!((&status(&cluster)["readyReplicas"], available(&cluster)), (&json!(2), json!("True")));
    cluster.api.scale(cluster.now, "", "web", 0).expect("scaled");
    cluster.run(10_000);
    assert_eq!(status(&cluster).get("replicas"), None);
    assert_eq!(status(&cluster)["observedGeneration"], 2);
}

#[test]
fn what_the_server_owns_a_client_cannot_change() {
    let mut cluster = Cluster::new(100);
    let made = cluster.create("Service", service("s")).expect("created");
    let mut wish = (*made).clone();
    wish["metadata"]["uid"] = Value::Null;
    wish["metadata"]["creationTimestamp"] = json!("1999-01-01T00:00:00Z");
    wish["metadata"]["deletionTimestamp"] = json!("1999-01-01T00:00:00Z");
    wish["spec"].as_object_mut().expect("a spec").remove("clusterIP");
    wish["spec"].as_object_mut().expect("a spec").remove("clusterIPs");
    wish["status"] = json!({"loadBalancer": {"ingress": [{"ip": "10.9.9.9"}]}});
    let at = ("Service", "default", "s");
    let stored = cluster.api.replace(cluster.now, at, wish.clone(), Part::Whole, false).expect("no change");
    assert_eq!(stored, made);
    let stored = cluster.api.replace(cluster.now, at, wish, Part::Status, false).expect("a status");
    assert_eq!(stored["status"]["loadBalancer"]["ingress"][0]["ip"], "10.9.9.9");
    assert_eq!(stored["spec"], made["spec"]);
}

#[test]
fn labels_of_a_pod_move_it_between_services() {
    let mut cluster = Cluster::new(100);
    cluster.create("Node", node("n", 1)).expect("created");
    cluster.create("Service", service("a")).expect("created");
    cluster.create("Service", service("b")).expect("created");
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "labels": {"app": "a"}},
        "spec": {"containers": [{"name": "c", "image": "x"}]},
    });
    cluster.create("Pod", pod).expect("created");
    cluster.run(10_000);
    let endpoints = |cluster: &Cluster, service: &str| {
        let slice = cluster.api.get("EndpointSlice", "", &format!("{service}-ipv4-0")).expect("a slice");
        slice["endpoints"].as_array().map_or(0, Vec::len)
    };
    assert_eq!((endpoints(&cluster, "a"), endpoints(&cluster, "b")), (1, 0));
    let patch = json!({"metadata": {"labels": {"app": "b"}}});
    cluster.api.patch_json(cluster.now, "Pod", "", "p", patch).expect("patched");
    assert_eq!((endpoints(&cluster, "a"), endpoints(&cluster, "b")), (0, 1));
}
