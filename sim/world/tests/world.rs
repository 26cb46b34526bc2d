//! The whole cluster under one seed: determinism, and convergence after whatever happened.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use fairway_objects::{BfdConfig, BgpPeer, NodeConfig};
use fairway_oracle::promises;
use fairway_record::{Ended, Replay};
use fairway_scenario::{Fault, MconnectRequest, Origin, Plane, PodPick, Scenario, Stage, Target, parse};
use fairway_world::{Tapes, World};
use proptest::prelude::*;

const SCENARIO: &str = r#"
name: swarm
topology:
  lans:
    cluster: {subnets: [192.168.1.0/24], latency: 100us}
    external: {subnets: [192.168.2.0/24], latency: 100us}
  nodes:
    n1: {cluster: 192.168.1.1, podCIDR: 11.0.1.0/24}
    n2: {cluster: 192.168.1.2, podCIDR: 11.0.2.0/24}
    n3: {cluster: 192.168.1.3, podCIDR: 11.0.3.0/24}
  routers:
    r1: {cluster: 192.168.1.201, external: 192.168.2.201, asn: 65002, accept: [65001], reject: [192.168.0.0/16]}
  testers:
    t1: {external: 192.168.2.221}
services: {cidrs: [12.0.0.0/16]}
objects: [mconnect.yaml]
steps:
  - pass: 1s
"#;

const NODES: [&str; 3] = ["n1", "n2", "n3"];

/// Whether nodes and router watch each other by BFD.
fn watched(seed: u64) -> bool {
    seed.is_multiple_of(3)
}

fn scenario(bfd: bool) -> Scenario {
    let files = |_: &str| Ok(include_str!("../../../scenarios/seed/mconnect.yaml").to_string());
    let text = if bfd { SCENARIO.replace("asn: 65002,", "asn: 65002, bfd: {},") } else { SCENARIO.into() };
    parse("swarm.yaml", &text, &files).unwrap_or_else(|wrong| panic!("{wrong:?}"))
}

fn configure(node: &str, _: &[String]) -> Result<(NodeConfig, Vec<fairway_objects::Notice>), String> {
    let peer = BgpPeer::new(IpAddr::from([192, 168, 1, 201]), 65002);
    let config = NodeConfig {
        advertise_external_ip: true,
        advertise_pod_cidr: false,
        cluster_asn: Some(65001),
        peers: vec![peer],
        bgp_hold_s: 9,
        hairpin_mode: true,
        service_cluster_ip_range: vec!["12.0.0.0/16".parse().map_err(|_| "cidr")?],
        service_external_ip_range: vec!["10.0.0.0/24".parse().map_err(|_| "cidr")?],
        ..NodeConfig::new(node)
    };
    Ok((config, vec![]))
}

fn world(seed: u64) -> World {
    build(seed, None)
}

fn build(seed: u64, tapes: Option<Tapes>) -> World {
    let bfd = watched(seed);
    let configure = |node: &str, flags: &[String]| {
        let (mut config, notices) = configure(node, flags)?;
        config.peers[0].bfd = bfd.then(BfdConfig::default);
        Ok((config, notices))
    };
    let scenario = scenario(bfd);
    let world = match tapes {
        Some(tapes) => World::recorded(&scenario, seed, &configure, tapes),
        None => World::new(&scenario, seed, &configure),
    };
    world.unwrap_or_else(|e| panic!("{e}"))
}

/// Lets time pass until the condition holds.
fn until(world: &mut World, within: Duration, mut holds: impl FnMut(&mut World) -> bool) -> bool {
    let limit = world.now() + within;
    while !holds(world) {
        if world.now() >= limit {
            return false;
        }
        world.advance(limit);
    }
    true
}

fn converged(world: &mut World) -> bool {
    let ready =
        |w: &mut World| w.endpoints("default", "mconnect").is_ok_and(|e| e.iter().filter(|e| e.ready).count() == 4);
    NODES.iter().all(|n| world.in_sync(n).unwrap_or(false))
        && ready(world)
        && world
            .routes("r1", false)
            .is_ok_and(|routes| routes.iter().any(|r| r.prefix.to_string() == "10.0.0.2/32" && r.next_hops.len() == 3))
}

fn load(from: Origin, address: Target, nconn: u32, udp: bool) -> MconnectRequest {
    MconnectRequest { from, address, nconn, udp, srccidr: None, timeout: None, max_concurrent: 64, keep: false }
}

/// What may happen to the cluster.
#[derive(Clone, Debug)]
enum Mishap {
    Fault(Fault),
    Scale(u32),
    External(bool),
    Pass(u16),
}

fn node() -> impl Strategy<Value = String> {
    prop::sample::select(NODES.to_vec()).prop_map(String::from)
}

fn pick(on: String) -> PodPick {
    PodPick { namespace: "default".into(), on: Some(on), name: None, count: Some(1) }
}

fn mishap() -> impl Strategy<Value = Mishap> {
    let fault = prop_oneof![
        node().prop_map(Fault::KillAgent),
        node().prop_map(Fault::StartAgent),
        node().prop_map(Fault::RestartAgent),
        node().prop_map(|host| Fault::Cut { host, lan: "cluster".into() }),
        node().prop_map(|host| Fault::Heal { host, lan: "cluster".into() }),
        node().prop_map(|host| Fault::LinkDown { host, lan: "cluster".into() }),
        node().prop_map(|host| Fault::LinkUp { host, lan: "cluster".into() }),
        node().prop_map(|host| Fault::Unplug { host, lan: "cluster".into() }),
        node().prop_map(|host| Fault::Plug { host, lan: "cluster".into() }),
        node().prop_map(|n| Fault::DeletePod(pick(n))),
        node().prop_map(|n| Fault::NotReady(pick(n))),
        node().prop_map(Fault::Drain),
        node().prop_map(Fault::PowerOff),
        node().prop_map(Fault::PowerOn),
        node().prop_map(Fault::Uncordon),
        (1u8..4).prop_map(|n| Fault::FlapBgp { on: "r1".into(), peer: IpAddr::from([192, 168, 1, n]) }),
        (node(), prop::sample::select(vec![Plane::Addr, Plane::Filter, Plane::Route, Plane::Ipvs]))
            .prop_map(|(on, plane)| Fault::Tamper { on, plane }),
        (
            node(),
            prop::sample::select(vec![Plane::Sysctl, Plane::Addr, Plane::Filter, Plane::Route, Plane::Ipvs]),
            prop::sample::select(fairway_scenario::KernelFail::NAMES.iter().map(|(_, f)| *f).collect::<Vec<_>>()),
            1u32..6,
        )
            .prop_map(|(on, plane, fail, times)| Fault::Kernel { on, plane, fail, times }),
    ];
    prop_oneof![
        6 => fault.prop_map(Mishap::Fault),
        1 => (1u32..7).prop_map(Mishap::Scale),
        1 => any::<bool>().prop_map(Mishap::External),
        4 => (1u16..3000).prop_map(Mishap::Pass),
    ]
}

fn play(world: &mut World, mishap: Mishap) {
    match mishap {
        // A fault that does not fit (no agent to kill, no pod to delete) is refused and changes nothing.
        Mishap::Fault(fault) => {
            let _refused = world.fault(&fault);
        }
        Mishap::Scale(n) => world.scale("default", "mconnect-deployment", n).unwrap_or_else(|e| panic!("{e}")),
        Mishap::External(other) => external(world, if other { "10.0.0.7" } else { "10.0.0.2" }),
        Mishap::Pass(ms) => {
            let limit = world.now() + Duration::from_millis(ms.into());
            while world.now() < limit {
                world.advance(limit);
            }
        }
    }
}

/// Everything is made good again.
fn heal(world: &mut World) {
    for node in NODES {
        let name = || node.to_string();
        // Refused where the node has power.
        let _refused = world.fault(&Fault::PowerOn(name()));
        world.fault(&Fault::Heal { host: name(), lan: "cluster".into() }).unwrap_or_else(|e| panic!("{e}"));
        world.fault(&Fault::LinkUp { host: name(), lan: "cluster".into() }).unwrap_or_else(|e| panic!("{e}"));
        world.fault(&Fault::Plug { host: name(), lan: "cluster".into() }).unwrap_or_else(|e| panic!("{e}"));
        world.fault(&Fault::StartAgent(name())).unwrap_or_else(|e| panic!("{e}"));
        world.fault(&Fault::Uncordon(name())).unwrap_or_else(|e| panic!("{e}"));
        // Not every node has a pod that could become ready.
        let _none = world.fault(&Fault::Ready(PodPick { count: None, ..pick(name()) }));
    }
    world.scale("default", "mconnect-deployment", 4).unwrap_or_else(|e| panic!("{e}"));
    external(world, "10.0.0.2");
}

fn external(world: &mut World, address: &str) {
    for service in ["mconnect", "mconnect-udp"] {
        let merge = serde_json::json!({"spec": {"externalIPs": [address]}});
        world.patch("Service", "default", service, &merge).unwrap_or_else(|e| panic!("{e}"));
    }
}

/// What the oracle reads out of the objects is what connections find.
fn check_promises(world: &mut World) {
    let objects = world.objects();
    let objects: Vec<&serde_json::Value> = objects.iter().collect();
    for (from, node) in [("n1", Some("n1")), ("n3", Some("n3")), ("t1", None)] {
        for promise in promises(&objects, node) {
            let udp = promise.protocol == "UDP";
            let target = Target::Socket((promise.address, promise.port).into());
            let result = world.mconnect(&load(Origin::Host(from.into()), target, 40, udp));
            let result = result.unwrap_or_else(|e| panic!("{e}"));
            assert_eq!(result.report.failed(), 0, "{from} to {promise:?}: {:?}", result.failures);
            let endpoints = world.endpoints("default", &promise.service.1).unwrap_or_else(|e| panic!("{e}"));
            let seen: BTreeSet<IpAddr> =
                endpoints.iter().filter(|e| result.report.hosts.contains_key(&e.pod)).map(|e| e.address).collect();
            assert_eq!(seen, promise.backends, "{from} to {promise:?}");
        }
    }
}

#[test]
fn the_same_seed_gives_the_same_trace_hash_and_another_seed_another() {
    let hash = |seed| {
        let mut world = world(seed);
        assert!(until(&mut world, Duration::from_secs(60), converged), "not converged: {:?}", world.notices());
        let target = Target::Socket(([10, 0, 0, 2], 5001).into());
        let result = world.mconnect(&load(Origin::Host("t1".into()), target, 100, false));
        let hosts = result.unwrap_or_else(|e| panic!("{e}")).report.hosts;
        (world.hash(), hosts)
    };
    assert_eq!(hash(1), hash(1));
    assert_ne!(hash(1).0, hash(2).0);
    assert!(watched(3) && !watched(1));
    assert_eq!(hash(3), hash(3));
}

#[test]
fn bfd_notices_a_cut_link_and_the_hold_time_does_not() {
    for (seed, noticed) in [(3, true), (1, false)] {
        let mut world = world(seed);
        assert!(until(&mut world, Duration::from_secs(60), converged), "not converged: {:?}", world.notices());
        let up = |w: &mut World| w.bfd("r1").is_ok_and(|s| s.iter().filter(|s| s.state == "Up").count() == 3);
        assert_eq!(until(&mut world, Duration::from_secs(5), up), noticed);
        world.fault(&Fault::Cut { host: "n2".into(), lan: "cluster".into() }).unwrap_or_else(|e| panic!("{e}"));
        let cut = world.now();
        let left = |w: &mut World| w.neighbors("r1").is_ok_and(|n| n.len() == 2);
        assert_eq!(until(&mut world, Duration::from_millis(3200), left), noticed, "three packets a second apart");
        // The last packet came less than a second before the cut.
        assert!(world.now() >= cut + Duration::from_secs(2));
    }
}

#[test]
fn connections_find_what_the_objects_promise() {
    let mut world = world(3);
    assert!(until(&mut world, Duration::from_secs(60), converged), "not converged: {:?}", world.notices());
    check_promises(&mut world);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    /// Safety and liveness in one: whatever happens, once everything is healed the cluster converges, and connections
    /// find exactly the pods that the objects promise.
    #[test]
    fn whatever_happens_the_cluster_converges(seed in any::<u64>(), mishaps in prop::collection::vec(mishap(), 1..20)) {
        let mut world = world(seed);
        prop_assert!(until(&mut world, Duration::from_secs(60), converged), "no start: {:?}", world.notices());
        for mishap in mishaps {
            play(&mut world, mishap);
        }
        heal(&mut world);
        // Agents observe their kernels again every few minutes, which is when they find what was tampered with.
        let limit = world.now() + Duration::from_secs(700);
        while world.now() < limit {
            world.advance(limit);
        }
        let state: Vec<_> = NODES.iter().map(|n| (n, world.in_sync(n))).collect();
        let sessions = world.bfd("r1").unwrap_or_default();
        let up = sessions.iter().filter(|s| s.state == "Up").count();
        prop_assert_eq!(up, if watched(seed) { NODES.len() } else { 0 }, "{:?}", sessions);
        prop_assert!(
            until(&mut world, Duration::from_secs(60), converged),
            "not converged: {state:?} {:?} {:?}", world.notices(), world.routes("r1", false)
        );
        check_promises(&mut world);
    }
}

/// One recording for each agent that ever started.
type Reels = Arc<Mutex<Vec<Arc<Mutex<Vec<u8>>>>>>;

fn tapes(reels: &Reels) -> Tapes {
    let reels = Arc::clone(reels);
    Tapes(Box::new(move |_| {
        let reel = Arc::new(Mutex::new(vec![]));
        reels.lock().expect("nobody panics with it").push(Arc::clone(&reel));
        Box::new(move |bytes: Vec<u8>| {
            reel.lock().expect("nobody panics with it").extend(bytes);
            true
        })
    }))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 6, ..ProptestConfig::default() })]

    /// Whatever happens, every agent that is played again from its recording does what it did.
    #[test]
    fn a_recorded_agent_does_again_what_it_did(seed in any::<u64>(), mishaps in prop::collection::vec(mishap(), 1..20)) {
        let reels = Reels::default();
        let mut world = build(seed, Some(tapes(&reels)));
        prop_assert!(until(&mut world, Duration::from_secs(60), converged), "no start: {:?}", world.notices());
        for mishap in mishaps {
            play(&mut world, mishap);
        }
        drop(world);
        let reels = reels.lock().expect("nobody panics with it");
        prop_assert!(reels.len() > NODES.len());
        for reel in reels.iter() {
            let bytes = reel.lock().expect("nobody panics with it").clone();
            let mut replay = Replay::new(&bytes).unwrap_or_else(|e| panic!("{e}"));
            let (mut steps, mut outputs) = (0, 0);
            for step in replay.by_ref() {
                prop_assert_eq!(step.identical, Some(true), "step {} {:?}", step.number, step.input);
                steps += 1;
                outputs += step.outputs.len();
            }
            prop_assert_eq!((replay.ended(), replay.difference()), (Some(Ended::Complete), None));
            // One that was started just before the end has only asked what there is.
            prop_assert!(steps > 0 && outputs > 8, "{} steps, {} outputs", steps, outputs);
            // Cut anywhere, it is played as far as it goes.
            let cut = &bytes[..bytes.len() / 2];
            let mut replay = Replay::new(cut).unwrap_or_else(|e| panic!("{e}"));
            prop_assert!(replay.by_ref().all(|step| step.identical != Some(false)));
            prop_assert_eq!(replay.ended(), Some(Ended::Cut));
        }
    }
}
