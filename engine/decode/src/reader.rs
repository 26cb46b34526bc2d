//! Typed reading with the path of what is wrong, and the list of notices.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::str::FromStr;

use fairway_objects::{Notice, Object, ObjectKey, Subject};
use serde::de::DeserializeOwned;
use serde_json::Value;

/// An object and what was ignored in it, or the field that makes it unusable and why.
pub(crate) type Read = Result<(Object, Vec<Notice>), (String, String)>;

/// Reads the API type; a mistake is reported with its path.
pub(crate) fn typed<T: DeserializeOwned>(value: &Value) -> Result<T, (String, String)> {
    serde_path_to_error::deserialize(value).map_err(|error| {
        let path = error.path().to_string();
        (if path == "." { String::new() } else { path }, error.into_inner().to_string())
    })
}

/// Collects notices about one object.
#[derive(Debug)]
pub(crate) struct Notices {
    key: ObjectKey,
    pub(crate) list: Vec<Notice>,
}

impl Notices {
    pub(crate) fn new(key: &ObjectKey) -> Self {
        Notices { key: key.clone(), list: vec![] }
    }

    pub(crate) fn add(&mut self, field: impl Into<String>, reason: impl Into<String>) {
        self.list.push(Notice {
            subject: Subject::Object(self.key.clone()),
            field: field.into(),
            reason: reason.into(),
        });
    }

    /// Parses a text; what cannot be parsed is a notice that quotes it.
    pub(crate) fn parse<T: FromStr>(&mut self, field: impl Display, text: &str, wanted: &str) -> Option<T> {
        match text.trim().parse() {
            Ok(value) => Some(value),
            Err(_) => {
                self.add(field.to_string(), format!("`{text}` is not {wanted}"));
                None
            }
        }
    }

    /// A port number in 1 to 65535.
    pub(crate) fn port(&mut self, field: impl Display, number: i32) -> Option<u16> {
        match u16::try_from(number) {
            Ok(port) if port != 0 => Some(port),
            _ => {
                self.add(field.to_string(), format!("{number} is not a port (1-65535)"));
                None
            }
        }
    }
}

/// `metadata.annotations` or `metadata.labels`, empty if absent.
pub(crate) type Words = BTreeMap<String, String>;

/// Go's `strconv.ParseBool`.
pub(crate) fn go_bool(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "TRUE" | "true" | "True" => Some(true),
        "0" | "f" | "F" | "FALSE" | "false" | "False" => Some(false),
        _ => None,
    }
}

/// Go's `strconv.ParseUint(text, 0, 32)`: decimal, `0x`, `0o`, `0b`, or octal with a leading zero.
pub(crate) fn go_u32(text: &str) -> Option<u32> {
    let lower = text.trim().to_ascii_lowercase();
    let (digits, radix) = match lower.as_bytes() {
        [b'0', b'x', ..] => (&lower[2..], 16),
        [b'0', b'o', ..] => (&lower[2..], 8),
        [b'0', b'b', ..] => (&lower[2..], 2),
        [b'0', _, ..] => (&lower[1..], 8),
        _ => (&lower[..], 10),
    };
    if digits.starts_with('+') { None } else { u32::from_str_radix(digits, radix).ok() }
}
