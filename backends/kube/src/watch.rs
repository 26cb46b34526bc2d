//! What is asked of the API server for one kind, and what its answers mean. No I/O, no clock.
//!
//! | phase | asked | leads to |
//! |---|---|---|
//! | `Stream` | a watch that begins with all objects (`sendInitialEvents`) | `Watch` at the bookmark that ends them; `List` where the server has no such thing |
//! | `List` | pages of a consistent list | `Watch` after the last page |
//! | `Watch` | a watch from the version that was heard last | `Stream` or `List` when that version is gone, or three watches failed one after the other |
//! | `Check` | one object, for the sake of the version with it, after a watch broke | `Watch`; `Stream` or `List` when the server is behind us: then its store was set back, and a watch from our version would be silent for ever |

use std::time::Duration;

use fairway_decode::{decode, key_of};
use fairway_objects::{Delta, Kind, ObjectKey};
use oorandom::Rand64;
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

/// Objects on one page of a list.
const PAGE: u32 = 500;
/// A watch is asked to end after 5 to 10 minutes, as client-go does, so that servers can share the load anew.
const WATCH_S: u32 = 300;
/// So many watches that fail one after the other lead to a list.
const WATCHES_MAX: u32 = 3;
/// First and longest delay after a failure. Half of it is drawn.
const DELAY_FIRST: Duration = Duration::from_millis(500);
const DELAY_MAX: Duration = Duration::from_secs(30);
/// The longest `Retry-After` that is obeyed.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(120);
/// Of a server's own words so much is shown.
const REASON_MAX: usize = 300;

/// What stands between us and the API server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Obstacle {
    /// No answer.
    Unreachable,
    /// Our credentials are not accepted (401).
    Unauthorized,
    /// We may not read this kind (403).
    Forbidden,
    /// Another answer than success.
    Refused,
    /// An answer that cannot be read.
    Nonsense,
    /// The connection ended in the middle. It is taken up again, so nobody is told yet.
    Cut,
    /// The version from which we wanted to watch is gone (410). Everything is listed anew.
    Expired,
}

/// One attempt failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    pub(crate) obstacle: Obstacle,
    pub(crate) reason: String,
    /// `Retry-After`
    pub(crate) after: Option<Duration>,
    /// It was a question that this server does not know; there is another way to ask.
    pub(crate) at_once: bool,
}

impl Failure {
    pub(crate) fn new(obstacle: Obstacle, reason: impl Into<String>) -> Failure {
        Failure { obstacle, reason: reason.into(), after: None, at_once: false }
    }
}

/// How an answer is to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Body {
    /// As one document.
    Page,
    /// Line by line.
    Lines,
}

/// Counts of what should not have come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Odd {
    /// Events older than what was known.
    pub(crate) stale: u64,
    /// Objects without kind or name.
    pub(crate) nameless: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Phase {
    Stream,
    List { next: Option<String> },
    Check,
    Watch,
}

/// The list and watch of one kind.
#[derive(Debug)]
pub(crate) struct Watch {
    kind: Kind,
    selector: Option<String>,
    phase: Phase,
    /// `resourceVersion` heard last; only in phases `Watch` and `Check`.
    version: String,
    /// Whether the server offers `sendInitialEvents`, as far as we know.
    streams: bool,
    /// Lines in the answer that is being read.
    lines: u64,
    /// Attempts that failed since something last worked.
    failures: u32,
    /// Watches that failed since one last said something.
    watches: u32,
    random: Rand64,
    pub(crate) odd: Odd,
}

#[derive(Deserialize)]
struct List<'a> {
    #[serde(default)]
    metadata: ListMeta,
    #[serde(default, borrow)]
    items: Option<Vec<&'a RawValue>>,
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
struct ListMeta {
    resource_version: Option<String>,
    r#continue: Option<String>,
}

#[derive(Deserialize)]
struct Event {
    r#type: String,
    object: Value,
}

/// `path` of a kind, its group and version, and its name in sentences.
const fn resource(kind: Kind) -> (&'static str, &'static str, &'static str) {
    match kind {
        Kind::Node => ("/api/v1/nodes", "v1", "nodes"),
        Kind::Namespace => ("/api/v1/namespaces", "v1", "namespaces"),
        Kind::Service => ("/api/v1/services", "v1", "services"),
        Kind::EndpointSlice => {
            ("/apis/discovery.k8s.io/v1/endpointslices", "discovery.k8s.io/v1", "endpointslices.discovery.k8s.io")
        }
        Kind::Pod => ("/api/v1/pods", "v1", "pods"),
    }
}

/// A kind as RBAC names it.
pub(crate) const fn plural(kind: Kind) -> &'static str {
    resource(kind).2
}

/// The path of one object.
pub(crate) fn path(kind: Kind, namespace: &str, name: &str) -> String {
    let (all, ..) = resource(kind);
    match (namespace, all.rsplit_once('/')) {
        ("", _) | (_, None) => format!("{all}/{}", encode(name)),
        (namespace, Some((group, plural))) => {
            format!("{group}/namespaces/{}/{plural}/{}", encode(namespace), encode(name))
        }
    }
}

/// Percent-encoding of a part of a path, or of a query's value (RFC 3986 section 2.3).
pub(crate) fn encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            encoded += &format!("%{byte:02X}");
        }
    }
    encoded
}

/// The first line of a text, not too long.
pub(crate) fn brief(text: &str) -> String {
    text.trim().lines().next().unwrap_or_default().chars().take(REASON_MAX).collect()
}

/// `Some(true)` if `a` is a later version than `b`; `None` where that cannot be said. Versions of built-in kinds are
/// numbers that grow (KEP-5504); others are not compared.
fn later(a: &str, b: &str) -> Option<bool> {
    Some(a.parse::<u64>().ok()? > b.parse::<u64>().ok()?)
}

impl Watch {
    pub(crate) fn new(kind: Kind, selector: Option<String>, seed: u64) -> Watch {
        Watch {
            kind,
            selector,
            phase: Phase::Stream,
            version: String::new(),
            streams: true,
            lines: 0,
            failures: 0,
            watches: 0,
            random: Rand64::new(seed.into()),
            odd: Odd::default(),
        }
    }

    /// What is asked next: path with query, and how the answer is to be read.
    pub(crate) fn ask(&mut self) -> (String, Body) {
        self.lines = 0;
        let timeout = u64::from(WATCH_S) + self.random.rand_range(0..u64::from(WATCH_S));
        let (path, ..) = resource(self.kind);
        let selector = self.selector.as_deref().map(|s| format!("&fieldSelector={}", encode(s))).unwrap_or_default();
        let watch = format!("watch=true&allowWatchBookmarks=true&timeoutSeconds={timeout}{selector}");
        match &self.phase {
            Phase::Stream => {
                let query = format!("{watch}&sendInitialEvents=true&resourceVersionMatch=NotOlderThan");
                (format!("{path}?{query}"), Body::Lines)
            }
            Phase::List { next } => {
                let next = next.as_deref().map(|c| format!("&continue={}", encode(c))).unwrap_or_default();
                (format!("{path}?limit={PAGE}{selector}{next}"), Body::Page)
            }
            Phase::Check => (format!("{path}?limit=1{selector}"), Body::Page),
            Phase::Watch => (format!("{path}?{watch}&resourceVersion={}", encode(&self.version)), Body::Lines),
        }
    }

    /// Whether the answer to come begins with all objects.
    pub(crate) fn is_listing(&self) -> bool {
        self.phase != Phase::Watch
    }

    /// The answer to the last question has begun, with success. `Relist` stands before the first object of a list.
    pub(crate) fn begins(&mut self, deltas: &mut Vec<Delta>) {
        if matches!(self.phase, Phase::Stream) {
            deltas.push(Delta::Relist(self.kind));
        }
    }

    /// Reads a page of a list.
    pub(crate) fn page(&mut self, body: &[u8], deltas: &mut Vec<Delta>) -> Result<(), Failure> {
        let nonsense = |e: serde_json::Error| Failure::new(Obstacle::Nonsense, format!("a list that is no JSON: {e}"));
        let list: List<'_> = serde_json::from_slice(body).map_err(nonsense)?;
        let items = list.items.unwrap_or_default();
        let version = list.metadata.resource_version.unwrap_or_default();
        if version.is_empty() {
            return Err(Failure::new(Obstacle::Nonsense, "a list without metadata.resourceVersion"));
        }
        match self.phase {
            Phase::Check if later(&self.version, &version) == Some(true) => {
                return Err(self.relist(format!("the server went back from version {} to {version}", self.version)));
            }
            Phase::Check => {
                self.phase = Phase::Watch;
                return Ok(());
            }
            Phase::List { next: None } => deltas.push(Delta::Relist(self.kind)),
            _ => {}
        }
        for item in items {
            match serde_json::from_str(item.get()) {
                Ok(object) => self.put(object, deltas),
                Err(_) => self.odd.nameless += 1,
            }
        }
        self.phase = match list.metadata.r#continue.filter(|c| !c.is_empty()) {
            Some(next) => Phase::List { next: Some(next) },
            None => {
                deltas.push(Delta::Listed(self.kind));
                self.version = version;
                self.watches = 0;
                Phase::Watch
            }
        };
        Ok(())
    }

    /// Reads a line of a watch.
    pub(crate) fn line(&mut self, line: &[u8], deltas: &mut Vec<Delta>) -> Result<(), Failure> {
        let nonsense = |e: serde_json::Error| Failure::new(Obstacle::Nonsense, format!("a line that is no event: {e}"));
        let event: Event = serde_json::from_slice(line).map_err(nonsense)?;
        self.lines += 1;
        let version = event.object.pointer("/metadata/resourceVersion").and_then(Value::as_str).unwrap_or_default();
        let version = version.to_string();
        match event.r#type.as_str() {
            "ERROR" => return Err(self.told(&event.object)),
            "BOOKMARK" => self.bookmark(&event.object, version, deltas)?,
            "ADDED" | "MODIFIED" | "DELETED" => {
                let deleted = event.r#type == "DELETED";
                // A watch tells the changes after its version in their order, so what is older was told already, or
                // comes from a server that lags behind.
                if self.phase == Phase::Watch && later(&version, &self.version) == Some(false) {
                    self.odd.stale += 1;
                    if deleted && later(&self.version, &version) == Some(true) {
                        // Taking this for a repetition might keep for ever what is gone, so the list decides.
                        return Err(self.relist(format!("a deletion of version {version} after {}", self.version)));
                    }
                    return Ok(());
                }
                match (deleted, self.key(&event.object)) {
                    (true, Some(key)) => deltas.push(Delta::Del(key)),
                    (true, None) => self.odd.nameless += 1,
                    (false, _) => self.put(event.object, deltas),
                }
                if self.phase == Phase::Watch && !version.is_empty() {
                    self.version = version;
                }
            }
            // A type of event of the future: the next list knows what it meant.
            other => return Err(self.relist(format!("an event of the unknown type {}", brief(other)))),
        }
        // A stream that always breaks off in its beginning gets nowhere.
        if self.phase == Phase::Watch {
            self.failures = 0;
            self.watches = 0;
        }
        Ok(())
    }

    fn bookmark(&mut self, object: &Value, version: String, deltas: &mut Vec<Delta>) -> Result<(), Failure> {
        let end = "/metadata/annotations/k8s.io~1initial-events-end";
        match self.phase {
            Phase::Stream => {
                if object.pointer(end).and_then(Value::as_str) == Some("true") {
                    if version.is_empty() {
                        return Err(Failure::new(Obstacle::Nonsense, "a bookmark without a version"));
                    }
                    deltas.push(Delta::Listed(self.kind));
                    self.version = version;
                    self.phase = Phase::Watch;
                }
            }
            // The store was set back, for example from a backup: what we know may never have been.
            _ if later(&self.version, &version) == Some(true) => {
                return Err(self.relist(format!("the server went back from version {} to {version}", self.version)));
            }
            _ if version.is_empty() => {}
            _ => self.version = version,
        }
        Ok(())
    }

    /// An object that exists.
    fn put(&mut self, mut object: Value, deltas: &mut Vec<Delta>) {
        self.label(&mut object);
        match decode(&object) {
            Ok(delta) => deltas.push(delta),
            Err(_) => self.odd.nameless += 1,
        }
    }

    fn key(&self, object: &Value) -> Option<ObjectKey> {
        let mut named = object.clone();
        self.label(&mut named);
        key_of(&named).ok()
    }

    /// Items of a list say neither their kind nor their version.
    fn label(&self, object: &mut Value) {
        if let Value::Object(fields) = object {
            fields.insert("apiVersion".into(), resource(self.kind).1.into());
            fields.insert("kind".into(), self.kind.as_str().into());
        }
    }

    /// A `Status` in place of an event.
    fn told(&mut self, status: &Value) -> Failure {
        let code = status.get("code").and_then(Value::as_u64).and_then(|code| u16::try_from(code).ok()).unwrap_or(500);
        self.refuse(code, None, status)
    }

    /// The question was answered with another status than success.
    pub(crate) fn refused(&mut self, code: u16, after: Option<Duration>, body: &[u8]) -> Failure {
        let status: Value = serde_json::from_slice(body)
            .unwrap_or_else(|_| serde_json::json!({"message": brief(&String::from_utf8_lossy(body))}));
        self.refuse(code, after, &status)
    }

    fn refuse(&mut self, code: u16, after: Option<Duration>, status: &Value) -> Failure {
        let word = |name: &str| status.get(name).and_then(Value::as_str).unwrap_or_default();
        let reason = match (brief(word("message")), brief(word("reason"))) {
            (message, _) if !message.is_empty() => message,
            (_, reason) if !reason.is_empty() => reason,
            _ => format!("status {code}"),
        };
        let told = status.pointer("/details/retryAfterSeconds").and_then(Value::as_u64).map(Duration::from_secs);
        let after = after.or(told).filter(|after| !after.is_zero());
        let obstacle = match code {
            401 => Obstacle::Unauthorized,
            403 => Obstacle::Forbidden,
            410 => Obstacle::Expired,
            _ => Obstacle::Refused,
        };
        let mut failure = Failure { obstacle, reason, after, at_once: false };
        match (&self.phase, code) {
            // Servers before 1.32, or without the feature, refuse the question; whoever may list need not be one who
            // may watch; and where there is neither, the list says so.
            (Phase::Stream, 400 | 403 | 404 | 405 | 422 | 501) => {
                self.streams = false;
                self.phase = Phase::List { next: None };
                failure.at_once = true;
            }
            (Phase::Stream, 500..) => self.stream_failed(),
            (Phase::Stream, _) => {}
            (Phase::List { .. }, _) => self.phase = Phase::List { next: None },
            // Whoever may not list may still watch.
            (Phase::Check, 403..=405) => {
                self.phase = Phase::Watch;
                failure.at_once = true;
            }
            (Phase::Check, _) => {}
            // What may be listed and not watched is listed from time to time.
            (Phase::Watch, 400 | 403 | 404 | 405 | 410 | 422) => self.start_over(),
            (Phase::Watch, _) => self.watch_failed(),
        }
        failure
    }

    /// Everything is listed anew.
    fn relist(&mut self, reason: String) -> Failure {
        self.start_over();
        Failure::new(Obstacle::Expired, reason)
    }

    fn start_over(&mut self) {
        self.watches = 0;
        self.version.clear();
        self.phase = if self.streams { Phase::Stream } else { Phase::List { next: None } };
    }

    /// Something on the way to the server may not bear with streams.
    fn stream_failed(&mut self) {
        self.watches += 1;
        if self.watches >= WATCHES_MAX {
            self.streams = false;
            self.phase = Phase::List { next: None };
        }
    }

    fn watch_failed(&mut self) {
        self.watches += 1;
        if self.watches >= WATCHES_MAX {
            self.start_over();
        }
    }

    /// The answer could not be read to its end: the connection broke, or [`line`](Self::line) failed.
    pub(crate) fn broke(&mut self, failure: &Failure) {
        match (&self.phase, failure.obstacle) {
            (Phase::List { .. }, _) => self.phase = Phase::List { next: None },
            (Phase::Stream, Obstacle::Nonsense | Obstacle::Cut) => self.stream_failed(),
            (Phase::Watch, Obstacle::Nonsense | Obstacle::Cut) if self.lines == 0 => self.watch_failed(),
            _ => {}
        }
        self.doubt();
    }

    /// Whoever answers next may be another server.
    fn doubt(&mut self) {
        if self.phase == Phase::Watch {
            self.phase = Phase::Check;
        }
    }

    /// The stream of initial events does not come to its end: the server takes it for an ordinary watch.
    pub(crate) fn no_stream(&mut self) -> Failure {
        self.streams = false;
        self.start_over();
        Failure { at_once: true, ..Failure::new(Obstacle::Expired, "no end of the initial events: listed instead") }
    }

    /// The server closed a watch in order. If it said nothing at all, that must not repeat at full speed.
    pub(crate) fn ended(&mut self) -> Result<(), Failure> {
        match self.lines {
            0 => Err(Failure::new(Obstacle::Cut, "the watch ended at once")),
            _ => Ok(()),
        }
    }

    /// The server is another one, or its certificate, or it was away: it may offer what it did not offer before.
    pub(crate) fn reconnects(&mut self) {
        self.streams = true;
        if self.phase == (Phase::List { next: None }) {
            self.phase = Phase::Stream;
        }
        self.doubt();
    }

    /// How long to wait after a failure: twice as long each time, up to 30 s, half of it drawn; or as the server wants.
    pub(crate) fn delay(&mut self, failure: &Failure) -> Duration {
        if failure.at_once {
            return Duration::ZERO;
        }
        let longest = DELAY_FIRST.saturating_mul(1 << self.failures.min(16)).min(DELAY_MAX);
        self.failures = self.failures.saturating_add(1);
        let drawn = longest.mul_f64(0.5 + self.random.rand_float() / 2.0);
        failure.after.map_or(drawn, |after| after.min(RETRY_AFTER_MAX).max(drawn))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn watch() -> Watch {
        Watch::new(Kind::Pod, Some("spec.nodeName=vm 1".into()), 1)
    }

    #[test]
    fn a_field_selector_is_part_of_every_question() {
        let mut watch = watch();
        for _ in 0..3 {
            let (uri, _) = watch.ask();
            assert!(uri.contains("fieldSelector=spec.nodeName%3Dvm%201"), "{uri}");
            watch.refused(422, None, b"");
            watch.page(br#"{"metadata":{"resourceVersion":"1"}}"#, &mut vec![]).ok();
        }
    }

    #[test]
    fn a_stream_that_does_not_end_its_list_is_replaced_by_a_list() {
        let mut watch = watch();
        let mut deltas = vec![];
        watch.ask();
        watch.begins(&mut deltas);
        assert!(watch.is_listing());
        let failure = watch.no_stream();
        assert!(failure.at_once && watch.delay(&failure).is_zero());
        assert_eq!(watch.ask().1, Body::Page);
        // A server that was away may be a newer one.
        watch.reconnects();
        assert!(watch.ask().0.contains("sendInitialEvents"));
    }

    #[test]
    fn what_breaks_streams_on_the_way_does_not_break_lists() {
        let mut watch = watch();
        for _ in 0..WATCHES_MAX {
            assert_eq!(watch.ask().1, Body::Lines);
            watch.broke(&Failure::new(Obstacle::Cut, "reset"));
        }
        assert_eq!(watch.ask().1, Body::Page);
    }

    #[test]
    fn three_watches_that_fail_lead_to_a_list() {
        let mut watch = watch();
        watch.refused(422, None, b"");
        watch.page(br#"{"metadata":{"resourceVersion":"7"}}"#, &mut vec![]).expect("a list");
        for _ in 0..WATCHES_MAX {
            assert!(watch.ask().0.contains("resourceVersion=7"));
            watch.refused(504, None, br#"{"message":"Too large resource version"}"#);
        }
        assert_eq!(watch.ask().1, Body::Page);
    }

    #[test]
    fn delays_grow_to_half_a_minute_and_half_of_each_is_drawn() {
        let mut watch = watch();
        let failure = Failure::new(Obstacle::Refused, "");
        let delays: Vec<Duration> = (0..40).map(|_| watch.delay(&failure)).collect();
        for (at, delay) in delays.iter().enumerate() {
            let longest = DELAY_FIRST.saturating_mul(1 << at.min(16)).min(DELAY_MAX);
            assert!(*delay >= longest / 2 && *delay <= longest, "{at}: {delay:?}");
        }
        let mut other = Watch::new(Kind::Pod, None, 2);
        assert_ne!(delays[20], (0..40).map(|_| other.delay(&failure)).collect::<Vec<_>>()[20]);
        let after = |s| Failure { after: Some(Duration::from_secs(s)), ..failure.clone() };
        assert_eq!(watch.delay(&after(60)), Duration::from_secs(60));
        assert_eq!(watch.delay(&after(1 << 40)), RETRY_AFTER_MAX);
    }

    /// Words of a server, most of them nearly right.
    fn said() -> impl Strategy<Value = Vec<u8>> {
        let object = prop_oneof![
            Just(json!({"metadata": {"name": "a", "resourceVersion": "5"}})),
            Just(json!({"metadata": {"name": 7, "resourceVersion": 8}})),
            Just(json!({"metadata": {"resourceVersion": "x", "annotations": {"k8s.io/initial-events-end": "true"}}})),
            Just(json!({"metadata": {"resourceVersion": "3", "annotations": {"k8s.io/initial-events-end": "true"}}})),
            Just(json!({"code": 410, "details": {"retryAfterSeconds": -1}})),
            Just(json!([])),
            Just(Value::Null),
        ];
        let event = (prop_oneof!["ADDED", "MODIFIED", "DELETED", "BOOKMARK", "ERROR", "[a-z]{0,3}"], object.clone())
            .prop_map(|(what, object)| json!({"type": what, "object": object}).to_string().into_bytes());
        let list =
            (prop::collection::vec(object, 0..4), prop::option::of("[0-9a-z]{0,3}"), prop::option::of("[a-z]{0,2}"))
                .prop_map(|(items, version, next)| {
                    json!({"metadata": {"resourceVersion": version, "continue": next}, "items": items})
                        .to_string()
                        .into_bytes()
                });
        prop_oneof![3 => event, 2 => list, 1 => prop::collection::vec(any::<u8>(), 0..40)]
    }

    #[derive(Debug, Clone)]
    enum Turn {
        Answer(Vec<Vec<u8>>),
        Refuse(u16, Vec<u8>),
        NoAnswer,
    }

    fn turn() -> impl Strategy<Value = Turn> {
        prop_oneof![
            4 => prop::collection::vec(said(), 0..5).prop_map(Turn::Answer),
            2 => (any::<u16>(), said()).prop_map(|(code, body)| Turn::Refuse(code, body)),
            1 => prop_oneof![Just(401), Just(403), Just(410), Just(422), Just(500)].prop_map(|c| Turn::Refuse(c, vec![])),
            1 => Just(Turn::NoAnswer),
        ]
    }

    proptest! {
        /// Whatever a server says: no panic, no `Listed` without the `Relist` it belongs to, and every delay bounded.
        #[test]
        fn any_server_is_borne(turns in prop::collection::vec(turn(), 0..30)) {
            let mut watch = watch();
            let mut deltas = vec![];
            for turn in turns {
                let (_, body) = watch.ask();
                let result = match turn {
                    Turn::Refuse(code, body) => Err(watch.refused(code, None, &body)),
                    Turn::NoAnswer => Err(Failure::new(Obstacle::Unreachable, "")),
                    Turn::Answer(words) => {
                        let read = match body {
                            Body::Page => words.first().map_or(Ok(()), |body| watch.page(body, &mut deltas)),
                            Body::Lines => {
                                watch.begins(&mut deltas);
                                words.iter().try_for_each(|line| watch.line(line, &mut deltas)).and_then(|()| watch.ended())
                            }
                        };
                        read.inspect_err(|failure| watch.broke(failure))
                    }
                };
                if let Err(failure) = result {
                    prop_assert!(watch.delay(&failure) <= DELAY_MAX.max(RETRY_AFTER_MAX));
                    if failure.obstacle == Obstacle::Unreachable {
                        watch.reconnects();
                    }
                }
            }
            let mut open = false;
            for delta in deltas {
                match delta {
                    Delta::Relist(_) => open = true,
                    Delta::Listed(_) => {
                        prop_assert!(open);
                        open = false;
                    }
                    _ => {}
                }
            }
        }
    }
}
