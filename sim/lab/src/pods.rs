//! The kubelet, the container runtime and the CNI plugin of every node.
//!
//! A pod is a network namespace joined to the node's `kube-bridge` by a veth pair, with the gateway address on the
//! bridge, as the CNI `bridge` plugin with `isDefaultGateway` and `hairpinMode` makes it. Its container is an `mconnect`
//! server for each port that it declares.

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader};
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use fairway_api::PodStart;
use fairway_backend_route::{PodSpace, PodSpaces};
use fairway_desired::NextHop;
use fairway_objects::Protocol;
use ipnet::IpNet;

use crate::host::{add_default, setup_in};
use crate::lab::Lab;
use crate::process::{Namespace, Process};

/// The bridge of the CNI configuration that kube-router ships.
const BRIDGE: &str = "kube-bridge";
/// How long a server may take until it listens.
const START: Duration = Duration::from_secs(20);

/// Clients by address, as the servers saw them.
pub(crate) type Seen = Arc<Mutex<BTreeMap<IpAddr, u64>>>;

/// A pod that runs.
#[derive(Debug)]
pub(crate) struct Pod {
    pub(crate) node: String,
    pub(crate) space: Arc<Namespace>,
    /// Killed when the pod is dropped, before its namespace is.
    _servers: Vec<Process>,
}

/// The pods that run, and who served what.
#[derive(Debug, Default)]
pub(crate) struct Pods {
    running: BTreeMap<(String, String), Pod>,
    /// Every pod that ever ran, and its node: a report may name a pod that is gone.
    nodes: BTreeMap<String, String>,
    pub(crate) seen: Seen,
    /// By node, for those who write into pods.
    spaces: Arc<Mutex<BTreeMap<String, BTreeMap<String, PodSpace>>>>,
    count: u64,
}

impl Pods {
    /// Namespace, name, node of the pods that run.
    pub(crate) fn list(&self) -> Vec<(String, String, String)> {
        self.running.iter().map(|((ns, name), pod)| (ns.clone(), name.clone(), pod.node.clone())).collect()
    }

    pub(crate) fn get(&self, namespace: &str, name: &str) -> Option<&Pod> {
        self.running.get(&(namespace.into(), name.into()))
    }

    /// The node on which a pod of this name runs or ran.
    pub(crate) fn node_of(&self, pod: &str) -> Option<&str> {
        self.nodes.get(pod).map(String::as_str)
    }

    /// Says which pods run on a node, whenever it is asked.
    pub(crate) fn spaces_of(&self, node: &str) -> PodSpaces {
        let (spaces, node) = (Arc::clone(&self.spaces), node.to_string());
        Arc::new(move || {
            let spaces = spaces.lock().unwrap_or_else(|e| e.into_inner());
            Ok(spaces.get(&node).into_iter().flat_map(|pods| pods.values().cloned()).collect())
        })
    }

    /// The pod's process ends, then its namespace goes.
    pub(crate) fn stop(&mut self, namespace: &str, pod: &str) {
        if let Some(gone) = self.running.remove(&(namespace.into(), pod.into())) {
            let mut spaces = self.spaces.lock().unwrap_or_else(|e| e.into_inner());
            spaces.entry(gone.node.clone()).or_default().remove(gone.space.name());
        }
    }

    /// A node lost power: so did its pods.
    pub(crate) fn power_off(&mut self, node: &str) {
        self.running.retain(|_, pod| pod.node != node);
        self.spaces.lock().unwrap_or_else(|e| e.into_inner()).remove(node);
    }
}

impl Lab {
    /// The kubelet of the pod's node makes its sandbox and starts the containers. False if the node has no power.
    pub(crate) fn start_pod(&mut self, start: PodStart) -> io::Result<bool> {
        let Some(node) = self.hosts.get_mut(&start.node) else { return Ok(false) };
        self.pods.count += 1;
        let number = self.pods.count;
        let space = Namespace::new(&format!("pod{number}"))?;
        let veth = format!("veth{number}");
        let host = &mut node.setup;
        host.add_bridge(BRIDGE).map_err(io::Error::other)?;
        host.set_up(BRIDGE, true).map_err(io::Error::other)?;
        for (gateway, ip) in start.gateway.iter().zip(&start.ips) {
            let address = IpNet::new(*gateway, ip.prefix_len()).map_err(io::Error::other)?;
            host.add_address(BRIDGE, address).map_err(io::Error::other)?;
        }
        host.add_veth(&veth, "eth0", Some(space.file().as_fd())).map_err(io::Error::other)?;
        host.enslave(&veth, BRIDGE).map_err(io::Error::other)?;
        host.hairpin(&veth, true).map_err(io::Error::other)?;
        host.set_up(&veth, true).map_err(io::Error::other)?;
        let mut setup = setup_in(&space)?;
        setup.set_up("lo", true).map_err(io::Error::other)?;
        setup.set_up("eth0", true).map_err(io::Error::other)?;
        for (gateway, ip) in start.gateway.iter().zip(&start.ips) {
            setup.add_address("eth0", *ip).map_err(io::Error::other)?;
            let next_hop = NextHop { via: Some(*gateway), dev: Some("eth0".into()), weight: 1 };
            add_default(&mut setup, *gateway, vec![next_hop])?;
        }
        // One server process for each port number; TCP is always served, UDP if it is declared.
        let mut ports: BTreeMap<u16, bool> = BTreeMap::new();
        for port in &start.ports {
            match port.protocol {
                Protocol::Tcp => drop(ports.entry(port.port).or_default()),
                Protocol::Udp => drop(ports.insert(port.port, true)),
                Protocol::Sctp => {}
            }
        }
        let mut servers = vec![];
        for (port, udp) in ports {
            servers.push(self.serve(&space, &start.name, port, udp)?);
        }
        self.pods.nodes.insert(start.name.clone(), start.node.clone());
        let place = PodSpace {
            addresses: start.ips.iter().map(IpNet::addr).collect(),
            namespace: PathBuf::from("/run/netns").join(space.name()),
        };
        let mut spaces = self.pods.spaces.lock().unwrap_or_else(|e| e.into_inner());
        spaces.entry(start.node.clone()).or_default().insert(space.name().into(), place);
        drop(spaces);
        let pod = Pod { node: start.node, space, _servers: servers };
        self.pods.running.insert((start.namespace, start.name), pod);
        Ok(true)
    }

    /// Starts the servers of a tester.
    pub(crate) fn start_servers(&mut self, name: &str) -> io::Result<()> {
        let ports = self.topology.testers.get(name).map(|tester| tester.serves.clone()).unwrap_or_default();
        let Some(space) = self.hosts.get(name).map(|host| Arc::clone(&host.space)) else { return Ok(()) };
        let servers = ports.into_iter().map(|port| self.serve(&space, name, port, false)).collect::<io::Result<_>>()?;
        if let Some(host) = self.hosts.get_mut(name) {
            host.servers = servers;
        }
        Ok(())
    }

    /// Starts a server and returns when it listens.
    fn serve(&self, space: &Namespace, name: &str, port: u16, udp: bool) -> io::Result<Process> {
        let mut command = Command::new(&self.options.program);
        command.args(["mconnect", "-server", "-clients", "-host", name, "-address", &format!("[::]:{port}")]);
        if udp {
            command.arg("-udp");
        }
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut process = space.spawn(&mut command)?;
        if let Some(stdout) = process.child().stdout.take() {
            let seen = Arc::clone(&self.pods.seen);
            // Both threads end with the process.
            std::thread::spawn(move || {
                for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                    if let Some(address) = line.strip_prefix("client ").and_then(|a| a.parse::<IpAddr>().ok()) {
                        *seen.lock().unwrap_or_else(|e| e.into_inner()).entry(address.to_canonical()).or_default() += 1;
                    }
                }
            });
        }
        let (said, hear) = mpsc::channel();
        if let Some(stderr) = process.child().stderr.take() {
            std::thread::spawn(move || {
                for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                    // Nobody listens any more once the server does.
                    let _later = said.send(line);
                }
            });
        }
        match hear.recv_timeout(START) {
            Ok(line) if line.contains("listening") => Ok(process),
            Ok(line) => Err(io::Error::other(line)),
            Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, format!("the server on port {port} does not start"))),
        }
    }
}
