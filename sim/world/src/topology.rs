//! From a scenario's topology to hosts, wires and addresses.

use std::net::{IpAddr, Ipv4Addr};

use fairway_api::{Api, ApiConfig, NodeSpec};
use fairway_desired::{MAIN_TABLE, NextHop, RouteKey, RouteKind, RouteValue};
use fairway_objects::{NodeConfig, Notice, RouterConfig};
use fairway_scenario::{Scenario, Stage, Topology};
use ipnet::IpNet;

use crate::pods::{PROTO_BOOT, default_route};
use crate::world::{Role, World};
use crate::{HostIx, Time};

/// Reads the command line of one node's agent: node name and flags to configuration and notices.
pub type Configure<'a> = dyn Fn(&str, &[String]) -> Result<(NodeConfig, Vec<Notice>), String> + 'a;

/// Why a world cannot be made from a scenario.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TopologyError {
    /// The flags of a node are wrong.
    #[error("flags of {node}: {message}")]
    Flags {
        /// The node.
        node: String,
        /// What is wrong.
        message: String,
    },
    /// The API server refuses what the topology says of a node.
    #[error("node {node}: {message}")]
    Node {
        /// The node.
        node: String,
        /// Its reason.
        message: String,
    },
    /// Nothing in a file of objects could be read.
    #[error("{file}: {message}")]
    Objects {
        /// The file.
        file: String,
        /// Why.
        message: String,
    },
    /// A router without an IPv4 address has no BGP identifier.
    #[error("router {0} needs an IPv4 address, which is its BGP identifier")]
    RouterId(String),
}

impl World {
    /// Builds the cluster of a scenario, starts every agent and applies the scenario's objects. The steps come later,
    /// through [`fairway_scenario::Stage`].
    ///
    /// # Errors
    /// If the flags are wrong, a router has no identifier, or nothing in a file of objects can be read.
    pub fn new(scenario: &Scenario, seed: u64, configure: &Configure<'_>) -> Result<World, TopologyError> {
        let timing = &scenario.timing;
        let ms = |t: Time| u32::try_from(t.as_millis()).unwrap_or(u32::MAX);
        let s = |t: Time| u32::try_from(t.as_secs()).unwrap_or(u32::MAX);
        let config = ApiConfig {
            service_cidrs: scenario.services.cidrs.clone(),
            lag_ms: (ms(timing.watch_lag.min), ms(timing.watch_lag.max)),
            pod_start_ms: (ms(timing.pod_start.min), ms(timing.pod_start.max)),
            probe_ms: (ms(timing.probe.min), ms(timing.probe.max)),
            node_grace_s: s(timing.node_grace),
            eviction_s: s(timing.eviction),
            ..ApiConfig::default()
        };
        let mut world = World::empty(Api::new(config, seed), seed);
        let topology = &scenario.topology;
        for (name, lan) in &topology.lans {
            let id = world.fabric.add_lan(name, lan.latency);
            world.lans.insert(name.clone(), id);
        }
        let mut agents = vec![];
        for (name, node) in &topology.nodes {
            let flags: Vec<String> = scenario.flags.iter().chain(&node.flags).map(|f| f.value.clone()).collect();
            let (config, notices) =
                configure(name, &flags).map_err(|message| TopologyError::Flags { node: name.clone(), message })?;
            let host = world.wire_host(topology, name, Role::Node);
            world.hosts[host].config = Some(config);
            world.hosts[host].flag_notices = notices;
            world.register_node(name, topology)?;
            agents.push(host);
        }
        for (name, router) in &topology.routers {
            let host = world.wire_host(topology, name, Role::Router);
            world.hosts[host].config = Some(router_config(topology, name, router)?);
            agents.push(host);
        }
        for name in topology.testers.keys() {
            world.wire_host(topology, name, Role::Tester);
        }
        for host in agents {
            world.start_agent(host);
        }
        world.topology = topology.clone();
        for objects in &scenario.objects {
            world
                .apply(&objects.name, &objects.yaml)
                .map_err(|error| TopologyError::Objects { file: objects.name.clone(), message: error.to_string() })?;
        }
        world.drain_api();
        Ok(world)
    }

    fn register_node(&mut self, name: &str, topology: &Topology) -> Result<(), TopologyError> {
        let now = self.queue.now();
        let Some(node) = topology.nodes.get(name) else { return Ok(()) };
        // The kubelet reports one internal address per family: the first of each.
        let all: Vec<IpAddr> = node.addresses.values().flatten().copied().collect();
        let v4 = all.iter().find(|a| a.is_ipv4());
        let v6 = all.iter().find(|a| a.is_ipv6());
        let internal_ips = match (all.first().is_some_and(IpAddr::is_ipv6), v4, v6) {
            (true, v4, v6) => v6.into_iter().chain(v4).copied().collect(),
            (false, v4, v6) => v4.into_iter().chain(v6).copied().collect(),
        };
        self.api.register_node(now, NodeSpec { name: name.into(), internal_ips, pod_cidrs: node.pod_cidrs.clone() });
        self.api.kubelet(now, name, true);
        if !node.labels.is_empty() || !node.annotations.is_empty() {
            let merge = serde_json::json!({"metadata": {"labels": node.labels, "annotations": node.annotations}});
            self.api
                .patch_json(now, "Node", "", name, merge)
                .map_err(|e| TopologyError::Node { node: name.into(), message: e.to_string() })?;
        }
        Ok(())
    }

    /// Makes a host with its interfaces (`eth1`, `eth2`, … in the order of the LAN names), addresses and default
    /// route.
    pub(crate) fn wire_host(&mut self, topology: &Topology, name: &str, role: Role) -> HostIx {
        let host = self.add_host(name, role);
        let id = self.hosts[host].id;
        for (number, (lan, addresses)) in topology.addresses(name).into_iter().flatten().enumerate() {
            let link = format!("eth{}", number + 1);
            if let Some(lan_id) = self.lans.get(lan) {
                self.fabric.attach(id, &link, *lan_id);
            }
            for address in addresses {
                let prefix = topology.prefix_len(lan, *address);
                if let Ok(address) = IpNet::new(*address, prefix) {
                    self.fabric.kernel_mut(id).add_address(&link, address);
                }
            }
            self.hosts[host].links.insert(lan.clone(), link);
        }
        let gateways = topology.gateways(name);
        for ipv6 in [false, true] {
            let mut next_hops: Vec<NextHop> = gateways
                .iter()
                .filter_map(|(gateway, lan)| {
                    let via = topology.addresses(gateway)?.get(lan)?.iter().find(|a| a.is_ipv6() == ipv6)?;
                    let dev = self.hosts[host].links.get(lan)?;
                    Some(NextHop { via: Some(*via), dev: Some(dev.as_str().into()), weight: 1 })
                })
                .collect();
            next_hops.sort();
            let Some(via) = next_hops.first().and_then(|n| n.via) else { continue };
            let key = RouteKey { prefix: default_route(via), table: MAIN_TABLE, metric: 0 };
            let value = RouteValue { kind: RouteKind::Unicast, protocol: PROTO_BOOT, src: None, next_hops };
            // A host that has no address in the family has no way to its gateways either.
            let _no_route = self.fabric.kernel_mut(id).add_route(key, value);
        }
        if role == Role::Tester {
            for path in ["net/ipv4/fib_multipath_hash_policy", "net/ipv6/fib_multipath_hash_policy"] {
                let set = self.fabric.kernel_mut(id).set_sysctl(path, 1);
                debug_assert!(set.is_ok(), "{path} exists in every namespace");
            }
        }
        host
    }
}

/// The configuration of a router: dynamic neighbours on all its LANs.
fn router_config(
    topology: &Topology,
    name: &str,
    router: &fairway_scenario::Router,
) -> Result<NodeConfig, TopologyError> {
    let addresses: Vec<IpAddr> = router.addresses.values().flatten().copied().collect();
    let router_id: Ipv4Addr = addresses
        .iter()
        .find_map(|a| if let IpAddr::V4(a) = a { Some(*a) } else { None })
        .ok_or_else(|| TopologyError::RouterId(name.into()))?;
    let subnets = router.addresses.keys().filter_map(|lan| topology.lans.get(lan)).flat_map(|lan| &lan.subnets);
    let accept = subnets.map(|subnet| (subnet.trunc(), router.accept.clone())).collect();
    Ok(NodeConfig::router(
        name,
        RouterConfig {
            asn: router.asn,
            router_id,
            accept,
            import_reject: router.reject.clone(),
            networks: vec![],
            addresses,
        },
    ))
}
