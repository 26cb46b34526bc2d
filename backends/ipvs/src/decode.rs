//! Reading what the kernel dumps. An entry that makes no sense is no entry; nothing here can panic.

use std::net::IpAddr;

use fairway_desired::ipvs::{Forwarding, RealServer, RealServerKey, Scheduler, VirtualServer, VirtualServerKey};
use fairway_desired::{Family, Protocol};
use fairway_netlink::{Attribute, Attributes};

use crate::encode::{family, scheduler_name, whole_client};
use crate::uapi::{self, dest, flag, forward, service, top};

/// A virtual server as the kernel has it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Service<'a> {
    pub(crate) scheduler: &'a str,
    pub(crate) flags: u32,
    pub(crate) timeout_s: u32,
    netmask: u32,
    /// It has a persistence engine, such as `sip`.
    engine: bool,
    pub(crate) stats: Option<Attributes<'a>>,
}

/// A real server as the kernel has it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Dest<'a> {
    pub(crate) method: u32,
    pub(crate) weight: u32,
    upper: u32,
    lower: u32,
    tunnel: u8,
    pub(crate) active: u32,
    pub(crate) inactive: u32,
    pub(crate) persistent: u32,
    pub(crate) stats: Option<Attributes<'a>>,
}

/// Reads a message of a `GET_SERVICE` dump. `None` also for a protocol that is not TCP, UDP or SCTP: `ipvsadm` cannot
/// make such a server, and there is no key for it.
pub(crate) fn read_service(payload: &[u8]) -> Option<(VirtualServerKey, Service<'_>)> {
    let inside = Attributes::new(payload.get(uapi::GENERIC_HEADER..)?).get(top::SERVICE)?.nested();
    let (mut af, mut protocol, mut address, mut port, mut mark) = (None, None, None, None, None);
    let (mut stats, mut stats64) = (None, None);
    let mut found = Service { scheduler: "", flags: 0, timeout_s: 0, netmask: 0, engine: false, stats: None };
    for attribute in inside {
        match attribute.kind {
            service::AF => af = attribute.u16(),
            service::PROTOCOL => protocol = attribute.u16(),
            service::ADDR => address = Some(attribute.payload),
            service::PORT => port = attribute.be16(),
            service::FWMARK => mark = attribute.u32(),
            service::SCHED_NAME => found.scheduler = attribute.text()?,
            // Of `struct ip_vs_flags` the mask follows, which says nothing in this direction.
            service::FLAGS => found.flags = attribute.u32()?,
            service::TIMEOUT => found.timeout_s = attribute.u32()?,
            service::NETMASK => found.netmask = attribute.u32()?,
            service::PE_NAME => found.engine = true,
            service::STATS => stats = Some(attribute.nested()),
            service::STATS64 => stats64 = Some(attribute.nested()),
            _ => {}
        }
    }
    found.stats = stats64.or(stats);
    let family = read_family(af?)?;
    let key = match mark {
        Some(mark) => VirtualServerKey::Mark { family, mark },
        None => VirtualServerKey::Address {
            address: read_address(family, address?)?,
            port: port?,
            protocol: match protocol? {
                6 => Protocol::Tcp,
                17 => Protocol::Udp,
                132 => Protocol::Sctp,
                _ => return None,
            },
        },
    };
    Some((key, found))
}

/// Reads a message of a `GET_DEST` dump of this virtual server.
pub(crate) fn read_dest<'a>(server: &VirtualServerKey, payload: &'a [u8]) -> Option<(RealServerKey, Dest<'a>)> {
    let inside = Attributes::new(payload.get(uapi::GENERIC_HEADER..)?).get(top::DEST)?.nested();
    // Kernels before 3.18 say no family: there it is the virtual server's.
    let (mut family, mut address, mut port) = (family(server), None, None);
    let (mut stats, mut stats64) = (None, None);
    let mut found = Dest {
        method: forward::MASQ,
        weight: 0,
        upper: 0,
        lower: 0,
        tunnel: uapi::TUNNEL_IPIP,
        active: 0,
        inactive: 0,
        persistent: 0,
        stats: None,
    };
    for attribute in inside {
        match attribute.kind {
            dest::ADDR => address = Some(attribute.payload),
            dest::PORT => port = attribute.be16(),
            dest::FWD_METHOD => found.method = attribute.u32()? & forward::MASK,
            dest::WEIGHT => found.weight = attribute.u32()?,
            dest::U_THRESH => found.upper = attribute.u32()?,
            dest::L_THRESH => found.lower = attribute.u32()?,
            dest::ACTIVE_CONNS => found.active = attribute.u32()?,
            dest::INACT_CONNS => found.inactive = attribute.u32()?,
            dest::PERSIST_CONNS => found.persistent = attribute.u32()?,
            dest::ADDR_FAMILY => family = read_family(attribute.u16()?)?,
            dest::TUN_TYPE => found.tunnel = attribute.u8()?,
            dest::STATS => stats = Some(attribute.nested()),
            dest::STATS64 => stats64 = Some(attribute.nested()),
            _ => {}
        }
    }
    found.stats = stats64.or(stats);
    Some((RealServerKey { address: read_address(family, address?)?, port: port? }, found))
}

/// The value of a virtual server that no [`VirtualServer`] can say: another scheduler, other flags, persistence by
/// network.
///
/// It must differ from everything that can be desired, so that a desired entry is written over it, and must be in the
/// table, so that an entry nobody desires is deleted. Persistence of 0 seconds is refused on every put, so this value
/// is never what an entry should be.
pub(crate) const INEXPRESSIBLE_SERVER: VirtualServer =
    VirtualServer { scheduler: Scheduler::Rr, fallback: false, hash_port: false, persistence_s: Some(0) };

/// The same for real servers: another forwarding method, thresholds. The kernel takes no weight above `i32::MAX`.
pub(crate) const INEXPRESSIBLE_REAL: RealServer = RealServer { weight: u32::MAX, forwarding: Forwarding::Masquerade };

impl Service<'_> {
    /// Persistence, if it is on.
    pub(crate) fn persistence_s(&self) -> Option<u32> {
        (self.flags & flag::PERSISTENT != 0).then_some(self.timeout_s)
    }

    /// As a value of the plane.
    pub(crate) fn value(&self, family: Family) -> VirtualServer {
        const KNOWN: u32 = flag::PERSISTENT | flag::HASHED | flag::SCHED1 | flag::SCHED2;
        const SCHEDULERS: [Scheduler; 7] =
            [Scheduler::Rr, Scheduler::Wrr, Scheduler::Lc, Scheduler::Wlc, Scheduler::Dh, Scheduler::Sh, Scheduler::Mh];
        let scheduler = SCHEDULERS.into_iter().find(|known| scheduler_name(*known) == self.scheduler);
        let persistence_s = self.persistence_s();
        // The netmask means something only with persistence.
        let plain = persistence_s.is_none() || self.netmask == whole_client(family);
        match scheduler {
            Some(scheduler) if self.flags & !KNOWN == 0 && !self.engine && plain => VirtualServer {
                scheduler,
                fallback: self.flags & flag::SCHED1 != 0,
                hash_port: self.flags & flag::SCHED2 != 0,
                persistence_s,
            },
            _ => INEXPRESSIBLE_SERVER,
        }
    }
}

impl Dest<'_> {
    /// As a value of the plane.
    pub(crate) fn value(&self) -> RealServer {
        let forwarding = match self.method {
            forward::MASQ => Some(Forwarding::Masquerade),
            forward::TUNNEL if self.tunnel == uapi::TUNNEL_IPIP => Some(Forwarding::Tunnel),
            _ => None,
        };
        match forwarding {
            Some(forwarding) if self.upper == 0 && self.lower == 0 => RealServer { weight: self.weight, forwarding },
            _ => INEXPRESSIBLE_REAL,
        }
    }
}

const fn read_family(af: u16) -> Option<Family> {
    match af {
        uapi::AF_INET => Some(Family::V4),
        uapi::AF_INET6 => Some(Family::V6),
        _ => None,
    }
}

fn read_address(family: Family, bytes: &[u8]) -> Option<IpAddr> {
    match family {
        Family::V4 => <[u8; 4]>::try_from(bytes.get(..4)?).ok().map(IpAddr::from),
        Family::V6 => <[u8; 16]>::try_from(bytes.get(..16)?).ok().map(IpAddr::from),
    }
}

/// A counter of 64 bits, or of 32 from a kernel before 4.1.
pub(crate) fn counter(attribute: Attribute<'_>) -> u64 {
    attribute.u64().or_else(|| attribute.u32().map(u64::from)).unwrap_or_default()
}
