//! A BGP daemon under load, ours and others side by side on this machine: routes come from one neighbour, and leave to
//! others. Then the first neighbour dies, and all routes are withdrawn.
//!
//! Run it as root with `make bench-bgp`; each daemon runs in a network namespace that is gone afterwards. What is
//! missing on this machine is left out.
#![allow(clippy::unwrap_used, reason = "a benchmark that fails shall stop")]

mod daemon;
mod load;
mod ours;
mod peers;

use std::time::Duration;

use fairway_backend_route::setup::Setup;
use nix::sched::{CloneFlags, unshare};

use crate::daemon::{Daemon, Kind};
use crate::load::Load;
use crate::peers::{Collectors, Generator};

/// Longer is not waited for anything.
const LIMIT: Duration = Duration::from_secs(180);
/// So many runs, unless they take long.
const RUNS: usize = 7;
const LONG: Duration = Duration::from_secs(5);

/// What one run gave.
#[derive(Clone, Debug)]
struct Figures {
    /// From the first octet sent until every neighbour has every route.
    told: Duration,
    told_cpu: Duration,
    /// From the end of the first neighbour's connection until every neighbour has lost every route.
    withdrawn: Duration,
    withdrawn_cpu: Duration,
    /// The largest resident set, in KiB.
    peak_kib: u64,
}

fn run(kind: Kind, load: &Load, collectors: u8) -> Result<Figures, String> {
    let daemon = Daemon::start(kind, collectors)?;
    measure(&daemon, load, collectors).inspect_err(|_| eprintln!("{} says:\n{}", kind.name(), daemon.words()))
}

fn measure(daemon: &Daemon, load: &Load, collectors: u8) -> Result<Figures, String> {
    let collectors = Collectors::connect(collectors, load.routes)?;
    let mut generator = Generator::connect(LIMIT)?;
    // Whatever the daemon does with new sessions shall be over.
    std::thread::sleep(Duration::from_millis(500));
    let before = daemon.cpu()?;
    let told = generator.send(&load.bytes).and_then(|start| Ok(collectors.all_full(LIMIT)? - start))?;
    let between = daemon.cpu()?;
    let end = generator.die();
    let withdrawn = collectors.all_empty(LIMIT)? - end;
    let after = daemon.cpu()?;
    Ok(Figures {
        told,
        told_cpu: between - before,
        withdrawn,
        withdrawn_cpu: after - between,
        peak_kib: daemon.peak_kib()?,
    })
}

/// The fastest of several runs: what disturbs a run on a shared machine only makes it slower.
fn best(kind: Kind, load: &Load, collectors: u8) -> Result<Figures, String> {
    let mut best = run(kind, load, collectors)?;
    for _ in 1..RUNS {
        if best.told + best.withdrawn > LONG {
            break;
        }
        let next = run(kind, load, collectors)?;
        best = Figures {
            told: best.told.min(next.told),
            told_cpu: best.told_cpu.min(next.told_cpu),
            withdrawn: best.withdrawn.min(next.withdrawn),
            withdrawn_cpu: best.withdrawn_cpu.min(next.withdrawn_cpu),
            peak_kib: best.peak_kib.max(next.peak_kib),
        };
    }
    Ok(best)
}

fn seconds(time: Duration) -> String {
    format!("{:.3} s", time.as_secs_f64())
}

/// Routes, how many in a message, and how many neighbours are told.
const LOADS: &[(u32, u32, u8)] = &[
    (10_000, 1, 1),
    (100_000, 800, 1),
    (100_000, 1, 1),
    (1_000_000, 800, 1),
    (1_000_000, 1, 1),
    (100_000, 800, 10),
    (100_000, 800, 100),
];

/// One line per daemon and load. Arguments choose lines: `ours 100000 packed x1` runs only what has all of these.
fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    if let [first, rest @ ..] = arguments.as_slice()
        && first == ours::ARGUMENT
    {
        return ours::run(rest);
    }
    unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace: run as root");
    let mut setup = Setup::new().unwrap();
    setup.set_up("lo", true).unwrap();
    // On this interface all addresses of a network are the machine's own.
    setup.add_address("lo", daemon::NETWORK.parse().unwrap()).unwrap();
    drop(setup);
    println!("| routes | per message | told | daemon | told in | CPU | withdrawn in | CPU | peak memory |");
    println!("|---|---|---|---|---|---|---|---|---|");
    for (routes, per_message, collectors) in LOADS {
        let load = Load::new(*routes, *per_message);
        let form = if *per_message == 1 { "single" } else { "packed" };
        for kind in Kind::ALL.into_iter().filter(|kind| kind.is_here()) {
            let names = [kind.name(), form, &routes.to_string(), &format!("x{collectors}")];
            if !arguments.iter().all(|a| names.contains(&a.as_str())) {
                continue;
            }
            let what = format!("| {routes} | {per_message} | {collectors} | {} |", kind.name());
            match best(kind, &load, *collectors) {
                Ok(f) => println!(
                    "{what} {} | {} | {} | {} | {:.1} MiB |",
                    seconds(f.told),
                    seconds(f.told_cpu),
                    seconds(f.withdrawn),
                    seconds(f.withdrawn_cpu),
                    f.peak_kib as f64 / 1024.0
                ),
                Err(why) => println!("{what} {why} | | | | |"),
            }
        }
    }
}
