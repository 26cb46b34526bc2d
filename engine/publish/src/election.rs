//! Who may give addresses: a Lease, as client-go's leader election uses it.

use alloc::string::String;
use alloc::sync::Arc;

use fairway_objects::ObjectName;
use oorandom::Rand32;

use crate::Time;
use crate::io::{Lease, LeaseWrite, Refusal, Request};

/// Times of an election. Those of kube-router by default.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Params {
    /// A Lease that nobody renewed for so long is free.
    pub duration: Time,
    /// A leader whose last successful renewal was sent this long ago leads no more.
    pub renew_deadline: Time,
    /// Time between two attempts. Those who do not lead wait up to a fifth longer.
    pub retry: Time,
    /// Time between two attempts of somebody who has no permission.
    pub forbidden: Time,
}

impl Default for Params {
    fn default() -> Self {
        let s = Time::from_secs;
        Params { duration: s(15), renew_deadline: s(10), retry: s(2), forbidden: s(30) }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flight {
    /// Nothing is asked.
    Idle,
    Read,
    /// Sent at this time.
    Write(Time),
    /// The Lease is given back.
    Release,
}

/// The election, as one who competes sees it.
///
/// | we | the Lease | what happens |
/// |---|---|---|
/// | do not lead | absent | we create it, and lead when that succeeded |
/// | do not lead | held by nobody, by us, or unchanged before our eyes for its duration | we take it |
/// | do not lead | held by another and changing | we look again later |
/// | lead | is the one that we wrote | we renew it every `retry` |
/// | lead | held by another | we lead no more |
/// | lead | cannot be renewed until `renew_deadline` | we lead no more, and compete again |
///
/// Clocks of nodes need not agree: the times in a Lease are never compared, only whether it changes while we look.
/// A leader stops `renew_deadline` after it *sent* its last successful renewal, and nobody takes the Lease before it
/// was unchanged for `duration` since it was *seen*, so there are never two, as long as clocks run at about one speed.
#[derive(Clone, Debug)]
pub struct Election {
    params: Params,
    name: ObjectName,
    identity: Arc<str>,
    random: Rand32,
    /// The Lease as it was when it last changed before our eyes, and when that was.
    seen: Option<(Lease, Time)>,
    /// The version in `seen` can be replaced without reading first.
    current: bool,
    /// We lead before this time.
    leads_until: Option<Time>,
    flight: Flight,
    next: Time,
    /// We leave.
    leaving: bool,
    request: Option<Request>,
    trouble: Option<String>,
}

impl Election {
    /// Competes for the Lease of this name from now on. The seed spreads attempts.
    pub fn new(name: ObjectName, identity: Arc<str>, seed: u64, params: Params) -> Self {
        Election {
            params,
            name,
            identity,
            random: Rand32::new(seed),
            seen: None,
            current: false,
            leads_until: None,
            flight: Flight::Idle,
            next: Time::ZERO,
            leaving: false,
            request: None,
            trouble: None,
        }
    }

    /// Whether we lead at this time.
    pub fn leads(&self, now: Time) -> bool {
        self.leads_until.is_some_and(|until| now < until)
    }

    /// Who holds the Lease, as far as we saw; empty: nobody.
    pub fn holder(&self) -> Arc<str> {
        self.seen.as_ref().map(|(lease, _)| lease.holder.clone()).unwrap_or_default()
    }

    /// The Lease.
    pub const fn name(&self) -> &ObjectName {
        &self.name
    }

    /// What the API server has against us.
    pub fn trouble(&self) -> Option<&str> {
        self.trouble.as_deref()
    }

    /// When [`tick`](Self::tick) is wanted.
    pub fn deadline(&self) -> Option<Time> {
        let next = (self.flight == Flight::Idle && !self.leaving).then_some(self.next);
        [next, self.leads_until].into_iter().flatten().min()
    }

    /// What to ask, if anything.
    pub const fn poll(&mut self) -> Option<Request> {
        self.request.take()
    }

    /// The time is now this.
    pub fn tick(&mut self, now: Time) {
        if self.leads_until.is_some_and(|until| until <= now) {
            self.leads_until = None;
        }
        if self.flight != Flight::Idle || self.leaving || now < self.next {
            return;
        }
        match &self.seen {
            Some((lease, _)) if self.current && self.leads_until.is_some() => {
                let lease = lease.clone();
                self.write(now, &lease);
            }
            _ => {
                self.flight = Flight::Read;
                self.request = Some(Request::ReadLease(self.name.clone()));
            }
        }
    }

    /// Gives the Lease back, if we have it, and competes no more.
    pub fn leave(&mut self, now: Time) {
        self.leaving = true;
        if self.flight == Flight::Idle {
            self.release(now);
        }
    }

    fn release(&mut self, now: Time) {
        let leads = self.leads(now);
        self.leads_until = None;
        if let (Some((lease, _)), true, true) = (&self.seen, leads, self.current) {
            self.flight = Flight::Release;
            self.request = Some(Request::WriteLease(LeaseWrite {
                name: self.name.clone(),
                holder: Arc::from(""),
                duration_s: 1,
                transitions: lease.transitions,
                acquired: None,
                version: Some(lease.version.clone()),
            }));
        }
    }

    /// The API server answered.
    pub fn answer(&mut self, now: Time, result: Result<Option<Lease>, Refusal>) {
        let flight = core::mem::replace(&mut self.flight, Flight::Idle);
        self.trouble = match &result {
            Err(Refusal::Forbidden(reason) | Refusal::Refused(reason)) => Some(reason.clone()),
            Err(Refusal::Unreachable { reason, .. }) => Some(reason.clone()),
            Err(Refusal::Gone) => Some("its namespace does not exist".into()),
            Ok(_) | Err(Refusal::Conflict) => None,
        };
        match (flight, result) {
            (Flight::Release, _) => return,
            (Flight::Read, Ok(None)) => {
                self.seen = None;
                self.create(now);
            }
            (Flight::Read, Ok(Some(lease))) => self.read(now, lease),
            (Flight::Write(sent), Ok(Some(lease))) => {
                self.see(now, lease);
                self.leads_until = Some(sent + self.params.renew_deadline);
                self.next = sent + self.params.retry;
            }
            (Flight::Write(_) | Flight::Read, Err(refusal)) => {
                // What came of a write is not known, or it was not the version that we thought.
                self.current = false;
                let forbidden = matches!(refusal, Refusal::Forbidden(_));
                let after = if let Refusal::Unreachable { after, .. } = refusal { after } else { None };
                let wait = if forbidden { self.params.forbidden } else { self.pause(now) };
                self.next = now + wait.max(after.unwrap_or_default());
            }
            // An answer to nothing, or to a write without the Lease.
            (Flight::Idle | Flight::Write(_), _) => self.next = now + self.pause(now),
        }
        if self.leaving && self.flight == Flight::Idle {
            self.release(now);
        }
    }

    fn pause(&mut self, now: Time) -> Time {
        if self.leads(now) {
            return self.params.retry;
        }
        let retry = u32::try_from(self.params.retry.as_millis()).unwrap_or(u32::MAX);
        self.params.retry + Time::from_millis(self.random.rand_range(0..retry / 5 + 1).into())
    }

    /// Remembers a Lease; its time begins anew when anything in it changed.
    fn see(&mut self, now: Time, lease: Lease) {
        self.current = true;
        if self.seen.as_ref().is_none_or(|(known, _)| *known != lease) {
            self.seen = Some((lease, now));
        }
    }

    fn read(&mut self, now: Time, lease: Lease) {
        self.see(now, lease.clone());
        let ours = lease.holder == self.identity;
        if !ours {
            self.leads_until = None;
        }
        let duration =
            if lease.duration_s == 0 { self.params.duration } else { Time::from_secs(lease.duration_s.into()) };
        let since = self.seen.as_ref().map_or(now, |(_, since)| *since);
        if self.leaving {
        } else if ours || lease.holder.is_empty() || since + duration <= now {
            self.write(now, &lease);
        } else {
            self.next = now + self.pause(now);
        }
    }

    fn create(&mut self, now: Time) {
        if !self.leaving {
            self.send(now, None, 0, None);
        }
    }

    /// Renews or takes a Lease that is as given.
    fn write(&mut self, now: Time, lease: &Lease) {
        let ours = lease.holder == self.identity;
        let transitions = if ours { lease.transitions } else { lease.transitions.saturating_add(1) };
        let acquired = ours.then(|| lease.acquired.clone());
        self.send(now, acquired, transitions, Some(lease.version.clone()));
    }

    fn send(&mut self, now: Time, acquired: Option<Arc<str>>, transitions: u32, version: Option<Arc<str>>) {
        self.flight = Flight::Write(now);
        self.request = Some(Request::WriteLease(LeaseWrite {
            name: self.name.clone(),
            holder: self.identity.clone(),
            duration_s: u32::try_from(self.params.duration.as_secs()).unwrap_or(u32::MAX),
            transitions,
            acquired,
            version,
        }));
    }
}
