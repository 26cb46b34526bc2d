//! `kubectl apply`: documents, merging, and what is wrong with which document.

use std::fmt;

use serde_json::{Map, Value};

/// What became of one document.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// The object is new.
    Created,
    /// The object was changed.
    Configured,
    /// The object was so already.
    Unchanged,
}

/// One applied document. Displayed as `service/mconnect created`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Applied {
    /// `Service`, …
    pub kind: String,
    /// Namespace; empty for cluster-scoped kinds.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// What was done.
    pub action: Action,
}

impl fmt::Display for Applied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let action = match self.action {
            Action::Created => "created",
            Action::Configured => "configured",
            Action::Unchanged => "unchanged",
        };
        write!(f, "{}/{} {action}", self.kind.to_lowercase(), self.name)
    }
}

/// Why a document was not applied. The other documents of the text are not affected.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("document {document} (line {line}){}: {reason}", object.as_ref().map(|o| format!(" {o}")).unwrap_or_default())]
pub struct ApplyError {
    /// Number of the document in the text, from 1.
    pub document: usize,
    /// Line of the mistake, or where the document begins, from 1.
    pub line: usize,
    /// `Kind/name`, as far as known.
    pub object: Option<String>,
    /// What is wrong.
    pub reason: String,
}

/// JSON merge patch (RFC 7386).
pub fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    let Some(target) = target.as_object_mut() else { return };
    for (key, value) in patch {
        if value.is_null() {
            target.remove(key);
        } else {
            merge(target.entry(key.clone()).or_insert(Value::Null), value);
        }
    }
}

/// What a manifest says that was applied before and is applied now in another form: the fields it left out become
/// `null`, so that merging removes them.
pub fn three_way(last: &Value, now: &Value) -> Value {
    let (Value::Object(last), Value::Object(now)) = (last, now) else { return now.clone() };
    let mut out = Map::new();
    for (key, value) in now {
        let value = last.get(key).map_or_else(|| value.clone(), |old| three_way(old, value));
        out.insert(key.clone(), value);
    }
    for key in last.keys().filter(|key| !now.contains_key(*key)) {
        out.insert(key.clone(), Value::Null);
    }
    Value::Object(out)
}
