//! IP Virtual Server: virtual servers, connections and persistence.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use fairway_desired::ipvs::{Forwarding, Key, RealServer, RealServerKey, Value, VirtualServer, VirtualServerKey};
use fairway_desired::{Family, Op, Outcome, Protocol, Table};

use crate::kernel::{EINVAL, ESRCH};
use crate::packet::{Ct, Kind, Packet, Tuple};
use crate::schedule::Cursor;

const SYN_RECEIVED: Duration = Duration::from_secs(60);
const RESET: Duration = Duration::from_secs(10);

/// A virtual server as `ipvsadm -Ln` shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VirtualServerView {
    /// Which.
    pub key: VirtualServerKey,
    /// How it distributes.
    pub server: VirtualServer,
    /// Its real servers, by address.
    pub real_servers: Vec<RealServerView>,
}

/// A real server with its connections.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RealServerView {
    /// Which.
    pub key: RealServerKey,
    /// How it is used.
    pub value: RealServer,
    /// Connections that are open.
    pub active: u64,
    /// Connections that end, and datagram exchanges.
    pub inactive: u64,
}

#[derive(Clone, Debug)]
pub(crate) struct Server {
    pub(crate) value: VirtualServer,
    /// In the order they were added.
    pub(crate) reals: Vec<(RealServerKey, RealServer)>,
    pub(crate) cursor: Cursor,
}

impl Server {
    fn real(&self, key: &RealServerKey) -> Option<&RealServer> {
        self.reals.iter().find(|(k, _)| k == key).map(|(_, r)| r)
    }
}

#[derive(Clone, Debug)]
struct Conn {
    server: VirtualServerKey,
    real: RealServerKey,
    /// Where its packets go: the real server, with the packet's port if the real server has none.
    to: SocketAddr,
    forwarding: Forwarding,
    active: bool,
    closed: bool,
    expires: Duration,
}

/// How many connections a real server has: open and others.
pub(crate) type Counts = BTreeMap<(VirtualServerKey, RealServerKey), (u64, u64)>;

/// How long connections are remembered without packets: established TCP, closed TCP, UDP.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Timeouts(pub(crate) [Duration; 3]);

impl Default for Timeouts {
    fn default() -> Self {
        Timeouts([900, 120, 300].map(Duration::from_secs))
    }
}

/// The IPVS state of a host.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ipvs {
    pub(crate) servers: BTreeMap<VirtualServerKey, Server>,
    /// By tuple from client to virtual server.
    conns: BTreeMap<Tuple, Conn>,
    /// By tuple from real server to client.
    replies: BTreeMap<Tuple, Tuple>,
    ages: BTreeSet<(Duration, Tuple)>,
    counts: Counts,
    pub(crate) timeouts: Timeouts,
    templates: BTreeMap<(VirtualServerKey, IpAddr), (RealServerKey, Duration)>,
}

/// The sysctls that matter, and the time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Knobs {
    pub(crate) now: Duration,
    pub(crate) conntrack: bool,
    pub(crate) expire_nodest: bool,
    pub(crate) expire_quiescent: bool,
    pub(crate) sloppy_tcp: bool,
}

/// What becomes of a packet to this host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Request {
    /// Not for IPVS.
    Pass,
    /// Swallowed; true: its connection is forgotten by conntrack too.
    Drop(&'static str, bool),
    /// ICMP port unreachable.
    Refuse(String),
    /// To this real server.
    Forward(SocketAddr, Forwarding),
}

impl Ipvs {
    pub(crate) fn is_empty(&self) -> bool {
        self.servers.is_empty() && self.conns.is_empty()
    }

    pub(crate) fn table(&self) -> Table<fairway_desired::Ipvs> {
        let mut table = Table::<fairway_desired::Ipvs>::new();
        for (key, server) in &self.servers {
            table.insert(Key { server: key.clone(), real: None }, Value::Server(server.value.clone()));
            for (real, value) in &server.reals {
                let key = Key { server: key.clone(), real: Some(real.clone()) };
                table.insert(key, Value::Real(value.clone()));
            }
        }
        table
    }

    pub(crate) fn apply(&mut self, op: &Op<fairway_desired::Ipvs>) -> Outcome {
        match op {
            Op::Put(Key { server, real: None }, Value::Server(value)) => {
                if !valid(server) || value.persistence_s == Some(0) {
                    return Outcome::Refused(EINVAL);
                }
                match self.servers.get_mut(server) {
                    Some(old) => {
                        if old.value.scheduler != value.scheduler {
                            old.cursor = Cursor::default();
                        }
                        old.value = value.clone();
                        old.cursor.stale();
                    }
                    None => {
                        let new = Server { value: value.clone(), reals: vec![], cursor: Cursor::default() };
                        self.servers.insert(server.clone(), new);
                    }
                }
                Outcome::Done
            }
            Op::Put(Key { server, real: Some(real) }, Value::Real(value)) => {
                let family = match server {
                    VirtualServerKey::Address { address, .. } => Family::of(*address),
                    VirtualServerKey::Mark { family, .. } => *family,
                };
                let Some(state) = self.servers.get_mut(server) else { return Outcome::Refused(ESRCH) };
                let mixed = Family::of(real.address) != family && value.forwarding == Forwarding::Masquerade;
                if mixed || i32::try_from(value.weight).is_err() || real.address.is_unspecified() {
                    return Outcome::Refused(EINVAL);
                }
                match state.reals.iter_mut().find(|(k, _)| k == real) {
                    Some((_, old)) => *old = value.clone(),
                    None => state.reals.push((real.clone(), value.clone())),
                }
                state.cursor.stale();
                Outcome::Done
            }
            Op::Put(..) => Outcome::Refused(EINVAL),
            Op::Del(Key { server, real: None }) => match self.servers.remove(server) {
                Some(_) => {
                    self.templates.retain(|(s, _), _| s != server);
                    Outcome::Done
                }
                None => Outcome::Gone,
            },
            Op::Del(Key { server, real: Some(real) }) => {
                let Some(state) = self.servers.get_mut(server) else { return Outcome::Gone };
                let Some(index) = state.reals.iter().position(|(k, _)| k == real) else { return Outcome::Gone };
                state.reals.remove(index);
                state.cursor.removed(index);
                Outcome::Done
            }
        }
    }

    /// A packet to this host, or from it before it leaves.
    pub(crate) fn request(&mut self, packet: &Packet, knobs: Knobs) -> Request {
        if packet.ipvs || packet.is_error() || self.is_empty() {
            return Request::Pass;
        }
        let now = knobs.now;
        if let Some(conn) = self.conns.get(&packet.tuple).filter(|c| c.expires > now) {
            let available = self.servers.get(&conn.server).is_some_and(|s| s.real(&conn.real).is_some());
            let again = packet.kind == Kind::Syn && conn.closed;
            if available && !again {
                let to = (conn.to, conn.forwarding);
                self.saw(packet.tuple, packet.kind, now);
                return Request::Forward(to.0, to.1);
            }
            if !available && !knobs.expire_nodest {
                return Request::Drop("its IPVS real server is gone", false);
            }
            self.forget(packet.tuple);
            if !available && knobs.conntrack && matches!(packet.ct, Ct::Known { .. }) {
                return Request::Drop("its IPVS real server is gone", true);
            }
        }
        self.schedule(packet, knobs)
    }

    fn schedule(&mut self, packet: &Packet, knobs: Knobs) -> Request {
        let Tuple { protocol, src, dst } = packet.tuple;
        let begins = match packet.kind {
            Kind::Syn | Kind::Datagram => true,
            Kind::Rst => false,
            _ => knobs.sloppy_tcp,
        };
        let Some(key) = self.find(packet).filter(|_| begins) else { return Request::Pass };
        let wildcard = matches!(key, VirtualServerKey::Address { port: 0, .. } | VirtualServerKey::Mark { .. });
        let Some(server) = self.servers.get_mut(&key) else { return Request::Pass };
        let persistence = server.value.persistence_s.map(|s| Duration::from_secs(s.into()));
        let mut chosen = None;
        if persistence.is_some()
            && let Some((real, until)) = self.templates.get(&(key.clone(), src.ip()))
        {
            let weight = server.real(real).map(|r| r.weight);
            let usable = weight.is_some_and(|w| w > 0 || !knobs.expire_quiescent);
            // A template does not end before the connections made with it.
            let held = || self.conns_of(src.ip()).any(|c| c.server == key && c.real == *real && c.expires > knobs.now);
            if usable && (*until > knobs.now || held()) {
                chosen = Some(real.clone());
            }
        }
        let Some(server) = self.servers.get_mut(&key) else { return Request::Pass };
        let Some(real) = chosen.or_else(|| server.pick(&key, packet.tuple, &self.counts)) else {
            return Request::Refuse(format!("IPVS has no real server for {dst}"));
        };
        let Some(value) = server.real(&real) else { return Request::Pass };
        let forwarding = value.forwarding;
        if let Some(timeout) = persistence {
            self.templates.insert((key.clone(), src.ip()), (real.clone(), knobs.now + timeout));
        }
        let port = if wildcard && real.port == 0 { dst.port() } else { real.port };
        let to = SocketAddr::new(real.address, port);
        let reply = Tuple { protocol, src: to, dst: src };
        let conn = Conn { server: key, real, to, forwarding, active: false, closed: false, expires: knobs.now };
        self.counts.entry((conn.server.clone(), conn.real.clone())).or_default().1 += 1;
        self.ages.insert((conn.expires, packet.tuple));
        self.conns.insert(packet.tuple, conn);
        self.replies.insert(reply, packet.tuple);
        self.saw(packet.tuple, packet.kind, knobs.now);
        Request::Forward(to, forwarding)
    }

    /// The virtual server of a packet: by mark, by address and port, by address alone.
    fn find(&self, packet: &Packet) -> Option<VirtualServerKey> {
        let Tuple { protocol, dst, .. } = packet.tuple;
        let by = |port| VirtualServerKey::Address { address: dst.ip(), port, protocol };
        let mark = VirtualServerKey::Mark { family: packet.family(), mark: packet.mark };
        let keys = [(packet.mark != 0).then_some(mark), Some(by(dst.port())), Some(by(0))];
        keys.into_iter().flatten().find(|k| self.servers.contains_key(k))
    }

    fn conns_of(&self, client: IpAddr) -> impl Iterator<Item = &Conn> {
        [Protocol::Tcp, Protocol::Udp, Protocol::Sctp].into_iter().flat_map(move |protocol| {
            let zero: IpAddr = std::net::Ipv4Addr::UNSPECIFIED.into();
            let from = Tuple { protocol, src: (client, 0).into(), dst: (zero, 0).into() };
            self.conns
                .range(from..)
                .take_while(move |(t, _)| t.protocol == protocol && t.src.ip() == client)
                .map(|(_, c)| c)
        })
    }

    /// Undoes the rewriting on a packet from a real server to a client. Returns whether it was one.
    pub(crate) fn reply(&mut self, packet: &mut Packet, now: Duration) -> bool {
        if packet.ipvs || self.conns.is_empty() {
            return false;
        }
        if let Kind::Error { about, port } = packet.kind {
            let Some(tuple) = self.replies.get(&about.reversed()).copied() else { return false };
            packet.kind = Kind::Error { about: tuple, port };
            packet.tuple.src = (tuple.dst.ip(), 0).into();
            packet.ipvs = true;
            return true;
        }
        let Some(tuple) = self.replies.get(&packet.tuple).copied() else { return false };
        let live = |c: &&Conn| c.expires > now && c.forwarding == Forwarding::Masquerade;
        if self.conns.get(&tuple).filter(live).is_none() {
            return false;
        }
        packet.tuple.src = tuple.dst;
        packet.ipvs = true;
        self.saw(tuple, packet.kind, now);
        true
    }

    fn saw(&mut self, tuple: Tuple, kind: Kind, now: Duration) {
        let Timeouts([established, closing, datagram]) = self.timeouts;
        let Some(conn) = self.conns.get_mut(&tuple) else { return };
        self.ages.remove(&(conn.expires, tuple));
        conn.closed |= matches!(kind, Kind::Fin | Kind::Rst);
        let active = !conn.closed && kind != Kind::Datagram;
        let more = match kind {
            Kind::Rst => RESET,
            _ if conn.closed => closing,
            Kind::Syn | Kind::SynAck => SYN_RECEIVED,
            Kind::Datagram => datagram,
            _ => established,
        };
        if active != conn.active {
            let count = self.counts.entry((conn.server.clone(), conn.real.clone())).or_default();
            if active {
                *count = (count.0 + 1, count.1.saturating_sub(1));
            } else {
                *count = (count.0.saturating_sub(1), count.1 + 1);
            }
            conn.active = active;
        }
        conn.expires = now + more;
        self.ages.insert((conn.expires, tuple));
    }

    fn forget(&mut self, tuple: Tuple) {
        let Some(conn) = self.conns.remove(&tuple) else { return };
        self.ages.remove(&(conn.expires, tuple));
        let reply = Tuple { protocol: tuple.protocol, src: conn.to, dst: tuple.src };
        if self.replies.get(&reply) == Some(&tuple) {
            self.replies.remove(&reply);
        }
        let key = (conn.server, conn.real);
        if let Some(count) = self.counts.get_mut(&key) {
            let slot = if conn.active { &mut count.0 } else { &mut count.1 };
            *slot = slot.saturating_sub(1);
            if *count == (0, 0) {
                self.counts.remove(&key);
            }
        }
    }

    /// Ends connections and templates whose time is over.
    pub(crate) fn expire(&mut self, now: Duration) {
        while let Some((at, tuple)) = self.ages.first().copied()
            && at <= now
        {
            self.forget(tuple);
            self.ages.remove(&(at, tuple));
        }
    }

    pub(crate) fn views(&self) -> Vec<VirtualServerView> {
        let view = |(key, server): (&VirtualServerKey, &Server)| {
            let mut real_servers: Vec<RealServerView> = server
                .reals
                .iter()
                .map(|(real, value)| {
                    let id = (key.clone(), real.clone());
                    let (active, inactive) = self.counts.get(&id).copied().unwrap_or_default();
                    RealServerView { key: real.clone(), value: value.clone(), active, inactive }
                })
                .collect();
            real_servers.sort_by(|a, b| a.key.cmp(&b.key));
            VirtualServerView { key: key.clone(), server: server.value.clone(), real_servers }
        };
        self.servers.iter().map(view).collect()
    }
}

fn valid(key: &VirtualServerKey) -> bool {
    match key {
        VirtualServerKey::Address { address, .. } => !address.is_unspecified() && !address.is_multicast(),
        VirtualServerKey::Mark { mark, .. } => *mark != 0,
    }
}
