//! Links, addresses, routes, policy rules and sysctls of the real kernel.
//!
//! [`RouteBackend`] is the [`fairway_desired::Backend`] of five planes, in the network namespace of the thread that
//! opens it. Messages are those of `netlink-packet-route`, in part made by `rtnetlink`; they go out pipelined through
//! our own socket, because `rtnetlink` waits for each answer before it asks the next question.
//!
//! A [`Monitor`] hears what changes, whoever changes it, and says it in the words of [`fairway_desired::KernelEvent`].
//!
//! [`PodBackend`] writes the service addresses inside pods, for direct server return.
//!
//! [`setup`] is what an operating system or a CNI plugin does before us: veth pairs, bridges, first addresses. The
//! agent never calls it; labs and tests do. [`routes`] lists what `ip route` would.
//!
//! Deliberately not here: any decision, and any wish to repair; a backend does what the ops say and reports.
//!
//! Start reading at `backend.rs`. Sources: `include/uapi/linux/rtnetlink.h`, `if_addr.h`, `fib_rules.h`,
//! `if_tunnel.h`, `fou.h`.

mod addr;
mod backend;
mod fou;
mod link;
mod monitor;
mod pod;
mod route;
mod rule;
pub mod setup;
mod sysctl;
mod tunnel;
mod wire;

pub use backend::{OpenError, RouteBackend};
pub use monitor::Monitor;
pub use pod::{PodBackend, PodSpace, PodSpaces};
pub use route::routes;
pub use sysctl::sysctl_value;
