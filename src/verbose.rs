//! `-v`: what happens between the API server and the kernel, in the log.
//!
//! 1: each change of an object. 2: each request to the kernel, and how long it took. 3: each entry of it, and what the
//! kernel said.

use std::sync::atomic::{AtomicU64, Ordering};

use fairway_node::Logged;
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

/// The same kernel, whose requests are logged from level 2, with their entries from level 3.
pub(crate) fn kernel<K>(kernel: K) -> Logged<K> {
    let tell = |line: &dyn std::fmt::Display| {
        if is_on(2) {
            log("kernel", line);
        }
    };
    Logged { kernel, entries: is_on(3), tell }
}
