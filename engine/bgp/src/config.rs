//! The configuration plane: ops become live changes.

use alloc::collections::BTreeSet;
use alloc::string::String;
use alloc::vec::Vec;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use core::ops::RangeInclusive;

use fairway_desired::bgp::{Direction, Distance, Dynamic, Families, Global, Key, Name, Network, Peer, Session, Value};
use fairway_desired::{Bgp, Family, Op, Outcome};
use ipnet::IpNet;

use crate::export::Group;
use crate::neighbor::{Settings, same_opening};
use crate::speaker::Speaker;
use crate::wire::{Notification, cease, code};
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

/// What changes make necessary, collected over all ops of a call: routes see only the final state, and nothing is said
/// or learned that only an intermediate one allows.
#[derive(Default)]
struct Dirty {
    policies: BTreeSet<Direction>,
    prefixes: BTreeSet<(Name, IpNet)>,
    neighbors: BTreeSet<(Name, IpNet)>,
    /// Neighbours whose settings changed under a session that stands.
    settings: BTreeSet<IpAddr>,
}

impl Speaker {
    /// Applies configuration, live. A session is reset only where the protocol needs it. Drain [`Speaker::poll`]
    /// afterwards.
    pub fn apply(&mut self, now: Time, ops: &[Op<Bgp>]) -> Vec<Outcome> {
        let mut dirty = Dirty::default();
        let outcomes = ops.iter().map(|op| self.apply_one(now, op, &mut dirty)).collect();
        // Whatever changed, export may depend on it.
        self.groups.iter_mut().flatten().for_each(Group::forget_rewrites);
        self.evaluate(now, &dirty);
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
            Some(value) => self.config.insert(key.clone(), value.clone()),
            None => self.config.remove(key),
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
            (Key::Dynamic(range), Some(Value::Dynamic(dynamic))) => self.set_dynamic(now, *range, Some(dynamic), dirty),
            (Key::Peer(address), Some(Value::Peer(peer))) => self.set_peer(now, *address, Some(peer), dirty),
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
            (Key::Dynamic(range), _) => self.set_dynamic(now, *range, None, dirty),
            (Key::Peer(address), _) => self.set_peer(now, *address, None, dirty),
        }
        Outcome::Done
    }

    /// Evaluates again what a change can matter to: first what comes in, then what leaves.
    fn evaluate(&mut self, now: Time, dirty: &Dirty) {
        for peer in &dirty.settings {
            self.settings_changed(*peer);
        }
        let peers: Vec<IpAddr> = self.neighbors.iter().filter(|(_, n)| n.session.is_some()).map(|(a, _)| *a).collect();
        let about = |s: &Self, direction, peer: &IpAddr| {
            let named = |(set, net): &(Name, IpNet)| net.contains(peer) && s.policies.names_neighbors(direction, set);
            dirty.policies.contains(&direction) || dirty.neighbors.iter().any(named)
        };
        let prefixes = |s: &Self, direction| -> BTreeSet<IpNet> {
            let named = dirty.prefixes.iter().filter(|(set, _)| s.policies.names_prefixes(direction, set));
            named.map(|(_, net)| net.trunc()).collect()
        };
        let inward = prefixes(self, Direction::Import);
        for peer in &peers {
            if about(self, Direction::Import, peer) {
                self.reread_import(*peer);
                self.import_again(*peer, None);
            } else if dirty.settings.contains(peer) {
                self.import_again(*peer, None);
            } else {
                for net in &inward {
                    self.import_again(*peer, Some(*net));
                }
            }
        }
        // Whether a route may be reflected depends on where it comes from.
        if dirty.policies.contains(&Direction::Export) || !dirty.settings.is_empty() {
            self.export_again(None);
        }
        for net in prefixes(self, Direction::Export) {
            self.export_again(Some(net));
        }
        // Who moves to another group is told the difference at once, so what the groups have must be right by now.
        for peer in &peers {
            if dirty.settings.contains(peer) || about(self, Direction::Export, peer) {
                self.regroup(now, *peer);
            }
        }
        // Another limit may already be passed.
        for peer in &dirty.settings {
            self.limit(now, *peer);
        }
    }

    /// Settings changed under a session that stands.
    fn settings_changed(&mut self, peer: IpAddr) {
        let Some(neighbor) = self.touch(peer) else { return };
        let (source, client) = (neighbor.source, neighbor.settings.session().reflector_client);
        if let Some(session) = neighbor.session.clone() {
            self.describe_source(source, &session, client);
        }
    }

    fn set_global(&mut self, now: Time, global: Option<&Global>) {
        let old = core::mem::replace(&mut self.global, global.cloned());
        let identity = |g: &Global| (g.asn, g.router_id);
        if old.as_ref().map(identity) != global.map(identity) {
            let peers: Vec<IpAddr> = self.neighbors.keys().copied().collect();
            let subcode = if global.is_some() { cease::CONFIG_CHANGE } else { cease::DECONFIGURED };
            let running = global.is_some() && !self.shut_down;
            for peer in peers {
                self.cease(now, peer, &Notification::new(code::CEASE, subcode));
                if let Some(neighbor) = self.touch(peer) {
                    neighbor.retry_at = (running && neighbor.dials()).then_some(now);
                }
            }
        }
        let Some(global) = global else { return };
        // A speaker that lost its configuration for a while goes on listening, and refuses.
        if self.listening != Some(global.port) {
            self.listening = Some(global.port);
            self.outputs.push_back(Output::Listen { port: global.port });
        }
        let multipath = |g: &Global| (g.max_paths, g.multipath_relax);
        if old.as_ref().map(multipath) != Some(multipath(global)) {
            self.limit_paths();
        }
        let said = |g: &Global| (g.cluster_id, g.graceful_shutdown);
        if old.as_ref().map(said) != Some(said(global)) {
            let peers: Vec<IpAddr> = self.neighbors.keys().copied().collect();
            for peer in peers {
                self.import_again(peer, None);
            }
            self.export_again(None);
        }
    }

    /// Whoever connects in the name of a neighbour must know its password, too.
    fn set_password(&mut self, address: IpAddr, password: Option<&String>) {
        let old = match self.neighbors.get(&address).map(|n| &n.settings) {
            Some(Settings::Peer(old)) => old.password.as_ref(),
            Some(Settings::Dynamic(_)) | None => None,
        };
        if old != password {
            self.outputs.push_back(Output::Password { peer: address, password: password.cloned() });
        }
    }

    fn set_peer(&mut self, now: Time, address: IpAddr, peer: Option<&Peer>, dirty: &mut Dirty) {
        self.set_password(address, peer.and_then(|p| p.password.as_ref()));
        let Some(peer) = peer else {
            self.cease(now, address, &Notification::new(code::CEASE, cease::DECONFIGURED));
            self.forget_neighbor(address);
            return;
        };
        let running = self.global.is_some() && !self.shut_down;
        let settings = Settings::Peer(peer.clone());
        let Some(neighbor) = self.touch(address) else {
            let neighbor = self.add_neighbor(address, settings);
            neighbor.retry_at = (running && neighbor.dials()).then_some(now);
            return;
        };
        if neighbor.settings == settings {
            return;
        }
        if neighbor.session.is_some() && neighbor.settings.can_become(&settings) {
            neighbor.settings = settings;
            dirty.settings.insert(address);
            return;
        }
        self.cease(now, address, &Notification::new(code::CEASE, cease::CONFIG_CHANGE));
        if !self.neighbors.contains_key(&address) {
            self.add_neighbor(address, settings.clone());
        }
        let Some(neighbor) = self.touch(address) else { return };
        neighbor.settings = settings;
        neighbor.locked = None;
        neighbor.retry_at = (running && neighbor.dials()).then_some(now);
        neighbor.forget_attempts();
    }

    fn set_dynamic(&mut self, now: Time, range: IpNet, dynamic: Option<&Dynamic>, dirty: &mut Dirty) {
        match dynamic {
            Some(dynamic) => self.dynamics.insert(range, dynamic.clone()),
            None => self.dynamics.remove(&range),
        }
        let inside: Vec<IpAddr> =
            self.neighbors.iter().filter(|(a, n)| n.is_dynamic() && range.contains(*a)).map(|(a, _)| *a).collect();
        for address in inside {
            let settings = self.dynamics.covering(IpNet::from(address)).next().map(|(_, d)| d.clone());
            let Some(neighbor) = self.touch(address) else { continue };
            let Settings::Dynamic(old) = &neighbor.settings else { continue };
            match settings {
                None => self.cease(now, address, &Notification::new(code::CEASE, cease::DECONFIGURED)),
                Some(new) => {
                    // The AS list is only a gate: whoever passes it now need not be disturbed.
                    let passes =
                        neighbor.session.as_ref().is_none_or(|s| new.asns.is_empty() || new.asns.contains(&s.asn));
                    if passes && same_opening(&old.session, &new.session) {
                        neighbor.settings = Settings::Dynamic(new);
                        dirty.settings.insert(address);
                    } else {
                        self.cease(now, address, &Notification::new(code::CEASE, cease::CONFIG_CHANGE));
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
            self.export_again(Some(everything(family)));
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
    let session = |s: &Session| {
        hold(s.hold_s)
            && some(s.families)
            && s.local_as != Some(0)
            && s.graceful_restart.is_none_or(|g| g.time_s <= 4095)
            && !matches!(s.distance, Distance::Multihop(0) | Distance::Security(0))
    };
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
        (Key::Dynamic(_), Value::Dynamic(d)) => session(&d.session),
        (Key::Peer(_), Value::Peer(p)) => session(&p.session),
        _ => false,
    }
}
