//! Routes on their way out: export, Adj-RIBs-Out, packing and pacing.
//!
//! Neighbours that are told the same share a group: one Adj-RIB-Out, one decision and one encoding for each change. A
//! group numbers its changes; each member has a position in that sequence, so a slow member costs nothing but the
//! changes it has not read, and of several changes of a route it reads the last. A new member first reads the whole
//! Adj-RIB-Out, by families, each closed by End-of-RIB (RFC 4724 section 2).
//!
//! A route is never sent back to the neighbour that it comes from. That is the only thing in which members differ.

use alloc::collections::{BTreeMap, BTreeSet, VecDeque};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use core::net::{IpAddr, Ipv4Addr};

use fairway_desired::Family;
use fairway_desired::bgp::{Direction, Families, Name};
use ipnet::IpNet;

use crate::Time;
use crate::intern::Shared;
use crate::neighbor::{Neighbor, Session};
use crate::policy;
use crate::routes::{GRACEFUL_SHUTDOWN, LLGR_STALE};
use crate::speaker::Speaker;
use crate::table::{Change, DEFAULT_LOCAL_PREF, NetId, OWN, Route, RouteId, SourceId, Table};
use crate::wire::{Context, FAMILIES, Message, Nlri, Packer, RouteRefresh, SAFI_UNICAST, Update, afi};

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

/// One thing that is advertised: a prefix, and with ADD-PATH one of its paths.
type Unit = u64;

const fn unit(net: NetId, path_id: u32) -> Unit {
    (net as u64) << 32 | path_id as u64
}

const fn net_of(unit: Unit) -> NetId {
    (unit >> 32) as NetId
}

/// An entry of an Adj-RIB-Out.
#[derive(Debug)]
struct Entry {
    /// `None`: withdrawn, but not all members have read that yet.
    route: Option<Shared>,
    /// Where the route comes from, or came from.
    from: SourceId,
    /// The number of the last change.
    seq: u64,
    /// Source and number of the route before that change, if there was one.
    before: Option<(SourceId, u64)>,
}

#[derive(Debug)]
pub(crate) struct Group {
    pub(crate) key: GroupKey,
    members: BTreeMap<SourceId, Member>,
    out: BTreeMap<Unit, Entry>,
    /// Changes that not all members have read: number and what it is about.
    log: BTreeMap<u64, Unit>,
    next_seq: u64,
    /// What may have to change.
    pending: Vec<Unit>,
    /// Everything may have to.
    all_pending: bool,
    /// Routes advertised by family, and how many of them come from each source.
    announced: [usize; 2],
    by_source: BTreeMap<SourceId, [usize; 2]>,
}

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
    /// Routes that a member was told, or will be as soon as it reads on.
    fn advertised(&self, member: SourceId) -> [usize; 2] {
        let own = self.by_source.get(&member).copied().unwrap_or_default();
        [self.announced[0] - own[0], self.announced[1] - own[1]]
    }

    fn count(&mut self, family: Family, from: SourceId, more: bool) {
        let own = self.by_source.entry(from).or_default();
        let all = &mut self.announced[family as usize];
        if more {
            own[family as usize] += 1;
            *all += 1;
        } else {
            own[family as usize] -= 1;
            *all -= 1;
            if *own == [0, 0] {
                self.by_source.remove(&from);
            }
        }
    }

    /// An entry becomes this.
    fn record(&mut self, unit: Unit, new: Option<(Shared, SourceId)>, table: &mut Table) {
        let seq = self.next_seq;
        let family = Family::of(table.prefix(net_of(unit)).addr());
        let Some(entry) = self.out.get_mut(&unit) else {
            let Some((route, from)) = new else { return };
            self.count(family, from, true);
            self.out.insert(unit, Entry { route: Some(route), from, seq, before: None });
            self.log.insert(seq, unit);
            self.next_seq += 1;
            table.hold(net_of(unit));
            return;
        };
        match (&entry.route, &new) {
            (None, None) => return,
            (Some(old), Some((new, from))) if Arc::ptr_eq(old, new) && entry.from == *from => return,
            _ => {}
        }
        let (mut less, mut more) = (None, None);
        if entry.route.is_some() {
            entry.before = Some((entry.from, entry.seq));
            less = Some(entry.from);
        }
        match new {
            Some((route, from)) => {
                entry.route = Some(route);
                entry.from = from;
                more = Some(from);
            }
            None => entry.route = None,
        }
        self.log.remove(&entry.seq);
        entry.seq = seq;
        if let Some(from) = less {
            self.count(family, from, false);
        }
        if let Some(from) = more {
            self.count(family, from, true);
        }
        self.log.insert(seq, unit);
        self.next_seq += 1;
    }

    /// Forgets changes that every member has read.
    fn truncate(&mut self, table: &mut Table) {
        let read = self.members.values().map(|m| m.position).min().unwrap_or(self.next_seq);
        let rest = self.log.split_off(&read);
        for (seq, unit) in core::mem::replace(&mut self.log, rest) {
            if self.out.get(&unit).is_some_and(|e| e.route.is_none() && e.seq == seq) {
                self.out.remove(&unit);
                table.release(net_of(unit));
            }
        }
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

/// The last result: routes come in runs of equal attributes, and a shared result is what lets them share a message.
#[derive(Default)]
struct Memo(Option<(Rewrite, Shared)>);

/// What the attributes of a route that leaves depend on: those it came with, the statement, the next hop, and who
/// brought it in if it is reflected.
type Rewrite = (u64, Option<usize>, IpAddr, Option<Ipv4Addr>);

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
            out: BTreeMap::new(),
            log: BTreeMap::new(),
            next_seq: 0,
            pending: Vec::new(),
            all_pending: true,
            announced: [0, 0],
            by_source: BTreeMap::new(),
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
        group.members.insert(source, Member { address: peer, position: group.next_seq, dumps });
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
        let up_to_date = member.position == left.next_seq && member.dumps.is_empty();
        let route = |e: &Entry| if e.from == source { None } else { e.route.clone() };
        let units: BTreeSet<Unit> = left.out.keys().chain(joined.out.keys()).copied().collect();
        let mut batch = Batch::default();
        for unit in units {
            let nlri = Nlri { prefix: self.table.prefix(net_of(unit)), path_id: unit as u32 };
            let told = left.out.get(&unit);
            match (told.and_then(route), joined.out.get(&unit).and_then(route)) {
                (Some(old), Some(new)) if up_to_date && Arc::ptr_eq(&old, &new) => {}
                (_, Some(new)) => batch.announce.push((new, nlri)),
                (Some(_), None) => batch.withdraw.push(nlri),
                (None, None) if told.is_some() && !up_to_date => batch.withdraw.push(nlri),
                (None, None) => {}
            }
        }
        // Of a family that was on its way only the end is missing now; one that was asked for once more begins anew.
        let again = |d: &Dump| Dump {
            family: d.family,
            cursor: if d.refresh { 0 } else { Unit::MAX },
            begun: false,
            refresh: d.refresh,
        };
        let dumps = member.dumps.iter().map(again).collect();
        let (bytes, _) = batch.encode(joined.key.tx);
        let position = joined.next_seq;
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
        let family = Family::of(self.table.prefix(change.net).addr());
        for (id, group) in self.groups.iter_mut().enumerate() {
            let Some(group) = group else { continue };
            if !group.key.sends_several(family) {
                if change.best {
                    group.pending.push(unit(change.net, 0));
                    self.dirty_groups.insert(id as u32);
                }
            } else {
                let paths = self.table.of_net(change.net).map(|(id, _)| id).chain(change.removed);
                group.pending.extend(paths.map(|id| unit(change.net, id + 1)));
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
            match &nets {
                None => group.all_pending = true,
                Some(nets) => {
                    for net in nets {
                        group.pending.extend(units(&self.table, &group.key, *net));
                    }
                }
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
        let Some(accepted) = &route.accepted else { return Err(Withheld::Family) };
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
        let hop_self = verdict.modify.next_hop_self || (key.external && !own);
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

    /// Our address of a family towards a group: the session's, or where the session has the other family, the one that
    /// our own networks are reached by.
    fn own_address(&self, key: &GroupKey, family: Family) -> Option<IpAddr> {
        if Family::of(key.local) == family {
            return Some(key.local);
        }
        let other = self.own_addresses.range(crate::config::addresses(family)).next().map(|(address, _)| *address);
        // RFC 8950: better an IPv6 next hop than none.
        other.or_else(|| (family == Family::V4 && key.extended_next_hop).then_some(key.local))
    }

    /// What a group is told for a unit.
    fn export(&mut self, key: &GroupKey, unit: Unit, memo: &mut Memo) -> Option<(Shared, SourceId)> {
        let net = net_of(unit);
        let prefix = self.table.prefix(net);
        let route = if unit as u32 == 0 {
            self.table.best(net)?.1
        } else {
            let id = (unit as RouteId).checked_sub(1)?;
            let among = self.table.of_net(net).take(usize::from(key.paths)).any(|(other, _)| other == id);
            self.table.route(id).filter(|r| among && r.net == net && r.accepted.is_some())?
        };
        let from = route.source;
        let leave = self.may_leave(key, prefix, route).ok()?;
        let accepted = route.accepted.clone()?;
        let (index, next_hop, originator) = (leave.verdict.index, leave.next_hop, leave.originator);
        let rewrite = (accepted.id, index, next_hop, originator);
        if let Some((_, result)) = memo.0.as_ref().filter(|(last, _)| *last == rewrite) {
            return Some((result.clone(), from));
        }
        let mut new = accepted.attributes.clone();
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
        let new = self.interner.intern(Arc::new(new), next_hop);
        memo.0 = Some((rewrite, new.clone()));
        Some((new, from))
    }

    /// Brings a group's Adj-RIB-Out up to date.
    fn evaluate_group(&mut self, id: u32) {
        let Some(mut group) = self.groups.get_mut(id as usize).and_then(Option::take) else { return };
        let mut pending = core::mem::take(&mut group.pending);
        if core::mem::take(&mut group.all_pending) {
            pending.clear();
            pending.extend(group.out.keys());
            let nets: Vec<NetId> = FAMILIES.into_iter().flat_map(|f| self.table.nets(f)).collect();
            pending.extend(nets.into_iter().flat_map(|net| units(&self.table, &group.key, net)));
        }
        pending.sort_unstable();
        pending.dedup();
        let mut memo = Memo::default();
        for unit in pending.drain(..) {
            let new = self.export(&group.key, unit, &mut memo);
            group.record(unit, new, &mut self.table);
        }
        // The memory is used again.
        group.pending = pending;
        self.groups[id as usize] = Some(group);
    }

    /// Brings groups up to date where something changed, and their members.
    pub(crate) fn advertise(&mut self, now: Time) {
        for id in core::mem::take(&mut self.dirty_groups) {
            self.evaluate_group(id);
            let Some(mut group) = self.groups.get_mut(id as usize).and_then(Option::take) else { continue };
            if group.members.is_empty() {
                self.group_ids.remove(&group.key);
                for unit in group.out.keys() {
                    self.table.release(net_of(*unit));
                }
                continue;
            }
            let mut shared = BTreeMap::new();
            let members: Vec<SourceId> = group.members.keys().copied().collect();
            for member in members {
                self.pump(now, &mut group, member, WINDOW, &mut shared);
            }
            group.truncate(&mut self.table);
            self.groups[id as usize] = Some(group);
        }
    }

    /// Sends a member what it has not read yet, as far as its window allows.
    fn pump(
        &mut self,
        now: Time,
        group: &mut Group,
        source: SourceId,
        window: usize,
        shared: &mut BTreeMap<u64, Arc<Portion>>,
    ) {
        let Some(address) = group.members.get(&source).map(|m| m.address) else { return };
        self.touched.insert(address);
        let Some(neighbor) = self.neighbors.get_mut(&address) else { return };
        let Some((conn, enhanced)) = neighbor.session.as_ref().map(|s| (s.conn, s.enhanced_refresh)) else { return };
        let restarting = self.restarting.is_some();
        loop {
            let Some(c) = neighbor.conn(conn) else { return };
            if c.unsent + c.tx.len() >= window {
                return;
            }
            let Some(member) = group.members.get_mut(&source) else { return };
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
                for (i, (unit, entry)) in group.out.range(dump.cursor..).enumerate() {
                    if i == CHUNK {
                        next = Some(*unit);
                        break;
                    }
                    let prefix = self.table.prefix(net_of(*unit));
                    if let Some(route) = &entry.route
                        && entry.from != source
                        && Family::of(prefix.addr()) == dump.family
                    {
                        batch.announce.push((route.clone(), Nlri { prefix, path_id: *unit as u32 }));
                    }
                }
                let (bytes, _) = batch.encode(group.key.tx);
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
            if position >= group.next_seq {
                return;
            }
            let portion = match shared.get(&position) {
                Some(portion) => portion.clone(),
                None => {
                    let portion = Arc::new(Portion::read(group, position, &self.table, None));
                    shared.insert(position, portion.clone());
                    portion
                }
            };
            let next = if portion.sources.contains(&source) {
                // It must not hear of its own routes.
                let own = Portion::read(group, position, &self.table, Some(source));
                c.send_bytes(now, &own.bytes);
                own.next
            } else {
                c.send_bytes(now, &portion.bytes);
                portion.next
            };
            if let Some(member) = group.members.get_mut(&source) {
                member.position = next;
            }
        }
    }

    /// End-of-RIB to those who wait for it: what we advertise is complete.
    pub(crate) fn send_due_ends(&mut self, now: Time) {
        let peers: Vec<IpAddr> = self.neighbors.keys().copied().collect();
        for peer in peers {
            let Some(neighbor) = self.touch(peer) else { continue };
            let Some(session) = &mut neighbor.session else { continue };
            let due = core::mem::take(&mut session.end_of_rib_due);
            let id = session.conn;
            let Some(conn) = neighbor.conn(id) else { continue };
            for family in FAMILIES.into_iter().filter(|f| due.has(*f)) {
                conn.send(now, &Message::Update(Update::end_of_rib(family)));
            }
        }
    }

    /// How many routes a neighbour is told, by family.
    pub(crate) fn advertised(&self, neighbor: &Neighbor) -> [usize; 2] {
        let group = neighbor.session.as_ref().and_then(|s| self.group(s.group));
        group.map_or([0, 0], |g| g.advertised(neighbor.source))
    }

    /// What a neighbour is told: prefix, path identifier, attributes and source.
    pub(crate) fn told(&self, peer: IpAddr) -> impl Iterator<Item = (NetId, u32, &Shared, SourceId)> {
        let neighbor = self.neighbors.get(&peer);
        let source = neighbor.map_or(OWN, |n| n.source);
        let group = neighbor.and_then(|n| n.session.as_ref()).and_then(|s| self.group(s.group));
        group
            .into_iter()
            .flat_map(|g| &g.out)
            .filter(move |(_, e)| e.from != source)
            .filter_map(|(unit, e)| Some((net_of(*unit), *unit as u32, e.route.as_ref()?, e.from)))
    }
}

/// What can be advertised of a prefix.
fn units(table: &Table, key: &GroupKey, net: NetId) -> Vec<Unit> {
    if key.sends_several(Family::of(table.prefix(net).addr())) {
        table.of_net(net).map(|(id, _)| unit(net, id + 1)).collect()
    } else {
        alloc::vec![unit(net, 0)]
    }
}

/// Changes that are encoded together.
#[derive(Default)]
struct Batch {
    withdraw: Vec<Nlri>,
    announce: Vec<(Shared, Nlri)>,
}

impl Batch {
    /// Messages, each packed full: first what is gone, then what is new. Also says what cannot be advertised because
    /// its attributes are too long (RFC 4271 section 9.2); it is withdrawn.
    fn encode(mut self, context: Context) -> (Vec<u8>, usize) {
        let mut announcements = Vec::new();
        let mut too_long = 0;
        // Stable, so prefixes keep their order.
        self.announce.sort_by_key(|(shared, nlri)| (shared.id, Family::of(nlri.prefix.addr())));
        let same = |a: &(Shared, Nlri), b: &(Shared, Nlri)| {
            Arc::ptr_eq(&a.0, &b.0) && Family::of(a.1.prefix.addr()) == Family::of(b.1.prefix.addr())
        };
        for run in self.announce.chunk_by(same) {
            let Some((shared, first)) = run.first() else { continue };
            let family = Family::of(first.prefix.addr());
            match Packer::announce(family, &shared.attributes, shared.next_hop, context) {
                Ok(mut packer) => {
                    for (_, nlri) in run {
                        packer.push(*nlri, &mut announcements);
                    }
                    packer.finish(&mut announcements);
                }
                Err(_) => {
                    too_long += run.len();
                    self.withdraw.extend(run.iter().map(|(_, nlri)| *nlri));
                }
            }
        }
        let mut bytes = Vec::new();
        for family in FAMILIES {
            let Ok(mut packer) = Packer::withdraw(family, context) else { continue };
            for nlri in self.withdraw.iter().filter(|n| Family::of(n.prefix.addr()) == family) {
                packer.push(*nlri, &mut bytes);
            }
            packer.finish(&mut bytes);
        }
        bytes.append(&mut announcements);
        (bytes, too_long)
    }
}

/// Changes of a group, encoded for members at one position.
struct Portion {
    bytes: Vec<u8>,
    /// The position afterwards.
    next: u64,
    /// Members among these need an encoding of their own.
    sources: BTreeSet<SourceId>,
}

impl Portion {
    /// Reads on from a position, as a member sees it, or as those see it that none of the routes come from.
    fn read(group: &Group, position: u64, table: &Table, member: Option<SourceId>) -> Portion {
        let mut batch = Batch::default();
        let mut sources = BTreeSet::new();
        let mut next = group.next_seq;
        for (i, (seq, unit)) in group.log.range(position..).enumerate() {
            if i == CHUNK {
                next = *seq;
                break;
            }
            let Some(entry) = group.out.get(unit) else { continue };
            if member.is_none() {
                sources.insert(entry.from);
                sources.extend(entry.before.map(|(from, _)| from));
            }
            let nlri = Nlri { prefix: table.prefix(net_of(*unit)), path_id: *unit as u32 };
            match &entry.route {
                Some(route) if Some(entry.from) != member => batch.announce.push((route.clone(), nlri)),
                _ => {
                    // Only what it may know needs to be withdrawn. If it read the state before this change, it is
                    // known whether that was told; if it missed that one too, better once too often.
                    let knows = entry.before.is_some_and(|(from, seq)| seq >= position || Some(from) != member);
                    if knows {
                        batch.withdraw.push(nlri);
                    }
                }
            }
        }
        Portion { bytes: batch.encode(group.key.tx).0, next, sources }
    }
}
