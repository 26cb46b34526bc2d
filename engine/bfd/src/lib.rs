//! Bidirectional Forwarding Detection, sans-I/O: RFC 5880, over one hop (5881) and over several (5883).
//!
//! A [`Bfd`] has one session with each neighbour that it was told of by [`Bfd::set`]. It takes one [`Input`] at a time
//! with the time at which it happened ([`Bfd::handle`]), says what to do by [`Bfd::poll`] until that gives `None`, and
//! [`Bfd::deadline`] says when an [`Input::Tick`] is wanted. The same seed and inputs give the same outputs.
//!
//! What a session's state means to others: [`Event::Down`] says whether forwarding failed. A session that was never
//! up fails nobody, so whoever uses it (BGP) need not wait for it; nor is it a failure when the other side says
//! AdminDown, which means that it was told to stop (RFC 5882 section 3.2), or when a session is taken away.
//!
//! A session in the state of the row that hears the state of the column (RFC 5880 section 6.2):
//!
//! ```text
//!               AdminDown   Down        Init        Up          nothing for the detection time
//!   Down        Down        Init        Up          Down        Down
//!   Init        Down        Init        Up          Up          Down, diagnostic 1
//!   Up          Down, 3     Down, 3     Up          Up          Down, diagnostic 1
//!   AdminDown   (stays, and does not listen: we were told to stop)
//! ```
//!
//! The first packet leaves when a session begins. A neighbour that still thinks of an earlier run of ours as up hears
//! of the end before there is a BGP session again that it could take down.
//!
//! Timers (section 6.8): what we send is spaced by the larger of what we want and what the other side can take, less up
//! to a quarter of it; by at least a second while a session is not up. Changes while it is up are agreed on by Poll and
//! Final, and what would make the other side give up too early waits for the answer. Detection times run out in
//! [`Input::Tick`] only: a driver that comes late hands in the packets that wait before it says what time it is.
//!
//! Deliberately not here: sockets and the IP TTL of what is sent (always 255, the driver's business), authentication
//! (packets with it are dropped), the echo function and demand mode (neither is offered; a peer's demand to be sent
//! nothing while both are up is respected), link-local addresses, more than one session with an address.
//!
//! Start reading at `machine.rs` (all sessions, and who a packet is for), then `session.rs` (one session).
#![no_std]
extern crate alloc;

mod io;
mod machine;
mod packet;
mod session;

pub use io::{Dropped, Event, Full, Input, Output, Payload, SessionView, Settings, Time};
pub use machine::{Bfd, SESSIONS_MAX};
pub use packet::{Diagnostic, Malformed, Packet, State};

/// UDP port of sessions over one hop (RFC 5881 section 4).
pub const PORT: u16 = 3784;
/// UDP port of sessions over several hops (RFC 5883 section 5).
pub const MULTIHOP_PORT: u16 = 4784;
