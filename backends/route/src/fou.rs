//! UDP ports that take packets of tunnels out of UDP and GUE (`ip fou`). Source: `include/uapi/linux/fou.h`.

use std::net::{Ipv4Addr, Ipv6Addr};

use fairway_desired::{Family, Fault, LinkKind, LinkValue, Outcome};
use fairway_netlink::{Attributes, Error, Message, Protocol, Socket, flags, generic_families, generic_family};

use crate::backend::fault;
use crate::wire::errno::{EADDRINUSE, EINVAL, EOPNOTSUPP, EPERM};
use crate::wire::{not_deleted, refused};

pub(crate) const FAMILY: &str = "fou";
pub(crate) const VERSION: u8 = 1;
/// Length of `struct genlmsghdr`.
const GENERIC_HEADER: usize = 4;

/// `FOU_CMD_*`
pub(crate) mod command {
    pub(crate) const ADD: u8 = 1;
    pub(crate) const DEL: u8 = 2;
    pub(crate) const GET: u8 = 3;
}

/// `FOU_ATTR_*`
pub(crate) mod attribute {
    pub(crate) const PORT: u16 = 1;
    pub(crate) const AF: u16 = 2;
    pub(crate) const PROTOCOL: u16 = 3;
    pub(crate) const TYPE: u16 = 4;
    pub(crate) const LOCAL_V4: u16 = 6;
    pub(crate) const LOCAL_V6: u16 = 7;
}

/// `FOU_ENCAP_DIRECT`
pub(crate) const DIRECT: u8 = 1;
/// `FOU_ENCAP_GUE`
pub(crate) const GUE: u8 = 2;

/// A port that is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Found {
    family: Family,
    port: u16,
    /// It takes GUE, on every address.
    as_ours: bool,
}

pub(crate) fn number(family: Family) -> u8 {
    match family {
        Family::V4 => 2,
        Family::V6 => 10,
    }
}

fn decode(payload: &[u8]) -> Option<Found> {
    let attributes = Attributes::new(payload.get(GENERIC_HEADER..)?);
    let family = match attributes.get(attribute::AF)?.u8()? {
        2 => Family::V4,
        10 => Family::V6,
        _ => return None,
    };
    let zero = |kind: u16, any: &[u8]| attributes.get(kind).is_none_or(|found| found.payload == any);
    let everywhere = zero(attribute::LOCAL_V4, &Ipv4Addr::UNSPECIFIED.octets())
        && zero(attribute::LOCAL_V6, &Ipv6Addr::UNSPECIFIED.octets());
    let gue = attributes.get(attribute::TYPE)?.u8()? == GUE;
    Some(Found { family, port: attributes.get(attribute::PORT)?.be16()?, as_ours: gue && everywhere })
}

fn open() -> Result<Socket, Fault> {
    Socket::open(Protocol::Generic).map_err(|_| Fault::Lost)
}

fn list(socket: &mut Socket, number: u16) -> Result<Vec<Found>, Fault> {
    let mut found = vec![];
    let request = Message::generic(number, flags::DUMP, command::GET, VERSION);
    socket
        .dump(&request, &mut found, Vec::clear, |found, _, payload| found.extend(decode(payload)))
        .map_err(|error| fault(&error))?;
    Ok(found)
}

/// Ports like those of ours. The kernel is not made to load a module for that.
pub(crate) fn observe() -> Result<Vec<(Family, u16)>, Fault> {
    let mut socket = open()?;
    let families = generic_families(&mut socket).map_err(|error| fault(&error))?;
    let Some(number) = families.get(FAMILY).copied() else { return Ok(vec![]) };
    let found = list(&mut socket, number)?.into_iter().filter(|found| found.as_ours);
    Ok(found.map(|found| (found.family, found.port)).collect())
}

/// Opens or closes a port.
pub(crate) fn apply(value: &LinkValue, put: bool) -> Result<Outcome, Fault> {
    let LinkKind::ReceivePort { family, port } = value.kind else { return Ok(Outcome::Gone) };
    let mut socket = open()?;
    let id = generic_family(&mut socket, FAMILY).map_err(|error| fault(&error))?;
    let Some(id) = id else { return Ok(if put { Outcome::Refused(EOPNOTSUPP) } else { Outcome::Gone }) };
    let mut request = Message::generic(id, 0, if put { command::ADD } else { command::DEL }, VERSION);
    request.be16(attribute::PORT, port).u8(attribute::AF, number(family));
    if put {
        request.u8(attribute::TYPE, GUE);
    }
    match socket.request(request) {
        Ok(_) => Ok(Outcome::Done),
        Err(Error::Errno(errno)) if errno.0 == EPERM => Err(Fault::Denied),
        Err(Error::Errno(errno)) if put && errno.0 == EADDRINUSE => {
            let here = list(&mut socket, id)?.into_iter().find(|found| (found.family, found.port) == (family, port));
            Ok(match here {
                Some(found) if found.as_ours => Outcome::Done,
                Some(_) => Outcome::Foreign,
                None => refused(errno),
            })
        }
        // Of a port that is not there the kernel says that it is wrong.
        Err(Error::Errno(errno)) if !put && errno.0 == EINVAL => Ok(Outcome::Gone),
        Err(Error::Errno(errno)) => Ok(if put { refused(errno) } else { not_deleted(errno) }),
        Err(error) => Err(fault(&error)),
    }
}
