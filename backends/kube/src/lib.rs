//! Where Kubernetes' objects come from: the API server of a cluster, or a folder of manifests for a node without one. And
//! where a node writes to.
//!
//! [`Cluster`] lists and watches, in a thread of its own, and gives [`Delta`](fairway_objects::Delta)s through its
//! [`Inbox`]. Whatever happens to the server, nothing is taken back that it did not say is gone: `Relist` stands where a
//! list begins to arrive and `Listed` where it is complete. [`Health`] and notices say how far behind we are and why.
//! [`Manifests::poll`] looks at a folder and gives what changed, the first time everything as one list of each kind.
//!
//! [`Writer`] carries out what the engine wants written: a Lease, addresses of services, Events.
//!
//! Deliberately not here: what an object means, which kinds matter, what is written and when. Start reading at [`Cluster`], then
//! `watch.rs`, which knows the protocol and does no I/O.

mod access;
mod cluster;
mod health;
mod manifests;
mod watch;
mod writes;

pub use access::{Access, AccessError};
pub use cluster::{Cluster, Inbox, Start, Watched};
pub use health::{Health, KindHealth, Standing, Tell};
pub use manifests::{Changes, Manifests, ReadError, Trouble};
pub use watch::Obstacle;
pub use writes::{Tell as TellAnswer, Writer};
