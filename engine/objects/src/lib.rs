//! What Kubernetes says, as lean, checked types.
//!
//! One type per watched kind with only the fields the node reads, the [`Delta`] vocabulary in which a
//! watch reports changes, the node's own configuration ([`NodeConfig`]), and the [`Notice`] with which
//! everything questionable in an object is reported.
//!
//! Deliberately not here: parsing (see `fairway-decode`), defaults that depend on flags (see
//! `fairway-compute`), and any behaviour beyond look-ups. Start reading at [`Delta`].
#![no_std]
extern crate alloc;

mod config;
mod delta;
mod endpoint_slice;
mod key;
mod node;
mod notice;
mod pod;
mod service;

pub use config::{
    BfdConfig, BgpPeer, BgpPeerRange, GracefulRestart, LoadBalancerConfig, NodeConfig, Overlay, PeerOptions, Role,
    RouterConfig, RouterIdSource, RouterPeer, RouterSessions,
};
pub use delta::{Delta, Object};
pub use endpoint_slice::{Endpoint, EndpointPort, EndpointSlice};
pub use key::{Kind, ObjectKey, ObjectName};
pub use node::{Namespace, Node, Reflector};
pub use notice::{Notice, NoticeChange, Subject};
pub use pod::Pod;
pub use service::{
    Advertise, FamilyPolicy, LoadBalancerWish, Protocol, Scheduler, Service, ServicePort, ServiceType, TrafficPolicy,
};
