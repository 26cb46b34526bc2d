//! `fairway bgp`: what the BGP speaker of a running daemon sees, and why.

use std::fmt::Write as _;
use std::io::{self, Write};
use std::net::IpAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::{Args, Subcommand, ValueEnum};
use fairway_backend_admin::client::{
    Bfd, Client, ClientError, Event, Explanation, Neighbor, Path, Table, is_destination,
};

use crate::USAGE;

/// Options of `fairway bgp`.
#[derive(Args)]
pub(crate) struct Bgp {
    /// The daemon's admin port (--gobgp-admin-address, --gobgp-admin-port).
    #[arg(long, short, global = true, value_name = "HOST:PORT", default_value = "127.0.0.1:50051")]
    daemon: String,
    /// Text for people, or one JSON document a line.
    #[arg(long, short, global = true, value_enum, default_value_t = Format::Text)]
    output: Format,
    #[command(subcommand)]
    command: Command,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people.
    Text,
    /// For programs.
    Json,
}

#[derive(Subcommand)]
enum Command {
    /// Neighbours and the state of their sessions; with an address, everything about one.
    Neighbors {
        /// Only this neighbour.
        address: Option<IpAddr>,
    },
    /// Routes: all that were accepted, or those of one neighbour.
    Rib {
        /// A prefix, or an address, of which the longest prefix is shown.
        #[arg(value_parser = destination)]
        prefix: Option<String>,
        /// IPv6 routes.
        #[arg(long, short = '6')]
        ipv6: bool,
        /// What this neighbour sent, before import policy (Adj-RIB-In).
        #[arg(long = "in", value_name = "NEIGHBOR", conflicts_with = "out")]
        received: Option<IpAddr>,
        /// What this neighbour was told (Adj-RIB-Out).
        #[arg(long = "out", value_name = "NEIGHBOR")]
        out: Option<IpAddr>,
    },
    /// Why the routes of a prefix are accepted or not, best or not, advertised or not, in the kernel or not.
    Explain {
        /// A prefix, or an address, of which the longest prefix is explained.
        #[arg(value_parser = destination)]
        prefix: String,
    },
    /// What happened lately: sessions up and down, and why; routes kept and swept.
    Events {
        /// Go on with what happens from now on, until interrupted.
        #[arg(long, short)]
        follow: bool,
    },
}

fn destination(text: &str) -> Result<String, String> {
    if is_destination(text) {
        Ok(text.into())
    } else {
        Err("a prefix or an address is needed, for example 10.0.0.2/32".into())
    }
}

/// Why the command ends before its time.
pub(crate) enum Stop {
    /// The daemon.
    Client(ClientError),
    /// The reader of our output.
    Output(io::Error),
}

impl From<ClientError> for Stop {
    fn from(error: ClientError) -> Self {
        Stop::Client(error)
    }
}

impl From<io::Error> for Stop {
    fn from(error: io::Error) -> Self {
        Stop::Output(error)
    }
}

impl Bgp {
    /// Asks and prints. Exit status 0; 1 if the daemon has no answer; 2 if there is none to ask.
    pub(crate) fn run(self) -> u8 {
        finish(self.print(&mut io::stdout().lock()))
    }

    fn print(&self, out: &mut dyn Write) -> Result<(), Stop> {
        let mut client = Client::connect(&self.daemon)?;
        let json = self.output == Format::Json;
        match &self.command {
            Command::Neighbors { address } => {
                let neighbors = client.neighbors(*address)?;
                match (json, address) {
                    (true, _) => neighbors.iter().try_for_each(|n| line(out, n))?,
                    (false, None) => out.write_all(table(&neighbors).as_bytes())?,
                    (false, Some(_)) => {
                        for one in &neighbors {
                            out.write_all(details(one).as_bytes())?;
                        }
                    }
                }
            }
            Command::Rib { prefix, ipv6, received, out: sent } => {
                let (table, neighbor) = match (received, sent) {
                    (Some(peer), _) => (Table::AdjRibIn, Some(*peer)),
                    (None, Some(peer)) => (Table::AdjRibOut, Some(*peer)),
                    (None, None) => (Table::LocRib, None),
                };
                let paths = client.paths(table, neighbor, *ipv6, prefix.as_deref().unwrap_or_default())?;
                if !json {
                    writeln!(out, "{}", path_header())?;
                }
                for path in paths {
                    let path = path?;
                    if json { line(out, &path)? } else { writeln!(out, "{}", path_row(&path))? }
                }
            }
            Command::Explain { prefix } => {
                let explanation = client.explain(prefix)?;
                if json { line(out, &explanation)? } else { out.write_all(explained(&explanation).as_bytes())? }
            }
            Command::Events { follow } => {
                for event in client.events(*follow)? {
                    let event = event?;
                    if json {
                        line(out, &event)?
                    } else {
                        writeln!(out, "{}", event_row(&event))?
                    }
                    out.flush()?;
                }
            }
        }
        Ok(())
    }
}

/// Tells why a command ended, and gives its exit status.
pub(crate) fn finish(result: Result<(), Stop>) -> u8 {
    match result {
        Ok(()) => 0,
        // Whoever reads has seen enough.
        Err(Stop::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => 0,
        Err(Stop::Output(error)) => {
            let _gone = writeln!(io::stderr(), "fairway: standard output: {error}");
            1
        }
        Err(Stop::Client(error)) => {
            // Without a reader of errors, the status has to do.
            let _gone = writeln!(io::stderr(), "fairway: {error}");
            if matches!(error, ClientError::Refused(_)) { 1 } else { USAGE }
        }
    }
}

pub(crate) fn line(out: &mut dyn Write, message: &impl serde::Serialize) -> io::Result<()> {
    writeln!(out, "{}", serde_json::to_string(message).map_err(io::Error::other)?)
}

/// `1d02h`, `3h05m`, `2m10s`, `7s`: two units, as far as a person reads.
pub(crate) fn age(since_ms: u64) -> String {
    let at = UNIX_EPOCH + Duration::from_millis(since_ms);
    let s = SystemTime::now().duration_since(at).unwrap_or_default().as_secs();
    match s {
        86_400.. => format!("{}d{:02}h", s / 86_400, s % 86_400 / 3600),
        3600.. => format!("{}h{:02}m", s / 3600, s % 3600 / 60),
        60.. => format!("{}m{:02}s", s / 60, s % 60),
        _ => format!("{s}s"),
    }
}

fn table(neighbors: &[Neighbor]) -> String {
    let mut text = format!(
        "{:<24} {:>10}  {:<12} {:>8} {:>9} {:>9} {:>11}  {}\n",
        "NEIGHBOR", "AS", "STATE", "SINCE", "RECEIVED", "ACCEPTED", "ADVERTISED", "REMARK"
    );
    for n in neighbors {
        let sum = |count: fn(&fairway_backend_admin::client::FamilyCounts) -> u64| -> u64 {
            n.families.iter().map(count).sum()
        };
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "{}",
            format!(
                "{:<24} {:>10}  {:<12} {:>8} {:>9} {:>9} {:>11}  {}",
                n.address,
                n.asn,
                n.state,
                n.since_ms.map_or_else(|| "never".into(), age),
                sum(|f| f.received),
                sum(|f| f.accepted),
                sum(|f| f.advertised),
                remark(n)
            )
            .trim_end()
        );
    }
    text
}

/// The one thing to know about a neighbour.
fn remark(n: &Neighbor) -> String {
    if n.disabled {
        return "disabled by hand".into();
    }
    if n.state != "Established" {
        return n.last_error.clone().unwrap_or_default();
    }
    match &n.bfd {
        Some(bfd) if bfd.state != "Up" => format!("BFD {}", bfd.state),
        _ => String::new(),
    }
}

/// A BFD session in two rows.
fn bfd_rows(bfd: &Bfd) -> [String; 2] {
    let because = |why: &str| if why.is_empty() { String::new() } else { format!(" ({why})") };
    let hops = if bfd.multihop { ", over several hops" } else { "" };
    let state = format!(
        "{}{} for {}{hops}; the other side {}{}; came up {} times",
        bfd.state,
        because(&bfd.diagnostic),
        age(bfd.since_ms),
        bfd.remote_state,
        because(&bfd.remote_diagnostic),
        bfd.ups
    );
    let time = |us: u64| format!("{} ms", us as f64 / 1000.0);
    let tx = bfd
        .tx_interval_us
        .map_or_else(|| "no packets, as the other side wishes".into(), |us| format!("a packet each {}", time(us)));
    let patience = match bfd.detection_time_us {
        0 => "nothing heard yet".to_string(),
        us => format!("down after {} of silence", time(us)),
    };
    [state, format!("{tx}; {patience}; {} sent, {} received", bfd.packets_sent, bfd.packets_received)]
}

fn details(n: &Neighbor) -> String {
    let mut text = String::new();
    let mut row = |name: &str, value: String| {
        if !value.is_empty() {
            let _ = writeln!(text, "{name:<18} {value}");
        }
    };
    row("neighbor", format!("{} (AS {})", n.address, n.asn));
    row("state", format!("{}{}", n.state, n.since_ms.map(|at| format!(", for {}", age(at))).unwrap_or_default()));
    row("last error", n.last_error.clone().unwrap_or_default());
    row("sessions so far", n.established.to_string());
    row("our side", {
        let address = n.local_address.clone().unwrap_or_default();
        if n.local_asn == 0 { address } else { format!("{address} (shown as AS {})", n.local_asn) }
    });
    row("router id", n.router_id.clone().unwrap_or_default());
    row("hold time", format!("{} s", n.hold_s));
    let flags = [
        (n.disabled, "disabled by hand"),
        (n.dynamic, "dynamic"),
        (n.passive, "passive"),
        (n.reflector_client, "route reflector client"),
        (n.stale, "its routes are kept although its session ended"),
    ];
    row("is", flags.iter().filter(|(is, _)| *is).map(|(_, what)| *what).collect::<Vec<_>>().join(", "));
    for said in n.bfd.as_ref().map(bfd_rows).into_iter().flatten() {
        row("bfd", said);
    }
    row("graceful restart", n.graceful_restart_s.map(|s| format!("{s} s")).unwrap_or_default());
    for f in &n.families {
        row(&f.family, format!("{} received, {} accepted, {} advertised", f.received, f.accepted, f.advertised));
    }
    row("messages", format!("{} sent, {} received", n.messages_sent, n.messages_received));
    row("we can", n.capabilities_sent.join(", "));
    row("it can", n.capabilities_received.join(", "));
    text
}

fn path_header() -> String {
    format!("   {:<24} {:<20} {:<20} {:>8}  {}", "PREFIX", "NEXT HOP", "FROM", "AGE", "AS PATH, ATTRIBUTES")
}

/// `*` accepted, `>` best, `=` used beside the best, `S` stale, `!` refused.
fn path_row(p: &Path) -> String {
    let standing = match (p.accepted, p.best, p.used) {
        (false, _, _) => "! ",
        (true, true, _) => "*>",
        (true, false, true) => "*=",
        (true, false, false) => "* ",
    };
    let stale = if p.stale { "S" } else { " " };
    let mut words: Vec<String> = p.as_path.iter().map(u32::to_string).collect();
    words.push(
        match p.origin.as_str() {
            "igp" => "i",
            "egp" => "e",
            _ => "?",
        }
        .into(),
    );
    words.extend(p.local_pref.map(|v| format!("local-pref {v}")));
    words.extend(p.med.map(|v| format!("med {v}")));
    if !p.communities.is_empty() {
        words.push(format!("[{}]", p.communities.join(" ")));
    }
    words.extend(p.originator.as_ref().map(|id| format!("originator {id}")));
    words.extend(Some(p.path_id).filter(|id| *id != 0).map(|id| format!("path {id}")));
    let from = p.from.clone().unwrap_or_else(|| "this node".into());
    format!(
        "{standing}{stale}{:<24} {:<20} {from:<20} {:>8}  {}",
        p.prefix,
        p.next_hop,
        age(p.since_ms),
        words.join(" ")
    )
}

fn explained(e: &Explanation) -> String {
    let mut text = format!("{}\n", e.prefix);
    for p in &e.paths {
        let Some(path) = &p.path else { continue };
        let _ = writeln!(text, "  {}\n      {}", path_row(path), p.verdict);
    }
    let _ = writeln!(text, "  kernel: {}", e.kernel);
    for n in &e.neighbors {
        let told = if n.advertised { "told" } else { "not told" };
        let _ = writeln!(text, "  {} is {told}: {}", n.neighbor, n.reason);
    }
    text
}

fn event_row(e: &Event) -> String {
    let at = humantime::format_rfc3339_millis(UNIX_EPOCH + Duration::from_millis(e.at_ms));
    format!("{at}  {:<12} {}", e.kind, e.text)
}
