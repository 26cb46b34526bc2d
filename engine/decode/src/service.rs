//! `v1/Service`, with kube-router's annotations.

use std::fmt::Display;
use std::net::IpAddr;
use std::sync::Arc;

use fairway_objects::{
    FamilyPolicy, LoadBalancerWish, Object, ObjectKey, Protocol, Service, ServicePort, ServiceType, TrafficPolicy,
};
use k8s_openapi::api::core::v1 as api;
use serde_json::Value;

use crate::annotations;
use crate::reader::{Notices, Read, typed};

/// `sessionAffinityConfig.clientIP.timeoutSeconds` when it is absent.
const AFFINITY_S: u32 = 10_800;
/// The label with which another proxy takes a service.
const PROXY_NAME: &str = "service.kubernetes.io/service-proxy-name";
/// The label that makes a service headless for proxies.
const HEADLESS: &str = "service.kubernetes.io/headless";

/// A protocol's name; absent means TCP.
pub(crate) fn protocol(notices: &mut Notices, field: impl Display, name: Option<&str>) -> Option<Protocol> {
    match name {
        None | Some("TCP") => Some(Protocol::Tcp),
        Some("UDP") => Some(Protocol::Udp),
        Some("SCTP") => Some(Protocol::Sctp),
        Some(other) => {
            notices.add(field.to_string(), format!("`{other}` is none of TCP, UDP, SCTP"));
            None
        }
    }
}

fn policy(notices: &mut Notices, field: &str, name: Option<&str>) -> TrafficPolicy {
    match name {
        None | Some("Cluster") => TrafficPolicy::Cluster,
        Some("Local") => TrafficPolicy::Local,
        Some(other) => {
            notices.add(field, format!("`{other}` is neither Cluster nor Local; taken as Cluster"));
            TrafficPolicy::Cluster
        }
    }
}

fn addresses(notices: &mut Notices, field: &str, texts: &[String]) -> Vec<IpAddr> {
    let mut found = vec![];
    for (i, text) in texts.iter().enumerate() {
        if let Some(address) = notices.parse(format_args!("{field}[{i}]"), text, "an IP address")
            && !found.contains(&address)
        {
            found.push(address);
        }
    }
    found
}

pub(crate) fn read(value: &Value, key: &ObjectKey) -> Read {
    let object: api::Service = typed(value)?;
    let mut notices = Notices::new(key);
    let spec = object.spec.ok_or_else(|| ("spec".to_string(), "missing".to_string()))?;
    let service_type = match spec.type_.as_deref() {
        None | Some("ClusterIP") => ServiceType::ClusterIp,
        Some("NodePort") => ServiceType::NodePort,
        Some("LoadBalancer") => ServiceType::LoadBalancer,
        Some("ExternalName") => ServiceType::ExternalName,
        Some(other) => return Err(("spec.type".into(), format!("`{other}` is not a type of service"))),
    };
    let mut ports = vec![];
    for (i, port) in spec.ports.unwrap_or_default().into_iter().enumerate() {
        let number = notices.port(format_args!("spec.ports[{i}].port"), port.port);
        let protocol = protocol(&mut notices, format_args!("spec.ports[{i}].protocol"), port.protocol.as_deref());
        let node_port = match port.node_port {
            None | Some(0) => None,
            Some(number) => notices.port(format_args!("spec.ports[{i}].nodePort"), number),
        };
        if let (Some(number), Some(protocol)) = (number, protocol) {
            let name = port.name.unwrap_or_default().into();
            ports.push(ServicePort { name, protocol, port: number, node_port });
        }
    }
    let cluster = match (spec.cluster_ips, spec.cluster_ip) {
        (Some(list), _) if !list.is_empty() => list,
        (_, one) => one.into_iter().collect(),
    };
    let cluster: Vec<String> =
        cluster.into_iter().filter(|ip| !ip.is_empty() && !ip.eq_ignore_ascii_case("none")).collect();
    let cluster_ips = addresses(&mut notices, "spec.clusterIPs", &cluster);
    let external_ips = addresses(&mut notices, "spec.externalIPs", &spec.external_ips.unwrap_or_default());
    let ingress = object.status.and_then(|s| s.load_balancer).and_then(|l| l.ingress).unwrap_or_default();
    let (mut load_balancer_ips, mut proxied_ips) = (vec![], vec![]);
    for (i, entry) in ingress.into_iter().enumerate() {
        // With mode Proxy the load balancer itself is the destination.
        let proxy = entry.ip_mode.as_deref() == Some("Proxy");
        if let Some(text) = entry.ip.filter(|ip| !ip.is_empty()) {
            let field = format!("status.loadBalancer.ingress[{i}].ip");
            let list = if proxy { &mut proxied_ips } else { &mut load_balancer_ips };
            list.extend(notices.parse::<IpAddr>(field, &text, "an IP address"));
        }
    }
    let affinity = spec.session_affinity.as_deref();
    let session_affinity_s = match affinity {
        None | Some("None" | "") => None,
        Some("ClientIP") => {
            let timeout = spec.session_affinity_config.and_then(|c| c.client_ip).and_then(|c| c.timeout_seconds);
            match timeout.map(u32::try_from) {
                None => Some(AFFINITY_S),
                Some(Ok(seconds)) if (1..=86_400).contains(&seconds) => Some(seconds),
                Some(_) => {
                    let field = "spec.sessionAffinityConfig.clientIP.timeoutSeconds";
                    notices.add(field, format!("not in 1-86400; taken as {AFFINITY_S}"));
                    Some(AFFINITY_S)
                }
            }
        }
        Some(other) => {
            notices.add("spec.sessionAffinity", format!("`{other}` is neither None nor ClientIP; taken as None"));
            None
        }
    };
    let internal = policy(&mut notices, "spec.internalTrafficPolicy", spec.internal_traffic_policy.as_deref());
    let external = policy(&mut notices, "spec.externalTrafficPolicy", spec.external_traffic_policy.as_deref());
    let labels = object.metadata.labels.unwrap_or_default();
    let words = object.metadata.annotations.unwrap_or_default();
    let read = annotations::service(&words, &mut notices);
    let asked = spec.load_balancer_ip.filter(|text| !text.is_empty());
    let asked = asked.and_then(|text| notices.parse::<IpAddr>("spec.loadBalancerIP", &text, "an IP address"));
    let mut requested = read.requested;
    requested.extend(asked.filter(|ip| !requested.contains(ip)));
    let wish = LoadBalancerWish {
        class: spec.load_balancer_class.filter(|class| !class.is_empty()).map(Into::into),
        // An API server always says; otherwise the cluster IPs tell.
        ipv6: match spec.ip_families {
            Some(families) if !families.is_empty() => families.iter().map(|family| family == "IPv6").collect(),
            _ => cluster_ips.iter().map(IpAddr::is_ipv6).collect(),
        },
        policy: match spec.ip_family_policy.as_deref() {
            Some("PreferDualStack") => FamilyPolicy::Prefer,
            Some("RequireDualStack") => FamilyPolicy::Require,
            _ => FamilyPolicy::Single,
        },
        requested,
        sharing_key: read.sharing_key,
        proxied_ips,
    };
    let health = spec.health_check_node_port.filter(|p| *p != 0);
    let service = Service {
        name: key.name.clone(),
        created_s: object.metadata.creation_timestamp.map_or(0, |t| t.0.as_second()),
        service_type,
        cluster_ips,
        external_ips,
        load_balancer_ips,
        ports,
        session_affinity_s,
        internal_traffic_policy: internal,
        external_traffic_policy: external,
        health_check_node_port: health.and_then(|p| notices.port("spec.healthCheckNodePort", p)),
        foreign_proxy: labels.get(PROXY_NAME).is_some_and(|name| name != "kube-router"),
        headless_label: labels.contains_key(HEADLESS),
        scheduler: read.scheduler,
        sched_fallback: read.fallback,
        sched_port: read.port,
        dsr_tunnel: read.dsr,
        hairpin: read.hairpin,
        hairpin_external_ips: read.hairpin_external_ips,
        local: read.local,
        skip_lb_ips: read.skip_lb_ips,
        advertise: read.advertise,
        wish,
    };
    Ok((Object::Service(Arc::new(service)), notices.list))
}
