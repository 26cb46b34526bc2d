//! Where the API server is and who we are to it: `--kubeconfig`, `--master`, or what a pod is given.

use std::error::Error;
use std::fmt::Display;
use std::path::{Path, PathBuf};

use http::header::{HeaderValue, USER_AGENT};
use kube::config::{Config, KubeConfigOptions, Kubeconfig, KubeconfigError};

/// Where the kubelet puts a pod's credentials.
const SERVICE_ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// What the command line and the environment say about the API server. As for kube-router, `--master` overrides the
/// server of `--kubeconfig`; without either the daemon is a pod of the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Access {
    /// `--master`: URL of the API server.
    pub master: Option<String>,
    /// `--kubeconfig`: a file as kubectl has it.
    pub kubeconfig: Option<PathBuf>,
    /// A pod's credentials: `token` and `ca.crt`.
    pub service_account: PathBuf,
    /// `KUBERNETES_SERVICE_HOST` and `KUBERNETES_SERVICE_PORT`, where a pod finds its API server.
    pub in_cluster: Option<(String, String)>,
}

/// Why the API server cannot be asked: a flag, a file or a field in it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{place}: {reason}")]
pub struct AccessError {
    /// `--kubeconfig FILE: users[].user.client-key`
    pub place: String,
    /// What is wrong.
    pub reason: String,
}

impl Access {
    /// What these two flags say in this environment. Empty texts are as good as none.
    pub fn new(master: &str, kubeconfig: &str) -> Access {
        let variable = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
        let host = variable("KUBERNETES_SERVICE_HOST");
        Access {
            master: Some(master.to_string()).filter(|m| !m.is_empty()),
            kubeconfig: Some(PathBuf::from(kubeconfig)).filter(|k| !k.as_os_str().is_empty()),
            service_account: SERVICE_ACCOUNT.into(),
            in_cluster: host.zip(variable("KUBERNETES_SERVICE_PORT")),
        }
    }

    /// Reads the files anew, so that credentials which were replaced count.
    pub(crate) async fn load(&self) -> Result<Config, AccessError> {
        let mut config = match (&self.kubeconfig, &self.master, &self.in_cluster) {
            (Some(file), master, _) => from_file(file, master.as_deref()).await?,
            (None, Some(master), _) => self.at(master)?,
            (None, None, Some((host, port))) => {
                let bracketed = if host.contains(':') { format!("[{host}]") } else { host.clone() };
                let place = "KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT";
                self.pod(Config::new(url(place, &format!("https://{bracketed}:{port}"))?))?
            }
            (None, None, None) => {
                return Err(AccessError {
                    place: "no API server".into(),
                    reason:
                        "give --kubeconfig or --master; in a pod KUBERNETES_SERVICE_HOST and _PORT would say where \
                             it is"
                            .into(),
                });
            }
        };
        // We see ourselves to retries, so that the reason of a failure is known.
        config.default_retry = false;
        config.connect_timeout = Some(super::cluster::CONNECT);
        config.headers.push((USER_AGENT, HeaderValue::from_static(concat!("fairway/", env!("CARGO_PKG_VERSION")))));
        Ok(config)
    }

    /// kube-router then takes a pod's credentials, and needs them. Ours does without where there are none, and sends
    /// none in the clear.
    fn at(&self, master: &str) -> Result<Config, AccessError> {
        let config = Config::new(server("--master", master)?);
        let plain = config.cluster_url.scheme_str() == Some("http");
        if plain || !self.service_account.join("token").exists() { Ok(config) } else { self.pod(config) }
    }

    /// Adds a pod's credentials.
    fn pod(&self, mut config: Config) -> Result<Config, AccessError> {
        let readable = |file: PathBuf| match std::fs::read_to_string(&file) {
            Ok(text) => Ok((file, text)),
            Err(error) => Err(AccessError { place: file.display().to_string(), reason: error.to_string() }),
        };
        let (token, _) = readable(self.service_account.join("token"))?;
        let (authority, pem) = readable(self.service_account.join("ca.crt"))?;
        if !pem.contains("-----BEGIN CERTIFICATE-----") {
            return Err(AccessError { place: authority.display().to_string(), reason: NO_CERTIFICATE.into() });
        }
        config.root_cert_file = Some(authority);
        config.auth_info.token_file = Some(token.display().to_string());
        Ok(config)
    }

    /// What stands for this in messages.
    fn place(&self) -> String {
        match (&self.kubeconfig, &self.master) {
            (Some(file), _) => format!("--kubeconfig {}", file.display()),
            (None, Some(_)) => "--master".into(),
            (None, None) => self.service_account.display().to_string(),
        }
    }

    /// A mistake that shows only when the files are put to use.
    pub(crate) fn unusable(&self, error: &kube::Error) -> AccessError {
        match error {
            kube::Error::InferKubeconfig(error) => wrong(&self.place(), error),
            kube::Error::RustlsTls(error) => {
                use kube::client::RustlsTlsError as Tls;
                let field = match error {
                    Tls::AddRootCertificate(_) | Tls::NoValidNativeRootCA(_) => "certificate authority",
                    Tls::InvalidServerName(_) => "server name",
                    _ => "client certificate and key",
                };
                AccessError { place: format!("{}: {field}", self.place()), reason: causes(error) }
            }
            other => AccessError { place: self.place(), reason: causes(other) },
        }
    }
}

const NO_CERTIFICATE: &str = "no certificate in PEM in it";

fn url(place: &str, text: &str) -> Result<http::Uri, AccessError> {
    let wrong = |reason: String| AccessError { place: place.into(), reason };
    let uri: http::Uri = text.parse().map_err(|error| wrong(format!("`{text}` is not a URL: {error}")))?;
    let host = uri.host().unwrap_or_default();
    // A port that is no number is passed over by the parser.
    let port = uri.port_u16().map(|port| format!(":{port}")).unwrap_or_default();
    let whole = uri.authority().is_some_and(|authority| authority.as_str() == format!("{host}{port}"));
    match uri.scheme_str() {
        Some("http" | "https") if !host.is_empty() && whole => Ok(uri),
        _ => Err(wrong(format!("`{text}` is not a URL such as https://10.0.0.1:6443"))),
    }
}

/// client-go takes an address without a scheme for HTTP.
fn server(place: &str, text: &str) -> Result<http::Uri, AccessError> {
    if text.contains("://") { url(place, text) } else { url(place, &format!("http://{text}")) }
}

async fn from_file(file: &Path, master: Option<&str>) -> Result<Config, AccessError> {
    let place = format!("--kubeconfig {}", file.display());
    let mut kubeconfig = Kubeconfig::read_from(file).map_err(|error| wrong(&place, &error))?;
    if let Some(master) = master {
        let uri = server("--master", master)?;
        for cluster in kubeconfig.clusters.iter_mut().filter_map(|named| named.cluster.as_mut()) {
            cluster.server = Some(uri.to_string());
        }
    }
    for named in &kubeconfig.clusters {
        let Some(cluster) = &named.cluster else { continue };
        let field = |name: &str| format!("{place}: clusters[{}].cluster.{name}", named.name);
        if cluster.proxy_url.as_ref().is_some_and(|proxy| !proxy.is_empty()) {
            return Err(AccessError { place: field("proxy-url"), reason: "proxies are not supported".into() });
        }
        if let Some(text) = &cluster.server {
            server(&field("server"), text)?;
        }
    }
    let mut config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
        .await
        .map_err(|error| wrong(&place, &error))?;
    if config.root_cert.as_ref().is_some_and(Vec::is_empty) {
        let place = format!("{place}: clusters[].cluster.certificate-authority");
        return Err(AccessError { place, reason: NO_CERTIFICATE.into() });
    }
    // kube takes the environment's proxy and not its exceptions; a node's API server is asked directly.
    config.proxy_url = None;
    Ok(config)
}

/// What is wrong in a kubeconfig, with the field.
fn wrong(place: &str, error: &KubeconfigError) -> AccessError {
    let field = |name: &str, reason: String| AccessError { place: format!("{place}: {name}"), reason };
    match error {
        KubeconfigError::ReadConfig(error, _) => AccessError { place: place.into(), reason: error.to_string() },
        KubeconfigError::Parse(error) => {
            let reason = crate::watch::brief(&error.to_string());
            AccessError { place: place.into(), reason: reason.trim_start_matches("error: ").into() }
        }
        KubeconfigError::CurrentContextNotSet => field("current-context", "missing".into()),
        KubeconfigError::LoadContext(name) => field("current-context", format!("no context is called `{name}`")),
        KubeconfigError::LoadClusterOfContext(name) => {
            field("contexts[].context.cluster", format!("no cluster is called `{name}`"))
        }
        KubeconfigError::MissingClusterUrl => field("clusters[].cluster.server", "missing".into()),
        KubeconfigError::ParseClusterUrl(error) => field("clusters[].cluster.server", error.to_string()),
        KubeconfigError::LoadCertificateAuthority(error) => {
            field("clusters[].cluster.certificate-authority", causes(error))
        }
        KubeconfigError::ParseCertificates(error) => field("clusters[].cluster.certificate-authority", causes(error)),
        KubeconfigError::LoadClientCertificate(error) => field("users[].user.client-certificate", causes(error)),
        KubeconfigError::LoadClientKey(error) => field("users[].user.client-key", causes(error)),
        other => AccessError { place: place.into(), reason: causes(other) },
    }
}

/// An error with its causes, the innermost last, none of them twice.
pub(crate) fn causes(error: &dyn Error) -> String {
    let mut texts: Vec<String> = vec![];
    let mut next = Some(error);
    while let Some(error) = next {
        let text = display(error);
        // Many errors show their cause as well.
        match texts.last_mut() {
            Some(last) if last.ends_with(&text) => {}
            _ => texts.push(text),
        }
        next = error.source();
    }
    texts.join(": ")
}

fn display(error: &dyn Display) -> String {
    crate::watch::brief(&error.to_string())
}
