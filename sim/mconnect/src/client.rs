//! The client: makes the connections, reads one answer from each, counts.
//!
//! One loop owns the report. It starts attempts while there are free slots, and books what the attempts tell it over a
//! channel; so nothing is locked, and an interrupted run still has everything that was booked.

use std::collections::BTreeMap;
use std::future::{Future, pending};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ipnet::IpNet;
use tokio::io::AsyncReadExt;
use tokio::net::{TcpSocket, TcpStream, UdpSocket};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout, timeout_at};

use crate::address::HostPort;
use crate::report::Report;
use crate::source::SourceAddresses;
use crate::timestamp::rfc3339;

/// Deadline of a run that keeps its connections.
const KEEP_TIMEOUT: Duration = Duration::from_secs(3600);

/// How long an unanswered datagram occupies its slot. Slots spread the datagrams over time, so that a burst does not
/// overflow the server's socket; but silence must not use them up. 64 slots of 50 ms pass 1280 datagrams per second,
/// which is faster than the default deadline grows (1000 per second).
const DATAGRAM_SLOT: Duration = Duration::from_millis(50);

/// A deadline further away than the clock can count is this far away: some 30 years.
const FAR_FUTURE: Duration = Duration::from_secs(86_400 * 365 * 30);

/// Events on their way from the attempts to the report. Attempts wait when it is full.
const EVENTS_MAX: usize = 256;

/// What the client does.
#[derive(Clone, Debug)]
pub struct ClientConfig {
    /// Where to connect. A name is looked up anew for each connection.
    pub address: HostPort,
    /// Send datagrams and wait for one answer each, instead of TCP connections.
    pub udp: bool,
    /// How many connections to make.
    pub nconn: u64,
    /// How many connects may be under way at one time; 0 counts as 1.
    pub maxconcurrent: usize,
    /// Time for the whole run; zero stands for 2 s and 1 ms per connection, or for one hour with `keep`.
    pub timeout: Duration,
    /// Block to draw a source address from for each connection. The host must own every address of the block, for
    /// example by `ip route add local BLOCK dev lo`, and the answers must find their way back to it.
    pub source: Option<IpNet>,
    /// Seed for the sources; 0 takes one from the clock.
    pub seed: u64,
    /// Keep TCP connections open and go on reading until the time is over. Without meaning for datagrams.
    pub keep: bool,
}

/// What a run gave beyond the report.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// The counts.
    pub report: Report,
    /// How often each cause of failure was met, as text: `connect: Connection refused (os error 111)`.
    pub failures: BTreeMap<String, u64>,
    /// The run was ended from outside; connections under way then are in no count.
    pub interrupted: bool,
}

/// A connection that has been made.
#[derive(Debug)]
enum Connection {
    Tcp(TcpStream),
    Udp(UdpSocket),
}

/// What an attempt has to tell. Durations count from the start of its connect.
#[derive(Debug)]
enum Event {
    /// Made, and answered by this host for the first time.
    Answered { host: String, connect: Duration, first_byte: Duration },
    /// A further answer on a kept connection.
    AnsweredAgain { host: String },
    /// Never made.
    FailedConnect(String),
    /// Made, but not answered.
    FailedRead(String),
    /// Was answered, was to be kept, and ended before its time.
    Lost(String),
}

impl ClientConfig {
    /// One connection to `address`, everything else as without flags.
    pub fn new(address: HostPort) -> Self {
        Self {
            address,
            udp: false,
            nconn: 1,
            maxconcurrent: 64,
            timeout: Duration::ZERO,
            source: None,
            seed: 0,
            keep: false,
        }
    }

    /// The time the whole run is allowed.
    ///
    /// The original lets `-keep` win over a given timeout; here what was asked for counts.
    pub fn run_timeout(&self) -> Duration {
        match (self.timeout, self.keep) {
            (Duration::ZERO, true) => KEEP_TIMEOUT,
            (Duration::ZERO, false) => Duration::from_secs(2).saturating_add(Duration::from_millis(self.nconn)),
            (timeout, _) => timeout,
        }
    }
}

/// Makes all connections of `config` and reports. Returns at the latest when the time of the run is over.
pub async fn client(config: &ClientConfig) -> Report {
    client_until(config, pending()).await.report
}

/// Like [`client`], but ends with what has been booked so far when `interrupt` completes.
pub async fn client_until(config: &ClientConfig, interrupt: impl Future<Output = ()>) -> Outcome {
    let (address, udp) = (Arc::new(config.address.clone()), config.udp);
    let connect = move |source| {
        let address = Arc::clone(&address);
        async move { if udp { connect_udp(&address, source).await } else { connect_tcp(&address, source).await } }
    };
    run(config, interrupt, connect).await
}

/// The loop, for any way to make a connection.
async fn run<C, F>(config: &ClientConfig, interrupt: impl Future<Output = ()>, connect: C) -> Outcome
where
    C: Fn(Option<IpAddr>) -> F,
    F: Future<Output = io::Result<Connection>> + Send + 'static,
{
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let mut outcome = Outcome::default();
    outcome.report.start_time = rfc3339(since_epoch);
    outcome.report.timeout = config.run_timeout();
    let start = Instant::now();
    let deadline = start.checked_add(config.run_timeout()).unwrap_or_else(|| start + FAR_FUTURE);

    // The low bits of the nanoseconds are what differs between two runs; to cut the rest is no loss.
    let seed = if config.seed == 0 { since_epoch.as_nanos() as u64 } else { config.seed };
    let mut sources = config.source.map(|block| SourceAddresses::new(block, seed));
    let slots = Arc::new(Semaphore::new(config.maxconcurrent.clamp(1, Semaphore::MAX_PERMITS)));
    let (events, mut booked) = mpsc::channel(EVENTS_MAX);
    // Closed by the last attempt, once ours is gone.
    let mut events = Some(events);
    let mut attempts = JoinSet::new();
    let mut begun = 0;
    tokio::pin!(interrupt);
    loop {
        if begun == config.nconn {
            events = None;
        }
        tokio::select! {
            () = &mut interrupt => {
                outcome.interrupted = true;
                break;
            }
            Ok(slot) = Arc::clone(&slots).acquire_owned(), if events.is_some() => {
                if let Some(events) = &events {
                    begun += 1;
                    let connection = connect(sources.as_mut().map(SourceAddresses::next));
                    attempts.spawn(attempt(connection, config.keep, slot, deadline, events.clone()));
                }
            }
            () = sleep_until(deadline), if events.is_some() => {
                events = None;
                outcome.book_not_begun(config.nconn - begun);
                begun = config.nconn;
            }
            event = booked.recv() => match event {
                Some(event) => outcome.book(event),
                None => break,
            },
            // Only to let go of the tasks that have ended; what they had to tell is in the channel.
            Some(_) = attempts.join_next(), if !attempts.is_empty() => {}
        }
    }
    while let Ok(event) = booked.try_recv() {
        outcome.book(event);
    }
    outcome.report.duration = start.elapsed();
    outcome
}

impl Outcome {
    fn book(&mut self, event: Event) {
        let report = &mut self.report;
        let failure = match event {
            Event::Answered { host, connect, first_byte } => return report.record_connect(&host, connect, first_byte),
            Event::AnsweredAgain { host } => return report.record_answer(&host),
            Event::FailedConnect(cause) => {
                report.record_failed_connect();
                format!("connect: {cause}")
            }
            Event::FailedRead(cause) => {
                report.record_failed_read();
                format!("read: {cause}")
            }
            Event::Lost(cause) => {
                report.record_lost();
                format!("kept connection: {cause}")
            }
        };
        *self.failures.entry(failure).or_default() += 1;
    }

    /// Books connections for which there was neither a free slot nor time left.
    fn book_not_begun(&mut self, count: u64) {
        if count > 0 {
            self.report.record_failed_connects(count);
            self.failures.insert("connect: not begun before the timeout".into(), count);
        }
    }
}

/// One connection from connect to the last read.
async fn attempt<F>(connect: F, keep: bool, slot: OwnedSemaphorePermit, deadline: Instant, events: mpsc::Sender<Event>)
where
    F: Future<Output = io::Result<Connection>>,
{
    let start = Instant::now();
    let mut connection = match timeout_at(deadline, connect).await {
        Ok(Ok(connection)) => connection,
        Ok(Err(error)) => return tell(&events, Event::FailedConnect(error.to_string())).await,
        Err(_) => return tell(&events, Event::FailedConnect("timeout".into())).await,
    };
    let connect = start.elapsed();
    let host = match timeout_at(deadline, connection.first_read(slot)).await {
        Ok(Ok(host)) => host,
        Ok(Err(error)) => return tell(&events, Event::FailedRead(error.to_string())).await,
        Err(_) => return tell(&events, Event::FailedRead("timeout".into())).await,
    };
    tell(&events, Event::Answered { host, connect, first_byte: start.elapsed() }).await;
    if !keep || matches!(connection, Connection::Udp(_)) {
        return;
    }
    // To live until the deadline is what a kept connection was made for, so that is no failure.
    while let Ok(answer) = timeout_at(deadline, connection.read()).await {
        match answer {
            Ok(host) => tell(&events, Event::AnsweredAgain { host }).await,
            Err(error) => return tell(&events, Event::Lost(error.to_string())).await,
        }
    }
}

/// Waits for room. Without a receiver the run has been interrupted, which aborts the attempt as well.
async fn tell(events: &mpsc::Sender<Event>, event: Event) {
    let _ = events.send(event).await;
}

impl Connection {
    /// The first answer. A slot is for connecting, so TCP gives it back now; for datagrams see [`DATAGRAM_SLOT`].
    async fn first_read(&mut self, slot: OwnedSemaphorePermit) -> io::Result<String> {
        if matches!(self, Connection::Udp(_))
            && let Ok(answer) = timeout(DATAGRAM_SLOT, self.read()).await
        {
            return answer;
        }
        drop(slot);
        self.read().await
    }

    /// One answer. What was sent in one piece is taken as one name: names are far shorter than a segment.
    async fn read(&mut self) -> io::Result<String> {
        let mut buffer = [0; 4096];
        let read = match self {
            Connection::Tcp(stream) => match stream.read(&mut buffer).await? {
                0 => return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "closed by the peer")),
                read => read,
            },
            Connection::Udp(socket) => socket.recv(&mut buffer).await?,
        };
        Ok(String::from_utf8_lossy(&buffer[..read]).into_owned())
    }
}

async fn connect_tcp(address: &HostPort, source: Option<IpAddr>) -> io::Result<Connection> {
    let mut result = Err(no_address());
    for candidate in candidates(address, source).await? {
        let socket = if candidate.is_ipv6() { TcpSocket::new_v6() } else { TcpSocket::new_v4() }?;
        if let Some(source) = source {
            socket.bind(SocketAddr::new(source, 0))?;
        }
        result = socket.connect(candidate).await;
        if result.is_ok() {
            break;
        }
    }
    result.map(Connection::Tcp)
}

async fn connect_udp(address: &HostPort, source: Option<IpAddr>) -> io::Result<Connection> {
    let mut result = Err(no_address());
    for candidate in candidates(address, source).await? {
        let any = if candidate.is_ipv6() { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() };
        let socket = UdpSocket::bind(SocketAddr::new(source.unwrap_or(any), 0)).await?;
        result = match socket.connect(candidate).await {
            Ok(()) => socket.send(b"Hello").await.map(|_| Connection::Udp(socket)),
            Err(error) => Err(error),
        };
        if result.is_ok() {
            break;
        }
    }
    result
}

/// The addresses that can be reached from `source` at all.
async fn candidates(address: &HostPort, source: Option<IpAddr>) -> io::Result<Vec<SocketAddr>> {
    let mut addresses = address.resolve().await?;
    addresses.retain(|candidate| source.is_none_or(|source| source.is_ipv6() == candidate.is_ipv6()));
    Ok(addresses)
}

fn no_address() -> io::Error {
    io::Error::new(io::ErrorKind::AddrNotAvailable, "the name has no address of a family that can be used")
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::io::AsyncWriteExt;
    use tokio::net::TcpListener;

    use super::*;

    fn config(nconn: u64) -> ClientConfig {
        ClientConfig { nconn, ..ClientConfig::new("127.0.0.1:0".parse().unwrap()) }
    }

    #[test]
    fn default_timeouts() {
        for (nconn, timeout, keep, expected) in [
            (1, 0, false, 2001),
            (400, 0, false, 2400),
            (400, 0, true, 3_600_000),
            (400, 7, false, 7),
            (400, 7, true, 7),
        ] {
            let timeout = Duration::from_millis(timeout);
            let config = ClientConfig { timeout, keep, ..config(nconn) };
            assert_eq!(config.run_timeout(), Duration::from_millis(expected), "{config:?}");
        }
        assert!(config(u64::MAX).run_timeout() > FAR_FUTURE);
    }

    /// How many connects are under way at most, and how many there were in all.
    async fn concurrency(maxconcurrent: usize) -> (usize, usize, Report) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                stream.write_all(b"pod").await.unwrap();
            }
        });
        let (now, most, all) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)), AtomicUsize::new(0));
        let connect = |_| {
            all.fetch_add(1, Ordering::SeqCst);
            let (now, most) = (now.clone(), most.clone());
            async move {
                most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                // Everybody who may run at this time gets a turn to come in.
                for _ in 0..200 {
                    tokio::task::yield_now().await;
                }
                let stream = TcpStream::connect(address).await;
                now.fetch_sub(1, Ordering::SeqCst);
                stream.map(Connection::Tcp)
            }
        };
        let config = ClientConfig { maxconcurrent, timeout: Duration::from_secs(60), ..config(20) };
        let outcome = run(&config, pending(), connect).await;
        (most.load(Ordering::SeqCst), all.load(Ordering::SeqCst), outcome.report)
    }

    #[tokio::test]
    async fn no_more_connects_at_one_time_than_allowed() {
        for (maxconcurrent, most) in [(0, 1), (1, 1), (3, 3), (64, 20), (usize::MAX, 20)] {
            let (seen, all, report) = concurrency(maxconcurrent).await;
            assert_eq!((seen, all, report.connects, report.failed()), (most, 20, 20, 0), "{maxconcurrent}");
        }
    }

    #[tokio::test]
    async fn connects_that_hang_fail_by_the_deadline_and_the_rest_is_not_begun() {
        let config = ClientConfig { maxconcurrent: 2, timeout: Duration::from_millis(50), ..config(10) };
        let outcome = run(&config, pending(), |_| pending()).await;
        assert_eq!((outcome.report.connects, outcome.report.failed_connects), (10, 10));
        let expected = [("connect: not begun before the timeout", 8), ("connect: timeout", 2)];
        assert_eq!(outcome.failures, expected.map(|(cause, count)| (cause.to_string(), count)).into());
    }

    #[tokio::test]
    async fn an_interrupt_leaves_out_what_was_under_way() {
        let (interrupt, interrupted) = tokio::sync::oneshot::channel::<()>();
        let interrupt = std::sync::Mutex::new(Some(interrupt));
        let begun = AtomicUsize::new(0);
        // Two are refused, the third hangs and interrupts the run.
        let connect = |_| {
            let third = begun.fetch_add(1, Ordering::SeqCst) == 2;
            if third {
                drop(interrupt.lock().unwrap().take());
            }
            async move { if third { pending().await } else { Err(io::ErrorKind::ConnectionRefused.into()) } }
        };
        let config = ClientConfig { maxconcurrent: 1, timeout: Duration::from_secs(60), ..config(10) };
        let outcome = run(&config, async { drop(interrupted.await) }, connect).await;
        assert!(outcome.interrupted);
        assert_eq!((outcome.report.connects, outcome.report.failed_connects), (2, 2));
        assert_eq!(outcome.failures, [("connect: connection refused".to_string(), 2)].into());
    }

    #[tokio::test]
    async fn no_connections_are_no_work() {
        let outcome = run(&config(0), pending(), |_| pending()).await;
        assert_eq!((outcome.report.connects, outcome.report.failed(), outcome.interrupted), (0, 0, false));
    }

    #[tokio::test]
    async fn sources_are_drawn_from_the_block() {
        let drawn = std::sync::Mutex::new(Vec::new());
        let connect = |source: Option<IpAddr>| {
            drawn.lock().unwrap().push(source.unwrap());
            async { Err(io::ErrorKind::AddrNotAvailable.into()) }
        };
        let block: IpNet = "10.0.0.0/24".parse().unwrap();
        let config = ClientConfig { source: Some(block), seed: 5, ..config(8) };
        run(&config, pending(), connect).await;
        let mut expected = SourceAddresses::new(block, 5);
        let expected: Vec<IpAddr> = (0..8).map(|_| expected.next()).collect();
        assert_eq!(*drawn.lock().unwrap(), expected);
    }
}
