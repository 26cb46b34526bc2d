//! `host:port` as Go's `net` package reads it, and its resolution.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

use thiserror::Error;
use tokio::net::lookup_host;

/// Where to connect or to listen: a name, an IP address (IPv6 in brackets, a zone is allowed) or nothing, and a port.
///
/// An empty host (`:5001`) means every address for a listener and this very host for a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostPort {
    host: String,
    port: u16,
}

/// Why a text is not `host:port`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum HostPortError {
    /// No colon that ends the host.
    #[error("a port is missing, write host:port")]
    NoPort,
    /// The text behind the last colon is no number from 0 to 65535.
    #[error("the port must be a number from 0 to 65535")]
    BadPort,
    /// An IPv6 address without brackets, or brackets that do not match.
    #[error("an IPv6 address needs brackets, for example [::1]:5001")]
    Brackets,
}

impl HostPort {
    /// The addresses to try in this order. Names are looked up anew at each call, as the original does.
    pub(crate) async fn resolve(&self) -> io::Result<Vec<SocketAddr>> {
        if self.host.is_empty() {
            let localhost = [IpAddr::V6(Ipv6Addr::LOCALHOST), IpAddr::V4(Ipv4Addr::LOCALHOST)];
            return Ok(localhost.into_iter().map(|ip| SocketAddr::new(ip, self.port)).collect());
        }
        if let Ok(ip) = self.host.parse::<IpAddr>() {
            return Ok(vec![SocketAddr::new(ip, self.port)]);
        }
        Ok(lookup_host((self.host.as_str(), self.port)).await?.collect())
    }

    /// The addresses a listener may take, in this order; the first that works is enough.
    ///
    /// All IPv6 addresses include all IPv4 ones on Linux (`net.ipv6.bindv6only` is 0 unless somebody changed it). A
    /// kernel without IPv6 refuses such a socket; there IPv4 is what is meant.
    pub(crate) async fn resolve_listen(&self) -> io::Result<Vec<SocketAddr>> {
        let any = SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), self.port);
        let mut addresses = if self.host.is_empty() { vec![any] } else { self.resolve().await? };
        if addresses.contains(&any) {
            addresses.push(SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), self.port));
        }
        Ok(addresses)
    }
}

impl FromStr for HostPort {
    type Err = HostPortError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (host, port) = match text.strip_prefix('[') {
            Some(rest) => {
                let (host, after) = rest.split_once(']').ok_or(HostPortError::Brackets)?;
                (host, after.strip_prefix(':').ok_or(HostPortError::NoPort)?)
            }
            None => text.rsplit_once(':').ok_or(HostPortError::NoPort)?,
        };
        if host.contains(['[', ']']) || (host.contains(':') && !text.starts_with('[')) {
            return Err(HostPortError::Brackets);
        }
        // u16's own parser would take a plus sign.
        if !port.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(HostPortError::BadPort);
        }
        Ok(Self { host: host.into(), port: port.parse().map_err(|_| HostPortError::BadPort)? })
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(formatter, "[{}]:{}", self.host, self.port)
        } else {
            write!(formatter, "{}:{}", self.host, self.port)
        }
    }
}

impl From<SocketAddr> for HostPort {
    fn from(address: SocketAddr) -> Self {
        let host = match address {
            // The scope of a link-local address is part of where it leads; the resolver reads the number as a zone.
            SocketAddr::V6(v6) if v6.scope_id() != 0 => format!("{}%{}", v6.ip(), v6.scope_id()),
            _ => address.ip().to_string(),
        };
        Self { host, port: address.port() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts() {
        for good in ["[::1]:5001", "[::]:0", "10.0.0.2:5001", "mconnect.default:65535", ":5001", "[fe80::1%eth0]:1"] {
            let parsed: Result<HostPort, _> = good.parse();
            assert_eq!(parsed.map(|address| address.to_string()), Ok(good.into()));
        }
        for (bad, error) in [
            ("", HostPortError::NoPort),
            ("10.0.0.2", HostPortError::NoPort),
            ("[::1]", HostPortError::NoPort),
            ("[::1", HostPortError::Brackets),
            ("::1:5001", HostPortError::Brackets),
            ("a]:1", HostPortError::Brackets),
            ("a:", HostPortError::BadPort),
            ("a:+1", HostPortError::BadPort),
            ("a:65536", HostPortError::BadPort),
            ("a:http", HostPortError::BadPort),
        ] {
            assert_eq!(bad.parse::<HostPort>(), Err(error), "{bad}");
        }
    }

    #[test]
    fn listening_on_everything_includes_a_kernel_without_ipv6() {
        let resolve = |text: &str| {
            let address: HostPort = text.parse().unwrap();
            tokio_test::block_on(address.resolve_listen()).unwrap()
        };
        let both: Vec<SocketAddr> = vec!["[::]:5001".parse().unwrap(), "0.0.0.0:5001".parse().unwrap()];
        assert_eq!(resolve("[::]:5001"), both);
        assert_eq!(resolve(":5001"), both);
        assert_eq!(resolve("[::1]:5001"), ["[::1]:5001".parse().unwrap()]);
        assert_eq!(resolve("127.0.0.1:5001"), ["127.0.0.1:5001".parse().unwrap()]);
    }
}
