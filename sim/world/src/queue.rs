//! The one event queue: virtual time, and a total order for what happens at the same instant.

use std::collections::BTreeMap;

use crate::Time;

/// Where an event stands in the queue. Earlier time first, then earlier scheduled first.
pub(crate) type Ticket = (Time, u64);

/// Events by time. Two runs that schedule the same events get the same order.
#[derive(Debug)]
pub(crate) struct Queue<E> {
    now: Time,
    sequence: u64,
    events: BTreeMap<Ticket, E>,
}

impl<E> Queue<E> {
    pub(crate) fn new() -> Self {
        Queue { now: Time::ZERO, sequence: 0, events: BTreeMap::new() }
    }

    pub(crate) fn now(&self) -> Time {
        self.now
    }

    /// When the next event happens.
    pub(crate) fn next_at(&self) -> Option<Time> {
        self.events.first_key_value().map(|((at, _), _)| *at)
    }

    /// Schedules an event, not before now.
    pub(crate) fn at(&mut self, at: Time, event: E) -> Ticket {
        let ticket = (at.max(self.now), self.sequence);
        self.sequence += 1;
        self.events.insert(ticket, event);
        ticket
    }

    /// Schedules an event after a delay.
    pub(crate) fn after(&mut self, delay: Time, event: E) -> Ticket {
        self.at(self.now.saturating_add(delay), event)
    }

    /// Takes an event back that has not happened yet.
    pub(crate) fn cancel(&mut self, ticket: Ticket) {
        self.events.remove(&ticket);
    }

    /// Time moves on to the next event, if there is one not after `limit`.
    pub(crate) fn pop(&mut self, limit: Time) -> Option<E> {
        if self.next_at()? > limit {
            return None;
        }
        let ((at, _), event) = self.events.pop_first()?;
        self.now = at;
        Some(event)
    }

    /// Time moves on without an event.
    pub(crate) fn skip_to(&mut self, at: Time) {
        self.now = self.now.max(at);
    }
}
