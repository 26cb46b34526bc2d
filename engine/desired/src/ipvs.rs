//! Virtual servers of the kernel's IP Virtual Server (`include/uapi/linux/ip_vs.h`).

use core::net::IpAddr;

use crate::{Family, Plane, PlaneId, Protocol};

/// Virtual servers and their real servers. The whole IPVS table is ours, except `--excluded-cidrs`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Ipvs;

impl Plane for Ipvs {
    const ID: PlaneId = PlaneId::Ipvs;
    type Key = Key;
    type Value = Value;
}

/// A virtual server (`real` is `None`) or one of its real servers; a virtual server comes before its real servers.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Key {
    /// Which virtual server.
    pub server: VirtualServerKey,
    /// Which of its real servers.
    pub real: Option<RealServerKey>,
}

/// What identifies a virtual server.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum VirtualServerKey {
    /// By address; the address comes first in the order.
    Address {
        /// Virtual IP.
        address: IpAddr,
        /// Port.
        port: u16,
        /// Protocol.
        protocol: Protocol,
    },
    /// By firewall mark.
    Mark {
        /// Family of the packets.
        family: Family,
        /// The mark, not 0.
        mark: u32,
    },
}

/// What identifies a real server inside its virtual server.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct RealServerKey {
    /// Address.
    pub address: IpAddr,
    /// Port.
    pub port: u16,
}

/// The value belonging to a [`Key`]: `Server` without, `Real` with a real server key.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum Value {
    /// Of a virtual server.
    Server(VirtualServer),
    /// Of a real server.
    Real(RealServer),
}

/// How a virtual server distributes connections.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct VirtualServer {
    /// Scheduler.
    pub scheduler: Scheduler,
    /// `IP_VS_SVC_F_SCHED1`: `sh-fallback`, `mh-fallback`.
    pub fallback: bool,
    /// `IP_VS_SVC_F_SCHED2`: `sh-port`, `mh-port`.
    pub hash_port: bool,
    /// Persistence timeout in seconds: a client (whole address) keeps its real server for so long.
    pub persistence_s: Option<u32>,
}

/// The scheduler's kernel name is its lower-case variant name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum Scheduler {
    /// Round robin
    Rr,
    /// Weighted round robin
    Wrr,
    /// Least connection
    Lc,
    /// Weighted least connection
    Wlc,
    /// Destination hashing
    Dh,
    /// Source hashing
    Sh,
    /// Maglev hashing
    Mh,
}

/// How a real server is used.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct RealServer {
    /// Weight; 0 takes no new connections.
    pub weight: u32,
    /// Forwarding method.
    pub forwarding: Forwarding,
}

/// `IP_VS_CONN_F_FWD_MASK`
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum Forwarding {
    /// Masquerade: destination address and port are rewritten, replies come back through this host.
    Masquerade,
    /// Tunnel: the packet is wrapped in IPIP to the real server, which answers the client itself.
    Tunnel,
}

/// The timeouts of all connections, as keys of the plane [`crate::Sysctl`] that are no files: established TCP, TCP after
/// a FIN, UDP. In seconds, from 1 (`ipvsadm --set`).
pub const TIMEOUTS: [&str; 3] = ["ipvs/timeout-tcp", "ipvs/timeout-tcpfin", "ipvs/timeout-udp"];
