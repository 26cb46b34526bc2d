//! Chains and rules: those of iptables-nft, and the tables of kube-router's own choice of nftables.

use std::collections::BTreeMap;

use fairway_netlink::{Attribute, Attributes, Error, Message, Socket};

use crate::facts::{Facts, RULE_CHAIN, RULE_HANDLE, RULE_TABLE, chain_part};
use crate::{Leftover, Part, What, ipset};

/// `NFNL_SUBSYS_NFTABLES`
const SUBSYSTEM: u16 = 10;
/// `NFNL_MSG_BATCH_BEGIN`, `NFNL_MSG_BATCH_END`
const BEGIN: u16 = 0x10;
const END: u16 = 0x11;
/// `NFT_MSG_*`
const NEW_TABLE: u16 = 0;
const GET_TABLE: u16 = 1;
const DEL_TABLE: u16 = 2;
const NEW_CHAIN: u16 = 3;
const GET_CHAIN: u16 = 4;
const DEL_CHAIN: u16 = 5;
const NEW_RULE: u16 = 6;
const GET_RULE: u16 = 7;
const DEL_RULE: u16 = 8;
/// `NFTA_TABLE_NAME`, `NFTA_CHAIN_TABLE`, `NFTA_CHAIN_NAME`
const TABLE_NAME: u16 = 1;
const CHAIN_TABLE: u16 = 1;
const CHAIN_NAME: u16 = 3;
/// `NFPROTO_IPV4`, `NFPROTO_IPV6`: where iptables-nft and ip6tables-nft have their tables.
const FAMILIES: [(u8, &str); 2] = [(2, "iptables"), (10, "ip6tables")];
const TABLES: [&str; 3] = ["filter", "nat", "mangle"];
/// With `--use-nftables-for-netpol`.
const OWN_TABLES: [(u8, &str); 2] = [(2, "kube-router-filter-ipv4"), (10, "kube-router-filter-ipv6")];
/// Length of `struct nfgenmsg`.
const HEADER: usize = 4;

fn about(kind: u16, family: u8) -> Message {
    let mut message = Message::new(SUBSYSTEM << 8 | kind, 0);
    message.raw(&[family, 0, 0, 0]);
    message
}

fn frame(kind: u16) -> Message {
    let mut message = Message::new(kind, 0);
    let [high, low] = SUBSYSTEM.to_be_bytes();
    message.raw(&[0, 0, high, low]);
    message
}

fn attributes(payload: &[u8]) -> Attributes<'_> {
    Attributes::new(payload.get(HEADER..).unwrap_or_default())
}

fn text(attributes: Attributes<'_>, kind: u16) -> Option<String> {
    attributes.get(kind)?.text().map(String::from)
}

/// Everything of one kind, in all families.
fn dump<T>(
    socket: &mut Socket,
    (request, answer): (u16, u16),
    read: impl Fn(u8, Attributes<'_>) -> Option<T>,
) -> Result<Vec<T>, Error> {
    let mut found = vec![];
    socket.dump(&about(request, 0), &mut found, Vec::clear, |found, kind, payload| {
        if kind == SUBSYSTEM << 8 | answer
            && let Some(family) = payload.first()
        {
            found.extend(read(*family, attributes(payload)));
        }
    })?;
    Ok(found)
}

/// The command that shows a family's rules.
fn tool(family: u8) -> Option<&'static str> {
    FAMILIES.iter().find(|(number, _)| *number == family).map(|(_, tool)| *tool)
}

pub(crate) fn observe(socket: &mut Socket) -> Result<Vec<Leftover>, Error> {
    let mut numbers = BTreeMap::new();
    for name in crate::if_there(ipset::list(socket))? {
        if let Some(part) = ipset::part(&name)
            && let Some(number) = ipset::index(socket, &name)?
        {
            numbers.insert(number, part);
        }
    }
    let rules = dump(socket, (GET_RULE, NEW_RULE), |family, rule| {
        let (table, chain) = (text(rule, RULE_TABLE)?, text(rule, RULE_CHAIN)?);
        if !TABLES.contains(&table.as_str()) || chain_part(&chain).is_some() {
            return None;
        }
        let facts = Facts::read(rule);
        let part = facts.part(&table, &chain, |number| numbers.get(&number).copied())?;
        let handle = rule.get(RULE_HANDLE).and_then(Attribute::be64)?;
        let text = format!("rule of {} in {table} {chain}: {}", tool(family)?, facts.words());
        Some(Leftover { part, text, what: What::Rule { family, table, chain, handle } })
    })?;
    let chains = dump(socket, (GET_CHAIN, NEW_CHAIN), |family, chain| {
        let (table, name) = (text(chain, CHAIN_TABLE)?, text(chain, CHAIN_NAME)?);
        let part = chain_part(&name).filter(|_| TABLES.contains(&table.as_str()))?;
        let text = format!("chain of {} in {table}: {name}", tool(family)?);
        Some(Leftover { part, text, what: What::Chain { family, table, chain: name } })
    })?;
    let tables = dump(socket, (GET_TABLE, NEW_TABLE), |family, table| {
        let name = text(table, TABLE_NAME)?;
        OWN_TABLES.contains(&(family, name.as_str())).then(|| Leftover {
            part: Part::Policies,
            text: format!("table of nftables: {name}"),
            what: What::Table { family, table: name },
        })
    })?;
    Ok(rules.into_iter().chain(chains).chain(tables).collect())
}

pub(crate) const fn is_in_reach(what: &What) -> bool {
    matches!(what, What::Rule { .. } | What::Chain { .. } | What::Table { .. })
}

/// Takes everything away in one transaction: rules that jump to chains, what is in chains, then the chains.
pub(crate) fn remove(socket: &mut Socket, all: &[&What]) -> Result<(), String> {
    let mut batch = vec![frame(BEGIN)];
    for what in all {
        match what {
            What::Rule { family, table, chain, handle } => {
                let mut message = about(DEL_RULE, *family);
                message.text(RULE_TABLE, table).text(RULE_CHAIN, chain).be64(RULE_HANDLE, *handle);
                batch.push(message);
            }
            What::Chain { family, table, chain } => {
                let mut message = about(DEL_RULE, *family);
                message.text(RULE_TABLE, table).text(RULE_CHAIN, chain);
                batch.push(message);
            }
            _ => {}
        }
    }
    for what in all {
        match what {
            What::Chain { family, table, chain } => {
                let mut message = about(DEL_CHAIN, *family);
                message.text(CHAIN_TABLE, table).text(CHAIN_NAME, chain);
                batch.push(message);
            }
            What::Table { family, table } => {
                let mut message = about(DEL_TABLE, *family);
                message.text(TABLE_NAME, table);
                batch.push(message);
            }
            _ => {}
        }
    }
    batch.push(frame(END));
    let results = socket.transaction(batch).map_err(|error| error.to_string())?;
    match results.into_iter().find_map(Result::err) {
        None => Ok(()),
        Some(errno) => Err(format!("the kernel refuses the transaction: {errno}")),
    }
}
