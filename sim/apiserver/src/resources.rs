//! The resources that are served, and the discovery documents that say so.

use serde_json::{Value, json};

/// One resource of one group and version.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Resource {
    /// API group; empty for the core group.
    pub(crate) group: &'static str,
    /// The only version of the group.
    pub(crate) version: &'static str,
    /// Name in paths.
    pub(crate) plural: &'static str,
    /// Name of one.
    pub(crate) singular: &'static str,
    /// `kind` of its objects; also the kind under which they are stored.
    pub(crate) kind: &'static str,
    /// Names for those who type.
    pub(crate) short: &'static [&'static str],
    /// Whether `kubectl get all` shows it.
    pub(crate) all: bool,
    /// Subresources.
    pub(crate) sub: &'static [&'static str],
}

const fn resource(
    group: &'static str,
    plural: &'static str,
    singular: &'static str,
    kind: &'static str,
    short: &'static [&'static str],
) -> Resource {
    Resource { group, version: "v1", plural, singular, kind, short, all: false, sub: &[] }
}

/// All of them, by group.
pub(crate) const RESOURCES: &[Resource] = &[
    resource("", "configmaps", "configmap", "ConfigMap", &["cm"]),
    resource("", "endpoints", "endpoints", "Endpoints", &["ep"]),
    resource("", "events", "event", "Event", &["ev"]),
    Resource { sub: &["status"], ..resource("", "namespaces", "namespace", "Namespace", &["ns"]) },
    Resource { sub: &["status"], ..resource("", "nodes", "node", "Node", &["no"]) },
    Resource { sub: &["status", "eviction"], all: true, ..resource("", "pods", "pod", "Pod", &["po"]) },
    resource("", "secrets", "secret", "Secret", &[]),
    resource("", "serviceaccounts", "serviceaccount", "ServiceAccount", &["sa"]),
    Resource { sub: &["status"], all: true, ..resource("", "services", "service", "Service", &["svc"]) },
    Resource { sub: &["status"], all: true, ..resource("apps", "daemonsets", "daemonset", "DaemonSet", &["ds"]) },
    Resource {
        sub: &["status", "scale"],
        all: true,
        ..resource("apps", "deployments", "deployment", "Deployment", &["deploy"])
    },
    Resource {
        sub: &["status", "scale"],
        all: true,
        ..resource("apps", "replicasets", "replicaset", "ReplicaSet", &["rs"])
    },
    Resource {
        sub: &["status", "scale"],
        all: true,
        ..resource("apps", "statefulsets", "statefulset", "StatefulSet", &["sts"])
    },
    resource("coordination.k8s.io", "leases", "lease", "Lease", &[]),
    resource("discovery.k8s.io", "endpointslices", "endpointslice", "EndpointSlice", &[]),
    resource("events.k8s.io", "events", "event", "Event", &["ev"]),
    resource("networking.k8s.io", "networkpolicies", "networkpolicy", "NetworkPolicy", &["netpol"]),
    resource("rbac.authorization.k8s.io", "clusterrolebindings", "clusterrolebinding", "ClusterRoleBinding", &[]),
    resource("rbac.authorization.k8s.io", "clusterroles", "clusterrole", "ClusterRole", &[]),
    resource("rbac.authorization.k8s.io", "rolebindings", "rolebinding", "RoleBinding", &[]),
    resource("rbac.authorization.k8s.io", "roles", "role", "Role", &[]),
];

impl Resource {
    /// Whether its objects have a namespace.
    pub(crate) fn namespaced(&self) -> bool {
        !fairway_api::cluster_scoped(self.kind)
    }

    /// `apiVersion` of its objects.
    pub(crate) fn api_version(&self) -> String {
        if self.group.is_empty() { self.version.into() } else { format!("{}/{}", self.group, self.version) }
    }

    /// The resource as error messages name it: `services`, `deployments.apps`.
    pub(crate) fn qualified(&self) -> String {
        if self.group.is_empty() { self.plural.into() } else { format!("{}.{}", self.plural, self.group) }
    }
}

/// The resource of a path.
pub(crate) fn find(group: &str, version: &str, plural: &str) -> Option<&'static Resource> {
    RESOURCES.iter().find(|r| r.group == group && r.version == version && r.plural == plural)
}

/// Group, kind and version of a subresource's own objects, where they differ from the resource's.
fn sub_kind(resource: &Resource, sub: &str) -> (&'static str, &'static str, &'static str) {
    match sub {
        "scale" => ("autoscaling", "v1", "Scale"),
        "eviction" => ("policy", "v1", "Eviction"),
        _ => (resource.group, resource.version, resource.kind),
    }
}

/// What can be done with a subresource.
fn sub_verbs(sub: &str) -> Value {
    if sub == "eviction" { json!(["create"]) } else { json!(["get", "patch", "update"]) }
}

const VERBS: [&str; 8] = ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];

/// `APIVersions`, the answer to `/api`.
pub(crate) fn core_versions(address: &str) -> Value {
    json!({
        "kind": "APIVersions",
        "versions": ["v1"],
        "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": address}],
    })
}

/// The groups other than the core group, each once.
pub(crate) fn groups() -> Vec<&'static str> {
    let mut groups: Vec<_> = RESOURCES.iter().map(|r| r.group).filter(|g| !g.is_empty()).collect();
    groups.dedup();
    groups
}

/// One `APIGroup`, if it exists.
pub(crate) fn group(name: &str) -> Option<Value> {
    let version = json!({"groupVersion": format!("{name}/v1"), "version": "v1"});
    groups().contains(&name).then(|| {
        json!({"kind": "APIGroup", "apiVersion": "v1", "name": name, "versions": [version], "preferredVersion": version})
    })
}

/// `APIGroupList`, the answer to `/apis`.
pub(crate) fn group_list() -> Value {
    let groups: Vec<Value> = groups().into_iter().filter_map(group).collect();
    json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})
}

/// `APIResourceList`, the answer to `/api/v1` and `/apis/GROUP/v1`; `None` for an unknown group or version.
pub(crate) fn resource_list(group: &str, version: &str) -> Option<Value> {
    let of: Vec<_> = RESOURCES.iter().filter(|r| r.group == group && r.version == version).collect();
    let first = of.first()?;
    let mut list = vec![];
    for r in &of {
        let mut entry = json!({
            "name": r.plural, "singularName": r.singular, "namespaced": r.namespaced(), "kind": r.kind, "verbs": VERBS,
        });
        if !r.short.is_empty() {
            entry["shortNames"] = json!(r.short);
        }
        if r.all {
            entry["categories"] = json!(["all"]);
        }
        list.push(entry);
        for sub in r.sub {
            let (group, version, kind) = sub_kind(r, sub);
            let mut entry = json!({
                "name": format!("{}/{sub}", r.plural), "singularName": "", "namespaced": r.namespaced(), "kind": kind,
                "verbs": sub_verbs(sub),
            });
            if kind != r.kind {
                entry["group"] = json!(group);
                entry["version"] = json!(version);
            }
            list.push(entry);
        }
    }
    Some(json!({
        "kind": "APIResourceList", "apiVersion": "v1", "groupVersion": first.api_version(), "resources": list,
    }))
}

/// `APIGroupDiscoveryList` (aggregated discovery): everything below `/api` or `/apis` in one answer.
pub(crate) fn aggregated(core: bool) -> Value {
    let names = if core { vec![""] } else { groups() };
    let items: Vec<Value> = names
        .into_iter()
        .map(|name| {
            let of = RESOURCES.iter().filter(|r| r.group == name);
            let resources: Vec<Value> = of
                .map(|r| {
                    let subs: Vec<Value> = r.sub.iter().map(|sub| {
                        let (group, version, kind) = sub_kind(r, sub);
                        json!({
                            "subresource": sub, "verbs": sub_verbs(sub),
                            "responseKind": {"group": group, "version": version, "kind": kind},
                        })
                    }).collect();
                    json!({
                        "resource": r.plural, "singularResource": r.singular, "verbs": VERBS, "shortNames": r.short,
                        "responseKind": {"group": r.group, "version": r.version, "kind": r.kind},
                        "scope": if r.namespaced() { "Namespaced" } else { "Cluster" },
                        "categories": if r.all { json!(["all"]) } else { json!([]) },
                        "subresources": subs,
                    })
                })
                .collect();
            let metadata = if name.is_empty() { json!({"creationTimestamp": null}) } else { json!({"name": name, "creationTimestamp": null}) };
            json!({"metadata": metadata, "versions": [{"version": "v1", "resources": resources, "freshness": "Current"}]})
        })
        .collect();
    json!({"kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2", "metadata": {}, "items": items})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_group_is_listed_once_and_every_resource_is_found() {
        let mut groups = groups();
        let count = groups.len();
        groups.sort_unstable();
        groups.dedup();
        assert_eq!(groups.len(), count, "RESOURCES is not ordered by group");
        for r in RESOURCES {
            assert_eq!(find(r.group, r.version, r.plural), Some(r));
            let list = resource_list(r.group, r.version).expect("a list");
            assert_eq!(list["groupVersion"], r.api_version());
        }
    }
}
