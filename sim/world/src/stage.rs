//! The world as a stage: what a scenario can ask of it.

use std::net::SocketAddr;

use fairway_agent::Input;
use fairway_bgp as bgp;
use fairway_desired::{KernelEvent, MAIN_TABLE, NextHop, PlaneId, Protocol, RouteKey, RouteKind, RouteValue};
use fairway_kernel::{Connect, Injected};
use fairway_scenario::{
    BfdSession, CniConfig, EndpointState, Fault, KernelFail, LoadRequest, LoadResult, MconnectRequest, Neighbor,
    NoticeLine, Origin, Plane, RibPath, Route, Stage, StageError, Target, TraceRequest, TraceResult, VirtualServer,
};
use ipnet::IpNet;
use serde_json::Value;

use crate::clients::{Order, Work};
use crate::world::{Role, World};
use crate::{HostIx, Time};

impl Stage for World {
    fn name(&self) -> &'static str {
        "memory"
    }

    fn features(&self) -> Vec<String> {
        ["ipvs", "ipv6", "tunnel", "md5"].map(String::from).to_vec()
    }

    fn virtual_time(&self) -> bool {
        true
    }

    fn now(&self) -> Time {
        self.queue.now()
    }

    fn advance(&mut self, limit: Time) -> Time {
        if self.step(limit) {
            // Everything that happens at the same instant belongs together.
            let now = self.queue.now();
            while self.queue.next_at() == Some(now) && self.step(now) {}
        } else {
            self.queue.skip_to(limit);
        }
        self.queue.now()
    }

    fn apply(&mut self, file: &str, yaml: &str) -> Result<Vec<String>, StageError> {
        let now = self.queue.now();
        let lines = self.cluster.apply(now, file, yaml);
        self.drain_api();
        lines
    }

    fn delete(&mut self, kind: &str, namespace: &str, name: &str) -> Result<(), StageError> {
        let now = self.queue.now();
        let result = self.cluster.delete(now, kind, namespace, name);
        self.drain_api();
        result
    }

    fn scale(&mut self, namespace: &str, deployment: &str, replicas: u32) -> Result<(), StageError> {
        let now = self.queue.now();
        let result = self.cluster.scale(now, namespace, deployment, replicas);
        self.drain_api();
        result
    }

    fn patch(&mut self, kind: &str, namespace: &str, name: &str, merge: &Value) -> Result<(), StageError> {
        let now = self.queue.now();
        let result = self.cluster.patch(now, kind, namespace, name, merge);
        self.drain_api();
        result
    }

    fn fault(&mut self, fault: &Fault) -> Result<String, StageError> {
        let now = self.queue.now();
        let said = match fault {
            Fault::ApiServer(how) => {
                self.api_server(how);
                how.to_string()
            }
            Fault::RegisterNode(name) => {
                let registered = self.cluster.register_node(now, &self.topology, name);
                registered.map_err(|error| StageError::Refused(error.to_string()))?;
                format!("node/{name} registered")
            }
            Fault::KillAgent(name) => {
                let host = self.find_host(name)?;
                if self.hosts[host].agent.is_none() {
                    return Err(StageError::Refused(format!("no agent runs on {name}")));
                }
                self.kill_agent(host);
                format!("agent of {name} killed")
            }
            Fault::StartAgent(name) => {
                let host = self.find_host(name)?;
                if self.hosts[host].config.is_none() {
                    return Err(StageError::Refused(format!("{name} has no agent")));
                }
                self.start_agent(host);
                format!("agent of {name} started")
            }
            Fault::RestartAgent(name) => {
                let host = self.find_host(name)?;
                if self.hosts[host].config.is_none() {
                    return Err(StageError::Refused(format!("{name} has no agent")));
                }
                let generation = self.hosts[host].generation;
                self.agent_input(host, generation, Input::Shutdown);
                self.kill_agent(host);
                self.start_agent(host);
                format!("agent of {name} restarted")
            }
            Fault::Cut { host, lan } => {
                let (id, link) = self.link_of(host, lan)?;
                self.fabric.cut(id, &link);
                format!("{host} {link} cut from {lan}")
            }
            Fault::Heal { host, lan } => {
                let (id, link) = self.link_of(host, lan)?;
                self.fabric.heal(id, &link);
                format!("{host} {link} joined to {lan} again")
            }
            Fault::LinkDown { host, lan } => {
                let (id, link) = self.link_of(host, lan)?;
                self.fabric.kernel_mut(id).set_up(&link, false);
                self.tell_interfaces(self.find_host(host)?);
                format!("{host} {link} set down")
            }
            Fault::LinkUp { host, lan } => {
                let (id, link) = self.link_of(host, lan)?;
                self.fabric.kernel_mut(id).set_up(&link, true);
                let index = self.find_host(host)?;
                let topology = self.topology.clone();
                self.configure_links(index, &topology);
                self.tell_interfaces(index);
                format!("{host} {link} set up")
            }
            Fault::Unplug { host, lan } => {
                let (id, link) = self.link_of(host, lan)?;
                self.fabric.set_carrier(id, &link, false);
                self.tell_interfaces(self.find_host(host)?);
                format!("{host} {link} unplugged from {lan}")
            }
            Fault::Plug { host, lan } => {
                let (id, link) = self.link_of(host, lan)?;
                self.fabric.set_carrier(id, &link, true);
                self.tell_interfaces(self.find_host(host)?);
                format!("{host} {link} plugged into {lan}")
            }
            Fault::AddRoute { on, to, via } => {
                let host = self.find_host(on)?;
                let hop = NextHop { via: Some(*via), dev: None, weight: 1 };
                let value =
                    RouteValue { kind: RouteKind::Unicast, protocol: PROTO_STATIC, src: None, next_hops: vec![hop] };
                let added = self.fabric.kernel_mut(self.hosts[host].id).add_route(somebody_elses(*to), value);
                added.map_err(|errno| StageError::Refused(format!("the kernel of {on} refused: errno {errno}")))?;
                self.tell_kernel(host, KernelEvent::Foreign(somebody_elses(*to)));
                format!("{on}: somebody added a route to {to} via {via}")
            }
            Fault::DeleteRoute { on, to } => {
                let host = self.find_host(on)?;
                let key = somebody_elses(*to);
                if !self.fabric.kernel_mut(self.hosts[host].id).del_route(&key, PROTO_STATIC) {
                    return Err(StageError::NotFound(format!("a route to {to} of somebody else on {on}")));
                }
                self.tell_kernel(host, KernelEvent::Foreign(key));
                format!("{on}: somebody deleted the route to {to}")
            }
            Fault::AddAddress { host, lan, address } => {
                let (id, link) = self.link_of(host, lan)?;
                self.fabric.kernel_mut(id).add_address(&link, *address);
                self.tell_interfaces(self.find_host(host)?);
                format!("{host} {link} has {address}, too")
            }
            Fault::RenameLink { on, from, to } => {
                let host = self.find_host(on)?;
                if !self.fabric.kernel_mut(self.hosts[host].id).rename_link(from, to) {
                    return Err(StageError::Refused(format!("no interface {from} on {on}, or {to} is taken")));
                }
                self.tell_interfaces(host);
                format!("{on}: somebody renamed {from} to {to}")
            }
            Fault::PowerOff(name) => {
                let host = self.find_host(name)?;
                self.power_off(host);
                format!("{name} lost power")
            }
            Fault::PowerOn(name) => {
                self.power_on(name)?;
                format!("{name} boots")
            }
            Fault::Drain(_)
            | Fault::Cordon(_)
            | Fault::Uncordon(_)
            | Fault::DeleteNode(_)
            | Fault::DeletePod(_)
            | Fault::NotReady(_)
            | Fault::Ready(_) => {
                let running = self.running_pods();
                let said = self.cluster.fault(now, fault, &running)?;
                said.unwrap_or_default()
            }
            Fault::FlapBgp { on, peer } => {
                self.tell_bgp(on, bgp::Input::ResetPeer { peer: *peer, message: String::new() })?;
                format!("{on} resets its session with {peer}")
            }
            Fault::AdminDown { on, peer, message } => {
                self.tell_bgp(on, bgp::Input::EnablePeer { peer: *peer, enabled: false, message: message.clone() })?;
                format!("{on} shuts its session with {peer} down")
            }
            Fault::AdminUp { on, peer } => {
                self.tell_bgp(on, bgp::Input::EnablePeer { peer: *peer, enabled: true, message: String::new() })?;
                format!("{on} lets its session with {peer} come again")
            }
            Fault::Policy { on, reject } => {
                let host = self.find_host(on)?;
                let generation = self.hosts[host].generation;
                let config = self.hosts[host].config.as_mut().map(|config| &mut config.role);
                let Some(fairway_objects::Role::Router(router)) = config else {
                    return Err(StageError::Refused(format!("{on} is no router")));
                };
                router.import_reject.clone_from(reject);
                let router = Box::new(router.clone());
                self.agent_input(host, generation, Input::Router(router));
                fault.to_string()
            }
            Fault::Kernel { on, plane, fail, times } => {
                let host = self.find_host(on)?;
                let injected = match fail {
                    KernelFail::Interrupted => Injected::Interrupted,
                    KernelFail::Lost => Injected::Lost,
                    KernelFail::Busy => Injected::Busy,
                };
                self.fabric.kernel_mut(self.hosts[host].id).inject(plane_id(*plane), injected, *times);
                format!("{on}: the next {times} calls for {} fail ({})", plane.as_str(), fail.as_str())
            }
            Fault::Tamper { on, plane } => {
                let host = self.find_host(on)?;
                let deleted = self.tamper(host, *plane)?;
                // Of the others the kernel tells nobody.
                if let Plane::Link | Plane::Addr | Plane::Rule | Plane::Route = plane {
                    self.tell_kernel(host, KernelEvent::Changed(plane_id(*plane)));
                }
                format!("{on}: deleted {deleted} entries of {}", plane.as_str())
            }
        };
        self.drain_api();
        Ok(said)
    }

    fn neighbors(&mut self, host: &str) -> Result<Vec<Neighbor>, StageError> {
        self.view_neighbors(host)
    }

    fn bfd(&mut self, host: &str) -> Result<Vec<BfdSession>, StageError> {
        let host = self.find_host(host)?;
        Ok(self.hosts[host].agent.as_deref().map(fairway_stage::bfd).unwrap_or_default())
    }

    fn cni(&mut self, host: &str) -> Result<Option<CniConfig>, StageError> {
        let host = self.find_host(host)?;
        let file = self.hosts[host].config.as_ref().and_then(|config| config.cni_file.clone());
        let value = file.and_then(|file| self.fabric.kernel(self.hosts[host].id).file(&file).cloned());
        Ok(value.map(|value| CniConfig { ranges: value.ranges, mtu: value.mtu }))
    }

    fn rib(&mut self, host: &str, ipv6: bool) -> Result<Vec<RibPath>, StageError> {
        self.view_rib(host, ipv6)
    }

    fn routes(&mut self, host: &str, ipv6: bool) -> Result<Vec<Route>, StageError> {
        self.view_routes(host, ipv6)
    }

    fn virtual_servers(&mut self, host: &str) -> Result<Vec<VirtualServer>, StageError> {
        self.view_virtual_servers(host)
    }

    fn show_virtual_servers(&mut self, host: &str) -> Result<String, StageError> {
        let host = self.find_host(host)?;
        Ok(self.fabric.kernel_mut(self.hosts[host].id).show_virtual_servers())
    }

    fn resolve(&mut self, target: &Target) -> Result<SocketAddr, StageError> {
        self.cluster.resolve(target)
    }

    fn endpoints(&mut self, namespace: &str, service: &str) -> Result<Vec<EndpointState>, StageError> {
        Ok(self.cluster.endpoints(namespace, service))
    }

    fn notices(&mut self) -> Vec<NoticeLine> {
        self.view_notices()
    }

    fn in_sync(&mut self, host: &str) -> Result<bool, StageError> {
        let host = self.find_host(host)?;
        let host = &self.hosts[host];
        let heard = host.watcher.is_none_or(|watcher| self.cluster.api().up_to_date(watcher));
        Ok(heard && host.agent.as_deref().is_some_and(fairway_agent::Agent::in_sync))
    }

    fn mconnect(&mut self, request: &MconnectRequest) -> Result<LoadResult, StageError> {
        let timeout = request.timeout.unwrap_or(if request.keep {
            Time::from_secs(3600)
        } else {
            Time::from_secs(2) + Time::from_millis(request.nconn.into())
        });
        let order = Order {
            from: self.origin(&request.from)?,
            to: self.cluster.resolve(&request.address)?,
            udp: request.udp,
            srccidr: request.srccidr,
            work: Work::Run {
                nconn: request.nconn,
                max_concurrent: request.max_concurrent,
                keep: request.keep,
                timeout,
            },
        };
        let client = self.start_client(order);
        // The client's own deadline ends the run, so there always is a next event.
        while !self.client_done(client) && self.step(Time::MAX) {}
        Ok(self.end_client(client))
    }

    fn load_start(&mut self, request: &LoadRequest) -> Result<(), StageError> {
        if self.clients.background.contains_key(&request.name) {
            return Err(StageError::Refused(format!("load {} runs already", request.name)));
        }
        let order = Order {
            from: self.origin(&request.from)?,
            to: self.cluster.resolve(&request.address)?,
            udp: request.udp,
            srccidr: request.srccidr,
            work: Work::Background { mode: request.mode, timeout: request.timeout },
        };
        let client = self.start_client(order);
        self.clients.background.insert(request.name.clone(), client);
        Ok(())
    }

    fn load_take(&mut self, name: &str) -> Result<LoadResult, StageError> {
        let client = self.background(name)?;
        Ok(self.take_client(client))
    }

    fn load_stop(&mut self, name: &str) -> Result<LoadResult, StageError> {
        let client = self.background(name)?;
        self.clients.background.remove(name);
        Ok(self.end_client(client))
    }

    fn trace(&mut self, request: &TraceRequest) -> Result<TraceResult, StageError> {
        let from = self.origin(&request.from)?;
        let to = self.cluster.resolve(&request.to)?;
        let connect = Connect {
            from: self.hosts[from].id,
            owner: "trace".into(),
            src: None,
            sport: None,
            to: to.ip(),
            port: to.port(),
            protocol: match request.protocol {
                fairway_scenario::Protocol::Tcp => Protocol::Tcp,
                fairway_scenario::Protocol::Udp => Protocol::Udp,
                fairway_scenario::Protocol::Sctp => Protocol::Sctp,
            },
        };
        let trace = self.fabric.trace(self.queue.now(), &connect);
        let through = trace.through().into_iter().map(|id| self.fabric.host_name(id).to_string()).collect();
        Ok(TraceResult { text: trace.to_string(), delivered: trace.delivered(), through })
    }

    fn trace_hash(&self) -> Option<u64> {
        Some(self.hash())
    }
}

/// `RTPROT_STATIC`
const PROTO_STATIC: u8 = 4;

fn somebody_elses(to: IpNet) -> RouteKey {
    RouteKey { prefix: to.trunc(), table: MAIN_TABLE, metric: 0 }
}

fn plane_id(plane: Plane) -> PlaneId {
    match plane {
        Plane::Sysctl => PlaneId::Sysctl,
        Plane::Link => PlaneId::Link,
        Plane::Addr => PlaneId::Addr,
        Plane::Filter => PlaneId::Filter,
        Plane::Rule => PlaneId::Rule,
        Plane::Route => PlaneId::Route,
        Plane::Ipvs => PlaneId::Ipvs,
    }
}

impl World {
    /// An operator says something to the speaker of a host.
    fn tell_bgp(&mut self, on: &str, input: bgp::Input) -> Result<(), StageError> {
        let host = self.find_host(on)?;
        let generation = self.hosts[host].generation;
        if self.hosts[host].agent.is_none() {
            return Err(StageError::Refused(format!("no agent runs on {on}")));
        }
        self.agent_input(host, generation, Input::Bgp(input));
        Ok(())
    }

    fn background(&self, name: &str) -> Result<u64, StageError> {
        self.clients.background.get(name).copied().ok_or_else(|| StageError::NotFound(format!("load {name}")))
    }

    fn link_of(&self, host: &str, lan: &str) -> Result<(fairway_kernel::HostId, String), StageError> {
        let index = self.find_host(host)?;
        let link = self.hosts[index].links.get(lan);
        let link = link.ok_or_else(|| StageError::NotFound(format!("{host} is not on LAN {lan}")))?;
        Ok((self.hosts[index].id, link.clone()))
    }

    /// Pods that run now, by name: namespace, name, node.
    fn running_pods(&self) -> Vec<(String, String, String)> {
        let pods = self.pods.iter().filter_map(|(namespace, name, host)| match self.hosts[host].role {
            Role::Pod(node) => Some((namespace.into(), name.into(), self.hosts[node].name.clone())),
            _ => None,
        });
        pods.collect()
    }

    fn origin(&self, origin: &Origin) -> Result<HostIx, StageError> {
        match origin {
            Origin::Host(name) => self.find_host(name),
            Origin::Pod { namespace, name, on, index } => {
                let pods: Vec<String> = self
                    .running_pods()
                    .into_iter()
                    .filter(|(ns, pod, node)| {
                        ns == namespace && pod.starts_with(name.as_str()) && on.as_ref().is_none_or(|on| on == node)
                    })
                    .map(|(_, pod, _)| pod)
                    .collect();
                let pod = pods
                    .get(*index)
                    .ok_or_else(|| StageError::NotFound(format!("{origin}: only {} pods match", pods.len())))?;
                self.find_host(pod)
            }
        }
    }

    /// A host loses power: nothing of it is left, and nobody is told.
    fn power_off(&mut self, host: HostIx) {
        let now = self.queue.now();
        self.tcp_power_off(host);
        self.pods_power_off(host);
        self.forget_agent(host);
        self.hosts[host].alive = false;
        self.fabric.remove_host(self.hosts[host].id);
        if self.hosts[host].role == Role::Node {
            let name = self.hosts[host].name.clone();
            self.cluster.api().kubelet(now, &name, false);
        }
        self.hosts[host].notices.clear();
    }

    /// A host boots again, with empty kernel state and without the pods it had; the API server replaces those.
    fn power_on(&mut self, name: &str) -> Result<(), StageError> {
        let now = self.queue.now();
        let old = *self.names.get(name).ok_or_else(|| StageError::NotFound(format!("host {name}")))?;
        if self.hosts[old].alive {
            return Err(StageError::Refused(format!("{name} has power")));
        }
        let topology = self.topology.clone();
        let role = self.hosts[old].role;
        let host = self.wire_host(&topology, name, role);
        self.hosts[host].config = self.hosts[old].config.clone();
        self.hosts[host].flag_notices = self.hosts[old].flag_notices.clone();
        if role == Role::Node {
            self.cluster.node_booted(now, name);
        }
        self.start_agent(host);
        Ok(())
    }

    /// Somebody deletes our state behind the agent's back. Returns how many entries there were.
    fn tamper(&mut self, host: HostIx, plane: Plane) -> Result<usize, StageError> {
        use fairway_desired::{Addr, Backend, Fault as KernelFault, Filter, Ipvs, Link, Op, Plane as _, Route, Rule};
        fn wipe<P: fairway_desired::Plane>(kernel: &mut impl Backend<P>) -> Result<usize, KernelFault> {
            let table = kernel.observe()?;
            let ops: Vec<Op<P>> = table.into_keys().rev().map(Op::Del).collect();
            kernel.apply(&ops)?;
            Ok(ops.len())
        }
        let id = self.hosts[host].id;
        let kernel = self.fabric.kernel_mut(id);
        let wiped = match plane_id(plane) {
            Link::ID => wipe::<Link>(kernel),
            Addr::ID => wipe::<Addr>(kernel),
            Filter::ID => wipe::<Filter>(kernel),
            Rule::ID => wipe::<Rule>(kernel),
            Route::ID => wipe::<Route>(kernel),
            Ipvs::ID => wipe::<Ipvs>(kernel),
            PlaneId::Sysctl | PlaneId::Pod | PlaneId::File | PlaneId::Bgp => {
                return Err(StageError::Unsupported(format!("deleting {} is not possible", plane.as_str())));
            }
        };
        wiped.map_err(|fault| StageError::Refused(format!("the kernel refused: {fault:?}")))
    }
}
