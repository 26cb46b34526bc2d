//! UPDATE (RFC 4271 section 4.3): read, written, and packed full.

use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::net::IpAddr;

use fairway_desired::Family;
use ipnet::IpNet;

use super::attributes::{self, Attributes, Reach};
use super::notification::{Notification, code};
use super::reader::Reader;
use super::{Context, HEADER_LEN, MAX_LEN, Message, TooLong, prefix};

/// UPDATE. Each family has its own fields, wherever the message carries them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Update {
    /// IPv4 prefixes that are gone (Withdrawn Routes).
    pub withdrawn: Vec<IpNet>,
    /// Attributes of the announced prefixes; `None` if there are none.
    pub attributes: Option<Arc<Attributes>>,
    /// IPv4 prefixes announced (NLRI), with NEXT_HOP.
    pub reach: Option<Reach>,
    /// Prefixes announced by MP_REACH_NLRI.
    pub mp_reach: Option<(Family, Reach)>,
    /// Prefixes gone by MP_UNREACH_NLRI.
    pub mp_unreach: Option<(Family, Vec<IpNet>)>,
    /// Why the announced prefixes of a broken message were moved to the withdrawn ones (RFC 7606). Not encoded.
    pub malformed: Option<String>,
}

impl Update {
    /// Announces nothing, withdraws nothing: End-of-RIB (RFC 4724 section 2).
    pub fn end_of_rib(family: Family) -> Self {
        match family {
            Family::V4 => Update::default(),
            Family::V6 => Update { mp_unreach: Some((family, Vec::new())), ..Update::default() },
        }
    }

    /// The family whose End-of-RIB this is.
    pub fn is_end_of_rib(&self) -> Option<Family> {
        if !self.withdrawn.is_empty() || self.reach.is_some() || self.mp_reach.is_some() || self.malformed.is_some() {
            return None;
        }
        match &self.mp_unreach {
            None if self.attributes.is_none() => Some(Family::V4),
            Some((family, prefixes)) if prefixes.is_empty() => Some(*family),
            _ => None,
        }
    }

    pub(super) fn encode(&self, context: Context, out: &mut Vec<u8>) {
        let mut section = Vec::new();
        for p in &self.withdrawn {
            prefix::encode(p, &mut section);
        }
        out.extend(u16::try_from(section.len()).unwrap_or(u16::MAX).to_be_bytes());
        out.append(&mut section);
        // RFC 7606 section 5.1: the multiprotocol attributes come first.
        if let Some((family, prefixes)) = &self.mp_unreach {
            attributes::encode_unreach(*family, prefixes, &mut section);
        }
        if let Some((family, reach)) = &self.mp_reach {
            attributes::encode_reach(*family, reach, &mut section);
        }
        if let Some(a) = &self.attributes {
            let next_hop = self.reach.as_ref().and_then(|r| match r.next_hop {
                IpAddr::V4(a) => Some(a),
                IpAddr::V6(_) => None,
            });
            attributes::encode(a, next_hop, context, &mut section);
        }
        out.extend(u16::try_from(section.len()).unwrap_or(u16::MAX).to_be_bytes());
        out.append(&mut section);
        for p in self.reach.iter().flat_map(|r| &r.prefixes) {
            prefix::encode(p, out);
        }
    }

    pub(super) fn decode(body: &[u8], context: Context) -> Result<Self, Notification> {
        let list = || Notification::new(code::UPDATE, 1);
        let network = || Notification::new(code::UPDATE, 10);
        let mut r = Reader::new(body);
        let len = r.u16().ok_or_else(list)?;
        let withdrawn = r.take(usize::from(len)).ok_or_else(list)?;
        let len = r.u16().ok_or_else(list)?;
        let section = r.take(usize::from(len)).ok_or_else(list)?;
        let withdrawn = prefix::decode_all(Family::V4, withdrawn).ok_or_else(network)?;
        let nlri = prefix::decode_all(Family::V4, r.rest()).ok_or_else(network)?;

        let mut decoded = attributes::decode(section, context)?;
        let mut update = Update { withdrawn, mp_unreach: decoded.unreach.take(), ..Update::default() };
        let mp_reach = decoded.reach.take();
        if nlri.is_empty() && mp_reach.is_none() {
            update.malformed = decoded.malformed;
            return Ok(update);
        }
        let attributes = decoded.attributes();
        if !nlri.is_empty() && decoded.next_hop.is_none() && decoded.malformed.is_none() {
            decoded.malformed = Some("NEXT_HOP is missing".to_string());
        }
        match (attributes, decoded.malformed) {
            (Some(attributes), None) => {
                update.attributes = Some(Arc::new(attributes));
                update.reach =
                    decoded.next_hop.filter(|_| !nlri.is_empty()).map(|a| Reach { next_hop: a.into(), prefixes: nlri });
                update.mp_reach = mp_reach;
            }
            (_, malformed) => {
                update.withdrawn.extend(nlri);
                if let Some((family, reach)) = mp_reach {
                    match &mut update.mp_unreach {
                        Some((f, prefixes)) if *f == family => prefixes.extend(reach.prefixes),
                        None => update.mp_unreach = Some((family, reach.prefixes)),
                        // Two families in one message is legal but unheard of; IPv4 has a field of its own.
                        Some((Family::V6, _)) => update.withdrawn.extend(reach.prefixes),
                        Some((Family::V4, prefixes)) => {
                            let v4 = core::mem::take(prefixes);
                            update.withdrawn.extend(v4);
                            update.mp_unreach = Some((family, reach.prefixes));
                        }
                    }
                }
                update.malformed = malformed;
            }
        }
        Ok(update)
    }
}

/// Messages that withdraw these prefixes, as few as possible.
pub fn pack_withdrawals(family: Family, prefixes: &[IpNet], context: Context) -> Vec<Vec<u8>> {
    // Two length fields; MP_UNREACH_NLRI has four octets of attribute header and three of family.
    let room = MAX_LEN - HEADER_LEN - 4 - if family == Family::V6 { 7 } else { 0 };
    chunks(prefixes, room)
        .filter_map(|chunk| {
            let update = match family {
                Family::V4 => Update { withdrawn: chunk.to_vec(), ..Update::default() },
                Family::V6 => Update { mp_unreach: Some((family, chunk.to_vec())), ..Update::default() },
            };
            // The room was measured, so it fits.
            Message::Update(update).encode(context).ok()
        })
        .collect()
}

/// Messages that announce these prefixes, all of the next hop's family, as few as possible.
///
/// # Errors
/// The attributes leave no room for a prefix; such a route cannot be advertised (RFC 4271 section 9.2).
pub fn pack_routes(
    attributes: &Arc<Attributes>,
    next_hop: IpAddr,
    prefixes: &[IpNet],
    context: Context,
) -> Result<Vec<Vec<u8>>, TooLong> {
    let family = Family::of(next_hop);
    let update = |chunk: &[IpNet]| {
        let reach = Reach { next_hop, prefixes: chunk.to_vec() };
        let attributes = Some(attributes.clone());
        Message::Update(match family {
            Family::V4 => Update { attributes, reach: Some(reach), ..Update::default() },
            Family::V6 => Update { attributes, mp_reach: Some((family, reach)), ..Update::default() },
        })
    };
    // One more octet: the attribute header of MP_REACH_NLRI grows when its value is long.
    let empty = update(&[]).encode(context)?.len() + 1;
    let room = MAX_LEN.checked_sub(empty).ok_or(TooLong)?;
    if prefixes.iter().any(|p| prefix::wire_len(p) > room) {
        return Err(TooLong);
    }
    chunks(prefixes, room).map(|chunk| update(chunk).encode(context)).collect()
}

/// Cuts prefixes into runs that take at most `room` octets. A prefix that is longer makes a run of its own.
fn chunks(mut prefixes: &[IpNet], room: usize) -> impl Iterator<Item = &[IpNet]> {
    core::iter::from_fn(move || {
        let mut used = 0;
        let fitting = prefixes
            .iter()
            .take_while(|p| {
                used += prefix::wire_len(p);
                used <= room
            })
            .count();
        let (chunk, rest) = prefixes.split_at_checked(fitting.max(1))?;
        prefixes = rest;
        Some(chunk)
    })
}
