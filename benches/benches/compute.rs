//! The engine alone: a whole cluster from nothing, and one endpoint change in it.
#![allow(missing_docs, reason = "criterion's macros make undocumented functions")]

use criterion::{BatchSize, BenchmarkId, Criterion, criterion_group, criterion_main};
use fairway_benches::{cluster, config, slice};
use fairway_compute::Compute;

const LADDER: [u32; 3] = [100, 1_000, 10_000];
const ENDPOINTS: u32 = 10;

fn full(services: u32) -> Compute {
    let mut compute = Compute::new(config());
    for delta in cluster(services, ENDPOINTS) {
        compute.handle(delta);
    }
    compute.flush();
    compute
}

fn benches(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("from empty, 10 endpoints per service");
    group.sample_size(10);
    for services in LADDER {
        let deltas = cluster(services, ENDPOINTS);
        group.bench_function(BenchmarkId::from_parameter(services), |b| {
            b.iter_batched(
                || deltas.clone(),
                |deltas| {
                    let mut compute = Compute::new(config());
                    for delta in deltas {
                        compute.handle(delta);
                    }
                    compute.flush().ops.total()
                },
                BatchSize::LargeInput,
            );
        });
    }
    group.finish();
    let mut group = criterion.benchmark_group("one endpoint change, 10 endpoints per service");
    for services in LADDER {
        let mut compute = full(services);
        let mut ready = true;
        group.bench_function(BenchmarkId::from_parameter(services), |b| {
            b.iter(|| {
                ready = !ready;
                compute.handle(slice(services / 2, ENDPOINTS, ready));
                let changes = compute.flush();
                assert_eq!(changes.rendered, 1, "one change, one unit");
                changes.ops.total()
            });
        });
    }
    group.finish();
}

criterion_group!(all, benches);
criterion_main!(all);
