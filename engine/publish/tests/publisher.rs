//! The whole of it, request by request.

use std::sync::Arc;
use std::time::Duration;

use fairway_objects::*;
use fairway_publish::{Answer, Lease, Output, Publisher, Refusal, Request};

fn s(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn service(name: &str) -> Arc<Service> {
    Arc::new(Service {
        created_s: 1,
        service_type: ServiceType::LoadBalancer,
        wish: LoadBalancerWish { ipv6: vec![false], ..LoadBalancerWish::default() },
        ..Service::new(ObjectName::new("default", name))
    })
}

/// What came of a write of a status.
type Written = Result<(bool, Delta), Refusal>;

/// A publisher and the server that it asks.
struct Scene {
    publisher: Publisher,
    /// How writes of a status are answered.
    ingress: fn(Arc<Service>) -> Written,
    /// Writes of a status: when, of whom, what.
    written: Vec<(u64, String, Vec<String>)>,
    events: Vec<String>,
    notices: Vec<String>,
}

fn put(service: Arc<Service>) -> Delta {
    Delta::Put { object: Object::Service(service), notices: vec![] }
}

fn done(service: Arc<Service>) -> Written {
    Ok((true, put(service)))
}

impl Scene {
    fn new(change: impl FnOnce(&mut NodeConfig)) -> Scene {
        let mut config = NodeConfig {
            events: true,
            load_balancer_ip_range: vec!["10.1.0.0/24".parse().expect("a prefix")],
            load_balancer: Some(LoadBalancerConfig {
                default_class: true,
                sync_period_ms: 60_000,
                lease_namespace: "kube-system".into(),
                identity: "n1".into(),
            }),
            ..NodeConfig::new("n1")
        };
        change(&mut config);
        let publisher = Publisher::new(&config, 1);
        Scene { publisher, ingress: done, written: vec![], events: vec![], notices: vec![] }
    }

    fn listed(mut self) -> Scene {
        for kind in [Kind::Node, Kind::Service] {
            self.publisher.delta(s(0), &Delta::Relist(kind));
            self.publisher.delta(s(0), &Delta::Listed(kind));
        }
        self
    }

    fn run(&mut self, from: u64, to: u64) {
        for second in from..to {
            self.publisher.tick(s(second));
            while let Some(output) = self.publisher.poll() {
                let request = match output {
                    Output::Notice(NoticeChange::Raised(n)) => {
                        self.notices.push(n.to_string());
                        continue;
                    }
                    Output::Notice(NoticeChange::Cleared(n)) => {
                        self.notices.retain(|known| *known != n.to_string());
                        continue;
                    }
                    Output::Request(request) => request,
                };
                let answer = match request {
                    Request::ReadLease(_) => Answer::Lease(Ok(None)),
                    Request::WriteLease(write) => Answer::Lease(Ok(Some(Lease {
                        holder: write.holder,
                        duration_s: write.duration_s,
                        version: format!("{second}").into(),
                        ..Lease::default()
                    }))),
                    Request::Ingress(write) => {
                        let name = write.service.name.name.to_string();
                        self.written.push((second, name, write.add.iter().map(ToString::to_string).collect()));
                        Answer::Ingress { service: write.service.name.clone(), result: (self.ingress)(write.service) }
                    }
                    Request::Event(event) => {
                        self.events.push(format!("{} {}", event.reason, event.note));
                        Answer::Event { name: event.name, result: Ok(()) }
                    }
                };
                self.publisher.answer(s(second), answer);
            }
        }
    }

    fn times(&self) -> Vec<u64> {
        self.written.iter().map(|(at, ..)| *at).collect()
    }
}

#[test]
fn an_address_is_written_once_and_told() {
    let mut scene = Scene::new(|_| {}).listed();
    scene.publisher.delta(s(0), &put(service("web")));
    scene.run(0, 30);
    assert_eq!(scene.written, [(0, "web".into(), vec!["10.1.0.1".into()])]);
    assert_eq!(scene.events, ["AddressGiven given 10.1.0.1"]);
    assert!(scene.publisher.settled());
}

#[test]
fn nothing_is_given_before_all_services_are_known() {
    let mut scene = Scene::new(|_| {});
    scene.publisher.delta(s(0), &put(service("web")));
    scene.run(0, 30);
    assert_eq!(scene.written, []);
}

#[test]
fn without_the_flag_nothing_is_asked() {
    let mut scene = Scene::new(|config| config.load_balancer = None).listed();
    scene.publisher.delta(s(0), &put(service("web")));
    scene.run(0, 30);
    assert_eq!((scene.written, scene.events), (vec![], vec![]));
    assert!(scene.publisher.deadline().is_none() && scene.publisher.view().is_none());
}

#[test]
fn a_status_that_is_refused_is_tried_again_every_sync_period() {
    for (period_ms, wanted) in [(60_000, vec![0, 60, 120]), (25_000, vec![0, 25, 50, 75, 100, 125])] {
        let mut scene = Scene::new(|config| {
            config.load_balancer.as_mut().expect("set").sync_period_ms = period_ms;
        })
        .listed();
        scene.ingress = |_| Err(Refusal::Refused("422: no".into()));
        scene.publisher.delta(s(0), &put(service("web")));
        scene.run(0, 130);
        assert_eq!(scene.times(), wanted);
        assert_eq!(scene.notices, ["Service default/web: status.loadBalancer: 422: no"]);
        // It changes, and is tried again at once.
        scene.ingress = done;
        scene.publisher.delta(s(130), &put(Arc::new(Service { created_s: 2, ..(*service("web")).clone() })));
        scene.run(130, 131);
        assert_eq!(scene.written.last().map(|w| w.0), Some(130));
        assert_eq!(scene.notices, [""; 0]);
    }
}

#[test]
fn who_may_not_write_says_so_once_and_a_server_that_is_away_is_asked_less_and_less() {
    let mut scene = Scene::new(|_| {}).listed();
    scene.ingress = |_| Err(Refusal::Forbidden("services/status is forbidden".into()));
    for i in 0..100 {
        scene.publisher.delta(s(0), &put(service(&format!("s{i}"))));
    }
    scene.run(0, 59);
    // Those that were under way when the first answer came.
    assert!(scene.written.len() <= 16, "{}", scene.written.len());
    assert_eq!(scene.notices, ["status of services: cannot be written: services/status is forbidden"]);
    scene.ingress = done;
    scene.run(59, 61);
    assert_eq!(scene.written.iter().filter(|(at, ..)| *at == 60).count(), 100);
    assert_eq!(scene.notices, [""; 0]);
    let mut scene = Scene::new(|_| {}).listed();
    scene.ingress = |_| Err(Refusal::Unreachable { reason: "503".into(), after: None });
    scene.publisher.delta(s(0), &put(service("web")));
    scene.run(0, 40);
    assert_eq!(scene.times(), [0, 1, 3, 7, 15, 31]);
}

#[test]
fn somebody_was_faster() {
    // The service changed, and has an address by now: it is taken as it is.
    let mut scene = Scene::new(|_| {}).listed();
    scene.ingress = |service| {
        let given = vec!["10.1.0.9".parse().expect("an address")];
        Ok((false, put(Arc::new(Service { load_balancer_ips: given, ..(*service).clone() }))))
    };
    scene.publisher.delta(s(0), &put(service("web")));
    scene.run(0, 30);
    assert_eq!(scene.times(), [0]);
    // It is gone.
    let mut scene = Scene::new(|_| {}).listed();
    scene.ingress = |_| Err(Refusal::Gone);
    scene.publisher.delta(s(0), &put(service("web")));
    scene.run(0, 30);
    assert_eq!(scene.times(), [0]);
}
