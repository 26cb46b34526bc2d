//! Which lists are merged, and by which key.

/// How a list is merged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum List {
    /// It is one value.
    Atomic,
    /// Its elements are texts, each once.
    Set,
    /// Its elements are objects that are told apart by a field.
    Map(&'static str),
}

/// The lists of a pod's spec, by the path inside it.
fn pod_spec(path: &[&str]) -> List {
    match path {
        ["containers" | "initContainers" | "ephemeralContainers" | "volumes" | "imagePullSecrets"] => List::Map("name"),
        ["hostAliases"] => List::Map("ip"),
        ["topologySpreadConstraints"] => List::Map("topologyKey"),
        ["containers" | "initContainers" | "ephemeralContainers", field] => match *field {
            "ports" => List::Map("containerPort"),
            "env" => List::Map("name"),
            "volumeMounts" => List::Map("mountPath"),
            "volumeDevices" => List::Map("devicePath"),
            _ => List::Atomic,
        },
        _ => List::Atomic,
    }
}

/// How the list at a path of a kind is merged (the API's `patchStrategy` and `patchMergeKey`). Elements of lists are no
/// part of the path.
pub(crate) fn list(kind: &str, path: &[&str]) -> List {
    match (kind, path) {
        (_, ["metadata", "ownerReferences"]) => List::Map("uid"),
        (_, ["metadata", "finalizers"]) | ("Node", ["spec", "podCIDRs"]) => List::Set,
        (_, ["status", "conditions"]) | ("Node", ["status", "addresses"]) => List::Map("type"),
        ("Pod", ["status", "podIPs" | "hostIPs"]) => List::Map("ip"),
        ("Service", ["spec", "ports"]) => List::Map("port"),
        ("ServiceAccount", ["secrets"]) => List::Map("name"),
        ("Pod", ["spec", rest @ ..]) => pod_spec(rest),
        (_, ["spec", "template", "spec", rest @ ..]) => pod_spec(rest),
        _ => List::Atomic,
    }
}
