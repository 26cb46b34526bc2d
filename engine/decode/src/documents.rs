//! The documents of a YAML text.

use serde_json::Value;

/// One document of a text.
#[derive(Debug, Clone, PartialEq)]
pub struct Document {
    /// Number of the document in the text, from 1.
    pub number: usize,
    /// Line where it begins, from 1.
    pub line: usize,
    /// What it says; of a `kind: List`, one item.
    pub value: Result<Value, DocumentError>,
}

/// Why a document cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {reason}")]
pub struct DocumentError {
    /// Line of the mistake in the whole text, from 1.
    pub line: usize,
    /// What is wrong.
    pub reason: String,
}

/// Strict booleans as in YAML 1.2: `on` and `yes` are texts, and so are numbers with a leading zero.
fn options() -> serde_saphyr::Options {
    let mut options = serde_saphyr::Options::default();
    options.strict_booleans = true;
    options.underscored_numbers_as_strings = true;
    options.leading_zero_numbers_as_strings = true;
    options.with_snippet = false;
    options
}

/// Cuts a text at its `---` lines, so that a document that is no YAML does not hide the others. Empty documents are
/// left out, lists (`kind: List`) taken apart. JSON is YAML.
pub fn documents(text: &str) -> Vec<Document> {
    let mut parts: Vec<(usize, String)> = vec![(1, String::new())];
    for (i, line) in text.lines().enumerate() {
        if line == "---" || line.starts_with("--- ") {
            parts.push((i + 2, String::new()));
        } else if let Some((_, part)) = parts.last_mut() {
            part.push_str(line);
            part.push('\n');
        }
    }
    let mut documents = vec![];
    for (line, part) in parts {
        let number = documents.len() + 1;
        match serde_saphyr::from_str_with_options::<Value>(&part, options()) {
            Ok(Value::Null) => {}
            Ok(value) if value.get("kind").and_then(Value::as_str) == Some("List") => {
                for item in value.get("items").and_then(Value::as_array).into_iter().flatten() {
                    documents.push(Document { number: documents.len() + 1, line, value: Ok(item.clone()) });
                }
            }
            Ok(value) => documents.push(Document { number, line, value: Ok(value) }),
            Err(wrong) => {
                let wrong = wrong.without_snippet();
                // A text of comments alone is an empty document, whatever the parser calls it.
                if part.lines().all(|l| l.trim().is_empty() || l.trim_start().starts_with('#')) {
                    continue;
                }
                let at = wrong.location().map_or(line, |l| line + usize::try_from(l.line()).unwrap_or(1) - 1);
                let reason = wrong.to_string();
                let reason = reason.lines().next().unwrap_or_default().to_string();
                documents.push(Document { number, line, value: Err(DocumentError { line: at, reason }) });
            }
        }
    }
    documents
}
