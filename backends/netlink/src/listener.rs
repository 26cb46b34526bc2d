//! Hearing what the kernel says to everybody.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};

use crate::socket::{Protocol, READ, RECEIVE_BUFFER, messages};

/// One thing the kernel said.
#[derive(Clone, Copy, Debug)]
pub struct Heard<'a> {
    /// Message type.
    pub kind: u16,
    /// `NLM_F_*`
    pub flags: u16,
    /// The port of the socket whose request caused it ([`crate::Socket::port`]); 0: the kernel by itself, or it does
    /// not say.
    pub port: u32,
    /// Body, without the netlink header.
    pub payload: &'a [u8],
}

/// A socket that is a member of multicast groups, in the network namespace of the thread that opened it.
pub struct Listener {
    socket: netlink_sys::Socket,
    buffer: Vec<u8>,
}

impl fmt::Debug for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Listener").finish_non_exhaustive()
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl AsRawFd for Listener {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

impl Listener {
    /// Opens a socket that does not wait, and joins groups (`RTNLGRP_*` and the like).
    ///
    /// # Errors
    /// If the system refuses.
    pub fn open(protocol: Protocol, groups: &[u32]) -> io::Result<Listener> {
        let mut socket = netlink_sys::Socket::new(protocol.number())?;
        if rustix::net::sockopt::set_socket_recv_buffer_size_force(&socket, RECEIVE_BUFFER).is_err() {
            rustix::net::sockopt::set_socket_recv_buffer_size(&socket, RECEIVE_BUFFER)?;
        }
        socket.set_non_blocking(true)?;
        socket.bind_auto()?;
        for group in groups {
            socket.add_membership(*group)?;
        }
        Ok(Listener { socket, buffer: Vec::with_capacity(READ) })
    }

    /// Reads one datagram if there is one. Returns whether there was.
    ///
    /// # Errors
    /// `ENOBUFS` when the kernel had more to say than the buffer holds: some of it is lost.
    pub fn hear(&mut self, mut each: impl FnMut(Heard<'_>)) -> io::Result<bool> {
        loop {
            self.buffer.clear();
            match self.socket.recv(&mut self.buffer, 0) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error),
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(_) => break,
            }
        }
        for message in messages(&self.buffer) {
            each(Heard { kind: message.kind, flags: message.flags, port: message.port, payload: message.payload });
        }
        Ok(true)
    }
}
