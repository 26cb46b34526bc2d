//! gobgpd, asked with `gobgp -j`.

use std::fmt::Write as _;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::process::Command;
use std::time::Duration;

use fairway_scenario::{BgpShow, Neighbor, RibPath};
use ipnet::IpNet;
use serde_json::Value;

use super::{Daemon, Place, Program, Settings, family, unix_time};

/// gobgpd.
#[derive(Debug)]
pub(super) struct Gobgp;

fn gobgp(place: &Place, words: &[&str]) -> io::Result<Value> {
    let text = place.text("gobgp", &[&["-j"], words].concat())?;
    serde_json::from_str(&text).map_err(|error| io::Error::other(format!("gobgp {}: {error}: {text}", words.join(" "))))
}

impl Daemon for Gobgp {
    fn prepare(&self, place: &Place, settings: &Settings, again: bool) -> io::Result<Vec<Program>> {
        place.write("config", &config(settings))?;
        let mut command = Command::new("gobgpd");
        command.args(["-t", "yaml", "-f", &place.path("config")]);
        if again && settings.graceful_restart.is_some() {
            command.arg("-r");
        }
        Ok(vec![Program::new(command)])
    }

    /// The configuration has no word for own prefixes. Without a next hop of its family an IPv6 prefix would be announced
    /// on an IPv4 session with an IPv4 address as next hop.
    fn started(&self, place: &Place, settings: &Settings) -> io::Result<()> {
        for net in &settings.router.networks {
            let prefix = net.to_string();
            let family = family(net.addr().is_ipv6());
            let Some(own) = settings.local(net.addr()) else { continue };
            place.text("gobgp", &["global", "rib", "add", "-a", family, &prefix, "nexthop", &own.to_string()])?;
        }
        Ok(())
    }

    fn tools(&self, _place: &Place) -> Vec<(&'static str, String)> {
        vec![]
    }

    fn neighbors(&self, place: &Place) -> io::Result<Vec<Neighbor>> {
        neighbors(&gobgp(place, &["neighbor"])?)
    }

    fn rib(&self, place: &Place, ipv6: bool) -> io::Result<Vec<RibPath>> {
        Ok(rib(&gobgp(place, &["global", "rib", "-a", family(ipv6)])?))
    }

    fn show(&self, show: BgpShow) -> String {
        match show {
            BgpShow::Neighbors => "gobgp neighbor".into(),
            BgpShow::Rib { ipv6, to } => {
                let to = to.map(|to| format!(" {to}")).unwrap_or_default();
                format!("gobgp global rib{to} -a {}", family(ipv6))
            }
        }
    }

    fn reset(&self, place: &Place, peer: IpAddr) -> io::Result<()> {
        place.text("gobgp", &["neighbor", &peer.to_string(), "reset"]).map(drop)
    }

    fn admin(&self, place: &Place, _settings: &Settings, peer: IpAddr, down: Option<&str>) -> io::Result<()> {
        let peer = peer.to_string();
        match down {
            // `disable` sends no message, and after `shutdown` the session comes again.
            Some(message) => place
                .text("gobgp", &["neighbor", &peer, "shutdown", "--reason", message])
                .and_then(|_| place.text("gobgp", &["neighbor", &peer, "disable"])),
            None => place.text("gobgp", &["neighbor", &peer, "enable"]),
        }
        .map(drop)
    }

    /// A set that is replaced concerns what comes later; what is there goes through the policy again after a soft reset.
    fn policy(&self, place: &Place, settings: &Settings) -> io::Result<()> {
        for ipv6 in [false, true] {
            let set = set_name(ipv6);
            let have = gobgp(place, &["policy", "prefix", set])?;
            let have = have.pointer("/0/prefixes").or(have.pointer("/prefixes")).and_then(Value::as_array).cloned();
            let text = |row: &Value| row["ip_prefix"].as_str().map(String::from);
            let have: Vec<String> = have.into_iter().flatten().filter_map(|row| text(&row)).collect();
            let want: Vec<IpNet> = settings.rejected(ipv6);
            let range = |net: &IpNet| format!("{}..{}", net.prefix_len(), net.max_prefix_len());
            for net in &want {
                place.text("gobgp", &["policy", "prefix", "add", set, &net.to_string(), &range(net)])?;
            }
            for old in have.iter().filter_map(|net| net.parse::<IpNet>().ok()).filter(|net| !want.contains(net)) {
                place.text("gobgp", &["policy", "prefix", "del", set, &old.to_string(), &range(&old)])?;
            }
        }
        place.text("gobgp", &["neighbor", "all", "softresetin"]).map(drop)
    }

    fn writes_routes(&self) -> bool {
        false
    }
}

const fn set_name(ipv6: bool) -> &'static str {
    if ipv6 { "reject-v6" } else { "reject-v4" }
}

/// A prefix that nobody announces: a set must not be empty, for an empty one matches everything.
const fn nothing(ipv6: bool) -> &'static str {
    if ipv6 { "2001:db8:dead::/128" } else { "192.0.2.255/32" }
}

/// What neighbours and peer groups have in common, below `config`.
fn session(settings: &Settings, asn: u32) -> String {
    let options = &settings.router.sessions.options;
    let mut text = String::from("    timers: {config: {connect-retry: 1}}\n");
    // Writing to a String cannot fail.
    if options.passive {
        text += "    transport: {config: {passive-mode: true}}\n";
    }
    if let Some(hops) = options.ttl_security {
        let _ = writeln!(text, "    ttl-security: {{config: {{enabled: true, ttl-min: {}}}}}", 256 - u16::from(hops));
    }
    if let Some(restart) = &settings.graceful_restart {
        let time = restart.time_s;
        let _ = writeln!(
            text,
            "    graceful-restart: {{config: {{enabled: true, restart-time: {time}, deferral-time: 5, notification-enabled: true}}}}"
        );
    }
    if settings.reflects_to(asn) {
        let id = settings.router.router_id;
        let _ = writeln!(
            text,
            "    route-reflector: {{config: {{route-reflector-client: true, route-reflector-cluster-id: \"{id}\"}}}}"
        );
    }
    text += "    afi-safis:\n";
    for ipv6 in settings.families() {
        let _ = writeln!(text, "      - config: {{afi-safi-name: {}-unicast}}", family(ipv6));
        if settings.graceful_restart.is_some() {
            text += "        mp-graceful-restart: {config: {enabled: true}}\n";
        }
        if options.add_path_receive || options.add_path_send > 0 {
            let (receive, send) = (options.add_path_receive, options.add_path_send);
            let _ = writeln!(text, "        add-paths: {{config: {{receive: {receive}, send-max: {send}}}}}");
        }
        if let Some(limit) = options.max_prefixes {
            let restart = options.max_prefixes_restart_s.unwrap_or(0);
            let _ =
                writeln!(text, "        prefix-limit: {{config: {{max-prefixes: {limit}, restart-timer: {restart}}}}}");
        }
    }
    text
}

fn config(settings: &Settings) -> String {
    let router = &settings.router;
    let mut text = format!(
        "global:\n  config: {{as: {}, router-id: {}}}\n  use-multiple-paths: {{config: {{enabled: true}}}}\n  \
         apply-policy: {{config: {{import-policy-list: [reject], default-import-policy: accept-route}}}}\n",
        router.asn, router.router_id
    );
    let mut statements = String::new();
    text += "defined-sets:\n  prefix-sets:\n";
    for ipv6 in [false, true] {
        let set = set_name(ipv6);
        // Writing to a String cannot fail.
        let _ = writeln!(text, "    - prefix-set-name: {set}\n      prefix-list:");
        let mut rejected = settings.rejected(ipv6);
        rejected.extend(nothing(ipv6).parse::<IpNet>());
        for net in rejected {
            let (len, max) = (net.prefix_len(), net.max_prefix_len());
            let _ = writeln!(text, "        - {{ip-prefix: \"{net}\", masklength-range: \"{len}..{max}\"}}");
        }
        let _ = writeln!(
            statements,
            "      - name: {set}\n        conditions: {{match-prefix-set: {{prefix-set: {set}, match-set-options: any}}}}\n        \
             actions: {{route-disposition: reject-route}}"
        );
    }
    let _ = write!(text, "policy-definitions:\n  - name: reject\n    statements:\n{statements}");
    let asns: std::collections::BTreeSet<u32> =
        router.accept.iter().flat_map(|(_, asns)| asns.iter().copied()).collect();
    text += "peer-groups:\n";
    for asn in &asns {
        let _ = writeln!(text, "  - config: {{peer-group-name: as{asn}, peer-as: {asn}}}");
        text += &session(settings, *asn);
    }
    text += "dynamic-neighbors:\n";
    for (prefix, asns) in &router.accept {
        for asn in asns {
            let _ = writeln!(text, "  - config: {{prefix: \"{prefix}\", peer-group: as{asn}}}");
        }
    }
    text += "neighbors:\n";
    for peer in &router.peers {
        let password = peer.password.as_ref().map(|word| format!(", auth-password: \"{word}\"")).unwrap_or_default();
        let (address, asn) = (peer.address, peer.asn);
        let _ = writeln!(text, "  - config: {{neighbor-address: \"{address}\", peer-as: {asn}{password}}}");
        text += &session(settings, asn);
    }
    text
}

fn seconds(value: &Value) -> Option<Duration> {
    value.as_u64().map(Duration::from_secs)
}

fn neighbors(rows: &Value) -> io::Result<Vec<Neighbor>> {
    let rows = rows.as_array().ok_or_else(|| io::Error::other("gobgp neighbor: no list"))?;
    let now = unix_time();
    let neighbor = |row: &Value| {
        let text = |path: &str| row.pointer(path).and_then(Value::as_str);
        let address = text("/state/neighbor_address").or(text("/conf/neighbor_address"))?.parse().ok()?;
        let asn = |path: &str| row.pointer(path).and_then(Value::as_u64);
        let asn = asn("/state/peer_asn").or(asn("/conf/peer_asn"))?;
        // `session_state` of GoBGP's API.
        let state = match row.pointer("/state/session_state").and_then(Value::as_u64) {
            Some(2) => "Connect",
            Some(3) => "Active",
            Some(4) => "OpenSent",
            Some(5) => "OpenConfirm",
            Some(6) => "Establ",
            _ => "Idle",
        };
        let count = |what: &str| -> u64 {
            let families = row.pointer("/afi_safis").and_then(Value::as_array).into_iter().flatten();
            families.filter_map(|family| family.pointer(what)?.as_u64()).sum()
        };
        let up = row.pointer("/timers/state/uptime/seconds").and_then(seconds);
        Some(Neighbor {
            address,
            asn: u32::try_from(asn).ok()?,
            state: state.into(),
            since: up.map(|up| now.saturating_sub(up)),
            received: count("/state/received"),
            accepted: count("/state/accepted"),
            reason: None,
        })
    };
    Ok(rows.iter().filter_map(neighbor).collect())
}

fn rib(rib: &Value) -> Vec<RibPath> {
    let now = unix_time();
    let mut paths = vec![];
    for (prefix, entries) in rib.as_object().into_iter().flatten() {
        let Ok(prefix) = prefix.parse::<IpNet>() else { continue };
        for entry in entries.as_array().into_iter().flatten() {
            let attributes = || entry["attrs"].as_array().into_iter().flatten();
            let next_hop = attributes().find_map(|a| a["nexthop"].as_str()?.parse().ok());
            let as_path = attributes()
                .filter_map(|a| a["as_paths"].as_array())
                .flatten()
                .filter_map(|segment| segment["asns"].as_array())
                .flatten()
                .filter_map(|asn| u32::try_from(asn.as_u64()?).ok())
                .collect();
            let origin = attributes().find(|a| a["type"] == 1).and_then(|a| a["value"].as_u64());
            let origin = match origin {
                Some(0) => "i",
                Some(1) => "e",
                _ => "?",
            };
            paths.push(RibPath {
                prefix,
                next_hop: next_hop.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED)),
                as_path,
                best: entry["best"].as_bool().unwrap_or_default(),
                age: entry["age"].as_u64().map(|at| now.saturating_sub(Duration::from_secs(at))).unwrap_or_default(),
                attrs: format!("[{{Origin: {origin}}}]"),
            });
        }
    }
    paths.sort_by_key(|path| (path.prefix, !path.best, path.next_hop));
    paths
}
