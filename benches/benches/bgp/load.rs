//! What the first neighbour sends.

use std::net::{IpAddr, Ipv4Addr};

use fairway_bgp::wire::{AsPath, Attributes, Context, Nlri, Packer};
use fairway_desired::Family;
use ipnet::{IpNet, Ipv4Net};

use crate::peers::{FIRST_AS, first_address};

/// So many different attributes; consecutive messages never have the same.
const ATTRIBUTES: u32 = 1024;
/// The first of the prefixes, each of 24 bits.
const BASE: u32 = 0x0100_0000;

/// Octets of UPDATE messages.
pub(crate) struct Load {
    pub(crate) routes: u32,
    pub(crate) bytes: Vec<u8>,
}

impl Load {
    pub(crate) fn new(routes: u32, per_message: u32) -> Load {
        let context = Context { four_octet_as: true, external: true, ..Context::default() };
        let mut bytes = Vec::new();
        for first in (0..routes).step_by(per_message as usize) {
            let path = [FIRST_AS, 4_200_000_000 + (first / per_message) % ATTRIBUTES];
            let attributes = Attributes { as_path: AsPath::sequence(&path), ..Attributes::own() };
            let next_hop = IpAddr::V4(first_address());
            let mut packer = Packer::announce(Family::V4, &attributes, next_hop, context).unwrap();
            for n in first..routes.min(first + per_message) {
                let prefix = Ipv4Net::new_assert(Ipv4Addr::from(BASE + (n << 8)), 24);
                packer.push(Nlri::from(IpNet::V4(prefix)), &mut bytes);
            }
            packer.finish(&mut bytes);
        }
        Load { routes, bytes }
    }

    /// The number of a prefix, if it is one of a load.
    pub(crate) fn number(address: [u8; 4], bits: u8) -> Option<u32> {
        (bits == 24).then(|| u32::from_be_bytes(address).checked_sub(BASE).map(|n| n >> 8))?
    }
}
