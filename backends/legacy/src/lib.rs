//! What kube-router leaves in a kernel, and taking it away.
//!
//! Its links, addresses, virtual servers and learned routes have the same owner marks as ours, so the other backends
//! know them. Here is what has no counterpart in our planes: the rules and chains of iptables (by way of nftables, as
//! iptables-nft writes them), ipsets, tunnels, the routing tables 77 to 79 with their rules, and the names of these in
//! `rt_tables`. An entry counts as kube-router's only by something that nobody else writes: a name, a comment, a set
//! that it uses, or the firewall mark that follows from what the rule matches.
//!
//! The tables of the older iptables (`iptables-legacy`) have no netlink; whether there are any is seen, and said.
//!
//! Deliberately not here: which of it should go, and when. Start reading at [`Legacy`].

mod facts;
mod ipset;
mod nft;
mod routing;

use std::fmt;
use std::fs;
use std::io;

use fairway_netlink::{Errno, Error, Protocol, Socket};

pub use routing::is_tunnel_name;

/// Which of kube-router's tasks an entry served.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// Services: masquerading, protection of service addresses, hairpins, direct server return.
    Proxy,
    /// Masquerading of what pods send out of the cluster.
    Egress,
    /// Network policies.
    Policies,
    /// The three rules that accept what pods send and get, on hosts whose firewall would drop it.
    Forward,
    /// Tunnels to nodes of other subnets.
    Overlay,
    /// Names of routing tables, in files.
    Names,
}

impl Part {
    /// All of them.
    pub const ALL: [Part; 6] = [Part::Proxy, Part::Egress, Part::Policies, Part::Forward, Part::Overlay, Part::Names];
}

/// An entry of kube-router's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leftover {
    /// What it was for.
    pub part: Part,
    what: What,
    text: String,
}

impl fmt::Display for Leftover {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// How to find an entry again.
#[derive(Clone, Debug, PartialEq, Eq)]
enum What {
    /// A rule in a chain that is not kube-router's.
    Rule { family: u8, table: String, chain: String, handle: u64 },
    /// A chain, with its rules.
    Chain { family: u8, table: String, chain: String },
    /// A table of nftables.
    Table { family: u8, table: String },
    /// An ipset.
    Set(String),
    /// A request that takes it away, of rtnetlink.
    Routing { kind: u16, body: Vec<u8> },
    /// A line in a file.
    Line { file: String, line: String },
    /// A table that netlink does not reach.
    Unreachable,
}

/// Why nothing can be said.
#[derive(Debug)]
pub enum LookError {
    /// The system gave no socket.
    Io(io::Error),
    /// The kernel did not answer.
    Kernel(Error),
}

impl fmt::Display for LookError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LookError::Io(error) => write!(f, "no netlink socket: {error}"),
            LookError::Kernel(error) => write!(f, "what kube-router left cannot be read: {error}"),
        }
    }
}

impl std::error::Error for LookError {}

impl From<io::Error> for LookError {
    fn from(error: io::Error) -> Self {
        LookError::Io(error)
    }
}

impl From<Error> for LookError {
    fn from(error: Error) -> Self {
        LookError::Kernel(error)
    }
}

/// Sockets of the network namespace of the thread that opened them.
#[derive(Debug)]
pub struct Legacy {
    /// `None`: this kernel has no nfnetlink.
    netfilter: Option<Socket>,
    route: Socket,
}

/// `EPROTONOSUPPORT`
const NO_PROTOCOL: i32 = 93;
/// What a kernel says that has no nftables, or no ipset: `EINVAL`, `EOPNOTSUPP`.
const ABSENT: [i32; 2] = [22, 95];

/// An answer, where a kernel without that feature has none.
fn if_there<T: Default>(answer: Result<T, Error>) -> Result<T, Error> {
    match answer {
        Err(Error::Errno(errno)) if ABSENT.contains(&errno.0) => Ok(T::default()),
        answer => answer,
    }
}

impl Legacy {
    /// Opens sockets in the network namespace of the calling thread.
    ///
    /// # Errors
    /// If the system gives none.
    pub fn open() -> io::Result<Legacy> {
        let netfilter = match Socket::open(Protocol::Netfilter) {
            Ok(socket) => Some(socket),
            Err(error) if error.raw_os_error() == Some(NO_PROTOCOL) => None,
            Err(error) => return Err(error),
        };
        Ok(Legacy { netfilter, route: Socket::open(Protocol::Route)? })
    }

    /// Everything that kube-router left, in the order in which it can be taken away.
    ///
    /// # Errors
    /// If the kernel does not answer. A kernel without a feature has nothing in it.
    pub fn observe(&mut self) -> Result<Vec<Leftover>, LookError> {
        let mut all = vec![];
        if let Some(socket) = &mut self.netfilter {
            let sets = if_there(ipset::list(socket))?;
            all.extend(if_there(nft::observe(socket))?);
            all.extend(sets.into_iter().filter_map(|name| {
                let part = ipset::part(&name)?;
                Some(Leftover { part, text: format!("ipset {name}"), what: What::Set(name) })
            }));
        }
        all.extend(routing::observe(&mut self.route)?);
        all.extend(names());
        all.extend(unreachable_tables());
        Ok(all)
    }

    /// Takes entries away, in this order. Returns what the kernel, or the file system, said about each.
    pub fn remove(&mut self, leftovers: &[Leftover]) -> Vec<Result<(), String>> {
        let nft: Vec<&What> = leftovers.iter().map(|l| &l.what).filter(|w| nft::is_in_reach(w)).collect();
        // One transaction, so that chains and the rules that jump to them go together.
        let transaction = match &mut self.netfilter {
            Some(socket) if !nft.is_empty() => nft::remove(socket, &nft),
            _ => Ok(()),
        };
        leftovers.iter().map(|leftover| self.remove_one(&leftover.what, &transaction)).collect()
    }

    fn remove_one(&mut self, what: &What, transaction: &Result<(), String>) -> Result<(), String> {
        match what {
            What::Rule { .. } | What::Chain { .. } | What::Table { .. } => transaction.clone(),
            What::Set(name) => match &mut self.netfilter {
                Some(socket) => ipset::destroy(socket, name),
                None => Err("no nfnetlink".into()),
            },
            What::Routing { kind, body } => routing::remove(&mut self.route, *kind, body),
            What::Line { file, line } => remove_line(file, line).map_err(|error| error.to_string()),
            What::Unreachable => Err("out of reach of netlink".into()),
        }
    }
}

/// What a request led to; what is gone already is as good as removed.
fn settled(error: &Error) -> Result<(), String> {
    /// `ENOENT`, `ESRCH`, `ENODEV`, `EADDRNOTAVAIL`
    const GONE: [i32; 4] = [2, 3, 19, 99];
    match error {
        Error::Errno(Errno(errno)) if GONE.contains(errno) => Ok(()),
        error => Err(error.to_string()),
    }
}

/// Where iproute2 looks for names of routing tables.
const NAMES: [&str; 3] = ["/etc/iproute2/rt_tables", "/usr/lib/iproute2/rt_tables", "/usr/share/iproute2/rt_tables"];
const ALIASES: [(&str, &str); 3] = [("77", "kube-router"), ("78", "kube-router-dsr"), ("79", "external_ip")];

fn is_alias(line: &str) -> bool {
    let mut words = line.split_whitespace();
    let pair = (words.next(), words.next(), words.next());
    ALIASES.iter().any(|(number, name)| pair == (Some(number), Some(name), None))
}

/// Lines of kube-router's with names of its tables.
fn names() -> Vec<Leftover> {
    let mut all = vec![];
    for file in NAMES {
        let text = fs::read_to_string(file).unwrap_or_default();
        all.extend(text.lines().filter(|line| is_alias(line)).map(|line| Leftover {
            part: Part::Names,
            text: format!("line `{line}` in {file}"),
            what: What::Line { file: file.into(), line: line.into() },
        }));
    }
    all
}

fn remove_line(file: &str, line: &str) -> io::Result<()> {
    let text = fs::read_to_string(file)?;
    let kept: String = text.split_inclusive('\n').filter(|there| there.trim_end_matches('\n') != line).collect();
    // In place: the file may be mounted by itself.
    if kept == text { Ok(()) } else { fs::write(file, kept) }
}

/// Tables of iptables-legacy that are in use in this namespace: kube-router may have written there, and we cannot look.
fn unreachable_tables() -> Vec<Leftover> {
    let mut all = vec![];
    for (file, tool) in [("ip_tables_names", "iptables-legacy"), ("ip6_tables_names", "ip6tables-legacy")] {
        let text = fs::read_to_string(format!("/proc/thread-self/net/{file}")).unwrap_or_default();
        for table in text.lines().filter(|table| ["filter", "nat", "mangle"].contains(table)) {
            let text = format!(
                "table {table} of {tool}, out of our reach: `{tool}-save -t {table} | grep -v -e KUBE-ROUTER -e \
                 KUBE-POD-FW -e KUBE-NWPLCY -e kube-router- | {tool}-restore -T {table}` takes kube-router's rules away"
            );
            all.push(Leftover { part: Part::Proxy, text, what: What::Unreachable });
        }
    }
    all
}

impl Leftover {
    /// Whether it can be taken away at all; its text says how else.
    pub const fn is_in_reach(&self) -> bool {
        !matches!(self.what, What::Unreachable)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_kube_routers_names_of_tables_are_its() {
        for line in ["77 kube-router", "78\tkube-router-dsr", "79 external_ip"] {
            assert!(is_alias(line), "{line}");
        }
        for line in ["77 other", "#77 kube-router", "78 kube-router", "79 external_ip # mine", "255 local", ""] {
            assert!(!is_alias(line), "{line}");
        }
    }
}
