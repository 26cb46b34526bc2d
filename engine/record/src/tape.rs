//! An agent that is recorded.

use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use core::ops::Deref;

use fairway_agent::{Agent, Input, Output, Time};
use fairway_objects::NodeConfig;
use serde::Serialize;

use crate::redact::Names;
use crate::{Entry, Hash, Header, MAGIC};

/// Where the bytes of a recording go, in order. Once it says false it wants no more.
pub type Sink = Box<dyn FnMut(Vec<u8>) -> bool + Send>;

/// An agent, recorded if somebody wants that. What does not change it is reached as if it were the agent.
pub struct Taped {
    agent: Agent,
    tape: Option<Tape>,
}

struct Tape {
    sink: Sink,
    names: Names,
    polls: u32,
    hash: Hash,
}

impl Tape {
    /// Ends the account of the last input's outputs.
    fn entry(&mut self, input: Option<(Time, Input)>) -> bool {
        let (polls, hash) = (core::mem::take(&mut self.polls), core::mem::take(&mut self.hash));
        match frame(&Entry { polls, hash: hash.0, input }) {
            Some(bytes) => (self.sink)(bytes),
            None => false,
        }
    }
}

fn frame(value: &impl Serialize) -> Option<Vec<u8>> {
    let mut bytes = postcard::to_allocvec(value).ok()?;
    let length = u32::try_from(bytes.len()).ok()?;
    bytes.splice(0..0, length.to_le_bytes());
    Some(bytes)
}

impl Taped {
    /// An agent that nobody records.
    pub fn new(config: NodeConfig, seed: u64) -> Taped {
        Taped { agent: Agent::new(config, seed), tape: None }
    }

    /// An agent that is recorded from its start, which is at `started_ms` since 1970.
    pub fn recorded(config: NodeConfig, seed: u64, version: &str, started_ms: u64, mut sink: Sink) -> Taped {
        let mut names = Names::default();
        let mut header = Header { version: String::from(version), started_ms, seed, config: config.clone() };
        names.config(&mut header.config);
        let mut bytes = MAGIC.to_vec();
        let fine = frame(&header).is_some_and(|frame| {
            bytes.extend(frame);
            sink(bytes)
        });
        let tape = fine.then(|| Tape { sink, names, polls: 0, hash: Hash::default() });
        Taped { agent: Agent::new(config, seed), tape }
    }

    /// As [`Agent::handle`].
    pub fn handle(&mut self, now: Time, input: Input) {
        if let Some(tape) = &mut self.tape {
            let mut told = input.clone();
            tape.names.input(&mut told);
            if !tape.entry(Some((now, told))) {
                self.tape = None;
            }
        }
        self.agent.handle(now, input);
    }

    /// As [`Agent::arrived`]. Nothing depends on it, so it is not recorded.
    pub fn arrived(&mut self, at: Time) {
        self.agent.arrived(at);
    }

    /// As [`Agent::poll`].
    pub fn poll(&mut self) -> Option<Output> {
        let output = self.agent.poll();
        if let Some(tape) = &mut self.tape {
            tape.polls = tape.polls.saturating_add(1);
            let redacted = output.as_ref().and_then(|output| tape.names.output(output));
            tape.hash.output(redacted.as_ref().or(output.as_ref()));
        }
        output
    }
}

impl Drop for Taped {
    /// What the last input led to is part of the recording.
    fn drop(&mut self) {
        if let Some(tape) = &mut self.tape {
            let _last = tape.entry(None);
        }
    }
}

impl Deref for Taped {
    type Target = Agent;

    fn deref(&self) -> &Agent {
        &self.agent
    }
}

impl fmt::Debug for Taped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Taped").field("agent", &self.agent).field("recorded", &self.tape.is_some()).finish()
    }
}
