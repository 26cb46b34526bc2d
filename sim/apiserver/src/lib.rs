//! The in-memory API server ([`fairway_api`]) over HTTP and HTTPS.
//!
//! It answers what kubectl, the node daemon and any other client ask: discovery, lists, watches by resource version,
//! writes and patches, with the `Status` objects of the real one. On request it misbehaves ([`Misbehaviour`]), also by
//! `PUT /fairway/misbehave`, `POST /fairway/compact` (history is forgotten, watches get 410) and
//! `POST /fairway/disconnect` (watches are cut).
//!
//! Deliberately not here: what a cluster does by itself (`sim/api`), admission, custom resources. Start reading
//! at [`Server`]; a request goes through `server` (connection), `request` (what is asked) and `rest` (what is
//! done), a watch through `watch`.

mod authorize;
mod events;
mod kubeconfig;
mod lists;
mod managed;
mod misbehave;
mod openapi;
mod patch;
mod request;
mod resources;
mod rest;
mod selector;
mod server;
mod status;
mod table;
mod tls;
mod types;
mod watch;

pub use authorize::ServiceAccount;
pub use kubeconfig::kubeconfig;
pub use misbehave::{Misbehaviour, UnknownMisbehaviour};
pub use server::{Kubelets, Options, Running, Server};
pub use tls::{Authority, Tls, TlsError};
