//! A neighbour: its settings, connections and session.

use alloc::collections::BTreeSet;
use alloc::string::String;
use alloc::vec::Vec;
use core::net::{IpAddr, Ipv4Addr};

use fairway_desired::bgp::{self, Distance, Dynamic, Families, Global, Peer};

use crate::conn::{Conn, Ours};
use crate::restart::Since;
use crate::table::SourceId;
use crate::view::{Counts, Messages};
use crate::wire::Context;
use crate::{ConnId, NeighborView, SessionState, Time, Watch};

/// Where a neighbour comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Settings {
    /// Configured; we dial, unless told not to.
    Peer(Peer),
    /// It connected from a range; we never dial.
    Dynamic(Dynamic),
}

impl Settings {
    pub(crate) const fn session(&self) -> &bgp::Session {
        match self {
            Settings::Peer(p) => &p.session,
            Settings::Dynamic(d) => &d.session,
        }
    }

    /// What we say of ourselves to this neighbour.
    pub(crate) fn ours(&self, global: &Global, since: Since) -> Ours {
        Ours {
            asn: self.session().local_as.unwrap_or(global.asn),
            router_id: global.router_id,
            asns: match self {
                Settings::Peer(Peer { asn: 0, .. }) => Vec::new(),
                Settings::Peer(p) => alloc::vec![p.asn],
                Settings::Dynamic(d) => d.asns.clone(),
            },
            session: self.session().clone(),
            since,
        }
    }

    /// Whether a session can go on with other settings. What is not part of the connection or of the OPEN can change
    /// under it.
    pub(crate) fn can_become(&self, new: &Settings) -> bool {
        let (Settings::Peer(old), Settings::Peer(new)) = (self, new) else { return false };
        let Peer { asn, port: _, local, password, passive: _, session } = old;
        (asn, local, password) == (&new.asn, &new.local, &new.password) && same_opening(session, &new.session)
    }
}

/// Whether two lead to the same OPEN on the same connection.
pub(crate) fn same_opening(a: &bgp::Session, b: &bgp::Session) -> bool {
    let opening = |s: &bgp::Session| bgp::Session {
        allow_own_as: 0,
        max_prefixes: None,
        reflector_client: false,
        bfd: None,
        ..s.clone()
    };
    opening(a) == opening(b)
}

/// A session that is up.
#[derive(Clone, Debug)]
pub(crate) struct Session {
    pub(crate) conn: ConnId,
    /// Its AS.
    pub(crate) asn: u32,
    /// The AS that we showed.
    pub(crate) own_asn: u32,
    pub(crate) ebgp: bool,
    pub(crate) router_id: Ipv4Addr,
    pub(crate) families: Families,
    /// How we encode.
    pub(crate) tx: Context,
    /// It sends path identifiers.
    pub(crate) receives_paths: Families,
    pub(crate) hold_s: u16,
    /// Our address.
    pub(crate) local: IpAddr,
    /// IPv4 prefixes may have IPv6 next hops.
    pub(crate) extended_next_hop: bool,
    /// It understands the marks of enhanced route refresh.
    pub(crate) enhanced_refresh: bool,
    /// What it wants of us while it restarts; both sides have the capability.
    pub(crate) restart: Option<Restart>,
    /// It sent End-of-RIB.
    pub(crate) synced: Families,
    /// Ours waits until what we advertise is complete.
    pub(crate) end_of_rib_due: Families,
    /// Whose Adj-RIB-Out it shares.
    pub(crate) group: u32,
    /// Which statements of the import policy are about it.
    pub(crate) import: Vec<bool>,
    /// Told: it came near the limit of prefixes.
    pub(crate) warned: Families,
    /// Told: it sends broken attributes with these codes.
    pub(crate) discarded: BTreeSet<u8>,
}

/// What a neighbour wants of us while it restarts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Restart {
    /// It has just restarted itself.
    pub(crate) restarted: bool,
    /// NOTIFICATION and hold timer count as a restart too (both sides said so).
    pub(crate) notification: bool,
    pub(crate) time_s: u16,
    /// Families whose routes are kept.
    pub(crate) families: Families,
    /// Families whose forwarding state it says to have preserved.
    pub(crate) forwarding: Families,
    /// Seconds that routes are kept beyond that (RFC 9494), by family; 0: not.
    pub(crate) long_lived_s: [u32; 2],
}

/// Stale routes of a family are kept until then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Retention {
    pub(crate) until: Time,
    /// Seconds that follow as last resort.
    pub(crate) long_lived_s: u32,
}

/// First pause before dialing again, doubled each time.
const RETRY_MIN: Time = Time::from_secs(1);
/// Longest pause.
const RETRY_MAX: Time = Time::from_secs(30);

#[derive(Debug)]
pub(crate) struct Neighbor {
    pub(crate) settings: Settings,
    /// Its routes in the table.
    pub(crate) source: SourceId,
    /// At most one that we dialed and one that it dialed.
    pub(crate) conns: Vec<Conn>,
    pub(crate) session: Option<Session>,
    /// When to dial next.
    pub(crate) retry_at: Option<Time>,
    /// Dials and sessions that failed since the last good session.
    attempts: u32,
    /// Turned off by hand.
    pub(crate) disabled: bool,
    /// It sent too much; nobody dials or is accepted until then, or until a reset.
    pub(crate) locked: Option<Option<Time>>,
    pub(crate) since: Option<Time>,
    /// How many sessions came up.
    pub(crate) established: u32,
    pub(crate) last_error: Option<String>,
    /// The reason last told by `Event::Failed`.
    pub(crate) told: Option<String>,
    /// Stale routes, by family.
    pub(crate) retained: [Option<Retention>; 2],
}

impl Neighbor {
    pub(crate) const fn new(settings: Settings, source: SourceId) -> Self {
        Self {
            settings,
            source,
            conns: Vec::new(),
            session: None,
            retry_at: None,
            attempts: 0,
            disabled: false,
            locked: None,
            since: None,
            established: 0,
            last_error: None,
            told: None,
            retained: [None; 2],
        }
    }

    pub(crate) const fn is_dynamic(&self) -> bool {
        matches!(self.settings, Settings::Dynamic(_))
    }

    /// Whether we dial it by ourselves.
    pub(crate) const fn dials(&self) -> bool {
        matches!(self.settings, Settings::Peer(Peer { passive: false, .. })) && !self.disabled && self.locked.is_none()
    }

    /// Whether we have not heard yet what becomes of the first dial.
    pub(crate) const fn is_first_dial(&self) -> bool {
        self.dials() && self.established == 0 && self.attempts == 0
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
        let kept = self.retained.iter().flatten().map(|r| r.until);
        let locked = self.locked.flatten();
        self.conns.iter().filter_map(Conn::deadline).chain(retry).chain(kept).chain(locked).min()
    }

    /// How BFD is to watch it, if it is. One that is configured is watched as long as we talk to it; one that connected
    /// from a range from its first connection on, so that what its BFD thinks of an earlier run of ours is over before
    /// there is a session.
    pub(crate) fn watch(&self) -> Option<Watch> {
        let bfd = self.settings.session().bfd.filter(|_| !self.disabled)?;
        let local = match &self.settings {
            Settings::Peer(peer) => peer.local,
            Settings::Dynamic(_) => {
                let session = self.session.as_ref().map(|s| s.local);
                Some(session.or_else(|| self.conns.iter().find_map(|c| c.local))?)
            }
        };
        let hops = match self.settings.session().distance {
            Distance::Security(hops) => hops,
            Distance::Multihop(2..) => u8::MAX,
            Distance::Default | Distance::Multihop(_) => 1,
        };
        Some(Watch { bfd, local, hops })
    }

    pub(crate) fn view(&self, address: IpAddr, counts: [Counts; 2]) -> NeighborView {
        let waiting = if self.dials() || self.is_dynamic() || self.retry_at.is_some() {
            if self.retry_at.is_some() { SessionState::Active } else { SessionState::Idle }
        } else if self.disabled || self.locked.is_some() {
            SessionState::Idle
        } else {
            SessionState::Active
        };
        let said = || self.conns.iter().find_map(|c| c.open.as_ref()).map(|o| o.asn());
        let (configured, port, passive) = match &self.settings {
            Settings::Peer(p) => (Some(p.asn).filter(|asn| *asn != 0), p.port, p.passive),
            Settings::Dynamic(_) => (None, 0, true),
        };
        let session = self.session.as_ref();
        let conn = session.and_then(|s| self.conns.iter().find(|c| c.id == s.conn));
        NeighborView {
            address,
            asn: session.map(|s| s.asn).or(configured).or_else(said).unwrap_or(0),
            state: self.conns.iter().map(|c| c.state).max().unwrap_or(waiting),
            since: self.since,
            received: counts.iter().map(|c| c.received).sum(),
            accepted: counts.iter().map(|c| c.accepted).sum(),
            advertised: counts.iter().map(|c| c.advertised).sum(),
            by_family: counts,
            hold_s: session.map_or(self.settings.session().hold_s, |s| s.hold_s),
            router_id: session.map(|s| s.router_id),
            restart_s: session.and_then(|s| s.restart).map(|r| r.time_s),
            dynamic: self.is_dynamic(),
            last_error: self.last_error.clone(),
            disabled: self.disabled,
            passive,
            port,
            local: session.map(|s| s.local),
            local_asn: session.map(|s| s.own_asn).or(self.settings.session().local_as),
            families: session.map_or(self.settings.session().families, |s| s.families),
            established: self.established,
            ours: conn.map(|c| c.said.clone()).unwrap_or_default(),
            theirs: conn.and_then(|c| c.open.as_ref()).map(|o| o.capabilities.clone()).unwrap_or_default(),
            sent: conn.map_or(Messages::default(), |c| c.sent),
            got: conn.map_or(Messages::default(), |c| c.got),
            client: self.settings.session().reflector_client,
            stale: self.retained.iter().any(Option::is_some),
        }
    }
}
