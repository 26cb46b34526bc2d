//! What is known of the API server's state, and the notices about it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::{Duration, SystemTime};

use fairway_objects::{Kind, Notice, NoticeChange, Subject};

use crate::watch::{Failure, Obstacle, Odd, plural};

/// How it stands with the API server.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Health {
    /// Each watched kind.
    pub kinds: BTreeMap<Kind, KindHealth>,
}

/// How it stands with the watch of one kind.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KindHealth {
    /// It was listed once.
    pub listed: bool,
    /// Since when what is known may be behind: nobody tells us changes. `None` while a watch is open.
    pub behind_since: Option<SystemTime>,
    /// When the server last said anything about it.
    pub last_contact: Option<SystemTime>,
    /// What stands in the way.
    pub obstacle: Option<Standing>,
    /// Attempts that failed.
    pub failures: u64,
    /// Lists that were read to their end.
    pub lists: u64,
    /// Changes that a watch told.
    pub events: u64,
    /// Events that were older than what was known, and not used.
    pub stale: u64,
    /// Objects without a name, and not used.
    pub nameless: u64,
    /// Deltas that the [`Inbox`](crate::Inbox) got.
    pub told: u64,
    /// `resourceVersion` up to which the inbox got everything; empty before the first list is complete.
    pub version: String,
}

impl Health {
    /// Each kind by its name in RBAC.
    pub fn resources(&self) -> impl Iterator<Item = (&'static str, &KindHealth)> {
        self.kinds.iter().map(|(kind, health)| (plural(*kind), health))
    }
}

impl KindHealth {
    /// For how long what is known may have been behind the server.
    pub fn lag(&self, now: SystemTime) -> Duration {
        self.behind_since.map_or(Duration::ZERO, |since| now.duration_since(since).unwrap_or_default())
    }
}

/// An obstacle that lasts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Which.
    pub obstacle: Obstacle,
    /// Since when.
    pub since: SystemTime,
    /// Why, in the words of whoever refused.
    pub reason: String,
}

impl fmt::Display for Standing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let since = humantime::format_rfc3339_seconds(self.since);
        let what = match self.obstacle {
            Obstacle::Unreachable => "unreachable",
            Obstacle::Unauthorized => "our credentials are not accepted",
            Obstacle::Forbidden => "we may not read them",
            Obstacle::Refused | Obstacle::Expired => "refused",
            Obstacle::Nonsense => "the answer cannot be read",
            Obstacle::Cut => "the connection broke",
        };
        write!(f, "{what} since {since}: {}", self.reason)
    }
}

impl Health {
    /// The kinds that were not listed yet, each with what stands in the way: `services: we may not read them …`.
    pub fn missing(&self) -> Vec<String> {
        let missing = self.kinds.iter().filter(|(_, health)| !health.listed);
        missing
            .map(|(kind, health)| match &health.obstacle {
                Some(obstacle) => format!("{}: {obstacle}", plural(*kind)),
                None => format!("{}: no answer yet", plural(*kind)),
            })
            .collect()
    }

    /// What an operator should know now. Obstacle that concerns the server as a whole is said once.
    fn notices(&self, server: &str) -> BTreeSet<Notice> {
        let notice = |field: String, reason: String| Notice {
            subject: Subject::Source(format!("API server {server}")),
            field,
            reason,
        };
        let standing = || self.kinds.iter().filter_map(|(kind, health)| Some((*kind, health.obstacle.as_ref()?)));
        let whole = |obstacle| matches!(obstacle, Obstacle::Unreachable | Obstacle::Unauthorized);
        let server_wide = [Obstacle::Unreachable, Obstacle::Unauthorized].into_iter().filter_map(|obstacle| {
            let first = standing().map(|(_, s)| s).filter(|s| s.obstacle == obstacle).min_by_key(|s| s.since)?;
            Some(notice(String::new(), format!("{first}; what is known stays in effect")))
        });
        let of_kinds = standing()
            .filter(|(_, s)| !whole(s.obstacle))
            .map(|(kind, s)| notice(plural(kind).into(), format!("{s}; what is known stays in effect")));
        server_wide.chain(of_kinds).collect()
    }
}

/// Told of each notice that begins or ceases to stand.
pub type Tell = Box<dyn FnMut(NoticeChange) + Send>;

/// Keeps the health and tells what changed in its notices.
pub(crate) struct Board {
    server: String,
    health: Health,
    told: BTreeSet<Notice>,
    tell: Tell,
}

impl Board {
    pub(crate) fn new(server: String, kinds: impl Iterator<Item = Kind>, now: SystemTime, tell: Tell) -> Board {
        let unheard = KindHealth { behind_since: Some(now), ..KindHealth::default() };
        let health = Health { kinds: kinds.map(|kind| (kind, unheard.clone())).collect() };
        Board { server, health, told: BTreeSet::new(), tell }
    }

    pub(crate) fn health(&self) -> &Health {
        &self.health
    }

    fn change(&mut self, kind: Kind, change: impl FnOnce(&mut KindHealth)) {
        change(self.health.kinds.entry(kind).or_default());
        let notices = self.health.notices(&self.server);
        if notices == self.told {
            return;
        }
        for gone in self.told.difference(&notices) {
            (self.tell)(NoticeChange::Cleared(gone.clone()));
        }
        for new in notices.difference(&self.told) {
            (self.tell)(NoticeChange::Raised(new.clone()));
        }
        self.told = notices;
    }

    /// The server answers a question with success. `watching`: from now on it tells changes.
    pub(crate) fn answered(&mut self, kind: Kind, now: SystemTime, watching: bool) {
        self.change(kind, |health| {
            health.last_contact = Some(now);
            if watching {
                health.behind_since = None;
            }
            let over = |s: &Standing| match s.obstacle {
                Obstacle::Unreachable | Obstacle::Unauthorized => true,
                // What may be listed may still be refused to a watch.
                _ => watching,
            };
            health.obstacle = health.obstacle.take().filter(|s| !over(s));
        });
    }

    /// The server said something.
    pub(crate) fn heard(&mut self, kind: Kind, now: SystemTime, events: u64, odd: Odd) {
        let health = self.health.kinds.entry(kind).or_default();
        health.last_contact = Some(now);
        health.events += events;
        (health.stale, health.nameless) = (odd.stale, odd.nameless);
    }

    /// So many deltas were handed over, and with them everything up to a version.
    pub(crate) fn told(&mut self, kind: Kind, deltas: u64, version: &str) {
        let health = self.health.kinds.entry(kind).or_default();
        health.told += deltas;
        if health.version != version {
            health.version = version.into();
        }
    }

    /// A list was read to its end.
    pub(crate) fn listed(&mut self, kind: Kind) {
        let health = self.health.kinds.entry(kind).or_default();
        health.listed = true;
        health.lists += 1;
    }

    /// An attempt failed.
    pub(crate) fn failed(&mut self, kind: Kind, now: SystemTime, failure: &Failure) {
        self.change(kind, |health| {
            health.failures += 1;
            health.behind_since.get_or_insert(now);
            // A connection that broke, or a version that is gone, is taken up again at once and worth no word.
            if matches!(failure.obstacle, Obstacle::Cut | Obstacle::Expired) {
                return;
            }
            let same = health.obstacle.as_ref().is_some_and(|s| s.obstacle == failure.obstacle);
            if !same {
                let since = health.behind_since.unwrap_or(now);
                let reason = failure.reason.clone();
                health.obstacle = Some(Standing { obstacle: failure.obstacle, since, reason });
            }
        });
    }
}

impl fmt::Debug for Board {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Board").field("server", &self.server).field("health", &self.health).finish_non_exhaustive()
    }
}
