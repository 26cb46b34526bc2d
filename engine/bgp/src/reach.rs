//! Links of this host: next hops that are unreachable, and sessions that end with their link.

use alloc::collections::BTreeSet;
use alloc::vec::Vec;
use core::net::IpAddr;

use fairway_desired::bgp::Distance;
use ipnet::IpNet;

use crate::conn::{Cause, End};
use crate::intern::Shared;
use crate::speaker::Speaker;
use crate::table::RouteId;
use crate::{ConnId, Time};

/// The prefixes on links, and which of them work.
#[derive(Clone, Debug, Default)]
pub(crate) struct Reach {
    on_link: Vec<(IpNet, bool)>,
    /// Some link does not work.
    broken: bool,
}

impl Reach {
    /// Whether an address is on a link, and none of its links works. Of what is not on a link nothing is known; it is
    /// taken to be reachable through a router.
    pub(crate) fn is_lost(&self, address: IpAddr) -> bool {
        let mut links = self.on_link.iter().filter(|(net, _)| net.contains(&address)).peekable();
        self.broken && links.peek().is_some() && !links.any(|(_, works)| *works)
    }
}

impl Speaker {
    /// The links are like this now.
    pub(crate) fn set_on_link(&mut self, now: Time, on_link: Vec<(IpNet, bool)>) {
        let broken = on_link.iter().any(|(_, works)| !works);
        let old = core::mem::replace(&mut self.reach, Reach { on_link, broken });
        if !old.broken && !broken {
            return;
        }
        self.review_next_hops(&old);
        self.review_sessions(now, &old);
    }

    /// Routes over next hops that were lost or are back go through import again. Which next hops those are is found
    /// among the attributes in use; the routes are looked at only if there are any.
    fn review_next_hops(&mut self, old: &Reach) {
        let hops: BTreeSet<IpAddr> =
            self.table.attributes.next_hops().filter(|hop| old.is_lost(*hop) != self.reach.is_lost(*hop)).collect();
        if hops.is_empty() {
            return;
        }
        let peers: Vec<IpAddr> = self.neighbors.keys().copied().collect();
        for peer in peers {
            let Some(source) = self.neighbors.get(&peer).map(|n| n.source) else { continue };
            let routes: Vec<(RouteId, IpNet, Shared)> = self
                .table
                .of_source(source)
                .filter(|(_, route)| hops.contains(&self.table.attributes[route.received].next_hop))
                .map(|(id, route)| (id, self.table.prefix(route.net), route.received))
                .collect();
            let mut importer = self.importer(peer);
            for (id, prefix, received) in routes {
                // Routes that are kept of a session that is down wait for it.
                let accepted = importer.as_mut().and_then(|importer| self.judge(importer, prefix, received));
                let change = self.table.set_accepted(id, accepted);
                self.changed(change);
            }
        }
    }

    /// External neighbours on a link share its fate at once, without waiting for the hold timer. Those whose link is
    /// back are dialed at once.
    fn review_sessions(&mut self, now: Time, old: &Reach) {
        let may_dial = !self.shut_down && self.global.is_some();
        let peers: Vec<IpAddr> = self.neighbors.keys().copied().collect();
        for peer in peers {
            let (was, is) = (old.is_lost(peer), self.reach.is_lost(peer));
            let Some(neighbor) = self.neighbors.get(&peer) else { continue };
            if is && !was {
                let near = matches!(neighbor.settings.session().distance, Distance::Default | Distance::Security(1));
                let external = neighbor.session.as_ref().is_some_and(|session| session.ebgp);
                let up = neighbor.session.as_ref().map(|session| session.conn);
                // What is not up yet would only be in the way of a new attempt.
                let ended = |conn: &ConnId| up != Some(*conn) || near && external;
                let conns: Vec<ConnId> = neighbor.conns.iter().map(|conn| conn.id).filter(ended).collect();
                for conn in conns {
                    self.end(now, conn, End::silent("the link to it is down", Cause::Lost));
                }
            } else if was && !is && may_dial && neighbor.session.is_none() && neighbor.dials() {
                let Some(neighbor) = self.touch(peer) else { continue };
                neighbor.forget_attempts();
                neighbor.retry_at = Some(now);
            }
        }
    }
}
