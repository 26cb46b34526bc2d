//! A whole cluster in memory: agents, kernels, links and virtual time in one deterministic event queue.
//!
//! Every node runs the very [`fairway_agent::Agent`] that runs in production; its kernel is
//! [`fairway_kernel::Kernel`], its API server [`fairway_api::Api`], and its BGP connections are TCP flows whose
//! segments walk the simulated kernels, as BFD's packets do. [`World`] implements [`fairway_scenario::Stage`], so a scenario file drives
//! it. All randomness comes from one seed: the same seed gives the same [trace hash](World::hash).
//!
//! Deliberately not here: any decision of the node (see `engine/`), what a kernel does with a packet (see
//! `sim/kernel`), what a scenario means (see `sim/scenario`). Start reading at [`World::new`], then `world.rs`.

mod bfd;
mod clients;
mod hash;
mod pods;
mod queue;
mod stage;
mod tcp;
mod topology;
mod tunnels;
mod views;
mod world;

pub use world::{Tapes, World};

/// Virtual time since the start of the world.
pub type Time = std::time::Duration;

/// Index of a host in the world.
type HostIx = usize;

/// Name of our daemon as owner of sockets.
const DAEMON: &str = "fairway";
