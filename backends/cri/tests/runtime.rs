//! Against a runtime that is made for the test, on a socket of its own.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use fairway_backend_cri::{ContainerRuntime, Sandbox};
use tokio_stream::wrappers::UnixListenerStream;
use tonic::{Request, Response, Status};

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
use proto::runtime_service_server::{RuntimeService, RuntimeServiceServer};
use proto::{
    LinuxPodSandboxStatus, ListPodSandboxRequest, ListPodSandboxResponse, Namespace, NamespaceMode, NamespaceOption,
    PodIp, PodSandbox, PodSandboxNetworkStatus, PodSandboxStatus, PodSandboxStatusRequest, PodSandboxStatusResponse,
};

/// What the runtime has, and how often it was asked about a sandbox.
#[derive(Default)]
struct State {
    sandboxes: BTreeMap<String, PodSandboxStatusResponse>,
    /// Listed, but gone when it is asked for.
    ending: Vec<String>,
    asked: Vec<String>,
}

struct Runtime(Arc<Mutex<State>>);

#[tonic::async_trait]
impl RuntimeService for Runtime {
    async fn list_pod_sandbox(
        &self,
        request: Request<ListPodSandboxRequest>,
    ) -> Result<Response<ListPodSandboxResponse>, Status> {
        let state = request.into_inner().filter.and_then(|filter| filter.state).expect("a filter");
        assert_eq!(state.state, 0, "only those that are ready");
        let state = self.0.lock().expect("not poisoned");
        let items = state.sandboxes.keys().chain(&state.ending).map(|id| PodSandbox { id: id.clone() }).collect();
        Ok(Response::new(ListPodSandboxResponse { items }))
    }

    async fn pod_sandbox_status(
        &self,
        request: Request<PodSandboxStatusRequest>,
    ) -> Result<Response<PodSandboxStatusResponse>, Status> {
        let request = request.into_inner();
        assert!(request.verbose);
        let mut state = self.0.lock().expect("not poisoned");
        state.asked.push(request.pod_sandbox_id.clone());
        let found = state.sandboxes.get(&request.pod_sandbox_id).cloned();
        found.map(Response::new).ok_or_else(|| Status::not_found("no such sandbox"))
    }
}

/// Serves until it is dropped.
struct Served {
    folder: PathBuf,
    runtime: Option<tokio::runtime::Runtime>,
}

impl Served {
    fn start(name: &str, state: Arc<Mutex<State>>) -> Served {
        let folder = std::env::temp_dir().join(format!("fairway-cri-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("a folder");
        let path = folder.join("sock");
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        let listener = runtime.block_on(async { tokio::net::UnixListener::bind(path) }).expect("a socket");
        let service = RuntimeServiceServer::new(Runtime(state));
        let serving = tonic::transport::Server::builder().add_service(service);
        runtime.spawn(serving.serve_with_incoming(UnixListenerStream::new(listener)));
        Served { folder, runtime: Some(runtime) }
    }

    fn endpoint(&self) -> String {
        format!("unix://{}", self.folder.join("sock").display())
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
        let _left = std::fs::remove_dir_all(&self.folder);
    }
}

fn status(addresses: &[&str], mode: NamespaceMode, info: &str) -> PodSandboxStatusResponse {
    let ip = addresses.first().copied().unwrap_or_default().to_string();
    let additional_ips = addresses.iter().skip(1).map(|ip| PodIp { ip: ip.to_string() }).collect();
    let options = Some(NamespaceOption { network: mode.into() });
    PodSandboxStatusResponse {
        status: Some(PodSandboxStatus {
            id: "id".into(),
            network: Some(PodSandboxNetworkStatus { ip, additional_ips }),
            linux: Some(LinuxPodSandboxStatus { namespaces: Some(Namespace { options }) }),
        }),
        info: HashMap::from([("info".to_string(), info.to_string())]),
    }
}

fn sandbox(addresses: &[&str], namespace: &str) -> Sandbox {
    let addresses: Vec<IpAddr> = addresses.iter().map(|ip| ip.parse().expect("an address")).collect();
    Sandbox { addresses, namespace: namespace.into() }
}

const SPEC: &str = r#"{"pid": 77, "runtimeSpec": {"linux": {"namespaces": [{"type": "pid"}, {"type": "network", "path": "/run/netns/a"}]}}}"#;

#[test]
fn pods_are_found_and_asked_about_once() {
    let state = Arc::new(Mutex::new(State::default()));
    let change = |what: &dyn Fn(&mut State)| what(&mut state.lock().expect("not poisoned"));
    let asked = || std::mem::take(&mut state.lock().expect("not poisoned").asked);
    let served = Served::start("found", Arc::clone(&state));
    let mut runtime = ContainerRuntime::new(&served.endpoint()).expect("a runtime");
    let mut look = || runtime.sandboxes().expect("an answer");
    assert_eq!(look(), vec![]);
    change(&|state| {
        let pod = |addresses: &[&str], info: &str| status(addresses, NamespaceMode::Pod, info);
        state.sandboxes.insert("a".into(), pod(&["11.0.1.5", "fd00::5"], SPEC));
        // CRI-O may say the process only, and where the node's processes are seen that is enough.
        state.sandboxes.insert("b".into(), pod(&["11.0.1.6"], r#"{"pid": 78}"#));
        state.sandboxes.insert("node".into(), status(&["10.0.0.1"], NamespaceMode::Node, SPEC));
        state.sandboxes.insert("early".into(), pod(&[], SPEC));
        state.sandboxes.insert("odd".into(), pod(&["11.0.1.9"], "no JSON"));
        state.ending.push("gone".into());
    });
    let both = vec![sandbox(&["11.0.1.5", "fd00::5"], "/run/netns/a"), sandbox(&["11.0.1.6"], "/proc/78/ns/net")];
    assert_eq!(look(), both);
    assert_eq!(asked(), ["a", "b", "early", "node", "odd", "gone"]);
    // What is known is not asked again, what was not ready is.
    change(&|state| state.ending.clear());
    assert_eq!(look(), both);
    assert_eq!(asked(), ["early", "odd"]);
    change(&|state| {
        state.sandboxes.remove("a");
        state.sandboxes.insert("early".into(), status(&["11.0.1.7"], NamespaceMode::Pod, SPEC));
    });
    assert_eq!(look(), vec![sandbox(&["11.0.1.6"], "/proc/78/ns/net"), sandbox(&["11.0.1.7"], "/run/netns/a")]);
}

#[test]
fn a_runtime_that_is_away_is_named_and_found_again() {
    let state = Arc::new(Mutex::new(State::default()));
    let served = Served::start("away", Arc::clone(&state));
    let mut runtime = ContainerRuntime::new(&served.endpoint()).expect("a runtime");
    assert!(runtime.sandboxes().is_ok());
    let endpoint = served.endpoint();
    drop(served);
    // The connection that was there may break first.
    let refused = (0..10).find_map(|_| runtime.sandboxes().err()).expect("nobody is there").to_string();
    assert!(refused.starts_with(&format!("the container runtime at {endpoint} (--runtime-endpoint): ")), "{refused}");
    let served = Served::start("away", state);
    assert_eq!(served.endpoint(), endpoint);
    assert!((0..10).any(|_| runtime.sandboxes().is_ok()));
}
