//! The whole program: arguments in, report out, exit status.

use std::future::Future;
use std::io::{self, Write};
use std::time::Duration;

use tokio::runtime::Runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::client::{Outcome, client_until};
use crate::flags::{ClientRun, Command, Output, parse, usage};
use crate::probe;
use crate::report::Report;
use crate::server::{Server, ServerConfig, listen};

/// Exit status when failures were counted, an expectation was not met, or the run could not be made.
const FAILURE: u8 = 1;

/// Exit status of a program ended by a signal, less the signal's number, as shells have it.
const SIGNALLED: u8 = 128;

/// Runs the program with these arguments (without the program's name) and returns its exit status. It makes its own
/// tokio runtime, so it must not be called from within another.
pub fn main(args: impl Iterator<Item = String>) -> u8 {
    run(args, &mut io::stdout(), &mut io::stderr())
}

/// [`main`] with other places for its output.
pub fn run(args: impl Iterator<Item = String>, stdout: &mut impl Write, stderr: &mut impl Write) -> u8 {
    let invocation = match parse(args) {
        Ok(invocation) => invocation,
        Err(error) => {
            say(stderr, &error.to_string());
            return error.status();
        }
    };
    for warning in &invocation.warnings {
        say(stderr, warning);
    }
    let result = match invocation.command {
        // Go's flag package writes the usage to stderr, and so does the original, asked for or not.
        Command::Help => stderr.write_all(usage().as_bytes()).map(|()| 0),
        Command::Version => writeln!(stdout, "{}", env!("CARGO_PKG_VERSION")).map(|()| 0),
        Command::Server(config) => on_runtime(run_server(&config, stderr)),
        Command::Client(run) => on_runtime(run_client(&run, stdout, stderr)),
    };
    result.unwrap_or_else(|error| {
        say(stderr, &error.to_string());
        FAILURE
    })
}

fn on_runtime(future: impl Future<Output = io::Result<u8>>) -> io::Result<u8> {
    let runtime = Runtime::new()?;
    let result = runtime.block_on(future);
    // A look-up of a name may hang in a thread that nobody can stop; the process must not wait for it.
    runtime.shutdown_timeout(Duration::from_millis(10));
    result
}

async fn run_server(config: &ServerConfig, stderr: &mut impl Write) -> io::Result<u8> {
    // Before the sockets, so that no signal after the first answer finds the default action.
    let mut signals = Signals::new()?;
    let server = Server::bind(config).await?;
    let protocols = if config.udp { "TCP and UDP" } else { "TCP" };
    say(stderr, &format!("listening on {protocols} {}", server.address()?));
    if let Some(address) = server.probe_address()? {
        say(stderr, &format!("answering liveness probes on {address}"));
    }
    let signalled = async {
        signals.next().await;
    };
    server.run(signalled).await;
    Ok(0)
}

async fn run_client(run: &ClientRun, stdout: &mut impl Write, stderr: &mut impl Write) -> io::Result<u8> {
    let mut signals = Signals::new()?;
    let probes = match &run.probe {
        Some(address) => Some(tokio::spawn(probe::serve(listen(address).await?))),
        None => None,
    };
    let mut number = 0;
    let outcome = client_until(&run.config, async { number = signals.next().await }).await;
    if let Some(probes) = probes {
        probes.abort();
    }
    let status = conclude(&outcome, run, stdout, stderr)?;
    Ok(if outcome.interrupted { SIGNALLED + number } else { status })
}

/// Prints what the run gave and judges it.
fn conclude(outcome: &Outcome, run: &ClientRun, stdout: &mut impl Write, stderr: &mut impl Write) -> io::Result<u8> {
    let report = &outcome.report;
    match run.output {
        Output::Text => stdout.write_all(report.text().as_bytes())?,
        Output::Json => writeln!(stdout, "{}", report.json())?,
    }
    stdout.flush()?;
    for (cause, count) in &outcome.failures {
        say(stderr, &format!("{count} x {cause}"));
    }
    let uneven = run.expect_even.and_then(|percent| uneven(report, percent));
    if let Some(complaint) = &uneven {
        say(stderr, complaint);
    }
    Ok(if report.failed() > 0 || uneven.is_some() { FAILURE } else { 0 })
}

/// A sentence about the host furthest from an even share, if that is further than `percent`.
fn uneven(report: &Report, percent: f64) -> Option<String> {
    let spread = report.spread()?;
    if spread.deviation_percent <= percent {
        return None;
    }
    let distance = |count: u64| (count as f64 - spread.mean).abs();
    let (host, count) = report.hosts.iter().max_by(|a, b| distance(*a.1).total_cmp(&distance(*b.1)))?;
    let (mean, deviation) = (spread.mean, spread.deviation_percent);
    Some(format!(
        "-expect-even {percent}: {host} has {count} where {mean:.1} were even, a deviation of {deviation:.1} percent"
    ))
}

/// SIGINT and SIGTERM.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())? })
    }

    /// The number of the next one.
    async fn next(&mut self) -> u8 {
        tokio::select! {
            _ = self.interrupt.recv() => 2,
            _ = self.terminate.recv() => 15,
        }
    }
}

fn say(stderr: &mut impl Write, sentence: &str) {
    // If even stderr is closed there is nobody left to be told.
    let _ = writeln!(stderr, "mconnect: {sentence}");
}
