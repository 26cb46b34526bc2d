//! Interfaces.

use std::collections::BTreeMap;
use std::sync::Arc;

use fairway_desired::{Family, Fault, Link, LinkKind, LinkValue, Op, Outcome, Table, Tunnel, receive_port};
use fairway_netlink::{Error, Message, Socket, flags};
use netlink_packet_core::Parseable;
use netlink_packet_route::link::{InfoData, InfoKind, LinkAttribute, LinkFlags, LinkInfo, LinkMessage};
use rtnetlink::{LinkBridge, LinkDummy, LinkMessageBuilder, LinkUnspec};

use crate::backend::{BRIDGE, DUMMY, Known, carry_out, fault};
use crate::monitor::Writer;
use crate::wire::errno::{EINVAL, EPERM};
use crate::wire::{kind, message, not_deleted, refused};
use crate::{fou, tunnel};

/// `IFNAMSIZ` without the closing zero.
const NAME: usize = 15;

/// Names and indexes of interfaces, as last read.
#[derive(Debug, Default)]
pub(crate) struct Links {
    indexes: BTreeMap<Arc<str>, u32>,
    names: BTreeMap<u32, Arc<str>>,
}

/// An interface.
#[derive(Clone, Debug)]
pub(crate) struct Found {
    pub(crate) index: u32,
    pub(crate) up: bool,
    /// `IFLA_INFO_KIND`; `None` for hardware.
    pub(crate) kind: Option<InfoKind>,
    /// `IFLA_MTU`
    pub(crate) mtu: u32,
    /// What it leads to, if it is a tunnel between two addresses.
    pub(crate) tunnel: Option<Tunnel>,
}

impl Links {
    pub(crate) fn name(&self, index: u32) -> Option<&Arc<str>> {
        self.names.get(&index)
    }

    /// The index of an interface; the kernel is asked if the name is not known.
    pub(crate) fn index(&mut self, socket: &mut Socket, name: &str) -> Result<Option<u32>, Fault> {
        if !self.indexes.contains_key(name) {
            // There may be thousands of others.
            let request = message(kind::GET_LINK, 0, &LinkUnspec::new_with_name(name).build());
            let replies = match socket.request(request) {
                Err(Error::Errno(errno)) if errno.0 != EPERM => return Ok(None),
                replies => replies.map_err(|error| fault(&error))?,
            };
            for reply in replies {
                if let Some((name, found)) = LinkMessage::parse(&reply.payload).ok().as_ref().and_then(decode) {
                    self.insert(found.index, &name);
                }
            }
        }
        Ok(self.indexes.get(name).copied())
    }

    /// The index of an interface, if it was read before.
    pub(crate) fn known(&self, name: &str) -> Option<u32> {
        self.indexes.get(name).copied()
    }

    /// An interface has this name.
    pub(crate) fn insert(&mut self, index: u32, name: &Arc<str>) {
        self.remove(index);
        self.indexes.insert(name.clone(), index);
        self.names.insert(index, name.clone());
    }

    /// An interface is gone.
    pub(crate) fn remove(&mut self, index: u32) {
        if let Some(name) = self.names.remove(&index) {
            self.indexes.remove(&name);
        }
    }

    /// Nothing is known of this name any more.
    pub(crate) fn forget(&mut self, name: &str) {
        if let Some(index) = self.indexes.remove(name) {
            self.names.remove(&index);
        }
    }
}

/// Reads every interface.
pub(crate) fn read(socket: &mut Socket, links: &mut Links) -> Result<BTreeMap<Arc<str>, Found>, Fault> {
    let mut found = BTreeMap::new();
    let request = message(kind::GET_LINK, flags::DUMP, &LinkMessage::default());
    socket
        .dump(&request, &mut found, BTreeMap::clear, |found, kind, payload| {
            if kind == kind::NEW_LINK
                && let Ok(message) = LinkMessage::parse(payload)
                && let Some((name, link)) = decode(&message)
            {
                found.insert(name, link);
            }
        })
        .map_err(|error| fault(&error))?;
    links.indexes = found.iter().map(|(name, link)| (name.clone(), link.index)).collect();
    links.names = found.iter().map(|(name, link)| (link.index, name.clone())).collect();
    Ok(found)
}

fn decode(message: &LinkMessage) -> Option<(Arc<str>, Found)> {
    let (mut name, mut kind, mut mtu, mut data) = (None, None, 0, None);
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(text) => name = Some(Arc::from(text.as_str())),
            LinkAttribute::Mtu(found) => mtu = *found,
            LinkAttribute::LinkInfo(infos) => {
                for info in infos {
                    match info {
                        LinkInfo::Kind(found) => kind = Some(found.clone()),
                        LinkInfo::Data(InfoData::IpTunnel(found)) => data = Some(found),
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    let tunnel = data.and_then(|data| tunnel::decode(kind.as_ref(), data));
    let up = message.header.flags.contains(LinkFlags::Up);
    Some((name?, Found { index: message.header.index, up, kind, mtu, tunnel }))
}

pub(crate) fn observe(socket: &mut Socket, known: &mut Known) -> Result<Table<Link>, Fault> {
    let all = read(socket, &mut known.links)?;
    let value = |name: &str, link: &Found, kind| LinkValue {
        kind,
        up: link.up,
        mtu: (name == BRIDGE && !known.free_mtus.contains(name)).then_some(link.mtu),
    };
    let ours = all.iter().filter_map(|(name, link)| match (&**name, &link.kind) {
        (DUMMY | BRIDGE, Some(InfoKind::Bridge)) => Some((name.clone(), value(name, link, LinkKind::Bridge))),
        (DUMMY, _) => Some((name.clone(), value(name, link, LinkKind::Dummy))),
        _ => None,
    });
    let mut table: Table<Link> = ours.into_iter().collect();
    known.tunnels.clear();
    for (name, link) in &all {
        if let Some(tunnel) = link.tunnel.filter(|_| tunnel::is_ours(name, link)) {
            known.tunnels.insert(name.clone(), link.index);
            table.insert(name.clone(), LinkValue { kind: LinkKind::Tunnel(tunnel), up: link.up, mtu: None });
        }
    }
    // Others may have such ports: ours is the one of the flag, and what we opened.
    let ports = fou::observe()?.into_iter().map(|(family, port)| (port, receive_port(family, port)));
    table.extend(ports.filter(|(port, (name, _))| *port == known.port || known.ports.contains(name)).map(|(_, p)| p));
    Ok(table)
}

/// A request that makes an interface.
pub(crate) fn create(name: &str, value: &LinkValue) -> Message {
    let body = match value.kind {
        LinkKind::Tunnel(tunnel) => return tunnel::create(name, &tunnel, value.up),
        // No interface, and asked for in other ways.
        LinkKind::ReceivePort { .. } => LinkUnspec::new_with_name(name).build(),
        LinkKind::Dummy => filled(LinkDummy::new(name), value),
        LinkKind::Bridge => filled(LinkBridge::new(name), value),
    };
    message(kind::NEW_LINK, flags::CREATE | flags::EXCL, &body)
}

fn filled<T>(body: LinkMessageBuilder<T>, value: &LinkValue) -> LinkMessage {
    let body = if value.up { body.up() } else { body.down() };
    match value.mtu {
        Some(mtu) => body.mtu(mtu).build(),
        None => body.build(),
    }
}

/// A request that sets the MTU of an interface.
fn set_mtu(index: u32, mtu: u32) -> Message {
    message(kind::NEW_LINK, 0, &LinkUnspec::new_with_index(index).mtu(mtu).build())
}

/// A request that sets an interface up or down.
pub(crate) fn set_up(index: u32, up: bool) -> Message {
    let body = LinkUnspec::new_with_index(index);
    message(kind::NEW_LINK, 0, &if up { body.up() } else { body.down() }.build())
}

/// A request that deletes an interface.
pub(crate) fn delete(index: u32) -> Message {
    message(kind::DEL_LINK, 0, &LinkUnspec::new_with_index(index).build())
}

/// In order: tunnels that are put or deleted in a row together, the others one by one, as there are few.
pub(crate) fn apply(
    socket: &mut Socket,
    known: &mut Known,
    writer: &Writer,
    ops: &[Op<Link>],
) -> Result<Vec<Outcome>, Fault> {
    let sort = |op: &Op<Link>| (tunnel::concerns(op), matches!(op, Op::Put(..)));
    let mut outcomes = Vec::with_capacity(ops.len());
    for run in ops.chunk_by(|one, next| sort(one) == sort(next)) {
        if run.first().is_some_and(tunnel::concerns) {
            outcomes.extend(tunnel::apply(socket, known, writer, run)?);
        } else {
            for op in run {
                outcomes.push(apply_one(socket, known, op)?);
            }
        }
    }
    Ok(outcomes)
}

/// The receive port of a name; `None` if it is that of an interface.
fn port_of(name: &str) -> Option<LinkValue> {
    let (port, family) = name.strip_prefix("gue/")?.split_once('/')?;
    let family = if family == "ipv4" { Family::V4 } else { Family::V6 };
    let (made, value) = receive_port(family, port.parse().ok().filter(|port| *port > 0)?);
    (*made == *name).then_some(value)
}

fn apply_port(known: &mut Known, op: &Op<Link>) -> Result<Outcome, Fault> {
    let name = op.key();
    let value = match (op, port_of(name)) {
        (Op::Put(_, asked), Some(value)) if *asked == value => value,
        (Op::Put(..), _) => return Ok(Outcome::Refused(EINVAL)),
        (Op::Del(_), Some(value)) => value,
        (Op::Del(_), None) => return Ok(Outcome::Gone),
    };
    let outcome = fou::apply(&value, matches!(op, Op::Put(..)))?;
    match (op, outcome) {
        (Op::Put(..), Outcome::Done) => drop(known.ports.insert(name.clone())),
        (Op::Del(_), Outcome::Done | Outcome::Gone) => drop(known.ports.remove(name)),
        _ => {}
    }
    Ok(outcome)
}

fn apply_one(socket: &mut Socket, known: &mut Known, op: &Op<Link>) -> Result<Outcome, Fault> {
    let name = op.key();
    if name.starts_with("gue/") || matches!(op, Op::Put(_, LinkValue { kind: LinkKind::ReceivePort { .. }, .. })) {
        return apply_port(known, op);
    }
    let found = read(socket, &mut known.links)?.remove(name);
    let bridge = **name == *BRIDGE;
    if found.is_some() && **name != *DUMMY && !bridge {
        return Ok(Outcome::Foreign);
    }
    let requests = match (op, found) {
        (Op::Put(..), _) if name.is_empty() || name.len() > NAME => return Ok(Outcome::Refused(EINVAL)),
        (Op::Put(_, value), None) => vec![create(name, value)],
        (Op::Put(_, value), Some(there)) => {
            let kind = match value.kind {
                LinkKind::Dummy => InfoKind::Dummy,
                // Tunnels and ports do not come here.
                _ => InfoKind::Bridge,
            };
            match there.kind == Some(kind) {
                false if bridge => return Ok(Outcome::Foreign),
                false => vec![delete(there.index), create(name, value)],
                true => {
                    let mtu = value.mtu.filter(|mtu| *mtu != there.mtu).map(|mtu| set_mtu(there.index, mtu));
                    let up = (there.up != value.up).then(|| set_up(there.index, value.up));
                    mtu.into_iter().chain(up).collect()
                }
            }
        }
        (Op::Del(_), None) => return Ok(Outcome::Gone),
        (Op::Del(_), Some(_)) if bridge => return Ok(Outcome::Foreign),
        (Op::Del(_), Some(there)) => vec![delete(there.index)],
    };
    let results = carry_out(socket, requests)?;
    known.links.forget(name);
    let refusal = results.into_iter().find_map(Result::err);
    match op {
        Op::Put(_, LinkValue { mtu: None, .. }) => known.free_mtus.insert(name.clone()),
        Op::Put(..) | Op::Del(_) => known.free_mtus.remove(name),
    };
    Ok(match (op, refusal) {
        (_, None) => Outcome::Done,
        (Op::Put(..), Some(errno)) => refused(errno),
        (Op::Del(_), Some(errno)) => not_deleted(errno),
    })
}
