//! What goes in and what comes out: the whole surface between the speaker and its driver.

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use core::net::{IpAddr, SocketAddr};

use fairway_desired::Learned;

/// Time since an arbitrary epoch that the driver chooses.
pub type Time = core::time::Duration;

/// One TCP connection. The two sides of the driver boundary choose names from separate spaces, so they cannot clash.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ConnId {
    /// We dialed; chosen by the speaker, never used twice.
    Out(u64),
    /// The other side dialed; chosen by the driver, never used twice.
    In(u64),
}

/// What happened. Inputs about a connection that is already over are ignored, so the driver need not keep track.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// A dial succeeded.
    Connected {
        /// Which.
        conn: ConnId,
        /// Our end.
        local: SocketAddr,
        /// Their end.
        remote: SocketAddr,
    },
    /// A dial failed.
    ConnectFailed {
        /// Which.
        conn: ConnId,
    },
    /// Somebody connected to our port.
    Accepted {
        /// Its name from now on.
        conn: ConnId,
        /// Our end.
        local: SocketAddr,
        /// Their end.
        remote: SocketAddr,
    },
    /// Bytes arrived, cut anywhere.
    Received {
        /// On which connection.
        conn: ConnId,
        /// The bytes.
        bytes: Vec<u8>,
    },
    /// The connection is gone: closed or reset by the other side, or broken.
    Closed {
        /// Which.
        conn: ConnId,
    },
    /// The deadline passed.
    Tick,
    /// End all sessions with Cease 6/2 (RFC 4486, Administrative Shutdown); no more dialing, nobody is accepted.
    Shutdown,
    /// End this neighbour's session with Cease 6/4 (Administrative Reset); it is dialed again soon.
    ResetPeer(IpAddr),
}

/// What the driver should do, or should know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Listen on this port of every address; replaces an earlier port.
    Listen {
        /// TCP port.
        port: u16,
    },
    /// Dial. Answered by `Connected` or `ConnectFailed`.
    Connect {
        /// Its name.
        conn: ConnId,
        /// Source address to bind.
        local: Option<IpAddr>,
        /// Whom to dial.
        remote: SocketAddr,
        /// TCP MD5 password (RFC 2385).
        password: Option<String>,
        /// IP TTL of our packets; `None`: the system's default.
        ttl: Option<u8>,
    },
    /// Write bytes.
    Send {
        /// To which connection.
        conn: ConnId,
        /// The bytes: whole messages.
        bytes: Vec<u8>,
    },
    /// Close after what was sent, or stop dialing. The speaker has forgotten the connection.
    Close {
        /// Which.
        conn: ConnId,
    },
    /// The next hops in use for a prefix changed.
    Learned(Learned),
    /// For the log.
    Event(Event),
}

/// Something an operator wants to read about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A session came up.
    Established {
        /// The neighbour.
        peer: IpAddr,
        /// Its autonomous system.
        asn: u32,
    },
    /// A session that was up ended.
    Down {
        /// The neighbour.
        peer: IpAddr,
        /// Why.
        reason: String,
    },
    /// A session did not come up. Told once per reason, not once per attempt (a dynamic neighbour is forgotten in
    /// between, so for it each attempt is told).
    Failed {
        /// The neighbour.
        peer: IpAddr,
        /// Why.
        reason: String,
    },
    /// Somebody connected who is no neighbour of ours.
    Rejected {
        /// The source.
        source: IpAddr,
    },
    /// An UPDATE had broken attributes; its routes count as withdrawn (RFC 7606).
    Malformed {
        /// Who sent it.
        peer: IpAddr,
        /// What was wrong.
        reason: String,
    },
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Event::Established { peer, asn } => write!(f, "BGP session with {peer} (AS {asn}) is up"),
            Event::Down { peer, reason } => write!(f, "BGP session with {peer} is down: {reason}"),
            Event::Failed { peer, reason } => write!(f, "no BGP session with {peer}: {reason}"),
            Event::Rejected { source } => write!(f, "connection from {source} rejected: no such neighbour"),
            Event::Malformed { peer, reason } => {
                write!(f, "routes of an UPDATE from {peer} count as withdrawn: {reason}")
            }
        }
    }
}
