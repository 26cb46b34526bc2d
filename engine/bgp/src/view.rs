//! What an operator sees: neighbours and routes as plain data.

use alloc::string::String;
use alloc::vec::Vec;
use core::net::{IpAddr, Ipv4Addr};

use fairway_desired::bgp::Families;
use ipnet::IpNet;

use crate::Time;
use crate::wire::{Attributes, Capability};

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
    /// The same for IPv4 and for IPv6.
    pub by_family: [Counts; 2],
    /// Graceful restart is agreed on: seconds for which its routes are kept.
    pub restart_s: Option<u16>,
    /// Hold time in seconds: negotiated while the session is up, else the one we offer.
    pub hold_s: u16,
    /// Its BGP identifier, while the session is up.
    pub router_id: Option<Ipv4Addr>,
    /// Created by its connecting from a configured range.
    pub dynamic: bool,
    /// Why the last attempt or session ended.
    pub last_error: Option<String>,
    /// Turned off by hand.
    pub disabled: bool,
    /// We do not dial.
    pub passive: bool,
    /// TCP port we dial; 0 for a dynamic neighbour.
    pub port: u16,
    /// Our address of the session, while it is up.
    pub local: Option<IpAddr>,
    /// The AS that we show it; `None`: our own.
    pub local_asn: Option<u32>,
    /// Families: negotiated while the session is up, else those we offer.
    pub families: Families,
    /// How many sessions came up.
    pub established: u32,
    /// Capabilities of our OPEN, while the session is up.
    pub ours: Vec<Capability>,
    /// Capabilities of its OPEN, while the session is up.
    pub theirs: Vec<Capability>,
    /// Messages sent on the session.
    pub sent: Messages,
    /// Messages received on the session.
    pub got: Messages,
    /// We reflect routes to it.
    pub client: bool,
    /// Some of its routes are kept although its session ended.
    pub stale: bool,
}

/// Routes of one family of a neighbour.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// In its Adj-RIB-In.
    pub received: usize,
    /// In the Loc-RIB.
    pub accepted: usize,
    /// In its Adj-RIB-Out.
    pub advertised: usize,
}

/// Messages by kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Messages {
    /// OPEN
    pub open: u64,
    /// UPDATE
    pub update: u64,
    /// NOTIFICATION
    pub notification: u64,
    /// KEEPALIVE
    pub keepalive: u64,
    /// ROUTE-REFRESH
    pub refresh: u64,
}

impl Messages {
    /// Counts whole messages.
    pub(crate) fn count(&mut self, mut bytes: &[u8]) {
        while let [_, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, high, low, kind, ..] = bytes {
            match kind {
                1 => self.open += 1,
                2 => self.update += 1,
                3 => self.notification += 1,
                4 => self.keepalive += 1,
                5 => self.refresh += 1,
                _ => {}
            }
            let len = usize::from(u16::from_be_bytes([*high, *low]));
            bytes = bytes.get(len.max(1)..).unwrap_or_default();
        }
    }

    pub(crate) const fn add(&mut self, other: &Messages) {
        self.open += other.open;
        self.update += other.update;
        self.notification += other.notification;
        self.keepalive += other.keepalive;
        self.refresh += other.refresh;
    }

    /// All of them.
    pub const fn total(&self) -> u64 {
        self.open + self.update + self.notification + self.keepalive + self.refresh
    }
}

/// One path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RibPath {
    /// Destination.
    pub prefix: IpNet,
    /// Path identifier (RFC 7911); 0: none.
    pub path_id: u32,
    /// Next hop.
    pub next_hop: IpAddr,
    /// Attributes.
    pub attributes: Attributes,
    /// Which neighbour it comes from; `None`: our own.
    pub from: Option<IpAddr>,
    /// That neighbour's BGP identifier.
    pub router_id: Ipv4Addr,
    /// The best path.
    pub best: bool,
    /// In use: the best path, and those equal to it up to the limit.
    pub multipath: bool,
    /// In an Adj-RIB-In: import let it into the Loc-RIB. Elsewhere always.
    pub accepted: bool,
    /// Kept although its session ended, or not sent again since.
    pub stale: bool,
    /// When this path arrived or last changed.
    pub since: Time,
}

impl RibPath {
    /// AS numbers in order, sets flattened.
    pub fn as_path(&self) -> Vec<u32> {
        self.attributes.as_path.flatten()
    }
}

/// Why the routes of a prefix are what they are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation {
    /// Destination.
    pub prefix: IpNet,
    /// Its paths, best first, then those that import refused; each with what was decided and why.
    pub paths: Vec<(RibPath, String)>,
    /// Whether and as what each neighbour is told of it, and why.
    pub neighbors: Vec<(IpAddr, bool, String)>,
    /// Next hops that the kernel is to use.
    pub next_hops: Vec<IpAddr>,
}
