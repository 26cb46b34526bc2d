//! BGP messages as bytes and as types (RFC 4271 section 4). Knows nothing of sessions.
//!
//! The decoder trusts nothing: any bytes give a message or the NOTIFICATION to answer, never a panic, and no
//! allocation that is larger than a small multiple of the input. Start reading at [`Message`].

mod as_path;
mod attributes;
mod notification;
mod open;
mod prefix;
mod reader;
mod update;

use alloc::vec::Vec;

use fairway_desired::Family;
use fairway_desired::bgp::Families;

pub use as_path::{AsPath, Segment};
pub use attributes::{Attributes, Origin, Reach, UnknownAttribute};
pub use notification::{Notification, cease, code};
pub use open::{AS_TRANS, Capability, Open, RestartFamily, SAFI_UNICAST, StaleFamily, VERSION, afi, family_of};
pub use prefix::Nlri;
pub use update::{Packer, Update};

use reader::Reader;

/// Marker, length and type.
pub const HEADER_LEN: usize = 19;
/// The longest message (RFC 4271 section 4.1).
pub const MAX_LEN: usize = 4096;
/// The longest message between two that agreed on it (RFC 8654 section 3).
pub const EXTENDED_MAX_LEN: usize = 65535;

const OPEN: u8 = 1;
const UPDATE: u8 = 2;
const NOTIFICATION: u8 = 3;
const KEEPALIVE: u8 = 4;
const ROUTE_REFRESH: u8 = 5;

/// A message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// OPEN
    Open(Open),
    /// UPDATE
    Update(Update),
    /// NOTIFICATION
    Notification(Notification),
    /// KEEPALIVE
    Keepalive,
    /// ROUTE-REFRESH (RFC 2918)
    RouteRefresh(RouteRefresh),
}

/// ROUTE-REFRESH: please send your routes again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RouteRefresh {
    /// Address family.
    pub afi: u16,
    /// 0: a request; 1 and 2: the answer begins and ends (RFC 7313 section 3.2).
    pub subtype: u8,
    /// Subsequent address family.
    pub safi: u8,
}

/// What was negotiated and changes the encoding of one direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Context {
    /// Both sides know four-octet AS numbers (RFC 6793).
    pub four_octet_as: bool,
    /// Messages may be longer than 4096 octets (RFC 8654).
    pub extended_messages: bool,
    /// Prefixes have path identifiers (RFC 7911).
    pub add_path: Families,
    /// The other side is in another AS: attributes that only have a meaning inside an AS are passed over.
    pub external: bool,
}

impl Context {
    /// The longest UPDATE, NOTIFICATION or ROUTE-REFRESH.
    pub const fn max_len(self) -> usize {
        if self.extended_messages { EXTENDED_MAX_LEN } else { MAX_LEN }
    }
}

/// A message would be longer than the session allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the message would be longer than the session allows")]
pub struct TooLong;

impl Message {
    /// The message as bytes.
    ///
    /// # Errors
    /// It would be too long.
    pub fn encode(&self, context: Context) -> Result<Vec<u8>, TooLong> {
        let mut out = Vec::from([0xff; 16]);
        out.extend([0, 0, self.kind()]);
        match self {
            Message::Open(open) => open.encode(&mut out),
            Message::Update(update) => update.encode(context, &mut out),
            Message::Notification(n) => {
                out.extend([n.code, n.subcode]);
                out.extend(&n.data);
            }
            Message::Keepalive => {}
            Message::RouteRefresh(r) => {
                out.extend(r.afi.to_be_bytes());
                out.extend([r.subtype, r.safi]);
            }
        }
        // RFC 8654 section 3: OPEN and KEEPALIVE stay short.
        let limit = if matches!(self, Message::Open(_)) { MAX_LEN } else { context.max_len() };
        if out.len() > limit {
            return Err(TooLong);
        }
        let len = (out.len() as u16).to_be_bytes();
        out[16..18].copy_from_slice(&len);
        Ok(out)
    }

    const fn kind(&self) -> u8 {
        match self {
            Message::Open(_) => OPEN,
            Message::Update(_) => UPDATE,
            Message::Notification(_) => NOTIFICATION,
            Message::Keepalive => KEEPALIVE,
            Message::RouteRefresh(_) => ROUTE_REFRESH,
        }
    }

    /// Reads the first message of a stream: the message and its length, or `None` if it is not complete.
    ///
    /// # Errors
    /// The NOTIFICATION to answer; the stream cannot be read any further.
    pub fn decode(bytes: &[u8], context: Context) -> Result<Option<(Self, usize)>, Notification> {
        // A wrong marker is seen as early as possible: a stranger who speaks another protocol may send few bytes.
        if bytes.iter().take(16).any(|b| *b != 0xff) {
            return Err(Notification::new(code::HEADER, 1));
        }
        let mut r = Reader::new(bytes);
        let (Some(_), Some(len), Some(kind)) = (r.take(16), r.u16(), r.u8()) else { return Ok(None) };
        let length = usize::from(len);
        let bad_length = || Notification::with(code::HEADER, 2, &len.to_be_bytes());
        let limit = if matches!(kind, OPEN | KEEPALIVE) { MAX_LEN } else { context.max_len() };
        if !(HEADER_LEN..=limit).contains(&length) {
            return Err(bad_length());
        }
        let fits = match kind {
            OPEN => length >= 29,
            UPDATE => length >= 23,
            NOTIFICATION => length >= 21,
            KEEPALIVE => length == HEADER_LEN,
            ROUTE_REFRESH => true,
            _ => return Err(Notification::with(code::HEADER, 3, &[kind])),
        };
        if !fits {
            return Err(bad_length());
        }
        let Some(body) = r.take(length - HEADER_LEN) else { return Ok(None) };
        let message = match kind {
            OPEN => Message::Open(Open::decode(body)?),
            UPDATE => Message::Update(Update::decode(body, context)?),
            NOTIFICATION => match body {
                [code, subcode, data @ ..] => Message::Notification(Notification::with(*code, *subcode, data)),
                _ => return Err(bad_length()),
            },
            KEEPALIVE => Message::Keepalive,
            _ => match body {
                [a, b, subtype, safi] => Message::RouteRefresh(RouteRefresh {
                    afi: u16::from_be_bytes([*a, *b]),
                    subtype: *subtype,
                    safi: *safi,
                }),
                // RFC 7313 section 5: Invalid Message Length, with the message as data.
                _ => return Err(Notification::with(code::ROUTE_REFRESH, 1, &bytes[..length])),
            },
        };
        Ok(Some((message, length)))
    }
}

/// The families in the order of their announcements.
pub(crate) const FAMILIES: [Family; 2] = [Family::V4, Family::V6];
