//! `fairway.v1`: what `fairway bgp` and `fairway status` ask. Straight from views to messages, as the two agree.

use std::net::IpAddr;
use std::pin::Pin;
use std::time::{SystemTime, UNIX_EPOCH};

use fairway_bgp::{Event, Explanation, NeighborView, Origin, RibPath, wire};
use fairway_desired::Family;
use ipnet::IpNet;
use tokio_stream::{Stream, StreamExt};
use tonic::{Request, Response, Status};

use crate::events::Record;
use crate::proto::own::bgp_server::{Bgp, BgpServer};
use crate::proto::own::list_paths_request::Table;
use crate::proto::own::node_server::{Node, NodeServer};
use crate::proto::own::{
    self as proto, Advertisement, ExplainRequest, ExplainedPath, FamilyCounts, ListEventsRequest, ListNeighborsRequest,
    ListPathsRequest, Neighbor, Path,
};
use crate::service::{Admin, Pieces, Refusal, pieces};
use crate::source::{Clock, Source};

/// The service.
pub(crate) fn server(admin: Admin) -> BgpServer<Service> {
    BgpServer::new(Service(admin))
}

/// The service about the node as a whole.
pub(crate) fn node_server(admin: Admin) -> NodeServer<Service> {
    NodeServer::new(Service(admin))
}

#[derive(Debug)]
pub(crate) struct Service(Admin);

#[tonic::async_trait]
impl Node for Service {
    async fn get_status(&self, _: Request<proto::GetStatusRequest>) -> Result<Response<proto::Status>, Status> {
        Ok(Response::new(self.0.ask(|source| source.status()).await?))
    }
}

#[tonic::async_trait]
impl Bgp for Service {
    type ListNeighborsStream = Pieces<Neighbor>;
    type ListPathsStream = Pieces<Path>;
    type ListEventsStream = Pin<Box<dyn Stream<Item = Result<proto::Event, Status>> + Send>>;

    async fn list_neighbors(
        &self,
        request: Request<ListNeighborsRequest>,
    ) -> Result<Response<Self::ListNeighborsStream>, Status> {
        let address = request.into_inner().address;
        let only = (!address.is_empty()).then(|| address.parse::<IpAddr>()).transpose();
        let only = only.map_err(|_| Refusal::Address(address.clone()))?;
        let take = move |source: &mut dyn Source| {
            let mut views = source.speaker().neighbors();
            views.retain(|view| only.is_none_or(|only| view.address == only));
            let views: Vec<_> = views.into_iter().map(|view| (source.bfd(view.address), view)).collect();
            (Clock::take(source), views)
        };
        let (clock, views) = self.0.ask(take).await?;
        if only.is_some() && views.is_empty() {
            return Err(Refusal::Neighbor(address).into());
        }
        Ok(Response::new(pieces(views.into_iter().map(move |(bfd, view)| Neighbor { bfd, ..neighbor(view, clock) }))))
    }

    async fn list_paths(&self, request: Request<ListPathsRequest>) -> Result<Response<Self::ListPathsStream>, Status> {
        let request = request.into_inner();
        let table = request.table();
        let wanted = match request.prefix.as_str() {
            "" => None,
            text => Some(Wanted::parse(text)?),
        };
        let peer = match table {
            Table::LocRib => None,
            Table::AdjRibIn | Table::AdjRibOut => {
                Some(request.neighbor.parse::<IpAddr>().map_err(|_| Refusal::Address(request.neighbor.clone()))?)
            }
        };
        let family = match wanted {
            Some(Wanted::Prefix(net)) => Family::of(net.addr()),
            Some(Wanted::Address(address)) => Family::of(address),
            None if request.ipv6 => Family::V6,
            None => Family::V4,
        };
        let permit = self.0.permit()?;
        let take = move |source: &mut dyn Source| {
            let speaker = source.speaker();
            let paths = match (table, peer, wanted) {
                (_, Some(peer), _) if !speaker.neighbors().iter().any(|view| view.address == peer) => return None,
                (Table::AdjRibIn, Some(peer), _) => speaker.adj_in(peer),
                (Table::AdjRibOut, Some(peer), _) => speaker.adj_out(peer),
                (_, _, Some(wanted)) => {
                    let found = wanted.prefixes().map(|net| speaker.lookup(net)).find(|paths| !paths.is_empty());
                    found.unwrap_or_default()
                }
                _ => speaker.rib(family),
            };
            Some((Clock::take(source), paths))
        };
        let taken = self.0.ask(take).await?;
        let (clock, mut paths) = taken.ok_or_else(|| Refusal::Neighbor(request.neighbor.clone()))?;
        paths.retain(|path| Family::of(path.prefix.addr()) == family);
        if let Some(wanted) = wanted {
            let longest = wanted.prefixes().find(|net| paths.iter().any(|path| path.prefix == *net));
            paths.retain(|path| Some(path.prefix) == longest);
        }
        Ok(Response::new(pieces(paths.into_iter().map(move |p| {
            let _held = &permit;
            path(p, clock)
        }))))
    }

    async fn explain(&self, request: Request<ExplainRequest>) -> Result<Response<proto::Explanation>, Status> {
        let text = request.into_inner().prefix;
        let wanted = Wanted::parse(&text)?;
        let take = move |source: &mut dyn Source| {
            let explanation = wanted.prefixes().find_map(|net| source.speaker().explain(net))?;
            let kernel = source.kernel(explanation.prefix);
            Some((Clock::take(source), explanation, kernel))
        };
        let (clock, explanation, kernel) = self.0.ask(take).await?.ok_or(Refusal::Unknown(text))?;
        Ok(Response::new(explained(explanation, kernel, clock)))
    }

    async fn list_events(
        &self,
        request: Request<ListEventsRequest>,
    ) -> Result<Response<Self::ListEventsStream>, Status> {
        let follow = request.into_inner().follow;
        let take = |source: &mut dyn Source| (source.events().records(), source.events().follow());
        let (records, later) = self.0.ask(take).await?;
        let past = tokio_stream::iter(records.into_iter().map(|record| Ok(event(record))));
        if !follow {
            return Ok(Response::new(Box::pin(past)));
        }
        let later = tokio_stream::wrappers::BroadcastStream::new(later);
        let later = later.map(|record| {
            record.map(event).map_err(|_| Status::data_loss("events came faster than they were read; some are missing"))
        });
        Ok(Response::new(Box::pin(past.chain(later))))
    }
}

/// A prefix, or whatever has an address.
#[derive(Clone, Copy, Debug)]
enum Wanted {
    Prefix(IpNet),
    Address(IpAddr),
}

impl Wanted {
    fn parse(text: &str) -> Result<Self, Refusal> {
        let address = text.parse().map(Wanted::Address);
        let prefix = || text.parse::<IpNet>().map(|net| Wanted::Prefix(net.trunc()));
        address.or_else(|_| prefix()).map_err(|_| Refusal::Prefix(text.to_owned()))
    }

    /// What to look for, the longest first.
    fn prefixes(self) -> impl Iterator<Item = IpNet> {
        let (address, longest, shortest) = match self {
            Wanted::Prefix(net) => (net.addr(), net.prefix_len(), net.prefix_len()),
            Wanted::Address(address) => (address, IpNet::from(address).max_prefix_len(), 0),
        };
        (shortest..=longest).rev().filter_map(move |len| IpNet::new(address, len).ok()).map(|net| net.trunc())
    }
}

fn ms(at: SystemTime) -> u64 {
    u64::try_from(at.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis()).unwrap_or(u64::MAX)
}

const fn family_name(family: Family) -> &'static str {
    match family {
        Family::V4 => "ipv4",
        Family::V6 => "ipv6",
    }
}

fn neighbor(view: NeighborView, clock: Clock) -> Neighbor {
    let families = [Family::V4, Family::V6].into_iter().filter(|family| view.families.has(*family));
    Neighbor {
        address: view.address.to_string(),
        asn: view.asn,
        local_asn: view.local_asn.unwrap_or_default(),
        local_address: view.local.map(|a| a.to_string()),
        router_id: view.router_id.map(|id| id.to_string()),
        state: view.state.as_str().into(),
        disabled: view.disabled,
        since_ms: view.since.map(|at| ms(clock.at(at))),
        established: view.established,
        hold_s: view.hold_s.into(),
        families: families
            .map(|family| {
                let counts = view.by_family[family as usize];
                FamilyCounts {
                    family: family_name(family).into(),
                    received: counts.received as u64,
                    accepted: counts.accepted as u64,
                    advertised: counts.advertised as u64,
                }
            })
            .collect(),
        dynamic: view.dynamic,
        passive: view.passive,
        reflector_client: view.client,
        graceful_restart_s: view.restart_s.map(u32::from),
        stale: view.stale,
        last_error: view.last_error,
        capabilities_sent: view.ours.iter().map(capability).collect(),
        capabilities_received: view.theirs.iter().map(capability).collect(),
        messages_sent: view.sent.total(),
        messages_received: view.got.total(),
        bfd: None,
    }
}

fn capability(capability: &wire::Capability) -> String {
    let family = |afi: u16, safi: u8| match (wire::family_of(afi), safi) {
        (Some(family), 1) => family_name(family).to_string(),
        _ => format!("{afi}/{safi}"),
    };
    let list = |words: Vec<String>| words.join(" ");
    match capability {
        wire::Capability::Multiprotocol { afi, safi } => format!("multiprotocol {}", family(*afi, *safi)),
        wire::Capability::RouteRefresh => "route refresh".into(),
        wire::Capability::ExtendedNextHop(all) => {
            let one = |(afi, safi, next_hop): &(u16, u16, u16)| {
                let safi = u8::try_from(*safi).unwrap_or_default();
                format!("{} by {}", family(*afi, safi), family(*next_hop, 1))
            };
            format!("extended next hop {}", list(all.iter().map(one).collect()))
        }
        wire::Capability::ExtendedMessage => "extended message".into(),
        wire::Capability::GracefulRestart { restarted, notification, time_s, families } => {
            let restarted = if *restarted { " restarted" } else { "" };
            let notification = if *notification { " notification" } else { "" };
            let kept = |f: &wire::RestartFamily| {
                format!("{}{}", family(f.afi, f.safi), if f.forwarding { " (forwarding)" } else { "" })
            };
            let families = list(families.iter().map(kept).collect());
            format!("graceful restart {time_s} s{restarted}{notification} {families}").trim_end().into()
        }
        wire::Capability::FourOctetAs(asn) => format!("four-octet AS {asn}"),
        wire::Capability::AddPath(all) => {
            let one = |(afi, safi, mode): &(u16, u8, u8)| {
                let mode = match mode {
                    1 => "receive",
                    2 => "send",
                    3 => "both",
                    _ => "?",
                };
                format!("{} {mode}", family(*afi, *safi))
            };
            format!("ADD-PATH {}", list(all.iter().map(one).collect()))
        }
        wire::Capability::EnhancedRefresh => "enhanced route refresh".into(),
        wire::Capability::LongLived(all) => {
            let one = |f: &wire::StaleFamily| format!("{} {} s", family(f.afi, f.safi), f.time_s);
            format!("long-lived graceful restart {}", list(all.iter().map(one).collect()))
        }
        wire::Capability::Unknown { code, .. } => format!("code {code}"),
    }
}

fn path(path: RibPath, clock: Clock) -> Path {
    let a = path.attributes;
    let standard = a.communities.iter().map(|c| format!("{}:{}", c >> 16, c & 0xffff));
    let large = a.large_communities.iter().map(|[x, y, z]| format!("{x}:{y}:{z}"));
    let extended = a.ext_communities.iter().map(|c| c.iter().map(|octet| format!("{octet:02x}")).collect());
    Path {
        prefix: path.prefix.to_string(),
        next_hop: path.next_hop.to_string(),
        as_path: a.as_path.flatten(),
        origin: match a.origin {
            Origin::Igp => "igp",
            Origin::Egp => "egp",
            Origin::Incomplete => "incomplete",
        }
        .into(),
        med: a.med,
        local_pref: a.local_pref,
        communities: standard.chain(large).chain(extended).collect(),
        originator: a.originator.map(|id| id.to_string()),
        cluster_list: a.cluster_list.iter().map(ToString::to_string).collect(),
        from: path.from.map(|from| from.to_string()),
        best: path.best,
        used: path.multipath,
        accepted: path.accepted,
        stale: path.stale,
        path_id: path.path_id,
        since_ms: ms(clock.at(path.since)),
    }
}

fn explained(explanation: Explanation, kernel: String, clock: Clock) -> proto::Explanation {
    let paths = explanation.paths.into_iter();
    let neighbors = explanation.neighbors.into_iter();
    proto::Explanation {
        prefix: explanation.prefix.to_string(),
        paths: paths.map(|(p, verdict)| ExplainedPath { path: Some(path(p, clock)), verdict }).collect(),
        neighbors: neighbors
            .map(|(neighbor, advertised, reason)| Advertisement { neighbor: neighbor.to_string(), advertised, reason })
            .collect(),
        next_hops: explanation.next_hops.iter().map(ToString::to_string).collect(),
        kernel,
    }
}

fn event(record: Record) -> proto::Event {
    let (kind, neighbor) = match &record.event {
        Event::Established { peer, .. } => ("established", peer),
        Event::Down { peer, .. } => ("down", peer),
        Event::Failed { peer, .. } => ("failed", peer),
        Event::Rejected { source } => ("rejected", source),
        Event::Malformed { peer, .. } => ("malformed", peer),
        Event::Discarded { peer, .. } => ("discarded", peer),
        Event::NearLimit { peer, .. } => ("near-limit", peer),
        Event::Retained { peer, .. } => ("retained", peer),
        Event::Swept { peer, .. } => ("swept", peer),
    };
    let neighbor = Some(neighbor.to_string());
    proto::Event { at_ms: ms(record.at), neighbor, kind: kind.into(), text: record.event.to_string() }
}
