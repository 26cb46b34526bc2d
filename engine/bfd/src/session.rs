//! One session: its variables (RFC 5880 section 6.8.1), states and timers. Sockets and demultiplexing are the machine's.

use core::net::IpAddr;

use crate::io::{SessionView, Settings, Time};
use crate::packet::{Diagnostic, Packet, State};

/// Time between packets while a session is not up, at least (RFC 5880 section 6.8.3).
const SLOW_US: u32 = 1_000_000;

/// What the other side said last.
#[derive(Clone, Copy, Debug)]
struct Remote {
    discriminator: u32,
    state: State,
    diagnostic: Diagnostic,
    min_tx_us: u32,
    /// 1 before it said anything (`bfd.RemoteMinRxInterval`).
    min_rx_us: u32,
    multiplier: u8,
    demand: bool,
}

impl Remote {
    const UNKNOWN: Remote = Remote {
        discriminator: 0,
        state: State::Down,
        diagnostic: Diagnostic::NONE,
        min_tx_us: 0,
        min_rx_us: 1,
        multiplier: 0,
        demand: false,
    };
}

/// A Poll Sequence (RFC 5880 section 6.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Poll {
    Idle,
    /// Packets have P until one with F comes.
    Running,
    /// The same, and what is asked changed in between: the answer may be to the older question, so it is asked again.
    Stale,
}

/// What came of a packet, or of time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    None,
    Up,
    Down { failure: bool },
}

#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) settings: Settings,
    pub(crate) discriminator: u32,
    pub(crate) source_port: u16,
    /// The driver has no socket; when to ask for one again.
    pub(crate) reopen_at: Option<Time>,
    /// It is being taken away: AdminDown is said until then.
    pub(crate) gone_at: Option<Time>,
    state: State,
    diagnostic: Diagnostic,
    remote: Remote,
    /// What we say in packets.
    tx_us: u32,
    rx_us: u32,
    /// What counts: raising one or lowering the other waits for F while the session is up.
    tx_used_us: u32,
    rx_used_us: u32,
    poll: Poll,
    last_sent: Option<Time>,
    /// When the next periodic packet leaves.
    send_at: Option<Time>,
    /// When the last packet arrived; `None`: none since the other side counts as silent.
    heard: Option<Time>,
    /// When the other side counts as silent.
    silent_at: Option<Time>,
    since: Time,
    ups: u64,
    sent: u64,
    received: u64,
}

fn micros(us: u32) -> Time {
    Time::from_micros(us.into())
}

impl Session {
    /// A session that is down and has sent nothing; it will as soon as it can.
    pub(crate) fn new(now: Time, settings: Settings, discriminator: u32, source_port: u16) -> Self {
        let tx_us = settings.desired_min_tx_us.max(SLOW_US);
        Session {
            settings,
            discriminator,
            source_port,
            reopen_at: None,
            gone_at: None,
            state: State::Down,
            diagnostic: Diagnostic::NONE,
            remote: Remote::UNKNOWN,
            tx_us,
            rx_us: settings.required_min_rx_us,
            tx_used_us: tx_us,
            rx_used_us: settings.required_min_rx_us,
            poll: Poll::Idle,
            last_sent: None,
            send_at: Some(now),
            heard: None,
            silent_at: None,
            since: now,
            ups: 0,
            sent: 0,
            received: 0,
        }
    }

    /// Time between our packets, before jitter (RFC 5880 section 6.8.2). `None`: the other side wants none.
    fn tx_interval(&self) -> Option<Time> {
        let Remote { min_rx_us, demand, state, .. } = self.remote;
        let unwanted = demand && self.state == State::Up && state == State::Up && self.poll == Poll::Idle;
        (min_rx_us != 0 && !unwanted).then(|| micros(self.tx_used_us.max(min_rx_us)))
    }

    /// RFC 5880 section 6.8.4
    fn detection_time(&self) -> Time {
        micros(self.rx_used_us.max(self.remote.min_tx_us)) * u32::from(self.remote.multiplier)
    }

    /// When something is to be done.
    pub(crate) fn deadline(&self) -> Option<Time> {
        let send = self.send_at.filter(|_| self.reopen_at.is_none());
        [send, self.silent_at, self.reopen_at, self.gone_at].into_iter().flatten().min()
    }

    pub(crate) const fn diagnostic(&self) -> Diagnostic {
        self.diagnostic
    }

    pub(crate) fn send_due(&self, now: Time) -> bool {
        self.send_at.is_some_and(|at| at <= now) && self.reopen_at.is_none()
    }

    /// Goes to a state. Its timers follow, and a packet says so at once.
    fn enter(&mut self, now: Time, state: State, diagnostic: Diagnostic) {
        self.state = state;
        self.diagnostic = diagnostic;
        self.since = now;
        self.negotiate();
        self.send_at = self.tx_interval().map(|_| now);
    }

    /// Works out what we say of our timers, and what counts (RFC 5880 section 6.8.3).
    fn negotiate(&mut self) {
        let up = self.state == State::Up;
        let tx_us = if up { self.settings.desired_min_tx_us } else { self.settings.desired_min_tx_us.max(SLOW_US) };
        let rx_us = self.settings.required_min_rx_us;
        if !up {
            // Each packet says what we want, and nobody counts on us.
            self.poll = Poll::Idle;
            (self.tx_used_us, self.rx_used_us) = (tx_us, rx_us);
        } else if (tx_us, rx_us) != (self.tx_us, self.rx_us) {
            self.tx_used_us = self.tx_used_us.min(tx_us);
            self.rx_used_us = self.rx_used_us.max(rx_us);
            self.poll = if self.poll == Poll::Idle { Poll::Running } else { Poll::Stale };
        }
        (self.tx_us, self.rx_us) = (tx_us, rx_us);
    }

    /// Plans the next periodic packet after the last one. The interval is shortened by up to a quarter, and by a
    /// tenth at least if one lost packet is the end (RFC 5880 section 6.8.7).
    fn plan(&mut self, now: Time, rng: &mut oorandom::Rand32) {
        let longest = if self.settings.multiplier == 1 { 901 } else { 1001 };
        let permille = rng.rand_range(750..longest);
        self.send_at = self.tx_interval().map(|interval| {
            let pause = (interval * permille / 1000).max(Time::from_micros(1));
            self.last_sent.map_or(now, |last| last.saturating_add(pause)).max(now)
        });
    }

    /// The settings changed while the session stands; only timers may have.
    pub(crate) fn adjust(&mut self, now: Time, settings: Settings, rng: &mut oorandom::Rand32) {
        let before = self.tx_interval();
        self.settings = settings;
        self.negotiate();
        if self.tx_interval() != before {
            self.plan(now, rng);
        }
        // What changed is said at once, also what needs no Poll.
        self.send_at = self.send_at.map(|_| now);
        self.listen();
    }

    /// Plans when the other side counts as silent.
    fn listen(&mut self) {
        let patience = self.detection_time().max(Time::from_micros(1));
        self.silent_at = self.heard.map(|heard| heard.saturating_add(patience));
    }

    /// Begins to end: says AdminDown for a while (RFC 5880 section 6.8.16). False: nobody listens, it can go at once.
    pub(crate) fn leave(&mut self, now: Time) -> bool {
        if self.remote.discriminator == 0 || self.reopen_at.is_some() {
            return false;
        }
        if self.gone_at.is_none() {
            // The other side's detection time for us.
            let interval = micros(self.tx_used_us.max(self.remote.min_rx_us));
            self.gone_at = Some(now.saturating_add(interval * u32::from(self.settings.multiplier)));
            (self.heard, self.silent_at) = (None, None);
            self.enter(now, State::AdminDown, Diagnostic::ADMIN_DOWN);
        }
        true
    }

    /// It is wanted again before it was gone.
    pub(crate) fn stay(&mut self, now: Time) {
        if self.gone_at.take().is_some() {
            self.enter(now, State::Down, Diagnostic::NONE);
        }
    }

    /// A packet for this session (RFC 5880 section 6.8.6, from where a session was found). Returns what changed, and
    /// whether it wants an answer with F.
    pub(crate) fn receive(&mut self, now: Time, packet: &Packet, rng: &mut oorandom::Rand32) -> (Change, bool) {
        let before = self.tx_interval();
        self.received += 1;
        self.remote = Remote {
            discriminator: packet.my_discriminator,
            state: packet.state,
            diagnostic: packet.diagnostic,
            min_tx_us: packet.desired_min_tx_us,
            min_rx_us: packet.required_min_rx_us,
            multiplier: packet.multiplier,
            demand: packet.demand,
        };
        if self.gone_at.is_some() {
            return (Change::None, false);
        }
        if packet.last {
            self.answered();
        }
        let (next, diagnostic) = match (self.state, packet.state) {
            (State::Down, State::Down) => (State::Init, self.diagnostic),
            (State::Down, State::Init) | (State::Init, State::Init | State::Up) => (State::Up, Diagnostic::NONE),
            (State::Init, State::AdminDown) => (State::Down, Diagnostic::NEIGHBOR_DOWN),
            (State::Up, State::AdminDown | State::Down) => (State::Down, Diagnostic::NEIGHBOR_DOWN),
            (state, _) => (state, self.diagnostic),
        };
        let change = match (self.state, next) {
            (old, new) if old == new => Change::None,
            (_, State::Up) => {
                self.ups += 1;
                Change::Up
            }
            // AdminDown is the neighbour's wish.
            (State::Up, _) => Change::Down { failure: packet.state != State::AdminDown },
            _ => Change::None,
        };
        if next != self.state {
            self.enter(now, next, diagnostic);
        } else if self.tx_interval() != before {
            self.plan(now, rng);
        }
        self.heard = Some(now);
        self.listen();
        (change, packet.poll)
    }

    /// A packet with F arrived.
    fn answered(&mut self) {
        match self.poll {
            Poll::Idle => {}
            Poll::Stale => self.poll = Poll::Running,
            Poll::Running => {
                self.poll = Poll::Idle;
                (self.tx_used_us, self.rx_used_us) = (self.tx_us, self.rx_us);
            }
        }
    }

    /// Nothing was heard for the detection time, if that is so.
    pub(crate) fn expire(&mut self, now: Time) -> Change {
        if self.silent_at.is_none_or(|at| at > now) {
            return Change::None;
        }
        (self.heard, self.silent_at) = (None, None);
        // Whoever answers next may be another run of the neighbour, with other wishes.
        self.remote = Remote::UNKNOWN;
        let before = self.state;
        if matches!(before, State::Init | State::Up) {
            self.enter(now, State::Down, Diagnostic::EXPIRED);
        } else {
            self.send_at.get_or_insert(now);
        }
        if before == State::Up { Change::Down { failure: true } } else { Change::None }
    }

    /// The packet to send now, and plans the next one. With `answer` it has F, which never goes with P.
    pub(crate) fn packet(&mut self, now: Time, answer: bool, rng: &mut oorandom::Rand32) -> Packet {
        self.sent += 1;
        self.last_sent = Some(now);
        self.plan(now, rng);
        Packet {
            diagnostic: self.diagnostic,
            state: self.state,
            poll: self.poll != Poll::Idle && !answer,
            last: answer,
            // We are one process with the control plane.
            control_plane_independent: false,
            demand: false,
            multiplier: self.settings.multiplier,
            my_discriminator: self.discriminator,
            your_discriminator: self.remote.discriminator,
            desired_min_tx_us: self.tx_us,
            required_min_rx_us: self.rx_us,
            required_min_echo_rx_us: 0,
        }
    }

    pub(crate) fn view(&self, peer: IpAddr) -> SessionView {
        SessionView {
            peer,
            local: self.settings.local,
            multihop: self.settings.hops != 1,
            state: self.state,
            remote_state: self.remote.state,
            diagnostic: self.diagnostic,
            remote_diagnostic: self.remote.diagnostic,
            since: self.since,
            tx_interval: self.tx_interval(),
            rx_interval: micros(self.rx_used_us.max(self.remote.min_tx_us)),
            detection_time: self.detection_time(),
            multiplier: self.settings.multiplier,
            remote_multiplier: self.remote.multiplier,
            discriminator: self.discriminator,
            remote_discriminator: self.remote.discriminator,
            ups: self.ups,
            sent: self.sent,
            received: self.received,
        }
    }
}
