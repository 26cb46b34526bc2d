//! The firewall as small enums: one nftables table of ours (`inet fairway`).
//!
//! The simulated kernel interprets these types and `backends/filter` encodes them to netlink; neither decides
//! anything. Semantics are those of nftables: base chains of a hook run in ascending priority; a rule's matches
//! are tried in order and its action runs when all hold; `Accept` ends the chain (later base chains of the hook
//! still run), `Drop` and `Reject` end everything.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::net::IpAddr;

use ipnet::IpNet;

use crate::{Family, Plane, PlaneId, Protocol};

/// The rules of our table. One transaction per sync: all ops of an apply succeed or none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Filter;

impl Plane for Filter {
    const ID: PlaneId = PlaneId::Filter;
    type Key = Key;
    type Value = Value;
}

/// Name of a set, map or chain.
pub type Name = Arc<str>;

/// Entries in dependency order: sets, chains (declared), elements (may name chains), rules (may name all).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum Key {
    /// Declaration of a set or verdict map. Value: [`Value::Set`].
    Set(Name),
    /// Declaration of a chain. Value: [`Value::Chain`].
    Chain(Name),
    /// One element of a set. Value: [`Value::Element`].
    Element(Name, Element),
    /// All rules of a chain. Value: [`Value::Rules`].
    Rules(Name),
}

/// The value belonging to a [`Key`].
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum Value {
    /// Of `Key::Set`.
    Set(Set),
    /// Of `Key::Chain`: hook and priority of a base chain, `None` for a chain that is only jumped to.
    Chain(Option<Base>),
    /// Of `Key::Element`: the verdict of a verdict map's element, `None` in a plain set.
    Element(Option<Verdict>),
    /// Of `Key::Rules`.
    Rules(Vec<Rule>),
}

/// A set's type.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Set {
    /// Types of the concatenated fields.
    pub fields: Vec<FieldType>,
    /// Elements are prefixes (an interval set); only for one address field.
    pub interval: bool,
    /// The set is a verdict map.
    pub verdicts: bool,
}

/// Type of one field of a set element.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum FieldType {
    /// `ipv4_addr` or `ipv6_addr`
    Addr(Family),
    /// `inet_proto`
    Protocol,
    /// `inet_service`
    Port,
}

/// An element: one datum per field.
pub type Element = Vec<Datum>;

/// One field of an element.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum Datum {
    /// An address.
    Addr(IpAddr),
    /// A prefix, in interval sets.
    Net(IpNet),
    /// A protocol.
    Protocol(Protocol),
    /// A port.
    Port(u16),
}

/// Where a base chain hangs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Base {
    /// Netfilter hook.
    pub hook: Hook,
    /// `filter` or `nat`. NAT chains see only the first packet of a connection.
    pub nat: bool,
    /// Priority, ascending; `NF_IP_PRI_*`: mangle -150, filter 0, srcnat 100.
    pub priority: i32,
}

/// `NF_INET_*`
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum Hook {
    /// Everything that came in, before routing.
    Prerouting,
    /// To this host, after routing.
    Input,
    /// Through this host.
    Forward,
    /// From this host, before (re-)routing.
    Output,
    /// Everything that leaves.
    Postrouting,
}

/// One rule: all matches hold, then the action.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Rule {
    /// Conditions, tried in order.
    pub matches: Vec<Match>,
    /// What happens.
    pub action: Action,
}

/// A condition.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum Match {
    /// The concatenated packet fields are (or, negated, are not) in the set. A packet of another family, or without
    /// ports where a port is asked for, does not match, negated or not.
    InSet {
        /// The packet fields, in the order of the set's fields.
        fields: Vec<Field>,
        /// The set.
        set: Name,
        /// Match when not in the set.
        negate: bool,
    },
    /// `meta mark & mask == value`, or its negation.
    Mark {
        /// Mask.
        mask: u32,
        /// Value.
        value: u32,
        /// Match when different.
        negate: bool,
    },
    /// The packet is of this family.
    Family(Family),
    /// Transport protocol.
    Protocol(Protocol),
    /// ICMP or ICMPv6 of one of the kinds.
    Icmp(Vec<IcmpKind>),
    /// Input interface name.
    InputLink(Arc<str>),
    /// Output interface name.
    OutputLink(Arc<str>),
    /// Conntrack state is one of these.
    CtState(Vec<CtState>),
}

/// A packet field.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum Field {
    /// Source address.
    Saddr,
    /// Destination address.
    Daddr,
    /// Transport protocol.
    Protocol,
    /// Source port.
    Sport,
    /// Destination port.
    Dport,
}

/// Kinds of ICMP message by meaning, for both families.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum IcmpKind {
    /// Echo request.
    EchoRequest,
    /// Echo reply.
    EchoReply,
    /// Destination unreachable (with "packet too big" for IPv6).
    Unreachable,
    /// Time exceeded.
    TimeExceeded,
    /// IPv6 neighbour solicitation and advertisement.
    Neighbour,
}

/// Conntrack states.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum CtState {
    /// First packet of a connection.
    New,
    /// Later packet of a connection.
    Established,
    /// Belongs to a connection without being of it (ICMP errors).
    Related,
    /// Fits no connection.
    Invalid,
}

/// What a matching rule does.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum Action {
    /// A verdict; ends or leaves the chain.
    Verdict(Verdict),
    /// `mark = (mark & !mask) | value`; the chain goes on.
    SetMark {
        /// Bits that are replaced.
        mask: u32,
        /// Their new value.
        value: u32,
    },
    /// Source NAT to the address of the output interface, with a random port; only in NAT chains at postrouting.
    Masquerade,
    /// Look the fields up in a verdict map; no element: the chain goes on.
    VerdictMap {
        /// The packet fields.
        fields: Vec<Field>,
        /// The map.
        map: Name,
    },
}

/// Verdicts.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum Verdict {
    /// Go on to the next base chain.
    Accept,
    /// Drop.
    Drop,
    /// Answer with ICMP port unreachable (TCP: the connection is refused).
    Reject,
    /// Run another chain, then come back.
    Jump(Name),
    /// Run another chain and do not come back.
    Goto(Name),
    /// Back to the calling chain.
    Return,
}
