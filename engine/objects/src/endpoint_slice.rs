use alloc::sync::Arc;
use alloc::vec::Vec;
use core::net::IpAddr;

use crate::{ObjectName, Protocol};

/// One entry of `ports`. An entry without a number (all ports) is left out by the decoder, with a notice.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct EndpointPort {
    /// `name`; matches the service port's name.
    pub name: Arc<str>,
    /// `protocol`
    pub protocol: Protocol,
    /// `port`
    pub port: u16,
}

/// One entry of `endpoints`, conditions by the API contract: absent `ready` means true, absent `serving` means
/// `ready`, absent `terminating` means false.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Endpoint {
    /// The first of `addresses`; the API says only this one is significant.
    pub address: IpAddr,
    /// `conditions.ready`
    pub ready: bool,
    /// `conditions.serving`
    pub serving: bool,
    /// `conditions.terminating`
    pub terminating: bool,
    /// `nodeName`
    pub node: Option<Arc<str>>,
}

/// `discovery.k8s.io/v1/EndpointSlice` of address type IPv4 or IPv6.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct EndpointSlice {
    /// Name of the slice.
    pub name: ObjectName,
    /// Name of the service (same namespace), from the label `kubernetes.io/service-name`. Slices without it are
    /// invalid.
    pub service: Arc<str>,
    /// `ports`
    pub ports: Vec<EndpointPort>,
    /// `endpoints`
    pub endpoints: Vec<Endpoint>,
}
