//! Whole processes: the seed scenario, and 1,000 nodes behind one router.
#![allow(missing_docs, reason = "criterion's macros make undocumented functions")]

use std::path::PathBuf;
use std::process::Command;

use criterion::{Criterion, criterion_group, criterion_main};
use fairway_benches::wide_scenario;

/// The release binary next to this bench; `make bench` builds it first.
fn fairway() -> PathBuf {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..");
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or(root.join("target"), PathBuf::from);
    target.join("release/fairway")
}

fn run(file: &std::path::Path) {
    let output = Command::new(fairway()).arg("run").arg(file).output();
    let output = output.expect("build the binary first: cargo build --release");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}

fn benches(criterion: &mut Criterion) {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..");
    let seed = root.join("scenarios/seed/mconnect-bgp.yaml");
    criterion.bench_function("seed scenario, whole process", |b| b.iter(|| run(&seed)));
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
    std::fs::copy(root.join("scenarios/seed/mconnect.yaml"), folder.join("mconnect.yaml")).expect("copy the manifest");
    let mut group = criterion.benchmark_group("N nodes, 1 router, 400 connections, whole process");
    group.sample_size(10);
    for nodes in [10, 100, 1_000] {
        let file = folder.join(format!("wide-{nodes}.yaml"));
        std::fs::write(&file, wide_scenario(nodes)).expect("write the scenario");
        group.bench_function(nodes.to_string(), |b| b.iter(|| run(&file)));
    }
    group.finish();
}

criterion_group!(all, benches);
criterion_main!(all);
