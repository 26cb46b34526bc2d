//! A scenario on a real kernel: one network namespace per host, our real backends, real programs.
//!
//! The lab plays the same file as the simulated cluster. LANs are bridges in a namespace of their own (`switch`),
//! joined to the hosts by veth pairs. Each node runs our agent on the kernel ([`fairway_node::Node`]); each pod is a
//! namespace behind `kube-bridge` with an `mconnect` server process in it; the routers run our agent too, or gobgpd, BIRD,
//! FRR or ExaBGP. The API server (`sim/apiserver`) is asked over HTTP, by the client of production. Time is real.
//!
//! [`space::enter`] comes first: the lab lives in mount, PID and network namespaces of its own, so that nothing is left
//! when it ends, however it ends. Then [`Lab::new`] builds a scenario's cluster, and [`fairway_scenario::run`] plays.
//!
//! Deliberately not here: what the scenario means (`sim/scenario`), what an API server is, anything the agent or
//! its backends do.
//!
//! `ip`, `ipvsadm`, `gobgp`, `birdc`, `vtysh` and `exabgpcli` are asked here as an operator would ask them: the lab is a test bench, and
//! these are its witnesses.

mod api;
mod clients;
mod faulty;
mod host;
mod lab;
mod load;
mod pods;
mod process;
mod routers;
pub mod space;
mod stage;
mod views;
mod witness;

pub use lab::{Lab, LabError, Options, features};
