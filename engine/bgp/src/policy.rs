//! Import and export policy over prefix sets and neighbour sets.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::net::IpAddr;

use fairway_desired::bgp::{Direction, Modify, Name, Policy, Statement};
use ipnet::IpNet;

/// Values by network, found from anything inside the network. A lookup walks up the prefix lengths, so its cost does
/// not grow with the number of entries. Two keys may differ in host bits only; both count.
#[derive(Debug)]
pub(crate) struct Nets<V>(BTreeMap<IpNet, BTreeMap<IpNet, V>>);

impl<V> Default for Nets<V> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<V> Nets<V> {
    pub(crate) fn insert(&mut self, net: IpNet, value: V) {
        self.0.entry(net.trunc()).or_default().insert(net, value);
    }

    pub(crate) fn remove(&mut self, net: &IpNet) {
        if let Some(same) = self.0.get_mut(&net.trunc()) {
            same.remove(net);
            if same.is_empty() {
                self.0.remove(&net.trunc());
            }
        }
    }

    /// Entries that cover a prefix, the longest network first.
    pub(crate) fn covering(&self, prefix: IpNet) -> impl Iterator<Item = (&IpNet, &V)> {
        (0..=prefix.prefix_len())
            .rev()
            .filter_map(move |len| IpNet::new(prefix.addr(), len).ok())
            .filter_map(|net| self.0.get(&net.trunc()))
            .flatten()
    }
}

/// No changes.
const UNCHANGED: &Modify = &Modify { prepend: None, next_hop_self: false, communities: Vec::new() };

/// The policies and the sets they name.
#[derive(Debug, Default)]
pub(crate) struct Policies {
    prefixes: BTreeMap<Name, Nets<(u8, u8)>>,
    neighbors: BTreeMap<Name, Nets<()>>,
    import: Option<Policy>,
    export: Option<Policy>,
}

impl Policies {
    pub(crate) fn set_policy(&mut self, direction: Direction, policy: Option<Policy>) {
        match direction {
            Direction::Import => self.import = policy,
            Direction::Export => self.export = policy,
        }
    }

    pub(crate) fn set_prefix(&mut self, set: &Name, member: IpNet, lengths: Option<(u8, u8)>) {
        let nets = self.prefixes.entry(set.clone()).or_default();
        match lengths {
            Some(lengths) => nets.insert(member, lengths),
            None => nets.remove(&member),
        }
        if nets.0.is_empty() {
            self.prefixes.remove(set);
        }
    }

    pub(crate) fn set_neighbor(&mut self, set: &Name, member: IpNet, present: bool) {
        let nets = self.neighbors.entry(set.clone()).or_default();
        if present {
            nets.insert(member, ());
        } else {
            nets.remove(&member);
        }
        if nets.0.is_empty() {
            self.neighbors.remove(set);
        }
    }

    const fn policy(&self, direction: Direction) -> Option<&Policy> {
        match direction {
            Direction::Import => self.import.as_ref(),
            Direction::Export => self.export.as_ref(),
        }
    }

    /// Whether a change of this prefix set can change a decision.
    pub(crate) fn names_prefixes(&self, direction: Direction, set: &Name) -> bool {
        self.policy(direction).is_some_and(|p| p.statements.iter().any(|s| s.prefix_set.as_ref() == Some(set)))
    }

    /// Whether a change of this neighbour set can change a decision.
    pub(crate) fn names_neighbors(&self, direction: Direction, set: &Name) -> bool {
        self.policy(direction).is_some_and(|p| p.statements.iter().any(|s| s.neighbor_set.as_ref() == Some(set)))
    }

    /// The changes to make on a route, or `None`: rejected. Without a policy everything is accepted.
    pub(crate) fn decide(&self, direction: Direction, prefix: IpNet, neighbor: IpAddr) -> Option<&Modify> {
        let Some(policy) = self.policy(direction) else { return Some(UNCHANGED) };
        match policy.statements.iter().find(|s| self.matches(s, prefix, neighbor)) {
            Some(statement) => statement.accept.then_some(&statement.modify),
            None => policy.default_accept.then_some(UNCHANGED),
        }
    }

    /// An unknown set is an empty one and matches nothing.
    fn matches(&self, statement: &Statement, prefix: IpNet, neighbor: IpAddr) -> bool {
        let len = prefix.prefix_len();
        statement.neighbor_set.as_ref().is_none_or(|set| {
            self.neighbors.get(set).is_some_and(|nets| nets.covering(IpNet::from(neighbor)).next().is_some())
        }) && statement.prefix_set.as_ref().is_none_or(|set| {
            self.prefixes
                .get(set)
                .is_some_and(|nets| nets.covering(prefix).any(|(_, (min, max))| (*min..=*max).contains(&len)))
        })
    }
}
