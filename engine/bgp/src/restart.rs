//! Graceful restart (RFC 4724, 8538) and its long-lived form (RFC 9494): routes of neighbours that are away for a
//! moment, and what we say when it was us.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::net::IpAddr;

use fairway_desired::Family;

use crate::conn::Cause;
use crate::neighbor::{Restart, Retention, Session};
use crate::routes::{LLGR_STALE, NO_LLGR};
use crate::speaker::Speaker;
use crate::table::{RouteId, family_of};
use crate::wire::FAMILIES;
use crate::{Event, Output, Time};

/// What a neighbour is told of us in the graceful restart capability.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Since {
    /// R: we came back from a restart, and this neighbour does not know yet.
    pub(crate) restarted: bool,
    /// F: what we forwarded when we last had a session is still forwarded.
    pub(crate) forwarding: bool,
}

/// Our own restart, until what we advertise is complete.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Restarting {
    /// The configuration was applied once.
    pub(crate) complete: bool,
    /// When we no longer wait for neighbours; set by the first neighbour with graceful restart.
    pub(crate) until: Option<Time>,
}

/// Upper bound on keeping stale routes of a neighbour that is back and never sends End-of-RIB, unless configured.
const DEFER_S: u32 = 360;

impl Speaker {
    /// A session ended: its routes stay for a while, or go.
    pub(crate) fn retain_routes(&mut self, now: Time, peer: IpAddr, session: &Session, cause: Cause) {
        let Some(source) = self.neighbors.get(&peer).map(|n| n.source) else { return };
        let restart = session.restart.filter(|r| match cause {
            Cause::Lost => true,
            Cause::Error => r.notification,
            Cause::Wish => false,
        });
        for (i, family) in FAMILIES.into_iter().enumerate() {
            let kept = restart.filter(|r| r.families.has(family) && session.families.has(family));
            let routes = self.table.source(source).received[i];
            match kept {
                Some(Restart { time_s, long_lived_s, .. }) if routes > 0 => {
                    self.table.age(source, family);
                    let until = now + Time::from_secs(u64::from(time_s));
                    if let Some(neighbor) = self.touch(peer) {
                        neighbor.retained[i] = Some(Retention { until, long_lived_s: long_lived_s[i] });
                    }
                    let time_s = u32::from(time_s);
                    let event = Event::Retained { peer, routes, time_s, long_lived: false };
                    self.outputs.push_back(Output::Event(event));
                }
                _ => self.forget_family(peer, family),
            }
        }
    }

    /// All routes of a neighbour and family go.
    pub(crate) fn forget_family(&mut self, peer: IpAddr, family: Family) {
        let Some(source) = self.neighbors.get(&peer).map(|n| n.source) else { return };
        let of_family = |id: &RouteId| self.table.route(*id).is_some_and(|r| family_of(r.net) == family);
        let routes: Vec<RouteId> = self.table.of_source(source).map(|(id, _)| id).filter(of_family).collect();
        self.remove_routes(routes);
        if let Some(neighbor) = self.touch(peer) {
            neighbor.retained[family as usize] = None;
        }
    }

    /// Our restart is told in the first session after it, as long as the neighbour keeps our routes. Where only the
    /// session was lost, forwarding never ended (RFC 8538 section 4.1).
    pub(crate) fn since(&self, now: Time, peer: IpAddr) -> Since {
        let settings = self.neighbors.get(&peer).and_then(|n| n.settings.session().graceful_restart);
        let Some(gr) = settings else { return Since::default() };
        if self.met.contains(&peer) {
            return Since { restarted: false, forwarding: true };
        }
        let keeps = |at: Time| now <= at + Time::from_secs(u64::from(gr.time_s));
        let restarted = self.returned_at.is_some_and(keeps);
        Since { restarted, forwarding: restarted }
    }

    /// The neighbour is back (RFC 4724 section 4.2): routes of families that it kept stay until its End-of-RIB.
    pub(crate) fn welcome_back(&mut self, now: Time, peer: IpAddr) {
        let Some(neighbor) = self.neighbors.get(&peer) else { return };
        let Some(session) = &neighbor.session else { return };
        let (restart, families) = (session.restart, session.families);
        let defer_s = neighbor.settings.session().graceful_restart.map_or(DEFER_S, |g| g.defer_s);
        for (i, family) in FAMILIES.into_iter().enumerate() {
            if self.neighbors.get(&peer).is_none_or(|n| n.retained[i].is_none()) {
                continue;
            }
            // Forwarding that was not kept up, or a family that is no more: the routes are of no use.
            if families.has(family) && restart.is_some_and(|r| r.families.has(family) && r.forwarding.has(family)) {
                let until = now + Time::from_secs(u64::from(defer_s));
                if let Some(neighbor) = self.touch(peer) {
                    neighbor.retained[i] = Some(Retention { until, long_lived_s: 0 });
                }
            } else {
                self.forget_family(peer, family);
            }
        }
    }

    /// End-of-RIB of a neighbour.
    pub(crate) fn end_of_rib(&mut self, now: Time, peer: IpAddr, family: Family) {
        let Some(session) = self.touch(peer).and_then(|n| n.session.as_mut()) else { return };
        match family {
            Family::V4 => session.synced.v4 = true,
            Family::V6 => session.synced.v6 = true,
        }
        self.sweep(peer, family);
        self.finish_restart(now);
    }

    /// Stale routes of a family go.
    pub(crate) fn sweep(&mut self, peer: IpAddr, family: Family) {
        let Some(neighbor) = self.touch(peer) else { return };
        neighbor.retained[family as usize] = None;
        let source = neighbor.source;
        let stale = self.table.stale(source, family);
        if !stale.is_empty() {
            let routes = stale.len() as u32;
            self.remove_routes(stale);
            self.outputs.push_back(Output::Event(Event::Swept { peer, routes }));
        }
    }

    /// The time of kept routes is over, or goes on as last resort.
    pub(crate) fn expire_retained(&mut self, now: Time, peer: IpAddr) {
        for (i, family) in FAMILIES.into_iter().enumerate() {
            let Some(neighbor) = self.touch(peer) else { return };
            let Some(kept) = neighbor.retained[i].filter(|r| r.until <= now) else { continue };
            let (source, away) = (neighbor.source, neighbor.session.is_none());
            if !away || kept.long_lived_s == 0 {
                self.sweep(peer, family);
                continue;
            }
            // RFC 9494 section 4.2
            neighbor.retained[i] =
                Some(Retention { until: now + Time::from_secs(u64::from(kept.long_lived_s)), long_lived_s: 0 });
            let mut routes = 0;
            for id in self.table.stale(source, family) {
                let Some(route) = self.table.route(id) else { continue };
                let (accepted, received) = (route.accepted, route.received);
                if self.table.attributes[received].attributes.communities.contains(&NO_LLGR) {
                    let change = self.table.remove(id);
                    self.changed(change);
                    continue;
                }
                routes += 1;
                let accepted = accepted.map(|a| {
                    let a = &self.table.attributes[a];
                    let (mut attributes, next_hop) = (a.attributes.clone(), a.next_hop);
                    attributes.communities.push(LLGR_STALE);
                    self.table.attributes.intern(Arc::new(attributes), next_hop)
                });
                let change = self.table.demote(id, accepted);
                self.changed(change);
            }
            let time_s = kept.long_lived_s;
            self.outputs.push_back(Output::Event(Event::Retained { peer, routes, time_s, long_lived: true }));
        }
    }

    /// Ends our own restart when all is said: our configuration was applied, and every neighbour that is up and can
    /// tell has told us all it has, or the time is over. Those on whose first dial there is no answer yet are likely to
    /// come; one that is dead holds back nobody, and only End-of-RIB waits, no route.
    pub(crate) fn finish_restart(&mut self, now: Time) {
        let Some(restarting) = self.restarting else { return };
        let waits = self.neighbors.values().any(|n| match &n.session {
            // RFC 4724 section 4.1: one that restarts itself waits for us.
            Some(s) => {
                s.restart.is_some_and(|r| !r.restarted)
                    && FAMILIES.into_iter().any(|f| s.families.has(f) && !s.synced.has(f))
            }
            None => n.settings.session().graceful_restart.is_some() && n.is_first_dial(),
        });
        let over = restarting.until.is_some_and(|until| until <= now);
        if (restarting.complete && !waits) || over {
            self.restarting = None;
            self.send_due_ends();
        }
    }
}
