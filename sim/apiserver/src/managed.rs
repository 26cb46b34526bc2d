//! Server-side apply: who applied which field.
//!
//! An applied configuration is merged into the object. Its manager owns the fields in it; a field that it owned and
//! leaves out now is removed, unless another manager applied it as well. Two managers that want different values for a
//! field are in conflict. Simpler than the real thing: only applying makes an owner, other writes merely end the
//! ownership of what they change.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use crate::lists::{List, list};
use crate::status::Refusal;

/// A step to a field: `f:name`, `k:{"key":value}` or `v:value`, as in `fieldsV1`.
type Step = String;
/// The steps to a field.
type Path = Vec<Step>;

/// The fields a configuration says something about. Those that identify the object are nobody's.
fn leaves(kind: &str, applied: &Value) -> BTreeSet<Path> {
    let mut all = BTreeSet::new();
    collect(kind, applied, &mut vec![], &mut vec![], &mut all);
    let identity = |path: &Path| match path.first().map(String::as_str) {
        Some("f:apiVersion" | "f:kind") => true,
        Some("f:metadata") => matches!(
            path.get(1).map(String::as_str),
            Some("f:name" | "f:namespace" | "f:uid" | "f:resourceVersion" | "f:creationTimestamp" | "f:managedFields")
        ),
        _ => false,
    };
    all.into_iter().filter(|path| !identity(path)).collect()
}

fn element(list: List, item: &Value) -> Option<Step> {
    match list {
        List::Atomic => None,
        List::Set => Some(format!("v:{item}")),
        List::Map(key) => item.get(key).map(|id| format!("k:{}", json!({key: id}))),
    }
}

fn collect<'a>(kind: &str, value: &'a Value, names: &mut Vec<&'a str>, path: &mut Path, all: &mut BTreeSet<Path>) {
    match value {
        Value::Object(map) if !map.is_empty() => {
            for (key, value) in map {
                names.push(key);
                path.push(format!("f:{key}"));
                collect(kind, value, names, path, all);
                path.pop();
                names.pop();
            }
        }
        Value::Array(items) if list(kind, names) != List::Atomic && !items.is_empty() => {
            for item in items {
                let Some(step) = element(list(kind, names), item) else { continue };
                path.push(step);
                collect(kind, item, names, path, all);
                path.pop();
            }
        }
        _ => {
            all.insert(path.clone());
        }
    }
}

fn index(items: &[Value], step: &str) -> Option<usize> {
    if let Some(value) = step.strip_prefix("v:") {
        let value: Value = serde_json::from_str(value).ok()?;
        return items.iter().position(|item| *item == value);
    }
    let key: Map<String, Value> = serde_json::from_str(step.strip_prefix("k:")?).ok()?;
    items.iter().position(|item| key.iter().all(|(k, v)| item.get(k) == Some(v)))
}

fn find<'a>(value: &'a Value, path: &[Step]) -> Option<&'a Value> {
    path.iter().try_fold(value, |value, step| match value {
        Value::Object(map) => map.get(step.strip_prefix("f:")?),
        Value::Array(items) => items.get(index(items, step)?),
        _ => None,
    })
}

/// Removes a field, and what became empty by that.
fn remove(value: &mut Value, path: &[Step]) {
    let Some((step, rest)) = path.split_first() else { return };
    let empty = |v: &Value| v.as_object().is_some_and(Map::is_empty) || v.as_array().is_some_and(Vec::is_empty);
    match value {
        Value::Object(map) => {
            let Some(key) = step.strip_prefix("f:") else { return };
            if rest.is_empty() {
                map.shift_remove(key);
            } else if let Some(inner) = map.get_mut(key) {
                remove(inner, rest);
                if empty(inner) {
                    map.shift_remove(key);
                }
            }
        }
        Value::Array(items) => {
            let Some(at) = index(items, step) else { return };
            let Some(item) = items.get_mut(at) else { return };
            remove(item, rest);
            // An element of which only its key is left goes with the key.
            if rest.is_empty() || empty(item) {
                items.remove(at);
            }
        }
        _ => {}
    }
}

/// Merges an applied configuration into a value.
fn merge<'a>(kind: &str, target: &mut Value, applied: &'a Value, names: &mut Vec<&'a str>) {
    match applied {
        Value::Object(map) => {
            if !target.is_object() {
                *target = json!({});
            }
            let Some(fields) = target.as_object_mut() else { return };
            for (key, value) in map {
                names.push(key);
                merge(kind, fields.entry(key.clone()).or_insert(Value::Null), value, names);
                names.pop();
            }
        }
        Value::Array(items) if list(kind, names) != List::Atomic && target.is_array() => {
            let Some(old) = target.as_array_mut() else { return };
            for item in items {
                let at = element(list(kind, names), item).and_then(|step| index(old, &step));
                match at.and_then(|at| old.get_mut(at)) {
                    Some(element) => merge(kind, element, item, names),
                    None => old.push(item.clone()),
                }
            }
        }
        other => *target = other.clone(),
    }
}

/// Paths as `fieldsV1`.
fn to_fields(paths: &BTreeSet<Path>) -> Value {
    let mut root = Map::new();
    for path in paths {
        let mut at = &mut root;
        for step in path {
            let next = at.entry(step.clone()).or_insert_with(|| json!({}));
            let Value::Object(inner) = next else { break };
            at = inner;
        }
    }
    Value::Object(root)
}

fn from_fields(fields: &Value, path: &mut Path, all: &mut BTreeSet<Path>) {
    match fields.as_object() {
        Some(map) if !map.is_empty() => {
            for (step, inner) in map {
                path.push(step.clone());
                from_fields(inner, path, all);
                path.pop();
            }
        }
        _ => {
            all.insert(path.clone());
        }
    }
}

/// One manager and what it applied.
struct Owner {
    entry: Value,
    paths: BTreeSet<Path>,
}

fn owners(object: &Value) -> Vec<Owner> {
    let entries = object.pointer("/metadata/managedFields").and_then(Value::as_array);
    entries
        .into_iter()
        .flatten()
        .map(|entry| {
            let mut paths = BTreeSet::new();
            from_fields(entry.get("fieldsV1").unwrap_or(&Value::Null), &mut vec![], &mut paths);
            Owner { entry: entry.clone(), paths }
        })
        .collect()
}

fn set_owners(object: &mut Value, owners: Vec<Owner>) {
    let entries: Vec<Value> = owners
        .into_iter()
        .filter(|o| !o.paths.is_empty())
        .map(|mut owner| {
            owner.entry["fieldsV1"] = to_fields(&owner.paths);
            owner.entry
        })
        .collect();
    let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) else { return };
    if entries.is_empty() {
        metadata.shift_remove("managedFields");
    } else {
        metadata.insert("managedFields".into(), json!(entries));
    }
}

/// Who applies, and how.
pub(crate) struct Manager<'a> {
    pub(crate) name: &'a str,
    /// Takes what others own instead of being refused.
    pub(crate) force: bool,
    pub(crate) api_version: &'a str,
    /// Empty for the object itself.
    pub(crate) subresource: &'a str,
    /// RFC 3339.
    pub(crate) now: &'a str,
}

/// Applies a configuration to an object; `object` may be empty.
pub(crate) fn apply(kind: &str, object: &mut Value, applied: &Value, manager: &Manager<'_>) -> Result<(), Refusal> {
    if applied.pointer("/metadata/managedFields").is_some_and(|m| m.as_array().is_some_and(|l| !l.is_empty())) {
        return Err(Refusal::bad("metadata.managedFields must be nil"));
    }
    let own = leaves(kind, applied);
    let mut owners = owners(object);
    let is_own = |owner: &Owner| {
        let text = |field: &str| owner.entry.get(field).and_then(Value::as_str).unwrap_or_default();
        text("manager") == manager.name && text("operation") == "Apply" && text("subresource") == manager.subresource
    };
    let mut conflicts = vec![];
    for owner in owners.iter_mut().filter(|o| !is_own(o)) {
        let lost: Vec<Path> =
            own.iter().filter(|p| owner.paths.contains(*p) && find(object, p) != find(applied, p)).cloned().collect();
        let by = owner.entry.get("manager").and_then(Value::as_str).unwrap_or_default().to_string();
        for path in lost {
            let field: String = path.iter().map(|s| format!(".{}", s.get(2..).unwrap_or_default())).collect();
            conflicts.push((by.clone(), field));
            owner.paths.remove(&path);
        }
    }
    if !manager.force && !conflicts.is_empty() {
        let list: Vec<String> = conflicts.iter().map(|(by, field)| format!("conflict with {by:?}: {field}")).collect();
        let message = format!("Apply failed with {} conflict(s): {}", conflicts.len(), list.join(", "));
        let mut refusal = Refusal::new(409, "Conflict", message);
        let cause = |(by, field): &(String, String)| json!({"reason": "FieldManagerConflict", "message": format!("conflict with {by:?}"), "field": field});
        refusal.details = json!({"causes": conflicts.iter().map(cause).collect::<Vec<_>>()});
        return Err(refusal);
    }
    let before: BTreeSet<Path> = owners.iter().filter(|o| is_own(o)).flat_map(|o| o.paths.clone()).collect();
    let others: BTreeSet<Path> = owners.iter().filter(|o| !is_own(o)).flat_map(|o| o.paths.clone()).collect();
    merge(kind, object, applied, &mut vec![]);
    // What identifies an element goes last, or the rest of it would not be found.
    let identifies = |path: &&Path| match path.as_slice() {
        [.., element, field] => {
            let key = element.strip_prefix("k:").and_then(|k| serde_json::from_str::<Map<String, Value>>(k).ok());
            key.is_some_and(|k| field.strip_prefix("f:").is_some_and(|f| k.contains_key(f)))
        }
        _ => false,
    };
    let (keys, rest): (Vec<&Path>, Vec<&Path>) =
        before.difference(&own).filter(|p| !others.contains(*p)).partition(identifies);
    for path in rest.into_iter().chain(keys) {
        remove(object, path);
    }
    owners.retain(|o| !is_own(o));
    let mut entry = json!({
        "manager": manager.name, "operation": "Apply", "apiVersion": manager.api_version, "time": manager.now,
        "fieldsType": "FieldsV1",
    });
    if !manager.subresource.is_empty() {
        entry["subresource"] = json!(manager.subresource);
    }
    owners.push(Owner { entry, paths: own });
    set_owners(object, owners);
    Ok(())
}

/// Another write changed an object: whoever applied what changed no longer owns it.
pub(crate) fn written(before: &Value, after: &mut Value) {
    let mut owners = owners(before);
    if owners.is_empty() {
        return;
    }
    for owner in &mut owners {
        owner.paths.retain(|path| find(before, path) == find(after, path));
    }
    set_owners(after, owners);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manager(name: &str, force: bool) -> Manager<'_> {
        Manager { name, force, api_version: "v1", subresource: "", now: "2026-01-01T00:00:00Z" }
    }

    fn check(object: &mut Value, name: &str, force: bool, spec: Value) -> Result<Value, String> {
        let applied = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s"}, "spec": spec});
        apply("Service", object, &applied, &manager(name, force)).map_err(|r| r.message.into_owned())?;
        Ok(object["spec"].clone())
    }

    #[test]
    fn fields_belong_to_those_who_apply_them() {
        let mut object = json!({});
        let first =
            json!({"type": "ClusterIP", "ports": [{"port": 1}, {"port": 2, "name": "b"}], "selector": {"a": "b"}});
        assert_eq!(check(&mut object, "one", false, first.clone()), Ok(first.clone()));
        // The same again changes nothing.
        let once = object.clone();
        assert_eq!(check(&mut object, "one", false, first), Ok(once["spec"].clone()));
        assert_eq!(object, once);
        // Another adds, and shares what is equal.
        let second = json!({"ports": [{"port": 3}], "selector": {"a": "b"}});
        let merged = json!({"type": "ClusterIP", "ports": [{"port": 1}, {"port": 2, "name": "b"}, {"port": 3}], "selector": {"a": "b"}});
        assert_eq!(check(&mut object, "two", false, second), Ok(merged));
        // What differs is a conflict, unless it is forced.
        let wrong = check(&mut object, "two", false, json!({"type": "NodePort", "ports": [{"port": 3}]}));
        assert_eq!(wrong, Err("Apply failed with 1 conflict(s): conflict with \"one\": .spec.type".into()));
        let forced =
            check(&mut object, "two", true, json!({"type": "NodePort", "ports": [{"port": 3}]})).expect("forced");
        assert_eq!(forced["type"], "NodePort");
        // What is left out goes, but not what the other has; that is why the selector is still there.
        assert_eq!(forced["selector"], json!({"a": "b"}));
        let less = check(&mut object, "one", false, json!({"ports": [{"port": 1}]})).expect("less");
        assert_eq!(less, json!({"type": "NodePort", "ports": [{"port": 1}, {"port": 3}]}));
    }

    #[test]
    fn another_write_ends_ownership() {
        let mut object = json!({});
        check(&mut object, "one", false, json!({"type": "ClusterIP", "selector": {"a": "b"}})).expect("applied");
        let before = object.clone();
        object["spec"]["type"] = json!("NodePort");
        written(&before, &mut object);
        // Nobody owns the type now, so leaving it out does not remove it, and another may set it.
        assert_eq!(
            check(&mut object, "two", false, json!({"type": "LoadBalancer"})).expect("free")["type"],
            "LoadBalancer"
        );
        let left = check(&mut object, "one", false, json!({})).expect("nothing");
        assert_eq!(left, json!({"type": "LoadBalancer"}));
    }
}
