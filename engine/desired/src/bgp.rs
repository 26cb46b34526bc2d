//! What the BGP speaker should be: peers, policies, defined sets and originated prefixes.
//!
//! The speaker is a plane like any other. An empty set matches nothing. The key order makes policies and their
//! sets exist before any session.

use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::net::{IpAddr, Ipv4Addr};

use ipnet::IpNet;

use crate::{Family, Plane, PlaneId};

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
    /// Paths with AS paths of equal length are equal; otherwise only those with the same AS path.
    pub multipath_relax: bool,
    /// Cluster of a route reflector (RFC 4456 section 7); `None`: the BGP identifier.
    pub cluster_id: Option<Ipv4Addr>,
    /// Our addresses that may be connected to; empty: all.
    pub listen: Vec<IpAddr>,
    /// This node is to be left without loss: routes get `GRACEFUL_SHUTDOWN` (RFC 8326) and the lowest preference.
    pub graceful_shutdown: bool,
}

impl Global {
    /// A speaker without anything special.
    pub const fn new(asn: u32, router_id: Ipv4Addr, port: u16, max_paths: u8) -> Self {
        Self {
            asn,
            router_id,
            port,
            max_paths,
            multipath_relax: true,
            cluster_id: None,
            listen: Vec::new(),
            graceful_shutdown: false,
        }
    }
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
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Statement {
    /// Name, unique in the policy.
    pub name: Name,
    /// The prefix is in this set; `None`: any prefix.
    pub prefix_set: Option<Name>,
    /// The neighbour the route comes from or goes to is in this set; `None`: any.
    pub neighbor_set: Option<Name>,
    /// The route has one of these; empty: any route.
    pub communities: Vec<Community>,
    /// Accept, or reject.
    pub accept: bool,
    /// Changes on acceptance.
    pub modify: Modify,
}

/// A community of any kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Community {
    /// Of RFC 1997: two halves of 16 bits.
    Standard(u32),
    /// Of RFC 8092.
    Large([u32; 3]),
    /// Of RFC 4360: type and value in wire order.
    Extended([u8; 8]),
}

/// Attribute changes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Modify {
    /// Prepend this AS so many times (after, that is before, our own on eBGP).
    pub prepend: Option<(u32, u8)>,
    /// Our address of the session becomes the next hop.
    pub next_hop_self: bool,
    /// Communities to add.
    pub communities: Vec<Community>,
    /// Communities to take away.
    pub remove_communities: Vec<Community>,
    /// MULTI_EXIT_DISC to set.
    pub med: Option<u32>,
    /// LOCAL_PREF to set; has no effect on export to external neighbours.
    pub local_pref: Option<u32>,
}

/// An originated prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Network {
    /// Next hop, of the prefix's family.
    pub next_hop: IpAddr,
}

/// Which families a session carries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Families {
    /// IPv4 unicast.
    pub v4: bool,
    /// IPv6 unicast.
    pub v6: bool,
}

impl Families {
    /// Both.
    pub const ALL: Families = Families { v4: true, v6: true };

    /// Whether a family is one of them.
    pub const fn has(self, family: Family) -> bool {
        match family {
            Family::V4 => self.v4,
            Family::V6 => self.v6,
        }
    }

    /// Those that both have.
    #[must_use]
    pub const fn and(self, other: Families) -> Families {
        Families { v4: self.v4 && other.v4, v6: self.v6 && other.v6 }
    }
}

/// How far the other side may be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Distance {
    /// External neighbours are on the link (TTL 1), internal ones anywhere.
    #[default]
    Default,
    /// TTL of our packets, for external neighbours too.
    Multihop(u8),
    /// Generalized TTL security (RFC 5082): our packets leave with TTL 255, theirs must have crossed fewer than so many
    /// hops. 1: on the link.
    Security(u8),
}

/// Bound on what a neighbour may send (RFC 4486 section 4, subcode 1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MaxPrefixes {
    /// Prefixes of each family that are still accepted.
    pub limit: u32,
    /// An event tells when so many percent of the limit are reached.
    pub warn_percent: u8,
    /// Seconds until a session that went over the limit may come again; `None`: when it is reset by hand.
    pub restart_s: Option<u32>,
}

/// ADD-PATH (RFC 7911).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AddPath {
    /// Ask for several paths.
    pub receive: bool,
    /// Offer to send so many paths of each prefix; 0: only the best one, without identifiers.
    pub send: u8,
}

/// Graceful restart (RFC 4724, 8538, 9494).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GracefulRestart {
    /// Seconds that the other side shall wait for our return; at most 4095.
    pub time_s: u16,
    /// Seconds after a restart in which we wait for the End-of-RIB of neighbours before we send ours.
    pub defer_s: u32,
    /// Long-lived (RFC 9494): seconds that stale routes are kept beyond that, as last resort; 0: not.
    pub long_lived_s: u32,
}

/// What configured and dynamic neighbours have in common.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    /// Hold time offered, in seconds; 0 or 3 and more.
    pub hold_s: u16,
    /// Families offered.
    pub families: Families,
    /// Distance.
    pub distance: Distance,
    /// The AS number we show instead of our own (local-AS override).
    pub local_as: Option<u32>,
    /// How often our own AS may occur in a path that is accepted.
    pub allow_own_as: u8,
    /// Bound on received prefixes.
    pub max_prefixes: Option<MaxPrefixes>,
    /// ADD-PATH.
    pub add_path: AddPath,
    /// IPv4 prefixes may have IPv6 next hops (RFC 8950).
    pub extended_next_hop: bool,
    /// Graceful restart.
    pub graceful_restart: Option<GracefulRestart>,
    /// We reflect routes to this internal neighbour (RFC 4456).
    pub reflector_client: bool,
    /// Fast failure detection; the session ends when it says so.
    pub bfd: Option<Bfd>,
}

impl Session {
    /// A session without anything special.
    pub const fn new(hold_s: u16, families: Families) -> Self {
        Self {
            hold_s,
            families,
            distance: Distance::Default,
            local_as: None,
            allow_own_as: 0,
            max_prefixes: None,
            add_path: AddPath { receive: false, send: 0 },
            extended_next_hop: false,
            graceful_restart: None,
            reflector_client: false,
            bfd: None,
        }
    }
}

/// Bidirectional Forwarding Detection with a neighbour (RFC 5880, 5881, 5883).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bfd {
    /// UDP port of the other side.
    pub port: u16,
    /// Milliseconds between our packets, if the other side can take them.
    pub desired_min_tx_ms: u32,
    /// Milliseconds between packets that we can take.
    pub required_min_rx_ms: u32,
    /// Packets that may be lost in a row; 1 and more.
    pub multiplier: u8,
}

/// A range of neighbours that connect to us.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dynamic {
    /// Autonomous systems accepted; others get NOTIFICATION 2/2 (Bad Peer AS). Empty: any.
    pub asns: Vec<u32>,
    /// The session.
    pub session: Session,
}

/// A configured neighbour.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Autonomous system expected; 0: any, as kube-router has it between nodes.
    pub asn: u32,
    /// TCP port we dial.
    pub port: u16,
    /// Our address of the session.
    pub local: Option<IpAddr>,
    /// TCP MD5 password (RFC 2385).
    pub password: Option<String>,
    /// We do not dial.
    pub passive: bool,
    /// The session.
    pub session: Session,
}

impl Peer {
    /// A neighbour on the standard port, without anything special.
    pub const fn new(asn: u32, session: Session) -> Self {
        Self { asn, port: 179, local: None, password: None, passive: false, session }
    }
}
