//! ExaBGP, asked with `exabgpcli`. It has no RIB but what each neighbour sent.

use std::fmt::Write as _;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::process::Command;
use std::time::Duration;

use fairway_scenario::{BgpShow, Neighbor, RibPath};
use ipnet::IpNet;

use super::{Daemon, Place, Program, Settings, family};

/// ExaBGP.
#[derive(Debug)]
pub(super) struct Exabgp;

/// Where it looks for the pipes of its tool.
const PIPES: &str = "/run/exabgp";
/// Subcode of Cease for a shutdown by the operator, and for a reset (RFC 4486).
const SHUTDOWN: u8 = 2;
const RESET: u8 = 4;

/// The name of its pipes; several may run in one lab.
fn pipe(place: &Place) -> String {
    place.space.name().to_string()
}

/// What leads `exabgpcli` to this daemon. Its pipes are for one at a time.
fn leading(place: &Place) -> [String; 4] {
    ["flock".into(), place.path("turn"), "env".into(), format!("exabgp_api_pipename={}", pipe(place))]
}

fn cli(place: &Place, command: &str) -> io::Result<String> {
    let leading = leading(place);
    let mut words: Vec<&str> = leading[1..].iter().map(String::as_str).collect();
    words.extend(["timeout", "5", "exabgpcli"]);
    words.extend(command.split(' '));
    place.text(&leading[0], &words)
}

impl Daemon for Exabgp {
    fn prepare(&self, place: &Place, settings: &Settings, _again: bool) -> io::Result<Vec<Program>> {
        std::fs::create_dir_all(PIPES)?;
        for end in ["in", "out"] {
            let path = format!("{PIPES}/{}.{end}", pipe(place));
            if !std::path::Path::new(&path).exists() {
                place.text("mkfifo", &["-m", "600", &path])?;
            }
        }
        place.write("config", &config(settings))?;
        let addresses: Vec<String> = settings.router.addresses.iter().map(IpAddr::to_string).collect();
        let mut command = Command::new("exabgp");
        command
            .arg(place.path("config"))
            .env("exabgp_api_cli", "true")
            .env("exabgp_api_pipename", pipe(place))
            .env("exabgp_daemon_user", "root")
            .env("exabgp_log_destination", "stdout")
            .env("exabgp_tcp_bind", addresses.join(" "))
            .env("exabgp_tcp_port", "179");
        Ok(vec![Program::new(command)])
    }

    fn tools(&self, place: &Place) -> Vec<(&'static str, String)> {
        vec![("exabgpcli", format!("{} exabgpcli", leading(place).join(" ")))]
    }

    fn neighbors(&self, place: &Place) -> io::Result<Vec<Neighbor>> {
        let received = cli(place, "show adj-rib in")?;
        let mut found = neighbors(&cli(place, "show neighbor summary")?);
        for neighbor in &mut found {
            let own = |line: &&str| line.split_whitespace().nth(1) == Some(neighbor.address.to_string().as_str());
            neighbor.received = received.lines().filter(own).count() as u64;
            neighbor.accepted = neighbor.received;
        }
        Ok(found)
    }

    fn rib(&self, place: &Place, ipv6: bool) -> io::Result<Vec<RibPath>> {
        let mut paths = rib(&cli(place, "show adj-rib in extensive")?);
        paths.retain(|path| path.prefix.addr().is_ipv6() == ipv6);
        Ok(paths)
    }

    fn show(&self, show: BgpShow) -> String {
        match show {
            BgpShow::Neighbors => "exabgpcli show neighbor summary".into(),
            BgpShow::Rib { .. } => "exabgpcli show adj-rib in".into(),
        }
    }

    fn reset(&self, place: &Place, peer: IpAddr) -> io::Result<()> {
        cli(place, &format!("neighbor {peer} teardown {RESET}")).map(drop)
    }

    /// It tears the session down and then is passive; the other side may come again at any time.
    fn admin(&self, place: &Place, _settings: &Settings, peer: IpAddr, down: Option<&str>) -> io::Result<()> {
        match down {
            Some(_) => cli(place, &format!("neighbor {peer} teardown {SHUTDOWN}")).map(drop),
            None => Ok(()),
        }
    }

    /// It takes everything; a policy is what its users write in their own programs.
    fn policy(&self, _place: &Place, _settings: &Settings) -> io::Result<()> {
        Err(io::Error::other("ExaBGP has no policies"))
    }

    fn writes_routes(&self) -> bool {
        false
    }
}

fn config(settings: &Settings) -> String {
    let router = &settings.router;
    let options = &router.sessions.options;
    let mut text = String::new();
    let ranges = || router.accept.iter().filter_map(|(range, asns)| Some((range, *asns.first()?)));
    let inside = settings.nodes.iter().filter_map(|node| {
        let (_, asn) = ranges().find(|(range, _)| range.contains(node))?;
        Some((*node, asn, None, true))
    });
    let known = router.peers.iter().map(|peer| (peer.address, peer.asn, peer.password.as_ref(), options.passive));
    for (address, asn, password, passive) in inside.chain(known) {
        let Some(local) = settings.local(address) else { continue };
        // Writing to a String cannot fail.
        let _ = write!(
            text,
            "neighbor {address} {{\n  router-id {};\n  local-address {local};\n  local-as {};\n  peer-as {asn};\n",
            router.router_id, router.asn
        );
        if let Some(password) = password {
            let _ = writeln!(text, "  md5-password \"{password}\";");
        }
        if let Some(hops) = options.ttl_security {
            let _ = writeln!(text, "  outgoing-ttl 255;\n  incoming-ttl {};", 256 - u16::from(hops));
        }
        if passive {
            text += "  passive true;\n  listen 179;\n";
        }
        text += "  adj-rib-in true;\n  family {\n";
        for ipv6 in settings.families() {
            let _ = writeln!(text, "    {} unicast;", family(ipv6));
        }
        text += "  }\n  capability {\n    asn4 enable;\n    route-refresh enable;\n";
        if let Some(restart) = &settings.graceful_restart {
            let _ = writeln!(text, "    graceful-restart {};", restart.time_s);
        }
        match (options.add_path_receive, options.add_path_send > 0) {
            (true, true) => text += "    add-path send/receive;\n",
            (true, false) => text += "    add-path receive;\n",
            (false, true) => text += "    add-path send;\n",
            (false, false) => {}
        }
        if options.extended_next_hop {
            text += "    nexthop enable;\n";
        }
        text += "  }\n";
        if options.extended_next_hop {
            text += "  nexthop { ipv4 unicast ipv6; }\n";
        }
        text += "  static {\n";
        for net in &router.networks {
            let next_hop = settings.router.addresses.iter().find(|a| a.is_ipv6() == net.addr().is_ipv6());
            if let Some(next_hop) = next_hop {
                let _ = writeln!(text, "    route {net} next-hop {next_hop};");
            }
        }
        text += "  }\n}\n";
    }
    text
}

/// Rows of `show neighbor summary`: `Peer AS up/down state | #sent #recvd`.
fn neighbors(text: &str) -> Vec<Neighbor> {
    let row = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [address, asn, _, state, ..] = words.as_slice() else { return None };
        let state = match state.to_ascii_lowercase().as_str() {
            "established" => "Establ".to_string(),
            _ => (*state).to_string(),
        };
        let (address, asn) = (address.parse().ok()?, asn.parse().ok()?);
        Some(Neighbor { address, asn, state, since: None, received: 0, accepted: 0, reason: None })
    };
    text.lines().filter_map(row).collect()
}

/// Rows of `show adj-rib in extensive`: `neighbor A … ipv4 unicast PREFIX next-hop H as-path [ … ]`.
fn rib(text: &str) -> Vec<RibPath> {
    let row = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let after = |word: &str| words.iter().position(|w| *w == word).and_then(|at| words.get(at + 1));
        let prefix: IpNet = after("unicast")?.parse().ok()?;
        let next_hop = after("next-hop").and_then(|hop| hop.parse().ok());
        let path = line.split_once("as-path [").and_then(|(_, rest)| rest.split(']').next()).unwrap_or_default();
        Some(RibPath {
            prefix,
            next_hop: next_hop.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED)),
            as_path: path.split_whitespace().filter_map(|asn| asn.parse().ok()).collect(),
            best: true,
            age: Duration::ZERO,
            attrs: String::new(),
        })
    };
    text.lines().filter_map(row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_neighbours_of_exabgp() {
        let text = "Peer            AS        up/down state       |     #sent     #recvd\n\
            192.168.1.1     65001     0:00:01 established           4          4\n\
            fd00::1         65001        down idle                  0          0\n";
        let shown: Vec<String> =
            neighbors(text).iter().map(|n| format!("{} {} {}", n.address, n.asn, n.state)).collect();
        assert_eq!(shown, ["192.168.1.1 65001 Establ", "fd00::1 65001 idle"]);
    }

    #[test]
    fn the_rib_of_exabgp() {
        let text = "neighbor 192.168.1.1 ipv4 unicast 11.0.1.0/24 next-hop 192.168.1.1 origin igp as-path [ 65001 65002 ]\n\
            neighbor 192.168.1.1 ipv6 unicast 1100::100/120 next-hop fd00::1 origin igp as-path [ ]\n";
        let paths = rib(text);
        let shown: Vec<String> = paths.iter().map(|p| format!("{} {} {:?}", p.prefix, p.next_hop, p.as_path)).collect();
        assert_eq!(shown, ["11.0.1.0/24 192.168.1.1 [65001, 65002]", "1100::100/120 fd00::1 []"]);
    }
}
