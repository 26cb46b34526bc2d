//! Events exist in two groups with other names for the same fields. They are stored in the core group's form.

use serde_json::{Map, Value, json};

/// Names in the core group, and in `events.k8s.io`.
const NAMES: [(&str, &str); 6] = [
    ("involvedObject", "regarding"),
    ("message", "note"),
    ("reportingComponent", "reportingController"),
    ("source", "deprecatedSource"),
    ("firstTimestamp", "deprecatedFirstTimestamp"),
    ("lastTimestamp", "deprecatedLastTimestamp"),
];

fn rename(event: &mut Value, api_version: &str, name: impl Fn(&str) -> Option<&'static str>) {
    let Some(object) = event.as_object_mut() else { return };
    let renamed: Map<String, Value> =
        std::mem::take(object).into_iter().map(|(k, v)| (name(&k).map_or(k, String::from), v)).collect();
    *object = renamed;
    object.insert("apiVersion".into(), json!(api_version));
}

/// An event of `events.k8s.io` as it is stored.
pub(crate) fn to_core(event: &mut Value) {
    rename(event, "v1", |field| match field {
        "deprecatedCount" => Some("count"),
        _ => NAMES.iter().find(|(_, new)| *new == field).map(|(core, _)| *core),
    });
}

/// A stored event for a client of `events.k8s.io`.
pub(crate) fn from_core(event: &mut Value) {
    rename(event, "events.k8s.io/v1", |field| match field {
        "count" => Some("deprecatedCount"),
        _ => NAMES.iter().find(|(core, _)| *core == field).map(|(_, new)| *new),
    });
}
