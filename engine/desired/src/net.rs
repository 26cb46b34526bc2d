use alloc::sync::Arc;

use ipnet::IpNet;

use crate::{Family, Plane, PlaneId, Tunnel};

/// Kernel parameters. Key: path below `/proc/sys` with slashes (`net/ipv4/vs/conntrack`). Value: the number written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Sysctl;

impl Plane for Sysctl {
    const ID: PlaneId = PlaneId::Sysctl;
    const SWEEP: bool = false;
    type Key = Arc<str>;
    type Value = i64;
}

/// Network interfaces that we make. Key: interface name.
///
/// Ours are the interfaces that kube-router names: `kube-dummy-if`, and `kube-bridge` of the pods, which is adopted if it
/// is there and never replaced; tunnels to other nodes ([`Tunnel::is_ours`]), and the UDP ports on which packets of tunnels
/// arrive ([`crate::receive_port`]). The order of names is that of dependency: what stands before a tunnel is the port.
///
/// Two IPv6 addresses may lead to one name of a tunnel, once in a million million pairs. Then the lower address has it,
/// and nothing is sent to the other one through a tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Link;

impl Plane for Link {
    const ID: PlaneId = PlaneId::Link;
    type Key = Arc<str>;
    type Value = LinkValue;
}

/// What an interface is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct LinkValue {
    /// Its type.
    pub kind: LinkKind,
    /// `IFF_UP`
    pub up: bool,
    /// Largest packet, octets. `None`: the kernel's choice, or somebody else's.
    pub mtu: Option<u32>,
}

/// `IFLA_INFO_KIND`
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum LinkKind {
    /// `dummy`: carries addresses, swallows packets.
    Dummy,
    /// `bridge`
    Bridge,
    /// `ipip` or `ip6tnl`: leads to one other node.
    Tunnel(Tunnel),
    /// No interface: a UDP port that takes packets out of UDP and GUE (`ip fou add … gue`).
    ReceivePort {
        /// Of every address of this family.
        family: Family,
        /// UDP port.
        port: u16,
    },
}

/// Addresses on our interfaces. Ours are all on `kube-dummy-if` except `fe80::/10`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Addr;

impl Plane for Addr {
    const ID: PlaneId = PlaneId::Addr;
    type Key = AddrKey;
    type Value = AddrValue;
}

/// An address on an interface. The address comes first in the order.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct AddrKey {
    /// Address and prefix length, host bits kept.
    pub address: IpNet,
    /// Interface name.
    pub link: Arc<str>,
}

/// An address has nothing that we set but its existence (scope link, as kube-router does).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct AddrValue;
