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

/// One document of a text.
pub(crate) struct Document {
    pub(crate) number: usize,
    pub(crate) line: usize,
    pub(crate) value: Result<Value, ApplyError>,
}

/// Strict booleans as in YAML 1.2: `on` and `yes` are texts, and so are numbers with a leading zero.
fn options() -> serde_saphyr::Options {
    let mut options = serde_saphyr::Options::default();
    options.strict_booleans = true;
    options.underscored_numbers_as_strings = true;
    options.leading_zero_numbers_as_strings = true;
    options.with_snippet = false;
    options
}

/// Cuts a text at its `---` lines, so that a document that is no YAML does not hide the others. Empty documents are
/// left out, lists (`kind: List`) taken apart.
pub(crate) fn documents(text: &str) -> Vec<Document> {
    let mut parts: Vec<(usize, String)> = vec![(1, String::new())];
    for (i, line) in text.lines().enumerate() {
        if line == "---" || line.starts_with("--- ") {
            parts.push((i + 2, String::new()));
        } else if let Some((_, part)) = parts.last_mut() {
            part.push_str(line);
            part.push('\n');
        }
    }
    let mut documents = vec![];
    for (line, part) in parts {
        let number = documents.len() + 1;
        let error = |line, object, reason| ApplyError { document: number, line, object, reason };
        match serde_saphyr::from_str_with_options::<Value>(&part, options()) {
            Ok(Value::Null) => {}
            Ok(value) if value.get("kind").and_then(Value::as_str) == Some("List") => {
                for item in value.get("items").and_then(Value::as_array).into_iter().flatten() {
                    documents.push(Document { number: documents.len() + 1, line, value: Ok(item.clone()) });
                }
            }
            Ok(value) => documents.push(Document { number, line, value: Ok(value) }),
            Err(wrong) => {
                let wrong = wrong.without_snippet();
                // A text of comments alone is an empty document, whatever the parser calls it.
                if part.lines().all(|l| l.trim().is_empty() || l.trim_start().starts_with('#')) {
                    continue;
                }
                let at = wrong.location().map_or(line, |l| line + usize::try_from(l.line()).unwrap_or(1) - 1);
                let reason = wrong.to_string();
                let reason = reason.lines().next().unwrap_or_default().to_string();
                documents.push(Document { number, line, value: Err(error(at, None, reason)) });
            }
        }
    }
    documents
}

/// JSON merge patch (RFC 7386).
pub(crate) fn merge(target: &mut Value, patch: &Value) {
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
pub(crate) fn three_way(last: &Value, now: &Value) -> Value {
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
