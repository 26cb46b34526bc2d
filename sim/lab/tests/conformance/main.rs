//! The simulated kernel against the real one: `planes` gives both the same ops, `packets` sends the same flows through
//! both. Needs root and a kernel with IPVS, nftables and dummy interfaces (a guest has them); without, the tests say
//! `skipped` and pass.
#![allow(clippy::unwrap_used, reason = "a helper that fails fails its test")]

mod links;
mod overlay;
mod packets;
mod planes;
