//! Sockets that receive.

use std::io::{self, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::AsRawFd;
use std::task::{Context, Poll};

use fairway_bfd::{Input, Payload};
use nix::errno::Errno;
use nix::sys::socket::{ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, setsockopt, sockopt};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::Interest;
use tokio::net::UdpSocket;

/// Octets of a datagram that are looked at: a packet says its length in one octet.
const READ: usize = 512;

/// Receives datagrams on a port, of one family.
#[derive(Debug)]
pub(crate) struct Listener {
    socket: UdpSocket,
    port: u16,
    /// Room for what the kernel says about a datagram.
    control: Vec<u8>,
}

/// Listeners on a port, one per family. A system without IPv6 listens on IPv4 alone.
pub(crate) fn listen(port: u16) -> io::Result<Vec<Listener>> {
    let mut listeners = vec![Listener::bind((Ipv4Addr::UNSPECIFIED, port).into())?];
    match Listener::bind((Ipv6Addr::UNSPECIFIED, port).into()) {
        Ok(listener) => listeners.push(listener),
        Err(error) if is_without_ipv6(&error) => {}
        Err(error) => return Err(error),
    }
    Ok(listeners)
}

fn is_without_ipv6(error: &io::Error) -> bool {
    let absent = [Errno::EAFNOSUPPORT, Errno::EADDRNOTAVAIL].map(|errno| Some(errno as i32));
    absent.contains(&error.raw_os_error())
}

impl Listener {
    fn bind(address: SocketAddr) -> io::Result<Listener> {
        let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
        socket.set_nonblocking(true)?;
        if address.is_ipv6() {
            // IPv4 has its own socket, so that no address is a mapped one.
            socket.set_only_v6(true)?;
            setsockopt(&socket, sockopt::Ipv6RecvHopLimit, &true)?;
            setsockopt(&socket, sockopt::Ipv6RecvPacketInfo, &true)?;
        } else {
            setsockopt(&socket, sockopt::Ipv4RecvTtl, &true)?;
            setsockopt(&socket, sockopt::Ipv4PacketInfo, &true)?;
        }
        // Addresses are not reused: two who listen on one port would take each other's packets.
        socket.bind(&address.into())?;
        let socket = UdpSocket::from_std(socket.into())?;
        let control = nix::cmsg_space!(i32, nix::libc::in6_pktinfo, nix::libc::in_pktinfo);
        Ok(Listener { socket, port: address.port(), control })
    }

    /// What waits in the kernel, whether or not the runtime knows of it yet.
    pub(crate) fn waiting(&mut self) -> Option<Input> {
        receive(&self.socket, self.port, &mut self.control).ok()
    }

    /// The next datagram, when there is one.
    pub(crate) fn poll(&mut self, context: &mut Context<'_>) -> Poll<Input> {
        loop {
            // An error says that there is no reactor, and nothing to wait for.
            let Poll::Ready(Ok(())) = self.socket.poll_recv_ready(context) else { return Poll::Pending };
            let Listener { socket, port, control } = self;
            if let Ok(input) = socket.try_io(Interest::READABLE, || receive(socket, *port, control)) {
                return Poll::Ready(input);
            }
            // Not ready after all: the next round asks to be woken.
        }
    }
}

/// Reads one datagram. An error that concerns the datagram is passed over.
fn receive(socket: &UdpSocket, port: u16, control: &mut [u8]) -> io::Result<Input> {
    let mut bytes = [0; READ];
    loop {
        let mut slices = [IoSliceMut::new(&mut bytes)];
        let descriptor = socket.as_raw_fd();
        let message = match recvmsg::<SockaddrStorage>(descriptor, &mut slices, Some(control), MsgFlags::MSG_DONTWAIT) {
            Ok(message) => message,
            Err(Errno::EAGAIN) => return Err(io::ErrorKind::WouldBlock.into()),
            // Told about an earlier packet, or interrupted.
            Err(_) => continue,
        };
        let remote = message.address.and_then(|address| {
            let v4 = || Some(SocketAddr::V4((*address.as_sockaddr_in()?).into()));
            v4().or_else(|| Some(SocketAddr::V6((*address.as_sockaddr_in6()?).into())))
        });
        let (mut ttl, mut local) = (None, None);
        for told in message.cmsgs().into_iter().flatten() {
            match told {
                ControlMessageOwned::Ipv4Ttl(value) | ControlMessageOwned::Ipv6HopLimit(value) => {
                    ttl = u8::try_from(value).ok();
                }
                ControlMessageOwned::Ipv4PacketInfo(info) => {
                    local = Some(IpAddr::V4(Ipv4Addr::from(u32::from_be(info.ipi_addr.s_addr))));
                }
                ControlMessageOwned::Ipv6PacketInfo(info) => {
                    local = Some(IpAddr::V6(Ipv6Addr::from(info.ipi6_addr.s6_addr)));
                }
                _ => {}
            }
        }
        let length = message.bytes.min(READ);
        // The kernel was asked for all of these; without them nothing can be said of a packet.
        let (Some(remote), Some(ttl), Some(local)) = (remote, ttl, local) else { continue };
        let payload = Payload::new(&bytes[..length]);
        return Ok(Input::Received { local: SocketAddr::new(local, port), remote, ttl, payload });
    }
}
