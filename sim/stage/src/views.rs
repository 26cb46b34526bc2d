//! What the usual tools would show of an agent, in the words of a scenario.

use fairway_agent::Agent;
use fairway_bgp::SessionState;
use fairway_bgp::wire::{Attributes, Origin};
use fairway_desired::Family;
use fairway_objects::Notice;
use fairway_scenario::{BfdSession, Neighbor, NoticeLine, RibPath};

use crate::Time;

/// The rows of `gobgp neighbor`.
pub fn neighbors(agent: &Agent, now: Time) -> Vec<Neighbor> {
    let view = agent.speaker().neighbors();
    view.into_iter()
        .map(|n| Neighbor {
            address: n.address,
            asn: n.asn,
            state: match n.state {
                SessionState::Idle => "Idle",
                SessionState::Connect => "Connect",
                SessionState::Active => "Active",
                SessionState::OpenSent => "OpenSent",
                SessionState::OpenConfirm => "OpenConfirm",
                SessionState::Established => "Establ",
            }
            .into(),
            since: n.since.map(|at| now.saturating_sub(at)),
            received: n.received as u64,
            accepted: n.accepted as u64,
            reason: n.last_error,
        })
        .collect()
}

/// The BFD sessions.
pub fn bfd(agent: &Agent) -> Vec<BfdSession> {
    agent.bfd().sessions().map(|s| BfdSession { address: s.peer, state: s.state.as_str().into() }).collect()
}

/// The rows of `gobgp global rib`.
pub fn rib(agent: &Agent, now: Time, ipv6: bool) -> Vec<RibPath> {
    let family = if ipv6 { Family::V6 } else { Family::V4 };
    let paths = agent.speaker().rib(family);
    paths
        .into_iter()
        .map(|p| RibPath {
            prefix: p.prefix,
            next_hop: p.next_hop,
            as_path: p.as_path(),
            best: p.best,
            age: now.saturating_sub(p.since),
            attrs: attributes(&p.attributes),
        })
        .collect()
}

/// A standing notice of a host's agent.
pub fn notice_line(host: &str, notice: &Notice) -> NoticeLine {
    NoticeLine {
        host: host.into(),
        subject: notice.subject.to_string(),
        field: notice.field.clone(),
        reason: notice.reason.clone(),
    }
}

/// Attributes as `gobgp` prints them.
fn attributes(a: &Attributes) -> String {
    let origin = match a.origin {
        Origin::Igp => "i",
        Origin::Egp => "e",
        Origin::Incomplete => "?",
    };
    let mut parts = vec![format!("{{Origin: {origin}}}")];
    parts.extend(a.med.map(|m| format!("{{Med: {m}}}")));
    parts.extend(a.local_pref.map(|p| format!("{{LocalPref: {p}}}")));
    if !a.communities.is_empty() {
        let list: Vec<String> = a.communities.iter().map(|c| format!("{}:{}", c >> 16, c & 0xffff)).collect();
        parts.push(format!("{{Communities: {}}}", list.join(", ")));
    }
    parts.extend(a.originator.map(|id| format!("{{Originator: {id}}}")));
    if !a.cluster_list.is_empty() {
        let list: Vec<String> = a.cluster_list.iter().map(ToString::to_string).collect();
        parts.push(format!("{{ClusterList: [{}]}}", list.join(" ")));
    }
    if !a.large_communities.is_empty() {
        let list: Vec<String> = a.large_communities.iter().map(|[x, y, z]| format!("{x}:{y}:{z}")).collect();
        parts.push(format!("{{LargeCommunity: [ {}]}}", list.join(", ")));
    }
    format!("[{}]", parts.join(" "))
}
