//! The arrows of docs/architecture.md: which crate may use which. A wall that no test checks is a wish.

use std::collections::{BTreeMap, BTreeSet};

use cargo_metadata::{DependencyKind, Metadata, MetadataCommand, PackageId};

/// Crate (by folder) and the crates of ours that it may use. Everything not listed is forbidden.
const MAY_USE: &[(&str, &[&str])] = &[
    (
        ".",
        &[
            "backends/admin",
            "backends/cri",
            "backends/kube",
            "backends/node",
            "engine/agent",
            "engine/decode",
            "engine/desired",
            "engine/objects",
            "engine/record",
            "sim/api",
            "sim/apiserver",
            "sim/lab",
            "sim/mconnect",
            "sim/scenario",
            "sim/world",
            "xcluster/uml",
        ],
    ),
    ("backends/admin", &["engine/bgp", "engine/desired"]),
    ("backends/bfd", &["engine/bfd"]),
    ("backends/bgp", &["engine/bgp"]),
    ("backends/cri", &[]),
    ("backends/cni", &["engine/desired"]),
    ("backends/filter", &["backends/netlink", "engine/desired"]),
    ("backends/ipvs", &["backends/netlink", "engine/desired"]),
    ("backends/kube", &["engine/decode", "engine/objects", "engine/publish"]),
    ("backends/legacy", &["backends/netlink"]),
    ("backends/netlink", &[]),
    (
        "backends/node",
        &[
            "backends/admin",
            "backends/bfd",
            "backends/bgp",
            "backends/cni",
            "backends/filter",
            "backends/ipvs",
            "backends/legacy",
            "backends/route",
            "engine/agent",
            "engine/bgp",
            "engine/desired",
            "engine/objects",
            "engine/record",
        ],
    ),
    ("backends/route", &["backends/netlink", "engine/desired"]),
    ("benches", &["engine/objects"]),
    (
        "engine/agent",
        &[
            "engine/bfd",
            "engine/bgp",
            "engine/compute",
            "engine/desired",
            "engine/objects",
            "engine/publish",
            "engine/reconcile",
        ],
    ),
    ("engine/bfd", &[]),
    ("engine/bgp", &["engine/desired"]),
    ("engine/compute", &["engine/desired", "engine/objects"]),
    ("engine/decode", &["engine/objects", "engine/publish"]),
    ("engine/desired", &[]),
    ("engine/objects", &[]),
    ("engine/publish", &["engine/objects"]),
    ("engine/reconcile", &["engine/desired"]),
    ("engine/record", &["engine/agent", "engine/objects"]),
    ("sim/api", &["engine/decode", "engine/objects"]),
    ("sim/apiserver", &["engine/decode", "sim/api"]),
    ("sim/kernel", &["engine/desired"]),
    (
        "sim/lab",
        &[
            "backends/filter",
            "backends/ipvs",
            "backends/node",
            "backends/route",
            "engine/agent",
            "engine/bgp",
            "engine/desired",
            "engine/objects",
            "sim/api",
            "sim/mconnect",
            "sim/scenario",
            "sim/stage",
        ],
    ),
    ("sim/mconnect", &[]),
    ("sim/oracle", &[]),
    ("sim/scenario", &["sim/mconnect"]),
    (
        "sim/stage",
        &["engine/agent", "engine/bgp", "engine/decode", "engine/desired", "engine/objects", "sim/api", "sim/scenario"],
    ),
    (
        "sim/world",
        &[
            "engine/agent",
            "engine/bgp",
            "engine/desired",
            "engine/objects",
            "engine/record",
            "sim/api",
            "sim/kernel",
            "sim/mconnect",
            "sim/oracle",
            "sim/scenario",
            "sim/stage",
        ],
    ),
    ("xcluster/uml", &[]),
];

/// Crates of others that only these folders may name.
const ONLY_IN: &[(&str, &[&str])] = &[
    ("clap", &["."]),
    ("axum", &["backends/node"]),
    ("hyper", &["sim/apiserver"]),
    ("k8s-openapi", &["engine/decode", "sim/api", "sim/apiserver", "sim/oracle"]),
    ("kube", &["backends/kube"]),
    ("netns-rs", &["sim/lab"]),
    ("rtnetlink", &["backends/route"]),
    (
        "tokio",
        &[
            ".",
            "backends/admin",
            "backends/bfd",
            "backends/bgp",
            "backends/cri",
            "backends/kube",
            "backends/node",
            "sim/apiserver",
            "sim/lab",
            "sim/mconnect",
        ],
    ),
    ("tonic", &["backends/admin", "backends/cri"]),
];

/// What must not be reachable from a pure crate, however indirectly.
const IMPURE: &[&str] = &["tokio", "mio", "socket2", "rand", "getrandom", "chrono", "time", "libc", "nix", "rustix"];

/// Crates whose whole tree is `no_std`; `decode` reads JSON with std but does no I/O.
const PURE: &[&str] = &[
    "engine/agent",
    "engine/bfd",
    "engine/bgp",
    "engine/compute",
    "engine/desired",
    "engine/objects",
    "engine/publish",
    "engine/reconcile",
    "engine/record",
];

fn metadata() -> Metadata {
    // Not offline: a build fetches only this platform's crates, the metadata names those of all.
    MetadataCommand::new().other_options(["--locked".to_string()]).exec().expect("cargo metadata")
}

/// Workspace members: folder to package id.
fn members(metadata: &Metadata) -> BTreeMap<String, PackageId> {
    let root = &metadata.workspace_root;
    metadata
        .workspace_packages()
        .into_iter()
        .map(|p| {
            let folder = p.manifest_path.parent().expect("a manifest lies in a folder");
            let folder = folder.strip_prefix(root).expect("members lie below the root").as_str();
            (if folder.is_empty() { "." } else { folder }.to_string(), p.id.clone())
        })
        .collect()
}

/// Normal dependencies of every package by id.
fn edges(metadata: &Metadata) -> BTreeMap<PackageId, BTreeSet<PackageId>> {
    let resolve = metadata.resolve.as_ref().expect("metadata has a resolution");
    resolve
        .nodes
        .iter()
        .map(|node| {
            let normal = node.deps.iter().filter(|d| d.dep_kinds.iter().any(|k| k.kind == DependencyKind::Normal));
            (node.id.clone(), normal.map(|d| d.pkg.clone()).collect())
        })
        .collect()
}

fn reachable(edges: &BTreeMap<PackageId, BTreeSet<PackageId>>, from: &PackageId) -> BTreeSet<PackageId> {
    let mut seen = BTreeSet::new();
    let mut todo = vec![from.clone()];
    while let Some(id) = todo.pop() {
        for next in edges.get(&id).into_iter().flatten() {
            if seen.insert(next.clone()) {
                todo.push(next.clone());
            }
        }
    }
    seen
}

#[test]
fn every_arrow_between_our_crates_is_allowed() {
    let metadata = metadata();
    let members = members(&metadata);
    let edges = edges(&metadata);
    let folder_of: BTreeMap<_, _> = members.iter().map(|(folder, id)| (id, folder.as_str())).collect();
    let allowed: BTreeMap<_, BTreeSet<_>> =
        MAY_USE.iter().map(|(folder, uses)| (*folder, uses.iter().copied().collect())).collect();
    for (folder, id) in &members {
        let may = allowed.get(folder.as_str()).unwrap_or_else(|| panic!("{folder} has no row in tests/arrows.rs"));
        let uses: BTreeSet<_> = edges[id].iter().filter_map(|d| folder_of.get(d).copied()).collect();
        let wrong: Vec<_> = uses.difference(may).collect();
        assert!(wrong.is_empty(), "{folder} must not use {wrong:?}");
    }
    let gone: Vec<_> = allowed.keys().filter(|f| !members.contains_key(**f)).collect();
    assert!(gone.is_empty(), "rows without a crate: {gone:?}");
}

#[test]
fn crates_of_others_stay_where_they_belong() {
    let metadata = metadata();
    let members = members(&metadata);
    let edges = edges(&metadata);
    for (name, folders) in ONLY_IN {
        for (folder, id) in &members {
            let names = edges[id].iter().any(|d| metadata[d].name.as_str() == *name);
            assert!(!names || folders.contains(&folder.as_str()), "{folder} must not use {name}");
        }
    }
}

#[test]
fn nothing_impure_can_be_reached_from_the_core() {
    let metadata = metadata();
    let members = members(&metadata);
    let edges = edges(&metadata);
    for folder in PURE {
        let found: Vec<_> = reachable(&edges, &members[*folder])
            .iter()
            .map(|id| metadata[id].name.to_string())
            .filter(|name| IMPURE.contains(&name.as_str()))
            .collect();
        assert!(found.is_empty(), "{folder} reaches {found:?}");
    }
}

#[test]
fn the_core_is_no_std_and_every_crate_is_in_the_architecture() {
    let metadata = metadata();
    let root = metadata.workspace_root.as_std_path();
    let map = std::fs::read_to_string(root.join("docs/architecture.md")).expect("docs/architecture.md");
    for folder in members(&metadata).keys().filter(|f| *f != ".") {
        assert!(map.contains(&format!("`{folder}`")), "docs/architecture.md does not mention `{folder}`");
    }
    for folder in PURE {
        let text = std::fs::read_to_string(root.join(folder).join("src/lib.rs")).expect("lib.rs");
        assert!(text.contains("#![no_std]"), "{folder} is not no_std");
    }
}
