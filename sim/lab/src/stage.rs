//! The lab as a stage: what a scenario can ask of it.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use fairway_agent::Input;
use fairway_bgp as bgp;
use fairway_desired::{
    Addr, Backend, Fault as KernelFault, Filter, Ipvs, Link, MAIN_TABLE, NextHop, Op, PlaneId, Route as RoutePlane,
    RouteKey, RouteKind, RouteValue, Rule,
};
use fairway_mconnect::Report;
use fairway_node::{Command, RealKernel};
use fairway_scenario::{
    Answer, BfdSession, BgpShow, CniConfig, EndpointState, Fault, LoadMode, LoadRequest, LoadResult, MconnectRequest,
    Neighbor, NoticeLine, Plane, Protocol, RibPath, Route, Software, Stage, StageError, Target, TraceRequest,
    TraceResult, VirtualServer,
};
use ipnet::IpNet;
use serde_json::Value;

use crate::clients::{prepare_sources, refused};
use crate::host::{Host, Role};
use crate::lab::{Lab, Off, features};
use crate::load::{Load, Seen};
use crate::routers::type_in;

/// How long nothing is looked at while a scenario waits.
const LOOK: Duration = Duration::from_millis(50);
/// How long a packet that is followed may be under way.
const TRACE: Duration = Duration::from_secs(3);

impl Stage for Lab {
    fn name(&self) -> &'static str {
        self.options.stage
    }

    fn features(&self) -> Vec<String> {
        features().0
    }

    fn now(&self) -> Duration {
        self.epoch.elapsed()
    }

    fn advance(&mut self, limit: Duration) -> Duration {
        let limit = limit.min(Lab::now(self) + LOOK);
        self.live_until(Some(limit), |_| false);
        Lab::now(self)
    }

    fn apply(&mut self, file: &str, yaml: &str) -> Result<Vec<String>, StageError> {
        let now = Lab::now(self);
        let lines = self.cluster.apply(now, file, yaml);
        self.pump();
        lines
    }

    fn delete(&mut self, kind: &str, namespace: &str, name: &str) -> Result<(), StageError> {
        let now = Lab::now(self);
        let result = self.cluster.delete(now, kind, namespace, name);
        self.pump();
        result
    }

    fn scale(&mut self, namespace: &str, deployment: &str, replicas: u32) -> Result<(), StageError> {
        let now = Lab::now(self);
        let result = self.cluster.scale(now, namespace, deployment, replicas);
        self.pump();
        result
    }

    fn patch(&mut self, kind: &str, namespace: &str, name: &str, merge: &Value) -> Result<(), StageError> {
        let now = Lab::now(self);
        let result = self.cluster.patch(now, kind, namespace, name, merge);
        self.pump();
        result
    }

    fn fault(&mut self, fault: &Fault) -> Result<String, StageError> {
        let said = self.make_fault(fault);
        self.pump();
        said
    }

    fn neighbors(&mut self, host: &str) -> Result<Vec<Neighbor>, StageError> {
        self.view_neighbors(host)
    }

    fn bfd(&mut self, host: &str) -> Result<Vec<BfdSession>, StageError> {
        let host = self.find(host)?;
        match (&host.agent, &host.foreign) {
            (Some(agent), _) => agent.ask(|agent, _| fairway_stage::bfd(agent)).map_err(refused),
            (None, Some(router)) => router.bfd().map_err(refused),
            (None, None) => Ok(vec![]),
        }
    }

    fn cni(&mut self, host: &str) -> Result<Option<CniConfig>, StageError> {
        self.view_cni(host)
    }

    fn rib(&mut self, host: &str, ipv6: bool) -> Result<Vec<RibPath>, StageError> {
        self.view_rib(host, ipv6)
    }

    fn bgp_tool(&mut self, host: &str, show: BgpShow) -> Result<Option<(String, String)>, StageError> {
        self.find(host)?.foreign.as_ref().map(|router| router.show(show)).transpose().map_err(refused)
    }

    fn ask(&mut self, host: &str, software: Software, run: &str) -> Result<Answer, StageError> {
        let found = self.find(host)?;
        let runs = self.software_of(host);
        if runs != software {
            let (runs, asked) = (runs.as_str(), software.as_str());
            return Ok(Answer::NotAsked(format!("{host} runs {runs} here, not {asked}")));
        }
        let text = match &found.foreign {
            Some(router) => router.type_in(run),
            None => type_in(&found.space, None, run),
        };
        text.map(Answer::Printed).map_err(refused)
    }

    fn routes(&mut self, host: &str, ipv6: bool) -> Result<Vec<Route>, StageError> {
        self.view_routes(host, ipv6)
    }

    fn virtual_servers(&mut self, host: &str) -> Result<Vec<VirtualServer>, StageError> {
        self.view_virtual_servers(host)
    }

    fn show_virtual_servers(&mut self, host: &str) -> Result<String, StageError> {
        self.find(host)?.space.text("ipvsadm", &["-Ln"]).map_err(refused)
    }

    fn endpoints(&mut self, namespace: &str, service: &str) -> Result<Vec<EndpointState>, StageError> {
        Ok(self.cluster.endpoints(namespace, service))
    }

    fn notices(&mut self) -> Vec<NoticeLine> {
        self.view_notices()
    }

    fn in_sync(&mut self, host: &str) -> Result<bool, StageError> {
        let host = self.find(host)?;
        let heard = host.watching.as_ref().is_none_or(|watching| watching.up_to_date(&self.cluster.api()));
        match &host.agent {
            Some(agent) => Ok(heard && agent.ask(|agent, _| agent.in_sync()).map_err(refused)?),
            None => Ok(host.foreign.is_some()),
        }
    }

    fn resolve(&mut self, target: &Target) -> Result<SocketAddr, StageError> {
        self.cluster.resolve(target)
    }

    fn mconnect(&mut self, request: &MconnectRequest) -> Result<LoadResult, StageError> {
        self.run_mconnect(request)
    }

    fn load_start(&mut self, request: &LoadRequest) -> Result<(), StageError> {
        if self.loads.contains_key(&request.name) {
            return Err(StageError::Refused(format!("load {} runs already", request.name)));
        }
        let space = self.origin(&request.from)?;
        let to = self.cluster.resolve(&request.address)?;
        if request.udp && matches!(request.mode, LoadMode::Keep(_)) {
            return Err(StageError::Unsupported("keeping UDP connections".into()));
        }
        prepare_sources(&space, request.srccidr)?;
        let seen = self.seen();
        let mut load = Load::start(&space, request, to, self.epoch, self.options.seed).map_err(refused)?;
        load.sources_at_start = seen.clone();
        load.sources_at_take = seen;
        self.loads.insert(request.name.clone(), load);
        Ok(())
    }

    fn load_take(&mut self, name: &str) -> Result<LoadResult, StageError> {
        let load = self.loads.get(name).ok_or_else(|| StageError::NotFound(format!("load {name}")))?;
        let seen = load.take();
        let before = load.sources_at_take.clone();
        let result = self.load_result(seen, &before);
        let now = self.seen();
        if let Some(load) = self.loads.get_mut(name) {
            load.sources_at_take = now;
        }
        Ok(result)
    }

    fn load_stop(&mut self, name: &str) -> Result<LoadResult, StageError> {
        let load = self.loads.remove(name).ok_or_else(|| StageError::NotFound(format!("load {name}")))?;
        let before = load.sources_at_start.clone();
        let seen = load.end();
        Ok(self.load_result(seen, &before))
    }

    /// A connection (or a datagram) is tried and what became of it told. The way it took is known to the capture only,
    /// so `through` names the host it started from and, if it arrived, who answered.
    fn trace(&mut self, request: &TraceRequest) -> Result<TraceResult, StageError> {
        let space = self.origin(&request.from)?;
        let to = self.cluster.resolve(&request.to)?;
        let udp = match request.protocol {
            Protocol::Tcp => false,
            Protocol::Udp => true,
            Protocol::Sctp => return Err(StageError::Unsupported("following SCTP".into())),
        };
        let request = LoadRequest {
            name: "trace".into(),
            from: request.from.clone(),
            address: request.to.clone(),
            udp,
            srccidr: None,
            mode: LoadMode::Rate(1),
            timeout: TRACE,
        };
        let load = Load::start(&space, &request, to, self.epoch, self.options.seed).map_err(refused)?;
        let limit = Lab::now(self) + TRACE + LOOK;
        let mut seen = Seen::default();
        self.live_until(Some(limit), |_| {
            let part = load.take();
            seen.report.merge(&part.report);
            seen.failures.extend(part.failures);
            seen.report.connects > 0
        });
        let mut through = vec![space.name().to_string()];
        let text = match (seen.report.hosts.keys().next(), seen.failures.first()) {
            (Some(host), _) => {
                through.push(host.clone());
                format!("{} -> {to}: {host} answered", space.name())
            }
            (None, Some((_, reason))) if reason.contains("refused") => {
                format!("{} -> {to}: reject ({reason})", space.name())
            }
            (None, Some((_, reason))) => format!("{} -> {to}: {reason}", space.name()),
            (None, None) => format!("{} -> {to}: no answer", space.name()),
        };
        Ok(TraceResult { text, delivered: through.len() > 1, through })
    }

    fn trace_hash(&self) -> Option<u64> {
        None
    }
}

impl Lab {
    fn load_result(&mut self, seen: Seen, before: &std::collections::BTreeMap<IpAddr, u64>) -> LoadResult {
        let Seen { report, failures } = seen;
        let sources_seen = self.new_sources(before, connections(&report));
        LoadResult { by_node: self.by_node(&report), report, sources_seen, failures }
    }

    fn make_fault(&mut self, fault: &Fault) -> Result<String, StageError> {
        let now = Lab::now(self);
        Ok(match fault {
            Fault::ApiServer(how) => {
                self.serving.happens(how).map_err(refused)?;
                how.to_string()
            }
            Fault::RegisterNode(name) => {
                let registered = self.cluster.register_node(now, &self.topology, name);
                registered.map_err(|error| StageError::Refused(error.to_string()))?;
                format!("node/{name} registered")
            }
            Fault::KillAgent(name) => {
                self.find(name)?;
                if !self.end_agent(name, Command::Kill) {
                    return Err(StageError::Refused(format!("no agent runs on {name}")));
                }
                format!("agent of {name} killed")
            }
            Fault::StartAgent(name) => {
                self.configured(name)?;
                self.start_agent(name).map_err(refused)?;
                format!("agent of {name} started")
            }
            Fault::RestartAgent(name) => {
                self.configured(name)?;
                self.end_agent(name, Command::Shutdown);
                self.start_agent(name).map_err(refused)?;
                format!("agent of {name} restarted")
            }
            Fault::Cut { host, lan } => {
                let port = self.port(host, lan)?;
                self.switch.join(lan, &port, false).map_err(refused)?;
                format!("{host} cut from {lan}")
            }
            Fault::Heal { host, lan } => {
                let port = self.port(host, lan)?;
                self.switch.join(lan, &port, true).map_err(refused)?;
                format!("{host} joined to {lan} again")
            }
            Fault::LinkDown { host, lan } => {
                self.set_link(host, lan, false)?;
                format!("interface of {host} on {lan} set down")
            }
            Fault::LinkUp { host, lan } => {
                self.set_link(host, lan, true)?;
                format!("interface of {host} on {lan} set up")
            }
            // The other end of the wire goes down, and with it the carrier.
            Fault::Unplug { host, lan } => {
                let port = self.port(host, lan)?;
                self.switch.setup.set_up(&port, false).map_err(refused)?;
                format!("{host} unplugged from {lan}")
            }
            Fault::Plug { host, lan } => {
                let port = self.port(host, lan)?;
                self.switch.setup.set_up(&port, true).map_err(refused)?;
                format!("{host} plugged into {lan}")
            }
            Fault::AddRoute { on, to, via } => {
                let hop = NextHop { via: Some(*via), dev: None, weight: 1 };
                let value =
                    RouteValue { kind: RouteKind::Unicast, protocol: PROTO_STATIC, src: None, next_hops: vec![hop] };
                self.find_mut(on)?.setup.add_route(somebody_elses(*to), value).map_err(refused)?;
                format!("{on}: somebody added a route to {to} via {via}")
            }
            Fault::DeleteRoute { on, to } => {
                if !self.find_mut(on)?.setup.del_route(&somebody_elses(*to), PROTO_STATIC).map_err(refused)? {
                    return Err(StageError::NotFound(format!("a route to {to} of somebody else on {on}")));
                }
                format!("{on}: somebody deleted the route to {to}")
            }
            Fault::AddAddress { host, lan, address } => {
                let there = self.find_mut(host)?;
                let link = there.links.get(lan).cloned();
                let link = link.ok_or_else(|| StageError::NotFound(format!("{host} is not on LAN {lan}")))?;
                there.setup.add_address(&link, *address).map_err(refused)?;
                format!("{host} {link} has {address}, too")
            }
            Fault::RenameLink { on, from, to } => {
                self.find_mut(on)?.setup.rename(from, to).map_err(refused)?;
                format!("{on}: somebody renamed {from} to {to}")
            }
            Fault::PowerOff(name) => {
                self.power_off(name)?;
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
                let running = self.pods.list();
                self.cluster.fault(now, fault, &running)?.unwrap_or_default()
            }
            Fault::FlapBgp { on, peer } => {
                match &self.find(on)?.foreign {
                    Some(router) => router.reset(*peer).map_err(refused)?,
                    None => self.tell(on, reset(*peer))?,
                }
                format!("{on} resets its session with {peer}")
            }
            Fault::AdminDown { on, peer, message } => {
                match &self.find(on)?.foreign {
                    Some(router) => router.admin(*peer, Some(message)).map_err(refused)?,
                    None => self.tell(on, enable(*peer, false, message))?,
                }
                format!("{on} shuts its session with {peer} down")
            }
            Fault::AdminUp { on, peer } => {
                match &self.find(on)?.foreign {
                    Some(router) => router.admin(*peer, None).map_err(refused)?,
                    None => self.tell(on, enable(*peer, true, ""))?,
                }
                format!("{on} lets its session with {peer} come again")
            }
            Fault::Policy { on, reject } => {
                self.find(on)?;
                let host = self.hosts.get_mut(on);
                let config = host.and_then(|host| Some((&mut host.config.as_mut()?.role, &mut host.foreign)));
                let Some((fairway_objects::Role::Router(router), foreign)) = config else {
                    return Err(StageError::Refused(format!("{on} is no router")));
                };
                router.import_reject.clone_from(reject);
                match foreign {
                    Some(foreign) => foreign.reject(reject).map_err(refused)?,
                    None => {
                        let router = Box::new(router.clone());
                        self.tell(on, Input::Router(router))?;
                    }
                }
                fault.to_string()
            }
            Fault::Kernel { on, plane, fail, times } => {
                let host = self.find(on)?;
                let mut failures = host.kernel_failures.lock().unwrap_or_else(|e| e.into_inner());
                failures.entry(plane_id(*plane)).or_default().push((*fail, *times));
                format!("the next {times} calls for {} on {on} fail: {}", plane.as_str(), fail.as_str())
            }
            Fault::Tamper { on, plane } => {
                let count = self.tamper(on, *plane)?;
                format!("{count} {} entries of {on} deleted by hand", plane.as_str())
            }
        })
    }

    /// Gives input to the agent of a host.
    fn tell(&self, on: &str, input: Input) -> Result<(), StageError> {
        match &self.find(on)?.agent {
            Some(agent) => agent.send(Command::Input(input)).map_err(refused),
            None => Err(StageError::Refused(format!("no agent runs on {on}"))),
        }
    }

    fn configured(&self, name: &str) -> Result<(), StageError> {
        match self.find(name)?.config {
            Some(_) => Ok(()),
            None => Err(StageError::Refused(format!("{name} has no agent"))),
        }
    }

    fn find_mut(&mut self, name: &str) -> Result<&mut Host, StageError> {
        self.hosts.get_mut(name).ok_or_else(|| StageError::NotFound(format!("host {name}")))
    }

    fn set_link(&mut self, host: &str, lan: &str, up: bool) -> Result<(), StageError> {
        let topology = std::mem::take(&mut self.topology);
        let set = self.find_mut(host).and_then(|host| host.set_link(&topology, lan, up).map_err(refused));
        self.topology = topology;
        set
    }

    fn port(&self, host: &str, lan: &str) -> Result<String, StageError> {
        let port = self.find(host)?.ports.get(lan).cloned();
        port.ok_or_else(|| StageError::NotFound(format!("{host} is not on LAN {lan}")))
    }

    /// A host loses power: nothing of it is left, and nobody is told.
    fn power_off(&mut self, name: &str) -> Result<(), StageError> {
        self.find(name)?;
        let now = Lab::now(self);
        self.end_agent(name, Command::Kill);
        self.pods.power_off(name);
        let Some(host) = self.hosts.remove(name) else { return Ok(()) };
        // The wires go at once, not when the kernel gets round to the namespace.
        for port in host.ports.values() {
            self.switch.setup.del_link(port).map_err(refused)?;
        }
        if host.role == Role::Node {
            self.cluster.api().kubelet(now, name, false);
        }
        let off = Off { role: host.role, config: host.config.clone(), flag_notices: host.flag_notices.clone() };
        self.off.insert(name.into(), off);
        Ok(())
    }

    /// A host boots again, with empty kernel state and without the pods it had; the API server replaces those.
    fn power_on(&mut self, name: &str) -> Result<(), StageError> {
        if self.hosts.contains_key(name) {
            return Err(StageError::Refused(format!("{name} has power")));
        }
        let off = self.off.remove(name).ok_or_else(|| StageError::NotFound(format!("host {name}")))?;
        self.add_host(name, off.role).map_err(refused)?;
        self.start_servers(name).map_err(refused)?;
        if let Some(host) = self.hosts.get_mut(name) {
            host.config = off.config;
            host.flag_notices = off.flag_notices;
        }
        if off.role == Role::Node {
            let now = Lab::now(self);
            self.cluster.node_booted(now, name);
        }
        self.start_agent(name).map_err(refused)
    }

    /// Somebody deletes our state behind the agent's back. Returns how many entries there were.
    fn tamper(&self, name: &str, plane: Plane) -> Result<usize, StageError> {
        fn wipe<P: fairway_desired::Plane>(kernel: &mut impl Backend<P>) -> Result<usize, KernelFault> {
            let ops: Vec<Op<P>> = kernel.observe()?.into_keys().rev().map(Op::Del).collect();
            kernel.apply(&ops)?;
            Ok(ops.len())
        }
        let host = self.find(name)?;
        let config = host.config.as_ref().ok_or_else(|| StageError::Refused(format!("{name} has no agent")))?;
        let wiped = host.space.within(|| {
            let mut kernel = RealKernel::open(config).map_err(std::io::Error::other)?;
            let wiped = match plane {
                Plane::Link => wipe::<Link>(&mut kernel),
                Plane::Addr => wipe::<Addr>(&mut kernel),
                Plane::Filter => wipe::<Filter>(&mut kernel),
                Plane::Rule => wipe::<Rule>(&mut kernel),
                Plane::Route => wipe::<RoutePlane>(&mut kernel),
                Plane::Ipvs => wipe::<Ipvs>(&mut kernel),
                Plane::Sysctl => return Err(std::io::Error::other("a kernel parameter cannot be deleted")),
            };
            wiped.map_err(|fault| std::io::Error::other(format!("the kernel refused: {fault:?}")))
        });
        wiped.map_err(refused)
    }
}

/// An operator resets a session.
fn reset(peer: IpAddr) -> Input {
    Input::Bgp(bgp::Input::ResetPeer { peer, message: String::new() })
}

/// An operator shuts a session down or lets it come again.
fn enable(peer: IpAddr, enabled: bool, message: &str) -> Input {
    Input::Bgp(bgp::Input::EnablePeer { peer, enabled, message: message.into() })
}

/// Connections that were made, which is how often a server saw a client.
fn connections(report: &Report) -> u64 {
    report.connects.saturating_sub(report.failed())
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
