//! A sans-I/O BGP speaker: wire format, sessions, RIBs, policy.
//!
//! A [`Speaker`] is configured through its plane ([`Speaker::apply`]), takes one [`Input`] at a time with the time at
//! which it happened ([`Speaker::handle`]), and says what to do by [`Speaker::poll`] until that gives `None`.
//! [`Speaker::deadline`] says when an [`Input::Tick`] is wanted. It never does I/O, and given the same seed and inputs
//! it gives the same outputs.
//!
//! What it follows: RFC 4271 (sessions, decision process), 4760 and 8950 (IPv6 unicast; IPv6 next hops of IPv4), 5492
//! and 9072 (capabilities), 6793 (four-octet AS numbers), 6286 (identifiers), 2918 and 7313 (route refresh), 8654
//! (longer messages), 7606 (broken UPDATEs withdraw their routes, or lose an attribute), 4486, 6608 and 9003 (subcodes,
//! words for the other operator), 5082 (TTL security), 1997, 4360 and 8092 (communities), 7607 (no AS 0), 4724, 8538 and
//! 9494 (graceful restart, its long-lived form), 8326 (graceful shutdown), 4456 (route reflection), 7911 (ADD-PATH).
//!
//! Deliberately not here: sockets and their options ([`Output::Connect`] and [`Output::Limit`] name password and TTLs,
//! the driver sets them), next hops behind a router (only links are known, by [`Input::OnLink`]), BFD packets
//! ([`Output::Watch`] asks for them, `fairway-bfd` has them, and [`Input::BfdDown`] is what comes of them), a minimum
//! interval between advertisements (changes of one input leave
//! together), a check that the leftmost AS is the neighbour's (route servers break it), aggregation, confederations,
//! roles.
//!
//! Where to start reading: `speaker.rs` (state, way in and out), then `sessions.rs` (neighbours come and go),
//! `routes.rs` (the way of a route in), `table.rs` (all routes, and the decision process), `export.rs` (the way out),
//! `restart.rs`, `reach.rs`, `config.rs` (the plane); `conn.rs` has the state machine of one connection, [`wire`] the messages.
//!
//! Invariants: policies decide before anything leaves, as every advertisement passes `Speaker::may_leave`; a group's
//! Adj-RIB-Out is what its members were told, but for changes they have not read yet; work is proportional to the
//! prefixes that changed and the neighbours that are told; more is sent to a neighbour only when it took the last.
#![no_std]
extern crate alloc;

mod adj_out;
mod config;
mod conn;
mod explain;
mod export;
mod index;
mod intern;
mod io;
mod neighbor;
mod pages;
mod policy;
mod reach;
mod restart;
mod routes;
mod sessions;
mod speaker;
mod table;
mod view;
pub mod wire;

pub use io::{ConnId, Event, Input, Octets, Output, Time, Watch};
pub use speaker::Speaker;
pub use view::{Counts, Explanation, Messages, NeighborView, RibPath, SessionState};
pub use wire::Origin;
