//! The allocator against any sequence of changes, writes and leaders.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use fairway_objects::*;
use fairway_publish::{Allocator, Plan};
use ipnet::IpNet;
use proptest::prelude::*;

fn net(text: &str) -> IpNet {
    text.parse().expect("a prefix")
}

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn service(name: &str, created_s: i64) -> Service {
    Service {
        created_s,
        service_type: ServiceType::LoadBalancer,
        ports: vec![ServicePort { name: "".into(), protocol: Protocol::Tcp, port: 80, node_port: None }],
        wish: LoadBalancerWish { ipv6: vec![false], ..LoadBalancerWish::default() },
        ..Service::new(ObjectName::new("default", name))
    }
}

fn leader(ranges: &[&str]) -> Allocator {
    let ranges: Vec<IpNet> = ranges.iter().map(|r| net(r)).collect();
    let mut allocator = Allocator::new(&ranges, &[net("10.96.0.0/12")], true, true);
    allocator.lead(true);
    allocator
}

fn put(allocator: &mut Allocator, service: Service) {
    allocator.put(Arc::new(service));
}

fn name(name: &str) -> ObjectName {
    ObjectName::new("default", name)
}

fn added(allocator: &mut Allocator, of: &str) -> Vec<String> {
    allocator.flush();
    allocator.plan(&name(of)).add.iter().map(ToString::to_string).collect()
}

/// The notices that stand, as `name: reason: text`.
#[derive(Default)]
struct Board(BTreeSet<String>);

impl Board {
    fn flush(&mut self, allocator: &mut Allocator) {
        for (change, reason) in allocator.flush().notices {
            let text = |n: &Notice| format!("{}: {}: {}", n.subject, reason.as_str(), n.reason);
            match change {
                NoticeChange::Raised(n) => assert!(self.0.insert(text(&n)), "raised twice: {n}"),
                NoticeChange::Cleared(n) => assert!(self.0.remove(&text(&n)), "was not raised: {n}"),
            }
        }
    }

    fn says(&self, text: &str) -> bool {
        self.0.iter().any(|line| line.contains(text))
    }
}

#[test]
fn several_that_wait_get_different_addresses_by_age() {
    let mut allocator = leader(&["10.1.0.0/29"]);
    allocator.lead(false);
    put(&mut allocator, service("b", 2));
    put(&mut allocator, service("a", 3));
    put(&mut allocator, service("c", 1));
    assert_eq!(added(&mut allocator, "a"), [""; 0], "who does not lead gives nothing");
    allocator.lead(true);
    assert_eq!(added(&mut allocator, "c"), ["10.1.0.1"]);
    assert_eq!(added(&mut allocator, "b"), ["10.1.0.2"]);
    assert_eq!(added(&mut allocator, "a"), ["10.1.0.3"]);
}

#[test]
fn classes_types_and_the_default_class() {
    let with = |class: Option<&str>, service_type| {
        let mut s = service("s", 1);
        s.wish.class = class.map(Into::into);
        Service { service_type, ..s }
    };
    let lb = ServiceType::LoadBalancer;
    for (default_class, class, ours) in [
        (true, None, true),
        (true, Some("default"), true),
        (true, Some("kube-router"), true),
        (true, Some("example.org/cloud"), false),
        (false, None, false),
        (false, Some("default"), false),
        (false, Some("kube-router"), true),
    ] {
        let allocator = Allocator::new(&[], &[], default_class, false);
        assert_eq!(allocator.is_ours(&with(class, lb)), ours, "{default_class} {class:?}");
    }
    let allocator = Allocator::new(&[], &[], true, false);
    assert!(!allocator.is_ours(&with(None, ServiceType::NodePort)));
}

#[test]
fn what_anybody_uses_is_taken_and_ranges_are_used_in_order() {
    let mut allocator = leader(&["10.1.0.0/30", "10.0.0.0/30"]);
    let external =
        Service { service_type: ServiceType::ClusterIp, external_ips: vec![ip("10.1.0.1")], ..service("external", 1) };
    put(&mut allocator, external);
    let mut proxied = service("cloud", 1);
    proxied.wish.class = Some("example.org/cloud".into());
    proxied.wish.proxied_ips = vec![ip("10.1.0.2")];
    put(&mut allocator, proxied);
    put(&mut allocator, service("s", 2));
    assert_eq!(added(&mut allocator, "s"), ["10.0.0.1"]);
}

#[test]
fn addresses_that_would_not_be_served_are_not_given() {
    let mut allocator = leader(&["10.96.0.0/28"]);
    let mut board = Board::default();
    put(&mut allocator, service("s", 1));
    board.flush(&mut allocator);
    assert!(board.says("no free IPv4 address"), "cluster IPs are refused as external ones: {:?}", board.0);
}

#[test]
fn families_follow_the_policy() {
    let dual = |name: &str, policy| {
        let mut s = service(name, 1);
        s.wish.ipv6 = vec![true, false];
        s.wish.policy = policy;
        s
    };
    let mut both = leader(&["10.1.0.0/30", "fd00::/126"]);
    put(&mut both, dual("s", FamilyPolicy::Require));
    assert_eq!(added(&mut both, "s"), ["fd00::1", "10.1.0.1"], "the primary family first");
    let mut one = leader(&["10.1.0.0/30"]);
    let mut board = Board::default();
    put(&mut one, dual("prefers", FamilyPolicy::Prefer));
    put(&mut one, dual("requires", FamilyPolicy::Require));
    board.flush(&mut one);
    assert_eq!(one.plan(&name("prefers")).add, [ip("10.1.0.1")]);
    assert_eq!(one.plan(&name("requires")), Plan::default(), "both or none");
    assert!(board.says("Service default/prefers: NoFreeAddress: --loadbalancer-ip-range has no IPv6 range"));
    let before = board.0.len();
    one.review();
    board.flush(&mut one);
    assert_eq!(board.0.len(), before, "it is said once");
    // What it does not get is there for others.
    let mut s = service("late", 9);
    s.wish.ipv6 = vec![false];
    put(&mut one, s);
    assert_eq!(added(&mut one, "late"), ["10.1.0.2"]);
}

#[test]
fn an_address_that_is_asked_for_is_given_or_waited_for() {
    let mut allocator = leader(&["10.1.0.0/28"]);
    let mut board = Board::default();
    let asks = |name: &str, created, address: &str| {
        let mut s = service(name, created);
        s.wish.requested = vec![ip(address)];
        s
    };
    put(&mut allocator, asks("a", 5, "10.1.0.9"));
    put(&mut allocator, asks("b", 6, "10.1.0.9"));
    put(&mut allocator, asks("c", 7, "10.2.0.9"));
    put(&mut allocator, asks("d", 8, "10.1.0.0"));
    board.flush(&mut allocator);
    assert_eq!(allocator.plan(&name("a")).add, [ip("10.1.0.9")]);
    for waits in ["b", "c", "d"] {
        assert!(allocator.plan(&name(waits)).is_empty());
        assert!(board.says(&format!("default/{waits}: AddressUnavailable")), "{:?}", board.0);
    }
    allocator.remove(&name("a"));
    board.flush(&mut allocator);
    assert_eq!(allocator.plan(&name("b")).add, [ip("10.1.0.9")]);
    // It has one, and asks for another.
    let mut has = asks("b", 6, "10.1.0.7");
    has.load_balancer_ips = vec![ip("10.1.0.9")];
    put(&mut allocator, has);
    board.flush(&mut allocator);
    assert!(allocator.plan(&name("b")).is_empty());
    assert!(board.says("10.1.0.7 is asked for, but 10.1.0.9 was given and is kept"), "{:?}", board.0);
}

#[test]
fn sharing_needs_a_key_other_ports_and_a_policy_that_attracts_everywhere() {
    let shares = |name: &str, port, policy, key: &str| {
        let mut s = Service { external_traffic_policy: policy, ..service(name, 1) };
        s.ports[0].port = port;
        s.wish.sharing_key = Some(key.into());
        s
    };
    let cluster = TrafficPolicy::Cluster;
    let mut allocator = leader(&["10.1.0.0/28"]);
    put(&mut allocator, shares("a", 80, cluster, "k"));
    put(&mut allocator, shares("b", 81, cluster, "k"));
    put(&mut allocator, shares("c", 80, cluster, "k"));
    put(&mut allocator, shares("d", 82, TrafficPolicy::Local, "k"));
    put(&mut allocator, shares("e", 83, cluster, "other"));
    for (name, address) in
        [("a", "10.1.0.1"), ("b", "10.1.0.1"), ("c", "10.1.0.2"), ("d", "10.1.0.3"), ("e", "10.1.0.4")]
    {
        assert_eq!(added(&mut allocator, name), [address], "{name}");
    }
    // One that asks for a shared address has to fit too.
    let mut asks = shares("f", 84, cluster, "k");
    asks.wish.requested = vec![ip("10.1.0.1")];
    put(&mut allocator, asks.clone());
    assert_eq!(added(&mut allocator, "f"), ["10.1.0.1"]);
    asks.wish.sharing_key = None;
    put(&mut allocator, asks);
    assert_eq!(added(&mut allocator, "f"), [""; 0]);
}

#[test]
fn an_address_outside_the_ranges_is_kept_and_reported() {
    let mut allocator = leader(&["10.1.0.0/28"]);
    let mut board = Board::default();
    put(&mut allocator, Service { load_balancer_ips: vec![ip("172.16.0.1")], ..service("s", 1) });
    board.flush(&mut allocator);
    assert!(allocator.plan(&name("s")).is_empty());
    assert!(board.says("AddressOutsideRange: 172.16.0.1 is outside --loadbalancer-ip-range 10.1.0.0/28; it is kept"));
}

#[test]
fn of_two_with_one_address_the_older_keeps_it() {
    let mut allocator = leader(&["10.1.0.0/28"]);
    let mut board = Board::default();
    for (n, created) in [("young", 9), ("old", 1)] {
        put(&mut allocator, Service { load_balancer_ips: vec![ip("10.1.0.1")], ..service(n, created) });
    }
    board.flush(&mut allocator);
    assert!(allocator.plan(&name("old")).is_empty());
    let plan = allocator.plan(&name("young"));
    assert_eq!(plan, Plan { add: vec![ip("10.1.0.2")], remove: vec![ip("10.1.0.1")] });
    assert!(board.says("young: AddressConflict: 10.1.0.1 is that of the older Service default/old"));
    put(&mut allocator, Service { load_balancer_ips: vec![ip("10.1.0.2")], ..service("young", 9) });
    board.flush(&mut allocator);
    assert_eq!(board.0.len(), 0, "{:?}", board.0);
    assert!(allocator.plan(&name("young")).is_empty());
}

#[test]
fn what_was_written_stays_taken_until_the_watch_says_so() {
    let mut allocator = leader(&["10.1.0.0/28"]);
    put(&mut allocator, service("a", 1));
    assert_eq!(added(&mut allocator, "a"), ["10.1.0.1"]);
    allocator.written(&name("a"), &[ip("10.1.0.1")]);
    // An event from before the write, with another port.
    let mut older = service("a", 1);
    older.ports[0].port = 81;
    put(&mut allocator, older.clone());
    put(&mut allocator, service("b", 2));
    assert_eq!(added(&mut allocator, "b"), ["10.1.0.2"]);
    assert!(allocator.plan(&name("a")).is_empty(), "not written again");
    // The write was never seen, and everything is looked at again.
    allocator.review();
    assert_eq!(added(&mut allocator, "a"), ["10.1.0.1"]);
    // A service that was just read has what it has, whatever an older event says.
    allocator.put_fresh(Arc::new(Service { load_balancer_ips: vec![ip("10.1.0.9")], ..older.clone() }));
    assert!(added(&mut allocator, "a").is_empty());
    put(&mut allocator, older);
    assert!(added(&mut allocator, "a").is_empty());
}

#[test]
fn an_event_costs_what_it_touches() {
    let mut allocator = leader(&["10.0.0.0/16"]);
    for i in 0..5000 {
        put(&mut allocator, service(&format!("s{i}"), i));
    }
    assert_eq!(allocator.flush().evaluated, 5000);
    put(&mut allocator, service("one-more", 9999));
    assert_eq!(allocator.flush().evaluated, 1);
    allocator.remove(&name("s77"));
    assert_eq!(allocator.flush().evaluated, 0, "nobody waits");
    put(&mut allocator, service("another", 9999));
    assert_eq!(added(&mut allocator, "another"), [allocator_address(77)], "the one that came back");
    // In a full range the first that waits is asked, and no other.
    let mut full = leader(&["10.0.0.0/24"]);
    for i in 0..2000 {
        put(&mut full, service(&format!("s{i:04}"), i));
    }
    full.flush();
    full.remove(&name("s0003"));
    let flushed = full.flush();
    assert_eq!(flushed.evaluated, 1);
    assert_eq!(full.plan(&name("s0254")).add, [ip("10.0.0.4")]);
}

fn allocator_address(index: u32) -> String {
    std::net::Ipv4Addr::from_bits(0x0a00_0001 + index).to_string()
}

/// What happens in the cluster.
#[derive(Clone, Debug)]
enum Act {
    Put {
        n: u8,
        created: i64,
        class: u8,
        families: u8,
        policy: u8,
        asks: Option<u8>,
        key: Option<u8>,
        port: u16,
        external: Option<u8>,
    },
    Delete(u8),
    /// The leader of this number carries out his plans: all of them, or only the first.
    Write(usize, bool),
    /// A leader hears of what happened.
    Hear(usize),
    /// He begins or ceases to lead.
    Lead(usize, bool),
    Review(usize),
}

fn act() -> impl Strategy<Value = Act> {
    let put = (
        (0u8..8, 0i64..4, 0u8..4, 0u8..4, 0u8..3),
        (
            prop::option::weighted(0.2, 0u8..18),
            prop::option::weighted(0.3, 0u8..2),
            80u16..83,
            prop::option::weighted(0.1, 0u8..10),
        ),
    );
    prop_oneof![
        6 => put.prop_map(|((n, created, class, families, policy), (asks, key, port, external))| {
            Act::Put { n, created, class, families, policy, asks, key, port, external }
        }),
        2 => (0u8..8).prop_map(Act::Delete),
        5 => (0usize..2, any::<bool>()).prop_map(|(l, all)| Act::Write(l, all)),
        5 => (0usize..2).prop_map(Act::Hear),
        1 => (0usize..2, any::<bool>()).prop_map(|(l, leads)| Act::Lead(l, leads)),
        1 => (0usize..2).prop_map(Act::Review),
    ]
}

const RANGES: [&str; 3] = ["10.1.0.0/29", "10.1.0.16/30", "fd00::/125"];

/// The API server, and two who may both believe that they lead.
struct World {
    objects: BTreeMap<ObjectName, Arc<Service>>,
    leaders: [Allocator; 2],
    heard: [BTreeMap<ObjectName, Arc<Service>>; 2],
}

impl World {
    fn new() -> World {
        let leader = || leader(&RANGES);
        World { objects: BTreeMap::new(), leaders: [leader(), leader()], heard: Default::default() }
    }

    fn act(&mut self, act: Act) {
        match act {
            Act::Put { n, created, class, families, policy, asks, key, port, external } => {
                let name = format!("s{n}");
                let mut s = service(&name, created);
                if let Some(old) = self.objects.get(&s.name) {
                    s.created_s = old.created_s;
                    s.load_balancer_ips.clone_from(&old.load_balancer_ips);
                }
                s.wish.class = (class == 3).then(|| "example.org/cloud".into());
                s.wish.ipv6 =
                    [vec![false], vec![true], vec![false, true], vec![true, false]][usize::from(families)].clone();
                s.wish.policy =
                    [FamilyPolicy::Single, FamilyPolicy::Prefer, FamilyPolicy::Require][usize::from(policy)];
                s.wish.requested = asks.map(|a| IpAddr::from([10, 1, 0, a])).into_iter().collect();
                s.wish.sharing_key = key.map(|k| format!("k{k}").into());
                s.ports[0].port = port;
                s.external_ips = external.map(|a| IpAddr::from([10, 1, 0, a])).into_iter().collect();
                self.objects.insert(s.name.clone(), Arc::new(s));
            }
            Act::Delete(n) => drop(self.objects.remove(&name(&format!("s{n}")))),
            Act::Write(leader, all) => self.write(leader, if all { usize::MAX } else { 1 }),
            Act::Hear(leader) => self.hear(leader),
            Act::Lead(leader, leads) => self.leaders[leader].lead(leads),
            Act::Review(leader) => self.leaders[leader].review(),
        }
    }

    fn hear(&mut self, leader: usize) {
        let heard = std::mem::replace(&mut self.heard[leader], self.objects.clone());
        for name in heard.keys().filter(|name| !self.objects.contains_key(*name)) {
            self.leaders[leader].remove(name);
        }
        for (name, object) in &self.objects {
            if heard.get(name) != Some(object) {
                self.leaders[leader].put(object.clone());
            }
        }
    }

    /// As the driver writes: only to a service that is as it is known.
    fn write(&mut self, leader: usize, most: usize) {
        let allocator = &mut self.leaders[leader];
        allocator.flush();
        let names: Vec<ObjectName> = self.objects.keys().cloned().collect();
        for name in names.into_iter().filter(|n| !allocator.plan(n).is_empty()).take(most).collect::<Vec<_>>() {
            let plan = allocator.plan(&name);
            let current = &self.objects[&name];
            if allocator.service(&name) != Some(current) {
                allocator.put_fresh(current.clone());
                self.heard[leader].insert(name, current.clone());
                continue;
            }
            let mut s = (**current).clone();
            s.load_balancer_ips.retain(|a| !plan.remove.contains(a));
            s.load_balancer_ips.extend(&plan.add);
            self.objects.insert(name.clone(), Arc::new(s));
            allocator.written(&name, &plan.add);
        }
    }

    /// Lets one of them lead alone until nothing is left to do.
    fn settle(&mut self, leader: usize) {
        self.leaders[1 - leader].lead(false);
        self.leaders[leader].lead(true);
        // A service that went and came back unseen, just as it was, is found at the next review.
        self.leaders[leader].review();
        for _ in 0..40 {
            self.hear(leader);
            let before = self.objects.clone();
            self.write(leader, usize::MAX);
            if before == self.objects {
                self.hear(leader);
                return;
            }
        }
        panic!("it does not come to rest: {:#?}", self.objects);
    }

    fn ours(&self) -> impl Iterator<Item = &Arc<Service>> {
        self.objects.values().filter(|s| self.leaders[0].is_ours(s))
    }

    /// What must hold whenever all is written and heard.
    fn check(&self) {
        for s in self.ours() {
            for address in &s.load_balancer_ips {
                assert!(RANGES.iter().any(|r| net(r).contains(address)), "{address}");
                for bad in ["10.1.0.0", "10.1.0.7", "10.1.0.16", "10.1.0.19", "fd00::"] {
                    assert_ne!(*address, ip(bad));
                }
                for other in self.ours().filter(|o| o.name != s.name && o.load_balancer_ips.contains(address)) {
                    assert!(
                        s.wish.sharing_key.is_some()
                            && s.wish.sharing_key == other.wish.sharing_key
                            && s.ports[0].port != other.ports[0].port,
                        "{address} is that of {} and of {}",
                        s.name,
                        other.name
                    );
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// Whatever happened, with however many leaders: when one leads alone nobody has what is another's, everything is
    /// in the ranges, a fresh leader finds the same, and nobody waits while there is something for him.
    #[test]
    fn one_leader_brings_order(acts in prop::collection::vec(act(), 0..60), last in 0usize..2) {
        let mut world = World::new();
        for act in acts {
            world.act(act);
        }
        world.settle(last);
        world.check();
        // From scratch: no history, and nothing to do.
        let mut fresh = leader(&RANGES);
        for object in world.objects.values() {
            fresh.put(object.clone());
        }
        let mut board = Board::default();
        board.flush(&mut fresh);
        for name in world.objects.keys() {
            prop_assert_eq!(fresh.plan(name), Plan::default(), "{}", name);
        }
        let given: BTreeMap<_, _> = fresh.given().map(|(n, a)| (n.clone(), a)).collect();
        let kept: BTreeMap<_, _> = world.leaders[last].given().map(|(n, a)| (n.clone(), a)).collect();
        prop_assert_eq!(&given, &kept);
        // Who has not all his addresses is told why.
        for s in world.ours() {
            let lacks = |v6: bool| !s.load_balancer_ips.iter().any(|a| a.is_ipv6() == v6);
            if s.wish.ipv6.iter().any(|v6| lacks(*v6)) {
                prop_assert!(board.says(&format!("{}: ", s.name)), "{} lacks an address, and nobody says so", s.name);
            }
        }
        // When all are gone, all is free.
        for name in world.objects.keys() {
            fresh.remove(name);
        }
        put(&mut fresh, service("first", 1));
        prop_assert_eq!(added(&mut fresh, "first"), ["10.1.0.1"]);
    }

    /// One leader who hears late, but is alone, never gives an address twice, not even for a moment.
    #[test]
    fn alone_nothing_is_ever_given_twice(acts in prop::collection::vec(act(), 0..60)) {
        let mut world = World::new();
        world.leaders[1].lead(false);
        for act in acts {
            match act {
                Act::Write(_, all) => world.act(Act::Write(0, all)),
                Act::Hear(_) => world.act(Act::Hear(0)),
                // What others do to services of ours that share is their own fault.
                Act::Put { n, created, families, policy, asks, .. } => world.act(Act::Put {
                    n, created, class: 0, families, policy, asks, key: None, port: 80, external: None,
                }),
                Act::Lead(..) => {}
                act => world.act(act),
            }
            world.check();
        }
    }
}
