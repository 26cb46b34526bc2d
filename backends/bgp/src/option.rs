//! Socket options that no library wraps.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd};

use socket2::SockRef;

/// Sets an option to a value of any type, given as its bytes.
#[allow(unsafe_code, reason = "no library wraps these socket options")]
pub(crate) fn set(socket: &impl AsFd, level: i32, name: i32, value: &[u8]) -> io::Result<()> {
    let size = libc::socklen_t::try_from(value.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    // SAFETY: the descriptor is borrowed from an open socket; the kernel copies `size` bytes, which is the length of the
    // slice behind the pointer, and keeps no reference to them.
    let result = unsafe {
        let descriptor = socket.as_fd().as_raw_fd();
        libc::setsockopt(descriptor, level, name, value.as_ptr().cast(), size)
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// `IPV6_MINHOPCOUNT` of `linux/in6.h`, which libc does not know.
const IPV6_MINHOPCOUNT: i32 = 73;

/// TTL of our packets, and the lowest that theirs may have (RFC 5082 section 3); the kernel drops others.
pub(crate) fn limit(socket: &impl AsFd, remote: SocketAddr, ttl: Option<u8>, min_ttl: Option<u8>) -> io::Result<()> {
    let known = SockRef::from(socket);
    match (remote, ttl) {
        (SocketAddr::V4(_), Some(ttl)) => known.set_ttl_v4(ttl.into())?,
        (SocketAddr::V6(_), Some(ttl)) => known.set_unicast_hops_v6(ttl.into())?,
        (_, None) => {}
    }
    let Some(min_ttl) = min_ttl else { return Ok(()) };
    let value = i32::from(min_ttl).to_ne_bytes();
    match remote {
        SocketAddr::V4(_) => set(socket, libc::IPPROTO_IP, libc::IP_MINTTL, &value),
        SocketAddr::V6(_) => set(socket, libc::IPPROTO_IPV6, IPV6_MINHOPCOUNT, &value),
    }
}
