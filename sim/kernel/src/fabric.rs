//! Hosts, wires, sockets and connections.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use fairway_desired::Protocol;

use crate::kernel::{Kernel, Wire};
use crate::neighbor::Neighbors;
use crate::packet::{Kind, Packet, Tuple};
use crate::route::{Flow as Lookup, Found, Target};
use crate::types::{Attempt, Connect, Connected, Failure, FlowId, HostId, LanId, Posted, SocketError, SocketId, Trace};
use crate::walk::Fate;

/// `net/ipv4/ip_local_port_range`
const EPHEMERAL: std::ops::Range<u64> = 32768..61000;

#[derive(Clone, Debug)]
struct Listener {
    address: Option<IpAddr>,
    owner: String,
}

#[derive(Clone, Debug)]
pub(crate) struct Host {
    pub(crate) name: String,
    pub(crate) kernel: Kernel,
    alive: bool,
    listeners: BTreeMap<(Protocol, u16), Vec<Listener>>,
}

#[derive(Clone, Debug)]
pub(crate) struct Lan {
    pub(crate) name: String,
    pub(crate) latency: Duration,
    pub(crate) members: Vec<(HostId, Arc<str>)>,
}

/// One end of a connection.
#[derive(Clone, Debug)]
struct End {
    host: HostId,
    owner: String,
    /// Its packets as it sends them.
    sends: Tuple,
    alive: bool,
    /// The other end's reset arrived.
    reset: bool,
}

#[derive(Clone, Debug)]
struct Conn {
    client: End,
    server: End,
}

/// What the sender of a packet experiences, apart from answers.
enum Got {
    /// It reached a host's sockets.
    Delivered(HostId, Tuple),
    Failed(Failure, String),
}

/// Hosts and the wires between them.
#[derive(Clone, Debug)]
pub struct Fabric {
    rng: oorandom::Rand64,
    now: Duration,
    pub(crate) hosts: Vec<Host>,
    pub(crate) lans: Vec<Lan>,
    pub(crate) neighbors: Neighbors,
    conns: BTreeMap<FlowId, Conn>,
    /// Clients' ends of the connections.
    ends: BTreeSet<(HostId, Tuple)>,
    next_flow: u64,
    next_socket: u64,
    /// What happens, for people; only while tracing.
    log: Option<Vec<String>>,
}

impl Fabric {
    /// An empty fabric. The seed decides every random choice of every host.
    pub fn new(seed: u64) -> Self {
        Fabric {
            rng: oorandom::Rand64::new(u128::from(seed)),
            now: Duration::ZERO,
            hosts: vec![],
            lans: vec![],
            neighbors: Neighbors::new(),
            conns: BTreeMap::new(),
            ends: BTreeSet::new(),
            next_flow: 0,
            next_socket: 0,
            log: None,
        }
    }

    /// A host boots. Several may have the same name, one after the other.
    pub fn add_host(&mut self, name: &str) -> HostId {
        let mut kernel = Kernel::new(self.rng.rand_u64());
        kernel.advance(self.now);
        self.hosts.push(Host { name: name.into(), kernel, alive: true, listeners: BTreeMap::new() });
        HostId(self.hosts.len() - 1)
    }

    /// A host loses power: its state, its sockets and its interfaces are gone, and nobody is told.
    pub fn remove_host(&mut self, host: HostId) {
        for lan in &mut self.lans {
            lan.members.retain(|(h, _)| *h != host);
        }
        let state = &mut self.hosts[host.0];
        state.alive = false;
        state.listeners.clear();
        let kernel = std::mem::replace(&mut state.kernel, Kernel::new(0));
        for link in kernel.links.into_values() {
            if let Wire::Veth(peer, peer_link) = link.wire {
                self.hosts[peer.0].kernel.remove_link(&peer_link);
            }
        }
        for conn in self.conns.values_mut() {
            for end in [&mut conn.client, &mut conn.server] {
                end.alive &= end.host != host;
            }
        }
        let gone = |c: &Conn| !c.client.alive && !c.server.alive;
        let ids: Vec<FlowId> = self.conns.iter().filter(|(_, c)| gone(c)).map(|(id, _)| *id).collect();
        for id in ids {
            self.forget(id);
        }
    }

    fn forget(&mut self, flow: FlowId) -> Option<Conn> {
        let conn = self.conns.remove(&flow)?;
        self.ends.remove(&(conn.client.host, conn.client.sends));
        Some(conn)
    }

    /// The name of a host, also of one that is gone.
    pub fn host_name(&self, host: HostId) -> &str {
        &self.hosts[host.0].name
    }

    /// Makes a LAN; a frame takes `latency` from one member to another.
    pub fn add_lan(&mut self, name: &str, latency: Duration) -> LanId {
        self.lans.push(Lan { name: name.into(), latency, members: vec![] });
        LanId(self.lans.len() - 1)
    }

    /// Gives a host an interface on a LAN; it is up.
    pub fn attach(&mut self, host: HostId, link: &str, lan: LanId) {
        self.hosts[host.0].kernel.add_link(link, Wire::Lan(lan));
        self.lans[lan.0].members.push((host, link.into()));
    }

    /// Joins two hosts by a pair of interfaces; both are up.
    pub fn veth(&mut self, a: HostId, a_link: &str, b: HostId, b_link: &str) {
        self.hosts[a.0].kernel.add_link(a_link, Wire::Veth(b, b_link.into()));
        self.hosts[b.0].kernel.add_link(b_link, Wire::Veth(a, a_link.into()));
    }

    /// Cuts the cable of an interface. The kernel does not notice: frames just do not arrive.
    pub fn cut(&mut self, host: HostId, link: &str) {
        self.set_cut(host, link, true);
    }

    /// Mends what [`Fabric::cut`] did.
    pub fn heal(&mut self, host: HostId, link: &str) {
        self.set_cut(host, link, false);
    }

    /// Pulls the cable of an interface out, or puts it in again: the kernel sees that.
    pub fn set_carrier(&mut self, host: HostId, link: &str, carrier: bool) {
        self.hosts[host.0].kernel.set_carrier(link, carrier);
    }

    fn set_cut(&mut self, host: HostId, link: &str, cut: bool) {
        if let Some(link) = self.hosts[host.0].kernel.links.get_mut(link) {
            link.cut = cut;
        }
    }

    /// The kernel of a host. That of a host that is gone is empty.
    pub fn kernel(&self, host: HostId) -> &Kernel {
        &self.hosts[host.0].kernel
    }

    /// The kernel of a host, to configure it.
    pub fn kernel_mut(&mut self, host: HostId) -> &mut Kernel {
        self.wake(host);
        &mut self.hosts[host.0].kernel
    }

    /// A process listens on a port, on one address or on all.
    ///
    /// # Errors
    /// If the port is taken or the address is not the host's.
    pub fn listen(
        &mut self,
        host: HostId,
        protocol: Protocol,
        address: Option<IpAddr>,
        port: u16,
        owner: &str,
    ) -> Result<SocketId, SocketError> {
        let state = &mut self.hosts[host.0];
        if !state.alive {
            return Err(SocketError::NoHost);
        }
        if address.is_some_and(|a| !state.kernel.is_local(a)) {
            return Err(SocketError::NotAvailable);
        }
        let there = state.listeners.entry((protocol, port)).or_default();
        if there.iter().any(|l| l.address.is_none() || address.is_none() || l.address == address) {
            return Err(SocketError::InUse);
        }
        let id = SocketId(self.next_socket);
        self.next_socket += 1;
        there.push(Listener { address, owner: owner.into() });
        Ok(id)
    }

    /// A process listens on a port no more, whichever the address.
    pub fn unlisten(&mut self, host: HostId, protocol: Protocol, port: u16, owner: &str) {
        if let Some(listeners) = self.hosts[host.0].listeners.get_mut(&(protocol, port)) {
            listeners.retain(|l| l.owner != owner);
        }
    }

    /// A process ends: its sockets are closed and its connections reset. Returns those connections.
    pub fn kill(&mut self, host: HostId, owner: &str) -> Vec<FlowId> {
        for listeners in self.hosts[host.0].listeners.values_mut() {
            listeners.retain(|l| l.owner != owner);
        }
        let of = |end: &End| end.alive && end.host == host && end.owner == owner;
        let hit: Vec<FlowId> =
            self.conns.iter().filter(|(_, c)| of(&c.client) || of(&c.server)).map(|(id, _)| *id).collect();
        for id in &hit {
            let Some(conn) = self.conns.get_mut(id) else { continue };
            let mut resets = vec![];
            for (to_server, end) in [(true, &mut conn.client), (false, &mut conn.server)] {
                if of(end) {
                    end.alive = false;
                    resets.push((to_server, end.sends));
                }
            }
            if !conn.client.alive && !conn.server.alive {
                self.forget(*id);
            }
            for (to_server, sends) in resets {
                if sends.protocol == Protocol::Udp {
                    continue;
                }
                let (got, _, _) = self.carry(host, Packet::new(sends, Kind::Rst));
                let Some(conn) = self.conns.get_mut(id) else { continue };
                let peer = if to_server { &mut conn.server } else { &mut conn.client };
                if let Got::Delivered(at, tuple) = got {
                    peer.reset |= at == peer.host && tuple == peer.sends.reversed();
                }
            }
        }
        hit
    }

    /// Opens a connection: SYN, SYN-ACK and ACK walk at once.
    pub fn connect(&mut self, now: Duration, request: &Connect) -> Attempt {
        if request.protocol == Protocol::Udp {
            return self.datagram(now, request);
        }
        self.open(now, request, Kind::Syn, Kind::SynAck)
    }

    /// Sends one datagram and the answer to it.
    pub fn datagram(&mut self, now: Duration, request: &Connect) -> Attempt {
        self.open(now, request, Kind::Datagram, Kind::Datagram)
    }

    /// Sends one datagram with this time to live, and waits for nothing. `None` if no process gets it.
    pub fn post(&mut self, now: Duration, request: &Connect, ttl: u8) -> Option<Posted> {
        self.advance(now);
        let tuple = self.bind(request).ok()?;
        let walked = self.walk(request.from, Packet { ttl, ..Packet::new(tuple, Kind::Datagram) });
        let Fate::Delivered(host, packet) = walked.fate else { return None };
        let owner = self.listener(host, packet.tuple)?;
        let Tuple { src: source, dst: destination, .. } = packet.tuple;
        Some(Posted { host, owner, source, destination, ttl: packet.ttl, latency: walked.latency })
    }

    fn open(&mut self, now: Duration, request: &Connect, first: Kind, second: Kind) -> Attempt {
        self.advance(now);
        let from = request.from;
        let failed = |failure, latency, reason: String, path| Attempt { result: Err(failure), latency, reason, path };
        let tuple = match self.bind(request) {
            Ok(tuple) => tuple,
            Err(reason) => return failed(Failure::Unreachable, Duration::ZERO, reason, vec![from]),
        };
        let (got, mut latency, path) = self.carry(from, Packet::new(tuple, first));
        let (server, seen) = match got {
            Got::Delivered(server, seen) => (server, seen),
            Got::Failed(failure, reason) => return failed(failure, latency, reason, path),
        };
        let Some(owner) = self.listener(server, seen) else {
            let reason = format!("{}: nobody listens on {}", self.hosts[server.0].name, seen.dst);
            let (heard, back) = self.refuse(server, seen, from, tuple);
            let failure = if heard { Failure::Refused } else { Failure::NoAnswer };
            return failed(failure, if heard { latency + back } else { Duration::ZERO }, reason, path);
        };
        let (got, back, _) = self.carry(server, Packet::new(seen.reversed(), second));
        match got {
            Got::Delivered(at, answer) if at == from && answer == tuple.reversed() => latency += back,
            Got::Delivered(at, answer) => {
                let name = &self.hosts[at.0].name;
                let reason =
                    format!("the answer came to {name} as {} -> {}, not from {}", answer.src, answer.dst, tuple.dst);
                return failed(Failure::NoAnswer, Duration::ZERO, reason, path);
            }
            Got::Failed(_, reason) => {
                return failed(Failure::NoAnswer, Duration::ZERO, format!("the answer: {reason}"), path);
            }
        }
        if first == Kind::Syn {
            match self.carry(from, Packet::new(tuple, Kind::Ack)).0 {
                Got::Delivered(at, ack) if at == server && ack == seen => {}
                Got::Delivered(..) => {
                    let reason = "the ACK went elsewhere than the SYN".into();
                    return failed(Failure::NoAnswer, Duration::ZERO, reason, path);
                }
                Got::Failed(_, reason) => {
                    return failed(Failure::NoAnswer, Duration::ZERO, format!("the ACK: {reason}"), path);
                }
            }
        }
        let flow = FlowId(self.next_flow);
        self.next_flow += 1;
        let end = |host, owner: &str, sends| End { host, owner: owner.into(), sends, alive: true, reset: false };
        let conn = Conn { client: end(from, &request.owner, tuple), server: end(server, &owner, seen.reversed()) };
        self.ends.insert((from, tuple));
        self.conns.insert(flow, conn);
        let connected = Connected {
            flow,
            server,
            server_owner: owner,
            source_seen: seen.src,
            local: tuple.src,
            destination_seen: seen.dst,
        };
        Attempt { result: Ok(connected), latency, reason: String::new(), path }
    }

    /// Selects source address and port.
    fn bind(&mut self, request: &Connect) -> Result<Tuple, String> {
        let Connect { from, src, sport, to, port, protocol, .. } = *request;
        let host = &mut self.hosts[from.0];
        if !host.alive {
            return Err(format!("{} has no power", host.name));
        }
        if src.is_some_and(|s| s.is_ipv4() != to.is_ipv4()) {
            return Err(format!("{}: source and destination are of different families", host.name));
        }
        let lookup = Lookup { src, dst: to, mark: 0, protocol, ports: (0, port) };
        let found = host.kernel.lookup(&lookup).filter(Found::is_way);
        let found = found.ok_or_else(|| format!("{}: no route to {to}", host.name))?;
        let source = src.or_else(|| host.kernel.source(&found, to));
        let source = source.ok_or_else(|| format!("{}: no source address for {to}", host.name))?;
        let dst = SocketAddr::new(to, port);
        if let Some(sport) = sport {
            return Ok(Tuple { protocol, src: (source, sport).into(), dst });
        }
        let mut tuple = Tuple { protocol, src: (source, 0).into(), dst };
        for _ in 0..16 {
            let sport = self.hosts[from.0].kernel.rng.rand_range(EPHEMERAL);
            tuple.src.set_port(u16::try_from(sport).unwrap_or(u16::MAX));
            if !self.ends.contains(&(from, tuple)) {
                break;
            }
        }
        Ok(tuple)
    }

    /// The process that gets a packet of a new connection.
    fn listener(&self, host: HostId, seen: Tuple) -> Option<String> {
        let listeners = self.hosts[host.0].listeners.get(&(seen.protocol, seen.dst.port()))?;
        let exact = listeners.iter().find(|l| l.address == Some(seen.dst.ip()));
        exact.or_else(|| listeners.iter().find(|l| l.address.is_none())).map(|l| l.owner.clone())
    }

    /// A host refuses a packet that no socket takes. Returns whether the sender hears of it, and after how long.
    fn refuse(&mut self, host: HostId, seen: Tuple, sender: HostId, sent: Tuple) -> (bool, Duration) {
        if seen.protocol != Protocol::Tcp {
            return self.report(host, seen, true, sender, sent);
        }
        let (got, latency, _) = self.carry(host, Packet::new(seen.reversed(), Kind::Rst));
        let heard = matches!(got, Got::Delivered(at, tuple) if at == sender && tuple == sent.reversed());
        (heard, latency)
    }

    /// A host sends an ICMP error about a packet. Returns whether the sender hears of it, and after how long.
    fn report(&mut self, host: HostId, seen: Tuple, port: bool, sender: HostId, sent: Tuple) -> (bool, Duration) {
        let kernel = &self.hosts[host.0].kernel;
        let to = seen.src.ip();
        let own = Some(seen.dst.ip()).filter(|ip| kernel.is_local(*ip));
        let route = || {
            let lookup = Lookup { src: None, dst: to, mark: 0, protocol: seen.protocol, ports: (0, 0) };
            kernel.lookup(&lookup).and_then(|found| kernel.source(&found, to))
        };
        let Some(source) = own.or_else(route) else { return (false, Duration::ZERO) };
        let tuple = Tuple { protocol: seen.protocol, src: (source, 0).into(), dst: (to, 0).into() };
        let walked = self.walk(host, Packet::new(tuple, Kind::Error { about: seen, port }));
        let heard = match walked.fate {
            Fate::Delivered(at, packet) => {
                at == sender && matches!(packet.kind, Kind::Error { about, .. } if about == sent)
            }
            _ => false,
        };
        (heard, walked.latency)
    }

    /// Walks a packet, and the ICMP error that comes of it back.
    fn carry(&mut self, from: HostId, packet: Packet) -> (Got, Duration, Vec<HostId>) {
        let sent = packet.tuple;
        let walked = self.walk(from, packet);
        let mut latency = walked.latency;
        let got = match walked.fate {
            Fate::Delivered(host, packet) if packet.is_error() => {
                Got::Failed(Failure::NoAnswer, format!("an error ended at {}", self.hosts[host.0].name))
            }
            Fate::Delivered(host, packet) => Got::Delivered(host, packet.tuple),
            Fate::Lost(reason) => Got::Failed(Failure::NoAnswer, reason),
            Fate::Error { host, packet, port, reason } => {
                let (heard, back) = if host == from && packet.tuple == sent && !port {
                    (true, Duration::ZERO)
                } else {
                    self.report(host, packet.tuple, port, from, sent)
                };
                latency += back;
                // A socket for datagrams is told of unreachable ports only.
                let ignored = sent.protocol == Protocol::Udp && !port && host != from;
                let failure = match (heard && !ignored, port) {
                    (false, _) => Failure::NoAnswer,
                    (true, true) => Failure::Refused,
                    (true, false) => Failure::Unreachable,
                };
                Got::Failed(failure, reason)
            }
        };
        (got, latency, walked.path)
    }

    /// One end of a connection sends a segment or datagram. Returns how long it takes to the other end.
    ///
    /// # Errors
    /// `Reset` if the connection is gone at the other end and this end hears of it, `NoAnswer` if the segment is lost.
    pub fn send(&mut self, now: Duration, flow: FlowId, to_server: bool) -> Result<Duration, Failure> {
        self.advance(now);
        let conn = self.conns.get(&flow).ok_or(Failure::Reset)?;
        let (sender, receiver) = if to_server { (&conn.client, &conn.server) } else { (&conn.server, &conn.client) };
        let (sender, receiver) = (sender.clone(), receiver.clone());
        if !sender.alive || sender.reset {
            self.forget(flow);
            return Err(Failure::Reset);
        }
        let udp = sender.sends.protocol == Protocol::Udp;
        let kind = if udp { Kind::Datagram } else { Kind::Ack };
        let (got, latency, _) = self.carry(sender.host, Packet::new(sender.sends, kind));
        let (at, seen) = match got {
            Got::Delivered(at, seen) => (at, seen),
            Got::Failed(Failure::Refused, _) if udp => return Err(Failure::Refused),
            // A connection that stands survives ICMP errors.
            Got::Failed(..) => return Err(Failure::NoAnswer),
        };
        if at == receiver.host && seen == receiver.sends.reversed() && receiver.alive {
            return Ok(latency);
        }
        if udp && to_server && self.listener(at, seen).is_some() {
            return Ok(latency);
        }
        let (heard, _) = self.refuse(at, seen, sender.host, sender.sends);
        if !heard {
            return Err(Failure::NoAnswer);
        }
        if udp {
            return Err(Failure::Refused);
        }
        self.forget(flow);
        Err(Failure::Reset)
    }

    /// Both ends close a connection. Closing what is closed is harmless.
    pub fn close(&mut self, now: Duration, flow: FlowId) {
        self.advance(now);
        let Some(conn) = self.forget(flow) else { return };
        if conn.client.sends.protocol == Protocol::Udp || !conn.client.alive || !conn.server.alive {
            return;
        }
        for end in [&conn.client, &conn.server] {
            self.walk(end.host, Packet::new(end.sends, Kind::Fin));
        }
    }

    /// What would happen if the connection were opened now. Nothing changes.
    pub fn trace(&self, now: Duration, request: &Connect) -> Trace {
        let mut copy = self.clone();
        copy.log = Some(vec![]);
        let attempt = copy.connect(now, request);
        let mut lines = copy.log.take().unwrap_or_default();
        lines.push(match &attempt.result {
            Ok(connected) => {
                let Connected { server_owner, source_seen, destination_seen, .. } = connected;
                let server = copy.host_name(connected.server);
                format!("answered by {server_owner} on {server} at {destination_seen}, seen as {source_seen}")
            }
            Err(failure) => format!("{failure:?}: {}", attempt.reason),
        });
        Trace { lines, path: attempt.path, delivered: attempt.result.is_ok() }
    }

    /// Writes a line of a trace.
    pub(crate) fn note(&mut self, host: HostId, line: impl FnOnce() -> String) {
        if let Some(log) = &mut self.log {
            log.push(format!("{}: {}", self.hosts[host.0].name, line()));
        }
    }

    fn advance(&mut self, now: Duration) {
        self.now = self.now.max(now);
    }

    /// A packet or a person looks at a host: its kernel learns what time it is. Kernels that nobody looks at cost nothing.
    pub(crate) fn wake(&mut self, host: HostId) {
        self.hosts[host.0].kernel.advance(self.now);
    }
}

impl Found {
    /// Whether packets go anywhere on this route.
    fn is_way(&self) -> bool {
        matches!(self.target, Target::Local | Target::Out { .. })
    }
}
