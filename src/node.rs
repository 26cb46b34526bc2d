//! `fairway node`: the node daemon. It has kube-router's command line, and answers to its name.

use std::fmt::Display;
use std::io::{self, Write};
use std::net::{IpAddr, UdpSocket};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant, SystemTime};

use fairway_agent::Input;
use fairway_backend_kube::Manifests;
use fairway_node::{Command, Ended, Node, RealKernel, Signal, Start, signals};
use fairway_objects::{Delta, Kind, NoticeChange, ObjectKey};
use serde_json::json;

use crate::USAGE;
use crate::flags::{self, Daemon};

/// How often the folder of manifests is looked at.
const LOOK: Duration = Duration::from_secs(1);

/// One line of the log, on standard error.
fn log(kind: &str, what: &dyn Display) {
    // A log that nobody takes must not end the daemon.
    let _gone = writeln!(io::stderr(), "{} {kind:<7} {what}", humantime::format_rfc3339_millis(SystemTime::now()));
}

/// Runs the daemon until it is asked to end. Exit status 0; 1 if it failed; 2 if the command line is wrong.
pub(crate) fn run(args: &[String]) -> u8 {
    if args.iter().any(|a| matches!(a.as_str(), "-h" | "--help")) {
        let text = format!(
            "The node daemon: service proxy, router. Its flags are kube-router's; of ours are --manifests, \
             --bgp-drain-time,\n--bgp-import-default-route, --bgp-route-metric and --bgp-long-lived-stale-time.\n\n\
             Usage: fairway node --manifests FOLDER [FLAGS]\n\nFlags:\n{}  -h, --help\n  -V, --version\n",
            flags::help()
        );
        let _gone = io::stdout().write_all(text.as_bytes());
        return 0;
    }
    if args.iter().any(|a| matches!(a.as_str(), "-V" | "--version")) {
        let _gone = writeln!(io::stdout(), "fairway {}", env!("CARGO_PKG_VERSION"));
        return 0;
    }
    let daemon = match flags::daemon(args) {
        Ok(daemon) => daemon,
        Err(errors) => {
            for error in errors {
                let _gone = writeln!(io::stderr(), "fairway node: {}", error.message);
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

/// Why the daemon ends before it is asked to.
struct Failed {
    status: u8,
    reason: String,
}

impl Failed {
    fn usage(reason: String) -> Failed {
        Failed { status: USAGE, reason }
    }

    fn late(reason: impl Display) -> Failed {
        Failed { status: 1, reason: reason.to_string() }
    }
}

fn serve(daemon: Daemon) -> Result<(), Failed> {
    let Daemon { mut config, notices, manifests, drain_s } = daemon;
    let Some(folder) = manifests else {
        let reason = "--manifests FOLDER is needed: watching a cluster's API server is not built yet";
        return Err(Failed::usage(reason.into()));
    };
    if config.node_name.is_empty() {
        let name = std::env::var("NODE_NAME").ok().filter(|name| !name.is_empty());
        config.node_name = name.unwrap_or_else(|| gethostname::gethostname().to_string_lossy().into_owned()).into();
    }
    let graceful_restart = config.graceful_restart.is_some();
    let mut source = Manifests::new(&folder);
    let mut first = source.poll().map_err(|error| Failed::usage(error.to_string()))?;
    for trouble in &first.troubles {
        log("note", trouble);
    }
    for notice in &notices {
        log("note", notice);
    }
    let own = ObjectKey::new(Kind::Node, "", &config.node_name);
    if !source.has(&own) {
        let addresses = own_addresses();
        let list: Vec<String> = addresses.iter().map(IpAddr::to_string).collect();
        log(
            "note",
            &format!("no Node {} in {}: made up with address {}", config.node_name, folder.display(), list.join(", ")),
        );
        let addresses: Vec<_> = list.iter().map(|a| json!({"type": "InternalIP", "address": a})).collect();
        let node = json!({
            "apiVersion": "v1", "kind": "Node", "metadata": {"name": &*config.node_name},
            "status": {"addresses": addresses}
        });
        // Into the list of its kind, so that there is no moment without it. It has a kind and a name, so it decodes.
        let at = first.deltas.iter().position(|delta| *delta == Delta::Listed(Kind::Node)).unwrap_or_default();
        if let Ok(delta) = fairway_decode::decode(&node) {
            first.deltas.insert(at, delta);
        }
    }
    let signals = signals().map_err(|error| Failed::late(format!("signals: {error}")))?;
    log("start", &format!("node {}, manifests in {}", config.node_name, folder.display()));
    let seed = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_nanos() as u64);
    let node = Node::start(Start {
        config,
        seed,
        epoch: Instant::now(),
        enter: Box::new(|| Ok(())),
        open: Box::new(|config| RealKernel::open(config).map_err(|error| error.to_string())),
        notices: Box::new(|change| match change {
            NoticeChange::Raised(notice) => log("notice", &notice),
            NoticeChange::Cleared(notice) => log("cleared", &notice),
        }),
        events: Box::new(|event| log("bgp", event)),
    })
    .map_err(Failed::late)?;
    for delta in first.deltas {
        node.send(Command::Input(Input::Delta(delta))).map_err(Failed::late)?;
    }
    let asked = watch(&node, &mut source, &signals)?;
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

/// Follows the folder until a signal comes, or the node ends by itself.
fn watch(node: &Node, source: &mut Manifests, signals: &Receiver<Signal>) -> Result<Option<Signal>, Failed> {
    let mut unreadable = None;
    loop {
        match signals.recv_timeout(LOOK) {
            Ok(signal) => return Ok(Some(signal)),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return Err(Failed::late("nobody listens to signals any more")),
        }
        if node.is_over() {
            return Ok(None);
        }
        match source.poll() {
            Ok(changes) => {
                unreadable = None;
                for trouble in &changes.troubles {
                    log("note", trouble);
                }
                for delta in changes.deltas {
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
