//! Prefixes as UPDATE carries them: a length in bits, then as many octets as that needs; with ADD-PATH (RFC 7911
//! section 3) an identifier in front.

use alloc::vec::Vec;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use fairway_desired::Family;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::Context;
use super::reader::Reader;

/// A prefix and which of its paths is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Nlri {
    /// Destination.
    pub prefix: IpNet,
    /// Path identifier (RFC 7911); 0 on sessions without ADD-PATH.
    pub path_id: u32,
}

impl From<IpNet> for Nlri {
    fn from(prefix: IpNet) -> Self {
        Nlri { prefix, path_id: 0 }
    }
}

/// Octets of the longest form of a prefix.
pub(crate) const NLRI_MAX: usize = 4 + 1 + 16;

pub(crate) fn encode(nlri: &Nlri, context: Context, out: &mut Vec<u8>) {
    let prefix = nlri.prefix;
    if context.add_path.has(Family::of(prefix.addr())) {
        out.extend(nlri.path_id.to_be_bytes());
    }
    out.push(prefix.prefix_len());
    let octets = usize::from(prefix.prefix_len()).div_ceil(8);
    match prefix.network() {
        IpAddr::V4(a) => out.extend(&a.octets()[..octets]),
        IpAddr::V6(a) => out.extend(&a.octets()[..octets]),
    }
}

/// All prefixes up to the end; `None` if one is too long or cut off. Bits beyond the length are ignored.
pub(crate) fn decode_all(family: Family, context: Context, bytes: &[u8]) -> Option<Vec<Nlri>> {
    let add_path = context.add_path.has(family);
    let mut r = Reader::new(bytes);
    let mut prefixes =
        Vec::with_capacity(if bytes.is_empty() { 0 } else { bytes.len() / if add_path { 8 } else { 4 } });
    while !r.is_empty() {
        let path_id = if add_path { r.u32()? } else { 0 };
        let bits = r.u8()?;
        let octets = r.take(usize::from(bits).div_ceil(8))?;
        let prefix = match family {
            Family::V4 => {
                let mut address = [0; 4];
                address.get_mut(..octets.len())?.copy_from_slice(octets);
                IpNet::V4(Ipv4Net::new(Ipv4Addr::from(address), bits).ok()?.trunc())
            }
            Family::V6 => {
                let mut address = [0; 16];
                address.get_mut(..octets.len())?.copy_from_slice(octets);
                IpNet::V6(Ipv6Net::new(Ipv6Addr::from(address), bits).ok()?.trunc())
            }
        };
        prefixes.push(Nlri { prefix, path_id });
    }
    Some(prefixes)
}
