//! Which Events are written, by whom and when.

use alloc::collections::{BTreeMap, BTreeSet, VecDeque};
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;

use fairway_objects::{Kind, Notice, ObjectKey, Subject};

use crate::Time;
use crate::io::{Event, Refusal};

/// What is written at most. Those of client-go for one object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Events about one object at once.
    pub object_burst: u32,
    /// One more about it in this time.
    pub object_refill: Time,
    /// Events of this node at once.
    pub total_burst: u32,
    /// One more in this time.
    pub total_refill: Time,
    /// Things that happened once and wait. More are dropped.
    pub queue: usize,
    /// So many nodes may write one Event about an object that all see.
    pub writers: u32,
    /// Each of them waits so much longer than the one before it.
    pub turn: Time,
    /// A notice that still stands is counted again after this, so that its Event is not forgotten (they last an hour).
    pub heartbeat: Time,
    /// Pause after the first and after the longest row of failures.
    pub retry: (Time, Time),
    /// Pause after "you may not".
    pub forbidden: Time,
}

impl Default for Limits {
    fn default() -> Self {
        let s = Time::from_secs;
        Limits {
            object_burst: 25,
            object_refill: s(300),
            total_burst: 100,
            total_refill: s(1),
            queue: 1000,
            writers: 3,
            turn: s(10),
            heartbeat: s(1800),
            retry: (s(1), s(60)),
            forbidden: s(600),
        }
    }
}

/// Longest `note` and `reason` that the API takes, and the part of a name that is the object's.
const NOTE_MAX: usize = 1024;
const NAME_MAX: usize = 230;
/// Names of Events that this process wrote and remembers.
const KNOWN_MAX: usize = 4096;

/// Tokens that come back with time.
#[derive(Clone, Copy, Debug)]
struct Bucket {
    tokens: u32,
    /// When `tokens` was right.
    at: Time,
}

impl Bucket {
    fn new(burst: u32, at: Time) -> Bucket {
        Bucket { tokens: burst, at }
    }

    /// Brings it to the present. Says when there is a token.
    fn look(&mut self, now: Time, burst: u32, refill: Time) -> Time {
        let refill = refill.max(Time::from_millis(1));
        let came = now.saturating_sub(self.at).as_millis() / refill.as_millis();
        let came = u32::try_from(came).unwrap_or(u32::MAX);
        if self.tokens.saturating_add(came) >= burst {
            *self = Bucket { tokens: burst, at: now };
        } else {
            self.tokens += came;
            self.at += refill * came;
        }
        if self.tokens > 0 { now } else { self.at + refill }
    }
}

#[derive(Clone, Debug)]
struct Standing {
    event: Event,
    /// Every node sees its cause.
    shared: bool,
    /// When it may be written next; it is in `due` under this time. `None`: never, or it is under way.
    due: Option<Time>,
}

/// Turns notices about Kubernetes' objects into Events.
///
/// - The name of an Event is made of the object and a hash of what is said, so the same is the same everywhere.
/// - What all nodes see alike is written by few: nodes are put into an order by a hash of the Event's name and theirs,
///   and only the first three may write, each some time after the one before. Whoever comes second finds that the Event
///   exists. So a thousand nodes make at most three requests for one cause, and two of the three may be dead. A Node is
///   written about by itself.
/// - A notice that stands is counted again every half hour, and when it comes back, by whoever wrote it.
/// - One request is under way at a time, with a limit for each object and in total. A notice that has to wait waits as
///   long as it stands. After failures there is a growing pause, and after "you may not" a long one.
#[derive(Clone, Debug)]
pub struct Recorder {
    limits: Limits,
    /// This node.
    node: Arc<str>,
    nodes: BTreeSet<Arc<str>>,
    /// Until then it is not known who is first.
    nodes_listed: bool,
    standing: BTreeMap<Arc<str>, Standing>,
    due: BTreeSet<(Time, Arc<str>)>,
    /// What happened once.
    once: VecDeque<Event>,
    objects: BTreeMap<ObjectKey, Bucket>,
    total: Bucket,
    flight: Option<Event>,
    /// Names of Events that we wrote, the oldest first.
    known: BTreeSet<Arc<str>>,
    order: VecDeque<Arc<str>>,
    failures: u32,
    not_before: Time,
    trouble: Option<String>,
    /// Written, and given up.
    counts: (u64, u64),
}

/// FNV-1a of 64 bits, made to depend on all bits of the last octet as well.
fn hash(texts: &[&str]) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for text in texts {
        for byte in text.bytes().chain([0xff]) {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
    hash ^= hash >> 32;
    hash = hash.wrapping_mul(0xd6e8_feb8_6659_fd93);
    hash ^ (hash >> 32)
}

/// The beginning of a text, in so many octets.
fn cut(text: &str, max: usize) -> &str {
    let mut end = max.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.get(..end).unwrap_or_default()
}

/// The reason of a notice that has none of its own.
pub fn reason(notice: &Notice) -> &'static str {
    if notice.field.starts_with("metadata.annotations") { "IgnoredAnnotation" } else { "NotInEffect" }
}

impl Recorder {
    /// A recorder that knows no other node.
    pub fn new(node: Arc<str>, limits: Limits) -> Self {
        Recorder {
            node,
            nodes: BTreeSet::new(),
            nodes_listed: false,
            standing: BTreeMap::new(),
            due: BTreeSet::new(),
            once: VecDeque::new(),
            objects: BTreeMap::new(),
            total: Bucket::new(limits.total_burst, Time::ZERO),
            limits,
            flight: None,
            known: BTreeSet::new(),
            order: VecDeque::new(),
            failures: 0,
            not_before: Time::ZERO,
            trouble: None,
            counts: (0, 0),
        }
    }

    /// A node of the cluster exists, or does not any more.
    pub fn node(&mut self, name: &Arc<str>, exists: bool) {
        if exists {
            self.nodes.insert(name.clone());
        } else {
            self.nodes.remove(name);
        }
    }

    /// All nodes are known from now on.
    pub const fn nodes_listed(&mut self) {
        self.nodes_listed = true;
    }

    /// What the API server has against our Events.
    pub fn trouble(&self) -> Option<&str> {
        self.trouble.as_deref()
    }

    /// Events written, and given up because they were refused or too many.
    pub const fn counts(&self) -> (u64, u64) {
        self.counts
    }

    fn event(&self, object: &ObjectKey, warning: bool, reason: &str, field: &str, text: &str) -> Event {
        let note = if field.is_empty() { String::from(text) } else { format!("{field}: {text}") };
        let kind = object.kind.as_str();
        let sum = hash(&[kind, &object.name.namespace, &object.name.name, reason, &note]);
        // Names of objects are names of Events, but for their length.
        let name = format!("{}.{sum:016x}", cut(&object.name.name, NAME_MAX));
        Event {
            name: name.into(),
            object: object.clone(),
            warning,
            reason: reason.into(),
            note: cut(&note, NOTE_MAX).into(),
            instance: self.node.clone(),
            again: false,
        }
    }

    /// A notice stands from now on. `ours`: this node alone sees its cause.
    pub fn raise(&mut self, now: Time, notice: &Notice, reason: &str, ours: bool) {
        let Subject::Object(object) = &notice.subject else { return };
        // Each node says of itself what is wrong with it.
        let own = object.kind == Kind::Node && object.name.name == self.node;
        if object.kind == Kind::Node && !own {
            return;
        }
        let event = self.event(object, true, reason, &notice.field, &notice.reason);
        let name = event.name.clone();
        if self.flight.as_ref().is_some_and(|flying| flying.name == name) {
            // It was taken back and is there again while it is written.
            self.standing.insert(name, Standing { event, shared: !own && !ours, due: None });
            return;
        }
        self.schedule(now, Standing { event, shared: !own && !ours, due: None });
    }

    /// A notice stands no more. What was written stays: it did stand.
    pub fn clear(&mut self, notice: &Notice, reason: &str) {
        let Subject::Object(object) = &notice.subject else { return };
        let name = self.event(object, true, reason, &notice.field, &notice.reason).name;
        if let Some(Standing { due: Some(due), .. }) = self.standing.remove(&name) {
            self.due.remove(&(due, name));
        }
    }

    /// Something happened, and is worth an Event of type Normal.
    pub fn happened(&mut self, object: &ObjectKey, reason: &str, text: &str) {
        if self.once.len() < self.limits.queue {
            let event = self.event(object, false, reason, "", text);
            self.once.push_back(Event { again: true, ..event });
        } else {
            self.counts.1 += 1;
        }
    }

    fn schedule(&mut self, due: Time, standing: Standing) {
        let name = standing.event.name.clone();
        if let Some(Standing { due: Some(old), .. }) = self.standing.get(&name) {
            self.due.remove(&(*old, name.clone()));
        }
        self.due.insert((due, name.clone()));
        self.standing.insert(name, Standing { due: Some(due), ..standing });
    }

    /// Our place among those who may write this; `None`: not at all.
    fn rank(&self, name: &str) -> Option<u32> {
        let mine = (hash(&[name, &self.node]), &self.node);
        let before = self.nodes.iter().filter(|node| **node != self.node && (hash(&[name, node]), *node) < mine);
        // No more of them are looked for than matter.
        let before = before.take(self.limits.writers as usize).count();
        u32::try_from(before).ok().filter(|rank| *rank < self.limits.writers)
    }

    /// When [`poll`](Self::poll) may have something.
    pub fn deadline(&self) -> Option<Time> {
        if self.flight.is_some() {
            return None;
        }
        let once = (!self.once.is_empty()).then_some(Time::ZERO);
        let due = self.due.first().map(|(due, _)| *due).filter(|_| self.nodes_listed);
        once.into_iter().chain(due).min().map(|at| at.max(self.not_before))
    }

    /// The next Event to write, if any.
    pub fn poll(&mut self, now: Time) -> Option<Event> {
        if self.flight.is_some() || now < self.not_before {
            return None;
        }
        let Limits { total_burst, total_refill, .. } = self.limits;
        let at = self.total.look(now, total_burst, total_refill);
        if at > now {
            if !self.once.is_empty() || self.due.first().is_some_and(|(due, _)| *due <= now) {
                self.not_before = at;
            }
            return None;
        }
        while let Some(event) = self.once.pop_front() {
            // What happened is not worth waiting for.
            if self.token(now, &event.object) > now {
                self.counts.1 += 1;
                continue;
            }
            return Some(self.fly(event));
        }
        if !self.nodes_listed {
            return None;
        }
        while let Some((due, name)) = self.due.first().filter(|(due, _)| *due <= now).cloned() {
            self.due.remove(&(due, name.clone()));
            let Some(mut standing) = self.standing.remove(&name) else { continue };
            standing.due = None;
            let known = self.known.contains(&name);
            if standing.shared && !known {
                let Some(rank) = self.rank(&name) else {
                    self.standing.insert(name, standing);
                    continue;
                };
                // Its turn begins now, and comes when it is found here again: as one that all nodes need not see.
                standing.shared = false;
                if rank > 0 {
                    self.schedule(now + self.limits.turn * rank, standing);
                    continue;
                }
                standing.event.again = true;
            }
            let at = self.token(now, &standing.event.object);
            if at > now {
                self.schedule(at, standing);
                continue;
            }
            let mut event = standing.event.clone();
            event.again |= known;
            self.standing.insert(name, standing);
            return Some(self.fly(event));
        }
        None
    }

    /// When there is a token for an object. It is taken by [`fly`](Self::fly).
    fn token(&mut self, now: Time, object: &ObjectKey) -> Time {
        let Limits { object_burst, object_refill, .. } = self.limits;
        match self.objects.get_mut(object) {
            Some(bucket) => bucket.look(now, object_burst, object_refill),
            None => {
                // A bucket that is full again says nothing.
                if self.objects.len() >= KNOWN_MAX {
                    self.objects.retain(|_, bucket| {
                        bucket.look(now, object_burst, object_refill);
                        bucket.tokens < object_burst
                    });
                }
                self.objects.insert(object.clone(), Bucket::new(object_burst, now));
                now
            }
        }
    }

    fn fly(&mut self, event: Event) -> Event {
        self.total.tokens = self.total.tokens.saturating_sub(1);
        if let Some(bucket) = self.objects.get_mut(&event.object) {
            bucket.tokens = bucket.tokens.saturating_sub(1);
        }
        self.flight = Some(event.clone());
        event
    }

    /// The API server answered about the Event of this name.
    pub fn answer(&mut self, now: Time, name: &str, result: &Result<(), Refusal>) {
        let Some(event) = self.flight.take_if(|flying| *flying.name == *name) else { return };
        let Limits { retry, heartbeat, forbidden, .. } = self.limits;
        self.trouble = None;
        let pause = match result {
            Ok(()) => {
                self.counts.0 += 1;
                self.failures = 0;
                if event.warning {
                    self.remember(&event.name);
                }
                if let Some(standing) = self.standing.get(&event.name).cloned() {
                    self.schedule(now + heartbeat, standing);
                }
                return;
            }
            // Somebody else has said it, or there is nobody to say it of.
            Err(Refusal::Conflict | Refusal::Gone) => {
                self.failures = 0;
                return;
            }
            Err(Refusal::Refused(reason)) => {
                self.counts.1 += 1;
                self.trouble = Some(reason.clone());
                return;
            }
            Err(Refusal::Forbidden(reason)) => {
                self.trouble = Some(reason.clone());
                forbidden
            }
            Err(Refusal::Unreachable { reason, after }) => {
                self.trouble = Some(reason.clone());
                let pause = retry.0 * 2u32.saturating_pow(self.failures.min(16));
                self.failures += 1;
                pause.min(retry.1).max(after.unwrap_or_default())
            }
        };
        self.not_before = now + pause;
        // It comes again after the pause.
        if !event.warning {
            self.once.push_front(event);
        } else if let Some(standing) = self.standing.get(&event.name).cloned() {
            self.schedule(self.not_before, standing);
        }
    }

    fn remember(&mut self, name: &Arc<str>) {
        if self.known.insert(name.clone()) {
            self.order.push_back(name.clone());
            if self.order.len() > KNOWN_MAX
                && let Some(oldest) = self.order.pop_front()
            {
                self.known.remove(&oldest);
            }
        }
    }
}
