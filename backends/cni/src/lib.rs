//! The CNI configuration of a node: what in it is ours, and its file.
//!
//! [`merge`] and [`read`] are pure: text and value in, text or value out. [`CniBackend`] is the
//! [`fairway_desired::Backend`] of plane [`fairway_desired::File`] around them: it reads one file, and replaces it as a
//! whole, so that whoever reads it at the same time sees the old or the new one.
//!
//! Deliberately not here: which prefixes pods get, and their MTU (`fairway-compute`). Source: the CNI specification 1.1,
//! and the documentation of its plugins `bridge`, `host-local` and `portmap`. Start reading at `conf.rs`.

mod backend;
mod conf;

pub use backend::CniBackend;
pub use conf::{Trouble, merge, read};
