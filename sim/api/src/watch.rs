//! Watchers: each hears of changes late, in its own order, but never of an older state of an object after a newer one.
//!
//! They can lose the server, which then is as the clients of real servers see it: nothing arrives, and when the server is
//! back the watcher asks again after a while and hears of what it missed, or gets everything as new lists if the history
//! is gone. Misbehaviour is played as what comes out of such a client.

use std::collections::{BTreeMap, BTreeSet};

use fairway_objects::{Delta, Kind, ObjectKey};

use crate::Time;
use crate::misbehave::Misbehaviour;
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
    /// What became due while the server could not be reached, or before the watch was taken up again.
    held: Vec<Due>,
    /// When it has a connection again.
    back: Time,
}

/// From a connection that broke to the next attempt, and the longest time between attempts: those of `backends/kube`.
const AGAIN: (f64, f64) = (0.25, 0.5);
const AGAIN_MAX: f64 = 30.0;
/// Attempts that a server may refuse one after the other.
const REFUSALS: u32 = 20;

/// From a list to the first event of the watch after it.
const AFTER_LIST: Time = Time::from_millis(2);

/// What is due to a watcher.
#[derive(Clone, Debug)]
enum Due {
    /// The lists of all kinds.
    Lists,
    /// It has a connection again, and hears what was held back.
    Back,
    /// The state of one object as it is when the notification arrives.
    Object(ObjectKey),
}

/// All watchers and what is under way to them.
#[derive(Debug)]
pub(crate) struct Watchers {
    /// Misbehaviour has dice of its own, so that the rest of the cluster is the same without it.
    dice: oorandom::Rand64,
    mood: Misbehaviour,
    /// Since when the server cannot be reached.
    down: Option<Time>,
    next: u64,
    sequence: u64,
    all: BTreeMap<WatcherId, Watcher>,
    queue: BTreeMap<(Time, u64), (WatcherId, Due)>,
}

impl Watcher {
    /// It knows nothing from which it could go on: what it hears next is a list.
    fn forget(&mut self) {
        self.listed = false;
        self.pending.clear();
        self.held = vec![Due::Lists];
    }
}

/// Pods are watched by field selector: only those of the watcher's node.
fn concerns(watcher: &Watcher, stored: &Stored, kind: Kind) -> bool {
    kind != Kind::Pod || text(&stored.value, "/spec/nodeName") == Some(watcher.node.as_str())
}

impl Watchers {
    pub(crate) fn new(seed: u64) -> Watchers {
        Watchers {
            dice: oorandom::Rand64::new(u128::from(seed) ^ (1 << 64)),
            mood: Misbehaviour::default(),
            down: None,
            next: 0,
            sequence: 0,
            all: BTreeMap::new(),
            queue: BTreeMap::new(),
        }
    }

    pub(crate) fn misbehave(&mut self, mood: Misbehaviour) {
        self.mood = mood;
    }

    /// Throws the dice: true with a probability.
    fn chance(&mut self, probability: f64) -> bool {
        probability > 0.0 && self.dice.rand_float() < probability
    }

    /// Seconds between two bounds.
    fn between(&mut self, low: f64, high: f64) -> Time {
        Time::from_secs_f64(low + (high - low).max(0.0) * self.dice.rand_float())
    }

    pub(crate) const fn is_reachable(&self) -> bool {
        self.down.is_none()
    }

    /// The server's process ends, or is there again.
    pub(crate) fn reachable(&mut self, now: Time, yes: bool) {
        if !yes {
            self.down.get_or_insert(now);
            return;
        }
        let Some(since) = self.down.take() else { return };
        // Whoever tried for long waits long between attempts.
        let longest = now.saturating_sub(since).as_secs_f64().clamp(AGAIN.1, AGAIN_MAX);
        for id in self.all.keys().copied().collect::<Vec<_>>() {
            let delay = self.between(AGAIN.0, longest);
            self.reconnects(now + delay, id);
        }
    }

    /// Whether the server cannot be reached, or the watcher has not yet found out that it can.
    pub(crate) fn cut_off(&self, now: Time, id: WatcherId) -> bool {
        self.down.is_some() || self.all.get(&id).is_some_and(|watcher| watcher.back > now)
    }

    /// A watcher asks again at that time, or when the server no longer refuses.
    fn reconnects(&mut self, at: Time, id: WatcherId) {
        let mut at = at;
        for _ in 0..REFUSALS {
            if self.chance(self.mood.too_many) {
                at += Time::from_secs(1);
            } else if self.chance(self.mood.internal) {
                at += self.between(AGAIN.0, AGAIN.1);
            } else {
                break;
            }
        }
        let gone = self.chance(self.mood.gone);
        let Some(watcher) = self.all.get_mut(&id) else { return };
        watcher.back = at;
        if gone {
            watcher.forget();
        }
        self.schedule(at, id, Due::Back);
    }

    /// All watches are cut, and have to list everything anew.
    pub(crate) fn compacted(&mut self, now: Time) {
        for id in self.all.keys().copied().collect::<Vec<_>>() {
            let delay = self.between(AGAIN.0, AGAIN.1);
            if let Some(watcher) = self.all.get_mut(&id) {
                watcher.forget();
            }
            if self.down.is_none() {
                self.reconnects(now + delay, id);
            }
        }
    }

    pub(crate) fn add(&mut self, at: Time, node: &str) -> WatcherId {
        let id = WatcherId(self.next);
        self.next += 1;
        let watcher =
            Watcher { node: node.into(), listed: false, pending: BTreeSet::new(), held: vec![], back: Time::ZERO };
        self.all.insert(id, watcher);
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
            let late = self.mood.slow + self.part_of(self.mood.reorder);
            self.schedule(at + late, id, Due::Object(key.clone()));
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
            let down = self.down.is_some();
            let Some(watcher) = self.all.get_mut(&id) else { continue };
            if down || (watcher.back > now && !matches!(due, Due::Back)) {
                watcher.held.push(due);
                continue;
            }
            let mut deltas = vec![];
            match due {
                Due::Back => {
                    for due in std::mem::take(&mut watcher.held) {
                        self.schedule(now, id, due);
                    }
                    continue;
                }
                Due::Lists => {
                    watcher.listed = true;
                    for kind in Kind::ALL {
                        self.list(now, id, kind, store, &mut deltas);
                    }
                }
                Due::Object(key) => {
                    watcher.pending.remove(&key);
                    let name = &key.name;
                    let at = (key.kind.as_str().to_string(), name.namespace.to_string(), name.name.to_string());
                    let stored = store.get(&at).filter(|s| concerns(watcher, s, key.kind));
                    deltas.push(stored.and_then(|s| s.delta.clone()).unwrap_or(Delta::Del(key)));
                    if self.chance(self.mood.duplicate) {
                        deltas.extend(deltas.last().cloned());
                    }
                    if self.chance(self.mood.disconnect) {
                        let delay = self.between(AGAIN.0, AGAIN.1);
                        self.reconnects(now + delay, id);
                    }
                }
            }
            match deliveries.last_mut() {
                Some((last, list)) if *last == id => list.extend(deltas),
                _ => deliveries.push((id, deltas)),
            }
        }
        deliveries
    }

    /// A random part of a duration.
    fn part_of(&mut self, duration: Time) -> Time {
        if duration.is_zero() { duration } else { duration.mul_f64(self.dice.rand_float()) }
    }

    /// The list of one kind. One that is stale shows the oldest state that is remembered, and then what changed since
    /// is told, as a watch from there does.
    fn list(&mut self, now: Time, id: WatcherId, kind: Kind, store: &Store, deltas: &mut Vec<Delta>) {
        let stale = self.chance(self.mood.stale);
        let Some(watcher) = self.all.get_mut(&id) else { return };
        deltas.push(Delta::Relist(kind));
        let changes = store.since(kind.as_str(), store.oldest(kind.as_str())).ok().filter(|_| stale);
        let Some(changes) = changes else {
            let objects = store.of_kind(kind.as_str()).map(|(_, stored)| stored);
            deltas.extend(objects.filter(|s| concerns(watcher, s, kind)).filter_map(|s| s.delta.clone()));
            deltas.push(Delta::Listed(kind));
            return;
        };
        // The first change of each object knows how it was before.
        let mut before: BTreeMap<ObjectKey, Option<Delta>> = BTreeMap::new();
        for change in changes {
            let key = ObjectKey::new(kind, &change.namespace, &change.name);
            let old = || change.before.as_ref().and_then(|value| fairway_decode::decode(value).ok());
            before.entry(key).or_insert_with(old);
        }
        let unchanged = store.of_kind(kind.as_str()).map(|(_, stored)| stored);
        let unchanged = unchanged.filter(|s| watched(s).is_some_and(|key| !before.contains_key(&key)));
        deltas.extend(unchanged.filter(|s| concerns(watcher, s, kind)).filter_map(|s| s.delta.clone()));
        deltas.extend(before.values().flatten().cloned());
        deltas.push(Delta::Listed(kind));
        for key in before.into_keys() {
            if watcher.pending.insert(key.clone()) {
                self.queue.insert((now + AFTER_LIST, self.sequence), (id, Due::Object(key)));
                self.sequence += 1;
            }
        }
    }
}
