//! The API server of a scenario, asked in the words of a scenario.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use fairway_api::{Api, ApiConfig, Misbehaviour, NodeSpec};
use fairway_scenario::{EndpointState, Fault, NoticeLine, PodPick, Scenario, StageError, Target, Topology};
use serde_json::Value;

use crate::{ConfigError, Time};

/// The Kubernetes side of a scenario.
///
/// The stage drains [`Cluster::api`] after each call that may change an object.
#[derive(Debug)]
pub struct Cluster {
    /// The API server with its controllers. A stage that serves it to clients shares it with them.
    api: Arc<Mutex<Api>>,
    /// Documents that it could not read; they stand as notices.
    unread: Vec<NoticeLine>,
}

impl Cluster {
    /// An API server with the address ranges and the timing of a scenario. It knows no node yet.
    pub fn new(scenario: &Scenario, seed: u64) -> Self {
        let timing = &scenario.timing;
        let ms = |t: Time| u32::try_from(t.as_millis()).unwrap_or(u32::MAX);
        let s = |t: Time| u32::try_from(t.as_secs()).unwrap_or(u32::MAX);
        let config = ApiConfig {
            service_cidrs: scenario.services.cidrs.clone(),
            lag_ms: (ms(timing.watch_lag.min), ms(timing.watch_lag.max)),
            pod_start_ms: (ms(timing.pod_start.min), ms(timing.pod_start.max)),
            probe_ms: (ms(timing.probe.min), ms(timing.probe.max)),
            node_grace_s: s(timing.node_grace),
            eviction_s: s(timing.eviction),
            ..ApiConfig::default()
        };
        Cluster { api: Arc::new(Mutex::new(Api::new(config, seed))), unread: vec![] }
    }

    /// The API server. Nobody else gets at it until this is dropped.
    pub fn api(&self) -> MutexGuard<'_, Api> {
        self.api.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The API server, for whoever serves it to clients.
    pub fn shared(&self) -> Arc<Mutex<Api>> {
        Arc::clone(&self.api)
    }

    /// The kubelet of a node makes its Node object.
    ///
    /// # Errors
    /// If labels or annotations are refused.
    pub fn register_node(&mut self, now: Time, topology: &Topology, name: &str) -> Result<(), ConfigError> {
        let Some(node) = topology.nodes.get(name) else { return Ok(()) };
        // The kubelet reports one internal address per family: the first of each.
        let all: Vec<IpAddr> = node.addresses.values().flatten().copied().collect();
        let v4 = all.iter().find(|a| a.is_ipv4());
        let v6 = all.iter().find(|a| a.is_ipv6());
        let internal_ips = match (all.first().is_some_and(IpAddr::is_ipv6), v4, v6) {
            (true, v4, v6) => v6.into_iter().chain(v4).copied().collect(),
            (false, v4, v6) => v4.into_iter().chain(v6).copied().collect(),
        };
        self.api().register_node(now, NodeSpec { name: name.into(), internal_ips, pod_cidrs: node.pod_cidrs.clone() });
        self.api().kubelet(now, name, true);
        if !node.labels.is_empty() || !node.annotations.is_empty() {
            let merge = serde_json::json!({"metadata": {"labels": node.labels, "annotations": node.annotations}});
            self.api()
                .patch_json(now, "Node", "", name, merge)
                .map_err(|e| ConfigError::Node { node: name.into(), message: e.to_string() })?;
        }
        Ok(())
    }

    /// Applies the objects that exist from the start.
    ///
    /// # Errors
    /// A file in which nothing could be read.
    pub fn apply_all(&mut self, now: Time, scenario: &Scenario) -> Result<(), ConfigError> {
        for objects in &scenario.objects {
            self.apply(now, &objects.name, &objects.yaml)
                .map_err(|error| ConfigError::Objects { file: objects.name.clone(), message: error.to_string() })?;
        }
        Ok(())
    }

    /// `kubectl apply -f`: one line for each document. Those that cannot be read become lines and notices.
    ///
    /// # Errors
    /// If nothing could be read.
    pub fn apply(&mut self, now: Time, file: &str, yaml: &str) -> Result<Vec<String>, StageError> {
        let mut lines = vec![];
        let mut refused = vec![];
        let results = self.api().apply(now, yaml);
        for result in results {
            match result {
                Ok(applied) => lines.push(applied.to_string()),
                Err(error) => refused.push(format!("{file}: {error}")),
            }
        }
        if lines.is_empty() && !refused.is_empty() {
            return Err(StageError::Refused(refused.join("\n")));
        }
        for error in refused {
            lines.push(format!("error: {error}"));
            self.unread.push(NoticeLine {
                host: "kubectl".into(),
                subject: file.into(),
                field: String::new(),
                reason: error,
            });
        }
        Ok(lines)
    }

    /// Documents that could not be read.
    pub fn unread(&self) -> &[NoticeLine] {
        &self.unread
    }

    /// `kubectl delete`
    ///
    /// # Errors
    /// The API server's refusal.
    pub fn delete(&mut self, now: Time, kind: &str, namespace: &str, name: &str) -> Result<(), StageError> {
        self.api().delete(now, kind, namespace, name).map_err(refused)
    }

    /// `kubectl scale deployment`
    ///
    /// # Errors
    /// The API server's refusal.
    pub fn scale(&mut self, now: Time, namespace: &str, name: &str, replicas: u32) -> Result<(), StageError> {
        self.api().scale(now, namespace, name, replicas).map_err(refused)
    }

    /// `kubectl patch --type=merge`
    ///
    /// # Errors
    /// The API server's refusal.
    pub fn patch(
        &mut self,
        now: Time,
        kind: &str,
        namespace: &str,
        name: &str,
        merge: &Value,
    ) -> Result<(), StageError> {
        self.api().patch_json(now, kind, namespace, name, merge.clone()).map_err(refused)
    }

    /// Carries out a fault that is about objects alone, and says in one line what was done; `None` for all others.
    /// `running` are the pods that run now: namespace, name, node.
    ///
    /// # Errors
    /// The API server's refusal, or no pod that matches.
    pub fn fault(
        &mut self,
        now: Time,
        fault: &Fault,
        running: &[(String, String, String)],
    ) -> Result<Option<String>, StageError> {
        let said = match fault {
            Fault::Drain(name) => {
                self.api().drain(now, name).map_err(refused)?;
                format!("node/{name} drained")
            }
            Fault::Cordon(name) => {
                self.api().cordon(now, name, true).map_err(refused)?;
                format!("node/{name} cordoned")
            }
            Fault::Uncordon(name) => {
                self.api().cordon(now, name, false).map_err(refused)?;
                format!("node/{name} uncordoned")
            }
            Fault::DeleteNode(name) => {
                self.api().delete_node(now, name);
                format!("node/{name} deleted")
            }
            Fault::DeletePod(pick) => {
                let pods = pick_pods(pick, running)?;
                for (namespace, name) in &pods {
                    self.api().delete(now, "Pod", namespace, name).map_err(refused)?;
                }
                format!("deleted {}", names(&pods))
            }
            Fault::NotReady(pick) | Fault::Ready(pick) => {
                let ready = matches!(fault, Fault::Ready(_));
                let pods = pick_pods(pick, running)?;
                for (namespace, name) in &pods {
                    self.api().pod_ready(now, namespace, name, ready);
                }
                format!("{} {}", names(&pods), if ready { "passes its probe again" } else { "fails its probe" })
            }
            _ => return Ok(None),
        };
        Ok(Some(said))
    }

    /// A node that boots: its kubelet reports again, and the pods it had are gone.
    pub fn node_booted(&mut self, now: Time, name: &str) {
        self.api().kubelet(now, name, true);
        let lost: Vec<(String, String)> = self
            .api()
            .list("Pod")
            .filter(|pod| pod.pointer("/spec/nodeName").and_then(Value::as_str) == Some(name))
            .filter_map(|pod| {
                let text = |path: &str| pod.pointer(path).and_then(Value::as_str).map(String::from);
                Some((text("/metadata/namespace")?, text("/metadata/name")?))
            })
            .collect();
        for (namespace, pod) in lost {
            self.api().pod_stopped(now, &namespace, &pod);
        }
    }

    /// Endpoints of a service as the EndpointSlices have them, by address.
    pub fn endpoints(&self, namespace: &str, service: &str) -> Vec<EndpointState> {
        let mut endpoints = vec![];
        let api = self.api();
        for slice in api.list("EndpointSlice") {
            let of = slice.pointer("/metadata/labels/kubernetes.io~1service-name").and_then(Value::as_str);
            if of != Some(service) || slice.pointer("/metadata/namespace").and_then(Value::as_str) != Some(namespace) {
                continue;
            }
            for endpoint in slice.pointer("/endpoints").and_then(Value::as_array).into_iter().flatten() {
                let text = |path: &str| endpoint.pointer(path).and_then(Value::as_str).unwrap_or_default().to_string();
                let Ok(address) = text("/addresses/0").parse() else { continue };
                endpoints.push(EndpointState {
                    pod: text("/targetRef/name"),
                    node: text("/nodeName"),
                    address,
                    ready: endpoint.pointer("/conditions/ready").and_then(Value::as_bool).unwrap_or(true),
                });
            }
        }
        endpoints.sort_by_key(|a| a.address);
        endpoints
    }

    /// The address a target means now.
    ///
    /// # Errors
    /// If there is no such service or pod, or it has no address of the family.
    pub fn resolve(&self, target: &Target) -> Result<SocketAddr, StageError> {
        let api = self.api();
        let (object, list, key, port, ipv6) = match target {
            Target::Socket(address) => return Ok(*address),
            Target::Service { namespace, name, port, ipv6 } => {
                let service = api.get("Service", namespace, name);
                let service = service.ok_or_else(|| StageError::NotFound(format!("Service {namespace}/{name}")))?;
                (service, "/spec/clusterIPs", "", port, ipv6)
            }
            Target::Pod { namespace, name, port, ipv6 } => {
                let first = api.list("Pod").find(|pod| {
                    let text = |path: &str| pod.pointer(path).and_then(Value::as_str);
                    text("/metadata/namespace") == Some(namespace)
                        && text("/metadata/name").is_some_and(|n| n.starts_with(name.as_str()))
                        && text("/status/podIP").is_some()
                });
                let pod = first.ok_or_else(|| StageError::NotFound(format!("a running pod: {target}")))?;
                (pod, "/status/podIPs", "/ip", port, ipv6)
            }
        };
        let addresses = object.pointer(list).and_then(Value::as_array).into_iter().flatten();
        addresses
            .filter_map(|ip| ip.pointer(key)?.as_str()?.parse::<IpAddr>().ok())
            .find(|ip| ip.is_ipv6() == *ipv6)
            .map(|ip| (ip, *port).into())
            .ok_or_else(|| StageError::NotFound(format!("an address of that family: {target}")))
    }
}

/// Running pods that match, by name.
fn pick_pods(pick: &PodPick, running: &[(String, String, String)]) -> Result<Vec<(String, String)>, StageError> {
    let matching = running.iter().filter(|(namespace, name, node)| {
        let here = pick.on.as_ref().is_none_or(|on| on == node);
        let named = pick.name.as_ref().is_none_or(|prefix| name.starts_with(prefix.as_str()));
        *namespace == pick.namespace && here && named
    });
    let mut found: Vec<_> = matching.map(|(namespace, name, _)| (namespace.clone(), name.clone())).collect();
    found.truncate(pick.count.unwrap_or(usize::MAX));
    if found.is_empty() {
        return Err(StageError::NotFound(format!("a running pod that matches {pick:?}")));
    }
    Ok(found)
}

/// Misbehaviour of a scenario, in the words of the API server.
pub fn misbehaviour(how: &fairway_scenario::Misbehaviour) -> Misbehaviour {
    let chance = |percent: u32| f64::from(percent) / 100.0;
    Misbehaviour {
        slow: how.slow,
        reorder: how.reorder,
        disconnect: chance(how.disconnect),
        stale: chance(how.stale),
        duplicate: chance(how.duplicate),
        too_many: chance(how.too_many),
        internal: chance(how.internal),
        gone: chance(how.gone),
    }
}

fn refused(error: impl std::fmt::Display) -> StageError {
    StageError::Refused(error.to_string())
}

fn names(pods: &[(String, String)]) -> String {
    pods.iter().map(|(_, name)| format!("pod/{name}")).collect::<Vec<_>>().join(", ")
}
