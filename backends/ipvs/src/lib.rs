//! IPVS of the real kernel over generic netlink.

mod backend;
mod decode;
mod encode;
mod plan;
mod shadow;
mod statistics;
mod uapi;

pub use backend::{IpvsBackend, OpenError};
pub use statistics::{Info, Method, RealStatistics, ServerStatistics, Timeouts, Traffic};
