//! Links that go down and lose their carrier, and what becomes of the routes through them. Veth pairs are enough, so
//! this runs on any kernel with network namespaces.
//!
//! Left out: link-local addresses and their routes, which the simulation does not have.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use fairway_backend_route::setup::Setup;
use fairway_backend_route::{Monitor, RouteBackend, routes};
use fairway_desired::{
    Backend, Family, Interface, KernelEvent, MAIN_TABLE, NextHop, Op, PROTO_KUBE_ROUTER, Route, RouteKey, RouteKind,
    RouteValue,
};
use fairway_kernel::{Fabric, Kernel};
use ipnet::IpNet;
use nix::sched::{CloneFlags, unshare};
use proptest::prelude::*;
use proptest::sample::{select, subsequence};
use proptest::test_runner::TestRunner;

const LINKS: [&str; 2] = ["eth1", "eth2"];

fn addresses(link: &str) -> [IpNet; 2] {
    let n = link.trim_start_matches("eth");
    [format!("192.168.{n}.1/24"), format!("fd00:{n}::1/64")].map(|text| text.parse().unwrap())
}

/// What happens to a host.
#[derive(Clone, Debug)]
enum Step {
    /// `ip link set … up` or `down`.
    Up(&'static str, bool),
    /// The addresses are given once more.
    Addresses(&'static str),
    /// The far end is there, or is not.
    Carrier(&'static str, bool),
    /// A learned route over some of the links; over none it is deleted.
    Route { six: bool, prefix: u8, over: Vec<&'static str> },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let link = || select(LINKS.to_vec());
    let step = prop_oneof![
        3 => (link(), any::<bool>()).prop_map(|(link, up)| Step::Up(link, up)),
        2 => link().prop_map(Step::Addresses),
        2 => (link(), any::<bool>()).prop_map(|(link, carrier)| Step::Carrier(link, carrier)),
        5 => (any::<bool>(), 0u8..3, subsequence(LINKS.to_vec(), 0..=2))
            .prop_map(|(six, prefix, over)| Step::Route { six, prefix, over }),
    ];
    prop::collection::vec(step, 1..24)
}

fn learned(six: bool, prefix: u8, over: &[&str]) -> Op<Route> {
    let prefix = if six { format!("fd09:{prefix}::/32") } else { format!("10.{prefix}.0.0/16") };
    let key = RouteKey { prefix: prefix.parse().unwrap(), table: MAIN_TABLE, metric: 0 };
    let hop = |link: &&str| {
        let n = link.trim_start_matches("eth");
        let via: IpAddr = if six { format!("fd00:{n}::2") } else { format!("192.168.{n}.2") }.parse().unwrap();
        NextHop { via: Some(via), dev: None, weight: 1 }
    };
    if over.is_empty() {
        return Op::Del(key);
    }
    let next_hops = over.iter().map(hop).collect();
    Op::Put(key, RouteValue { kind: RouteKind::Unicast, protocol: PROTO_KUBE_ROUTER, src: None, next_hops })
}

/// Routes as text, without what only one of the kernels has.
fn text(routes: impl IntoIterator<Item = (RouteKey, RouteValue)>) -> Vec<String> {
    let mut lines: Vec<String> = routes
        .into_iter()
        .filter(
            |(key, _)| !matches!(key.prefix.addr(), IpAddr::V6(ip) if ip.is_unicast_link_local() || ip.is_multicast()),
        )
        .map(|(key, value)| {
            let metric = if key.metric == 1024 { 0 } else { key.metric };
            let hops: Vec<String> =
                value.next_hops.iter().map(|hop| format!("{:?}", hop.via.map(|via| via.to_string()))).collect();
            format!("{} metric {metric} proto {} {}", key.prefix, value.protocol, hops.join(" "))
        })
        .collect();
    lines.sort();
    lines
}

fn of_real(real: &mut RouteBackend) -> Vec<String> {
    let four = routes(real, MAIN_TABLE, Family::V4).unwrap();
    text(four.into_iter().chain(routes(real, MAIN_TABLE, Family::V6).unwrap()))
}

fn of_simulated(kernel: &Kernel) -> Vec<String> {
    let main = kernel.routes().filter(|(key, value)| key.table == MAIN_TABLE && value.kind == RouteKind::Unicast);
    text(main.map(|(key, value)| (key.clone(), value.clone())))
}

/// The interfaces as the monitor told of them by now, once it agrees with what should be: a carrier takes its time.
fn hear(monitor: &mut Monitor, told: &mut BTreeMap<String, Interface>, wanted: &BTreeMap<String, Interface>) {
    for _ in 0..2_000 {
        for event in monitor.read(usize::MAX).unwrap().0 {
            match event {
                KernelEvent::Interfaces(all) => {
                    *told = all.into_iter().map(|(name, is)| (name.to_string(), is)).collect();
                }
                KernelEvent::Interface(name, Some(is)) => drop(told.insert(name.to_string(), is)),
                KernelEvent::Interface(name, None) => drop(told.remove(&*name)),
                _ => {}
            }
        }
        told.retain(|name, _| LINKS.contains(&name.as_str()));
        if told == wanted {
            return;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn compare(steps: &[Step]) -> Result<(), TestCaseError> {
    let mut setup = Setup::new().unwrap();
    let mut real = RouteBackend::new().unwrap();
    let mut fabric = Fabric::new(1);
    let host = fabric.add_host("host");
    for link in LINKS {
        let (far, lan) = (format!("far-{link}"), fabric.add_lan(link, Duration::ZERO));
        setup.add_veth(link, &far, None).unwrap();
        setup.set_up(&far, true).unwrap();
        setup.set_up(link, true).unwrap();
        fabric.attach(host, link, lan);
        for address in addresses(link) {
            setup.add_address(link, address).unwrap();
            fabric.kernel_mut(host).add_address(link, address);
        }
    }
    let mut monitor = Monitor::open(&real).unwrap();
    let mut told = BTreeMap::new();
    for step in steps {
        let kernel = fabric.kernel_mut(host);
        match step {
            Step::Up(link, up) => {
                setup.set_up(link, *up).unwrap();
                kernel.set_up(link, *up);
            }
            Step::Addresses(link) => {
                // On an interface that is down IPv6 addresses wait for it to come up; nobody does that.
                if kernel.interfaces().get(*link).is_none_or(|is| is.up) {
                    for address in addresses(link) {
                        setup.add_address(link, address).unwrap();
                        kernel.add_address(link, address);
                    }
                }
            }
            Step::Carrier(link, carrier) => {
                setup.set_up(&format!("far-{link}"), *carrier).unwrap();
                kernel.set_carrier(link, *carrier);
            }
            Step::Route { six, prefix, over } => {
                let op = [learned(*six, *prefix, over)];
                let truth = real.apply(&op).unwrap();
                let guess = Backend::<Route>::apply(kernel, &op).unwrap();
                prop_assert_eq!(truth, guess, "{:?}", step);
            }
        }
        let wanted = kernel.interfaces().into_iter().filter(|(name, _)| LINKS.contains(&&**name));
        let wanted: BTreeMap<String, Interface> = wanted.map(|(name, is)| (name.to_string(), is)).collect();
        hear(&mut monitor, &mut told, &wanted);
        prop_assert_eq!(&told, &wanted, "interfaces after {:?}", step);
        prop_assert_eq!(of_real(&mut real), of_simulated(fabric.kernel(host)), "routes after {:?}", step);
    }
    Ok(())
}

#[test]
fn links() {
    let config = ProptestConfig { cases: 32, failure_persistence: None, ..ProptestConfig::default() };
    let result = TestRunner::new(config).run(&steps(), |steps| {
        let thread = std::thread::spawn(move || {
            if let Err(error) = unshare(CloneFlags::CLONE_NEWNET) {
                println!("skipped: no network namespace: {error}");
                return Ok(());
            }
            compare(&steps)
        });
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    });
    if let Err(error) = result {
        panic!("{error}");
    }
}
