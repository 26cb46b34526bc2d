//! The ports at which others look at a node (gobgp, the kubelet, Prometheus), on a thread of their own: whoever reads
//! a long table there holds up no keepalive.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use fairway_agent::HealthCheck;
use fairway_backend_admin::{Job, serve};
use fairway_objects::{NodeConfig, Notice, NoticeChange, Subject};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot, watch};

use crate::ask::Ask;
use crate::endpoints::{self, Standing};
use crate::health::{self, Port};
use crate::pprof;
use crate::scrape::Scraper;
use crate::timings::Timings;

/// How long an address that is taken is left alone.
const RETRY: Duration = Duration::from_secs(5);

/// The thread. Dropping it closes the ports.
#[derive(Debug)]
pub(crate) struct Ports {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Ports {
    /// Opens the ports of a configuration, in the namespace of the calling thread. A port for the kubelet or Prometheus
    /// that cannot be had is an error, as for kube-router; one for gobgp is a notice, and tried again.
    pub(crate) fn start(
        config: &NodeConfig,
        enter: Arc<dyn Fn() -> io::Result<()> + Send + Sync>,
        ask: Ask,
        timings: Timings,
        checks: watch::Receiver<Vec<HealthCheck>>,
        notices: mpsc::UnboundedSender<NoticeChange>,
    ) -> Result<Ports, String> {
        let mut http: Vec<Port> = vec![];
        if let Some(address) = config.health {
            let port = health::probes(address, ask.clone());
            http.push(port.map_err(|error| format!("health port {address}: {error}"))?);
        }
        if let Some((address, path)) = &config.metrics {
            let scraper = Scraper::new(ask.clone(), config.run_router, config.run_service_proxy, timings);
            let port = health::metrics(*address, path, scraper);
            http.push(port.map_err(|error| format!("metrics port {address}: {error}"))?);
        }
        let (addresses, profiles) = (config.admin.clone(), config.pprof);
        let (stop, stopped) = oneshot::channel::<()>();
        let failed = |error: io::Error| format!("no thread for the ports: {error}");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
        let thread = std::thread::Builder::new().name("ports".into()).spawn(move || {
            if let Err(error) = enter() {
                let reason = format!("entering the network namespace: {error}");
                // The loop is gone: so are we in a moment.
                let _gone = notices.send(NoticeChange::Raised(notice("gobgp-admin-address", "", reason)));
                return;
            }
            runtime.block_on(async move {
                for address in addresses {
                    tokio::spawn(listen(address, ask.jobs.clone(), notices.clone()));
                }
                if profiles {
                    tokio::spawn(profile(notices.clone()));
                }
                tokio::spawn(endpoints::follow(checks, ask, notices));
                for port in http {
                    // It listens already, and accepting goes on whatever happens to one connection.
                    tokio::spawn(port.serve());
                }
                // An error means that we are dropped, which is what is waited for.
                let _dropped = stopped.await;
            });
        });
        Ok(Ports { stop: Some(stop), thread: Some(thread.map_err(failed)?) })
    }
}

impl Drop for Ports {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _over = thread.join();
        }
    }
}

async fn listen(address: SocketAddr, jobs: mpsc::Sender<Job>, notices: mpsc::UnboundedSender<NoticeChange>) {
    let mut standing = Standing::new(notices);
    loop {
        let reason = match TcpListener::bind(address).await {
            Ok(listener) => {
                standing.set(None);
                match serve(listener, jobs.clone()).await {
                    Ok(()) => return,
                    Err(error) => error.to_string(),
                }
            }
            Err(error) => error.to_string(),
        };
        let reason = format!("the gobgp client is not answered: {reason}");
        standing.set(Some(notice("gobgp-admin-address", &address.to_string(), reason)));
        tokio::time::sleep(RETRY).await;
    }
}

/// Answers for profiles.
async fn profile(notices: mpsc::UnboundedSender<NoticeChange>) {
    let mut standing = Standing::new(notices);
    loop {
        let reason = match health::open(pprof::ADDRESS, pprof::router()) {
            Ok(port) => {
                standing.set(None);
                match port.serve().await {
                    Ok(()) => return,
                    Err(error) => error.to_string(),
                }
            }
            Err(error) => error.to_string(),
        };
        standing.set(Some(notice("enable-pprof", &pprof::ADDRESS.to_string(), format!("not answered: {reason}"))));
        tokio::time::sleep(RETRY).await;
    }
}

fn notice(flag: &str, address: &str, reason: String) -> Notice {
    Notice { subject: Subject::Flag(flag.into()), field: address.into(), reason }
}
