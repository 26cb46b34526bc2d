//! `fairway run`: plays scenarios, one or many, and reports.

use std::collections::BTreeSet;
use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Instant;

use clap::{Args, ValueEnum};
use fairway_objects::{NodeConfig, Notice};
use fairway_scenario::{Event, Outcome, RunOptions, Scenario, Sink, Software, Stage, TextSink, TraceRequest, Verdict};
use fairway_world::World;

use crate::USAGE;
use crate::check::{load, scenario_files};
use crate::lab::{self, Guests, Inside, Routers};

/// Options of `fairway run`.
#[derive(Args)]
pub(crate) struct Run {
    /// Scenario files, or folders whose scenario files are played in the order of their names.
    #[arg(required = true, value_name = "FILE|FOLDER")]
    paths: Vec<PathBuf>,
    /// Where the scenarios are played.
    #[arg(long, value_enum, default_value_t = StageName::Memory)]
    stage: StageName,
    /// Who plays the routers of a scenario that do not name a software; in memory all are our own agent.
    #[arg(long, value_enum, default_value_t = Routers::Fairway)]
    routers: Routers,
    /// Save what ip, nft, ipvsadm, conntrack and a capture saw of every run, not only of those that fail.
    #[arg(long)]
    keep: bool,
    /// Folder for what is saved of a run with a real kernel.
    #[arg(long, value_name = "FOLDER", default_value = "fairway-witness")]
    witness: PathBuf,
    /// Everything random is drawn from this number; in memory the same number gives the same run.
    #[arg(long, default_value_t = 42)]
    seed: u64,
    /// Play each scenario so many times, with seeds SEED, SEED+1, …
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    seeds: u64,
    /// Play so many at once; 0 means one for each processor. With --stage netns it is one at a time.
    #[arg(long, default_value_t = 0, value_name = "N")]
    jobs: usize,
    /// What is printed on standard output: the run as text, or one JSON document per run on a line of its own.
    #[arg(long, value_enum, default_value_t = OutputFormat::Text)]
    output: OutputFormat,
    /// Print only one line for each run that passes.
    #[arg(long, short)]
    quiet: bool,
    /// Scenarios that may be skipped, one file name on a line, `#` begins a remark: any other skip is a failure.
    #[arg(long, value_name = "FILE")]
    may_skip: Option<PathBuf>,
    /// Also write a JUnit report to this file.
    #[arg(long, value_name = "FILE")]
    junit: Option<PathBuf>,
    /// When the scenario is over, follow one packet: `{from: vm-221, to: "10.0.0.2:5001"}`; also `protocol: udp`.
    #[arg(long, value_name = "YAML")]
    trace: Option<String>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum StageName {
    /// The simulated cluster: virtual time, no privileges.
    Memory,
    /// Network namespaces on this machine's kernel, in real time. Needs root, or user namespaces.
    Netns,
    /// Network namespaces in a User-Mode Linux kernel that has everything. Any user, no privileges.
    Uml,
}

impl StageName {
    const fn as_str(self) -> &'static str {
        match self {
            StageName::Memory => "memory",
            StageName::Netns => "netns",
            StageName::Uml => "uml",
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum OutputFormat {
    /// For people.
    Text,
    /// For programs.
    Json,
}

/// One scenario with one seed.
#[derive(Clone, Copy)]
struct Task {
    scenario: usize,
    seed: u64,
}

impl Run {
    /// Plays everything and returns the exit status: 0, 1 if anything failed, 2 if a file is wrong.
    pub(crate) fn run(self) -> u8 {
        if self.stage == StageName::Memory && self.routers != Routers::Fairway {
            return complain("--routers needs a real kernel: add --stage netns or --stage uml");
        }
        let files = match scenario_files(&self.paths) {
            Ok(files) => files,
            Err(message) => return complain(&message),
        };
        let trace = match self.trace.as_deref().map(fairway_scenario::parse_trace).transpose() {
            Ok(trace) => trace,
            Err(message) => return complain(&format!("--trace: {message}")),
        };
        let may_skip = match &self.may_skip {
            None => None,
            Some(file) => match std::fs::read_to_string(file) {
                Ok(text) => Some(names(&text)),
                Err(error) => return complain(&format!("{}: {error}", file.display())),
            },
        };
        let mut scenarios = vec![];
        let mut wrong = false;
        for file in &files {
            match load(file) {
                Ok(scenario) => scenarios.push(scenario),
                Err(text) => {
                    wrong = true;
                    let _gone = writeln!(io::stderr(), "{text}");
                }
            }
        }
        if wrong {
            return USAGE;
        }
        let tasks: Vec<Task> = (0..scenarios.len())
            .flat_map(|scenario| (0..self.seeds).map(move |n| Task { scenario, seed: self.seed.wrapping_add(n) }))
            .collect();
        let inside = Inside::new();
        let guests = match (self.stage, &inside) {
            (StageName::Uml, None) => match Guests::new() {
                Ok(guests) => Some(guests),
                Err(message) => return complain(&message),
            },
            _ => None,
        };
        // From here on a lab is where its kernel is.
        if self.stage != StageName::Memory && guests.is_none() {
            match lab::go_inside() {
                Ok(None) => {}
                Ok(Some(status)) => return status,
                Err(message) => return complain(&message),
            }
        }
        let play = Play { run: &self, scenarios: &scenarios, tasks: &tasks, trace: trace.as_ref(), guests };
        if let Some(inside) = inside {
            return play.inside(&inside);
        }
        let outcomes = match play.all() {
            Ok(outcomes) => outcomes,
            // The reader of our output went away: nothing is left to tell.
            Err(_) => return 1,
        };
        if let Some(file) = &self.junit
            && let Err(error) = write_file(file, &fairway_scenario::junit(&outcomes))
        {
            return complain(&format!("{}: {error}", file.display()));
        }
        if let Some(allowed) = &may_skip {
            let unexpected: Vec<&str> = outcomes
                .iter()
                .filter(|o| o.result == Verdict::Skip && !allowed.contains(&o.file))
                .map(|o| o.file.as_str())
                .collect();
            if !unexpected.is_empty() {
                let list = self.may_skip.as_deref().unwrap_or(Path::new("")).display().to_string();
                let _gone = writeln!(io::stderr(), "fairway: skipped, but not in {list}: {}", unexpected.join(", "));
                return 1;
            }
        }
        status(&outcomes)
    }
}

/// File names of a list, without remarks.
fn names(text: &str) -> BTreeSet<String> {
    let line = |line: &str| line.split('#').next().unwrap_or_default().trim().to_string();
    text.lines().map(line).filter(|name| !name.is_empty()).collect()
}

fn status(outcomes: &[Outcome]) -> u8 {
    u8::from(outcomes.iter().any(|o| !matches!(o.result, Verdict::Pass | Verdict::Skip)))
}

/// Everything that is to be played.
struct Play<'a> {
    run: &'a Run,
    scenarios: &'a [Scenario],
    tasks: &'a [Task],
    trace: Option<&'a TraceRequest>,
    /// Where it is played, if not here.
    guests: Option<Guests>,
}

impl Play<'_> {
    /// Plays the one task that this guest is for, and returns the exit status.
    fn inside(&self, inside: &Inside) -> u8 {
        let Some(task) = self.tasks.get(inside.task) else { return USAGE };
        let result = inside.out().and_then(|mut out| {
            let outcome = self.run.play_one(&self.scenarios[task.scenario], task.seed, self.trace, &mut *out);
            inside.leave(&outcome)?;
            Ok(outcome)
        });
        match result {
            Ok(outcome) => status(&[outcome]),
            Err(error) => complain(&format!("in the guest: {error}")),
        }
    }

    /// Plays one task, here or in a guest.
    fn one(&self, index: usize, live: bool, out: &mut dyn Write) -> Outcome {
        let Task { scenario, seed } = self.tasks[index];
        let scenario = &self.scenarios[scenario];
        match &self.guests {
            None => self.run.play_one(scenario, seed, self.trace, out),
            Some(guests) => guests
                .play(index, live, out, &self.run.witness)
                .unwrap_or_else(|reason| self.run.not_played(scenario, seed, reason)),
        }
    }

    fn all(&self) -> io::Result<Vec<Outcome>> {
        let tasks = self.tasks;
        let text = self.run.output == OutputFormat::Text;
        if let ([_], true, false) = (tasks, text, self.run.quiet) {
            // One run is shown while it happens.
            let mut out = io::stdout();
            let outcome = self.one(0, true, &mut out);
            writeln!(out, "{}", fairway_scenario::summary_line(&outcome))?;
            return Ok(vec![outcome]);
        }
        let jobs = match self.run.jobs {
            _ if self.run.stage == StageName::Netns => 1,
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            n => n,
        };
        let next = Mutex::new(0);
        let done: Mutex<Vec<Option<Outcome>>> = Mutex::new(tasks.iter().map(|_| None).collect());
        let printed = Mutex::new(Ok(0));
        std::thread::scope(|scope| {
            for _ in 0..jobs.min(tasks.len()) {
                scope.spawn(|| {
                    loop {
                        let index = {
                            let mut next = next.lock().unwrap_or_else(|e| e.into_inner());
                            let index = *next;
                            *next += 1;
                            index
                        };
                        if index >= tasks.len() {
                            return;
                        }
                        let mut shown = vec![];
                        let outcome = self.one(index, false, &mut shown);
                        let passed = matches!(outcome.result, Verdict::Pass | Verdict::Skip);
                        let report = match (self.run.output, self.run.quiet && passed) {
                            (OutputFormat::Json, _) => format!("{}\n", json(&outcome)),
                            (OutputFormat::Text, true) => format!("{}\n", fairway_scenario::summary_line(&outcome)),
                            (OutputFormat::Text, false) => {
                                let shown = String::from_utf8_lossy(&shown);
                                format!("{shown}{}\n", fairway_scenario::summary_line(&outcome))
                            }
                        };
                        {
                            let mut printed = printed.lock().unwrap_or_else(|e| e.into_inner());
                            if let Ok(count) = &mut *printed {
                                *count += 1;
                                if let Err(error) = io::stdout().write_all(report.as_bytes()) {
                                    *printed = Err(error);
                                    return;
                                }
                                if !text && io::stderr().is_terminal() {
                                    let _gone = write!(io::stderr(), "\r{count}/{} runs", tasks.len());
                                }
                            } else {
                                return;
                            }
                        }
                        done.lock().unwrap_or_else(|e| e.into_inner())[index] = Some(outcome);
                    }
                });
            }
        });
        printed.into_inner().unwrap_or_else(|e| e.into_inner())?;
        let outcomes: Vec<Outcome> =
            done.into_inner().unwrap_or_else(|e| e.into_inner()).into_iter().flatten().collect();
        if text && outcomes.len() > 1 {
            let count = |v: Verdict| outcomes.iter().filter(|o| o.result == v).count();
            writeln!(
                io::stdout(),
                "{} passed, {} failed, {} skipped",
                count(Verdict::Pass),
                count(Verdict::Fail) + count(Verdict::Error),
                count(Verdict::Skip)
            )?;
        }
        Ok(outcomes)
    }
}

impl Run {
    /// Plays one scenario, showing it on `out`.
    fn play_one(&self, scenario: &Scenario, seed: u64, trace: Option<&TraceRequest>, out: &mut dyn Write) -> Outcome {
        let started = Instant::now();
        let mut sink = TextSink::new(out);
        let noted: BTreeSet<String> = scenario
            .topology
            .nodes
            .keys()
            .filter_map(|node| crate::flags::parse(node, &scenario.flags_of(node)).ok())
            .flat_map(|(_, notices)| notices)
            .map(|notice| format!("note: {notice}"))
            .collect();
        for note in &noted {
            sink.event(Event::Remark(note));
        }
        let outcome = match self.stage {
            StageName::Memory => match World::new(scenario, seed, &configure) {
                Ok(mut world) => Ok(on_stage(scenario, &mut world, seed, trace, &mut sink)),
                Err(error) => Err(error.to_string()),
            },
            StageName::Netns | StageName::Uml => self.play_in_lab(scenario, seed, trace, &mut sink),
        };
        let mut outcome = outcome.unwrap_or_else(|reason| self.not_played(scenario, seed, reason));
        if self.routers != Routers::Fairway {
            outcome.reproduce += &format!(" --routers {}", Software::from(self.routers).as_str());
        }
        outcome.real_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
        outcome
    }

    fn not_played(&self, scenario: &Scenario, seed: u64, reason: String) -> Outcome {
        Outcome {
            result: Verdict::Error,
            reason: Some(reason),
            ..fairway_scenario::unplayed(scenario, self.stage.as_str(), seed, &scenario.needs)
        }
    }

    fn play_in_lab(
        &self,
        scenario: &Scenario,
        seed: u64,
        trace: Option<&TraceRequest>,
        sink: &mut dyn Sink,
    ) -> Result<Outcome, String> {
        let program = std::env::current_exe().map_err(|error| format!("own program: {error}"))?;
        let options = fairway_lab::Options { stage: self.stage.as_str(), seed, routers: self.routers.into(), program };
        let (offered, complaint) = fairway_lab::features();
        let mut unplayed = fairway_scenario::unplayed(scenario, self.stage.as_str(), seed, &offered);
        if unplayed.result == Verdict::Skip {
            let why = unplayed.reason.into_iter().chain(complaint).collect::<Vec<_>>().join(": ");
            unplayed.reason = Some(why);
            return Ok(unplayed);
        }
        let mut lab = fairway_lab::Lab::new(scenario, options, &configure).map_err(|error| error.to_string())?;
        let outcome = on_stage(scenario, &mut lab, seed, trace, sink);
        if self.keep || !matches!(outcome.result, Verdict::Pass | Verdict::Skip) {
            let stem = Path::new(&scenario.source.name).file_stem().unwrap_or_default().to_string_lossy();
            let name = format!("{stem}-{}-{seed}", self.stage.as_str());
            let said = match lab.save_witnesses(&lab::witness_folder(&self.witness).join(&name)) {
                Ok(()) => format!("what the tools saw is in {}", self.witness.join(&name).display()),
                Err(error) => format!("{}: {error}", self.witness.display()),
            };
            sink.event(Event::Remark(&said));
        }
        Ok(outcome)
    }
}

/// The configuration of a node from its flags.
fn configure(node: &str, flags: &[String]) -> Result<(NodeConfig, Vec<Notice>), String> {
    crate::flags::parse(node, flags)
        .map_err(|errors| errors.into_iter().map(|e| e.message).collect::<Vec<_>>().join("; "))
}

fn on_stage(
    scenario: &Scenario,
    stage: &mut dyn Stage,
    seed: u64,
    trace: Option<&TraceRequest>,
    sink: &mut dyn Sink,
) -> Outcome {
    let outcome = fairway_scenario::run(scenario, stage, &RunOptions { seed }, sink);
    if let Some(request) = trace {
        let text = match stage.trace(request) {
            Ok(result) => result.text,
            Err(error) => format!("--trace: {error}"),
        };
        sink.event(Event::Output(&text));
    }
    outcome
}

fn json(outcome: &Outcome) -> String {
    serde_json::to_string(outcome).unwrap_or_else(|error| format!("{{\"error\": \"{error}\"}}"))
}

fn write_file(file: &Path, text: &str) -> io::Result<()> {
    if let Some(folder) = file.parent().filter(|f| !f.as_os_str().is_empty()) {
        std::fs::create_dir_all(folder)?;
    }
    std::fs::write(file, text)
}

fn complain(message: &str) -> u8 {
    let _gone = writeln!(io::stderr(), "fairway: {message}");
    USAGE
}
