//! Fuzz targets of the BGP speaker. Each takes any bytes and panics if something that must hold does not.
//!
//! `make fuzz` runs each of them for a few seconds from its corpus, guided by coverage; `engine/bgp/tests/fuzz.rs` is
//! given the same functions and replays the corpora, with a bounded number of mutations, as an ordinary test. To hunt:
//! `cargo fuzz run session`, or what the Makefile does with more seconds. A new find goes into `corpus/`.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use fairway_bgp::wire::{Capability, Context, Message, Open, RestartFamily, StaleFamily};
use fairway_bgp::{ConnId, Input, Output, Speaker};
use fairway_desired::bgp::{
    AddPath, Direction, Distance, Dynamic, Families, Global, GracefulRestart, Key, MaxPrefixes, Network, Peer, Policy,
    Session, Statement, Value,
};
use fairway_desired::{Bgp, Family, Op};
use ipnet::IpNet;

/// Takes any bytes.
pub type Target = fn(&[u8]);

/// All targets by name.
pub const TARGETS: [(&str, Target); 8] = [
    ("message", message),
    ("open", open),
    ("capabilities", capabilities),
    ("update", update),
    ("attributes", attributes),
    ("notification", notification),
    ("refresh", refresh),
    ("session", session),
];

/// What was negotiated, by the bits of a byte.
fn context(bits: u8) -> Context {
    Context {
        four_octet_as: bits & 1 != 0,
        extended_messages: bits & 2 != 0,
        add_path: Families { v4: bits & 4 != 0, v6: bits & 8 != 0 },
        external: bits & 16 != 0,
    }
}

/// A header in front of a body.
fn framed(kind: u8, body: &[u8]) -> Vec<u8> {
    let len = u16::try_from(19 + body.len()).unwrap_or(u16::MAX);
    let mut out = vec![0xff; 16];
    out.extend(len.to_be_bytes());
    out.push(kind);
    out.extend(body);
    out
}

/// Reads one message and sees that what it says holds together. Returns how long it was.
fn decode(bytes: &[u8], context: Context) -> Option<usize> {
    let (message, len) = match Message::decode(bytes, context) {
        Err(n) => {
            assert!((1..=7).contains(&n.code) && n.code != 6, "the decoder answers with an error of its own: {n:?}");
            assert!(!n.to_string().is_empty());
            assert!(n.data.len() <= bytes.len());
            return None;
        }
        Ok(None) => return None,
        Ok(Some(found)) => found,
    };
    assert!((19..=context.max_len()).contains(&len) && len <= bytes.len());
    // A message that is not complete decides nothing.
    for cut in [0, 1, 15, 16, 17, 18, 19, len / 2, len - 1] {
        assert_eq!(Message::decode(&bytes[..cut.min(len - 1)], context), Ok(None));
    }
    let again = Message::decode(&bytes[..len], context);
    assert_eq!(again.as_ref(), Ok(&Some((message.clone(), len))), "what follows does not matter");
    let whole = match &message {
        Message::Update(u) => {
            let announced = u.reach.is_some() || u.mp_reach.is_some();
            assert_eq!(u.attributes.is_some(), announced);
            assert!(!(u.malformed.is_some() && announced), "broken routes are not announced");
            u.malformed.is_none() && u.discarded.is_empty() && !u.foreign
        }
        Message::Notification(n) => {
            assert!(!n.to_string().contains(|c: char| c.is_control()));
            true
        }
        Message::Open(open) => {
            let _ = (open.asn(), open.offers(Family::V4), open.offers(Family::V6));
            true
        }
        Message::Keepalive | Message::RouteRefresh(_) => true,
    };
    if whole && let Ok(bytes) = message.encode(context) {
        let read = Message::decode(&bytes, context);
        assert_eq!(read, Ok(Some((message, bytes.len()))), "what is written is read");
    }
    Some(len)
}

/// The first byte says what was negotiated, the rest is a stream of messages.
pub fn message(data: &[u8]) {
    let Some((bits, mut rest)) = data.split_first() else { return };
    while let Some(len) = decode(rest, context(*bits)) {
        rest = &rest[len..];
    }
}

/// The body of an OPEN.
pub fn open(data: &[u8]) {
    decode(&framed(1, data), Context::default());
}

/// The capabilities of an OPEN.
pub fn capabilities(data: &[u8]) {
    let Ok(len) = u8::try_from(data.len()) else { return };
    let mut body = vec![4, 0xfd, 0xe9, 0, 90, 10, 0, 0, 1];
    body.extend([len.saturating_add(2), 2, len]);
    body.extend(data);
    decode(&framed(1, &body), Context::default());
}

/// What was negotiated, and the body of an UPDATE.
pub fn update(data: &[u8]) {
    let Some((bits, body)) = data.split_first() else { return };
    decode(&framed(2, body), context(*bits));
}

/// What was negotiated, and the attributes of an UPDATE that announces an IPv4 prefix.
pub fn attributes(data: &[u8]) {
    let Some((bits, section)) = data.split_first() else { return };
    let Ok(len) = u16::try_from(section.len()) else { return };
    let context = context(*bits);
    let mut body = vec![0, 0];
    body.extend(len.to_be_bytes());
    body.extend(section);
    if context.add_path.v4 {
        body.extend([0, 0, 0, 1]);
    }
    body.extend([24, 10, 9, 0]);
    decode(&framed(2, &body), context);
}

/// The body of a NOTIFICATION.
pub fn notification(data: &[u8]) {
    decode(&framed(3, data), Context { extended_messages: true, ..Context::default() });
}

/// The body of a ROUTE-REFRESH.
pub fn refresh(data: &[u8]) {
    decode(&framed(5, data), Context::default());
}

/// Bytes that are read as a program.
struct Program<'a>(&'a [u8]);

impl<'a> Program<'a> {
    fn byte(&mut self) -> u8 {
        let (first, rest) = self.0.split_first().map_or((0, self.0), |(b, rest)| (*b, rest));
        self.0 = rest;
        first
    }

    fn take(&mut self, len: usize) -> &'a [u8] {
        let (head, tail) = self.0.split_at(len.min(self.0.len()));
        self.0 = tail;
        head
    }
}

/// What a connection was seen to do.
#[derive(Default)]
struct Seen {
    closed: bool,
    notifications: usize,
    /// Octets since all had left.
    unsent: usize,
}

/// The driver of one speaker.
struct Driver {
    speaker: Speaker,
    now: Duration,
    conns: BTreeMap<ConnId, Seen>,
    accepted: u64,
    /// Octets that came in, ever.
    received: usize,
    shut_down: bool,
}

/// No more than this may wait for a neighbour that does not read: the window, one chunk beyond it, and small things.
const UNSENT_MAX: usize = 2 << 20;

impl Driver {
    fn input(&mut self, input: Input) {
        let octets = match &input {
            Input::Received { bytes, .. } => bytes.len(),
            _ => 0,
        };
        self.received += octets;
        self.speaker.handle(self.now, input);
        self.drain();
    }

    fn apply(&mut self, ops: &[Op<Bgp>]) {
        self.speaker.apply(self.now, ops);
        self.drain();
    }

    fn drain(&mut self) {
        let mut outputs = 0;
        while let Some(output) = self.speaker.poll() {
            outputs += 1;
            assert!(!format!("{output:?}").is_empty());
            match output {
                Output::Connect { conn, .. } => {
                    assert!(!self.shut_down, "no dial after shutdown");
                    assert!(self.conns.insert(conn, Seen::default()).is_none(), "a name is used once");
                }
                Output::Send { conn, bytes } => {
                    let seen = self.conns.get_mut(&conn).expect("a connection that there is");
                    assert!(!seen.closed, "nothing is sent after the end");
                    seen.unsent += bytes.len();
                    assert!(seen.unsent <= UNSENT_MAX, "{} octets wait", seen.unsent);
                    let mut rest = &bytes[..];
                    while let [_, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, high, low, kind, ..] = rest {
                        assert_eq!(seen.notifications, 0, "NOTIFICATION is the last word");
                        seen.notifications += usize::from(*kind == 3);
                        let len = usize::from(u16::from_be_bytes([*high, *low]));
                        assert!((19..=rest.len()).contains(&len), "whole messages");
                        rest = &rest[len..];
                    }
                    assert!(rest.is_empty());
                }
                Output::Close { conn } => {
                    self.conns.entry(conn).or_default().closed = true;
                }
                Output::Watch { .. }
                | Output::Learned(_)
                | Output::Event(_)
                | Output::Drain { .. }
                | Output::Listen { .. }
                | Output::Limit { .. }
                | Output::Password { .. } => {}
            }
        }
        // Each prefix is one output at most for the kernel, and a few for events; no input makes more of its octets.
        assert!(outputs <= 4096 + 16 * self.received, "{outputs} outputs after {} octets", self.received);
        assert!(self.speaker.deadline().is_none_or(|at| at > self.now), "a deadline that is past stays");
        let held: usize = self.speaker.neighbors().iter().map(|n| n.received).sum();
        assert!(held <= self.received, "{held} routes of {} octets", self.received);
    }

    fn conn(&self, which: u8) -> Option<ConnId> {
        self.conns.keys().rev().nth(usize::from(which & 7)).copied()
    }

    fn accept(&mut self, from: IpAddr) -> ConnId {
        self.accepted += 1;
        let conn = ConnId::In(self.accepted);
        self.conns.insert(conn, Seen::default());
        let local = SocketAddr::new(OURS, 179);
        self.input(Input::Accepted { conn, local, remote: SocketAddr::new(from, 40000) });
        conn
    }

    fn say(&mut self, conn: ConnId, message: &Message) {
        let context = Context { four_octet_as: true, ..Context::default() };
        if let Ok(bytes) = message.encode(context) {
            self.input(Input::Received { conn, bytes });
        }
    }
}

const OURS: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 100));

fn neighbor(n: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(10, 0, 0, n & 3))
}

/// A session's options, by the bits of a byte.
fn options(bits: u8) -> Session {
    let mut s = Session::new(if bits & 1 != 0 { 9 } else { 90 }, Families::ALL);
    s.add_path = AddPath { receive: bits & 2 != 0, send: (bits & 2) * 2 };
    let long_lived_s = u32::from(bits & 8) * 10;
    s.graceful_restart = (bits & 4 != 0).then_some(GracefulRestart { time_s: 60, defer_s: 30, long_lived_s });
    s.extended_next_hop = bits & 16 != 0;
    s.reflector_client = bits & 32 != 0;
    s.max_prefixes = (bits & 64 != 0).then_some(MaxPrefixes { limit: 5, warn_percent: 50, restart_s: Some(60) });
    s.allow_own_as = bits >> 7;
    s.distance = if bits & 128 != 0 { Distance::Security(1) } else { Distance::Default };
    s
}

/// An OPEN with capabilities by the bits of a byte.
fn their_open(asn: u32, id: u8, bits: u8) -> Open {
    let mut capabilities = vec![Capability::Multiprotocol { afi: 1, safi: 1 }, Capability::FourOctetAs(asn)];
    let forwarding = bits & 1 != 0;
    let families = [1, 2].map(|afi| RestartFamily { afi, safi: 1, forwarding });
    let stale = [1, 2].map(|afi| StaleFamily { afi, safi: 1, forwarding, time_s: 100 });
    for (bit, capability) in [
        (1, Capability::Multiprotocol { afi: 2, safi: 1 }),
        (2, Capability::ExtendedMessage),
        (4, Capability::EnhancedRefresh),
        (
            8,
            Capability::GracefulRestart {
                restarted: forwarding,
                notification: bits & 128 != 0,
                time_s: 30,
                families: families.to_vec(),
            },
        ),
        (16, Capability::LongLived(stale.to_vec())),
        (32, Capability::AddPath(vec![(1, 1, 3), (2, 1, 3)])),
        (64, Capability::ExtendedNextHop(vec![(1, 1, 2)])),
    ] {
        if bits & bit != 0 {
            capabilities.push(capability);
        }
    }
    Open { asn2: asn as u16, hold_s: 30, router_id: Ipv4Addr::new(10, 0, 0, id), capabilities }
}

fn prefix(n: u8) -> IpNet {
    IpNet::new_assert(IpAddr::V4(Ipv4Addr::new(10, n & 7, 0, 0)), 12 + (n >> 4))
}

/// A change of configuration, by two bytes.
fn op(kind: u8, value: u8) -> Op<Bgp> {
    let set = |n: u8| if n & 1 == 0 { "a".into() } else { "b".into() };
    let direction = if value & 1 == 0 { Direction::Import } else { Direction::Export };
    match kind % 12 {
        0 => {
            let mut global = Global::new(65100 + u32::from(value & 1), Ipv4Addr::new(10, 0, 0, 100), 179, value >> 5);
            global.cluster_id = (value & 2 != 0).then_some(Ipv4Addr::new(1, 2, 3, 4));
            global.graceful_shutdown = value & 4 != 0;
            Op::Put(Key::Global, Value::Global(global))
        }
        1 => Op::Del(Key::Global),
        2 => Op::Put(Key::PrefixMember(set(value), prefix(value)), Value::PrefixMember { min: 0, max: 32 }),
        3 => Op::Del(Key::PrefixMember(set(value), prefix(value))),
        4 => Op::Put(Key::NeighborMember(set(value), neighbor(value >> 1).into()), Value::NeighborMember),
        5 => Op::Del(Key::NeighborMember(set(value), neighbor(value >> 1).into())),
        6 => {
            let statement = Statement {
                name: "s".into(),
                prefix_set: (value & 2 != 0).then(|| set(value >> 2)),
                neighbor_set: (value & 8 != 0).then(|| set(value >> 4)),
                accept: value & 32 != 0,
                ..Statement::default()
            };
            let policy = Policy { statements: vec![statement], default_accept: value & 64 != 0 };
            Op::Put(Key::Policy(direction), Value::Policy(policy))
        }
        7 => Op::Del(Key::Policy(direction)),
        8 => Op::Put(Key::Network(prefix(value).trunc()), Value::Network(Network { next_hop: OURS })),
        9 => Op::Del(Key::Network(prefix(value).trunc())),
        10 => {
            let asn = if value & 1 == 0 { 65001 } else { 65100 };
            Op::Put(Key::Peer(neighbor(value >> 6)), Value::Peer(Peer::new(asn, options(value))))
        }
        _ => Op::Del(Key::Peer(neighbor(value))),
    }
}

/// A speaker with some neighbours, and whatever may happen to it: connections come and go, bytes of all kinds arrive,
/// time passes, the configuration changes.
pub fn session(data: &[u8]) {
    let mut p = Program(data);
    let mut d = Driver {
        speaker: Speaker::new(u64::from(p.byte())),
        now: Duration::from_secs(10),
        conns: BTreeMap::new(),
        accepted: 0,
        received: 0,
        shut_down: false,
    };
    if p.byte() & 1 != 0 {
        d.input(Input::Restarted);
    }
    let dynamic = Dynamic { asns: vec![65001, 65100], session: options(p.byte()) };
    d.apply(&[
        op(0, 0x80),
        Op::Put(Key::Dynamic(IpNet::new_assert(OURS, 24).trunc()), Value::Dynamic(dynamic)),
        Op::Put(Key::Peer(neighbor(1)), Value::Peer(Peer::new(65001, options(p.byte())))),
    ]);
    while !p.0.is_empty() {
        let what = p.byte();
        let which = what >> 5;
        match what & 31 {
            0..=9 => {
                // A message with a good header.
                let (kind, len) = (p.byte(), usize::from(p.byte()));
                let bytes = framed(kind % 6, p.take(len));
                if let Some(conn) = d.conn(which) {
                    let cut = usize::from(what & 3) * bytes.len() / 4;
                    d.input(Input::Received { conn, bytes: bytes[..cut].to_vec() });
                    d.input(Input::Received { conn, bytes: bytes[cut..].to_vec() });
                }
            }
            10 => {
                let len = usize::from(p.byte());
                let bytes = p.take(len).to_vec();
                if let Some(conn) = d.conn(which) {
                    d.input(Input::Received { conn, bytes });
                }
            }
            11..=13 => {
                d.accept(neighbor(which));
            }
            14 | 15 => {
                let conn = d.accept(neighbor(which));
                let asn = if what & 1 == 0 { 65001 } else { 65100 };
                d.say(conn, &Message::Open(their_open(asn, which + 1, p.byte())));
                d.say(conn, &Message::Keepalive);
            }
            16 | 17 => {
                let (asn, bits) = if what & 1 == 0 { (65001, p.byte()) } else { (65100, p.byte()) };
                if let Some(conn) = d.conn(which) {
                    d.say(conn, &Message::Open(their_open(asn, 1, bits)));
                }
            }
            18 => {
                if let Some(conn) = d.conn(which) {
                    d.say(conn, &Message::Keepalive);
                }
            }
            19 => {
                if let Some(conn) = d.conn(which) {
                    let local = SocketAddr::new(OURS, 40001);
                    d.input(Input::Connected { conn, local, remote: SocketAddr::new(neighbor(1), 179) });
                }
            }
            20 | 21 => {
                if let Some(conn) = d.conn(which) {
                    let input = if what & 1 == 0 { Input::ConnectFailed { conn } } else { Input::Closed { conn } };
                    d.input(input);
                }
            }
            22 => {
                if let Some(conn) = d.conn(which) {
                    if let Some(seen) = d.conns.get_mut(&conn) {
                        seen.unsent = 0;
                    }
                    d.input(Input::Drained { conn });
                }
            }
            23 | 24 => {
                d.now += Duration::from_millis(u64::from(p.byte()) * 400);
                d.input(Input::Tick);
            }
            25 | 26 => {
                let ops: Vec<Op<Bgp>> = (0..=which & 3).map(|_| op(p.byte(), p.byte())).collect();
                d.apply(&ops);
            }
            27 => {
                let peer = neighbor(which);
                let message = String::from_utf8_lossy(p.take(8)).into_owned();
                d.input(Input::ResetPeer { peer, message });
            }
            28 => {
                let enabled = p.byte() & 1 == 0;
                d.input(Input::EnablePeer { peer: neighbor(which), enabled, message: String::new() });
            }
            29 => d.input(Input::Refresh { peer: neighbor(which), import: what & 32 != 0, export: true }),
            30 => d.input(Input::BfdDown(neighbor(which))),
            _ => match p.byte() {
                0..=1 => {
                    d.shut_down = true;
                    d.input(Input::Shutdown { message: "bye".into() });
                }
                2..=3 => {
                    d.shut_down = true;
                    d.input(Input::Leave);
                }
                4..=99 => d.input(Input::Complete),
                _ => d.input(Input::Drain),
            },
        }
        let net = prefix(what);
        if let Some(explained) = d.speaker.explain(net) {
            assert_eq!(explained.prefix, net.trunc());
        }
    }
}
