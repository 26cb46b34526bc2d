//! An Adj-RIB-Out: what a group of neighbours is told, and the changes that not all of them have read.
//!
//! Without ADD-PATH an entry lies at the number of its prefix, in twelve octets. Changes have numbers that go up by one;
//! the log holds them from the first one that somebody has not read. A change that a later one of the same entry
//! replaced is dead; when most are dead the log is written anew.

use alloc::collections::{BTreeMap, VecDeque};
use alloc::vec::Vec;

use fairway_desired::Family;

use crate::intern::{Marks, Shared};
use crate::pages::Pages;
use crate::table::{NetId, SourceId, family_of, number, numbered};
use crate::wire::FAMILIES;

/// One thing that is advertised: a prefix, and with ADD-PATH one of its paths.
pub(crate) type Unit = u64;

pub(crate) const fn unit(net: NetId, path_id: u32) -> Unit {
    (net as u64) << 32 | path_id as u64
}

pub(crate) const fn net_of(unit: Unit) -> NetId {
    (unit >> 32) as NetId
}

pub(crate) const fn path_of(unit: Unit) -> u32 {
    unit as u32
}

/// There is a route, or a withdrawal that not all have read.
const PRESENT: u32 = 1 << 31;
/// It may have to change.
const MARKED: u32 = 1 << 30;

#[derive(Debug, Default)]
struct Entry {
    /// `None`: withdrawn.
    route: Option<Shared>,
    /// Where the route comes from, or came from, and the flags.
    from: u32,
    /// The number of the last change, but for its upper half. It may be of a change long read; the log knows.
    seq: u32,
}

impl Entry {
    const fn is_present(&self) -> bool {
        self.from & PRESENT != 0
    }

    const fn from(&self) -> SourceId {
        self.from & !(PRESENT | MARKED)
    }

    const fn set_from(&mut self, from: SourceId) {
        self.from = self.from & MARKED | PRESENT | from;
    }
}

/// An entry, as others see it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Told {
    /// `None`: withdrawn, but not all members have read that yet.
    pub(crate) route: Option<Shared>,
    pub(crate) from: SourceId,
}

/// A change.
#[derive(Clone, Copy, Debug)]
struct Change {
    unit: Unit,
    /// Where those routes come from that a member can know before it reads this: a source, or one of the following.
    before: SourceId,
}

/// There was no route.
const NOTHING: SourceId = SourceId::MAX;
/// There was one after another, from several sources, and not all were read.
const SEVERAL: SourceId = SourceId::MAX - 1;
/// Another change replaced this one.
const DEAD: SourceId = SourceId::MAX - 2;

/// A change, as others see it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Unread {
    pub(crate) seq: u64,
    pub(crate) unit: Unit,
    before: SourceId,
}

impl Unread {
    /// The source of all routes that were there before, if they have the same.
    pub(crate) fn source_before(self) -> Option<SourceId> {
        Some(self.before).filter(|s| !matches!(*s, NOTHING | SEVERAL))
    }

    /// Whether a member may know a route of it; of its own source it knows none. Where that is not certain, better one
    /// withdrawal too many.
    pub(crate) fn may_be_known(self, member: Option<SourceId>) -> bool {
        self.before != NOTHING && Some(self.before) != member
    }
}

#[derive(Debug, Default)]
pub(crate) struct AdjOut {
    /// One entry per prefix, by family.
    plain: [Pages<Entry>; 2],
    /// Several per prefix.
    several: BTreeMap<Unit, Entry>,
    log: VecDeque<Change>,
    /// The number of the first change in the log.
    base: u64,
    /// Changes in the log that are dead.
    dead: usize,
    /// Routes by family, and how many of them come from each source.
    announced: [usize; 2],
    by_source: Vec<[u32; 2]>,
}

impl AdjOut {
    /// The number that the next change gets.
    pub(crate) fn next_seq(&self) -> u64 {
        self.base + self.log.len() as u64
    }

    fn entry(&self, unit: Unit) -> Option<&Entry> {
        match path_of(unit) {
            0 => self.plain[family_of(net_of(unit)) as usize].get(number(net_of(unit))),
            _ => self.several.get(&unit),
        }
    }

    fn entry_mut(&mut self, unit: Unit) -> Option<&mut Entry> {
        match path_of(unit) {
            0 => self.plain[family_of(net_of(unit)) as usize].get_mut(number(net_of(unit))),
            _ => self.several.get_mut(&unit),
        }
    }

    pub(crate) fn get(&self, unit: Unit) -> Option<Told> {
        self.entry(unit).filter(|e| e.is_present()).map(|e| Told { route: e.route, from: e.from() })
    }

    /// Whether a prefix was not marked yet as one that may have to change; it is from now on.
    pub(crate) fn mark(&mut self, net: NetId) -> bool {
        let entry = self.plain[family_of(net) as usize].make(number(net));
        let new = entry.from & MARKED == 0;
        entry.from |= MARKED;
        new
    }

    pub(crate) fn unmark(&mut self, net: NetId) {
        if let Some(entry) = self.plain[family_of(net) as usize].get_mut(number(net)) {
            entry.from &= !MARKED;
        }
    }

    /// How many routes a source's neighbour is told, or will be as soon as it reads on: not its own.
    pub(crate) fn advertised(&self, member: SourceId) -> [usize; 2] {
        let own = self.by_source.get(member as usize).copied().unwrap_or_default();
        [self.announced[0] - own[0] as usize, self.announced[1] - own[1] as usize]
    }

    fn count(&mut self, family: Family, from: SourceId, more: bool) {
        let from = from as usize;
        if self.by_source.len() <= from {
            self.by_source.resize(from + 1, [0; 2]);
        }
        let (own, all) = (&mut self.by_source[from][family as usize], &mut self.announced[family as usize]);
        if more {
            *own += 1;
            *all += 1;
        } else {
            *own -= 1;
            *all -= 1;
        }
    }

    /// Where in the log the last change of an entry is, if not all have read it.
    fn place(&self, unit: Unit, seq: u32) -> Option<usize> {
        let place = seq.wrapping_sub(self.base as u32) as usize;
        // An old number may point at a change of something else.
        self.log.get(place).filter(|c| c.unit == unit && c.before != DEAD).map(|_| place)
    }

    /// An entry becomes this. Returns whether it is a new one.
    pub(crate) fn record(&mut self, unit: Unit, new: Option<(Shared, SourceId)>) -> bool {
        let (family, seq) = (family_of(net_of(unit)), self.next_seq());
        let (old, place) = match self.entry(unit).filter(|e| e.is_present()) {
            Some(entry) => {
                let unchanged = match (entry.route, new) {
                    (None, None) => true,
                    (Some(old), Some((new, from))) => old == new && entry.from() == from,
                    _ => false,
                };
                if unchanged {
                    return false;
                }
                (Some((entry.route, entry.from())), self.place(unit, entry.seq))
            }
            None => {
                if new.is_none() {
                    return false;
                }
                (None, None)
            }
        };
        let mut before = NOTHING;
        if let Some(replaced) = place.and_then(|place| self.log.get_mut(place)) {
            // Some may have read the change that is replaced, others not.
            before = core::mem::replace(&mut replaced.before, DEAD);
            self.dead += 1;
        }
        if let Some((Some(_), from)) = old {
            before = if before == NOTHING || before == from { from } else { SEVERAL };
            self.count(family, from, false);
        }
        if let Some((_, from)) = new {
            self.count(family, from, true);
        }
        let entry = match path_of(unit) {
            0 => self.plain[family as usize].make(number(net_of(unit))),
            _ => self.several.entry(unit).or_default(),
        };
        entry.route = new.map(|(route, _)| route);
        entry.set_from(new.map_or(entry.from(), |(_, from)| from));
        entry.seq = seq as u32;
        self.log.push_back(Change { unit, before });
        old.is_none()
    }

    /// Changes from a position on that no later one replaced.
    pub(crate) fn unread(&self, position: u64) -> impl Iterator<Item = Unread> {
        let skip = position.saturating_sub(self.base).min(self.log.len() as u64) as usize;
        let from = self.base + skip as u64;
        let live = (from..).zip(self.log.range(skip..)).filter(|(_, c)| c.before != DEAD);
        live.map(|(seq, c)| Unread { seq, unit: c.unit, before: c.before })
    }

    /// Forgets changes before a position: all have read them. Tells which prefixes are no longer needed.
    pub(crate) fn truncate(&mut self, position: u64, mut release: impl FnMut(NetId)) {
        while self.base < position {
            let Some(change) = self.log.pop_front() else { break };
            self.base += 1;
            if change.before == DEAD {
                self.dead -= 1;
                continue;
            }
            let Some(entry) = self.entry_mut(change.unit) else { continue };
            if entry.route.is_some() {
                continue;
            }
            entry.from &= MARKED;
            if path_of(change.unit) != 0 {
                self.several.remove(&change.unit);
            }
            release(net_of(change.unit));
        }
        if self.log.is_empty() {
            // The memory of a large change is not kept.
            self.log.shrink_to(LOG_MIN);
        }
    }

    /// Writes the log anew if most of it is dead, with new numbers; positions are changed accordingly.
    pub(crate) fn compact<'a>(&mut self, positions: impl Iterator<Item = &'a mut u64>) {
        if self.dead <= LOG_MIN.max(self.log.len() / 2) {
            return;
        }
        let (old_base, base) = (self.base, self.next_seq());
        let old = core::mem::take(&mut self.log);
        // How many live changes are before each old one.
        let mut live = Vec::with_capacity(old.len() + 1);
        let mut count = 0u64;
        for change in &old {
            live.push(count);
            count += u64::from(change.before != DEAD);
        }
        live.push(count);
        let moved = |seq: u64| {
            let at = seq.saturating_sub(old_base).min(old.len() as u64) as usize;
            base + live.get(at).copied().unwrap_or(count)
        };
        for position in positions {
            *position = moved(*position);
        }
        self.base = base;
        self.dead = 0;
        for change in old.into_iter().filter(|c| c.before != DEAD) {
            let new = self.next_seq();
            if let Some(entry) = self.entry_mut(change.unit) {
                entry.seq = new as u32;
            }
            self.log.push_back(change);
        }
    }

    /// All entries.
    pub(crate) fn all(&self) -> impl Iterator<Item = (Unit, Told)> {
        FAMILIES.into_iter().flat_map(|family| self.from(family, 0))
    }

    /// The entries of a family, from one on.
    pub(crate) fn from(&self, family: Family, cursor: Unit) -> impl Iterator<Item = (Unit, Told)> {
        let first = number(net_of(cursor));
        let plain = self.plain[family as usize].iter_from(first).map(move |(n, e)| (unit(numbered(family, n), 0), e));
        let (from, to) =
            (unit(numbered(family, first), path_of(cursor)), unit(numbered(family, number(NetId::MAX)), 0));
        let several = self.several.range(from..=to).map(|(unit, entry)| (*unit, entry));
        plain
            .chain(several)
            .filter(|(_, e)| e.is_present())
            .map(|(unit, e)| (unit, Told { route: e.route, from: e.from() }))
    }

    /// How many entries there are places for.
    pub(crate) fn len(&self) -> usize {
        self.plain.iter().map(Pages::len).sum::<usize>() + self.several.len()
    }

    /// Marks the attributes of all routes.
    pub(crate) fn mark_attributes(&self, marks: &mut Marks) {
        let entries = self.plain.iter().flat_map(Pages::iter).chain(self.several.values());
        entries.for_each(|entry| marks.mark(entry.route));
    }
}

/// A log so short is not worth any care.
const LOG_MIN: usize = 1024;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::intern::Interner;
    use crate::wire::Attributes;
    use alloc::sync::Arc;
    use core::net::{IpAddr, Ipv4Addr};
    use proptest::prelude::*;

    fn names(count: u8) -> Vec<Shared> {
        let mut interner = Interner::default();
        let own = Arc::new(Attributes::own());
        (1..=count).map(|n| interner.intern(own.clone(), IpAddr::V4(Ipv4Addr::new(10, 0, 0, n)))).collect()
    }

    #[derive(Clone, Debug)]
    enum Step {
        /// An entry becomes this: which attributes, from which source.
        Record(Unit, Option<(u8, SourceId)>),
        /// A member reads so many changes.
        Read(usize, usize),
        Truncate,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let a_unit = prop_oneof![
            (0..6u32).prop_map(|n| unit(n, 0)),
            (0..4u32).prop_map(|n| unit(numbered(Family::V6, n), 1 + n % 2))
        ];
        let record = (a_unit, prop::option::weighted(0.6, (0..3u8, 0..4u32))).prop_map(|(u, new)| Step::Record(u, new));
        let read = (0..3usize, 1..9usize).prop_map(|(member, count)| Step::Read(member, count));
        prop::collection::vec(prop_oneof![6 => record, 2 => read, 1 => Just(Step::Truncate)], 0..400)
    }

    /// What a member was told, and where it reads on. It is the neighbour of the source with its number.
    #[derive(Default)]
    struct Member {
        position: u64,
        view: BTreeMap<Unit, Shared>,
    }

    impl Member {
        fn read(&mut self, out: &AdjOut, me: SourceId, count: usize) {
            let changes: Vec<Unread> = out.unread(self.position).take(count + 1).collect();
            for change in changes.iter().take(count) {
                let told = out.get(change.unit).expect("what is unread is there");
                match told.route {
                    Some(route) if told.from != me => drop(self.view.insert(change.unit, route)),
                    _ => {
                        let withdrawn = change.may_be_known(Some(me));
                        if self.view.remove(&change.unit).is_some() {
                            assert!(withdrawn, "what it knows is withdrawn");
                        }
                    }
                }
            }
            self.position = changes.get(count).map_or(out.next_seq(), |next| next.seq);
        }
    }

    proptest! {
        /// Members that read at their own pace end with the same view, without their own routes; the log keeps only what
        /// somebody has not read, and the prefixes held are those of the entries.
        #[test]
        fn members_read_what_was_recorded(steps in steps(), compact in any::<bool>()) {
            let names = names(3);
            let mut out = AdjOut::default();
            let mut truth: BTreeMap<Unit, (Shared, SourceId)> = BTreeMap::new();
            let mut held: BTreeMap<NetId, i32> = BTreeMap::new();
            let mut members: Vec<Member> = (0..3).map(|_| Member::default()).collect();
            for step in steps.into_iter().chain((0..3).map(|m| Step::Read(m, usize::MAX - 1))).chain([Step::Truncate]) {
                match step {
                    Step::Record(unit, new) => {
                        let new = new.map(|(name, from)| (names[usize::from(name)], from));
                        if out.record(unit, new) {
                            *held.entry(net_of(unit)).or_default() += 1;
                        }
                        match new {
                            Some(new) => drop(truth.insert(unit, new)),
                            None => drop(truth.remove(&unit)),
                        }
                    }
                    Step::Read(member, count) => members[member].read(&out, member as SourceId, count),
                    Step::Truncate => {
                        let read = members.iter().map(|m| m.position).min().unwrap();
                        out.truncate(read, |net| *held.get_mut(&net).unwrap() -= 1);
                        if compact {
                            out.dead += LOG_MIN + out.log.len();
                            out.compact(members.iter_mut().map(|m| &mut m.position));
                        }
                    }
                }
                let all: BTreeMap<Unit, (Shared, SourceId)> =
                    out.all().filter_map(|(unit, told)| Some((unit, (told.route?, told.from)))).collect();
                prop_assert_eq!(&all, &truth);
                for me in 0..4 {
                    let told = truth.iter().filter(|(_, (_, from))| *from != me);
                    let v6 = told.clone().filter(|(unit, _)| family_of(net_of(**unit)) == Family::V6).count();
                    prop_assert_eq!(out.advertised(me), [told.count() - v6, v6]);
                }
            }
            prop_assert_eq!(out.unread(0).count(), 0);
            for (me, member) in members.iter().enumerate() {
                let told = truth.iter().filter(|(_, (_, from))| *from != me as SourceId);
                prop_assert_eq!(&member.view, &told.map(|(unit, (name, _))| (*unit, *name)).collect());
            }
            for (net, count) in held {
                let entries = truth.keys().filter(|unit| net_of(**unit) == net).count();
                prop_assert_eq!(count, entries as i32);
            }
        }
    }

    /// A neighbour that reads nothing, and a route that changes all the time: the log does not grow with the changes.
    #[test]
    fn what_is_replaced_takes_no_room_for_ever() {
        let names = names(2);
        let mut out = AdjOut::default();
        let mut position = 0;
        for n in 0..100_000 {
            out.record(unit(7, 0), Some((names[n % 2], 1)));
            out.compact([&mut position].into_iter());
            assert!(out.log.len() <= 2 * LOG_MIN, "{} changes after {n}", out.log.len());
        }
        assert_eq!(out.unread(position).count(), 1);
        out.truncate(out.next_seq(), |_| {});
        assert!(out.log.is_empty() && out.log.capacity() <= LOG_MIN);
    }
}
