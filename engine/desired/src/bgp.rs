//! What the BGP speaker should be: peers, policies, defined sets and originated prefixes.
//!
//! The speaker is a plane like any other. An empty set matches nothing. The key order makes policies and their
//! sets exist before any session.

use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::net::{IpAddr, Ipv4Addr};

use ipnet::IpNet;

use crate::{Plane, PlaneId};

/// The BGP speaker's configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bgp;

impl Plane for Bgp {
    const ID: PlaneId = PlaneId::Bgp;
    type Key = Key;
    type Value = Value;
}

/// Name of a defined set.
pub type Name = Arc<str>;

/// Entries in dependency order.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Key {
    /// The speaker itself. Value: [`Value::Global`].
    Global,
    /// One member of a prefix set. Value: [`Value::PrefixMember`].
    PrefixMember(Name, IpNet),
    /// One member of a neighbour set. Value: [`Value::NeighborMember`].
    NeighborMember(Name, IpNet),
    /// The policy of a direction. Value: [`Value::Policy`].
    Policy(Direction),
    /// A prefix we originate. Value: [`Value::Network`].
    Network(IpNet),
    /// Dynamic neighbours: any source in the prefix may connect. Value: [`Value::Dynamic`].
    Dynamic(IpNet),
    /// A configured neighbour. Value: [`Value::Peer`].
    Peer(IpAddr),
}

/// Import or export.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Direction {
    /// Adj-RIB-In to Loc-RIB.
    Import,
    /// Loc-RIB to Adj-RIB-Out.
    Export,
}

/// The value belonging to a [`Key`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// Of `Key::Global`.
    Global(Global),
    /// Of `Key::PrefixMember`: matching prefixes are inside the member and their length is in this inclusive range.
    PrefixMember {
        /// Shortest prefix length that matches.
        min: u8,
        /// Longest prefix length that matches.
        max: u8,
    },
    /// Of `Key::NeighborMember`: neighbours with an address in the prefix are in the set.
    NeighborMember,
    /// Of `Key::Policy`.
    Policy(Policy),
    /// Of `Key::Network`.
    Network(Network),
    /// Of `Key::Dynamic`.
    Dynamic(Dynamic),
    /// Of `Key::Peer`.
    Peer(Peer),
}

/// The speaker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Global {
    /// Own autonomous system.
    pub asn: u32,
    /// BGP identifier.
    pub router_id: Ipv4Addr,
    /// TCP port we listen on.
    pub port: u16,
    /// Most equal paths that are used at once; 1 turns multipath off.
    pub max_paths: u8,
}

/// A policy: the first statement whose conditions hold decides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Statements in order.
    pub statements: Vec<Statement>,
    /// Accept what no statement decided.
    pub default_accept: bool,
}

/// One policy statement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Statement {
    /// Name, unique in the policy.
    pub name: Name,
    /// The prefix is in this set; `None`: any prefix.
    pub prefix_set: Option<Name>,
    /// The neighbour the route comes from or goes to is in this set; `None`: any.
    pub neighbor_set: Option<Name>,
    /// Accept, or reject.
    pub accept: bool,
    /// Changes on acceptance.
    pub modify: Modify,
}

/// Attribute changes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Modify {
    /// Prepend this AS so many times (after, that is before, our own on eBGP).
    pub prepend: Option<(u32, u8)>,
    /// Our address of the session becomes the next hop.
    pub next_hop_self: bool,
    /// Communities to add.
    pub communities: Vec<u32>,
}

/// An originated prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Network {
    /// Next hop, of the prefix's family.
    pub next_hop: IpAddr,
}

/// Which families a session carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Families {
    /// IPv4 unicast.
    pub v4: bool,
    /// IPv6 unicast.
    pub v6: bool,
}

/// A range of neighbours that connect to us.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dynamic {
    /// Autonomous systems accepted; others get NOTIFICATION 2/2 (Bad Peer AS).
    pub asns: Vec<u32>,
    /// Hold time offered, in seconds.
    pub hold_s: u16,
    /// Families offered.
    pub families: Families,
}

/// A configured neighbour.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Autonomous system expected.
    pub asn: u32,
    /// TCP port we dial.
    pub port: u16,
    /// Our address of the session.
    pub local: Option<IpAddr>,
    /// TCP MD5 password (RFC 2385).
    pub password: Option<String>,
    /// Hold time offered, in seconds; 0 or 3 and more.
    pub hold_s: u16,
    /// Families offered.
    pub families: Families,
    /// TTL of our packets on eBGP; `None`: 1.
    pub multihop_ttl: Option<u8>,
}
