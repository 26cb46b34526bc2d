//! `fairway apiserver`: an API server with the controllers of a cluster, in memory, for tests and for trying things out.

use std::fs;
use std::io::{self, Write};
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use clap::Args;
use fairway_api::{Api, ApiConfig};
use fairway_apiserver::{Authority, Misbehaviour, Options, Server, ServiceAccount, TlsError, kubeconfig};
use ipnet::IpNet;

use crate::USAGE;

/// Options of `fairway apiserver`.
#[derive(Args)]
pub(crate) struct Apiserver {
    /// Where to listen; port 0 takes any.
    #[arg(long, default_value = "127.0.0.1:6443", value_name = "ADDRESS:PORT")]
    listen: SocketAddr,
    /// Manifests that are applied before the first request, in this order.
    #[arg(long, value_name = "FILE")]
    apply: Vec<PathBuf>,
    /// Write a kubeconfig for this server to a file.
    #[arg(long, value_name = "FILE")]
    write_kubeconfig: Option<PathBuf>,
    /// Speak HTTPS, with a certificate of an authority that is made for the occasion and stands in the kubeconfig.
    #[arg(long)]
    tls: bool,
    /// Refuse requests without this bearer token; kubectl sends one only with --tls.
    #[arg(long, value_name = "TOKEN")]
    token: Option<String>,
    /// Also take this token; requests with it may do what the cluster's roles and bindings give the service account.
    #[arg(long, value_name = "NAMESPACE/NAME=TOKEN", value_parser = service_account)]
    service_account: Vec<ServiceAccount>,
    /// Cluster IP ranges, one per family, the primary family first.
    #[arg(long, value_name = "CIDR,…", value_delimiter = ',', default_value = "10.96.0.0/12")]
    service_cidr: Vec<IpNet>,
    /// How many changes of each kind a watch can go back.
    #[arg(long, default_value_t = 10_000, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    history: u32,
    /// Seconds between the bookmarks of a watch.
    #[arg(long, default_value_t = 10, value_name = "S", value_parser = clap::value_parser!(u32).range(1..))]
    bookmark: u32,
    /// Misbehave: slow=200ms, reorder=2s, and with a probability disconnect, stale, duplicate, 429, 500, gone (=0.1).
    #[arg(long, default_value = "none", value_name = "HOW,…")]
    misbehave: Misbehaviour,
    /// Seed of what is left to chance.
    #[arg(long, default_value_t = 42)]
    seed: u64,
}

/// Reads `NAMESPACE/NAME=TOKEN`.
fn service_account(text: &str) -> Result<ServiceAccount, String> {
    let parts = text.split_once('=').and_then(|(account, token)| Some((account.split_once('/')?, token)));
    match parts {
        Some(((namespace, name), token)) if ![namespace, name, token].contains(&"") => {
            Ok(ServiceAccount { namespace: namespace.into(), name: name.into(), token: token.into() })
        }
        _ => Err("NAMESPACE/NAME=TOKEN is wanted, as in kube-system/fairway=secret".into()),
    }
}

impl Apiserver {
    /// Serves until SIGINT or SIGTERM. Exit status 0; 1 if it failed; 2 if the command line or a file is wrong.
    pub(crate) fn run(self) -> u8 {
        match self.serve() {
            Ok(()) => 0,
            Err((status, reason)) => {
                let _gone = writeln!(io::stderr(), "fairway apiserver: {reason}");
                status
            }
        }
    }

    fn serve(self) -> Result<(), (u8, String)> {
        let late = |what: String| move |error: io::Error| (1, format!("{what}: {error}"));
        let since_1970 = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let config = ApiConfig {
            service_cidrs: self.service_cidr.clone(),
            epoch_s: since_1970.as_secs(),
            adopt_nodes: true,
            ..ApiConfig::default()
        };
        let start = Instant::now();
        let api = Arc::new(Mutex::new(Api::new(config, self.seed)));
        let listener = TcpListener::bind(self.listen).map_err(late(format!("cannot listen on {}", self.listen)))?;
        let address = listener.local_addr().map_err(late("the listener has no address".into()))?;
        let mut authority = None;
        let mut tls = None;
        if self.tls {
            let failed = |error: TlsError| (1, error.to_string());
            let made = Authority::new().map_err(failed)?;
            let mut names = vec!["localhost".to_string(), "kubernetes.default.svc".into(), address.ip().to_string()];
            if address.ip().is_unspecified() {
                names.extend(["127.0.0.1".into(), "::1".into()]);
            }
            tls = Some(made.server(&names).map_err(failed)?);
            authority = Some(made.pem());
        }
        let url = format!("{}://{address}", if self.tls { "https" } else { "http" });
        let options = Options {
            tls,
            token: self.token.clone(),
            service_accounts: self.service_account.clone(),
            history: self.history as usize,
            bookmark: Duration::from_secs(self.bookmark.into()),
            seed: self.seed,
            ..Options::default()
        };
        let server = Server::new(api, start, options);
        let mut out = io::stdout().lock();
        for file in &self.apply {
            let text = fs::read_to_string(file).map_err(|e| (USAGE, format!("{}: {e}", file.display())))?;
            let now = server.now();
            for applied in server.api().apply(now, &text) {
                let applied = applied.map_err(|e| (USAGE, format!("{}: {e}", file.display())))?;
                let _gone = writeln!(out, "{applied}");
            }
        }
        server.misbehave(self.misbehave);
        if let Some(file) = &self.write_kubeconfig {
            let text = kubeconfig(&url, authority.as_deref(), self.token.as_deref());
            fs::write(file, text).map_err(late(format!("cannot write {}", file.display())))?;
        }
        let _gone = writeln!(out, "serving on {url}");
        let _gone = out.flush();
        drop(out);
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
        runtime.map_err(late("no runtime".into()))?.block_on(async {
            let interrupted = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::interrupt());
            let terminated = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate());
            let mut interrupted = interrupted.map_err(late("SIGINT".into()))?;
            let mut terminated = terminated.map_err(late("SIGTERM".into()))?;
            let asked = async {
                tokio::select! { _ = interrupted.recv() => {}, _ = terminated.recv() => {} }
            };
            tokio::select! {
                ended = server.serve(listener, asked) => ended.map_err(late("the listener".into())),
                never = server.drive() => match never {},
            }
        })
    }
}
