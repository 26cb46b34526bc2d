//! The cluster: building it, letting its API server work, and what is due later.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use fairway_api::Output;
use fairway_node::{Command, Node, RealKernel, Start};
use fairway_objects::{NodeConfig, Notice, NoticeChange};
use fairway_scenario::{Scenario, Software, Topology};
use fairway_stage::{Cluster, ConfigError, Configure, Time, router_config};

use crate::api::{Serving, Watching};
use crate::faulty::{Failures, Faulty};
use crate::host::{self, Host, Switch};
use crate::load::Load;
use crate::pods::Pods;
use crate::routers::ForeignRouter;
use crate::witness::Witnesses;

/// How a lab is made.
#[derive(Clone, Debug)]
pub struct Options {
    /// Name of the stage, for reports: `netns`, `uml`.
    pub stage: &'static str,
    /// Every random choice of the agents and of the API server is drawn from this. The kernel has its own.
    pub seed: u64,
    /// Who plays the routers that name no software.
    pub routers: Software,
    /// Our program, which is `mconnect` too.
    pub program: PathBuf,
}

/// Why there is no lab.
#[derive(Debug, thiserror::Error)]
pub enum LabError {
    /// The scenario.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A node's kernel lacks something, or its agent cannot start.
    #[error("{host}: {message}")]
    Agent {
        /// The host.
        host: String,
        /// One sentence.
        message: String,
    },
    /// The system refuses a namespace, a link, a process.
    #[error("building the lab: {0}")]
    System(#[from] io::Error),
}

/// Something that is due at a time.
#[derive(Debug)]
pub(crate) enum Due {
    /// A pod's grace period is over.
    StopPod { namespace: String, pod: String },
}

/// What is left of a host that has no power: its disk, so to say.
#[derive(Debug)]
pub(crate) struct Off {
    pub(crate) role: host::Role,
    pub(crate) config: Option<NodeConfig>,
    pub(crate) flag_notices: Vec<Notice>,
}

/// A cluster of network namespaces.
#[derive(Debug)]
pub struct Lab {
    pub(crate) options: Options,
    pub(crate) epoch: Instant,
    pub(crate) topology: Topology,
    // Loads and pods end before the namespaces they are in.
    pub(crate) loads: BTreeMap<String, Load>,
    pub(crate) pods: Pods,
    pub(crate) witnesses: Witnesses,
    pub(crate) hosts: BTreeMap<String, Host>,
    pub(crate) switch: Switch,
    pub(crate) cluster: Cluster,
    pub(crate) serving: Serving,
    /// Hosts without power, and what they need to boot.
    pub(crate) off: BTreeMap<String, Off>,
    due: Vec<(Time, Due)>,
    /// Texts of `ip route`, by host and family, with the routes they were printed for.
    pub(crate) shown: BTreeMap<(String, bool), Shown>,
    seeds: u64,
    pub(crate) failures: VecDeque<String>,
}

/// What this kernel offers of what a scenario may need, and in one sentence what it lacks for a service proxy.
pub fn features() -> (Vec<String>, Option<String>) {
    let mut features = vec![];
    let complaint = RealKernel::open(&NodeConfig::new("probe")).err().map(|error| error.to_string());
    if complaint.is_none() {
        features.push("ipvs".to_string());
    }
    if std::path::Path::new("/proc/sys/net/ipv6").exists() {
        features.push("ipv6".into());
    }
    if fairway_node::offers_md5() {
        features.push("md5".into());
    }
    if std::path::Path::new("/proc/sys/net/ipv4/conf/tunl0").exists() {
        features.push("tunnel".into());
    }
    (features, complaint)
}

/// The text of `ip route`, and the routes that it was printed for.
pub(crate) type Shown = (Vec<(fairway_desired::RouteKey, fairway_desired::RouteValue)>, String);

impl Lab {
    /// Builds the cluster of a scenario, starts every agent and applies the scenario's objects.
    ///
    /// # Errors
    /// If the scenario's flags or objects are wrong, or the system refuses something. A kernel that lacks a feature is
    /// named before anything of an agent's is programmed.
    pub fn new(scenario: &Scenario, options: Options, configure: &Configure<'_>) -> Result<Lab, LabError> {
        let topology = scenario.topology.clone();
        let switch = Switch::new(&topology)?;
        let witnesses = Witnesses::start(&switch);
        let seed = options.seed;
        let epoch = Instant::now();
        let cluster = Cluster::new(scenario, seed);
        let serving = Serving::start(cluster.shared(), epoch, seed)?;
        let mut lab = Lab {
            options,
            epoch,
            topology,
            loads: BTreeMap::new(),
            pods: Pods::default(),
            witnesses,
            hosts: BTreeMap::new(),
            switch,
            cluster,
            serving,
            off: BTreeMap::new(),
            due: vec![],
            shown: BTreeMap::new(),
            seeds: seed,
            failures: VecDeque::new(),
        };
        if let Some(how) = &scenario.api_server {
            lab.serving.happens(how)?;
        }
        let topology = lab.topology.clone();
        for name in topology.testers.keys() {
            lab.add_host(name, host::Role::Tester)?;
            lab.start_servers(name)?;
        }
        for (name, router) in &topology.routers {
            lab.add_host(name, host::Role::Router)?;
            let mut config = router_config(&topology, name, router)?;
            // Who keeps a lab wants to look at its routers with `gobgp` and `fairway bgp`.
            config.admin = vec![SocketAddr::from((Ipv4Addr::LOCALHOST, ADMIN_PORT))];
            if let Some(host) = lab.hosts.get_mut(name) {
                host.config = Some(config);
            }
            lab.start_agent(name)?;
        }
        for (name, node) in &topology.nodes {
            let flags: Vec<String> = scenario.flags.iter().chain(&node.flags).map(|f| f.value.clone()).collect();
            let (mut config, notices) =
                configure(name, &flags).map_err(|message| ConfigError::Flags { node: name.clone(), message })?;
            // All hosts share one file system, which is the lab's own here.
            let folder = format!("/run/cni/{name}");
            std::fs::create_dir_all(&folder)?;
            config.cni_file = Some(format!("{folder}/10-kuberouter.conflist").into());
            lab.add_host(name, host::Role::Node)?;
            if let Some(host) = lab.hosts.get_mut(name) {
                host.config = Some(config);
                host.flag_notices = notices;
            }
            if node.registered {
                lab.cluster.register_node(lab.now(), &topology, name)?;
            }
            lab.start_agent(name)?;
        }
        lab.cluster.apply_all(lab.now(), scenario)?;
        lab.pump();
        Ok(lab)
    }

    /// Time since the start.
    pub(crate) fn now(&self) -> Time {
        self.epoch.elapsed()
    }

    pub(crate) fn add_host(&mut self, name: &str, role: host::Role) -> io::Result<()> {
        let topology = std::mem::take(&mut self.topology);
        let host = Host::new(&mut self.switch, &topology, name, role);
        self.topology = topology;
        self.hosts.insert(name.into(), host?);
        Ok(())
    }

    /// Who speaks BGP on a host.
    pub(crate) fn software_of(&self, name: &str) -> Software {
        match self.topology.routers.get(name) {
            Some(router) => router.software.unwrap_or(self.options.routers),
            None => Software::Fairway,
        }
    }

    /// Starts the daemon of a host: a new process that knows nothing and finds what its predecessor left.
    pub(crate) fn start_agent(&mut self, name: &str) -> Result<(), LabError> {
        let epoch = self.epoch;
        let software = self.software_of(name);
        let nodes = self.topology.nodes.values().flat_map(|node| node.addresses.values().flatten());
        let nodes: Vec<IpAddr> = nodes.copied().collect();
        self.seeds = self.seeds.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let seed = self.seeds;
        let Some(host) = self.hosts.get_mut(name) else { return Ok(()) };
        let Some(config) = host.config.clone() else { return Ok(()) };
        if host.agent.is_some() || host.foreign.is_some() {
            return Ok(());
        }
        let again = std::mem::replace(&mut host.daemon_ran, true);
        if host.role == host::Role::Router && software != Software::Fairway {
            let foreign = ForeignRouter::start(software, host, &config, nodes, again)
                .map_err(|error| LabError::Agent { host: name.into(), message: error.to_string() })?;
            host.foreign = Some(foreign);
            return Ok(());
        }
        let notices = Arc::new(Mutex::new(host.flag_notices.iter().cloned().collect()));
        host.notices = Arc::clone(&notices);
        let space = Arc::clone(&host.space);
        let pods = self.pods.spaces_of(name);
        let kernel_failures: Failures = Arc::clone(&host.kernel_failures);
        let tell = move |change| {
            let mut notices = notices.lock().unwrap_or_else(|e| e.into_inner());
            match change {
                NoticeChange::Raised(notice) => notices.insert(notice),
                NoticeChange::Cleared(notice) => notices.remove(&notice),
            };
        };
        // There is an API server, which takes Events.
        let events = host.role == host::Role::Node;
        let agent = Node::start(Start {
            config: NodeConfig { events, ..config.clone() },
            seed,
            epoch,
            enter: Box::new(move || space.enter()),
            open: Box::new(move |config| {
                let kernel = RealKernel::open(config).map_err(|error| error.to_string())?;
                Ok(Faulty::new(kernel.with_pods(pods), kernel_failures))
            }),
            notices: Box::new(tell.clone()),
            events: Box::new(|_| {}),
        })
        .map_err(|error| LabError::Agent { host: name.into(), message: error.to_string() })?;
        if host.role == host::Role::Node {
            let watching = self.serving.follow(&config, seed, &agent, Box::new(tell));
            host.watching = Some(watching?);
        }
        host.agent = Some(agent);
        Ok(())
    }

    /// Ends the daemon of a host. What it programmed stays in the kernel. Says whether one ran.
    pub(crate) fn end_agent(&mut self, name: &str, how: Command) -> bool {
        let Some(host) = self.hosts.get_mut(name) else { return false };
        // Nothing reaches an agent that ends; its last words still leave.
        let _writer = host.watching.take().map(Watching::end);
        if let Some(foreign) = host.foreign.take() {
            match how {
                Command::Shutdown => foreign.terminate(),
                Command::Kill | Command::Input(_) | Command::Ask(_) | Command::Watches(_) | Command::Writes(_) => {
                    drop(foreign)
                }
            }
            return true;
        }
        let Some(agent) = host.agent.take() else { return false };
        if let Err(error) = agent.end(how) {
            self.failures.push_back(format!("agent of {name}: {error}"));
        }
        true
    }

    /// Does what is due: the API server's work, pods that end. Says whether anything happened.
    pub(crate) fn pump(&mut self) -> bool {
        let mut happened = false;
        let now = self.now();
        let deadline = self.cluster.api().deadline();
        if deadline.is_some_and(|at| at <= now) {
            self.cluster.api().handle(now);
            happened = true;
        }
        loop {
            let output = self.cluster.api().poll();
            let Some(output) = output else { break };
            happened = true;
            match output {
                // Nodes watch over HTTP.
                Output::Deliver { .. } => {}
                Output::StartPod(start) => {
                    let (namespace, name) = (start.namespace.clone(), start.name.clone());
                    match self.start_pod(start) {
                        Ok(true) => {
                            let now = self.now();
                            self.cluster.api().pod_started(now, &namespace, &name);
                        }
                        Ok(false) => {}
                        Err(error) => self.failures.push_back(format!("pod {namespace}/{name}: {error}")),
                    }
                }
                Output::StopPod { namespace, name, node, grace } => {
                    // A node without power tells nobody that its pods ended.
                    if self.hosts.contains_key(&node) {
                        self.due.push((now + grace, Due::StopPod { namespace, pod: name }));
                    }
                }
            }
        }
        let (ready, later) = std::mem::take(&mut self.due).into_iter().partition(|(at, _)| *at <= now);
        self.due = later;
        let ready: Vec<(Time, Due)> = ready;
        for (_, due) in ready {
            happened = true;
            match due {
                Due::StopPod { namespace, pod } => {
                    self.pods.stop(&namespace, &pod);
                    let now = self.now();
                    self.cluster.api().pod_stopped(now, &namespace, &pod);
                }
            }
        }
        self.serving.server.changed();
        happened
    }

    /// Lets the cluster live on until the time comes or `done` says so.
    pub(crate) fn live_until(&mut self, limit: Option<Time>, mut done: impl FnMut(&mut Lab) -> bool) {
        loop {
            while self.pump() {}
            if done(self) || limit.is_some_and(|limit| self.now() >= limit) {
                return;
            }
            let deadline = self.cluster.api().deadline();
            let next = deadline.into_iter().chain(self.due.iter().map(|(at, _)| *at)).min();
            let until = next.unwrap_or(Time::MAX).saturating_sub(self.now()).min(TICK);
            std::thread::sleep(until.max(Duration::from_micros(100)));
        }
    }
}

/// `--gobgp-admin-port`'s default.
const ADMIN_PORT: u16 = 50051;
/// How long nothing is looked at.
const TICK: Duration = Duration::from_millis(10);
