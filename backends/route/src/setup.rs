//! What an operating system, or a CNI plugin, does to a network namespace: pairs of interfaces, bridges, addresses,
//! boot routes. Every call may be repeated: what is there already stays.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd, BorrowedFd};

use fairway_desired::{Family, Fault, LinkKind, LinkValue, RouteKey, RouteValue};
use fairway_netlink::{Errno, Error, Message, Protocol, Socket, flags, generic_family};
use ipnet::IpNet;
use netlink_packet_route::address::AddressScope;
use netlink_packet_route::link::{InfoData, InfoVeth, LinkMessage, TunnelEncapType};
use rtnetlink::{LinkBridgePort, LinkIp6Tnl, LinkIpIp, LinkUnspec, LinkVeth};

use crate::link::{self, Links};
use crate::wire::errno::{EADDRINUSE, EEXIST, ENODEV, ENOENT};
use crate::wire::{kind, message, not_deleted};
use crate::{addr, fou, route};

/// Why a step failed.
#[derive(Debug, thiserror::Error)]
#[error("{what}: {why}")]
pub struct SetupError {
    /// What was to be done, as `ip` would say it.
    what: String,
    why: Error,
}

/// How packets of a tunnel are put into UDP (`include/uapi/linux/fou.h`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encapsulation {
    /// Foo over UDP: the packet itself.
    Fou,
    /// Generic UDP encapsulation: a header says what follows.
    Gue,
}

impl SetupError {
    /// The kernel's error number, if it refused.
    pub fn errno(&self) -> Option<i32> {
        match &self.why {
            Error::Errno(errno) => Some(errno.0),
            Error::Interrupted | Error::Lost(_) => None,
        }
    }
}

/// A hand that writes one network namespace: that of the thread which opens it.
#[derive(Debug)]
pub struct Setup {
    socket: Socket,
    links: Links,
}

impl Setup {
    /// Opens a socket in the namespace of the calling thread.
    ///
    /// # Errors
    /// If the system gives none.
    pub fn new() -> Result<Setup, SetupError> {
        let socket = Socket::open(Protocol::Route)
            .map_err(|error| SetupError { what: "netlink socket".into(), why: error.into() })?;
        Ok(Setup { socket, links: Links::default() })
    }

    /// Makes a request; true if it did something, false if it failed in a way that is fine.
    fn request(
        &mut self,
        what: impl FnOnce() -> String,
        request: Message,
        fine: impl FnOnce(Errno) -> bool,
    ) -> Result<bool, SetupError> {
        match self.socket.request(request) {
            Ok(_) => Ok(true),
            Err(Error::Errno(errno)) if fine(errno) => Ok(false),
            Err(why) => Err(SetupError { what: what(), why }),
        }
    }

    fn index(&mut self, name: &str) -> Result<u32, SetupError> {
        let failed = |why| SetupError { what: format!("interface {name}"), why };
        // An interface may have been deleted and made anew: names are cheap to read here.
        link::read(&mut self.socket, &mut self.links).map_err(|fault| {
            failed(match fault {
                Fault::Interrupted => Error::Interrupted,
                other => Error::Lost(std::io::Error::other(format!("{other:?}"))),
            })
        })?;
        self.links.known(name).ok_or_else(|| failed(Error::Errno(Errno(ENODEV))))
    }

    fn create(&mut self, what: String, body: &LinkMessage) -> Result<(), SetupError> {
        let request = message(kind::NEW_LINK, flags::CREATE | flags::EXCL, body);
        self.request(|| what, request, |errno| errno.0 == EEXIST).map(drop)
    }

    /// `ip link add NAME type veth peer name PEER`, the peer in another namespace if one is given.
    ///
    /// # Errors
    /// The kernel's refusal.
    pub fn add_veth(&mut self, name: &str, peer: &str, namespace: Option<BorrowedFd<'_>>) -> Result<(), SetupError> {
        let mut other = LinkUnspec::new_with_name(peer);
        if let Some(namespace) = namespace {
            other = other.setns_by_fd(namespace.as_raw_fd());
        }
        let body = LinkVeth::new(name, peer).set_info_data(InfoData::Veth(InfoVeth::Peer(other.build()))).build();
        self.create(format!("ip link add {name} type veth peer name {peer}"), &body)
    }

    /// `ip link add NAME type dummy` or `type bridge`, down.
    ///
    /// # Errors
    /// The kernel's refusal.
    pub fn add(&mut self, name: &str, kind: LinkKind) -> Result<(), SetupError> {
        let what = format!("ip link add {name}: {kind:?}");
        let request = link::create(name, &LinkValue { kind, up: false, mtu: None });
        self.request(|| what, request, |errno| errno.0 == EEXIST).map(drop)
    }

    /// `ip link add NAME type bridge`, down.
    ///
    /// # Errors
    /// The kernel's refusal.
    pub fn add_bridge(&mut self, name: &str) -> Result<(), SetupError> {
        self.add(name, LinkKind::Bridge)
    }

    /// `ip fou add port PORT ipproto 4|41` or `gue`: what arrives on this UDP port is taken out of it.
    ///
    /// # Errors
    /// The kernel's refusal; `ENOENT` if it has no module `fou` (or `fou6`).
    pub fn add_fou(&mut self, port: u16, family: Family, encapsulation: Encapsulation) -> Result<(), SetupError> {
        let what = || format!("ip fou add port {port} {encapsulation:?}");
        let failed = |why| SetupError { what: what(), why };
        let mut socket = Socket::open(Protocol::Generic).map_err(|error| failed(error.into()))?;
        let number = generic_family(&mut socket, fou::FAMILY).map_err(failed)?;
        let number = number.ok_or_else(|| failed(Error::Errno(Errno(ENOENT))))?;
        let mut request = Message::generic(number, 0, fou::command::ADD, fou::VERSION);
        // `IPPROTO_IPIP` and `IPPROTO_IPV6`
        let inside = match family {
            Family::V4 => 4,
            Family::V6 => 41,
        };
        request.be16(fou::attribute::PORT, port).u8(fou::attribute::AF, fou::number(family));
        match encapsulation {
            Encapsulation::Fou => request.u8(fou::attribute::TYPE, fou::DIRECT).u8(fou::attribute::PROTOCOL, inside),
            Encapsulation::Gue => request.u8(fou::attribute::TYPE, fou::GUE),
        };
        match socket.request(request) {
            Ok(_) | Err(Error::Errno(Errno(EADDRINUSE))) => Ok(()),
            Err(why) => Err(failed(why)),
        }
    }

    /// `ip link add NAME type ipip local … remote … encap fou|gue encap-sport auto encap-dport PORT`
    ///
    /// # Errors
    /// The kernel's refusal.
    pub fn add_ipip_in_udp(
        &mut self,
        name: &str,
        (local, remote): (Ipv4Addr, Ipv4Addr),
        port: u16,
        encapsulation: Encapsulation,
    ) -> Result<(), SetupError> {
        let kind = match encapsulation {
            Encapsulation::Fou => TunnelEncapType::Fou,
            Encapsulation::Gue => TunnelEncapType::Gue,
        };
        let body = LinkIpIp::new(name).local(local).remote(remote).encap_type(kind).encap_dport(port).build();
        self.create(format!("ip link add {name} type ipip remote {remote} encap {encapsulation:?} {port}"), &body)
    }

    /// `ip link add NAME type ipip local … remote …`; an unspecified remote takes packets from everybody.
    ///
    /// # Errors
    /// The kernel's refusal.
    pub fn add_ipip(&mut self, name: &str, local: Ipv4Addr, remote: Ipv4Addr) -> Result<(), SetupError> {
        let body = LinkIpIp::new(name).local(local).remote(remote).build();
        self.create(format!("ip link add {name} type ipip local {local} remote {remote}"), &body)
    }

    /// `ip link add NAME type ip6tnl local … remote …`
    ///
    /// # Errors
    /// The kernel's refusal.
    pub fn add_ip6tnl(&mut self, name: &str, local: Ipv6Addr, remote: Ipv6Addr) -> Result<(), SetupError> {
        let body = LinkIp6Tnl::new(name).local(local).remote(remote).build();
        self.create(format!("ip link add {name} type ip6tnl local {local} remote {remote}"), &body)
    }

    /// `ip link set NAME up` or `down`
    ///
    /// # Errors
    /// The kernel's refusal.
    pub fn set_up(&mut self, name: &str, up: bool) -> Result<(), SetupError> {
        let index = self.index(name)?;
        let what = || format!("ip link set {name} {}", if up { "up" } else { "down" });
        self.request(what, link::set_up(index, up), |_| false).map(drop)
    }

    /// `ip link set NAME name OTHER`; an interface that is up can be renamed since Linux 6.2.
    ///
    /// # Errors
    /// The kernel's refusal.
    pub fn rename(&mut self, name: &str, other: &str) -> Result<(), SetupError> {
        let body = LinkUnspec::new_with_index(self.index(name)?).name(other).build();
        self.request(|| format!("ip link set {name} name {other}"), message(kind::NEW_LINK, 0, &body), |_| false)
            .map(drop)
    }

    /// `ip link set NAME master BRIDGE`
    ///
    /// # Errors
    /// The kernel's refusal.
    pub fn enslave(&mut self, name: &str, bridge: &str) -> Result<(), SetupError> {
        let controller = self.index(bridge)?;
        let index = self.index(name)?;
        let body = LinkUnspec::new_with_index(index).controller(controller).build();
        let what = || format!("ip link set {name} master {bridge}");
        self.request(what, message(kind::NEW_LINK, 0, &body), |_| false).map(drop)
    }

    /// `ip link set NAME nomaster`
    ///
    /// # Errors
    /// The kernel's refusal.
    pub fn release(&mut self, name: &str) -> Result<(), SetupError> {
        let index = self.index(name)?;
        let body = LinkUnspec::new_with_index(index).nocontroller().build();
        let what = || format!("ip link set {name} nomaster");
        self.request(what, message(kind::NEW_LINK, 0, &body), |_| false).map(drop)
    }

    /// `bridge link set dev NAME hairpin on`: a packet may leave through the port it came from.
    ///
    /// # Errors
    /// The kernel's refusal.
    pub fn hairpin(&mut self, name: &str, on: bool) -> Result<(), SetupError> {
        let index = self.index(name)?;
        let body = LinkBridgePort::new(index).hairpin(on).build();
        let what = || format!("bridge link set dev {name} hairpin");
        self.request(what, message(kind::NEW_LINK, 0, &body), |_| false).map(drop)
    }

    /// `ip link set NAME netns …`
    ///
    /// # Errors
    /// The kernel's refusal.
    pub fn move_to_netns(&mut self, name: &str, namespace: BorrowedFd<'_>) -> Result<(), SetupError> {
        let index = self.index(name)?;
        let body = LinkUnspec::new_with_index(index).setns_by_fd(namespace.as_raw_fd()).build();
        let what = || format!("ip link set {name} netns");
        self.request(what, message(kind::NEW_LINK, 0, &body), |_| false).map(drop)
    }

    /// `ip link del NAME`; true if it was there.
    ///
    /// # Errors
    /// The kernel's refusal.
    pub fn del_link(&mut self, name: &str) -> Result<bool, SetupError> {
        let Ok(index) = self.index(name) else { return Ok(false) };
        let gone = |errno| not_deleted(errno) == fairway_desired::Outcome::Gone;
        self.request(|| format!("ip link del {name}"), link::delete(index), gone)
    }

    /// `ip address add ADDRESS dev NAME`, with the scope of an ordinary address and no duplicate address detection.
    ///
    /// # Errors
    /// The kernel's refusal.
    pub fn add_address(&mut self, name: &str, address: IpNet) -> Result<(), SetupError> {
        let index = self.index(name)?;
        let scope = if address.addr().is_loopback() { AddressScope::Host } else { AddressScope::Universe };
        let body = addr::body(index, address, scope);
        let request = message(kind::NEW_ADDR, flags::CREATE | flags::REPLACE, &body);
        self.request(|| format!("ip address add {address} dev {name}"), request, |_| false).map(drop)
    }

    /// The addresses of an interface; none if it is not there.
    ///
    /// # Errors
    /// If the kernel cannot be read.
    pub fn addresses_of(&mut self, name: &str) -> Result<Vec<IpAddr>, SetupError> {
        let failed = |fault: Fault| SetupError {
            what: format!("addresses of {name}"),
            why: Error::Lost(std::io::Error::other(format!("{fault:?}"))),
        };
        let all = addr::all(&mut self.socket, &mut self.links).map_err(failed)?;
        Ok(all.into_iter().filter(|key| *key.link == *name).map(|key| key.address.addr()).collect())
    }

    /// `ip address del ADDRESS dev NAME`; true if it was there.
    ///
    /// # Errors
    /// The kernel's refusal.
    pub fn del_address(&mut self, name: &str, address: IpNet) -> Result<bool, SetupError> {
        let index = self.index(name)?;
        let request = message(kind::DEL_ADDR, 0, &addr::body(index, address, AddressScope::Universe));
        let gone = |errno| not_deleted(errno) == fairway_desired::Outcome::Gone;
        self.request(|| format!("ip address del {address} dev {name}"), request, gone)
    }

    /// `ip route replace …`, whoever's route is there.
    ///
    /// # Errors
    /// The kernel's refusal.
    pub fn add_route(&mut self, key: RouteKey, value: RouteValue) -> Result<(), SetupError> {
        let what = || format!("ip route replace {} {:?}", key.prefix, value.next_hops);
        for dev in value.next_hops.iter().filter_map(|hop| hop.dev.as_deref()) {
            self.index(dev)?;
        }
        let request = route::write(&self.links, &key, &value)
            .map_err(|errno| SetupError { what: what(), why: Error::Errno(Errno(errno)) })?;
        self.request(what, request, |_| false).map(drop)
    }

    /// `ip route del …` of this protocol; true if it was there.
    ///
    /// # Errors
    /// The kernel's refusal.
    pub fn del_route(&mut self, key: &RouteKey, protocol: u8) -> Result<bool, SetupError> {
        let gone = |errno| not_deleted(errno) == fairway_desired::Outcome::Gone;
        self.request(|| format!("ip route del {}", key.prefix), route::remove(key, protocol), gone)
    }
}
