//! The packet filter of the real kernel: one nftables table, `inet fairway`, over netlink.
//!
//! [`FilterBackend`] is the [`fairway_desired::Backend`] of the Filter plane. Each `apply` is one transaction: all of it
//! holds from one packet to the next, or nothing of it does. [`FilterBackend::delete_connections`] deletes conntrack entries.
//!
//! Deliberately not here: what the rules should be; other tables, which are never looked at. Rules that are read back
//! are read by their meaning, so the table may be written by hand with `nft` and is understood or, where it cannot be,
//! seen to differ.
//!
//! Start reading at `backend.rs`; `write.rs` is what we say to the kernel, `read.rs` the reverse. Sources:
//! `include/uapi/linux/netfilter/nf_tables.h`, `nfnetlink.h`, `nfnetlink_conntrack.h`.

mod backend;
mod connections;
mod elements;
mod read;
mod uapi;
mod write;

pub use backend::{FilterBackend, OpenError, TABLE};
