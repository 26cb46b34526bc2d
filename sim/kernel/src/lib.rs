//! A Linux network in memory: hosts with their kernels, wired together, through which packets walk.
//!
//! [`Fabric`] holds hosts and LANs and moves packets between them; [`Kernel`] is the network state of one host (links,
//! addresses, routes, rules, sysctls, firewall, conntrack, IPVS) and implements [`fairway_desired::Backend`] for every
//! plane but BGP. Everything is deterministic: the same seed and the same calls give the same results, and time is
//! what the caller says.
//!
//! Deliberately not here: what a node should have (see `engine/`), retransmission and bytes of connections (see
//! `sim/world`). Start reading at [`Fabric::connect`], then `walk.rs`.

mod backend;
mod conntrack;
mod fabric;
mod filter;
mod ipvs;
mod kernel;
mod neighbor;
mod packet;
mod route;
mod schedule;
mod show;
mod types;
mod walk;

pub use fabric::Fabric;
pub use ipvs::{RealServerView, VirtualServerView};
pub use kernel::{Injected, Kernel};
pub use types::{Attempt, Connect, Connected, Failure, FlowId, HostId, LanId, Posted, SocketError, SocketId, Trace};
