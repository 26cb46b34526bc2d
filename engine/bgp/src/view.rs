//! What an operator sees: neighbours and routes as plain data.

use alloc::string::String;
use alloc::vec::Vec;
use core::net::{IpAddr, Ipv4Addr};

use ipnet::IpNet;

use crate::Time;
use crate::wire::Origin;

/// The session states of RFC 4271 section 8.2.2.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SessionState {
    /// Not trying.
    Idle,
    /// Dialing.
    Connect,
    /// Waiting: for the next dial, or to be dialed.
    Active,
    /// OPEN sent, theirs not received.
    OpenSent,
    /// OPEN received, waiting for KEEPALIVE.
    OpenConfirm,
    /// Routes are exchanged.
    Established,
}

impl SessionState {
    /// The RFC's name.
    pub const fn as_str(self) -> &'static str {
        match self {
            SessionState::Idle => "Idle",
            SessionState::Connect => "Connect",
            SessionState::Active => "Active",
            SessionState::OpenSent => "OpenSent",
            SessionState::OpenConfirm => "OpenConfirm",
            SessionState::Established => "Established",
        }
    }
}

/// One neighbour.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NeighborView {
    /// Address.
    pub address: IpAddr,
    /// Autonomous system: what it said, or what is configured; 0 for a dynamic neighbour that has not said yet.
    pub asn: u32,
    /// State of its furthest connection.
    pub state: SessionState,
    /// When the session last came up or went down.
    pub since: Option<Time>,
    /// Prefixes received (Adj-RIB-In, before policy).
    pub received: usize,
    /// Prefixes that import policy and loop checks let into the Loc-RIB.
    pub accepted: usize,
    /// Prefixes advertised (Adj-RIB-Out).
    pub advertised: usize,
    /// Hold time in seconds: negotiated while the session is up, else the one we offer.
    pub hold_s: u16,
    /// Its BGP identifier, while the session is up.
    pub router_id: Option<Ipv4Addr>,
    /// Created by its connecting from a configured range.
    pub dynamic: bool,
    /// Why the last attempt or session ended.
    pub last_error: Option<String>,
}

/// One path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RibPath {
    /// Destination.
    pub prefix: IpNet,
    /// Next hop.
    pub next_hop: IpAddr,
    /// AS numbers in order, sets flattened.
    pub as_path: Vec<u32>,
    /// ORIGIN
    pub origin: Origin,
    /// LOCAL_PREF, if the path has one.
    pub local_pref: Option<u32>,
    /// MULTI_EXIT_DISC, if the path has one.
    pub med: Option<u32>,
    /// COMMUNITIES
    pub communities: Vec<u32>,
    /// Which neighbour it comes from; `None`: our own.
    pub from: Option<IpAddr>,
    /// The best path.
    pub best: bool,
    /// In use: the best path, and those equal to it up to the limit.
    pub multipath: bool,
    /// When this path arrived or last changed.
    pub since: Time,
}
