//! `fairway flags`: all flags, or how they differ from kube-router's.

use std::io::Write;

use serde_json::json;

use super::about::{OURS, help};
use super::{Effect, FLAGS, PROCESS_BUILT};

/// Where a flag of the same name does not do quite the same.
const OTHERWISE: &[(&str, &str)] = &[
    ("auto-mtu", "follows the interface as it changes; without it the MTU of the bridge and the file is nobody's here"),
    ("bfd-desired-min-tx-interval", "the range is checked always, not only with a neighbour"),
    ("bfd-detection-multiplier", "the range is checked always, not only with a neighbour"),
    ("bfd-port", "the range is checked always, not only with a neighbour"),
    ("bfd-required-min-rx-interval", "the range is checked always, not only with a neighbour"),
    ("bgp-graceful-restart-deferral-time", "whole seconds only"),
    ("bgp-graceful-restart-time", "whole seconds only"),
    ("bgp-holdtime", "whole seconds only"),
    ("cache-sync-timeout", "0 is refused; for kube-router it means to give up at once"),
    ("disable-source-dest-check", "accepted, without effect: the daemon does not talk to AWS"),
    ("enable-pprof", "at localhost only; a CPU profile, no heap"),
    (
        "injected-routes-sync-period",
        "an upper bound: the kernel is looked at once a minute anyway, and tells of changes",
    ),
    ("ipvs-sync-period", "an upper bound: the kernel is looked at once a minute anyway"),
    (
        "enable-cni",
        "without the file kube-router's own is written if the folder has no other configuration, where kube-router ends; \
         CIDRs that are not the node's any more are removed; without this flag no kube-bridge is made",
    ),
    ("enable-ipv4", "switches the family off in all planes, not only in the firewall"),
    (
        "enable-pod-egress",
        "follows new and removed nodes at once; no ACCEPT rules in FORWARD of iptables, whose policy must accept pods",
    ),
    ("kubeconfig", "its files are read again when the API server refuses us or cannot be reached"),
    (
        "loadbalancer-ip-range",
        "network and broadcast addresses are not given, nor what is in --service-cluster-ip-range",
    ),
    ("loadbalancer-sync-period", "holds for every round; kube-router's goes on every minute"),
    ("master", "works alone; a service account's token is used where there is one, and never sent over plain HTTP"),
    ("nodeport-bindon-all-ip", "not at loopback and link-local addresses, which kube-router binds without use"),
    ("overlay-type", "other words are refused; for kube-router they mean no tunnels; ends of tunnels are nodes only"),
    ("router-id", "an IPv4 address or `generate`; kube-router takes any text and fails later"),
    ("routes-sync-period", "an upper bound: the kernel is looked at once a minute anyway, and tells of changes"),
    (
        "run-loadbalancer",
        "works alone; a daemon that lost the Lease competes again; without POD_NAME it is the node's name",
    ),
    ("service-node-port-range", "checked always, not only with the firewall; a service outside of it gets a notice"),
    ("v", "1: objects, 2: requests to the kernel, 3: each of their entries"),
];

/// One flag that differs.
struct Difference {
    flag: &'static str,
    kind: &'static str,
    default: &'static str,
    note: String,
}

fn differences() -> Vec<Difference> {
    let mut found = vec![];
    for &(flag, _, default, effect) in FLAGS {
        let mut add = |kind, note: &str| found.push(Difference { flag, kind, default, note: note.to_string() });
        let built = PROCESS_BUILT.contains(&flag);
        match effect {
            Effect::Gone => add("accepted", "of an older kube-router; accepted, without effect"),
            _ if OURS.contains(&flag) => add("ours", super::about::text(flag)),
            Effect::Only(only) => add("not-built", &format!("not built yet; only {only} is accepted")),
            Effect::Process if !built => add("not-built", "not built yet; accepted, without effect"),
            Effect::Process | Effect::Works => {}
        }
        if let Some((_, note)) = OTHERWISE.iter().find(|(name, _)| *name == flag) {
            found.push(Difference { flag, kind: "otherwise", default, note: note.to_string() });
        }
    }
    found
}

/// Prints the flags, or with `compare` how they differ from those of kube-router 2.11.
pub(crate) fn run(compare: bool, json: bool) -> u8 {
    let text = match (compare, json) {
        (false, false) => help(),
        (false, true) => {
            let flags: Vec<_> = FLAGS
                .iter()
                .map(|&(flag, _, default, _)| json!({"flag": flag, "default": default, "help": super::about::text(flag)}))
                .collect();
            format!("{}\n", json!({"flags": flags}))
        }
        (true, true) => {
            let rows: Vec<_> = differences()
                .iter()
                .map(|d| json!({"flag": d.flag, "difference": d.kind, "default": d.default, "note": d.note}))
                .collect();
            format!("{}\n", json!({"kubeRouter": "2.11", "differences": rows}))
        }
        (true, false) => table(&differences()),
    };
    // Whoever reads may have seen enough.
    let _gone = std::io::stdout().write_all(text.as_bytes());
    0
}

fn table(rows: &[Difference]) -> String {
    let mut text = String::new();
    let titles = [
        ("ours", "Only here"),
        ("otherwise", "Not quite the same"),
        ("not-built", "Not built yet"),
        ("accepted", "Of older versions"),
    ];
    for (kind, title) in titles {
        let of_kind = || rows.iter().filter(|row| row.kind == kind);
        let width = of_kind().map(|row| row.flag.len()).max().unwrap_or_default();
        text += &format!("{title}: {} of {} flags\n", of_kind().count(), FLAGS.len());
        for row in of_kind() {
            text += &format!("  --{:<width$}  {}\n", row.flag, row.note);
        }
        text.push('\n');
    }
    text + "All other flags of kube-router 2.11 are here with the same name, type and default.\n"
}
