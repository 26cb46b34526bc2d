//! What happens by itself: nodes that fall silent, and everything that follows from a stored change.

use serde_json::{Value, json};

use crate::Time;
use crate::api::{Api, NodeState, Task};
use crate::store::{Key, list, text};

impl Api {
    /// Stores a value; watchers hear of it if it changed.
    pub(crate) fn store_value(&mut self, now: Time, at: &Key, value: Value) -> bool {
        // A pod that moves to a node concerns its watcher only from then on, so the new state decides who hears.
        if !self.store.put(now, at, value) {
            return false;
        }
        self.announce(now, at);
        true
    }

    /// Removes a value; watchers hear of it if it was there.
    pub(crate) fn remove_value(&mut self, now: Time, at: &Key) -> bool {
        let Some(stored) = self.store.remove(at) else { return false };
        let (low, high) = self.config.lag_ms;
        let rng = &mut self.rng;
        self.watchers.changed(&stored, || draw(rng, (low, high)), now);
        if at.0 == "Pod" {
            self.empty_namespace(now, &at.1);
        }
        true
    }

    fn announce(&mut self, now: Time, at: &Key) {
        let Some(stored) = self.store.get(at) else { return };
        let (low, high) = self.config.lag_ms;
        let rng = &mut self.rng;
        self.watchers.changed(stored, || draw(rng, (low, high)), now);
    }

    pub(crate) fn draw_ms(&mut self, range: (u32, u32)) -> Time {
        draw(&mut self.rng, range)
    }

    /// What follows when a client created or changed an object.
    pub(crate) fn object_changed(&mut self, now: Time, at: &Key, created: bool) {
        let (kind, namespace, name) = (at.0.as_str(), at.1.as_str(), at.2.as_str());
        match kind {
            "Service" => self.sync_slices(now, namespace, name),
            "Deployment" => self.sync_deployment(now, namespace, name),
            "Pod" if created => {
                if let Some(value) = self.store.value(at).cloned() {
                    self.new_pod(now, namespace, name, value, None);
                }
            }
            "Pod" => self.pod_edited(now, namespace, name),
            "Node" => self.node_edited(now, name),
            _ => {}
        }
    }

    /// What follows when a client deleted an object.
    pub(crate) fn object_deleted(&mut self, now: Time, at: &Key) {
        let (kind, namespace, name) = (at.0.as_str(), at.1.as_str(), at.2.as_str());
        match kind {
            "Service" => self.sync_slices(now, namespace, name),
            "Deployment" => self.sync_deployment(now, namespace, name),
            _ => {}
        }
    }

    /// A node's object was edited: its cordon and pod CIDRs may be others.
    fn node_edited(&mut self, now: Time, name: &str) {
        let at = crate::store::key("Node", "", name);
        let Some(value) = self.store.value(&at) else { return };
        let cordoned = value.pointer("/spec/unschedulable").and_then(Value::as_bool).unwrap_or(false);
        let cidrs: Vec<_> = list(value, "/spec/podCIDRs").filter_map(|c| c.as_str()?.parse().ok()).collect();
        let says_ready = |status: &str| {
            let mut conditions = list(value, "/status/conditions");
            conditions.any(|c| text(c, "/type") == Some("Ready") && text(c, "/status") == Some(status))
        };
        let (ready, unready) = (says_ready("True"), says_ready("False") || says_ready("Unknown"));
        if let Some(node) = self.nodes.get_mut(name) {
            node.cordoned = cordoned;
            node.pod_cidrs = cidrs;
            if node.ready != ready && (ready || unready) {
                self.node_ready_changed(now, name, ready);
            }
        } else if self.config.adopt_nodes {
            let state = NodeState { pod_cidrs: cidrs, ready: true, cordoned, alive: true, changed: now };
            self.nodes.insert(name.into(), state);
            if !ready && !unready {
                self.write_node_ready(now, name, "True");
            }
        }
        self.schedule_all(now);
    }

    /// Gives nodes to pods that wait for one.
    pub(crate) fn schedule_all(&mut self, now: Time) {
        let waiting: Vec<(String, String)> =
            self.pods.all.iter().filter(|(_, p)| p.node.is_empty()).map(|(k, _)| k.clone()).collect();
        for (namespace, name) in waiting {
            self.schedule_pod(now, &namespace, &name);
        }
    }

    pub(crate) fn set_node_ready(&mut self, now: Time, name: &str, ready: bool) {
        if self.nodes.get(name).is_none_or(|node| node.ready == ready) {
            return;
        }
        self.write_node_ready(now, name, if ready { "True" } else { "Unknown" });
        self.node_ready_changed(now, name, ready);
    }

    fn write_node_ready(&mut self, now: Time, name: &str, status: &str) {
        let at = crate::store::key("Node", "", name);
        if let Some(mut value) = self.store.value(&at).cloned() {
            crate::merge(&mut value, &json!({"status": {"conditions": [{"type": "Ready", "status": status}]}}));
            self.store_value(now, &at, value);
        }
    }

    /// What follows when a node became ready, or ceased to be.
    fn node_ready_changed(&mut self, now: Time, name: &str, ready: bool) {
        let Some(node) = self.nodes.get_mut(name) else { return };
        node.ready = ready;
        for (namespace, pod) in self.pods_on(name) {
            self.pod_changed(now, &namespace, &pod);
        }
        if ready {
            self.schedule_all(now);
        }
    }

    pub(crate) fn pods_on(&self, node: &str) -> Vec<(String, String)> {
        self.pods.all.iter().filter(|(_, p)| p.node == node).map(|(k, _)| k.clone()).collect()
    }

    pub(crate) fn task(&mut self, now: Time, task: Task) {
        match task {
            Task::StartPod { namespace, name } => self.start_pod(&namespace, &name),
            Task::Probe { namespace, name } => self.probed(now, &namespace, &name),
            Task::Silent { node, since } => {
                if self.nodes.get(&node).is_some_and(|n| !n.alive && n.changed == since) {
                    self.set_node_ready(now, &node, false);
                }
            }
            Task::Evict { node, since } => {
                if self.nodes.get(&node).is_some_and(|n| !n.alive && n.changed == since) {
                    for (namespace, pod) in self.pods_on(&node) {
                        self.delete_pod(now, &namespace, &pod);
                    }
                }
            }
        }
    }

    /// Pods of a node that no longer exists are forgotten at once (the pod garbage collector takes a while).
    pub(crate) fn collect_pods(&mut self, now: Time, node: &str) {
        for (namespace, pod) in self.pods_on(node) {
            self.pod_stopped(now, &namespace, &pod);
        }
    }

    /// Whether a node's object carries a text at a path; for tests of what the world sees.
    pub fn node_condition(&self, name: &str) -> Option<&str> {
        text(self.store.value(&crate::store::key("Node", "", name))?, "/status/conditions/0/status")
    }
}

/// A delay from a range in milliseconds, drawn in microseconds.
fn draw(rng: &mut oorandom::Rand64, (low, high): (u32, u32)) -> Time {
    let (low, high) = (u64::from(low) * 1000, u64::from(high) * 1000);
    Time::from_micros(if high <= low { low } else { rng.rand_range(low..high + 1) })
}
