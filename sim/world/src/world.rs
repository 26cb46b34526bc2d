//! The world's state, its events, and how an agent is driven.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use fairway_agent::{Agent, Input, Output, publish};
use fairway_api::WatcherId;
use fairway_bgp as bgp;
use fairway_desired::{Interface, KernelEvent, PlaneId, Protocol};
use fairway_kernel::{Fabric, FlowId, HostId, LanId};
use fairway_objects::{NodeConfig, Notice, NoticeChange};
use fairway_record::{Sink, Taped};
use fairway_scenario::{ApiServer, Topology};
use fairway_stage::{Cluster, misbehaviour};

use crate::bfd::{Arrival, Way};
use crate::clients::{Clients, LoadEvent};
use crate::hash::TraceHash;
use crate::pods::Pods;
use crate::queue::{Queue, Ticket};
use crate::tcp::Connections;
use crate::tunnels::NodeKernel;
use crate::{DAEMON, HostIx, Time};

/// How long a kernel request takes until its answer is handled, in microseconds; drawn from the seed.
const KERNEL_LATENCY_US: (u32, u32) = (50, 500);

/// How long a request to the API server takes to arrive there, and its answer to come back; drawn from the seed.
const API_LATENCY: (Time, Time) = (Time::from_micros(500), Time::from_millis(3));

/// How long it takes to see that the API server does not answer.
const API_TIMEOUT: Time = Time::from_secs(5);

/// How long it takes until an agent hears what its kernel says.
const KERNEL_EVENT: Time = Time::from_micros(100);
/// Changes of each kind that the API server remembers where its lists are stale.
const HISTORY: usize = 10_000;

/// What a host is in the topology.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// A node of the cluster: an agent that watches the API server, and a kubelet.
    Node,
    /// A router: an agent without Kubernetes.
    Router,
    /// A host that only loads.
    Tester,
    /// The network namespace of a pod, on this node.
    Pod(HostIx),
}

/// One host of the world.
#[derive(Debug)]
pub(crate) struct Host {
    pub(crate) name: String,
    pub(crate) id: HostId,
    pub(crate) role: Role,
    /// False once it lost power.
    pub(crate) alive: bool,
    /// Configuration of its agent; `None` on testers and in pods.
    pub(crate) config: Option<NodeConfig>,
    pub(crate) agent: Option<Taped>,
    /// Counts agent starts; input for an earlier process is dropped.
    pub(crate) generation: u32,
    pub(crate) watcher: Option<WatcherId>,
    /// Notices about its flags, which stand as long as the world does.
    pub(crate) flag_notices: Vec<Notice>,
    pub(crate) notices: BTreeSet<Notice>,
    pub(crate) accepted: u64,
    /// Its daemon's BFD sockets, by neighbour.
    pub(crate) bfd: BTreeMap<IpAddr, Way>,
    /// TCP MD5 passwords of connections that its daemon accepts, by the other end.
    pub(crate) passwords: BTreeMap<IpAddr, String>,
    /// Source port of the next load connection; ports are used in turn, so that none comes back soon.
    pub(crate) next_port: u16,
    tick: Option<Ticket>,
    /// Its requests do not reach the API server.
    pub(crate) partitioned: bool,
    /// Its interfaces, as its agent was told.
    told: BTreeMap<Arc<str>, Interface>,
    /// Name of its interface on each LAN.
    pub(crate) links: BTreeMap<String, String>,
}

impl Host {
    pub(crate) fn new(name: &str, id: HostId, role: Role) -> Self {
        Host {
            name: name.into(),
            id,
            role,
            alive: true,
            config: None,
            agent: None,
            generation: 0,
            watcher: None,
            flag_notices: vec![],
            notices: BTreeSet::new(),
            accepted: 0,
            bfd: BTreeMap::new(),
            passwords: BTreeMap::new(),
            next_port: crate::clients::EPHEMERAL.0,
            tick: None,
            partitioned: false,
            told: BTreeMap::new(),
            links: BTreeMap::new(),
        }
    }
}

/// What can happen.
#[derive(Debug)]
pub(crate) enum Event {
    /// Input reaches an agent.
    Agent { host: HostIx, generation: u32, input: Box<Input> },
    /// An agent's deadline.
    Tick { host: HostIx, generation: u32 },
    /// The API server's deadline.
    Api,
    /// An agent's request reaches the API server.
    ApiRequest { host: HostIx, generation: u32, request: Box<publish::Request> },
    /// A SYN is sent (again).
    Syn { tcp: u64, attempt: usize },
    /// A segment arrives.
    Segment { tcp: u64, direction: usize },
    /// A FIN or RST arrives.
    Fin { tcp: u64, direction: usize },
    /// A lost segment is sent again.
    Retransmit { tcp: u64, direction: usize },
    /// A BFD packet arrives.
    Bfd(Box<Arrival>),
    /// A pod's process runs.
    PodStarted { namespace: String, pod: String },
    /// A pod's process ended.
    PodStopped { namespace: String, pod: String },
    /// A load client goes on.
    Load(LoadEvent),
}

/// A cluster in memory, with its routers and testers, in virtual time.
#[derive(Debug)]
pub struct World {
    pub(crate) queue: Queue<Event>,
    pub(crate) fabric: Fabric,
    pub(crate) cluster: Cluster,
    api_tick: Option<Ticket>,
    pub(crate) hosts: Vec<Host>,
    pub(crate) names: BTreeMap<String, HostIx>,
    by_id: BTreeMap<HostId, HostIx>,
    watchers: BTreeMap<WatcherId, HostIx>,
    pub(crate) tcp: Connections,
    pub(crate) flows: BTreeMap<FlowId, u64>,
    pub(crate) pods: Pods,
    pub(crate) clients: Clients,
    pub(crate) rng: oorandom::Rand64,
    pub(crate) hash: TraceHash,
    pub(crate) lans: BTreeMap<String, LanId>,
    /// As it was at the start; a host that boots again finds its place in it.
    pub(crate) topology: Topology,
    tapes: Option<Tapes>,
}

/// Gives a place for the recording of an agent that starts on a host of this name.
pub struct Tapes(pub Box<dyn FnMut(&str) -> Sink + Send>);

impl fmt::Debug for Tapes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tapes")
    }
}

impl World {
    pub(crate) fn empty(cluster: Cluster, seed: u64, tapes: Option<Tapes>) -> Self {
        let mut rng = oorandom::Rand64::new(u128::from(seed));
        World {
            queue: Queue::new(),
            fabric: Fabric::new(rng.rand_u64()),
            cluster,
            api_tick: None,
            hosts: vec![],
            names: BTreeMap::new(),
            by_id: BTreeMap::new(),
            watchers: BTreeMap::new(),
            tcp: Connections::default(),
            flows: BTreeMap::new(),
            pods: Pods::default(),
            clients: Clients::default(),
            rng,
            hash: TraceHash::new(),
            lans: BTreeMap::new(),
            topology: Topology::default(),
            tapes,
        }
    }

    /// Virtual time since the start.
    pub fn now(&self) -> Time {
        self.queue.now()
    }

    /// The hash over everything that happened so far. The same seed and the same steps give the same hash.
    pub fn hash(&self) -> u64 {
        self.hash.value()
    }

    /// Every object of the API server, as JSON.
    pub fn objects(&self) -> Vec<serde_json::Value> {
        let api = self.cluster.api();
        ["Service", "EndpointSlice", "Pod", "Node"].iter().flat_map(|kind| api.list(kind)).cloned().collect()
    }

    /// The agent of a host; `None` if none runs.
    pub fn agent(&self, host: &str) -> Option<&Agent> {
        self.names.get(host).and_then(|host| self.hosts[*host].agent.as_deref())
    }

    /// The API server with what stands in it.
    pub fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// From now on requests of a host's agent reach the API server, or do not. Its watches go on.
    pub fn partition(&mut self, host: &str, partitioned: bool) {
        if let Some(host) = self.names.get(host) {
            self.hosts[*host].partitioned = partitioned;
        }
    }

    pub(crate) fn add_host(&mut self, name: &str, role: Role) -> HostIx {
        let id = self.fabric.add_host(name);
        let index = self.hosts.len();
        self.hosts.push(Host::new(name, id, role));
        self.names.insert(name.into(), index);
        self.by_id.insert(id, index);
        index
    }

    pub(crate) fn host_by_id(&self, id: HostId) -> Option<HostIx> {
        self.by_id.get(&id).copied()
    }

    /// A delay drawn from the seed.
    pub(crate) fn draw(&mut self, range: (Time, Time)) -> Time {
        let nanos = |t: Time| u64::try_from(t.as_nanos()).unwrap_or(u64::MAX);
        let (low, high) = (nanos(range.0), nanos(range.1));
        if high <= low { range.0 } else { Time::from_nanos(self.rng.rand_range(low..high + 1)) }
    }

    /// Handles the next event, if there is one not after `limit`. Returns whether there was.
    pub(crate) fn step(&mut self, limit: Time) -> bool {
        let Some(event) = self.queue.pop(limit) else { return false };
        let now = self.queue.now();
        match event {
            Event::Agent { host, generation, input } => {
                self.hash.event(now, 1, host as u64, generation.into());
                self.agent_input(host, generation, *input);
            }
            Event::Tick { host, generation } => {
                self.hash.event(now, 2, host as u64, generation.into());
                self.hosts[host].tick = None;
                self.agent_input(host, generation, Input::Tick);
            }
            Event::Api => {
                self.hash.event(now, 3, 0, 0);
                self.api_tick = None;
                self.cluster.api().handle(now);
                self.drain_api();
            }
            Event::ApiRequest { host, generation, request } => {
                self.hash.event(now, 9, host as u64, generation.into());
                let answer = self.cluster.serve(now, &request);
                let delay = self.draw(API_LATENCY);
                self.send_agent_of(host, generation, delay, Input::Api(answer));
                self.drain_api();
            }
            Event::Syn { tcp, attempt } => self.tcp_syn(tcp, attempt),
            Event::Segment { tcp, direction } => {
                self.hash.event(now, 4, tcp, direction as u64);
                self.tcp_segment(tcp, direction);
            }
            Event::Fin { tcp, direction } => {
                self.hash.event(now, 5, tcp, direction as u64);
                self.tcp_fin(tcp, direction);
            }
            Event::Retransmit { tcp, direction } => self.tcp_retransmit(tcp, direction),
            Event::Bfd(arrival) => self.bfd_arrives(&arrival),
            Event::PodStarted { namespace, pod } => {
                self.hash.event(now, 6, 0, 0);
                self.pod_started(&namespace, &pod);
            }
            Event::PodStopped { namespace, pod } => {
                self.hash.event(now, 7, 0, 0);
                self.pod_stopped(&namespace, &pod);
            }
            Event::Load(event) => self.load_event(event),
        }
        true
    }

    /// Something happens to the API server.
    pub(crate) fn api_server(&mut self, how: &ApiServer) {
        let now = self.queue.now();
        let mut api = self.cluster.api();
        match how {
            ApiServer::Unreachable => api.reachable(now, false),
            ApiServer::Reachable => api.reachable(now, true),
            ApiServer::Compacted => api.cut_and_compact(now),
            ApiServer::Misbehaves(how) => {
                // A server that shows old states remembers them.
                if how.stale > 0 {
                    api.keep_history(HISTORY);
                }
                api.misbehave(misbehaviour(how));
            }
        }
    }

    /// Starts the daemon of a host: a new process that knows nothing and finds what its predecessor left.
    pub(crate) fn start_agent(&mut self, host: HostIx) {
        let Some(config) = self.hosts[host].config.clone() else { return };
        if self.hosts[host].agent.is_some() || !self.hosts[host].alive {
            return;
        }
        let seed = self.rng.rand_u64();
        let now = self.queue.now();
        let state = &mut self.hosts[host];
        state.generation += 1;
        // There is an API server, which takes Events.
        let config = NodeConfig { events: state.role == Role::Node, ..config };
        state.agent = Some(match &mut self.tapes {
            Some(Tapes(tape)) => Taped::recorded(config, seed, "", 0, tape(&state.name)),
            None => Taped::new(config, seed),
        });
        state.notices = state.flag_notices.iter().cloned().collect();
        if state.role == Role::Node {
            let name = state.name.clone();
            let watcher = self.cluster.api().watch(now, &name);
            state.watcher = Some(watcher);
            self.watchers.insert(watcher, host);
        }
        let generation = self.hosts[host].generation;
        let all = self.fabric.kernel(self.hosts[host].id).interfaces();
        self.hosts[host].told.clone_from(&all);
        self.agent_input(host, generation, Input::Kernel(KernelEvent::Interfaces(all)));
        self.agent_input(host, generation, Input::Tick);
        self.drain_api();
    }

    /// Kills the daemon of a host (SIGKILL). What it programmed stays in the kernel.
    pub(crate) fn kill_agent(&mut self, host: HostIx) {
        if self.hosts[host].agent.is_none() {
            return;
        }
        self.tcp_process_died(host);
        self.forget_agent(host);
    }

    /// The process is gone, however that came.
    pub(crate) fn forget_agent(&mut self, host: HostIx) {
        let state = &mut self.hosts[host];
        state.agent = None;
        state.bfd.clear();
        state.passwords.clear();
        if let Some(ticket) = state.tick.take() {
            self.queue.cancel(ticket);
        }
        if let Some(watcher) = state.watcher.take() {
            self.watchers.remove(&watcher);
            self.cluster.api().unwatch(watcher);
        }
    }

    /// Interfaces of a host may have changed: its agent hears of those that did.
    pub(crate) fn tell_interfaces(&mut self, host: HostIx) {
        let now = self.fabric.kernel(self.hosts[host].id).interfaces();
        let before = std::mem::replace(&mut self.hosts[host].told, now.clone());
        let gone = before.keys().filter(|name| !now.contains_key(*name)).map(|name| (name.clone(), None));
        let new = now.iter().filter(|(name, is)| before.get(*name) != Some(*is));
        let changed: Vec<_> = gone.chain(new.map(|(name, is)| (name.clone(), Some(is.clone())))).collect();
        for (name, interface) in changed {
            self.tell_kernel(host, KernelEvent::Interface(name, interface));
        }
    }

    /// The kernel of a host says something to its agent.
    pub(crate) fn tell_kernel(&mut self, host: HostIx, event: KernelEvent) {
        if self.hosts[host].agent.is_some() {
            self.send_agent(host, KERNEL_EVENT, Input::Kernel(event));
        }
    }

    /// Schedules input for the agent that runs now.
    pub(crate) fn send_agent(&mut self, host: HostIx, delay: Time, input: Input) {
        let generation = self.hosts[host].generation;
        self.send_agent_of(host, generation, delay, input);
    }

    /// Schedules input for one particular process.
    pub(crate) fn send_agent_of(&mut self, host: HostIx, generation: u32, delay: Time, input: Input) {
        self.queue.after(delay, Event::Agent { host, generation, input: Box::new(input) });
    }

    /// Gives input to an agent and does what it then wants.
    pub(crate) fn agent_input(&mut self, host: HostIx, generation: u32, input: Input) {
        if self.hosts[host].generation != generation {
            return;
        }
        let now = self.queue.now();
        if let Some(agent) = &mut self.hosts[host].agent {
            agent.handle(now, input);
            self.drain_agent(host);
        }
    }

    fn drain_agent(&mut self, host: HostIx) {
        let now = self.queue.now();
        while let Some(output) = self.hosts[host].agent.as_mut().and_then(Taped::poll) {
            match output {
                Output::Observe(_) | Output::Apply(_) => {
                    let about_pods = match &output {
                        Output::Observe(plane) => *plane == PlaneId::Pod,
                        Output::Apply(batch) => batch.plane() == PlaneId::Pod,
                        Output::Bgp(_) | Output::Bfd(_) | Output::Api(_) | Output::Notice(_) => false,
                    };
                    let pods = if about_pods { self.pods_of(host) } else { vec![] };
                    let mut kernel = NodeKernel { node: self.hosts[host].id, fabric: &mut self.fabric, pods };
                    if let Some(answer) = fairway_agent::serve(output, &mut kernel) {
                        let (low, high) = KERNEL_LATENCY_US;
                        let delay = self.draw((Time::from_micros(low.into()), Time::from_micros(high.into())));
                        self.send_agent(host, delay, answer);
                    }
                }
                Output::Bgp(output) => self.bgp_output(host, output),
                Output::Bfd(output) => self.bfd_output(host, output),
                Output::Api(request) => self.api_request(host, request),
                Output::Notice(NoticeChange::Raised(notice)) => {
                    self.hosts[host].notices.insert(notice);
                }
                Output::Notice(NoticeChange::Cleared(notice)) => {
                    self.hosts[host].notices.remove(&notice);
                }
            }
        }
        let state = &mut self.hosts[host];
        if let Some(ticket) = state.tick.take() {
            self.queue.cancel(ticket);
        }
        let deadline = state.agent.as_ref().and_then(|agent| agent.deadline());
        if let Some(at) = deadline {
            // An agent that asks for the present again and again must not stop time.
            let at = at.max(now + Time::from_micros(1));
            state.tick = Some(self.queue.at(at, Event::Tick { host, generation: state.generation }));
        }
    }

    /// What an agent says to the API server is on its way, also when the agent ends meanwhile.
    fn api_request(&mut self, host: HostIx, request: publish::Request) {
        let generation = self.hosts[host].generation;
        if self.hosts[host].partitioned || !self.cluster.api().is_reachable() {
            let reason = "no answer".to_string();
            let refused = publish::Refusal::Unreachable { reason, after: None };
            let answer = match request {
                publish::Request::ReadLease(_) | publish::Request::WriteLease(_) => {
                    publish::Answer::Lease(Err(refused))
                }
                publish::Request::Ingress(write) => {
                    publish::Answer::Ingress { service: write.service.name.clone(), result: Err(refused) }
                }
                publish::Request::Event(event) => publish::Answer::Event { name: event.name, result: Err(refused) },
            };
            return self.send_agent_of(host, generation, API_TIMEOUT, Input::Api(answer));
        }
        let delay = self.draw(API_LATENCY);
        self.queue.after(delay, Event::ApiRequest { host, generation, request: Box::new(request) });
    }

    fn bgp_output(&mut self, host: HostIx, output: bgp::Output) {
        match output {
            bgp::Output::Listen { port } => {
                let id = self.hosts[host].id;
                // A port in use cannot happen: nothing else of the world listens on a host's BGP port.
                let listening = self.fabric.listen(id, Protocol::Tcp, None, port, DAEMON);
                debug_assert!(listening.is_ok(), "{listening:?}");
            }
            bgp::Output::Connect { conn, local, remote, password, .. } => {
                self.tcp_dial(host, conn, local, remote, password);
            }
            bgp::Output::Password { peer, password } => {
                match password {
                    Some(password) => self.hosts[host].passwords.insert(peer, password),
                    None => self.hosts[host].passwords.remove(&peer),
                };
            }
            bgp::Output::Send { conn, bytes } => self.tcp_send(host, conn, bytes.to_vec()),
            bgp::Output::Close { conn } => self.tcp_close(host, conn),
            // What was sent is on its way in no time; the wire has its own limits.
            bgp::Output::Drain { conn } => {
                let generation = self.hosts[host].generation;
                let input = Box::new(Input::Bgp(bgp::Input::Drained { conn }));
                self.queue.at(self.now() + Time::from_millis(1), Event::Agent { host, generation, input });
            }
            // Hosts of the world are honest and near.
            bgp::Output::Limit { .. } => {}
            bgp::Output::Learned(_) | bgp::Output::Watch { .. } | bgp::Output::Event(_) => {}
        }
    }

    /// Does what the API server wants, and keeps its deadline in the queue.
    pub(crate) fn drain_api(&mut self) {
        loop {
            let output = self.cluster.api().poll();
            let Some(output) = output else { break };
            match output {
                fairway_api::Output::Deliver { watcher, deltas } => {
                    let Some(&host) = self.watchers.get(&watcher) else { continue };
                    let now = self.queue.now();
                    if let Some(agent) = &mut self.hosts[host].agent {
                        self.hash.event(now, 8, host as u64, deltas.len() as u64);
                        for delta in deltas {
                            agent.handle(now, Input::Delta(delta));
                        }
                        self.drain_agent(host);
                    }
                }
                fairway_api::Output::StartPod(start) => self.start_pod(start),
                fairway_api::Output::StopPod { namespace, name, node, grace } => {
                    self.stop_pod(&namespace, &name, &node, grace);
                }
            }
        }
        if let Some(ticket) = self.api_tick.take() {
            self.queue.cancel(ticket);
        }
        let deadline = self.cluster.api().deadline();
        if let Some(at) = deadline {
            self.api_tick = Some(self.queue.at(at, Event::Api));
        }
    }
}
