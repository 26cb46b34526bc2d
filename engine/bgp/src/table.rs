//! All routes of all sources, Adj-RIBs-In and Loc-RIB in one, and the decision process (RFC 4271 section 9.1).
//!
//! A route is stored once, with what was received and with what import made of it. Routes of one prefix form a list,
//! best first, those that import refused at its end; routes of one source form another list, so that the end of a
//! session costs what that session brought.

use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::cmp::{Ordering, Reverse};
use core::net::{IpAddr, Ipv4Addr};

use fairway_desired::Family;
use ipnet::IpNet;

use crate::Time;
use crate::intern::Shared;
use crate::wire::Nlri;

/// LOCAL_PREF where a path has none.
pub(crate) const DEFAULT_LOCAL_PREF: u32 = 100;

/// Index of a prefix.
pub(crate) type NetId = u32;
/// Index of a route.
pub(crate) type RouteId = u32;
/// Index of a source of routes.
pub(crate) type SourceId = u32;

/// Ourselves.
pub(crate) const OWN: SourceId = 0;
const NONE: u32 = u32::MAX;

/// Where routes come from: a neighbour, or ourselves.
#[derive(Clone, Debug)]
pub(crate) struct Source {
    /// `None`: ourselves.
    pub(crate) address: Option<IpAddr>,
    pub(crate) ebgp: bool,
    /// We reflect for it.
    pub(crate) client: bool,
    pub(crate) router_id: Ipv4Addr,
    /// Routes in the Adj-RIB-In, by family.
    pub(crate) received: [u32; 2],
    /// How many of them import accepted, by family.
    pub(crate) accepted: [u32; 2],
    /// Routes of another generation are stale: they were not sent again since.
    generation: [u8; 2],
    /// How many are stale.
    pub(crate) stale: [u32; 2],
    first: RouteId,
}

impl Source {
    pub(crate) const fn new(address: Option<IpAddr>) -> Self {
        Self {
            address,
            ebgp: false,
            client: false,
            router_id: Ipv4Addr::UNSPECIFIED,
            received: [0; 2],
            accepted: [0; 2],
            generation: [0; 2],
            stale: [0; 2],
            first: NONE,
        }
    }

    fn count(&mut self, family: usize, was: bool, is: bool) {
        self.accepted[family] = self.accepted[family] + u32::from(is) - u32::from(was);
    }
}

/// One route.
#[derive(Debug)]
pub(crate) struct Route {
    pub(crate) net: NetId,
    pub(crate) source: SourceId,
    pub(crate) path_id: u32,
    /// The next one of the same prefix.
    next: RouteId,
    /// Neighbours in the source's list.
    before: RouteId,
    after: RouteId,
    pub(crate) received: Shared,
    /// After import policy; `None`: refused.
    pub(crate) accepted: Option<Shared>,
    generation: u8,
    /// In use: the best path, or equal to it.
    pub(crate) used: bool,
    /// Kept by long-lived graceful restart: the last resort (RFC 9494 section 4.3).
    pub(crate) last_resort: bool,
    /// Nanoseconds.
    since: u64,
}

impl Route {
    pub(crate) const fn since(&self) -> Time {
        Time::from_nanos(self.since)
    }
}

#[derive(Debug)]
struct Net {
    prefix: IpNet,
    /// Best route first.
    first: RouteId,
    /// How many advertisements refer to it; it stays as long.
    held: u32,
}

/// What a change did to a prefix.
#[derive(Debug)]
pub(crate) struct Change {
    pub(crate) net: NetId,
    /// The best path is another, or has other attributes.
    pub(crate) best: bool,
    /// The next hops in use, if they changed.
    pub(crate) next_hops: Option<Vec<IpAddr>>,
    /// A route that is no more.
    pub(crate) removed: Option<RouteId>,
}

#[derive(Debug)]
pub(crate) struct Table {
    v4: BTreeMap<u64, NetId>,
    v6: BTreeMap<(u128, u8), NetId>,
    nets: Vec<Net>,
    free_nets: Vec<NetId>,
    routes: Vec<Option<Route>>,
    free_routes: Vec<RouteId>,
    sources: Vec<Source>,
    free_sources: Vec<SourceId>,
    max_paths: u8,
    /// Prefixes without routes that are still to be looked at.
    lent: Vec<NetId>,
    /// Reused memory.
    hops: Vec<IpAddr>,
}

const fn index(family: Family) -> usize {
    match family {
        Family::V4 => 0,
        Family::V6 => 1,
    }
}

fn key4(address: Ipv4Addr, len: u8) -> u64 {
    u64::from(address.to_bits()) << 8 | u64::from(len)
}

impl Table {
    pub(crate) fn new() -> Self {
        Self {
            v4: BTreeMap::new(),
            v6: BTreeMap::new(),
            nets: Vec::new(),
            free_nets: Vec::new(),
            routes: Vec::new(),
            free_routes: Vec::new(),
            sources: alloc::vec![Source::new(None)],
            free_sources: Vec::new(),
            max_paths: 1,
            lent: Vec::new(),
            hops: Vec::new(),
        }
    }

    /// A source without routes.
    pub(crate) fn add_source(&mut self, address: IpAddr) -> SourceId {
        let new = Source::new(Some(address));
        match self.free_sources.pop() {
            Some(id) => {
                self.sources[id as usize] = new;
                id
            }
            None => {
                self.sources.push(new);
                self.sources.len() as SourceId - 1
            }
        }
    }

    /// Forgets a source; it has no routes any more.
    pub(crate) fn remove_source(&mut self, id: SourceId) {
        debug_assert_eq!(self.sources[id as usize].first, NONE, "its routes went first");
        self.free_sources.push(id);
    }

    pub(crate) fn source(&self, id: SourceId) -> &Source {
        &self.sources[id as usize]
    }

    pub(crate) fn source_mut(&mut self, id: SourceId) -> &mut Source {
        &mut self.sources[id as usize]
    }

    pub(crate) fn find(&self, prefix: IpNet) -> Option<NetId> {
        match prefix {
            IpNet::V4(p) => self.v4.get(&key4(p.addr(), p.prefix_len())),
            IpNet::V6(p) => self.v6.get(&(p.addr().to_bits(), p.prefix_len())),
        }
        .copied()
    }

    fn net_of(&mut self, prefix: IpNet) -> NetId {
        let next = self.free_nets.last().copied().unwrap_or(self.nets.len() as NetId);
        let id = match prefix {
            IpNet::V4(p) => *self.v4.entry(key4(p.addr(), p.prefix_len())).or_insert(next),
            IpNet::V6(p) => *self.v6.entry((p.addr().to_bits(), p.prefix_len())).or_insert(next),
        };
        // The next name is of no prefix yet, so whoever has it is new.
        if id == next {
            let net = Net { prefix, first: NONE, held: 0 };
            match self.free_nets.pop() {
                Some(_) => self.nets[id as usize] = net,
                None => self.nets.push(net),
            }
        }
        id
    }

    /// Frees a prefix that nothing needs any more.
    fn tidy(&mut self, id: NetId) {
        let net = &self.nets[id as usize];
        if net.first != NONE || net.held != 0 {
            return;
        }
        match net.prefix {
            IpNet::V4(p) => drop(self.v4.remove(&key4(p.addr(), p.prefix_len()))),
            IpNet::V6(p) => drop(self.v6.remove(&(p.addr().to_bits(), p.prefix_len()))),
        }
        self.free_nets.push(id);
    }

    pub(crate) fn prefix(&self, net: NetId) -> IpNet {
        self.nets[net as usize].prefix
    }

    /// An advertisement refers to a prefix from now on.
    pub(crate) fn hold(&mut self, net: NetId) {
        self.nets[net as usize].held += 1;
    }

    /// It does not any more.
    pub(crate) fn release(&mut self, net: NetId) {
        self.nets[net as usize].held -= 1;
        self.tidy(net);
    }

    pub(crate) fn route(&self, id: RouteId) -> Option<&Route> {
        self.routes.get(id as usize)?.as_ref()
    }

    fn route_mut(&mut self, id: RouteId) -> Option<&mut Route> {
        self.routes.get_mut(id as usize)?.as_mut()
    }

    /// Routes of a prefix, best first, refused ones last.
    pub(crate) fn of_net(&self, net: NetId) -> impl Iterator<Item = (RouteId, &Route)> {
        let mut at = self.nets.get(net as usize).map_or(NONE, |n| n.first);
        core::iter::from_fn(move || {
            let id = at;
            let route = self.route(id)?;
            at = route.next;
            Some((id, route))
        })
    }

    pub(crate) fn best(&self, net: NetId) -> Option<(RouteId, &Route)> {
        self.of_net(net).next().filter(|(_, r)| r.accepted.is_some())
    }

    /// Routes of a source, the newest first.
    pub(crate) fn of_source(&self, source: SourceId) -> impl Iterator<Item = (RouteId, &Route)> {
        let mut at = self.sources[source as usize].first;
        core::iter::from_fn(move || {
            let id = at;
            let route = self.route(id)?;
            at = route.after;
            Some((id, route))
        })
    }

    /// A source's route.
    pub(crate) fn lookup(&self, source: SourceId, nlri: Nlri) -> Option<(RouteId, &Route)> {
        let net = self.find(nlri.prefix)?;
        self.of_net(net).find(|(_, r)| r.source == source && r.path_id == nlri.path_id)
    }

    /// All prefixes with routes, in order.
    pub(crate) fn nets(&self, family: Family) -> impl Iterator<Item = NetId> {
        let (v4, v6) = match family {
            Family::V4 => (Some(self.v4.values()), None),
            Family::V6 => (None, Some(self.v6.values())),
        };
        v4.into_iter().flatten().chain(v6.into_iter().flatten()).copied()
    }

    /// Prefixes inside a network, in order.
    pub(crate) fn inside(&self, net: IpNet) -> Vec<NetId> {
        let nets: Vec<NetId> = match net {
            IpNet::V4(n) => self.v4.range(key4(n.network(), 0)..=key4(n.broadcast(), 32)).map(|(_, id)| *id).collect(),
            IpNet::V6(n) => {
                let (first, last) = (n.network().to_bits(), n.broadcast().to_bits());
                self.v6.range((first, 0)..=(last, 128)).map(|(_, id)| *id).collect()
            }
        };
        nets.into_iter().filter(|id| net.contains(&self.prefix(*id))).collect()
    }

    /// A source says this of a path. `None`: it said the same before.
    pub(crate) fn put(
        &mut self,
        now: Time,
        source: SourceId,
        nlri: Nlri,
        received: &Shared,
        accepted: Option<Shared>,
    ) -> Option<Change> {
        let family = index(Family::of(nlri.prefix.addr()));
        let net = self.net_of(nlri.prefix);
        let known = self.of_net(net).find(|(_, r)| r.source == source && r.path_id == nlri.path_id).map(|(id, _)| id);
        let generation = self.sources[source as usize].generation[family];
        if let Some(id) = known {
            self.refreshed(id, family);
            let route = self.route_mut(id)?;
            let same = Arc::ptr_eq(&route.received, received)
                && same(route.accepted.as_ref(), accepted.as_ref())
                && !route.last_resort;
            if same {
                // The same again is no news; its age stays.
                return None;
            }
            return Some(self.change(net, |table| {
                let Some(route) = table.routes.get_mut(id as usize).and_then(Option::as_mut) else { return };
                let source = &mut table.sources[source as usize];
                source.count(family, route.accepted.is_some(), accepted.is_some());
                route.received = received.clone();
                route.accepted = accepted;
                route.last_resort = false;
                route.since = now.as_nanos() as u64;
            }));
        }
        Some(self.change(net, |table| {
            let owner = &mut table.sources[source as usize];
            owner.received[family] += 1;
            owner.accepted[family] += u32::from(accepted.is_some());
            let route = Route {
                net,
                source,
                path_id: nlri.path_id,
                next: table.nets[net as usize].first,
                before: NONE,
                after: owner.first,
                received: received.clone(),
                accepted,
                generation,
                used: false,
                last_resort: false,
                since: now.as_nanos() as u64,
            };
            let after = owner.first;
            let id = match table.free_routes.pop() {
                Some(id) => {
                    table.routes[id as usize] = Some(route);
                    id
                }
                None => {
                    table.routes.push(Some(route));
                    table.routes.len() as RouteId - 1
                }
            };
            table.sources[source as usize].first = id;
            if let Some(after) = table.route_mut(after) {
                after.before = id;
            }
            table.nets[net as usize].first = id;
        }))
    }

    /// The route was sent again, so it is not stale.
    fn refreshed(&mut self, id: RouteId, family: usize) {
        let Some(route) = self.routes.get_mut(id as usize).and_then(Option::as_mut) else { return };
        let source = &mut self.sources[route.source as usize];
        if route.generation != source.generation[family] {
            route.generation = source.generation[family];
            source.stale[family] -= 1;
        }
    }

    /// Import decides anew. `None`: as before.
    pub(crate) fn set_accepted(&mut self, id: RouteId, accepted: Option<Shared>) -> Option<Change> {
        let route = self.route(id)?;
        if same(route.accepted.as_ref(), accepted.as_ref()) {
            return None;
        }
        let (net, source) = (route.net, route.source);
        let family = index(Family::of(self.prefix(net).addr()));
        Some(self.change(net, |table| {
            let Some(route) = table.routes.get_mut(id as usize).and_then(Option::as_mut) else { return };
            let source = &mut table.sources[source as usize];
            source.count(family, route.accepted.is_some(), accepted.is_some());
            route.accepted = accepted;
        }))
    }

    /// Makes a route the last resort, with these attributes.
    pub(crate) fn demote(&mut self, id: RouteId, accepted: Option<Shared>) -> Option<Change> {
        let route = self.route_mut(id)?;
        route.last_resort = true;
        let net = route.net;
        let change = self.set_accepted(id, accepted);
        Some(change.unwrap_or_else(|| self.change(net, |_| {})))
    }

    /// A route is gone.
    pub(crate) fn remove(&mut self, id: RouteId) -> Option<Change> {
        let route = self.route(id)?;
        let net = route.net;
        let family = index(Family::of(self.prefix(net).addr()));
        let mut change = self.change(net, |table| table.unlink(id, family));
        change.removed = Some(id);
        Some(change)
    }

    fn unlink(&mut self, id: RouteId, family: usize) {
        let Some(route) = self.routes.get_mut(id as usize).and_then(Option::take) else { return };
        let source = &mut self.sources[route.source as usize];
        source.received[family] -= 1;
        source.count(family, route.accepted.is_some(), false);
        source.stale[family] -= u32::from(route.generation != source.generation[family]);
        match self.routes.get_mut(route.before as usize).and_then(Option::as_mut) {
            Some(before) => before.after = route.after,
            None => source.first = route.after,
        }
        if let Some(after) = self.route_mut(route.after) {
            after.before = route.before;
        }
        let net = route.net as usize;
        if self.nets[net].first == id {
            self.nets[net].first = route.next;
        } else {
            let mut at = self.nets[net].first;
            while let Some(other) = self.route_mut(at) {
                if other.next == id {
                    other.next = route.next;
                    break;
                }
                at = other.next;
            }
        }
        self.free_routes.push(id);
    }

    /// Changes routes of a prefix, decides, and says what came of it.
    fn change(&mut self, net: NetId, change: impl FnOnce(&mut Self)) -> Change {
        let best = |t: &Self| t.best(net).map(|(_, r)| (r.source, r.path_id, r.accepted.clone()));
        let before = best(self);
        let mut old_hops = core::mem::take(&mut self.hops);
        self.hops_in_use(net, &mut old_hops);
        change(self);
        self.decide(net);
        let after = best(self);
        let same_best = match (&before, &after) {
            (Some((s, p, a)), Some((t, q, b))) => s == t && p == q && same(a.as_ref(), b.as_ref()),
            (None, None) => true,
            _ => false,
        };
        let mut next_hops = Vec::new();
        self.hops_in_use(net, &mut next_hops);
        let change =
            Change { net, best: !same_best, next_hops: (next_hops != old_hops).then_some(next_hops), removed: None };
        self.hops = old_hops;
        // What is advertised holds it, as long as a withdrawal is not on its way.
        self.tidy_later(net);
        change
    }

    fn tidy_later(&mut self, net: NetId) {
        let n = &self.nets[net as usize];
        if n.first == NONE && n.held == 0 {
            // Whoever gets the change still looks at the prefix, so one reference is lent and given back by `settle`.
            self.nets[net as usize].held += 1;
            self.lent.push(net);
        }
    }

    /// After changes were looked at: prefixes without routes go.
    pub(crate) fn settle(&mut self) {
        for net in core::mem::take(&mut self.lent) {
            self.release(net);
        }
    }

    /// Next hops in use for forwarding, sorted. Our own path has none.
    fn hops_in_use(&self, net: NetId, hops: &mut Vec<IpAddr>) {
        hops.clear();
        hops.extend(
            self.of_net(net)
                .filter(|(_, r)| r.used && r.source != OWN)
                .filter_map(|(_, r)| r.accepted.as_ref())
                .map(|a| a.next_hop),
        );
        if hops.len() > 1 {
            hops.sort_unstable();
            hops.dedup();
        }
    }

    /// Decides everything again, with another limit.
    pub(crate) fn set_max_paths(&mut self, max_paths: u8) -> Vec<(IpNet, Vec<IpAddr>)> {
        self.max_paths = max_paths;
        let mut changed = Vec::new();
        let nets: Vec<NetId> = self.nets(Family::V4).chain(self.nets(Family::V6)).collect();
        for net in nets {
            let change = self.change(net, |_| {});
            if let Some(next_hops) = change.next_hops {
                changed.push((self.prefix(net), next_hops));
            }
        }
        self.settle();
        changed
    }

    /// All routes of a source and family count as stale from now on.
    pub(crate) fn age(&mut self, source: SourceId, family: Family) {
        let source = &mut self.sources[source as usize];
        let family = index(family);
        source.generation[family] = source.generation[family].wrapping_add(1);
        source.stale[family] = source.received[family];
    }

    pub(crate) fn is_stale(&self, route: &Route) -> bool {
        let family = index(Family::of(self.prefix(route.net).addr()));
        route.generation != self.sources[route.source as usize].generation[family]
    }

    /// Stale routes of a source and family.
    pub(crate) fn stale(&self, source: SourceId, family: Family) -> Vec<RouteId> {
        if self.sources[source as usize].stale[index(family)] == 0 {
            return Vec::new();
        }
        self.of_source(source)
            .filter(|(_, r)| Family::of(self.prefix(r.net).addr()) == family && self.is_stale(r))
            .map(|(id, _)| id)
            .collect()
    }

    /// Sorts the routes of a prefix, and finds those in use.
    ///
    /// MED is comparable only between paths from the same neighbour AS, so it gives no order over all paths. Sorted
    /// inside each neighbour AS, then merged by the other steps, the result is what the RFC's elimination gives, and
    /// does not depend on the order of arrival.
    fn decide(&mut self, net: NetId) {
        let first = self.nets[net as usize].first;
        let Some(only) = self.route_mut(first) else { return };
        if only.next == NONE {
            only.used = only.accepted.is_some();
            return;
        }
        let (mut accepted, refused): (Vec<RouteId>, Vec<RouteId>) =
            self.of_net(net).map(|(id, _)| id).partition(|id| self.route(*id).is_some_and(|r| r.accepted.is_some()));
        let paths = accepted.iter().filter_map(|id| self.path(*id)).collect::<Vec<_>>();
        let order = rank(paths, self.max_paths);
        accepted.clear();
        accepted.extend(order.iter().map(|(id, _)| *id));
        let used: Vec<bool> = order.iter().map(|(_, used)| *used).collect();
        let all: Vec<RouteId> = accepted.iter().chain(&refused).copied().collect();
        self.nets[net as usize].first = all.first().copied().unwrap_or(NONE);
        for (i, id) in all.iter().enumerate() {
            let next = all.get(i + 1).copied().unwrap_or(NONE);
            if let Some(route) = self.route_mut(*id) {
                route.next = next;
                route.used = used.get(i).copied().unwrap_or(false);
            }
        }
    }

    fn path(&self, id: RouteId) -> Option<Path<'_>> {
        let route = self.route(id)?;
        let source = &self.sources[route.source as usize];
        Some(Path { id, route, source, shared: route.accepted.as_ref()? })
    }

    /// Which step of the decision makes the best path of a prefix better than another path.
    pub(crate) fn why_not_best(&self, net: NetId, id: RouteId) -> Option<&'static str> {
        let best = self.best(net).and_then(|(best, _)| self.path(best)).filter(|best| best.id != id)?;
        let path = self.path(id)?;
        let (a, b) = (path.steps(), best.steps());
        let same_as = path.neighbor_as() == best.neighbor_as();
        Some(match () {
            () if a.last_resort != b.last_resort => "stale for long: the last resort (RFC 9494 section 4.3)",
            () if a.foreign != b.foreign => "a route of our own is preferred",
            () if a.local_pref != b.local_pref => "lower LOCAL_PREF (RFC 4271 section 9.1.1)",
            () if a.path_len != b.path_len => "longer AS_PATH (RFC 4271 section 9.1.2.2 a)",
            () if a.origin != b.origin => "higher ORIGIN (RFC 4271 section 9.1.2.2 b)",
            () if same_as && path.med() != best.med() => "higher MED (RFC 4271 section 9.1.2.2 c)",
            () if a.internal != b.internal => "eBGP is preferred to iBGP (RFC 4271 section 9.1.2.2 d)",
            () if path.identifier() != best.identifier() => "higher BGP identifier (RFC 4271 section 9.1.2.2 f)",
            () if path.clusters() != best.clusters() => "longer CLUSTER_LIST (RFC 4456 section 9)",
            () if path.source.address != best.source.address => "higher neighbour address (RFC 4271 section 9.1.2.2 g)",
            () => "higher path identifier",
        })
    }
}

fn same(a: Option<&Shared>, b: Option<&Shared>) -> bool {
    match (a, b) {
        (Some(a), Some(b)) => Arc::ptr_eq(a, b),
        (None, None) => true,
        _ => false,
    }
}

/// A path as the decision sees it.
#[derive(Clone, Copy)]
struct Path<'a> {
    id: RouteId,
    route: &'a Route,
    source: &'a Source,
    shared: &'a Shared,
}

/// The steps before MED, then those that follow, in order; smaller is better.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Steps {
    last_resort: bool,
    foreign: bool,
    local_pref: Reverse<u32>,
    path_len: u32,
    origin: crate::wire::Origin,
    internal: bool,
}

impl Path<'_> {
    fn steps(&self) -> Steps {
        let a = &self.shared.attributes;
        Steps {
            last_resort: self.route.last_resort,
            foreign: self.route.source != OWN,
            local_pref: Reverse(a.local_pref.unwrap_or(DEFAULT_LOCAL_PREF)),
            path_len: self.shared.path_len,
            origin: a.origin,
            internal: !self.source.ebgp,
        }
    }

    /// The steps before MED.
    fn early(&self) -> impl Ord + use<> {
        let s = self.steps();
        (s.last_resort, s.foreign, s.local_pref, s.path_len, s.origin)
    }

    /// The steps after MED: eBGP over iBGP, lowest identifier, shortest CLUSTER_LIST, lowest address.
    fn late(&self) -> impl Ord + use<> {
        (!self.source.ebgp, self.identifier(), self.clusters(), self.source.address, self.route.path_id)
    }

    /// RFC 4456 section 9: who brought the route into the AS counts, not who reflected it.
    fn identifier(&self) -> Ipv4Addr {
        self.shared.attributes.originator.unwrap_or(self.source.router_id)
    }

    fn clusters(&self) -> usize {
        self.shared.attributes.cluster_list.len()
    }

    /// A missing MED is the lowest (RFC 4271 section 9.1.2.2 c).
    fn med(&self) -> u32 {
        self.shared.attributes.med.unwrap_or(0)
    }

    fn neighbor_as(&self) -> (Option<u32>, bool) {
        (self.shared.attributes.as_path.neighbor(), self.route.source == OWN)
    }
}

/// Paths best first, and whether each is in use. Those in use are not always the first few: one that lost by MED alone
/// may stand between two.
fn rank(mut paths: Vec<Path<'_>>, max_paths: u8) -> Vec<(RouteId, bool)> {
    let without_med = |a: &Path<'_>, b: &Path<'_>| a.early().cmp(&b.early()).then_with(|| a.late().cmp(&b.late()));
    let first_med = paths.first().map(Path::med);
    let mut ordered: Vec<(Path<'_>, bool)> = Vec::with_capacity(paths.len());
    if paths.iter().all(|p| Some(p.med()) == first_med) {
        // MED decides nothing.
        paths.sort_by(without_med);
        ordered.extend(paths.into_iter().map(|p| (p, true)));
    } else {
        paths.sort_by(|a, b| {
            a.neighbor_as()
                .cmp(&b.neighbor_as())
                .then_with(|| a.early().cmp(&b.early()))
                .then_with(|| a.med().cmp(&b.med()))
                .then_with(|| a.late().cmp(&b.late()))
        });
        let mut groups: Vec<_> = paths.chunk_by(|a, b| a.neighbor_as() == b.neighbor_as()).collect();
        let lowest: Vec<u32> = groups.iter().map(|g| g.first().map_or(0, Path::med)).collect();
        loop {
            let next = groups
                .iter()
                .enumerate()
                .filter_map(|(i, g)| Some((i, g.first()?)))
                .reduce(|a, b| if without_med(b.1, a.1) == Ordering::Less { b } else { a })
                .map(|(i, path)| (i, *path));
            let Some((i, path)) = next else { break };
            // The lowest MED of each neighbour AS among its best-ranked paths; a path that has it survived that step.
            ordered.push((path, lowest.get(i) == Some(&path.med())));
            if let Some(group) = groups.get_mut(i) {
                *group = group.get(1..).unwrap_or_default();
            }
        }
    }
    let Some((best, _)) = ordered.first().copied() else { return Vec::new() };
    let mut hops: Vec<IpAddr> = Vec::new();
    ordered
        .iter()
        .enumerate()
        .map(|(i, (path, survived))| {
            let equal = *survived
                && path.route.source != OWN
                && path.early() == best.early()
                && path.source.ebgp == best.source.ebgp;
            let hop = path.shared.next_hop;
            let known = hops.contains(&hop);
            let used = i == 0 || (equal && (known || hops.len() < usize::from(max_paths)));
            if used && !known && path.route.source != OWN {
                hops.push(hop);
            }
            (path.id, used)
        })
        .collect()
}
