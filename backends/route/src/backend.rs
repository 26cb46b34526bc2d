//! The backend: one socket, and what it knows of the kernel between two observations.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use fairway_desired::{
    Addr, Backend, Fault, Link, LinkKind, LinkValue, Op, Outcome, Route, RouteKey, RouteValue, Rule, RuleKey,
    RuleValue, Sysctl, Table,
};
use fairway_netlink::{Errno, Error, Message, Protocol, Socket};

use crate::link::Links;
use crate::monitor::Writer;
use crate::sysctl::Sysctls;
use crate::wire::errno::{EOPNOTSUPP, EPERM};
use crate::{addr, link, route, rule};

/// The interface that is ours.
pub(crate) const DUMMY: &str = "kube-dummy-if";
/// The bridge of the pods: ours, too, but whoever made it, it is not deleted, as pods hang on it.
pub(crate) const BRIDGE: &str = "kube-bridge";

/// kube-router's UDP port of tunnels.
const OVERLAY_PORT: u16 = 5555;

/// Why there is no [`RouteBackend`].
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The system gave no socket.
    #[error("no netlink socket for routes: {0}")]
    Io(#[from] io::Error),
}

/// Links, addresses, routes, rules and sysctls of one network namespace.
///
/// The namespace is the one of the thread that calls [`RouteBackend::new`]. All calls must come from threads in the same
/// one: a socket that was lost is opened again by the next call (which checks that), and sysctls are files.
#[derive(Debug)]
pub struct RouteBackend {
    /// `None` after it was lost.
    socket: Option<Socket>,
    namespace: Option<Namespace>,
    /// Who writes, for a monitor.
    pub(crate) writer: Arc<Writer>,
    pub(crate) known: Known,
    sysctls: Sysctls,
}

/// What the backend remembers. Forgotten when the socket is lost.
#[derive(Debug)]
pub(crate) struct Known {
    pub(crate) links: Links,
    /// Our tunnels that are there, with the indexes of those that were read.
    pub(crate) tunnels: BTreeMap<Arc<str>, u32>,
    /// UDP ports of tunnels that were ever opened.
    pub(crate) ports: BTreeSet<Arc<str>>,
    /// The UDP port that is ours whoever opened it.
    pub(crate) port: u16,
    /// Our routes as they were asked for: the kernel fills in what was left open.
    pub(crate) routes: BTreeMap<RouteKey, RouteValue>,
    pub(crate) rules: BTreeMap<RuleKey, RuleValue>,
    /// Interfaces that were put without an MTU, so that theirs is nobody's here.
    pub(crate) free_mtus: BTreeSet<Arc<str>>,
}

impl Known {
    fn new(port: u16) -> Self {
        Known {
            links: Links::default(),
            tunnels: BTreeMap::new(),
            ports: BTreeSet::new(),
            free_mtus: BTreeSet::new(),
            port,
            routes: BTreeMap::new(),
            rules: BTreeMap::new(),
        }
    }
}

/// Device and inode of a network namespace's file.
type Namespace = (u64, u64);

/// The network namespace of this thread; `None` without `/proc`.
fn namespace() -> Option<Namespace> {
    use std::os::unix::fs::MetadataExt;
    let file = std::fs::metadata("/proc/thread-self/ns/net").ok()?;
    Some((file.dev(), file.ino()))
}

/// What a failed request means for the call it belongs to.
pub(crate) fn fault(error: &Error) -> Fault {
    match error {
        Error::Interrupted => Fault::Interrupted,
        Error::Errno(errno) if errno.0 == EPERM => Fault::Denied,
        Error::Lost(_) | Error::Errno(_) => Fault::Lost,
    }
}

/// Sends requests and returns one result each; [`Fault::Denied`] if one of them was not permitted.
pub(crate) fn carry_out(socket: &mut Socket, requests: Vec<Message>) -> Result<Vec<Result<(), Errno>>, Fault> {
    let results = socket.requests(requests).map_err(|error| fault(&error))?;
    if results.iter().any(|result| result.is_err_and(|errno| errno.0 == EPERM)) {
        return Err(Fault::Denied);
    }
    Ok(results)
}

impl RouteBackend {
    /// Opens a socket in the network namespace of the calling thread. Changing anything needs `CAP_NET_ADMIN` there.
    ///
    /// # Errors
    /// If the system gives no socket.
    pub fn new() -> Result<RouteBackend, OpenError> {
        let socket = Socket::open(Protocol::Route)?;
        let writer = Arc::new(Writer::default());
        writer.is(&socket);
        let (known, sysctls) = (Known::new(OVERLAY_PORT), Sysctls::default());
        Ok(RouteBackend { socket: Some(socket), namespace: namespace(), writer, known, sysctls })
    }

    /// The UDP port of tunnels is this instead of 5555 (`--overlay-encap-port`): one that was opened by an earlier
    /// process is ours.
    #[must_use]
    pub fn with_overlay_port(mut self, port: u16) -> RouteBackend {
        self.known.port = port;
        self
    }

    /// Kernel parameters are below this folder, in place of `/proc/sys`, which is read-only in a container.
    #[must_use]
    pub fn with_proc_sys(mut self, folder: PathBuf) -> RouteBackend {
        self.sysctls.folder = folder;
        self
    }

    /// Whether the kernel can make interfaces of a kind. Nothing is made: the kernel looks the kind up before it refuses
    /// the name, which no interface can have.
    ///
    /// # Errors
    /// A [`Fault`] if the kernel did not answer, or did not let us ask.
    pub fn offers(&mut self, kind: LinkKind) -> Result<bool, Fault> {
        self.with(|socket, _| {
            let request = link::create("no/name", &LinkValue { kind, up: false, mtu: None });
            let results = carry_out(socket, vec![request])?;
            Ok(!results.into_iter().any(|result| result == Err(Errno(EOPNOTSUPP))))
        })
    }

    /// Does something with the socket, which is opened again first if it was lost.
    pub(crate) fn with<T>(
        &mut self,
        what: impl FnOnce(&mut Socket, &mut Known) -> Result<T, Fault>,
    ) -> Result<T, Fault> {
        let mut socket = match self.socket.take() {
            Some(socket) => socket,
            // Better no socket than one that writes this node's routes elsewhere.
            None if namespace() != self.namespace => return Err(Fault::Lost),
            None => {
                let socket = Socket::open(Protocol::Route).map_err(|_| Fault::Lost)?;
                self.writer.is(&socket);
                socket
            }
        };
        let result = what(&mut socket, &mut self.known);
        match &result {
            Err(Fault::Lost) => {
                let fresh = Known::new(self.known.port);
                let Known { ports, port, .. } = std::mem::replace(&mut self.known, fresh);
                self.known = Known { ports, ..Known::new(port) };
            }
            _ => self.socket = Some(socket),
        }
        result
    }
}

impl Backend<Sysctl> for RouteBackend {
    /// The parameters that this backend ever wrote. There is no table of those that are ours: a daemon that starts
    /// writes what it wants, and what has the right value already is not written.
    fn observe(&mut self) -> Result<Table<Sysctl>, Fault> {
        Ok(self.sysctls.observe())
    }

    fn apply(&mut self, ops: &[Op<Sysctl>]) -> Result<Vec<Outcome>, Fault> {
        Ok(ops.iter().map(|op| self.sysctls.apply(op)).collect())
    }
}

impl Backend<Link> for RouteBackend {
    fn observe(&mut self) -> Result<Table<Link>, Fault> {
        self.with(link::observe)
    }

    fn apply(&mut self, ops: &[Op<Link>]) -> Result<Vec<Outcome>, Fault> {
        let writer = Arc::clone(&self.writer);
        self.with(|socket, known| link::apply(socket, known, &writer, ops))
    }
}

impl Backend<Addr> for RouteBackend {
    fn observe(&mut self) -> Result<Table<Addr>, Fault> {
        self.with(addr::observe)
    }

    fn apply(&mut self, ops: &[Op<Addr>]) -> Result<Vec<Outcome>, Fault> {
        let writer = Arc::clone(&self.writer);
        self.with(|socket, known| addr::apply(socket, known, &writer, ops))
    }
}

impl Backend<Rule> for RouteBackend {
    fn observe(&mut self) -> Result<Table<Rule>, Fault> {
        self.with(rule::observe)
    }

    fn apply(&mut self, ops: &[Op<Rule>]) -> Result<Vec<Outcome>, Fault> {
        self.with(|socket, known| rule::apply(socket, known, ops))
    }
}

impl Backend<Route> for RouteBackend {
    fn observe(&mut self) -> Result<Table<Route>, Fault> {
        self.with(route::observe)
    }

    fn apply(&mut self, ops: &[Op<Route>]) -> Result<Vec<Outcome>, Fault> {
        self.with(|socket, known| route::apply(socket, known, ops))
    }
}
