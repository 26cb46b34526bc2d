//! A kubeconfig for a server.

use serde_json::json;

/// A kubeconfig with one context, as JSON, which is YAML. `url` as `http://127.0.0.1:6443`.
pub fn kubeconfig(url: &str, token: Option<&str>) -> String {
    let user = token.map_or(json!({}), |token| json!({"token": token}));
    let config = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "fairway",
        "clusters": [{"name": "fairway", "cluster": {"server": url}}],
        "users": [{"name": "fairway", "user": user}],
        "contexts": [{"name": "fairway", "context": {"cluster": "fairway", "user": "fairway", "namespace": "default"}}],
    });
    format!("{config:#}\n")
}
