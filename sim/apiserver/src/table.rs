//! Tables, as `kubectl get` asks for them.

use serde_json::{Value, json};

use crate::resources::Resource;
use crate::status::Refusal;

/// What the rows of a table carry beside their cells (`includeObject`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rows {
    Nothing,
    Metadata,
    Object,
}

impl Rows {
    pub(crate) fn parse(text: &str) -> Result<Self, Refusal> {
        match text {
            "" | "Metadata" => Ok(Rows::Metadata),
            "None" => Ok(Rows::Nothing),
            "Object" => Ok(Rows::Object),
            other => Err(Refusal::bad(format!("unrecognized includeObject value: {other:?}"))),
        }
    }
}

/// A column: its name, its type, whether only `-o wide` shows it, and what is in it.
type Column = (&'static str, &'static str, bool, fn(&Value) -> Value);

fn at<'a>(object: &'a Value, path: &str) -> Option<&'a Value> {
    object.pointer(path).filter(|v| !v.is_null())
}

fn text(object: &Value, path: &str, absent: &str) -> String {
    at(object, path).and_then(Value::as_str).unwrap_or(absent).to_string()
}

fn number(object: &Value, path: &str) -> u64 {
    at(object, path).and_then(Value::as_u64).unwrap_or(0)
}

fn list<'a>(object: &'a Value, path: &str) -> impl Iterator<Item = &'a Value> {
    object.pointer(path).and_then(Value::as_array).into_iter().flatten()
}

fn joined(parts: impl Iterator<Item = String>, absent: &str) -> String {
    let parts: Vec<String> = parts.collect();
    if parts.is_empty() { absent.into() } else { parts.join(",") }
}

fn count(object: &Value, path: &str) -> usize {
    at(object, path).map_or(0, |v| v.as_object().map_or(v.as_array().map_or(0, Vec::len), serde_json::Map::len))
}

fn pairs(object: &Value, path: &str) -> String {
    let map = at(object, path).and_then(Value::as_object);
    joined(map.into_iter().flatten().filter_map(|(k, v)| Some(format!("{k}={}", v.as_str()?))), "<none>")
}

fn condition(object: &Value, kind: &str, status: &str) -> bool {
    list(object, "/status/conditions").any(|c| text(c, "/type", "") == kind && text(c, "/status", "") == status)
}

fn ready_of(object: &Value) -> Value {
    json!(format!("{}/{}", number(object, "/status/readyReplicas"), replicas(object)))
}

fn replicas(object: &Value) -> u64 {
    at(object, "/spec/replicas").and_then(Value::as_u64).unwrap_or(1)
}

fn images(object: &Value, path: &str, field: &str) -> Value {
    json!(joined(list(object, path).map(|c| text(c, field, "")), "<none>"))
}

fn pod_status(pod: &Value) -> Value {
    json!(match at(pod, "/metadata/deletionTimestamp") {
        Some(_) => "Terminating".into(),
        None => text(pod, "/status/phase", "Unknown"),
    })
}

fn pod_ready(pod: &Value) -> Value {
    let all = count(pod, "/spec/containers");
    json!(format!("{}/{all}", if condition(pod, "Ready", "True") { all } else { 0 }))
}

fn node_status(node: &Value) -> Value {
    let ready = if condition(node, "Ready", "True") {
        "Ready"
    } else if condition(node, "Ready", "False") {
        "NotReady"
    } else {
        "Unknown"
    };
    let cordoned = at(node, "/spec/unschedulable").and_then(Value::as_bool).unwrap_or(false);
    json!(if cordoned { format!("{ready},SchedulingDisabled") } else { ready.into() })
}

fn node_roles(node: &Value) -> Value {
    let labels = at(node, "/metadata/labels").and_then(Value::as_object);
    let roles = labels.into_iter().flatten().filter_map(|(k, _)| k.strip_prefix("node-role.kubernetes.io/"));
    json!(joined(roles.map(String::from), "<none>"))
}

fn external(service: &Value) -> Value {
    let ingress = list(service, "/status/loadBalancer/ingress");
    let given = ingress.map(|i| text(i, "/ip", &text(i, "/hostname", "")));
    let asked = list(service, "/spec/externalIPs").filter_map(|v| v.as_str().map(String::from));
    let absent = match text(service, "/spec/type", "").as_str() {
        "ExternalName" => text(service, "/spec/externalName", "<none>"),
        "LoadBalancer" => "<pending>".into(),
        _ => "<none>".into(),
    };
    json!(joined(given.chain(asked), &absent))
}

fn ports(service: &Value) -> Value {
    let port = |p: &Value| {
        let (number, protocol) = (number(p, "/port"), text(p, "/protocol", "TCP"));
        match p.get("nodePort").and_then(Value::as_u64) {
            Some(node) => format!("{number}:{node}/{protocol}"),
            None => format!("{number}/{protocol}"),
        }
    };
    json!(joined(list(service, "/spec/ports").map(port), "<none>"))
}

/// Seconds since 1970 of an RFC 3339 time in UTC.
fn seconds(time: &str) -> Option<u64> {
    let (date, clock) = time.strip_suffix('Z')?.split_once('T')?;
    let numbers = |text: &str, by: char| text.split(by).map(|n| n.parse::<u64>().ok()).collect::<Option<Vec<_>>>();
    let ([year, month, day], [hour, minute, second]) =
        (numbers(date, '-')?.try_into().ok()?, numbers(clock.split('.').next()?, ':')?.try_into().ok()?);
    let [year, month, day]: [u64; 3] = [year, month, day];
    let [hour, minute, second]: [u64; 3] = [hour, minute, second];
    if !(1970..=9999).contains(&year) || !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    // Years begin in March here, so that the leap day is the last.
    let (year, month) = if month < 3 { (year - 1, month + 9) } else { (year, month - 3) };
    let days = year * 365 + year / 4 - year / 100 + year / 400 + (month * 153 + 2) / 5 + day - 1;
    // 719 468 days lie between the first of March of the year 0 and 1970.
    Some((days - 719_468) * 86_400 + hour * 3600 + minute * 60 + second)
}

/// How long ago a time was, as kubectl shows it. kubectl prints cells as they are, so the server counts.
fn ago(time: Option<&Value>, now: &str) -> Value {
    let since = time.and_then(Value::as_str).and_then(seconds);
    let (Some(since), Some(now)) = (since, seconds(now)) else { return json!("<unknown>") };
    let s = now.saturating_sub(since);
    let (m, h, d) = (s / 60, s / 3600, s / 86_400);
    let two = |n: u64, unit: char, rest: u64, small: char| {
        if rest == 0 { format!("{n}{unit}") } else { format!("{n}{unit}{rest}{small}") }
    };
    json!(match s {
        0..120 => format!("{s}s"),
        120..600 => two(m, 'm', s % 60, 's'),
        600..10_800 => format!("{m}m"),
        10_800..28_800 => two(h, 'h', m % 60, 'm'),
        28_800..172_800 => format!("{h}h"),
        172_800..691_200 => two(d, 'd', h % 24, 'h'),
        691_200..63_072_000 => format!("{d}d"),
        _ => two(d / 365, 'y', d % 365, 'd'),
    })
}

fn columns(kind: &str) -> &'static [Column] {
    match kind {
        "Pod" => &[
            ("Ready", "string", false, pod_ready),
            ("Status", "string", false, pod_status),
            ("Restarts", "string", false, |_| json!("0")),
            AGE,
            ("IP", "string", true, |o| json!(text(o, "/status/podIP", "<none>"))),
            ("Node", "string", true, |o| json!(text(o, "/spec/nodeName", "<none>"))),
            ("Nominated Node", "string", true, |_| json!("<none>")),
            ("Readiness Gates", "string", true, |_| json!("<none>")),
        ],
        "Node" => &[
            ("Status", "string", false, node_status),
            ("Roles", "string", false, node_roles),
            AGE,
            ("Version", "string", false, |o| json!(text(o, "/status/nodeInfo/kubeletVersion", "<unknown>"))),
            ("Internal-IP", "string", true, |o| {
                let internal = list(o, "/status/addresses").filter(|a| text(a, "/type", "") == "InternalIP");
                json!(internal.map(|a| text(a, "/address", "")).next().unwrap_or("<none>".into()))
            }),
            ("Pod-CIDRs", "string", true, |o| {
                json!(joined(list(o, "/spec/podCIDRs").filter_map(|c| c.as_str().map(String::from)), "<none>"))
            }),
        ],
        "Service" => &[
            ("Type", "string", false, |o| json!(text(o, "/spec/type", "ClusterIP"))),
            ("Cluster-IP", "string", false, |o| json!(text(o, "/spec/clusterIP", "<none>"))),
            ("External-IP", "string", false, external),
            ("Port(s)", "string", false, ports),
            AGE,
            ("Selector", "string", true, |o| json!(pairs(o, "/spec/selector"))),
        ],
        "Namespace" => &[("Status", "string", false, |o| json!(text(o, "/status/phase", "Active"))), AGE],
        "Deployment" => &[
            ("Ready", "string", false, ready_of),
            ("Up-to-date", "integer", false, |o| json!(number(o, "/status/updatedReplicas"))),
            ("Available", "integer", false, |o| json!(number(o, "/status/availableReplicas"))),
            AGE,
            ("Containers", "string", true, |o| images(o, "/spec/template/spec/containers", "/name")),
            ("Images", "string", true, |o| images(o, "/spec/template/spec/containers", "/image")),
            ("Selector", "string", true, |o| json!(pairs(o, "/spec/selector/matchLabels"))),
        ],
        "StatefulSet" => &[("Ready", "string", false, ready_of), AGE],
        "ReplicaSet" => &[
            ("Desired", "integer", false, |o| json!(replicas(o))),
            ("Current", "integer", false, |o| json!(number(o, "/status/replicas"))),
            ("Ready", "integer", false, |o| json!(number(o, "/status/readyReplicas"))),
            AGE,
        ],
        "DaemonSet" => &[
            ("Desired", "integer", false, |o| json!(number(o, "/status/desiredNumberScheduled"))),
            ("Current", "integer", false, |o| json!(number(o, "/status/currentNumberScheduled"))),
            ("Ready", "integer", false, |o| json!(number(o, "/status/numberReady"))),
            AGE,
        ],
        "EndpointSlice" => &[
            ("AddressType", "string", false, |o| json!(text(o, "/addressType", ""))),
            ("Ports", "string", false, |o| {
                let ports = list(o, "/ports").map(|p| number(p, "/port").to_string());
                json!(joined(ports, "<unset>"))
            }),
            ("Endpoints", "string", false, |o| {
                let endpoints = list(o, "/endpoints").flat_map(|e| list(e, "/addresses"));
                let all: Vec<String> = endpoints.filter_map(|a| a.as_str().map(String::from)).collect();
                match all.len() {
                    0 => json!("<unset>"),
                    n if n > 3 => json!(format!("{} + {} more...", all[..3].join(","), n - 3)),
                    _ => json!(all.join(",")),
                }
            }),
            AGE,
        ],
        "NetworkPolicy" => {
            &[("Pod-Selector", "string", false, |o| json!(pairs(o, "/spec/podSelector/matchLabels"))), AGE]
        }
        "Lease" => &[("Holder", "string", false, |o| json!(text(o, "/spec/holderIdentity", ""))), AGE],
        "ConfigMap" => &[("Data", "integer", false, |o| json!(count(o, "/data") + count(o, "/binaryData"))), AGE],
        "Secret" => &[
            ("Type", "string", false, |o| json!(text(o, "/type", "Opaque"))),
            ("Data", "integer", false, |o| json!(count(o, "/data"))),
            AGE,
        ],
        "ServiceAccount" => &[("Secrets", "integer", false, |o| json!(count(o, "/secrets"))), AGE],
        _ => &[AGE],
    }
}

/// Events are known by what they say, not by their names.
const EVENT_COLUMNS: &[Column] = &[
    ("Last Seen", "string", false, |o| {
        let times = ["/lastTimestamp", "/series/lastObservedTime", "/eventTime", "/firstTimestamp"];
        let time = times.iter().find_map(|path| at(o, path));
        time.or(at(o, "/metadata/creationTimestamp")).cloned().unwrap_or_default()
    }),
    ("Type", "string", false, |o| json!(text(o, "/type", ""))),
    ("Reason", "string", false, |o| json!(text(o, "/reason", ""))),
    ("Object", "string", false, |o| {
        let kind = text(o, "/involvedObject/kind", "").to_lowercase();
        json!(format!("{kind}/{}", text(o, "/involvedObject/name", "")))
    }),
    ("Message", "string", false, |o| json!(text(o, "/message", ""))),
    ("Name", "string", true, |o| json!(text(o, "/metadata/name", ""))),
];

/// Filled in from the clock, which the other columns do not need.
const AGE: Column = ("Age", "string", false, |o| at(o, "/metadata/creationTimestamp").cloned().unwrap_or_default());

const NAME: Column = ("Name", "string", false, |o| json!(text(o, "/metadata/name", "")));

/// A `Table` of objects; `now` is the time as RFC 3339.
pub(crate) fn table(resource: &Resource, objects: &[&Value], rows: Rows, now: &str) -> Value {
    let columns: Vec<Column> = match resource.kind {
        "Event" => EVENT_COLUMNS.to_vec(),
        kind => std::iter::once(NAME).chain(columns(kind).iter().copied()).collect(),
    };
    let definitions: Vec<Value> = columns
        .iter()
        .map(|(name, kind, wide, _)| {
            json!({
                "name": name, "type": kind, "format": if *name == "Name" { "name" } else { "" },
                "description": name, "priority": u8::from(*wide),
            })
        })
        .collect();
    let all: Vec<Value> = objects
        .iter()
        .map(|object| {
            let cell = |(name, _, _, cell): &Column| match *name {
                "Age" | "Last Seen" => ago(Some(&cell(object)), now),
                _ => cell(object),
            };
            let cells: Vec<Value> = columns.iter().map(cell).collect();
            let carried = match rows {
                Rows::Nothing => Value::Null,
                Rows::Object => (*object).clone(),
                Rows::Metadata => json!({
                    "kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": object.get("metadata"),
                }),
            };
            json!({"cells": cells, "object": carried})
        })
        .collect();
    json!({
        "kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": {},
        "columnDefinitions": definitions, "rows": all,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_are_counted_as_kubectl_shows_them() {
        assert_eq!(seconds("1970-01-01T00:00:00Z"), Some(0));
        assert_eq!(seconds("2024-02-29T12:00:01.250000Z"), Some(1_709_208_001));
        assert_eq!(seconds("2026-01-01T00:00:00Z"), Some(1_767_225_600));
        for wrong in
            ["", "2026", "2026-13-01T00:00:00Z", "2026-01-01T00:00Z", "x-01-01T00:00:00Z", "0000-01-01T00:00:00Z"]
        {
            assert_eq!(seconds(wrong), None, "{wrong}");
        }
        let cases = [
            ("2026-01-01T00:00:00Z", "5s", "2026-01-01T00:00:05Z"),
            ("2026-01-01T00:00:00Z", "2m5s", "2026-01-01T00:02:05Z"),
            ("2026-01-01T00:00:00Z", "3h", "2026-01-01T03:00:05Z"),
            ("2026-01-01T00:00:00Z", "3d", "2026-01-04T00:00:05Z"),
            ("2026-01-01T00:00:00Z", "40d", "2026-02-10T00:00:05Z"),
            ("2026-01-01T00:00:00Z", "0s", "2025-02-10T00:00:05Z"),
        ];
        for (since, shown, now) in cases {
            assert_eq!(ago(Some(&json!(since)), now), shown);
        }
        assert_eq!(ago(None, "2026-01-01T00:00:00Z"), "<unknown>");
    }
}
