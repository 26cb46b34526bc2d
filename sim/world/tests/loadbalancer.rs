//! Several nodes that may give addresses: through the API server of the world, with its lags, in virtual time.

use std::collections::BTreeSet;
use std::time::Duration;

use fairway_objects::{LoadBalancerConfig, NodeConfig, Notice};
use fairway_scenario::{Fault, Scenario, Stage, parse};
use fairway_world::World;
use proptest::prelude::*;
use serde_json::Value;

const NODES: [&str; 3] = ["n1", "n2", "n3"];

fn scenario() -> Scenario {
    let text = r#"
name: allocators
topology:
  lans: {cluster: {subnets: [192.168.1.0/24], latency: 100us}}
  nodes:
    n1: {cluster: 192.168.1.1, podCIDR: 11.0.1.0/24}
    n2: {cluster: 192.168.1.2, podCIDR: 11.0.2.0/24}
    n3: {cluster: 192.168.1.3, podCIDR: 11.0.3.0/24}
services: {cidrs: [12.0.0.0/16]}
steps: [{pass: 1s}]
"#;
    parse("allocators.yaml", text, &|_: &str| Err(std::io::Error::other("no files")))
        .unwrap_or_else(|wrong| panic!("{wrong:?}"))
}

fn world(seed: u64, range: &str) -> World {
    let configure = |node: &str, _: &[String]| -> Result<(NodeConfig, Vec<Notice>), String> {
        let ours = LoadBalancerConfig {
            default_class: true,
            sync_period_ms: 60_000,
            lease_namespace: "kube-system".into(),
            identity: node.into(),
        };
        let config = NodeConfig {
            run_router: false,
            run_service_proxy: false,
            load_balancer_ip_range: vec![range.parse().map_err(|_| "cidr")?],
            load_balancer: Some(ours),
            ..NodeConfig::new(node)
        };
        Ok((config, vec![]))
    };
    World::new(&scenario(), seed, &configure).unwrap_or_else(|e| panic!("{e}"))
}

/// Who leads.
fn leaders(world: &World) -> Vec<&'static str> {
    let leads = |node: &&&str| {
        let agent = world.agent(node);
        agent.and_then(|agent| agent.publisher().view()).is_some_and(|view| view.leads)
    };
    NODES.iter().filter(leads).copied().collect()
}

/// Lets time pass until the condition holds; there are never two leaders.
fn until(world: &mut World, within: u64, mut holds: impl FnMut(&World) -> bool) -> bool {
    let limit = world.now() + Duration::from_secs(within);
    while !holds(world) {
        if world.now() >= limit {
            return false;
        }
        world.advance(limit);
        let leaders = leaders(world);
        assert!(leaders.len() < 2, "{leaders:?}");
    }
    true
}

fn pass(world: &mut World, seconds: u64) {
    until(world, seconds, |_| false);
}

fn leader(world: &mut World) -> &'static str {
    assert!(until(world, 20, |world| !leaders(world).is_empty()), "nobody leads");
    leaders(world)[0]
}

fn apply(world: &mut World, name: &str, annotations: &str) {
    let yaml = format!(
        "{{apiVersion: v1, kind: Service, metadata: {{name: {name}, annotations: {{{annotations}}}}}, \
         spec: {{type: LoadBalancer, ports: [{{port: 80}}]}}}}"
    );
    world.apply("test", &yaml).expect("a service");
}

/// The addresses that services have, with their names.
fn given(world: &World) -> Vec<(String, String)> {
    let text = |v: &Value, path: &str| v.pointer(path).and_then(Value::as_str).unwrap_or_default().to_string();
    let services = world.cluster().api.list("Service");
    services
        .flat_map(|service| {
            let all = service.pointer("/status/loadBalancer/ingress").and_then(Value::as_array).into_iter().flatten();
            all.map(|entry| (text(entry, "/ip"), text(service, "/metadata/name"))).collect::<Vec<_>>()
        })
        .collect()
}

/// All services have an address of their own.
fn all_have(world: &World, count: usize) -> bool {
    let given = given(world);
    let addresses: BTreeSet<_> = given.iter().map(|(address, _)| address).collect();
    given.len() == count && addresses.len() == count
}

#[test]
fn one_leads_and_another_follows_when_it_is_killed() {
    let mut world = world(1, "10.1.0.0/24");
    let first = leader(&mut world);
    apply(&mut world, "a", "");
    assert!(until(&mut world, 5, |w| all_have(w, 1)));
    world.fault(&Fault::KillAgent(first.into())).expect("it runs");
    apply(&mut world, "b", "");
    assert!(until(&mut world, 20, |w| all_have(w, 2)), "{:?}", given(&world));
    assert_ne!(leader(&mut world), first);
    // It is back, waits, and follows in its turn: kube-router's would never again.
    world.fault(&Fault::StartAgent(first.into())).expect("it does not run");
    for other in NODES.iter().filter(|node| **node != first) {
        world.fault(&Fault::KillAgent((*other).into())).expect("it runs");
    }
    apply(&mut world, "c", "");
    assert!(until(&mut world, 20, |w| all_have(w, 3)), "{:?}", given(&world));
    assert_eq!(leader(&mut world), first);
}

#[test]
fn one_that_ends_in_order_is_followed_at_once() {
    let mut world = world(2, "10.1.0.0/24");
    let first = leader(&mut world);
    world.fault(&Fault::RestartAgent(first.into())).expect("it runs");
    assert!(until(&mut world, 4, |w| !leaders(w).is_empty()), "the Lease was given back");
}

#[test]
fn a_leader_that_is_cut_off_from_the_api_stops_before_another_begins() {
    let mut world = world(3, "10.1.0.0/24");
    let first = leader(&mut world);
    world.partition(first, true);
    apply(&mut world, "a", "");
    assert!(until(&mut world, 11, |w| leaders(w).is_empty()));
    assert!(until(&mut world, 10, |w| all_have(w, 1)), "{:?}", given(&world));
    let second = leader(&mut world);
    assert_ne!(second, first);
    assert!(
        world.notices().iter().any(|n| n.host == first && n.subject.contains("Lease kube-system/kube-router-lballoc"))
    );
    world.partition(first, false);
    apply(&mut world, "b", "");
    assert!(until(&mut world, 5, |w| all_have(w, 2)));
    pass(&mut world, 60);
    assert_eq!(leader(&mut world), second);
    assert_eq!(world.notices(), [], "it can be reached again");
}

#[test]
fn what_every_node_sees_is_one_event() {
    let mut world = world(4, "10.1.0.0/30");
    leader(&mut world);
    apply(&mut world, "a", "kube-router.io/service.scheduler: nonsense");
    apply(&mut world, "b", "");
    assert!(until(&mut world, 5, |w| all_have(w, 2)));
    apply(&mut world, "c", "");
    world
        .patch(
            "Node",
            "",
            "n2",
            &serde_json::json!({"metadata": {"annotations": {"kube-router.io/peers": "nonsense"}}}),
        )
        .expect("a node");
    pass(&mut world, 60);
    let events = world.cluster().events();
    let of = |reason: &str| -> Vec<(String, u64)> {
        events.iter().filter(|e| e.1 == reason).map(|e| (e.0.clone(), e.3)).collect()
    };
    assert_eq!(of("AddressGiven"), [("Service a".into(), 1), ("Service b".into(), 1)]);
    assert_eq!(of("NoFreeAddress"), [("Service c".into(), 1)]);
    assert_eq!(of("IgnoredAnnotation"), [("Service a".into(), 1), ("Node n2".into(), 1)], "{events:?}");
    // A new leader says the same of what stands, and counts it.
    let first = leader(&mut world);
    world.fault(&Fault::KillAgent(first.into())).expect("it runs");
    pass(&mut world, 30);
    assert_eq!(world.cluster().events().iter().filter(|e| e.1 == "NoFreeAddress").count(), 1);
}

#[derive(Clone, Debug)]
enum Act {
    Apply(u8),
    Delete(u8),
    Kill(usize),
    Start(usize),
    Restart(usize),
    Partition(usize, bool),
    Pass(u16),
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Leaders come and go while services do; there are never two, and in the end each service has its own address.
    #[test]
    fn whoever_leads_each_gets_its_own(
        seed in any::<u64>(),
        acts in prop::collection::vec(prop_oneof![
            5 => (0u8..12).prop_map(Act::Apply),
            3 => (0u8..12).prop_map(Act::Delete),
            1 => (0usize..3).prop_map(Act::Kill),
            2 => (0usize..3).prop_map(Act::Start),
            1 => (0usize..3).prop_map(Act::Restart),
            1 => (0usize..3, any::<bool>()).prop_map(|(i, cut)| Act::Partition(i, cut)),
            4 => (1u16..6000).prop_map(Act::Pass),
        ], 0..40),
    ) {
        let mut world = world(seed, "10.1.0.0/28");
        let mut services = BTreeSet::new();
        for act in acts {
            match act {
                Act::Apply(n) => {
                    apply(&mut world, &format!("s{n}"), "");
                    services.insert(n);
                }
                Act::Delete(n) if services.remove(&n) => {
                    world.delete("Service", "default", &format!("s{n}")).expect("it is there");
                }
                Act::Delete(_) => {}
                // Whether it runs or not.
                Act::Kill(i) => drop(world.fault(&Fault::KillAgent(NODES[i].into()))),
                Act::Start(i) => drop(world.fault(&Fault::StartAgent(NODES[i].into()))),
                Act::Restart(i) => drop(world.fault(&Fault::RestartAgent(NODES[i].into()))),
                Act::Partition(i, cut) => world.partition(NODES[i], cut),
                Act::Pass(ms) => {
                    let limit = world.now() + Duration::from_millis(ms.into());
                    while world.now() < limit {
                        world.advance(limit);
                        prop_assert!(leaders(&world).len() < 2);
                    }
                }
            }
        }
        for node in NODES {
            world.partition(node, false);
            drop(world.fault(&Fault::StartAgent(node.into())));
        }
        let count = services.len();
        prop_assert!(until(&mut world, 60, |w| all_have(w, count)), "{:?} of {count}", given(&world));
        pass(&mut world, 70);
        prop_assert!(all_have(&world, count), "and so it stays: {:?}", given(&world));
    }
}
