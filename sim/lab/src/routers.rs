//! gobgpd or BIRD in a router host.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io;
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use fairway_backend_route::setup::Setup;
use fairway_desired::{MAIN_TABLE, NextHop, RouteKey, RouteKind, RouteValue};
use fairway_objects::{BfdConfig, RouterConfig};
use fairway_scenario::{BfdSession, BgpShow, Neighbor, RibPath};
use ipnet::IpNet;
use serde_json::Value;

use crate::host::{Host, setup_in};
use crate::lab::Routers;
use crate::process::{Namespace, Process};

/// `RTPROT_BGP`
const PROTO_BGP: u8 = 186;
/// Metric of the routes that the mirror writes, as routing suites have it.
const METRIC: u32 = 20;
/// How often the mirror looks.
const PERIOD: Duration = Duration::from_millis(200);
/// How long a daemon may take to answer for the first time.
const START: Duration = Duration::from_secs(30);

/// A routing daemon that is not ours.
#[derive(Debug)]
pub(crate) struct ForeignRouter {
    kind: Routers,
    space: Arc<Namespace>,
    /// Where BIRD listens for `birdc`.
    socket: PathBuf,
    // Dropped in this order: the mirror looks at the daemon.
    mirror: Option<Mirror>,
    daemon: Process,
}

/// What of a daemon's RIB is in the kernel.
#[derive(Debug)]
struct Mirror {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
    /// The last thing that went wrong.
    trouble: Arc<Mutex<Option<String>>>,
}

impl Drop for Mirror {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _over = thread.join();
        }
    }
}

impl ForeignRouter {
    /// Starts it and returns when it answers.
    pub(crate) fn start(kind: Routers, host: &Host, router: &RouterConfig) -> io::Result<ForeignRouter> {
        for path in ["net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"] {
            host.sysctl(path, "1")?;
        }
        for family in ["ipv4", "ipv6"] {
            host.sysctl(&format!("net/{family}/fib_multipath_hash_policy"), "1")?;
        }
        let folder = PathBuf::from("/run/routers").join(&host.name);
        std::fs::create_dir_all(&folder)?;
        let socket = folder.join("bird.ctl");
        let config = folder.join("config");
        let (text, mut command) = match kind {
            Routers::Bird => {
                let mut command = Command::new("bird");
                command.arg("-f").arg("-c").arg(&config).arg("-s").arg(&socket);
                (bird_config(router), command)
            }
            Routers::Gobgp | Routers::Fairway => {
                let mut command = Command::new("gobgpd");
                command.args(["-t", "yaml", "-f"]).arg(&config);
                (gobgp_config(router), command)
            }
        };
        std::fs::write(&config, text)?;
        let log = std::fs::File::create(folder.join("log"))?;
        command.stdout(Stdio::from(log.try_clone()?)).stderr(Stdio::from(log));
        let daemon = host.space.spawn(&mut command)?;
        let mut foreign = ForeignRouter { kind, space: Arc::clone(&host.space), socket, mirror: None, daemon };
        let limit = Instant::now() + START;
        while let Err(error) = foreign.neighbors() {
            if let Ok(Some(status)) = foreign.daemon.child().try_wait() {
                let log = std::fs::read_to_string(folder.join("log")).unwrap_or_default();
                return Err(io::Error::other(format!("the router ended ({status}): {}", log.trim())));
            }
            if Instant::now() > limit {
                return Err(error);
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        if kind == Routers::Gobgp {
            foreign.mirror = Some(mirror(Arc::clone(&host.space), setup_in(&host.space)?)?);
        }
        Ok(foreign)
    }

    /// The rows of `gobgp neighbor`, or what `birdc show protocols all` says of the same.
    pub(crate) fn neighbors(&self) -> io::Result<Vec<Neighbor>> {
        match self.kind {
            Routers::Bird => Ok(bird_neighbors(&self.birdc("show protocols all")?)),
            Routers::Gobgp | Routers::Fairway => gobgp_neighbors(&self.gobgp(&["neighbor"])?),
        }
    }

    /// The BFD sessions, as far as the daemon has them: `birdc show bfd sessions`.
    pub(crate) fn bfd(&self) -> io::Result<Vec<BfdSession>> {
        match self.kind {
            Routers::Bird => Ok(bird_bfd(&self.birdc("show bfd sessions")?)),
            Routers::Gobgp | Routers::Fairway => Ok(vec![]),
        }
    }

    /// The rows of `gobgp global rib`, or of `birdc show route all`.
    pub(crate) fn rib(&self, ipv6: bool) -> io::Result<Vec<RibPath>> {
        match self.kind {
            Routers::Bird => {
                Ok(bird_rib(&self.birdc(&format!("show route table master{}", if ipv6 { 6 } else { 4 }))?))
            }
            Routers::Gobgp | Routers::Fairway => {
                Ok(gobgp_rib(&self.gobgp(&["global", "rib", "-a", if ipv6 { "ipv6" } else { "ipv4" }])?))
            }
        }
    }

    /// What its own tool prints: the command, and its output.
    pub(crate) fn show(&self, show: BgpShow) -> io::Result<(String, String)> {
        match self.kind {
            Routers::Bird => {
                let command = match show {
                    BgpShow::Neighbors => "show protocols".to_string(),
                    BgpShow::Rib { ipv6, to } => {
                        let to = to.map(|to| format!("{to} ")).unwrap_or_default();
                        format!("show route {to}table master{}", if ipv6 { 6 } else { 4 })
                    }
                };
                Ok((format!("birdc {command}"), self.birdc(&command)?))
            }
            Routers::Gobgp | Routers::Fairway => {
                let to = |to: Option<IpNet>| to.map(|to| to.to_string());
                let words: Vec<String> = match show {
                    BgpShow::Neighbors => vec!["neighbor".into()],
                    BgpShow::Rib { ipv6, to: prefix } => {
                        let family = if ipv6 { ["-a", "ipv6"] } else { ["-a", "ipv4"] }.map(String::from);
                        ["global".into(), "rib".into()].into_iter().chain(to(prefix)).chain(family).collect()
                    }
                };
                let text = self.space.text("gobgp", &words.iter().map(String::as_str).collect::<Vec<_>>())?;
                Ok((format!("gobgp {}", words.join(" ")), text))
            }
        }
    }

    /// Resets the session with a neighbour.
    pub(crate) fn reset(&self, peer: IpAddr) -> io::Result<()> {
        match self.kind {
            Routers::Bird => {
                let name = bird_neighbors_named(&self.birdc("show protocols all")?)
                    .into_iter()
                    .find(|(_, neighbor)| neighbor.address == peer)
                    .map(|(name, _)| name)
                    .ok_or_else(|| io::Error::other(format!("no neighbour {peer}")))?;
                self.birdc(&format!("restart {name}")).map(drop)
            }
            Routers::Gobgp | Routers::Fairway => {
                self.space.text("gobgp", &["neighbor", &peer.to_string(), "reset"]).map(drop)
            }
        }
    }

    /// What went wrong last in writing routes to the kernel, if anything did.
    pub(crate) fn trouble(&self) -> Option<String> {
        self.mirror.as_ref()?.trouble.lock().unwrap_or_else(|e| e.into_inner()).clone()
    }

    fn birdc(&self, command: &str) -> io::Result<String> {
        let socket = self.socket.to_string_lossy();
        let mut words = vec!["-s", &socket];
        words.extend(command.split(' '));
        self.space.text("birdc", &words)
    }

    fn gobgp(&self, words: &[&str]) -> io::Result<Value> {
        gobgp(&self.space, words)
    }
}

fn gobgp(space: &Namespace, words: &[&str]) -> io::Result<Value> {
    let text = space.text("gobgp", &[&["-j"], words].concat())?;
    serde_json::from_str(&text).map_err(|error| io::Error::other(format!("gobgp {}: {error}: {text}", words.join(" "))))
}

// ---------------------------------------------------------------- gobgpd

fn gobgp_config(router: &RouterConfig) -> String {
    let mut groups = String::new();
    let mut dynamic = String::new();
    let asns: std::collections::BTreeSet<u32> =
        router.accept.iter().flat_map(|(_, asns)| asns.iter().copied()).collect();
    for asn in &asns {
        // Writing to a String cannot fail.
        let _ = write!(
            groups,
            "\n  - config: {{peer-group-name: as{asn}, peer-as: {asn}}}\n    afi-safis:\n      \
             - config: {{afi-safi-name: ipv4-unicast}}\n      - config: {{afi-safi-name: ipv6-unicast}}"
        );
    }
    for (prefix, asns) in &router.accept {
        for asn in asns {
            let _ = write!(dynamic, "\n  - config: {{prefix: \"{prefix}\", peer-group: as{asn}}}");
        }
    }
    let mut text = format!(
        "global:\n  config: {{as: {}, router-id: {}}}\n  use-multiple-paths: {{config: {{enabled: true}}}}\n",
        router.asn, router.router_id
    );
    let sets = [false, true].map(|ipv6| {
        router.import_reject.iter().filter(|net| net.addr().is_ipv6() == ipv6).copied().collect::<Vec<IpNet>>()
    });
    if sets.iter().any(|set| !set.is_empty()) {
        let mut defined = String::new();
        let mut statements = String::new();
        for (family, set) in ["v4", "v6"].iter().zip(&sets).filter(|(_, set)| !set.is_empty()) {
            let _ = write!(defined, "\n    - prefix-set-name: reject-{family}\n      prefix-list:");
            for net in set {
                let (len, max) = (net.prefix_len(), net.max_prefix_len());
                let _ = write!(defined, "\n        - {{ip-prefix: \"{net}\", masklength-range: \"{len}..{max}\"}}");
            }
            let _ = write!(
                statements,
                "\n      - conditions: {{match-prefix-set: {{prefix-set: reject-{family}, match-set-options: any}}}}\n        \
                 actions: {{route-disposition: reject-route}}"
            );
        }
        let _ = write!(
            text,
            "  apply-policy: {{config: {{import-policy-list: [reject], default-import-policy: accept-route}}}}\n\
             defined-sets:\n  prefix-sets:{defined}\npolicy-definitions:\n  - name: reject\n    statements:{statements}\n"
        );
    }
    let _ = writeln!(text, "peer-groups:{groups}\ndynamic-neighbors:{dynamic}");
    text
}

fn seconds(value: &Value) -> Option<Duration> {
    value.as_u64().map(Duration::from_secs)
}

fn gobgp_neighbors(rows: &Value) -> io::Result<Vec<Neighbor>> {
    let rows = rows.as_array().ok_or_else(|| io::Error::other("gobgp neighbor: no list"))?;
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
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
        })
    };
    Ok(rows.iter().filter_map(neighbor).collect())
}

fn gobgp_rib(rib: &Value) -> Vec<RibPath> {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
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
                next_hop: next_hop.unwrap_or(IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED)),
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

/// gobgpd has no hand for the kernel but a zebra; what it learned is written here, all paths of a prefix as one route.
fn mirror(space: Arc<Namespace>, mut setup: Setup) -> io::Result<Mirror> {
    let stop = Arc::new(AtomicBool::new(false));
    let trouble = Arc::new(Mutex::new(None));
    let (ended, said) = (Arc::clone(&stop), Arc::clone(&trouble));
    let work = move || {
        let mut written: BTreeMap<IpNet, Vec<NextHop>> = BTreeMap::new();
        while !ended.load(Ordering::Relaxed) {
            if let Err(error) = mirror_once(&space, &mut setup, &mut written) {
                *said.lock().unwrap_or_else(|e| e.into_inner()) = Some(error.to_string());
            }
            std::thread::sleep(PERIOD);
        }
    };
    let thread = std::thread::Builder::new().name("rib to fib".into()).spawn(work)?;
    Ok(Mirror { stop, thread: Some(thread), trouble })
}

fn mirror_once(space: &Namespace, setup: &mut Setup, written: &mut BTreeMap<IpNet, Vec<NextHop>>) -> io::Result<()> {
    let mut wanted: BTreeMap<IpNet, Vec<NextHop>> = BTreeMap::new();
    for family in ["ipv4", "ipv6"] {
        for path in gobgp_rib(&gobgp(space, &["global", "rib", "-a", family])?) {
            if !path.next_hop.is_unspecified() {
                let hop = NextHop { via: Some(path.next_hop), dev: None, weight: 1 };
                wanted.entry(path.prefix).or_default().push(hop);
            }
        }
    }
    for hops in wanted.values_mut() {
        hops.sort();
        hops.dedup();
    }
    let key = |prefix: IpNet| RouteKey { prefix, table: MAIN_TABLE, metric: METRIC };
    for (prefix, hops) in &wanted {
        if written.get(prefix) != Some(hops) {
            let value =
                RouteValue { kind: RouteKind::Unicast, protocol: PROTO_BGP, src: None, next_hops: hops.clone() };
            setup.add_route(key(*prefix), value).map_err(io::Error::other)?;
            written.insert(*prefix, hops.clone());
        }
    }
    let gone: Vec<IpNet> = written.keys().filter(|prefix| !wanted.contains_key(prefix)).copied().collect();
    for prefix in gone {
        setup.del_route(&key(prefix), PROTO_BGP).map_err(io::Error::other)?;
        written.remove(&prefix);
    }
    Ok(())
}

// ---------------------------------------------------------------- BIRD

fn bird_config(router: &RouterConfig) -> String {
    let mut text = format!(
        "router id {};\nprotocol device {{ scan time 5; }}\n\
         protocol kernel {{ ipv4 {{ export all; import none; }}; merge paths on limit 64; scan time 5; }}\n\
         protocol kernel {{ ipv6 {{ export all; import none; }}; merge paths on limit 64; scan time 5; }}\n",
        router.router_id
    );
    let filter = |ipv6: bool| {
        let nets: Vec<String> = router
            .import_reject
            .iter()
            .filter(|net| net.addr().is_ipv6() == ipv6)
            .map(|net| format!("{net}+"))
            .collect();
        match nets.is_empty() {
            true => "import all;".to_string(),
            false => format!("import where net !~ [ {} ];", nets.join(", ")),
        }
    };
    if let Some(BfdConfig { desired_min_tx_ms, required_min_rx_ms, multiplier, .. }) = router.bfd {
        let _ = write!(
            text,
            "protocol bfd {{\n  interface \"*\" {{ min tx interval {desired_min_tx_ms} ms; \
             min rx interval {required_min_rx_ms} ms; multiplier {multiplier}; }};\n}}\n"
        );
    }
    let bfd = if router.bfd.is_some() { "  bfd on;\n" } else { "" };
    let mut number = 0;
    for (prefix, asns) in &router.accept {
        for asn in asns {
            number += 1;
            // Writing to a String cannot fail.
            let _ = write!(
                text,
                "protocol bgp range{number} {{\n  local as {own};\n  neighbor range {prefix} as {asn};\n  \
                 dynamic name \"peer{number}_\";\n  passive on;\n{bfd}  \
                 ipv4 {{ {v4} export none; extended next hop on; }};\n  ipv6 {{ {v6} export none; }};\n}}\n",
                own = router.asn,
                v4 = filter(false),
                v6 = filter(true),
            );
        }
    }
    text
}

fn bird_neighbors(text: &str) -> Vec<Neighbor> {
    bird_neighbors_named(text).into_iter().map(|(_, neighbor)| neighbor).collect()
}

/// Neighbours out of `show protocols all`: a line per protocol, its details indented below it.
fn bird_neighbors_named(text: &str) -> Vec<(String, Neighbor)> {
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
            let neighbor = Neighbor { address, asn: 0, state, since: None, received: 0, accepted: 0 };
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

/// Sessions out of `show bfd sessions`: address, interface, state, and more.
fn bird_bfd(text: &str) -> Vec<BfdSession> {
    let session = |line: &str| {
        let mut words = line.split_whitespace();
        Some(BfdSession { address: words.next()?.parse().ok()?, state: words.nth(1)?.into() })
    };
    text.lines().filter_map(session).collect()
}

/// Paths out of `show route`: the prefix stands before its first path only, `via` below each.
fn bird_rib(text: &str) -> Vec<RibPath> {
    let mut paths = vec![];
    let mut prefix = None;
    let mut open: Option<(IpNet, bool, Vec<u32>)> = None;
    for line in text.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        let Some(first) = words.first() else { continue };
        if *first == "via" {
            if let (Some((prefix, best, as_path)), Some(Ok(next_hop))) =
                (&open, words.get(1).map(|word| word.parse::<IpAddr>()))
            {
                paths.push(RibPath {
                    prefix: *prefix,
                    next_hop,
                    as_path: as_path.clone(),
                    best: *best,
                    age: Duration::ZERO,
                    attrs: String::new(),
                });
            }
            continue;
        }
        if let Ok(net) = first.parse::<IpNet>() {
            prefix = Some(net);
        }
        if let (Some(prefix), true) = (prefix, words.contains(&"unicast")) {
            // `[AS65001i]` at the end is the path's last AS and its origin.
            let asn = words.last().and_then(|word| {
                word.trim_start_matches("[AS").trim_end_matches(|c: char| !c.is_ascii_digit()).parse().ok()
            });
            open = Some((prefix, words.contains(&"*"), asn.into_iter().collect()));
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
            10.0.0.2/32          unicast [peer1_1 12:00:01.100] * (100) [AS65001i]\n\tvia 192.168.1.1 on eth1\n                     \
            unicast [peer1_2 12:00:01.100] (100) [AS65001i]\n\tvia 192.168.1.2 on eth1\n";
        let paths = bird_rib(text);
        let shown: Vec<String> = paths.iter().map(|p| format!("{} {} {}", p.prefix, p.next_hop, p.best)).collect();
        assert_eq!(shown, ["10.0.0.2/32 192.168.1.1 true", "10.0.0.2/32 192.168.1.2 false"]);
        assert_eq!(paths[0].as_path, [65001]);
    }

    #[test]
    fn the_bfd_sessions_of_bird() {
        let text = "BIRD 2.0.12 ready.\nbfd1:\nIP address                Interface  State      Since         Interval  Timeout\n\
            192.168.1.1               eth1       Up         12:00:01.000    0.100    0.300\n\
            192.168.1.2               eth1       Down       12:00:02.000    1.000    0.000\n";
        let shown: Vec<String> = bird_bfd(text).iter().map(|s| format!("{} {}", s.address, s.state)).collect();
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
        let neighbors = bird_neighbors(text);
        assert_eq!(neighbors.len(), 1);
        let n = &neighbors[0];
        assert_eq!((n.asn, n.state.as_str(), n.received, n.accepted), (65001, "Establ", 5, 4));
    }
}
