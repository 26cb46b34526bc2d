//! The operator's tools of the daemon as their user runs them, in namespaces of their own.

mod play;

use std::process::{Command, Stdio};

use play::{missing, part};

fn works(program: &str, args: &[&str]) -> bool {
    let status = Command::new(program).args(args).stdout(Stdio::null()).stderr(Stdio::null()).status();
    status.is_ok_and(|status| status.success())
}

/// Runs a script as [`play::play`] does, and returns what it said.
fn play(name: &str, script: &str) -> Option<String> {
    if let Some(reason) = missing() {
        println!("skipped: {reason}");
        return None;
    }
    let output = play::play(name, &format!("{HEAD}{script}"));
    assert!(output.status.success(), "{:?}", output.status);
    Some(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Only a router, as not every kernel has IPVS. `ip route` has what an earlier daemon learned, and what others wrote.
const HEAD: &str = r#"
fairway=$1 folder=$2
cd "$folder"
ip link set lo up
ip link add eth1 type veth peer name them
ip link set them up
ip addr add 10.0.0.1/24 dev eth1
ip link set eth1 up
ip route add 20.0.0.0/24 via 10.0.0.2 proto 17
ip route add 21.0.0.0/24 via 10.0.0.2 proto static
mkdir manifests
node() {
  cat > manifests/node.tmp <<YAML
apiVersion: v1
kind: Node
metadata: {name: vm-001}
spec: {podCIDR: 11.0.$1.0/24, podCIDRs: [11.0.$1.0/24]}
status: {addresses: [{type: InternalIP, address: 10.0.0.1}]}
YAML
  mv manifests/node.tmp manifests/node.yaml
}
node 1
until_says() {
  text=$1; shift
  for _ in $(seq 150); do
    if [[ $("$@" 2>&1 || true) == *"$text"* ]]; then return; fi
    sleep 0.1
  done
  echo "waited in vain for: $text"; "$@" || true; cat node.log; exit 1
}
flags="--manifests manifests --hostname-override=vm-001 --run-service-proxy=false --run-firewall=false
  --enable-overlay=false --enable-pod-egress=false --cluster-asn 65001 --bgp-drain-time=0s
  --peer-router-ips 10.0.0.2 --peer-router-asns 65002 --peer-router-passwords c2VjcmV0LXBhc3N3b3Jk"
"#;

#[test]
fn only_one_daemon_runs_and_kube_router_is_known_by_name() {
    let script = r#"
cp "$(command -v sleep)" kube-router
./kube-router 30 & theirs=$!
until_says kube-router cat /proc/$theirs/comm
echo "== beside kube-router"
"$fairway" node $flags || echo "status $?"
echo "process $theirs"
kill $theirs; wait $theirs || true
"$fairway" node $flags > node.log 2>&1 & daemon=$!
until_says vm-001 "$fairway" status
echo "== a second one"
"$fairway" node $flags 2>&1 || echo "status $?"
"$fairway" node --cleanup-config 2>&1 || echo "status $?"
echo "process $daemon"
echo "== after it was killed"
kill -KILL $daemon; wait $daemon || true
"$fairway" node $flags > node.log 2>&1 & daemon=$!
until_says vm-001 "$fairway" status
kill -TERM $daemon
if wait $daemon; then echo "status 0"; fi
"#;
    let Some(text) = play("only", &format!("exec 2>&1\n{script}")) else { return };
    let pid = |part: &str| part.rsplit_once("process ").map(|(_, pid)| pid.trim().to_string()).expect("a number");
    let beside = part(&text, "beside kube-router");
    assert!(beside.contains(&format!("kube-router runs on this node: process {}", pid(&beside))), "{beside}");
    assert!(beside.contains("status 1"), "{beside}");
    let second = part(&text, "a second one");
    let said = format!("another daemon runs on this node already: process {} (fairway)", pid(&second));
    assert_eq!((second.matches(&said).count(), second.matches("status 1").count()), (2, 2), "{second}");
    assert!(part(&text, "after it was killed").contains("status 0"), "{text}");
}

#[test]
fn a_dry_run_is_printed_and_nothing_is_changed() {
    let script = r#"
ip -o addr > before; ip -o route show table all >> before
echo "== text"
"$fairway" node $flags --dry-run
echo "== json"
"$fairway" node $flags --dry-run --output json
ip -o addr > after; ip -o route show table all >> after
cmp before after && echo "== unchanged"
"$fairway" node $flags --dry-run --cleanup-config 2>&1 || echo "== status $?"
"#;
    let Some(text) = play("dry", script) else { return };
    let shown = part(&text, "text");
    for line in
        ["  network 11.0.1.0/24", "  neighbour 10.0.0.2", "1 routes that BGP learned earlier stay", " to remove"]
    {
        assert!(shown.contains(line), "no {line:?} in {shown}");
    }
    let json: serde_json::Value = serde_json::from_str(&part(&text, "json")).expect("JSON");
    assert_eq!((&json["node"], &json["keptRoutes"]), (&"vm-001".into(), &1.into()));
    let count = |kind: &str| json["changes"].as_array().expect("a list").iter().filter(|c| c["change"] == kind).count();
    assert_eq!(json["summary"]["add"], count("add"));
    assert_eq!(json["summary"]["remove"], 0);
    assert!(text.contains("\n== unchanged\n") && text.contains("== status 2"), "{text}");
}

#[test]
fn a_cleanup_says_what_it_removes_and_the_second_one_that_nothing_is_left() {
    let script = r#"
echo "== first"
"$fairway" node --cleanup-config
echo "== second"
"$fairway" node --cleanup-config; echo "status $?"
ip route add 22.0.0.0/24 via 10.0.0.2 proto 17
echo "== json"
"$fairway" node --cleanup-config --output=json
echo "== routes"
ip route
"$fairway" node --from-kube-router 2>&1 || echo "== status $?"
"#;
    let Some(text) = play("cleanup", script) else { return };
    let first = part(&text, "first");
    assert!(first.contains("removed route 20.0.0.0/24 table 254 metric 0\n"), "{first}");
    assert!(first.contains("1 removed (1 route), 0 left"), "{first}");
    assert!(part(&text, "second").starts_with("nothing of ours is left on this node\nstatus 0"), "{text}");
    let json: serde_json::Value = serde_json::from_str(&part(&text, "json")).expect("JSON");
    assert_eq!(json["removed"], serde_json::json!([{"of": "route", "what": "22.0.0.0/24 table 254 metric 0"}]));
    assert!(part(&text, "routes").contains("21.0.0.0/24") && text.contains("== status 2"), "{text}");
}

#[test]
fn what_kube_router_left_is_removed_and_what_others_wrote_stays() {
    if !(works("iptables", &["--version"]) && works("ipset", &["--version"])) {
        println!("skipped: no iptables, or no ipset");
        return;
    }
    let script = r#"
mkdir etc; printf '255 local\n77 kube-router\n79 external_ip\n88 mine\n' > etc/rt_tables
mkdir -p /etc/iproute2; mount --bind etc /etc/iproute2
ipset create kube-router-svip hash:ip timeout 0 && ipset create blocked hash:ip || { echo "== skipped"; exit 0; }
iptables -N KUBE-ROUTER-SERVICES
iptables -I INPUT -m set --match-set kube-router-svip dst -j KUBE-ROUTER-SERVICES
iptables -I FORWARD -i kube-bridge -m comment --comment "allow outbound traffic from pods" -j ACCEPT
iptables -A INPUT -m set --match-set blocked src -j DROP
iptables -N MINE
ip rule add priority 1000 from 11.0.1.0/24 lookup 77
ip link add kube-dummy-if type bridge
echo "== removed"
"$fairway" node --cleanup-config --from-kube-router --run-service-proxy
echo "== again"
"$fairway" node --cleanup-config --from-kube-router
echo "== left"
iptables-save; ipset list -n; ip rule; ip -br link; cat etc/rt_tables
"#;
    let Some(text) = play("legacy", script) else { return };
    if text.contains("== skipped") {
        println!("skipped: this kernel has no ipset");
        return;
    }
    let removed = part(&text, "removed");
    for what in [
        "removed of kube-router: rule of iptables in filter INPUT: -> KUBE-ROUTER-SERVICES",
        "removed of kube-router: chain of iptables in filter: KUBE-ROUTER-SERVICES",
        "\"allow outbound traffic from pods\"",
        "removed of kube-router: ipset kube-router-svip",
        "removed rule ipv4 priority 1000 from 11.0.1.0/24",
        "line `77 kube-router` in /etc/iproute2/rt_tables",
        "removed link kube-dummy-if",
    ] {
        assert!(removed.contains(what), "no {what:?} in {removed}");
    }
    assert!(part(&text, "again").starts_with("nothing of ours is left"), "{text}");
    let left = part(&text, "left");
    for what in ["blocked src -j DROP", ":MINE", "\nblocked\n", "88 mine", "255 local"] {
        assert!(left.contains(what), "no {what:?} in {left}");
    }
    for what in ["kube-router", "KUBE-ROUTER", "external_ip", "lookup 77", "kube-dummy-if"] {
        assert!(!left.contains(what), "{what:?} is still in {left}");
    }
}

#[test]
fn a_recorded_daemon_is_played_again_identically_and_its_passwords_are_not_in_it() {
    let script = r#"
"$fairway" node $flags --record tape > node.log 2>&1 & daemon=$!
until_says vm-001 "$fairway" status
node 2
until_says 11.0.2.0/24 "$fairway" bgp rib
kill -TERM $daemon; wait $daemon
echo "== text"
"$fairway" replay tape
echo "== json"
"$fairway" replay tape --output json | tail -1
echo "== until"
"$fairway" replay tape --until 0s --quiet
grep -c -e secret-password -e c2VjcmV0LXBhc3N3b3Jk tape || echo "== no password"
# A daemon that was killed, and a disk that has no room.
"$fairway" node $flags --record tape --record-limit 1 > node.log 2>&1 & daemon=$!
until_says vm-001 "$fairway" status
sleep 0.5
kill -KILL $daemon; wait $daemon || true
echo "== killed"
"$fairway" replay tape --quiet
head -c 100 tape > cut; head -c 1000 /dev/urandom > noise
"$fairway" replay cut 2>&1 || echo "== status $?"
"$fairway" replay noise 2>&1 || echo "== status $?"
"$fairway" node $flags --record no/such/folder 2>&1 || echo "== status $?"
"#;
    let Some(text) = play("record", script) else { return };
    let shown = part(&text, "text");
    for line in ["node vm-001, fairway ", "put ObjectKey", "-> observe route", "Listen { port: 179 }", "\nidentical: "]
    {
        assert!(shown.contains(line), "no {line:?} in {shown}");
    }
    assert!(shown.contains("the recording ends with the daemon") && shown.contains("password-1"), "{shown}");
    let json: serde_json::Value = serde_json::from_str(&part(&text, "json")).expect("JSON");
    assert_eq!((&json["identical"], &json["difference"]), (&true.into(), &serde_json::Value::Null));
    assert!(part(&text, "until").contains("ends at --until"), "{text}");
    assert!(text.contains("== no password") && part(&text, "killed").contains("identical: "), "{text}");
    assert!(part(&text, "killed").contains("the recording ends in the middle"), "{text}");
    assert_eq!(text.matches("== status 2").count(), 3, "{text}");
}
