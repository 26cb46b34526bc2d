//! Which addresses of the ranges are free.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

/// Addresses of one family, as numbers.
#[derive(Clone, Debug)]
pub(crate) struct Pool {
    v6: bool,
    /// Ends of each range, both included, in the order of the flag. They may overlap.
    ranges: Vec<(u128, u128)>,
    /// Addresses that are never given, as ends of ranges.
    blocked: Vec<(u128, u128)>,
    /// Taken addresses as runs: first to last. No two runs touch, so what follows a run is free.
    runs: BTreeMap<u128, u128>,
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(a) => u128::from(a.to_bits()),
        IpAddr::V6(a) => a.to_bits(),
    }
}

/// The addresses of a prefix that a host can have: not the network's and not the broadcast address, except where there
/// are no such (RFC 3021); in IPv6 not that of the subnet's routers (RFC 4291 section 2.6.1), except on a link between
/// two (RFC 6164).
fn usable(net: &IpNet) -> (u128, u128) {
    let (first, last) = (number(net.network()), number(net.broadcast()));
    match net {
        IpNet::V4(v4) if v4.prefix_len() <= 30 => (first + 1, last - 1),
        IpNet::V6(v6) if v6.prefix_len() <= 126 => (first + 1, last),
        _ => (first, last),
    }
}

impl Pool {
    /// The ranges of this family among `ranges`, without what is in `blocked`.
    pub(crate) fn new(v6: bool, ranges: &[IpNet], blocked: &[IpNet]) -> Pool {
        let ours = |nets: &[IpNet]| nets.iter().filter(|n| n.addr().is_ipv6() == v6).copied().collect::<Vec<_>>();
        let whole = |net: &IpNet| (number(net.network()), number(net.broadcast()));
        let ranges = ours(ranges).iter().map(usable).collect();
        let blocked: Vec<_> = ours(blocked).iter().map(whole).collect();
        let mut pool = Pool { v6, ranges, blocked: blocked.clone(), runs: BTreeMap::new() };
        for (first, last) in blocked {
            pool.take_run(first, last);
        }
        pool
    }

    /// Whether there is any range.
    pub(crate) fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// Whether the address could be given, as far as the ranges say.
    pub(crate) fn offers(&self, address: IpAddr) -> bool {
        let at = number(address);
        let within = |list: &[(u128, u128)]| list.iter().any(|(first, last)| (*first..=*last).contains(&at));
        address.is_ipv6() == self.v6 && within(&self.ranges) && !within(&self.blocked)
    }

    /// The end of the run that has this address.
    fn run_of(&self, at: u128) -> Option<(u128, u128)> {
        let (first, last) = self.runs.range(..=at).next_back()?;
        (*last >= at).then_some((*first, *last))
    }

    /// The first free address. One look-up for each range, however many are taken.
    pub(crate) fn first_free(&self) -> Option<IpAddr> {
        self.ranges.iter().find_map(|(first, last)| {
            let at = match self.run_of(*first) {
                None => *first,
                Some((_, end)) => end.checked_add(1)?,
            };
            if at > *last {
                return None;
            }
            Some(match self.v6 {
                true => IpAddr::V6(Ipv6Addr::from_bits(at)),
                // An address of an IPv4 range.
                false => IpAddr::V4(Ipv4Addr::from_bits(u32::try_from(at).ok()?)),
            })
        })
    }

    fn take_run(&mut self, mut first: u128, mut last: u128) {
        // Runs that overlap or touch become one.
        while let Some((start, end)) = self.runs.range(..=last.saturating_add(1)).next_back().map(|(s, e)| (*s, *e)) {
            if end.saturating_add(1) < first {
                break;
            }
            self.runs.remove(&start);
            first = first.min(start);
            last = last.max(end);
        }
        self.runs.insert(first, last);
    }

    /// The address is in use from now on.
    pub(crate) fn take(&mut self, address: IpAddr) {
        let at = number(address);
        if address.is_ipv6() == self.v6 && self.run_of(at).is_none() {
            self.take_run(at, at);
        }
    }

    /// Nobody uses the address any more.
    pub(crate) fn free(&mut self, address: IpAddr) {
        let at = number(address);
        if address.is_ipv6() != self.v6 || self.blocked.iter().any(|(first, last)| (*first..=*last).contains(&at)) {
            return;
        }
        let Some((first, last)) = self.run_of(at) else { return };
        self.runs.remove(&first);
        if first < at {
            self.runs.insert(first, at - 1);
        }
        if at < last {
            self.runs.insert(at + 1, last);
        }
    }
}

#[cfg(test)]
mod tests {
    use alloc::collections::BTreeSet;
    use alloc::vec;

    use proptest::prelude::*;

    use super::*;

    fn net(text: &str) -> IpNet {
        text.parse().expect("a prefix")
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn network_and_broadcast_addresses_are_never_given() {
        let first = |text: &str| {
            let net = net(text);
            Pool::new(net.addr().is_ipv6(), &[net], &[]).first_free()
        };
        assert_eq!(first("10.0.0.0/24"), Some(ip("10.0.0.1")));
        assert_eq!(first("10.0.0.0/30"), Some(ip("10.0.0.1")));
        assert_eq!(first("10.0.0.0/31"), Some(ip("10.0.0.0")));
        assert_eq!(first("10.0.0.7/32"), Some(ip("10.0.0.7")));
        assert_eq!(first("fd00::/64"), Some(ip("fd00::1")));
        assert_eq!(first("fd00::/127"), Some(ip("fd00::")));
        assert_eq!(first("::/0"), Some(ip("::1")));
        let mut pool = Pool::new(false, &[net("10.0.0.0/30")], &[]);
        pool.take(ip("10.0.0.1"));
        pool.take(ip("10.0.0.2"));
        assert_eq!(pool.first_free(), None);
        assert!(!pool.offers(ip("10.0.0.0")) && !pool.offers(ip("10.0.0.3")) && pool.offers(ip("10.0.0.2")));
    }

    #[test]
    fn the_end_of_all_addresses_is_an_end() {
        let mut pool = Pool::new(false, &[net("255.255.255.254/31")], &[]);
        pool.take(ip("255.255.255.254"));
        assert_eq!(pool.first_free(), Some(ip("255.255.255.255")));
        pool.take(ip("255.255.255.255"));
        assert_eq!(pool.first_free(), None);
        let mut pool = Pool::new(true, &[net("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff/128")], &[]);
        let last = pool.first_free().expect("one");
        pool.take(last);
        assert_eq!(pool.first_free(), None);
        pool.free(last);
        assert_eq!(pool.first_free(), Some(last));
    }

    #[test]
    fn what_is_blocked_stays_so() {
        let ranges = [net("10.0.0.0/29"), net("10.0.0.0/28")];
        let mut pool = Pool::new(false, &ranges, &[net("10.0.0.0/30")]);
        assert_eq!(pool.first_free(), Some(ip("10.0.0.4")));
        pool.take(ip("10.0.0.2"));
        pool.free(ip("10.0.0.2"));
        assert_eq!(pool.first_free(), Some(ip("10.0.0.4")));
        for last in 4..=6 {
            pool.take(IpAddr::from([10, 0, 0, last]));
        }
        assert_eq!(pool.first_free(), Some(ip("10.0.0.7")), "a host's address in the second range");
    }

    proptest! {
        #[test]
        fn the_first_free_address_is_the_first_that_is_free(changes in prop::collection::vec((any::<bool>(), 0u8..32), 0..120)) {
            let ranges = vec![net("10.0.0.16/28"), net("10.0.0.0/29"), net("10.0.0.8/30")];
            let blocked = [net("10.0.0.20/31")];
            let mut pool = Pool::new(false, &ranges, &blocked);
            let mut taken = BTreeSet::new();
            for (take, last) in changes {
                let address = IpAddr::from([10, 0, 0, last]);
                if take {
                    pool.take(address);
                    taken.insert(address);
                } else {
                    pool.free(address);
                    taken.remove(&address);
                }
                let all = ranges.iter().flat_map(|range| range.hosts());
                let expected = all.filter(|a| !blocked[0].contains(a)).find(|a| !taken.contains(a));
                prop_assert_eq!(pool.first_free(), expected);
                prop_assert_eq!(pool.clone().runs, {
                    // As made at once.
                    let mut fresh = Pool::new(false, &ranges, &blocked);
                    taken.iter().for_each(|a| fresh.take(*a));
                    fresh.runs
                });
            }
        }
    }
}
