use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use core::net::{IpAddr, Ipv4Addr};

use crate::{Family, LinkKind, LinkValue};

/// The routing table of what pods send to other nodes themselves: kube-router's.
pub const OVERLAY_TABLE: u32 = 77;

/// A tunnel to one other node: `ipip` between IPv4 addresses, `ip6tnl` of mode `any` between IPv6 addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Tunnel {
    /// Our end.
    pub local: IpAddr,
    /// The other end, of the same family.
    pub remote: IpAddr,
    /// The UDP port that packets are sent to, with a GUE header between; `None`: no UDP.
    pub port: Option<u16>,
}

impl Tunnel {
    /// The name of our interface to a node.
    ///
    /// `tun-` and the eight hexadecimal digits of an IPv4 address: two addresses never have one name. An IPv6 address is
    /// too long for the 15 octets of a name, so it is ten digits of a hash of its bytes, and [`crate::Link`] says what
    /// happens if two are equal. kube-router's names have eleven digits, so the three are told apart by their length.
    pub fn name(remote: IpAddr) -> Arc<str> {
        let name: String = match remote {
            IpAddr::V4(ip) => format!("tun-{:08x}", u32::from(ip)),
            IpAddr::V6(ip) => {
                let bits = u128::from(ip);
                let (high, low) = ((bits >> 64) as u64, bits as u64);
                format!("tun-{:010x}", mixed(mixed(high) ^ low) >> 24)
            }
        };
        name.into()
    }

    /// Whether an interface is a tunnel of ours, or one that kube-router left: its name must be the one we give to its
    /// other end, or have kube-router's form (`tun-` and eleven hexadecimal digits). One without a fixed other end, as
    /// `tunl0`, is never ours.
    pub fn is_ours(name: &str, remote: IpAddr) -> bool {
        !remote.is_unspecified() && (*name == *Tunnel::name(remote) || Tunnel::is_old(name))
    }

    /// Whether a name has the form of kube-router's.
    pub fn is_old(name: &str) -> bool {
        name.strip_prefix("tun-").is_some_and(|digits| digits.len() == 11 && hexadecimal(digits))
    }

    /// Whether a name may be that of a tunnel of ours or of kube-router's.
    pub fn may_be(name: &str) -> bool {
        name.strip_prefix("tun-").is_some_and(|digits| matches!(digits.len(), 8 | 10 | 11) && hexadecimal(digits))
    }

    /// Both ends are addresses of one family that one host can have.
    pub fn is_possible(&self) -> bool {
        let usable = |ip: IpAddr| !ip.is_unspecified() && !ip.is_multicast() && ip != IpAddr::V4(Ipv4Addr::BROADCAST);
        let one_family = Family::of(self.local) == Family::of(self.remote);
        one_family && self.local != self.remote && usable(self.local) && usable(self.remote) && self.port != Some(0)
    }
}

fn hexadecimal(text: &str) -> bool {
    text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// The finalizer of SplitMix64: every bit of the input changes each bit of the output half of the time.
fn mixed(bits: u64) -> u64 {
    let bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

/// The [`crate::Link`] entry of the UDP port on which packets of tunnels arrive, on every address of a family.
///
/// Its key is no possible name of an interface, and stands before those of tunnels: whoever sends to us finds it open.
pub fn receive_port(family: Family, port: u16) -> (Arc<str>, LinkValue) {
    let name = match family {
        Family::V4 => "ipv4",
        Family::V6 => "ipv6",
    };
    (
        format!("gue/{port}/{name}").into(),
        LinkValue { kind: LinkKind::ReceivePort { family, port }, up: true, mtu: None },
    )
}
