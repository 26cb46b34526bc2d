//! How the agents of a scenario's hosts are configured.

use std::net::{IpAddr, Ipv4Addr};

use fairway_objects::{BfdConfig, NodeConfig, Notice, RouterConfig};
use fairway_scenario::{Router, Topology};

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

/// The configuration of a router: dynamic neighbours on all its LANs.
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
    let accept = subnets.map(|subnet| (subnet.trunc(), router.accept.clone())).collect();
    Ok(NodeConfig::router(
        name,
        RouterConfig {
            asn: router.asn,
            router_id,
            accept,
            import_reject: router.reject.clone(),
            networks: vec![],
            addresses,
            bfd: router.bfd.map(|bfd| {
                let ms = u32::try_from(bfd.interval.as_millis()).unwrap_or(u32::MAX);
                BfdConfig {
                    desired_min_tx_ms: ms,
                    required_min_rx_ms: ms,
                    multiplier: bfd.multiplier,
                    ..BfdConfig::default()
                }
            }),
        },
    ))
}
