//! `fairway status`: a running daemon as a whole.

use std::io::{self, Write};
use std::time::Duration;

use clap::Args;
use fairway_backend_admin::client::{Client, Status};

use crate::bgp::{Format, Stop, age, finish, line};

/// Options of `fairway status`.
#[derive(Args)]
pub(crate) struct Show {
    /// The daemon's admin port (--gobgp-admin-address, --gobgp-admin-port).
    #[arg(long, short, value_name = "HOST:PORT", default_value = "127.0.0.1:50051")]
    daemon: String,
    /// Text for people, or one JSON document.
    #[arg(long, short, value_enum, default_value_t = Format::Text)]
    output: Format,
}

impl Show {
    /// Asks and prints. Exit status 0; 1 if the daemon has no answer; 2 if there is none to ask.
    pub(crate) fn run(self) -> u8 {
        finish(self.print(&mut io::stdout().lock()))
    }

    fn print(&self, out: &mut dyn Write) -> Result<(), Stop> {
        let status = Client::connect(&self.daemon)?.status()?;
        match self.output {
            Format::Json => line(out, &status)?,
            Format::Text => out.write_all(text(&status).as_bytes())?,
        }
        Ok(())
    }
}

fn text(s: &Status) -> String {
    let state = match (s.synced, s.in_sync) {
        (false, _) => "waiting for the first lists",
        (true, false) => "working",
        (true, true) => "in sync",
    };
    let mut text = format!("{}  fairway {}, up {}, {state}\n\n", s.node, s.version, age(s.started_ms));
    text += &format!(
        "{:<8} {:>9} {:>8} {:>7} {:>9} {:>8} {:>9} {:>13}\n",
        "PLANE", "ENTRIES", "PENDING", "PARKED", "WRITTEN", "DELETED", "FAILURES", "LAST SUCCESS"
    );
    for p in s.planes.iter().filter(|p| p.in_use) {
        text += &format!(
            "{:<8} {:>9} {:>8} {:>7} {:>9} {:>8} {:>9} {:>13}\n",
            p.name,
            p.desired,
            p.pending,
            p.parked.len(),
            p.puts,
            p.deletes,
            p.refused + p.faults,
            p.succeeded_ms.map_or_else(|| "never".into(), |at| format!("{} ago", age(at)))
        );
        text += &p.fault.iter().map(|fault| format!("         {fault}\n")).collect::<String>();
        text += &p.parked.iter().map(|k| format!("         {}: {}\n", k.key, k.outcome)).collect::<String>();
    }
    if !s.watches.is_empty() {
        text += &format!("\n{:<30} {:>13} {:>8} {:>8}\n", "WATCH", "BEHIND", "EVENTS", "FAILURES");
    }
    for w in &s.watches {
        let behind = match (w.listed, w.behind_ms) {
            (false, _) => "not listed".into(),
            (true, 0) => "-".into(),
            (true, ms) => humantime::format_duration(Duration::from_secs(ms / 1000)).to_string(),
        };
        text += &format!("{:<30} {behind:>13} {:>8} {:>8}\n", w.resource, w.events, w.failures);
        text += &w.trouble.iter().map(|trouble| format!("         {trouble}\n")).collect::<String>();
    }
    if let Some(balancer) = &s.load_balancer {
        let leader = match (balancer.leader, balancer.holder.as_str()) {
            (true, _) => "this node gives addresses".into(),
            (false, "") => "nobody gives addresses".into(),
            (false, holder) => format!("{holder} gives addresses"),
        };
        text += &format!("\nLOAD BALANCER  {leader}, Lease {}\n", balancer.lease);
        for a in &balancer.allocations {
            let addresses = if a.addresses.is_empty() { "waits".into() } else { a.addresses.join(", ") };
            text += &format!("         {}: {addresses}\n", a.service);
        }
    }
    if s.events_dropped > 0 {
        text += &format!("\n{} Kubernetes Events were not written, {} were\n", s.events_dropped, s.events_written);
    }
    if !s.notices.is_empty() {
        text += "\nNOTICES\n";
    }
    for n in &s.notices {
        let field = if n.field.is_empty() { String::new() } else { format!("{}: ", n.field) };
        text += &format!("{}: {field}{}\n", n.subject, n.reason);
    }
    text
}
