//! Routes on their way out: export, Adj-RIBs-Out, packing and pacing.
//!
//! Neighbours that are told the same share a group: one Adj-RIB-Out, one decision and one encoding for each change. A
//! group numbers its changes; each member has a position in that sequence, so a slow member costs nothing but the
//! changes it has not read, and of several changes of a route it reads the last. A new member first reads the whole
//! Adj-RIB-Out, by families, each closed by End-of-RIB (RFC 4724 section 2). What may have to change waits, by prefix,
//! until some member can be sent it.
//!
//! A route is never sent back to the neighbour that it comes from. That is the only thing in which members differ.

use alloc::collections::{BTreeMap, BTreeSet, VecDeque};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use core::hash::BuildHasherDefault;
use core::net::{IpAddr, Ipv4Addr};

use fairway_desired::Family;
use fairway_desired::bgp::{Direction, Families, Name};
use hashbrown::HashMap;
use ipnet::IpNet;

use crate::adj_out::{AdjOut, Unit, net_of, path_of, unit};
use crate::intern::{Marks, Mixer, Shared};
use crate::neighbor::{Neighbor, Session};
use crate::policy;
use crate::routes::{GRACEFUL_SHUTDOWN, LLGR_STALE};
use crate::speaker::Speaker;
use crate::table::{Change, DEFAULT_LOCAL_PREF, NetId, OWN, Route, SourceId, Table, family_of};
use crate::view::Messages;
use crate::wire::{Context, FAMILIES, Message, Nlri, Packer, RouteRefresh, SAFI_UNICAST, Update, afi};
use crate::{Octets, Time};

/// RFC 1997: not to external neighbours.
const NO_EXPORT: u32 = 0xffff_ff01;
/// RFC 1997: to nobody.
const NO_ADVERTISE: u32 = 0xffff_ff02;
/// RFC 1997: not to external neighbours, confederation members included.
const NO_EXPORT_SUBCONFED: u32 = 0xffff_ff03;

/// RFC 4360 section 2: this bit of the type means that the community does not leave the AS.
const NOT_TRANSITIVE: u8 = 0x40;

/// So many octets may be on their way to a neighbour; more routes are encoded when they have left.
const WINDOW: usize = 256 << 10;
/// So many routes are encoded at once.
const CHUNK: usize = 4096;

/// What neighbours of a group have in common.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct GroupKey {
    pub(crate) external: bool,
    /// Their AS, if they are external.
    asn: u32,
    /// The AS that we show them.
    own_asn: u32,
    /// We reflect to them.
    client: bool,
    local: IpAddr,
    families: Families,
    extended_next_hop: bool,
    tx: Context,
    /// How many paths of a prefix they get, if they get several.
    paths: u8,
    /// They keep stale routes for long (RFC 9494).
    long_lived: bool,
    /// Which statements of the export policy are about them.
    about: Vec<bool>,
}

impl GroupKey {
    /// Whether they get several paths of a prefix.
    pub(crate) const fn sends_several(&self, family: Family) -> bool {
        self.tx.add_path.has(family)
    }
}

#[derive(Debug)]
pub(crate) struct Group {
    pub(crate) key: GroupKey,
    members: BTreeMap<SourceId, Member>,
    out: AdjOut,
    /// What may have to change: prefixes, each once, and paths of those that are sent several.
    pending: VecDeque<NetId>,
    pending_paths: BTreeSet<Unit>,
    /// Everything may have to.
    all_pending: bool,
    /// What export made of attributes, as long as nothing changes that it depends on.
    rewrites: HashMap<Rewrite, Shared, BuildHasherDefault<Mixer>>,
    /// The last of them: routes come in runs of equal attributes.
    last: Option<(Rewrite, Shared)>,
}

/// So many results of export are kept.
const REWRITES: usize = 4096;

#[derive(Debug)]
struct Member {
    address: IpAddr,
    /// Changes before this one were read.
    position: u64,
    /// Families to be sent as a whole.
    dumps: VecDeque<Dump>,
}

/// A family on its way to a member.
#[derive(Debug)]
struct Dump {
    family: Family,
    /// What comes before this was sent.
    cursor: Unit,
    begun: bool,
    /// It answers a request (RFC 2918); with marks, if the member understands them (RFC 7313).
    refresh: bool,
}

impl Group {
    /// Places of attributes.
    pub(crate) fn len(&self) -> usize {
        self.out.len()
    }

    /// Marks the attributes of all routes; what export made of others is forgotten.
    pub(crate) fn mark_attributes(&mut self, marks: &mut Marks) {
        self.forget_rewrites();
        self.out.mark_attributes(marks);
    }

    /// Policies or settings changed.
    pub(crate) fn forget_rewrites(&mut self) {
        self.rewrites.clear();
        self.last = None;
    }

    fn pend(&mut self, net: NetId) {
        if self.out.mark(net) {
            self.pending.push_back(net);
        }
    }

    fn has_read_all(&self, member: SourceId) -> bool {
        let next = self.out.next_seq();
        self.members.get(&member).is_none_or(|m| m.position >= next && m.dumps.is_empty())
    }

    fn is_pending(&self) -> bool {
        self.all_pending || !self.pending.is_empty() || !self.pending_paths.is_empty()
    }

    /// Everything may have to change.
    fn pend_all(&mut self, table: &Table) {
        let told: Vec<Unit> = self.out.all().map(|(unit, _)| unit).collect();
        for unit in told {
            match path_of(unit) {
                0 => self.pend(net_of(unit)),
                _ => drop(self.pending_paths.insert(unit)),
            }
        }
        for net in FAMILIES.into_iter().flat_map(|f| table.nets(f)) {
            self.pend_net(table, net);
        }
    }

    /// What can be advertised of a prefix may have to change.
    fn pend_net(&mut self, table: &Table, net: NetId) {
        if self.key.sends_several(family_of(net)) {
            self.pending_paths.extend(table.of_net(net).map(|(id, _)| unit(net, id + 1)));
        } else {
            self.pend(net);
        }
    }

    fn next_pending(&mut self) -> Option<Unit> {
        if let Some(net) = self.pending.pop_front() {
            self.out.unmark(net);
            return Some(unit(net, 0));
        }
        self.pending_paths.pop_first()
    }

    /// An entry becomes this.
    fn record(&mut self, unit: Unit, new: Option<(Shared, SourceId)>, table: &mut Table) {
        if self.out.record(unit, new) {
            table.hold(net_of(unit));
        }
    }

    /// Forgets changes that every member has read.
    fn truncate(&mut self, table: &mut Table) {
        let read = self.members.values().map(|m| m.position).min().unwrap_or(u64::MAX);
        self.out.truncate(read, |net| table.release(net));
        self.out.compact(self.members.values_mut().map(|m| &mut m.position));
    }
}

/// Why a route is not advertised.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Withheld {
    Family,
    Internal,
    TheirAs(u32),
    Community(&'static str),
    NextHop,
    Stale,
    Policy(Option<Name>),
}

impl fmt::Display for Withheld {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Withheld::Family => f.write_str("the session does not carry the family"),
            Withheld::Internal => {
                f.write_str("learned from an internal neighbour, and neither is a client (RFC 4271 section 9.2.1)")
            }
            Withheld::TheirAs(asn) => write!(f, "its AS {asn} is in the AS_PATH already"),
            Withheld::Community(name) => write!(f, "community {name} (RFC 1997)"),
            Withheld::NextHop => f.write_str("the next hop is of the other family, and RFC 8950 was not agreed on"),
            Withheld::Stale => f.write_str("stale for long, and it does not know RFC 9494"),
            Withheld::Policy(Some(name)) => write!(f, "statement {name} of the export policy rejects it"),
            Withheld::Policy(None) => f.write_str("no statement of the export policy accepts it"),
        }
    }
}

/// How a route is to leave.
pub(crate) struct Leave<'a> {
    pub(crate) verdict: policy::Verdict<'a>,
    next_hop: IpAddr,
    /// Reflected: who brought it into the AS.
    originator: Option<Ipv4Addr>,
}

/// What the attributes of a route that leaves depend on: those it came with, the statement, the next hop, who brought it
/// in if it is reflected, and whether it is our own.
type Rewrite = (Shared, Option<usize>, IpAddr, Option<Ipv4Addr>, bool);

impl Speaker {
    fn group_key(&self, peer: IpAddr, neighbor: &Neighbor, session: &Session) -> GroupKey {
        let settings = neighbor.settings.session();
        let several = session.tx.add_path.v4 || session.tx.add_path.v6;
        GroupKey {
            external: session.ebgp,
            asn: if session.ebgp { session.asn } else { 0 },
            own_asn: session.own_asn,
            client: settings.reflector_client && !session.ebgp,
            local: session.local,
            families: session.families,
            extended_next_hop: session.extended_next_hop,
            tx: session.tx,
            paths: if several { settings.add_path.send } else { 0 },
            long_lived: session.restart.is_some_and(|r| r.long_lived_s != [0, 0]),
            about: self.policies.about(Direction::Export, peer),
        }
    }

    pub(crate) fn group(&self, id: u32) -> Option<&Group> {
        self.groups.get(id as usize)?.as_ref()
    }

    /// The group of a key, made if there is none.
    fn group_of(&mut self, key: GroupKey) -> u32 {
        if let Some(id) = self.group_ids.get(&key) {
            return *id;
        }
        let group = Group {
            key: key.clone(),
            members: BTreeMap::new(),
            out: AdjOut::default(),
            pending: VecDeque::new(),
            pending_paths: BTreeSet::new(),
            all_pending: true,
            rewrites: HashMap::default(),
            last: None,
        };
        let id = match self.groups.iter().position(Option::is_none) {
            Some(free) => {
                self.groups[free] = Some(group);
                free as u32
            }
            None => {
                self.groups.push(Some(group));
                self.groups.len() as u32 - 1
            }
        };
        self.group_ids.insert(key, id);
        self.dirty_groups.insert(id);
        id
    }

    /// A session came up: its neighbour joins the group that fits, and is sent everything.
    pub(crate) fn join(&mut self, peer: IpAddr) {
        let Some(neighbor) = self.neighbors.get(&peer) else { return };
        let Some(session) = &neighbor.session else { return };
        let (source, families) = (neighbor.source, session.families);
        let id = self.group_of(self.group_key(peer, neighbor, session));
        // What waits is evaluated first, so that it is not sent twice.
        self.evaluate_group(id);
        let Some(group) = self.groups.get_mut(id as usize).and_then(Option::as_mut) else { return };
        let dumps = FAMILIES
            .into_iter()
            .filter(|f| families.has(*f))
            .map(|family| Dump { family, cursor: 0, begun: false, refresh: false })
            .collect();
        group.members.insert(source, Member { address: peer, position: group.out.next_seq(), dumps });
        self.dirty_groups.insert(id);
        if let Some(session) = self.neighbors.get_mut(&peer).and_then(|n| n.session.as_mut()) {
            session.group = id;
        }
    }

    /// A member is gone.
    pub(crate) fn leave(&mut self, source: SourceId, id: u32) {
        let Some(group) = self.groups.get_mut(id as usize).and_then(Option::as_mut) else { return };
        group.members.remove(&source);
        self.dirty_groups.insert(id);
    }

    /// What the neighbour has in common with others may have changed: it moves to the group that fits now, and is told
    /// the difference.
    pub(crate) fn regroup(&mut self, now: Time, peer: IpAddr) {
        let Some(neighbor) = self.neighbors.get(&peer) else { return };
        let Some(session) = &neighbor.session else { return };
        let (source, old) = (neighbor.source, session.group);
        let key = self.group_key(peer, neighbor, session);
        if self.group(old).is_some_and(|g| g.key == key) {
            return;
        }
        let id = self.group_of(key);
        self.dirty_groups.insert(old);
        self.evaluate_group(id);
        let (Some(left), Some(joined)) = (self.group(old), self.group(id)) else { return };
        let Some(member) = left.members.get(&source) else { return };
        // What is unread in the old group is not sent any more: it may be what is forbidden from now on. So it is only
        // known what the member may have been told. The change is rare: better something twice, and the window may be
        // passed over.
        let up_to_date = member.position == left.out.next_seq() && member.dumps.is_empty();
        let route = |group: &Group, unit: Unit| group.out.get(unit).filter(|e| e.from != source).and_then(|e| e.route);
        let units: BTreeSet<Unit> = left.out.all().chain(joined.out.all()).map(|(unit, _)| unit).collect();
        let mut batch = Batch::default();
        for unit in units {
            match (route(left, unit), route(joined, unit)) {
                (Some(old), Some(new)) if up_to_date && old == new => {}
                (_, Some(new)) => batch.announce.push((new, unit)),
                (Some(_), None) => batch.withdraw.push(unit),
                (None, None) if !up_to_date && left.out.get(unit).is_some() => batch.withdraw.push(unit),
                (None, None) => {}
            }
        }
        // Of a family that was on its way only the end is missing now; one that was asked for once more begins anew.
        let again = |d: &Dump| Dump {
            family: d.family,
            cursor: if d.refresh { 0 } else { unit(NetId::MAX, 0) },
            begun: false,
            refresh: d.refresh,
        };
        let dumps = member.dumps.iter().map(again).collect();
        let bytes = batch.encode(&self.table, joined.key.tx);
        let position = joined.out.next_seq();
        let member = Member { address: peer, position, dumps };
        self.leave(source, old);
        if let Some(group) = self.groups.get_mut(id as usize).and_then(Option::as_mut) {
            group.members.insert(source, member);
        }
        if let Some(neighbor) = self.touch(peer)
            && let Some(session) = &mut neighbor.session
        {
            session.group = id;
            let conn = session.conn;
            if let Some(conn) = neighbor.conn(conn) {
                conn.send_bytes(now, &bytes);
            }
        }
    }

    /// A prefix changed: all Adj-RIBs-Out may have to.
    pub(crate) fn mark(&mut self, change: &Change) {
        let family = family_of(change.net);
        for (id, group) in self.groups.iter_mut().enumerate() {
            let Some(group) = group else { continue };
            if group.key.sends_several(family) {
                let paths = self.table.of_net(change.net).map(|(id, _)| id).chain(change.removed);
                group.pending_paths.extend(paths.map(|id| unit(change.net, id + 1)));
            } else if change.best {
                group.pend(change.net);
            } else {
                continue;
            }
            if self.dirty_groups.last() != Some(&(id as u32)) {
                self.dirty_groups.insert(id as u32);
            }
        }
    }

    /// Everything inside a network may have to be advertised otherwise; `None`: everything.
    pub(crate) fn export_again(&mut self, inside: Option<IpNet>) {
        let nets = inside.map(|net| self.table.inside(net));
        for (id, group) in self.groups.iter_mut().enumerate() {
            let Some(group) = group else { continue };
            self.dirty_groups.insert(id as u32);
            group.forget_rewrites();
            match &nets {
                None => group.all_pending = true,
                Some(nets) => nets.iter().for_each(|net| group.pend_net(&self.table, *net)),
            }
        }
    }

    /// ROUTE-REFRESH (RFC 2918 section 4): the Adj-RIB-Out of a family once more.
    pub(crate) fn refresh(&mut self, peer: IpAddr, family: Family) {
        let Some(neighbor) = self.neighbors.get(&peer) else { return };
        let Some(session) = neighbor.session.as_ref().filter(|s| s.families.has(family)) else { return };
        let (id, source) = (session.group, neighbor.source);
        let group = self.groups.get_mut(id as usize).and_then(Option::as_mut);
        let Some(member) = group.and_then(|g| g.members.get_mut(&source)) else { return };
        // One that has not begun will bring everything anyway.
        if !member.dumps.iter().any(|d| d.family == family && !d.begun) {
            member.dumps.push_back(Dump { family, cursor: 0, begun: false, refresh: true });
        }
        self.dirty_groups.insert(id);
    }

    /// Whether and how a route is advertised to a group.
    pub(crate) fn may_leave(&self, key: &GroupKey, prefix: IpNet, route: &Route) -> Result<Leave<'_>, Withheld> {
        let family = Family::of(prefix.addr());
        if !key.families.has(family) {
            return Err(Withheld::Family);
        }
        let Some(accepted) = route.accepted.map(|a| &self.table.attributes[a]) else { return Err(Withheld::Family) };
        let a = &accepted.attributes;
        let source = self.table.source(route.source);
        let own = route.source == OWN;
        let internal = !own && !source.ebgp;
        // RFC 4271 section 9.2.1: internal neighbours tell each other themselves; RFC 4456 section 6: but for clients.
        if internal && !key.external && !source.client && !key.client {
            return Err(Withheld::Internal);
        }
        // The neighbour would find its own AS in the path and refuse the route (RFC 4271 section 9.1.2); sending it is
        // only noise, which grows with the square of the neighbours of one AS. GoBGP keeps it back too.
        if key.external && a.as_path.contains(key.asn) {
            return Err(Withheld::TheirAs(key.asn));
        }
        let has = |community: u32| a.communities.contains(&community);
        let stop: &[(u32, &str)] =
            &[(NO_ADVERTISE, "NO_ADVERTISE"), (NO_EXPORT, "NO_EXPORT"), (NO_EXPORT_SUBCONFED, "NO_EXPORT_SUBCONFED")];
        let stop = if key.external { stop } else { &stop[..1] };
        if let Some((_, name)) = stop.iter().find(|(community, _)| has(*community)) {
            return Err(Withheld::Community(name));
        }
        // RFC 9494 section 4.3
        if has(LLGR_STALE) && key.external && !key.long_lived {
            return Err(Withheld::Stale);
        }
        let verdict = self.policies.decide(Direction::Export, &key.about, prefix, a);
        if !verdict.accept {
            return Err(Withheld::Policy(verdict.statement.cloned()));
        }
        // On an IPv6 session that takes IPv6 next hops for IPv4, the neighbour may have no other way to us (RFC 8950).
        let over_v6 = family == Family::V4 && key.extended_next_hop && key.local.is_ipv6();
        let hop_self = verdict.modify.next_hop_self || (key.external && (!own || over_v6));
        let own_hop = if hop_self { self.own_address(key, family) } else { None };
        let next_hop = own_hop.unwrap_or(accepted.next_hop);
        if Family::of(next_hop) != family && !(family == Family::V4 && key.extended_next_hop) {
            return Err(Withheld::NextHop);
        }
        let originator = (internal && !key.external)
            .then(|| a.originator.unwrap_or(source.router_id))
            .filter(|id| !id.is_unspecified());
        Ok(Leave { verdict, next_hop, originator })
    }

    /// Our address towards a group, for prefixes of a family: the session's, or where the session has the other family
    /// and cannot name it, the one that our own networks are reached by.
    fn own_address(&self, key: &GroupKey, family: Family) -> Option<IpAddr> {
        if Family::of(key.local) == family || (family == Family::V4 && key.extended_next_hop) {
            return Some(key.local);
        }
        self.own_addresses.range(crate::config::addresses(family)).next().map(|(address, _)| *address)
    }

    /// What a group is told for a unit.
    fn export(&mut self, group: &mut Group, unit: Unit) -> Option<(Shared, SourceId)> {
        let (net, key) = (net_of(unit), &group.key);
        let prefix = self.table.prefix(net);
        let route = if path_of(unit) == 0 {
            self.table.best(net)?.1
        } else {
            let id = path_of(unit).checked_sub(1)?;
            let among = self.table.of_net(net).take(usize::from(key.paths)).any(|(other, _)| other == id);
            self.table.route(id).filter(|r| among && r.net == net && r.accepted.is_some())?
        };
        let from = route.source;
        let leave = self.may_leave(key, prefix, route).ok()?;
        let accepted = route.accepted?;
        let (index, next_hop, originator) = (leave.verdict.index, leave.next_hop, leave.originator);
        let rewrite = (accepted, index, next_hop, originator, from == OWN);
        if let Some((_, known)) = group.last.filter(|(last, _)| *last == rewrite) {
            return Some((known, from));
        }
        if let Some(known) = group.rewrites.get(&rewrite) {
            group.last = Some((rewrite, *known));
            return Some((*known, from));
        }
        let mut new = self.table.attributes[accepted].attributes.clone();
        let leaving = self.draining || self.global.as_ref().is_some_and(|g| g.graceful_shutdown);
        if key.external {
            new.as_path.prepend(key.own_asn, 1);
            // RFC 4271 section 5.1.4: a MED received is not for other neighbouring ASes.
            if from != OWN {
                new.med = None;
            }
            new.originator = None;
            new.cluster_list.clear();
            // RFC 4360 section 6: those that are not transitive stay in the AS.
            new.ext_communities.retain(|c| c[0] & NOT_TRANSITIVE == 0);
        }
        for unknown in &mut new.unknown {
            unknown.partial = true;
        }
        policy::modify(&mut new, leave.verdict.modify);
        if let Some(originator) = originator {
            new.originator = Some(originator);
            new.cluster_list.insert(0, self.cluster_id());
        }
        // RFC 8326 section 4.1
        if leaving && key.external && !new.communities.contains(&GRACEFUL_SHUTDOWN) {
            new.communities.push(GRACEFUL_SHUTDOWN);
        }
        new.local_pref = match (key.external, leaving) {
            (true, _) => None,
            (false, true) => Some(0),
            (false, false) => Some(new.local_pref.unwrap_or(DEFAULT_LOCAL_PREF)),
        };
        let new = self.table.attributes.intern(Arc::new(new), next_hop);
        if group.rewrites.len() >= REWRITES {
            group.rewrites.clear();
        }
        group.rewrites.insert(rewrite, new);
        group.last = Some((rewrite, new));
        Some((new, from))
    }

    /// Brings a group's Adj-RIB-Out up to date.
    fn evaluate_group(&mut self, id: u32) {
        let Some(mut group) = self.groups.get_mut(id as usize).and_then(Option::take) else { return };
        self.evaluate_some(&mut group, usize::MAX);
        self.groups[id as usize] = Some(group);
    }

    /// Decides so many of the things that may have to change.
    fn evaluate_some(&mut self, group: &mut Group, limit: usize) {
        if core::mem::take(&mut group.all_pending) {
            group.pend_all(&self.table);
        }
        for _ in 0..limit {
            let Some(unit) = group.next_pending() else {
                // The memory of a large change is not kept.
                group.pending.shrink_to(CHUNK);
                return;
            };
            let new = self.export(group, unit);
            group.record(unit, new, &mut self.table);
        }
    }

    /// Brings groups up to date where something changed, and their members, as far as these can be sent more.
    pub(crate) fn advertise(&mut self, now: Time) {
        for id in core::mem::take(&mut self.dirty_groups) {
            let Some(mut group) = self.groups.get_mut(id as usize).and_then(Option::take) else { continue };
            if group.members.is_empty() {
                self.group_ids.remove(&group.key);
                for (unit, _) in group.out.all() {
                    self.table.release(net_of(unit));
                }
                continue;
            }
            let members: Vec<SourceId> = group.members.keys().copied().collect();
            loop {
                self.evaluate_some(&mut group, CHUNK);
                let mut shared = BTreeMap::new();
                let mut room = false;
                for member in &members {
                    // Who has read all there is, as most have when one joins, is not looked at any further.
                    if !self.ends_due && !group.is_pending() && group.has_read_all(*member) {
                        continue;
                    }
                    room |= self.pump(now, &mut group, *member, WINDOW, &mut shared);
                }
                group.truncate(&mut self.table);
                // Where nobody has room, the first who has again makes this go on.
                if !room || !group.is_pending() {
                    break;
                }
            }
            self.groups[id as usize] = Some(group);
        }
        self.ends_due = false;
    }

    /// Sends a member what it has not read yet, as far as its window allows. Returns whether it can be sent more.
    fn pump(
        &mut self,
        now: Time,
        group: &mut Group,
        source: SourceId,
        window: usize,
        shared: &mut BTreeMap<u64, Portion>,
    ) -> bool {
        let Some(address) = group.members.get(&source).map(|m| m.address) else { return false };
        self.touched.insert(address);
        let Some(neighbor) = self.neighbors.get_mut(&address) else { return false };
        let Some((conn, enhanced)) = neighbor.session.as_ref().map(|s| (s.conn, s.enhanced_refresh)) else {
            return false;
        };
        let restarting = self.restarting.is_some();
        loop {
            let Some(c) = neighbor.conn(conn) else { return false };
            if c.waiting() >= window {
                return false;
            }
            let Some(member) = group.members.get_mut(&source) else { return false };
            if let Some(dump) = member.dumps.front_mut() {
                let marks = dump.refresh && enhanced;
                let mark = |subtype| {
                    Message::RouteRefresh(RouteRefresh { afi: afi(dump.family), subtype, safi: SAFI_UNICAST })
                };
                if !dump.begun && marks {
                    c.send(now, &mark(1));
                }
                dump.begun = true;
                let mut batch = Batch::default();
                let mut next = None;
                for (i, (unit, entry)) in group.out.from(dump.family, dump.cursor).enumerate() {
                    if i == CHUNK {
                        next = Some(unit);
                        break;
                    }
                    batch.announce.extend(entry.route.filter(|_| entry.from != source).map(|route| (route, unit)));
                }
                let bytes = batch.encode(&self.table, group.key.tx);
                c.send_bytes(now, &bytes);
                match next {
                    Some(next) => dump.cursor = next,
                    None => {
                        let family = dump.family;
                        if marks {
                            c.send(now, &mark(2));
                        }
                        let first = !dump.refresh;
                        if first && !restarting {
                            c.send(now, &Message::Update(Update::end_of_rib(family)));
                        }
                        member.dumps.pop_front();
                        if first
                            && restarting
                            && let Some(session) = &mut neighbor.session
                        {
                            match family {
                                Family::V4 => session.end_of_rib_due.v4 = true,
                                Family::V6 => session.end_of_rib_due.v6 = true,
                            }
                        }
                    }
                }
                continue;
            }
            let position = member.position;
            if position >= group.out.next_seq() {
                let due = neighbor.session.as_mut().filter(|_| !restarting && !group.is_pending());
                let due = due.map_or(Families::default(), |s| core::mem::take(&mut s.end_of_rib_due));
                if let Some(c) = neighbor.conn(conn) {
                    for family in FAMILIES.into_iter().filter(|f| due.has(*f)) {
                        c.send(now, &Message::Update(Update::end_of_rib(family)));
                    }
                }
                return true;
            }
            let portion = shared
                .entry(position)
                .or_insert_with(|| Portion::read(&group.out, &group.key, position, &self.table, None));
            if portion.sources.binary_search(&source).is_ok() {
                // It must not hear of its own routes.
                let own = Portion::read(&group.out, &group.key, position, &self.table, Some(source));
                c.send_bytes(now, &own.bytes);
                member.position = own.next;
            } else {
                c.send_shared(now, &portion.bytes, &portion.messages);
                member.position = portion.next;
            }
        }
    }

    /// What we advertise is complete: End-of-RIB to those who wait for it, as soon as they were sent all.
    pub(crate) fn send_due_ends(&mut self) {
        self.ends_due = true;
        self.dirty_groups.extend((0u32..).zip(&self.groups).filter(|(_, g)| g.is_some()).map(|(id, _)| id));
    }

    /// How many routes a neighbour is told, by family.
    pub(crate) fn advertised(&self, neighbor: &Neighbor) -> [usize; 2] {
        let group = neighbor.session.as_ref().and_then(|s| self.group(s.group));
        group.map_or([0, 0], |g| g.out.advertised(neighbor.source))
    }

    /// What a neighbour is told: prefix, path identifier, attributes and source.
    pub(crate) fn told(&self, peer: IpAddr) -> impl Iterator<Item = (NetId, u32, Shared, SourceId)> {
        let neighbor = self.neighbors.get(&peer);
        let source = neighbor.map_or(OWN, |n| n.source);
        let group = neighbor.and_then(|n| n.session.as_ref()).and_then(|s| self.group(s.group));
        group
            .into_iter()
            .flat_map(|g| g.out.all())
            .filter(move |(_, e)| e.from != source)
            .filter_map(|(unit, e)| Some((net_of(unit), path_of(unit), e.route?, e.from)))
    }
}

/// Changes that are encoded together.
#[derive(Default)]
struct Batch {
    withdraw: Vec<Unit>,
    announce: Vec<(Shared, Unit)>,
}

impl Batch {
    /// Messages, each packed full: first what is gone, then what is new. What cannot be advertised because its
    /// attributes are too long (RFC 4271 section 9.2) is withdrawn.
    fn encode(mut self, table: &Table, context: Context) -> Vec<u8> {
        let mut announcements = Vec::new();
        let nlri = |unit: Unit| Nlri { prefix: table.prefix(net_of(unit)), path_id: path_of(unit) };
        // Stable, so prefixes keep their order.
        self.announce.sort_by_key(|(shared, unit)| (*shared, family_of(net_of(*unit))));
        let same =
            |a: &(Shared, Unit), b: &(Shared, Unit)| a.0 == b.0 && family_of(net_of(a.1)) == family_of(net_of(b.1));
        for run in self.announce.chunk_by(same) {
            let Some((shared, first)) = run.first() else { continue };
            let shared = &table.attributes[*shared];
            match Packer::announce(family_of(net_of(*first)), &shared.attributes, shared.next_hop, context) {
                Ok(mut packer) => {
                    for (_, unit) in run {
                        packer.push(nlri(*unit), &mut announcements);
                    }
                    packer.finish(&mut announcements);
                }
                Err(_) => self.withdraw.extend(run.iter().map(|(_, unit)| *unit)),
            }
        }
        if self.withdraw.is_empty() {
            return announcements;
        }
        let mut bytes = Vec::new();
        for family in FAMILIES {
            let Ok(mut packer) = Packer::withdraw(family, context) else { continue };
            for unit in self.withdraw.iter().filter(|unit| family_of(net_of(**unit)) == family) {
                packer.push(nlri(*unit), &mut bytes);
            }
            packer.finish(&mut bytes);
        }
        bytes.append(&mut announcements);
        bytes
    }
}

/// Changes of a group, encoded for members at one position.
struct Portion {
    bytes: Octets,
    messages: Messages,
    /// The position afterwards.
    next: u64,
    /// Members among these need an encoding of their own; sorted.
    sources: Vec<SourceId>,
}

impl Portion {
    /// Reads on from a position, as a member sees it, or as those see it that none of the routes come from.
    fn read(out: &AdjOut, key: &GroupKey, position: u64, table: &Table, member: Option<SourceId>) -> Portion {
        let mut batch = Batch::default();
        let mut sources: Vec<SourceId> = Vec::new();
        let mut next = out.next_seq();
        for (i, change) in out.unread(position).enumerate() {
            if i == CHUNK {
                next = change.seq;
                break;
            }
            let Some(entry) = out.get(change.unit) else { continue };
            if member.is_none() {
                // Changes come in runs of one source.
                for source in [Some(entry.from), change.source_before()].into_iter().flatten() {
                    if sources.last() != Some(&source) {
                        sources.push(source);
                    }
                }
            }
            match entry.route {
                Some(route) if Some(entry.from) != member => batch.announce.push((route, change.unit)),
                // Only what it may know needs to be withdrawn.
                _ if change.may_be_known(member) => batch.withdraw.push(change.unit),
                _ => {}
            }
        }
        sources.sort_unstable();
        sources.dedup();
        let bytes = batch.encode(table, key.tx);
        let mut messages = Messages::default();
        messages.count(&bytes);
        Portion { bytes: bytes.into(), messages, next, sources }
    }
}
