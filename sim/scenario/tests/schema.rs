//! The published schema and the reader must say the same, key by key.

#![allow(clippy::unwrap_used, reason = "test code")]

mod common;

use std::collections::{BTreeMap, BTreeSet};

use common::EVERYTHING;
use serde_json::Value;

/// Checks a value against the part of JSON schema that schemars writes for us. Notes the properties allowed at each
/// path, and which of them (by place in the schema) were there.
struct Checker<'a> {
    root: &'a Value,
    allowed: BTreeMap<String, BTreeSet<String>>,
    used: BTreeSet<(String, String)>,
}

impl Checker<'_> {
    fn check(&mut self, schema: &Value, value: &Value, path: &str, place: &str) -> Result<(), String> {
        if let Some(reference) = schema.get("$ref").and_then(Value::as_str) {
            let target = self.root.pointer(reference.trim_start_matches('#')).ok_or("dangling reference")?.clone();
            return self.check(&target, value, path, reference);
        }
        for (word, exactly_one) in [("anyOf", false), ("oneOf", true)] {
            let Some(variants) = schema.get(word).and_then(Value::as_array) else { continue };
            let mut fits = 0;
            for (n, variant) in variants.iter().enumerate() {
                let mut trial = Checker { root: self.root, allowed: BTreeMap::new(), used: BTreeSet::new() };
                if trial.check(variant, value, path, &format!("{place}/{word}/{n}")).is_ok() {
                    fits += 1;
                    self.allowed.extend(trial.allowed);
                    self.used.extend(trial.used);
                    if !exactly_one {
                        break;
                    }
                }
            }
            if fits != 1 {
                return Err(format!("{path}: {fits} variants of {place} fit"));
            }
        }
        if let Some(words) = schema.get("enum").and_then(Value::as_array)
            && !words.contains(value)
        {
            return Err(format!("{path}: {value} is not one of {words:?}"));
        }
        if let Some(word) = schema.get("const")
            && word != value
        {
            return Err(format!("{path}: {value} is not {word}"));
        }
        if let Some(kind) = schema.get("type") {
            let kinds: Vec<&str> = match kind {
                Value::Array(kinds) => kinds.iter().filter_map(Value::as_str).collect(),
                other => other.as_str().into_iter().collect(),
            };
            let is = match value {
                Value::Null => "null",
                Value::Bool(_) => "boolean",
                Value::Number(_) => "integer",
                Value::String(_) => "string",
                Value::Array(_) => "array",
                Value::Object(_) => "object",
            };
            if !kinds.contains(&is) {
                return Err(format!("{path}: {value} is {is}, not {kinds:?}"));
            }
        }
        match value {
            Value::Array(items) => {
                if let Some(schema) = schema.get("items") {
                    for (n, item) in items.iter().enumerate() {
                        self.check(schema, item, &format!("{path}/{n}"), &format!("{place}/items"))?;
                    }
                }
                Ok(())
            }
            Value::Object(entries) => self.object(schema, entries, path, place),
            _ => Ok(()),
        }
    }

    fn object(
        &mut self,
        schema: &Value,
        entries: &serde_json::Map<String, Value>,
        path: &str,
        place: &str,
    ) -> Result<(), String> {
        let none = serde_json::Map::new();
        let properties = schema.get("properties").and_then(Value::as_object).unwrap_or(&none);
        for name in schema.get("required").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str) {
            if !entries.contains_key(name) {
                return Err(format!("{path}: `{name}` is missing"));
            }
        }
        if !properties.is_empty() {
            self.allowed.entry(path.to_owned()).or_default().extend(properties.keys().cloned());
        }
        for (key, value) in entries {
            let path = format!("{path}/{key}");
            match (properties.get(key), schema.get("additionalProperties")) {
                (Some(schema), _) => {
                    self.used.insert((place.to_owned(), key.clone()));
                    self.check(schema, value, &path, &format!("{place}/properties/{key}"))?;
                }
                (None, Some(Value::Bool(false))) => return Err(format!("{path}: unknown key")),
                (None, Some(schema)) => self.check(schema, value, &path, &format!("{place}/additional"))?,
                (None, None) => {}
            }
        }
        Ok(())
    }
}

fn everything() -> Value {
    serde_saphyr::from_str(EVERYTHING).unwrap()
}

/// All places in the schema that have properties, with their names.
fn properties(schema: &Value, place: &str, found: &mut BTreeSet<(String, String)>) {
    if let Some(properties) = schema.get("properties").and_then(Value::as_object) {
        found.extend(properties.keys().map(|key| (place.to_owned(), key.clone())));
    }
}

#[test]
fn the_schema_accepts_what_the_reader_accepts_and_knows_no_key_more() {
    let schema = fairway_scenario::json_schema();
    assert_eq!(schema["$schema"], "https://json-schema.org/draft/2020-12/schema");
    let mut checker = Checker { root: &schema, allowed: BTreeMap::new(), used: BTreeSet::new() };
    checker.check(&schema, &everything(), "", "#").unwrap();
    // everything.yaml has every key of every definition.
    let mut all = BTreeSet::new();
    properties(&schema, "#", &mut all);
    for (name, definition) in schema["$defs"].as_object().unwrap() {
        properties(definition, &format!("#/$defs/{name}"), &mut all);
        for (n, variant) in definition.get("oneOf").and_then(Value::as_array).into_iter().flatten().enumerate() {
            properties(variant, &format!("#/$defs/{name}/oneOf/{n}"), &mut all);
        }
    }
    assert!(all.len() > 120, "{}", all.len());
    // `expect` as a step of its own takes what `until` takes; one key of it is enough here.
    let missing: Vec<_> = all.difference(&checker.used).filter(|(place, _)| !place.ends_with("/Conditions")).collect();
    assert!(missing.is_empty(), "not in everything.yaml: {missing:?}");
}

#[test]
fn the_reader_knows_no_key_more_than_the_schema() {
    let schema = fairway_scenario::json_schema();
    let mut checker = Checker { root: &schema, allowed: BTreeMap::new(), used: BTreeSet::new() };
    checker.check(&schema, &everything(), "", "#").unwrap();
    let mut compared = 0;
    for (path, properties) in &checker.allowed {
        // A fault is one key; a second one is refused before it is looked at.
        if path.ends_with("/fault") {
            continue;
        }
        let mut changed = everything();
        let object = changed.pointer_mut(path).unwrap().as_object_mut().unwrap();
        object.insert("qqqqqqqq".to_owned(), Value::from(1));
        let diagnostics = common::parse(&changed.to_string()).unwrap_err();
        let unknown = diagnostics.iter().find(|d| d.message.ends_with("has no key `qqqqqqqq`"));
        let unknown = unknown.unwrap_or_else(|| panic!("{path}: {diagnostics:?}"));
        let allowed = unknown.help[0].strip_prefix("allowed here: ").unwrap();
        // Hosts also take the names of LANs.
        let lans = ["cluster", "external"];
        let is_host = path.starts_with("/topology/") && path.matches('/').count() == 3 && !path.contains("/lans/");
        let allowed: BTreeSet<String> =
            allowed.split(", ").filter(|key| !(is_host && lans.contains(key))).map(str::to_owned).collect();
        assert_eq!(&allowed, properties, "{path}");
        compared += 1;
    }
    assert!(compared > 40, "{compared}");
}

#[test]
fn the_schema_says_no() {
    let schema = fairway_scenario::json_schema();
    let wrong = [
        ("name", serde_json::json!([])),
        ("name", Value::Null),
        ("topology", Value::from("x")),
        ("nme", Value::from("x")),
        ("timing", serde_json::json!({"watchLag": 5})),
        ("steps", serde_json::json!([{"pass": 5}])),
        ("steps", serde_json::json!([{"fault": {"killAgent": "vm-001", "drain": "vm-001"}}])),
        ("steps", serde_json::json!([{"trace": {"from": "vm-001"}}])),
        ("steps", serde_json::json!([{"trace": {"from": "vm-001", "to": "x", "protocol": "icmp"}}])),
    ];
    for (key, value) in wrong {
        let mut changed = everything();
        changed[key] = value.clone();
        let mut checker = Checker { root: &schema, allowed: BTreeMap::new(), used: BTreeSet::new() };
        assert!(checker.check(&schema, &changed, "", "#").is_err(), "{key}: {value}");
        assert!(common::parse(&changed.to_string()).is_err(), "the reader takes {key}: {value}");
    }
}

#[test]
fn every_key_is_described() {
    let schema = fairway_scenario::json_schema();
    let mut without = Vec::new();
    let mut look = |name: &str, definition: &Value| {
        for (key, property) in definition.get("properties").and_then(Value::as_object).into_iter().flatten() {
            if property.get("description").is_none() {
                without.push(format!("{name}.{key}"));
            }
        }
    };
    look("scenario", &schema);
    for (name, definition) in schema["$defs"].as_object().unwrap() {
        look(name, definition);
    }
    assert!(without.is_empty(), "{without:?}");
}
