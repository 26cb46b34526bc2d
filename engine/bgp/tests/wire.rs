//! The codec against vectors written by hand from the RFCs, and against itself and noise.
#![allow(clippy::unwrap_used, reason = "a test may fail")]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use fairway_bgp::wire::{
    AsPath, Attributes, Capability, Context, HEADER_LEN, Message, Nlri, Notification, Open, Origin, Packer, Reach,
    RestartFamily, RouteRefresh, Segment, StaleFamily, UnknownAttribute, Update,
};
use fairway_desired::Family;
use fairway_desired::bgp::Families;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use proptest::prelude::*;

const TWO: Context = Context {
    four_octet_as: false,
    extended_messages: false,
    add_path: Families { v4: false, v6: false },
    external: false,
};
const FOUR: Context = Context { four_octet_as: true, ..TWO };
/// All that changes the encoding.
const FULL: Context = Context { extended_messages: true, add_path: Families::ALL, ..FOUR };

/// Header in front of a body given in hexadecimal; spaces do not matter.
fn message(kind: u8, hex: &str) -> Vec<u8> {
    let digits: String = hex.split_whitespace().collect();
    let body: Vec<u8> =
        (0..digits.len() / 2).map(|i| u8::from_str_radix(&digits[2 * i..2 * i + 2], 16).unwrap()).collect();
    let mut out = vec![0xff; 16];
    out.extend(((HEADER_LEN + body.len()) as u16).to_be_bytes());
    out.push(kind);
    out.extend(body);
    out
}

fn read(bytes: &[u8], context: Context) -> Result<Message, Notification> {
    let (message, len) = Message::decode(bytes, context)?.expect("complete");
    assert_eq!(len, bytes.len());
    Ok(message)
}

fn update(hex: &str) -> Update {
    match read(&message(2, hex), FOUR).unwrap() {
        Message::Update(update) => update,
        other => panic!("{other:?}"),
    }
}

fn update_error(hex: &str) -> (u8, u8) {
    let n = read(&message(2, hex), FOUR).unwrap_err();
    (n.code, n.subcode)
}

fn nets(list: &[&str]) -> Vec<Nlri> {
    list.iter().map(|n| n.parse::<IpNet>().unwrap().into()).collect()
}

#[test]
fn an_open_with_capabilities() {
    // AS 4200000001 as AS_TRANS, hold 90, 10.0.0.1; one capabilities parameter: IPv4, IPv6, refresh, AS4, and 70.
    let bytes = message(1, "04 5ba0 005a 0a000001 18 02 16 0104 0001 00 01 0104 0002 00 01 0200 4104 fa56ea01 4600");
    let open = Open {
        asn2: 23456,
        hold_s: 90,
        router_id: Ipv4Addr::new(10, 0, 0, 1),
        capabilities: vec![
            Capability::Multiprotocol { afi: 1, safi: 1 },
            Capability::Multiprotocol { afi: 2, safi: 1 },
            Capability::RouteRefresh,
            Capability::FourOctetAs(4_200_000_001),
            Capability::EnhancedRefresh,
        ],
    };
    assert_eq!(read(&bytes, FOUR).unwrap(), Message::Open(open.clone()));
    assert_eq!(open.asn(), 4_200_000_001);
    assert!(open.offers(Family::V4) && open.offers(Family::V6));
    assert_eq!(Message::Open(open).encode(FOUR).unwrap(), bytes);
    // The same by one parameter for each capability, and in RFC 9072's long form.
    let each = message(1, "04 5ba0 005a 0a000001 08 02 02 0200 02 02 4600");
    let long = message(1, "04 5ba0 005a 0a000001 ff ff 000a 02 0002 0200 02 0002 4600");
    assert_eq!(read(&each, FOUR), read(&long, FOUR));
    // Without capabilities: plain IPv4.
    let Message::Open(old) = read(&message(1, "04 fde9 00b4 0a000001 00"), FOUR).unwrap() else { panic!() };
    assert_eq!((old.asn(), old.offers(Family::V4), old.offers(Family::V6)), (65001, true, false));
}

#[test]
fn broken_headers_and_opens_are_answered_as_section_6_says() {
    let answer = |bytes: &[u8]| {
        let n = Message::decode(bytes, FOUR).unwrap_err();
        (n.code, n.subcode, n.data)
    };
    let mut marker = message(4, "");
    marker[3] = 0;
    assert_eq!(answer(&marker), (1, 1, vec![]));
    assert_eq!(answer(b"GET / HTTP/1.0\r\n"), (1, 1, vec![]));
    assert_eq!(answer(&message(4, "00")), (1, 2, vec![0, 20]));
    assert_eq!(answer(&message(1, "04")), (1, 2, vec![0, 20]));
    assert_eq!(answer(&message(2, "0000")), (1, 2, vec![0, 21]));
    let mut long = message(2, "");
    long[16..18].copy_from_slice(&4097u16.to_be_bytes());
    assert_eq!(answer(&long), (1, 2, vec![0x10, 0x01]));
    assert_eq!(answer(&message(9, "")), (1, 3, vec![9]));
    // OPEN
    assert_eq!(answer(&message(1, "03 fde9 005a 0a000001 00")), (2, 1, vec![0, 4]));
    assert_eq!(answer(&message(1, "04 fde9 005a 0a000001 03 01 01 00")), (2, 4, vec![]));
    assert_eq!(answer(&message(1, "04 fde9 005a 0a000001 04 02 02 4104")), (2, 0, vec![]));
    assert_eq!(answer(&message(1, "04 fde9 005a 0a000001 05 02 02 0200")), (2, 0, vec![]));
    // ROUTE-REFRESH of the wrong length (RFC 7313).
    assert_eq!(answer(&message(5, "000100")).0, 7);
}

#[test]
fn an_update_with_every_attribute() {
    let bytes = message(
        2,
        "0004 18 0a0100 \
         0070 \
         4001 01 00 \
         4002 0a 02 02 0000fdea 0000fde9 \
         4003 04 c0a80101 \
         8004 04 00000032 \
         4005 04 00000064 \
         4006 00 \
         c007 08 0000fde9 0a000001 \
         c008 08 ffffff01 fde90001 \
         8009 04 0a000007 \
         800a 08 0a000008 0a000009 \
         c010 08 0002fde9 00000064 \
         c020 0c 0000fde9 00000001 00000002 \
         e063 02 0102 \
         20 0a000002 18 0a0203 00",
    );
    let expected = Update {
        withdrawn: nets(&["10.1.0.0/24"]),
        attributes: Some(Arc::new(Attributes {
            origin: Origin::Igp,
            as_path: AsPath::sequence(&[65002, 65001]),
            med: Some(50),
            local_pref: Some(100),
            atomic_aggregate: true,
            aggregator: Some((65001, Ipv4Addr::new(10, 0, 0, 1))),
            communities: vec![0xffff_ff01, 0xfde9_0001],
            originator: Some(Ipv4Addr::new(10, 0, 0, 7)),
            cluster_list: vec![Ipv4Addr::new(10, 0, 0, 8), Ipv4Addr::new(10, 0, 0, 9)],
            ext_communities: vec![[0, 2, 0xfd, 0xe9, 0, 0, 0, 100]],
            large_communities: vec![[65001, 1, 2]],
            unknown: vec![UnknownAttribute { code: 99, partial: true, value: vec![1, 2] }],
        })),
        reach: Some(Reach {
            next_hop: IpAddr::V4(Ipv4Addr::new(192, 168, 1, 1)),
            prefixes: nets(&["10.0.0.2/32", "10.2.3.0/24", "0.0.0.0/0"]),
        }),
        ..Update::default()
    };
    assert_eq!(read(&bytes, FOUR).unwrap(), Message::Update(expected.clone()));
    assert_eq!(Message::Update(expected).encode(FOUR).unwrap(), bytes);
}

#[test]
fn ipv6_routes_with_one_and_two_next_hops() {
    let global = "20010db8000000000000000000000001";
    let link = "fe800000000000000000000000000001";
    let one = update(&format!(
        "0000 002e 800e 1e 0002 01 10 {global} 00 40 fd00000900000000 400101 00 4002 06 02 01 0000fde9"
    ));
    let reach = Reach { next_hop: "2001:db8::1".parse().unwrap(), prefixes: nets(&["fd00:9::/64"]) };
    assert_eq!(one.mp_reach, Some((Family::V6, reach)));
    let two = update(&format!(
        "0000 003e 800e 2e 0002 01 20 {global}{link} 00 40 fd00000900000000 400101 00 4002 06 02 01 0000fde9"
    ));
    assert_eq!(two, one);
    let gone = update("0000 000f 800f 0c 0002 01 40 fd00000900000000");
    assert_eq!(gone.mp_unreach, Some((Family::V6, nets(&["fd00:9::/64"]))));
    // A family that is not ours is passed over.
    let vpn = update("0000 000a 800f 07 0001 80 18 0a0000");
    assert_eq!(vpn.mp_unreach, None);
}

#[test]
fn end_of_rib() {
    for (family, hex) in [(Family::V4, "0000 0000"), (Family::V6, "0000 0006 800f 03 0002 01")] {
        assert_eq!(update(hex), Update::end_of_rib(family));
        assert_eq!(Message::Update(Update::end_of_rib(family)).encode(FOUR).unwrap(), message(2, hex));
        assert_eq!(update(hex).is_end_of_rib(), Some(family));
    }
}

/// Good attributes for one IPv4 route.
const ORIGIN: &str = "400101 00";
const PATH: &str = "400206 0201 0000fde9";
const HOP: &str = "400304 0a000001";

/// An UPDATE that announces 10.9.0.0/24 with these attributes.
fn with(attributes: &[&str]) -> String {
    let section: String = attributes.concat().split_whitespace().collect();
    format!("0000 {:04x} {section} 18 0a0900", section.len() / 2)
}

#[test]
fn broken_attributes_make_the_routes_withdrawn() {
    for attributes in [
        vec!["400101 03", PATH, HOP],
        vec!["400102 0000", PATH, HOP],
        vec!["c00101 00", PATH, HOP],
        vec![ORIGIN, "400206 0501 0000fde9", HOP],
        vec![ORIGIN, "400206 0202 0000fde9", HOP],
        vec![ORIGIN, "400202 0200", HOP],
        vec![ORIGIN, "400206 0201 00000000", HOP],
        vec![ORIGIN, PATH, "400303 0a0000"],
        vec![ORIGIN, PATH, "400304 e0000001"],
        vec![ORIGIN, PATH, HOP, "800403 000001"],
        vec![ORIGIN, PATH, HOP, "400505 0000000001"],
        vec![ORIGIN, PATH, HOP, "c00803 000001"],
        vec![ORIGIN, PATH, HOP, "c00800"],
        vec![PATH, HOP],
        vec![ORIGIN, HOP],
        vec![ORIGIN, PATH],
        vec![ORIGIN, PATH, HOP, "c00809 0001"],
        vec![ORIGIN, PATH, HOP, "c0"],
    ] {
        let got = update(&with(&attributes));
        assert!(got.malformed.is_some(), "{attributes:?}");
        assert_eq!((got.withdrawn, got.reach, got.attributes), (nets(&["10.9.0.0/24"]), None, None), "{attributes:?}");
    }
    // The routes of MP_REACH_NLRI, too.
    let got =
        update("0000 0028 800e 1e 0002 01 10 20010db8000000000000000000000001 00 40 fd00000900000000 400101 07 400200");
    assert_eq!(got.mp_unreach, Some((Family::V6, nets(&["fd00:9::/64"]))));
}

#[test]
fn milder_breakage_discards_the_attribute_only() {
    for extra in ["400601 00", "c00704 00000001", ORIGIN, "400101 02", "806201 00", "c01106 0201 0000fde9"] {
        let mut got = update(&with(&[ORIGIN, PATH, HOP, extra]));
        let discarded = std::mem::take(&mut got.discarded);
        assert_eq!(got, update(&with(&[ORIGIN, PATH, HOP])), "{extra}");
        assert_eq!(got.malformed, None);
        // What is unknown and not transitive, or says nothing to us, was not broken.
        let code = u8::from_str_radix(&extra[2..4], 16).unwrap();
        let quiet = matches!(code, 0x11 | 0x62);
        assert_eq!(discarded, if quiet { vec![] } else { vec![code] }, "{extra}");
    }
}

#[test]
fn what_cannot_be_read_ends_the_session() {
    assert_eq!(update_error("0005 18 0a01"), (3, 1));
    assert_eq!(update_error("0000 0005 4001"), (3, 1));
    assert_eq!(update_error("0002 2109 0000"), (3, 10));
    assert_eq!(update_error("0000 0000 21 0a00000000"), (3, 10));
    assert_eq!(update_error("0000 0000 20 0a0000"), (3, 10));
    assert_eq!(update_error(&with(&[ORIGIN, PATH, HOP, "401e01 00"])), (3, 2));
    assert_eq!(update_error("0000 0009 800f 06 0002 01 81 0000"), (3, 9));
    assert_eq!(update_error("0000 000c 800f 03 0002 01 800f 03 0002 01"), (3, 1));
    assert_eq!(update_error("0000 0008 800e 05 0002 01 08 00"), (3, 9));
    assert_eq!(update_error("0000 0006 c00f 03 0002 01"), (3, 4));
    let n = read(&message(2, &with(&[ORIGIN, PATH, HOP, "401e01 00"])), FOUR).unwrap_err();
    assert_eq!(n.data, [0x40, 0x1e, 1, 0], "the attribute is the data");
}

#[test]
fn two_octet_speakers_are_understood() {
    // RFC 6793: AS_PATH 65010 23456 23456, AS4_PATH 4200000001 4200000002.
    let as4 = "c0110a 0202 fa56ea01 fa56ea02";
    let body = with(&[ORIGIN, "400208 0203 fdf2 5ba0 5ba0", HOP, as4]);
    let Message::Update(got) = read(&message(2, &body), TWO).unwrap() else { panic!() };
    let path = |update: &Update| update.attributes.as_ref().unwrap().as_path.flatten();
    assert_eq!(path(&got), [65010, 4_200_000_001, 4_200_000_002]);
    // An AS4_PATH longer than AS_PATH is ignored.
    let body = with(&[ORIGIN, "400204 0201 5ba0", HOP, as4]);
    let Message::Update(got) = read(&message(2, &body), TWO).unwrap() else { panic!() };
    assert_eq!(path(&got), [23456]);
    // An AGGREGATOR that is not AS_TRANS makes both AS4 attributes void.
    let body =
        with(&[ORIGIN, "400208 0203 fdf2 5ba0 5ba0", HOP, "c00706 fdf2 0a000001", as4, "c01208 fa56ea01 0a000001"]);
    let Message::Update(got) = read(&message(2, &body), TWO).unwrap() else { panic!() };
    assert_eq!(path(&got), [65010, 23456, 23456]);
}

#[test]
fn partial_messages_wait() {
    let bytes = message(4, "");
    for n in 0..bytes.len() {
        assert_eq!(Message::decode(&bytes[..n], FOUR), Ok(None));
    }
}

#[test]
fn packing_fills_messages_and_keeps_every_prefix() {
    let attributes = Arc::new(Attributes { as_path: AsPath::sequence(&[65001]), ..Attributes::own() });
    for (family, next_hop, text) in [(Family::V4, "10.0.0.1", "10"), (Family::V6, "fd00::1", "fd00")] {
        let prefixes: Vec<IpNet> = (0..5000u32)
            .map(|i| match family {
                Family::V4 => format!("{text}.{}.{}.0/24", i / 256, i % 256).parse().unwrap(),
                Family::V6 => format!("{text}:{i:x}::/32").parse().unwrap(),
            })
            .collect();
        for context in [FOUR, FULL] {
            let prefixes: Vec<Nlri> =
                prefixes.iter().map(|p| Nlri { prefix: *p, path_id: if context == FULL { 7 } else { 0 } }).collect();
            let pack = |mut packer: Packer| {
                let mut out = vec![];
                prefixes.iter().for_each(|p| packer.push(*p, &mut out));
                packer.finish(&mut out);
                out
            };
            let hop = next_hop.parse().unwrap();
            let mut bytes = pack(Packer::announce(family, &attributes, hop, context).unwrap());
            bytes.extend(pack(Packer::withdraw(family, context).unwrap()));
            let mut announced = vec![];
            let mut gone = vec![];
            let (mut rest, mut count) = (&bytes[..], 0);
            while !rest.is_empty() {
                let (message, len) = Message::decode(rest, context).unwrap().expect("whole messages");
                assert!(len <= context.max_len());
                (rest, count) = (&rest[len..], count + 1);
                let Message::Update(u) = message else { panic!() };
                announced.extend(u.reach.into_iter().chain(u.mp_reach.map(|(_, r)| r)).flat_map(|r| r.prefixes));
                gone.extend(u.withdrawn.into_iter().chain(u.mp_unreach.into_iter().flat_map(|(_, p)| p)));
            }
            assert!(count <= if context == FULL { 2 } else { 14 }, "{count}");
            assert_eq!(announced, prefixes);
            assert_eq!(gone, prefixes);
        }
    }
    // Attributes that fill a message alone cannot be advertised, unless messages may be longer.
    let value = vec![0; 4053];
    let huge = Attributes { unknown: vec![UnknownAttribute { code: 99, partial: true, value }], ..Attributes::own() };
    let hop = "10.0.0.1".parse().unwrap();
    assert!(Packer::announce(Family::V4, &huge, hop, FOUR).is_err());
    assert!(Packer::announce(Family::V4, &huge, hop, FULL).is_ok());
}

fn ipv4() -> impl Strategy<Value = Ipv4Addr> {
    (1u32..0xdfff_ffff).prop_map(Ipv4Addr::from)
}

fn ipv6() -> impl Strategy<Value = Ipv6Addr> {
    any::<u128>().prop_map(|a| Ipv6Addr::from((a >> 3) | 1))
}

fn prefix4() -> impl Strategy<Value = IpNet> {
    (any::<u32>(), 0u8..33).prop_map(|(a, l)| IpNet::V4(Ipv4Net::new(a.into(), l).unwrap().trunc()))
}

fn prefix6() -> impl Strategy<Value = IpNet> {
    (any::<u128>(), 0u8..129).prop_map(|(a, l)| IpNet::V6(Ipv6Net::new(a.into(), l).unwrap().trunc()))
}

fn as_path() -> impl Strategy<Value = AsPath> {
    let asn = prop_oneof![1u32..70000, 1u32..];
    let segment = (any::<bool>(), prop::collection::vec(asn, 1..6)).prop_map(|(set, asns)| Segment { set, asns });
    prop::collection::vec(segment, 0..4).prop_map(|segments| AsPath { segments })
}

fn attributes() -> impl Strategy<Value = Arc<Attributes>> {
    let unknown = prop::collection::btree_map(
        (19u8..=255).prop_filter("unknown", |c| *c != 32),
        (any::<bool>(), prop::collection::vec(any::<u8>(), 0..300)),
        0..3,
    );
    (
        prop_oneof![Just(Origin::Igp), Just(Origin::Egp), Just(Origin::Incomplete)],
        as_path(),
        any::<Option<u32>>(),
        any::<Option<u32>>(),
        any::<bool>(),
        prop::option::of((1u32.., ipv4())),
        prop::collection::vec(any::<u32>(), 0..100),
        (
            prop::option::of(ipv4()),
            prop::collection::vec(ipv4(), 0..4),
            prop::collection::vec(any::<[u8; 8]>(), 0..9),
            prop::collection::btree_set(any::<[u32; 3]>(), 0..9),
        ),
        unknown,
    )
        .prop_map(
            |(origin, as_path, med, local_pref, atomic_aggregate, aggregator, communities, more, unknown)| {
                let (originator, cluster_list, ext_communities, large) = more;
                let unknown = unknown
                    .into_iter()
                    .map(|(code, (partial, value))| UnknownAttribute { code, partial, value })
                    .collect();
                Arc::new(Attributes {
                    origin,
                    as_path,
                    med,
                    local_pref,
                    atomic_aggregate,
                    aggregator,
                    communities,
                    originator,
                    cluster_list,
                    ext_communities,
                    large_communities: large.into_iter().collect(),
                    unknown,
                })
            },
        )
}

fn nlri(prefix: impl Strategy<Value = IpNet>) -> impl Strategy<Value = Nlri> {
    (prefix, any::<u32>()).prop_map(|(prefix, path_id)| Nlri { prefix, path_id })
}

fn updates() -> impl Strategy<Value = Update> {
    let v4 = || prop::collection::vec(nlri(prefix4()), 1..20);
    let v6 = || prop::collection::vec(nlri(prefix6()), 0..20);
    (
        prop::collection::vec(nlri(prefix4()), 0..20),
        attributes(),
        prop::option::of((ipv4(), v4())),
        prop::option::of((ipv6(), v6())),
        prop::option::of(v6()),
    )
        .prop_map(|(withdrawn, attributes, reach, mp_reach, mp_unreach)| Update {
            withdrawn,
            attributes: (reach.is_some() || mp_reach.is_some()).then_some(attributes),
            reach: reach.map(|(next_hop, prefixes)| Reach { next_hop: next_hop.into(), prefixes }),
            mp_reach: mp_reach.map(|(next_hop, prefixes)| (Family::V6, Reach { next_hop: next_hop.into(), prefixes })),
            mp_unreach: mp_unreach.map(|p| (Family::V6, p)),
            ..Update::default()
        })
}

fn messages() -> impl Strategy<Value = Message> {
    let capability = prop_oneof![
        (any::<u16>(), any::<u8>()).prop_map(|(afi, safi)| Capability::Multiprotocol { afi, safi }),
        Just(Capability::RouteRefresh),
        any::<u32>().prop_map(Capability::FourOctetAs),
        Just(Capability::ExtendedMessage),
        Just(Capability::EnhancedRefresh),
        prop::collection::vec(any::<(u16, u16, u16)>(), 1..5).prop_map(Capability::ExtendedNextHop),
        prop::collection::vec(any::<(u16, u8, u8)>(), 1..5).prop_map(Capability::AddPath),
        (any::<bool>(), any::<bool>(), 0u16..4096, prop::collection::vec(any::<(u16, u8, bool)>(), 0..5)).prop_map(
            |(restarted, notification, time_s, families)| {
                let families = families.into_iter();
                let families =
                    families.map(|(afi, safi, forwarding)| RestartFamily { afi, safi, forwarding }).collect();
                Capability::GracefulRestart { restarted, notification, time_s, families }
            }
        ),
        prop::collection::vec(any::<(u16, u8, bool, u32)>(), 0..5).prop_map(|list| {
            let list = list.into_iter();
            Capability::LongLived(
                list.map(|(afi, safi, forwarding, t)| StaleFamily { afi, safi, forwarding, time_s: t >> 8 }).collect(),
            )
        }),
        (72u8.., prop::collection::vec(any::<u8>(), 0..80))
            .prop_map(|(code, value)| Capability::Unknown { code, value }),
    ];
    prop_oneof![
        1 => (any::<u16>(), any::<u16>(), ipv4(), prop::collection::vec(capability, 0..8)).prop_map(
            |(asn2, hold_s, router_id, capabilities)| Message::Open(Open { asn2, hold_s, router_id, capabilities })
        ),
        4 => updates().prop_map(Message::Update),
        1 => (any::<u8>(), any::<u8>(), prop::collection::vec(any::<u8>(), 0..99))
            .prop_map(|(code, subcode, data)| Message::Notification(Notification { code, subcode, data })),
        1 => Just(Message::Keepalive),
        1 => (any::<u16>(), any::<u8>(), any::<u8>())
            .prop_map(|(afi, subtype, safi)| Message::RouteRefresh(RouteRefresh { afi, subtype, safi })),
    ]
}

/// As on a session without ADD-PATH.
fn without_paths(message: Message) -> Message {
    let Message::Update(mut u) = message else { return message };
    let lists = [Some(&mut u.withdrawn), u.reach.as_mut().map(|r| &mut r.prefixes)];
    let mp = [u.mp_reach.as_mut().map(|(_, r)| &mut r.prefixes), u.mp_unreach.as_mut().map(|(_, p)| p)];
    lists.into_iter().chain(mp).flatten().flatten().for_each(|n| n.path_id = 0);
    Message::Update(u)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn what_is_written_is_read(message in messages(), four in any::<bool>(), paths in any::<bool>(), more in any::<u8>()) {
        let add_path = if paths { Families::ALL } else { Families::default() };
        let context = Context { four_octet_as: four, add_path, ..FULL };
        let message = if paths { message } else { without_paths(message) };
        let mut bytes = message.encode(context).unwrap();
        let len = bytes.len();
        bytes.push(more);
        prop_assert_eq!(Message::decode(&bytes, context), Ok(Some((message, len))));
    }

    #[test]
    fn noise_never_panics(body in prop::collection::vec(any::<u8>(), 0..200), kind in 0u8..7, four in any::<bool>()) {
        let mut bytes = vec![0xff; 16];
        bytes.extend(((HEADER_LEN + body.len()) as u16).to_be_bytes());
        bytes.push(kind);
        bytes.extend(&body);
        for context in [FOUR, TWO, FULL, Context { four_octet_as: four, external: true, ..FULL }] {
            let _ = Message::decode(&bytes, context);
            let _ = Message::decode(&body, context);
        }
    }

    /// Good messages with a few bytes changed reach deeper than noise does. What is read can be written again.
    #[test]
    fn damage_never_panics(message in messages(), damage in prop::collection::vec((19usize..600, any::<u8>()), 1..4)) {
        let mut bytes = message.encode(FULL).unwrap();
        for (at, byte) in damage {
            let len = bytes.len();
            if len > 19 {
                bytes[19 + at % (len - 19)] = byte;
            }
        }
        if let Ok(Some((read, _))) = Message::decode(&bytes, FULL) {
            let again = read.encode(FULL);
            let whole = match &read {
                Message::Open(_) => true,
                Message::Update(u) => u.malformed.is_none() && u.discarded.is_empty() && !u.foreign,
                _ => false,
            };
            if let (Ok(again), true) = (again, whole) {
                prop_assert_eq!(Message::decode(&again, FULL).map(|m| m.map(|(m, _)| m)), Ok(Some(read)));
            }
        }
    }
}
