//! Datagrams over loopback, as the machine sees them.
#![allow(clippy::unwrap_used, reason = "a helper that fails fails its test")]

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;

use fairway_backend_bfd::{Error, Transport};
use fairway_bfd::{Input, Output, Packet, Payload};
use tokio::time::timeout;

const LONG: Duration = Duration::from_secs(10);
const SHORT: Duration = Duration::from_millis(200);

fn run<F: Future<Output = ()>>(test: F) {
    tokio_test::block_on(test);
}

/// A port that nobody uses now.
fn free_port() -> u16 {
    UdpSocket::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port()
}

/// Listens on a port of its own choice. Other tests choose as well, so the first choice may be taken.
fn listening() -> (Transport, u16) {
    let mut transport = Transport::new();
    for _ in 0..20 {
        let port = free_port();
        if transport.handle(&Output::Listen { port }).is_ok() {
            return (transport, port);
        }
    }
    panic!("no free port");
}

async fn next(transport: &mut Transport) -> Input {
    timeout(LONG, transport.next()).await.expect("a packet in time")
}

fn open(transport: &mut Transport, local: &str, remote: SocketAddr) -> IpAddr {
    let peer = remote.ip();
    let local = local.parse().ok();
    transport.handle(&Output::Open { peer, local, source_port: free_port(), remote }).unwrap();
    peer
}

#[test]
fn packets_come_with_the_ttl_and_the_addresses_they_had() {
    run(async {
        for (here, there) in [("127.0.0.1", "127.0.0.2"), ("::1", "::1")] {
            let (mut receiver, port) = listening();
            let mut sender = Transport::new();
            let to = SocketAddr::new(there.parse().unwrap(), port);
            let peer = open(&mut sender, here, to);
            let bytes = [7; Packet::LEN];
            sender.handle(&Output::Send { peer, bytes }).unwrap();
            let Input::Received { local, remote, ttl, payload } = next(&mut receiver).await else { panic!() };
            assert_eq!((local, remote.ip(), ttl), (to, here.parse().unwrap(), 255));
            assert_eq!(payload, Payload::new(&bytes));
            // Somebody else, with another TTL and more to say.
            let stranger = UdpSocket::bind((here, 0)).unwrap();
            if to.is_ipv4() {
                stranger.set_ttl(64).unwrap();
            }
            stranger.send_to(&[1; 2000], to).unwrap();
            let Input::Received { ttl, payload, remote, .. } = next(&mut receiver).await else { panic!() };
            assert_eq!((ttl, remote), (64, stranger.local_addr().unwrap()));
            assert_eq!(payload.packet(), Payload::new(&[1; 512]).packet());
            stranger.send_to(&[], to).unwrap();
            let Input::Received { payload, .. } = next(&mut receiver).await else { panic!() };
            assert_eq!(payload, Payload::new(&[]));
        }
    });
}

#[test]
fn what_has_arrived_is_there_for_who_comes_late() {
    run(async {
        let (mut receiver, port) = listening();
        assert_eq!(receiver.waiting(), None);
        let stranger = UdpSocket::bind(("127.0.0.1", 0)).unwrap();
        // The runtime has no time to notice: nothing is awaited.
        for n in 0..3 {
            stranger.send_to(&[n; 30], ("127.0.0.1", port)).unwrap();
        }
        let payload = |input: Option<Input>| match input {
            Some(Input::Received { payload, .. }) => payload,
            other => panic!("{other:?}"),
        };
        assert_eq!(payload(receiver.waiting()), Payload::new(&[0; 30]));
        assert_eq!(payload(receiver.waiting()), Payload::new(&[1; 30]));
        // A future that is dropped takes no packet with it.
        drop(receiver.next());
        assert_eq!(payload(Some(next(&mut receiver).await)), Payload::new(&[2; 30]));
        assert_eq!(receiver.waiting(), None);
        assert!(timeout(SHORT, receiver.next()).await.is_err(), "and then it waits");
        stranger.send_to(&[3; 30], ("127.0.0.1", port)).unwrap();
        assert_eq!(payload(Some(next(&mut receiver).await)), Payload::new(&[3; 30]));
    });
}

#[test]
fn what_cannot_be_opened_says_whom_it_concerns() {
    run(async {
        let (mut first, port) = listening();
        let mut second = Transport::new();
        let error = second.handle(&Output::Listen { port }).unwrap_err();
        assert!(matches!(&error, Error::Listen { .. }) && error.to_string().contains(&port.to_string()), "{error}");
        assert_eq!(error.input(), Input::NotListening { port });
        first.handle(&Output::Unlisten { port }).unwrap();
        second.handle(&Output::Listen { port }).unwrap();
        // Again on the same port: it is its own.
        second.handle(&Output::Listen { port }).unwrap();

        let remote: SocketAddr = "127.0.0.1:9".parse().unwrap();
        let peer = remote.ip();
        let source_port = free_port();
        let not_ours = Output::Open { peer, local: Some("192.0.2.1".parse().unwrap()), source_port, remote };
        let error = second.handle(&not_ours).unwrap_err();
        assert_eq!(error.input(), Input::NotOpen { peer });
        assert!(error.to_string().starts_with("cannot send to 127.0.0.1"), "{error}");
        let taken = UdpSocket::bind(("127.0.0.1", 0)).unwrap();
        let source_port = taken.local_addr().unwrap().port();
        let open = Output::Open { peer, local: None, source_port, remote };
        assert_eq!(second.handle(&open).unwrap_err().input(), Input::NotOpen { peer });
        // Without a socket there is nothing to send with, and that is all.
        second.handle(&Output::Send { peer, bytes: [0; Packet::LEN] }).unwrap();
        second.handle(&Output::Close { peer }).unwrap();
    });
}

#[test]
fn who_does_not_listen_costs_no_packet() {
    run(async {
        // Nobody is there: what the kernel says of one packet must not take the place of the next.
        let mut sender = Transport::new();
        let port = free_port();
        let peer = open(&mut sender, "127.0.0.1", SocketAddr::new("127.0.0.3".parse().unwrap(), port));
        for n in 0..5 {
            sender.handle(&Output::Send { peer, bytes: [n; Packet::LEN] }).unwrap();
        }
        let mut receiver = Transport::new();
        receiver.handle(&Output::Listen { port }).unwrap();
        sender.handle(&Output::Send { peer, bytes: [9; Packet::LEN] }).unwrap();
        let Input::Received { payload, .. } = next(&mut receiver).await else { panic!() };
        assert_eq!(payload, Payload::new(&[9; Packet::LEN]));
    });
}
