//! Loads in the background: real connections from a thread in the namespace of their host or pod.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use fairway_mconnect::Report;
use fairway_scenario::{LoadMode, LoadRequest};
use ipnet::IpNet;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream, UdpSocket};
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

use crate::process::Namespace;

/// A kept connection asks for an answer this often.
const PING: Duration = Duration::from_millis(100);
/// How many failures are kept with their time and reason.
const FAILURES_KEPT: usize = 5;
/// The longest host name a server answers with.
const NAME: usize = 9000;

/// What a load saw.
#[derive(Clone, Debug, Default)]
pub(crate) struct Seen {
    pub(crate) report: Report,
    /// When (since the start of the lab) and why.
    pub(crate) failures: Vec<(Duration, String)>,
}

/// The books of a load: of its whole life, and since they were last taken.
#[derive(Debug, Default)]
struct Books {
    whole: Seen,
    part: Seen,
    window: u64,
}

/// A load that runs; dropping it ends it.
#[derive(Debug)]
pub(crate) struct Load {
    books: Arc<Mutex<Books>>,
    stop: watch::Sender<bool>,
    thread: Option<JoinHandle<()>>,
    /// Clients as the servers had seen them when it started, and when its books were last taken.
    pub(crate) sources_at_start: BTreeMap<IpAddr, u64>,
    pub(crate) sources_at_take: BTreeMap<IpAddr, u64>,
}

/// What every connection of a load needs to know.
#[derive(Clone)]
struct Job {
    to: SocketAddr,
    udp: bool,
    block: Option<IpNet>,
    limit: Duration,
    epoch: Instant,
    random: Arc<Mutex<oorandom::Rand64>>,
    books: Arc<Mutex<Books>>,
}

enum Failure {
    Connect(io::Error),
    Read(io::Error),
}

impl Load {
    /// Starts one in a namespace. Source addresses, if it takes them from a block, are drawn from the seed.
    pub(crate) fn start(
        space: &Arc<Namespace>,
        request: &LoadRequest,
        to: SocketAddr,
        epoch: Instant,
        seed: u64,
    ) -> io::Result<Load> {
        let books = Arc::new(Mutex::new(Books::default()));
        let (stop, stopped) = watch::channel(false);
        let job = Job {
            to,
            udp: request.udp,
            block: request.srccidr,
            limit: request.timeout,
            epoch,
            random: Arc::new(Mutex::new(oorandom::Rand64::new(seed.into()))),
            books: Arc::clone(&books),
        };
        let mode = request.mode;
        let space = Arc::clone(space);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let thread = std::thread::Builder::new().name(format!("load {}", request.name)).spawn(move || {
            if let Err(error) = space.enter() {
                job.book(0, |seen, now| seen.failures.push((now, error.to_string())));
                return;
            }
            runtime.block_on(run(job, mode, stopped));
        })?;
        let none = BTreeMap::new();
        Ok(Load { books, stop, thread: Some(thread), sources_at_start: none.clone(), sources_at_take: none })
    }

    /// What it saw since the last take.
    pub(crate) fn take(&self) -> Seen {
        let mut books = self.books.lock().unwrap_or_else(|e| e.into_inner());
        books.window += 1;
        std::mem::take(&mut books.part)
    }

    /// Ends it; what it saw in its whole life.
    pub(crate) fn end(mut self) -> Seen {
        self.finish();
        std::mem::take(&mut self.books.lock().unwrap_or_else(|e| e.into_inner()).whole)
    }

    fn finish(&mut self) {
        self.stop.send_replace(true);
        if let Some(thread) = self.thread.take() {
            // A thread that panicked has nothing more to book.
            let _over = thread.join();
        }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.finish();
    }
}

impl Job {
    fn window(&self) -> u64 {
        self.books.lock().unwrap_or_else(|e| e.into_inner()).window
    }

    /// Books something that began in a window: always in the whole, and in the part if that is still of this window.
    fn book(&self, window: u64, entry: impl Fn(&mut Seen, Duration)) {
        let now = self.epoch.elapsed();
        let mut books = self.books.lock().unwrap_or_else(|e| e.into_inner());
        entry(&mut books.whole, now);
        if books.window == window {
            entry(&mut books.part, now);
        }
    }

    fn book_failure(&self, window: u64, failure: &Failure) {
        self.book(window, |seen, now| {
            let reason = match failure {
                Failure::Connect(error) => {
                    seen.report.record_failed_connect();
                    format!("connect: {error}")
                }
                Failure::Read(error) => {
                    seen.report.record_failed_read();
                    format!("read: {error}")
                }
            };
            note(seen, now, reason);
        });
    }

    fn source(&self) -> Option<SocketAddr> {
        let block = self.block?;
        let random = {
            let mut random = self.random.lock().unwrap_or_else(|e| e.into_inner());
            u128::from(random.rand_u64()) << 64 | u128::from(random.rand_u64())
        };
        let ip: IpAddr = match block {
            IpNet::V4(net) => {
                let host = u32::try_from(random & u128::from(u32::MAX)).unwrap_or_default() & u32::from(net.hostmask());
                std::net::Ipv4Addr::from(u32::from(net.network()) | host).into()
            }
            IpNet::V6(net) => {
                std::net::Ipv6Addr::from(u128::from(net.network()) | (random & u128::from(net.hostmask()))).into()
            }
        };
        Some((ip, 0).into())
    }

    async fn connect(&self) -> io::Result<TcpStream> {
        let socket = if self.to.is_ipv6() { TcpSocket::new_v6() } else { TcpSocket::new_v4() }?;
        if let Some(source) = self.source() {
            socket.bind(source)?;
        }
        socket.connect(self.to).await
    }

    /// One connection that is read once and closed.
    async fn once(&self) {
        let window = self.window();
        let start = Instant::now();
        let result = timeout(self.limit, async {
            let mut name = vec![0; NAME];
            if self.udp {
                let read = self.ask_datagram(&mut name).await.map_err(Failure::Read)?;
                name.truncate(read);
                return Ok((start.elapsed(), name));
            }
            let mut stream = self.connect().await.map_err(Failure::Connect)?;
            let connected = start.elapsed();
            let read = stream.read(&mut name).await.map_err(Failure::Read)?;
            if read == 0 {
                return Err(Failure::Read(io::ErrorKind::UnexpectedEof.into()));
            }
            name.truncate(read);
            Ok((connected, name))
        })
        .await;
        match result {
            Ok(Ok((connected, name))) => {
                let (name, total) = (String::from_utf8_lossy(&name).into_owned(), start.elapsed());
                self.book(window, |seen, _| seen.report.record_connect(&name, connected, total));
            }
            Ok(Err(failure)) => self.book_failure(window, &failure),
            Err(_) => {
                let late = io::Error::from(io::ErrorKind::TimedOut);
                self.book_failure(window, &if self.udp { Failure::Read(late) } else { Failure::Connect(late) });
            }
        }
    }

    async fn ask_datagram(&self, name: &mut [u8]) -> io::Result<usize> {
        let any: SocketAddr = if self.to.is_ipv6() { ([0; 16], 0).into() } else { ([0; 4], 0).into() };
        let socket = UdpSocket::bind(self.source().unwrap_or(any)).await?;
        socket.connect(self.to).await?;
        socket.send(b"Hello").await?;
        socket.recv(name).await
    }

    /// One connection that lives until it breaks.
    async fn keep(self) {
        let first = self.window();
        let start = Instant::now();
        let mut stream = match timeout(self.limit, self.connect()).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return self.book_failure(first, &Failure::Connect(error)),
            Err(_) => return self.book_failure(first, &Failure::Connect(io::ErrorKind::TimedOut.into())),
        };
        let connected = start.elapsed();
        let mut name = vec![0; NAME];
        let mut booked = false;
        loop {
            let read = match timeout(self.limit, stream.read(&mut name)).await {
                Ok(Ok(0)) => Err(io::Error::from(io::ErrorKind::UnexpectedEof)),
                Ok(result) => result,
                Err(_) => Err(io::ErrorKind::TimedOut.into()),
            };
            // A kept connection belongs to every window it lives in.
            let window = if booked { self.window() } else { first };
            match read {
                Ok(read) => {
                    let name = String::from_utf8_lossy(&name[..read]).into_owned();
                    let total = start.elapsed();
                    self.book(window, |seen, _| match booked {
                        false => seen.report.record_connect(&name, connected, total),
                        true => seen.report.record_answer(&name),
                    });
                    booked = true;
                }
                Err(error) if booked => return self.lost(&error),
                Err(error) => return self.book_failure(window, &Failure::Read(error)),
            }
            sleep(PING).await;
            if let Err(error) = stream.write_all(b"x").await {
                return self.lost(&error);
            }
        }
    }

    /// A kept connection broke.
    fn lost(&self, error: &io::Error) {
        self.book(self.window(), |seen, now| {
            seen.report.record_lost();
            note(seen, now, format!("lost: {error}"));
        });
    }
}

fn note(seen: &mut Seen, now: Duration, reason: String) {
    if seen.failures.len() < FAILURES_KEPT {
        seen.failures.push((now, reason));
    }
}

async fn run(job: Job, mode: LoadMode, mut stopped: watch::Receiver<bool>) {
    let local = tokio::task::LocalSet::new();
    let work = local.run_until(async {
        match mode {
            LoadMode::Keep(count) => {
                for _ in 0..count {
                    tokio::task::spawn_local(job.clone().keep());
                }
                std::future::pending::<()>().await;
            }
            LoadMode::Rate(rate) => {
                let mut clock = interval(Duration::from_secs(1) / rate.max(1));
                // A moment in which we do not run is made up for, so that the rate holds.
                clock.set_missed_tick_behavior(MissedTickBehavior::Burst);
                loop {
                    clock.tick().await;
                    let job = job.clone();
                    tokio::task::spawn_local(async move { job.once().await });
                }
            }
        }
    });
    tokio::select! {
        () = work => {}
        // The sender lives as long as the load.
        _ = stopped.wait_for(|stop| *stop) => {}
    }
}
