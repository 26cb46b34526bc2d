//! What nftables says of our table, by its meaning.

use std::collections::BTreeMap;

use fairway_desired::Family;
use fairway_desired::filter::{
    Action, Base, CtState, Field, FieldType, Hook, IcmpKind, Match, Name, Rule, Set, Verdict,
};
use fairway_netlink::{Attribute, Attributes};

use crate::elements::{self, RawKey};
use crate::uapi::{
    IPV4, IPV6, NF_ACCEPT, NF_DROP, REG_VERDICT, REG32, chain, data, element, expression as ex, rule, set,
};
use crate::write::{WITH_PORTS, ct_bit, hook_number, icmp_types, place};

/// Length of `struct nfgenmsg`, which precedes the attributes.
const HEADER: usize = 4;
/// `NFT_REG_1` to `NFT_REG_4` are the 32-bit registers in groups of four.
const GROUPS: std::ops::RangeInclusive<u32> = 1..=4;

pub(crate) fn attributes(payload: &[u8]) -> Attributes<'_> {
    Attributes::new(payload.get(HEADER..).unwrap_or_default())
}

fn name(attributes: Attributes<'_>, kind: u16) -> Option<Name> {
    attributes.get(kind)?.text().map(Name::from)
}

/// A chain of our table. A base chain that we cannot express reads as one that nobody wants.
pub(crate) fn read_chain(payload: &[u8], table: &str) -> Option<(Name, Option<Base>)> {
    let attributes = attributes(payload);
    if attributes.get(chain::TABLE)?.text()? != table {
        return None;
    }
    let base = attributes.get(chain::HOOK).map(|hook| {
        let hook = hook.nested();
        let number = hook.get(chain::HOOK_NUMBER).and_then(Attribute::be32);
        let hooks = [Hook::Prerouting, Hook::Input, Hook::Forward, Hook::Output, Hook::Postrouting];
        let found = hooks.into_iter().find(|hook| Some(hook_number(*hook)) == number);
        let priority = hook.get(chain::HOOK_PRIORITY).and_then(Attribute::be32).map(u32::cast_signed);
        let kind = attributes.get(chain::TYPE).and_then(Attribute::text);
        let accepts = attributes.get(chain::POLICY).and_then(Attribute::be32) == Some(NF_ACCEPT.cast_unsigned());
        match (found, priority, kind, accepts) {
            (Some(hook), Some(priority), Some("nat"), true) => Base { hook, nat: true, priority },
            (Some(hook), Some(priority), Some("filter"), true) => Base { hook, nat: false, priority },
            _ => Base { hook: found.unwrap_or(Hook::Forward), nat: true, priority: i32::MIN },
        }
    });
    Some((name(attributes, chain::NAME)?, base))
}

/// A set of our table: its declaration if we can express it, and whether it is anonymous.
pub(crate) struct FoundSet {
    pub(crate) name: Name,
    pub(crate) set: Option<Set>,
    pub(crate) anonymous: bool,
}

pub(crate) fn read_set(payload: &[u8], table: &str) -> Option<FoundSet> {
    let attributes = attributes(payload);
    if attributes.get(set::TABLE)?.text()? != table {
        return None;
    }
    let flags = attributes.get(set::FLAGS).and_then(Attribute::be32).unwrap_or_default();
    let known = set::FLAG_INTERVAL | set::FLAG_MAP;
    let verdicts = flags & set::FLAG_MAP != 0;
    let data_type = attributes.get(set::DATA_TYPE).and_then(Attribute::be32);
    let key_type = attributes.get(set::KEY_TYPE).and_then(Attribute::be32);
    let length = attributes.get(set::KEY_LENGTH).and_then(Attribute::be32);
    let fields = key_type.and_then(elements::fields).filter(|fields| {
        let expected = u32::try_from(elements::key_length(fields)).ok();
        !fields.is_empty() && expected == length
    });
    let expressible = flags & !known == 0 && (!verdicts || data_type == Some(set::VERDICT));
    let set = fields.filter(|_| expressible).map(|fields| Set {
        fields,
        interval: flags & set::FLAG_INTERVAL != 0,
        verdicts,
    });
    Some(FoundSet { name: name(attributes, set::NAME)?, set, anonymous: flags & set::FLAG_ANONYMOUS != 0 })
}

/// Keys with their verdicts.
pub(crate) type Keys = Vec<(RawKey, Option<Verdict>)>;

/// The elements in one message of a dump.
pub(crate) fn read_elements(payload: &[u8], into: &mut Keys) {
    let Some(list) = attributes(payload).get(element::ELEMENTS) else { return };
    for entry in list.nested() {
        let entry = entry.nested();
        let key = entry.get(element::KEY).and_then(|key| key.nested().get(data::VALUE));
        let Some(key) = key else { continue };
        let flags = entry.get(element::FLAGS).and_then(Attribute::be32).unwrap_or_default();
        let verdict = entry.get(element::DATA).and_then(|data| read_verdict(data.nested()));
        into.push(((key.payload.to_vec(), flags & element::INTERVAL_END != 0), verdict));
    }
}

fn read_verdict(attributes: Attributes<'_>) -> Option<Verdict> {
    let verdict = attributes.get(data::VERDICT)?.nested();
    let target = || name(verdict, data::CHAIN);
    Some(match verdict.get(data::CODE)?.be32()?.cast_signed() {
        NF_ACCEPT => Verdict::Accept,
        NF_DROP => Verdict::Drop,
        data::JUMP => Verdict::Jump(target()?),
        data::GOTO => Verdict::Goto(target()?),
        data::RETURN => Verdict::Return,
        _ => return None,
    })
}

/// One expression, as far as we use it.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Expression {
    LoadMeta { key: u32, to: u32 },
    SetMark { from: u32 },
    Payload { base: u32, offset: u32, length: u32, to: u32 },
    Compare { from: u32, different: bool, value: Vec<u8> },
    Bitwise { register: u32, mask: u32, xor: u32 },
    CtState { to: u32 },
    Lookup { set: Name, from: u32, verdict: bool, invert: bool },
    Verdict(Verdict),
    Reject,
    Masquerade,
}

/// A register as its first 32-bit register, counted from 0.
fn register(attribute: Option<Attribute<'_>>) -> Option<u32> {
    let number = attribute?.be32()?;
    if GROUPS.contains(&number) { Some((number - 1) * 4) } else { number.checked_sub(REG32) }
}

fn read_expression(entry: Attributes<'_>) -> Option<Expression> {
    let kind = entry.get(rule::EXPRESSION_NAME)?.text()?;
    let empty = Attribute { kind: 0, payload: &[] };
    let inside = entry.get(rule::EXPRESSION_DATA).unwrap_or(empty).nested();
    let number = |kind: u16| inside.get(kind).and_then(Attribute::be32);
    let host_value = |kind: u16| inside.get(kind)?.nested().get(data::VALUE)?.u32();
    Some(match kind {
        "meta" if inside.get(ex::META_SREG).is_some() => match number(ex::META_KEY)? {
            ex::META_MARK => Expression::SetMark { from: register(inside.get(ex::META_SREG))? },
            _ => return None,
        },
        "meta" => Expression::LoadMeta { key: number(ex::META_KEY)?, to: register(inside.get(ex::META_DREG))? },
        "payload" => Expression::Payload {
            base: number(ex::PAYLOAD_BASE)?,
            offset: number(ex::PAYLOAD_OFFSET)?,
            length: number(ex::PAYLOAD_LENGTH)?,
            to: register(inside.get(ex::PAYLOAD_DREG))?,
        },
        "cmp" => Expression::Compare {
            from: register(inside.get(ex::CMP_SREG))?,
            different: match number(ex::CMP_OP)? {
                ex::EQUAL => false,
                ex::DIFFERENT => true,
                _ => return None,
            },
            value: inside.get(ex::CMP_DATA)?.nested().get(data::VALUE)?.payload.to_vec(),
        },
        "bitwise" => {
            let from = register(inside.get(ex::BITWISE_SREG))?;
            if register(inside.get(ex::BITWISE_DREG))? != from || number(ex::BITWISE_LENGTH)? != 4 {
                return None;
            }
            Expression::Bitwise {
                register: from,
                mask: host_value(ex::BITWISE_MASK)?,
                xor: host_value(ex::BITWISE_XOR)?,
            }
        }
        "ct" if number(ex::CT_KEY)? == ex::CT_STATE => Expression::CtState { to: register(inside.get(ex::CT_DREG))? },
        "lookup" => Expression::Lookup {
            set: name(inside, ex::LOOKUP_SET)?,
            from: register(inside.get(ex::LOOKUP_SREG))?,
            verdict: match inside.get(ex::LOOKUP_DREG) {
                None => false,
                Some(to) if to.be32() == Some(REG_VERDICT) => true,
                Some(_) => return None,
            },
            invert: number(ex::LOOKUP_FLAGS).unwrap_or_default() & ex::LOOKUP_INVERT != 0,
        },
        "immediate" if number(ex::IMMEDIATE_DREG)? == REG_VERDICT => {
            Expression::Verdict(read_verdict(inside.get(ex::IMMEDIATE_DATA)?.nested())?)
        }
        "reject" => match (number(ex::REJECT_TYPE)?, inside.get(ex::REJECT_CODE)?.u8()?) {
            (ex::ICMPX, ex::PORT_UNREACHABLE) => Expression::Reject,
            _ => return None,
        },
        "masq" if number(ex::MASQ_FLAGS).unwrap_or_default() == ex::RANDOM_FULLY => Expression::Masquerade,
        _ => return None,
    })
}

/// The sets that rules may name.
pub(crate) struct Sets<'a> {
    pub(crate) named: &'a BTreeMap<Name, Set>,
    /// Keys of anonymous sets.
    pub(crate) anonymous: &'a BTreeMap<Name, Vec<Vec<u8>>>,
}

/// The chain of a rule of our table, and the rule; `None` in place of a rule that we cannot express.
pub(crate) fn read_rule(payload: &[u8], table: &str, sets: &Sets<'_>) -> Option<(Name, Option<Rule>)> {
    let attributes = attributes(payload);
    if attributes.get(rule::TABLE)?.text()? != table {
        return None;
    }
    let list = attributes.get(rule::EXPRESSIONS);
    let expressions: Option<Vec<Expression>> =
        list.into_iter().flat_map(|list| list.nested()).map(|entry| read_expression(entry.nested())).collect();
    let found = expressions.and_then(|expressions| parse(&expressions, sets));
    Some((name(attributes, rule::CHAIN)?, found))
}

fn parse(mut rest: &[Expression], sets: &Sets<'_>) -> Option<Rule> {
    let mut matches = vec![];
    loop {
        if let Some(action) = parse_action(rest, sets) {
            return Some(Rule { matches, action });
        }
        let (condition, used) = parse_match(rest, sets)?;
        matches.push(condition);
        rest = rest.get(used..)?;
    }
}

fn parse_action(rest: &[Expression], sets: &Sets<'_>) -> Option<Action> {
    match rest {
        [Expression::Verdict(verdict)] => Some(Action::Verdict(verdict.clone())),
        [Expression::Reject] => Some(Action::Verdict(Verdict::Reject)),
        [Expression::Masquerade] => Some(Action::Masquerade),
        [
            Expression::LoadMeta { key: ex::META_MARK, to: 0 },
            Expression::Bitwise { register: 0, mask, xor },
            Expression::SetMark { from: 0 },
        ] => Some(Action::SetMark { mask: !mask, value: *xor }),
        _ => {
            let (looked, used) = parse_lookup(rest, sets)?;
            let last = used == rest.len() && looked.verdict && !looked.invert;
            last.then_some(Action::VerdictMap { fields: looked.fields, map: looked.set })
        }
    }
}

fn parse_match(rest: &[Expression], sets: &Sets<'_>) -> Option<(Match, usize)> {
    if let Some((looked, used)) = parse_lookup(rest, sets) {
        let Looked { fields, set, verdict, invert } = looked;
        return (!verdict).then_some((Match::InSet { fields, set, negate: invert }, used));
    }
    match rest {
        [
            Expression::LoadMeta { key: ex::META_L4PROTO, to: 0 },
            Expression::Payload { base: ex::TRANSPORT, offset: 0, length: 1, to: 1 },
            Expression::Lookup { set, from: 0, verdict: false, invert: false },
            ..,
        ] => Some((Match::Icmp(icmp_kinds(sets.anonymous.get(set)?)?), 3)),
        [Expression::LoadMeta { key, to: 0 }, Expression::Compare { from: 0, different: false, value }, ..] => {
            let condition = match *key {
                ex::META_NFPROTO => Match::Family(family(value)?),
                ex::META_L4PROTO => match value.as_slice() {
                    [number] => Match::Protocol(elements::protocol(*number)?),
                    _ => return None,
                },
                ex::META_IIFNAME => Match::InputLink(link(value)?),
                ex::META_OIFNAME => Match::OutputLink(link(value)?),
                _ => return None,
            };
            Some((condition, 2))
        }
        [
            Expression::LoadMeta { key: ex::META_MARK, to: 0 },
            Expression::Bitwise { register: 0, mask, xor: 0 },
            Expression::Compare { from: 0, different, value },
            ..,
        ] => {
            let value = u32::from_ne_bytes(value.as_slice().try_into().ok()?);
            Some((Match::Mark { mask: *mask, value, negate: *different }, 3))
        }
        [
            Expression::CtState { to: 0 },
            Expression::Bitwise { register: 0, mask, xor: 0 },
            Expression::Compare { from: 0, different: true, value },
            ..,
        ] if value.iter().all(|byte| *byte == 0) => {
            let states = [CtState::New, CtState::Established, CtState::Related, CtState::Invalid];
            let known = states.iter().fold(0, |bits, state| bits | ct_bit(*state));
            let found = states.into_iter().filter(|state| mask & ct_bit(*state) != 0).collect();
            (mask & !known == 0).then_some((Match::CtState(found), 3))
        }
        _ => None,
    }
}

fn family(value: &[u8]) -> Option<Family> {
    match value {
        [IPV4] => Some(Family::V4),
        [IPV6] => Some(Family::V6),
        _ => None,
    }
}

fn link(value: &[u8]) -> Option<Name> {
    let end = value.iter().position(|byte| *byte == 0)?;
    std::str::from_utf8(&value[..end]).ok().map(Name::from)
}

/// The kinds whose types these are, and no others.
fn icmp_kinds(keys: &[Vec<u8>]) -> Option<Vec<IcmpKind>> {
    let mut types: Vec<(u8, u8)> = keys.iter().map(|key| Some((*key.first()?, *key.get(4)?))).collect::<Option<_>>()?;
    let kinds = [
        IcmpKind::EchoRequest,
        IcmpKind::EchoReply,
        IcmpKind::Unreachable,
        IcmpKind::TimeExceeded,
        IcmpKind::Neighbour,
    ];
    let mut found = vec![];
    for kind in kinds {
        if icmp_types(kind).iter().all(|pair| types.contains(pair)) {
            types.retain(|pair| !icmp_types(kind).contains(pair));
            found.push(kind);
        }
    }
    types.is_empty().then_some(found)
}

/// A look-up of fields in a named set.
struct Looked {
    fields: Vec<Field>,
    set: Name,
    verdict: bool,
    invert: bool,
}

/// Reads the conditions under which the fields exist, the loading of the fields, and the look-up.
fn parse_lookup(rest: &[Expression], sets: &Sets<'_>) -> Option<(Looked, usize)> {
    let mut at = 0;
    let mut guarded = None;
    if let [
        Expression::LoadMeta { key: ex::META_NFPROTO, to: 0 },
        Expression::Compare { from: 0, different: false, value },
        ..,
    ] = rest
    {
        guarded = Some(family(value)?);
        at = 2;
    }
    let mut ports_asked = false;
    if let Some(
        [
            Expression::LoadMeta { key: ex::META_L4PROTO, to: 0 },
            Expression::Lookup { set, from: 0, verdict: false, invert: false },
            ..,
        ],
    ) = rest.get(at..)
        && let Some(keys) = sets.anonymous.get(set)
    {
        let mut numbers: Vec<u8> = keys.iter().filter_map(|key| key.first().copied()).collect();
        numbers.sort_unstable();
        if numbers != WITH_PORTS {
            return None;
        }
        ports_asked = true;
        at += 2;
    }
    let start = at;
    while matches!(rest.get(at), Some(Expression::Payload { .. } | Expression::LoadMeta { key: ex::META_L4PROTO, .. }))
    {
        at += 1;
    }
    let Some(Expression::Lookup { set, from: 0, verdict, invert }) = rest.get(at) else { return None };
    let declared = sets.named.get(set)?;
    let loads = rest.get(start..at)?;
    if loads.len() != declared.fields.len() {
        return None;
    }
    let mut fields = vec![];
    let mut register = 0;
    let mut addresses = false;
    for (load, kind) in loads.iter().zip(&declared.fields) {
        let candidates: &[Field] = match kind {
            FieldType::Addr(family) => {
                addresses = true;
                if guarded != Some(*family) {
                    return None;
                }
                &[Field::Saddr, Field::Daddr]
            }
            FieldType::Protocol => &[Field::Protocol],
            FieldType::Port => &[Field::Sport, Field::Dport],
        };
        let family = match kind {
            FieldType::Addr(family) => Some(*family),
            _ => None,
        };
        let is = |field: &&Field| match (place(**field, family), load) {
            (None, Expression::LoadMeta { key: ex::META_L4PROTO, to }) => *to == register,
            (Some(expected), Expression::Payload { base, offset, length, to }) => {
                expected == (*base, *offset, *length) && *to == register
            }
            _ => false,
        };
        fields.push(*candidates.iter().find(is)?);
        register += u32::try_from(elements::length(*kind).div_ceil(4)).ok()?;
    }
    let ports = declared.fields.contains(&FieldType::Port);
    let must_ask = ports && (*invert || !declared.fields.contains(&FieldType::Protocol));
    // A family that is asked for without need is a condition of its own.
    let all_needed = (guarded.is_some() == addresses) && ports_asked == must_ask;
    let looked = Looked { fields, set: set.clone(), verdict: *verdict, invert: *invert };
    all_needed.then_some((looked, at + 1))
}
