//! `v1/Namespace` and `v1/Pod`.

use std::sync::Arc;

use fairway_objects::{Namespace, Object, ObjectKey, Pod};
use k8s_openapi::api::core::v1 as api;
use serde_json::Value;

use crate::reader::{Notices, Read, typed};

/// `terminationGracePeriodSeconds` when it is absent.
const GRACE_S: i64 = 30;

pub(crate) fn namespace(value: &Value, key: &ObjectKey) -> Read {
    let object: api::Namespace = typed(value)?;
    let labels = object.metadata.labels.unwrap_or_default();
    let labels = labels.into_iter().map(|(k, v)| (k.into(), v.into())).collect();
    Ok((Object::Namespace(Arc::new(Namespace { name: key.name.clone(), labels })), vec![]))
}

pub(crate) fn pod(value: &Value, key: &ObjectKey) -> Read {
    let object: api::Pod = typed(value)?;
    let mut notices = Notices::new(key);
    let spec = object.spec.unwrap_or_default();
    let status = object.status.unwrap_or_default();
    let ips = match status.pod_ips {
        Some(list) if !list.is_empty() => list.into_iter().map(|p| p.ip).collect(),
        _ => status.pod_ip.into_iter().collect::<Vec<_>>(),
    };
    let ips = ips
        .iter()
        .enumerate()
        .filter_map(|(i, text)| notices.parse(format_args!("status.podIPs[{i}].ip"), text, "an IP address"))
        .collect();
    let grace = spec.termination_grace_period_seconds.unwrap_or(GRACE_S).max(0);
    let pod = Pod {
        name: key.name.clone(),
        node: spec.node_name.filter(|n| !n.is_empty()).map(Into::into),
        ips,
        host_network: spec.host_network.unwrap_or(false),
        termination_grace_s: u32::try_from(grace).unwrap_or(u32::MAX),
    };
    Ok((Object::Pod(Arc::new(pod)), notices.list))
}
