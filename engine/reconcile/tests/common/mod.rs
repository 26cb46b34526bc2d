//! A small plane and a kernel for it that can say no.
#![allow(dead_code, reason = "each test file uses a part of it")]

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use fairway_desired::{Fault, Op, Outcome, Plane, PlaneId};
use fairway_reconcile::{Allow, Config, Input, Reconciler, Request};
use oorandom::Rand32;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Toy;

/// An odd key depends on the even key before it, as a real server on its virtual server.
impl Plane for Toy {
    const ID: PlaneId = PlaneId::Ipvs;
    type Key = u8;
    type Value = u8;
}

/// Never accepted by the kernel.
pub(crate) const BAD: u8 = 13;
/// Keys from here on are not ours.
pub(crate) const FOREIGN: u8 = 40;
pub(crate) const EINVAL: i32 = 22;

pub(crate) fn config() -> Config {
    Config {
        batch_max: 5,
        backoff_min: Duration::from_millis(100),
        backoff_max: Duration::from_secs(10),
        resync: Duration::from_secs(60),
        suspect_wait: Duration::from_millis(20),
        suspect_pause: Duration::from_secs(1),
        transactional: false,
    }
}

pub(crate) struct Kernel {
    pub(crate) table: BTreeMap<u8, u8>,
    /// Keys that somebody else changed since the last observation.
    pub(crate) tampered: BTreeSet<u8>,
    pub(crate) failing: bool,
    pub(crate) transactional: bool,
    pub(crate) rand: Rand32,
    pub(crate) log: Vec<Op<Toy>>,
}

impl Kernel {
    pub(crate) fn new(seed: u64) -> Self {
        Kernel {
            table: BTreeMap::new(),
            tampered: BTreeSet::new(),
            failing: false,
            transactional: false,
            rand: Rand32::new(seed),
            log: vec![],
        }
    }

    fn fails(&mut self, percent: u32) -> bool {
        self.failing && self.rand.rand_range(0..100) < percent
    }

    fn fault(&mut self) -> Fault {
        match self.rand.rand_range(0..4) {
            0 => Fault::Interrupted,
            1 => Fault::Lost,
            2 => Fault::Denied,
            _ => Fault::Unsupported("toy".into()),
        }
    }

    pub(crate) fn observe(&mut self) -> Result<BTreeMap<u8, u8>, Fault> {
        if self.fails(20) {
            return Err(self.fault());
        }
        self.tampered.clear();
        Ok(self.table.clone())
    }

    pub(crate) fn tamper(&mut self, key: u8, value: Option<u8>) {
        self.tampered.insert(key);
        match value {
            Some(value) => self.table.insert(key, value),
            None => self.table.remove(&key),
        };
    }

    pub(crate) fn apply(&mut self, ops: &[Op<Toy>]) -> Result<Vec<Outcome>, Fault> {
        let before = self.table.clone();
        let lost_after = self.fails(15).then(|| self.rand.rand_range(0..ops.len() as u32 + 1) as usize);
        let mut outcomes = vec![];
        for (ix, op) in ops.iter().enumerate() {
            if lost_after == Some(ix) {
                return Err(if self.transactional {
                    self.table = before;
                    Fault::Lost
                } else {
                    self.fault()
                });
            }
            outcomes.push(self.one(op));
        }
        if lost_after == Some(ops.len()) {
            return Err(Fault::Lost);
        }
        if self.transactional && outcomes.iter().any(|o| !matches!(o, Outcome::Done | Outcome::Gone)) {
            self.table = before;
            let busy = outcomes.iter().all(|o| !matches!(o, Outcome::Refused(_)));
            return Ok(vec![if busy { Outcome::Busy } else { Outcome::Refused(EINVAL) }; ops.len()]);
        }
        Ok(outcomes)
    }

    fn one(&mut self, op: &Op<Toy>) -> Outcome {
        self.log.push(op.clone());
        let key = *op.key();
        assert!(key < FOREIGN, "{op:?} touches what is not ours");
        if !self.tampered.contains(&key) {
            match op {
                Op::Put(_, value) => assert_ne!(self.table.get(&key), Some(value), "{op:?} of what is right"),
                Op::Del(_) => assert!(self.table.contains_key(&key), "{op:?} of what is not there"),
            }
        }
        if self.fails(20) {
            return if self.rand.rand_range(0..2) == 0 { Outcome::Busy } else { Outcome::Refused(EINVAL) };
        }
        match *op {
            Op::Put(_, BAD) => return Outcome::Refused(EINVAL),
            Op::Put(key, _) if key % 2 == 1 && !self.table.contains_key(&(key - 1)) => return Outcome::Refused(2),
            Op::Del(key) if key % 2 == 0 && self.table.contains_key(&(key + 1)) => return Outcome::Refused(16),
            Op::Put(key, value) => {
                self.table.insert(key, value);
            }
            Op::Del(key) => {
                if self.table.remove(&key).is_none() {
                    return Outcome::Gone;
                }
            }
        }
        Outcome::Done
    }

    pub(crate) fn serve(&mut self, request: Request<Toy>) -> Input<Toy> {
        match request {
            Request::Observe => Input::Observed(self.observe()),
            Request::Apply(ops) => Input::Applied(self.apply(&ops)),
        }
    }
}

/// Puts ascending, then deletes descending, not too many.
pub(crate) fn check_order(ops: &[Op<Toy>], max: usize) {
    assert!(!ops.is_empty() && ops.len() <= max, "{ops:?}");
    let puts = ops.iter().take_while(|op| matches!(op, Op::Put(..))).count();
    let (puts, deletes) = ops.split_at(puts);
    assert!(deletes.iter().all(|op| matches!(op, Op::Del(_))), "{ops:?}");
    assert!(puts.is_sorted_by(|a, b| a.key() < b.key()), "{ops:?}");
    assert!(deletes.is_sorted_by(|a, b| a.key() > b.key()), "{ops:?}");
}

/// Lets time pass until nothing is left to do. Returns the time then.
pub(crate) fn settle(reconciler: &mut Reconciler<Toy>, kernel: &mut Kernel, mut now: Duration) -> Duration {
    for _ in 0..10_000 {
        if let Some(request) = reconciler.poll(now, Allow::ALL) {
            let answer = kernel.serve(request);
            reconciler.handle(now, answer);
        } else if reconciler.is_settled() {
            return now;
        } else {
            let deadline = reconciler.deadline().expect("nothing is in flight");
            assert!(deadline > now, "a deadline that polling did not use up");
            now = deadline;
        }
    }
    panic!("does not settle: {reconciler:?}");
}
