//! A network namespace for each test, and short names.

use std::net::IpAddr;
use std::process::Command;

use fairway_backend_ipvs::{IpvsBackend, OpenError};
use fairway_desired::ipvs::{
    Forwarding, Key, RealServer, RealServerKey, Scheduler, Value, VirtualServer, VirtualServerKey,
};
use fairway_desired::{Backend, Family, Ipvs, Op, Outcome, Protocol, Table};
use rustix::thread::UnshareFlags;

/// Runs a test in a network namespace of its own, or says why not.
pub(crate) fn alone(test: fn(IpvsBackend)) {
    let thread = std::thread::spawn(move || {
        // The deprecation is about file tables, which stay shared.
        #[expect(deprecated, reason = "only the network namespace is left")]
        if let Err(error) = rustix::thread::unshare(UnshareFlags::NEWNET) {
            println!("skipped: no network namespace: {error}");
            return;
        }
        // Without a local routing table, as before the loopback interface is up for the first time, every IPv4 address
        // is a broadcast address to the kernel, and so no real server.
        run("ip link set lo up");
        match IpvsBackend::new() {
            Ok(backend) => test(backend),
            Err(error @ OpenError::Unsupported) => println!("skipped: {error}"),
            Err(error) => panic!("{error}"),
        }
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

/// What a command prints, run in the namespace of this thread.
pub(crate) fn run(command: &str) -> String {
    let mut words = command.split(' ');
    let output = Command::new(words.next().expect("a word")).args(words).output().expect(command);
    assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text")
}

/// Lines of `ipvsadm -Sn`, sorted.
pub(crate) fn saved() -> Vec<String> {
    let mut lines: Vec<String> = run("ipvsadm -Sn").lines().map(|line| line.trim_end().to_string()).collect();
    lines.sort();
    lines
}

pub(crate) fn ip(text: &str) -> IpAddr {
    text.parse().expect(text)
}

pub(crate) fn tcp(address: &str, port: u16) -> VirtualServerKey {
    VirtualServerKey::Address { address: ip(address), port, protocol: Protocol::Tcp }
}

pub(crate) fn udp(address: &str, port: u16) -> VirtualServerKey {
    VirtualServerKey::Address { address: ip(address), port, protocol: Protocol::Udp }
}

pub(crate) fn mark(family: Family, mark: u32) -> VirtualServerKey {
    VirtualServerKey::Mark { family, mark }
}

pub(crate) fn server(scheduler: Scheduler) -> VirtualServer {
    VirtualServer { scheduler, fallback: false, hash_port: false, persistence_s: None }
}

pub(crate) fn server_key(server: &VirtualServerKey) -> Key {
    Key { server: server.clone(), real: None }
}

pub(crate) fn real_key(server: &VirtualServerKey, address: &str, port: u16) -> Key {
    Key { server: server.clone(), real: Some(RealServerKey { address: ip(address), port }) }
}

pub(crate) fn put(server: &VirtualServerKey, value: VirtualServer) -> Op<Ipvs> {
    Op::Put(server_key(server), Value::Server(value))
}

pub(crate) fn put_real(server: &VirtualServerKey, address: &str, port: u16, weight: u32) -> Op<Ipvs> {
    let value = RealServer { weight, forwarding: Forwarding::Masquerade };
    Op::Put(real_key(server, address, port), Value::Real(value))
}

pub(crate) fn put_tunnel(server: &VirtualServerKey, address: &str, port: u16, weight: u32) -> Op<Ipvs> {
    let value = RealServer { weight, forwarding: Forwarding::Tunnel };
    Op::Put(real_key(server, address, port), Value::Real(value))
}

pub(crate) fn observe(backend: &mut IpvsBackend) -> Table<Ipvs> {
    backend.observe().expect("a table")
}

pub(crate) fn apply(backend: &mut IpvsBackend, ops: &[Op<Ipvs>]) -> Vec<Outcome> {
    backend.apply(ops).expect("outcomes")
}

/// Applies ops that must all be done.
pub(crate) fn done(backend: &mut IpvsBackend, ops: &[Op<Ipvs>]) {
    let outcomes = apply(backend, ops);
    for (op, outcome) in ops.iter().zip(&outcomes) {
        assert_eq!(*outcome, Outcome::Done, "{op:?}");
    }
    assert_eq!(outcomes.len(), ops.len());
}

/// The table these puts make.
pub(crate) fn table(ops: &[Op<Ipvs>]) -> Table<Ipvs> {
    let entry = |op: &Op<Ipvs>| match op {
        Op::Put(key, value) => Some((key.clone(), value.clone())),
        Op::Del(_) => None,
    };
    ops.iter().filter_map(entry).collect()
}
