//! The BGP speaker: identity, peers, policies in kube-router's shape, own networks, learned routes.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec;
use alloc::vec::Vec;
use core::net::{IpAddr, Ipv4Addr};

use fairway_desired::bgp::{
    AddPath, Bfd, Community, Direction, Distance, Dynamic, Families, Global, GracefulRestart, Key, MaxPrefixes, Modify,
    Name, Network, Peer, Policy, Session, Statement, Value,
};
use fairway_desired::{Family, MAIN_TABLE, NextHop, PROTO_KUBE_ROUTER, RouteKey, RouteKind, RouteValue};
use fairway_objects::{
    BfdConfig, BgpPeer, Kind, Node, Notice, ObjectKey, PeerOptions, Reflector, Role, RouterConfig, RouterIdSource,
    RouterSessions, Subject,
};
use ipnet::IpNet;

use crate::overlay;
use crate::state::{State, host_prefix};
use crate::unit::Claims;

/// GoBGP's defaults, which kube-router uses for the mesh between nodes.
const MESH_HOLD_S: u16 = 90;
/// `--cluster-asn` when it is not given.
const DEFAULT_ASN: u32 = 64512;
/// Equal paths a node uses at once.
const NODE_PATHS: u8 = 16;
/// Equal paths a router uses at once: one for each node of a rack or two.
const ROUTER_PATHS: u8 = 64;

/// The name of a defined set in one family: `allpeerset`, `allpeersetv6`.
pub(crate) fn set(name: &str, family: Family) -> Name {
    match family {
        Family::V4 => name.into(),
        Family::V6 => format!("{name}v6").into(),
    }
}

/// Who we are in BGP, or why we cannot be.
pub(crate) fn identity(state: &State) -> Result<Global, (String, String)> {
    let config = &state.config;
    let node = state.own().ok_or_else(|| (String::new(), "this node's object does not exist".to_string()))?;
    let primary =
        node.primary_ip().ok_or_else(|| ("status.addresses".to_string(), "the node has no address".to_string()))?;
    let asn = if config.nodes_full_mesh {
        config.cluster_asn.unwrap_or(DEFAULT_ASN)
    } else {
        node.asn.ok_or_else(|| {
            (
                "metadata.annotations[kube-router.io/node.asn]".to_string(),
                "needed without --nodes-full-mesh; BGP does not run".to_string(),
            )
        })?
    };
    let router_id = match (config.router_id, primary) {
        (RouterIdSource::Fixed(id), _) => id,
        (RouterIdSource::Generate, IpAddr::V4(ip)) => Ipv4Addr::from(fnv1a(&ip.octets())),
        (RouterIdSource::Generate, IpAddr::V6(ip)) => Ipv4Addr::from(fnv1a(&ip.octets())),
        (RouterIdSource::PrimaryIpv4, IpAddr::V4(ip)) => ip,
        (RouterIdSource::PrimaryIpv4, IpAddr::V6(_)) => {
            return Err((
                "status.addresses".to_string(),
                "the primary address is IPv6, so --router-id is needed; BGP does not run".to_string(),
            ));
        }
    };
    let cluster_id = match node.reflector {
        Some(Reflector::Server(id)) => Some(id),
        Some(Reflector::Client(_)) | None => None,
    };
    Ok(Global {
        cluster_id,
        listen: node.bgp_local_addresses.clone(),
        // Who cordons a node is about to take it away: traffic goes elsewhere as long as there is elsewhere.
        graceful_shutdown: node.unschedulable,
        multipath_relax: config.multipath_relax,
        ..Global::new(asn, router_id, config.bgp_port, NODE_PATHS)
    })
}

fn fnv1a(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193))
}

fn families(state: &State, node: &Node) -> Families {
    let has = |family| state.enabled(family) && node.best_ip(family == Family::V6).is_some();
    Families { v4: has(Family::V4), v6: has(Family::V6) }
}

fn neighbor(sets: &[&str], address: IpAddr, claims: &mut Claims) {
    let family = Family::of(address);
    for name in sets {
        claims.bgp.insert(Key::NeighborMember(set(name, family), host_prefix(address)), Value::NeighborMember);
    }
}

/// Speaker, policies, own pod CIDRs and external peers.
pub(crate) fn render(state: &State, claims: &mut Claims) {
    if let Role::Router(router) = &state.config.role {
        render_router(router, state, claims);
        return;
    }
    if !state.config.run_router {
        return;
    }
    let subject = || Subject::Object(ObjectKey::new(Kind::Node, "", &state.config.node_name));
    let global = match identity(state) {
        Ok(global) => global,
        Err((field, reason)) => {
            // That the node's object is missing is said once, for everything.
            if state.own().is_some() {
                claims.notices.insert(Notice { subject: subject(), field, reason });
            }
            return;
        }
    };
    let Some(node) = state.own() else { return };
    let external: Vec<_> = if state.config.peers.is_empty() { &node.peers } else { &state.config.peers }.clone();
    let own: Vec<IpAddr> = node.internal_ips.iter().chain(&node.external_ips).copied().collect();
    for peer in external {
        let family = Family::of(peer.address);
        let wrong = if claims.bgp.contains_key(&Key::Peer(peer.address)) {
            Some("listed twice; the first entry counts".to_string())
        } else if own.contains(&peer.address) {
            Some("this is the node's own address".to_string())
        } else if peer.local.is_some_and(|l| Family::of(l) != family) {
            Some("the local address is of another family".to_string())
        } else if peer.local.is_none() && state.node_ip(family).is_none() {
            Some("the node has no address of this family, or the family is off".to_string())
        } else {
            None
        };
        if let Some(reason) = wrong {
            let field = format!("BGP peer {}", peer.address);
            claims.notices.insert(Notice { subject: subject(), field, reason });
            continue;
        }
        let value = external_peer(state, families(state, node), peer.clone(), family);
        claims.bgp.insert(Key::Peer(peer.address), Value::Peer(value));
        neighbor(&["externalpeerset", "allpeerset"], peer.address, claims);
    }
    ranges(state, node, claims);
    claims.bgp.insert(Key::Global, Value::Global(global));
    for cidr in &node.pod_cidrs {
        let family = Family::of(cidr.addr());
        let Some(next_hop) = state.node_ip(family) else { continue };
        let cidr = cidr.trunc();
        let len = cidr.prefix_len();
        claims.bgp.insert(Key::Network(cidr), Value::Network(Network { next_hop }));
        claims.bgp.insert(
            Key::PrefixMember(set("podcidrdefinedset", family), cidr),
            Value::PrefixMember { min: len, max: len },
        );
    }
    for (family, zero) in
        [(Family::V4, IpAddr::V4(Ipv4Addr::UNSPECIFIED)), (Family::V6, IpAddr::V6(core::net::Ipv6Addr::UNSPECIFIED))]
    {
        claims.bgp.insert(
            Key::PrefixMember(set("defaultroutedefinedset", family), IpNet::new_assert(zero, 0)),
            Value::PrefixMember { min: 0, max: 0 },
        );
    }
    for cidr in &node.import_reject {
        let name = set("customimportrejectdefinedset", Family::of(cidr.addr()));
        let value = Value::PrefixMember { min: cidr.prefix_len(), max: cidr.max_prefix_len() };
        claims.bgp.insert(Key::PrefixMember(name, cidr.trunc()), value);
    }
    policies(state, node, claims);
}

fn graceful_restart(state: &State) -> Option<GracefulRestart> {
    state.config.graceful_restart.map(|gr| GracefulRestart {
        time_s: gr.time_s,
        defer_s: gr.defer_s,
        long_lived_s: gr.long_lived_s,
    })
}

fn bfd(config: BfdConfig) -> Bfd {
    let BfdConfig { port, desired_min_tx_ms, required_min_rx_ms, multiplier } = config;
    Bfd { port, desired_min_tx_ms, required_min_rx_ms, multiplier }
}

fn external_peer(state: &State, families: Families, peer: BgpPeer, family: Family) -> Peer {
    let session = external_session(state, families, &peer.options, peer.bfd);
    Peer {
        asn: peer.asn,
        port: peer.port,
        local: peer.local.or(state.node_ip(family)),
        password: peer.password,
        passive: peer.options.passive,
        session,
    }
}

fn external_session(state: &State, families: Families, options: &PeerOptions, config: Option<BfdConfig>) -> Session {
    Session { bfd: config.map(bfd), ..session(state, families, options, state.config.bgp_hold_s) }
}

/// The neighbours of an annotation that connect from ranges of addresses. They are external to the policies.
fn ranges(state: &State, node: &Node, claims: &mut Claims) {
    for item in node.peer_ranges.iter().filter(|_| state.config.peers.is_empty()) {
        let key = Key::Dynamic(item.range);
        if claims.bgp.contains_key(&key) {
            claims.notices.insert(Notice {
                subject: Subject::Object(ObjectKey::new(Kind::Node, "", &state.config.node_name)),
                field: format!("BGP peers {}", item.range),
                reason: "listed twice; the first entry counts".into(),
            });
            continue;
        }
        let session = external_session(state, families(state, node), &item.options, item.bfd);
        claims.bgp.insert(key, Value::Dynamic(Dynamic { asns: vec![item.asn], session }));
        for name in ["externalpeerset", "allpeerset"] {
            let set = set(name, Family::of(item.range.addr()));
            claims.bgp.insert(Key::NeighborMember(set, item.range), Value::NeighborMember);
        }
    }
}

/// A session with what is said of it, and the flags' defaults for the rest.
fn session(state: &State, families: Families, options: &PeerOptions, hold_s: u16) -> Session {
    let multihop = options.multihop_ttl.or(Some(state.config.multihop_ttl).filter(|ttl| *ttl >= 2));
    Session {
        distance: match (options.ttl_security, multihop) {
            (Some(hops), _) => Distance::Security(hops),
            (None, Some(ttl)) => Distance::Multihop(ttl),
            (None, None) => Distance::Default,
        },
        local_as: options.local_as,
        allow_own_as: options.allow_own_as,
        max_prefixes: options.max_prefixes.map(|limit| MaxPrefixes {
            limit,
            warn_percent: WARN_PERCENT,
            restart_s: options.max_prefixes_restart_s,
        }),
        add_path: AddPath { receive: options.add_path_receive, send: options.add_path_send },
        extended_next_hop: options.extended_next_hop,
        graceful_restart: graceful_restart(state),
        ..Session::new(options.hold_s.unwrap_or(hold_s), families)
    }
}

/// An event tells when so many percent of `maxprefixes` are reached.
const WARN_PERCENT: u8 = 80;

const FAMILIES: [Family; 2] = [Family::V4, Family::V6];

/// kube-router's policies. An empty set matches nothing here, so every combination can stand at all times.
fn policies(state: &State, node: &Node, claims: &mut Claims) {
    let statement = |prefixes: &Name, neighbors: &Name, accept: bool, modify: Modify| Statement {
        name: format!("{prefixes}{neighbors}").into(),
        prefix_set: Some(prefixes.clone()),
        neighbor_set: Some(neighbors.clone()),
        accept,
        modify,
        ..Statement::default()
    };
    let kept_from_nodes = |n: Family| {
        FAMILIES.map(|p| statement(&set("servicevipsdefinedset", p), &set("iBGPpeerset", n), false, Modify::default()))
    };
    let mut export = vec![];
    // A range of external neighbours may have other nodes inside.
    if !node.peer_ranges.is_empty() {
        export.extend(FAMILIES.into_iter().flat_map(kept_from_nodes));
    }
    let mut cross = |prefixes: &str, neighbors: &str, modify: &Modify| {
        for n in FAMILIES {
            for p in FAMILIES {
                export.push(statement(&set(prefixes, p), &set(neighbors, n), true, modify.clone()));
            }
        }
    };
    if state.config.enable_ibgp {
        cross("podcidrdefinedset", "iBGPpeerset", &Modify::default());
    }
    let communities = node.communities.iter().map(|c| Community::Standard(*c));
    let large = node.large_communities.iter().map(|c| Community::Large(*c));
    let extended = node.ext_communities.iter().map(|c| Community::Extended(*c));
    let modify = Modify {
        prepend: node.path_prepend,
        next_hop_self: state.config.override_next_hop,
        communities: communities.chain(large).chain(extended).collect(),
        ..Modify::default()
    };
    cross("servicevipsdefinedset", "externalpeerset", &modify);
    if state.config.advertise_pod_cidr {
        cross("podcidrdefinedset", "externalpeerset", &modify);
    }
    // A reflector passes on what others sent it. Own service addresses are for external peers, here as everywhere.
    if state.config.enable_ibgp && matches!(node.reflector, Some(Reflector::Server(_))) {
        for n in FAMILIES {
            if node.peer_ranges.is_empty() {
                export.extend(kept_from_nodes(n));
            }
            let neighbors = set("iBGPpeerset", n);
            export.push(Statement {
                name: format!("reflect{neighbors}").into(),
                neighbor_set: Some(neighbors),
                accept: true,
                ..Statement::default()
            });
        }
    }
    let export = Policy { statements: export, default_accept: false };
    claims.bgp.insert(Key::Policy(Direction::Export), Value::Policy(export));
    let mut import = vec![];
    for neighbors in FAMILIES {
        for prefixes in ["servicevipsdefinedset", "defaultroutedefinedset", "customimportrejectdefinedset"] {
            if prefixes == "defaultroutedefinedset" && state.config.import_default_route {
                continue;
            }
            for p in FAMILIES {
                let (p, n) = (set(prefixes, p), set("allpeerset", neighbors));
                import.push(statement(&p, &n, false, Modify::default()));
            }
        }
    }
    let import = Policy { statements: import, default_accept: true };
    claims.bgp.insert(Key::Policy(Direction::Import), Value::Policy(import));
}

fn render_router(router: &RouterConfig, state: &State, claims: &mut Claims) {
    let global = Global::new(router.asn, router.router_id, state.config.bgp_port, ROUTER_PATHS);
    claims.bgp.insert(Key::Global, Value::Global(global));
    let RouterSessions { ipv4, ipv6, reflector, bfd: watched, options } = &router.sessions;
    let session = |asns: &[u32]| Session {
        bfd: watched.map(bfd),
        reflector_client: *reflector && asns == [router.asn],
        ..session(state, Families { v4: *ipv4, v6: *ipv6 }, options, MESH_HOLD_S)
    };
    for (range, asns) in &router.accept {
        let value = Dynamic { asns: asns.clone(), session: session(asns) };
        claims.bgp.insert(Key::Dynamic(range.trunc()), Value::Dynamic(value));
    }
    for peer in &router.peers {
        let value = Peer {
            password: peer.password.clone(),
            passive: options.passive,
            ..Peer::new(peer.asn, session(&[peer.asn]))
        };
        claims.bgp.insert(Key::Peer(peer.address), Value::Peer(value));
    }
    let reject: Name = "importreject".into();
    for cidr in &router.import_reject {
        let value = Value::PrefixMember { min: cidr.prefix_len(), max: cidr.max_prefix_len() };
        claims.bgp.insert(Key::PrefixMember(reject.clone(), cidr.trunc()), value);
    }
    let statement = Statement { name: reject.clone(), prefix_set: Some(reject), ..Statement::default() };
    let import = Policy { statements: vec![statement], default_accept: true };
    claims.bgp.insert(Key::Policy(Direction::Import), Value::Policy(import));
    let export = Policy { statements: vec![], default_accept: true };
    claims.bgp.insert(Key::Policy(Direction::Export), Value::Policy(export));
    for network in &router.networks {
        let v6 = network.addr().is_ipv6();
        if let Some(next_hop) = router.addresses.iter().find(|a| a.is_ipv6() == v6) {
            claims.bgp.insert(Key::Network(network.trunc()), Value::Network(Network { next_hop: *next_hop }));
        }
    }
}

/// Another node of the mesh.
pub(crate) fn render_node(state: &State, node: &Node) -> Claims {
    let mut claims = Claims::default();
    let config = &state.config;
    if state.is_router() || !config.run_router || node.name.name == config.node_name {
        return claims;
    }
    let Ok(global) = identity(state) else { return claims };
    let (Some(own), Some(address)) = (state.own().and_then(|n| n.primary_ip()), node.primary_ip()) else {
        return claims;
    };
    if !config.enable_ibgp {
        return claims;
    }
    let apart = if own == address {
        Some(format!("{address} is this node's own address, too"))
    } else if Family::of(own) != Family::of(address) {
        Some(format!("{address} is of another family than this node's {own}"))
    } else {
        None
    };
    if let Some(why) = apart {
        claims.notices.insert(Notice {
            subject: Subject::Object(ObjectKey { kind: Kind::Node, name: node.name.clone() }),
            field: "status.addresses".into(),
            reason: format!("{why}; no BGP session with it"),
        });
        return claims;
    }
    // With a mesh every node is known as a neighbour to the policies, whether we peer with it or not.
    neighbor(&["iBGPpeerset", "allpeerset"], address, &mut claims);
    let same_as = config.nodes_full_mesh || node.asn == Some(global.asn);
    let reflector = state.own().and_then(|own| own.reflector);
    // A client has sessions with reflectors only, as kube-router has it; clients of one cluster do not need each other.
    let wanted = match (reflector, node.reflector) {
        (Some(Reflector::Client(_)), other) => matches!(other, Some(Reflector::Server(_))),
        (_, Some(Reflector::Client(_))) => matches!(reflector, Some(Reflector::Server(_))),
        _ => true,
    };
    if same_as && wanted {
        let client = matches!((reflector, node.reflector), (Some(Reflector::Server(_)), Some(Reflector::Client(_))));
        let session = Session {
            reflector_client: client,
            graceful_restart: graceful_restart(state),
            ..Session::new(MESH_HOLD_S, families(state, node))
        };
        let value = Peer { port: config.bgp_port, local: Some(own), ..Peer::new(global.asn, session) };
        claims.bgp.insert(Key::Peer(address), Value::Peer(value));
    }
    claims
}

/// A learned route, on its way into the kernel: through those of its next hops that a link leads to.
pub(crate) fn render_learned(state: &State, prefix: IpNet, next_hops: &[IpAddr]) -> Claims {
    let mut claims = Claims::default();
    let own = state.own().is_some_and(|n| n.pod_cidrs.iter().any(|c| c.trunc() == prefix));
    if own || !state.enabled(Family::of(prefix.addr())) && !state.is_router() {
        return claims;
    }
    let via = |via: &IpAddr| NextHop { via: Some(*via), dev: None, weight: 1 };
    let direct = next_hops.iter().filter(|hop| state.hops.tunnel(**hop).is_none() && state.hops.reached(**hop));
    let mut hops: Vec<NextHop> = direct.map(via).collect();
    hops.sort();
    hops.dedup();
    // A prefix behind a tunnel belongs to one node. Were there several, one is used: IPv6 has no ECMP over interfaces.
    let mut src = None;
    if hops.is_empty()
        && let Some((hop, source)) = overlay::next_hop(state, prefix, next_hops)
    {
        hops.push(hop);
        src = source;
    }
    if hops.is_empty() {
        return claims;
    }
    claims.route.insert(
        RouteKey { prefix, table: MAIN_TABLE, metric: state.config.route_metric },
        RouteValue { kind: RouteKind::Unicast, protocol: PROTO_KUBE_ROUTER, src, next_hops: hops },
    );
    claims
}
