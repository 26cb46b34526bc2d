//! Connection tracking and source NAT.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use crate::packet::{Ct, Kind, Packet, Tuple};

const UNANSWERED: Duration = Duration::from_secs(120);
const ESTABLISHED: Duration = Duration::from_secs(432_000);
const DATAGRAM: Duration = Duration::from_secs(120);
const CLOSED: Duration = Duration::from_secs(120);
const RESET: Duration = Duration::from_secs(10);
/// Old entries are thrown away this often.
const SWEEP: Duration = Duration::from_secs(10);

/// A connection.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    /// As its first packet came in.
    pub(crate) original: Tuple,
    /// As its replies come in.
    pub(crate) reply: Tuple,
    /// The source is translated.
    pub(crate) snat: bool,
    answered: bool,
    closed: bool,
    expires: Duration,
}

/// The table of connections.
#[derive(Clone, Debug, Default)]
pub(crate) struct Conntrack {
    next: u64,
    pub(crate) entries: BTreeMap<u64, Entry>,
    index: BTreeMap<Tuple, (u64, bool)>,
    /// The connection of the packet that is under way in this host, until it leaves or is delivered.
    pending: Option<Entry>,
    next_sweep: Duration,
}

impl Conntrack {
    /// Finds or begins the connection of a packet.
    pub(crate) fn track(&mut self, packet: &mut Packet, now: Duration) {
        if packet.ct != Ct::Unseen {
            return;
        }
        if let Kind::Error { about, .. } = packet.kind {
            packet.ct = match self.find(about.reversed(), now) {
                Some((id, _)) => Ct::Related { id },
                None => Ct::Invalid,
            };
            return;
        }
        let mut found = self.find(packet.tuple, now);
        if let Some((id, false)) = found
            && packet.kind == Kind::Syn
            && self.entries.get(&id).is_some_and(|e| e.closed)
        {
            self.forget(id);
            found = None;
        }
        if let Some((id, reply)) = found {
            if let Some(entry) = self.entries.get_mut(&id) {
                entry.answered |= reply;
                packet.ct = Ct::Known { id, reply, first: !entry.answered };
                entry.saw(packet.kind, now);
            }
            return;
        }
        if matches!(packet.kind, Kind::SynAck | Kind::Rst | Kind::Fin) {
            packet.ct = Ct::Invalid;
            return;
        }
        let mut entry = Entry {
            original: packet.tuple,
            reply: packet.tuple.reversed(),
            snat: false,
            answered: false,
            closed: false,
            expires: now,
        };
        entry.saw(packet.kind, now);
        self.pending = Some(entry);
        packet.ct = Ct::New;
    }

    fn find(&self, tuple: Tuple, now: Duration) -> Option<(u64, bool)> {
        let (id, reply) = *self.index.get(&tuple)?;
        self.entries.get(&id).filter(|e| e.expires > now).map(|_| (id, reply))
    }

    fn forget(&mut self, id: u64) {
        if let Some(entry) = self.entries.remove(&id) {
            for tuple in [entry.original, entry.reply] {
                if self.index.get(&tuple).is_some_and(|(i, _)| *i == id) {
                    self.index.remove(&tuple);
                }
            }
        }
    }

    /// The entry of a packet in the direction of its first packet.
    fn forward_entry(&self, packet: &Packet) -> Option<&Entry> {
        match packet.ct {
            Ct::New => self.pending.as_ref(),
            Ct::Known { id, reply: false, .. } => self.entries.get(&id),
            _ => None,
        }
    }

    /// IPVS rewrote the destination: the replies will come from the real server.
    pub(crate) fn alter_reply(&mut self, packet: &Packet, real: SocketAddr) {
        if packet.ct == Ct::New
            && let Some(entry) = &mut self.pending
        {
            entry.reply.src = real;
        }
    }

    /// Forgets the connection of a packet that is not to be tracked.
    pub(crate) fn untrack(&mut self, packet: &mut Packet) {
        if packet.ct == Ct::New {
            self.pending = None;
        }
        packet.ct = Ct::Untracked;
    }

    /// Translates the source of a connection that begins, to an address and a free random port.
    pub(crate) fn masquerade(&mut self, packet: &Packet, address: IpAddr, rng: &mut oorandom::Rand64, now: Duration) {
        let Some(mut entry) = self.pending.clone() else { return };
        if packet.ct != Ct::New {
            return;
        }
        for _ in 0..256 {
            let port = u16::try_from(rng.rand_range(1024..65536)).unwrap_or(1024);
            entry.reply.dst = (address, port).into();
            if self.find(entry.reply, now).is_none() {
                break;
            }
        }
        entry.snat = true;
        self.pending = Some(entry);
    }

    /// The source that a packet of the first direction gets on its way out.
    pub(crate) fn translated_source(&self, packet: &Packet) -> Option<SocketAddr> {
        self.forward_entry(packet).filter(|e| e.snat).map(|e| e.reply.dst)
    }

    /// Undoes source translation on a reply, or on an error about a translated packet.
    pub(crate) fn restore(&self, packet: &mut Packet) -> bool {
        match (packet.ct, packet.kind) {
            (Ct::Known { id, reply: true, .. }, _) => {
                let Some(entry) = self.entries.get(&id).filter(|e| e.snat) else { return false };
                packet.tuple.dst = entry.original.src;
                true
            }
            (Ct::Related { id }, Kind::Error { about, port }) => {
                let Some(entry) = self.entries.get(&id).filter(|e| e.snat) else { return false };
                if about != entry.reply.reversed() {
                    return false;
                }
                let original = entry.original.src;
                packet.kind = Kind::Error { about: Tuple { src: original, ..about }, port };
                packet.tuple.dst.set_ip(original.ip());
                true
            }
            _ => false,
        }
    }

    /// The packet leaves or is delivered: its connection is in the table from now on.
    pub(crate) fn confirm(&mut self, packet: &mut Packet) {
        if packet.ct != Ct::New {
            return;
        }
        let Some(entry) = self.pending.take() else { return };
        let id = self.next;
        self.next += 1;
        for (tuple, reply) in [(entry.reply, true), (entry.original, false)] {
            if let Some((old, _)) = self.index.insert(tuple, (id, reply))
                && old != id
            {
                self.forget(old);
                self.index.insert(tuple, (id, reply));
            }
        }
        self.entries.insert(id, entry);
        packet.ct = Ct::Known { id, reply: false, first: true };
    }

    /// Forgets the connection of a packet.
    pub(crate) fn drop_entry(&mut self, packet: &Packet) {
        if let Ct::Known { id, .. } = packet.ct {
            self.forget(id);
        }
    }

    /// Throws old entries away.
    pub(crate) fn expire(&mut self, now: Duration) {
        if now < self.next_sweep {
            return;
        }
        self.next_sweep = now + SWEEP;
        let old: Vec<u64> = self.entries.iter().filter(|(_, e)| e.expires <= now).map(|(id, _)| *id).collect();
        for id in old {
            self.forget(id);
        }
    }
}

impl Entry {
    fn saw(&mut self, kind: Kind, now: Duration) {
        let more = match kind {
            Kind::Rst => RESET,
            Kind::Fin => CLOSED,
            _ if self.closed => CLOSED,
            Kind::Ack => ESTABLISHED,
            Kind::Datagram => DATAGRAM,
            Kind::Syn | Kind::SynAck | Kind::Error { .. } => UNANSWERED,
        };
        self.closed |= matches!(kind, Kind::Rst | Kind::Fin);
        self.expires = now + more;
    }
}
