//! `--enable-pprof`: where the time of the CPU goes, in the format of `go tool pprof` (profile.proto of google/pprof).

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use axum::Router;
use axum::extract::RawQuery;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use pprof::{ProfilerGuard, ProfilerGuardBuilder, Report};
use prost::Message;
use tokio::sync::Mutex;

/// As kube-router's port, but for this host only: whoever can ask can slow the daemon down.
pub(crate) const ADDRESS: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 6060);
/// Samples per second. Not a round number, so that it does not beat with what happens each 10 ms.
const FREQUENCY: i32 = 99;
/// How long a profile is taken if nobody says, as in Go.
const DEFAULT: Duration = Duration::from_secs(30);
/// The longest profile.
const LONGEST: Duration = Duration::from_secs(300);

const INDEX: &str = "\
/debug/pprof/profile?seconds=30  CPU profile (go tool pprof 'http://localhost:6060/debug/pprof/profile?seconds=30')
/debug/pprof/heap                not available
";
const HEAP: &str = "There is no heap profile: it needs an allocator that keeps account of who asked for what, and the \
                    daemon uses the system's. process_resident_memory_bytes of the metrics says how much there is.\n";

/// What is answered.
pub(crate) fn router() -> Router {
    // The timer of the profiler is one for the process.
    let one = Arc::new(Mutex::new(()));
    let index = || get(|| async { INDEX });
    Router::new()
        .route("/debug/pprof", index())
        .route("/debug/pprof/", index())
        .route("/debug/pprof/heap", get(|| async { (StatusCode::NOT_IMPLEMENTED, HEAP) }))
        .route("/debug/pprof/profile", get(move |RawQuery(query)| profile(query, one)))
}

async fn profile(query: Option<String>, one: Arc<Mutex<()>>) -> Response {
    let Some(time) = seconds(query.as_deref()) else {
        let range = format!("seconds= must be a number from 1 to {}\n", LONGEST.as_secs());
        return (StatusCode::BAD_REQUEST, range).into_response();
    };
    let Ok(_alone) = one.try_lock() else {
        return (StatusCode::CONFLICT, "a profile is being taken already\n").into_response();
    };
    let failed = |error: &dyn std::fmt::Display| {
        (StatusCode::INTERNAL_SERVER_ERROR, format!("no profile: {error}\n")).into_response()
    };
    // A signal that comes inside one of these could wait for a lock that its own thread holds.
    let builder =
        ProfilerGuardBuilder::default().frequency(FREQUENCY).blocklist(&["libc", "libgcc", "pthread", "vdso"]);
    let guard = match builder.build() {
        Ok(guard) => guard,
        Err(error) => return failed(&error),
    };
    tokio::time::sleep(time).await;
    // Names are looked up now, which takes a while.
    match tokio::task::spawn_blocking(move || report(&guard)).await {
        Ok(Ok(profile)) => {
            let name = (header::CONTENT_DISPOSITION, "attachment; filename=\"profile\"");
            ([(header::CONTENT_TYPE, "application/octet-stream"), name], profile).into_response()
        }
        Ok(Err(error)) => failed(&error),
        Err(error) => failed(&error),
    }
}

/// `seconds=N`; `None`: not a number that is possible.
fn seconds(query: Option<&str>) -> Option<Duration> {
    let given = query.into_iter().flat_map(|query| query.split('&')).find_map(|pair| pair.strip_prefix("seconds="));
    let Some(given) = given else { return Some(DEFAULT) };
    let time = Duration::from_secs(given.parse().ok()?);
    (Duration::from_secs(1)..=LONGEST).contains(&time).then_some(time)
}

fn report(guard: &ProfilerGuard<'_>) -> Result<Vec<u8>, pprof::Error> {
    Ok(encode(&guard.report().build()?).encode_to_vec())
}

/// A function and where it is.
type Place = (String, String, u32);

/// The tables of a profile. Everything has a number.
#[derive(Default)]
struct Tables {
    profile: Profile,
    strings: BTreeMap<String, i64>,
    places: BTreeMap<Place, u64>,
}

impl Tables {
    fn string(&mut self, text: &str) -> i64 {
        if let Some(number) = self.strings.get(text) {
            return *number;
        }
        let number = self.profile.string_table.len() as i64;
        self.profile.string_table.push(text.into());
        self.strings.insert(text.into(), number);
        number
    }

    fn place(&mut self, place: Place) -> u64 {
        if let Some(number) = self.places.get(&place) {
            return *number;
        }
        // 0 is nobody's number.
        let id = self.profile.location.len() as u64 + 1;
        let (name, file, line) = &place;
        let (name, filename) = (self.string(name), self.string(file));
        self.profile.function.push(Function { id, name, system_name: name, filename, start_line: 0 });
        let line = Line { function_id: id, line: i64::from(*line) };
        self.profile.location.push(Location { id, line: vec![line] });
        self.places.insert(place, id);
        id
    }
}

fn encode(report: &Report) -> Profile {
    let mut tables = Tables::default();
    // The format wants the empty text first.
    tables.string("");
    let kind = |tables: &mut Tables, kind: &str, unit: &str| {
        let (kind, unit) = (tables.string(kind), tables.string(unit));
        ValueType { kind, unit }
    };
    let samples = kind(&mut tables, "samples", "count");
    let cpu = kind(&mut tables, "cpu", "nanoseconds");
    let period = 1_000_000_000 / i64::from(report.timing.frequency.max(1));
    let thread = tables.string("thread");
    for (stack, count) in &report.data {
        let symbols = stack.frames.iter().flatten();
        let places = symbols.map(|symbol| (symbol.name(), symbol.filename().into_owned(), symbol.lineno()));
        let location_id = places.map(|place| tables.place(place)).collect();
        let label = Label { key: thread, str: tables.string(&stack.thread_name) };
        let count = *count as i64;
        tables.profile.sample.push(Sample { location_id, value: vec![count, count * period], label: vec![label] });
    }
    let began = report.timing.start_time.duration_since(UNIX_EPOCH).unwrap_or_default();
    Profile {
        sample_type: vec![samples, cpu],
        time_nanos: i64::try_from(began.as_nanos()).unwrap_or_default(),
        duration_nanos: i64::try_from(report.timing.duration.as_nanos()).unwrap_or_default(),
        period_type: Some(cpu),
        period,
        ..tables.profile
    }
}

// profile.proto, with the numbers of its fields; what we never fill is left out.

#[derive(Clone, PartialEq, Message)]
struct Profile {
    #[prost(message, repeated, tag = "1")]
    sample_type: Vec<ValueType>,
    #[prost(message, repeated, tag = "2")]
    sample: Vec<Sample>,
    #[prost(message, repeated, tag = "4")]
    location: Vec<Location>,
    #[prost(message, repeated, tag = "5")]
    function: Vec<Function>,
    #[prost(string, repeated, tag = "6")]
    string_table: Vec<String>,
    #[prost(int64, tag = "9")]
    time_nanos: i64,
    #[prost(int64, tag = "10")]
    duration_nanos: i64,
    #[prost(message, optional, tag = "11")]
    period_type: Option<ValueType>,
    #[prost(int64, tag = "12")]
    period: i64,
}

#[derive(Clone, Copy, PartialEq, Message)]
struct ValueType {
    #[prost(int64, tag = "1")]
    kind: i64,
    #[prost(int64, tag = "2")]
    unit: i64,
}

#[derive(Clone, PartialEq, Message)]
struct Sample {
    #[prost(uint64, repeated, tag = "1")]
    location_id: Vec<u64>,
    #[prost(int64, repeated, tag = "2")]
    value: Vec<i64>,
    #[prost(message, repeated, tag = "3")]
    label: Vec<Label>,
}

#[derive(Clone, Copy, PartialEq, Message)]
struct Label {
    #[prost(int64, tag = "1")]
    key: i64,
    #[prost(int64, tag = "2")]
    str: i64,
}

#[derive(Clone, PartialEq, Message)]
struct Location {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(message, repeated, tag = "4")]
    line: Vec<Line>,
}

#[derive(Clone, Copy, PartialEq, Message)]
struct Line {
    #[prost(uint64, tag = "1")]
    function_id: u64,
    #[prost(int64, tag = "2")]
    line: i64,
}

#[derive(Clone, Copy, PartialEq, Message)]
struct Function {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(int64, tag = "2")]
    name: i64,
    #[prost(int64, tag = "3")]
    system_name: i64,
    #[prost(int64, tag = "4")]
    filename: i64,
    #[prost(int64, tag = "5")]
    start_line: i64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_is_read_as_go_reads_it() {
        assert_eq!(seconds(None), Some(DEFAULT));
        assert_eq!(seconds(Some("debug=1")), Some(DEFAULT));
        assert_eq!(seconds(Some("debug=1&seconds=5")), Some(Duration::from_secs(5)));
        for wrong in ["seconds=0", "seconds=301", "seconds=-1", "seconds=", "seconds=x"] {
            assert_eq!(seconds(Some(wrong)), None, "{wrong}");
        }
    }
}
