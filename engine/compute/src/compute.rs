//! The machine: deltas in, dirty units, net changes out.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::net::IpAddr;
use core::ops::Bound;

use fairway_desired::ipvs::VirtualServerKey;
use fairway_desired::{
    Addr, Bgp, File, Filter, Interface, Ipvs, Learned, Link, MAIN_TABLE, Op, Pod, Protocol, Route, RouteKey, Rule,
    Sysctl, Table,
};
use fairway_objects::{
    Delta, Kind, Node, NodeConfig, Notice, NoticeChange, Object, ObjectKey, ObjectName, Role, RouterConfig, Service,
};
use ipnet::IpNet;

use crate::health::{self, HealthCheck, HealthChecks};
use crate::ledger::Ledger;
use crate::state::State;
use crate::unit::{Claims, Unit};
use crate::{egress, global, overlay, pods, router, service};

/// Net changes, by plane.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ops {
    /// Kernel parameters.
    pub sysctl: Vec<Op<Sysctl>>,
    /// Interfaces.
    pub link: Vec<Op<Link>>,
    /// Addresses.
    pub addr: Vec<Op<Addr>>,
    /// The firewall.
    pub filter: Vec<Op<Filter>>,
    /// Routing rules.
    pub rule: Vec<Op<Rule>>,
    /// Service addresses in pods.
    pub pod: Vec<Op<Pod>>,
    /// Routes.
    pub route: Vec<Op<Route>>,
    /// Virtual servers.
    pub ipvs: Vec<Op<Ipvs>>,
    /// The CNI configuration.
    pub file: Vec<Op<File>>,
    /// The BGP speaker.
    pub bgp: Vec<Op<Bgp>>,
}

impl Ops {
    /// How many there are.
    pub fn total(&self) -> usize {
        self.sysctl.len()
            + self.link.len()
            + self.addr.len()
            + self.filter.len()
            + self.rule.len()
            + self.pod.len()
            + self.route.len()
            + self.ipvs.len()
            + self.file.len()
            + self.bgp.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.total() == 0
    }
}

/// What a flush found.
#[derive(Clone, Debug, Default)]
pub struct Changes {
    /// Net changes of desired state.
    pub ops: Ops,
    /// Notices that begin or cease to stand.
    pub notices: Vec<NoticeChange>,
    /// How many units were rendered: the work that was done.
    pub rendered: usize,
}

/// The whole desired state.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Desired {
    /// Kernel parameters.
    pub sysctl: Table<Sysctl>,
    /// Interfaces.
    pub link: Table<Link>,
    /// Addresses.
    pub addr: Table<Addr>,
    /// The firewall.
    pub filter: Table<Filter>,
    /// Routing rules.
    pub rule: Table<Rule>,
    /// Service addresses in pods.
    pub pod: Table<Pod>,
    /// Routes.
    pub route: Table<Route>,
    /// Virtual servers.
    pub ipvs: Table<Ipvs>,
    /// The CNI configuration.
    pub file: Table<File>,
    /// The BGP speaker.
    pub bgp: Table<Bgp>,
}

/// A virtual server, and whose it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owned {
    /// Its key.
    pub key: VirtualServerKey,
    /// The service.
    pub service: ObjectName,
    /// The address that clients use, also behind a firewall mark.
    pub address: IpAddr,
    /// The port that clients use.
    pub port: u16,
    /// Its protocol.
    pub protocol: Protocol,
}

/// Notices by their source, and which of them were told.
#[derive(Clone, Debug, Default)]
struct Board {
    by_unit: BTreeMap<Unit, BTreeSet<Notice>>,
    by_object: BTreeMap<ObjectKey, BTreeSet<Notice>>,
    counts: BTreeMap<Notice, usize>,
    touched: BTreeMap<Notice, bool>,
}

impl Board {
    fn replace(&mut self, old: BTreeSet<Notice>, new: &BTreeSet<Notice>) {
        for notice in old.difference(new) {
            self.touched.entry(notice.clone()).or_insert(true);
            if let Some(count) = self.counts.get_mut(notice) {
                *count -= 1;
                if *count == 0 {
                    self.counts.remove(notice);
                }
            }
        }
        for notice in new.difference(&old) {
            let count = self.counts.entry(notice.clone()).or_default();
            self.touched.entry(notice.clone()).or_insert(*count > 0);
            *count += 1;
        }
    }

    fn unit(&mut self, unit: &Unit, new: BTreeSet<Notice>) {
        let old = self.by_unit.remove(unit).unwrap_or_default();
        self.replace(old, &new);
        if !new.is_empty() {
            self.by_unit.insert(unit.clone(), new);
        }
    }

    fn object(&mut self, key: &ObjectKey, new: BTreeSet<Notice>) {
        let old = self.by_object.remove(key).unwrap_or_default();
        self.replace(old, &new);
        if !new.is_empty() {
            self.by_object.insert(key.clone(), new);
        }
    }

    fn drain(&mut self) -> Vec<NoticeChange> {
        let touched = core::mem::take(&mut self.touched);
        touched
            .into_iter()
            .filter_map(|(notice, told)| match (told, self.counts.contains_key(&notice)) {
                (false, true) => Some(NoticeChange::Raised(notice)),
                (true, false) => Some(NoticeChange::Cleared(notice)),
                _ => None,
            })
            .collect()
    }
}

/// The kinds of which a node with this configuration must hear. Others change nothing.
pub fn watched(config: &NodeConfig) -> &'static [Kind] {
    match config.role {
        Role::Node => &[Kind::Node, Kind::Service, Kind::EndpointSlice],
        Role::Router(_) => &[],
    }
}

/// One node's desired state, kept up to date.
#[derive(Clone, Debug)]
pub struct Compute {
    state: State,
    dirty: BTreeSet<Unit>,
    /// Which services want a virtual server; the lowest has it.
    wanted: BTreeMap<VirtualServerKey, BTreeSet<Unit>>,
    wants_of: BTreeMap<Unit, BTreeSet<VirtualServerKey>>,
    /// What stands behind a firewall mark.
    marks: BTreeMap<VirtualServerKey, (IpAddr, u16, Protocol)>,
    health: HealthChecks,
    board: Board,
    /// Kinds that were listed once.
    listed: BTreeSet<Kind>,
    /// Objects not seen again since the relist of their kind began.
    stale: BTreeMap<Kind, BTreeSet<ObjectName>>,
    sysctl: Ledger<Sysctl, Unit>,
    link: Ledger<Link, Unit>,
    addr: Ledger<Addr, Unit>,
    filter: Ledger<Filter, Unit>,
    rule: Ledger<Rule, Unit>,
    pod: Ledger<Pod, Unit>,
    route: Ledger<Route, Unit>,
    ipvs: Ledger<Ipvs, Unit>,
    file: Ledger<File, Unit>,
    bgp: Ledger<Bgp, Unit>,
}

impl Compute {
    /// A node that has heard nothing yet.
    pub fn new(config: NodeConfig) -> Self {
        Compute {
            state: State::new(config, None),
            dirty: [Unit::Global, Unit::Pods].into(),
            wanted: BTreeMap::new(),
            wants_of: BTreeMap::new(),
            marks: BTreeMap::new(),
            health: HealthChecks::default(),
            board: Board::default(),
            listed: BTreeSet::new(),
            stale: BTreeMap::new(),
            sysctl: Ledger::default(),
            link: Ledger::default(),
            addr: Ledger::default(),
            filter: Ledger::default(),
            rule: Ledger::default(),
            pod: Ledger::default(),
            route: Ledger::default(),
            ipvs: Ledger::default(),
            file: Ledger::default(),
            bgp: Ledger::default(),
        }
    }

    /// The configuration.
    pub fn config(&self) -> &NodeConfig {
        &self.state.config
    }

    /// The configuration of a router changed. A node is none, and stays what it is.
    pub fn set_router(&mut self, router: RouterConfig) {
        if let Role::Router(old) = &mut self.state.config.role
            && *old != router
        {
            *old = router;
            self.dirty.insert(Unit::Global);
        }
    }

    /// Whether every kind that matters was listed once. Before that nothing may be deleted from a kernel.
    pub fn synced(&self) -> bool {
        watched(&self.state.config).iter().all(|kind| self.listed.contains(kind))
    }

    /// Takes a change from the API server.
    pub fn handle(&mut self, delta: Delta) {
        match delta {
            Delta::Put { object, notices } => {
                let key = object.key();
                self.seen(&key);
                self.state.known.entry(key.kind).or_default().insert(key.name.clone());
                self.board.object(&key, notices.into_iter().collect());
                self.put(object);
            }
            Delta::Invalid { key, notices } => {
                self.seen(&key);
                self.state.known.entry(key.kind).or_default().insert(key.name.clone());
                self.board.object(&key, notices.into_iter().collect());
                self.remove(&key);
            }
            Delta::Del(key) => {
                self.seen(&key);
                self.forget(&key);
            }
            Delta::Relist(kind) => {
                let known = self.state.known.get(&kind).cloned().unwrap_or_default();
                self.stale.insert(kind, known);
            }
            Delta::Listed(kind) => {
                for name in self.stale.remove(&kind).unwrap_or_default() {
                    self.forget(&ObjectKey { kind, name });
                }
                self.listed.insert(kind);
                if kind == Kind::Node && !self.state.nodes_listed {
                    self.state.nodes_listed = true;
                    self.dirty.insert(Unit::Global);
                }
            }
        }
    }

    fn seen(&mut self, key: &ObjectKey) {
        if let Some(stale) = self.stale.get_mut(&key.kind) {
            stale.remove(&key.name);
        }
    }

    fn forget(&mut self, key: &ObjectKey) {
        if let Some(known) = self.state.known.get_mut(&key.kind) {
            known.remove(&key.name);
        }
        self.board.object(key, BTreeSet::new());
        self.remove(key);
    }

    fn put(&mut self, object: Object) {
        match object {
            Object::Node(node) => self.put_node(Some(node.clone()), &node.name),
            Object::Service(service) => {
                let old = self.state.services.insert(service.name.clone(), service.clone());
                if old.as_ref() != Some(&service) {
                    self.dirty_service(&service.name, old.as_ref());
                }
            }
            Object::EndpointSlice(slice) => {
                let old = self.state.slices.insert(slice.name.clone(), slice.clone());
                if old.as_ref() == Some(&slice) {
                    return;
                }
                let service = ObjectName { namespace: slice.name.namespace.clone(), name: slice.service.clone() };
                if let Some(old) = old
                    && old.service != slice.service
                {
                    self.unlink(&slice.name, &old.service);
                }
                self.state.slices_of.entry(service.clone()).or_default().insert(slice.name.clone());
                self.dirty_service(&service, None);
            }
            // Nothing that is computed depends on these yet.
            Object::Namespace(_) | Object::Pod(_) => {}
        }
    }

    fn remove(&mut self, key: &ObjectKey) {
        match key.kind {
            Kind::Node => self.put_node(None, &key.name),
            Kind::Service => {
                if let Some(old) = self.state.services.remove(&key.name) {
                    self.dirty_service(&key.name, Some(&old));
                }
            }
            Kind::EndpointSlice => {
                if let Some(old) = self.state.slices.remove(&key.name) {
                    self.unlink(&key.name, &old.service);
                }
            }
            Kind::Namespace | Kind::Pod => {}
        }
    }

    fn unlink(&mut self, slice: &ObjectName, service: &Arc<str>) {
        let service = ObjectName { namespace: slice.namespace.clone(), name: service.clone() };
        if let Some(slices) = self.state.slices_of.get_mut(&service) {
            slices.remove(slice);
            if slices.is_empty() {
                self.state.slices_of.remove(&service);
            }
        }
        self.dirty_service(&service, None);
    }

    /// Marks the unit of a service as it is now, and the one it was if its age changed.
    fn dirty_service(&mut self, name: &ObjectName, old: Option<&Arc<Service>>) {
        let units = [old, self.state.services.get(name)];
        for service in units.into_iter().flatten() {
            let unit = Unit::Service { created_s: service.created_s, name: name.clone() };
            self.dirty.insert(unit);
        }
    }

    fn put_node(&mut self, node: Option<Arc<Node>>, name: &ObjectName) {
        let own = *name.name == *self.state.config.node_name;
        let basis = |state: &State| {
            use fairway_desired::Family::{V4, V6};
            let identity = router::identity(state).ok();
            let all = state.own().map(|n| (n.internal_ips.clone(), n.external_ips.clone()));
            (state.node_ip(V4), state.node_ip(V6), identity, all)
        };
        let before = own.then(|| basis(&self.state));
        let (old, inside) = self.state.set_node(name, node.clone());
        if old == node {
            return;
        }
        self.hops_changed();
        self.dirty.insert(Unit::Node(name.clone()));
        self.dirty.extend(inside.into_iter().map(Unit::Node));
        if !own {
            return;
        }
        self.dirty.extend([Unit::Global, Unit::Pods]);
        let cidrs = |node: &Option<Arc<Node>>| node.as_ref().map(|n| n.pod_cidrs.clone()).unwrap_or_default();
        if cidrs(&old) != cidrs(&node) {
            for cidr in cidrs(&old).into_iter().chain(cidrs(&node)) {
                if self.state.learned.contains_key(&cidr.trunc()) {
                    self.dirty.insert(Unit::Learned(cidr.trunc()));
                }
            }
        }
        if before != Some(basis(&self.state)) {
            // Our addresses are the source of local clients, the next hop of announcements and one end of each
            // session, so everything depends on them.
            let names: Vec<ObjectName> = self.state.services.keys().cloned().collect();
            for name in names {
                self.dirty_service(&name, None);
            }
            self.dirty.extend(self.state.nodes.keys().cloned().map(Unit::Node));
        }
    }

    /// Takes a change of a learned route.
    pub fn learned(&mut self, learned: Learned) {
        let prefix = learned.prefix.trunc();
        if self.state.learn(prefix, learned.next_hops) {
            self.dirty.insert(Unit::Learned(prefix));
            self.hops_changed();
        }
    }

    /// The ways to some next hops changed: so do the routes that lead there, and the tunnels.
    fn hops_changed(&mut self) {
        for (hop, tunnel, prefixes) in self.state.hops.take_touched() {
            self.dirty.extend(tunnel.then_some(Unit::Tunnel(hop)));
            self.dirty.extend(prefixes.into_iter().map(Unit::Learned));
        }
    }

    /// Takes what the kernel says of an interface; `None`: it is gone, or has no address. Until the first such call
    /// every next hop counts as on a link that works.
    ///
    /// Returns the routes that the kernel may have dropped by itself, because the interface was set down. They are
    /// desired or not as before; what is known of them is not to be trusted.
    pub fn interface(&mut self, name: &Arc<str>, now: Option<Interface>) -> Vec<RouteKey> {
        let ends = overlay::ends(&self.state);
        let (before, bound) = (pods::basis(&self.state), self.state.bound().collect::<Vec<IpAddr>>());
        let dropped = self.state.links.set(name, now);
        self.rebind(&bound);
        self.links_changed(before, &dropped, &ends)
    }

    /// Takes what the kernel says of all interfaces; otherwise as [`Compute::interface`].
    pub fn interfaces(&mut self, all: BTreeMap<Arc<str>, Interface>) -> Vec<RouteKey> {
        let ends = overlay::ends(&self.state);
        let (before, bound) = (pods::basis(&self.state), self.state.bound().collect::<Vec<IpAddr>>());
        let dropped = self.state.links.replace(all);
        self.rebind(&bound);
        self.links_changed(before, &dropped, &ends)
    }

    /// Node ports follow the addresses of this host.
    fn rebind(&mut self, before: &[IpAddr]) {
        if self.state.bound().ne(before.iter().copied()) {
            let of_node = |service: &Service| service.ports.iter().any(|port| port.node_port.is_some());
            let names: Vec<ObjectName> =
                self.state.services.values().filter(|s| of_node(s)).map(|s| s.name.clone()).collect();
            for name in names {
                self.dirty_service(&name, None);
            }
        }
    }

    fn links_changed(
        &mut self,
        mtu_before: Option<Option<u32>>,
        dropped: &[IpNet],
        ends: &overlay::Ends,
    ) -> Vec<RouteKey> {
        if pods::basis(&self.state) != mtu_before {
            self.dirty.insert(Unit::Pods);
        }
        self.state.review_hops();
        self.hops_changed();
        let metric = self.state.config.route_metric;
        let key = |prefix| RouteKey { prefix, table: MAIN_TABLE, metric };
        let mut prefixes = self.state.hops.through(dropped);
        // IPv4 drops the routes whose source address goes, and refuses such routes until it comes.
        prefixes.extend(overlay::sourced(&self.state, ends));
        prefixes.into_iter().map(key).collect()
    }

    /// The prefixes on the links of this host, sorted, and whether the link works.
    pub fn on_link(&self) -> Vec<(IpNet, bool)> {
        self.state.links.on_link()
    }

    /// Renders what is dirty and returns the net changes since the last flush.
    pub fn flush(&mut self) -> Changes {
        let mut rendered = 0;
        while let Some(unit) = self.dirty.pop_first() {
            rendered += 1;
            let claims = self.render(&unit);
            self.claim(&unit, claims);
        }
        Changes {
            ops: Ops {
                sysctl: self.sysctl.drain(),
                link: self.link.drain(),
                addr: self.addr.drain(),
                filter: self.filter.drain(),
                rule: self.rule.drain(),
                pod: self.pod.drain(),
                route: self.route.drain(),
                ipvs: self.ipvs.drain(),
                file: self.file.drain(),
                bgp: self.bgp.drain(),
            },
            notices: self.board.drain(),
            rendered,
        }
    }

    fn render(&mut self, unit: &Unit) -> Claims {
        match unit {
            Unit::Global => {
                let mut claims = global::render(&self.state);
                router::render(&self.state, &mut claims);
                overlay::render(&self.state, &mut claims);
                egress::render(&self.state, &mut claims);
                claims
            }
            Unit::Pods => pods::render(&self.state),
            Unit::Node(name) => match self.state.nodes.get(name) {
                Some(node) => {
                    let mut claims = router::render_node(&self.state, node);
                    egress::render_node(&self.state, node, &mut claims);
                    claims
                }
                None => Claims::default(),
            },
            Unit::Tunnel(hop) => overlay::render_tunnel(&self.state, *hop),
            Unit::Learned(prefix) => match self.state.learned.get(prefix) {
                Some(next_hops) => router::render_learned(&self.state, *prefix, next_hops),
                None => Claims::default(),
            },
            Unit::Service { created_s, name } => {
                let service = self.state.services.get(name).filter(|s| s.created_s == *created_s).cloned();
                let Some(service) = service else {
                    self.want(unit, BTreeSet::new());
                    self.health.set(unit, None);
                    return Claims::default();
                };
                self.health.set(unit, health::render(&self.state, &service));
                let rendered = service::render(&self.state, &service);
                self.want(unit, rendered.wants.keys().cloned().collect());
                for (key, want) in &rendered.wants {
                    if matches!(key, VirtualServerKey::Mark { .. })
                        && self.wanted.get(key).and_then(BTreeSet::first) == Some(unit)
                    {
                        self.marks.insert(key.clone(), (want.address, want.port, want.protocol));
                    }
                }
                let winner = |key: &VirtualServerKey| -> Option<String> {
                    match self.wanted.get(key)?.first()? {
                        winner if winner == unit => None,
                        Unit::Service { name, .. } => Some(name.to_string()),
                        _ => None,
                    }
                };
                service::claims(&self.state, &service, &rendered, winner)
            }
        }
    }

    /// A service wants these virtual servers from now on. Services that gain or lose one by that are rendered again.
    fn want(&mut self, unit: &Unit, keys: BTreeSet<VirtualServerKey>) {
        let old = self.wants_of.remove(unit).unwrap_or_default();
        for key in old.difference(&keys) {
            let Some(units) = self.wanted.get_mut(key) else { continue };
            let had = units.first() == Some(unit);
            units.remove(unit);
            match units.first() {
                None => {
                    self.wanted.remove(key);
                    self.marks.remove(key);
                }
                // The next one takes over; the others have another winner to name.
                Some(_) if had => self.dirty.extend(units.iter().cloned()),
                Some(_) => {}
            }
        }
        for key in keys.difference(&old) {
            let units = self.wanted.entry(key.clone()).or_default();
            units.insert(unit.clone());
            if units.first() == Some(unit) {
                self.dirty.extend(units.iter().skip(1).cloned());
            }
        }
        if !keys.is_empty() {
            self.wants_of.insert(unit.clone(), keys);
        }
    }

    fn claim(&mut self, unit: &Unit, claims: Claims) {
        self.sysctl.set(unit, claims.sysctl);
        self.link.set(unit, claims.link);
        self.addr.set(unit, claims.addr);
        self.filter.set(unit, claims.filter);
        self.rule.set(unit, claims.rule);
        self.pod.set(unit, claims.pod);
        self.route.set(unit, claims.route);
        self.ipvs.set(unit, claims.ipvs);
        self.file.set(unit, claims.file);
        self.bgp.set(unit, claims.bgp);
        self.board.unit(unit, claims.notices);
    }

    /// A number that grows when [`health_checks`](Self::health_checks) change.
    pub const fn health_version(&self) -> u64 {
        self.health.version()
    }

    /// Where load balancers ask for endpoints of `Local` services, as of the last flush. Until the cluster is known
    /// there is no such place.
    pub fn health_checks(&self) -> Vec<HealthCheck> {
        if self.synced() { self.health.all() } else { Vec::new() }
    }

    /// Which service has which virtual server, as of the last flush, in the order of their keys and behind one of them.
    pub fn owned(&self, after: Option<&VirtualServerKey>) -> impl Iterator<Item = Owned> + use<'_> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        self.wanted.range((from, Bound::Unbounded)).filter_map(|(key, units)| {
            let Some(Unit::Service { name, .. }) = units.first() else { return None };
            let (address, port, protocol) = match key {
                VirtualServerKey::Address { address, port, protocol } => (*address, *port, *protocol),
                VirtualServerKey::Mark { .. } => *self.marks.get(key)?,
            };
            Some(Owned { key: key.clone(), service: name.clone(), address, port, protocol })
        })
    }

    /// The whole desired state as of the last flush.
    pub fn desired(&self) -> Desired {
        Desired {
            sysctl: self.sysctl.table(),
            link: self.link.table(),
            addr: self.addr.table(),
            filter: self.filter.table(),
            rule: self.rule.table(),
            pod: self.pod.table(),
            route: self.route.table(),
            ipvs: self.ipvs.table(),
            file: self.file.table(),
            bgp: self.bgp.table(),
        }
    }
}
