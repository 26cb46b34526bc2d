//! What a node writes to the API server: each request of the engine as the few HTTP calls that it is.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError, mpsc as channel};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

use fairway_decode::decode;
use fairway_decode::writes::{self, IngressPatch};
use fairway_objects::{Delta, Kind, ObjectKey, ObjectName};
use fairway_publish::{Answer, Event, Ingress, Lease, LeaseWrite, Refusal, Request};
use http::header::{ACCEPT, CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use http::{Method, StatusCode};
use kube::Client;
use kube::client::Body as KubeBody;
use serde_json::Value;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::access::{Access, AccessError};
use crate::cluster::{collect, reason};
use crate::watch::{brief, encode, path};

/// A call takes no longer: a leader must have time for another before its Lease is lost.
const ANSWER: Duration = Duration::from_secs(5);
/// What is under way when the daemon ends has so long.
const FAREWELL: Duration = Duration::from_secs(3);
/// No object is larger than a few MiB.
const BODY_MAX: usize = 16 << 20;

/// Takes each answer, in a thread of its own; it may wait.
pub type Tell = Box<dyn FnMut(Answer) + Send>;

/// Writes to the API server in a thread of its own. It decides nothing, and repeats nothing: each request has one answer.
#[derive(Debug)]
pub struct Writer {
    requests: mpsc::UnboundedSender<Request>,
    /// Dropping it ends the thread.
    end: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Writer {
    /// Starts it. That the server does not answer is no error.
    ///
    /// # Errors
    /// If what the flags and files say cannot be used.
    pub fn start(access: Access, mut tell: Tell) -> Result<Writer, AccessError> {
        let system = |error: std::io::Error| AccessError { place: "writing".into(), reason: error.to_string() };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(system)?;
        let (requests, mut inbox) = mpsc::unbounded_channel::<Request>();
        let (end, mut ended) = oneshot::channel::<()>();
        let (answered, answers) = channel::channel::<Answer>();
        // Whoever takes the answers may wait for the one who gives requests, so they are not one thread.
        std::thread::Builder::new()
            .name("answers".into())
            .spawn(move || answers.into_iter().for_each(&mut tell))
            .map_err(system)?;
        let thread = std::thread::Builder::new()
            .name("writes".into())
            .spawn(move || {
                let server = Arc::new(Server { access, client: Mutex::new(None) });
                runtime.block_on(async move {
                    let mut under_way = JoinSet::new();
                    loop {
                        let request = tokio::select! {
                            // What was handed over before the end is still asked.
                            biased;
                            Some(request) = inbox.recv() => request,
                            _ = &mut ended => break,
                        };
                        let (server, answered) = (server.clone(), answered.clone());
                        under_way.spawn(async move {
                            // Whoever asked may have gone.
                            let _gone = answered.send(server.answer(request).await);
                        });
                        while under_way.try_join_next().is_some() {}
                    }
                    let _late = timeout(FAREWELL, under_way.join_all()).await;
                });
            })
            .map_err(system)?;
        Ok(Writer { requests, end: Some(end), thread: Some(thread) })
    }

    /// Where requests are handed over; it never waits. What is handed over after the writer has ended is not asked.
    pub fn requests(&self) -> impl Fn(Request) + Send + 'static {
        let requests = self.requests.clone();
        move |request| {
            let _ended = requests.send(request);
        }
    }
}

/// Waits a moment for what was handed over.
impl Drop for Writer {
    fn drop(&mut self) {
        self.end = None;
        if let Some(thread) = self.thread.take() {
            let _over = thread.join();
        }
    }
}

struct Server {
    access: Access,
    client: Mutex<Option<Client>>,
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server").field("access", &self.access).finish_non_exhaustive()
    }
}

fn leases(name: &ObjectName) -> String {
    format!("/apis/coordination.k8s.io/v1/namespaces/{}/leases", encode(&name.namespace))
}

fn object(key: &ObjectKey) -> String {
    path(key.kind, &key.name.namespace, &key.name.name)
}

impl Server {
    async fn answer(&self, request: Request) -> Answer {
        match request {
            Request::ReadLease(name) => {
                Answer::Lease(match self.get(&format!("{}/{}", leases(&name), name.name)).await {
                    Ok(value) => Ok(Some(writes::lease(&value))),
                    Err(Refusal::Gone) => Ok(None),
                    Err(refusal) => Err(refusal),
                })
            }
            Request::WriteLease(write) => Answer::Lease(self.lease(&write).await.map(Some)),
            Request::Ingress(write) => {
                Answer::Ingress { service: write.service.name.clone(), result: self.ingress(&write).await }
            }
            Request::Event(event) => Answer::Event { name: event.name.clone(), result: self.event(&event).await },
        }
    }

    async fn lease(&self, write: &LeaseWrite) -> Result<Lease, Refusal> {
        let body = writes::lease_body(write, &now());
        let all = leases(&write.name);
        let written = match write.version {
            None => self.call(Method::POST, &all, &body).await?,
            Some(_) => self.call(Method::PUT, &format!("{all}/{}", write.name.name), &body).await?,
        };
        Ok(writes::lease(&written))
    }

    async fn ingress(&self, write: &Ingress) -> Result<(bool, Delta), Refusal> {
        let path = object(&ObjectKey { kind: Kind::Service, name: write.service.name.clone() });
        let current = self.get(&path).await?;
        match writes::ingress_patch(write, &current) {
            IngressPatch::Differs(delta) => Ok((false, delta)),
            IngressPatch::Patch(patch) => {
                let written = self.call(Method::PATCH, &format!("{path}/status"), &patch).await?;
                decode(&written).map(|delta| (true, delta)).map_err(|error| Refusal::Refused(error.to_string()))
            }
        }
    }

    async fn event(&self, event: &Event) -> Result<(), Refusal> {
        let about = match self.get(&object(&event.object)).await {
            // An Event without the object's uid is better than none.
            Err(Refusal::Forbidden(_)) => Value::Null,
            about => about?,
        };
        let all = format!("/api/v1/namespaces/{}/events", encode(writes::event_namespace(&event.object)));
        match self.call(Method::POST, &all, &writes::event_body(event, &about, &now())).await {
            Err(Refusal::Conflict) if event.again => {
                let path = format!("{all}/{}", encode(&event.name));
                let existing = self.get(&path).await?;
                self.call(Method::PATCH, &path, &writes::event_again(&existing, &now())).await.map(drop)
            }
            result => result.map(drop),
        }
    }

    async fn get(&self, path: &str) -> Result<Value, Refusal> {
        self.send(Method::GET, path, None).await
    }

    async fn call(&self, method: Method, path: &str, body: &Value) -> Result<Value, Refusal> {
        self.send(method, path, Some(body)).await
    }

    async fn send(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Value, Refusal> {
        let result = match timeout(ANSWER, self.exchange(method, path, body)).await {
            Ok(result) => result,
            Err(_) => Err(unreachable(format!("no answer within {} s", ANSWER.as_secs()))),
        };
        // The next call reads certificates and tokens anew.
        if matches!(result, Err(Refusal::Unreachable { .. })) {
            *self.client.lock().unwrap_or_else(PoisonError::into_inner) = None;
        }
        result
    }

    async fn exchange(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Value, Refusal> {
        let known = self.client.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let client = match known {
            Some(client) => client,
            None => {
                let config = self.access.load().await.map_err(|error| unreachable(error.to_string()))?;
                let client = Client::try_from(config);
                let client = client.map_err(|error| unreachable(self.access.unusable(&error).to_string()))?;
                *self.client.lock().unwrap_or_else(PoisonError::into_inner) = Some(client.clone());
                client
            }
        };
        let kind = if method == Method::PATCH { "application/merge-patch+json" } else { "application/json" };
        let bytes = body.map(|body| body.to_string().into_bytes());
        let request = http::Request::builder()
            .method(method)
            .uri(path)
            .header(ACCEPT, HeaderValue::from_static("application/json"))
            .header(CONTENT_TYPE, HeaderValue::from_static(kind))
            .body(bytes.map_or_else(KubeBody::empty, KubeBody::from))
            .map_err(|error| Refusal::Refused(format!("{path}: {error}")))?;
        let response = client.send(request).await.map_err(|error| unreachable(reason(&error)))?;
        let status = response.status();
        let after = response.headers().get(RETRY_AFTER).and_then(|v| v.to_str().ok()?.trim().parse().ok());
        let text = collect(response.into_body(), BODY_MAX).await.map_err(|failure| unreachable(failure.reason))?;
        let value: Value = serde_json::from_slice(&text).unwrap_or_default();
        if status.is_success() { Ok(value) } else { Err(refusal(status, after.map(Duration::from_secs), &value)) }
    }
}

fn unreachable(reason: String) -> Refusal {
    Refusal::Unreachable { reason, after: None }
}

/// What an answer other than success means.
fn refusal(status: StatusCode, after: Option<Duration>, body: &Value) -> Refusal {
    let said = body.get("message").and_then(Value::as_str).map(brief).filter(|text| !text.is_empty());
    let reason = format!("{status}{}", said.map(|text| format!(": {text}")).unwrap_or_default());
    let causes = body.pointer("/details/causes").and_then(Value::as_array).into_iter().flatten();
    let ending =
        causes.filter_map(|cause| cause.get("reason")?.as_str()).any(|reason| reason == "NamespaceTerminating");
    match status {
        StatusCode::NOT_FOUND => Refusal::Gone,
        StatusCode::CONFLICT => Refusal::Conflict,
        StatusCode::FORBIDDEN if ending => Refusal::Gone,
        StatusCode::FORBIDDEN => Refusal::Forbidden(reason),
        // Credentials are read again, and may be others by then.
        StatusCode::UNAUTHORIZED | StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT => {
            Refusal::Unreachable { reason, after }
        }
        status if status.is_server_error() => Refusal::Unreachable { reason, after },
        _ => Refusal::Refused(reason),
    }
}

/// The present as the API writes it: RFC 3339 with microseconds.
fn now() -> String {
    humantime::format_rfc3339_micros(SystemTime::now()).to_string()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn answers_mean_what_they_say() {
        let of = |status: u16, body: Value| {
            refusal(StatusCode::from_u16(status).expect("a status"), Some(Duration::from_secs(7)), &body)
        };
        assert_eq!(of(404, json!({})), Refusal::Gone);
        assert_eq!(of(409, json!({"reason": "AlreadyExists"})), Refusal::Conflict);
        let forbidden = of(403, json!({"message": "events is forbidden: User \"x\" cannot create"}));
        assert_eq!(
            forbidden,
            Refusal::Forbidden("403 Forbidden: events is forbidden: User \"x\" cannot create".into())
        );
        let ending = json!({"details": {"causes": [{"reason": "NamespaceTerminating"}]}});
        assert_eq!(of(403, ending), Refusal::Gone, "a namespace that ends is no lack of permission");
        for again in [401, 408, 429, 500, 503] {
            let after = Some(Duration::from_secs(7));
            assert!(matches!(of(again, json!(null)), Refusal::Unreachable { after: a, .. } if a == after), "{again}");
        }
        assert!(matches!(of(422, json!({"message": "no"})), Refusal::Refused(reason) if reason.ends_with(": no")));
    }
}
