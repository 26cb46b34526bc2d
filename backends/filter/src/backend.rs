//! The backend: one socket, and the table as we last knew it.

use std::collections::BTreeMap;
use std::io;

use fairway_desired::filter::{
    Action, Base, CtState, Element, FieldType, Hook, Key, Match, Name, Rule, Set, Value, Verdict,
};
use fairway_desired::{Backend, Fault, Filter, Op, Outcome, Table};
use fairway_netlink::{Errno, Error, Message, Protocol, Socket};

use crate::elements::RawKey;
use crate::read::{self, Keys, Sets};
use crate::uapi::errno::{EBUSY, EEXIST, EINVAL, ENOENT, EOPNOTSUPP, EPERM};
use crate::uapi::{self, BATCH_BEGIN, BATCH_END, element, message, rule, set};
use crate::{elements, write};

/// Name of our table, of family `inet`.
pub const TABLE: &str = "fairway";

/// Elements in one message, whose attributes must fit in 64 KiB.
const ELEMENTS: usize = 500;
/// How often a look at the table is repeated that changes interrupted.
const LOOKS: u32 = 8;

/// Why there is no [`FilterBackend`].
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The kernel has no nftables and could not load the module that brings it.
    #[error("the kernel has no nftables: module nf_tables is missing")]
    Unsupported,
    /// The system gave no socket, or the kernel did not answer.
    #[error("no netlink socket for nftables: {0}")]
    Io(#[from] io::Error),
}

/// The table `inet fairway` of one network namespace: that of the thread which calls [`FilterBackend::new`]. All calls
/// must come from threads in the same one, because a socket that was lost is opened again (which checks that).
#[derive(Debug)]
pub struct FilterBackend {
    /// `None` after it was lost.
    socket: Option<Socket>,
    namespace: Option<Namespace>,
    /// The table as we last read or wrote it; `None` if that is not known.
    known: Option<Table<Filter>>,
}

/// Device and inode of a network namespace's file.
type Namespace = (u64, u64);

/// The network namespace of this thread; `None` without `/proc`.
fn namespace() -> Option<Namespace> {
    use std::os::unix::fs::MetadataExt;
    let file = std::fs::metadata("/proc/thread-self/ns/net").ok()?;
    Some((file.dev(), file.ino()))
}

/// What a failed request means for the call it belongs to.
pub(crate) fn fault(error: &Error) -> Fault {
    match error {
        Error::Interrupted => Fault::Interrupted,
        Error::Errno(errno) if errno.0 == EPERM => Fault::Denied,
        Error::Lost(_) | Error::Errno(_) => Fault::Lost,
    }
}

impl FilterBackend {
    /// Opens a socket in the network namespace of the calling thread and asks whether there is nftables. Everything else
    /// needs `CAP_NET_ADMIN` there.
    ///
    /// # Errors
    /// [`OpenError::Unsupported`] if the kernel has no nftables.
    pub fn new() -> Result<FilterBackend, OpenError> {
        let mut socket = Socket::open(Protocol::Netfilter).map_err(|error| match error.raw_os_error() {
            // EPROTONOSUPPORT: not even nfnetlink.
            Some(93) => OpenError::Unsupported,
            _ => OpenError::Io(error),
        })?;
        match generation(&mut socket) {
            Ok(_) => {}
            // Nobody answers for the subsystem.
            Err(Error::Errno(Errno(EINVAL | EOPNOTSUPP))) => return Err(OpenError::Unsupported),
            Err(Error::Errno(errno)) => return Err(io::Error::from_raw_os_error(errno.0).into()),
            Err(Error::Lost(error)) => return Err(error.into()),
            Err(Error::Interrupted) => return Err(io::Error::from(io::ErrorKind::Interrupted).into()),
        }
        Ok(FilterBackend { socket: Some(socket), namespace: namespace(), known: None })
    }

    /// Does something with the socket, which is opened again first if it was lost.
    pub(crate) fn with<T>(
        &mut self,
        what: impl FnOnce(&mut Socket, &mut Option<Table<Filter>>) -> Result<T, Fault>,
    ) -> Result<T, Fault> {
        let mut socket = match self.socket.take() {
            Some(socket) => socket,
            // Better no socket than one that filters elsewhere.
            None if namespace() != self.namespace => return Err(Fault::Lost),
            None => Socket::open(Protocol::Netfilter).map_err(|_| Fault::Lost)?,
        };
        let result = what(&mut socket, &mut self.known);
        match &result {
            Err(Fault::Lost) => self.known = None,
            _ => self.socket = Some(socket),
        }
        result
    }
}

/// The number of the ruleset, which every change increments.
fn generation(socket: &mut Socket) -> Result<Option<u32>, Error> {
    let replies = socket.request(write::about(message::GET_GENERATION, 0))?;
    let id = replies.iter().find(|reply| reply.kind == uapi::SUBSYSTEM << 8 | message::NEW_GENERATION);
    Ok(id.and_then(|reply| read::attributes(&reply.payload).get(1)?.be32()))
}

/// Reads one kind of thing; a table that is not there has none of it.
fn dump<T>(
    socket: &mut Socket,
    request: &Message,
    answer: u16,
    each: impl Fn(&mut Vec<T>, &[u8]),
) -> Result<Vec<T>, Fault> {
    let mut found = vec![];
    let collect = |found: &mut Vec<T>, kind, payload: &[u8]| {
        if kind == uapi::SUBSYSTEM << 8 | answer {
            each(found, payload);
        }
    };
    match socket.dump(request, &mut found, Vec::clear, collect) {
        Ok(()) => Ok(found),
        Err(Error::Errno(Errno(ENOENT))) => Ok(vec![]),
        Err(error) => Err(fault(&error)),
    }
}

/// Reads our table as of one moment.
fn look(socket: &mut Socket) -> Result<Table<Filter>, Fault> {
    for _ in 0..LOOKS {
        let before = generation(socket).map_err(|error| fault(&error))?;
        let table = look_once(socket)?;
        if generation(socket).map_err(|error| fault(&error))? == before {
            return Ok(table);
        }
    }
    Err(Fault::Interrupted)
}

fn look_once(socket: &mut Socket) -> Result<Table<Filter>, Fault> {
    let mut table = Table::<Filter>::new();
    let chains = dump(socket, &write::about(message::GET_CHAIN, 0), message::NEW_CHAIN, |found, payload| {
        found.extend(read::read_chain(payload, TABLE));
    })?;
    if chains.is_empty() && !has_sets(socket)? {
        return Ok(table);
    }
    for (name, base) in chains {
        table.insert(Key::Chain(name), Value::Chain(base));
    }
    let mut request = write::about(message::GET_SET, 0);
    request.text(set::TABLE, TABLE);
    let sets = dump(socket, &request, message::NEW_SET, |found, payload| found.extend(read::read_set(payload, TABLE)))?;
    let mut named: BTreeMap<Name, Set> = BTreeMap::new();
    let mut anonymous: BTreeMap<Name, Vec<Vec<u8>>> = BTreeMap::new();
    for found in sets {
        let keys = keys_of(socket, &found.name)?;
        if found.anonymous {
            anonymous.insert(found.name, keys.into_iter().map(|((key, _), _)| key).collect());
            continue;
        }
        // A set that we cannot express reads as one that nobody wants.
        let declared = found.set.unwrap_or(Set { fields: vec![], interval: false, verdicts: false });
        for (element, verdict) in elements_of(&declared, keys) {
            table.insert(Key::Element(found.name.clone(), element), Value::Element(verdict));
        }
        table.insert(Key::Set(found.name.clone()), Value::Set(declared.clone()));
        named.insert(found.name, declared);
    }
    let mut request = write::about(message::GET_RULE, 0);
    request.text(rule::TABLE, TABLE);
    let known = Sets { named: &named, anonymous: &anonymous };
    let rules = dump(socket, &request, message::NEW_RULE, |found, payload| {
        found.extend(read::read_rule(payload, TABLE, &known));
    })?;
    let mut by_chain: BTreeMap<Name, Vec<Rule>> = BTreeMap::new();
    for (chain, found) in rules {
        by_chain.entry(chain).or_default().push(found.unwrap_or_else(unknown));
    }
    for (chain, rules) in by_chain {
        table.insert(Key::Rules(chain), Value::Rules(rules));
    }
    Ok(table)
}

/// Stands for a rule that we cannot express: a rule that matches nothing, which nobody wants.
fn unknown() -> Rule {
    Rule { matches: vec![Match::CtState(Vec::<CtState>::new())], action: Action::Verdict(Verdict::Return) }
}

fn has_sets(socket: &mut Socket) -> Result<bool, Fault> {
    let mut request = write::about(message::GET_SET, 0);
    request.text(set::TABLE, TABLE);
    let sets = dump(socket, &request, message::NEW_SET, |found, payload| found.extend(read::read_set(payload, TABLE)))?;
    Ok(!sets.is_empty())
}

fn keys_of(socket: &mut Socket, name: &Name) -> Result<Keys, Fault> {
    let mut request = write::about(message::GET_ELEMENT, 0);
    request.text(element::TABLE, TABLE).text(element::SET, name);
    let mut keys = Keys::new();
    let found = dump(socket, &request, message::NEW_ELEMENT, |found: &mut Vec<Keys>, payload| {
        let mut part = Keys::new();
        read::read_elements(payload, &mut part);
        found.push(part);
    })?;
    keys.extend(found.into_iter().flatten());
    Ok(keys)
}

fn elements_of(declared: &Set, keys: Keys) -> Vec<(Element, Option<Verdict>)> {
    if let (true, [FieldType::Addr(family)]) = (declared.interval, declared.fields.as_slice()) {
        let ends = keys.into_iter().map(|(key, _)| key).collect();
        let nets = elements::prefixes(*family, ends);
        return nets.into_iter().map(|net| (vec![fairway_desired::filter::Datum::Net(net)], None)).collect();
    }
    let element = |((key, _), verdict): ((Vec<u8>, bool), Option<Verdict>)| {
        Some((elements::decode(&declared.fields, &key)?, verdict))
    };
    keys.into_iter().filter_map(element).collect()
}

/// A transaction under construction, on top of what is known.
struct Transaction<'a> {
    known: &'a mut Table<Filter>,
    messages: Vec<Message>,
    ids: write::Ids,
    /// Elements of one set that go into one message.
    run: Option<Elements>,
}

struct Elements {
    kind: u16,
    set: Name,
    keys: Vec<(RawKey, Option<Verdict>)>,
}

impl Transaction<'_> {
    fn set(&self, name: &Name) -> Option<&Set> {
        match self.known.get(&Key::Set(name.clone())) {
            Some(Value::Set(set)) => Some(set),
            _ => None,
        }
    }

    /// Puts the elements that wait into a message.
    fn flush(&mut self) -> Result<(), i32> {
        if let Some(Elements { kind, set: name, keys }) = self.run.take() {
            self.messages.extend(keys.chunks(ELEMENTS).map(|part| write::elements(kind, &name, part)));
        }
        Ok(())
    }

    fn push(&mut self, message: Message) -> Result<(), i32> {
        self.flush()?;
        self.messages.push(message);
        Ok(())
    }

    fn element(&mut self, kind: u16, name: &Name, keys: Vec<RawKey>, verdict: Option<&Verdict>) -> Result<(), i32> {
        if self.run.as_ref().is_some_and(|run| run.kind != kind || run.set != *name) {
            self.flush()?;
        }
        let run = self.run.get_or_insert_with(|| Elements { kind, set: name.clone(), keys: vec![] });
        run.keys.extend(keys.into_iter().map(|key| (key, verdict.cloned())));
        Ok(())
    }

    fn has_elements(&self, name: &Name) -> bool {
        let from = Key::Element(name.clone(), vec![]);
        self.known.range(from..).next().is_some_and(|(key, _)| matches!(key, Key::Element(set, _) if set == name))
    }

    /// Adds what one op needs. Fails with the errno that the kernel would give.
    fn op(&mut self, op: &Op<Filter>) -> Result<Outcome, i32> {
        let known = self.known.get(op.key()).cloned();
        match op {
            Op::Put(key, value) if known.as_ref() == Some(value) && !matches!(key, Key::Rules(_)) => {
                return Ok(Outcome::Done);
            }
            Op::Put(Key::Set(name), Value::Set(set)) => {
                let one_address = matches!(set.fields[..], [FieldType::Addr(_)]);
                if set.fields.is_empty() || (set.interval && !one_address) {
                    return Err(EINVAL);
                }
                if known.is_some() {
                    if self.has_elements(name) {
                        return Err(EBUSY);
                    }
                    self.push(write::del_set(name))?;
                }
                self.push(write::new_set(name, set))?;
            }
            Op::Put(Key::Chain(name), Value::Chain(base)) => {
                if base.is_some_and(|base: Base| base.nat && base.hook == Hook::Forward) {
                    return Err(EINVAL);
                }
                let rules = match self.known.get(&Key::Rules(name.clone())) {
                    Some(Value::Rules(rules)) => rules.clone(),
                    _ => vec![],
                };
                if known.is_some() {
                    // A hook cannot be changed: the chain is made anew, with its rules.
                    self.push(write::flush(name))?;
                    self.push(write::del_chain(name))?;
                }
                self.push(write::new_chain(name, base.as_ref()))?;
                self.rules(name, &rules)?;
            }
            Op::Put(Key::Element(name, element), Value::Element(verdict)) => {
                let declared = self.set(name).ok_or(ENOENT)?;
                // A rejection needs a rule of its own.
                if declared.verdicts != verdict.is_some() || *verdict == Some(Verdict::Reject) {
                    return Err(EINVAL);
                }
                let keys = elements::encode(declared, element).ok_or(EINVAL)?;
                if let Some(Value::Element(before)) = &known {
                    self.element(message::DEL_ELEMENT, name, keys.clone(), before.as_ref())?;
                }
                self.element(message::NEW_ELEMENT, name, keys, verdict.as_ref())?;
            }
            Op::Put(Key::Rules(name), Value::Rules(rules)) => {
                if !self.known.contains_key(&Key::Chain(name.clone())) {
                    return Err(ENOENT);
                }
                if known.is_some() {
                    self.push(write::flush(name))?;
                }
                self.rules(name, rules)?;
            }
            Op::Put(..) => return Err(EINVAL),
            Op::Del(_) if known.is_none() => return Ok(Outcome::Gone),
            Op::Del(Key::Set(name)) => self.push(write::del_set(name))?,
            Op::Del(Key::Chain(name)) => self.push(write::del_chain(name))?,
            Op::Del(Key::Element(name, element)) => {
                let before = match &known {
                    Some(Value::Element(verdict)) => verdict.as_ref(),
                    _ => None,
                };
                let keys = self.set(name).and_then(|set| elements::encode(set, element)).ok_or(ENOENT)?;
                self.element(message::DEL_ELEMENT, name, keys, before)?;
            }
            Op::Del(Key::Rules(name)) => self.push(write::flush(name))?,
        }
        match op {
            Op::Put(key, value) => drop(self.known.insert(key.clone(), value.clone())),
            Op::Del(key @ Key::Set(name)) => {
                self.known.remove(key);
                // Elements go with their set.
                let from = Key::Element(name.clone(), vec![]);
                let of_set = |key: &&Key| matches!(key, Key::Element(set, _) if set == name);
                let gone: Vec<Key> = self.known.range(from..).map(|(key, _)| key).take_while(of_set).cloned().collect();
                for key in gone {
                    self.known.remove(&key);
                }
            }
            Op::Del(key @ Key::Chain(name)) => {
                self.known.remove(key);
                // Rules go with their chain.
                self.known.remove(&Key::Rules(name.clone()));
            }
            Op::Del(key) => drop(self.known.remove(key)),
        }
        Ok(Outcome::Done)
    }

    fn rules(&mut self, chain: &Name, rules: &[Rule]) -> Result<(), i32> {
        self.flush()?;
        for rule in rules {
            let known = &*self.known;
            let sets = |name: &Name| match known.get(&Key::Set(name.clone())) {
                Some(Value::Set(set)) => Some(set.clone()),
                _ => None,
            };
            let messages = write::new_rule(chain, rule, &sets, &mut self.ids)?;
            self.messages.extend(messages);
        }
        Ok(())
    }
}

/// What became of a transaction.
enum Tried {
    Outcomes(Vec<Outcome>),
    /// Refused with this errno; nothing was changed.
    Refused(i32),
}

fn attempt(socket: &mut Socket, known: &mut Table<Filter>, ops: &[Op<Filter>]) -> Result<Tried, Fault> {
    let mut transaction = Transaction { known, messages: vec![], ids: write::Ids::default(), run: None };
    let mut outcomes = vec![];
    for op in ops {
        match transaction.op(op) {
            Ok(outcome) => outcomes.push(outcome),
            Err(errno) => return Ok(Tried::Refused(errno)),
        }
    }
    if let Err(errno) = transaction.flush() {
        return Ok(Tried::Refused(errno));
    }
    if transaction.messages.is_empty() {
        return Ok(Tried::Outcomes(outcomes));
    }
    let mut batch = vec![write::frame(BATCH_BEGIN), write::new_table()];
    batch.append(&mut transaction.messages);
    // A table exists as long as something is in it.
    if transaction.known.is_empty() {
        batch.push(write::del_table());
    }
    batch.push(write::frame(BATCH_END));
    let results = match socket.transaction(batch) {
        Ok(results) => results,
        // Too much for one transaction.
        Err(Error::Errno(errno)) if errno.0 != EPERM => return Ok(Tried::Refused(errno.0)),
        Err(error) => return Err(fault(&error)),
    };
    match results.into_iter().find_map(Result::err) {
        None => Ok(Tried::Outcomes(outcomes)),
        Some(Errno(EPERM)) => Err(Fault::Denied),
        Some(Errno(errno)) => Ok(Tried::Refused(errno)),
    }
}

impl Backend<Filter> for FilterBackend {
    /// Reads our table. What cannot be expressed (somebody wrote it by hand) reads as something that nobody wants, so
    /// that it is put right.
    fn observe(&mut self) -> Result<Table<Filter>, Fault> {
        self.with(|socket, known| {
            let table = look(socket)?;
            *known = Some(table.clone());
            Ok(table)
        })
    }

    /// One transaction. If the kernel refuses it and may have reason to (somebody changed our table), the table is read
    /// and it is tried once more.
    fn apply(&mut self, ops: &[Op<Filter>]) -> Result<Vec<Outcome>, Fault> {
        self.with(|socket, memory| {
            let remembered = memory.is_some();
            // On any way out that is not success, what we remember is wrong.
            let mut known = match memory.take() {
                Some(known) => known,
                None => look(socket)?,
            };
            let mut tried = attempt(socket, &mut known, ops)?;
            if let Tried::Refused(ENOENT | EEXIST | EBUSY) = tried
                && remembered
            {
                known = look(socket)?;
                tried = attempt(socket, &mut known, ops)?;
            }
            match tried {
                Tried::Outcomes(outcomes) => {
                    *memory = Some(known);
                    Ok(outcomes)
                }
                Tried::Refused(errno) => Ok(vec![Outcome::Refused(errno); ops.len()]),
            }
        })
    }
}
