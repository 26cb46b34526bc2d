//! The same computation without history: the reference that property tests compare with.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::net::IpAddr;

use fairway_desired::Interface;
use fairway_desired::ipvs::VirtualServerKey;
use fairway_objects::{NodeConfig, Notice, Object, ObjectName};
use ipnet::IpNet;

use crate::compute::Desired;
use crate::state::State;
use crate::unit::{Claims, Unit};
use crate::{egress, global, overlay, pods, router, service};

/// Desired state and notices of the units, from nothing but the objects, learned routes and interfaces that exist.
///
/// Notices that came with objects are not repeated here: they do not depend on anything computed.
pub fn from_scratch(
    config: &NodeConfig,
    objects: impl IntoIterator<Item = Object>,
    learned: impl IntoIterator<Item = (IpNet, Vec<IpAddr>)>,
    interfaces: Option<&BTreeMap<Arc<str>, Interface>>,
) -> (Desired, BTreeSet<Notice>) {
    let mut state = State::new(config.clone(), interfaces.cloned());
    state.nodes_listed = true;
    for object in objects {
        match object {
            Object::Node(o) => {
                state.set_node(&o.name.clone(), Some(o));
            }
            Object::Service(o) => {
                state.services.insert(o.name.clone(), o);
            }
            Object::EndpointSlice(o) => {
                let service = ObjectName { namespace: o.name.namespace.clone(), name: o.service.clone() };
                state.slices_of.entry(service).or_default().insert(o.name.clone());
                state.slices.insert(o.name.clone(), o);
            }
            Object::Namespace(_) | Object::Pod(_) => {}
        }
    }
    for (prefix, next_hops) in learned {
        state.learn(prefix, next_hops);
    }
    let mut units: BTreeMap<Unit, Claims> = BTreeMap::new();
    let mut claims = global::render(&state);
    router::render(&state, &mut claims);
    overlay::render(&state, &mut claims);
    egress::render(&state, &mut claims);
    units.insert(Unit::Global, claims);
    units.insert(Unit::Pods, pods::render(&state));
    for node in state.nodes.values() {
        let mut claims = router::render_node(&state, node);
        egress::render_node(&state, node, &mut claims);
        units.insert(Unit::Node(node.name.clone()), claims);
    }
    for hop in state.hops.tunnelled() {
        units.insert(Unit::Tunnel(hop), overlay::render_tunnel(&state, hop));
    }
    for (prefix, next_hops) in &state.learned {
        units.insert(Unit::Learned(*prefix), router::render_learned(&state, *prefix, next_hops));
    }
    let mut services: Vec<_> = state.services.values().collect();
    services.sort_by_key(|s| (s.created_s, s.name.clone()));
    let rendered: Vec<_> = services.iter().map(|s| service::render(&state, s)).collect();
    let mut winners: BTreeMap<&VirtualServerKey, &ObjectName> = BTreeMap::new();
    for (service, rendered) in services.iter().zip(&rendered) {
        for key in rendered.wants.keys() {
            winners.entry(key).or_insert(&service.name);
        }
    }
    for (service, rendered) in services.iter().zip(&rendered) {
        let winner = |key: &VirtualServerKey| -> Option<String> {
            winners.get(key).filter(|name| ***name != service.name).map(|name| name.to_string())
        };
        let unit = Unit::Service { created_s: service.created_s, name: service.name.clone() };
        units.insert(unit, service::claims(&state, service, rendered, winner));
    }
    let mut desired = Desired::default();
    let mut notices = BTreeSet::new();
    for claims in units.into_values() {
        lowest_wins(&mut desired.sysctl, claims.sysctl);
        lowest_wins(&mut desired.link, claims.link);
        lowest_wins(&mut desired.addr, claims.addr);
        lowest_wins(&mut desired.filter, claims.filter);
        lowest_wins(&mut desired.rule, claims.rule);
        lowest_wins(&mut desired.pod, claims.pod);
        lowest_wins(&mut desired.route, claims.route);
        lowest_wins(&mut desired.ipvs, claims.ipvs);
        lowest_wins(&mut desired.file, claims.file);
        lowest_wins(&mut desired.bgp, claims.bgp);
        notices.extend(claims.notices);
    }
    (desired, notices)
}

/// Units come in the order of ownership, so the first claim counts.
fn lowest_wins<K: Ord, V>(table: &mut BTreeMap<K, V>, claims: BTreeMap<K, V>) {
    for (key, value) in claims {
        table.entry(key).or_insert(value);
    }
}
