//! What is written to the API server, as JSON: Leases, Events, addresses in the status of a service.

use std::net::IpAddr;
use std::sync::Arc;

use fairway_objects::{Delta, Kind, Object, ObjectKey};
use fairway_publish::{Event, Ingress, Lease, LeaseWrite};
use serde_json::{Value, json};

use crate::decode;

/// Who Events come from.
const COMPONENT: &str = "fairway";

fn text<'a>(value: &'a Value, path: &str) -> Option<&'a str> {
    value.pointer(path).and_then(Value::as_str)
}

/// A time with a fraction as one without, which is what Events have.
fn seconds(time: &str) -> String {
    time.split_once('.').map_or_else(|| time.to_string(), |(whole, _)| format!("{whole}Z"))
}

/// Reads a `coordination.k8s.io/v1` Lease.
pub fn lease(value: &Value) -> Lease {
    let shared = |path: &str| Arc::from(text(value, path).unwrap_or_default());
    let number = |path: &str| value.pointer(path).and_then(Value::as_u64).and_then(|n| u32::try_from(n).ok());
    Lease {
        holder: shared("/spec/holderIdentity"),
        duration_s: number("/spec/leaseDurationSeconds").unwrap_or_default(),
        transitions: number("/spec/leaseTransitions").unwrap_or_default(),
        acquired: shared("/spec/acquireTime"),
        renewed: shared("/spec/renewTime"),
        version: shared("/metadata/resourceVersion"),
    }
}

/// A Lease to be created or replaced; `now` as RFC 3339 with microseconds.
pub fn lease_body(write: &LeaseWrite, now: &str) -> Value {
    let mut body = json!({
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": {"namespace": &*write.name.namespace, "name": &*write.name.name},
        "spec": {
            "holderIdentity": &*write.holder,
            "leaseDurationSeconds": write.duration_s,
            "leaseTransitions": write.transitions,
            "acquireTime": write.acquired.as_deref().filter(|t| !t.is_empty()).unwrap_or(now),
            "renewTime": now,
        },
    });
    if let Some(version) = &write.version {
        body["metadata"]["resourceVersion"] = json!(&**version);
    }
    body
}

/// The namespace of an Event about an object.
pub fn event_namespace(object: &ObjectKey) -> &str {
    if object.name.namespace.is_empty() { "default" } else { &object.name.namespace }
}

const fn group_version(kind: Kind) -> &'static str {
    match kind {
        Kind::EndpointSlice => "discovery.k8s.io/v1",
        Kind::Node | Kind::Namespace | Kind::Service | Kind::Pod => "v1",
    }
}

/// A `v1` Event to be created about an object that was just read.
pub fn event_body(event: &Event, object: &Value, now: &str) -> Value {
    let now = seconds(now);
    let key = &event.object;
    let mut regarding = json!({
        "apiVersion": group_version(key.kind),
        "kind": key.kind.as_str(),
        "name": &*key.name.name,
        "uid": text(object, "/metadata/uid").unwrap_or_default(),
    });
    if !key.name.namespace.is_empty() {
        regarding["namespace"] = json!(&*key.name.namespace);
    }
    json!({
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"namespace": event_namespace(key), "name": &*event.name},
        "involvedObject": regarding,
        "type": if event.warning { "Warning" } else { "Normal" },
        "reason": &*event.reason,
        "message": &*event.note,
        "action": "Configure",
        "count": 1,
        "firstTimestamp": now,
        "lastTimestamp": now,
        "source": {"component": COMPONENT, "host": &*event.instance},
        "reportingComponent": COMPONENT,
        "reportingInstance": &*event.instance,
    })
}

/// The merge patch that counts an Event once more.
pub fn event_again(existing: &Value, now: &str) -> Value {
    let count = existing.get("count").and_then(Value::as_u64).unwrap_or(1);
    json!({"count": count.saturating_add(1), "lastTimestamp": seconds(now)})
}

/// What is to be done with the status of a service.
#[derive(Clone, Debug, PartialEq)]
pub enum IngressPatch {
    /// This merge patch of the status subresource.
    Patch(Value),
    /// Nothing: it is not the service that was meant, but this.
    Differs(Delta),
}

/// The change of a service that was just read.
pub fn ingress_patch(write: &Ingress, current: &Value) -> IngressPatch {
    let found = decode(current);
    let same = matches!(&found, Ok(Delta::Put { object: Object::Service(service), .. }) if *service == write.service);
    if !same {
        let key = ObjectKey { kind: Kind::Service, name: write.service.name.clone() };
        return IngressPatch::Differs(found.unwrap_or(Delta::Del(key)));
    }
    let entries = current.pointer("/status/loadBalancer/ingress").and_then(Value::as_array).cloned();
    let mut entries = entries.unwrap_or_default();
    let gone = |ip: &IpAddr| write.remove.contains(ip);
    entries.retain(|entry| !text(entry, "/ip").and_then(|ip| ip.parse().ok()).is_some_and(|ip| gone(&ip)));
    // Mode VIP is what we do: packets arrive with the address as destination.
    entries.extend(write.add.iter().map(|ip| json!({"ip": ip.to_string(), "ipMode": "VIP"})));
    IngressPatch::Patch(json!({
        "metadata": {"resourceVersion": text(current, "/metadata/resourceVersion").unwrap_or_default()},
        "status": {"loadBalancer": {"ingress": entries}},
    }))
}
