//! What a run counted, and how it is shown.
//!
//! Pure: no clock, no socket. The simulator fills the same [`Report`] from virtual time, so a scenario judges both
//! worlds with one set of words.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Samples kept per latency series. Beyond it the series stays as it is: the counters still count, and a run of this
/// size has its percentiles settled long before. It bounds the memory of a report to 16 MiB.
pub const SAMPLES_MAX: usize = 1 << 20;

/// The result of one run: who answered how often, what failed, how long it took.
///
/// A connection is booked exactly once as success or failure; `hosts` counts answers, which is the same number unless
/// the run kept its connections open and read on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Answers per host name. Sorted, so that two equal runs print equal text (the original's text order is random).
    pub hosts: BTreeMap<String, u64>,
    /// Connections asked for and booked, failed ones included (as the original counts).
    pub connects: u64,
    /// Connections that never came to be: refused, unreachable, or not begun when the run's time was over.
    pub failed_connects: u64,
    /// Connections that came to be but gave no answer: closed at once, reset, silent until the deadline.
    pub failed_reads: u64,
    /// When the run began: RFC 3339 with nanoseconds, given by the caller since this module knows no clock.
    pub start_time: String,
    /// The time the whole run was allowed.
    pub timeout: Duration,
    /// The time the run took.
    pub duration: Duration,
    /// Latency samples of the successful connections.
    pub latencies: Latencies,
}

/// Latency samples in nanoseconds, in the order they were booked; at most [`SAMPLES_MAX`] each.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Latencies {
    /// From the start of the connect to its completion.
    pub connect: Vec<u64>,
    /// From the start of the connect to the first byte of the answer.
    pub first_byte: Vec<u64>,
}

/// Percentiles of one latency series in nanoseconds (nearest rank, so each is a value that was measured).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Percentiles {
    /// Half of the samples are not above this.
    pub p50: u64,
    /// Nine of ten samples are not above this.
    pub p90: u64,
    /// 99 of 100 samples are not above this.
    pub p99: u64,
    /// The slowest sample.
    pub max: u64,
}

/// How evenly the answers fell on the hosts that answered.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spread {
    /// Answers of the host with the fewest.
    pub min: u64,
    /// Answers of the host with the most.
    pub max: u64,
    /// Answers per host if all had the same.
    pub mean: f64,
    /// The largest distance of any host from the mean, in percent of the mean.
    pub deviation_percent: f64,
}

/// The JSON form. Field order is the order of the keys: the original's seven, then our addition.
#[derive(Serialize)]
struct Json<'a> {
    hosts: &'a BTreeMap<String, u64>,
    connects: u64,
    failed_connects: u64,
    failed_reads: u64,
    start_time: &'a str,
    timeout: u64,
    duration: u64,
    latency: JsonLatency,
}

#[derive(Serialize)]
struct JsonLatency {
    connect: Percentiles,
    first_byte: Percentiles,
}

/// The JSON form as it is read back; what the original does not print may be missing.
#[derive(Deserialize)]
struct Read {
    hosts: BTreeMap<String, u64>,
    connects: u64,
    failed_connects: u64,
    failed_reads: u64,
    start_time: String,
    timeout: u64,
    duration: u64,
    #[serde(default)]
    latency: ReadLatency,
}

#[derive(Default, Deserialize)]
struct ReadLatency {
    connect: Percentiles,
    first_byte: Percentiles,
}

/// A hundred samples with these percentiles.
fn samples(p: Percentiles) -> Vec<u64> {
    let counts = [(50, p.p50), (40, p.p90), (9, p.p99), (1, p.max)];
    counts.into_iter().flat_map(|(count, sample)| std::iter::repeat_n(sample, count)).collect()
}

impl Report {
    /// Reads the JSON form, of this program or of the original. Of the latencies only the percentiles come back: they
    /// are represented by a hundred samples that have them.
    ///
    /// # Errors
    /// Text that is no such report.
    pub fn from_json(text: &str) -> Result<Report, serde_json::Error> {
        let read: Read = serde_json::from_str(text)?;
        let measured = read.hosts.values().any(|count| *count > 0);
        let samples = |percentiles| if measured { samples(percentiles) } else { vec![] };
        Ok(Report {
            hosts: read.hosts,
            connects: read.connects,
            failed_connects: read.failed_connects,
            failed_reads: read.failed_reads,
            start_time: read.start_time,
            timeout: Duration::from_nanos(read.timeout),
            duration: Duration::from_nanos(read.duration),
            latencies: Latencies {
                connect: samples(read.latency.connect),
                first_byte: samples(read.latency.first_byte),
            },
        })
    }

    /// Books a connection that was made and answered by `host`. Both durations count from the start of the connect.
    pub fn record_connect(&mut self, host: &str, connect: Duration, first_byte: Duration) {
        self.connects = self.connects.saturating_add(1);
        self.record_answer(host);
        push(&mut self.latencies.connect, nanoseconds(connect));
        push(&mut self.latencies.first_byte, nanoseconds(first_byte));
    }

    /// Books a further answer on a connection that is already booked (a kept connection that reads on).
    pub fn record_answer(&mut self, host: &str) {
        match self.hosts.get_mut(host) {
            Some(count) => *count = count.saturating_add(1),
            None => {
                self.hosts.insert(host.into(), 1);
            }
        }
    }

    /// Books a connection that was never made.
    pub fn record_failed_connect(&mut self) {
        self.record_failed_connects(1);
    }

    /// Books a connection that was made but never answered.
    pub fn record_failed_read(&mut self) {
        self.connects = self.connects.saturating_add(1);
        self.record_lost();
    }

    /// Books connections that were never made, all at once.
    pub(crate) fn record_failed_connects(&mut self, count: u64) {
        self.connects = self.connects.saturating_add(count);
        self.failed_connects = self.failed_connects.saturating_add(count);
    }

    /// Books that a kept connection, answered and booked before, ended before the run did: a failed read, no connect.
    pub fn record_lost(&mut self) {
        self.failed_reads = self.failed_reads.saturating_add(1);
    }

    /// Failures of both kinds; the exit status is 1 unless this is 0.
    pub fn failed(&self) -> u64 {
        self.failed_connects.saturating_add(self.failed_reads)
    }

    /// The text form: two lines of failures, then `HOST COUNT` per host sorted by name. Ends with a line feed.
    ///
    /// A name is whatever the peer sent; control characters are shown escaped so that one host stays one line.
    pub fn text(&self) -> String {
        let mut text = String::new();
        let (connects, reads) = (self.failed_connects, self.failed_reads);
        // Writing to a String cannot fail.
        let _ = writeln!(text, "Failed connects; {connects}\nFailed reads; {reads}");
        for (host, count) in &self.hosts {
            for character in host.chars() {
                if character.is_control() {
                    text.extend(character.escape_default());
                } else {
                    text.push(character);
                }
            }
            let _ = writeln!(text, " {count}");
        }
        text
    }

    /// The JSON form on one line, without line feed. Durations are integers in nanoseconds.
    pub fn json(&self) -> String {
        let json = Json {
            hosts: &self.hosts,
            connects: self.connects,
            failed_connects: self.failed_connects,
            failed_reads: self.failed_reads,
            start_time: &self.start_time,
            timeout: nanoseconds(self.timeout),
            duration: nanoseconds(self.duration),
            latency: JsonLatency {
                connect: percentiles(&self.latencies.connect),
                first_byte: percentiles(&self.latencies.first_byte),
            },
        };
        serde_json::to_string(&json).expect("maps with string keys, strings and integers always have a JSON form")
    }

    /// Percentiles of the connect latency; all 0 if nothing succeeded.
    pub fn connect_latency(&self) -> Percentiles {
        percentiles(&self.latencies.connect)
    }

    /// Percentiles of the first byte's latency; all 0 if nothing succeeded.
    pub fn first_byte_latency(&self) -> Percentiles {
        percentiles(&self.latencies.first_byte)
    }

    /// How evenly the hosts that answered share the answers; `None` if nobody answered.
    ///
    /// A host that never answered is not in the report and so not in the mean: compare `hosts.len()` for that.
    pub fn spread(&self) -> Option<Spread> {
        let min = *self.hosts.values().min()?;
        let max = *self.hosts.values().max()?;
        let total: u128 = self.hosts.values().map(|count| u128::from(*count)).sum();
        let mean = total as f64 / self.hosts.len() as f64;
        if mean <= 0.0 {
            return None;
        }
        let distance = (max as f64 - mean).max(mean - min as f64);
        Some(Spread { min, max, mean, deviation_percent: distance * 100.0 / mean })
    }

    /// Adds `other`'s counts and samples to this report, as if one run had made both.
    ///
    /// The start is the earlier of the two that are set (RFC 3339 texts of one zone compare as text); timeout and
    /// duration are the longer ones, since merged runs ran side by side.
    pub fn merge(&mut self, other: &Report) {
        for (host, count) in &other.hosts {
            let sum = self.hosts.entry(host.clone()).or_default();
            *sum = sum.saturating_add(*count);
        }
        self.connects = self.connects.saturating_add(other.connects);
        self.failed_connects = self.failed_connects.saturating_add(other.failed_connects);
        self.failed_reads = self.failed_reads.saturating_add(other.failed_reads);
        if self.start_time.is_empty() || (!other.start_time.is_empty() && other.start_time < self.start_time) {
            self.start_time.clone_from(&other.start_time);
        }
        self.timeout = self.timeout.max(other.timeout);
        self.duration = self.duration.max(other.duration);
        extend(&mut self.latencies.connect, &other.latencies.connect);
        extend(&mut self.latencies.first_byte, &other.latencies.first_byte);
    }

    /// Hands out the counts so far and begins anew from zero.
    ///
    /// Both keep `start_time` and `timeout`, which describe the run and not its counts.
    pub fn take(&mut self) -> Report {
        let fresh = Report { start_time: self.start_time.clone(), timeout: self.timeout, ..Report::default() };
        std::mem::replace(self, fresh)
    }
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

fn push(samples: &mut Vec<u64>, sample: u64) {
    if samples.len() < SAMPLES_MAX {
        samples.push(sample);
    }
}

fn extend(samples: &mut Vec<u64>, more: &[u64]) {
    let room = SAMPLES_MAX.saturating_sub(samples.len());
    samples.extend(more.iter().take(room));
}

fn percentiles(samples: &[u64]) -> Percentiles {
    let mut sorted = samples.to_vec();
    sorted.sort_unstable();
    let Some(&max) = sorted.last() else { return Percentiles::default() };
    // Nearest rank: the smallest sample that at least this share of all samples does not exceed.
    let rank = |percent: usize| sorted[(sorted.len() * percent).div_ceil(100) - 1];
    Percentiles { p50: rank(50), p90: rank(90), p99: rank(99), max }
}
