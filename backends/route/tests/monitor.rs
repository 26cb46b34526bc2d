//! What a monitor hears from the real kernel. Each test has a network namespace of its own.
#![allow(clippy::unwrap_used, reason = "a helper that fails fails its test")]

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use fairway_backend_route::setup::Setup;
use fairway_backend_route::{Monitor, RouteBackend};
use fairway_desired::{
    Addr, AddrKey, AddrValue, Backend, Interface, KernelEvent, Link, LinkKind, LinkValue, MAIN_TABLE, NextHop, Op,
    Outcome, PROTO_KUBE_ROUTER, PlaneId, Route, RouteKey, RouteKind, RouteValue,
};
use nix::sched::{CloneFlags, unshare};

/// A namespace with our writer, a monitor, and somebody else.
struct Place {
    ours: RouteBackend,
    theirs: Setup,
    monitor: Monitor,
    known: BTreeMap<Arc<str>, Interface>,
}

/// Runs a test in a network namespace of its own.
fn alone(test: fn(Place)) {
    let thread = std::thread::spawn(move || {
        if let Err(error) = unshare(CloneFlags::CLONE_NEWNET) {
            println!("skipped: no network namespace: {error}");
            return;
        }
        let ours = RouteBackend::new().unwrap();
        let mut theirs = Setup::new().unwrap();
        theirs.set_up("lo", true).unwrap();
        theirs.add_veth("eth1", "far1", None).unwrap();
        theirs.add_address("eth1", "192.168.1.1/24".parse().unwrap()).unwrap();
        theirs.add_address("eth1", "fd00::1/64".parse().unwrap()).unwrap();
        for link in ["eth1", "far1"] {
            theirs.set_up(link, true).unwrap();
        }
        let monitor = Monitor::open(&ours).unwrap();
        let mut place = Place { ours, theirs, monitor, known: BTreeMap::new() };
        // A link that was just made goes on to say this and that for a moment.
        assert!(matches!(place.heard().first(), Some(KernelEvent::Interfaces(_))));
        place.until("eth1 works", |place| place.eth1().carrier);
        test(place);
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

impl Place {
    /// Everything that is there to be heard.
    fn heard(&mut self) -> Vec<KernelEvent> {
        let (events, more) = self.monitor.read(usize::MAX).unwrap();
        assert!(!more);
        for event in &events {
            match event {
                KernelEvent::Interfaces(all) => self.known.clone_from(all),
                KernelEvent::Interface(name, Some(now)) => drop(self.known.insert(name.clone(), now.clone())),
                KernelEvent::Interface(name, None) => drop(self.known.remove(name)),
                _ => {}
            }
        }
        events
    }

    fn eth1(&self) -> &Interface {
        &self.known["eth1"]
    }

    /// Hears until it is so: a kernel does some things a moment later.
    fn until(&mut self, what: &str, holds: impl Fn(&Place) -> bool) -> Vec<KernelEvent> {
        let end = Instant::now() + Duration::from_secs(20);
        let mut events = vec![];
        while !holds(self) {
            assert!(Instant::now() < end, "not in 20 s: {what}: {:?} {events:?}", self.known);
            std::thread::sleep(Duration::from_millis(5));
            events.extend(self.heard());
        }
        events
    }

    /// Hears until a plane is said to be changed; repetitions do not matter.
    fn until_changed(&mut self, plane: PlaneId) {
        let end = Instant::now() + Duration::from_secs(20);
        loop {
            let events = self.heard();
            if events.contains(&KernelEvent::Changed(plane)) {
                return;
            }
            assert!(Instant::now() < end, "nothing about {plane:?}: {events:?}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn write<P: fairway_desired::Plane>(&mut self, op: Op<P>)
    where
        RouteBackend: Backend<P>,
    {
        assert_eq!(self.ours.apply(&[op]).unwrap(), [Outcome::Done]);
    }
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn learned(prefix: &str, vias: &[&str]) -> (RouteKey, RouteValue) {
    let next_hops = vias.iter().map(|via| NextHop { via: Some(ip(via)), dev: None, weight: 1 }).collect();
    let key = RouteKey { prefix: prefix.parse().unwrap(), table: MAIN_TABLE, metric: 0 };
    (key, RouteValue { kind: RouteKind::Unicast, protocol: PROTO_KUBE_ROUTER, src: None, next_hops })
}

#[test]
fn interfaces_go_down_lose_their_carrier_and_come_back() {
    alone(|mut place| {
        let eth1 = place.eth1().clone();
        assert_eq!((eth1.addresses, eth1.up), (vec![ip("192.168.1.1"), ip("fd00::1")], true));
        let nets: Vec<String> = eth1.on_link.iter().map(ToString::to_string).collect();
        assert_eq!(nets, ["192.168.1.0/24", "fd00::/64"]);
        assert!(!place.known.contains_key("far1"), "without an address it is of no interest");
        // The cable.
        place.theirs.set_up("far1", false).unwrap();
        place.until("the carrier is lost", |place| !place.eth1().carrier);
        assert!(place.eth1().up && place.eth1().on_link.len() == 2);
        place.theirs.set_up("far1", true).unwrap();
        place.until("the carrier is back", |place| place.eth1().carrier);
        // The switch. Each state is told, however fast they follow each other.
        place.theirs.set_up("eth1", false).unwrap();
        place.theirs.set_up("eth1", true).unwrap();
        let events = place.until("up again, without IPv6", |place| {
            place.eth1().carrier && place.eth1().addresses == [ip("192.168.1.1")]
        });
        let down = |event: &KernelEvent| matches!(event, KernelEvent::Interface(name, Some(now)) if **name == *"eth1" && !now.up);
        assert!(events.iter().any(down), "{events:?}");
        // Addresses.
        place.theirs.del_address("eth1", "192.168.1.1/24".parse().unwrap()).unwrap();
        place.until("without addresses", |place| !place.known.contains_key("eth1"));
        place.theirs.add_address("eth1", "192.168.7.1/24".parse().unwrap()).unwrap();
        place.until("another address", |place| place.known.contains_key("eth1"));
        place.theirs.del_link("eth1").unwrap();
        place.until("gone", |place| !place.known.contains_key("eth1"));
    });
}

#[test]
fn own_changes_are_silent_and_those_of_others_are_told() {
    alone(|mut place| {
        let changed = |plane| vec![KernelEvent::Changed(plane)];
        let dummy: Arc<str> = "kube-dummy-if".into();
        let address = |text: &str| AddrKey { address: text.parse().unwrap(), link: dummy.clone() };
        let vips = [address("10.0.0.2/32"), address("10.0.0.3/32"), address("fd10::2/128"), address("fd10::3/128")];
        let (four, six) =
            (learned("10.9.0.0/16", &["192.168.1.2", "192.168.1.3"]), learned("fd09::/32", &["fd00::2", "fd00::3"]));
        // Its name is what counts, and not every kernel has dummy interfaces.
        place.write(Op::<Link>::Put(dummy.clone(), LinkValue { kind: LinkKind::Bridge, up: true, mtu: None }));
        for vip in &vips {
            place.write(Op::<Addr>::Put(vip.clone(), AddrValue));
        }
        for (key, value) in [&four, &six] {
            place.write(Op::<Route>::Put(key.clone(), value.clone()));
        }
        place.write(Op::<Addr>::Del(vips[0].clone()));
        place.write(Op::<Addr>::Del(vips[2].clone()));
        place.write(Op::<Route>::Put(four.0.clone(), learned("10.9.0.0/16", &["192.168.1.3"]).1));
        place.write(Op::<Route>::Del(four.0.clone()));
        place.write(Op::<Route>::Put(four.0.clone(), four.1.clone()));
        std::thread::sleep(Duration::from_millis(50));
        assert_eq!(place.heard(), [], "our own");

        for (key, value) in [&four, &six] {
            assert!(place.theirs.del_route(key, PROTO_KUBE_ROUTER).unwrap());
            assert_eq!(place.heard(), changed(PlaneId::Route), "{key:?}");
            place.write(Op::<Route>::Put(key.clone(), value.clone()));
        }
        for vip in [&vips[1], &vips[3]] {
            assert!(place.theirs.del_address("kube-dummy-if", vip.address).unwrap());
            place.until_changed(PlaneId::Addr);
        }
        // Routes of others, in place of ours and beside them.
        let (key, value) = learned("10.9.0.0/16", &["192.168.1.9"]);
        let foreign = RouteValue { protocol: 4, ..value };
        place.theirs.add_route(key.clone(), foreign.clone()).unwrap();
        assert_eq!(place.heard(), [KernelEvent::Foreign(key.clone())]);
        assert!(place.theirs.del_route(&key, 4).unwrap());
        assert_eq!(place.heard(), [KernelEvent::Foreign(key)]);
        let (key, _) = learned("fd08::/32", &[]);
        let (_, value) = learned("fd08::/32", &["fd00::9"]);
        place.theirs.add_route(key.clone(), RouteValue { protocol: 4, ..value }).unwrap();
        assert_eq!(place.heard(), [], "a new one is in nobody's way");
        assert!(place.theirs.del_route(&key, 4).unwrap());
        assert_eq!(place.heard(), [KernelEvent::Foreign(key)], "as we would have written it");
        assert!(place.theirs.del_link("kube-dummy-if").unwrap());
        place.until_changed(PlaneId::Link);
    });
}

#[test]
fn what_goes_with_its_link_is_told_by_the_link() {
    alone(|mut place| {
        for n in 0..500 {
            for (prefix, via) in [
                (format!("10.{}.{}.0/24", n / 250 + 1, n % 250), "192.168.1.2"),
                (format!("fd09:{n:x}::/32"), "fd00::2"),
            ] {
                let (key, value) = learned(&prefix, &[via]);
                place.write(Op::<Route>::Put(key, value));
            }
        }
        assert_eq!(place.heard(), []);
        place.theirs.set_up("eth1", false).unwrap();
        let events = place.until("down", |place| !place.eth1().up && place.eth1().addresses.len() == 1);
        // The kernel's own routes are somebody else's; of ours there is not a word.
        let changed = events.iter().any(|event| matches!(event, KernelEvent::Changed(_)));
        assert!(!changed && events.len() <= 6, "{events:?}");
        // What is to be gone is gone already.
        let (key, _) = learned("10.1.0.0/24", &[]);
        assert_eq!(place.ours.apply(&[Op::<Route>::Del(key)]).unwrap(), [Outcome::Gone]);
    });
}

#[test]
fn after_an_overrun_everything_is_read_again() {
    alone(|mut place| {
        let routes = (0..40_000u32).map(|n| {
            let (key, value) = learned(&format!("10.{}.{}.{}/32", n >> 16, n >> 8 & 255, n & 255), &["192.168.1.2"]);
            Op::<Route>::Put(key, value)
        });
        let routes: Vec<Op<Route>> = routes.collect();
        for part in routes.chunks(1_000) {
            assert!(place.ours.apply(part).unwrap().iter().all(|outcome| *outcome == Outcome::Done));
        }
        place.theirs.add_address("eth1", "192.168.9.1/24".parse().unwrap()).unwrap();
        let events = place.heard();
        let told = [PlaneId::Link, PlaneId::Rule].map(KernelEvent::Changed);
        assert!(matches!(&events[..], [KernelEvent::Interfaces(_), rest @ ..] if rest == told), "{events:?}");
        assert!(place.eth1().addresses.contains(&ip("192.168.9.1")));
        // And it goes on.
        place.theirs.del_address("eth1", "192.168.9.1/24".parse().unwrap()).unwrap();
        place.until("the address is gone", |place| !place.eth1().addresses.contains(&ip("192.168.9.1")));
    });
}
