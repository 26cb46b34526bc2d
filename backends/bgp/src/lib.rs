//! TCP for the BGP speaker.
//!
//! [`Transport`] carries out what the speaker wants of connections ([`fairway_bgp::Output`]) and reports what happened
//! to them ([`fairway_bgp::Input`]). It listens, dials, sets MD5 keys (RFC 2385) and TTL, moves bytes.
//!
//! Deliberately not here: BGP and decisions. No message is looked at, no dial is repeated, nobody is refused: that is
//! the speaker's.
//!
//! Start reading at [`Transport::handle`]; `connection.rs` then has the life of one connection.

mod connection;
mod dial;
mod listener;
mod md5;
mod option;
mod transport;

pub use md5::offered as offers_md5;
pub use transport::{Error, ListenError, PasswordError, Transport};
