//! Deleting conntrack entries by netlink (`include/uapi/linux/netfilter/nfnetlink_conntrack.h`).
//!
//! A UDP client that goes on sending keeps its entry, and with it the translation of an endpoint that is gone, for as
//! long as it sends. Deleting the entry makes its next packet a new connection.

use std::net::{IpAddr, SocketAddr};

use fairway_desired::{Fault, Protocol};
use fairway_netlink::{Attribute, Attributes, Message};

use crate::backend::{FilterBackend, fault};
use crate::elements::protocol_number;
use crate::uapi::{IPV4, IPV6};

/// `NFNL_SUBSYS_CTNETLINK`
const SUBSYSTEM: u16 = 1;
/// `IPCTNL_MSG_CT_NEW`, `_GET`, `_DELETE`
const NEW: u16 = 0;
const GET: u16 = 1;
const DELETE: u16 = 2;
/// `CTA_TUPLE_ORIG`, `CTA_ID`
const ORIGINAL: u16 = 1;
const ID: u16 = 12;
/// `CTA_TUPLE_IP`, `CTA_TUPLE_PROTO`
const TUPLE_IP: u16 = 1;
const TUPLE_PROTOCOL: u16 = 2;
/// `CTA_IP_V4_DST`, `CTA_IP_V6_DST`
const IPV4_DESTINATION: u16 = 2;
const IPV6_DESTINATION: u16 = 4;
/// `CTA_PROTO_NUM`, `CTA_PROTO_DST_PORT`
const NUMBER: u16 = 1;
const DESTINATION_PORT: u16 = 3;
const ENOENT: i32 = 2;

fn about(kind: u16, family: u8) -> Message {
    let mut message = Message::new(SUBSYSTEM << 8 | kind, 0);
    message.raw(&[family, 0, 0, 0]);
    message
}

/// Where a connection was first sent to.
fn destination(tuple: Attributes<'_>) -> Option<(u8, SocketAddr)> {
    let address = tuple.get(TUPLE_IP)?.nested();
    let v4 = address.get(IPV4_DESTINATION).and_then(|a| <[u8; 4]>::try_from(a.payload).ok()).map(IpAddr::from);
    let v6 = address.get(IPV6_DESTINATION).and_then(|a| <[u8; 16]>::try_from(a.payload).ok()).map(IpAddr::from);
    let protocol = tuple.get(TUPLE_PROTOCOL)?.nested();
    let port = protocol.get(DESTINATION_PORT)?.be16()?;
    Some((protocol.get(NUMBER)?.u8()?, SocketAddr::new(v4.or(v6)?, port)))
}

impl FilterBackend {
    /// Deletes the conntrack entries of connections to an address and port, as their clients know it. Returns how many
    /// there were.
    ///
    /// # Errors
    /// A [`Fault`] if the kernel's table could not be read, or deleting is not permitted.
    pub fn delete_connections(&mut self, protocol: Protocol, to: SocketAddr) -> Result<usize, Fault> {
        let family = if to.is_ipv4() { IPV4 } else { IPV6 };
        let wanted = (protocol_number(protocol), to);
        self.with(|socket, _| {
            let mut found: Vec<(Vec<u8>, u32)> = vec![];
            let collect = |found: &mut Vec<(Vec<u8>, u32)>, kind, payload: &[u8]| {
                let attributes = Attributes::new(payload.get(4..).unwrap_or_default());
                if kind == SUBSYSTEM << 8 | NEW
                    && let Some(tuple) = attributes.get(ORIGINAL)
                    && destination(tuple.nested()) == Some(wanted)
                    && let Some(id) = attributes.get(ID).and_then(Attribute::be32)
                {
                    found.push((tuple.payload.to_vec(), id));
                }
            };
            socket.dump(&about(GET, family), &mut found, Vec::clear, collect).map_err(|error| fault(&error))?;
            let deletion = |(tuple, id): &(Vec<u8>, u32)| {
                let mut request = about(DELETE, family);
                request.nested(ORIGINAL, |inside| {
                    inside.raw(tuple);
                });
                request.be32(ID, *id);
                request
            };
            let results = socket.requests(found.iter().map(deletion).collect()).map_err(|error| fault(&error))?;
            let refused = results.iter().find_map(|r| r.err().filter(|errno| errno.0 != ENOENT));
            match refused {
                None => Ok(results.iter().filter(|result| result.is_ok()).count()),
                Some(errno) => Err(fault(&fairway_netlink::Error::Errno(errno))),
            }
        })
    }
}
