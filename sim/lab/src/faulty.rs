//! A kernel whose calls fail when a scenario says so.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use fairway_desired::{Backend, Fault, Op, Outcome, Plane, PlaneId, Table};
use fairway_node::{Monitor, Watched};
use fairway_scenario::KernelFail;

/// Failures that wait for calls: of a plane, how, and how often.
pub(crate) type Failures = Arc<Mutex<BTreeMap<PlaneId, Vec<(KernelFail, u32)>>>>;

/// A kernel, and the failures that were ordered for it.
#[derive(Debug)]
pub(crate) struct Faulty<K> {
    kernel: K,
    failures: Failures,
}

impl<K> Faulty<K> {
    pub(crate) fn new(kernel: K, failures: Failures) -> Self {
        Faulty { kernel, failures }
    }

    /// Takes the first failure that concerns this kind of call: dumps are interrupted, changes find the kernel busy,
    /// answers of either may be lost.
    fn next(&self, plane: PlaneId, observe: bool) -> Option<KernelFail> {
        let mut failures = self.failures.lock().unwrap_or_else(|e| e.into_inner());
        let waiting = failures.get_mut(&plane)?;
        let concerns = |fail: KernelFail| fail == KernelFail::Lost || (fail == KernelFail::Interrupted) == observe;
        let index = waiting.iter().position(|(fail, _)| concerns(*fail))?;
        let (fail, times) = waiting.get_mut(index)?;
        let fail = *fail;
        *times = times.saturating_sub(1);
        if *times == 0 {
            waiting.remove(index);
        }
        Some(fail)
    }
}

impl<K: Watched> Watched for Faulty<K> {
    fn monitor(&mut self) -> Result<Option<Monitor>, String> {
        self.kernel.monitor()
    }
}

impl<P: Plane, K: Backend<P>> Backend<P> for Faulty<K> {
    fn observe(&mut self) -> Result<Table<P>, Fault> {
        match self.next(P::ID, true) {
            Some(KernelFail::Interrupted) => Err(Fault::Interrupted),
            Some(KernelFail::Lost) => Err(Fault::Lost),
            Some(KernelFail::Busy) | None => self.kernel.observe(),
        }
    }

    fn apply(&mut self, ops: &[Op<P>]) -> Result<Vec<Outcome>, Fault> {
        match self.next(P::ID, false) {
            Some(KernelFail::Busy) => Ok(vec![Outcome::Busy; ops.len()]),
            Some(KernelFail::Lost) => {
                // A transaction is lost before the kernel sees it; of other batches half was done.
                let part = if P::ID == PlaneId::Filter { 0 } else { ops.len() / 2 };
                self.kernel.apply(&ops[..part])?;
                Err(Fault::Lost)
            }
            Some(KernelFail::Interrupted) | None => self.kernel.apply(ops),
        }
    }
}
