//! The command line, in the notation of Go's flag package: `-x v`, `-x=v`, `--x`; booleans `-x` or `-x=false`.

use std::fmt::Write as _;
use std::str::FromStr;
use std::time::Duration;

use ipnet::IpNet;
use thiserror::Error;

use crate::address::HostPort;
use crate::client::ClientConfig;
use crate::duration::parse_duration;
use crate::server::ServerConfig;

/// What the command line asks for.
#[derive(Clone, Debug)]
pub enum Command {
    /// Print the usage: `-h`, `-help` or no arguments at all.
    Help,
    /// Print the version.
    Version,
    /// Serve until a signal comes.
    Server(ServerConfig),
    /// Make connections and report.
    Client(ClientRun),
}

/// A client run and what the program does around it.
#[derive(Clone, Debug)]
pub struct ClientRun {
    /// The run itself.
    pub config: ClientConfig,
    /// The form of the report.
    pub output: Output,
    /// How many percent a host's share may deviate from even.
    pub expect_even: Option<f64>,
    /// Where to answer liveness probes (HTTP) while the run lasts, if anywhere.
    pub probe: Option<HostPort>,
}

/// The form of the report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Output {
    /// Lines for people and shell scripts.
    Text,
    /// One line of JSON.
    Json,
}

/// A command line that was understood.
#[derive(Clone, Debug)]
pub struct Invocation {
    /// What to do.
    pub command: Command,
    /// What the original accepts in silence though it does nothing; sentences for stderr.
    pub warnings: Vec<String>,
}

/// A command line that was not understood. Each message is one sentence that names the flag.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum FlagError {
    /// No such flag.
    #[error("flag -{0} does not exist; -help lists the flags")]
    Unknown(String),
    /// Neither a flag nor a plain argument: `---x`, `-=x`.
    #[error("{0} is not a flag; write -name or -name=value")]
    Syntax(String),
    /// The flag is the last word but needs a value.
    #[error("flag -{0} needs a value")]
    NoValue(&'static str),
    /// The value cannot be used.
    #[error("flag -{flag} cannot take \"{value}\": {reason}")]
    BadValue {
        /// The flag, without dash.
        flag: &'static str,
        /// What was given.
        value: String,
        /// What is wrong with it or would be right.
        reason: String,
    },
}

impl FlagError {
    /// The exit status: 2 as Go's flag package has it, but 1 for a bad block, which the original checks on its own.
    pub fn status(&self) -> u8 {
        if matches!(self, FlagError::BadValue { flag: "srccidr", .. }) { 1 } else { 2 }
    }
}

/// Name, kind of value (empty: a boolean), default as shown, explanation. Sorted by name, as the usage shows them.
const FLAGS: [(&str, &str, &str, &str); 17] = [
    ("address", "host:port", "[::1]:5001", "Where to connect, or to listen with -server"),
    ("clients", "", "", "With -server, print a line \"client ADDRESS\" for each connection and datagram"),
    ("expect-even", "percent", "", "Exit with 1 if a host's share deviates more than this from even"),
    ("host", "name", "", "Name the server answers with (default: the host name)"),
    ("k8sprobe", "host:port", "", "Where to answer liveness probes (HTTP)"),
    ("keep", "", "", "Keep TCP connections open and read on until the timeout"),
    ("maxconcurrent", "int", "64", "Connects under way at one time"),
    ("nconn", "int", "1", "Number of connections"),
    ("output", "format", "txt", "Form of the report: txt or json"),
    ("seed", "int", "", "Seed of the -srccidr addresses; 0 takes one from the clock"),
    ("server", "", "", "Act as server"),
    ("srccidr", "cidr", "", "Block to draw a random source address from for each connection"),
    ("timeout", "duration", "", "Time for the whole run (default: 2 s and 1 ms per connection, 1 h with -keep)"),
    ("udp", "", "", "Use UDP; with -server, TCP and UDP"),
    ("version", "", "", "Print the version and exit"),
    ("h", "", "", ""),
    ("help", "", "", ""),
];

/// The usage text, flags in the layout of Go's flag package.
pub fn usage() -> String {
    let mut text = String::from(
        "\nMany connections to one address, counted by the host that answers: a test of\n\
         connectivity and load balancing.\n\nOptions:\n\n",
    );
    for (name, kind, default, explanation) in FLAGS.iter().filter(|flag| !flag.3.is_empty()) {
        let space = if kind.is_empty() { "" } else { " " };
        // Writing to a String cannot fail.
        let _ = write!(text, "  -{name}{space}{kind}\n    \t{explanation}");
        let _ = match default {
            &"" => writeln!(text),
            default => writeln!(text, " (default {default})"),
        };
    }
    text
}

struct Values {
    address: HostPort,
    server: bool,
    clients: bool,
    udp: bool,
    keep: bool,
    version: bool,
    nconn: u64,
    maxconcurrent: usize,
    timeout: Duration,
    source: Option<IpNet>,
    seed: u64,
    output: Output,
    probe: Option<HostPort>,
    expect_even: Option<f64>,
    host: Option<String>,
}

/// Reads the arguments (without the program's name).
///
/// # Errors
/// The first argument that is wrong.
pub fn parse(args: impl Iterator<Item = String>) -> Result<Invocation, FlagError> {
    let mut args = args.peekable();
    let mut warnings = Vec::new();
    if args.peek().is_none() {
        return Ok(Invocation { command: Command::Help, warnings });
    }
    let mut values = Values {
        address: value("address", "[::1]:5001")?,
        server: false,
        clients: false,
        udp: false,
        keep: false,
        version: false,
        nconn: 1,
        maxconcurrent: 64,
        timeout: Duration::ZERO,
        source: None,
        seed: 0,
        output: Output::Text,
        probe: None,
        expect_even: None,
        host: None,
    };
    while let Some(word) = args.next() {
        if word == "--" {
            break;
        }
        let Some(body) = word.strip_prefix('-').filter(|body| !body.is_empty()) else {
            warnings.push(format!("\"{word}\" and all that follows is ignored, since it is not a flag"));
            break;
        };
        let body = body.strip_prefix('-').unwrap_or(body);
        if body.starts_with(['-', '=']) || body.is_empty() {
            return Err(FlagError::Syntax(word));
        }
        let (name, inline) = match body.split_once('=') {
            Some((name, inline)) => (name, Some(inline.to_string())),
            None => (body, None),
        };
        let Some(&(name, kind, ..)) = FLAGS.iter().find(|flag| flag.0 == name) else {
            return Err(FlagError::Unknown(name.into()));
        };
        if matches!(name, "h" | "help") {
            return Ok(Invocation { command: Command::Help, warnings });
        }
        let text = match (inline, kind) {
            (Some(inline), _) => inline,
            (None, "") => "true".into(),
            (None, _) => args.next().ok_or(FlagError::NoValue(name))?,
        };
        values.set(name, &text, &mut warnings)?;
    }
    Ok(Invocation { command: values.command(), warnings })
}

impl Values {
    fn set(&mut self, name: &'static str, text: &str, warnings: &mut Vec<String>) -> Result<(), FlagError> {
        let bad = |reason: &str| FlagError::BadValue { flag: name, value: text.into(), reason: reason.into() };
        match name {
            "address" => self.address = value(name, text)?,
            "server" => self.server = boolean(text).ok_or_else(|| bad("true or false is needed"))?,
            "clients" => self.clients = boolean(text).ok_or_else(|| bad("true or false is needed"))?,
            "udp" => self.udp = boolean(text).ok_or_else(|| bad("true or false is needed"))?,
            "keep" => self.keep = boolean(text).ok_or_else(|| bad("true or false is needed"))?,
            "version" => self.version = boolean(text).ok_or_else(|| bad("true or false is needed"))?,
            "nconn" => {
                let number = integer(text).and_then(|number| u64::try_from(number).ok());
                self.nconn = number.ok_or_else(|| bad("a whole number of 0 or more is needed"))?;
            }
            "maxconcurrent" => {
                let number = integer(text).and_then(|number| usize::try_from(number).ok()).filter(|number| *number > 0);
                self.maxconcurrent = number.ok_or_else(|| bad("a whole number of 1 or more is needed"))?;
            }
            // A negative seed is as good as any other: only the bits matter.
            "seed" => self.seed = integer(text).ok_or_else(|| bad("a whole number is needed"))? as u64,
            "timeout" => self.timeout = parse_duration(text).map_err(|error| bad(&error.to_string()))?,
            "srccidr" => {
                let block = text.parse().map_err(|_| bad("a block is needed, for example 10.1.0.0/16 or fd00:1::/64"));
                self.source = if text.is_empty() { None } else { Some(block?) };
            }
            "output" => {
                self.output = if text == "json" { Output::Json } else { Output::Text };
                if !matches!(text, "json" | "txt") {
                    warnings.push(format!("-output \"{text}\" is not known, the report comes as txt"));
                }
            }
            "k8sprobe" => self.probe = if text.is_empty() { None } else { Some(value(name, text)?) },
            "expect-even" => {
                let percent = text.parse().ok().filter(|percent: &f64| percent.is_finite() && *percent >= 0.0);
                self.expect_even = Some(percent.ok_or_else(|| bad("a percentage of 0 or more is needed"))?);
            }
            "host" if text.is_empty() => return Err(bad("a name is needed")),
            "host" => self.host = Some(text.into()),
            _ => return Err(FlagError::Unknown(name.into())),
        }
        Ok(())
    }

    fn command(self) -> Command {
        if self.version {
            return Command::Version;
        }
        if self.server {
            let Self { address, udp, host, probe, clients, .. } = self;
            return Command::Server(ServerConfig { address, udp, host, probe, clients });
        }
        let Self { address, udp, nconn, maxconcurrent, timeout, source, seed, keep, .. } = self;
        let config = ClientConfig { address, udp, nconn, maxconcurrent, timeout, source, seed, keep };
        Command::Client(ClientRun { config, output: self.output, expect_even: self.expect_even, probe: self.probe })
    }
}

fn value<T: FromStr<Err: ToString>>(flag: &'static str, text: &str) -> Result<T, FlagError> {
    let bad = |error: T::Err| FlagError::BadValue { flag, value: text.into(), reason: error.to_string() };
    text.parse().map_err(bad)
}

fn boolean(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

/// A Go integer: decimal, or by prefix hexadecimal, octal (also a bare leading zero) or binary.
fn integer(text: &str) -> Option<i64> {
    let (negative, digits) = match text.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let lower = digits.to_ascii_lowercase();
    let (digits, radix) = match lower.get(..2) {
        Some("0x") => (&lower[2..], 16),
        Some("0o") => (&lower[2..], 8),
        Some("0b") => (&lower[2..], 2),
        Some(zero) if zero.starts_with('0') => (&lower[1..], 8),
        _ => (&lower[..], 10),
    };
    // The parser would take a second sign.
    if !digits.starts_with(|digit: char| digit.is_digit(radix)) {
        return None;
    }
    let number = i128::from_str_radix(digits, radix).ok()?;
    i64::try_from(if negative { -number } else { number }).ok()
}
