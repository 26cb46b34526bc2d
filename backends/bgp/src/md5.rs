//! `TCP_MD5SIG` (RFC 2385): a key for the segments of connections with one peer.

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::AsFd;

use socket2::{Domain, Protocol, Socket, Type};

use crate::option;

/// `TCP_MD5SIG_MAXKEYLEN`
pub(crate) const KEY_MAX: usize = 80;

/// `struct tcp_md5sig` of `include/uapi/linux/tcp.h` as bytes: `struct sockaddr_storage` (128), flags and prefix length
/// (one byte each, unused), length of the key (2), interface (4, unused), the key (80).
const SIZE: usize = 216;
const KEY_LENGTH_AT: usize = 130;
const KEY_AT: usize = 136;

/// Sets the key for a peer on a socket, or removes it with `None`.
///
/// # Errors
/// `EINVAL` for a key that is empty or too long, `ENOPROTOOPT` from a kernel without `CONFIG_TCP_MD5SIG`.
pub(crate) fn set(socket: &impl AsFd, peer: IpAddr, key: Option<&str>) -> io::Result<()> {
    let invalid = || io::Error::from(io::ErrorKind::InvalidInput);
    let key_given = key.is_some();
    let key = key.unwrap_or_default().as_bytes();
    if key.len() > KEY_MAX || (key_given && key.is_empty()) {
        return Err(invalid());
    }
    let length = u16::try_from(key.len()).map_err(|_| invalid())?;
    let mut option = [0u8; SIZE];
    let family = match peer {
        IpAddr::V4(ip) => {
            // `sin_addr` follows family and port.
            option[4..8].copy_from_slice(&ip.octets());
            libc::AF_INET
        }
        IpAddr::V6(ip) => {
            // `sin6_addr` follows family, port and flow label.
            option[8..24].copy_from_slice(&ip.octets());
            libc::AF_INET6
        }
    };
    let family = libc::sa_family_t::try_from(family).map_err(|_| invalid())?;
    option[..2].copy_from_slice(&family.to_ne_bytes());
    option[KEY_LENGTH_AT..KEY_LENGTH_AT + 2].copy_from_slice(&length.to_ne_bytes());
    option[KEY_AT..KEY_AT + key.len()].copy_from_slice(key);
    option::set(socket, libc::IPPROTO_TCP, libc::TCP_MD5SIG, &option)
}

/// Whether this kernel signs the segments of a connection.
pub fn offered() -> bool {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP));
    socket.is_ok_and(|socket| set(&socket, IpAddr::V4(Ipv4Addr::LOCALHOST), Some("?")).is_ok())
}
