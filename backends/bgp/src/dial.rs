//! The socket of a connection that we open.

use std::io;
use std::net::{IpAddr, SocketAddr, SocketAddrV6};

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpSocket, TcpStream};

use crate::{md5, option};

/// How to dial. It has a password, so it is not `Debug`.
pub(crate) struct Dial {
    pub(crate) local: Option<IpAddr>,
    pub(crate) remote: SocketAddr,
    pub(crate) password: Option<String>,
    pub(crate) ttl: Option<u8>,
    pub(crate) min_ttl: Option<u8>,
}

impl Dial {
    /// Connects; says both ends.
    pub(crate) async fn connect(&self) -> io::Result<(TcpStream, SocketAddr, SocketAddr)> {
        let stream = self.socket()?.connect(self.remote).await?;
        let (local, remote) = (plain(stream.local_addr()?), plain(stream.peer_addr()?));
        Ok((stream, local, remote))
    }

    fn socket(&self) -> io::Result<TcpSocket> {
        let socket = Socket::new(Domain::for_address(self.remote), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_nonblocking(true)?;
        option::limit(&socket, self.remote, self.ttl, self.min_ttl)?;
        if let Some(password) = &self.password {
            // A password is never left away: without a key there is no dial.
            md5::set(&socket, self.remote.ip(), Some(password))?;
        }
        if let Some(local) = self.local {
            socket.bind(&self.source(local).into())?;
        }
        Ok(TcpSocket::from_std_stream(socket.into()))
    }

    /// The address to bind. A link-local one is on the link of the peer.
    fn source(&self, local: IpAddr) -> SocketAddr {
        match (local, self.remote) {
            (IpAddr::V6(local), SocketAddr::V6(remote)) if local.is_unicast_link_local() => {
                SocketAddrV6::new(local, 0, 0, remote.scope_id()).into()
            }
            _ => SocketAddr::new(local, 0),
        }
    }
}

/// An address without what is not part of a peer's identity: the flow label, and the scope unless it is link-local.
pub(crate) fn plain(address: SocketAddr) -> SocketAddr {
    match address {
        SocketAddr::V4(_) => address,
        SocketAddr::V6(v6) => {
            let scope = if v6.ip().is_unicast_link_local() { v6.scope_id() } else { 0 };
            SocketAddrV6::new(*v6.ip(), v6.port(), 0, scope).into()
        }
    }
}
