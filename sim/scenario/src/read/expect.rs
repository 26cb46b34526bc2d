//! Conditions, what to show, what loads and packets should give.

use std::collections::BTreeMap;

use super::{Fields, Reader};
use crate::diagnostic::Diagnostic;
use crate::source::{At, Span};
use crate::step::{
    BgpCondition, CniCondition, Condition, Conditions, Count, EndpointsCondition, LoadExpect, NeighborCondition,
    NoticeCondition, Protocol, RibCondition, RouteCondition, Show, SourceMatch, TraceExpect, VirtualServerCondition,
};
use crate::yaml::{Node, Value};

/// Reads one condition; the place is what to underline when it as a whole is wrong.
type ReadCondition<'f> = fn(&mut Reader<'f>, &Node, &Span) -> Option<Condition>;

impl<'f> Reader<'f> {
    /// The conditions of `until` and `expect`. Each key takes one condition or a list of them.
    pub(super) fn conditions(&mut self, mut fields: Fields<'_>) -> Conditions {
        let mut all = Vec::new();
        let mut empty = Vec::new();
        let span = |fields: &Fields<'_>, key: &str| fields.span_of(key);
        if let Some(node) = self.optional(&mut fields, "bgp") {
            let place = span(&fields, "bgp");
            for (on, condition) in self.list(node, |reader, node| reader.bgp(node, &place)).into_iter().flatten() {
                all.push(At { value: Condition::Bgp(condition), span: on });
            }
        }
        let readers: [(&'static str, ReadCondition<'f>); 6] = [
            ("neighbor", Self::neighbor),
            ("rib", Self::rib),
            ("route", Self::route),
            ("endpoints", Self::endpoints),
            ("virtualServer", Self::virtual_server),
            ("cni", Self::cni),
        ];
        for (key, read) in readers {
            let Some(node) = self.optional(&mut fields, key) else { continue };
            let place = span(&fields, key);
            let items = match &node.value {
                Value::List(items) => items.as_slice(),
                _ => std::slice::from_ref(node),
            };
            if items.is_empty() {
                empty.push(place.clone());
            }
            for item in items {
                if let Some(condition) = read(self, item, &place) {
                    // A flow mapping in a list is marked itself, a single one by its key.
                    let span = if items.len() > 1 { item.span.clone() } else { place.clone() };
                    all.push(At { value: condition, span });
                }
            }
        }
        if let Some(node) = self.optional(&mut fields, "notices") {
            let place = span(&fields, "notices");
            if matches!(&node.value, Value::List(items) if items.is_empty()) {
                all.push(At { value: Condition::NoNotices, span: place.clone() });
            }
            for condition in self.list(node, |reader, node| reader.notice(node, &place)) {
                all.push(At { value: Condition::Notice(condition), span: place.clone() });
            }
        }
        if let Some(node) = self.optional(&mut fields, "insync") {
            let hosts = self.list(node, |reader, node| Some((reader.node_name(node)?, node.span.clone())));
            all.extend(hosts.into_iter().map(|(host, span)| At { value: Condition::InSync(host), span }));
        }
        for place in empty {
            self.error(Diagnostic::new("an empty list of conditions says nothing", &place));
        }
        let known = fields.known.iter().copied().filter(|key| *key != "within").collect::<Vec<_>>();
        let conditions_written = known.iter().any(|key| fields.has(key));
        if !conditions_written && fields.others().next().is_none() {
            let diagnostic = Diagnostic::new(format!("{} needs a condition", fields.what), &fields.span);
            self.error(diagnostic.help(format!("one or more of: {}", known.join(", "))));
        }
        self.finish(fields);
        all
    }

    /// `{vm-201: {established: 4}, ...}`: hosts are the keys.
    fn bgp(&mut self, node: &Node, span: &Span) -> Option<Vec<(Span, BgpCondition)>> {
        let fields = self.fields("`bgp`", node, span)?;
        let mut conditions = Vec::new();
        for (key, node) in fields.entries {
            let name = Node { span: key.span.clone(), value: Value::Text(key.text.clone()) };
            let on = self.speaker(&name);
            let Some(mut fields) = self.fields("a condition on BGP", node, &key.span) else { continue };
            let established = self.optional(&mut fields, "established").and_then(|node| self.count(node));
            let neighbors = self.optional(&mut fields, "neighbors").and_then(|node| self.count(node));
            let accepted = self.optional(&mut fields, "accepted").and_then(|node| self.count(node));
            let bfd = self.optional(&mut fields, "bfd").and_then(|node| self.count(node));
            self.finish(fields);
            if let Some(on) = on {
                conditions.push((key.span.clone(), BgpCondition { on, established, neighbors, accepted, bfd }));
            }
        }
        Some(conditions)
    }

    fn neighbor(&mut self, node: &Node, span: &Span) -> Option<Condition> {
        let mut fields = self.fields("`neighbor`", node, span)?;
        let on = self.required(&mut fields, "on").and_then(|node| self.speaker(node));
        let peer = self.required(&mut fields, "peer");
        let up = self.optional(&mut fields, "up").and_then(|node| self.boolean(node));
        let received = self.optional(&mut fields, "received").and_then(|node| self.count(node));
        let accepted = self.optional(&mut fields, "accepted").and_then(|node| self.count(node));
        let because = self.optional(&mut fields, "because").and_then(|node| self.text(node));
        self.finish(fields);
        let on = on?;
        let peer = self.peer(peer?, &on)?;
        Some(Condition::Neighbor(NeighborCondition { on, peer, up, received, accepted, because }))
    }

    fn rib(&mut self, node: &Node, span: &Span) -> Option<Condition> {
        let mut fields = self.fields("`rib`", node, span)?;
        let on = self.required(&mut fields, "on").and_then(|node| self.speaker(node));
        let prefix = self.required(&mut fields, "prefix").and_then(|node| self.cidr(node));
        let paths = self.required(&mut fields, "paths").and_then(|node| self.count(node));
        let via = self.optional(&mut fields, "via").map(|node| self.address(node));
        let as_path = self.optional(&mut fields, "asPath");
        let as_path = as_path.map(|node| self.list(node, |reader, node| reader.number(node, 1, u32::MAX)));
        self.finish(fields);
        let via = match via {
            Some(via) => Some(via?),
            None => None,
        };
        let as_path = as_path.unwrap_or_default();
        Some(Condition::Rib(RibCondition { on: on?, prefix: prefix?, paths: paths?, via, as_path }))
    }

    fn route(&mut self, node: &Node, span: &Span) -> Option<Condition> {
        let mut fields = self.fields("`route`", node, span)?;
        let on = self.required(&mut fields, "on").and_then(|node| self.host(node));
        let to = self.required(&mut fields, "to").and_then(|node| self.cidr(node));
        let next_hops = self.required(&mut fields, "nexthops").and_then(|node| self.count(node));
        let protocol = self.optional(&mut fields, "protocol").map(|node| self.number(node, 0, 255));
        self.finish(fields);
        let protocol = match protocol {
            Some(protocol) => Some(protocol? as u8),
            None => None,
        };
        Some(Condition::Route(RouteCondition { on: on?, to: to?, next_hops: next_hops?, protocol }))
    }

    /// `service: mconnect`, `service: ns/mconnect`, or with a `namespace` beside it.
    fn service(&mut self, fields: &mut Fields<'_>) -> Option<(String, String)> {
        let node = self.required(fields, "service");
        let namespace = self.optional(fields, "namespace").and_then(|node| self.text(node));
        let node = node?;
        let (in_name, name) = self.object_name(node)?;
        let namespace = namespace.unwrap_or(in_name);
        self.known_object(node, "Service", &namespace, &name)?;
        Some((namespace, name))
    }

    fn endpoints(&mut self, node: &Node, span: &Span) -> Option<Condition> {
        let mut fields = self.fields("`endpoints`", node, span)?;
        let service = self.service(&mut fields);
        let ready = self.optional(&mut fields, "ready").map(|node| self.count(node));
        let total = self.optional(&mut fields, "total").map(|node| self.count(node));
        if ready.is_none() && total.is_none() {
            self.error(Diagnostic::new("`endpoints` needs `ready` or `total`", &fields.span));
        }
        self.finish(fields);
        let (namespace, service) = service?;
        let (ready, total) = (ready.flatten(), total.flatten());
        Some(Condition::Endpoints(EndpointsCondition { namespace, service, ready, total }))
    }

    fn virtual_server(&mut self, node: &Node, span: &Span) -> Option<Condition> {
        let mut fields = self.fields("`virtualServer`", node, span)?;
        let on = self.required(&mut fields, "on").and_then(|node| self.node_name(node));
        let address = self.required(&mut fields, "address").and_then(|node| self.target(node));
        let protocol = self.optional(&mut fields, "protocol").map(|node| self.protocol(node));
        let present = self.optional(&mut fields, "present").and_then(|node| self.boolean(node));
        let real_servers = self.optional(&mut fields, "realServers").and_then(|node| self.count(node));
        let active = self.optional(&mut fields, "active").and_then(|node| self.count(node));
        let scheduler = self.optional(&mut fields, "scheduler").and_then(|node| self.text(node));
        let persistent = self.optional(&mut fields, "persistent").and_then(|node| self.boolean(node));
        self.finish(fields);
        Some(Condition::VirtualServer(VirtualServerCondition {
            on: on?,
            address: address?,
            protocol: protocol.unwrap_or(Some(Protocol::Tcp))?,
            present: present.unwrap_or(true),
            real_servers,
            active,
            scheduler,
            persistent,
        }))
    }

    fn cni(&mut self, node: &Node, span: &Span) -> Option<Condition> {
        let mut fields = self.fields("a CNI configuration", node, span)?;
        let on = self.required(&mut fields, "on").and_then(|node| self.node_name(node));
        let ranges = self.optional(&mut fields, "ranges").map(|node| self.list(node, Self::cidr));
        let mtu = self.optional(&mut fields, "mtu").and_then(|node| self.count(node));
        self.finish(fields);
        Some(Condition::Cni(CniCondition { on: on?, ranges, mtu }))
    }

    fn notice(&mut self, node: &Node, span: &Span) -> Option<NoticeCondition> {
        let mut fields = self.fields("a notice", node, span)?;
        let on = self.optional(&mut fields, "on").map(|node| self.node_name(node));
        let subject = self.optional(&mut fields, "subject").and_then(|node| self.text(node));
        let field = self.optional(&mut fields, "field").and_then(|node| self.text(node));
        let contains = self.optional(&mut fields, "contains").and_then(|node| self.text(node));
        let present = self.optional(&mut fields, "present").and_then(|node| self.boolean(node));
        self.finish(fields);
        let on = match on {
            Some(on) => Some(on?),
            None => None,
        };
        Some(NoticeCondition { on, subject, field, contains, present: present.unwrap_or(true) })
    }

    pub(super) fn show(&mut self, node: &Node, span: &Span) -> Option<Show> {
        let mut fields = self.fields("`show`", node, span)?;
        let neighbors = self.optional(&mut fields, "neighbors").map(|node| self.list(node, Self::speaker));
        let rib = self.optional(&mut fields, "rib").map(|node| self.list(node, Self::speaker));
        let routes = self.optional(&mut fields, "routes").map(|node| self.list(node, Self::host));
        let servers = self.optional(&mut fields, "virtualServers").map(|node| self.list(node, Self::node_name));
        let endpoints = self.optional(&mut fields, "endpoints");
        let endpoints = endpoints.map(|node| {
            self.list(node, |reader, node| {
                let (namespace, name) = reader.object_name(node)?;
                reader.known_object(node, "Service", &namespace, &name)?;
                Some((namespace, name))
            })
        });
        let notices = self.optional(&mut fields, "notices").and_then(|node| self.boolean(node));
        let to = self.optional(&mut fields, "to").and_then(|node| self.cidr(node));
        let ipv6 = self.optional(&mut fields, "ipv6").and_then(|node| self.boolean(node));
        let any = ["neighbors", "rib", "routes", "virtualServers", "endpoints", "notices"];
        if !any.iter().any(|key| fields.has(key)) && fields.others().next().is_none() {
            let diagnostic = Diagnostic::new("`show` says nothing to show", &fields.span);
            self.error(diagnostic.help(format!("one or more of: {}", any.join(", "))));
        }
        self.finish(fields);
        Some(Show {
            neighbors: neighbors.unwrap_or_default(),
            rib: rib.unwrap_or_default(),
            routes: routes.unwrap_or_default(),
            virtual_servers: servers.unwrap_or_default(),
            endpoints: endpoints.unwrap_or_default(),
            notices: notices.unwrap_or(false),
            to,
            ipv6: ipv6.unwrap_or(to.is_some_and(|to| to.addr().is_ipv6())),
        })
    }

    pub(super) fn load_expect(&mut self, expect: Option<(&Node, &Span)>) -> LoadExpect {
        let mut read = LoadExpect::default();
        let Some((node, span)) = expect else { return read };
        let Some(mut fields) = self.fields("`expect` of a load", node, span) else { return read };
        let counts = [
            ("failedConnects", &mut read.failed_connects),
            ("failedReads", &mut read.failed_reads),
            ("failed", &mut read.failed),
            ("connects", &mut read.connects),
            ("hosts", &mut read.hosts),
        ];
        for (key, count) in counts {
            *count = self.optional(&mut fields, key).and_then(|node| self.count(node));
        }
        if let Some(node) = self.optional(&mut fields, "failedAtLeast")
            && let Some(min) = self.number(node, 0, u32::MAX)
        {
            if read.failed.is_some() {
                let message = "`failed` and `failedAtLeast` say the same thing twice";
                self.error(Diagnostic::new(message, &fields.span_of("failedAtLeast")).help("keep one of them"));
            }
            read.failed = Some(Count { min: min.into(), max: None });
        }
        if let Some(node) = self.optional(&mut fields, "spread") {
            let place = fields.span_of("spread");
            if let Some(mut spread) = self.fields("`spread`", node, &place) {
                let within = self.required(&mut spread, "evenWithin").and_then(|node| self.number(node, 0, 100));
                read.even_within = within.map(f64::from);
                self.finish(spread);
            }
        }
        if let Some(node) = self.optional(&mut fields, "exactly") {
            read.exactly = self.counts(node, None);
        }
        if let Some(node) = self.optional(&mut fields, "byNode") {
            read.by_node = self.counts(node, Some(Self::node_name));
        }
        if let Some(node) = self.optional(&mut fields, "sourceSeen") {
            read.source_seen = self.list(node, Self::source_match);
        }
        if let Some(node) = self.optional(&mut fields, "onlyOn") {
            read.only_on = self.list(node, Self::node_name);
        }
        if let Some(node) = self.optional(&mut fields, "notOn") {
            read.not_on = self.list(node, Self::node_name);
        }
        self.finish(fields);
        read
    }

    /// Counts by name; `check` looks at each name.
    fn counts(
        &mut self,
        node: &Node,
        check: Option<fn(&mut Self, &Node) -> Option<String>>,
    ) -> BTreeMap<String, Count> {
        let mut counts = BTreeMap::new();
        let Some(fields) = self.fields("counts by name", node, &node.span) else { return counts };
        for (key, node) in fields.entries {
            let name = Node { span: key.span.clone(), value: Value::Text(key.text.clone()) };
            let known = check.is_none_or(|check| check(self, &name).is_some());
            if let (Some(count), true) = (self.count(node), known) {
                counts.insert(key.text.clone(), count);
            }
        }
        counts
    }

    fn source_match(&mut self, node: &Node) -> Option<SourceMatch> {
        match node.text() {
            Some("client") => return Some(SourceMatch::Client),
            Some("node") => return Some(SourceMatch::Node),
            Some("pod") => return Some(SourceMatch::Pod),
            _ => {}
        }
        let text = node.text().unwrap_or_default();
        if let Ok(address) = text.parse::<std::net::IpAddr>() {
            return Some(SourceMatch::Block(address.into()));
        }
        if let Ok(block) = text.parse::<ipnet::IpNet>() {
            return Some(SourceMatch::Block(block));
        }
        self.error(
            Diagnostic::new(format!("`{text}` is not a source address"), &node.span)
                .help("write `client`, `node`, `pod`, an address or a block such as `192.168.2.0/24`"),
        );
        None
    }

    pub(super) fn trace_expect(&mut self, expect: Option<(&Node, &Span)>) -> TraceExpect {
        let mut read = TraceExpect::default();
        let Some((node, span)) = expect else { return read };
        let Some(mut fields) = self.fields("`expect` of a trace", node, span) else { return read };
        read.delivered = self.optional(&mut fields, "delivered").and_then(|node| self.boolean(node));
        let through = self.optional(&mut fields, "through").map(|node| self.list(node, Self::host));
        let contains = self.optional(&mut fields, "contains").map(|node| self.list(node, Self::text));
        (read.through, read.contains) = (through.unwrap_or_default(), contains.unwrap_or_default());
        self.finish(fields);
        read
    }
}
