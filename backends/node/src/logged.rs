//! What a kernel is asked and what it says, for a log.

use std::fmt::Display;
use std::time::Instant;

use fairway_backend_route::Monitor;
use fairway_desired::{
    Addr, Backend, Fault, File, Filter, Ipvs, Link, Op, Outcome, Plane, Pod, Route, Rule, Sysctl, Table,
};

use crate::kernel::Watched;

/// A kernel whose requests are told to somebody, such as a log.
#[derive(Clone, Copy, Debug)]
pub struct Logged<K> {
    /// The kernel.
    pub kernel: K,
    /// Whether each entry is told, too.
    pub entries: bool,
    /// Told of each request when it is over, and of its entries.
    pub tell: fn(&dyn Display),
}

impl<K: Watched> Watched for Logged<K> {
    fn monitor(&mut self) -> Result<Option<Monitor>, String> {
        self.kernel.monitor()
    }
}

macro_rules! logged {
    ($($plane:ident),*) => {
        $(impl<K: Backend<$plane>> Backend<$plane> for Logged<K> {
            fn observe(&mut self) -> Result<Table<$plane>, Fault> {
                let begin = Instant::now();
                let result = self.kernel.observe();
                let said = result.as_ref().map(|table| format!("{} entries", table.len()));
                request::<$plane>(self.tell, "read", said, begin);
                result
            }

            fn apply(&mut self, ops: &[Op<$plane>]) -> Result<Vec<Outcome>, Fault> {
                let begin = Instant::now();
                let result = self.kernel.apply(ops);
                let said = result.as_ref().map(|_| format!("{} entries", ops.len()));
                request::<$plane>(self.tell, "written", said, begin);
                if self.entries && let Ok(outcomes) = &result {
                    for (op, outcome) in ops.iter().zip(outcomes) {
                        (self.tell)(&format!("{} {op:?}: {outcome:?}", $plane::ID.as_str()));
                    }
                }
                result
            }
        })*
    };
}

logged!(Sysctl, Link, Addr, Filter, Rule, Route, Pod, Ipvs, File);

fn request<P: Plane>(tell: fn(&dyn Display), what: &str, said: Result<String, &Fault>, begin: Instant) {
    let took = begin.elapsed();
    let said = said.unwrap_or_else(|fault| format!("{fault:?}"));
    tell(&format!("{} {what}: {said}, {took:.1?}", P::ID.as_str()));
}
