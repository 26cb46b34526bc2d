//! Wrong files and exactly what is said about them: `wrong/NAME.yaml` and `wrong/NAME.txt`.
//! `FAIRWAY_BLESS=1 cargo test -p fairway-scenario --test diagnostics` writes the texts anew; read the difference.

mod common;

use std::fs;
use std::path::PathBuf;

use common::{good, parse};
use fairway_scenario::{FlagError, render_all};

#[test]
fn wrong_files_are_explained() {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/wrong");
    let mut files: Vec<PathBuf> = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|file| file.extension().is_some_and(|extension| extension == "yaml"));
    files.sort();
    assert!(files.len() >= 20, "the table has shrunk: {}", files.len());
    let mut different = Vec::new();
    for file in files {
        let name = file.file_name().unwrap().to_str().unwrap();
        let text = fs::read_to_string(&file).unwrap();
        let diagnostics = fairway_scenario::parse(name, &text, &common::files).expect_err(name);
        let said = render_all(&diagnostics, false);
        let expected = file.with_extension("txt");
        if std::env::var_os("FAIRWAY_BLESS").is_some() {
            fs::write(&expected, &said).unwrap();
        }
        if fs::read_to_string(&expected).unwrap_or_default() != said {
            different.push(format!("{name}:\n{said}"));
        }
    }
    assert!(different.is_empty(), "not as in the .txt files:\n{}", different.join("\n"));
}

#[test]
fn every_key_is_read() {
    let scenario = good(common::EVERYTHING);
    assert_eq!(scenario.name, "everything");
    assert_eq!(scenario.needs, ["ipvs"]);
    assert_eq!(scenario.topology.hosts().count(), 5);
    assert_eq!(scenario.objects.len(), 2);
    assert_eq!(scenario.objects[1].name, "test.yaml:46");
    assert_eq!(scenario.steps.len(), common::EVERYTHING.matches("\n  - ").count() - 2, "two list items are objects");
}

#[test]
fn defaults_follow_the_topology() {
    let text = |addresses: &str, subnets: &str| {
        format!(
            "name: x\ntopology:\n  lans: {{a: {{subnets: {subnets}}}}}\n  nodes: {{n: {{a: {addresses}}}}}\nsteps: []\n"
        )
    };
    let cidrs = |scenario: fairway_scenario::Scenario| {
        scenario.services.cidrs.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(cidrs(good(&text("10.0.0.1", "10.0.0.0/24"))), "10.96.0.0/12");
    assert_eq!(cidrs(good(&text("\"fd00::1\"", "\"fd00::/64\""))), "fd00:4000::/112");
    let dual = good(&text("[10.0.0.1, \"fd00::1\"]", "[10.0.0.0/24, \"fd00::/64\"]"));
    assert_eq!(dual.topology.prefix_len("a", "fd00::1".parse().unwrap()), 64);
    assert_eq!(cidrs(dual), "10.96.0.0/12 fd00:4000::/112");
}

#[test]
fn gateways_are_the_routers_on_a_shared_lan() {
    let scenario = good(common::EVERYTHING);
    let pair = |gateway: &str, lan: &str| (gateway.to_owned(), lan.to_owned());
    assert_eq!(scenario.topology.gateways("vm-002"), [pair("vm-201", "cluster")]);
    assert_eq!(scenario.topology.gateways("vm-221"), [pair("vm-201", "external")]);
    assert_eq!(scenario.topology.gateways("vm-201"), []);
    assert_eq!(scenario.topology.host_of("192.168.1.2".parse().unwrap()), Some("vm-002"));
    assert_eq!(scenario.topology.host_of("192.168.1.9".parse().unwrap()), None);
}

#[test]
fn flags_are_shown_where_they_are_written() {
    let scenario = good(common::EVERYTHING);
    assert_eq!(scenario.flags_of("vm-001"), ["--run-router", "--cluster-asn=65001", "--enable-ipv6"]);
    assert_eq!(scenario.flags_of("vm-002"), ["--run-router", "--cluster-asn=65001"]);
    let diagnostics = scenario.check_flags(&mut |_, words| {
        let wrong = |word: &&String| word.contains("asn") || word.contains("ipv6");
        let index = |word: &String| words.iter().position(|other| other == word).unwrap();
        let error = |word: &String| FlagError { index: index(word), message: format!("do not like {word}") };
        words.iter().filter(wrong).map(error).collect()
    });
    // The common flag is wrong on three nodes and said once.
    let places: Vec<String> = diagnostics.iter().map(|d| d.span.as_ref().unwrap().place()).collect();
    assert_eq!(places, ["test.yaml:43:23", "test.yaml:12:15"]);
    assert!(diagnostics[0].to_string().contains("do not like --cluster-asn=65001"), "{}", diagnostics[0]);
}

#[test]
fn files_that_cannot_be_read_are_said_so() {
    let missing = fairway_scenario::load(std::path::Path::new("/nonexistent/x.yaml")).unwrap_err();
    assert_eq!(missing.len(), 1);
    assert!(missing[0].message.starts_with("cannot read /nonexistent/x.yaml: No such file"), "{}", missing[0].message);
    let huge = " ".repeat((16 << 20) + 1);
    let huge = fairway_scenario::parse("huge.yaml", &huge, &common::files).unwrap_err();
    assert!(huge[0].message.contains("bytes are more than"), "{}", huge[0].message);
}

#[test]
fn a_mistake_in_an_alias_is_shown_where_it_is_defined() {
    let text = "name: x\ndescription: &a {b: 1}\ntopology: *a\nsteps: []\n";
    let diagnostics = parse(text).unwrap_err();
    let said = render_all(&diagnostics, false);
    assert!(said.contains("`topology` has no key `b`"), "{said}");
    assert!(said.contains("test.yaml:2:18"), "{said}");
}

#[test]
fn colour_is_only_there_when_wanted() {
    let diagnostics = parse("name: [").unwrap_err();
    assert!(!render_all(&diagnostics, false).contains('\u{1b}'));
    assert!(render_all(&diagnostics, true).contains('\u{1b}'));
}

#[test]
fn a_packet_on_the_command_line() {
    use fairway_scenario::{Origin, Protocol, Target, parse_trace};
    let request = parse_trace("{from: vm-221, to: \"10.0.0.2:5001\"}").unwrap();
    assert_eq!((request.from, request.protocol), (Origin::Host("vm-221".to_owned()), Protocol::Tcp));
    let request = parse_trace("{from: {podOn: vm-001}, to: service6:a/b:80, protocol: udp}").unwrap();
    let (namespace, name) = ("a".to_owned(), "b".to_owned());
    assert_eq!(request.to, Target::Service { namespace, name, port: 80, ipv6: true });
    for (text, part) in [
        ("", "write `{from"),
        ("{from: a", "unclosed bracket"),
        ("{from: a}", "`trace` needs `to`"),
        ("{from: a, to: b}", "`b` is not an address and port; write `10.0.0.2:5001`"),
        ("{from: a, to: 'b:1'}", "`b:1` is not an address and port"),
        ("{from: a, to: '10.0.0.1:1', protocol: icmp}", "there is no protocol `icmp`"),
        ("{from: a, to: '10.0.0.1:1', via: b}", "`trace` has no key `via`"),
        ("a", "must be a mapping"),
    ] {
        let message = parse_trace(text).expect_err(text);
        assert!(message.contains(part), "{text}: {message}");
    }
}

#[test]
fn anchors_merge_keys_and_line_ends_of_other_systems() {
    let text = "name: x\ntopology:\n  lans: {a: {subnets: 10.0.0.0/24}}\n  routers:\n    r1: &r {a: 10.0.0.1, asn: 65001, accept: [65002]}\n    \
                r2: {<<: *r, a: 10.0.0.2}\nsteps: []\n";
    for text in [text.to_owned(), text.replace('\n', "\r\n"), format!("\u{feff}{text}")] {
        let scenario = good(&text);
        assert_eq!(scenario.topology.routers["r2"].asn, 65001);
        assert_eq!(scenario.topology.routers["r2"].accept, [65002]);
        let wrong = text.replace("asn: 65001", "asn: -65001");
        let diagnostics = parse(&wrong).unwrap_err();
        let place = |n: usize| diagnostics[n].span.as_ref().map(|span| (span.line, span.text().to_owned()));
        assert_eq!(place(0), Some((5, "-65001".to_owned())), "{}", diagnostics[0]);
    }
}
