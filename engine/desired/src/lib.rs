//! What a node should have: planes, keys, values, [`Op`] and the [`Backend`] trait.
//!
//! This crate is the narrow waist between thinking (`engine/`) and touching (`backends/`, `sim/kernel`): plain
//! data with public fields, order and equality, no behaviour. A *plane* is one kind of kernel state seen as a
//! keyed table. The order of a plane's keys is the dependency order inside it: puts are applied ascending,
//! deletes descending. Planes have a rank ([`PlaneId`]'s order): built up in that order, torn down in reverse.
//!
//! Deliberately not here: computing desired state (`fairway-compute`), comparing it with actual state
//! (`fairway-reconcile`), and kernel encodings (`backends/`). Start reading at [`Plane`].
#![no_std]
extern crate alloc;

pub mod bgp;
mod event;
mod file;
pub mod filter;
pub mod ipvs;
mod net;
mod plane;
mod pod;
mod route;
mod tunnel;

pub use bgp::Bgp;
pub use event::{Interface, KernelEvent};
pub use file::{File, FileValue, file_errno};
pub use filter::Filter;
pub use ipvs::Ipvs;
pub use net::{Addr, AddrKey, AddrValue, Link, LinkKind, LinkValue, Sysctl};
pub use plane::{Backend, Fault, Op, Outcome, Plane, PlaneId, Table};
pub use pod::{Pod, PodKey, PodValue};
pub use route::{
    LOCAL_TABLE, Learned, MAIN_TABLE, NextHop, PROTO_KERNEL, PROTO_KUBE_ROUTER, Route, RouteKey, RouteKind, RouteValue,
    Rule, RuleKey, RuleValue,
};
pub use tunnel::{OVERLAY_TABLE, Tunnel, receive_port};

/// Address family, as in the kernel's `AF_INET` and `AF_INET6`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum Family {
    /// IPv4
    V4,
    /// IPv6
    V6,
}

impl Family {
    /// The family of an address.
    pub const fn of(address: core::net::IpAddr) -> Self {
        match address {
            core::net::IpAddr::V4(_) => Family::V4,
            core::net::IpAddr::V6(_) => Family::V6,
        }
    }
}

/// Transport protocol, ordered by IANA number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum Protocol {
    /// TCP, 6
    Tcp,
    /// UDP, 17
    Udp,
    /// SCTP, 132
    Sctp,
}
