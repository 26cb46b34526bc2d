//! Path attributes (RFC 4271 section 4.3) and what is done about broken ones (RFC 7606).

use alloc::string::String;
use alloc::vec::Vec;
use alloc::{format, string::ToString};
use core::net::{IpAddr, Ipv4Addr};

use fairway_desired::Family;

use super::as_path::AsPath;
use super::notification::{Notification, code};
use super::open::{AS_TRANS, SAFI_UNICAST, afi, family_of};
use super::reader::Reader;
use super::{Context, Nlri, prefix};

/// ORIGIN (RFC 4271 section 5.1.1), best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Origin {
    /// From an interior protocol.
    Igp,
    /// From EGP.
    Egp,
    /// By other means.
    Incomplete,
}

/// The attributes of a route, without next hop: what routes of all families share.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Attributes {
    /// ORIGIN
    pub origin: Origin,
    /// AS_PATH
    pub as_path: AsPath,
    /// MULTI_EXIT_DISC
    pub med: Option<u32>,
    /// LOCAL_PREF
    pub local_pref: Option<u32>,
    /// ATOMIC_AGGREGATE
    pub atomic_aggregate: bool,
    /// AGGREGATOR: AS and router.
    pub aggregator: Option<(u32, Ipv4Addr)>,
    /// COMMUNITIES (RFC 1997)
    pub communities: Vec<u32>,
    /// ORIGINATOR_ID (RFC 4456 section 8)
    pub originator: Option<Ipv4Addr>,
    /// CLUSTER_LIST (RFC 4456 section 8), the nearest cluster first.
    pub cluster_list: Vec<Ipv4Addr>,
    /// EXTENDED COMMUNITIES (RFC 4360), in wire order.
    pub ext_communities: Vec<[u8; 8]>,
    /// LARGE_COMMUNITY (RFC 8092)
    pub large_communities: Vec<[u32; 3]>,
    /// Optional transitive attributes that we do not know, in ascending order of their codes.
    pub unknown: Vec<UnknownAttribute>,
}

impl Attributes {
    /// What a route of our own has.
    pub const fn own() -> Self {
        Self {
            origin: Origin::Igp,
            as_path: AsPath { segments: Vec::new() },
            med: None,
            local_pref: None,
            atomic_aggregate: false,
            aggregator: None,
            communities: Vec::new(),
            originator: None,
            cluster_list: Vec::new(),
            ext_communities: Vec::new(),
            large_communities: Vec::new(),
            unknown: Vec::new(),
        }
    }
}

/// An optional transitive attribute that is kept and passed on.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UnknownAttribute {
    /// Type code.
    pub code: u8,
    /// Some speaker on the way did not know it.
    pub partial: bool,
    /// Value.
    pub value: Vec<u8>,
}

/// Prefixes of one family with their next hop: MP_REACH_NLRI (RFC 4760 section 3), or the plain fields for IPv4.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reach {
    /// Next hop. Of two, the global one (RFC 2545 section 3). It may be of the other family (RFC 8950).
    pub next_hop: IpAddr,
    /// Prefixes, with path identifiers if the session has them.
    pub prefixes: Vec<Nlri>,
}

pub(crate) const FLAG_OPTIONAL: u8 = 0x80;
pub(crate) const FLAG_TRANSITIVE: u8 = 0x40;
const FLAG_PARTIAL: u8 = 0x20;
const FLAG_EXTENDED: u8 = 0x10;

const ORIGIN: u8 = 1;
const AS_PATH: u8 = 2;
const NEXT_HOP: u8 = 3;
const MED: u8 = 4;
const LOCAL_PREF: u8 = 5;
const ATOMIC_AGGREGATE: u8 = 6;
const AGGREGATOR: u8 = 7;
const COMMUNITIES: u8 = 8;
const ORIGINATOR_ID: u8 = 9;
const CLUSTER_LIST: u8 = 10;
const MP_REACH: u8 = 14;
const MP_UNREACH: u8 = 15;
const EXT_COMMUNITIES: u8 = 16;
const AS4_PATH: u8 = 17;
const AS4_AGGREGATOR: u8 = 18;
const LARGE_COMMUNITIES: u8 = 32;

/// The flags an attribute must have, of those we know.
const fn flags_of(code: u8) -> Option<u8> {
    match code {
        ORIGIN | AS_PATH | NEXT_HOP | LOCAL_PREF | ATOMIC_AGGREGATE => Some(FLAG_TRANSITIVE),
        MED | MP_REACH | MP_UNREACH | ORIGINATOR_ID | CLUSTER_LIST => Some(FLAG_OPTIONAL),
        AGGREGATOR | COMMUNITIES | EXT_COMMUNITIES | AS4_PATH | AS4_AGGREGATOR | LARGE_COMMUNITIES => {
            Some(FLAG_OPTIONAL | FLAG_TRANSITIVE)
        }
        _ => None,
    }
}

/// Appends one attribute.
fn put(flags: u8, code: u8, value: &[u8], out: &mut Vec<u8>) {
    match u8::try_from(value.len()) {
        Ok(len) => out.extend([flags & !FLAG_EXTENDED, code, len]),
        Err(_) => {
            out.extend([flags | FLAG_EXTENDED, code]);
            // A longer value does not fit into a message; the message's own limit reports it.
            out.extend(u16::try_from(value.len()).unwrap_or(u16::MAX).to_be_bytes());
        }
    }
    out.extend(value);
}

/// Appends all attributes; NEXT_HOP if there is one.
pub(crate) fn encode(a: &Attributes, next_hop: Option<Ipv4Addr>, context: Context, out: &mut Vec<u8>) {
    let transitive = FLAG_OPTIONAL | FLAG_TRANSITIVE;
    put(FLAG_TRANSITIVE, ORIGIN, &[a.origin as u8], out);
    let mut path = Vec::new();
    a.as_path.encode(context.four_octet_as, &mut path);
    put(FLAG_TRANSITIVE, AS_PATH, &path, out);
    if let Some(next_hop) = next_hop {
        put(FLAG_TRANSITIVE, NEXT_HOP, &next_hop.octets(), out);
    }
    if let Some(med) = a.med {
        put(FLAG_OPTIONAL, MED, &med.to_be_bytes(), out);
    }
    if let Some(local_pref) = a.local_pref {
        put(FLAG_TRANSITIVE, LOCAL_PREF, &local_pref.to_be_bytes(), out);
    }
    if a.atomic_aggregate {
        put(FLAG_TRANSITIVE, ATOMIC_AGGREGATE, &[], out);
    }
    let mut as4_aggregator = None;
    if let Some((asn, router)) = a.aggregator {
        let mut four = asn.to_be_bytes().to_vec();
        four.extend(router.octets());
        if context.four_octet_as {
            put(transitive, AGGREGATOR, &four, out);
        } else {
            let mut two = u16::try_from(asn).unwrap_or(AS_TRANS).to_be_bytes().to_vec();
            two.extend(router.octets());
            put(transitive, AGGREGATOR, &two, out);
            if asn > 0xffff {
                as4_aggregator = Some(four);
            }
        }
    }
    if !a.communities.is_empty() {
        let value: Vec<u8> = a.communities.iter().flat_map(|c| c.to_be_bytes()).collect();
        put(transitive, COMMUNITIES, &value, out);
    }
    if let Some(originator) = a.originator {
        put(FLAG_OPTIONAL, ORIGINATOR_ID, &originator.octets(), out);
    }
    if !a.cluster_list.is_empty() {
        let value: Vec<u8> = a.cluster_list.iter().flat_map(Ipv4Addr::octets).collect();
        put(FLAG_OPTIONAL, CLUSTER_LIST, &value, out);
    }
    if !a.ext_communities.is_empty() {
        put(transitive, EXT_COMMUNITIES, a.ext_communities.as_flattened(), out);
    }
    if !context.four_octet_as && !a.as_path.fits_two_octets() {
        let mut path = Vec::new();
        a.as_path.encode(true, &mut path);
        put(transitive, AS4_PATH, &path, out);
    }
    if let Some(value) = as4_aggregator {
        put(transitive, AS4_AGGREGATOR, &value, out);
    }
    if !a.large_communities.is_empty() {
        let value: Vec<u8> = a.large_communities.iter().flatten().flat_map(|word| word.to_be_bytes()).collect();
        put(transitive, LARGE_COMMUNITIES, &value, out);
    }
    for unknown in &a.unknown {
        let flags = if unknown.partial { transitive | FLAG_PARTIAL } else { transitive };
        put(flags, unknown.code, &unknown.value, out);
    }
}

/// Appends MP_REACH_NLRI.
pub(crate) fn encode_reach(family: Family, next_hop: IpAddr, nlri: &[u8], out: &mut Vec<u8>) {
    let mut value = afi(family).to_be_bytes().to_vec();
    value.push(SAFI_UNICAST);
    match next_hop {
        IpAddr::V4(a) => {
            value.push(4);
            value.extend(a.octets());
        }
        IpAddr::V6(a) => {
            value.push(16);
            value.extend(a.octets());
        }
    }
    value.push(0);
    value.extend(nlri);
    put(FLAG_OPTIONAL, MP_REACH, &value, out);
}

/// Appends MP_UNREACH_NLRI.
pub(crate) fn encode_unreach(family: Family, nlri: &[u8], out: &mut Vec<u8>) {
    let mut value = afi(family).to_be_bytes().to_vec();
    value.push(SAFI_UNICAST);
    value.extend(nlri);
    put(FLAG_OPTIONAL, MP_UNREACH, &value, out);
}

/// The attribute section of an UPDATE, read.
#[derive(Debug, Default)]
pub(crate) struct Decoded {
    pub(crate) origin: Option<Origin>,
    pub(crate) as_path: Option<AsPath>,
    pub(crate) next_hop: Option<Ipv4Addr>,
    pub(crate) med: Option<u32>,
    pub(crate) local_pref: Option<u32>,
    pub(crate) atomic_aggregate: bool,
    pub(crate) aggregator: Option<(u32, Ipv4Addr)>,
    pub(crate) communities: Vec<u32>,
    pub(crate) originator: Option<Ipv4Addr>,
    pub(crate) cluster_list: Vec<Ipv4Addr>,
    pub(crate) ext_communities: Vec<[u8; 8]>,
    pub(crate) large_communities: Vec<[u32; 3]>,
    pub(crate) unknown: Vec<UnknownAttribute>,
    pub(crate) reach: Option<(Family, Reach)>,
    pub(crate) unreach: Option<(Family, Vec<Nlri>)>,
    /// MP_REACH_NLRI or MP_UNREACH_NLRI of a family that is not ours.
    pub(crate) foreign: bool,
    /// Codes of attributes that were passed over because they were broken.
    pub(crate) discarded: Vec<u8>,
    /// The first thing wrong that makes the routes count as withdrawn.
    pub(crate) malformed: Option<String>,
    as4_path: Option<AsPath>,
    as4_aggregator: Option<(u32, Ipv4Addr)>,
}

impl Decoded {
    fn malformed(&mut self, reason: impl ToString) {
        if self.malformed.is_none() {
            self.malformed = Some(reason.to_string());
        }
    }

    /// Completes the route's attributes; `None` with the reason noted if a mandatory one is missing.
    pub(crate) fn attributes(&mut self) -> Option<Attributes> {
        let (Some(origin), Some(as_path)) = (self.origin, self.as_path.take()) else {
            self.malformed("ORIGIN or AS_PATH is missing");
            return None;
        };
        Some(Attributes {
            origin,
            as_path,
            med: self.med,
            local_pref: self.local_pref,
            atomic_aggregate: self.atomic_aggregate,
            aggregator: self.aggregator,
            communities: core::mem::take(&mut self.communities),
            originator: self.originator,
            cluster_list: core::mem::take(&mut self.cluster_list),
            ext_communities: core::mem::take(&mut self.ext_communities),
            large_communities: core::mem::take(&mut self.large_communities),
            unknown: core::mem::take(&mut self.unknown),
        })
    }

    /// Reads one value. `None`: its content is broken, and its routes count as withdrawn.
    fn value(&mut self, code: u8, value: &[u8], context: Context) -> Option<()> {
        let mut r = Reader::new(value);
        match code {
            ORIGIN => {
                self.origin = Some(match value {
                    [0] => Origin::Igp,
                    [1] => Origin::Egp,
                    [2] => Origin::Incomplete,
                    _ => return None,
                });
                return Some(());
            }
            AS_PATH => {
                self.as_path = Some(AsPath::decode(context.four_octet_as, value)?);
                return Some(());
            }
            NEXT_HOP => self.next_hop = Some(r.ipv4().filter(|a| is_host(IpAddr::V4(*a)))?),
            MED => self.med = Some(r.u32()?),
            LOCAL_PREF => self.local_pref = Some(r.u32()?),
            COMMUNITIES => {
                if value.is_empty() {
                    return None;
                }
                while !r.is_empty() {
                    self.communities.push(r.u32()?);
                }
            }
            ORIGINATOR_ID => self.originator = Some(r.ipv4()?),
            CLUSTER_LIST => {
                if value.is_empty() {
                    return None;
                }
                while !r.is_empty() {
                    self.cluster_list.push(r.ipv4()?);
                }
            }
            EXT_COMMUNITIES => {
                if value.is_empty() {
                    return None;
                }
                while !r.is_empty() {
                    self.ext_communities.push(r.array()?);
                }
            }
            LARGE_COMMUNITIES => {
                if value.is_empty() {
                    return None;
                }
                while !r.is_empty() {
                    self.large_communities.push([r.u32()?, r.u32()?, r.u32()?]);
                }
                // RFC 8092 section 5: duplicates are to be removed.
                let mut seen = alloc::collections::BTreeSet::new();
                self.large_communities.retain(|c| seen.insert(*c));
            }
            _ => return Some(()),
        }
        r.is_empty().then_some(())
    }

    /// Reads attributes whose breakage only discards them (RFC 7606 sections 7.6 and 7.7, RFC 6793 section 6).
    fn discardable(&mut self, code: u8, value: &[u8], context: Context) {
        let aggregator = |four: bool| {
            let mut r = Reader::new(value);
            let asn = if four { r.u32()? } else { u32::from(r.u16()?) };
            let router = r.ipv4()?;
            (r.is_empty() && asn != 0).then_some((asn, router))
        };
        let read = match code {
            ATOMIC_AGGREGATE => {
                self.atomic_aggregate = value.is_empty();
                self.atomic_aggregate
            }
            AGGREGATOR => {
                self.aggregator = aggregator(context.four_octet_as);
                self.aggregator.is_some()
            }
            AS4_PATH if !context.four_octet_as => {
                self.as4_path = AsPath::decode(true, value);
                self.as4_path.is_some()
            }
            AS4_AGGREGATOR if !context.four_octet_as => {
                self.as4_aggregator = aggregator(true);
                self.as4_aggregator.is_some()
            }
            _ => true,
        };
        if !read {
            self.discarded.push(code);
        }
    }

    /// What an old speaker's neighbours carried beside the two-octet attributes (RFC 6793 section 4.2.3).
    fn merge_as4(&mut self) {
        let as4_path = self.as4_path.take().filter(|p| !p.is_empty());
        if let (Some((asn, _)), Some(as4)) = (self.aggregator, self.as4_aggregator.take()) {
            if asn != u32::from(AS_TRANS) {
                return;
            }
            self.aggregator = Some(as4);
        }
        if let (Some(path), Some(as4)) = (self.as_path.take_if(|_| as4_path.is_some()), as4_path) {
            self.as_path = Some(path.merge(as4));
        }
    }
}

/// Whether an address can be a host's.
fn is_host(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(a) => !a.is_unspecified() && !a.is_multicast() && !a.is_broadcast(),
        IpAddr::V6(a) => !a.is_unspecified() && !a.is_multicast(),
    }
}

/// Reads the attribute section. An error ends the session; everything milder is in the result.
pub(crate) fn decode(bytes: &[u8], context: Context) -> Result<Decoded, Notification> {
    let mut decoded = Decoded::default();
    let mut seen = [false; 256];
    let mut r = Reader::new(bytes);
    while !r.is_empty() {
        let all = r.rest();
        let (Some(flags), Some(code)) = (r.u8(), r.u8()) else {
            decoded.malformed("attribute list ends inside an attribute");
            break;
        };
        let len = if flags & FLAG_EXTENDED == 0 { r.u8().map(usize::from) } else { r.u16().map(usize::from) };
        let Some(value) = len.and_then(|len| r.take(len)) else {
            // RFC 7606 section 4: the routes are withdrawn. What a broken MP attribute would say is unknown, though.
            if matches!(code, MP_REACH | MP_UNREACH) {
                return Err(Notification::with(code::UPDATE, 5, all));
            }
            decoded.malformed(format!("attribute {code} is longer than the list"));
            break;
        };
        let raw = &all[..all.len() - r.len()];
        let first = !core::mem::replace(&mut seen[usize::from(code)], true);
        if !first {
            if matches!(code, MP_REACH | MP_UNREACH) {
                return Err(Notification::new(code::UPDATE, 1));
            }
            // RFC 7606 section 3 g: the first one counts.
            decoded.discarded.push(code);
            continue;
        }
        // RFC 7606 sections 7.5, 7.9 and 7.10: what only internal neighbours may say, external ones do not say.
        if context.external && matches!(code, LOCAL_PREF | ORIGINATOR_ID | CLUSTER_LIST) {
            continue;
        }
        if flags_of(code).is_some_and(|expected| flags & (FLAG_OPTIONAL | FLAG_TRANSITIVE) != expected) {
            if matches!(code, MP_REACH | MP_UNREACH) {
                return Err(Notification::with(code::UPDATE, 4, raw));
            }
            decoded.malformed(format!("attribute {code} has wrong flags"));
            continue;
        }
        match code {
            MP_REACH => {
                decoded.reach = decode_reach(value, context).ok_or(Notification::with(code::UPDATE, 9, raw))?;
                decoded.foreign |= decoded.reach.is_none();
            }
            MP_UNREACH => {
                decoded.unreach = decode_unreach(value, context).ok_or(Notification::with(code::UPDATE, 9, raw))?;
                decoded.foreign |= decoded.unreach.is_none();
            }
            ATOMIC_AGGREGATE | AGGREGATOR | AS4_PATH | AS4_AGGREGATOR => decoded.discardable(code, value, context),
            _ if flags_of(code).is_some() => {
                let read = decoded.value(code, value, context);
                if read.is_none() {
                    decoded.malformed(format!("attribute {code} is malformed"));
                }
            }
            _ if flags & FLAG_OPTIONAL == 0 => return Err(Notification::with(code::UPDATE, 2, raw)),
            _ if flags & FLAG_TRANSITIVE != 0 => decoded.unknown.push(UnknownAttribute {
                code,
                partial: flags & FLAG_PARTIAL != 0,
                value: value.to_vec(),
            }),
            _ => {}
        }
    }
    decoded.unknown.sort();
    if !context.four_octet_as {
        decoded.merge_as4();
    }
    Ok(decoded)
}

/// `Some(None)`: of a family that is not ours.
#[allow(clippy::option_option)]
fn decode_reach(value: &[u8], context: Context) -> Option<Option<(Family, Reach)>> {
    let mut r = Reader::new(value);
    let (afi, safi) = (r.u16()?, r.u8()?);
    let len = usize::from(r.u8()?);
    let mut hop = Reader::new(r.take(len)?);
    r.u8()?;
    let (Some(family), SAFI_UNICAST) = (family_of(afi), safi) else { return Some(None) };
    let next_hop = match (family, len) {
        (Family::V4, 4) => IpAddr::V4(hop.ipv4()?),
        // RFC 8950 section 3. Whether it was negotiated does not change what the octets say.
        (_, 16 | 32) => IpAddr::V6(hop.ipv6()?),
        _ => return None,
    };
    if !is_host(next_hop) {
        return None;
    }
    Some(Some((family, Reach { next_hop, prefixes: prefix::decode_all(family, context, r.rest())? })))
}

/// `Some(None)`: of a family that is not ours.
#[allow(clippy::option_option)]
fn decode_unreach(value: &[u8], context: Context) -> Option<Option<(Family, Vec<Nlri>)>> {
    let mut r = Reader::new(value);
    let (afi, safi) = (r.u16()?, r.u8()?);
    let (Some(family), SAFI_UNICAST) = (family_of(afi), safi) else { return Some(None) };
    Some(Some((family, prefix::decode_all(family, context, r.rest())?)))
}
