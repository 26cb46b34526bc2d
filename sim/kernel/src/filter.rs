//! The firewall: the table's content, its transactions, and the interpreter.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use fairway_desired::filter::{
    Action, Base, CtState, Datum, Element, Field, FieldType, Hook, IcmpKind, Key, Match, Name, Rule, Set, Value,
    Verdict,
};
use fairway_desired::{Family, Filter, Op, Outcome, Protocol, Table};
use ipnet::IpNet;

use crate::kernel::{EBUSY, EINVAL, ENOENT};
use crate::packet::{Ct, Packet};

/// Most chains that may be entered from one another.
const DEPTH: usize = 16;

#[derive(Clone, Debug, Default)]
struct Chain {
    base: Option<Base>,
    /// `None`: the key `Rules` does not exist.
    rules: Option<Vec<Rule>>,
}

#[derive(Clone, Debug)]
struct SetState {
    set: Set,
    elements: BTreeMap<Element, Option<Verdict>>,
}

/// The content of our table.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ruleset {
    sets: BTreeMap<Name, SetState>,
    chains: BTreeMap<Name, Chain>,
    /// Base chains in the order they run.
    bases: Vec<(Base, Name)>,
}

/// What the chains of a hook say of a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Decision {
    Accept,
    Drop(Name),
    Reject(Name),
    Masquerade,
}

/// Where a packet is when rules look at it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct At<'a> {
    pub(crate) hook: Hook,
    pub(crate) input: Option<&'a str>,
    pub(crate) output: Option<&'a str>,
}

/// How a chain ended.
enum End {
    /// Ran to its end or returned.
    Through,
    Final(Decision),
}

impl Ruleset {
    pub(crate) fn is_empty(&self) -> bool {
        self.sets.is_empty() && self.chains.is_empty()
    }

    pub(crate) fn table(&self) -> Table<Filter> {
        let mut table = Table::<Filter>::new();
        for (name, state) in &self.sets {
            table.insert(Key::Set(name.clone()), Value::Set(state.set.clone()));
            for (element, verdict) in &state.elements {
                table.insert(Key::Element(name.clone(), element.clone()), Value::Element(verdict.clone()));
            }
        }
        for (name, chain) in &self.chains {
            table.insert(Key::Chain(name.clone()), Value::Chain(chain.base));
            if let Some(rules) = &chain.rules {
                table.insert(Key::Rules(name.clone()), Value::Rules(rules.clone()));
            }
        }
        table
    }

    /// One transaction: every op is done, or every op is refused and nothing changes.
    pub(crate) fn apply(&mut self, ops: &[Op<Filter>]) -> Vec<Outcome> {
        let before = self.clone();
        let mut outcomes = vec![];
        for op in ops {
            match self.one(op) {
                Ok(outcome) => outcomes.push(outcome),
                Err(errno) => {
                    *self = before;
                    return vec![Outcome::Refused(errno); ops.len()];
                }
            }
        }
        if let Err(errno) = self.check() {
            *self = before;
            return vec![Outcome::Refused(errno); ops.len()];
        }
        self.bases = self.chains.iter().filter_map(|(name, c)| c.base.map(|b| (b, name.clone()))).collect();
        self.bases.sort_by_key(|(base, _)| base.priority);
        outcomes
    }

    fn one(&mut self, op: &Op<Filter>) -> Result<Outcome, i32> {
        let gone_or = |was: bool| if was { Outcome::Done } else { Outcome::Gone };
        match op {
            Op::Put(Key::Set(name), Value::Set(set)) => {
                let one_address = matches!(set.fields[..], [FieldType::Addr(_)]);
                if set.fields.is_empty() || (set.interval && !one_address) {
                    return Err(EINVAL);
                }
                match self.sets.get_mut(name) {
                    Some(state) if state.set == *set => {}
                    Some(state) if !state.elements.is_empty() => return Err(EBUSY),
                    _ => {
                        let state = SetState { set: set.clone(), elements: BTreeMap::new() };
                        self.sets.insert(name.clone(), state);
                    }
                }
                Ok(Outcome::Done)
            }
            Op::Put(Key::Chain(name), Value::Chain(base)) => {
                let fits = |b: &Base| !b.nat || b.hook != Hook::Forward;
                if base.as_ref().is_some_and(|b| !fits(b)) {
                    return Err(EINVAL);
                }
                self.chains.entry(name.clone()).or_default().base = *base;
                Ok(Outcome::Done)
            }
            Op::Put(Key::Element(name, element), Value::Element(verdict)) => {
                let state = self.sets.get_mut(name).ok_or(ENOENT)?;
                if !fits(&state.set, element) || state.set.verdicts != verdict.is_some() {
                    return Err(EINVAL);
                }
                state.elements.insert(element.clone(), verdict.clone());
                match verdict {
                    Some(Verdict::Jump(target) | Verdict::Goto(target)) if !self.chains.contains_key(target) => {
                        Err(ENOENT)
                    }
                    _ => Ok(Outcome::Done),
                }
            }
            Op::Put(Key::Rules(name), Value::Rules(rules)) => {
                self.names_exist(rules)?;
                self.chains.get_mut(name).ok_or(ENOENT)?.rules = Some(rules.clone());
                Ok(Outcome::Done)
            }
            Op::Put(..) => Err(EINVAL),
            Op::Del(Key::Set(name)) if self.set_in_use(name) => Err(EBUSY),
            Op::Del(Key::Set(name)) => Ok(gone_or(self.sets.remove(name).is_some())),
            Op::Del(Key::Chain(name)) if self.chain_in_use(name) => Err(EBUSY),
            // Its rules go with it.
            Op::Del(Key::Chain(name)) => Ok(gone_or(self.chains.remove(name).is_some())),
            Op::Del(Key::Element(name, element)) => {
                let state = self.sets.get_mut(name);
                Ok(gone_or(state.is_some_and(|s| s.elements.remove(element).is_some())))
            }
            Op::Del(Key::Rules(name)) => {
                Ok(gone_or(self.chains.get_mut(name).is_some_and(|c| c.rules.take().is_some())))
            }
        }
    }

    /// Whether a rule, or an element of a verdict map, names this chain.
    fn chain_in_use(&self, name: &Name) -> bool {
        let to = |verdict: &Verdict| matches!(verdict, Verdict::Jump(to) | Verdict::Goto(to) if to == name);
        let by_rule =
            self.chains.values().flat_map(|chain| chain.rules.iter().flatten()).any(|rule| match &rule.action {
                Action::Verdict(verdict) => to(verdict),
                _ => false,
            });
        by_rule || self.sets.values().flat_map(|set| set.elements.values().flatten()).any(to)
    }

    /// Whether a rule names this set.
    fn set_in_use(&self, name: &Name) -> bool {
        self.chains.values().flat_map(|chain| chain.rules.iter().flatten()).any(|rule| {
            let matched = rule.matches.iter().any(|m| matches!(m, Match::InSet { set, .. } if set == name));
            matched || matches!(&rule.action, Action::VerdictMap { map, .. } if map == name)
        })
    }

    /// Whether the sets and chains that rules name exist at this point of the transaction.
    fn names_exist(&self, rules: &[Rule]) -> Result<(), i32> {
        let set = |name: &Name| if self.sets.contains_key(name) { Ok(()) } else { Err(ENOENT) };
        for rule in rules {
            for condition in &rule.matches {
                if let Match::InSet { set: name, .. } = condition {
                    set(name)?;
                }
            }
            match &rule.action {
                Action::VerdictMap { map, .. } => set(map)?,
                Action::Verdict(Verdict::Jump(name) | Verdict::Goto(name)) if !self.chains.contains_key(name) => {
                    return Err(ENOENT);
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Whether everything that is named exists and is used as what it is.
    fn check(&self) -> Result<(), i32> {
        let target = |verdict: &Verdict| match verdict {
            Verdict::Jump(name) | Verdict::Goto(name) => match self.chains.get(name) {
                None => Err(ENOENT),
                Some(chain) if chain.base.is_some() => Err(EINVAL),
                Some(_) => Ok(()),
            },
            _ => Ok(()),
        };
        for state in self.sets.values() {
            state.elements.values().flatten().try_for_each(target)?;
        }
        for chain in self.chains.values() {
            for rule in chain.rules.iter().flatten() {
                for condition in &rule.matches {
                    if let Match::InSet { fields, set, .. } = condition {
                        let set = &self.sets.get(set).ok_or(ENOENT)?.set;
                        if set.fields.len() != fields.len() || set.verdicts {
                            return Err(EINVAL);
                        }
                    }
                }
                match &rule.action {
                    Action::Verdict(verdict) => target(verdict)?,
                    Action::VerdictMap { fields, map } => {
                        let set = &self.sets.get(map).ok_or(ENOENT)?.set;
                        if set.fields.len() != fields.len() || !set.verdicts {
                            return Err(EINVAL);
                        }
                    }
                    Action::Masquerade => {
                        if chain.base.is_some_and(|b| !b.nat || b.hook != Hook::Postrouting) {
                            return Err(EINVAL);
                        }
                    }
                    Action::SetMark { .. } => {}
                }
            }
        }
        // Linux looks at what can be reached from a hook.
        for (name, _) in self.chains.iter().filter(|(_, chain)| chain.base.is_some()) {
            self.no_loop(name, &mut BTreeSet::new())?;
        }
        Ok(())
    }

    fn no_loop<'a>(&'a self, name: &'a Name, path: &mut BTreeSet<&'a Name>) -> Result<(), i32> {
        if !path.insert(name) || path.len() > DEPTH {
            return Err(40);
        }
        let rules = self.chains.get(name).into_iter().flat_map(|c| c.rules.iter().flatten());
        for rule in rules {
            let verdicts: Vec<&Verdict> = match &rule.action {
                Action::Verdict(verdict) => vec![verdict],
                Action::VerdictMap { map, .. } => {
                    self.sets.get(map).into_iter().flat_map(|s| s.elements.values().flatten()).collect()
                }
                _ => vec![],
            };
            let targets: BTreeSet<&Name> = verdicts
                .into_iter()
                .filter_map(|v| if let Verdict::Jump(n) | Verdict::Goto(n) = v { Some(n) } else { None })
                .collect();
            for next in targets {
                self.no_loop(next, path)?;
            }
        }
        path.remove(name);
        Ok(())
    }

    /// Runs the filter chains of a hook whose priority is in `from..to`.
    pub(crate) fn run(&self, at: At<'_>, priorities: std::ops::Range<i32>, packet: &mut Packet) -> Decision {
        for (base, name) in &self.bases {
            if base.hook != at.hook || base.nat || !priorities.contains(&base.priority) {
                continue;
            }
            match self.chain(name, at, packet, 0) {
                End::Through | End::Final(Decision::Accept | Decision::Masquerade) => {}
                End::Final(stop) => return stop,
            }
        }
        Decision::Accept
    }

    /// Runs the NAT chains of a hook: what the first that says anything says.
    pub(crate) fn run_nat(&self, at: At<'_>, packet: &mut Packet) -> Decision {
        for (base, name) in &self.bases {
            if base.hook != at.hook || !base.nat {
                continue;
            }
            match self.chain(name, at, packet, 0) {
                End::Through | End::Final(Decision::Accept) => {}
                End::Final(stop) => return stop,
            }
        }
        Decision::Accept
    }

    fn chain(&self, name: &Name, at: At<'_>, packet: &mut Packet, depth: usize) -> End {
        let Some(rules) = self.chains.get(name).and_then(|c| c.rules.as_ref()) else { return End::Through };
        if depth > DEPTH {
            return End::Final(Decision::Drop(name.clone()));
        }
        for rule in rules {
            if !rule.matches.iter().all(|m| self.matches(m, at, packet)) {
                continue;
            }
            let verdict = match &rule.action {
                Action::Verdict(verdict) => verdict,
                Action::SetMark { mask, value } => {
                    packet.mark = (packet.mark & !mask) | value;
                    continue;
                }
                Action::Masquerade => return End::Final(Decision::Masquerade),
                Action::VerdictMap { fields, map } => match self.find(fields, map, packet).flatten() {
                    Some(Some(verdict)) => verdict,
                    _ => continue,
                },
            };
            match verdict {
                Verdict::Accept => return End::Final(Decision::Accept),
                Verdict::Drop => return End::Final(Decision::Drop(name.clone())),
                Verdict::Reject => return End::Final(Decision::Reject(name.clone())),
                Verdict::Return => return End::Through,
                Verdict::Goto(next) => return self.chain(next, at, packet, depth + 1),
                Verdict::Jump(next) => match self.chain(next, at, packet, depth + 1) {
                    End::Through => {}
                    end => return end,
                },
            }
        }
        End::Through
    }

    fn matches(&self, condition: &Match, at: At<'_>, packet: &Packet) -> bool {
        match condition {
            Match::InSet { fields, set, negate } => {
                self.find(fields, set, packet).is_some_and(|hit| hit.is_some() != *negate)
            }
            Match::Mark { mask, value, negate } => (packet.mark & mask == *value) != *negate,
            Match::Family(family) => packet.family() == *family,
            Match::Protocol(protocol) => !packet.is_error() && packet.tuple.protocol == *protocol,
            Match::Icmp(kinds) => packet.is_error() && kinds.contains(&IcmpKind::Unreachable),
            Match::InputLink(link) => at.input == Some(&**link),
            Match::OutputLink(link) => at.output == Some(&**link),
            Match::CtState(states) => match packet.ct {
                Ct::Unseen | Ct::Untracked => false,
                Ct::New | Ct::Known { first: true, .. } => states.contains(&CtState::New),
                Ct::Known { .. } => states.contains(&CtState::Established),
                Ct::Related { .. } => states.contains(&CtState::Related),
                Ct::Invalid => states.contains(&CtState::Invalid),
            },
        }
    }

    /// Looks packet fields up in a set. `None`: the packet does not have them, or they are of another type.
    fn find(&self, fields: &[Field], set: &Name, packet: &Packet) -> Option<Option<&Option<Verdict>>> {
        let state = self.sets.get(set)?;
        let mut element = Element::new();
        for (field, kind) in fields.iter().zip(&state.set.fields) {
            element.push(datum(*field, *kind, packet)?);
        }
        if !state.set.interval {
            return Some(state.elements.get(&element));
        }
        let Some(Datum::Addr(ip)) = element.first() else { return None };
        let longest = IpNet::from(*ip).max_prefix_len();
        let hit = (0..=longest).rev().find_map(|len| {
            let net = IpNet::new(*ip, len).ok()?.trunc();
            state.elements.get(&vec![Datum::Net(net)])
        });
        Some(hit)
    }
}

fn datum(field: Field, kind: FieldType, packet: &Packet) -> Option<Datum> {
    let address = |ip: IpAddr, family: Family| (Family::of(ip) == family).then_some(Datum::Addr(ip));
    match (field, kind) {
        (Field::Saddr, FieldType::Addr(family)) => address(packet.src(), family),
        (Field::Daddr, FieldType::Addr(family)) => address(packet.dst(), family),
        _ if packet.is_error() => None,
        (Field::Protocol, FieldType::Protocol) => Some(Datum::Protocol(packet.tuple.protocol)),
        (Field::Sport, FieldType::Port) => Some(Datum::Port(packet.tuple.src.port())),
        (Field::Dport, FieldType::Port) => Some(Datum::Port(packet.tuple.dst.port())),
        _ => None,
    }
}

fn fits(set: &Set, element: &Element) -> bool {
    set.fields.len() == element.len()
        && set.fields.iter().zip(element).all(|(kind, datum)| match (kind, datum) {
            (FieldType::Addr(family), Datum::Addr(ip)) => !set.interval && Family::of(*ip) == *family,
            (FieldType::Addr(family), Datum::Net(net)) => {
                set.interval && Family::of(net.addr()) == *family && *net == net.trunc()
            }
            (FieldType::Protocol, Datum::Protocol(Protocol::Tcp | Protocol::Udp | Protocol::Sctp)) => true,
            (FieldType::Port, Datum::Port(_)) => true,
            _ => false,
        })
}
