//! `v1/Node`, with kube-router's annotations.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::num::NonZeroU8;
use std::sync::Arc;

use fairway_objects::{BfdConfig, BgpPeer, BgpPeerRange, Node, Object, ObjectKey, PeerOptions, Reflector};
use ipnet::IpNet;
use k8s_openapi::api::core::v1 as api;
use serde::Deserialize;
use serde_json::Value;

use crate::annotations::field;
use crate::reader::{Notices, Read, Words, go_u32, typed};

/// BGP's port.
const BGP_PORT: u16 = 179;

pub(crate) fn read(value: &Value, key: &ObjectKey) -> Read {
    let object: api::Node = typed(value)?;
    let mut notices = Notices::new(key);
    let spec = object.spec.unwrap_or_default();
    let words = object.metadata.annotations.unwrap_or_default();
    let (mut internal_ips, mut external_ips) = (vec![], vec![]);
    let addresses = object.status.and_then(|s| s.addresses).unwrap_or_default();
    for (i, address) in addresses.into_iter().enumerate() {
        let list = match address.type_.as_str() {
            "InternalIP" => &mut internal_ips,
            "ExternalIP" => &mut external_ips,
            _ => continue,
        };
        let field = format!("status.addresses[{i}].address");
        list.extend(notices.parse::<IpAddr>(field, &address.address, "an IP address"));
    }
    let (communities, large_communities, ext_communities) = communities(&words, &mut notices);
    let (peers, peer_ranges) = peers(&words, &mut notices);
    let node = Node {
        name: key.name.clone(),
        internal_ips,
        external_ips,
        pod_cidrs: pod_cidrs(&words, spec.pod_cidrs, spec.pod_cidr, &mut notices),
        asn: own_asn(&words, "kube-router.io/node.asn", &mut notices),
        communities,
        large_communities,
        ext_communities,
        reflector: reflector(&words, &mut notices),
        bgp_local_addresses: addresses_of(&words, "kube-router.io/bgp-local-addresses", &mut notices),
        unschedulable: spec.unschedulable.unwrap_or(false),
        path_prepend: path_prepend(&words, &mut notices),
        import_reject: cidrs(&words, "kube-router.io/node.bgp.customimportreject", &mut notices).unwrap_or_default(),
        peers,
        peer_ranges,
    };
    Ok((Object::Node(Arc::new(node)), notices.list))
}

/// A comma list of prefixes, if the annotation is there.
fn cidrs(words: &Words, name: &str, notices: &mut Notices) -> Option<Vec<IpNet>> {
    let list = words.get(name)?;
    let entries = list.split(',').map(str::trim).filter(|t| !t.is_empty());
    Some(entries.filter_map(|t| notices.parse(field(name), t, "a CIDR")).collect())
}

/// One order of sources everywhere: `pod-cidr`, `pod-cidrs`, `spec.podCIDRs`, `spec.podCIDR`. The first that has a CIDR
/// counts, whole; a source with nothing but mistakes counts as absent.
fn pod_cidrs(words: &Words, list: Option<Vec<String>>, one: Option<String>, notices: &mut Notices) -> Vec<IpNet> {
    for name in ["kube-router.io/pod-cidr", "kube-router.io/pod-cidrs"] {
        match cidrs(words, name, notices) {
            Some(found) if !found.is_empty() => return networks(found),
            _ => {}
        }
    }
    for (name, texts) in [("spec.podCIDRs", list.unwrap_or_default()), ("spec.podCIDR", one.into_iter().collect())] {
        let texts = texts.iter().map(|text| text.trim()).filter(|text| !text.is_empty());
        let found: Vec<IpNet> = texts.filter_map(|text| notices.parse(name, text, "a CIDR")).collect();
        if !found.is_empty() {
            return networks(found);
        }
    }
    vec![]
}

/// Each network once, as Go reads a CIDR: without the host's bits.
fn networks(cidrs: Vec<IpNet>) -> Vec<IpNet> {
    let mut found: Vec<IpNet> = vec![];
    for network in cidrs.iter().map(IpNet::trunc) {
        if !found.contains(&network) {
            found.push(network);
        }
    }
    found
}

fn number(words: &Words, name: &str, notices: &mut Notices) -> Option<u32> {
    let text = words.get(name)?;
    let number = go_u32(text);
    if number.is_none() {
        notices.add(field(name), format!("`{text}` is not a number of 32 bits"));
    }
    number
}

/// AS numbers that nobody can have: none (RFC 7607), the stand-in for larger ones (RFC 6793), the last ones (RFC 7300).
const NOBODYS: [u32; 4] = [0, 23_456, 65_535, u32::MAX];

/// Whether no neighbour can have an AS number, as kube-router judges: for documentation (RFC 5398) and to come are out, too.
const fn is_reserved(asn: u32) -> bool {
    matches!(asn, 0 | 23_456 | 64_000..=64_511 | 65_535..=131_071 | u32::MAX)
}

/// An AS number of this node's.
fn own_asn(words: &Words, name: &str, notices: &mut Notices) -> Option<u32> {
    let asn = number(words, name, notices)?;
    if NOBODYS.contains(&asn) {
        notices.add(field(name), format!("{asn} is reserved, no AS can have it"));
        return None;
    }
    Some(asn)
}

/// The part of the node in route reflection. As for kube-router, a server is no client.
fn reflector(words: &Words, notices: &mut Notices) -> Option<Reflector> {
    let mut read = |name: &str| {
        let text = words.get(name)?;
        let id = text.parse::<Ipv4Addr>().ok().or_else(|| go_u32(text).map(Ipv4Addr::from_bits));
        let id = id.filter(|id| !id.is_unspecified());
        if id.is_none() {
            notices.add(field(name), format!("`{text}` is no cluster id (42, or 10.0.0.1)"));
        }
        id
    };
    let server = read("kube-router.io/rr.server").map(Reflector::Server);
    server.or_else(|| read("kube-router.io/rr.client").map(Reflector::Client))
}

fn addresses_of(words: &Words, name: &str, notices: &mut Notices) -> Vec<IpAddr> {
    let texts = words.get(name).into_iter().flat_map(|list| list.split(',')).map(str::trim).filter(|t| !t.is_empty());
    texts.filter_map(|t| notices.parse(field(name), t, "an IP address")).collect()
}

/// A large community (RFC 8092).
fn large(text: &str) -> Option<[u32; 3]> {
    let mut parts = text.split(':').map(|p| p.parse().ok());
    let three = [parts.next()??, parts.next()??, parts.next()??];
    parts.next().is_none().then_some(three)
}

/// An extended community: a route target or origin of a two-octet AS, a four-octet AS or an IPv4 address (RFC 4360,
/// 5668).
fn extended(text: &str) -> Option<[u8; 8]> {
    let (kind, rest) = text.split_once(':')?;
    let subtype = match kind.to_ascii_lowercase().as_str() {
        "rt" => 2,
        "soo" => 3,
        _ => return None,
    };
    let (admin, value) = rest.rsplit_once(':')?;
    let mut bytes = [0, subtype, 0, 0, 0, 0, 0, 0];
    if let Ok(asn) = admin.parse::<u16>() {
        bytes[2..4].copy_from_slice(&asn.to_be_bytes());
        bytes[4..].copy_from_slice(&value.parse::<u32>().ok()?.to_be_bytes());
    } else {
        let (kind, four) = match admin.parse::<Ipv4Addr>() {
            Ok(address) => (1, address.octets()),
            Err(_) => (2, admin.parse::<u32>().ok()?.to_be_bytes()),
        };
        bytes[0] = kind;
        bytes[2..6].copy_from_slice(&four);
        bytes[6..].copy_from_slice(&value.parse::<u16>().ok()?.to_be_bytes());
    }
    Some(bytes)
}

/// Standard communities: a number of 32 bits, `a:b` of 16 bits each, or a well-known name (RFC 1997, 8326, 9494); large
/// and extended ones.
fn communities(words: &Words, notices: &mut Notices) -> (Vec<u32>, Vec<[u32; 3]>, Vec<[u8; 8]>) {
    let name = "kube-router.io/node.bgp.communities";
    let (mut found, mut large_ones, mut extended_ones) = (vec![], vec![], vec![]);
    for text in words.get(name).into_iter().flat_map(|list| list.split(',')).map(str::trim) {
        let known = match text.to_ascii_lowercase().as_str() {
            "graceful-shutdown" => Some(0xffff_0000),
            "accept-own" => Some(0xffff_0001),
            "llgr-stale" => Some(0xffff_0006),
            "no-llgr" => Some(0xffff_0007),
            "blackhole" => Some(0xffff_029a),
            "no-export" => Some(0xffff_ff01),
            "no-advertise" => Some(0xffff_ff02),
            "no-export-subconfed" => Some(0xffff_ff03),
            "no-peer" => Some(0xffff_ff04),
            _ => None,
        };
        let pair = || {
            let (a, b) = text.split_once(':')?;
            Some(u32::from(a.parse::<u16>().ok()?) << 16 | u32::from(b.parse::<u16>().ok()?))
        };
        match known.or_else(pair).or_else(|| text.parse().ok()) {
            Some(community) => found.push(community),
            None => match (large(text), extended(text)) {
                (Some(community), _) => large_ones.push(community),
                (None, Some(community)) => extended_ones.push(community),
                (None, None) => {
                    let forms = "65001:100, no-export, 65001:1:2, rt:65001:100";
                    notices.add(field(name), format!("`{text}` is not a community ({forms})"));
                }
            },
        }
    }
    (found, large_ones, extended_ones)
}

fn path_prepend(words: &Words, notices: &mut Notices) -> Option<(u32, u8)> {
    let (name_as, name_n) = ("kube-router.io/path-prepend.as", "kube-router.io/path-prepend.repeat-n");
    match (words.get(name_as), words.get(name_n)) {
        (None, None) => None,
        (Some(_), Some(times)) => {
            let asn = own_asn(words, name_as, notices)?;
            let times = notices.parse::<NonZeroU8>(field(name_n), times, "a number of 1-255")?;
            Some((asn, times.get()))
        }
        (Some(_), None) => {
            notices.add(field(name_as), format!("{name_n} is missing; nothing is prepended"));
            None
        }
        (None, Some(_)) => {
            notices.add(field(name_n), format!("{name_as} is missing; nothing is prepended"));
            None
        }
    }
}

/// One item of `kube-router.io/peers`.
#[derive(Default, Deserialize)]
#[serde(default)]
struct PeerItem {
    remoteip: Option<String>,
    remoteasn: Option<u32>,
    localip: Option<String>,
    password: Option<String>,
    port: Option<u16>,
    bfd: Option<BfdItem>,
    // Ours.
    holdtime: Option<u16>,
    passive: bool,
    multihopttl: Option<u8>,
    ttlsecurity: Option<u8>,
    localasn: Option<u32>,
    allowasin: u8,
    maxprefixes: Option<u32>,
    maxprefixesrestart: Option<u32>,
    addpath: AddPathItem,
    extendednexthop: bool,
    /// Everything else.
    #[serde(flatten)]
    unknown: BTreeMap<String, Value>,
}

/// `bfd` of an item; intervals in milliseconds.
#[derive(Default, Deserialize)]
#[serde(default)]
struct BfdItem {
    enabled: bool,
    port: Option<u16>,
    desired_min_tx_interval: Option<u32>,
    required_min_rx_interval: Option<u32>,
    detection_multiplier: Option<u8>,
    #[serde(flatten)]
    unknown: BTreeMap<String, Value>,
}

/// `addpath` of an item.
#[derive(Default, Deserialize)]
#[serde(default)]
struct AddPathItem {
    receive: bool,
    send: u8,
    #[serde(flatten)]
    unknown: BTreeMap<String, Value>,
}

impl BfdItem {
    fn read(&self, at: &str, notices: &mut Notices) -> Option<BfdConfig> {
        if !self.enabled {
            return None;
        }
        let default = BfdConfig::default();
        let bfd = BfdConfig {
            port: self.port.unwrap_or(default.port),
            desired_min_tx_ms: self.desired_min_tx_interval.unwrap_or(default.desired_min_tx_ms),
            required_min_rx_ms: self.required_min_rx_interval.unwrap_or(default.required_min_rx_ms),
            multiplier: self.detection_multiplier.unwrap_or(default.multiplier),
        };
        // The protocol counts microseconds in 32 bits.
        let interval = |ms: u32| (1..=4_294_967).contains(&ms);
        if !interval(bfd.desired_min_tx_ms) || !interval(bfd.required_min_rx_ms) || bfd.multiplier == 0 || bfd.port == 0
        {
            notices.add(at, "bfd: intervals are 1-4294967 ms, the multiplier is 1-255; no BFD");
            return None;
        }
        Some(bfd)
    }
}

fn peers(words: &Words, notices: &mut Notices) -> (Vec<BgpPeer>, Vec<BgpPeerRange>) {
    let name = "kube-router.io/peers";
    let Some(text) = words.get(name) else { return (peer_lists(words, notices), vec![]) };
    let items: Vec<Value> = match serde_saphyr::from_str(text) {
        Ok(items) => items,
        Err(error) => {
            notices.add(field(name), format!("not a YAML list of peers: {}", first_line(&error.to_string())));
            return (vec![], vec![]);
        }
    };
    let (mut found, mut ranges) = (vec![], vec![]);
    for (i, item) in items.into_iter().enumerate() {
        let at = format!("{}[{i}]", field(name));
        match serde_json::from_value::<PeerItem>(item) {
            Ok(item) if item.remoteip.as_ref().is_some_and(|text| text.contains('/')) => {
                ranges.extend(peer_range(item, &at, notices));
            }
            Ok(item) => found.extend(peer(item, &at, notices)),
            Err(error) => notices.add(at, error.to_string()),
        }
    }
    (found, ranges)
}

/// Neighbours that dial, from anywhere in a prefix.
fn peer_range(item: PeerItem, at: &str, notices: &mut Notices) -> Option<BgpPeerRange> {
    let range: IpNet = notices.parse(at, item.remoteip.as_deref()?, "an IP address or prefix")?;
    let useless = [item.localip.is_some(), item.password.is_some(), item.port.is_some()];
    for (key, _) in ["localip", "password", "port"].iter().zip(useless).filter(|(_, given)| *given) {
        notices.add(at, format!("{key} has no meaning for a range of neighbours; ignored"));
    }
    let one = Some(range.addr().to_string());
    let item = PeerItem { remoteip: one, localip: None, password: None, port: None, ..item };
    let BgpPeer { asn, bfd, options, .. } = peer(item, at, notices)?;
    Some(BgpPeerRange { range: range.trunc(), asn, bfd, options: PeerOptions { passive: true, ..options } })
}

fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or_default()
}

fn peer(item: PeerItem, at: &str, notices: &mut Notices) -> Option<BgpPeer> {
    let bfd_unknown = item.bfd.iter().flat_map(|bfd| bfd.unknown.keys().map(|key| format!("bfd.{key}")));
    let add_path_unknown = item.addpath.unknown.keys().map(|key| format!("addpath.{key}"));
    for key in item.unknown.keys().cloned().chain(bfd_unknown).chain(add_path_unknown) {
        notices.add(at, format!("there is no key `{key}`; ignored"));
    }
    let Some(remote) = item.remoteip else {
        notices.add(at, "remoteip is missing");
        return None;
    };
    let Some(asn) = item.remoteasn else {
        notices.add(at, "remoteasn is missing");
        return None;
    };
    let address = notices.parse(at, &remote, "an IP address")?;
    let local = match item.localip.filter(|t| !t.is_empty()) {
        Some(text) => Some(notices.parse(at, &text, "an IP address")?),
        None => None,
    };
    let password = match item.password.filter(|t| !t.is_empty()) {
        Some(text) => match base64(&text) {
            Some(password) => Some(password),
            None => {
                notices.add(at, "the password is not base64 text");
                return None;
            }
        },
        None => None,
    };
    let bfd = item.bfd.as_ref().and_then(|bfd| bfd.read(at, notices));
    let wrong = [
        (matches!(item.holdtime, Some(1 | 2)), "holdtime is 0, or 3 and more"),
        (item.multihopttl == Some(0), "multihopttl is 1-255"),
        (item.ttlsecurity == Some(0), "ttlsecurity is 1-255"),
        (item.multihopttl.is_some() && item.ttlsecurity.is_some(), "multihopttl and ttlsecurity exclude each other"),
        (is_reserved(asn), "remoteasn is reserved; 1-23455, 23457-63999, 64512-65534 and 131072-4294967294 are not"),
        (item.localasn.is_some_and(|asn| NOBODYS.contains(&asn)), "localasn is reserved, no AS can have it"),
        (item.port == Some(0), "port is 1-65535"),
    ];
    if let Some((_, reason)) = wrong.iter().find(|(wrong, _)| *wrong) {
        notices.add(at, *reason);
        return None;
    }
    let options = PeerOptions {
        hold_s: item.holdtime,
        passive: item.passive,
        multihop_ttl: item.multihopttl,
        ttl_security: item.ttlsecurity,
        local_as: item.localasn,
        allow_own_as: item.allowasin,
        max_prefixes: item.maxprefixes,
        max_prefixes_restart_s: item.maxprefixesrestart,
        add_path_receive: item.addpath.receive,
        add_path_send: item.addpath.send,
        extended_next_hop: item.extendednexthop,
    };
    Some(BgpPeer { address, asn, port: item.port.unwrap_or(BGP_PORT), password, local, bfd, options })
}

/// The older form: five comma lists of one length.
fn peer_lists(words: &Words, notices: &mut Notices) -> Vec<BgpPeer> {
    let name = |what: &str| format!("kube-router.io/peer.{what}");
    let list = |what: &str| -> Option<Vec<String>> {
        words.get(&name(what)).map(|l| l.split(',').map(|t| t.trim().to_string()).collect())
    };
    let (ips, asns) = match (list("ips"), list("asns")) {
        (None, None) => return vec![],
        (Some(ips), Some(asns)) => (ips, asns),
        (Some(_), None) => {
            notices.add(field(&name("ips")), format!("{} is missing; no peers", name("asns")));
            return vec![];
        }
        (None, Some(_)) => {
            notices.add(field(&name("asns")), format!("{} is missing; no peers", name("ips")));
            return vec![];
        }
    };
    let others = [list("ports"), list("passwords"), list("localips")];
    for (what, other) in
        ["asns", "ports", "passwords", "localips"].iter().zip([&Some(asns.clone())].into_iter().chain(&others))
    {
        if let Some(other) = other
            && other.len() != ips.len()
        {
            let reason = format!("{} entries for {} peers; no peers", other.len(), ips.len());
            notices.add(field(&name(what)), reason);
            return vec![];
        }
    }
    let [ports, passwords, locals] = others;
    let nth = |list: &Option<Vec<String>>, i: usize| list.as_ref().and_then(|l| l.get(i)).cloned();
    let mut found = vec![];
    for (i, (ip, asn)) in ips.into_iter().zip(asns).enumerate() {
        let at = format!("{}[{i}]", field(&name("ips")));
        let port = match nth(&ports, i) {
            Some(text) => match notices.parse::<u16>(&at, &text, "a port") {
                Some(port) => Some(port),
                None => continue,
            },
            None => None,
        };
        let Some(remoteasn) = notices.parse::<u32>(&at, &asn, "an autonomous system number") else { continue };
        let item = PeerItem {
            remoteip: Some(ip),
            remoteasn: Some(remoteasn),
            localip: nth(&locals, i),
            password: nth(&passwords, i),
            port,
            ..PeerItem::default()
        };
        found.extend(peer(item, &at, notices));
    }
    found
}

/// Standard base64 (RFC 4648 section 4) of a text in UTF-8; `None`: it is something else. kube-router's passwords are
/// given so.
pub fn base64(text: &str) -> Option<String> {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let text = text.trim();
    let digits = text.trim_end_matches('=');
    if !text.len().is_multiple_of(4) || text.len() - digits.len() > 2 {
        return None;
    }
    let mut bytes = vec![];
    let (mut buffer, mut bits) = (0u32, 0u32);
    for digit in digits.bytes() {
        let value = ALPHABET.iter().position(|d| *d == digit)?;
        buffer = (buffer << 6 | u32::try_from(value).ok()?) & 0xffff;
        bits += 6;
        if bits >= 8 {
            bits -= 8;
            bytes.push(u8::try_from(buffer >> bits & 0xff).ok()?);
        }
    }
    String::from_utf8(bytes).ok()
}
