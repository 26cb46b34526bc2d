//! Plays the steps of a scenario on a stage, one after the other, until one fails.

mod condition;
mod judge;
mod print;

use std::time::Duration;

use crate::report::{Outcome, StepOutcome, Verdict};
use crate::scenario::Scenario;
use crate::sink::{Event, Sink};
use crate::stage::{Answer, Stage, StageError};
use crate::step::{Action, Ask, Conditions, Lapse, LoadExpect, Show, Step};
use crate::text::show_duration;

/// How to run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RunOptions {
    /// The seed the stage was made with; for the report and the line that reproduces it.
    pub seed: u64,
}

/// What was not as expected.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Mismatch {
    place: String,
    expected: String,
    seen: String,
}

/// Why a step ended the run.
enum Stop {
    Fail(Mismatch),
    Error(StageError),
}

impl From<StageError> for Stop {
    fn from(error: StageError) -> Self {
        Stop::Error(error)
    }
}

/// An answer of so many lines is not printed a second time.
const SHORT: usize = 12;
/// Calls without any progress of time after which a stage counts as stuck.
const STUCK_CALLS: u32 = 1_000_000;

/// The outcome of a scenario before its first step: passed so far, or skipped if the stage lacks what it needs.
pub fn unplayed(scenario: &Scenario, stage: &str, seed: u64, offered: &[String]) -> Outcome {
    let missing: Vec<&str> = scenario.needs.iter().filter(|need| !offered.contains(need)).map(String::as_str).collect();
    let reason = (!missing.is_empty()).then(|| format!("stage {stage} does not offer {}", missing.join(", ")));
    let reproduce = format!("fairway run {} --stage {stage} --seed {seed}", quoted(&scenario.source.name));
    Outcome {
        name: scenario.name.clone(),
        file: scenario.source.name.clone(),
        stage: stage.to_owned(),
        seed,
        result: if reason.is_some() { Verdict::Skip } else { Verdict::Pass },
        reason,
        virtual_ms: 0,
        real_ms: 0,
        steps: Vec::new(),
        trace_hash: None,
        reproduce,
    }
}

/// Plays a scenario on a stage that was made for it, telling the sink what happens.
pub fn run(scenario: &Scenario, stage: &mut dyn Stage, options: &RunOptions, sink: &mut dyn Sink) -> Outcome {
    let mut outcome = unplayed(scenario, stage.name(), options.seed, &stage.features());
    let mut run = Run { scenario, stage, sink };
    for step in &scenario.steps {
        let title = print::title(step);
        let place = step.span.place();
        let mut done =
            StepOutcome { title, result: Verdict::Skip, place, expected: None, seen: None, at_ms: outcome.virtual_ms };
        if outcome.result == Verdict::Pass {
            run.sink.event(Event::Step { at: run.stage.now(), title: &done.title });
            let result = run.step(step);
            done.result = match result {
                Ok(()) => Verdict::Pass,
                Err(Stop::Fail(mismatch)) => {
                    let Mismatch { place, expected, seen } = mismatch;
                    run.sink.event(Event::Failed { place: &place, expected: &expected, seen: &seen });
                    outcome.reason =
                        Some(format!("{place}: expected {}, seen {}", one_line(&expected), one_line(&seen)));
                    (done.place, done.expected, done.seen) = (place, Some(expected), Some(seen));
                    Verdict::Fail
                }
                Err(Stop::Error(error)) => {
                    let (expected, seen) = ("the stage does this step".to_owned(), error.to_string());
                    run.sink.event(Event::Failed { place: &done.place, expected: &expected, seen: &seen });
                    outcome.reason = Some(format!("{}: {error}", done.place));
                    (done.expected, done.seen) = (Some(expected), Some(seen));
                    Verdict::Error
                }
            };
            outcome.result = done.result;
            outcome.virtual_ms = millis(run.stage.now());
            done.at_ms = outcome.virtual_ms;
        }
        outcome.steps.push(done);
    }
    outcome.virtual_ms = millis(run.stage.now());
    outcome.trace_hash = run.stage.trace_hash();
    outcome
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// The text on one line, for the summary.
fn one_line(text: &str) -> String {
    text.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join("; ")
}

/// A file name as a shell takes it.
fn quoted(name: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+:@%=,".contains(c);
    if !name.is_empty() && name.chars().all(plain) {
        name.to_owned()
    } else {
        format!("'{}'", name.replace('\'', r"'\''"))
    }
}

struct Run<'a> {
    scenario: &'a Scenario,
    stage: &'a mut dyn Stage,
    sink: &'a mut dyn Sink,
}

impl Run<'_> {
    fn step(&mut self, step: &Step) -> Result<(), Stop> {
        match &step.action {
            Action::Until { within, conditions } => self.until(*within, conditions)?,
            Action::Expect(conditions) => {
                for condition in conditions {
                    if let Some(mismatch) = self.check(condition)? {
                        return Err(Stop::Fail(mismatch));
                    }
                }
                self.sink.event(Event::Remark("as expected"));
            }
            Action::Show(show) => self.show(show)?,
            Action::Mconnect { request, expect } => {
                // What one would type is the address; a stage that cannot tell it fails below if it must.
                let address =
                    self.stage.resolve(&request.address).map_or(request.address.to_string(), |a| a.to_string());
                self.command(&request.from.to_string(), &print::mconnect_command(request, &address));
                let result = self.stage.mconnect(request)?;
                self.sink.event(Event::Output(&result.report.text()));
                self.show_after(step.show.as_ref())?;
                return self.judge(step, &result, expect, &request.from, request.srccidr);
            }
            Action::Load(request) => {
                self.stage.load_start(request)?;
                let text = format!("load {} runs: {} to {}", request.name, print::load_mode(request), request.address);
                self.sink.event(Event::Remark(&text));
            }
            Action::Measure { load, duration, expect } => {
                self.stage.load_take(load)?;
                self.pass(*duration)?;
                let result = self.stage.load_take(load)?;
                self.sink.event(Event::Output(&result.report.text()));
                self.show_after(step.show.as_ref())?;
                return self.judge_load(step, load, &result, expect);
            }
            Action::Stop { load, expect } => {
                let result = self.stage.load_stop(load)?;
                self.sink.event(Event::Output(&result.report.text()));
                self.show_after(step.show.as_ref())?;
                return self.judge_load(step, load, &result, expect);
            }
            Action::Pass(duration) => self.pass(*duration)?,
            Action::Apply(objects) => {
                for object in objects {
                    self.command("kubectl", &format!("apply -f {}", object.name));
                    let lines = self.stage.apply(&object.name, &object.yaml)?;
                    self.sink.event(Event::Output(&lines.join("\n")));
                }
            }
            Action::Delete { kind, namespace, name } => {
                self.command("kubectl", &format!("delete -n {namespace} {kind} {name}"));
                self.stage.delete(kind, namespace, name)?;
            }
            Action::Scale { namespace, deployment, replicas } => {
                self.command("kubectl", &format!("scale -n {namespace} deployment {deployment} --replicas={replicas}"));
                self.stage.scale(namespace, deployment, *replicas)?;
            }
            Action::Patch { kind, namespace, name, merge } => {
                self.command("kubectl", &format!("patch -n {namespace} {kind} {name} --type=merge -p '{merge}'"));
                self.stage.patch(kind, namespace, name, merge)?;
            }
            Action::Fault(fault) => {
                let done = self.stage.fault(fault)?;
                self.sink.event(Event::Remark(&done));
            }
            Action::Ask(ask) => self.ask(step, ask)?,
            Action::Trace { request, expect } => {
                let result = self.stage.trace(request)?;
                self.sink.event(Event::Output(&result.text));
                self.show_after(step.show.as_ref())?;
                return match judge::trace(&step.span.place(), request, &result, expect) {
                    Some(mismatch) => Err(Stop::Fail(mismatch)),
                    None => Ok(()),
                };
            }
        }
        self.show_after(step.show.as_ref())
    }

    /// Asks a host's tool until its answer is as it should be.
    fn ask(&mut self, step: &Step, ask: &Ask) -> Result<(), Stop> {
        let start = self.stage.now();
        let limit = start.saturating_add(ask.within);
        let mut idle = 0;
        loop {
            // A tool that fails says so, and may work the next time.
            let answer = match self.stage.ask(&ask.on, ask.software, &ask.run) {
                Err(StageError::Unsupported(what)) => return Err(StageError::Unsupported(what).into()),
                Err(error) => Err(error.to_string()),
                Ok(Answer::NotAsked(why)) => {
                    self.sink.event(Event::Remark(&format!("not asked: {why}")));
                    return Ok(());
                }
                Ok(Answer::Printed(text)) => Ok(text),
            };
            let missing = judge::answer(ask, &answer);
            let now = self.stage.now();
            if missing.is_none() || now >= limit {
                let text = answer.unwrap_or_else(|error| error);
                self.command(&ask.on, &ask.run);
                self.sink.event(Event::Output(&text));
                let Some(missing) = missing else { return Ok(()) };
                let within = match ask.within {
                    Duration::ZERO => String::new(),
                    within => format!(" within {}", show_duration(within)),
                };
                let expected = format!("`{}` on {} prints {missing}{within}", ask.run, ask.on);
                // It was printed already; the report repeats it only if it is short.
                let seen = match text.lines().count() {
                    lines @ SHORT.. => format!("{lines} lines without it, printed above"),
                    _ => text,
                };
                return Err(Stop::Fail(Mismatch { place: step.span.place(), expected, seen }));
            }
            idle = if self.stage.advance(limit) > now { 0 } else { idle + 1 };
            if idle > STUCK_CALLS {
                return Err(stuck());
            }
        }
    }

    fn command(&mut self, host: &str, command: &str) {
        self.sink.event(Event::Command { host, command });
    }

    fn show_after(&mut self, show: Option<&Show>) -> Result<(), Stop> {
        match show {
            Some(show) => self.show(show),
            None => Ok(()),
        }
    }

    /// Polls after everything that happens. The condition that failed last is asked first, so that waiting for one
    /// thing costs one question per event, not all of them.
    fn until(&mut self, within: Duration, conditions: &Conditions) -> Result<(), Stop> {
        let start = self.stage.now();
        let limit = start.saturating_add(within);
        let mut first = 0;
        let mut idle = 0;
        loop {
            let mut open = None;
            for turn in 0..conditions.len() {
                let index = (first + turn) % conditions.len();
                if let Some(mismatch) = self.check(&conditions[index])? {
                    open = Some((index, mismatch));
                    break;
                }
            }
            let now = self.stage.now();
            let Some((index, mut mismatch)) = open else {
                self.sink.event(Event::Remark(&format!("holds after {}", show_duration(now.saturating_sub(start)))));
                return Ok(());
            };
            if now >= limit {
                mismatch.expected.push_str(&format!(" within {}", show_duration(within)));
                // What else is missing tells more about the cause than the first thing alone.
                for (other, condition) in conditions.iter().enumerate() {
                    if other != index
                        && let Some(also) = self.check(condition)?
                    {
                        mismatch.seen.push_str(&format!("\nalso expected {}: {}", also.expected, also.seen));
                    }
                }
                return Err(Stop::Fail(mismatch));
            }
            first = index;
            idle = if self.stage.advance(limit) > now { 0 } else { idle + 1 };
            if idle > STUCK_CALLS {
                return Err(stuck());
            }
        }
    }

    fn pass(&mut self, lapse: Lapse) -> Result<(), Stop> {
        let duration = if self.stage.virtual_time() { lapse.in_memory } else { lapse.real };
        let limit = self.stage.now().saturating_add(duration);
        let mut idle = 0;
        while self.stage.now() < limit {
            let now = self.stage.now();
            idle = if self.stage.advance(limit) > now { 0 } else { idle + 1 };
            if idle > STUCK_CALLS {
                return Err(stuck());
            }
        }
        Ok(())
    }

    fn judge_load(
        &mut self,
        step: &Step,
        load: &str,
        result: &crate::stage::LoadResult,
        expect: &LoadExpect,
    ) -> Result<(), Stop> {
        // The last one of this name before the step: a name may be used again after a stop.
        let before = self.scenario.steps.iter().filter(|other| other.span.start < step.span.start);
        let request = before.rev().find_map(|step| match &step.action {
            Action::Load(request) if request.name == load => Some(request),
            _ => None,
        });
        match request {
            Some(request) => self.judge(step, result, expect, &request.from, request.srccidr),
            None => Err(Stop::Error(StageError::NotFound(format!("load {load}")))),
        }
    }
}

fn stuck() -> Stop {
    Stop::Error(StageError::Refused("the stage does not let time pass".to_owned()))
}
