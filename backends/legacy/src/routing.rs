//! Tunnels, and the routing tables 77, 78 and 79 with the rules that lead there.

use fairway_netlink::{Error, Message, Socket, flags};
use netlink_packet_core::Parseable;
use netlink_packet_route::link::{InfoKind, LinkAttribute, LinkInfo, LinkMessage};
use netlink_packet_route::route::{RouteAttribute, RouteMessage};
use netlink_packet_route::rule::{RuleAttribute, RuleMessage};

use crate::{Leftover, Part, What, settled};

/// `RTM_*`
const NEW_LINK: u16 = 16;
const DEL_LINK: u16 = 17;
const GET_LINK: u16 = 18;
const NEW_ROUTE: u16 = 24;
const DEL_ROUTE: u16 = 25;
const GET_ROUTE: u16 = 26;
const NEW_RULE: u16 = 32;
const DEL_RULE: u16 = 33;
const GET_RULE: u16 = 34;
/// Lengths of `struct ifinfomsg`, `struct rtmsg` and `struct fib_rule_hdr`.
const LINK_HEADER: usize = 16;
const ROUTE_HEADER: usize = 12;

/// Whether kube-router names tunnels so: `tun-` and eleven digits of a hash.
pub fn is_tunnel_name(name: &str) -> bool {
    let digit = |c: u8| c.is_ascii_digit() || (b'a'..=b'f').contains(&c);
    name.strip_prefix("tun-").is_some_and(|rest| rest.len() == 11 && rest.bytes().all(digit))
}

fn table_part(table: u32) -> Option<Part> {
    match table {
        77 => Some(Part::Overlay),
        78 | 79 => Some(Part::Proxy),
        _ => None,
    }
}

fn dump(
    socket: &mut Socket,
    request: u16,
    header: usize,
    each: impl Fn(&[u8]) -> Option<Leftover>,
) -> Result<Vec<Leftover>, Error> {
    let mut message = Message::new(request, flags::DUMP);
    message.raw(&vec![0; header]);
    let mut found = vec![];
    let answer = request - 2;
    socket.dump(&message, &mut found, Vec::clear, |found, kind, payload| {
        if kind == answer {
            found.extend(each(payload));
        }
    })?;
    Ok(found)
}

fn link(payload: &[u8]) -> Option<Leftover> {
    let message = LinkMessage::parse(payload).ok()?;
    let name = message.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::IfName(name) => Some(name.clone()),
        _ => None,
    })?;
    let tunnel = message.attributes.iter().any(|attribute| match attribute {
        LinkAttribute::LinkInfo(infos) => {
            infos.iter().any(|info| matches!(info, LinkInfo::Kind(InfoKind::IpIp | InfoKind::Ip6Tnl)))
        }
        _ => false,
    });
    if !tunnel || !is_tunnel_name(&name) {
        return None;
    }
    let what = What::Routing { kind: DEL_LINK, body: payload.get(..LINK_HEADER)?.to_vec() };
    Some(Leftover { part: Part::Overlay, text: format!("tunnel {name}"), what })
}

fn rule(payload: &[u8]) -> Option<Leftover> {
    let message = RuleMessage::parse(payload).ok()?;
    let (mut table, mut priority, mut detail) = (u32::from(message.header.table), 0, String::new());
    for attribute in &message.attributes {
        match attribute {
            RuleAttribute::Table(id) => table = *id,
            RuleAttribute::Priority(value) => priority = *value,
            RuleAttribute::Source(ip) => detail += &format!(" from {ip}/{}", message.header.src_len),
            RuleAttribute::FwMark(mark) => detail += &format!(" fwmark {mark:#x}"),
            _ => {}
        }
    }
    let part = table_part(table)?;
    let text = format!("rule {priority}{detail} lookup {table} ({:?})", message.header.family);
    Some(Leftover { part, text, what: What::Routing { kind: DEL_RULE, body: payload.to_vec() } })
}

fn route(payload: &[u8]) -> Option<Leftover> {
    let message = RouteMessage::parse(payload).ok()?;
    let (mut table, mut to) = (u32::from(message.header.table), "default".to_string());
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Table(id) => table = *id,
            RouteAttribute::Destination(address) => {
                to = format!("{address:?}/{}", message.header.destination_prefix_length);
            }
            _ => {}
        }
    }
    let part = table_part(table)?;
    let text = format!("route {to} table {table} ({:?})", message.header.address_family);
    Some(Leftover { part, text, what: What::Routing { kind: DEL_ROUTE, body: payload.to_vec() } })
}

pub(crate) fn observe(socket: &mut Socket) -> Result<Vec<Leftover>, Error> {
    const { assert!(GET_LINK - 2 == NEW_LINK && GET_ROUTE - 2 == NEW_ROUTE && GET_RULE - 2 == NEW_RULE) };
    let mut all = dump(socket, GET_RULE, ROUTE_HEADER, rule)?;
    all.extend(dump(socket, GET_ROUTE, ROUTE_HEADER, route)?);
    all.extend(dump(socket, GET_LINK, LINK_HEADER, link)?);
    Ok(all)
}

/// The kernel takes back what it said as the name of what is to go.
pub(crate) fn remove(socket: &mut Socket, kind: u16, body: &[u8]) -> Result<(), String> {
    let mut message = Message::new(kind, 0);
    message.raw(body);
    socket.request(message).map(drop).or_else(|error| settled(&error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tunnels_are_known_by_their_names() {
        assert!(is_tunnel_name("tun-e443169117a"));
        for name in ["tun-e443169117", "tun-e443169117ab", "tun-E443169117A", "tun0", "tun-mine", "tun-e443169117g"] {
            assert!(!is_tunnel_name(name), "{name}");
        }
    }
}
