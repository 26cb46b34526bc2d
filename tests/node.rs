//! The daemon as its user runs it: manifests in a folder, Debian's gobgpd as the other router, the real `gobgp` and
//! `fairway bgp` to look. In a network namespace and a process namespace of its own, which take everything with them.

use std::process::Command;

mod play;

use play::{missing, part, play};

/// The router is gobgpd at the other end of a cable, in a namespace inside ours.
const HEAD: &str = r#"
fairway=$1 folder=$2
cd "$folder"
ip link set lo up
unshare -n sleep 60 & them=$!
until [ "$(readlink /proc/$them/ns/net)" != "$(readlink /proc/$$/ns/net)" ]; do sleep 0.01; done
there() { nsenter -t $them -n "$@"; }
ip link add eth1 type veth peer name eth1 netns $them
ip addr add 10.0.0.1/24 dev eth1
ip link set eth1 up
there ip link set lo up
there ip addr add 10.0.0.2/24 dev eth1
there ip link set eth1 up
mkdir manifests
node() {
  cat > manifests/node.tmp <<YAML
apiVersion: v1
kind: Node
metadata: {name: vm-001, annotations: {$1}}
spec: {podCIDR: 11.0.1.0/24, podCIDRs: [11.0.1.0/24]}
status: {addresses: [{type: InternalIP, address: 10.0.0.1}]}
YAML
  mv manifests/node.tmp manifests/node.yaml
}
cat > gobgpd.yaml <<YAML
global: {config: {as: 65002, router-id: 10.0.0.2, port: 1790, local-address-list: [10.0.0.2]}}
neighbors:
  - config: {neighbor-address: 10.0.0.1, peer-as: 65001}
    transport: {config: {passive-mode: true, local-address: 10.0.0.2}}
YAML
there gobgpd -t yaml -f gobgpd.yaml > gobgpd.log 2>&1 &
theirs() { there gobgp "$@"; }
# Says so when their RIB has not this text.
gone() { local rib; rib=$(theirs global rib) && [[ $rib != *"$1"* ]] && echo "$1 is gone"; }
# Until a command prints a text.
until_says() {
  text=$1; shift
  for _ in $(seq 150); do
    if [[ $("$@" 2>&1 || true) == *"$text"* ]]; then return; fi
    sleep 0.1
  done
  echo "waited in vain for: $text"; "$@" || true; cat node.log gobgpd.log; exit 1
}
flags="--hostname-override=vm-001 --run-service-proxy=false --run-firewall=false
  --enable-overlay=false --enable-pod-egress=false --enable-cni=false --peer-router-ips 10.0.0.2 --peer-router-asns 65002
  --peer-router-ports=1790 --cluster-asn 65001 --bgp-drain-time=2s --metrics-port=8080 --enable-bfd"
"#;

#[test]
fn a_node_of_manifests_peers_with_gobgpd_follows_edits_and_drains_before_it_ends() {
    if let Some(reason) = missing() {
        println!("skipped: {reason}");
        return;
    }
    let script = format!(
        "{HEAD}{}",
        r#"
node ""
flags="--manifests manifests -v 3 $flags"
"$fairway" node $flags > node.log 2>&1 & daemon=$!
until_says 11.0.1.0/24 theirs global rib
echo "== their rib"; theirs global rib
echo "== gobgp asks us"
gobgp neighbor
gobgp neighbor 10.0.0.2 adj-out
gobgp global
gobgp policy > policy; sed -n 1,5p policy
theirs global rib add 20.0.0.0/24 -a ipv4
until_says "in the kernel" "$fairway" bgp explain 20.0.0.9
echo "== fairway bgp"
"$fairway" bgp neighbors
"$fairway" bgp neighbors 10.0.0.2
"$fairway" bgp neighbors -o json
"$fairway" bgp rib --in 10.0.0.2
"$fairway" bgp rib --out 10.0.0.2
"$fairway" bgp explain 20.0.0.9
"$fairway" bgp explain 11.0.1.0/24
"$fairway" bgp explain 99.0.0.0/8 || echo "status $?"
"$fairway" bgp --daemon 127.0.0.1:1 neighbors || echo "status $?"
echo "== status"
"$fairway" status
"$fairway" status -o json
"$fairway" status --daemon 127.0.0.1:1 || echo "status $?"
get() { exec 3<>"/dev/tcp/127.0.0.1/$1"; printf 'GET %s HTTP/1.0\r\n\r\n' "$2" >&3; cat <&3; exec 3>&-; }
get 20244 /healthz; get 20244 /readyz; get 20244 /nowhere
get 8080 /metrics
echo "== an edited annotation"
node 'kube-router.io/node.bgp.communities: "65001:7"'
until_says 65001:7 theirs global rib
theirs neighbor 10.0.0.1 | grep -E "Established|ESTABLISHED|Opens"
echo "== a wrong one"
node 'kube-router.io/node.bgp.communities: "nonsense"'
until_says nonsense cat node.log
theirs neighbor 10.0.0.1 | grep -E "ESTABLISHED"
echo "== a second daemon"
"$fairway" node $flags > second.log 2>&1 || echo "status $?"
cat second.log
echo "== SIGTERM"
kill -TERM $daemon
until_says planned-shut theirs global rib
theirs global rib
if wait $daemon; then echo "status 0"; fi
until_says "administrative shutdown" cat gobgpd.log
"$fairway" bgp neighbors || echo "status $?"
cat node.log
"#
    );
    let output = play("gobgpd", &script);
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{:?}", output.status);
    let part = |name: &str| part(&text, name);
    let has = |part: &str, wanted: &[&str]| {
        for wanted in wanted {
            assert!(part.contains(wanted), "no {wanted:?} in {part}");
        }
    };
    has(&part("their rib"), &["11.0.1.0/24", "10.0.0.1", "65001"]);
    has(&part("gobgp asks us"), &["10.0.0.2 65002", "Establ", "AS:        65001", "kube_router_import1"]);
    let ours = part("fairway bgp");
    has(
        &ours,
        &[
            "NEIGHBOR",
            "Established",
            "BFD Down",
            "a packet each 1000 ms; nothing heard yet",
            "\"asn\":65002",
            "20.0.0.0/24",
            "in the kernel: via 10.0.0.2, protocol 17",
        ],
    );
    has(&ours, &["10.0.0.2 is told: statement podcidrdefinedsetexternalpeerset of the export policy accepts it"]);
    has(&ours, &["status 1", "status 2"]);
    let status = part("status");
    has(&status, &["vm-001  fairway ", "in sync", "route ", "\"inSync\":true", "status 2"]);
    has(&status, &["HTTP/1.0 200 OK", "\nOK\n", "HTTP/1.0 404 Not Found"]);
    has(&status, &["# TYPE kube_router_bgp_peer_info gauge"]);
    has(
        &status,
        &["kube_router_bgp_peer_info{address=\"10.0.0.2\",asn=\"65002\",state=\"ESTABLISHED\",type=\"external\"} 1"],
    );
    has(&status, &["kube_router_host_routes_synced 1", "kube_router_plane_parked_keys{plane=\"route\"} 0"]);
    has(&part("an edited annotation"), &["ESTABLISHED", "Opens:                  1          1"]);
    has(&part("a second daemon"), &["another daemon runs on this node already: process ", " (fairway)", "status 1"]);
    let end = part("SIGTERM");
    has(&end, &["planned-shut", "status 0", "status 2"]);
    // -v 3
    has(
        &end,
        &[" object  Node vm-001 is there or changed", " kernel  route read: ", " kernel  route written: 1 entries, "],
    );
    has(&end, &[" kernel  route Put(RouteKey { prefix: 20.0.0.0/24"]);
}

/// An API server on a port of its own, with one node; `kubectl` of the distribution.
const CLUSTER: &str = r#"
cat > node.yaml <<YAML
apiVersion: v1
kind: Node
metadata: {name: vm-001}
spec: {podCIDR: 11.0.1.0/24, podCIDRs: [11.0.1.0/24]}
status: {addresses: [{type: InternalIP, address: 10.0.0.1}]}
YAML
cat > web.yaml <<YAML
apiVersion: v1
kind: Service
metadata: {name: web, namespace: default}
spec: {clusterIP: 10.96.0.7, clusterIPs: [10.96.0.7], ports: [{port: 80}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-1, namespace: default, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
ports: [{name: "", port: 80, protocol: TCP}]
endpoints: [{addresses: [11.0.1.5], conditions: {ready: true}, nodeName: vm-001}]
YAML
api() {
  rm -f kc.new
  "$fairway" apiserver --listen 127.0.0.1:6443 --write-kubeconfig kc.new "$@" >> api.log 2>&1 & api=$!
  until_says "get nodes" bash -c '[[ -s kc.new ]] && echo get nodes'
}
cluster() { kubectl --kubeconfig kc.new "$@"; }
node_runs() { until_says "every kind was listed" cat node.log; }
flags="$flags --advertise-cluster-ip --bgp-drain-time=0s"
"#;

#[test]
fn a_node_of_a_cluster_follows_kubectl_and_outlives_its_api_server() {
    if let Some(reason) = missing() {
        println!("skipped: {reason}");
        return;
    }
    let script = format!(
        "{HEAD}{CLUSTER}{}",
        r#"
echo "== before there is a server"
"$fairway" node $flags --metrics-port 20300 --master http://127.0.0.1:6443 > node.log 2>&1 & daemon=$!
until_says "unreachable since" cat node.log
api --apply node.yaml
node_runs
until_says 11.0.1.0/24 theirs global rib
grep -E "cleared +API server" node.log
echo "== kubectl"
cluster apply -f web.yaml
until_says 10.96.0.7/32 theirs global rib
cluster annotate node vm-001 kube-router.io/node.bgp.communities=65001:7
until_says 65001:7 theirs global rib
cluster delete service web
until_says "10.96.0.7 is gone" gone 10.96.0.7
theirs global rib
cluster apply -f web.yaml
until_says 10.96.0.7/32 theirs global rib
echo "== a bad object"
cluster annotate service web kube-router.io/service.scheduler=nonsense
until_says nonsense cat node.log
echo "== without a server"
kill -KILL $api
until_says 2 grep -c "notice .*unreachable since" node.log
theirs global rib
theirs neighbor 10.0.0.1 | grep -E "ESTABLISHED|Opens"
"$fairway" status
exec 3<>/dev/tcp/127.0.0.1/20300
printf 'GET /metrics HTTP/1.0\r\n\r\n' >&3
timeout 5 cat <&3 | grep watch_
echo "== another server, whose history begins anew"
api --apply node.yaml --bookmark 1
until_says "65001:7 is gone" gone 65001:7
until_says "10.96.0.7 is gone" gone 10.96.0.7
theirs global rib
theirs neighbor 10.0.0.1 | grep -E "ESTABLISHED|Opens"
kill -TERM $daemon
if wait $daemon; then echo "status 0"; fi
cat node.log
"#
    );
    let output = play("cluster", &script);
    assert!(output.status.success(), "{:?}", output.status);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let part = |name: &str| part(&text, name);
    assert!(part("before there is a server").contains("unreachable since"), "{text}");
    let edits = part("kubectl");
    assert!(edits.contains("11.0.1.0/24") && !edits.contains("10.96.0.7/32"), "{edits}");
    let alone = part("without a server");
    for shown in
        ["WATCH ", "endpointslices.discovery.k8s.io ", "unreachable since", "watch_behind_seconds{resource=\"nodes\"} "]
    {
        assert!(alone.contains(shown), "no {shown:?} in {alone}");
    }
    assert!(!alone.contains("watch_behind_seconds{resource=\"nodes\"} 0\n"), "{alone}");
    for kept in ["11.0.1.0/24", "10.96.0.7/32", "65001:7", "ESTABLISHED", "Opens:                  1          1"] {
        assert!(alone.contains(kept), "no {kept:?} in {alone}");
    }
    let end = part("another server, whose history begins anew");
    for kept in ["11.0.1.0/24", "ESTABLISHED", "Opens:                  1          1", "status 0"] {
        assert!(end.contains(kept), "no {kept:?} in {end}");
    }
}

#[test]
fn a_node_bears_a_server_that_lies_and_fails() {
    if let Some(reason) = missing() {
        println!("skipped: {reason}");
        return;
    }
    let script = format!(
        "{HEAD}{CLUSTER}{}",
        r#"
api --apply node.yaml --apply web.yaml --bookmark 1 --misbehave disconnect=0.1,stale=0.2,duplicate=0.3,reorder=200ms,500=0.05,429=0.05,gone=0.2
"$fairway" node $flags --kubeconfig kc.new > node.log 2>&1 & daemon=$!
node_runs
until_says 10.96.0.7/32 theirs global rib
again() {
  for _ in $(seq 50); do if "$@" > again.log 2>&1; then return; fi; done
  echo "in vain: $*"; cat again.log node.log; exit 1
}
for n in $(seq 1 15); do
  again cluster annotate --overwrite node vm-001 kube-router.io/node.bgp.communities=65001:$n
done
until_says "65001:15}" theirs global rib
again cluster delete --ignore-not-found --wait=false service web
until_says "10.96.0.7 is gone" gone 10.96.0.7
theirs neighbor 10.0.0.1 | grep -E "ESTABLISHED|Opens"
kill -TERM $daemon; wait $daemon
"#
    );
    let output = play("lies", &script);
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{:?}", output.status);
    assert!(text.contains("Opens:                  1          1"), "{text}");
}

#[test]
fn the_shipped_manifests_give_a_daemon_what_it_needs_and_no_more() {
    if let Some(reason) = missing() {
        println!("skipped: {reason}");
        return;
    }
    let script = format!(
        "{HEAD}{CLUSTER}deploy={}/deploy\n{}",
        env!("CARGO_MANIFEST_DIR"),
        r#"
api --tls --token of-an-administrator --service-account kube-system/fairway=of-the-daemon --apply node.yaml
echo "== manifests"
cluster apply --validate=strict -k "$deploy"
args_of() { kubectl kustomize "$1" | sed -nE 's/^ +- (--.*)/\1/p'; }
for combination in "$deploy" "$deploy"/combinations/*/; do
  cluster apply --validate=strict --dry-run=server -k "$combination"
  # Nothing else is wrong with their flags.
  "$fairway" node $(args_of "$combination") || echo "status $?"
done 2>&1
for component in dsr metrics loadbalancer; do
  component=$deploy/components/$component
  mkdir with
  printf 'resources: [base]\ncomponents: [component]\n' > with/kustomization.yaml
  cp -r "$deploy/base" with/base; cp -r "$component" with/component
  cluster apply --validate=strict -k with
  "$fairway" node $(args_of with) || echo "status $?"
  rm -r with
done 2>&1
echo "== a container's process"
sed 's/of-an-administrator/of-the-daemon/' kc.new > kc.daemon
# As in a container: the kernel's parameters are read-only but for the mount, and root has only the powers that are given.
mkdir -p host/net
mount --bind /proc/sys/net host/net
mount --bind /proc/sys /proc/sys
mount -o remount,bind,ro /proc/sys
powers=$(kubectl kustomize "$deploy" | sed -nE '/ add:/,/ drop:/s/^ +- ([A-Z_]+)$/\1/p' | sort -u | grep -v DAC_OVERRIDE)
echo powers $powers
# Only in the background: it takes the shell's place.
limited() { exec setpriv --bounding-set "-all$(for power in $powers; do printf ',+%s' "${power,,}"; done)" "$@"; }
args=$(args_of "$deploy/combinations/router-only" | sed "s,/host/proc/sys,$folder/host,")
args="$args --run-loadbalancer --loadbalancer-ip-range=192.0.2.0/24"
export POD_NAME=fairway-abcde POD_NAMESPACE=kube-system
limited "$fairway" node $args $flags --kubeconfig kc.daemon > node.log 2>&1 & daemon=$!
node_runs
grep CapEff "/proc/$daemon/status"
until_says 11.0.1.0/24 theirs global rib
cluster apply -f web.yaml
until_says 10.96.0.7/32 theirs global rib
cluster annotate service web kube-router.io/service.scheduler=nonsense
until_says nonsense cluster get events
cluster patch service web --type merge -p '{"spec": {"type": "LoadBalancer"}}'
until_says 192.0.2. cluster get service web
"$fairway" status
if grep -i forbidden node.log; then echo "it was refused something"; exit 1; fi
echo "== without a right"
cluster delete clusterrolebinding fairway
kill -KILL $daemon
wait $daemon || true
limited "$fairway" node $args $flags --kubeconfig kc.daemon > node.log 2>&1 & daemon=$!
until_says "is forbidden" cat node.log
grep forbidden node.log
cluster apply -k "$deploy"
node_runs
kill -TERM $daemon
if wait $daemon; then echo "status 0"; fi
"#
    );
    let output = play("deploy", &script);
    assert!(output.status.success(), "{:?}", output.status);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let part = |name: &str| part(&text, name);
    let manifests = part("manifests");
    assert!(manifests.contains("daemonset.apps/fairway created"), "{manifests}");
    for line in manifests.lines() {
        let fine = ["created", "configured", "unchanged", "(server dry run)"].iter().any(|end| line.ends_with(end))
            || line.ends_with(" error   --proc-sys: there is no folder /host/proc/sys/net")
            || line == "status 2";
        assert!(fine, "{line:?} in {manifests}");
    }
    let container = part("a container's process");
    assert!(container.contains("powers NET_ADMIN NET_BIND_SERVICE\n"), "{container}");
    // Bits 10 and 12.
    assert!(container.contains("CapEff:\t0000000000001400"), "{container}");
    assert!(container.contains("in sync"), "{container}");
    let without = part("without a right");
    assert!(without.contains("cannot list resource") || without.contains("cannot watch resource"), "{without}");
    assert!(without.contains("status 0"), "{without}");
}

#[test]
fn a_node_gives_up_on_a_server_that_does_not_answer_in_time_and_says_what_is_missing() {
    if let Some(reason) = missing() {
        println!("skipped: {reason}");
        return;
    }
    let script = format!(
        "{HEAD}{CLUSTER}{}",
        r#"
"$fairway" node $flags --master 127.0.0.1:6443 --cache-sync-timeout=1s || echo "status $?"
api --apply node.yaml --token secret
"$fairway" node $flags --master 127.0.0.1:6443 --cache-sync-timeout=1s || echo "status $?"
"#
    );
    let output = play("timeout", &script);
    assert!(output.status.success(), "{:?}", output.status);
    let (said, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(said.matches("status 1").count(), 2, "{said}");
    let wanted = "not listed within 1s (--cache-sync-timeout): nodes: unreachable since ";
    assert!(errors.contains(wanted) && errors.contains("Connection refused"), "{errors}");
    assert!(errors.contains("endpointslices.discovery.k8s.io: our credentials are not accepted since "), "{errors}");
}

#[test]
fn a_node_keeps_the_cni_configuration_and_the_bridge() {
    if let Some(reason) = missing() {
        println!("skipped: {reason}");
        return;
    }
    let script = format!(
        "{HEAD}{}",
        r#"
node ""
mkdir cni
conf=$folder/cni/10-kuberouter.conflist
export KUBE_ROUTER_CNI_CONF_FILE=$conf
cat > "$conf" <<JSON
{"cniVersion": "0.4.0", "name": "theirs", "plugins": [
  {"type": "bridge", "bridge": "kube-bridge", "theirs": 7, "ipam": {"type": "host-local", "subnet": "11.0.99.0/24"}},
  {"type": "bandwidth"}]}
JSON
chmod 600 "$conf"
link() { ip -o link show kube-bridge; }
flags="--manifests manifests $flags --enable-cni --bgp-drain-time=0s"
"$fairway" node $flags > node.log 2>&1 & daemon=$!
until_says 11.0.1.0/24 cat "$conf"
until_says "mtu 1500" link
echo "== first"; cat "$conf"; link; stat -c "mode %a" "$conf"; ls cni
# It follows the interface, and the node's CIDR.
ip link set eth1 mtu 1400
until_says '"mtu": 1400' cat "$conf"
until_says "mtu 1400" link
sed -i "s|11.0.1.0/24|11.0.2.0/24|g" manifests/node.yaml
until_says 11.0.2.0/24 cat "$conf"
echo "== second"; cat "$conf"
# Whoever deletes the bridge, it is there again, with its MTU.
ip link del kube-bridge
until_says "mtu 1400" link
kill -TERM $daemon; wait $daemon
echo "== without"; "$fairway" node $flags --enable-cni=false > node.log 2>&1 & daemon=$!
until_says 11.0.2.0/24 theirs global rib
link; kill -TERM $daemon; wait $daemon
# What cannot be helped is said, and goes when it is helped.
echo '{"name": "x", "plugins": []}' > "$conf"
"$fairway" node $flags > node.log 2>&1 & daemon=$!
until_says "there is no plugin of type bridge in it" cat node.log
echo "== notice"; grep notice node.log | grep cni; cat "$conf"
kill -TERM $daemon; wait $daemon
rm "$conf"
"$fairway" node $flags --auto-mtu=false > node.log 2>&1 & daemon=$!
until_says 11.0.2.0/24 cat "$conf"
echo "== made"; cat "$conf"
kill -TERM $daemon; wait $daemon
"#
    );
    let output = play("cni", &script);
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{:?}", output.status);
    let part = |from: &str, to: &str| {
        let rest = text.split_once(from).map(|(_, rest)| rest).unwrap_or_default();
        rest.split_once(to).map_or(rest, |(part, _)| part).to_string()
    };
    let json = |text: &str| -> serde_json::Value {
        let end = text.rfind('}').map_or(0, |end| end + 1);
        serde_json::from_str(&text[..end]).unwrap_or_else(|error| panic!("{error}: {text}"))
    };
    let first = part("== first\n", "== second");
    let wanted = |cidr: &str, mtu: u32| {
        serde_json::json!({"cniVersion": "0.4.0", "name": "theirs", "plugins": [
            {"type": "bridge", "bridge": "kube-bridge", "theirs": 7, "mtu": mtu,
             "ipam": {"type": "host-local", "ranges": [[{"subnet": cidr}]]}},
            {"type": "bandwidth"}]})
    };
    assert_eq!(json(&first), wanted("11.0.1.0/24", 1500));
    assert!(first.contains("mode 600") && first.contains("\n10-kuberouter.conflist\n"), "{first}");
    assert!(first.contains("UP"), "{first}");
    assert_eq!(json(&part("== second\n", "== without")), wanted("11.0.2.0/24", 1400));
    assert!(part("== without\n", "== notice").contains("kube-bridge"), "{text}");
    assert!(part("== notice\n", "== made").contains(r#"{"name": "x", "plugins": []}"#), "{text}");
    let made = json(&part("== made\n", "=="));
    assert_eq!(made["plugins"][0]["ipam"]["ranges"], serde_json::json!([[{"subnet": "11.0.2.0/24"}]]));
    assert_eq!(made["plugins"][0].get("mtu"), None, "--auto-mtu=false");
}

#[test]
fn a_wrong_command_line_says_what_is_wrong_before_anything_happens() {
    let run = |args: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_fairway"));
        let output = command.arg("node").args(args).env_remove("KUBERNETES_SERVICE_HOST").output().expect("runs");
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let off = ["--run-firewall=false", "--enable-overlay=false", "--enable-pod-egress=false"];
    let (status, text) = run(&[&off[..], &["--bgp-holdtime=1s", "--manifests=."]].concat());
    assert_eq!(status, Some(2), "{text}");
    assert!(text.contains("--bgp-holdtime must be between 3s"), "{text}");
    let (status, text) = run(&["--advertise-clusterip"]);
    assert_eq!(status, Some(2), "{text}");
    assert!(text.contains("--advertise-cluster-ip"), "{text}");
    let (status, text) = run(&off);
    assert_eq!(status, Some(2), "{text}");
    assert!(text.contains("no API server: give --kubeconfig or --master"), "{text}");
    let (status, text) = run(&[&off[..], &["--kubeconfig", "no-such-file"]].concat());
    assert_eq!(status, Some(2), "{text}");
    assert!(text.contains("--kubeconfig no-such-file: No such file"), "{text}");
    let (status, text) = run(&[&off[..], &["--manifests", "no-such-folder"]].concat());
    assert_eq!(status, Some(2), "{text}");
    assert!(text.contains("no-such-folder: No such file"), "{text}");
}
