//! The program as its user sees it: arguments in; stdout, stderr and exit status out.

#![allow(clippy::unwrap_used)]

use std::io::Write as _;
use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use fairway_mconnect::{Command, Output, parse, run};
use proptest::prelude::*;

fn words(line: &str) -> impl Iterator<Item = String> {
    line.split_whitespace().map(String::from).collect::<Vec<_>>().into_iter()
}

fn program(line: &str) -> (u8, String, String) {
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    let status = run(words(line), &mut stdout, &mut stderr);
    (status, String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap())
}

#[test]
fn client_flags() {
    let parsed = parse(words(
        "-address 10.0.0.2:5001 --nconn=400 -maxconcurrent 0x10 -timeout=3s -srccidr 10.1.0.0/16 -seed -1 -keep \
         -udp=true -output json -k8sprobe :8080 -expect-even 20",
    ))
    .unwrap();
    assert!(parsed.warnings.is_empty());
    let Command::Client(client) = parsed.command else { panic!("{parsed:?}") };
    let config = client.config;
    assert_eq!(config.address.to_string(), "10.0.0.2:5001");
    assert_eq!((config.nconn, config.maxconcurrent, config.timeout), (400, 16, Duration::from_secs(3)));
    assert_eq!((config.source, config.seed), (Some("10.1.0.0/16".parse().unwrap()), u64::MAX));
    assert!(config.keep && config.udp);
    assert_eq!((client.output, client.expect_even), (Output::Json, Some(20.0)));
    assert_eq!(client.probe.unwrap().to_string(), ":8080");
}

#[test]
fn defaults_and_server_flags() {
    let Command::Client(client) = parse(words("-keep=F")).unwrap().command else { panic!() };
    let config = client.config;
    assert_eq!((config.address.to_string().as_str(), config.nconn, config.maxconcurrent), ("[::1]:5001", 1, 64));
    assert!(!config.keep && !config.udp && config.timeout.is_zero() && config.source.is_none());
    assert_eq!((client.output, client.expect_even, client.probe), (Output::Text, None, None));
    let Command::Server(server) = parse(words("-server -udp -address [::]:1 -host a")).unwrap().command else {
        panic!()
    };
    assert_eq!((server.address.to_string().as_str(), server.udp, server.host), ("[::]:1", true, Some("a".into())));
}

#[test]
fn what_is_refused_names_the_flag() {
    for (line, status, named) in [
        ("-nosuch", 2, "-nosuch"),
        ("---nconn 1", 2, "---nconn"),
        ("-=1", 2, "-=1"),
        ("-nconn", 2, "-nconn"),
        ("-nconn x", 2, "-nconn"),
        ("-nconn -1", 2, "-nconn"),
        ("-nconn 0x-1", 2, "-nconn"),
        ("-nconn 99999999999999999999999999999999999999999999", 2, "-nconn"),
        ("-maxconcurrent 0", 2, "-maxconcurrent"),
        ("-timeout 3", 2, "-timeout"),
        ("-timeout -3s", 2, "-timeout"),
        ("-keep=perhaps", 2, "-keep"),
        ("-address 10.0.0.2", 2, "-address"),
        ("-k8sprobe 8080", 2, "-k8sprobe"),
        ("-expect-even NaN", 2, "-expect-even"),
        ("-expect-even -1", 2, "-expect-even"),
        ("-server -host=", 2, "-host"),
        ("-srccidr 10.0.0.0", 1, "-srccidr"),
    ] {
        let (got, stdout, stderr) = program(line);
        assert_eq!((got, stdout.as_str(), stderr.lines().count()), (status, "", 1), "{line}: {stderr}");
        assert!(stderr.contains(named), "{line}: {stderr}");
    }
}

#[test]
fn help_and_version() {
    for line in ["", "-h", "--help", "-nconn 3 -help"] {
        let (status, stdout, stderr) = program(line);
        assert_eq!((status, stdout.as_str()), (0, ""));
        assert!(
            stderr.contains("  -maxconcurrent int\n    \tConnects under way at one time (default 64)\n"),
            "{stderr}"
        );
        assert!(stderr.contains("  -keep\n    \t"), "{stderr}");
    }
    assert_eq!(program("-version").0, 0);
    assert_eq!(program("-version").1, format!("{}\n", env!("CARGO_PKG_VERSION")));
}

/// A peer that answers each connection with the next of these names, and then no more.
fn peer(names: &'static [&'static str]) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for name in names {
            listener.accept().unwrap().0.write_all(name.as_bytes()).unwrap();
        }
    });
    address
}

#[test]
fn a_run_in_text() {
    let address = peer(&["b", "a", "b"]);
    let (status, stdout, stderr) = program(&format!("-address {address} -nconn 3 -timeout 30s"));
    assert_eq!((status, stdout.as_str()), (0, "Failed connects; 0\nFailed reads; 0\na 1\nb 2\n"));
    assert_eq!(stderr, "");
}

#[test]
fn a_run_in_json_with_failures_has_only_the_report_on_stdout() {
    let address = peer(&["a", "", ""]);
    let (status, stdout, stderr) = program(&format!("-address {address} -nconn 3 -timeout 30s -output json"));
    assert_eq!((status, stdout.lines().count()), (1, 1));
    let json: serde_json::Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!((json["connects"].as_u64(), json["failed_reads"].as_u64()), (Some(3), Some(2)));
    assert_eq!((json["hosts"]["a"].as_u64(), json["timeout"].as_u64()), (Some(1), Some(30_000_000_000)));
    assert_eq!(stderr, "mconnect: 2 x read: closed by the peer\n");
}

#[test]
fn an_uneven_share_is_a_failure_only_if_even_was_expected() {
    for (flag, expected) in [("", 0), ("-expect-even 50", 0), ("-expect-even 49.9", 1)] {
        let address = peer(&["a", "a", "b", "a"]);
        let (status, _, stderr) = program(&format!("-address {address} -nconn 4 -timeout 30s {flag}"));
        assert_eq!(status, expected, "{flag}");
        assert_eq!(stderr.contains("-expect-even"), expected == 1, "{stderr}");
    }
}

#[test]
fn nothing_to_do_is_well_done_and_odd_words_are_warned_of() {
    let (status, stdout, stderr) = program("-nconn 0 -output yaml word -nconn 5");
    assert_eq!((status, stdout.as_str()), (0, "Failed connects; 0\nFailed reads; 0\n"));
    assert!(stderr.contains("yaml") && stderr.contains("word"), "{stderr}");
}

#[test]
fn a_taken_port_ends_the_server_with_1() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let (status, stdout, stderr) = program(&format!("-server -address {address}"));
    assert_eq!((status, stdout.as_str()), (1, ""));
    assert!(stderr.contains(&address.to_string()), "{stderr}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn no_words_panic_the_parser(
        words in prop::collection::vec(
            "-{0,3}(nconn|timeout|seed|address|srccidr|expect-even|udp|k8sprobe)?(=[-+0-9.xXob:/hsm\\[\\]µ]{0,20})?|\\PC{0,10}",
            0..6,
        )
    ) {
        if let Err(error) = parse(words.into_iter()) {
            prop_assert!((1..=2).contains(&error.status()));
            prop_assert!(!error.to_string().is_empty());
        }
    }
}
