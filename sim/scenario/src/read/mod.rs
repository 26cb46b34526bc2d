//! From the tree to a checked scenario. Every mistake is noted and reading goes on, so that one look at the output
//! shows them all. Names of hosts and LANs are gathered before anything that mentions them is read.

mod expect;
mod objects;
mod steps;
mod topology;
mod value;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use crate::diagnostic::Diagnostic;
use crate::scenario::{Scenario, Services, Timing, Topology};
use crate::source::{Source, Span};
use crate::stage::TraceRequest;
use crate::text::nearest;
use crate::yaml::{self, Key, Node, Value};

use objects::Known;

/// Gives the text of a file that a scenario names; the path is as written, relative to the scenario file.
pub type Files<'a> = dyn Fn(&str) -> std::io::Result<String> + 'a;

/// Reads and checks a scenario file and the files it names.
pub fn load(path: &Path) -> Result<Scenario, Vec<Diagnostic>> {
    let name = path.display().to_string();
    let cannot = |error: std::io::Error| vec![Diagnostic::without_place(format!("cannot read {name}: {error}"))];
    let text = read_bounded(path).map_err(cannot)?;
    let folder = path.parent().unwrap_or(Path::new("")).to_path_buf();
    parse(&name, &text, &move |file| read_bounded(&folder.join(file)))
}

/// A file, if it is not larger than any file may be.
fn read_bounded(path: &Path) -> std::io::Result<String> {
    use std::io::Read as _;
    let mut text = String::new();
    // One more than allowed: the reader of the text says that it is too large, with the number.
    std::fs::File::open(path)?.take(yaml::MAX_BYTES as u64 + 1).read_to_string(&mut text)?;
    Ok(text)
}

/// Reads and checks the text of a scenario file. `files` gives the text of the files it names.
pub fn parse(name: &str, text: &str, files: &Files<'_>) -> Result<Scenario, Vec<Diagnostic>> {
    let source = Arc::new(Source { name: name.to_owned(), text: text.to_owned() });
    let documents = yaml::documents(&source).map_err(|diagnostic| vec![*diagnostic])?;
    let mut documents = documents.into_iter();
    let Some(root) = documents.next() else {
        let help = "begin with `name: what this scenario shows`";
        return Err(vec![Diagnostic::without_place(format!("{name}: the file is empty")).help(help)]);
    };
    if let Some(second) = documents.next() {
        let message = "a scenario file holds one document";
        return Err(vec![Diagnostic::new(message, &second.span).label("a second one begins here")]);
    }
    let mut reader = Reader::new(&source, files);
    let scenario = reader.scenario(&root);
    match scenario {
        Some(scenario) if reader.diagnostics.is_empty() => Ok(scenario),
        _ => {
            // In the order of the file, whatever the order of reading was; mistakes in other files come last.
            let mut diagnostics = reader.diagnostics;
            diagnostics.sort_by_key(|diagnostic| match &diagnostic.span {
                Some(span) if span.source == source => (0, span.start),
                Some(span) => (1, span.start),
                None => (2, 0),
            });
            Err(diagnostics)
        }
    }
}

/// Reads a packet to follow, written as in a `trace` step: `{from: vm-221, to: "10.0.0.2:5001", protocol: tcp}`. There
/// is no scenario to check names against, so the stage does that, and `to` cannot be the name of a host.
pub fn parse_trace(text: &str) -> Result<TraceRequest, String> {
    let source = Arc::new(Source { name: "trace".to_owned(), text: text.to_owned() });
    let said = |diagnostics: &[Diagnostic]| {
        let say = |d: &Diagnostic| [std::slice::from_ref(&d.message), d.help.as_slice()].concat().join("; ");
        diagnostics.iter().map(say).collect::<Vec<_>>().join("\n")
    };
    let documents = yaml::documents(&source).map_err(|diagnostic| said(&[*diagnostic]))?;
    let [root] = documents.as_slice() else {
        return Err("write `{from: vm-221, to: \"10.0.0.2:5001\"}`".to_owned());
    };
    let none = |_: &str| Err(std::io::ErrorKind::NotFound.into());
    let mut reader = Reader::new(&source, &none);
    reader.unchecked = true;
    let request = reader.trace_request(root, &root.span);
    match request {
        Some(request) if reader.diagnostics.is_empty() => Ok(request),
        _ => Err(said(&reader.diagnostics)),
    }
}

/// Kinds of hosts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum HostKind {
    Node,
    Router,
    Tester,
}

/// The state of reading one file.
struct Reader<'a> {
    source: Arc<Source>,
    files: &'a Files<'a>,
    diagnostics: Vec<Diagnostic>,
    hosts: BTreeMap<String, (HostKind, Span)>,
    lans: BTreeMap<String, Span>,
    known: Known,
    /// Background loads by name: running (true) or stopped, as of the step being read.
    loads: BTreeMap<String, bool>,
    topology: Topology,
    /// There is no scenario to check names against.
    unchecked: bool,
}

/// A mapping being read: which keys it may have, and which were there.
struct Fields<'n> {
    /// What the mapping is, for messages: `a node`.
    what: &'static str,
    span: Span,
    entries: &'n [(Key, Node)],
    known: Vec<&'static str>,
}

impl<'n> Fields<'n> {
    /// Where a key was written, or the whole mapping.
    fn span_of(&self, key: &str) -> Span {
        let entry = self.entries.iter().find(|(k, _)| k.text == key);
        entry.map_or_else(|| self.span.clone(), |(k, _)| k.span.clone())
    }

    /// Entries whose key was not asked for.
    fn others(&self) -> impl Iterator<Item = &'n (Key, Node)> {
        self.entries.iter().filter(|(key, _)| !self.known.contains(&key.text.as_str()))
    }

    fn has(&self, key: &str) -> bool {
        self.entries.iter().any(|(k, _)| k.text == key)
    }
}

impl<'a> Reader<'a> {
    fn new(source: &Arc<Source>, files: &'a Files<'a>) -> Self {
        Reader {
            source: Arc::clone(source),
            files,
            diagnostics: Vec::new(),
            hosts: BTreeMap::new(),
            lans: BTreeMap::new(),
            known: Known::default(),
            loads: BTreeMap::new(),
            topology: Topology::default(),
            unchecked: false,
        }
    }
}

impl Reader<'_> {
    fn error(&mut self, diagnostic: Diagnostic) {
        // A file of nonsense should not print a book.
        if self.diagnostics.len() < 100 {
            self.diagnostics.push(diagnostic);
        }
    }

    /// A mapping; `span` is what to underline when the mapping as a whole is wrong, usually its key.
    fn fields<'n>(&mut self, what: &'static str, node: &'n Node, span: &Span) -> Option<Fields<'n>> {
        match &node.value {
            Value::Map(entries) => Some(Fields { what, span: span.clone(), entries, known: Vec::new() }),
            Value::Null => {
                self.error(Diagnostic::new(format!("{what} is empty"), span).label("a mapping is expected here"));
                None
            }
            _ => {
                let message = format!("{what} must be a mapping, this is {}", node.kind());
                self.error(Diagnostic::new(message, &node.span));
                None
            }
        }
    }

    /// The value of an optional key. A key without value is a slip, not an absent key.
    fn optional<'n>(&mut self, fields: &mut Fields<'n>, key: &'static str) -> Option<&'n Node> {
        fields.known.push(key);
        let (written, node) = fields.entries.iter().find(|(k, _)| k.text == key)?;
        if matches!(node.value, Value::Null) {
            let diagnostic = Diagnostic::new(format!("`{key}` has no value"), &written.span);
            self.error(diagnostic.help(format!("give `{key}` a value or leave the line out")));
            return None;
        }
        Some(node)
    }

    /// The value of a key that must be there.
    fn required<'n>(&mut self, fields: &mut Fields<'n>, key: &'static str) -> Option<&'n Node> {
        if !fields.has(key) {
            fields.known.push(key);
            self.error(Diagnostic::new(format!("{} needs `{key}`", fields.what), &fields.span));
            return None;
        }
        self.optional(fields, key)
    }

    /// Reports the keys nobody asked for.
    fn finish(&mut self, fields: Fields<'_>) {
        for (key, _) in fields.others() {
            self.unknown_key(key, fields.what, &fields.known);
        }
    }

    fn unknown_key(&mut self, key: &Key, what: &str, allowed: &[&str]) {
        let mut diagnostic = Diagnostic::new(format!("{what} has no key `{}`", key.text), &key.span);
        if let Some(near) = nearest(&key.text, allowed.iter().copied()) {
            diagnostic = diagnostic.label(format!("did you mean `{near}`?"));
        }
        let mut sorted = allowed.to_vec();
        sorted.sort_unstable();
        sorted.dedup();
        self.error(diagnostic.help(format!("allowed here: {}", sorted.join(", "))));
    }

    fn scenario(&mut self, root: &Node) -> Option<Scenario> {
        let mut fields = self.fields("a scenario", root, &root.span)?;
        let name = self.required(&mut fields, "name").and_then(|node| self.text(node));
        if let Some(name) = &name
            && name.trim().is_empty()
        {
            self.error(Diagnostic::new("the name is empty", &fields.span_of("name")));
        }
        let description = self.optional(&mut fields, "description").and_then(|node| self.text(node));
        let needs = self.optional(&mut fields, "needs");
        let needs = needs.map(|node| self.list(node, Self::text)).unwrap_or_default();
        let topology_span = fields.span_of("topology");
        if let Some(node) = self.required(&mut fields, "topology") {
            self.read_topology(node, &topology_span);
        }
        let services = self.optional(&mut fields, "services");
        let services_span = fields.span_of("services");
        let services = services.and_then(|node| self.services(node, &services_span));
        let timing = self.optional(&mut fields, "timing");
        let timing_span = fields.span_of("timing");
        let timing = timing.and_then(|node| self.timing(node, &timing_span)).unwrap_or_default();
        let api_span = fields.span_of("apiServer");
        let api_server = self.optional(&mut fields, "apiServer").and_then(|node| self.api_server(node, &api_span));
        let flags = self.optional(&mut fields, "flags").map(|node| self.flags(node)).unwrap_or_default();
        let objects = self.optional(&mut fields, "objects");
        let steps = self.required(&mut fields, "steps");
        self.finish(fields);

        // Objects of later steps are gathered first: a step may name what an earlier one creates.
        let objects = objects.map(|node| self.objects(node)).unwrap_or_default();
        let items: &[Node] = match steps.map(|node| (&node.value, node)) {
            Some((Value::List(items), _)) => items,
            Some((_, node)) => {
                let message = format!("`steps` must be a list, this is {}", node.kind());
                self.error(
                    Diagnostic::new(message, &node.span).help("write each step as `- until: {within: 30s, ...}`"),
                );
                &[]
            }
            None => &[],
        };
        let applied: Vec<_> = items.iter().map(|item| item.get("apply").map(|node| self.objects(node))).collect();
        let mut read = Vec::new();
        for (item, applied) in items.iter().zip(applied) {
            read.extend(self.step(item, applied));
        }
        Some(Scenario {
            source: Arc::clone(&self.source),
            name: name?,
            description,
            needs,
            topology: self.topology.clone(),
            services: services.unwrap_or_else(|| self.default_services()),
            timing,
            api_server,
            flags,
            objects,
            steps: read,
        })
    }

    fn services(&mut self, node: &Node, span: &Span) -> Option<Services> {
        let mut fields = self.fields("`services`", node, span)?;
        let cidrs = self.required(&mut fields, "cidrs").map(|node| self.list(node, Self::cidr));
        self.finish(fields);
        Some(Services { cidrs: cidrs? })
    }

    /// kubeadm's range, and the one xcluster uses for IPv6 where the topology has IPv6.
    fn default_services(&self) -> Services {
        let v4: [u8; 4] = [10, 96, 0, 0];
        let v6: [u16; 8] = [0xfd00, 0x4000, 0, 0, 0, 0, 0, 0];
        let subnets = self.topology.lans.values().flat_map(|lan| &lan.subnets);
        let pods = self.topology.nodes.values().flat_map(|node| &node.pod_cidrs);
        let (mut has_v4, mut has_v6) = (false, false);
        for block in subnets.chain(pods) {
            let four = block.addr().is_ipv4();
            (has_v4, has_v6) = (has_v4 || four, has_v6 || !four);
        }
        let mut cidrs = Vec::new();
        // A topology without any address gets the IPv4 range, as the API server would.
        if has_v4 || !has_v6 {
            cidrs.push(ipnet::IpNet::new_assert(v4.into(), 12));
        }
        if has_v6 {
            cidrs.push(ipnet::IpNet::new_assert(v6.into(), 112));
        }
        Services { cidrs }
    }

    fn timing(&mut self, node: &Node, span: &Span) -> Option<Timing> {
        let mut fields = self.fields("`timing`", node, span)?;
        let mut timing = Timing::default();
        let ranges =
            [("watchLag", &mut timing.watch_lag), ("podStart", &mut timing.pod_start), ("probe", &mut timing.probe)];
        for (key, range) in ranges {
            if let Some(read) = self.optional(&mut fields, key).and_then(|node| self.range(node)) {
                *range = read;
            }
        }
        for (key, time) in [("nodeGrace", &mut timing.node_grace), ("eviction", &mut timing.eviction)] {
            if let Some(read) = self.optional(&mut fields, key).and_then(|node| self.duration(node)) {
                *time = read;
            }
        }
        self.finish(fields);
        Some(timing)
    }
}
