//! Criterion benchmarks on one ladder of sizes.
