//! Hosts, LANs and their addresses.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;

use super::{Fields, HostKind, Reader};
use crate::diagnostic::Diagnostic;
use crate::scenario::{
    Bfd, Gateways, Lan, MaxPrefixes, Node as NodeHost, Router, Sessions, Software, Tester, Topology,
};
use crate::source::Span;
use crate::yaml::{Key, Node, Value};

/// Addresses already given out, to find doubles.
type Taken = BTreeMap<IpAddr, Span>;

impl Reader<'_> {
    pub(super) fn read_topology(&mut self, node: &Node, span: &Span) {
        let Some(mut fields) = self.fields("`topology`", node, span) else { return };
        let lans = self.optional(&mut fields, "lans");
        let groups = [
            (HostKind::Node, self.optional(&mut fields, "nodes")),
            (HostKind::Router, self.optional(&mut fields, "routers")),
            (HostKind::Tester, self.optional(&mut fields, "testers")),
        ];
        self.finish(fields);

        let mut topology = Topology::default();
        for (key, node) in lans.map(|node| self.named("`lans`", node)).unwrap_or_default() {
            self.lans.insert(key.text.clone(), key.span.clone());
            if let Some(lan) = self.read_lan(node, &key.span) {
                topology.lans.insert(key.text.clone(), lan);
            }
        }
        // All names first: a gateway may be a host that comes later.
        let mut hosts = Vec::new();
        for (kind, node) in groups {
            let what = match kind {
                HostKind::Node => "`nodes`",
                HostKind::Router => "`routers`",
                HostKind::Tester => "`testers`",
            };
            for (key, node) in node.map(|node| self.named(what, node)).unwrap_or_default() {
                self.check_host_name(key);
                if let Some((_, first)) = self.hosts.get(&key.text) {
                    let message = format!("two hosts are called `{}`", key.text);
                    let diagnostic = Diagnostic::new(message, &key.span).also(first, "the first one");
                    self.error(diagnostic);
                    continue;
                }
                self.hosts.insert(key.text.clone(), (kind, key.span.clone()));
                hosts.push((kind, key, node));
            }
        }
        let mut taken = Taken::new();
        let mut pods: Vec<(IpNet, Span)> = Vec::new();
        for (kind, key, node) in &hosts {
            match kind {
                HostKind::Node => {
                    if let Some(host) = self.read_node(&topology, node, &key.span, &mut taken, &mut pods) {
                        topology.nodes.insert(key.text.clone(), host);
                    }
                }
                HostKind::Router => {
                    if let Some(host) = self.read_router(&topology, node, &key.span, &mut taken) {
                        topology.routers.insert(key.text.clone(), host);
                    }
                }
                HostKind::Tester => {
                    if let Some(host) = self.read_tester(&topology, node, &key.span, &mut taken) {
                        topology.testers.insert(key.text.clone(), host);
                    }
                }
            }
        }
        self.topology = topology;
        for (_, key, node) in &hosts {
            self.check_gateways(&key.text, node);
        }
        for (_, key, node) in hosts.iter().filter(|(kind, ..)| *kind == HostKind::Router) {
            self.read_peers(&key.text, node);
        }
    }

    /// A mapping from names to things.
    fn named<'n>(&mut self, what: &'static str, node: &'n Node) -> Vec<(&'n Key, &'n Node)> {
        match self.fields(what, node, &node.span) {
            Some(fields) => fields.entries.iter().map(|(key, node)| (key, node)).collect(),
            None => Vec::new(),
        }
    }

    /// Names of hosts become Node names and pod names: lower case DNS labels (RFC 1123).
    fn check_host_name(&mut self, key: &Key) {
        let name = &key.text;
        let inside = name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '.');
        let ends = name.starts_with(['-', '.']) || name.ends_with(['-', '.']);
        if name.is_empty() || name.len() > 63 || !inside || ends {
            let message = format!("`{name}` cannot be the name of a host");
            let help = "use lower case letters, digits and `-`, at most 63 characters, such as `vm-001`";
            self.error(Diagnostic::new(message, &key.span).help(help));
        }
    }

    fn read_lan(&mut self, node: &Node, span: &Span) -> Option<Lan> {
        let mut fields = self.fields("a LAN", node, span)?;
        let subnets = self.required(&mut fields, "subnets").map(|node| self.list(node, Self::cidr));
        let latency = self.optional(&mut fields, "latency").and_then(|node| self.duration(node));
        self.finish(fields);
        Some(Lan { subnets: subnets?, latency: latency.unwrap_or(Duration::from_micros(200)) })
    }

    fn read_node(
        &mut self,
        topology: &Topology,
        node: &Node,
        span: &Span,
        taken: &mut Taken,
        pods: &mut Vec<(IpNet, Span)>,
    ) -> Option<NodeHost> {
        let mut fields = self.fields("a node", node, span)?;
        let mut pod_cidrs = Vec::new();
        for key in ["podCIDR", "podCIDRs"] {
            let Some(node) = self.optional(&mut fields, key) else { continue };
            for (cidr, span) in self.list(node, |reader, node| Some((reader.cidr(node)?, node.span.clone()))) {
                let overlap = pods.iter().find(|(other, _)| other.contains(&cidr) || cidr.contains(other));
                if let Some((other, place)) = overlap {
                    let message = format!("pod block `{cidr}` overlaps `{other}`");
                    let diagnostic = Diagnostic::new(message, &span).also(place, "the other one");
                    self.error(diagnostic.help("give each node a block of its own"));
                }
                pods.push((cidr, span));
                pod_cidrs.push(cidr);
            }
        }
        let flags = self.optional(&mut fields, "flags").map(|node| self.flags(node)).unwrap_or_default();
        let labels = self.optional(&mut fields, "labels").map(|node| self.text_map(node)).unwrap_or_default();
        let annotations = self.optional(&mut fields, "annotations").map(|node| self.text_map(node)).unwrap_or_default();
        let gateways = self.gateways(&mut fields, Gateways::Routers);
        let addresses = self.addresses(topology, fields, taken);
        Some(NodeHost { addresses, pod_cidrs, flags, labels, annotations, gateways })
    }

    fn read_router(&mut self, topology: &Topology, node: &Node, span: &Span, taken: &mut Taken) -> Option<Router> {
        let mut fields = self.fields("a router", node, span)?;
        let asn = self.required(&mut fields, "asn").and_then(|node| self.number(node, 1, u32::MAX));
        let accept = self.optional(&mut fields, "accept");
        let accept = accept.map(|node| self.list(node, |reader, node| reader.number(node, 1, u32::MAX)));
        let reject = self.optional(&mut fields, "reject").map(|node| self.list(node, Self::cidr));
        let gateways = self.gateways(&mut fields, Gateways::None);
        let software = self.optional(&mut fields, "software");
        let software = software.and_then(|node| self.word(node, "software", Software::NAMES));
        let networks = self.optional(&mut fields, "networks").map(|node| self.list(node, Self::cidr));
        let sessions = self.sessions(&mut fields);
        // Read when all hosts have their addresses.
        self.optional(&mut fields, "peers");
        let addresses = self.addresses(topology, fields, taken);
        let (accept, reject) = (accept.unwrap_or_default(), reject.unwrap_or_default());
        let (peers, networks) = (BTreeMap::new(), networks.unwrap_or_default());
        Some(Router { software, peers, networks, sessions, addresses, asn: asn?, accept, reject, gateways })
    }

    /// What all sessions of a router have in common.
    fn sessions(&mut self, fields: &mut Fields<'_>) -> Sessions {
        let mut read = Sessions::default();
        let flags = [
            ("passive", &mut read.passive),
            ("reflector", &mut read.reflector),
            ("extendedNextHop", &mut read.extended_next_hop),
            ("ttlSecurity", &mut read.ttl_security),
        ];
        for (key, flag) in flags {
            *flag = self.optional(fields, key).and_then(|node| self.boolean(node)).unwrap_or(false);
        }
        read.password = self.optional(fields, "password").and_then(|node| self.text(node));
        if let Some(node) = self.optional(fields, "families") {
            let words = [("ipv4", false), ("ipv6", true)];
            let list = self.list(node, |reader, node| reader.word(node, "family", &words));
            (read.ipv4, read.ipv6) = (list.contains(&false), list.contains(&true));
        }
        if let Some(node) = self.optional(fields, "addPath") {
            let span = fields.span_of("addPath");
            if let Some(mut fields) = self.fields("`addPath`", node, &span) {
                let receive = self.optional(&mut fields, "receive").and_then(|node| self.boolean(node));
                let send = self.optional(&mut fields, "send").and_then(|node| self.number(node, 0, 255));
                self.finish(fields);
                read.add_path_receive = receive.unwrap_or(false);
                read.add_path_send = send.and_then(|send| send.try_into().ok()).unwrap_or(0);
            }
        }
        read.bfd = self.optional(fields, "bfd").and_then(|node| self.bfd(node));
        read.graceful_restart = self.optional(fields, "gracefulRestart").and_then(|node| self.duration(node));
        if let Some(node) = self.optional(fields, "maxPrefixes") {
            let span = fields.span_of("maxPrefixes");
            if let Some(mut fields) = self.fields("`maxPrefixes`", node, &span) {
                let limit = self.required(&mut fields, "limit").and_then(|node| self.number(node, 1, u32::MAX));
                let restart = self.optional(&mut fields, "restart").and_then(|node| self.duration(node));
                self.finish(fields);
                read.max_prefixes = limit.map(|limit| MaxPrefixes { limit, restart });
            }
        }
        read
    }

    /// Neighbours of a router by address or host, with their AS numbers.
    fn read_peers(&mut self, router: &str, node: &Node) {
        let Some(written) = node.get("peers") else { return };
        let Some(fields) = self.fields("`peers`", written, &written.span) else { return };
        for (key, node) in fields.entries {
            let name = Node { span: key.span.clone(), value: Value::Text(key.text.clone()) };
            let (peer, asn) = (self.peer(&name, router), self.number(node, 1, u32::MAX));
            if let (Some(peer), Some(asn), Some(router)) = (peer, asn, self.topology.routers.get_mut(router)) {
                router.peers.insert(peer, asn);
            }
        }
    }

    fn bfd(&mut self, node: &Node) -> Option<Bfd> {
        let mut fields = self.fields("`bfd`", node, &node.span)?;
        let interval = self.optional(&mut fields, "interval");
        let multiplier = self.optional(&mut fields, "multiplier").and_then(|node| self.number(node, 1, u8::MAX.into()));
        self.finish(fields);
        let read = interval.and_then(|node| Some((node, self.duration(node)?)));
        if let Some((node, interval)) = read
            && (interval.is_zero() || interval.subsec_nanos() % 1_000_000 != 0)
        {
            self.wrong(node, "whole milliseconds, at least one", "`100ms` or `1s`");
        }
        Some(Bfd {
            interval: read.map_or(Duration::from_secs(1), |(_, interval)| interval),
            multiplier: multiplier.and_then(|n| u8::try_from(n).ok()).unwrap_or(3),
        })
    }

    fn read_tester(&mut self, topology: &Topology, node: &Node, span: &Span, taken: &mut Taken) -> Option<Tester> {
        let mut fields = self.fields("a tester", node, span)?;
        let gateways = self.gateways(&mut fields, Gateways::Routers);
        let serves =
            self.optional(&mut fields, "serves").map(|node| self.list(node, |read, node| read.number(node, 1, 65535)));
        let serves = serves.into_iter().flatten().filter_map(|port| u16::try_from(port).ok()).collect();
        let addresses = self.addresses(topology, fields, taken);
        Some(Tester { addresses, gateways, serves })
    }

    fn text_map(&mut self, node: &Node) -> BTreeMap<String, String> {
        let Some(fields) = self.fields("labels or annotations", node, &node.span) else { return BTreeMap::new() };
        let entries = fields.entries.iter();
        entries.filter_map(|(key, node)| Some((key.text.clone(), self.text(node)?))).collect()
    }

    fn gateways(&mut self, fields: &mut Fields<'_>, default: Gateways) -> Gateways {
        let Some(node) = self.optional(fields, "gateways") else { return default };
        match node.text() {
            Some("routers") => Gateways::Routers,
            Some("none") => Gateways::None,
            _ => Gateways::Names(self.list(node, |reader, node| reader.host(node))),
        }
    }

    /// A gateway by name must be a neighbour.
    fn check_gateways(&mut self, host: &str, node: &Node) {
        let Some(written) = node.get("gateways") else { return };
        if matches!(written.text(), Some("routers" | "none")) {
            return;
        }
        let reached: Vec<String> = self.topology.gateways(host).into_iter().map(|(gateway, _)| gateway).collect();
        let items = match &written.value {
            Value::List(items) => items.as_slice(),
            _ => std::slice::from_ref(written),
        };
        for item in items {
            let Some(name) = item.text().filter(|name| self.topology.addresses(name).is_some()) else { continue };
            if !reached.iter().any(|gateway| gateway == name) {
                let message = format!("`{name}` cannot be a gateway of `{host}`: they share no LAN");
                self.error(Diagnostic::new(message, &item.span));
            }
        }
    }

    /// What is left of the mapping of a host: one key per LAN it is on.
    fn addresses(
        &mut self,
        topology: &Topology,
        fields: Fields<'_>,
        taken: &mut Taken,
    ) -> BTreeMap<String, Vec<IpAddr>> {
        let mut addresses = BTreeMap::new();
        for (key, node) in fields.others() {
            if !self.lans.contains_key(&key.text) {
                let lans = self.lans.clone();
                let mut allowed: Vec<&str> = lans.keys().map(String::as_str).collect();
                allowed.extend(&fields.known);
                self.unknown_key(key, fields.what, &allowed);
                continue;
            }
            let list = self.list(node, |reader, node| {
                let address = reader.address(node)?;
                reader.check_address(topology, &key.text, address, &node.span, taken);
                Some(address)
            });
            addresses.insert(key.text.clone(), list);
        }
        if addresses.is_empty() && !self.lans.is_empty() && fields.others().next().is_none() {
            let lans: Vec<&str> = self.lans.keys().map(String::as_str).collect();
            let message = format!("{} needs an address on a LAN", fields.what);
            let help = format!("write `{}: ADDRESS`; the LANs are: {}", lans[0], lans.join(", "));
            let diagnostic = Diagnostic::new(message, &fields.span).help(help);
            self.error(diagnostic);
        }
        addresses
    }

    fn check_address(&mut self, topology: &Topology, lan: &str, address: IpAddr, span: &Span, taken: &mut Taken) {
        // A LAN that could not be read has been reported already.
        if let Some(known) = topology.lans.get(lan)
            && !known.subnets.iter().any(|subnet| subnet.contains(&address))
        {
            let message = format!("{address} is in no subnet of LAN `{lan}`");
            let subnets: Vec<String> = known.subnets.iter().map(IpNet::to_string).collect();
            let mut diagnostic = Diagnostic::new(message, span).help(format!("its subnets: {}", subnets.join(", ")));
            let fits = topology.lans.iter().find(|(_, other)| other.subnets.iter().any(|net| net.contains(&address)));
            if let Some((other, _)) = fits {
                diagnostic = diagnostic.label(format!("this is an address of LAN `{other}`"));
            }
            self.error(diagnostic);
        }
        match taken.get(&address) {
            Some(first) => {
                let diagnostic = Diagnostic::new(format!("{address} is given twice"), span).also(first, "first here");
                self.error(diagnostic);
            }
            None => {
                taken.insert(address, span.clone());
            }
        }
    }
}
