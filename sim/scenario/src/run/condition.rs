//! Whether a condition holds now, and if not what is seen instead.

use std::fmt::Write as _;

use ipnet::IpNet;

use super::{Mismatch, Run};
use crate::source::At;
use crate::stage::{Neighbor, NoticeLine, RibPath, Route, StageError};
use crate::step::{
    BgpCondition, CniCondition, Condition, Count, EndpointsCondition, NeighborCondition, NoticeCondition, RibCondition,
    RouteCondition, VirtualServerCondition,
};

/// What was expected and what is seen, when they differ.
type Difference = Option<(String, String)>;

impl Run<'_> {
    /// `None` if the condition holds. What cannot be looked at now (an agent that is down, a service that is gone) is
    /// an answer too, which may be another one later; only what the stage can never do is an error.
    pub(super) fn check(&mut self, condition: &At<Condition>) -> Result<Option<Mismatch>, StageError> {
        let difference = match self.difference(&condition.value) {
            Err(StageError::Unsupported(what)) => return Err(StageError::Unsupported(what)),
            Err(error) => Some((format!("{} can be looked at", subject(&condition.value)), error.to_string())),
            Ok(difference) => difference,
        };
        Ok(difference.map(|(expected, seen)| Mismatch { place: condition.span.place(), expected, seen }))
    }

    fn difference(&mut self, condition: &Condition) -> Result<Difference, StageError> {
        Ok(match condition {
            Condition::Bgp(bgp) => self.bgp(bgp)?,
            Condition::Neighbor(neighbor) => self.neighbor(neighbor)?,
            Condition::Rib(rib) => self.rib(rib)?,
            Condition::Route(route) => self.route(route)?,
            Condition::Endpoints(endpoints) => self.endpoints(endpoints)?,
            Condition::VirtualServer(server) => self.virtual_server(server)?,
            Condition::Cni(cni) => self.cni(cni)?,
            Condition::Notice(notice) => self.notice(notice),
            Condition::NoNotices => {
                let standing = self.stage.notices();
                let seen = || notices(&standing);
                (!standing.is_empty()).then(|| ("no notices".to_owned(), seen()))
            }
            Condition::InSync(host) => {
                let expected = || (format!("the agent on {host} in sync"), "it still has work to do".to_owned());
                (!self.stage.in_sync(host)?).then(expected)
            }
        })
    }

    fn bgp(&mut self, condition: &BgpCondition) -> Result<Difference, StageError> {
        let neighbors = self.stage.neighbors(&condition.on)?;
        let established = neighbors.iter().filter(|neighbor| neighbor.state.starts_with("Establ")).count();
        let accepted: u64 = neighbors.iter().map(|neighbor| neighbor.accepted).sum();
        let on = &condition.on;
        let states = || match neighbors.as_slice() {
            [] => "no neighbours".to_owned(),
            _ => neighbors.iter().map(|n| format!("{} {}", n.address, n.state)).collect::<Vec<_>>().join(", "),
        };
        if let Some(count) = condition.established.filter(|count| !count.holds(established as u64)) {
            let expected = format!("{count} established BGP {} on {on}", plural(&count, "session"));
            return Ok(Some((expected, format!("{established} ({})", states()))));
        }
        if let Some(count) = condition.neighbors.filter(|count| !count.holds(neighbors.len() as u64)) {
            let expected = format!("{count} BGP {} on {on}", plural(&count, "neighbour"));
            return Ok(Some((expected, format!("{} ({})", neighbors.len(), states()))));
        }
        if let Some(count) = condition.accepted.filter(|count| !count.holds(accepted)) {
            let each: Vec<String> = neighbors.iter().map(|n| format!("{} {}", n.address, n.accepted)).collect();
            let expected = format!("{count} accepted BGP {} on {on}", plural(&count, "path"));
            return Ok(Some((expected, format!("{accepted} ({})", each.join(", ")))));
        }
        if let Some(count) = condition.bfd {
            let sessions = self.stage.bfd(on)?;
            let up = sessions.iter().filter(|session| session.state == "Up").count();
            if !count.holds(up as u64) {
                let each: Vec<String> = sessions.iter().map(|s| format!("{} {}", s.address, s.state)).collect();
                let each = if each.is_empty() { "no sessions".into() } else { each.join(", ") };
                let expected = format!("{count} BFD {} up on {on}", plural(&count, "session"));
                return Ok(Some((expected, format!("{up} ({each})"))));
            }
        }
        Ok(None)
    }

    fn neighbor(&mut self, condition: &NeighborCondition) -> Result<Difference, StageError> {
        let NeighborCondition { on, peer, up, received, accepted, because } = condition;
        let neighbors = self.stage.neighbors(on)?;
        let neighbor = neighbors.iter().find(|neighbor| neighbor.address == *peer);
        let is_up = neighbor.is_some_and(|neighbor| neighbor.state.starts_with("Establ"));
        let reason = neighbor.and_then(|neighbor| neighbor.reason.as_deref()).unwrap_or_default();
        let holds = |count: &Option<Count>, seen: fn(&Neighbor) -> u64| {
            count.is_none_or(|count| count.holds(neighbor.map_or(0, seen)))
        };
        let expected = if let Some(up) = up.filter(|up| *up != is_up) {
            if up { "up".to_owned() } else { "not up".to_owned() }
        } else if let (Some(count), false) = (received, holds(received, |n| n.received)) {
            format!("with {count} received {}", plural(count, "path"))
        } else if let (Some(count), false) = (accepted, holds(accepted, |n| n.accepted)) {
            format!("with {count} accepted {}", plural(count, "path"))
        } else if let Some(part) = because.as_ref().filter(|part| !reason.contains(part.as_str())) {
            format!("ended because of \"{part}\"")
        } else {
            return Ok(None);
        };
        let seen = match neighbor {
            None => "no such neighbour".to_owned(),
            Some(n) => {
                let counts = format!("{}, {} paths received, {} accepted", n.state, n.received, n.accepted);
                if reason.is_empty() { counts } else { format!("{counts}; last end: {reason}") }
            }
        };
        Ok(Some((format!("the BGP session of {on} with {peer} {expected}"), seen)))
    }

    fn rib(&mut self, condition: &RibCondition) -> Result<Difference, StageError> {
        let RibCondition { on, prefix, paths, via, as_path } = condition;
        let rib = self.stage.rib(on, prefix.addr().is_ipv6())?;
        let wanted = |path: &&RibPath| {
            path.prefix == *prefix && via.is_none_or(|via| via == path.next_hop) && path.as_path.ends_with(as_path)
        };
        let hops: Vec<String> = rib.iter().filter(wanted).map(|path| path.next_hop.to_string()).collect();
        let difference = || {
            let mut expected = format!("{paths} BGP {} to {prefix} on {on}", plural(paths, "path"));
            if let Some(via) = via {
                let _ = write!(expected, " by way of {via}");
            }
            if !as_path.is_empty() {
                let _ = write!(expected, " with AS path {}", as_path_text(as_path));
            }
            let same: Vec<String> = rib
                .iter()
                .filter(|path| path.prefix == *prefix)
                .map(|path| format!("{} [{}]", path.next_hop, as_path_text(&path.as_path)))
                .collect();
            let others = || match same.as_slice() {
                [] => format!("none; {on} has {} paths to other prefixes", rib.len()),
                _ => format!("none, but {}", same.join(", ")),
            };
            let seen = if hops.is_empty() { others() } else { format!("{} ({})", hops.len(), hops.join(", ")) };
            (expected, seen)
        };
        Ok((!paths.holds(hops.len() as u64)).then(difference))
    }

    fn route(&mut self, condition: &RouteCondition) -> Result<Difference, StageError> {
        let RouteCondition { on, to, next_hops, protocol } = condition;
        let routes = self.stage.routes(on, to.addr().is_ipv6())?;
        let counts = |route: &&Route| route.prefix == *to && protocol.is_none_or(|p| p == route.protocol);
        let route = routes.iter().find(counts);
        // A connected route has no gateway, yet it is a way.
        let count = route.map_or(0, |route| route.next_hops.len().max(1));
        let of = protocol.map(|p| format!(" of protocol {p}")).unwrap_or_default();
        let difference = || {
            let expected = match next_hops.max {
                Some(0) => format!("no route to {to}{of} on {on}"),
                _ => format!("a route to {to}{of} with {next_hops} next {} on {on}", plural(next_hops, "hop")),
            };
            let seen = route.map_or_else(|| "no such route".to_owned(), |route| route.text.trim().to_owned());
            (expected, seen)
        };
        Ok((!next_hops.holds(count as u64)).then(difference))
    }

    fn endpoints(&mut self, condition: &EndpointsCondition) -> Result<Difference, StageError> {
        let EndpointsCondition { namespace, service, ready, total } = condition;
        let endpoints = match self.stage.endpoints(namespace, service) {
            Err(StageError::NotFound(_)) => Vec::new(),
            other => other?,
        };
        let are_ready = endpoints.iter().filter(|endpoint| endpoint.ready).count() as u64;
        let seen = || {
            let each = endpoints
                .iter()
                .map(|e| format!("{} on {} {}", e.address, e.node, if e.ready { "ready" } else { "not ready" }));
            let each: Vec<String> = each.collect();
            let list = if each.is_empty() { String::new() } else { format!(" ({})", each.join(", ")) };
            format!("{are_ready} ready of {}{list}", endpoints.len())
        };
        let of = format!("of service {namespace}/{service}");
        if let Some(count) = ready.filter(|count| !count.holds(are_ready)) {
            return Ok(Some((format!("{count} ready {} {of}", plural(&count, "endpoint")), seen())));
        }
        if let Some(count) = total.filter(|count| !count.holds(endpoints.len() as u64)) {
            return Ok(Some((format!("{count} {} {of}", plural(&count, "endpoint")), seen())));
        }
        Ok(None)
    }

    fn virtual_server(&mut self, condition: &VirtualServerCondition) -> Result<Difference, StageError> {
        let VirtualServerCondition { on, address, protocol, .. } = condition;
        let protocol = protocol.as_str();
        let what = format!("virtual server {protocol} {address} on {on}");
        let servers = self.stage.virtual_servers(on)?;
        // A service that is gone has no address, hence no virtual server.
        let socket = match self.stage.resolve(address) {
            Err(StageError::NotFound(_)) => None,
            other => Some(other?),
        };
        let same = |protocol: &str, other: &str| protocol.eq_ignore_ascii_case(other);
        let server = servers.iter().find(|server| Some(server.address) == socket && same(&server.protocol, protocol));
        let Some(server) = server else {
            let all: Vec<String> = servers.iter().map(|s| format!("{} {}", s.protocol, s.address)).collect();
            let all = if all.is_empty() { "no virtual servers".to_owned() } else { all.join(", ") };
            return Ok(condition.present.then_some((what, all)));
        };
        let seen = || {
            let mut text = format!("{} {}", server.scheduler, if server.persistent { "persistent" } else { "" });
            text = text.trim_end().to_owned();
            let each: Vec<String> =
                server.real_servers.iter().map(|real| format!("{} weight {}", real.address, real.weight)).collect();
            let _ = write!(text, ", {} real servers: {}", each.len(), each.join(", "));
            text.trim_end_matches([':', ' ']).to_owned()
        };
        let active = server.real_servers.iter().filter(|real| real.weight > 0).count() as u64;
        let expected = if !condition.present {
            format!("no {what}")
        } else if let Some(count) = condition.real_servers.filter(|c| !c.holds(server.real_servers.len() as u64)) {
            format!("{what} with {count} real {}", plural(&count, "server"))
        } else if let Some(count) = condition.active.filter(|count| !count.holds(active)) {
            format!("{what} with {count} real {} of weight above 0", plural(&count, "server"))
        } else if let Some(scheduler) = condition.scheduler.as_ref().filter(|wanted| **wanted != server.scheduler) {
            format!("{what} with scheduler {scheduler}")
        } else if let Some(persistent) = condition.persistent.filter(|wanted| *wanted != server.persistent) {
            format!("{what} {}", if persistent { "with persistence" } else { "without persistence" })
        } else {
            return Ok(None);
        };
        Ok(Some((expected, seen())))
    }

    fn cni(&mut self, condition: &CniCondition) -> Result<Difference, StageError> {
        let CniCondition { on, ranges, mtu } = condition;
        let list = |ranges: &[IpNet]| ranges.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        let Some(config) = self.stage.cni(on)? else {
            return Ok(Some((format!("a CNI configuration on {on}"), "there is none".to_owned())));
        };
        if let Some(ranges) = ranges.as_ref().filter(|ranges| **ranges != config.ranges) {
            return Ok(Some((format!("ranges of pods on {on}: {}", list(ranges)), list(&config.ranges))));
        }
        let fits = |mtu: &Count| config.mtu.is_some_and(|octets| mtu.holds(octets.into()));
        Ok(mtu.filter(|mtu| !fits(mtu)).map(|mtu| {
            let seen = config.mtu.map_or("none".to_owned(), |octets| octets.to_string());
            (format!("an MTU of {mtu} for pods on {on}"), seen)
        }))
    }

    fn notice(&mut self, condition: &NoticeCondition) -> Difference {
        let standing = self.stage.notices();
        let is = |wanted: &Option<String>, text: &str| wanted.as_ref().is_none_or(|wanted| wanted == text);
        let matches = |line: &&NoticeLine| {
            is(&condition.on, &line.host)
                && is(&condition.subject, &line.subject)
                && is(&condition.field, &line.field)
                && condition.contains.as_ref().is_none_or(|part| line.reason.contains(part.as_str()))
        };
        let found: Vec<NoticeLine> = standing.iter().filter(matches).cloned().collect();
        if condition.present != found.is_empty() {
            return None;
        }
        let mut expected = if condition.present { "a notice".to_owned() } else { "no notice".to_owned() };
        let parts = [("on", &condition.on), ("about", &condition.subject), ("in", &condition.field)];
        for (word, part) in parts.iter().filter_map(|(word, part)| Some((word, part.as_ref()?))) {
            let _ = write!(expected, " {word} {part}");
        }
        if let Some(part) = &condition.contains {
            let _ = write!(expected, " that says \"{part}\"");
        }
        Some((expected, notices(if condition.present { &standing } else { &found })))
    }
}

fn as_path_text(path: &[u32]) -> String {
    path.iter().map(u32::to_string).collect::<Vec<_>>().join(" ")
}

/// What a condition looks at.
fn subject(condition: &Condition) -> String {
    match condition {
        Condition::Bgp(bgp) => format!("BGP on {}", bgp.on),
        Condition::Neighbor(neighbor) => format!("BGP on {}", neighbor.on),
        Condition::Rib(rib) => format!("BGP on {}", rib.on),
        Condition::Route(route) => format!("the routes of {}", route.on),
        Condition::Endpoints(of) => format!("service {}/{}", of.namespace, of.service),
        Condition::VirtualServer(server) => format!("virtual server {} on {}", server.address, server.on),
        Condition::Cni(cni) => format!("the CNI configuration of {}", cni.on),
        Condition::Notice(_) | Condition::NoNotices => "notices".to_owned(),
        Condition::InSync(host) => format!("the agent on {host}"),
    }
}

fn notices(lines: &[NoticeLine]) -> String {
    if lines.is_empty() {
        return "no notices".to_owned();
    }
    let line = |n: &NoticeLine| format!("{}: {} {}: {}", n.host, n.subject, n.field, n.reason);
    lines.iter().map(line).collect::<Vec<_>>().join("\n")
}

/// The noun for a count.
pub(super) fn plural(count: &Count, noun: &str) -> String {
    if *count == Count::exactly(1) { noun.to_owned() } else { format!("{noun}s") }
}
