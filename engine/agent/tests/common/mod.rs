//! Hand-made objects, a strict kernel of tables, and a driver.
#![allow(dead_code, reason = "each test file uses a part of it")]
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use fairway_agent::{Agent, Input, Output, bfd, bgp, serve};
use fairway_desired::{
    Addr, Backend, Fault, File, Filter, Ipvs, Link, Op, Outcome, Plane, PlaneId, Pod, Route, Rule, Sysctl, Table, ipvs,
};
use fairway_objects::{
    Advertise, BgpPeer, Delta, Endpoint, EndpointPort, EndpointSlice, Kind, Node, NodeConfig, Object, ObjectName,
    Protocol, Scheduler, Service, ServicePort, ServiceType, TrafficPolicy,
};

pub(crate) fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

pub(crate) fn config() -> NodeConfig {
    NodeConfig {
        advertise_external_ip: true,
        service_external_ip_range: vec!["10.0.0.0/24".parse().unwrap()],
        ..NodeConfig::new("vm-001")
    }
}

pub(crate) fn node(name: &str, address: &str, pod_cidr: &str) -> Object {
    Object::Node(Arc::new(Node {
        internal_ips: vec![ip(address)],
        pod_cidrs: vec![pod_cidr.parse().unwrap()],
        ..Node::new(ObjectName::cluster(name))
    }))
}

/// Service number `n`: cluster IP 10.96.0.n, external IP 10.0.0.n, port 5001.
pub(crate) fn service(n: u8, scheduler: Scheduler) -> Object {
    Object::Service(Arc::new(Service {
        name: ObjectName::new("default", &format!("s{n}")),
        created_s: 1,
        service_type: ServiceType::ClusterIp,
        cluster_ips: vec![ip(&format!("10.96.0.{n}"))],
        external_ips: vec![ip(&format!("10.0.0.{n}"))],
        load_balancer_ips: vec![],
        ports: vec![ServicePort { name: "".into(), protocol: Protocol::Tcp, port: 5001, node_port: None }],
        session_affinity_s: None,
        internal_traffic_policy: TrafficPolicy::Cluster,
        external_traffic_policy: TrafficPolicy::Cluster,
        health_check_node_port: None,
        foreign_proxy: false,
        headless_label: false,
        scheduler,
        sched_fallback: false,
        sched_port: false,
        dsr_tunnel: false,
        hairpin: false,
        hairpin_external_ips: false,
        local: false,
        skip_lb_ips: false,
        advertise: Advertise::default(),
        wish: fairway_objects::LoadBalancerWish::default(),
    }))
}

pub(crate) fn slice(n: u8, endpoints: &[u8]) -> Object {
    Object::EndpointSlice(Arc::new(EndpointSlice {
        name: ObjectName::new("default", &format!("s{n}-x")),
        service: format!("s{n}").into(),
        ports: vec![EndpointPort { name: "".into(), protocol: Protocol::Tcp, port: 5001 }],
        endpoints: endpoints
            .iter()
            .map(|e| Endpoint {
                address: ip(&format!("11.0.1.{e}")),
                ready: true,
                serving: true,
                terminating: false,
                node: Some("vm-001".into()),
            })
            .collect(),
    }))
}

pub(crate) fn put(object: Object) -> Input {
    Input::Delta(Delta::Put { object, notices: vec![] })
}

pub(crate) fn del(object: &Object) -> Input {
    Input::Delta(Delta::Del(object.key()))
}

/// All kinds are listed.
pub(crate) fn listed() -> Vec<Input> {
    Kind::ALL.iter().flat_map(|kind| [Input::Delta(Delta::Relist(*kind)), Input::Delta(Delta::Listed(*kind))]).collect()
}

/// A cluster of two services with two endpoints each.
pub(crate) fn cluster() -> Vec<Object> {
    vec![
        node("vm-001", "192.168.1.1", "11.0.1.0/24"),
        service(1, Scheduler::Rr),
        slice(1, &[1, 2]),
        service(2, Scheduler::Rr),
        slice(2, &[3, 4]),
    ]
}

pub(crate) fn peer(address: &str, asn: u32) -> BgpPeer {
    BgpPeer::new(ip(address), asn)
}

/// A kernel made of tables that refuses what is wrong or needless.
#[derive(Clone, Debug, Default)]
pub(crate) struct Kernel {
    pub(crate) sysctl: Table<Sysctl>,
    pub(crate) link: Table<Link>,
    pub(crate) addr: Table<Addr>,
    pub(crate) filter: Table<Filter>,
    pub(crate) rule: Table<Rule>,
    pub(crate) route: Table<Route>,
    pub(crate) pod: Table<Pod>,
    pub(crate) ipvs: Table<Ipvs>,
    pub(crate) file: Table<File>,
    /// Every op: plane, whether it is a put, the key.
    pub(crate) log: Vec<(PlaneId, bool, String)>,
    /// Virtual servers of this address are refused.
    pub(crate) refuse: Option<IpAddr>,
    /// This address is refused on every interface.
    pub(crate) refuse_addr: Option<IpAddr>,
    /// Links whose name begins so are not supported.
    pub(crate) refuse_link: Option<&'static str>,
    /// Draws faults while there.
    pub(crate) faults: Option<oorandom::Rand32>,
}

pub(crate) trait Has<P: Plane> {
    fn table(&mut self) -> &mut Table<P>;

    /// What this kernel refuses.
    fn refusal(&mut self, _op: &Op<P>) -> Option<Outcome> {
        None
    }
}

macro_rules! has {
    ($($plane:ident $field:ident),*) => { $(impl Has<$plane> for Kernel {
        fn table(&mut self) -> &mut Table<$plane> {
            &mut self.$field
        }
    })* };
}

has!(Sysctl sysctl, Filter filter, Rule rule, Route route, Pod pod, File file);

impl Has<Link> for Kernel {
    fn table(&mut self) -> &mut Table<Link> {
        &mut self.link
    }

    fn refusal(&mut self, op: &Op<Link>) -> Option<Outcome> {
        let refused = self.refuse_link.is_some_and(|beginning| op.key().starts_with(beginning));
        (refused && matches!(op, Op::Put(..))).then_some(Outcome::Refused(95))
    }
}

impl Has<Addr> for Kernel {
    fn table(&mut self) -> &mut Table<Addr> {
        &mut self.addr
    }

    fn refusal(&mut self, op: &Op<Addr>) -> Option<Outcome> {
        if matches!(op, Op::Put(..)) && Some(op.key().address.addr()) == self.refuse_addr {
            return Some(Outcome::Refused(99));
        }
        (matches!(op, Op::Put(..)) && !self.link.contains_key(&op.key().link)).then_some(Outcome::Refused(19))
    }
}

impl Has<Ipvs> for Kernel {
    fn table(&mut self) -> &mut Table<Ipvs> {
        &mut self.ipvs
    }

    fn refusal(&mut self, op: &Op<Ipvs>) -> Option<Outcome> {
        let key = op.key();
        let server = ipvs::Key { server: key.server.clone(), real: None };
        let refused =
            matches!(key.server, ipvs::VirtualServerKey::Address { address, .. } if Some(address) == self.refuse);
        if refused && matches!(op, Op::Put(..)) {
            return Some(Outcome::Refused(22));
        }
        match op {
            Op::Put(..) if key.real.is_some() && !self.ipvs.contains_key(&server) => Some(Outcome::Refused(3)),
            // Real servers go with their virtual server, so one may be gone already.
            Op::Del(_) if key.real.is_some() && !self.ipvs.contains_key(key) => Some(Outcome::Gone),
            Op::Del(_) if key.real.is_none() => {
                self.ipvs.retain(|other, _| other.real.is_none() || other.server != key.server);
                None
            }
            _ => None,
        }
    }
}

impl Kernel {
    fn chance(&mut self, percent: u32) -> bool {
        self.faults.as_mut().is_some_and(|rand| rand.rand_range(0..100) < percent)
    }

    pub(crate) fn tables(&self) -> impl PartialEq + std::fmt::Debug + '_ {
        (&self.sysctl, &self.link, &self.addr, &self.filter, &self.rule, &self.route, &self.pod, &self.ipvs)
    }

    /// Planes of the logged ops, runs of the same kind of op on the same plane taken together.
    pub(crate) fn runs(&self) -> Vec<(PlaneId, bool)> {
        let mut runs: Vec<(PlaneId, bool)> = self.log.iter().map(|(plane, put, _)| (*plane, *put)).collect();
        runs.dedup();
        runs
    }
}

impl<P: Plane> Backend<P> for Kernel
where
    Kernel: Has<P>,
{
    fn observe(&mut self) -> Result<Table<P>, Fault> {
        if self.chance(10) {
            return Err(Fault::Interrupted);
        }
        Ok(Has::<P>::table(self).clone())
    }

    fn apply(&mut self, ops: &[Op<P>]) -> Result<Vec<Outcome>, Fault> {
        let before = Has::<P>::table(self).clone();
        let mut outcomes = vec![];
        for op in ops {
            if self.chance(5) {
                return Err(Fault::Lost);
            }
            let outcome = if self.chance(5) { Some(Outcome::Busy) } else { self.refusal(op) };
            self.log.push((P::ID, matches!(op, Op::Put(..)), format!("{:?}", op.key())));
            outcomes.push(match (outcome, op.clone()) {
                (Some(outcome), _) => outcome,
                (None, Op::Put(key, value)) => {
                    let old = Has::<P>::table(self).insert(key, value.clone());
                    assert_ne!(old, Some(value), "{op:?} of what is right");
                    Outcome::Done
                }
                (None, Op::Del(key)) => {
                    assert!(Has::<P>::table(self).remove(&key).is_some(), "{op:?} of what is not there");
                    Outcome::Done
                }
            });
        }
        let failed = outcomes.iter().find(|o| **o != Outcome::Done).copied();
        if let (PlaneId::Filter, Some(outcome)) = (P::ID, failed) {
            *Has::<P>::table(self) = before;
            return Ok(vec![outcome; ops.len()]);
        }
        Ok(outcomes)
    }
}

/// One node: its agent, its kernel, and what it said.
pub(crate) struct Host {
    pub(crate) agent: Agent,
    pub(crate) kernel: Kernel,
    pub(crate) now: Duration,
    pub(crate) bgp: Vec<bgp::Output>,
    pub(crate) bfd: Vec<bfd::Output>,
    /// Notices as a listener to changes sees them.
    pub(crate) notices: BTreeSet<String>,
    /// Networks announced right before each op on the kernel, with the op's place in the kernel's log.
    pub(crate) announced: Vec<(usize, BTreeSet<String>)>,
    /// How many tables were read.
    pub(crate) observed: usize,
}

impl Host {
    pub(crate) fn new(config: NodeConfig, kernel: Kernel) -> Self {
        Host {
            agent: Agent::new(config, 7),
            kernel,
            now: Duration::ZERO,
            bgp: vec![],
            bfd: vec![],
            notices: BTreeSet::new(),
            announced: vec![],
            observed: 0,
        }
    }

    pub(crate) fn networks(&self) -> BTreeSet<String> {
        let keys = self.agent.speaker().observe().into_keys();
        keys.filter_map(|key| match key {
            fairway_desired::bgp::Key::Network(prefix) => Some(prefix.to_string()),
            _ => None,
        })
        .collect()
    }

    /// Hands in and does at once what is asked.
    pub(crate) fn input(&mut self, inputs: impl IntoIterator<Item = Input>) {
        for input in inputs {
            self.agent.handle(self.now, input);
        }
        self.drain();
    }

    pub(crate) fn drain(&mut self) {
        while let Some(output) = self.agent.poll() {
            match output {
                Output::Bgp(output) => {
                    assert!(!matches!(output, bgp::Output::Learned(_) | bgp::Output::Watch { .. }));
                    self.bgp.push(output);
                }
                Output::Bfd(output) => self.bfd.push(output),
                Output::Notice(fairway_objects::NoticeChange::Raised(notice)) => {
                    assert!(self.notices.insert(notice.to_string()), "{notice} raised twice");
                }
                Output::Notice(fairway_objects::NoticeChange::Cleared(notice)) => {
                    assert!(self.notices.remove(&notice.to_string()), "{notice} was not raised");
                }
                request => {
                    self.observed += usize::from(matches!(request, Output::Observe(_)));
                    self.announced.push((self.kernel.log.len(), self.networks()));
                    let answer = serve(request, &mut self.kernel).expect("a request to the kernel");
                    self.agent.handle(self.now, answer);
                }
            }
        }
        let standing: BTreeSet<String> = self.agent.notices().map(ToString::to_string).collect();
        assert_eq!(standing, self.notices);
    }

    /// Lets time pass, in steps of the agent's own deadlines.
    pub(crate) fn run_until(&mut self, end: Duration) {
        for _ in 0..10_000 {
            self.drain();
            match self.agent.deadline().filter(|at| *at <= end) {
                Some(at) => self.now = self.now.max(at),
                None => {
                    self.now = end;
                    return;
                }
            }
            self.agent.handle(self.now, Input::Tick);
        }
        panic!("deadlines do not move on: {:?} at {:?}", self.agent.deadline(), self.now);
    }
}
