//! What the API server said last, with the indexes that lead from a change to its units.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::net::IpAddr;

use fairway_desired::Family;
use fairway_objects::{EndpointSlice, Kind, Node, NodeConfig, ObjectName, Role, Service};
use ipnet::IpNet;

use crate::links::{Hops, Interfaces, Links};
use crate::overlay;

/// Objects, learned routes and their indexes.
#[derive(Clone, Debug)]
pub(crate) struct State {
    pub(crate) config: NodeConfig,
    pub(crate) nodes: BTreeMap<ObjectName, Arc<Node>>,
    /// Before that a missing node says nothing.
    pub(crate) nodes_listed: bool,
    /// Which other nodes have an address.
    pub(crate) others: BTreeMap<IpAddr, BTreeSet<ObjectName>>,
    /// Pod CIDRs and the nodes that have them.
    pod_cidrs: BTreeMap<IpNet, BTreeSet<ObjectName>>,
    pub(crate) services: BTreeMap<ObjectName, Arc<Service>>,
    pub(crate) slices: BTreeMap<ObjectName, Arc<EndpointSlice>>,
    /// Service to its slices.
    pub(crate) slices_of: BTreeMap<ObjectName, BTreeSet<ObjectName>>,
    pub(crate) learned: BTreeMap<IpNet, Vec<IpAddr>>,
    pub(crate) links: Links,
    /// Next hops of learned routes.
    pub(crate) hops: Hops,
    /// Every object of every kind that was put or is invalid, for mark and sweep.
    pub(crate) known: BTreeMap<Kind, BTreeSet<ObjectName>>,
}

impl State {
    pub(crate) fn new(config: NodeConfig, interfaces: Option<Interfaces>) -> Self {
        State {
            config,
            nodes: BTreeMap::new(),
            nodes_listed: false,
            others: BTreeMap::new(),
            pod_cidrs: BTreeMap::new(),
            services: BTreeMap::new(),
            slices: BTreeMap::new(),
            slices_of: BTreeMap::new(),
            learned: BTreeMap::new(),
            links: Links::new(interfaces),
            hops: Hops::default(),
            known: BTreeMap::new(),
        }
    }

    /// A prefix has these next hops from now on, perhaps none. Returns whether that is a change.
    pub(crate) fn learn(&mut self, prefix: IpNet, next_hops: Vec<IpAddr>) -> bool {
        let old = if next_hops.is_empty() {
            self.learned.remove(&prefix)
        } else {
            self.learned.insert(prefix, next_hops.clone())
        };
        let old = old.unwrap_or_default();
        self.with_hops(|state, hops| hops.changed(|hop| overlay::way(state, hop), prefix, &old, &next_hops));
        old != next_hops
    }

    /// Changes the index of next hops, which depends on everything else here.
    fn with_hops(&mut self, change: impl FnOnce(&State, &mut Hops)) {
        let mut hops = core::mem::take(&mut self.hops);
        change(self, &mut hops);
        self.hops = hops;
    }

    /// Interfaces or an address of ours changed.
    pub(crate) fn review_hops(&mut self) {
        self.with_hops(|state, hops| hops.review(|hop| overlay::way(state, hop)));
    }

    /// The addresses of a node were and are these: next hops are judged anew.
    fn readdress(&mut self, name: &ObjectName, old: &Option<Arc<Node>>, own: [Option<IpAddr>; 2]) {
        if *name.name == *self.config.node_name {
            if own != self.node_ips() {
                self.review_hops();
            }
            return;
        }
        let addresses = |node: &Option<Arc<Node>>| -> BTreeSet<IpAddr> {
            node.iter().flat_map(|node| node.internal_ips.iter().chain(&node.external_ips)).copied().collect()
        };
        let (before, after) = (addresses(old), addresses(&self.nodes.get(name).cloned()));
        for ip in before.difference(&after) {
            if let Some(names) = self.others.get_mut(ip) {
                names.remove(name);
                if names.is_empty() {
                    self.others.remove(ip);
                }
            }
        }
        for ip in after.difference(&before) {
            self.others.entry(*ip).or_default().insert(name.clone());
        }
        for ip in before.symmetric_difference(&after) {
            self.with_hops(|state, hops| hops.review_one(|hop| overlay::way(state, hop), *ip));
        }
    }

    fn node_ips(&self) -> [Option<IpAddr>; 2] {
        [self.node_ip(Family::V4), self.node_ip(Family::V6)]
    }

    /// A node is like this now, or gone. Returns what it was, and those nodes whose pod CIDRs lie inside one of its old
    /// or new ones.
    pub(crate) fn set_node(
        &mut self,
        name: &ObjectName,
        node: Option<Arc<Node>>,
    ) -> (Option<Arc<Node>>, BTreeSet<ObjectName>) {
        let cidrs = |node: &Option<Arc<Node>>| -> BTreeSet<IpNet> {
            node.iter().flat_map(|node| &node.pod_cidrs).map(IpNet::trunc).collect()
        };
        let own = self.node_ips();
        let new = cidrs(&node);
        let old = match node {
            Some(node) => self.nodes.insert(name.clone(), node),
            None => self.nodes.remove(name),
        };
        self.readdress(name, &old, own);
        let before = cidrs(&old);
        for net in before.difference(&new) {
            if let Some(names) = self.pod_cidrs.get_mut(net) {
                names.remove(name);
                if names.is_empty() {
                    self.pod_cidrs.remove(net);
                }
            }
        }
        for net in new.difference(&before) {
            self.pod_cidrs.entry(*net).or_default().insert(name.clone());
        }
        let mut inside = BTreeSet::new();
        for net in new.symmetric_difference(&before) {
            // What lies inside a prefix comes after it, up to its last address.
            let last = IpNet::from(net.broadcast());
            inside.extend(self.pod_cidrs.range(*net..=last).flat_map(|(_, names)| names.iter().cloned()));
        }
        (old, inside)
    }

    /// Whether a prefix lies inside a pod CIDR, other than itself, of any node.
    pub(crate) fn is_inside_another(&self, net: IpNet) -> bool {
        let mut next = net.supernet();
        while let Some(around) = next {
            if self.pod_cidrs.contains_key(&around) {
                return true;
            }
            next = around.supernet();
        }
        false
    }

    /// The node this daemon runs on.
    pub(crate) fn own(&self) -> Option<&Arc<Node>> {
        self.nodes.get(&ObjectName::cluster(&self.config.node_name))
    }

    /// The families the flags permit.
    pub(crate) fn enabled(&self, family: Family) -> bool {
        match family {
            Family::V4 => self.config.enable_ipv4,
            Family::V6 => self.config.enable_ipv6,
        }
    }

    /// Our address of a family, if the family is in use: permitted by flag and present on the node.
    pub(crate) fn node_ip(&self, family: Family) -> Option<IpAddr> {
        if !self.enabled(family) {
            return None;
        }
        self.own()?.best_ip(family == Family::V6)
    }

    /// The addresses at which node ports are answered beside those of the Node object, sorted.
    pub(crate) fn bound(&self) -> impl Iterator<Item = IpAddr> {
        let all = self.config.node_port_on_all.then(|| self.links.own_addresses());
        all.into_iter().flatten()
    }

    /// The permitted families.
    pub(crate) fn families(&self) -> impl Iterator<Item = Family> {
        [Family::V4, Family::V6].into_iter().filter(|f| self.enabled(*f))
    }

    /// Slices of a service, by name.
    pub(crate) fn slices_of(&self, service: &ObjectName) -> impl Iterator<Item = &EndpointSlice> {
        self.slices_of.get(service).into_iter().flatten().filter_map(|name| self.slices.get(name)).map(Arc::as_ref)
    }

    /// Whether this is a router beside the cluster.
    pub(crate) fn is_router(&self) -> bool {
        matches!(self.config.role, Role::Router(_))
    }
}

/// A host prefix: /32 or /128.
pub(crate) fn host_prefix(address: IpAddr) -> IpNet {
    IpNet::from(address)
}
