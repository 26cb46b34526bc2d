//! What `setup` makes, as `ip` sees it. Each test has a network namespace of its own.
#![allow(clippy::unwrap_used, reason = "a helper that fails fails its test")]

use std::net::Ipv4Addr;
use std::process::Command;
use std::sync::Arc;

use fairway_backend_route::setup::{Encapsulation, Setup};
use fairway_backend_route::{PodBackend, PodSpace, RouteBackend, routes};
use fairway_desired::{
    Backend, Family, LinkKind, MAIN_TABLE, NextHop, Op, Outcome, Pod, PodKey, PodValue, RouteKey, RouteKind, RouteValue,
};
use nix::sched::{CloneFlags, unshare};

/// Runs a test in a network namespace of its own, if the kernel offers this kind of interface.
fn alone(test: fn(Setup)) {
    let thread = std::thread::spawn(move || {
        if let Err(error) = unshare(CloneFlags::CLONE_NEWNET) {
            println!("skipped: no network namespace: {error}");
            return;
        }
        if !RouteBackend::new().unwrap().offers(LinkKind::Dummy).unwrap() {
            println!("skipped: the kernel has no dummy interfaces: module dummy is missing");
            return;
        }
        let mut setup = Setup::new().unwrap();
        setup.set_up("lo", true).unwrap();
        test(setup);
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

/// What a command prints in the namespace of this thread, blanks made one.
fn said(command: &str) -> String {
    let mut words = command.split(' ');
    let output = Command::new(words.next().unwrap()).args(words).output().unwrap();
    assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).split_whitespace().collect::<Vec<_>>().join(" ")
}

fn has(text: &str, pieces: &[&str]) {
    for piece in pieces {
        assert!(text.contains(piece), "no `{piece}` in: {text}");
    }
}

#[test]
fn links_of_every_kind_twice() {
    alone(|mut setup| {
        let (local, remote) = (Ipv4Addr::new(192, 168, 1, 1), Ipv4Addr::new(192, 168, 1, 2));
        // What is there already stays: everything may be asked for twice.
        for _ in 0..2 {
            setup.add_veth("a", "b", None).unwrap();
            setup.add_bridge("br").unwrap();
            setup.enslave("a", "br").unwrap();
            setup.hairpin("a", true).unwrap();
            setup.set_up("a", true).unwrap();
            setup.add("d", LinkKind::Dummy).unwrap();
            setup.add_address("d", "192.168.1.1/24".parse().unwrap()).unwrap();
            setup.add_address("d", "fd00::1/64".parse().unwrap()).unwrap();
            setup.set_up("d", true).unwrap();
            setup.add_ipip("t4", local, remote).unwrap();
            setup.add_ip6tnl("t6", "fd00::1".parse().unwrap(), "fd00::2".parse().unwrap()).unwrap();
            for (port, name, kind) in [(5555, "f", Encapsulation::Fou), (6080, "g", Encapsulation::Gue)] {
                setup.add_fou(port, Family::V4, kind).unwrap();
                setup.add_ipip_in_udp(name, (local, Ipv4Addr::new(192, 168, 1, port as u8)), port, kind).unwrap();
            }
        }
        has(&said("ip -d link show a"), &["veth", "master br", "hairpin on", "UP"]);
        has(&said("ip -d link show br"), &["bridge"]);
        has(&said("ip address show d"), &["192.168.1.1/24 scope global", "fd00::1/64 scope global nodad"]);
        has(&said("ip -d link show t4"), &["ipip remote 192.168.1.2 local 192.168.1.1"]);
        has(&said("ip -d link show t6"), &["ip6tnl", "remote fd00::2 local fd00::1"]);
        has(&said("ip -d link show f"), &["encap fou encap-sport auto encap-dport 5555"]);
        has(&said("ip -d link show g"), &["encap gue encap-sport auto encap-dport 6080"]);
        has(&said("ip fou show"), &["port 5555 ipproto 4", "port 6080 gue"]);
        assert!(setup.del_link("t4").unwrap() && !setup.del_link("t4").unwrap());
        assert!(setup.addresses_of("t4").unwrap().is_empty());
        let error = setup.enslave("nobody", "br").unwrap_err();
        assert_eq!(error.to_string(), "interface nobody: No such device (os error 19)");
    });
}

#[test]
fn routes_are_listed_as_the_kernel_has_them() {
    alone(|mut setup| {
        setup.add("d", LinkKind::Dummy).unwrap();
        setup.set_up("d", true).unwrap();
        setup.add_address("d", "192.168.1.1/24".parse().unwrap()).unwrap();
        let hop = |last: u8| NextHop { via: Some([192, 168, 1, last].into()), dev: Some("d".into()), weight: 1 };
        let key = RouteKey { prefix: "10.0.0.2/32".parse().unwrap(), table: MAIN_TABLE, metric: 20 };
        let value = RouteValue {
            kind: RouteKind::Unicast,
            protocol: 186,
            src: None,
            next_hops: vec![hop(2), NextHop { weight: 3, ..hop(3) }],
        };
        setup.add_route(key.clone(), value.clone()).unwrap();
        has(
            &said("ip route show 10.0.0.2"),
            &["proto bgp metric 20 nexthop via 192.168.1.2 dev d weight 1 nexthop via 192.168.1.3 dev d weight 3"],
        );
        let mut backend = RouteBackend::new().unwrap();
        let found = routes(&mut backend, MAIN_TABLE, Family::V4).unwrap();
        assert!(found.contains(&(key.clone(), value)), "{found:?}");
        assert!(!setup.del_route(&key, 17).unwrap(), "it is of another protocol");
        assert!(setup.del_route(&key, 186).unwrap());
        // IPv4 by way of IPv6 neighbours, one or several, and mixed.
        setup.add_address("d", "fd00::1/64".parse().unwrap()).unwrap();
        let hop6 = |last: &str| NextHop { via: Some(last.parse().unwrap()), ..hop(2) };
        let bare = NextHop { dev: None, ..hop6("fd00::2") };
        for next_hops in
            [vec![bare], vec![hop6("fd00::2")], vec![hop6("fd00::2"), hop6("fd00::3")], vec![hop(2), hop6("fd00::2")]]
        {
            let value = RouteValue { kind: RouteKind::Unicast, protocol: 186, src: None, next_hops };
            setup.add_route(key.clone(), value.clone()).unwrap();
            has(&said("ip route show 10.0.0.2"), &["via inet6 fd00::2 dev d"]);
            let found = routes(&mut backend, MAIN_TABLE, Family::V4).unwrap();
            // The kernel has found the interface where none was said.
            let next_hops =
                value.next_hops.iter().map(|hop| NextHop { dev: Some("d".into()), ..hop.clone() }).collect();
            let value = RouteValue { next_hops, ..value };
            assert!(found.contains(&(key.clone(), value)), "{found:?}");
        }
    });
}

#[test]
fn service_addresses_in_pods() {
    alone(|_| {
        let pod = "11.0.1.2".parse().unwrap();
        let here = std::fs::canonicalize("/proc/thread-self").unwrap().join("ns/net");
        let spaces = vec![PodSpace { addresses: vec![pod], namespace: here }];
        let mut backend = PodBackend::new(Arc::new(move || Ok(spaces.clone())));
        let key = PodKey { pod, address: "10.0.0.3".parse().unwrap() };
        let elsewhere = PodKey { pod: "11.0.1.9".parse().unwrap(), ..key };
        let put = |key| Op::<Pod>::Put(key, PodValue);
        assert_eq!(backend.apply(&[put(key), put(key)]).unwrap(), [Outcome::Done; 2]);
        assert_eq!(
            backend.apply(&[put(elsewhere), Op::Del(elsewhere)]).unwrap(),
            [Outcome::Refused(19), Outcome::Gone]
        );
        has(&said("ip -d address show kube-tunnel-if"), &["ipip remote any local 11.0.1.2", "UP", "inet 10.0.0.3/32"]);
        assert_eq!(said("cat /proc/sys/net/ipv4/conf/kube-tunnel-if/rp_filter"), "0");
        assert_eq!(backend.observe().unwrap().into_keys().collect::<Vec<_>>(), [key]);
        assert_eq!(backend.apply(&[Op::Del(key), Op::Del(key)]).unwrap(), [Outcome::Done, Outcome::Gone]);
        assert_eq!(backend.observe().unwrap().len(), 0);
    });
}
