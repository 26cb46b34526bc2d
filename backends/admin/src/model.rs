//! What both protocol versions show, as plain data. `source.rs` fills it from the speaker, `v4.rs` turns it into
//! messages. A field whose value the speaker does not know stays `None`, 0 or empty.

use std::net::{IpAddr, Ipv4Addr};
use std::time::SystemTime;

use fairway_bgp::{Origin, SessionState};
use fairway_desired::Family;
use ipnet::IpNet;

/// The speaker itself; all zero without configuration.
#[derive(Clone, Debug, Default)]
pub(crate) struct Global {
    pub(crate) asn: u32,
    pub(crate) router_id: Option<Ipv4Addr>,
    pub(crate) port: u16,
    pub(crate) multipath: bool,
}

/// A neighbour.
#[derive(Clone, Debug)]
pub(crate) struct Neighbor {
    pub(crate) address: IpAddr,
    pub(crate) asn: u32,
    pub(crate) local_asn: u32,
    pub(crate) local: Option<IpAddr>,
    /// Port we dial; 0 if we do not.
    pub(crate) port: u16,
    /// It dials, we do not.
    pub(crate) passive: bool,
    pub(crate) multihop_ttl: Option<u8>,
    pub(crate) state: SessionState,
    pub(crate) admin_down: bool,
    /// When the session last came up or went down.
    pub(crate) since: Option<SystemTime>,
    pub(crate) router_id: Option<Ipv4Addr>,
    pub(crate) flaps: u32,
    pub(crate) last_error: Option<String>,
    pub(crate) hold_configured_s: u16,
    /// 0 while the session is down.
    pub(crate) hold_negotiated_s: u16,
    pub(crate) sent: Messages,
    pub(crate) received: Messages,
    pub(crate) families: Vec<FamilyState>,
    /// Graceful restart as we offer it.
    pub(crate) restart: Option<Restart>,
    pub(crate) route_reflector_client: bool,
    pub(crate) cluster_id: Option<Ipv4Addr>,
    pub(crate) our_capabilities: Vec<Capability>,
    pub(crate) their_capabilities: Vec<Capability>,
}

/// Graceful restart of a neighbour.
#[derive(Clone, Debug)]
pub(crate) struct Restart {
    pub(crate) time_s: u32,
    pub(crate) peer_time_s: u32,
    /// Its session is gone and its routes are kept.
    pub(crate) peer_restarting: bool,
}

/// Messages counted by kind.
#[derive(Clone, Debug, Default)]
pub(crate) struct Messages {
    pub(crate) open: u64,
    pub(crate) notification: u64,
    pub(crate) update: u64,
    pub(crate) keepalive: u64,
    pub(crate) refresh: u64,
}

/// One address family of a neighbour.
#[derive(Clone, Debug)]
pub(crate) struct FamilyState {
    pub(crate) family: Family,
    pub(crate) received: u64,
    pub(crate) accepted: u64,
    pub(crate) advertised: u64,
    /// Graceful restart is negotiated.
    pub(crate) restart: bool,
    pub(crate) addpath_receive: bool,
    /// Most paths sent per prefix; 0: ADD-PATH is off in this direction.
    pub(crate) addpath_send: u32,
}

/// A capability of an OPEN.
#[derive(Clone, Debug)]
pub(crate) enum Capability {
    MultiProtocol(Family),
    RouteRefresh,
    FourOctetAs(u32),
    GracefulRestart {
        restarting: bool,
        time_s: u16,
        /// Families, and whether forwarding state was kept.
        families: Vec<(Family, bool)>,
    },
    AddPath(Vec<(Family, AddPath)>),
}

/// Directions of ADD-PATH.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AddPath {
    pub(crate) receive: bool,
    pub(crate) send: bool,
}

/// Which routes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Table {
    Global,
    AdjIn(IpAddr),
    AdjOut(IpAddr),
}

/// A path.
#[derive(Clone, Debug)]
pub(crate) struct Path {
    pub(crate) prefix: IpNet,
    pub(crate) next_hop: IpAddr,
    pub(crate) as_path: Vec<u32>,
    pub(crate) origin: Origin,
    pub(crate) med: Option<u32>,
    pub(crate) local_pref: Option<u32>,
    pub(crate) communities: Vec<u32>,
    pub(crate) ext_communities: Vec<[u8; 8]>,
    pub(crate) large_communities: Vec<[u32; 3]>,
    pub(crate) originator: Option<Ipv4Addr>,
    pub(crate) cluster_list: Vec<Ipv4Addr>,
    pub(crate) best: bool,
    pub(crate) stale: bool,
    pub(crate) since: SystemTime,
    /// `None`: our own.
    pub(crate) from: Option<Sender>,
    /// ADD-PATH identifier it was received with.
    pub(crate) received_id: u32,
    /// ADD-PATH identifier it was sent with.
    pub(crate) sent_id: u32,
}

/// Who sent a path.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sender {
    pub(crate) address: IpAddr,
    pub(crate) asn: u32,
    pub(crate) router_id: Option<Ipv4Addr>,
    pub(crate) external: bool,
}

/// How many.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counts {
    pub(crate) destinations: u64,
    pub(crate) paths: u64,
    /// Of the paths, those that import policy let in; only of Adj-RIB-In.
    pub(crate) accepted: u64,
}

/// Prefixes or neighbours that policies name.
#[derive(Clone, Debug)]
pub(crate) struct DefinedSet {
    pub(crate) name: String,
    pub(crate) members: Members,
}

/// Members of a set.
#[derive(Clone, Debug)]
pub(crate) enum Members {
    /// With shortest and longest length.
    Prefixes(Vec<(IpNet, u8, u8)>),
    Neighbors(Vec<IpNet>),
}

/// Import or export.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    Import,
    Export,
}

/// The policy of a direction, which is also its assignment: there is one per direction.
#[derive(Clone, Debug)]
pub(crate) struct Policy {
    pub(crate) name: &'static str,
    pub(crate) direction: Direction,
    pub(crate) statements: Vec<Statement>,
    pub(crate) default_accept: bool,
}

/// A statement of a policy.
#[derive(Clone, Debug)]
pub(crate) struct Statement {
    pub(crate) name: String,
    pub(crate) prefix_set: Option<String>,
    pub(crate) neighbor_set: Option<String>,
    pub(crate) accept: bool,
    pub(crate) prepend: Option<(u32, u8)>,
    pub(crate) next_hop_self: bool,
    pub(crate) communities: Vec<u32>,
    pub(crate) ext_communities: Vec<[u8; 8]>,
    pub(crate) large_communities: Vec<[u32; 3]>,
}

/// What to do to sessions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reset {
    /// End the session; it comes back.
    Hard,
    /// Import policy over what was received.
    SoftIn,
    /// What was advertised, again.
    SoftOut,
    /// Both.
    SoftBoth,
}
