//! All sessions: who a packet is for, and whose time has come.

use alloc::collections::{BTreeMap, BTreeSet, VecDeque};
use core::net::{IpAddr, SocketAddr};

use crate::io::{Dropped, Event, Full, Input, Output, Payload, SessionView, Settings, Time};
use crate::packet::State;
use crate::session::{Change, Session};
use crate::{MULTIHOP_PORT, PORT};

/// How many sessions there may be. Each has a source port of its own, of which there are sixteen times as many.
pub const SESSIONS_MAX: usize = 1024;
/// Source ports (RFC 5881 section 4).
const SOURCE_PORTS: core::ops::Range<u32> = 49_152..65_536;
/// How long the driver is left alone after it could not open a socket.
const PAUSE: Time = Time::from_secs(1);

/// All BFD sessions of a host. See the crate's documentation for its contract.
#[derive(Debug)]
pub struct Bfd {
    rng: oorandom::Rand32,
    sessions: BTreeMap<IpAddr, Session>,
    /// Whose a discriminator is.
    discriminators: BTreeMap<u32, IpAddr>,
    source_ports: BTreeSet<u16>,
    /// Ports that we listen on, or want to: sessions on each, and when to ask again for one that was refused.
    listening: BTreeMap<u16, (usize, Option<Time>)>,
    /// When each session is to be looked at.
    timers: BTreeSet<(Time, IpAddr)>,
    /// The same by session.
    timer_of: BTreeMap<IpAddr, Time>,
    dropped: Dropped,
    outputs: VecDeque<Output>,
}

/// The port that packets of such a session come to.
const fn listen_port(settings: &Settings) -> u16 {
    if settings.hops == 1 { PORT } else { MULTIHOP_PORT }
}

impl Bfd {
    /// No sessions. The seed draws discriminators, source ports and jitter.
    pub fn new(seed: u64) -> Self {
        Bfd {
            rng: oorandom::Rand32::new(seed),
            sessions: BTreeMap::new(),
            discriminators: BTreeMap::new(),
            source_ports: BTreeSet::new(),
            listening: BTreeMap::new(),
            timers: BTreeSet::new(),
            timer_of: BTreeMap::new(),
            dropped: Dropped::default(),
            outputs: VecDeque::new(),
        }
    }

    /// Wants a session with a neighbour, or wants it otherwise, or no more. Timers change under a session that
    /// stands; with other addresses it is another session. Drain [`Bfd::poll`] afterwards.
    ///
    /// # Errors
    /// [`Full`]: the neighbour has no session. Call again when another one is gone.
    pub fn set(&mut self, now: Time, peer: IpAddr, settings: Option<Settings>) -> Result<(), Full> {
        let Some(mut settings) = settings else {
            self.leave(now, peer);
            return Ok(());
        };
        settings.desired_min_tx_us = settings.desired_min_tx_us.max(1);
        settings.multiplier = settings.multiplier.max(1);
        settings.hops = settings.hops.max(1);
        let ends = |s: &Settings| (s.local, s.port, s.hops);
        if self.sessions.get(&peer).is_some_and(|s| ends(&s.settings) != ends(&settings)) {
            self.leave(now, peer);
            self.forget(peer);
        }
        if let Some(session) = self.sessions.get_mut(&peer) {
            session.stay(now);
            if session.settings != settings {
                session.adjust(now, settings, &mut self.rng);
            }
            self.act(now, peer);
            return Ok(());
        }
        if self.sessions.len() >= SESSIONS_MAX {
            return Err(Full);
        }
        let discriminator = self.draw_discriminator();
        let source_port = self.draw_source_port();
        self.discriminators.insert(discriminator, peer);
        let port = listen_port(&settings);
        let (count, _) = self.listening.entry(port).or_default();
        *count += 1;
        if *count == 1 {
            self.outputs.push_back(Output::Listen { port });
        }
        self.sessions.insert(peer, Session::new(now, settings, discriminator, source_port));
        self.open(peer);
        self.act(now, peer);
        Ok(())
    }

    /// Takes one input. Drain [`Bfd::poll`] before the next.
    pub fn handle(&mut self, now: Time, input: Input) {
        match input {
            Input::Received { local, remote, ttl, payload } => self.receive(now, local, remote, ttl, &payload),
            Input::NotOpen { peer } => {
                // Another port may be free, and whoever has this one may keep it.
                let port = self.draw_source_port();
                let Some(session) = self.sessions.get_mut(&peer) else {
                    self.source_ports.remove(&port);
                    return;
                };
                self.source_ports.remove(&core::mem::replace(&mut session.source_port, port));
                session.reopen_at = Some(now.saturating_add(PAUSE));
                self.set_timer(peer);
            }
            Input::NotListening { port } => {
                if let Some((_, again)) = self.listening.get_mut(&port) {
                    *again = Some(now.saturating_add(PAUSE));
                }
            }
            Input::Tick => self.tick(now),
        }
    }

    /// The next output; `None`: nothing more for now.
    pub fn poll(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When a [`Input::Tick`] is wanted.
    pub fn deadline(&self) -> Option<Time> {
        let listen = self.listening.values().filter_map(|(_, again)| *again);
        self.timers.first().map(|(at, _)| *at).into_iter().chain(listen).min()
    }

    /// All sessions, sorted by neighbour; none that is being taken away.
    pub fn sessions(&self) -> impl Iterator<Item = SessionView> + '_ {
        self.sessions.iter().filter(|(_, session)| session.gone_at.is_none()).map(|(peer, session)| session.view(*peer))
    }

    /// The session with a neighbour.
    pub fn session(&self, peer: IpAddr) -> Option<SessionView> {
        self.sessions.get(&peer).filter(|session| session.gone_at.is_none()).map(|session| session.view(peer))
    }

    /// Datagrams that were for nobody.
    pub const fn dropped(&self) -> Dropped {
        self.dropped
    }

    fn draw_discriminator(&mut self) -> u32 {
        loop {
            let discriminator = self.rng.rand_u32();
            if discriminator != 0 && !self.discriminators.contains_key(&discriminator) {
                return discriminator;
            }
        }
    }

    fn draw_source_port(&mut self) -> u16 {
        // There are more ports than sessions.
        loop {
            let port = u16::try_from(self.rng.rand_range(SOURCE_PORTS)).unwrap_or(u16::MAX);
            if self.source_ports.insert(port) {
                return port;
            }
        }
    }

    fn open(&mut self, peer: IpAddr) {
        let Some(session) = self.sessions.get_mut(&peer) else { return };
        session.reopen_at = None;
        let Settings { local, port, .. } = session.settings;
        let remote = SocketAddr::new(peer, port);
        self.outputs.push_back(Output::Open { peer, local, source_port: session.source_port, remote });
    }

    /// Ends a session: at once if nobody listens, else after saying so for a while.
    fn leave(&mut self, now: Time, peer: IpAddr) {
        let Some(session) = self.sessions.get_mut(&peer) else { return };
        if session.leave(now) {
            self.act(now, peer);
        } else {
            self.forget(peer);
        }
    }

    fn forget(&mut self, peer: IpAddr) {
        let Some(session) = self.sessions.remove(&peer) else { return };
        self.discriminators.remove(&session.discriminator);
        self.source_ports.remove(&session.source_port);
        self.set_timer(peer);
        self.outputs.push_back(Output::Close { peer });
        let port = listen_port(&session.settings);
        if let Some((count, _)) = self.listening.get_mut(&port) {
            *count -= 1;
            if *count == 0 {
                self.listening.remove(&port);
                self.outputs.push_back(Output::Unlisten { port });
            }
        }
    }

    /// RFC 5880 section 6.8.6, up to where a session is found.
    fn receive(&mut self, now: Time, local: SocketAddr, remote: SocketAddr, ttl: u8, payload: &Payload) {
        let Ok(packet) = payload.packet() else {
            self.dropped.malformed += 1;
            return;
        };
        let known = packet.your_discriminator != 0;
        let peer = if known {
            self.discriminators.get(&packet.your_discriminator).copied()
        } else {
            // Who is past Down knows our discriminator.
            Some(remote.ip().to_canonical()).filter(|_| matches!(packet.state, State::Down | State::AdminDown))
        };
        let Some((peer, session)) = peer.and_then(|peer| Some((peer, self.sessions.get_mut(&peer)?))) else {
            self.dropped.unknown += 1;
            return;
        };
        let Settings { hops, local: ours, .. } = session.settings;
        let here = known || ours.is_none_or(|ours| ours == local.ip().to_canonical());
        // 255 if the neighbour is on the link: only who is can send that.
        if !here || local.port() != listen_port(&session.settings) || u16::from(ttl) < 256 - u16::from(hops) {
            self.dropped.astray += 1;
            return;
        }
        let (change, poll) = session.receive(now, &packet, &mut self.rng);
        if poll {
            self.send(now, peer, true);
        }
        self.tell(peer, change);
        self.act(now, peer);
    }

    fn tick(&mut self, now: Time) {
        for (port, (_, again)) in &mut self.listening {
            if again.take_if(|at| *at <= now).is_some() {
                self.outputs.push_back(Output::Listen { port: *port });
            }
        }
        while let Some((_, peer)) = self.timers.first().copied().filter(|(at, _)| *at <= now) {
            let Some(session) = self.sessions.get_mut(&peer) else {
                self.set_timer(peer);
                continue;
            };
            if session.gone_at.is_some_and(|at| at <= now) {
                self.forget(peer);
                continue;
            }
            let change = session.expire(now);
            if session.reopen_at.is_some_and(|at| at <= now) {
                self.open(peer);
            }
            self.tell(peer, change);
            self.act(now, peer);
        }
    }

    fn tell(&mut self, peer: IpAddr, change: Change) {
        let event = match change {
            Change::None => return,
            Change::Up => Event::Up { peer },
            Change::Down { failure } => {
                let diagnostic = self.sessions.get(&peer).map(Session::diagnostic).unwrap_or_default();
                Event::Down { peer, diagnostic, failure }
            }
        };
        self.outputs.push_back(Output::Event(event));
    }

    /// Sends what is due, and plans when to look again.
    fn act(&mut self, now: Time, peer: IpAddr) {
        if self.sessions.get(&peer).is_some_and(|session| session.send_due(now)) {
            self.send(now, peer, false);
        }
        self.set_timer(peer);
    }

    fn send(&mut self, now: Time, peer: IpAddr, answer: bool) {
        let Some(session) = self.sessions.get_mut(&peer).filter(|session| session.reopen_at.is_none()) else { return };
        let bytes = session.packet(now, answer, &mut self.rng).encode();
        self.outputs.push_back(Output::Send { peer, bytes });
    }

    fn set_timer(&mut self, peer: IpAddr) {
        let deadline = self.sessions.get(&peer).and_then(Session::deadline);
        if self.timer_of.get(&peer).copied() == deadline {
            return;
        }
        if let Some(old) = self.timer_of.remove(&peer) {
            self.timers.remove(&(old, peer));
        }
        if let Some(at) = deadline {
            self.timer_of.insert(peer, at);
            self.timers.insert((at, peer));
        }
    }
}
