//! Route lookup, next hop selection and source address selection.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use fairway_desired::{Family, LOCAL_TABLE, Protocol, RouteKey, RouteKind};
use ipnet::IpNet;

use crate::kernel::{Kernel, Stored, Switch};

/// What a lookup is about. Without a source the kernel has not selected one yet.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Flow {
    pub(crate) src: Option<IpAddr>,
    pub(crate) dst: IpAddr,
    pub(crate) mark: u32,
    pub(crate) protocol: Protocol,
    pub(crate) ports: (u16, u16),
}

impl Flow {
    pub(crate) fn new(protocol: Protocol, src: SocketAddr, dst: SocketAddr, mark: u32) -> Self {
        Flow { src: Some(src.ip()), dst: dst.ip(), mark, protocol, ports: (src.port(), dst.port()) }
    }
}

/// Where a packet goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    Local,
    /// Out of an interface, to a neighbour.
    Out {
        dev: Arc<str>,
        next: IpAddr,
    },
    Blackhole,
    Unreachable,
}

/// A route that was found.
#[derive(Clone, Debug)]
pub(crate) struct Found {
    pub(crate) target: Target,
    pub(crate) src: Option<IpAddr>,
    prefix: IpNet,
    /// Which of how many next hops.
    pick: (usize, usize),
}

/// For people. Lookups happen for every packet, so the text is made only when somebody reads it.
impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.target {
            Target::Local => write!(f, "local {}", self.prefix),
            Target::Blackhole => write!(f, "blackhole {}", self.prefix),
            Target::Unreachable => write!(f, "unreachable {}", self.prefix),
            Target::Out { dev, next } => {
                write!(f, "{} via {next} dev {dev}", self.prefix)?;
                let (pick, of) = self.pick;
                if of > 1 { write!(f, " ({} of {of})", pick + 1) } else { Ok(()) }
            }
        }
    }
}

/// SplitMix64's finalizer: every input bit changes every output bit with probability one half.
pub(crate) fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// Hashes an address onto a state.
pub(crate) fn mix_ip(state: u64, ip: IpAddr) -> u64 {
    match ip {
        IpAddr::V4(ip) => mix(state.wrapping_add(0x9e37_79b9_7f4a_7c15) ^ u64::from(u32::from(ip))),
        IpAddr::V6(ip) => {
            let bits = u128::from(ip);
            let high = mix(state.wrapping_add(0x9e37_79b9_7f4a_7c15) ^ (bits >> 64) as u64);
            mix(high.wrapping_add(0x9e37_79b9_7f4a_7c15) ^ bits as u64)
        }
    }
}

impl Kernel {
    /// Routes of a table that hold a destination, the longest prefix first, then the lowest metric.
    pub(crate) fn candidates(&self, table: u32, dst: IpAddr) -> impl Iterator<Item = (&RouteKey, &Stored)> {
        let lengths = self.lengths.get(&(table, Family::of(dst)));
        lengths.into_iter().flat_map(|l| l.keys().rev()).flat_map(move |len| {
            let prefix = IpNet::new(dst, *len).map_or(IpNet::from(dst), |n| n.trunc());
            let from = RouteKey { prefix, table, metric: 0 };
            let to = RouteKey { prefix, table, metric: u32::MAX };
            self.routes.range(from..=to)
        })
    }

    /// Whether an address is delivered to this host.
    pub(crate) fn is_local(&self, ip: IpAddr) -> bool {
        self.candidates(LOCAL_TABLE, ip).next().is_some_and(|(_, r)| r.value.kind == RouteKind::Local)
    }

    /// Looks a destination up through the rules.
    pub(crate) fn lookup(&self, flow: &Flow) -> Option<Found> {
        let family = Family::of(flow.dst);
        for (rule, action) in self.rules.iter().filter(|(rule, _)| rule.family == family) {
            let from = rule.from.is_none_or(|net| flow.src.is_some_and(|src| net.contains(&src)));
            let to = rule.to.is_none_or(|net| net.contains(&flow.dst));
            let mark = rule.mark.is_none_or(|mark| mark == flow.mark);
            if !(from && to && mark) {
                continue;
            }
            if let Some((key, route)) = self.candidates(action.table, flow.dst).find(|(_, r)| self.usable(r)) {
                return Some(self.select(key, route, flow));
            }
        }
        None
    }

    /// Whether a next hop is used at all. One that lost its carrier is: what is sent there is lost.
    fn alive(&self, route: &Stored, hop: usize) -> bool {
        let up = route.devs.get(hop).and_then(|dev| self.links.get(dev)).is_some_and(|link| link.up);
        up && !route.dead.get(hop).copied().unwrap_or(true)
    }

    fn usable(&self, route: &Stored) -> bool {
        let unicast = route.value.kind == RouteKind::Unicast;
        !unicast || (0..route.devs.len()).any(|hop| self.alive(route, hop))
    }

    fn select(&self, key: &RouteKey, route: &Stored, flow: &Flow) -> Found {
        let value = &route.value;
        let pick = if value.next_hops.len() > 1 { self.next_hop(route, flow) } else { 0 };
        let dev = route.devs.get(pick).cloned().unwrap_or_else(|| Arc::from("lo"));
        let target = match value.kind {
            RouteKind::Local => Target::Local,
            RouteKind::Blackhole => Target::Blackhole,
            RouteKind::Unreachable => Target::Unreachable,
            RouteKind::Unicast => {
                let via = value.next_hops.get(pick).and_then(|h| h.via);
                Target::Out { dev, next: via.unwrap_or(flow.dst) }
            }
        };
        Found { target, src: value.src, prefix: key.prefix, pick: (pick, value.next_hops.len()) }
    }

    /// Hash-threshold: every next hop has a region of the hash space as large as its weight.
    fn next_hop(&self, route: &Stored, flow: &Flow) -> usize {
        let hops: Vec<(usize, u64)> = route
            .value
            .next_hops
            .iter()
            .enumerate()
            .filter(|(i, _)| self.alive(route, *i))
            .map(|(i, hop)| (i, u64::from(hop.weight)))
            .collect();
        let total: u64 = hops.iter().map(|(_, w)| w).sum();
        let hash = self.multipath_hash(flow) >> 33;
        let mut so_far = 0;
        for (index, weight) in &hops {
            so_far += weight;
            let bound = ((so_far << 31) + total / 2) / total.max(1);
            if hash < bound {
                return *index;
            }
        }
        hops.last().map_or(0, |(i, _)| *i)
    }

    fn multipath_hash(&self, flow: &Flow) -> u64 {
        let policy = match Family::of(flow.dst) {
            Family::V4 => Switch::HashPolicyV4,
            Family::V6 => Switch::HashPolicyV6,
        };
        let mut hash = mix(self.seed);
        if let Some(src) = flow.src {
            hash = mix_ip(hash, src);
        }
        hash = mix_ip(hash, flow.dst);
        if self.is_on(policy) {
            let protocol = flow.protocol as u64;
            let ports = u64::from(flow.ports.0) << 16 | u64::from(flow.ports.1);
            hash = mix(hash ^ mix(protocol << 32 | ports));
        }
        hash
    }

    /// The source address for packets that this host sends on a route.
    pub(crate) fn source(&self, found: &Found, dst: IpAddr) -> Option<IpAddr> {
        if let Some(src) = found.src {
            return Some(src);
        }
        match &found.target {
            Target::Local => Some(dst),
            Target::Out { dev, next } => self.device_source(dev, *next, dst),
            Target::Blackhole | Target::Unreachable => None,
        }
    }

    /// The address of an interface for packets to a neighbour, or some other address of the host.
    pub(crate) fn device_source(&self, dev: &str, next: IpAddr, dst: IpAddr) -> Option<IpAddr> {
        let family = |a: &IpNet| a.addr().is_ipv6() == dst.is_ipv6();
        let own: Vec<IpNet> = self.addresses_on(dev).filter(|a| family(a) && !a.addr().is_loopback()).collect();
        let near = match dst {
            IpAddr::V4(_) => own.iter().find(|a| a.contains(&next)).or(own.first()).copied(),
            IpAddr::V6(_) => own.iter().max_by_key(|a| (common_bits(a.addr(), dst), a.contains(&next))).copied(),
        };
        let elsewhere = || {
            let global = |link: &str| link != "lo" && link != crate::kernel::DUMMY;
            self.addresses.iter().filter(|(l, a)| global(l) && family(a)).map(|(_, a)| *a).next()
        };
        near.or_else(elsewhere).map(|a| a.addr())
    }
}

fn common_bits(a: IpAddr, b: IpAddr) -> u32 {
    match (a, b) {
        (IpAddr::V6(a), IpAddr::V6(b)) => (u128::from(a) ^ u128::from(b)).leading_zeros(),
        (IpAddr::V4(a), IpAddr::V4(b)) => (u32::from(a) ^ u32::from(b)).leading_zeros(),
        _ => 0,
    }
}
