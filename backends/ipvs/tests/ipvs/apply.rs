//! What ops do, as `ipvsadm` sees it.

use fairway_backend_ipvs::IpvsBackend;
use fairway_desired::ipvs::{Scheduler, VirtualServer};
use fairway_desired::{Backend, Family, Op, Outcome};

use crate::support::{
    alone, apply, done, mark, observe, put, put_real, put_tunnel, real_key, run, saved, server, server_key, table, tcp,
    udp,
};

#[test]
fn every_kind_of_entry_is_what_ipvsadm_shows_and_reads_back() {
    alone(|mut backend| {
        let web = tcp("10.96.0.1", 80);
        let dns = udp("fd00:96::a", 53);
        let direct = mark(Family::V4, 1481);
        let ops = [
            put(&web, VirtualServer { persistence_s: Some(10800), ..server(Scheduler::Rr) }),
            put_real(&web, "10.244.1.2", 8080, 1),
            put_real(&web, "10.244.1.3", 8080, 0),
            put(&dns, server(Scheduler::Wlc)),
            put_real(&dns, "fd00:244::2", 5353, 3),
            put(&direct, VirtualServer { fallback: true, hash_port: true, ..server(Scheduler::Mh) }),
            put_tunnel(&direct, "10.244.1.2", 8080, 1),
        ];
        done(&mut backend, &ops);
        let mut expected = [
            "-A -t 10.96.0.1:80 -s rr -p 10800",
            "-a -t 10.96.0.1:80 -r 10.244.1.2:8080 -m -w 1",
            "-a -t 10.96.0.1:80 -r 10.244.1.3:8080 -m -w 0",
            "-A -u [fd00:96::a]:53 -s wlc",
            "-a -u [fd00:96::a]:53 -r [fd00:244::2]:5353 -m -w 3",
            "-A -f 1481 -s mh -b mh-fallback,mh-port",
            "-a -f 1481 -r 10.244.1.2:8080 -i -w 1 --tun-type ipip",
        ];
        expected.sort_unstable();
        assert_eq!(saved(), expected);
        assert_eq!(observe(&mut backend), table(&ops));
        // A restarted daemon sees the same, and writing it again changes nothing.
        let mut other = IpvsBackend::new().expect("a second backend");
        assert_eq!(observe(&mut other), table(&ops));
        done(&mut other, &ops);
        assert_eq!(saved(), expected);
    });
}

#[test]
fn values_change_in_place() {
    alone(|mut backend| {
        let web = tcp("10.96.0.1", 80);
        done(&mut backend, &[put(&web, server(Scheduler::Rr)), put_real(&web, "10.244.1.2", 8080, 1)]);
        let changed = VirtualServer { persistence_s: Some(60), ..server(Scheduler::Sh) };
        let ops = [put(&web, changed), put_tunnel(&web, "10.244.1.2", 8080, 5)];
        done(&mut backend, &ops);
        assert_eq!(
            saved(),
            ["-A -t 10.96.0.1:80 -s sh -p 60", "-a -t 10.96.0.1:80 -r 10.244.1.2:8080 -i -w 5 --tun-type ipip"]
        );
        done(&mut backend, &[put(&web, server(Scheduler::Rr))]);
        assert_eq!(
            saved(),
            ["-A -t 10.96.0.1:80 -s rr", "-a -t 10.96.0.1:80 -r 10.244.1.2:8080 -i -w 5 --tun-type ipip"]
        );
    });
}

#[test]
fn what_cannot_be_done_is_told_op_by_op_and_stops_nothing() {
    alone(|mut backend| {
        let (web, nobody) = (tcp("10.96.0.1", 80), tcp("10.96.0.9", 80));
        let outcomes = apply(
            &mut backend,
            &[
                put_real(&nobody, "10.244.1.2", 8080, 1),
                put(&web, server(Scheduler::Rr)),
                put_real(&web, "10.244.1.2", 8080, 1),
                Op::Del(server_key(&nobody)),
                Op::Del(real_key(&web, "10.244.9.9", 8080)),
            ],
        );
        assert!(matches!(outcomes[0], Outcome::Refused(_)), "{outcomes:?}");
        assert_eq!(outcomes[1..], [Outcome::Done, Outcome::Done, Outcome::Gone, Outcome::Gone]);
        assert_eq!(saved().len(), 2);
    });
}

#[test]
fn somebody_else_changes_the_table_behind_our_back() {
    alone(|mut backend| {
        let web = tcp("10.96.0.1", 80);
        let ops = [put(&web, server(Scheduler::Rr)), put_real(&web, "10.244.1.2", 8080, 1)];
        done(&mut backend, &ops);
        run("ipvsadm -C");
        // What was there must be written as new, what is there must not be.
        done(&mut backend, &ops);
        assert_eq!(saved().len(), 2);
        run("ipvsadm -d -t 10.96.0.1:80 -r 10.244.1.2:8080");
        assert_eq!(apply(&mut backend, &[Op::Del(real_key(&web, "10.244.1.2", 8080))]), [Outcome::Gone]);
    });
}

#[test]
fn excluded_networks_are_somebody_elses() {
    alone(|backend| {
        let mut backend = backend.with_excluded(vec!["10.97.0.0/16".parse().expect("a network")]);
        run("ipvsadm -A -t 10.97.0.1:80 -s rr");
        let theirs = tcp("10.97.0.1", 80);
        let outcomes = apply(
            &mut backend,
            &[
                put(&theirs, server(Scheduler::Sh)),
                put_real(&theirs, "10.244.1.2", 80, 1),
                Op::Del(server_key(&theirs)),
            ],
        );
        assert_eq!(outcomes, [Outcome::Foreign; 3]);
        assert!(backend.observe().expect("a table").is_empty());
        assert_eq!(saved(), ["-A -t 10.97.0.1:80 -s rr"]);
    });
}
