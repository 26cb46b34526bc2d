//! What the usual tools would show: the world's state in the words of a scenario.

use std::net::IpAddr;

use fairway_bgp::{Origin, SessionState};
use fairway_desired::{Family, MAIN_TABLE, RouteKind};
use fairway_kernel::VirtualServerView;
use fairway_scenario::{Neighbor, NoticeLine, RealServer, RibPath, Route, StageError, VirtualServer};
use ipnet::IpNet;

use crate::HostIx;
use crate::world::World;

impl World {
    /// The host of this name that still has power.
    pub(crate) fn find_host(&self, name: &str) -> Result<HostIx, StageError> {
        match self.names.get(name) {
            Some(host) if self.hosts[*host].alive => Ok(*host),
            Some(_) => Err(StageError::Refused(format!("{name} has no power"))),
            None => Err(StageError::NotFound(format!("host {name}"))),
        }
    }

    pub(crate) fn view_neighbors(&self, name: &str) -> Result<Vec<Neighbor>, StageError> {
        let host = self.find_host(name)?;
        let now = self.queue.now();
        let Some(agent) = &self.hosts[host].agent else { return Ok(vec![]) };
        let view = agent.speaker().neighbors();
        Ok(view
            .into_iter()
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
            })
            .collect())
    }

    pub(crate) fn view_rib(&self, name: &str, ipv6: bool) -> Result<Vec<RibPath>, StageError> {
        let host = self.find_host(name)?;
        let now = self.queue.now();
        let Some(agent) = &self.hosts[host].agent else { return Ok(vec![]) };
        let family = if ipv6 { Family::V6 } else { Family::V4 };
        Ok(agent
            .speaker()
            .rib(family)
            .into_iter()
            .map(|p| RibPath {
                prefix: p.prefix,
                next_hop: p.next_hop,
                as_path: p.as_path,
                best: p.best,
                age: now.saturating_sub(p.since),
                attrs: attributes(p.origin, p.med, p.local_pref, &p.communities),
            })
            .collect())
    }

    pub(crate) fn view_routes(&self, name: &str, ipv6: bool) -> Result<Vec<Route>, StageError> {
        let host = self.find_host(name)?;
        let kernel = self.fabric.kernel(self.hosts[host].id);
        let text = kernel.show_routes(ipv6);
        let mut routes = vec![];
        // A route's further lines (its next hops) begin with a tab.
        let mut blocks: Vec<String> = vec![];
        for line in text.lines() {
            match blocks.last_mut() {
                Some(block) if line.starts_with(char::is_whitespace) => {
                    block.push('\n');
                    block.push_str(line);
                }
                _ => blocks.push(line.to_string()),
            }
        }
        for (key, value) in kernel.routes() {
            let v6 = key.prefix.addr().is_ipv6();
            if key.table != MAIN_TABLE || v6 != ipv6 || value.kind != RouteKind::Unicast {
                continue;
            }
            let shown = if key.prefix.prefix_len() == 0 {
                "default".to_string()
            } else if key.prefix.prefix_len() == key.prefix.max_prefix_len() {
                key.prefix.addr().to_string()
            } else {
                key.prefix.to_string()
            };
            let text = blocks
                .iter()
                .find(|b| b.split_whitespace().next() == Some(shown.as_str()))
                .cloned()
                .unwrap_or_else(|| key.prefix.to_string());
            routes.push(Route {
                prefix: key.prefix,
                text,
                next_hops: value.next_hops.iter().filter_map(|n| n.via).collect(),
                protocol: value.protocol,
            });
        }
        Ok(routes)
    }

    pub(crate) fn view_virtual_servers(&mut self, name: &str) -> Result<Vec<VirtualServer>, StageError> {
        let host = self.find_host(name)?;
        let kernel = self.fabric.kernel_mut(self.hosts[host].id);
        Ok(kernel.virtual_servers().into_iter().filter_map(virtual_server).collect())
    }

    pub(crate) fn view_notices(&self) -> Vec<NoticeLine> {
        let mut lines = self.apply_errors.clone();
        for host in &self.hosts {
            for notice in &host.notices {
                lines.push(NoticeLine {
                    host: host.name.clone(),
                    subject: notice.subject.to_string(),
                    field: notice.field.clone(),
                    reason: notice.reason.clone(),
                });
            }
        }
        lines
    }

    /// Every address of a host, without prefix length.
    pub(crate) fn addresses_of(&self, host: HostIx) -> Vec<IpAddr> {
        let kernel = self.fabric.kernel(self.hosts[host].id);
        kernel.addresses().map(|(_, address)| IpNet::addr(address)).collect()
    }
}

/// A virtual server by address; those by mark have no address to show.
fn virtual_server(view: VirtualServerView) -> Option<VirtualServer> {
    use fairway_desired::ipvs::VirtualServerKey;
    let VirtualServerKey::Address { address, port, protocol } = view.key else { return None };
    Some(VirtualServer {
        address: (address, port).into(),
        protocol: match protocol {
            fairway_desired::Protocol::Tcp => "tcp",
            fairway_desired::Protocol::Udp => "udp",
            fairway_desired::Protocol::Sctp => "sctp",
        }
        .into(),
        scheduler: format!("{:?}", view.server.scheduler).to_lowercase(),
        persistent: view.server.persistence_s.is_some(),
        real_servers: view
            .real_servers
            .into_iter()
            .map(|r| RealServer {
                address: (r.key.address, r.key.port).into(),
                weight: r.value.weight,
                active: r.active,
                inactive: r.inactive,
            })
            .collect(),
    })
}

/// Attributes as `gobgp` prints them.
fn attributes(origin: Origin, med: Option<u32>, local_pref: Option<u32>, communities: &[u32]) -> String {
    let origin = match origin {
        Origin::Igp => "i",
        Origin::Egp => "e",
        Origin::Incomplete => "?",
    };
    let mut parts = vec![format!("{{Origin: {origin}}}")];
    parts.extend(med.map(|m| format!("{{Med: {m}}}")));
    parts.extend(local_pref.map(|p| format!("{{LocalPref: {p}}}")));
    if !communities.is_empty() {
        let list: Vec<String> = communities.iter().map(|c| format!("{}:{}", c >> 16, c & 0xffff)).collect();
        parts.push(format!("{{Communities: {}}}", list.join(", ")));
    }
    format!("[{}]", parts.join(" "))
}
