//! BIRD 2, asked with `birdc`.

use std::fmt::Write as _;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::process::Command;
use std::time::Duration;

use fairway_objects::BfdConfig;
use fairway_scenario::{BfdSession, BgpShow, Neighbor, RibPath};
use ipnet::IpNet;

use super::{Daemon, Place, Program, Settings, family};

/// BIRD.
#[derive(Debug)]
pub(super) struct Bird;

fn birdc(place: &Place, command: &str) -> io::Result<String> {
    let socket = place.path("bird.ctl");
    let mut words = vec!["-s", &socket];
    words.extend(command.split(' '));
    place.text("birdc", &words)
}

/// The name of the protocol with a neighbour.
fn protocol(place: &Place, peer: IpAddr) -> io::Result<String> {
    let found = neighbors_named(&birdc(place, "show protocols all")?);
    let found = found.into_iter().find(|(_, neighbor)| neighbor.address == peer);
    found.map(|(name, _)| name).ok_or_else(|| io::Error::other(format!("no neighbour {peer}")))
}

/// The control socket takes a command with a quoted text only as one word.
fn quoted(place: &Place, command: &str) -> io::Result<()> {
    let answer = place.text("birdc", &["-s", &place.path("bird.ctl"), command])?;
    if answer.contains("syntax error") { Err(io::Error::other(format!("birdc {command}: {answer}"))) } else { Ok(()) }
}

impl Daemon for Bird {
    fn prepare(&self, place: &Place, settings: &Settings, again: bool) -> io::Result<Vec<Program>> {
        place.write("config", &config(settings))?;
        let mut command = Command::new("bird");
        command.args(["-f", "-c", &place.path("config"), "-s", &place.path("bird.ctl")]);
        if again && settings.graceful_restart.is_some() {
            command.arg("-R");
        }
        Ok(vec![Program::new(command)])
    }

    fn tools(&self, place: &Place) -> Vec<(&'static str, String)> {
        vec![("birdc", format!("birdc -s {}", place.path("bird.ctl")))]
    }

    fn neighbors(&self, place: &Place) -> io::Result<Vec<Neighbor>> {
        Ok(neighbors(&birdc(place, "show protocols all")?))
    }

    fn rib(&self, place: &Place, ipv6: bool) -> io::Result<Vec<RibPath>> {
        Ok(rib(&birdc(place, &format!("show route all table master{}", if ipv6 { 6 } else { 4 }))?))
    }

    fn bfd(&self, place: &Place) -> io::Result<Vec<BfdSession>> {
        Ok(bfd(&birdc(place, "show bfd sessions")?))
    }

    fn show(&self, show: BgpShow) -> String {
        match show {
            BgpShow::Neighbors => "birdc show protocols".into(),
            BgpShow::Rib { ipv6, to } => {
                let to = to.map(|to| format!("{to} ")).unwrap_or_default();
                format!("birdc show route {to}table master{}", if ipv6 { 6 } else { 4 })
            }
        }
    }

    fn reset(&self, place: &Place, peer: IpAddr) -> io::Result<()> {
        birdc(place, &format!("restart {}", protocol(place, peer)?)).map(drop)
    }

    fn admin(&self, place: &Place, _settings: &Settings, peer: IpAddr, down: Option<&str>) -> io::Result<()> {
        let name = protocol(place, peer)?;
        match down {
            Some(message) => quoted(place, &format!("disable {name} \"{message}\"")),
            None => birdc(place, &format!("enable {name}")).map(drop),
        }
    }

    /// BIRD asks for the routes again where a filter changed.
    fn policy(&self, place: &Place, settings: &Settings) -> io::Result<()> {
        place.write("config", &config(settings))?;
        let answer = birdc(place, "configure")?;
        if answer.contains("Reconfigur") { Ok(()) } else { Err(io::Error::other(answer)) }
    }

    fn writes_routes(&self) -> bool {
        true
    }
}

/// The channel of one family in a session.
fn channel(settings: &Settings, ipv6: bool) -> String {
    let options = &settings.router.sessions.options;
    let nets: Vec<String> = settings.rejected(ipv6).iter().map(|net| format!("{net}+")).collect();
    let import = match nets.is_empty() {
        true => "all".to_string(),
        false => format!("where net !~ [ {} ]", nets.join(", ")),
    };
    let mut text = format!("  {} {{ import {import}; export where source ~ [ RTS_BGP, RTS_STATIC ];", family(ipv6));
    if let Some(limit) = options.max_prefixes {
        let action = if options.max_prefixes_restart_s.is_some() { "restart" } else { "disable" };
        // Writing to a String cannot fail.
        let _ = write!(text, " receive limit {limit} action {action};");
    }
    match (options.add_path_receive, options.add_path_send > 0) {
        (true, true) => text += " add paths on;",
        (true, false) => text += " add paths rx;",
        (false, true) => text += " add paths tx;",
        (false, false) => {}
    }
    if !ipv6 && options.extended_next_hop {
        text += " extended next hop on;";
    }
    text + " };\n"
}

/// What all sessions have in common.
fn session(settings: &Settings, asn: u32) -> String {
    let options = &settings.router.sessions.options;
    let mut text = format!("  local as {};\n  connect delay time 1;\n  connect retry time 2;\n", settings.router.asn);
    // An attempt that fails is followed by another one soon, but not after a limit was reached.
    let wait = options.max_prefixes_restart_s.unwrap_or(1).max(1);
    let _ = writeln!(text, "  error wait time {wait}, {};", wait.max(4));
    if let Some(restart) = &settings.graceful_restart {
        let _ = writeln!(text, "  graceful restart on;\n  graceful restart time {};", restart.time_s);
    }
    if options.ttl_security.is_some() {
        text += "  ttl security on;\n";
    }
    if settings.router.sessions.bfd.is_some() {
        text += "  bfd on;\n";
    }
    if settings.reflects_to(asn) {
        text += "  rr client;\n";
    }
    for ipv6 in settings.families() {
        text += &channel(settings, ipv6);
    }
    text
}

fn config(settings: &Settings) -> String {
    let router = &settings.router;
    let mut text = format!("router id {};\nlog stderr all;\nprotocol device {{ scan time 5; }}\n", router.router_id);
    // Next hops that internal neighbours pass on are looked up among the routes of the links.
    text += "protocol direct { ipv4; ipv6; }\n";
    if settings.graceful_restart.is_some() {
        text += "graceful restart wait 10;\n";
    }
    if let Some(BfdConfig { desired_min_tx_ms, required_min_rx_ms, multiplier, .. }) = router.sessions.bfd {
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "protocol bfd {{ interface \"*\" {{ min tx interval {desired_min_tx_ms} ms; \
             min rx interval {required_min_rx_ms} ms; multiplier {multiplier}; }}; }}"
        );
    }
    for ipv6 in [false, true] {
        let family = family(ipv6);
        let _ = writeln!(
            text,
            "protocol kernel {{ {family} {{ export where source != RTS_DEVICE; import none; }}; merge paths on limit 64; scan time 5; }}"
        );
        let routes: String = settings.networks(ipv6).map(|net| format!(" route {net} blackhole;")).collect();
        let _ = writeln!(text, "protocol static {{ {family};{routes} }}");
    }
    for (number, (prefix, asns)) in router.accept.iter().enumerate() {
        // Of several protocols with one range the first has it; one has a single AS, or any but our own.
        let (remote, asn) = match asns.as_slice() {
            [asn] => (format!("as {asn}"), *asn),
            _ => ("external".to_string(), 0),
        };
        let _ = write!(
            text,
            "protocol bgp range{number} {{\n  neighbor range {prefix} {remote};\n  \
             dynamic name \"peer{number}_\";\n  passive on;\n{}}}\n",
            session(settings, asn),
            number = number + 1,
        );
    }
    for (number, peer) in router.peers.iter().enumerate() {
        let local = settings.local(peer.address).map(|local| format!("  source address {local};\n"));
        let password = peer.password.as_ref().map(|word| format!("  password \"{word}\";\n"));
        let passive = router.sessions.options.passive.then(|| "  passive on;\n".to_string());
        let own: String = [local, password, passive].into_iter().flatten().collect();
        let _ = write!(
            text,
            "protocol bgp known{} {{\n  neighbor {} as {};\n{own}{}}}\n",
            number + 1,
            peer.address,
            peer.asn,
            session(settings, peer.asn),
        );
    }
    text
}

/// Sessions out of `show bfd sessions`: address, interface, state, and more.
fn bfd(text: &str) -> Vec<BfdSession> {
    let session = |line: &str| {
        let mut words = line.split_whitespace();
        Some(BfdSession { address: words.next()?.parse().ok()?, state: words.nth(1)?.into() })
    };
    text.lines().filter_map(session).collect()
}

fn neighbors(text: &str) -> Vec<Neighbor> {
    neighbors_named(text).into_iter().map(|(_, neighbor)| neighbor).collect()
}

/// Neighbours out of `show protocols all`: a line per protocol, its details indented below it.
fn neighbors_named(text: &str) -> Vec<(String, Neighbor)> {
    let mut found: Vec<(String, Neighbor)> = vec![];
    let mut current: Option<(String, String)> = None;
    let number = |words: &[&str], before: &str| -> u64 {
        let at = words.iter().position(|word| word.trim_end_matches(',') == before);
        at.and_then(|at| words.get(at.checked_sub(1)?)?.parse().ok()).unwrap_or_default()
    };
    for line in text.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        if !line.starts_with(char::is_whitespace) {
            // Name, protocol, table, state, since, info.
            current = match words.as_slice() {
                [name, "BGP", _, _, _, info, ..] => {
                    let state = if *info == "Established" { "Establ" } else { info };
                    Some(((*name).to_string(), state.to_string()))
                }
                [name, "BGP", ..] => Some(((*name).to_string(), "Idle".to_string())),
                _ => None,
            };
            continue;
        }
        let Some((name, state)) = &current else { continue };
        if let ["Neighbor", "address:", address] = words.as_slice()
            && let Ok(address) = address.parse()
        {
            let state = state.clone();
            let neighbor = Neighbor { address, asn: 0, state, since: None, received: 0, accepted: 0, reason: None };
            found.push((name.clone(), neighbor));
        }
        let Some((_, neighbor)) = found.last_mut().filter(|(of, _)| of == name) else { continue };
        match words.as_slice() {
            ["Neighbor", "AS:", asn] => neighbor.asn = asn.parse().unwrap_or_default(),
            ["Routes:", ..] => {
                neighbor.accepted += number(&words, "imported");
                neighbor.received += number(&words, "imported") + number(&words, "filtered");
            }
            _ => {}
        }
    }
    found
}

/// Paths out of `show route all`: the prefix stands before its first path only, details below each.
fn rib(text: &str) -> Vec<RibPath> {
    let mut paths: Vec<RibPath> = vec![];
    let mut prefix = None;
    for line in text.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        let Some(first) = words.first() else { continue };
        if let Ok(net) = first.parse::<IpNet>() {
            prefix = Some(net);
        }
        let kinds = ["unicast", "blackhole", "unreachable", "prohibit"];
        if let (Some(prefix), true) = (prefix, words.iter().any(|word| kinds.contains(word)) && line.contains('[')) {
            paths.push(RibPath {
                prefix,
                next_hop: Ipv4Addr::UNSPECIFIED.into(),
                as_path: vec![],
                best: words.contains(&"*"),
                age: Duration::ZERO,
                attrs: String::new(),
            });
            continue;
        }
        let Some(path) = paths.last_mut() else { continue };
        match words.as_slice() {
            ["BGP.next_hop:", next_hop, ..] => path.next_hop = next_hop.parse().unwrap_or(path.next_hop),
            ["BGP.as_path:", asns @ ..] => path.as_path = asns.iter().filter_map(|asn| asn.parse().ok()).collect(),
            _ => {}
        }
    }
    paths
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rib_of_bird() {
        let text = "BIRD 2.0.12 ready.\nTable master4:\n\
            10.0.0.2/32          unicast [peer1_1 12:00:01.100] * (100) [AS65001i]\n\tvia 192.168.1.1 on eth1\n\t\
            Type: BGP univ\n\tBGP.origin: IGP\n\tBGP.as_path: 65002 65001\n\tBGP.next_hop: 192.168.1.1\n                     \
            unicast [peer1_2 12:00:01.100] (100) [AS65001i]\n\tvia 192.168.1.2 on eth1\n\tBGP.as_path: 65001\n\t\
            BGP.next_hop: 192.168.1.2\n10.20.0.0/16         blackhole [static1 12:00:00.000] * (200)\n";
        let paths = rib(text);
        let shown: Vec<String> = paths.iter().map(|p| format!("{} {} {}", p.prefix, p.next_hop, p.best)).collect();
        assert_eq!(
            shown,
            ["10.0.0.2/32 192.168.1.1 true", "10.0.0.2/32 192.168.1.2 false", "10.20.0.0/16 0.0.0.0 true"]
        );
        assert_eq!(paths[0].as_path, [65002, 65001]);
    }

    #[test]
    fn the_bfd_sessions_of_bird() {
        let text = "BIRD 2.0.12 ready.\nbfd1:\nIP address                Interface  State      Since         Interval  Timeout\n\
            192.168.1.1               eth1       Up         12:00:01.000    0.100    0.300\n\
            192.168.1.2               eth1       Down       12:00:02.000    1.000    0.000\n";
        let shown: Vec<String> = bfd(text).iter().map(|s| format!("{} {}", s.address, s.state)).collect();
        assert_eq!(shown, ["192.168.1.1 Up", "192.168.1.2 Down"]);
    }

    #[test]
    fn the_neighbours_of_bird() {
        let text = "BIRD 2.0.12 ready.\nName       Proto      Table      State  Since         Info\n\
            range1     BGP        ---        start  12:00:00.000  Passive\n  BGP state:          Passive\n    Neighbor range:   192.168.1.0/24\n\
            peer1_1    BGP        ---        up     12:00:01.000  Established\n  BGP state:          Established\n    \
            Neighbor address: 192.168.1.1\n    Neighbor AS:      65001\n    Local AS:         65002\n    \
            Session:          external AS4\n  Channel ipv4\n    State:          UP\n    \
            Routes:         3 imported, 1 filtered, 0 exported, 3 preferred\n  Channel ipv6\n    \
            Routes:         1 imported, 0 exported, 1 preferred\n";
        let neighbors = neighbors(text);
        assert_eq!(neighbors.len(), 1);
        let n = &neighbors[0];
        assert_eq!((n.asn, n.state.as_str(), n.received, n.accepted), (65001, "Establ", 5, 4));
    }
}
