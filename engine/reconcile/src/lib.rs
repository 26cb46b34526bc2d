//! Desired state against actual state, one plane at a time: what differs, in which order it is repaired, when a
//! failed repair is tried again, and when the kernel is read again.
//!
//! [`Tracker`] holds both tables and maintains the difference at each write. [`Reconciler`] is a pure machine on top
//! of it: it asks its driver to observe or to apply, at most one request at a time, and is told what came of it.
//!
//! Deliberately not here: the order between planes (`fairway-agent` gates each poll with [`Allow`]), what should be
//! (`fairway-compute`), and kernels. Start reading at [`Reconciler`].
#![no_std]
extern crate alloc;

mod config;
mod latency;
mod reconciler;
mod request;
mod stats;
mod tracker;

pub use config::{Config, Time};
pub use latency::Latency;
pub use reconciler::{Owner, Reconciler};
pub use request::{Allow, Hold, Input, Request};
pub use stats::Stats;
pub use tracker::Tracker;
