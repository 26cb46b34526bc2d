//! Many virtual servers at once.

use std::net::Ipv4Addr;
use std::time::Instant;

use fairway_backend_ipvs::IpvsBackend;
use fairway_desired::ipvs::Scheduler;
use fairway_desired::{Ipvs, Op};

use crate::support::{alone, done, observe, put, put_real, run, server, table, tcp};

const SERVERS: u32 = 2000;
const REALS: u32 = 4;

fn many() -> Vec<Op<Ipvs>> {
    let address = |net: [u8; 2], n: u32| {
        let [_, _, high, low] = n.to_be_bytes();
        Ipv4Addr::new(net[0], net[1], high, low).to_string()
    };
    let one = |n| {
        let key = tcp(&address([10, 96], n + 1), 80);
        let reals = (0..REALS).map(|real| put_real(&key, &address([10, 244], n * REALS + real + 1), 8080, 1));
        [put(&key, server(Scheduler::Rr))].into_iter().chain(reals).collect::<Vec<_>>()
    };
    (0..SERVERS).flat_map(one).collect()
}

#[test]
fn thousands_are_applied_and_observed() {
    alone(|mut backend: IpvsBackend| {
        let ops = many();
        let timed = |what: &str, start: Instant| println!("{what}: {:?}", start.elapsed());
        let start = Instant::now();
        done(&mut backend, &ops);
        timed("applied", start);
        let start = Instant::now();
        let first = observe(&mut backend);
        timed("observed", start);
        assert_eq!(first, table(&ops));
        // Once more: now everything exists.
        let start = Instant::now();
        done(&mut backend, &ops);
        timed("applied again", start);
        let start = Instant::now();
        let statistics = backend.statistics().expect("statistics");
        timed("statistics", start);
        assert_eq!(statistics.iter().map(|s| 1 + s.reals.len()).sum::<usize>(), ops.len());
        let start = Instant::now();
        let saved = run("ipvsadm -Sn");
        timed("ipvsadm -Sn", start);
        assert_eq!(saved.lines().count(), ops.len());
        // A backend that knows nothing: all puts are first tried as new.
        let start = Instant::now();
        done(&mut IpvsBackend::new().expect("a backend"), &ops);
        timed("applied without knowing", start);
        let dels: Vec<Op<Ipvs>> = ops.iter().rev().map(|op| Op::Del(op.key().clone())).collect();
        let start = Instant::now();
        done(&mut backend, &dels);
        timed("deleted", start);
        assert!(observe(&mut backend).is_empty());
    });
}
