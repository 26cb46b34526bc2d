//! Routes.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use fairway_desired::{
    Family, Fault, LOCAL_TABLE, MAIN_TABLE, NextHop, Op, Outcome, PROTO_KUBE_ROUTER, Route, RouteKey, RouteKind,
    RouteValue, Table,
};
use fairway_netlink::{Message, Socket, flags};
use ipnet::IpNet;
use netlink_packet_core::Parseable;
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteNextHop, RouteProtocol, RouteScope,
    RouteType, RouteVia,
};

use crate::backend::{DUMMY, Known, RouteBackend, carry_out, fault};
use crate::link::{Links, read};
use crate::wire::errno::{EEXIST, EINVAL, ENODEV, ESRCH};
use crate::wire::{family, kind, message, not_deleted, our_family, refused};

/// `IP6_RT_PRIO_USER`: what IPv6 makes of metric 0.
const IPV6_DEFAULT_METRIC: u32 = 1024;

fn local_on_dummy(key: &RouteKey, value: &RouteValue) -> bool {
    let on_dummy = value.next_hops.iter().any(|hop| hop.dev.as_deref() == Some(DUMMY));
    key.table == LOCAL_TABLE && value.kind == RouteKind::Local && on_dummy
}

fn is_ours(key: &RouteKey, value: &RouteValue) -> bool {
    value.protocol == PROTO_KUBE_ROUTER || local_on_dummy(key, value)
}

// ---------------------------------------------------------------- encoding

fn header(key: &RouteKey) -> RouteMessage {
    let mut body = RouteMessage::default();
    body.header.address_family = family(Family::of(key.prefix.addr()));
    body.header.destination_prefix_length = key.prefix.prefix_len();
    match u8::try_from(key.table) {
        Ok(table) => body.header.table = table,
        Err(_) => {
            body.header.table = RouteHeader::RT_TABLE_UNSPEC;
            body.attributes.push(RouteAttribute::Table(key.table));
        }
    }
    if key.prefix.prefix_len() > 0 {
        body.attributes.push(RouteAttribute::Destination(key.prefix.addr().into()));
    }
    if key.metric > 0 {
        body.attributes.push(RouteAttribute::Priority(key.metric));
    }
    body
}

/// The message that describes a route; the errno if it cannot be described.
fn body(key: &RouteKey, value: &RouteValue, index: &dyn Fn(&str) -> Option<u32>) -> Result<RouteMessage, i32> {
    let mut body = header(key);
    body.header.protocol = RouteProtocol::from(value.protocol);
    let direct = value.next_hops.iter().all(|hop| hop.via.is_none());
    (body.header.kind, body.header.scope) = match value.kind {
        RouteKind::Unicast if direct => (RouteType::Unicast, RouteScope::Link),
        RouteKind::Unicast => (RouteType::Unicast, RouteScope::Universe),
        RouteKind::Local => (RouteType::Local, RouteScope::Host),
        RouteKind::Blackhole => (RouteType::BlackHole, RouteScope::Universe),
        RouteKind::Unreachable => (RouteType::Unreachable, RouteScope::Universe),
    };
    if let Some(src) = value.src {
        body.attributes.push(RouteAttribute::PrefSource(src.into()));
    }
    // An IPv4 route may have an IPv6 gateway (`via inet6`), which has an attribute of its own.
    let gateway = |via: IpAddr| match via {
        IpAddr::V6(via) if key.prefix.addr().is_ipv4() => RouteAttribute::Via(RouteVia::Inet6(via)),
        via => RouteAttribute::Gateway(via.into()),
    };
    let dev = |hop: &NextHop| hop.dev.as_deref().map(|dev| index(dev).ok_or(ENODEV)).transpose();
    match value.next_hops.as_slice() {
        [] => {}
        [hop] => {
            body.attributes.extend(hop.via.map(gateway));
            body.attributes.extend(dev(hop)?.map(RouteAttribute::Oif));
        }
        hops => {
            let hop = |hop: &NextHop| {
                let mut encoded = RouteNextHop::default();
                // `rtnh_hops` counts from 0.
                encoded.hops = hop.weight.checked_sub(1).and_then(|w| u8::try_from(w).ok()).ok_or(EINVAL)?;
                encoded.interface_index = dev(hop)?.unwrap_or_default();
                encoded.attributes.extend(hop.via.map(gateway));
                Ok(encoded)
            };
            body.attributes.push(RouteAttribute::MultiPath(hops.iter().map(hop).collect::<Result<_, i32>>()?));
        }
    }
    Ok(body)
}

/// Deletes the route of a key, if its protocol is this. Type and scope match any.
fn deletion(key: &RouteKey, protocol: u8) -> Message {
    let mut exact = key.clone();
    if key.prefix.addr().is_ipv6() && key.metric == 0 {
        // 0 would match any, the lowest first. In IPv4 the lowest is the one that is meant.
        exact.metric = IPV6_DEFAULT_METRIC;
    }
    deletion_of_any(&exact, protocol, None)
}

/// Deletes the first route of a prefix, table and protocol, and of a metric that is not 0.
fn deletion_of_any(key: &RouteKey, protocol: u8, dev: Option<u32>) -> Message {
    let mut body = header(key);
    body.header.protocol = RouteProtocol::from(protocol);
    body.header.kind = RouteType::Unspec;
    body.header.scope = RouteScope::NoWhere;
    body.attributes.extend(dev.map(RouteAttribute::Oif));
    message(kind::DEL_ROUTE, 0, &body)
}

/// The requests that make a route of ours exist, whatever route of ours is there.
///
/// IPv6 keeps the route that an address brings (metric 0, source the address itself) beside ours (no user can write
/// metric 0) and before it. So ours is written, the first of the two is deleted, and ours is written again: if there
/// was only ours, it is missing for as long as two messages of one call take.
fn replacement(key: &RouteKey, value: &RouteValue, body: &RouteMessage, dev: Option<u32>) -> Vec<Message> {
    let put = message(kind::NEW_ROUTE, flags::CREATE | flags::REPLACE, body);
    if local_on_dummy(key, value) && key.prefix.addr().is_ipv6() {
        let any = RouteKey { metric: 0, ..key.clone() };
        vec![put.clone(), deletion_of_any(&any, value.protocol, dev), put]
    } else {
        vec![put]
    }
}

// ---------------------------------------------------------------- decoding

fn address(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(ip) => Some((*ip).into()),
        RouteAddress::Inet6(ip) => Some((*ip).into()),
        _ => None,
    }
}

fn gateway(attributes: &[RouteAttribute]) -> Option<IpAddr> {
    attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Gateway(gateway) => address(gateway),
        RouteAttribute::Via(RouteVia::Inet(ip)) => Some((*ip).into()),
        RouteAttribute::Via(RouteVia::Inet6(ip)) => Some((*ip).into()),
        _ => None,
    })
}

/// A route as we can express it; `None` for any other, and for entries of the IPv6 cache.
pub(crate) fn decode(payload: &[u8], links: &Links) -> Option<(RouteKey, RouteValue)> {
    let message = RouteMessage::parse(payload).ok()?;
    if message.header.flags.contains(RouteFlags::Cloned) {
        return None;
    }
    let kind = match message.header.kind {
        RouteType::Unicast => RouteKind::Unicast,
        RouteType::Local => RouteKind::Local,
        RouteType::BlackHole => RouteKind::Blackhole,
        RouteType::Unreachable => RouteKind::Unreachable,
        _ => return None,
    };
    let family = our_family(message.header.address_family)?;
    let mut destination: IpAddr = match family {
        Family::V4 => Ipv4Addr::UNSPECIFIED.into(),
        Family::V6 => Ipv6Addr::UNSPECIFIED.into(),
    };
    let mut table = u32::from(message.header.table);
    let mut metric = 0;
    let mut value = RouteValue { kind, protocol: message.header.protocol.into(), src: None, next_hops: vec![] };
    let mut dev = None;
    let named = |index: u32| links.name(index).cloned();
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(ip) => destination = address(ip)?,
            RouteAttribute::Table(id) => table = *id,
            RouteAttribute::Priority(priority) => metric = *priority,
            RouteAttribute::PrefSource(src) => value.src = address(src),
            RouteAttribute::Oif(index) => dev = named(*index),
            RouteAttribute::MultiPath(hops) => {
                value.next_hops = hops
                    .iter()
                    .map(|hop| NextHop {
                        via: gateway(&hop.attributes),
                        dev: named(hop.interface_index),
                        weight: u16::from(hop.hops) + 1,
                    })
                    .collect();
            }
            _ => {}
        }
    }
    let via = gateway(&message.attributes);
    if value.next_hops.is_empty() && (via.is_some() || dev.is_some()) {
        value.next_hops.push(NextHop { via, dev, weight: 1 });
    }
    if matches!(kind, RouteKind::Blackhole | RouteKind::Unreachable) {
        // IPv6 hangs these on `lo`.
        value.next_hops.clear();
    }
    value.next_hops.sort();
    let prefix = IpNet::new(destination, message.header.destination_prefix_length).ok()?;
    Some((RouteKey { prefix, table, metric }, value))
}

/// Reads every route of a family, or of both, as the kernel has it.
fn all(socket: &mut Socket, links: &mut Links, of: Option<Family>) -> Result<Vec<(RouteKey, RouteValue)>, Fault> {
    read(socket, links)?;
    let mut found = vec![];
    let mut body = RouteMessage::default();
    if let Some(of) = of {
        body.header.address_family = family(of);
    }
    let request = message(kind::GET_ROUTE, flags::DUMP, &body);
    socket
        .dump(&request, &mut found, Vec::clear, |found, kind, payload| {
            if kind == kind::NEW_ROUTE {
                found.extend(decode(payload, links));
            }
        })
        .map_err(|error| fault(&error))?;
    Ok(found)
}

/// What the key of a route is to us. IPv6 shows [`IPV6_DEFAULT_METRIC`] where 0 was written.
pub(crate) fn key_as_written(mut key: RouteKey) -> RouteKey {
    if key.prefix.addr().is_ipv6() && key.metric == IPV6_DEFAULT_METRIC {
        key.metric = 0;
    }
    key
}

/// Whether what the kernel shows is what was written: it fills in the interface of a gateway.
fn same(written: &RouteValue, shown: &RouteValue) -> bool {
    let hops = written.next_hops.len() == shown.next_hops.len()
        && written.next_hops.iter().all(|hop| {
            let equal =
                |s: &NextHop| s.via == hop.via && s.weight == hop.weight && (hop.dev.is_none() || s.dev == hop.dev);
            shown.next_hops.iter().any(equal)
        });
    (written.kind, written.protocol, written.src) == (shown.kind, shown.protocol, shown.src) && hops
}

/// A value that nobody remembers writing: the interface of a gateway is taken for the kernel's choice.
fn without_choices(mut shown: RouteValue) -> RouteValue {
    for hop in &mut shown.next_hops {
        if hop.via.is_some() {
            hop.dev = None;
        }
    }
    shown.next_hops.sort();
    shown
}

pub(crate) fn observe(socket: &mut Socket, known: &mut Known) -> Result<Table<Route>, Fault> {
    let mut ours = BTreeMap::new();
    let mut in_the_way = vec![];
    for (key, shown) in all(socket, &mut known.links, None)? {
        if !is_ours(&key, &shown) {
            continue;
        }
        // The route that an IPv6 address brings cannot be written; where it is there again it hides ours.
        if key.prefix.addr().is_ipv6() && key.table == LOCAL_TABLE && key.metric == 0 {
            in_the_way.push(key);
            continue;
        }
        let key = key_as_written(key);
        let value = match known.routes.get(&key) {
            Some(written) if same(written, &shown) => written.clone(),
            _ => without_choices(shown),
        };
        ours.insert(key, value);
    }
    for key in in_the_way {
        ours.remove(&key);
    }
    known.routes = ours.clone();
    Ok(ours)
}

// ---------------------------------------------------------------- applying

/// Asks which route a destination takes: the route itself, not what a lookup makes of it.
fn question(destination: IpAddr) -> Message {
    let prefix = IpNet::from(destination);
    let mut body = RouteMessage::default();
    body.header.address_family = family(Family::of(destination));
    body.header.destination_prefix_length = prefix.prefix_len();
    body.header.flags = RouteFlags::FibMatch;
    body.attributes.push(RouteAttribute::Destination(destination.into()));
    message(kind::GET_ROUTE, 0, &body)
}

/// How many of these addresses the kernel delivers to this host already. IPv6 puts an address into the routing table
/// some time after it said that the address is there.
pub(crate) fn delivered(socket: &mut Socket, known: &Known, addresses: &[IpAddr]) -> Result<usize, Fault> {
    let mut count = 0;
    socket
        .ask(addresses.iter().map(|ip| question(*ip)).collect(), |_, answer| {
            if let Ok((kind::NEW_ROUTE, payload)) = answer
                && let Some((_, value)) = decode(payload, &known.links)
                && value.kind == RouteKind::Local
            {
                count += 1;
            }
        })
        .map_err(|error| fault(&error))?;
    Ok(count)
}

/// Which of these host routes the kernel has on another interface than ours: somebody else's address.
fn elsewhere(socket: &mut Socket, known: &Known, keys: &[&RouteKey]) -> Result<Vec<bool>, Fault> {
    let mut answers = vec![false; keys.len()];
    let ask = socket.ask(keys.iter().map(|key| question(key.prefix.addr())).collect(), |index, answer| {
        if let Ok((kind::NEW_ROUTE, payload)) = answer
            && let Some((key, value)) = decode(payload, &known.links)
            && let (Some(asked), Some(answer)) = (keys.get(index), answers.get_mut(index))
        {
            *answer = key.prefix == asked.prefix && key.table == LOCAL_TABLE && !is_ours(&key, &value);
        }
    });
    ask.map_err(|error| fault(&error))?;
    Ok(answers)
}

/// Where one op stands.
struct Progress {
    outcome: Outcome,
    /// Whether the entry that is there, if any, is ours to replace.
    owned: bool,
}

pub(crate) fn apply(socket: &mut Socket, known: &mut Known, ops: &[Op<Route>]) -> Result<Vec<Outcome>, Fault> {
    for op in ops {
        if let Op::Put(_, value) = op {
            for dev in value.next_hops.iter().filter_map(|hop| hop.dev.as_deref()) {
                known.links.index(socket, dev)?;
            }
        }
    }
    let locals: Vec<&RouteKey> = ops
        .iter()
        .filter_map(|op| match op {
            Op::Put(key, value) if local_on_dummy(key, value) && !known.routes.contains_key(key) => Some(key),
            _ => None,
        })
        .collect();
    let mut local_elsewhere: BTreeSet<RouteKey> = BTreeSet::new();
    if !locals.is_empty() {
        let answers = elsewhere(socket, known, &locals)?;
        local_elsewhere.extend(locals.iter().zip(answers).filter(|(_, e)| *e).map(|(key, _)| (*key).clone()));
    }
    let mut progress: Vec<Progress> = ops
        .iter()
        .map(|op| {
            let local = matches!(op, Op::Put(key, value) if local_on_dummy(key, value));
            let outcome = if local_elsewhere.contains(op.key()) { Outcome::Foreign } else { Outcome::Done };
            Progress { outcome, owned: local || known.routes.contains_key(op.key()) }
        })
        .collect();
    // To Linux metric 0 in a deletion means any metric, so nothing is deleted that is not known to be there.
    let (blind, first): (Vec<usize>, Vec<usize>) = (0..ops.len())
        .filter(|i| progress[*i].outcome == Outcome::Done)
        .partition(|i| matches!(ops[*i], Op::Del(_)) && !progress[*i].owned);
    for index in &blind {
        progress[*index].outcome = Outcome::Gone;
    }
    let mut unclear = round(socket, known, ops, &mut progress, &first)?;
    unclear.extend(blind);
    if !unclear.is_empty() {
        // Something is there that we did not know of, or nothing is. Rare, so a look at everything is fine.
        let all = all(socket, &mut known.links, None)?;
        let there: BTreeMap<RouteKey, RouteValue> = all.into_iter().map(|(k, v)| (key_as_written(k), v)).collect();
        let mut again = vec![];
        for index in unclear {
            let Some(found) = there.get(ops[index].key()) else { continue };
            if is_ours(ops[index].key(), found) {
                known.routes.insert(ops[index].key().clone(), found.clone());
                progress[index] = Progress { outcome: Outcome::Done, owned: true };
                again.push(index);
            } else {
                progress[index].outcome = Outcome::Foreign;
            }
        }
        round(socket, known, ops, &mut progress, &again)?;
    }
    for (op, progress) in ops.iter().zip(&progress) {
        match (op, progress.outcome) {
            (Op::Put(key, value), Outcome::Done) => drop(known.routes.insert(key.clone(), value.clone())),
            (Op::Del(key), Outcome::Done | Outcome::Gone) => drop(known.routes.remove(key)),
            _ => {}
        }
    }
    Ok(progress.into_iter().map(|p| p.outcome).collect())
}

/// Sends the requests of some ops; returns those that met something unexpected (their outcome is set for the case that
/// nothing more can be found out).
fn round(
    socket: &mut Socket,
    known: &mut Known,
    ops: &[Op<Route>],
    progress: &mut [Progress],
    which: &[usize],
) -> Result<Vec<usize>, Fault> {
    let mut requests = vec![];
    let mut about = vec![];
    for &index in which {
        let owned = progress[index].owned;
        let encoded = match &ops[index] {
            Op::Put(key, value) => put(known, key, value, owned),
            Op::Del(key) => {
                let known_value = known.routes.get(key);
                let protocol = known_value.map_or(PROTO_KUBE_ROUTER, |value| value.protocol);
                Ok(vec![deletion(key, protocol)])
            }
        };
        match encoded {
            Ok(messages) => {
                // Only the last of several must succeed: those before it are preparation.
                let last = messages.len().saturating_sub(1);
                about.extend((0..messages.len()).map(|n| (index, n == last)));
                requests.extend(messages);
            }
            Err(errno) => progress[index].outcome = Outcome::Refused(errno),
        }
    }
    let results = carry_out(socket, requests)?;
    let mut unclear = vec![];
    for ((index, last), result) in about.into_iter().zip(results) {
        let (true, Err(errno)) = (last, result) else { continue };
        let outcome = &mut progress[index].outcome;
        match &ops[index] {
            Op::Put(..) if errno.0 == EEXIST => {
                *outcome = Outcome::Busy;
                unclear.push(index);
            }
            Op::Put(..) => *outcome = refused(errno),
            Op::Del(_) => {
                *outcome = not_deleted(errno);
                // Of a learned route nothing else can be there that is ours. The kernel drops such routes with their
                // interface, many at once, and that is no reason to look at everything.
                let learned = known.routes.get(ops[index].key()).is_some_and(|v| v.protocol == PROTO_KUBE_ROUTER);
                if errno.0 == ESRCH && !(learned && ops[index].key().table == MAIN_TABLE) {
                    unclear.push(index);
                }
            }
        }
    }
    Ok(unclear)
}

fn put(known: &Known, key: &RouteKey, value: &RouteValue, owned: bool) -> Result<Vec<Message>, i32> {
    let index = |dev: &str| known.links.known(dev);
    if key.prefix != key.prefix.trunc() || key.table == 0 || value.next_hops.iter().any(|hop| hop.weight == 0) {
        return Err(EINVAL);
    }
    if value.next_hops.iter().any(|hop| hop.via.is_none() && hop.dev.is_none()) {
        return Err(EINVAL);
    }
    let v6 = key.prefix.addr().is_ipv6();
    // A source of another family has no place in the message, nor has an IPv4 gateway of an IPv6 prefix.
    let source = value.src.is_some_and(|src| src.is_ipv6() != v6);
    if source || (v6 && value.next_hops.iter().filter_map(|hop| hop.via).any(|via| via.is_ipv4())) {
        return Err(EINVAL);
    }
    let body = body(key, value, &index)?;
    Ok(if owned {
        replacement(key, value, &body, index(DUMMY))
    } else {
        vec![message(kind::NEW_ROUTE, flags::CREATE | flags::EXCL, &body)]
    })
}

/// A request that adds a route, or replaces the one of the same key, whoever's it is.
pub(crate) fn write(links: &Links, key: &RouteKey, value: &RouteValue) -> Result<Message, i32> {
    let body = body(key, value, &|dev| links.known(dev))?;
    Ok(message(kind::NEW_ROUTE, flags::CREATE | flags::REPLACE, &body))
}

/// A request that deletes the route of this key and protocol.
pub(crate) fn remove(key: &RouteKey, protocol: u8) -> Message {
    deletion(key, protocol)
}

/// Every route of a table as the kernel has it (`ip route show table …`), whoever's it is, for one family.
///
/// Interfaces of gateways are given. The metric of IPv6 is the kernel's: 1024 where 0 was written.
///
/// # Errors
/// A [`Fault`] if the table could not be read.
pub fn routes(backend: &mut RouteBackend, table: u32, family: Family) -> Result<Vec<(RouteKey, RouteValue)>, Fault> {
    let mut found = backend.with(|socket, known| all(socket, &mut known.links, Some(family)))?;
    found.retain(|(key, _)| key.table == table);
    found.sort();
    Ok(found)
}
