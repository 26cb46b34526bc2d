//! Prefixes as UPDATE carries them: a length in bits, then as many octets as that needs.

use alloc::vec::Vec;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use fairway_desired::Family;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::reader::Reader;

/// Octets a prefix takes on the wire.
pub(crate) fn wire_len(prefix: &IpNet) -> usize {
    1 + usize::from(prefix.prefix_len()).div_ceil(8)
}

pub(crate) fn encode(prefix: &IpNet, out: &mut Vec<u8>) {
    out.push(prefix.prefix_len());
    let octets = wire_len(prefix) - 1;
    match prefix.network() {
        IpAddr::V4(a) => out.extend(&a.octets()[..octets]),
        IpAddr::V6(a) => out.extend(&a.octets()[..octets]),
    }
}

/// All prefixes up to the end; `None` if one is too long or cut off. Bits beyond the length are ignored.
pub(crate) fn decode_all(family: Family, bytes: &[u8]) -> Option<Vec<IpNet>> {
    let mut r = Reader::new(bytes);
    let mut prefixes = Vec::new();
    while !r.is_empty() {
        let bits = r.u8()?;
        let octets = r.take(usize::from(bits).div_ceil(8))?;
        prefixes.push(match family {
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
        });
    }
    Some(prefixes)
}
