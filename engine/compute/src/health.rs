//! What the health check of a `Local` service says (`spec.healthCheckNodePort`).

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;

use fairway_objects::{ObjectName, Service, TrafficPolicy};

use crate::state::State;
use crate::unit::Unit;

/// A port at which load balancers ask whether this node has endpoints of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthCheck {
    /// `spec.healthCheckNodePort`
    pub port: u16,
    /// The service.
    pub service: ObjectName,
    /// Its endpoints on this node that are ready, by address. Terminating ones do not count, so that a load balancer
    /// turns away before the last of them is gone.
    pub local_endpoints: usize,
}

/// The health checks of all services.
#[derive(Clone, Debug, Default)]
pub(crate) struct HealthChecks {
    by_unit: BTreeMap<Unit, HealthCheck>,
    /// Grows with each change.
    version: u64,
}

impl HealthChecks {
    pub(crate) fn set(&mut self, unit: &Unit, check: Option<HealthCheck>) {
        let same = self.by_unit.get(unit) == check.as_ref();
        if !same {
            self.version += 1;
            match check {
                Some(check) => self.by_unit.insert(unit.clone(), check),
                None => self.by_unit.remove(unit),
            };
        }
    }

    pub(crate) const fn version(&self) -> u64 {
        self.version
    }

    /// One for each port; of several services the oldest has it.
    pub(crate) fn all(&self) -> Vec<HealthCheck> {
        let mut ports = BTreeSet::new();
        self.by_unit.values().filter(|check| ports.insert(check.port)).cloned().collect()
    }
}

/// The health check that a service asks for.
pub(crate) fn render(state: &State, service: &Service) -> Option<HealthCheck> {
    let local = service.external_traffic_policy == TrafficPolicy::Local;
    let ours = state.config.run_service_proxy && !service.foreign_proxy && !service.headless_label;
    let port = service.health_check_node_port.filter(|_| local && ours)?;
    let endpoints: BTreeSet<_> = state
        .slices_of(&service.name)
        .flat_map(|slice| &slice.endpoints)
        .filter(|e| e.ready && !e.terminating && e.node.as_deref() == Some(&*state.config.node_name))
        .map(|e| e.address)
        .collect();
    Some(HealthCheck { port, service: service.name.clone(), local_endpoints: endpoints.len() })
}
