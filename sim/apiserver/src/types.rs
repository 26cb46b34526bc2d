//! Whether an object has the fields and types of its kind.

use k8s_openapi::api::{apps, coordination, core, discovery, networking, rbac};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::status::Refusal;

/// Reads an object as its type and writes it again: what is missing then is no field of it.
fn unknown<T: DeserializeOwned + Serialize>(object: &Value) -> Result<Vec<String>, String> {
    let typed: Result<T, _> = serde_path_to_error::deserialize(object);
    let typed = typed.map_err(|e| format!("{}: {}", e.path(), e.inner()))?;
    let again = serde_json::to_value(&typed).map_err(|e| e.to_string())?;
    let mut missing = vec![];
    compare(object, &again, "", &mut missing);
    Ok(missing)
}

fn compare(sent: &Value, known: &Value, path: &str, missing: &mut Vec<String>) {
    match (sent, known) {
        (Value::Object(sent), Value::Object(known)) => {
            for (key, value) in sent.iter().filter(|(_, v)| !v.is_null()) {
                let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                match known.get(key) {
                    Some(known) => compare(value, known, &path, missing),
                    None => missing.push(path),
                }
            }
        }
        (Value::Array(sent), Value::Array(known)) => {
            for (i, (sent, known)) in sent.iter().zip(known).enumerate() {
                compare(sent, known, &format!("{path}[{i}]"), missing);
            }
        }
        _ => {}
    }
}

/// Fields that the kind does not have.
///
/// # Errors
/// If a field has a type that is not that of the kind.
pub(crate) fn check(kind: &str, object: &Value) -> Result<Vec<String>, Refusal> {
    let unknown = match kind {
        "ConfigMap" => unknown::<core::v1::ConfigMap>(object),
        "Endpoints" => unknown::<core::v1::Endpoints>(object),
        "Event" => unknown::<core::v1::Event>(object),
        "Namespace" => unknown::<core::v1::Namespace>(object),
        "Node" => unknown::<core::v1::Node>(object),
        "Pod" => unknown::<core::v1::Pod>(object),
        "Secret" => unknown::<core::v1::Secret>(object),
        "Service" => unknown::<core::v1::Service>(object),
        "ServiceAccount" => unknown::<core::v1::ServiceAccount>(object),
        "DaemonSet" => unknown::<apps::v1::DaemonSet>(object),
        "Deployment" => unknown::<apps::v1::Deployment>(object),
        "ReplicaSet" => unknown::<apps::v1::ReplicaSet>(object),
        "StatefulSet" => unknown::<apps::v1::StatefulSet>(object),
        "Lease" => unknown::<coordination::v1::Lease>(object),
        "EndpointSlice" => unknown::<discovery::v1::EndpointSlice>(object),
        "NetworkPolicy" => unknown::<networking::v1::NetworkPolicy>(object),
        "ClusterRole" => unknown::<rbac::v1::ClusterRole>(object),
        "ClusterRoleBinding" => unknown::<rbac::v1::ClusterRoleBinding>(object),
        "Role" => unknown::<rbac::v1::Role>(object),
        "RoleBinding" => unknown::<rbac::v1::RoleBinding>(object),
        _ => Ok(vec![]),
    };
    unknown.map_err(|reason| Refusal::bad(format!("{kind} in version \"v1\" cannot be handled as a {kind}: {reason}")))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::resources::RESOURCES;

    #[test]
    fn unknown_fields_are_named_and_wrong_types_refused() {
        let service = json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": "s", "labels": null},
            "spec": {"ports": [{"port": 80, "targetPort": "web"}, {"port": 81, "porrt": 1}], "selectr": {}},
        });
        assert_eq!(check("Service", &service), Ok(vec!["spec.ports[1].porrt".to_string(), "spec.selectr".into()]));
        let wrong = json!({"apiVersion": "v1", "kind": "Service", "metadata": {}, "spec": {"ports": [{"port": "80"}]}});
        let refusal = check("Service", &wrong).expect_err("a text is no port");
        assert_eq!(refusal.code, 400);
        assert!(refusal.message.contains("spec.ports[0].port"), "{}", refusal.message);
    }

    #[test]
    fn every_kind_has_its_type() {
        for r in RESOURCES.iter().filter(|r| r.group != "events.k8s.io") {
            let object =
                json!({"apiVersion": r.api_version(), "kind": r.kind, "metadata": {"name": "x"}, "nonsense": 1});
            // Some kinds need more fields than a name; then they are refused, which tells that they are read.
            let read = check(r.kind, &object);
            assert!(read.is_err() || read == Ok(vec!["nonsense".into()]), "{}: {read:?}", r.kind);
        }
    }
}
