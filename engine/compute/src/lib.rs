//! Kubernetes objects to the desired state of one node, incrementally.
//!
//! A [`Delta`](fairway_objects::Delta) marks *units* dirty (a service, another node, a learned prefix, the node itself)
//! through indexes that update symmetrically. [`Compute::flush`] renders each dirty unit with a pure function into
//! *claims*; a ledger per plane turns the claims of all units into net changes. The cost is that of the units
//! touched, never that of the cluster. [`from_scratch`] computes the same without any history, for tests.
//!
//! Deliberately not here: time, actual kernel state, retries, I/O. The core cannot fail: an object that is wrong counts
//! as absent and raises a notice. Start reading at [`Compute`], then `service.rs`.
#![no_std]
extern crate alloc;

mod compute;
mod dsr;
mod egress;
mod global;
mod health;
mod ledger;
mod links;
mod overlay;
mod pods;
mod router;
mod scratch;
mod service;
mod state;
mod unit;

pub use compute::{Changes, Compute, Desired, Ops, Owned, watched};
pub use health::HealthCheck;
pub use pods::{BRIDGE, overlay_overhead};
pub use scratch::from_scratch;
