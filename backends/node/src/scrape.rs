//! What a scrape shows, gathered a piece at a time: whoever scrapes holds up the agent's loop for no more than one piece,
//! and IPVS is asked over a socket of its own, beside the loop.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use fairway_agent::{Agent, Announced, Latency, Owned};
use fairway_backend_admin::Source;
use fairway_backend_admin::client::Status;
use fairway_backend_ipvs::{IpvsBackend, Traffic};
use fairway_bgp::NeighborView;
use fairway_desired::PlaneId;
use fairway_desired::ipvs::VirtualServerKey;

use crate::ask::Ask;
use crate::timings::Timings;

/// Virtual servers that are copied in one turn of the agent's loop.
const PAGE: usize = 512;

/// What a scrape shows.
#[derive(Debug)]
pub(crate) struct Scrape {
    pub(crate) status: Status,
    pub(crate) neighbors: Vec<NeighborView>,
    /// Our own AS number; 0: BGP does not run.
    pub(crate) asn: u32,
    pub(crate) router: bool,
    pub(crate) announced: Announced,
    /// From an object's change to the kernel, of the planes in use.
    pub(crate) latencies: Vec<(PlaneId, Latency)>,
    /// With the service proxy.
    pub(crate) ipvs: Option<IpvsScrape>,
    pub(crate) timings: Timings,
}

/// The counters of IPVS.
#[derive(Debug, Default)]
pub(crate) struct IpvsScrape {
    /// Virtual servers in the kernel, whoever's they are. `None`: they could not be read.
    pub(crate) servers: Option<usize>,
    /// Those of services.
    pub(crate) services: Vec<(Owned, Traffic)>,
}

/// Whoever gathers. Its clones share one socket.
#[derive(Clone, Debug)]
pub(crate) struct Scraper {
    ask: Ask,
    router: bool,
    proxy: bool,
    timings: Timings,
    /// Opened at the first scrape.
    ipvs: Arc<Mutex<Option<IpvsBackend>>>,
}

impl Scraper {
    pub(crate) fn new(ask: Ask, router: bool, proxy: bool, timings: Timings) -> Scraper {
        Scraper { ask, router, proxy, timings, ipvs: Arc::default() }
    }

    /// `None`: the agent's loop does not answer.
    pub(crate) async fn scrape(&self) -> Option<Scrape> {
        let take = |source: &mut dyn Source| {
            let asn = source.speaker().global().map_or(0, |global| global.asn);
            (source.status(), source.speaker().neighbors(), asn)
        };
        let (status, neighbors, asn) = self.ask.source(take).await?;
        let take = |agent: &Agent| {
            let planes = agent.planes().into_iter().filter(|plane| plane.in_use);
            (agent.announced(), planes.map(|plane| (plane.plane, plane.latency)).collect())
        };
        let (announced, latencies) = self.ask.agent(take).await?;
        let ipvs = if self.proxy { Some(self.ipvs().await?) } else { None };
        let (router, timings) = (self.router, self.timings.clone());
        Some(Scrape { status, neighbors, asn, router, announced, latencies, ipvs, timings })
    }

    async fn ipvs(&self) -> Option<IpvsScrape> {
        let begin = Instant::now();
        let ipvs = Arc::clone(&self.ipvs);
        // A thread that is made here is in our network namespace.
        let read = tokio::task::spawn_blocking(move || {
            let mut ipvs = ipvs.lock().unwrap_or_else(PoisonError::into_inner);
            if ipvs.is_none() {
                *ipvs = IpvsBackend::new().ok();
            }
            ipvs.as_mut().and_then(|ipvs| ipvs.traffic().ok())
        });
        let Ok(Some(servers)) = read.await else { return Some(IpvsScrape::default()) };
        let mut found = IpvsScrape { servers: Some(servers.len()), services: vec![] };
        let mut traffic: BTreeMap<VirtualServerKey, Traffic> = servers.into_iter().collect();
        let mut after: Option<VirtualServerKey> = None;
        loop {
            let from = after.take();
            let page = self.ask.agent(move |agent| agent.owned(from.as_ref(), PAGE)).await?;
            let more = page.len() == PAGE;
            after = page.last().map(|owned| owned.key.clone());
            for owned in page {
                if let Some(traffic) = traffic.remove(&owned.key) {
                    found.services.push((owned, traffic));
                }
            }
            if !more {
                break;
            }
        }
        self.timings.export(begin.elapsed());
        Some(found)
    }
}
