//! Import and export policy over prefix sets and neighbour sets.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::net::IpAddr;

use fairway_desired::bgp::{Community, Direction, Modify, Name, Policy, Statement};
use ipnet::IpNet;

use crate::wire::Attributes;

/// Values by network, found from anything inside the network. A lookup tries the prefix lengths that occur, so its cost
/// does not grow with the number of entries. Two keys may differ in host bits only; both count.
#[derive(Debug)]
pub(crate) struct Nets<V> {
    nets: BTreeMap<IpNet, BTreeMap<IpNet, V>>,
    /// How many networks have each length.
    lengths: BTreeMap<u8, usize>,
}

impl<V> Default for Nets<V> {
    fn default() -> Self {
        Self { nets: BTreeMap::new(), lengths: BTreeMap::new() }
    }
}

impl<V> Nets<V> {
    pub(crate) fn insert(&mut self, net: IpNet, value: V) {
        let same = self.nets.entry(net.trunc()).or_default();
        if same.is_empty() {
            *self.lengths.entry(net.prefix_len()).or_default() += 1;
        }
        same.insert(net, value);
    }

    pub(crate) fn remove(&mut self, net: &IpNet) {
        let Some(same) = self.nets.get_mut(&net.trunc()) else { return };
        same.remove(net);
        if !same.is_empty() {
            return;
        }
        self.nets.remove(&net.trunc());
        if let Some(count) = self.lengths.get_mut(&net.prefix_len()) {
            *count -= 1;
            if *count == 0 {
                self.lengths.remove(&net.prefix_len());
            }
        }
    }

    /// Entries that cover a prefix, the longest network first.
    pub(crate) fn covering(&self, prefix: IpNet) -> impl Iterator<Item = (&IpNet, &V)> {
        self.lengths
            .range(..=prefix.prefix_len())
            .rev()
            .filter_map(move |(len, _)| IpNet::new(prefix.addr(), *len).ok())
            .filter_map(|net| self.nets.get(&net.trunc()))
            .flatten()
    }
}

/// No changes.
const UNCHANGED: &Modify = &Modify {
    prepend: None,
    next_hop_self: false,
    communities: Vec::new(),
    remove_communities: Vec::new(),
    med: None,
    local_pref: None,
};

/// What a policy says of a route.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Verdict<'a> {
    pub(crate) accept: bool,
    pub(crate) modify: &'a Modify,
    /// The statement that decided; `None`: the default did.
    pub(crate) statement: Option<&'a Name>,
    /// Its place in the policy.
    pub(crate) index: Option<usize>,
}

impl Verdict<'_> {
    /// Whether attributes change.
    pub(crate) fn changes(&self) -> bool {
        let m = self.modify;
        m.prepend.is_some()
            || m.med.is_some()
            || m.local_pref.is_some()
            || !m.communities.is_empty()
            || !m.remove_communities.is_empty()
    }
}

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
        if nets.nets.is_empty() {
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
        if nets.nets.is_empty() {
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

    /// Which statements of a direction are about a neighbour.
    pub(crate) fn about(&self, direction: Direction, neighbor: IpAddr) -> Vec<bool> {
        let statements = self.policy(direction).map(|p| p.statements.as_slice()).unwrap_or_default();
        statements
            .iter()
            .map(|s| {
                s.neighbor_set.as_ref().is_none_or(|set| {
                    self.neighbors.get(set).is_some_and(|nets| nets.covering(IpNet::from(neighbor)).next().is_some())
                })
            })
            .collect()
    }

    /// Decides on a route from or to a neighbour. Without a policy everything is accepted.
    pub(crate) fn decide(
        &self,
        direction: Direction,
        about: &[bool],
        prefix: IpNet,
        attributes: &Attributes,
    ) -> Verdict<'_> {
        let Some(policy) = self.policy(direction) else {
            return Verdict { accept: true, modify: UNCHANGED, statement: None, index: None };
        };
        let mut statements = policy.statements.iter().zip(about).enumerate();
        match statements.find(|(_, (s, about))| **about && self.matches(s, prefix, attributes)) {
            Some((i, (s, _))) => {
                Verdict { accept: s.accept, modify: &s.modify, statement: Some(&s.name), index: Some(i) }
            }
            None => Verdict { accept: policy.default_accept, modify: UNCHANGED, statement: None, index: None },
        }
    }

    /// An unknown set is an empty one and matches nothing.
    fn matches(&self, statement: &Statement, prefix: IpNet, attributes: &Attributes) -> bool {
        let len = prefix.prefix_len();
        statement.prefix_set.as_ref().is_none_or(|set| {
            self.prefixes
                .get(set)
                .is_some_and(|nets| nets.covering(prefix).any(|(_, (min, max))| (*min..=*max).contains(&len)))
        }) && (statement.communities.is_empty() || statement.communities.iter().any(|c| has(attributes, *c)))
    }
}

fn has(attributes: &Attributes, community: Community) -> bool {
    match community {
        Community::Standard(c) => attributes.communities.contains(&c),
        Community::Large(c) => attributes.large_communities.contains(&c),
        Community::Extended(c) => attributes.ext_communities.contains(&c),
    }
}

/// Makes the changes of a policy, but for the next hop.
pub(crate) fn modify(attributes: &mut Attributes, modify: &Modify) {
    fn set<T: Copy + PartialEq>(list: &mut Vec<T>, item: T, present: bool) {
        if !present {
            list.retain(|c| *c != item);
        } else if !list.contains(&item) {
            list.push(item);
        }
    }
    if let Some((asn, times)) = modify.prepend {
        attributes.as_path.prepend(asn, times);
    }
    let add = modify.communities.iter().map(|c| (c, true));
    for (community, present) in modify.remove_communities.iter().map(|c| (c, false)).chain(add) {
        match *community {
            Community::Standard(c) => set(&mut attributes.communities, c, present),
            Community::Large(c) => set(&mut attributes.large_communities, c, present),
            Community::Extended(c) => set(&mut attributes.ext_communities, c, present),
        }
    }
    if modify.med.is_some() {
        attributes.med = modify.med;
    }
    if modify.local_pref.is_some() {
        attributes.local_pref = modify.local_pref;
    }
}
