//! Answers `gobgp`, GoBGP's command line client, with the state of our speaker.
//!
//! kube-router runs GoBGP inside and people look at it with `gobgp neighbor`, `gobgp global rib` and so on; scripts
//! read its JSON. [`serve`] answers the same gRPC calls, of GoBGP's versions 3 and 4, on one port. It only shows and
//! resets: configuration has one source, which is not this one. Everything else answers UNIMPLEMENTED.
//!
//! The speaker lives elsewhere. A request sends a [`Job`] there, which only copies what it needs; filters, conversion
//! and encoding happen here, one destination at a time as the client reads.
//!
//! Deliberately not here: TLS and authentication (listen on loopback), events (`gobgp monitor`), changes
//! (`gobgp global rib add`), passwords of neighbours.
//!
//! Where to start reading: `service.rs` (the calls), then `source.rs` (the only file that knows the speaker),
//! `model.rs` (what is shown), `messages.rs` (as messages); `v4.rs` and `v3.rs` are thin.

mod lookup;
mod messages;
mod model;
mod service;
mod source;
mod v3;
mod v4;

/// Generated from `proto/`.
#[allow(
    missing_docs,
    unreachable_pub,
    unused_qualifications,
    dead_code,
    clippy::all,
    clippy::unwrap_used,
    reason = "generated code"
)]
mod proto {
    /// Version 4.
    pub(crate) mod api {
        include!(concat!(env!("OUT_DIR"), "/api.rs"));
    }
    /// What version 3 has otherwise.
    pub(crate) mod apipb {
        include!(concat!(env!("OUT_DIR"), "/apipb.rs"));
    }
}

pub use service::{ServeError, serve};
pub use source::{Job, Source};
