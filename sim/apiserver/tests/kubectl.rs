//! The real kubectl against the server.

mod common;

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};

use common::{Cluster, NODE};
use fairway_apiserver::{Options, kubeconfig};
use serde_json::Value;

/// kubectl with a configuration and a cache of its own.
struct Kubectl {
    folder: PathBuf,
    cluster: Cluster,
}

impl Drop for Kubectl {
    fn drop(&mut self) {
        let _gone = fs::remove_dir_all(&self.folder);
    }
}

/// A process that ends with the test.
struct Background(Child);

impl Drop for Background {
    fn drop(&mut self) {
        let _gone = self.0.kill();
        let _gone = self.0.wait();
    }
}

impl Kubectl {
    /// `None` where there is no kubectl.
    fn start(options: Options) -> Option<Kubectl> {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        if Command::new("kubectl").arg("--help").stdout(Stdio::null()).stderr(Stdio::null()).status().is_err() {
            eprintln!("SKIPPED: there is no kubectl on this machine");
            return None;
        }
        let name = format!("kubectl-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
        fs::create_dir_all(&folder).expect("a folder");
        let token = options.token.clone();
        let cluster = Cluster::start(options);
        cluster.apply(NODE);
        let url = format!("http://{}", cluster.address());
        fs::write(folder.join("config"), kubeconfig(&url, token.as_deref())).expect("a kubeconfig");
        Some(Kubectl { folder, cluster })
    }

    fn command(&self, args: &str) -> Command {
        let mut command = Command::new("kubectl");
        command.env("KUBECONFIG", self.folder.join("config")).env("KUBECACHEDIR", self.folder.join("cache"));
        command.arg("--request-timeout=30s").args(args.split_whitespace());
        command
    }

    /// Standard output, or standard error of a command that failed.
    fn try_with(&self, args: &str, input: &str) -> Result<String, String> {
        let mut command = self.command(args);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("kubectl");
        child.stdin.take().expect("stdin").write_all(input.as_bytes()).expect("input");
        let output = child.wait_with_output().expect("kubectl ends");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_string();
        if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
    }

    #[track_caller]
    fn with(&self, args: &str, input: &str) -> String {
        self.try_with(args, input).unwrap_or_else(|e| panic!("kubectl {args}: {e}"))
    }

    #[track_caller]
    fn run(&self, args: &str) -> String {
        self.with(args, "")
    }

    #[track_caller]
    fn json(&self, args: &str) -> Value {
        serde_json::from_str(&self.run(&format!("{args} -o json"))).expect("JSON")
    }
}

const DEPLOYMENT: &str = "
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, labels: {app: web}}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 0
      containers: [{name: c, image: 'x:1', ports: [{containerPort: 80}]}]
";

const SERVICE: &str = "
apiVersion: v1
kind: Service
metadata: {name: web, labels: {app: web}}
spec: {selector: {app: web}, ports: [{name: http, port: 80}], externalIPs: [10.0.0.1]}
";

#[test]
fn apply_creates_configures_leaves_alone_and_prunes() {
    let Some(kubectl) = Kubectl::start(Options::default()) else { return };
    let manifests = format!("{SERVICE}---{DEPLOYMENT}");
    assert_eq!(kubectl.with("apply -f -", &manifests), "service/web created\ndeployment.apps/web created");
    assert_eq!(kubectl.with("apply -f -", &manifests), "service/web unchanged\ndeployment.apps/web unchanged");
    assert_eq!(
        kubectl.run("wait --for=condition=Available deployment/web --timeout=30s"),
        "deployment.apps/web condition met"
    );
    assert!(kubectl.run("rollout status deployment/web --timeout=30s").contains("successfully rolled out"));
    // A field that is left out goes; what the server filled in stays.
    let address = kubectl.json("get service web")["spec"]["clusterIP"].clone();
    let less = SERVICE.replace(", externalIPs: [10.0.0.1]", "").replace("port: 80", "port: 81");
    assert_eq!(kubectl.with("apply -f -", &less), "service/web configured");
    let service = kubectl.json("get service web");
    assert_eq!(service["spec"].get("externalIPs"), None);
    assert_eq!(service["spec"]["ports"][0]["port"], 81);
    assert_eq!(service["spec"]["ports"].as_array().map(Vec::len), Some(1));
    assert_eq!(service["spec"]["clusterIP"], address);
    // Dry runs change nothing.
    assert_eq!(kubectl.with("apply -f - --dry-run=server", SERVICE), "service/web configured (server dry run)");
    assert_eq!(kubectl.json("get service web")["spec"]["ports"][0]["port"], 81);
    // A typing error is found, by the server.
    let wrong = kubectl.try_with("apply -f -", &SERVICE.replace("externalIPs", "externalIPz")).expect_err("strict");
    assert!(wrong.contains(r#"unknown field "spec.externalIPz""#), "{wrong}");
    let wrong = kubectl.try_with("apply -f -", &SERVICE.replace("port: 80", "port: eighty")).expect_err("a type");
    assert!(wrong.contains("spec.ports[0].port"), "{wrong}");
}

#[test]
fn server_side_apply_knows_owners() {
    let Some(kubectl) = Kubectl::start(Options::default()) else { return };
    let apply = "apply --server-side -f - --field-manager";
    assert_eq!(kubectl.with(&format!("{apply}=one"), SERVICE), "service/web serverside-applied");
    let other = SERVICE.replace("10.0.0.1", "10.0.0.2");
    let conflict = kubectl.try_with(&format!("{apply}=two"), &other).expect_err("a conflict");
    assert!(conflict.contains(r#"conflict with "one": .spec.externalIPs"#), "{conflict}");
    kubectl.with(&format!("{apply}=two --force-conflicts"), &other);
    assert_eq!(kubectl.json("get service web")["spec"]["externalIPs"][0], "10.0.0.2");
    let managers = kubectl.json("get service web --show-managed-fields")["metadata"]["managedFields"].clone();
    let names: Vec<_> = managers.as_array().expect("managers").iter().map(|m| m["manager"].clone()).collect();
    assert_eq!(names, ["one", "two"]);
}

#[test]
fn get_shows_tables_yaml_json_and_selections() {
    let Some(kubectl) = Kubectl::start(Options::default()) else { return };
    kubectl.with("apply -f -", &format!("{SERVICE}---{DEPLOYMENT}"));
    kubectl.run("wait --for=condition=Available deployment/web --timeout=30s");
    kubectl.run("wait --for=condition=Ready pod -l app=web --timeout=30s");
    let lines = |args: &str| kubectl.run(args).lines().map(String::from).collect::<Vec<_>>();
    let words = |line: &str| line.split_whitespace().map(String::from).collect::<Vec<_>>();
    let nodes = lines("get nodes -o wide");
    assert_eq!(words(&nodes[0]), ["NAME", "STATUS", "ROLES", "AGE", "VERSION", "INTERNAL-IP", "POD-CIDRS"]);
    assert_eq!(words(&nodes[1])[..3], ["vm-1", "Ready", "<none>"]);
    assert_eq!(words(&nodes[1])[5..], ["192.168.1.1", "11.0.1.0/24"]);
    let pods = lines("get pods");
    assert_eq!(words(&pods[0]), ["NAME", "READY", "STATUS", "RESTARTS", "AGE"]);
    assert_eq!(words(&pods[1])[1..4], ["1/1", "Running", "0"]);
    assert!(words(&pods[1])[4].ends_with('s'), "an age: {}", pods[1]);
    assert_eq!(pods.len(), 3);
    let services = lines("get svc");
    assert_eq!(words(&services[1])[..5], ["web", "ClusterIP", "10.96.0.2", "10.0.0.1", "80/TCP"]);
    assert_eq!(words(&lines("get deployments")[1])[..4], ["web", "2/2", "2", "2"]);
    assert_eq!(words(&lines("get endpointslices")[1])[..3], ["web-ipv4-0", "IPv4", "80"]);
    assert_eq!(words(&lines("get namespaces")[1])[..2], ["default", "Active"]);
    assert!(kubectl.run("get all").contains("deployment.apps/web"));
    assert!(kubectl.run("api-resources").contains("networkpolicies"));
    assert!(kubectl.run("describe service web").contains("10.96.0.2"));

    assert!(kubectl.run("get deployment web -o yaml").contains("kind: Deployment"));
    let all = kubectl.json("get pods,services");
    assert_eq!(all["kind"], "List");
    assert_eq!(all["items"].as_array().map(Vec::len), Some(3));
    let named = |args: &str| kubectl.run(&format!("{args} -o name"));
    assert_eq!(named("get services -l app=web"), "service/web");
    assert_eq!(named("get services -l app!=web"), "");
    assert_eq!(named("get pods -l app=web").lines().count(), 2);
    assert_eq!(named("get pods --field-selector spec.nodeName=vm-1").lines().count(), 2);
    assert_eq!(named("get pods --field-selector spec.nodeName=vm-2"), "");
    assert_eq!(named("get pods -A --field-selector status.phase=Running").lines().count(), 2);
    let refused = kubectl.try_with("get pods --field-selector spec.foo=1", "").expect_err("no such field");
    assert!(refused.contains("field label not supported"), "{refused}");
    let refused = kubectl.try_with("get pod nope", "").expect_err("no such pod");
    assert_eq!(refused, "Error from server (NotFound): pods \"nope\" not found");
}

#[test]
fn scale_label_annotate_patch_and_wait() {
    let Some(kubectl) = Kubectl::start(Options::default()) else { return };
    kubectl.with("create -f -", &format!("{SERVICE}---{DEPLOYMENT}"));
    let again = kubectl.try_with("create -f -", SERVICE).expect_err("it exists");
    assert!(again.contains("(AlreadyExists)"), "{again}");

    assert_eq!(kubectl.run("scale deployment web --replicas=4"), "deployment.apps/web scaled");
    kubectl.run("wait --for=jsonpath={.status.readyReplicas}=4 deployment/web --timeout=30s");
    let refused = kubectl.try_with("scale deployment web --current-replicas=3 --replicas=1", "").expect_err("not 3");
    assert!(refused.contains("Expected replicas to be 3"), "{refused}");
    assert_eq!(kubectl.run("scale deployment web --current-replicas=4 --replicas=1"), "deployment.apps/web scaled");
    assert_eq!(kubectl.json("get deployment web")["spec"]["replicas"], 1);

    assert_eq!(kubectl.run("label service web tier=front"), "service/web labeled");
    let refused = kubectl.try_with("label service web tier=back", "").expect_err("without --overwrite");
    assert!(refused.contains("overwrite"), "{refused}");
    assert_eq!(kubectl.run("label service web tier=back --overwrite"), "service/web labeled");
    assert_eq!(kubectl.run("annotate service web kube-router.io/service.scheduler=lc"), "service/web annotated");
    let metadata = kubectl.json("get service web")["metadata"].clone();
    assert_eq!(metadata["labels"]["tier"], "back");
    assert_eq!(metadata["annotations"]["kube-router.io/service.scheduler"], "lc");
    assert_eq!(kubectl.run("label service web tier-"), "service/web unlabeled");
    assert_eq!(kubectl.json("get service web")["metadata"]["labels"].get("tier"), None);

    let spec = |field: &str| kubectl.json("get service web")["spec"][field].clone();
    kubectl.run(r#"patch service web --type=merge -p {"spec":{"externalIPs":["10.0.0.9"]}}"#);
    assert_eq!(spec("externalIPs"), serde_json::json!(["10.0.0.9"]));
    kubectl.run(r#"patch service web --type=json -p [{"op":"add","path":"/spec/externalIPs/-","value":"10.0.0.10"}]"#);
    assert_eq!(spec("externalIPs"), serde_json::json!(["10.0.0.9", "10.0.0.10"]));
    kubectl.run(r#"patch service web -p {"spec":{"ports":[{"port":443,"name":"tls"}]}}"#);
    assert_eq!(spec("ports").as_array().map(Vec::len), Some(2), "a strategic patch adds to the ports");
    let status = r#"{"status":{"loadBalancer":{"ingress":[{"ip":"10.9.9.9"}]}},"spec":{"type":"NodePort"}}"#;
    kubectl.run(&format!("patch service web --subresource=status --type=merge -p {status}"));
    assert_eq!(kubectl.json("get service web")["status"]["loadBalancer"]["ingress"][0]["ip"], "10.9.9.9");
    assert_eq!(spec("type"), "ClusterIP", "a patch of the status changes nothing else");

    assert_eq!(kubectl.run("cordon vm-1"), "node/vm-1 cordoned");
    assert!(kubectl.run("get nodes").contains("Ready,SchedulingDisabled"));
    assert_eq!(kubectl.run("uncordon vm-1"), "node/vm-1 uncordoned");
}

#[test]
fn delete_waits_until_things_are_gone() {
    let Some(kubectl) = Kubectl::start(Options::default()) else { return };
    kubectl.with("apply -f -", &format!("{SERVICE}---{DEPLOYMENT}"));
    kubectl.run("wait --for=condition=Ready pod -l app=web --timeout=30s");
    let slice = kubectl.run("get endpointslices -o name");
    let mut waiting = kubectl.command("wait --for=delete --timeout=30s");
    let waiting = waiting.arg(&slice).stdout(Stdio::piped()).spawn().expect("kubectl wait");
    assert_eq!(kubectl.run("delete service web"), "service \"web\" deleted");
    let output = Background(waiting).0.wait().expect("it ends");
    assert!(output.success(), "the slice goes with its service");
    let pod = kubectl.run("get pods -o name").lines().next().expect("a pod").to_string();
    let deleted = kubectl.run(&format!("delete {pod}"));
    assert!(deleted.ends_with("deleted"), "{deleted}");
    assert!(kubectl.try_with(&format!("get {pod}"), "").is_err(), "deleted and replaced");
    assert_eq!(kubectl.run("delete deployment,service -l app=web"), "deployment.apps \"web\" deleted");
    kubectl.run("wait --for=delete pod -l app=web --timeout=30s");
    assert_eq!(kubectl.run("get pods -o name"), "");

    // A namespace goes with what is in it.
    kubectl.with("apply -f -", "{apiVersion: v1, kind: Namespace, metadata: {name: other}}");
    kubectl.with("apply -n other -f -", &format!("{SERVICE}---{DEPLOYMENT}"));
    kubectl.run("wait -n other --for=condition=Available deployment/web --timeout=30s");
    assert_eq!(kubectl.run("delete namespace other"), "namespace \"other\" deleted");
    assert_eq!(kubectl.run("get pods,services,deployments -n other -o name"), "");

    // A finalizer holds up the end.
    let held = "{apiVersion: v1, kind: ConfigMap, metadata: {name: held, finalizers: [example.com/hold]}}";
    kubectl.with("apply -f -", held);
    kubectl.run("delete configmap held --wait=false");
    assert!(kubectl.json("get configmap held")["metadata"].get("deletionTimestamp").is_some());
    kubectl.run(r#"patch configmap held --type=merge -p {"metadata":{"finalizers":null}}"#);
    kubectl.run("wait --for=delete configmap/held --timeout=30s");
}

#[test]
fn a_watching_get_sees_every_change() {
    let Some(kubectl) = Kubectl::start(Options::default()) else { return };
    kubectl.with("apply -f -", SERVICE);
    let watch = kubectl.command("get services -w --no-headers --output-watch-events --request-timeout=0");
    let mut watch = { watch }.stdout(Stdio::piped()).spawn().map(Background).expect("kubectl get -w");
    let mut lines = BufReader::new(watch.0.stdout.take().expect("stdout")).lines();
    let mut next = || {
        lines.next().expect("a line").expect("text").split_whitespace().take(3).map(String::from).collect::<Vec<_>>()
    };
    assert_eq!(next(), ["ADDED", "web", "ClusterIP"]);
    kubectl.run(r#"patch service web -p {"spec":{"type":"NodePort"}}"#);
    assert_eq!(next(), ["MODIFIED", "web", "NodePort"]);
    kubectl.run("delete service web");
    assert_eq!(next(), ["DELETED", "web", "NodePort"]);
}

#[test]
fn kubectl_survives_a_busy_server() {
    let Some(kubectl) = Kubectl::start(Options::default()) else { return };
    // Requests that are asked for later are repeated until they are answered.
    kubectl.cluster.server.misbehave("429=0.3,slow=5ms,duplicate=0.5,reorder=20ms".parse().expect("misbehaviour"));
    kubectl.with("apply -f -", &format!("{SERVICE}---{DEPLOYMENT}"));
    kubectl.run("wait --for=condition=Available deployment/web --timeout=60s");
    assert_eq!(kubectl.run("get services -o name"), "service/web");
}
