//! Policy routing rules.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use fairway_desired::{Family, Fault, OVERLAY_TABLE, Op, Outcome, Rule, RuleKey, RuleValue, Table};
use fairway_netlink::{Message, Socket, flags};
use ipnet::IpNet;
use netlink_packet_core::Parseable;
use netlink_packet_route::rule::{RuleAction, RuleAttribute, RuleMessage};

use crate::backend::{Known, carry_out, fault};
use crate::wire::errno::{EEXIST, EINVAL};
use crate::wire::{family, kind, message, not_deleted, our_family, refused};

/// Priorities of our rules: kube-router's.
const OURS: [u32; 2] = [32764, 32765];

/// Whether a rule is ours. kube-router lets the kernel choose the priority of the overlay's.
fn ours(key: &RuleKey, value: RuleValue) -> bool {
    OURS.contains(&key.priority) || value.table == OVERLAY_TABLE
}

/// A mark is compared as a whole.
const WHOLE: u32 = u32::MAX;

fn body(key: &RuleKey, value: RuleValue) -> RuleMessage {
    let mut body = RuleMessage::default();
    body.header.family = family(key.family);
    body.header.action = RuleAction::ToTable;
    let attributes = &mut body.attributes;
    attributes.push(RuleAttribute::Priority(key.priority));
    attributes.push(RuleAttribute::Table(value.table));
    if let Some(mark) = key.mark {
        attributes.push(RuleAttribute::FwMark(mark));
        attributes.push(RuleAttribute::FwMask(WHOLE));
    }
    if let Some(net) = key.from {
        body.header.src_len = net.prefix_len();
        attributes.push(RuleAttribute::Source(net.addr()));
    }
    if let Some(net) = key.to {
        body.header.dst_len = net.prefix_len();
        attributes.push(RuleAttribute::Destination(net.addr()));
    }
    body.header.table = u8::try_from(value.table).unwrap_or_default();
    body
}

/// A rule as we can express it; `None` for any other.
fn decode(payload: &[u8]) -> Option<(RuleKey, RuleValue)> {
    let message = RuleMessage::parse(payload).ok()?;
    let family = our_family(message.header.family)?;
    if message.header.action != RuleAction::ToTable {
        return None;
    }
    let any: IpAddr = match family {
        Family::V4 => Ipv4Addr::UNSPECIFIED.into(),
        Family::V6 => Ipv6Addr::UNSPECIFIED.into(),
    };
    let (mut from, mut to) = (any, any);
    let mut key = RuleKey { family, priority: 0, from: None, to: None, mark: None };
    let mut table = u32::from(message.header.table);
    for attribute in &message.attributes {
        match attribute {
            RuleAttribute::Priority(priority) => key.priority = *priority,
            RuleAttribute::Table(id) => table = *id,
            RuleAttribute::FwMark(mark) => key.mark = Some(*mark),
            RuleAttribute::FwMask(mask) if *mask != WHOLE => return None,
            RuleAttribute::Source(ip) => from = *ip,
            RuleAttribute::Destination(ip) => to = *ip,
            RuleAttribute::Iifname(_) | RuleAttribute::Oifname(_) | RuleAttribute::UidRange(_) => return None,
            _ => {}
        }
    }
    let net = |ip: IpAddr, len: u8| IpNet::new(ip, len).ok().filter(|_| len > 0);
    key.from = net(from, message.header.src_len);
    key.to = net(to, message.header.dst_len);
    Some((key, RuleValue { table }))
}

/// Whether a message is about a rule of ours.
pub(crate) fn is_ours(payload: &[u8]) -> bool {
    decode(payload).is_some_and(|(key, value)| ours(&key, value))
}

fn all(socket: &mut Socket) -> Result<Vec<(RuleKey, RuleValue)>, Fault> {
    let mut found = vec![];
    let request = message(kind::GET_RULE, flags::DUMP, &RuleMessage::default());
    socket
        .dump(&request, &mut found, Vec::clear, |found, kind, payload| {
            if kind == kind::NEW_RULE {
                found.extend(decode(payload));
            }
        })
        .map_err(|error| fault(&error))?;
    Ok(found)
}

/// What the rule of a key does, if it can be deleted: to the kernel a selector that is not given matches any, and the
/// first rule that matches goes. Ours have a mark, so this is for what agents do not ask.
fn deletable(rules: &[(RuleKey, RuleValue)], key: &RuleKey) -> Option<RuleValue> {
    let matches = |(there, _): &&(RuleKey, RuleValue)| {
        there.family == key.family
            && there.priority == key.priority
            && (key.mark.is_none() || there.mark == key.mark)
            && (key.from.is_none() || there.from == key.from)
            && (key.to.is_none() || there.to == key.to)
    };
    rules.iter().find(matches).filter(|(there, _)| there == key).map(|(_, value)| *value)
}

pub(crate) fn observe(socket: &mut Socket, known: &mut Known) -> Result<Table<Rule>, Fault> {
    let found = all(socket)?.into_iter().filter(|(key, value)| ours(key, *value));
    known.rules = found.collect();
    Ok(known.rules.clone())
}

pub(crate) fn apply(socket: &mut Socket, known: &mut Known, ops: &[Op<Rule>]) -> Result<Vec<Outcome>, Fault> {
    let mut outcomes = vec![Outcome::Done; ops.len()];
    let mut requests: Vec<Message> = vec![];
    // Which op a request is for.
    let mut about = vec![];
    let mut foreign = None;
    for (index, op) in ops.iter().enumerate() {
        let key = op.key();
        if !OURS.contains(&key.priority) {
            // Never asked for by an agent; whoever asks pays for the look.
            let all = match foreign.take() {
                Some(all) => all,
                None => all(socket)?,
            };
            let exists = all.iter().any(|(there, value)| there == key && !ours(there, *value));
            foreign = Some(all);
            if exists {
                outcomes[index] = Outcome::Foreign;
                continue;
            }
        }
        let fits = |net: &IpNet| Family::of(net.addr()) == key.family && *net == net.trunc();
        let before = known.rules.get(key).copied();
        match op {
            Op::Put(_, value) if value.table == 0 || !key.from.iter().chain(&key.to).all(fits) => {
                outcomes[index] = Outcome::Refused(EINVAL);
            }
            Op::Put(_, value) => {
                requests.push(message(kind::NEW_RULE, flags::CREATE | flags::EXCL, &body(key, *value)));
                about.push(index);
                // The kernel keeps rules apart that differ in their table: the new one first, then the old one goes.
                if let Some(before) = before.filter(|before| before != value) {
                    requests.push(message(kind::DEL_RULE, 0, &body(key, before)));
                    about.push(index);
                }
            }
            // What cannot be is not there.
            Op::Del(_) if !key.from.iter().chain(&key.to).all(fits) => outcomes[index] = Outcome::Gone,
            Op::Del(_) => {
                let value = match before {
                    Some(before) if key.mark.is_some() => Some(before),
                    _ => deletable(&all(socket)?, key),
                };
                match value {
                    Some(value) => {
                        requests.push(message(kind::DEL_RULE, 0, &body(key, value)));
                        about.push(index);
                    }
                    None => outcomes[index] = Outcome::Gone,
                }
            }
        }
    }
    let results = carry_out(socket, requests)?;
    for (index, result) in about.into_iter().zip(results) {
        if let Err(errno) = result {
            outcomes[index] = match &ops[index] {
                Op::Put(..) if errno.0 == EEXIST || not_deleted(errno) == Outcome::Gone => continue,
                Op::Put(..) => refused(errno),
                Op::Del(_) => not_deleted(errno),
            };
        }
    }
    for (op, outcome) in ops.iter().zip(&outcomes) {
        match (op, outcome) {
            (Op::Put(key, value), Outcome::Done) => drop(known.rules.insert(key.clone(), *value)),
            (Op::Del(key), Outcome::Done | Outcome::Gone) => drop(known.rules.remove(key)),
            _ => {}
        }
    }
    Ok(outcomes)
}
