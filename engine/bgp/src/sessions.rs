//! Connections of neighbours: dialing, accepting, collisions, and how sessions begin and end.

use alloc::string::ToString;
use alloc::vec::Vec;
use core::net::{IpAddr, SocketAddr};

use ipnet::IpNet;

use crate::conn::{Conn, End, Ours, Signal};
use crate::neighbor::{Neighbor, Session, Settings};
use crate::speaker::Speaker;
use crate::wire::{Context, Message, Notification, cease, code};
use crate::{ConnId, Event, Output, SessionState, Time};

/// Before an OPEN was seen.
const PLAIN: Context = Context { four_octet_as: false };

impl Speaker {
    fn ours(&self, peer: IpAddr) -> Option<Ours> {
        Some(self.neighbors.get(&peer)?.settings.ours(self.global.as_ref()?))
    }

    /// Dials every neighbour whose time has come, and lets timers expire.
    pub(crate) fn run_timers(&mut self, now: Time) {
        let due: Vec<IpAddr> =
            self.neighbors.iter().filter(|(_, n)| n.deadline().is_some_and(|at| at <= now)).map(|(a, _)| *a).collect();
        for peer in due {
            let Some(neighbor) = self.neighbors.get_mut(&peer) else { continue };
            let ended: Vec<(ConnId, End)> =
                neighbor.conns.iter_mut().filter_map(|c| c.tick(now).err().map(|end| (c.id, end))).collect();
            for (conn, end) in ended {
                self.end(now, conn, end);
            }
            if self.neighbors.get(&peer).is_some_and(|n| n.conns.is_empty() && n.retry_at.is_some_and(|at| at <= now)) {
                self.dial(now, peer);
            }
        }
    }

    fn dial(&mut self, now: Time, peer: IpAddr) {
        let Some(own_asn) = self.global.as_ref().map(|g| g.asn) else { return };
        let Some(neighbor) = self.neighbors.get_mut(&peer) else { return };
        let Settings::Peer(settings) = &neighbor.settings else { return };
        let conn = ConnId::Out(self.next_out);
        self.next_out += 1;
        self.outputs.push_back(Output::Connect {
            conn,
            local: settings.local,
            remote: SocketAddr::new(peer, settings.port),
            password: settings.password.clone(),
            // RFC 4271 leaves it open; one hop is what directly connected external neighbours use everywhere.
            ttl: if settings.asn == own_asn { None } else { Some(settings.multihop_ttl.unwrap_or(1)) },
        });
        neighbor.retry_at = None;
        neighbor.conns.push(Conn::dialing(conn, now));
        self.conns.insert(conn, peer);
    }

    pub(crate) fn connected(&mut self, now: Time, conn: ConnId, local: IpAddr) {
        let Some(peer) = self.conns.get(&conn).copied() else {
            // The dial was given up while it succeeded. Nobody shall wait at its other end.
            return self.outputs.push_back(Output::Close { conn });
        };
        let Some(ours) = self.ours(peer) else { return };
        if let Some(conn) = self.neighbors.get_mut(&peer).and_then(|n| n.conn(conn))
            && conn.state == SessionState::Connect
        {
            conn.connected(now, local, &ours);
        }
    }

    pub(crate) fn accepted(&mut self, now: Time, conn: ConnId, local: IpAddr, remote: IpAddr) {
        if self.conns.contains_key(&conn) {
            return;
        }
        if self.shut_down || self.global.is_none() {
            return self.refuse(conn, cease::REJECTED);
        }
        if !self.neighbors.contains_key(&remote) {
            let range = self.dynamics.covering(IpNet::from(remote)).next();
            let Some(settings) = range.map(|(_, d)| Settings::Dynamic(d.clone())) else {
                self.outputs.push_back(Output::Event(Event::Rejected { source: remote }));
                return self.refuse(conn, cease::REJECTED);
            };
            self.neighbors.insert(remote, Neighbor::new(settings));
        }
        let Some(ours) = self.ours(remote) else { return };
        let Some(neighbor) = self.neighbors.get_mut(&remote) else { return };
        // The other side dials only once at a time, so an earlier connection from it is dead. A session that is up is
        // another matter: the OPEN will show which of the two is kept (RFC 4271 section 6.8).
        let stale = neighbor
            .conns
            .iter()
            .find(|c| matches!(c.id, ConnId::In(_)) && c.state != SessionState::Established)
            .map(|c| c.id);
        let mut new = Conn::dialing(conn, now);
        new.connected(now, local, &ours);
        neighbor.conns.push(new);
        self.conns.insert(conn, remote);
        if let Some(stale) = stale {
            self.close(stale, Some(Notification::new(code::CEASE, cease::COLLISION)));
        }
    }

    /// Answers somebody whom we do not talk to.
    fn refuse(&mut self, conn: ConnId, subcode: u8) {
        if let Ok(bytes) = Message::Notification(Notification::new(code::CEASE, subcode)).encode(PLAIN) {
            self.outputs.push_back(Output::Send { conn, bytes });
        }
        self.outputs.push_back(Output::Close { conn });
    }

    pub(crate) fn received(&mut self, now: Time, conn: ConnId, bytes: &[u8]) {
        let Some(peer) = self.conns.get(&conn).copied() else { return };
        let Some(ours) = self.ours(peer) else { return };
        if let Some(c) = self.neighbors.get_mut(&peer).and_then(|n| n.conn(conn)) {
            if c.state == SessionState::Connect {
                return;
            }
            c.receive(bytes);
        }
        // Each message may end this connection or another one of the neighbour.
        while let Some(c) = self.neighbors.get_mut(&peer).and_then(|n| n.conn(conn)) {
            match c.step(now, &ours) {
                Ok(None) => break,
                Ok(Some(signal)) => self.signal(now, peer, conn, signal),
                Err(end) => self.end(now, conn, end),
            }
        }
    }

    fn signal(&mut self, now: Time, peer: IpAddr, conn: ConnId, signal: Signal) {
        match signal {
            Signal::Opened => {
                if self.resolve_collision(peer, conn)
                    && let Some(c) = self.neighbors.get_mut(&peer).and_then(|n| n.conn(conn))
                {
                    c.confirm(now);
                }
            }
            Signal::Established => self.established(now, peer, conn),
            Signal::Update(update) => self.update(now, peer, update),
            Signal::Refresh(family) => self.refresh(now, peer, family),
            Signal::Nothing => {}
        }
    }

    /// RFC 4271 section 6.8, on the receipt of an OPEN. Returns whether the connection goes on.
    fn resolve_collision(&mut self, peer: IpAddr, conn: ConnId) -> bool {
        let Some(own) = self.global.as_ref().map(|g| g.router_id) else { return false };
        let Some(neighbor) = self.neighbors.get_mut(&peer) else { return false };
        let theirs = neighbor.conn(conn).and_then(|c| c.open.as_ref()).map(|o| o.router_id);
        let rival = neighbor.conns.iter().find(|c| c.id != conn && c.state >= SessionState::OpenConfirm);
        let (Some(theirs), Some(rival)) = (theirs, rival) else { return true };
        let (rival_id, rival_state) = (rival.id, rival.state);
        // The connection that the side with the higher identifier dialed is kept.
        let keep_ours = own > theirs;
        let kept = matches!(conn, ConnId::Out(_)) == keep_ours;
        let wins = rival_state != SessionState::Established && kept;
        let loser = if wins { rival_id } else { conn };
        self.close(loser, Some(Notification::new(code::CEASE, cease::COLLISION)));
        wins
    }

    fn established(&mut self, now: Time, peer: IpAddr, conn: ConnId) {
        let Some(own_asn) = self.global.as_ref().map(|g| g.asn) else { return };
        let Some(neighbor) = self.neighbors.get_mut(&peer) else { return };
        let offered = neighbor.settings.families();
        let Some(c) = neighbor.conn(conn) else { return };
        let (Some(open), Some(local)) = (&c.open, c.local) else { return };
        let session = Session {
            conn,
            asn: open.asn(),
            ebgp: open.asn() != own_asn,
            router_id: open.router_id,
            families: c.families(offered),
            context: c.context(),
            hold_s: c.hold_s,
            local,
            end_of_rib_due: true,
        };
        let asn = session.asn;
        neighbor.session = Some(session);
        neighbor.since = Some(now);
        neighbor.retry_at = None;
        neighbor.told = None;
        neighbor.forget_attempts();
        let dials: Vec<ConnId> =
            neighbor.conns.iter().filter(|c| c.state == SessionState::Connect).map(|c| c.id).collect();
        for dial in dials {
            self.close(dial, None);
        }
        self.outputs.push_back(Output::Event(Event::Established { peer, asn }));
        self.offer_everything(peer);
    }

    /// Closes a connection that is not (yet) the session, and forgets it.
    fn close(&mut self, conn: ConnId, notification: Option<Notification>) {
        let Some(peer) = self.conns.remove(&conn) else { return };
        if let Some(neighbor) = self.neighbors.get_mut(&peer)
            && let Some(at) = neighbor.conns.iter().position(|c| c.id == conn)
        {
            let mut c = neighbor.conns.remove(at);
            if let Some(n) = notification.filter(|_| c.state != SessionState::Connect)
                && let Ok(bytes) = Message::Notification(n).encode(PLAIN)
            {
                c.tx.extend(bytes);
            }
            if !c.tx.is_empty() {
                self.outputs.push_back(Output::Send { conn, bytes: c.tx });
            }
        }
        self.outputs.push_back(Output::Close { conn });
    }

    /// The driver says that a connection is over.
    pub(crate) fn gone(&mut self, now: Time, conn: ConnId, reason: &str) {
        let Some(peer) = self.conns.get(&conn).copied() else { return };
        // There is nothing left to close or to write to.
        self.conns.remove(&conn);
        if let Some(neighbor) = self.neighbors.get_mut(&peer) {
            neighbor.conns.retain(|c| c.id != conn);
        }
        self.ended(now, peer, conn, reason);
    }

    /// Ends a connection of a neighbour, and the session if it is the session's.
    pub(crate) fn end(&mut self, now: Time, conn: ConnId, end: End) {
        let Some(peer) = self.conns.get(&conn).copied() else { return };
        self.close(conn, end.notification);
        self.ended(now, peer, conn, &end.reason);
    }

    /// What the end of a connection means for the neighbour.
    fn ended(&mut self, now: Time, peer: IpAddr, conn: ConnId, reason: &str) {
        let Some(neighbor) = self.neighbors.get_mut(&peer) else { return };
        let reason = reason.to_string();
        let was_up = neighbor.session.as_ref().is_some_and(|s| s.conn == conn);
        if was_up || (neighbor.session.is_none() && neighbor.conns.is_empty()) {
            neighbor.last_error = Some(reason.clone());
        }
        if was_up {
            neighbor.session = None;
            neighbor.since = Some(now);
            self.outputs.push_back(Output::Event(Event::Down { peer, reason }));
            self.forget_routes(peer);
        } else if neighbor.session.is_none() && neighbor.conns.is_empty() && neighbor.told.as_ref() != Some(&reason) {
            neighbor.told = Some(reason.clone());
            self.outputs.push_back(Output::Event(Event::Failed { peer, reason }));
        }
        let Some(neighbor) = self.neighbors.get_mut(&peer) else { return };
        if !neighbor.conns.is_empty() {
            return;
        }
        if neighbor.is_dynamic() {
            self.neighbors.remove(&peer);
        } else if !self.shut_down && self.global.is_some() {
            neighbor.plan_retry(now, &mut self.rng);
        }
    }

    /// Ends everything with a neighbour because we were told to.
    pub(crate) fn cease(&mut self, now: Time, peer: IpAddr, subcode: u8) {
        let Some(neighbor) = self.neighbors.get_mut(&peer) else { return };
        let end = End::from(Notification::new(code::CEASE, subcode));
        // It is our own wish, so only the end of a session that was up is worth an event.
        neighbor.told = Some(end.reason.clone());
        let conns: Vec<ConnId> = neighbor.conns.iter().map(|c| c.id).collect();
        for conn in conns {
            self.end(now, conn, end.clone());
        }
    }

    pub(crate) fn reset_peer(&mut self, now: Time, peer: IpAddr) {
        self.cease(now, peer, cease::RESET);
    }

    pub(crate) fn shut_down(&mut self, now: Time) {
        self.shut_down = true;
        let peers: Vec<IpAddr> = self.neighbors.keys().copied().collect();
        for peer in peers {
            self.cease(now, peer, cease::SHUTDOWN);
            if let Some(neighbor) = self.neighbors.get_mut(&peer) {
                neighbor.retry_at = None;
            }
        }
    }
}
