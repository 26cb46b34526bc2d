//! OPEN (RFC 4271 section 4.2) and its capabilities (RFC 5492).

use alloc::vec::Vec;
use core::net::Ipv4Addr;

use fairway_desired::Family;

use super::notification::{Notification, code};
use super::reader::Reader;

/// Stands for an AS number that does not fit into two octets (RFC 6793 section 9).
pub const AS_TRANS: u16 = 23456;
/// Unicast (RFC 4760 section 6).
pub const SAFI_UNICAST: u8 = 1;
/// The only version there is.
pub const VERSION: u8 = 4;

const PARAM_CAPABILITIES: u8 = 2;
/// Marks extended optional parameters (RFC 9072).
const PARAM_EXTENDED: u8 = 255;

/// The IANA number of an address family.
pub const fn afi(family: Family) -> u16 {
    match family {
        Family::V4 => 1,
        Family::V6 => 2,
    }
}

/// The family of an IANA number, if it is one of ours.
pub const fn family_of(afi: u16) -> Option<Family> {
    match afi {
        1 => Some(Family::V4),
        2 => Some(Family::V6),
        _ => None,
    }
}

/// OPEN.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Open {
    /// My Autonomous System, two octets; see [`Open::asn`].
    pub asn2: u16,
    /// Hold time in seconds.
    pub hold_s: u16,
    /// BGP identifier.
    pub router_id: Ipv4Addr,
    /// Capabilities in order.
    pub capabilities: Vec<Capability>,
}

/// A capability.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Capability {
    /// 1: multiprotocol extensions (RFC 4760 section 8).
    Multiprotocol {
        /// Address family.
        afi: u16,
        /// Subsequent address family.
        safi: u8,
    },
    /// 2: route refresh (RFC 2918).
    RouteRefresh,
    /// 65: four-octet AS numbers (RFC 6793); holds the real AS number.
    FourOctetAs(u32),
    /// One that we do not know, or whose value has not the length we know.
    Unknown {
        /// Code.
        code: u8,
        /// Value, at most 255 octets.
        value: Vec<u8>,
    },
}

impl Open {
    /// The AS number: the capability's if there is one.
    pub fn asn(&self) -> u32 {
        self.four_octet_as().unwrap_or(u32::from(self.asn2))
    }

    /// The AS number of the four-octet capability.
    pub fn four_octet_as(&self) -> Option<u32> {
        self.capabilities.iter().find_map(|c| match c {
            Capability::FourOctetAs(asn) => Some(*asn),
            _ => None,
        })
    }

    /// Whether unicast of this family is offered. Without any multiprotocol capability, IPv4 is (RFC 4760 section 8).
    pub fn offers(&self, family: Family) -> bool {
        let mut any = false;
        for capability in &self.capabilities {
            if let Capability::Multiprotocol { afi: number, safi } = capability {
                any = true;
                if *number == afi(family) && *safi == SAFI_UNICAST {
                    return true;
                }
            }
        }
        !any && family == Family::V4
    }
}

impl Capability {
    fn decode(code: u8, value: &[u8]) -> Self {
        match (code, value) {
            (1, [a, b, _, safi]) => Capability::Multiprotocol { afi: u16::from_be_bytes([*a, *b]), safi: *safi },
            (2, []) => Capability::RouteRefresh,
            (65, [a, b, c, d]) => Capability::FourOctetAs(u32::from_be_bytes([*a, *b, *c, *d])),
            _ => Capability::Unknown { code, value: value.to_vec() },
        }
    }

    /// The capability in its wire form: code, length, value.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Capability::Multiprotocol { afi, safi } => {
                out.extend([1, 4]);
                out.extend(afi.to_be_bytes());
                out.extend([0, *safi]);
            }
            Capability::RouteRefresh => out.extend([2, 0]),
            Capability::FourOctetAs(asn) => {
                out.extend([65, 4]);
                out.extend(asn.to_be_bytes());
            }
            Capability::Unknown { code, value } => {
                let value = &value[..value.len().min(255)];
                out.extend([*code, value.len() as u8]);
                out.extend(value);
            }
        }
    }
}

impl Open {
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        out.push(VERSION);
        out.extend(self.asn2.to_be_bytes());
        out.extend(self.hold_s.to_be_bytes());
        out.extend(self.router_id.octets());
        let mut capabilities = Vec::new();
        for capability in &self.capabilities {
            capability.encode(&mut capabilities);
        }
        let len = capabilities.len();
        if len == 0 {
            out.push(0);
        } else if len <= 253 {
            out.extend([len as u8 + 2, PARAM_CAPABILITIES, len as u8]);
        } else {
            // RFC 9072 section 2. The message's own limit keeps the length in 16 bits.
            out.extend([255, PARAM_EXTENDED]);
            out.extend((len as u16).saturating_add(3).to_be_bytes());
            out.push(PARAM_CAPABILITIES);
            out.extend((len as u16).to_be_bytes());
        }
        out.extend(capabilities);
    }

    pub(super) fn decode(body: &[u8]) -> Result<Self, Notification> {
        let broken = || Notification::new(code::OPEN, 0);
        let mut r = Reader::new(body);
        let version = r.u8().ok_or_else(broken)?;
        if version != VERSION {
            return Err(Notification::with(code::OPEN, 1, &u16::from(VERSION).to_be_bytes()));
        }
        let asn2 = r.u16().ok_or_else(broken)?;
        let hold_s = r.u16().ok_or_else(broken)?;
        let router_id = r.ipv4().ok_or_else(broken)?;
        let mut length = usize::from(r.u8().ok_or_else(broken)?);
        let extended = length != 0 && r.rest().first() == Some(&PARAM_EXTENDED);
        if extended {
            r.u8();
            length = usize::from(r.u16().ok_or_else(broken)?);
        }
        if r.len() != length {
            return Err(broken());
        }
        let mut capabilities = Vec::new();
        while !r.is_empty() {
            let kind = r.u8().ok_or_else(broken)?;
            let length = if extended { r.u16().map(usize::from) } else { r.u8().map(usize::from) };
            let mut value = Reader::new(r.take(length.ok_or_else(broken)?).ok_or_else(broken)?);
            if kind != PARAM_CAPABILITIES {
                return Err(Notification::new(code::OPEN, 4));
            }
            while !value.is_empty() {
                let code = value.u8().ok_or_else(broken)?;
                let length = usize::from(value.u8().ok_or_else(broken)?);
                capabilities.push(Capability::decode(code, value.take(length).ok_or_else(broken)?));
            }
        }
        Ok(Self { asn2, hold_s, router_id, capabilities })
    }
}
