use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;

use fairway_bgp::{NeighborView, SessionState};
use fairway_desired::{MAIN_TABLE, OVERLAY_TABLE, PROTO_KUBE_ROUTER, Route, RouteKey, RouteValue, Table, Tunnel};
use fairway_reconcile::Time;

/// Longest wait for sessions after a start. It is kube-router's default restart time of BGP's graceful restart.
const WAIT_MAX: Time = Time::from_secs(90);
/// After the last session came up: the time a neighbour has to send its routes. We have no End-of-RIB to wait for.
const QUIET: Time = Time::from_secs(5);

/// Learned routes that an earlier run left in the kernel.
///
/// A restarted speaker knows no routes at first. Without this the restart would remove every learned route and put
/// it back when the session is up again, and traffic would be lost for nothing. A route leaves this set when it is
/// learned again; the rest is given up when all configured neighbours had their say, or after 90 seconds. Tunnels stay
/// as long as one of these routes leads there.
#[derive(Debug, Default)]
pub(crate) struct Inherited {
    /// With the tunnels that they need.
    routes: BTreeMap<RouteKey, Vec<Arc<str>>>,
    /// How many of the routes need a tunnel.
    tunnels: BTreeMap<Arc<str>, usize>,
    observed: bool,
    since: Option<Time>,
}

impl Inherited {
    /// Looks at the first table that was observed; later ones hold our own work.
    pub(crate) fn observed(&mut self, actual: &Table<Route>, desired: &Table<Route>) {
        if !self.observed {
            self.observed = true;
            let learned = actual.iter().filter(|(key, value)| {
                let table = matches!(key.table, MAIN_TABLE | OVERLAY_TABLE);
                table && value.protocol == PROTO_KUBE_ROUTER && !desired.contains_key(key)
            });
            let tunnels = |value: &RouteValue| {
                let devs = value.next_hops.iter().filter_map(|hop| hop.dev.clone());
                devs.filter(|dev| Tunnel::may_be(dev)).collect()
            };
            self.routes = learned.map(|(key, value)| (key.clone(), tunnels(value))).collect();
            for tunnel in self.routes.values().flatten() {
                *self.tunnels.entry(tunnel.clone()).or_default() += 1;
            }
        }
    }

    /// The route is desired: from now on it lives and dies like any other.
    pub(crate) fn desired(&mut self, key: &RouteKey) {
        for tunnel in self.routes.remove(key).into_iter().flatten() {
            if let Some(count) = self.tunnels.get_mut(&tunnel) {
                *count -= 1;
                if *count == 0 {
                    self.tunnels.remove(&tunnel);
                }
            }
        }
    }

    pub(crate) fn contains(&self, key: &RouteKey) -> bool {
        self.routes.contains_key(key)
    }

    /// Whether one of the routes leads into this tunnel.
    pub(crate) fn needs(&self, link: &str) -> bool {
        self.tunnels.contains_key(link)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.routes.is_empty()
    }

    /// Notes that the speaker is configured, and gives up what nobody will announce any more. `neighbors` is `None`
    /// if there is no neighbour to wait for.
    pub(crate) fn review(&mut self, now: Time, neighbors: Option<&[NeighborView]>) {
        self.since.get_or_insert(now);
        if neighbors.is_none() || self.until(neighbors).is_some_and(|until| until <= now) {
            self.routes.clear();
            self.tunnels.clear();
        }
    }

    /// When to review again, as far as is known now.
    pub(crate) fn until(&self, neighbors: Option<&[NeighborView]>) -> Option<Time> {
        let longest = self.since?.saturating_add(WAIT_MAX);
        // Neighbours that dial us are known only once they did, so with such ones alone the time decides.
        let configured = || neighbors.into_iter().flatten().filter(|neighbor| !neighbor.dynamic);
        let up = configured().count() > 0 && configured().all(|n| n.state == SessionState::Established);
        let last = configured().filter_map(|neighbor| neighbor.since).max();
        match (up, last) {
            (true, Some(last)) => Some(longest.min(last.saturating_add(QUIET))),
            _ => Some(longest),
        }
    }
}
