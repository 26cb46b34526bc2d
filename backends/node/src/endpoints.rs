//! The ports at which load balancers ask whether this node has endpoints of a `Local` service
//! (`spec.healthCheckNodePort`). The answers are those of kube-proxy.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use axum::Router;
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use fairway_agent::HealthCheck;
use fairway_objects::{Kind, Notice, NoticeChange, ObjectKey, Subject};
use serde_json::json;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use crate::ask::Ask;
use crate::health;

/// How long a port that is taken is left alone.
const RETRY: Duration = Duration::from_secs(5);
/// How many endpoints there are, for load balancers that weigh nodes.
const WEIGHT: HeaderName = HeaderName::from_static("x-load-balancing-endpoint-weight");

/// Opens and closes ports as services come and go, until nobody says what there should be.
pub(crate) async fn follow(
    mut wanted: watch::Receiver<Vec<HealthCheck>>,
    ask: Ask,
    notices: mpsc::UnboundedSender<NoticeChange>,
) {
    let mut open: BTreeMap<u16, Server> = BTreeMap::new();
    loop {
        let checks = wanted.borrow_and_update().clone();
        open.retain(|port, _| checks.iter().any(|check| check.port == *port));
        for check in checks {
            match open.get(&check.port) {
                Some(server) => drop(server.check.send_replace(check)),
                None => {
                    let port = check.port;
                    let (sender, receiver) = watch::channel(check);
                    let task = tokio::spawn(listen(port, receiver, ask.clone(), notices.clone()));
                    open.insert(port, Server { check: sender, task });
                }
            }
        }
        if wanted.changed().await.is_err() {
            return;
        }
    }
}

/// One port. Dropping it closes it.
struct Server {
    check: watch::Sender<HealthCheck>,
    task: JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What is said about a port that cannot be had; taken back when it can, or when nobody wants it any more.
pub(crate) struct Standing {
    notices: mpsc::UnboundedSender<NoticeChange>,
    notice: Option<Notice>,
}

impl Standing {
    pub(crate) fn new(notices: mpsc::UnboundedSender<NoticeChange>) -> Standing {
        Standing { notices, notice: None }
    }

    pub(crate) fn set(&mut self, notice: Option<Notice>) {
        if self.notice != notice {
            let cleared = self.notice.take().map(NoticeChange::Cleared);
            let raised = notice.clone().map(NoticeChange::Raised);
            self.notice = notice;
            for change in cleared.into_iter().chain(raised) {
                // The loop is gone: so are we in a moment.
                let _gone = self.notices.send(change);
            }
        }
    }
}

impl Drop for Standing {
    fn drop(&mut self) {
        self.set(None);
    }
}

async fn listen(
    port: u16,
    check: watch::Receiver<HealthCheck>,
    ask: Ask,
    notices: mpsc::UnboundedSender<NoticeChange>,
) {
    let mut standing = Standing::new(notices);
    let address = SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), port);
    loop {
        let (look, ask) = (check.clone(), ask.clone());
        // Any path, as for kube-proxy.
        let router = Router::new().fallback(move || {
            let (look, ask) = (look.clone(), ask.clone());
            async move {
                let healthy = ask.source(|_| ()).await.is_some();
                let check = look.borrow().clone();
                answer(&check, healthy)
            }
        });
        let reason = match health::open(address, router) {
            Ok(port) => {
                standing.set(None);
                match port.serve().await {
                    Ok(()) => return,
                    Err(error) => error.to_string(),
                }
            }
            Err(error) => error.to_string(),
        };
        let service = check.borrow().service.clone();
        standing.set(Some(Notice {
            subject: Subject::Object(ObjectKey { kind: Kind::Service, name: service }),
            field: "spec.healthCheckNodePort".into(),
            reason: format!("port {port} is not answered: {reason}"),
        }));
        tokio::time::sleep(RETRY).await;
    }
}

fn answer(check: &HealthCheck, healthy: bool) -> Response {
    let good = healthy && check.local_endpoints > 0;
    let status = if good { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let body = json!({
        "service": {"namespace": &*check.service.namespace, "name": &*check.service.name},
        "localEndpoints": check.local_endpoints,
        "serviceProxyHealthy": healthy,
    });
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("application/json")),
        (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
        // The port may be closed before the next question, and another service may have it.
        (header::CONNECTION, HeaderValue::from_static("close")),
        (WEIGHT, HeaderValue::from(check.local_endpoints)),
    ];
    (status, headers, body.to_string()).into_response()
}
