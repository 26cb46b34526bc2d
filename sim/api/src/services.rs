//! What the API server and the EndpointSlice controller do for services.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;
use serde_json::{Map, Value, json};

use crate::Time;
use crate::api::Api;
use crate::store::{Key, key, list, owner, text};

/// Most endpoints in one slice (`--max-endpoints-per-slice`).
const SLICE_MAX: usize = 100;

fn family(v6: bool) -> &'static str {
    if v6 { "IPv6" } else { "IPv4" }
}

/// The `n`-th address of a network, if it has that many.
pub(crate) fn nth(net: IpNet, n: u64) -> Option<IpAddr> {
    let address = match net.network() {
        IpAddr::V4(a) => IpAddr::V4((u64::from(u32::from(a)) + n).try_into().ok().map(u32::into)?),
        IpAddr::V6(a) => IpAddr::V6(u128::from(a).checked_add(n.into())?.into()),
    };
    net.contains(&address).then_some(address)
}

impl Api {
    /// Fills in defaults and addresses of a service that is about to be stored.
    pub(crate) fn default_service(&self, at: &Key, value: &mut Value) {
        let Some(spec) = value.get_mut("spec").and_then(Value::as_object_mut) else { return };
        spec.entry("type").or_insert(json!("ClusterIP"));
        spec.entry("sessionAffinity").or_insert(json!("None"));
        let kind = spec.get("type").and_then(Value::as_str).unwrap_or_default().to_string();
        if kind == "ExternalName" {
            return;
        }
        spec.entry("internalTrafficPolicy").or_insert(json!("Cluster"));
        let ports_outside = matches!(kind.as_str(), "NodePort" | "LoadBalancer");
        let external = spec.get("externalIPs").and_then(Value::as_array).is_some_and(|l| !l.is_empty());
        if ports_outside || external {
            spec.entry("externalTrafficPolicy").or_insert(json!("Cluster"));
        }
        if spec.get("sessionAffinity").and_then(Value::as_str) == Some("ClientIP") {
            let default = json!({"clientIP": {"timeoutSeconds": 10800}});
            spec.entry("sessionAffinityConfig").or_insert(default);
        }
        self.cluster_ips(at, spec);
        let mut given = BTreeSet::new();
        let (low, high) = self.config.node_port_range;
        for port in spec.get_mut("ports").and_then(Value::as_array_mut).into_iter().flatten() {
            let Some(port) = port.as_object_mut() else { continue };
            port.entry("protocol").or_insert(json!("TCP"));
            if let Some(number) = port.get("port").cloned() {
                port.entry("targetPort").or_insert(number);
            }
            if ports_outside
                && port.get("nodePort").is_none_or(|p| p == &json!(0))
                && let Some(free) = self.store.free_port((low..=high).filter(|p| !given.contains(p)), at)
            {
                given.insert(free);
                port.insert("nodePort".into(), json!(free));
            }
        }
    }

    fn cluster_ips(&self, at: &Key, spec: &mut Map<String, Value>) {
        if spec.get("clusterIP").and_then(Value::as_str) == Some("None") {
            spec.insert("clusterIPs".into(), json!(["None"]));
            return;
        }
        let mut given: Vec<IpAddr> = match spec.get("clusterIPs").and_then(Value::as_array) {
            Some(list) if !list.is_empty() => list.iter().filter_map(|v| v.as_str()?.parse().ok()).collect(),
            _ => spec.get("clusterIP").and_then(Value::as_str).and_then(|t| t.parse().ok()).into_iter().collect(),
        };
        let policy = spec.get("ipFamilyPolicy").and_then(Value::as_str).unwrap_or("SingleStack").to_string();
        let mut wanted: Vec<bool> = match spec.get("ipFamilies").and_then(Value::as_array) {
            Some(list) if !list.is_empty() => list.iter().map(|f| f.as_str() == Some("IPv6")).collect(),
            _ => given.iter().map(IpAddr::is_ipv6).collect(),
        };
        let offered: Vec<bool> = self.config.service_cidrs.iter().map(|c| c.addr().is_ipv6()).collect();
        if wanted.is_empty() {
            wanted.extend(offered.first());
        }
        if policy != "SingleStack" && wanted.len() == 1 {
            let other = !wanted[0];
            if offered.contains(&other) {
                wanted.push(other);
            }
        }
        for v6 in &wanted {
            if given.iter().any(|ip| ip.is_ipv6() == *v6) {
                continue;
            }
            let Some(range) = self.config.service_cidrs.iter().find(|c| c.addr().is_ipv6() == *v6) else { continue };
            // Addresses are given in order: the first of a range is that of the API server itself.
            given.extend(self.store.free_ip((2..).map_while(|n| nth(*range, n)), at));
        }
        given.sort_by_key(|ip| wanted.iter().position(|v6| *v6 == ip.is_ipv6()));
        if let Some(first) = given.first() {
            spec.insert("clusterIP".into(), json!(first.to_string()));
        }
        let texts: Vec<String> = given.iter().map(IpAddr::to_string).collect();
        let families: Vec<&str> = given.iter().map(|ip| family(ip.is_ipv6())).collect();
        spec.insert("clusterIPs".into(), json!(texts));
        spec.insert("ipFamilies".into(), json!(families));
        spec.insert("ipFamilyPolicy".into(), json!(policy));
    }

    /// The EndpointSlice controller, for one service.
    pub(crate) fn sync_slices(&mut self, now: Time, namespace: &str, name: &str) {
        let service = self.store.value(&key("Service", namespace, name)).cloned();
        let mut keep = BTreeSet::new();
        let selector = service.as_ref().and_then(|s| s.pointer("/spec/selector")).and_then(Value::as_object).cloned();
        if let (Some(service), Some(selector)) = (&service, selector.filter(|s| !s.is_empty())) {
            for v6 in [false, true] {
                let families = list(service, "/spec/ipFamilies").any(|f| f.as_str() == Some(family(v6)));
                if families {
                    for slice in self.slices(namespace, name, service, &selector, v6) {
                        let slice_name = text(&slice, "/metadata/name").unwrap_or_default().to_string();
                        let at = key("EndpointSlice", namespace, &slice_name);
                        keep.insert(at.clone());
                        self.store_value(now, &at, slice);
                    }
                }
            }
        }
        let ours = |value: &Value| {
            text(value, "/metadata/labels/endpointslice.kubernetes.io~1managed-by")
                == Some("endpointslice-controller.k8s.io")
                && text(value, "/metadata/labels/kubernetes.io~1service-name") == Some(name)
        };
        let gone: Vec<Key> = self
            .store
            .of_namespace("EndpointSlice", namespace, &format!("{name}-ip"))
            .filter(|(k, s)| ours(&s.value) && !keep.contains(*k))
            .map(|(k, _)| k.clone())
            .collect();
        for at in gone {
            self.remove_value(now, &at);
        }
    }

    /// The slices of a service in one family.
    fn slices(
        &self,
        namespace: &str,
        name: &str,
        service: &Value,
        selector: &Map<String, Value>,
        v6: bool,
    ) -> Vec<Value> {
        let publish = service.pointer("/spec/publishNotReadyAddresses").and_then(Value::as_bool).unwrap_or(false);
        // Pods may give one port name different numbers, so endpoints are grouped by what their ports are.
        let mut groups: Vec<(Vec<Value>, Vec<Value>)> = vec![];
        for (pod_name, pod) in self.pods.in_namespace(namespace) {
            let matches = selector.iter().all(|(k, v)| v.as_str() == pod.labels.get(k).map(String::as_str));
            let Some(ip) = pod.ips.iter().find(|ip| ip.addr().is_ipv6() == v6) else { continue };
            if !matches || !pod.started {
                continue;
            }
            let serving = pod.is_ready() && self.nodes.get(&pod.node).is_some_and(|n| n.ready);
            let ready = publish || (serving && !pod.deleting);
            let ports: Vec<Value> = list(service, "/spec/ports").filter_map(|p| endpoint_port(p, &pod.ports)).collect();
            if ports.is_empty() {
                continue;
            }
            let endpoint = json!({
                "addresses": [ip.addr().to_string()],
                "conditions": {"ready": ready, "serving": publish || serving, "terminating": pod.deleting},
                "nodeName": pod.node,
                "targetRef": {"kind": "Pod", "namespace": namespace, "name": pod_name},
            });
            match groups.iter_mut().find(|(p, e)| *p == ports && e.len() < SLICE_MAX) {
                Some((_, endpoints)) => endpoints.push(endpoint),
                None => groups.push((ports, vec![endpoint])),
            }
        }
        if groups.is_empty() {
            // A service that found nobody has an empty slice.
            groups.push((list(service, "/spec/ports").filter_map(|p| endpoint_port(p, &[])).collect(), vec![]));
        }
        let slice = |(i, (ports, endpoints)): (usize, (Vec<Value>, Vec<Value>))| {
            json!({
                "apiVersion": "discovery.k8s.io/v1",
                "kind": "EndpointSlice",
                "metadata": {
                    "name": format!("{name}-{}-{i}", family(v6).to_lowercase()),
                    "namespace": namespace,
                    "labels": {
                        "kubernetes.io/service-name": name,
                        "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io",
                    },
                    "ownerReferences": [owner("v1", "Service", service)],
                },
                "addressType": family(v6),
                "ports": ports,
                "endpoints": endpoints,
            })
        };
        groups.into_iter().enumerate().map(slice).collect()
    }
}

/// A slice's port for a service port; a named target port is looked up in the pod.
fn endpoint_port(port: &Value, pod: &[crate::ContainerPort]) -> Option<Value> {
    let number = match port.get("targetPort").or(port.get("port"))? {
        Value::String(name) => pod.iter().find(|p| p.name == *name)?.port.into(),
        number => number.as_u64()?,
    };
    let protocol = text(port, "/protocol").unwrap_or("TCP");
    let name = text(port, "/name").unwrap_or_default();
    Some(json!({"name": name, "protocol": protocol, "port": number}))
}
