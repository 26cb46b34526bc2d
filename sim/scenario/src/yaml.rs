//! YAML as a tree that knows where each part was written.
//!
//! The file is not deserialized into its types directly: a typed reader stops at the first mistake, a tree lets the
//! reader go on and report all of them. All limits on hostile files are here.

use std::fmt;
use std::sync::Arc;

use serde::Deserialize;
use serde::de::{MapAccess, SeqAccess, Visitor};
use serde_saphyr::{Location, Options, Spanned};

use crate::diagnostic::Diagnostic;
use crate::source::{Source, Span};

/// Largest file that is read, in bytes.
pub(crate) const MAX_BYTES: usize = 16 << 20;

/// Deepest nesting. A level costs some 40 KiB of stack in a debug build, and threads may have 2 MiB.
const MAX_DEPTH: usize = 32;

/// Most parts that aliases may add.
const MAX_ALIASED: usize = 100_000;

/// One part of a file.
#[derive(Debug, Clone)]
pub(crate) struct Node {
    pub(crate) span: Span,
    pub(crate) value: Value,
}

/// What a part is.
#[derive(Debug, Clone)]
pub(crate) enum Value {
    Null,
    Bool(bool),
    Number(serde_json::Number),
    Text(String),
    List(Vec<Node>),
    Map(Vec<(Key, Node)>),
}

/// A key of a mapping.
#[derive(Debug, Clone)]
pub(crate) struct Key {
    pub(crate) text: String,
    pub(crate) span: Span,
}

impl Node {
    /// The scalar as it was written: `name: 007` is the text `007` although YAML sees a number.
    pub(crate) fn text(&self) -> Option<&str> {
        match &self.value {
            Value::Text(text) => Some(text),
            Value::Bool(_) | Value::Number(_) => Some(self.span.text()),
            Value::Null | Value::List(_) | Value::Map(_) => None,
        }
    }

    /// What the part is, for messages.
    pub(crate) fn kind(&self) -> &'static str {
        match &self.value {
            Value::Null => "nothing",
            Value::Bool(_) => "a boolean",
            Value::Number(_) => "a number",
            Value::Text(_) => "text",
            Value::List(_) => "a list",
            Value::Map(_) => "a mapping",
        }
    }

    /// The value of a key of a mapping.
    pub(crate) fn get(&self, key: &str) -> Option<&Node> {
        match &self.value {
            Value::Map(entries) => entries.iter().find(|(k, _)| k.text == key).map(|(_, node)| node),
            _ => None,
        }
    }

    /// The part without its places.
    pub(crate) fn json(&self) -> serde_json::Value {
        use serde_json::Value as Json;
        match &self.value {
            Value::Null => Json::Null,
            Value::Bool(b) => Json::Bool(*b),
            Value::Number(n) => Json::Number(n.clone()),
            Value::Text(text) => Json::String(text.clone()),
            Value::List(items) => Json::Array(items.iter().map(Node::json).collect()),
            Value::Map(entries) => {
                Json::Object(entries.iter().map(|(key, node)| (key.text.clone(), node.json())).collect())
            }
        }
    }
}

/// Limits and dialect: strict booleans as in YAML 1.2, no expansion bombs, no endless nesting.
fn options() -> Options {
    let mut options = Options::default();
    options.strict_booleans = true;
    options.underscored_numbers_as_strings = true;
    options.leading_zero_numbers_as_strings = true;
    options.with_snippet = false;
    options.alias_limits.max_total_replayed_events = MAX_ALIASED;
    let mut budget = serde_saphyr::Budget::default();
    budget.max_depth = MAX_DEPTH;
    budget.max_nodes = 2_000_000;
    budget.max_events = 8_000_000;
    budget.max_total_scalar_bytes = MAX_BYTES;
    budget.max_documents = 100_000;
    budget.flow_nesting_limit = MAX_DEPTH;
    options.budget = Some(budget);
    options
}

/// Reads all documents of a text; empty documents are left out.
pub(crate) fn documents(source: &Arc<Source>) -> Result<Vec<Node>, Box<Diagnostic>> {
    if source.text.len() > MAX_BYTES {
        let message = format!("{}: {} bytes are more than the {MAX_BYTES} allowed", source.name, source.text.len());
        return Err(Box::new(Diagnostic::without_place(message)));
    }
    let documents: Vec<Spanned<Raw>> = serde_saphyr::from_multiple_with_options(&source.text, options())
        .map_err(|error| Box::new(syntax_error(&error, source)))?;
    let nodes = documents.into_iter().map(|raw| node(raw, source));
    Ok(nodes.filter(|node| !matches!(node.value, Value::Null)).collect())
}

fn syntax_error(error: &serde_saphyr::Error, source: &Arc<Source>) -> Diagnostic {
    let error = error.without_snippet();
    if let serde_saphyr::Error::DuplicateMappingKey { key, location } = error {
        let message = match key {
            Some(key) => format!("the key `{key}` is given twice"),
            None => "a key is given twice".to_owned(),
        };
        return Diagnostic::new(message, &span(*location, source)).help("keep one of them");
    }
    if let Some(message) = limit(error) {
        return match error.location() {
            Some(location) if location != Location::UNKNOWN => Diagnostic::new(message, &span(location, source)),
            _ => Diagnostic::without_place(format!("{}: {message}", source.name)),
        };
    }
    let text = error.to_string();
    // The place is shown by ourselves, in one form for all mistakes.
    let message = text.split(" at line ").next().unwrap_or(&text).lines().next().unwrap_or_default().to_owned();
    let message = if message.is_empty() { "not YAML".to_owned() } else { message };
    match error.location() {
        Some(location) if location != Location::UNKNOWN => Diagnostic::new(message, &span(location, source)),
        _ => Diagnostic::without_place(format!("{}: {message}", source.name)),
    }
}

/// Which of our limits a file goes beyond.
fn limit(error: &serde_saphyr::Error) -> Option<String> {
    use serde_saphyr::Error;
    use serde_saphyr::budget::BudgetBreach;
    Some(match error {
        Error::AliasError { error, .. } => return limit(error),
        Error::AliasReplayLimitExceeded { .. } | Error::AliasReplayCounterOverflow { .. } => {
            format!("the aliases of this file expand to more than {MAX_ALIASED} parts")
        }
        Error::Budget { breach: BudgetBreach::Depth { .. }, .. } => {
            format!("nested more deeply than {MAX_DEPTH} levels")
        }
        // The scanner of flow collections has a limit of its own and says so in words only.
        other if other.to_string().contains("recursion limit") => format!("nested more deeply than {MAX_DEPTH} levels"),
        _ => return None,
    })
}

/// The place in our terms. A scalar of several lines is marked on its first line only.
fn span(location: Location, source: &Arc<Source>) -> Span {
    let text = &source.text;
    let line = usize::try_from(location.line()).unwrap_or(1).max(1);
    let column = usize::try_from(location.column()).unwrap_or(1).max(1);
    let by_line = || {
        let start: usize = text.split_inclusive('\n').take(line - 1).map(str::len).sum();
        let rest = text.get(start..).unwrap_or("").lines().next().unwrap_or("");
        start + rest.char_indices().nth(column - 1).map_or(rest.len(), |(at, _)| at)
    };
    let offset = location.span().byte_offset().and_then(|offset| usize::try_from(offset).ok());
    let start = offset.filter(|offset| text.is_char_boundary(*offset)).unwrap_or_else(by_line).min(text.len());
    let length = location.span().byte_len().and_then(|length| usize::try_from(length).ok()).unwrap_or(0);
    let rest = &text[start..];
    let line_end = rest.find('\n').unwrap_or(rest.len());
    let mut length = length.min(line_end);
    while !rest.is_char_boundary(length) {
        length -= 1;
    }
    let written = rest[..length].trim_end().len();
    Span { source: Arc::clone(source), start, end: start + written, line, column }
}

fn node(raw: Spanned<Raw>, source: &Arc<Source>) -> Node {
    let value = match raw.value {
        Raw::Null => Value::Null,
        Raw::Bool(b) => Value::Bool(b),
        Raw::Number(n) => Value::Number(n),
        Raw::Text(text) => Value::Text(text),
        Raw::List(items) => Value::List(items.into_iter().map(|item| node(item, source)).collect()),
        Raw::Map(entries) => {
            let entry = |(key, value): (Spanned<String>, Spanned<Raw>)| {
                let span = span(key.defined, source);
                (Key { text: key.value, span }, node(value, source))
            };
            Value::Map(entries.into_iter().map(entry).collect())
        }
    };
    // An alias is shown where it is defined: that is where the text stands.
    Node { span: span(raw.defined, source), value }
}

/// YAML as serde-saphyr hands it over.
enum Raw {
    Null,
    Bool(bool),
    Number(serde_json::Number),
    Text(String),
    List(Vec<Spanned<Raw>>),
    Map(Vec<(Spanned<String>, Spanned<Raw>)>),
}

impl<'de> Deserialize<'de> for Raw {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(RawVisitor)
    }
}

struct RawVisitor;

impl<'de> Visitor<'de> for RawVisitor {
    type Value = Raw;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any YAML value")
    }

    fn visit_unit<E>(self) -> Result<Raw, E> {
        Ok(Raw::Null)
    }

    fn visit_none<E>(self) -> Result<Raw, E> {
        Ok(Raw::Null)
    }

    fn visit_some<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<Raw, D::Error> {
        deserializer.deserialize_any(self)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Raw, E> {
        Ok(Raw::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Raw, E> {
        Ok(Raw::Number(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Raw, E> {
        Ok(Raw::Number(value.into()))
    }

    fn visit_i128<E>(self, value: i128) -> Result<Raw, E> {
        Ok(serde_json::Number::from_i128(value).map_or_else(|| Raw::Text(value.to_string()), Raw::Number))
    }

    fn visit_u128<E>(self, value: u128) -> Result<Raw, E> {
        Ok(serde_json::Number::from_u128(value).map_or_else(|| Raw::Text(value.to_string()), Raw::Number))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Raw, E> {
        Ok(serde_json::Number::from_f64(value).map_or_else(|| Raw::Text(value.to_string()), Raw::Number))
    }

    fn visit_str<E>(self, value: &str) -> Result<Raw, E> {
        Ok(Raw::Text(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Raw, E> {
        Ok(Raw::Text(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Raw, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        Ok(Raw::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Raw, A::Error> {
        let mut map = Vec::new();
        while let Some(entry) = entries.next_entry()? {
            map.push(entry);
        }
        Ok(Raw::Map(map))
    }
}
