//! Objects by kind, namespace and name, with the version and the decoded form of each.

use std::collections::BTreeMap;

use fairway_objects::{Delta, ObjectKey};
use serde_json::{Value, json};

use crate::Time;

/// Kind, namespace (empty for cluster-scoped kinds), name.
pub(crate) type Key = (String, String, String);

/// Seconds from 1970 to the start of 2026, when every simulated cluster begins.
const EPOCH_S: u64 = 1_767_225_600;

/// One stored object.
#[derive(Debug)]
pub(crate) struct Stored {
    pub(crate) value: Value,
    /// What a watch tells of it; `None` for kinds that no node watches. Decoded once, shared by all watchers.
    pub(crate) delta: Option<Delta>,
    /// What `kubectl apply` gave last, to find what it leaves out now.
    pub(crate) applied: Option<Value>,
}

/// The store.
#[derive(Debug, Default)]
pub(crate) struct Store {
    objects: BTreeMap<Key, Stored>,
    version: u64,
}

/// Whether objects of a kind have no namespace.
pub(crate) fn cluster_scoped(kind: &str) -> bool {
    matches!(
        kind,
        "Node"
            | "Namespace"
            | "PersistentVolume"
            | "ClusterRole"
            | "ClusterRoleBinding"
            | "StorageClass"
            | "CustomResourceDefinition"
            | "IngressClass"
            | "PriorityClass"
            | "RuntimeClass"
    )
}

/// The key under which an object is stored.
pub(crate) fn key(kind: &str, namespace: &str, name: &str) -> Key {
    let namespace = match (cluster_scoped(kind), namespace) {
        (true, _) => "",
        (false, "") => "default",
        (false, namespace) => namespace,
    };
    (kind.into(), namespace.into(), name.into())
}

/// A text at a JSON pointer.
pub(crate) fn text<'a>(value: &'a Value, path: &str) -> Option<&'a str> {
    value.pointer(path).and_then(Value::as_str)
}

/// The elements at a JSON pointer; none if there is no list.
pub(crate) fn list<'a>(value: &'a Value, path: &str) -> impl Iterator<Item = &'a Value> {
    value.pointer(path).and_then(Value::as_array).into_iter().flatten()
}

/// RFC 3339 with seconds, as Kubernetes writes `metadata.creationTimestamp`.
fn timestamp(now: Time) -> String {
    let seconds = EPOCH_S + now.as_secs();
    let (mut days, second) = (seconds / 86_400, seconds % 86_400);
    let leap = |year: u64| year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    let mut year = 1970;
    while days >= if leap(year) { 366 } else { 365 } {
        days -= if leap(year) { 366 } else { 365 };
        year += 1;
    }
    let lengths = [31, if leap(year) { 29 } else { 28 }, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let mut month = 0;
    while days >= lengths[month] {
        days -= lengths[month];
        month += 1;
    }
    let (h, m, s) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{:02}-{:02}T{h:02}:{m:02}:{s:02}Z", month + 1, days + 1)
}

impl Store {
    pub(crate) fn get(&self, key: &Key) -> Option<&Stored> {
        self.objects.get(key)
    }

    pub(crate) fn value(&self, key: &Key) -> Option<&Value> {
        self.objects.get(key).map(|o| &o.value)
    }

    /// Objects of a kind by namespace and name.
    pub(crate) fn of_kind(&self, kind: &str) -> impl Iterator<Item = (&Key, &Stored)> {
        let from = (kind.to_string(), String::new(), String::new());
        let kind = kind.to_string();
        self.objects.range(from..).take_while(move |(key, _)| key.0 == kind)
    }

    /// Stores an object. Returns whether anything changed; an equal object keeps its version.
    pub(crate) fn put(&mut self, now: Time, key: &Key, mut value: Value) -> bool {
        let old = self.objects.get(key);
        let kept = |path: &str| old.and_then(|o| o.value.pointer(path)).cloned();
        let created = kept("/metadata/creationTimestamp").unwrap_or_else(|| timestamp(now).into());
        let uid = kept("/metadata/uid")
            .unwrap_or_else(|| format!("00000000-0000-4000-8000-{:012x}", self.version + 1).into());
        if let Some(metadata) = value.get_mut("metadata").and_then(Value::as_object_mut) {
            metadata.insert("creationTimestamp".into(), created);
            metadata.insert("uid".into(), uid);
            match kept("/metadata/resourceVersion") {
                Some(version) => metadata.insert("resourceVersion".into(), version),
                None => metadata.remove("resourceVersion"),
            };
        }
        if old.is_some_and(|o| o.value == value) {
            return false;
        }
        self.version += 1;
        if let Some(metadata) = value.get_mut("metadata").and_then(Value::as_object_mut) {
            metadata.insert("resourceVersion".into(), json!(self.version.to_string()));
        }
        let delta = fairway_decode::decode(&value).ok();
        let applied = old.and_then(|o| o.applied.clone());
        self.objects.insert(key.clone(), Stored { value, delta, applied });
        true
    }

    /// Remembers what was applied.
    pub(crate) fn set_applied(&mut self, key: &Key, applied: Value) {
        if let Some(stored) = self.objects.get_mut(key) {
            stored.applied = Some(applied);
        }
    }

    pub(crate) fn remove(&mut self, key: &Key) -> Option<Stored> {
        let removed = self.objects.remove(key);
        if removed.is_some() {
            self.version += 1;
        }
        removed
    }
}

/// The watched key of an object, if its kind is watched.
pub(crate) fn watched(stored: &Stored) -> Option<ObjectKey> {
    match stored.delta.as_ref()? {
        Delta::Put { object, .. } => Some(object.key()),
        Delta::Invalid { key, .. } => Some(key.clone()),
        Delta::Del(_) | Delta::Relist(_) | Delta::Listed(_) => None,
    }
}
