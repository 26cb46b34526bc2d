//! UDP for BFD.
//!
//! [`Transport`] carries out what the machine wants ([`fairway_bfd::Output`]) and hands over what arrives, with the TTL
//! that it arrived with ([`fairway_bfd::Input`]). All packets leave with TTL 255 and the DSCP of network control.
//!
//! Deliberately not here: BFD and decisions. No packet is looked at, and what could not be opened is tried again when
//! the machine says so.
//!
//! Start reading at [`Transport::handle`]; `listener.rs` has the receiving side.

mod listener;
mod transport;

pub use transport::{Error, Transport};
