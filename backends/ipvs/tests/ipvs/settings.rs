//! Timeouts, counters and what the kernel says of itself.

use std::time::Duration;

use fairway_backend_ipvs::{Method, Timeouts};
use fairway_desired::Outcome;
use fairway_desired::ipvs::Scheduler;

use crate::support::{alone, done, put, put_real, run, server, tcp};

#[test]
fn timeouts_are_read_and_written() {
    alone(|mut backend| {
        let wanted = Timeouts { tcp_s: 1000, tcp_fin_s: 60, udp_s: 200 };
        assert_eq!(backend.set_timeouts(wanted), Ok(Outcome::Done));
        assert_eq!(backend.timeouts(), Ok(wanted));
        assert_eq!(run("ipvsadm -l --timeout").trim(), "Timeout (tcp tcpfin udp): 1000 60 200");
        // 0 leaves a timeout as it is.
        assert_eq!(backend.set_timeouts(Timeouts { tcp_s: 0, tcp_fin_s: 30, udp_s: 0 }), Ok(Outcome::Done));
        assert_eq!(backend.timeouts(), Ok(Timeouts { tcp_fin_s: 30, ..wanted }));
    });
}

#[test]
fn counters_count_connections() {
    alone(|mut backend| {
        run("ip address add 10.96.0.1/32 dev lo");
        let web = tcp("10.96.0.1", 80);
        done(&mut backend, &[put(&web, server(Scheduler::Rr)), put_real(&web, "127.0.0.1", 8080, 1)]);
        let listener = std::net::TcpListener::bind("127.0.0.1:8080").expect("a port");
        let kept: Vec<_> = (0..3)
            .map(|_| {
                let client = std::net::TcpStream::connect("10.96.0.1:80").expect("through IPVS");
                (client, listener.accept().expect("a client"))
            })
            .collect();
        // The kernel adds its counters up every two seconds.
        let mut statistics = backend.statistics().expect("statistics");
        for _ in 0..100 {
            if statistics[0].traffic.connections > 0 {
                break;
            }
            std::thread::sleep(Duration::from_millis(100));
            statistics = backend.statistics().expect("statistics");
        }
        let (server, real) = (&statistics[0], &statistics[0].reals[0]);
        assert_eq!((server.scheduler.as_str(), server.persistence_s), ("rr", None));
        assert_eq!((real.method, real.weight, real.active), (Method::Masquerade, 1, 3));
        assert_eq!((server.traffic.connections, real.traffic.connections), (3, 3));
        assert!(server.traffic.packets_in >= 6 && server.traffic.bytes_in > 0);
        drop(kept);
        let info = backend.info().expect("info");
        assert!(info.version.0 >= 1 && info.connection_table_size >= 256, "{info:?}");
    });
}
