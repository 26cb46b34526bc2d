//! The model as messages of version 4, with numbers of either version.

use std::net::IpAddr;

use fairway_bgp::{Origin, SessionState};
use fairway_desired::Family;
use ipnet::IpNet;
use prost_types::Timestamp;

use crate::model::{
    Capability, DefinedSet, Direction, FamilyState, Global, Members, Messages, Neighbor, Path, Policy, Sender,
    Statement,
};
use crate::proto::api::{self, attribute::Attr, capability::Cap, extended_community::Extcom};

/// Whose numbers. Enums that got an UNSPECIFIED in version 4 are one lower in version 3; `proto/v3.proto` lists them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Version {
    V3,
    V4,
}

impl Version {
    const fn offset(self) -> i32 {
        match self {
            Version::V3 => 1,
            Version::V4 => 0,
        }
    }

    /// The number of a value of such an enum.
    fn number(self, value: impl Into<i32>) -> i32 {
        value.into() - self.offset()
    }

    /// The value of such a number.
    pub(crate) fn read<E: TryFrom<i32>>(self, number: i32) -> Option<E> {
        E::try_from(number.checked_add(self.offset())?).ok()
    }
}

const fn family(family: Family) -> api::Family {
    let afi = match family {
        Family::V4 => api::family::Afi::Ip,
        Family::V6 => api::family::Afi::Ip6,
    };
    api::Family { afi: afi as i32, safi: api::family::Safi::Unicast as i32 }
}

/// The families that we have.
pub(crate) fn read_family(family: &api::Family) -> Option<Family> {
    match (family.afi(), family.safi()) {
        (api::family::Afi::Ip, api::family::Safi::Unicast) => Some(Family::V4),
        (api::family::Afi::Ip6, api::family::Safi::Unicast) => Some(Family::V6),
        _ => None,
    }
}

fn text(value: Option<impl ToString>) -> String {
    value.map(|value| value.to_string()).unwrap_or_default()
}

pub(crate) fn global(global: &Global) -> api::Global {
    api::Global {
        asn: global.asn,
        router_id: text(global.router_id),
        listen_port: i32::from(global.port),
        listen_addresses: vec!["0.0.0.0".to_owned(), "::".to_owned()],
        use_multiple_paths: global.multipath,
    }
}

/// Clients take most inner messages for granted, so all are there.
pub(crate) fn peer(version: Version, n: Neighbor) -> api::Peer {
    let peer_type = if n.asn == n.local_asn { api::PeerType::Internal } else { api::PeerType::External };
    let peer_type = version.number(peer_type);
    let address = n.address.to_string();
    api::Peer {
        conf: Some(api::PeerConf {
            description: String::new(),
            local_asn: n.local_asn,
            neighbor_address: address.clone(),
            peer_asn: n.asn,
            r#type: peer_type,
            admin_down: n.admin_down,
        }),
        ebgp_multihop: Some(api::EbgpMultihop {
            enabled: n.multihop_ttl.is_some(),
            multihop_ttl: n.multihop_ttl.map(u32::from).unwrap_or_default(),
        }),
        route_reflector: Some(api::RouteReflector {
            route_reflector_client: n.route_reflector_client,
            route_reflector_cluster_id: text(n.cluster_id),
        }),
        timers: Some(timers(&n)),
        transport: Some(api::Transport {
            local_address: text(n.local),
            passive_mode: n.passive,
            remote_address: address.clone(),
            remote_port: u32::from(n.port),
        }),
        route_server: Some(api::RouteServer { route_server_client: false }),
        graceful_restart: Some(n.restart.as_ref().map_or_else(api::GracefulRestart::default, |r| {
            api::GracefulRestart {
                enabled: true,
                restart_time: r.time_s,
                peer_restart_time: r.peer_time_s,
                peer_restarting: r.peer_restarting,
            }
        })),
        afi_safis: n.families.iter().map(|f| afi_safi(f, n.restart.is_some())).collect(),
        state: Some(api::PeerState {
            description: String::new(),
            local_asn: n.local_asn,
            messages: Some(api::Messages { received: Some(message(&n.received)), sent: Some(message(&n.sent)) }),
            neighbor_address: address,
            peer_asn: n.asn,
            r#type: peer_type,
            queues: Some(api::Queues::default()),
            session_state: session_state(n.state).into(),
            admin_state: version.number(if n.admin_down {
                api::peer_state::AdminState::Down
            } else {
                api::peer_state::AdminState::Up
            }),
            flops: n.flaps,
            remote_cap: n.their_capabilities.into_iter().map(capability).collect(),
            local_cap: n.our_capabilities.into_iter().map(capability).collect(),
            router_id: text(n.router_id),
            disconnect_message: n.last_error.unwrap_or_default(),
        }),
    }
}

const fn session_state(state: SessionState) -> api::peer_state::SessionState {
    match state {
        SessionState::Idle => api::peer_state::SessionState::Idle,
        SessionState::Connect => api::peer_state::SessionState::Connect,
        SessionState::Active => api::peer_state::SessionState::Active,
        SessionState::OpenSent => api::peer_state::SessionState::Opensent,
        SessionState::OpenConfirm => api::peer_state::SessionState::Openconfirm,
        SessionState::Established => api::peer_state::SessionState::Established,
    }
}

fn timers(n: &Neighbor) -> api::Timers {
    let up = n.state == SessionState::Established;
    let since = n.since.map(Timestamp::from);
    let configured = u64::from(n.hold_configured_s);
    let negotiated = u64::from(n.hold_negotiated_s);
    api::Timers {
        config: Some(api::TimersConfig { hold_time: configured, keepalive_interval: configured / 3 }),
        state: Some(api::TimersState {
            keepalive_interval: negotiated / 3,
            negotiated_hold_time: negotiated,
            // Clients show neither time without this one, so a session that is down again has it too.
            uptime: since,
            downtime: since.filter(|_| !up),
        }),
    }
}

const fn message(m: &Messages) -> api::Message {
    api::Message {
        notification: m.notification,
        update: m.update,
        open: m.open,
        keepalive: m.keepalive,
        refresh: m.refresh,
        discarded: 0,
        total: m.notification + m.update + m.open + m.keepalive + m.refresh,
    }
}

fn afi_safi(f: &FamilyState, restart: bool) -> api::AfiSafi {
    api::AfiSafi {
        mp_graceful_restart: Some(api::MpGracefulRestart {
            config: Some(api::MpGracefulRestartConfig { enabled: restart }),
            state: Some(api::MpGracefulRestartState { enabled: restart, received: f.restart, advertised: restart }),
        }),
        config: Some(api::AfiSafiConfig { family: Some(family(f.family)), enabled: true }),
        state: Some(api::AfiSafiState {
            family: Some(family(f.family)),
            enabled: true,
            received: f.received,
            accepted: f.accepted,
            advertised: f.advertised,
        }),
        add_paths: Some(api::AddPaths {
            config: Some(api::AddPathsConfig { receive: f.addpath_receive, send_max: f.addpath_send }),
            state: Some(api::AddPathsState { receive: f.addpath_receive, send_max: f.addpath_send }),
        }),
    }
}

/// RFC 4724: the sender restarted.
const RESTARTED: u32 = 0x8;
/// RFC 4724: forwarding state was preserved.
const FORWARDING: u32 = 0x80;

fn capability(capability: Capability) -> api::Capability {
    let cap = match capability {
        Capability::MultiProtocol(f) => Cap::MultiProtocol(api::MultiProtocolCapability { family: Some(family(f)) }),
        Capability::RouteRefresh => Cap::RouteRefresh(api::RouteRefreshCapability {}),
        Capability::FourOctetAs(asn) => Cap::FourOctetAsn(api::FourOctetAsnCapability { asn }),
        Capability::GracefulRestart { restarting, time_s, families } => {
            Cap::GracefulRestart(api::GracefulRestartCapability {
                flags: if restarting { RESTARTED } else { 0 },
                time: u32::from(time_s),
                tuples: families
                    .into_iter()
                    .map(|(f, forwarding)| api::GracefulRestartCapabilityTuple {
                        family: Some(family(f)),
                        flags: if forwarding { FORWARDING } else { 0 },
                    })
                    .collect(),
            })
        }
        Capability::AddPath(families) => Cap::AddPath(api::AddPathCapability {
            tuples: families
                .into_iter()
                .map(|(f, directions)| {
                    use api::add_path_capability_tuple::Mode;
                    let mode = match (directions.receive, directions.send) {
                        (true, true) => Mode::Both,
                        (true, false) => Mode::Receive,
                        (false, true) => Mode::Send,
                        (false, false) => Mode::Unspecified,
                    };
                    api::AddPathCapabilityTuple { family: Some(family(f)), mode: mode.into() }
                })
                .collect(),
        }),
    };
    api::Capability { cap: Some(cap) }
}

fn nlri(prefix: IpNet) -> api::Nlri {
    let prefix =
        api::IpAddressPrefix { prefix_len: u32::from(prefix.prefix_len()), prefix: prefix.network().to_string() };
    api::Nlri { nlri: Some(api::nlri::Nlri::Prefix(prefix)) }
}

pub(crate) fn path(p: Path) -> api::Path {
    let from = p.from;
    api::Path {
        nlri: Some(nlri(p.prefix)),
        age: Some(Timestamp::from(p.since)),
        best: p.best,
        family: Some(family(Family::of(p.prefix.addr()))),
        source_asn: from.map_or(0, |s| s.asn),
        source_id: text(from.and_then(|s| s.router_id)),
        stale: p.stale,
        is_from_external: from.is_some_and(|s: Sender| s.external),
        neighbor_ip: text(from.map(|s| s.address)),
        identifier: p.received_id,
        local_identifier: p.sent_id,
        pattrs: attributes(p).into_iter().map(|attr| api::Attribute { attr: Some(attr) }).collect(),
    }
}

/// In the order of their codes, as on the wire.
fn attributes(p: Path) -> Vec<Attr> {
    let origin = match p.origin {
        Origin::Igp => 0,
        Origin::Egp => 1,
        Origin::Incomplete => 2,
    };
    let mut attributes = vec![Attr::Origin(api::OriginAttribute { origin })];
    let segment = api::AsSegment { r#type: api::as_segment::Type::AsSequence.into(), numbers: p.as_path };
    let segments = if segment.numbers.is_empty() { Vec::new() } else { vec![segment] };
    // GoBGP shows no empty path of its own routes.
    if p.from.is_some() || !segments.is_empty() {
        attributes.push(Attr::AsPath(api::AsPathAttribute { segments }));
    }
    let next_hop = p.next_hop.to_string();
    let mp_reach = match (p.prefix, p.next_hop) {
        (IpNet::V4(_), IpAddr::V4(_)) => {
            attributes.push(Attr::NextHop(api::NextHopAttribute { next_hop }));
            None
        }
        _ => Some(api::MpReachNlriAttribute {
            family: Some(family(Family::of(p.prefix.addr()))),
            next_hops: vec![next_hop],
            nlris: vec![nlri(p.prefix)],
        }),
    };
    attributes.extend(p.med.map(|med| Attr::MultiExitDisc(api::MultiExitDiscAttribute { med })));
    attributes.extend(p.local_pref.map(|local_pref| Attr::LocalPref(api::LocalPrefAttribute { local_pref })));
    if !p.communities.is_empty() {
        attributes.push(Attr::Communities(api::CommunitiesAttribute { communities: p.communities }));
    }
    attributes.extend(p.originator.map(|id| Attr::OriginatorId(api::OriginatorIdAttribute { id: id.to_string() })));
    if !p.cluster_list.is_empty() {
        let ids = p.cluster_list.iter().map(ToString::to_string).collect();
        attributes.push(Attr::ClusterList(api::ClusterListAttribute { ids }));
    }
    attributes.extend(mp_reach.map(Attr::MpReach));
    if !p.ext_communities.is_empty() {
        let communities = p.ext_communities.into_iter().map(ext_community).collect();
        attributes.push(Attr::ExtendedCommunities(api::ExtendedCommunitiesAttribute { communities }));
    }
    if !p.large_communities.is_empty() {
        let communities = p
            .large_communities
            .into_iter()
            .map(|[global_admin, local_data1, local_data2]| api::LargeCommunity {
                global_admin,
                local_data1,
                local_data2,
            })
            .collect();
        attributes.push(Attr::LargeCommunities(api::LargeCommunitiesAttribute { communities }));
    }
    attributes
}

/// Not passed on to other ASes (RFC 4360 section 2).
const NON_TRANSITIVE: u8 = 0x40;

/// An extended community (RFC 4360, RFC 5668).
fn ext_community(bytes: [u8; 8]) -> api::ExtendedCommunity {
    let [kind, sub, a, b, c, d, e, f] = bytes;
    let is_transitive = kind & NON_TRANSITIVE == 0;
    let sub_type = u32::from(sub);
    let short = |a, b| u32::from(u16::from_be_bytes([a, b]));
    let long = |a, b, c, d| u32::from_be_bytes([a, b, c, d]);
    let community = match (kind & !NON_TRANSITIVE, sub) {
        (0x00, 0x04) if !is_transitive => Extcom::LinkBandwidth(api::LinkBandwidthExtended {
            asn: short(a, b),
            bandwidth: f32::from_be_bytes([c, d, e, f]),
        }),
        (0x00, _) => Extcom::TwoOctetAsSpecific(api::TwoOctetAsSpecificExtended {
            is_transitive,
            sub_type,
            asn: short(a, b),
            local_admin: long(c, d, e, f),
        }),
        (0x01, _) => Extcom::Ipv4AddressSpecific(api::IPv4AddressSpecificExtended {
            is_transitive,
            sub_type,
            address: IpAddr::from([a, b, c, d]).to_string(),
            local_admin: short(e, f),
        }),
        (0x02, _) => Extcom::FourOctetAsSpecific(api::FourOctetAsSpecificExtended {
            is_transitive,
            sub_type,
            asn: long(a, b, c, d),
            local_admin: short(e, f),
        }),
        (0x03, _) => Extcom::Opaque(api::OpaqueExtended { is_transitive, value: vec![sub, a, b, c, d, e, f] }),
        _ => Extcom::Unknown(api::UnknownExtended { r#type: u32::from(kind), value: vec![sub, a, b, c, d, e, f] }),
    };
    api::ExtendedCommunity { extcom: Some(community) }
}

pub(crate) fn defined_set(version: Version, set: DefinedSet) -> api::DefinedSet {
    let name = set.name;
    match set.members {
        Members::Prefixes(prefixes) => api::DefinedSet {
            defined_type: version.number(api::DefinedType::Prefix),
            name,
            list: Vec::new(),
            prefixes: prefixes
                .into_iter()
                .map(|(net, min, max)| api::Prefix {
                    ip_prefix: net.to_string(),
                    mask_length_min: u32::from(min),
                    mask_length_max: u32::from(max),
                })
                .collect(),
        },
        Members::Neighbors(nets) => api::DefinedSet {
            defined_type: version.number(api::DefinedType::Neighbor),
            name,
            list: nets.iter().map(ToString::to_string).collect(),
            prefixes: Vec::new(),
        },
    }
}

pub(crate) fn statement(version: Version, s: &Statement) -> api::Statement {
    let set = |name: &Option<String>| {
        let r#type = version.number(api::match_set::Type::Any);
        name.clone().map(|name| api::MatchSet { r#type, name })
    };
    let add = |communities: Vec<String>| {
        let r#type = version.number(api::community_action::Type::Add);
        (!communities.is_empty()).then_some(api::CommunityAction { r#type, communities })
    };
    let community = add(s.communities.iter().map(|c| format!("{}:{}", c >> 16, c & 0xffff)).collect());
    let large_community = add(s.large_communities.iter().map(|[a, b, c]| format!("{a}:{b}:{c}")).collect());
    let ext_community = add(s.ext_communities.iter().map(|c| route_target(*c)).collect());
    api::Statement {
        name: s.name.clone(),
        conditions: Some(api::Conditions {
            prefix_set: set(&s.prefix_set),
            neighbor_set: set(&s.neighbor_set),
            // No such condition: 0, which version 3 takes for one.
            rpki_result: match version {
                Version::V3 => -1,
                Version::V4 => 0,
            },
        }),
        actions: Some(api::Actions {
            route_action: route_action(s.accept).into(),
            community,
            ext_community,
            large_community,
            as_prepend: s.prepend.map(|(asn, repeat)| api::AsPrependAction { asn, repeat: u32::from(repeat) }),
            nexthop: s.next_hop_self.then_some(api::NexthopAction { self_: true }),
        }),
    }
}

/// A route target or origin as the client writes it; others in hexadecimal.
fn route_target(c: [u8; 8]) -> String {
    let kind = match c[1] {
        2 => "rt",
        3 => "soo",
        _ => return format!("{:016x}", u64::from_be_bytes(c)),
    };
    let [_, _, a, b, d, e, f, g] = c;
    match c[0] {
        0 => format!("{kind}:{}:{}", u16::from_be_bytes([a, b]), u32::from_be_bytes([d, e, f, g])),
        1 => format!("{kind}:{}:{}", std::net::Ipv4Addr::new(a, b, d, e), u16::from_be_bytes([f, g])),
        2 => format!("{kind}:{}:{}", u32::from_be_bytes([a, b, d, e]), u16::from_be_bytes([f, g])),
        _ => format!("{:016x}", u64::from_be_bytes(c)),
    }
}

const fn route_action(accept: bool) -> api::RouteAction {
    if accept { api::RouteAction::Accept } else { api::RouteAction::Reject }
}

pub(crate) fn policy(version: Version, policy: &Policy) -> api::Policy {
    api::Policy {
        name: policy.name.to_owned(),
        statements: policy.statements.iter().map(|s| statement(version, s)).collect(),
    }
}

/// The policy of the table for all, in one direction. Without one everything is accepted.
pub(crate) fn assignment(version: Version, direction: Direction, assigned: Option<&Policy>) -> api::PolicyAssignment {
    let direction = match direction {
        Direction::Import => api::PolicyDirection::Import,
        Direction::Export => api::PolicyDirection::Export,
    };
    api::PolicyAssignment {
        name: "global".to_owned(),
        direction: direction.into(),
        policies: assigned.iter().map(|p| policy(version, p)).collect(),
        default_action: route_action(assigned.is_none_or(|p| p.default_accept)).into(),
    }
}
