//! The server: its calls, its clock, and what it wants done.

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;

use fairway_decode::documents;
use fairway_objects::{Delta, Protocol};
use ipnet::IpNet;
use serde_json::{Value, json};

use crate::Time;
use crate::apply::{Action, Applied, ApplyError, merge, three_way};
use crate::misbehave::Misbehaviour;
use crate::pods::Pods;
use crate::store::{Store, cluster_scoped, key, text};
use crate::watch::{WatcherId, Watchers};

/// How fast the cluster is, and what it gives out. Ranges are drawn from the seed, both ends included.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiConfig {
    /// Service cluster IP ranges, one per family, the primary family first.
    pub service_cidrs: Vec<IpNet>,
    /// Node ports, both ends included.
    pub node_port_range: (u16, u16),
    /// From a change to its notification, in ms.
    pub lag_ms: (u32, u32),
    /// From a pod being scheduled to its start, in ms.
    pub pod_start_ms: (u32, u32),
    /// From a pod running to its first successful probe, in ms.
    pub probe_ms: (u32, u32),
    /// From a node's last heartbeat to its condition Ready=Unknown, in seconds.
    pub node_grace_s: u32,
    /// From then to the eviction of its pods, in seconds.
    pub eviction_s: u32,
    /// When the cluster began, in seconds since 1970.
    pub epoch_s: u64,
    /// Whether a Node object that a client makes has a kubelet behind it. Otherwise only registered nodes have.
    pub adopt_nodes: bool,
}

/// The start of 2026 in seconds since 1970, when a simulated cluster begins unless told otherwise.
const EPOCH_S: u64 = 1_767_225_600;

impl Default for ApiConfig {
    fn default() -> Self {
        ApiConfig {
            service_cidrs: vec![IpNet::new_assert(IpAddr::from([10, 96, 0, 0]), 12)],
            node_port_range: (30_000, 32_767),
            lag_ms: (5, 60),
            pod_start_ms: (200, 1000),
            probe_ms: (100, 500),
            node_grace_s: 40,
            eviction_s: 300,
            epoch_s: EPOCH_S,
            adopt_nodes: false,
        }
    }
}

/// A node that joins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeSpec {
    /// Its name.
    pub name: String,
    /// `status.addresses` of type InternalIP.
    pub internal_ips: Vec<IpAddr>,
    /// `spec.podCIDRs`
    pub pod_cidrs: Vec<IpNet>,
}

/// Why a call was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ApiError {
    /// No such object.
    #[error("{kind} {name} not found")]
    NotFound {
        /// Kind asked for.
        kind: String,
        /// Namespace and name asked for.
        name: String,
    },
    /// An object of this name exists.
    #[error("{kind} {name} already exists")]
    AlreadyExists {
        /// Kind of the object.
        kind: String,
        /// Its name.
        name: String,
    },
    /// The object is not the one, or not in the state, that the client expects.
    #[error("Operation cannot be fulfilled on {kind} {name}: {reason}")]
    Conflict {
        /// Kind of the object.
        kind: String,
        /// Its name.
        name: String,
        /// What differs.
        reason: String,
    },
    /// The object cannot be as the client wants it.
    #[error("{kind} {name} is invalid: {field}: {reason}")]
    Invalid {
        /// Kind of the object.
        kind: String,
        /// Its name.
        name: String,
        /// Path of the wrong field.
        field: String,
        /// What is wrong with it.
        reason: String,
    },
}

/// What every namespace has.
fn default_namespace(name: &str, value: &mut Value) {
    if !value.get("status").is_some_and(Value::is_object) {
        value["status"] = json!({"phase": "Active"});
    }
    merge(value, &json!({"metadata": {"labels": {"kubernetes.io/metadata.name": name}}}));
}

/// A port of a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContainerPort {
    /// `name`; may be empty.
    pub name: String,
    /// `protocol`
    pub protocol: Protocol,
    /// `containerPort`
    pub port: u16,
}

/// A pod that the kubelet of its node should start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodStart {
    /// Namespace.
    pub namespace: String,
    /// Name, which is also its host name.
    pub name: String,
    /// Its node.
    pub node: String,
    /// Its addresses with the pod CIDR's prefix length, in the order of the node's pod CIDRs.
    pub ips: Vec<IpNet>,
    /// Gateways: the first address of each pod CIDR, in the same order.
    pub gateway: Vec<IpAddr>,
    /// Ports of all containers.
    pub ports: Vec<ContainerPort>,
    /// Image of the first container.
    pub image: String,
    /// Arguments of the first container.
    pub args: Vec<String>,
}

/// What the server wants done. Drained with [`Api::poll`] after each call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// A watcher hears of changes.
    Deliver {
        /// Which watcher.
        watcher: WatcherId,
        /// What it hears.
        deltas: Vec<Delta>,
    },
    /// Start a pod; answered by [`Api::pod_started`].
    StartPod(PodStart),
    /// End a pod within the grace period; answered by [`Api::pod_stopped`].
    StopPod {
        /// Namespace.
        namespace: String,
        /// Name.
        name: String,
        /// Its node.
        node: String,
        /// How long it may take.
        grace: Time,
    },
}

/// Something that happens later by itself.
#[derive(Clone, Debug)]
pub(crate) enum Task {
    StartPod { namespace: String, name: String },
    Probe { namespace: String, name: String },
    Silent { node: String, since: Time },
    Evict { node: String, since: Time },
}

/// What is known of a node beside its object.
#[derive(Clone, Debug)]
pub(crate) struct NodeState {
    pub(crate) pod_cidrs: Vec<IpNet>,
    pub(crate) ready: bool,
    pub(crate) cordoned: bool,
    /// Its kubelet sends heartbeats.
    pub(crate) alive: bool,
    /// When that last changed.
    pub(crate) changed: Time,
}

/// The API server and the controllers of one cluster.
#[derive(Debug)]
pub struct Api {
    pub(crate) config: ApiConfig,
    pub(crate) store: Store,
    pub(crate) watchers: Watchers,
    pub(crate) rng: oorandom::Rand64,
    pub(crate) nodes: BTreeMap<String, NodeState>,
    pub(crate) pods: Pods,
    pub(crate) outputs: VecDeque<Output>,
    tasks: BTreeMap<(Time, u64), Task>,
    sequence: u64,
}

impl Api {
    /// An empty cluster with the namespaces every cluster has.
    pub fn new(config: ApiConfig, seed: u64) -> Self {
        let mut api = Api {
            store: Store::new(config.epoch_s),
            config,
            watchers: Watchers::new(seed),
            rng: oorandom::Rand64::new(u128::from(seed)),
            nodes: BTreeMap::new(),
            pods: Pods::default(),
            outputs: VecDeque::new(),
            tasks: BTreeMap::new(),
            sequence: 0,
        };
        for name in ["default", "kube-system"] {
            let mut value = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
            default_namespace(name, &mut value);
            api.store_value(Time::ZERO, &key("Namespace", "", name), value);
        }
        api
    }

    pub(crate) fn at(&mut self, at: Time, task: Task) {
        self.tasks.insert((at, self.sequence), task);
        self.sequence += 1;
    }

    /// A node joins, its kubelet alive.
    pub fn register_node(&mut self, now: Time, spec: NodeSpec) {
        let addresses: Vec<Value> =
            spec.internal_ips.iter().map(|ip| json!({"type": "InternalIP", "address": ip.to_string()})).collect();
        let cidrs: Vec<String> = spec.pod_cidrs.iter().map(IpNet::to_string).collect();
        let mut value = json!({
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {"name": spec.name, "labels": {"kubernetes.io/hostname": spec.name}},
            "spec": {"podCIDRs": cidrs},
            "status": {"addresses": addresses, "conditions": [{"type": "Ready", "status": "True"}]},
        });
        if let Some(first) = cidrs.first() {
            value["spec"]["podCIDR"] = json!(first);
        }
        let state = NodeState { pod_cidrs: spec.pod_cidrs, ready: true, cordoned: false, alive: true, changed: now };
        self.nodes.insert(spec.name.clone(), state);
        self.store_value(now, &key("Node", "", &spec.name), value);
        self.schedule_all(now);
    }

    /// The kubelet of a node stops sending heartbeats, or sends them again.
    pub fn kubelet(&mut self, now: Time, name: &str, alive: bool) {
        let Some(node) = self.nodes.get_mut(name) else { return };
        if node.alive == alive {
            return;
        }
        node.alive = alive;
        node.changed = now;
        if alive {
            self.set_node_ready(now, name, true);
            return;
        }
        let grace = Time::from_secs(self.config.node_grace_s.into());
        let eviction = grace + Time::from_secs(self.config.eviction_s.into());
        self.at(now + grace, Task::Silent { node: name.into(), since: now });
        self.at(now + eviction, Task::Evict { node: name.into(), since: now });
    }

    /// `kubectl apply -f -`: every document is judged alone.
    pub fn apply(&mut self, now: Time, yaml: &str) -> Vec<Result<Applied, ApplyError>> {
        documents(yaml)
            .into_iter()
            .map(|document| {
                let error = |line, object, reason| ApplyError { document: document.number, line, object, reason };
                let value = document.value.map_err(|wrong| error(wrong.line, None, wrong.reason))?;
                self.apply_one(now, value).map_err(|(object, reason)| error(document.line, object, reason))
            })
            .collect()
    }

    fn apply_one(&mut self, now: Time, manifest: Value) -> Result<Applied, (Option<String>, String)> {
        let kind = text(&manifest, "/kind").ok_or((None, "`kind` is missing".to_string()))?.to_string();
        let name = text(&manifest, "/metadata/name").filter(|n| !n.is_empty());
        let name = name.ok_or((Some(kind.clone()), "`metadata.name` is missing".to_string()))?.to_string();
        let namespace = text(&manifest, "/metadata/namespace").unwrap_or_default();
        if text(&manifest, "/apiVersion").is_none() {
            return Err((Some(format!("{kind}/{name}")), "`apiVersion` is missing".into()));
        }
        let at = key(&kind, namespace, &name);
        let existing = self.store.get(&at);
        let created = existing.is_none();
        let last = existing.and_then(|s| s.applied.clone()).unwrap_or(Value::Null);
        let mut value = existing.map_or_else(|| json!({}), |s| (*s.value).clone());
        merge(&mut value, &three_way(&last, &manifest));
        let changed = self.write(now, &at, value, created);
        self.store.set_applied(&at, manifest);
        let action = match (created, changed) {
            (true, _) => Action::Created,
            (false, true) => Action::Configured,
            (false, false) => Action::Unchanged,
        };
        Ok(Applied { kind, namespace: at.1, name, action })
    }

    /// Stores what a client wrote, with defaults, and lets the controllers react.
    pub(crate) fn write(&mut self, now: Time, at: &crate::store::Key, mut value: Value, created: bool) -> bool {
        if !cluster_scoped(&at.0)
            && let Some(metadata) = value.get_mut("metadata").and_then(Value::as_object_mut)
        {
            metadata.insert("namespace".into(), json!(at.1));
        }
        self.defaults(at, &mut value);
        let changed = self.store_value(now, at, value);
        if changed {
            self.object_changed(now, at, created);
        }
        changed
    }

    /// Fills in what the server adds to an object that is about to be stored.
    pub(crate) fn defaults(&self, at: &crate::store::Key, value: &mut Value) {
        match at.0.as_str() {
            "Service" => self.default_service(at, value),
            "Namespace" => default_namespace(&at.2, value),
            _ => {}
        }
    }

    pub(crate) fn not_found(at: &crate::store::Key) -> ApiError {
        let name = if at.1.is_empty() { at.2.clone() } else { format!("{}/{}", at.1, at.2) };
        ApiError::NotFound { kind: at.0.clone(), name }
    }

    /// Deletes an object. A pod ends within its grace period.
    ///
    /// # Errors
    /// If there is none.
    pub fn delete(&mut self, now: Time, kind: &str, namespace: &str, name: &str) -> Result<(), ApiError> {
        let at = key(kind, namespace, name);
        if self.store.get(&at).is_none() {
            return Err(Self::not_found(&at));
        }
        match kind {
            "Pod" => self.delete_pod(now, &at.1, name),
            "Node" => self.delete_node(now, name),
            _ => {
                self.remove_value(now, &at);
                self.object_deleted(now, &at);
            }
        }
        Ok(())
    }

    /// JSON merge patch (RFC 7386).
    ///
    /// # Errors
    /// If there is no such object.
    pub fn patch_json(
        &mut self,
        now: Time,
        kind: &str,
        namespace: &str,
        name: &str,
        patch: Value,
    ) -> Result<(), ApiError> {
        let at = key(kind, namespace, name);
        let mut value = self.store.value(&at).cloned().ok_or_else(|| Self::not_found(&at))?;
        merge(&mut value, &patch);
        self.write(now, &at, value, false);
        Ok(())
    }

    /// `kubectl scale deployment`.
    ///
    /// # Errors
    /// If there is no such Deployment.
    pub fn scale(&mut self, now: Time, namespace: &str, deployment: &str, replicas: u32) -> Result<(), ApiError> {
        self.patch_json(now, "Deployment", namespace, deployment, json!({"spec": {"replicas": replicas}}))
    }

    /// `kubectl cordon` and `uncordon`.
    ///
    /// # Errors
    /// If there is no such node.
    pub fn cordon(&mut self, now: Time, node: &str, cordoned: bool) -> Result<(), ApiError> {
        let patch = json!({"spec": {"unschedulable": if cordoned { json!(true) } else { Value::Null }}});
        self.patch_json(now, "Node", "", node, patch)
    }

    /// `kubectl drain`: cordon, then evict every pod.
    ///
    /// # Errors
    /// If there is no such node.
    pub fn drain(&mut self, now: Time, node: &str) -> Result<(), ApiError> {
        self.cordon(now, node, true)?;
        for (namespace, pod) in self.pods_on(node) {
            self.delete_pod(now, &namespace, &pod);
        }
        Ok(())
    }

    /// Deletes the Node object; its pods are forgotten.
    pub fn delete_node(&mut self, now: Time, name: &str) {
        self.nodes.remove(name);
        self.remove_value(now, &key("Node", "", name));
        self.collect_pods(now, name);
    }

    /// One object.
    pub fn get(&self, kind: &str, namespace: &str, name: &str) -> Option<&Value> {
        self.store.value(&key(kind, namespace, name))
    }

    /// All objects of a kind, by namespace and name.
    pub fn list(&self, kind: &str) -> impl Iterator<Item = &Value> {
        self.store.of_kind(kind).map(|(_, stored)| &*stored.value)
    }

    /// A node's agent starts watching: it gets the lists of all kinds, then changes. Pods only of its node.
    pub fn watch(&mut self, now: Time, node: &str) -> WatcherId {
        let lag = self.draw_ms(self.config.lag_ms);
        self.watchers.add(now + lag, node)
    }

    /// The process of the server ends, or is there again: watchers hear nothing meanwhile, and find out after a while.
    /// What is stored, and the controllers, go on.
    pub fn reachable(&mut self, now: Time, yes: bool) {
        self.watchers.reachable(now, yes);
    }

    /// Whether the process of the server is there.
    pub const fn is_reachable(&self) -> bool {
        self.watchers.is_reachable()
    }

    /// Whether a watcher has no connection to the server.
    pub fn cut_off(&self, now: Time, watcher: WatcherId) -> bool {
        self.watchers.cut_off(now, watcher)
    }

    /// All watches are cut, and find their history gone: they list everything anew.
    pub fn cut_and_compact(&mut self, now: Time) {
        self.store.compact();
        self.watchers.compacted(now);
    }

    /// Watchers hear what comes out of a client of a server that misbehaves so. Stale lists need a history.
    pub fn misbehave(&mut self, how: Misbehaviour) {
        self.watchers.misbehave(how);
    }

    /// A watcher went away.
    pub fn unwatch(&mut self, watcher: WatcherId) {
        self.watchers.remove(watcher);
    }

    /// Whether a watcher has heard of everything so far.
    pub fn up_to_date(&self, watcher: WatcherId) -> bool {
        self.watchers.up_to_date(watcher)
    }

    /// Does what is due.
    pub fn handle(&mut self, now: Time) {
        while self.tasks.first_key_value().is_some_and(|((at, _), _)| *at <= now) {
            if let Some((_, task)) = self.tasks.pop_first() {
                self.task(now, task);
            }
        }
        for (watcher, deltas) in self.watchers.deliver(now, &self.store) {
            self.outputs.push_back(Output::Deliver { watcher, deltas });
        }
    }

    /// What is wanted next.
    pub fn poll(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When [`Api::handle`] is wanted.
    pub fn deadline(&self) -> Option<Time> {
        let task = self.tasks.first_key_value().map(|((at, _), _)| *at);
        task.into_iter().chain(self.watchers.deadline()).min()
    }
}
