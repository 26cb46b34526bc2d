//! A User-Mode Linux kernel as a lab: an ordinary user runs the current binary as root of a throw-away guest.
//!
//! The guest sees the host's files read-only below a layer in memory; what it writes is gone when it ends, except in one
//! directory, [`Guest::out`], which is [`OUT`] inside. It has one CPU, its own kernel (IPVS, nftables, tunnels) and no
//! network to the host. Standard output and standard error of the program arrive live and separately.
//!
//! What it is not for: measuring (system calls are slow there), races between threads (one CPU), and holding back a
//! hostile program: root of the guest can mount any host directory and then do there what the user who started it may do.
//!
//! Where to start: [`kernel`] finds or builds the kernel, [`run`] runs a [`Guest`]. The binary that calls [`run`] is also
//! PID 1 of the guest, so its `main` begins with
//!
//! ```no_run
//! if fairway_uml::is_guest_init() {
//!     fairway_uml::guest_init()
//! }
//! ```

mod build;
mod config;
mod error;
mod init;
mod job;
mod kernel;
mod run;
mod temp;

pub use error::Error;
pub use init::{guest_init, is_guest_init};
pub use kernel::{Kernel, Source, cached, kernel};
pub use run::{Ended, Guest, run};

/// Where the guest sees the one host directory that it can write.
pub const OUT: &str = "/mnt/out";
