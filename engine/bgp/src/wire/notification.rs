//! NOTIFICATION (RFC 4271 section 4.5), which is also the error type of the decoder.

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

/// A NOTIFICATION: what the decoder answers to broken input, and what ends a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notification {
    /// Error code.
    pub code: u8,
    /// Error subcode; 0 is unspecific.
    pub subcode: u8,
    /// Data, its meaning depends on the codes.
    pub data: Vec<u8>,
}

/// Error codes (RFC 4271 section 4.5).
pub mod code {
    /// Message Header Error
    pub const HEADER: u8 = 1;
    /// OPEN Message Error
    pub const OPEN: u8 = 2;
    /// UPDATE Message Error
    pub const UPDATE: u8 = 3;
    /// Hold Timer Expired
    pub const HOLD_TIMER: u8 = 4;
    /// Finite State Machine Error; subcodes RFC 6608
    pub const FSM: u8 = 5;
    /// Cease; subcodes RFC 4486
    pub const CEASE: u8 = 6;
    /// ROUTE-REFRESH Message Error (RFC 7313)
    pub const ROUTE_REFRESH: u8 = 7;
}

/// Subcodes of Cease (RFC 4486 section 3).
pub mod cease {
    /// Maximum Number of Prefixes Reached
    pub const MAX_PREFIXES: u8 = 1;
    /// Administrative Shutdown
    pub const SHUTDOWN: u8 = 2;
    /// Peer De-configured
    pub const DECONFIGURED: u8 = 3;
    /// Administrative Reset
    pub const RESET: u8 = 4;
    /// Connection Rejected
    pub const REJECTED: u8 = 5;
    /// Other Configuration Change
    pub const CONFIG_CHANGE: u8 = 6;
    /// Connection Collision Resolution
    pub const COLLISION: u8 = 7;
    /// Hard Reset (RFC 8538 section 3.1): no graceful restart follows.
    pub const HARD_RESET: u8 = 9;
    /// BFD Down (RFC 9384)
    pub const BFD_DOWN: u8 = 10;
}

impl Notification {
    /// A NOTIFICATION without data.
    pub const fn new(code: u8, subcode: u8) -> Self {
        Self { code, subcode, data: Vec::new() }
    }

    /// A NOTIFICATION with data.
    pub fn with(code: u8, subcode: u8, data: &[u8]) -> Self {
        Self { code, subcode, data: data.to_vec() }
    }

    /// Administrative Shutdown or Reset with a message for the other side's operator (RFC 9003 section 2), cut to 255
    /// octets.
    pub fn administrative(subcode: u8, message: &str) -> Self {
        let mut end = message.len().min(255);
        while !message.is_char_boundary(end) {
            end -= 1;
        }
        let mut data = Vec::new();
        if end > 0 {
            data.push(end as u8);
            data.extend(&message.as_bytes()[..end]);
        }
        Self { code: code::CEASE, subcode, data }
    }

    /// Hard Reset around another Cease (RFC 8538 section 3.1).
    pub fn hard_reset(inner: &Notification) -> Self {
        let mut data = alloc::vec![inner.code, inner.subcode];
        data.extend(&inner.data);
        Self { code: code::CEASE, subcode: cease::HARD_RESET, data }
    }

    /// Whether the session is to be given up for good (RFC 8538 section 4).
    pub const fn is_hard_reset(&self) -> bool {
        self.code == code::CEASE && self.subcode == cease::HARD_RESET
    }

    /// The operator's message of an administrative shutdown or reset (RFC 9003 section 2).
    pub fn message(&self) -> Option<String> {
        let (subcode, data) = match (self.code, self.subcode, self.data.as_slice()) {
            (code::CEASE, cease::HARD_RESET, [code::CEASE, subcode, data @ ..]) => (*subcode, data),
            (code::CEASE, subcode, data) => (subcode, data),
            _ => return None,
        };
        let (len, text) = data.split_first()?;
        if !matches!(subcode, cease::SHUTDOWN | cease::RESET) || *len == 0 {
            return None;
        }
        let text = text.get(..usize::from(*len))?;
        // It ends up on a terminal: RFC 9003 section 6 asks for care with control characters.
        Some(String::from_utf8_lossy(text).chars().map(|c| if c.is_control() { ' ' } else { c }).collect())
    }

    /// Its name in the RFCs.
    pub const fn name(&self) -> &'static str {
        match (self.code, self.subcode) {
            (1, 1) => "Connection Not Synchronized",
            (1, 2) => "Bad Message Length",
            (1, 3) => "Bad Message Type",
            (1, _) => "Message Header Error",
            (2, 1) => "Unsupported Version Number",
            (2, 2) => "Bad Peer AS",
            (2, 3) => "Bad BGP Identifier",
            (2, 4) => "Unsupported Optional Parameter",
            (2, 6) => "Unacceptable Hold Time",
            (2, 7) => "Unsupported Capability",
            (2, _) => "OPEN Message Error",
            (3, 1) => "Malformed Attribute List",
            (3, 2) => "Unrecognized Well-known Attribute",
            (3, 3) => "Missing Well-known Attribute",
            (3, 4) => "Attribute Flags Error",
            (3, 5) => "Attribute Length Error",
            (3, 6) => "Invalid ORIGIN Attribute",
            (3, 8) => "Invalid NEXT_HOP Attribute",
            (3, 9) => "Optional Attribute Error",
            (3, 10) => "Invalid Network Field",
            (3, 11) => "Malformed AS_PATH",
            (3, _) => "UPDATE Message Error",
            (4, _) => "Hold Timer Expired",
            (5, 1) => "Unexpected Message in OpenSent",
            (5, 2) => "Unexpected Message in OpenConfirm",
            (5, 3) => "Unexpected Message in Established",
            (5, _) => "Finite State Machine Error",
            (6, 1) => "Maximum Number of Prefixes Reached",
            (6, 2) => "Administrative Shutdown",
            (6, 3) => "Peer De-configured",
            (6, 4) => "Administrative Reset",
            (6, 5) => "Connection Rejected",
            (6, 6) => "Other Configuration Change",
            (6, 7) => "Connection Collision Resolution",
            (6, 8) => "Out of Resources",
            (6, 9) => "Hard Reset",
            (6, 10) => "BFD Down",
            (6, _) => "Cease",
            (7, _) => "ROUTE-REFRESH Message Error",
            _ => "unknown error",
        }
    }
}

impl fmt::Display for Notification {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}/{})", self.name(), self.code, self.subcode)?;
        match self.message() {
            Some(message) => write!(f, ": \"{message}\""),
            None => Ok(()),
        }
    }
}

impl core::error::Error for Notification {}
