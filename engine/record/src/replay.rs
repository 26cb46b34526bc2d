//! An agent that lives through a recording.

use alloc::vec::Vec;
use core::fmt;

use fairway_agent::{Agent, Input, Output, Time};
use serde::de::DeserializeOwned;

use crate::{Entry, Hash, Header, MAGIC};

/// Why bytes are no recording.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadError {
    /// They begin otherwise.
    NotARecording,
    /// Its beginning is of another version, or damaged.
    Header,
}

impl fmt::Display for ReadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ReadError::NotARecording => "this is no recording of fairway",
            ReadError::Header => "the recording was made by a version whose configuration this one cannot read",
        })
    }
}

impl core::error::Error for ReadError {}

/// One input, played.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// Its number, from 1.
    pub number: u64,
    /// Time since the agent's start.
    pub at: Time,
    /// What the agent was told.
    pub input: Input,
    /// What it wanted then.
    pub outputs: Vec<Output>,
    /// Whether that is what the recorded one wanted; `None` if the recording was cut here.
    pub identical: Option<bool>,
}

/// The first step at which agent and recording differ.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// The step.
    pub step: u64,
    /// Hash of the outputs that were recorded.
    pub recorded: u64,
    /// Hash of the outputs now.
    pub now: u64,
}

/// How the recording ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// The agent ended.
    Complete,
    /// The process died, or the limit of the file was reached.
    Cut,
    /// This cannot be read: another version made it, or it is damaged.
    Unreadable,
}

/// A recording that is played: an iterator of steps.
pub struct Replay<'a> {
    header: Header,
    rest: &'a [u8],
    agent: Agent,
    /// The input that the entry just read has.
    next: Option<(Time, Input)>,
    number: u64,
    ended: Option<Ended>,
    difference: Option<Difference>,
}

/// Polls in a row that gave nothing.
const VAIN: u32 = 1000;

/// Takes a frame from the front. `None`: there is no whole one.
fn frame<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = usize::try_from(u32::from_le_bytes(rest.get(..4)?.try_into().ok()?)).ok()?;
    let bytes = rest.get(4..)?.get(..length)?;
    *rest = rest.get(4 + length..)?;
    Some(bytes)
}

/// All of the bytes have to be used: otherwise the types are not those of the recording.
fn read<T: DeserializeOwned>(bytes: &[u8]) -> Option<T> {
    postcard::take_from_bytes(bytes).ok().filter(|(_, rest)| rest.is_empty()).map(|(value, _)| value)
}

impl<'a> Replay<'a> {
    /// Prepares the agent of a recording.
    ///
    /// # Errors
    /// [`ReadError`] if the bytes are none.
    pub fn new(bytes: &'a [u8]) -> Result<Replay<'a>, ReadError> {
        let mut rest = bytes.strip_prefix(MAGIC).ok_or(ReadError::NotARecording)?;
        let header: Header = frame(&mut rest).and_then(read).ok_or(ReadError::Header)?;
        let agent = Agent::new(header.config.clone(), header.seed);
        let mut replay = Replay { header, rest, agent, next: None, number: 0, ended: None, difference: None };
        // Before its first input an agent was asked for nothing.
        replay.next = replay.entry().and_then(|entry| entry.input);
        Ok(replay)
    }

    /// How the agent started.
    pub const fn header(&self) -> &Header {
        &self.header
    }

    /// How the recording ended, once the iterator has.
    pub const fn ended(&self) -> Option<Ended> {
        self.ended
    }

    /// The first difference so far.
    pub const fn difference(&self) -> Option<&Difference> {
        self.difference.as_ref()
    }

    /// The agent as it is now.
    pub const fn agent(&self) -> &Agent {
        &self.agent
    }

    fn entry(&mut self) -> Option<Entry> {
        let Some(bytes) = frame(&mut self.rest) else {
            self.ended = Some(Ended::Cut);
            return None;
        };
        let entry: Option<Entry> = read(bytes);
        self.ended = match &entry {
            None => Some(Ended::Unreadable),
            Some(Entry { input: None, .. }) => Some(Ended::Complete),
            Some(_) => None,
        };
        entry
    }
}

impl Iterator for Replay<'_> {
    type Item = Step;

    fn next(&mut self) -> Option<Step> {
        let (at, input) = self.next.take()?;
        self.number += 1;
        self.agent.handle(at, input.clone());
        let entry = self.entry();
        let mut outputs = Vec::new();
        let mut hash = Hash::default();
        let mut polls = 0;
        // No driver asks again and again in vain: a number that says so is damaged.
        let mut vain = 0;
        // As often as then: inputs that came without a poll between are computed together. Where the recording was cut,
        // until there is nothing more.
        while entry.as_ref().is_none_or(|entry| polls < entry.polls) {
            polls += 1;
            let output = self.agent.poll();
            hash.output(output.as_ref());
            vain = if output.is_none() { vain + 1 } else { 0 };
            outputs.extend(output);
            if vain > if entry.is_none() { 0 } else { VAIN } {
                break;
            }
        }
        let identical = entry.as_ref().map(|entry| entry.hash == hash.0);
        if let Some(entry) = entry {
            if entry.hash != hash.0 && self.difference.is_none() {
                self.difference = Some(Difference { step: self.number, recorded: entry.hash, now: hash.0 });
            }
            self.next = entry.input;
        }
        Some(Step { number: self.number, at, input, outputs, identical })
    }
}

impl fmt::Debug for Replay<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Replay").field("number", &self.number).field("ended", &self.ended).finish_non_exhaustive()
    }
}

impl Header {
    /// Whether this very version made the recording.
    pub fn is_of(&self, version: &str) -> bool {
        self.version == version
    }
}
