//! What a request is about: its path and its query.

use std::collections::BTreeMap;

use crate::resources::{Resource, find};
use crate::status::Refusal;

/// A path below `/api/v1` or `/apis/GROUP/VERSION`.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Target<'a> {
    pub(crate) resource: &'static Resource,
    /// Empty for all namespaces and for cluster-scoped resources.
    pub(crate) namespace: &'a str,
    /// `None` for the collection.
    pub(crate) name: Option<&'a str>,
    /// Subresource; empty for the object itself.
    pub(crate) sub: &'a str,
}

impl<'a> Target<'a> {
    /// Reads the segments of a path behind the group and version.
    pub(crate) fn parse(group: &str, version: &str, segments: &[&'a str]) -> Result<Self, Refusal> {
        // `namespaces/NS/pods/…` is about pods, `namespaces/NS/status` about the namespace.
        if let ["namespaces", namespace, plural, rest @ ..] = segments
            && let Some(resource) = find(group, version, plural).filter(|r| r.namespaced())
        {
            return Self::of(resource, namespace, rest);
        }
        let [plural, rest @ ..] = segments else { return Err(Refusal::no_path()) };
        let resource = find(group, version, plural).ok_or_else(Refusal::no_path)?;
        if resource.namespaced() && !rest.is_empty() {
            return Err(Refusal::no_path());
        }
        Self::of(resource, "", rest)
    }

    fn of(resource: &'static Resource, namespace: &'a str, rest: &[&'a str]) -> Result<Self, Refusal> {
        let (name, sub) = match rest {
            [] => (None, ""),
            [name] => (Some(*name), ""),
            [name, sub] if resource.sub.contains(sub) => (Some(*name), *sub),
            _ => return Err(Refusal::no_path()),
        };
        Ok(Target { resource, namespace, name, sub })
    }
}

/// The query of a request.
#[derive(Debug, Default)]
pub(crate) struct Query(BTreeMap<String, String>);

impl Query {
    /// Reads `a=b&c=d`; of repeated parameters the last counts.
    pub(crate) fn parse(text: &str) -> Self {
        Query(form_urlencoded::parse(text.as_bytes()).into_owned().collect())
    }

    /// A parameter; empty if it is absent.
    pub(crate) fn get(&self, name: &str) -> &str {
        self.0.get(name).map_or("", String::as_str)
    }

    /// A truth value.
    pub(crate) fn flag(&self, name: &str) -> bool {
        matches!(self.get(name), "1" | "true" | "True" | "t")
    }

    /// A number; `None` if it is absent.
    pub(crate) fn number(&self, name: &str) -> Result<Option<u64>, Refusal> {
        match self.get(name) {
            "" => Ok(None),
            text => text
                .parse()
                .map(Some)
                .map_err(|_| Refusal::bad(format!("{name}: Invalid value: {text:?}: a number is wanted"))),
        }
    }
}

/// In what form the client wants objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// As they are.
    Plain,
    /// `PartialObjectMetadata`
    Metadata,
    /// `Table`, for `kubectl get`.
    Table,
    /// Aggregated discovery.
    Discovery,
}

impl Form {
    /// The first acceptable form of an Accept header that is served.
    pub(crate) fn parse(accept: &str) -> Form {
        for offer in accept.split(',') {
            let mut words = offer.split(';').map(str::trim);
            if !matches!(words.next(), Some("application/json" | "*/*" | "application/*")) {
                continue;
            }
            let words: BTreeMap<&str, &str> = words.filter_map(|w| w.split_once('=')).collect();
            match (words.get("as").copied(), words.get("v").copied()) {
                (None, _) => return Form::Plain,
                (Some("Table"), Some("v1")) => return Form::Table,
                (Some("PartialObjectMetadata" | "PartialObjectMetadataList"), Some("v1")) => return Form::Metadata,
                (Some("APIGroupDiscoveryList"), Some("v2")) => return Form::Discovery,
                _ => {}
            }
        }
        Form::Plain
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_name_their_target() {
        let cases = [
            ("", "pods", Some(("pods", "", None, ""))),
            ("", "namespaces/a/pods", Some(("pods", "a", None, ""))),
            ("", "namespaces/a/pods/p", Some(("pods", "a", Some("p"), ""))),
            ("", "namespaces/a/pods/p/status", Some(("pods", "a", Some("p"), "status"))),
            ("", "namespaces/a/pods/p/log", None),
            ("", "namespaces/a", Some(("namespaces", "", Some("a"), ""))),
            ("", "namespaces/a/status", Some(("namespaces", "", Some("a"), "status"))),
            ("", "nodes/n", Some(("nodes", "", Some("n"), ""))),
            ("", "pods/p", None),
            ("", "widgets", None),
            ("", "", None),
            ("apps", "namespaces/a/deployments/d/scale", Some(("deployments", "a", Some("d"), "scale"))),
            ("apps", "pods", None),
        ];
        for (group, path, wanted) in cases {
            let segments: Vec<&str> = path.split('/').collect();
            let target = Target::parse(group, "v1", &segments).ok();
            let target = target.map(|t| (t.resource.plural, t.namespace, t.name, t.sub));
            assert_eq!(target, wanted, "{group} {path}");
        }
    }

    #[test]
    fn the_first_form_that_is_served_is_taken() {
        let cases = [
            ("", Form::Plain),
            ("application/json", Form::Plain),
            ("application/json;as=Table;v=v1;g=meta.k8s.io,application/json", Form::Table),
            ("application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json", Form::Plain),
            (
                "application/vnd.kubernetes.protobuf,application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1",
                Form::Metadata,
            ),
            ("application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json", Form::Discovery),
        ];
        for (accept, wanted) in cases {
            assert_eq!(Form::parse(accept), wanted, "{accept}");
        }
    }
}
