//! The kubelet, the container runtime and the CNI plugin of every node, as far as the network sees them.
//!
//! A pod is a network namespace joined to the node's `kube-bridge` by a veth pair, with the gateway address on the
//! bridge, as the CNI `bridge` plugin with `isDefaultGateway` and `hairpinMode` makes it. Its containers are played by
//! a server that answers every connection and datagram on the declared container ports with the pod's name, which
//! is what mconnect does.

use std::collections::BTreeMap;
use std::net::IpAddr;

use fairway_api::PodStart;
use fairway_desired::{MAIN_TABLE, NextHop, Protocol, RouteKey, RouteKind, RouteValue};
use fairway_kernel::HostId;
use ipnet::IpNet;

use crate::world::{Event, Role, World};
use crate::{HostIx, Time};

/// The bridge of the CNI configuration that kube-router ships.
const BRIDGE: &str = "kube-bridge";
/// `RTPROT_BOOT`: what `ip route add` and the CNI plugins write.
pub(crate) const PROTO_BOOT: u8 = 3;
/// The pods that run somewhere.
#[derive(Debug, Default)]
pub(crate) struct Pods {
    /// `namespace/name` to its network namespace.
    running: BTreeMap<(String, String), HostIx>,
    /// Names veth interfaces.
    veths: u64,
}

impl Pods {
    /// Running pods: namespace, name, host.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, &str, HostIx)> {
        self.running.iter().map(|((ns, name), host)| (ns.as_str(), name.as_str(), *host))
    }
}

impl World {
    /// The kubelet of the pod's node makes its sandbox and starts the containers.
    pub(crate) fn start_pod(&mut self, start: PodStart) {
        let Some(&node) = self.names.get(&start.node) else { return };
        if !self.hosts[node].alive {
            return;
        }
        let pod = self.add_host(&start.name, Role::Pod(node));
        let (node_id, pod_id) = (self.hosts[node].id, self.hosts[pod].id);
        self.pods.veths += 1;
        let veth = format!("veth{}", self.pods.veths);
        self.fabric.veth(node_id, &veth, pod_id, "eth0");
        let kernel = self.fabric.kernel_mut(node_id);
        kernel.add_bridge(BRIDGE);
        kernel.set_up(BRIDGE, true);
        for (gateway, ip) in start.gateway.iter().zip(&start.ips) {
            if let Ok(address) = IpNet::new(*gateway, ip.prefix_len()) {
                kernel.add_address(BRIDGE, address);
            }
        }
        kernel.enslave(&veth, BRIDGE, true);
        self.tell_interfaces(node);
        let kernel = self.fabric.kernel_mut(pod_id);
        for (gateway, ip) in start.gateway.iter().zip(&start.ips) {
            kernel.add_address("eth0", *ip);
            let route = RouteValue {
                kind: RouteKind::Unicast,
                protocol: PROTO_BOOT,
                src: None,
                next_hops: vec![NextHop { via: Some(*gateway), dev: Some("eth0".into()), weight: 1 }],
            };
            let key = RouteKey { prefix: default_route(*gateway), table: MAIN_TABLE, metric: 0 };
            let added = kernel.add_route(key, route);
            debug_assert_eq!(added, Ok(()), "the gateway is on the pod's link");
        }
        for port in &start.ports {
            let protocol = match port.protocol {
                fairway_objects::Protocol::Tcp => Protocol::Tcp,
                fairway_objects::Protocol::Udp => Protocol::Udp,
                fairway_objects::Protocol::Sctp => continue,
            };
            // Two containers that claim one port: the second one fails, as it would.
            let _listening = self.fabric.listen(pod_id, protocol, None, port.port, &start.name);
        }
        self.pods.running.insert((start.namespace.clone(), start.name.clone()), pod);
        self.queue.after(Time::ZERO, Event::PodStarted { namespace: start.namespace, pod: start.name });
    }

    /// Addresses of the pods that run on a node, with their kernels.
    pub(crate) fn pods_of(&self, node: HostIx) -> Vec<(IpAddr, HostId)> {
        let here = self.pods.iter().filter(|(_, _, host)| self.hosts[*host].role == Role::Pod(node));
        let id = |(_, _, host): (&str, &str, HostIx)| self.hosts[host].id;
        here.map(id)
            .flat_map(|id| {
                let addresses = self.fabric.kernel(id).addresses().filter(|(link, _)| *link == "eth0");
                addresses.map(move |(_, net)| (net.addr(), id)).collect::<Vec<_>>()
            })
            .collect()
    }

    pub(crate) fn pod_started(&mut self, namespace: &str, pod: &str) {
        let now = self.queue.now();
        if self.pods.running.contains_key(&(namespace.into(), pod.into())) {
            self.cluster.api().pod_started(now, namespace, pod);
            self.drain_api();
        }
    }

    /// The pod is told to end. Its server goes on answering through the grace period, as one with a `preStop` hook
    /// does, so that what is lost on removal is the fault of the network and not of the workload.
    pub(crate) fn stop_pod(&mut self, namespace: &str, pod: &str, node: &str, grace: Time) {
        let alive = self.names.get(node).is_some_and(|n| self.hosts[*n].alive);
        if alive {
            self.queue.after(grace, Event::PodStopped { namespace: namespace.into(), pod: pod.into() });
        }
    }

    pub(crate) fn pod_stopped(&mut self, namespace: &str, pod: &str) {
        let now = self.queue.now();
        if let Some(host) = self.pods.running.remove(&(namespace.into(), pod.into())) {
            self.remove_pod_host(host);
        }
        self.cluster.api().pod_stopped(now, namespace, pod);
        self.drain_api();
    }

    fn remove_pod_host(&mut self, host: HostIx) {
        let (name, id) = (self.hosts[host].name.clone(), self.hosts[host].id);
        // The process ends first: its kernel resets what is open, and the peers hear of it.
        self.fabric.kill(id, &name);
        self.fabric.remove_host(id);
        self.hosts[host].alive = false;
        self.names.remove(&name);
    }

    /// A node lost power: so did its pods.
    pub(crate) fn pods_power_off(&mut self, node: HostIx) {
        let gone: Vec<_> = self
            .pods
            .running
            .iter()
            .filter(|(_, host)| self.hosts[**host].role == Role::Pod(node))
            .map(|(key, host)| (key.clone(), *host))
            .collect();
        for (key, host) in gone {
            self.pods.running.remove(&key);
            self.fabric.remove_host(self.hosts[host].id);
            self.hosts[host].alive = false;
            let name = self.hosts[host].name.clone();
            self.names.remove(&name);
        }
    }
}

/// `default` of the gateway's family.
pub(crate) fn default_route(gateway: IpAddr) -> IpNet {
    let zero: IpAddr = match gateway {
        IpAddr::V4(_) => std::net::Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => std::net::Ipv6Addr::UNSPECIFIED.into(),
    };
    IpNet::new_assert(zero, 0)
}
