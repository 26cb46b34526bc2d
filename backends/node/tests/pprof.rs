//! A CPU profile of a running node, read as the format says and not as we write it.
//!
//! The port cannot be chosen, so the test has a network namespace for itself; without root it says so and passes.
#![allow(clippy::unwrap_used, reason = "a test may fail")]

use std::collections::BTreeMap;
use std::hint::black_box;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use fairway_backend_route::setup::Setup;
use fairway_node::{Command, Node, RealKernel, Start};
use fairway_objects::NodeConfig;
use nix::sched::{CloneFlags, unshare};

/// A page of the profiler's port: status and body. `None`: nobody answers yet.
fn get(path: &str) -> Option<(u16, Vec<u8>)> {
    let mut stream = TcpStream::connect(("127.0.0.1", 6060)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n").unwrap();
    let mut all = vec![];
    stream.read_to_end(&mut all).unwrap();
    let end = all.windows(4).position(|four| four == b"\r\n\r\n").unwrap();
    let head = String::from_utf8_lossy(&all[..end]).into_owned();
    Some((head.split(' ').nth(1).unwrap().parse().unwrap(), all[end + 4..].to_vec()))
}

#[derive(Clone, Debug)]
enum Field {
    Number(u64),
    Bytes(Vec<u8>),
}

fn varint(bytes: &mut &[u8]) -> u64 {
    let mut value = 0;
    for shift in (0..).step_by(7) {
        let (first, rest) = bytes.split_first().unwrap();
        *bytes = rest;
        value |= u64::from(first & 0x7f) << shift;
        if first & 0x80 == 0 {
            break;
        }
    }
    value
}

/// The fields of a message by their numbers (protobuf's wire format).
fn message(mut bytes: &[u8]) -> BTreeMap<u64, Vec<Field>> {
    let mut fields: BTreeMap<u64, Vec<Field>> = BTreeMap::new();
    while !bytes.is_empty() {
        let tag = varint(&mut bytes);
        let field = match tag & 7 {
            0 => Field::Number(varint(&mut bytes)),
            2 => {
                let len = varint(&mut bytes) as usize;
                let (this, rest) = bytes.split_at(len);
                bytes = rest;
                Field::Bytes(this.to_vec())
            }
            other => panic!("wire type {other}"),
        };
        fields.entry(tag >> 3).or_default().push(field);
    }
    fields
}

fn messages(fields: &BTreeMap<u64, Vec<Field>>, number: u64) -> Vec<BTreeMap<u64, Vec<Field>>> {
    let of = |field: &Field| match field {
        Field::Bytes(bytes) => message(bytes),
        Field::Number(number) => panic!("{number} is no message"),
    };
    fields.get(&number).into_iter().flatten().map(of).collect()
}

/// Numbers, packed or not.
fn numbers(fields: &BTreeMap<u64, Vec<Field>>, number: u64) -> Vec<u64> {
    let mut found = vec![];
    for field in fields.get(&number).into_iter().flatten() {
        match field {
            Field::Number(number) => found.push(*number),
            Field::Bytes(bytes) => {
                let mut bytes = &bytes[..];
                while !bytes.is_empty() {
                    found.push(varint(&mut bytes));
                }
            }
        }
    }
    found
}

#[inline(never)]
fn burns_the_cpu(stop: &AtomicBool) -> u64 {
    let mut sum = 0_u64;
    while !stop.load(Ordering::Relaxed) {
        sum = black_box(sum.wrapping_mul(31).wrapping_add(7));
    }
    sum
}

#[test]
fn a_profile_says_where_the_time_goes() {
    // The profiler does not come to an end there; on a machine this same test runs without a guest.
    if std::fs::read_to_string("/proc/cpuinfo").is_ok_and(|text| text.contains("User Mode Linux")) {
        return println!("skipped: in User-Mode Linux");
    }
    std::thread::spawn(|| match unshare(CloneFlags::CLONE_NEWNET) {
        Err(error) => println!("skipped: no network namespace: {error}"),
        Ok(()) => play(),
    })
    .join()
    .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
}

fn play() {
    Setup::new().unwrap().set_up("lo", true).unwrap();
    let node = Node::start(Start {
        config: NodeConfig { run_service_proxy: false, pprof: true, ..NodeConfig::new("node") },
        seed: 1,
        epoch: Instant::now(),
        enter: Box::new(|| Ok(())),
        open: Box::new(|config| RealKernel::open(config).map_err(|error| error.to_string())),
        notices: Box::new(drop),
        events: Box::new(|_| {}),
    })
    .unwrap();
    // The port is there before the node says that it has started, or soon after.
    let limit = Instant::now() + Duration::from_secs(20);
    let index = loop {
        if let Some(index) = get("/debug/pprof/") {
            break index;
        }
        assert!(Instant::now() < limit, "nobody answers");
        std::thread::sleep(Duration::from_millis(10));
    };
    assert!(index.0 == 200 && String::from_utf8_lossy(&index.1).contains("/debug/pprof/profile"));
    let (status, why) = get("/debug/pprof/heap").unwrap();
    assert!(status == 501 && String::from_utf8_lossy(&why).contains("no heap profile"));
    assert_eq!(get("/debug/pprof/profile?seconds=never").unwrap().0, 400);

    let stop = AtomicBool::new(false);
    let (status, profile) = std::thread::scope(|scope| {
        std::thread::Builder::new()
            .name("burner".into())
            .spawn_scoped(scope, || black_box(burns_the_cpu(&stop)))
            .unwrap();
        let profile = get("/debug/pprof/profile?seconds=1").unwrap();
        stop.store(true, Ordering::Relaxed);
        profile
    });
    assert_eq!(status, 200, "{}", String::from_utf8_lossy(&profile));
    let profile = message(&profile);
    let texts: Vec<String> = profile[&6]
        .iter()
        .map(|field| match field {
            Field::Bytes(bytes) => String::from_utf8(bytes.clone()).unwrap(),
            Field::Number(_) => panic!("no text"),
        })
        .collect();
    assert_eq!(texts[0], "");
    let text = |number: u64| texts[number as usize].as_str();
    let types: Vec<_> = messages(&profile, 1)
        .iter()
        .map(|kind| (text(numbers(kind, 1)[0]).to_string(), text(numbers(kind, 2)[0]).to_string()))
        .collect();
    let wanted =
        [("samples", "count"), ("cpu", "nanoseconds")].map(|(kind, unit)| (kind.to_string(), unit.to_string()));
    assert_eq!(types, wanted);
    let functions: BTreeMap<u64, String> =
        messages(&profile, 5).iter().map(|f| (numbers(f, 1)[0], text(numbers(f, 2)[0]).to_string())).collect();
    let locations: BTreeMap<u64, String> = messages(&profile, 4)
        .iter()
        .map(|location| (numbers(location, 1)[0], functions[&numbers(&messages(location, 4)[0], 1)[0]].clone()))
        .collect();
    let mut burnt = 0;
    for sample in messages(&profile, 2) {
        let stack: Vec<&String> = numbers(&sample, 1).iter().map(|id| &locations[id]).collect();
        let values = numbers(&sample, 2);
        assert_eq!(values[1], values[0] * (1_000_000_000 / 99));
        if stack.iter().any(|name| name.contains("burns_the_cpu")) {
            burnt += values[0];
            assert_eq!(text(numbers(&messages(&sample, 3)[0], 2)[0]), "burner");
        }
    }
    assert!(burnt > 0, "{functions:?}");
    node.end(Command::Shutdown).unwrap();
}
