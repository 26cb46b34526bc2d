//! Families of generic netlink have numbers that only the kernel knows.

use std::collections::BTreeMap;

use crate::{Attributes, Error, Message, Socket, flags};

/// `GENL_ID_CTRL`
const CONTROL: u16 = 16;
/// `CTRL_CMD_GETFAMILY`
const GET_FAMILY: u8 = 3;
/// `CTRL_ATTR_FAMILY_ID`
const FAMILY_ID: u16 = 1;
/// `CTRL_ATTR_FAMILY_NAME`
const FAMILY_NAME: u16 = 2;
/// Length of `struct genlmsghdr`.
const GENERIC_HEADER: usize = 4;

/// The number of a family, or `None` if the kernel has no such family, not even as a module it could load.
///
/// Ask before anything else: a request to family 0 is acknowledged with success and does nothing.
///
/// # Errors
/// If the kernel could not be asked.
pub fn generic_family(socket: &mut Socket, name: &str) -> Result<Option<u16>, Error> {
    let mut message = Message::generic(CONTROL, 0, GET_FAMILY, 1);
    message.text(FAMILY_NAME, name);
    let replies = match socket.request(message) {
        Err(Error::Errno(errno)) if errno.0 == ENOENT => return Ok(None),
        replies => replies?,
    };
    let id = replies.iter().find_map(|reply| {
        let attributes = Attributes::new(reply.payload.get(GENERIC_HEADER..)?);
        attributes.get(FAMILY_ID)?.u16()
    });
    Ok(id.filter(|id| *id != 0))
}

/// The families that are there, with their numbers. No module is loaded for this question.
///
/// # Errors
/// If the kernel could not be asked.
pub fn generic_families(socket: &mut Socket) -> Result<BTreeMap<String, u16>, Error> {
    let mut found = BTreeMap::new();
    let request = Message::generic(CONTROL, flags::DUMP, GET_FAMILY, 1);
    socket.dump(&request, &mut found, BTreeMap::clear, |found, _, payload| {
        let Some(attributes) = payload.get(GENERIC_HEADER..).map(Attributes::new) else { return };
        let name = attributes.get(FAMILY_NAME).and_then(|name| name.text());
        if let (Some(name), Some(id)) = (name, attributes.get(FAMILY_ID).and_then(|id| id.u16())) {
            found.insert(name.to_owned(), id);
        }
    })?;
    Ok(found)
}

const ENOENT: i32 = 2;
