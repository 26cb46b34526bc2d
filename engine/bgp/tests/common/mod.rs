//! A small deterministic network of speakers: virtual time, delays, bytes cut anywhere, links that fail.
#![allow(dead_code, unreachable_pub)]

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use fairway_bgp::wire::{Capability, Context, Message, Open, Update};
use fairway_bgp::{ConnId, Event, Input, NeighborView, Output, SessionState, Speaker};
use fairway_desired::bgp::{
    Direction, Dynamic, Families, Global, Key, Network, Peer, Policy, Session, Statement, Value,
};
use fairway_desired::{Bgp, Family, Op, Outcome};
use ipnet::IpNet;

pub const BOTH: Families = Families { v4: true, v6: true };
pub const V4: Families = Families { v4: true, v6: false };

pub fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

pub fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

pub fn secs(s: u64) -> Duration {
    Duration::from_secs(s)
}

pub fn global(asn: u32, id: u8, max_paths: u8) -> Op<Bgp> {
    let router_id = Ipv4Addr::new(10, 0, 0, id);
    Op::Put(Key::Global, Value::Global(Global::new(asn, router_id, 179, max_paths)))
}

pub fn peer_value(asn: u32) -> Peer {
    Peer::new(asn, Session::new(9, BOTH))
}

pub fn peer(address: &str, asn: u32) -> Op<Bgp> {
    Op::Put(Key::Peer(ip(address)), Value::Peer(peer_value(asn)))
}

pub fn dynamic(range: &str, asns: &[u32]) -> Op<Bgp> {
    Op::Put(Key::Dynamic(net(range)), Value::Dynamic(Dynamic { asns: asns.to_vec(), session: Session::new(9, BOTH) }))
}

pub fn network(prefix: &str, next_hop: &str) -> Op<Bgp> {
    Op::Put(Key::Network(net(prefix)), Value::Network(Network { next_hop: ip(next_hop) }))
}

pub fn member(set: &str, prefix: &str) -> Op<Bgp> {
    let prefix = net(prefix);
    let (min, max) = (prefix.prefix_len(), prefix.max_prefix_len());
    Op::Put(Key::PrefixMember(set.into(), prefix), Value::PrefixMember { min, max })
}

pub fn statement(prefixes: Option<&str>, neighbors: Option<&str>, accept: bool) -> Statement {
    Statement {
        name: "s".into(),
        prefix_set: prefixes.map(Arc::from),
        neighbor_set: neighbors.map(Arc::from),
        accept,
        ..Statement::default()
    }
}

pub fn policy(direction: Direction, statements: Vec<Statement>, default_accept: bool) -> Op<Bgp> {
    Op::Put(Key::Policy(direction), Value::Policy(Policy { statements, default_accept }))
}

pub fn del(op: &Op<Bgp>) -> Op<Bgp> {
    Op::Del(op.key().clone())
}

/// What happens later.
#[derive(Clone, Debug)]
enum Later {
    Dialed { end: End, local: IpAddr, remote: SocketAddr },
    Bytes { to: End, bytes: Vec<u8> },
    Closed { to: End },
    Drained { end: End },
}

type End = (usize, ConnId);

pub struct Node {
    pub address: IpAddr,
    pub speaker: Speaker,
    pub port: Option<u16>,
    /// What Learned said, non-empty ones.
    pub learned: BTreeMap<IpNet, Vec<IpAddr>>,
    pub events: Vec<Event>,
}

/// Looks at each UPDATE at the moment it is sent.
pub type Watch = Box<dyn Fn(&Node, IpAddr, &Update)>;

pub struct Net {
    pub now: Duration,
    pub nodes: Vec<Node>,
    rng: oorandom::Rand32,
    queue: BTreeMap<(Duration, u64), Later>,
    seq: u64,
    /// Both ends of each connection that still stands.
    ends: BTreeMap<End, End>,
    /// Bytes on these are lost.
    dead: BTreeSet<End>,
    /// No earlier delivery than this to an end, so that bytes stay in order.
    last: BTreeMap<End, Duration>,
    pub cut: BTreeSet<(usize, usize)>,
    accepted: u64,
    /// Ends whose process is no more.
    gone: u64,
    pub max_delay_ms: u32,
    pub watch: Option<Watch>,
    /// UPDATE messages sent, End-of-RIB included.
    pub updates: usize,
    pub log: Vec<String>,
    /// What each end said of itself.
    opens: BTreeMap<End, Open>,
    /// Octets sent.
    pub octets: usize,
    /// How often a speaker waited for its bytes to leave.
    pub drains: usize,
}

impl Net {
    pub fn new(seed: u64, addresses: &[&str]) -> Self {
        let nodes = addresses
            .iter()
            .enumerate()
            .map(|(i, a)| Node {
                address: ip(a),
                speaker: Speaker::new(seed.wrapping_add(i as u64)),
                port: None,
                learned: BTreeMap::new(),
                events: vec![],
            })
            .collect();
        Self {
            now: Duration::ZERO,
            nodes,
            rng: oorandom::Rand32::new(seed),
            queue: BTreeMap::new(),
            seq: 0,
            ends: BTreeMap::new(),
            dead: BTreeSet::new(),
            last: BTreeMap::new(),
            cut: BTreeSet::new(),
            accepted: 0,
            gone: 0,
            max_delay_ms: 20,
            watch: None,
            updates: 0,
            log: vec![],
            opens: BTreeMap::new(),
            octets: 0,
            drains: 0,
        }
    }

    pub fn apply(&mut self, node: usize, ops: &[Op<Bgp>]) {
        let outcomes = self.nodes[node].speaker.apply(self.now, ops);
        assert!(outcomes.iter().all(|o| matches!(o, Outcome::Done | Outcome::Gone)), "{outcomes:?}");
        self.drain(node);
    }

    pub fn input(&mut self, node: usize, input: Input) {
        self.nodes[node].speaker.handle(self.now, input);
        self.drain(node);
    }

    fn later(&mut self, at: Duration, what: Later) {
        self.seq += 1;
        self.queue.insert((at, self.seq), what);
    }

    fn delay(&mut self) -> Duration {
        Duration::from_millis(u64::from(self.rng.rand_range(1..self.max_delay_ms + 1)))
    }

    fn find(&self, address: IpAddr) -> Option<usize> {
        self.nodes.iter().position(|n| n.address == address)
    }

    fn is_cut(&self, a: usize, b: usize) -> bool {
        self.cut.contains(&(a.min(b), a.max(b)))
    }

    /// Delivers to an end, after everything delivered there before.
    fn deliver(&mut self, to: End, what: impl FnOnce(End) -> Later) {
        let at = (self.now + self.delay()).max(self.last.get(&to).copied().unwrap_or_default());
        self.last.insert(to, at);
        self.later(at, what(to));
    }

    fn drain(&mut self, node: usize) {
        while let Some(output) = self.nodes[node].speaker.poll() {
            match output {
                Output::Listen { port } => self.nodes[node].port = Some(port),
                Output::Connect { conn, remote, .. } => {
                    let at = self.now + self.delay();
                    let local = self.nodes[node].address;
                    self.later(at, Later::Dialed { end: (node, conn), local, remote });
                }
                Output::Send { conn, bytes } => self.send((node, conn), bytes.to_vec()),
                Output::Limit { .. } | Output::Password { .. } | Output::Watch { .. } => {}
                Output::Drain { conn } => {
                    self.drains += 1;
                    let at = self.now + self.delay();
                    self.later(at, Later::Drained { end: (node, conn) });
                }
                Output::Close { conn } => {
                    if let Some(other) = self.ends.remove(&(node, conn))
                        && !self.dead.contains(&other)
                    {
                        self.deliver(other, |to| Later::Closed { to });
                    }
                }
                Output::Learned(l) => {
                    assert!(l.next_hops.is_sorted_by(|a, b| a < b), "{l:?}");
                    let learned = &mut self.nodes[node].learned;
                    let old = if l.next_hops.is_empty() {
                        learned.remove(&l.prefix)
                    } else {
                        learned.insert(l.prefix, l.next_hops.clone())
                    };
                    assert_ne!(old.unwrap_or_default(), l.next_hops, "Learned told no news about {}", l.prefix);
                }
                Output::Event(e) => {
                    self.log.push(format!("{:?} {}: {e}", self.now, self.nodes[node].address));
                    self.nodes[node].events.push(e);
                }
            }
        }
    }

    /// Whether a node sends another one several paths of a prefix.
    pub fn sends_several(&self, from: usize, to: usize, family: Family) -> bool {
        let mut ends = self.ends.iter().filter(|(a, b)| a.0 == from && b.0 == to);
        ends.any(|(a, b)| self.context(*a, *b).add_path.has(family))
    }

    /// How one end writes to the other.
    fn context(&self, from: End, to: End) -> Context {
        let (Some(ours), Some(theirs)) = (self.opens.get(&from), self.opens.get(&to)) else {
            return Context::default();
        };
        let mode = |open: &Open, family: u16, bit: u8| {
            open.capabilities.iter().any(|c| match c {
                Capability::AddPath(list) => list.iter().any(|(afi, _, mode)| *afi == family && mode & bit != 0),
                _ => false,
            })
        };
        let both = |c: &Capability| ours.capabilities.contains(c) && theirs.capabilities.contains(c);
        let paths = |family| mode(ours, family, 2) && mode(theirs, family, 1);
        Context {
            four_octet_as: ours.four_octet_as().is_some() && theirs.four_octet_as().is_some(),
            extended_messages: both(&Capability::ExtendedMessage),
            add_path: Families { v4: paths(1), v6: paths(2) },
            external: false,
        }
    }

    fn send(&mut self, from: End, bytes: Vec<u8>) {
        let Some(to) = self.ends.get(&from).copied() else { return };
        self.octets += bytes.len();
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            let context = self.context(from, to);
            let (message, len) = Message::decode(rest, context).expect("well-formed").expect("whole messages");
            if let Message::Open(open) = &message {
                self.opens.insert(from, open.clone());
            }
            if let Message::Update(update) = &message {
                self.updates += 1;
                assert_eq!(update.malformed, None);
                if let Some(watch) = &self.watch {
                    watch(&self.nodes[from.0], self.nodes[to.0].address, update);
                }
            }
            rest = &rest[len..];
        }
        if self.dead.contains(&from) {
            return;
        }
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            let n = if self.rng.rand_range(0..4) == 0 { self.rng.rand_range(1..60) as usize } else { rest.len() };
            let (chunk, more) = rest.split_at(n.min(rest.len()));
            rest = more;
            let bytes = chunk.to_vec();
            self.deliver(to, |to| Later::Bytes { to, bytes });
        }
    }

    /// Everything under way between two nodes is lost silently from now on, and nothing new gets through.
    pub fn cut(&mut self, a: usize, b: usize) {
        self.cut.insert((a.min(b), a.max(b)));
        let dead: Vec<End> =
            self.ends.iter().filter(|(x, y)| (x.0, y.0) == (a, b) || (x.0, y.0) == (b, a)).map(|(x, _)| *x).collect();
        self.dead.extend(dead);
    }

    pub fn heal(&mut self, a: usize, b: usize) {
        self.cut.remove(&(a.min(b), a.max(b)));
    }

    /// All connections between two nodes are reset.
    pub fn sever(&mut self, a: usize, b: usize) {
        let ends: Vec<End> =
            self.ends.iter().filter(|(x, y)| (x.0, y.0) == (a, b) || (x.0, y.0) == (b, a)).map(|(x, _)| *x).collect();
        for end in ends {
            self.ends.remove(&end);
            self.input(end.0, Input::Closed { conn: end.1 });
        }
    }

    /// The process of a node ends, and a new one begins with the same configuration. `graceful`: it says goodbye, and
    /// its forwarding goes on. The caller says when the configuration is complete.
    pub fn restart(&mut self, node: usize, graceful: bool, seed: u64) {
        let config = self.nodes[node].speaker.observe();
        if graceful {
            self.input(node, Input::Leave);
        }
        let of_node = |what: &Later| match what {
            Later::Dialed { end, .. } | Later::Drained { end } => end.0 == node,
            Later::Bytes { to, .. } | Later::Closed { to } => to.0 == node,
        };
        self.queue.retain(|_, what| !of_node(what));
        let others: Vec<(End, End)> = self.ends.iter().filter(|(_, e)| e.0 == node).map(|(a, b)| (*a, *b)).collect();
        for (other, end) in others {
            // Names may come again, but not this one. Until the other side hears of it, it writes to nobody.
            self.gone += 1;
            let nobody = (node, ConnId::In(u64::MAX - self.gone));
            self.ends.insert(other, nobody);
            if let Some(open) = self.opens.remove(&end) {
                self.opens.insert(nobody, open);
            }
            // Where it was closed already, that is on its way.
            if self.ends.remove(&end).is_some() && !self.dead.contains(&other) {
                self.deliver(other, |to| Later::Closed { to });
            }
        }
        self.ends.retain(|e, _| e.0 != node);
        self.dead.retain(|e| e.0 != node);
        self.last.retain(|e, _| e.0 != node);
        let new = &mut self.nodes[node];
        (new.speaker, new.port) = (Speaker::new(seed), None);
        new.learned.clear();
        if graceful {
            self.input(node, Input::Restarted);
        }
        let ops: Vec<Op<Bgp>> = config.into_iter().map(|(key, value)| Op::Put(key, value)).collect();
        self.apply(node, &ops);
    }

    fn happen(&mut self, what: Later) {
        match what {
            Later::Dialed { end, local, remote } => {
                let server = self
                    .find(remote.ip())
                    .filter(|s| self.nodes[*s].port == Some(remote.port()) && !self.is_cut(*s, end.0));
                let Some(server) = server else {
                    return self.input(end.0, Input::ConnectFailed { conn: end.1 });
                };
                self.accepted += 1;
                let conn = ConnId::In(self.accepted);
                self.ends.insert(end, (server, conn));
                self.ends.insert((server, conn), end);
                let source = SocketAddr::new(local, 40000);
                self.input(server, Input::Accepted { conn, local: remote, remote: source });
                self.input(end.0, Input::Connected { conn: end.1, local: source, remote });
            }
            Later::Drained { end } => self.input(end.0, Input::Drained { conn: end.1 }),
            Later::Bytes { to, bytes } => {
                if self.ends.contains_key(&to) && !self.dead.contains(&to) {
                    self.input(to.0, Input::Received { conn: to.1, bytes });
                }
            }
            Later::Closed { to } => {
                if self.ends.remove(&to).is_some() && !self.dead.contains(&to) {
                    self.input(to.0, Input::Closed { conn: to.1 });
                }
            }
        }
    }

    /// Lets time pass.
    pub fn run(&mut self, duration: Duration) {
        let end = self.now + duration;
        let mut steps = 0;
        loop {
            steps += 1;
            assert!(steps < 200_000, "never quiet: {:#?}", self.log);
            let event = self.queue.first_key_value().map(|((at, _), _)| *at);
            let timer = self.nodes.iter().enumerate().filter_map(|(i, n)| n.speaker.deadline().map(|at| (at, i))).min();
            match (event, timer) {
                (Some(at), _) if at <= end && timer.is_none_or(|(t, _)| at <= t) => {
                    self.now = self.now.max(at);
                    let (_, what) = self.queue.pop_first().unwrap();
                    self.happen(what);
                }
                (_, Some((at, node))) if at <= end => {
                    self.now = self.now.max(at);
                    self.input(node, Input::Tick);
                    assert!(
                        self.nodes[node].speaker.deadline().is_none_or(|next| next > self.now),
                        "the deadline does not move"
                    );
                }
                _ => break,
            }
        }
        self.now = end;
    }

    pub fn neighbor(&self, node: usize, address: &str) -> Option<NeighborView> {
        self.nodes[node].speaker.neighbors().into_iter().find(|n| n.address == ip(address))
    }

    pub fn established(&self, node: usize) -> usize {
        self.nodes[node].speaker.neighbors().iter().filter(|n| n.state == SessionState::Established).count()
    }

    pub fn learned(&self, node: usize, prefix: &str) -> Vec<IpAddr> {
        self.nodes[node].learned.get(&net(prefix)).cloned().unwrap_or_default()
    }
}
