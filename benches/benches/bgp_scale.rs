//! The BGP speaker at scale: many of them in one process, with simulated links. Reports virtual time, messages, real time
//! and memory. With an argument, only what has it in its name.
#![allow(missing_docs, reason = "a program")]

#[path = "../../engine/bgp/tests/common/fabric.rs"]
mod fabric;

use std::time::{Duration, Instant};

use fabric::{Fabric, graceful, mesh, network, pods, racks, reflected, session};
use fairway_desired::Op;
use fairway_desired::bgp::Key;

/// Resident memory of this process in MiB.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:")).unwrap_or_default();
    line.split_whitespace().next().and_then(|kib| kib.parse::<u64>().ok()).unwrap_or(0) / 1024
}

/// One row of the table.
fn report(what: &str, fabric: &Fabric, before: fabric::Sent, began: Duration, real: Instant) {
    let sent = fabric.sent.since(before);
    println!(
        "| {what} | {} | {:.1} ms | {} | {:.1} MB | {} | {:.1} s | {} MiB |",
        fabric.sessions(),
        fabric.settled.saturating_sub(began).as_secs_f64() * 1000.0,
        sent.updates,
        sent.octets as f64 / 1e6,
        sent.learned,
        real.elapsed().as_secs_f64(),
        resident()
    );
}

/// From nothing until it is quiet, then one prefix away and back again.
fn grow(what: &str, node: usize, make: impl FnOnce() -> Fabric) {
    let real = Instant::now();
    let mut fabric = make();
    let began = fabric.now;
    fabric.run(Duration::from_secs(40));
    report(&format!("{what}: from nothing"), &fabric, fabric::Sent::default(), began, real);
    for (what, op) in [("a network goes", Op::Del(Key::Network(pods(node)))), ("it is back", network(pods(node), node))]
    {
        let (before, began, real) = (fabric.sent, fabric.now, Instant::now());
        fabric.apply(node, &[op]);
        fabric.run(Duration::from_millis(500));
        report(what, &fabric, before, began, real);
    }
}

fn flap(what: &str, session: fn() -> fairway_desired::bgp::Session) {
    let real = Instant::now();
    let mut net = racks(16, 30, session);
    let began = net.fabric.now;
    net.fabric.run(Duration::from_secs(60));
    report(&format!("{what}: from nothing"), &net.fabric, fabric::Sent::default(), began, real);
    for turn in 1..=10 {
        let (before, began, real) = (net.fabric.sent, net.fabric.now, Instant::now());
        net.fabric.sever(net.router(0));
        net.fabric.run(Duration::from_secs(20));
        if turn == 10 {
            report("its 10th flap", &net.fabric, before, began, real);
        }
    }
}

fn main() {
    // `cargo bench` adds arguments of its own.
    let only = std::env::args().skip(1).find(|a| !a.starts_with('-')).unwrap_or_default();
    println!(
        "| what | sessions | last change after (virtual) | UPDATEs | sent | kernel changes | real time | memory |"
    );
    println!("|---|---|---|---|---|---|---|---|");
    let runs: [(&str, &dyn Fn(&str)); 6] = [
        ("mesh of 100", &|what| grow(what, 7, || mesh(100))),
        ("mesh of 500", &|what| grow(what, 7, || mesh(500))),
        ("500 nodes, 4 of them reflectors", &|what| grow(what, 50, || reflected(500, 4))),
        ("2,000 nodes, 4 of them reflectors", &|what| grow(what, 50, || reflected(2000, 4))),
        ("16 racks of 30, a top-of-rack router flaps", &|what| flap(what, session)),
        ("the same with graceful restart", &|what| flap(what, graceful)),
    ];
    for (what, run) in runs {
        if what.contains(&only) {
            run(what);
        }
    }
}
