//! What goes in and what comes out: the whole surface between the machine and its driver.

use core::fmt;
use core::net::{IpAddr, SocketAddr};

use crate::packet::{Diagnostic, Malformed, Packet, State};

/// Time since an arbitrary epoch that the driver chooses.
pub type Time = core::time::Duration;

/// How a session with a neighbour is to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Our address; `None`: whichever the kernel takes.
    pub local: Option<IpAddr>,
    /// UDP port of the other side.
    pub port: u16,
    /// Links that packets may have crossed. 1: the neighbour is on the link, its packets must come with TTL 255 and to
    /// port 3784 (RFC 5881 section 5). More: they come to port 4784 with a TTL of at least 256 less so many; 255:
    /// any TTL but 0.
    pub hops: u8,
    /// Microseconds between our packets, if the other side can take them; at least 1.
    pub desired_min_tx_us: u32,
    /// Microseconds between packets that we can take; 0: none are wanted.
    pub required_min_rx_us: u32,
    /// Packets that may be lost in a row; at least 1.
    pub multiplier: u8,
}

/// The start of a datagram's payload. Control packets are short, so it is kept without allocating.
#[derive(Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Payload {
    head: [u8; Packet::LEN],
    /// Octets received.
    len: usize,
}

impl Payload {
    /// The payload of a datagram.
    pub fn new(bytes: &[u8]) -> Self {
        let mut head = [0; Packet::LEN];
        for (place, byte) in head.iter_mut().zip(bytes) {
            *place = *byte;
        }
        Payload { head, len: bytes.len() }
    }

    /// The packet in it.
    ///
    /// # Errors
    /// As [`Packet::decode`].
    pub fn packet(&self) -> Result<Packet, Malformed> {
        if self.len < Packet::LEN { Err(Malformed::Short) } else { Packet::decode_head(&self.head, self.len) }
    }
}

impl fmt::Debug for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.packet() {
            Ok(packet) => packet.fmt(f),
            Err(error) => write!(f, "{} octets ({error})", self.len),
        }
    }
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum Input {
    /// A datagram arrived.
    Received {
        /// Our address and port that it was sent to.
        local: SocketAddr,
        /// Who sent it.
        remote: SocketAddr,
        /// The TTL (hop limit) that it arrived with.
        ttl: u8,
        /// What it said.
        payload: Payload,
    },
    /// [`Output::Open`] was not possible: the port is taken, or the address not there (yet). It will be tried again.
    NotOpen {
        /// Whose session.
        peer: IpAddr,
    },
    /// [`Output::Listen`] was not possible. It will be tried again.
    NotListening {
        /// The port.
        port: u16,
    },
    /// The deadline passed.
    Tick,
}

/// What the driver should do, or should know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Receive datagrams on this port of every address.
    Listen {
        /// UDP port.
        port: u16,
    },
    /// Receive on this port no more.
    Unlisten {
        /// UDP port.
        port: u16,
    },
    /// Make a way to send to a neighbour, with TTL 255 (RFC 5881 section 5). It takes the place of an earlier one.
    Open {
        /// Whose session.
        peer: IpAddr,
        /// Source address; `None`: whichever the kernel takes.
        local: Option<IpAddr>,
        /// Source port, of the range that RFC 5881 section 4 asks for.
        source_port: u16,
        /// Where to.
        remote: SocketAddr,
    },
    /// Send a packet. That it cannot be sent is what the session is there to find out.
    Send {
        /// Whose session.
        peer: IpAddr,
        /// The payload.
        bytes: [u8; Packet::LEN],
    },
    /// The session is over.
    Close {
        /// Whose.
        peer: IpAddr,
    },
    /// A session's state changed.
    Event(Event),
}

/// Something that others act upon, or an operator wants to read about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// Both sides hear each other.
    Up {
        /// The neighbour.
        peer: IpAddr,
    },
    /// A session that was up is down.
    Down {
        /// The neighbour.
        peer: IpAddr,
        /// Why.
        diagnostic: Diagnostic,
        /// Forwarding failed. False: somebody wished it (RFC 5882 section 3.2).
        failure: bool,
    },
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Event::Up { peer } => write!(f, "BFD session with {peer} is up"),
            Event::Down { peer, diagnostic, failure: true } => {
                write!(f, "BFD session with {peer} failed: {diagnostic}")
            }
            Event::Down { peer, diagnostic, failure: false } => {
                write!(f, "BFD session with {peer} is down as somebody wished: {diagnostic}")
            }
        }
    }
}

/// There are as many sessions as there may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there are {} BFD sessions already", crate::SESSIONS_MAX)]
pub struct Full;

/// Datagrams that were for nobody.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Dropped {
    /// Not a control packet, or with authentication.
    pub malformed: u64,
    /// Of no session of ours.
    pub unknown: u64,
    /// From farther away than the session's neighbour is, or to another address or port than its.
    pub astray: u64,
}

/// One session, for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionView {
    /// The neighbour.
    pub peer: IpAddr,
    /// Our address; `None`: whichever the kernel takes.
    pub local: Option<IpAddr>,
    /// Over more than one hop.
    pub multihop: bool,
    /// State.
    pub state: State,
    /// State of the other side, as far as it said.
    pub remote_state: State,
    /// Why our session last went down.
    pub diagnostic: Diagnostic,
    /// Why theirs did, as far as it said.
    pub remote_diagnostic: Diagnostic,
    /// When the state last changed.
    pub since: Time,
    /// Longest time between our packets, as agreed; `None`: none are sent, as the other side wishes.
    pub tx_interval: Option<Time>,
    /// Longest time between theirs, as agreed.
    pub rx_interval: Time,
    /// The session is down when nothing was heard for so long; zero before anything was heard.
    pub detection_time: Time,
    /// Our detection multiplier.
    pub multiplier: u8,
    /// Theirs; 0 before anything was heard.
    pub remote_multiplier: u8,
    /// Our name for the session.
    pub discriminator: u32,
    /// Theirs; 0: not known.
    pub remote_discriminator: u32,
    /// How often it came up.
    pub ups: u64,
    /// Packets sent.
    pub sent: u64,
    /// Packets received.
    pub received: u64,
}
