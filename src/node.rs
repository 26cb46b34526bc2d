//! `fairway node`: the node daemon. It has kube-router's command line, and answers to its name.

use std::ffi::OsString;
use std::fmt::Display;
use std::io::{self, Write};
use std::net::{IpAddr, UdpSocket};
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use fairway_agent::{Input, watched};
use fairway_backend_cri::{ContainerRuntime, Sandbox};
use fairway_backend_kube::{self as watches, Access, Cluster, Health, Inbox, KindHealth, Manifests, Watched, Writer};
use fairway_node::{Command, Ended, Node, Only, PodSpace, PodSpaces, RealKernel, Signal, Start, Watch, signals};
use fairway_objects::{Delta, Kind, NodeConfig, NoticeChange, ObjectKey};
use serde_json::json;

use crate::USAGE;
use crate::flags::{self, Asked, Daemon};
use crate::operate::{self, TakeOver};
use crate::verbose;

/// How often the folder of manifests is looked at, and whether the node still runs.
const LOOK: Duration = Duration::from_secs(1);
/// Where the kubelet tells a pod its namespace.
const SERVICE_ACCOUNT_NAMESPACE: &str = "/var/run/secrets/kubernetes.io/serviceaccount/namespace";

/// One line of the log, on standard error.
pub(crate) fn log(kind: &str, what: &dyn Display) {
    // A log that nobody takes must not end the daemon.
    let _gone = writeln!(io::stderr(), "{} {kind:<7} {what}", humantime::format_rfc3339_millis(SystemTime::now()));
}

/// Runs the daemon until it is asked to end. Exit status 0; 1 if it failed; 2 if the command line is wrong.
pub(crate) fn run(args: impl Iterator<Item = OsString>) -> u8 {
    let mut texts = vec![];
    for arg in args {
        match arg.into_string() {
            Ok(text) => texts.push(text),
            Err(arg) => return usage(&format!("`{}` is not UTF-8", arg.display())),
        }
    }
    // A variable that is no text is no flag.
    let environment = std::env::vars_os().filter_map(|(k, v)| Some((k.into_string().ok()?, v.into_string().ok()?)));
    let environment: Vec<(String, String)> = environment.collect();
    let daemon = match flags::daemon(&texts, &environment) {
        Ok(Asked::Help) => {
            let _gone = io::stdout().write_all(flags::help().as_bytes());
            return 0;
        }
        Ok(Asked::Version) => {
            let _gone = writeln!(io::stdout(), "fairway {}", env!("CARGO_PKG_VERSION"));
            return 0;
        }
        Ok(Asked::Run(daemon)) => *daemon,
        Err(errors) => {
            for error in errors {
                usage(&error.message);
            }
            return USAGE;
        }
    };
    match serve(daemon) {
        Ok(()) => 0,
        Err(Failed { status, reason }) => {
            log("error", &reason);
            status
        }
    }
}

/// Says what is wrong with the command line.
fn usage(reason: &str) -> u8 {
    let _gone = writeln!(io::stderr(), "fairway node: {reason}");
    USAGE
}

/// Why the daemon ends before it is asked to.
pub(crate) struct Failed {
    pub(crate) status: u8,
    pub(crate) reason: String,
}

impl Failed {
    fn usage(reason: String) -> Failed {
        Failed { status: USAGE, reason }
    }

    pub(crate) fn late(reason: impl Display) -> Failed {
        Failed { status: 1, reason: reason.to_string() }
    }
}

/// Where objects come from.
enum Source {
    /// The folder, and what a first look at it gave.
    Folder(Manifests, Vec<Delta>),
    Cluster(Cluster, Inbox),
}

fn serve(daemon: Daemon) -> Result<(), Failed> {
    let Daemon {
        mut config,
        notices,
        manifests,
        master,
        kubeconfig,
        cache_sync_timeout,
        drain_s,
        verbosity,
        proc_sys,
        runtime_endpoint,
        tools,
    } = daemon;
    if !proc_sys.join("net").is_dir() {
        return Err(Failed::usage(format!("--proc-sys: there is no folder {}", proc_sys.join("net").display())));
    }
    if config.node_name.is_empty() {
        let name = std::env::var("NODE_NAME").ok().filter(|name| !name.is_empty());
        config.node_name = name.unwrap_or_else(|| gethostname::gethostname().to_string_lossy().into_owned()).into();
    }
    if manifests.is_none() {
        config.events = true;
        lease(&mut config);
    } else if config.load_balancer.take().is_some() {
        log("note", &"--run-loadbalancer has no effect: a folder of manifests takes no addresses");
    }
    verbose::set(verbosity);
    let graceful_restart = config.graceful_restart.is_some();
    let seed = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_nanos() as u64);
    let signals = signals().map_err(|error| Failed::late(format!("signals: {error}")))?;
    for notice in &notices {
        log("note", notice);
    }
    let access = Access::new(&master, &kubeconfig);
    if tools.cleanup {
        let pods = (!runtime_endpoint.is_empty()).then(|| pods(&runtime_endpoint)).transpose().map_err(Failed::late)?;
        return operate::clean_up(&config, pods, &tools);
    }
    // For as long as this process lives. Who only looks may do so beside a daemon.
    let _only = if tools.dry_run { None } else { Some(Only::claim().map_err(Failed::late)?) };
    let source = match manifests {
        Some(folder) => {
            let (manifests, deltas) = look(&folder, &config.node_name)?;
            log("start", &format!("node {}, manifests in {}", config.node_name, folder.display()));
            Source::Folder(manifests, deltas)
        }
        None => {
            let watched = watched(&config).iter().map(|kind| Watched { kind: *kind, field_selector: None }).collect();
            let access = access.clone();
            let start = watches::Start { access, watched, seed, notices: Box::new(notice) };
            let (cluster, inbox) = Cluster::start(start).map_err(|error| Failed::usage(error.to_string()))?;
            log("start", &format!("node {}, API server {}", config.node_name, cluster.server()));
            Source::Cluster(cluster, inbox)
        }
    };
    let open = move |config: &NodeConfig| {
        let kernel = RealKernel::open(config).map_err(|error| error.to_string())?;
        let kernel = kernel.with_proc_sys(proc_sys.clone());
        Ok(if runtime_endpoint.is_empty() { kernel } else { kernel.with_pods(pods(&runtime_endpoint)?) })
    };
    if tools.dry_run {
        return match source {
            Source::Folder(_, deltas) => operate::dry_run(config, open, deltas.into_iter(), cache_sync_timeout, &tools),
            Source::Cluster(_cluster, mut inbox) => {
                operate::dry_run(config, open, std::iter::from_fn(move || inbox.recv()), cache_sync_timeout, &tools)
            }
        };
    }
    let mut take_over = TakeOver::new(&config);
    let recording = tools.record.as_ref().map(operate::recording).transpose()?;
    let start = Start {
        config,
        seed,
        epoch: Instant::now(),
        enter: Box::new(|| Ok(())),
        open: Box::new(move |config| open(config).map(verbose::kernel)),
        notices: Box::new(notice),
        events: Box::new(|event| log("bgp", event)),
    };
    let node = Node::start_recorded(start, recording).map_err(Failed::late)?;
    // Ends after the node, whose last words go through it.
    let mut _writer = None;
    let asked = match source {
        Source::Folder(mut manifests, deltas) => {
            for delta in deltas {
                verbose::object(&delta);
                node.send(Command::Input(Input::Delta(delta))).map_err(Failed::late)?;
            }
            follow_folder(&node, &mut manifests, &signals, &mut take_over)?
        }
        Source::Cluster(cluster, inbox) => {
            let look = cluster.look();
            node.send(Command::Watches(Box::new(move || seen(&look(), SystemTime::now())))).map_err(Failed::late)?;
            let input = node.inputs();
            // A node that has ended wants no answers.
            let tell = Box::new(move |answer| drop(input(Input::Api(answer))));
            let writer = Writer::start(access, tell).map_err(|error| Failed::usage(error.to_string()))?;
            node.send(Command::Writes(Box::new(writer.requests()))).map_err(Failed::late)?;
            _writer = Some(writer);
            follow_cluster(&node, cluster, inbox, &signals, cache_sync_timeout, &mut take_over)?
        }
    };
    if let Some(signal) = asked {
        log("stop", &format!("{signal:?}: sessions are closed, the kernel keeps what it has"));
        // With graceful restart neighbours keep our routes until we are back, so nothing must lead around us.
        if signal == Signal::Terminate && !graceful_restart && drain_s > 0 {
            log("stop", &format!("neighbours are asked to go around this node for {drain_s} s (--bgp-drain-time)"));
            node.send(Command::Input(Input::Drain)).map_err(Failed::late)?;
            // A second signal means now.
            let _second = signals.recv_timeout(Duration::from_secs(drain_s));
        }
    }
    match node.end(Command::Shutdown) {
        Ok(()) => Ok(()),
        Err(Ended::Gone) if asked.is_some() => Ok(()),
        Err(ended) => Err(Failed::late(ended)),
    }
}

/// The pods of this node, of which the container runtime is asked.
fn pods(endpoint: &str) -> Result<PodSpaces, String> {
    let runtime = ContainerRuntime::new(endpoint).map_err(|error| format!("--runtime-endpoint: {error}"))?;
    let runtime = Mutex::new(runtime);
    Ok(Arc::new(move || {
        let mut runtime = runtime.lock().unwrap_or_else(PoisonError::into_inner);
        let sandboxes = runtime.sandboxes().map_err(|error| error.to_string())?;
        let space = |Sandbox { addresses, namespace }| PodSpace { addresses, namespace };
        Ok(sandboxes.into_iter().map(space).collect())
    }))
}

/// Who we are in the election of those who give addresses, and where its Lease is.
fn lease(config: &mut NodeConfig) {
    let Some(ours) = &mut config.load_balancer else { return };
    let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let file = || std::fs::read_to_string(SERVICE_ACCOUNT_NAMESPACE).ok().map(|text| text.trim().to_string());
    ours.identity = variable("POD_NAME").map_or_else(|| config.node_name.clone(), Into::into);
    match variable("POD_NAMESPACE").or_else(file).filter(|namespace| !namespace.is_empty()) {
        Some(namespace) => ours.lease_namespace = namespace.into(),
        None => log("note", &format!("no POD_NAMESPACE: the Lease is in namespace {}", ours.lease_namespace)),
    }
    log("start", &format!("allocator: Lease {}/kube-router-lballoc, as {}", ours.lease_namespace, ours.identity));
}

fn notice(change: NoticeChange) {
    match change {
        NoticeChange::Raised(notice) => log("notice", &notice),
        NoticeChange::Cleared(notice) => log("cleared", &notice),
    }
}

/// The health of the watches, for status and metrics.
fn seen(health: &Health, now: SystemTime) -> Vec<Watch> {
    let ms = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let watch = |(resource, health): (&str, &KindHealth)| Watch {
        resource: resource.into(),
        listed: health.listed,
        behind_ms: ms(health.lag(now)),
        last_contact_ms: health.last_contact.and_then(|at| at.duration_since(SystemTime::UNIX_EPOCH).ok()).map(ms),
        failures: health.failures,
        lists: health.lists,
        events: health.events,
        stale: health.stale,
        trouble: health.obstacle.as_ref().map(ToString::to_string),
    };
    health.resources().map(watch).collect()
}

/// A first look at a folder of manifests. Without a Node of ours in it one is made up.
fn look(folder: &Path, node_name: &str) -> Result<(Manifests, Vec<Delta>), Failed> {
    let mut source = Manifests::new(folder);
    let mut first = source.poll().map_err(|error| Failed::usage(error.to_string()))?;
    for trouble in &first.troubles {
        log("note", trouble);
    }
    if !source.has(&ObjectKey::new(Kind::Node, "", node_name)) {
        let list: Vec<String> = own_addresses().iter().map(IpAddr::to_string).collect();
        let addresses: Vec<_> = list.iter().map(|a| json!({"type": "InternalIP", "address": a})).collect();
        let list = if list.is_empty() { "no address".into() } else { format!("address {}", list.join(", ")) };
        log("note", &format!("no Node {node_name} in {}: made up with {list}", folder.display()));
        let node = json!({
            "apiVersion": "v1", "kind": "Node", "metadata": {"name": node_name},
            "status": {"addresses": addresses}
        });
        // Into the list of its kind, so that there is no moment without it. It has a kind and a name, so it decodes.
        let at = first.deltas.iter().position(|delta| *delta == Delta::Listed(Kind::Node)).unwrap_or_default();
        if let Ok(delta) = fairway_decode::decode(&node) {
            first.deltas.insert(at, delta);
        }
    }
    Ok((source, first.deltas))
}

/// Waits a little. A signal, or that the node ended by itself (`Break(None)`), is the end of waiting.
fn pause(node: &Node, signals: &Receiver<Signal>) -> Result<ControlFlow<Option<Signal>>, Failed> {
    match signals.recv_timeout(LOOK) {
        Ok(signal) => Ok(ControlFlow::Break(Some(signal))),
        Err(RecvTimeoutError::Timeout) if node.is_over() => Ok(ControlFlow::Break(None)),
        Err(RecvTimeoutError::Timeout) => Ok(ControlFlow::Continue(())),
        Err(RecvTimeoutError::Disconnected) => Err(Failed::late("nobody listens to signals any more")),
    }
}

/// Follows the folder until a signal comes, or the node ends by itself.
fn follow_folder(
    node: &Node,
    source: &mut Manifests,
    signals: &Receiver<Signal>,
    take_over: &mut TakeOver,
) -> Result<Option<Signal>, Failed> {
    let mut unreadable = None;
    loop {
        take_over.look(node, |kind, what| log(kind, &what));
        if let ControlFlow::Break(end) = pause(node, signals)? {
            return Ok(end);
        }
        match source.poll() {
            Ok(changes) => {
                unreadable = None;
                for trouble in &changes.troubles {
                    log("note", trouble);
                }
                for delta in changes.deltas {
                    verbose::object(&delta);
                    node.send(Command::Input(Input::Delta(delta))).map_err(Failed::late)?;
                }
            }
            // The folder may come back, and what is known stays meanwhile.
            Err(error) => {
                let reason = error.to_string();
                if unreadable.as_ref() != Some(&reason) {
                    log("note", &reason);
                    unreadable = Some(reason);
                }
            }
        }
    }
}

/// Follows the cluster until a signal comes, or the node ends by itself. A cluster whose first lists do not come in time
/// is given up, as kube-router does: whoever restarts us sees that something is wrong.
fn follow_cluster(
    node: &Node,
    cluster: Cluster,
    mut inbox: Inbox,
    signals: &Receiver<Signal>,
    patience: Duration,
    take_over: &mut TakeOver,
) -> Result<Option<Signal>, Failed> {
    let begin = Instant::now();
    std::thread::scope(|scope| {
        // Ends when the cluster is dropped, or the node has ended.
        scope.spawn(move || {
            while let Some(delta) = inbox.recv() {
                verbose::object(&delta);
                if node.send(Command::Input(Input::Delta(delta))).is_err() {
                    return;
                }
            }
        });
        // Moved in, so that it is dropped before the scope waits for its thread.
        let cluster = cluster;
        let mut waiting = true;
        loop {
            take_over.look(node, |kind, what| log(kind, &what));
            if let ControlFlow::Break(end) = pause(node, signals)? {
                return Ok(end);
            }
            if waiting {
                let missing = cluster.health().missing();
                waiting = !missing.is_empty();
                let took = humantime::format_duration(Duration::from_millis(begin.elapsed().as_millis() as u64));
                if !waiting {
                    log("start", &format!("every kind was listed, {took} after the start"));
                } else if begin.elapsed() >= patience {
                    let patience = humantime::format_duration(patience);
                    return Err(Failed::late(format!(
                        "not listed within {patience} (--cache-sync-timeout): {}",
                        missing.join("; ")
                    )));
                }
            }
        }
    })
}

/// The addresses with which this host would speak to the world. No packet is sent.
fn own_addresses() -> Vec<IpAddr> {
    // TEST-NET-1 and the documentation prefix: routed like any other address, nobody's.
    let address = |bind: &str, to: &str| {
        let socket = UdpSocket::bind(bind).ok()?;
        socket.connect(to).ok()?;
        socket.local_addr().ok().map(|local| local.ip()).filter(|ip| !ip.is_loopback() && !ip.is_unspecified())
    };
    [address("0.0.0.0:0", "192.0.2.1:9"), address("[::]:0", "[2001:db8::1]:9")].into_iter().flatten().collect()
}
