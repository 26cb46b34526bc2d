//! The admin port: answers `gobgp`, GoBGP's command line client, and `fairway bgp` with the state of our speaker.
//!
//! kube-router runs GoBGP inside and people look at it with `gobgp neighbor`, `gobgp global rib` and so on; scripts
//! read its JSON. [`serve`] answers the same gRPC calls, of GoBGP's versions 3 and 4, on one port, and calls of our own
//! for what GoBGP has no words for: explanations and events ([`client`] is their other end). It only shows and resets:
//! configuration has one source, which is not this one. Everything else answers UNIMPLEMENTED.
//!
//! The speaker lives elsewhere. A request sends a [`Job`] there, which only copies what it needs; filters, conversion
//! and encoding happen here, one destination at a time as the client reads.
//!
//! Deliberately not here: TLS and authentication (listen on loopback), `gobgp monitor` (`fairway bgp events --follow`
//! has it), changes (`gobgp global rib add`), passwords of neighbours.
//!
//! Where to start reading: `service.rs` (GoBGP's calls), then `source.rs` (what they need of the speaker), `model.rs`
//! (what is shown), `messages.rs` (as messages); `v4.rs` and `v3.rs` are thin. `own.rs` has our own calls.

pub mod client;
mod events;
mod lookup;
mod messages;
mod model;
mod own;
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
    /// Ours.
    pub(crate) mod own {
        include!(concat!(env!("OUT_DIR"), "/fairway.v1.rs"));
    }
}

pub use events::{EventLog, Record};
pub use service::{ServeError, serve};
pub use source::{Job, Source};
