//! All routes of all sources, Adj-RIBs-In and Loc-RIB in one, and the decision process (RFC 4271 section 9.1).
//!
//! A route is stored once, with names of what was received and of what import made of it. Routes of one prefix form a
//! list, best first, those that import refused at its end; routes of one source form another list, so that the end of a
//! session costs what that session brought. Prefixes and routes have numbers and lie in pages; lists are made of
//! numbers, and what is free forms one too.

use alloc::collections::{BTreeMap, VecDeque};
use alloc::vec::Vec;
use core::cmp::{Ordering, Reverse};
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use fairway_desired::Family;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::Time;
use crate::index::Index;
use crate::intern::{Interned, Interner, Marks, Shared};
use crate::pages::Pages;
use crate::wire::Nlri;

/// LOCAL_PREF where a path has none.
pub(crate) const DEFAULT_LOCAL_PREF: u32 = 100;

/// Number of a prefix. Families count by themselves; the highest bit tells them apart.
pub(crate) type NetId = u32;
/// Number of a route.
pub(crate) type RouteId = u32;
/// Number of a source of routes.
pub(crate) type SourceId = u32;

/// Ourselves.
pub(crate) const OWN: SourceId = 0;
const NONE: u32 = u32::MAX;
/// Prefixes of IPv6 have it.
const V6: NetId = 1 << 31;
/// Of those who hold a prefix: news about it wait.
const TOLD: u32 = 1 << 31;
/// Room for so much news is kept.
const NEWS_MIN: usize = 1024;

/// The family of a prefix.
pub(crate) const fn family_of(net: NetId) -> Family {
    if net & V6 == 0 { Family::V4 } else { Family::V6 }
}

/// A prefix's number among those of its family.
pub(crate) const fn number(net: NetId) -> u32 {
    net & !V6
}

/// The prefix of a family that has a number.
pub(crate) const fn numbered(family: Family, number: u32) -> NetId {
    match family {
        Family::V4 => number,
        Family::V6 => number | V6,
    }
}

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

/// One route. Large tables are made of these, so every octet counts.
#[derive(Debug)]
pub(crate) struct Route {
    /// `NONE`: this place is free, and `next` is the next free one.
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
    since_s: u32,
    since_ns: u32,
    generation: u8,
    /// In use: the best path, or equal to it.
    pub(crate) used: bool,
    /// Kept by long-lived graceful restart: the last resort (RFC 9494 section 4.3).
    pub(crate) last_resort: bool,
}

impl Route {
    pub(crate) const fn since(&self) -> Time {
        Time::new(self.since_s as u64, self.since_ns)
    }

    fn changed_at(&mut self, now: Time) {
        // Seconds of a process; 136 years are enough.
        (self.since_s, self.since_ns) = (now.as_secs() as u32, now.subsec_nanos());
    }
}

/// A prefix as it is sorted and stored.
trait Prefix: Copy + Ord {
    fn net(self) -> IpNet;
}

/// Address and length.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Prefix4(u32, u8);

/// The halves of the address, and the length.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Prefix6(u64, u64, u8);

impl Prefix for Prefix4 {
    fn net(self) -> IpNet {
        // Only lengths that were a prefix's are stored.
        IpNet::V4(Ipv4Net::new(Ipv4Addr::from_bits(self.0), self.1).unwrap_or_default())
    }
}

impl Prefix for Prefix6 {
    fn net(self) -> IpNet {
        let address = Ipv6Addr::from_bits(u128::from(self.0) << 64 | u128::from(self.1));
        IpNet::V6(Ipv6Net::new(address, self.2).unwrap_or_default())
    }
}

fn prefix4(address: Ipv4Addr, len: u8) -> Prefix4 {
    Prefix4(address.to_bits(), len)
}

fn prefix6(address: Ipv6Addr, len: u8) -> Prefix6 {
    let bits = address.to_bits();
    Prefix6((bits >> 64) as u64, bits as u64, len)
}

#[derive(Clone, Copy, Debug)]
struct Net<P> {
    prefix: P,
    /// Best route first.
    first: RouteId,
    /// How many advertisements and others refer to it; it stays as long. Of a free place, the next free one.
    held: u32,
}

/// The prefixes of a family.
#[derive(Debug)]
struct Nets<P> {
    index: Index<P>,
    nets: Pages<Net<P>>,
    free: u32,
}

impl<P: Prefix> Nets<P> {
    fn new() -> Self {
        Self { index: Index::default(), nets: Pages::default(), free: NONE }
    }

    fn make(&mut self, prefix: P) -> u32 {
        let next = if self.free == NONE { self.nets.len() as u32 } else { self.free };
        let number = self.index.get_or_insert(prefix, next);
        // The next number is of no prefix yet, so whoever has it is new.
        if number == next {
            let net = Net { prefix, first: NONE, held: 0 };
            match self.nets.get_mut(number) {
                Some(place) => {
                    self.free = place.held;
                    *place = net;
                }
                None => self.nets.push(net),
            }
        }
        number
    }

    /// Frees a prefix that nothing needs any more.
    fn tidy(&mut self, number: u32) {
        let Some(net) = self.nets.get_mut(number).filter(|n| n.first == NONE && n.held == 0) else { return };
        net.held = self.free;
        self.free = number;
        self.index.remove(&net.prefix);
    }
}

/// What a change did to a prefix.
#[derive(Debug)]
pub(crate) struct Change {
    pub(crate) net: NetId,
    /// The best path is another, or has other attributes.
    pub(crate) best: bool,
    /// A route that is no more.
    pub(crate) removed: Option<RouteId>,
}

#[derive(Debug)]
pub(crate) struct Table {
    /// All attributes.
    pub(crate) attributes: Interner,
    v4: Nets<Prefix4>,
    v6: Nets<Prefix6>,
    routes: Pages<Route>,
    free_route: RouteId,
    /// How many routes there are.
    count: usize,
    sources: Vec<Source>,
    free_sources: Vec<SourceId>,
    max_paths: u8,
    /// AS paths of equal length are equal.
    relaxed: bool,
    /// Prefixes without routes that are still to be looked at.
    lent: Vec<NetId>,
    /// Prefixes whose next hops changed, for each change once, until the driver is told. Each is held.
    news: VecDeque<NetId>,
    /// What the driver is told of a prefix before what stands now: a prefix that changes again while it waits has more
    /// than one piece of news.
    old_news: BTreeMap<NetId, VecDeque<Vec<IpAddr>>>,
    /// Reused memory.
    hops: [Vec<IpAddr>; 2],
    order: Vec<(RouteId, bool)>,
    chosen: Vec<IpAddr>,
}

const fn index(family: Family) -> usize {
    match family {
        Family::V4 => 0,
        Family::V6 => 1,
    }
}

impl Table {
    pub(crate) fn new() -> Self {
        Self {
            attributes: Interner::default(),
            v4: Nets::new(),
            v6: Nets::new(),
            routes: Pages::default(),
            free_route: NONE,
            count: 0,
            sources: alloc::vec![Source::new(None)],
            free_sources: Vec::new(),
            max_paths: 1,
            relaxed: true,
            lent: Vec::new(),
            news: VecDeque::new(),
            old_news: BTreeMap::new(),
            hops: [Vec::new(), Vec::new()],
            order: Vec::new(),
            chosen: Vec::new(),
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

    /// How many routes there are.
    pub(crate) const fn len(&self) -> usize {
        self.count
    }

    /// Marks the attributes of all routes.
    pub(crate) fn mark(&self, marks: &mut Marks) {
        for route in self.routes.iter().filter(|r| r.net != NONE) {
            marks.mark(Some(route.received));
            marks.mark(route.accepted);
        }
    }

    pub(crate) fn find(&self, prefix: IpNet) -> Option<NetId> {
        match prefix {
            IpNet::V4(p) => self.v4.index.get(&prefix4(p.addr(), p.prefix_len())),
            IpNet::V6(p) => self.v6.index.get(&prefix6(p.addr(), p.prefix_len())).map(|n| n | V6),
        }
    }

    fn net_of(&mut self, prefix: IpNet) -> NetId {
        match prefix {
            IpNet::V4(p) => self.v4.make(prefix4(p.addr(), p.prefix_len())),
            IpNet::V6(p) => self.v6.make(prefix6(p.addr(), p.prefix_len())) | V6,
        }
    }

    /// Frees a prefix that nothing needs any more.
    fn tidy(&mut self, net: NetId) {
        match family_of(net) {
            Family::V4 => self.v4.tidy(number(net)),
            Family::V6 => self.v6.tidy(number(net)),
        }
    }

    /// The prefix of a number.
    pub(crate) fn prefix(&self, net: NetId) -> IpNet {
        // Numbers come from here, so they stand for a prefix; a number that was freed stands for its last one.
        match family_of(net) {
            Family::V4 => self.v4.nets.get(net).map(|n| n.prefix.net()),
            Family::V6 => self.v6.nets.get(number(net)).map(|n| n.prefix.net()),
        }
        .unwrap_or_default()
    }

    /// First route and holds of a prefix.
    fn net_mut(&mut self, net: NetId) -> Option<(&mut RouteId, &mut u32)> {
        match family_of(net) {
            Family::V4 => self.v4.nets.get_mut(net).map(|n| (&mut n.first, &mut n.held)),
            Family::V6 => self.v6.nets.get_mut(number(net)).map(|n| (&mut n.first, &mut n.held)),
        }
    }

    fn first(&self, net: NetId) -> RouteId {
        match family_of(net) {
            Family::V4 => self.v4.nets.get(net).map_or(NONE, |n| n.first),
            Family::V6 => self.v6.nets.get(number(net)).map_or(NONE, |n| n.first),
        }
    }

    fn set_first(&mut self, net: NetId, route: RouteId) {
        if let Some((first, _)) = self.net_mut(net) {
            *first = route;
        }
    }

    /// Something refers to a prefix from now on.
    pub(crate) fn hold(&mut self, net: NetId) {
        if let Some((_, held)) = self.net_mut(net) {
            *held += 1;
        }
    }

    /// It does not any more.
    pub(crate) fn release(&mut self, net: NetId) {
        if let Some((_, held)) = self.net_mut(net) {
            *held -= 1;
        }
        self.tidy(net);
    }

    pub(crate) fn route(&self, id: RouteId) -> Option<&Route> {
        self.routes.get(id).filter(|r| r.net != NONE)
    }

    fn route_mut(&mut self, id: RouteId) -> Option<&mut Route> {
        self.routes.get_mut(id).filter(|r| r.net != NONE)
    }

    /// Routes of a prefix, best first, refused ones last.
    pub(crate) fn of_net(&self, net: NetId) -> impl Iterator<Item = (RouteId, &Route)> {
        let mut at = self.first(net);
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
            Family::V4 => (Some(self.v4.index.ids()), None),
            Family::V6 => (None, Some(self.v6.index.ids().map(|n| n | V6))),
        };
        v4.into_iter().flatten().chain(v6.into_iter().flatten())
    }

    /// Prefixes inside a network, in order.
    pub(crate) fn inside(&self, net: IpNet) -> Vec<NetId> {
        let nets: Vec<NetId> = match net {
            IpNet::V4(n) => self.v4.index.range(prefix4(n.network(), 0)..=prefix4(n.broadcast(), 32)).collect(),
            IpNet::V6(n) => {
                let range = prefix6(n.network(), 0)..=prefix6(n.broadcast(), 128);
                self.v6.index.range(range).map(|n| n | V6).collect()
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
        received: Shared,
        accepted: Option<Shared>,
    ) -> Option<Change> {
        let net = self.net_of(nlri.prefix);
        let family = index(family_of(net));
        let known = self.of_net(net).find(|(_, r)| r.source == source && r.path_id == nlri.path_id).map(|(id, _)| id);
        if let Some(id) = known {
            self.refreshed(id, family);
            let route = self.route(id)?;
            if route.received == received && route.accepted == accepted && !route.last_resort {
                // The same again is no news; its age stays.
                return None;
            }
            return Some(self.change(net, |table| {
                let Some(route) = table.routes.get_mut(id) else { return };
                let source = &mut table.sources[source as usize];
                source.count(family, route.accepted.is_some(), accepted.is_some());
                route.received = received;
                route.accepted = accepted;
                route.last_resort = false;
                route.changed_at(now);
            }));
        }
        Some(self.change(net, |table| table.link(now, source, net, nlri.path_id, received, accepted)))
    }

    fn link(
        &mut self,
        now: Time,
        source: SourceId,
        net: NetId,
        path_id: u32,
        received: Shared,
        accepted: Option<Shared>,
    ) {
        let family = index(family_of(net));
        let next = self.first(net);
        let id = if self.free_route == NONE { self.routes.len() as RouteId } else { self.free_route };
        let owner = &mut self.sources[source as usize];
        owner.received[family] += 1;
        owner.accepted[family] += u32::from(accepted.is_some());
        let (after, generation) = (owner.first, owner.generation[family]);
        owner.first = id;
        let mut route = Route {
            net,
            source,
            path_id,
            next,
            before: NONE,
            after,
            received,
            accepted,
            since_s: 0,
            since_ns: 0,
            generation,
            used: false,
            last_resort: false,
        };
        route.changed_at(now);
        match self.routes.get_mut(id) {
            Some(place) => {
                self.free_route = place.next;
                *place = route;
            }
            None => self.routes.push(route),
        }
        self.count += 1;
        if let Some(after) = self.route_mut(after) {
            after.before = id;
        }
        self.set_first(net, id);
    }

    /// The route was sent again, so it is not stale.
    fn refreshed(&mut self, id: RouteId, family: usize) {
        let Some(route) = self.routes.get_mut(id) else { return };
        let source = &mut self.sources[route.source as usize];
        if route.generation != source.generation[family] {
            route.generation = source.generation[family];
            source.stale[family] -= 1;
        }
    }

    /// Import decides anew. `None`: as before.
    pub(crate) fn set_accepted(&mut self, id: RouteId, accepted: Option<Shared>) -> Option<Change> {
        let route = self.route(id)?;
        if route.accepted == accepted {
            return None;
        }
        let (net, source) = (route.net, route.source);
        let family = index(family_of(net));
        Some(self.change(net, |table| {
            let Some(route) = table.routes.get_mut(id) else { return };
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
        let net = self.route(id)?.net;
        let mut change = self.change(net, |table| table.unlink(id));
        change.removed = Some(id);
        Some(change)
    }

    fn unlink(&mut self, id: RouteId) {
        let Some(route) = self.routes.get_mut(id).filter(|r| r.net != NONE) else { return };
        let (net, next, before, after) = (route.net, route.next, route.before, route.after);
        let family = index(family_of(net));
        let source = &mut self.sources[route.source as usize];
        source.received[family] -= 1;
        source.count(family, route.accepted.is_some(), false);
        source.stale[family] -= u32::from(route.generation != source.generation[family]);
        if before == NONE {
            source.first = after;
        }
        route.net = NONE;
        route.next = self.free_route;
        self.free_route = id;
        self.count -= 1;
        if let Some(before) = self.route_mut(before) {
            before.after = after;
        }
        if let Some(after) = self.route_mut(after) {
            after.before = before;
        }
        let mut at = self.first(net);
        if at == id {
            self.set_first(net, next);
            return;
        }
        while let Some(other) = self.route_mut(at) {
            if other.next == id {
                other.next = next;
                break;
            }
            at = other.next;
        }
    }

    /// Changes routes of a prefix, decides, and says what came of it.
    fn change(&mut self, net: NetId, change: impl FnOnce(&mut Self)) -> Change {
        let best = |t: &Self| t.best(net).map(|(_, r)| (r.source, r.path_id, r.accepted));
        let best_before = best(self);
        let [mut before, mut after] = core::mem::take(&mut self.hops);
        let hop_before = self.hops_in_use(net, &mut before);
        change(self);
        self.decide(net);
        let hop_after = self.hops_in_use(net, &mut after);
        if hop_before != hop_after || before != after {
            self.tell(net, hop_before, &before);
        }
        self.hops = [before, after];
        // What is advertised holds it, as long as a withdrawal is not on its way. Whoever gets the change still looks
        // at the prefix, so one reference is lent and given back by `settle`.
        if let Some((first, held)) = self.net_mut(net)
            && *first == NONE
            && *held == 0
        {
            *held += 1;
            self.lent.push(net);
        }
        Change { net, best: best_before != best(self), removed: None }
    }

    /// After changes were looked at: prefixes without routes go.
    pub(crate) fn settle(&mut self) {
        for net in core::mem::take(&mut self.lent) {
            self.release(net);
        }
    }

    /// Next hops in use for forwarding, sorted. Our own path has none. The lowest one is returned, the others are
    /// written, so that what has only one costs nothing.
    fn hops_in_use(&self, net: NetId, others: &mut Vec<IpAddr>) -> Option<IpAddr> {
        others.clear();
        let hop = |r: &Route| r.accepted.filter(|_| r.used && r.source != OWN).map(|a| self.attributes[a].next_hop);
        let mut hops = self.of_net(net).filter_map(|(_, r)| hop(r));
        let first = hops.next()?;
        others.extend(hops);
        if others.is_empty() {
            return Some(first);
        }
        others.push(first);
        others.sort_unstable();
        others.dedup();
        Some(others.remove(0))
    }

    /// The next hops of a prefix changed; what they were.
    fn tell(&mut self, net: NetId, first: Option<IpAddr>, others: &[IpAddr]) {
        let Some((_, held)) = self.net_mut(net) else { return };
        let waits = *held & TOLD != 0;
        *held = (*held | TOLD) + 1;
        if waits {
            let before = first.into_iter().chain(others.iter().copied()).collect();
            self.old_news.entry(net).or_default().push_back(before);
        }
        self.news.push_back(net);
    }

    /// The next piece of news for the driver: a prefix, and the next hops that the kernel is to use.
    pub(crate) fn next_news(&mut self) -> Option<(IpNet, Vec<IpAddr>)> {
        let Some(net) = self.news.pop_front() else {
            // The memory of a large change is not kept.
            self.news.shrink_to(NEWS_MIN);
            return None;
        };
        let prefix = self.prefix(net);
        let old = self.old_news.get_mut(&net).and_then(VecDeque::pop_front);
        let next_hops = old.unwrap_or_else(|| {
            // It is the last one.
            self.old_news.remove(&net);
            if let Some((_, held)) = self.net_mut(net) {
                *held &= !TOLD;
            }
            self.next_hops(net)
        });
        self.release(net);
        Some((prefix, next_hops))
    }

    /// Next hops that the kernel is to use, sorted.
    pub(crate) fn next_hops(&self, net: NetId) -> Vec<IpAddr> {
        let mut hops = Vec::new();
        if let Some(first) = self.hops_in_use(net, &mut hops) {
            hops.insert(0, first);
        }
        hops
    }

    /// Decides everything again, with another limit, or other paths that count as equal.
    pub(crate) fn set_multipath(&mut self, max_paths: u8, relaxed: bool) {
        (self.max_paths, self.relaxed) = (max_paths, relaxed);
        let nets: Vec<NetId> = self.nets(Family::V4).chain(self.nets(Family::V6)).collect();
        for net in nets {
            // Which path is the best does not depend on how many are in use.
            self.change(net, |_| {});
        }
    }

    /// All routes of a source and family count as stale from now on.
    pub(crate) fn age(&mut self, source: SourceId, family: Family) {
        let source = &mut self.sources[source as usize];
        let family = index(family);
        source.generation[family] = source.generation[family].wrapping_add(1);
        source.stale[family] = source.received[family];
    }

    pub(crate) fn is_stale(&self, route: &Route) -> bool {
        let family = index(family_of(route.net));
        route.generation != self.sources[route.source as usize].generation[family]
    }

    /// Stale routes of a source and family.
    pub(crate) fn stale(&self, source: SourceId, family: Family) -> Vec<RouteId> {
        if self.sources[source as usize].stale[index(family)] == 0 {
            return Vec::new();
        }
        self.of_source(source)
            .filter(|(_, r)| family_of(r.net) == family && self.is_stale(r))
            .map(|(id, _)| id)
            .collect()
    }

    /// Sorts the routes of a prefix, and finds those in use.
    ///
    /// MED is comparable only between paths from the same neighbour AS, so it gives no order over all paths. Sorted
    /// inside each neighbour AS, then merged by the other steps, the result is what the RFC's elimination gives, and
    /// does not depend on the order of arrival.
    fn decide(&mut self, net: NetId) {
        let first = self.first(net);
        let Some(only) = self.route_mut(first) else { return };
        if only.next == NONE {
            only.used = only.accepted.is_some();
            return;
        }
        let mut order = core::mem::take(&mut self.order);
        order.clear();
        order.extend(self.of_net(net).map(|(id, _)| (id, true)));
        self.rank(&mut order);
        let mut chosen = core::mem::take(&mut self.chosen);
        self.choose(&mut order, &mut chosen);
        self.chosen = chosen;
        self.set_first(net, order.first().map_or(NONE, |(id, _)| *id));
        for (i, (id, used)) in order.iter().enumerate() {
            let next = order.get(i + 1).map_or(NONE, |(id, _)| *id);
            if let Some(route) = self.route_mut(*id) {
                route.next = next;
                route.used = *used;
            }
        }
        self.order = order;
    }

    /// Paths best first, refused ones at the end; and which of them have the lowest MED of their neighbour AS, as the
    /// best path must.
    fn rank(&self, order: &mut [(RouteId, bool)]) {
        let without_med = |a: &Path<'_>, b: &Path<'_>| a.early().cmp(&b.early()).then_with(|| a.late().cmp(&b.late()));
        let refused_last = |a: RouteId, b: RouteId, compare: &dyn Fn(&Path<'_>, &Path<'_>) -> Ordering| match (
            self.path(a),
            self.path(b),
        ) {
            (Some(a), Some(b)) => compare(&a, &b),
            (a, b) => a.is_none().cmp(&b.is_none()),
        };
        let mut meds = order.iter().filter_map(|(id, _)| self.path(*id)).map(|p| p.med());
        let first = meds.next();
        if meds.all(|med| Some(med) == first) {
            // MED decides nothing.
            order.sort_by(|(a, _), (b, _)| refused_last(*a, *b, &without_med));
            return;
        }
        order.sort_by(|(a, _), (b, _)| {
            refused_last(*a, *b, &|a, b| {
                a.neighbor_as()
                    .cmp(&b.neighbor_as())
                    .then_with(|| a.early().cmp(&b.early()))
                    .then_with(|| a.med().cmp(&b.med()))
                    .then_with(|| a.late().cmp(&b.late()))
            })
        });
        let paths: Vec<Path<'_>> = order.iter().filter_map(|(id, _)| self.path(*id)).collect();
        let mut groups: Vec<_> = paths.chunk_by(|a, b| a.neighbor_as() == b.neighbor_as()).collect();
        let lowest: Vec<u32> = groups.iter().map(|g| g.first().map_or(0, Path::med)).collect();
        for place in order {
            let next = groups
                .iter()
                .enumerate()
                .filter_map(|(i, g)| Some((i, g.first()?)))
                .reduce(|a, b| if without_med(b.1, a.1) == Ordering::Less { b } else { a })
                .map(|(i, path)| (i, *path));
            // The rest was refused.
            let Some((i, path)) = next else { break };
            // The lowest MED of each neighbour AS among its best-ranked paths; a path that has it survived that step.
            *place = (path.id, lowest.get(i) == Some(&path.med()));
            if let Some(group) = groups.get_mut(i) {
                *group = group.get(1..).unwrap_or_default();
            }
        }
    }

    /// Finds those in use among ranked paths: the best one, and those that are equal to it up to the limit of next hops.
    /// They are not always the first few: one that lost by MED alone may stand between two.
    fn choose(&self, order: &mut [(RouteId, bool)], hops: &mut Vec<IpAddr>) {
        hops.clear();
        let Some(best) = order.first().and_then(|(id, _)| self.path(*id)) else {
            order.iter_mut().for_each(|(_, used)| *used = false);
            return;
        };
        for (i, (id, used)) in order.iter_mut().enumerate() {
            let Some(path) = self.path(*id) else {
                *used = false;
                continue;
            };
            let own = path.route.source == OWN;
            let same = self.relaxed || path.shared.attributes.as_path == best.shared.attributes.as_path;
            let equal = *used && !own && same && path.early() == best.early() && path.source.ebgp == best.source.ebgp;
            let hop = path.shared.next_hop;
            let known = hops.contains(&hop);
            *used = i == 0 || (equal && (known || hops.len() < usize::from(self.max_paths)));
            if *used && !known && !own {
                hops.push(hop);
            }
        }
    }

    fn path(&self, id: RouteId) -> Option<Path<'_>> {
        let route = self.route(id)?;
        let source = &self.sources[route.source as usize];
        Some(Path { id, route, source, shared: &self.attributes[route.accepted?] })
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

/// A path as the decision sees it.
#[derive(Clone, Copy)]
struct Path<'a> {
    id: RouteId,
    route: &'a Route,
    source: &'a Source,
    shared: &'a Interned,
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
