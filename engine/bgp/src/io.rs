//! What goes in and what comes out: the whole surface between the speaker and its driver.

use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use core::net::{IpAddr, SocketAddr};
use core::ops::Deref;

use fairway_desired::{Learned, bgp};
use ipnet::IpNet;

/// Time since an arbitrary epoch that the driver chooses.
pub type Time = core::time::Duration;

/// One TCP connection. The two sides of the driver boundary choose names from separate spaces, so they cannot clash.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum ConnId {
    /// We dialed; chosen by the speaker, never used twice.
    Out(u64),
    /// The other side dialed; chosen by the driver, never used twice.
    In(u64),
}

/// What happened. Inputs about a connection that is already over are ignored, so the driver need not keep track.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
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
    /// Answers [`Output::Drain`].
    Drained {
        /// On which connection.
        conn: ConnId,
    },
    /// The deadline passed.
    Tick,
    /// First of all inputs, if at all: we were here a moment ago, and our forwarding state still stands (RFC 4724
    /// section 4.1). Neighbours with graceful restart are told so in their first session.
    Restarted,
    /// All of the configuration was applied once: what we advertise is complete. Ends the waiting after `Restarted`.
    Complete,
    /// We are about to go away: routes get `GRACEFUL_SHUTDOWN` (RFC 8326), so that others find their ways around us.
    Drain,
    /// End all sessions with Cease 6/2 (RFC 4486, Administrative Shutdown); no more dialing, nobody is accepted.
    Shutdown {
        /// For the operator of the other side (RFC 9003); may be empty.
        message: String,
    },
    /// End all sessions so that neighbours with graceful restart keep our routes: we are back in a moment. Others get
    /// Cease 6/2.
    Leave,
    /// End this neighbour's session with Cease 6/4 (Administrative Reset); it is dialed again soon.
    ResetPeer {
        /// Which neighbour.
        peer: IpAddr,
        /// For the operator of the other side (RFC 9003); may be empty.
        message: String,
    },
    /// Do not talk to this neighbour (Cease 6/2), or do so again.
    EnablePeer {
        /// Which neighbour.
        peer: IpAddr,
        /// Whether we talk to it.
        enabled: bool,
        /// For the operator of the other side (RFC 9003); may be empty.
        message: String,
    },
    /// Evaluate policies again, and send everything again (`gobgp neighbor X softreset`).
    Refresh {
        /// Which neighbour.
        peer: IpAddr,
        /// Its routes go through import again.
        import: bool,
        /// It is sent our routes again.
        export: bool,
    },
    /// Forwarding to this neighbour is broken, says BFD (RFC 5882): its session ends with Cease 6/10 (RFC 9384), and
    /// its routes go, with graceful restart too. A neighbour that is restarting already keeps its routes, as its BFD
    /// may have gone down with it (section 4.3.2: no side says that BFD does not share its fate).
    BfdDown(IpAddr),
    /// The prefixes on the links of this host, each with whether the link works; replaces what was said before. A route
    /// over a next hop that is on a link, and on none that works, is excluded from the decision (RFC 4271 section
    /// 9.1.2); a session with an external neighbour on such a link ends at once.
    OnLink(Vec<(IpNet, bool)>),
}

/// How a neighbour is to be watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Watch {
    /// Port and timers.
    pub bfd: bgp::Bfd,
    /// Our address; `None`: whichever the kernel takes.
    pub local: Option<IpAddr>,
    /// Links that may be between us: 1: it is on the link; 255: any number.
    pub hops: u8,
}

/// What the driver should do, or should know.
#[derive(Clone, PartialEq, Eq)]
pub enum Output {
    /// Listen on this port of every address; replaces an earlier port.
    Listen {
        /// TCP port.
        port: u16,
    },
    /// The TCP MD5 password (RFC 2385) of connections that a neighbour opens; `None`: none, from now on.
    Password {
        /// Who opens them.
        peer: IpAddr,
        /// The password.
        password: Option<String>,
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
        /// Packets with a lower TTL are not theirs (RFC 5082).
        min_ttl: Option<u8>,
    },
    /// The TTLs of a connection that was accepted, as in `Connect`.
    Limit {
        /// Which.
        conn: ConnId,
        /// IP TTL of our packets; `None`: the system's default.
        ttl: Option<u8>,
        /// Packets with a lower TTL are not theirs (RFC 5082).
        min_ttl: Option<u8>,
    },
    /// Write bytes.
    Send {
        /// To which connection.
        conn: ConnId,
        /// The bytes: whole messages.
        bytes: Octets,
    },
    /// Say [`Input::Drained`] when all that was sent on it has left. The speaker sends no more routes before.
    Drain {
        /// Which connection.
        conn: ConnId,
    },
    /// Close after what was sent, or stop dialing. The speaker has forgotten the connection.
    Close {
        /// Which.
        conn: ConnId,
    },
    /// The next hops in use for a prefix changed.
    Learned(Learned),
    /// Watch a neighbour by BFD, otherwise than before if it is watched already, or no more. Its session does not wait
    /// for that; [`Input::BfdDown`] is what may come of it.
    Watch {
        /// Which neighbour.
        peer: IpAddr,
        /// How; `None`: no more.
        watch: Option<Watch>,
    },
    /// For the log.
    Event(Event),
}

impl fmt::Debug for Output {
    /// As derived, but for the password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Output::Listen { port } => f.debug_struct("Listen").field("port", port).finish(),
            Output::Connect { conn, local, remote, password, ttl, min_ttl } => f
                .debug_struct("Connect")
                .field("conn", conn)
                .field("local", local)
                .field("remote", remote)
                .field("password", &password.as_ref().map(|_| "***"))
                .field("ttl", ttl)
                .field("min_ttl", min_ttl)
                .finish(),
            Output::Password { peer, password } => f
                .debug_struct("Password")
                .field("peer", peer)
                .field("password", &password.as_ref().map(|_| "***"))
                .finish(),
            Output::Limit { conn, ttl, min_ttl } => {
                f.debug_struct("Limit").field("conn", conn).field("ttl", ttl).field("min_ttl", min_ttl).finish()
            }
            Output::Send { conn, bytes } => f.debug_struct("Send").field("conn", conn).field("bytes", bytes).finish(),
            Output::Drain { conn } => f.debug_struct("Drain").field("conn", conn).finish(),
            Output::Close { conn } => f.debug_struct("Close").field("conn", conn).finish(),
            Output::Watch { peer, watch } => f.debug_struct("Watch").field("peer", peer).field("watch", watch).finish(),
            Output::Learned(learned) => f.debug_tuple("Learned").field(learned).finish(),
            Output::Event(event) => f.debug_tuple("Event").field(event).finish(),
        }
    }
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
    /// An UPDATE had a broken attribute that was passed over (RFC 7606). Told once per session and attribute.
    Discarded {
        /// Who sent it.
        peer: IpAddr,
        /// Type code of the attribute.
        attribute: u8,
    },
    /// A neighbour comes near the limit of prefixes that it may send. Told once per session and family.
    NearLimit {
        /// Who.
        peer: IpAddr,
        /// Prefixes received.
        received: u32,
        /// The limit.
        limit: u32,
    },
    /// A neighbour's session ended, and its routes are kept (RFC 4724, 9494).
    Retained {
        /// Whose.
        peer: IpAddr,
        /// How many.
        routes: u32,
        /// For so many seconds.
        time_s: u32,
        /// As last resort (RFC 9494).
        long_lived: bool,
    },
    /// Kept routes were not sent again, so they are gone.
    Swept {
        /// Whose.
        peer: IpAddr,
        /// How many.
        routes: u32,
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
            Event::Discarded { peer, attribute } => {
                write!(f, "attribute {attribute} of an UPDATE from {peer} is broken and was passed over")
            }
            Event::NearLimit { peer, received, limit } => {
                write!(f, "{peer} sent {received} prefixes of at most {limit}")
            }
            Event::Retained { peer, routes, time_s, long_lived: false } => {
                write!(f, "{routes} routes of {peer} are kept for {time_s} s")
            }
            Event::Retained { peer, routes, time_s, long_lived: true } => {
                write!(f, "{routes} routes of {peer} are kept for {time_s} s more, as last resort")
            }
            Event::Swept { peer, routes } => write!(f, "{routes} stale routes of {peer} are gone"),
        }
    }
}

/// Bytes that several connections may share.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Octets(Arc<Vec<u8>>);

impl From<Vec<u8>> for Octets {
    fn from(bytes: Vec<u8>) -> Self {
        Octets(Arc::new(bytes))
    }
}

impl Deref for Octets {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Octets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
