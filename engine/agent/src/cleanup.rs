//! Taking away what a daemon made.

use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

use fairway_compute::BRIDGE;
use fairway_desired::{Addr, Fault, Filter, Link, Op, Outcome, PlaneId, Pod, Route, Rule};
use fairway_objects::NodeConfig;
use fairway_reconcile::{Allow, Request, Time};

use crate::agent::ipvs_lane;
use crate::io::{Applied, Input, KernelPlane, Observation, Output};
use crate::lane::Lane;
use crate::text::Text;

/// Removes what is ours, and only that, from a kernel: the reconcilers of an [`Agent`](crate::Agent) that desire nothing.
///
/// Driven like an agent: `poll` until `None`, [`serve`](crate::serve) what it asks for, `handle` the answer; a driver
/// waits until [`deadline`](Self::deadline) where there is one. Planes are torn down in the reverse of their order, one
/// after the other. Kernel parameters keep their values: nobody knows what they were before.
pub struct Cleanup {
    planes: Vec<Box<dyn Sweep>>,
    removed: Vec<Removed>,
}

/// An entry that was removed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Removed {
    /// Of which plane.
    pub plane: PlaneId,
    /// Its key, as in notices.
    pub key: String,
}

/// One plane, whatever its types.
trait Sweep: Send {
    fn plane(&self) -> PlaneId;
    /// Nothing is left to do.
    fn is_over(&self) -> bool;
    fn poll(&mut self, now: Time) -> Option<Output>;
    fn observed(&mut self, now: Time, answer: Observation);
    fn applied(&mut self, now: Time, answer: Applied, removed: &mut Vec<Removed>);
    fn deadline(&self) -> Option<Time>;
    fn left(&self) -> Vec<(String, Outcome)>;
    fn fault(&self) -> Option<Fault>;
}

struct One<P: KernelPlane> {
    lane: Lane<P>,
    flying: Vec<Op<P>>,
}

impl<P: KernelPlane> Sweep for One<P>
where
    P::Key: Text + Send,
    P::Value: Send,
{
    fn plane(&self) -> PlaneId {
        P::ID
    }

    fn is_over(&self) -> bool {
        self.lane.is_settled() || !self.lane.reconciler.in_flight() && self.lane.reconciler.fault().is_some()
    }

    fn poll(&mut self, now: Time) -> Option<Output> {
        match self.lane.poll(now, Allow { puts: false, deletes: true, hold: None })? {
            Request::Observe => Some(Output::Observe(P::ID)),
            Request::Apply(ops) => {
                self.flying.clone_from(&ops);
                Some(Output::Apply(P::batch(ops)))
            }
        }
    }

    fn observed(&mut self, now: Time, answer: Observation) {
        if let Some(answer) = P::observation(answer) {
            self.lane.reconciler.handle(now, fairway_reconcile::Input::Observed(answer));
        }
    }

    fn applied(&mut self, now: Time, answer: Applied, removed: &mut Vec<Removed>) {
        let Some(answer) = P::outcomes(answer) else { return };
        let ops = core::mem::take(&mut self.flying);
        // Of a transaction that was refused nothing happened.
        let whole = |outcomes: &[Outcome]| outcomes.iter().all(|o| matches!(o, Outcome::Done | Outcome::Gone));
        if let Ok(outcomes) = &answer
            && (P::ID != PlaneId::Filter || whole(outcomes))
        {
            let done = ops.iter().zip(outcomes).filter(|(_, outcome)| **outcome == Outcome::Done);
            removed.extend(done.map(|(op, _)| Removed { plane: P::ID, key: op.key().text() }));
        }
        self.lane.reconciler.handle(now, fairway_reconcile::Input::Applied(answer));
    }

    fn deadline(&self) -> Option<Time> {
        self.lane.deadline()
    }

    fn left(&self) -> Vec<(String, Outcome)> {
        self.lane.parked().map(|(_, key, outcome)| (key, outcome)).collect()
    }

    fn fault(&self) -> Option<Fault> {
        self.lane.reconciler.fault().cloned()
    }
}

impl Cleanup {
    /// What is ours under this configuration. Virtual servers in its `--excluded-cidrs` are not, and without its service
    /// proxy no virtual server is. Planes in `absent` are left alone, as the kernel has nothing of them.
    pub fn new(config: &NodeConfig, absent: &[PlaneId]) -> Cleanup {
        fn one<P: KernelPlane>(lane: Lane<P>) -> Box<dyn Sweep>
        where
            P::Key: Text + Send,
            P::Value: Send,
        {
            Box::new(One { lane, flying: Vec::new() })
        }
        let mut planes = Vec::new();
        if config.run_service_proxy {
            planes.push(one(ipvs_lane(config, 0)));
            planes.push(one(Lane::<Pod>::new(0)));
        }
        planes.push(one(Lane::<Route>::new(0)));
        planes.push(one(Lane::<Rule>::new(0)));
        planes.push(one(Lane::<Filter>::new(0)));
        planes.push(one(Lane::<Addr>::new(0)));
        // Pods hang on the bridge, and the CNI configuration names it: both stay, so that these pods go on.
        planes.push(one(Lane::<Link>::new(0).with_owner(Box::new(|name, _| **name != *BRIDGE))));
        planes.retain(|plane| !absent.contains(&plane.plane()));
        Cleanup { planes, removed: Vec::new() }
    }

    fn current(&self) -> Option<&dyn Sweep> {
        self.planes.iter().find(|plane| !plane.is_over()).map(AsRef::as_ref)
    }

    /// Takes an answer, or nothing but the time ([`Input::Tick`]); other inputs mean nothing here.
    pub fn handle(&mut self, now: Time, input: Input) {
        for plane in &mut self.planes {
            match &input {
                Input::Observed(answer) if answer.plane() == plane.plane() => plane.observed(now, answer.clone()),
                Input::Applied(answer) if answer.plane() == plane.plane() => {
                    plane.applied(now, answer.clone(), &mut self.removed);
                }
                _ => {}
            }
        }
    }

    /// The next request to the kernel, if any.
    pub fn poll(&mut self, now: Time) -> Option<Output> {
        self.planes.iter_mut().find(|plane| !plane.is_over())?.poll(now)
    }

    /// When `poll` has something new without an answer; `None` while one is awaited, and when all is done.
    pub fn deadline(&self) -> Option<Time> {
        self.current()?.deadline()
    }

    /// Whether nothing is left to do.
    pub fn is_over(&self) -> bool {
        self.current().is_none()
    }

    /// What was removed since last asked, in order.
    pub fn removed(&mut self) -> Vec<Removed> {
        core::mem::take(&mut self.removed)
    }

    /// What could not be removed, and what the kernel said.
    pub fn left(&self) -> Vec<(PlaneId, String, Outcome)> {
        let of = |plane: &dyn Sweep| {
            let id = plane.plane();
            plane.left().into_iter().map(move |(key, outcome)| (id, key, outcome))
        };
        self.planes.iter().flat_map(|plane| of(plane.as_ref())).collect()
    }

    /// Planes that could not be read or written at all.
    pub fn faults(&self) -> Vec<(PlaneId, Fault)> {
        self.planes.iter().filter_map(|plane| Some((plane.plane(), plane.fault()?))).collect()
    }
}

impl fmt::Debug for Cleanup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cleanup").field("current", &self.current().map(|p| p.plane())).finish_non_exhaustive()
    }
}
