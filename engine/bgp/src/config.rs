//! The configuration plane: ops become live changes.

use alloc::collections::BTreeSet;
use alloc::vec::Vec;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use core::ops::RangeInclusive;

use fairway_desired::bgp::{Direction, Dynamic, Families, Global, Key, Name, Network, Peer, Value};
use fairway_desired::{Bgp, Family, Op, Outcome};
use ipnet::IpNet;

use crate::neighbor::{Neighbor, Settings};
use crate::speaker::Speaker;
use crate::wire::cease;
use crate::{Output, Time};

/// `EINVAL`: the value is not the key's, or not possible.
const INVALID: Outcome = Outcome::Refused(22);

/// All addresses of a family.
pub(crate) const fn addresses(family: Family) -> RangeInclusive<IpAddr> {
    match family {
        Family::V4 => IpAddr::V4(Ipv4Addr::UNSPECIFIED)..=IpAddr::V4(Ipv4Addr::BROADCAST),
        Family::V6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED)..=IpAddr::V6(Ipv6Addr::from_bits(u128::MAX)),
    }
}

/// What policy changes make necessary, collected over all ops of a call: routes see only the final state.
#[derive(Default)]
struct Dirty {
    policies: BTreeSet<Direction>,
    prefixes: BTreeSet<(Name, IpNet)>,
    neighbors: BTreeSet<(Name, IpNet)>,
}

impl Speaker {
    /// Applies configuration, live. A session is reset only where the protocol needs it. Drain [`Speaker::poll`]
    /// afterwards.
    pub fn apply(&mut self, now: Time, ops: &[Op<Bgp>]) -> Vec<Outcome> {
        let mut dirty = Dirty::default();
        let outcomes = ops.iter().map(|op| self.apply_one(now, op, &mut dirty)).collect();
        self.evaluate(&dirty);
        self.settle(now);
        outcomes
    }

    fn apply_one(&mut self, now: Time, op: &Op<Bgp>, dirty: &mut Dirty) -> Outcome {
        let (key, value) = match op {
            Op::Put(key, value) if !valid(key, value) => return INVALID,
            Op::Put(key, value) => (key, Some(value)),
            Op::Del(key) => (key, None),
        };
        let old = match value {
            Some(value) => self.table.insert(key.clone(), value.clone()),
            None => self.table.remove(key),
        };
        if old.as_ref() == value {
            return if value.is_some() { Outcome::Done } else { Outcome::Gone };
        }
        match (key, value) {
            (Key::Global, Some(Value::Global(global))) => self.set_global(now, Some(global)),
            (Key::PrefixMember(set, net), Some(Value::PrefixMember { min, max })) => {
                self.policies.set_prefix(set, *net, Some((*min, *max)));
                dirty.prefixes.insert((set.clone(), *net));
            }
            (Key::NeighborMember(set, net), Some(Value::NeighborMember)) => {
                self.policies.set_neighbor(set, *net, true);
                dirty.neighbors.insert((set.clone(), *net));
            }
            (Key::Policy(direction), Some(Value::Policy(policy))) => {
                self.policies.set_policy(*direction, Some(policy.clone()));
                dirty.policies.insert(*direction);
            }
            (Key::Network(prefix), Some(Value::Network(network))) => {
                self.count_address(old.as_ref(), Some(network));
                self.originate(now, *prefix, Some(network.next_hop));
            }
            (Key::Dynamic(range), Some(Value::Dynamic(dynamic))) => self.set_dynamic(now, *range, Some(dynamic)),
            (Key::Peer(address), Some(Value::Peer(peer))) => self.set_peer(now, *address, Some(peer)),
            (Key::Global, _) => self.set_global(now, None),
            (Key::PrefixMember(set, net), _) => {
                self.policies.set_prefix(set, *net, None);
                dirty.prefixes.insert((set.clone(), *net));
            }
            (Key::NeighborMember(set, net), _) => {
                self.policies.set_neighbor(set, *net, false);
                dirty.neighbors.insert((set.clone(), *net));
            }
            (Key::Policy(direction), _) => {
                self.policies.set_policy(*direction, None);
                dirty.policies.insert(*direction);
            }
            (Key::Network(prefix), _) => {
                self.count_address(old.as_ref(), None);
                self.originate(now, *prefix, None);
            }
            (Key::Dynamic(range), _) => self.set_dynamic(now, *range, None),
            (Key::Peer(address), _) => self.set_peer(now, *address, None),
        }
        Outcome::Done
    }

    /// Evaluates policies again where a change can matter.
    fn evaluate(&mut self, dirty: &Dirty) {
        let peers: Vec<IpAddr> = self.neighbors.iter().filter(|(_, n)| n.session.is_some()).map(|(a, _)| *a).collect();
        for direction in [Direction::Import, Direction::Export] {
            let all = dirty.policies.contains(&direction);
            let prefixes: BTreeSet<IpNet> = dirty
                .prefixes
                .iter()
                .filter(|(set, _)| self.policies.names_prefixes(direction, set))
                .map(|(_, net)| net.trunc())
                .collect();
            let neighbors: Vec<IpNet> = dirty
                .neighbors
                .iter()
                .filter(|(set, _)| self.policies.names_neighbors(direction, set))
                .map(|(_, net)| *net)
                .collect();
            for peer in &peers {
                let again: Vec<Option<IpNet>> = if all || neighbors.iter().any(|net| net.contains(peer)) {
                    alloc::vec![None]
                } else {
                    prefixes.iter().copied().map(Some).collect()
                };
                for inside in again {
                    match direction {
                        Direction::Import => self.import_again(*peer, inside),
                        Direction::Export => self.export_again(*peer, inside),
                    }
                }
            }
        }
    }

    fn set_global(&mut self, now: Time, global: Option<&Global>) {
        let old = core::mem::replace(&mut self.global, global.cloned());
        let identity = |g: &Global| (g.asn, g.router_id);
        if old.as_ref().map(identity) != global.map(identity) {
            let peers: Vec<IpAddr> = self.neighbors.keys().copied().collect();
            let subcode = if global.is_some() { cease::CONFIG_CHANGE } else { cease::DECONFIGURED };
            for peer in peers {
                self.cease(now, peer, subcode);
                if let Some(neighbor) = self.neighbors.get_mut(&peer) {
                    neighbor.retry_at = global.filter(|_| !self.shut_down).map(|_| now);
                }
            }
        }
        if let Some(global) = global {
            if old.as_ref().map(|g| g.port) != Some(global.port) {
                self.outputs.push_back(Output::Listen { port: global.port });
            }
            if old.as_ref().map(|g| g.max_paths) != Some(global.max_paths) {
                self.limit_paths();
            }
        }
    }

    fn set_peer(&mut self, now: Time, address: IpAddr, peer: Option<&Peer>) {
        let Some(peer) = peer else {
            self.cease(now, address, cease::DECONFIGURED);
            self.neighbors.remove(&address);
            return;
        };
        let retry_at = (self.global.is_some() && !self.shut_down).then_some(now);
        let settings = Settings::Peer(peer.clone());
        match self.neighbors.get_mut(&address) {
            Some(neighbor) => {
                // Every field is part of the connection or of the OPEN.
                let same = neighbor.settings == settings;
                if !same {
                    self.cease(now, address, cease::CONFIG_CHANGE);
                    let neighbor = self.neighbors.entry(address).or_insert_with(|| Neighbor::new(settings.clone()));
                    neighbor.settings = settings;
                    neighbor.retry_at = retry_at;
                    neighbor.forget_attempts();
                }
            }
            None => {
                let mut neighbor = Neighbor::new(settings);
                neighbor.retry_at = retry_at;
                self.neighbors.insert(address, neighbor);
            }
        }
    }

    fn set_dynamic(&mut self, now: Time, range: IpNet, dynamic: Option<&Dynamic>) {
        match dynamic {
            Some(dynamic) => self.dynamics.insert(range, dynamic.clone()),
            None => self.dynamics.remove(&range),
        }
        let inside: Vec<IpAddr> =
            self.neighbors.iter().filter(|(a, n)| n.is_dynamic() && range.contains(*a)).map(|(a, _)| *a).collect();
        for address in inside {
            let settings = self.dynamics.covering(IpNet::from(address)).next().map(|(_, d)| d.clone());
            let Some(neighbor) = self.neighbors.get_mut(&address) else { continue };
            let Settings::Dynamic(old) = &neighbor.settings else { continue };
            match settings {
                None => self.cease(now, address, cease::DECONFIGURED),
                Some(new) => {
                    // The AS list is only a gate: whoever passes it now need not be disturbed.
                    let passes = neighbor.session.as_ref().is_none_or(|s| new.asns.contains(&s.asn));
                    if passes && (old.hold_s, old.families) == (new.hold_s, new.families) {
                        neighbor.settings = Settings::Dynamic(new);
                    } else {
                        self.cease(now, address, cease::CONFIG_CHANGE);
                    }
                }
            }
        }
    }

    /// Keeps account of the next hops of our own networks. When one comes first or is gone, sessions of the other
    /// family may need it for what they re-advertise.
    fn count_address(&mut self, old: Option<&Value>, new: Option<&Network>) {
        let first = |s: &Self, family| s.own_addresses.range(addresses(family)).next().map(|(a, _)| *a);
        let before = [first(self, Family::V4), first(self, Family::V6)];
        if let Some(new) = new {
            *self.own_addresses.entry(new.next_hop).or_insert(0usize) += 1;
        }
        if let Some(Value::Network(old)) = old
            && let Some(count) = self.own_addresses.get_mut(&old.next_hop)
        {
            *count -= 1;
            if *count == 0 {
                self.own_addresses.remove(&old.next_hop);
            }
        }
        for (family, before) in [Family::V4, Family::V6].into_iter().zip(before) {
            if before == first(self, family) {
                continue;
            }
            let peers: Vec<IpAddr> = self
                .neighbors
                .iter()
                .filter(|(_, n)| n.session.as_ref().is_some_and(|s| s.carries(family) && Family::of(s.local) != family))
                .map(|(a, _)| *a)
                .collect();
            for peer in peers {
                self.export_again(peer, Some(everything(family)));
            }
        }
    }
}

fn everything(family: Family) -> IpNet {
    match family {
        Family::V4 => IpNet::V4(ipnet::Ipv4Net::default()),
        Family::V6 => IpNet::V6(ipnet::Ipv6Net::default()),
    }
}

/// Whether a value can belong to its key.
fn valid(key: &Key, value: &Value) -> bool {
    let hold = |hold_s: u16| !matches!(hold_s, 1 | 2);
    let some = |f: Families| f.v4 || f.v6;
    match (key, value) {
        (Key::Global, Value::Global(g)) => g.asn != 0 && !g.router_id.is_unspecified() && !g.router_id.is_multicast(),
        (Key::PrefixMember(..), Value::PrefixMember { .. }) | (Key::NeighborMember(..), Value::NeighborMember) => true,
        // AS 0 in a path is malformed everywhere (RFC 7607).
        (Key::Policy(_), Value::Policy(p)) => {
            p.statements.iter().all(|s| s.modify.prepend.is_none_or(|(asn, _)| asn != 0))
        }
        (Key::Network(prefix), Value::Network(n)) => {
            *prefix == prefix.trunc() && Family::of(prefix.addr()) == Family::of(n.next_hop)
        }
        (Key::Dynamic(_), Value::Dynamic(d)) => hold(d.hold_s) && some(d.families),
        (Key::Peer(_), Value::Peer(p)) => p.asn != 0 && hold(p.hold_s) && some(p.families),
        _ => false,
    }
}
