//! As much of OpenAPI v3 as kubectl needs to know that the server itself checks the fields of objects.

use serde_json::{Map, Value, json};

use crate::resources::{RESOURCES, Resource};

fn base(resource: &Resource) -> String {
    if resource.group.is_empty() { "api/v1".into() } else { format!("apis/{}/{}", resource.group, resource.version) }
}

/// The answer to `/openapi/v3`.
pub(crate) fn index() -> Value {
    let paths: Map<String, Value> = RESOURCES
        .iter()
        .map(|r| (base(r), json!({"serverRelativeURL": format!("/openapi/v3/{}?hash=1", base(r))})))
        .collect();
    json!({"paths": paths})
}

/// The answer to `/openapi/v3/api/v1` and `/openapi/v3/apis/GROUP/VERSION`.
pub(crate) fn document(group: &str, version: &str) -> Option<Value> {
    let of: Vec<&Resource> = RESOURCES.iter().filter(|r| r.group == group && r.version == version).collect();
    let first = of.first()?;
    let parameter =
        |name: &str| json!({"name": name, "in": "query", "schema": {"type": "string", "uniqueItems": true}});
    let mut paths = Map::new();
    for r in &of {
        let namespace = if r.namespaced() { "namespaces/{namespace}/" } else { "" };
        let path = format!("/{}/{namespace}{}/{{name}}", base(first), r.plural);
        let patch = json!({
            "operationId": format!("patch{}", r.kind),
            "parameters": [parameter("dryRun"), parameter("fieldManager"), parameter("fieldValidation"), parameter("force")],
            "responses": {"200": {"description": "OK"}},
            "x-kubernetes-action": "patch",
            "x-kubernetes-group-version-kind": {"group": r.group, "version": r.version, "kind": r.kind},
        });
        paths.insert(path, json!({"patch": patch}));
    }
    let info = json!({"title": "Kubernetes", "version": "v1.33.0"});
    Some(json!({"openapi": "3.0.0", "info": info, "paths": paths, "components": {"schemas": {}}}))
}

/// Whether a path below `/openapi/v3` has a document.
pub(crate) fn of_path(segments: &[&str]) -> Option<Value> {
    match segments {
        [] => Some(index()),
        ["api", version] => document("", version),
        ["apis", group, version] => document(group, version),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_document_of_the_index_is_there() {
        for path in index()["paths"].as_object().expect("paths").keys() {
            let segments: Vec<&str> = path.split('/').collect();
            assert!(of_path(&segments).is_some(), "{path}");
        }
        assert_eq!(of_path(&["apis", "nope", "v1"]), None);
    }
}
