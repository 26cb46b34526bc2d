//! What `ip` and `ipvsadm` would print.

use std::fmt::Write;
use std::net::SocketAddr;

use fairway_desired::ipvs::{Forwarding, Scheduler, VirtualServerKey};
use fairway_desired::{Family, LOCAL_TABLE, MAIN_TABLE, PROTO_KERNEL, PlaneId, Protocol, RouteKey, RouteKind};
use ipnet::IpNet;

use crate::ipvs::VirtualServerView;
use crate::kernel::{Kernel, Stored};

impl Kernel {
    /// The main table as `ip route` prints it, or `ip -6 route`.
    pub fn show_routes(&self, v6: bool) -> String {
        let main = |key: &&RouteKey| key.table == MAIN_TABLE && key.prefix.addr().is_ipv6() == v6;
        let mut text = String::new();
        for (key, route) in self.routes.iter().filter(|(key, _)| main(key)) {
            text.push_str(&route_text(key, route));
            text.push('\n');
        }
        text
    }

    /// Every virtual server with its real servers and their connections.
    pub fn virtual_servers(&self) -> Vec<VirtualServerView> {
        self.ipvs.views()
    }

    /// What `ipvsadm -Ln` prints.
    pub fn show_virtual_servers(&self) -> String {
        let mut text = String::from(
            "IP Virtual Server version 1.2.1 (size=4096)\n\
             Prot LocalAddress:Port Scheduler Flags\n  \
             -> RemoteAddress:Port           Forward Weight ActiveConn InActConn\n",
        );
        for view in self.virtual_servers() {
            let who = match &view.key {
                VirtualServerKey::Address { address, port, protocol } => {
                    let protocol = match protocol {
                        Protocol::Tcp => "TCP",
                        Protocol::Udp => "UDP",
                        Protocol::Sctp => "SCTP",
                    };
                    format!("{protocol:<4} {}", SocketAddr::new(*address, *port))
                }
                VirtualServerKey::Mark { family: Family::V4, mark } => format!("FWM  {mark}"),
                VirtualServerKey::Mark { family: Family::V6, mark } => format!("FWM  {mark} IPv6"),
            };
            let scheduler = format!("{:?}", view.server.scheduler).to_lowercase();
            text.push_str(&format!("{who} {scheduler}"));
            let mut flags = vec![];
            for (set, name) in [(view.server.fallback, "fallback"), (view.server.hash_port, "port")] {
                if set {
                    flags.push(match view.server.scheduler {
                        Scheduler::Sh | Scheduler::Mh => format!("{scheduler}-{name}"),
                        _ => format!("flag-{}", if name == "fallback" { 1 } else { 2 }),
                    });
                }
            }
            if !flags.is_empty() {
                text.push_str(&format!(" ({})", flags.join(",")));
            }
            if let Some(seconds) = view.server.persistence_s {
                text.push_str(&format!(" persistent {seconds}"));
            }
            text.push('\n');
            for real in view.real_servers {
                let address = SocketAddr::new(real.key.address, real.key.port).to_string();
                let forward = match real.value.forwarding {
                    Forwarding::Masquerade => "Masq",
                    Forwarding::Tunnel => "Tunnel",
                };
                let weight = real.value.weight;
                // Writing to a string cannot fail.
                let _ = writeln!(
                    text,
                    "  -> {address:<28} {forward:<7} {weight:<6} {:<10} {:<10}",
                    real.active, real.inactive
                );
            }
        }
        text
    }

    /// Everything of a plane, ours or not, one entry per line, for people.
    pub fn dump(&self, plane: PlaneId) -> String {
        let mut lines: Vec<String> = vec![];
        match plane {
            PlaneId::Sysctl => lines.extend(self.sysctls().map(|(path, value)| format!("{path} = {value}"))),
            PlaneId::Link => lines.extend(self.links.iter().map(|(name, link)| {
                let state = if link.up { "up" } else { "down" };
                let master = link.master.as_ref().map(|m| format!(" master {m}")).unwrap_or_default();
                format!("{name}: {:?} {state} mtu {}{master}", link.wire, link.mtu)
            })),
            PlaneId::Addr => lines.extend(self.addresses().map(|(link, address)| format!("{link}: {address}"))),
            PlaneId::Filter => {
                lines.extend(self.filter.table().iter().map(|(key, value)| format!("{key:?} {value:?}")));
            }
            PlaneId::Rule => lines.extend(self.rules.iter().map(|(key, value)| {
                let from = key.from.map_or("all".into(), |n| n.to_string());
                let to = key.to.map(|n| format!(" to {n}")).unwrap_or_default();
                let mark = key.mark.map(|m| format!(" fwmark {m:#x}")).unwrap_or_default();
                format!("{:?} {}: from {from}{to}{mark} lookup {}", key.family, key.priority, value.table)
            })),
            PlaneId::Route => lines.extend(self.routes.iter().map(|(key, route)| {
                let table = match key.table {
                    MAIN_TABLE => String::new(),
                    LOCAL_TABLE => "[table local] ".into(),
                    table => format!("[table {table}] "),
                };
                format!("{table}{}", route_text(key, route))
            })),
            PlaneId::Ipvs => return self.show_virtual_servers(),
            PlaneId::File => lines.extend(self.files.iter().map(|(path, value)| {
                let ranges: Vec<String> = value.ranges.iter().map(ToString::to_string).collect();
                let mtu = value.mtu.map(|mtu| format!(", mtu {mtu}")).unwrap_or_default();
                format!("{path}: ranges {}{mtu}", ranges.join(" "))
            })),
            PlaneId::Pod | PlaneId::Bgp => {}
        }
        lines.iter().map(|l| format!("{l}\n")).collect()
    }
}

/// A destination as `ip route` prints it.
fn destination(prefix: IpNet) -> String {
    match prefix.prefix_len() {
        0 => "default".into(),
        len if len == prefix.max_prefix_len() => prefix.addr().to_string(),
        _ => prefix.to_string(),
    }
}

fn route_text(key: &RouteKey, route: &Stored) -> String {
    let value = &route.value;
    let kind = match value.kind {
        RouteKind::Unicast => "",
        RouteKind::Local => "local ",
        RouteKind::Blackhole => "blackhole ",
        RouteKind::Unreachable => "unreachable ",
    };
    let mut text = format!("{kind}{}", destination(key.prefix));
    let hops: Vec<String> = value
        .next_hops
        .iter()
        .zip(&route.devs)
        .map(|(hop, dev)| match hop.via {
            Some(via) if via.is_ipv6() && key.prefix.addr().is_ipv4() => format!("via inet6 {via} dev {dev}"),
            Some(via) => format!("via {via} dev {dev}"),
            None => format!("dev {dev}"),
        })
        .collect();
    if let [hop] = &hops[..] {
        text.push_str(&format!(" {hop}"));
    }
    match value.protocol {
        3 => {}
        PROTO_KERNEL => text.push_str(" proto kernel"),
        4 => text.push_str(" proto static"),
        protocol => text.push_str(&format!(" proto {protocol}")),
    }
    let v6 = key.prefix.addr().is_ipv6();
    let direct = value.next_hops.len() == 1 && value.next_hops.iter().all(|h| h.via.is_none());
    match value.kind {
        RouteKind::Unicast if direct && !v6 => text.push_str(" scope link"),
        RouteKind::Local if !v6 => text.push_str(" scope host"),
        _ => {}
    }
    if let Some(src) = value.src {
        text.push_str(&format!(" src {src}"));
    }
    if key.metric != 0 {
        text.push_str(&format!(" metric {}", key.metric));
    }
    if v6 {
        text.push_str(" pref medium");
    }
    if hops.len() > 1 {
        for (hop, next) in hops.iter().zip(&value.next_hops) {
            text.push_str(&format!("\n\tnexthop {hop} weight {}", next.weight));
        }
    }
    text
}
