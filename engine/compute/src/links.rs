//! What is on the links of this host, and which learned routes depend on it.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::net::IpAddr;

use fairway_desired::{Interface, Tunnel};
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

    /// Whether an address is in a subnet of ours, whatever the state of the link. While nobody tells of links, every one.
    pub(crate) fn near(&self, hop: IpAddr) -> bool {
        let Some(known) = &self.known else { return true };
        known.values().any(|interface| interface.on_link.iter().any(|net| net.contains(&hop)))
    }

    /// Whether an address is one of ours; `None` while nobody tells.
    pub(crate) fn has(&self, address: IpAddr) -> Option<bool> {
        let known = self.known.as_ref()?;
        Some(known.values().any(|interface| interface.addresses.binary_search(&address).is_ok()))
    }

    /// Largest packet of the interface that has this address. Outer `None`: nobody tells of interfaces, or not of this;
    /// inner: none has it.
    pub(crate) fn mtu(&self, address: IpAddr) -> Option<Option<u32>> {
        let known = self.known.as_ref()?;
        let holder = known.values().find(|interface| interface.addresses.binary_search(&address).is_ok());
        match holder {
            Some(interface) if interface.mtu == 0 => None,
            holder => Some(holder.map(|interface| interface.mtu)),
        }
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

/// How a next hop is reached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Way {
    /// The kernel can send to it directly.
    pub(crate) reached: bool,
    /// What is for it goes through this tunnel instead.
    pub(crate) tunnel: Option<Tunnel>,
}

/// Who depends on a next hop.
#[derive(Clone, Debug)]
struct Hop {
    way: Way,
    prefixes: BTreeSet<IpNet>,
}

/// Next hops of learned routes, so that a change of an interface or of a node touches only routes that depend on it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Hops {
    all: BTreeMap<IpAddr, Hop>,
    /// Which next hops want a tunnel of this name. The lowest has it.
    names: BTreeMap<Arc<str>, BTreeSet<IpAddr>>,
    /// Next hops whose way changed, and whether their tunnel may have.
    touched: BTreeMap<IpAddr, bool>,
}

impl Hops {
    /// A prefix has other next hops.
    pub(crate) fn changed(&mut self, judge: impl Fn(IpAddr) -> Way, prefix: IpNet, old: &[IpAddr], new: &[IpAddr]) {
        for hop in old.iter().filter(|hop| !new.contains(hop)) {
            if let Some(known) = self.all.get_mut(hop) {
                known.prefixes.remove(&prefix);
                if known.prefixes.is_empty() {
                    self.set(*hop, Way::default());
                    self.all.remove(hop);
                }
            }
        }
        for hop in new.iter().filter(|hop| !old.contains(hop)) {
            if !self.all.contains_key(hop) {
                self.all.insert(*hop, Hop { way: Way::default(), prefixes: BTreeSet::new() });
                self.set(*hop, judge(*hop));
            }
            if let Some(known) = self.all.get_mut(hop) {
                known.prefixes.insert(prefix);
            }
        }
    }

    fn set(&mut self, ip: IpAddr, way: Way) {
        let Some(hop) = self.all.get_mut(&ip) else { return };
        let old = core::mem::replace(&mut hop.way, way);
        if old == way {
            return;
        }
        *self.touched.entry(ip).or_default() |= old.tunnel != way.tunnel;
        if old.tunnel.is_some() == way.tunnel.is_some() {
            return;
        }
        // Who has the name, and who had it.
        let name = Tunnel::name(ip);
        let wanting = self.names.entry(name.clone()).or_default();
        self.touched.extend(wanting.iter().map(|other| (*other, true)));
        if way.tunnel.is_some() {
            wanting.insert(ip);
        } else {
            wanting.remove(&ip);
        }
        if wanting.is_empty() {
            self.names.remove(&name);
        }
    }

    /// Whether a next hop of a learned route can be sent to.
    pub(crate) fn reached(&self, hop: IpAddr) -> bool {
        self.all.get(&hop).is_some_and(|hop| hop.way.reached)
    }

    /// The tunnel to a next hop. `Err`: it should have one, but this next hop has the name of it.
    pub(crate) fn tunnel(&self, hop: IpAddr) -> Option<Result<Tunnel, IpAddr>> {
        let tunnel = self.all.get(&hop)?.way.tunnel?;
        match self.names.get(&Tunnel::name(hop)).and_then(BTreeSet::first) {
            Some(first) if *first != hop => Some(Err(*first)),
            _ => Some(Ok(tunnel)),
        }
    }

    /// Every next hop for which there is, or should be, a tunnel.
    pub(crate) fn tunnelled(&self) -> impl Iterator<Item = IpAddr> {
        self.names.values().flatten().copied()
    }

    /// What one next hop depends on changed.
    pub(crate) fn review_one(&mut self, judge: impl Fn(IpAddr) -> Way, ip: IpAddr) {
        if self.all.contains_key(&ip) {
            self.set(ip, judge(ip));
        }
    }

    /// What all next hops depend on changed: interfaces, or an address of ours.
    pub(crate) fn review(&mut self, judge: impl Fn(IpAddr) -> Way) {
        let ways: Vec<(IpAddr, Way)> = self.all.keys().map(|ip| (*ip, judge(*ip))).collect();
        for (ip, way) in ways {
            self.set(ip, way);
        }
    }

    /// Next hops whose way changed since the last call, whether their tunnel may have, and the prefixes behind them.
    pub(crate) fn take_touched(&mut self) -> Vec<(IpAddr, bool, Vec<IpNet>)> {
        let touched = core::mem::take(&mut self.touched);
        touched.into_iter().map(|(ip, tunnel)| (ip, tunnel, self.behind(ip).collect())).collect()
    }

    /// The prefixes behind one next hop.
    pub(crate) fn behind(&self, hop: IpAddr) -> impl Iterator<Item = IpNet> {
        self.all.get(&hop).into_iter().flat_map(|hop| hop.prefixes.iter().copied())
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
