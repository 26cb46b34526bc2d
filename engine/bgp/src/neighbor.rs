//! A neighbour: its settings, connections, session and Adj-RIBs.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::string::String;
use alloc::vec::Vec;
use core::net::{IpAddr, Ipv4Addr};

use fairway_desired::Family;
use fairway_desired::bgp::{Dynamic, Families, Global, Peer};
use ipnet::IpNet;

use crate::conn::{Conn, Ours, has};
use crate::rib::Route;
use crate::wire::Context;
use crate::{ConnId, NeighborView, SessionState, Time};

/// Where a neighbour comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Settings {
    /// Configured; we dial.
    Peer(Peer),
    /// It connected from a range; we never dial.
    Dynamic(Dynamic),
}

impl Settings {
    pub(crate) const fn hold_s(&self) -> u16 {
        match self {
            Settings::Peer(p) => p.hold_s,
            Settings::Dynamic(d) => d.hold_s,
        }
    }

    pub(crate) const fn families(&self) -> Families {
        match self {
            Settings::Peer(p) => p.families,
            Settings::Dynamic(d) => d.families,
        }
    }

    /// What we say of ourselves to this neighbour.
    pub(crate) fn ours(&self, global: &Global) -> Ours {
        Ours {
            asn: global.asn,
            router_id: global.router_id,
            hold_s: self.hold_s(),
            families: self.families(),
            asns: match self {
                Settings::Peer(p) => alloc::vec![p.asn],
                Settings::Dynamic(d) => d.asns.clone(),
            },
        }
    }
}

/// A session that is up.
#[derive(Clone, Debug)]
pub(crate) struct Session {
    pub(crate) conn: ConnId,
    pub(crate) asn: u32,
    pub(crate) ebgp: bool,
    pub(crate) router_id: Ipv4Addr,
    pub(crate) families: Families,
    pub(crate) context: Context,
    pub(crate) hold_s: u16,
    /// Our address.
    pub(crate) local: IpAddr,
    /// The initial dump is not finished: End-of-RIB follows it.
    pub(crate) end_of_rib_due: bool,
}

impl Session {
    pub(crate) const fn carries(&self, family: Family) -> bool {
        has(self.families, family)
    }
}

/// First pause before dialing again, doubled each time.
const RETRY_MIN: Time = Time::from_secs(1);
/// Longest pause.
const RETRY_MAX: Time = Time::from_secs(30);

#[derive(Debug)]
pub(crate) struct Neighbor {
    pub(crate) settings: Settings,
    /// At most one that we dialed and one that it dialed.
    pub(crate) conns: Vec<Conn>,
    pub(crate) session: Option<Session>,
    /// When to dial next.
    pub(crate) retry_at: Option<Time>,
    /// Dials and sessions that failed since the last good session.
    attempts: u32,
    pub(crate) since: Option<Time>,
    pub(crate) last_error: Option<String>,
    /// The reason last told by `Event::Failed`.
    pub(crate) told: Option<String>,
    pub(crate) adj_in: BTreeMap<IpNet, Route>,
    /// How many of `adj_in` are in the Loc-RIB.
    pub(crate) accepted: usize,
    pub(crate) adj_out: BTreeMap<IpNet, Route>,
    /// Prefixes whose advertisement may have to change.
    pub(crate) pending: BTreeSet<IpNet>,
}

impl Neighbor {
    pub(crate) const fn new(settings: Settings) -> Self {
        Self {
            settings,
            conns: Vec::new(),
            session: None,
            retry_at: None,
            attempts: 0,
            since: None,
            last_error: None,
            told: None,
            adj_in: BTreeMap::new(),
            accepted: 0,
            adj_out: BTreeMap::new(),
            pending: BTreeSet::new(),
        }
    }

    pub(crate) const fn is_dynamic(&self) -> bool {
        matches!(self.settings, Settings::Dynamic(_))
    }

    pub(crate) fn conn(&mut self, id: ConnId) -> Option<&mut Conn> {
        self.conns.iter_mut().find(|c| c.id == id)
    }

    /// Plans the next dial: pauses double, and differ between neighbours so that they do not dial in step
    /// (RFC 4271 section 10).
    pub(crate) fn plan_retry(&mut self, now: Time, rng: &mut oorandom::Rand32) {
        let pause = RETRY_MIN.saturating_mul(1 << self.attempts.min(5)).min(RETRY_MAX);
        self.attempts = self.attempts.saturating_add(1);
        self.retry_at = Some(now + pause.mul_f32(0.75 + 0.25 * rng.rand_float()));
    }

    /// There is reason for hope: the next pause is short again.
    pub(crate) const fn forget_attempts(&mut self) {
        self.attempts = 0;
    }

    pub(crate) fn deadline(&self) -> Option<Time> {
        let retry = self.retry_at.filter(|_| self.conns.is_empty());
        self.conns.iter().filter_map(Conn::deadline).chain(retry).min()
    }

    pub(crate) fn view(&self, address: IpAddr) -> NeighborView {
        let waiting = if self.retry_at.is_some() { SessionState::Active } else { SessionState::Idle };
        let said = || self.conns.iter().find_map(|c| c.open.as_ref()).map(|o| o.asn());
        let configured = match &self.settings {
            Settings::Peer(p) => Some(p.asn),
            Settings::Dynamic(_) => None,
        };
        let session = self.session.as_ref();
        NeighborView {
            address,
            asn: session.map(|s| s.asn).or(configured).or_else(said).unwrap_or(0),
            state: self.conns.iter().map(|c| c.state).max().unwrap_or(waiting),
            since: self.since,
            received: self.adj_in.len(),
            accepted: self.accepted,
            advertised: self.adj_out.len(),
            hold_s: session.map_or(self.settings.hold_s(), |s| s.hold_s),
            router_id: session.map(|s| s.router_id),
            dynamic: self.is_dynamic(),
            last_error: self.last_error.clone(),
        }
    }
}
