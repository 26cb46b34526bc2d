//! The backend: one socket, a shadow, and the [`Backend`] trait.

use std::io;

use fairway_desired::ipvs::{Key, Value, VirtualServerKey};
use fairway_desired::{Backend, Fault, Ipvs, Op, Outcome, Table};
use fairway_netlink::{Error, Protocol, Socket, generic_family};
use ipnet::IpNet;

use crate::decode::{Dest, Service, read_dest, read_service};
use crate::encode::{Encoder, family};
use crate::plan::{Run, is_excluded};
use crate::shadow::Shadow;
use crate::uapi::errno::{EINTR, EPERM};
use crate::uapi::{self, command};

/// Why there is no [`IpvsBackend`].
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The kernel has no generic netlink family `IPVS`, and could not load the module that brings it.
    #[error("the kernel has no IPVS: module ip_vs is missing")]
    Unsupported,
    /// The system gave no socket, or the kernel did not answer.
    #[error("no netlink socket for IPVS: {0}")]
    Io(#[from] io::Error),
}

impl From<OpenError> for Fault {
    fn from(error: OpenError) -> Fault {
        match error {
            OpenError::Unsupported => Fault::Unsupported(error.to_string()),
            OpenError::Io(error) if error.raw_os_error() == Some(EPERM) => Fault::Denied,
            OpenError::Io(_) => Fault::Lost,
        }
    }
}

/// The virtual servers of one network namespace.
///
/// The namespace is the one of the thread that calls [`IpvsBackend::new`]. A socket that was lost is opened again by
/// the next call, so all calls must come from threads in the same network namespace; that is checked on reopening.
#[derive(Debug)]
pub struct IpvsBackend {
    /// `None` after it was lost.
    link: Option<Link>,
    namespace: Option<Namespace>,
    excluded: Vec<IpNet>,
    shadow: Shadow,
}

/// An open socket and the number of the family.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) socket: Socket,
    pub(crate) encoder: Encoder,
}

/// Device and inode of a network namespace's file.
type Namespace = (u64, u64);

/// The network namespace of this thread; `None` without `/proc`.
fn namespace() -> Option<Namespace> {
    use std::os::unix::fs::MetadataExt;
    let file = std::fs::metadata("/proc/thread-self/ns/net").ok()?;
    Some((file.dev(), file.ino()))
}

impl Link {
    fn open() -> Result<Link, OpenError> {
        let mut socket = Socket::open(Protocol::Generic)?;
        match generic_family(&mut socket, uapi::FAMILY) {
            Ok(Some(family)) => Ok(Link { socket, encoder: Encoder { family } }),
            // To ask family 0 would be acknowledged with success.
            Ok(None) => Err(OpenError::Unsupported),
            Err(Error::Lost(error)) => Err(error.into()),
            Err(Error::Errno(errno)) => Err(io::Error::from_raw_os_error(errno.0).into()),
            Err(Error::Interrupted) => Err(io::Error::from_raw_os_error(EINTR).into()),
        }
    }
}

/// What a failed request means for the call it belongs to.
pub(crate) fn fault(error: &Error) -> Fault {
    match error {
        Error::Interrupted => Fault::Interrupted,
        Error::Errno(errno) if errno.0 == EPERM => Fault::Denied,
        Error::Lost(_) | Error::Errno(_) => Fault::Lost,
    }
}

impl IpvsBackend {
    /// Opens a socket in the network namespace of the calling thread, and finds the family.
    ///
    /// Needs no privilege; every other call needs `CAP_NET_ADMIN` in the initial user namespace, because IPVS does not
    /// accept that of another one, and says [`Fault::Denied`] without.
    ///
    /// # Errors
    /// [`OpenError::Unsupported`] if the kernel has no IPVS.
    pub fn new() -> Result<IpvsBackend, OpenError> {
        let link = Link::open()?;
        Ok(IpvsBackend { link: Some(link), namespace: namespace(), excluded: vec![], shadow: Shadow::default() })
    }

    /// Virtual servers with an address in one of these networks are somebody else's (`--excluded-cidrs`): not
    /// observed, and ops on them and their real servers are [`Outcome::Foreign`], whether or not they exist.
    #[must_use]
    pub fn with_excluded(mut self, excluded: Vec<IpNet>) -> Self {
        self.excluded = excluded;
        self
    }

    /// Does something with the socket, which is opened again first if it was lost.
    pub(crate) fn with_link<T>(
        &mut self,
        what: impl FnOnce(&mut Link, &mut Shadow, &[IpNet]) -> Result<T, Fault>,
    ) -> Result<T, Fault> {
        let mut link = match self.link.take() {
            Some(link) => link,
            // Better no socket than one that writes this node's servers elsewhere.
            None if namespace() != self.namespace => return Err(Fault::Lost),
            None => Link::open()?,
        };
        let result = what(&mut link, &mut self.shadow, &self.excluded);
        match &result {
            Err(Fault::Lost) => self.shadow = Shadow::default(),
            _ => self.link = Some(link),
        }
        result
    }
}

impl Link {
    /// All virtual servers, as `each` makes something of them or leaves them out.
    ///
    /// IPVS has no generation counter: a dump while somebody else adds and deletes servers may miss one. We are the
    /// only writer, and the next observation sees it.
    pub(crate) fn servers<T>(
        &mut self,
        mut each: impl FnMut(&VirtualServerKey, Service<'_>) -> Option<T>,
    ) -> Result<Vec<(VirtualServerKey, T)>, Fault> {
        let mut found = vec![];
        let request = self.encoder.bare(command::GET_SERVICE);
        let collect = |found: &mut Vec<_>, kind, payload: &[u8]| {
            if kind == self.encoder.family
                && let Some((key, service)) = read_service(payload)
                && let Some(value) = each(&key, service)
            {
                found.push((key, value));
            }
        };
        self.socket.dump(&request, &mut found, Vec::clear, collect).map_err(|error| fault(&error))?;
        Ok(found)
    }

    /// The real servers of each of these; `each` gets the index of the virtual server.
    pub(crate) fn reals<'a, T>(
        &mut self,
        servers: &'a [VirtualServerKey],
        mut each: impl FnMut(usize, &'a VirtualServerKey, fairway_desired::ipvs::RealServerKey, Dest<'_>) -> T,
    ) -> Result<Vec<T>, Fault> {
        let mut all = vec![];
        for (index, server) in servers.iter().enumerate() {
            let request = self.encoder.about(command::GET_DEST, server);
            let before = all.len();
            let collect = |all: &mut Vec<T>, kind, payload: &[u8]| {
                if kind == self.encoder.family
                    && let Some((key, dest)) = read_dest(server, payload)
                {
                    all.push(each(index, server, key, dest));
                }
            };
            let forget = |all: &mut Vec<T>| all.truncate(before);
            self.socket.dump(&request, &mut all, forget, collect).map_err(|error| fault(&error))?;
        }
        Ok(all)
    }
}

impl Backend<Ipvs> for IpvsBackend {
    fn observe(&mut self) -> Result<Table<Ipvs>, Fault> {
        self.with_link(|link, shadow, excluded| {
            let servers =
                link.servers(|key, service| (!is_excluded(key, excluded)).then(|| service.value(family(key))))?;
            let keys: Vec<VirtualServerKey> = servers.iter().map(|(key, _)| key.clone()).collect();
            let reals = link.reals(&keys, |_, server, key, dest| {
                (Key { server: server.clone(), real: Some(key) }, Value::Real(dest.value()))
            })?;
            let servers = servers.into_iter().map(|(server, value)| (Key { server, real: None }, Value::Server(value)));
            let table: Table<Ipvs> = servers.chain(reals).collect();
            *shadow = Shadow::default();
            table.keys().for_each(|key| shadow.insert(key));
            Ok(table)
        })
    }

    fn apply(&mut self, ops: &[Op<Ipvs>]) -> Result<Vec<Outcome>, Fault> {
        self.with_link(|link, shadow, excluded| {
            let mut run = Run::new(ops);
            loop {
                let requests = run.requests(link.encoder, shadow, excluded);
                if requests.is_empty() {
                    return Ok(run.outcomes());
                }
                let results = link.socket.requests(requests).map_err(|error| fault(&error))?;
                if results.iter().any(|result| result.is_err_and(|errno| errno.0 == EPERM)) {
                    *shadow = Shadow::default();
                    return Err(Fault::Denied);
                }
                run.answers(&results, shadow);
            }
        })
    }
}
