//! A node with a pod and a client, in network namespaces on the real kernel; an agent on it; traffic through it.
#![allow(dead_code, reason = "no test uses all of it")]

use std::collections::BTreeMap;
use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Command as Program, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use fairway_agent::Input;
use fairway_backend_route::setup::Setup;
use fairway_desired::{
    Addr, Backend, Fault, Filter, Ipvs, Link, MAIN_TABLE, NextHop, Op, Outcome, Plane, PlaneId, Route, RouteKey,
    RouteKind, RouteValue, Rule, Table,
};
use fairway_node::{Command, Monitor, Node, RealKernel, Start, Watched};
use fairway_objects::{Delta, Kind, NodeConfig, ObjectKey};
use ipnet::IpNet;
use nix::sched::{CloneFlags, setns, unshare};
use serde_json::{Value, json};

/// Longest wait for an agent to do what it has to.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);
/// Connections that live through the whole test.
pub(crate) const CONNECTIONS: usize = 20;
pub(crate) const PING: Duration = Duration::from_millis(50);
/// A ping that takes longer has failed.
pub(crate) const LATE: Duration = Duration::from_secs(3);

pub(crate) const POD: Ipv4Addr = Ipv4Addr::new(10, 1, 1, 2);
pub(crate) const PORT: u16 = 5001;
/// The cluster IP and an external IP of the service that does not change.
pub(crate) const STEADY: [Ipv4Addr; 2] = [Ipv4Addr::new(10, 96, 0, 10), Ipv4Addr::new(10, 0, 0, 10)];
/// The client's addresses that go with them.
pub(crate) const SOURCES: [Ipv4Addr; 2] = [Ipv4Addr::new(192, 168, 0, 2), Ipv4Addr::new(192, 168, 0, 3)];

// ---- Namespaces.

/// A network namespace. It is gone when nobody holds its file and no thread is in it.
pub(crate) struct Space(pub(crate) File);

impl Space {
    pub(crate) fn new() -> io::Result<Space> {
        let make = || {
            unshare(CloneFlags::CLONE_NEWNET)?;
            File::open("/proc/thread-self/ns/net").map(Space)
        };
        thread::scope(|scope| scope.spawn(make).join()).expect("a thread makes a namespace")
    }

    /// The calling thread enters it for good.
    pub(crate) fn enter(&self) -> io::Result<()> {
        Ok(setns(self.0.as_fd(), CloneFlags::CLONE_NEWNET)?)
    }

    /// Does something in it, in a thread of its own.
    pub(crate) fn within<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let inside = || {
            self.enter().expect("a namespace that we made lets us in");
            work()
        };
        let result = thread::scope(|scope| scope.spawn(inside).join());
        result.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    /// Runs a program in it and returns what it says.
    pub(crate) fn run(&self, line: &str, input: &str) -> io::Result<String> {
        self.within(|| {
            let mut words = line.split(' ');
            let mut program = Program::new(words.next().unwrap_or_default());
            let piped = program.args(words).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
            let mut child = piped.spawn().map_err(|error| io::Error::new(error.kind(), format!("{line}: {error}")))?;
            child.stdin.take().map_or(Ok(()), |mut stdin| stdin.write_all(input.as_bytes()))?;
            let output = child.wait_with_output()?;
            if !output.status.success() {
                return Err(io::Error::other(format!("{line}: {}", String::from_utf8_lossy(&output.stderr))));
            }
            Ok(String::from_utf8_lossy(&output.stdout).into_owned())
        })
    }
}

/// A node, a pod on its bridge and a client on its other interface.
pub(crate) struct Site {
    pub(crate) node: Arc<Space>,
    pub(crate) pod: Space,
    pub(crate) client: Space,
}

pub(crate) fn net(text: &str) -> IpNet {
    text.parse().expect("a prefix")
}

pub(crate) fn route(prefix: &str, via: Ipv4Addr, src: Option<IpAddr>) -> (RouteKey, RouteValue) {
    let hop = NextHop { via: Some(via.into()), dev: Some("eth0".into()), weight: 1 };
    let value = RouteValue { kind: RouteKind::Unicast, protocol: PROTO_BOOT, src, next_hops: vec![hop] };
    (RouteKey { prefix: net(prefix), table: MAIN_TABLE, metric: 0 }, value)
}

/// `RTPROT_BOOT`: what `ip route add` writes.
pub(crate) const PROTO_BOOT: u8 = 3;

/// What others have put into the node's namespace, as commands with input.
pub(crate) const FOREIGN: &[(&str, &str)] = &[
    (
        "ip -batch -",
        "route add 172.31.0.0/16 via 192.168.0.99 proto boot
         route add 172.30.0.0/16 via 192.168.0.99 proto boot table 100
         address add 203.0.113.7/32 dev lo
         rule add priority 100 from 198.51.100.0/24 lookup 100
        ",
    ),
    (
        "nft -f -",
        "table inet other {
            set bad { type ipv4_addr; elements = { 198.51.100.1, 198.51.100.2 }; }
            chain input { type filter hook input priority 10; policy accept; ip saddr @bad drop; }
            chain forward { type filter hook forward priority 10; policy accept; ip daddr @bad drop; }
        }",
    ),
];

impl Site {
    pub(crate) fn new() -> io::Result<Site> {
        let site = Site { node: Arc::new(Space::new()?), pod: Space::new()?, client: Space::new()? };
        let other = io::Error::other;
        site.node.within(|| {
            let mut setup = Setup::new().map_err(other)?;
            setup.set_up("lo", true).map_err(other)?;
            setup.add_bridge("kube-bridge").map_err(other)?;
            setup.add_veth("pod", "eth0", Some(site.pod.0.as_fd())).map_err(other)?;
            setup.enslave("pod", "kube-bridge").map_err(other)?;
            setup.add_veth("eth1", "eth0", Some(site.client.0.as_fd())).map_err(other)?;
            for link in ["pod", "kube-bridge", "eth1"] {
                setup.set_up(link, true).map_err(other)?;
            }
            setup.add_address("kube-bridge", net("10.1.1.1/24")).map_err(other)?;
            setup.add_address("eth1", net("192.168.0.1/24")).map_err(other)
        })?;
        for (space, address, gateway) in
            [(&site.pod, "10.1.1.2/24", [10, 1, 1, 1]), (&site.client, "192.168.0.2/24", [192, 168, 0, 1])]
        {
            space.within(|| {
                let mut setup = Setup::new().map_err(other)?;
                setup.set_up("lo", true).map_err(other)?;
                setup.set_up("eth0", true).map_err(other)?;
                setup.add_address("eth0", net(address)).map_err(other)?;
                let (key, value) = route("0.0.0.0/0", gateway.into(), None);
                setup.add_route(key, value).map_err(other)
            })?;
        }
        // The client has an address for each address of the service. Connections from one source address and port to
        // both would be the same connection behind IPVS, whoever programs it, and the older one would break.
        site.client.within(|| {
            let mut setup = Setup::new().map_err(other)?;
            setup.add_address("eth0", net(&format!("{}/24", SOURCES[1]))).map_err(other)?;
            let (key, value) = route(&format!("{}/32", STEADY[1]), [192, 168, 0, 1].into(), Some(SOURCES[1].into()));
            setup.add_route(key, value).map_err(other)
        })?;
        for (line, input) in FOREIGN {
            site.node.run(line, input)?;
        }
        Ok(site)
    }

    /// What is not ours, as the tools print it.
    pub(crate) fn foreign(&self) -> Vec<String> {
        // Ours are what is on our interface, and our rules.
        let kept = |line: &str, key: &str, ours: &[Value]| {
            let text = self.node.run(line, "").expect("ip runs");
            let mut all: Vec<Value> = serde_json::from_str(&text).expect("ip writes JSON");
            all.retain(|entry| entry.get(key).is_none_or(|value| !ours.contains(value)));
            Value::Array(all).to_string()
        };
        vec![
            kept("ip -4 -j route show table all", "dev", &[json!("kube-dummy-if")]),
            kept("ip -4 -j addr", "ifname", &[json!("kube-dummy-if")]),
            kept("ip -4 -j rule", "priority", &[json!(32764), json!(32765)]),
            self.node.run("nft list table inet other", "").expect("nft runs"),
        ]
    }
}

// ---- Objects.

pub(crate) type Objects = BTreeMap<ObjectKey, Value>;

pub(crate) fn objects(all: impl IntoIterator<Item = Value>) -> Objects {
    all.into_iter().map(|value| (fairway_decode::key_of(&value).expect("an object"), value)).collect()
}

pub(crate) fn service(name: &str, address: &str, external: &[&str], ports: &[u16]) -> Value {
    let ports: Vec<Value> =
        ports.iter().map(|port| json!({"name": format!("p{port}"), "protocol": "TCP", "port": port})).collect();
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {
            "type": "ClusterIP", "clusterIP": address, "clusterIPs": [address], "ipFamilies": ["IPv4"],
            "externalIPs": external, "ports": ports,
        },
    })
}

pub(crate) fn slice(name: &str, endpoints: &[&str], ports: &[u16]) -> Value {
    let endpoints: Vec<Value> = endpoints
        .iter()
        .map(|address| json!({"addresses": [address], "conditions": {"ready": true}, "nodeName": "node"}))
        .collect();
    let ports: Vec<Value> =
        ports.iter().map(|port| json!({"name": format!("p{port}"), "protocol": "TCP", "port": port})).collect();
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {
            "name": format!("{name}-1"), "namespace": "default",
            "labels": {"kubernetes.io/service-name": name},
        },
        "endpoints": endpoints, "ports": ports,
    })
}

/// What does not change.
pub(crate) fn constant() -> Vec<Value> {
    vec![
        json!({
            "apiVersion": "v1", "kind": "Node", "metadata": {"name": "node"},
            "spec": {"podCIDR": "10.1.1.0/24", "podCIDRs": ["10.1.1.0/24"]},
            "status": {"addresses": [{"type": "InternalIP", "address": "192.168.0.1"}]},
        }),
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "default"}}),
        service("steady", &STEADY[0].to_string(), &[&STEADY[1].to_string()], &[PORT]),
        slice("steady", &[&POD.to_string()], &[PORT]),
    ]
}

pub(crate) fn before() -> Objects {
    let gone = [
        service("gone", "10.96.0.30", &["10.0.0.30"], &[80, 443]),
        slice("gone", &["10.1.1.30", "10.1.1.31"], &[80, 443]),
        service("altered", "10.96.0.20", &[], &[80]),
        slice("altered", &["10.1.1.20", "10.1.1.21"], &[80]),
    ];
    objects(constant().into_iter().chain(gone))
}

pub(crate) fn after() -> Objects {
    let new = [
        service("altered", "10.96.0.20", &[], &[80]),
        slice("altered", &["10.1.1.21", "10.1.1.22"], &[80]),
        service("new", "10.96.0.40", &["10.0.0.40"], &[80, 443]),
        slice("new", &["10.1.1.40"], &[80, 443]),
    ];
    objects(constant().into_iter().chain(new))
}

pub(crate) fn put(value: &Value) -> Delta {
    match fairway_decode::decode(value).expect("an object") {
        Delta::Put { object, notices } if notices.is_empty() => Delta::Put { object, notices },
        other => panic!("an object of the test is wrong: {other:?}"),
    }
}

/// Everything, as a watch begins.
pub(crate) fn list(objects: &Objects) -> Vec<Delta> {
    let mut deltas = vec![];
    for kind in Kind::ALL {
        deltas.push(Delta::Relist(kind));
        deltas.extend(objects.iter().filter(|(key, _)| key.kind == kind).map(|(_, value)| put(value)));
        deltas.push(Delta::Listed(kind));
    }
    deltas
}

/// What leads from some objects to others.
pub(crate) fn change(from: &Objects, to: &Objects) -> Vec<Delta> {
    let put = to.iter().filter(|(key, value)| from.get(key) != Some(value)).map(|(_, value)| put(value));
    let deleted = from.keys().filter(|key| !to.contains_key(key)).map(|key| Delta::Del(key.clone()));
    put.chain(deleted).collect()
}

// ---- The agent.

/// How far an agent comes.
#[derive(Debug, Default)]
pub(crate) struct Life {
    /// Steps it took.
    pub(crate) taken: Vec<String>,
    /// Steps it may take.
    pub(crate) limit: Option<usize>,
    /// What it was about to do when it was killed.
    pub(crate) killed_at: Option<String>,
}

/// A kernel that nothing reaches any more after so many steps. A step is an op, or a transaction where ops come in one:
/// no kill can cut that.
pub(crate) struct Mortal {
    pub(crate) kernel: RealKernel,
    pub(crate) life: Arc<Mutex<Life>>,
}

impl Mortal {
    /// Takes a step, if it lives.
    pub(crate) fn step<P: Plane>(&self, ops: &[Op<P>]) -> Result<(), Fault> {
        let mut life = self.life.lock().expect("nobody panics with it");
        let step = format!("{} {ops:?}", P::ID.as_str());
        if life.limit.is_some_and(|limit| limit <= life.taken.len()) {
            life.killed_at.get_or_insert(step);
            return Err(Fault::Lost);
        }
        life.taken.push(step);
        Ok(())
    }
}

impl Watched for Mortal {
    fn monitor(&mut self) -> Result<Option<Monitor>, String> {
        self.kernel.monitor()
    }
}

impl<P: Plane> Backend<P> for Mortal
where
    RealKernel: Backend<P>,
{
    fn observe(&mut self) -> Result<Table<P>, Fault> {
        if self.life.lock().expect("nobody panics with it").killed_at.is_some() {
            return Err(Fault::Lost);
        }
        self.kernel.observe()
    }

    fn apply(&mut self, ops: &[Op<P>]) -> Result<Vec<Outcome>, Fault> {
        let size = if P::ID == PlaneId::Filter { ops.len().max(1) } else { 1 };
        let mut outcomes = vec![];
        for step in ops.chunks(size) {
            self.step(step)?;
            outcomes.extend(self.kernel.apply(step)?);
        }
        Ok(outcomes)
    }
}

/// An agent that runs.
pub(crate) struct Running {
    pub(crate) node: Node,
    pub(crate) life: Arc<Mutex<Life>>,
}

impl Running {
    /// Starts an agent on a node, for so many steps, and lists it all objects.
    pub(crate) fn start(node: &Arc<Space>, objects: &Objects, limit: Option<usize>) -> Running {
        let life = Arc::new(Mutex::new(Life { limit, ..Life::default() }));
        let (space, kept) = (Arc::clone(node), Arc::clone(&life));
        let node = Node::start(Start {
            config: config(),
            seed: 1,
            epoch: Instant::now(),
            enter: Box::new(move || space.enter()),
            open: Box::new(|config| {
                let kernel = RealKernel::open(config).map_err(|error| error.to_string())?;
                Ok(Mortal { kernel, life: kept })
            }),
            notices: Box::new(drop),
            events: Box::new(|_| {}),
        });
        let running = Running { node: node.expect("the agent starts"), life };
        running.tell(list(objects));
        running
    }

    pub(crate) fn tell(&self, deltas: Vec<Delta>) {
        for delta in deltas {
            self.node.send(Command::Input(Input::Delta(delta))).expect("the agent runs");
        }
    }

    /// Steps taken so far.
    pub(crate) fn taken(&self) -> Vec<String> {
        self.life.lock().expect("nobody panics with it").taken.clone()
    }

    /// Lets it live for so many more steps.
    pub(crate) fn limit(&self, steps: usize) {
        let mut life = self.life.lock().expect("nobody panics with it");
        life.limit = Some(life.taken.len() + steps);
    }

    /// Waits until it has done all it can. What it was doing when it was killed, if it was.
    pub(crate) fn settle(&self) -> Option<String> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let killed_at = self.life.lock().expect("nobody panics with it").killed_at.clone();
            if killed_at.is_some() {
                return killed_at;
            }
            let look = |agent: &fairway_agent::Agent, _| (agent.in_sync(), agent.parked());
            let (in_sync, parked) = self.node.ask(look).expect("the agent runs");
            assert!(parked.is_empty(), "the kernel refuses: {parked:?}");
            if in_sync {
                return None;
            }
            assert!(Instant::now() < deadline, "the agent is not done after {PATIENCE:?}");
            thread::sleep(Duration::from_millis(2));
        }
    }

    /// Kills it and waits for its threads.
    pub(crate) fn kill(self) {
        self.node.end(Command::Kill).expect("the agent ran until now");
    }
}

pub(crate) fn config() -> NodeConfig {
    NodeConfig { run_router: false, service_external_ip_range: vec![net("10.0.0.0/24")], ..NodeConfig::new("node") }
}

/// Kernel parameters in the namespace of the calling thread: all that an IPv4 node could have to do with.
pub(crate) fn parameters() -> BTreeMap<PathBuf, String> {
    let mut folders = ["bridge", "ipv4", "netfilter"].map(|name| Path::new("/proc/sys/net").join(name)).to_vec();
    let mut all = BTreeMap::new();
    while let Some(folder) = folders.pop() {
        // A kernel without a feature has no folder for it.
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let path = entry.path();
            match entry.file_type() {
                // Timers of neighbours by the hundred.
                _ if path.ends_with("neigh") => {}
                Ok(kind) if kind.is_dir() => folders.push(path),
                // No parameter but a counter.
                _ if path.ends_with("nf_conntrack_count") => {}
                // Some may only be written.
                _ => all.extend(fs::read_to_string(&path).ok().map(|value| (path, value))),
            }
        }
    }
    all
}

/// Everything of ours in a kernel.
pub(crate) struct State {
    /// The backend reads those that it wrote; here are all.
    pub(crate) sysctl: BTreeMap<PathBuf, String>,
    pub(crate) link: Table<Link>,
    pub(crate) addr: Table<Addr>,
    pub(crate) filter: Table<Filter>,
    pub(crate) rule: Table<Rule>,
    pub(crate) route: Table<Route>,
    pub(crate) ipvs: Table<Ipvs>,
}

impl State {
    pub(crate) fn of(space: &Space) -> State {
        fn read<P: Plane>(kernel: &mut RealKernel) -> Table<P>
        where
            RealKernel: Backend<P>,
        {
            // A dump that a change interrupts is repeated.
            (0..5).find_map(|_| Backend::<P>::observe(kernel).ok()).expect("the kernel can be read")
        }
        space.within(|| {
            let mut kernel = RealKernel::open(&config()).expect("it was open before");
            State {
                sysctl: parameters(),
                link: read::<Link>(&mut kernel),
                addr: read::<Addr>(&mut kernel),
                filter: read::<Filter>(&mut kernel),
                rule: read::<Rule>(&mut kernel),
                route: read::<Route>(&mut kernel),
                ipvs: read::<Ipvs>(&mut kernel),
            }
        })
    }

    /// What differs from what should be, one line per entry; empty if nothing does.
    pub(crate) fn differences(&self, wanted: &State) -> String {
        fn lines<K: Ord + fmt::Debug, V: PartialEq + fmt::Debug>(
            is: &BTreeMap<K, V>,
            wanted: &BTreeMap<K, V>,
        ) -> String {
            let line = |sign: char, (key, value): (&K, &V)| format!("{sign} {key:?}: {value:?}\n");
            let gone = wanted.iter().filter(|(key, value)| is.get(key) != Some(value)).map(|entry| line('-', entry));
            let new = is.iter().filter(|(key, value)| wanted.get(key) != Some(value)).map(|entry| line('+', entry));
            gone.chain(new).collect()
        }
        [
            lines(&self.sysctl, &wanted.sysctl),
            lines(&self.link, &wanted.link),
            lines(&self.addr, &wanted.addr),
            lines(&self.filter, &wanted.filter),
            lines(&self.rule, &wanted.rule),
            lines(&self.route, &wanted.route),
            lines(&self.ipvs, &wanted.ipvs),
        ]
        .concat()
    }
}

// ---- Traffic.

/// Sets a flag when it goes, however that comes about.
pub(crate) struct Finally<'a>(pub(crate) &'a AtomicBool);

impl Drop for Finally<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Answers each byte with the same byte until told to stop.
pub(crate) fn echo(listener: &TcpListener, stop: &AtomicBool) -> io::Result<()> {
    listener.set_nonblocking(true)?;
    let serve = |mut stream: TcpStream| -> io::Result<()> {
        stream.set_nonblocking(false)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_millis(100)))?;
        let mut byte = [0];
        while !stop.load(Ordering::Relaxed) {
            match stream.read(&mut byte) {
                Ok(0) => break,
                Ok(_) => stream.write_all(&byte)?,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    };
    thread::scope(|scope| {
        while !stop.load(Ordering::Relaxed) {
            match listener.accept() {
                Ok((stream, _)) => {
                    // The client sees what goes wrong with a connection.
                    scope.spawn(move || serve(stream).ok());
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => thread::sleep(Duration::from_millis(1)),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    })
}

/// What a client lived through.
#[derive(Debug, Default)]
pub(crate) struct Report {
    pub(crate) pings: usize,
    pub(crate) connects: usize,
    pub(crate) slowest: Duration,
    pub(crate) failures: Vec<String>,
}

pub(crate) fn connect(number: usize) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&SocketAddr::from((STEADY[number % STEADY.len()], PORT)), LATE)?;
    assert_eq!(stream.local_addr()?.ip(), IpAddr::from(SOURCES[number % SOURCES.len()]));
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(LATE))?;
    Ok(stream)
}

pub(crate) fn ping(stream: &mut TcpStream, byte: u8) -> io::Result<()> {
    stream.write_all(&[byte])?;
    let mut answer = [0];
    stream.read_exact(&mut answer)?;
    if answer == [byte] { Ok(()) } else { Err(io::Error::other("another byte came back")) }
}

/// Holds connections through the service and pings each, and makes a new one in each round, until told to stop.
pub(crate) fn load(stop: &AtomicBool) -> Report {
    let mut report = Report::default();
    let mut streams = vec![];
    let mut byte = 0_u8;
    let began = Instant::now();
    for number in 0..CONNECTIONS {
        match connect(number) {
            Ok(stream) => streams.push((number, stream)),
            Err(error) => report.failures.push(format!("connection {number}: {error}")),
        }
    }
    while !stop.load(Ordering::Relaxed) {
        byte = byte.wrapping_add(1);
        let mut note = |what: fmt::Arguments<'_>, result: io::Result<()>| {
            let at = began.elapsed();
            result.map_err(|error| report.failures.push(format!("{what} after {at:?}: {error}"))).is_ok()
        };
        streams.retain_mut(|(number, stream)| {
            let start = Instant::now();
            let fine = note(format_args!("ping of connection {number}"), ping(stream, byte));
            report.pings += 1;
            report.slowest = report.slowest.max(start.elapsed());
            fine
        });
        let fresh = connect(report.connects).and_then(|mut stream| ping(&mut stream, byte));
        note(format_args!("new connection {}", report.connects), fresh);
        report.connects += 1;
        thread::sleep(PING);
    }
    report
}

/// The state of the kernel when an agent works in peace.
pub(crate) fn reference(objects: &Objects) -> io::Result<State> {
    let site = Site::new()?;
    let agent = Running::start(&site.node, objects, None);
    assert_eq!(agent.settle(), None);
    agent.kill();
    Ok(State::of(&site.node))
}

/// The first site; `None` if this machine has not what it takes, which is printed.
pub(crate) fn first_site() -> Option<Site> {
    let probe = Space::new().map_err(|error| format!("no network namespaces to be had: {error}"));
    let open = |space: Space| space.within(|| RealKernel::open(&config()).map(drop).map_err(|error| error.to_string()));
    if let Err(reason) = probe.and_then(open) {
        println!("skipped: {reason}");
        return None;
    }
    match Site::new() {
        // `ip` or `nft` is not installed.
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            println!("skipped: {error}");
            None
        }
        site => Some(site.expect("namespaces with links and foreign state")),
    }
}
