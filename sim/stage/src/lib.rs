//! What all stages of a scenario have in common: its API server ([`Cluster`]), how its hosts' agents are configured
//! ([`router_config`]), and what the usual tools would show of an agent ([`neighbors`], [`rib`], [`bfd`]).
//!
//! Deliberately not here: kernels, pods that run, time. A stage brings those: `sim/world` simulated ones, `sim/lab`
//! real ones. Start reading at [`Cluster`].

mod cluster;
mod config;
mod views;
mod writes;

pub use cluster::Cluster;
pub use config::{ConfigError, Configure, router_config};
pub use views::{bfd, neighbors, notice_line, rib};

/// Time since the start of the scenario, virtual or real.
pub type Time = std::time::Duration;
