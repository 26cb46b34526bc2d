//! Routes on their way: Adj-RIB-In, import, decision, export, Adj-RIB-Out.

use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::net::IpAddr;

use fairway_desired::bgp::{Direction, Modify};
use fairway_desired::{Family, Learned};
use ipnet::IpNet;

use crate::neighbor::Session;
use crate::rib::{Change, DEFAULT_LOCAL_PREF, Path, Route, span};
use crate::speaker::Speaker;
use crate::wire::{Attributes, FAMILIES, Message, Update, pack_routes, pack_withdrawals};
use crate::{Event, Output, Time};

/// RFC 1997: not to external neighbours.
const NO_EXPORT: u32 = 0xffff_ff01;
/// RFC 1997: to nobody.
const NO_ADVERTISE: u32 = 0xffff_ff02;
/// RFC 1997: not to external neighbours, confederation members included.
const NO_EXPORT_SUBCONFED: u32 = 0xffff_ff03;

/// How attributes change on their way. The last result is kept: routes come in runs of equal attributes, and a shared
/// result is what lets them share a message.
#[derive(Default)]
struct Rewriter {
    last: Option<(Arc<Attributes>, Rewrite, Arc<Attributes>)>,
}

#[derive(Clone, PartialEq, Eq)]
struct Rewrite {
    modify: Modify,
    /// To whom, on export.
    export: Option<Export>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Export {
    /// Our AS, to be prepended, and whether the route is our own.
    External(u32, bool),
    Internal,
}

impl Rewriter {
    fn apply(&mut self, attributes: &Arc<Attributes>, modify: &Modify, export: Option<Export>) -> Arc<Attributes> {
        let unchanged = modify.prepend.is_none() && modify.communities.is_empty();
        if export.is_none() && unchanged {
            return attributes.clone();
        }
        if let Some((from, rewrite, to)) = &self.last
            && Arc::ptr_eq(from, attributes)
            && rewrite.export == export
            && rewrite.modify == *modify
        {
            return to.clone();
        }
        let mut new = Attributes::clone(attributes);
        match export {
            Some(Export::External(asn, own)) => {
                new.as_path.prepend(asn, 1);
                new.local_pref = None;
                // RFC 4271 section 5.1.4: a MED received is not for other neighbouring ASes.
                if !own {
                    new.med = None;
                }
            }
            Some(Export::Internal) => new.local_pref = Some(new.local_pref.unwrap_or(DEFAULT_LOCAL_PREF)),
            None => {}
        }
        if export.is_some() {
            for unknown in &mut new.unknown {
                unknown.partial = true;
            }
        }
        if let Some((asn, times)) = modify.prepend {
            new.as_path.prepend(asn, times);
        }
        for community in &modify.communities {
            if !new.communities.contains(community) {
                new.communities.push(*community);
            }
        }
        let new = Arc::new(new);
        self.last = Some((attributes.clone(), Rewrite { modify: modify.clone(), export }, new.clone()));
        new
    }
}

impl Speaker {
    fn max_paths(&self) -> u8 {
        self.global.as_ref().map_or(1, |g| g.max_paths)
    }

    /// An UPDATE of an established session.
    pub(crate) fn update(&mut self, now: Time, peer: IpAddr, update: Update) {
        let Some(neighbor) = self.neighbors.get_mut(&peer) else { return };
        let Some(session) = &neighbor.session else { return };
        if let Some(reason) = update.malformed {
            self.outputs.push_back(Output::Event(Event::Malformed { peer, reason }));
        }
        let mut touched = Vec::new();
        let gone = update.withdrawn.into_iter().chain(update.mp_unreach.into_iter().flat_map(|(_, prefixes)| prefixes));
        for prefix in gone {
            if neighbor.adj_in.remove(&prefix).is_some() {
                touched.push(prefix);
            }
        }
        if let Some(mut attributes) = update.attributes {
            // RFC 4271 section 5.1.5: LOCAL_PREF of an external neighbour is ignored.
            if session.ebgp && attributes.local_pref.is_some() {
                Arc::make_mut(&mut attributes).local_pref = None;
            }
            let reaches = update.reach.into_iter().chain(update.mp_reach.map(|(_, reach)| reach));
            for reach in reaches.filter(|r| session.carries(Family::of(r.next_hop))) {
                for prefix in reach.prefixes {
                    let route = Route { attributes: attributes.clone(), next_hop: reach.next_hop, since: now };
                    // The same again is no news; its age stays.
                    match neighbor.adj_in.get(&prefix) {
                        Some(old) if old.attributes == route.attributes && old.next_hop == route.next_hop => {}
                        _ => {
                            neighbor.adj_in.insert(prefix, route);
                            touched.push(prefix);
                        }
                    }
                }
            }
        }
        self.import(peer, touched);
    }

    /// Brings the Loc-RIB's paths of a neighbour in line with its Adj-RIB-In and the import policy.
    pub(crate) fn import(&mut self, peer: IpAddr, prefixes: impl IntoIterator<Item = IpNet>) {
        let max_paths = self.max_paths();
        let Some(own_asn) = self.global.as_ref().map(|g| g.asn) else { return };
        let mut rewriter = Rewriter::default();
        for prefix in prefixes {
            let Some(neighbor) = self.neighbors.get_mut(&peer) else { return };
            let path = neighbor.session.as_ref().zip(neighbor.adj_in.get(&prefix)).and_then(|(session, route)| {
                // RFC 4271 section 9.1.2: our own AS means a loop. Section 5.1.3: never by way of ourselves.
                if route.attributes.as_path.contains(own_asn) || route.next_hop == session.local {
                    return None;
                }
                let modify = self.policies.decide(Direction::Import, prefix, peer)?;
                let own_hop = modify.next_hop_self && Family::of(session.local) == Family::of(route.next_hop);
                Some(Path {
                    from: Some(peer),
                    ebgp: session.ebgp,
                    router_id: session.router_id,
                    attributes: rewriter.apply(&route.attributes, modify, None),
                    next_hop: if own_hop { session.local } else { route.next_hop },
                    since: route.since,
                })
            });
            let has = path.is_some();
            let change = self.rib.set(prefix, Some(peer), path, max_paths);
            neighbor.accepted = (neighbor.accepted + usize::from(has)).saturating_sub(usize::from(change.had));
            self.changed(prefix, change);
        }
    }

    /// Our own path to a prefix becomes this, or goes.
    pub(crate) fn originate(&mut self, now: Time, prefix: IpNet, next_hop: Option<IpAddr>) {
        let path = next_hop.map(|next_hop| Path {
            from: None,
            ebgp: false,
            router_id: core::net::Ipv4Addr::UNSPECIFIED,
            attributes: self.own_attributes.clone(),
            next_hop,
            since: now,
        });
        let change = self.rib.set(prefix, None, path, self.max_paths());
        self.changed(prefix, change);
    }

    fn changed(&mut self, prefix: IpNet, change: Change) {
        if let Some(next_hops) = change.next_hops {
            self.outputs.push_back(Output::Learned(Learned { prefix, next_hops }));
        }
        if change.best {
            for neighbor in self.neighbors.values_mut().filter(|n| n.session.is_some()) {
                neighbor.pending.insert(prefix);
            }
        }
    }

    /// Applies another `max_paths`.
    pub(crate) fn limit_paths(&mut self) {
        let max_paths = self.max_paths();
        for (prefix, next_hops) in self.rib.set_max_paths(max_paths) {
            self.outputs.push_back(Output::Learned(Learned { prefix, next_hops }));
        }
    }

    /// The session is over: its routes go.
    pub(crate) fn forget_routes(&mut self, peer: IpAddr) {
        let max_paths = self.max_paths();
        let Some(neighbor) = self.neighbors.get_mut(&peer) else { return };
        neighbor.adj_out.clear();
        neighbor.pending.clear();
        neighbor.accepted = 0;
        let prefixes = core::mem::take(&mut neighbor.adj_in);
        for prefix in prefixes.into_keys() {
            let change = self.rib.set(prefix, Some(peer), None, max_paths);
            self.changed(prefix, change);
        }
    }

    /// Evaluates the import policy again.
    pub(crate) fn import_again(&mut self, peer: IpAddr, inside: Option<IpNet>) {
        let Some(neighbor) = self.neighbors.get(&peer) else { return };
        let prefixes: Vec<IpNet> = match inside {
            Some(net) => neighbor.adj_in.range(span(net)).map(|(p, _)| *p).filter(|p| net.contains(p)).collect(),
            None => neighbor.adj_in.keys().copied().collect(),
        };
        self.import(peer, prefixes);
    }

    /// Evaluates the export policy again.
    pub(crate) fn export_again(&mut self, peer: IpAddr, inside: Option<IpNet>) {
        let Some(neighbor) = self.neighbors.get_mut(&peer).filter(|n| n.session.is_some()) else { return };
        match inside {
            Some(net) => neighbor.pending.extend(self.rib.inside(net)),
            None => neighbor.pending.extend(self.rib.iter().map(|(p, _)| *p)),
        }
    }

    /// A new session: everything is to be considered.
    pub(crate) fn offer_everything(&mut self, peer: IpAddr) {
        self.export_again(peer, None);
    }

    /// ROUTE-REFRESH (RFC 2918 section 4): the Adj-RIB-Out of a family once more.
    pub(crate) fn refresh(&mut self, now: Time, peer: IpAddr, family: Family) {
        let Some(neighbor) = self.neighbors.get_mut(&peer) else { return };
        let Some(session) = neighbor.session.as_ref().filter(|s| s.carries(family)) else { return };
        let mut groups = BTreeMap::<_, Vec<IpNet>>::new();
        for (prefix, route) in neighbor.adj_out.iter().filter(|(p, _)| Family::of(p.addr()) == family) {
            groups.entry((route.attributes.clone(), route.next_hop)).or_default().push(*prefix);
        }
        let (id, context) = (session.conn, session.context);
        let Some(conn) = neighbor.conn(id) else { return };
        for ((attributes, next_hop), prefixes) in groups {
            // It was sent before, so it fits.
            for message in pack_routes(&attributes, next_hop, &prefixes, context).into_iter().flatten() {
                conn.send_bytes(now, &message);
            }
        }
    }

    /// The route to advertise to a neighbour for a prefix.
    fn export(&self, peer: IpAddr, session: &Session, prefix: IpNet, rewriter: &mut Rewriter) -> Option<Route> {
        let family = Family::of(prefix.addr());
        let path = self.rib.get(&prefix)?.best()?;
        let external = session.ebgp;
        if !session.carries(family) || path.from == Some(peer) {
            return None;
        }
        // RFC 4271 section 9.2.1: internal neighbours tell each other themselves.
        if !external && path.from.is_some() && !path.ebgp {
            return None;
        }
        // The neighbour would find its own AS in the path and refuse the route (RFC 4271 section 9.1.2); sending it is
        // only noise, which grows with the square of the neighbours of one AS. GoBGP keeps it back too.
        if external && path.attributes.as_path.contains(session.asn) {
            return None;
        }
        let stop: &[u32] = if external { &[NO_ADVERTISE, NO_EXPORT, NO_EXPORT_SUBCONFED] } else { &[NO_ADVERTISE] };
        if path.attributes.communities.iter().any(|c| stop.contains(c)) {
            return None;
        }
        let modify = self.policies.decide(Direction::Export, prefix, peer)?;
        let own = path.from.is_none();
        let export = match (external, self.global.as_ref()) {
            (true, global) => Export::External(global?.asn, own),
            (false, _) => Export::Internal,
        };
        let hop_self = modify.next_hop_self || (external && !own);
        Some(Route {
            attributes: rewriter.apply(&path.attributes, modify, Some(export)),
            next_hop: self.own_address(session, family).filter(|_| hop_self).unwrap_or(path.next_hop),
            since: path.since,
        })
    }

    /// Our address of a family towards a neighbour: the session's, or where the session has the other family, the one
    /// that our own networks are reached by.
    fn own_address(&self, session: &Session, family: Family) -> Option<IpAddr> {
        if Family::of(session.local) == family {
            return Some(session.local);
        }
        self.own_addresses.range(crate::config::addresses(family)).next().map(|(address, _)| *address)
    }

    /// Sends what changed: first what is gone, then what is new, each packed full.
    pub(crate) fn advertise(&mut self, now: Time) {
        let peers: Vec<IpAddr> = self
            .neighbors
            .iter()
            .filter(|(_, n)| !n.pending.is_empty() || n.session.as_ref().is_some_and(|s| s.end_of_rib_due))
            .map(|(a, _)| *a)
            .collect();
        for peer in peers {
            self.advertise_to(now, peer);
        }
    }

    fn advertise_to(&mut self, now: Time, peer: IpAddr) {
        let Some(neighbor) = self.neighbors.get_mut(&peer) else { return };
        let pending = core::mem::take(&mut neighbor.pending);
        let Some(session) = neighbor.session.clone() else { return };
        let mut rewriter = Rewriter::default();
        let routes: Vec<(IpNet, Option<Route>)> =
            pending.into_iter().map(|p| (p, self.export(peer, &session, p, &mut rewriter))).collect();

        let Some(neighbor) = self.neighbors.get_mut(&peer) else { return };
        let mut gone: BTreeMap<Family, Vec<IpNet>> = BTreeMap::new();
        let mut groups = BTreeMap::<_, Vec<IpNet>>::new();
        for (prefix, route) in routes {
            match (route, neighbor.adj_out.get(&prefix)) {
                (Some(new), Some(old)) if new.attributes == old.attributes && new.next_hop == old.next_hop => {}
                (Some(new), _) => {
                    groups.entry((new.attributes.clone(), new.next_hop)).or_default().push(prefix);
                    neighbor.adj_out.insert(prefix, new);
                }
                (None, Some(_)) => {
                    neighbor.adj_out.remove(&prefix);
                    gone.entry(Family::of(prefix.addr())).or_default().push(prefix);
                }
                (None, None) => {}
            }
        }
        let mut messages = Vec::new();
        for ((attributes, next_hop), prefixes) in groups {
            match pack_routes(&attributes, next_hop, &prefixes, session.context) {
                Ok(packed) => messages.extend(packed),
                // RFC 4271 section 9.2: it cannot be advertised, and what was said before is no longer true.
                Err(_) => {
                    for prefix in prefixes {
                        neighbor.adj_out.remove(&prefix);
                        gone.entry(Family::of(prefix.addr())).or_default().push(prefix);
                    }
                }
            }
        }
        if let Some(s) = &mut neighbor.session {
            s.end_of_rib_due = false;
        }
        let Some(conn) = neighbor.conn(session.conn) else { return };
        for (family, prefixes) in gone {
            for message in pack_withdrawals(family, &prefixes, session.context) {
                conn.send_bytes(now, &message);
            }
        }
        for message in messages {
            conn.send_bytes(now, &message);
        }
        if session.end_of_rib_due {
            for family in FAMILIES.into_iter().filter(|f| session.carries(*f)) {
                conn.send(now, &Message::Update(Update::end_of_rib(family)));
            }
        }
    }
}
