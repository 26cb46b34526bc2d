//! Whether a load or a packet came out as expected.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;

use super::condition::plural;
use super::{Mismatch, Run, Stop};
use crate::scenario::Topology;
use crate::stage::{LoadResult, TraceRequest, TraceResult};
use crate::step::{Ask, Count, LoadExpect, Origin, SourceMatch, Step, TraceExpect};
use crate::text::show_duration;

impl Run<'_> {
    /// Judges a load; every expectation that is not met is told, the counters behind it too.
    pub(super) fn judge(
        &mut self,
        step: &Step,
        result: &LoadResult,
        expect: &LoadExpect,
        from: &Origin,
        srccidr: Option<IpNet>,
    ) -> Result<(), Stop> {
        let mut misses = counts(result, expect);
        misses.extend(spread(result, expect));
        misses.extend(places(result, expect));
        let client = client_blocks(&self.scenario.topology, from, srccidr);
        misses.extend(sources(&self.scenario.topology, result, expect, &client));
        if misses.is_empty() {
            return Ok(());
        }
        let (expected, mut seen): (Vec<String>, Vec<String>) = misses.into_iter().unzip();
        if result.report.failed_connects + result.report.failed_reads > 0 {
            for (at, why) in &result.failures {
                seen.push(format!("at {}: {why}", show_duration(*at)));
            }
        }
        Err(Stop::Fail(Mismatch { place: step.span.place(), expected: expected.join("\n"), seen: seen.join("\n") }))
    }
}

/// What an answer lacks; `None`: it is as it should be.
pub(super) fn answer(ask: &Ask, answer: &Result<String, String>) -> Option<String> {
    let Ok(text) = answer else { return Some("something".to_owned()) };
    let lacking = ask.contains.iter().find(|part| !text.contains(part.as_str()));
    let unmatched = ask.matches.iter().find(|regex| !regex.is_match(text));
    let unwanted = ask.absent.iter().find(|part| text.contains(part.as_str()));
    lacking
        .map(|part| format!("\"{part}\""))
        .or_else(|| unmatched.map(|regex| format!("what matches `{regex}`")))
        .or_else(|| unwanted.map(|part| format!("no \"{part}\"")))
}

/// Pairs of expected and seen.
type Misses = Vec<(String, String)>;

fn counts(result: &LoadResult, expect: &LoadExpect) -> Misses {
    let report = &result.report;
    let failed = report.failed_connects + report.failed_reads;
    let rows = [
        (expect.failed_connects, report.failed_connects, "failed connect"),
        (expect.failed_reads, report.failed_reads, "failed read"),
        (expect.failed, failed, "failed connection"),
        (expect.connects, report.connects, "connect"),
        (expect.hosts, report.hosts.len() as u64, "answering host"),
    ];
    let miss = |(count, seen, noun): (Option<Count>, u64, &str)| {
        let count = count.filter(|count| !count.holds(seen))?;
        let seen = format!("{seen} {}", plural(&Count::exactly(seen), noun));
        Some((format!("{count} {}", plural(&count, noun)), seen))
    };
    rows.into_iter().filter_map(miss).collect()
}

fn spread(result: &LoadResult, expect: &LoadExpect) -> Misses {
    let mut misses = Misses::new();
    let hosts = &result.report.hosts;
    let listed = || hosts.iter().map(|(host, count)| format!("{host} {count}")).collect::<Vec<_>>().join(", ");
    if let Some(percent) = expect.even_within {
        let total: u64 = hosts.values().sum();
        let mean = total as f64 / hosts.len().max(1) as f64;
        let worst = hosts.values().map(|count| (*count as f64 - mean).abs()).fold(0.0, f64::max);
        // Nothing at all is not an even spread.
        if total == 0 || worst > mean * percent / 100.0 + 1e-9 {
            let expected = format!("answers spread evenly within {percent} %");
            let seen = if total == 0 {
                "no answers".to_owned()
            } else {
                format!("{:.1} % away from the mean {mean:.1}: {}", worst * 100.0 / mean, listed())
            };
            misses.push((expected, seen));
        }
    }
    for (name, count) in &expect.exactly {
        // Pod names end in random letters, so their beginning will do; a full name wins.
        let answers: u64 = match hosts.get(name) {
            Some(answers) => *answers,
            None => hosts.iter().filter(|(host, _)| host.starts_with(name.as_str())).map(|(_, answers)| answers).sum(),
        };
        if !count.holds(answers) {
            let expected = format!("{count} {} from {name}", plural(count, "answer"));
            misses.push((expected, format!("{answers} (all: {})", listed())));
        }
    }
    misses
}

fn places(result: &LoadResult, expect: &LoadExpect) -> Misses {
    let mut misses = Misses::new();
    let by_node = &result.by_node;
    let listed = || by_node.iter().map(|(node, count)| format!("{node} {count}")).collect::<Vec<_>>().join(", ");
    for (node, count) in &expect.by_node {
        let answers = by_node.get(node).copied().unwrap_or(0);
        if !count.holds(answers) {
            let expected = format!("{count} {} from pods on {node}", plural(count, "answer"));
            misses.push((expected, format!("{answers} (all: {})", listed())));
        }
    }
    let answered = |wrong: &dyn Fn(&String) -> bool| by_node.iter().any(|(node, count)| *count > 0 && wrong(node));
    if !expect.only_on.is_empty() && answered(&|node| !expect.only_on.contains(node)) {
        misses.push((format!("answers from pods on {} only", expect.only_on.join(", ")), listed()));
    }
    if !expect.not_on.is_empty() && answered(&|node| expect.not_on.contains(node)) {
        misses.push((format!("no answers from pods on {}", expect.not_on.join(", ")), listed()));
    }
    misses
}

fn sources(topology: &Topology, result: &LoadResult, expect: &LoadExpect, client: &[IpNet]) -> Misses {
    if expect.source_seen.is_empty() {
        return Misses::new();
    }
    let mut allowed: Vec<IpNet> = Vec::new();
    let mut words = Vec::new();
    for source in &expect.source_seen {
        match source {
            SourceMatch::Client => allowed.extend(client),
            SourceMatch::Node => allowed.extend(node_addresses(topology).map(IpNet::from)),
            SourceMatch::Pod => allowed.extend(topology.nodes.values().flat_map(|node| &node.pod_cidrs)),
            SourceMatch::Block(block) => allowed.push(*block),
        }
        words.push(match source {
            SourceMatch::Client => "the client".to_owned(),
            SourceMatch::Node => "a node".to_owned(),
            SourceMatch::Pod => "a pod".to_owned(),
            SourceMatch::Block(block) => block.to_string(),
        });
    }
    let seen: &BTreeMap<IpAddr, u64> = &result.sources_seen;
    let fits = |address: &IpAddr| allowed.iter().any(|block| block.contains(address));
    if !seen.is_empty() && seen.keys().all(fits) {
        return Misses::new();
    }
    let listed: Vec<String> = seen.iter().map(|(address, count)| format!("{address} ({count})")).collect();
    let listed = if listed.is_empty() { "no connection reached a server".to_owned() } else { listed.join(", ") };
    vec![(format!("servers see connections from {} only", words.join(" or ")), listed)]
}

/// Addresses of nodes: those on LANs, and the pod bridge, which has the first address of each pod block.
fn node_addresses(topology: &Topology) -> impl Iterator<Item = IpAddr> + '_ {
    topology.nodes.values().flat_map(|node| {
        let bridges = node.pod_cidrs.iter().filter_map(|block| {
            block.hosts().next().map(|first| match first {
                // `hosts` skips the network address for IPv4 only; bridges take the next one in both families.
                IpAddr::V6(network) if first == block.network() => IpAddr::V6((u128::from(network) + 1).into()),
                other => other,
            })
        });
        node.addresses.values().flatten().copied().chain(bridges)
    })
}

/// Where the client's own addresses lie.
fn client_blocks(topology: &Topology, from: &Origin, srccidr: Option<IpNet>) -> Vec<IpNet> {
    if let Some(block) = srccidr {
        return vec![block];
    }
    match from {
        Origin::Host(host) => {
            let lans = topology.addresses(host);
            lans.into_iter().flat_map(|lans| lans.values()).flatten().map(|address| IpNet::from(*address)).collect()
        }
        Origin::Pod { on, .. } => {
            let nodes = topology.nodes.iter().filter(|(name, _)| on.as_ref().is_none_or(|on| on == *name));
            nodes.flat_map(|(_, node)| node.pod_cidrs.iter().copied()).collect()
        }
    }
}

pub(super) fn trace(
    place: &str,
    request: &TraceRequest,
    result: &TraceResult,
    expect: &TraceExpect,
) -> Option<Mismatch> {
    let mut misses = Misses::new();
    let packet = format!("a {} packet from {} to {}", request.protocol.as_str(), request.from, request.to);
    if let Some(delivered) = expect.delivered.filter(|delivered| *delivered != result.delivered) {
        let word = |delivered| if delivered { "is delivered" } else { "is not delivered" };
        misses.push((format!("{packet} {}", word(delivered)), format!("it {}", word(result.delivered))));
    }
    let mut passed = result.through.iter();
    if !expect.through.iter().all(|host| passed.any(|through| through == host)) {
        let expected = format!("{packet} goes through {}", expect.through.join(", "));
        misses.push((expected, format!("it goes through {}", result.through.join(", "))));
    }
    for part in expect.contains.iter().filter(|part| !result.text.contains(part.as_str())) {
        misses.push((format!("the walk says \"{part}\""), "it does not".to_owned()));
    }
    if misses.is_empty() {
        return None;
    }
    let (expected, mut seen): (Vec<String>, Vec<String>) = misses.into_iter().unzip();
    seen.push(result.text.trim_end().to_owned());
    Some(Mismatch { place: place.to_owned(), expected: expected.join("\n"), seen: seen.join("\n") })
}
