//! What came out of runs, for people, for programs, for CI.

use std::time::Duration;

use quick_junit::{NonSuccessKind, Report, TestCase, TestCaseStatus, TestSuite};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::text::show_duration;

/// How a run or a step ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// As expected.
    Pass,
    /// Not as expected.
    Fail,
    /// Not run: the stage lacks something the scenario needs, or an earlier step failed.
    Skip,
    /// The stage could not do what it was asked: says nothing about the thing under test.
    Error,
}

impl Verdict {
    /// `PASS`, `FAIL`, `SKIP`, `ERROR`.
    pub fn as_str(self) -> &'static str {
        match self {
            Verdict::Pass => "PASS",
            Verdict::Fail => "FAIL",
            Verdict::Skip => "SKIP",
            Verdict::Error => "ERROR",
        }
    }
}

/// What came out of one run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// Name of the scenario.
    pub name: String,
    /// File it was read from.
    pub file: String,
    /// Stage it was played on.
    pub stage: String,
    /// Seed of all that was drawn.
    pub seed: u64,
    /// How it ended.
    pub result: Verdict,
    /// Why, if it is not a pass: for a skip what is missing, else the step that failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Time on the stage, in ms.
    pub virtual_ms: u64,
    /// Time it took, in ms. The caller fills it in: there is no clock here.
    pub real_ms: u64,
    /// All steps, those not reached included.
    pub steps: Vec<StepOutcome>,
    /// Hash of everything that happened, 16 hexadecimal digits; two runs with one seed must agree.
    #[serde(
        default,
        serialize_with = "hexadecimal",
        deserialize_with = "from_hexadecimal",
        skip_serializing_if = "Option::is_none"
    )]
    pub trace_hash: Option<u64>,
    /// The command that runs exactly this again.
    pub reproduce: String,
}

/// What came out of one step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepOutcome {
    /// Name or title as given, else what it does.
    pub title: String,
    /// How it ended.
    pub result: Verdict,
    /// `file:line:column`.
    pub place: String,
    /// What was expected, if it was not met.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expected: Option<String>,
    /// What was seen instead.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seen: Option<String>,
    /// Time on the stage at its end, in ms.
    pub at_ms: u64,
}

/// JSON numbers lose digits beyond 2^53 in many readers.
fn hexadecimal<S: Serializer>(hash: &Option<u64>, serializer: S) -> Result<S::Ok, S::Error> {
    match hash {
        Some(hash) => serializer.serialize_str(&format!("{hash:016x}")),
        None => serializer.serialize_none(),
    }
}

fn from_hexadecimal<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    let text: Option<String> = Option::deserialize(deserializer)?;
    text.map(|text| u64::from_str_radix(&text, 16).map_err(serde::de::Error::custom)).transpose()
}

impl Outcome {
    /// The step that ended the run, if it was not a pass.
    pub fn failed_step(&self) -> Option<&StepOutcome> {
        self.steps.iter().find(|step| matches!(step.result, Verdict::Fail | Verdict::Error))
    }
}

/// One line, and for a failure one more with the command that reproduces it.
pub fn summary_line(outcome: &Outcome) -> String {
    let Outcome { name, seed, .. } = outcome;
    let verdict = outcome.result.as_str();
    let virtual_time = show_duration(Duration::from_millis(outcome.virtual_ms));
    let real_time = show_duration(Duration::from_millis(outcome.real_ms));
    let reason = outcome.reason.as_deref().unwrap_or("no reason given");
    match outcome.result {
        Verdict::Pass => format!("{verdict}  {name}  (virtual {virtual_time}, real {real_time}, seed {seed})"),
        Verdict::Skip => format!("{verdict}  {name}  ({reason})"),
        Verdict::Fail | Verdict::Error => {
            let times = format!("virtual {virtual_time}, real {real_time}, seed {seed}");
            format!("{verdict}  {name}  ({times})\n      {reason}\n      again: {}", outcome.reproduce)
        }
    }
}

/// JUnit XML for CI: one suite per file, one case per run.
pub fn junit(outcomes: &[Outcome]) -> String {
    let mut report = Report::new("fairway");
    let mut files: Vec<&str> = outcomes.iter().map(|outcome| outcome.file.as_str()).collect();
    files.sort_unstable();
    files.dedup();
    for file in files {
        let mut suite = TestSuite::new(file);
        for outcome in outcomes.iter().filter(|outcome| outcome.file == file) {
            suite.add_test_case(case(outcome));
        }
        report.add_test_suite(suite);
    }
    // The writer is memory and all text is cleaned by the crate, so nothing can fail here; a report that says so is
    // still better than none.
    report.to_string().unwrap_or_else(|error| format!("<!-- {} -->\n", error.to_string().replace("--", "- -")))
}

fn case(outcome: &Outcome) -> TestCase {
    let reason = outcome.reason.as_deref().unwrap_or_default();
    let mut status = match outcome.result {
        Verdict::Pass => TestCaseStatus::success(),
        Verdict::Skip => TestCaseStatus::skipped(),
        Verdict::Fail => TestCaseStatus::non_success(NonSuccessKind::Failure),
        Verdict::Error => TestCaseStatus::non_success(NonSuccessKind::Error),
    };
    if outcome.result != Verdict::Pass {
        status.set_message(reason);
    }
    if let Some(step) = outcome.failed_step() {
        let expected = step.expected.as_deref().unwrap_or("-");
        let seen = step.seen.as_deref().unwrap_or("-");
        let again = &outcome.reproduce;
        status.set_description(format!("{}\nexpected: {expected}\nseen: {seen}\nagain: {again}", step.place));
    }
    let mut case = TestCase::new(format!("{} [seed {}]", outcome.name, outcome.seed), status);
    case.set_classname(format!("{}.{}", outcome.stage, outcome.file.trim_end_matches(".yaml")));
    case.set_time(Duration::from_millis(outcome.real_ms));
    case.set_assertions(outcome.steps.iter().filter(|step| step.result != Verdict::Skip).count());
    case
}
