//! What we say to nftables.

use std::collections::BTreeMap;

use fairway_desired::Family;
use fairway_desired::filter::{
    Action, Base, CtState, Field, FieldType, Hook, IcmpKind, Match, Name, Rule, Set, Verdict,
};
use fairway_netlink::{Message, flags};

use crate::backend::TABLE;
use crate::elements::{self, RawKey};
use crate::uapi::errno::{EINVAL, ENOENT};
use crate::uapi::{
    self, ICMP, ICMPV6, INET, IPV4, IPV6, NF_ACCEPT, NF_DROP, REG_VERDICT, REG32, chain, data, datatype, element,
    expression as ex, message, rule, set, table,
};

/// A message about our table.
pub(crate) fn about(kind: u16, flags: u16) -> Message {
    let mut message = Message::new(uapi::SUBSYSTEM << 8 | kind, flags);
    message.raw(&[INET, 0, 0, 0]);
    message
}

/// First and last message of a transaction.
pub(crate) fn frame(kind: u16) -> Message {
    let mut message = Message::new(kind, 0);
    let [high, low] = uapi::SUBSYSTEM.to_be_bytes();
    message.raw(&[uapi::UNSPEC, 0, high, low]);
    message
}

pub(crate) fn new_table() -> Message {
    let mut request = about(message::NEW_TABLE, flags::CREATE);
    request.text(table::NAME, TABLE);
    request
}

pub(crate) fn del_table() -> Message {
    let mut request = about(message::DEL_TABLE, 0);
    request.text(table::NAME, TABLE);
    request
}

pub(crate) fn new_chain(name: &str, base: Option<&Base>) -> Message {
    let mut request = about(message::NEW_CHAIN, flags::CREATE);
    request.text(chain::TABLE, TABLE).text(chain::NAME, name);
    if let Some(base) = base {
        request.nested(chain::HOOK, |hook| {
            hook.be32(chain::HOOK_NUMBER, hook_number(base.hook));
            hook.be32(chain::HOOK_PRIORITY, base.priority.cast_unsigned());
        });
        request.text(chain::TYPE, if base.nat { "nat" } else { "filter" });
        request.be32(chain::POLICY, NF_ACCEPT.cast_unsigned());
    }
    request
}

/// `NF_INET_*`
pub(crate) fn hook_number(hook: Hook) -> u32 {
    match hook {
        Hook::Prerouting => 0,
        Hook::Input => 1,
        Hook::Forward => 2,
        Hook::Output => 3,
        Hook::Postrouting => 4,
    }
}

pub(crate) fn del_chain(name: &str) -> Message {
    let mut request = about(message::DEL_CHAIN, 0);
    request.text(chain::TABLE, TABLE).text(chain::NAME, name);
    request
}

/// Deletes all rules of a chain.
pub(crate) fn flush(name: &str) -> Message {
    let mut request = about(message::DEL_RULE, 0);
    request.text(rule::TABLE, TABLE).text(rule::CHAIN, name);
    request
}

pub(crate) fn new_set(name: &str, declaration: &Set) -> Message {
    let mut flags = 0;
    if declaration.interval {
        flags |= set::FLAG_INTERVAL;
    }
    if declaration.verdicts {
        flags |= set::FLAG_MAP;
    }
    let key = (elements::key_type(&declaration.fields), elements::key_length(&declaration.fields));
    // The kernel wants a number for each set of a transaction; only anonymous ones are asked for by it.
    raw_set(name, flags, key, 0)
}

fn raw_set(name: &str, set_flags: u32, (key_type, key_length): (u32, usize), id: u32) -> Message {
    let mut request = about(message::NEW_SET, flags::CREATE);
    request.text(set::TABLE, TABLE).text(set::NAME, name).be32(set::FLAGS, set_flags);
    request.be32(set::KEY_TYPE, key_type);
    request.be32(set::KEY_LENGTH, u32::try_from(key_length).unwrap_or(u32::MAX));
    if set_flags & set::FLAG_MAP != 0 {
        request.be32(set::DATA_TYPE, set::VERDICT).be32(set::DATA_LENGTH, 0);
    }
    request.be32(set::ID, id);
    request
}

pub(crate) fn del_set(name: &str) -> Message {
    let mut request = about(message::DEL_SET, 0);
    request.text(set::TABLE, TABLE).text(set::NAME, name);
    request
}

/// Adds or deletes elements of one set.
pub(crate) fn elements(kind: u16, name: &str, keys: &[(RawKey, Option<Verdict>)]) -> Message {
    let mut request = about(kind, if kind == message::NEW_ELEMENT { flags::CREATE } else { 0 });
    request.text(element::TABLE, TABLE).text(element::SET, name);
    element_list(&mut request, keys);
    request
}

fn element_list(request: &mut Message, keys: &[(RawKey, Option<Verdict>)]) {
    request.nested(element::ELEMENTS, |list| {
        for ((key, ends), verdict) in keys {
            list.nested(element::LIST_ELEMENT, |entry| {
                entry.nested(element::KEY, |k| {
                    k.bytes(data::VALUE, key);
                });
                if *ends {
                    entry.be32(element::FLAGS, element::INTERVAL_END);
                }
                if let Some(verdict) = verdict {
                    entry.nested(element::DATA, |d| write_verdict(d, verdict));
                }
            });
        }
    });
}

/// The data of a verdict. A rejection is no verdict to the kernel; as one it is a drop, and is refused before.
fn write_verdict(data: &mut Message, verdict: &Verdict) {
    let (code, target) = match verdict {
        Verdict::Accept => (NF_ACCEPT, None),
        Verdict::Drop | Verdict::Reject => (NF_DROP, None),
        Verdict::Jump(name) => (data::JUMP, Some(name)),
        Verdict::Goto(name) => (data::GOTO, Some(name)),
        Verdict::Return => (data::RETURN, None),
    };
    data.nested(data::VERDICT, |verdict| {
        verdict.be32(data::CODE, code.cast_unsigned());
        if let Some(name) = target {
            verdict.text(data::CHAIN, name);
        }
    });
}

/// ICMP types of both families by kind: protocol and type.
pub(crate) fn icmp_types(kind: IcmpKind) -> &'static [(u8, u8)] {
    match kind {
        IcmpKind::EchoRequest => &[(ICMP, 8), (ICMPV6, 128)],
        IcmpKind::EchoReply => &[(ICMP, 0), (ICMPV6, 129)],
        IcmpKind::Unreachable => &[(ICMP, 3), (ICMPV6, 1), (ICMPV6, 2)],
        IcmpKind::TimeExceeded => &[(ICMP, 11), (ICMPV6, 3)],
        IcmpKind::Neighbour => &[(ICMPV6, 135), (ICMPV6, 136)],
    }
}

/// Bits of `ct state`.
pub(crate) fn ct_bit(state: CtState) -> u32 {
    match state {
        CtState::Invalid => 1,
        CtState::Established => 2,
        CtState::Related => 4,
        CtState::New => 8,
    }
}

/// Where an address stands in the header, and a port.
pub(crate) fn place(field: Field, family: Option<Family>) -> Option<(u32, u32, u32)> {
    let network = |v4: u32, v6: u32| match family {
        Some(Family::V4) => Some((ex::NETWORK, v4, 4)),
        Some(Family::V6) => Some((ex::NETWORK, v6, 16)),
        None => None,
    };
    match field {
        Field::Saddr => network(12, 8),
        Field::Daddr => network(16, 24),
        Field::Sport => Some((ex::TRANSPORT, 0, 2)),
        Field::Dport => Some((ex::TRANSPORT, 2, 2)),
        Field::Protocol => None,
    }
}

/// Numbers the anonymous sets of a transaction.
#[derive(Debug, Default)]
pub(crate) struct Ids(u32);

impl Ids {
    fn next(&mut self) -> u32 {
        self.0 += 1;
        self.0
    }
}

/// Writes name and data of one expression.
type Expression = Box<dyn Fn(&mut Message)>;

/// The rule under construction: its expressions, and before them the anonymous sets that they name.
struct Writer<'a> {
    sets: &'a dyn Fn(&Name) -> Option<Set>,
    ids: &'a mut Ids,
    before: Vec<Message>,
    expressions: Vec<Expression>,
}

/// The messages of one rule at the end of a chain. The errno if it cannot be said.
pub(crate) fn new_rule(
    chain: &str,
    written: &Rule,
    sets: &dyn Fn(&Name) -> Option<Set>,
    ids: &mut Ids,
) -> Result<Vec<Message>, i32> {
    let mut writer = Writer { sets, ids, before: vec![], expressions: vec![] };
    for condition in &written.matches {
        writer.condition(condition)?;
    }
    writer.action(&written.action)?;
    let Writer { mut before, expressions, .. } = writer;
    let mut request = about(message::NEW_RULE, flags::CREATE | flags::APPEND);
    request.text(rule::TABLE, TABLE).text(rule::CHAIN, chain);
    request.nested(rule::EXPRESSIONS, |list| {
        for expression in &expressions {
            list.nested(rule::LIST_ELEMENT, |entry| expression(entry));
        }
    });
    before.push(request);
    Ok(before)
}

impl Writer<'_> {
    fn push(&mut self, name: &'static str, data: impl Fn(&mut Message) + 'static) {
        self.expressions.push(Box::new(move |entry| {
            entry.text(rule::EXPRESSION_NAME, name);
            entry.nested(rule::EXPRESSION_DATA, |inside| data(inside));
        }));
    }

    fn meta(&mut self, key: u32, register: u32) {
        self.push("meta", move |m| {
            m.be32(ex::META_KEY, key).be32(ex::META_DREG, register);
        });
    }

    fn compare(&mut self, op: u32, value: Vec<u8>) {
        self.push("cmp", move |m| {
            m.be32(ex::CMP_SREG, REG32).be32(ex::CMP_OP, op);
            m.nested(ex::CMP_DATA, |d| {
                d.bytes(data::VALUE, &value);
            });
        });
    }

    /// `register = (register & mask) ^ xor`, in host byte order.
    fn bitwise(&mut self, mask: u32, xor: u32) {
        self.push("bitwise", move |m| {
            m.be32(ex::BITWISE_SREG, REG32).be32(ex::BITWISE_DREG, REG32).be32(ex::BITWISE_LENGTH, 4);
            m.nested(ex::BITWISE_MASK, |d| {
                d.bytes(data::VALUE, &mask.to_ne_bytes());
            });
            m.nested(ex::BITWISE_XOR, |d| {
                d.bytes(data::VALUE, &xor.to_ne_bytes());
            });
        });
    }

    fn link(&mut self, key: u32, name: &str) -> Result<(), i32> {
        let mut padded = name.as_bytes().to_vec();
        if padded.is_empty() || padded.len() > 15 {
            return Err(EINVAL);
        }
        padded.resize(16, 0);
        self.meta(key, REG32);
        self.compare(ex::EQUAL, padded);
        Ok(())
    }

    /// Looks registers from the first on up in an anonymous set.
    fn lookup_anonymous(&mut self, key: (u32, usize), keys: Vec<Vec<u8>>) {
        let id = self.ids.next();
        self.before.push(raw_set("__set%d", set::FLAG_ANONYMOUS | set::FLAG_CONSTANT, key, id));
        let mut request = about(message::NEW_ELEMENT, flags::CREATE);
        request.text(element::TABLE, TABLE).text(element::SET, "__set%d").be32(element::SET_ID, id);
        let keys: Vec<_> = keys.into_iter().map(|key| ((key, false), None)).collect();
        element_list(&mut request, &keys);
        self.before.push(request);
        self.push("lookup", move |m| {
            m.text(ex::LOOKUP_SET, "__set%d").be32(ex::LOOKUP_SREG, REG32).be32(ex::LOOKUP_SET_ID, id);
        });
    }

    /// Loads fields for a look-up in a set, with the conditions under which they exist.
    fn load(&mut self, fields: &[Field], name: &Name, negate: bool) -> Result<Set, i32> {
        let declared = (self.sets)(name).ok_or(ENOENT)?;
        let fits = |(field, kind): (&Field, &FieldType)| match field {
            Field::Saddr | Field::Daddr => matches!(kind, FieldType::Addr(_)),
            Field::Protocol => *kind == FieldType::Protocol,
            Field::Sport | Field::Dport => *kind == FieldType::Port,
        };
        if fields.len() != declared.fields.len() || !fields.iter().zip(&declared.fields).all(fits) {
            return Err(EINVAL);
        }
        let families: Vec<Family> = declared
            .fields
            .iter()
            .filter_map(|kind| match kind {
                FieldType::Addr(family) => Some(*family),
                _ => None,
            })
            .collect();
        if let Some(family) = families.first() {
            self.meta(ex::META_NFPROTO, REG32);
            self.compare(ex::EQUAL, vec![nfproto(*family)]);
        }
        // The elements name protocols that have ports; a negation, or a set without protocols, must ask.
        let ports = declared.fields.contains(&FieldType::Port);
        if ports && (negate || !declared.fields.contains(&FieldType::Protocol)) {
            self.meta(ex::META_L4PROTO, REG32);
            self.lookup_anonymous((datatype::INET_PROTO, 1), WITH_PORTS.map(|number| vec![number]).to_vec());
        }
        let mut register = REG32;
        for (field, kind) in fields.iter().zip(&declared.fields) {
            let family = match kind {
                FieldType::Addr(family) => Some(*family),
                _ => None,
            };
            match place(*field, family) {
                None => self.meta(ex::META_L4PROTO, register),
                Some((base, offset, length)) => {
                    let to = register;
                    self.push("payload", move |m| {
                        m.be32(ex::PAYLOAD_DREG, to).be32(ex::PAYLOAD_BASE, base);
                        m.be32(ex::PAYLOAD_OFFSET, offset).be32(ex::PAYLOAD_LENGTH, length);
                    });
                }
            }
            register += u32::try_from(elements::length(*kind).div_ceil(4)).map_err(|_| EINVAL)?;
        }
        Ok(declared)
    }

    fn condition(&mut self, condition: &Match) -> Result<(), i32> {
        match condition {
            Match::InSet { fields, set: name, negate } => {
                if self.load(fields, name, *negate)?.verdicts {
                    return Err(EINVAL);
                }
                let (name, flags) = (name.clone(), if *negate { ex::LOOKUP_INVERT } else { 0 });
                self.push("lookup", move |m| {
                    m.text(ex::LOOKUP_SET, &name).be32(ex::LOOKUP_SREG, REG32).be32(ex::LOOKUP_FLAGS, flags);
                });
            }
            Match::Mark { mask, value, negate } => {
                self.meta(ex::META_MARK, REG32);
                self.bitwise(*mask, 0);
                self.compare(if *negate { ex::DIFFERENT } else { ex::EQUAL }, value.to_ne_bytes().to_vec());
            }
            Match::Family(family) => {
                self.meta(ex::META_NFPROTO, REG32);
                self.compare(ex::EQUAL, vec![nfproto(*family)]);
            }
            Match::Protocol(protocol) => {
                self.meta(ex::META_L4PROTO, REG32);
                self.compare(ex::EQUAL, vec![elements::protocol_number(*protocol)]);
            }
            Match::Icmp(kinds) => {
                let types: BTreeMap<(u8, u8), ()> =
                    kinds.iter().flat_map(|kind| icmp_types(*kind)).map(|pair| (*pair, ())).collect();
                self.meta(ex::META_L4PROTO, REG32);
                self.push("payload", |m| {
                    m.be32(ex::PAYLOAD_DREG, REG32 + 1).be32(ex::PAYLOAD_BASE, ex::TRANSPORT);
                    m.be32(ex::PAYLOAD_OFFSET, 0).be32(ex::PAYLOAD_LENGTH, 1);
                });
                let keys = types.into_keys().map(|(protocol, kind)| vec![protocol, 0, 0, 0, kind, 0, 0, 0]).collect();
                let key_type = datatype::INET_PROTO << datatype::BITS | datatype::ICMP_TYPE;
                self.lookup_anonymous((key_type, 8), keys);
            }
            Match::InputLink(name) => self.link(ex::META_IIFNAME, name)?,
            Match::OutputLink(name) => self.link(ex::META_OIFNAME, name)?,
            Match::CtState(states) => {
                let bits = states.iter().fold(0, |bits, state| bits | ct_bit(*state));
                self.push("ct", |m| {
                    m.be32(ex::CT_KEY, ex::CT_STATE).be32(ex::CT_DREG, REG32);
                });
                self.bitwise(bits, 0);
                self.compare(ex::DIFFERENT, vec![0; 4]);
            }
        }
        Ok(())
    }

    fn action(&mut self, action: &Action) -> Result<(), i32> {
        match action {
            Action::Verdict(Verdict::Reject) => self.push("reject", |m| {
                m.be32(ex::REJECT_TYPE, ex::ICMPX).u8(ex::REJECT_CODE, ex::PORT_UNREACHABLE);
            }),
            Action::Verdict(verdict) => {
                let verdict = verdict.clone();
                self.push("immediate", move |m| {
                    m.be32(ex::IMMEDIATE_DREG, REG_VERDICT);
                    m.nested(ex::IMMEDIATE_DATA, |d| write_verdict(d, &verdict));
                });
            }
            Action::SetMark { mask, value } => {
                self.meta(ex::META_MARK, REG32);
                self.bitwise(!(mask | value), *value);
                self.push("meta", |m| {
                    m.be32(ex::META_KEY, ex::META_MARK).be32(ex::META_SREG, REG32);
                });
            }
            Action::Masquerade => self.push("masq", |m| {
                m.be32(ex::MASQ_FLAGS, ex::RANDOM_FULLY);
            }),
            Action::VerdictMap { fields, map } => {
                if !self.load(fields, map, false)?.verdicts {
                    return Err(EINVAL);
                }
                let map = map.clone();
                self.push("lookup", move |m| {
                    m.text(ex::LOOKUP_SET, &map).be32(ex::LOOKUP_SREG, REG32).be32(ex::LOOKUP_DREG, REG_VERDICT);
                });
            }
        }
        Ok(())
    }
}

/// Protocols that have ports at the beginning of their header.
pub(crate) const WITH_PORTS: [u8; 3] = [6, 17, 132];

pub(crate) fn nfproto(family: Family) -> u8 {
    match family {
        Family::V4 => IPV4,
        Family::V6 => IPV6,
    }
}
