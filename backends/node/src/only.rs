//! One daemon per node.

use std::fmt;
use std::fs;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};

use nix::sys::socket::getsockopt;
use nix::sys::socket::sockopt::PeerCredentials;

/// Name of the socket: abstract, so it is no file, and belongs to the network namespace as everything that we write does.
const NAME: &[u8] = b"fairway/node";

/// As long as this lives no other daemon starts in this network namespace, whatever its mounts and processes. The
/// kernel frees it when the process dies, however it does.
#[derive(Debug)]
pub struct Only {
    _socket: UnixListener,
}

/// Why this daemon cannot be the only one.
#[derive(Debug, PartialEq, Eq)]
pub enum Taken {
    /// A daemon of ours runs, with this process number (0: in a PID namespace that we do not see) and name.
    Daemon(u32, String),
    /// kube-router runs, with this process number.
    KubeRouter(u32),
    /// The system gave no socket, or does not say.
    Unknown(String),
}

impl fmt::Display for Taken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Taken::Daemon(0, _) => {
                f.write_str("another daemon runs on this node already, in a PID namespace that is not seen from here")
            }
            Taken::Daemon(pid, name) => write!(f, "another daemon runs on this node already: process {pid} ({name})"),
            Taken::KubeRouter(pid) => write!(
                f,
                "kube-router runs on this node: process {pid}; both would write the same tables. End it first: its \
                 connections and routes are taken over"
            ),
            Taken::Unknown(reason) => write!(f, "whether another daemon runs on this node is not known: {reason}"),
        }
    }
}

impl Only {
    /// Claims the network namespace of the calling thread.
    ///
    /// # Errors
    /// Who has it.
    pub fn claim() -> Result<Only, Taken> {
        let unknown = |error: io::Error| Taken::Unknown(error.to_string());
        let address = SocketAddr::from_abstract_name(NAME).map_err(unknown)?;
        match UnixListener::bind_addr(&address) {
            Ok(socket) => match kube_router() {
                Some(pid) => Err(Taken::KubeRouter(pid)),
                None => Ok(Only { _socket: socket }),
            },
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => Err(holder(&address).map_err(unknown)?),
            Err(error) => Err(unknown(error)),
        }
    }
}

/// Who listens: the kernel tells the peer of a connection, which nobody has to accept.
fn holder(address: &SocketAddr) -> io::Result<Taken> {
    let stream = UnixStream::connect_addr(address)?;
    let pid = getsockopt(&stream, PeerCredentials)?.pid().cast_unsigned();
    Ok(Taken::Daemon(pid, name(pid)))
}

/// What a process calls itself.
fn name(pid: u32) -> String {
    fs::read_to_string(format!("/proc/{pid}/comm")).map_or_else(|_| "unknown".into(), |name| name.trim().into())
}

/// A process called kube-router in our network namespace that is not this program under its name.
fn kube_router() -> Option<u32> {
    let ours = fs::metadata("/proc/self/exe").ok().map(|file| (file.dev(), file.ino()));
    let namespace = fs::read_link("/proc/self/ns/net").ok();
    let pids = fs::read_dir("/proc").ok()?.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let theirs = |pid: &u32| {
        name(*pid) == "kube-router"
            && fs::read_link(format!("/proc/{pid}/ns/net")).ok() == namespace
            && fs::metadata(format!("/proc/{pid}/exe")).ok().map(|file| (file.dev(), file.ino())) != ours
    };
    pids.into_iter().find(theirs)
}
