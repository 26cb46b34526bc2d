//! `discovery.k8s.io/v1/EndpointSlice`.

use std::net::IpAddr;
use std::sync::Arc;

use fairway_objects::{Endpoint, EndpointPort, EndpointSlice, Object, ObjectKey};
use k8s_openapi::api::discovery::v1 as api;
use serde_json::Value;

use crate::reader::{Notices, Read, typed};
use crate::service::protocol;

/// The label that names the slice's service.
const SERVICE_NAME: &str = "kubernetes.io/service-name";

pub(crate) fn read(value: &Value, key: &ObjectKey) -> Read {
    let object: api::EndpointSlice = typed(value)?;
    let mut notices = Notices::new(key);
    let labels = object.metadata.labels.unwrap_or_default();
    let service = labels
        .get(SERVICE_NAME)
        .filter(|name| !name.is_empty())
        .ok_or_else(|| (format!("metadata.labels[{SERVICE_NAME}]"), "missing: no service to belong to".to_string()))?;
    let v6 = match object.address_type.as_str() {
        "IPv4" => false,
        "IPv6" => true,
        other => return Err(("addressType".into(), format!("`{other}` is neither IPv4 nor IPv6"))),
    };
    let mut ports = vec![];
    for (i, port) in object.ports.unwrap_or_default().into_iter().enumerate() {
        let Some(number) = port.port else {
            notices.add(format!("ports[{i}].port"), "missing: a slice for all ports cannot be served");
            continue;
        };
        let number = notices.port(format_args!("ports[{i}].port"), number);
        let protocol = protocol(&mut notices, format_args!("ports[{i}].protocol"), port.protocol.as_deref());
        if let (Some(port_number), Some(protocol)) = (number, protocol) {
            let name = port.name.unwrap_or_default().into();
            ports.push(EndpointPort { name, protocol, port: port_number });
        }
    }
    let mut endpoints = vec![];
    for (i, endpoint) in object.endpoints.into_iter().enumerate() {
        let field = format!("endpoints[{i}].addresses[0]");
        let Some(text) = endpoint.addresses.first() else {
            notices.add(field, "missing");
            continue;
        };
        let Some(address) = notices.parse::<IpAddr>(&field, text, "an IP address") else { continue };
        if address.is_ipv6() != v6 {
            notices.add(field, format!("`{text}` is not of address type {}", object.address_type));
            continue;
        }
        // Absent conditions have meanings of their own: see EndpointConditions in the API.
        let conditions = endpoint.conditions.unwrap_or_default();
        let ready = conditions.ready.unwrap_or(true);
        endpoints.push(Endpoint {
            address,
            ready,
            serving: conditions.serving.unwrap_or(ready),
            terminating: conditions.terminating.unwrap_or(false),
            node: endpoint.node_name.filter(|n| !n.is_empty()).map(Into::into),
        });
    }
    let slice = EndpointSlice { name: key.name.clone(), service: service.as_str().into(), ports, endpoints };
    Ok((Object::EndpointSlice(Arc::new(slice)), notices.list))
}
