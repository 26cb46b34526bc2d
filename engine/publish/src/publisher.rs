//! Everything that a node writes to the API, behind one machine.

use alloc::collections::{BTreeMap, BTreeSet, VecDeque};
use alloc::format;
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::net::IpAddr;

use fairway_objects::{
    Delta, Kind, LoadBalancerConfig, NodeConfig, Notice, NoticeChange, Object, ObjectKey, ObjectName, Subject,
};

use crate::Time;
use crate::allocator::{Allocator, Reason};
use crate::election::{Election, Params};
use crate::io::{Answer, Ingress, Output, Refusal, Request};
use crate::recorder::{Limits, Recorder, reason};

/// kube-router's Lease, so that both never give addresses at once.
const LEASE: &str = "kube-router-lballoc";
/// Writes of statuses under way.
const WRITES: usize = 16;
/// Pause after a write that failed, at first and at most.
const RETRY: (Time, Time) = (Time::from_secs(1), Time::from_secs(60));

/// What an operator sees of the allocator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct View {
    /// Namespace and name of the Lease.
    pub lease: ObjectName,
    /// Who holds it, as far as we saw; empty: nobody.
    pub holder: Arc<str>,
    /// We do.
    pub leads: bool,
    /// Services of ours and their addresses, by name.
    pub given: Vec<(ObjectName, Vec<IpAddr>)>,
}

#[derive(Debug)]
struct LoadBalancer {
    config: LoadBalancerConfig,
    allocator: Allocator,
    election: Election,
    /// Whether the allocator was told to lead.
    leads: bool,
    /// Services were listed once.
    listed: bool,
    /// What is being written.
    flights: BTreeMap<ObjectName, (Vec<IpAddr>, Vec<IpAddr>)>,
    /// Services whose plan is not empty, perhaps.
    pending: BTreeSet<ObjectName>,
    /// Services whose status is refused; they are tried again at the next review, or when they change.
    refused: BTreeSet<ObjectName>,
    /// Nothing is written before this: the server cannot be reached, or does not let us.
    not_before: Time,
    /// Writes that failed in a row.
    failures: u32,
    /// Why no status can be written.
    trouble: Option<String>,
    review: Time,
    unflushed: bool,
}

/// The names of a kind, as a watch tells them.
#[derive(Debug, Default)]
struct Names {
    known: BTreeSet<ObjectName>,
    /// Not seen again since its relist began.
    stale: Option<BTreeSet<ObjectName>>,
}

impl Names {
    fn seen(&mut self, name: &ObjectName, exists: bool) {
        if let Some(stale) = &mut self.stale {
            stale.remove(name);
        }
        if exists {
            self.known.insert(name.clone());
        } else {
            self.known.remove(name);
        }
    }

    fn relist(&mut self) {
        self.stale = Some(self.known.clone());
    }

    /// The list is complete: these are gone.
    fn listed(&mut self) -> BTreeSet<ObjectName> {
        let gone = self.stale.take().unwrap_or_default();
        self.known.retain(|name| !gone.contains(name));
        gone
    }
}

/// Gives addresses while it leads, and writes Events. `handle` in whatever form, then [`poll`](Self::poll) until
/// `None`, and [`deadline`](Self::deadline) says when a tick is wanted.
#[derive(Debug)]
pub struct Publisher {
    now: Time,
    balancer: Option<LoadBalancer>,
    recorder: Option<Recorder>,
    nodes: Names,
    services: Names,
    outputs: VecDeque<Output>,
    /// Notices about the writing itself.
    told: BTreeSet<Notice>,
    left: bool,
}

impl Publisher {
    /// What this configuration wants written; perhaps nothing.
    pub fn new(config: &NodeConfig, seed: u64) -> Self {
        let balancer = config.load_balancer.clone().map(|ours| LoadBalancer {
            allocator: Allocator::new(
                &config.load_balancer_ip_range,
                &config.service_cluster_ip_range,
                ours.default_class,
                // Otherwise each node says so, as it does not serve it.
                !config.strict_external_ip_validation,
            ),
            election: Election::new(
                ObjectName { namespace: ours.lease_namespace.clone(), name: LEASE.into() },
                ours.identity.clone(),
                seed,
                Params::default(),
            ),
            config: ours,
            leads: false,
            listed: false,
            flights: BTreeMap::new(),
            pending: BTreeSet::new(),
            refused: BTreeSet::new(),
            not_before: Time::ZERO,
            failures: 0,
            trouble: None,
            review: Time::ZERO,
            unflushed: false,
        });
        let recorder = config.events.then(|| Recorder::new(config.node_name.clone(), Limits::default()));
        Publisher {
            now: Time::ZERO,
            balancer,
            recorder,
            nodes: Names::default(),
            services: Names::default(),
            outputs: VecDeque::new(),
            told: BTreeSet::new(),
            left: false,
        }
    }

    /// What an operator sees of the allocator, if it runs here.
    pub fn view(&self) -> Option<View> {
        let balancer = self.balancer.as_ref()?;
        let given = balancer.allocator.given().map(|(name, all)| (name.clone(), all.into_iter().collect())).collect();
        Some(View {
            lease: balancer.election.name().clone(),
            holder: balancer.election.holder(),
            leads: balancer.leads,
            given,
        })
    }

    /// Events written and given up, if Events are written here.
    pub fn events(&self) -> Option<(u64, u64)> {
        self.recorder.as_ref().map(Recorder::counts)
    }

    /// Whether everything that was heard is written, as far as it can be.
    pub fn settled(&self) -> bool {
        self.balancer.as_ref().is_none_or(|b| b.flights.is_empty() && b.pending.is_empty() && !b.unflushed)
    }

    /// Takes a change from the API server.
    pub fn delta(&mut self, now: Time, delta: &Delta) {
        if self.balancer.is_none() && self.recorder.is_none() {
            return;
        }
        self.now = self.now.max(now);
        match delta {
            Delta::Put { object: Object::Node(node), .. } => self.node(&node.name, true),
            Delta::Put { object: Object::Service(service), .. } => {
                self.services.seen(&service.name, true);
                if let Some(balancer) = &mut self.balancer {
                    if balancer.allocator.service(&service.name) != Some(service) {
                        balancer.refused.remove(&service.name);
                    }
                    balancer.allocator.put(service.clone());
                    balancer.unflushed = true;
                }
            }
            Delta::Put { .. } => {}
            // It cannot be used, but it is there, and so are nodes that are wrong.
            Delta::Invalid { key, .. } if key.kind == Kind::Node => self.node(&key.name, true),
            Delta::Invalid { key, .. } | Delta::Del(key) => match key.kind {
                Kind::Node => self.node(&key.name, false),
                Kind::Service => {
                    self.services.seen(&key.name, false);
                    self.service_gone(&key.name);
                }
                _ => {}
            },
            Delta::Relist(Kind::Node) => self.nodes.relist(),
            Delta::Relist(Kind::Service) => self.services.relist(),
            Delta::Listed(Kind::Node) => {
                for gone in self.nodes.listed() {
                    self.node(&gone, false);
                }
                if let Some(recorder) = &mut self.recorder {
                    recorder.nodes_listed();
                }
            }
            Delta::Listed(Kind::Service) => {
                for gone in self.services.listed() {
                    self.service_gone(&gone);
                }
                if let Some(balancer) = &mut self.balancer {
                    balancer.listed = true;
                }
            }
            Delta::Relist(_) | Delta::Listed(_) => {}
        }
    }

    fn node(&mut self, name: &ObjectName, exists: bool) {
        self.nodes.seen(name, exists);
        if let Some(recorder) = &mut self.recorder {
            recorder.node(&name.name, exists);
        }
    }

    fn service_gone(&mut self, name: &ObjectName) {
        let Some(balancer) = &mut self.balancer else { return };
        let changes = balancer.allocator.remove(name);
        balancer.refused.remove(name);
        balancer.pending.remove(name);
        balancer.unflushed = true;
        self.tell(changes);
        self.note_trouble(name, None);
    }

    /// A notice of the node's begins or ceases to stand. Not for those that come out of [`poll`](Self::poll).
    pub fn notice(&mut self, now: Time, change: &NoticeChange) {
        self.now = self.now.max(now);
        let Some(recorder) = &mut self.recorder else { return };
        match change {
            NoticeChange::Raised(notice) => recorder.raise(self.now, notice, reason(notice), false),
            NoticeChange::Cleared(notice) => recorder.clear(notice, reason(notice)),
        }
    }

    /// The API server answered.
    pub fn answer(&mut self, now: Time, answer: Answer) {
        self.now = self.now.max(now);
        match answer {
            Answer::Event { name, result } => {
                if let Some(recorder) = &mut self.recorder {
                    recorder.answer(self.now, &name, &result);
                }
            }
            Answer::Lease(result) => {
                if let Some(balancer) = &mut self.balancer {
                    balancer.election.answer(self.now, result);
                }
            }
            Answer::Ingress { service, result } => self.written(&service, result),
        }
    }

    fn written(&mut self, name: &ObjectName, result: Result<(bool, Delta), Refusal>) {
        let now = self.now;
        let Some(balancer) = &mut self.balancer else { return };
        let Some((added, removed)) = balancer.flights.remove(name) else { return };
        if !balancer.leads {
            // Whoever leads now sees to it.
            return;
        }
        balancer.pending.insert(name.clone());
        match result {
            Ok((true, _)) => {
                (balancer.failures, balancer.trouble) = (0, None);
                balancer.allocator.written(name, &added);
                // Taking away is the part of it that waits for the watch.
                balancer.pending.remove(name);
                if let Some(recorder) = &mut self.recorder {
                    let key = ObjectKey { kind: Kind::Service, name: name.clone() };
                    let list = |all: &[IpAddr]| all.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
                    if !added.is_empty() {
                        recorder.happened(&key, "AddressGiven", &format!("given {}", list(&added)));
                    }
                    if !removed.is_empty() {
                        recorder.happened(&key, "AddressTaken", &format!("taken away {}", list(&removed)));
                    }
                }
            }
            Ok((false, Delta::Put { object: Object::Service(fresh), .. })) => {
                balancer.allocator.put_fresh(fresh);
                balancer.unflushed = true;
            }
            // It is gone, or nothing that we can use. The watch says so too.
            Ok((false, _)) | Err(Refusal::Gone) => drop(balancer.pending.remove(name)),
            // Somebody was faster: what he wrote is read with the next attempt.
            Err(Refusal::Conflict) => return,
            Err(Refusal::Refused(reason)) => {
                balancer.refused.insert(name.clone());
                return self.note_trouble(name, Some(reason));
            }
            Err(Refusal::Forbidden(reason)) => {
                balancer.trouble = Some(reason);
                balancer.not_before = balancer.review;
                return;
            }
            Err(Refusal::Unreachable { reason, after }) => {
                let pause = (RETRY.0 * 2u32.saturating_pow(balancer.failures.min(16))).min(RETRY.1);
                balancer.failures += 1;
                balancer.trouble = Some(reason);
                balancer.not_before = now + pause.max(after.unwrap_or_default());
                return;
            }
        }
        self.note_trouble(name, None);
    }

    /// The status of a service cannot be written, or can.
    fn note_trouble(&mut self, name: &ObjectName, reason: Option<String>) {
        let subject = Subject::Object(ObjectKey { kind: Kind::Service, name: name.clone() });
        let field = "status.loadBalancer";
        let old: Vec<Notice> = self.told.iter().filter(|n| n.subject == subject && n.field == field).cloned().collect();
        let new = reason.map(|reason| Notice { subject, field: field.into(), reason });
        self.replace(old, new);
    }

    fn replace(&mut self, old: Vec<Notice>, new: Option<Notice>) {
        for old in old.into_iter().filter(|old| Some(old) != new.as_ref()) {
            self.told.remove(&old);
            self.outputs.push_back(Output::Notice(NoticeChange::Cleared(old)));
        }
        if let Some(new) = new
            && self.told.insert(new.clone())
        {
            self.outputs.push_back(Output::Notice(NoticeChange::Raised(new)));
        }
    }

    /// What stands against us at the API server.
    fn review_trouble(&mut self, what: &str, reason: Option<String>) {
        let subject = Subject::Source(what.into());
        let old = self.told.iter().filter(|notice| notice.subject == subject).cloned().collect();
        let new = reason.map(|reason| Notice { subject, field: String::new(), reason });
        self.replace(old, new);
    }

    fn tell(&mut self, changes: Vec<(NoticeChange, Reason)>) {
        for (change, reason) in changes {
            if let Some(recorder) = &mut self.recorder {
                match &change {
                    NoticeChange::Raised(notice) => recorder.raise(self.now, notice, reason.as_str(), true),
                    NoticeChange::Cleared(notice) => recorder.clear(notice, reason.as_str()),
                }
            }
            self.outputs.push_back(Output::Notice(change));
        }
    }

    /// The time is now this.
    pub fn tick(&mut self, now: Time) {
        self.now = self.now.max(now);
    }

    /// The daemon ends: the Lease is given back, and nothing else is begun.
    pub fn leave(&mut self, now: Time) {
        self.now = self.now.max(now);
        self.left = true;
        if let Some(balancer) = &mut self.balancer {
            balancer.election.leave(self.now);
        }
    }

    /// When [`tick`](Self::tick) is wanted.
    pub fn deadline(&self) -> Option<Time> {
        if self.left {
            return None;
        }
        let recorder = self.recorder.as_ref().and_then(Recorder::deadline);
        let balancer = self.balancer.as_ref();
        let election = balancer.and_then(|b| b.election.deadline());
        let review = balancer.filter(|b| b.leads).map(|b| b.review);
        let waits = |b: &&LoadBalancer| b.leads && !b.pending.is_empty() && b.flights.len() < WRITES;
        let retries = balancer.filter(waits).map(|b| b.not_before);
        [recorder, election, review, retries].into_iter().flatten().min()
    }

    /// The next thing to do, if any.
    pub fn poll(&mut self) -> Option<Output> {
        if self.outputs.is_empty() {
            self.work();
        }
        self.outputs.pop_front()
    }

    fn work(&mut self) {
        let now = self.now;
        if let Some(balancer) = &mut self.balancer {
            balancer.election.tick(now);
            while let Some(request) = balancer.election.poll() {
                self.outputs.push_back(Output::Request(request));
            }
        }
        if self.left {
            return;
        }
        self.balance();
        if let Some(recorder) = &mut self.recorder {
            while let Some(event) = recorder.poll(now) {
                self.outputs.push_back(Output::Request(Request::Event(event)));
            }
        }
        let events = self.recorder.as_ref().and_then(|r| r.trouble()).map(|why| format!("cannot be written: {why}"));
        self.review_trouble("Kubernetes Events", events);
        let (name, lease, status) = match &self.balancer {
            None => return,
            Some(b) => {
                (format!("Lease {}", b.election.name()), b.election.trouble().map(String::from), b.trouble.clone())
            }
        };
        self.review_trouble(&name, lease.map(|why| format!("no addresses are given by this node: {why}")));
        self.review_trouble("status of services", status.map(|why| format!("cannot be written: {why}")));
    }

    fn balance(&mut self) {
        let now = self.now;
        let Some(balancer) = &mut self.balancer else { return };
        let leads = balancer.listed && balancer.election.leads(now);
        let period = Time::from_millis(balancer.config.sync_period_ms.max(1));
        if leads != balancer.leads {
            balancer.leads = leads;
            balancer.allocator.lead(leads);
            balancer.unflushed = true;
            balancer.review = now + period;
            balancer.refused.clear();
            (balancer.trouble, balancer.failures, balancer.not_before) = (None, 0, now);
            if !leads {
                balancer.pending.clear();
            }
        } else if leads && balancer.review <= now {
            balancer.review = now + period;
            balancer.allocator.review();
            balancer.refused.clear();
            balancer.unflushed = true;
        }
        if balancer.unflushed {
            balancer.unflushed = false;
            let flushed = balancer.allocator.flush();
            if balancer.leads {
                balancer.pending.extend(flushed.services);
            }
            self.tell(flushed.notices);
        }
        if !leads {
            let old = self.told.iter().filter(|n| matches!(n.subject, Subject::Object(_))).cloned().collect();
            self.replace(old, None);
        }
        self.write_all();
    }

    fn write_all(&mut self) {
        let now = self.now;
        let Some(balancer) = &mut self.balancer else { return };
        if !balancer.leads {
            return;
        }
        if now < balancer.not_before {
            return;
        }
        // What is being written stays pending: its answer leads back here.
        let mut flying = BTreeSet::new();
        while balancer.flights.len() < WRITES
            && let Some(name) = balancer.pending.pop_first()
        {
            if balancer.flights.contains_key(&name) {
                flying.insert(name);
                continue;
            }
            let plan = balancer.allocator.plan(&name);
            let wanted = !plan.is_empty() && !balancer.refused.contains(&name);
            let Some(service) = balancer.allocator.service(&name).filter(|_| wanted) else { continue };
            balancer.flights.insert(name, (plan.add.clone(), plan.remove.clone()));
            let write = Ingress { service: service.clone(), add: plan.add, remove: plan.remove };
            self.outputs.push_back(Output::Request(Request::Ingress(write)));
        }
        balancer.pending.append(&mut flying);
    }
}
