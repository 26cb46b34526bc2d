//! BGP without sockets: messages read and written, and a whole speaker from bytes to bytes. Throughput is in prefixes.
#![allow(missing_docs, reason = "criterion's macros make undocumented functions")]
#![allow(clippy::unwrap_used, reason = "a benchmark that fails shall stop")]

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use fairway_bgp::wire::{AsPath, Attributes, Capability, Context, Message, Nlri, Open, Packer, SAFI_UNICAST};
use fairway_bgp::{ConnId, Input, Output, Speaker};
use fairway_desired::bgp::{Families, Global, Key, Peer, Session, Value};
use fairway_desired::{Family, Op};
use ipnet::{IpNet, Ipv4Net};

const CONTEXT: Context = Context {
    four_octet_as: true,
    extended_messages: false,
    add_path: Families { v4: false, v6: false },
    external: true,
};
/// Prefixes in a message.
const PACKED: [u32; 4] = [1, 10, 100, 800];
/// Routes of a table.
const LADDER: [u32; 3] = [1_000, 10_000, 100_000];
const NOW: Duration = Duration::from_secs(1);

fn prefix(n: u32) -> IpNet {
    IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::from(0x0100_0000 + (n << 8)), 24))
}

fn attributes(n: u32) -> Attributes {
    Attributes {
        as_path: AsPath::sequence(&[65_002, 4_200_000_000 + n % 1024, 64_500]),
        communities: vec![0x0001_0001, 0x0001_0002],
        ..Attributes::own()
    }
}

/// UPDATE messages with so many prefixes each, of different attributes.
fn updates(routes: u32, per_message: u32) -> Vec<u8> {
    let mut bytes = Vec::new();
    for first in (0..routes).step_by(per_message as usize) {
        let next_hop = IpAddr::V4(Ipv4Addr::new(192, 168, 9, 2));
        let mut packer = Packer::announce(Family::V4, &attributes(first / per_message), next_hop, CONTEXT).unwrap();
        for n in first..routes.min(first + per_message) {
            packer.push(Nlri::from(prefix(n)), &mut bytes);
        }
        packer.finish(&mut bytes);
    }
    bytes
}

fn decode(bytes: &[u8]) -> usize {
    let (mut rest, mut prefixes) = (bytes, 0);
    while let Some((message, len)) = Message::decode(rest, CONTEXT).unwrap() {
        rest = &rest[len..];
        if let Message::Update(update) = message {
            prefixes += update.reach.map_or(0, |reach| reach.prefixes.len());
        }
    }
    prefixes
}

/// A speaker with two neighbours that are up; routes come from the first.
fn speaker() -> Speaker {
    let mut speaker = Speaker::new(1);
    let own = Ipv4Addr::new(192, 168, 9, 1);
    let mut ops = vec![Op::Put(Key::Global, Value::Global(Global::new(65_001, own, 179, 1)))];
    for n in [2, 3u8] {
        let session = Session::new(90, Families { v4: true, v6: false });
        let peer = Peer { passive: true, ..Peer::new(65_000 + u32::from(n), session) };
        ops.push(Op::Put(Key::Peer(Ipv4Addr::new(192, 168, 9, n).into()), Value::Peer(peer)));
    }
    speaker.apply(NOW, &ops);
    for n in [2, 3u8] {
        let conn = ConnId::In(n.into());
        let address = Ipv4Addr::new(192, 168, 9, n);
        let asn = 65_000 + u32::from(n);
        let (local, remote) = (SocketAddr::from((own, 179)), SocketAddr::from((address, 40_000)));
        speaker.handle(NOW, Input::Accepted { conn, local, remote });
        let open = Message::Open(Open {
            asn2: asn as u16,
            hold_s: 90,
            router_id: address,
            capabilities: vec![Capability::Multiprotocol { afi: 1, safi: SAFI_UNICAST }, Capability::FourOctetAs(asn)],
        });
        for message in [open, Message::Keepalive] {
            speaker.handle(NOW, Input::Received { conn, bytes: message.encode(CONTEXT).unwrap() });
        }
    }
    assert_eq!(drain(&mut speaker, &mut 0), 0, "nobody is told anything yet");
    speaker
}

/// Everything that the speaker has to say, where all that is sent leaves at once. Returns the prefixes of UPDATEs.
fn drain(speaker: &mut Speaker, news: &mut usize) -> usize {
    let mut prefixes = 0;
    while let Some(output) = speaker.poll() {
        match output {
            Output::Send { bytes, conn: ConnId::In(3) } => prefixes += decode(&bytes),
            Output::Drain { conn } => speaker.handle(NOW, Input::Drained { conn }),
            Output::Learned(_) => *news += 1,
            _ => {}
        }
    }
    prefixes
}

/// All routes in, in pieces as TCP gives them, and out to the other neighbour.
fn through(speaker: &mut Speaker, from: u64, pieces: &[Vec<u8>]) -> (usize, usize) {
    let (mut prefixes, mut news) = (0, 0);
    for bytes in pieces {
        speaker.handle(NOW, Input::Received { conn: ConnId::In(from), bytes: bytes.clone() });
        prefixes += drain(speaker, &mut news);
    }
    (prefixes, news)
}

fn benches(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("decode UPDATE, by prefixes in a message");
    for per_message in PACKED {
        let bytes = updates(8_000, per_message);
        group.throughput(Throughput::Elements(8_000));
        group.bench_function(BenchmarkId::from_parameter(per_message), |b| {
            b.iter(|| assert_eq!(decode(&bytes), 8_000));
        });
    }
    group.finish();
    let mut group = criterion.benchmark_group("encode UPDATE, by prefixes in a message");
    for per_message in PACKED {
        group.throughput(Throughput::Elements(8_000));
        group
            .bench_function(BenchmarkId::from_parameter(per_message), |b| b.iter(|| updates(8_000, per_message).len()));
    }
    group.finish();
    let mut group = criterion.benchmark_group("a speaker, from one neighbour to another, 800 prefixes in a message");
    group.sample_size(10);
    for routes in LADDER {
        let pieces: Vec<Vec<u8>> = updates(routes, 800).chunks(64 << 10).map(Vec::from).collect();
        group.throughput(Throughput::Elements(routes.into()));
        group.bench_function(BenchmarkId::from_parameter(routes), |b| {
            b.iter_batched_ref(
                speaker,
                |speaker| assert_eq!(through(speaker, 2, &pieces), (routes as usize, routes as usize)),
                BatchSize::LargeInput,
            );
        });
    }
    group.finish();
    let mut group = criterion.benchmark_group("the same routes from a second neighbour, not better");
    group.sample_size(10);
    for routes in LADDER {
        let pieces: Vec<Vec<u8>> = updates(routes, 800).chunks(64 << 10).map(Vec::from).collect();
        group.throughput(Throughput::Elements(routes.into()));
        group.bench_function(BenchmarkId::from_parameter(routes), |b| {
            b.iter_batched_ref(
                || {
                    let mut speaker = speaker();
                    through(&mut speaker, 2, &pieces);
                    speaker
                },
                |speaker| assert_eq!(through(speaker, 3, &pieces), (0, 0)),
                BatchSize::LargeInput,
            );
        });
    }
    group.finish();
    let mut group = criterion.benchmark_group("a speaker whose neighbour dies, by its routes");
    group.sample_size(10);
    for routes in LADDER {
        let pieces: Vec<Vec<u8>> = updates(routes, 800).chunks(64 << 10).map(Vec::from).collect();
        group.throughput(Throughput::Elements(routes.into()));
        group.bench_function(BenchmarkId::from_parameter(routes), |b| {
            b.iter_batched_ref(
                || {
                    let mut speaker = speaker();
                    through(&mut speaker, 2, &pieces);
                    speaker
                },
                |speaker| {
                    speaker.handle(NOW, Input::Closed { conn: ConnId::In(2) });
                    let mut news = 0;
                    drain(speaker, &mut news);
                    assert_eq!(news, routes as usize, "every route is gone");
                },
                BatchSize::LargeInput,
            );
        });
    }
    group.finish();
}

criterion_group!(all, benches);
criterion_main!(all);
