//! Watchers: each hears of changes late, in its own order, but never of an older state of an object after a newer one.

use std::collections::{BTreeMap, BTreeSet};

use fairway_objects::{Delta, Kind, ObjectKey};

use crate::Time;
use crate::store::{Store, Stored, text, watched};

/// One watching node agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct WatcherId(u64);

#[derive(Debug)]
struct Watcher {
    node: String,
    /// Whether the first lists were delivered; before that a change says nothing that the list will not.
    listed: bool,
    /// Objects with a notification under way.
    pending: BTreeSet<ObjectKey>,
}

/// What is due to a watcher.
#[derive(Clone, Debug)]
enum Due {
    /// The lists of all kinds.
    Lists,
    /// The state of one object as it is when the notification arrives.
    Object(ObjectKey),
}

/// All watchers and what is under way to them.
#[derive(Debug, Default)]
pub(crate) struct Watchers {
    next: u64,
    sequence: u64,
    all: BTreeMap<WatcherId, Watcher>,
    queue: BTreeMap<(Time, u64), (WatcherId, Due)>,
}

/// Pods are watched by field selector: only those of the watcher's node.
fn concerns(watcher: &Watcher, stored: &Stored, kind: Kind) -> bool {
    kind != Kind::Pod || text(&stored.value, "/spec/nodeName") == Some(watcher.node.as_str())
}

impl Watchers {
    pub(crate) fn add(&mut self, at: Time, node: &str) -> WatcherId {
        let id = WatcherId(self.next);
        self.next += 1;
        self.all.insert(id, Watcher { node: node.into(), listed: false, pending: BTreeSet::new() });
        self.schedule(at, id, Due::Lists);
        id
    }

    pub(crate) fn remove(&mut self, id: WatcherId) {
        self.all.remove(&id);
    }

    pub(crate) fn up_to_date(&self, id: WatcherId) -> bool {
        self.all.get(&id).is_some_and(|w| w.listed && w.pending.is_empty())
    }

    fn schedule(&mut self, at: Time, id: WatcherId, due: Due) {
        self.queue.insert((at, self.sequence), (id, due));
        self.sequence += 1;
    }

    /// An object changed, appeared or vanished: everyone it concerns will hear of it.
    pub(crate) fn changed(&mut self, stored: &Stored, mut lag: impl FnMut() -> Time, now: Time) {
        let Some(key) = watched(stored) else { return };
        let mut due = vec![];
        for (id, watcher) in &mut self.all {
            let concerned = concerns(watcher, stored, key.kind);
            if watcher.listed && concerned && watcher.pending.insert(key.clone()) {
                due.push((now + lag(), *id));
            }
        }
        for (at, id) in due {
            self.schedule(at, id, Due::Object(key.clone()));
        }
    }

    pub(crate) fn deadline(&self) -> Option<Time> {
        self.queue.first_key_value().map(|((at, _), _)| *at)
    }

    /// What arrives by now, one delivery per watcher and instant.
    pub(crate) fn deliver(&mut self, now: Time, store: &Store) -> Vec<(WatcherId, Vec<Delta>)> {
        let mut deliveries: Vec<(WatcherId, Vec<Delta>)> = vec![];
        while self.deadline().is_some_and(|at| at <= now) {
            let Some((_, (id, due))) = self.queue.pop_first() else { break };
            let Some(watcher) = self.all.get_mut(&id) else { continue };
            let mut deltas = vec![];
            match due {
                Due::Lists => {
                    watcher.listed = true;
                    for kind in Kind::ALL {
                        deltas.push(Delta::Relist(kind));
                        let objects = store.of_kind(kind.as_str()).map(|(_, stored)| stored);
                        deltas.extend(objects.filter(|s| concerns(watcher, s, kind)).filter_map(|s| s.delta.clone()));
                        deltas.push(Delta::Listed(kind));
                    }
                }
                Due::Object(key) => {
                    watcher.pending.remove(&key);
                    let name = &key.name;
                    let at = (key.kind.as_str().to_string(), name.namespace.to_string(), name.name.to_string());
                    let stored = store.get(&at).filter(|s| concerns(watcher, s, key.kind));
                    deltas.push(stored.and_then(|s| s.delta.clone()).unwrap_or(Delta::Del(key)));
                }
            }
            match deliveries.last_mut() {
                Some((last, list)) if *last == id => list.extend(deltas),
                _ => deliveries.push((id, deltas)),
            }
        }
        deliveries
    }
}
