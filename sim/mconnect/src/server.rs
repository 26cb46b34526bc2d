//! The server: says its name on each TCP connection and to each datagram, until it is told to stop.

use std::future::Future;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream, UdpSocket};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::address::HostPort;
use crate::probe;

/// Connections waiting to be accepted; the kernel lowers it to `net.core.somaxconn`.
const BACKLOG: u32 = 4096;

/// How long open connections may take to end once the server stops.
const STOP_TIMEOUT: Duration = Duration::from_secs(1);

/// How long to wait after accept or receive failed: such errors (no file descriptors left) do not go away at once.
const ERROR_PAUSE: Duration = Duration::from_millis(100);

/// What the server does.
#[derive(Clone, Debug)]
pub struct ServerConfig {
    /// Where to listen.
    pub address: HostPort,
    /// Answer datagrams too, on the same port.
    pub udp: bool,
    /// The name to answer with; `None` is the name of this host (in a pod: the pod's).
    pub host: Option<String>,
    /// Where to answer liveness probes (HTTP), if anywhere.
    pub probe: Option<HostPort>,
    /// Print a line `client ADDRESS` on standard output for each connection and each datagram.
    pub clients: bool,
}

/// A server whose sockets are bound; nothing is accepted before [`Server::run`].
#[derive(Debug)]
pub struct Server {
    host: Arc<str>,
    tcp: TcpListener,
    udp: Option<UdpSocket>,
    probe: Option<TcpListener>,
    clients: bool,
}

/// Listens as `config` says and answers until `shutdown` completes; then open connections are closed in order.
///
/// # Errors
/// A socket that cannot be bound; the text names the address.
pub async fn serve(config: &ServerConfig, shutdown: impl Future<Output = ()>) -> io::Result<()> {
    Server::bind(config).await?.run(shutdown).await;
    Ok(())
}

impl Server {
    /// Binds all sockets. With port 0 the kernel chooses, and UDP takes the port that TCP was given.
    ///
    /// # Errors
    /// A socket that cannot be bound; the text names the address.
    pub async fn bind(config: &ServerConfig) -> io::Result<Self> {
        let tcp = listen(&config.address).await?;
        let udp = match config.udp {
            true => Some(named(UdpSocket::bind(tcp.local_addr()?).await, "UDP", &config.address)?),
            false => None,
        };
        let probe = match &config.probe {
            Some(address) => Some(listen(address).await?),
            None => None,
        };
        let host = match &config.host {
            Some(host) => host.clone(),
            None => gethostname::gethostname().to_string_lossy().into_owned(),
        };
        Ok(Self { host: host.into(), tcp, udp, probe, clients: config.clients })
    }

    /// The address that TCP (and UDP, if asked for) listens on.
    ///
    /// # Errors
    /// Whatever the kernel says to `getsockname`.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.tcp.local_addr()
    }

    /// The address that liveness probes are answered on, if any.
    ///
    /// # Errors
    /// Whatever the kernel says to `getsockname`.
    pub fn probe_address(&self) -> io::Result<Option<SocketAddr>> {
        self.probe.as_ref().map(TcpListener::local_addr).transpose()
    }

    /// Answers until `shutdown` completes, then stops to listen and closes what is open.
    pub async fn run(self, shutdown: impl Future<Output = ()>) {
        let Self { host, tcp, udp, probe, clients } = self;
        let (stop, stopped) = watch::channel(false);
        let mut listeners = JoinSet::new();
        if let Some(socket) = udp {
            listeners.spawn(answer_datagrams(socket, host.clone(), clients));
        }
        if let Some(listener) = probe {
            listeners.spawn(probe::serve(listener));
        }
        let mut connections = JoinSet::new();
        tokio::pin!(shutdown);
        loop {
            tokio::select! {
                () = &mut shutdown => break,
                accepted = accept(&tcp) => {
                    if clients && let Ok(peer) = accepted.peer_addr() {
                        tell(peer);
                    }
                    let (host, stopped) = (host.clone(), stopped.clone());
                    // A peer that resets its connection is the peer's affair and ends just this task.
                    connections.spawn(async move { answer(accepted, &host, stopped).await });
                }
                Some(_) = connections.join_next(), if !connections.is_empty() => {}
            }
        }
        drop(tcp);
        stop.send_replace(true);
        // A peer that reads nothing could hold its task in a write for ever, therefore the limit; dropping aborts.
        let ended = async { while connections.join_next().await.is_some() {} };
        if timeout(STOP_TIMEOUT, ended).await.is_err() {
            connections.abort_all();
        }
    }
}

/// One connection: the name at once, and again after each read, until the peer closes or the server stops.
pub(crate) async fn answer<S>(mut stream: S, host: &str, mut stopped: watch::Receiver<bool>) -> io::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    stream.write_all(host.as_bytes()).await?;
    let mut buffer = [0; 1024];
    loop {
        let read = tokio::select! {
            read = stream.read(&mut buffer) => read?,
            // An error means that the server is gone without a word, which is a stop as well.
            _ = stopped.wait_for(|stopped| *stopped) => 0,
        };
        if read == 0 {
            return stream.shutdown().await;
        }
        stream.write_all(host.as_bytes()).await?;
    }
}

/// The next connection. Errors of accept concern one connection or pass with time, so they end nothing.
pub(crate) async fn accept(listener: &TcpListener) -> TcpStream {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => return stream,
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(_) => sleep(ERROR_PAUSE).await,
        }
    }
}

/// Says who came.
fn tell(peer: SocketAddr) {
    // Nobody may be reading any more; that is no reason to stop serving.
    let _gone = writeln!(io::stdout(), "client {}", peer.ip().to_canonical());
}

async fn answer_datagrams(socket: UdpSocket, host: Arc<str>, clients: bool) {
    let mut buffer = [0; 9000];
    loop {
        match socket.recv_from(&mut buffer).await {
            // An answer that cannot be sent is an answer lost, which UDP allows; the client counts it.
            Ok((_, peer)) => {
                if clients {
                    tell(peer);
                }
                drop(socket.send_to(host.as_bytes(), peer).await);
            }
            // An ICMP error for an earlier answer: its asker has gone, the next one waits already.
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {}
            Err(_) => sleep(ERROR_PAUSE).await,
        }
    }
}

/// A listener on the first address of `address` that can be bound.
pub(crate) async fn listen(address: &HostPort) -> io::Result<TcpListener> {
    let addresses = named(address.resolve_listen().await, "TCP", address)?;
    let mut result = Err(io::Error::new(io::ErrorKind::NotFound, "the name has no address"));
    for candidate in addresses {
        result = listen_on(candidate);
        match &result {
            Ok(_) => break,
            // IPv4 in place of IPv6 would only hide that the port is taken or forbidden.
            Err(error) if [io::ErrorKind::AddrInUse, io::ErrorKind::PermissionDenied].contains(&error.kind()) => break,
            Err(_) => {}
        }
    }
    named(result, "TCP", address)
}

fn listen_on(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv6() { TcpSocket::new_v6() } else { TcpSocket::new_v4() }?;
    // Without it, a restart had to wait until the connections of the last run have left TIME-WAIT.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

fn named<T>(result: io::Result<T>, protocol: &str, address: &HostPort) -> io::Result<T> {
    result.map_err(|error| io::Error::new(error.kind(), format!("cannot listen on {protocol} {address}: {error}")))
}

#[cfg(test)]
mod tests {
    use tokio_test::io::Builder;

    use super::*;

    #[test]
    fn the_name_at_once_and_after_each_read() {
        let stream = Builder::new().write(b"pod-1").read(b"x").write(b"pod-1").read(b"yz").write(b"pod-1").build();
        let (_stop, stopped) = watch::channel(false);
        // The scripted stream panics if anything else is written, or if anything is left unread or unwritten.
        tokio_test::block_on(answer(stream, "pod-1", stopped)).unwrap();
    }

    #[test]
    fn a_reset_ends_the_connection() {
        let reset = io::Error::from(io::ErrorKind::ConnectionReset);
        let stream = Builder::new().write(b"pod-1").read_error(reset).build();
        let (_stop, stopped) = watch::channel(false);
        let error = tokio_test::block_on(answer(stream, "pod-1", stopped)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    }

    #[test]
    fn a_stop_ends_a_silent_connection() {
        tokio_test::block_on(async {
            let (near, mut far) = tokio::io::duplex(64);
            let (stop, stopped) = watch::channel(false);
            let task = tokio::spawn(async move { answer(near, "pod-1", stopped).await });
            let mut name = [0; 5];
            far.read_exact(&mut name).await.unwrap();
            assert_eq!(&name, b"pod-1");
            assert!(!task.is_finished());
            stop.send_replace(true);
            assert_eq!(far.read(&mut name).await.unwrap(), 0);
            task.await.unwrap().unwrap();
        });
    }
}
