//! Pods: scheduling, addresses, and the life the kubelet and the Deployment give them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use fairway_objects::Protocol;
use ipnet::IpNet;
use serde_json::{Value, json};

use crate::api::{Api, Output, PodStart, Task};
use crate::services::nth;
use crate::store::{Key, key, list, text};
use crate::{ContainerPort, Time};

/// `terminationGracePeriodSeconds` when it is absent.
const GRACE_S: u64 = 30;

/// What is known of a pod beside its object.
#[derive(Clone, Debug)]
pub(crate) struct Pod {
    pub(crate) node: String,
    pub(crate) ips: Vec<IpNet>,
    pub(crate) ports: Vec<ContainerPort>,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) deployment: Option<String>,
    /// Its containers run.
    pub(crate) started: bool,
    /// Its first probe succeeded.
    pub(crate) probed: bool,
    /// Its probe succeeds now.
    pub(crate) healthy: bool,
    pub(crate) deleting: bool,
    /// How long it may take to end.
    pub(crate) grace: Time,
}

impl Pod {
    /// Whether the pod's own condition is Ready.
    pub(crate) fn is_ready(&self) -> bool {
        self.started && self.probed && self.healthy
    }
}

/// All pods by namespace and name.
#[derive(Debug, Default)]
pub(crate) struct Pods {
    pub(crate) all: BTreeMap<(String, String), Pod>,
    /// Last address given on each node, so that one is not given again at once.
    cursors: BTreeMap<(String, IpNet), u64>,
    made: u64,
}

impl Pods {
    pub(crate) fn in_namespace<'a>(&'a self, namespace: &'a str) -> impl Iterator<Item = (&'a str, &'a Pod)> {
        let all = self.all.range((namespace.to_string(), String::new())..);
        all.take_while(move |((ns, _), _)| ns == namespace).map(|((_, name), pod)| (name.as_str(), pod))
    }

    pub(crate) fn get(&self, namespace: &str, name: &str) -> Option<&Pod> {
        self.all.get(&(namespace.into(), name.into()))
    }

    fn get_mut(&mut self, namespace: &str, name: &str) -> Option<&mut Pod> {
        self.all.get_mut(&(namespace.into(), name.into()))
    }
}

fn labels(value: &Value, path: &str) -> BTreeMap<String, String> {
    let map = value.pointer(path).and_then(Value::as_object);
    map.into_iter().flatten().filter_map(|(k, v)| Some((k.clone(), v.as_str()?.to_string()))).collect()
}

fn container_ports(spec: &Value) -> Vec<ContainerPort> {
    let containers = list(spec, "/containers");
    let ports = containers.flat_map(|c| list(c, "/ports"));
    ports
        .filter_map(|p| {
            let protocol = match text(p, "/protocol") {
                None | Some("TCP") => Protocol::Tcp,
                Some("UDP") => Protocol::Udp,
                Some("SCTP") => Protocol::Sctp,
                Some(_) => return None,
            };
            let port = p.get("containerPort")?.as_u64()?.try_into().ok()?;
            Some(ContainerPort { name: text(p, "/name").unwrap_or_default().into(), protocol, port })
        })
        .collect()
}

impl Api {
    /// The Deployment controller, for one Deployment: as many pods as it wants, those on bad nodes replaced.
    pub(crate) fn sync_deployment(&mut self, now: Time, namespace: &str, name: &str) {
        let deployment = self.store.value(&key("Deployment", namespace, name)).cloned();
        let wanted =
            deployment.as_ref().map_or(0, |d| d.pointer("/spec/replicas").and_then(Value::as_u64).unwrap_or(1));
        let of: Vec<(String, bool, usize)> = self
            .pods
            .in_namespace(namespace)
            .filter(|(_, p)| p.deployment.as_deref() == Some(name) && !p.deleting)
            .map(|(pod, p)| {
                let beside = self.pods.all.values().filter(|o| o.node == p.node && !o.deleting).count();
                (pod.to_string(), p.is_ready(), beside)
            })
            .collect();
        let have = of.len() as u64;
        if have > wanted {
            // As the ReplicaSet controller: unready first, then those that share their node with most.
            let mut victims = of;
            victims.sort_by_key(|(pod, ready, beside)| (*ready, usize::MAX - beside, pod.clone()));
            for (pod, _, _) in victims.into_iter().take(usize::try_from(have - wanted).unwrap_or(usize::MAX)) {
                self.delete_pod(now, namespace, &pod);
            }
        }
        if let Some(deployment) = deployment {
            for _ in have..wanted {
                self.make_pod(now, namespace, name, &deployment);
            }
            self.deployment_status(now, namespace, name);
        }
    }

    /// Counts the pods of a Deployment into its status.
    fn deployment_status(&mut self, now: Time, namespace: &str, name: &str) {
        let at = key("Deployment", namespace, name);
        let Some(mut value) = self.store.value(&at).cloned() else { return };
        let node_ready = |pod: &Pod| self.nodes.get(&pod.node).is_some_and(|n| n.ready);
        let pods = self.pods.in_namespace(namespace).map(|(_, p)| p);
        let pods = pods.filter(|p| p.deployment.as_deref() == Some(name) && !p.deleting);
        let (all, ready) =
            pods.fold((0, 0), |(all, ready), p| (all + 1u64, ready + u64::from(p.is_ready() && node_ready(p))));
        let wanted = value.pointer("/spec/replicas").and_then(Value::as_u64).unwrap_or(1);
        // A quarter, rounded down, may be missing (`maxUnavailable`).
        let available = ready >= wanted - wanted / 4;
        let complete = ready >= wanted && all == wanted;
        let before: Vec<Value> = list(&value, "/status/conditions").cloned().collect();
        let stamp = self.store.timestamp(now);
        let condition = |kind: &str, status: &str, reason: &str, message: &str| {
            let same = before.iter().find(|c| text(c, "/type") == Some(kind) && text(c, "/status") == Some(status));
            let since = same.and_then(|c| text(c, "/lastTransitionTime")).unwrap_or(&stamp).to_string();
            json!({"type": kind, "status": status, "reason": reason, "message": message,
                "lastUpdateTime": since, "lastTransitionTime": since})
        };
        let mut status = json!({
            "observedGeneration": value.pointer("/metadata/generation").cloned().unwrap_or(json!(1)),
            "conditions": [
                if available {
                    condition("Available", "True", "MinimumReplicasAvailable", "Deployment has minimum availability.")
                } else {
                    let message = "Deployment does not have minimum availability.";
                    condition("Available", "False", "MinimumReplicasUnavailable", message)
                },
                if complete {
                    condition("Progressing", "True", "NewReplicaSetAvailable", "All pods are ready.")
                } else {
                    condition("Progressing", "True", "ReplicaSetUpdated", "Pods are being started.")
                },
            ],
        });
        // Counts of zero are left out, as the API does.
        let counts = [
            ("replicas", all),
            ("updatedReplicas", all),
            ("readyReplicas", ready),
            ("availableReplicas", ready),
            ("unavailableReplicas", wanted.max(all) - ready),
        ];
        for (name, count) in counts.into_iter().filter(|(_, count)| *count > 0) {
            status[name] = json!(count);
        }
        value["status"] = status;
        self.store_value(now, &at, value);
    }

    fn make_pod(&mut self, now: Time, namespace: &str, deployment: &str, object: &Value) {
        let Some(template) = object.pointer("/spec/template") else { return };
        self.pods.made += 1;
        let name = format!("{deployment}-{:05}", self.pods.made);
        let mut metadata = template.get("metadata").filter(|m| m.is_object()).cloned().unwrap_or(json!({}));
        metadata["name"] = json!(name);
        metadata["namespace"] = json!(namespace);
        metadata["ownerReferences"] = json!([{"apiVersion": "apps/v1", "kind": "Deployment", "name": deployment}]);
        let value = json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": metadata,
            "spec": template.get("spec").cloned().unwrap_or(json!({})),
            "status": {"phase": "Pending"},
        });
        self.new_pod(now, namespace, &name, value, Some(deployment.into()));
    }

    /// Stores a pod and gives it a node, if there is one.
    pub(crate) fn new_pod(&mut self, now: Time, namespace: &str, name: &str, value: Value, deployment: Option<String>) {
        let spec = value.get("spec").cloned().unwrap_or(json!({}));
        let pod = Pod {
            node: String::new(),
            ips: vec![],
            ports: container_ports(&spec),
            labels: labels(&value, "/metadata/labels"),
            deployment,
            started: false,
            probed: false,
            healthy: true,
            deleting: false,
            grace: Time::from_secs(GRACE_S),
        };
        self.pods.all.insert((namespace.into(), name.into()), pod);
        self.store_value(now, &key("Pod", namespace, name), value);
        self.schedule_pod(now, namespace, name);
    }

    /// The scheduler: the ready, uncordoned node with the fewest pods, by name where equal.
    pub(crate) fn schedule_pod(&mut self, now: Time, namespace: &str, name: &str) {
        let Some(pod) = self.pods.get(namespace, name) else { return };
        if !pod.node.is_empty() {
            return;
        }
        let at = key("Pod", namespace, name);
        let chosen = self.store.value(&at).and_then(|v| text(v, "/spec/nodeName")).map(String::from);
        let count = |node: &str| self.pods.all.values().filter(|p| p.node == node && !p.deleting).count();
        let best = chosen.filter(|n| self.nodes.contains_key(n)).or_else(|| {
            let usable = self.nodes.iter().filter(|(_, n)| n.ready && !n.cordoned && !n.pod_cidrs.is_empty());
            usable.map(|(name, _)| (count(name), name)).min().map(|(_, name)| name.clone())
        });
        // Without a node the pod waits; every change of a node tries again.
        let Some(node) = best else { return };
        let cidrs = self.nodes.get(&node).map(|n| n.pod_cidrs.clone()).unwrap_or_default();
        let ips: Vec<IpNet> = cidrs.iter().filter_map(|cidr| self.pod_ip(&node, *cidr)).collect();
        if let Some(pod) = self.pods.get_mut(namespace, name) {
            pod.node = node.clone();
            pod.ips = ips;
        }
        if let Some(mut value) = self.store.value(&at).cloned() {
            crate::merge(&mut value, &json!({"spec": {"nodeName": node}}));
            self.store_value(now, &at, value);
        }
        let delay = self.draw_ms(self.config.pod_start_ms);
        self.at(now + delay, Task::StartPod { namespace: namespace.into(), name: name.into() });
    }

    /// host-local's way: from the second address on, in a circle.
    fn pod_ip(&mut self, node: &str, cidr: IpNet) -> Option<IpNet> {
        let used: BTreeSet<IpAddr> = self.pods.all.values().flat_map(|p| &p.ips).map(IpNet::addr).collect();
        let size = 1u64.checked_shl((cidr.max_prefix_len() - cidr.prefix_len()).into()).unwrap_or(u64::MAX);
        let cursor = self.pods.cursors.entry((node.into(), cidr)).or_insert(1);
        // The network's own address, the gateway and the broadcast address are not given out.
        let last = size.saturating_sub(2).max(2);
        for _ in 0..last.min(1 << 16) {
            *cursor = if *cursor >= last { 2 } else { *cursor + 1 };
            if let Some(ip) = nth(cidr.trunc(), *cursor)
                && !used.contains(&ip)
            {
                return IpNet::new(ip, cidr.prefix_len()).ok();
            }
        }
        None
    }

    pub(crate) fn start_pod(&mut self, namespace: &str, name: &str) {
        let Some(pod) = self.pods.get(namespace, name) else { return };
        let alive = self.nodes.get(&pod.node).is_some_and(|n| n.alive);
        if pod.deleting || pod.started || !alive {
            return;
        }
        let value = self.store.value(&key("Pod", namespace, name));
        let container = value.and_then(|v| list(v, "/spec/containers").next().cloned()).unwrap_or(json!({}));
        let texts = |path: &str| list(&container, path).filter_map(|v| v.as_str().map(String::from)).collect();
        let cidrs = self.nodes.get(&pod.node).map(|n| n.pod_cidrs.clone()).unwrap_or_default();
        self.outputs.push_back(Output::StartPod(PodStart {
            namespace: namespace.into(),
            name: name.into(),
            node: pod.node.clone(),
            ips: pod.ips.clone(),
            gateway: cidrs.iter().filter_map(|c| nth(c.trunc(), 1)).collect(),
            ports: pod.ports.clone(),
            image: text(&container, "/image").unwrap_or_default().into(),
            args: texts("/args"),
        }));
    }

    /// The kubelet says that the pod's containers run. Its first probe comes later.
    pub fn pod_started(&mut self, now: Time, namespace: &str, name: &str) {
        let delay = self.draw_ms(self.config.probe_ms);
        let Some(pod) = self.pods.get_mut(namespace, name) else { return };
        if !pod.started {
            pod.started = true;
            self.at(now + delay, Task::Probe { namespace: namespace.into(), name: name.into() });
            self.pod_changed(now, namespace, name);
        }
    }

    pub(crate) fn probed(&mut self, now: Time, namespace: &str, name: &str) {
        if let Some(pod) = self.pods.get_mut(namespace, name) {
            pod.probed = true;
            self.pod_changed(now, namespace, name);
        }
    }

    /// The pod's readiness probe fails, or succeeds again.
    pub fn pod_ready(&mut self, now: Time, namespace: &str, name: &str, ready: bool) {
        if let Some(pod) = self.pods.get_mut(namespace, name) {
            pod.healthy = ready;
            self.pod_changed(now, namespace, name);
        }
    }

    /// The pod's processes ended and its sandbox is gone.
    pub fn pod_stopped(&mut self, now: Time, namespace: &str, name: &str) {
        let Some(pod) = self.pods.all.remove(&(namespace.to_string(), name.to_string())) else { return };
        self.remove_value(now, &key("Pod", namespace, name));
        self.sync_services_of(now, namespace, &pod.labels);
        if let Some(deployment) = pod.deployment {
            self.sync_deployment(now, namespace, &deployment);
        }
    }

    /// The pod ends: its endpoints terminate, it goes on serving until it is stopped.
    pub(crate) fn delete_pod(&mut self, now: Time, namespace: &str, name: &str) {
        self.delete_pod_within(now, namespace, name, None);
    }

    /// As [`Api::delete_pod`], within another time than the pod's own. Without any the object is gone at once.
    pub(crate) fn delete_pod_within(&mut self, now: Time, namespace: &str, name: &str, grace: Option<Time>) {
        let at = key("Pod", namespace, name);
        let path = "/spec/terminationGracePeriodSeconds";
        let own = self.store.value(&at).and_then(|v| v.pointer(path)).and_then(Value::as_u64).unwrap_or(GRACE_S);
        let grace = grace.unwrap_or(Time::from_secs(own));
        let Some(pod) = self.pods.get_mut(namespace, name) else { return };
        if pod.deleting && !grace.is_zero() {
            return;
        }
        pod.deleting = true;
        pod.grace = grace;
        let (node, started, deployment) = (pod.node.clone(), pod.started, pod.deployment.clone());
        if started {
            self.pod_changed(now, namespace, name);
            self.outputs.push_back(Output::StopPod { namespace: namespace.into(), name: name.into(), node, grace });
        }
        if !started || grace.is_zero() {
            // Nothing runs that could be stopped, or nobody waits for it.
            self.pod_stopped(now, namespace, name);
            return;
        }
        if let Some(deployment) = deployment {
            self.sync_deployment(now, namespace, &deployment);
        }
    }

    /// Writes the pod's state into its object, and its endpoints.
    pub(crate) fn pod_changed(&mut self, now: Time, namespace: &str, name: &str) {
        let at = key("Pod", namespace, name);
        let Some(pod) = self.pods.get(namespace, name).cloned() else { return };
        if let Some(mut value) = self.store.value(&at).cloned() {
            let node_ready = self.nodes.get(&pod.node).is_some_and(|n| n.ready);
            let ready = if pod.is_ready() && node_ready { "True" } else { "False" };
            let ips: Vec<Value> = pod.ips.iter().map(|ip| json!({"ip": ip.addr().to_string()})).collect();
            value["status"] = json!({
                "phase": if pod.started { "Running" } else { "Pending" },
                "conditions": [{"type": "Ready", "status": ready}],
            });
            if pod.started {
                value["status"]["podIPs"] = json!(ips);
                value["status"]["podIP"] = json!(pod.ips.first().map(|ip| ip.addr().to_string()));
            }
            if pod.deleting && value.pointer("/metadata/deletionTimestamp").is_none() {
                // As the API server: the time by which the pod must be gone.
                value["metadata"]["deletionTimestamp"] = json!(self.store.timestamp(now + pod.grace));
                value["metadata"]["deletionGracePeriodSeconds"] = json!(pod.grace.as_secs());
            }
            self.store_value(now, &at, value);
        }
        self.sync_services_of(now, namespace, &pod.labels);
        if let Some(deployment) = &pod.deployment {
            self.deployment_status(now, namespace, deployment);
        }
    }

    /// A client changed the pod's object: its labels may be others, and so may be what a kubelet says of it.
    pub(crate) fn pod_edited(&mut self, now: Time, namespace: &str, name: &str) {
        let at = key("Pod", namespace, name);
        let Some(value) = self.store.value(&at).cloned() else { return };
        let condition = list(&value, "/status/conditions").find(|c| text(c, "/type") == Some("Ready"));
        let ready = condition.and_then(|c| text(c, "/status")).map(|status| status == "True");
        let running = text(&value, "/status/phase") == Some("Running");
        let ips: Vec<IpAddr> = list(&value, "/status/podIPs").filter_map(|ip| text(ip, "/ip")?.parse().ok()).collect();
        let Some(pod) = self.pods.get_mut(namespace, name) else { return };
        let before = std::mem::replace(&mut pod.labels, labels(&value, "/metadata/labels"));
        if running {
            // Also the kubelet of somebody else may run a pod.
            if !ips.iter().eq(pod.ips.iter().map(IpNet::addr).collect::<Vec<_>>().iter()) && !ips.is_empty() {
                let prefix = |ip: &IpAddr| pod.ips.iter().find(|net| net.addr().is_ipv4() == ip.is_ipv4());
                let nets = ips.iter().map(|ip| {
                    let length = prefix(ip).map_or(if ip.is_ipv4() { 32 } else { 128 }, IpNet::prefix_len);
                    IpNet::new(*ip, length).unwrap_or(IpNet::from(*ip))
                });
                pod.ips = nets.collect();
            }
            pod.started = true;
            if let Some(ready) = ready {
                pod.probed |= ready;
                pod.healthy = ready;
            }
        }
        if before != pod.labels {
            self.sync_services_of(now, namespace, &before);
        }
        self.schedule_pod(now, namespace, name);
        self.pod_changed(now, namespace, name);
    }

    /// Brings the slices of the services up to date that select these labels.
    fn sync_services_of(&mut self, now: Time, namespace: &str, labels: &BTreeMap<String, String>) {
        let selects = |value: &Value| {
            let selector = value.pointer("/spec/selector").and_then(Value::as_object);
            selector.is_some_and(|s| {
                !s.is_empty() && s.iter().all(|(k, v)| v.as_str() == labels.get(k).map(String::as_str))
            })
        };
        let services: Vec<Key> = self
            .store
            .of_kind("Service")
            .filter(|(k, s)| k.1 == namespace && selects(&s.value))
            .map(|(k, _)| k.clone())
            .collect();
        for (_, namespace, name) in services {
            self.sync_slices(now, &namespace, &name);
        }
    }
}
