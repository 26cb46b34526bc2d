//! Hosts: their namespaces, wires and addresses.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex};

use fairway_api::WatcherId;
use fairway_backend_route::setup::Setup;
use fairway_desired::{MAIN_TABLE, NextHop, RouteKey, RouteKind, RouteValue};
use fairway_node::Node;
use fairway_objects::{NodeConfig, Notice};
use fairway_scenario::Topology;
use ipnet::IpNet;

use crate::faulty::Failures;
use crate::process::{Namespace, Process};
use crate::routers::ForeignRouter;

/// `RTPROT_BOOT`: what `ip route add` writes.
pub(crate) const PROTO_BOOT: u8 = 3;

/// What a host is in the topology.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// A node of the cluster.
    Node,
    /// A router.
    Router,
    /// A host that only loads.
    Tester,
}

/// One host.
#[derive(Debug)]
pub(crate) struct Host {
    pub(crate) name: String,
    pub(crate) role: Role,
    /// The servers of a tester. Killed before their namespace goes.
    pub(crate) servers: Vec<Process>,
    pub(crate) space: Arc<Namespace>,
    /// Writes its links, addresses and boot routes, as an operating system does at boot.
    pub(crate) setup: Setup,
    /// LAN to the switch port at the other end of its wire.
    pub(crate) ports: BTreeMap<String, String>,
    /// LAN to its interface there.
    pub(crate) links: BTreeMap<String, String>,
    /// Configuration of its agent.
    pub(crate) config: Option<NodeConfig>,
    /// Notices about its flags, which stand as long as the lab does.
    pub(crate) flag_notices: Vec<Notice>,
    /// Notices of the agent that runs.
    pub(crate) notices: Arc<Mutex<BTreeSet<Notice>>>,
    /// Calls into its kernel that shall fail.
    pub(crate) kernel_failures: Failures,
    pub(crate) agent: Option<Node>,
    /// Somebody else's daemon in place of our agent.
    pub(crate) foreign: Option<ForeignRouter>,
    /// A daemon ran here since it booted.
    pub(crate) daemon_ran: bool,
    pub(crate) watcher: Option<WatcherId>,
}

/// The bridges that are the LANs.
#[derive(Debug)]
pub(crate) struct Switch {
    space: Arc<Namespace>,
    pub(crate) setup: Setup,
    bridges: BTreeMap<String, String>,
    ports: u32,
}

/// Opens the writer of a namespace's links and routes.
pub(crate) fn setup_in(space: &Namespace) -> io::Result<Setup> {
    space.within(|| Setup::new().map_err(io::Error::other))
}

impl Switch {
    /// A bridge for each LAN.
    pub(crate) fn new(topology: &Topology) -> io::Result<Switch> {
        let space = Namespace::new("switch")?;
        let mut setup = setup_in(&space)?;
        // A switch forwards frames; no packet filter of the machine's shall see them.
        space.within(|| {
            for file in ["iptables", "ip6tables", "arptables"] {
                // Absent without br_netfilter, and then nothing filters either.
                let _absent = std::fs::write(format!("/proc/sys/net/bridge/bridge-nf-call-{file}"), "0");
            }
            Ok(())
        })?;
        let mut bridges = BTreeMap::new();
        for (number, lan) in topology.lans.keys().enumerate() {
            let bridge = format!("lan{number}");
            setup.add_bridge(&bridge).map_err(io::Error::other)?;
            setup.set_up(&bridge, true).map_err(io::Error::other)?;
            bridges.insert(lan.clone(), bridge);
        }
        Ok(Switch { space, setup, bridges, ports: 0 })
    }

    /// Wires a host's new interface to a LAN and returns the switch port.
    fn wire(&mut self, lan: &str, space: &Namespace, link: &str) -> io::Result<String> {
        let bridge = self.bridges.get(lan).ok_or_else(|| io::Error::other(format!("no LAN {lan}")))?;
        self.ports += 1;
        let port = format!("port{}", self.ports);
        self.setup.add_veth(&port, link, Some(space.file().as_fd())).map_err(io::Error::other)?;
        self.setup.enslave(&port, bridge).map_err(io::Error::other)?;
        self.setup.set_up(&port, true).map_err(io::Error::other)?;
        Ok(port)
    }

    /// Its namespace.
    pub(crate) fn space(&self) -> &Namespace {
        &self.space
    }

    /// The bridges, by LAN.
    pub(crate) fn bridges(&self) -> &BTreeMap<String, String> {
        &self.bridges
    }

    /// Takes a port off its LAN or puts it there again. The wire keeps its carrier: what is lost is lost in silence.
    pub(crate) fn join(&mut self, lan: &str, port: &str, joined: bool) -> io::Result<()> {
        let bridge = self.bridges.get(lan).ok_or_else(|| io::Error::other(format!("no LAN {lan}")))?;
        if joined { self.setup.enslave(port, bridge) } else { self.setup.release(port) }.map_err(io::Error::other)
    }
}

impl Host {
    /// Makes a host with its interfaces (`eth1`, `eth2`, … in the order of the LAN names), addresses and default
    /// route, as the simulated cluster does.
    pub(crate) fn new(switch: &mut Switch, topology: &Topology, name: &str, role: Role) -> io::Result<Host> {
        let space = Namespace::new(name)?;
        let mut setup = setup_in(&space)?;
        setup.set_up("lo", true).map_err(io::Error::other)?;
        let mut ports = BTreeMap::new();
        let mut links = BTreeMap::new();
        for (number, lan) in topology.addresses(name).into_iter().flatten().map(|(lan, _)| lan).enumerate() {
            let link = format!("eth{}", number + 1);
            let port = switch.wire(lan, &space, &link)?;
            setup.set_up(&link, true).map_err(io::Error::other)?;
            ports.insert(lan.clone(), port);
            links.insert(lan.clone(), link);
        }
        let mut host = Host {
            name: name.into(),
            role,
            space,
            setup,
            ports,
            links,
            config: None,
            flag_notices: vec![],
            notices: Arc::default(),
            kernel_failures: Failures::default(),
            agent: None,
            foreign: None,
            daemon_ran: false,
            watcher: None,
            servers: vec![],
        };
        host.configure_links(topology)?;
        if role == Role::Tester {
            host.sysctl("net/ipv4/fib_multipath_hash_policy", "1")?;
            host.sysctl("net/ipv6/fib_multipath_hash_policy", "1")?;
        }
        Ok(host)
    }

    /// Gives the interfaces their addresses, and the host its default routes, where they are missing.
    pub(crate) fn configure_links(&mut self, topology: &Topology) -> io::Result<()> {
        for (lan, addresses) in topology.addresses(&self.name).into_iter().flatten() {
            let Some(link) = self.links.get(lan) else { continue };
            for address in addresses {
                let address = IpNet::new(*address, topology.prefix_len(lan, *address)).map_err(io::Error::other)?;
                self.setup.add_address(link, address).map_err(io::Error::other)?;
            }
        }
        let gateways = topology.gateways(&self.name);
        for ipv6 in [false, true] {
            let mut next_hops: Vec<NextHop> = gateways
                .iter()
                .filter_map(|(gateway, lan)| {
                    let via = topology.addresses(gateway)?.get(lan)?.iter().find(|a| a.is_ipv6() == ipv6)?;
                    let own = topology.addresses(&self.name)?.get(lan)?.iter().any(|a| a.is_ipv6() == ipv6);
                    let dev = self.links.get(lan).filter(|_| own)?;
                    Some(NextHop { via: Some(*via), dev: Some(dev.as_str().into()), weight: 1 })
                })
                .collect();
            next_hops.sort();
            let Some(via) = next_hops.first().and_then(|n| n.via) else { continue };
            add_default(&mut self.setup, via, next_hops)?;
        }
        Ok(())
    }

    /// Sets the interface on a LAN up or down; up with what [`Host::configure_links`] gives.
    pub(crate) fn set_link(&mut self, topology: &Topology, lan: &str, up: bool) -> io::Result<()> {
        let link = self.links.get(lan).ok_or_else(|| io::Error::other(format!("{} is not on LAN {lan}", self.name)))?;
        self.setup.set_up(link, up).map_err(io::Error::other)?;
        if up { self.configure_links(topology) } else { Ok(()) }
    }

    /// Writes a kernel parameter.
    pub(crate) fn sysctl(&self, path: &str, value: &str) -> io::Result<()> {
        let named = |error: io::Error| io::Error::new(error.kind(), format!("{}: {path}: {error}", self.name));
        self.space.within(|| std::fs::write(format!("/proc/sys/{path}"), value)).map_err(named)
    }
}

/// Adds the default route of the gateway's family.
pub(crate) fn add_default(setup: &mut Setup, gateway: IpAddr, next_hops: Vec<NextHop>) -> io::Result<()> {
    let zero: IpAddr = match gateway {
        IpAddr::V4(_) => std::net::Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => std::net::Ipv6Addr::UNSPECIFIED.into(),
    };
    let key = RouteKey { prefix: IpNet::new_assert(zero, 0), table: MAIN_TABLE, metric: 0 };
    let value = RouteValue { kind: RouteKind::Unicast, protocol: PROTO_BOOT, src: None, next_hops };
    setup.add_route(key, value).map_err(io::Error::other)
}
