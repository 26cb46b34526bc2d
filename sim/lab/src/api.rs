//! The API server of the lab over HTTP, and the clients of its nodes.
//!
//! Server and clients are in the network namespace of the lab itself, on its loopback: that is the management network,
//! which no fault on the hosts' links can touch. What the nodes get from it goes the way it goes in production: list and
//! watch over HTTP, decoded by `backends/kube`.

use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use fairway_agent::{Input, watched};
use fairway_api::Api;
use fairway_apiserver::{Kubelets, Options, Running, Server};
use fairway_backend_kube::{Access, Cluster, Health, Start, Tell, Watched, Writer};
use fairway_node::{Command, Node};
use fairway_objects::{Kind, NodeConfig};
use fairway_scenario::ApiServer;
use fairway_stage::misbehaviour;

use crate::host::setup_here;

/// How often a watch is told how far it is. Much more often than by a real server, so that a node which is behind is
/// told from one that has heard everything.
const BOOKMARK: Duration = Duration::from_secs(2);

/// The API server, and where it listens.
pub(crate) struct Serving {
    pub(crate) server: Server,
    address: SocketAddr,
    /// `None` while it cannot be reached.
    running: Option<Running>,
}

impl std::fmt::Debug for Serving {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Serving").field("address", &self.address).finish_non_exhaustive()
    }
}

impl Serving {
    /// Serves a cluster that began at `epoch`. The lab keeps its clock and runs its pods.
    pub(crate) fn start(api: Arc<Mutex<Api>>, epoch: Instant, seed: u64) -> io::Result<Serving> {
        // The lab looks at the cluster every few milliseconds, so nobody needs to be woken.
        let kubelets = Kubelets::Elsewhere(Box::new(|| {}));
        let options = Options { kubelets, bookmark: BOOKMARK, seed, ..Options::default() };
        let server = Server::new(api, epoch, options);
        setup_here()?.set_up("lo", true).map_err(io::Error::other)?;
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let address = listener.local_addr()?;
        let running = Some(Running::start(server.clone(), listener)?);
        Ok(Serving { server, address, running })
    }

    /// What clients are told.
    fn access(&self) -> Access {
        Access {
            master: Some(format!("http://{}", self.address)),
            kubeconfig: None,
            service_account: PathBuf::new(),
            in_cluster: None,
        }
    }

    /// Something happens to the server.
    pub(crate) fn happens(&mut self, how: &ApiServer) -> io::Result<()> {
        match how {
            ApiServer::Unreachable => self.reachable(false)?,
            ApiServer::Reachable => self.reachable(true)?,
            ApiServer::Compacted => {
                self.server.api().compact();
                self.server.disconnect();
            }
            ApiServer::Misbehaves(how) => self.server.misbehave(misbehaviour(how)),
        }
        Ok(())
    }

    /// The process of the server ends as if killed, or starts again; its store stays.
    fn reachable(&mut self, yes: bool) -> io::Result<()> {
        match (yes, self.running.is_some()) {
            (true, false) => {
                let listener = TcpListener::bind(self.address)?;
                self.running = Some(Running::start(self.server.clone(), listener)?);
            }
            (false, true) => self.running = None,
            _ => {}
        }
        Ok(())
    }

    /// The watches of a node begin, and its agent gets what they tell; what it writes is carried.
    pub(crate) fn follow(&self, config: &NodeConfig, seed: u64, node: &Node, notices: Tell) -> io::Result<Watching> {
        let watched = watched(config).iter().map(|kind| Watched { kind: *kind, field_selector: None }).collect();
        let start = Start { access: self.access(), watched, seed, notices };
        let (cluster, mut inbox) = Cluster::start(start).map_err(io::Error::other)?;
        let answer = node.inputs();
        // An agent that is gone wants no answers.
        let tell = Box::new(move |said| drop(answer(Input::Api(said))));
        let writer = Writer::start(self.access(), tell).map_err(io::Error::other)?;
        node.send(Command::Writes(Box::new(writer.requests()))).map_err(io::Error::other)?;
        let input = node.inputs();
        let passed = Arc::new(AtomicU64::new(0));
        let count = Arc::clone(&passed);
        // It ends when the watches do, or when the agent is gone.
        std::thread::Builder::new().name(format!("objects {}", config.node_name)).spawn(move || {
            while let Some(delta) = inbox.recv() {
                if input(Input::Delta(delta)).is_err() {
                    return;
                }
                count.fetch_add(1, Ordering::SeqCst);
            }
        })?;
        Ok(Watching { cluster, passed, writer })
    }
}

/// The watches of one node.
#[derive(Debug)]
pub(crate) struct Watching {
    cluster: Cluster,
    /// Deltas that its agent got.
    passed: Arc<AtomicU64>,
    /// Carries what its agent writes.
    writer: Writer,
}

impl Watching {
    /// The watches end; what the agent writes as its last is still carried.
    pub(crate) fn end(self) -> Writer {
        self.writer
    }

    /// Whether its agent was told of every change so far.
    pub(crate) fn up_to_date(&self, api: &Api) -> bool {
        let last: BTreeMap<Kind, u64> = Kind::ALL.iter().map(|kind| (*kind, api.version_of(kind.as_str()))).collect();
        heard(&self.cluster.health(), self.passed.load(Ordering::SeqCst), &last)
    }
}

/// Whether clients that are as healthy as this, and of which the agent got so many deltas, know these versions.
fn heard(health: &Health, passed: u64, last: &BTreeMap<Kind, u64>) -> bool {
    let told: u64 = health.kinds.values().map(|kind| kind.told).sum();
    let known = |(kind, last): (&Kind, &u64)| {
        let Some(health) = health.kinds.get(kind) else { return true };
        health.version.parse::<u64>().is_ok_and(|version| version >= *last)
    };
    told == passed && last.iter().all(known)
}

#[cfg(test)]
mod tests {
    use fairway_backend_kube::KindHealth;

    use super::*;

    #[test]
    fn a_node_has_heard_everything_when_each_kind_is_told_and_passed_on() {
        let kind = |told, version: &str| KindHealth { told, version: version.into(), ..KindHealth::default() };
        let health = Health { kinds: BTreeMap::from([(Kind::Service, kind(3, "17")), (Kind::Node, kind(2, "9"))]) };
        let last = |service, node| BTreeMap::from([(Kind::Service, service), (Kind::Node, node), (Kind::Pod, 99)]);
        assert!(heard(&health, 5, &last(17, 9)));
        assert!(heard(&health, 5, &last(12, 3)));
        assert!(!heard(&health, 5, &last(18, 9)), "a change of a service is under way");
        assert!(!heard(&health, 4, &last(17, 9)), "a delta waits for the agent");
        let unlisted = Health { kinds: BTreeMap::from([(Kind::Service, kind(0, ""))]) };
        assert!(!heard(&unlisted, 0, &last(0, 0)), "nothing was listed yet");
    }
}
