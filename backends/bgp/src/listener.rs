//! Listening sockets, one per family.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use crate::md5;
use crate::transport::Connections;

/// Connections that wait to be accepted.
const BACKLOG: i32 = 1024;
/// How long to wait after accepting failed: such errors (no file descriptors left) do not go away at once.
const PAUSE: Duration = Duration::from_millis(100);

/// Listens on one port of every address. When it is dropped the port is free at once.
#[derive(Debug)]
pub(crate) struct Listener {
    pub(crate) port: u16,
    sockets: Vec<Shared>,
    _tasks: JoinSet<()>,
}

impl Listener {
    /// Binds the port in both families. A system without IPv6 listens on IPv4 alone.
    pub(crate) fn bind(
        port: u16,
        passwords: &BTreeMap<IpAddr, String>,
        connections: &Connections,
    ) -> io::Result<Listener> {
        let mut sockets = vec![];
        match bind((Ipv6Addr::UNSPECIFIED, port).into(), passwords) {
            Ok(socket) => sockets.push(Shared::new(socket)),
            Err(error) if is_without_ipv6(&error) => {}
            Err(error) => return Err(error),
        }
        sockets.push(Shared::new(bind((Ipv4Addr::UNSPECIFIED, port).into(), passwords)?));
        let mut tasks = JoinSet::new();
        for socket in &sockets {
            tasks.spawn(accept(socket.clone(), connections.clone()));
        }
        Ok(Listener { port, sockets, _tasks: tasks })
    }

    /// Sets or removes the key of a peer on the socket of its family.
    pub(crate) fn set_password(&self, peer: IpAddr, password: Option<&str>) -> io::Result<()> {
        for socket in &self.sockets {
            if let Some(socket) = socket.lock().as_ref()
                && socket.local_addr()?.is_ipv6() == peer.is_ipv6()
            {
                md5::set(socket, peer, password)?;
            }
        }
        Ok(())
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        // The tasks end only at their next step; the ports must be free before.
        for socket in &self.sockets {
            drop(socket.lock().take());
        }
    }
}

/// Tries a password without listening. Where its family does not exist, nobody can connect with it, so it is fine.
pub(crate) fn try_password(peer: IpAddr, password: &str) -> io::Result<()> {
    match Socket::new(Domain::for_address(SocketAddr::new(peer, 0)), Type::STREAM, Some(Protocol::TCP)) {
        Ok(socket) => md5::set(&socket, peer, Some(password)),
        Err(error) if is_without_ipv6(&error) => Ok(()),
        Err(error) => Err(error),
    }
}

/// A socket of which the task that accepts has a share only while it looks.
#[derive(Clone, Debug)]
struct Shared(Arc<Mutex<Option<TcpListener>>>);

impl Shared {
    fn new(socket: TcpListener) -> Shared {
        Shared(Arc::new(Mutex::new(Some(socket))))
    }

    fn lock(&self) -> MutexGuard<'_, Option<TcpListener>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `None` when the socket is closed.
    async fn accept(&self) -> Option<io::Result<(TcpStream, SocketAddr)>> {
        poll_fn(|context| match self.lock().as_ref() {
            Some(socket) => socket.poll_accept(context).map(Some),
            None => Poll::Ready(None),
        })
        .await
    }
}

fn is_without_ipv6(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EAFNOSUPPORT | libc::EADDRNOTAVAIL))
}

fn bind(address: SocketAddr, passwords: &BTreeMap<IpAddr, String>) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        // IPv4 has its own socket, so that no address is a mapped one.
        socket.set_only_v6(true)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    // Before it listens: otherwise who is quick needs no password.
    for (peer, password) in passwords.iter().filter(|(peer, _)| peer.is_ipv6() == address.is_ipv6()) {
        md5::set(&socket, *peer, Some(password))?;
    }
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

async fn accept(socket: Shared, connections: Connections) {
    while let Some(accepted) = socket.accept().await {
        match accepted {
            Ok((stream, remote)) => {
                if !connections.accepted(stream, remote).await {
                    return;
                }
            }
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(_) => tokio::time::sleep(PAUSE).await,
        }
    }
}
