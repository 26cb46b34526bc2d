//! BFD's packets between agents: datagrams that walk the simulated kernels at the moment they are sent. What is lost is
//! lost, and what arrives at a process that is gone by then is, too.

use std::net::{IpAddr, SocketAddr};

use fairway_agent::{Input, bfd};
use fairway_desired::Protocol;
use fairway_kernel::{Connect, Posted};

use crate::world::{Event, World};
use crate::{DAEMON, HostIx};

/// TTL of what is sent (RFC 5881 section 5).
const TTL: u8 = 255;

/// The socket of a session.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Way {
    local: Option<IpAddr>,
    source_port: u16,
    remote: SocketAddr,
}

/// A packet under way.
#[derive(Debug)]
pub(crate) struct Arrival {
    host: HostIx,
    generation: u32,
    local: SocketAddr,
    remote: SocketAddr,
    ttl: u8,
    bytes: [u8; bfd::Packet::LEN],
}

impl World {
    /// Does what the BFD of a host's agent wants.
    pub(crate) fn bfd_output(&mut self, host: HostIx, output: bfd::Output) {
        let id = self.hosts[host].id;
        match output {
            bfd::Output::Listen { port } => {
                let listening = self.fabric.listen(id, Protocol::Udp, None, port, DAEMON);
                debug_assert!(listening.is_ok(), "nothing else of the world listens on {port}: {listening:?}");
            }
            bfd::Output::Unlisten { port } => self.fabric.unlisten(id, Protocol::Udp, port, DAEMON),
            bfd::Output::Open { peer, local, source_port, remote } => {
                self.hosts[host].bfd.insert(peer, Way { local, source_port, remote });
            }
            bfd::Output::Send { peer, bytes } => self.bfd_send(host, peer, bytes),
            bfd::Output::Close { peer } => drop(self.hosts[host].bfd.remove(&peer)),
            bfd::Output::Event(_) => {}
        }
    }

    fn bfd_send(&mut self, host: HostIx, peer: IpAddr, bytes: [u8; bfd::Packet::LEN]) {
        let Some(way) = self.hosts[host].bfd.get(&peer).copied() else { return };
        let request = Connect {
            from: self.hosts[host].id,
            owner: DAEMON.into(),
            src: way.local,
            sport: Some(way.source_port),
            to: way.remote.ip(),
            port: way.remote.port(),
            protocol: Protocol::Udp,
        };
        let Some(posted) = self.fabric.post(self.queue.now(), &request, TTL) else { return };
        let Posted { host, owner, source: remote, destination: local, ttl, latency } = posted;
        let Some(host) = self.host_by_id(host).filter(|_| owner == DAEMON) else { return };
        let generation = self.hosts[host].generation;
        let arrival = Arrival { host, generation, local, remote, ttl, bytes };
        self.queue.after(latency, Event::Bfd(Box::new(arrival)));
    }

    /// A packet arrives.
    pub(crate) fn bfd_arrives(&mut self, arrival: &Arrival) {
        let Arrival { host, generation, local, remote, ttl, bytes } = *arrival;
        self.hash.event(self.queue.now(), 10, host as u64, generation.into());
        self.hash.bytes(&bytes);
        let payload = bfd::Payload::new(&bytes);
        self.agent_input(host, generation, Input::Bfd(bfd::Input::Received { local, remote, ttl, payload }));
    }
}
