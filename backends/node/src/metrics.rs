//! What Prometheus reads. Names, labels and types of kube-router's metrics are kube-router's; those of ours follow
//! Prometheus' own rules.

use std::time::Duration;

use fairway_agent::{Latency, Owned};
use fairway_backend_ipvs::Traffic;
use fairway_bgp::SessionState;
use fairway_desired::{PlaneId, Protocol};
use prometheus::core::Collector;
use prometheus::proto::{self, MetricFamily, MetricType};
use prometheus::{Gauge, GaugeVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry, TextEncoder};

use crate::process;
use crate::scrape::Scrape;

/// A metric with all its values.
pub(crate) type Family = MetricFamily;
type Labels = Vec<(&'static str, String)>;

/// A metric of values that are known, each with its labels.
pub(crate) fn family(name: &str, help: &str, kind: MetricType, values: Vec<(Labels, f64)>) -> Family {
    let metric = |(labels, value): (Labels, f64)| {
        let mut metric = metric(labels);
        match kind {
            MetricType::COUNTER => {
                let mut counter = proto::Counter::default();
                counter.set_value(value);
                metric.set_counter(counter);
            }
            _ => {
                let mut gauge = proto::Gauge::default();
                gauge.set_value(value);
                metric.set_gauge(gauge);
            }
        }
        metric
    };
    named(name, help, kind, values.into_iter().map(metric).collect())
}

fn named(name: &str, help: &str, kind: MetricType, metrics: Vec<proto::Metric>) -> Family {
    let mut family = Family::default();
    family.set_name(name.into());
    family.set_help(help.into());
    family.set_field_type(kind);
    family.set_metric(metrics);
    family
}

fn metric(labels: Labels) -> proto::Metric {
    let pair = |(name, value): (&str, String)| {
        let mut pair = proto::LabelPair::default();
        pair.set_name(name.into());
        pair.set_value(value);
        pair
    };
    proto::Metric::from_label(labels.into_iter().map(pair).collect())
}

/// From the arrival of objects' changes to the kernel's word.
fn programming(latencies: &[(PlaneId, Latency)]) -> Family {
    let one = |(plane, latency): &(PlaneId, Latency)| {
        let bucket = |(bound, count): (Duration, u64)| {
            let mut bucket = proto::Bucket::default();
            bucket.set_upper_bound(bound.as_secs_f64());
            bucket.set_cumulative_count(count);
            bucket
        };
        let mut histogram = proto::Histogram::default();
        histogram.set_bucket(latency.buckets().map(bucket).collect());
        histogram.set_sample_count(latency.len());
        histogram.set_sample_sum(latency.sum().as_secs_f64());
        let mut metric = metric(vec![("plane", plane.as_str().into())]);
        metric.set_histogram(histogram);
        metric
    };
    let help = "From the arrival of an object's change to the kernel's word that an entry is in place; seconds";
    let name = "kube_router_plane_programming_seconds";
    named(name, help, MetricType::HISTOGRAM, latencies.iter().map(one).collect())
}

/// The counters of virtual servers, by service.
fn services(services: &[(Owned, Traffic)]) -> Vec<Family> {
    use MetricType::{COUNTER, GAUGE};
    type Field = fn(&Traffic) -> u64;
    let rows: [(&str, &str, MetricType, Field); 10] = [
        ("total_connections", "Connections", COUNTER, |t| t.connections),
        ("packets_in", "Packets from clients", COUNTER, |t| t.packets_in),
        ("packets_out", "Packets to clients", COUNTER, |t| t.packets_out),
        ("bytes_in", "Bytes from clients", COUNTER, |t| t.bytes_in),
        ("bytes_out", "Bytes to clients", COUNTER, |t| t.bytes_out),
        ("cps", "Connections per second", GAUGE, |t| t.connections_per_s),
        ("pps_in", "Packets per second from clients", GAUGE, |t| t.packets_in_per_s),
        ("pps_out", "Packets per second to clients", GAUGE, |t| t.packets_out_per_s),
        ("bps_in", "Bytes per second from clients", GAUGE, |t| t.bytes_in_per_s),
        ("bps_out", "Bytes per second to clients", GAUGE, |t| t.bytes_out_per_s),
    ];
    let labels = |owned: &Owned| {
        let protocol = match owned.protocol {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
            Protocol::Sctp => "sctp",
        };
        vec![
            ("svc_namespace", owned.service.namespace.to_string()),
            ("service_name", owned.service.name.to_string()),
            ("service_vip", owned.address.to_string()),
            ("protocol", protocol.into()),
            ("port", owned.port.to_string()),
        ]
    };
    let row = |(name, help, kind, field): (&str, &str, MetricType, Field)| {
        let values = services.iter().map(|(owned, traffic)| (labels(owned), field(traffic) as f64)).collect();
        family(&format!("kube_router_service_{name}"), help, kind, values)
    };
    rows.into_iter().map(row).collect()
}

/// The text of a scrape (exposition format 0.0.4).
///
/// # Errors
/// If a name or a label is not possible, which is a mistake in this file.
pub(crate) fn text(scrape: &Scrape) -> Result<String, prometheus::Error> {
    let page = Page(Registry::new_custom(Some("kube_router".into()), None)?);
    page.kube_router(scrape)?;
    page.ours(scrape)?;
    let mut families = page.0.gather();
    // Those below are made as they are: they have the whole of their names.
    let timings = Registry::new();
    scrape.timings.register(&timings, scrape.ipvs.is_some(), scrape.router)?;
    families.extend(timings.gather());
    families.push(programming(&scrape.latencies));
    families.extend(scrape.ipvs.iter().flat_map(|ipvs| services(&ipvs.services)));
    families.extend(process::families());
    // A metric without a value says nothing, and has no text.
    families.retain(|family| !family.get_metric().is_empty());
    TextEncoder::new().encode_to_string(&families)
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
            let opts = Opts::new("controller_bgp_advertisements_sent", "Networks that BGP was told to announce or not");
            let sent = self.add(IntCounterVec::new(opts, &["type"]))?;
            let announced = scrape.announced;
            sent.with_label_values(&["advertise-vip"]).inc_by(announced.addresses);
            sent.with_label_values(&["withdraw-vip"]).inc_by(announced.withdrawn_addresses);
            sent.with_label_values(&["pod-route"]).inc_by(announced.prefixes);
        }
        if let Some(servers) = scrape.ipvs.as_ref().and_then(|ipvs| ipvs.servers) {
            self.gauge("controller_ipvs_services", "Virtual servers in the kernel", servers as u64)?;
        }
        if scrape.router
            && let Some(routes) = scrape.status.planes.iter().find(|p| p.name == "route")
        {
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

    /// Ours: what is written to the API server.
    fn writes(&self, scrape: &Scrape) -> Result<(), prometheus::Error> {
        let status = &scrape.status;
        let counts = IntCounterVec::new(
            Opts::new("kubernetes_events_total", "Kubernetes Events that were written, and that were given up"),
            &["result"],
        );
        let counts = self.add(counts)?;
        counts.with_label_values(&["written"]).inc_by(status.events_written);
        counts.with_label_values(&["dropped"]).inc_by(status.events_dropped);
        if let Some(balancer) = &status.load_balancer {
            self.gauge("loadbalancer_leader", "Whether this daemon gives addresses", balancer.leader.into())?;
            let waiting = balancer.allocations.iter().filter(|a| a.addresses.is_empty()).count();
            let services = balancer.allocations.len();
            self.gauge("loadbalancer_services", "Services that get their addresses from us", services as u64)?;
            self.gauge("loadbalancer_services_waiting", "Those of them that have none", waiting as u64)?;
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
        self.writes(scrape)?;
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
