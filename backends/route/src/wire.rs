//! Netlink route messages: their numbers, and putting one on the wire.

use fairway_desired::{Family, Outcome};
use fairway_netlink::{Errno, Message};
use netlink_packet_core::Emitable;
use netlink_packet_route::AddressFamily;

/// `RTM_*` of `include/uapi/linux/rtnetlink.h`.
pub(crate) mod kind {
    pub(crate) const NEW_LINK: u16 = 16;
    pub(crate) const DEL_LINK: u16 = 17;
    pub(crate) const GET_LINK: u16 = 18;
    pub(crate) const NEW_ADDR: u16 = 20;
    pub(crate) const DEL_ADDR: u16 = 21;
    pub(crate) const GET_ADDR: u16 = 22;
    pub(crate) const NEW_ROUTE: u16 = 24;
    pub(crate) const DEL_ROUTE: u16 = 25;
    pub(crate) const GET_ROUTE: u16 = 26;
    pub(crate) const NEW_RULE: u16 = 32;
    pub(crate) const DEL_RULE: u16 = 33;
    pub(crate) const GET_RULE: u16 = 34;
}

/// `errno.h`
pub(crate) mod errno {
    pub(crate) const EPERM: i32 = 1;
    pub(crate) const ENOENT: i32 = 2;
    pub(crate) const ESRCH: i32 = 3;
    pub(crate) const EIO: i32 = 5;
    pub(crate) const EAGAIN: i32 = 11;
    pub(crate) const EBUSY: i32 = 16;
    pub(crate) const EEXIST: i32 = 17;
    pub(crate) const ENODEV: i32 = 19;
    pub(crate) const EINVAL: i32 = 22;
    pub(crate) const EOPNOTSUPP: i32 = 95;
    pub(crate) const ENOBUFS: i32 = 105;
    pub(crate) const EADDRINUSE: i32 = 98;
    pub(crate) const EADDRNOTAVAIL: i32 = 99;
}

/// A message with this body.
pub(crate) fn message<T: Emitable>(kind: u16, flags: u16, body: &T) -> Message {
    let mut bytes = vec![0; body.buffer_len()];
    body.emit(&mut bytes);
    let mut message = Message::new(kind, flags);
    message.raw(&bytes);
    message
}

/// What a refusal means for an op that wanted something to exist.
pub(crate) fn refused(errno: Errno) -> Outcome {
    match errno.0 {
        errno::EBUSY | errno::EAGAIN | errno::ENOBUFS => Outcome::Busy,
        errno => Outcome::Refused(errno),
    }
}

/// What a refusal means for an op that wanted something to be gone.
pub(crate) fn not_deleted(errno: Errno) -> Outcome {
    match errno.0 {
        errno::ENOENT | errno::ESRCH | errno::EADDRNOTAVAIL | errno::ENODEV => Outcome::Gone,
        _ => refused(errno),
    }
}

pub(crate) fn family(family: Family) -> AddressFamily {
    match family {
        Family::V4 => AddressFamily::Inet,
        Family::V6 => AddressFamily::Inet6,
    }
}

/// [`fairway_desired::Family`] of a header; `None` for MPLS and others.
pub(crate) fn our_family(family: AddressFamily) -> Option<Family> {
    match family {
        AddressFamily::Inet => Some(Family::V4),
        AddressFamily::Inet6 => Some(Family::V6),
        _ => None,
    }
}
