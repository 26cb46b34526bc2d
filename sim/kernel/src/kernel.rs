//! The network state of one host, and how it is configured.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

use fairway_desired::{
    Family, FileValue, Interface, LOCAL_TABLE, MAIN_TABLE, NextHop, PROTO_KERNEL, PlaneId, RouteKey, RouteKind,
    RouteValue, RuleKey, RuleValue, Tunnel,
};
use ipnet::IpNet;

use crate::conntrack::Conntrack;
use crate::filter::Ruleset;
use crate::ipvs::{Ipvs, Timeouts};
use crate::types::{HostId, LanId};

/// The interface that carries service addresses; ours.
pub(crate) const DUMMY: &str = "kube-dummy-if";
/// The bridge of the pods; ours, too.
pub(crate) const BRIDGE: &str = "kube-bridge";
/// What a wire and a bridge carry, octets.
const MTU: u32 = 1500;
const LOOPBACK_MTU: u32 = 65536;
/// `ETH_MIN_MTU` and `ETH_MAX_MTU`
pub(crate) const MTUS: std::ops::RangeInclusive<u32> = 68..=65535;
pub(crate) const ENOENT: i32 = 2;
pub(crate) const ESRCH: i32 = 3;
pub(crate) const EBUSY: i32 = 16;
pub(crate) const EEXIST: i32 = 17;
pub(crate) const ENODEV: i32 = 19;
pub(crate) const EINVAL: i32 = 22;
pub(crate) const ENETDOWN: i32 = 100;
pub(crate) const ENETUNREACH: i32 = 101;
pub(crate) const EHOSTUNREACH: i32 = 113;
/// Metric of IPv6 routes that the kernel makes.
const V6_KERNEL_METRIC: u32 = 256;
const DEFAULT_TABLE: u32 = 253;

/// Every sysctl we know, with its value at boot.
const SYSCTLS: [(&str, i64); 17] = [
    ("ipvs/timeout-tcp", 900),
    ("ipvs/timeout-tcpfin", 120),
    ("ipvs/timeout-udp", 300),
    ("net/bridge/bridge-nf-call-ip6tables", 0),
    ("net/bridge/bridge-nf-call-iptables", 0),
    ("net/ipv4/conf/all/arp_announce", 0),
    ("net/ipv4/conf/all/arp_ignore", 0),
    ("net/ipv4/conf/all/rp_filter", 0),
    ("net/ipv4/fib_multipath_hash_policy", 0),
    ("net/ipv4/ip_forward", 0),
    ("net/ipv4/vs/conntrack", 0),
    ("net/ipv4/vs/expire_nodest_conn", 0),
    ("net/ipv4/vs/expire_quiescent_template", 0),
    ("net/ipv4/vs/sloppy_tcp", 0),
    ("net/ipv6/conf/all/disable_ipv6", 0),
    ("net/ipv6/conf/all/forwarding", 0),
    ("net/ipv6/fib_multipath_hash_policy", 0),
];

/// A sysctl by its place in [`SYSCTLS`]: every packet asks for several, so they are not looked up by name.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Switch {
    TimeoutTcp,
    TimeoutFin,
    TimeoutUdp,
    BridgeV6,
    BridgeV4,
    #[expect(dead_code, reason = "accepted and observed, without effect")]
    ArpAnnounce,
    ArpIgnore,
    RpFilter,
    HashPolicyV4,
    ForwardV4,
    VsConntrack,
    VsExpireNodest,
    VsExpireQuiescent,
    VsSloppyTcp,
    #[expect(dead_code, reason = "accepted and observed, without effect")]
    DisableV6,
    ForwardV6,
    HashPolicyV6,
}

/// Failures that a scenario injects into calls of [`fairway_desired::Backend`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Injected {
    /// `observe` fails with `Fault::Interrupted`; `apply` is not affected.
    Interrupted,
    /// `observe` and `apply` fail with `Fault::Lost`; of an `apply` the first half was done.
    Lost,
    /// `apply` answers `Busy` for every op; `observe` is not affected.
    Busy,
}

/// What an interface is joined to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Wire {
    Loopback,
    Lan(LanId),
    Veth(HostId, Arc<str>),
    Bridge,
    Dummy,
    /// `ipip` or `ip6tnl` without a fixed peer: takes every tunnelled packet to this host.
    Tunnel,
    /// `ipip` or `ip6tnl` between two hosts.
    PointToPoint(Tunnel),
}

#[derive(Clone, Debug)]
pub(crate) struct LinkState {
    pub(crate) wire: Wire,
    pub(crate) up: bool,
    /// The bridge it is a port of.
    pub(crate) master: Option<Arc<str>>,
    pub(crate) hairpin: bool,
    /// The cable is cut; the kernel does not notice.
    pub(crate) cut: bool,
    /// The kernel sees that there is something at the other end.
    pub(crate) carrier: bool,
    /// Largest packet. Packets here have no length, so it has no effect.
    pub(crate) mtu: u32,
    /// An agent put the interface without an MTU, so that it is nobody's.
    pub(crate) mtu_free: bool,
}

impl LinkState {
    /// Whether frames get through.
    pub(crate) fn passes(&self) -> bool {
        self.up && self.carrier && !self.cut
    }
}

/// A route with the output interface of each next hop.
#[derive(Clone, Debug)]
pub(crate) struct Stored {
    pub(crate) value: RouteValue,
    pub(crate) devs: Vec<Arc<str>>,
    /// Which of them were set down since (`RTNH_F_DEAD`).
    pub(crate) dead: Vec<bool>,
}

/// The network state of one host.
#[derive(Clone, Debug)]
pub struct Kernel {
    pub(crate) now: Duration,
    pub(crate) seed: u64,
    pub(crate) rng: oorandom::Rand64,
    pub(crate) links: BTreeMap<Arc<str>, LinkState>,
    /// In the order they were added; the first of an interface and family is its primary address.
    pub(crate) addresses: Vec<(Arc<str>, IpNet)>,
    /// Which interfaces have an address.
    pub(crate) owners: BTreeMap<IpAddr, Vec<Arc<str>>>,
    /// UDP ports that take packets out of GUE.
    pub(crate) ports: BTreeSet<(Family, u16)>,
    pub(crate) rules: BTreeMap<RuleKey, RuleValue>,
    pub(crate) routes: BTreeMap<RouteKey, Stored>,
    /// How many routes of each length a table and family has.
    pub(crate) lengths: BTreeMap<(u32, Family), BTreeMap<u8, usize>>,
    /// In the order of [`SYSCTLS`].
    sysctls: [i64; SYSCTLS.len()],
    pub(crate) filter: Ruleset,
    pub(crate) conntrack: Conntrack,
    pub(crate) ipvs: Ipvs,
    /// CNI configurations, as far as they are an agent's.
    pub(crate) files: BTreeMap<Arc<str>, FileValue>,
    pub(crate) injected: BTreeMap<PlaneId, Vec<(Injected, u32)>>,
    pub(crate) mutations: BTreeMap<PlaneId, u64>,
}

impl Kernel {
    /// A kernel that just booted: loopback, default rules, sysctls at their defaults.
    pub(crate) fn new(seed: u64) -> Self {
        let mut kernel = Kernel {
            now: Duration::ZERO,
            seed,
            rng: oorandom::Rand64::new(u128::from(seed)),
            links: BTreeMap::new(),
            addresses: vec![],
            owners: BTreeMap::new(),
            ports: BTreeSet::new(),
            rules: BTreeMap::new(),
            routes: BTreeMap::new(),
            lengths: BTreeMap::new(),
            sysctls: SYSCTLS.map(|(_, value)| value),
            filter: Ruleset::default(),
            conntrack: Conntrack::default(),
            ipvs: Ipvs::default(),
            files: BTreeMap::new(),
            injected: BTreeMap::new(),
            mutations: BTreeMap::new(),
        };
        for family in [Family::V4, Family::V6] {
            for (priority, table) in [(0, LOCAL_TABLE), (32766, MAIN_TABLE), (32767, DEFAULT_TABLE)] {
                if family == Family::V4 || table != DEFAULT_TABLE {
                    let key = RuleKey { family, priority, from: None, to: None, mark: None };
                    kernel.rules.insert(key, RuleValue { table });
                }
            }
        }
        kernel.add_link("lo", Wire::Loopback);
        if let Ok(v4) = IpNet::new(Ipv4Addr::LOCALHOST.into(), 8) {
            kernel.add_address("lo", v4);
        }
        kernel.add_address("lo", IpAddr::from(Ipv6Addr::LOCALHOST).into());
        kernel
    }

    pub(crate) fn add_link(&mut self, name: &str, wire: Wire) {
        let mtu = if wire == Wire::Loopback { LOOPBACK_MTU } else { MTU };
        let (up, carrier) = (true, true);
        let state = LinkState { wire, up, master: None, hairpin: false, cut: false, carrier, mtu, mtu_free: false };
        self.links.insert(name.into(), state);
    }

    /// Makes a bridge without ports; it is up. Nothing happens if an interface of this name exists.
    pub fn add_bridge(&mut self, name: &str) {
        if !self.links.contains_key(name) {
            self.add_link(name, Wire::Bridge);
        }
    }

    /// Makes an interface that unwraps IPIP (and IPv6-in-IPv6) packets to this host, as `tunl0` does. Nothing happens
    /// if an interface of this name exists.
    pub fn add_tunnel(&mut self, name: &str) {
        if !self.links.contains_key(name) {
            self.add_link(name, Wire::Tunnel);
        }
    }

    /// Makes a tunnel to another host, as an operator or kube-router does; it is up.
    ///
    /// # Errors
    /// `EEXIST` if the name or the pair of ends is taken, `EINVAL` for ends that cannot be.
    pub fn add_tunnel_to(&mut self, name: &str, tunnel: Tunnel) -> Result<(), i32> {
        if !tunnel.is_possible() || name.is_empty() || name.len() > 15 {
            return Err(EINVAL);
        }
        if self.links.contains_key(name) || self.tunnel_between(tunnel.local, tunnel.remote).is_some() {
            return Err(EEXIST);
        }
        self.add_link(name, Wire::PointToPoint(tunnel));
        Ok(())
    }

    /// The tunnel that joins two addresses: Linux permits one.
    pub(crate) fn tunnel_between(&self, local: IpAddr, remote: IpAddr) -> Option<Arc<str>> {
        let joins = |wire: &Wire| matches!(wire, Wire::PointToPoint(t) if (t.local, t.remote) == (local, remote));
        self.links.iter().find(|(_, link)| joins(&link.wire)).map(|(name, _)| name.clone())
    }

    /// Gives an interface another name; false if there is none, or the name is taken.
    pub fn rename_link(&mut self, old: &str, new: &str) -> bool {
        let possible = self.links.contains_key(old) && !self.links.contains_key(new);
        if possible {
            self.rename(old, &new.into());
        }
        possible
    }

    /// Gives an interface another name. Addresses and routes are the interface's, and stay.
    pub(crate) fn rename(&mut self, old: &str, new: &Arc<str>) {
        let Some(link) = self.links.remove(old) else { return };
        self.links.insert(new.clone(), link);
        let owners = self.owners.values_mut().flatten();
        let routes = self.routes.values_mut();
        let devs = routes.flat_map(|route| {
            let hops = route.value.next_hops.iter_mut().filter_map(|hop| hop.dev.as_mut());
            hops.chain(&mut route.devs)
        });
        let masters = self.links.values_mut().filter_map(|link| link.master.as_mut());
        let all = owners.chain(devs).chain(masters).chain(self.addresses.iter_mut().map(|(link, _)| link));
        for name in all.filter(|name| ***name == *old) {
            *name = new.clone();
        }
    }

    /// Makes an interface a port of a bridge. Nothing happens if one of them does not exist.
    pub fn enslave(&mut self, port: &str, bridge: &str, hairpin: bool) {
        let is_bridge = self.links.get(bridge).is_some_and(|l| l.wire == Wire::Bridge);
        if let Some(link) = self.links.get_mut(port)
            && is_bridge
            && port != bridge
        {
            link.master = Some(bridge.into());
            link.hairpin = hairpin;
        }
    }

    /// Sets an interface up or down. An interface that goes down loses its IPv6 addresses, and routes that have no
    /// other way are gone; those with one keep a next hop that is dead until it is up again.
    pub fn set_up(&mut self, link: &str, up: bool) {
        let Some(state) = self.links.get_mut(link) else { return };
        if state.up == up {
            return;
        }
        state.up = up;
        let own: Vec<IpNet> = self.addresses_on(link).collect();
        if up {
            for address in own {
                self.add_connected(link, address);
            }
            return self.revive(link);
        }
        for address in own.into_iter().filter(|address| address.addr().is_ipv6()) {
            self.remove_address(link, address);
        }
        let mut gone = vec![];
        for (key, route) in self.routes.iter_mut().filter(|(_, route)| route.value.kind != RouteKind::Local) {
            let mut through = false;
            for (dead, _) in route.dead.iter_mut().zip(&route.devs).filter(|(_, dev)| ***dev == *link) {
                *dead = true;
                through = true;
            }
            if through && !route.dead.contains(&false) {
                gone.push(key.clone());
            }
        }
        for key in gone {
            self.unstore(&key);
        }
    }

    /// Next hops through an interface that is up again. IPv6 waits for the carrier.
    fn revive(&mut self, link: &str) {
        let Some((up, carrier)) = self.links.get(link).map(|state| (state.up, state.carrier)) else { return };
        for (key, route) in self.routes.iter_mut().filter(|(_, route)| route.dead.contains(&true)) {
            if up && (carrier || key.prefix.addr().is_ipv4()) {
                for (dead, _) in route.dead.iter_mut().zip(&route.devs).filter(|(_, dev)| ***dev == *link) {
                    *dead = false;
                }
            }
        }
    }

    /// Sets the largest packet of an interface, octets, as somebody else than an agent does.
    pub fn set_mtu(&mut self, link: &str, mtu: u32) {
        if let Some(state) = self.links.get_mut(link) {
            state.mtu = mtu;
        }
    }

    /// The largest packet of an interface, octets.
    pub fn mtu(&self, link: &str) -> Option<u32> {
        self.links.get(link).map(|state| state.mtu)
    }

    /// Whether there is something at the other end of an interface. Without it routes stay, and lead nowhere.
    pub fn set_carrier(&mut self, link: &str, carrier: bool) {
        if let Some(state) = self.links.get_mut(link) {
            state.carrier = carrier;
            self.revive(link);
        }
    }

    /// The interfaces that have addresses, or are down, as an agent is told of them: all but `kube-dummy-if`.
    pub fn interfaces(&self) -> BTreeMap<Arc<str>, Interface> {
        let mut all = BTreeMap::new();
        for (name, link) in self.links.iter().filter(|(name, _)| ***name != *DUMMY) {
            let mut addresses: Vec<IpAddr> = self.addresses_on(name).map(|a| a.addr()).collect();
            let mut on_link: Vec<IpNet> = self.addresses_on(name).map(|a| a.trunc()).collect();
            addresses.sort();
            on_link.sort();
            on_link.dedup();
            if !addresses.is_empty() || !link.up {
                let carrier = link.up && link.carrier;
                all.insert(name.clone(), Interface { up: link.up, carrier, mtu: link.mtu, addresses, on_link });
            }
        }
        all
    }

    /// Adds an address, with its local and connected routes. Nothing happens if the interface does not exist or has it.
    pub fn add_address(&mut self, link: &str, address: IpNet) {
        let Some((name, state)) = self.links.get_key_value(link) else { return };
        let (name, up) = (name.clone(), state.up);
        if self.addresses.iter().any(|(l, a)| *l == name && *a == address) {
            return;
        }
        self.addresses.push((name.clone(), address));
        self.owners.entry(address.addr()).or_default().push(name.clone());
        let local = RouteValue {
            kind: RouteKind::Local,
            protocol: PROTO_KERNEL,
            src: Some(address.addr()),
            next_hops: vec![NextHop { via: None, dev: Some(name), weight: 1 }],
        };
        let covered = address.addr().is_loopback() && address.addr().is_ipv4();
        let prefix = if covered { address.trunc() } else { IpNet::from(address.addr()) };
        let key = RouteKey { prefix, table: LOCAL_TABLE, metric: 0 };
        if !self.routes.contains_key(&key) {
            self.store(key, local);
        }
        if up && !covered {
            self.add_connected(link, address);
        }
    }

    /// The connected route of an address.
    fn add_connected(&mut self, link: &str, address: IpNet) {
        let Some((name, _)) = self.links.get_key_value(link) else { return };
        let v6 = address.addr().is_ipv6();
        if address.addr().is_loopback() || (!v6 && address.prefix_len() == address.max_prefix_len()) {
            return;
        }
        let value = RouteValue {
            kind: RouteKind::Unicast,
            protocol: PROTO_KERNEL,
            src: (!v6).then_some(address.addr()),
            next_hops: vec![NextHop { via: None, dev: Some(name.clone()), weight: 1 }],
        };
        let metric = if v6 { V6_KERNEL_METRIC } else { 0 };
        let key = RouteKey { prefix: address.trunc(), table: MAIN_TABLE, metric };
        if !self.routes.contains_key(&key) {
            self.store(key, value);
        }
    }

    /// Removes an address and the routes that the kernel made for it; true if it was there. A local route that somebody
    /// replaced stays.
    pub fn remove_address(&mut self, link: &str, address: IpNet) -> bool {
        let before = self.addresses.len();
        self.addresses.retain(|(l, a)| !(**l == *link && *a == address));
        if self.addresses.len() == before {
            return false;
        }
        let ip = address.addr();
        let owners: Vec<Arc<str>> =
            self.addresses.iter().filter(|(_, a)| a.addr() == ip).map(|(l, _)| l.clone()).collect();
        if owners.is_empty() {
            self.owners.remove(&ip);
        } else {
            self.owners.insert(ip, owners);
        }
        let still_local = self.owners.contains_key(&ip);
        let still_connected = self.addresses_on(link).any(|a| a.trunc() == address.trunc());
        let v6 = ip.is_ipv6();
        let gone: Vec<RouteKey> = self
            .routes
            .iter()
            .filter(|(key, route)| {
                let through = route.devs.iter().all(|d| **d == *link);
                let value = &route.value;
                if key.table == LOCAL_TABLE && value.kind == RouteKind::Local && key.prefix.addr() == ip {
                    return !still_local && through && value.protocol == PROTO_KERNEL && value.src == Some(ip);
                }
                let connected = key.table == MAIN_TABLE
                    && value.protocol == PROTO_KERNEL
                    && key.prefix == address.trunc()
                    && through;
                // IPv4 routes that prefer a source address which is gone are flushed.
                (connected && !still_connected) || (!v6 && !still_local && value.src == Some(ip))
            })
            .map(|(key, _)| key.clone())
            .collect();
        for key in gone {
            self.unstore(&key);
        }
        let rest: Vec<IpNet> = self.addresses_on(link).collect();
        for other in rest.into_iter().filter(|o| o.trunc() == address.trunc()) {
            self.add_connected(link, other);
        }
        true
    }

    /// Removes an interface with its addresses and routes; its ports are free again.
    pub(crate) fn remove_link(&mut self, name: &str) -> bool {
        let addresses: Vec<IpNet> = self.addresses_on(name).collect();
        if self.links.remove(name).is_none() {
            return false;
        }
        for address in addresses {
            self.remove_address(name, address);
        }
        self.drop_routes_through(name);
        for link in self.links.values_mut() {
            if link.master.as_deref() == Some(name) {
                link.master = None;
            }
        }
        true
    }

    /// Routes lose their next hops through an interface; those without any other are gone.
    fn drop_routes_through(&mut self, link: &str) {
        let hit: Vec<RouteKey> = self
            .routes
            .iter()
            .filter(|(_, route)| route.devs.iter().any(|d| **d == *link))
            .map(|(key, _)| key.clone())
            .collect();
        for key in hit {
            let Some(mut route) = self.unstore(&key) else { continue };
            let keep: Vec<bool> = route.devs.iter().map(|d| **d != *link).collect();
            if !keep.contains(&true) {
                continue;
            }
            let mut flags = keep.iter();
            route.value.next_hops.retain(|_| flags.next().copied().unwrap_or(false));
            self.store(key, route.value);
        }
    }

    /// Adds or replaces a route.
    ///
    /// # Errors
    /// The errno Linux refuses it with: `EINVAL`, `ENODEV`, `ENETDOWN` or `ENETUNREACH`.
    pub fn add_route(&mut self, key: RouteKey, value: RouteValue) -> Result<(), i32> {
        self.check_route(&key, &value)?;
        self.store(key, value);
        Ok(())
    }

    /// Deletes the route of this key and protocol; true if it was there.
    pub fn del_route(&mut self, key: &RouteKey, protocol: u8) -> bool {
        self.routes.get(key).is_some_and(|route| route.value.protocol == protocol) && self.unstore(key).is_some()
    }

    fn check_route(&self, key: &RouteKey, value: &RouteValue) -> Result<(), i32> {
        let v6 = key.prefix.addr().is_ipv6();
        let other_family = |a: IpAddr| a.is_ipv6() != v6;
        if key.prefix != key.prefix.trunc() || key.table == 0 || value.src.is_some_and(other_family) {
            return Err(EINVAL);
        }
        match value.kind {
            RouteKind::Unicast if value.next_hops.is_empty() => return Err(ENODEV),
            RouteKind::Local if value.next_hops.iter().any(|n| n.via.is_some()) => return Err(EINVAL),
            RouteKind::Blackhole | RouteKind::Unreachable if !v6 && !value.next_hops.is_empty() => return Err(EINVAL),
            _ => {}
        }
        // IPv4 takes IPv6 gateways (`via inet6`), but not the other way round.
        let impossible = |via: IpAddr| v6 && via.is_ipv4();
        for hop in &value.next_hops {
            if hop.weight == 0 || (hop.via.is_none() && hop.dev.is_none()) || hop.via.is_some_and(impossible) {
                return Err(EINVAL);
            }
            if let Some(dev) = &hop.dev {
                let link = self.links.get(dev).ok_or(ENODEV)?;
                if !link.up && (value.kind == RouteKind::Unicast || v6 && value.kind == RouteKind::Local) {
                    return Err(ENETDOWN);
                }
            }
            if let Some(via) = hop.via {
                if self.is_local(via) {
                    return Err(EINVAL);
                }
                let unreachable = if via.is_ipv6() { EHOSTUNREACH } else { ENETUNREACH };
                self.on_link(via, hop.dev.as_deref()).ok_or(unreachable)?;
            }
        }
        if value.src.is_some_and(|src| !self.is_local(src)) {
            return Err(EINVAL);
        }
        Ok(())
    }

    /// The interface whose subnet holds a gateway.
    pub(crate) fn on_link(&self, via: IpAddr, dev: Option<&str>) -> Option<Arc<str>> {
        let mut best: Option<(u8, &Arc<str>)> = None;
        let direct = self.candidates(MAIN_TABLE, via);
        for (key, route) in direct {
            if route.value.kind != RouteKind::Unicast {
                continue;
            }
            for (hop, link) in route.value.next_hops.iter().zip(&route.devs) {
                let fits = hop.via.is_none() && dev.is_none_or(|d| **link == *d);
                let up = self.links.get(link).is_some_and(|l| l.up);
                if fits && up && best.is_none_or(|(len, _)| key.prefix.prefix_len() > len) {
                    best = Some((key.prefix.prefix_len(), link));
                }
            }
        }
        best.map(|(_, link)| link.clone())
    }

    pub(crate) fn store(&mut self, key: RouteKey, value: RouteValue) {
        self.unstore(&key);
        let devs = value
            .next_hops
            .iter()
            .map(|hop| match (&hop.dev, hop.via) {
                (Some(dev), _) => dev.clone(),
                (None, Some(via)) => self.on_link(via, None).unwrap_or_else(|| "lo".into()),
                (None, None) => "lo".into(),
            })
            .collect();
        let family = Family::of(key.prefix.addr());
        *self.lengths.entry((key.table, family)).or_default().entry(key.prefix.prefix_len()).or_default() += 1;
        let dead = vec![false; value.next_hops.len()];
        self.routes.insert(key, Stored { value, devs, dead });
    }

    pub(crate) fn unstore(&mut self, key: &RouteKey) -> Option<Stored> {
        let old = self.routes.remove(key)?;
        let family = Family::of(key.prefix.addr());
        if let Some(lengths) = self.lengths.get_mut(&(key.table, family))
            && let Some(count) = lengths.get_mut(&key.prefix.prefix_len())
        {
            *count -= 1;
            if *count == 0 {
                lengths.remove(&key.prefix.prefix_len());
            }
        }
        Some(old)
    }

    /// Sets a kernel parameter, by its path below `/proc/sys`.
    ///
    /// # Errors
    /// `ENOENT` for an unknown path, `EINVAL` for a value out of range.
    pub fn set_sysctl(&mut self, path: &str, value: i64) -> Result<(), i32> {
        let at = SYSCTLS.iter().position(|(name, _)| *name == path);
        let slot = at.and_then(|at| self.sysctls.get_mut(at)).ok_or(ENOENT)?;
        if i32::try_from(value).is_err() || (path.ends_with("hash_policy") && !(0..=3).contains(&value)) {
            return Err(EINVAL);
        }
        if path.starts_with("ipvs/") && value <= 0 {
            return Err(EINVAL);
        }
        *slot = value;
        let timeout = |of: Switch| Duration::from_secs(u64::try_from(self.switch(of)).unwrap_or_default());
        let timeouts = [Switch::TimeoutTcp, Switch::TimeoutFin, Switch::TimeoutUdp].map(timeout);
        self.ipvs.timeouts = Timeouts(timeouts);
        Ok(())
    }

    /// A kernel parameter; `None` if there is none of this path.
    pub fn sysctl(&self, path: &str) -> Option<i64> {
        let at = SYSCTLS.iter().position(|(name, _)| *name == path)?;
        self.sysctls.get(at).copied()
    }

    /// Every sysctl with its value.
    pub(crate) fn sysctls(&self) -> impl Iterator<Item = (&'static str, i64)> {
        SYSCTLS.iter().zip(self.sysctls).map(|((path, _), value)| (*path, value))
    }

    pub(crate) fn switch(&self, switch: Switch) -> i64 {
        self.sysctls[switch as usize]
    }

    pub(crate) fn is_on(&self, switch: Switch) -> bool {
        self.switch(switch) != 0
    }

    /// Every route of every table.
    pub fn routes(&self) -> impl Iterator<Item = (&RouteKey, &RouteValue)> {
        self.routes.iter().map(|(key, route)| (key, &route.value))
    }

    /// Every address with its interface, in the order they were added.
    pub fn addresses(&self) -> impl Iterator<Item = (&str, &IpNet)> {
        self.addresses.iter().map(|(link, address)| (&**link, address))
    }

    pub(crate) fn addresses_on<'a>(&'a self, link: &'a str) -> impl Iterator<Item = IpNet> + 'a {
        self.addresses.iter().filter(move |(l, _)| **l == *link).map(|(_, a)| *a)
    }

    /// Makes or changes a CNI configuration, as somebody else than an agent does.
    pub fn set_file(&mut self, path: &str, value: FileValue) {
        self.files.insert(path.into(), value);
    }

    /// A CNI configuration.
    pub fn file(&self, path: &str) -> Option<&FileValue> {
        self.files.get(path)
    }

    /// The next calls for a plane fail: after those that were injected before.
    pub fn inject(&mut self, plane: PlaneId, injected: Injected, times: u32) {
        if times > 0 {
            self.injected.entry(plane).or_default().push((injected, times));
        }
    }

    /// How many ops of [`fairway_desired::Backend::apply`] were done for a plane so far.
    pub fn mutations(&self, plane: PlaneId) -> u64 {
        self.mutations.get(&plane).copied().unwrap_or(0)
    }

    /// The present is at least `now`.
    pub(crate) fn advance(&mut self, now: Duration) {
        if now > self.now {
            self.now = now;
            self.conntrack.expire(now);
            self.ipvs.expire(now);
        }
    }
}
