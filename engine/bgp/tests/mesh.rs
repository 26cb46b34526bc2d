//! Speakers in full mesh, and everything that can go wrong between them: links that break, configuration that changes
//! under way, processes that restart. Whatever happened, nothing was ever advertised that policy forbids, both ends of
//! each session have the same view afterwards, and it is the view of a network in which nothing ever happened.
#![allow(clippy::unwrap_used, reason = "a test may fail")]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use common::*;
use fairway_bgp::wire::Update;
use fairway_bgp::{Input, RibPath, SessionState};
use fairway_desired::bgp::{
    AddPath, Community, Direction, Families, Global, GracefulRestart, Key, Modify, Peer, Policy, Session, Statement,
    Value,
};
use fairway_desired::{Bgp, Family, Op, Table};
use ipnet::IpNet;
use proptest::prelude::*;

const NODES: [&str; 4] = ["10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.4"];
const PREFIXES: [&str; 6] =
    ["10.9.0.0/24", "10.9.0.1/32", "10.9.0.2/32", "10.8.0.0/16", "fd00:9::/64", "fd00:9::1/128"];

/// The shape of a run.
#[derive(Clone, Debug)]
struct Shape {
    seed: u64,
    nodes: usize,
    delay: u32,
    /// Of each node: which AS, whether it reflects, and how its peers are set up at first.
    asns: [u8; 4],
    options: [u16; 4],
}

impl Shape {
    fn asn(&self, node: usize) -> u32 {
        65001 + u32::from(self.asns[node])
    }
}

/// A change of a node's configuration.
#[derive(Clone, Debug)]
enum Edit {
    Network(usize, bool),
    Member(&'static str, usize, bool),
    Neighbor(usize, bool),
    Policy(Direction, u8),
    /// Another node, and the options of the session with it.
    Peer(usize, u16),
    MaxPaths(u8),
    Cluster(u8),
}

#[derive(Clone, Debug)]
enum Step {
    Edits(usize, Vec<Edit>),
    Cut(usize, usize),
    Heal(usize, usize),
    Sever(usize, usize),
    Reset(usize, usize),
    Refresh(usize, usize),
    Enable(usize, usize, bool),
    Restart(usize, bool),
    Complete(usize),
    Bfd(usize, usize),
    Wait(u64),
}

fn direction() -> impl Strategy<Value = Direction> {
    prop_oneof![Just(Direction::Import), Just(Direction::Export)]
}

fn edit() -> impl Strategy<Value = Edit> {
    let prefix = 0..PREFIXES.len();
    prop_oneof![
        6 => (prefix.clone(), prop::bool::weighted(0.7)).prop_map(|(p, on)| Edit::Network(p, on)),
        5 => (prefix, prop::bool::weighted(0.7)).prop_map(|(p, on)| Edit::Member("vips", p, on)),
        2 => (0..PREFIXES.len(), any::<bool>()).prop_map(|(p, on)| Edit::Member("bad", p, on)),
        3 => (0..4usize, any::<bool>()).prop_map(|(n, on)| Edit::Neighbor(n, on)),
        3 => (direction(), 0u8..6).prop_map(|(d, v)| Edit::Policy(d, v)),
        3 => (0..4usize, any::<u16>()).prop_map(|(n, o)| Edit::Peer(n, o)),
        1 => (1u8..5).prop_map(Edit::MaxPaths),
        1 => (0u8..2).prop_map(Edit::Cluster),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let pair = || (0..4usize, 0..4usize);
    prop_oneof![
        10 => (0..4usize, prop::collection::vec(edit(), 1..4)).prop_map(|(n, e)| Step::Edits(n, e)),
        1 => pair().prop_map(|(a, b)| Step::Cut(a, b)),
        1 => pair().prop_map(|(a, b)| Step::Heal(a, b)),
        1 => pair().prop_map(|(a, b)| Step::Sever(a, b)),
        1 => pair().prop_map(|(a, b)| Step::Reset(a, b)),
        1 => pair().prop_map(|(a, b)| Step::Refresh(a, b)),
        1 => (pair(), any::<bool>()).prop_map(|((a, b), on)| Step::Enable(a, b, on)),
        2 => (0..4usize, any::<bool>()).prop_map(|(n, graceful)| Step::Restart(n, graceful)),
        1 => (0..4usize).prop_map(Step::Complete),
        1 => pair().prop_map(|(a, b)| Step::Bfd(a, b)),
        8 => (1u64..5000).prop_map(Step::Wait),
    ]
}

fn shape() -> impl Strategy<Value = Shape> {
    // All of one AS, all of different ones, or any.
    let asns = prop_oneof![Just([0u8; 4]), Just([0, 1, 2, 3]), prop::array::uniform4(0u8..3)];
    (any::<u64>(), 2usize..5, 1u32..300, asns, prop::array::uniform4(any::<u16>()))
        .prop_map(|(seed, nodes, delay, asns, options)| Shape { seed, nodes, delay, asns, options })
}

/// Options of a session, by the bits of a number.
fn session(bits: u16) -> Session {
    let on = |bit: u16| bits & (1 << bit) != 0;
    let mut s = Session::new(if on(0) { 9 } else { 12 }, Families { v4: true, v6: on(1) || on(2) });
    s.add_path = AddPath { receive: on(3), send: if on(4) { 2 } else { 0 } };
    let long_lived_s = if on(6) { 20 } else { 0 };
    s.graceful_restart = on(5).then_some(GracefulRestart { time_s: 20, defer_s: 15, long_lived_s });
    s.extended_next_hop = on(7);
    s.reflector_client = on(8);
    s.allow_own_as = u8::from(on(9));
    s
}

fn peer_of(shape: &Shape, node: usize, bits: u16) -> Peer {
    Peer { passive: bits & 0x400 != 0, ..Peer::new(shape.asn(node), session(bits)) }
}

fn exact(set: &str, prefix: usize) -> Op<Bgp> {
    let prefix = net(PREFIXES[prefix]);
    let len = prefix.prefix_len();
    Op::Put(Key::PrefixMember(set.into(), prefix), Value::PrefixMember { min: len, max: len })
}

fn put(on: bool, op: Op<Bgp>) -> Op<Bgp> {
    if on { op } else { Op::Del(op.key().clone()) }
}

/// A policy by its number.
fn policy_of(direction: Direction, variant: u8) -> Op<Bgp> {
    let vips =
        || Statement { name: "vips".into(), prefix_set: Some("vips".into()), accept: true, ..Statement::default() };
    let bad = Statement { name: "bad".into(), prefix_set: Some("bad".into()), ..Statement::default() };
    let told = |s: Statement| Statement { neighbor_set: Some("told".into()), ..s };
    let modify = Modify {
        prepend: Some((65099, 1)),
        communities: vec![Community::Standard(7)],
        next_hop_self: true,
        ..Modify::default()
    };
    let (statements, default_accept) = match variant {
        0 => return Op::Del(Key::Policy(direction)),
        1 => (vec![bad], true),
        2 => (vec![vips()], false),
        3 => (vec![bad, told(vips())], false),
        4 => (vec![told(bad)], true),
        // What only the AS path of others can make different would have several stable states, so no preference here.
        _ => (
            vec![Statement {
                modify: if direction == Direction::Export { modify } else { Modify::default() },
                ..vips()
            }],
            false,
        ),
    };
    Op::Put(Key::Policy(direction), Value::Policy(Policy { statements, default_accept }))
}

fn op_of(shape: &Shape, node: usize, edit: &Edit) -> Op<Bgp> {
    match edit {
        Edit::Network(p, on) => {
            let hop = if *p >= 4 { format!("fd00::{}", node + 1) } else { NODES[node].into() };
            put(*on, network(PREFIXES[*p], &hop))
        }
        Edit::Member(set, p, on) => put(*on, exact(set, *p)),
        Edit::Neighbor(n, on) => {
            let range = IpNet::from(ip(NODES[*n]));
            put(*on, Op::Put(Key::NeighborMember("told".into(), range), Value::NeighborMember))
        }
        Edit::Policy(direction, variant) => policy_of(*direction, *variant),
        // Both dial, or one: a session of two that only wait never comes up.
        Edit::Peer(n, bits) => {
            let bits = if node < *n { bits & !0x400 } else { *bits };
            Op::Put(Key::Peer(ip(NODES[*n])), Value::Peer(peer_of(shape, *n, bits)))
        }
        Edit::MaxPaths(max_paths) => global_of(shape, node, *max_paths, 0),
        Edit::Cluster(cluster) => global_of(shape, node, 4, *cluster),
    }
}

fn global_of(shape: &Shape, node: usize, max_paths: u8, cluster: u8) -> Op<Bgp> {
    let router_id = std::net::Ipv4Addr::new(10, 0, 0, node as u8 + 1);
    let mut global = Global::new(shape.asn(node), router_id, 179, max_paths);
    global.cluster_id = (cluster > 0).then(|| std::net::Ipv4Addr::new(1, 1, 1, node as u8));
    Op::Put(Key::Global, Value::Global(global))
}

/// Whether the export policy that a node has lets a prefix go to a neighbour: read off its configuration, set by set.
fn allowed(config: &Table<Bgp>, to: IpAddr, prefix: IpNet) -> bool {
    let Some(Value::Policy(policy)) = config.get(&Key::Policy(Direction::Export)) else { return true };
    let in_prefixes = |set: &str| {
        config.iter().any(|(key, value)| match (key, value) {
            (Key::PrefixMember(name, net), Value::PrefixMember { min, max }) => {
                &**name == set && net.contains(&prefix) && (*min..=*max).contains(&prefix.prefix_len())
            }
            _ => false,
        })
    };
    let in_neighbors = |set: &str| {
        config.keys().any(|key| matches!(key, Key::NeighborMember(name, net) if &**name == set && net.contains(&to)))
    };
    for s in &policy.statements {
        let about = s.neighbor_set.as_deref().is_none_or(in_neighbors);
        if about && s.prefix_set.as_deref().is_none_or(in_prefixes) {
            return s.accept;
        }
    }
    policy.default_accept
}

fn check(node: &Node, to: IpAddr, update: &Update) {
    let reaches = update.reach.iter().chain(update.mp_reach.iter().map(|(_, r)| r));
    let prefixes: Vec<IpNet> = reaches.flat_map(|r| &r.prefixes).map(|n| n.prefix).collect();
    if prefixes.is_empty() {
        return;
    }
    let config = node.speaker.observe();
    for prefix in prefixes {
        assert!(allowed(&config, to, prefix), "{} must not tell {to} of {prefix}", node.address);
    }
}

/// What one side says of a path that the other side must have: everything that is on the wire.
type Said = (IpNet, u32, IpAddr, String);

fn said(paths: &[RibPath], with_ids: bool) -> BTreeSet<Said> {
    let id = |p: &RibPath| if with_ids { p.path_id } else { 0 };
    paths.iter().map(|p| (p.prefix, id(p), p.next_hop, format!("{:?}", p.attributes))).collect()
}

/// The views of all nodes: what each told each, and which next hops it uses.
type Views = (BTreeMap<(usize, usize), BTreeSet<Said>>, Vec<BTreeMap<IpNet, Vec<IpAddr>>>);

/// Both ends of each session agree, and what is told to the kernel is what is used. The views, without identifiers.
fn agreement(net: &Net, nodes: usize) -> Result<Views, TestCaseError> {
    let mut views = BTreeMap::new();
    for (from, sender) in NODES.iter().enumerate().take(nodes) {
        for (to, receiver) in NODES.iter().enumerate().take(nodes).filter(|(to, _)| *to != from) {
            let out = net.nodes[from].speaker.adj_out(ip(receiver));
            let inward = net.nodes[to].speaker.adj_in(ip(sender));
            prop_assert_eq!(said(&out, true), said(&inward, true), "{} to {}: {:#?}", from, to, net.log);
            prop_assert!(inward.iter().all(|p| !p.stale), "stale routes are left");
            let config = net.nodes[from].speaker.observe();
            for path in &out {
                prop_assert!(allowed(&config, ip(receiver), path.prefix));
            }
            // What was computed bit by bit is what one look at everything gives.
            for prefix in PREFIXES {
                let told = out.iter().any(|p| p.prefix == common::net(prefix));
                let Some(why) = net.nodes[from].speaker.explain(common::net(prefix)) else {
                    prop_assert!(!told);
                    continue;
                };
                let several = why.neighbors.iter().find(|(peer, ..)| *peer == ip(receiver));
                if let Some((_, explained, reason)) = several
                    && out.iter().all(|p| p.path_id == 0)
                {
                    let sends_several = net.sends_several(from, to, Family::of(common::net(prefix).addr()));
                    prop_assert!(sends_several || *explained == told, "{} to {} {}: {}", from, to, prefix, reason);
                }
            }
            views.insert((from, to), said(&out, false));
        }
    }
    let mut used = vec![];
    for node in &net.nodes {
        let mut rib: BTreeMap<IpNet, Vec<IpAddr>> = BTreeMap::new();
        for path in [Family::V4, Family::V6].into_iter().flat_map(|f| node.speaker.rib(f)) {
            if path.multipath && path.from.is_some() {
                rib.entry(path.prefix).or_default().push(path.next_hop);
            }
        }
        rib.values_mut().for_each(|hops| {
            hops.sort();
            hops.dedup();
        });
        prop_assert_eq!(&node.learned, &rib, "the kernel was told what is used, at {}", node.address);
        used.push(rib);
    }
    Ok((views, used))
}

/// A network of this shape, its configuration applied.
fn begin(shape: &Shape) -> Net {
    let mut net = Net::new(shape.seed, &NODES[..shape.nodes]);
    net.max_delay_ms = shape.delay;
    net.watch = Some(Box::new(check));
    net
}

fn first_config(shape: &Shape, node: usize) -> Vec<Op<Bgp>> {
    let mut ops = vec![global_of(shape, node, 4, 0)];
    let peers = (0..shape.nodes).filter(|n| *n != node);
    ops.extend(peers.map(|n| op_of(shape, node, &Edit::Peer(n, shape.options[node]))));
    ops
}

fn run(shape: &Shape, steps: &[Step]) -> Result<(), TestCaseError> {
    let nodes = shape.nodes;
    let mut net = begin(shape);
    for node in 0..nodes {
        net.apply(node, &first_config(shape, node));
    }
    let mut restarts = 0;
    for step in steps {
        // Steps about a node that is not there, or about one and itself, are none.
        let two = |a: usize, b: usize| (a < nodes && b < nodes && a != b).then_some((a, b));
        match step {
            Step::Edits(n, edits) if *n < nodes => {
                let real = |e: &&Edit| !matches!(e, Edit::Peer(m, _) if m == n || *m >= nodes);
                let ops: Vec<_> = edits.iter().filter(real).map(|e| op_of(shape, *n, e)).collect();
                net.apply(*n, &ops);
            }
            Step::Restart(n, graceful) if *n < nodes => {
                restarts += 1;
                net.restart(*n, *graceful, shape.seed + restarts);
            }
            Step::Complete(n) if *n < nodes => net.input(*n, Input::Complete),
            Step::Wait(ms) => net.run(Duration::from_millis(*ms)),
            Step::Cut(a, b) if two(*a, *b).is_some() => net.cut(*a, *b),
            Step::Heal(a, b) if two(*a, *b).is_some() => net.heal(*a, *b),
            Step::Sever(a, b) if two(*a, *b).is_some() => net.sever(*a, *b),
            Step::Reset(a, b) if two(*a, *b).is_some() => {
                net.input(*a, Input::ResetPeer { peer: ip(NODES[*b]), message: String::new() });
            }
            Step::Refresh(a, b) if two(*a, *b).is_some() => {
                net.input(*a, Input::Refresh { peer: ip(NODES[*b]), import: true, export: true });
            }
            Step::Enable(a, b, on) if two(*a, *b).is_some() => {
                net.input(*a, Input::EnablePeer { peer: ip(NODES[*b]), enabled: *on, message: String::new() });
            }
            Step::Bfd(a, b) if two(*a, *b).is_some() => net.input(*a, Input::BfdDown(ip(NODES[*b]))),
            _ => {}
        }
    }
    for a in 0..nodes {
        net.input(a, Input::Complete);
        for b in (0..nodes).filter(|b| *b != a) {
            net.heal(a, b);
            net.input(a, Input::EnablePeer { peer: ip(NODES[b]), enabled: true, message: String::new() });
        }
    }
    // A connection that was cut before its OPEN is given up after 4 minutes.
    net.run(secs(400));
    for node in 0..nodes {
        for view in net.nodes[node].speaker.neighbors() {
            prop_assert_eq!(view.state, SessionState::Established, "{} {}: {:#?}", node, view.address, net.log);
        }
    }
    let quiet = net.updates;
    let (views, used) = agreement(&net, nodes)?;
    net.run(secs(60));
    prop_assert_eq!(net.updates, quiet, "nothing changes, nothing is said");

    // The same configuration, and nothing ever happened.
    let mut fresh = begin(shape);
    for (node, old) in net.nodes.iter().enumerate() {
        let ops: Vec<Op<Bgp>> = old.speaker.observe().into_iter().map(|(key, value)| Op::Put(key, value)).collect();
        fresh.apply(node, &ops);
    }
    fresh.run(secs(60));
    let (fresh_views, fresh_used) = agreement(&fresh, nodes)?;
    prop_assert_eq!(views, fresh_views, "history left a trace");
    prop_assert_eq!(used, fresh_used, "history left a trace");
    Ok(())
}

/// A few seconds' worth. Raise it to hunt.
const CASES: u32 = 96;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(CASES))]

    #[test]
    fn both_ends_of_each_session_agree_whatever_happened(shape in shape(), steps in prop::collection::vec(step(), 0..50)) {
        run(&shape, &steps)?;
    }
}
