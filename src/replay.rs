//! `fairway replay`: an agent lives through a recording again.

use std::io::{self, BufWriter, Write};
use std::path::PathBuf;
use std::time::{Duration, UNIX_EPOCH};

use clap::Args;
use fairway_agent::{Input, Output};
use fairway_objects::Delta;
use fairway_record::{Difference, Ended, Header, Replay as Player, Step};
use serde_json::json;

use crate::USAGE;
use crate::documents::Form;

/// Options of `fairway replay`.
#[derive(Args)]
pub(crate) struct Replay {
    /// A file that `fairway node --record FILE` wrote.
    file: PathBuf,
    /// Only the first part: so long after the start of the daemon.
    #[arg(long, value_name = "DURATION", value_parser = fairway_mconnect::parse_duration)]
    until: Option<Duration>,
    /// Only whether it is the same, not each step.
    #[arg(long, short)]
    quiet: bool,
    /// Text for people, or a JSON document per line.
    #[arg(long, short, value_enum, default_value_t = Form::Text)]
    output: Form,
}

impl Replay {
    /// Plays and prints. Exit status 0 if all outputs are those of the recording; 1 if not; 2 if there is no recording.
    pub(crate) fn run(self) -> u8 {
        let wrong = |reason: &dyn std::fmt::Display| {
            let _gone = writeln!(io::stderr(), "fairway replay: {}: {reason}", self.file.display());
            USAGE
        };
        let bytes = match std::fs::read(&self.file) {
            Ok(bytes) => bytes,
            Err(error) => return wrong(&error),
        };
        let player = match Player::new(&bytes) {
            Ok(player) => player,
            Err(error) => return wrong(&error),
        };
        // Whoever reads the output may have seen enough.
        self.play(player, &mut BufWriter::new(io::stdout().lock())).unwrap_or_default()
    }

    fn play(&self, mut player: Player<'_>, out: &mut dyn Write) -> io::Result<u8> {
        let own = player.header().is_of(env!("CARGO_PKG_VERSION"));
        self.header(player.header(), out)?;
        let (mut steps, mut outputs, mut unknown) = (0, 0, 0);
        let mut early = false;
        for step in player.by_ref() {
            if self.until.is_some_and(|until| step.at > until) {
                early = true;
                break;
            }
            steps += 1;
            outputs += step.outputs.len();
            unknown += usize::from(step.identical.is_none());
            if !self.quiet {
                self.step(&step, out)?;
            }
        }
        let ended = if early { "at --until" } else { ended(player.ended()) };
        let difference = player.difference();
        let unreadable = !early && player.ended() == Some(Ended::Unreadable);
        match self.output {
            Form::Json => writeln!(
                out,
                "{}",
                json!({
                    "identical": difference.is_none() && !unreadable, "steps": steps, "outputs": outputs,
                    "unknown": unknown, "ended": ended,
                    "difference": difference.map(|d| json!({"step": d.step, "recorded": d.recorded, "now": d.now})),
                })
            )?,
            Form::Text => {
                let verdict = match difference {
                    None => "identical".to_string(),
                    Some(Difference { step, .. }) if own => format!("not the same from step {step} on"),
                    Some(Difference { step, .. }) => {
                        format!("not the same from step {step} on; another version made it")
                    }
                };
                writeln!(out, "{verdict}: {steps} inputs, {outputs} outputs; the recording ends {ended}")?;
            }
        }
        out.flush()?;
        Ok(u8::from(difference.is_some() || unreadable))
    }

    fn header(&self, header: &Header, out: &mut dyn Write) -> io::Result<()> {
        let Header { version, started_ms, seed, config } = header;
        let started = humantime::format_rfc3339_millis(UNIX_EPOCH + Duration::from_millis(*started_ms)).to_string();
        match self.output {
            Form::Json => writeln!(
                out,
                "{}",
                json!({"version": version, "started": started, "seed": seed, "config": format!("{config:?}")})
            ),
            Form::Text => {
                writeln!(out, "node {}, fairway {version}, started {started}, seed {seed}", config.node_name)?;
                if self.quiet { Ok(()) } else { writeln!(out, "{config:?}") }
            }
        }
    }

    fn step(&self, step: &Step, out: &mut dyn Write) -> io::Result<()> {
        let outputs = step.outputs.iter().map(|output| format!("{output:?}"));
        match self.output {
            Form::Json => writeln!(
                out,
                "{}",
                json!({
                    "step": step.number, "at": step.at.as_secs_f64(), "input": format!("{:?}", step.input),
                    "outputs": outputs.collect::<Vec<_>>(), "identical": step.identical,
                })
            ),
            Form::Text => {
                let mark = match step.identical {
                    Some(true) => "",
                    Some(false) => "  NOT AS RECORDED",
                    None => "  cut here",
                };
                writeln!(out, "{:>12.6} {} {}{mark}", step.at.as_secs_f64(), step.number, input(&step.input))?;
                step.outputs.iter().try_for_each(|output| writeln!(out, "{:>12} -> {}", "", wanted(output)))
            }
        }
    }
}

fn ended(ended: Option<Ended>) -> &'static str {
    match ended {
        Some(Ended::Complete) => "with the daemon",
        Some(Ended::Unreadable) => "for us where it cannot be read: another version made it, or it is damaged",
        Some(Ended::Cut) | None => "in the middle: the daemon died, or --record-limit was reached",
    }
}

/// An input in one line. Tables can be long; JSON has them whole.
fn input(input: &Input) -> String {
    match input {
        Input::Delta(Delta::Put { object, .. }) => format!("put {:?}", object.key()),
        Input::Observed(observation) => format!("observed {}", observation.plane().as_str()),
        input => shortened(format!("{input:?}")),
    }
}

fn wanted(output: &Output) -> String {
    match output {
        Output::Observe(plane) => format!("observe {}", plane.as_str()),
        Output::Apply(batch) => shortened(format!("apply {} {batch:?}", batch.len())),
        output => shortened(format!("{output:?}")),
    }
}

fn shortened(mut text: String) -> String {
    const LONGEST: usize = 400;
    if let Some((at, _)) = text.char_indices().nth(LONGEST) {
        text.truncate(at);
        text.push_str(" ...");
    }
    text
}
