//! The speaker: its state, and the way in and out. What it does is in `config`, `sessions` and `routes`.

use alloc::collections::{BTreeMap, BTreeSet, VecDeque};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::net::IpAddr;

use fairway_desired::bgp::{Dynamic, Global};
use fairway_desired::{Bgp, Family, Learned};
use ipnet::IpNet;

use crate::export::{Group, GroupKey};
use crate::intern::Shared;
use crate::neighbor::Neighbor;
use crate::policy::{Nets, Policies};
use crate::reach::Reach;
use crate::restart::Restarting;
use crate::table::{NetId, Route, Table};
use crate::view::Counts;
use crate::wire::{Attributes, FAMILIES};
use crate::{ConnId, Input, NeighborView, Output, RibPath, Time, Watch};

/// A BGP speaker. See the crate's documentation for its contract.
#[derive(Debug)]
pub struct Speaker {
    pub(crate) rng: oorandom::Rand32,
    /// What was applied, as it was applied.
    pub(crate) config: fairway_desired::Table<Bgp>,
    pub(crate) global: Option<Global>,
    pub(crate) policies: Policies,
    pub(crate) dynamics: Nets<Dynamic>,
    pub(crate) neighbors: BTreeMap<IpAddr, Neighbor>,
    /// Whose connection it is.
    pub(crate) conns: BTreeMap<ConnId, IpAddr>,
    pub(crate) next_out: u64,
    /// All routes.
    pub(crate) table: Table,
    /// What is on our links.
    pub(crate) reach: Reach,
    /// Shared by all our own routes.
    pub(crate) own_attributes: Arc<Attributes>,
    /// Next hops of our own networks, and how many networks have each.
    pub(crate) own_addresses: BTreeMap<IpAddr, usize>,
    /// Adj-RIBs-Out.
    pub(crate) groups: Vec<Option<Group>>,
    pub(crate) group_ids: BTreeMap<GroupKey, u32>,
    /// Groups in which something may be to do.
    pub(crate) dirty_groups: BTreeSet<u32>,
    /// When we came back from a restart.
    pub(crate) returned_at: Option<Time>,
    /// Neighbours with graceful restart that we had a session with.
    pub(crate) met: BTreeSet<IpAddr>,
    /// We came back from a restart, and have not said all yet.
    pub(crate) restarting: Option<Restarting>,
    /// That is over: End-of-RIB is due to those who wait for it, in this call.
    pub(crate) ends_due: bool,
    /// We are about to go away.
    pub(crate) draining: bool,
    pub(crate) shut_down: bool,
    /// The port that the driver was told of last.
    pub(crate) listening: Option<u16>,
    /// When each neighbour is to be looked at.
    pub(crate) timers: BTreeSet<(Time, IpAddr)>,
    /// The same by neighbour.
    timer_of: BTreeMap<IpAddr, Time>,
    /// Neighbours that are to be watched, as was last said.
    watched: BTreeMap<IpAddr, Watch>,
    /// Neighbours that changed in this call.
    pub(crate) touched: BTreeSet<IpAddr>,
    pub(crate) outputs: VecDeque<Output>,
}

impl Speaker {
    /// A speaker without configuration. The seed only spreads retries.
    pub fn new(seed: u64) -> Self {
        Self {
            rng: oorandom::Rand32::new(seed),
            config: fairway_desired::Table::<Bgp>::new(),
            global: None,
            policies: Policies::default(),
            dynamics: Nets::default(),
            neighbors: BTreeMap::new(),
            conns: BTreeMap::new(),
            next_out: 0,
            table: Table::new(),
            reach: Reach::default(),
            own_attributes: Arc::new(Attributes::own()),
            own_addresses: BTreeMap::new(),
            groups: Vec::new(),
            group_ids: BTreeMap::new(),
            dirty_groups: BTreeSet::new(),
            returned_at: None,
            met: BTreeSet::new(),
            restarting: None,
            ends_due: false,
            draining: false,
            shut_down: false,
            listening: None,
            timers: BTreeSet::new(),
            timer_of: BTreeMap::new(),
            watched: BTreeMap::new(),
            touched: BTreeSet::new(),
            outputs: VecDeque::new(),
        }
    }

    /// Exactly what was applied.
    pub fn observe(&self) -> fairway_desired::Table<Bgp> {
        self.config.clone()
    }

    /// Takes one input. Drain [`Speaker::poll`] before the next.
    pub fn handle(&mut self, now: Time, input: Input) {
        match input {
            Input::Connected { conn, local, .. } => self.connected(now, conn, local.ip().to_canonical()),
            Input::ConnectFailed { conn } => self.gone(now, conn, "dial failed"),
            Input::Accepted { conn, local, remote } => {
                self.accepted(now, conn, local.ip().to_canonical(), remote.ip().to_canonical());
            }
            Input::Received { conn, bytes } => self.received(now, conn, bytes),
            Input::Closed { conn } => self.gone(now, conn, "connection closed by peer"),
            Input::Drained { conn } => self.drained(conn),
            Input::Tick => {}
            Input::Restarted => {
                self.returned_at = Some(now);
                self.restarting = Some(Restarting::default());
            }
            Input::Complete => {
                if let Some(restarting) = &mut self.restarting {
                    restarting.complete = true;
                    self.finish_restart(now);
                }
            }
            Input::Drain => {
                self.draining = true;
                self.export_again(None);
            }
            Input::Shutdown { message } => self.shut_down(now, &message),
            Input::Leave => self.go_away(now),
            Input::ResetPeer { peer, message } => self.reset_peer(now, peer, &message),
            Input::EnablePeer { peer, enabled, message } => self.enable_peer(now, peer, enabled, &message),
            Input::Refresh { peer, import, export } => {
                if import {
                    self.import_again(peer, None);
                }
                for family in FAMILIES.into_iter().filter(|_| export) {
                    self.refresh(peer, family);
                }
            }
            Input::BfdDown(peer) => self.bfd_down(now, peer),
            Input::OnLink(on_link) => self.set_on_link(now, on_link),
        }
        self.settle(now);
    }

    fn drained(&mut self, conn: ConnId) {
        let Some(peer) = self.conns.get(&conn).copied() else { return };
        let Some(neighbor) = self.touch(peer) else { return };
        if let Some(c) = neighbor.conn(conn) {
            c.unsent = 0;
            c.draining = false;
        }
        if let Some(group) = neighbor.session.as_ref().filter(|s| s.conn == conn).map(|s| s.group) {
            self.dirty_groups.insert(group);
        }
    }

    /// The next output; `None`: nothing more for now.
    pub fn poll(&mut self) -> Option<Output> {
        if let Some((prefix, next_hops)) = self.table.next_news() {
            return Some(Output::Learned(Learned { prefix, next_hops }));
        }
        self.outputs.pop_front()
    }

    /// When a [`Input::Tick`] is wanted.
    pub fn deadline(&self) -> Option<Time> {
        let restart = self.restarting.and_then(|r| r.until);
        self.timers.first().map(|(at, _)| *at).into_iter().chain(restart).min()
    }

    /// Ends each call: timers that are due, advertisements, and the bytes that both produced.
    pub(crate) fn settle(&mut self, now: Time) {
        self.run_timers(now);
        self.advertise(now);
        self.table.settle();
        self.sweep_attributes();
        for peer in core::mem::take(&mut self.touched) {
            self.set_timer(peer);
            self.set_watch(peer);
            for conn in self.neighbors.get_mut(&peer).into_iter().flat_map(|n| &mut n.conns) {
                for bytes in conn.take() {
                    conn.unsent += bytes.len();
                    self.outputs.push_back(Output::Send { conn: conn.id, bytes });
                }
                // Small things need no answer; they are forgotten with the next large one.
                if conn.unsent >= DRAIN_AT && !conn.draining {
                    conn.draining = true;
                    self.outputs.push_back(Output::Drain { conn: conn.id });
                }
            }
        }
    }

    /// Forgets attributes that are not in use any more, when there are enough of them.
    fn sweep_attributes(&mut self) {
        let groups = self.groups.iter().flatten();
        let holders = self.table.len() + groups.map(Group::len).sum::<usize>();
        if !self.table.attributes.wants_sweep(holders) {
            return;
        }
        let mut marks = self.table.attributes.begin_sweep();
        self.table.mark(&mut marks);
        for group in self.groups.iter_mut().flatten() {
            group.mark_attributes(&mut marks);
        }
        self.table.attributes.end_sweep(&marks);
    }

    fn set_timer(&mut self, peer: IpAddr) {
        let deadline = self.neighbors.get(&peer).and_then(Neighbor::deadline);
        if let Some(old) = self.timer_of.remove(&peer) {
            self.timers.remove(&(old, peer));
        }
        if let Some(at) = deadline {
            self.timer_of.insert(peer, at);
            self.timers.insert((at, peer));
        }
    }

    fn set_watch(&mut self, peer: IpAddr) {
        let talks = self.global.is_some() && !self.shut_down;
        let watch = self.neighbors.get(&peer).filter(|_| talks).and_then(Neighbor::watch);
        let before = match watch {
            Some(watch) => self.watched.insert(peer, watch),
            None => self.watched.remove(&peer),
        };
        if before != watch {
            self.outputs.push_back(Output::Watch { peer, watch });
        }
    }

    /// Neighbours whose time has come.
    pub(crate) fn due(&mut self, now: Time) -> Vec<IpAddr> {
        // Whoever was touched in this call may be due at once.
        let touched = core::mem::take(&mut self.touched);
        for peer in &touched {
            self.set_timer(*peer);
        }
        self.touched = touched;
        self.timers.iter().take_while(|(at, _)| *at <= now).map(|(_, peer)| *peer).collect()
    }

    /// All neighbours, sorted by address.
    pub fn neighbors(&self) -> Vec<NeighborView> {
        self.neighbors
            .iter()
            .map(|(address, neighbor)| {
                let source = self.table.source(neighbor.source);
                let advertised = self.advertised(neighbor);
                let counts = [0, 1].map(|i| Counts {
                    received: source.received[i] as usize,
                    accepted: source.accepted[i] as usize,
                    advertised: advertised[i],
                });
                neighbor.view(*address, counts)
            })
            .collect()
    }

    /// Who we are, if we are configured.
    pub const fn global(&self) -> Option<&Global> {
        self.global.as_ref()
    }

    /// The Loc-RIB of a family, sorted by prefix, each prefix's best path first.
    pub fn rib(&self, family: Family) -> Vec<RibPath> {
        self.table.nets(family).flat_map(|net| self.paths(net)).collect()
    }

    /// The Loc-RIB's paths of a prefix, the best one first.
    pub fn lookup(&self, prefix: IpNet) -> Vec<RibPath> {
        self.table.find(prefix.trunc()).map(|net| self.paths(net).collect()).unwrap_or_default()
    }

    fn paths(&self, net: NetId) -> impl Iterator<Item = RibPath> {
        self.table
            .of_net(net)
            .enumerate()
            .filter_map(move |(i, (_, route))| Some(self.view(route, route.accepted?, i == 0)))
    }

    /// What a neighbour sent, before import, sorted by prefix; stale routes too.
    pub fn adj_in(&self, peer: IpAddr) -> Vec<RibPath> {
        let Some(neighbor) = self.neighbors.get(&peer) else { return Vec::new() };
        let mut paths: Vec<RibPath> = self
            .table
            .of_source(neighbor.source)
            .map(|(id, route)| {
                let best = self.table.best(route.net).is_some_and(|(best, _)| best == id);
                self.view(route, route.received, best)
            })
            .collect();
        paths.sort_by_key(|p| (p.prefix, p.path_id));
        paths
    }

    /// What a neighbour was told, sorted by prefix; empty for one that is not up.
    pub fn adj_out(&self, peer: IpAddr) -> Vec<RibPath> {
        let mut paths: Vec<RibPath> = self
            .told(peer)
            .map(|(net, path_id, shared, from)| {
                let shared = &self.table.attributes[shared];
                let route = self.table.of_net(net).find(|(_, r)| r.source == from);
                RibPath {
                    prefix: self.table.prefix(net),
                    path_id,
                    next_hop: shared.next_hop,
                    attributes: shared.attributes.clone(),
                    from: self.table.source(from).address,
                    router_id: self.table.source(from).router_id,
                    best: true,
                    multipath: true,
                    accepted: true,
                    stale: false,
                    since: route.map_or(Time::ZERO, |(_, r)| r.since()),
                }
            })
            .collect();
        paths.sort_by_key(|p| (p.prefix, p.path_id));
        paths
    }

    pub(crate) fn view(&self, route: &Route, shared: Shared, best: bool) -> RibPath {
        let shared = &self.table.attributes[shared];
        let source = self.table.source(route.source);
        RibPath {
            prefix: self.table.prefix(route.net),
            path_id: route.path_id,
            next_hop: shared.next_hop,
            attributes: shared.attributes.clone(),
            from: source.address,
            router_id: source.router_id,
            best,
            multipath: route.used,
            accepted: route.accepted.is_some(),
            stale: self.table.is_stale(route),
            since: route.since(),
        }
    }
}

/// When so many octets were sent, the driver is asked to say when they have left.
const DRAIN_AT: usize = 64 << 10;
