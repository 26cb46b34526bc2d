//! One service: virtual servers, addresses, firewall elements, announcements.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::format;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;
use core::net::IpAddr;

use fairway_desired::filter::{self, Datum};
use fairway_desired::ipvs::{self, Forwarding, RealServer, RealServerKey, Scheduler, VirtualServer, VirtualServerKey};
use fairway_desired::{
    AddrKey, AddrValue, Family, LOCAL_TABLE, NextHop, PROTO_KERNEL, Protocol, RouteKey, RouteKind, RouteValue, bgp,
};
use fairway_objects::{
    self as objects, Endpoint, Kind, Notice, ObjectKey, Service, ServicePort, ServiceType, Subject, TrafficPolicy,
};
use ipnet::IpNet;

use crate::dsr;
use crate::global::{DUMMY, set};
use crate::router;
use crate::state::{State, host_prefix};
use crate::unit::Claims;

/// The field of a service that asks for direct server return.
const DSR: &str = "metadata.annotations[kube-router.io/service.dsr]";

/// How clients outside and inside come to an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Class {
    Cluster,
    External,
    LoadBalancer,
    NodePort,
}

/// One virtual server that the service wants.
#[derive(Clone, Debug)]
pub(crate) struct Want {
    pub(crate) server: VirtualServer,
    pub(crate) reals: BTreeSet<RealServerKey>,
    class: Class,
    pub(crate) address: IpAddr,
    pub(crate) port: u16,
    pub(crate) protocol: Protocol,
    /// The address is announced if this virtual server is ours.
    announce: bool,
    /// Endpoints on this node that may come to reach themselves through this address.
    hairpin: BTreeSet<IpAddr>,
    /// The firewall mark, with direct server return.
    dsr: Option<u32>,
    /// Endpoints on this node.
    local: Vec<IpAddr>,
}

/// A service as rendered, before conflicts with other services are settled.
#[derive(Clone, Debug, Default)]
pub(crate) struct Rendered {
    pub(crate) wants: BTreeMap<VirtualServerKey, Want>,
    notices: BTreeSet<Notice>,
}

fn protocol(protocol: objects::Protocol) -> Protocol {
    match protocol {
        objects::Protocol::Tcp => Protocol::Tcp,
        objects::Protocol::Udp => Protocol::Udp,
        objects::Protocol::Sctp => Protocol::Sctp,
    }
}

pub(crate) const fn protocol_name(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Tcp => "TCP",
        Protocol::Udp => "UDP",
        Protocol::Sctp => "SCTP",
    }
}

fn scheduler(scheduler: objects::Scheduler) -> Scheduler {
    match scheduler {
        objects::Scheduler::Rr => Scheduler::Rr,
        objects::Scheduler::Wrr => Scheduler::Wrr,
        objects::Scheduler::Lc => Scheduler::Lc,
        objects::Scheduler::Wlc => Scheduler::Wlc,
        objects::Scheduler::Dh => Scheduler::Dh,
        objects::Scheduler::Sh => Scheduler::Sh,
        objects::Scheduler::Mh => Scheduler::Mh,
    }
}

/// The endpoints of a service port in one family: ready ones, or, where there are none, those that still serve while
/// they terminate (KEP-1669).
fn endpoints<'a>(
    state: &'a State,
    service: &Service,
    port: &ServicePort,
    family: Family,
    local_only: bool,
) -> Vec<(&'a Endpoint, u16)> {
    let mut ready = vec![];
    let mut last_resort = vec![];
    for slice in state.slices_of(&service.name) {
        let Some(target) = slice.ports.iter().find(|p| p.name == port.name && p.protocol == port.protocol) else {
            continue;
        };
        for endpoint in &slice.endpoints {
            let here = endpoint.node.as_deref() == Some(&*state.config.node_name);
            if Family::of(endpoint.address) != family || (local_only && !here) {
                continue;
            }
            if endpoint.ready {
                ready.push((endpoint, target.port));
            } else if endpoint.serving && endpoint.terminating {
                last_resort.push((endpoint, target.port));
            }
        }
    }
    if ready.is_empty() { last_resort } else { ready }
}

/// Reads the service and its endpoints.
pub(crate) fn render(state: &State, service: &Service) -> Rendered {
    let mut out = Rendered::default();
    if service.headless_label
        || service.foreign_proxy
        || service.service_type == ServiceType::ExternalName
        || service.cluster_ips.is_empty()
    {
        return out;
    }
    let notice = |field: String, reason: String| Notice {
        subject: Subject::Object(ObjectKey { kind: Kind::Service, name: service.name.clone() }),
        field,
        reason,
    };
    let external_local = service.local || service.external_traffic_policy == TrafficPolicy::Local;
    // The annotation makes the external policy Local and, with it, the internal policy Cluster, as kube-router does.
    let internal_local = !service.local && service.internal_traffic_policy == TrafficPolicy::Local;
    let config = &state.config;
    let advertise = service.advertise;
    let own = |address: &IpAddr| {
        state.own().is_some_and(|n| n.internal_ips.contains(address) || n.external_ips.contains(address))
    };
    let add = |class: Class, address: IpAddr, announce: bool, out: &mut Rendered| {
        let family = Family::of(address);
        let local_only = if class == Class::Cluster { internal_local } else { external_local };
        let node_port = class == Class::NodePort;
        // An address that the node has anyway is served like a node port: it is not ours to add, to remove, to
        // protect or to announce.
        let class = if own(&address) { Class::NodePort } else { class };
        let mut wants: Vec<(VirtualServerKey, Want)> = vec![];
        for port in &service.ports {
            let number = match (node_port, port.node_port) {
                (true, Some(number)) => number,
                (true, None) => continue,
                (false, _) => port.port,
            };
            let found = endpoints(state, service, port, family, local_only);
            let hairpin = if service.hairpin || config.hairpin_mode {
                let here = |e: &Endpoint| e.node.as_deref() == Some(&*config.node_name);
                found.iter().filter(|(e, _)| here(e)).map(|(e, _)| e.address).collect()
            } else {
                BTreeSet::new()
            };
            let protocol = protocol(port.protocol);
            let key = VirtualServerKey::Address { address, port: number, protocol };
            let want = Want {
                server: VirtualServer {
                    scheduler: scheduler(service.scheduler),
                    fallback: service.sched_fallback,
                    hash_port: service.sched_port,
                    persistence_s: service.session_affinity_s,
                },
                reals: found.iter().map(|(e, p)| RealServerKey { address: e.address, port: *p }).collect(),
                class,
                address,
                port: number,
                protocol,
                announce: announce && class != Class::NodePort && (!found.is_empty() || !local_only),
                hairpin,
                dsr: None,
                local: found
                    .iter()
                    .filter(|(e, _)| e.node.as_deref() == Some(&*config.node_name))
                    .map(|(e, _)| e.address)
                    .collect(),
            };
            wants.push((key, want));
        }
        if service.dsr_tunnel && matches!(class, Class::External | Class::LoadBalancer) {
            match dsr::marks(wants.iter().map(|(_, want)| want), &out.wants) {
                Ok(marks) => {
                    for ((_, want), mark) in wants.iter_mut().zip(marks) {
                        want.dsr = Some(mark);
                        out.wants.entry(dsr::key(family, mark)).or_insert_with(|| want.clone());
                    }
                }
                Err(reason) => drop(out.notices.insert(notice(DSR.into(), reason))),
            }
        }
        for (key, want) in wants {
            out.wants.entry(key).or_insert(want);
        }
    };
    if let Some((low, high)) = config.node_port_range {
        for (i, port) in service.ports.iter().enumerate() {
            if let Some(number) = port.node_port.filter(|number| !(low..=high).contains(number)) {
                let reason = format!("{number} is outside --service-node-port-range {low}-{high}");
                out.notices.insert(notice(format!("spec.ports[{i}].nodePort"), reason));
            }
        }
    }
    // Without an address of the family on the node, or with the family off, nothing can be served in it.
    let served = |address: &IpAddr| state.node_ip(Family::of(*address)).is_some();
    for address in service.cluster_ips.iter().filter(|a| served(a)) {
        let on = advertise.cluster_ip.unwrap_or(config.advertise_cluster_ip);
        add(Class::Cluster, *address, on, &mut out);
    }
    for (i, address) in service.external_ips.iter().enumerate().filter(|(_, a)| served(a)) {
        match refusal(state, *address, &config.service_external_ip_range, "service-external-ip-range") {
            Some(reason) => {
                out.notices.insert(notice(format!("spec.externalIPs[{i}]"), reason));
            }
            None => {
                let on = advertise.external_ip.unwrap_or(config.advertise_external_ip);
                add(Class::External, *address, on, &mut out);
            }
        }
    }
    if !service.skip_lb_ips {
        for (i, address) in service.load_balancer_ips.iter().enumerate().filter(|(_, a)| served(a)) {
            match refusal(state, *address, &config.load_balancer_ip_range, "loadbalancer-ip-range") {
                Some(reason) => {
                    out.notices.insert(notice(format!("status.loadBalancer.ingress[{i}].ip"), reason));
                }
                None => {
                    let on = advertise.load_balancer_ip.unwrap_or(config.advertise_load_balancer_ip)
                        && service.service_type == ServiceType::LoadBalancer;
                    add(Class::LoadBalancer, *address, on, &mut out);
                }
            }
        }
    }
    for family in [Family::V4, Family::V6] {
        let of_family = service.cluster_ips.iter().any(|ip| Family::of(*ip) == family);
        if let (true, Some(node)) = (of_family, state.node_ip(family)) {
            add(Class::NodePort, node, false, &mut out);
            for address in state.bound().filter(|address| Family::of(*address) == family && *address != node) {
                add(Class::NodePort, address, false, &mut out);
            }
        }
    }
    out
}

/// Why strict validation refuses an address, if it does.
fn refusal(state: &State, address: IpAddr, ranges: &[IpNet], flag: &str) -> Option<String> {
    if !state.config.strict_external_ip_validation {
        return None;
    }
    if let Some(range) = state.config.service_cluster_ip_range.iter().find(|r| r.contains(&address)) {
        return Some(format!("{address} is inside --service-cluster-ip-range {range}"));
    }
    if ranges.is_empty() {
        return Some(format!("{address} is refused because --{flag} is not set"));
    }
    if ranges.iter().any(|r| r.contains(&address)) {
        return None;
    }
    let list: Vec<String> = ranges.iter().map(|r| format!("{r}")).collect();
    Some(format!("{address} is outside --{flag} {}", list.join(",")))
}

/// The claims of a rendered service. `winner` says which service has a virtual server, by its name, if not this one.
pub(crate) fn claims(
    state: &State,
    service: &Service,
    rendered: &Rendered,
    winner: impl Fn(&VirtualServerKey) -> Option<String>,
) -> Claims {
    let mut claims = Claims { notices: rendered.notices.clone(), ..Claims::default() };
    let mut announced: BTreeSet<IpAddr> = BTreeSet::new();
    for (key, want) in &rendered.wants {
        // A mark is wanted along with its address, so that nobody else takes it.
        if matches!(key, VirtualServerKey::Mark { .. }) {
            continue;
        }
        if let Some(other) = winner(key) {
            let (address, port, protocol) = (want.address, want.port, want.protocol);
            claims.notices.insert(Notice {
                subject: Subject::Object(ObjectKey { kind: Kind::Service, name: service.name.clone() }),
                field: "spec.ports".into(),
                reason: format!("{address} port {port}/{} is already used by Service {other}", protocol_name(protocol)),
            });
            continue;
        }
        if want.announce {
            announced.insert(want.address);
        }
        if let Some(mark) = want.dsr {
            match winner(&dsr::key(Family::of(want.address), mark)) {
                None => {
                    dsr::claim(state, want, mark, &want.local, &mut claims);
                    continue;
                }
                Some(other) => drop(claims.notices.insert(Notice {
                    subject: Subject::Object(ObjectKey { kind: Kind::Service, name: service.name.clone() }),
                    field: DSR.into(),
                    reason: format!("Service {other} has the same firewall mark {mark}; it is served by masquerading"),
                })),
            }
        }
        claims.ipvs.insert(ipvs::Key { server: key.clone(), real: None }, ipvs::Value::Server(want.server.clone()));
        for real in &want.reals {
            let value = RealServer { weight: 1, forwarding: Forwarding::Masquerade };
            claims.ipvs.insert(ipvs::Key { server: key.clone(), real: Some(real.clone()) }, ipvs::Value::Real(value));
        }
        let family = Family::of(want.address);
        let element = vec![Datum::Addr(want.address), Datum::Protocol(want.protocol), Datum::Port(want.port)];
        claims.filter.insert(filter::Key::Element(set("services", family), element), filter::Value::Element(None));
        for address in &want.hairpin {
            let element = vec![Datum::Addr(*address), Datum::Addr(*address)];
            let name = set("hairpin", Family::of(*address));
            claims.filter.insert(filter::Key::Element(name, element), filter::Value::Element(None));
        }
        if want.class != Class::NodePort {
            address_claims(state, want.address, &mut claims);
        }
    }
    if state.config.run_router {
        for address in announced {
            announce(state, address, &mut claims);
        }
    }
    if !state.config.run_service_proxy {
        claims = Claims { bgp: claims.bgp, notices: claims.notices, ..Claims::default() };
    }
    claims
}

/// The address on `kube-dummy-if`, its local route with the node's address as source, and its protection.
fn address_claims(state: &State, address: IpAddr, claims: &mut Claims) {
    let prefix = host_prefix(address);
    claims.addr.insert(AddrKey { address: prefix, link: DUMMY.into() }, AddrValue);
    claims.route.insert(
        RouteKey { prefix, table: LOCAL_TABLE, metric: 0 },
        RouteValue {
            kind: RouteKind::Local,
            protocol: PROTO_KERNEL,
            src: state.node_ip(Family::of(address)),
            next_hops: vec![NextHop { via: None, dev: Some(DUMMY.into()), weight: 1 }],
        },
    );
    let name = set("service-ips", Family::of(address));
    claims.filter.insert(filter::Key::Element(name, vec![Datum::Addr(address)]), filter::Value::Element(None));
}

fn announce(state: &State, address: IpAddr, claims: &mut Claims) {
    let family = Family::of(address);
    let Some(next_hop) = state.node_ip(family) else { return };
    if router::identity(state).is_err() {
        return;
    }
    let prefix = host_prefix(address);
    let len = prefix.prefix_len();
    claims.bgp.insert(bgp::Key::Network(prefix), bgp::Value::Network(bgp::Network { next_hop }));
    claims.bgp.insert(
        bgp::Key::PrefixMember(router::set("servicevipsdefinedset", family), prefix),
        bgp::Value::PrefixMember { min: len, max: len },
    );
}
