//! Tunnels to other nodes.
//!
//! Linux permits one tunnel of a kind between two addresses. So one that kube-router left under another name cannot stand
//! beside ours for a moment: it is renamed, with which its routes stay. Since Linux 6.2 that works while it is up; before,
//! it is deleted and ours is made in one go. Ends and encapsulation are changed in place, for the same reason.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use fairway_desired::{Fault, Link, LinkKind, LinkValue, Op, Outcome, Tunnel};
use fairway_netlink::{Errno, Message, Socket, flags};
use netlink_packet_route::link::{
    InfoData, InfoIpTunnel, InfoKind, Ip6TunnelFlags, LinkAttribute, LinkFlags, LinkInfo, LinkMessage, TunnelEncapType,
};

use crate::backend::{Known, carry_out};
use crate::link::{Found, delete, read};
use crate::monitor::Writer;
use crate::wire::errno::{EBUSY, EEXIST, EINVAL, ENODEV};
use crate::wire::{kind, message, not_deleted, refused};

/// Octets of UDP and GUE, which an IPv4 tunnel whose encapsulation is changed does not reckon with by itself.
const UDP_GUE: u32 = 8 + 4;

fn info_kind(tunnel: &Tunnel) -> InfoKind {
    if tunnel.local.is_ipv4() { InfoKind::IpIp } else { InfoKind::Ip6Tnl }
}

/// The ends and the encapsulation that an interface's attributes say; `None` if it is no tunnel or has no fixed ends.
pub(crate) fn decode(kind: Option<&InfoKind>, data: &[InfoIpTunnel]) -> Option<Tunnel> {
    if !matches!(kind, Some(InfoKind::IpIp | InfoKind::Ip6Tnl)) {
        return None;
    }
    let (mut local, mut remote): (Option<IpAddr>, Option<IpAddr>) = (None, None);
    let (mut encapsulation, mut port) = (TunnelEncapType::None, 0);
    for attribute in data {
        match attribute {
            InfoIpTunnel::Local(ip) => local = Some(*ip),
            InfoIpTunnel::Remote(ip) => remote = Some(*ip),
            InfoIpTunnel::EncapType(found) => encapsulation = *found,
            InfoIpTunnel::EncapDPort(found) => port = *found,
            _ => {}
        }
    }
    let port = match encapsulation {
        TunnelEncapType::None => None,
        TunnelEncapType::Gue => Some(port),
        // No port of ours, so it counts as a difference.
        _ => Some(0),
    };
    Some(Tunnel { local: local?, remote: remote?, port })
}

/// Everything about a tunnel is said each time: what is left out the kernel takes for its default.
fn data(tunnel: &Tunnel) -> Vec<InfoIpTunnel> {
    let mut data = vec![InfoIpTunnel::Local(tunnel.local), InfoIpTunnel::Remote(tunnel.remote)];
    if tunnel.local.is_ipv4() {
        data.push(InfoIpTunnel::PMtuDisc(true));
    } else {
        // Without the option of RFC 2473 section 4.1.1 there is no header that a router might not like, and 8 octets
        // more for pods.
        data.push(InfoIpTunnel::Ipv6Flags(Ip6TunnelFlags::IgnEncapLimit));
    }
    match tunnel.port {
        None => data.push(InfoIpTunnel::EncapType(TunnelEncapType::None)),
        Some(port) => {
            data.push(InfoIpTunnel::EncapType(TunnelEncapType::Gue));
            // The kernel chooses by the flow inside, so that the fabric spreads connections.
            data.push(InfoIpTunnel::EncapSPort(0));
            data.push(InfoIpTunnel::EncapDPort(port));
        }
    }
    data
}

fn body(name: Option<&str>, tunnel: &Tunnel, up: bool) -> LinkMessage {
    let mut body = LinkMessage::default();
    body.header.change_mask = LinkFlags::Up;
    body.header.flags = if up { LinkFlags::Up } else { LinkFlags::empty() };
    body.attributes.extend(name.map(|name| LinkAttribute::IfName(name.into())));
    let info = vec![LinkInfo::Kind(info_kind(tunnel)), LinkInfo::Data(InfoData::IpTunnel(data(tunnel)))];
    body.attributes.push(LinkAttribute::LinkInfo(info));
    body
}

/// A request that makes a tunnel.
pub(crate) fn create(name: &str, tunnel: &Tunnel, up: bool) -> Message {
    message(kind::NEW_LINK, flags::CREATE | flags::EXCL, &body(Some(name), tunnel, up))
}

/// A request that makes an interface into this, whatever its name and its ends were.
fn change(there: &There, name: &str, tunnel: &Tunnel, up: bool) -> Message {
    let mut body = body((*there.name != *name).then_some(name), tunnel, up);
    body.header.index = there.index;
    // IPv6 works it out anew.
    let before = there.tunnel.and_then(|before| before.port);
    if tunnel.local.is_ipv4() && there.mtu > 0 && before.is_some() != tunnel.port.is_some() {
        let mtu = if before.is_some() { there.mtu + UDP_GUE } else { there.mtu.saturating_sub(UDP_GUE) };
        body.attributes.push(LinkAttribute::Mtu(mtu));
    }
    message(kind::NEW_LINK, 0, &body)
}

/// A tunnel that is there.
#[derive(Clone, Debug)]
struct There {
    name: Arc<str>,
    index: u32,
    mtu: u32,
    tunnel: Option<Tunnel>,
    ours: bool,
}

/// Whether an interface is ours.
pub(crate) fn is_ours(name: &str, found: &Found) -> bool {
    found.tunnel.is_some_and(|tunnel| Tunnel::is_ours(name, tunnel.remote))
}

/// Whether an op is about a tunnel.
pub(crate) fn concerns(op: &Op<Link>) -> bool {
    match op {
        Op::Put(_, value) => matches!(value.kind, LinkKind::Tunnel(_)),
        Op::Del(name) => Tunnel::may_be(name),
    }
}

/// Puts and deletes tunnels: first as if nothing unexpected were there, and what that fails for after a look.
pub(crate) fn apply(
    socket: &mut Socket,
    known: &mut Known,
    writer: &Writer,
    ops: &[Op<Link>],
) -> Result<Vec<Outcome>, Fault> {
    let mut outcomes = vec![Outcome::Done; ops.len()];
    let mut requests = vec![];
    let mut about = vec![];
    let mut unclear = vec![];
    for (at, op) in ops.iter().enumerate() {
        match op {
            Op::Put(name, LinkValue { kind: LinkKind::Tunnel(tunnel), up, .. }) => {
                // Nobody asks for a name of kube-router's.
                let fits = tunnel.is_possible() && *name == Tunnel::name(tunnel.remote);
                if !fits {
                    outcomes[at] = Outcome::Refused(EINVAL);
                } else if known.tunnels.contains_key(name) {
                    unclear.push(at);
                } else {
                    requests.push(create(name, tunnel, *up));
                    about.push(at);
                }
            }
            Op::Put(..) => outcomes[at] = Outcome::Refused(EINVAL),
            Op::Del(name) => match known.tunnels.get(name) {
                Some(index) if *index > 0 => {
                    writer.removes(*index, true);
                    requests.push(delete(*index));
                    about.push(at);
                }
                _ => unclear.push(at),
            },
        }
    }
    for (at, result) in about.into_iter().zip(carry_out(socket, requests)?) {
        match (&ops[at], result) {
            (_, Ok(())) => {}
            (Op::Put(..), Err(errno)) if errno.0 == EEXIST => unclear.push(at),
            (Op::Put(..), Err(errno)) => outcomes[at] = refused(errno),
            (Op::Del(name), Err(errno)) => {
                writer.removes(known.tunnels.get(name).copied().unwrap_or_default(), false);
                outcomes[at] = not_deleted(errno);
            }
        }
    }
    if !unclear.is_empty() {
        look(socket, known, writer, ops, &unclear, &mut outcomes)?;
    }
    for (op, outcome) in ops.iter().zip(&outcomes) {
        let name = op.key();
        match (op, outcome) {
            // The interface may be another one now.
            (Op::Put(..), Outcome::Done) => {
                known.links.forget(name);
                known.tunnels.entry(name.clone()).or_default();
            }
            (Op::Put(..), _) => {}
            (Op::Del(_), Outcome::Done | Outcome::Gone) => {
                known.links.forget(name);
                known.tunnels.remove(name);
            }
            (Op::Del(_), _) => {}
        }
    }
    Ok(outcomes)
}

/// Ops on what is there already, or may be.
fn look(
    socket: &mut Socket,
    known: &mut Known,
    writer: &Writer,
    ops: &[Op<Link>],
    which: &[usize],
    outcomes: &mut [Outcome],
) -> Result<(), Fault> {
    let mut all = All::default();
    for (name, found) in read(socket, &mut known.links)? {
        let ours = is_ours(&name, &found);
        all.insert(There { name, index: found.index, mtu: found.mtu, tunnel: found.tunnel, ours });
    }
    for &at in which {
        let name = ops[at].key();
        let named = all.names.get(name).cloned();
        if named.as_ref().is_some_and(|there| !there.ours) {
            outcomes[at] = Outcome::Foreign;
            continue;
        }
        outcomes[at] = match &ops[at] {
            Op::Put(_, LinkValue { kind: LinkKind::Tunnel(tunnel), up, .. }) => {
                let other = all.between.get(&(tunnel.local, tunnel.remote)).filter(|other| *other != name);
                let other = other.and_then(|other| all.names.get(other)).cloned();
                let result = match (&named, other) {
                    (_, Some(other)) if !other.ours => Err(Outcome::Refused(EEXIST)),
                    // Until the other one is deleted.
                    (Some(_), Some(_)) => Err(Outcome::Busy),
                    (Some(there), None) => one(socket, change(there, name, tunnel, *up))?.map_err(refused),
                    (None, Some(other)) => {
                        // Whatever comes of it, that name does not stand for this interface any more.
                        known.tunnels.remove(&other.name);
                        known.links.forget(&other.name);
                        all.remove(&other.name);
                        // Routes belong to the interface and not to its name.
                        match one(socket, change(&other, name, tunnel, *up))? {
                            Err(errno) if errno.0 == EBUSY => {
                                remove(socket, writer, other.index)?.ok();
                                one(socket, create(name, tunnel, *up))?.map_err(refused)
                            }
                            result => result.map_err(refused),
                        }
                    }
                    (None, None) => one(socket, create(name, tunnel, *up))?.map_err(refused),
                };
                if result.is_ok() {
                    let (index, mtu) = named.map_or((0, 0), |there| (there.index, there.mtu));
                    all.insert(There { name: name.clone(), index, mtu, tunnel: Some(*tunnel), ours: true });
                }
                result.map_or_else(|outcome| outcome, done)
            }
            Op::Put(..) => Outcome::Refused(EINVAL),
            Op::Del(_) => match named {
                Some(there) => {
                    all.remove(name);
                    remove(socket, writer, there.index)?.map_or_else(not_deleted, done)
                }
                None => Outcome::Gone,
            },
        };
    }
    Ok(())
}

/// What is there, by name and by ends.
#[derive(Default)]
struct All {
    names: BTreeMap<Arc<str>, There>,
    between: BTreeMap<(IpAddr, IpAddr), Arc<str>>,
}

impl All {
    fn insert(&mut self, there: There) {
        self.remove(&there.name);
        if let Some(tunnel) = there.tunnel {
            self.between.insert((tunnel.local, tunnel.remote), there.name.clone());
        }
        self.names.insert(there.name.clone(), there);
    }

    fn remove(&mut self, name: &str) {
        if let Some(tunnel) = self.names.remove(name).and_then(|there| there.tunnel) {
            self.between.remove(&(tunnel.local, tunnel.remote));
        }
    }
}

fn done((): ()) -> Outcome {
    Outcome::Done
}

/// Deletes an interface, unheard.
fn remove(socket: &mut Socket, writer: &Writer, index: u32) -> Result<Result<(), Errno>, Fault> {
    writer.removes(index, true);
    let result = one(socket, delete(index));
    if !matches!(result, Ok(Ok(()))) {
        writer.removes(index, false);
    }
    result
}

/// Makes one request.
fn one(socket: &mut Socket, request: Message) -> Result<Result<(), Errno>, Fault> {
    Ok(carry_out(socket, vec![request])?.pop().unwrap_or(Err(Errno(ENODEV))))
}
