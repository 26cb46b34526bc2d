//! One agent on the real kernel: backends, BGP's connections and a clock around [`fairway_agent::Agent`].
//!
//! This is the shell of the node daemon. It decides nothing: a thread of its own feeds the agent with what happened
//! and carries out what it wants. Requests to the kernel go to a second thread ([`RealKernel`]), so that a long write
//! does not hold up BGP's keepalives, a third answers at the ports of gobgp, the kubelet and Prometheus, and a fourth
//! hears what the kernel says unasked ([`Watched`]). Sockets belong to the network namespace of the thread that opened
//! them; all threads enter theirs first ([`Start::enter`]), but for the fourth, which is given open ones.
//!
//! Deliberately not here: where Kubernetes' objects come from (the caller sends [`Command::Input`]), flags, and
//! anything the agent can know by itself. Start reading at [`Node`].

mod ask;
mod cleanup;
mod dry;
mod endpoints;
mod health;
mod kernel;
mod legacy;
mod logged;
mod metrics;
mod node;
mod only;
mod ports;
mod pprof;
mod process;
mod record;
mod scrape;
mod signal;
mod status;
mod timings;

pub use cleanup::{CleanedUp, clean_up};
pub use dry::{Change, ChangeKind, DryKernel, Plan, dry_run};
pub use fairway_backend_admin::client::Watch;
pub use fairway_backend_bgp::offers_md5;
pub use fairway_backend_route::{Monitor, PodSpace, PodSpaces};
pub use kernel::{OpenError, RealKernel, Watched};
pub use legacy::{Leftover, Part, leftovers, remove_leftovers, replaced};
pub use logged::Logged;
pub use node::{Command, Ended, Look, Node, Open, Question, Start, Write};
pub use only::{Only, Taken};
pub use record::Recording;
pub use signal::{Signal, signals};
