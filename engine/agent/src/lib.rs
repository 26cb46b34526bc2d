//! One whole node, sans-I/O: compute, reconcile, BGP, BFD and what it writes to the API server, behind one [`Input`] and
//! one [`Output`].
//!
//! The daemon and the simulator are two thin drivers of the same [`Agent`]: `handle(now, input)`, then `poll()` until
//! `None`, and `deadline()` says when a tick is wanted. Requests to a kernel are data too; [`serve`] carries one out
//! on any backend, so that all drivers do it the same way. Each request is answered by one input; the answer may come
//! late, and requests to different planes may be answered in any order.
//!
//! ```text
//!   Delta ──▶ compute ──▶ ops per plane ──▶ reconcilers ──▶ Observe, Apply ──▶ (driver) ──▶ Observed, Applied
//!                ▲                               │ plane Bgp
//!                └────── learned routes ◀── speaker ──▶ Listen, Connect, Send, Close, Event
//!                                  whom to watch │ ▲ who failed
//!                                                ▼ │
//!                                                bfd ──▶ Listen, Open, Send, Close, Event
//! ```
//!
//! The order between planes is decided here and only here:
//!
//! - Nothing is applied before every kind of object was listed once, and nothing deleted in particular. Values that
//!   are made of several objects are half true until then, and writing them over what an earlier run left would harm
//!   traffic that flows.
//! - Puts of a plane wait while a plane of lower rank has puts that could be done; deletes wait while a plane of
//!   higher rank has deletes that could be done. Inside a plane puts come first. Nobody waits for a key that is
//!   parked or waits after `Busy`, nor for a plane that does not work at all.
//! - A BGP network that is a single address is not announced while the data plane behind it is not in place. An
//!   announcement that was made is not taken back when the data plane breaks later: a repair is on its way, and a
//!   fault that hits all nodes at once would otherwise withdraw the address everywhere.
//! - Without the service proxy the IPVS table is left alone: it may be another proxy's.
//! - BFD watches the neighbours that BGP tells it of. A session that was up and fails ends theirs; one that never came
//!   up holds back nobody.
//! - Learned routes that an earlier run left stay until the sessions are up again, or clearly will not be.
//!
//! Deliberately not here: sockets, clocks, kernels, Kubernetes, and what a node should have (`fairway-compute`).
//! Start reading at [`Agent`].
#![no_std]
extern crate alloc;

mod agent;
mod cleanup;
mod inherited;
mod io;
mod lane;
mod readiness;
mod serve;
mod text;
mod view;

pub use agent::Agent;
pub use cleanup::{Cleanup, Removed};
pub use fairway_bfd as bfd;
pub use fairway_bgp as bgp;
pub use fairway_compute::{HealthCheck, Owned, watched};
pub use fairway_publish as publish;
pub use fairway_reconcile::{Latency, Time};
pub use io::{Applied, Batch, Input, Observation, Output};
pub use serve::{Kernel, serve};
pub use text::Text;
pub use view::{Announced, PlaneView};
