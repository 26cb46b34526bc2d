//! Steps: one action each, with its own keys.

use ipnet::IpNet;
use std::time::Duration;

use regex_lite::{Regex, RegexBuilder};

use super::{Fields, Reader};
use crate::diagnostic::Diagnostic;
use crate::fault::{ApiServer, Fault, KernelFail, Misbehaviour, Plane, PodPick};
use crate::scenario::{Objects, Software};
use crate::source::Span;
use crate::stage::{LoadMode, LoadRequest, MconnectRequest, TraceRequest};
use crate::step::{Action, Ask, Lapse, Origin, Protocol, Step};
use crate::text::nearest;
use crate::yaml::{Key, Node, Value};

/// All actions; `expect` and `show` may also stand beside another one.
const ACTIONS: &[&str] = &[
    "until", "expect", "show", "mconnect", "load", "measure", "stop", "pass", "apply", "delete", "scale", "patch",
    "fault", "trace", "ask",
];

/// All faults.
const FAULTS: &[&str] = &[
    "apiServer",
    "registerNode",
    "killAgent",
    "startAgent",
    "restartAgent",
    "cut",
    "heal",
    "linkDown",
    "linkUp",
    "unplug",
    "addAddress",
    "renameLink",
    "plug",
    "addRoute",
    "deleteRoute",
    "powerOff",
    "powerOn",
    "drain",
    "cordon",
    "uncordon",
    "deleteNode",
    "deletePod",
    "notReady",
    "ready",
    "flapBgp",
    "adminDown",
    "adminUp",
    "policy",
    "kernel",
    "tamper",
];

impl Reader<'_> {
    /// A word, or a mapping of misbehaviour.
    pub(super) fn api_server(&mut self, node: &Node, span: &Span) -> Option<ApiServer> {
        if !matches!(node.value, Value::Map(_)) {
            return self.word(node, "state of an API server", ApiServer::WORDS);
        }
        let mut fields = self.fields("`apiServer`", node, span)?;
        let mut how = Misbehaviour::NONE;
        for (key, time) in [("slow", &mut how.slow), ("reorder", &mut how.reorder)] {
            if let Some(node) = self.optional(&mut fields, key) {
                *time = self.duration(node).unwrap_or_default();
            }
        }
        let chances = [
            ("disconnect", &mut how.disconnect),
            ("stale", &mut how.stale),
            ("duplicate", &mut how.duplicate),
            ("tooManyRequests", &mut how.too_many),
            ("internalError", &mut how.internal),
            ("gone", &mut how.gone),
        ];
        for (key, chance) in chances {
            if let Some(node) = self.optional(&mut fields, key) {
                *chance = self.number(node, 0, 100).unwrap_or_default();
            }
        }
        self.finish(fields);
        Some(ApiServer::Misbehaves(how))
    }

    /// A duration, or `{virtual: 1h, real: 20s}`.
    fn lapse(&mut self, node: &Node) -> Option<Lapse> {
        if let Value::Map(_) = node.value {
            let mut fields = self.fields("a duration by stage", node, &node.span)?;
            let in_memory = self.required(&mut fields, "virtual").and_then(|node| self.duration(node));
            let real = self.required(&mut fields, "real").and_then(|node| self.duration(node));
            self.finish(fields);
            return Some(Lapse { in_memory: in_memory?, real: real? });
        }
        self.duration(node).map(|time| Lapse { in_memory: time, real: time })
    }

    pub(super) fn step(&mut self, node: &Node, applied: Option<Vec<Objects>>) -> Option<Step> {
        let mut fields = self.fields("a step", node, &node.span)?;
        let name = self.optional(&mut fields, "name").and_then(|node| self.text(node));
        let title = self.optional(&mut fields, "title").and_then(|node| self.text(node));
        let is_action = |key: &Key| ACTIONS.contains(&key.text.as_str());
        let actions: Vec<&(Key, Node)> = fields.entries.iter().filter(|(key, _)| is_action(key)).collect();
        let main: Vec<&&(Key, Node)> =
            actions.iter().filter(|(key, _)| !matches!(key.text.as_str(), "expect" | "show")).collect();
        let (key, value) = match (main.as_slice(), actions.as_slice()) {
            ([one], _) => **one,
            ([first, second, ..], _) => {
                let message = format!("a step does one thing, this one has `{}` and `{}`", first.0.text, second.0.text);
                let diagnostic = Diagnostic::new(message, &second.0.span).also(&first.0.span, "the first one");
                self.error(diagnostic.help("make two steps of it"));
                return None;
            }
            ([], [first, ..]) => actions.iter().copied().find(|(key, _)| key.text == "expect").unwrap_or(first),
            ([], []) => {
                self.no_action(&fields);
                return None;
            }
        };
        fields.known.extend(ACTIONS);
        if matches!(value.value, Value::Null) {
            self.error(Diagnostic::new(format!("`{}` has no value", key.text), &key.span));
            return None;
        }
        let alone = key.text == "expect" || key.text == "show";
        let expect = if alone { None } else { self.optional(&mut fields, "expect") };
        let expect_span = fields.span_of("expect");
        let show = if key.text == "show" { None } else { self.optional(&mut fields, "show") };
        let show = show.and_then(|node| self.show(node, &fields.span_of("show")));
        self.finish(fields);
        let expect = expect.map(|node| (node, &expect_span));
        let judged = ["mconnect", "measure", "stop", "trace"];
        if let Some((_, span)) = expect
            && !judged.contains(&key.text.as_str())
        {
            let message = format!("`{}` gives nothing that `expect` could judge", key.text);
            let help = format!("`expect` goes with {}, or is a step of its own", judged.join(", "));
            self.error(Diagnostic::new(message, span).help(help));
        }
        let action = self.action(key, value, expect, applied)?;
        Some(Step { name, title, action, show, span: key.span.clone() })
    }

    fn no_action(&mut self, fields: &Fields<'_>) {
        match fields.others().next() {
            Some((key, _)) => {
                let mut diagnostic = Diagnostic::new(format!("there is no step `{}`", key.text), &key.span);
                if let Some(near) = nearest(&key.text, ACTIONS.iter().copied()) {
                    diagnostic = diagnostic.label(format!("did you mean `{near}`?"));
                }
                self.error(diagnostic.help(format!("there is: {}", ACTIONS.join(", "))));
            }
            None => {
                let diagnostic = Diagnostic::new("this step does nothing", &fields.span);
                self.error(diagnostic.help(format!("give it one of: {}", ACTIONS.join(", "))));
            }
        }
    }

    fn action(
        &mut self,
        key: &Key,
        value: &Node,
        expect: Option<(&Node, &Span)>,
        applied: Option<Vec<Objects>>,
    ) -> Option<Action> {
        Some(match key.text.as_str() {
            "until" => {
                let mut fields = self.fields("`until`", value, &key.span)?;
                let within = self.required(&mut fields, "within").and_then(|node| self.duration(node));
                let conditions = self.conditions(fields);
                Action::Until { within: within?, conditions }
            }
            "expect" => {
                let fields = self.fields("`expect`", value, &key.span)?;
                Action::Expect(self.conditions(fields))
            }
            "show" => Action::Show(self.show(value, &key.span)?),
            "mconnect" => {
                let request = self.mconnect(value, &key.span);
                let expect = self.load_expect(expect);
                Action::Mconnect { request: request?, expect }
            }
            "load" => Action::Load(self.load(value, &key.span)?),
            "measure" => {
                let mut fields = self.fields("`measure`", value, &key.span)?;
                let load = self.required(&mut fields, "load").and_then(|node| self.running_load(node));
                let duration = self.required(&mut fields, "for").and_then(|node| self.lapse(node));
                self.finish(fields);
                let expect = self.load_expect(expect);
                Action::Measure { load: load?, duration: duration?, expect }
            }
            "stop" => {
                let load = self.running_load(value);
                if let Some(load) = &load {
                    self.loads.insert(load.clone(), false);
                }
                let expect = self.load_expect(expect);
                Action::Stop { load: load?, expect }
            }
            "pass" => Action::Pass(self.lapse(value)?),
            // Read beforehand, with its mistakes.
            "apply" => Action::Apply(applied.unwrap_or_default()),
            "delete" => {
                let mut fields = self.fields("`delete`", value, &key.span)?;
                let object = self.object(&mut fields);
                self.finish(fields);
                let (kind, namespace, name) = object?;
                Action::Delete { kind, namespace, name }
            }
            "scale" => {
                let mut fields = self.fields("`scale`", value, &key.span)?;
                let namespace = self.namespace(&mut fields);
                let node = self.required(&mut fields, "deployment");
                let replicas = self.required(&mut fields, "replicas").and_then(|node| self.number(node, 0, 100_000));
                self.finish(fields);
                let (node, (in_name, deployment)) = (node?, node.and_then(|node| self.object_name(node))?);
                let namespace = namespace.unwrap_or(in_name);
                self.known_object(node, "Deployment", &namespace, &deployment)?;
                Action::Scale { namespace, deployment, replicas: replicas? }
            }
            "patch" => {
                let mut fields = self.fields("`patch`", value, &key.span)?;
                let object = self.object(&mut fields);
                let merge = self.required(&mut fields, "merge");
                let merge_span = fields.span_of("merge");
                self.finish(fields);
                let merge = merge.and_then(|node| self.fields("`merge`", node, &merge_span).map(|_| node.json()));
                let (kind, namespace, name) = object?;
                Action::Patch { kind, namespace, name, merge: merge? }
            }
            "fault" => Action::Fault(self.fault(value, &key.span)?),
            "trace" => {
                let request = self.trace_request(value, &key.span);
                let expect = self.trace_expect(expect);
                Action::Trace { request: request?, expect }
            }
            "ask" => Action::Ask(self.ask(value, &key.span)?),
            _ => return None,
        })
    }

    fn ask(&mut self, node: &Node, span: &Span) -> Option<Ask> {
        let mut fields = self.fields("`ask`", node, span)?;
        let on = self.required(&mut fields, "on").and_then(|node| self.speaker(node));
        let software = self.optional(&mut fields, "as");
        let software = software.map(|node| self.word(node, "software", Software::NAMES));
        let run = self.required(&mut fields, "run").and_then(|node| self.text(node));
        let contains = self.optional(&mut fields, "contains").map(|node| self.list(node, Self::text));
        let matches = self.optional(&mut fields, "matches").map(|node| self.list(node, Self::regex));
        let absent = self.optional(&mut fields, "absent").map(|node| self.list(node, Self::text));
        let within = self.optional(&mut fields, "within").map(|node| self.duration(node));
        let judged = ["contains", "matches", "absent"];
        if !judged.iter().any(|key| fields.has(key)) {
            let diagnostic = Diagnostic::new("`ask` judges nothing", &fields.span);
            self.error(diagnostic.help(format!("one or more of: {}", judged.join(", "))));
        }
        let unknown = fields.span.clone();
        self.finish(fields);
        let on = on?;
        let software = match software {
            Some(software) => software?,
            None => match self.topology.routers.get(&on) {
                None => Software::Fairway,
                Some(router) => match router.software {
                    Some(software) => software,
                    None => {
                        let diagnostic = Diagnostic::new("`ask` needs `as`", &unknown);
                        let help = format!("`{on}` names no `software`, so say whose tool is asked: `as: bird`");
                        self.error(diagnostic.help(help));
                        return None;
                    }
                },
            },
        };
        Some(Ask {
            on,
            software,
            run: run?,
            contains: contains.unwrap_or_default(),
            matches: matches.unwrap_or_default(),
            absent: absent.unwrap_or_default(),
            within: within.unwrap_or(Some(Duration::ZERO))?,
        })
    }

    /// A regular expression; `^` and `$` are the ends of a line.
    fn regex(&mut self, node: &Node) -> Option<Regex> {
        let text = self.text(node)?;
        match RegexBuilder::new(&text).multi_line(true).build() {
            Ok(regex) => Some(regex),
            Err(error) => {
                let message = format!("`{text}` is not a regular expression");
                self.error(Diagnostic::new(message, &node.span).help(error.to_string()));
                None
            }
        }
    }

    pub(super) fn trace_request(&mut self, node: &Node, span: &Span) -> Option<TraceRequest> {
        let mut fields = self.fields("`trace`", node, span)?;
        let from = self.required(&mut fields, "from").and_then(|node| self.origin(node));
        let to = self.required(&mut fields, "to").and_then(|node| self.target(node));
        let protocol = self.optional(&mut fields, "protocol").map(|node| self.protocol(node));
        self.finish(fields);
        Some(TraceRequest { from: from?, to: to?, protocol: protocol.unwrap_or(Some(Protocol::Tcp))? })
    }

    fn namespace(&mut self, fields: &mut Fields<'_>) -> Option<String> {
        self.optional(fields, "namespace").and_then(|node| self.text(node))
    }

    /// `kind`, `namespace` and `name` of an object the scenario creates.
    fn object(&mut self, fields: &mut Fields<'_>) -> Option<(String, String, String)> {
        let kind = self.required(fields, "kind").and_then(|node| self.kind(node));
        let namespace = self.namespace(fields);
        let node = self.required(fields, "name");
        let (in_name, name) = node.and_then(|node| self.object_name(node))?;
        let (kind, namespace) = (kind?, namespace.unwrap_or(in_name));
        self.known_object(node?, &kind, &namespace, &name)?;
        Some((kind, namespace, name))
    }

    /// A host, or a mapping that picks a pod.
    fn origin(&mut self, node: &Node) -> Option<Origin> {
        if !matches!(node.value, Value::Map(_)) {
            return self.host(node).map(Origin::Host);
        }
        let mut fields = self.fields("`from`", node, &node.span)?;
        let on = self.optional(&mut fields, "podOn").map(|node| self.node_name(node));
        let name = self.optional(&mut fields, "pod").map(|node| self.object_name(node));
        let index = self.optional(&mut fields, "index").map(|node| self.number(node, 0, 100_000));
        let namespace = self.namespace(&mut fields);
        if on.is_none() && name.is_none() {
            let diagnostic = Diagnostic::new("`from` needs `podOn` or `pod`", &fields.span);
            self.error(diagnostic.help("write a host, `{podOn: vm-001}` or `{pod: mconnect}`"));
        }
        self.finish(fields);
        let (in_name, name) = match name {
            Some(name) => name?,
            None => ("default".to_owned(), String::new()),
        };
        let on = match on {
            Some(on) => Some(on?),
            None => None,
        };
        let index = index.unwrap_or(Some(0))?;
        let index = usize::try_from(index).ok()?;
        Some(Origin::Pod { namespace: namespace.unwrap_or(in_name), name, on, index })
    }

    fn mconnect(&mut self, node: &Node, span: &Span) -> Option<MconnectRequest> {
        let mut fields = self.fields("`mconnect`", node, span)?;
        let from = self.required(&mut fields, "from").and_then(|node| self.origin(node));
        let address = self.required(&mut fields, "address").and_then(|node| self.target(node));
        let nconn = self.optional(&mut fields, "nconn").map(|node| self.number(node, 1, 1_000_000));
        let udp = self.optional(&mut fields, "udp").and_then(|node| self.boolean(node));
        let srccidr = self.optional(&mut fields, "srccidr").and_then(|node| self.cidr(node));
        let timeout = self.optional(&mut fields, "timeout").and_then(|node| self.duration(node));
        let concurrent = self.optional(&mut fields, "maxconcurrent").map(|node| self.number(node, 1, 100_000));
        let keep = self.optional(&mut fields, "keep").and_then(|node| self.boolean(node));
        self.finish(fields);
        Some(MconnectRequest {
            from: from?,
            address: address?,
            nconn: nconn.unwrap_or(Some(1))?,
            udp: udp.unwrap_or(false),
            srccidr,
            timeout,
            max_concurrent: concurrent.unwrap_or(Some(64))?,
            keep: keep.unwrap_or(false),
        })
    }

    fn load(&mut self, node: &Node, span: &Span) -> Option<LoadRequest> {
        let mut fields = self.fields("`load`", node, span)?;
        let as_node = self.required(&mut fields, "as");
        let name = as_node.and_then(|node| self.text(node));
        let from = self.required(&mut fields, "from").and_then(|node| self.origin(node));
        let address = self.required(&mut fields, "address").and_then(|node| self.target(node));
        let udp = self.optional(&mut fields, "udp").and_then(|node| self.boolean(node));
        let srccidr = self.optional(&mut fields, "srccidr").and_then(|node| self.cidr(node));
        let timeout = self.optional(&mut fields, "timeout").map(|node| self.duration(node));
        let rate = self.optional(&mut fields, "rate").map(|node| self.number(node, 1, 100_000));
        let keep = self.optional(&mut fields, "keep").map(|node| self.number(node, 1, 100_000));
        let mode = match (rate, keep) {
            (Some(rate), None) => rate.map(LoadMode::Rate),
            (None, Some(keep)) => keep.map(LoadMode::Keep),
            _ => {
                let diagnostic = Diagnostic::new("`load` needs one of `rate` and `keep`", &fields.span);
                self.error(
                    diagnostic.help("`rate: 100` is 100 new connections per second, `keep: 100` are 100 long ones"),
                );
                None
            }
        };
        self.finish(fields);
        if let (Some(name), Some(node)) = (&name, as_node) {
            if self.loads.get(name) == Some(&true) {
                self.error(Diagnostic::new(format!("a load `{name}` is already running"), &node.span));
            }
            self.loads.insert(name.clone(), true);
        }
        Some(LoadRequest {
            name: name?,
            from: from?,
            address: address?,
            udp: udp.unwrap_or(false),
            srccidr,
            mode: mode?,
            timeout: timeout.unwrap_or(Some(Duration::from_secs(2)))?,
        })
    }

    /// The name of a load that an earlier step started and no step has stopped.
    fn running_load(&mut self, node: &Node) -> Option<String> {
        let text = node.text().unwrap_or_default();
        match self.loads.get(text) {
            Some(true) => Some(text.to_owned()),
            Some(false) => {
                self.error(Diagnostic::new(format!("load `{text}` is stopped by an earlier step"), &node.span));
                None
            }
            None => {
                let loads = self.loads.clone();
                let running: Vec<&str> =
                    loads.iter().filter(|(_, running)| **running).map(|(name, _)| name.as_str()).collect();
                self.unknown(node, "load", &running);
                None
            }
        }
    }

    fn fault(&mut self, node: &Node, span: &Span) -> Option<Fault> {
        let fields = self.fields("`fault`", node, span)?;
        let (key, value) = match fields.entries {
            [one] => one,
            [] => {
                self.error(Diagnostic::new("`fault` is empty", span).help(format!("one of: {}", FAULTS.join(", "))));
                return None;
            }
            [_, (second, _), ..] => {
                let diagnostic = Diagnostic::new("a fault step makes one fault", &second.span);
                self.error(diagnostic.help("make two steps of it"));
                return None;
            }
        };
        if matches!(value.value, Value::Null) {
            self.error(Diagnostic::new(format!("`{}` has no value", key.text), &key.span));
            return None;
        }
        Some(match key.text.as_str() {
            "apiServer" => Fault::ApiServer(self.api_server(value, &key.span)?),
            "registerNode" => Fault::RegisterNode(self.node_name(value)?),
            "killAgent" => Fault::KillAgent(self.speaker(value)?),
            "startAgent" => Fault::StartAgent(self.speaker(value)?),
            "restartAgent" => Fault::RestartAgent(self.speaker(value)?),
            kind @ ("cut" | "heal" | "linkDown" | "linkUp" | "unplug" | "plug") => {
                let mut fields = self.fields("this fault", value, &key.span)?;
                let host = self.required(&mut fields, "host").and_then(|node| self.host(node));
                let lan_node = self.required(&mut fields, "lan");
                let lan = lan_node.and_then(|node| self.lan(node));
                self.finish(fields);
                let (host, lan) = (host?, lan?);
                if let (Some(lans), Some(node)) = (self.topology.addresses(&host), lan_node)
                    && !lans.contains_key(&lan)
                {
                    let has: Vec<&str> = lans.keys().map(String::as_str).collect();
                    let help = format!("it is on: {}", has.join(", "));
                    self.error(Diagnostic::new(format!("`{host}` is not on LAN `{lan}`"), &node.span).help(help));
                }
                match kind {
                    "cut" => Fault::Cut { host, lan },
                    "heal" => Fault::Heal { host, lan },
                    "linkDown" => Fault::LinkDown { host, lan },
                    "linkUp" => Fault::LinkUp { host, lan },
                    "unplug" => Fault::Unplug { host, lan },
                    _ => Fault::Plug { host, lan },
                }
            }
            "addAddress" => {
                let mut fields = self.fields("`addAddress`", value, &key.span)?;
                let host = self.required(&mut fields, "host").and_then(|node| self.host(node));
                let lan = self.required(&mut fields, "lan").and_then(|node| self.lan(node));
                let address_node = self.required(&mut fields, "address");
                let address = address_node.and_then(|node| self.address(node));
                self.finish(fields);
                let (host, lan, address) = (host?, lan?, address?);
                let subnets = self.topology.lans.get(&lan).into_iter().flat_map(|lan| &lan.subnets);
                let length = subnets.filter(|net| net.contains(&address)).map(|net| net.prefix_len()).next();
                let Some(address) = length.and_then(|length| IpNet::new(address, length).ok()) else {
                    let span = address_node.map_or(&key.span, |node| &node.span);
                    self.error(Diagnostic::new(format!("no subnet of LAN `{lan}` holds {address}"), span));
                    return None;
                };
                Fault::AddAddress { host, lan, address }
            }
            "renameLink" => {
                let mut fields = self.fields("`renameLink`", value, &key.span)?;
                let on = self.required(&mut fields, "on").and_then(|node| self.host(node));
                let from = self.required(&mut fields, "from").and_then(|node| self.text(node));
                let to = self.required(&mut fields, "to").and_then(|node| self.text(node));
                self.finish(fields);
                Fault::RenameLink { on: on?, from: from?, to: to? }
            }
            "addRoute" => {
                let mut fields = self.fields("`addRoute`", value, &key.span)?;
                let on = self.required(&mut fields, "on").and_then(|node| self.host(node));
                let to = self.required(&mut fields, "to").and_then(|node| self.cidr(node));
                let via = self.required(&mut fields, "via").and_then(|node| self.address(node));
                self.finish(fields);
                Fault::AddRoute { on: on?, to: to?, via: via? }
            }
            "deleteRoute" => {
                let mut fields = self.fields("`deleteRoute`", value, &key.span)?;
                let on = self.required(&mut fields, "on").and_then(|node| self.host(node));
                let to = self.required(&mut fields, "to").and_then(|node| self.cidr(node));
                self.finish(fields);
                Fault::DeleteRoute { on: on?, to: to? }
            }
            "powerOff" => Fault::PowerOff(self.host(value)?),
            "powerOn" => Fault::PowerOn(self.host(value)?),
            "drain" => Fault::Drain(self.node_name(value)?),
            "cordon" => Fault::Cordon(self.node_name(value)?),
            "uncordon" => Fault::Uncordon(self.node_name(value)?),
            "deleteNode" => Fault::DeleteNode(self.node_name(value)?),
            "deletePod" => Fault::DeletePod(self.pods(value, key)?),
            "notReady" => Fault::NotReady(self.pods(value, key)?),
            "ready" => Fault::Ready(self.pods(value, key)?),
            word @ ("flapBgp" | "adminDown" | "adminUp") => {
                let mut fields = self.fields("a BGP session", value, &key.span)?;
                let on = self.required(&mut fields, "on").and_then(|node| self.speaker(node));
                let peer = self.required(&mut fields, "peer");
                let message = match word {
                    "adminDown" => self.optional(&mut fields, "message").map(|node| self.text(node)),
                    _ => None,
                };
                self.finish(fields);
                let on = on?;
                let peer = self.peer(peer?, &on)?;
                match word {
                    "flapBgp" => Fault::FlapBgp { on, peer },
                    "adminUp" => Fault::AdminUp { on, peer },
                    _ => Fault::AdminDown { on, peer, message: message.unwrap_or(Some(String::new()))? },
                }
            }
            "policy" => {
                let mut fields = self.fields("`policy`", value, &key.span)?;
                let on = self.required(&mut fields, "on").and_then(|node| self.router_name(node));
                let reject = self.required(&mut fields, "reject").map(|node| self.list(node, Self::cidr));
                self.finish(fields);
                Fault::Policy { on: on?, reject: reject? }
            }
            "kernel" => {
                let mut fields = self.fields("`kernel`", value, &key.span)?;
                let on = self.required(&mut fields, "on").and_then(|node| self.node_name(node));
                let plane = self.required(&mut fields, "plane").and_then(|node| self.word(node, "plane", Plane::NAMES));
                let fail = self.required(&mut fields, "fail");
                let fail = fail.and_then(|node| self.word(node, "kernel failure", KernelFail::NAMES));
                let times = self.optional(&mut fields, "times").map(|node| self.number(node, 1, 1_000_000));
                self.finish(fields);
                Fault::Kernel { on: on?, plane: plane?, fail: fail?, times: times.unwrap_or(Some(1))? }
            }
            "tamper" => {
                let mut fields = self.fields("`tamper`", value, &key.span)?;
                let on = self.required(&mut fields, "on").and_then(|node| self.node_name(node));
                // Plural words read better after "delete"; the plane's own name is understood too.
                let mut words = vec![
                    ("links", Plane::Link),
                    ("addresses", Plane::Addr),
                    ("rules", Plane::Rule),
                    ("routes", Plane::Route),
                    ("virtual-servers", Plane::Ipvs),
                ];
                words.extend(Plane::NAMES);
                let plane =
                    self.required(&mut fields, "delete").and_then(|node| self.word(node, "kernel state", &words));
                self.finish(fields);
                Fault::Tamper { on: on?, plane: plane? }
            }
            _ => {
                let mut diagnostic = Diagnostic::new(format!("there is no fault `{}`", key.text), &key.span);
                if let Some(near) = nearest(&key.text, FAULTS.iter().copied()) {
                    diagnostic = diagnostic.label(format!("did you mean `{near}`?"));
                }
                self.error(diagnostic.help(format!("there is: {}", FAULTS.join(", "))));
                return None;
            }
        })
    }

    fn pods(&mut self, node: &Node, key: &Key) -> Option<PodPick> {
        let mut fields = self.fields("a choice of pods", node, &key.span)?;
        let on = self.optional(&mut fields, "on").map(|node| self.node_name(node));
        let name = self.optional(&mut fields, "name").map(|node| self.object_name(node));
        let count = self.optional(&mut fields, "count").map(|node| self.number(node, 1, 100_000));
        let namespace = self.namespace(&mut fields);
        if on.is_none() && name.is_none() {
            let diagnostic = Diagnostic::new(format!("`{}` needs `on` or `name`", key.text), &key.span);
            self.error(diagnostic.help("write `{on: vm-002}` or `{name: mconnect}`, the beginning of the pod's name"));
        }
        self.finish(fields);
        let (in_name, name) = match name {
            Some(name) => name.map(|(namespace, name)| (Some(namespace), Some(name)))?,
            None => (None, None),
        };
        let on = match on {
            Some(on) => Some(on?),
            None => None,
        };
        let count = match count {
            Some(count) => Some(usize::try_from(count?).ok()?),
            None => None,
        };
        let namespace = namespace.or(in_name).unwrap_or_else(|| "default".to_owned());
        Some(PodPick { namespace, on, name, count })
    }

    /// A BGP peer: its address, or a host, which means the first address on a LAN both are on.
    pub(super) fn peer(&mut self, node: &Node, on: &str) -> Option<std::net::IpAddr> {
        if let Some(address) = node.text().and_then(|text| text.parse().ok()) {
            return Some(address);
        }
        let host = self.host(node)?;
        let (mine, theirs) = (self.topology.addresses(on), self.topology.addresses(&host));
        let shared = mine.zip(theirs).and_then(|(mine, theirs)| {
            theirs.iter().find(|(lan, addresses)| mine.contains_key(*lan) && !addresses.is_empty())
        });
        match shared.and_then(|(_, addresses)| addresses.first()) {
            Some(address) => Some(*address),
            None => {
                self.error(Diagnostic::new(format!("`{on}` and `{host}` share no LAN"), &node.span));
                None
            }
        }
    }
}
