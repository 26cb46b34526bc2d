//! UPDATE (RFC 4271 section 4.3): read, written, and packed full.

use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::net::IpAddr;

use fairway_desired::Family;

use super::attributes::{self, Attributes, Reach};
use super::notification::{Notification, code};
use super::reader::Reader;
use super::{Context, HEADER_LEN, Nlri, TooLong, prefix};

/// UPDATE. Each family has its own fields, wherever the message carries them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Update {
    /// IPv4 prefixes that are gone (Withdrawn Routes).
    pub withdrawn: Vec<Nlri>,
    /// Attributes of the announced prefixes; `None` if there are none.
    pub attributes: Option<Arc<Attributes>>,
    /// IPv4 prefixes announced (NLRI), with NEXT_HOP.
    pub reach: Option<Reach>,
    /// Prefixes announced by MP_REACH_NLRI.
    pub mp_reach: Option<(Family, Reach)>,
    /// Prefixes gone by MP_UNREACH_NLRI.
    pub mp_unreach: Option<(Family, Vec<Nlri>)>,
    /// Why the announced prefixes of a broken message were moved to the withdrawn ones (RFC 7606). Not encoded.
    pub malformed: Option<String>,
    /// Codes of attributes that were passed over because they were broken or there twice (RFC 7606 sections 2 and 3 g).
    /// Not encoded.
    pub discarded: Vec<u8>,
    /// It is about a family that is not ours, too. Not encoded.
    pub foreign: bool,
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
        let routes = !self.withdrawn.is_empty() || self.reach.is_some() || self.mp_reach.is_some();
        if routes || self.malformed.is_some() || self.foreign {
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
            prefix::encode(p, context, &mut section);
        }
        out.extend(u16::try_from(section.len()).unwrap_or(u16::MAX).to_be_bytes());
        out.append(&mut section);
        // RFC 7606 section 5.1: the multiprotocol attributes come first.
        let nlri = |prefixes: &[Nlri]| {
            let mut nlri = Vec::new();
            prefixes.iter().for_each(|p| prefix::encode(p, context, &mut nlri));
            nlri
        };
        if let Some((family, prefixes)) = &self.mp_unreach {
            attributes::encode_unreach(*family, &nlri(prefixes), &mut section);
        }
        if let Some((family, reach)) = &self.mp_reach {
            attributes::encode_reach(*family, reach.next_hop, &nlri(&reach.prefixes), &mut section);
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
            prefix::encode(p, context, out);
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
        let withdrawn = prefix::decode_all(Family::V4, context, withdrawn).ok_or_else(network)?;
        let nlri = prefix::decode_all(Family::V4, context, r.rest()).ok_or_else(network)?;

        let mut decoded = attributes::decode(section, context)?;
        let mut update = Update {
            withdrawn,
            mp_unreach: decoded.unreach.take(),
            discarded: core::mem::take(&mut decoded.discarded),
            foreign: decoded.foreign,
            ..Update::default()
        };
        let mp_reach = decoded.reach.take();
        if nlri.is_empty() && mp_reach.is_none() {
            // RFC 7606 section 5.2: what a broken attribute was meant for is not known, so it cannot be withdrawn.
            if decoded.malformed.is_some() && !decoded.foreign {
                return Err(list());
            }
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

/// UPDATE messages that announce prefixes of one family, as few as possible.
#[derive(Clone, Debug)]
pub struct Packer {
    family: Family,
    context: Context,
    /// How the prefixes leave.
    form: Form,
    /// The attribute section, but for MP_REACH_NLRI.
    attributes: Vec<u8>,
    /// Prefixes of the message that is being filled.
    nlri: Vec<u8>,
    /// How many octets of prefixes a message holds.
    room: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    /// NLRI and NEXT_HOP.
    Plain,
    /// MP_REACH_NLRI.
    Reach(IpAddr),
    /// Withdrawn Routes.
    Withdrawn,
    /// MP_UNREACH_NLRI.
    Unreach,
}

impl Packer {
    /// Announces with these attributes. IPv4 prefixes with an IPv4 next hop leave in the plain fields.
    ///
    /// # Errors
    /// The attributes leave no room for a prefix; such routes cannot be advertised (RFC 4271 section 9.2).
    pub fn announce(
        family: Family,
        attributes: &Attributes,
        next_hop: IpAddr,
        context: Context,
    ) -> Result<Packer, TooLong> {
        let mut section = Vec::new();
        let form = match (family, next_hop) {
            (Family::V4, IpAddr::V4(next_hop)) => {
                attributes::encode(attributes, Some(next_hop), context, &mut section);
                Form::Plain
            }
            _ => {
                attributes::encode(attributes, None, context, &mut section);
                Form::Reach(next_hop)
            }
        };
        Packer::new(family, form, section, context)
    }

    /// Withdraws.
    ///
    /// # Errors
    /// None in practice: there is always room.
    pub fn withdraw(family: Family, context: Context) -> Result<Packer, TooLong> {
        let form = match family {
            Family::V4 => Form::Withdrawn,
            Family::V6 => Form::Unreach,
        };
        Packer::new(family, form, Vec::new(), context)
    }

    fn new(family: Family, form: Form, attributes: Vec<u8>, context: Context) -> Result<Packer, TooLong> {
        // Header, two length fields; then the head of the multiprotocol attribute: four octets, family, next hop.
        let head = HEADER_LEN
            + 4
            + match form {
                Form::Plain | Form::Withdrawn => 0,
                Form::Unreach => 7,
                Form::Reach(next_hop) => 9 + if next_hop.is_ipv4() { 4 } else { 16 },
            };
        let room = context.max_len().checked_sub(head + attributes.len()).ok_or(TooLong)?;
        if room < prefix::NLRI_MAX {
            return Err(TooLong);
        }
        Ok(Packer { family, context, form, attributes, nlri: Vec::new(), room })
    }

    /// Adds a prefix; a message that is full goes to `out`.
    pub fn push(&mut self, nlri: Nlri, out: &mut Vec<u8>) {
        debug_assert_eq!(Family::of(nlri.prefix.addr()), self.family, "one family in one message");
        let before = self.nlri.len();
        prefix::encode(&nlri, self.context, &mut self.nlri);
        if self.nlri.len() > self.room {
            let last: Vec<u8> = self.nlri.drain(before..).collect();
            self.finish(out);
            self.nlri.extend(last);
        }
    }

    /// The last message goes to `out`, unless it is empty.
    pub fn finish(&mut self, out: &mut Vec<u8>) {
        if self.nlri.is_empty() {
            return;
        }
        let start = out.len();
        out.extend([0xff; 16]);
        out.extend([0, 0, super::UPDATE]);
        // The room was measured, so every length fits.
        let len = |n: usize| (n as u16).to_be_bytes();
        match self.form {
            Form::Plain => {
                out.extend([0, 0]);
                out.extend(len(self.attributes.len()));
                out.extend(&self.attributes);
                out.append(&mut self.nlri);
            }
            Form::Withdrawn => {
                out.extend(len(self.nlri.len()));
                out.append(&mut self.nlri);
                out.extend([0, 0]);
            }
            Form::Reach(_) | Form::Unreach => {
                out.extend([0; 4]);
                let section = out.len();
                // RFC 7606 section 5.1: the multiprotocol attribute comes first.
                match self.form {
                    Form::Reach(next_hop) => attributes::encode_reach(self.family, next_hop, &self.nlri, out),
                    _ => attributes::encode_unreach(self.family, &self.nlri, out),
                }
                self.nlri.clear();
                out.extend(&self.attributes);
                let octets = len(out.len() - section);
                out[section - 2..section].copy_from_slice(&octets);
            }
        }
        let octets = len(out.len() - start);
        out[start + 16..start + 18].copy_from_slice(&octets);
    }
}
