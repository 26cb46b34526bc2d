//! All sockets.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::task::Poll;

use fairway_bfd::{Input, Output};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use crate::listener::{Listener, listen};

/// TTL of our packets (RFC 5881 section 5).
const TTL: u32 = 255;
/// CS6, network control (RFC 4594), in the octet of the IP header.
const TRAFFIC_CLASS: u32 = 48 << 2;

/// Why a socket could not be opened. The machine is to be told so ([`Error::input`]) and will try again.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nothing is received.
    #[error("cannot listen on UDP port {port}: {source}")]
    Listen {
        /// The port.
        port: u16,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
    /// Nothing is sent to a neighbour.
    #[error("cannot send to {peer}: {source}")]
    Open {
        /// The neighbour.
        peer: IpAddr,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
}

impl Error {
    /// What to tell the machine.
    pub const fn input(&self) -> Input {
        match self {
            Error::Listen { port, .. } => Input::NotListening { port: *port },
            Error::Open { peer, .. } => Input::NotOpen { peer: *peer },
        }
    }
}

/// The sockets of one machine. Dropping it closes them.
///
/// It must be made and used inside a tokio runtime; one of a single thread will do.
#[derive(Debug, Default)]
pub struct Transport {
    listeners: BTreeMap<u16, Vec<Listener>>,
    /// Sockets that send, by neighbour.
    ways: BTreeMap<IpAddr, (Socket, SockAddr)>,
}

impl Transport {
    /// No sockets.
    pub fn new() -> Transport {
        Transport::default()
    }

    /// Carries out what the machine wants. Never waits. A packet that cannot be sent is lost, as any other may be.
    ///
    /// # Errors
    /// If a socket cannot be opened.
    pub fn handle(&mut self, output: &Output) -> Result<(), Error> {
        match output {
            Output::Listen { port } => {
                // First of all the old ones go: a port is not shared.
                self.listeners.remove(port);
                let listeners = listen(*port).map_err(|source| Error::Listen { port: *port, source })?;
                self.listeners.insert(*port, listeners);
            }
            Output::Unlisten { port } => drop(self.listeners.remove(port)),
            Output::Open { peer, local, source_port, remote } => {
                self.ways.remove(peer);
                let way = way(*local, *source_port, *remote).map_err(|source| Error::Open { peer: *peer, source })?;
                self.ways.insert(*peer, (way, (*remote).into()));
            }
            Output::Send { peer, bytes } => {
                if let Some((socket, remote)) = self.ways.get(peer) {
                    let _lost = socket.send_to(bytes, remote);
                }
            }
            Output::Close { peer } => drop(self.ways.remove(peer)),
            Output::Event(_) => {}
        }
        Ok(())
    }

    /// Waits for the next packet, for ever if nobody listens. No packet is lost when the future is dropped.
    pub async fn next(&mut self) -> Input {
        poll_fn(|context| {
            let ready = self.listeners.values_mut().flatten().map(|listener| listener.poll(context));
            // All that are not ready before one that is have asked to be woken; the others are asked again later.
            ready.into_iter().find(Poll::is_ready).unwrap_or(Poll::Pending)
        })
        .await
    }

    /// A packet that has arrived, if there is one. Whoever is late asks before telling the machine what time it is.
    pub fn waiting(&mut self) -> Option<Input> {
        self.listeners.values_mut().flatten().find_map(Listener::waiting)
    }
}

/// A socket that sends to one neighbour. It is not connected, so that no ICMP error takes the place of a packet.
fn way(local: Option<IpAddr>, port: u16, remote: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(remote), Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_nonblocking(true)?;
    // Nobody reads from it: as little as possible is kept.
    socket.set_recv_buffer_size(1)?;
    let unspecified = match remote {
        SocketAddr::V4(_) => {
            socket.set_ttl_v4(TTL)?;
            socket.set_tos_v4(TRAFFIC_CLASS)?;
            IpAddr::V4(Ipv4Addr::UNSPECIFIED)
        }
        SocketAddr::V6(_) => {
            socket.set_only_v6(true)?;
            socket.set_unicast_hops_v6(TTL)?;
            socket.set_tclass_v6(TRAFFIC_CLASS)?;
            IpAddr::V6(Ipv6Addr::UNSPECIFIED)
        }
    };
    socket.bind(&SocketAddr::new(local.unwrap_or(unspecified), port).into())?;
    Ok(socket)
}
