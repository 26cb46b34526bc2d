//! From a scenario's topology to hosts, wires and addresses.

use fairway_desired::{MAIN_TABLE, NextHop, Protocol, RouteKey, RouteKind, RouteValue};
use fairway_scenario::{Scenario, Topology};
use fairway_stage::{Cluster, ConfigError, Configure, router_config};
use ipnet::IpNet;

use crate::HostIx;
use crate::pods::{PROTO_BOOT, default_route};
use crate::world::{Role, Tapes, World};

impl World {
    /// Builds the cluster of a scenario, starts every agent and applies the scenario's objects. The steps come later,
    /// through [`fairway_scenario::Stage`].
    ///
    /// # Errors
    /// If the flags are wrong, a router has no identifier, or nothing in a file of objects can be read.
    pub fn new(scenario: &Scenario, seed: u64, configure: &Configure<'_>) -> Result<World, ConfigError> {
        World::build(scenario, seed, configure, None)
    }

    /// [`World::new`], in which every agent is recorded.
    ///
    /// # Errors
    /// As there.
    pub fn recorded(
        scenario: &Scenario,
        seed: u64,
        configure: &Configure<'_>,
        tapes: Tapes,
    ) -> Result<World, ConfigError> {
        World::build(scenario, seed, configure, Some(tapes))
    }

    fn build(
        scenario: &Scenario,
        seed: u64,
        configure: &Configure<'_>,
        tapes: Option<Tapes>,
    ) -> Result<World, ConfigError> {
        let mut world = World::empty(Cluster::new(scenario, seed), seed, tapes);
        let topology = &scenario.topology;
        for (name, lan) in &topology.lans {
            let id = world.fabric.add_lan(name, lan.latency);
            world.lans.insert(name.clone(), id);
        }
        let mut agents = vec![];
        for (name, node) in &topology.nodes {
            let flags: Vec<String> = scenario.flags.iter().chain(&node.flags).map(|f| f.value.clone()).collect();
            let (mut config, notices) =
                configure(name, &flags).map_err(|message| ConfigError::Flags { node: name.clone(), message })?;
            config.cni_file = Some("/etc/cni/net.d/10-kuberouter.conflist".into());
            let host = world.wire_host(topology, name, Role::Node);
            world.hosts[host].config = Some(config);
            world.hosts[host].flag_notices = notices;
            let now = world.queue.now();
            world.cluster.register_node(now, topology, name)?;
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
        let now = world.queue.now();
        world.cluster.apply_all(now, scenario)?;
        world.drain_api();
        Ok(world)
    }

    /// Makes a host with its interfaces (`eth1`, `eth2`, … in the order of the LAN names), addresses and default
    /// route.
    pub(crate) fn wire_host(&mut self, topology: &Topology, name: &str, role: Role) -> HostIx {
        let host = self.add_host(name, role);
        let id = self.hosts[host].id;
        for (number, lan) in topology.addresses(name).into_iter().flatten().map(|(lan, _)| lan).enumerate() {
            let link = format!("eth{}", number + 1);
            if let Some(lan_id) = self.lans.get(lan) {
                self.fabric.attach(id, &link, *lan_id);
            }
            self.hosts[host].links.insert(lan.clone(), link);
        }
        self.configure_links(host, topology);
        if role == Role::Tester {
            for port in topology.testers.get(name).into_iter().flat_map(|tester| &tester.serves) {
                let listening = self.fabric.listen(id, Protocol::Tcp, None, *port, name);
                debug_assert!(listening.is_ok(), "a host that was just made has no other server on {port}");
            }
            for path in ["net/ipv4/fib_multipath_hash_policy", "net/ipv6/fib_multipath_hash_policy"] {
                let set = self.fabric.kernel_mut(id).set_sysctl(path, 1);
                debug_assert!(set.is_ok(), "{path} exists in every namespace");
            }
        }
        host
    }

    /// Gives the interfaces of a host their addresses, and the host its default routes, where they are missing.
    pub(crate) fn configure_links(&mut self, host: HostIx, topology: &Topology) {
        let id = self.hosts[host].id;
        let name = self.hosts[host].name.clone();
        for (lan, addresses) in topology.addresses(&name).into_iter().flatten() {
            let Some(link) = self.hosts[host].links.get(lan).cloned() else { continue };
            for address in addresses {
                let prefix = topology.prefix_len(lan, *address);
                if let Ok(address) = IpNet::new(*address, prefix) {
                    self.fabric.kernel_mut(id).add_address(&link, address);
                }
            }
        }
        let gateways = topology.gateways(&name);
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
    }
}
