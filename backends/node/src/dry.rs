//! `--dry-run`: what an agent would do to a kernel, without doing it.

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use fairway_agent::{Agent, Input, Kernel, Text, serve};
use fairway_backend_route::sysctl_value;
use fairway_desired::{
    Addr, Backend, Fault, File, Filter, Ipvs, KernelEvent, Link, Op, Outcome, Plane, PlaneId, Pod, Route, Rule, Sysctl,
    Table,
};
use fairway_objects::{NodeConfig, Notice};

/// What would happen to an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ChangeKind {
    /// It is not there.
    Add,
    /// It is there with another value.
    Change,
    /// It is ours and not wanted.
    Remove,
}

impl ChangeKind {
    /// In one word.
    pub const fn as_str(self) -> &'static str {
        match self {
            ChangeKind::Add => "add",
            ChangeKind::Change => "change",
            ChangeKind::Remove => "remove",
        }
    }
}

/// One entry that would be changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Of which plane.
    pub plane: PlaneId,
    /// How.
    pub kind: ChangeKind,
    /// Which, as in notices.
    pub key: String,
    /// Its value now.
    pub before: Option<String>,
    /// Its value then.
    pub after: Option<String>,
}

/// What a daemon would do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// In the order in which it would be done.
    pub changes: Vec<Change>,
    /// What BGP would be: neighbours, networks and policies.
    pub bgp: Vec<String>,
    /// Routes of an earlier run that would stay until BGP's neighbours are up.
    pub kept_routes: usize,
    /// Planes that could not be looked at.
    pub faults: Vec<(PlaneId, Fault)>,
    /// What there is to complain about.
    pub notices: Vec<Notice>,
}

/// What is there of a plane, and what would be.
#[derive(Debug)]
struct Imagined<P: Plane> {
    actual: Table<P>,
    table: Option<Table<P>>,
    /// Keys in the order in which they were first written, and the same again to look them up.
    written: Vec<P::Key>,
    known: BTreeSet<P::Key>,
}

impl<P: Plane> Default for Imagined<P> {
    fn default() -> Self {
        Imagined { actual: Table::<P>::new(), table: None, written: vec![], known: BTreeSet::new() }
    }
}

impl<P: Plane> Imagined<P>
where
    P::Key: Text,
{
    fn observe(&mut self, look: impl FnOnce() -> Result<Table<P>, Fault>) -> Result<Table<P>, Fault> {
        match &self.table {
            Some(table) => Ok(table.clone()),
            None => {
                self.actual = look()?;
                self.table = Some(self.actual.clone());
                Ok(self.actual.clone())
            }
        }
    }

    fn apply(&mut self, ops: &[Op<P>]) -> Vec<Outcome> {
        let table = self.table.get_or_insert_with(Table::<P>::new);
        let apply = |op: &Op<P>| {
            if self.known.insert(op.key().clone()) {
                self.written.push(op.key().clone());
            }
            match op {
                Op::Put(key, value) => {
                    table.insert(key.clone(), value.clone());
                    Outcome::Done
                }
                Op::Del(key) if table.remove(key).is_none() => Outcome::Gone,
                Op::Del(_) => Outcome::Done,
            }
        };
        ops.iter().map(apply).collect()
    }

    /// The difference in the end, whatever happened in between.
    fn changes(&self) -> impl Iterator<Item = Change> {
        let text = |value: &P::Value| debug(value);
        self.written.iter().filter_map(move |key| {
            let before = self.actual.get(key);
            let after = self.table.as_ref().and_then(|table| table.get(key));
            let kind = match (before, after) {
                (None, Some(_)) => ChangeKind::Add,
                (Some(before), Some(after)) if before != after => ChangeKind::Change,
                (Some(_), None) => ChangeKind::Remove,
                _ => return None,
            };
            Some(Change { plane: P::ID, kind, key: key.text(), before: before.map(text), after: after.map(text) })
        })
    }
}

fn debug(value: &impl Debug) -> String {
    format!("{value:?}")
}

/// A kernel that is read once and then only imagined.
#[derive(Debug)]
pub struct DryKernel<K> {
    kernel: K,
    sysctl: Imagined<Sysctl>,
    link: Imagined<Link>,
    addr: Imagined<Addr>,
    filter: Imagined<Filter>,
    rule: Imagined<Rule>,
    route: Imagined<Route>,
    pod: Imagined<Pod>,
    ipvs: Imagined<Ipvs>,
    file: Imagined<File>,
}

impl<K: Kernel> DryKernel<K> {
    /// Nothing is read yet.
    pub fn new(kernel: K) -> DryKernel<K> {
        DryKernel {
            kernel,
            sysctl: Imagined::default(),
            link: Imagined::default(),
            addr: Imagined::default(),
            filter: Imagined::default(),
            rule: Imagined::default(),
            route: Imagined::default(),
            pod: Imagined::default(),
            ipvs: Imagined::default(),
            file: Imagined::default(),
        }
    }

    /// What it would be changed to, plane by plane.
    pub fn changes(&self) -> Vec<Change> {
        let mut changes: Vec<Change> = vec![];
        changes.extend(self.sysctl.changes());
        changes.extend(self.link.changes());
        changes.extend(self.addr.changes());
        changes.extend(self.filter.changes());
        changes.extend(self.rule.changes());
        changes.extend(self.route.changes());
        changes.extend(self.pod.changes());
        changes.extend(self.ipvs.changes());
        changes.extend(self.file.changes());
        changes
    }
}

macro_rules! imagined {
    ($($plane:ident $field:ident),*) => {
        $(impl<K: Kernel> Backend<$plane> for DryKernel<K> {
            fn observe(&mut self) -> Result<Table<$plane>, Fault> {
                let kernel = &mut self.kernel;
                self.$field.observe(|| Backend::<$plane>::observe(kernel))
            }

            fn apply(&mut self, ops: &[Op<$plane>]) -> Result<Vec<Outcome>, Fault> {
                Ok(self.$field.apply(ops))
            }
        })*
    };
}

imagined!(Link link, Addr addr, Filter filter, Rule rule, Route route, Pod pod, Ipvs ipvs, File file);

impl<K: Kernel> Backend<Sysctl> for DryKernel<K> {
    fn observe(&mut self) -> Result<Table<Sysctl>, Fault> {
        let kernel = &mut self.kernel;
        self.sysctl.observe(|| Backend::<Sysctl>::observe(kernel))
    }

    /// Which parameters matter is known when they are written; what they are now is looked up then.
    fn apply(&mut self, ops: &[Op<Sysctl>]) -> Result<Vec<Outcome>, Fault> {
        for op in ops {
            if let Some(now) = sysctl_value(op.key()) {
                self.sysctl.actual.entry(op.key().clone()).or_insert(now);
            }
        }
        Ok(self.sysctl.apply(ops))
    }
}

/// Why there is no plan.
#[derive(Debug, thiserror::Error)]
pub enum NoPlan {
    /// The cluster was not heard completely in time.
    #[error("not every kind of object was listed in time")]
    Late,
    /// Whoever tells of objects ended.
    #[error("the source of objects ended before every kind was listed")]
    Over,
}

/// Runs an agent until it has heard everything and has nothing left to do, and says what it would have done. No
/// connection is made or accepted. `events` is how the kernel's interfaces are; `inputs` tells of the cluster.
///
/// # Errors
/// [`NoPlan`] if the cluster was not heard within `patience`.
pub fn dry_run<K: Kernel>(
    config: NodeConfig,
    kernel: K,
    events: Vec<KernelEvent>,
    inputs: &Receiver<Input>,
    patience: Duration,
) -> Result<Plan, NoPlan> {
    let mut agent = Agent::new(config, 0);
    let mut kernel = DryKernel::new(kernel);
    let epoch = Instant::now();
    for event in events {
        agent.handle(epoch.elapsed(), Input::Kernel(event));
    }
    agent.handle(epoch.elapsed(), Input::Tick);
    loop {
        while let Some(output) = agent.poll() {
            // Connections, packets and the log are left out; notices stand in the agent.
            if let Some(answer) = serve(output, &mut kernel) {
                agent.handle(epoch.elapsed(), answer);
            }
        }
        let seen = |plane: &fairway_agent::PlaneView| {
            !plane.in_use || plane.plane == PlaneId::Bgp || plane.stats.observations > 0 || plane.fault.is_some()
        };
        // Nothing is under way, so what is still pending waits for what does not come without BGP.
        if agent.synced() && agent.planes().iter().all(seen) {
            return Ok(plan(&agent, &kernel));
        }
        let left = patience.checked_sub(epoch.elapsed()).ok_or(NoPlan::Late)?;
        let wait = agent.deadline().map_or(left, |at| at.saturating_sub(epoch.elapsed()).min(left));
        match inputs.recv_timeout(wait) {
            Ok(input) => agent.handle(epoch.elapsed(), input),
            Err(RecvTimeoutError::Timeout) => agent.handle(epoch.elapsed(), Input::Tick),
            // What was said is all there is; faults of the kernel are tried again meanwhile.
            Err(RecvTimeoutError::Disconnected) if agent.synced() => {
                std::thread::sleep(wait);
                agent.handle(epoch.elapsed(), Input::Tick);
            }
            Err(RecvTimeoutError::Disconnected) => return Err(NoPlan::Over),
        }
    }
}

fn plan<K: Kernel>(agent: &Agent, kernel: &DryKernel<K>) -> Plan {
    let planes = agent.planes();
    Plan {
        changes: kernel.changes(),
        bgp: agent.speaker().observe().keys().map(Text::text).collect(),
        kept_routes: planes.iter().filter(|p| p.plane == PlaneId::Route).map(|p| p.pending_deletes).sum(),
        faults: planes.iter().filter_map(|p| Some((p.plane, p.fault.clone()?))).collect(),
        notices: agent.notices().cloned().collect(),
    }
}
