//! What the kernel says unasked: interfaces, and changes of ours that others made.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use fairway_desired::{
    Fault, Interface, KernelEvent, LOCAL_TABLE, MAIN_TABLE, PROTO_KUBE_ROUTER, PlaneId, RouteKind, Tunnel,
};
use fairway_netlink::{Heard, Listener, Protocol, Socket, flags};
use ipnet::IpNet;
use netlink_packet_core::Parseable;
use netlink_packet_route::AddressFamily;
use netlink_packet_route::address::AddressMessage;
use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkMessage};

use crate::backend::{BRIDGE, DUMMY, OpenError, RouteBackend, fault};
use crate::link::Links;
use crate::wire::errno::ENOBUFS;
use crate::wire::{kind, message};
use crate::{addr, route, rule};

/// `RTNLGRP_*`: links, addresses, routes and rules of both families.
const GROUPS: [u32; 7] = [1, 5, 7, 8, 9, 11, 19];

/// Whose changes are our own.
#[derive(Debug, Default)]
pub(crate) struct Writer {
    /// The port of the socket that writes.
    port: AtomicU32,
    /// IPv6 addresses that are being deleted: of those the kernel does not say who did it.
    deleting: Mutex<BTreeSet<IpNet>>,
    /// Nor of interfaces, by index.
    removing: Mutex<BTreeSet<u32>>,
}

impl Writer {
    /// Another socket writes from now on.
    pub(crate) fn is(&self, socket: &Socket) {
        self.port.store(socket.port(), Ordering::Relaxed);
    }

    fn deleting(&self) -> std::sync::MutexGuard<'_, BTreeSet<IpNet>> {
        self.deleting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn removing(&self) -> std::sync::MutexGuard<'_, BTreeSet<u32>> {
        self.removing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An interface is about to be deleted, or was not.
    pub(crate) fn removes(&self, index: u32, removes: bool) {
        let mut removing = self.removing();
        if removes {
            removing.insert(index);
        } else {
            removing.remove(&index);
        }
    }

    /// An IPv6 address on `kube-dummy-if` is about to be deleted, or was not.
    pub(crate) fn deletes(&self, address: IpNet, deletes: bool) {
        let mut deleting = self.deleting();
        if deletes {
            deleting.insert(address);
        } else {
            deleting.remove(&address);
        }
    }
}

/// An interface as heard.
#[derive(Debug, Default)]
struct State {
    name: Arc<str>,
    up: bool,
    carrier: bool,
    mtu: u32,
    /// Own address, and what is on the link because of it.
    addresses: BTreeSet<(IpAddr, IpNet)>,
}

/// Hears what changes in one network namespace, that of the thread that opens it.
///
/// The changes that the backend made itself come back as well; they are told apart by the socket that made them, so
/// they cost their reading and nothing more. What the kernel drops by itself together with an interface is told with
/// the interface. IPVS, the filter and kernel parameters are not heard of here.
///
/// Start with [`Monitor::read`]: the first call tells all interfaces. It becomes readable ([`AsFd`]) when there is more.
#[derive(Debug)]
pub struct Monitor {
    listener: Listener,
    /// To read everything.
    socket: Socket,
    writer: Arc<Writer>,
    links: Links,
    states: BTreeMap<u32, State>,
    told: BTreeMap<Arc<str>, Interface>,
    /// Whether our interface is there and up.
    dummy_up: bool,
    /// Tunnels of ours that were set down, and may be about to be deleted by us.
    fallen: BTreeMap<u32, Arc<str>>,
    /// What was heard is not all there was.
    lost: bool,
}

impl AsFd for Monitor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }
}

impl AsRawFd for Monitor {
    fn as_raw_fd(&self) -> RawFd {
        self.listener.as_raw_fd()
    }
}

/// Events of one call, in order, each once in a row.
#[derive(Default)]
struct Events(Vec<KernelEvent>);

impl Events {
    fn push(&mut self, event: KernelEvent) {
        if !matches!(event, KernelEvent::Changed(_)) || !self.0.contains(&event) {
            self.0.push(event);
        }
    }
}

impl Monitor {
    /// Starts to listen.
    ///
    /// # Errors
    /// If the system gives no socket.
    pub fn open(backend: &RouteBackend) -> Result<Monitor, OpenError> {
        Ok(Monitor {
            listener: Listener::open(Protocol::Route, &GROUPS)?,
            socket: Socket::open(Protocol::Route)?,
            writer: Arc::clone(&backend.writer),
            links: Links::default(),
            states: BTreeMap::new(),
            told: BTreeMap::new(),
            dummy_up: false,
            fallen: BTreeMap::new(),
            lost: true,
        })
    }

    /// What happened since the last call, without waiting, of at most so many datagrams; and whether there may be more.
    /// After an overrun everything is read again.
    ///
    /// # Errors
    /// A [`Fault`] if it could not be read; to be called again after a while.
    pub fn read(&mut self, most: usize) -> Result<(Vec<KernelEvent>, bool), Fault> {
        let mut events = Events::default();
        if self.lost {
            self.read_all(&mut events)?;
        }
        for _ in 0..most {
            let Monitor { listener, writer, links, states, told, dummy_up, fallen, .. } = self;
            let mut ear = Ear { writer, links, states, told, dummy_up, fallen, events: &mut events };
            match listener.hear(|heard| ear.hear(heard)) {
                Ok(true) => {}
                Ok(false) => {
                    if !std::mem::take(&mut self.fallen).is_empty() {
                        events.push(KernelEvent::Changed(PlaneId::Link));
                    }
                    return Ok((events.0, false));
                }
                // Told later, by reading it all.
                Err(_) => {
                    self.lost = true;
                    self.read_all(&mut events)?;
                }
            }
        }
        Ok((events.0, true))
    }

    /// Reads all interfaces; of everything else nothing is known.
    fn read_all(&mut self, events: &mut Events) -> Result<(), Fault> {
        let first = self.states.is_empty();
        // What waits is older than what is read now, and what comes in the meantime waits.
        loop {
            match self.listener.hear(|_| {}) {
                Ok(false) => break,
                Err(error) if error.raw_os_error() != Some(ENOBUFS) => return Err(Fault::Lost),
                Ok(true) | Err(_) => {}
            }
        }
        let mut heard: Vec<(u16, Vec<u8>)> = vec![];
        let links = message(kind::GET_LINK, flags::DUMP, &LinkMessage::default());
        let addresses = message(kind::GET_ADDR, flags::DUMP, &AddressMessage::default());
        for request in [links, addresses] {
            let mut part = vec![];
            let each = |part: &mut Vec<_>, kind, payload: &[u8]| part.push((kind, payload.to_vec()));
            self.socket.dump(&request, &mut part, Vec::clear, each).map_err(|error| fault(&error))?;
            heard.append(&mut part);
        }
        self.links = Links::default();
        self.states.clear();
        self.fallen.clear();
        self.writer.removing().clear();
        let Monitor { writer, links, states, told, dummy_up, fallen, .. } = self;
        // What changed is told at once, below.
        let mut single = Events::default();
        let mut ear = Ear { writer, links, states, told, dummy_up, fallen, events: &mut single };
        for (kind, payload) in &heard {
            ear.hear(Heard { kind: *kind, flags: 0, port: 0, payload });
        }
        let names: BTreeSet<Arc<str>> = self.states.values().map(|state| state.name.clone()).collect();
        self.told.retain(|name, _| names.contains(name));
        events.push(KernelEvent::Interfaces(self.told.clone()));
        if !first {
            events.push(KernelEvent::Changed(PlaneId::Link));
            events.push(KernelEvent::Changed(PlaneId::Rule));
        }
        self.lost = false;
        Ok(())
    }
}

/// Takes messages one by one.
struct Ear<'a> {
    writer: &'a Writer,
    links: &'a mut Links,
    states: &'a mut BTreeMap<u32, State>,
    told: &'a mut BTreeMap<Arc<str>, Interface>,
    dummy_up: &'a mut bool,
    fallen: &'a mut BTreeMap<u32, Arc<str>>,
    events: &'a mut Events,
}

impl Ear<'_> {
    fn hear(&mut self, heard: Heard<'_>) {
        match heard.kind {
            kind::NEW_LINK | kind::DEL_LINK => self.link(heard),
            kind::NEW_ADDR | kind::DEL_ADDR => self.address(heard),
            kind::NEW_ROUTE | kind::DEL_ROUTE => self.route(heard),
            kind::NEW_RULE | kind::DEL_RULE if !self.is_own(heard) && rule::is_ours(heard.payload) => {
                self.events.push(KernelEvent::Changed(PlaneId::Rule));
            }
            _ => {}
        }
    }

    fn is_own(&self, heard: Heard<'_>) -> bool {
        heard.port != 0 && heard.port == self.writer.port.load(Ordering::Relaxed)
    }

    fn link(&mut self, heard: Heard<'_>) {
        let Ok(message) = LinkMessage::parse(heard.payload) else { return };
        // A bridge tells of its ports in the same words: that a port leaves it, for instance.
        if message.header.interface_family == AddressFamily::Bridge {
            return;
        }
        let index = message.header.index;
        let bridge = |ear: &Self| {
            let state = ear.states.get(&index).filter(|state| *state.name == *BRIDGE);
            state.map(|state| (state.up, state.mtu))
        };
        let bridge_was = bridge(self);
        let old = self.states.get(&index).map(|state| state.name.clone());
        // A tunnel of ours that somebody sets down or deletes takes its routes with it. What one is made by is found when
        // the plane is read.
        if heard.kind != kind::DEL_LINK
            && !message.header.flags.contains(LinkFlags::Up)
            && let Some(state) = self.states.get(&index).filter(|state| state.up && Tunnel::may_be(&state.name))
        {
            self.fallen.insert(index, state.name.clone());
        }
        if heard.kind == kind::DEL_LINK {
            // Before a deletion the kernel sets it down.
            let fallen = self.fallen.remove(&index);
            let up = old.clone().filter(|_| self.states.get(&index).is_some_and(|state| state.up));
            let ours = self.writer.removing().remove(&index);
            if !ours && fallen.or(up).is_some_and(|name| Tunnel::may_be(&name)) {
                self.events.push(KernelEvent::Changed(PlaneId::Link));
            }
        }
        if heard.kind == kind::DEL_LINK {
            self.states.remove(&index);
            self.links.remove(index);
        } else {
            let name = message.attributes.iter().find_map(|attribute| match attribute {
                LinkAttribute::IfName(name) => Some(Arc::from(name.as_str())),
                _ => None,
            });
            let state = self.states.entry(index).or_default();
            if let Some(name) = name {
                state.name = name;
            }
            if let Some(mtu) = message.attributes.iter().find_map(|attribute| match attribute {
                LinkAttribute::Mtu(mtu) => Some(*mtu),
                _ => None,
            }) {
                state.mtu = mtu;
            }
            state.up = message.header.flags.contains(LinkFlags::Up);
            state.carrier = state.up && message.header.flags.contains(LinkFlags::LowerUp);
            self.links.insert(index, &state.name);
        }
        // Its first appearance may well be our own work.
        if bridge_was.is_some() && bridge_was != bridge(self) && !self.is_own(heard) {
            self.events.push(KernelEvent::Changed(PlaneId::Link));
        }
        if let Some(old) = old.filter(|old| self.states.get(&index).is_none_or(|state| state.name != *old)) {
            self.tell(old, None);
        }
        self.review(index);
    }

    fn address(&mut self, heard: Heard<'_>) {
        let Some((index, own, on_link)) = addr::heard(heard.payload) else { return };
        let deleted = heard.kind == kind::DEL_ADDR;
        if self.states.get(&index).is_some_and(|state| *state.name == *DUMMY) {
            let net = IpNet::new_assert(own, on_link.prefix_len());
            // IPv6 does not say who did it. Additions by others are found when the plane is read.
            let silent = heard.port == 0;
            let ours = self.is_own(heard) || silent && (!deleted || self.writer.deleting().remove(&net));
            if !ours {
                self.events.push(KernelEvent::Changed(PlaneId::Addr));
            }
            return;
        }
        // Link-local addresses are everywhere and lead nowhere.
        if matches!(own, IpAddr::V6(ip) if ip.is_unicast_link_local()) {
            return;
        }
        let Some(state) = self.states.get_mut(&index) else { return };
        if deleted {
            state.addresses.remove(&(own, on_link));
        } else {
            state.addresses.insert((own, on_link));
        }
        self.review(index);
    }

    /// Tells of an interface if it is another than was told.
    fn review(&mut self, index: u32) {
        let Some(state) = self.states.get(&index) else { return };
        if *state.name == *DUMMY {
            // Its first appearance is our own work.
            if std::mem::replace(self.dummy_up, state.up) && !state.up {
                self.events.push(KernelEvent::Changed(PlaneId::Link));
            }
            return;
        }
        let name = state.name.clone();
        if state.addresses.is_empty() && (state.up || !self.told.contains_key(&name)) {
            return self.tell(name, None);
        }
        let mut on_link: Vec<IpNet> = state.addresses.iter().map(|(_, net)| *net).collect();
        on_link.sort_unstable();
        on_link.dedup();
        let mut addresses: Vec<IpAddr> = state.addresses.iter().map(|(own, _)| *own).collect();
        addresses.dedup();
        let interface = Interface { up: state.up, carrier: state.carrier, mtu: state.mtu, addresses, on_link };
        self.tell(name, Some(interface));
    }

    fn tell(&mut self, name: Arc<str>, interface: Option<Interface>) {
        if *name == *DUMMY {
            if std::mem::take(self.dummy_up) {
                self.events.push(KernelEvent::Changed(PlaneId::Link));
            }
            return;
        }
        if self.told.get(&name) != interface.as_ref() {
            match &interface {
                Some(interface) => drop(self.told.insert(name.clone(), interface.clone())),
                None => drop(self.told.remove(&name)),
            }
            self.events.push(KernelEvent::Interface(name, interface));
        }
    }

    fn route(&mut self, heard: Heard<'_>) {
        if self.is_own(heard) {
            return;
        }
        // Most are of no interest, and there may be very many; so the bytes of `struct rtmsg` decide first.
        let [_, _, _, _, table, protocol, ..] = heard.payload else { return };
        let (table, protocol) = (u32::from(*table), *protocol);
        let deleted = heard.kind == kind::DEL_ROUTE;
        let replaced = heard.flags & flags::REPLACE != 0;
        let by_kernel = heard.port == 0;
        let learned = protocol == PROTO_KUBE_ROUTER;
        let local = table == LOCAL_TABLE && !by_kernel;
        let elsewhere = table == MAIN_TABLE && (deleted || replaced);
        if !(learned || local || elsewhere) {
            return;
        }
        let Some((key, value)) = route::decode(heard.payload, self.links) else { return };
        let through = |state: &State| value.next_hops.iter().any(|hop| hop.dev.as_ref() == Some(&state.name));
        let on_dummy = value.next_hops.iter().any(|hop| hop.dev.as_deref() == Some(DUMMY));
        if learned {
            // With an interface that was set down the kernel drops routes. That is told by the interface.
            let up = self.states.values().any(|state| state.up && through(state));
            if !by_kernel || deleted && up {
                self.events.push(KernelEvent::Changed(PlaneId::Route));
            }
        } else if elsewhere && !on_dummy {
            self.events.push(KernelEvent::Foreign(route::key_as_written(key)));
        } else if local && on_dummy && value.kind == RouteKind::Local {
            self.events.push(KernelEvent::Changed(PlaneId::Route));
        }
    }
}
