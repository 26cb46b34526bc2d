//! Prints state as the tools do that people use for it: gobgp, ip, ipvsadm, mconnect.

use std::fmt::Write as _;

use super::{Run, Stop};
use crate::sink::Event;
use crate::stage::{BgpShow, LoadMode, LoadRequest, MconnectRequest, Neighbor, RibPath};
use crate::step::{Action, Condition, Show, Step};
use crate::text::{clock, show_duration};

impl Run<'_> {
    pub(super) fn show(&mut self, show: &Show) -> Result<(), Stop> {
        let family = if show.ipv6 { " -a ipv6" } else { "" };
        for host in &show.neighbors {
            if self.shown_by_tool(host, BgpShow::Neighbors)? {
                continue;
            }
            let neighbors = self.stage.neighbors(host)?;
            self.command(host, "gobgp neighbor");
            self.sink.event(Event::Output(&neighbor_table(&neighbors)));
        }
        for host in &show.rib {
            if self.shown_by_tool(host, BgpShow::Rib { ipv6: show.ipv6, to: show.to })? {
                continue;
            }
            let mut paths = self.stage.rib(host, show.ipv6)?;
            let to = show.to.map(|to| format!(" {to}")).unwrap_or_default();
            paths.retain(|path| show.to.is_none_or(|to| path.prefix == to));
            self.command(host, &format!("gobgp global rib{to}{family}"));
            self.sink.event(Event::Output(&rib_table(&paths)));
        }
        for host in &show.routes {
            let mut routes = self.stage.routes(host, show.ipv6)?;
            // `ip route show 10.0.0.2` prints that route and nothing else.
            let to = show
                .to
                .map(|to| if to.prefix_len() == to.max_prefix_len() { to.addr().to_string() } else { to.to_string() });
            routes.retain(|route| show.to.is_none_or(|to| route.prefix == to));
            let command = if show.ipv6 { "ip -6 route show" } else { "ip route show" };
            self.command(host, format!("{command} {}", to.unwrap_or_default()).trim_end());
            let lines: Vec<&str> = routes.iter().map(|route| route.text.trim_end()).collect();
            self.sink.event(Event::Output(&lines.join("\n")));
        }
        for host in &show.virtual_servers {
            let text = self.stage.show_virtual_servers(host)?;
            self.command(host, "ipvsadm -Ln");
            self.sink.event(Event::Output(&text));
        }
        for (namespace, service) in &show.endpoints {
            let endpoints = self.stage.endpoints(namespace, service)?;
            self.command("kubectl", &format!("get endpointslices -n {namespace} # {service}"));
            let mut text = format!("{:<36} {:<12} {:<28} READY\n", "POD", "NODE", "ADDRESS");
            for endpoint in endpoints {
                let (pod, node, address) = (endpoint.pod, endpoint.node, endpoint.address.to_string());
                let _ = writeln!(text, "{pod:<36} {node:<12} {address:<28} {}", endpoint.ready);
            }
            self.sink.event(Event::Output(&text));
        }
        if show.notices {
            let notices = self.stage.notices();
            let line = |n: &crate::stage::NoticeLine| format!("{}: {} {}: {}\n", n.host, n.subject, n.field, n.reason);
            let text: String = notices.iter().map(line).collect();
            self.command("fairway", "notices");
            self.sink.event(Event::Output(if text.is_empty() { "none\n" } else { &text }));
        }
        Ok(())
    }
}

impl Run<'_> {
    /// Prints what the host's own BGP tool says, if it has one.
    fn shown_by_tool(&mut self, host: &str, show: BgpShow) -> Result<bool, Stop> {
        let Some((command, text)) = self.stage.bgp_tool(host, show)? else { return Ok(false) };
        self.command(host, &command);
        self.sink.event(Event::Output(&text));
        Ok(true)
    }
}

/// The table of `gobgp neighbor`; columns grow with their content.
pub(super) fn neighbor_table(neighbors: &[Neighbor]) -> String {
    let mut rows = neighbors.to_vec();
    rows.sort_by_key(|neighbor| neighbor.address);
    let times: Vec<String> = rows.iter().map(|n| n.since.map_or_else(|| "never".to_owned(), clock)).collect();
    let peer = rows.iter().map(|n| n.address.to_string().len()).max().unwrap_or(0).max(4);
    let asn = rows.iter().map(|n| n.asn.to_string().len()).max().unwrap_or(0).max(2);
    let time = times.iter().map(String::len).max().unwrap_or(0).max(8);
    let mut text = format!(
        "{:<peer$} {:>asn$} {:>time$} {:<11} |#{:>8} {:>9}\n",
        "Peer", "AS", "Up/Down", "State", "Received", "Accepted"
    );
    for (n, since) in rows.iter().zip(&times) {
        let address = n.address.to_string();
        let _ = writeln!(
            text,
            "{address:<peer$} {:>asn$} {since:>time$} {:<11} | {:>8} {:>9}",
            n.asn, n.state, n.received, n.accepted
        );
    }
    text
}

/// The table of `gobgp global rib`: best path first within each prefix.
pub(super) fn rib_table(paths: &[RibPath]) -> String {
    if paths.is_empty() {
        return "Network not in table\n".to_owned();
    }
    let mut rows = paths.to_vec();
    rows.sort_by_key(|path| (path.prefix, !path.best, path.next_hop));
    let as_path = |path: &RibPath| path.as_path.iter().map(u32::to_string).collect::<Vec<_>>().join(" ");
    let wide = |texts: Vec<String>, least: usize| texts.iter().map(String::len).max().unwrap_or(0).max(least);
    let network = wide(rows.iter().map(|p| p.prefix.to_string()).collect(), 20);
    let hop = wide(rows.iter().map(|p| p.next_hop.to_string()).collect(), 20);
    let path = wide(rows.iter().map(as_path).collect(), 20);
    let mut text =
        format!("   {:<network$} {:<hop$} {:<path$} {:<10} Attrs\n", "Network", "Next Hop", "AS_PATH", "Age");
    for row in &rows {
        let mark = if row.best { "*> " } else { "*  " };
        let (prefix, next, ases) = (row.prefix.to_string(), row.next_hop.to_string(), as_path(row));
        let age = clock(row.age);
        let line = format!("{mark}{prefix:<network$} {next:<hop$} {ases:<path$} {age:<10} {}", row.attrs);
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// What one would type.
pub(super) fn mconnect_command(request: &MconnectRequest, address: &str) -> String {
    let mut text = format!("mconnect -address {address} -nconn {}", request.nconn);
    if request.udp {
        text.push_str(" -udp");
    }
    if let Some(block) = request.srccidr {
        let _ = write!(text, " -srccidr {block}");
    }
    if let Some(timeout) = request.timeout {
        let _ = write!(text, " -timeout {}ms", timeout.as_millis());
    }
    if request.max_concurrent != 64 {
        let _ = write!(text, " -maxconcurrent {}", request.max_concurrent);
    }
    if request.keep {
        text.push_str(" -keep");
    }
    text
}

pub(super) fn load_mode(request: &LoadRequest) -> String {
    match request.mode {
        LoadMode::Rate(rate) => format!("{rate} new connections per second from {}", request.from),
        LoadMode::Keep(count) => format!("{count} long-lived connections from {}", request.from),
    }
}

/// The title of a step: its own, else what it does.
pub(super) fn title(step: &Step) -> String {
    if let Some(own) = step.title.as_ref().or(step.name.as_ref()) {
        return own.clone();
    }
    match &step.action {
        Action::Until { within, conditions } => {
            format!("until {} (within {})", kinds(conditions.iter().map(|c| &c.value)), show_duration(*within))
        }
        Action::Expect(conditions) => format!("expect {}", kinds(conditions.iter().map(|c| &c.value))),
        Action::Show(_) => "show".to_owned(),
        Action::Mconnect { request, .. } => format!("mconnect from {} to {}", request.from, request.address),
        Action::Load(request) => format!("load {} from {} to {}", request.name, request.from, request.address),
        Action::Measure { load, duration, .. } => format!("measure {load} for {}", show_duration(*duration)),
        Action::Stop { load, .. } => format!("stop {load}"),
        Action::Pass(duration) => format!("pass {}", show_duration(*duration)),
        Action::Apply(objects) => {
            format!("apply {}", objects.iter().map(|object| object.name.as_str()).collect::<Vec<_>>().join(", "))
        }
        Action::Delete { kind, namespace, name } => format!("delete {kind} {namespace}/{name}"),
        Action::Scale { namespace, deployment, replicas } => format!("scale {namespace}/{deployment} to {replicas}"),
        Action::Patch { kind, namespace, name, .. } => format!("patch {kind} {namespace}/{name}"),
        Action::Fault(fault) => format!("fault: {}", fault),
        Action::Ask(ask) => format!("ask {} on {}: {}", ask.software.as_str(), ask.on, ask.run),
        Action::Trace { request, .. } => format!("trace from {} to {}", request.from, request.to),
    }
}

/// The kinds of the conditions, each once.
fn kinds<'a>(conditions: impl Iterator<Item = &'a Condition>) -> String {
    let mut words = Vec::new();
    for condition in conditions {
        let word = match condition {
            Condition::Bgp(_) => "BGP sessions",
            Condition::Neighbor(_) => "BGP sessions",
            Condition::Rib(_) => "BGP paths",
            Condition::Route(_) => "routes",
            Condition::Endpoints(_) => "endpoints",
            Condition::VirtualServer(_) => "virtual servers",
            Condition::Cni(_) => "CNI configurations",
            Condition::Notice(_) => "notices",
            Condition::NoNotices => "no notices",
            Condition::InSync(_) => "agents in sync",
        };
        if !words.contains(&word) {
            words.push(word);
        }
    }
    words.join(", ")
}
