//! From kube-router to us, on a node in operation: the kernel is as kube-router leaves it, connections are open
//! through it, and none of them notices. In the end nothing of kube-router's is there, and what others wrote is.

mod site;

use std::net::TcpListener;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use fairway_node::{Part, leftovers, remove_leftovers, replaced};
use fairway_objects::NodeConfig;
use site::{
    CONNECTIONS, Finally, POD, PORT, Running, SOURCES, STEADY, Site, State, before, config, echo, first_site, load,
    reference,
};

/// What kube-router 2.11 writes for the service `steady` and two that are gone, by way of its own tools. Of these rules
/// the masquerading one works on the connections of the test. Networks of others are there as well.
const KUBE_ROUTER: &[&str] = &[
    "ip link add kube-dummy-if type dummy",
    "ip link set kube-dummy-if up",
    "ip addr add 10.96.0.10/32 dev kube-dummy-if scope link",
    "ip addr add 10.0.0.10/32 dev kube-dummy-if scope link",
    "ip addr add 10.96.0.99/32 dev kube-dummy-if scope link",
    "ip route replace local 10.96.0.10 dev kube-dummy-if table local proto kernel scope host src 192.168.0.1",
    "ip route replace local 10.0.0.10 dev kube-dummy-if table local proto kernel scope host src 192.168.0.1",
    "ip route replace local 10.96.0.99 dev kube-dummy-if table local proto kernel scope host src 192.168.0.1",
    "sysctl -qw net.ipv4.ip_forward=1 net.ipv4.vs.conntrack=1 net.ipv4.vs.expire_nodest_conn=1 net.ipv4.vs.conn_reuse_mode=0",
    "ipvsadm -A -t 10.96.0.10:5001 -s rr",
    "ipvsadm -a -t 10.96.0.10:5001 -r 10.1.1.2:5001 -m -w 1",
    "ipvsadm -A -t 10.0.0.10:5001 -s rr",
    "ipvsadm -a -t 10.0.0.10:5001 -r 10.1.1.2:5001 -m -w 1",
    "ipvsadm -A -t 10.96.0.99:80 -s rr",
    "ipvsadm -A -f 14146 -s mh",
    "ip route add 10.9.0.0/24 via 192.168.0.9 proto 17",
    "ip rule add priority 32764 fwmark 14146 lookup 78",
    "ip rule add priority 32765 lookup 79",
    "ip route add local default dev lo table 78 scope host",
    "ip link add tun-e443169117a type ipip local 192.168.0.1 remote 10.0.0.1",
    "ip link set tun-e443169117a up",
    "ip route add 10.0.0.1/32 dev tun-e443169117a table 77",
    "ip rule add from 10.1.1.0/24 lookup 77",
    "ipset create kube-router-svip hash:ip timeout 0",
    "ipset create kube-router-svip-prt hash:ip,port timeout 0",
    "ipset create kube-router-local-ips hash:ip timeout 0",
    "ipset create kube-router-pod-subnets hash:net timeout 0",
    "ipset create kube-router-node-ips hash:ip timeout 0",
    "ipset create inet6:kube-router-svip hash:ip family inet6 timeout 0",
    "ipset create KUBE-SRC-ABCDEFGHIJ234567 hash:ip",
    "ipset create TMP-ABCDEFGHIJ234567 hash:ip",
    "ipset add kube-router-svip 10.96.0.10",
    "ipset add kube-router-svip 10.0.0.10",
    "ipset add kube-router-svip-prt 10.96.0.10,tcp:5001",
    "ipset add kube-router-svip-prt 10.0.0.10,tcp:5001",
    "ipset add kube-router-local-ips 192.168.0.1",
    "iptables -N KUBE-ROUTER-SERVICES",
    "iptables -A KUBE-ROUTER-SERVICES -m set --match-set kube-router-svip-prt dst,dst -j ACCEPT",
    "iptables -A KUBE-ROUTER-SERVICES -m set ! --match-set kube-router-local-ips dst -j REJECT",
    "iptables -I INPUT 1 -m set --match-set kube-router-svip dst -j KUBE-ROUTER-SERVICES",
    "iptables -t nat -A POSTROUTING -m ipvs --ipvs --vdir ORIGINAL --vmethod MASQ ! -d 10.2.0.0/16 -j SNAT --to-source 192.168.0.1",
    "iptables -t nat -N KUBE-ROUTER-HAIRPIN",
    "iptables -t nat -A KUBE-ROUTER-HAIRPIN -s 10.1.1.2/32 -d 10.1.1.2/32 -j SNAT --to-source 10.96.0.10",
    "iptables -t nat -A POSTROUTING -m ipvs --vdir ORIGINAL -j KUBE-ROUTER-HAIRPIN",
    "iptables -t nat -A POSTROUTING -m set --match-set kube-router-pod-subnets src -m set ! --match-set kube-router-pod-subnets dst -m set ! --match-set kube-router-node-ips dst -j MASQUERADE",
    "iptables -t mangle -A PREROUTING -d 199.27.151.9 -p tcp -m tcp --dport 8080 -j MARK --set-mark 14146",
    "iptables -t mangle -A OUTPUT -d 199.27.151.9 -p tcp -m tcp --dport 8080 -j MARK --set-mark 14146",
    "iptables -t mangle -A PREROUTING -s 199.27.151.9 -p tcp -m tcp --sport 8080 -i kube-bridge --tcp-flags SYN,RST SYN -j TCPMSS --set-mss 1440",
    "iptables -N KUBE-POD-FW-ABCDEFGHIJ234567",
    "iptables -A KUBE-POD-FW-ABCDEFGHIJ234567 -m set --match-set KUBE-SRC-ABCDEFGHIJ234567 src -j ACCEPT",
    "iptables -N KUBE-ROUTER-FORWARD",
    "iptables -A KUBE-ROUTER-FORWARD -d 10.1.1.2 -j KUBE-POD-FW-ABCDEFGHIJ234567",
    "iptables -I FORWARD 1 -j KUBE-ROUTER-FORWARD",
    "ip6tables -N KUBE-NWPLCY-DEFAULT",
    "nft add table ip kube-router-filter-ipv4",
];

/// With comments, hence in words of their own.
const ACCEPT: [(&str, &str, &str); 2] =
    [("-i", "kube-bridge", "allow outbound traffic from pods"), ("-o", "kube-bridge", "allow inbound traffic to pods")];

/// What an administrator has beside it, in the same tables.
const OTHERS: &[&str] = &[
    "ipset create blocked hash:ip",
    "ipset create KUBE-CLUSTER-IP hash:ip",
    "iptables -A INPUT -m set --match-set blocked src -j DROP",
    "iptables -N MINE",
    "iptables -A FORWARD -s 203.0.113.0/24 -j MINE",
    "iptables -t nat -A POSTROUTING -s 198.51.100.0/24 -j MASQUERADE",
    "iptables -t mangle -A PREROUTING -d 199.27.151.9 -p tcp -m tcp --dport 8080 -j MARK --set-mark 1",
    "ip rule add priority 200 from 198.51.100.0/24 lookup 200",
    "ip link add tun-mine type ipip local 192.168.0.1 remote 10.0.0.2",
    "ip route add 172.29.0.0/16 via 192.168.0.99 proto static",
];

/// A node as kube-router left it; `None` if this machine has not what that takes, which is printed.
fn as_kube_router_left_it() -> Option<Site> {
    let site = first_site()?;
    for line in KUBE_ROUTER.iter().chain(OTHERS) {
        if let Err(error) = site.node.run(line, "") {
            let reason = error.to_string();
            let lacks = ["No such file or directory", "not found", "Protocol not supported", "Kernel error"];
            assert!(lacks.iter().any(|lack| reason.contains(lack)), "{line}: {reason}");
            println!("skipped: {reason}");
            return None;
        }
    }
    for (direction, interface, comment) in ACCEPT {
        let rule = format!("-I FORWARD 1 {direction} {interface} -m comment --comment \"{comment}\" -j ACCEPT\n");
        site.node.run("iptables-restore --noflush", &format!("*filter\n{rule}COMMIT\n")).expect("a rule");
    }
    Some(site)
}

/// Everything that iptables and ipset show, as they show it.
fn tables(site: &Site) -> String {
    let show = |line: &str| site.node.run(line, "").expect("the tools run");
    let text = ["iptables-save", "ip6tables-save", "ipset save", "ip rule", "ip -br link", "nft list tables"].map(show);
    // Without counters and times.
    let rules = text.iter().flat_map(|text| text.lines()).filter(|line| !line.starts_with(['#', ':']));
    rules.map(|line| format!("{line}\n")).collect()
}

#[test]
fn a_node_of_kube_routers_becomes_ours_and_no_connection_notices() {
    let Some(site) = as_kube_router_left_it() else { return };
    let objects = before();
    let wanted = reference(&objects).expect("a second namespace like the first");
    let listener = site.pod.within(|| TcpListener::bind((POD, PORT))).expect("the pod listens");
    let (stop_load, stop_echo) = (AtomicBool::new(false), AtomicBool::new(false));
    let report = thread::scope(|scope| {
        let _echo = Finally(&stop_echo);
        let _load = Finally(&stop_load);
        scope.spawn(|| echo(&listener, &stop_echo));
        let load = scope.spawn(|| site.client.within(|| load(&stop_load)));
        // Connections are open, by way of kube-router's tables.
        let open = || site.node.run("ipvsadm -lnc", "").expect("ipvsadm runs").matches("ESTABLISHED").count();
        for _ in 0..1000 {
            if open() >= CONNECTIONS {
                break;
            }
            thread::sleep(Duration::from_millis(10));
        }
        assert!(open() >= CONNECTIONS, "{}", site.node.run("ipvsadm -lnc", "").unwrap_or_default());
        let agent = Running::start(&site.node, &objects, None);
        assert_eq!(agent.settle(), None);
        // What was right was not touched.
        let rewritten: Vec<String> =
            agent.taken().into_iter().filter(|step| step.starts_with("ipvs ") && step.contains("10.96.0.10")).collect();
        assert_eq!(rewritten, Vec::<String>::new());
        // What the daemon does when it is in sync, then what its operator does.
        check_take_over(&site);
        thread::sleep(Duration::from_millis(500));
        agent.kill();
        stop_load.store(true, Ordering::Relaxed);
        load.join().expect("the load ends")
    });
    println!("{report:?} from {SOURCES:?} to {STEADY:?}");
    assert_eq!(report.failures, Vec::<String>::new());
    assert!(report.pings > CONNECTIONS && report.connects > 1, "{report:?}");
    let differences: Vec<String> = State::of(&site.node)
        .differences(&wanted)
        .lines()
        // How a connection is treated that finds its client's port in use; kube-router's choice stays.
        .filter(|line| !line.contains("conn_reuse_mode") && !line.contains("tun-mine"))
        .map(String::from)
        .collect();
    assert!(differences.is_empty(), "{differences:#?}");
}

fn check_take_over(site: &Site) {
    let parts = replaced(&config());
    let mut removed = vec![];
    let remove = |parts: &[Part], removed: &mut Vec<String>| {
        site.node.within(|| {
            remove_leftovers(parts, |leftover, result| {
                assert_eq!(*result, Ok(()), "{leftover}");
                removed.push(leftover.to_string());
            })
        })
    };
    let stay = remove(&parts, &mut removed).expect("the kernel answers");
    println!("{}", removed.join("\n"));
    let now = tables(site);
    for gone in ["KUBE-ROUTER-SERVICES", "KUBE-ROUTER-HAIRPIN", "SNAT", "0x3742", "TCPMSS", "svip", "TMP-"] {
        assert!(!now.contains(gone), "{gone} is still in {now}");
    }
    // Policies and masquerading hold as long as nothing replaces them.
    for kept in ["KUBE-POD-FW-", "KUBE-SRC-", "kube-router-pod-subnets", "allow inbound traffic to pods"] {
        assert!(now.contains(kept), "{kept} is gone from {now}");
        assert!(stay.iter().any(|leftover| leftover.part != Part::Proxy));
    }
    // A daemon that masquerades what pods send out replaces that too.
    let parts = replaced(&NodeConfig { run_router: true, ..config() });
    remove(&parts, &mut removed).expect("the kernel answers");
    let now = tables(site);
    assert!(!now.contains("kube-router-pod-subnets") && !now.contains("kube-router-node-ips"), "{now}");
    assert!(now.contains("KUBE-POD-FW-") && now.contains("198.51.100.0/24 -j MASQUERADE"), "{now}");
    let count = removed.len();
    remove(&Part::ALL, &mut removed).expect("the kernel answers");
    assert!(removed.len() > count);
    let now = tables(site);
    for gone in ["kube-router", "KUBE-ROUTER", "KUBE-POD-FW", "KUBE-SRC", "KUBE-NWPLCY", "pods", "lookup 77", "tun-e4"]
    {
        assert!(!now.contains(gone), "{gone} is still in {now}");
    }
    for kept in [
        "create blocked",
        "create KUBE-CLUSTER-IP",
        "blocked src",
        "-j MINE",
        "198.51.100.0/24 -j MASQUERADE",
        "--set-xmark 0x1/",
        "lookup 200",
        "tun-mine",
    ] {
        assert!(now.contains(kept), "{kept} is gone from {now}");
    }
    assert_eq!(site.node.within(leftovers).expect("the kernel answers"), vec![]);
}
