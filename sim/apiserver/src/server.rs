//! Connections, the clock, and who plays the kubelets.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use fairway_api::{Api, Output, Time};
use http_body_util::BodyExt;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderValue, RETRY_AFTER, WARNING};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::{Notify, mpsc, watch};

use crate::authorize::{ServiceAccount, authorize};
use crate::misbehave::Misbehaviour;
use crate::request::{Form, Query};
use crate::rest::{Answer, Call};
use crate::status::Refusal;
use crate::tls::Tls;

/// Largest request body in bytes, as the API server's.
const BODY_MAX: usize = 3 << 20;

/// How long a TLS handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// How long a simulated container takes to end after it was asked to.
const STOP: Duration = Duration::from_millis(100);

/// Who runs the pods.
pub enum Kubelets {
    /// Nobody: pods count as running when they should. The server keeps the cluster's clock.
    Simulated,
    /// Whoever made the server keeps the clock and takes [`Api::poll`]'s outputs. It is called after each request
    /// that may have changed something.
    Elsewhere(Box<dyn Fn() + Send + Sync>),
}

/// How a server is.
pub struct Options {
    /// Who runs the pods.
    pub kubelets: Kubelets,
    /// Without this bearer token, or one of `service_accounts`, requests are refused. kubectl sends one only with TLS.
    pub token: Option<String>,
    /// Who else may send requests, and what, as the cluster's roles and bindings say.
    pub service_accounts: Vec<ServiceAccount>,
    /// Speaks TLS.
    pub tls: Option<Tls>,
    /// How many changes of each kind are remembered for watches.
    pub history: usize,
    /// How often a watch that wants bookmarks gets one.
    pub bookmark: Duration,
    /// Seed of what misbehaviour leaves to chance.
    pub seed: u64,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            kubelets: Kubelets::Simulated,
            token: None,
            service_accounts: vec![],
            tls: None,
            history: 10_000,
            bookmark: Duration::from_secs(10),
            seed: 1,
        }
    }
}

/// Misbehaviour and its dice.
#[derive(Debug)]
struct Mood {
    misbehaviour: Misbehaviour,
    dice: oorandom::Rand64,
}

/// How watches end before their time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// In good order, as when the server is asked to end.
    Orderly,
    /// Their connections are cut.
    Cut,
}

/// What the connections of one server share.
pub(crate) struct Inner {
    api: Arc<Mutex<Api>>,
    start: Instant,
    options: Options,
    mood: Mutex<Mood>,
    /// Pods that are ending, by when they will have.
    stops: Mutex<BTreeMap<(Time, String, String), ()>>,
    /// The version of the store, for those who wait for changes.
    version: watch::Sender<u64>,
    /// Something was changed that may move the deadline.
    wake: Notify,
    /// Told when all watches end.
    end: watch::Sender<End>,
}

/// A lock whose holder panicked is still a lock.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Inner {
    pub(crate) fn now(&self) -> Time {
        self.start.elapsed()
    }

    pub(crate) fn api(&self) -> MutexGuard<'_, Api> {
        lock(&self.api)
    }

    /// Now, as RFC 3339.
    pub(crate) fn timestamp(&self) -> String {
        self.api().timestamp(self.now())
    }

    pub(crate) fn misbehaviour(&self) -> Misbehaviour {
        lock(&self.mood).misbehaviour
    }

    /// Throws the dice: true with a probability.
    pub(crate) fn chance(&self, probability: f64) -> bool {
        probability > 0.0 && lock(&self.mood).dice.rand_float() < probability
    }

    /// A random part of a duration.
    pub(crate) fn part_of(&self, duration: Duration) -> Duration {
        duration.mul_f64(lock(&self.mood).dice.rand_float())
    }

    pub(crate) fn bookmark(&self) -> Duration {
        self.options.bookmark
    }

    pub(crate) fn versions(&self) -> watch::Receiver<u64> {
        self.version.subscribe()
    }

    pub(crate) fn ends(&self) -> watch::Receiver<End> {
        self.end.subscribe()
    }

    /// After anything was done to the store: outputs are taken, watches hear of it, and the clock is set anew.
    fn settle(&self) {
        self.take_outputs();
        self.wake.notify_one();
    }

    fn take_outputs(&self) {
        let version = {
            let mut api = self.api();
            if matches!(self.options.kubelets, Kubelets::Simulated) {
                let now = self.now();
                while let Some(output) = api.poll() {
                    match output {
                        Output::StartPod(start) => api.pod_started(now, &start.namespace, &start.name),
                        Output::StopPod { namespace, name, grace, .. } => {
                            lock(&self.stops).insert((now + grace.min(STOP), namespace, name), ());
                        }
                        Output::Deliver { .. } => {}
                    }
                }
            }
            api.version()
        };
        self.version.send_if_modified(|known| std::mem::replace(known, version) != version);
    }

    /// Does what is due by now, and says when to come again.
    fn tick(&self) -> Option<Time> {
        let now = self.now();
        self.api().handle(now);
        loop {
            let first = lock(&self.stops).first_entry().filter(|e| e.key().0 <= now).map(|e| e.remove_entry().0);
            let Some((_, namespace, name)) = first else { break };
            self.api().pod_stopped(now, &namespace, &name);
        }
        self.take_outputs();
        let stop = lock(&self.stops).keys().map(|(at, ..)| *at).next();
        stop.into_iter().chain(self.api().deadline()).min()
    }
}

/// The API server of one cluster.
#[derive(Clone)]
pub struct Server(pub(crate) Arc<Inner>);

impl Server {
    /// A server for a cluster that began at `start`.
    pub fn new(api: Arc<Mutex<Api>>, start: Instant, options: Options) -> Self {
        let seed = u128::from(options.seed);
        let version = {
            let mut api = lock(&api);
            api.keep_history(options.history);
            api.version()
        };
        let mood = Mood { misbehaviour: Misbehaviour::default(), dice: oorandom::Rand64::new(seed) };
        Server(Arc::new(Inner {
            api,
            start,
            options,
            mood: Mutex::new(mood),
            stops: Mutex::default(),
            version: watch::Sender::new(version),
            wake: Notify::new(),
            end: watch::Sender::new(End::Cut),
        }))
    }

    /// Time since the cluster began.
    pub fn now(&self) -> Time {
        self.0.now()
    }

    /// The cluster. Whoever changes something calls [`Server::changed`] when the lock is free again.
    pub fn api(&self) -> MutexGuard<'_, Api> {
        self.0.api()
    }

    /// The cluster was changed by other means than a request: watches hear of it.
    pub fn changed(&self) {
        self.0.settle();
    }

    /// Misbehaves from now on; [`Misbehaviour::default`] ends it.
    pub fn misbehave(&self, misbehaviour: Misbehaviour) {
        lock(&self.0.mood).misbehaviour = misbehaviour;
    }

    /// Cuts the connections of all watches.
    pub fn disconnect(&self) {
        self.0.end.send_replace(End::Cut);
    }

    /// Keeps the cluster's clock; ends never. Not wanted where the kubelets are elsewhere.
    pub async fn drive(&self) -> Infallible {
        loop {
            let deadline = self.0.tick();
            let woken = self.0.wake.notified();
            match deadline {
                Some(at) => {
                    let at = tokio::time::Instant::from_std(self.0.start + at);
                    tokio::select! { () = woken => {}, () = tokio::time::sleep_until(at) => {} }
                }
                None => woken.await,
            }
        }
    }

    /// Accepts connections until `shutdown` is done. Then watches end, and answers under way are finished.
    ///
    /// # Errors
    /// If the listener cannot be used.
    pub async fn serve(&self, listener: StdListener, shutdown: impl Future<Output = ()>) -> io::Result<()> {
        listener.set_nonblocking(true)?;
        let listener = TcpListener::from_std(listener)?;
        let graceful = GracefulShutdown::new();
        let mut shutdown = std::pin::pin!(shutdown);
        loop {
            let stream = tokio::select! {
                accepted = listener.accept() => match accepted {
                    Ok((stream, _)) => stream,
                    // Out of descriptors, or a client that is gone already: neither ends the server.
                    Err(_) => {
                        tokio::time::sleep(Duration::from_millis(50)).await;
                        continue;
                    }
                },
                () = &mut shutdown => break,
            };
            let _kept = stream.set_nodelay(true);
            let (inner, watcher) = (self.0.clone(), graceful.watcher());
            tokio::spawn(async move {
                // A broken connection, or a handshake that fails, is the client's to notice.
                match &inner.options.tls {
                    None => connection(inner, watcher, stream).await,
                    Some(tls) => {
                        let handshake = tokio::time::timeout(HANDSHAKE, tls.acceptor.accept(stream)).await;
                        if let Ok(Ok(stream)) = handshake {
                            connection(inner.clone(), watcher, stream).await;
                        }
                    }
                }
            });
        }
        // Nobody shall wait in its queue.
        drop(listener);
        self.0.end.send_replace(End::Orderly);
        let _patience = tokio::time::timeout(Duration::from_secs(5), graceful.shutdown()).await;
        Ok(())
    }
}

/// Serves one connection, HTTP/1.1 or 2.
async fn connection(inner: Arc<Inner>, watcher: Watcher, stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) {
    let service = service_fn(move |request| {
        let inner = inner.clone();
        async move { answer(&inner, request).await }
    });
    let builder = auto::Builder::new(TokioExecutor::new());
    let _broken = watcher.watch(builder.serve_connection(TokioIo::new(stream), service).into_owned()).await;
}

/// A server on a thread of its own; it ends when this is dropped, as abruptly as a process that is killed.
pub struct Running {
    address: SocketAddr,
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Running {
    /// Serves on a listener that exists already, for instance in another network namespace.
    ///
    /// # Errors
    /// If the thread or its runtime cannot be made.
    pub fn start(server: Server, listener: StdListener) -> io::Result<Running> {
        let address = listener.local_addr()?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let thread = std::thread::Builder::new().name("apiserver".into()).spawn(move || {
            runtime.block_on(async {
                let driven = matches!(server.0.options.kubelets, Kubelets::Simulated);
                let clock = async {
                    if driven {
                        server.drive().await;
                    }
                    std::future::pending::<()>().await;
                };
                tokio::select! {
                    _ended = server.serve(listener, std::future::pending()) => {},
                    () = clock => {},
                    _dropped = stopped => {},
                }
            });
        })?;
        Ok(Running { address, stop: Some(stop), thread: Some(thread) })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // A thread that panicked has said so.
            let _panicked = thread.join();
        }
    }
}

/// A connection that is cut on purpose.
#[derive(Debug, thiserror::Error)]
#[error("cut on request")]
pub(crate) struct Cut;

/// The body of an answer.
pub(crate) enum Content {
    /// All of it.
    Whole(Option<Bytes>),
    /// The events of a watch.
    Stream(mpsc::Receiver<Result<Bytes, Cut>>),
}

impl Body for Content {
    type Data = Bytes;
    type Error = Cut;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Cut>>> {
        match self.get_mut() {
            Content::Whole(bytes) => Poll::Ready(bytes.take().map(|b| Ok(Frame::data(b)))),
            Content::Stream(events) => events.poll_recv(cx).map(|e| e.map(|e| e.map(Frame::data))),
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Content::Whole(None))
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Content::Whole(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |b| b.len() as u64)),
            Content::Stream(_) => SizeHint::default(),
        }
    }
}

fn json(code: u16, value: &Value) -> Response<Content> {
    content(code, "application/json", value.to_string().into())
}

fn content(code: u16, kind: &'static str, bytes: Bytes) -> Response<Content> {
    let mut response = Response::new(Content::Whole(Some(bytes).filter(|b| !b.is_empty())));
    *response.status_mut() = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

fn refuse(refusal: &Refusal) -> Response<Content> {
    let mut response = json(refusal.code, &refusal.status());
    if refusal.code == 429 {
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
    }
    response
}

fn header<'a>(request: &'a Request<Incoming>, name: &hyper::header::HeaderName) -> &'a str {
    request.headers().get(name).and_then(|v| v.to_str().ok()).unwrap_or_default()
}

/// Whether a path tells of the server itself, and so is never refused.
fn about_itself(path: &str) -> bool {
    matches!(path, "/healthz" | "/livez" | "/readyz" | "/version") || path.starts_with("/fairway/")
}

/// Whether who sent a request may do so.
fn permitted(inner: &Inner, request: &Request<Incoming>, path: &str) -> Result<(), Refusal> {
    let token = header(request, &AUTHORIZATION).strip_prefix("Bearer ");
    if let Some(account) = inner.options.service_accounts.iter().find(|account| token == Some(&account.token)) {
        let query = Query::parse(request.uri().query().unwrap_or_default());
        return authorize(&inner.api(), account, request.method(), path, &query);
    }
    match &inner.options.token {
        Some(wanted) if token != Some(wanted) => Err(Refusal::new(401, "Unauthorized", "Unauthorized")),
        _ => Ok(()),
    }
}

async fn answer(inner: &Arc<Inner>, request: Request<Incoming>) -> Result<Response<Content>, Cut> {
    let mood = inner.misbehaviour();
    let path = request.uri().path().to_string();
    if !about_itself(&path) {
        if let Err(refusal) = permitted(inner, &request, &path) {
            return Ok(refuse(&refusal));
        }
        if !mood.slow.is_zero() {
            tokio::time::sleep(mood.slow).await;
        }
        if inner.chance(mood.too_many) {
            return Ok(refuse(&Refusal::new(429, "TooManyRequests", "too many requests, please try again later")));
        }
        if inner.chance(mood.internal) {
            return Ok(refuse(&Refusal::new(500, "InternalError", "Internal error occurred: asked to misbehave")));
        }
    }
    let response = act(inner, request, &path).await.unwrap_or_else(|refusal| refuse(&refusal));
    // What was asked is done, but nobody will know.
    if !about_itself(&path) && inner.chance(mood.disconnect) {
        return Err(Cut);
    }
    Ok(response)
}

/// `/fairway/…`: the server's own controls.
fn control(inner: &Inner, method: &Method, path: &str, body: &[u8]) -> Result<Response<Content>, Refusal> {
    let done = |text: String| Ok(content(200, "text/plain", Bytes::from(text + "\n")));
    match (method, path) {
        (&Method::GET, "/fairway/misbehave") => done(inner.misbehaviour().to_string()),
        (&Method::PUT, "/fairway/misbehave") => {
            let text = String::from_utf8_lossy(body);
            let wanted: Misbehaviour = text.trim().parse().map_err(|e| Refusal::bad(format!("{e}")))?;
            lock(&inner.mood).misbehaviour = wanted;
            done(wanted.to_string())
        }
        (&Method::POST, "/fairway/compact") => {
            inner.api().compact();
            inner.version.send_modify(|_| {});
            done("compacted".into())
        }
        (&Method::POST, "/fairway/disconnect") => {
            inner.end.send_replace(End::Cut);
            done("disconnected".into())
        }
        _ => Err(Refusal::no_path()),
    }
}

/// The body of a request. One that is too large is read nevertheless, or the client would not see why it is refused;
/// but one that does not end is cut off.
async fn body(mut body: Incoming) -> Result<Vec<u8>, Refusal> {
    let (mut bytes, mut length) = (vec![], 0);
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| Refusal::bad(format!("the body cannot be read: {error}")))?;
        let Ok(data) = frame.into_data() else { continue };
        length += data.len();
        if length <= BODY_MAX {
            bytes.extend_from_slice(&data);
        } else if length > 16 * BODY_MAX {
            break;
        }
    }
    if length > BODY_MAX {
        return Err(Refusal::new(413, "RequestEntityTooLarge", format!("limit is {BODY_MAX} bytes")));
    }
    Ok(bytes)
}

async fn act(inner: &Arc<Inner>, request: Request<Incoming>, path: &str) -> Result<Response<Content>, Refusal> {
    let method = request.method().clone();
    let query = Query::parse(request.uri().query().unwrap_or_default());
    let form = Form::parse(header(&request, &ACCEPT));
    let content_type = header(&request, &CONTENT_TYPE).split(';').next().unwrap_or_default().trim().to_string();
    let host = header(&request, &hyper::header::HOST).to_string();
    let body = body(request.into_body()).await?;
    if path.starts_with("/fairway/") {
        return control(inner, &method, path, &body);
    }
    let call =
        Call { method: &method, path, query: &query, form, content_type: &content_type, body: &body, host: &host };
    let reads = matches!(method, Method::GET | Method::HEAD);
    let answer = crate::rest::act(inner, &call);
    if !reads {
        inner.settle();
        if let Kubelets::Elsewhere(call) = &inner.options.kubelets {
            call();
        }
    }
    Ok(match answer? {
        Answer::Json(code, value) => json(code, &value),
        Answer::Warned(code, value, warnings) => {
            let mut response = json(code, &value);
            for warning in warnings {
                let quoted = warning.replace('\\', "\\\\").replace('"', "\\\"");
                if let Ok(value) = HeaderValue::from_str(&format!("299 - \"{quoted}\"")) {
                    response.headers_mut().append(WARNING, value);
                }
            }
            response
        }
        Answer::Text(kind, text) => content(200, kind, text.into()),
        Answer::Watch(watch) => {
            let (send, receive) = mpsc::channel(16);
            tokio::spawn(watch.run(inner.clone(), send));
            let mut response = Response::new(Content::Stream(receive));
            response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
            response
        }
    })
}
