//! Direct server return (`kube-router.io/service.dsr: tunnel`): IPVS wraps packets for a pod in IPIP, the pod answers the
//! client itself.
//!
//! The service address is on no interface of the node: an answer that came in from a pod with a source address of the
//! node's own would be refused as a martian. So packets are recognized by a firewall mark, which a verdict map sets by
//! address, protocol and port; a rule sends marked packets to a table in which everything is local, and there IPVS has a
//! virtual server for the mark. What is for the address and for no port of it is refused instead of forwarded.

use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use fairway_desired::filter::{
    Action, Base, Datum, Field, FieldType, Hook, Key, Match, Name, Rule, Set, Value, Verdict,
};
use fairway_desired::ipvs::{self, Forwarding, RealServer, VirtualServerKey};
use fairway_desired::{
    Family, NextHop, PROTO_KUBE_ROUTER, PodKey, PodValue, Protocol, RouteKey, RouteKind, RouteValue, RuleKey, RuleValue,
};
use ipnet::IpNet;

use crate::global::set;
use crate::service::{Want, protocol_name};
use crate::state::State;
use crate::unit::Claims;

/// Priority of the rules that lead marked packets to their table, and the table: kube-router's.
const PRIORITY: u32 = 32764;
const TABLE: u32 = 78;
/// The bits in which kube-router puts its marks. Ours for masquerading is another.
const BITS: u32 = 0x3fff;
const SERVICE: [Field; 3] = [Field::Daddr, Field::Protocol, Field::Dport];

/// The firewall mark of an address, protocol and port, as kube-router has it: FNV-1a over `IP-PROTOCOL-PORT`.
pub(crate) fn mark(address: IpAddr, protocol: Protocol, port: u16) -> u32 {
    let mut text = format!("{address}-{}-{port}", protocol_name(protocol).to_lowercase());
    loop {
        match fnv(&text) & BITS {
            // No mark at all; kube-router's way out of a collision serves here too.
            0 => text.push_str("-1"),
            mark => return mark,
        }
    }
}

fn fnv(text: &str) -> u32 {
    text.bytes().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}

/// The virtual server of a mark.
pub(crate) fn key(family: Family, mark: u32) -> VirtualServerKey {
    VirtualServerKey::Mark { family, mark }
}

fn chain(mark: u32) -> Name {
    format!("dsr-{mark}").into()
}

/// What one address and port need. `local` are the endpoints on this node.
pub(crate) fn claim(state: &State, want: &Want, mark: u32, local: &[IpAddr], claims: &mut Claims) {
    let family = Family::of(want.address);
    let server = key(family, mark);
    claims.ipvs.insert(ipvs::Key { server: server.clone(), real: None }, ipvs::Value::Server(want.server.clone()));
    for real in &want.reals {
        let value = RealServer { weight: 1, forwarding: Forwarding::Tunnel };
        claims.ipvs.insert(ipvs::Key { server: server.clone(), real: Some(real.clone()) }, ipvs::Value::Real(value));
    }
    for pod in local {
        claims.pod.insert(PodKey { pod: *pod, address: want.address }, PodValue);
    }
    let rule = RuleKey { family, priority: PRIORITY, from: None, to: None, mark: Some(mark) };
    claims.rule.insert(rule, RuleValue { table: TABLE });
    let any: IpAddr = match family {
        Family::V4 => Ipv4Addr::UNSPECIFIED.into(),
        Family::V6 => Ipv6Addr::UNSPECIFIED.into(),
    };
    claims.route.insert(
        RouteKey { prefix: IpNet::new_assert(any, 0), table: TABLE, metric: 0 },
        RouteValue {
            kind: RouteKind::Local,
            protocol: PROTO_KUBE_ROUTER,
            src: None,
            next_hops: vec![NextHop { via: None, dev: Some("lo".into()), weight: 1 }],
        },
    );
    if family == Family::V4 {
        // Answers of pods have a source address that no route leads to.
        claims.sysctl.insert("net/ipv4/conf/all/rp_filter".into(), 2);
    }
    if want.server.scheduler == ipvs::Scheduler::Mh {
        // Every node would choose the same pod, so a connection may change its node: IPVS shall take it in the middle.
        claims.sysctl.insert("net/ipv4/vs/sloppy_tcp".into(), 1);
    }
    filter(state, want, mark, claims);
}

fn filter(state: &State, want: &Want, mark: u32, claims: &mut Claims) {
    let family = Family::of(want.address);
    let mut put = |key: Key, value: Value| drop(claims.filter.insert(key, value));
    let mut marking: Vec<Rule> = vec![];
    let mut refusing: Vec<Rule> = vec![];
    // The same for every service, so that the last one takes it away.
    for family in state.families() {
        let fields = vec![FieldType::Addr(family), FieldType::Protocol, FieldType::Port];
        put(Key::Set(set("dsr", family)), Value::Set(Set { fields, interval: false, verdicts: true }));
        let fields = vec![FieldType::Addr(family)];
        put(Key::Set(set("dsr-ips", family)), Value::Set(Set { fields, interval: false, verdicts: false }));
        marking.push(Rule {
            matches: vec![],
            action: Action::VerdictMap { fields: SERVICE.to_vec(), map: set("dsr", family) },
        });
        refusing.push(Rule {
            matches: vec![Match::InSet { fields: vec![Field::Daddr], set: set("dsr-ips", family), negate: false }],
            action: Action::Verdict(Verdict::Reject),
        });
    }
    let mut base = |name: &str, hook: Hook, priority: i32, rules: Vec<Rule>| {
        put(Key::Chain(name.into()), Value::Chain(Some(Base { hook, nat: false, priority })));
        put(Key::Rules(name.into()), Value::Rules(rules));
    };
    base("dsr-prerouting", Hook::Prerouting, -149, marking.clone());
    base("dsr-output", Hook::Output, -149, marking);
    base("dsr-forward", Hook::Forward, 0, refusing);
    // This service's own.
    put(Key::Chain(chain(mark)), Value::Chain(None));
    let set_mark = Rule { matches: vec![], action: Action::SetMark { mask: u32::MAX, value: mark } };
    put(Key::Rules(chain(mark)), Value::Rules(vec![set_mark]));
    let element = vec![Datum::Addr(want.address), Datum::Protocol(want.protocol), Datum::Port(want.port)];
    put(Key::Element(set("dsr", family), element), Value::Element(Some(Verdict::Jump(chain(mark)))));
    put(Key::Element(set("dsr-ips", family), vec![Datum::Addr(want.address)]), Value::Element(None));
}

/// The marks of all ports of one address, or why they cannot be served so. An address is served in one way: while it is
/// on an interface of the node for one port, no pod can answer for another.
pub(crate) fn marks<'a>(
    ports: impl Iterator<Item = &'a Want>,
    taken: &BTreeMap<VirtualServerKey, Want>,
) -> Result<Vec<u32>, String> {
    let mut marks: Vec<u32> = vec![];
    for want in ports {
        if let Some(other) = want.reals.iter().find(|real| real.port != want.port) {
            let (address, port, target) = (want.address, want.port, other.port);
            return Err(format!("a tunnel cannot change port {port} to {target}; {address} is served by masquerading"));
        }
        let mark = mark(want.address, want.protocol, want.port);
        if marks.contains(&mark) || taken.contains_key(&key(Family::of(want.address), mark)) {
            let (address, port) = (want.address, want.port);
            return Err(format!(
                "port {port} has the firewall mark {mark} of another port; {address} is served by masquerading"
            ));
        }
        marks.push(mark);
    }
    Ok(marks)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_are_those_of_kube_router() {
        let cases = [
            ("199.27.151.9", Protocol::Tcp, 8080, 14146),
            ("202.173.9.21", Protocol::Tcp, 80, 1481),
            ("10.0.0.1", Protocol::Tcp, 80, 13766),
            ("10.0.0.1", Protocol::Udp, 53, 4554),
        ];
        for (address, protocol, port, expected) in cases {
            assert_eq!(mark(address.parse().unwrap(), protocol, port), expected, "{address}");
        }
    }
}
