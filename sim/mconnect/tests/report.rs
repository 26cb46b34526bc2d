//! The report: texts that scripts read, and the arithmetic.

#![allow(clippy::unwrap_used)]

use std::time::Duration;

use fairway_mconnect::{Report, format_duration, parse_duration};
use proptest::prelude::*;

fn sample() -> Report {
    let mut report = Report {
        start_time: "2026-01-02T03:04:05.000000006Z".into(),
        timeout: Duration::from_millis(2400),
        duration: Duration::from_nanos(117_248_512),
        ..Report::default()
    };
    for (host, connect) in [("pod-b", 30), ("pod-a", 10), ("pod-b", 20), ("pod-b", 40)] {
        report.record_connect(host, Duration::from_nanos(connect), Duration::from_nanos(connect + 5));
    }
    report.record_failed_connect();
    report.record_failed_read();
    report
}

#[test]
fn text() {
    assert_eq!(sample().text(), "Failed connects; 1\nFailed reads; 1\npod-a 1\npod-b 3\n");
    assert_eq!(Report::default().text(), "Failed connects; 0\nFailed reads; 0\n");
    let mut report = Report::default();
    report.record_answer("a\nFailed reads; 9");
    assert_eq!(report.text(), "Failed connects; 0\nFailed reads; 0\na\\nFailed reads; 9 1\n");
}

#[test]
fn json() {
    assert_eq!(
        sample().json(),
        concat!(
            r#"{"hosts":{"pod-a":1,"pod-b":3},"connects":6,"failed_connects":1,"failed_reads":1,"#,
            r#""start_time":"2026-01-02T03:04:05.000000006Z","timeout":2400000000,"duration":117248512,"#,
            r#""latency":{"connect":{"p50":20,"p90":40,"p99":40,"max":40},"#,
            r#""first_byte":{"p50":25,"p90":45,"p99":45,"max":45}}}"#
        )
    );
    assert!(Report::default().json().starts_with(r#"{"hosts":{},"connects":0,"#));
}

#[test]
fn percentiles_are_the_nearest_rank() {
    let mut report = Report::default();
    for sample in (1..=200).rev() {
        report.record_connect("pod", Duration::from_nanos(sample), Duration::ZERO);
    }
    let latency = report.connect_latency();
    assert_eq!((latency.p50, latency.p90, latency.p99, latency.max), (100, 180, 198, 200));
    assert_eq!(report.first_byte_latency().max, 0);
}

#[test]
fn spread() {
    assert_eq!(Report::default().spread(), None);
    let spread = sample().spread().unwrap();
    assert_eq!((spread.min, spread.max, spread.mean, spread.deviation_percent), (1, 3, 2.0, 50.0));
    let mut even = Report::default();
    even.record_answer("a");
    assert_eq!(even.spread().unwrap().deviation_percent, 0.0);
}

#[test]
fn take_starts_anew() {
    let mut report = sample();
    let taken = report.take();
    assert_eq!(taken, sample());
    assert_eq!((report.connects, report.failed(), report.hosts.len()), (0, 0, 0));
    assert_eq!((report.start_time, report.timeout), (taken.start_time, taken.timeout));
}

#[test]
fn merge_adds_up() {
    let mut merged = sample();
    let later = Report { start_time: "2026-01-02T03:04:06.000000000Z".into(), ..sample() };
    merged.merge(&later);
    assert_eq!((merged.connects, merged.failed_connects, merged.failed_reads), (12, 2, 2));
    assert_eq!((merged.hosts["pod-a"], merged.hosts["pod-b"]), (2, 6));
    assert_eq!((merged.start_time.clone(), merged.duration), (sample().start_time, sample().duration));
    assert_eq!(merged.latencies.connect.len(), 8);
    let mut empty = Report::default();
    empty.merge(&sample());
    assert_eq!(empty, sample());
}

#[test]
fn durations() {
    for (text, nanoseconds) in [
        ("0", 0),
        ("-0", 0),
        ("-0s", 0),
        ("1h2m3.5s", 3_723_500_000_000),
        ("5ns", 5),
        ("5us", 5_000),
        ("5\u{b5}s", 5_000),
        ("5\u{3bc}s", 5_000),
        ("1.5ms", 1_500_000),
        (".5s", 500_000_000),
        ("1.s", 1_000_000_000),
        ("+1m1h", 3_660_000_000_000),
        ("0.9999999999ns", 0),
        ("2562047h47m16.854775807s", i64::MAX as u64),
    ] {
        assert_eq!(parse_duration(text), Ok(Duration::from_nanos(nanoseconds)), "{text}");
    }
    for (text, complaint) in [
        ("", "needed"),
        ("-", "needed"),
        ("3", "unit is needed"),
        ("1m3", "unit is needed"),
        ("s", "number"),
        (".s", "number"),
        ("1d", "not known"),
        ("1 s", "not known"),
        ("-1s", "negative"),
        ("9999999999999999999999999999999999999999999999h", "too long"),
        ("2562047h47m16.854775808s", "too long"),
    ] {
        let error = parse_duration(text).unwrap_err().to_string();
        assert!(error.contains(complaint), "{text}: {error}");
    }
    for (nanoseconds, text) in [
        (0, "0s"),
        (7, "7ns"),
        (1_500, "1.5µs"),
        (2_000_000, "2ms"),
        (2_400_000_000, "2.4s"),
        (60_000_000_000, "1m0s"),
        (3_600_000_000_001, "1h0m0.000000001s"),
    ] {
        assert_eq!(format_duration(Duration::from_nanos(nanoseconds)), text);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn a_printed_duration_reads_back(shift in 0u32..63, bits in 0u64..=i64::MAX as u64) {
        let duration = Duration::from_nanos(bits >> shift);
        prop_assert_eq!(parse_duration(&format_duration(duration)), Ok(duration));
    }

    #[test]
    fn no_text_panics_the_duration_parser(text in "[-+0-9.a-zµμ ]{0,40}|\\PC*") {
        if let Ok(duration) = parse_duration(&text) {
            prop_assert_eq!(parse_duration(&format_duration(duration)), Ok(duration));
        }
    }
}
