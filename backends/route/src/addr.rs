//! Addresses.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use fairway_desired::{Addr, AddrKey, AddrValue, Family, Fault, Op, Outcome, Table};
use fairway_netlink::{Message, Socket, flags};
use ipnet::IpNet;
use netlink_packet_core::Parseable;
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage, AddressScope};

use crate::backend::{DUMMY, Known, carry_out, fault};
use crate::link::{Links, read};
use crate::monitor::Writer;
use crate::route;
use crate::wire::errno::{EINVAL, ENODEV};
use crate::wire::{family, kind, message, not_deleted, refused};

fn is_ours(link: &str, address: &IpNet) -> bool {
    let link_local = matches!(address.addr(), IpAddr::V6(ip) if ip.is_unicast_link_local());
    link == DUMMY && !link_local
}

/// The message about an address. An IPv6 address is usable at once: nobody else on a link of ours could have it.
pub(crate) fn body(index: u32, address: IpNet, scope: AddressScope) -> AddressMessage {
    let mut body = AddressMessage::default();
    body.header.family = family(Family::of(address.addr()));
    body.header.prefix_len = address.prefix_len();
    body.header.index = index;
    body.header.scope = scope;
    body.attributes.push(AddressAttribute::Local(address.addr()));
    body.attributes.push(AddressAttribute::Address(address.addr()));
    if address.addr().is_ipv6() {
        body.header.flags = AddressHeaderFlags::Nodad;
        body.attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
    }
    body
}

fn decode(payload: &[u8]) -> Option<(u32, IpNet)> {
    let (index, own, on_link) = heard(payload)?;
    Some((index, IpNet::new(own, on_link.prefix_len()).ok()?))
}

/// The interface of a message about an address, our address, and the prefix that is on the link because of it.
pub(crate) fn heard(payload: &[u8]) -> Option<(u32, IpAddr, IpNet)> {
    let message = AddressMessage::parse(payload).ok()?;
    // IFA_ADDRESS is the other end of a point-to-point link; IFA_LOCAL is our own, and IPv6 may lack it.
    let local = message.attributes.iter().find_map(|a| match a {
        AddressAttribute::Local(ip) => Some(*ip),
        _ => None,
    });
    let address = message.attributes.iter().find_map(|a| match a {
        AddressAttribute::Address(ip) => Some(*ip),
        _ => None,
    });
    let on_link = IpNet::new(address.or(local)?, message.header.prefix_len).ok()?;
    Some((message.header.index, local.or(address)?, on_link.trunc()))
}

/// Reads every address, with the interface it is on.
pub(crate) fn all(socket: &mut Socket, links: &mut Links) -> Result<Vec<AddrKey>, Fault> {
    read(socket, links)?;
    let mut found: Vec<(u32, IpNet)> = vec![];
    let request = message(kind::GET_ADDR, flags::DUMP, &AddressMessage::default());
    socket
        .dump(&request, &mut found, Vec::clear, |found, kind, payload| {
            if kind == kind::NEW_ADDR {
                found.extend(decode(payload));
            }
        })
        .map_err(|error| fault(&error))?;
    let keyed = |(index, address): (u32, IpNet)| {
        let link: Arc<str> = links.name(index)?.clone();
        Some(AddrKey { address, link })
    };
    Ok(found.into_iter().filter_map(keyed).collect())
}

pub(crate) fn observe(socket: &mut Socket, known: &mut Known) -> Result<Table<Addr>, Fault> {
    let all = all(socket, &mut known.links)?;
    Ok(all.into_iter().filter(|key| is_ours(&key.link, &key.address)).map(|key| (key, AddrValue)).collect())
}

pub(crate) fn apply(
    socket: &mut Socket,
    known: &mut Known,
    writer: &Writer,
    ops: &[Op<Addr>],
) -> Result<Vec<Outcome>, Fault> {
    let mut outcomes = vec![Outcome::Done; ops.len()];
    let mut requests: Vec<Message> = vec![];
    let mut about = vec![];
    let mut foreign = None;
    for (op, outcome) in ops.iter().zip(outcomes.iter_mut()) {
        let AddrKey { address, link } = op.key();
        let ip = address.addr();
        if !is_ours(link, address) {
            // Never asked for by an agent; whoever asks pays for the look.
            let all = match foreign.take() {
                Some(all) => all,
                None => all(socket, &mut known.links)?,
            };
            let exists = all.contains(op.key());
            foreign = Some(all);
            if exists {
                *outcome = Outcome::Foreign;
                continue;
            }
        }
        let index = known.links.index(socket, link)?;
        let scope = if ip.is_ipv4() { AddressScope::Link } else { AddressScope::Universe };
        let request = match (op, index) {
            (Op::Put(..), None) => Err(Outcome::Refused(ENODEV)),
            (Op::Put(..), _) if ip.is_unspecified() || ip.is_multicast() => Err(Outcome::Refused(EINVAL)),
            (Op::Put(..), Some(index)) => {
                Ok(message(kind::NEW_ADDR, flags::CREATE | flags::REPLACE, &body(index, *address, scope)))
            }
            (Op::Del(_), None) => Err(Outcome::Gone),
            (Op::Del(_), Some(index)) => Ok(message(kind::DEL_ADDR, 0, &body(index, *address, scope))),
        };
        match request {
            Ok(request) => {
                if matches!(op, Op::Del(_)) && ip.is_ipv6() {
                    writer.deletes(*address, true);
                }
                requests.push(request);
                about.push((op, outcome));
            }
            Err(known) => *outcome = known,
        }
    }
    let results = carry_out(socket, requests)?;
    for ((op, outcome), result) in about.into_iter().zip(results) {
        if let Err(errno) = result {
            writer.deletes(op.key().address, false);
            *outcome = if matches!(op, Op::Put(..)) { refused(errno) } else { not_deleted(errno) };
        }
    }
    settle(socket, known, ops, &outcomes)?;
    Ok(outcomes)
}

/// How often, and how far apart, the kernel is asked whether new addresses are in its routing table.
const LOOKS: u32 = 100;
const PAUSE: Duration = Duration::from_millis(1);

/// Waits until the kernel routes what it said is there: whoever then writes a route for such an address must find the
/// kernel's own. It is done by a worker within microseconds; if that takes too long, the next observation sees to it.
fn settle(socket: &mut Socket, known: &Known, ops: &[Op<Addr>], outcomes: &[Outcome]) -> Result<(), Fault> {
    let added = ops.iter().zip(outcomes).filter_map(|(op, outcome)| match op {
        Op::Put(key, _) if *outcome == Outcome::Done && key.address.addr().is_ipv6() => Some(key.address.addr()),
        _ => None,
    });
    let added: Vec<IpAddr> = added.collect();
    if added.is_empty() {
        return Ok(());
    }
    for _ in 0..LOOKS {
        if route::delivered(socket, known, &added)? == added.len() {
            return Ok(());
        }
        std::thread::sleep(PAUSE);
    }
    Ok(())
}
