//! Routes on their way in: Adj-RIB-In, import, decision. `export.rs` has the way out.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use core::net::{IpAddr, Ipv4Addr};

use fairway_desired::Family;
use fairway_desired::bgp::{Direction, MaxPrefixes, Name};
use ipnet::IpNet;

use crate::conn::End;
use crate::intern::Shared;
use crate::neighbor::Session;
use crate::policy::{self, Verdict};
use crate::speaker::Speaker;
use crate::table::{Change, OWN, RouteId, SourceId};
use crate::wire::{FAMILIES, Nlri, Notification, SAFI_UNICAST, Update, afi, cease, code};
use crate::{Event, Output, Time};

/// RFC 8326: the sender is about to go away.
pub(crate) const GRACEFUL_SHUTDOWN: u32 = 0xffff_0000;
/// RFC 9494: a stale route that is kept for long.
pub(crate) const LLGR_STALE: u32 = 0xffff_0006;
/// RFC 9494: not to be kept for long.
pub(crate) const NO_LLGR: u32 = 0xffff_0007;

/// Why import keeps a route out of the Loc-RIB.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    OwnAs(u32),
    OwnAddress,
    Lost(IpAddr),
    OwnIdentifier,
    OwnCluster(Ipv4Addr),
    Policy(Option<Name>),
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refused::OwnAs(asn) => write!(f, "our AS {asn} is in its AS_PATH (RFC 4271 section 9.1.2)"),
            Refused::OwnAddress => f.write_str("its next hop is our own address (RFC 4271 section 5.1.3)"),
            Refused::Lost(hop) => write!(f, "the link to its next hop {hop} is down (RFC 4271 section 9.1.2)"),
            Refused::OwnIdentifier => f.write_str("we are its ORIGINATOR_ID (RFC 4456 section 8)"),
            Refused::OwnCluster(id) => write!(f, "our cluster {id} is in its CLUSTER_LIST (RFC 4456 section 8)"),
            Refused::Policy(Some(name)) => write!(f, "statement {name} of the import policy rejects it"),
            Refused::Policy(None) => f.write_str("no statement of the import policy accepts it"),
        }
    }
}

/// What import must know of a neighbour.
#[derive(Clone, Debug)]
pub(crate) struct Importer {
    source: SourceId,
    ebgp: bool,
    asns: [u32; 2],
    allow_own_as: usize,
    router_id: Ipv4Addr,
    cluster_id: Ipv4Addr,
    local: IpAddr,
    about: Vec<bool>,
    /// The last result: routes come in runs of equal attributes.
    last: Option<(Shared, Option<usize>, Shared)>,
}

impl Speaker {
    /// An UPDATE of an established session.
    pub(crate) fn update(&mut self, now: Time, peer: IpAddr, update: Update) {
        let Some((families, source, receives_paths)) = self
            .neighbors
            .get(&peer)
            .and_then(|n| n.session.as_ref().map(|s| (s.families, n.source, s.receives_paths)))
        else {
            return;
        };
        if let Some(family) = update.is_end_of_rib() {
            self.end_of_rib(now, peer, family);
            return;
        }
        if let Some(reason) = update.malformed {
            self.outputs.push_back(Output::Event(Event::Malformed { peer, reason }));
        }
        for attribute in update.discarded {
            let session = self.neighbors.get_mut(&peer).and_then(|n| n.session.as_mut());
            if session.is_some_and(|s| s.discarded.insert(attribute)) {
                self.outputs.push_back(Output::Event(Event::Discarded { peer, attribute }));
            }
        }
        let gone = update.withdrawn.into_iter().chain(update.mp_unreach.into_iter().flat_map(|(_, prefixes)| prefixes));
        for nlri in gone {
            // A message that must count as withdrawn can carry identifiers, wherever it does not have to.
            if let Some((id, _)) = self.table.lookup(source, nlri) {
                let change = self.table.remove(id);
                self.changed(change);
            }
        }
        let Some(attributes) = update.attributes else { return };
        let Some(mut importer) = self.importer(peer) else { return };
        let reaches = update
            .reach
            .map(|r| (Family::V4, r))
            .into_iter()
            .chain(update.mp_reach)
            .filter(|(family, _)| families.has(*family));
        for (family, reach) in reaches {
            let received = self.table.attributes.intern(attributes.clone(), reach.next_hop);
            for nlri in reach.prefixes {
                let path_id = if receives_paths.has(family) { nlri.path_id } else { 0 };
                let nlri = Nlri { path_id, ..nlri };
                let accepted = self.judge(&mut importer, nlri.prefix, received);
                let change = self.table.put(now, source, nlri, received, accepted);
                self.changed(change);
            }
        }
        self.limit(now, peer);
    }

    /// Ends the session of a neighbour that sent too much, or warns (RFC 4486 section 4).
    pub(crate) fn limit(&mut self, now: Time, peer: IpAddr) {
        let Some(neighbor) = self.neighbors.get_mut(&peer) else { return };
        let Some(max) = neighbor.settings.session().max_prefixes else { return };
        let MaxPrefixes { limit, warn_percent, restart_s } = max;
        let received = self.table.source(neighbor.source).received;
        let Some(session) = &mut neighbor.session else { return };
        for (family, received) in FAMILIES.into_iter().zip(received) {
            if received > limit {
                let conn = session.conn;
                neighbor.locked = Some(restart_s.map(|s| now + Time::from_secs(u64::from(s))));
                let mut data = afi(family).to_be_bytes().to_vec();
                data.push(SAFI_UNICAST);
                data.extend(limit.to_be_bytes());
                let end = End::wish(Notification::with(code::CEASE, cease::MAX_PREFIXES, &data));
                self.end(now, conn, end);
                return;
            }
            let told = match family {
                Family::V4 => &mut session.warned.v4,
                Family::V6 => &mut session.warned.v6,
            };
            let near = u64::from(received) * 100 >= u64::from(limit) * u64::from(warn_percent) && received > 0;
            if near && !*told {
                *told = true;
                self.outputs.push_back(Output::Event(Event::NearLimit { peer, received, limit }));
            }
        }
    }

    /// What import must know of a neighbour that is up; of one that is not, there is nothing to import.
    pub(crate) fn importer(&self, peer: IpAddr) -> Option<Importer> {
        let (neighbor, global) = (self.neighbors.get(&peer)?, self.global.as_ref()?);
        let session = neighbor.session.as_ref()?;
        Some(Importer {
            source: neighbor.source,
            ebgp: session.ebgp,
            asns: [global.asn, session.own_asn],
            allow_own_as: usize::from(neighbor.settings.session().allow_own_as),
            router_id: global.router_id,
            cluster_id: self.cluster_id(),
            local: session.local,
            about: session.import.clone(),
            last: None,
        })
    }

    pub(crate) fn cluster_id(&self) -> Ipv4Addr {
        self.global.as_ref().map_or(Ipv4Addr::UNSPECIFIED, |g| g.cluster_id.unwrap_or(g.router_id))
    }

    /// Whether a route may enter the Loc-RIB.
    pub(crate) fn admit(&self, importer: &Importer, prefix: IpNet, received: Shared) -> Result<Verdict<'_>, Refused> {
        let received = &self.table.attributes[received];
        let a = &received.attributes;
        if let Some(asn) = importer.asns.iter().find(|asn| a.as_path.count(**asn) > importer.allow_own_as) {
            return Err(Refused::OwnAs(*asn));
        }
        if received.next_hop == importer.local {
            return Err(Refused::OwnAddress);
        }
        if self.reach.is_lost(received.next_hop) {
            return Err(Refused::Lost(received.next_hop));
        }
        if a.originator == Some(importer.router_id) {
            return Err(Refused::OwnIdentifier);
        }
        if a.cluster_list.contains(&importer.cluster_id) {
            return Err(Refused::OwnCluster(importer.cluster_id));
        }
        let verdict = self.policies.decide(Direction::Import, &importer.about, prefix, a);
        if verdict.accept { Ok(verdict) } else { Err(Refused::Policy(verdict.statement.cloned())) }
    }

    /// What import makes of a route; `None`: it is refused.
    pub(crate) fn judge(&mut self, importer: &mut Importer, prefix: IpNet, received: Shared) -> Option<Shared> {
        let verdict = self.admit(importer, prefix, received).ok()?;
        let index = verdict.index;
        if let Some((of, last, result)) = importer.last
            && (of, last) == (received, index)
        {
            return Some(result);
        }
        let name = received;
        let received = &self.table.attributes[name];
        let change = verdict.modify;
        // RFC 8326 section 4.2: who goes away is the last choice.
        let leaving = importer.ebgp && received.attributes.communities.contains(&GRACEFUL_SHUTDOWN);
        let own_hop = change.next_hop_self && Family::of(importer.local) == Family::of(received.next_hop);
        let next_hop = if own_hop { importer.local } else { received.next_hop };
        let result = if verdict.changes() || leaving {
            let mut attributes = received.attributes.clone();
            if leaving {
                attributes.local_pref = Some(0);
            }
            policy::modify(&mut attributes, change);
            self.table.attributes.intern(Arc::new(attributes), next_hop)
        } else if own_hop {
            let attributes = Arc::new(received.attributes.clone());
            self.table.attributes.intern(attributes, next_hop)
        } else {
            name
        };
        importer.last = Some((name, index, result));
        Some(result)
    }

    /// Our own path to a prefix becomes this, or goes.
    pub(crate) fn originate(&mut self, now: Time, prefix: IpNet, next_hop: Option<IpAddr>) {
        let change = match next_hop {
            Some(next_hop) => {
                let own = self.table.attributes.intern(self.own_attributes.clone(), next_hop);
                self.table.put(now, OWN, prefix.into(), own, Some(own))
            }
            None => {
                let id = self.table.lookup(OWN, prefix.into()).map(|(id, _)| id);
                id.and_then(|id| self.table.remove(id))
            }
        };
        self.changed(change);
    }

    /// Tells the Adj-RIBs-Out.
    pub(crate) fn changed(&mut self, change: Option<Change>) {
        let Some(change) = change else { return };
        self.mark(&change);
    }

    /// Applies another `max_paths` or `multipath_relax`.
    pub(crate) fn limit_paths(&mut self) {
        let (max_paths, relax) = self.global.as_ref().map_or((1, true), |g| (g.max_paths, g.multipath_relax));
        self.table.set_multipath(max_paths, relax);
    }

    /// Routes go.
    pub(crate) fn remove_routes(&mut self, routes: Vec<RouteId>) {
        for id in routes {
            let change = self.table.remove(id);
            self.changed(change);
        }
    }

    /// Evaluates import again, for all routes of a neighbour or those inside a network.
    pub(crate) fn import_again(&mut self, peer: IpAddr, inside: Option<IpNet>) {
        let Some(mut importer) = self.importer(peer) else { return };
        let source = importer.source;
        let routes: Vec<(RouteId, IpNet, Shared)> = match inside {
            Some(net) => self
                .table
                .inside(net)
                .into_iter()
                .flat_map(|net| self.table.of_net(net).filter(|(_, r)| r.source == source))
                .map(|(id, r)| (id, self.table.prefix(r.net), r.received))
                .collect(),
            None => self.table.of_source(source).map(|(id, r)| (id, self.table.prefix(r.net), r.received)).collect(),
        };
        for (id, prefix, received) in routes {
            let accepted = self.judge(&mut importer, prefix, received);
            let change = self.table.set_accepted(id, accepted);
            self.changed(change);
        }
    }

    /// Which statements of the import policy are about a neighbour may have changed.
    pub(crate) fn reread_import(&mut self, peer: IpAddr) {
        let import = self.policies.about(Direction::Import, peer);
        if let Some(session) = self.neighbors.get_mut(&peer).and_then(|n| n.session.as_mut()) {
            session.import = import;
        }
    }

    /// The source of a neighbour's routes takes over what its session says of it.
    pub(crate) fn describe_source(&mut self, source: SourceId, session: &Session, client: bool) {
        let source = self.table.source_mut(source);
        source.ebgp = session.ebgp;
        source.router_id = session.router_id;
        source.client = client && !session.ebgp;
    }
}
