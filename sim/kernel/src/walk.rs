//! The way of one packet through the hosts: hooks, routing, IPVS and wires.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use fairway_desired::filter::Hook;
use fairway_desired::ipvs::Forwarding;
use fairway_desired::{Family, Tunnel};

use crate::fabric::Fabric;
use crate::filter::{At, Decision};
use crate::ipvs::{Knobs, Request};
use crate::kernel::{Kernel, Switch, Wire};
use crate::packet::{Ct, Kind, Outer, Packet, Tuple};
use crate::route::{Flow, Target};
use crate::types::HostId;

/// `NF_IP_PRI_CONNTRACK`
const CONNTRACK: i32 = -200;
/// `NF_IP_PRI_NAT_DST`
const NAT_DST: i32 = -100;
/// `NF_IP_PRI_NAT_SRC`
const NAT_SRC: i32 = 100;
/// IPVS in `LOCAL_OUT`.
const IPVS_OUTPUT: i32 = NAT_DST + 1;
/// IPVS in `LOCAL_IN`.
const IPVS_INPUT: i32 = NAT_SRC - 2;
/// IPVS in `FORWARD`.
const IPVS_FORWARD: i32 = 99;
/// A packet that did so much is in a loop.
const STEPS: usize = 300;

/// How a packet ended.
#[derive(Clone, Debug)]
pub(crate) enum Fate {
    Delivered(HostId, Packet),
    Lost(String),
    /// A host answers with an ICMP error; the packet as it was there.
    Error {
        host: HostId,
        packet: Packet,
        port: bool,
        reason: String,
    },
}

/// A packet's way.
#[derive(Clone, Debug)]
pub(crate) struct Walked {
    pub(crate) fate: Fate,
    pub(crate) latency: Duration,
    pub(crate) path: Vec<HostId>,
}

/// What happens next to a packet.
enum Step {
    /// It goes out of the host's own stack.
    Output(HostId, Packet),
    /// It comes in on an interface.
    Arrive(HostId, Arc<str>, Packet),
    /// It passed prerouting.
    Route(HostId, Packet),
    /// It passed all but postrouting.
    Leave {
        host: HostId,
        packet: Packet,
        dev: Arc<str>,
        next: IpAddr,
    },
    End(Fate),
}

/// What IPVS did with a packet.
enum Balanced {
    /// It goes on as it came, or as a reply with its source restored.
    Untouched,
    /// Its real server is this host.
    Here,
    /// It goes to a real server elsewhere.
    Away,
    Ends(End),
}

/// Why IPVS let a packet go no further.
enum End {
    Lost(&'static str),
    Refused(String),
}

impl End {
    fn step(self, fabric: &Fabric, host: HostId, packet: Packet) -> Step {
        match self {
            End::Lost(why) => fabric.lost(host, why),
            End::Refused(why) => fabric.error(host, packet, true, why),
        }
    }
}

impl Kernel {
    fn tracks(&self) -> bool {
        !self.filter.is_empty() || self.is_on(Switch::VsConntrack)
    }

    pub(crate) fn knobs(&self) -> Knobs {
        Knobs {
            now: self.now,
            conntrack: self.is_on(Switch::VsConntrack),
            expire_nodest: self.is_on(Switch::VsExpireNodest),
            expire_quiescent: self.is_on(Switch::VsExpireQuiescent),
            sloppy_tcp: self.is_on(Switch::VsSloppyTcp),
        }
    }

    /// The tunnel that an interface is.
    fn wraps(&self, dev: &str) -> Option<Tunnel> {
        match self.links.get(dev)?.wire {
            Wire::PointToPoint(tunnel) => Some(tunnel),
            _ => None,
        }
    }

    /// The interface that takes a packet out of a tunnel: one between the two addresses, else one for everybody. Whether
    /// UDP was around it does not matter any more.
    fn unwraps(&self, outer: Outer, inside: Family) -> Option<Arc<str>> {
        if outer.dst.is_ipv4() && inside == Family::V6 {
            return None;
        }
        let between = self.tunnel_between(outer.dst, outer.src);
        let between = between.filter(|name| self.links.get(name).is_some_and(|link| link.up));
        between.or_else(|| {
            let everybody = self.links.iter().find(|(_, link)| link.wire == Wire::Tunnel && link.up);
            everybody.map(|(name, _)| name.clone())
        })
    }

    fn forwards(&self, family: Family) -> bool {
        self.is_on(match family {
            Family::V4 => Switch::ForwardV4,
            Family::V6 => Switch::ForwardV6,
        })
    }

    fn filters_bridges(&self, family: Family) -> bool {
        self.is_on(match family {
            Family::V4 => Switch::BridgeV4,
            Family::V6 => Switch::BridgeV6,
        })
    }

    /// Connection tracking and the hooks around it, as prerouting and output have them.
    fn track(&mut self, at: At<'_>, last: i32, packet: &mut Packet) -> Decision {
        match self.filter.run(at, i32::MIN..CONNTRACK, packet) {
            Decision::Accept => {}
            stop => return stop,
        }
        if self.tracks() {
            self.conntrack.track(packet, self.now);
        }
        match self.filter.run(at, CONNTRACK..NAT_DST, packet) {
            Decision::Accept => {}
            stop => return stop,
        }
        self.conntrack.restore(packet);
        self.filter.run(at, NAT_DST..last, packet)
    }

    /// Whether IPVS undid its rewriting.
    fn ipvs_reply(&mut self, packet: &mut Packet) -> bool {
        let done = self.ipvs.reply(packet, self.now);
        if done && !self.is_on(Switch::VsConntrack) {
            self.conntrack.untrack(packet);
        }
        done
    }

    /// Postrouting, with source NAT.
    fn postrouting(&mut self, packet: &mut Packet, dev: &str, next: IpAddr) -> Decision {
        let at = At { hook: Hook::Postrouting, input: None, output: Some(dev) };
        match self.filter.run(at, i32::MIN..NAT_SRC, packet) {
            Decision::Accept => {}
            stop => return stop,
        }
        if packet.ct == Ct::New {
            match self.filter.run_nat(at, packet) {
                Decision::Accept => {}
                Decision::Masquerade => match self.device_source(dev, next, packet.dst()) {
                    Some(address) => self.conntrack.masquerade(packet, address, &mut self.rng, self.now),
                    None => return Decision::Drop("masquerade without an address".into()),
                },
                stop => return stop,
            }
        }
        if let Some(source) = self.conntrack.translated_source(packet) {
            packet.tuple.src = source;
        }
        match self.filter.run(at, NAT_SRC..i32::MAX, packet) {
            Decision::Accept => {}
            stop => return stop,
        }
        self.conntrack.confirm(packet);
        Decision::Accept
    }
}

impl Fabric {
    /// Sends a packet from a host's own stack and follows it to its end.
    pub(crate) fn walk(&mut self, from: HostId, packet: Packet) -> Walked {
        let mut latency = Duration::ZERO;
        let mut path = vec![from];
        let mut step = Step::Output(from, packet);
        for _ in 0..STEPS {
            if let Step::Output(host, _) | Step::Arrive(host, ..) = &step {
                self.wake(*host);
            }
            step = match step {
                Step::Output(host, packet) => self.output(host, packet),
                Step::Arrive(host, link, packet) => self.arrive(host, link, packet),
                Step::Route(host, packet) => self.route(host, packet),
                Step::Leave { host, packet, dev, next } => self.leave(host, packet, dev, next, &mut latency, &mut path),
                Step::End(fate) => {
                    match &fate {
                        Fate::Delivered(host, packet) => self.note(*host, || format!("delivered: {packet}")),
                        Fate::Lost(reason) => {
                            self.note(path.last().copied().unwrap_or(from), || format!("lost: {reason}"))
                        }
                        Fate::Error { host, reason, .. } => self.note(*host, || format!("refused: {reason}")),
                    }
                    return Walked { fate, latency, path };
                }
            };
        }
        Walked { fate: Fate::Lost("the packet goes round in a loop".into()), latency, path }
    }

    fn lost(&self, host: HostId, why: impl std::fmt::Display) -> Step {
        Step::End(Fate::Lost(format!("{}: {why}", self.hosts[host.0].name)))
    }

    fn error(&self, host: HostId, packet: Packet, port: bool, why: impl std::fmt::Display) -> Step {
        let reason = format!("{}: {why}", self.hosts[host.0].name);
        if packet.is_error() || packet.kind == Kind::Rst {
            return Step::End(Fate::Lost(reason));
        }
        Step::End(Fate::Error { host, packet, port, reason })
    }

    fn stopped(&self, host: HostId, packet: Packet, decision: Decision) -> Step {
        match decision {
            Decision::Reject(chain) => self.error(host, packet, true, format_args!("rejected by chain {chain}")),
            Decision::Drop(chain) => self.lost(host, format_args!("dropped by chain {chain}")),
            Decision::Accept | Decision::Masquerade => self.lost(host, "a firewall without a verdict"),
        }
    }

    /// A packet in a tunnel, here or on its way through. The filter sees only the header around it, about which none of
    /// its matches says anything; so it is only routed.
    fn tunnelled(&mut self, host: HostId, mut packet: Packet, outer: Outer, arrived: bool) -> Step {
        let kernel = &self.hosts[host.0].kernel;
        let (src, dst): (SocketAddr, SocketAddr) = ((outer.src, 0).into(), (outer.dst, 0).into());
        let Some(found) = kernel.lookup(&Flow::new(packet.tuple.protocol, src, dst, 0)) else {
            return self.lost(host, format_args!("no route to {} for a tunnelled packet", outer.dst));
        };
        match &found.target {
            Target::Local => {
                let family = Family::of(outer.dst);
                if let Some(port) = outer.port.filter(|port| !kernel.ports.contains(&(family, *port))) {
                    return self.lost(host, format_args!("no tunnel listens on UDP port {port}"));
                }
                packet.outer.pop();
                let inside = packet.outer.last().map_or(packet.family(), |inner| Family::of(inner.dst));
                let Some(device) = kernel.unwraps(outer, inside) else {
                    return self.lost(host, format_args!("no tunnel device takes a packet from {}", outer.src));
                };
                self.note(host, || format!("unwrapped on {device}"));
                packet.leave();
                Step::Arrive(host, device, packet)
            }
            Target::Out { .. } if arrived && !kernel.forwards(Family::of(outer.dst)) => {
                self.lost(host, format_args!("does not forward (to {})", outer.dst))
            }
            Target::Out { .. } if packet.ttl <= 1 => self.lost(host, "the time to live is over"),
            Target::Out { dev, .. } if !arrived && kernel.wraps(dev).is_some_and(|t| t.remote == outer.dst) => {
                self.lost(host, format_args!("the way to {} leads through the tunnel itself", outer.dst))
            }
            Target::Out { dev, next } => {
                packet.ttl -= u8::from(arrived);
                self.note(host, || format!("tunnelled to {}: {found}", outer.dst));
                Step::Leave { host, packet, dev: dev.clone(), next: *next }
            }
            Target::Blackhole | Target::Unreachable => self.lost(host, &found),
        }
    }

    fn output(&mut self, host: HostId, mut packet: Packet) -> Step {
        if let Some(outer) = packet.outer.last().copied() {
            return self.tunnelled(host, packet, outer, false);
        }
        let at = At { hook: Hook::Output, input: None, output: None };
        let kernel = &mut self.hosts[host.0].kernel;
        let decision = kernel.track(at, IPVS_OUTPUT, &mut packet);
        if decision != Decision::Accept {
            return self.stopped(host, packet, decision);
        }
        match self.ipvs(host, &mut packet) {
            Balanced::Untouched => {}
            Balanced::Here | Balanced::Away => return Step::Output(host, packet),
            Balanced::Ends(end) => return end.step(self, host, packet),
        }
        let kernel = &mut self.hosts[host.0].kernel;
        let decision = kernel.filter.run(at, IPVS_OUTPUT..i32::MAX, &mut packet);
        if decision != Decision::Accept {
            return self.stopped(host, packet, decision);
        }
        let Tuple { protocol, src, dst } = packet.tuple;
        let Some(found) = kernel.lookup(&Flow::new(protocol, src, dst, packet.mark)) else {
            return self.error(host, packet, false, format_args!("no route to {}", dst.ip()));
        };
        self.note(host, || format!("out {packet}: {found}"));
        match &found.target {
            Target::Local => Step::Leave { host, packet, dev: "lo".into(), next: dst.ip() },
            Target::Out { dev, next } => Step::Leave { host, packet, dev: dev.clone(), next: *next },
            Target::Blackhole => self.lost(host, &found),
            Target::Unreachable => self.error(host, packet, false, &found),
        }
    }

    /// IPVS at a hook: undoes its rewriting on a reply, or sends a request to a real server.
    fn ipvs(&mut self, host: HostId, packet: &mut Packet) -> Balanced {
        let before = packet.tuple.src;
        let kernel = &mut self.hosts[host.0].kernel;
        if kernel.ipvs_reply(packet) {
            let after = packet.tuple.src;
            self.note(host, || format!("IPVS reply: source {before} becomes {after}"));
            return Balanced::Untouched;
        }
        let knobs = kernel.knobs();
        match kernel.ipvs.request(packet, knobs) {
            Request::Pass => Balanced::Untouched,
            Request::Drop(why, forget) => {
                if forget {
                    kernel.conntrack.drop_entry(packet);
                }
                Balanced::Ends(End::Lost(why))
            }
            Request::Refuse(why) => Balanced::Ends(End::Refused(why)),
            Request::Forward(to, forwarding) => match self.rewrite(host, packet, to, forwarding) {
                Ok(true) => Balanced::Here,
                Ok(false) => Balanced::Away,
                Err(why) => Balanced::Ends(End::Lost(why)),
            },
        }
    }

    /// IPVS sends a packet to a real server. Returns whether that is this host.
    fn rewrite(
        &mut self,
        host: HostId,
        packet: &mut Packet,
        to: SocketAddr,
        forwarding: Forwarding,
    ) -> Result<bool, &'static str> {
        let kernel = &mut self.hosts[host.0].kernel;
        if forwarding == Forwarding::Tunnel {
            let protocol = packet.tuple.protocol;
            let way = kernel.lookup(&Flow { src: None, dst: to.ip(), mark: 0, protocol, ports: (0, 0) });
            let source = way.and_then(|found| kernel.source(&found, to.ip()));
            let source = source.ok_or("IPVS forwards by tunnel, and there is no way to the real server")?;
            kernel.conntrack.untrack(packet);
            packet.outer.push(Outer { src: source, dst: to.ip(), port: None });
            packet.ipvs = true;
            self.note(host, || format!("IPVS: wrapped for {} (IPIP from {source})", to.ip()));
            return Ok(false);
        }
        if kernel.is_on(Switch::VsConntrack) {
            kernel.conntrack.alter_reply(packet, to);
        } else {
            kernel.conntrack.untrack(packet);
        }
        let local = kernel.is_local(to.ip());
        let before = packet.tuple.dst;
        packet.tuple.dst = to;
        packet.ipvs = true;
        self.note(host, || format!("IPVS: destination {before} becomes {to}"));
        Ok(local)
    }

    fn arrive(&mut self, host: HostId, link: Arc<str>, mut packet: Packet) -> Step {
        packet.iif = Some(link.clone());
        self.note(host, || format!("in {link}: {packet}"));
        if let Some(outer) = packet.outer.last().copied() {
            return self.tunnelled(host, packet, outer, true);
        }
        let at = At { hook: Hook::Prerouting, input: Some(&link), output: None };
        let decision = self.hosts[host.0].kernel.track(at, i32::MAX, &mut packet);
        if decision != Decision::Accept {
            return self.stopped(host, packet, decision);
        }
        Step::Route(host, packet)
    }

    fn route(&mut self, host: HostId, mut packet: Packet) -> Step {
        let kernel = &mut self.hosts[host.0].kernel;
        let iif = packet.iif.clone().unwrap_or_else(|| "lo".into());
        let Tuple { protocol, src, dst } = packet.tuple;
        let flow = Flow::new(protocol, src, dst, packet.mark);
        if src.is_ipv4() && *iif != *"lo" {
            if kernel.is_local(src.ip()) {
                return self.lost(host, format_args!("martian source {} on {iif}: an own address", src.ip()));
            }
            let strict = kernel.switch(Switch::RpFilter);
            if strict > 0 {
                // Without `src_valid_mark` the way back is looked up without the mark.
                let back = kernel.lookup(&Flow::new(protocol, dst, src, 0));
                let through = back.map(|f| f.target);
                let passes = match through {
                    Some(Target::Out { dev, .. }) => strict != 1 || dev == iif,
                    _ => false,
                };
                if !passes {
                    return self.lost(host, format_args!("rp_filter: {} does not belong behind {iif}", src.ip()));
                }
            }
        }
        let family = packet.family();
        let forwards = kernel.forwards(family);
        let Some(found) = kernel.lookup(&flow) else {
            let why = format!("no route to {}", dst.ip());
            return if forwards { self.error(host, packet, false, why) } else { self.lost(host, why) };
        };
        let (dev, next) = match &found.target {
            Target::Local => return self.input(host, packet),
            Target::Blackhole => return self.lost(host, &found),
            Target::Unreachable => return self.error(host, packet, false, &found),
            Target::Out { dev, next } => (dev.clone(), *next),
        };
        if !forwards {
            return self.lost(host, format_args!("does not forward (to {})", dst.ip()));
        }
        if packet.ttl <= 1 {
            return self.lost(host, "the time to live is over");
        }
        packet.ttl -= 1;
        self.note(host, || format!("forward {packet}: {found}"));
        match self.forward(host, &mut packet, &iif, &dev) {
            Decision::Accept => Step::Leave { host, packet, dev, next },
            stop => self.stopped(host, packet, stop),
        }
    }

    /// The forward hook.
    fn forward(&mut self, host: HostId, packet: &mut Packet, input: &str, output: &str) -> Decision {
        let at = At { hook: Hook::Forward, input: Some(input), output: Some(output) };
        let kernel = &mut self.hosts[host.0].kernel;
        match kernel.filter.run(at, i32::MIN..IPVS_FORWARD, packet) {
            Decision::Accept => {}
            stop => return stop,
        }
        let before = packet.tuple.src;
        if kernel.ipvs_reply(packet) {
            let after = packet.tuple.src;
            self.note(host, || format!("IPVS reply: source {before} becomes {after}"));
        }
        self.hosts[host.0].kernel.filter.run(at, IPVS_FORWARD..i32::MAX, packet)
    }

    fn input(&mut self, host: HostId, mut packet: Packet) -> Step {
        let link = packet.iif.clone();
        let at = At { hook: Hook::Input, input: link.as_deref(), output: None };
        let kernel = &mut self.hosts[host.0].kernel;
        let decision = kernel.filter.run(at, i32::MIN..IPVS_INPUT, &mut packet);
        if decision != Decision::Accept {
            return self.stopped(host, packet, decision);
        }
        match self.ipvs(host, &mut packet) {
            Balanced::Untouched | Balanced::Here => {}
            Balanced::Away if packet.ttl <= 1 => return self.lost(host, "the time to live is over"),
            Balanced::Away => {
                packet.ttl -= 1;
                return Step::Output(host, packet);
            }
            Balanced::Ends(end) => return end.step(self, host, packet),
        }
        let kernel = &mut self.hosts[host.0].kernel;
        let decision = kernel.filter.run(at, IPVS_INPUT..i32::MAX, &mut packet);
        if decision != Decision::Accept {
            return self.stopped(host, packet, decision);
        }
        kernel.conntrack.confirm(&mut packet);
        Step::End(Fate::Delivered(host, packet))
    }

    /// Postrouting, then over the wire, past the bridges between.
    fn leave(
        &mut self,
        host: HostId,
        mut packet: Packet,
        dev: Arc<str>,
        next: IpAddr,
        latency: &mut Duration,
        path: &mut Vec<HostId>,
    ) -> Step {
        let before = packet.tuple.src;
        let decision = match packet.outer.last() {
            Some(_) => Decision::Accept,
            None => self.hosts[host.0].kernel.postrouting(&mut packet, &dev, next),
        };
        if decision != Decision::Accept {
            return self.stopped(host, packet, decision);
        }
        if packet.tuple.src != before {
            let after = packet.tuple.src;
            self.note(host, || format!("masquerade: source {before} becomes {after}"));
        }
        if *dev == *"lo" {
            return Step::Arrive(host, dev, packet);
        }
        packet.leave();
        if let Some(tunnel) = self.hosts[host.0].kernel.wraps(&dev) {
            let inside = packet.outer.last().map_or(packet.family(), |inner| Family::of(inner.dst));
            if tunnel.local.is_ipv4() && inside == Family::V6 {
                return self.lost(host, format_args!("{dev} carries no IPv6"));
            }
            if !self.hosts[host.0].kernel.is_local(tunnel.local) {
                return self.lost(host, format_args!("the end {} of {dev} is no address of this host", tunnel.local));
            }
            self.note(host, || format!("wrapped by {dev} for {}", tunnel.remote));
            packet.outer.push(Outer { src: tunnel.local, dst: tunnel.remote, port: tunnel.port });
            return Step::Output(host, packet);
        }
        let Some(way) = self.resolve(host, &dev, next) else {
            return self.lost(host, format_args!("no neighbour {next} on {dev}"));
        };
        *latency += way.latency;
        if let Some(lan) = way.lan {
            let lan = self.lans[lan.0].name.clone();
            self.note(host, || format!("to {next} over {lan}"));
        }
        for (at, bridge) in way.bridges {
            path.push(at);
            self.wake(at);
            if !packet.outer.is_empty() || !self.hosts[at.0].kernel.filters_bridges(packet.family()) {
                self.note(at, || format!("bridge {bridge}: {packet}"));
                continue;
            }
            packet.iif = Some(bridge.clone());
            self.note(at, || format!("bridge {bridge} with hooks: {packet}"));
            let destination = packet.tuple.dst;
            let hook = At { hook: Hook::Prerouting, input: Some(&bridge), output: None };
            let decision = self.hosts[at.0].kernel.track(hook, i32::MAX, &mut packet);
            if decision != Decision::Accept {
                return self.stopped(at, packet, decision);
            }
            if packet.tuple.dst != destination {
                // Translated: no longer the bridge's business.
                return Step::Route(at, packet);
            }
            let decision = match self.forward(at, &mut packet, &bridge, &bridge) {
                Decision::Accept => self.hosts[at.0].kernel.postrouting(&mut packet, &bridge, next),
                stop => stop,
            };
            if decision != Decision::Accept {
                return self.stopped(at, packet, decision);
            }
            packet.leave();
        }
        path.push(way.host);
        Step::Arrive(way.host, way.link, packet)
    }
}
