//! Where flags come from besides the command line: environment variables and a file, both below it.
//!
//! A flag that a higher place has is not read from a lower one; lists are not merged.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use serde_json::Value;
use serde_saphyr::{Location, Spanned};

use super::{FLAGS, FlagError, Syntax};

/// `run-router` in the environment is `FAIRWAY_RUN_ROUTER`.
const PREFIX: &str = "FAIRWAY_";
/// A larger file is not read: nobody writes such flags.
const FILE_MAX: u64 = 1 << 20;

/// Where a word stands, the highest place first.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Place {
    CommandLine,
    Environment(String),
    File { path: String, line: u64, key: String },
}

impl Place {
    fn level(&self) -> u8 {
        match self {
            Place::CommandLine => 0,
            Place::Environment(_) => 1,
            Place::File { .. } => 2,
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::CommandLine => Ok(()),
            Place::Environment(name) => write!(f, "environment variable {name}: "),
            Place::File { path, line, key } => write!(f, "{path}:{line}: {key}: "),
        }
    }
}

/// One flag with its value, `--name=value`.
#[derive(Clone, Debug)]
pub(super) struct Word {
    pub(super) text: String,
    place: Place,
}

impl Word {
    fn name(&self) -> &str {
        self.text.trim_start_matches('-').split('=').next().unwrap_or_default()
    }
}

/// A command line cut into words.
pub(super) enum Line {
    Help,
    Version,
    Words(Vec<Word>),
}

fn wrong(message: String) -> Vec<FlagError> {
    vec![FlagError { index: None, message }]
}

/// Cuts the command line as pflag does: a value may be a word of its own, except of a boolean; `-v3`, `-v=3`, `-v 3`.
pub(super) fn command_line(args: &[String]) -> Result<Line, Vec<FlagError>> {
    let mut found: Vec<Word> = vec![];
    let mut words = args.iter();
    while let Some(word) = words.next() {
        match word.as_str() {
            "-h" | "--help" | "--help=true" => return Ok(Line::Help),
            "-V" | "--version" | "--version=true" => return Ok(Line::Version),
            "--help=false" | "--version=false" => continue,
            _ => {}
        }
        let long = match word.strip_prefix("-v") {
            Some("") => Some("v".to_string()),
            Some(level) => Some(format!("v={}", level.trim_start_matches('='))),
            None => word.strip_prefix("--").map(String::from),
        };
        let text = match long {
            Some(long) => {
                let takes_word =
                    FLAGS.iter().any(|&(name, syntax, ..)| name == long && !matches!(syntax, Syntax::Bool));
                match takes_word.then(|| words.next()) {
                    Some(Some(value)) => format!("--{long}={value}"),
                    Some(None) => return Err(wrong(format!("--{long} needs a value"))),
                    None => format!("--{long}"),
                }
            }
            None => word.clone(),
        };
        found.push(Word { text, place: Place::CommandLine });
    }
    Ok(Line::Words(found))
}

/// The flags in effect: each from the highest place that has it.
pub(super) fn all(words: Vec<Word>, environment: &[(String, String)]) -> Result<Vec<Word>, Vec<FlagError>> {
    let mut all = words;
    all.extend(variables(environment));
    let file = all.iter().filter(|w| w.name() == "config").min_by_key(|w| w.place.level());
    let file = file.and_then(|word| word.text.split_once('=')).map(|(_, path)| path.to_string());
    if let Some(path) = file.filter(|path| !path.is_empty()) {
        all.extend(read(&path)?);
    }
    let mut highest: BTreeMap<String, u8> = BTreeMap::new();
    for word in &all {
        let level = highest.entry(word.name().to_string()).or_insert(u8::MAX);
        *level = word.place.level().min(*level);
    }
    all.retain(|word| highest.get(word.name()) == Some(&word.place.level()));
    Ok(all)
}

/// Puts the place of a word before what is wrong with it.
pub(super) fn placed(errors: Vec<FlagError>, words: &[Word]) -> Vec<FlagError> {
    let place = |error: FlagError| match error.index.and_then(|index| words.get(index)) {
        Some(word) => FlagError { message: format!("{}{}", word.place, error.message), ..error },
        None => error,
    };
    errors.into_iter().map(place).collect()
}

/// Variables that are no flags are somebody else's: a Service called `fairway` alone makes a dozen.
fn variables(environment: &[(String, String)]) -> Vec<Word> {
    let word = |(variable, value): &(String, String)| {
        let name = variable.strip_prefix(PREFIX)?.to_ascii_lowercase().replace('_', "-");
        let known = FLAGS.iter().any(|&(known, ..)| known == name);
        let place = Place::Environment(variable.clone());
        (known && !value.is_empty()).then(|| Word { text: format!("--{name}={value}"), place })
    };
    environment.iter().filter_map(word).collect()
}

/// Reads `--config`: a mapping of flag names to values.
fn read(path: &str) -> Result<Vec<Word>, Vec<FlagError>> {
    let failed = |reason: String| wrong(format!("--config {path}: {reason}"));
    let size = std::fs::metadata(Path::new(path)).map_err(|error| failed(error.to_string()))?.len();
    if size > FILE_MAX {
        return Err(failed(format!("larger than {} MiB", FILE_MAX >> 20)));
    }
    let text = std::fs::read_to_string(path).map_err(|error| failed(error.to_string()))?;
    parse(path, &text)
}

fn parse(path: &str, text: &str) -> Result<Vec<Word>, Vec<FlagError>> {
    let mut options = serde_saphyr::Options::default();
    options.strict_booleans = true;
    options.with_snippet = false;
    // Ports and AS numbers are numbers, router ids and passwords texts, whatever they look like.
    options.leading_zero_numbers_as_strings = true;
    options.underscored_numbers_as_strings = true;
    if text.lines().all(|line| line.trim().is_empty() || line.trim_start().starts_with('#')) {
        return Ok(vec![]);
    }
    let settings: BTreeMap<String, Spanned<Value>> =
        serde_saphyr::from_str_with_options(text, options).map_err(|error| wrong(syntax(path, &error)))?;
    let mut words = vec![];
    let mut errors = vec![];
    for (key, setting) in settings {
        let line = setting.defined.line();
        let place = Place::File { path: path.into(), line, key: key.clone() };
        match (key.as_str(), value(&setting.value)) {
            ("config" | "help" | "version", _) => {
                errors.push(FlagError { index: None, message: format!("{place}only for the command line") });
            }
            (_, Err(reason)) => errors.push(FlagError { index: None, message: format!("{place}{reason}") }),
            (name, Ok(value)) => words.push(Word { text: format!("--{name}={value}"), place }),
        }
    }
    if errors.is_empty() { Ok(words) } else { Err(errors) }
}

fn syntax(path: &str, error: &serde_saphyr::Error) -> String {
    let error = error.without_snippet();
    let text = error.to_string();
    let text = text.split(" at line ").next().unwrap_or(&text).lines().next().unwrap_or_default();
    match error.location() {
        Some(location) if location != Location::UNKNOWN => format!("{path}:{}: {text}", location.line()),
        _ => format!("{path}: {text}"),
    }
}

/// A YAML value as pflag would have it.
fn value(value: &Value) -> Result<String, String> {
    match value {
        Value::Bool(b) => Ok(b.to_string()),
        Value::Number(n) => Ok(n.to_string()),
        Value::String(text) => Ok(text.clone()),
        Value::Array(items) => {
            let items: Result<Vec<String>, String> = items
                .iter()
                .map(|item| match item {
                    Value::Array(_) => Err("a list in a list".to_string()),
                    item => self::value(item),
                })
                .collect();
            Ok(items?.join(","))
        }
        Value::Null => Err("a value is needed".into()),
        Value::Object(_) => Err("a value or a list is needed, not a mapping".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(words: &[Word]) -> Vec<&str> {
        words.iter().map(|w| w.text.as_str()).collect()
    }

    #[test]
    fn yaml_is_read_as_flags_with_their_lines() {
        let words = parse(
            "f.yaml",
            "# ours\nrun-router: true\nbgp-port: 1790\npeer-router-ips:\n  - 10.0.0.1\n  - 10.0.0.2\nhostname-override: vm-001\n",
        )
        .expect("valid");
        let wanted = [
            "--bgp-port=1790",
            "--hostname-override=vm-001",
            "--peer-router-ips=10.0.0.1,10.0.0.2",
            "--run-router=true",
        ];
        assert_eq!(texts(&words), wanted);
        assert_eq!(words[3].place.to_string(), "f.yaml:2: run-router: ");
        assert!(parse("f.yaml", "# nothing\n\n").expect("valid").is_empty());
        let error = |text| parse("f.yaml", text).expect_err("is refused")[0].message.clone();
        assert_eq!(error("a: 1\nrun-router:\n"), "f.yaml:2: run-router: a value is needed");
        assert_eq!(error("v: {a: b}\n"), "f.yaml:1: v: a value or a list is needed, not a mapping");
        assert_eq!(error("config: other.yaml\n"), "f.yaml:1: config: only for the command line");
        assert!(error("v: 1\nv: 2\n").starts_with("f.yaml:2: "), "{}", error("v: 1\nv: 2\n"));
        assert!(error("- run-router\n").starts_with("f.yaml:1: "), "{}", error("- run-router\n"));
        assert!(error("a: [\n").starts_with("f.yaml:"), "{}", error("a: [\n"));
    }

    #[test]
    fn the_command_line_goes_before_the_environment_and_that_before_the_file() {
        let folder = std::env::temp_dir().join(format!("fairway-flags-{}", std::process::id()));
        std::fs::write(&folder, "bgp-port: 1\nv: 1\ncluster-asn: 65001\nexcluded-cidrs: [10.0.0.0/8]\n")
            .expect("a file");
        let environment = |name: &str, value: &str| (name.to_string(), value.to_string());
        let variables = [
            environment("FAIRWAY_CONFIG", &folder.display().to_string()),
            environment("FAIRWAY_BGP_PORT", "2"),
            environment("FAIRWAY_V", "2"),
            environment("FAIRWAY_PORT_80_TCP", "tcp://10.0.0.1:80"),
            environment("FAIRWAY_EXCLUDED_CIDRS", ""),
            environment("BGP_PORT", "3"),
        ];
        let Ok(Line::Words(words)) = command_line(&["--v=3".to_string()]) else { panic!("words") };
        let words = all(words, &variables);
        std::fs::remove_file(&folder).expect("it is there");
        let words = words.expect("valid");
        let mut found = texts(&words);
        found.retain(|text| !text.starts_with("--config"));
        assert_eq!(found, ["--v=3", "--bgp-port=2", "--cluster-asn=65001", "--excluded-cidrs=10.0.0.0/8"]);
    }
}
