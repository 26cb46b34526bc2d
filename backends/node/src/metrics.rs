//! What Prometheus reads. Names, labels and types of kube-router's metrics are kube-router's; those of ours follow
//! Prometheus' own rules.

use fairway_backend_admin::client::Status;
use fairway_bgp::{NeighborView, SessionState};
use prometheus::core::Collector;
use prometheus::{Gauge, GaugeVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry, TextEncoder};

/// What a scrape shows.
#[derive(Debug)]
pub(crate) struct Scrape {
    pub(crate) status: Status,
    pub(crate) neighbors: Vec<NeighborView>,
    /// Our own AS number; 0: BGP does not run.
    pub(crate) asn: u32,
}

/// The text of a scrape (exposition format 0.0.4).
///
/// # Errors
/// If a name or a label is not possible, which is a mistake in this file.
pub(crate) fn text(scrape: &Scrape) -> Result<String, prometheus::Error> {
    let page = Page(Registry::new_custom(Some("kube_router".into()), None)?);
    page.kube_router(scrape)?;
    page.ours(scrape)?;
    TextEncoder::new().encode_to_string(&page.0.gather())
}

struct Page(Registry);

impl Page {
    fn add<C: Collector + Clone + 'static>(
        &self,
        metric: Result<C, prometheus::Error>,
    ) -> Result<C, prometheus::Error> {
        let metric = metric?;
        self.0.register(Box::new(metric.clone()))?;
        Ok(metric)
    }

    fn gauge(&self, name: &str, help: &str, value: u64) -> Result<(), prometheus::Error> {
        self.add(IntGauge::new(name, help))?.set(i64::try_from(value).unwrap_or(i64::MAX));
        Ok(())
    }

    fn counter(&self, name: &str, help: &str, value: u64) -> Result<(), prometheus::Error> {
        self.add(IntCounter::new(name, help))?.inc_by(value);
        Ok(())
    }

    /// kube-router's own.
    fn kube_router(&self, scrape: &Scrape) -> Result<(), prometheus::Error> {
        let labels = ["goversion", "version"];
        let build = self.add(IntGaugeVec::new(Opts::new("build_info", "Version of this daemon"), &labels))?;
        build.with_label_values(&["none", &scrape.status.version]).set(1);
        if scrape.asn != 0 {
            let opts = Opts::new("bgp_peer_info", "BGP neighbours; the value is always 1");
            let peers = self.add(IntGaugeVec::new(opts, &["address", "type", "asn", "state"]))?;
            for n in &scrape.neighbors {
                let kind = if n.asn == scrape.asn { "internal" } else { "external" };
                peers.with_label_values(&[&n.address.to_string(), kind, &n.asn.to_string(), state(n.state)]).set(1);
            }
            let updates = scrape.neighbors.iter().map(|n| n.got.update).sum();
            let help = "UPDATE messages received from the neighbours there are";
            self.counter("controller_bgp_advertisements_received", help, updates)?;
        }
        if let Some(routes) = scrape.status.planes.iter().find(|p| p.name == "route") {
            self.gauge("host_routes_synced", "Routes that should be in the kernel", routes.desired)?;
            self.counter("host_routes_added", "Routes written to the kernel", routes.puts)?;
            self.counter("host_routes_removed", "Routes deleted from the kernel", routes.deletes)?;
        }
        Ok(())
    }

    /// Ours: the API server.
    fn watches(&self, scrape: &Scrape) -> Result<(), prometheus::Error> {
        let gauges = |name: &str, help: &str| self.add(GaugeVec::new(Opts::new(name, help), &["resource"]));
        let counters = |name: &str, help: &str| self.add(IntCounterVec::new(Opts::new(name, help), &["resource"]));
        let behind = gauges("watch_behind_seconds", "How long the API server has not told changes; 0: it tells them")?;
        let help = "When the API server last said something; seconds since 1970";
        let contact = gauges("watch_last_contact_timestamp_seconds", help)?;
        let failures = counters("watch_failures_total", "Attempts to list or watch that failed")?;
        let lists = counters("watch_lists_total", "Lists that were read to their end")?;
        let events = counters("watch_events_total", "Events of watches")?;
        let stale = counters("watch_stale_events_total", "Events that were older than what was known")?;
        for watch in &scrape.status.watches {
            let label = [watch.resource.as_str()];
            behind.with_label_values(&label).set(watch.behind_ms as f64 / 1000.0);
            failures.with_label_values(&label).inc_by(watch.failures);
            lists.with_label_values(&label).inc_by(watch.lists);
            events.with_label_values(&label).inc_by(watch.events);
            stale.with_label_values(&label).inc_by(watch.stale);
            if let Some(at) = watch.last_contact_ms {
                contact.with_label_values(&label).set(at as f64 / 1000.0);
            }
        }
        Ok(())
    }

    /// Ours: planes, neighbours, notices.
    fn ours(&self, scrape: &Scrape) -> Result<(), prometheus::Error> {
        let gauges = |name: &str, help: &str| self.add(IntGaugeVec::new(Opts::new(name, help), &["plane"]));
        let counters = |name: &str, help: &str| self.add(IntCounterVec::new(Opts::new(name, help), &["plane"]));
        let desired = gauges("plane_desired_entries", "Entries that should be there")?;
        let pending = gauges("plane_pending_ops", "Entries that are not yet as they should be")?;
        let parked = gauges("plane_parked_keys", "Entries that were refused, or are taken by something not ours")?;
        let ops = counters("plane_ops_total", "Entries written and deleted")?;
        let refused = counters("plane_refused_total", "Ops that were refused")?;
        let faults = counters("plane_failures_total", "Requests that failed as a whole")?;
        let opts =
            Opts::new("plane_last_success_timestamp_seconds", "When a request last succeeded; seconds since 1970");
        let success = self.add(GaugeVec::new(opts, &["plane"]))?;
        let signed = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
        for plane in scrape.status.planes.iter().filter(|plane| plane.in_use) {
            let label = [plane.name.as_str()];
            desired.with_label_values(&label).set(signed(plane.desired));
            pending.with_label_values(&label).set(signed(plane.pending));
            parked.with_label_values(&label).set(signed(plane.parked.len() as u64));
            ops.with_label_values(&label).inc_by(plane.puts + plane.deletes);
            refused.with_label_values(&label).inc_by(plane.refused);
            faults.with_label_values(&label).inc_by(plane.faults);
            if let Some(at) = plane.succeeded_ms {
                success.with_label_values(&label).set(at as f64 / 1000.0);
            }
        }
        self.watches(scrape)?;
        let opts = Opts::new("bgp_peer_prefixes", "Prefixes of a neighbour: received, accepted, advertised");
        let prefixes = self.add(IntGaugeVec::new(opts, &["address", "family", "direction"]))?;
        let opts = Opts::new("bgp_peer_established_total", "How many sessions with a neighbour came up");
        let established = self.add(IntCounterVec::new(opts, &["address"]))?;
        for n in &scrape.neighbors {
            let address = n.address.to_string();
            let address = address.as_str();
            established.with_label_values(&[address]).inc_by(u64::from(n.established));
            for (family, counts) in ["ipv4", "ipv6"].iter().zip(n.by_family) {
                for (direction, count) in
                    [("received", counts.received), ("accepted", counts.accepted), ("advertised", counts.advertised)]
                {
                    prefixes.with_label_values(&[address, *family, direction]).set(signed(count as u64));
                }
            }
        }
        self.gauge("notices", "Standing notices: objects, flags and kernel entries not in effect", {
            scrape.status.notices.len() as u64
        })?;
        self.gauge("in_sync", "1: nothing is left to do before something changes", u64::from(scrape.status.in_sync))?;
        let help = "When this daemon started; seconds since 1970";
        self.add(Gauge::new("start_time_seconds", help))?.set(scrape.status.started_ms as f64 / 1000.0);
        Ok(())
    }
}

/// GoBGP's words for a state, which kube-router shows.
const fn state(state: SessionState) -> &'static str {
    match state {
        SessionState::Idle => "IDLE",
        SessionState::Connect => "CONNECT",
        SessionState::Active => "ACTIVE",
        SessionState::OpenSent => "OPENSENT",
        SessionState::OpenConfirm => "OPENCONFIRM",
        SessionState::Established => "ESTABLISHED",
    }
}
