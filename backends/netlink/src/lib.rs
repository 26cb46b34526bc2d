//! Netlink messages and a pipelined netlink socket.
//!
//! What IPVS (generic netlink) and nftables (nfnetlink) have in common: framing, attributes, and the way to ask a
//! kernel many things at once. A [`Message`] is built attribute by attribute; a [`Socket`] sends many of them with
//! one system call, and gives each its own result. [`Attributes`] reads what the kernel answers. A [`Listener`] hears
//! what the kernel says unasked.
//!
//! Deliberately not here: what any message means, except the look-up of a generic netlink family; and any retry,
//! which is for the one who knows what is asked. Links and routes go through `rtnetlink`, which brings its own.
//!
//! Start reading at [`Socket::requests`]. Sources: `include/uapi/linux/netlink.h`, `genetlink.h`.

mod attributes;
mod generic;
mod listener;
mod message;
mod socket;

pub use attributes::{Attribute, Attributes};
pub use generic::{generic_families, generic_family};
pub use listener::{Heard, Listener};
pub use message::{Message, flags};
pub use socket::{Errno, Error, Protocol, Reply, Socket};
