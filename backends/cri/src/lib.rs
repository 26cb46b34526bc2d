//! The pods of this node and their network namespaces, as the container runtime knows them.
//!
//! For direct server return a service's address is put into the pod itself (kube-router's `--runtime-endpoint`). The
//! runtime is asked over the Kubernetes Container Runtime Interface, version 1, which sandboxes there are, and for each new
//! one where its namespace is: the path in its runtime spec, else `/proc/PID/ns/net`, which only who shares the node's
//! process namespace can use. What is known of a sandbox is kept until it is gone, so a question costs one request and one
//! more per new pod.
//!
//! Deliberately not here: what is done in a pod (`backends/route`), and Docker's own interface, which Kubernetes left.

use std::collections::BTreeMap;
use std::error::Error;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;
use tokio::runtime::Runtime;
use tonic::transport::{Channel, Endpoint};

use proto::runtime_service_client::RuntimeServiceClient;
use proto::{
    ListPodSandboxRequest, NamespaceMode, PodSandboxFilter, PodSandboxState, PodSandboxStateValue,
    PodSandboxStatusRequest, PodSandboxStatusResponse,
};

/// Generated from `proto/`.
#[allow(
    missing_docs,
    unreachable_pub,
    unused_qualifications,
    dead_code,
    clippy::all,
    clippy::unwrap_used,
    reason = "generated code"
)]
mod proto {
    tonic::include_proto!("runtime.v1");
}

/// How long the runtime may take for an answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// A pod that runs on this node, in a network namespace of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sandbox {
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// The file that stands for its network namespace.
    pub namespace: PathBuf,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
#[error("the container runtime at {endpoint} (--runtime-endpoint): {reason}")]
pub struct RuntimeError {
    endpoint: String,
    reason: String,
}

/// A container runtime. It blocks, and is used on a thread that may.
#[derive(Debug)]
pub struct ContainerRuntime {
    /// `unix:///PATH`
    endpoint: String,
    runtime: Runtime,
    /// `None` until it answered, and after it failed.
    client: Option<RuntimeServiceClient<Channel>>,
    /// By the id of the sandbox; `None` for one without a network namespace of its own, or without addresses.
    known: BTreeMap<String, Option<Sandbox>>,
}

/// The inmost cause: the outer ones only say that it failed.
fn cause(error: &dyn Error) -> String {
    let mut inner = error;
    while let Some(source) = inner.source() {
        inner = source;
    }
    inner.to_string()
}

fn said(status: tonic::Status) -> String {
    if status.message().is_empty() { cause(&status) } else { status.message().to_string() }
}

impl ContainerRuntime {
    /// The runtime at `unix:///PATH`. Nothing is asked yet, so it need not run.
    ///
    /// # Errors
    /// If the system gives no event queue.
    pub fn new(endpoint: &str) -> std::io::Result<ContainerRuntime> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        Ok(ContainerRuntime { endpoint: endpoint.into(), runtime, client: None, known: BTreeMap::new() })
    }

    /// The pods that are ready to run, in no order that means anything. Pods of the node's own network are not among them.
    ///
    /// # Errors
    /// If the runtime cannot be reached, refuses, or takes longer than five seconds for an answer.
    pub fn sandboxes(&mut self) -> Result<Vec<Sandbox>, RuntimeError> {
        let found = self.ask();
        if found.is_err() {
            self.client = None;
        }
        found.map_err(|reason| RuntimeError { endpoint: self.endpoint.clone(), reason })
    }

    fn ask(&mut self) -> Result<Vec<Sandbox>, String> {
        let mut client = match &self.client {
            Some(client) => client.clone(),
            None => {
                let endpoint = Endpoint::from_shared(self.endpoint.clone()).map_err(|error| cause(&error))?;
                let endpoint = endpoint.connect_timeout(PATIENCE).timeout(PATIENCE);
                let channel = self.runtime.block_on(endpoint.connect()).map_err(|error| cause(&error))?;
                RuntimeServiceClient::new(channel)
            }
        };
        let state = PodSandboxStateValue { state: PodSandboxState::SandboxReady.into() };
        let filter = Some(PodSandboxFilter { state: Some(state) });
        let list = self.runtime.block_on(client.list_pod_sandbox(ListPodSandboxRequest { filter })).map_err(said)?;
        let mut known = BTreeMap::new();
        for item in list.into_inner().items {
            let sandbox = match self.known.remove(&item.id) {
                Some(sandbox) => sandbox,
                None => {
                    let request = PodSandboxStatusRequest { pod_sandbox_id: item.id.clone(), verbose: true };
                    match self.runtime.block_on(client.pod_sandbox_status(request)) {
                        Ok(status) => match sandbox(status.into_inner()) {
                            // Its network is not there yet; it is asked again.
                            Found::Later => continue,
                            Found::Never => None,
                            Found::Here(sandbox) => Some(sandbox),
                        },
                        // It ended meanwhile.
                        Err(status) if status.code() == tonic::Code::NotFound => continue,
                        Err(status) => return Err(said(status)),
                    }
                }
            };
            known.insert(item.id, sandbox);
        }
        self.known = known;
        self.client = Some(client);
        Ok(self.known.values().flatten().cloned().collect())
    }
}

/// What a status says of a sandbox.
enum Found {
    /// Nothing yet.
    Later,
    /// That it is in the node's own network.
    Never,
    /// Where it is.
    Here(Sandbox),
}

fn sandbox(response: PodSandboxStatusResponse) -> Found {
    let Some(status) = response.status else { return Found::Later };
    let options = status.linux.and_then(|linux| linux.namespaces).and_then(|namespaces| namespaces.options);
    if options.is_some_and(|options| options.network == i32::from(NamespaceMode::Node)) {
        return Found::Never;
    }
    let network = status.network.unwrap_or_default();
    let more = network.additional_ips.iter().map(|more| more.ip.as_str());
    let addresses: Vec<IpAddr> =
        std::iter::once(network.ip.as_str()).chain(more).filter_map(|ip| ip.parse().ok()).collect();
    let info = response.info.get("info").and_then(|text| serde_json::from_str::<Value>(text).ok());
    match info.as_ref().and_then(namespace) {
        Some(namespace) if !addresses.is_empty() => Found::Here(Sandbox { addresses, namespace }),
        _ => Found::Later,
    }
}

/// Where the network namespace is, as containerd and CRI-O say it.
fn namespace(info: &Value) -> Option<PathBuf> {
    let namespaces = info.pointer("/runtimeSpec/linux/namespaces").and_then(Value::as_array);
    let network = namespaces.and_then(|all| all.iter().find(|one| one["type"] == "network"));
    let path = network.and_then(|one| one["path"].as_str()).filter(|path| path.starts_with('/'));
    let pid = || info["pid"].as_u64().filter(|pid| *pid > 0).map(|pid| format!("/proc/{pid}/ns/net"));
    path.map(ToString::to_string).or_else(pid).map(PathBuf::from)
}
