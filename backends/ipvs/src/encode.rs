//! Writing requests.

use std::net::IpAddr;

use fairway_desired::ipvs::{Forwarding, RealServer, RealServerKey, Scheduler, VirtualServer, VirtualServerKey};
use fairway_desired::{Family, Protocol};
use fairway_netlink::Message;

use crate::uapi::{self, command, dest, flag, forward, service, top};

/// Writes requests to the family with this number.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Encoder {
    pub(crate) family: u16,
}

/// What to do with an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verb {
    /// Fails if it exists.
    New,
    /// Fails if it does not exist.
    Set,
    /// Fails if it does not exist.
    Delete,
}

impl Encoder {
    /// A request without attributes.
    pub(crate) fn bare(self, command: u8) -> Message {
        Message::generic(self.family, 0, command, uapi::VERSION)
    }

    /// Makes or changes a virtual server.
    pub(crate) fn put_server(self, verb: Verb, key: &VirtualServerKey, value: &VirtualServer) -> Message {
        let command = if verb == Verb::New { command::NEW_SERVICE } else { command::SET_SERVICE };
        let mut message = self.bare(command);
        message.nested(top::SERVICE, |m| {
            server_key(m, key);
            let mut flags = 0;
            for (on, bit) in [
                (value.persistence_s.is_some(), flag::PERSISTENT),
                (value.fallback, flag::SCHED1),
                (value.hash_port, flag::SCHED2),
            ] {
                flags |= if on { bit } else { 0 };
            }
            // `struct ip_vs_flags`: the flags, and which of them are meant. All are: what somebody else has set goes.
            let mut pair = flags.to_ne_bytes().to_vec();
            pair.extend_from_slice(&u32::MAX.to_ne_bytes());
            m.text(service::SCHED_NAME, scheduler_name(value.scheduler))
                .bytes(service::FLAGS, &pair)
                .u32(service::TIMEOUT, value.persistence_s.unwrap_or_default())
                .u32(service::NETMASK, whole_client(family(key)));
        });
        message
    }

    /// Makes or changes a real server.
    pub(crate) fn put_real(
        self,
        verb: Verb,
        server: &VirtualServerKey,
        key: &RealServerKey,
        value: &RealServer,
    ) -> Message {
        let command = if verb == Verb::New { command::NEW_DEST } else { command::SET_DEST };
        let method = match value.forwarding {
            Forwarding::Masquerade => forward::MASQ,
            Forwarding::Tunnel => forward::TUNNEL,
        };
        let mut message = self.about(command, server);
        message.nested(top::DEST, |m| {
            real_key(m, key);
            m.u32(dest::FWD_METHOD, method)
                .u32(dest::WEIGHT, value.weight)
                .u32(dest::U_THRESH, 0)
                .u32(dest::L_THRESH, 0);
        });
        message
    }

    /// Deletes a virtual server, and with it its real servers.
    pub(crate) fn delete_server(self, key: &VirtualServerKey) -> Message {
        self.about(command::DEL_SERVICE, key)
    }

    /// Deletes a real server.
    pub(crate) fn delete_real(self, server: &VirtualServerKey, key: &RealServerKey) -> Message {
        let mut message = self.about(command::DEL_DEST, server);
        message.nested(top::DEST, |m| real_key(m, key));
        message
    }

    /// A request about a virtual server.
    pub(crate) fn about(self, command: u8, server: &VirtualServerKey) -> Message {
        let mut message = self.bare(command);
        message.nested(top::SERVICE, |m| server_key(m, server));
        message
    }
}

fn server_key(message: &mut Message, key: &VirtualServerKey) {
    message.u16(service::AF, address_family(family(key)));
    match key {
        VirtualServerKey::Address { address, port, protocol } => message
            .u16(service::PROTOCOL, protocol_number(*protocol))
            .bytes(service::ADDR, &octets(*address))
            .be16(service::PORT, *port),
        VirtualServerKey::Mark { mark, .. } => message.u32(service::FWMARK, *mark),
    };
}

fn real_key(message: &mut Message, key: &RealServerKey) {
    message
        .bytes(dest::ADDR, &octets(key.address))
        .be16(dest::PORT, key.port)
        .u16(dest::ADDR_FAMILY, address_family(Family::of(key.address)));
}

/// `union nf_inet_addr`: IPv4 stands in the first four bytes.
fn octets(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(v4) => {
            let [a, b, c, d] = v4.octets();
            [a, b, c, d, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]
        }
        IpAddr::V6(v6) => v6.octets(),
    }
}

/// The family of the packets a virtual server is for.
pub(crate) const fn family(key: &VirtualServerKey) -> Family {
    match key {
        VirtualServerKey::Address { address, .. } => Family::of(*address),
        VirtualServerKey::Mark { family, .. } => *family,
    }
}

const fn address_family(family: Family) -> u16 {
    match family {
        Family::V4 => uapi::AF_INET,
        Family::V6 => uapi::AF_INET6,
    }
}

/// The persistence netmask with which a client is a whole address. IPVS does not say it the same way for both.
pub(crate) const fn whole_client(family: Family) -> u32 {
    match family {
        Family::V4 => uapi::NETMASK_V4,
        Family::V6 => uapi::NETMASK_V6,
    }
}

const fn protocol_number(protocol: Protocol) -> u16 {
    match protocol {
        Protocol::Tcp => 6,
        Protocol::Udp => 17,
        Protocol::Sctp => 132,
    }
}

pub(crate) const fn scheduler_name(scheduler: Scheduler) -> &'static str {
    match scheduler {
        Scheduler::Rr => "rr",
        Scheduler::Wrr => "wrr",
        Scheduler::Lc => "lc",
        Scheduler::Wlc => "wlc",
        Scheduler::Dh => "dh",
        Scheduler::Sh => "sh",
        Scheduler::Mh => "mh",
    }
}
