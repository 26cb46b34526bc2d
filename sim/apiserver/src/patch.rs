//! Patches: JSON patch (RFC 6902), JSON merge patch (RFC 7386) and Kubernetes' strategic merge patch.

use serde_json::{Map, Value};

use crate::lists::{List, list};
use crate::resources::Resource;
use crate::status::Refusal;

/// A patch that was read.
#[derive(Debug)]
pub(crate) enum Patch {
    Json(Vec<Value>),
    Merge(Value),
    Strategic(Value),
}

/// Reads a patch.
pub(crate) fn read(content_type: &str, body: &[u8]) -> Result<Patch, Refusal> {
    let json: Result<Value, _> = serde_json::from_slice(body);
    let json = json.map_err(|e| Refusal::bad(format!("the patch is no JSON: {e}")));
    let object = |value: Value| {
        if value.is_object() { Ok(value) } else { Err(Refusal::bad("the patch is no object")) }
    };
    match content_type {
        "application/json-patch+json" => match json? {
            Value::Array(operations) => Ok(Patch::Json(operations)),
            _ => Err(Refusal::bad("a JSON patch is a list of operations")),
        },
        "application/merge-patch+json" => Ok(Patch::Merge(object(json?)?)),
        "application/strategic-merge-patch+json" => Ok(Patch::Strategic(object(json?)?)),
        other => {
            let message = format!("patches in the form {other:?} are not supported");
            Err(Refusal::new(415, "UnsupportedMediaType", message))
        }
    }
}

impl Patch {
    /// Changes an object.
    pub(crate) fn apply(&self, object: &mut Value, resource: &Resource) -> Result<(), Refusal> {
        match self {
            Patch::Json(operations) => operations.iter().try_for_each(|operation| step(object, operation)),
            Patch::Merge(patch) => {
                fairway_api::merge(object, patch);
                Ok(())
            }
            Patch::Strategic(patch) => merge(object, patch, resource.kind, &mut vec![]),
        }
    }
}

/// The parent of a JSON pointer and the last token.
fn parent<'a>(object: &'a mut Value, pointer: &str) -> Option<(&'a mut Value, String)> {
    let (parent, last) = pointer.rsplit_once('/')?;
    Some((object.pointer_mut(parent)?, last.replace("~1", "/").replace("~0", "~")))
}

fn take(object: &mut Value, pointer: &str) -> Option<Value> {
    match parent(object, pointer)? {
        (Value::Object(map), key) => map.shift_remove(&key),
        (Value::Array(items), index) => {
            let index: usize = index.parse().ok()?;
            (index < items.len()).then(|| items.remove(index))
        }
        _ => None,
    }
}

fn add(object: &mut Value, pointer: &str, value: Value) -> Option<()> {
    if pointer.is_empty() {
        *object = value;
        return Some(());
    }
    match parent(object, pointer)? {
        (Value::Object(map), key) => {
            map.insert(key, value);
        }
        (Value::Array(items), index) => {
            let index = if index == "-" { items.len() } else { index.parse().ok()? };
            if index > items.len() {
                return None;
            }
            items.insert(index, value);
        }
        _ => return None,
    }
    Some(())
}

/// One operation of a JSON patch.
fn step(object: &mut Value, operation: &Value) -> Result<(), Refusal> {
    let text = |field: &str| operation.get(field).and_then(Value::as_str);
    let missing = |field: &str| Refusal::bad(format!("a JSON patch operation without {field:?}"));
    let path = text("path").ok_or_else(|| missing("path"))?;
    let value = || operation.get("value").cloned().ok_or_else(|| missing("value"));
    let nothing = |path: &str| {
        Refusal::new(
            422,
            "Invalid",
            format!("the server rejected our request due to an error in our request: {path:?} does not exist"),
        )
    };
    match text("op").ok_or_else(|| missing("op"))? {
        "add" => add(object, path, value()?).ok_or_else(|| nothing(path)),
        "replace" => {
            let value = value()?;
            *object.pointer_mut(path).ok_or_else(|| nothing(path))? = value;
            Ok(())
        }
        "remove" => take(object, path).map(drop).ok_or_else(|| nothing(path)),
        "test" => {
            let wanted = value()?;
            if object.pointer(path) == Some(&wanted) {
                return Ok(());
            }
            let message = format!(
                "the server rejected our request due to an error in our request: testing path {path:?} value failed"
            );
            Err(Refusal::new(422, "Invalid", message))
        }
        word @ ("move" | "copy") => {
            let from = text("from").ok_or_else(|| missing("from"))?;
            if word == "move" && path.starts_with(&format!("{from}/")) {
                return Err(Refusal::bad(format!("{from:?} cannot move into itself")));
            }
            let moved = if word == "move" { take(object, from) } else { object.pointer(from).cloned() };
            add(object, path, moved.ok_or_else(|| nothing(from))?).ok_or_else(|| nothing(path))
        }
        other => Err(Refusal::bad(format!("unknown JSON patch operation {other:?}"))),
    }
}

const ORDER: &str = "$setElementOrder/";
const DELETE: &str = "$deleteFromPrimitiveList/";

/// What a value is without nulls and directives, for a place where there is nothing to merge with.
fn clean(value: &Value) -> Value {
    match value {
        Value::Object(map) => {
            let kept = map.iter().filter(|(key, value)| !key.starts_with('$') && !value.is_null());
            Value::Object(kept.map(|(key, value)| (key.clone(), clean(value))).collect())
        }
        Value::Array(items) => {
            let directive = |v: &&Value| v.get("$patch").is_none_or(|d| d == "merge");
            Value::Array(items.iter().filter(directive).map(clean).collect())
        }
        other => other.clone(),
    }
}

/// Strategic merge of a patch into a value at a path.
fn merge<'a>(target: &mut Value, patch: &'a Value, kind: &str, path: &mut Vec<&'a str>) -> Result<(), Refusal> {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return Ok(());
    };
    match patch.get("$patch").and_then(Value::as_str) {
        Some("replace") => {
            *target = clean(&Value::Object(patch.clone()));
            return Ok(());
        }
        Some("delete") => {
            *target = Value::Object(Map::new());
            return Ok(());
        }
        None | Some("merge") => {}
        Some(other) => return Err(Refusal::bad(format!("unknown patch directive {other:?}"))),
    }
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    let Some(fields) = target.as_object_mut() else { return Ok(()) };
    for (key, value) in patch {
        if let Some(field) = key.strip_prefix(DELETE) {
            let gone = value.as_array().ok_or_else(|| Refusal::bad(format!("{key} is no list")))?;
            if let Some(items) = fields.get_mut(field).and_then(Value::as_array_mut) {
                items.retain(|item| !gone.contains(item));
            }
        }
    }
    for (key, value) in patch {
        if key.starts_with('$') {
            continue;
        }
        path.push(key);
        match value {
            Value::Null => {
                fields.shift_remove(key);
            }
            Value::Array(items) => {
                let old = fields.entry(key.clone()).or_insert(Value::Array(vec![]));
                merge_list(old, items, kind, path)?;
            }
            // An object that a directive deletes is gone, not empty.
            Value::Object(map) if map.get("$patch").is_some_and(|d| d == "delete") => {
                fields.shift_remove(key);
            }
            Value::Object(_) if !fields.contains_key(key) => {
                fields.insert(key.clone(), clean(value));
            }
            _ => merge(fields.entry(key.clone()).or_insert(Value::Null), value, kind, path)?,
        }
        path.pop();
    }
    for (key, value) in patch {
        if let Some(field) = key.strip_prefix(ORDER) {
            let order = value.as_array().ok_or_else(|| Refusal::bad(format!("{key} is no list")))?;
            if let Some(items) = fields.get_mut(field).and_then(Value::as_array_mut) {
                path.push(field);
                sort(items, order, list(kind, path));
                path.pop();
            }
        }
    }
    if let Some(kept) = patch.get("$retainKeys").and_then(Value::as_array) {
        fields.retain(|key, _| kept.iter().any(|k| k == key));
    }
    Ok(())
}

fn merge_list<'a>(old: &mut Value, items: &'a [Value], kind: &str, path: &mut Vec<&'a str>) -> Result<(), Refusal> {
    let whole = |items: &[Value]| clean(&Value::Array(items.to_vec()));
    let Some(old) = old.as_array_mut() else {
        *old = whole(items);
        return Ok(());
    };
    let replaces = items
        .iter()
        .any(|i| i.as_object().is_some_and(|o| o.len() == 1) && i.get("$patch").is_some_and(|d| d == "replace"));
    match list(kind, path) {
        List::Map(key) if !replaces => {
            for item in items {
                let id = item.get(key).filter(|id| !id.is_null());
                let id = id.ok_or_else(|| Refusal::bad(format!("{}: an element without {key:?}", path.join("."))))?;
                let at = old.iter().position(|o| o.get(key) == Some(id));
                match (at, item.get("$patch").and_then(Value::as_str)) {
                    (at, Some("delete")) => {
                        at.map(|at| old.remove(at));
                    }
                    (Some(at), _) => match old.get_mut(at) {
                        Some(element) => merge(element, item, kind, path)?,
                        None => continue,
                    },
                    (None, _) => old.push(clean(item)),
                }
            }
        }
        List::Set if !replaces => {
            for item in items {
                if !old.contains(item) {
                    old.push(item.clone());
                }
            }
        }
        _ => match whole(items) {
            Value::Array(items) => *old = items,
            _ => old.clear(),
        },
    }
    Ok(())
}

/// Orders a merged list; what the order does not know stands behind.
fn sort(items: &mut [Value], order: &[Value], list: List) {
    let place = |item: &Value| {
        let same = |o: &Value| match list {
            List::Map(key) => o.get(key).is_some() && o.get(key) == item.get(key),
            _ => o == item,
        };
        order.iter().position(same).unwrap_or(usize::MAX)
    };
    items.sort_by_key(place);
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::resources::find;

    fn patched(kind: &str, form: &str, object: &Value, patch: &Value) -> Result<Value, u16> {
        let resource = if kind == "Service" { find("", "v1", "services") } else { find("apps", "v1", "deployments") };
        let mut object = object.clone();
        let patch = read(&format!("application/{form}"), patch.to_string().as_bytes()).map_err(|r| r.code)?;
        patch.apply(&mut object, resource.expect("a resource")).map_err(|r| r.code)?;
        Ok(object)
    }

    #[test]
    fn json_patches() {
        let object = json!({"a": {"b": [1, 2, 3]}, "c/d": "x"});
        let cases = [
            (json!([{"op": "add", "path": "/a/b/-", "value": 4}]), Ok(json!({"a": {"b": [1, 2, 3, 4]}, "c/d": "x"}))),
            (json!([{"op": "add", "path": "/a/b/0", "value": 0}]), Ok(json!({"a": {"b": [0, 1, 2, 3]}, "c/d": "x"}))),
            (json!([{"op": "remove", "path": "/a/b/1"}]), Ok(json!({"a": {"b": [1, 3]}, "c/d": "x"}))),
            (json!([{"op": "replace", "path": "/c~1d", "value": "y"}]), Ok(json!({"a": {"b": [1, 2, 3]}, "c/d": "y"}))),
            (json!([{"op": "move", "from": "/c~1d", "path": "/a/e"}]), Ok(json!({"a": {"b": [1, 2, 3], "e": "x"}}))),
            (
                json!([{"op": "copy", "from": "/a/b/0", "path": "/f"}]),
                Ok(json!({"a": {"b": [1, 2, 3]}, "c/d": "x", "f": 1})),
            ),
            (json!([{"op": "test", "path": "/a/b/0", "value": 1}]), Ok(object.clone())),
            (json!([{"op": "test", "path": "/a/b/0", "value": 2}]), Err(422)),
            (json!([{"op": "remove", "path": "/nope"}]), Err(422)),
            (json!([{"op": "add", "path": "/a/b/9", "value": 0}]), Err(422)),
            (json!([{"op": "move", "from": "/a", "path": "/a/b/0"}]), Err(400)),
            (json!([{"op": "burn", "path": "/a"}]), Err(400)),
            (json!([{"path": "/a"}]), Err(400)),
            (json!({"op": "add"}), Err(400)),
        ];
        for (patch, wanted) in cases {
            assert_eq!(patched("Service", "json-patch+json", &object, &patch), wanted, "{patch}");
        }
    }

    #[test]
    fn strategic_patches() {
        let service = json!({"spec": {
            "ports": [{"port": 80, "name": "web"}, {"port": 443, "name": "tls"}],
            "externalIPs": ["10.0.0.1", "10.0.0.2"], "selector": {"app": "a", "tier": "b"},
        }});
        let ports = |ports: Value| {
            let mut wanted = service.clone();
            wanted["spec"]["ports"] = ports;
            wanted
        };
        let cases = [
            // By key, one element.
            (
                json!({"spec": {"ports": [{"port": 80, "targetPort": 8080}]}}),
                ports(json!([{"port": 80, "name": "web", "targetPort": 8080}, {"port": 443, "name": "tls"}])),
            ),
            // A new one, with an order.
            (
                json!({"spec": {"$setElementOrder/ports": [{"port": 22}, {"port": 443}, {"port": 80}], "ports": [{"port": 22}]}}),
                ports(json!([{"port": 22}, {"port": 443, "name": "tls"}, {"port": 80, "name": "web"}])),
            ),
            // One less.
            (
                json!({"spec": {"ports": [{"$patch": "delete", "port": 443}]}}),
                ports(json!([{"port": 80, "name": "web"}])),
            ),
            // Others instead.
            (json!({"spec": {"ports": [{"$patch": "replace"}, {"port": 1}]}}), ports(json!([{"port": 1}]))),
        ];
        for (patch, wanted) in cases {
            assert_eq!(patched("Service", "strategic-merge-patch+json", &service, &patch), Ok(wanted), "{patch}");
        }
        let plain = |patch: Value| patched("Service", "strategic-merge-patch+json", &service, &patch).expect("a patch");
        // Lists without a key are one value; null removes; a replaced map loses the rest.
        assert_eq!(plain(json!({"spec": {"externalIPs": ["10.0.0.3"]}}))["spec"]["externalIPs"], json!(["10.0.0.3"]));
        assert_eq!(plain(json!({"spec": {"selector": {"tier": null}}}))["spec"]["selector"], json!({"app": "a"}));
        let replaced = plain(json!({"spec": {"selector": {"$patch": "replace", "x": "y"}}}));
        assert_eq!(replaced["spec"]["selector"], json!({"x": "y"}));
        assert_eq!(plain(json!({"spec": {"selector": {"$patch": "delete"}}}))["spec"].get("selector"), None);
        let retained = plain(json!({"spec": {"selector": {"$retainKeys": ["z"], "z": "1"}}}));
        assert_eq!(retained["spec"]["selector"], json!({"z": "1"}));
        let wrong = json!({"spec": {"ports": [{"name": "no key"}]}});
        assert_eq!(patched("Service", "strategic-merge-patch+json", &service, &wrong), Err(400));
        assert_eq!(patched("Service", "strategic-merge-patch+json", &service, &json!([])), Err(400));
        assert_eq!(patched("Service", "x", &service, &json!({})), Err(415));

        let deployment = json!({
            "metadata": {"finalizers": ["a", "b"]},
            "spec": {"template": {"spec": {"containers": [
                {"name": "c", "image": "1", "env": [{"name": "A", "value": "1"}], "args": ["x", "y"]},
            ]}}},
        });
        let patch = json!({
            "metadata": {"finalizers": ["c"], "$deleteFromPrimitiveList/finalizers": ["a"]},
            "spec": {"template": {"spec": {"containers": [
                {"name": "c", "image": "2", "env": [{"name": "B", "value": "2"}], "args": ["z"]}, {"name": "d", "image": "3"},
            ]}}},
        });
        let wanted = json!({
            "metadata": {"finalizers": ["b", "c"]},
            "spec": {"template": {"spec": {"containers": [
                {"name": "c", "image": "2", "env": [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}], "args": ["z"]},
                {"name": "d", "image": "3"},
            ]}}},
        });
        assert_eq!(patched("Deployment", "strategic-merge-patch+json", &deployment, &patch), Ok(wanted));
    }
}
