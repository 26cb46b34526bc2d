//! Everything with its counters, timeouts and the kernel's own figures: for display and metrics.

use fairway_desired::ipvs::{RealServerKey, VirtualServerKey};
use fairway_desired::{Fault, Outcome};
use fairway_netlink::{Attributes, Error, Message};

use crate::backend::{IpvsBackend, Link, fault};
use crate::decode::counter;
use crate::uapi::errno::EPERM;
use crate::uapi::{self, command, forward, info, stats, top};

/// A virtual server with its counters. Unlike the plane's table it has them all: excluded ones, and those that an
/// [`Op`](fairway_desired::Op) cannot say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerStatistics {
    /// Which.
    pub key: VirtualServerKey,
    /// The scheduler's kernel name; `none` if it has none.
    pub scheduler: String,
    /// `IP_VS_SVC_F_*`
    pub flags: u32,
    /// Persistence timeout in seconds, if persistence is on.
    pub persistence_s: Option<u32>,
    /// Of all its real servers, also of those that are gone.
    pub traffic: Traffic,
    /// Its real servers, by address and port.
    pub reals: Vec<RealStatistics>,
}

/// A real server with its counters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RealStatistics {
    /// Which.
    pub key: RealServerKey,
    /// Forwarding method.
    pub method: Method,
    /// Weight.
    pub weight: u32,
    /// Connections that are open.
    pub active: u32,
    /// Connections that end, and datagram exchanges.
    pub inactive: u32,
    /// Persistence templates: clients that are kept here.
    pub persistent: u32,
    /// What went through it.
    pub traffic: Traffic,
}

/// `IP_VS_CONN_F_FWD_MASK`: all methods there are, not only those the plane uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// `Masq` in `ipvsadm -Ln`
    Masquerade,
    /// `Local`
    Local,
    /// `Tunnel`
    Tunnel,
    /// `Route`
    Route,
    /// `Bypass`, and what later kernels invent
    Bypass,
}

/// Counters since the entry was made, and rates that the kernel estimates every two seconds (`struct ip_vs_kstats`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Connections scheduled.
    pub connections: u64,
    /// Packets from clients.
    pub packets_in: u64,
    /// Packets to clients; with tunnels the kernel does not see them.
    pub packets_out: u64,
    /// Bytes from clients.
    pub bytes_in: u64,
    /// Bytes to clients.
    pub bytes_out: u64,
    /// Connections per second.
    pub connections_per_s: u64,
    /// Packets per second from clients.
    pub packets_in_per_s: u64,
    /// Packets per second to clients.
    pub packets_out_per_s: u64,
    /// Bytes per second from clients.
    pub bytes_in_per_s: u64,
    /// Bytes per second to clients.
    pub bytes_out_per_s: u64,
}

/// How long connections are remembered that see no packets (`ipvsadm --set`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// TCP sessions, in seconds.
    pub tcp_s: u32,
    /// TCP sessions after a FIN, in seconds.
    pub tcp_fin_s: u32,
    /// UDP, in seconds.
    pub udp_s: u32,
}

/// The kernel's IPVS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Info {
    /// Version: major, minor, patch.
    pub version: (u8, u8, u8),
    /// Buckets of the connection table (module parameter `conn_tab_bits`).
    pub connection_table_size: u32,
}

impl IpvsBackend {
    /// Reads all virtual servers with their real servers and counters, in the order of their keys.
    ///
    /// # Errors
    /// A [`Fault`] if they could not be read as a whole.
    pub fn statistics(&mut self) -> Result<Vec<ServerStatistics>, Fault> {
        self.with_link(|link, _, _| {
            let mut servers = link.servers(|key, service| {
                Some(ServerStatistics {
                    key: key.clone(),
                    scheduler: service.scheduler.to_owned(),
                    flags: service.flags,
                    persistence_s: service.persistence_s(),
                    traffic: traffic(service.stats),
                    reals: vec![],
                })
            })?;
            servers.sort_by(|(a, _), (b, _)| a.cmp(b));
            let (keys, mut servers): (Vec<_>, Vec<_>) = servers.into_iter().unzip();
            let reals = link.reals(&keys, |index, _, key, dest| {
                let real = RealStatistics {
                    key,
                    method: method(dest.method),
                    weight: dest.weight,
                    active: dest.active,
                    inactive: dest.inactive,
                    persistent: dest.persistent,
                    traffic: traffic(dest.stats),
                };
                (index, real)
            })?;
            for (index, real) in reals {
                if let Some(server) = servers.get_mut(index) {
                    server.reals.push(real);
                }
            }
            servers.iter_mut().for_each(|server| server.reals.sort_by(|a, b| a.key.cmp(&b.key)));
            Ok(servers)
        })
    }

    /// Reads the counters of all virtual servers, without those of their real servers: one dump, whatever there is.
    ///
    /// # Errors
    /// A [`Fault`] if they could not be read as a whole.
    pub fn traffic(&mut self) -> Result<Vec<(VirtualServerKey, Traffic)>, Fault> {
        self.with_link(|link, _, _| link.servers(|_, service| Some(traffic(service.stats))))
    }

    /// Reads the timeouts (`IPVS_CMD_GET_CONFIG`). A protocol the kernel was built without has 0.
    ///
    /// # Errors
    /// A [`Fault`] if the kernel could not be asked.
    pub fn timeouts(&mut self) -> Result<Timeouts, Fault> {
        let reply = self.get(command::GET_CONFIG)?;
        let number = |kind| Attributes::new(&reply).get(kind).and_then(|a| a.u32()).unwrap_or_default();
        Ok(Timeouts {
            tcp_s: number(top::TIMEOUT_TCP),
            tcp_fin_s: number(top::TIMEOUT_TCP_FIN),
            udp_s: number(top::TIMEOUT_UDP),
        })
    }

    /// Sets the timeouts (`IPVS_CMD_SET_CONFIG`). The kernel leaves as it is what is 0, and refuses with `EINVAL`
    /// what it cannot count in its clock ticks; connections that exist get the new timeout with their next packet.
    ///
    /// # Errors
    /// A [`Fault`] if the kernel could not be asked.
    pub fn set_timeouts(&mut self, timeouts: Timeouts) -> Result<Outcome, Fault> {
        self.with_link(|link, _, _| {
            let mut message = link.encoder.bare(command::SET_CONFIG);
            message
                .u32(top::TIMEOUT_TCP, timeouts.tcp_s)
                .u32(top::TIMEOUT_TCP_FIN, timeouts.tcp_fin_s)
                .u32(top::TIMEOUT_UDP, timeouts.udp_s);
            match link.socket.request(message) {
                Ok(_) => Ok(Outcome::Done),
                Err(Error::Errno(errno)) if errno.0 != EPERM => Ok(Outcome::Refused(errno.0)),
                Err(error) => Err(fault(&error)),
            }
        })
    }

    /// Reads version and table size (`IPVS_CMD_GET_INFO`).
    ///
    /// # Errors
    /// A [`Fault`] if the kernel could not be asked.
    pub fn info(&mut self) -> Result<Info, Fault> {
        let reply = self.get(command::GET_INFO)?;
        let number = |kind| Attributes::new(&reply).get(kind).and_then(|a| a.u32()).unwrap_or_default();
        let [_, major, minor, patch] = number(info::VERSION).to_be_bytes();
        Ok(Info { version: (major, minor, patch), connection_table_size: number(info::CONN_TAB_SIZE) })
    }

    /// The attributes of the one answer to a request.
    fn get(&mut self, command: u8) -> Result<Vec<u8>, Fault> {
        self.with_link(|link, _, _| {
            let message = link.encoder.bare(command);
            ask(link, message)
        })
    }
}

fn ask(link: &mut Link, message: Message) -> Result<Vec<u8>, Fault> {
    let mut replies = link.socket.request(message).map_err(|error| fault(&error))?;
    let reply = replies.pop().filter(|reply| reply.kind == link.encoder.family).ok_or(Fault::Lost)?;
    Ok(reply.payload.get(uapi::GENERIC_HEADER..).unwrap_or_default().to_vec())
}

const fn method(number: u32) -> Method {
    match number {
        forward::MASQ => Method::Masquerade,
        forward::LOCALNODE => Method::Local,
        forward::TUNNEL => Method::Tunnel,
        forward::DROUTE => Method::Route,
        forward::BYPASS.. => Method::Bypass,
    }
}

fn traffic(attributes: Option<Attributes<'_>>) -> Traffic {
    let mut traffic = Traffic::default();
    for attribute in attributes.into_iter().flatten() {
        let slot = match attribute.kind {
            stats::CONNS => &mut traffic.connections,
            stats::INPKTS => &mut traffic.packets_in,
            stats::OUTPKTS => &mut traffic.packets_out,
            stats::INBYTES => &mut traffic.bytes_in,
            stats::OUTBYTES => &mut traffic.bytes_out,
            stats::CPS => &mut traffic.connections_per_s,
            stats::INPPS => &mut traffic.packets_in_per_s,
            stats::OUTPPS => &mut traffic.packets_out_per_s,
            stats::INBPS => &mut traffic.bytes_in_per_s,
            stats::OUTBPS => &mut traffic.bytes_out_per_s,
            _ => continue,
        };
        *slot = counter(attribute);
    }
    traffic
}
