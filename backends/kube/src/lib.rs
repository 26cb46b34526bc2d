//! Where Kubernetes' objects come from: for now a folder of manifests, for a node without a cluster.
//!
//! [`Manifests::poll`] looks at the folder and gives what changed as deltas, the first time everything as one list of
//! each kind. The caller says when to look.
//!
//! Deliberately not here: what an object means, and controllers: a Deployment makes no pods. The watch of a real API
//! server will stand beside this. Start reading at [`Manifests`].

mod manifests;

pub use manifests::{Changes, Manifests, ReadError, Trouble};
