//! `-v`: what happens between the API server and the kernel, in the log.
//!
//! 1: each change of an object. 2: each request to the kernel, and how long it took. 3: each entry of it, and what the
//! kernel said.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use fairway_desired::{
    Addr, Backend, Fault, File, Filter, Ipvs, Link, Op, Outcome, Plane, Pod, Route, Rule, Sysctl, Table,
};
use fairway_node::{Monitor, Watched};
use fairway_objects::Delta;

use crate::node::log;

/// `-v`; it does not change while the daemon runs.
static LEVEL: AtomicU64 = AtomicU64::new(0);

/// From now on so much is logged.
pub(crate) fn set(level: u64) {
    LEVEL.store(level, Ordering::Relaxed);
}

fn is_on(level: u64) -> bool {
    LEVEL.load(Ordering::Relaxed) >= level
}

/// Logs a change of an object, from level 1.
pub(crate) fn object(delta: &Delta) {
    if !is_on(1) {
        return;
    }
    match delta {
        Delta::Put { object, .. } => log("object", &format!("{} is there or changed", object.key())),
        Delta::Invalid { key, .. } => log("object", &format!("{key} cannot be read")),
        Delta::Del(key) => log("object", &format!("{key} is gone")),
        Delta::Relist(kind) => log("object", &format!("{kind}: a list begins")),
        Delta::Listed(kind) => log("object", &format!("{kind}: the list is complete")),
    }
}

/// A kernel whose requests are logged from level 2.
pub(crate) struct Logged<K>(pub(crate) K);

impl<K: Watched> Watched for Logged<K> {
    fn monitor(&mut self) -> Result<Option<Monitor>, String> {
        self.0.monitor()
    }
}

macro_rules! logged {
    ($($plane:ident),*) => {
        $(impl<K: Backend<$plane>> Backend<$plane> for Logged<K> {
            fn observe(&mut self) -> Result<Table<$plane>, Fault> {
                let begin = Instant::now();
                let result = self.0.observe();
                if is_on(2) {
                    let said = result.as_ref().map(|table| format!("{} entries", table.len()));
                    request::<$plane>("read", said, begin);
                }
                result
            }

            fn apply(&mut self, ops: &[Op<$plane>]) -> Result<Vec<Outcome>, Fault> {
                let begin = Instant::now();
                let result = self.0.apply(ops);
                if is_on(2) {
                    let said = result.as_ref().map(|_| format!("{} entries", ops.len()));
                    request::<$plane>("written", said, begin);
                }
                if is_on(3) && let Ok(outcomes) = &result {
                    for (op, outcome) in ops.iter().zip(outcomes) {
                        log("kernel", &format!("{} {op:?}: {outcome:?}", $plane::ID.as_str()));
                    }
                }
                result
            }
        })*
    };
}

logged!(Sysctl, Link, Addr, Filter, Rule, Route, Pod, Ipvs, File);

fn request<P: Plane>(what: &str, said: Result<String, &Fault>, begin: Instant) {
    let took = begin.elapsed();
    let said = said.unwrap_or_else(|fault| format!("{fault:?}"));
    log("kernel", &format!("{} {what}: {said}, {took:.1?}", P::ID.as_str()));
}
