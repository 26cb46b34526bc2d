//! How long work takes, as histograms with the buckets of Prometheus' own clients.

use std::sync::Arc;
use std::time::Duration;

use fairway_desired::PlaneId;
use prometheus::core::Collector;
use prometheus::{Histogram, HistogramOpts, Registry};

/// The histograms. All threads of a node share them.
#[derive(Clone, Debug)]
pub(crate) struct Timings(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    ipvs: Histogram,
    routes: Histogram,
    peers: Histogram,
    bgp: Histogram,
    export: Histogram,
}

impl Timings {
    /// # Errors
    /// If a name is not possible, which is a mistake in this file.
    pub(crate) fn new() -> Result<Timings, prometheus::Error> {
        let new =
            |name: &str, help: &str| Histogram::with_opts(HistogramOpts::new(name, help).namespace("kube_router"));
        Ok(Timings(Arc::new(Inner {
            ipvs: new("controller_ipvs_services_sync_time", "Reading or writing IPVS, one request; seconds")?,
            routes: new("host_routes_sync_time", "Reading or writing routes, one request; seconds")?,
            peers: new("controller_bgp_internal_peers_sync_time", "Turns in which BGP's peers changed; seconds")?,
            bgp: new("controller_routes_sync_time", "Turns in which BGP's configuration changed; seconds")?,
            export: new("controller_ipvs_metrics_export_time", "Reading the counters of IPVS for a scrape; seconds")?,
        })))
    }

    /// A request to the kernel took so long.
    pub(crate) fn request(&self, plane: PlaneId, took: Duration) {
        match plane {
            PlaneId::Ipvs => self.0.ipvs.observe(took.as_secs_f64()),
            PlaneId::Route => self.0.routes.observe(took.as_secs_f64()),
            _ => {}
        }
    }

    /// A turn of the agent's in which BGP got another configuration, and perhaps other peers.
    pub(crate) fn bgp(&self, took: Duration, peers: bool) {
        self.0.bgp.observe(took.as_secs_f64());
        if peers {
            self.0.peers.observe(took.as_secs_f64());
        }
    }

    /// The counters of IPVS were read for a scrape.
    pub(crate) fn export(&self, took: Duration) {
        self.0.export.observe(took.as_secs_f64());
    }

    /// Adds those that a node with these features has.
    ///
    /// # Errors
    /// If a name is there already.
    pub(crate) fn register(&self, page: &Registry, proxy: bool, router: bool) -> Result<(), prometheus::Error> {
        let add = |histogram: &Histogram| page.register(Box::new(histogram.clone()) as Box<dyn Collector>);
        add(&self.0.export)?;
        if proxy {
            add(&self.0.ipvs)?;
        }
        if router {
            add(&self.0.routes)?;
            add(&self.0.peers)?;
            add(&self.0.bgp)?;
        }
        Ok(())
    }
}
