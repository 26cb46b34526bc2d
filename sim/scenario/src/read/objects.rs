//! Files and inline mappings of Kubernetes objects. Only kind and name are looked at: whether an object makes sense is
//! a question to the stage, and a broken one may be the point of a scenario.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use super::Reader;
use crate::diagnostic::Diagnostic;
use crate::scenario::Objects;
use crate::source::Source;
use crate::text::nearest;
use crate::yaml::{self, Node, Value};

/// Kinds that steps may name.
const KINDS: &[&str] = &[
    "ConfigMap",
    "Deployment",
    "EndpointSlice",
    "Endpoints",
    "Namespace",
    "NetworkPolicy",
    "Node",
    "Pod",
    "ReplicaSet",
    "Secret",
    "Service",
];

/// Kinds whose objects only a scenario makes. Objects of other kinds are also made by the cluster itself (pods,
/// slices), so nothing can be said about their names beforehand.
const CHECKED: &[&str] = &["Service", "Deployment", "NetworkPolicy"];

/// Objects that the scenario creates at any time: `(kind, namespace, name)`.
#[derive(Debug, Default)]
pub(super) struct Known {
    objects: BTreeSet<(String, String, String)>,
    /// A file could not be read: any name may be in it.
    incomplete: bool,
}

impl Known {
    fn gather(&mut self, document: &Node) {
        let text = |node: Option<&Node>| node.and_then(|node| node.text().map(str::to_owned));
        if let Some(Value::List(items)) = document.get("items").map(|node| &node.value) {
            for item in items {
                self.gather(item);
            }
        }
        let metadata = document.get("metadata");
        let (Some(kind), Some(name)) = (text(document.get("kind")), text(metadata.and_then(|m| m.get("name")))) else {
            return;
        };
        let namespace = text(metadata.and_then(|m| m.get("namespace")));
        self.objects.insert((kind, namespace.unwrap_or_else(|| "default".to_owned()), name));
    }
}

impl Reader<'_> {
    /// File names and inline mappings, one or a list of them.
    pub(super) fn objects(&mut self, node: &Node) -> Vec<Objects> {
        self.list(node, |reader, node| match &node.value {
            Value::Map(_) => {
                reader.known.gather(node);
                // JSON is YAML, and is free of the indentation and anchors of the file around it.
                let name = format!("{}:{}", node.span.source.name, node.span.line);
                Some(Objects { name, yaml: node.json().to_string() })
            }
            Value::Text(file) => reader.object_file(file, node),
            _ => {
                let message = format!("objects are a file name or a mapping, this is {}", node.kind());
                reader.error(Diagnostic::new(message, &node.span));
                None
            }
        })
    }

    fn object_file(&mut self, file: &str, node: &Node) -> Option<Objects> {
        let text = match (self.files)(file) {
            Ok(text) => text,
            Err(error) => {
                let why = match error.kind() {
                    std::io::ErrorKind::NotFound => "there is no such file".to_owned(),
                    _ => error.to_string(),
                };
                let diagnostic = Diagnostic::new(format!("cannot read `{file}`"), &node.span).label(why);
                let help = format!("the path is relative to the folder of {}", self.source.name);
                self.error(diagnostic.help(help));
                self.known.incomplete = true;
                return None;
            }
        };
        // For messages the path is seen from where the scenario file was named.
        let path = Path::new(&self.source.name).parent().map(|folder| folder.join(file));
        let path = path.map_or_else(|| file.to_owned(), |path| path.display().to_string());
        let source = Arc::new(Source { name: path, text });
        match yaml::documents(&source) {
            Ok(documents) => documents.iter().for_each(|document| self.known.gather(document)),
            Err(diagnostic) => {
                self.error(diagnostic.help(format!("named at {}", node.span.place())));
                self.known.incomplete = true;
                return None;
            }
        }
        Some(Objects { name: file.to_owned(), yaml: source.text.clone() })
    }

    /// Checks a kind a step names.
    pub(super) fn kind(&mut self, node: &Node) -> Option<String> {
        let text = self.text(node)?;
        if KINDS.contains(&text.as_str()) || self.known.objects.iter().any(|(kind, _, _)| *kind == text) {
            return Some(text);
        }
        self.unknown(node, "kind", KINDS);
        None
    }

    /// Checks that the scenario creates this object at some time.
    pub(super) fn known_object(&mut self, node: &Node, kind: &str, namespace: &str, name: &str) -> Option<()> {
        if self.unchecked {
            return Some(());
        }
        if kind == "Node" {
            return self.node_name(node).map(drop);
        }
        // Every cluster has the service `kubernetes`.
        let always = (kind, namespace, name) == ("Service", "default", "kubernetes");
        let object = (kind.to_owned(), namespace.to_owned(), name.to_owned());
        if always || self.known.incomplete || !CHECKED.contains(&kind) || self.known.objects.contains(&object) {
            return Some(());
        }
        let same = self.known.objects.iter().filter(|(other, _, _)| other == kind);
        let names: Vec<String> = same.map(|(_, namespace, name)| format!("{namespace}/{name}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let full = format!("{namespace}/{name}");
        let message = format!("the scenario creates no {kind} `{full}`");
        let mut diagnostic = Diagnostic::new(message, &node.span);
        if let Some(near) = nearest(&full, names.iter().copied()) {
            diagnostic = diagnostic.label(format!("did you mean `{near}`?"));
        }
        let help = match names.as_slice() {
            [] => format!("no file in `objects` or `apply` has a {kind}"),
            names => format!("it creates: {}", names.join(", ")),
        };
        self.error(diagnostic.help(help));
        None
    }

    /// `name` or `namespace/name`.
    pub(super) fn object_name(&mut self, node: &Node) -> Option<(String, String)> {
        let text = self.text(node)?;
        let (namespace, name) = text.split_once('/').unwrap_or(("default", &text));
        Some((namespace.to_owned(), name.to_owned()))
    }
}
