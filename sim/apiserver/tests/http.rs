//! The API over HTTP, request by request.

mod common;

use std::collections::BTreeMap;
use std::time::Duration;

use common::{Cluster, NODE, Reply, Watch, call, config_map};
use fairway_api::Output;
use fairway_apiserver::{Kubelets, Misbehaviour, Options, ServiceAccount};
use proptest::prelude::*;
use serde_json::{Value, json};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

fn text<'a>(value: &'a Value, path: &str) -> &'a str {
    value.pointer(path).and_then(Value::as_str).unwrap_or_default()
}

fn version(value: &Value) -> u64 {
    text(value, "/metadata/resourceVersion").parse().expect("a version")
}

fn misbehave(cluster: &Cluster, how: &str) {
    cluster.server.misbehave(how.parse::<Misbehaviour>().expect("misbehaviour"));
}

#[track_caller]
fn refused(reply: &Reply, code: u16, reason: &str) {
    assert_eq!((reply.code, text(&reply.json(), "/reason")), (code, reason), "{}", reply.body);
    let status = reply.json();
    assert_eq!(
        (&status["kind"], &status["status"], &status["code"]),
        (&json!("Status"), &json!("Failure"), &json!(code))
    );
}

#[test]
fn discovery_names_what_is_served() {
    let cluster = Cluster::start(Options::default());
    assert_eq!(cluster.get("/api").ok(200)["versions"], json!(["v1"]));
    let groups = cluster.get("/apis").ok(200);
    let names: Vec<&str> = groups["groups"].as_array().expect("groups").iter().map(|g| text(g, "/name")).collect();
    assert!(names.contains(&"discovery.k8s.io") && names.contains(&"apps"), "{names:?}");
    for group in &names {
        cluster.get(&format!("/apis/{group}")).ok(200);
        let resources = cluster.get(&format!("/apis/{group}/v1")).ok(200);
        for resource in resources["resources"].as_array().expect("resources") {
            let name = text(resource, "/name");
            if !name.contains('/') {
                cluster.get(&format!("/apis/{group}/v1/{name}")).ok(200);
            }
        }
    }
    assert_eq!(cluster.get("/version").ok(200)["minor"], "33");
    assert_eq!(cluster.get("/readyz").body, "ok");
    let paths = cluster.get("/openapi/v3").ok(200);
    let url = text(&paths, "/paths/apis~1apps~1v1/serverRelativeURL").to_string();
    cluster.get(&url).ok(200);
}

#[test]
fn wrong_requests_are_refused_with_a_reason() {
    let cluster = Cluster::start(Options::default());
    cluster.send("POST", MAPS, &config_map("there", "1")).ok(201);
    let json = [("Content-Type", "application/json")];
    let send = |method: &str, path: &str, body: &str| cluster.call(method, path, &json, body);
    let map = |name: &str| config_map(name, "x").to_string();
    let cases = [
        ("GET", "/", "", 404, "NotFound"),
        ("GET", "/api/v2", "", 404, "NotFound"),
        ("GET", "/apis/nope/v1", "", 404, "NotFound"),
        ("GET", "/api/v1/widgets", "", 404, "NotFound"),
        ("GET", "/api/v1/namespaces/default/configmaps/nope", "", 404, "NotFound"),
        ("GET", "/api/v1/configmaps?labelSelector=a%20b", "", 400, "BadRequest"),
        ("GET", "/api/v1/configmaps?resourceVersion=x", "", 400, "BadRequest"),
        ("GET", "/api/v1/configmaps?resourceVersion=999999", "", 504, "Timeout"),
        ("GET", "/api/v1/configmaps?resourceVersionMatch=Exact", "", 400, "BadRequest"),
        ("GET", "/api/v1/configmaps?continue=x", "", 400, "BadRequest"),
        ("GET", "/api/v1/configmaps?watch=1&sendInitialEvents=true", "", 400, "BadRequest"),
        ("GET", "/api/v1/configmaps?watch=1&resourceVersionMatch=Exact", "", 400, "BadRequest"),
        ("POST", MAPS, "{", 400, "BadRequest"),
        ("POST", MAPS, "[]", 400, "BadRequest"),
        ("POST", MAPS, "{}", 422, "Invalid"),
        ("POST", MAPS, r#"{"metadata": 3}"#, 400, "BadRequest"),
        ("POST", MAPS, r#"{"metadata": {"name": "x", "labels": {"a": 1}}}"#, 400, "BadRequest"),
        ("POST", MAPS, r#"{"kind": "Secret", "metadata": {"name": "x"}}"#, 400, "BadRequest"),
        ("POST", MAPS, r#"{"metadata": {"name": "x", "namespace": "other"}}"#, 400, "BadRequest"),
        ("POST", MAPS, r#"{"metadata": {"name": "Not A Name"}}"#, 422, "Invalid"),
        ("POST", MAPS, &map("there"), 409, "AlreadyExists"),
        ("POST", "/api/v1/configmaps", &map("a"), 405, "MethodNotAllowed"),
        ("POST", "/api/v1/namespaces/nope/configmaps", &map("a"), 404, "NotFound"),
        ("POST", "/api/v1/nodes", r#"{"metadata": {"name": "n"}, "status": "up"}"#, 400, "BadRequest"),
        ("POST", "/api/v1/namespaces/default/pods", r#"{"metadata": {"name": "p"}}"#, 422, "Invalid"),
        ("PUT", "/api/v1/namespaces/default/configmaps/nope", &map("nope"), 404, "NotFound"),
        ("PUT", "/api/v1/namespaces/default/configmaps/there", &map("else"), 422, "Invalid"),
        ("DELETE", "/api/v1/namespaces/default/configmaps/nope", "", 404, "NotFound"),
        ("PATCH", "/api/v1/namespaces/default/configmaps/there", "{}", 415, "UnsupportedMediaType"),
    ];
    for (method, path, body, code, reason) in cases {
        let reply = send(method, path, body);
        assert_eq!(
            (reply.code, text(&reply.json(), "/reason")),
            (code, reason),
            "{method} {path} {body}: {}",
            reply.body
        );
    }
    let large = format!(r#"{{"metadata": {{"name": "x"}}, "data": {{"a": "{}"}}}}"#, "x".repeat(4 << 20));
    refused(&send("POST", MAPS, &large), 413, "RequestEntityTooLarge");
    let proto = cluster.call("POST", MAPS, &[("Content-Type", "application/vnd.kubernetes.protobuf")], "k8s");
    refused(&proto, 415, "UnsupportedMediaType");
}

#[test]
fn versions_guard_writes() {
    let cluster = Cluster::start(Options::default());
    let one = format!("{MAPS}/one");
    let first = cluster.send("POST", MAPS, &config_map("one", "1")).ok(201);
    let mut second = first.clone();
    second["data"]["text"] = json!("2");
    let stored = cluster.send("PUT", &one, &second).ok(200);
    assert!(version(&stored) > version(&first));
    // The same again is no change; the old version is a conflict; without a version the last one wins.
    refused(&cluster.send("PUT", &one, &second), 409, "Conflict");
    let mut same = stored.clone();
    assert_eq!(version(&cluster.send("PUT", &one, &same).ok(200)), version(&stored));
    same["metadata"].as_object_mut().expect("metadata").remove("resourceVersion");
    same["data"]["text"] = json!("3");
    cluster.send("PUT", &one, &same).ok(200);
    let patch = json!({"metadata": {"resourceVersion": version(&first).to_string()}, "data": {"text": "4"}});
    refused(&cluster.patch(&one, "merge-patch+json", &patch), 409, "Conflict");
    let options = json!({"preconditions": {"uid": "00000000-0000-4000-8000-ffffffffffff"}});
    refused(&cluster.send("DELETE", &one, &options), 409, "Conflict");
    let options = json!({"preconditions": {"uid": first["metadata"]["uid"]}});
    assert_eq!(cluster.send("DELETE", &one, &options).ok(200)["status"], "Success");
    // Another object of that name is another object.
    let again = cluster.send("POST", MAPS, &config_map("one", "1")).ok(201);
    assert_ne!(again["metadata"]["uid"], first["metadata"]["uid"]);
    refused(&cluster.send("PUT", &one, &first), 409, "Conflict");

    let generated = json!({"metadata": {"generateName": "gen-"}});
    let a = cluster.send("POST", MAPS, &generated).ok(201);
    let b = cluster.send("POST", MAPS, &generated).ok(201);
    assert!(text(&a, "/metadata/name").starts_with("gen-") && a["metadata"]["name"] != b["metadata"]["name"]);
    // Dry runs leave nothing.
    cluster.send("POST", &format!("{MAPS}?dryRun=All"), &config_map("dry", "1")).ok(201);
    refused(&cluster.get(&format!("{MAPS}/dry")), 404, "NotFound");
}

#[test]
fn status_scale_generation_and_eviction() {
    let cluster = Cluster::start(Options::default());
    cluster.apply(NODE);
    let deployments = "/apis/apps/v1/namespaces/default/deployments";
    let deployment = json!({
        "metadata": {"name": "web"}, "status": {"replicas": 77},
        "spec": {"replicas": 1, "selector": {"matchLabels": {"app": "web"}}, "template": {
            "metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c", "image": "x"}]}}},
    });
    let made = cluster.send("POST", deployments, &deployment).ok(201);
    assert_eq!(made["metadata"]["generation"], 1);
    assert_ne!(made["status"]["replicas"], 77, "a client does not make a status by the way");
    let web = format!("{deployments}/web");
    let labelled = cluster.patch(&web, "merge-patch+json", &json!({"metadata": {"labels": {"a": "b"}}})).ok(200);
    assert_eq!(labelled["metadata"]["generation"], 1, "a label is no change of the spec");
    let scale = cluster.get(&format!("{web}/scale")).ok(200);
    assert_eq!((&scale["kind"], &scale["spec"]["replicas"]), (&json!("Scale"), &json!(1)));
    assert_eq!(scale["status"]["selector"], "app=web");
    let mut more = scale.clone();
    more["spec"]["replicas"] = json!(3);
    assert_eq!(cluster.send("PUT", &format!("{web}/scale"), &more).ok(200)["spec"]["replicas"], 3);
    refused(&cluster.send("PUT", &format!("{web}/scale"), &more), 409, "Conflict");
    more["spec"]["replicas"] = json!(-1);
    refused(&cluster.send("PUT", &format!("{web}/scale"), &more), 422, "Invalid");
    assert_eq!(cluster.get(&web).ok(200)["metadata"]["generation"], 2);

    // Pods: what a kubelet says by the status is believed, and reaches the endpoints.
    let pods = cluster.get("/api/v1/namespaces/default/pods").ok(200);
    let pod = text(&pods, "/items/0/metadata/name").to_string();
    let path = format!("/api/v1/namespaces/default/pods/{pod}");
    let mut watch = cluster.watch(&format!("/api/v1/pods?watch=1&fieldSelector=metadata.name={pod}&resourceVersion=0"));
    let ready = |event: &Value, status: &str| {
        let conditions = event.pointer("/object/status/conditions").and_then(Value::as_array);
        conditions.is_some_and(|c| c.iter().any(|c| c["type"] == "Ready" && c["status"] == status))
    };
    while !ready(&watch.next().expect("an event").expect("a state"), "True") {}
    let status = json!({"status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "False"}]}});
    cluster.patch(&format!("{path}/status"), "merge-patch+json", &status).ok(200);
    while !ready(&watch.next().expect("an event").expect("a state"), "False") {}
    let eviction = json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": pod}});
    cluster.send("POST", &format!("{path}/eviction"), &eviction).ok(201);
    while watch.short() != format!("DELETED {pod}") {}
}

#[test]
fn lists_are_selected_paged_and_exact() {
    let cluster = Cluster::start(Options::default());
    for n in 0..7 {
        let mut map = config_map(&format!("m{n}"), "1");
        map["metadata"]["labels"] = json!({"odd": (n % 2).to_string()});
        cluster.send("POST", MAPS, &map).ok(201);
    }
    let names = |list: &Value| -> Vec<String> {
        list["items"].as_array().expect("items").iter().map(|i| text(i, "/metadata/name").to_string()).collect()
    };
    let all = cluster.get(MAPS).ok(200);
    assert_eq!((&all["kind"], &all["apiVersion"]), (&json!("ConfigMapList"), &json!("v1")));
    assert_eq!(all["items"][0].get("kind"), None, "the list says what its items are");
    assert_eq!(names(&cluster.get(&format!("{MAPS}?labelSelector=odd%3D1")).ok(200)), ["m1", "m3", "m5"]);
    assert_eq!(names(&cluster.get(&format!("{MAPS}?fieldSelector=metadata.name%3Dm2")).ok(200)), ["m2"]);
    assert_eq!(names(&cluster.get("/api/v1/namespaces/kube-system/configmaps").ok(200)), [""; 0]);

    // Pages show one state, whatever happens meanwhile.
    let first = cluster.get(&format!("{MAPS}?limit=3")).ok(200);
    assert_eq!(names(&first), ["m0", "m1", "m2"]);
    assert_eq!(first["metadata"]["remainingItemCount"], 4);
    cluster.send("DELETE", &format!("{MAPS}/m4"), &json!({})).ok(200);
    cluster.send("POST", MAPS, &config_map("m9", "1")).ok(201);
    let more = |from: &Value| {
        let token = text(from, "/metadata/continue").replace('/', "%2F");
        cluster.get(&format!("{MAPS}?limit=3&continue={token}"))
    };
    let second = more(&first).ok(200);
    assert_eq!(names(&second), ["m3", "m4", "m5"]);
    assert_eq!(version(&second), version(&first));
    assert_eq!(names(&more(&second).ok(200)), ["m6"]);
    let exact = format!("{MAPS}?resourceVersionMatch=Exact&resourceVersion={}", version(&first));
    assert_eq!(names(&cluster.get(&exact).ok(200)).len(), 7);
    cluster.call("POST", "/fairway/compact", &[], "");
    refused(&more(&second), 410, "Expired");
    refused(&cluster.get(&exact), 410, "Expired");

    let partial = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1";
    let list = cluster.call("GET", MAPS, &[("Accept", partial)], "").ok(200);
    assert_eq!(list["kind"], "PartialObjectMetadataList");
    assert_eq!(list["items"][0].get("data"), None);

    let odd = cluster.call("DELETE", &format!("{MAPS}?labelSelector=odd%3D1"), &[], "").ok(200);
    assert_eq!(names(&odd), ["m1", "m3", "m5"]);
    assert_eq!(names(&cluster.get(MAPS).ok(200)), ["m0", "m2", "m6", "m9"]);
}

#[test]
fn a_watch_begins_where_it_should() {
    let cluster = Cluster::start(Options { bookmark: Duration::from_millis(50), ..Options::default() });
    cluster.send("POST", MAPS, &config_map("a", "1")).ok(201);
    let listed = version(&cluster.get(MAPS).ok(200));
    cluster.send("POST", MAPS, &config_map("b", "1")).ok(201);
    let put = |name: &str, data: &str| cluster.send("PUT", &format!("{MAPS}/{name}"), &config_map(name, data)).ok(200);

    // From a list: what came after it, once.
    let mut from_list = cluster.watch(&format!("{MAPS}?watch=1&resourceVersion={listed}"));
    assert_eq!(from_list.short(), "ADDED b");
    // From nowhere: what is there.
    for start in ["", "&resourceVersion=0"] {
        let mut watch = cluster.watch(&format!("{MAPS}?watch=1{start}"));
        assert_eq!([watch.short(), watch.short()], ["ADDED a", "ADDED b"]);
    }
    // With initial events: what is there, a mark, and then changes.
    let query = "watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true";
    let mut streamed = cluster.watch(&format!("{MAPS}?{query}"));
    assert_eq!([streamed.short(), streamed.short()], ["ADDED a", "ADDED b"]);
    let mark = streamed.next().expect("an event").expect("a bookmark");
    assert_eq!(mark["type"], "BOOKMARK");
    assert_eq!(mark["object"]["metadata"]["annotations"]["k8s.io/initial-events-end"], "true");
    assert_eq!((&mark["object"]["kind"], &mark["object"]["apiVersion"]), (&json!("ConfigMap"), &json!("v1")));
    put("a", "2");
    cluster.send("DELETE", &format!("{MAPS}/b"), &json!({})).ok(200);
    assert_eq!([from_list.short(), from_list.short()], ["MODIFIED a", "DELETED b"]);
    let mut seen = vec![];
    while seen.len() < 2 {
        let event = streamed.short();
        if event != "BOOKMARK" {
            seen.push(event);
        }
    }
    assert_eq!(seen, ["MODIFIED a", "DELETED b"]);
    // Bookmarks carry the version also when other kinds change.
    cluster.send("POST", "/api/v1/namespaces/default/secrets", &json!({"metadata": {"name": "s"}})).ok(201);
    let now = version(&cluster.get(MAPS).ok(200));
    loop {
        let event = streamed.next().expect("an event").expect("a bookmark");
        assert_eq!(event["type"], "BOOKMARK");
        assert_eq!(event["object"]["metadata"].get("annotations"), None);
        if version(&event["object"]) == now {
            break;
        }
    }
    // A timeout ends a watch in good order.
    let mut short = cluster.watch(&format!("{MAPS}?watch=1&resourceVersion={now}&timeoutSeconds=1"));
    assert_eq!(short.next().expect("an end"), None);
}

#[test]
fn a_selecting_watch_sees_objects_come_and_go() {
    let cluster = Cluster::start(Options::default());
    let labelled = |data: &str, on: bool| {
        let mut map = config_map("a", data);
        map["metadata"]["labels"] = json!({"on": on.to_string()});
        map
    };
    let mut watch = cluster.watch(&format!("{MAPS}?watch=1&labelSelector=on%3Dtrue"));
    let mut elsewhere = cluster.watch("/api/v1/namespaces/kube-system/configmaps?watch=1");
    let path = format!("{MAPS}/a");
    cluster.send("POST", MAPS, &labelled("1", false)).ok(201);
    cluster.send("PUT", &path, &labelled("1", true)).ok(200);
    cluster.send("PUT", &path, &labelled("2", true)).ok(200);
    cluster.send("PUT", &path, &labelled("3", false)).ok(200);
    cluster.send("PUT", &path, &labelled("4", false)).ok(200);
    cluster.send("PUT", &path, &labelled("4", true)).ok(200);
    cluster.send("DELETE", &path, &json!({})).ok(200);
    let seen: Vec<String> = (0..5).map(|_| watch.short()).collect();
    assert_eq!(seen, ["ADDED a", "MODIFIED a", "DELETED a", "ADDED a", "DELETED a"]);
    cluster.send("POST", "/api/v1/namespaces/kube-system/configmaps", &config_map("other", "1")).ok(201);
    assert_eq!(elsewhere.short(), "ADDED other", "and nothing of the other namespace before");
}

#[test]
fn forgotten_history_is_gone_in_both_ways() {
    let cluster = Cluster::start(Options { history: 3, ..Options::default() });
    for n in 0..5 {
        cluster.send("POST", MAPS, &config_map(&format!("m{n}"), "1")).ok(201);
    }
    let now = version(&cluster.get(MAPS).ok(200));
    // Three changes are remembered.
    let mut watch = cluster.watch(&format!("{MAPS}?watch=1&resourceVersion={}", now - 3));
    assert_eq!([watch.short(), watch.short(), watch.short()], ["ADDED m2", "ADDED m3", "ADDED m4"]);
    let mut late = cluster.watch(&format!("{MAPS}?watch=1&resourceVersion={}", now - 4));
    assert_eq!(late.code, 200);
    let error = late.next().expect("an event").expect("an error");
    assert_eq!((&error["type"], &error["object"]["code"]), (&json!("ERROR"), &json!(410)));
    assert_eq!(text(&error, "/object/reason"), "Expired");
    assert_eq!(late.next().expect("an end"), None);
    misbehave(&cluster, "gone=1");
    let late = cluster.watch(&format!("{MAPS}?watch=1&resourceVersion={now}"));
    assert_eq!(late.code, 410);
}

#[test]
fn events_have_two_names() {
    let cluster = Cluster::start(Options::default());
    let event = json!({
        "metadata": {"name": "e"}, "regarding": {"kind": "Service", "name": "web", "namespace": "default"},
        "note": "no address left", "reason": "Exhausted", "type": "Warning", "eventTime": "2026-01-01T00:00:00.000000Z",
        "reportingController": "fairway", "reportingInstance": "vm-1", "action": "Allocate",
    });
    let new = "/apis/events.k8s.io/v1/namespaces/default/events";
    let made = cluster.send("POST", new, &event).ok(201);
    assert_eq!((&made["apiVersion"], &made["note"]), (&json!("events.k8s.io/v1"), &json!("no address left")));
    let core = "/api/v1/namespaces/default/events";
    let old = cluster.get(&format!("{core}/e")).ok(200);
    assert_eq!((&old["apiVersion"], &old["message"]), (&json!("v1"), &json!("no address left")));
    assert_eq!(old["involvedObject"]["name"], "web");
    cluster.patch(&format!("{new}/e"), "merge-patch+json", &json!({"note": "again"})).ok(200);
    let selected = cluster.get(&format!("{core}?fieldSelector=involvedObject.name%3Dweb,type%3DWarning")).ok(200);
    assert_eq!(selected["items"][0]["message"], "again");
}

#[test]
fn unknown_fields_warn_or_are_refused() {
    let cluster = Cluster::start(Options::default());
    let mut map = config_map("a", "1");
    map["dada"] = json!({"x": "y"});
    refused(&cluster.send("POST", &format!("{MAPS}?fieldValidation=Strict"), &map), 400, "BadRequest");
    let made = cluster.send("POST", MAPS, &map);
    assert!(made.head.contains("warning: 299 - \"unknown field \\\"dada\\\"\""), "{}", made.head);
    made.ok(201);
    let quiet = cluster.send("PUT", &format!("{MAPS}/a?fieldValidation=Ignore"), &map);
    assert!(!quiet.head.contains("warning"), "{}", quiet.head);
}

#[test]
fn a_token_is_asked_for() {
    let cluster = Cluster::start(Options { token: Some("secret".into()), ..Options::default() });
    refused(&cluster.get(MAPS), 401, "Unauthorized");
    refused(&cluster.call("GET", MAPS, &[("Authorization", "Bearer wrong")], ""), 401, "Unauthorized");
    cluster.call("GET", MAPS, &[("Authorization", "Bearer secret")], "").ok(200);
    assert_eq!(cluster.get("/healthz").code, 200);
}

#[test]
fn a_service_account_may_do_what_its_roles_say() {
    let account = ServiceAccount { namespace: "default".into(), name: "robot".into(), token: "robot".into() };
    let options = Options { token: Some("admin".into()), service_accounts: vec![account], ..Options::default() };
    let cluster = Cluster::start(options);
    let send = |token: &str, method: &str, path: &str, body: &Value| {
        let bearer = format!("Bearer {token}");
        let patch = if method == "PATCH" { "application/merge-patch+json" } else { "application/json" };
        let body = if body.is_null() { String::new() } else { body.to_string() };
        cluster.call(method, path, &[("Authorization", &bearer), ("Content-Type", patch)], &body)
    };
    let rbac = "/apis/rbac.authorization.k8s.io/v1";
    let rule = |verbs: Value, groups: Value, resources: Value| json!({"verbs": verbs, "apiGroups": groups, "resources": resources});
    let mut one = rule(json!(["get", "update", "create"]), json!([""]), json!(["configmaps"]));
    one["resourceNames"] = json!(["mine"]);
    let subjects = json!([{"kind": "ServiceAccount", "name": "robot", "namespace": "default"}]);
    let everybody =
        json!([{"kind": "Group", "name": "system:serviceaccounts", "apiGroup": "rbac.authorization.k8s.io"}]);
    let group = "rbac.authorization.k8s.io";
    let objects = [
        (
            format!("{rbac}/clusterroles"),
            json!({"metadata": {"name": "reader"}, "rules": [rule(json!(["list", "watch"]), json!([""]), json!(["nodes", "services/status"]))]}),
        ),
        (
            format!("{rbac}/clusterrolebindings"),
            json!({"metadata": {"name": "reader"}, "subjects": subjects, "roleRef": {"apiGroup": group, "kind": "ClusterRole", "name": "reader"}}),
        ),
        (
            format!("{rbac}/namespaces/default/roles"),
            json!({"metadata": {"name": "one"}, "rules": [one, rule(json!(["*"]), json!(["apps"]), json!(["*"]))]}),
        ),
        (
            format!("{rbac}/namespaces/default/rolebindings"),
            json!({"metadata": {"name": "one"}, "subjects": everybody, "roleRef": {"apiGroup": group, "kind": "Role", "name": "one"}}),
        ),
    ];
    for (path, object) in &objects {
        send("admin", "POST", path, object).ok(201);
    }
    send("admin", "POST", MAPS, &config_map("mine", "1")).ok(201);
    send("admin", "POST", MAPS, &config_map("other", "1")).ok(201);
    let mine = format!("{MAPS}/mine");
    let cases = [
        ("GET", "/api/v1/nodes", Value::Null, 200),
        ("GET", "/api/v1/nodes/a", Value::Null, 403),
        ("GET", "/api/v1/services", Value::Null, 403),
        ("GET", "/apis", Value::Null, 200),
        ("GET", "/api/v1", Value::Null, 200),
        ("GET", mine.as_str(), Value::Null, 200),
        ("PUT", mine.as_str(), config_map("mine", "2"), 200),
        ("PATCH", mine.as_str(), json!({}), 403),
        ("DELETE", mine.as_str(), Value::Null, 403),
        ("GET", &format!("{MAPS}/other"), Value::Null, 403),
        ("GET", MAPS, Value::Null, 403),
        // A name does not restrict what has none yet.
        ("POST", MAPS, config_map("mine", "3"), 403),
        ("GET", "/apis/apps/v1/namespaces/default/deployments", Value::Null, 200),
        ("GET", "/apis/apps/v1/deployments", Value::Null, 403),
        ("GET", "/apis/apps/v1/namespaces/kube-system/deployments", Value::Null, 403),
    ];
    for (method, path, body, code) in cases {
        let reply = send("robot", method, path, &body);
        assert_eq!(reply.code, code, "{method} {path}: {}", reply.body);
    }
    let reply = send("robot", "GET", MAPS, &Value::Null);
    refused(&reply, 403, "Forbidden");
    assert_eq!(
        text(&reply.json(), "/message"),
        "configmaps is forbidden: User \"system:serviceaccount:default:robot\" cannot list resource \"configmaps\" in \
         API group \"\" in the namespace \"default\""
    );
    // A role that goes takes its rights along.
    send("admin", "DELETE", &format!("{rbac}/clusterroles/reader"), &Value::Null).ok(200);
    refused(&send("robot", "GET", "/api/v1/nodes", &Value::Null), 403, "Forbidden");
    refused(&send("nobody", "GET", "/api/v1/nodes", &Value::Null), 401, "Unauthorized");
}

#[test]
fn misbehaviour_does_what_it_says() {
    let cluster = Cluster::start(Options::default());
    let reply = cluster.call("PUT", "/fairway/misbehave", &[], "429=1");
    assert_eq!((reply.code, reply.body.as_str()), (200, "429=1\n"));
    let busy = cluster.get(MAPS);
    assert!(busy.head.contains("retry-after: 1"), "{}", busy.head);
    refused(&busy, 429, "TooManyRequests");
    refused(&cluster.call("PUT", "/fairway/misbehave", &[], "late=1"), 400, "BadRequest");
    assert_eq!(cluster.get("/fairway/misbehave").body, "429=1\n", "a wrong word changes nothing");
    misbehave(&cluster, "500=1");
    refused(&cluster.get(MAPS), 500, "InternalError");

    // What was asked is done, although the answer is lost.
    misbehave(&cluster, "disconnect=1");
    let mut stream = std::net::TcpStream::connect(cluster.address()).expect("connect");
    let json = [("Content-Type", "application/json")];
    let lost = call(&mut stream, "POST", MAPS, &json, &config_map("a", "1").to_string());
    assert!(lost.is_err(), "{lost:?}");
    misbehave(&cluster, "none");
    cluster.get(&format!("{MAPS}/a")).ok(200);

    // A stale list shows what was, and a watch from there tells the rest.
    misbehave(&cluster, "stale=1");
    let stale = cluster.get(MAPS).ok(200);
    assert_eq!(stale["items"], json!([]));
    let mut watch = cluster.watch(&format!("{MAPS}?watch=1&resourceVersion={}", version(&stale)));
    assert_eq!(watch.short(), "ADDED a");

    misbehave(&cluster, "duplicate=1");
    cluster.send("PUT", &format!("{MAPS}/a"), &config_map("a", "2")).ok(200);
    assert_eq!([watch.short(), watch.short()], ["MODIFIED a", "MODIFIED a"]);

    // A watch that is cut ends in the middle, not in good order.
    misbehave(&cluster, "none");
    cluster.server.disconnect();
    assert!(watch.next().is_err());
    // A server that is gone is gone at once.
    let mut watch = Watch::open(cluster.address(), &format!("{MAPS}?watch=1"), &[]).expect("a watch");
    assert_eq!(watch.short(), "ADDED a");
    let address = cluster.address();
    drop(cluster);
    assert!(watch.next().is_err());
    assert!(std::net::TcpStream::connect(address).is_err());
}

#[test]
fn whoever_runs_the_pods_keeps_the_clock_and_hears_of_writes() {
    let (tell, told) = std::sync::mpsc::channel();
    let kubelets = Kubelets::Elsewhere(Box::new(move || {
        let _gone = tell.send(());
    }));
    let cluster = Cluster::start(Options { kubelets, ..Options::default() });
    cluster.apply(NODE);
    let pod = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "x"}]}});
    cluster.get("/api/v1/pods").ok(200);
    assert!(told.try_recv().is_err(), "reading changes nothing");
    cluster.send("POST", "/api/v1/namespaces/default/pods", &pod).ok(201);
    told.recv_timeout(Duration::from_secs(30)).expect("a write is told");
    let mut watch = cluster.watch("/api/v1/pods?watch=1");
    assert_eq!(watch.short(), "ADDED p");
    // An hour later, as this clock says.
    let later = Duration::from_secs(3600);
    let started = {
        let mut api = cluster.server.api();
        api.handle(later);
        let Some(Output::StartPod(start)) = api.poll() else { panic!("a pod is to be started") };
        api.pod_started(later, &start.namespace, &start.name);
        start.name
    };
    assert_eq!(started, "p");
    cluster.server.changed();
    let running = watch.next().expect("an event").expect("a state");
    assert_eq!(running["object"]["status"]["phase"], "Running");
}

#[test]
fn watches_of_different_kinds_overtake_each_other_on_request() {
    let cluster = Cluster::start(Options::default());
    misbehave(&cluster, "reorder=100ms");
    let mut maps = cluster.watch(&format!("{MAPS}?watch=1"));
    let mut secrets = cluster.watch("/api/v1/secrets?watch=1");
    for n in 0..5 {
        cluster.send("POST", MAPS, &config_map(&format!("m{n}"), "1")).ok(201);
        cluster
            .send("POST", "/api/v1/namespaces/default/secrets", &json!({"metadata": {"name": format!("s{n}")}}))
            .ok(201);
    }
    // Each in its own order, nothing lost.
    let names = |watch: &mut Watch| (0..5).map(|_| watch.short()).collect::<Vec<_>>();
    assert_eq!(names(&mut maps), ["ADDED m0", "ADDED m1", "ADDED m2", "ADDED m3", "ADDED m4"]);
    assert_eq!(names(&mut secrets), ["ADDED s0", "ADDED s1", "ADDED s2", "ADDED s3", "ADDED s4"]);
}

/// What a client may do to one of a few objects.
#[derive(Clone, Debug)]
enum Op {
    Put(u8, u8, bool),
    Delete(u8),
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let op = prop_oneof![
        3 => (0..4u8, 0..3u8, any::<bool>()).prop_map(|(name, data, on)| Op::Put(name, data, on)),
        1 => (0..4u8).prop_map(Op::Delete),
    ];
    proptest::collection::vec(op, 1..30)
}

fn apply(view: &mut BTreeMap<String, Value>, event: &Value) {
    let object = &event["object"];
    let name = text(object, "/metadata/name").to_string();
    match text(event, "/type") {
        "ADDED" => assert!(view.insert(name, object.clone()).is_none(), "added twice: {event}"),
        "MODIFIED" => {
            let before = view.insert(name, object.clone()).expect("modified before it was added");
            assert!(version(&before) < version(object), "an older state after a newer one");
        }
        "DELETED" => assert!(view.remove(&name).is_some(), "deleted what is not there"),
        other => panic!("{other}"),
    }
}

fn listed(list: &Value) -> BTreeMap<String, Value> {
    let items = list["items"].as_array().expect("items").iter();
    items
        .map(|item| {
            let mut item = item.clone();
            item["kind"] = json!("ConfigMap");
            item["apiVersion"] = json!("v1");
            (text(&item, "/metadata/name").to_string(), item)
        })
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    /// Whoever lists at any moment and watches from there ends with what a list shows at the end; so does a watch with
    /// initial events, and one with a selector.
    #[test]
    fn a_watch_from_any_version_ends_with_what_a_list_shows(ops in ops(), select in any::<bool>()) {
        let cluster = Cluster::start(Options::default());
        let selector = if select { "&labelSelector=on%3Dtrue" } else { "" };
        let mut lists = vec![cluster.get(&format!("{MAPS}?{selector}")).ok(200)];
        for op in &ops {
            match op {
                Op::Put(name, data, on) => {
                    let mut map = config_map(&format!("m{name}"), &data.to_string());
                    map["metadata"]["labels"] = json!({"on": on.to_string()});
                    let path = format!("{MAPS}/m{name}");
                    if cluster.send("PUT", &path, &map).code == 404 {
                        cluster.send("POST", MAPS, &map).ok(201);
                    }
                }
                Op::Delete(name) => {
                    cluster.send("DELETE", &format!("{MAPS}/m{name}"), &json!({}));
                }
            }
            lists.push(cluster.get(&format!("{MAPS}?{selector}")).ok(200));
        }
        let last = listed(lists.last().expect("a list"));
        let exact = version(lists.last().expect("a list"));
        // The end of each watch is marked by one more object.
        let mut end = config_map("end", "1");
        end["metadata"]["labels"] = json!({"on": "true"});
        cluster.send("POST", MAPS, &end).ok(201);
        for list in &lists {
            let mut view = listed(list);
            let mut watch = cluster.watch(&format!("{MAPS}?watch=1&resourceVersion={}{selector}", version(list)));
            loop {
                let event = watch.next().expect("an event").expect("no end");
                if text(&event, "/object/metadata/name") == "end" {
                    break;
                }
                apply(&mut view, &event);
            }
            prop_assert_eq!(&view, &last);
            // And the old states can still be read.
            let query = format!("resourceVersionMatch=Exact&resourceVersion={}{selector}", version(list));
            prop_assert_eq!(listed(&cluster.get(&format!("{MAPS}?{query}")).ok(200)), listed(list));
        }
        let query = "watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true";
        let mut watch = cluster.watch(&format!("{MAPS}?{query}{selector}"));
        let mut view = BTreeMap::new();
        loop {
            let event = watch.next().expect("an event").expect("no end");
            if event["type"] == "BOOKMARK" {
                prop_assert!(version(&event["object"]) > exact);
                break;
            }
            apply(&mut view, &event);
        }
        view.remove("end");
        prop_assert_eq!(view, last);
    }
}
