//! A sans-I/O BGP speaker: wire format, sessions, RIBs, policy.
//!
//! A [`Speaker`] is configured through its plane ([`Speaker::apply`]), takes one [`Input`] at a time with the time at
//! which it happened ([`Speaker::handle`]), and says what to do by [`Speaker::poll`] until that gives `None`.
//! [`Speaker::deadline`] says when an [`Input::Tick`] is wanted. It never does I/O, and given the same seed and inputs
//! it gives the same outputs.
//!
//! What it follows: RFC 4271 (sessions, decision process), 4760 (IPv6 unicast), 5492 and 9072 (capabilities), 6793
//! (four-octet AS numbers), 2918 (route refresh, answered), 7606 (broken UPDATEs withdraw their routes), 4486 and 6608
//! (subcodes), 1997 (communities), 7607 (no AS 0); End-of-RIB of RFC 4724.
//!
//! Deliberately not here: sockets and their options ([`Output::Connect`] names password and TTL; the driver sets them,
//! for connections it accepts too), reachability of next hops (the kernel's business), a minimum interval between
//! advertisements (changes of one input leave together), a check that the leftmost AS is the neighbour's (route
//! servers break it), aggregation, confederations. Not yet: graceful restart, ADD-PATH, route reflection, BFD.
//!
//! Where to start reading: `speaker.rs` (state, way in and out), then `sessions.rs` (neighbours come and go),
//! `routes.rs` (the way of a route), `config.rs` (the plane), `rib.rs` (the decision process); `conn.rs` has the state
//! machine of one connection, [`wire`] the messages.
//!
//! Invariants: policies decide before anything leaves, as every advertisement passes `Speaker::export`; a neighbour's
//! Adj-RIB-Out is exactly what was sent on its session; work is proportional to the prefixes that changed.
#![no_std]
extern crate alloc;

mod config;
mod conn;
mod io;
mod neighbor;
mod policy;
mod rib;
mod routes;
mod sessions;
mod speaker;
mod view;
pub mod wire;

pub use io::{ConnId, Event, Input, Output, Time};
pub use speaker::Speaker;
pub use view::{NeighborView, RibPath, SessionState};
pub use wire::Origin;
