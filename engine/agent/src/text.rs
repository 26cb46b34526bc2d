//! Keys as an operator writes them.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use core::net::IpAddr;

use fairway_desired::ipvs::VirtualServerKey;
use fairway_desired::{AddrKey, Family, PodKey, Protocol, RouteKey, RuleKey, bgp, filter, ipvs};

/// A key that can be shown.
pub trait Text {
    /// In the words of the usual tools, as in notices.
    fn text(&self) -> String;
}

impl Text for Arc<str> {
    fn text(&self) -> String {
        self.to_string()
    }
}

impl Text for AddrKey {
    fn text(&self) -> String {
        format!("{} dev {}", self.address, self.link)
    }
}

impl Text for filter::Key {
    fn text(&self) -> String {
        match self {
            filter::Key::Set(name) => format!("set {name}"),
            filter::Key::Chain(name) => format!("chain {name}"),
            filter::Key::Element(name, element) => format!("element of {name} {element:?}"),
            filter::Key::Rules(name) => format!("rules of chain {name}"),
        }
    }
}

impl Text for RuleKey {
    fn text(&self) -> String {
        let family = match self.family {
            Family::V4 => "ipv4",
            Family::V6 => "ipv6",
        };
        let mut text = format!("{family} priority {}", self.priority);
        if let Some(from) = self.from {
            text += &format!(" from {from}");
        }
        if let Some(to) = self.to {
            text += &format!(" to {to}");
        }
        if let Some(mark) = self.mark {
            text += &format!(" fwmark {mark:#x}");
        }
        text
    }
}

impl Text for RouteKey {
    fn text(&self) -> String {
        format!("{} table {} metric {}", self.prefix, self.table, self.metric)
    }
}

impl Text for PodKey {
    fn text(&self) -> String {
        format!("{} in pod {}", self.address, self.pod)
    }
}

impl Text for ipvs::Key {
    fn text(&self) -> String {
        let mut text = match &self.server {
            VirtualServerKey::Address { address, port, protocol } => {
                let protocol = match protocol {
                    Protocol::Tcp => "TCP",
                    Protocol::Udp => "UDP",
                    Protocol::Sctp => "SCTP",
                };
                format!("{}/{protocol}", endpoint(*address, *port))
            }
            VirtualServerKey::Mark { family: Family::V4, mark } => format!("fwmark {mark:#x}"),
            VirtualServerKey::Mark { family: Family::V6, mark } => format!("fwmark {mark:#x} ipv6"),
        };
        if let Some(real) = &self.real {
            text += &format!(" -> {}", endpoint(real.address, real.port));
        }
        text
    }
}

fn endpoint(address: IpAddr, port: u16) -> String {
    core::net::SocketAddr::new(address, port).to_string()
}

impl Text for bgp::Key {
    fn text(&self) -> String {
        match self {
            bgp::Key::Global => "speaker".to_string(),
            bgp::Key::PrefixMember(set, prefix) => format!("prefix set {set} {prefix}"),
            bgp::Key::NeighborMember(set, prefix) => format!("neighbour set {set} {prefix}"),
            bgp::Key::Policy(bgp::Direction::Import) => "import policy".to_string(),
            bgp::Key::Policy(bgp::Direction::Export) => "export policy".to_string(),
            bgp::Key::Network(prefix) => format!("network {prefix}"),
            bgp::Key::Dynamic(prefix) => format!("dynamic neighbours {prefix}"),
            bgp::Key::Peer(address) => format!("neighbour {address}"),
        }
    }
}
