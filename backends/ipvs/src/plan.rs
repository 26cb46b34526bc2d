//! From ops to requests, and from the kernel's answers to outcomes. No input or output here.

use std::collections::BTreeSet;
use std::net::IpAddr;

use fairway_desired::ipvs::{Key, Value, VirtualServerKey};
use fairway_desired::{Ipvs, Op, Outcome};
use fairway_netlink::{Errno, Message};
use ipnet::IpNet;

use crate::encode::{Encoder, Verb};
use crate::shadow::Shadow;
use crate::uapi::errno::{EAGAIN, EBUSY, EEXIST, EINVAL, ENOENT, ENOMEM, ERANGE, ESRCH};

/// Rounds before an op is given up as busy. The second repairs what was thought wrong; more are only needed if
/// somebody else changes the same entries at this moment.
const ROUNDS: usize = 3;

/// What an op takes.
enum Step<'a> {
    /// Nothing: this is known without asking.
    Answer(Outcome),
    /// This request.
    Ask(Verb, Request<'a>),
}

/// How to write it.
enum Request<'a> {
    Server(&'a fairway_desired::ipvs::VirtualServer),
    Real(&'a fairway_desired::ipvs::RealServer),
    Delete,
}

/// The ops of one call, while they are carried out.
///
/// Alternates between [`Run::requests`] and [`Run::answers`] until there are no requests.
#[derive(Debug)]
pub(crate) struct Run<'a> {
    ops: &'a [Op<Ipvs>],
    outcomes: Vec<Outcome>,
    /// Ops that wait for a round, ascending.
    open: Vec<usize>,
    /// What was asked in this round.
    asked: Vec<(usize, Verb)>,
    round: usize,
}

impl<'a> Run<'a> {
    pub(crate) fn new(ops: &'a [Op<Ipvs>]) -> Self {
        // Busy is what is left if the rounds are over.
        let outcomes = vec![Outcome::Busy; ops.len()];
        Run { ops, outcomes, open: (0..ops.len()).collect(), asked: vec![], round: 0 }
    }

    /// The requests of the next round. The shadow is told what they will do if all goes well, because later ops build
    /// on earlier ones.
    pub(crate) fn requests(&mut self, encoder: Encoder, shadow: &mut Shadow, excluded: &[IpNet]) -> Vec<Message> {
        self.asked.clear();
        let open = std::mem::take(&mut self.open);
        if self.round == ROUNDS {
            return vec![];
        }
        self.round += 1;
        let mut messages = Vec::with_capacity(open.len());
        for index in open {
            let Some(op) = self.ops.get(index) else { continue };
            match step(op, shadow, excluded) {
                Step::Answer(outcome) => self.outcomes[index] = outcome,
                Step::Ask(verb, request) => {
                    let key = op.key();
                    messages.push(write(encoder, verb, key, &request));
                    if verb == Verb::Delete {
                        shadow.remove(key)
                    } else {
                        shadow.insert(key)
                    }
                    self.asked.push((index, verb));
                }
            }
        }
        messages
    }

    /// The answers to the last requests, in their order.
    pub(crate) fn answers(&mut self, results: &[Result<(), Errno>], shadow: &mut Shadow) {
        // Virtual servers of which something was not as thought. What follows in the batch about them was carried out
        // before that could be repaired, so it is all carried out again, in order: ops are idempotent.
        let mut again: BTreeSet<&VirtualServerKey> = BTreeSet::new();
        for ((index, verb), result) in self.asked.drain(..).zip(results) {
            let Some(op) = self.ops.get(index) else { continue };
            let key = op.key();
            let errno = result.err().map(|errno| errno.0);
            learn(key, verb, errno, shadow);
            if mistaken(key, verb, errno) {
                again.insert(&key.server);
            }
            let outcome = outcome(verb, errno);
            if again.contains(&key.server) {
                self.open.push(index);
                // What the first round deleted is gone in the second.
                if self.outcomes[index] == Outcome::Busy && (verb, outcome) == (Verb::Delete, Outcome::Done) {
                    self.outcomes[index] = Outcome::Done;
                }
            } else if (self.outcomes[index], outcome) != (Outcome::Done, Outcome::Gone) {
                self.outcomes[index] = outcome;
            }
        }
    }

    pub(crate) fn outcomes(self) -> Vec<Outcome> {
        self.outcomes
    }
}

/// Whether this virtual server is somebody else's.
pub(crate) fn is_excluded(server: &VirtualServerKey, excluded: &[IpNet]) -> bool {
    match server {
        VirtualServerKey::Address { address, .. } => excluded.iter().any(|net| net.contains(address)),
        VirtualServerKey::Mark { .. } => false,
    }
}

/// Addresses and marks that no packet has. The kernel takes them, except that mark 0 is no mark to it, but the address
/// `0.0.0.0`; `ipvsadm` refuses them.
fn is_valid(server: &VirtualServerKey) -> bool {
    match server {
        VirtualServerKey::Address { address: IpAddr::V4(v4), .. } => !v4.is_unspecified() && !v4.is_multicast(),
        VirtualServerKey::Address { address: IpAddr::V6(v6), .. } => !v6.is_unspecified() && !v6.is_multicast(),
        VirtualServerKey::Mark { mark, .. } => *mark != 0,
    }
}

fn step<'a>(op: &'a Op<Ipvs>, shadow: &Shadow, excluded: &[IpNet]) -> Step<'a> {
    let Key { server, real } = op.key();
    if is_excluded(server, excluded) {
        return Step::Answer(Outcome::Foreign);
    }
    let no_mark = matches!(server, VirtualServerKey::Mark { mark: 0, .. });
    let request = match (op, real) {
        // It must not come to the kernel: see `is_valid`.
        (Op::Del(_), _) if no_mark => return Step::Answer(Outcome::Gone),
        (Op::Del(_), _) => return Step::Ask(Verb::Delete, Request::Delete),
        (Op::Put(_, Value::Server(value)), None) if is_valid(server) && value.persistence_s != Some(0) => {
            Request::Server(value)
        }
        (Op::Put(_, Value::Real(_)), Some(_)) if no_mark => return Step::Answer(Outcome::Refused(ESRCH)),
        (Op::Put(_, Value::Real(value)), Some(_)) => Request::Real(value),
        (Op::Put(..), _) => return Step::Answer(Outcome::Refused(EINVAL)),
    };
    Step::Ask(if shadow.contains(op.key()) { Verb::Set } else { Verb::New }, request)
}

fn write(encoder: Encoder, verb: Verb, key: &Key, request: &Request<'_>) -> Message {
    match (request, &key.real) {
        (Request::Server(value), _) => encoder.put_server(verb, &key.server, value),
        (Request::Real(value), Some(real)) => encoder.put_real(verb, &key.server, real, value),
        (_, Some(real)) => encoder.delete_real(&key.server, real),
        (_, None) => encoder.delete_server(&key.server),
    }
}

/// Whether the answer says that the other verb would have been right.
fn mistaken(key: &Key, verb: Verb, errno: Option<i32>) -> bool {
    match (verb, errno) {
        (Verb::New, Some(EEXIST)) => true,
        // Of a virtual server ENOENT is about the scheduler; of a real server ESRCH is about the virtual server.
        (Verb::Set, Some(ESRCH)) => key.real.is_none(),
        (Verb::Set, Some(ENOENT)) => key.real.is_some(),
        _ => false,
    }
}

/// What an answer says of what exists. Answers come in the order of the requests, so the last word is right.
fn learn(key: &Key, verb: Verb, errno: Option<i32>, shadow: &mut Shadow) {
    let exists = match (verb, errno) {
        (Verb::New | Verb::Set, None) | (Verb::New, Some(EEXIST)) => true,
        (Verb::Delete, _) => false,
        (_, Some(ESRCH)) => {
            // There is no virtual server, whatever the request was about.
            shadow.remove(&Key { server: key.server.clone(), real: None });
            return;
        }
        (Verb::Set, Some(ENOENT)) => key.real.is_none(),
        // Refused for another reason: as it was thought before.
        (Verb::New, Some(_)) => false,
        (Verb::Set, Some(_)) => true,
    };
    if exists { shadow.insert(key) } else { shadow.remove(key) }
}

fn outcome(verb: Verb, errno: Option<i32>) -> Outcome {
    match (verb, errno) {
        (_, None) => Outcome::Done,
        (Verb::Delete, Some(ESRCH | ENOENT)) => Outcome::Gone,
        (_, Some(EBUSY | EAGAIN | ENOMEM)) => Outcome::Busy,
        // Only a weight above `i32::MAX`. As the simulated kernel says it.
        (_, Some(ERANGE)) => Outcome::Refused(EINVAL),
        (_, Some(errno)) => Outcome::Refused(errno),
    }
}
