//! Connections over loopback, as the speaker sees them.
#![allow(clippy::unwrap_used, reason = "a helper that fails fails its test")]

use std::future::Future;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::time::Duration;

use fairway_backend_bgp::{PasswordError, Transport};
use fairway_bgp::{ConnId, Input, Output};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout};

const LONG: Duration = Duration::from_secs(10);
const SHORT: Duration = Duration::from_millis(300);
/// A SYN is repeated after one second.
const SYN: Duration = Duration::from_millis(1500);

struct Side {
    transport: Transport,
    events: mpsc::Receiver<Input>,
}

impl Side {
    fn new() -> Side {
        let (sender, events) = mpsc::channel(16);
        Side { transport: Transport::new(sender), events }
    }

    async fn next(&mut self) -> Input {
        timeout(LONG, self.events.recv()).await.expect("an event in time").expect("the transport lives")
    }

    async fn is_silent(&mut self) -> bool {
        timeout(SHORT, self.events.recv()).await.is_err()
    }

    fn connect(&mut self, number: u64, remote: SocketAddr, password: Option<&str>, ttl: Option<u8>) -> ConnId {
        let conn = ConnId::Out(number);
        let password = password.map(String::from);
        self.transport.handle(&Output::Connect { conn, local: None, remote, password, ttl, min_ttl: None }).unwrap();
        conn
    }

    fn send(&mut self, conn: ConnId, bytes: &[u8]) {
        self.transport.handle(&Output::Send { conn, bytes: bytes.to_vec().into() }).unwrap();
    }

    fn close(&mut self, conn: ConnId) {
        self.transport.handle(&Output::Close { conn }).unwrap();
    }

    /// Bytes until there are so many.
    async fn read(&mut self, of: ConnId, count: usize) -> Vec<u8> {
        let mut all = vec![];
        while all.len() < count {
            match self.next().await {
                Input::Received { conn, bytes } if conn == of => all.extend(bytes),
                other => panic!("{other:?} instead of bytes"),
            }
        }
        all
    }
}

/// A port that nobody uses now.
fn free_port() -> u16 {
    TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port()
}

/// A port that is taken and refuses connections as long as the socket lives.
fn refusing() -> (TcpSocket, SocketAddr) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(([127, 0, 0, 1], 0).into()).unwrap();
    let address = socket.local_addr().unwrap();
    (socket, address)
}

/// Listens on a port of its own choice. Other tests choose as well, so the first choice may be taken.
fn listen(side: &mut Side) -> u16 {
    for _ in 0..20 {
        let port = free_port();
        if side.transport.handle(&Output::Listen { port }).is_ok() {
            return port;
        }
    }
    panic!("no free port");
}

async fn within<F: Future>(future: F) -> F::Output {
    timeout(LONG, future).await.expect("an end in time")
}

async fn is_refused(address: SocketAddr) -> bool {
    within(TcpStream::connect(address)).await.is_err()
}

/// A connection that a plain socket opened to us.
async fn visited(capacity: usize) -> (Side, ConnId, TcpStream) {
    let (sender, events) = mpsc::channel(capacity);
    let mut side = Side { transport: Transport::new(sender), events };
    let port = listen(&mut side);
    let visitor = within(TcpStream::connect(("127.0.0.1", port))).await.unwrap();
    let Input::Accepted { conn, .. } = side.next().await else { panic!("not accepted") };
    (side, conn, visitor)
}

/// Two ends of one connection: who dialed, who was called.
async fn pair(host: &str) -> (Side, ConnId, Side, ConnId) {
    let mut called = Side::new();
    let port = listen(&mut called);
    let mut dialed = Side::new();
    let remote = SocketAddr::new(host.parse().unwrap(), port);
    let out = dialed.connect(1, remote, None, None);
    let Input::Connected { conn, local, remote: to } = dialed.next().await else { panic!("not connected") };
    assert_eq!((conn, to), (out, remote));
    let Input::Accepted { conn, local: own, remote: from } = called.next().await else { panic!("not accepted") };
    assert_eq!((own, from), (remote, local));
    (dialed, out, called, conn)
}

fn run<F: Future<Output = ()>>(test: F) {
    tokio_test::block_on(test);
}

#[test]
fn bytes_go_both_ways_in_both_families() {
    run(async {
        for host in ["127.0.0.1", "::1"] {
            let (mut a, out, mut b, inward) = pair(host).await;
            a.send(out, b"open");
            b.send(inward, b"open too");
            assert_eq!(b.read(inward, 4).await, b"open");
            assert_eq!(a.read(out, 8).await, b"open too");
        }
    });
}

#[test]
fn a_refused_dial_fails() {
    run(async {
        let (_taken, address) = refusing();
        let mut side = Side::new();
        let conn = side.connect(7, address, None, Some(1));
        assert_eq!(side.next().await, Input::ConnectFailed { conn });
        assert!(side.is_silent().await);
    });
}

#[test]
fn a_dial_comes_from_the_address_that_it_is_given() {
    run(async {
        let mut called = Side::new();
        let port = listen(&mut called);
        let mut side = Side::new();
        for (number, source, host) in [(1, "127.0.0.2", "127.0.0.1"), (2, "::1", "::1")] {
            let conn = ConnId::Out(number);
            let (local, remote) = (Some(source.parse().unwrap()), SocketAddr::new(host.parse().unwrap(), port));
            let dial = Output::Connect { conn, local, remote, password: None, ttl: Some(255), min_ttl: None };
            side.transport.handle(&dial).unwrap();
            let Input::Connected { local: own, .. } = side.next().await else { panic!("not connected") };
            assert_eq!(Some(own.ip()), local);
            let Input::Accepted { remote: from, .. } = called.next().await else { panic!("not accepted") };
            assert_eq!(from, own);
        }
        // A reserved address (RFC 1112) is none of ours.
        let ((_taken, remote), conn) = (refusing(), ConnId::Out(3));
        let local = Some([240, 0, 0, 1].into());
        side.transport
            .handle(&Output::Connect { conn, local, remote, password: None, ttl: None, min_ttl: None })
            .unwrap();
        assert_eq!(side.next().await, Input::ConnectFailed { conn });
    });
}

#[test]
fn accepted_connections_have_names_of_their_own() {
    run(async {
        let mut side = Side::new();
        let mut names = vec![];
        for _ in 0..2 {
            let port = listen(&mut side);
            for host in ["127.0.0.1", "::1"] {
                let visitor = within(TcpStream::connect((host, port))).await.unwrap();
                let Input::Accepted { conn, .. } = side.next().await else { panic!("not accepted") };
                drop(visitor);
                assert_eq!(side.next().await, Input::Closed { conn });
                names.push(conn);
            }
        }
        names.sort();
        names.dedup();
        assert_eq!(names.len(), 4);
    });
}

#[test]
fn what_was_sent_before_a_close_arrives() {
    run(async {
        let (mut a, out, mut b, inward) = pair("127.0.0.1").await;
        let much = vec![7; 3 << 20];
        a.send(out, &much);
        a.send(out, b"notification");
        a.close(out);
        let all = b.read(inward, much.len() + 12).await;
        assert!(all.ends_with(b"notification"));
        assert_eq!(b.next().await, Input::Closed { conn: inward });
        assert!(b.is_silent().await && a.is_silent().await);
    });
}

#[test]
fn what_the_peer_says_does_not_disturb_a_close() {
    run(async {
        let (mut side, conn, mut visitor) = visited(16).await;
        let much = vec![7; 6 << 20];
        side.send(conn, &much);
        side.close(conn);
        // We talk while the other side says goodbye: a reset would take what is still on its way.
        let mut all = vec![];
        let mut chunk = vec![0; 64 << 10];
        loop {
            let _late = visitor.try_write(&[1; 1000]);
            match within(visitor.read(&mut chunk)).await.unwrap() {
                0 => break,
                count => all.extend_from_slice(&chunk[..count]),
            }
        }
        assert!(all == much, "{} of {} bytes", all.len(), much.len());
        assert!(side.is_silent().await);
    });
}

#[test]
fn a_close_waits_two_seconds_for_a_peer_that_does_not_read() {
    run(async {
        let (mut side, conn, visitor) = visited(16).await;
        side.send(conn, &vec![7; 15 << 20]);
        sleep(SHORT).await;
        let begin = Instant::now();
        side.close(conn);
        // Ours is gone when theirs can no longer be written to.
        within(async {
            while visitor.try_write(b"?").is_ok() {
                sleep(Duration::from_millis(20)).await;
            }
        })
        .await;
        let took = begin.elapsed();
        assert!(took > Duration::from_millis(1500) && took < Duration::from_secs(5), "{took:?}");
        assert!(side.is_silent().await);
    });
}

#[test]
fn nothing_is_told_after_a_close_even_if_it_waited() {
    run(async {
        // Room for one event: the second waits.
        let (mut side, conn, mut visitor) = visited(1).await;
        for _ in 0..2 {
            within(visitor.write_all(b"hello")).await.unwrap();
            sleep(SHORT).await;
        }
        side.close(conn);
        drop(visitor);
        assert_eq!(side.next().await, Input::Received { conn, bytes: b"hello".to_vec() });
        assert!(side.is_silent().await);
    });
}

#[test]
fn a_full_queue_of_events_slows_the_peer_down() {
    run(async {
        let (mut side, conn, mut visitor) = visited(1).await;
        let much = 32 << 20;
        let writer = tokio::spawn(async move { visitor.write_all(&vec![7; much]).await });
        sleep(SHORT).await;
        assert!(!writer.is_finished());
        assert!(side.read(conn, much).await.iter().all(|byte| *byte == 7));
        within(writer).await.unwrap().unwrap();
        assert_eq!(side.next().await, Input::Closed { conn });
    });
}

#[test]
fn the_last_words_of_a_peer_are_heard_before_its_reset() {
    run(async {
        let (mut side, conn, mut visitor) = visited(16).await;
        side.send(conn, b"unread");
        sleep(SHORT).await;
        within(visitor.write_all(b"notification")).await.unwrap();
        // With bytes unread this is a reset.
        drop(visitor);
        side.send(conn, b"more");
        assert_eq!(side.read(conn, 12).await, b"notification");
        assert_eq!(side.next().await, Input::Closed { conn });
        assert!(side.is_silent().await);
    });
}

#[test]
fn a_close_by_the_peer_is_told_once() {
    run(async {
        let (mut a, out, b, _) = pair("127.0.0.1").await;
        drop(b);
        assert_eq!(a.next().await, Input::Closed { conn: out });
        a.send(out, b"too late");
        a.close(out);
        assert!(a.is_silent().await);
    });
}

#[test]
fn a_close_while_dialing_is_silent() {
    run(async {
        // Room for one that is not accepted; the next one's SYN is not answered.
        let (busy, address) = refusing();
        let busy = busy.listen(0).unwrap();
        let mut side = Side::new();
        let first = side.connect(1, address, None, None);
        assert!(matches!(side.next().await, Input::Connected { conn, .. } if conn == first));
        let [dialing, just_begun] = [2, 3].map(|number| side.connect(number, address, None, None));
        side.close(just_begun);
        assert!(side.is_silent().await);
        side.close(dialing);
        let _first = within(busy.accept()).await.unwrap();
        // Now there is room again, but nobody asks.
        assert!(timeout(SYN, busy.accept()).await.is_err());
        assert!(side.is_silent().await);
    });
}

#[test]
fn listening_elsewhere_leaves_the_old_port() {
    run(async {
        let mut side = Side::new();
        let old = listen(&mut side);
        let new = listen(&mut side);
        side.transport.handle(&Output::Listen { port: new }).unwrap();
        for host in ["127.0.0.1", "::1"] {
            let at = |port| SocketAddr::new(host.parse().unwrap(), port);
            assert!(is_refused(at(old)).await);
            assert!(!is_refused(at(new)).await);
        }
        // Away and back without a pause: the port must be free at once.
        side.transport.handle(&Output::Listen { port: old }).unwrap();
        side.transport.handle(&Output::Listen { port: new }).unwrap();
        assert!(!is_refused(([127, 0, 0, 1], new).into()).await);
    });
}

#[test]
fn a_port_in_use_is_an_error_that_names_it() {
    run(async {
        let mut first = Side::new();
        let port = listen(&mut first);
        let mut second = Side::new();
        let error = second.transport.handle(&Output::Listen { port }).unwrap_err();
        let text = error.to_string();
        assert!(text.starts_with(&format!("cannot listen on BGP port {port}: Address")), "{text}");
        assert!(matches!(error, fairway_backend_bgp::Error::Listen(ref e) if e.port == port));
        drop(first);
        second.transport.handle(&Output::Listen { port }).unwrap();
    });
}

#[test]
fn dropping_it_closes_everything() {
    run(async {
        let (mut side, conn, mut open) = visited(16).await;
        let port = open.peer_addr().unwrap().port();
        let mut leaving = within(TcpStream::connect(("127.0.0.1", port))).await.unwrap();
        let Input::Accepted { conn: other, .. } = side.next().await else { panic!("not accepted") };
        side.send(conn, b"open");
        side.send(other, &vec![7; 15 << 20]);
        sleep(SHORT).await;
        // This one waits for its peer to read, and must not be left over.
        side.close(other);
        sleep(SHORT).await;
        let begin = Instant::now();
        drop(side);
        assert!(is_refused(([127, 0, 0, 1], port).into()).await);
        let mut all = vec![];
        for stream in [&mut open, &mut leaving] {
            // An end or a reset.
            let _end = within(stream.read_to_end(&mut all)).await;
        }
        assert!(all.starts_with(b"open") && all.len() < 15 << 20);
        assert!(begin.elapsed() < Duration::from_secs(1), "{:?}", begin.elapsed());
    });
}

#[test]
fn a_peer_that_does_not_read_is_given_up() {
    run(async {
        let (mut side, conn, _unread) = visited(16).await;
        // What the kernel takes does not count: give it time.
        for _ in 0..15 {
            side.send(conn, &vec![0; 1 << 20]);
        }
        assert!(side.is_silent().await);
        for _ in 0..15 {
            side.send(conn, &vec![0; 1 << 20]);
        }
        assert_eq!(side.next().await, Input::Closed { conn });
        side.send(conn, b"too late");
        side.close(conn);
        assert!(side.is_silent().await);
    });
}

/// A side that demands a password of a host, and its address; none if the kernel has no TCP MD5.
fn secured(host: IpAddr, password: &str) -> Option<(Side, SocketAddr)> {
    let mut side = Side::new();
    match side.transport.set_password(host, Some(password)) {
        Ok(()) => {}
        Err(error @ PasswordError::Unsupported { .. }) => {
            println!("skipped: {error}");
            return None;
        }
        Err(error) => panic!("{error}"),
    }
    let port = listen(&mut side);
    Some((side, SocketAddr::new(host, port)))
}

#[test]
fn who_has_the_password_connects() {
    run(async {
        for host in ["127.0.0.1", "::1"] {
            let Some((mut called, remote)) = secured(host.parse().unwrap(), "secret") else { return };
            let mut dialed = Side::new();
            let out = dialed.connect(1, remote, Some("secret"), None);
            assert!(matches!(dialed.next().await, Input::Connected { .. }));
            assert!(matches!(called.next().await, Input::Accepted { .. }));
            dialed.send(out, b"open");
            assert_eq!(called.read(ConnId::In(0), 4).await, b"open");
        }
    });
}

#[test]
fn who_has_another_password_or_none_does_not_connect() {
    run(async {
        for host in ["127.0.0.1", "::1"] {
            let Some((mut called, remote)) = secured(host.parse().unwrap(), "secret") else { return };
            let mut dialed = Side::new();
            let wrong = [dialed.connect(1, remote, None, None), dialed.connect(2, remote, Some("guess"), None)];
            assert!(timeout(SYN, dialed.events.recv()).await.is_err());
            for conn in wrong {
                dialed.close(conn);
            }
            assert!(dialed.is_silent().await && called.is_silent().await);
        }
    });
}

#[test]
fn passwords_come_and_go_while_listening() {
    run(async {
        let home: IpAddr = [127, 0, 0, 1].into();
        let Some((mut called, remote)) = secured(home, "old") else { return };
        let mut dialed = Side::new();
        called.transport.set_password(home, Some("new")).unwrap();
        dialed.connect(1, remote, Some("new"), None);
        assert!(matches!(dialed.next().await, Input::Connected { .. }));
        // The next port has it too.
        let port = listen(&mut called);
        dialed.connect(2, SocketAddr::new(home, port), Some("new"), None);
        assert!(matches!(dialed.next().await, Input::Connected { .. }));
        // What is refused changes nothing.
        for bad in ["", &"x".repeat(81)] {
            let error = called.transport.set_password(home, Some(bad)).unwrap_err();
            assert!(matches!(error, PasswordError::Length { length, .. } if length == bad.len()), "{error}");
        }
        dialed.connect(3, SocketAddr::new(home, port), Some("new"), None);
        assert!(matches!(dialed.next().await, Input::Connected { .. }));
        assert!(!format!("{:?}", called.transport).contains("new"));
        // Taken away, also twice.
        for _ in 0..2 {
            called.transport.set_password(home, None).unwrap();
        }
        dialed.connect(4, SocketAddr::new(home, port), None, None);
        assert!(matches!(dialed.next().await, Input::Connected { .. }));
    });
}

#[test]
fn a_dial_never_leaves_its_password_away() {
    run(async {
        let mut called = Side::new();
        let remote = SocketAddr::from(([127, 0, 0, 1], listen(&mut called)));
        let mut dialed = Side::new();
        for (number, password) in [(1, ""), (2, &"x".repeat(81))] {
            let conn = dialed.connect(number, remote, Some(password), None);
            assert_eq!(dialed.next().await, Input::ConnectFailed { conn });
        }
        assert!(called.is_silent().await);
    });
}
