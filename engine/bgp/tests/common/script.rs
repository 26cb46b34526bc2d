//! One speaker against a scripted other side: messages in, outputs out.
#![allow(dead_code, unreachable_pub)]

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use fairway_bgp::wire::{AsPath, Attributes, Capability, Context, Message, Notification, Open, Origin, Reach, Update};
use fairway_bgp::{ConnId, Event, Input, Output, Speaker, Watch};
use fairway_desired::bgp::Families;
use fairway_desired::{Bgp, Learned, Op};
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
    /// Connections that the speaker wants to be told of when all has left.
    pub drains: Vec<ConnId>,
    /// Whom BFD is to watch, as it was said.
    pub watches: Vec<(IpAddr, Option<Watch>)>,
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
            drains: vec![],
            watches: vec![],
        }
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
                Output::Connect { conn, remote, .. } => outs.push(Out::Dial(conn, remote)),
                Output::Close { conn } => outs.push(Out::Close(conn)),
                Output::Send { conn, bytes } => {
                    let mut rest = &bytes[..];
                    while let Some((message, len)) = Message::decode(rest, self.context).unwrap() {
                        outs.push(Out::Say(conn, message));
                        rest = &rest[len..];
                    }
                    assert!(rest.is_empty());
                }
                Output::Limit { .. } | Output::Password { .. } => {}
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

    pub fn say(&mut self, conn: ConnId, message: &Message) -> Vec<Out> {
        let bytes = message.encode(self.context).unwrap();
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
