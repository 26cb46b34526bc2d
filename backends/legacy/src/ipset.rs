//! Sets of ipset: `include/uapi/linux/netfilter/ipset/ip_set.h`.

use std::time::Duration;

use fairway_netlink::{Attribute, Attributes, Error, Message, Socket};

use crate::{Part, settled};

/// `NFNL_SUBSYS_IPSET`
const SUBSYSTEM: u16 = 6;
/// `IPSET_PROTOCOL` since Linux 4.20
const PROTOCOL: u8 = 7;
/// `IPSET_CMD_DESTROY`, `IPSET_CMD_LIST`, `IPSET_CMD_GET_BYNAME`
const DESTROY: u16 = 3;
const LIST: u16 = 7;
const GET_BY_NAME: u16 = 14;
/// `IPSET_ATTR_*`
mod attribute {
    pub(super) const PROTOCOL: u16 = 1;
    pub(super) const NAME: u16 = 2;
    pub(super) const FLAGS: u16 = 6;
    pub(super) const INDEX: u16 = 11;
    /// `NLA_F_NET_BYTEORDER`
    pub(super) const NET_ORDER: u16 = 0x4000;
}
/// `IPSET_FLAG_LIST_SETNAME`: only names.
const ONLY_NAMES: u32 = 1 << 1;
/// `IPSET_ERR_BUSY`
const BUSY: i32 = 4100;
/// How often, and after which pause, a set in use is tried again.
const TRIES: u32 = 50;
const PAUSE: Duration = Duration::from_millis(20);
/// Length of `struct nfgenmsg`.
const HEADER: usize = 4;

fn request(command: u16) -> Message {
    let mut message = Message::new(SUBSYSTEM << 8 | command, 0);
    message.raw(&[2, 0, 0, 0]).u8(attribute::PROTOCOL, PROTOCOL);
    message
}

fn attributes(payload: &[u8]) -> Attributes<'_> {
    Attributes::new(payload.get(HEADER..).unwrap_or_default())
}

/// Names of all sets.
pub(crate) fn list(socket: &mut Socket) -> Result<Vec<String>, Error> {
    let mut request = request(LIST);
    request.be32(attribute::FLAGS | attribute::NET_ORDER, ONLY_NAMES);
    let mut names = vec![];
    socket.dump(&request, &mut names, Vec::clear, |names, kind, payload| {
        if kind == SUBSYSTEM << 8 | LIST {
            names.extend(attributes(payload).get(attribute::NAME).and_then(Attribute::text).map(String::from));
        }
    })?;
    Ok(names)
}

/// The number by which rules refer to a set.
pub(crate) fn index(socket: &mut Socket, name: &str) -> Result<Option<u16>, Error> {
    let mut request = request(GET_BY_NAME);
    request.text(attribute::NAME, name);
    match socket.request(request) {
        Ok(replies) => Ok(replies.iter().find_map(|reply| attributes(&reply.payload).get(attribute::INDEX)?.be16())),
        // It is gone meanwhile.
        Err(Error::Errno(_)) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Destroys a set. nftables lets go of what a removed rule used a moment after the rule is gone.
pub(crate) fn destroy(socket: &mut Socket, name: &str) -> Result<(), String> {
    for _ in 0..TRIES {
        let mut request = request(DESTROY);
        request.text(attribute::NAME, name);
        match socket.request(request) {
            Ok(_) => return Ok(()),
            Err(Error::Errno(errno)) if errno.0 == BUSY => std::thread::sleep(PAUSE),
            Err(error) => return settled(&error),
        }
    }
    Err("a rule still uses it".into())
}

/// What a set was for, if it is kube-router's.
pub(crate) fn part(name: &str) -> Option<Part> {
    let name = name.strip_prefix("inet6:").unwrap_or(name);
    let hashed = |prefix: &str| {
        let rest = name.strip_prefix(prefix)?;
        let base32 = |c: u8| c.is_ascii_uppercase() || (b'2'..=b'7').contains(&c);
        (rest.len() == 16 && rest.bytes().all(base32)).then_some(())
    };
    match name {
        "kube-router-svip" | "kube-router-svip-prt" | "kube-router-local-ips" => Some(Part::Proxy),
        "kube-router-pod-subnets" | "kube-router-node-ips" => Some(Part::Egress),
        "kube-router-local-pods" => Some(Part::Policies),
        _ if hashed("KUBE-SRC-").or_else(|| hashed("KUBE-DST-")).is_some() => Some(Part::Policies),
        // It lives for a moment, unless kube-router died in it.
        _ if hashed("TMP-").is_some() => Some(Part::Proxy),
        _ if name.starts_with("kube-router-") => Some(Part::Proxy),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_are_known_by_their_names() {
        for (name, wanted) in [
            ("kube-router-svip-prt", Some(Part::Proxy)),
            ("inet6:kube-router-node-ips", Some(Part::Egress)),
            ("KUBE-SRC-ABCDEFGHIJ234567", Some(Part::Policies)),
            ("inet6:KUBE-DST-ABCDEFGHIJ234567", Some(Part::Policies)),
            ("TMP-ABCDEFGHIJ234567", Some(Part::Proxy)),
            // kube-proxy's, and an administrator's.
            ("KUBE-CLUSTER-IP", None),
            ("KUBE-SRC-short", None),
            ("TMP-work", None),
            ("blocked", None),
        ] {
            assert_eq!(part(name), wanted, "{name}");
        }
    }
}
