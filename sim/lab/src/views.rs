//! What the usual tools would show, read from the kernels.

use fairway_backend_ipvs::IpvsBackend;
use fairway_backend_route::{RouteBackend, routes};
use fairway_desired::ipvs::VirtualServerKey;
use fairway_desired::{Family, MAIN_TABLE, Protocol, RouteKey, RouteKind, RouteValue};
use fairway_scenario::{CniConfig, Neighbor, NoticeLine, RealServer, RibPath, Route, StageError, VirtualServer};

use ipnet::IpNet;
use serde_json::Value;

use crate::clients::refused;
use crate::host::Host;
use crate::lab::Lab;

impl Lab {
    /// The host of this name that has power.
    pub(crate) fn find(&self, name: &str) -> Result<&Host, StageError> {
        match self.hosts.get(name) {
            Some(host) => Ok(host),
            None if self.is_in_topology(name) => Err(StageError::Refused(format!("{name} has no power"))),
            None => Err(StageError::NotFound(format!("host {name}"))),
        }
    }

    pub(crate) fn view_neighbors(&self, name: &str) -> Result<Vec<Neighbor>, StageError> {
        let host = self.find(name)?;
        match (&host.agent, &host.foreign) {
            (Some(agent), _) => agent.ask(fairway_stage::neighbors).map_err(refused),
            (None, Some(router)) => router.neighbors().map_err(refused),
            (None, None) => Ok(vec![]),
        }
    }

    /// The CNI configuration of a node, read as any JSON.
    pub(crate) fn view_cni(&self, name: &str) -> Result<Option<CniConfig>, StageError> {
        let host = self.find(name)?;
        let Some(path) = host.config.as_ref().and_then(|config| config.cni_file.as_ref()) else { return Ok(None) };
        let text = match std::fs::read_to_string(&**path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(refused(error)),
        };
        let all: Value = serde_json::from_str(&text).map_err(refused)?;
        let plugins = all["plugins"].as_array().into_iter().flatten();
        let Some(bridge) = plugins.into_iter().find(|plugin| plugin["type"] == "bridge") else { return Ok(None) };
        let sets = bridge["ipam"]["ranges"].as_array().into_iter().flatten().filter_map(Value::as_array).flatten();
        let subnet = |range: &Value| range["subnet"].as_str().unwrap_or_default().parse::<IpNet>().map_err(refused);
        let ranges = sets.map(subnet).collect::<Result<_, _>>()?;
        let mtu = bridge["mtu"].as_u64().and_then(|mtu| u32::try_from(mtu).ok());
        Ok(Some(CniConfig { ranges, mtu }))
    }

    pub(crate) fn view_rib(&self, name: &str, ipv6: bool) -> Result<Vec<RibPath>, StageError> {
        let host = self.find(name)?;
        match (&host.agent, &host.foreign) {
            (Some(agent), _) => agent.ask(move |agent, now| fairway_stage::rib(agent, now, ipv6)).map_err(refused),
            (None, Some(router)) => router.rib(ipv6).map_err(refused),
            (None, None) => Ok(vec![]),
        }
    }

    /// The main table. The text of `ip route` is made anew only when the routes are others than when it was made.
    pub(crate) fn view_routes(&mut self, name: &str, ipv6: bool) -> Result<Vec<Route>, StageError> {
        let host = self.find(name)?;
        let family = if ipv6 { Family::V6 } else { Family::V4 };
        let found: Vec<(RouteKey, RouteValue)> = host
            .space
            .within(|| {
                let mut backend = RouteBackend::new().map_err(std::io::Error::other)?;
                routes(&mut backend, MAIN_TABLE, family).map_err(|fault| std::io::Error::other(format!("{fault:?}")))
            })
            .map_err(refused)?;
        let cached = self.shown.get(&(name.to_string(), ipv6)).filter(|(routes, _)| *routes == found);
        let text = match cached {
            Some((_, text)) => text.clone(),
            None => {
                let family = if ipv6 { "-6" } else { "-4" };
                let text = host.space.text("ip", &[family, "route", "show", "table", "main"]).map_err(refused)?;
                self.shown.insert((name.into(), ipv6), (found.clone(), text.clone()));
                text
            }
        };
        let blocks = blocks(&text);
        let unicast = found.into_iter().filter(|(_, value)| value.kind == RouteKind::Unicast);
        Ok(unicast
            .map(|(key, value)| {
                let prefix = key.prefix;
                let shown = if prefix.prefix_len() == 0 {
                    "default".to_string()
                } else if prefix.prefix_len() == prefix.max_prefix_len() {
                    prefix.addr().to_string()
                } else {
                    prefix.to_string()
                };
                let named = |block: &&String| block.split_whitespace().next() == Some(shown.as_str());
                let text = blocks.iter().find(named).cloned().unwrap_or_else(|| prefix.to_string());
                let next_hops = value.next_hops.iter().filter_map(|hop| hop.via).collect();
                Route { prefix, text, next_hops, protocol: value.protocol }
            })
            .collect())
    }

    pub(crate) fn view_virtual_servers(&self, name: &str) -> Result<Vec<VirtualServer>, StageError> {
        let host = self.find(name)?;
        let servers = host
            .space
            .within(|| {
                let mut backend = IpvsBackend::new().map_err(std::io::Error::other)?;
                backend.statistics().map_err(|fault| std::io::Error::other(format!("{fault:?}")))
            })
            .map_err(refused)?;
        let by_address = servers.into_iter().filter_map(|server| {
            // A server by mark has no address to show.
            let VirtualServerKey::Address { address, port, protocol } = server.key else { return None };
            let protocol = match protocol {
                Protocol::Tcp => "tcp",
                Protocol::Udp => "udp",
                Protocol::Sctp => "sctp",
            };
            let reals = server.reals.into_iter().map(|real| RealServer {
                address: (real.key.address, real.key.port).into(),
                weight: real.weight,
                active: real.active.into(),
                inactive: real.inactive.into(),
            });
            Some(VirtualServer {
                address: (address, port).into(),
                protocol: protocol.into(),
                scheduler: server.scheduler,
                persistent: server.persistence_s.is_some(),
                real_servers: reals.collect(),
            })
        });
        Ok(by_address.collect())
    }

    pub(crate) fn view_notices(&self) -> Vec<NoticeLine> {
        let mut lines = self.cluster.unread().to_vec();
        for (name, host) in &self.hosts {
            let notices = host.notices.lock().unwrap_or_else(|e| e.into_inner());
            lines.extend(notices.iter().map(|notice| fairway_stage::notice_line(name, notice)));
        }
        lines
    }
}

/// The routes of a listing; the lines of their next hops are indented.
fn blocks(text: &str) -> Vec<String> {
    let mut blocks: Vec<String> = vec![];
    for line in text.lines() {
        match blocks.last_mut() {
            Some(block) if line.starts_with(char::is_whitespace) => {
                block.push('\n');
                block.push_str(line.trim_end());
            }
            _ => blocks.push(line.trim_end().to_string()),
        }
    }
    blocks
}
