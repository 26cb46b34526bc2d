//! The API server of a cluster as the source of objects.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use fairway_objects::{Delta, Kind};
use http::header::{ACCEPT, HeaderValue, RETRY_AFTER};
use http_body_util::BodyExt;
use kube::Client;
use kube::client::Body as KubeBody;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{sleep, timeout};

use crate::access::{Access, AccessError, causes};
use crate::health::{Board, Health, Tell};
use crate::watch::{Body, Failure, Obstacle, Watch};

/// Deltas that wait for whoever takes them. The watches wait with them, and the server with the watches.
const QUEUE: usize = 1024;
/// How long the server may take to accept a connection, and to begin with an answer.
pub(crate) const CONNECT: Duration = Duration::from_secs(10);
const ANSWER: Duration = Duration::from_secs(30);
/// A list that does not go on for so long is given up, and so is the beginning of a stream.
const QUIET_LIST: Duration = Duration::from_secs(15);
/// A watch without even a bookmark for so long is opened anew: the server may be gone without a word. Servers send
/// bookmarks about once a minute.
const QUIET_WATCH: Duration = Duration::from_secs(180);
/// From the beginning of a watch to that of the next.
const WATCH_LEAST: Duration = Duration::from_secs(1);
/// No object is larger than a few MiB, no page of a list larger than this.
const LINE_MAX: usize = 16 << 20;
const PAGE_MAX: usize = 1 << 30;
const ERROR_MAX: usize = 64 << 10;

/// One kind to watch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Watched {
    /// Which.
    pub kind: Kind,
    /// Only those of a field selector, such as `spec.nodeName=vm-001`.
    pub field_selector: Option<String>,
}

/// What a source starts with.
pub struct Start {
    /// Where the API server is.
    pub access: Access,
    /// What is watched.
    pub watched: Vec<Watched>,
    /// Delays are drawn from this.
    pub seed: u64,
    /// Told of each notice about the API server that begins or ceases to stand.
    pub notices: Tell,
}

impl fmt::Debug for Start {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Start").field("access", &self.access).field("watched", &self.watched).finish_non_exhaustive()
    }
}

/// The watches of one API server. They go on whatever happens to it, until this is dropped; then the [`Inbox`] ends.
#[derive(Debug)]
pub struct Cluster {
    board: Arc<Mutex<Board>>,
    server: String,
    /// Dropping it ends the thread.
    end: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// Where the deltas come out.
#[derive(Debug)]
pub struct Inbox(mpsc::Receiver<Delta>);

impl Inbox {
    /// The next delta; waits for it. `None` when the [`Cluster`] was dropped.
    pub fn recv(&mut self) -> Option<Delta> {
        self.0.blocking_recv()
    }
}

impl Cluster {
    /// Starts watching, in a thread of its own. That the server does not answer is no error.
    ///
    /// # Errors
    /// If what the flags and files say cannot be used.
    pub fn start(start: Start) -> Result<(Cluster, Inbox), AccessError> {
        let system = |error: std::io::Error| AccessError { place: "watching".into(), reason: error.to_string() };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(system)?;
        let Start { access, watched, seed, notices } = start;
        // Read once here, so that a mistake is said before anything happens.
        let server = runtime.block_on(async {
            let config = access.load().await?;
            let server = config.cluster_url.to_string();
            Client::try_from(config).map_err(|error| access.unusable(&error))?;
            Ok(server.trim_end_matches('/').to_string())
        })?;
        let kinds = watched.iter().map(|w| w.kind);
        let board = Board::new(server.clone(), kinds, SystemTime::now(), notices);
        let board = Arc::new(Mutex::new(board));
        let (tell, inbox) = mpsc::channel(QUEUE);
        let (end, ended) = oneshot::channel::<()>();
        let shared = board.clone();
        let thread = std::thread::Builder::new()
            .name("watches".into())
            .spawn(move || {
                let access = Arc::new(access);
                for (at, Watched { kind, field_selector }) in watched.into_iter().enumerate() {
                    let watch = Watch::new(kind, field_selector, seed.wrapping_add(at as u64));
                    let follower = Follower {
                        kind,
                        watch,
                        access: access.clone(),
                        client: None,
                        board: shared.clone(),
                        tell: tell.clone(),
                    };
                    runtime.spawn(follower.go());
                }
                drop(tell);
                // Never answered: it ends when its sender is dropped.
                let _ended = runtime.block_on(ended);
                runtime.shutdown_background();
            })
            .map_err(system)?;
        Ok((Cluster { board, server, end: Some(end), thread: Some(thread) }, Inbox(inbox)))
    }

    /// How it stands.
    pub fn health(&self) -> Health {
        lock(&self.board).health().clone()
    }

    /// A look at the health for somebody else. It outlives the cluster, and then says what was last known.
    pub fn look(&self) -> impl Fn() -> Health + Send + 'static {
        let board = self.board.clone();
        move || lock(&board).health().clone()
    }

    /// The API server's URL.
    pub fn server(&self) -> &str {
        &self.server
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.end = None;
        if let Some(thread) = self.thread.take() {
            let _over = thread.join();
        }
    }
}

/// Whoever panicked with the lock held left counters, no invariants.
fn lock(board: &Mutex<Board>) -> MutexGuard<'_, Board> {
    board.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Follows one kind.
struct Follower {
    kind: Kind,
    watch: Watch,
    access: Arc<Access>,
    client: Option<Client>,
    board: Arc<Mutex<Board>>,
    tell: mpsc::Sender<Delta>,
}

/// Why an attempt is over.
enum Over {
    /// Nobody takes deltas any more.
    Unwanted,
    Failed(Failure),
}

impl From<Failure> for Over {
    fn from(failure: Failure) -> Over {
        Over::Failed(failure)
    }
}

impl Follower {
    async fn go(mut self) {
        loop {
            let begin = Instant::now();
            match self.attempt().await {
                Ok(Body::Page) => {}
                // Servers end watches after minutes. One that does it after each word must not set the pace.
                Ok(Body::Lines) => sleep(WATCH_LEAST.saturating_sub(begin.elapsed())).await,
                Err(Over::Unwanted) => return,
                Err(Over::Failed(failure)) => {
                    let delay = self.watch.delay(&failure);
                    if !failure.at_once {
                        lock(&self.board).failed(self.kind, SystemTime::now(), &failure);
                    }
                    // The next attempt reads certificates and tokens anew.
                    if matches!(failure.obstacle, Obstacle::Unreachable | Obstacle::Unauthorized) {
                        self.client = None;
                        self.watch.reconnects();
                    }
                    sleep(delay).await;
                }
            }
        }
    }

    fn client(&self, config: kube::Config) -> Result<Client, AccessError> {
        Client::try_from(config).map_err(|error| self.access.unusable(&error))
    }

    /// One question and its answer; says how that was to be read.
    async fn attempt(&mut self) -> Result<Body, Over> {
        let unreachable = |reason: String| Failure::new(Obstacle::Unreachable, reason);
        let client = match self.client.clone() {
            Some(client) => client,
            None => {
                let config = self.access.load().await.map_err(|error| unreachable(error.to_string()))?;
                self.client(config).map_err(|error| unreachable(error.to_string()))?
            }
        };
        self.client = Some(client.clone());
        let (uri, body) = self.watch.ask();
        let request = http::Request::get(uri)
            .header(ACCEPT, HeaderValue::from_static("application/json"))
            .body(KubeBody::empty())
            .map_err(|error| unreachable(error.to_string()))?;
        let response = match timeout(ANSWER, client.send(request)).await {
            Ok(Ok(response)) => response,
            Ok(Err(error)) => return Err(unreachable(reason(&error)).into()),
            Err(_) => return Err(unreachable(format!("no answer within {} s", ANSWER.as_secs())).into()),
        };
        let status = response.status();
        let after = response.headers().get(RETRY_AFTER).and_then(|v| v.to_str().ok()?.trim().parse().ok());
        let answer = response.into_body();
        if !status.is_success() {
            // What it says is only an explanation, so a part of it will do.
            let text = collect(answer, ERROR_MAX).await.unwrap_or_default();
            return Err(self.watch.refused(status.as_u16(), after.map(Duration::from_secs), &text).into());
        }
        lock(&self.board).answered(self.kind, SystemTime::now(), body == Body::Lines);
        let read = match body {
            Body::Page => self.page(answer).await,
            Body::Lines => self.lines(answer).await,
        };
        if let Err(Over::Failed(failure)) = &read {
            self.watch.broke(failure);
        }
        read.map(|()| body)
    }

    async fn page(&mut self, answer: KubeBody) -> Result<(), Over> {
        let body = collect(answer, PAGE_MAX).await?;
        let mut deltas = vec![];
        let read = self.watch.page(&body, &mut deltas);
        // An object that is wrong by itself leaves the others; a page that is wrong says nothing.
        read?;
        self.hand_over(deltas).await
    }

    async fn lines(&mut self, mut answer: KubeBody) -> Result<(), Over> {
        let mut buffer: Vec<u8> = vec![];
        let mut deltas = vec![];
        self.watch.begins(&mut deltas);
        loop {
            self.hand_over(std::mem::take(&mut deltas)).await?;
            let listing = self.watch.is_listing();
            let quiet = if listing { QUIET_LIST } else { QUIET_WATCH };
            let frame = match timeout(quiet, answer.frame()).await {
                Ok(Some(Ok(frame))) => frame,
                Ok(Some(Err(error))) => return Err(Failure::new(Obstacle::Cut, reason(&error)).into()),
                Ok(None) if buffer.iter().all(u8::is_ascii_whitespace) => return Ok(self.watch.ended()?),
                Ok(None) => return Err(Failure::new(Obstacle::Cut, "the connection ended in a line").into()),
                Err(_) if listing => return Err(self.watch.no_stream().into()),
                Err(_) => {
                    let reason = format!("not a word for {} s", QUIET_WATCH.as_secs());
                    return Err(Failure::new(Obstacle::Cut, reason).into());
                }
            };
            let Ok(data) = frame.into_data() else { continue };
            // Only what came now can hold the end of a line.
            let mut from = buffer.len();
            buffer.extend_from_slice(&data);
            let mut begin = 0;
            let mut read = Ok(());
            let mut events = 0;
            while let Some(end) = buffer.get(from..).and_then(|rest| rest.iter().position(|b| *b == b'\n')) {
                let line = &buffer[begin..from + end];
                (begin, from) = (from + end + 1, from + end + 1);
                if line.iter().all(u8::is_ascii_whitespace) {
                    continue;
                }
                events += 1;
                read = self.watch.line(line, &mut deltas);
                if read.is_err() {
                    break;
                }
            }
            buffer.drain(..begin);
            lock(&self.board).heard(self.kind, SystemTime::now(), events, self.watch.odd);
            if let Err(failure) = read {
                // What came before the line that is wrong counts.
                self.hand_over(deltas).await?;
                return Err(failure.into());
            }
            if buffer.len() > LINE_MAX {
                let reason = format!("a line of more than {} MiB", LINE_MAX >> 20);
                return Err(Failure::new(Obstacle::Nonsense, reason).into());
            }
        }
    }

    /// Gives deltas to whoever takes them; waits for room.
    async fn hand_over(&self, deltas: Vec<Delta>) -> Result<(), Over> {
        for delta in deltas {
            let listed = matches!(delta, Delta::Listed(_));
            self.tell.send(delta).await.map_err(|_| Over::Unwanted)?;
            if listed {
                lock(&self.board).listed(self.kind);
            }
        }
        Ok(())
    }
}

/// A whole body, unless it is longer than `max` or does not go on.
pub(crate) async fn collect(mut body: KubeBody, max: usize) -> Result<Vec<u8>, Failure> {
    let mut bytes = vec![];
    loop {
        let cut = |reason: String| Failure::new(Obstacle::Cut, reason);
        match timeout(QUIET_LIST, body.frame()).await {
            Ok(None) => return Ok(bytes),
            Ok(Some(Ok(frame))) => {
                bytes.extend_from_slice(&frame.into_data().unwrap_or_default());
                if bytes.len() > max {
                    return Err(Failure::new(Obstacle::Nonsense, format!("an answer of more than {max} bytes")));
                }
            }
            Ok(Some(Err(error))) => return Err(cut(reason(&error))),
            Err(_) => return Err(cut(format!("the answer stopped for {} s", QUIET_LIST.as_secs()))),
        }
    }
}

/// kube's name for the layer says nothing to an operator.
pub(crate) fn reason(error: &kube::Error) -> String {
    match error {
        kube::Error::Service(inner) => causes(inner.as_ref()),
        other => causes(other),
    }
}
