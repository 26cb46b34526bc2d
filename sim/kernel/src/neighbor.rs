//! Neighbour resolution: which interface of which host answers for an address, and over which bridges frames get there.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::fabric::Fabric;
use crate::kernel::{Kernel, Switch, Wire};
use crate::types::{HostId, LanId};

/// The way of a frame to a neighbour.
#[derive(Clone, Debug)]
pub(crate) struct Way {
    pub(crate) host: HostId,
    /// The interface that gets the packet: the bridge, if the frame arrives at a port.
    pub(crate) link: Arc<str>,
    pub(crate) latency: Duration,
    /// The LAN it comes over last.
    pub(crate) lan: Option<LanId>,
    /// Bridges that forward the frame from port to port.
    pub(crate) bridges: Vec<(HostId, Arc<str>)>,
}

/// A frame that leaves through an interface.
struct Frame {
    host: HostId,
    lan: Option<LanId>,
    link: Arc<str>,
    latency: Duration,
    bridges: Vec<(HostId, Arc<str>)>,
}

impl Kernel {
    /// Whether this host answers on an interface that it has an address.
    fn answers(&self, link: &str, ip: IpAddr) -> bool {
        let here = || self.owners.get(&ip).is_some_and(|links| links.iter().any(|l| **l == *link));
        if !self.links.get(link).is_some_and(|l| l.up) {
            return false;
        }
        match ip {
            IpAddr::V6(_) => here(),
            IpAddr::V4(ip4) => match self.switch(Switch::ArpIgnore) {
                0 => !ip4.is_loopback() && self.is_local(ip),
                8 => false,
                _ => here(),
            },
        }
    }
}

/// Neighbours that answered before, by who asked on which interface. An entry counts only while its neighbour would
/// answer again, so it saves the search and changes nothing else.
pub(crate) type Neighbors = BTreeMap<(HostId, Arc<str>, IpAddr), Way>;

impl Fabric {
    /// The neighbour that has an address on an interface.
    pub(crate) fn resolve(&mut self, host: HostId, link: &Arc<str>, ip: IpAddr) -> Option<Way> {
        let key = (host, link.clone(), ip);
        if let Some(way) = self.neighbors.get(&key)
            && self.still_there(host, link, ip, way)
        {
            return Some(way.clone());
        }
        let way = self.search(host, link, ip);
        match &way {
            // Only the way over one wire is easy to check again.
            Some(found) if found.bridges.is_empty() => self.neighbors.insert(key, found.clone()),
            _ => self.neighbors.remove(&key),
        };
        way
    }

    /// Whether a neighbour on the same LAN would be found again. With `arp_ignore` 0 on some other host a nearer one
    /// might answer too; the first that did is kept, as a neighbour table keeps it.
    fn still_there(&self, host: HostId, link: &Arc<str>, ip: IpAddr, way: &Way) -> bool {
        let usable = |h: HostId, l: &Arc<str>| {
            self.hosts[h.0].kernel.links.get(l).is_some_and(|l| l.passes() && l.master.is_none())
        };
        let lan = |h: HostId, l: &Arc<str>| match self.hosts[h.0].kernel.links.get(l).map(|l| &l.wire) {
            Some(Wire::Lan(lan)) => Some(*lan),
            _ => None,
        };
        let same_lan = lan(host, link).is_some_and(|own| lan(way.host, &way.link) == Some(own));
        same_lan
            && usable(host, link)
            && usable(way.host, &way.link)
            && self.hosts[way.host.0].kernel.answers(&way.link, ip)
    }

    /// Asks everybody on the wire; the nearest that answers.
    fn search(&self, host: HostId, link: &Arc<str>, ip: IpAddr) -> Option<Way> {
        let mut seen = BTreeSet::new();
        let start = Frame { host, lan: None, link: link.clone(), latency: Duration::ZERO, bridges: vec![] };
        let mut frames = VecDeque::from([start]);
        while let Some(Frame { host, mut lan, link, latency, bridges }) = frames.pop_front() {
            let kernel = &self.hosts[host.0].kernel;
            let Some(state) = kernel.links.get(&link).filter(|l| l.passes()) else { continue };
            let mut arrivals: Vec<(HostId, &Arc<str>, Duration)> = vec![];
            match &state.wire {
                Wire::Loopback | Wire::Dummy | Wire::Tunnel | Wire::PointToPoint(_) => {}
                Wire::Veth(peer, peer_link) => arrivals.push((*peer, peer_link, latency)),
                Wire::Lan(id) => {
                    lan = Some(*id);
                    let wire = &self.lans[id.0];
                    let others = wire.members.iter().filter(|(h, l)| (*h, l) != (host, &link));
                    arrivals.extend(others.map(|(h, l)| (*h, l, latency + wire.latency)));
                }
                Wire::Bridge => {
                    for port in ports(kernel, &link) {
                        frames.push_back(Frame { host, lan, link: port, latency, bridges: bridges.clone() });
                    }
                }
            }
            for (to, arrived_at, latency) in arrivals {
                let kernel = &self.hosts[to.0].kernel;
                let Some(port) = kernel.links.get(arrived_at).filter(|l| l.passes()) else { continue };
                if !seen.insert((to, arrived_at.clone())) {
                    continue;
                }
                let receiver = port.master.as_ref().unwrap_or(arrived_at);
                if kernel.answers(receiver, ip) {
                    return Some(Way { host: to, link: receiver.clone(), latency, lan, bridges });
                }
                if let Some(bridge) = port.master.as_ref().filter(|b| kernel.links.get(*b).is_some_and(|l| l.up)) {
                    for out in ports(kernel, bridge).filter(|p| p != arrived_at || port.hairpin) {
                        let mut bridges = bridges.clone();
                        bridges.push((to, bridge.clone()));
                        frames.push_back(Frame { host: to, lan, link: out, latency, bridges });
                    }
                }
            }
        }
        None
    }
}

fn ports<'a>(kernel: &'a Kernel, bridge: &'a Arc<str>) -> impl Iterator<Item = Arc<str>> + 'a {
    kernel.links.iter().filter(move |(_, l)| l.master.as_ref() == Some(bridge)).map(|(name, _)| name.clone())
}
