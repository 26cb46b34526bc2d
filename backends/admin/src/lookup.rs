//! Which prefixes a request asks for.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;

/// How a wanted prefix selects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// This prefix; of an address, the longest prefix that has it.
    Exact,
    /// It and all inside.
    Longer,
    /// It and all around.
    Shorter,
}

/// A filter of routes; without entries everything passes.
#[derive(Debug, Default)]
pub(crate) struct Lookup {
    any: bool,
    exact: BTreeSet<IpNet>,
    hosts: Vec<IpAddr>,
    longer: Vec<IpNet>,
    shorter: Vec<IpNet>,
}

impl Lookup {
    /// One more prefix or address; whether it is one.
    pub(crate) fn add(&mut self, text: &str, kind: Kind) -> bool {
        self.any = true;
        match (text.parse::<IpNet>(), text.parse::<IpAddr>(), kind) {
            (Ok(net), _, Kind::Exact) => {
                self.exact.insert(net.trunc());
            }
            (_, Ok(host), Kind::Exact) => self.hosts.push(host),
            (Ok(net), _, Kind::Longer) => self.longer.push(net.trunc()),
            (_, Ok(host), Kind::Longer) => self.longer.push(host.into()),
            (Ok(net), _, Kind::Shorter) => self.shorter.push(net.trunc()),
            (_, Ok(host), Kind::Shorter) => self.shorter.push(host.into()),
            _ => return false,
        }
        true
    }

    /// Addresses become the longest of these prefixes that has them.
    pub(crate) fn resolve<'a>(&mut self, prefixes: impl Iterator<Item = &'a IpNet>) {
        let mut best: Vec<Option<IpNet>> = vec![None; self.hosts.len()];
        for prefix in prefixes {
            for (host, best) in self.hosts.iter().zip(&mut best) {
                if prefix.contains(host) && best.is_none_or(|b| b.prefix_len() < prefix.prefix_len()) {
                    *best = Some(*prefix);
                }
            }
        }
        self.hosts.clear();
        self.exact.extend(best.into_iter().flatten());
    }

    /// Whether a prefix is wanted.
    pub(crate) fn wants(&self, prefix: &IpNet) -> bool {
        !self.any
            || self.exact.contains(prefix)
            || self.longer.iter().any(|net| net.contains(prefix))
            || self.shorter.iter().any(|net| prefix.contains(net))
    }
}

#[cfg(test)]
mod tests {
    use super::{Kind, Lookup};
    use ipnet::IpNet;

    fn found(wanted: &[(&str, Kind)]) -> Vec<&'static str> {
        let all = ["0.0.0.0/0", "10.0.0.0/8", "10.1.0.0/16", "10.1.2.0/24", "2001:db8::/32", "2001:db8:1::/48"];
        let nets: Vec<IpNet> = all.iter().map(|p| p.parse().unwrap()).collect();
        let mut lookup = Lookup::default();
        assert!(wanted.iter().all(|(text, kind)| lookup.add(text, *kind)));
        lookup.resolve(nets.iter());
        all.into_iter().zip(&nets).filter(|(_, net)| lookup.wants(net)).map(|(text, _)| text).collect()
    }

    #[test]
    fn selects() {
        assert_eq!(found(&[]).len(), 6);
        assert_eq!(found(&[("10.1.0.0/16", Kind::Exact)]), ["10.1.0.0/16"]);
        assert_eq!(found(&[("10.1.9.9/16", Kind::Exact)]), ["10.1.0.0/16"]);
        assert_eq!(found(&[("10.1.9.9", Kind::Exact)]), ["10.1.0.0/16"]);
        assert_eq!(found(&[("192.0.2.1", Kind::Exact)]), ["0.0.0.0/0"]);
        assert_eq!(found(&[("2001:db8:1::1", Kind::Exact)]), ["2001:db8:1::/48"]);
        assert_eq!(found(&[("2001:db9::1", Kind::Exact)]), [""; 0]);
        assert_eq!(found(&[("10.1.0.0/16", Kind::Longer)]), ["10.1.0.0/16", "10.1.2.0/24"]);
        assert_eq!(found(&[("10.1.0.0/16", Kind::Shorter)]), ["0.0.0.0/0", "10.0.0.0/8", "10.1.0.0/16"]);
        assert_eq!(found(&[("10.1.2.0/24", Kind::Exact), ("10.0.0.0/8", Kind::Exact)]), ["10.0.0.0/8", "10.1.2.0/24"]);
        assert!(!Lookup::default().add("10.0.0.0/33", Kind::Exact));
    }
}
