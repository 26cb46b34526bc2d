//! Addresses for services of type LoadBalancer, and Events, as a user sees them: the real `kubectl` against `fairway
//! apiserver`, and a daemon that does nothing else (`--run-loadbalancer` alone).

mod play;

use play::{missing, part, play};

/// What both scripts begin with.
const HEAD: &str = r#"
fairway=$1 folder=$2
cd "$folder"
ip link set lo up
cat > node.yaml <<YAML
apiVersion: v1
kind: Node
metadata: {name: vm-001}
spec: {podCIDR: 11.0.1.0/24, podCIDRs: [11.0.1.0/24]}
status: {addresses: [{type: InternalIP, address: 127.0.0.1}]}
YAML
service() {
  cat <<YAML
apiVersion: v1
kind: Service
metadata: {name: $1, annotations: {$2}}
spec: {type: LoadBalancer, ports: [{port: 80}], selector: {app: nobody}}
YAML
}
cluster() { kubectl --kubeconfig kc "$@"; }
# Until a command prints a text.
until_says() {
  text=$1; shift
  for _ in $(seq 100); do
    if [[ $("$@" 2>&1 || true) == *"$text"* ]]; then return; fi
    sleep 0.1
  done
  echo "waited in vain for: $text"; "$@" || true; cat node.log api.log; exit 1
}
export NODE_NAME=vm-001 POD_NAMESPACE=kube-system
flags="--run-router=false --run-service-proxy=false --run-firewall=false --enable-overlay=false
  --enable-pod-egress=false --run-loadbalancer --health-port=0 --metrics-port=20300"
"#;

const SCRIPT: &str = r#"
"$fairway" apiserver --listen 127.0.0.1:6443 --write-kubeconfig kc --apply node.yaml > api.log 2>&1 &
until_says vm-001 cluster get nodes
ip() { cluster get service "$1" -o "jsonpath={.status.loadBalancer.ingress[*].ip}/"; }
service first "" | cluster apply -f -
service second "" | cluster apply -f -
flags="$flags --kubeconfig kc --loadbalancer-ip-range=10.1.0.0/30"
POD_NAME=one "$fairway" node $flags > node.log 2>&1 & daemon=$!
until_says 10.1.0.1/ ip first
until_says 10.1.0.2/ ip second
service third "kube-router.io/service.scheduler: nonsense" | cluster apply -f -
until_says NoFreeAddress cluster get events
until_says AddressGiven cluster get events
until_says IgnoredAnnotation cluster get events
echo "== services"
cluster get services
echo "== events"
cluster get events
echo "== describe"
cluster describe service third
echo "== lease"
cluster get lease -n kube-system kube-router-lballoc -o "jsonpath={.spec.holderIdentity} {.spec.leaseDurationSeconds} {.spec.leaseTransitions}"
echo
echo "== status"
"$fairway" status
"$fairway" status -o json | tr -d ' \n'
echo
echo "== metrics"
exec 3<>/dev/tcp/127.0.0.1/20300
printf 'GET /metrics HTTP/1.0\r\n\r\n' >&3
timeout 5 cat <&3 | grep -E "^kube_router_(kubernetes_events|loadbalancer)"
echo "== one comes back"
cluster delete service first
until_says 10.1.0.1/ ip third
cluster get services third
"$fairway" status
echo "== it ends and another takes over"
kill -TERM $daemon; wait $daemon; echo "status $?"
cluster get lease -n kube-system kube-router-lballoc -o "jsonpath=holder:{.spec.holderIdentity}:"
echo
cluster delete service second
POD_NAME=two "$fairway" node $flags > node.log 2>&1 & daemon=$!
service fourth "" | cluster apply -f -
until_says 10.1.0.2/ ip fourth
cluster get lease -n kube-system kube-router-lballoc -o "jsonpath={.spec.holderIdentity}"
echo
ip third
echo
kill -TERM $daemon; wait $daemon
"#;

#[test]
fn kubectl_shows_addresses_and_events() {
    if let Some(reason) = missing() {
        println!("skipped: {reason}");
        return;
    }
    let output = play("loadbalancer", &format!("{HEAD}{SCRIPT}"));
    assert!(output.status.success(), "{:?}", output.status);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let part = |name: &str| part(&text, name);
    // Columns have one space between them.
    let lines = |name: &str| -> Vec<String> {
        part(name).lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect()
    };
    let shown = |name: &str, begin: &str, words: &str| {
        let lines = lines(name);
        assert!(lines.iter().any(|l| l.starts_with(begin) && l.contains(words)), "{begin} … {words}: {lines:#?}");
    };
    shown("services", "first LoadBalancer", " 10.1.0.1 80:");
    shown("services", "second LoadBalancer", " 10.1.0.2 80:");
    shown("services", "third LoadBalancer", " <pending> 80:");
    shown("events", "", "Normal AddressGiven service/first given 10.1.0.1");
    shown("events", "", "Warning NoFreeAddress service/third status.loadBalancer.ingress: no free IPv4 address in");
    shown("events", "", "Warning IgnoredAnnotation service/third");
    // Only with the object's uid.
    shown("describe", "Warning NoFreeAddress", "fairway");
    shown("lease", "one", "one 15 0");
    shown("status", "LOAD BALANCER", "this node gives addresses, Lease kube-system/kube-router-lballoc");
    shown("status", "default/first:", "10.1.0.1");
    shown("status", "default/third:", "waits");
    assert!(part("status").contains(r#""leader":true"#), "{text}");
    for line in [
        r#"kubernetes_events_total{result="written"} 4"#,
        r#"kubernetes_events_total{result="dropped"} 0"#,
        "loadbalancer_leader 1",
        "loadbalancer_services 3",
        "loadbalancer_services_waiting 1",
    ] {
        shown("metrics", "kube_router_", line);
    }
    shown("one comes back", "third LoadBalancer", " 10.1.0.1 80:");
    shown("it ends and another takes over", "status", "status 0");
    shown("it ends and another takes over", "holder::", "");
    shown("it ends and another takes over", "two", "");
    shown("it ends and another takes over", "10.1.0.1/", "");
}

#[test]
fn without_the_right_to_write_events_addresses_are_given_and_it_is_said_once() {
    if let Some(reason) = missing() {
        println!("skipped: {reason}");
        return;
    }
    let script = format!(
        "{HEAD}{}",
        r#"
"$fairway" apiserver --tls --token of-an-administrator --service-account kube-system/fairway=of-the-daemon \
  --listen 127.0.0.1:6443 --write-kubeconfig kc --apply node.yaml > api.log 2>&1 &
until_says vm-001 cluster get nodes
sed 's/of-an-administrator/of-the-daemon/' kc > kc.daemon
cluster apply -f - <<YAML
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: fairway}
rules:
  - {apiGroups: ["", discovery.k8s.io], resources: [nodes, services, endpointslices], verbs: [get, list, watch]}
  - {apiGroups: [""], resources: [services/status], verbs: [patch]}
  - {apiGroups: [coordination.k8s.io], resources: [leases], verbs: [create, get, update]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: fairway}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: fairway}
subjects: [{kind: ServiceAccount, name: fairway, namespace: kube-system}]
YAML
for n in 1 2 3; do service s$n "kube-router.io/service.scheduler: nonsense" | cluster apply -f -; done
POD_NAME=one "$fairway" node $flags --kubeconfig kc.daemon --loadbalancer-ip-range=10.1.0.0/28 > node.log 2>&1 & daemon=$!
until_says 10.1.0.3 cluster get services
until_says "Kubernetes Events" cat node.log
cluster annotate --overwrite service s1 kube-router.io/service.scheduler=otherwise
until_says '`otherwise` is none of' cat node.log
echo "== log"
grep "Kubernetes Events" node.log
echo "== events"
cluster get events 2>&1
kill -TERM $daemon; wait $daemon
"#
    );
    let output = play("events-forbidden", &script);
    assert!(output.status.success(), "{:?}", output.status);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let said = text.split_once("== log\n").expect("the script came here").1;
    assert_eq!(
        said.matches("Kubernetes Events: cannot be written: 403 Forbidden: events is forbidden").count(),
        1,
        "{said}"
    );
    assert!(said.contains("No resources found"), "{said}");
}
