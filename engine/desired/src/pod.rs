use core::net::IpAddr;

use crate::{Plane, PlaneId};

/// Service addresses inside pods of this node, for direct server return: a pod takes packets from the tunnel and answers
/// the client itself, with the service's address as source.
///
/// Ours are all addresses on the tunnel interface in a pod (`kube-tunnel-if`, `kube-tunnel-v6`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Pod;

impl Plane for Pod {
    const ID: PlaneId = PlaneId::Pod;
    type Key = PodKey;
    type Value = PodValue;
}

/// A service address in a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct PodKey {
    /// The pod, by its own address.
    pub pod: IpAddr,
    /// The service address, of the same family.
    pub address: IpAddr,
}

/// An address in a pod has nothing that we set but its existence; the tunnel that carries it comes with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct PodValue;
