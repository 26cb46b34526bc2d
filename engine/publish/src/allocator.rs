//! Which addresses services of type LoadBalancer get.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::format;
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::net::IpAddr;

use fairway_objects::{
    FamilyPolicy, Kind, Notice, NoticeChange, ObjectKey, ObjectName, Service, ServicePort, ServiceType, Subject,
    TrafficPolicy,
};
use ipnet::IpNet;

use crate::ranges::Pool;

/// The class that means us.
const CLASS: &str = "kube-router";
/// The class that means whoever is the default, as kube-router has it.
const DEFAULT_CLASS: &str = "default";

/// What a notice is about, as the `reason` of an Event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// No range, or every address of it is taken.
    NoFreeAddress,
    /// The address that the service asks for cannot be given to it.
    AddressUnavailable,
    /// An address that was given by somebody, and is in no range.
    AddressOutsideRange,
    /// Two services had the same address; this one gets another.
    AddressConflict,
}

impl Reason {
    /// `NoFreeAddress`, ...
    pub const fn as_str(self) -> &'static str {
        match self {
            Reason::NoFreeAddress => "NoFreeAddress",
            Reason::AddressUnavailable => "AddressUnavailable",
            Reason::AddressOutsideRange => "AddressOutsideRange",
            Reason::AddressConflict => "AddressConflict",
        }
    }
}

/// A notice, and what it is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Told {
    /// The notice.
    pub notice: Notice,
    /// What it is about.
    pub reason: Reason,
}

/// What is to be written to the status of a service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Addresses that it gets.
    pub add: Vec<IpAddr>,
    /// Addresses that it had and another service has.
    pub remove: Vec<IpAddr>,
}

impl Plan {
    /// Whether nothing is to be written.
    pub const fn is_empty(&self) -> bool {
        self.add.is_empty() && self.remove.is_empty()
    }
}

/// What a flush found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Flushed {
    /// Services that were looked at; [`Allocator::plan`] says what is to be written.
    pub services: BTreeSet<ObjectName>,
    /// Notices that begin or cease to stand.
    pub notices: Vec<(NoticeChange, Reason)>,
    /// How many services were looked at: the work that was done.
    pub evaluated: usize,
}

/// The age of a service: of two that want the same the lower wins.
type Age = (i64, ObjectName);

fn age(service: &Service) -> Age {
    (service.created_s, service.name.clone())
}

#[derive(Clone, Debug)]
struct Entry {
    service: Arc<Service>,
    /// Given, and not yet seen in its status; `true`: written.
    planned: BTreeMap<IpAddr, bool>,
    /// In its status, and another's.
    lost: BTreeSet<IpAddr>,
    told: BTreeSet<Told>,
}

impl Entry {
    /// Addresses in its status.
    fn ingress(&self) -> impl Iterator<Item = &IpAddr> {
        self.service.load_balancer_ips.iter().chain(&self.service.wish.proxied_ips)
    }

    /// Addresses that nobody else may get because of this service.
    fn uses(&self) -> BTreeSet<IpAddr> {
        self.ingress().chain(&self.service.external_ips).chain(self.planned.keys()).copied().collect()
    }
}

/// Gives addresses of the ranges to services of type LoadBalancer.
///
/// The rules:
///
/// - A service is ours if its class is `kube-router`, or with the default class if it has none or `default`.
/// - It gets one address of each of its families: the one it asks for, else one of a service with the same sharing key,
///   else the first free one. With RequireDualStack it gets both or none, with PreferDualStack what there is.
/// - Services that wait are served by age, then by name, so that every leader gives the same.
/// - Whatever any service has as external IP or in its status is taken. What a service of ours has it keeps, also when
///   it asks for another or the ranges change. If two have the same address and may not share it, the older keeps it.
/// - What was given is taken at once, not when it is seen in the service's status.
///
/// Indexes lead from an address to its users and to those who wait for it, and taken addresses are kept as runs, so an
/// event costs what it touches: neither all services nor all addresses are walked.
#[derive(Clone, Debug)]
pub struct Allocator {
    ranges: Vec<IpNet>,
    default_class: bool,
    report_outside: bool,
    leads: bool,
    /// IPv4 and IPv6.
    pools: [Pool; 2],
    services: BTreeMap<ObjectName, Entry>,
    users: BTreeMap<IpAddr, BTreeSet<ObjectName>>,
    by_key: BTreeMap<Arc<str>, BTreeSet<ObjectName>>,
    /// Who asks for an address that is not to be had.
    wanted: BTreeMap<IpAddr, BTreeSet<ObjectName>>,
    wants: BTreeMap<ObjectName, BTreeSet<IpAddr>>,
    /// Who waits for any address of a family.
    exhausted: [BTreeSet<Age>; 2],
    /// An address became free since the waiting were last asked.
    freed: [bool; 2],
    dirty: BTreeSet<Age>,
}

/// What one service gets, as found.
#[derive(Default)]
struct Found {
    planned: BTreeMap<IpAddr, bool>,
    lost: BTreeSet<IpAddr>,
    told: BTreeSet<Told>,
    wants: BTreeSet<IpAddr>,
    exhausted: [bool; 2],
}

fn family(v6: bool) -> &'static str {
    if v6 { "IPv6" } else { "IPv4" }
}

impl Allocator {
    /// An allocator that has heard of no service. `blocked` is never given; addresses outside the ranges are reported
    /// if nobody else does.
    pub fn new(ranges: &[IpNet], blocked: &[IpNet], default_class: bool, report_outside: bool) -> Self {
        Allocator {
            ranges: ranges.to_vec(),
            default_class,
            report_outside,
            leads: false,
            pools: [Pool::new(false, ranges, blocked), Pool::new(true, ranges, blocked)],
            services: BTreeMap::new(),
            users: BTreeMap::new(),
            by_key: BTreeMap::new(),
            wanted: BTreeMap::new(),
            wants: BTreeMap::new(),
            exhausted: [BTreeSet::new(), BTreeSet::new()],
            freed: [false; 2],
            dirty: BTreeSet::new(),
        }
    }

    /// Whether a service gets its addresses from us.
    pub fn is_ours(&self, service: &Service) -> bool {
        service.service_type == ServiceType::LoadBalancer
            && match service.wish.class.as_deref() {
                Some(CLASS) => true,
                None | Some(DEFAULT_CLASS) => self.default_class,
                Some(_) => false,
            }
    }

    /// From now on this one gives addresses, or does not. Who does not says nothing, and gives nothing.
    pub fn lead(&mut self, leads: bool) {
        if leads == self.leads {
            return;
        }
        self.leads = leads;
        self.review();
    }

    /// Looks at every service of ours again. What was written and never seen is written again.
    pub fn review(&mut self) {
        for entry in self.services.values_mut() {
            entry.planned.values_mut().for_each(|written| *written = false);
            self.dirty.insert(age(&entry.service));
        }
    }

    /// A service is now like this, as the watch says. It may be older than what we wrote.
    pub fn put(&mut self, service: Arc<Service>) {
        let name = service.name.clone();
        let old = self.services.remove(&name);
        let before = old.as_ref().map(Entry::uses).unwrap_or_default();
        if let Some(old) = &old {
            if old.service == service {
                let mut same = old.clone();
                same.planned.retain(|address, _| !service.load_balancer_ips.contains(address));
                self.services.insert(name, same);
                return;
            }
            self.leave_queues(&old.service);
        }
        let Entry { mut planned, lost, told, .. } = old.unwrap_or_else(|| Entry {
            service: service.clone(),
            planned: BTreeMap::new(),
            lost: BTreeSet::new(),
            told: BTreeSet::new(),
        });
        planned.retain(|address, _| !service.load_balancer_ips.contains(address));
        if let Some(key) = &service.wish.sharing_key {
            self.by_key.entry(key.clone()).or_default().insert(name.clone());
        }
        self.dirty.insert(age(&service));
        self.services.insert(name.clone(), Entry { service, planned, lost, told });
        self.reindex(&name, &before, true);
    }

    /// As [`put`](Self::put), of a service that was just read. What is in its status is there, whatever an older event
    /// says afterwards.
    pub fn put_fresh(&mut self, service: Arc<Service>) {
        let name = service.name.clone();
        self.put(service);
        if let Some(entry) = self.services.get_mut(&name) {
            let ours: Vec<IpAddr> = entry.service.load_balancer_ips.clone();
            for address in ours.into_iter().filter(|a| self.pools.iter().any(|pool| pool.offers(*a))) {
                entry.planned.insert(address, true);
            }
        }
    }

    /// A service is gone.
    pub fn remove(&mut self, name: &ObjectName) -> Vec<(NoticeChange, Reason)> {
        let Some(entry) = self.services.remove(name) else { return Vec::new() };
        let before = entry.uses();
        self.leave_queues(&entry.service);
        self.reindex(name, &before, true);
        entry.told.into_iter().map(|told| (NoticeChange::Cleared(told.notice), told.reason)).collect()
    }

    /// The plan for a service was carried out.
    pub fn written(&mut self, name: &ObjectName, addresses: &[IpAddr]) {
        if let Some(entry) = self.services.get_mut(name) {
            for address in addresses {
                if let Some(written) = entry.planned.get_mut(address) {
                    *written = true;
                }
            }
        }
    }

    /// The service as it is known.
    pub fn service(&self, name: &ObjectName) -> Option<&Arc<Service>> {
        self.services.get(name).map(|entry| &entry.service)
    }

    /// What is to be written to the status of a service.
    pub fn plan(&self, name: &ObjectName) -> Plan {
        let Some(entry) = self.services.get(name) else { return Plan::default() };
        let mut add: Vec<IpAddr> = entry.planned.iter().filter(|(_, written)| !**written).map(|(a, _)| *a).collect();
        add.retain(|address| !entry.service.load_balancer_ips.contains(address));
        // The primary family first.
        let primary = entry.service.wish.ipv6.first().copied().unwrap_or_default();
        add.sort_by_key(|address| (address.is_ipv6() != primary, *address));
        Plan { add, remove: entry.lost.iter().copied().collect() }
    }

    /// Services of ours with the addresses they have or get, by name.
    pub fn given(&self) -> impl Iterator<Item = (&ObjectName, BTreeSet<IpAddr>)> {
        self.services.iter().filter(|(_, entry)| self.is_ours(&entry.service)).map(|(name, entry)| {
            let all = entry.ingress().chain(entry.planned.keys());
            (name, all.filter(|address| !entry.lost.contains(address)).copied().collect())
        })
    }

    /// Decides about every service that something changed for.
    pub fn flush(&mut self) -> Flushed {
        let mut flushed = Flushed::default();
        let mut before: BTreeMap<ObjectName, BTreeSet<Told>> = BTreeMap::new();
        // How far those who wait were asked already.
        let mut asked: [Option<Age>; 2] = [None, None];
        loop {
            let mut next = self.dirty.first().cloned();
            for (f, asked) in asked.iter_mut().enumerate() {
                if !self.freed[f] {
                    continue;
                }
                let waiting = match &asked {
                    _ if self.pools[f].first_free().is_none() => None,
                    None => self.exhausted[f].first(),
                    Some(last) => {
                        use core::ops::Bound::{Excluded, Unbounded};
                        self.exhausted[f].range((Excluded(last), Unbounded)).next()
                    }
                };
                match waiting.cloned() {
                    None => self.freed[f] = false,
                    Some(waiting) if next.as_ref().is_none_or(|next| waiting < *next) => {
                        *asked = Some(waiting.clone());
                        next = Some(waiting);
                    }
                    Some(_) => {}
                }
            }
            let Some(next) = next else { break };
            self.dirty.remove(&next);
            let name = next.1;
            // It may have another age by now; then it is marked under that too.
            let Some(entry) = self.services.get(&name) else { continue };
            before.entry(name.clone()).or_insert_with(|| entry.told.clone());
            self.evaluate(&name);
            flushed.evaluated += 1;
            flushed.services.insert(name);
        }
        for (name, before) in before {
            let Some(entry) = self.services.get(&name) else { continue };
            let change = |told: &Told, make: fn(Notice) -> NoticeChange| (make(told.notice.clone()), told.reason);
            flushed.notices.extend(before.difference(&entry.told).map(|told| change(told, NoticeChange::Cleared)));
            flushed.notices.extend(entry.told.difference(&before).map(|told| change(told, NoticeChange::Raised)));
        }
        flushed
    }

    fn leave_queues(&mut self, service: &Service) {
        let at = age(service);
        self.dirty.remove(&at);
        for waiting in &mut self.exhausted {
            waiting.remove(&at);
        }
        for address in self.wants.remove(&service.name).unwrap_or_default() {
            if let Some(waiting) = self.wanted.get_mut(&address) {
                waiting.remove(&service.name);
                if waiting.is_empty() {
                    self.wanted.remove(&address);
                }
            }
        }
        if let Some(key) = &service.wish.sharing_key
            && let Some(members) = self.by_key.get_mut(key)
        {
            members.remove(&service.name);
            if members.is_empty() {
                self.by_key.remove(key);
            }
        }
    }

    fn mark(&mut self, name: &ObjectName) {
        if let Some(entry) = self.services.get(name) {
            self.dirty.insert(age(&entry.service));
        }
    }

    /// The addresses of a service may not be `before` any more. `changed`: nor is what it lets others share.
    fn reindex(&mut self, name: &ObjectName, before: &BTreeSet<IpAddr>, changed: bool) {
        let after = self.services.get(name).map(Entry::uses).unwrap_or_default();
        for address in before.union(&after).copied() {
            let (was, is) = (before.contains(&address), after.contains(&address));
            if was == is && !changed {
                continue;
            }
            let users = self.users.entry(address).or_default();
            if is {
                users.insert(name.clone());
            } else {
                users.remove(name);
            }
            let users: Vec<ObjectName> = users.iter().filter(|user| *user != name).cloned().collect();
            let pool = &mut self.pools[usize::from(address.is_ipv6())];
            if is {
                pool.take(address);
            } else if users.is_empty() {
                self.users.remove(&address);
                pool.free(address);
                self.freed[usize::from(address.is_ipv6())] |= pool.offers(address);
            }
            let waiting = self.wanted.get(&address).into_iter().flatten().cloned();
            for other in users.into_iter().chain(waiting).collect::<Vec<_>>() {
                if other != *name {
                    self.mark(&other);
                }
            }
        }
        // Who waits and may share with it.
        let key = self.services.get(name).and_then(|entry| entry.service.wish.sharing_key.clone());
        for other in key.and_then(|key| self.by_key.get(&key).cloned()).unwrap_or_default() {
            let waits = self.services.get(&other).map(|entry| age(&entry.service));
            if let Some(at) = waits.filter(|at| self.exhausted.iter().any(|waiting| waiting.contains(at)))
                && other != *name
                && before != &after
            {
                self.dirty.insert(at);
            }
        }
    }

    /// Whether two services may have one address. As for MetalLB: the same key, no port of both, and not a traffic
    /// policy that makes a node attract what the other's endpoints are not on.
    fn may_share(a: &Service, b: &Service) -> bool {
        let local = |s: &Service| s.local || s.external_traffic_policy == TrafficPolicy::Local;
        let same = |p: &ServicePort| b.ports.iter().any(|q| (p.protocol, p.port) == (q.protocol, q.port));
        a.wish.sharing_key.is_some()
            && a.wish.sharing_key == b.wish.sharing_key
            && !local(a)
            && !local(b)
            && !a.ports.iter().any(same)
    }

    /// Other services that have the address and do not let this one have it too.
    fn rivals(&self, service: &Service, address: IpAddr) -> impl Iterator<Item = &Entry> {
        let others = self.users.get(&address).into_iter().flatten().filter(|name| **name != service.name);
        others.filter_map(|name| self.services.get(name)).filter(move |other| {
            let given = !other.service.external_ips.contains(&address);
            !(given && self.is_ours(&other.service) && Self::may_share(service, &other.service))
        })
    }

    /// One of them.
    fn holder(&self, service: &Service, address: IpAddr) -> Option<&Entry> {
        self.rivals(service, address).next()
    }

    /// The address of somebody with the same key that this service may have too.
    fn shared(&self, service: &Service, v6: bool) -> Option<IpAddr> {
        let members = self.by_key.get(service.wish.sharing_key.as_ref()?)?;
        let others = members.iter().filter(|name| **name != service.name).filter_map(|name| self.services.get(name));
        let all = others.flat_map(|other| other.ingress().chain(other.planned.keys()));
        let fits = all.filter(|a| a.is_ipv6() == v6 && self.pools[usize::from(v6)].offers(**a));
        fits.copied().filter(|address| self.holder(service, *address).is_none()).min()
    }

    fn evaluate(&mut self, name: &ObjectName) {
        let Some(entry) = self.services.get(name) else { return };
        let before = entry.uses();
        let found = if self.leads && self.is_ours(&entry.service) { self.find(entry) } else { Found::default() };
        let at = age(&entry.service);
        for (waiting, waits) in self.exhausted.iter_mut().zip(found.exhausted) {
            if waits {
                waiting.insert(at.clone());
            } else {
                waiting.remove(&at);
            }
        }
        for address in self.wants.remove(name).unwrap_or_default().difference(&found.wants) {
            if let Some(waiting) = self.wanted.get_mut(address) {
                waiting.remove(name);
                if waiting.is_empty() {
                    self.wanted.remove(address);
                }
            }
        }
        for address in &found.wants {
            self.wanted.entry(*address).or_default().insert(name.clone());
        }
        if !found.wants.is_empty() {
            self.wants.insert(name.clone(), found.wants);
        }
        if let Some(entry) = self.services.get_mut(name) {
            entry.planned = found.planned;
            entry.lost = found.lost;
            entry.told = found.told;
        }
        self.reindex(name, &before, false);
    }

    /// What a service of ours gets. Only looks.
    fn find(&self, entry: &Entry) -> Found {
        let service = &*entry.service;
        let mut found = Found::default();
        // What was read in its status is not confirmed by the watch yet.
        let read = entry.planned.iter().filter(|(address, _)| service.load_balancer_ips.contains(address));
        found.planned.extend(read.map(|(address, written)| (*address, *written)));
        let about = |field: &str, reason: Reason, text: String| Told {
            notice: Notice {
                subject: Subject::Object(ObjectKey { kind: Kind::Service, name: service.name.clone() }),
                field: field.into(),
                reason: text,
            },
            reason,
        };
        const INGRESS: &str = "status.loadBalancer.ingress";
        for address in &service.load_balancer_ips {
            let pool = &self.pools[usize::from(address.is_ipv6())];
            if !pool.offers(*address) {
                if self.report_outside {
                    let ranges: Vec<String> = self.ranges.iter().map(ToString::to_string).collect();
                    let text = format!("{address} is outside --loadbalancer-ip-range {}; it is kept", ranges.join(","));
                    found.told.insert(about(INGRESS, Reason::AddressOutsideRange, text));
                }
                continue;
            }
            // Somebody may have written it while we did not lead, or did not know that we do not any more.
            let older = |other: &&Entry| {
                self.is_ours(&other.service)
                    && age(&other.service) < age(service)
                    && (other.ingress().any(|a| a == address) || other.planned.contains_key(address))
            };
            if let Some(older) = self.rivals(service, *address).find(older) {
                found.lost.insert(*address);
                let text = format!("{address} is that of the older Service {}; another is given", older.service.name);
                found.told.insert(about(INGRESS, Reason::AddressConflict, text));
            }
        }
        let has = |v6: bool| entry.ingress().any(|a| a.is_ipv6() == v6 && !found.lost.contains(a));
        let wish = &service.wish;
        let mut families: Vec<bool> = wish.ipv6.clone();
        families.dedup();
        let mut short = false;
        for &v6 in &families {
            let f = usize::from(v6);
            let asked = || wish.requested.iter().copied().filter(|a| a.is_ipv6() == v6);
            if has(v6) {
                let kept: Vec<String> =
                    entry.ingress().filter(|a| a.is_ipv6() == v6).map(ToString::to_string).collect();
                if let Some(other) = asked().next().filter(|_| !asked().any(|a| entry.ingress().any(|b| *b == a))) {
                    let text = format!("{other} is asked for, but {} was given and is kept", kept.join(" and "));
                    found.told.insert(about(INGRESS, Reason::AddressUnavailable, text));
                }
                continue;
            }
            // What is given already stays, as long as nobody turns up who has it, or is older and gets it too.
            let has_it = |other: &Entry, address: &IpAddr| {
                other.planned.get(address) != Some(&false) || age(&other.service) < age(service)
            };
            let valid = |address: &IpAddr, written: bool| {
                address.is_ipv6() == v6
                    && (written || asked().next().is_none() || asked().any(|a| a == *address))
                    && self.pools[f].offers(*address)
                    && !self.rivals(service, *address).any(|other| has_it(other, address))
                    && !found.lost.contains(address)
            };
            if let Some((address, written)) = entry.planned.iter().find(|(a, written)| valid(a, **written)) {
                found.planned.insert(*address, *written);
                continue;
            }
            if self.pools[f].is_empty() {
                let but = if families.len() > 1 && wish.policy == FamilyPolicy::Prefer {
                    "; the other family is served"
                } else {
                    ""
                };
                let text = format!("--loadbalancer-ip-range has no {} range{but}", family(v6));
                found.told.insert(about(INGRESS, Reason::NoFreeAddress, text));
                short = true;
                continue;
            }
            if let Some(address) = asked().next() {
                if !self.pools[f].offers(address) {
                    let text = format!("{address} is asked for, and is none that --loadbalancer-ip-range has to give");
                    found.told.insert(about(INGRESS, Reason::AddressUnavailable, text));
                    short = true;
                } else if let Some(other) = self.holder(service, address) {
                    let text = format!("{address} is asked for, and Service {} has it", other.service.name);
                    found.told.insert(about(INGRESS, Reason::AddressUnavailable, text));
                    found.wants.insert(address);
                    short = true;
                } else {
                    found.planned.insert(address, false);
                }
                continue;
            }
            match self.shared(service, v6).or_else(|| self.pools[f].first_free()) {
                Some(address) => drop(found.planned.insert(address, false)),
                None => {
                    let text = format!("no free {} address in --loadbalancer-ip-range", family(v6));
                    found.told.insert(about(INGRESS, Reason::NoFreeAddress, text));
                    found.exhausted[f] = true;
                    short = true;
                }
            }
        }
        if short && wish.policy == FamilyPolicy::Require {
            found.planned.retain(|_, written| *written);
        }
        found
    }
}
