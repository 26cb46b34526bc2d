//! The load tool: many connections to one address, counted by the host that answers.
//!
//! Compatible with Nordix mconnect in flags, wire behaviour, text and JSON, so that its users keep their scripts: the
//! server writes its host name on each TCP connection and again after each read, and answers each datagram with it.
//! Start reading at [`report`] (what is counted; pure, the simulator fills it too), then [`client_until`], [`serve`]
//! and [`main`].
//!
//! # Exit status
//! 0 all is well; 1 a connect or a read failed, `-expect-even` was not met, a bad `-srccidr`, or a socket could not be
//! bound; 2 a bad flag; 128 + n the run was ended by signal n (the report so far is printed). A server that is ended by
//! SIGINT or SIGTERM exits with 0.
//!
//! # Where it differs from the original, on purpose
//! - stdout has the report and nothing else; causes of failures are counted on stderr.
//! - Hosts are sorted in the text output. JSON has one more key, `latency`.
//! - `-maxconcurrent 0` and a negative `-nconn` are errors, not panics.
//! - An unanswered datagram is a failed read, and gives its slot to the next one after 50 ms.
//! - With `-keep`, a given `-timeout` counts, and to reach it is no failure: only connections lost before are.
//! - `-k8sprobe` is served. `-seed` repeats a run, but its addresses are not those Go's generator would draw.
//! - `start_time` is in UTC.
//!
//! # `-srccidr`
//! Each source address must belong to the host, and answers must find their way back. `ip route add local BLOCK dev lo`
//! (IPv6: `ip -6 route ...`) makes a whole block the host's own; `net.ipv4.ip_nonlocal_bind=1` and its IPv6 twin allow
//! only the binding. The peers need a route for the block to this host.
//!
//! # Deliberately not here
//! Traffic beyond the first answer, rates and retries (that is ctraffic's business); answers from the address a datagram
//! was sent to, where the host has several (the kernel chooses by route, as for the original).

mod address;
mod client;
pub mod duration;
mod flags;
mod probe;
mod program;
pub mod report;
mod server;
mod source;
mod timestamp;

pub use address::{HostPort, HostPortError};
pub use client::{ClientConfig, Outcome, client, client_until};
pub use duration::{DurationError, format_duration, parse_duration};
pub use flags::{ClientRun, Command, FlagError, Invocation, Output, parse, usage};
pub use program::{main, run};
pub use report::{Latencies, Percentiles, Report, Spread};
pub use server::{Server, ServerConfig, serve};
pub use timestamp::rfc3339;
