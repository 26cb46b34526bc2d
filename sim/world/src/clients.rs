//! mconnect in virtual time: load clients whose packets walk the simulated kernels.
//!
//! A client opens connections as mconnect does (so many at once, one read each, one deadline), or steadily in the
//! background. A SYN without an answer is sent again after 1, 2, 4 and 8 seconds, as Linux does; a datagram never is.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use fairway_desired::Protocol;
use fairway_kernel::{Connect, Connected, Failure, FlowId};
use fairway_mconnect::Report;
use fairway_scenario::{LoadMode, LoadResult};
use ipnet::IpNet;

use crate::tcp::SYN_RETRY_S;
use crate::world::{Event, Role, World};
use crate::{HostIx, Time};

/// Name of the load tool as owner of sockets.
const MCONNECT: &str = "mconnect";
/// A kept connection asks for an answer this often.
const PING: Time = Time::from_millis(100);
/// First pause before a lost segment is sent again, then doubling.
const RTO: Time = Time::from_millis(200);
/// The simulated cluster starts with the year 2026.
const EPOCH: Time = Time::from_secs(1_767_225_600);
/// `net.ipv4.ip_local_port_range`
pub(crate) const EPHEMERAL: (u16, u16) = (32_768, 60_999);
/// How many failures are kept with their time and reason.
const FAILURES_KEPT: usize = 5;

/// Something that happens to a client.
#[derive(Debug)]
pub(crate) struct LoadEvent {
    client: u64,
    what: What,
}

#[derive(Debug)]
enum What {
    /// A background client opens its next connection.
    Launch,
    /// A SYN or datagram is sent.
    Try(u64),
    /// The connection stands; the server's name is on its way.
    Read(u64),
    /// The name arrived.
    Answered(u64),
    /// A kept connection asks again.
    Ping(u64),
    /// A connection or read failed.
    Failed(u64, bool, String),
    /// One connection's time is over.
    AttemptDeadline(u64),
    /// The whole run's time is over.
    Deadline,
}

/// What a client was asked to do.
#[derive(Clone, Debug)]
pub(crate) struct Order {
    pub(crate) from: HostIx,
    pub(crate) to: SocketAddr,
    pub(crate) udp: bool,
    pub(crate) srccidr: Option<IpNet>,
    pub(crate) work: Work,
}

/// How many connections, and when.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Work {
    /// One run of mconnect.
    Run { nconn: u32, max_concurrent: u32, keep: bool, timeout: Time },
    /// In the background until stopped; the timeout is that of each connection.
    Background { mode: LoadMode, timeout: Time },
}

#[derive(Debug)]
struct Attempt {
    start: Time,
    tries: usize,
    /// Its source port, the same for every try.
    sport: u16,
    window: u32,
    connected: Option<Connected>,
    /// From the start to the end of the handshake.
    connect: Time,
    /// Since when a kept connection has no answer.
    silent_since: Option<Time>,
    rto: Time,
    booked: bool,
    reason: String,
}

#[derive(Debug)]
struct Client {
    order: Order,
    started: Time,
    left: u32,
    next: u64,
    attempts: BTreeMap<u64, Attempt>,
    window: u32,
    whole: LoadResult,
    part: LoadResult,
    rng: oorandom::Rand64,
    done: bool,
}

/// All clients.
#[derive(Debug, Default)]
pub(crate) struct Clients {
    next: u64,
    all: BTreeMap<u64, Client>,
    pub(crate) background: BTreeMap<String, u64>,
}

fn nothing() -> LoadResult {
    LoadResult { report: Report::default(), by_node: BTreeMap::new(), sources_seen: BTreeMap::new(), failures: vec![] }
}

impl Client {
    /// Books something in the whole result and, if the connection belongs to it, in the current window.
    fn book(&mut self, window: u32, mut entry: impl FnMut(&mut LoadResult)) {
        entry(&mut self.whole);
        if window == self.window {
            entry(&mut self.part);
        }
    }

    fn keeps(&self) -> bool {
        matches!(self.order.work, Work::Run { keep: true, .. } | Work::Background { mode: LoadMode::Keep(_), .. })
    }
}

impl World {
    /// Starts a client; it opens its first connections at once.
    pub(crate) fn start_client(&mut self, order: Order) -> u64 {
        let now = self.queue.now();
        let id = self.clients.next;
        self.clients.next += 1;
        let rng = oorandom::Rand64::new(u128::from(self.rng.rand_u64()));
        let mut client = Client {
            started: now,
            left: 0,
            next: 0,
            attempts: BTreeMap::new(),
            window: 0,
            whole: nothing(),
            part: nothing(),
            rng,
            done: false,
            order,
        };
        let first = match client.order.work {
            Work::Run { nconn, max_concurrent, timeout, .. } => {
                client.left = nconn;
                client.whole.report.timeout = timeout;
                self.queue.after(timeout, Event::Load(LoadEvent { client: id, what: What::Deadline }));
                nconn.min(max_concurrent.max(1))
            }
            Work::Background { mode: LoadMode::Keep(n), .. } => {
                client.left = n;
                n
            }
            Work::Background { mode: LoadMode::Rate(_), .. } => 0,
        };
        client.whole.report.start_time = self.timestamp();
        client.done = client.left == 0 && matches!(client.order.work, Work::Run { .. });
        let steady = matches!(client.order.work, Work::Background { mode: LoadMode::Rate(_), .. });
        self.clients.all.insert(id, client);
        if steady {
            self.queue.after(Time::ZERO, Event::Load(LoadEvent { client: id, what: What::Launch }));
        }
        for _ in 0..first {
            self.launch(id);
        }
        id
    }

    /// Whether a run is over.
    pub(crate) fn client_done(&self, id: u64) -> bool {
        self.clients.all.get(&id).is_none_or(|c| c.done)
    }

    /// Ends a client and returns what it saw.
    pub(crate) fn end_client(&mut self, id: u64) -> LoadResult {
        let now = self.queue.now();
        let Some(mut client) = self.clients.all.remove(&id) else { return nothing() };
        for attempt in client.attempts.values() {
            if let Some(Connected { flow, .. }) = &attempt.connected {
                close(&mut self.fabric, now, *flow);
            }
        }
        client.whole.report.duration = now - client.started;
        client.whole
    }

    /// What a client saw since the last take.
    pub(crate) fn take_client(&mut self, id: u64) -> LoadResult {
        let Some(client) = self.clients.all.get_mut(&id) else { return nothing() };
        client.window += 1;
        // Kept connections go on being judged; connections that are still being made belong to the past.
        for attempt in client.attempts.values_mut().filter(|a| a.booked) {
            attempt.window = client.window;
        }
        std::mem::replace(&mut client.part, nothing())
    }

    /// When it is now on the calendar of the simulated cluster.
    fn timestamp(&self) -> String {
        fairway_mconnect::rfc3339(EPOCH + self.queue.now())
    }

    pub(crate) fn load_event(&mut self, event: LoadEvent) {
        let now = self.queue.now();
        let id = event.client;
        if !self.clients.all.contains_key(&id) {
            return;
        }
        match event.what {
            What::Launch => {
                self.launch(id);
                let Some(client) = self.clients.all.get(&id) else { return };
                if let Work::Background { mode: LoadMode::Rate(rate), .. } = client.order.work {
                    let pause = Time::from_secs(1) / rate.max(1);
                    self.queue.after(pause, Event::Load(LoadEvent { client: id, what: What::Launch }));
                }
            }
            What::Try(attempt) => self.try_connect(id, attempt),
            What::Read(attempt) => self.read(id, attempt),
            What::Answered(attempt) => self.answered(id, attempt),
            What::Ping(attempt) => self.ping(id, attempt),
            What::Failed(attempt, connect, reason) => self.failed(id, attempt, connect, &reason),
            What::AttemptDeadline(attempt) => {
                let Some(a) = self.clients.all.get(&id).and_then(|c| c.attempts.get(&attempt)) else { return };
                if !a.booked {
                    let connect = a.connected.is_none() && !self.clients.all[&id].order.udp;
                    let reason = if a.reason.is_empty() { "no answer in time".into() } else { a.reason.clone() };
                    self.failed(id, attempt, connect, &reason);
                }
            }
            What::Deadline => self.run_over(id),
        }
        self.hash.event(now, 9, id, 0);
    }

    fn after_load(&mut self, delay: Time, client: u64, what: What) {
        self.queue.after(delay, Event::Load(LoadEvent { client, what }));
    }

    /// Opens one connection.
    fn launch(&mut self, id: u64) {
        let now = self.queue.now();
        let Some(client) = self.clients.all.get_mut(&id) else { return };
        if let Work::Run { .. } | Work::Background { mode: LoadMode::Keep(_), .. } = client.order.work {
            if client.left == 0 {
                return;
            }
            client.left -= 1;
        }
        let number = client.next;
        client.next += 1;
        let port = &mut self.hosts[client.order.from].next_port;
        let sport = *port;
        *port = if *port >= EPHEMERAL.1 { EPHEMERAL.0 } else { *port + 1 };
        client.attempts.insert(
            number,
            Attempt {
                start: now,
                tries: 0,
                sport,
                window: client.window,
                connected: None,
                connect: Time::ZERO,
                silent_since: None,
                rto: RTO,
                booked: false,
                reason: String::new(),
            },
        );
        if let Work::Background { timeout, .. } = client.order.work {
            self.after_load(timeout, id, What::AttemptDeadline(number));
        }
        self.try_connect(id, number);
    }

    fn try_connect(&mut self, id: u64, number: u64) {
        let now = self.queue.now();
        let Some(client) = self.clients.all.get_mut(&id) else { return };
        let Some(attempt) = client.attempts.get_mut(&number) else { return };
        let src = client.order.srccidr.map(|block| random_address(block, &mut client.rng));
        let udp = client.order.udp;
        let request = Connect {
            from: self.hosts[client.order.from].id,
            owner: MCONNECT.into(),
            src,
            sport: Some(attempt.sport),
            to: client.order.to.ip(),
            port: client.order.to.port(),
            protocol: if udp { Protocol::Udp } else { Protocol::Tcp },
        };
        let result = if udp { self.fabric.datagram(now, &request) } else { self.fabric.connect(now, &request) };
        match result.result {
            Ok(connected) => {
                attempt.connect = now - attempt.start + result.latency;
                attempt.connected = Some(connected);
                let next = if udp { What::Answered(number) } else { What::Read(number) };
                self.after_load(result.latency, id, next);
            }
            Err(Failure::NoAnswer) => {
                attempt.reason = result.reason;
                if !udp && attempt.tries < SYN_RETRY_S.len() {
                    let pause = Time::from_secs(SYN_RETRY_S[attempt.tries]);
                    attempt.tries += 1;
                    self.after_load(pause, id, What::Try(number));
                }
            }
            // A refused datagram is noticed when reading, a refused connection when connecting.
            Err(_) => self.after_load(result.latency, id, What::Failed(number, !udp, result.reason)),
        }
    }

    fn read(&mut self, id: u64, number: u64) {
        let now = self.queue.now();
        let Some(attempt) = self.clients.all.get_mut(&id).and_then(|c| c.attempts.get_mut(&number)) else { return };
        let Some(flow) = attempt.connected.as_ref().map(|c| c.flow) else { return };
        match self.fabric.send(now, flow, false) {
            Ok(latency) => self.after_load(latency, id, What::Answered(number)),
            Err(Failure::NoAnswer) => {
                let pause = attempt.rto;
                attempt.rto *= 2;
                self.after_load(pause, id, What::Read(number));
            }
            Err(failure) => self.failed(id, number, false, &format!("{failure:?} while reading")),
        }
    }

    fn answered(&mut self, id: u64, number: u64) {
        let now = self.queue.now();
        let Some(client) = self.clients.all.get_mut(&id) else { return };
        let keeps = client.keeps();
        let Some(attempt) = client.attempts.get_mut(&number) else { return };
        let Some(connected) = attempt.connected.clone() else { return };
        let (connect, first_byte, window) = (attempt.connect, now - attempt.start, attempt.window);
        attempt.booked = true;
        attempt.rto = RTO;
        let node = self.by_node_name(&connected);
        if let Some(client) = self.clients.all.get_mut(&id) {
            client.book(window, |result| {
                result.report.record_connect(&connected.server_owner, connect, first_byte);
                *result.by_node.entry(node.clone()).or_default() += 1;
                *result.sources_seen.entry(connected.source_seen.ip()).or_default() += 1;
            });
        }
        if keeps {
            self.after_load(PING, id, What::Ping(number));
        } else {
            close(&mut self.fabric, now, connected.flow);
            self.finish(id, number);
        }
    }

    fn ping(&mut self, id: u64, number: u64) {
        let now = self.queue.now();
        let Some(client) = self.clients.all.get_mut(&id) else { return };
        let limit = match client.order.work {
            Work::Background { timeout, .. } => timeout,
            Work::Run { timeout, .. } => timeout,
        };
        let Some(attempt) = client.attempts.get_mut(&number) else { return };
        let Some(connected) = attempt.connected.clone() else { return };
        let (flow, window) = (connected.flow, attempt.window);
        let answer = self.fabric.send(now, flow, true).and_then(|_| self.fabric.send(now, flow, false));
        match answer {
            Ok(_) => {
                attempt.silent_since = None;
                attempt.rto = RTO;
                let node = self.by_node_name(&connected);
                if let Some(client) = self.clients.all.get_mut(&id) {
                    client.book(window, |result| {
                        result.report.record_answer(&connected.server_owner);
                        *result.by_node.entry(node.clone()).or_default() += 1;
                    });
                }
                self.after_load(PING, id, What::Ping(number));
            }
            Err(Failure::NoAnswer) => {
                let since = *attempt.silent_since.get_or_insert(now);
                let pause = attempt.rto;
                attempt.rto *= 2;
                if now - since >= limit {
                    self.failed(id, number, false, "an open connection went silent");
                } else {
                    self.after_load(pause.min(limit), id, What::Ping(number));
                }
            }
            Err(failure) => self.failed(id, number, false, &format!("{failure:?} on an open connection")),
        }
    }

    fn failed(&mut self, id: u64, number: u64, connect: bool, reason: &str) {
        let now = self.queue.now();
        let Some(client) = self.clients.all.get_mut(&id) else { return };
        let Some(attempt) = client.attempts.get(&number) else { return };
        let (window, booked) = (attempt.window, attempt.booked);
        client.book(window, |result| {
            match (booked, connect) {
                // It was booked as a success when it was made; now it is also one failure.
                (true, _) => result.report.record_lost(),
                (false, true) => result.report.record_failed_connect(),
                (false, false) => result.report.record_failed_read(),
            }
            if result.failures.len() < FAILURES_KEPT {
                result.failures.push((now, reason.to_string()));
            }
        });
        self.finish(id, number);
    }

    fn finish(&mut self, id: u64, number: u64) {
        let Some(client) = self.clients.all.get_mut(&id) else { return };
        client.attempts.remove(&number);
        if let Work::Run { .. } = client.order.work {
            if client.left > 0 {
                self.launch(id);
            } else if client.attempts.is_empty() {
                client.done = true;
            }
        }
    }

    /// The deadline of a run: what is not done has failed. Dials that never began are failed connects.
    fn run_over(&mut self, id: u64) {
        let Some(client) = self.clients.all.get_mut(&id) else { return };
        if client.done {
            return;
        }
        let (udp, keeps, left) = (client.order.udp, client.keeps(), client.left);
        client.left = 0;
        let open: Vec<(u64, bool, bool, String)> =
            client.attempts.iter().map(|(n, a)| (*n, a.connected.is_some(), a.booked, a.reason.clone())).collect();
        for (number, connected, booked, reason) in open {
            if booked && keeps {
                // A connection that was kept to the end is no failure.
                let now = self.queue.now();
                if let Some(client) = self.clients.all.get_mut(&id)
                    && let Some(Attempt { connected: Some(c), .. }) = client.attempts.remove(&number)
                {
                    close(&mut self.fabric, now, c.flow);
                }
                continue;
            }
            let reason = if reason.is_empty() { "not done when the time was over".into() } else { reason };
            self.failed(id, number, !connected && !udp, &reason);
        }
        let now = self.queue.now();
        if let Some(client) = self.clients.all.get_mut(&id) {
            for _ in 0..left {
                client.whole.report.record_failed_connect();
            }
            if left > 0 && client.whole.failures.len() < FAILURES_KEPT {
                client.whole.failures.push((now, format!("{left} connections were never begun")));
            }
            client.done = true;
        }
    }

    /// The node a server runs on; for a server outside pods, its host.
    fn by_node_name(&self, connected: &Connected) -> String {
        let Some(host) = self.host_by_id(connected.server) else { return String::new() };
        match self.hosts[host].role {
            Role::Pod(node) => self.hosts[node].name.clone(),
            _ => self.hosts[host].name.clone(),
        }
    }
}

/// A datagram's exchange has no flow to close; closing it again is harmless.
fn close(fabric: &mut fairway_kernel::Fabric, now: Time, flow: FlowId) {
    fabric.close(now, flow);
}

/// Any address of a block.
fn random_address(block: IpNet, rng: &mut oorandom::Rand64) -> IpAddr {
    match block {
        IpNet::V4(net) => {
            let host = (rng.rand_u64() as u32) & !u32::from(net.netmask());
            IpAddr::V4((u32::from(net.network()) | host).into())
        }
        IpNet::V6(net) => {
            let random = u128::from(rng.rand_u64()) << 64 | u128::from(rng.rand_u64());
            let host = random & !u128::from(net.netmask());
            IpAddr::V6((u128::from(net.network()) | host).into())
        }
    }
}
