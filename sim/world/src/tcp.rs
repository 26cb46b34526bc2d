//! BGP's TCP connections between agents.
//!
//! Every handshake and every segment is a packet that walks the simulated kernels at the moment it is sent. A
//! segment that gets lost is sent again with growing pauses, as TCP does, so a session over a cut link ends by its
//! hold timer and by nothing else. A process that dies resets its connections, a host that loses power says nothing.

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, SocketAddr};

use fairway_agent::Input;
use fairway_bgp as bgp;
use fairway_desired::Protocol;
use fairway_kernel::{Connect, Failure, FlowId};

use crate::world::{Event, World};
use crate::{HostIx, Time};

/// Pauses before a SYN is sent again (Linux: 1 s, doubling); after the last one the dial fails.
pub(crate) const SYN_RETRY_S: [u64; 4] = [1, 2, 4, 8];
/// First retransmission of a segment, then doubling up to the maximum.
const RTO_MIN: Time = Time::from_millis(200);
const RTO_MAX: Time = Time::from_secs(5);

/// One end: which process on which host, and its name for the connection.
#[derive(Clone, Debug)]
pub(crate) struct End {
    host: HostIx,
    generation: u32,
    conn: bgp::ConnId,
    /// The process closed it or was told of its end.
    closed: bool,
}

/// Bytes under way in one direction.
#[derive(Debug, Default)]
struct Direction {
    /// Written, not sent yet because an earlier segment is lost.
    waiting: VecDeque<Vec<u8>>,
    /// Sent; they arrive in this order.
    sent: VecDeque<Vec<u8>>,
    last_arrival: Time,
    rto: Time,
    retry_pending: bool,
    fin: bool,
}

/// A connection from its first SYN to its end.
#[derive(Debug)]
pub(crate) struct Tcp {
    client: End,
    server: Option<End>,
    flow: Option<FlowId>,
    local: Option<IpAddr>,
    remote: SocketAddr,
    /// TCP MD5 password of the client.
    password: Option<String>,
    directions: [Direction; 2],
}

/// All connections, and which one a process means by its name.
#[derive(Debug, Default)]
pub(crate) struct Connections {
    next: u64,
    all: BTreeMap<u64, Tcp>,
    names: BTreeMap<(HostIx, bgp::ConnId), u64>,
}

/// Direction indexes.
const TO_SERVER: usize = 0;
const TO_CLIENT: usize = 1;

impl World {
    /// The agent of `host` dials.
    pub(crate) fn tcp_dial(
        &mut self,
        host: HostIx,
        conn: bgp::ConnId,
        local: Option<IpAddr>,
        remote: SocketAddr,
        password: Option<String>,
    ) {
        let id = self.tcp.next;
        self.tcp.next += 1;
        let generation = self.hosts[host].generation;
        let client = End { host, generation, conn, closed: false };
        self.tcp.all.insert(
            id,
            Tcp { client, server: None, flow: None, local, remote, password, directions: Default::default() },
        );
        self.tcp.names.insert((host, conn), id);
        self.tcp_syn(id, 0);
    }

    /// Sends a SYN.
    pub(crate) fn tcp_syn(&mut self, id: u64, attempt: usize) {
        let Some(tcp) = self.tcp.all.get(&id) else { return };
        let (host, local, remote, password) = (tcp.client.host, tcp.local, tcp.remote, tcp.password.clone());
        let now = self.queue.now();
        let request = Connect {
            from: self.hosts[host].id,
            owner: crate::DAEMON.into(),
            src: local,
            sport: None,
            to: remote.ip(),
            port: remote.port(),
            protocol: Protocol::Tcp,
        };
        let attempt_result = self.fabric.connect(now, &request);
        match attempt_result.result {
            Ok(connected) => {
                let Some(server) = self.host_by_id(connected.server) else { return };
                if self.hosts[server].agent.is_none() {
                    // Somebody listens there who is not a BGP speaker.
                    self.fabric.close(now, connected.flow);
                    self.tcp_fail(id, attempt_result.latency);
                    return;
                }
                let wanted = self.hosts[server].passwords.get(&connected.source_seen.ip());
                if wanted != password.as_ref() {
                    // A segment with another signature, or none, is dropped without a word (RFC 2385 section 4.1).
                    self.fabric.close(now, connected.flow);
                    self.tcp_unanswered(id, attempt, attempt_result.latency);
                    return;
                }
                self.hosts[server].accepted += 1;
                let accepted = bgp::ConnId::In(self.hosts[server].accepted);
                let generation = self.hosts[server].generation;
                if let Some(tcp) = self.tcp.all.get_mut(&id) {
                    tcp.flow = Some(connected.flow);
                    tcp.server = Some(End { host: server, generation, conn: accepted, closed: false });
                }
                self.tcp.names.insert((server, accepted), id);
                self.flows.insert(connected.flow, id);
                let (client_end, client_host) = (connected.local, host);
                self.send_agent(
                    server,
                    attempt_result.latency,
                    Input::Bgp(bgp::Input::Accepted {
                        conn: accepted,
                        local: connected.destination_seen,
                        remote: connected.source_seen,
                    }),
                );
                let conn = self.tcp.all.get(&id).map(|t| t.client.conn);
                if let Some(conn) = conn {
                    self.send_agent(
                        client_host,
                        attempt_result.latency,
                        Input::Bgp(bgp::Input::Connected { conn, local: client_end, remote }),
                    );
                }
            }
            Err(Failure::NoAnswer) => self.tcp_unanswered(id, attempt, attempt_result.latency),
            Err(_) => self.tcp_fail(id, attempt_result.latency),
        }
    }

    /// A SYN was lost: it is sent again, but not for ever.
    fn tcp_unanswered(&mut self, id: u64, attempt: usize, latency: Time) {
        match SYN_RETRY_S.get(attempt) {
            Some(pause) => {
                self.queue.after(Time::from_secs(*pause), Event::Syn { tcp: id, attempt: attempt + 1 });
            }
            None => self.tcp_fail(id, latency),
        }
    }

    fn tcp_fail(&mut self, id: u64, latency: Time) {
        if let Some(tcp) = self.tcp.all.remove(&id) {
            self.tcp.names.remove(&(tcp.client.host, tcp.client.conn));
            if !tcp.client.closed {
                self.send_agent_of(
                    tcp.client.host,
                    tcp.client.generation,
                    latency,
                    Input::Bgp(bgp::Input::ConnectFailed { conn: tcp.client.conn }),
                );
            }
        }
    }

    /// The agent of `host` writes.
    pub(crate) fn tcp_send(&mut self, host: HostIx, conn: bgp::ConnId, bytes: Vec<u8>) {
        let Some((id, direction)) = self.tcp_find(host, conn) else { return };
        if let Some(tcp) = self.tcp.all.get_mut(&id) {
            tcp.directions[direction].waiting.push_back(bytes);
        }
        self.tcp_pump(id, direction);
    }

    /// The agent of `host` closes.
    pub(crate) fn tcp_close(&mut self, host: HostIx, conn: bgp::ConnId) {
        let Some((id, direction)) = self.tcp_find(host, conn) else { return };
        self.tcp.names.remove(&(host, conn));
        let Some(tcp) = self.tcp.all.get_mut(&id) else { return };
        match direction {
            TO_SERVER => tcp.client.closed = true,
            _ => {
                if let Some(server) = &mut tcp.server {
                    server.closed = true;
                }
            }
        }
        if tcp.flow.is_none() {
            self.tcp.all.remove(&id);
            return;
        }
        tcp.directions[direction].fin = true;
        self.tcp_pump(id, direction);
    }

    fn tcp_find(&self, host: HostIx, conn: bgp::ConnId) -> Option<(u64, usize)> {
        let id = *self.tcp.names.get(&(host, conn))?;
        let tcp = self.tcp.all.get(&id)?;
        let client = tcp.client.host == host && tcp.client.conn == conn;
        Some((id, if client { TO_SERVER } else { TO_CLIENT }))
    }

    /// Sends what waits, as far as packets get through.
    pub(crate) fn tcp_pump(&mut self, id: u64, direction: usize) {
        let now = self.queue.now();
        loop {
            let Some(tcp) = self.tcp.all.get_mut(&id) else { return };
            let Some(flow) = tcp.flow else { return };
            let dir = &mut tcp.directions[direction];
            if dir.retry_pending || (dir.waiting.is_empty() && !dir.fin) {
                return;
            }
            match self.fabric.send(now, flow, direction == TO_SERVER) {
                Ok(latency) => {
                    let arrival = (now + latency).max(dir.last_arrival);
                    dir.last_arrival = arrival;
                    dir.rto = RTO_MIN;
                    match dir.waiting.pop_front() {
                        Some(bytes) => {
                            dir.sent.push_back(bytes);
                            self.queue.at(arrival, Event::Segment { tcp: id, direction });
                        }
                        None => {
                            dir.fin = false;
                            self.queue.at(arrival, Event::Fin { tcp: id, direction });
                        }
                    }
                }
                Err(Failure::NoAnswer) => {
                    dir.retry_pending = true;
                    let pause = dir.rto.max(RTO_MIN);
                    dir.rto = (pause * 2).min(RTO_MAX);
                    self.queue.after(pause, Event::Retransmit { tcp: id, direction });
                    return;
                }
                Err(_) => {
                    self.tcp_abort(id);
                    return;
                }
            }
        }
    }

    pub(crate) fn tcp_retransmit(&mut self, id: u64, direction: usize) {
        if let Some(tcp) = self.tcp.all.get_mut(&id) {
            tcp.directions[direction].retry_pending = false;
            // Nobody is left to retransmit for an end whose host lost power or whose process died.
            let sender = if direction == TO_SERVER { Some(&tcp.client) } else { tcp.server.as_ref() };
            if sender.is_some_and(|end| !self.hosts[end.host].alive) {
                return;
            }
            self.tcp_pump(id, direction);
        }
    }

    /// A segment arrives.
    pub(crate) fn tcp_segment(&mut self, id: u64, direction: usize) {
        let Some(tcp) = self.tcp.all.get_mut(&id) else { return };
        let Some(bytes) = tcp.directions[direction].sent.pop_front() else { return };
        let end = if direction == TO_SERVER { tcp.server.clone() } else { Some(tcp.client.clone()) };
        let Some(end) = end.filter(|e| !e.closed) else { return };
        self.hash.bytes(&bytes);
        self.agent_input(end.host, end.generation, Input::Bgp(bgp::Input::Received { conn: end.conn, bytes }));
    }

    /// The other side closed.
    pub(crate) fn tcp_fin(&mut self, id: u64, direction: usize) {
        let now = self.queue.now();
        let Some(tcp) = self.tcp.all.remove(&id) else { return };
        if let Some(flow) = tcp.flow {
            self.flows.remove(&flow);
            self.fabric.close(now, flow);
        }
        let end = if direction == TO_SERVER { tcp.server } else { Some(tcp.client) };
        if let Some(end) = end.filter(|e| !e.closed) {
            self.tcp.names.remove(&(end.host, end.conn));
            self.agent_input(end.host, end.generation, Input::Bgp(bgp::Input::Closed { conn: end.conn }));
        }
    }

    /// The connection is reset: both ends that are still there are told.
    fn tcp_abort(&mut self, id: u64) {
        let Some(tcp) = self.tcp.all.remove(&id) else { return };
        if let Some(flow) = tcp.flow {
            self.flows.remove(&flow);
        }
        for end in [Some(tcp.client), tcp.server].into_iter().flatten() {
            self.tcp.names.remove(&(end.host, end.conn));
            if !end.closed {
                self.send_agent_of(
                    end.host,
                    end.generation,
                    Time::ZERO,
                    Input::Bgp(bgp::Input::Closed { conn: end.conn }),
                );
            }
        }
    }

    /// The daemon of a host dies: its kernel resets the connections, and a peer that can be reached hears of it.
    pub(crate) fn tcp_process_died(&mut self, host: HostIx) {
        let now = self.queue.now();
        let ids: Vec<u64> = self.tcp_of(host);
        let mut told = vec![];
        for id in &ids {
            let Some(tcp) = self.tcp.all.get(id) else { continue };
            let is_client = tcp.client.host == host;
            let Some(flow) = tcp.flow else { continue };
            if let Ok(latency) = self.fabric.send(now, flow, is_client) {
                told.push((*id, latency));
            }
        }
        self.fabric.kill(self.hosts[host].id, crate::DAEMON);
        for id in ids {
            let Some(tcp) = self.tcp.all.get_mut(&id) else { continue };
            let direction = if tcp.client.host == host { TO_SERVER } else { TO_CLIENT };
            let latency = told.iter().find(|(i, _)| *i == id).map(|(_, latency)| *latency);
            match latency {
                Some(latency) => {
                    let arrival = (now + latency).max(tcp.directions[direction].last_arrival);
                    self.queue.at(arrival, Event::Fin { tcp: id, direction });
                }
                None => self.tcp_forget(id, host),
            }
        }
    }

    /// A host loses power: its ends are gone, and nobody is told.
    pub(crate) fn tcp_power_off(&mut self, host: HostIx) {
        for id in self.tcp_of(host) {
            self.tcp_forget(id, host);
        }
    }

    fn tcp_of(&self, host: HostIx) -> Vec<u64> {
        self.tcp
            .names
            .range((host, bgp::ConnId::Out(0))..)
            .take_while(|((h, _), _)| *h == host)
            .map(|(_, id)| *id)
            .collect()
    }

    /// One end vanished without a word; the other end finds out by itself.
    fn tcp_forget(&mut self, id: u64, host: HostIx) {
        let Some(tcp) = self.tcp.all.get_mut(&id) else { return };
        let ends = [Some(&mut tcp.client), tcp.server.as_mut()];
        for end in ends.into_iter().flatten().filter(|e| e.host == host) {
            end.closed = true;
            self.tcp.names.remove(&(end.host, end.conn));
        }
        if tcp.flow.is_none() {
            self.tcp.all.remove(&id);
        }
    }
}
