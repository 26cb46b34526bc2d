//! The speaker, as `model.rs` wants it.
//!
//! Functions that take a [`Source`] run on the speaker, so they only copy; the rest runs on the server.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::time::SystemTime;

use fairway_bgp::{Input, NeighborView, RibPath, SessionState, Speaker, Time, wire};
use fairway_desired::bgp::{Community, Direction as PolicyDirection, Distance, Key, Value};
use fairway_desired::{Bgp, Family};
use ipnet::IpNet;

use crate::client::{Bfd, Status};
use crate::events::EventLog;
use crate::model::{
    AddPath, Capability, Counts, DefinedSet, Direction, FamilyState, Global, Members, Messages, Neighbor, Path, Policy,
    Reset, Restart, Sender, Statement, Table,
};

/// Runs a closure on the speaker, wherever it lives; the answer comes back.
pub type Job = Box<dyn FnOnce(&mut dyn Source) + Send>;

/// Where the speaker lives.
pub trait Source {
    /// The time, as the speaker's driver counts it.
    fn now(&self) -> Time;
    /// The speaker.
    fn speaker(&self) -> &Speaker;
    /// Tells the speaker something, and does what it then wants.
    fn input(&mut self, input: Input);
    /// What happened lately.
    fn events(&self) -> &EventLog;
    /// The node as a whole.
    fn status(&self) -> Status;
    /// The BFD session with a neighbour, if it is watched.
    fn bfd(&self, peer: IpAddr) -> Option<Bfd>;
    /// What the kernel has of the routes to a prefix, and why; one clause.
    fn kernel(&self, prefix: IpNet) -> String;
}

/// The speaker's time as the wall's.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    wall: SystemTime,
    now: Time,
}

impl Clock {
    pub(crate) fn take(source: &dyn Source) -> Self {
        Self { wall: SystemTime::now(), now: source.now() }
    }

    pub(crate) fn at(&self, time: Time) -> SystemTime {
        self.wall.checked_sub(self.now.saturating_sub(time)).unwrap_or(self.wall)
    }
}

/// The configuration, as it was applied.
#[derive(Debug)]
pub(crate) struct Config(fairway_desired::Table<Bgp>);

impl Config {
    /// Runs on the speaker.
    pub(crate) fn take(source: &dyn Source) -> Self {
        Self(source.speaker().observe())
    }

    pub(crate) fn global(&self) -> Global {
        match self.0.get(&Key::Global) {
            Some(Value::Global(g)) => {
                Global { asn: g.asn, router_id: Some(g.router_id), port: g.port, multipath: g.max_paths > 1 }
            }
            _ => Global::default(),
        }
    }

    /// The cluster of a reflector.
    fn cluster_id(&self) -> Option<Ipv4Addr> {
        match self.0.get(&Key::Global) {
            Some(Value::Global(g)) => Some(g.cluster_id.unwrap_or(g.router_id)),
            _ => None,
        }
    }

    /// Prefix sets, then neighbour sets, each by name.
    pub(crate) fn defined_sets(&self) -> Vec<DefinedSet> {
        let mut prefixes: BTreeMap<&str, Vec<(IpNet, u8, u8)>> = BTreeMap::new();
        let mut neighbors: BTreeMap<&str, Vec<IpNet>> = BTreeMap::new();
        for entry in &self.0 {
            match entry {
                (Key::PrefixMember(set, net), Value::PrefixMember { min, max }) => {
                    prefixes.entry(set).or_default().push((*net, *min, *max));
                }
                (Key::NeighborMember(set, net), _) => neighbors.entry(set).or_default().push(*net),
                _ => {}
            }
        }
        let prefixes = prefixes.into_iter().map(|(name, nets)| (name, Members::Prefixes(nets)));
        let neighbors = neighbors.into_iter().map(|(name, nets)| (name, Members::Neighbors(nets)));
        prefixes.chain(neighbors).map(|(name, members)| DefinedSet { name: name.to_owned(), members }).collect()
    }

    /// The policies there are, import first.
    pub(crate) fn policies(&self) -> Vec<Policy> {
        self.0
            .iter()
            .filter_map(|entry| match entry {
                (Key::Policy(direction), Value::Policy(policy)) => Some((direction, policy)),
                _ => None,
            })
            .map(|(direction, policy)| {
                // The names under which kube-router's users know them.
                let (direction, name) = match direction {
                    PolicyDirection::Import => (Direction::Import, "kube_router_import1"),
                    PolicyDirection::Export => (Direction::Export, "kube_router_export1"),
                };
                let statements = policy.statements.iter().map(statement).collect();
                Policy { name, direction, statements, default_accept: policy.default_accept }
            })
            .collect()
    }

    /// What is configured for a neighbour.
    fn neighbor(&self, address: IpAddr) -> Configured<'_> {
        if let Some(Value::Peer(peer)) = self.0.get(&Key::Peer(address)) {
            return Configured::Peer(peer);
        }
        let covering = self.0.iter().filter_map(|entry| match entry {
            (Key::Dynamic(range), Value::Dynamic(d)) if range.contains(&address) => Some((range.prefix_len(), d)),
            _ => None,
        });
        let longest = covering.max_by_key(|(len, _)| *len);
        longest.map_or(Configured::Nothing, |(_, dynamic)| Configured::Dynamic(dynamic))
    }
}

enum Configured<'a> {
    Peer(&'a fairway_desired::bgp::Peer),
    Dynamic(&'a fairway_desired::bgp::Dynamic),
    /// It was removed a moment ago.
    Nothing,
}

fn statement(s: &fairway_desired::bgp::Statement) -> Statement {
    Statement {
        name: s.name.to_string(),
        prefix_set: s.prefix_set.as_deref().map(str::to_owned),
        neighbor_set: s.neighbor_set.as_deref().map(str::to_owned),
        accept: s.accept,
        prepend: s.modify.prepend,
        next_hop_self: s.modify.next_hop_self,
        communities: of_kind(&s.modify.communities, |c| match c {
            Community::Standard(c) => Some(c),
            _ => None,
        }),
        large_communities: of_kind(&s.modify.communities, |c| match c {
            Community::Large(c) => Some(c),
            _ => None,
        }),
        ext_communities: of_kind(&s.modify.communities, |c| match c {
            Community::Extended(c) => Some(c),
            _ => None,
        }),
    }
}

fn of_kind<T>(communities: &[Community], kind: impl Fn(Community) -> Option<T>) -> Vec<T> {
    communities.iter().copied().filter_map(kind).collect()
}

/// Neighbours, copied from the speaker.
#[derive(Debug)]
pub(crate) struct Neighbors {
    clock: Clock,
    config: Config,
    views: Vec<NeighborView>,
}

impl Neighbors {
    /// All, or one. Runs on the speaker.
    pub(crate) fn take(source: &dyn Source, only: Option<IpAddr>) -> Self {
        let mut views = source.speaker().neighbors();
        views.retain(|view| only.is_none_or(|address| view.address == address));
        Self { clock: Clock::take(source), config: Config::take(source), views }
    }

    pub(crate) fn into_model(self) -> impl Iterator<Item = Neighbor> + Send {
        let Self { clock, config, views } = self;
        let local_asn = config.global().asn;
        views.into_iter().map(move |view| neighbor(view, &config, clock, local_asn))
    }
}

fn neighbor(view: NeighborView, config: &Config, clock: Clock, local_asn: u32) -> Neighbor {
    let configured = config.neighbor(view.address);
    let up = view.state == SessionState::Established;
    let session = match &configured {
        Configured::Peer(p) => Some(&p.session),
        Configured::Dynamic(d) => Some(&d.session),
        Configured::Nothing => None,
    };
    let local = match &configured {
        Configured::Peer(p) => p.local,
        _ => None,
    };
    let multihop_ttl = session.and_then(|s| match s.distance {
        Distance::Multihop(ttl) => Some(ttl),
        Distance::Default | Distance::Security(_) => None,
    });
    let families: Vec<Family> =
        [Family::V4, Family::V6].into_iter().filter(|family| view.families.has(*family)).collect();
    let has_mode = |list: &[wire::Capability], family, bit: u8| {
        list.iter().any(|c| match c {
            wire::Capability::AddPath(list) => {
                list.iter().any(|(afi, _, mode)| wire::family_of(*afi) == Some(family) && mode & bit != 0)
            }
            _ => false,
        })
    };
    // RFC 7911: 1 receives, 2 sends.
    let receives = |family| has_mode(&view.ours, family, 1) && has_mode(&view.theirs, family, 2);
    let sends = |family| has_mode(&view.ours, family, 2) && has_mode(&view.theirs, family, 1);
    let graceful = session.and_then(|s| s.graceful_restart);
    Neighbor {
        address: view.address,
        asn: view.asn,
        local_asn: view.local_asn.unwrap_or(local_asn),
        local: view.local.or(local),
        port: view.port,
        passive: view.passive,
        multihop_ttl,
        state: view.state,
        admin_down: view.disabled,
        since: view.since.map(|since| clock.at(since)),
        router_id: view.router_id,
        flaps: view.established.saturating_sub(u32::from(up)),
        hold_configured_s: session.map_or(view.hold_s, |s| s.hold_s),
        hold_negotiated_s: if up { view.hold_s } else { 0 },
        sent: messages(view.sent),
        received: messages(view.got),
        families: families
            .iter()
            .map(|family| {
                let counts = view.by_family[*family as usize];
                FamilyState {
                    family: *family,
                    received: counts.received as u64,
                    accepted: counts.accepted as u64,
                    advertised: counts.advertised as u64,
                    restart: view.restart_s.is_some(),
                    addpath_receive: receives(*family),
                    addpath_send: if sends(*family) { session.map_or(0, |s| u32::from(s.add_path.send)) } else { 0 },
                }
            })
            .collect(),
        restart: graceful.map(|g| Restart {
            time_s: u32::from(g.time_s),
            peer_time_s: view.restart_s.map_or(0, u32::from),
            peer_restarting: view.stale && !up,
        }),
        route_reflector_client: view.client,
        cluster_id: config.cluster_id().filter(|_| view.client),
        our_capabilities: view.ours.iter().filter_map(capability).collect(),
        their_capabilities: view.theirs.iter().filter_map(capability).collect(),
        last_error: view.last_error,
    }
}

fn messages(m: fairway_bgp::Messages) -> Messages {
    Messages {
        open: m.open,
        notification: m.notification,
        update: m.update,
        keepalive: m.keepalive,
        refresh: m.refresh,
    }
}

/// A capability that the client has a form for; `None`: it is not shown.
fn capability(capability: &wire::Capability) -> Option<Capability> {
    Some(match capability {
        wire::Capability::Multiprotocol { afi, safi: 1 } => Capability::MultiProtocol(wire::family_of(*afi)?),
        wire::Capability::RouteRefresh => Capability::RouteRefresh,
        wire::Capability::FourOctetAs(asn) => Capability::FourOctetAs(*asn),
        wire::Capability::GracefulRestart { restarted, time_s, families, .. } => Capability::GracefulRestart {
            restarting: *restarted,
            time_s: *time_s,
            families: families.iter().filter_map(|f| Some((wire::family_of(f.afi)?, f.forwarding))).collect(),
        },
        wire::Capability::AddPath(list) => {
            let list = list.iter().filter(|(_, safi, _)| *safi == 1);
            Capability::AddPath(
                list.filter_map(|(afi, _, mode)| {
                    Some((wire::family_of(*afi)?, AddPath { receive: mode & 1 != 0, send: mode & 2 != 0 }))
                })
                .collect(),
            )
        }
        _ => return None,
    })
}

/// Routes, copied from the speaker.
#[derive(Debug)]
pub(crate) struct Routes {
    clock: Clock,
    table: Table,
    local_asn: u32,
    senders: BTreeMap<IpAddr, NeighborView>,
    paths: Vec<RibPath>,
}

impl Routes {
    /// `None`: no such neighbour. Runs on the speaker.
    pub(crate) fn take(source: &dyn Source, table: Table, family: Family) -> Option<Self> {
        let speaker = source.speaker();
        let senders: BTreeMap<IpAddr, NeighborView> =
            speaker.neighbors().into_iter().map(|view| (view.address, view)).collect();
        let mut paths = match table {
            Table::Global => speaker.rib(family),
            Table::AdjIn(peer) | Table::AdjOut(peer) if !senders.contains_key(&peer) => return None,
            Table::AdjIn(peer) => speaker.adj_in(peer),
            Table::AdjOut(peer) => speaker.adj_out(peer),
        };
        paths.retain(|path| Family::of(path.prefix.addr()) == family);
        let local_asn = speaker.global().map_or(0, |g| g.asn);
        Some(Self { clock: Clock::take(source), table, local_asn, senders, paths })
    }

    pub(crate) fn prefixes(&self) -> impl Iterator<Item = &IpNet> {
        self.paths.iter().map(|path| &path.prefix)
    }

    pub(crate) fn counts(&self) -> Counts {
        let paths = self.paths.len() as u64;
        let accepted = self.paths.iter().filter(|path| path.accepted).count() as u64;
        let destinations = self.paths.chunk_by(|a, b| a.prefix == b.prefix).count() as u64;
        Counts { destinations, paths, accepted: if matches!(self.table, Table::AdjIn(_)) { accepted } else { 0 } }
    }

    /// Paths to one prefix stand together, the best first.
    pub(crate) fn into_model(self) -> impl Iterator<Item = Path> + Send {
        let Self { clock, table, local_asn, senders, paths } = self;
        paths.into_iter().map(move |path| {
            let from = path.from.map(|address| {
                let view = senders.get(&address);
                let asn = view.map_or(0, |view| view.asn);
                Sender {
                    address,
                    asn,
                    router_id: view.and_then(|view| view.router_id),
                    external: view.is_some() && asn != local_asn,
                }
            });
            let (received_id, sent_id) =
                if matches!(table, Table::AdjOut(_)) { (0, path.path_id) } else { (path.path_id, 0) };
            let a = path.attributes;
            Path {
                prefix: path.prefix,
                next_hop: path.next_hop,
                as_path: a.as_path.flatten(),
                origin: a.origin,
                med: a.med,
                local_pref: a.local_pref,
                communities: a.communities,
                ext_communities: a.ext_communities,
                large_communities: a.large_communities,
                originator: a.originator,
                cluster_list: a.cluster_list,
                best: path.best && table == Table::Global,
                stale: path.stale,
                since: clock.at(path.since),
                from,
                received_id,
                sent_id,
            }
        })
    }
}

/// What a client wants of neighbours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wish {
    /// End the session and let it come back, or evaluate and send again.
    Reset(Reset),
    /// Turn it off, or on again.
    Enable(bool),
}

/// Does so with one neighbour, or all; whether there is such a neighbour. Runs on the speaker.
pub(crate) fn reset(source: &mut dyn Source, only: Option<IpAddr>, wish: Wish, message: &str) -> bool {
    let mut peers: Vec<IpAddr> = source.speaker().neighbors().into_iter().map(|view| view.address).collect();
    peers.retain(|peer| only.is_none_or(|only| *peer == only));
    if only.is_some() && peers.is_empty() {
        return false;
    }
    for peer in peers {
        let message = message.to_owned();
        source.input(match wish {
            Wish::Reset(Reset::Hard) => Input::ResetPeer { peer, message },
            Wish::Reset(Reset::SoftIn) => Input::Refresh { peer, import: true, export: false },
            Wish::Reset(Reset::SoftOut) => Input::Refresh { peer, import: false, export: true },
            Wish::Reset(Reset::SoftBoth) => Input::Refresh { peer, import: true, export: true },
            Wish::Enable(enabled) => Input::EnablePeer { peer, enabled, message },
        });
    }
    true
}
