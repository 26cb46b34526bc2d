//! kube-router's annotations on services.

use std::net::IpAddr;
use std::sync::Arc;

use fairway_objects::{Advertise, Scheduler};

use crate::reader::{Notices, Words, go_bool};

/// What the annotations of a service say.
#[derive(Debug)]
pub(crate) struct ServiceWords {
    pub(crate) scheduler: Scheduler,
    pub(crate) fallback: bool,
    pub(crate) port: bool,
    pub(crate) dsr: bool,
    pub(crate) hairpin: bool,
    pub(crate) hairpin_external_ips: bool,
    pub(crate) local: bool,
    pub(crate) skip_lb_ips: bool,
    pub(crate) advertise: Advertise,
    pub(crate) requested: Vec<IpAddr>,
    pub(crate) sharing_key: Option<Arc<str>>,
}

const PREFIX: &str = "kube-router.io/service.";

/// The field a notice about an annotation names.
pub(crate) fn field(name: &str) -> String {
    format!("metadata.annotations[{name}]")
}

pub(crate) fn service(words: &Words, notices: &mut Notices) -> ServiceWords {
    let get = |name: &str| words.get(&format!("{PREFIX}{name}")).map(|v| v.trim());
    let at = |name: &str| field(&format!("{PREFIX}{name}"));
    let scheduler = match get("scheduler") {
        None | Some("rr") => Scheduler::Rr,
        Some("wrr") => Scheduler::Wrr,
        Some("lc") => Scheduler::Lc,
        Some("wlc") => Scheduler::Wlc,
        Some("dh") => Scheduler::Dh,
        Some("sh") => Scheduler::Sh,
        Some("mh") => Scheduler::Mh,
        Some(other) => {
            let known = "rr, wrr, lc, wlc, dh, sh, mh";
            notices.add(at("scheduler"), format!("`{other}` is none of {known}; taken as rr"));
            Scheduler::Rr
        }
    };
    let (mut fallback, mut port) = (false, false);
    for flag in get("schedflags").into_iter().flat_map(|list| list.split(',')).map(str::trim) {
        match flag {
            "flag-1" => fallback = true,
            "flag-2" => port = true,
            // The third flag has no meaning for any scheduler of the kernel.
            "flag-3" | "" => {}
            other => notices.add(at("schedflags"), format!("`{other}` is none of flag-1, flag-2, flag-3; ignored")),
        }
    }
    let dsr = match get("dsr") {
        None => false,
        Some("tunnel") => true,
        Some(other) => {
            notices.add(at("dsr"), format!("`{other}` is not `tunnel`; ignored"));
            false
        }
    };
    let local = match get("local") {
        None | Some("false") => false,
        Some("true") => true,
        Some(other) => {
            notices.add(at("local"), format!("`{other}` is neither true nor false; taken as false"));
            false
        }
    };
    let mut advertise = |name: &str| {
        let text = get(name)?;
        // A word that is no boolean means false, as for kube-router.
        Some(go_bool(text).unwrap_or_else(|| {
            notices.add(at(name), format!("`{text}` is not a boolean; taken as false"));
            false
        }))
    };
    let advertise = Advertise {
        cluster_ip: advertise("advertise.clusterip"),
        external_ip: advertise("advertise.externalip"),
        load_balancer_ip: advertise("advertise.loadbalancerip"),
    };
    // Ours: kube-router gives the next free address, and each to one service.
    let mut requested: Vec<IpAddr> = vec![];
    for text in get("loadbalancer.ips").into_iter().flat_map(|list| list.split(',')).filter(|t| !t.trim().is_empty()) {
        requested.extend(notices.parse::<IpAddr>(at("loadbalancer.ips"), text, "an IP address"));
    }
    ServiceWords {
        scheduler,
        fallback,
        port,
        dsr,
        // Presence counts, whatever the value, as for kube-router.
        hairpin: get("hairpin").is_some(),
        hairpin_external_ips: get("hairpin.externalips").is_some(),
        local,
        skip_lb_ips: get("skiplbips").is_some(),
        advertise,
        requested,
        sharing_key: get("loadbalancer.sharing-key").filter(|key| !key.is_empty()).map(Into::into),
    }
}
