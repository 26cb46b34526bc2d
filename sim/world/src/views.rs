//! What the usual tools would show: the world's state in the words of a scenario.

use fairway_desired::{MAIN_TABLE, RouteKind};
use fairway_kernel::VirtualServerView;
use fairway_scenario::{Neighbor, NoticeLine, RealServer, RibPath, Route, StageError, VirtualServer};

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
        let agent = self.hosts[host].agent.as_ref();
        Ok(agent.map(|agent| fairway_stage::neighbors(agent, self.queue.now())).unwrap_or_default())
    }

    pub(crate) fn view_rib(&self, name: &str, ipv6: bool) -> Result<Vec<RibPath>, StageError> {
        let host = self.find_host(name)?;
        let agent = self.hosts[host].agent.as_ref();
        Ok(agent.map(|agent| fairway_stage::rib(agent, self.queue.now(), ipv6)).unwrap_or_default())
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
            // Routes of one prefix differ in their metric; both lists are in that order.
            let text = match blocks.iter().position(|b| b.split_whitespace().next() == Some(shown.as_str())) {
                Some(index) => blocks.remove(index),
                None => key.prefix.to_string(),
            };
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
        let mut lines = self.cluster.unread().to_vec();
        for host in &self.hosts {
            lines.extend(host.notices.iter().map(|notice| fairway_stage::notice_line(&host.name, notice)));
            // What `backends/kube` says of a server that does not answer.
            let api = self.cluster.api();
            if host.watcher.is_some_and(|watcher| api.cut_off(self.now(), watcher)) {
                lines.push(NoticeLine {
                    host: host.name.clone(),
                    subject: "API server".into(),
                    field: String::new(),
                    reason: "unreachable; what is known stays in effect".into(),
                });
            }
        }
        lines
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
