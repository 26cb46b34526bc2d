//! What the node has whatever its services are: kernel parameters, the service interface, the firewall's rules.
//!
//! How a packet to a service goes, hook by hook:
//!
//! 1. `prerouting` (or `output` for the node's own): a packet to a service address and port is marked, unless it comes
//!    from a pod of this node.
//! 2. `input`, after routing found the address on `kube-dummy-if`: `protect` lets only service ports and ICMP through.
//! 3. IPVS, later at `input`, rewrites the destination; the packet goes on to `output` and `postrouting`.
//! 4. `postrouting`: what is marked and does not go to a pod of this node is masqueraded, so that the answer comes
//!    back here. So is a pod that reaches itself.

use alloc::format;
use alloc::vec;
use alloc::vec::Vec;

use fairway_desired::filter::{
    Action, Base, Datum, Field, FieldType, Hook, IcmpKind, Key, Match, Name, Rule, Set, Value, Verdict,
};
use fairway_desired::{Family, LinkKind, LinkValue, ipvs};
use fairway_objects::{Kind, Notice, ObjectKey, ObjectName, Subject};

use crate::pods::outermost;
use crate::state::State;
use crate::unit::Claims;

/// The interface that carries service addresses, named as kube-router does.
pub(crate) const DUMMY: &str = "kube-dummy-if";
/// The mark bit of packets to services that may need masquerading.
const MARK: u32 = 0x4000;

/// The name of a set in one family: `services4`, `services6`.
pub(crate) fn set(name: &str, family: Family) -> Name {
    match family {
        Family::V4 => format!("{name}4").into(),
        Family::V6 => format!("{name}6").into(),
    }
}

pub(crate) fn render(state: &State) -> Claims {
    let mut claims = Claims::default();
    // Who only gives addresses leaves the kernel alone.
    if state.config.run_router || state.config.run_service_proxy {
        sysctls(state, &mut claims);
    }
    if state.is_router() {
        return claims;
    }
    match state.own() {
        None if !state.nodes_listed => {}
        None => {
            claims.notices.insert(Notice {
                subject: Subject::Object(ObjectKey {
                    kind: Kind::Node,
                    name: ObjectName::cluster(&state.config.node_name),
                }),
                field: "".into(),
                reason: "this node's object does not exist; nothing is served or announced".into(),
            });
        }
        Some(node) => {
            for family in state.families().filter(|f| state.node_ip(*f).is_none()) {
                let (flag, name) = match family {
                    Family::V4 => ("enable-ipv4", "IPv4"),
                    Family::V6 => ("enable-ipv6", "IPv6"),
                };
                claims.notices.insert(Notice {
                    subject: Subject::Object(ObjectKey { kind: Kind::Node, name: node.name.clone() }),
                    field: "status.addresses".into(),
                    reason: format!("no {name} address, so --{flag} has no effect"),
                });
            }
        }
    }
    if state.config.run_service_proxy {
        claims.link.insert(DUMMY.into(), LinkValue { kind: LinkKind::Dummy, up: true, mtu: None });
        filter(state, &mut claims);
    }
    claims
}

fn sysctls(state: &State, claims: &mut Claims) {
    let mut put = |path: &str, value: i64| claims.sysctl.insert(path.into(), value);
    for family in state.families() {
        match family {
            Family::V4 => {
                // Pods are behind this host. kube-router leaves that to whoever set the host up.
                put("net/ipv4/ip_forward", 1);
                // Spread over equal routes by connection, not by pair of hosts.
                put("net/ipv4/fib_multipath_hash_policy", 1);
                // Packets may come by another way than the answer goes: equal routes, tunnels, direct server return. A
                // strict filter (1) would drop them; the larger of this and an interface's own value counts.
                if !state.is_router() {
                    put("net/ipv4/conf/all/rp_filter", 2);
                }
            }
            Family::V6 => {
                // Distributions switch the family off by this; with --enable-ipv6 it is wanted.
                if !state.is_router() {
                    put("net/ipv6/conf/all/disable_ipv6", 0);
                }
                put("net/ipv6/conf/all/forwarding", 1);
                put("net/ipv6/fib_multipath_hash_policy", 1);
            }
        }
    }
    if state.is_router() || !state.config.run_service_proxy {
        return;
    }
    // Without it NAT does not see what IPVS rewrote.
    put("net/ipv4/vs/conntrack", 1);
    // A connection to a real server that is gone ends at its next packet instead of hanging.
    put("net/ipv4/vs/expire_nodest_conn", 1);
    // A persistent client whose real server takes no new connections gets another one.
    put("net/ipv4/vs/expire_quiescent_template", 1);
    for (path, seconds) in ipvs::TIMEOUTS.into_iter().zip(state.config.ipvs_timeouts_s) {
        if seconds > 0 {
            put(path, i64::try_from(seconds).unwrap_or(i64::MAX));
        }
    }
    // Service addresses are on every node; none may answer ARP for them.
    put("net/ipv4/conf/all/arp_ignore", 1);
    put("net/ipv4/conf/all/arp_announce", 2);
    // Pods on one bridge answer each other past the IP layer, where IPVS could not undo its rewriting.
    for family in state.families() {
        match family {
            Family::V4 => put("net/bridge/bridge-nf-call-iptables", 1),
            Family::V6 => put("net/bridge/bridge-nf-call-ip6tables", 1),
        };
    }
}

fn in_set(fields: &[Field], name: Name) -> Match {
    Match::InSet { fields: fields.to_vec(), set: name, negate: false }
}

fn not_in_set(fields: &[Field], name: Name) -> Match {
    Match::InSet { fields: fields.to_vec(), set: name, negate: true }
}

fn filter(state: &State, claims: &mut Claims) {
    const SERVICE: [Field; 3] = [Field::Daddr, Field::Protocol, Field::Dport];
    let all = state.config.masquerade_all;
    let mut mark: Vec<Rule> = vec![];
    let mut masquerade: Vec<Rule> = vec![];
    let mut protect: Vec<Rule> = vec![];
    for family in state.families() {
        let address = FieldType::Addr(family);
        let plain = |fields: Vec<FieldType>| Value::Set(Set { fields, interval: false, verdicts: false });
        let mut put = |name: &str, value: Value| claims.filter.insert(Key::Set(set(name, family)), value);
        put("services", plain(vec![address, FieldType::Protocol, FieldType::Port]));
        put("service-ips", plain(vec![address]));
        put("hairpin", plain(vec![address, address]));
        put("local-pods", Value::Set(Set { fields: vec![address], interval: true, verdicts: false }));
        let cidrs = state.own().map(|node| outermost(&node.pod_cidrs)).unwrap_or_default();
        for cidr in cidrs.into_iter().filter(|cidr| Family::of(cidr.addr()) == family) {
            let element = vec![Datum::Net(cidr)];
            claims.filter.insert(Key::Element(set("local-pods", family), element), Value::Element(None));
        }
        let mut matches = vec![in_set(&SERVICE, set("services", family))];
        if !all {
            matches.push(not_in_set(&[Field::Saddr], set("local-pods", family)));
        }
        mark.push(Rule { matches, action: Action::SetMark { mask: MARK, value: MARK } });
        let mut matches = vec![Match::Mark { mask: MARK, value: MARK, negate: false }, Match::Family(family)];
        if !all {
            matches.push(not_in_set(&[Field::Daddr], set("local-pods", family)));
        }
        masquerade.push(Rule { matches, action: Action::Masquerade });
        masquerade.push(Rule {
            matches: vec![in_set(&[Field::Saddr, Field::Daddr], set("hairpin", family))],
            action: Action::Masquerade,
        });
        let accept = Action::Verdict(Verdict::Accept);
        protect.push(Rule {
            matches: vec![
                Match::Icmp(vec![
                    IcmpKind::EchoRequest,
                    IcmpKind::EchoReply,
                    IcmpKind::Unreachable,
                    IcmpKind::TimeExceeded,
                    IcmpKind::Neighbour,
                ]),
                Match::Family(family),
            ],
            action: accept.clone(),
        });
        protect.push(Rule { matches: vec![in_set(&SERVICE, set("services", family))], action: accept });
        protect.push(Rule {
            matches: vec![in_set(&[Field::Daddr], set("service-ips", family))],
            action: Action::Verdict(Verdict::Reject),
        });
    }
    let mut chain = |name: &str, hook: Hook, nat: bool, priority: i32, rules: Vec<Rule>| {
        claims.filter.insert(Key::Chain(name.into()), Value::Chain(Some(Base { hook, nat, priority })));
        claims.filter.insert(Key::Rules(name.into()), Value::Rules(rules));
    };
    chain("mark-prerouting", Hook::Prerouting, false, -150, mark.clone());
    chain("mark-output", Hook::Output, false, -150, mark);
    chain("masquerade", Hook::Postrouting, true, 100, masquerade);
    if state.config.ipvs_permit_all {
        chain("protect", Hook::Input, false, 0, protect);
    }
}
