//! One speaker against a scripted other side: messages in, outputs out.
#![allow(dead_code, unreachable_pub)]

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use fairway_bgp::wire::{AsPath, Attributes, Capability, Context, Message, Notification, Open, Origin, Reach, Update};
use fairway_bgp::{ConnId, Event, Input, Output, RibPath, SessionState, Speaker, Watch};
use fairway_desired::bgp::{Distance, Families, Global, Key, Peer, Session, Value};
use fairway_desired::{Bgp, Family, Learned, Op};
use ipnet::IpNet;

/// What is negotiated with a speaker of today, if it asks for nothing special.
pub const FOUR: Context = Context {
    four_octet_as: true,
    extended_messages: false,
    add_path: Families { v4: false, v6: false },
    external: false,
};

pub struct Script {
    pub speaker: Speaker,
    pub now: Duration,
    pub events: Vec<Event>,
    pub learned: Vec<Learned>,
    next_in: u64,
    pub context: Context,
    /// Where it is another one: for what is received and for what is said.
    pub contexts: BTreeMap<ConnId, (Context, Context)>,
    /// Connections that the speaker wants to be told of when all has left.
    pub drains: Vec<ConnId>,
    /// Whom BFD is to watch, as it was said.
    pub watches: Vec<(IpAddr, Option<Watch>)>,
    /// Connections with their TTLs: ours, and the lowest of theirs.
    pub ttls: Vec<(ConnId, Option<u8>, Option<u8>)>,
    /// TCP passwords by neighbour, as they were told.
    pub passwords: Vec<(IpAddr, Option<String>)>,
}

/// What came out on a connection.
#[derive(Clone, Debug, PartialEq)]
pub enum Out {
    Listen(u16),
    Dial(ConnId, SocketAddr),
    Say(ConnId, Message),
    Close(ConnId),
}

impl Script {
    pub fn new() -> Self {
        Self {
            speaker: Speaker::new(7),
            now: Duration::from_secs(1000),
            events: vec![],
            learned: vec![],
            next_in: 0,
            context: FOUR,
            contexts: BTreeMap::new(),
            drains: vec![],
            watches: vec![],
            ttls: vec![],
            passwords: vec![],
        }
    }

    /// A speaker of [`OWN_AS`] with these neighbours.
    pub fn with(ops: &[Op<Bgp>]) -> Self {
        let mut s = Self::new();
        s.apply(&[own()]);
        s.apply(ops);
        s
    }

    pub fn apply(&mut self, ops: &[Op<Bgp>]) -> Vec<Out> {
        self.speaker.apply(self.now, ops);
        self.drain()
    }

    pub fn input(&mut self, input: Input) -> Vec<Out> {
        self.speaker.handle(self.now, input);
        self.drain()
    }

    fn drain(&mut self) -> Vec<Out> {
        let mut outs = vec![];
        while let Some(output) = self.speaker.poll() {
            match output {
                Output::Listen { port } => outs.push(Out::Listen(port)),
                Output::Connect { conn, remote, ttl, min_ttl, .. } => {
                    self.ttls.push((conn, ttl, min_ttl));
                    outs.push(Out::Dial(conn, remote));
                }
                Output::Close { conn } => outs.push(Out::Close(conn)),
                Output::Send { conn, bytes } => {
                    let mut rest = &bytes[..];
                    let context = self.contexts.get(&conn).map_or(self.context, |c| c.0);
                    while let Some((message, len)) = Message::decode(rest, context).unwrap() {
                        outs.push(Out::Say(conn, message));
                        rest = &rest[len..];
                    }
                    assert!(rest.is_empty());
                }
                Output::Limit { conn, ttl, min_ttl } => self.ttls.push((conn, ttl, min_ttl)),
                Output::Password { peer, password } => self.passwords.push((peer, password)),
                Output::Watch { peer, watch } => self.watches.push((peer, watch)),
                Output::Drain { conn } => self.drains.push(conn),
                Output::Learned(l) => self.learned.push(l),
                Output::Event(e) => self.events.push(e),
            }
        }
        outs
    }

    /// Goes to the next deadline.
    pub fn tick(&mut self) -> Vec<Out> {
        self.now = self.speaker.deadline().expect("a deadline");
        self.input(Input::Tick)
    }

    /// Lets so much time pass, deadline by deadline.
    pub fn wait(&mut self, duration: Duration) -> Vec<Out> {
        let end = self.now + duration;
        let mut outs = vec![];
        while self.speaker.deadline().is_some_and(|at| at <= end) {
            outs.extend(self.tick());
        }
        self.now = end;
        outs
    }

    /// A dial succeeds.
    pub fn connect(&mut self, conn: ConnId) -> Vec<Out> {
        let local = SocketAddr::new(ours(), 40000);
        self.input(Input::Connected { conn, local, remote: SocketAddr::new(ours(), 179) })
    }

    /// The other side is gone without a word.
    pub fn lose(&mut self, conn: ConnId) -> Vec<Out> {
        self.input(Input::Closed { conn })
    }

    pub fn state(&self, peer: &str) -> SessionState {
        let peer: IpAddr = peer.parse().unwrap();
        self.speaker.neighbors().into_iter().find(|n| n.address == peer).expect("a neighbour").state
    }

    /// Prefixes of the Loc-RIB, both families, those that are stale with a mark.
    pub fn routes(&self) -> Vec<String> {
        let rib = self.speaker.rib(Family::V4).into_iter().chain(self.speaker.rib(Family::V6));
        rib.map(|p| format!("{}{}", p.prefix, if p.stale { " stale" } else { "" })).collect()
    }

    /// What a neighbour is told of a prefix.
    pub fn told(&self, peer: &str, prefix: &str) -> Vec<RibPath> {
        let prefix: IpNet = prefix.parse().unwrap();
        let mut paths = self.speaker.adj_out(peer.parse().unwrap());
        paths.retain(|p| p.prefix == prefix);
        paths
    }

    pub fn say(&mut self, conn: ConnId, message: &Message) -> Vec<Out> {
        let context = self.contexts.get(&conn).map_or(self.context, |c| c.1);
        let bytes = message.encode(context).unwrap();
        self.input(Input::Received { conn, bytes })
    }

    /// The other side dials.
    pub fn accept(&mut self, from: IpAddr) -> (ConnId, Vec<Out>) {
        self.next_in += 1;
        let conn = ConnId::In(self.next_in);
        let local = SocketAddr::new(ours(), 179);
        let outs = self.input(Input::Accepted { conn, local, remote: SocketAddr::new(from, 33333) });
        (conn, outs)
    }

    /// A session that the other side dialed is brought up.
    pub fn up(&mut self, from: IpAddr, open: &Open) -> (ConnId, Vec<Out>) {
        let (conn, _) = self.accept(from);
        self.say(conn, &Message::Open(open.clone()));
        let outs = self.say(conn, &Message::Keepalive);
        (conn, outs)
    }
}

/// Our AS in most tests.
pub const OWN_AS: u32 = 65100;

/// What [`Script::with`] is: identifier 10.0.0.100, four paths at once.
pub fn own() -> Op<Bgp> {
    Op::Put(Key::Global, Value::Global(Global::new(OWN_AS, Ipv4Addr::new(10, 0, 0, 100), 179, 4)))
}

/// A neighbour that we do not dial, with a hold time of 90 s and what the closure changes.
pub fn neighbor(address: &str, asn: u32, change: impl FnOnce(&mut Session)) -> Op<Bgp> {
    let mut session = Session::new(90, Families::ALL);
    change(&mut session);
    let peer = Peer { passive: true, ..Peer::new(asn, session) };
    Op::Put(Key::Peer(address.parse().unwrap()), Value::Peer(peer))
}

/// Nothing special.
pub fn plain(_: &mut Session) {}

/// Any distance.
pub fn far(session: &mut Session) {
    session.distance = Distance::Multihop(8);
}

/// IPv6 routes.
pub fn announce6(attributes: Attributes, next_hop: &str, prefixes: &[&str]) -> Message {
    let prefixes = prefixes.iter().map(|p| p.parse::<IpNet>().unwrap().into()).collect();
    let reach = Reach { next_hop: next_hop.parse().unwrap(), prefixes };
    let attributes = Some(Arc::new(attributes));
    Message::Update(Update { attributes, mp_reach: Some((Family::V6, reach)), ..Update::default() })
}

pub fn withdraw(prefixes: &[&str]) -> Message {
    let withdrawn = prefixes.iter().map(|p| p.parse::<IpNet>().unwrap().into()).collect();
    Message::Update(Update { withdrawn, ..Update::default() })
}

pub fn end_of_rib(family: Family) -> Message {
    Message::Update(Update::end_of_rib(family))
}

/// The UPDATEs that were sent on a connection.
pub fn updates(outs: &[Out], on: ConnId) -> Vec<Update> {
    let of = |o: &Out| match o {
        Out::Say(conn, Message::Update(update)) if *conn == on => Some(update.clone()),
        _ => None,
    };
    outs.iter().filter_map(of).collect()
}

/// The NOTIFICATIONs that were sent on a connection: code, subcode, data.
pub fn notifications(outs: &[Out], on: ConnId) -> Vec<Notification> {
    let of = |o: &Out| match o {
        Out::Say(conn, Message::Notification(n)) if *conn == on => Some(n.clone()),
        _ => None,
    };
    outs.iter().filter_map(of).collect()
}

pub fn ours() -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(10, 0, 0, 100))
}

pub fn open(asn: u32, id: u8) -> Open {
    Open {
        asn2: u16::try_from(asn).unwrap_or(23456),
        hold_s: 90,
        router_id: Ipv4Addr::new(10, 0, 0, id),
        capabilities: vec![
            Capability::Multiprotocol { afi: 1, safi: 1 },
            Capability::Multiprotocol { afi: 2, safi: 1 },
            Capability::FourOctetAs(asn),
        ],
    }
}

pub fn notification(code: u8, subcode: u8) -> Message {
    Message::Notification(Notification { code, subcode, data: vec![] })
}

pub fn attributes(as_path: &[u32]) -> Attributes {
    Attributes { origin: Origin::Igp, as_path: AsPath::sequence(as_path), ..Attributes::own() }
}

pub fn announce(attributes: Attributes, next_hop: &str, prefixes: &[&str]) -> Message {
    let prefixes = prefixes.iter().map(|p| p.parse::<IpNet>().unwrap().into()).collect();
    let reach = Reach { next_hop: next_hop.parse().unwrap(), prefixes };
    Message::Update(Update { attributes: Some(Arc::new(attributes)), reach: Some(reach), ..Update::default() })
}
