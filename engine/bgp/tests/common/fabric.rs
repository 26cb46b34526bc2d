//! Many speakers with links between them, in virtual time: for counting messages at scale. It looks into nothing but
//! the header of messages; `mod.rs` has the small network that checks everything.
#![allow(dead_code, unreachable_pub, missing_docs)]

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use fairway_bgp::{ConnId, Input, Output, SessionState, Speaker};
use fairway_desired::bgp::{Dynamic, Families, Global, GracefulRestart, Key, Network, Peer, Session, Value};
use fairway_desired::{Bgp, Family, Op};
use ipnet::IpNet;

type End = (usize, ConnId);

enum Later {
    Dialed { end: End, remote: SocketAddr },
    Bytes { to: End, bytes: Vec<u8> },
    Closed { to: End },
    Drained { end: End },
    Tick { node: usize },
}

struct Node {
    address: IpAddr,
    speaker: Speaker,
    /// When it is woken, if it is.
    wake: Option<Duration>,
}

/// What was sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sent {
    pub opens: u64,
    pub updates: u64,
    pub notifications: u64,
    pub keepalives: u64,
    pub octets: u64,
    /// How often a next hop changed in a kernel.
    pub learned: u64,
}

impl Sent {
    /// What came since.
    pub fn since(self, before: Sent) -> Sent {
        Sent {
            opens: self.opens - before.opens,
            updates: self.updates - before.updates,
            notifications: self.notifications - before.notifications,
            keepalives: self.keepalives - before.keepalives,
            octets: self.octets - before.octets,
            learned: self.learned - before.learned,
        }
    }
}

pub struct Fabric {
    pub now: Duration,
    nodes: Vec<Node>,
    by_address: HashMap<IpAddr, usize>,
    queue: BTreeMap<(Duration, u64), Later>,
    seq: u64,
    ends: HashMap<End, End>,
    /// Bytes arrive in order.
    last: HashMap<End, Duration>,
    accepted: u64,
    pub sent: Sent,
    /// When a next hop last changed in a kernel.
    pub settled: Duration,
}

pub const V4: Families = Families { v4: true, v6: false };

pub fn address(n: usize) -> IpAddr {
    IpAddr::V4(Ipv4Addr::from(0x0a00_0001 + n as u32))
}

/// The prefix of a node's pods.
pub fn pods(n: usize) -> IpNet {
    IpNet::V4(ipnet::Ipv4Net::new_assert(Ipv4Addr::from(0x6400_0000 + ((n as u32) << 8)), 24))
}

pub fn session() -> Session {
    Session::new(90, V4)
}

pub fn graceful() -> Session {
    Session { graceful_restart: Some(GracefulRestart { time_s: 90, defer_s: 360, long_lived_s: 0 }), ..session() }
}

pub fn global(n: usize, asn: u32) -> Op<Bgp> {
    let IpAddr::V4(router_id) = address(n) else { unreachable!("addresses are IPv4") };
    Op::Put(Key::Global, Value::Global(Global::new(asn, router_id, 179, 16)))
}

pub fn peer(n: usize, asn: u32, session: Session) -> Op<Bgp> {
    Op::Put(Key::Peer(address(n)), Value::Peer(Peer::new(asn, session)))
}

pub fn dynamic(range: &str, session: Session) -> Op<Bgp> {
    Op::Put(Key::Dynamic(range.parse().expect("a range")), Value::Dynamic(Dynamic { asns: vec![], session }))
}

pub fn network(prefix: IpNet, node: usize) -> Op<Bgp> {
    Op::Put(Key::Network(prefix), Value::Network(Network { next_hop: address(node) }))
}

impl Fabric {
    pub fn new(nodes: usize) -> Self {
        let node = |n| Node { address: address(n), speaker: Speaker::new(n as u64), wake: None };
        Self {
            now: Duration::from_secs(1),
            nodes: (0..nodes).map(node).collect(),
            by_address: (0..nodes).map(|n| (address(n), n)).collect(),
            queue: BTreeMap::new(),
            seq: 0,
            ends: HashMap::new(),
            last: HashMap::new(),
            accepted: 0,
            sent: Sent::default(),
            settled: Duration::ZERO,
        }
    }

    pub fn speaker(&self, node: usize) -> &Speaker {
        &self.nodes[node].speaker
    }

    pub fn apply(&mut self, node: usize, ops: &[Op<Bgp>]) {
        let now = self.now;
        self.nodes[node].speaker.apply(now, ops);
        self.drain(node);
    }

    pub fn input(&mut self, node: usize, input: Input) {
        let now = self.now;
        self.nodes[node].speaker.handle(now, input);
        self.drain(node);
    }

    fn later(&mut self, at: Duration, what: Later) {
        self.seq += 1;
        self.queue.insert((at, self.seq), what);
    }

    /// A fifth of a millisecond, and up to half of one more; between two nodes always the same.
    fn latency(a: usize, b: usize) -> Duration {
        let (low, high) = (a.min(b) as u64, a.max(b) as u64);
        let mixed = (low << 32 | high).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        Duration::from_micros(200 + (mixed >> 40) % 500)
    }

    fn deliver(&mut self, from: usize, to: End, what: Later) {
        let at = (self.now + Self::latency(from, to.0)).max(self.last.get(&to).copied().unwrap_or_default());
        self.last.insert(to, at);
        self.later(at, what);
    }

    fn drain(&mut self, node: usize) {
        while let Some(output) = self.nodes[node].speaker.poll() {
            match output {
                Output::Connect { conn, remote, .. } => {
                    let to = self.by_address.get(&remote.ip()).copied().unwrap_or(node);
                    let at = self.now + Self::latency(node, to);
                    self.later(at, Later::Dialed { end: (node, conn), remote });
                }
                Output::Send { conn, bytes } => {
                    self.count(&bytes);
                    if let Some(to) = self.ends.get(&(node, conn)).copied() {
                        self.deliver(node, to, Later::Bytes { to, bytes: bytes.to_vec() });
                    }
                }
                Output::Drain { conn } => {
                    let at = self.now + Duration::from_micros(100);
                    self.later(at, Later::Drained { end: (node, conn) });
                }
                Output::Close { conn } => {
                    if let Some(to) = self.ends.remove(&(node, conn)) {
                        self.deliver(node, to, Later::Closed { to });
                    }
                }
                Output::Learned(_) => {
                    self.sent.learned += 1;
                    self.settled = self.now;
                }
                _ => {}
            }
        }
        let due = self.nodes[node].speaker.deadline();
        if let Some(at) = due
            && self.nodes[node].wake.is_none_or(|wake| wake > at)
        {
            self.nodes[node].wake = Some(at);
            self.later(at, Later::Tick { node });
        }
    }

    fn count(&mut self, mut bytes: &[u8]) {
        self.sent.octets += bytes.len() as u64;
        while let [_, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, high, low, kind, ..] = bytes {
            match kind {
                1 => self.sent.opens += 1,
                2 => self.sent.updates += 1,
                3 => self.sent.notifications += 1,
                _ => self.sent.keepalives += 1,
            }
            bytes = &bytes[usize::from(u16::from_be_bytes([*high, *low]))..];
        }
    }

    fn happen(&mut self, what: Later) {
        match what {
            Later::Dialed { end, remote } => {
                let Some(server) = self.by_address.get(&remote.ip()).copied() else {
                    return self.input(end.0, Input::ConnectFailed { conn: end.1 });
                };
                self.accepted += 1;
                let conn = ConnId::In(self.accepted);
                self.ends.insert(end, (server, conn));
                self.ends.insert((server, conn), end);
                let source = SocketAddr::new(self.nodes[end.0].address, 40000);
                self.input(server, Input::Accepted { conn, local: remote, remote: source });
                self.input(end.0, Input::Connected { conn: end.1, local: source, remote });
            }
            Later::Bytes { to, bytes } => {
                if self.ends.contains_key(&to) {
                    self.input(to.0, Input::Received { conn: to.1, bytes });
                }
            }
            Later::Closed { to } => {
                self.last.remove(&to);
                if self.ends.remove(&to).is_some() {
                    self.input(to.0, Input::Closed { conn: to.1 });
                }
            }
            Later::Drained { end } => self.input(end.0, Input::Drained { conn: end.1 }),
            Later::Tick { node } => {
                if self.nodes[node].wake == Some(self.now) {
                    self.nodes[node].wake = None;
                    self.input(node, Input::Tick);
                }
            }
        }
    }

    /// Lets time pass.
    pub fn run(&mut self, duration: Duration) {
        let end = self.now + duration;
        while let Some(entry) = self.queue.first_entry() {
            let at = entry.key().0;
            if at > end {
                break;
            }
            let what = entry.remove();
            self.now = self.now.max(at);
            self.happen(what);
        }
        self.now = end;
    }

    /// Breaks all connections of a node at once.
    pub fn sever(&mut self, node: usize) {
        let ends: Vec<End> = self.ends.iter().filter(|(a, b)| a.0 == node || b.0 == node).map(|(a, _)| *a).collect();
        let mut ends = ends;
        ends.sort_unstable();
        for end in ends {
            self.ends.remove(&end);
            self.input(end.0, Input::Closed { conn: end.1 });
        }
    }

    /// Sessions that are up, each counted once.
    pub fn sessions(&self) -> usize {
        let up = |n: &Node| n.speaker.neighbors().iter().filter(|n| n.state == SessionState::Established).count();
        self.nodes.iter().map(up).sum::<usize>() / 2
    }

    /// Prefixes in a node's Loc-RIB.
    pub fn prefixes(&self, node: usize) -> usize {
        let mut prefixes: Vec<IpNet> = self.nodes[node].speaker.rib(Family::V4).iter().map(|p| p.prefix).collect();
        prefixes.dedup();
        prefixes.len()
    }
}

/// Every node is a neighbour of every other one, as kube-router has it by default; each has a network of pods.
pub fn mesh(nodes: usize) -> Fabric {
    let mut fabric = Fabric::new(nodes);
    for n in 0..nodes {
        let mut ops = vec![global(n, 64512), network(pods(n), n)];
        ops.extend((0..nodes).filter(|m| *m != n).map(|m| peer(m, 64512, session())));
        fabric.apply(n, &ops);
    }
    fabric
}

/// The first nodes are reflectors of one cluster, in full mesh; all others are clients of each of them. (With clusters
/// of their own, reflectors would take each other's second-hand paths for a moment whenever a client withdraws.)
pub fn reflected(nodes: usize, reflectors: usize) -> Fabric {
    let mut fabric = Fabric::new(nodes);
    let client = Session { reflector_client: true, ..session() };
    for n in 0..nodes {
        let mut ops = vec![global(n, 64512), network(pods(n), n)];
        if n < reflectors
            && let Op::Put(_, Value::Global(global)) = &mut ops[0]
        {
            global.cluster_id = Some(Ipv4Addr::new(1, 2, 3, 4));
        }
        ops.extend((0..reflectors).filter(|m| *m != n).map(|m| peer(m, 64512, session())));
        if n < reflectors {
            ops.extend((reflectors..nodes).map(|m| peer(m, 64512, client.clone())));
        }
        fabric.apply(n, &ops);
    }
    fabric
}

/// Two spines, top-of-rack routers below them, nodes below those, an AS for each spine and router and for the nodes of
/// each rack. The nodes come first, rack by rack, then the routers, then the spines.
pub struct Racks {
    pub fabric: Fabric,
    pub racks: usize,
    pub per_rack: usize,
}

impl Racks {
    /// The router of a rack.
    pub fn router(&self, rack: usize) -> usize {
        self.racks * self.per_rack + rack
    }
}

pub fn racks(racks: usize, per_rack: usize, session: fn() -> Session) -> Racks {
    let nodes = racks * per_rack;
    let mut fabric = Fabric::new(nodes + racks + 2);
    let (router_as, spine_as) = (|rack: usize| 65100 + rack as u32, |spine: usize| 65001 + spine as u32);
    for spine in 0..2 {
        let n = nodes + racks + spine;
        fabric.apply(n, &[global(n, spine_as(spine)), dynamic("10.0.0.0/8", session())]);
    }
    for rack in 0..racks {
        let n = nodes + rack;
        let mut ops = vec![global(n, router_as(rack)), dynamic("10.0.0.0/8", session())];
        ops.extend((0..2).map(|spine| peer(nodes + racks + spine, spine_as(spine), session())));
        fabric.apply(n, &ops);
    }
    for n in 0..nodes {
        let rack = n / per_rack;
        let asn = 64000 + rack as u32;
        fabric.apply(n, &[global(n, asn), network(pods(n), n), peer(nodes + rack, router_as(rack), session())]);
    }
    Racks { fabric, racks, per_rack }
}
