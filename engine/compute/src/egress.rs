//! What pods send out of the cluster: masqueraded, because nobody outside knows the way back to a pod.
//!
//! kube-router's rule: the source is in a pod CIDR of some node, the destination is neither in one nor a node's address.
//! Each node claims its own elements of the sets, so one that comes or goes changes them at once and nothing else.
//!
//! Nothing here lets packets through `forward`. kube-router adds three ACCEPT rules to the chain FORWARD of `iptables`;
//! in nftables a verdict of our table ends no chain of another one, so such a rule would do nothing where another table
//! drops, and where none does nothing is needed.

use alloc::vec;

use fairway_desired::Family;
use fairway_desired::filter::{Action, Base, Datum, Field, FieldType, Hook, Key, Match, Rule, Set, Value};
use fairway_objects::Node;

use crate::global::set;
use crate::pods::outermost;
use crate::state::State;
use crate::unit::Claims;

/// The pod CIDRs of all nodes.
const SUBNETS: &str = "pod-subnets";
/// The addresses of all nodes.
const NODES: &str = "node-ips";

fn on(state: &State) -> bool {
    let config = &state.config;
    !state.is_router() && config.run_router && config.enable_pod_egress
}

/// The sets and the rule.
pub(crate) fn render(state: &State, claims: &mut Claims) {
    if !on(state) {
        return;
    }
    let mut rules = vec![];
    for family in state.families() {
        let declare = |interval| Set { fields: vec![FieldType::Addr(family)], interval, verdicts: false };
        claims.filter.insert(Key::Set(set(SUBNETS, family)), Value::Set(declare(true)));
        claims.filter.insert(Key::Set(set(NODES, family)), Value::Set(declare(false)));
        let in_set = |field, name, negate| Match::InSet { fields: vec![field], set: set(name, family), negate };
        rules.push(Rule {
            matches: vec![
                in_set(Field::Saddr, SUBNETS, false),
                in_set(Field::Daddr, SUBNETS, true),
                in_set(Field::Daddr, NODES, true),
            ],
            action: Action::Masquerade,
        });
    }
    // After what services masquerade, which is decided by its mark.
    let base = Base { hook: Hook::Postrouting, nat: true, priority: 100 };
    claims.filter.insert(Key::Chain("pod-egress".into()), Value::Chain(Some(base)));
    claims.filter.insert(Key::Rules("pod-egress".into()), Value::Rules(rules));
}

/// The elements of one node, this one or another.
pub(crate) fn render_node(state: &State, node: &Node, claims: &mut Claims) {
    if !on(state) {
        return;
    }
    for net in outermost(&node.pod_cidrs) {
        let family = Family::of(net.addr());
        // An interval set has no elements inside one another.
        if state.enabled(family) && !state.is_inside_another(net) {
            claims.filter.insert(Key::Element(set(SUBNETS, family), vec![Datum::Net(net)]), Value::Element(None));
        }
    }
    for ip in node.internal_ips.iter().chain(&node.external_ips).filter(|ip| state.enabled(Family::of(**ip))) {
        let name = set(NODES, Family::of(*ip));
        claims.filter.insert(Key::Element(name, vec![Datum::Addr(*ip)]), Value::Element(None));
    }
}
