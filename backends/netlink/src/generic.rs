//! Families of generic netlink have numbers that only the kernel knows.

use crate::{Attributes, Error, Message, Socket};

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

const ENOENT: i32 = 2;
