use alloc::boxed::Box;
use alloc::collections::{BTreeMap, BTreeSet, VecDeque};
use alloc::format;
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use core::net::IpAddr;

use fairway_bfd::{self as bfd, Bfd};
use fairway_bgp::{self as bgp, Speaker};
use fairway_compute::{BRIDGE, Compute, HealthCheck, Owned};
use fairway_desired::bgp::Key as BgpKey;
use fairway_desired::{
    Addr, Bgp, File, Filter, Ipvs, KernelEvent, Link, MAIN_TABLE, NextHop, Op, Outcome, PROTO_KUBE_ROUTER, PlaneId,
    Pod, Route, RouteKey, RouteValue, Rule, Sysctl,
};
use fairway_objects::{NodeConfig, Notice, NoticeChange, Subject};
use fairway_publish::{self as publish, Publisher};
use fairway_reconcile::{Allow, Request, Time};
use ipnet::IpNet;

use crate::addresses::Addresses;
use crate::inherited::Inherited;
use crate::io::{Applied, Input, KernelPlane, Observation, Output};
use crate::lane::Lane;
use crate::readiness;
use crate::text::Text;
use crate::view::{Announced, PlaneView};

/// One whole node. See the crate's documentation for the order in which it works.
///
/// Contract: after each `handle` (or several) call `poll` until `None`; then `deadline` is current.
pub struct Agent {
    /// Time of the last input.
    now: Time,
    compute: Compute,
    addresses: Addresses,
    /// Something was handed to `compute` since its last flush.
    unflushed: bool,
    /// When the first change of an object since the last flush arrived.
    heard: Option<Time>,
    /// When the object's change arrived that is handed in next, if it waited somewhere.
    arrived: Option<Time>,
    announced: Announced,
    /// How often BGP's configuration changed, and how often its neighbours did.
    bgp_changes: (u64, u64),
    speaker: Speaker,
    bfd: Bfd,
    /// Neighbours that have no BFD session because there are too many.
    unwatched: BTreeMap<IpAddr, bgp::Watch>,
    lanes: Lanes,
    publisher: Publisher,
    inherited: Inherited,
    outputs: VecDeque<Output>,
    /// There may be more to do than `outputs` holds.
    dirty: bool,
    notices: BTreeSet<Notice>,
    graceful_restart: bool,
    /// `--bgp-route-metric`
    route_metric: u32,
    /// What the speaker knows of our links.
    on_link: Vec<(IpNet, bool)>,
    seen: Seen,
    /// The speaker was told of a restart, or there was none.
    told_restart: bool,
    /// The speaker was told that its configuration is complete.
    complete: bool,
    stopped: bool,
}

/// What the first look at the kernel found of an earlier run.
#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    route_plane: bool,
    routes: bool,
    ipvs_plane: bool,
    services: bool,
}

/// The planes in rank order.
struct Lanes {
    sysctl: Lane<Sysctl>,
    link: Lane<Link>,
    addr: Lane<Addr>,
    filter: Lane<Filter>,
    rule: Lane<Rule>,
    route: Lane<Route>,
    pod: Lane<Pod>,
    ipvs: Lane<Ipvs>,
    file: Lane<File>,
    bgp: Lane<Bgp>,
}

/// Does the same with each plane, in rank order.
macro_rules! each {
    ($lanes:expr, $lane:ident => $body:expr) => {
        each!($lanes, $lane => $body, [sysctl, link, addr, filter, rule, route, pod, ipvs, file, bgp])
    };
    ($lanes:expr, $lane:ident => $body:expr, [$($plane:ident),*]) => {{
        let Lanes { $($plane),* } = $lanes;
        $({
            let $lane = $plane;
            $body;
        })*
    }};
}

impl Lanes {
    /// Whether each plane has puts that others wait for.
    fn blocking_puts(&self) -> [bool; 10] {
        [
            self.sysctl.blocks_puts(),
            self.link.blocks_puts(),
            self.addr.blocks_puts(),
            self.filter.blocks_puts(),
            self.rule.blocks_puts(),
            self.route.blocks_puts(),
            self.pod.blocks_puts(),
            self.ipvs.blocks_puts(),
            self.file.blocks_puts(),
            self.bgp.blocks_puts(),
        ]
    }

    /// Whether each plane has deletes that others wait for.
    fn blocking_deletes(&self, inherited: &Inherited) -> [bool; 10] {
        [
            self.sysctl.blocks_deletes(),
            self.link.blocks_deletes(),
            self.addr.blocks_deletes(),
            self.filter.blocks_deletes(),
            self.rule.blocks_deletes(),
            self.route.reconciler.blocks_deletes_but_for(|key| inherited.contains(key)),
            self.pod.blocks_deletes(),
            self.ipvs.blocks_deletes(),
            self.file.blocks_deletes(),
            self.bgp.blocks_deletes(),
        ]
    }

    /// Whether puts and whether deletes of a plane may be sent now.
    fn gate(&self, plane: PlaneId, inherited: &Inherited) -> (bool, bool) {
        let rank = plane as usize;
        let blocking = self.blocking_puts();
        let puts = !blocking.iter().take(rank).any(|blocks| *blocks);
        // Make before break: deletes of a plane follow its puts, even if those have to wait. A withdrawal is no
        // break, the sooner the better.
        let made = puts || plane == PlaneId::Bgp || !blocking.get(rank).is_some_and(|blocks| *blocks);
        let deletes = made && !self.blocking_deletes(inherited).iter().skip(rank + 1).any(|blocks| *blocks);
        (puts, deletes)
    }
}

impl Agent {
    /// An agent that knows nothing of the cluster and nothing of the kernel. The seed draws jitter only.
    pub fn new(config: NodeConfig, seed: u64) -> Self {
        let graceful_restart = config.graceful_restart.is_some();
        let route_metric = config.route_metric;
        // The whole IPVS table is ours or none of it. Without the service proxy it may well be another proxy's.
        let ipvs = ipvs_lane(&config, seed).off_if(!config.run_service_proxy);
        let (proxy, routes) = (config.ipvs_sync, config.routes_sync);
        // A bridge that is not to be kept stays: pods hang on it.
        let keeps_pods = config.run_router && config.enable_cni;
        let link = Lane::<Link>::new(seed).with_owner(Box::new(move |name, _| keeps_pods || **name != *BRIDGE));
        let file = Lane::<File>::new(seed).off_if(!keeps_pods || config.cni_file.is_none());
        let pod = Lane::<Pod>::new(seed).off_if(!config.run_service_proxy).at_least_each(proxy);
        Agent {
            now: Time::ZERO,
            publisher: Publisher::new(&config, seed),
            compute: Compute::new(config),
            addresses: Addresses::default(),
            unflushed: true,
            heard: None,
            arrived: None,
            announced: Announced::default(),
            bgp_changes: (0, 0),
            speaker: Speaker::new(seed),
            // Other numbers than the speaker draws.
            bfd: Bfd::new(!seed),
            unwatched: BTreeMap::new(),
            lanes: Lanes {
                sysctl: Lane::new(seed).at_least_each(proxy),
                link: link.at_least_each(proxy),
                addr: Lane::new(seed).at_least_each(proxy),
                filter: Lane::new(seed).at_least_each(proxy),
                rule: Lane::new(seed).at_least_each(routes),
                route: Lane::new(seed).at_least_each(routes),
                pod,
                ipvs,
                file,
                bgp: Lane::new(seed),
            },
            inherited: Inherited::default(),
            outputs: VecDeque::new(),
            dirty: true,
            notices: BTreeSet::new(),
            graceful_restart,
            route_metric,
            on_link: Vec::new(),
            seen: Seen::default(),
            told_restart: false,
            complete: false,
            stopped: false,
        }
    }

    /// Takes one input. Time must not go back; if it does, it stands still.
    pub fn handle(&mut self, now: Time, input: Input) {
        self.now = self.now.max(now);
        let input = match input {
            // There are many of these, and hardly any means anything to the rest.
            Input::Bfd(input) => return self.tell_bfd(input),
            Input::Tick if self.only_bfd_is_due() => return self.tell_bfd(bfd::Input::Tick),
            input => input,
        };
        self.dirty = true;
        match input {
            Input::Bgp(input) => self.tell_speaker(input),
            Input::Tick => {
                self.tell_speaker(bgp::Input::Tick);
                self.tell_bfd(bfd::Input::Tick);
            }
            Input::Shutdown => {
                self.stopped = true;
                self.publisher.leave(self.now);
                // With graceful restart the routes of this node stand until it is back, as for kube-router.
                let input = if self.graceful_restart {
                    bgp::Input::Leave
                } else {
                    bgp::Input::Shutdown { message: String::new() }
                };
                self.tell_speaker(input);
            }
            Input::Drain => self.tell_speaker(bgp::Input::Drain),
            Input::Api(answer) => self.publisher.answer(self.now, answer),
            // The kernel keeps what it has, so nothing else matters any more.
            _ if self.stopped => {}
            Input::Bfd(_) => {}
            Input::Delta(delta) => {
                self.publisher.delta(self.now, &delta);
                let arrived = self.arrived.take().unwrap_or(self.now).min(self.now);
                // What is listed at first is no change, and waits for the rest.
                if self.compute.synced() && self.heard.is_none() {
                    self.heard = Some(arrived);
                }
                self.compute.handle(self.addresses.complete(delta));
                self.unflushed = true;
            }
            Input::Kernel(event) => self.kernel(event),
            Input::Router(router) => {
                self.compute.set_router(*router);
                self.unflushed = true;
            }
            Input::Observed(observation) => self.observed(observation),
            Input::Applied(applied) => self.applied(applied),
        }
    }

    /// The change of an object that is handed in next arrived then, and waited for us since. Only for
    /// [`PlaneView::latency`]; nothing that is done depends on it.
    pub fn arrived(&mut self, at: Time) {
        self.arrived = Some(at);
    }

    /// The next thing to do, if any.
    pub fn poll(&mut self) -> Option<Output> {
        if self.outputs.is_empty() && self.dirty {
            self.dirty = false;
            self.work();
        }
        self.outputs.pop_front()
    }

    /// When to hand in a [`Input::Tick`]; a time in the past means now.
    pub fn deadline(&self) -> Option<Time> {
        [self.deadline_but_for_bfd(), self.bfd.deadline()].into_iter().flatten().min()
    }

    fn only_bfd_is_due(&self) -> bool {
        let due = |at: Option<Time>| at.is_some_and(|at| at <= self.now);
        due(self.bfd.deadline()) && !due(self.deadline_but_for_bfd())
    }

    fn deadline_but_for_bfd(&self) -> Option<Time> {
        let mut deadline = self.speaker.deadline();
        if !self.stopped {
            let mut earlier = |at: Option<Time>| deadline = [deadline, at].into_iter().flatten().min();
            each!(&self.lanes, lane => earlier(Lane::deadline(lane)));
            earlier(self.publisher.deadline());
            if self.reviews_inherited() {
                earlier(self.with_neighbors(|neighbors| self.inherited.until(neighbors)));
            }
        }
        deadline
    }

    /// The BGP speaker, to look at.
    pub const fn speaker(&self) -> &Speaker {
        &self.speaker
    }

    /// The BFD sessions, to look at.
    pub const fn bfd(&self) -> &Bfd {
        &self.bfd
    }

    /// Reads all planes again at the next chance, for a driver that knows of a change behind our back.
    pub fn resync(&mut self) {
        self.dirty = true;
        each!(&mut self.lanes, lane => lane.reconciler.resync());
    }

    /// Whether nothing is left to do before something changes: every kind of object was listed, everything handed in
    /// was computed, all planes are observed, and no op is to be sent, in flight or waiting after `Busy`. Parked keys
    /// are allowed, see [`parked`](Self::parked), and so are the networks that wait for them. A plane that does not
    /// work at all is not in sync.
    pub fn in_sync(&self) -> bool {
        !self.dirty && self.outputs.is_empty() && self.in_sync_but_for_outputs()
    }

    fn in_sync_but_for_outputs(&self) -> bool {
        let Lanes { sysctl, link, addr, filter, rule, route, pod, ipvs, file, bgp } = &self.lanes;
        self.compute.synced()
            && !self.unflushed
            && sysctl.is_settled()
            && link.is_settled()
            && addr.is_settled()
            && filter.is_settled()
            && rule.is_settled()
            && route.is_settled()
            && pod.is_settled()
            && ipvs.is_settled()
            && file.is_settled()
            && bgp.reconciler.is_settled_but_for(|key| readiness::must_wait(&addr.reconciler, &ipvs.reconciler, key))
    }

    /// Keys that a kernel (or the speaker) refused, or that are taken by something that is not ours. In rank order.
    pub fn parked(&self) -> Vec<(PlaneId, String, Outcome)> {
        let mut parked = Vec::new();
        each!(&self.lanes, lane => parked.extend(lane.parked()));
        parked
    }

    /// All planes, in rank order.
    pub fn planes(&self) -> Vec<PlaneView> {
        let mut planes = Vec::new();
        each!(&self.lanes, lane => planes.push(lane.view()));
        planes
    }

    /// How often the speaker's configuration was changed, and how often its neighbours were among that.
    pub const fn bgp_changes(&self) -> (u64, u64) {
        self.bgp_changes
    }

    /// What the speaker was told to announce so far.
    pub const fn announced(&self) -> Announced {
        self.announced
    }

    /// Where load balancers ask for endpoints of `Local` services on this node, if that changed since `seen`, which
    /// is the number of the last answer.
    pub fn health_checks(&self, seen: Option<(bool, u64)>) -> Option<((bool, u64), Vec<HealthCheck>)> {
        let version = (self.compute.synced(), self.compute.health_version());
        (seen != Some(version)).then(|| (version, self.compute.health_checks()))
    }

    /// Which service has which virtual server, a page at a time: those after a key, at most so many.
    pub fn owned(&self, after: Option<&fairway_desired::ipvs::VirtualServerKey>, max: usize) -> Vec<Owned> {
        self.compute.owned(after).take(max).collect()
    }

    /// Whether every kind of object was listed once.
    pub fn synced(&self) -> bool {
        self.compute.synced()
    }

    /// What the kernel has of the routes to a prefix that BGP learned, and why; one clause, for an operator.
    pub fn kernel_route(&self, prefix: IpNet) -> String {
        let key = RouteKey { prefix: prefix.trunc(), table: MAIN_TABLE, metric: self.route_metric };
        let reconciler = &self.lanes.route.reconciler;
        let Some(wanted) = reconciler.tracker().desired().get(&key) else {
            return "no route of ours is wanted: BGP has no next hop for it that this node uses".into();
        };
        let hop = |hop: &NextHop| match (hop.via, &hop.dev) {
            (None, Some(dev)) => format!("dev {dev}"),
            (via, _) => via.map_or_else(String::new, |via| format!("via {via}")),
        };
        let hops: Vec<String> = wanted.next_hops.iter().map(hop).collect();
        let route = format!("{}, protocol {}, metric {}", hops.join(" and "), wanted.protocol, key.metric);
        if reconciler.in_sync(&key) {
            return format!("in the kernel: {route}");
        }
        match reconciler.parked_as(&key) {
            Some(Outcome::Foreign) => format!(
                "not in the kernel: a route that is not ours has this prefix and metric {} (another \
                 --bgp-route-metric puts ours beside it)",
                key.metric
            ),
            Some(Outcome::Refused(errno)) => format!("the kernel refuses it with errno {errno}: {route}"),
            _ => format!("on its way into the kernel: {route}"),
        }
    }

    /// What is written to the API server, to look at.
    pub const fn publisher(&self) -> &Publisher {
        &self.publisher
    }

    /// The notices that stand.
    pub fn notices(&self) -> impl Iterator<Item = &Notice> {
        self.notices.iter()
    }

    fn kernel(&mut self, event: KernelEvent) {
        let (now, lanes) = (self.now, &mut self.lanes);
        let dropped = match event {
            KernelEvent::Interfaces(all) => self.compute.interfaces(all),
            KernelEvent::Interface(name, interface) => self.compute.interface(&name, interface),
            // What stands on it went with it, and not all of that is told.
            KernelEvent::Changed(PlaneId::Link) => {
                lanes.link.reconciler.suspect(now);
                lanes.addr.reconciler.suspect(now);
                return lanes.route.reconciler.suspect(now);
            }
            KernelEvent::Changed(PlaneId::Addr) => {
                lanes.addr.reconciler.suspect(now);
                return lanes.route.reconciler.suspect(now);
            }
            KernelEvent::Changed(PlaneId::Sysctl) => return lanes.sysctl.reconciler.suspect(now),
            KernelEvent::Changed(PlaneId::Filter) => return lanes.filter.reconciler.suspect(now),
            KernelEvent::Changed(PlaneId::Rule) => return lanes.rule.reconciler.suspect(now),
            KernelEvent::Changed(PlaneId::Route) => return lanes.route.reconciler.suspect(now),
            KernelEvent::Changed(PlaneId::Pod) => return lanes.pod.reconciler.suspect(now),
            KernelEvent::Changed(PlaneId::Ipvs) => return lanes.ipvs.reconciler.suspect(now),
            KernelEvent::Changed(PlaneId::File) => return lanes.file.reconciler.suspect(now),
            // The speaker is here, nobody else has access to it.
            KernelEvent::Changed(PlaneId::Bgp) => return,
            KernelEvent::Foreign(key) => return lanes.route.reconciler.foreign(now, &key),
        };
        for key in &dropped {
            self.lanes.route.reconciler.doubt(key);
        }
        self.unflushed = true;
        let on_link = self.compute.on_link();
        if on_link != self.on_link {
            self.on_link.clone_from(&on_link);
            self.tell_speaker(bgp::Input::OnLink(on_link));
        }
    }

    fn observed(&mut self, observation: Observation) {
        use fairway_reconcile::Input::Observed;
        let (now, lanes) = (self.now, &mut self.lanes);
        match observation {
            Observation::Sysctl(answer) => lanes.sysctl.reconciler.handle(now, Observed(answer)),
            Observation::Link(answer) => lanes.link.reconciler.handle(now, Observed(answer)),
            Observation::Addr(answer) => lanes.addr.reconciler.handle(now, Observed(answer)),
            Observation::Filter(answer) => lanes.filter.reconciler.handle(now, Observed(answer)),
            Observation::Rule(answer) => lanes.rule.reconciler.handle(now, Observed(answer)),
            Observation::Route(answer) => {
                if let Ok(table) = &answer {
                    let learned = |v: &RouteValue| v.protocol == PROTO_KUBE_ROUTER;
                    self.seen.routes |= !self.seen.route_plane && table.values().any(learned);
                    self.seen.route_plane = true;
                    self.inherited.observed(table, lanes.route.reconciler.tracker().desired());
                }
                lanes.route.reconciler.handle(now, Observed(answer));
            }
            Observation::Pod(answer) => lanes.pod.reconciler.handle(now, Observed(answer)),
            Observation::Ipvs(answer) => {
                if let Ok(table) = &answer {
                    self.seen.services |= !self.seen.ipvs_plane && !table.is_empty();
                    self.seen.ipvs_plane = true;
                }
                lanes.ipvs.reconciler.handle(now, Observed(answer));
            }
            Observation::File(answer) => lanes.file.reconciler.handle(now, Observed(answer)),
        }
    }

    /// Tells the speaker about our own restart, before it has neighbours. What is left in the kernel is the marker:
    /// only if forwarding went on are neighbours to keep our routes (RFC 4724 section 4.1), and after a reboot, or on a
    /// new node, it did not.
    fn tell_restart(&mut self) {
        if self.graceful_restart && !self.told_restart && (self.seen.routes || self.seen.services) {
            self.tell_speaker(bgp::Input::Restarted);
        }
        self.told_restart = true;
    }

    fn applied(&mut self, applied: Applied) {
        use fairway_reconcile::Input::Applied as Answer;
        let (now, lanes) = (self.now, &mut self.lanes);
        match applied {
            Applied::Sysctl(answer) => lanes.sysctl.reconciler.handle(now, Answer(answer)),
            Applied::Link(answer) => lanes.link.reconciler.handle(now, Answer(answer)),
            Applied::Addr(answer) => lanes.addr.reconciler.handle(now, Answer(answer)),
            Applied::Filter(answer) => lanes.filter.reconciler.handle(now, Answer(answer)),
            Applied::Rule(answer) => lanes.rule.reconciler.handle(now, Answer(answer)),
            Applied::Route(answer) => lanes.route.reconciler.handle(now, Answer(answer)),
            Applied::Pod(answer) => lanes.pod.reconciler.handle(now, Answer(answer)),
            Applied::Ipvs(answer) => lanes.ipvs.reconciler.handle(now, Answer(answer)),
            Applied::File(answer) => lanes.file.reconciler.handle(now, Answer(answer)),
        }
    }

    /// Does all that can be done without the outside, and collects what is asked of it.
    fn work(&mut self) {
        loop {
            self.drain_speaker();
            if self.stopped {
                return self.publish();
            }
            self.flush();
            each!(&mut self.lanes, lane => lane.wake(self.now));
            self.review_inherited();
            self.request_all();
            // What the speaker was told may have made routes, and other planes may have waited for it.
            if !self.apply_bgp() {
                break;
            }
        }
        // All that we advertise is said: neighbours may forget what we do not say any more.
        if !self.complete && self.in_sync_but_for_outputs() {
            self.complete = true;
            self.tell_speaker(bgp::Input::Complete);
        }
        let mut changes = Vec::new();
        each!(&mut self.lanes, lane => lane.notices(&mut changes));
        self.note(changes);
        self.publish();
    }

    /// What is to be written to the API server.
    fn publish(&mut self) {
        self.publisher.tick(self.now);
        while let Some(output) = self.publisher.poll() {
            match output {
                publish::Output::Request(request) => self.outputs.push_back(Output::Api(request)),
                publish::Output::Notice(change) => self.stands(change),
            }
        }
    }

    fn tell_speaker(&mut self, input: bgp::Input) {
        self.speaker.handle(self.now, input);
        // The speaker wants to be drained before its next input, and several may be handed in before a poll.
        self.drain_speaker();
    }

    fn drain_speaker(&mut self) {
        while let Some(output) = self.speaker.poll() {
            match output {
                bgp::Output::Learned(learned) => {
                    self.compute.learned(learned);
                    self.unflushed = true;
                }
                bgp::Output::Watch { peer, watch } => self.watch(peer, watch),
                output => self.outputs.push_back(Output::Bgp(output)),
            }
        }
    }

    fn watch(&mut self, peer: IpAddr, watch: Option<bgp::Watch>) {
        if self.bfd.set(self.now, peer, watch.map(session)).is_err() {
            // Only a session that is wanted can be one too many.
            if let Some(watch) = watch
                && self.unwatched.insert(peer, watch).is_none()
            {
                self.note(alloc::vec![NoticeChange::Raised(one_too_many(peer))]);
            }
        } else if self.unwatched.remove(&peer).is_some() {
            self.note(alloc::vec![NoticeChange::Cleared(one_too_many(peer))]);
        }
        self.drain_bfd();
    }

    fn tell_bfd(&mut self, input: bfd::Input) {
        self.bfd.handle(self.now, input);
        self.drain_bfd();
    }

    fn drain_bfd(&mut self) {
        let mut failed = Vec::new();
        let mut room = false;
        while let Some(output) = self.bfd.poll() {
            match output {
                bfd::Output::Event(bfd::Event::Down { peer, failure: true, .. }) => failed.push(peer),
                bfd::Output::Close { .. } => room = true,
                _ => {}
            }
            self.outputs.push_back(Output::Bfd(output));
        }
        if room && let Some((peer, watch)) = self.unwatched.first_key_value().map(|(peer, watch)| (*peer, *watch)) {
            self.watch(peer, Some(watch));
        }
        for peer in failed {
            self.dirty = true;
            self.tell_speaker(bgp::Input::BfdDown(peer));
        }
    }

    fn flush(&mut self) {
        if !self.unflushed {
            return;
        }
        self.unflushed = false;
        let changes = self.compute.flush();
        let heard = self.heard.take();
        for op in &changes.ops.route {
            if let Op::Put(key, _) = op {
                self.inherited.desired(key);
            }
        }
        self.lanes.sysctl.desire(changes.ops.sysctl, heard);
        self.lanes.link.desire(changes.ops.link, heard);
        self.lanes.addr.desire(changes.ops.addr, heard);
        self.lanes.filter.desire(changes.ops.filter, heard);
        self.lanes.rule.desire(changes.ops.rule, heard);
        self.lanes.route.desire(changes.ops.route, heard);
        self.lanes.pod.desire(changes.ops.pod, heard);
        self.lanes.ipvs.desire(changes.ops.ipvs, heard);
        self.lanes.file.desire(changes.ops.file, heard);
        self.lanes.bgp.desire(changes.ops.bgp, heard);
        self.note(changes.notices);
    }

    fn note(&mut self, changes: Vec<NoticeChange>) {
        for change in changes {
            self.publisher.notice(self.now, &change);
            self.stands(change);
        }
    }

    fn stands(&mut self, change: NoticeChange) {
        match &change {
            NoticeChange::Raised(notice) => self.notices.insert(notice.clone()),
            NoticeChange::Cleared(notice) => self.notices.remove(notice),
        };
        self.outputs.push_back(Output::Notice(change));
    }

    /// Gives a closure the neighbours that are configured; `None` if there is nobody to wait for.
    fn with_neighbors<R>(&self, look: impl FnOnce(Option<&[bgp::NeighborView]>) -> R) -> R {
        use fairway_desired::bgp::Key::{Dynamic, Peer};
        // Neighbours are the last keys in the order.
        let last = self.lanes.bgp.reconciler.tracker().desired().last_key_value();
        if matches!(last, Some((Dynamic(_) | Peer(_), _))) { look(Some(&self.speaker.neighbors())) } else { look(None) }
    }

    /// Whether routes of an earlier run are left, and the speaker knows its neighbours.
    fn reviews_inherited(&self) -> bool {
        !self.inherited.is_empty() && self.compute.synced() && !self.lanes.bgp.reconciler.blocks_puts()
    }

    fn review_inherited(&mut self) {
        if !self.reviews_inherited() {
            return;
        }
        let mut inherited = core::mem::take(&mut self.inherited);
        self.with_neighbors(|neighbors| inherited.review(self.now, neighbors));
        self.inherited = inherited;
    }

    fn request_all(&mut self) {
        self.request(PlaneId::Sysctl, |lanes| &mut lanes.sysctl);
        self.request_link();
        self.request(PlaneId::Addr, |lanes| &mut lanes.addr);
        self.request(PlaneId::Filter, |lanes| &mut lanes.filter);
        self.request(PlaneId::Rule, |lanes| &mut lanes.rule);
        self.request_route();
        self.request(PlaneId::Pod, |lanes| &mut lanes.pod);
        self.request(PlaneId::Ipvs, |lanes| &mut lanes.ipvs);
        self.request(PlaneId::File, |lanes| &mut lanes.file);
    }

    /// What a plane may do now. Nothing is written before we know the whole of what should be.
    fn gate(&self, plane: PlaneId) -> (bool, bool) {
        if self.compute.synced() { self.lanes.gate(plane, &self.inherited) } else { (false, false) }
    }

    fn request<P: KernelPlane>(&mut self, plane: PlaneId, lane: impl FnOnce(&mut Lanes) -> &mut Lane<P>)
    where
        P::Key: Text,
    {
        let (puts, deletes) = self.gate(plane);
        let request = lane(&mut self.lanes).poll(self.now, Allow { puts, deletes, hold: None });
        self.outputs.extend(request.map(output));
    }

    fn request_link(&mut self) {
        let (puts, deletes) = self.gate(PlaneId::Link);
        let inherited = &self.inherited;
        let hold = |name: &Arc<str>| inherited.needs(name);
        let request = self.lanes.link.poll(self.now, Allow { puts, deletes, hold: Some(&hold) });
        self.outputs.extend(request.map(output));
    }

    fn request_route(&mut self) {
        let (puts, deletes) = self.gate(PlaneId::Route);
        let inherited = &self.inherited;
        let hold = |key: &RouteKey| inherited.contains(key);
        let request = self.lanes.route.poll(self.now, Allow { puts, deletes, hold: Some(&hold) });
        self.outputs.extend(request.map(output));
    }

    /// Reconciles the speaker, whose backend is at hand. Returns whether anything was applied.
    fn apply_bgp(&mut self) -> bool {
        let mut applied = false;
        loop {
            let (puts, deletes) = self.gate(PlaneId::Bgp);
            let Lanes { addr, ipvs, bgp, .. } = &mut self.lanes;
            let hold = |key: &_| readiness::must_wait(&addr.reconciler, &ipvs.reconciler, key);
            let request = bgp.poll(self.now, Allow { puts, deletes, hold: Some(&hold) });
            let answer = match request {
                None => return applied,
                Some(Request::Observe) => fairway_reconcile::Input::Observed(Ok(self.speaker.observe())),
                Some(Request::Apply(ops)) => {
                    applied = true;
                    self.tell_restart();
                    let outcomes = self.speaker.apply(self.now, &ops);
                    self.announced.count(&ops, &outcomes);
                    let neighbor = |op: &Op<Bgp>| matches!(op.key(), BgpKey::Peer(_) | BgpKey::Dynamic(_));
                    self.bgp_changes.0 += 1;
                    self.bgp_changes.1 += u64::from(ops.iter().any(neighbor));
                    fairway_reconcile::Input::Applied(Ok(outcomes))
                }
            };
            self.lanes.bgp.reconciler.handle(self.now, answer);
        }
    }
}

/// The lane of virtual servers: all are ours but those in `--excluded-cidrs`.
pub(crate) fn ipvs_lane(config: &NodeConfig, seed: u64) -> Lane<Ipvs> {
    let lane = Lane::<Ipvs>::new(seed).at_least_each(config.ipvs_sync);
    let excluded = config.excluded_cidrs.clone();
    if excluded.is_empty() {
        return lane;
    }
    lane.with_owner(Box::new(move |key, _| {
        !readiness::address(key).is_some_and(|address| readiness::contains(&excluded, address))
    }))
}

/// How BGP wants a neighbour to be watched, in BFD's words.
fn session(watch: bgp::Watch) -> bfd::Settings {
    let bgp::Watch {
        bfd: fairway_desired::bgp::Bfd { port, desired_min_tx_ms, required_min_rx_ms, multiplier }, ..
    } = watch;
    bfd::Settings {
        local: watch.local,
        // The flag's default is the port for one hop.
        port: if watch.hops > 1 && port == bfd::PORT { bfd::MULTIHOP_PORT } else { port },
        hops: watch.hops,
        desired_min_tx_us: desired_min_tx_ms.saturating_mul(1000),
        required_min_rx_us: required_min_rx_ms.saturating_mul(1000),
        multiplier,
    }
}

fn one_too_many(peer: IpAddr) -> Notice {
    Notice {
        subject: Subject::Kernel(format!("BFD session with {peer}")),
        field: String::new(),
        reason: bfd::Full.to_string(),
    }
}

fn output<P: KernelPlane>(request: Request<P>) -> Output {
    match request {
        Request::Observe => Output::Observe(P::ID),
        Request::Apply(ops) => Output::Apply(P::batch(ops)),
    }
}

impl fmt::Debug for Agent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Agent")
            .field("now", &self.now)
            .field("in_sync", &self.in_sync())
            .field("notices", &self.notices)
            .field("stopped", &self.stopped)
            .finish_non_exhaustive()
    }
}
