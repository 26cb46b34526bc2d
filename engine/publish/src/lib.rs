//! What a node writes to the Kubernetes API, sans-I/O: addresses of services of type LoadBalancer, the Lease of those
//! who may give them, and Events.
//!
//! ```text
//!   Delta ──▶ Allocator ──▶ what is to be written ──▶ Request::Ingress ──▶ (driver) ──▶ Answer
//!                 ▲ leads                │ notices
//!   Answer ──▶ Election ──▶ Request::Lease          ▼
//!   notices of the whole node ──▶ Recorder ──▶ Request::Event
//! ```
//!
//! - Only the leader of the election gives addresses. Everybody keeps the [`Allocator`]'s indexes, so that a new
//!   leader begins at once; [`Publisher`] is what an agent runs.
//! - A write never trusts what we know: the driver reads the service again, and writes only if it is the service that
//!   we know and nobody writes in between. What it read otherwise is looked at anew.
//! - What is given but not yet heard of again counts as taken.
//! - An [`Event`] is written by few nodes, however many see its cause; see [`Recorder`].
//!
//! Deliberately not here: HTTP, wall clocks (the driver stamps), what a notice is about. Start reading at
//! [`Publisher`], then [`Allocator`].
#![no_std]
extern crate alloc;

mod allocator;
mod election;
mod io;
mod publisher;
mod ranges;
mod recorder;

pub use allocator::{Allocator, Flushed, Plan, Reason, Told};
pub use election::{Election, Params};
pub use io::{Answer, Event, Ingress, Lease, LeaseWrite, Output, Refusal, Request};
pub use publisher::{Publisher, View};
pub use recorder::{Limits, Recorder, reason};

/// Time since an arbitrary zero that never goes back.
pub type Time = core::time::Duration;
