//! Client against server, and against peers that misbehave, on real sockets of this host.

#![allow(clippy::unwrap_used)]

use std::future::{Future, pending};
use std::net::SocketAddr;
use std::time::Duration;

use fairway_mconnect::{ClientConfig, Server, ServerConfig, client, client_until};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// Longer than any run here takes; it only bounds a test that hangs.
const LONG: Duration = Duration::from_secs(30);

fn config(address: SocketAddr, nconn: u64) -> ClientConfig {
    ClientConfig { nconn, timeout: LONG, ..ClientConfig::new(address.into()) }
}

async fn start(address: &str, udp: bool) -> (SocketAddr, oneshot::Sender<()>, JoinHandle<()>) {
    let config = ServerConfig {
        address: address.parse().unwrap(),
        udp,
        host: Some("pod-1".into()),
        probe: Some("127.0.0.1:0".parse().unwrap()),
        clients: false,
    };
    let server = Server::bind(&config).await.unwrap();
    let address = server.address().unwrap();
    let (stop, stopped) = oneshot::channel();
    let task = tokio::spawn(server.run(async { drop(stopped.await) }));
    (address, stop, task)
}

/// A TCP peer that treats each connection as `peer` does.
async fn peer<F: Future<Output = ()> + Send + 'static>(peer: fn(TcpStream) -> F) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(peer(stream));
        }
    });
    address
}

#[tokio::test]
async fn tcp_and_udp_over_both_families() {
    for address in ["127.0.0.1:0", "[::1]:0"] {
        let (address, _stop, _task) = start(address, true).await;
        for udp in [false, true] {
            let report = client(&ClientConfig { udp, ..config(address, 100) }).await;
            assert_eq!((report.connects, report.failed()), (100, 0), "{address} udp {udp}");
            assert_eq!(report.hosts, [("pod-1".to_string(), 100)].into());
            assert_eq!((report.latencies.connect.len(), report.latencies.first_byte.len()), (100, 100));
            assert!(report.latencies.first_byte.iter().zip(&report.latencies.connect).all(|(byte, made)| byte >= made));
        }
    }
}

#[tokio::test]
async fn a_listener_on_everything_takes_ipv4_too() {
    let (address, _stop, _task) = start("[::]:0", true).await;
    for host in ["127.0.0.1", "[::1]"] {
        for udp in [false, true] {
            let target = format!("{host}:{}", address.port()).parse().unwrap();
            let report = client(&ClientConfig { udp, ..config(target, 5) }).await;
            assert_eq!((report.hosts.get("pod-1"), report.failed()), (Some(&5), 0), "{host} udp {udp}");
        }
    }
}

#[tokio::test]
async fn sources_come_from_the_block() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let peers = tokio::spawn(async move {
        let mut peers = std::collections::BTreeSet::new();
        for _ in 0..20 {
            let (mut stream, peer) = listener.accept().await.unwrap();
            stream.write_all(b"pod").await.unwrap();
            peers.insert(peer.ip());
        }
        peers
    });
    // All of 127.0.0.0/8 belongs to every host.
    let source = "127.7.0.0/16".parse().unwrap();
    let report = client(&ClientConfig { source: Some(source), seed: 1, ..config(address, 20) }).await;
    assert_eq!((report.connects, report.failed()), (20, 0));
    let peers = peers.await.unwrap();
    assert!(peers.len() > 1 && peers.iter().all(|peer| source.contains(peer)), "{peers:?}");
}

#[tokio::test]
async fn a_source_of_the_other_family_is_a_failed_connect() {
    let (address, _stop, _task) = start("127.0.0.1:0", true).await;
    for udp in [false, true] {
        let source = Some("fd00::/64".parse().unwrap());
        let report = client(&ClientConfig { source, udp, ..config(address, 3) }).await;
        assert_eq!((report.failed_connects, report.failed_reads, report.hosts.len()), (3, 0, 0));
    }
}

#[tokio::test]
async fn refused_is_a_failed_connect_over_tcp_and_a_failed_read_over_udp() {
    // Bound but not listening: nobody else can take the port while the test runs.
    let tcp = tokio::net::TcpSocket::new_v4().unwrap();
    tcp.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let outcome = client_until(&config(tcp.local_addr().unwrap(), 7), pending()).await;
    let report = outcome.report;
    assert_eq!((report.connects, report.failed_connects, report.failed_reads), (7, 7, 0));
    assert_eq!(outcome.failures.values().sum::<u64>(), 7);
    assert!(outcome.failures.keys().all(|cause| cause.contains("refused")), "{:?}", outcome.failures);
    // A UDP port that was just free.
    let address = UdpSocket::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let report = client(&ClientConfig { udp: true, ..config(address, 3) }).await;
    assert_eq!((report.connects, report.failed_connects, report.failed_reads), (3, 0, 3));
}

#[tokio::test]
async fn a_peer_that_closes_at_once_is_a_failed_read() {
    let address = peer(|stream| async move { drop(stream) }).await;
    let report = client(&config(address, 10)).await;
    assert_eq!((report.connects, report.failed_connects, report.failed_reads), (10, 0, 10));
    assert!(report.hosts.is_empty() && report.latencies.connect.is_empty());
}

#[tokio::test]
async fn silence_is_a_failed_read_by_the_deadline() {
    let silent = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = silent.local_addr().unwrap();
    // More than there are slots: none of them is booked as a failed connect.
    let config = ClientConfig { udp: true, timeout: Duration::from_millis(1500), ..config(address, 200) };
    let report = client(&config).await;
    assert_eq!((report.connects, report.failed_connects, report.failed_reads), (200, 0, 200));
}

#[tokio::test]
async fn kept_connections_end_with_the_timeout_and_are_no_failure() {
    let (address, _stop, _task) = start("127.0.0.1:0", false).await;
    let config = ClientConfig { keep: true, timeout: Duration::from_millis(500), ..config(address, 10) };
    let report = client(&config).await;
    assert_eq!((report.connects, report.failed(), report.hosts["pod-1"]), (10, 0, 10));
    assert!(report.duration >= config.timeout);
}

#[tokio::test]
async fn a_kept_connection_that_is_lost_is_a_failed_read() {
    let address = peer(|mut stream| async move {
        stream.write_all(b"pod-1").await.unwrap();
    })
    .await;
    let report = client(&ClientConfig { keep: true, ..config(address, 4) }).await;
    assert_eq!((report.connects, report.hosts["pod-1"], report.failed_reads), (4, 4, 4));
}

#[tokio::test]
async fn a_stopped_server_closes_its_connections_and_its_port() {
    let (address, stop, task) = start("127.0.0.1:0", true).await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    let mut name = [0; 5];
    stream.read_exact(&mut name).await.unwrap();
    stop.send(()).unwrap();
    assert_eq!(stream.read(&mut name).await.unwrap(), 0);
    task.await.unwrap();
    assert_eq!(client(&config(address, 1)).await.failed_connects, 1);
}

#[tokio::test]
async fn a_taken_port_is_an_error_that_names_it() {
    let (address, _stop, _task) = start("127.0.0.1:0", false).await;
    let config = ServerConfig { address: address.into(), udp: false, host: None, probe: None, clients: false };
    let error = Server::bind(&config).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::AddrInUse);
    assert!(error.to_string().contains(&address.to_string()), "{error}");
}

#[tokio::test]
async fn liveness_is_answered() {
    let config = ServerConfig {
        address: "127.0.0.1:0".parse().unwrap(),
        udp: false,
        host: None,
        probe: Some("127.0.0.1:0".parse().unwrap()),
        clients: false,
    };
    let server = Server::bind(&config).await.unwrap();
    let address = server.probe_address().unwrap().unwrap();
    tokio::spawn(server.run(pending()));
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: pod\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("\r\n\r\nok\n"), "{answer}");
}

#[tokio::test]
async fn a_name_that_does_not_resolve_is_a_failed_connect() {
    let config = ClientConfig { nconn: 2, timeout: LONG, ..ClientConfig::new("no such name:1".parse().unwrap()) };
    let report = client(&config).await;
    assert_eq!((report.connects, report.failed_connects), (2, 2));
}
