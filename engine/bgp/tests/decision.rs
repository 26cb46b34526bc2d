//! The decision process against the RFC's elimination steps, and policy sets against a linear scan.
#![allow(clippy::unwrap_used, reason = "a test may fail")]

mod common;
#[path = "common/script.rs"]
mod script;

use std::collections::BTreeSet;
use std::net::IpAddr;

use common::{dynamic, global, ip, network};
use fairway_bgp::Origin;
use fairway_bgp::wire::{AsPath, Attributes, Message, Update};
use fairway_desired::bgp::{Direction, Key, Value};
use fairway_desired::{Family, Op};
use ipnet::{IpNet, Ipv4Net};
use proptest::prelude::*;
use script::{Script, announce, open};

const PREFIX: &str = "10.9.0.0/24";
const OWN_AS: u32 = 65100;

/// One neighbour's path.
#[derive(Clone, Debug)]
struct Candidate {
    /// Its AS; ours makes it internal.
    asn: u32,
    id: u8,
    next_hop: u8,
    behind: Vec<u32>,
    origin: Origin,
    med: Option<u32>,
    local_pref: u32,
}

impl Candidate {
    fn external(&self) -> bool {
        self.asn != OWN_AS
    }

    fn path(&self) -> Vec<u32> {
        let mut path = if self.external() { vec![self.asn] } else { vec![] };
        path.extend(&self.behind);
        path
    }

    fn local_pref(&self) -> u32 {
        if self.external() { 100 } else { self.local_pref }
    }

    fn message(&self) -> Message {
        let attributes = Attributes {
            origin: self.origin,
            as_path: AsPath::sequence(&self.path()),
            med: self.med,
            local_pref: Some(self.local_pref),
            ..Attributes::own()
        };
        announce(attributes, &format!("10.0.1.{}", self.next_hop), &[PREFIX])
    }

    fn address(index: usize) -> IpAddr {
        ip(&format!("10.0.0.{}", index + 1))
    }
}

fn candidate() -> impl Strategy<Value = Candidate> {
    (
        prop_oneof![Just(65001u32), Just(65002), Just(OWN_AS)],
        1u8..5,
        1u8..5,
        prop::collection::vec(prop_oneof![Just(65001u32), Just(65003)], 0..3),
        prop_oneof![8 => Just(Origin::Igp), 1 => Just(Origin::Incomplete)],
        prop::option::of(0u32..3),
        prop_oneof![4 => Just(100u32), 1 => Just(200), 1 => Just(50)],
    )
        .prop_map(|(asn, id, next_hop, behind, origin, med, local_pref)| Candidate {
            asn,
            id,
            next_hop,
            behind,
            origin,
            med,
            local_pref,
        })
}

/// RFC 4271 section 9.1.2.2 as it is written: steps that remove candidates. The best, and all that are equal to it
/// before the tie-breaks.
fn eliminate(all: &[Candidate]) -> Option<(usize, BTreeSet<IpAddr>)> {
    let mut left: Vec<usize> = (0..all.len()).collect();
    let keep_min = |left: &mut Vec<usize>, key: &dyn Fn(&Candidate) -> i64| {
        if let Some(min) = left.iter().map(|i| key(&all[*i])).min() {
            left.retain(|i| key(&all[*i]) == min);
        }
    };
    keep_min(&mut left, &|c| -i64::from(c.local_pref()));
    keep_min(&mut left, &|c| c.path().len() as i64);
    keep_min(&mut left, &|c| c.origin as i64);
    let before = left.clone();
    left.retain(|i| {
        let med = |c: &Candidate| c.med.unwrap_or(0);
        !before.iter().any(|j| all[*j].path().first() == all[*i].path().first() && med(&all[*j]) < med(&all[*i]))
    });
    keep_min(&mut left, &|c| i64::from(!c.external()));
    let equal = left.iter().map(|i| ip(&format!("10.0.1.{}", all[*i].next_hop))).collect();
    keep_min(&mut left, &|c| i64::from(c.id));
    left.first().map(|best| (*best, equal))
}

fn speaker(candidates: &[Candidate], order: &[usize], detour: &[usize]) -> Script {
    let mut s = Script::new();
    s.apply(&[global(OWN_AS, 100, 16), dynamic("10.0.0.0/24", &[65001, 65002, OWN_AS])]);
    let mut conns = vec![];
    for (i, c) in candidates.iter().enumerate() {
        conns.push(s.up(Candidate::address(i), &open(c.asn, c.id)).0);
    }
    for i in order {
        s.say(conns[*i], &candidates[*i].message());
    }
    // Some go and come back: history leaves no trace.
    for i in detour {
        let gone = Update { withdrawn: vec![PREFIX.parse::<IpNet>().unwrap().into()], ..Update::default() };
        s.say(conns[*i], &Message::Update(gone));
    }
    for i in detour {
        s.say(conns[*i], &candidates[*i].message());
    }
    s
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn the_best_path_is_the_rfcs(
        candidates in prop::collection::vec(candidate(), 1..6),
        order in Just((0..5usize).collect::<Vec<_>>()).prop_shuffle(),
        detour in prop::collection::vec(0usize..5, 0..4),
        own in any::<bool>(),
    ) {
        let order: Vec<usize> = order.into_iter().filter(|i| *i < candidates.len()).collect();
        let detour: Vec<usize> = detour.into_iter().filter(|i| *i < candidates.len()).collect();
        let mut s = speaker(&candidates, &order, &detour);
        let straight: Vec<usize> = (0..candidates.len()).collect();
        let other = speaker(&candidates, &straight, &[]);
        prop_assert_eq!(s.speaker.rib(Family::V4), other.speaker.rib(Family::V4));

        let (best, equal) = eliminate(&candidates).unwrap();
        let rib = s.speaker.rib(Family::V4);
        prop_assert_eq!(rib.len(), candidates.len());
        prop_assert_eq!(rib[0].from, Some(Candidate::address(best)));
        prop_assert!(rib[0].best && !rib[1..].iter().any(|p| p.best));
        let used: BTreeSet<IpAddr> = rib.iter().filter(|p| p.multipath).map(|p| p.next_hop).collect();
        prop_assert_eq!(&used, &equal);
        let learned = s.learned.last().unwrap();
        prop_assert_eq!(&learned.next_hops, &equal.into_iter().collect::<Vec<_>>());

        if own {
            s.apply(&[network(PREFIX, "10.0.0.100")]);
            prop_assert!(s.learned.last().unwrap().next_hops.is_empty());
            let rib = s.speaker.rib(Family::V4);
            prop_assert_eq!((rib[0].from, rib[0].multipath), (None, true));
            prop_assert!(!rib[1..].iter().any(|p| p.multipath || p.best));
        }
    }

    #[test]
    fn a_prefix_set_is_what_a_scan_finds(
        members in prop::collection::vec((0u32..64, 24u8..33, 20u8..33, 20u8..33), 0..12),
        removed in prop::collection::vec(any::<prop::sample::Index>(), 0..4),
        networks in prop::collection::btree_set((0u32..64, 22u8..33), 1..20),
    ) {
        let host = |bits: u32, len| Ipv4Net::new((0x0a09_0000 + bits * 8).into(), len).unwrap();
        let mut s = Script::new();
        s.apply(&[
            global(OWN_AS, 100, 1),
            dynamic("10.0.0.0/24", &[65001]),
            common::policy(Direction::Export, vec![common::statement(Some("set"), None, true)], false),
        ]);
        s.up(ip("10.0.0.1"), &open(65001, 1));
        let networks: BTreeSet<IpNet> = networks.into_iter().map(|(b, l)| host(b, l).trunc().into()).collect();
        let ops: Vec<_> = networks.iter().map(|n| network(&n.to_string(), "10.0.0.100")).collect();
        s.apply(&ops);
        // Host bits stay in the keys: two members may cover the same network.
        let mut set = std::collections::BTreeMap::new();
        let put = |net: IpNet, min, max| Op::Put(Key::PrefixMember("set".into(), net), Value::PrefixMember { min, max });
        for (bits, len, min, max) in members {
            set.insert(IpNet::from(host(bits, len)), (min, max));
            s.apply(&[put(host(bits, len).into(), min, max)]);
        }
        for index in removed {
            if set.is_empty() {
                break;
            }
            let net = *set.keys().nth(index.index(set.len())).unwrap();
            set.remove(&net);
            s.apply(&[Op::Del(Key::PrefixMember("set".into(), net))]);
        }
        let expected: Vec<IpNet> = networks
            .into_iter()
            .filter(|n| set.iter().any(|(m, (min, max))| m.contains(n) && (*min..=*max).contains(&n.prefix_len())))
            .collect();
        let sent: Vec<IpNet> = s.speaker.adj_out(ip("10.0.0.1")).into_iter().map(|p| p.prefix).collect();
        prop_assert_eq!(sent, expected);
    }
}
