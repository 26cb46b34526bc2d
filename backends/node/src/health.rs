//! HTTP: probes of the kubelet, and Prometheus.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use axum::Router;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::net::TcpListener;

use crate::ask::Ask;
use crate::metrics::text;
use crate::scrape::Scraper;

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
pub(crate) fn probes(address: SocketAddr, ask: Ask) -> io::Result<Port> {
    let alive = ask.clone();
    let router = Router::new()
        .route(
            "/healthz",
            get(move || async move {
                // As kube-router words it.
                match alive.source(|_| ()).await {
                    Some(()) => (StatusCode::OK, "OK\n").into_response(),
                    None => (StatusCode::INTERNAL_SERVER_ERROR, "Unhealthy").into_response(),
                }
            }),
        )
        .route("/readyz", get(move || async move { ready(&ask).await }));
    open(address, router)
}

/// The metrics on an address and a path.
///
/// # Errors
/// The address cannot be had.
pub(crate) fn metrics(address: SocketAddr, path: &str, scraper: Scraper) -> io::Result<Port> {
    let scrape = move || {
        let scraper = scraper.clone();
        async move {
            let Some(scrape) = scraper.scrape().await else {
                return (StatusCode::SERVICE_UNAVAILABLE, "the daemon does not answer\n").into_response();
            };
            match text(&scrape) {
                Ok(text) => {
                    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response()
                }
                Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
            }
        }
    };
    open(address, Router::new().route(path, get(scrape)))
}

pub(crate) fn open(address: SocketAddr, router: Router) -> io::Result<Port> {
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
async fn ready(ask: &Ask) -> Response {
    let Some(status) = ask.source(|source| source.status()).await else {
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
