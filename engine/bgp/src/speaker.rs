//! The speaker: its state, and the way in and out. What it does is in `config`, `sessions` and `routes`.

use alloc::collections::{BTreeMap, VecDeque};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::net::IpAddr;

use fairway_desired::bgp::{Dynamic, Global};
use fairway_desired::{Bgp, Family, Table};
use ipnet::IpNet;

use crate::neighbor::Neighbor;
use crate::policy::{Nets, Policies};
use crate::rib::{Path, Rib};
use crate::wire::Attributes;
use crate::{ConnId, Input, NeighborView, Output, RibPath, Time};

/// A BGP speaker. See the crate's documentation for its contract.
#[derive(Debug)]
pub struct Speaker {
    pub(crate) rng: oorandom::Rand32,
    /// What was applied, as it was applied.
    pub(crate) table: Table<Bgp>,
    pub(crate) global: Option<Global>,
    pub(crate) policies: Policies,
    pub(crate) dynamics: Nets<Dynamic>,
    pub(crate) neighbors: BTreeMap<IpAddr, Neighbor>,
    /// Whose connection it is.
    pub(crate) conns: BTreeMap<ConnId, IpAddr>,
    pub(crate) next_out: u64,
    pub(crate) rib: Rib,
    /// Shared by all our own routes.
    pub(crate) own_attributes: Arc<Attributes>,
    /// Next hops of our own networks, and how many networks have each.
    pub(crate) own_addresses: BTreeMap<IpAddr, usize>,
    pub(crate) shut_down: bool,
    pub(crate) outputs: VecDeque<Output>,
}

impl Speaker {
    /// A speaker without configuration. The seed only spreads retries.
    pub fn new(seed: u64) -> Self {
        Self {
            rng: oorandom::Rand32::new(seed),
            table: Table::<Bgp>::new(),
            global: None,
            policies: Policies::default(),
            dynamics: Nets::default(),
            neighbors: BTreeMap::new(),
            conns: BTreeMap::new(),
            next_out: 0,
            rib: Rib::default(),
            own_attributes: Arc::new(Attributes::own()),
            own_addresses: BTreeMap::new(),
            shut_down: false,
            outputs: VecDeque::new(),
        }
    }

    /// Exactly what was applied.
    pub fn observe(&self) -> Table<Bgp> {
        self.table.clone()
    }

    /// Takes one input. Drain [`Speaker::poll`] before the next.
    pub fn handle(&mut self, now: Time, input: Input) {
        match input {
            Input::Connected { conn, local, .. } => self.connected(now, conn, local.ip().to_canonical()),
            Input::ConnectFailed { conn } => self.gone(now, conn, "dial failed"),
            Input::Accepted { conn, local, remote } => {
                self.accepted(now, conn, local.ip().to_canonical(), remote.ip().to_canonical());
            }
            Input::Received { conn, bytes } => self.received(now, conn, &bytes),
            Input::Closed { conn } => self.gone(now, conn, "connection closed by peer"),
            Input::Tick => {}
            Input::Shutdown => self.shut_down(now),
            Input::ResetPeer(peer) => self.reset_peer(now, peer),
        }
        self.settle(now);
    }

    /// The next output; `None`: nothing more for now.
    pub fn poll(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When a [`Input::Tick`] is wanted.
    pub fn deadline(&self) -> Option<Time> {
        self.neighbors.values().filter_map(Neighbor::deadline).min()
    }

    /// Ends each call: timers that are due, advertisements, and the bytes that both produced.
    pub(crate) fn settle(&mut self, now: Time) {
        self.run_timers(now);
        self.advertise(now);
        for neighbor in self.neighbors.values_mut() {
            for conn in &mut neighbor.conns {
                if !conn.tx.is_empty() {
                    self.outputs.push_back(Output::Send { conn: conn.id, bytes: core::mem::take(&mut conn.tx) });
                }
            }
        }
    }

    /// All neighbours, sorted by address.
    pub fn neighbors(&self) -> Vec<NeighborView> {
        self.neighbors.iter().map(|(address, neighbor)| neighbor.view(*address)).collect()
    }

    /// The Loc-RIB of a family, sorted by prefix, each prefix's best path first.
    pub fn rib(&self, family: Family) -> Vec<RibPath> {
        self.rib
            .iter()
            .filter(|(prefix, _)| Family::of(prefix.addr()) == family)
            .flat_map(|(prefix, destination)| {
                destination.paths().enumerate().map(|(i, (path, used))| RibPath {
                    best: i == 0,
                    multipath: used,
                    ..view(*prefix, path)
                })
            })
            .collect()
    }

    /// What a neighbour was told, sorted by prefix; empty for one that is not up.
    pub fn adj_out(&self, peer: IpAddr) -> Vec<RibPath> {
        let Some(neighbor) = self.neighbors.get(&peer) else { return Vec::new() };
        neighbor
            .adj_out
            .iter()
            .map(|(prefix, route)| RibPath {
                prefix: *prefix,
                next_hop: route.next_hop,
                as_path: route.attributes.as_path.flatten(),
                origin: route.attributes.origin,
                local_pref: route.attributes.local_pref,
                med: route.attributes.med,
                communities: route.attributes.communities.clone(),
                from: self.rib.get(prefix).and_then(|d| d.best()).and_then(|p| p.from),
                best: true,
                multipath: true,
                since: route.since,
            })
            .collect()
    }
}

fn view(prefix: IpNet, path: &Path) -> RibPath {
    RibPath {
        prefix,
        next_hop: path.next_hop,
        as_path: path.attributes.as_path.flatten(),
        origin: path.attributes.origin,
        local_pref: path.attributes.local_pref,
        med: path.attributes.med,
        communities: path.attributes.communities.clone(),
        from: path.from,
        best: false,
        multipath: false,
        since: path.since,
    }
}
