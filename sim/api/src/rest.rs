//! What the REST verbs of the API do to the store: versions, preconditions, finalizers, and what changed since when.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Value, json};

use crate::api::{Api, ApiError};
use crate::store::{Change, Gone, Key, key, list, text};
use crate::{Time, merge};

/// Which part of an object a write may change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Everything but the status, where the kind has one of its own.
    Whole,
    /// Only the status.
    Status,
}

/// Conditions and manner of a deletion (`DeleteOptions`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeleteOptions {
    /// `gracePeriodSeconds`
    pub grace: Option<Time>,
    /// `preconditions.uid`
    pub uid: Option<String>,
    /// `preconditions.resourceVersion`
    pub version: Option<String>,
    /// Only say what would be.
    pub dry_run: bool,
}

/// Kinds whose status clients can change only as such. A Node is made with its status, by its kubelet.
fn has_status(kind: &str) -> bool {
    matches!(kind, "Node" | "Namespace" | "Service" | "Pod" | "Deployment" | "ReplicaSet" | "DaemonSet" | "StatefulSet")
}

/// Fields of the metadata that only the server writes.
const SERVER_OWNED: [&str; 5] =
    ["uid", "creationTimestamp", "generation", "deletionTimestamp", "deletionGracePeriodSeconds"];

/// DNS subdomain names (RFC 1123), as most kinds want them.
fn name_ok(name: &str) -> bool {
    let label = |l: &str| {
        let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
        let bytes = l.as_bytes();
        bytes.first().copied().is_some_and(inner)
            && bytes.last().copied().is_some_and(inner)
            && bytes.iter().all(|b| inner(*b) || *b == b'-')
    };
    name.len() <= 253 && name.split('.').all(label)
}

impl Api {
    /// Remembers so many changes of each kind, for [`Api::changes_since`]. By default none is.
    pub fn keep_history(&mut self, changes: usize) {
        self.store.keep_history(changes);
    }

    /// Forgets all changes so far, as etcd's compaction: whoever continues from before has to list again.
    pub fn compact(&mut self) {
        self.store.compact();
    }

    /// The version of the store: that of its last change.
    pub fn version(&self) -> u64 {
        self.store.version()
    }

    /// The version of the last change of a kind; 0 if there never was one.
    pub fn version_of(&self, kind: &str) -> u64 {
        self.store.changed(kind)
    }

    /// Now, as RFC 3339.
    pub fn timestamp(&self, now: Time) -> String {
        self.store.timestamp(now)
    }

    /// One object, shared.
    pub fn object(&self, kind: &str, namespace: &str, name: &str) -> Option<Arc<Value>> {
        self.store.get(&key(kind, namespace, name)).map(|s| s.value.clone())
    }

    /// All objects of a kind by namespace and name, of one namespace or (if it is empty) of all.
    pub fn objects<'a>(&'a self, kind: &'a str, namespace: &'a str) -> impl Iterator<Item = Arc<Value>> {
        let all = self.store.of_kind(kind);
        all.filter(move |(k, _)| namespace.is_empty() || k.1 == namespace).map(|(_, s)| s.value.clone())
    }

    /// As [`Api::objects`], as they were at a version.
    ///
    /// # Errors
    /// If the changes since then are no longer remembered.
    pub fn objects_at(&self, kind: &str, namespace: &str, version: u64) -> Result<Vec<Arc<Value>>, Gone> {
        let mut objects: BTreeMap<(&str, &str), Arc<Value>> = BTreeMap::new();
        for ((_, namespace, name), stored) in self.store.of_kind(kind) {
            objects.insert((namespace, name), stored.value.clone());
        }
        for change in self.store.since(kind, version)?.rev() {
            let at = (change.namespace.as_str(), change.name.as_str());
            match &change.before {
                Some(before) => objects.insert(at, before.clone()),
                None => objects.remove(&at),
            };
        }
        Ok(objects
            .into_iter()
            .filter(|((ns, _), _)| namespace.is_empty() || *ns == namespace)
            .map(|(_, o)| o)
            .collect())
    }

    /// The changes of a kind after a version, oldest first.
    ///
    /// # Errors
    /// If they are no longer all remembered.
    pub fn changes_since(&self, kind: &str, version: u64) -> Result<impl Iterator<Item = &Change>, Gone> {
        self.store.since(kind, version)
    }

    /// POST: a new object. Answers what is stored.
    ///
    /// # Errors
    /// If the name is taken or no name, or its namespace does not exist or ends.
    pub fn create(
        &mut self,
        now: Time,
        kind: &str,
        namespace: &str,
        mut value: Value,
        dry_run: bool,
    ) -> Result<Arc<Value>, ApiError> {
        let Some(metadata) = value.get_mut("metadata").and_then(Value::as_object_mut) else {
            return Err(invalid(kind, "", "metadata", "Required value"));
        };
        let given = |field: &str| metadata.get(field).and_then(Value::as_str).unwrap_or_default().to_string();
        let (name, prefix) = (given("name"), given("generateName"));
        let name = if name.is_empty() && !prefix.is_empty() { format!("{prefix}{}", self.suffix()) } else { name };
        if name.is_empty() {
            return Err(invalid(kind, "", "metadata.name", "Required value: name or generateName is required"));
        }
        let roles = matches!(kind, "Role" | "RoleBinding" | "ClusterRole" | "ClusterRoleBinding");
        if !roles && !name_ok(&name) {
            let reason = format!("Invalid value: {name:?}: a lowercase RFC 1123 subdomain is wanted");
            return Err(invalid(kind, &name, "metadata.name", &reason));
        }
        metadata.insert("name".into(), json!(name));
        for field in SERVER_OWNED.into_iter().chain(["resourceVersion"]) {
            metadata.remove(field);
        }
        let at = key(kind, namespace, &name);
        if !at.1.is_empty() {
            metadata.insert("namespace".into(), json!(at.1));
            match self.store.value(&key("Namespace", "", &at.1)) {
                None => return Err(Self::not_found(&key("Namespace", "", &at.1))),
                Some(space) if text(space, "/metadata/deletionTimestamp").is_some() => {
                    let reason =
                        format!("unable to create new content in namespace {} because it is being terminated", at.1);
                    return Err(ApiError::Conflict { kind: kind.into(), name, reason });
                }
                Some(_) => {}
            }
        }
        if self.store.get(&at).is_some() {
            return Err(ApiError::AlreadyExists { kind: kind.into(), name });
        }
        if has_status(kind) && kind != "Node" {
            remove(&mut value, "status");
        }
        if kind == "Pod" {
            value["status"] = json!({"phase": "Pending"});
        }
        self.check(&at, &value)?;
        if dry_run {
            self.defaults(&at, &mut value);
            value["metadata"]["creationTimestamp"] = json!(self.timestamp(now));
            return Ok(Arc::new(value));
        }
        self.write(now, &at, value, true);
        self.store.get(&at).map(|s| s.value.clone()).ok_or_else(|| Self::not_found(&at))
    }

    /// Five characters as the API server appends to `generateName`.
    fn suffix(&mut self) -> String {
        const ALPHABET: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";
        let mut draw = || ALPHABET.get(self.rng.rand_range(0..27) as usize).map_or('x', |b| char::from(*b));
        (0..5).map(|_| draw()).collect()
    }

    /// PUT, and the end of every PATCH: a new state of an object. Answers what is stored.
    ///
    /// # Errors
    /// If there is no such object, or it is not the one or not in the version that the client expects.
    pub fn replace(
        &mut self,
        now: Time,
        at: (&str, &str, &str),
        mut value: Value,
        part: Part,
        dry_run: bool,
    ) -> Result<Arc<Value>, ApiError> {
        let at = key(at.0, at.1, at.2);
        let Some(old) = self.store.get(&at).map(|s| s.value.clone()) else { return Err(Self::not_found(&at)) };
        let (kind, name) = (at.0.as_str(), at.2.as_str());
        let Some(metadata) = value.get_mut("metadata").and_then(Value::as_object_mut) else {
            return Err(invalid(kind, name, "metadata", "Required value"));
        };
        if metadata.get("name").and_then(Value::as_str) != Some(name) {
            return Err(invalid(kind, name, "metadata.name", "Invalid value: field is immutable"));
        }
        let given = |field: &str| metadata.get(field).and_then(Value::as_str).filter(|v| !v.is_empty());
        let conflict =
            |reason: &str| ApiError::Conflict { kind: kind.into(), name: name.into(), reason: reason.into() };
        if given("resourceVersion").is_some_and(|v| Some(v) != text(&old, "/metadata/resourceVersion")) {
            let reason = "the object has been modified; please apply your changes to the latest version and try again";
            return Err(conflict(reason));
        }
        if given("uid").is_some_and(|v| Some(v) != text(&old, "/metadata/uid")) {
            return Err(conflict("Precondition failed: UID in precondition differs from UID in object meta"));
        }
        for field in SERVER_OWNED {
            match old.pointer("/metadata").and_then(|m| m.get(field)) {
                Some(kept) => metadata.insert(field.into(), kept.clone()),
                None => metadata.remove(field),
            };
        }
        if !at.1.is_empty() {
            metadata.insert("namespace".into(), json!(at.1));
        }
        match part {
            Part::Status => {
                let metadata = value.get("metadata").cloned().unwrap_or_default();
                let status = value.get("status").cloned();
                value = (*old).clone();
                // Of the metadata a status write may change what tells nothing of identity.
                for field in ["annotations", "labels", "managedFields"] {
                    if let Some(new) = metadata.get(field) {
                        value["metadata"][field] = new.clone();
                    }
                }
                match status {
                    Some(status) => value["status"] = status,
                    None => remove(&mut value, "status"),
                }
            }
            Part::Whole if has_status(kind) => match old.get("status") {
                Some(status) => value["status"] = status.clone(),
                None => remove(&mut value, "status"),
            },
            Part::Whole => {}
        }
        if kind == "Service" {
            keep_allocated(&old, &mut value);
        }
        self.check(&at, &value)?;
        if dry_run {
            self.defaults(&at, &mut value);
            return Ok(Arc::new(value));
        }
        self.write(now, &at, value, false);
        let Some(stored) = self.store.get(&at).map(|s| s.value.clone()) else { return Err(Self::not_found(&at)) };
        if text(&stored, "/metadata/deletionTimestamp").is_some() && kind != "Pod" && finalizers(&stored) == 0 {
            self.finish_delete(now, &at);
        }
        Ok(stored)
    }

    /// What no object may be.
    fn check(&self, at: &Key, value: &Value) -> Result<(), ApiError> {
        let (kind, name) = (at.0.as_str(), at.2.as_str());
        let text_only = |path: &str| {
            let map = value.pointer(path).filter(|v| !v.is_null());
            map.is_none_or(|v| v.as_object().is_some_and(|m| m.values().all(Value::is_string)))
        };
        for field in ["labels", "annotations"] {
            if !text_only(&format!("/metadata/{field}")) {
                let reason = "Invalid value: a map of text to text is wanted";
                return Err(invalid(kind, name, &format!("metadata.{field}"), reason));
            }
        }
        for field in ["spec", "status"] {
            if has_status(kind) && value.get(field).is_some_and(|v| !v.is_object() && !v.is_null()) {
                return Err(invalid(kind, name, field, "Invalid value: an object is wanted"));
            }
        }
        if matches!(kind, "Deployment" | "Service" | "Pod") && !value.get("spec").is_some_and(Value::is_object) {
            return Err(invalid(kind, name, "spec", "Required value"));
        }
        if kind == "Deployment" {
            let selector = value.pointer("/spec/selector/matchLabels").and_then(Value::as_object);
            let labels = value.pointer("/spec/template/metadata/labels").and_then(Value::as_object);
            let matches = selector.is_some_and(|s| s.iter().all(|(k, v)| labels.is_some_and(|l| l.get(k) == Some(v))));
            if !matches && value.pointer("/spec/selector/matchExpressions").is_none() {
                let reason = "Invalid value: `selector` does not match template `labels`";
                return Err(invalid(kind, name, "spec.template.metadata.labels", reason));
            }
        }
        Ok(())
    }

    /// DELETE. Answers the object as it is afterwards if it is still there (a pod that ends, finalizers).
    ///
    /// # Errors
    /// If there is no such object or a precondition fails.
    pub fn delete_with(
        &mut self,
        now: Time,
        at: (&str, &str, &str),
        options: &DeleteOptions,
    ) -> Result<(Arc<Value>, bool), ApiError> {
        let at = key(at.0, at.1, at.2);
        let Some(old) = self.store.get(&at).map(|s| s.value.clone()) else { return Err(Self::not_found(&at)) };
        let wanted = [("/metadata/uid", &options.uid), ("/metadata/resourceVersion", &options.version)];
        for (path, wanted) in wanted {
            if let Some(wanted) = wanted
                && text(&old, path) != Some(wanted)
            {
                let reason = format!("Precondition failed: {wanted} is expected at {path}");
                return Err(ApiError::Conflict { kind: at.0, name: at.2, reason });
            }
        }
        if options.dry_run {
            return Ok((old, true));
        }
        match at.0.as_str() {
            "Pod" => self.delete_pod_within(now, &at.1, &at.2, options.grace),
            _ if finalizers(&old) > 0 => self.mark_deleted(now, &at),
            "Namespace" => {
                self.mark_deleted(now, &at);
                self.empty_namespace(now, &at.2);
            }
            _ => self.finish_delete(now, &at),
        }
        let left = self.store.get(&at).map(|s| s.value.clone());
        let gone = left.is_none();
        Ok((left.unwrap_or(old), gone))
    }

    fn mark_deleted(&mut self, now: Time, at: &Key) {
        let Some(mut value) = self.store.value(at).cloned() else { return };
        if text(&value, "/metadata/deletionTimestamp").is_none() {
            value["metadata"]["deletionTimestamp"] = json!(self.timestamp(now));
            value["metadata"]["deletionGracePeriodSeconds"] = json!(0);
            if at.0 == "Namespace" {
                merge(&mut value, &json!({"status": {"phase": "Terminating"}}));
            }
            self.store_value(now, at, value);
        }
    }

    fn finish_delete(&mut self, now: Time, at: &Key) {
        match at.0.as_str() {
            "Node" => self.delete_node(now, &at.2),
            _ => {
                self.remove_value(now, at);
                self.object_deleted(now, at);
            }
        }
    }

    /// The namespace controller: deletes what is in a namespace that ends, and the namespace when nothing is.
    pub(crate) fn empty_namespace(&mut self, now: Time, namespace: &str) {
        let at = key("Namespace", "", namespace);
        let ending = |v: &Value| text(v, "/metadata/deletionTimestamp").is_some();
        let Some(value) = self.store.value(&at).filter(|v| ending(v)) else { return };
        let held = finalizers(value) > 0;
        for at in self.store.in_namespace(namespace) {
            // What goes with its owner may be gone by now.
            if self.store.value(&at).is_some_and(|v| !ending(v)) {
                let _gone = self.delete_with(now, (&at.0, &at.1, &at.2), &DeleteOptions::default());
            }
        }
        if self.store.in_namespace(namespace).is_empty() && !held && self.store.get(&at).is_some() {
            self.finish_delete(now, &at);
        }
    }
}

fn invalid(kind: &str, name: &str, field: &str, reason: &str) -> ApiError {
    ApiError::Invalid { kind: kind.into(), name: name.into(), field: field.into(), reason: reason.into() }
}

fn finalizers(value: &Value) -> usize {
    list(value, "/metadata/finalizers").count()
}

fn remove(value: &mut Value, field: &str) {
    if let Some(object) = value.as_object_mut() {
        object.shift_remove(field);
    }
}

/// A service keeps the addresses and ports it was given when a client leaves them out.
fn keep_allocated(old: &Value, new: &mut Value) {
    let kind = |v: &Value| text(v, "/spec/type").unwrap_or("ClusterIP").to_string();
    let (before, after) = (kind(old), kind(new));
    let Some(spec) = new.get_mut("spec").and_then(Value::as_object_mut) else { return };
    if after == "ExternalName" {
        return;
    }
    for field in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
        let empty = spec.get(field).is_none_or(|v| matches!(v.as_str(), Some("")) || v.is_null());
        if empty && let Some(kept) = old.pointer("/spec").and_then(|s| s.get(field)) {
            spec.insert(field.into(), kept.clone());
        }
    }
    let ports_outside = |kind: &str| matches!(kind, "NodePort" | "LoadBalancer");
    for port in spec.get_mut("ports").and_then(Value::as_array_mut).into_iter().flatten() {
        let same = |o: &&Value| o.get("port") == port.get("port") && o.get("protocol") == port.get("protocol");
        let Some(kept) = list(old, "/spec/ports").find(same).and_then(|o| o.get("nodePort")).cloned() else { continue };
        let Some(port) = port.as_object_mut() else { continue };
        if ports_outside(&after) {
            port.entry("nodePort").or_insert(kept);
        } else if ports_outside(&before) && port.get("nodePort") == Some(&kept) {
            port.shift_remove("nodePort");
        }
    }
}
