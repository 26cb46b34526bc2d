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
    /// 5: extended next hop encoding (RFC 8950 section 4): for each, address family, subsequent one, and the family
    /// that next hops may have.
    ExtendedNextHop(Vec<(u16, u16, u16)>),
    /// 6: extended messages (RFC 8654).
    ExtendedMessage,
    /// 64: graceful restart (RFC 4724 section 3, RFC 8538 section 2).
    GracefulRestart {
        /// R: the speaker has restarted.
        restarted: bool,
        /// N: it keeps routes over NOTIFICATION and hold timer expiry too.
        notification: bool,
        /// Seconds until it may be back; 12 bits.
        time_s: u16,
        /// Families whose routes it wants kept.
        families: Vec<RestartFamily>,
    },
    /// 65: four-octet AS numbers (RFC 6793); holds the real AS number.
    FourOctetAs(u32),
    /// 69: ADD-PATH (RFC 7911 section 4): for each, address family, subsequent one, and 1 receive, 2 send, 3 both.
    AddPath(Vec<(u16, u8, u8)>),
    /// 70: enhanced route refresh (RFC 7313).
    EnhancedRefresh,
    /// 71: long-lived graceful restart (RFC 9494 section 3).
    LongLived(Vec<StaleFamily>),
    /// One that we do not know, or whose value has not the length we know.
    Unknown {
        /// Code.
        code: u8,
        /// Value, at most 255 octets.
        value: Vec<u8>,
    },
}

/// A family of the graceful restart capability.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RestartFamily {
    /// Address family.
    pub afi: u16,
    /// Subsequent address family.
    pub safi: u8,
    /// F: it went on forwarding while it restarted.
    pub forwarding: bool,
}

/// A family of the long-lived graceful restart capability.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StaleFamily {
    /// Address family.
    pub afi: u16,
    /// Subsequent address family.
    pub safi: u8,
    /// F: it went on forwarding while it restarted.
    pub forwarding: bool,
    /// Seconds that its routes may be kept; 24 bits.
    pub time_s: u32,
}

impl Open {
    /// The AS number: the capability's if there is one.
    pub fn asn(&self) -> u32 {
        self.four_octet_as().unwrap_or(u32::from(self.asn2))
    }

    /// Whether the sender says that it restarted (RFC 4724 section 3, bit R).
    pub fn says_restarted(&self) -> bool {
        self.capabilities.iter().any(|c| matches!(c, Capability::GracefulRestart { restarted: true, .. }))
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
            (5, value) if !value.is_empty() && value.len().is_multiple_of(6) => Capability::ExtendedNextHop(
                value
                    .as_chunks::<6>()
                    .0
                    .iter()
                    .map(|[a, b, c, d, e, f]| {
                        (u16::from_be_bytes([*a, *b]), u16::from_be_bytes([*c, *d]), u16::from_be_bytes([*e, *f]))
                    })
                    .collect(),
            ),
            (6, []) => Capability::ExtendedMessage,
            (64, [head, time, rest @ ..]) if rest.len().is_multiple_of(4) => Capability::GracefulRestart {
                restarted: head & 0x80 != 0,
                notification: head & 0x40 != 0,
                time_s: u16::from_be_bytes([head & 0x0f, *time]),
                families: rest
                    .as_chunks::<4>()
                    .0
                    .iter()
                    .map(|[a, b, safi, flags]| RestartFamily {
                        afi: u16::from_be_bytes([*a, *b]),
                        safi: *safi,
                        forwarding: flags & 0x80 != 0,
                    })
                    .collect(),
            },
            (69, value) if !value.is_empty() && value.len().is_multiple_of(4) => Capability::AddPath(
                value
                    .as_chunks::<4>()
                    .0
                    .iter()
                    .map(|[a, b, safi, mode]| (u16::from_be_bytes([*a, *b]), *safi, *mode))
                    .collect(),
            ),
            (70, []) => Capability::EnhancedRefresh,
            (71, value) if value.len().is_multiple_of(7) => Capability::LongLived(
                value
                    .as_chunks::<7>()
                    .0
                    .iter()
                    .map(|[a, b, safi, flags, x, y, z]| StaleFamily {
                        afi: u16::from_be_bytes([*a, *b]),
                        safi: *safi,
                        forwarding: flags & 0x80 != 0,
                        time_s: u32::from_be_bytes([0, *x, *y, *z]),
                    })
                    .collect(),
            ),
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
            Capability::ExtendedNextHop(list) => put(5, out, |out| {
                for (afi, safi, hop) in list.iter().take(42) {
                    out.extend([*afi, *safi, *hop].iter().flat_map(|n| n.to_be_bytes()));
                }
            }),
            Capability::ExtendedMessage => out.extend([6, 0]),
            Capability::GracefulRestart { restarted, notification, time_s, families } => put(64, out, |out| {
                let flags = u16::from(*restarted) << 15 | u16::from(*notification) << 14;
                out.extend((flags | (*time_s).min(0x0fff)).to_be_bytes());
                for f in families.iter().take(63) {
                    out.extend(f.afi.to_be_bytes());
                    out.extend([f.safi, u8::from(f.forwarding) << 7]);
                }
            }),
            Capability::AddPath(list) => put(69, out, |out| {
                for (afi, safi, mode) in list.iter().take(63) {
                    out.extend(afi.to_be_bytes());
                    out.extend([*safi, *mode]);
                }
            }),
            Capability::EnhancedRefresh => out.extend([70, 0]),
            Capability::LongLived(list) => put(71, out, |out| {
                for f in list.iter().take(36) {
                    out.extend(f.afi.to_be_bytes());
                    out.extend([f.safi, u8::from(f.forwarding) << 7]);
                    out.extend(&f.time_s.min(0x00ff_ffff).to_be_bytes()[1..]);
                }
            }),
            Capability::Unknown { code, value } => {
                let value = &value[..value.len().min(255)];
                out.extend([*code, value.len() as u8]);
                out.extend(value);
            }
        }
    }
}

/// Writes a capability whose length is known only afterwards. Lists are cut so that it fits an octet.
fn put(code: u8, out: &mut Vec<u8>, value: impl FnOnce(&mut Vec<u8>)) {
    out.extend([code, 0]);
    let start = out.len();
    value(out);
    out[start - 1] = (out.len() - start) as u8;
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
