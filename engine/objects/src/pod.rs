use alloc::sync::Arc;
use alloc::vec::Vec;
use core::net::IpAddr;

use crate::ObjectName;

/// `v1/Pod`
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Pod {
    /// Name of the pod.
    pub name: ObjectName,
    /// `spec.nodeName`
    pub node: Option<Arc<str>>,
    /// `status.podIPs`
    pub ips: Vec<IpAddr>,
    /// `spec.hostNetwork`
    pub host_network: bool,
    /// `spec.terminationGracePeriodSeconds`
    pub termination_grace_s: u32,
}
