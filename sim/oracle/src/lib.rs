//! What Kubernetes promises, judged from the objects alone.
//!
//! The oracle reads API objects as JSON and says for each service address which pods may answer there. It shares no
//! code with the engine, on purpose: a test that compares the two finds a misreading of the API on either side.
//!
//! Deliberately not here: kernels, time, and everything that only flags decide (which addresses are announced). Start
//! reading at [`promises`].

use std::collections::BTreeSet;
use std::net::IpAddr;

use serde_json::Value;

/// One address of a service and who may answer there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Promise {
    /// Namespace and name of the service.
    pub service: (String, String),
    /// Where clients connect to.
    pub address: IpAddr,
    /// Port clients connect to.
    pub port: u16,
    /// `TCP`, `UDP` or `SCTP`.
    pub protocol: String,
    /// Whether the address is one for clients outside the cluster (external or load-balancer address).
    pub external: bool,
    /// Pod addresses that may answer. Empty: connections must not succeed.
    pub backends: BTreeSet<IpAddr>,
}

fn text<'a>(value: &'a Value, path: &str) -> Option<&'a str> {
    value.pointer(path).and_then(Value::as_str)
}

fn list<'a>(value: &'a Value, path: &str) -> impl Iterator<Item = &'a Value> {
    value.pointer(path).and_then(Value::as_array).into_iter().flatten()
}

fn addresses(service: &Value, path: &str) -> Vec<IpAddr> {
    list(service, path).filter_map(|v| v.as_str()?.parse().ok()).collect()
}

/// Endpoints of one service port: ready ones, or, where there are none, those that serve while they terminate.
/// (`EndpointConditions` in discovery.k8s.io/v1; KEP-1669.)
fn endpoints(slices: &[&Value], service: &Value, port: &Value, only_on: Option<&str>, v6: bool) -> BTreeSet<IpAddr> {
    let name = text(port, "/name").unwrap_or_default();
    let protocol = text(port, "/protocol").unwrap_or("TCP");
    let (mut ready, mut last_resort) = (BTreeSet::new(), BTreeSet::new());
    for slice in slices {
        let same = text(slice, "/metadata/labels/kubernetes.io~1service-name") == text(service, "/metadata/name")
            && text(slice, "/metadata/namespace") == text(service, "/metadata/namespace");
        let has_port = list(slice, "/ports")
            .any(|p| text(p, "/name").unwrap_or_default() == name && text(p, "/protocol").unwrap_or("TCP") == protocol);
        if !same || !has_port {
            continue;
        }
        for endpoint in list(slice, "/endpoints") {
            let Some(address) = text(endpoint, "/addresses/0").and_then(|a| a.parse::<IpAddr>().ok()) else { continue };
            if address.is_ipv6() != v6 || only_on.is_some_and(|node| text(endpoint, "/nodeName") != Some(node)) {
                continue;
            }
            let condition = |name: &str| endpoint.pointer("/conditions").and_then(|c| c.get(name)?.as_bool());
            let is_ready = condition("ready").unwrap_or(true);
            if is_ready {
                ready.insert(address);
            } else if condition("serving").unwrap_or(is_ready) && condition("terminating").unwrap_or(false) {
                last_resort.insert(address);
            }
        }
    }
    if ready.is_empty() { last_resort } else { ready }
}

/// What the objects promise a client on `node`, or outside the cluster where that is `None`.
///
/// An outside client enters through any node that announces the address. With `externalTrafficPolicy: Local` those are
/// the nodes with endpoints, so the union of all endpoints may answer, as with `Cluster`.
pub fn promises(objects: &[&Value], node: Option<&str>) -> Vec<Promise> {
    let of = |kind: &'static str| objects.iter().copied().filter(move |o| text(o, "/kind") == Some(kind));
    let slices: Vec<&Value> = of("EndpointSlice").collect();
    let mut promises = vec![];
    for service in of("Service") {
        let headless = text(service, "/spec/clusterIP") == Some("None");
        if headless || text(service, "/spec/type") == Some("ExternalName") {
            continue;
        }
        let name = |path| text(service, path).unwrap_or_default().to_string();
        let mut push = |address: IpAddr, port: &Value, external: bool, only_on: Option<&str>| {
            let number = port.pointer("/port").and_then(Value::as_u64).and_then(|p| u16::try_from(p).ok());
            let Some(number) = number else { return };
            promises.push(Promise {
                service: (name("/metadata/namespace"), name("/metadata/name")),
                address,
                port: number,
                protocol: text(port, "/protocol").unwrap_or("TCP").into(),
                external,
                backends: endpoints(&slices, service, port, only_on, address.is_ipv6()),
            });
        };
        for port in list(service, "/spec/ports") {
            if let Some(node) = node {
                let local = text(service, "/spec/internalTrafficPolicy") == Some("Local");
                for address in addresses(service, "/spec/clusterIPs") {
                    push(address, port, false, local.then_some(node));
                }
            } else {
                for address in addresses(service, "/spec/externalIPs") {
                    push(address, port, true, None);
                }
            }
        }
    }
    promises
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn slice(endpoints: Value) -> Value {
        json!({"kind": "EndpointSlice", "metadata": {"namespace": "d", "name": "s-1",
            "labels": {"kubernetes.io/service-name": "s"}}, "ports": [{"port": 80}], "endpoints": endpoints})
    }

    fn service(spec: Value) -> Value {
        json!({"kind": "Service", "metadata": {"namespace": "d", "name": "s"}, "spec": spec})
    }

    fn backends(service: &Value, slice: &Value, node: Option<&str>) -> Vec<String> {
        let found = promises(&[service, slice], node);
        assert_eq!(found.len(), 1, "{found:?}");
        found[0].backends.iter().map(IpAddr::to_string).collect()
    }

    #[test]
    fn absent_conditions_mean_ready_and_terminating_ones_are_the_last_resort() {
        let s = service(json!({"clusterIPs": ["10.0.0.1"], "ports": [{"port": 80}]}));
        let both = slice(json!([{"addresses": ["1.1.1.1"]},
            {"addresses": ["1.1.1.2"], "conditions": {"ready": false, "serving": true, "terminating": true}}]));
        assert_eq!(backends(&s, &both, Some("n")), ["1.1.1.1"]);
        let dying = slice(json!([
            {"addresses": ["1.1.1.2"], "conditions": {"ready": false, "serving": true, "terminating": true}},
            {"addresses": ["1.1.1.3"], "conditions": {"ready": false}}]));
        assert_eq!(backends(&s, &dying, Some("n")), ["1.1.1.2"]);
    }

    #[test]
    fn a_local_policy_counts_for_clients_inside_only() {
        let s = service(json!({"clusterIPs": ["10.0.0.1"], "externalIPs": ["10.0.0.2"],
            "internalTrafficPolicy": "Local", "externalTrafficPolicy": "Local", "ports": [{"port": 80}]}));
        let e =
            slice(json!([{"addresses": ["1.1.1.1"], "nodeName": "a"}, {"addresses": ["1.1.1.2"], "nodeName": "b"}]));
        assert_eq!(backends(&s, &e, Some("a")), ["1.1.1.1"]);
        assert_eq!(backends(&s, &e, Some("c")), Vec::<String>::new());
        assert_eq!(backends(&s, &e, None), ["1.1.1.1", "1.1.1.2"]);
    }
}
