//! HTTP: probes of the kubelet, and Prometheus.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use axum::Router;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use fairway_backend_admin::{Job, Source};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot};

use crate::metrics::{Scrape, text};

/// A loop that does not answer within this is not alive. The kubelet waits no longer either.
const PATIENCE: Duration = Duration::from_secs(1);

/// One port, and what it answers.
#[derive(Debug)]
pub(crate) struct Port {
    listener: std::net::TcpListener,
    router: Router,
}

/// `/healthz` and `/readyz` on an address.
///
/// # Errors
/// The address cannot be had.
pub(crate) fn probes(address: SocketAddr, jobs: mpsc::Sender<Job>) -> io::Result<Port> {
    let alive = jobs.clone();
    let router = Router::new()
        .route(
            "/healthz",
            get(move || async move {
                // As kube-router words it.
                match ask(&alive, |_| ()).await {
                    Some(()) => (StatusCode::OK, "OK\n").into_response(),
                    None => (StatusCode::INTERNAL_SERVER_ERROR, "Unhealthy").into_response(),
                }
            }),
        )
        .route("/readyz", get(move || async move { ready(&jobs).await }));
    open(address, router)
}

/// The metrics on an address and a path.
///
/// # Errors
/// The address cannot be had.
pub(crate) fn metrics(address: SocketAddr, path: &str, jobs: mpsc::Sender<Job>) -> io::Result<Port> {
    let scrape = move || async move {
        let take = |source: &mut dyn Source| Scrape {
            status: source.status(),
            neighbors: source.speaker().neighbors(),
            asn: source.speaker().global().map_or(0, |global| global.asn),
        };
        let Some(scrape) = ask(&jobs, take).await else {
            return (StatusCode::SERVICE_UNAVAILABLE, "the daemon does not answer\n").into_response();
        };
        match text(&scrape) {
            Ok(text) => ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response(),
            Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
        }
    };
    open(address, Router::new().route(path, get(scrape)))
}

fn open(address: SocketAddr, router: Router) -> io::Result<Port> {
    let listener = match std::net::TcpListener::bind(address) {
        // All addresses, on a system without IPv6.
        Err(_) if address.ip() == IpAddr::V6(Ipv6Addr::UNSPECIFIED) => {
            std::net::TcpListener::bind((Ipv4Addr::UNSPECIFIED, address.port()))?
        }
        bound => bound?,
    };
    listener.set_nonblocking(true)?;
    Ok(Port { listener, router })
}

impl Port {
    /// Answers until dropped. To be called inside a runtime.
    pub(crate) async fn serve(self) -> io::Result<()> {
        axum::serve(TcpListener::from_std(self.listener)?, self.router).await
    }
}

/// Ready is who has seen the whole cluster once, and has nothing that the kernel refuses.
async fn ready(jobs: &mpsc::Sender<Job>) -> Response {
    let Some(status) = ask(jobs, |source| source.status()).await else {
        return (StatusCode::SERVICE_UNAVAILABLE, "the daemon does not answer\n").into_response();
    };
    let mut reasons = vec![];
    if !status.synced {
        reasons.push("not every kind of object was listed yet".to_string());
    }
    for plane in status.planes.iter().filter(|plane| plane.in_use) {
        if let Some(fault) = &plane.fault {
            reasons.push(format!("plane {}: {fault}", plane.name));
        }
        for parked in &plane.parked {
            reasons.push(format!("plane {}: {} {}", plane.name, parked.key, parked.outcome));
        }
    }
    match reasons.is_empty() {
        true => (StatusCode::OK, "OK\n").into_response(),
        false => (StatusCode::SERVICE_UNAVAILABLE, reasons.join("\n") + "\n").into_response(),
    }
}

async fn ask<T: Send + 'static>(
    jobs: &mpsc::Sender<Job>,
    question: impl FnOnce(&mut dyn Source) -> T + Send + 'static,
) -> Option<T> {
    let (answer, answered) = oneshot::channel();
    let job: Job = Box::new(move |source| drop(answer.send(question(source))));
    let asked = async {
        jobs.send(job).await.ok()?;
        answered.await.ok()
    };
    tokio::time::timeout(PATIENCE, asked).await.ok().flatten()
}
