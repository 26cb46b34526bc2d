//! Packets, reduced to what the network looks at.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use fairway_desired::{Family, Protocol};

/// Addresses and ports of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Tuple {
    pub(crate) protocol: Protocol,
    pub(crate) src: SocketAddr,
    pub(crate) dst: SocketAddr,
}

impl Tuple {
    pub(crate) fn reversed(self) -> Self {
        Tuple { protocol: self.protocol, src: self.dst, dst: self.src }
    }
}

/// What the transport header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Syn,
    SynAck,
    /// An ACK, with or without data.
    Ack,
    Fin,
    Rst,
    /// UDP or SCTP: has no states that we model.
    Datagram,
    /// An ICMP error about a packet with this tuple; true: the port is unreachable, false: the host or network.
    Error {
        about: Tuple,
        port: bool,
    },
}

/// What conntrack knows of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ct {
    /// Conntrack did not see it yet.
    Unseen,
    /// First packet of a connection that is not confirmed yet.
    New,
    /// Belongs to a confirmed entry; `reply`: in the direction of the replies; `first`: still counts as new.
    Known {
        id: u64,
        reply: bool,
        first: bool,
    },
    /// An error that belongs to the entry.
    Related {
        id: u64,
    },
    /// `NOTRACK`
    Untracked,
    Invalid,
}

/// A packet somewhere in a host.
#[derive(Clone, Debug)]
pub(crate) struct Packet {
    /// For errors: protocol of the packet it is about; the ports mean nothing.
    pub(crate) tuple: Tuple,
    pub(crate) kind: Kind,
    pub(crate) ttl: u8,
    /// Host-local: lost when the packet leaves.
    pub(crate) mark: u32,
    pub(crate) ct: Ct,
    /// IPVS handled it; it must not do so again.
    pub(crate) ipvs: bool,
    pub(crate) iif: Option<Arc<str>>,
    /// The headers around it while it is in tunnels, the outermost last.
    pub(crate) outer: Vec<Outer>,
}

/// A header around a packet in a tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Outer {
    pub(crate) src: IpAddr,
    pub(crate) dst: IpAddr,
    /// The UDP port that it is sent to, with GUE between; otherwise it is IP in IP.
    pub(crate) port: Option<u16>,
}

impl Packet {
    pub(crate) fn new(tuple: Tuple, kind: Kind) -> Self {
        Packet { tuple, kind, ttl: 64, mark: 0, ct: Ct::Unseen, ipvs: false, iif: None, outer: vec![] }
    }

    pub(crate) fn family(&self) -> Family {
        Family::of(self.tuple.dst.ip())
    }

    pub(crate) fn src(&self) -> IpAddr {
        self.tuple.src.ip()
    }

    pub(crate) fn dst(&self) -> IpAddr {
        self.tuple.dst.ip()
    }

    pub(crate) fn is_error(&self) -> bool {
        matches!(self.kind, Kind::Error { .. })
    }

    /// Forgets what only the host knew that the packet leaves.
    pub(crate) fn leave(&mut self) {
        self.mark = 0;
        self.ct = Ct::Unseen;
        self.ipvs = false;
    }
}

impl fmt::Display for Packet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match (self.kind, self.tuple.protocol) {
            (Kind::Syn, _) => "SYN",
            (Kind::SynAck, _) => "SYN-ACK",
            (Kind::Ack, _) => "ACK",
            (Kind::Fin, _) => "FIN",
            (Kind::Rst, _) => "RST",
            (Kind::Datagram, Protocol::Sctp) => "SCTP",
            (Kind::Datagram, _) => "UDP",
            (Kind::Error { port, .. }, _) => {
                let what = if port { "port" } else { "host" };
                return write!(f, "ICMP {what} unreachable {} -> {}", self.src(), self.dst());
            }
        };
        write!(f, "{name} {} -> {}", self.tuple.src, self.tuple.dst)
    }
}
