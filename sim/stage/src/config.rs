//! How the agents of a scenario's hosts are configured.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use fairway_objects::{
    BfdConfig, GracefulRestart, NodeConfig, Notice, PeerOptions, RouterConfig, RouterPeer, RouterSessions,
};
use fairway_scenario::{Bfd, Router, Topology};

/// Reads the command line of one node's agent: node name and flags to configuration and notices.
pub type Configure<'a> = dyn Fn(&str, &[String]) -> Result<(NodeConfig, Vec<Notice>), String> + 'a;

/// Why a stage cannot be made from a scenario.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// The flags of a node are wrong.
    #[error("flags of {node}: {message}")]
    Flags {
        /// The node.
        node: String,
        /// What is wrong.
        message: String,
    },
    /// The API server refuses what the topology says of a node.
    #[error("node {node}: {message}")]
    Node {
        /// The node.
        node: String,
        /// Its reason.
        message: String,
    },
    /// Nothing in a file of objects could be read.
    #[error("{file}: {message}")]
    Objects {
        /// The file.
        file: String,
        /// Why.
        message: String,
    },
    /// A router without an IPv4 address has no BGP identifier.
    #[error("router {0} needs an IPv4 address, which is its BGP identifier")]
    RouterId(String),
}

/// The configuration of a router: dynamic neighbours on all its LANs, and those it knows by address.
///
/// # Errors
/// [`ConfigError::RouterId`]
pub fn router_config(topology: &Topology, name: &str, router: &Router) -> Result<NodeConfig, ConfigError> {
    let addresses: Vec<IpAddr> = router.addresses.values().flatten().copied().collect();
    let router_id: Ipv4Addr = addresses
        .iter()
        .find_map(|a| if let IpAddr::V4(a) = a { Some(*a) } else { None })
        .ok_or_else(|| ConfigError::RouterId(name.into()))?;
    let subnets = router.addresses.keys().filter_map(|lan| topology.lans.get(lan)).flat_map(|lan| &lan.subnets);
    let accept = match router.accept.as_slice() {
        [] => vec![],
        asns => subnets.map(|subnet| (subnet.trunc(), asns.to_vec())).collect(),
    };
    let peer = |(address, asn): (&IpAddr, &u32)| RouterPeer {
        address: *address,
        asn: *asn,
        password: router.sessions.password.clone(),
    };
    let seconds = |time: Duration| u32::try_from(time.as_secs()).unwrap_or(u32::MAX);
    let sessions = &router.sessions;
    let options = PeerOptions {
        passive: sessions.passive,
        ttl_security: sessions.ttl_security.then_some(1),
        max_prefixes: sessions.max_prefixes.map(|max| max.limit),
        max_prefixes_restart_s: sessions.max_prefixes.and_then(|max| max.restart).map(seconds),
        add_path_receive: sessions.add_path_receive,
        add_path_send: sessions.add_path_send,
        extended_next_hop: sessions.extended_next_hop,
        ..PeerOptions::default()
    };
    let config = RouterConfig {
        asn: router.asn,
        router_id,
        accept,
        import_reject: router.reject.clone(),
        networks: router.networks.clone(),
        addresses,
        peers: router.peers.iter().map(peer).collect(),
        sessions: RouterSessions {
            ipv4: sessions.ipv4,
            ipv6: sessions.ipv6,
            reflector: sessions.reflector,
            bfd: sessions.bfd.map(bfd),
            options,
        },
    };
    let graceful_restart = sessions.graceful_restart.map(|time| GracefulRestart {
        // What the protocol can say.
        time_s: u16::try_from(time.as_secs().min(4095)).unwrap_or(4095),
        defer_s: DEFER_S,
        long_lived_s: 0,
    });
    Ok(NodeConfig { graceful_restart, ..NodeConfig::router(name, config) })
}

fn bfd(bfd: Bfd) -> BfdConfig {
    let ms = u32::try_from(bfd.interval.as_millis()).unwrap_or(u32::MAX);
    BfdConfig { desired_min_tx_ms: ms, required_min_rx_ms: ms, multiplier: bfd.multiplier, ..BfdConfig::default() }
}

/// Seconds that a router waits for its neighbours after a restart, at most.
const DEFER_S: u32 = 360;
