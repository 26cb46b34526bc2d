//! What a rule of iptables-nft says, as far as it shows whose it is.

use std::net::IpAddr;

use fairway_netlink::{Attribute, Attributes};

use crate::Part;

/// `NFTA_RULE_*`, `NFTA_LIST_ELEM`, `NFTA_EXPR_*`
pub(crate) const RULE_TABLE: u16 = 1;
pub(crate) const RULE_CHAIN: u16 = 2;
pub(crate) const RULE_HANDLE: u16 = 3;
const RULE_EXPRESSIONS: u16 = 4;
const RULE_USERDATA: u16 = 7;
const LIST_ELEMENT: u16 = 1;
const EXPRESSION_NAME: u16 = 1;
const EXPRESSION_DATA: u16 = 2;
/// `NFTA_MATCH_*` and `NFTA_TARGET_*`: name and the extension's own structure.
const EXTENSION_NAME: u16 = 1;
const EXTENSION_INFO: u16 = 3;
/// `NFTA_IMMEDIATE_DATA`, `NFTA_DATA_VERDICT`, `NFTA_VERDICT_CHAIN`
const IMMEDIATE_DATA: u16 = 2;
const DATA_VERDICT: u16 = 2;
const VERDICT_CHAIN: u16 = 2;
/// `NFTA_CMP_DATA`, `NFTA_DATA_VALUE`
const CMP_DATA: u16 = 3;
const DATA_VALUE: u16 = 1;
/// `NFTA_PAYLOAD_BASE`, `NFTA_PAYLOAD_OFFSET`, `NFTA_PAYLOAD_LEN`
const PAYLOAD_BASE: u16 = 2;
const PAYLOAD_OFFSET: u16 = 3;
const PAYLOAD_LENGTH: u16 = 4;
/// `NFTA_META_KEY`, `NFT_META_IIFNAME`, `NFT_META_L4PROTO`
const META_KEY: u16 = 2;
const META_IIFNAME: u32 = 6;
const META_L4PROTO: u32 = 16;
/// `NFT_PAYLOAD_NETWORK_HEADER`, `NFT_PAYLOAD_TRANSPORT_HEADER`
const NETWORK: u32 = 1;
const TRANSPORT: u32 = 2;

/// Beginnings of the names of kube-router's chains.
const CHAINS: [&str; 3] = ["KUBE-ROUTER-", "KUBE-POD-FW-", "KUBE-NWPLCY-"];
/// Comments of the three rules that accept what pods send and get.
const FORWARD: [&str; 3] = [
    "allow outbound traffic from pods",
    "allow inbound traffic to pods",
    "allow outbound node port traffic on node interface with which node ip is associated",
];

/// What a chain was for, if it is kube-router's.
pub(crate) fn chain_part(name: &str) -> Option<Part> {
    match name {
        "KUBE-ROUTER-SERVICES" | "KUBE-ROUTER-HAIRPIN" => Some(Part::Proxy),
        _ if CHAINS.iter().any(|start| name.starts_with(start)) => Some(Part::Policies),
        _ => None,
    }
}

/// The meanings that matter.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Facts {
    jump: Option<String>,
    /// Numbers of the ipsets it looks at.
    sets: Vec<u16>,
    ipvs: bool,
    target: Option<String>,
    mark: Option<u32>,
    comment: Option<String>,
    daddr: Option<IpAddr>,
    protocol: Option<u8>,
    dport: Option<u16>,
    in_interface: Option<String>,
}

/// What was loaded before a comparison.
enum Loaded {
    Nothing,
    InInterface,
    Protocol,
    Daddr,
    Dport,
}

fn text(bytes: &[u8]) -> Option<String> {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    String::from_utf8(bytes[..end].to_vec()).ok()
}

impl Facts {
    /// Reads a rule.
    pub(crate) fn read(rule: Attributes<'_>) -> Facts {
        let mut facts = Facts { comment: rule.get(RULE_USERDATA).and_then(comment), ..Facts::default() };
        let mut loaded = Loaded::Nothing;
        let list = rule.get(RULE_EXPRESSIONS).map(Attribute::nested);
        for expression in list.into_iter().flatten().filter(|e| e.kind == LIST_ELEMENT) {
            let expression = expression.nested();
            let (Some(name), Some(data)) =
                (expression.get(EXPRESSION_NAME).and_then(Attribute::text), expression.get(EXPRESSION_DATA))
            else {
                continue;
            };
            let data = data.nested();
            match name {
                "match" => facts.extension(data),
                "target" => facts.action(data),
                "immediate" => {
                    let verdict = data.get(IMMEDIATE_DATA).and_then(|d| d.nested().get(DATA_VERDICT));
                    let chain = verdict.and_then(|v| v.nested().get(VERDICT_CHAIN)).and_then(Attribute::text);
                    facts.jump = chain.map(String::from).or(facts.jump);
                }
                "meta" => {
                    loaded = match data.get(META_KEY).and_then(Attribute::be32) {
                        Some(META_IIFNAME) => Loaded::InInterface,
                        Some(META_L4PROTO) => Loaded::Protocol,
                        _ => Loaded::Nothing,
                    };
                }
                "payload" => loaded = payload(data),
                "cmp" => {
                    let value = data.get(CMP_DATA).and_then(|d| d.nested().get(DATA_VALUE)).map(|v| v.payload);
                    facts.compared(&loaded, value.unwrap_or_default());
                    loaded = Loaded::Nothing;
                }
                _ => {}
            }
        }
        facts
    }

    fn extension(&mut self, data: Attributes<'_>) {
        let info = data.get(EXTENSION_INFO).map(|i| i.payload).unwrap_or_default();
        let half = |at: usize| Some(u16::from_ne_bytes(info.get(at..at + 2)?.try_into().ok()?));
        match data.get(EXTENSION_NAME).and_then(Attribute::text) {
            // `struct xt_set_info` begins with the number of the set.
            Some("set") => self.sets.extend(half(0)),
            Some("ipvs") => self.ipvs = true,
            Some("comment") => self.comment = text(info),
            // `struct xt_tcp` and `struct xt_udp`: source ports, then destination ports, each from and to.
            Some("tcp" | "udp") => {
                if let (Some(from), Some(to)) = (half(4), half(6))
                    && from == to
                {
                    self.dport = Some(from);
                }
            }
            _ => {}
        }
    }

    fn action(&mut self, data: Attributes<'_>) {
        let info = data.get(EXTENSION_INFO).map(|i| i.payload).unwrap_or_default();
        self.target = data.get(EXTENSION_NAME).and_then(Attribute::text).map(String::from);
        if self.target.as_deref() == Some("MARK") {
            // `struct xt_mark_tginfo2`
            self.mark = info.get(..4).and_then(|bytes| bytes.try_into().ok()).map(u32::from_ne_bytes);
        }
    }

    fn compared(&mut self, loaded: &Loaded, value: &[u8]) {
        match loaded {
            Loaded::InInterface => self.in_interface = text(value),
            Loaded::Protocol => self.protocol = value.first().copied(),
            Loaded::Daddr => {
                let v4 = <[u8; 4]>::try_from(value).map(IpAddr::from);
                self.daddr = v4.or_else(|_| <[u8; 16]>::try_from(value).map(IpAddr::from)).ok();
            }
            Loaded::Dport => self.dport = value.try_into().ok().map(u16::from_be_bytes),
            Loaded::Nothing => {}
        }
    }

    /// The part of kube-router whose rule it is. `set` says what the ipset of a number was for.
    pub(crate) fn part(&self, table: &str, chain: &str, set: impl Fn(u16) -> Option<Part>) -> Option<Part> {
        if let Some(part) = self.jump.as_deref().and_then(chain_part) {
            return Some(part);
        }
        if let Some(part) = self.sets.iter().find_map(|index| set(*index)) {
            return Some(part);
        }
        let target = self.target.as_deref();
        match (table, chain) {
            ("filter", "FORWARD") => {
                let comment = self.comment.as_deref()?;
                FORWARD.contains(&comment).then_some(Part::Forward)
            }
            ("nat", "POSTROUTING") if self.ipvs && matches!(target, Some("SNAT" | "MASQUERADE")) => Some(Part::Proxy),
            ("mangle", "PREROUTING" | "OUTPUT") => {
                let clamps = target == Some("TCPMSS") && self.in_interface.as_deref() == Some("kube-bridge");
                (clamps || self.marks_a_service()).then_some(Part::Proxy)
            }
            _ => None,
        }
    }

    /// Whether the mark is the hash of what it matches: nobody else would choose that.
    fn marks_a_service(&self) -> bool {
        let protocol = match self.protocol {
            Some(6) => "tcp",
            Some(17) => "udp",
            Some(132) => "sctp",
            _ => return false,
        };
        let (Some(mark), Some(address), Some(port)) = (self.mark, self.daddr, self.dport) else { return false };
        let name = format!("{address}-{protocol}-{port}");
        // A mark that was taken already is hashed again with a number.
        (0..16).any(|again| mark == hash(&name, again))
    }

    /// In few words, for whoever reads what was removed.
    pub(crate) fn words(&self) -> String {
        let mut words = vec![];
        words.extend(self.comment.as_ref().filter(|text| !text.is_empty()).map(|text| format!("\"{text}\"")));
        words.extend(self.daddr.map(|address| format!("to {address}")));
        words.extend(self.dport.map(|port| format!("port {port}")));
        words.extend(self.ipvs.then(|| "of IPVS".to_string()));
        words.extend(self.mark.map(|mark| format!("mark {mark:#x}")));
        words.extend(self.jump.as_ref().or(self.target.as_ref()).map(|to| format!("-> {to}")));
        words.join(" ")
    }
}

/// kube-router's firewall mark of a service: FNV-1a in 14 bits.
fn hash(name: &str, again: u32) -> u32 {
    let suffix = if again == 0 { String::new() } else { format!("-{again}") };
    let bytes = name.bytes().chain(suffix.bytes());
    bytes.fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)) & 0x3fff
}

fn payload(data: Attributes<'_>) -> Loaded {
    let number = |kind| data.get(kind).and_then(Attribute::be32);
    match (number(PAYLOAD_BASE), number(PAYLOAD_OFFSET), number(PAYLOAD_LENGTH)) {
        // IPv4 and IPv6.
        (Some(NETWORK), Some(16), Some(4)) | (Some(NETWORK), Some(24), Some(16)) => Loaded::Daddr,
        (Some(NETWORK), Some(9), Some(1)) => Loaded::Protocol,
        (Some(TRANSPORT), Some(2), Some(2)) => Loaded::Dport,
        _ => Loaded::Nothing,
    }
}

/// iptables-nft keeps comments in what nftables has for it: type 0, a length of one octet, text.
fn comment(data: Attribute<'_>) -> Option<String> {
    let mut rest = data.payload;
    while let [kind, length, after @ ..] = rest {
        let value = after.get(..usize::from(*length))?;
        if *kind == 0 {
            return text(value);
        }
        rest = after.get(usize::from(*length)..)?;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_are_the_ones_that_kube_router_is_known_to_choose() {
        assert_eq!(hash("199.27.151.9-tcp-8080", 0), 14146);
        assert_eq!(hash("202.173.9.21-tcp-80", 0), 1481);
        assert_eq!(hash("10.0.0.1-udp-53", 0), 4554);
    }

    #[test]
    fn a_mark_is_kube_routers_only_with_the_match_it_follows_from() {
        let facts = Facts {
            target: Some("MARK".into()),
            mark: Some(14146),
            daddr: Some(IpAddr::from([199, 27, 151, 9])),
            protocol: Some(6),
            dport: Some(8080),
            ..Facts::default()
        };
        assert_eq!(facts.part("mangle", "PREROUTING", |_| None), Some(Part::Proxy));
        assert_eq!(Facts { mark: Some(1), ..facts }.part("mangle", "PREROUTING", |_| None), None);
    }

    #[test]
    fn whatever_the_kernel_says_is_read_without_panic() {
        for length in 0..64 {
            let bytes: Vec<u8> = (0..length).map(|n: u8| n.wrapping_mul(37)).collect();
            assert_eq!(Facts::read(Attributes::new(&bytes)).jump, None);
        }
    }
}
