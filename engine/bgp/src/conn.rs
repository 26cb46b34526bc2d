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

use alloc::boxed::Box;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::net::{IpAddr, Ipv4Addr};

use fairway_desired::Family;
use fairway_desired::bgp::{self, Families};

use crate::neighbor::Restart;
use crate::restart::Since;
use crate::view::Messages;
use crate::wire::{
    AS_TRANS, Capability, Context, FAMILIES, Message, Notification, Open, RestartFamily, SAFI_UNICAST, StaleFamily,
    Update, afi, code,
};
use crate::{ConnId, Octets, SessionState, Time};

/// Before the OPEN arrives (RFC 4271 section 8.2.2 suggests 4 minutes).
const OPEN_HOLD: Time = Time::from_secs(240);
/// A dial that the driver does not answer is given up.
const DIAL_LIMIT: Time = Time::from_secs(30);

/// Fewer octets are rather copied than shared.
const SHARED_MIN: usize = 1024;

/// What we say of ourselves, and whom we accept.
#[derive(Clone, Debug)]
pub(crate) struct Ours {
    /// The AS that we show.
    pub(crate) asn: u32,
    pub(crate) router_id: Ipv4Addr,
    /// AS numbers the other side may have; empty: any.
    pub(crate) asns: Vec<u32>,
    pub(crate) session: bgp::Session,
    /// Since we last had a session.
    pub(crate) since: Since,
}

impl Ours {
    fn families(&self) -> impl Iterator<Item = Family> {
        let families = self.session.families;
        FAMILIES.into_iter().filter(move |f| families.has(*f))
    }

    fn open(&self) -> Open {
        let mut capabilities: Vec<Capability> =
            self.families().map(|f| Capability::Multiprotocol { afi: afi(f), safi: SAFI_UNICAST }).collect();
        capabilities.push(Capability::RouteRefresh);
        if self.session.extended_next_hop && self.session.families.v4 {
            let v4_over_v6 = (afi(Family::V4), u16::from(SAFI_UNICAST), afi(Family::V6));
            capabilities.push(Capability::ExtendedNextHop(alloc::vec![v4_over_v6]));
        }
        capabilities.push(Capability::ExtendedMessage);
        if let Some(gr) = self.session.graceful_restart {
            let Since { restarted, forwarding } = self.since;
            capabilities.push(Capability::GracefulRestart {
                restarted,
                notification: true,
                time_s: gr.time_s,
                families: self
                    .families()
                    .map(|f| RestartFamily { afi: afi(f), safi: SAFI_UNICAST, forwarding })
                    .collect(),
            });
        }
        capabilities.push(Capability::FourOctetAs(self.asn));
        let add_path = self.session.add_path;
        let mode = u8::from(add_path.receive) | u8::from(add_path.send > 0) << 1;
        if mode != 0 {
            capabilities.push(Capability::AddPath(self.families().map(|f| (afi(f), SAFI_UNICAST, mode)).collect()));
        }
        capabilities.push(Capability::EnhancedRefresh);
        if let Some(gr) = self.session.graceful_restart.filter(|gr| gr.long_lived_s > 0) {
            let (forwarding, time_s) = (self.since.forwarding, gr.long_lived_s);
            capabilities.push(Capability::LongLived(
                self.families().map(|f| StaleFamily { afi: afi(f), safi: SAFI_UNICAST, forwarding, time_s }).collect(),
            ));
        }
        Open {
            asn2: u16::try_from(self.asn).unwrap_or(AS_TRANS),
            hold_s: self.session.hold_s,
            router_id: self.router_id,
            capabilities,
        }
    }

    /// Checks an OPEN (RFC 4271 section 6.2).
    fn check(&self, open: &Open) -> Result<(), End> {
        let refuse = |subcode, data: &[u8], reason: String| {
            Err(End::notify(Notification::with(code::OPEN, subcode, data), reason))
        };
        let asn = open.asn();
        if !(self.asns.contains(&asn) || self.asns.is_empty()) || asn == 0 {
            let configured = match self.asns.as_slice() {
                [one] => one.to_string(),
                several => format!("{several:?}"),
            };
            return refuse(2, &[], format!("peer says AS {asn}, configured {configured}"));
        }
        let id = open.router_id;
        // RFC 6286 section 2.1: the identifier is unique inside an AS.
        if id.is_unspecified() || id.is_multicast() || (id == self.router_id && asn == self.asn) {
            return refuse(3, &[], format!("peer's router id {id} is not usable, ours is {}", self.router_id));
        }
        if matches!(open.hold_s, 1 | 2) {
            return refuse(6, &[], format!("peer's hold time of {} s is too short", open.hold_s));
        }
        if !self.families().any(|f| open.offers(f)) {
            let mut wanted = Vec::new();
            for family in self.families() {
                Capability::Multiprotocol { afi: afi(family), safi: SAFI_UNICAST }.encode(&mut wanted);
            }
            return refuse(7, &wanted, "no address family in common".into());
        }
        Ok(())
    }

    /// What both sides agreed on.
    pub(crate) fn negotiate(&self, open: &Open) -> Negotiated {
        let families = self.session.families.and(those(|f| open.offers(f)));
        let base = Context {
            four_octet_as: open.four_octet_as().is_some(),
            extended_messages: open.capabilities.contains(&Capability::ExtendedMessage),
            add_path: Families::default(),
            external: open.asn() != self.asn,
        };
        // RFC 7911 section 4: 1 receives, 2 sends, 3 both.
        let theirs = |bit: u8| {
            those(|family| {
                open.capabilities.iter().any(|c| match c {
                    Capability::AddPath(list) => list.iter().any(|(number, safi, mode)| {
                        (*number, *safi) == (afi(family), SAFI_UNICAST) && *mode <= 3 && mode & bit != 0
                    }),
                    _ => false,
                })
            })
            .and(families)
        };
        let ours = self.session.add_path;
        let v4_over_v6 = (afi(Family::V4), u16::from(SAFI_UNICAST), afi(Family::V6));
        let has_v4_over_v6 =
            |c: &Capability| matches!(c, Capability::ExtendedNextHop(list) if list.contains(&v4_over_v6));
        Negotiated {
            families,
            tx: Context { add_path: if ours.send > 0 { theirs(1) } else { Families::default() }, ..base },
            rx: Context { add_path: if ours.receive { theirs(2) } else { Families::default() }, ..base },
            extended_next_hop: self.session.extended_next_hop && open.capabilities.iter().any(has_v4_over_v6),
            enhanced_refresh: open.capabilities.contains(&Capability::EnhancedRefresh),
            restart: self.restart(open),
        }
    }

    fn restart(&self, open: &Open) -> Option<Restart> {
        let ours = self.session.graceful_restart?;
        let (restarted, notification, time_s, list) = open.capabilities.iter().find_map(|c| match c {
            Capability::GracefulRestart { restarted, notification, time_s, families } => {
                Some((*restarted, *notification, *time_s, families))
            }
            _ => None,
        })?;
        let long_lived_s = |family: Family| {
            let theirs = open.capabilities.iter().find_map(|c| match c {
                Capability::LongLived(list) => {
                    list.iter().find(|f| (f.afi, f.safi) == (afi(family), SAFI_UNICAST)).map(|f| f.time_s)
                }
                _ => None,
            });
            theirs.unwrap_or(0).min(ours.long_lived_s)
        };
        let is = |f: &RestartFamily, family| (f.afi, f.safi) == (afi(family), SAFI_UNICAST);
        Some(Restart {
            restarted,
            notification,
            time_s,
            families: those(|family| list.iter().any(|f| is(f, family))),
            forwarding: those(|family| list.iter().any(|f| is(f, family) && f.forwarding)),
            long_lived_s: FAMILIES.map(long_lived_s),
        })
    }
}

/// Those for which something holds.
fn those(holds: impl Fn(Family) -> bool) -> Families {
    Families { v4: holds(Family::V4), v6: holds(Family::V6) }
}

/// What both sides of a session agreed on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Negotiated {
    pub(crate) families: Families,
    pub(crate) tx: Context,
    pub(crate) rx: Context,
    pub(crate) extended_next_hop: bool,
    pub(crate) enhanced_refresh: bool,
    pub(crate) restart: Option<Restart>,
}

/// How a connection ends.
#[derive(Clone, Debug)]
pub(crate) struct End {
    /// What is sent first.
    pub(crate) notification: Option<Notification>,
    pub(crate) reason: String,
    pub(crate) cause: Cause,
}

/// Why, as far as graceful restart has to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cause {
    /// The connection is lost.
    Lost,
    /// One side ended it because of an error, and did not say that it is for good (RFC 8538).
    Error,
    /// It is meant to end.
    Wish,
}

impl End {
    /// We end it, because something is wrong.
    pub(crate) fn notify(notification: Notification, reason: impl ToString) -> Self {
        Self { notification: Some(notification), reason: reason.to_string(), cause: Cause::Error }
    }

    /// It is over already.
    pub(crate) fn silent(reason: impl ToString, cause: Cause) -> Self {
        Self { notification: None, reason: reason.to_string(), cause }
    }

    /// We end it because we want to.
    pub(crate) fn wish(notification: Notification) -> Self {
        Self { cause: Cause::Wish, ..Self::from(notification) }
    }
}

impl From<Notification> for End {
    fn from(notification: Notification) -> Self {
        Self { reason: format!("sent {notification}"), notification: Some(notification), cause: Cause::Error }
    }
}

/// What a message means for the neighbour.
#[derive(Debug)]
pub(crate) enum Signal {
    /// A good OPEN arrived: if no collision forbids, go on with [`Conn::confirm`].
    Opened,
    /// The session is up.
    Established,
    Update(Box<Update>),
    /// The routes of a family are wanted again (RFC 2918), or are sent again from here on or up to here (RFC 7313).
    Refresh(Family, u8),
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
    /// Whole messages not yet given to the driver: those in parts come first.
    pub(crate) parts: Vec<Octets>,
    pub(crate) tx: Vec<u8>,
    /// The capabilities of our OPEN.
    pub(crate) said: Vec<Capability>,
    /// Octets given to the driver since it last said that all have left.
    pub(crate) unsent: usize,
    /// The driver was asked to say so.
    pub(crate) draining: bool,
    pub(crate) sent: Messages,
    pub(crate) got: Messages,
    /// How they encode.
    rx_context: Context,
    /// How we do.
    tx_context: Context,
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
            parts: Vec::new(),
            tx: Vec::new(),
            said: Vec::new(),
            unsent: 0,
            draining: false,
            sent: Messages::default(),
            got: Messages::default(),
            rx_context: Context::default(),
            tx_context: Context::default(),
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
        let open = ours.open();
        self.said.clone_from(&open.capabilities);
        self.send(now, &Message::Open(open));
    }

    fn hold(&self) -> Option<Time> {
        (self.hold_s != 0).then(|| Time::from_secs(u64::from(self.hold_s)))
    }

    fn restart_hold(&mut self, now: Time) {
        self.hold_at = self.hold().map(|hold| now + hold);
    }

    /// Writes a message. One that is too long is never built here: only fixed ones.
    pub(crate) fn send(&mut self, now: Time, message: &Message) {
        if let Ok(bytes) = message.encode(self.tx_context) {
            self.send_bytes(now, &bytes);
        }
    }

    /// Writes encoded messages.
    pub(crate) fn send_bytes(&mut self, now: Time, bytes: &[u8]) {
        self.sent.count(bytes);
        self.tx.extend(bytes);
        if self.keepalive_at.is_some() {
            self.keepalive_at = self.hold().map(|hold| now + hold / 3);
        }
    }

    /// Writes encoded messages that other connections write too.
    pub(crate) fn send_shared(&mut self, now: Time, bytes: &Octets, count: &Messages) {
        self.sent.add(count);
        if bytes.len() < SHARED_MIN {
            self.tx.extend(bytes.iter());
        } else {
            self.close_part();
            self.parts.push(bytes.clone());
        }
        if self.keepalive_at.is_some() {
            self.keepalive_at = self.hold().map(|hold| now + hold / 3);
        }
    }

    fn close_part(&mut self) {
        if !self.tx.is_empty() {
            self.parts.push(core::mem::take(&mut self.tx).into());
        }
    }

    /// What is to be given to the driver.
    pub(crate) fn take(&mut self) -> Vec<Octets> {
        self.close_part();
        core::mem::take(&mut self.parts)
    }

    /// Octets that have not left, as far as we know.
    pub(crate) fn waiting(&self) -> usize {
        self.unsent + self.tx.len() + self.parts.iter().map(|p| p.len()).sum::<usize>()
    }

    /// Answers the OPEN.
    pub(crate) fn confirm(&mut self, now: Time) {
        self.state = SessionState::OpenConfirm;
        self.restart_hold(now);
        self.keepalive_at = self.hold().map(|hold| now + hold / 3);
        self.send(now, &Message::Keepalive);
    }

    pub(crate) fn receive(&mut self, bytes: Vec<u8>) {
        if self.read == self.rx.len() {
            self.rx = bytes;
            self.read = 0;
        } else {
            self.rx.extend(bytes);
        }
    }

    /// Reads one message; `None`: there is no complete one.
    pub(crate) fn step(&mut self, now: Time, ours: &Ours) -> Result<Option<Signal>, End> {
        let unread = self.rx.get(self.read..).unwrap_or_default();
        let Some((message, len)) = Message::decode(unread, self.rx_context)? else {
            if self.read > 0 {
                // What is left is the beginning of one message; the memory of many is not kept.
                self.rx = unread.to_vec();
                self.read = 0;
            }
            return Ok(None);
        };
        self.got.count(unread.get(..len).unwrap_or_default());
        self.read += len;
        if let Message::Notification(n) = message {
            let cause = if n.is_hard_reset() { Cause::Wish } else { Cause::Error };
            return Err(End::silent(format!("peer sent {n}"), cause));
        }
        match (self.state, message) {
            (SessionState::OpenSent, Message::Open(open)) => {
                ours.check(&open)?;
                self.hold_s = ours.session.hold_s.min(open.hold_s);
                let negotiated = ours.negotiate(&open);
                (self.rx_context, self.tx_context) = (negotiated.rx, negotiated.tx);
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
                Ok(Some(Signal::Update(Box::new(update))))
            }
            (SessionState::Established, Message::RouteRefresh(r)) => {
                self.restart_hold(now);
                // RFC 7313 section 5: other subtypes are ignored.
                let family = crate::wire::family_of(r.afi).filter(|_| r.safi == SAFI_UNICAST && r.subtype <= 2);
                Ok(Some(family.map_or(Signal::Nothing, |family| Signal::Refresh(family, r.subtype))))
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
                SessionState::Connect => End::silent("no answer to the dial", Cause::Lost),
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
