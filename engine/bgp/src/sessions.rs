//! Connections of neighbours: dialing, accepting, collisions, and how sessions begin and end.

use alloc::collections::BTreeSet;
use alloc::string::ToString;
use alloc::vec::Vec;
use core::net::{IpAddr, SocketAddr};

use fairway_desired::bgp::{self, Direction, Distance, Families};
use ipnet::IpNet;

use crate::conn::{Cause, Conn, End, Ours, Signal};
use crate::neighbor::{Neighbor, Session, Settings};
use crate::speaker::Speaker;
use crate::wire::{Context, FAMILIES, Message, Notification, cease, code};
use crate::{ConnId, Event, Output, SessionState, Time};

/// Before an OPEN was seen.
const PLAIN: Context =
    Context { four_octet_as: false, extended_messages: false, add_path: NO_FAMILIES, external: false };
const NO_FAMILIES: Families = Families { v4: false, v6: false };

impl Speaker {
    fn ours(&self, now: Time, peer: IpAddr) -> Option<Ours> {
        Some(self.neighbors.get(&peer)?.settings.ours(self.global.as_ref()?, self.since(now, peer)))
    }

    /// A neighbour, to change it: afterwards its timers are looked at, and what it is to be sent leaves.
    pub(crate) fn touch(&mut self, peer: IpAddr) -> Option<&mut Neighbor> {
        self.touched.insert(peer);
        self.neighbors.get_mut(&peer)
    }

    /// A neighbour is no more.
    pub(crate) fn forget_neighbor(&mut self, peer: IpAddr) {
        self.touched.insert(peer);
        for family in FAMILIES {
            self.forget_family(peer, family);
        }
        if let Some(neighbor) = self.neighbors.remove(&peer) {
            self.table.remove_source(neighbor.source);
        }
    }

    pub(crate) fn add_neighbor(&mut self, peer: IpAddr, settings: Settings) -> &mut Neighbor {
        self.touched.insert(peer);
        let source = self.table.add_source(peer);
        self.neighbors.entry(peer).or_insert_with(|| Neighbor::new(settings, source))
    }

    /// Dials every neighbour whose time has come, and lets timers expire.
    pub(crate) fn run_timers(&mut self, now: Time) {
        if self.restarting.is_some_and(|r| r.until.is_some_and(|until| until <= now)) {
            self.finish_restart(now);
        }
        loop {
            let due = self.due(now);
            if due.is_empty() {
                return;
            }
            for peer in due {
                self.wake(now, peer);
            }
        }
    }

    /// Does what a neighbour's timers ask for.
    fn wake(&mut self, now: Time, peer: IpAddr) {
        let Some(neighbor) = self.touch(peer) else { return };
        let ended: Vec<(ConnId, End)> =
            neighbor.conns.iter_mut().filter_map(|c| c.tick(now).err().map(|end| (c.id, end))).collect();
        for (conn, end) in ended {
            self.end(now, conn, end);
        }
        self.expire_retained(now, peer);
        let may_dial = !self.shut_down && self.global.is_some();
        let Some(neighbor) = self.touch(peer) else { return };
        if neighbor.locked.flatten().is_some_and(|at| at <= now) {
            neighbor.locked = None;
            neighbor.retry_at = (may_dial && neighbor.dials()).then_some(now);
        }
        if neighbor.conns.is_empty() && neighbor.retry_at.is_some_and(|at| at <= now) {
            self.dial(now, peer);
        }
        self.tidy_dynamic(peer);
    }

    /// A dynamic neighbour goes with its last connection, and the last route that is kept of it.
    fn tidy_dynamic(&mut self, peer: IpAddr) {
        let gone = self.neighbors.get(&peer).is_some_and(|n| {
            n.is_dynamic()
                && n.conns.is_empty()
                && n.retained.iter().all(Option::is_none)
                && n.locked.is_none()
                && !n.disabled
        });
        if gone {
            self.forget_neighbor(peer);
        }
    }

    fn dial(&mut self, now: Time, peer: IpAddr) {
        let Some(own_asn) = self.global.as_ref().map(|g| g.asn) else { return };
        let conn = ConnId::Out(self.next_out);
        self.next_out += 1;
        let Some(neighbor) = self.touch(peer) else { return };
        let Settings::Peer(settings) = &neighbor.settings else { return };
        let (ttl, min_ttl) = ttls(&settings.session, settings.asn != own_asn);
        let connect = Output::Connect {
            conn,
            local: settings.local,
            remote: SocketAddr::new(peer, settings.port),
            password: settings.password.clone(),
            ttl,
            min_ttl,
        };
        neighbor.retry_at = None;
        neighbor.conns.push(Conn::dialing(conn, now));
        self.outputs.push_back(connect);
        self.conns.insert(conn, peer);
    }

    pub(crate) fn connected(&mut self, now: Time, conn: ConnId, local: IpAddr) {
        let Some(peer) = self.conns.get(&conn).copied() else {
            // The dial was given up while it succeeded. Nobody shall wait at its other end.
            return self.outputs.push_back(Output::Close { conn });
        };
        let Some(ours) = self.ours(now, peer) else { return };
        if let Some(conn) = self.touch(peer).and_then(|n| n.conn(conn))
            && conn.state == SessionState::Connect
        {
            conn.connected(now, local, &ours);
        }
    }

    pub(crate) fn accepted(&mut self, now: Time, conn: ConnId, local: IpAddr, remote: IpAddr) {
        if self.conns.contains_key(&conn) {
            return;
        }
        let here = self.global.as_ref().is_some_and(|g| g.listen.is_empty() || g.listen.contains(&local));
        if self.shut_down || !here {
            return self.refuse(conn, cease::REJECTED);
        }
        if !self.neighbors.contains_key(&remote) {
            let range = self.dynamics.covering(IpNet::from(remote)).next();
            let Some(settings) = range.map(|(_, d)| Settings::Dynamic(d.clone())) else {
                self.outputs.push_back(Output::Event(Event::Rejected { source: remote }));
                return self.refuse(conn, cease::REJECTED);
            };
            self.add_neighbor(remote, settings);
        }
        let Some(ours) = self.ours(now, remote) else { return };
        let own_asn = self.global.as_ref().map_or(0, |g| g.asn);
        let Some(neighbor) = self.touch(remote) else { return };
        if neighbor.disabled || neighbor.locked.is_some() {
            return self.refuse(conn, cease::REJECTED);
        }
        let external = !(ours.asns.len() == 1 && ours.asns.contains(&own_asn));
        let (ttl, min_ttl) = ttls(&ours.session, external);
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
        if ttl.is_some() || min_ttl.is_some() {
            self.outputs.push_back(Output::Limit { conn, ttl, min_ttl });
        }
        if let Some(stale) = stale {
            self.close(stale, Some(Notification::new(code::CEASE, cease::COLLISION)));
        }
    }

    /// Answers somebody whom we do not talk to.
    fn refuse(&mut self, conn: ConnId, subcode: u8) {
        if let Ok(bytes) = Message::Notification(Notification::new(code::CEASE, subcode)).encode(PLAIN) {
            self.outputs.push_back(Output::Send { conn, bytes: bytes.into() });
        }
        self.outputs.push_back(Output::Close { conn });
    }

    pub(crate) fn received(&mut self, now: Time, conn: ConnId, bytes: Vec<u8>) {
        let Some(peer) = self.conns.get(&conn).copied() else { return };
        let Some(ours) = self.ours(now, peer) else { return };
        if let Some(c) = self.touch(peer).and_then(|n| n.conn(conn)) {
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
            Signal::Update(update) => self.update(now, peer, *update),
            Signal::Refresh(family, 0) => self.refresh(peer, family),
            // RFC 7313 section 4.2: what is not sent between the marks is gone.
            Signal::Refresh(family, 1) => {
                if let Some(source) = self.neighbors.get(&peer).map(|n| n.source) {
                    self.table.age(source, family);
                }
            }
            Signal::Refresh(family, _) => self.sweep(peer, family),
            Signal::Nothing => {}
        }
    }

    /// RFC 4271 section 6.8, on the receipt of an OPEN. Returns whether the connection goes on.
    fn resolve_collision(&mut self, peer: IpAddr, conn: ConnId) -> bool {
        // RFC 6286 section 2.3: the AS decides between equal identifiers.
        let Some(own) = self.global.as_ref().map(|g| (g.router_id, g.asn)) else { return false };
        let Some(neighbor) = self.neighbors.get_mut(&peer) else { return false };
        let theirs = neighbor.conn(conn).and_then(|c| c.open.as_ref()).map(|o| (o.router_id, o.asn()));
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
        let (Some(own_asn), Some(ours)) = (self.global.as_ref().map(|g| g.asn), self.ours(now, peer)) else { return };
        let import = self.policies.about(Direction::Import, peer);
        let Some(neighbor) = self.touch(peer) else { return };
        let client = neighbor.settings.session().reflector_client;
        let defer_s = neighbor.settings.session().graceful_restart.map(|g| g.defer_s);
        let Some(c) = neighbor.conn(conn) else { return };
        let (Some(open), Some(local)) = (&c.open, c.local) else { return };
        let negotiated = ours.negotiate(open);
        let session = Session {
            conn,
            asn: open.asn(),
            own_asn: ours.asn,
            // With another AS shown than our own, the neighbour is external whatever it is.
            ebgp: open.asn() != ours.asn || ours.asn != own_asn,
            router_id: open.router_id,
            families: negotiated.families,
            tx: negotiated.tx,
            receives_paths: negotiated.rx.add_path,
            hold_s: c.hold_s,
            local,
            extended_next_hop: negotiated.extended_next_hop,
            enhanced_refresh: negotiated.enhanced_refresh,
            restart: negotiated.restart,
            synced: Families::default(),
            end_of_rib_due: Families::default(),
            group: 0,
            import,
            warned: Families::default(),
            discarded: BTreeSet::new(),
        };
        let asn = session.asn;
        let source = neighbor.source;
        neighbor.session = Some(session.clone());
        neighbor.since = Some(now);
        neighbor.established += 1;
        neighbor.retry_at = None;
        neighbor.told = None;
        neighbor.forget_attempts();
        let dials: Vec<ConnId> =
            neighbor.conns.iter().filter(|c| c.state == SessionState::Connect).map(|c| c.id).collect();
        for dial in dials {
            self.close(dial, None);
        }
        self.outputs.push_back(Output::Event(Event::Established { peer, asn }));
        self.describe_source(source, &session, client);
        if let Some(restarting) = &mut self.restarting
            && let Some(defer_s) = defer_s
            && restarting.until.is_none()
        {
            restarting.until = Some(now + Time::from_secs(u64::from(defer_s)));
        }
        if session.restart.is_some() {
            self.met.insert(peer);
        }
        self.welcome_back(now, peer);
        self.join(peer);
        // It may be the last that was waited for, and have nothing to say.
        self.finish_restart(now);
    }

    /// Closes a connection that is not (yet) the session, and forgets it.
    fn close(&mut self, conn: ConnId, notification: Option<Notification>) {
        let Some(peer) = self.conns.remove(&conn) else { return };
        if let Some(neighbor) = self.touch(peer)
            && let Some(at) = neighbor.conns.iter().position(|c| c.id == conn)
        {
            let mut c = neighbor.conns.remove(at);
            if let Some(n) = notification.filter(|_| c.state != SessionState::Connect)
                && let Ok(bytes) = Message::Notification(n).encode(PLAIN)
            {
                c.tx.extend(bytes);
            }
            self.outputs.extend(c.take().into_iter().map(|bytes| Output::Send { conn, bytes }));
        }
        self.outputs.push_back(Output::Close { conn });
    }

    /// The driver says that a connection is over.
    pub(crate) fn gone(&mut self, now: Time, conn: ConnId, reason: &str) {
        let Some(peer) = self.conns.get(&conn).copied() else { return };
        // There is nothing left to close or to write to.
        self.conns.remove(&conn);
        if let Some(neighbor) = self.touch(peer) {
            neighbor.conns.retain(|c| c.id != conn);
        }
        self.ended(now, peer, conn, reason, Cause::Lost);
    }

    /// Ends a connection of a neighbour, and the session if it is the session's.
    pub(crate) fn end(&mut self, now: Time, conn: ConnId, mut end: End) {
        let Some(peer) = self.conns.get(&conn).copied() else { return };
        let restart = self.neighbors.get(&peer).and_then(|n| n.session.as_ref()).filter(|s| s.conn == conn);
        // RFC 8538 section 3.1: without this the neighbour would keep our routes.
        if end.cause == Cause::Wish && restart.is_some_and(|s| s.restart.is_some_and(|r| r.notification)) {
            end.notification = end.notification.map(|n| Notification::hard_reset(&n));
        }
        self.close(conn, end.notification);
        self.ended(now, peer, conn, &end.reason, end.cause);
    }

    /// What the end of a connection means for the neighbour.
    fn ended(&mut self, now: Time, peer: IpAddr, conn: ConnId, reason: &str, cause: Cause) {
        let Some(neighbor) = self.touch(peer) else { return };
        let reason = reason.to_string();
        let session = neighbor.session.take_if(|s| s.conn == conn);
        if session.is_some() || (neighbor.session.is_none() && neighbor.conns.is_empty()) {
            neighbor.last_error = Some(reason.clone());
        }
        if let Some(session) = session {
            let source = neighbor.source;
            neighbor.since = Some(now);
            self.outputs.push_back(Output::Event(Event::Down { peer, reason }));
            self.leave(source, session.group);
            self.retain_routes(now, peer, &session, cause);
        } else if neighbor.session.is_none() && neighbor.conns.is_empty() && neighbor.told.as_ref() != Some(&reason) {
            neighbor.told = Some(reason.clone());
            self.outputs.push_back(Output::Event(Event::Failed { peer, reason }));
        }
        let may_dial = !self.shut_down && self.global.is_some();
        let Some(neighbor) = self.neighbors.get_mut(&peer) else { return };
        if neighbor.conns.is_empty() {
            if neighbor.is_dynamic() {
                self.tidy_dynamic(peer);
            } else if may_dial && neighbor.dials() {
                neighbor.plan_retry(now, &mut self.rng);
            }
        }
        // Perhaps only this neighbour was still waited for.
        self.finish_restart(now);
    }

    /// Ends everything with a neighbour because we were told to.
    pub(crate) fn cease(&mut self, now: Time, peer: IpAddr, notification: &Notification) {
        let Some(neighbor) = self.touch(peer) else { return };
        let end = End::wish(notification.clone());
        // It is our own wish, so only the end of a session that was up is worth an event.
        neighbor.told = Some(end.reason.clone());
        let conns: Vec<ConnId> = neighbor.conns.iter().map(|c| c.id).collect();
        for conn in conns {
            self.end(now, conn, end.clone());
        }
        for family in FAMILIES {
            self.forget_family(peer, family);
        }
        self.tidy_dynamic(peer);
    }

    pub(crate) fn reset_peer(&mut self, now: Time, peer: IpAddr, message: &str) {
        let may_dial = !self.shut_down && self.global.is_some();
        if let Some(neighbor) = self.touch(peer)
            && neighbor.locked.take().is_some()
        {
            neighbor.retry_at = (may_dial && neighbor.dials()).then_some(now);
        }
        self.cease(now, peer, &Notification::administrative(cease::RESET, message));
    }

    pub(crate) fn enable_peer(&mut self, now: Time, peer: IpAddr, enabled: bool, message: &str) {
        let may_dial = !self.shut_down && self.global.is_some();
        let Some(neighbor) = self.touch(peer) else { return };
        if neighbor.disabled != enabled {
            return;
        }
        neighbor.disabled = !enabled;
        if enabled {
            neighbor.retry_at = (may_dial && neighbor.dials()).then_some(now);
            self.tidy_dynamic(peer);
        } else {
            neighbor.retry_at = None;
            self.cease(now, peer, &Notification::administrative(cease::SHUTDOWN, message));
        }
    }

    pub(crate) fn bfd_down(&mut self, now: Time, peer: IpAddr) {
        let session = self.neighbors.get(&peer).and_then(|n| n.session.as_ref()).map(|s| s.conn);
        if let Some(conn) = session {
            self.end(now, conn, End::wish(Notification::new(code::CEASE, cease::BFD_DOWN)));
        }
    }

    pub(crate) fn shut_down(&mut self, now: Time, message: &str) {
        self.shut_down = true;
        let peers: Vec<IpAddr> = self.neighbors.keys().copied().collect();
        for peer in peers {
            self.cease(now, peer, &Notification::administrative(cease::SHUTDOWN, message));
            if let Some(neighbor) = self.touch(peer) {
                neighbor.retry_at = None;
            }
        }
    }

    /// Goes away for a moment: who knows graceful restart sees nothing but a lost connection.
    pub(crate) fn go_away(&mut self, now: Time) {
        self.shut_down = true;
        let peers: Vec<IpAddr> = self.neighbors.keys().copied().collect();
        for peer in peers {
            let Some(neighbor) = self.touch(peer) else { continue };
            neighbor.retry_at = None;
            if let Some(session) = neighbor.session.as_ref().filter(|s| s.restart.is_some()) {
                let conn = session.conn;
                self.end(now, conn, End::silent("restarting", Cause::Lost));
            } else {
                self.cease(now, peer, &Notification::new(code::CEASE, cease::SHUTDOWN));
            }
        }
    }
}

/// TTL of our packets, and the lowest of theirs.
fn ttls(session: &bgp::Session, external: bool) -> (Option<u8>, Option<u8>) {
    match session.distance {
        // RFC 5082 section 3
        Distance::Security(hops) => (Some(255), Some(255 - hops.saturating_sub(1))),
        Distance::Multihop(ttl) if external => (Some(ttl), None),
        // RFC 4271 leaves it open; one hop is what directly connected external neighbours use everywhere.
        Distance::Default if external => (Some(1), None),
        Distance::Default | Distance::Multihop(_) => (None, None),
    }
}
