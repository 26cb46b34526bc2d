//! What is on the links of this host, and which learned routes depend on it.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::net::IpAddr;

use fairway_desired::Interface;
use ipnet::IpNet;

/// Interfaces by name.
pub(crate) type Interfaces = BTreeMap<Arc<str>, Interface>;

/// The interfaces, as the kernel told of them last.
#[derive(Clone, Debug, Default)]
pub(crate) struct Links {
    /// `None`: nobody tells, so everything counts as on a link that works.
    known: Option<Interfaces>,
    /// Prefixes that an interface had when it was set down. IPv6 takes the addresses of such an interface away, but
    /// whoever was on its link is still nowhere else.
    kept: BTreeMap<Arc<str>, Vec<IpNet>>,
}

fn works(interface: &Interface) -> bool {
    interface.up && interface.carrier
}

impl Links {
    pub(crate) fn new(known: Option<Interfaces>) -> Self {
        Links { known, kept: BTreeMap::new() }
    }

    /// Addresses of the host at which others reach it, sorted: those of interfaces that are not made for pods and
    /// services (by their names, as for kube-router), not of loopback, and not of one link only.
    pub(crate) fn own_addresses(&self) -> BTreeSet<IpAddr> {
        let ours = |name: &str| ["dummy", "kube", "docker"].iter().any(|part| name.contains(part));
        let link_local = |address: &IpAddr| match address {
            IpAddr::V4(address) => address.is_link_local(),
            IpAddr::V6(address) => address.is_unicast_link_local(),
        };
        let known = self.known.iter().flatten().filter(|(name, _)| !ours(name));
        let addresses = known.flat_map(|(_, interface)| interface.addresses.iter().copied());
        addresses.filter(|address| !address.is_loopback() && !link_local(address)).collect()
    }

    /// One interface is like this now. If it was set down, returns the prefixes on its link: the kernel dropped the
    /// routes through it by itself.
    pub(crate) fn set(&mut self, name: &Arc<str>, now: Option<Interface>) -> Vec<IpNet> {
        let known = self.known.get_or_insert_default();
        let up = now.as_ref().map(|now| now.up);
        let old = match now {
            Some(now) => known.insert(name.clone(), now),
            None => known.remove(name),
        };
        match (old, up) {
            (_, Some(true)) => drop(self.kept.remove(name)),
            (Some(old), Some(false)) if old.up => {
                self.kept.insert(name.clone(), old.on_link.clone());
                return old.on_link;
            }
            _ => {}
        }
        Vec::new()
    }

    /// These are all interfaces. Returns what [`Links::set`] does.
    pub(crate) fn replace(&mut self, all: Interfaces) -> Vec<IpNet> {
        let known = self.known.get_or_insert_default();
        let gone: Vec<Arc<str>> = known.keys().filter(|name| !all.contains_key(*name)).cloned().collect();
        let mut dropped = Vec::new();
        for name in gone {
            dropped.extend(self.set(&name, None));
        }
        for (name, interface) in all {
            dropped.extend(self.set(&name, Some(interface)));
        }
        dropped
    }

    /// Whether the kernel can send to a next hop directly. A link-local one has no meaning without an interface, and
    /// BGP names none.
    pub(crate) fn reaches(&self, hop: IpAddr) -> bool {
        let Some(known) = &self.known else { return true };
        let own = known.values().any(|interface| interface.addresses.binary_search(&hop).is_ok());
        let link_local = matches!(hop, IpAddr::V6(ip) if ip.is_unicast_link_local());
        let near = |interface: &Interface| works(interface) && interface.on_link.iter().any(|net| net.contains(&hop));
        !own && !link_local && known.values().any(near)
    }

    /// The prefixes on links, and whether the link works; what a link that was set down had counts too.
    pub(crate) fn on_link(&self) -> Vec<(IpNet, bool)> {
        let known = self.known.iter().flatten();
        let now = known.flat_map(|(_, interface)| interface.on_link.iter().map(|net| (*net, works(interface))));
        let mut all: Vec<(IpNet, bool)> = now.chain(self.kept.values().flatten().map(|net| (*net, false))).collect();
        all.sort_unstable();
        all.dedup();
        all
    }
}

/// Who depends on a next hop.
#[derive(Clone, Debug)]
struct Hop {
    reached: bool,
    prefixes: BTreeSet<IpNet>,
}

/// Next hops of learned routes, so that a change of an interface touches only routes that depend on it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Hops {
    all: BTreeMap<IpAddr, Hop>,
}

impl Hops {
    /// A prefix has other next hops.
    pub(crate) fn changed(&mut self, links: &Links, prefix: IpNet, old: &[IpAddr], new: &[IpAddr]) {
        for hop in old.iter().filter(|hop| !new.contains(hop)) {
            if let Some(known) = self.all.get_mut(hop) {
                known.prefixes.remove(&prefix);
                if known.prefixes.is_empty() {
                    self.all.remove(hop);
                }
            }
        }
        for hop in new.iter().filter(|hop| !old.contains(hop)) {
            let new = || Hop { reached: links.reaches(*hop), prefixes: BTreeSet::new() };
            self.all.entry(*hop).or_insert_with(new).prefixes.insert(prefix);
        }
    }

    /// Whether a next hop of a learned route can be sent to.
    pub(crate) fn reached(&self, hop: IpAddr) -> bool {
        self.all.get(&hop).is_some_and(|hop| hop.reached)
    }

    /// After a change of interfaces: the prefixes of next hops that are reached now and were not, or the other way.
    pub(crate) fn review(&mut self, links: &Links) -> Vec<IpNet> {
        let mut changed = Vec::new();
        for (ip, hop) in &mut self.all {
            let reached = links.reaches(*ip);
            if reached != hop.reached {
                hop.reached = reached;
                changed.extend(hop.prefixes.iter().copied());
            }
        }
        changed
    }

    /// The prefixes of next hops inside these networks.
    pub(crate) fn through(&self, networks: &[IpNet]) -> Vec<IpNet> {
        let mut prefixes = Vec::new();
        for network in networks {
            let hops = self.all.range(network.network()..=network.broadcast());
            prefixes.extend(hops.flat_map(|(_, hop)| hop.prefixes.iter().copied()));
        }
        prefixes
    }
}
