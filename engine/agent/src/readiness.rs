//! Whether the data plane behind an address works, as far as this node's kernel is concerned.

use alloc::sync::Arc;
use core::net::{IpAddr, Ipv6Addr};
use core::ops::Bound;

use fairway_desired::ipvs::{RealServerKey, VirtualServerKey};
use fairway_desired::{Addr, AddrKey, Ipvs, Protocol, bgp, ipvs};
use fairway_reconcile::Reconciler;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// Greater than or equal to every real server of a virtual server.
const LAST: RealServerKey = RealServerKey { address: IpAddr::V6(Ipv6Addr::from_bits(u128::MAX)), port: u16::MAX };

/// Whether a BGP entry has to wait for the data plane: it is a network of a single address, and that address on our
/// interfaces or one of its virtual servers is desired and not in place, or a virtual server has real servers and
/// none of them is in place. Virtual servers by firewall mark have no address and are not waited for.
pub(crate) fn must_wait(addr: &Reconciler<Addr>, ipvs: &Reconciler<Ipvs>, key: &bgp::Key) -> bool {
    let bgp::Key::Network(prefix) = key else { return false };
    if prefix.prefix_len() != prefix.max_prefix_len() {
        return false;
    }
    let address = prefix.addr();
    address_missing(addr, address) || server_missing(ipvs, address)
}

fn address_missing(addr: &Reconciler<Addr>, address: IpAddr) -> bool {
    let first = AddrKey { address: shortest(address), link: Arc::from("") };
    let keys = addr.tracker().desired().range(first..).map(|(key, _)| key);
    keys.take_while(|key| key.address.addr() == address).any(|key| !addr.in_sync(key))
}

fn shortest(address: IpAddr) -> IpNet {
    // A length of 0 is valid for both families.
    match address {
        IpAddr::V4(address) => IpNet::V4(Ipv4Net::new_assert(address, 0)),
        IpAddr::V6(address) => IpNet::V6(Ipv6Net::new_assert(address, 0)),
    }
}

fn server_missing(ipvs: &Reconciler<Ipvs>, address: IpAddr) -> bool {
    let desired = ipvs.tracker().desired();
    let first = VirtualServerKey::Address { address, port: 0, protocol: Protocol::Tcp };
    let mut from = Bound::Included(ipvs::Key { server: first, real: None });
    // One look-up per virtual server, not one per real server.
    while let Some((key, _)) = desired.range((from, Bound::Unbounded)).next() {
        if !matches!(key.server, VirtualServerKey::Address { address: this, .. } if this == address) {
            return false;
        }
        if !ipvs.in_sync(key) {
            return true;
        }
        let mut reals = desired
            .range((Bound::Excluded(key), Bound::Unbounded))
            .map(|(real, _)| real)
            .take_while(|real| real.server == key.server)
            .peekable();
        if reals.peek().is_some() && !reals.any(|real| ipvs.in_sync(real)) {
            return true;
        }
        from = Bound::Excluded(ipvs::Key { server: key.server.clone(), real: Some(LAST) });
    }
    false
}

/// Whether an address is in one of the prefixes.
pub(crate) fn contains(prefixes: &[IpNet], address: IpAddr) -> bool {
    prefixes.iter().any(|prefix| prefix.contains(&address))
}

/// The address of a virtual server, if it has one.
pub(crate) fn address(key: &ipvs::Key) -> Option<IpAddr> {
    match key.server {
        VirtualServerKey::Address { address, .. } => Some(address),
        VirtualServerKey::Mark { .. } => None,
    }
}
