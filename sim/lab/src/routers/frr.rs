//! FRR: zebra, bgpd and bfdd, asked with `vtysh` and its JSON.

use std::fmt::Write as _;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::process::Command;
use std::time::Duration;

use fairway_objects::BfdConfig;
use fairway_scenario::{BfdSession, BgpShow, Neighbor, RibPath};
use serde_json::Value;

use super::{Daemon, Place, Program, Settings, family, unix_time};

/// FRR.
#[derive(Debug)]
pub(super) struct Frr;

/// Where Debian has the daemons.
const FOLDER: &str = "/usr/lib/frr";
/// The user that Debian makes for them.
const USER: &str = "frr";
/// Seconds for which zebra keeps the routes of an earlier one.
const KEEP_S: &str = "30";

fn vtysh(place: &Place, commands: &[&str]) -> io::Result<String> {
    let folder = place.path("");
    let mut words = vec!["--vty_socket", &folder];
    for command in commands {
        words.extend(["-c", command]);
    }
    let text = place.text("vtysh", &words)?;
    // It complains on standard output, and goes on.
    let complaint = text.lines().find(|line| line.starts_with('%'));
    match complaint {
        Some(line) => Err(io::Error::other(format!("vtysh {}: {line}", commands.join("; ")))),
        None => Ok(text),
    }
}

fn json(place: &Place, command: &str) -> io::Result<Value> {
    let text = vtysh(place, &[command])?;
    serde_json::from_str(&text).map_err(|error| io::Error::other(format!("vtysh {command}: {error}: {text}")))
}

fn configure(place: &Place, settings: &Settings, lines: &[String]) -> io::Result<()> {
    let router = format!("router bgp {}", settings.router.asn);
    let mut commands = vec!["configure terminal", &router];
    commands.extend(lines.iter().map(String::as_str));
    vtysh(place, &commands).map(drop)
}

impl Daemon for Frr {
    fn prepare(&self, place: &Place, settings: &Settings, again: bool) -> io::Result<Vec<Program>> {
        place.write("zebra.conf", "")?;
        place.write("config", &config(settings))?;
        let watched = settings.router.sessions.bfd;
        if let Some(watched) = watched {
            place.write("bfdd.conf", &profile(watched))?;
        }
        // Its daemons insist on not being root, and write their sockets here.
        place.text("chown", &["-R", &format!("{USER}:frrvty"), &place.path("")])?;
        let (folder, zserv) = (place.path(""), place.path("zserv"));
        let daemon = |name: &str, config: &str| {
            let mut command = Command::new(format!("{FOLDER}/{name}"));
            command.args(["-u", USER, "-g", USER, "-P", "0", "--log", "stdout", "--vty_socket", &folder]);
            command.args(["-z", &zserv, "-f", &place.path(config), "-i", &place.path(&format!("{name}.pid"))]);
            command
        };
        let mut zebra = daemon("zebra", "zebra.conf");
        if again {
            zebra.args(["-K", KEEP_S]);
        }
        // bgpd looks for zebra when it starts, and then not for a long time.
        let mut programs = vec![Program { command: zebra, appears: Some("zserv") }];
        if watched.is_some() {
            let mut bfdd = daemon("bfdd", "bfdd.conf");
            bfdd.args(["--bfdctl", &place.path("bfdd.sock")]);
            programs.push(Program { command: bfdd, appears: Some("bfdd.vty") });
        }
        programs.push(Program::new(daemon("bgpd", "config")));
        Ok(programs)
    }

    fn tools(&self, place: &Place) -> Vec<(&'static str, String)> {
        vec![("vtysh", format!("vtysh --vty_socket {}", place.path("")))]
    }

    fn neighbors(&self, place: &Place) -> io::Result<Vec<Neighbor>> {
        Ok(neighbors(&json(place, "show bgp neighbors json")?))
    }

    fn rib(&self, place: &Place, ipv6: bool) -> io::Result<Vec<RibPath>> {
        Ok(rib(&json(place, &format!("show bgp {} unicast json", family(ipv6)))?))
    }

    fn bfd(&self, place: &Place) -> io::Result<Vec<BfdSession>> {
        Ok(bfd(&json(place, "show bfd peers json")?))
    }

    fn show(&self, show: BgpShow) -> String {
        match show {
            BgpShow::Neighbors => "vtysh -c 'show bgp summary'".into(),
            BgpShow::Rib { ipv6, to } => {
                let to = to.map(|to| format!(" {to}")).unwrap_or_default();
                format!("vtysh -c 'show bgp {} unicast{to}'", family(ipv6))
            }
        }
    }

    fn reset(&self, place: &Place, peer: IpAddr) -> io::Result<()> {
        vtysh(place, &[&format!("clear bgp {peer}")]).map(drop)
    }

    fn admin(&self, place: &Place, settings: &Settings, peer: IpAddr, down: Option<&str>) -> io::Result<()> {
        let line = match down {
            Some("") => format!("neighbor {peer} shutdown"),
            Some(message) => format!("neighbor {peer} shutdown message {message}"),
            None => format!("no neighbor {peer} shutdown"),
        };
        configure(place, settings, &[line])
    }

    /// A prefix list that changes concerns what comes later, so the neighbours are asked for their routes again.
    fn policy(&self, place: &Place, settings: &Settings) -> io::Result<()> {
        let mut lines = vec!["configure terminal".to_string()];
        for ipv6 in [false, true] {
            lines.push(format!("no {} prefix-list {}", ip(ipv6), list_name(ipv6)));
            lines.extend(prefix_list(settings, ipv6));
        }
        vtysh(place, &lines.iter().map(String::as_str).collect::<Vec<_>>())?;
        vtysh(place, &["clear bgp * in"]).map(drop)
    }

    fn writes_routes(&self) -> bool {
        true
    }
}

const fn ip(ipv6: bool) -> &'static str {
    if ipv6 { "ipv6" } else { "ip" }
}

const fn list_name(ipv6: bool) -> &'static str {
    if ipv6 { "reject6" } else { "reject4" }
}

/// The prefixes that are refused; the rest is permitted.
fn prefix_list(settings: &Settings, ipv6: bool) -> Vec<String> {
    let start = format!("{} prefix-list {}", ip(ipv6), list_name(ipv6));
    let all = if ipv6 { "::/0 le 128" } else { "0.0.0.0/0 le 32" };
    let deny = settings.rejected(ipv6).into_iter().map(|net| match net.max_prefix_len() {
        max if max == net.prefix_len() => format!("{start} deny {net}"),
        max => format!("{start} deny {net} le {max}"),
    });
    deny.chain([format!("{start} permit {all}")]).collect()
}

/// The name of the timers of BFD.
const PROFILE: &str = "timers";

/// What bfdd is told.
fn profile(watched: BfdConfig) -> String {
    let BfdConfig { desired_min_tx_ms, required_min_rx_ms, multiplier, .. } = watched;
    format!(
        "bfd\n profile {PROFILE}\n  transmit-interval {desired_min_tx_ms}\n  receive-interval {required_min_rx_ms}\n  \
         detect-multiplier {multiplier}\n"
    )
}

/// What is said of a neighbour or a group outside the address families.
fn session(settings: &Settings, name: &str) -> String {
    let options = &settings.router.sessions.options;
    let mut text = format!(" neighbor {name} timers connect 1\n neighbor {name} advertisement-interval 0\n");
    if options.passive {
        // Writing to a String cannot fail.
        let _ = writeln!(text, " neighbor {name} passive");
    }
    if options.extended_next_hop {
        let _ = writeln!(text, " neighbor {name} capability extended-nexthop");
    }
    if settings.router.sessions.bfd.is_some() {
        let _ = writeln!(text, " neighbor {name} bfd\n neighbor {name} bfd profile {PROFILE}");
    }
    if let Some(hops) = options.ttl_security {
        let _ = writeln!(text, " neighbor {name} ttl-security hops {hops}");
    }
    text
}

/// What is said of it inside an address family.
fn activation(settings: &Settings, name: &str, asn: Option<u32>, ipv6: bool) -> String {
    let options = &settings.router.sessions.options;
    let mut text = format!("  neighbor {name} activate\n  neighbor {name} prefix-list {} in\n", list_name(ipv6));
    if options.add_path_send > 0 {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "  neighbor {name} addpath-tx-all-paths");
    }
    if !options.add_path_receive {
        let _ = writeln!(text, "  neighbor {name} disable-addpath-rx");
    }
    if let Some(limit) = options.max_prefixes {
        // Minutes; the least is one.
        let restart = options.max_prefixes_restart_s.map(|s| format!(" restart {}", s.div_ceil(60)));
        let _ = writeln!(text, "  neighbor {name} maximum-prefix {limit}{}", restart.unwrap_or_default());
    }
    if asn.is_some_and(|asn| settings.reflects_to(asn)) {
        let _ = writeln!(text, "  neighbor {name} route-reflector-client");
    }
    text
}

fn config(settings: &Settings) -> String {
    let router = &settings.router;
    let mut text = format!(
        "router bgp {}\n bgp router-id {}\n no bgp ebgp-requires-policy\n no bgp default ipv4-unicast\n \
         no bgp network import-check\n bgp bestpath as-path multipath-relax\n bgp listen limit 1000\n bgp log-neighbor-changes\n",
        router.asn, router.router_id
    );
    if let Some(restart) = &settings.graceful_restart {
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            " bgp graceful-restart\n bgp graceful-restart restart-time {}\n bgp graceful-restart preserve-fw-state",
            restart.time_s
        );
    }
    // A range has one group; a group has one AS, or any but our own.
    let mut names: Vec<(String, Option<u32>)> = vec![];
    for (number, (prefix, asns)) in router.accept.iter().enumerate() {
        let name = format!("range{}", number + 1);
        let (asn, remote) = match asns.as_slice() {
            [asn] => (Some(*asn), asn.to_string()),
            _ => (None, "external".to_string()),
        };
        let _ = write!(
            text,
            " neighbor {name} peer-group\n neighbor {name} remote-as {remote}\n bgp listen range {prefix} peer-group {name}\n{}",
            session(settings, &name)
        );
        names.push((name, asn));
    }
    for peer in &router.peers {
        let name = peer.address.to_string();
        let _ = writeln!(text, " neighbor {name} remote-as {}", peer.asn);
        if let Some(password) = &peer.password {
            let _ = writeln!(text, " neighbor {name} password {password}");
        }
        text += &session(settings, &name);
        names.push((name, Some(peer.asn)));
    }
    for ipv6 in settings.families() {
        let _ = writeln!(text, " address-family {} unicast", family(ipv6));
        text += "  maximum-paths 64\n  maximum-paths ibgp 64\n";
        for net in settings.networks(ipv6) {
            let _ = writeln!(text, "  network {net}");
        }
        for (name, asn) in &names {
            text += &activation(settings, name, *asn, ipv6);
        }
        text += " exit-address-family\n";
    }
    text += "exit\n";
    for ipv6 in [false, true] {
        for line in prefix_list(settings, ipv6) {
            let _ = writeln!(text, "{line}");
        }
    }
    text
}

/// Sessions out of `show bfd peers json`: a list of objects.
fn bfd(all: &Value) -> Vec<BfdSession> {
    let session = |row: &Value| {
        let state = match row["status"].as_str()? {
            "up" => "Up",
            "init" => "Init",
            "down" => "Down",
            _ => "AdminDown",
        };
        Some(BfdSession { address: row["peer"].as_str()?.parse().ok()?, state: state.into() })
    };
    all.as_array().into_iter().flatten().filter_map(session).collect()
}

/// Neighbours out of `show bgp neighbors json`: an object each, by address.
fn neighbors(all: &Value) -> Vec<Neighbor> {
    let neighbor = |(address, row): (&String, &Value)| {
        let address = address.parse().ok()?;
        let asn = u32::try_from(row["remoteAs"].as_u64()?).ok()?;
        let state = match row["bgpState"].as_str()? {
            "Established" => "Establ",
            other => other,
        };
        let families = || row["addressFamilyInfo"].as_object().into_iter().flatten();
        let count = |what: &str| families().filter_map(|(_, family)| family[what].as_u64()).sum::<u64>();
        let up = row["bgpTimerUpEstablishedEpoch"].as_u64().map(Duration::from_secs);
        let accepted = count("acceptedPrefixCounter");
        Some(Neighbor {
            address,
            asn,
            state: state.into(),
            since: up.map(|up| unix_time().saturating_sub(up)),
            // What the filter refused is forgotten.
            received: accepted,
            accepted,
            reason: None,
        })
    };
    all.as_object().into_iter().flatten().filter_map(neighbor).collect()
}

/// Paths out of `show bgp ipv4 unicast json`: `routes` has a list of them for each prefix.
fn rib(all: &Value) -> Vec<RibPath> {
    let mut paths = vec![];
    for (prefix, rows) in all["routes"].as_object().into_iter().flatten() {
        let Ok(prefix) = prefix.parse() else { continue };
        for row in rows.as_array().into_iter().flatten() {
            let hops = || row["nexthops"].as_array().into_iter().flatten();
            let global = hops().find(|hop| hop["scope"] != "link-local").or(hops().next());
            let next_hop = global.and_then(|hop| hop["ip"].as_str()?.parse().ok());
            let as_path = row["path"].as_str().unwrap_or_default();
            paths.push(RibPath {
                prefix,
                next_hop: next_hop.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED)),
                as_path: as_path.split_whitespace().filter_map(|asn| asn.parse().ok()).collect(),
                best: row["bestpath"].as_bool().unwrap_or_default() || row["multipath"].as_bool().unwrap_or_default(),
                age: Duration::ZERO,
                attrs: format!("[{{Origin: {}}}]", row["origin"].as_str().unwrap_or("?")),
            });
        }
    }
    paths.sort_by_key(|path| (path.prefix, !path.best, path.next_hop));
    paths
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_bfd_sessions_of_frr() {
        let all = json!([{"peer": "192.168.1.1", "status": "up"}, {"peer": "fd00::2", "status": "down"},
            {"peer": "192.168.1.3", "status": "shutdown"}]);
        let shown: Vec<String> = bfd(&all).iter().map(|s| format!("{} {}", s.address, s.state)).collect();
        assert_eq!(shown, ["192.168.1.1 Up", "fd00::2 Down", "192.168.1.3 AdminDown"]);
    }

    #[test]
    fn the_neighbours_of_frr() {
        let all = json!({
            "192.168.1.1": {"remoteAs": 65001, "bgpState": "Established", "addressFamilyInfo": {
                "ipv4Unicast": {"acceptedPrefixCounter": 2}, "ipv6Unicast": {"acceptedPrefixCounter": 1}}},
            "192.168.1.2": {"remoteAs": 65001, "bgpState": "Active", "addressFamilyInfo": {}},
            "message": "no neighbour"
        });
        let found = neighbors(&all);
        let shown: Vec<String> = found.iter().map(|n| format!("{} {} {}", n.address, n.state, n.accepted)).collect();
        assert_eq!(shown, ["192.168.1.1 Establ 3", "192.168.1.2 Active 0"]);
    }

    #[test]
    fn the_rib_of_frr() {
        let all = json!({"routes": {"1100::/64": [
            {"multipath": true, "path": "65001 65002", "origin": "IGP", "nexthops": [
                {"ip": "fe80::1", "scope": "link-local", "used": true}, {"ip": "fd00::1", "scope": "global"}]},
            {"path": "", "nexthops": [{"ip": "::"}]}
        ]}});
        let paths = rib(&all);
        let shown: Vec<String> = paths.iter().map(|p| format!("{} {} {:?}", p.next_hop, p.best, p.as_path)).collect();
        assert_eq!(shown, ["fd00::1 true [65001, 65002]", ":: false []"]);
    }
}
