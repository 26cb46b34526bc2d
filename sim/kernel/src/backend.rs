//! The kernel as a [`Backend`] of every plane.

use std::sync::Arc;

use fairway_desired::{
    Addr, AddrKey, AddrValue, Backend, Fault, File, Filter, Ipvs, LOCAL_TABLE, Link, LinkKind, LinkValue,
    OVERLAY_TABLE, Op, Outcome, PROTO_KUBE_ROUTER, Plane, PlaneId, Pod, Route, RouteKey, RouteKind, RouteValue, Rule,
    RuleKey, RuleValue, Sysctl, Table, Tunnel, receive_port,
};
use ipnet::IpNet;

use crate::kernel::{BRIDGE, DUMMY, EEXIST, EINVAL, ENODEV, Injected, Kernel, MTUS, Wire};

/// Priorities of our policy routing rules.
const OUR_PRIORITIES: [u32; 2] = [32764, 32765];

impl Kernel {
    /// Takes the first injected failure that concerns this kind of call.
    fn injected(&mut self, plane: PlaneId, observe: bool) -> Option<Injected> {
        let waiting = self.injected.get_mut(&plane)?;
        let concerns = |i: Injected| i == Injected::Lost || (i == Injected::Interrupted) == observe;
        let index = waiting.iter().position(|(i, _)| concerns(*i))?;
        let (injected, times) = waiting.get_mut(index)?;
        let injected = *injected;
        *times -= 1;
        if *times == 0 {
            waiting.remove(index);
        }
        Some(injected)
    }

    fn read<P: Plane>(&mut self, table: impl FnOnce(&Kernel) -> Table<P>) -> Result<Table<P>, Fault> {
        match self.injected(P::ID, true) {
            Some(Injected::Interrupted) => Err(Fault::Interrupted),
            Some(Injected::Lost) => Err(Fault::Lost),
            Some(Injected::Busy) | None => Ok(table(self)),
        }
    }

    fn write<P: Plane>(
        &mut self,
        ops: &[Op<P>],
        mut apply: impl FnMut(&mut Kernel, &[Op<P>]) -> Vec<Outcome>,
    ) -> Result<Vec<Outcome>, Fault> {
        let injected = self.injected(P::ID, false);
        let part = match injected {
            Some(Injected::Busy) => return Ok(vec![Outcome::Busy; ops.len()]),
            // One transaction: it was lost before the kernel saw it.
            Some(Injected::Lost) if P::ID == PlaneId::Filter => 0,
            Some(Injected::Lost) => ops.len() / 2,
            Some(Injected::Interrupted) | None => ops.len(),
        };
        let outcomes = apply(self, &ops[..part]);
        let done = outcomes.iter().filter(|o| **o == Outcome::Done).count() as u64;
        *self.mutations.entry(P::ID).or_default() += done;
        if injected == Some(Injected::Lost) { Err(Fault::Lost) } else { Ok(outcomes) }
    }

    /// The route that an IPv6 address brings itself. Linux keeps it apart from any that is written (metric 0, which
    /// nobody can write), so it is no entry of ours.
    fn brought(key: &RouteKey, value: &RouteValue) -> bool {
        let ip = key.prefix.addr();
        ip.is_ipv6() && key.table == LOCAL_TABLE && value.kind == RouteKind::Local && value.src == Some(ip)
    }

    fn ours(&self, key: &RouteKey, value: &RouteValue) -> bool {
        value.protocol == PROTO_KUBE_ROUTER || local_on_dummy(key, value)
    }

    fn apply_link(&mut self, op: &Op<Link>) -> Outcome {
        let name = op.key();
        if let Op::Put(_, LinkValue { kind: LinkKind::Tunnel(tunnel), .. }) = op
            && (!tunnel.is_possible() || *name != Tunnel::name(tunnel.remote))
        {
            return Outcome::Refused(EINVAL);
        }
        let there = self.links.get(name).map(|link| link.wire.clone());
        let bridge = **name == *BRIDGE;
        if there.as_ref().is_some_and(|wire| !bridge && !our_link(name, wire)) {
            return Outcome::Foreign;
        }
        match op {
            Op::Put(_, LinkValue { kind: LinkKind::ReceivePort { family, port }, .. }) => {
                if *port == 0 || receive_port(*family, *port).0 != *name {
                    return Outcome::Refused(EINVAL);
                }
                self.ports.insert((*family, *port));
                Outcome::Done
            }
            Op::Put(_, LinkValue { kind: LinkKind::Tunnel(tunnel), up, .. }) => self.put_tunnel(name, *tunnel, *up),
            Op::Put(_, value) => {
                let wire = match value.kind {
                    LinkKind::Dummy => Wire::Dummy,
                    // The others are above.
                    _ => Wire::Bridge,
                };
                if name.is_empty() || name.len() > 15 {
                    return Outcome::Refused(EINVAL);
                }
                let other = there.as_ref().is_some_and(|there| *there != wire);
                if other && bridge {
                    return Outcome::Foreign;
                }
                // What is not the right kind goes before anything is refused.
                let refused = value.mtu.is_some_and(|mtu| !MTUS.contains(&mtu));
                if other {
                    self.remove_link(name);
                }
                if refused {
                    // The other requests are carried out.
                    if let Some(link) = self.links.get_mut(name) {
                        link.mtu_free = false;
                        self.set_up(name, value.up);
                    }
                    return Outcome::Refused(EINVAL);
                }
                if !self.links.contains_key(name) {
                    self.add_link(name, wire);
                }
                self.set_up(name, value.up);
                if let Some(link) = self.links.get_mut(name) {
                    link.mtu_free = value.mtu.is_none();
                    link.mtu = value.mtu.unwrap_or(link.mtu);
                }
                Outcome::Done
            }
            Op::Del(_) if bridge && there.is_some() => Outcome::Foreign,
            Op::Del(_) if self.remove_link(name) => Outcome::Done,
            Op::Del(_) => {
                let before = self.ports.len();
                self.ports.retain(|(family, port)| receive_port(*family, *port).0 != *name);
                if self.ports.len() < before { Outcome::Done } else { Outcome::Gone }
            }
        }
    }

    fn put_tunnel(&mut self, name: &Arc<str>, tunnel: Tunnel, up: bool) -> Outcome {
        if let Some(other) = self.tunnel_between(tunnel.local, tunnel.remote).filter(|other| other != name) {
            if !Tunnel::is_ours(&other, tunnel.remote) {
                return Outcome::Refused(EEXIST);
            }
            if self.links.contains_key(name) {
                // Until the other one is deleted.
                return Outcome::Busy;
            }
            self.rename(&other, name);
        }
        match self.links.get_mut(name) {
            Some(link) => link.wire = Wire::PointToPoint(tunnel),
            None => self.add_link(name, Wire::PointToPoint(tunnel)),
        }
        self.set_up(name, up);
        Outcome::Done
    }

    fn apply_addr(&mut self, op: &Op<Addr>) -> Outcome {
        let AddrKey { address, link } = op.key();
        let exists = self.addresses_on(link).any(|a| a == *address);
        if exists && !our_address(link, address) {
            return Outcome::Foreign;
        }
        match op {
            Op::Put(..) if !self.links.contains_key(link) => Outcome::Refused(ENODEV),
            Op::Put(..) if address.addr().is_unspecified() || address.addr().is_multicast() => Outcome::Refused(EINVAL),
            Op::Put(..) => {
                self.add_address(link, *address);
                Outcome::Done
            }
            Op::Del(_) if self.remove_address(link, *address) => Outcome::Done,
            Op::Del(_) => Outcome::Gone,
        }
    }

    fn apply_route(&mut self, op: &Op<Route>) -> Outcome {
        if let Some(there) = self.routes.get(op.key())
            && !self.ours(op.key(), &there.value)
        {
            return Outcome::Foreign;
        }
        match op {
            Op::Put(key, value) => match self.add_route(key.clone(), value.clone()) {
                Ok(()) => Outcome::Done,
                Err(errno) => Outcome::Refused(errno),
            },
            Op::Del(key) if self.unstore(key).is_some() => Outcome::Done,
            Op::Del(_) => Outcome::Gone,
        }
    }

    fn apply_rule(&mut self, op: &Op<Rule>) -> Outcome {
        let key = op.key();
        if self.rules.get(key).is_some_and(|value| !our_rule(key, *value)) {
            return Outcome::Foreign;
        }
        match op {
            Op::Put(_, value) => {
                let fits = |net: &IpNet| fairway_desired::Family::of(net.addr()) == key.family && *net == net.trunc();
                if value.table == 0 || !key.from.iter().chain(&key.to).all(fits) {
                    return Outcome::Refused(EINVAL);
                }
                self.rules.insert(key.clone(), *value);
                Outcome::Done
            }
            Op::Del(_) if self.rules.remove(key).is_some() => Outcome::Done,
            Op::Del(_) => Outcome::Gone,
        }
    }
}

fn local_on_dummy(key: &RouteKey, value: &RouteValue) -> bool {
    let on_dummy = value.next_hops.iter().any(|n| n.dev.as_deref() == Some(DUMMY));
    key.table == LOCAL_TABLE && value.kind == RouteKind::Local && on_dummy
}

fn our_address(link: &str, address: &IpNet) -> bool {
    let link_local = matches!(address.addr(), std::net::IpAddr::V6(ip) if ip.is_unicast_link_local());
    link == DUMMY && !link_local
}

fn our_rule(key: &RuleKey, value: RuleValue) -> bool {
    OUR_PRIORITIES.contains(&key.priority) || value.table == OVERLAY_TABLE
}

fn our_link(name: &str, wire: &Wire) -> bool {
    match wire {
        Wire::PointToPoint(tunnel) => Tunnel::is_ours(name, tunnel.remote),
        _ => name == DUMMY,
    }
}

impl Backend<Sysctl> for Kernel {
    fn observe(&mut self) -> Result<Table<Sysctl>, Fault> {
        self.read::<Sysctl>(|kernel| kernel.sysctls().map(|(path, value)| (path.into(), value)).collect())
    }

    fn apply(&mut self, ops: &[Op<Sysctl>]) -> Result<Vec<Outcome>, Fault> {
        self.write(ops, |kernel, ops| {
            let one = |op: &Op<Sysctl>| match op {
                Op::Put(path, value) => match kernel.set_sysctl(path, *value) {
                    Ok(()) => Outcome::Done,
                    Err(errno) => Outcome::Refused(errno),
                },
                Op::Del(path) if kernel.sysctl(path).is_some() => Outcome::Refused(EINVAL),
                Op::Del(_) => Outcome::Gone,
            };
            ops.iter().map(one).collect()
        })
    }
}

impl Backend<Link> for Kernel {
    fn observe(&mut self) -> Result<Table<Link>, Fault> {
        self.read::<Link>(|kernel| {
            let ours = kernel.links.iter().filter_map(|(name, link)| {
                let kind = match (&**name, &link.wire) {
                    (name, Wire::PointToPoint(tunnel)) if Tunnel::is_ours(name, tunnel.remote) => {
                        LinkKind::Tunnel(*tunnel)
                    }
                    (DUMMY | BRIDGE, Wire::Bridge) => LinkKind::Bridge,
                    (DUMMY, wire) if !matches!(wire, Wire::PointToPoint(_)) => LinkKind::Dummy,
                    _ => return None,
                };
                let value =
                    LinkValue { kind, up: link.up, mtu: (**name == *BRIDGE && !link.mtu_free).then_some(link.mtu) };
                Some((name.clone(), value))
            });
            ours.chain(kernel.ports.iter().map(|(family, port)| receive_port(*family, *port))).collect()
        })
    }

    fn apply(&mut self, ops: &[Op<Link>]) -> Result<Vec<Outcome>, Fault> {
        self.write(ops, |kernel, ops| ops.iter().map(|op| kernel.apply_link(op)).collect())
    }
}

impl Backend<Addr> for Kernel {
    fn observe(&mut self) -> Result<Table<Addr>, Fault> {
        self.read::<Addr>(|kernel| {
            let ours = kernel.addresses.iter().filter(|(link, address)| our_address(link, address));
            ours.map(|(link, address)| (AddrKey { address: *address, link: link.clone() }, AddrValue)).collect()
        })
    }

    fn apply(&mut self, ops: &[Op<Addr>]) -> Result<Vec<Outcome>, Fault> {
        self.write(ops, |kernel, ops| ops.iter().map(|op| kernel.apply_addr(op)).collect())
    }
}

impl Backend<Filter> for Kernel {
    fn observe(&mut self) -> Result<Table<Filter>, Fault> {
        self.read::<Filter>(|kernel| kernel.filter.table())
    }

    fn apply(&mut self, ops: &[Op<Filter>]) -> Result<Vec<Outcome>, Fault> {
        self.write(ops, |kernel, ops| kernel.filter.apply(ops))
    }
}

impl Backend<Rule> for Kernel {
    fn observe(&mut self) -> Result<Table<Rule>, Fault> {
        self.read::<Rule>(|kernel| {
            let ours = kernel.rules.iter().filter(|(key, value)| our_rule(key, **value));
            ours.map(|(key, value)| (key.clone(), *value)).collect()
        })
    }

    fn apply(&mut self, ops: &[Op<Rule>]) -> Result<Vec<Outcome>, Fault> {
        self.write(ops, |kernel, ops| ops.iter().map(|op| kernel.apply_rule(op)).collect())
    }
}

impl Backend<Route> for Kernel {
    fn observe(&mut self) -> Result<Table<Route>, Fault> {
        self.read::<Route>(|kernel| {
            let ours = kernel.routes().filter(|(key, value)| kernel.ours(key, value) && !Kernel::brought(key, value));
            ours.map(|(key, value)| (key.clone(), value.clone())).collect()
        })
    }

    fn apply(&mut self, ops: &[Op<Route>]) -> Result<Vec<Outcome>, Fault> {
        self.write(ops, |kernel, ops| ops.iter().map(|op| kernel.apply_route(op)).collect())
    }
}

impl Backend<Ipvs> for Kernel {
    fn observe(&mut self) -> Result<Table<Ipvs>, Fault> {
        self.read::<Ipvs>(|kernel| kernel.ipvs.table())
    }

    fn apply(&mut self, ops: &[Op<Ipvs>]) -> Result<Vec<Outcome>, Fault> {
        self.write(ops, |kernel, ops| ops.iter().map(|op| kernel.ipvs.apply(op)).collect())
    }
}

impl Backend<File> for Kernel {
    fn observe(&mut self) -> Result<Table<File>, Fault> {
        self.read::<File>(|kernel| kernel.files.clone())
    }

    fn apply(&mut self, ops: &[Op<File>]) -> Result<Vec<Outcome>, Fault> {
        self.write(ops, |kernel, ops| {
            let one = |op: &Op<File>| match op {
                Op::Put(path, value) => {
                    kernel.files.insert(path.clone(), value.clone());
                    Outcome::Done
                }
                Op::Del(path) if kernel.files.contains_key(path) => Outcome::Refused(EINVAL),
                Op::Del(_) => Outcome::Gone,
            };
            ops.iter().map(one).collect()
        })
    }
}

/// A kernel alone has no pods: they have kernels of their own. Whoever knows them all wraps this.
impl Backend<Pod> for Kernel {
    fn observe(&mut self) -> Result<Table<Pod>, Fault> {
        Ok(Table::<Pod>::new())
    }

    fn apply(&mut self, ops: &[Op<Pod>]) -> Result<Vec<Outcome>, Fault> {
        Ok(ops
            .iter()
            .map(|op| if matches!(op, Op::Put(..)) { Outcome::Refused(ENODEV) } else { Outcome::Gone })
            .collect())
    }
}
