//! Label and field selectors.

use serde_json::Value;

use crate::resources::Resource;
use crate::status::Refusal;

#[derive(Clone, Debug, PartialEq, Eq)]
enum Test {
    In(Vec<String>),
    NotIn(Vec<String>),
    Exists,
    Absent,
}

/// What objects a list or watch is about.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Selector {
    labels: Vec<(String, Test)>,
    /// JSON pointer, wanted text, and whether it is wanted at all.
    fields: Vec<(String, String, bool)>,
}

/// The parts of a label selector: commas separate, but not inside brackets.
fn parts(text: &str) -> Vec<&str> {
    let (mut depth, mut start, mut parts) = (0i32, 0, vec![]);
    for (i, c) in text.char_indices() {
        match c {
            '(' => depth += 1,
            ')' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(&text[start..i]);
                start = i + 1;
            }
            _ => {}
        }
    }
    parts.push(&text[start..]);
    parts.into_iter().map(str::trim).filter(|p| !p.is_empty()).collect()
}

fn requirement(part: &str) -> Result<(String, Test), Refusal> {
    let wrong = || Refusal::bad(format!("unable to parse requirement: {part:?}"));
    let key_ok = |key: &str| {
        let inner = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '/');
        !key.is_empty() && key.chars().all(inner)
    };
    let checked = |key: &str, test: Test| if key_ok(key) { Ok((key.to_string(), test)) } else { Err(wrong()) };
    if let Some(list) = part.strip_suffix(')') {
        let (head, list) = list.split_once('(').ok_or_else(wrong)?;
        let values = list.split(',').map(|v| v.trim().to_string()).collect();
        let (key, word) = head.trim().split_once(char::is_whitespace).ok_or_else(wrong)?;
        return match word.trim() {
            "in" => checked(key, Test::In(values)),
            "notin" => checked(key, Test::NotIn(values)),
            _ => Err(wrong()),
        };
    }
    if let Some((key, value)) = part.split_once("!=") {
        return checked(key.trim(), Test::NotIn(vec![value.trim().into()]));
    }
    if let Some((key, value)) = part.split_once('=') {
        let value = value.strip_prefix('=').unwrap_or(value);
        return checked(key.trim(), Test::In(vec![value.trim().into()]));
    }
    match part.strip_prefix('!') {
        Some(key) => checked(key.trim(), Test::Absent),
        None => checked(part, Test::Exists),
    }
}

/// Fields by which a kind can be selected beside its name and namespace.
fn selectable(kind: &str) -> &'static [&'static str] {
    match kind {
        "Pod" => &[
            "spec.nodeName",
            "spec.restartPolicy",
            "spec.schedulerName",
            "spec.serviceAccountName",
            "spec.hostNetwork",
            "status.phase",
            "status.podIP",
            "status.nominatedNodeName",
        ],
        "Node" => &["spec.unschedulable"],
        "Namespace" => &["status.phase"],
        "Secret" => &["type"],
        "Service" => &["spec.clusterIP", "spec.type"],
        "Event" => &[
            "involvedObject.kind",
            "involvedObject.namespace",
            "involvedObject.name",
            "involvedObject.uid",
            "involvedObject.apiVersion",
            "involvedObject.resourceVersion",
            "involvedObject.fieldPath",
            "regarding.kind",
            "regarding.namespace",
            "regarding.name",
            "regarding.uid",
            "reason",
            "reportingComponent",
            "reportingController",
            "source",
            "type",
        ],
        _ => &[],
    }
}

impl Selector {
    /// The selector of a request.
    pub(crate) fn parse(labels: &str, fields: &str, resource: &Resource) -> Result<Self, Refusal> {
        let mut selector = Selector::default();
        for part in parts(labels) {
            selector.labels.push(requirement(part)?);
        }
        for part in fields.split(',').map(str::trim).filter(|p| !p.is_empty()) {
            let (key, value, wanted) = if let Some((key, value)) = part.split_once("!=") {
                (key, value, false)
            } else if let Some((key, value)) = part.split_once('=') {
                (key, value.strip_prefix('=').unwrap_or(value), true)
            } else {
                return Err(Refusal::bad(format!("invalid field selector: {part:?}")));
            };
            let key = key.trim();
            if !matches!(key, "metadata.name" | "metadata.namespace") && !selectable(resource.kind).contains(&key) {
                return Err(Refusal::bad(format!("field label not supported: {key}")));
            }
            // Events are stored in the core group's form.
            let path = match key.strip_prefix("regarding.") {
                Some(rest) => format!("/involvedObject/{rest}"),
                None if key == "reportingController" => "/reportingComponent".into(),
                None if key == "source" => "/source/component".into(),
                None => format!("/{}", key.replace('.', "/")),
            };
            selector.fields.push((path, value.trim().to_string(), wanted));
        }
        Ok(selector)
    }

    /// Adds `metadata.name=NAME`.
    pub(crate) fn named(mut self, name: &str) -> Self {
        self.fields.push(("/metadata/name".into(), name.into(), true));
        self
    }

    /// Whether an object is meant.
    pub(crate) fn matches(&self, object: &Value) -> bool {
        let labels = object.pointer("/metadata/labels");
        let label = |key: &str| labels.and_then(|l| l.get(key)).and_then(Value::as_str);
        let by_label = self.labels.iter().all(|(key, test)| match (test, label(key)) {
            (Test::In(values), Some(value)) => values.iter().any(|v| v == value),
            (Test::NotIn(values), Some(value)) => values.iter().all(|v| v != value),
            (Test::Exists, value) => value.is_some(),
            (Test::Absent, value) => value.is_none(),
            (Test::In(_), None) => false,
            (Test::NotIn(_), None) => true,
        });
        by_label
            && self.fields.iter().all(|(path, wanted, is)| {
                let equal = match object.pointer(path) {
                    Some(Value::String(text)) => text == wanted,
                    Some(Value::Bool(flag)) => flag.to_string() == *wanted,
                    // An absent truth value is false; an absent text is empty.
                    None | Some(Value::Null) => wanted.is_empty() || wanted == "false",
                    Some(_) => false,
                };
                equal == *is
            })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::resources::find;

    fn check(labels: &str, fields: &str, object: &Value) -> Result<bool, String> {
        let pods = find("", "v1", "pods").expect("pods");
        Selector::parse(labels, fields, pods).map(|s| s.matches(object)).map_err(|r| r.message.into_owned())
    }

    #[test]
    fn labels_and_fields_select() {
        let pod = json!({
            "metadata": {"name": "p", "namespace": "ns", "labels": {"app": "web", "tier": "front", "a.b/c": "1"}},
            "spec": {"nodeName": "n1"},
            "status": {"phase": "Running"},
        });
        let cases = [
            ("", "", true),
            ("app=web", "", true),
            ("app==web", "", true),
            ("app = web", "", true),
            ("app!=web", "", false),
            ("nope!=web", "", true),
            ("app in (api, web),tier", "", true),
            ("app notin (api,web)", "", false),
            ("nope notin (x)", "", true),
            ("!nope", "", true),
            ("!app", "", false),
            ("nope", "", false),
            ("a.b/c=1", "", true),
            ("app=web,tier=back", "", false),
            ("", "metadata.name=p,metadata.namespace=ns", true),
            ("", "metadata.name!=p", false),
            ("", "spec.nodeName=n1,status.phase!=Failed", true),
            ("", "spec.nodeName=", false),
            ("", "status.podIP=", true),
            ("", "spec.hostNetwork=false", true),
        ];
        for (labels, fields, wanted) in cases {
            assert_eq!(check(labels, fields, &pod), Ok(wanted), "{labels:?} {fields:?}");
        }
        for (labels, fields) in
            [("app in web", ""), ("a b", ""), ("app in (", ""), ("=x", ""), ("", "spec.foo=1"), ("", "metadata.name")]
        {
            assert!(check(labels, fields, &pod).is_err(), "{labels:?} {fields:?}");
        }
    }
}
