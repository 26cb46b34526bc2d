//! The Loc-RIB and the decision process (RFC 4271 section 9.1).

use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::cmp::{Ordering, Reverse};
use core::net::{IpAddr, Ipv4Addr};
use core::ops::RangeInclusive;

use ipnet::IpNet;

use crate::Time;
use crate::wire::Attributes;

/// LOCAL_PREF where a path has none.
pub(crate) const DEFAULT_LOCAL_PREF: u32 = 100;

/// A route in an Adj-RIB: what came over the wire, or goes over it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Route {
    pub(crate) attributes: Arc<Attributes>,
    pub(crate) next_hop: IpAddr,
    pub(crate) since: Time,
}

/// A path in the Loc-RIB, after import policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Path {
    /// The neighbour it comes from; `None`: our own. One path per source.
    pub(crate) from: Option<IpAddr>,
    pub(crate) ebgp: bool,
    /// The neighbour's BGP identifier.
    pub(crate) router_id: Ipv4Addr,
    pub(crate) attributes: Arc<Attributes>,
    pub(crate) next_hop: IpAddr,
    pub(crate) since: Time,
}

impl Path {
    fn local_pref(&self) -> u32 {
        self.attributes.local_pref.unwrap_or(DEFAULT_LOCAL_PREF)
    }

    /// The steps before MED: own first, LOCAL_PREF, path length, ORIGIN. Smaller is better.
    fn rank(&self) -> impl Ord + use<> {
        let a = &self.attributes;
        (self.from.is_some(), Reverse(self.local_pref()), a.as_path.len(), a.origin)
    }

    /// The steps after MED: eBGP over iBGP, lowest identifier, lowest address.
    fn tie_break(&self) -> impl Ord + use<> {
        (!self.ebgp, self.router_id, self.from)
    }

    /// A missing MED is the lowest (RFC 4271 section 9.1.2.2 c).
    fn med(&self) -> u32 {
        self.attributes.med.unwrap_or(0)
    }

    fn same(&self, other: &Self) -> bool {
        (self.from, self.ebgp, self.router_id, self.next_hop)
            == (other.from, other.ebgp, other.router_id, other.next_hop)
            && self.attributes == other.attributes
    }
}

/// All paths to one prefix.
#[derive(Debug, Default)]
pub(crate) struct Destination {
    /// Best first.
    paths: Vec<Path>,
    /// Which of them are in use. Not always the first few: a path that lost by MED alone may stand between two.
    used: Vec<bool>,
    /// Next hops in use, sorted: what was last told to the driver.
    next_hops: Vec<IpAddr>,
}

impl Destination {
    pub(crate) fn best(&self) -> Option<&Path> {
        self.paths.first()
    }

    /// Paths, best first, and whether each is in use.
    pub(crate) fn paths(&self) -> impl Iterator<Item = (&Path, bool)> {
        self.paths.iter().zip(self.used.iter().copied())
    }

    /// Sorts, and finds the paths in use.
    ///
    /// MED is comparable only between paths from the same neighbour AS, so it gives no order over all paths. Sorted
    /// inside each neighbour AS, then merged by the other steps, the result is what the RFC's elimination gives, and
    /// does not depend on the order of arrival.
    fn decide(&mut self, max_paths: u8) {
        let key = |p: &Path| (p.attributes.as_path.neighbor(), p.from.is_none());
        self.paths.sort_by(|a, b| {
            key(a)
                .cmp(&key(b))
                .then_with(|| a.rank().cmp(&b.rank()))
                .then_with(|| a.med().cmp(&b.med()))
                .then_with(|| a.tie_break().cmp(&b.tie_break()))
        });
        let mut groups: Vec<Vec<Path>> = Vec::new();
        for path in core::mem::take(&mut self.paths) {
            match groups.last_mut() {
                Some(group) if group.first().is_some_and(|p| key(p) == key(&path)) => group.push(path),
                _ => groups.push(alloc::vec![path]),
            }
        }
        // The lowest MED of each neighbour AS among its best-ranked paths; a path that has it survived that step.
        let survivors: Vec<bool> =
            groups.iter().flat_map(|g| g.iter().map(|p| g.first().is_some_and(|f| f.med() == p.med()))).collect();
        let mut heads: Vec<_> = {
            let mut flags = survivors.into_iter();
            groups
                .into_iter()
                .map(|g| g.into_iter().zip(flags.by_ref()).collect::<Vec<_>>().into_iter().peekable())
                .collect()
        };
        let mut used_hops: Vec<IpAddr> = Vec::new();
        self.used.clear();
        let better = |a: &Path, b: &Path| a.rank().cmp(&b.rank()).then_with(|| a.tie_break().cmp(&b.tie_break()));
        loop {
            let mut next: Option<(usize, &Path)> = None;
            for (i, head) in heads.iter_mut().enumerate() {
                if let Some((path, _)) = head.peek()
                    && next.is_none_or(|(_, n)| better(path, n) == Ordering::Less)
                {
                    next = Some((i, path));
                }
            }
            let Some((i, _)) = next else { break };
            let Some((path, survived)) = heads.get_mut(i).and_then(Iterator::next) else { break };
            let equal = survived
                && path.from.is_some()
                && self.paths.first().is_none_or(|best| best.rank() == path.rank() && best.ebgp == path.ebgp);
            let known = used_hops.contains(&path.next_hop);
            let used = self.paths.is_empty() || (equal && (known || used_hops.len() < usize::from(max_paths)));
            if used && !known && path.from.is_some() {
                used_hops.push(path.next_hop);
            }
            self.paths.push(path);
            self.used.push(used);
        }
        used_hops.sort();
        self.next_hops = used_hops;
    }
}

/// What a change to one prefix did.
#[derive(Debug, Default)]
pub(crate) struct Change {
    /// The best path is another, or has other attributes.
    pub(crate) best: bool,
    /// The next hops in use, if they changed.
    pub(crate) next_hops: Option<Vec<IpAddr>>,
    /// The source had a path before.
    pub(crate) had: bool,
}

/// The Loc-RIB.
#[derive(Debug, Default)]
pub(crate) struct Rib {
    destinations: BTreeMap<IpNet, Destination>,
}

impl Rib {
    /// The path of one source becomes this, or goes.
    pub(crate) fn set(&mut self, prefix: IpNet, from: Option<IpAddr>, path: Option<Path>, max_paths: u8) -> Change {
        if path.is_none() && !self.destinations.contains_key(&prefix) {
            return Change::default();
        }
        let destination = self.destinations.entry(prefix).or_default();
        let at = destination.paths.iter().position(|p| p.from == from);
        let old = at.and_then(|at| destination.paths.get(at));
        let had = old.is_some();
        let unchanged = match (old, &path) {
            (Some(old), Some(new)) => old.same(new),
            (None, None) => true,
            _ => false,
        };
        if unchanged {
            return Change { had, ..Change::default() };
        }
        let best = destination.paths.first().cloned();
        let next_hops = destination.next_hops.clone();
        if let Some(at) = at {
            destination.paths.remove(at);
        }
        destination.paths.extend(path);
        destination.decide(max_paths);
        let change = Change {
            best: best != destination.paths.first().cloned(),
            next_hops: (destination.next_hops != next_hops).then(|| destination.next_hops.clone()),
            had,
        };
        if destination.paths.is_empty() {
            self.destinations.remove(&prefix);
        }
        change
    }

    /// Decides everything again, with another limit; returns the prefixes whose next hops in use changed.
    pub(crate) fn set_max_paths(&mut self, max_paths: u8) -> Vec<(IpNet, Vec<IpAddr>)> {
        let mut changed = Vec::new();
        for (prefix, destination) in &mut self.destinations {
            let before = destination.next_hops.clone();
            destination.decide(max_paths);
            if destination.next_hops != before {
                changed.push((*prefix, destination.next_hops.clone()));
            }
        }
        changed
    }

    pub(crate) fn get(&self, prefix: &IpNet) -> Option<&Destination> {
        self.destinations.get(prefix)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&IpNet, &Destination)> {
        self.destinations.iter()
    }

    /// Prefixes inside a network.
    pub(crate) fn inside(&self, net: IpNet) -> impl Iterator<Item = IpNet> {
        self.destinations.range(span(net)).map(|(p, _)| *p).filter(move |p| net.contains(p))
    }
}

/// The range of keys that holds every prefix inside a network.
pub(crate) fn span(net: IpNet) -> RangeInclusive<IpNet> {
    let edge = |address, len| IpNet::new(address, len).unwrap_or(net);
    edge(net.network(), 0)..=edge(net.broadcast(), net.max_prefix_len())
}
