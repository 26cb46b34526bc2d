//! `fairway schema`

use std::io::Write;

/// Prints the JSON Schema of the scenario file.
pub(crate) fn run() -> u8 {
    let schema = fairway_scenario::json_schema();
    let text = serde_json::to_string_pretty(&schema).unwrap_or_else(|_| schema.to_string());
    // A reader that went away (`| head`) is not an error.
    let _gone = writeln!(std::io::stdout(), "{text}");
    0
}
