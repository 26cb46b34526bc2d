//! Single values: texts, numbers, times, addresses, names.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use ipnet::IpNet;

use super::{HostKind, Reader};
use crate::diagnostic::Diagnostic;
use crate::scenario::Range;
use crate::source::At;
use crate::step::{Count, Protocol, Target};
use crate::text::{nearest, parse_count, parse_duration, parse_range};
use crate::yaml::{Node, Value};

impl Reader<'_> {
    /// "expected X, this is Y", with an example.
    pub(super) fn wrong(&mut self, node: &Node, expected: &str, example: &str) {
        let this = match node.text() {
            Some(text) => format!("`{text}`"),
            None => node.kind().to_owned(),
        };
        self.error(Diagnostic::new(format!("{this} is not {expected}"), &node.span).help(format!("write {example}")));
    }

    pub(super) fn text(&mut self, node: &Node) -> Option<String> {
        match node.text() {
            Some(text) => Some(text.to_owned()),
            None => {
                self.wrong(node, "text", "one word or one line, in quotes if it contains `: ` or begins with a sign");
                None
            }
        }
    }

    pub(super) fn boolean(&mut self, node: &Node) -> Option<bool> {
        match node.value {
            Value::Bool(value) => Some(value),
            _ => {
                self.wrong(node, "true or false", "`true` or `false`");
                None
            }
        }
    }

    /// A list, or a single item in its place.
    pub(super) fn list<T>(&mut self, node: &Node, mut item: impl FnMut(&mut Self, &Node) -> Option<T>) -> Vec<T> {
        match &node.value {
            Value::List(items) => items.iter().filter_map(|node| item(self, node)).collect(),
            _ => item(self, node).into_iter().collect(),
        }
    }

    pub(super) fn duration(&mut self, node: &Node) -> Option<Duration> {
        let duration = node.text().and_then(parse_duration);
        if duration.is_none() {
            self.wrong(node, "a duration", "`5ms`, `10s` or `1m30s`");
        }
        duration
    }

    pub(super) fn range(&mut self, node: &Node) -> Option<Range> {
        let range = node.text().and_then(parse_range);
        if range.is_none() {
            self.wrong(node, "a range of durations", "`5ms..60ms`, the shorter one first");
        }
        range
    }

    pub(super) fn number(&mut self, node: &Node, min: u32, max: u32) -> Option<u32> {
        let number = match &node.value {
            Value::Number(_) => node.text().and_then(|text| text.parse().ok()),
            _ => None,
        };
        let number = number.filter(|number| (min..=max).contains(number));
        if number.is_none() {
            self.wrong(node, &format!("a number from {min} to {max}"), &format!("a number such as `{}`", min.max(4)));
        }
        number
    }

    /// A count, or a mapping of bounds `{min: 1, max: 4}`.
    pub(super) fn count(&mut self, node: &Node) -> Option<Count> {
        if let Value::Map(_) = node.value {
            let mut fields = self.fields("a count", node, &node.span)?;
            let min = self.optional(&mut fields, "min").and_then(|node| self.number(node, 0, u32::MAX));
            let max = self.optional(&mut fields, "max").and_then(|node| self.number(node, 0, u32::MAX));
            self.finish(fields);
            return Some(Count { min: min.unwrap_or(0).into(), max: max.map(u64::from) });
        }
        let count = node.text().and_then(parse_count);
        if count.is_none() {
            self.wrong(node, "a count", "`4`, or bounds: `2..4`, `2..` (at least), `..4` (at most)");
        }
        count
    }

    pub(super) fn address(&mut self, node: &Node) -> Option<IpAddr> {
        let address = node.text().and_then(|text| text.parse().ok());
        if address.is_none() {
            let text = node.text().unwrap_or_default();
            if let Some((bare, _)) = text.split_once('/').filter(|(bare, _)| bare.parse::<IpAddr>().is_ok()) {
                let message = format!("`{text}` is a block, an address is expected here");
                let help = format!("write `{bare}`; the prefix length comes from the subnet of the LAN");
                self.error(Diagnostic::new(message, &node.span).help(help));
            } else {
                self.wrong(node, "an address", "`192.168.1.1` or `fd00::1`");
            }
        }
        address
    }

    pub(super) fn cidr(&mut self, node: &Node) -> Option<IpNet> {
        let text = node.text().unwrap_or_default();
        let Ok(cidr) = text.parse::<IpNet>() else {
            match text.parse::<IpAddr>() {
                Ok(address) => {
                    let length = if address.is_ipv4() { 32 } else { 128 };
                    let message = format!("`{text}` has no prefix length");
                    let help = format!("write `{text}/{length}` for this one address");
                    self.error(Diagnostic::new(message, &node.span).help(help));
                }
                Err(_) => self.wrong(node, "a block of addresses", "`192.168.1.0/24` or `fd00::/64`"),
            }
            return None;
        };
        if cidr.trunc() != cidr {
            let message = format!("`{text}` has bits set beyond its prefix length");
            let help = format!("write `{}` for the block or `{}` for the address", cidr.trunc(), full(cidr.addr()));
            self.error(Diagnostic::new(message, &node.span).help(help));
            return None;
        }
        Some(cidr)
    }

    pub(super) fn protocol(&mut self, node: &Node) -> Option<Protocol> {
        let all = [("tcp", Protocol::Tcp), ("udp", Protocol::Udp), ("sctp", Protocol::Sctp)];
        self.word(node, "protocol", &all)
    }

    /// One word out of a fixed set.
    pub(super) fn word<T: Copy>(&mut self, node: &Node, what: &str, words: &[(&str, T)]) -> Option<T> {
        let text = node.text().unwrap_or_default();
        if let Some((_, value)) = words.iter().find(|(word, _)| *word == text) {
            return Some(*value);
        }
        let names: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
        self.unknown(node, what, &names);
        None
    }

    /// `what` by that name does not exist; the nearest and all others are shown.
    pub(super) fn unknown(&mut self, node: &Node, what: &str, names: &[&str]) {
        let Some(text) = node.text() else {
            self.error(Diagnostic::new(
                format!("the name of a {what} is expected, this is {}", node.kind()),
                &node.span,
            ));
            return;
        };
        let mut diagnostic = Diagnostic::new(format!("there is no {what} `{text}`"), &node.span);
        if let Some(near) = nearest(text, names.iter().copied()) {
            diagnostic = diagnostic.label(format!("did you mean `{near}`?"));
        }
        self.error(diagnostic.help(some_of(what, names)));
    }

    /// A host of one of the kinds.
    fn host_of(&mut self, node: &Node, what: &str, kinds: &[HostKind]) -> Option<String> {
        let text = node.text().unwrap_or_default();
        if self.unchecked && !text.is_empty() {
            return Some(text.to_owned());
        }
        let hosts = self.hosts.clone();
        match hosts.get(text) {
            Some((kind, _)) if kinds.contains(kind) => Some(text.to_owned()),
            Some((kind, span)) => {
                let is = match kind {
                    HostKind::Node => "a node",
                    HostKind::Router => "a router",
                    HostKind::Tester => "a tester",
                };
                let message = format!("`{text}` is {is}, a {what} is expected here");
                let names: Vec<&str> =
                    hosts.iter().filter(|(_, (kind, _))| kinds.contains(kind)).map(|(name, _)| name.as_str()).collect();
                let diagnostic = Diagnostic::new(message, &node.span).also(span, format!("{is} here"));
                self.error(diagnostic.help(some_of(what, &names)));
                None
            }
            None => {
                let names: Vec<&str> =
                    hosts.iter().filter(|(_, (kind, _))| kinds.contains(kind)).map(|(name, _)| name.as_str()).collect();
                self.unknown(node, what, &names);
                None
            }
        }
    }

    pub(super) fn host(&mut self, node: &Node) -> Option<String> {
        self.host_of(node, "host", &[HostKind::Node, HostKind::Router, HostKind::Tester])
    }

    pub(super) fn node_name(&mut self, node: &Node) -> Option<String> {
        self.host_of(node, "node", &[HostKind::Node])
    }

    pub(super) fn router_name(&mut self, node: &Node) -> Option<String> {
        self.host_of(node, "router", &[HostKind::Router])
    }

    pub(super) fn speaker(&mut self, node: &Node) -> Option<String> {
        self.host_of(node, "node or router", &[HostKind::Node, HostKind::Router])
    }

    pub(super) fn lan(&mut self, node: &Node) -> Option<String> {
        let text = node.text().unwrap_or_default();
        if self.lans.contains_key(text) {
            return Some(text.to_owned());
        }
        let lans = self.lans.clone();
        let names: Vec<&str> = lans.keys().map(String::as_str).collect();
        self.unknown(node, "LAN", &names);
        None
    }

    /// Where a connection goes: an address and port, or the name of something that has an address.
    pub(super) fn target(&mut self, node: &Node) -> Option<Target> {
        const EXAMPLE: &str = "`10.0.0.2:5001`, `\"[fd00::a00:2]:5001\"`, `vm-001:30001`, `service:default/mconnect:5001` or `pod:default/mconnect:5001`";
        let text = node.text().unwrap_or_default();
        if let Ok(address) = text.parse::<SocketAddr>() {
            return Some(Target::Socket(address));
        }
        if text.parse::<IpAddr>().is_ok() {
            let six = text.contains(':');
            let example = if six { format!("`\"[{text}]:5001\"`") } else { format!("`{text}:5001`") };
            self.error(Diagnostic::new(format!("`{text}` has no port"), &node.span).help(format!("write {example}")));
            return None;
        }
        let Some((rest, port)) = text.rsplit_once(':') else {
            self.wrong(node, "an address and port", EXAMPLE);
            return None;
        };
        let Some(port) = port.parse::<u16>().ok().filter(|port| *port > 0) else {
            self.error(Diagnostic::new(format!("`{port}` is not a port"), &node.span).help(format!("write {EXAMPLE}")));
            return None;
        };
        if let Some((scheme, object)) = rest.split_once(':') {
            let (namespace, name) = object.split_once('/').unwrap_or(("default", object));
            let (namespace, name) = (namespace.to_owned(), name.to_owned());
            return match scheme {
                "service" | "service6" => {
                    self.known_object(node, "Service", &namespace, &name)?;
                    Some(Target::Service { namespace, name, port, ipv6: scheme == "service6" })
                }
                "pod" | "pod6" => Some(Target::Pod { namespace, name, port, ipv6: scheme == "pod6" }),
                _ => {
                    self.wrong(node, "an address and port", EXAMPLE);
                    None
                }
            };
        }
        // A host by name means its first address.
        let address = self.topology.addresses(rest).and_then(|lans| lans.values().flatten().next());
        match address {
            Some(address) => Some(Target::Socket(SocketAddr::new(*address, port))),
            None if !self.unchecked && rest.chars().any(|c| c.is_ascii_alphabetic()) => {
                let hosts = self.hosts.clone();
                let names: Vec<&str> = hosts.keys().map(String::as_str).collect();
                let mut diagnostic = Diagnostic::new(format!("there is no host `{rest}`"), &node.span);
                if let Some(near) = nearest(rest, names.iter().copied()) {
                    diagnostic = diagnostic.label(format!("did you mean `{near}:{port}`?"));
                }
                self.error(diagnostic.help(format!("write {EXAMPLE}")));
                None
            }
            None => {
                self.wrong(node, "an address and port", EXAMPLE);
                None
            }
        }
    }

    pub(super) fn flags(&mut self, node: &Node) -> Vec<At<String>> {
        self.list(node, |reader, node| Some(At { value: reader.text(node)?, span: node.span.clone() }))
    }
}

/// A single address as a block.
fn full(address: IpAddr) -> IpNet {
    IpNet::from(address)
}

/// `known: a, b, c`, not endlessly.
fn some_of(what: &str, names: &[&str]) -> String {
    match names {
        [] => format!("there is no {what} at all at this point"),
        _ if names.len() <= 20 => format!("there is: {}", names.join(", ")),
        _ => format!("there is: {}, and {} more", names[..20].join(", "), names.len() - 20),
    }
}
