//! Names and answers of the fabric.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use fairway_desired::Protocol;

/// A host of the fabric. Never used again after the host is removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostId(pub(crate) usize);

/// A LAN: a wire that joins interfaces of hosts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LanId(pub(crate) usize);

/// A connection whose handshake is done, or a datagram exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FlowId(pub(crate) u64);

/// A listening socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SocketId(pub(crate) u64);

/// Why a socket could not be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SocketError {
    /// `EADDRINUSE`
    InUse,
    /// `EADDRNOTAVAIL`
    NotAvailable,
    /// The host is gone.
    NoHost,
}

impl fmt::Display for SocketError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            SocketError::InUse => "address already in use",
            SocketError::NotAvailable => "cannot assign requested address",
            SocketError::NoHost => "no such host",
        })
    }
}

impl std::error::Error for SocketError {}

/// A process's wish to reach a socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connect {
    /// The host of the process.
    pub from: HostId,
    /// The process.
    pub owner: String,
    /// Source address it binds to; `None`: the kernel selects. Need not be an address of the host (`IP_FREEBIND`).
    pub src: Option<IpAddr>,
    /// Source port; `None`: an ephemeral one.
    pub sport: Option<u16>,
    /// Destination.
    pub to: IpAddr,
    /// Destination port.
    pub port: u16,
    /// Transport protocol.
    pub protocol: Protocol,
}

/// A connection as both ends see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connected {
    /// Its name.
    pub flow: FlowId,
    /// The host that answered.
    pub server: HostId,
    /// The process that answered.
    pub server_owner: String,
    /// The client as the server sees it.
    pub source_seen: SocketAddr,
    /// The client's end as the client sees it.
    pub local: SocketAddr,
    /// The server's end as the server sees it.
    pub destination_seen: SocketAddr,
}

/// Why packets did not do what they should.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Failure {
    /// Somebody said that nobody listens (RST or ICMP port unreachable).
    Refused,
    /// Somebody said that there is no way (ICMP unreachable), or the own kernel has no route.
    Unreachable,
    /// A packet got lost. Trying again may help.
    NoAnswer,
    /// The connection is gone at the other end.
    Reset,
}

/// What came of a [`Connect`].
#[derive(Clone, Debug)]
pub struct Attempt {
    /// The connection, or why there is none.
    pub result: Result<Connected, Failure>,
    /// How long it took until the client knew; zero if it never does.
    pub latency: Duration,
    /// What happened, for people. Empty on success.
    pub reason: String,
    /// The hosts the first packet visited, in order, the client first.
    pub path: Vec<HostId>,
}

/// A datagram that reached a process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Posted {
    /// The host that got it.
    pub host: HostId,
    /// The process.
    pub owner: String,
    /// The sender as the receiver sees it.
    pub source: SocketAddr,
    /// The address and port it came to.
    pub destination: SocketAddr,
    /// The time to live it arrived with.
    pub ttl: u8,
    /// How long it was under way.
    pub latency: Duration,
}

/// What would happen to the packets of a [`Connect`], step by step.
#[derive(Clone, Debug)]
pub struct Trace {
    pub(crate) lines: Vec<String>,
    pub(crate) path: Vec<HostId>,
    pub(crate) delivered: bool,
}

impl Trace {
    /// Whether the other end answered and the answer came back.
    pub fn delivered(&self) -> bool {
        self.delivered
    }

    /// The hosts the first packet visited, in order, the client first.
    pub fn through(&self) -> Vec<HostId> {
        self.path.clone()
    }
}

impl fmt::Display for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for line in &self.lines {
            writeln!(f, "{line}")?;
        }
        Ok(())
    }
}
