use alloc::boxed::Box;
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;
use core::{fmt, mem};

use fairway_desired::{Fault, Op, Outcome, Plane, Table};
use oorandom::Rand32;

use crate::{Allow, Config, Input, Latency, Request, Stats, Time, Tracker};

/// So many faults in a row are worth reporting; fewer happen on a healthy machine.
const REPEATED: u32 = 3;

/// Keeps one plane as it should be.
///
/// | state     | what is known           | what [`poll`](Self::poll) asks for                                 |
/// |-----------|-------------------------|--------------------------------------------------------------------|
/// | cold      | nothing                 | to observe, at once or after a backoff                             |
/// | observing | nothing or an old table | nothing, the answer is awaited                                     |
/// | warm      | the table               | to apply what differs; to observe again when the interval is over  |
///
/// The real-world trouble this type exists for:
///
/// - A restarted daemon finds its earlier work in the kernel. Entries that are right are never touched, so their
///   connections survive.
/// - A lost apply may have happened in part. Nothing is assumed about it: the plane is cold again.
/// - A kernel says "busy". The key waits for itself, longer each time; other keys go on.
/// - A kernel refuses an entry. Repeating that is useless, so the key is parked until its desired value changes or
///   the plane was observed again. The first refusal of a key brings the next observation forward, because the cause
///   may be a change that somebody else made and we do not know of.
/// - Desired state changes while an apply is in flight. An outcome belongs to the value that was sent.
/// - Somebody else changes the kernel. The table is read again at intervals.
pub struct Reconciler<P: Plane> {
    config: Config,
    rand: Rand32,
    owner: Option<Owner<P>>,
    tracker: Tracker<P>,
    /// The actual table is to be trusted.
    warm: bool,
    flight: Flight<P>,
    /// Keys of the apply in flight.
    flying: BTreeSet<P::Key>,
    /// Puts and deletes that could be sent now.
    ready_puts: BTreeSet<P::Key>,
    ready_deletes: BTreeSet<P::Key>,
    /// Keys that differ and whose last answer was not good. A key that is right has no entry.
    troubles: BTreeMap<P::Key, Trouble>,
    /// The keys among them that wait, by time.
    waiting: BTreeSet<(Time, P::Key)>,
    /// Observed entries that are not ours.
    foreign: BTreeSet<P::Key>,
    /// Keys whose being parked may have changed since [`poll_parked`](Self::poll_parked) told of them.
    changed: BTreeSet<P::Key>,
    /// Keys in flight that somebody else may have changed since.
    doubted: BTreeSet<P::Key>,
    /// When to observe next.
    observe_at: Time,
    /// No earlier than then because of a change by somebody else.
    suspect_after: Time,
    /// Somebody else changed the table while it was observed.
    suspected: bool,
    observe_failures: u32,
    apply_failures: u32,
    fault: Option<(Call, Fault)>,
    /// Most ops per transaction at present.
    transaction_max: usize,
    stats: Stats,
    /// When the cause of a change was heard of that is not done yet.
    heard: BTreeMap<P::Key, Time>,
    latency: Latency,
}

/// Whether an entry is ours.
pub type Owner<P> = Box<dyn Fn(&<P as Plane>::Key, &<P as Plane>::Value) -> bool + Send>;

enum Flight<P: Plane> {
    Idle,
    Observing,
    Applying(Vec<Op<P>>),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Call {
    Observe,
    Apply,
}

struct Trouble {
    outcome: Outcome,
    failures: u32,
    wait: Wait,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Wait {
    /// To be tried again as soon as allowed.
    Over,
    Until(Time),
    /// Until something changes.
    Parked,
}

impl Trouble {
    fn parked(&self) -> Option<Outcome> {
        matches!(self.outcome, Outcome::Foreign | Outcome::Refused(_)).then_some(self.outcome)
    }
}

impl<P: Plane> Reconciler<P> {
    /// A cold reconciler that desires nothing. The seed draws jitter only.
    pub fn new(config: Config, seed: u64) -> Self {
        Reconciler {
            config,
            rand: Rand32::new(seed),
            owner: None,
            tracker: Tracker::new(),
            warm: false,
            flight: Flight::Idle,
            flying: BTreeSet::new(),
            ready_puts: BTreeSet::new(),
            ready_deletes: BTreeSet::new(),
            troubles: BTreeMap::new(),
            waiting: BTreeSet::new(),
            foreign: BTreeSet::new(),
            changed: BTreeSet::new(),
            doubted: BTreeSet::new(),
            observe_at: Time::ZERO,
            suspect_after: Time::ZERO,
            suspected: false,
            observe_failures: 0,
            apply_failures: 0,
            fault: None,
            transaction_max: config.batch_max.max(1),
            stats: Stats::default(),
            heard: BTreeMap::new(),
            latency: Latency::default(),
        }
    }

    /// Restricts what is ours to the entries for which `owner` is true. An observed entry that is not ours is never
    /// changed or deleted, and a desired entry over one, or one that would not be ours itself, is parked as
    /// [`Outcome::Foreign`] without being sent. To be called before anything else.
    #[must_use]
    pub fn with_owner(mut self, owner: Owner<P>) -> Self {
        self.owner = Some(owner);
        self
    }

    /// Replaces [`Config::resync`].
    #[must_use]
    pub const fn with_resync(mut self, resync: Time) -> Self {
        self.config.resync = resync;
        self
    }

    /// Changes what should be.
    pub fn desire(&mut self, op: Op<P>) {
        self.desire_since(op, None);
    }

    /// Changes what should be, because of something that was heard of then. How long it takes until it is so is counted
    /// in [`latency`](Self::latency); of several changes of one key the time of the first counts.
    pub fn desire_since(&mut self, op: Op<P>, heard: Option<Time>) {
        let key = op.key().clone();
        if self.tracker.set_desired(op) {
            // What the kernel said about the old value says nothing about the new one.
            self.forget_trouble(&key);
            self.refresh(&key);
            if self.tracker.in_sync(&key) {
                self.heard.remove(&key);
            } else if let Some(heard) = heard {
                self.heard.entry(key).or_insert(heard);
            }
        }
    }

    /// Takes an answer, or notes that time passed.
    pub fn handle(&mut self, now: Time, input: Input<P>) {
        match (input, mem::replace(&mut self.flight, Flight::Idle)) {
            (Input::Observed(answer), Flight::Observing) => match answer {
                Ok(table) => self.observed(now, table),
                Err(fault) => self.failed(now, Call::Observe, fault),
            },
            (Input::Applied(answer), Flight::Applying(ops)) => {
                self.flying.clear();
                match answer {
                    Ok(outcomes) if outcomes.len() == ops.len() => self.applied(now, ops, &outcomes),
                    // An answer that does not fit its question says nothing.
                    Ok(_) => self.lost(now, &ops, Fault::Lost),
                    Err(fault) => self.lost(now, &ops, fault),
                }
                self.doubted.clear();
            }
            (_, flight) => self.flight = flight,
        }
        self.wake(now);
    }

    /// What to do next, if anything. To be called until `None` after each change.
    pub fn poll(&mut self, now: Time, allow: Allow<'_, P>) -> Option<Request<P>> {
        self.wake(now);
        if self.in_flight() {
            return None;
        }
        if self.observe_at <= now {
            self.flight = Flight::Observing;
            return Some(Request::Observe);
        }
        if !self.warm {
            return None;
        }
        let ops = self.batch(&allow);
        if ops.is_empty() {
            return None;
        }
        for op in &ops {
            self.flying.insert(op.key().clone());
            self.ready_puts.remove(op.key());
            self.ready_deletes.remove(op.key());
        }
        self.flight = Flight::Applying(ops.clone());
        Some(Request::Apply(ops))
    }

    /// When [`poll`](Self::poll) has something new without any input; a time in the past means now. `None` while a
    /// request is in flight.
    pub fn deadline(&self) -> Option<Time> {
        if self.in_flight() {
            return None;
        }
        let waiting = self.waiting.first().map(|(at, _)| *at);
        Some(waiting.map_or(self.observe_at, |at| at.min(self.observe_at)))
    }

    /// Observes at the next chance.
    pub fn resync(&mut self) {
        self.observe_at = Time::ZERO;
    }

    /// Somebody else changed the table: observes soon, but not again and again while somebody goes on.
    pub fn suspect(&mut self, now: Time) {
        if matches!(self.flight, Flight::Observing) {
            self.suspected = true;
            return;
        }
        let soon = now.saturating_add(self.config.suspect_wait).max(self.suspect_after);
        if soon < self.observe_at {
            self.observe_at = soon;
            self.suspect_after = soon.saturating_add(self.config.suspect_pause);
        }
    }

    /// The entry may be gone by itself. If it is desired it is put again, without a look at the table; if it is not,
    /// nothing is done about it until the table is observed. What the kernel refused is tried again, too: whatever took
    /// the entry away may come back.
    pub fn doubt(&mut self, key: &P::Key) {
        if matches!(self.flight, Flight::Observing) {
            self.suspected = true;
        }
        if self.flying.contains(key) {
            self.doubted.insert(key.clone());
        }
        self.tracker.set_actual(key, None);
        if let Some(trouble) = self.troubles.get_mut(key)
            && matches!((trouble.outcome, trouble.wait), (Outcome::Refused(_), Wait::Parked))
        {
            trouble.wait = Wait::Over;
        }
        self.refresh(key);
    }

    /// Somebody else's entry of this key came or went. If it replaced ours, the table is observed soon. If it stood in
    /// the way of ours, which is parked as [`Outcome::Foreign`], that is tried again.
    pub fn foreign(&mut self, now: Time, key: &P::Key) {
        if self.tracker.actual().contains_key(key) || self.flying.contains(key) {
            return self.suspect(now);
        }
        if let Some(trouble) = self.troubles.get_mut(key)
            && (trouble.outcome, trouble.wait) == (Outcome::Foreign, Wait::Parked)
            && !self.foreign.contains(key)
        {
            trouble.wait = Wait::Over;
            self.refresh(key);
        }
    }

    /// How many puts could be sent now or are in flight. Keys that are parked or wait after `Busy` do not count; keys
    /// held by [`Allow::hold`] do.
    pub fn pending_puts(&self) -> usize {
        self.ready_puts.len() + self.in_flight_ops().filter(|op| matches!(op, Op::Put(..))).count()
    }

    /// How many deletes could be sent now or are in flight, counted as in [`pending_puts`](Self::pending_puts).
    pub fn pending_deletes(&self) -> usize {
        self.ready_deletes.len() + self.in_flight_ops().filter(|op| matches!(op, Op::Del(_))).count()
    }

    /// Puts that could be sent now, ascending; not those in flight.
    pub fn ready_puts(&self) -> impl Iterator<Item = &P::Key> {
        self.ready_puts.iter()
    }

    /// Deletes that could be sent now, descending; not those in flight.
    pub fn ready_deletes(&self) -> impl Iterator<Item = &P::Key> {
        self.ready_deletes.iter().rev()
    }

    /// Whether what is built on this plane has to wait: there are puts to do, or what there is to do is not known
    /// yet. A plane with a [`fault`](Self::fault) does not block, otherwise one broken plane would stop all.
    pub fn blocks_puts(&self) -> bool {
        self.in_flight_ops().any(|op| matches!(op, Op::Put(..)))
            || self.fault.is_none() && !(self.warm && self.ready_puts.is_empty())
    }

    /// Whether what this plane is built on has to wait with its deletes, as in [`blocks_puts`](Self::blocks_puts).
    pub fn blocks_deletes(&self) -> bool {
        self.blocks_deletes_but_for(|_| false)
    }

    /// [`blocks_deletes`](Self::blocks_deletes), where deletes of such keys are not waited for.
    pub fn blocks_deletes_but_for(&self, held: impl Fn(&P::Key) -> bool) -> bool {
        self.in_flight_ops().any(|op| matches!(op, Op::Del(_)))
            || self.fault.is_none() && !(self.warm && self.ready_deletes.iter().all(held))
    }

    /// Whether a request waits for its answer.
    pub fn in_flight(&self) -> bool {
        !matches!(self.flight, Flight::Idle)
    }

    /// Whether the entry is known to be as it should be, which may be that there is none.
    pub fn in_sync(&self, key: &P::Key) -> bool {
        self.warm && !self.flying.contains(key) && self.tracker.in_sync(key)
    }

    /// Whether nothing is left to do before something changes: warm, nothing in flight, nothing to send, nothing
    /// waiting after `Busy`, no fault. Parked keys are allowed.
    pub fn is_settled(&self) -> bool {
        self.is_settled_but_for(|_| false)
    }

    /// [`is_settled`](Self::is_settled), except for puts of such keys.
    pub fn is_settled_but_for(&self, held: impl Fn(&P::Key) -> bool) -> bool {
        self.warm
            && !self.in_flight()
            && self.fault.is_none()
            && self.ready_deletes.is_empty()
            && self.waiting.is_empty()
            && self.ready_puts.iter().all(held)
    }

    /// Keys whose last answer was `Foreign` or `Refused`. A key stays listed while it is tried again, and leaves when
    /// it is right, when its desired value changes, or when the kernel answers something else.
    pub fn parked(&self) -> impl Iterator<Item = (&P::Key, Outcome)> {
        self.troubles.iter().filter_map(|(key, trouble)| Some((key, trouble.parked()?)))
    }

    /// What the kernel said about this key, if it is parked.
    pub fn parked_as(&self, key: &P::Key) -> Option<Outcome> {
        self.troubles.get(key).and_then(Trouble::parked)
    }

    /// The next key that may have become parked (with the outcome) or is no longer, since last asked.
    pub fn poll_parked(&mut self) -> Option<(P::Key, Option<Outcome>)> {
        let key = self.changed.pop_first()?;
        let outcome = self.parked_as(&key);
        Some((key, outcome))
    }

    /// What became of its requests since the start.
    pub const fn stats(&self) -> Stats {
        self.stats
    }

    /// How long changes took that somebody heard of ([`desire_since`](Self::desire_since)).
    pub const fn latency(&self) -> Latency {
        self.latency
    }

    /// Why the plane as a whole does not work at present: no permission, no such feature in this kernel, or lost and
    /// interrupted calls again and again. Such a plane is tried again slowly.
    pub fn fault(&self) -> Option<&Fault> {
        self.fault.as_ref().map(|(_, fault)| fault)
    }

    /// Both tables and their difference.
    pub const fn tracker(&self) -> &Tracker<P> {
        &self.tracker
    }

    fn in_flight_ops(&self) -> impl Iterator<Item = &Op<P>> {
        match &self.flight {
            Flight::Applying(ops) => ops.as_slice(),
            _ => &[],
        }
        .iter()
    }

    /// Puts ascending, then deletes descending: what is new is in place before what is old goes.
    fn batch(&self, allow: &Allow<'_, P>) -> Vec<Op<P>> {
        let max = self.config.batch_max.max(1).min(self.transaction_max);
        let mut ops = Vec::new();
        if allow.puts {
            let keys = self.ready_puts.iter().filter(|key| !allow.held(key)).take(max);
            let desired = self.tracker.desired();
            ops.extend(keys.filter_map(|key| Some(Op::Put(key.clone(), desired.get(key)?.clone()))));
        }
        if allow.deletes {
            let keys = self.ready_deletes.iter().rev().filter(|key| !allow.held(key)).take(max - ops.len());
            ops.extend(keys.map(|key| Op::Del(key.clone())));
        }
        ops
    }

    fn observed(&mut self, now: Time, mut table: Table<P>) {
        self.warm = true;
        self.observe_failures = 0;
        self.stats.observations += 1;
        self.stats.succeeded_at = Some(now);
        self.observe_at = now.saturating_add(self.jitter(self.config.resync));
        if mem::take(&mut self.suspected) {
            self.suspect(now);
        }
        if let Some(owner) = &self.owner {
            self.foreign = table.extract_if(.., |key, value| !owner(key, value)).map(|(key, _)| key).collect();
        }
        self.tracker.replace_actual(table);
        if self.fault.as_ref().is_some_and(|(call, _)| *call == Call::Observe || self.tracker.is_empty()) {
            self.fault = None;
        }
        for trouble in self.troubles.values_mut() {
            if trouble.wait == Wait::Parked {
                trouble.wait = Wait::Over;
            }
        }
        self.heard.retain(|key, _| !self.tracker.in_sync(key));
        // Everything may have changed, and these sets must not keep what is right now.
        let mut keys: BTreeSet<P::Key> = self.tracker.puts().map(|(key, _)| key.clone()).collect();
        keys.extend(self.tracker.deletes().cloned());
        // Among them are the keys that were foreign.
        keys.extend(self.troubles.keys().cloned());
        keys.append(&mut self.ready_puts);
        keys.append(&mut self.ready_deletes);
        for key in &keys {
            self.refresh(key);
        }
    }

    fn applied(&mut self, now: Time, ops: Vec<Op<P>>, outcomes: &[Outcome]) {
        self.apply_failures = 0;
        self.count(now, &ops, outcomes);
        if self.fault.as_ref().is_some_and(|(call, _)| *call == Call::Apply) {
            self.fault = None;
        }
        if self.config.transactional && outcomes.iter().any(|outcome| !took_effect(*outcome)) {
            self.rolled_back(now, &ops, outcomes);
            return;
        }
        self.transaction_max = self.transaction_max.saturating_mul(2).min(self.config.batch_max.max(1));
        for (op, outcome) in ops.into_iter().zip(outcomes) {
            match (op, *outcome) {
                (Op::Put(key, value), Outcome::Done) => {
                    let stands = !self.doubted.remove(&key);
                    self.tracker.set_actual(&key, stands.then_some(value));
                    self.forget_trouble(&key);
                    self.refresh(&key);
                    self.acknowledged(now, &key);
                }
                (Op::Del(key), Outcome::Done | Outcome::Gone) => {
                    self.tracker.set_actual(&key, None);
                    self.forget_trouble(&key);
                    self.refresh(&key);
                    self.acknowledged(now, &key);
                }
                // A put cannot be gone. Whatever that means, the entry is not there.
                (op, Outcome::Gone) => self.busy(now, &op, None),
                (op, outcome) => self.not_applied(now, &op, outcome),
            }
        }
    }

    /// The kernel says that an op is done. A newer value of the key is another matter.
    fn acknowledged(&mut self, now: Time, key: &P::Key) {
        if !self.heard.is_empty()
            && self.tracker.in_sync(key)
            && let Some(heard) = self.heard.remove(key)
        {
            self.latency.observe(now.saturating_sub(heard));
        }
    }

    fn count(&mut self, now: Time, ops: &[Op<P>], outcomes: &[Outcome]) {
        let whole = !self.config.transactional || outcomes.iter().all(|outcome| took_effect(*outcome));
        let stats = &mut self.stats;
        for (op, outcome) in ops.iter().zip(outcomes) {
            let counter = match (op, outcome) {
                (_, Outcome::Refused(_) | Outcome::Foreign) => &mut stats.refused,
                (_, Outcome::Busy) | (Op::Put(..), Outcome::Gone) => &mut stats.busy,
                // Of a transaction that was rolled back, the good ones did not happen either.
                _ if !whole => continue,
                (Op::Put(..), Outcome::Done) => &mut stats.puts,
                (Op::Del(_), Outcome::Done | Outcome::Gone) => &mut stats.deletes,
            };
            *counter += 1;
        }
        if whole {
            stats.succeeded_at = Some(now);
        }
    }

    /// A transaction of which nothing took effect.
    fn rolled_back(&mut self, now: Time, ops: &[Op<P>], outcomes: &[Outcome]) {
        let guilty = |outcome: &Outcome| matches!(outcome, Outcome::Foreign | Outcome::Refused(_));
        let guilty_len = outcomes.iter().filter(|outcome| guilty(outcome)).count();
        if guilty_len == ops.len() && ops.len() > 1 {
            // The kernel does not say which op is at fault: find out by halves. The first half is tried first, so
            // that the order holds; each success doubles the size again.
            self.transaction_max = ops.len() / 2;
            ops.iter().for_each(|op| self.refresh(op.key()));
            return;
        }
        // One wait for all: a transaction that was busy should be tried again as one.
        let wait = self.jitter(self.config.backoff_min);
        for (op, outcome) in ops.iter().zip(outcomes) {
            if guilty(outcome) {
                self.not_applied(now, op, *outcome);
            } else if guilty_len > 0 {
                self.refresh(op.key());
            } else {
                self.busy(now, op, Some(wait));
            }
        }
    }

    fn not_applied(&mut self, now: Time, op: &Op<P>, outcome: Outcome) {
        if outcome == Outcome::Busy {
            self.busy(now, op, None);
            return;
        }
        let key = op.key();
        if self.asked_for(op) {
            let known = self.parked_as(key);
            if known.is_none() && matches!(outcome, Outcome::Refused(_)) {
                let soon = now.saturating_add(self.jitter(self.config.backoff_min.saturating_mul(10)));
                self.observe_at = self.observe_at.min(soon);
            }
            self.set_trouble(key, Trouble { outcome, failures: 1, wait: Wait::Parked });
            // It may stand for days: that is a parked key, not a slow kernel.
            self.heard.remove(key);
        }
        self.refresh(key);
    }

    fn busy(&mut self, now: Time, op: &Op<P>, wait: Option<Time>) {
        let key = op.key();
        if self.asked_for(op) {
            let failures = self.troubles.get(key).map_or(0, |trouble| trouble.failures);
            let wait = match wait {
                Some(wait) => self.backoff(wait, failures),
                None => {
                    let base = self.backoff(self.config.backoff_min, failures);
                    self.jitter(base)
                }
            };
            let wait = Wait::Until(now.saturating_add(wait));
            self.set_trouble(key, Trouble { outcome: Outcome::Busy, failures: failures.saturating_add(1), wait });
        }
        self.refresh(key);
    }

    /// Whether an op that was sent is still what should be done. Otherwise its failure is of no interest.
    fn asked_for(&self, op: &Op<P>) -> bool {
        match op {
            Op::Put(key, value) => self.tracker.desired().get(key) == Some(value),
            Op::Del(key) => !self.tracker.desired().contains_key(key),
        }
    }

    fn lost(&mut self, now: Time, ops: &[Op<P>], fault: Fault) {
        // Any of the ops may have been applied.
        self.warm = false;
        ops.iter().for_each(|op| self.refresh(op.key()));
        self.failed(now, Call::Apply, fault);
    }

    fn failed(&mut self, now: Time, call: Call, fault: Fault) {
        self.stats.faults += 1;
        let failures = match call {
            Call::Observe => &mut self.observe_failures,
            Call::Apply => &mut self.apply_failures,
        };
        *failures = failures.saturating_add(1);
        let failures = *failures;
        let wait = match fault {
            Fault::Denied | Fault::Unsupported(_) => self.jitter(self.config.backoff_max),
            Fault::Interrupted | Fault::Lost if failures == 1 => Time::ZERO,
            Fault::Interrupted | Fault::Lost => {
                let base = self.backoff(self.config.backoff_min, failures - 2);
                self.jitter(base)
            }
        };
        self.observe_at = now.saturating_add(wait);
        if failures >= REPEATED || matches!(fault, Fault::Denied | Fault::Unsupported(_)) {
            self.fault = Some((call, fault));
        }
    }

    /// Moves keys whose wait is over.
    fn wake(&mut self, now: Time) {
        while let Some((at, key)) = self.waiting.pop_first() {
            if at > now {
                self.waiting.insert((at, key));
                break;
            }
            if let Some(trouble) = self.troubles.get_mut(&key) {
                trouble.wait = Wait::Over;
            }
            self.refresh(&key);
        }
    }

    /// Restores what this type keeps about a key from the tracker and the key's troubles.
    fn refresh(&mut self, key: &P::Key) {
        let desired = self.tracker.desired().get(key);
        let put = desired.is_some() && !self.tracker.in_sync(key);
        let delete = desired.is_none() && !self.tracker.in_sync(key);
        let foreign = put
            && (self.foreign.contains(key)
                || self.owner.as_ref().is_some_and(|owner| desired.is_some_and(|value| !owner(key, value))));
        if foreign {
            self.set_trouble(key, Trouble { outcome: Outcome::Foreign, failures: 1, wait: Wait::Parked });
        } else if !put && !delete {
            self.forget_trouble(key);
        }
        let free = !self.flying.contains(key)
            && self.troubles.get(key).is_none_or(|trouble| matches!(trouble.wait, Wait::Over));
        if put && free {
            self.ready_puts.insert(key.clone());
        } else {
            self.ready_puts.remove(key);
        }
        if delete && free {
            self.ready_deletes.insert(key.clone());
        } else {
            self.ready_deletes.remove(key);
        }
    }

    fn set_trouble(&mut self, key: &P::Key, trouble: Trouble) {
        let (wait, parked) = (trouble.wait, trouble.parked());
        let before = self.troubles.insert(key.clone(), trouble);
        if let Some(Trouble { wait: Wait::Until(at), .. }) = before {
            self.waiting.remove(&(at, key.clone()));
        }
        if let Wait::Until(at) = wait {
            self.waiting.insert((at, key.clone()));
        }
        if before.and_then(|before| before.parked()) != parked {
            self.changed.insert(key.clone());
        }
    }

    fn forget_trouble(&mut self, key: &P::Key) {
        let Some(before) = self.troubles.remove(key) else { return };
        if let Wait::Until(at) = before.wait {
            self.waiting.remove(&(at, key.clone()));
        }
        if before.parked().is_some() {
            self.changed.insert(key.clone());
        }
    }

    /// `base` doubled so often, within the bounds.
    fn backoff(&self, base: Time, failures: u32) -> Time {
        base.saturating_mul(2_u32.saturating_pow(failures)).min(self.config.backoff_max)
    }

    /// Between three and five quarters of a span.
    fn jitter(&mut self, span: Time) -> Time {
        (span / 4).saturating_mul(3).saturating_add((span / 2_000).saturating_mul(self.rand.rand_range(0..1_000)))
    }
}

fn took_effect(outcome: Outcome) -> bool {
    matches!(outcome, Outcome::Done | Outcome::Gone)
}

impl<P: Plane> fmt::Debug for Reconciler<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reconciler")
            .field("plane", &P::ID)
            .field("warm", &self.warm)
            .field("in_flight", &self.in_flight())
            .field("ready_puts", &self.ready_puts.len())
            .field("ready_deletes", &self.ready_deletes.len())
            .field("troubles", &self.troubles.len())
            .field("fault", &self.fault())
            .finish_non_exhaustive()
    }
}
