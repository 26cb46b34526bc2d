use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::net::IpAddr;

use ipnet::IpNet;

use crate::{PlaneId, RouteKey};

/// An interface, as far as routing depends on it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Interface {
    /// `IFF_UP`: an administrator wants it.
    pub up: bool,
    /// `IFF_LOWER_UP`: there is something at the other end.
    pub carrier: bool,
    /// Largest packet, octets; 0: not known.
    pub mtu: u32,
    /// The host's own addresses on it, sorted.
    pub addresses: Vec<IpAddr>,
    /// Prefixes whose hosts are on the link, sorted, host bits cleared.
    pub on_link: Vec<IpNet>,
}

/// What a kernel says without being asked.
///
/// `kube-dummy-if` is no [`Interface`] here: nothing is reached through it, and what is on it is ours (planes
/// [`crate::Link`] and [`crate::Addr`]).
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum KernelEvent {
    /// All interfaces that have an address: at the start, and after events were lost.
    Interfaces(BTreeMap<Arc<str>, Interface>),
    /// One of them is like this now; `None`: it is gone, or is up and has no address any more.
    Interface(Arc<str>, Option<Interface>),
    /// Somebody else changed or removed what is ours in a plane.
    Changed(PlaneId),
    /// Somebody else's route of this key came or went.
    Foreign(RouteKey),
}
