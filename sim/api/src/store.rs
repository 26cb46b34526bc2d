//! Objects by kind, namespace and name, with the version and the decoded form of each, and what changed lately.

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;

use fairway_objects::{Delta, ObjectKey};
use serde_json::{Value, json};

use crate::Time;

/// Kind, namespace (empty for cluster-scoped kinds), name.
pub(crate) type Key = (String, String, String);

/// One stored object.
#[derive(Debug)]
pub(crate) struct Stored {
    pub(crate) value: Arc<Value>,
    /// What a watch tells of it; `None` for kinds that no node watches. Decoded once, shared by all watchers.
    pub(crate) delta: Option<Delta>,
    /// What `kubectl apply` gave last, to find what it leaves out now.
    pub(crate) applied: Option<Value>,
}

/// One change of one object, as a watch by resource version tells it.
#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    /// The store's version with this change; each change has its own.
    pub version: u64,
    /// Namespace; empty for cluster-scoped kinds.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// The object before; `None` if it was created.
    pub before: Option<Arc<Value>>,
    /// The object after. Of a deleted one this is its last state with the version of the deletion.
    pub after: Arc<Value>,
    /// Whether it was deleted.
    pub deleted: bool,
}

/// The changes asked for are no longer remembered (HTTP 410).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("too old resource version: {asked} ({oldest})")]
pub struct Gone {
    /// The version asked for.
    pub asked: u64,
    /// The oldest version that can be continued.
    pub oldest: u64,
}

/// What changed lately in one kind.
#[derive(Debug, Default)]
struct History {
    changes: VecDeque<Change>,
    /// The version of the last change that was forgotten.
    compacted: u64,
}

/// What services have of what only one can have.
#[derive(Debug, Default)]
pub(crate) struct Allocated {
    ips: BTreeMap<IpAddr, u32>,
    ports: BTreeMap<u16, u32>,
}

/// Cluster addresses of a service.
fn service_ips(service: &Value) -> impl Iterator<Item = IpAddr> {
    list(service, "/spec/clusterIPs").filter_map(|v| v.as_str()?.parse().ok())
}

/// Node ports of a service.
fn service_ports(service: &Value) -> impl Iterator<Item = u16> {
    list(service, "/spec/ports").filter_map(|p| p.get("nodePort")?.as_u64()?.try_into().ok())
}

impl Allocated {
    /// A service is stored (`true`), or no longer.
    fn count(&mut self, service: &Value, there: bool) {
        fn one<K: Ord>(counts: &mut BTreeMap<K, u32>, key: K, there: bool) {
            if there {
                *counts.entry(key).or_default() += 1;
            } else if counts.get(&key).is_some_and(|n| *n > 1) {
                counts.entry(key).and_modify(|n| *n -= 1);
            } else {
                counts.remove(&key);
            }
        }
        service_ips(service).for_each(|ip| one(&mut self.ips, ip, there));
        service_ports(service).for_each(|port| one(&mut self.ports, port, there));
    }
}

/// The store.
#[derive(Debug, Default)]
pub(crate) struct Store {
    objects: BTreeMap<Key, Stored>,
    version: u64,
    /// The version of the last change of each kind.
    changed: BTreeMap<String, u64>,
    allocated: Allocated,
    /// Seconds from 1970 to the start of the cluster.
    epoch_s: u64,
    /// How many changes of each kind are remembered.
    history_max: usize,
    history: BTreeMap<String, History>,
    /// From this version on changes are remembered at all.
    history_from: u64,
}

/// Whether objects of a kind have no namespace.
pub fn cluster_scoped(kind: &str) -> bool {
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

/// The `ownerReferences` entry of an object's controller.
pub(crate) fn owner(api_version: &str, kind: &str, object: &Value) -> Value {
    let (name, uid) = (object.pointer("/metadata/name"), object.pointer("/metadata/uid"));
    json!({
        "apiVersion": api_version, "kind": kind, "name": name, "uid": uid, "controller": true,
        "blockOwnerDeletion": true,
    })
}

/// Kinds whose `metadata.generation` counts the changes of everything but metadata and status.
fn has_generation(kind: &str) -> bool {
    matches!(
        kind,
        "Deployment" | "ReplicaSet" | "DaemonSet" | "StatefulSet" | "NetworkPolicy" | "EndpointSlice" | "Ingress"
    )
}

/// Whether two states of an object are the same but for metadata and status.
fn same_spec(a: &Value, b: &Value) -> bool {
    let spec = |v: &Value| {
        let fields = v.as_object().into_iter().flatten();
        let fields = fields.filter(|(k, _)| !matches!(k.as_str(), "metadata" | "status"));
        fields.map(|(k, v)| (k.clone(), v.clone())).collect::<BTreeMap<_, _>>()
    };
    spec(a) == spec(b)
}

/// RFC 3339 with seconds, as Kubernetes writes `metadata.creationTimestamp`, of seconds since 1970.
pub(crate) fn timestamp(seconds: u64) -> String {
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
    /// An empty store of a cluster that began so many seconds after 1970.
    pub(crate) fn new(epoch_s: u64) -> Self {
        Store { epoch_s, ..Store::default() }
    }

    pub(crate) fn get(&self, key: &Key) -> Option<&Stored> {
        self.objects.get(key)
    }

    pub(crate) fn value(&self, key: &Key) -> Option<&Value> {
        self.objects.get(key).map(|o| &*o.value)
    }

    /// Objects of a kind by namespace and name.
    pub(crate) fn of_kind(&self, kind: &str) -> impl Iterator<Item = (&Key, &Stored)> {
        let from = (kind.to_string(), String::new(), String::new());
        let kind = kind.to_string();
        self.objects.range(from..).take_while(move |(key, _)| key.0 == kind)
    }

    /// The first of some cluster addresses, which ascend, that no service but one has.
    pub(crate) fn free_ip(&self, candidates: impl IntoIterator<Item = IpAddr>, except: &Key) -> Option<IpAddr> {
        let own: Vec<IpAddr> = self.value(except).into_iter().flat_map(service_ips).collect();
        let mut candidates = candidates.into_iter().peekable();
        let first = *candidates.peek()?;
        // Both ascend, so one pass does, however many are given away.
        let mut used = self.allocated.ips.range(first..).peekable();
        candidates.find(|ip| {
            while used.peek().is_some_and(|(given, _)| *given < ip) {
                used.next();
            }
            let others = |n: u32| n as usize > own.iter().filter(|o| *o == ip).count();
            !used.peek().is_some_and(|(given, n)| *given == ip && others(**n))
        })
    }

    /// As [`Store::free_ip`], of node ports.
    pub(crate) fn free_port(&self, mut candidates: impl Iterator<Item = u16>, except: &Key) -> Option<u16> {
        let own: Vec<u16> = self.value(except).into_iter().flat_map(service_ports).collect();
        let others = |port: &u16, n: u32| n as usize > own.iter().filter(|o| *o == port).count();
        candidates.find(|port| !self.allocated.ports.get(port).is_some_and(|n| others(port, *n)))
    }

    /// Objects of a kind in a namespace whose names begin with a text, by name.
    pub(crate) fn of_namespace(
        &self,
        kind: &str,
        namespace: &str,
        prefix: &str,
    ) -> impl Iterator<Item = (&Key, &Stored)> {
        let from = (kind.to_string(), namespace.to_string(), prefix.to_string());
        let (kind, namespace, prefix) = from.clone();
        let same = move |key: &Key| key.0 == kind && key.1 == namespace && key.2.starts_with(&prefix);
        self.objects.range(from..).take_while(move |(key, _)| same(key))
    }

    /// Keys of everything in a namespace.
    pub(crate) fn in_namespace(&self, namespace: &str) -> Vec<Key> {
        self.objects.keys().filter(|k| k.1 == namespace).cloned().collect()
    }

    /// Stores an object. Returns whether anything changed; an equal object keeps its version.
    pub(crate) fn put(&mut self, now: Time, key: &Key, mut value: Value) -> bool {
        let old = self.objects.get(key);
        let kept = |path: &str| old.and_then(|o| o.value.pointer(path)).cloned();
        let created = kept("/metadata/creationTimestamp").unwrap_or_else(|| self.timestamp(now).into());
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
        if has_generation(&key.0) {
            let before = kept("/metadata/generation").and_then(|g| g.as_u64()).unwrap_or(0);
            let same = old.is_some_and(|o| same_spec(&o.value, &value));
            if let Some(metadata) = value.get_mut("metadata").and_then(Value::as_object_mut) {
                metadata.insert("generation".into(), json!(if same { before } else { before + 1 }));
            }
        }
        if old.is_some_and(|o| *o.value == value) {
            return false;
        }
        self.version += 1;
        if let Some(metadata) = value.get_mut("metadata").and_then(Value::as_object_mut) {
            metadata.insert("resourceVersion".into(), json!(self.version.to_string()));
        }
        let delta = fairway_decode::decode(&value).ok();
        let applied = old.and_then(|o| o.applied.clone());
        let before = old.map(|o| o.value.clone());
        let value = Arc::new(value);
        if key.0 == "Service" {
            before.iter().for_each(|before| self.allocated.count(before, false));
            self.allocated.count(&value, true);
        }
        self.remember(key, before, value.clone(), false);
        self.objects.insert(key.clone(), Stored { value, delta, applied });
        true
    }

    /// The time as text, in seconds.
    pub(crate) fn timestamp(&self, now: Time) -> String {
        timestamp(self.epoch_s + now.as_secs())
    }

    fn remember(&mut self, key: &Key, before: Option<Arc<Value>>, after: Arc<Value>, deleted: bool) {
        match self.changed.get_mut(&key.0) {
            Some(version) => *version = self.version,
            None => drop(self.changed.insert(key.0.clone(), self.version)),
        }
        if self.history_max == 0 {
            return;
        }
        let (kind, namespace, name) = key.clone();
        let history = self.history.entry(kind).or_default();
        history.changes.push_back(Change { version: self.version, namespace, name, before, after, deleted });
        while history.changes.len() > self.history_max {
            if let Some(forgotten) = history.changes.pop_front() {
                history.compacted = forgotten.version;
            }
        }
    }

    /// Remembers so many changes of each kind from now on; none by default.
    pub(crate) fn keep_history(&mut self, changes: usize) {
        if self.history_max == 0 {
            self.history_from = self.version;
        }
        self.history_max = changes;
    }

    /// Forgets all changes so far.
    pub(crate) fn compact(&mut self) {
        self.history.clear();
        self.history_from = self.version;
    }

    pub(crate) fn version(&self) -> u64 {
        self.version
    }

    /// The version of the last change of a kind.
    pub(crate) fn changed(&self, kind: &str) -> u64 {
        self.changed.get(kind).copied().unwrap_or_default()
    }

    /// The oldest version of a kind from which its changes are remembered.
    pub(crate) fn oldest(&self, kind: &str) -> u64 {
        self.history.get(kind).map_or(0, |h| h.compacted).max(self.history_from)
    }

    /// Changes of a kind after a version, oldest first.
    pub(crate) fn since(&self, kind: &str, version: u64) -> Result<impl DoubleEndedIterator<Item = &Change>, Gone> {
        let history = self.history.get(kind);
        let oldest = self.oldest(kind);
        if version < oldest {
            return Err(Gone { asked: version, oldest });
        }
        let all = history.map(|h| {
            let from = h.changes.partition_point(|c| c.version <= version);
            h.changes.range(from..)
        });
        Ok(all.into_iter().flatten())
    }

    /// Remembers what was applied.
    pub(crate) fn set_applied(&mut self, key: &Key, applied: Value) {
        if let Some(stored) = self.objects.get_mut(key) {
            stored.applied = Some(applied);
        }
    }

    pub(crate) fn remove(&mut self, key: &Key) -> Option<Stored> {
        let removed = self.objects.remove(key)?;
        self.version += 1;
        if key.0 == "Service" {
            self.allocated.count(&removed.value, false);
        }
        let mut last = (*removed.value).clone();
        if let Some(metadata) = last.get_mut("metadata").and_then(Value::as_object_mut) {
            metadata.insert("resourceVersion".into(), json!(self.version.to_string()));
        }
        self.remember(key, Some(removed.value.clone()), Arc::new(last), true);
        Some(removed)
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
