//! The pod network of this node: the bridge of its pods, and what in the CNI configuration is ours.
//!
//! The bridge is kept as long as CNI is, whatever the Node object says: pods hang on it. With `--enable-cni=false` it is
//! not ours any more and stays, for the same reason.

use alloc::format;
use alloc::vec::Vec;
use core::net::IpAddr;

use fairway_desired::{FileValue, LinkKind, LinkValue};
use fairway_objects::{Kind, NodeConfig, Notice, ObjectKey, ObjectName, Overlay, Subject};
use ipnet::IpNet;

use crate::state::State;
use crate::unit::Claims;

/// The bridge of the pods, named as kube-router's CNI configuration does.
pub const BRIDGE: &str = "kube-bridge";
/// Header lengths: IPv4, IPv6, UDP and GUE (without options).
const IPV4: u32 = 20;
const IPV6: u32 = 40;
const UDP: u32 = 8;
const GUE: u32 = 4;
/// What Linux takes as MTU of a bridge at least (`ETH_MIN_MTU`).
const SMALLEST: u32 = 68;

/// By how many octets the tunnels of the overlay shorten what fits into a packet between nodes whose addresses are of
/// one family. 0 without the overlay.
pub fn overlay_overhead(config: &NodeConfig, ipv6: bool) -> u32 {
    let outer = if ipv6 { IPV6 } else { IPV4 };
    match config.overlay {
        None => 0,
        Some(Overlay { port: None, .. }) => outer,
        Some(Overlay { port: Some(_), .. }) => outer + UDP + GUE,
    }
}

/// The prefixes that are inside no other one, each once, in their order. Of two prefixes one holds the other or they are
/// disjoint, so these cover the same addresses.
pub(crate) fn outermost(all: &[IpNet]) -> Vec<IpNet> {
    let mut found: Vec<IpNet> = Vec::new();
    for net in all.iter().map(IpNet::trunc) {
        let inside = all.iter().map(IpNet::trunc).any(|other| other != net && other.contains(&net));
        if !inside && !found.contains(&net) {
            found.push(net);
        }
    }
    found
}

/// Whether the bridge and the CNI configuration are ours.
fn ours(config: &NodeConfig) -> bool {
    config.run_router && config.enable_cni
}

fn notice(state: &State, field: &str, reason: alloc::string::String) -> Notice {
    let name = ObjectName::cluster(&state.config.node_name);
    Notice { subject: Subject::Object(ObjectKey { kind: Kind::Node, name }), field: field.into(), reason }
}

pub(crate) fn render(state: &State) -> Claims {
    let mut claims = Claims::default();
    let config = &state.config;
    if state.is_router() || !ours(config) {
        return claims;
    }
    let mtu = mtu(state, &mut claims);
    claims.link.insert(BRIDGE.into(), LinkValue { kind: LinkKind::Bridge, up: true, mtu });
    let (Some(path), Some(node)) = (&config.cni_file, state.own()) else { return claims };
    let enabled = |net: &IpNet| state.families().any(|family| family == fairway_desired::Family::of(net.addr()));
    let ranges: Vec<IpNet> = outermost(&node.pod_cidrs).into_iter().filter(enabled).collect();
    if ranges.is_empty() {
        // The configuration of an earlier CIDR is still better than none.
        claims.notices.insert(notice(
            state,
            "spec.podCIDRs",
            format!("no pod CIDR of an enabled family; {path} is left as it is"),
        ));
        return claims;
    }
    claims.file.insert(path.clone(), FileValue { ranges, mtu });
    claims
}

/// What fits into a packet of a pod: that of the interface with the node's primary address, less the overlay's header.
fn mtu(state: &State, claims: &mut Claims) -> Option<u32> {
    if !state.config.auto_mtu {
        return None;
    }
    let address = state.own()?.primary_ip()?;
    match state.links.mtu(address)? {
        Some(mtu) => Some(mtu.saturating_sub(overlay_overhead(&state.config, address.is_ipv6())).max(SMALLEST)),
        None => {
            claims.notices.insert(notice(
                state,
                "status.addresses",
                format!("the primary address {address} is on no interface; the MTU of pods is left as it is"),
            ));
            None
        }
    }
}

/// What the MTU of pods depends on.
pub(crate) fn basis(state: &State) -> Option<Option<u32>> {
    let address: IpAddr = state.own()?.primary_ip()?;
    state.links.mtu(address)
}
