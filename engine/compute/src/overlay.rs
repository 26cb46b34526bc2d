//! The overlay: tunnels between nodes, for pods whose nodes are in other subnets.
//!
//! The network between nodes does not know where pods are. A learned route whose next hop is a node in another subnet
//! (with `--overlay-type=full` every node) therefore leads into a tunnel to that node. There is one for each such next
//! hop, made when the first prefix behind it is learned and taken away with the last. What pods send to other nodes
//! themselves takes the same way, by a table of its own, as the answers come back that way.
//!
//! Only addresses of nodes are ends of tunnels: a router of the fabric does not unwrap what it is sent, so routes
//! learned from it are as without an overlay.

use alloc::format;
use alloc::vec;
use alloc::vec::Vec;
use core::net::IpAddr;

use fairway_desired::{
    Family, LinkKind, LinkValue, NextHop, OVERLAY_TABLE, PROTO_KUBE_ROUTER, RouteKey, RouteKind, RouteValue, RuleKey,
    RuleValue, Tunnel, receive_port,
};
use fairway_objects::{NodeConfig, Notice, Overlay, Subject};
use ipnet::IpNet;

use crate::links::Way;
use crate::state::{State, host_prefix};
use crate::unit::Claims;

/// Priority of the rules for what pods send, one of those that are kube-router's.
const PRIORITY: u32 = 32765;

/// The overlay, if this configuration has one.
fn in_use(config: &NodeConfig) -> Option<Overlay> {
    let node = matches!(config.role, fairway_objects::Role::Node);
    config.overlay.filter(|_| node && config.run_router)
}

/// How a next hop is reached.
pub(crate) fn way(state: &State, hop: IpAddr) -> Way {
    Way { reached: state.links.reaches(hop), tunnel: tunnel(state, hop) }
}

fn tunnel(state: &State, hop: IpAddr) -> Option<Tunnel> {
    let overlay = in_use(&state.config)?;
    let local = state.node_ip(Family::of(hop))?;
    let wanted = state.others.contains_key(&hop) && (overlay.full || !state.links.near(hop));
    let own = state.links.has(hop) == Some(true);
    let link_local = matches!(hop, IpAddr::V6(ip) if ip.is_unicast_link_local());
    let tunnel = Tunnel { local, remote: hop, port: overlay.port };
    (wanted && !own && !link_local && tunnel.is_possible()).then_some(tunnel)
}

/// What the overlay has whatever is learned: the rule for each pod CIDR of this node, the ports of its tunnels.
pub(crate) fn render(state: &State, claims: &mut Claims) {
    let (Some(overlay), Some(own)) = (in_use(&state.config), state.own()) else { return };
    for family in state.families().filter(|family| state.node_ip(*family).is_some()) {
        if let Some(port) = overlay.port {
            claims.link.extend([receive_port(family, port)]);
        }
        for cidr in own.pod_cidrs.iter().filter(|cidr| Family::of(cidr.addr()) == family) {
            let key = RuleKey { family, priority: PRIORITY, from: Some(cidr.trunc()), to: None, mark: None };
            claims.rule.insert(key, RuleValue { table: OVERLAY_TABLE });
        }
    }
}

/// The tunnel to a next hop, and the way there for pods.
pub(crate) fn render_tunnel(state: &State, hop: IpAddr) -> Claims {
    let mut claims = Claims::default();
    let name = Tunnel::name(hop);
    match state.hops.tunnel(hop) {
        None => {}
        Some(Err(other)) => {
            claims.notices.insert(Notice {
                subject: Subject::Kernel(format!("link {name}")),
                field: "".into(),
                reason: format!("the tunnel to {hop} would have the name of that to {other}; none is made"),
            });
        }
        Some(Ok(tunnel)) => {
            let key = RouteKey { prefix: host_prefix(hop), table: OVERLAY_TABLE, metric: 0 };
            let value = RouteValue {
                kind: RouteKind::Unicast,
                protocol: PROTO_KUBE_ROUTER,
                src: None,
                next_hops: vec![NextHop { via: None, dev: Some(name.clone()), weight: 1 }],
            };
            claims.route.insert(key, value);
            claims.link.insert(name, LinkValue { kind: LinkKind::Tunnel(tunnel), up: true, mtu: None });
        }
    }
    claims
}

/// The next hop of a learned prefix through a tunnel, and the source address of what this node sends there itself: the
/// tunnel has no address, and the kernel would take that of any interface.
pub(crate) fn next_hop(state: &State, prefix: IpNet, next_hops: &[IpAddr]) -> Option<(NextHop, Option<IpAddr>)> {
    let family = Family::of(prefix.addr());
    // `ipip` carries no IPv6.
    let carries = |hop: &&IpAddr| hop.is_ipv6() || family == Family::V4;
    let tunnelled = next_hops.iter().filter(carries).filter(|hop| matches!(state.hops.tunnel(**hop), Some(Ok(_))));
    let dev = Tunnel::name(*tunnelled.min()?);
    Some((NextHop { via: None, dev: Some(dev), weight: 1 }, state.node_ip(family)))
}

/// Whether each end of our tunnels is an address of this host.
pub(crate) type Ends = Vec<(IpAddr, Option<bool>)>;

/// The ends of our tunnels now.
pub(crate) fn ends(state: &State) -> Ends {
    let ips = state.families().filter_map(|family| state.node_ip(family));
    ips.map(|ip| (ip, state.links.has(ip))).collect()
}

/// The prefixes behind tunnels whose source address came or went since.
pub(crate) fn sourced(state: &State, before: &Ends) -> Vec<IpNet> {
    let now = ends(state);
    let changed = |family: Family| now.iter().any(|end| Family::of(end.0) == family && !before.contains(end));
    let mut prefixes = Vec::new();
    for family in [Family::V4, Family::V6].into_iter().filter(|family| changed(*family)) {
        let behind = state.hops.tunnelled().flat_map(|hop| state.hops.behind(hop));
        prefixes.extend(behind.filter(|prefix| Family::of(prefix.addr()) == family));
    }
    prefixes
}
