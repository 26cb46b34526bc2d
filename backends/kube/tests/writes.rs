//! What the writer does to an API server, call by call.

use std::net::TcpListener;
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use fairway_api::{Api, ApiConfig, Part};
use fairway_apiserver::{Options, Running, Server};
use fairway_backend_kube::{Access, Writer};
use fairway_objects::{Delta, Kind, Object, ObjectKey, ObjectName, Service};
use fairway_publish::{Answer, Event, Ingress, Lease, LeaseWrite, Refusal, Request};
use serde_json::{Value, json};

/// Nothing takes longer, however busy the machine.
const PATIENCE: Duration = Duration::from_secs(60);

struct Scene {
    server: Server,
    _running: Running,
    writer: Option<Writer>,
    answers: Receiver<Answer>,
}

fn writer(address: &str) -> (Writer, Receiver<Answer>) {
    let (tell, answers) = channel();
    let tell = Box::new(move |answer| drop(tell.send(answer)));
    (Writer::start(Access::new(&format!("http://{address}"), ""), tell).expect("usable access"), answers)
}

impl Scene {
    fn new() -> Scene {
        let api = Arc::new(Mutex::new(Api::new(ApiConfig::default(), 1)));
        let server = Server::new(api, Instant::now(), Options::default());
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let running = Running::start(server.clone(), listener).expect("it starts");
        let (writer, answers) = writer(&running.address().to_string());
        Scene { server, _running: running, writer: Some(writer), answers }
    }

    fn ask(&self, request: Request) -> Answer {
        self.writer.as_ref().expect("it runs").requests()(request);
        self.answers.recv_timeout(PATIENCE).expect("an answer")
    }

    fn lease(&self, request: Request) -> Result<Option<Lease>, Refusal> {
        match self.ask(request) {
            Answer::Lease(result) => result,
            other => panic!("{other:?}"),
        }
    }

    fn ingress(&self, write: Ingress) -> Result<(bool, Delta), Refusal> {
        match self.ask(Request::Ingress(write)) {
            Answer::Ingress { result, .. } => result,
            other => panic!("{other:?}"),
        }
    }

    fn event(&self, event: &Event) -> Result<(), Refusal> {
        match self.ask(Request::Event(event.clone())) {
            Answer::Event { result, name } => {
                assert_eq!(name, event.name);
                result
            }
            other => panic!("{other:?}"),
        }
    }

    fn create(&self, kind: &str, namespace: &str, value: Value) {
        let now = self.server.now();
        self.server.api().create(now, kind, namespace, value, false).expect("created");
    }

    fn get(&self, kind: &str, namespace: &str, name: &str) -> Value {
        self.server.api().get(kind, namespace, name).cloned().unwrap_or_default()
    }

    /// A service as a watch gives it.
    fn service(&self, name: &str) -> Arc<Service> {
        match fairway_decode::decode(&self.get("Service", "default", name)) {
            Ok(Delta::Put { object: Object::Service(service), .. }) => service,
            other => panic!("{other:?}"),
        }
    }
}

fn web() -> Value {
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"}, "spec": {"type": "LoadBalancer", "ports": [{"port": 80}]}})
}

fn claim(version: Option<&str>, holder: &str) -> LeaseWrite {
    LeaseWrite {
        name: ObjectName::new("kube-system", "l"),
        holder: holder.into(),
        duration_s: 15,
        transitions: 0,
        acquired: None,
        version: version.map(Into::into),
    }
}

#[test]
fn a_lease_is_made_read_and_replaced_in_the_version_that_is_meant() {
    let scene = Scene::new();
    let name = ObjectName::new("kube-system", "l");
    assert_eq!(scene.lease(Request::ReadLease(name.clone())), Ok(None));
    let made = scene.lease(Request::WriteLease(claim(None, "a"))).expect("made").expect("a Lease");
    assert_eq!((&*made.holder, made.duration_s), ("a", 15));
    assert!(made.renewed.len() == "2026-01-01T00:00:00.000000Z".len(), "{made:?}");
    assert_eq!(scene.lease(Request::WriteLease(claim(None, "b"))), Err(Refusal::Conflict), "it exists");
    assert_eq!(scene.lease(Request::ReadLease(name)), Ok(Some(made.clone())));
    let kept = LeaseWrite { acquired: Some(made.acquired.clone()), ..claim(Some(&made.version), "a") };
    let renewed = scene.lease(Request::WriteLease(kept)).expect("renewed").expect("a Lease");
    assert_eq!(renewed.acquired, made.acquired);
    assert_ne!((&renewed.renewed, &renewed.version), (&made.renewed, &made.version));
    assert_eq!(
        scene.lease(Request::WriteLease(claim(Some(&made.version), "b"))),
        Err(Refusal::Conflict),
        "an old version"
    );
    let nowhere = LeaseWrite { name: ObjectName::new("nowhere", "l"), ..claim(None, "a") };
    assert_eq!(scene.lease(Request::WriteLease(nowhere)), Err(Refusal::Gone));
}

#[test]
fn addresses_are_added_and_taken_away_and_the_rest_of_the_status_stays() {
    let scene = Scene::new();
    scene.create("Service", "default", web());
    let mut value = scene.get("Service", "default", "web");
    value["status"] = json!({
        "conditions": [{"type": "X", "status": "True", "reason": "y", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"}],
        "loadBalancer": {"ingress": [{"hostname": "web.example.org"}]},
    });
    let now = scene.server.now();
    scene.server.api().replace(now, ("Service", "default", "web"), value, Part::Status, false).expect("written");
    let add = |list: &[&str]| list.iter().map(|a| a.parse().expect("an address")).collect::<Vec<_>>();
    let known = scene.service("web");
    let write = Ingress { service: known.clone(), add: add(&["10.1.0.1", "fd00::1"]), remove: vec![] };
    assert!(matches!(scene.ingress(write.clone()), Ok((true, Delta::Put { .. }))));
    let ingress = |scene: &Scene| scene.get("Service", "default", "web")["status"]["loadBalancer"]["ingress"].clone();
    let entry = |ip: &str| json!({"ip": ip, "ipMode": "VIP"});
    assert_eq!(ingress(&scene), json!([{"hostname": "web.example.org"}, entry("10.1.0.1"), entry("fd00::1")]));
    assert_eq!(scene.get("Service", "default", "web")["status"]["conditions"][0]["type"], "X");
    // The service is not as it was known then: nothing is written, and this is how it is.
    let Ok((false, Delta::Put { object: Object::Service(found), .. })) = scene.ingress(write) else {
        panic!("it differs");
    };
    assert_eq!(found, scene.service("web"));
    let write = Ingress { service: found, add: vec![], remove: add(&["10.1.0.1"]) };
    assert!(matches!(scene.ingress(write), Ok((true, _))));
    assert_eq!(ingress(&scene), json!([{"hostname": "web.example.org"}, entry("fd00::1")]));
    scene.server.api().delete(now, "Service", "default", "web").expect("it is there");
    assert_eq!(scene.ingress(Ingress { service: known, add: add(&["10.1.0.1"]), remove: vec![] }), Err(Refusal::Gone));
}

#[test]
fn an_event_is_on_its_object_and_is_counted() {
    let scene = Scene::new();
    scene.create("Service", "default", web());
    let event = Event {
        name: "web.0123456789abcdef".into(),
        object: ObjectKey::new(Kind::Service, "default", "web"),
        warning: true,
        reason: "NoFreeAddress".into(),
        note: "no free address".into(),
        instance: "n1".into(),
        again: false,
    };
    assert_eq!(scene.event(&event), Ok(()));
    let stored = scene.get("Event", "default", &event.name);
    let uid = scene.get("Service", "default", "web")["metadata"]["uid"].clone();
    assert_eq!(stored["involvedObject"]["uid"], uid);
    for (field, value) in [("type", "Warning"), ("reportingComponent", "fairway"), ("reportingInstance", "n1")] {
        assert_eq!(stored[field], value, "{stored:#}");
    }
    assert_eq!(scene.event(&event), Err(Refusal::Conflict), "whoever comes second leaves it alone");
    assert_eq!(scene.get("Event", "default", &event.name)["count"], 1);
    assert_eq!(scene.event(&Event { again: true, ..event.clone() }), Ok(()));
    assert_eq!(scene.get("Event", "default", &event.name)["count"], 2);
    // An object without a namespace has its Events in `default`.
    scene.create("Node", "", json!({"metadata": {"name": "n1"}}));
    let of_node = Event { name: "n1.x".into(), object: ObjectKey::new(Kind::Node, "", "n1"), ..event.clone() };
    assert_eq!(scene.event(&of_node), Ok(()));
    assert_eq!(scene.get("Event", "default", "n1.x")["involvedObject"]["kind"], "Node");
    let gone = Event { object: ObjectKey::new(Kind::EndpointSlice, "default", "gone"), ..event };
    assert_eq!(scene.event(&gone), Err(Refusal::Gone));
}

#[test]
fn what_was_handed_over_before_the_end_is_still_written() {
    let mut scene = Scene::new();
    let writer = scene.writer.take().expect("it runs");
    let hand_over = writer.requests();
    hand_over(Request::WriteLease(claim(None, "a")));
    drop(writer);
    assert_eq!(scene.get("Lease", "kube-system", "l")["spec"]["holderIdentity"], "a");
    // Nobody asks any more, and nobody waits for it.
    hand_over(Request::WriteLease(claim(None, "b")));
}

#[test]
fn a_server_that_fails_or_is_away_says_why() {
    let scene = Scene::new();
    scene.server.misbehave("500=1".parse().expect("misbehaviour"));
    let name = ObjectName::new("kube-system", "l");
    let failed = scene.lease(Request::ReadLease(name.clone()));
    assert!(matches!(&failed, Err(Refusal::Unreachable { reason, .. }) if reason.starts_with("500")), "{failed:?}");
    scene.server.misbehave("429=1".parse().expect("misbehaviour"));
    let failed = scene.lease(Request::ReadLease(name.clone()));
    assert!(matches!(&failed, Err(Refusal::Unreachable { after: Some(_), .. })), "{failed:?}");
    scene.server.misbehave("".parse().expect("misbehaviour"));
    assert_eq!(scene.lease(Request::ReadLease(name.clone())), Ok(None));
    let free = TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a port that is free again");
    let (writer, answers) = writer(&free.to_string());
    writer.requests()(Request::ReadLease(name));
    let answer = answers.recv_timeout(PATIENCE).expect("an answer");
    let Answer::Lease(Err(Refusal::Unreachable { reason, .. })) = answer else { panic!("{answer:?}") };
    assert!(reason.contains("refused"), "{reason}");
}
