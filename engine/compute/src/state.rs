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

    /// A node is like this now; `None`: it is gone. Returns what it was.
    pub(crate) fn put_node(&mut self, node: Option<Arc<Node>>, name: &ObjectName) -> Option<Arc<Node>> {
        let own = self.node_ips();
        let old = match node.clone() {
            Some(node) => self.nodes.insert(name.clone(), node),
            None => self.nodes.remove(name),
        };
        if *name.name == *self.config.node_name {
            if own != self.node_ips() {
                self.review_hops();
            }
            return old;
        }
        let addresses = |node: &Option<Arc<Node>>| -> BTreeSet<IpAddr> {
            node.iter().flat_map(|node| node.internal_ips.iter().chain(&node.external_ips)).copied().collect()
        };
        let (before, after) = (addresses(&old), addresses(&node));
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
        old
    }

    fn node_ips(&self) -> [Option<IpAddr>; 2] {
        [self.node_ip(Family::V4), self.node_ip(Family::V6)]
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
