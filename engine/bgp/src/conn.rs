//! One TCP connection's part of the state machine (RFC 4271 section 8): messages in, messages out, timers.
//!
//! | phase       | ends with                        | then        |
//! |-------------|----------------------------------|-------------|
//! | Dialing     | the driver's answer              | OpenSent    |
//! | OpenSent    | a good OPEN, no better collision | OpenConfirm |
//! | OpenConfirm | KEEPALIVE                        | Established |
//! | Established | -                                | -           |
//!
//! Any error ends the connection with an [`End`]. What belongs to the neighbour as a whole (dialing again, collisions,
//! routes) is not here.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::net::{IpAddr, Ipv4Addr};

use fairway_desired::Family;
use fairway_desired::bgp::Families;

use crate::wire::FAMILIES;
use crate::wire::{AS_TRANS, Capability, Context, Message, Notification, Open, SAFI_UNICAST, Update, afi, code};
use crate::{ConnId, SessionState, Time};

/// Before the OPEN arrives (RFC 4271 section 8.2.2 suggests 4 minutes).
const OPEN_HOLD: Time = Time::from_secs(240);
/// A dial that the driver does not answer is given up.
const DIAL_LIMIT: Time = Time::from_secs(30);

/// Which of the two families.
pub(crate) const fn has(families: Families, family: Family) -> bool {
    match family {
        Family::V4 => families.v4,
        Family::V6 => families.v6,
    }
}

/// What we say of ourselves, and whom we accept.
#[derive(Clone, Debug)]
pub(crate) struct Ours {
    pub(crate) asn: u32,
    pub(crate) router_id: Ipv4Addr,
    pub(crate) hold_s: u16,
    pub(crate) families: Families,
    /// AS numbers the other side may have.
    pub(crate) asns: Vec<u32>,
}

impl Ours {
    fn open(&self) -> Open {
        let mut capabilities: Vec<Capability> = FAMILIES
            .into_iter()
            .filter(|f| has(self.families, *f))
            .map(|f| Capability::Multiprotocol { afi: afi(f), safi: SAFI_UNICAST })
            .collect();
        capabilities.push(Capability::RouteRefresh);
        capabilities.push(Capability::FourOctetAs(self.asn));
        Open {
            asn2: u16::try_from(self.asn).unwrap_or(AS_TRANS),
            hold_s: self.hold_s,
            router_id: self.router_id,
            capabilities,
        }
    }

    /// Checks an OPEN (RFC 4271 section 6.2).
    fn check(&self, open: &Open) -> Result<(), End> {
        let refuse = |subcode, data: &[u8], reason: String| {
            Err(End { notification: Some(Notification::with(code::OPEN, subcode, data)), reason })
        };
        let asn = open.asn();
        if !self.asns.contains(&asn) || asn == 0 {
            let configured = match self.asns.as_slice() {
                [one] => one.to_string(),
                several => format!("{several:?}"),
            };
            return refuse(2, &[], format!("peer says AS {asn}, configured {configured}"));
        }
        let id = open.router_id;
        if id.is_unspecified() || id.is_multicast() || id == self.router_id {
            return refuse(3, &[], format!("peer's router id {id} is not usable, ours is {}", self.router_id));
        }
        if matches!(open.hold_s, 1 | 2) {
            return refuse(6, &[], format!("peer's hold time of {} s is too short", open.hold_s));
        }
        if !FAMILIES.into_iter().any(|f| has(self.families, f) && open.offers(f)) {
            let mut wanted = Vec::new();
            for family in FAMILIES.into_iter().filter(|f| has(self.families, *f)) {
                Capability::Multiprotocol { afi: afi(family), safi: SAFI_UNICAST }.encode(&mut wanted);
            }
            return refuse(7, &wanted, "no address family in common".into());
        }
        Ok(())
    }
}

/// How a connection ends.
#[derive(Clone, Debug)]
pub(crate) struct End {
    /// What is sent first.
    pub(crate) notification: Option<Notification>,
    pub(crate) reason: String,
}

impl End {
    /// We end it.
    pub(crate) fn notify(notification: Notification, reason: impl ToString) -> Self {
        Self { notification: Some(notification), reason: reason.to_string() }
    }

    /// It is over already.
    pub(crate) fn silent(reason: impl ToString) -> Self {
        Self { notification: None, reason: reason.to_string() }
    }
}

impl From<Notification> for End {
    fn from(notification: Notification) -> Self {
        Self { reason: format!("sent {notification}"), notification: Some(notification) }
    }
}

/// What a message means for the neighbour.
#[derive(Debug)]
pub(crate) enum Signal {
    /// A good OPEN arrived: if no collision forbids, go on with [`Conn::confirm`].
    Opened,
    /// The session is up.
    Established,
    Update(Update),
    /// The routes of a family are wanted again.
    Refresh(Family),
    /// Nothing to do.
    Nothing,
}

#[derive(Debug)]
pub(crate) struct Conn {
    pub(crate) id: ConnId,
    /// Our end, once connected.
    pub(crate) local: Option<IpAddr>,
    pub(crate) state: SessionState,
    pub(crate) open: Option<Open>,
    pub(crate) hold_s: u16,
    /// Whole messages not yet given to the driver.
    pub(crate) tx: Vec<u8>,
    rx: Vec<u8>,
    /// Octets of `rx` already read.
    read: usize,
    /// Hold timer, or the limit of a dial.
    hold_at: Option<Time>,
    keepalive_at: Option<Time>,
}

impl Conn {
    pub(crate) fn dialing(id: ConnId, now: Time) -> Self {
        Self {
            id,
            local: None,
            state: SessionState::Connect,
            open: None,
            hold_s: 0,
            tx: Vec::new(),
            rx: Vec::new(),
            read: 0,
            hold_at: Some(now + DIAL_LIMIT),
            keepalive_at: None,
        }
    }

    /// The TCP connection stands: OPEN goes out.
    pub(crate) fn connected(&mut self, now: Time, local: IpAddr, ours: &Ours) {
        self.local = Some(local);
        self.state = SessionState::OpenSent;
        self.hold_at = Some(now + OPEN_HOLD);
        self.send(now, &Message::Open(ours.open()));
    }

    pub(crate) fn context(&self) -> Context {
        Context { four_octet_as: self.open.as_ref().is_some_and(|o| o.four_octet_as().is_some()) }
    }

    pub(crate) fn families(&self, ours: Families) -> Families {
        let theirs = |family| self.open.as_ref().is_some_and(|o| o.offers(family));
        Families { v4: ours.v4 && theirs(Family::V4), v6: ours.v6 && theirs(Family::V6) }
    }

    fn hold(&self) -> Option<Time> {
        (self.hold_s != 0).then(|| Time::from_secs(u64::from(self.hold_s)))
    }

    fn restart_hold(&mut self, now: Time) {
        self.hold_at = self.hold().map(|hold| now + hold);
    }

    /// Writes a message. One that is too long is never built here: only fixed ones.
    pub(crate) fn send(&mut self, now: Time, message: &Message) {
        if let Ok(bytes) = message.encode(self.context()) {
            self.send_bytes(now, &bytes);
        }
    }

    /// Writes an encoded message.
    pub(crate) fn send_bytes(&mut self, now: Time, bytes: &[u8]) {
        self.tx.extend(bytes);
        if self.keepalive_at.is_some() {
            self.keepalive_at = self.hold().map(|hold| now + hold / 3);
        }
    }

    /// Answers the OPEN.
    pub(crate) fn confirm(&mut self, now: Time) {
        self.state = SessionState::OpenConfirm;
        self.restart_hold(now);
        self.keepalive_at = self.hold().map(|hold| now + hold / 3);
        self.send(now, &Message::Keepalive);
    }

    pub(crate) fn receive(&mut self, bytes: &[u8]) {
        if self.read == self.rx.len() {
            self.rx.clear();
            self.read = 0;
        }
        self.rx.extend(bytes);
    }

    /// Reads one message; `None`: there is no complete one.
    pub(crate) fn step(&mut self, now: Time, ours: &Ours) -> Result<Option<Signal>, End> {
        let unread = self.rx.get(self.read..).unwrap_or_default();
        let Some((message, len)) = Message::decode(unread, self.context())? else {
            self.rx.drain(..self.read);
            self.read = 0;
            return Ok(None);
        };
        self.read += len;
        if let Message::Notification(n) = message {
            return Err(End::silent(format!("peer sent {n}")));
        }
        match (self.state, message) {
            (SessionState::OpenSent, Message::Open(open)) => {
                ours.check(&open)?;
                self.hold_s = ours.hold_s.min(open.hold_s);
                self.open = Some(open);
                Ok(Some(Signal::Opened))
            }
            (SessionState::OpenConfirm, Message::Keepalive) => {
                self.state = SessionState::Established;
                self.restart_hold(now);
                Ok(Some(Signal::Established))
            }
            (SessionState::Established, Message::Keepalive) => {
                self.restart_hold(now);
                Ok(Some(Signal::Nothing))
            }
            (SessionState::Established, Message::Update(update)) => {
                self.restart_hold(now);
                Ok(Some(Signal::Update(update)))
            }
            (SessionState::Established, Message::RouteRefresh(r)) => {
                self.restart_hold(now);
                // RFC 7313 section 5: other subtypes are ignored.
                let family = crate::wire::family_of(r.afi).filter(|_| r.safi == SAFI_UNICAST && r.subtype == 0);
                Ok(Some(family.map_or(Signal::Nothing, Signal::Refresh)))
            }
            (state, _) => {
                let subcode = match state {
                    SessionState::OpenSent => 1,
                    SessionState::OpenConfirm => 2,
                    SessionState::Established => 3,
                    _ => 0,
                };
                Err(Notification::new(code::FSM, subcode).into())
            }
        }
    }

    /// Lets time pass.
    pub(crate) fn tick(&mut self, now: Time) -> Result<(), End> {
        if self.hold_at.is_some_and(|at| at <= now) {
            return Err(match self.state {
                SessionState::Connect => End::silent("no answer to the dial"),
                _ => End::notify(Notification::new(code::HOLD_TIMER, 0), "hold timer expired"),
            });
        }
        if self.keepalive_at.is_some_and(|at| at <= now) {
            self.send(now, &Message::Keepalive);
        }
        Ok(())
    }

    pub(crate) fn deadline(&self) -> Option<Time> {
        [self.hold_at, self.keepalive_at].into_iter().flatten().min()
    }
}
