//! Machines, and the network between them.
#![allow(dead_code, reason = "each test file uses a part of it")]
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use fairway_bfd::{
    Bfd, Diagnostic, Event, Input, MULTIHOP_PORT, Output, PORT, Packet, Payload, SessionView, Settings, State,
};

pub(crate) const MS: Duration = Duration::from_millis(1);

pub(crate) fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

pub(crate) fn ours() -> IpAddr {
    ip("10.0.0.1")
}

pub(crate) fn theirs() -> IpAddr {
    ip("10.0.0.2")
}

/// A session on the link; intervals in milliseconds.
pub(crate) fn settings(local: IpAddr, tx_ms: u32, rx_ms: u32, multiplier: u8) -> Settings {
    Settings {
        local: Some(local),
        port: PORT,
        hops: 1,
        desired_min_tx_us: tx_ms * 1000,
        required_min_rx_us: rx_ms * 1000,
        multiplier,
    }
}

/// What a scripted neighbour says; change what matters.
pub(crate) fn packet(state: State, your_discriminator: u32) -> Packet {
    Packet {
        diagnostic: Diagnostic::NONE,
        state,
        poll: false,
        last: false,
        control_plane_independent: false,
        demand: false,
        multiplier: 3,
        my_discriminator: 77,
        your_discriminator,
        desired_min_tx_us: 100_000,
        required_min_rx_us: 100_000,
        required_min_echo_rx_us: 0,
    }
}

/// One machine whose neighbour `theirs()` is played by the test.
pub(crate) struct Side {
    pub(crate) bfd: Bfd,
    pub(crate) now: Duration,
    pub(crate) sent: Vec<Packet>,
    pub(crate) events: Vec<Event>,
    /// The rest of what it said.
    pub(crate) rest: Vec<Output>,
}

impl Side {
    pub(crate) fn new(settings: Settings) -> Side {
        let mut side =
            Side { bfd: Bfd::new(1), now: Duration::from_secs(1000), sent: vec![], events: vec![], rest: vec![] };
        side.set(Some(settings));
        side
    }

    pub(crate) fn set(&mut self, settings: Option<Settings>) {
        self.bfd.set(self.now, theirs(), settings).unwrap();
        self.drain();
    }

    pub(crate) fn drain(&mut self) {
        while let Some(output) = self.bfd.poll() {
            match output {
                Output::Send { bytes, .. } => self.sent.push(Packet::decode(&bytes).unwrap()),
                Output::Event(event) => self.events.push(event),
                output => self.rest.push(output),
            }
        }
        assert!(self.bfd.deadline().is_none_or(|at| at > self.now), "a deadline that is past stays");
    }

    pub(crate) fn input(&mut self, input: Input) {
        self.bfd.handle(self.now, input);
        self.drain();
    }

    pub(crate) fn hear(&mut self, packet: &Packet) {
        self.hear_bytes(&packet.encode());
    }

    pub(crate) fn hear_bytes(&mut self, bytes: &[u8]) {
        self.hear_from(SocketAddr::new(theirs(), 50_000), SocketAddr::new(ours(), PORT), 255, bytes);
    }

    pub(crate) fn hear_from(&mut self, remote: SocketAddr, local: SocketAddr, ttl: u8, bytes: &[u8]) {
        self.input(Input::Received { local, remote, ttl, payload: Payload::new(bytes) });
    }

    /// Lets time pass, in steps of the machine's own deadlines.
    pub(crate) fn wait(&mut self, time: Duration) {
        let end = self.now + time;
        for _ in 0..1_000_000 {
            match self.bfd.deadline().filter(|at| *at <= end) {
                Some(at) => self.now = at,
                None => {
                    self.now = end;
                    return;
                }
            }
            self.input(Input::Tick);
        }
        panic!("deadlines do not move on");
    }

    pub(crate) fn view(&self) -> SessionView {
        self.bfd.session(theirs()).unwrap()
    }

    pub(crate) fn discriminator(&self) -> u32 {
        self.view().discriminator
    }

    /// Brings the session to a state.
    pub(crate) fn bring(&mut self, state: State) {
        let discriminator = self.discriminator();
        match state {
            State::AdminDown => {
                self.bring(State::Init);
                self.set(None);
            }
            State::Down => {}
            State::Init => self.hear(&packet(State::Down, 0)),
            State::Up => {
                self.bring(State::Init);
                self.hear(&packet(State::Up, discriminator));
            }
        }
        self.sent.clear();
        self.events.clear();
        self.rest.clear();
    }
}

/// How the network treats one packet.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Treatment {
    pub(crate) lost: bool,
    pub(crate) twice: bool,
    pub(crate) delay: Duration,
}

/// Two machines with a network between them. Each has a clock of its own, of another epoch.
pub(crate) struct Pair {
    pub(crate) machines: [Bfd; 2],
    pub(crate) epochs: [Duration; 2],
    pub(crate) now: Duration,
    /// Packets under way: arrival and order, whom to, bytes.
    wire: BTreeMap<(Duration, u64), (usize, [u8; Packet::LEN])>,
    order: u64,
    /// Events with the time and the machine.
    pub(crate) events: Vec<(Duration, usize, Event)>,
    /// Packets sent by each.
    pub(crate) sent: [Vec<(Duration, Packet)>; 2],
}

pub(crate) fn address(machine: usize) -> IpAddr {
    if machine == 0 { ours() } else { theirs() }
}

impl Pair {
    pub(crate) fn new(seed: u64, epochs: [Duration; 2]) -> Pair {
        Pair {
            machines: [Bfd::new(seed), Bfd::new(seed + 1)],
            epochs,
            now: Duration::ZERO,
            wire: BTreeMap::new(),
            order: 0,
            events: vec![],
            sent: [vec![], vec![]],
        }
    }

    pub(crate) fn set(&mut self, machine: usize, settings: Settings, treat: &mut dyn FnMut(usize) -> Treatment) {
        let now = self.now + self.epochs[machine];
        self.machines[machine].set(now, address(1 - machine), Some(settings)).unwrap();
        self.drain(machine, treat);
    }

    fn drain(&mut self, machine: usize, treat: &mut dyn FnMut(usize) -> Treatment) {
        while let Some(output) = self.machines[machine].poll() {
            match output {
                Output::Send { bytes, .. } => {
                    self.sent[machine].push((self.now, Packet::decode(&bytes).unwrap()));
                    let Treatment { lost, twice, delay } = treat(machine);
                    for copy in 0..u32::from(!lost) + u32::from(!lost && twice) {
                        self.order += 1;
                        self.wire.insert((self.now + delay * (copy + 1), self.order), (1 - machine, bytes));
                    }
                }
                Output::Event(event) => self.events.push((self.now, machine, event)),
                _ => {}
            }
        }
    }

    /// Does the next thing that happens until then. Returns whether there was one.
    pub(crate) fn step(&mut self, end: Duration, treat: &mut dyn FnMut(usize) -> Treatment) -> bool {
        let arrival = self.wire.first_key_value().map(|((at, _), _)| *at);
        let due = |m: usize| self.machines[m].deadline().map(|at| at.saturating_sub(self.epochs[m]).max(self.now));
        let next = [arrival, due(0), due(1)].into_iter().flatten().min();
        let Some(at) = next.filter(|at| *at <= end) else {
            self.now = end;
            return false;
        };
        self.now = at;
        if arrival == Some(at) {
            let (_, (to, bytes)) = self.wire.pop_first().unwrap();
            let input = Input::Received {
                local: SocketAddr::new(address(to), PORT),
                remote: SocketAddr::new(address(1 - to), 50_000),
                ttl: 255,
                payload: Payload::new(&bytes),
            };
            self.machines[to].handle(at + self.epochs[to], input);
            self.drain(to, treat);
        } else {
            for machine in 0..2 {
                if self.machines[machine].deadline().is_some_and(|due| due <= at + self.epochs[machine]) {
                    self.machines[machine].handle(at + self.epochs[machine], Input::Tick);
                    self.drain(machine, treat);
                }
            }
        }
        true
    }

    pub(crate) fn view(&self, machine: usize) -> SessionView {
        self.machines[machine].session(address(1 - machine)).unwrap()
    }

    pub(crate) fn up(&self, machine: usize) -> bool {
        self.view(machine).state == State::Up
    }
}

pub(crate) const MULTIHOP: u16 = MULTIHOP_PORT;
