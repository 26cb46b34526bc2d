//! What happened lately, for whoever asks.

use std::collections::VecDeque;
use std::time::SystemTime;

use fairway_bgp::Event;
use tokio::sync::broadcast;

/// So many events are kept, and a reader may be so far behind.
const KEPT: usize = 1024;

/// One event and when it happened.
#[derive(Clone, Debug)]
pub struct Record {
    /// Wall clock.
    pub at: SystemTime,
    /// What happened.
    pub event: Event,
}

/// The last events, oldest first.
#[derive(Debug)]
pub struct EventLog {
    records: VecDeque<Record>,
    followers: broadcast::Sender<Record>,
}

impl EventLog {
    /// Without events.
    pub fn new() -> Self {
        Self { records: VecDeque::new(), followers: broadcast::channel(KEPT).0 }
    }

    /// Something happened now. The oldest event makes room.
    pub fn push(&mut self, event: Event) {
        if self.records.len() == KEPT {
            self.records.pop_front();
        }
        let record = Record { at: SystemTime::now(), event };
        self.records.push_back(record.clone());
        // That nobody follows is no error.
        let _nobody = self.followers.send(record);
    }

    /// What is kept.
    pub(crate) fn records(&self) -> Vec<Record> {
        self.records.iter().cloned().collect()
    }

    /// What happens from now on.
    pub(crate) fn follow(&self) -> broadcast::Receiver<Record> {
        self.followers.subscribe()
    }
}

impl Default for EventLog {
    fn default() -> Self {
        Self::new()
    }
}
