//! Recordings of an agent, and playing them again.
//!
//! A recording is what an agent was told, with the time of each input; its configuration and its seed are at the
//! beginning. As an agent has no other source of anything, the same agent anywhere does the same with it. After each
//! input the recording says how often the agent was asked for outputs and has a hash over these, so a replay knows the
//! first place where it differs.
//!
//! Passwords are not written. Each is replaced by a name that stands for it throughout, so equal ones stay equal.
//!
//! The bytes: [`MAGIC`], then frames, each with its length in four octets, low ones first. The first frame is the
//! [`Header`], every other one an [`Entry`]; what they hold is in postcard's format, which follows the types. So a
//! recording is for the version that made it, and for others as long as the types are the same. A recording that was cut
//! anywhere is played as far as it goes.
//!
//! Deliberately not here: files, threads, clocks. Start reading at [`Taped`] and [`Replay`].
#![no_std]
extern crate alloc;

mod redact;
mod replay;
mod tape;

use core::fmt::{self, Write};

use fairway_agent::{Input, Output, Time};
use fairway_objects::NodeConfig;
use serde::{Deserialize, Serialize};

pub use replay::{Difference, Ended, ReadError, Replay, Step};
pub use tape::{Sink, Taped};

/// The first octets of a recording.
pub const MAGIC: &[u8; 8] = b"fairway\x01";

/// What an agent starts with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// Version of the program that made the recording.
    pub version: alloc::string::String,
    /// When the agent started, in milliseconds since 1970.
    pub started_ms: u64,
    /// What the agent draws from.
    pub seed: u64,
    /// Its configuration, without passwords.
    pub config: NodeConfig,
}

/// One input, and what became of the one before.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// How often the agent was polled since the input before.
    pub polls: u32,
    /// Hash of what these polls gave.
    pub hash: u64,
    /// Time of this input since the agent's start, and the input; `None` at the end.
    pub input: Option<(Time, Input)>,
}

/// FNV-1a over the outputs of an agent as text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Hash(u64);

impl Default for Hash {
    fn default() -> Self {
        Hash(0xcbf2_9ce4_8422_2325)
    }
}

impl Write for Hash {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
        Ok(())
    }
}

impl Hash {
    /// Takes in what a poll gave.
    fn output(&mut self, output: Option<&Output>) {
        // Hashing cannot fail.
        let _never = match output {
            Some(output) => writeln!(self, "{output:?}"),
            None => self.write_str("-\n"),
        };
    }
}
