//! The control packet (RFC 5880 section 4.1).

use core::fmt;

/// State of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum State {
    /// Told to be down, which is no failure.
    AdminDown,
    /// Down, or just made.
    Down,
    /// The other side is heard, and is not known to hear us.
    Init,
    /// Both sides hear each other.
    Up,
}

impl State {
    /// The RFC's name.
    pub const fn as_str(self) -> &'static str {
        match self {
            State::AdminDown => "AdminDown",
            State::Down => "Down",
            State::Init => "Init",
            State::Up => "Up",
        }
    }

    const fn from_bits(bits: u8) -> Self {
        match bits & 3 {
            0 => State::AdminDown,
            1 => State::Down,
            2 => State::Init,
            _ => State::Up,
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why a session last changed its state; 5 bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Diagnostic(u8);

impl Diagnostic {
    /// 0
    pub const NONE: Diagnostic = Diagnostic(0);
    /// 1: nothing was heard for the detection time.
    pub const EXPIRED: Diagnostic = Diagnostic(1);
    /// 3: the other side said so.
    pub const NEIGHBOR_DOWN: Diagnostic = Diagnostic(3);
    /// 7: an operator, or the configuration, said so.
    pub const ADMIN_DOWN: Diagnostic = Diagnostic(7);

    /// A code; its low 5 bits count.
    pub const fn new(code: u8) -> Self {
        Diagnostic(code & 31)
    }

    /// The code.
    pub const fn code(self) -> u8 {
        self.0
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            0 => "no diagnostic",
            1 => "control detection time expired",
            2 => "echo function failed",
            3 => "neighbor signaled session down",
            4 => "forwarding plane reset",
            5 => "path down",
            6 => "concatenated path down",
            7 => "administratively down",
            8 => "reverse concatenated path down",
            code => return write!(f, "diagnostic {code}"),
        })
    }
}

/// Why a packet is none (RFC 5880 section 6.8.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// Fewer octets than a packet has.
    #[error("shorter than a control packet")]
    Short,
    /// Not version 1.
    #[error("version {0}")]
    Version(u8),
    /// Its length is too small, or larger than what was received.
    #[error("length {0}")]
    Length(u8),
    /// Its detection multiplier is 0.
    #[error("detection multiplier 0")]
    Multiplier,
    /// The bit for point-to-multipoint is set.
    #[error("multipoint")]
    Multipoint,
    /// Its sender's discriminator is 0.
    #[error("discriminator 0")]
    Discriminator,
    /// It has an authentication section, and we have no keys.
    #[error("authentication is not in use")]
    Authenticated,
}

/// A control packet without authentication. Times in microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Why the sender's session last went down.
    pub diagnostic: Diagnostic,
    /// State of the sender's session.
    pub state: State,
    /// P: wants an answer with F.
    pub poll: bool,
    /// F: answers a packet with P.
    pub last: bool,
    /// C: the sender's BFD does not go down with its control plane.
    pub control_plane_independent: bool,
    /// D: the sender wants to be sent nothing while both sides are up.
    pub demand: bool,
    /// Packets that may be lost in a row.
    pub multiplier: u8,
    /// The sender's name for the session; not 0.
    pub my_discriminator: u32,
    /// The receiver's name for it; 0: not known yet.
    pub your_discriminator: u32,
    /// Time between packets that the sender would like.
    pub desired_min_tx_us: u32,
    /// Time between packets that the sender can take; 0: wants none.
    pub required_min_rx_us: u32,
    /// The same for echo packets; 0: wants none.
    pub required_min_echo_rx_us: u32,
}

const VERSION: u8 = 1;
const POLL: u8 = 0x20;
const FINAL: u8 = 0x10;
const INDEPENDENT: u8 = 0x08;
const AUTHENTICATED: u8 = 0x04;
const DEMAND: u8 = 0x02;
const MULTIPOINT: u8 = 0x01;

impl Packet {
    /// Octets of a packet.
    pub const LEN: usize = 24;

    /// Octets on the wire.
    pub fn encode(&self) -> [u8; Packet::LEN] {
        let bit = |on: bool, bit: u8| if on { bit } else { 0 };
        let mut bytes = [0; Packet::LEN];
        bytes[0] = VERSION << 5 | self.diagnostic.code();
        bytes[1] = (self.state as u8) << 6
            | bit(self.poll, POLL)
            | bit(self.last, FINAL)
            | bit(self.control_plane_independent, INDEPENDENT)
            | bit(self.demand, DEMAND);
        bytes[2] = self.multiplier;
        bytes[3] = Packet::LEN as u8;
        let words = [
            self.my_discriminator,
            self.your_discriminator,
            self.desired_min_tx_us,
            self.required_min_rx_us,
            self.required_min_echo_rx_us,
        ];
        for (place, word) in bytes[4..].chunks_exact_mut(4).zip(words) {
            place.copy_from_slice(&word.to_be_bytes());
        }
        bytes
    }

    /// Reads the payload of a datagram; what follows the packet's own length is passed over.
    ///
    /// # Errors
    /// If it is not a packet, or has authentication.
    pub fn decode(payload: &[u8]) -> Result<Packet, Malformed> {
        let head = payload.first_chunk().ok_or(Malformed::Short)?;
        Packet::decode_head(head, payload.len())
    }

    /// The same of the first octets of a payload of so many.
    pub(crate) fn decode_head(head: &[u8; Packet::LEN], payload: usize) -> Result<Packet, Malformed> {
        let [first, flags, multiplier, length, ..] = *head;
        if first >> 5 != VERSION {
            return Err(Malformed::Version(first >> 5));
        }
        let least = if flags & AUTHENTICATED == 0 { Packet::LEN } else { Packet::LEN + 2 };
        if usize::from(length) < least || usize::from(length) > payload {
            return Err(Malformed::Length(length));
        }
        if multiplier == 0 {
            return Err(Malformed::Multiplier);
        }
        if flags & MULTIPOINT != 0 {
            return Err(Malformed::Multipoint);
        }
        let word = |at: usize| u32::from_be_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
        let packet = Packet {
            diagnostic: Diagnostic::new(first),
            state: State::from_bits(flags >> 6),
            poll: flags & POLL != 0,
            last: flags & FINAL != 0,
            control_plane_independent: flags & INDEPENDENT != 0,
            demand: flags & DEMAND != 0,
            multiplier,
            my_discriminator: word(4),
            your_discriminator: word(8),
            desired_min_tx_us: word(12),
            required_min_rx_us: word(16),
            required_min_echo_rx_us: word(20),
        };
        if packet.my_discriminator == 0 {
            return Err(Malformed::Discriminator);
        }
        if flags & AUTHENTICATED != 0 {
            return Err(Malformed::Authenticated);
        }
        Ok(packet)
    }
}
